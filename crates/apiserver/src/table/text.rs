//! Texts that several kinds share in their cells.

use jiff::Timestamp;
use serde_json::Value;

use crate::object;

/// The object's name.
pub(super) fn name(object: &Value) -> Value {
    Value::from(object::name(object))
}

/// How long ago, as Kubernetes prints it.
pub(super) fn since(at: Timestamp, now: Timestamp) -> String {
    human(now.as_second().saturating_sub(at.as_second()))
}

/// The age of a time at a pointer; `<unknown>` when there is none.
pub(super) fn age_at(object: &Value, pointer: &str, now: Timestamp) -> String {
    match object::text(object, pointer).parse::<Timestamp>() {
        Ok(at) => since(at, now),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// The object's age.
pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    Value::from(age_at(object, "/metadata/creationTimestamp", now))
}

/// A duration in at most two units, coarser the longer it is. Source: apimachinery's `duration.HumanDuration`.
pub(super) fn human(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        small => format!("{big}{big_unit}{small}{small_unit}"),
    };
    let (minutes, hours, days) = (seconds / MINUTE, seconds / HOUR, seconds / DAY);
    match seconds {
        i64::MIN..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        _ if seconds < 2 * MINUTE => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % MINUTE, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => two(days, "d", hours % 24, "h"),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// The text, or `<none>`.
pub(super) fn or_none(text: &str) -> Value {
    Value::from(if text.is_empty() { "<none>" } else { text })
}

/// A number at a pointer, 0 when absent.
pub(super) fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// A string or number at a pointer as text; `otherwise` when absent.
pub(super) fn shown(object: &Value, pointer: &str, otherwise: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => otherwise.to_owned(),
        Some(other) => other.to_string(),
    }
}

/// `a=1,b=2`, or `<none>`.
pub(super) fn labels(object: &Value, pointer: &str) -> Value {
    let Some(Value::Object(map)) = object.pointer(pointer) else { return Value::from("<none>") };
    let mut parts: Vec<String> =
        map.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    parts.sort();
    or_none(&parts.join(","))
}

/// A label selector, or `<none>`.
pub(super) fn selector(object: &Value, pointer: &str) -> Value {
    let text = object.pointer(pointer).map(crate::schema::selector_text).unwrap_or_default();
    or_none(&text)
}

/// One field of every item of a list, joined by commas.
pub(super) fn joined(object: &Value, pointer: &str, field: &str) -> String {
    object::array(object, pointer).iter().map(|item| object::text(item, field)).collect::<Vec<_>>().join(",")
}

/// The number of entries of a map or list.
pub(super) fn size(object: &Value, pointer: &str) -> i64 {
    let count = match object.pointer(pointer) {
        Some(Value::Object(map)) => map.len(),
        Some(Value::Array(list)) => list.len(),
        _ => 0,
    };
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// At most `max` of the texts; how many more there are.
pub(super) fn some_of(texts: &[String], max: usize) -> String {
    let shown = texts.iter().take(max).cloned().collect::<Vec<_>>().join(",");
    if texts.len() > max { format!("{shown} + {} more...", texts.len() - max) } else { shown }
}

/// Addresses of a load balancer, sorted.
pub(super) fn load_balancer(object: &Value) -> String {
    let mut found: Vec<&str> = object::array(object, "/status/loadBalancer/ingress")
        .iter()
        .map(|ingress| match object::text(ingress, "/ip") {
            "" => object::text(ingress, "/hostname"),
            ip => ip,
        })
        .filter(|text| !text.is_empty())
        .collect();
    found.sort_unstable();
    found.dedup();
    found.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_in_kubernetes() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (600, "10m"),
            (10_740, "179m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (8 * 3600, "8h"),
            (47 * 3600, "47h"),
            (48 * 3600, "2d"),
            (50 * 3600, "2d2h"),
            (9 * 86_400, "9d"),
            (800 * 86_400, "2y70d"),
            (9 * 365 * 86_400, "9y"),
        ] {
            assert_eq!(human(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let texts = ["a", "b", "c", "d"].map(str::to_owned);
        assert_eq!(some_of(&texts, 3), "a,b,c + 1 more...");
        assert_eq!(some_of(&texts[..3], 3), "a,b,c");
    }
}

//! Object metadata, label selectors and times.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// Where `kubectl apply` keeps the whole object as it was last written, a Secret's data too.
pub const LAST_APPLIED_ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The part of `metadata` that Weir reads. `managedFields` in particular is dropped: it is the bulk of most objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    pub name: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    pub uid: String,
    pub resource_version: String,
    pub generation: i64,
    pub creation_timestamp: Option<Timestamp>,
    pub deletion_timestamp: Option<Timestamp>,
    pub labels: BTreeMap<String, String>,
    /// All but [`LAST_APPLIED_ANNOTATION`].
    #[serde(deserialize_with = "read_annotations")]
    pub annotations: BTreeMap<String, String>,
}

fn read_annotations<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let mut annotations = BTreeMap::<String, String>::deserialize(deserializer)?;
    annotations.remove(LAST_APPLIED_ANNOTATION);
    Ok(annotations)
}

/// Seconds since the Unix epoch, read from RFC 3339. Text that is not a time reads as the epoch: an age that cannot be
/// read must not make its object unreadable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// `2006-01-02T15:04:05Z`, with optional fraction (dropped) and offset.
    pub fn parse(text: &str) -> Option<Timestamp> {
        let digits = |from: usize, to: usize| -> Option<i64> {
            let part = text.get(from..to)?;
            part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten()
        };
        let separators = text.as_bytes();
        let at = |index: usize, allowed: &[u8]| separators.get(index).is_some_and(|b| allowed.contains(b));
        if !(at(4, b"-") && at(7, b"-") && at(10, b"Tt ") && at(13, b":") && at(16, b":")) {
            return None;
        }
        let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
        let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let rest = text.get(19..)?;
        let zone = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
        let offset = offset_seconds(zone)?;
        Some(Timestamp(
            days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset,
        ))
    }
}

fn offset_seconds(zone: &str) -> Option<i64> {
    if zone == "Z" || zone == "z" {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let hours: i64 = zone.get(1..3)?.parse().ok()?;
    let minutes: i64 = zone.get(4..6)?.parse().ok()?;
    (zone.len() == 6 && zone.get(3..4) == Some(":")).then_some(sign * (hours * 3_600 + minutes * 60))
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar, counted in years that begin in March so that the leap day
/// comes last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Timestamp::parse(&text).unwrap_or_default())
    }
}

/// A label selector. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    pub match_labels: BTreeMap<String, String>,
    pub match_expressions: Vec<LabelRequirement>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelRequirement {
    pub key: String,
    pub operator: String,
    pub values: Vec<String>,
}

impl LabelSelector {
    /// Whether `labels` satisfy every term. `Err` names an operator that Kubernetes does not have.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> Result<bool, String> {
        let mut all = self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        for term in &self.match_expressions {
            let value = labels.get(&term.key);
            all &= match term.operator.as_str() {
                "In" => value.is_some_and(|v| term.values.contains(v)),
                "NotIn" => value.is_none_or(|v| !term.values.contains(v)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                other => return Err(other.to_owned()),
            };
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_seconds_since_the_epoch() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2024-03-01T00:00:00Z", 1_709_251_200),
            ("2024-03-01T00:00:00.123456Z", 1_709_251_200),
            ("2024-03-01T02:00:00+02:00", 1_709_251_200),
            ("2024-02-29T19:00:00-05:00", 1_709_251_200),
        ] {
            assert_eq!(Timestamp::parse(text), Some(Timestamp(seconds)), "{text}");
        }
        for text in ["", "yesterday", "2024-13-01T00:00:00Z", "2024-03-01T00:00:00", "2024-03-01T00:00:00+2"]
        {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn selectors_combine_labels_and_expressions() {
        let labels =
            BTreeMap::from([("team".to_owned(), "a".to_owned()), ("env".to_owned(), "prod".to_owned())]);
        let selector = |json: serde_json::Value| serde_json::from_value::<LabelSelector>(json).unwrap();
        let requirement = |operator: &str, values: &[&str]| {
            selector(
                serde_json::json!({"matchExpressions": [{"key": "team", "operator": operator, "values": values}]}),
            )
        };
        assert_eq!(LabelSelector::default().matches(&labels), Ok(true));
        assert_eq!(selector(serde_json::json!({"matchLabels": {"team": "a"}})).matches(&labels), Ok(true));
        assert_eq!(selector(serde_json::json!({"matchLabels": {"team": "b"}})).matches(&labels), Ok(false));
        assert_eq!(requirement("In", &["a", "b"]).matches(&labels), Ok(true));
        assert_eq!(requirement("NotIn", &["a"]).matches(&labels), Ok(false));
        assert_eq!(requirement("Exists", &[]).matches(&labels), Ok(true));
        assert_eq!(requirement("DoesNotExist", &[]).matches(&labels), Ok(false));
        assert_eq!(requirement("Near", &[]).matches(&labels), Err("Near".to_owned()));
    }
}

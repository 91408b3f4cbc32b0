//! What a schema says about a value, in words: bounds, patterns, defaults, how a list is merged.

use serde_json::Value;

/// The constraints of a field, in one line; empty where there are none.
pub(super) fn of(schema: &Value) -> String {
    let mut facts = own(schema);
    let nested = schema.get("items").or_else(|| schema.get("additionalProperties"));
    if let Some(items) = nested.filter(|items| items["type"] != "object") {
        let each = own(items);
        if !each.is_empty() {
            facts.push(format!("each: {}", each.join(", ")));
        }
    }
    facts.join("; ")
}

fn own(schema: &Value) -> Vec<String> {
    let mut facts = Vec::new();
    let number = |key: &str| schema[key].as_i64();
    if let Some(default) = schema.get("default") {
        facts.push(format!("default `{default}`"));
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values.iter().map(|value| format!("`{}`", plain(value))).collect();
        facts.push(format!("one of {}", values.join(", ")));
    }
    facts.extend(range(number("minLength"), number("maxLength"), "character"));
    facts.extend(range(number("minItems"), number("maxItems"), "item"));
    facts.extend(range(number("minProperties"), number("maxProperties"), "entry"));
    match (number("minimum"), number("maximum")) {
        (Some(least), Some(most)) => facts.push(format!("{least} to {most}")),
        (Some(least), None) => facts.push(format!("at least {least}")),
        (None, Some(most)) => facts.push(format!("at most {most}")),
        (None, None) => {}
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        facts.push(format!("matches `{}`", pattern.replace('`', "\\x60")));
    }
    match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => facts.push("no two equal".to_owned()),
        Some("map") => {
            let keys: Vec<String> = schema["x-kubernetes-list-map-keys"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|key| format!("`{}`", plain(key)))
                .collect();
            facts.push(format!("one for each {}", keys.join(", ")));
        }
        _ => {}
    }
    facts
}

fn range(least: Option<i64>, most: Option<i64>, what: &str) -> Option<String> {
    let many = |count: i64| match what {
        _ if count == 1 => what.to_owned(),
        "entry" => "entries".to_owned(),
        _ => format!("{what}s"),
    };
    match (least.filter(|least| *least > 0), most) {
        (Some(least), Some(most)) if least == most => Some(format!("{least} {}", many(least))),
        (Some(least), Some(most)) => Some(format!("{least} to {most} {}", many(most))),
        (Some(least), None) => Some(format!("at least {least} {}", many(least))),
        (None, Some(most)) => Some(format!("at most {most} {}", many(most))),
        (None, None) => None,
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn constraints_are_told_in_a_line() {
        let schema = json!({"type": "integer", "default": 1, "minimum": 0, "maximum": 5});
        assert_eq!(of(&schema), "default `1`; 0 to 5");
        let schema = json!({"type": "array", "maxItems": 16, "x-kubernetes-list-type": "set",
            "items": {"type": "string", "minLength": 1, "pattern": "^a$"}});
        assert_eq!(of(&schema), "at most 16 items; no two equal; each: at least 1 character, matches `^a$`");
        assert_eq!(of(&json!({"type": "string", "enum": ["A", "B"]})), "one of `A`, `B`");
        assert_eq!(of(&json!({"type": "object"})), "");
    }
}

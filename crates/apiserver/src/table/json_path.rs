//! The part of JSONPath that definitions may use for columns: fields, indexes, and filters by one comparison.

use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Every,
    /// `[?(@.path == value)]`
    Filter {
        path: Vec<String>,
        operator: Operator,
        value: Value,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
}

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JsonPath {
    steps: Vec<Step>,
}

impl JsonPath {
    /// `None` when the text is no path of this form.
    pub(crate) fn parse(text: &str) -> Option<JsonPath> {
        let text = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            rest = match first {
                '.' => parse_field(&rest[1..], &mut steps)?,
                '[' => parse_bracket(&rest[1..], &mut steps)?,
                _ if steps.is_empty() => parse_field(rest, &mut steps)?,
                _ => return None,
            };
        }
        Some(JsonPath { steps })
    }

    /// The first value that the path finds.
    pub(crate) fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.all(value).into_iter().next()
    }

    fn all<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.steps {
            found = found.into_iter().flat_map(|value| step.of(value)).collect();
        }
        found
    }
}

/// A field name up to the next `.` or `[`, with `\.` for a dot of its own.
fn parse_field<'a>(text: &'a str, steps: &mut Vec<Step>) -> Option<&'a str> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.push(chars.next()?.1),
            '.' | '[' => {
                end = at;
                break;
            }
            c => name.push(c),
        }
    }
    match name.as_str() {
        "" if end < text.len() && text[end..].starts_with('[') => {}
        "" => return None,
        "*" => steps.push(Step::Every),
        _ => steps.push(Step::Field(name)),
    }
    Some(&text[end..])
}

fn parse_bracket<'a>(text: &'a str, steps: &mut Vec<Step>) -> Option<&'a str> {
    if let Some(filter) = text.strip_prefix("?(") {
        let end = filter.find(")]")?;
        steps.push(parse_filter(&filter[..end])?);
        return Some(&filter[end + 2..]);
    }
    let end = text.find(']')?;
    let inner = text[..end].trim();
    let step = if inner == "*" {
        Step::Every
    } else if let Some(name) = unquoted(inner) {
        Step::Field(name)
    } else {
        Step::Index(inner.parse().ok()?)
    };
    steps.push(step);
    Some(&text[end + 1..])
}

fn unquoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| *c == '\'' || *c == '"')?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(inner.replace("\\", ""))
}

fn parse_filter(text: &str) -> Option<Step> {
    let (operator, sign) =
        if text.contains("!=") { (Operator::NotEqual, "!=") } else { (Operator::Equal, "==") };
    let (left, right) = text.split_once(sign)?;
    let path = left.trim().strip_prefix("@.")?.split('.').map(str::to_owned).collect();
    let right = right.trim();
    let value = match unquoted(right) {
        Some(text) => Value::from(text),
        None => serde_json::from_str(right).ok()?,
    };
    Some(Step::Filter { path, operator, value })
}

impl Step {
    fn of<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match (self, value) {
            (Step::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
            (Step::Index(index), Value::Array(list)) => {
                let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
                let at = if *index < 0 { length + index } else { *index };
                usize::try_from(at).ok().and_then(|at| list.get(at)).into_iter().collect()
            }
            (Step::Every, Value::Array(list)) => list.iter().collect(),
            (Step::Every, Value::Object(map)) => map.values().collect(),
            (Step::Filter { path, operator, value: wanted }, Value::Array(list)) => list
                .iter()
                .filter(|item| {
                    let found = path.iter().try_fold(*item, |value, name| value.get(name));
                    found.is_some_and(|found| (found == wanted) == (*operator == Operator::Equal))
                })
                .collect(),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_paths_of_the_upstream_definitions_find_their_values() {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "x"}},
            "spec": {"hostnames": ["h"], "n": {"a.b": 1}},
            "status": {"addresses": [{"value": "127.0.0.1"}, {"value": "2"}], "conditions": [{"type": "A", "status": "False"}, {"type": "Programmed", "status": "True"}]},
        });
        let find = |path: &str| JsonPath::parse(path).expect("a path").first(&object).cloned();
        assert_eq!(find(".spec.hostnames"), Some(json!(["h"])));
        assert_eq!(find(".status.addresses[*].value"), Some(json!("127.0.0.1")));
        assert_eq!(find(".status.addresses[-1].value"), Some(json!("2")));
        assert_eq!(find(".status.conditions[?(@.type==\"Programmed\")].status"), Some(json!("True")));
        assert_eq!(find(".status.conditions[?(@.type == 'None')].status"), None);
        assert_eq!(find(".metadata.annotations.a\\.b/c"), Some(json!("x")));
        assert_eq!(find(".spec.n['a.b']"), Some(json!(1)));
        assert_eq!(find(".nothing.here"), None);
        assert_eq!(JsonPath::parse(".a[?(@.b"), None);
        assert_eq!(JsonPath::parse(".a..b"), None);
    }
}

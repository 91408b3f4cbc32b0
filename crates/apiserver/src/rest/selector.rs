//! Label and field selectors.
//!
//! Owns: their grammar (as in `k8s.io/apimachinery`) and which fields of which kind can be selected by.

use std::fmt;

use serde_json::Value;

use crate::error::{ApiError, ApiResult};
use crate::object;
use crate::registry::{Resource, Version};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Exists,
    Missing,
    In(Vec<String>),
    NotIn(Vec<String>),
    Greater(i64),
    Less(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        match (&self.test, value) {
            (Test::Exists, found) => found.is_some(),
            (Test::Missing, found) => found.is_none(),
            (Test::In(wanted), found) => found.is_some_and(|found| wanted.iter().any(|one| one == found)),
            (Test::NotIn(wanted), found) => found.is_none_or(|found| wanted.iter().all(|one| one != found)),
            (Test::Greater(bound), found) => {
                found.and_then(|text| text.parse().ok()).is_some_and(|n: i64| n > *bound)
            }
            (Test::Less(bound), found) => {
                found.and_then(|text| text.parse().ok()).is_some_and(|n: i64| n < *bound)
            }
        }
    }
}

/// What a list or watch is restricted to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(String, String, bool)>,
}

impl Selector {
    pub(crate) fn parse(
        labels: &str,
        fields: &str,
        resource: &Resource,
        version: &Version,
    ) -> ApiResult<Selector> {
        let labels = parse_labels(labels)?;
        let fields = parse_fields(fields)?;
        for (field, _, _) in &fields {
            if !is_selectable(resource, version, field) {
                return Err(ApiError::bad_request(format!(
                    "Unable to find {:?} that match label selector \"\", field selector {:?}: field label not supported: {field}",
                    api_name(resource, version),
                    show_fields(&fields),
                )));
            }
        }
        Ok(Selector { labels, fields })
    }

    /// Only objects of this name.
    pub(crate) fn and_name(mut self, name: &str) -> Selector {
        self.fields.push(("metadata.name".to_owned(), name.to_owned(), true));
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.labels.iter().all(|want| want.matches(object::label(object, "labels", &want.key)))
            && self.fields.iter().all(|(field, value, equal)| (field_text(object, field) == *value) == *equal)
    }
}

fn api_name(resource: &Resource, version: &Version) -> String {
    format!("{}, Kind={}", resource.api_version(&version.name), resource.kind)
}

fn show_fields(fields: &[(String, String, bool)]) -> String {
    let one = |(field, value, equal): &(String, String, bool)| {
        format!("{field}{}{value}", if *equal { "=" } else { "!=" })
    };
    fields.iter().map(one).collect::<Vec<_>>().join(",")
}

fn is_selectable(resource: &Resource, version: &Version, field: &str) -> bool {
    if field == "metadata.name" || (field == "metadata.namespace" && resource.namespaced) {
        return true;
    }
    if resource.custom {
        return version.selectable_fields.iter().any(|known| known.trim_start_matches('.') == field);
    }
    let known: &[&str] = match (resource.id.group.as_ref(), resource.plural.as_str()) {
        ("", "pods") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        ("", "events") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingComponent",
            "reportingController",
            "source",
            "type",
        ],
        ("", "secrets") => &["type"],
        ("", "namespaces") => &["status.phase"],
        ("", "nodes") => &["spec.unschedulable"],
        ("", "services") => &["spec.clusterIP", "spec.type"],
        ("apps", "replicasets") => &["status.replicas"],
        ("batch", "jobs") => &["status.successful"],
        _ => &[],
    };
    known.contains(&field)
}

/// The text of a field as selectors compare it: absent is empty, booleans `true` and `false`.
fn field_text(object: &Value, field: &str) -> String {
    let stored = match field.strip_prefix("regarding.") {
        Some(rest) => format!("involvedObject.{rest}"),
        None if field == "reportingController" => "reportingComponent".to_owned(),
        None => field.to_owned(),
    };
    match stored.as_str() {
        "source" => {
            let component = object::text(object, "/source/component");
            let reporter = object::text(object, "/reportingComponent");
            return if component.is_empty() { reporter } else { component }.to_owned();
        }
        "status.podIPs" => return object::text(object, "/status/podIP").to_owned(),
        _ => {}
    }
    match object.pointer(&format!("/{}", stored.replace('.', "/"))) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => flag.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        None if matches!(field, "spec.unschedulable" | "spec.hostNetwork") => "false".to_owned(),
        None if matches!(field, "status.replicas" | "status.successful") => "0".to_owned(),
        _ => String::new(),
    }
}

fn parse_fields(text: &str) -> ApiResult<Vec<(String, String, bool)>> {
    let mut out = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (field, value, equal) = if let Some((field, value)) = part.split_once("!=") {
            (field, value, false)
        } else if let Some((field, value)) = part.split_once("==") {
            (field, value, true)
        } else if let Some((field, value)) = part.split_once('=') {
            (field, value, true)
        } else {
            return Err(ApiError::bad_request(format!(
                "invalid selector: '{part}'; can't understand '{part}'"
            )));
        };
        let value = value.replace("\\,", ",").replace("\\=", "=").replace("\\\\", "\\");
        out.push((field.to_owned(), value, equal));
    }
    Ok(out)
}

struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unable to parse requirement: {}", self.0)
    }
}

fn parse_labels(text: &str) -> ApiResult<Vec<Requirement>> {
    let mut reader = Reader { tokens: tokens(text), next: 0 };
    let mut out = Vec::new();
    if reader.tokens.is_empty() {
        return Ok(out);
    }
    loop {
        let requirement =
            reader.requirement().map_err(|refused| ApiError::bad_request(refused.to_string()))?;
        out.push(requirement);
        match reader.take() {
            None => return Ok(out),
            Some(token) if token == "," => {}
            Some(token) => {
                return Err(ApiError::bad_request(format!(
                    "found '{token}', expected: ',' or 'end of string'"
                )));
            }
        }
    }
}

/// Splits at Kubernetes' separators: `= == != ! < > ( ) ,` and blanks.
fn tokens(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if first.is_whitespace() {
            rest = &rest[first.len_utf8()..];
            continue;
        } else if rest.starts_with("==") || rest.starts_with("!=") {
            2
        } else if "=!<>(),".contains(first) {
            1
        } else {
            rest.find(|c: char| c.is_whitespace() || "=!<>(),".contains(c)).unwrap_or(rest.len())
        };
        out.push(rest[..length].to_owned());
        rest = &rest[length..];
    }
    out
}

struct Reader {
    tokens: Vec<String>,
    next: usize,
}

impl Reader {
    fn peek(&self) -> Option<&str> {
        self.tokens.get(self.next).map(String::as_str)
    }

    fn take(&mut self) -> Option<String> {
        let token = self.tokens.get(self.next).cloned();
        self.next += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, Refused> {
        if self.peek() == Some("!") {
            self.take();
            return Ok(Requirement { key: self.word("identifier")?, test: Test::Missing });
        }
        let key = self.word("'!', identifier")?;
        let test = match self.peek() {
            None | Some(",") => Test::Exists,
            Some(operator) => {
                let operator = operator.to_owned();
                self.take();
                self.operand(&operator)?
            }
        };
        Ok(Requirement { key, test })
    }

    fn operand(&mut self, operator: &str) -> Result<Test, Refused> {
        match operator {
            "=" | "==" => Ok(Test::In(vec![self.value()])),
            "!=" => Ok(Test::NotIn(vec![self.value()])),
            "in" => Ok(Test::In(self.set()?)),
            "notin" => Ok(Test::NotIn(self.set()?)),
            ">" | "<" => {
                let text = self.word("identifier")?;
                let bound = text.parse().map_err(|_| {
                    Refused("for 'Gt', 'Lt' operators, the value must be an integer".to_owned())
                })?;
                Ok(if operator == ">" { Test::Greater(bound) } else { Test::Less(bound) })
            }
            other => Err(Refused(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt"))),
        }
    }

    fn word(&mut self, expected: &str) -> Result<String, Refused> {
        match self.take() {
            Some(token) if !is_separator(&token) => Ok(token),
            Some(token) => Err(Refused(format!("found '{token}', expected: {expected}"))),
            None => Err(Refused(format!("found '', expected: {expected}"))),
        }
    }

    /// The value after `=`; nothing stands for the empty value.
    fn value(&mut self) -> String {
        match self.peek() {
            None | Some(",") => String::new(),
            Some(_) => self.take().unwrap_or_default(),
        }
    }

    fn set(&mut self) -> Result<Vec<String>, Refused> {
        let expected_open = "found '{}' expected: '('";
        match self.take() {
            Some(token) if token == "(" => {}
            other => return Err(Refused(expected_open.replace("{}", &other.unwrap_or_default()))),
        }
        let mut values = Vec::new();
        loop {
            match self.take().as_deref() {
                Some(")") => return Ok(values),
                Some(",") => {}
                Some(token) if !is_separator(token) => values.push(token.to_owned()),
                other => {
                    return Err(Refused(format!(
                        "found '{}', expected: ',', ')' or identifier",
                        other.unwrap_or("")
                    )));
                }
            }
        }
    }
}

fn is_separator(token: &str) -> bool {
    matches!(token, "=" | "==" | "!=" | "!" | "<" | ">" | "(" | ")" | ",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(selector: &str, labels: &Value) -> bool {
        let selector = Selector { labels: parse_labels(selector).expect("well formed"), fields: Vec::new() };
        selector.matches(&json!({"metadata": {"labels": labels}}))
    }

    #[test]
    fn label_selectors_follow_the_apimachinery_grammar() {
        let labels = json!({"app": "echo", "n": "3", "empty": ""});
        for yes in [
            "app=echo",
            "app==echo",
            "app in (a, echo)",
            "app,!none",
            "none!=x",
            "app notin (x)",
            "n>2,n<4",
            "empty=",
        ] {
            assert!(matches(yes, &labels), "{yes}");
        }
        for no in ["app=other", "app!=echo", "none", "!app", "app notin (echo)", "n>3", "none=", "app in ()"]
        {
            assert!(!matches(no, &labels), "{no}");
        }
        for bad in ["=x", "app in x", "app in (x", "a b", "n>x"] {
            assert!(parse_labels(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn field_selectors_compare_text() {
        let pod =
            json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}, "involvedObject": {"kind": "Pod"}});
        assert_eq!(field_text(&pod, "spec.nodeName"), "n1");
        assert_eq!(field_text(&pod, "regarding.kind"), "Pod");
        assert_eq!(field_text(&pod, "status.phase"), "");
        assert_eq!(parse_fields("a=b,c!=d").expect("well formed").len(), 2);
        assert!(parse_fields("nonsense").is_err());
    }
}

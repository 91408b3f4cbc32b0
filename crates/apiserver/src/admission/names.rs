//! What may be a name.
//!
//! Owns: the forms of names (RFC 1035 and 1123 labels, subdomains, path segments), which kind wants which, and
//! labels, annotations, finalizers and owners of every object.

use serde_json::{Map, Value};

use crate::error::Cause;
use crate::object;
use crate::registry::Resource;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
                         start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
                     with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
                          character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
                          validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                         alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                         '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
                           start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used \
                           for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// Bytes of a label. Source: RFC 1123 section 2.1.
const LABEL_BYTES: usize = 63;
/// Bytes of a subdomain. Source: RFC 1123 section 2.1.
const SUBDOMAIN_BYTES: usize = 253;
/// Bytes of all annotations. Source: apimachinery's `TotalAnnotationSizeLimitB`, 256 KiB.
const ANNOTATIONS_BYTES: usize = 256 * 1024;

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(is_alphanumeric)
        && bytes.last().copied().is_some_and(is_alphanumeric)
        && bytes.iter().all(|byte| is_alphanumeric(*byte) || *byte == b'-')
}

/// Why a text is no RFC 1123 subdomain.
pub(crate) fn not_a_subdomain(text: &str) -> Option<String> {
    if text.len() > SUBDOMAIN_BYTES {
        return Some(too_long(SUBDOMAIN_BYTES));
    }
    (!text.split('.').all(is_label)).then(|| SUBDOMAIN.to_owned())
}

/// Why a text is no RFC 1123 label.
pub(crate) fn not_a_label(text: &str) -> Option<String> {
    if text.len() > LABEL_BYTES {
        return Some(too_long(LABEL_BYTES));
    }
    if is_label(text) {
        return None;
    }
    // A name of several labels is told what to leave out.
    Some(if text.split('.').all(is_label) { "must not contain dots".to_owned() } else { LABEL.to_owned() })
}

/// Why a text is no RFC 1035 label.
pub(crate) fn not_a_label_1035(text: &str) -> Option<String> {
    if text.len() > LABEL_BYTES {
        return Some(too_long(LABEL_BYTES));
    }
    let starts = text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    (!(starts && is_label(text))).then(|| LABEL_1035.to_owned())
}

/// Why a text cannot be a part of a path.
fn not_a_path_segment(text: &str) -> Option<String> {
    if text == "." || text == ".." {
        return Some(format!("may not be '{text}'"));
    }
    ['/', '%'].iter().find(|c| text.contains(**c)).map(|c| format!("may not contain '{c}'"))
}

fn is_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// Why a text is no qualified name (`[prefix/]name`), as keys of labels and annotations are.
fn not_a_qualified_name(text: &str) -> Option<String> {
    let (prefix, name) = match text.split_once('/') {
        None => (None, text),
        Some((prefix, name)) => (Some(prefix), name),
    };
    if name.contains('/') {
        return Some("a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
             character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
             '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')".to_owned());
    }
    match prefix {
        Some("") => return Some("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            if let Some(detail) = not_a_subdomain(prefix) {
                return Some(format!("prefix part {detail}"));
            }
        }
        None => {}
    }
    if name.is_empty() {
        return Some("name part must be non-empty".to_owned());
    }
    if name.len() > LABEL_BYTES {
        return Some(format!("name part {}", too_long(LABEL_BYTES)));
    }
    (!is_qualified_part(name)).then(|| QUALIFIED.to_owned())
}

fn not_a_label_value(text: &str) -> Option<String> {
    if text.len() > LABEL_BYTES {
        return Some(too_long(LABEL_BYTES));
    }
    (!text.is_empty() && !is_qualified_part(text)).then(|| LABEL_VALUE.to_owned())
}

/// What the name of an object of this kind must be.
fn name_rule(resource: &Resource) -> fn(&str) -> Option<String> {
    match (resource.group.as_str(), resource.plural.as_str()) {
        _ if resource.custom => not_a_subdomain,
        ("", "namespaces" | "services") => not_a_label,
        ("rbac.authorization.k8s.io", _) => not_a_path_segment,
        _ => not_a_subdomain,
    }
}

/// What is wrong with the metadata of an object.
pub(crate) fn validate(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let rule = name_rule(resource);
    let name = object::name(object);
    if let Some(detail) = rule(name) {
        causes.push(Cause::invalid("metadata.name", &Value::from(name), &detail));
    }
    causes.extend(validate_common(object));
    causes
}

/// What may be wrong after an update too: labels, annotations, finalizers, owners.
pub(crate) fn validate_common(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let map = |key: &str| object.get("metadata").and_then(|meta| meta.get(key)).and_then(Value::as_object);
    let nothing = Map::new();
    for (key, value) in map("labels").unwrap_or(&nothing) {
        if let Some(detail) = not_a_qualified_name(key) {
            causes.push(Cause::invalid("metadata.labels", &Value::from(key.as_str()), &detail));
        }
        let text = value.as_str().unwrap_or_default();
        if let Some(detail) = not_a_label_value(text) {
            causes.push(Cause::invalid("metadata.labels", &Value::from(text), &detail));
        }
    }
    let mut bytes = 0;
    for (key, value) in map("annotations").unwrap_or(&nothing) {
        if let Some(detail) = not_a_qualified_name(&key.to_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", &Value::from(key.as_str()), &detail));
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATIONS_BYTES {
        causes.push(Cause::too_long("metadata.annotations", ANNOTATIONS_BYTES));
    }
    for finalizer in object::finalizers(object) {
        if let Some(detail) = not_a_qualified_name(finalizer) {
            causes.push(Cause::invalid("metadata.finalizers", &Value::from(finalizer), &detail));
        } else if !finalizer.contains('/') && !is_standard_finalizer(finalizer) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(Cause::invalid("metadata.finalizers", &Value::from(finalizer), detail));
        }
    }
    validate_owners(object, &mut causes);
    causes
}

fn is_standard_finalizer(name: &str) -> bool {
    // Fully qualified names without a slash are accepted, because definitions used them first.
    matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") || name.contains('.')
}

fn validate_owners(object: &Value, causes: &mut Vec<Cause>) {
    let owners = object::array(object, "/metadata/ownerReferences");
    let mut controllers = Vec::new();
    for (index, owner) in owners.iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if object::text(owner, &format!("/{field}")).is_empty() {
                let at = format!("metadata.ownerReferences[{index}].{field}");
                causes.push(Cause::invalid(at, &Value::from(""), &format!("{field} must not be empty")));
            }
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            controllers.push(object::text(owner, "/name"));
        }
    }
    if let [first, second, ..] = controllers.as_slice() {
        let detail = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {second}"
        );
        let value = Value::from(owners);
        causes.push(Cause::invalid("metadata.ownerReferences", &value, &detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_held_to_the_rfcs() {
        for good in ["a", "a-b", "0", "a.b-c.d1"] {
            assert_eq!(not_a_subdomain(good), None, "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a..b", "a_b", ".a", &"a".repeat(254)] {
            assert!(not_a_subdomain(bad).is_some(), "{bad}");
        }
        assert!(not_a_label("a.b").is_some());
        assert!(not_a_label_1035("1a").is_some() && not_a_label("1a").is_none());
        assert!(not_a_path_segment("a/b").is_some() && not_a_path_segment("system:admin").is_none());
    }

    #[test]
    fn labels_and_owners_are_checked() {
        let object = json!({"metadata": {"labels": {"a/b/c": "x", "ok": "not ok"}, "finalizers": ["short"], "ownerReferences": [{"kind": "A"}]}});
        let fields: Vec<String> = validate_common(&object).into_iter().map(|cause| cause.field).collect();
        assert_eq!(fields.len(), 6, "{fields:?}");
        let fine = json!({"metadata": {"labels": {"app.kubernetes.io/name": "x", "e": ""}, "finalizers": ["a.b/c", "orphan"]}});
        assert_eq!(validate_common(&fine), []);
    }
}

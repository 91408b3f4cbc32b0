//! JSON patch (RFC 6902) with the error texts of an API server.

use serde_json::Value;

use super::PatchError;
use crate::structural::node::type_name;

/// Operations in one patch. The same bound as an API server's.
pub const MAX_OPERATIONS: usize = 10_000;

/// Bytes that the `copy` operations of one patch may add, roughly counted; ten times the largest request body.
const MAX_COPIED_BYTES: usize = 30 << 20;

/// The target after all operations, in order; the first that fails fails the patch.
///
/// Where an API server is milder than the RFC this is too: `replace` of a field that is not there adds it, and a value
/// that is left out is null.
pub fn apply(target: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Some(operations) = patch.as_array() else {
        return Err(PatchError::Malformed(format!(
            "error decoding patch: json: cannot unmarshal {} into a list of JSON patch operations",
            type_name(patch)
        )));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::Malformed(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut document = target.clone();
    let mut copied = 0;
    for operation in operations {
        step(&mut document, operation, &mut copied)?;
    }
    Ok(document)
}

fn step(document: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), PatchError> {
    let text = |key: &str| operation.get(key).and_then(Value::as_str);
    let op = text("op").unwrap_or_default();
    let incomplete =
        |what: &str| PatchError::DoesNotFit(format!("{op} operation does not apply: missing {what}"));
    let path = text("path").ok_or_else(|| incomplete("path"))?;
    let value = operation.get("value").cloned().unwrap_or(Value::Null);
    let from = || text("from").ok_or_else(|| incomplete("from"));
    match op {
        "add" => add(document, op, path, value),
        "replace" => match find(document, path) {
            Some(place) => {
                *place = value;
                Ok(())
            }
            None => match split(path).and_then(|(parent, last)| Some((find(document, parent)?, last))) {
                Some((Value::Object(fields), last)) => {
                    fields.insert(last, value);
                    Ok(())
                }
                _ => Err(missing(op, path)),
            },
        },
        "remove" => remove(document, op, path).map(drop),
        "move" => {
            let from = from()?;
            if path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
                return Err(PatchError::DoesNotFit(format!(
                    "{op} operation does not apply: cannot move {from:?} into itself"
                )));
            }
            let value = remove(document, op, from)?;
            add(document, op, path, value)
        }
        "copy" => {
            let value = find(document, from()?);
            *copied += value.as_deref().map_or(0, weight);
            if *copied > MAX_COPIED_BYTES {
                return Err(PatchError::DoesNotFit(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the \
                     limit {MAX_COPIED_BYTES}"
                )));
            }
            let value = value.cloned().unwrap_or(Value::Null);
            add(document, op, path, value)
        }
        "test" => {
            let found = find(document, path);
            if found.as_deref().unwrap_or(&Value::Null) == &value {
                Ok(())
            } else {
                Err(PatchError::DoesNotFit(format!("testing value {path} failed")))
            }
        }
        other => Err(PatchError::DoesNotFit(format!("Unexpected kind: {other}"))),
    }
}

/// About the bytes of a value as JSON.
fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 8,
        Value::Array(items) => 8 + items.iter().map(weight).sum::<usize>(),
        Value::Object(fields) => {
            8 + fields.iter().map(|(name, field)| name.len() + weight(field)).sum::<usize>()
        }
    }
}

fn missing(op: &str, path: &str) -> PatchError {
    PatchError::DoesNotFit(format!(
        "{op} operation does not apply: doc is missing path: {path:?}: missing value"
    ))
}

fn unescaped(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// The parent's pointer and the last token.
fn split(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, unescaped(last)))
}

fn find<'d>(document: &'d mut Value, path: &str) -> Option<&'d mut Value> {
    if path.is_empty() {
        return Some(document);
    }
    let mut place = document;
    for token in path.strip_prefix('/')?.split('/') {
        let token = unescaped(token);
        place = match place {
            Value::Object(fields) => fields.get_mut(&token)?,
            Value::Array(items) => {
                let index = index(&token, items.len())?;
                items.get_mut(index)?
            }
            _ => return None,
        };
    }
    Some(place)
}

/// An array index; a negative one counts from the end.
fn index(token: &str, length: usize) -> Option<usize> {
    match token.strip_prefix('-') {
        Some(back) => length.checked_sub(digits(back).filter(|back| *back > 0)?),
        None => digits(token),
    }
}

fn digits(text: &str) -> Option<usize> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn add(document: &mut Value, op: &str, path: &str, value: Value) -> Result<(), PatchError> {
    if path.is_empty() {
        *document = value;
        return Ok(());
    }
    let (parent, last) = split(path).ok_or_else(|| missing(op, path))?;
    match find(document, parent) {
        Some(Value::Object(fields)) => {
            fields.insert(last, value);
            Ok(())
        }
        Some(Value::Array(items)) => {
            let length = items.len();
            let at = if last == "-" { Some(length) } else { index(&last, length + 1) };
            match at.filter(|at| *at <= length) {
                Some(at) => {
                    items.insert(at, value);
                    Ok(())
                }
                None => Err(PatchError::DoesNotFit(format!(
                    "{op} operation does not apply: doc is missing path: {path:?}: Unable to access invalid index: {last}: invalid index referenced"
                ))),
            }
        }
        _ => Err(missing(op, path)),
    }
}

fn remove(document: &mut Value, op: &str, path: &str) -> Result<Value, PatchError> {
    let (parent, last) = split(path).ok_or_else(|| missing(op, path))?;
    let removed = match find(document, parent) {
        Some(Value::Object(fields)) => fields.shift_remove(&last),
        Some(Value::Array(items)) => match index(&last, items.len()).filter(|at| *at < items.len()) {
            Some(at) => Some(items.remove(at)),
            None => {
                return Err(PatchError::DoesNotFit(format!(
                    "{op} operation does not apply: doc is missing path: {path:?}: Unable to access invalid index: {last}: invalid index referenced"
                )));
            }
        },
        _ => None,
    };
    removed.ok_or_else(|| missing(op, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(target: Value, patch: Value) -> Result<Value, String> {
        apply(&target, &patch).map_err(|error| error.to_string())
    }

    #[test]
    fn every_operation_does_what_rfc_6902_says() {
        let list = json!({"a": [1, 2, 3], "b": {"c/d": 1, "e~f": 2}});
        for (patch, wanted) in [
            (json!([{"op": "add", "path": "/a/1", "value": 9}]), json!([1, 9, 2, 3])),
            (json!([{"op": "add", "path": "/a/-", "value": 9}]), json!([1, 2, 3, 9])),
            (json!([{"op": "add", "path": "/a/3", "value": 9}]), json!([1, 2, 3, 9])),
            (json!([{"op": "remove", "path": "/a/0"}]), json!([2, 3])),
            (json!([{"op": "remove", "path": "/a/-1"}]), json!([1, 2])),
            (json!([{"op": "replace", "path": "/a/2", "value": 0}]), json!([1, 2, 0])),
            (json!([{"op": "move", "from": "/a/0", "path": "/a/2"}]), json!([2, 3, 1])),
            (json!([{"op": "copy", "from": "/b/c~1d", "path": "/a/0"}]), json!([1, 1, 2, 3])),
            (
                json!([{"op": "test", "path": "/b/e~0f", "value": 2}, {"op": "replace", "path": "/a", "value": 1}]),
                json!(1),
            ),
            (json!([{"op": "add", "path": "/a", "value": "x"}]), json!("x")),
        ] {
            assert_eq!(patched(list.clone(), patch.clone()).unwrap()["a"], wanted, "{patch}");
        }
        assert_eq!(patched(list.clone(), json!([{"op": "test", "path": "/none", "value": null}])), Ok(list));
    }

    #[test]
    fn an_operation_that_does_not_apply_names_itself_and_its_path() {
        let target = json!({"spec": {"rules": [{}]}});
        for (patch, wanted) in [
            (
                json!([{"op": "replace", "path": "/spec/rules/3", "value": 1}]),
                r#"replace operation does not apply: doc is missing path: "/spec/rules/3": missing value"#,
            ),
            (json!([{"op": "add"}]), "add operation does not apply: missing path"),
            (json!([{"op": "move", "path": "/spec/x"}]), "move operation does not apply: missing from"),
            (
                json!([{"op": "remove", "path": "/spec/rules/3"}]),
                r#"remove operation does not apply: doc is missing path: "/spec/rules/3": Unable to access invalid index: 3: invalid index referenced"#,
            ),
            (
                json!([{"op": "add", "path": "/spec/rules/2", "value": {}}]),
                r#"add operation does not apply: doc is missing path: "/spec/rules/2": Unable to access invalid index: 2: invalid index referenced"#,
            ),
            (json!([{"op": "test", "path": "/spec/x", "value": 1}]), "testing value /spec/x failed"),
            (
                json!([{"op": "add", "path": "/spec/none/x", "value": 1}]),
                r#"add operation does not apply: doc is missing path: "/spec/none/x": missing value"#,
            ),
            (json!([{"op": "fly", "path": "/spec"}]), "Unexpected kind: fly"),
            (
                json!([{"op": "move", "from": "/spec", "path": "/spec/x"}]),
                r#"move operation does not apply: cannot move "/spec" into itself"#,
            ),
        ] {
            assert_eq!(patched(target.clone(), patch).unwrap_err(), wanted);
        }
    }

    #[test]
    fn what_an_api_server_forgives_is_forgiven() {
        let target = json!({"a": {"b": 1}});
        for (patch, wanted) in [
            (json!([{"op": "replace", "path": "/a/c", "value": 2}]), json!({"a": {"b": 1, "c": 2}})),
            (json!([{"op": "add", "path": "/a/c"}]), json!({"a": {"b": 1, "c": null}})),
            (json!([{"op": "copy", "from": "/none", "path": "/a/c"}]), json!({"a": {"b": 1, "c": null}})),
        ] {
            assert_eq!(patched(target.clone(), patch), Ok(wanted));
        }
        let error = patched(target, json!({"op": "add"})).unwrap_err();
        assert_eq!(
            error,
            "error decoding patch: json: cannot unmarshal object into a list of JSON patch operations"
        );
    }

    #[test]
    fn copies_do_not_grow_without_end() {
        let doubling = vec![json!({"op": "copy", "from": "/a", "path": "/a/-"}); 200];
        let error = patched(json!({"a": ["x"]}), doubling.into()).unwrap_err();
        assert!(error.starts_with("Unable to complete the copy"), "{error}");
    }

    #[test]
    fn a_failed_patch_leaves_the_target_alone() {
        let target = json!({"a": 1});
        let patch = json!([{"op": "replace", "path": "/a", "value": 2}, {"op": "remove", "path": "/b"}]);
        assert!(apply(&target, &patch).is_err());
        assert_eq!(target, json!({"a": 1}));
    }

    #[test]
    fn odd_pointers_are_errors() {
        for path in ["a", "/a/x", "/a/-0", "/a/--1", "/a/99999999999999999999", "//", "/a/\u{661}"] {
            let patch = json!([{"op": "remove", "path": path}]);
            assert!(apply(&json!({"a": [1]}), &patch).is_err(), "{path}");
        }
    }
}

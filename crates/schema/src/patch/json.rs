//! JSON patch (RFC 6902) with the error texts of an API server.

use serde_json::Value;

use super::PatchError;

/// Operations in one patch. The same bound as an API server's.
pub const MAX_OPERATIONS: usize = 10_000;

/// The target after all operations, in order; the first that fails fails the patch.
pub fn apply(target: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Some(operations) = patch.as_array() else {
        return Err(PatchError::Malformed(
            "json: cannot unmarshal object into Go value of type jsonpatch.Patch".into(),
        ));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::Malformed(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut document = target.clone();
    for operation in operations {
        step(&mut document, operation)?;
    }
    Ok(document)
}

fn step(document: &mut Value, operation: &Value) -> Result<(), PatchError> {
    let text = |key: &str| operation.get(key).and_then(Value::as_str);
    let op = text("op").unwrap_or_default();
    let Some(path) = text("path") else {
        return Err(PatchError::Malformed(format!("{op} operation: missing path")));
    };
    let wanted_value = || {
        operation.get("value").cloned().ok_or_else(|| {
            PatchError::Malformed(format!("{op} operation does not apply: doc is missing value: {path:?}"))
        })
    };
    let from = || {
        text("from").ok_or_else(|| PatchError::Malformed(format!("{op} operation: missing from: {path:?}")))
    };
    match op {
        "add" => add(document, op, path, wanted_value()?),
        "replace" => {
            let value = wanted_value()?;
            match find(document, path) {
                Some(place) => {
                    *place = value;
                    Ok(())
                }
                None => Err(missing(op, path)),
            }
        }
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
            let from = from()?;
            let value = find(document, from).cloned().ok_or_else(|| missing(op, from))?;
            add(document, op, path, value)
        }
        "test" => {
            let wanted = operation.get("value").unwrap_or(&Value::Null);
            let found = find(document, path);
            if found.as_deref().unwrap_or(&Value::Null) == wanted {
                Ok(())
            } else {
                Err(PatchError::DoesNotFit(format!("testing value {path} failed")))
            }
        }
        other => Err(PatchError::Malformed(format!("Unexpected kind: {other}"))),
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

/// An array index; a negative one counts from the end, as the library of the API server takes it.
fn index(token: &str, length: usize) -> Option<usize> {
    if token.len() > 1 && token.starts_with('0') {
        return None;
    }
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
                json!([{"op": "replace", "path": "/spec/x", "value": 1}]),
                r#"replace operation does not apply: doc is missing path: "/spec/x": missing value"#,
            ),
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
                json!([{"op": "add", "path": "/x"}]),
                r#"add operation does not apply: doc is missing value: "/x""#,
            ),
            (
                json!([{"op": "move", "from": "/spec", "path": "/spec/x"}]),
                r#"move operation does not apply: cannot move "/spec" into itself"#,
            ),
        ] {
            assert_eq!(patched(target.clone(), patch).unwrap_err(), wanted);
        }
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
        for path in ["a", "/a/01", "/a/x", "/a/-0", "/a/--1", "/a/99999999999999999999", "//", "/a/\u{661}"] {
            let patch = json!([{"op": "remove", "path": path}]);
            assert!(apply(&json!({"a": [1]}), &patch).is_err(), "{path}");
        }
    }
}

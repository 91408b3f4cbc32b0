//! Reading and writing the metadata of an object held as JSON.
//!
//! Owns: the paths of `ObjectMeta`. Invariant: nothing here fails; a field of a wrong type reads as absent, because
//! admission has refused such objects before anything else looks at them.

use serde_json::{Map, Value};

/// A string at `metadata.<field>`, empty when absent.
pub(crate) fn meta_str<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|meta| meta.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// `metadata.name`, empty when absent.
pub(crate) fn name(object: &Value) -> &str {
    meta_str(object, "name")
}

/// `metadata.namespace`, empty when absent.
pub(crate) fn namespace(object: &Value) -> &str {
    meta_str(object, "namespace")
}

/// `metadata.uid`, empty when absent.
pub(crate) fn uid(object: &Value) -> &str {
    meta_str(object, "uid")
}

/// `metadata.resourceVersion` as a number; `None` when absent, empty or no number.
pub(crate) fn revision(object: &Value) -> Option<u64> {
    meta_str(object, "resourceVersion").parse().ok()
}

/// `metadata.generation`, 0 when absent.
pub(crate) fn generation(object: &Value) -> i64 {
    object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0)
}

/// Whether `metadata.deletionTimestamp` is set.
pub(crate) fn is_terminating(object: &Value) -> bool {
    !meta_str(object, "deletionTimestamp").is_empty()
}

/// `metadata.finalizers`.
pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    match object.pointer("/metadata/finalizers") {
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The object's map, made one when it is anything else.
pub(crate) fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object just above"),
    }
}

/// The map at `key`, made when absent or null.
pub(crate) fn child<'a>(object: &'a mut Value, key: &str) -> &'a mut Value {
    let slot = as_map(object).entry(key).or_insert(Value::Null);
    as_map(slot);
    slot
}

/// `metadata` as a map, made when absent.
pub(crate) fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    as_map(child(object, "metadata"))
}

/// Sets `metadata.<field>`, or removes it for `None`.
pub(crate) fn set_meta(object: &mut Value, field: &str, value: Option<Value>) {
    let meta = meta_mut(object);
    match value {
        Some(value) => {
            meta.insert(field.to_owned(), value);
        }
        None => {
            meta.shift_remove(field);
        }
    }
}

/// Sets a field of a map when it is absent or null.
pub(crate) fn default_field(object: &mut Value, key: &str, value: impl Into<Value>) {
    let slot = as_map(object).entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = value.into();
    }
}

/// The string at a JSON pointer, empty when absent.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The array at a JSON pointer, empty when absent.
pub(crate) fn array<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `metadata.labels` or `metadata.annotations` at one key.
pub(crate) fn label<'a>(object: &'a Value, map: &str, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get(map)?.get(key)?.as_str()
}

/// The store's key: `namespace/name`, or `name` for cluster-scoped kinds; the order of keys is the order of lists.
pub(crate) fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

//! Defaults of the schema, put where a value is missing.

use serde_json::Value;

use super::node::{Additional, Arena, Node, NodeId};

/// Applies every default to the object. Doing so twice changes nothing more.
pub(crate) fn apply(arena: &Arena, object: &mut Value) {
    fill(arena, arena.root, object);
}

pub(crate) fn fill(arena: &Arena, id: NodeId, value: &mut Value) {
    let node = arena.node(id);
    if !node.has_default {
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, child) in &node.properties {
                let child = arena.node(*child);
                let Some(default) = &child.default else { continue };
                if fields.get(&**name).is_none_or(|value| is_misplaced_null(value, child)) {
                    fields.insert(name.to_string(), default.clone());
                }
            }
            for (name, value) in fields.iter_mut() {
                let Some(child) = node.child(name) else { continue };
                replace_null(arena, child, value);
                fill(arena, child, value);
            }
        }
        Value::Array(items) => {
            let Some(item) = node.items else { return };
            for value in items {
                replace_null(arena, item, value);
                fill(arena, item, value);
            }
        }
        _ => {}
    }
}

/// Drops nulls that stand where null is not allowed and no default replaces them, as an API server does to custom
/// resources.
pub(crate) fn drop_nulls(arena: &Arena, object: &mut Value) {
    drop_below(arena, arena.root, object);
}

fn drop_below(arena: &Arena, id: NodeId, value: &mut Value) {
    let node = arena.node(id);
    match value {
        Value::Object(fields) => fields.retain(|name, value| {
            let child = match (node.properties.get(name.as_str()), node.additional) {
                (Some(id), _) => *id,
                (None, Additional::Schema(id)) => id,
                (None, _) => return true,
            };
            if is_misplaced_null(value, arena.node(child)) {
                return false;
            }
            drop_below(arena, child, value);
            true
        }),
        Value::Array(items) => {
            let Some(item) = node.items else { return };
            for value in items {
                drop_below(arena, item, value);
            }
        }
        _ => {}
    }
}

/// Leaves out of the metadata what Go leaves out when it is empty. `managedFields` is left alone: an empty list there is
/// a request to forget them.
pub(crate) fn tidy_metadata(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    metadata.retain(|name, value| match value {
        Value::String(text) => !text.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty() || name == "managedFields",
        _ => true,
    });
}

fn replace_null(arena: &Arena, id: NodeId, value: &mut Value) {
    let node = arena.node(id);
    if is_misplaced_null(value, node)
        && let Some(default) = &node.default
    {
        *value = default.clone();
    }
}

fn is_misplaced_null(value: &Value, node: &Node) -> bool {
    value.is_null() && !node.nullable
}

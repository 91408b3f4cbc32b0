//! From JSON as a client sent it to an object of the schema: unknown fields are found and dropped, and what the Go
//! decoder would refuse (metadata of every kind, all of a built-in kind) is refused.

use serde_json::{Map, Value};

use super::format::Format;
use super::node::{Additional, Arena, Kind, Node, NodeId, type_name};
use super::validate::fits_int32;
use crate::field::{Path, quote};

/// Levels of nesting in an object. Clients' JSON is read to 128; patches may add to what is stored.
pub(crate) const MAX_OBJECT_DEPTH: usize = 192;

/// What decoding found.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    /// Paths of dropped fields, in the order of the object.
    pub(crate) unknown: Vec<String>,
    /// Type errors, worded.
    pub(crate) mistyped: Vec<String>,
}

pub(crate) fn decode(arena: &Arena, object: &mut Value) -> Decoded {
    let mut decoder = Decoder { arena, found: Decoded::default() };
    decoder.value(arena.root, object, &Path::Root);
    decoder.found
}

/// Whether a value is nested deeper than `limit` levels.
pub(crate) fn deeper_than(value: &Value, limit: usize) -> bool {
    match value {
        Value::Array(items) => limit == 0 || items.iter().any(|item| deeper_than(item, limit - 1)),
        Value::Object(fields) => limit == 0 || fields.values().any(|field| deeper_than(field, limit - 1)),
        _ => false,
    }
}

struct Decoder<'a> {
    arena: &'a Arena,
    found: Decoded,
}

impl Decoder<'_> {
    fn value(&mut self, id: NodeId, value: &mut Value, path: &Path<'_>) {
        let node = self.arena.node(id);
        if node.typed {
            self.check_type(node, value, path);
        }
        let fits = matches!(
            (&*value, node.kind),
            (_, Kind::Any) | (Value::Object(_), Kind::Object) | (Value::Array(_), Kind::Array)
        );
        match value {
            _ if !fits && !node.preserve_unknown => self.unspecified(value, path),
            Value::Object(fields) if !node.int_or_string => self.object(node, fields, path),
            Value::Object(_) => self.unspecified(value, path),
            Value::Array(items) => {
                if let Some(item) = node.items {
                    for (index, value) in items.iter_mut().enumerate() {
                        self.value(item, value, &path.index(index));
                    }
                }
            }
            _ => {}
        }
    }

    /// A container where the schema has a scalar: its fields are unknown, and what is left is of the wrong type.
    fn unspecified(&mut self, value: &mut Value, path: &Path<'_>) {
        match value {
            Value::Object(fields) => {
                let names = std::mem::take(fields);
                self.found.unknown.extend(names.keys().map(|name| path.field(name).to_string()));
            }
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.unspecified(item, &path.index(index));
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, node: &Node, fields: &mut Map<String, Value>, path: &Path<'_>) {
        fields.retain(|name, value| {
            let at = path.field(name);
            let declared = node.properties.get(name.as_str()).copied();
            let child = match (declared, node.additional) {
                (Some(id), _) | (None, Additional::Schema(id)) => id,
                (None, Additional::Any) => return true,
                (None, Additional::None) if node.preserve_unknown => return true,
                (None, Additional::None) => {
                    self.found.unknown.push(at.to_string());
                    return false;
                }
            };
            if value.is_null() && self.arena.node(child).typed {
                // Go leaves a field at its zero value when it reads null; in a map the key stays.
                if declared.is_some() || self.arena.node(child).kind != Kind::String {
                    return false;
                }
                *value = Value::String(String::new());
            }
            self.value(child, value, &at);
            true
        });
    }

    fn check_type(&mut self, node: &Node, value: &mut Value, path: &Path<'_>) {
        let format = node.checks.as_ref().and_then(|checks| checks.format);
        if format == Some(Format::Quantity) {
            if let Value::Number(number) = value {
                *value = Value::String(number.to_string());
            }
            if !value.as_str().is_some_and(|text| Format::Quantity.admits(text)) {
                self.mistyped(path, value, "quantity");
            }
            return;
        }
        if node.int_or_string {
            if !value.is_string() && !Kind::Integer.admits(value) {
                self.mistyped(path, value, "integer or string");
            }
            return;
        }
        if !node.kind.admits(value) {
            self.mistyped(path, value, node.kind.name());
            return;
        }
        match (format, &*value) {
            (Some(format @ (Format::Byte | Format::DateTime)), Value::String(text))
                if !format.admits(text) && !text.is_empty() =>
            {
                let what = if format == Format::Byte { "base64" } else { "date-time" };
                self.found.mistyped.push(format!("json: {path}: {} is not {what}", quote(text)));
            }
            (Some(Format::Int32), Value::Number(number)) if !number.is_f64() && !fits_int32(number) => {
                self.mistyped(path, value, "int32");
            }
            _ => {}
        }
    }

    fn mistyped(&mut self, path: &Path<'_>, value: &Value, wanted: &str) {
        let got = match value {
            Value::Number(number) => format!("number {number}"),
            Value::Bool(_) => "bool".to_owned(),
            other => type_name(other).to_owned(),
        };
        self.found.mistyped.push(format!("json: cannot unmarshal {got} into field {path} of type {wanted}"));
    }
}

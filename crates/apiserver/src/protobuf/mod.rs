//! Bodies in Kubernetes' protobuf form, as `kubectl create` sends built-in kinds.
//!
//! Owns: the envelope and the reading of messages into the JSON that the same object would have. Field numbers come
//! from a table made from Kubernetes' Go types (`builtin/protobuf`). Invariants: input is bounded before it gets
//! here and nesting is bounded here; malformed input is refused, never guessed at.
//!
//! Deliberately absent: objects in answers ([`write`] is for documents). Whoever sends protobuf accepts JSON.

mod wire;
pub(crate) mod write;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::error::{ApiError, ApiResult};
use crate::registry::split_api_version;
use crate::schema;
use wire::{Field, Malformed, fields};

/// Fields of every message, one message after another.
const FIELDS: &str = include_str!("../../builtin/protobuf/fields.txt");

/// The first bytes of a body in this form.
const MAGIC: &[u8] = b"k8s\0";

/// Levels of messages. Source: the schema of definitions nests; Kubernetes' own limit for JSON is far above what is
/// written.
const DEPTH: usize = 100;

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Bool,
    Int,
    Double,
    Bytes,
    Message(&'static str),
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    RawJson,
    Strings,
    SchemaOrArray,
    SchemaOrBool,
    SchemaOrStrings,
}

/// What a value is to its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Zero means that it was not set.
    Plain,
    /// Written only when set, so zero is a value.
    Optional,
    /// A value even when zero.
    Always,
    /// Its fields are the outer message's.
    Inline,
    List,
    Map,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    name: &'static str,
    role: Role,
    form: Form,
}

type Messages = BTreeMap<&'static str, BTreeMap<u32, Slot>>;

fn messages() -> &'static Messages {
    static MESSAGES: OnceLock<Messages> = OnceLock::new();
    MESSAGES.get_or_init(|| {
        let mut all = Messages::new();
        let mut message = "";
        for line in FIELDS.lines() {
            match line.strip_prefix(' ') {
                None => {
                    message = line;
                    all.entry(message).or_default();
                }
                Some(field) => {
                    if let Some((number, slot)) = slot(field) {
                        all.entry(message).or_default().insert(number, slot);
                    }
                }
            }
        }
        all
    })
}

fn slot(line: &'static str) -> Option<(u32, Slot)> {
    let mut parts = line.split(' ');
    let number = parts.next()?.parse().ok()?;
    let name = parts.next()?;
    let text = parts.next()?;
    let (role, text) = match text.as_bytes().first()? {
        b'?' => (Role::Optional, &text[1..]),
        b'!' => (Role::Always, &text[1..]),
        b'~' => (Role::Inline, &text[1..]),
        b'[' => (Role::List, text.strip_prefix('[')?.strip_suffix(']')?),
        b'{' => (Role::Map, text.strip_prefix('{')?.strip_suffix('}')?),
        _ => (Role::Plain, text),
    };
    let form = match text {
        "string" => Form::Text,
        "bool" => Form::Bool,
        "int" => Form::Int,
        "double" => Form::Double,
        "bytes" => Form::Bytes,
        "Quantity" => Form::Quantity,
        "IntOrString" => Form::IntOrString,
        "Time" => Form::Time,
        "MicroTime" => Form::MicroTime,
        "RawJson" => Form::RawJson,
        "Strings" => Form::Strings,
        "SchemaOrArray" => Form::SchemaOrArray,
        "SchemaOrBool" => Form::SchemaOrBool,
        "SchemaOrStrings" => Form::SchemaOrStrings,
        message => Form::Message(message),
    };
    Some((number, Slot { name, role, form }))
}

/// An object from its envelope.
pub(crate) fn decode(body: &[u8]) -> ApiResult<Value> {
    let refused = |Malformed(what): Malformed| {
        ApiError::bad_request(format!("the body is not Kubernetes protobuf: {what}"))
    };
    let envelope = body.strip_prefix(MAGIC).ok_or_else(|| {
        ApiError::bad_request("the body is not Kubernetes protobuf: it does not start with its prefix")
    })?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for entry in fields(envelope) {
        match entry.map_err(refused)? {
            (1, Field::Bytes(types)) => {
                for entry in fields(types) {
                    match entry.map_err(refused)? {
                        (1, Field::Bytes(text)) => api_version = utf8(text).map_err(refused)?,
                        (2, Field::Bytes(text)) => kind = utf8(text).map_err(refused)?,
                        _ => {}
                    }
                }
            }
            (2, Field::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (group, version) = split_api_version(&api_version);
    let message = component(group, version, &kind).ok_or_else(|| {
        ApiError::bad_request(format!(
            "no kind {kind:?} is registered for version {api_version:?} in protobuf"
        ))
    })?;
    let mut object = Map::new();
    object.insert("kind".to_owned(), Value::from(kind));
    object.insert("apiVersion".to_owned(), Value::from(api_version));
    read_into(&mut object, message, raw, DEPTH).map_err(refused)?;
    Ok(Value::Object(object))
}

fn component(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    let name = match kind {
        // The same message in every group.
        "DeleteOptions" => "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
        _ => schema::components().of_kind(group, version, kind)?,
    };
    messages().get_key_value(name).map(|(name, _)| *name)
}

fn read_into(
    object: &mut Map<String, Value>,
    message: &str,
    raw: &[u8],
    depth: usize,
) -> Result<(), Malformed> {
    if depth == 0 {
        return Err(Malformed("messages are nested too deeply"));
    }
    let slots = messages().get(message).ok_or(Malformed("a message of an unknown kind"))?;
    for entry in fields(raw) {
        let (number, field) = entry?;
        // A field of a newer release than the table: no one here reads it.
        let Some(slot) = slots.get(&number) else { continue };
        match (slot.role, slot.form) {
            (Role::Inline, Form::Message(inner)) => read_into(object, inner, field.bytes()?, depth - 1)?,
            (Role::Inline, _) => return Err(Malformed("an inlined field that is no message")),
            (Role::List, form) => {
                let list = object.entry(slot.name).or_insert_with(|| json!([]));
                if let Value::Array(list) = list {
                    read_items(list, form, field, depth)?;
                }
            }
            (Role::Map, form) => {
                let (key, value) = read_entry(form, field.bytes()?, depth)?;
                let map = object.entry(slot.name).or_insert_with(|| json!({}));
                if let Value::Object(map) = map {
                    map.insert(key, value);
                }
            }
            (role, form) => {
                let value = read(form, field, depth)?;
                if role != Role::Plain || !is_zero(&value) {
                    object.insert(slot.name.to_owned(), value);
                }
            }
        }
    }
    Ok(())
}

/// What Go leaves out of JSON when it was not set; a number of an `IntOrString` is never left out.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Object(map) => map.is_empty(),
        Value::Array(_) | Value::Bool(true) => false,
    }
}

/// One item, or several packed numbers.
fn read_items(list: &mut Vec<Value>, form: Form, field: Field<'_>, depth: usize) -> Result<(), Malformed> {
    if let (Form::Int, Field::Bytes(packed)) = (form, field) {
        let mut rest = packed;
        while !rest.is_empty() {
            let (number, after) = wire::varint(rest)?;
            list.push(Value::from(number.cast_signed()));
            rest = after;
        }
        return Ok(());
    }
    list.push(read(form, field, depth)?);
    Ok(())
}

fn read_entry(form: Form, raw: &[u8], depth: usize) -> Result<(String, Value), Malformed> {
    let mut key = String::new();
    let mut value = empty(form);
    for entry in fields(raw) {
        match entry? {
            (1, field) => key = utf8(field.bytes()?)?,
            (2, field) => value = read(form, field, depth)?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn empty(form: Form) -> Value {
    match form {
        Form::Text | Form::Bytes | Form::Quantity => Value::from(""),
        Form::Strings => json!([]),
        _ => Value::Null,
    }
}

fn read(form: Form, field: Field<'_>, depth: usize) -> Result<Value, Malformed> {
    Ok(match form {
        Form::Text => Value::from(utf8(field.bytes()?)?),
        Form::Bool => Value::from(field.number()? != 0),
        Form::Int => Value::from(field.number()?.cast_signed()),
        Form::Double => Value::from(field.double()?),
        Form::Bytes => Value::from(base64::engine::general_purpose::STANDARD.encode(field.bytes()?)),
        Form::Message(message) => {
            let mut inner = Map::new();
            read_into(&mut inner, message, field.bytes()?, depth - 1)?;
            Value::Object(inner)
        }
        Form::Quantity => Value::from(utf8(first_bytes(field.bytes()?)?)?),
        Form::RawJson => {
            let raw = first_bytes(field.bytes()?)?;
            if raw.is_empty() {
                Value::Null
            } else {
                serde_json::from_slice(raw).map_err(|_| Malformed("embedded JSON that is none"))?
            }
        }
        Form::Strings => strings(field.bytes()?, 1)?,
        Form::IntOrString => int_or_string(field.bytes()?)?,
        Form::Time => time(field.bytes()?, "%Y-%m-%dT%H:%M:%SZ")?,
        Form::MicroTime => time(field.bytes()?, "%Y-%m-%dT%H:%M:%S.%6fZ")?,
        Form::SchemaOrArray | Form::SchemaOrBool | Form::SchemaOrStrings => {
            schema_or(form, field.bytes()?, depth)?
        }
    })
}

/// Field 1 of a message that has only that one.
fn first_bytes(raw: &[u8]) -> Result<&[u8], Malformed> {
    let mut found: &[u8] = &[];
    for entry in fields(raw) {
        if let (1, Field::Bytes(bytes)) = entry? {
            found = bytes;
        }
    }
    Ok(found)
}

fn strings(raw: &[u8], wanted: u32) -> Result<Value, Malformed> {
    let mut out = Vec::new();
    for entry in fields(raw) {
        match entry? {
            (number, field) if number == wanted => out.push(Value::from(utf8(field.bytes()?)?)),
            _ => {}
        }
    }
    Ok(Value::from(out))
}

fn int_or_string(raw: &[u8]) -> Result<Value, Malformed> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for entry in fields(raw) {
        match entry? {
            (1, field) => is_text = field.number()? == 1,
            (2, field) => number = field.number()?.cast_signed(),
            (3, field) => text = utf8(field.bytes()?)?,
            _ => {}
        }
    }
    Ok(if is_text { Value::from(text) } else { Value::from(number) })
}

/// An empty message is the zero time, which JSON shows as null.
fn time(raw: &[u8], format: &str) -> Result<Value, Malformed> {
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    for entry in fields(raw) {
        match entry? {
            (1, field) => seconds = field.number()?.cast_signed(),
            (2, field) => {
                nanos = i32::try_from(field.number()?)
                    .map_err(|_| Malformed("a time with too many nanoseconds"))?
            }
            _ => {}
        }
    }
    let at = Timestamp::new(seconds, nanos).map_err(|_| Malformed("a time out of range"))?;
    Ok(Value::from(at.strftime(format).to_string()))
}

/// A schema, or what may stand in its place in a definition.
fn schema_or(form: Form, raw: &[u8], depth: usize) -> Result<Value, Malformed> {
    const SCHEMA: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    let schema_number = if form == Form::SchemaOrBool { 2 } else { 1 };
    let (mut schema, mut list, mut allows) = (None, Vec::new(), false);
    for entry in fields(raw) {
        let (number, field) = entry?;
        match (form, number) {
            (_, number) if number == schema_number => {
                schema = Some(read(Form::Message(SCHEMA), field, depth)?)
            }
            (Form::SchemaOrBool, 1) => allows = field.number()? != 0,
            (Form::SchemaOrArray, 2) => list.push(read(Form::Message(SCHEMA), field, depth)?),
            (Form::SchemaOrStrings, 2) => list.push(Value::from(utf8(field.bytes()?)?)),
            _ => {}
        }
    }
    Ok(match (schema, form) {
        (Some(schema), _) => schema,
        (None, Form::SchemaOrBool) => Value::from(allows),
        (None, _) => Value::from(list),
    })
}

fn utf8(bytes: &[u8]) -> Result<String, Malformed> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed("text that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tagged(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).expect("short")];
        out.extend_from_slice(bytes);
        out
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let types = [tagged(1, api_version.as_bytes()), tagged(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), tagged(1, &types), tagged(2, raw)].concat()
    }

    #[test]
    fn an_object_reads_as_its_json() {
        let meta =
            [tagged(1, b"a"), tagged(3, b""), tagged(11, &[tagged(1, b"app"), tagged(2, b"x")].concat())]
                .concat();
        // spec.ports[0] = {port: 80, targetPort: "http"}, spec.type = ""
        let port = [vec![3 << 3, 80], tagged(4, &[vec![1 << 3, 1], tagged(3, b"http")].concat())].concat();
        let spec = [tagged(1, &port), tagged(4, b"")].concat();
        let body = envelope("v1", "Service", &[tagged(1, &meta), tagged(2, &spec), tagged(3, &[])].concat());
        assert_eq!(
            decode(&body).expect("well formed"),
            json!({
                "kind": "Service",
                "apiVersion": "v1",
                "metadata": {"name": "a", "labels": {"app": "x"}},
                "spec": {"ports": [{"port": 80, "targetPort": "http"}]},
            })
        );
    }

    #[test]
    fn a_zero_that_was_set_is_kept() {
        let spec = [1 << 3, 0];
        let body = envelope("apps/v1", "Deployment", &tagged(2, &spec));
        assert_eq!(decode(&body).expect("well formed")["spec"]["replicas"], 0);
    }

    #[test]
    fn nonsense_is_refused() {
        for body in [
            &b""[..],
            b"k8s\0\xff",
            b"{}",
            &envelope("v1", "Nothing", &[]),
            &envelope("v1", "Service", &[0x0a, 0x7f]),
        ] {
            assert_eq!(decode(body).expect_err("refused").code(), 400);
        }
    }

    /// The table and the schemas come from different sources; a field in one and not the other is a mistake.
    #[test]
    fn the_table_has_the_fields_of_the_schemas() {
        let components = schema::components();
        for (message, slots) in messages() {
            let Some(schema) = components.schemas.get(*message) else { continue };
            let mut ours: Vec<&str> = Vec::new();
            collect(slots, &mut ours);
            ours.sort_unstable();
            ours.dedup();
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
                assert!(ours.is_empty(), "{message} has fields only in the table");
                continue;
            };
            let mut theirs: Vec<&str> = properties
                .keys()
                .map(String::as_str)
                .filter(|key| !matches!(*key, "apiVersion" | "kind"))
                .collect();
            theirs.sort_unstable();
            ours.retain(|key| !matches!(*key, "apiVersion" | "kind"));
            assert_eq!(ours, theirs, "{message}");
        }
    }

    fn collect(slots: &BTreeMap<u32, Slot>, out: &mut Vec<&'static str>) {
        for slot in slots.values() {
            match (slot.role, slot.form) {
                (Role::Inline, Form::Message(inner)) => collect(&messages()[inner], out),
                _ => out.push(slot.name),
            }
        }
    }
}

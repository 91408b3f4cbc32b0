//! The whole API as one Swagger 2.0 document, made from the v3 ones; in JSON and in protobuf.
//!
//! Owns: the differences between the two versions, and the protobuf form (gnostic's `openapi_v2.Document`), which
//! `kubectl` asks for when it meets a kind that it does not know.

use bytes::Bytes;
use http::{Response, StatusCode, header};
use serde_json::{Map, Value, json};

use super::REF;
use crate::error::{ApiError, ApiResult};
use crate::object;
use crate::protobuf::write::Message;
use crate::registry::Registry;
use crate::rest::negotiate::media_ranges;
use crate::rest::{Body, full, respond};

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// The same as clients write it.
const PROTOBUF_WITH_AT: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The document in the form that the client prefers.
pub(super) fn answer(registry: &Registry, head: &http::request::Parts) -> ApiResult<Response<Body>> {
    let ranges = media_ranges(&head.headers, header::ACCEPT);
    let is_json = |media_type: &str| matches!(media_type, "application/json" | "application/*" | "*/*");
    let is_protobuf = |media_type: &str| media_type == PROTOBUF || media_type == PROTOBUF_WITH_AT;
    let chosen = ranges
        .iter()
        .map(|range| range.media_type)
        .find(|media_type| is_json(media_type) || is_protobuf(media_type));
    match chosen {
        Some(media_type) if is_protobuf(media_type) => {
            let body = Bytes::from(document(&v2(registry)).into_bytes());
            Ok(respond(StatusCode::OK, PROTOBUF, full(body)))
        }
        None if !ranges.is_empty() => Err(ApiError::not_acceptable(&["application/json", PROTOBUF])),
        _ => Ok(respond(StatusCode::OK, "application/json", full(Bytes::from(v2(registry).to_string())))),
    }
}

/// The whole API as one Swagger 2.0 document, made from the v3 ones.
fn v2(registry: &Registry) -> Value {
    let mut paths = Map::new();
    let mut definitions = Map::new();
    for document in registry.openapi().values() {
        let Ok(Value::Object(mut document)) = serde_json::from_slice(&document.body) else { continue };
        if let Some(Value::Object(found)) = document.get_mut("paths").map(Value::take) {
            paths.extend(found.into_iter().map(|(path, item)| (path, v2_path(item))));
        }
        if let Some(Value::Object(found)) =
            document.get_mut("components").and_then(|all| all.get_mut("schemas")).map(Value::take)
        {
            definitions.extend(found.into_iter().map(|(name, schema)| (name, v2_schema(schema))));
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "definitions": definitions,
    })
}

fn v2_path(mut item: Value) -> Value {
    if let Value::Object(map) = &mut item {
        for (key, part) in map.iter_mut() {
            if key == "parameters" {
                v2_parameters(part, None);
                continue;
            }
            let Value::Object(operation) = part else { continue };
            let body = operation.shift_remove("requestBody");
            let schema =
                body.as_ref().and_then(|body| body.get("content")).and_then(Value::as_object).and_then(
                    |content| content.values().next().and_then(|first| first.get("schema")).cloned(),
                );
            let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
            v2_parameters(parameters, schema);
            if let Some(Value::Object(responses)) = operation.get_mut("responses") {
                for response in responses.values_mut() {
                    let schema = response.pointer("/content/application~1json/schema").cloned();
                    let mut plain = json!({"description": object::text(response, "/description")});
                    if let Some(schema) = schema {
                        plain["schema"] = v2_schema(schema);
                    }
                    *response = plain;
                }
            }
        }
    }
    item
}

fn v2_parameters(parameters: &mut Value, body: Option<Value>) {
    let Value::Array(list) = parameters else { return };
    for parameter in list.iter_mut() {
        if let Value::Object(map) = parameter
            && let Some(Value::Object(schema)) = map.shift_remove("schema")
        {
            map.extend(schema);
        }
    }
    if let Some(schema) = body {
        list.push(json!({"name": "body", "in": "body", "required": true, "schema": v2_schema(schema)}));
    }
}

/// References move to `definitions`; a lone `allOf` beside a default is the reference itself.
fn v2_schema(mut schema: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::Object(map) => {
                if let Some(Value::Array(parts)) = map.get("allOf")
                    && let [only] = parts.as_slice()
                    && only.get("$ref").is_some()
                {
                    *value = only.clone();
                    return walk(value);
                }
                if let Some(Value::String(text)) = map.get_mut("$ref") {
                    *text = text.replace(REF, "#/definitions/");
                }
                for key in ["oneOf", "anyOf", "not", "nullable"] {
                    map.shift_remove(key);
                }
                map.values_mut().for_each(walk);
            }
            Value::Array(items) => items.iter_mut().for_each(walk),
            _ => {}
        }
    }
    walk(&mut schema);
    schema
}

/// `Document`: swagger 1, info 2, paths 8, definitions 9.
fn document(value: &Value) -> Message {
    let info = Message::new()
        .text(1, object::text(value, "/info/title"))
        .text(2, object::text(value, "/info/version"));
    let mut paths = Message::new();
    for (name, item) in entries(value, "/paths") {
        paths = paths.message(2, Message::new().text(1, name).message(2, path_item(item)));
    }
    let mut definitions = Message::new();
    for (name, definition) in entries(value, "/definitions") {
        definitions = definitions.message(1, named_schema(name, definition));
    }
    Message::new().text(1, "2.0").message(2, info).message(8, paths).message(9, definitions)
}

fn entries<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value.pointer(pointer).and_then(Value::as_object).into_iter().flatten()
}

fn path_item(item: &Value) -> Message {
    let mut out = Message::new();
    for (number, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(found) = item.get(method) {
            out = out.message(number, operation(found));
        }
    }
    out
}

/// `Operation`: parameters 8, vendor extensions 13.
fn operation(operation: &Value) -> Message {
    let mut out = Message::new();
    for parameter in object::array(operation, "/parameters") {
        if object::text(parameter, "/in") == "query" {
            let query = Message::new()
                .text(2, "query")
                .text(4, object::text(parameter, "/name"))
                .text(6, object::text(parameter, "/type"));
            // ParametersItem.parameter, Parameter.non_body_parameter, NonBodyParameter.query_parameter_sub_schema
            let wrapped =
                Message::new().message(1, Message::new().message(2, Message::new().message(3, query)));
            out = out.message(8, wrapped);
        }
    }
    extensions(out, operation, 13)
}

/// `NamedAny` for every `x-` key: name 1, value 2 with its YAML in 2. JSON is YAML.
fn extensions(mut out: Message, value: &Value, number: u32) -> Message {
    for (key, extension) in entries(value, "").filter(|(key, _)| key.starts_with("x-")) {
        let yaml = Message::new().text(2, &extension.to_string());
        out = out.message(number, Message::new().text(1, key).message(2, yaml));
    }
    out
}

fn named_schema(name: &str, value: &Value) -> Message {
    Message::new().text(1, name).message(2, schema(value))
}

/// `Schema`: ref 1, format 2, description 4, required 19, additional properties 21, type 22, items 23, properties
/// 25, extensions 31.
fn schema(value: &Value) -> Message {
    let mut out = Message::new()
        .text(1, object::text(value, "/$ref"))
        .text(2, object::text(value, "/format"))
        .text(4, object::text(value, "/description"));
    for name in object::array(value, "/required").iter().filter_map(Value::as_str) {
        out = out.text(19, name);
    }
    match value.get("additionalProperties") {
        Some(Value::Bool(allowed)) => out = out.message(21, Message::new().flag(2, *allowed)),
        Some(inner) => out = out.message(21, Message::new().message(1, schema(inner))),
        None => {}
    }
    let kind = object::text(value, "/type");
    if !kind.is_empty() {
        out = out.message(22, Message::new().text(1, kind));
    }
    if let Some(items) = value.get("items") {
        out = out.message(23, Message::new().message(1, schema(items)));
    }
    let mut properties = Message::new();
    let mut any = false;
    for (name, property) in entries(value, "/properties") {
        any = true;
        properties = properties.message(1, named_schema(name, property));
    }
    if any {
        out = out.message(25, properties);
    }
    extensions(out, value, 31)
}

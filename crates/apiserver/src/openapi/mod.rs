//! OpenAPI documents: v3 by group and version behind an index of hashes, v2 in one piece.
//!
//! Owns: turning the registry and the schemas into documents. Invariant: a document is made once for a registry and
//! its hash names its content, so clients may keep it for ever.

mod v2;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use crate::error::{ApiError, ApiResult};
use crate::registry::{Registry, Resource, Version};
use crate::rest::negotiate::media_ranges;
use crate::rest::{Body, full, json_response, respond};
use crate::schema;

const REF: &str = "#/components/schemas/";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";

/// One document and the name of its content.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub(crate) body: Bytes,
    hash: String,
}

/// SHA-512 in upper-case hexadecimal, as Kubernetes names documents.
pub(crate) fn hash(body: &[u8]) -> String {
    Sha512::digest(body).iter().map(|byte| format!("{byte:02X}")).collect()
}

impl Document {
    fn of(value: &Value) -> Document {
        let body = Bytes::from(value.to_string());
        Document { hash: hash(&body), body }
    }
}

/// The documents of a registry by path, for example `apis/apps/v1`.
pub(crate) fn documents(registry: &Registry) -> BTreeMap<String, Document> {
    let mut places: BTreeSet<(&str, &str)> = BTreeSet::new();
    for resource in registry.all() {
        for version in resource.versions.iter().filter(|version| version.served) {
            places.insert((&resource.group, &version.name));
        }
    }
    places
        .into_iter()
        .map(|(group, version)| (place(group, version), Document::of(&document(registry, group, version))))
        .collect()
}

fn place(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

pub(crate) fn answer(
    registry: &Registry,
    rest: &[&str],
    head: &http::request::Parts,
) -> ApiResult<Response<Body>> {
    match rest {
        ["v3"] => {
            let paths: Map<String, Value> = registry
                .openapi()
                .iter()
                .map(|(path, document)| {
                    let url = format!("/openapi/v3/{path}?hash={}", document.hash);
                    (path.clone(), json!({"serverRelativeURL": url}))
                })
                .collect();
            Ok(json_response(StatusCode::OK, &json!({"paths": paths})))
        }
        ["v3", place @ ..] => {
            let document = registry.openapi().get(&place.join("/")).ok_or_else(ApiError::unknown_path)?;
            only_json(head)?;
            Ok(one(document, &place.join("/"), head))
        }
        ["v2"] => Ok(v2::answer(registry, head)?),
        _ => Err(ApiError::unknown_path()),
    }
}

/// The v3 documents are offered as JSON alone; who accepts only protobuf is told so and falls back.
fn only_json(head: &http::request::Parts) -> ApiResult<()> {
    let ranges = media_ranges(&head.headers, header::ACCEPT);
    let takes_json = |media_type: &str| matches!(media_type, "application/json" | "application/*" | "*/*");
    if ranges.is_empty() || ranges.iter().any(|range| takes_json(range.media_type)) {
        return Ok(());
    }
    Err(ApiError::not_acceptable(&["application/json"]))
}

fn one(document: &Document, place: &str, head: &http::request::Parts) -> Response<Body> {
    let asked =
        head.uri.query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("hash=")));
    let etag = HeaderValue::from_str(&format!("\"{}\"", document.hash));
    if asked.is_some_and(|asked| !asked.is_empty() && asked != document.hash) {
        let mut response =
            respond(StatusCode::MOVED_PERMANENTLY, "text/plain; charset=utf-8", full(Bytes::new()));
        if let Ok(location) = HeaderValue::from_str(&format!("/openapi/v3/{place}?hash={}", document.hash)) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        return response;
    }
    let mut response = respond(StatusCode::OK, "application/json", full(document.body.clone()));
    let headers = response.headers_mut();
    if asked.is_some() {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        headers.insert(header::EXPIRES, HeaderValue::from_static("Fri, 01 Jan 2100 00:00:00 GMT"));
    }
    if let Ok(etag) = etag {
        headers.insert(header::ETAG, etag);
    }
    response
}

fn document(registry: &Registry, group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = Schemas::default();
    for resource in registry.all().filter(|resource| resource.group == group) {
        let Some(version) = resource.version(version) else { continue };
        let component = schemas.add_kind(resource, version);
        add_paths(&mut paths, resource, version, &component);
        schemas.add_builtin(LIST_META);
        for sub in &version.subresources {
            if let Some(name) = schema::components().of_kind(&sub.group, &sub.version, &sub.kind) {
                schemas.add_builtin(name);
            }
        }
    }
    schemas.add_builtin(DELETE_OPTIONS);
    schemas.found.entry(STATUS.to_owned()).or_insert_with(status_schema);
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "1.36"},
        "paths": paths,
        "components": {
            "schemas": schemas.found,
            "securitySchemes": {"BearerToken": {"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header"}},
        },
    })
}

/// The schemas of one document: those asked for and all that they refer to.
#[derive(Default)]
struct Schemas {
    found: BTreeMap<String, Value>,
}

impl Schemas {
    fn add_builtin(&mut self, name: &str) {
        if self.found.contains_key(name) {
            return;
        }
        let Some(schema) = schema::components().schemas.get(name) else { return };
        self.found.insert(name.to_owned(), schema.clone());
        for name in references(schema) {
            self.add_builtin(&name);
        }
    }

    /// Adds a kind and its list; gives the kind's component name.
    fn add_kind(&mut self, resource: &Resource, version: &Version) -> String {
        let components = schema::components();
        if !resource.custom {
            let name = components.of_kind(&resource.group, &version.name, &resource.kind).unwrap_or_default();
            self.add_builtin(name);
            if let Some(list) = components.of_kind(&resource.group, &version.name, &resource.list_kind) {
                self.add_builtin(list);
            }
            return name.to_owned();
        }
        let name = component_name(resource, version, &resource.kind);
        let list = component_name(resource, version, &resource.list_kind);
        self.add_builtin(OBJECT_META);
        self.add_builtin(LIST_META);
        self.found.insert(list, custom_list(resource, version, &name));
        self.found.insert(name.clone(), custom_schema(resource, version));
        name
    }
}

/// `io.k8s.networking.gateway.v1.HTTPRoute`: the group reversed, version, kind.
fn component_name(resource: &Resource, version: &Version, kind: &str) -> String {
    let reversed: Vec<&str> = resource.group.rsplit('.').collect();
    format!("{}.{}.{kind}", reversed.join("."), version.name)
}

fn kind_extension(resource: &Resource, version: &Version, kind: &str) -> Value {
    json!({"group": resource.group, "version": version.name, "kind": kind})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("{REF}{name}")})
}

fn custom_schema(resource: &Resource, version: &Version) -> Value {
    let mut schema = version.openapi.clone();
    if !schema.is_object() {
        schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    }
    let properties = crate::object::child(&mut schema, "properties");
    for field in ["apiVersion", "kind"] {
        let slot = crate::object::as_map(properties).entry(field).or_insert(Value::Null);
        if !slot.is_object() {
            *slot = json!({"type": "string"});
        }
    }
    properties["metadata"] = json!({"allOf": [reference(OBJECT_META)], "default": {}});
    schema["x-kubernetes-group-version-kind"] = json!([kind_extension(resource, version, &resource.kind)]);
    schema
}

/// The answer to a deletion; no kind that is stored refers to it.
fn status_schema() -> Value {
    let text = || json!({"type": "string"});
    let number = || json!({"type": "integer", "format": "int32"});
    let cause =
        json!({"type": "object", "properties": {"field": text(), "message": text(), "reason": text()}});
    json!({
        "type": "object",
        "properties": {
            "apiVersion": text(),
            "kind": text(),
            "metadata": {"allOf": [reference(LIST_META)], "default": {}},
            "status": text(),
            "message": text(),
            "reason": text(),
            "details": {
                "type": "object",
                "properties": {
                    "name": text(),
                    "group": text(),
                    "kind": text(),
                    "uid": text(),
                    "causes": {"type": "array", "items": cause, "x-kubernetes-list-type": "atomic"},
                    "retryAfterSeconds": number(),
                },
            },
            "code": number(),
        },
        "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Status"}],
    })
}

fn custom_list(resource: &Resource, version: &Version, component: &str) -> Value {
    json!({
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "items": {"type": "array", "items": {"allOf": [reference(component)]}},
            "kind": {"type": "string"},
            "metadata": {"allOf": [reference(LIST_META)], "default": {}},
        },
        "x-kubernetes-group-version-kind": [kind_extension(resource, version, &resource.list_kind)],
    })
}

fn references(schema: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, out: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                if let Some(name) =
                    map.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix(REF))
                {
                    out.insert(name.to_owned());
                }
                map.values().for_each(|value| walk(value, out));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(value, out)),
            _ => {}
        }
    }
    let mut out = BTreeSet::new();
    walk(schema, &mut out);
    out
}

fn add_paths(paths: &mut Map<String, Value>, resource: &Resource, version: &Version, component: &str) {
    let base = format!("/{}", place(&resource.group, &version.name));
    let scoped = match resource.namespaced {
        true => format!("{base}/namespaces/{{namespace}}/{}", resource.plural),
        false => format!("{base}/{}", resource.plural),
    };
    let list = match resource.custom {
        true => component_name(resource, version, &resource.list_kind),
        false => schema::components()
            .of_kind(&resource.group, &version.name, &resource.list_kind)
            .unwrap_or(component)
            .to_owned(),
    };
    let gvk = kind_extension(resource, version, &resource.kind);
    let can = |verb: &str| version.verbs.iter().any(|allowed| allowed == verb);
    let mut collection = Map::new();
    let mut item = Map::new();
    for (verb, method, action, answer) in [
        ("list", "get", "list", list.as_str()),
        ("create", "post", "post", component),
        ("deletecollection", "delete", "deletecollection", STATUS),
    ] {
        if can(verb) {
            collection.insert(method.to_owned(), operation(action, component, answer, &gvk, resource.custom));
        }
    }
    for (verb, method) in [("get", "get"), ("update", "put"), ("patch", "patch"), ("delete", "delete")] {
        if can(verb) {
            let answer = if verb == "delete" { STATUS } else { component };
            item.insert(method.to_owned(), operation(method, component, answer, &gvk, resource.custom));
        }
    }
    if can("list") && resource.namespaced {
        let all = json!({"get": operation("list", component, &list, &gvk, resource.custom)});
        paths.insert(format!("{base}/{}", resource.plural), all);
    }
    insert_path(paths, scoped.clone(), collection, resource.namespaced, false);
    insert_path(paths, format!("{scoped}/{{name}}"), item, resource.namespaced, true);
    for sub in &version.subresources {
        let kind = json!({"group": sub.group, "version": sub.version, "kind": sub.kind});
        let named = match resource.custom && sub.kind == resource.kind {
            true => component,
            false => schema::components().of_kind(&sub.group, &sub.version, &sub.kind).unwrap_or(component),
        };
        let mut operations = Map::new();
        for (verb, method, action) in [
            ("get", "get", "get"),
            ("create", "post", "post"),
            ("update", "put", "put"),
            ("patch", "patch", "patch"),
        ] {
            if sub.verbs.iter().any(|allowed| allowed == verb) {
                operations.insert(method.to_owned(), operation(action, named, named, &kind, resource.custom));
            }
        }
        insert_path(paths, format!("{scoped}/{{name}}/{}", sub.name), operations, resource.namespaced, true);
    }
}

fn insert_path(
    paths: &mut Map<String, Value>,
    path: String,
    mut operations: Map<String, Value>,
    namespaced: bool,
    named: bool,
) {
    if operations.is_empty() {
        return;
    }
    let place = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}});
    let mut parameters = Vec::new();
    if named {
        parameters.push(place("name"));
    }
    if namespaced {
        parameters.push(place("namespace"));
    }
    parameters.push(query("pretty", "string"));
    operations.insert("parameters".to_owned(), Value::from(parameters));
    paths.insert(path, Value::Object(operations));
}

fn query(name: &str, kind: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
}

/// Query parameters by action; clients look for `fieldValidation` and `dryRun` before they use them.
fn parameters(action: &str) -> Vec<Value> {
    let write = || {
        vec![query("dryRun", "string"), query("fieldManager", "string"), query("fieldValidation", "string")]
    };
    let list = || {
        vec![
            query("allowWatchBookmarks", "boolean"),
            query("continue", "string"),
            query("fieldSelector", "string"),
            query("labelSelector", "string"),
            query("limit", "integer"),
            query("resourceVersion", "string"),
            query("resourceVersionMatch", "string"),
            query("sendInitialEvents", "boolean"),
            query("timeoutSeconds", "integer"),
            query("watch", "boolean"),
        ]
    };
    let delete = || {
        vec![
            query("dryRun", "string"),
            query("gracePeriodSeconds", "integer"),
            query("orphanDependents", "boolean"),
            query("propagationPolicy", "string"),
        ]
    };
    match action {
        "list" => list(),
        "post" | "put" => write(),
        "patch" => write().into_iter().chain([query("force", "boolean")]).collect(),
        "delete" => delete(),
        "deletecollection" => delete().into_iter().chain(list()).collect(),
        _ => Vec::new(),
    }
}

fn operation(action: &str, sent: &str, answered: &str, gvk: &Value, custom: bool) -> Value {
    let content = |name: &str| json!({"application/json": {"schema": reference(name)}, "application/yaml": {"schema": reference(name)}});
    let mut out = json!({
        "responses": {
            "200": {"description": "OK", "content": content(answered)},
            "401": {"description": "Unauthorized"},
        },
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk,
    });
    let parameters = parameters(action);
    if !parameters.is_empty() {
        out["parameters"] = Value::from(parameters);
    }
    let body = match action {
        "post" | "put" => Some(json!({"*/*": {"schema": reference(sent)}})),
        "delete" | "deletecollection" => Some(json!({"*/*": {"schema": reference(DELETE_OPTIONS)}})),
        "patch" => {
            let mut kinds = vec![
                "application/apply-patch+yaml",
                "application/json-patch+json",
                "application/merge-patch+json",
            ];
            if !custom {
                kinds.push("application/strategic-merge-patch+json");
            }
            Some(
                kinds
                    .into_iter()
                    .map(|kind| (kind.to_owned(), json!({"schema": {"type": "object"}})))
                    .collect::<Map<_, _>>()
                    .into(),
            )
        }
        _ => None,
    };
    if let Some(content) = body {
        out["requestBody"] = json!({"content": content, "required": action != "delete"});
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_of_every_document_resolves() {
        let registry = Registry::builtin();
        for (place, document) in registry.openapi() {
            let value: Value = serde_json::from_slice(&document.body).expect("a document");
            let schemas = value.pointer("/components/schemas").and_then(Value::as_object).expect("schemas");
            for name in references(&value) {
                assert!(schemas.contains_key(&name), "{place}: {name}");
            }
        }
    }

    #[test]
    fn patch_operations_tell_kubectl_of_field_validation() {
        let registry = Registry::builtin();
        let value: Value =
            serde_json::from_slice(&registry.openapi()["apis/apps/v1"].body).expect("a document");
        let patch = &value["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
        let names: Vec<&str> = patch["parameters"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|one| one["name"].as_str())
            .collect();
        assert!(names.contains(&"fieldValidation"), "{names:?}");
        assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
    }
}

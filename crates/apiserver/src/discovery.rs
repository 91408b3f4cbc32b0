//! What there is to ask for: groups, versions, resources; health and version.
use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::error::ApiResult;
use crate::registry::{Registry, Resource, Version};
use crate::rest::{Api, Body, json_response, path};

/// Answers paths that name no resource; `None` for the others.
pub(crate) fn answer(api: &Arc<Api>, head: &http::request::Parts) -> ApiResult<Option<Response<Body>>> {
    let Some(segments) = path::segments(head.uri.path()) else { return Ok(None) };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let registry = api.registry();
    let value = match segments.as_slice() {
        ["version"] => version(),
        ["api"] => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        ["api", "v1"] => resources(&registry, "", "v1"),
        ["apis", group, version] => resources(&registry, group, version),
        _ => return Ok(None),
    };
    Ok(Some(json_response(StatusCode::OK, &value)))
}

fn version() -> Value {
    json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0+weir", "platform": "linux/amd64"})
}

fn resources(registry: &Registry, group: &str, version: &str) -> Value {
    let list: Vec<Value> = registry
        .all()
        .filter(|resource| resource.group == group)
        .filter_map(|resource| Some((resource, resource.version(version)?)))
        .map(|(resource, version)| resource_entry(resource, version))
        .collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": crate::registry::api_version(group, version), "resources": list})
}

fn resource_entry(resource: &Resource, version: &Version) -> Value {
    json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": version.verbs,
        "shortNames": resource.short_names,
        "categories": resource.categories,
    })
}

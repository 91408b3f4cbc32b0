//! What there is to ask for: groups, versions and resources; health and version.
//!
//! Owns: both forms of discovery (one document each for `/api` and `/apis`, and the older tree), `/version`, the
//! health paths, the index at `/`.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::error::{ApiError, ApiResult};
use crate::openapi;
use crate::registry::{Registry, Resource, Subresource, Version, api_version};
use crate::rest::negotiate::media_ranges;
use crate::rest::{Api, Body, full, json_response, path, respond};

/// Answers paths that name no resource; `None` for the others.
pub(crate) fn answer(api: &Arc<Api>, head: &http::request::Parts) -> ApiResult<Option<Response<Body>>> {
    let path = head.uri.path();
    if path == "/" {
        let response = json_response(StatusCode::OK, &json!({"paths": index(&api.registry())}));
        return get_only(head, response);
    }
    let Some(segments) = path::segments(path) else { return Ok(None) };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let registry = api.registry();
    let response = match segments.as_slice() {
        ["version"] => json_response(StatusCode::OK, &version()),
        ["livez" | "readyz" | "healthz", rest @ ..] if rest.len() < 2 => health(segments[0], rest, head),
        ["api"] => match aggregated(&head.headers) {
            Some(form) => aggregate(&registry, true, form, &head.headers),
            None => json_response(StatusCode::OK, &core_versions()),
        },
        ["apis"] => match aggregated(&head.headers) {
            Some(form) => aggregate(&registry, false, form, &head.headers),
            None => json_response(StatusCode::OK, &groups(&registry)),
        },
        ["api", version] => resources(&registry, "", version)?,
        ["apis", group] => match group_entry(&registry, group) {
            Some(entry) => json_response(StatusCode::OK, &entry),
            None => return Err(ApiError::unknown_path()),
        },
        ["apis", group, version] => resources(&registry, group, version)?,
        ["openapi", rest @ ..] => openapi::answer(&registry, rest, head)?,
        _ => return Ok(None),
    };
    get_only(head, response)
}

fn get_only(head: &http::request::Parts, response: Response<Body>) -> ApiResult<Option<Response<Body>>> {
    match head.method {
        Method::GET | Method::HEAD => Ok(Some(response)),
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": concat!("v1.36.0+weir.", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": concat!("linux/", "amd64"),
    })
}

fn health(kind: &str, rest: &[&str], head: &http::request::Parts) -> Response<Body> {
    let verbose = head
        .uri
        .query()
        .is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    let text = match rest {
        [] if verbose => format!("[+]ping ok\n[+]store ok\n{kind} check passed\n"),
        [] | ["ping" | "store"] => "ok".to_owned(),
        _ => {
            return respond(
                StatusCode::NOT_FOUND,
                "text/plain; charset=utf-8",
                full(Bytes::from("404 page not found\n")),
            );
        }
    };
    respond(StatusCode::OK, "text/plain; charset=utf-8", full(Bytes::from(text)))
}

fn index(registry: &Registry) -> BTreeSet<String> {
    let mut paths: BTreeSet<String> = [
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .into();
    for resource in registry.all().filter(|resource| !resource.group.is_empty()) {
        paths.insert(format!("/apis/{}", resource.group));
        for version in resource.versions.iter().filter(|version| version.served) {
            paths.insert(format!("/apis/{}/{}", resource.group, version.name));
        }
    }
    paths
}

fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// The groups (without the core one) in the order in which clients should prefer them.
fn group_names(registry: &Registry) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for resource in registry.all() {
        if !resource.group.is_empty() && !names.contains(&resource.group.as_str()) {
            names.push(&resource.group);
        }
    }
    names
}

/// The served versions of a group, the preferred one first.
pub(crate) fn group_versions<'a>(registry: &'a Registry, group: &str) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for resource in registry.all().filter(|resource| resource.group == group) {
        for version in resource.versions.iter().filter(|version| version.served) {
            if !names.contains(&version.name.as_str()) {
                names.push(&version.name);
            }
        }
    }
    names.sort_by(|a, b| version_priority(b).cmp(&version_priority(a)).then_with(|| a.cmp(b)));
    names
}

/// Kubernetes' order of version names: stable before beta before alpha, higher numbers first, everything else last.
pub(crate) fn version_priority(name: &str) -> (u8, u32, u32) {
    let parse = || -> Option<(u8, u32, u32)> {
        let rest = name.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        if tail.is_empty() {
            return Some((3, major, 0));
        }
        if let Some(minor) = tail.strip_prefix("beta") {
            return Some((2, major, minor.parse().ok()?));
        }
        Some((1, major, tail.strip_prefix("alpha")?.parse().ok()?))
    };
    parse().unwrap_or((0, 0, 0))
}

fn group_entry(registry: &Registry, group: &str) -> Option<Value> {
    let versions = group_versions(registry, group);
    let entry = |version: &&str| json!({"groupVersion": api_version(group, version), "version": version});
    let preferred = entry(versions.first()?);
    Some(json!({
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": group,
        "versions": versions.iter().map(entry).collect::<Vec<_>>(),
        "preferredVersion": preferred,
    }))
}

fn groups(registry: &Registry) -> Value {
    let groups: Vec<Value> = group_names(registry)
        .into_iter()
        .filter_map(|group| {
            let mut entry = group_entry(registry, group)?;
            if let Value::Object(map) = &mut entry {
                map.shift_remove("kind");
                map.shift_remove("apiVersion");
            }
            Some(entry)
        })
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn resources(registry: &Registry, group: &str, version: &str) -> ApiResult<Response<Body>> {
    let mut list: Vec<Value> = Vec::new();
    let mut found: Vec<(&Arc<Resource>, &Arc<Version>)> = registry
        .all()
        .filter(|resource| resource.group == group)
        .filter_map(|resource| Some((resource, resource.version(version)?)))
        .collect();
    if found.is_empty() {
        return Err(ApiError::unknown_path());
    }
    found.sort_by(|a, b| a.0.plural.cmp(&b.0.plural));
    for (resource, version) in found {
        list.push(resource_entry(resource, version));
        list.extend(version.subresources.iter().map(|sub| subresource_entry(resource, sub)));
    }
    let mut document = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version(group, version), "resources": list});
    if group.is_empty() {
        // As the real one has it: the core list states no apiVersion.
        if let Value::Object(map) = &mut document {
            map.shift_remove("apiVersion");
        }
    }
    Ok(json_response(StatusCode::OK, &document))
}

fn resource_entry(resource: &Resource, version: &Version) -> Value {
    let mut entry = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": version.verbs,
    });
    add_names(&mut entry, resource);
    entry
}

fn add_names(entry: &mut Value, resource: &Resource) {
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
}

fn subresource_entry(resource: &Resource, sub: &Subresource) -> Value {
    let mut entry = Map::new();
    entry.insert("name".to_owned(), Value::from(format!("{}/{}", resource.plural, sub.name)));
    entry.insert("singularName".to_owned(), Value::from(""));
    entry.insert("namespaced".to_owned(), Value::from(resource.namespaced));
    if sub.group != resource.group {
        entry.insert("group".to_owned(), Value::from(sub.group.as_str()));
        entry.insert("version".to_owned(), Value::from(sub.version.as_str()));
    }
    entry.insert("kind".to_owned(), Value::from(sub.kind.as_str()));
    entry.insert("verbs".to_owned(), json!(sub.verbs));
    Value::Object(entry)
}

/// The version of the aggregated form that the client asks for, if it does.
fn aggregated(headers: &HeaderMap) -> Option<&'static str> {
    for range in media_ranges(headers, header::ACCEPT) {
        let wanted = range.parameter("g") == Some("apidiscovery.k8s.io")
            && range.parameter("as") == Some("APIGroupDiscoveryList");
        match (range.media_type, wanted, range.parameter("v")) {
            ("application/json", true, Some("v2")) => return Some("v2"),
            ("application/json", true, Some("v2beta1")) => return Some("v2beta1"),
            ("application/json", false, _) => return None,
            _ => {}
        }
    }
    None
}

fn aggregate(registry: &Registry, core: bool, form: &'static str, headers: &HeaderMap) -> Response<Body> {
    let names = if core { vec![""] } else { group_names(registry) };
    let items: Vec<Value> = names.into_iter().map(|group| aggregated_group(registry, group)).collect();
    let document = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{form}"),
        "metadata": {},
        "items": items,
    });
    let body = Bytes::from(document.to_string());
    let etag = format!("\"{}\"", openapi::hash(&body));
    let media_type = match form {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    };
    let unchanged =
        headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()) == Some(etag.as_str());
    let mut response = if unchanged {
        respond(StatusCode::NOT_MODIFIED, media_type, full(Bytes::new()))
    } else {
        respond(StatusCode::OK, media_type, full(body))
    };
    let out = response.headers_mut();
    out.insert(header::VARY, HeaderValue::from_static("Accept"));
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        out.insert(header::ETAG, etag);
    }
    response
}

fn aggregated_group(registry: &Registry, group: &str) -> Value {
    let versions: Vec<Value> = group_versions(registry, group)
        .into_iter()
        .map(|name| {
            let mut found: Vec<(&Arc<Resource>, &Arc<Version>)> = registry
                .all()
                .filter(|resource| resource.group == group)
                .filter_map(|resource| Some((resource, resource.version(name)?)))
                .collect();
            found.sort_by(|a, b| a.0.plural.cmp(&b.0.plural));
            let resources: Vec<Value> =
                found.into_iter().map(|(resource, version)| aggregated_resource(resource, version)).collect();
            json!({"version": name, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(resource: &Resource, version: &Version) -> Value {
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": version.name, "kind": resource.kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": version.verbs,
    });
    add_names(&mut entry, resource);
    if !version.subresources.is_empty() {
        let subresources: Vec<Value> = version
            .subresources
            .iter()
            .map(|sub| {
                json!({
                    "subresource": sub.name,
                    "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
                    "verbs": sub.verbs,
                })
            })
            .collect();
        entry["subresources"] = Value::from(subresources);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_as_kubernetes_does() {
        let mut names = ["v1beta1", "foo", "v2", "v1alpha2", "v10", "v1", "v1beta2"];
        names.sort_by_key(|name| std::cmp::Reverse(version_priority(name)));
        assert_eq!(names, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha2", "foo"]);
    }
}

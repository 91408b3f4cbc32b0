//! Where requests meet `weir-schema`: bodies, patches, defaults and validation, ownership of fields.
//!
//! Owns: the compiled schema of every served version, and the wording of what a body or patch can have wrong.
//! Invariant: a schema is compiled once, when first asked for, and lives as long as the version it belongs to.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use weir_schema::patch::apply::{ApplyError, Writer};
use weir_schema::patch::{self, PatchError};
use weir_schema::{AdmitError, FieldError, FieldValidation, Structural};

use crate::error::{ApiError, ApiResult, Cause};
use crate::object;
use crate::protobuf;
use crate::registry::{Resource, Version, split_api_version};
use crate::rest::body::read_json;
use crate::rest::{Api, Call};

/// Media types of request bodies, for 415.
const BODY_TYPES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Media types of patches, for 415.
const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// The built-in components by name, and the names by group, version and kind.
pub(crate) struct Components {
    pub(crate) schemas: Map<String, Value>,
    by_kind: BTreeMap<(String, String, String), String>,
}

/// The built-in components; read once.
pub(crate) fn components() -> &'static Components {
    static COMPONENTS: OnceLock<Components> = OnceLock::new();
    COMPONENTS.get_or_init(|| {
        // The document is part of the program; a test reads it whole.
        let schemas: Map<String, Value> =
            serde_json::from_str(weir_schema::builtin::SCHEMAS).unwrap_or_default();
        let mut by_kind = BTreeMap::new();
        for (name, schema) in &schemas {
            for gvk in object::array(schema, "/x-kubernetes-group-version-kind") {
                let part = |key: &str| object::text(gvk, key).to_owned();
                by_kind.insert((part("/group"), part("/version"), part("/kind")), name.clone());
            }
        }
        Components { schemas, by_kind }
    })
}

impl Components {
    /// The component of a kind.
    pub(crate) fn of_kind(&self, group: &str, version: &str, kind: &str) -> Option<&str> {
        self.by_kind.get(&(group.to_owned(), version.to_owned(), kind.to_owned())).map(String::as_str)
    }
}

/// The compiled schema of a version; `None` when the kind has none.
pub(crate) fn structural<'a>(resource: &Resource, version: &'a Version) -> Option<&'a Structural> {
    let compile = || {
        if resource.custom {
            return Structural::compile(&version.openapi).ok();
        }
        // Events are kept and judged in their `v1` form, whichever group they came through.
        let events = resource.plural == "events";
        let (group, name) =
            if events { ("", "v1") } else { (resource.group.as_str(), version.name.as_str()) };
        weir_schema::builtin::schema_for(group, name, &resource.kind)
    };
    version.schema.get_or_init(compile).as_ref()
}

fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// A request's body as a value. Keys that stand twice are refused or reported as the call's field validation says.
pub(crate) fn parse_body(call: &Call, body: &Bytes) -> ApiResult<Value> {
    match media_type(&call.content_type) {
        "" | "application/json" => {
            let (value, duplicates) = parse_json_strictly(body)?;
            let findings: Vec<String> =
                duplicates.iter().map(|path| format!("duplicate field {path:?}")).collect();
            match field_validation(call)? {
                FieldValidation::Strict if !findings.is_empty() => {
                    return Err(decode_error(call, AdmitError::Strict(findings)));
                }
                FieldValidation::Warn => findings.into_iter().for_each(|finding| call.warn(finding)),
                FieldValidation::Strict | FieldValidation::Ignore => {}
            }
            Ok(value)
        }
        "application/yaml" | "application/apply-patch+yaml" => parse_yaml(body),
        "application/vnd.kubernetes.protobuf" => protobuf::decode(body),
        _ => Err(ApiError::unsupported_media_type(BODY_TYPES)),
    }
}

fn parse_json(body: &Bytes) -> ApiResult<Value> {
    Ok(parse_json_strictly(body)?.0)
}

/// The value, and the paths of keys that stand twice.
fn parse_json_strictly(body: &Bytes) -> ApiResult<(Value, Vec<String>)> {
    read_json(body).map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")))
}

fn parse_yaml(body: &Bytes) -> ApiResult<Value> {
    serde_saphyr::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))
}

/// Refuses a body whose `apiVersion` or `kind` is not the call's; fills them in when absent.
pub(crate) fn check_kind(call: &Call, object: &Value) -> ApiResult<()> {
    if !object.is_object() {
        return Err(ApiError::bad_request("the body of the request is not an object"));
    }
    let (kind, api_version) = match call.version.subresource(&call.subresource) {
        Some(sub) => (sub.kind.clone(), crate::registry::api_version(&sub.group, &sub.version)),
        None => (call.resource.kind.clone(), call.api_version()),
    };
    let stated_kind = object::text(object, "/kind");
    let stated_version = object::text(object, "/apiVersion");
    if !stated_version.is_empty() && stated_version != api_version && stated_kind == kind {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({stated_version}) does not match the expected API version ({api_version})"
        )));
    }
    if (!stated_kind.is_empty() && stated_kind != kind)
        || (!stated_version.is_empty() && stated_version != api_version)
    {
        let (_, version) = split_api_version(stated_version);
        return Err(ApiError::bad_request(format!(
            "{stated_kind} in version {version:?} cannot be handled as a {kind}: no kind {stated_kind:?} is registered for version {api_version:?}"
        )));
    }
    Ok(())
}

fn field_validation(call: &Call) -> ApiResult<FieldValidation> {
    match call.params.field_validation.as_str() {
        "" | "Warn" => Ok(FieldValidation::Warn),
        "Strict" => Ok(FieldValidation::Strict),
        "Ignore" => Ok(FieldValidation::Ignore),
        other => {
            let cause =
                Cause::unsupported("fieldValidation", &Value::from(other), &["", "Ignore", "Strict", "Warn"]);
            Err(ApiError::invalid(
                crate::error::Subject::new("meta.k8s.io", "CreateOptions", ""),
                vec![cause],
            ))
        }
    }
}

/// Drops or refuses unknown fields, and refuses values that do not fit their fields.
pub(crate) fn decode(call: &Call, object: &mut Value) -> ApiResult<()> {
    let mode = field_validation(call)?;
    let Some(structural) = structural(&call.resource, &call.version) else { return Ok(()) };
    match structural.decode(object, mode) {
        Ok(findings) => {
            findings.into_iter().for_each(|finding| call.warn(finding));
            Ok(())
        }
        Err(error) => Err(decode_error(call, error)),
    }
}

/// Fills in the defaults of the schema.
pub(crate) fn default_fields(call: &Call, object: &mut Value) {
    if let Some(structural) = structural(&call.resource, &call.version) {
        structural.default(object);
    }
}

/// What the schema finds wrong with an object.
pub(crate) fn validate(call: &Call, old: Option<&Value>, object: &Value) -> Vec<Cause> {
    let Some(structural) = structural(&call.resource, &call.version) else { return Vec::new() };
    structural.validate(object, old).into_iter().map(cause).collect()
}

fn decode_error(call: &Call, error: AdmitError) -> ApiError {
    match error {
        AdmitError::Strict(findings) => {
            let (kind, version) = (&call.resource.kind, &call.version.name);
            ApiError::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {}",
                findings.join(", ")
            ))
        }
        AdmitError::BadRequest(text) if call.resource.custom => ApiError::bad_request(text),
        AdmitError::BadRequest(text) => {
            let (kind, version) = (&call.resource.kind, &call.version.name);
            ApiError::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: {text}"
            ))
        }
        AdmitError::Invalid(errors) => {
            ApiError::invalid(call.kind_subject(&call.name), errors.into_iter().map(cause).collect())
        }
    }
}

pub(crate) fn cause(error: FieldError) -> Cause {
    Cause { reason: error.kind.reason(), message: error.body(), field: error.path }
}

/// The cause of an error inside a schema that stands at `base`.
pub(crate) fn cause_below(error: FieldError, base: &str) -> Cause {
    let mut cause = cause(error);
    cause.field = match cause.field.as_str() {
        "" => base.to_owned(),
        path if path.starts_with('[') => format!("{base}{path}"),
        path => format!("{base}.{path}"),
    };
    cause
}

/// How written fields become somebody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldsOf {
    /// What this write changed is the writer's.
    Update,
    /// The same through the scale subresource.
    Scale,
}

/// Brings `metadata.managedFields` up to date after a create, update or patch. The status is nobody's but its
/// writers': it takes part only in writes to the status.
pub(crate) fn own_fields(api: &Api, call: &Call, old: Option<&Value>, object: &mut Value, how: FieldsOf) {
    let Some(structural) = structural(&call.resource, &call.version) else { return };
    let time = api.clock.seconds();
    let api_version = call.api_version();
    let subresource = if how == FieldsOf::Scale { "scale" } else { call.subresource.as_str() };
    let by = Writer { manager: &call.manager, api_version: &api_version, subresource, time: &time };
    let apart = call.version.has_status() && call.subresource != "status";
    let status = if apart { object::as_map(object).shift_remove("status") } else { None };
    let old = old.map(|old| {
        let mut old = std::borrow::Cow::Borrowed(old);
        if apart && old.get("status").is_some() {
            object::as_map(old.to_mut()).shift_remove("status");
        }
        old
    });
    patch::apply::update_managed_fields(structural, old.as_deref(), object, &by);
    if let Some(status) = status {
        object::as_map(object).insert("status".to_owned(), status);
    }
}

/// The same for what the server itself changed in the course of a write.
pub(crate) fn own_fields_as(
    api: &Api,
    call: &Call,
    manager: &str,
    subresource: &str,
    before: &Value,
    object: &mut Value,
) {
    let Some(structural) = structural(&call.resource, &call.version) else { return };
    let time = api.clock.seconds();
    let api_version = call.api_version();
    let by = Writer { manager, api_version: &api_version, subresource, time: &time };
    patch::apply::update_managed_fields(structural, Some(before), object, &by);
}

/// Whether a write changes nothing: equal but for the version and for when fields were last written.
pub(crate) fn is_same(old: &Value, new: &Value) -> bool {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return old == new };
    let fields = |map: &Map<String, Value>| map.iter().filter(|(key, _)| *key != "metadata").count();
    fields(old) == fields(new)
        && old.iter().all(|(key, value)| key == "metadata" || new.get(key) == Some(value))
        && is_same_metadata(old.get("metadata"), new.get("metadata"))
}

fn is_same_metadata(old: Option<&Value>, new: Option<&Value>) -> bool {
    let bare = |value: Option<&Value>| {
        let mut value = value.cloned().unwrap_or_else(|| json!({}));
        let map = object::as_map(&mut value);
        map.shift_remove("resourceVersion");
        if let Some(Value::Array(entries)) = map.get_mut("managedFields") {
            for entry in entries {
                object::as_map(entry).shift_remove("time");
            }
        }
        value
    };
    bare(old) == bare(new)
}

/// A patch of one of the four kinds.
pub(crate) enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    Apply { object: Value, force: bool },
}

impl Patch {
    pub(crate) fn decode(call: &Call, body: &Bytes) -> ApiResult<Patch> {
        let kind = media_type(&call.content_type);
        if kind != "application/apply-patch+yaml" && call.params.force.is_some() {
            let cause = Cause::forbidden("force", "may not be specified for non-apply patch");
            return Err(ApiError::invalid(
                crate::error::Subject::new("meta.k8s.io", "PatchOptions", ""),
                vec![cause],
            ));
        }
        match kind {
            "application/json-patch+json" => Ok(Patch::Json(parse_json(body)?)),
            "application/merge-patch+json" => Ok(Patch::Merge(parse_json(body)?)),
            "application/strategic-merge-patch+json" if !call.resource.custom => {
                Ok(Patch::Strategic(parse_json(body)?))
            }
            "application/apply-patch+yaml" => Patch::decode_apply(call, body),
            _ if call.resource.custom => {
                let known: Vec<&str> =
                    PATCH_TYPES.iter().copied().filter(|kind| !kind.contains("strategic")).collect();
                Err(ApiError::unsupported_media_type(&known))
            }
            _ => Err(ApiError::unsupported_media_type(PATCH_TYPES)),
        }
    }

    fn decode_apply(call: &Call, body: &Bytes) -> ApiResult<Patch> {
        if call.params.field_manager.is_empty() {
            let cause = Cause::required("fieldManager", "is required for apply patch");
            return Err(ApiError::invalid(
                crate::error::Subject::new("meta.k8s.io", "PatchOptions", ""),
                vec![cause],
            ));
        }
        let object = parse_yaml(body)?;
        for field in ["apiVersion", "kind"] {
            if object::text(&object, &format!("/{field}")).is_empty() {
                return Err(ApiError::bad_request(format!(
                    "invalid object type: Object '{field}' is missing"
                )));
            }
        }
        Ok(Patch::Apply { object, force: call.params.force.unwrap_or(false) })
    }

    pub(crate) fn is_apply(&self) -> bool {
        matches!(self, Patch::Apply { .. })
    }

    /// Whether the client named the version that its patch is for.
    pub(crate) fn names_version(&self) -> bool {
        match self {
            Patch::Json(_) => false,
            Patch::Merge(patch) | Patch::Strategic(patch) | Patch::Apply { object: patch, .. } => {
                object::revision(patch).is_some()
            }
        }
    }

    /// The object that the patch makes of the present one.
    pub(crate) fn apply(&self, api: &Api, call: &Call, current: &Value) -> ApiResult<Value> {
        let mut shown = crate::rest::encode::versioned(call, current);
        let refused = |error: PatchError| patch_error(call, current, error);
        match self {
            Patch::Json(patch) => patch::json::apply(&shown, patch).map_err(refused),
            Patch::Merge(patch) => Ok(patch::merge::apply(&shown, patch)),
            Patch::Strategic(patch) => match structural(&call.resource, &call.version) {
                Some(structural) => patch::strategic::apply(structural, &shown, patch).map_err(refused),
                None => Err(ApiError::unsupported_media_type(PATCH_TYPES)),
            },
            Patch::Apply { object, force } => {
                object::set_meta(&mut shown, "resourceVersion", None);
                self.serve_apply(api, call, Some(&shown), object, *force)
            }
        }
    }

    /// The object that server-side apply makes where there is none.
    pub(crate) fn apply_to_nothing(&self, api: &Api, call: &Call) -> ApiResult<Value> {
        match self {
            Patch::Apply { object, force } => self.serve_apply(api, call, None, object, *force),
            _ => Err(ApiError::not_found(call.subject(&call.name))),
        }
    }

    fn serve_apply(
        &self,
        api: &Api,
        call: &Call,
        live: Option<&Value>,
        applied: &Value,
        force: bool,
    ) -> ApiResult<Value> {
        let Some(structural) = structural(&call.resource, &call.version) else {
            return Err(ApiError::unsupported_media_type(&PATCH_TYPES[..2]));
        };
        let mut applied = applied.clone();
        check_kind(call, &applied)?;
        object::set_meta(&mut applied, "name", Some(Value::from(call.name.as_str())));
        if call.resource.namespaced {
            object::set_meta(&mut applied, "namespace", Some(Value::from(call.namespace.as_str())));
        }
        if applied
            .pointer("/metadata/managedFields")
            .is_some_and(|fields| !object::array(&json!({"f": fields}), "/f").is_empty())
        {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        decode(call, &mut applied)?;
        let time = api.clock.seconds();
        let api_version = call.api_version();
        let by = Writer {
            manager: &call.manager,
            api_version: &api_version,
            subresource: &call.subresource,
            time: &time,
        };
        patch::apply::apply(structural, live, &applied, &by, force).map_err(apply_error)
    }

    /// The `Scale` that the patch makes of the present one.
    pub(crate) fn apply_to_scale(&self, call: &Call, scale: &Value) -> ApiResult<Value> {
        let refused = |error: PatchError| patch_error(call, scale, error);
        match self {
            Patch::Json(patch) => patch::json::apply(scale, patch).map_err(refused),
            // A scale has no lists: strategic and merge are the same, and all its fields have one owner.
            Patch::Merge(patch) | Patch::Strategic(patch) | Patch::Apply { object: patch, .. } => {
                Ok(patch::merge::apply(scale, patch))
            }
        }
    }
}

fn patch_error(call: &Call, current: &Value, error: PatchError) -> ApiError {
    match error {
        PatchError::Malformed(text) => ApiError::bad_request(text),
        PatchError::DoesNotFit(text) => {
            ApiError::unprocessable(call.kind_subject(object::name(current)), &text)
        }
    }
}

fn apply_error(error: ApplyError) -> ApiError {
    let message = error.to_string();
    match error {
        ApplyError::Malformed(_) => ApiError::bad_request(message),
        ApplyError::Conflicts(conflicts) => {
            let causes = conflicts
                .iter()
                .map(|conflict| Cause::field_manager_conflict(&conflict.field, &conflict.manager))
                .collect();
            ApiError::apply_conflict(message, causes)
        }
    }
}

/// A `metav1.LabelSelector` as the text that selectors are written in.
pub(crate) fn selector_text(selector: &Value) -> String {
    let mut parts: Vec<String> = Vec::new();
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        parts.extend(
            labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())),
        );
    } else if selector.get("matchExpressions").is_none() {
        // The plain map of a ReplicationController or Service.
        if let Some(labels) = selector.as_object() {
            parts.extend(
                labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())),
            );
        }
    }
    parts.sort();
    for expression in object::array(selector, "/matchExpressions") {
        let key = object::text(expression, "/key");
        let mut values: Vec<&str> =
            object::array(expression, "/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        parts.push(match object::text(expression, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_served_builtin_kind_has_a_schema_that_compiles() {
        let registry = crate::registry::Registry::builtin();
        for resource in registry.all() {
            for version in &resource.versions {
                assert!(structural(resource, version).is_some(), "{} {}", resource.kind, version.name);
            }
        }
    }

    #[test]
    fn a_write_that_changes_only_times_changes_nothing() {
        let old = json!({"metadata": {"name": "a", "resourceVersion": "1", "managedFields": [{"manager": "m", "time": "x"}]}, "spec": {"a": 1}});
        let mut new = json!({"spec": {"a": 1}, "metadata": {"managedFields": [{"manager": "m", "time": "y"}], "name": "a", "resourceVersion": "2"}});
        assert!(is_same(&old, &new));
        new["spec"]["a"] = json!(2);
        assert!(!is_same(&old, &new));
    }

    #[test]
    fn selectors_are_written_as_kubectl_shows_them() {
        let selector = json!({"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": [{"key": "t", "operator": "In", "values": ["y", "x"]}, {"key": "e", "operator": "Exists"}]});
        assert_eq!(selector_text(&selector), "a=1,b=2,t in (x,y),e");
    }
}

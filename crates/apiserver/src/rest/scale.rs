//! The `scale` subresource: the same few fields for everything that has replicas.

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::write::{ATTEMPTS, Owning};
use super::{Api, Call};
use crate::error::{ApiError, ApiResult, Cause, Subject};
use crate::object;
use crate::rest::encode::Reply;
use crate::schema::{self, FieldsOf};

impl Api {
    pub(super) fn update_scale(
        &self,
        call: &Call,
        change: impl Fn(&Value) -> ApiResult<Value>,
    ) -> ApiResult<Reply> {
        for _ in 0..ATTEMPTS {
            let current = self.find(call)?;
            let scale = change(&scale_of(call, &current.value)?)?;
            if object::revision(&scale).is_some_and(|named| named != current.revision) {
                return Err(ApiError::stale(call.subject(&call.name)));
            }
            let mut object = current.value.clone();
            set_replicas(call, &mut object, &scale)?;
            if let Some(stored) = self.replace(call, &current, object, Owning::Changes(FieldsOf::Scale))? {
                return Ok(Reply::Value(StatusCode::OK, scale_of(call, &stored.value)?));
            }
        }
        Err(ApiError::stale(call.subject(&call.name)))
    }
}

fn replicas_pointer(path: &str) -> String {
    path.replace('.', "/")
}

/// The `Scale` of an object that has one.
pub(crate) fn scale_of(call: &Call, stored: &Value) -> ApiResult<Value> {
    let count = |path: &str| stored.pointer(&replicas_pointer(path)).and_then(Value::as_i64);
    let (spec, status, selector) = match &call.version.scale {
        Some(paths) => {
            let selector = paths
                .label_selector
                .as_deref()
                .map(|path| object::text(stored, &replicas_pointer(path)).to_owned());
            let spec = count(&paths.spec_replicas).ok_or_else(|| {
                ApiError::internal(format!(
                    "the spec replicas field {:?} does not exist",
                    paths.spec_replicas
                ))
            })?;
            (spec, count(&paths.status_replicas), selector)
        }
        None => {
            let selector = stored.pointer("/spec/selector").map(schema::selector_text);
            (count(".spec.replicas").unwrap_or(0), count(".status.replicas"), selector)
        }
    };
    let mut meta = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = stored.get("metadata").and_then(|meta| meta.get(field)) {
            meta.insert(field.to_owned(), value.clone());
        }
    }
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": meta,
        "spec": {},
        "status": {"replicas": status.unwrap_or(0)},
    });
    if spec != 0 {
        scale["spec"]["replicas"] = Value::from(spec);
    }
    if let Some(selector) = selector.filter(|text| !text.is_empty()) {
        scale["status"]["selector"] = Value::from(selector);
    }
    Ok(scale)
}

fn set_replicas(call: &Call, object: &mut Value, scale: &Value) -> ApiResult<()> {
    let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    if replicas < 0 {
        let cause =
            Cause::invalid("spec.replicas", &Value::from(replicas), "must be greater than or equal to 0");
        let subject = Subject::new("autoscaling", "Scale", &call.name);
        return Err(ApiError::invalid(subject, vec![cause]));
    }
    let path = call.version.scale.as_ref().map_or(".spec.replicas", |paths| paths.spec_replicas.as_str());
    let mut place = object;
    let mut parts = path.trim_start_matches('.').split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            object::as_map(place).insert(part.to_owned(), Value::from(replicas));
            return Ok(());
        }
        place = object::child(place, part);
    }
    Ok(())
}

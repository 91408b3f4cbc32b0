//! What the built-in kinds demand of an object beyond its schema.
//!
//! Owns: what a create and an update may set (status apart from the rest, generation), the defaults that are in
//! Kubernetes' Go code instead of its schema, names, addresses and ports of Services, admission policies.

pub(crate) mod defaults;
pub(crate) mod names;
mod policies;
pub(crate) mod services;
mod validate;

use policies::Policies;
pub(crate) use services::Grant;
use services::Services;

use base64::Engine as _;
use serde_json::{Value, json};
use weir_schema::cel::Policy;

use crate::crd;
use crate::error::{ApiResult, Cause};
use crate::object;
use crate::registry::{Resource, Version};
use crate::rest::{Api, Call};
use crate::schema;

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
    services: Services,
    policies: Policies,
}

impl Admission {
    pub(crate) fn new() -> Admission {
        Admission::default()
    }

    /// Takes what the object needs from a shared pool: a Service's address and ports.
    pub(crate) fn allocate(&self, call: &Call, old: Option<&Value>, object: &mut Value) -> ApiResult<Grant> {
        if call.resource.is("", "services") && call.subresource.is_empty() {
            return self.services.allocate(call, old, object);
        }
        Ok(Grant::default())
    }

    /// Gives back what a deleted object had.
    pub(crate) fn release(&self, call: &Call, object: &Value) {
        if call.resource.is("", "services") {
            self.services.release(object);
        }
    }

    /// Asks the admission policies. `object` is `None` for a deletion.
    pub(crate) fn policies(
        &self,
        api: &Api,
        call: &Call,
        operation: Operation,
        old: Option<&Value>,
        object: Option<&Value>,
    ) -> ApiResult<()> {
        self.policies.judge(api, call, operation, old, object)
    }
}

/// Built-in kinds whose `metadata.generation` counts changes of what is desired.
const WITH_GENERATION: &[(&str, &str)] = &[
    ("", "pods"),
    ("", "podtemplates"),
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
    if resource.is("", "namespaces") {
        object::child(object, "spec")["finalizers"] = json!(["kubernetes"]);
    }
    if resource.is("", "secrets") {
        encode_string_data(object);
    }
    if !resource.custom
        && let Some(status) = defaults::first_status(resource, object)
    {
        object::as_map(object).insert("status".to_owned(), status);
    }
}

/// What follows from the identity that the server gave: a job's pods are told from others by its uid.
pub(crate) fn complete_create(resource: &Resource, object: &mut Value) {
    if !resource.is("batch", "jobs") || object.pointer("/spec/manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    let (uid, name) = (object::uid(object).to_owned(), object::name(object).to_owned());
    let labels = [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ];
    for (key, value) in labels {
        object::child(object::child(object, "metadata"), "labels")[key] = Value::from(value.as_str());
        let template = object::child(object::child(object, "spec"), "template");
        object::child(object::child(template, "metadata"), "labels")[key] = Value::from(value.as_str());
    }
    let selector = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
    object::default_field(object::child(object, "spec"), "selector", selector);
}

/// `stringData` is a way to write `data`; it is not kept.
fn encode_string_data(secret: &mut Value) {
    let Some(Value::Object(plain)) = object::as_map(secret).shift_remove("stringData") else { return };
    for (key, value) in plain {
        let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
        object::child(secret, "data")[key] = Value::from(encoded);
    }
}

/// Puts a field of the stored object in place of what the client sent.
fn keep(old: &Value, object: &mut Value, key: &str) {
    let map = object::as_map(object);
    match old.get(key) {
        Some(value) => map.insert(key.to_owned(), value.clone()),
        None => map.shift_remove(key),
    };
}

/// Kinds whose metadata may be edited through their status. Source: their status strategies in kube-apiserver.
const METADATA_WITH_STATUS: &[(&str, &str)] =
    &[("", "nodes"), ("", "pods"), ("", "services"), ("", "namespaces")];

/// What a client may not set by an update: the status through the object, the rest through the status.
pub(crate) fn prepare_update(
    resource: &Resource,
    version: &Version,
    subresource: &str,
    old: &Value,
    object: &mut Value,
) {
    match subresource {
        "status" => {
            let mut next = old.clone();
            if METADATA_WITH_STATUS.iter().any(|(group, plural)| resource.is(group, plural)) {
                keep(object, &mut next, "metadata");
            } else {
                let managed = object.pointer("/metadata/managedFields").cloned();
                object::set_meta(&mut next, "managedFields", managed);
            }
            keep(object, &mut next, "status");
            *object = next;
        }
        "finalize" => keep(old, object, "status"),
        _ => {
            if version.has_status() {
                keep(old, object, "status");
            }
            if resource.is("", "namespaces") {
                keep(old, object, "spec");
            }
            if resource.is("", "secrets") {
                encode_string_data(object);
            }
        }
    }
}

/// The defaults that are in Kubernetes' code instead of its schema.
pub(crate) fn default_fields(resource: &Resource, object: &mut Value) {
    if crd::is_definition(resource) {
        crd::default_fields(object);
    } else if !resource.custom {
        defaults::apply(resource, object);
    }
}

/// What is wrong with an object of a built-in kind beyond its schema.
pub(crate) fn validate(resource: &Resource, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    if old.is_none() {
        causes.extend(names::validate(resource, object));
    } else {
        causes.extend(names::validate_common(object));
    }
    if !resource.custom {
        causes.extend(validate::validate(resource, object, old));
    }
    if crd::is_definition(resource) {
        causes.extend(crd::validate(object, old));
    }
    if resource.is("admissionregistration.k8s.io", "validatingadmissionpolicies")
        && let Err(errors) = Policy::compile(object)
    {
        causes.extend(errors.into_iter().map(schema::cause));
    }
    causes
}

//! Update and patch, and what all writes share.
//!
//! Owns: what happens to an object between a request's body and the store, in the order of a Kubernetes API server:
//! decode, system fields, admission, ownership of fields, commit. Invariants: what a write was computed from is
//! what it replaces (else it is computed anew, or refused where the client named a version); a write that changes
//! nothing takes no revision; a dry run stores nothing.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use crate::admission::{self, Operation};
use crate::crd;
use crate::error::{ApiError, ApiResult, Cause, Subject};
use crate::events;
use crate::object;
use crate::rest::encode::Reply;
use crate::rest::{Api, Call};
use crate::schema::{self, FieldsOf};
use crate::store::{Expected, Now, Refused, Stored};

/// Attempts of a write that names no version against objects that others change. Source: far over client-go's 5.
pub(super) const ATTEMPTS: usize = 64;

/// Whose the written fields become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owning {
    /// The writer's, as far as they changed.
    Changes(FieldsOf),
    /// That is in the object already: server-side apply made it.
    Settled,
}

impl Api {
    pub(crate) fn update(&self, call: &Call, body: &Bytes) -> ApiResult<Reply> {
        check_dry_run(call)?;
        let object = decode(call, body)?;
        if !object::name(&object).is_empty() && object::name(&object) != call.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                object::name(&object),
                call.name
            )));
        }
        let mut object = object;
        self.fit_namespace(call, &mut object)?;
        if call.subresource == "scale" {
            return self.update_scale(call, |_| Ok(object.clone()));
        }
        let named_version = object::revision(&object);
        if named_version.is_none() && needs_version(call) {
            let detail = "must be specified for an update";
            let cause = Cause::invalid("metadata.resourceVersion", &Value::from(0), detail);
            return Err(ApiError::invalid(call.kind_subject(&call.name), vec![cause]));
        }
        for _ in 0..ATTEMPTS {
            let current = self.find(call)?;
            if named_version.is_some_and(|named| named != current.revision) {
                return Err(ApiError::stale(call.subject(&call.name)));
            }
            match self.replace(call, &current, object.clone(), Owning::Changes(FieldsOf::Update))? {
                Some(stored) => return Ok(Reply::Object(StatusCode::OK, stored)),
                None if named_version.is_some() => return Err(ApiError::stale(call.subject(&call.name))),
                None => {}
            }
        }
        Err(ApiError::stale(call.subject(&call.name)))
    }

    pub(crate) fn patch(&self, call: &Call, body: &Bytes) -> ApiResult<Reply> {
        check_dry_run(call)?;
        let patch = schema::Patch::decode(call, body)?;
        if call.subresource == "scale" {
            return self.update_scale(call, |scale| patch.apply_to_scale(call, scale));
        }
        self.apply_patch(call, &patch)
    }

    /// Patches the object until nobody else writes meanwhile.
    pub(crate) fn apply_patch(&self, call: &Call, patch: &schema::Patch) -> ApiResult<Reply> {
        let key = object::key(&call.namespace, &call.name);
        for _ in 0..ATTEMPTS {
            let Some(current) = self.store.get(&call.resource.id, &key) else {
                if patch.is_apply() && call.subresource.is_empty() {
                    return self.create_by_apply(call, patch);
                }
                return Err(ApiError::not_found(call.subject(&call.name)));
            };
            let mut object = patch.apply(self, call, &current.value)?;
            as_stored(call, &mut object);
            if !patch.is_apply() {
                schema::decode(call, &mut object)?;
            }
            let named_version = object::revision(&object);
            if named_version.is_some_and(|named| named != current.revision) {
                return Err(ApiError::stale(call.subject(&call.name)));
            }
            let owning = if patch.is_apply() { Owning::Settled } else { Owning::Changes(FieldsOf::Update) };
            let done = self.replace(call, &current, object, owning)?;
            if let Some(stored) = done {
                return Ok(Reply::Object(StatusCode::OK, stored));
            }
            if patch.names_version() {
                return Err(ApiError::stale(call.subject(&call.name)));
            }
        }
        Err(ApiError::stale(call.subject(&call.name)))
    }

    fn create_by_apply(&self, call: &Call, patch: &schema::Patch) -> ApiResult<Reply> {
        if patch.names_version() {
            return Err(ApiError::stale(call.subject(&call.name)));
        }
        let mut object = patch.apply_to_nothing(self, call)?;
        as_stored(call, &mut object);
        let stored = self.create_object(call, object, Owning::Settled)?;
        Ok(Reply::Object(StatusCode::CREATED, stored))
    }

    /// `None`: somebody else wrote meanwhile.
    pub(super) fn replace(
        &self,
        call: &Call,
        current: &Arc<Stored>,
        mut object: Value,
        owning: Owning,
    ) -> ApiResult<Option<Arc<Stored>>> {
        let old = &current.value;
        keep_system_fields(call, old, &mut object)?;
        admission::prepare_update(&call.resource, &call.version, &call.subresource, old, &mut object);
        self.admit(call, Operation::Update, Some(old), &mut object)?;
        bump_generation(call, old, &mut object);
        if let Owning::Changes(how) = owning {
            schema::own_fields(self, call, Some(old), &mut object, how);
        }
        crd::settle(self, call, &mut object)?;
        let grant = self.admission.allocate(call, Some(old), &mut object)?;
        if schema::is_same(old, &object) {
            return Ok(Some(current.clone()));
        }
        if call.dry_run() {
            return Ok(Some(Arc::new(Stored::new(current.revision, object))));
        }
        let key = object::key(&call.namespace, &call.name);
        let expected = Expected::Revision(current.revision);
        let gone = is_done_terminating(call, &object);
        let effect = self.effect_of(call, Some(old), (!gone).then_some(&object));
        // The last word of the object is this update; then it is gone.
        let next = (!gone).then_some(object);
        let premise = |now: &Now<'_>| if gone { check_may_go(call, now) } else { Ok(()) };
        match self.store.commit_if(&call.resource.id, &key, expected, next, premise, effect) {
            Ok(stored) => {
                grant.keep();
                self.after_write(call, &stored, gone);
                Ok(Some(stored))
            }
            Err(Refused::Stale) => Ok(None),
            Err(Refused::Premise(error)) => Err(error),
        }
    }

    pub(super) fn admit(
        &self,
        call: &Call,
        operation: Operation,
        old: Option<&Value>,
        object: &mut Value,
    ) -> ApiResult<()> {
        schema::default_fields(call, object);
        admission::default_fields(&call.resource, object);
        let whole = call.subresource.is_empty();
        let mut causes = if whole { admission::validate(&call.resource, object, old) } else { Vec::new() };
        for cause in schema::validate(call, old, object) {
            // What was said about a place in the words of its kind is not said again in those of the schema.
            if call.resource.custom || !causes.iter().any(|said| said.field.starts_with(&cause.field)) {
                causes.push(cause);
            }
        }
        if !causes.is_empty() {
            return Err(ApiError::invalid(call.kind_subject(object::name(object)), causes));
        }
        self.admission.policies(self, call, operation, old, Some(object))
    }

    /// What must happen together with a commit, before anybody sees it.
    pub(super) fn effect_of<'a>(
        &'a self,
        call: &Call,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> impl FnOnce() + use<'a> {
        let reregister = crd::reregister(self, &call.resource, old, new);
        move || {
            if let Some(reregister) = reregister {
                self.change_registry(|registry| reregister.apply(registry));
            }
        }
    }

    /// What follows from a commit.
    pub(super) fn after_write(&self, call: &Call, stored: &Arc<Stored>, gone: bool) {
        if gone {
            self.admission.release(call, &stored.value);
            if call.resource.is("", "pods") {
                self.logs.forget(object::uid(&stored.value));
            }
        }
        crd::after_write(self, call, stored, gone);
    }
}

/// Whether an update must name the version that it replaces. Source: `AllowUnconditionalUpdate` in kube-apiserver's
/// registries.
fn needs_version(call: &Call) -> bool {
    call.resource.custom
        || call.resource.is("coordination.k8s.io", "leases")
        || call.resource.is("apiextensions.k8s.io", "customresourcedefinitions")
        || call.resource.is("admissionregistration.k8s.io", &call.resource.plural)
}

impl Call {
    /// The same request about one object of the collection.
    pub(super) fn about(&self, namespace: &str, name: &str) -> Call {
        Call {
            user: self.user.clone(),
            resource: self.resource.clone(),
            version: self.version.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: self.subresource.clone(),
            params: self.params.clone(),
            accept: self.accept,
            manager: self.manager.clone(),
            content_type: self.content_type.clone(),
            warnings: parking_lot::Mutex::new(Vec::new()),
        }
    }

    /// The same request about the object itself instead of a part of it.
    pub(crate) fn about_resource(&self, namespace: &str, name: &str) -> Call {
        Call { subresource: String::new(), ..self.about(namespace, name) }
    }
}

pub(super) fn check_dry_run(call: &Call) -> ApiResult<()> {
    match call.params.dry_run.iter().find(|value| *value != "All") {
        Some(other) => {
            let cause = Cause::unsupported("dryRun", &json!([other]), &["All"]);
            Err(ApiError::invalid(Subject::new("meta.k8s.io", "CreateOptions", ""), vec![cause]))
        }
        None => Ok(()),
    }
}

/// The body as a value, whatever it is; JSON or YAML.
pub(crate) fn decode_any(call: &Call, body: &Bytes) -> ApiResult<Value> {
    schema::parse_body(call, body)
}

/// The body as an object of the call's kind.
pub(super) fn decode(call: &Call, body: &Bytes) -> ApiResult<Value> {
    let mut object = decode_any(call, body)?;
    schema::check_kind(call, &object)?;
    // Eviction, Binding and Scale have fields of their own.
    if call.version.subresource(&call.subresource).is_none_or(|sub| sub.kind == call.resource.kind) {
        as_stored(call, &mut object);
        schema::decode(call, &mut object)?;
    }
    Ok(object)
}

/// Brings an object of the call's version into the form that is kept.
fn as_stored(call: &Call, object: &mut Value) {
    if call.resource.is("events.k8s.io", "events") {
        events::to_core_v1(object);
    }
    let version = call.resource.api_version(&call.resource.storage_version);
    object::as_map(object).insert("apiVersion".to_owned(), Value::from(version));
}

/// Copies what no client may change from the stored object.
fn keep_system_fields(call: &Call, old: &Value, object: &mut Value) -> ApiResult<()> {
    let stated_uid = object::uid(object);
    if !stated_uid.is_empty() && stated_uid != object::uid(old) {
        let why = format!(
            "Precondition failed: UID in precondition: {stated_uid}, UID in object meta: {}",
            object::uid(old)
        );
        return Err(ApiError::conflict(call.subject(&call.name), &why));
    }
    if object::is_terminating(old) {
        let had = object::finalizers(old);
        let new: Vec<String> = object::finalizers(object)
            .into_iter()
            .filter(|name| !had.contains(name))
            .map(|name| format!("{name:?}"))
            .collect();
        if !new.is_empty() {
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                new.join(", ")
            );
            let cause = Cause::forbidden("metadata.finalizers", &why);
            return Err(ApiError::invalid(call.kind_subject(&call.name), vec![cause]));
        }
    }
    let meta = old.get("metadata");
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "resourceVersion",
    ] {
        object::set_meta(object, field, meta.and_then(|meta| meta.get(field)).cloned());
    }
    object::set_meta(object, "selfLink", None);
    Ok(())
}

fn bump_generation(call: &Call, old: &Value, object: &mut Value) {
    if call.subresource == "status" || !admission::has_generation(&call.resource) {
        return;
    }
    let generation = object::generation(old);
    let next = if admission::desired_changed(&call.resource, &call.version, old, object) {
        generation + 1
    } else {
        generation
    };
    object::set_meta(object, "generation", Some(Value::from(next)));
    if call.resource.is("admissionregistration.k8s.io", "validatingadmissionpolicies") {
        // Nothing of a policy is left to observe later: it is compiled when it is written.
        object::child(object, "status")["observedGeneration"] = Value::from(next);
    }
}

/// A namespace goes only when nothing is left in it, whoever takes its finalizer away: what it held would be there
/// again in a namespace of the same name. (A real API server leaves this to its namespace controller.)
pub(super) fn check_may_go(call: &Call, now: &Now<'_>) -> ApiResult<()> {
    if !call.resource.is("", "namespaces") {
        return Ok(());
    }
    now.resource_in(&call.name).map_or(Ok(()), |left| {
        let why = format!("the namespace still holds {}", left.plural);
        Err(ApiError::conflict(call.subject(&call.name), &why))
    })
}

/// A terminating object whose last finalizer was just taken away.
fn is_done_terminating(call: &Call, object: &Value) -> bool {
    if !object::is_terminating(object) || !object::finalizers(object).is_empty() {
        return false;
    }
    if call.resource.is("", "namespaces") {
        return object::array(object, "/spec/finalizers").is_empty();
    }
    object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) == 0
}

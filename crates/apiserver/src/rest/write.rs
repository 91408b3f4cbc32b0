//! Create, update, patch, delete.
//!
//! Owns: what happens to an object between a request's body and the store, in the order of a Kubernetes API server: decode, system
//! fields, admission, ownership of fields, commit. Invariants: what a write was computed from is what it replaces (else it is computed anew, or
//! refused where the client named a version); a write that changes nothing takes no revision; a dry run stores nothing.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use jiff::SignedDuration;
use serde_json::{Map, Value, json};

use crate::Identity;
use crate::admission::{self, Operation};
use crate::clock;
use crate::crd;
use crate::error::{ApiError, ApiResult, Cause, Subject};
use crate::events;
use crate::object;
use crate::rest::encode::{List, Reply};
use crate::rest::{Api, Call, read};
use crate::schema::{self, FieldsOf};
use crate::store::{Expected, Stored};

/// Attempts of a write that names no version against objects that others change. Source: far over client-go's 5.
const ATTEMPTS: usize = 64;

/// Attempts to find a free generated name. Source: kube-apiserver, 8.
const NAME_ATTEMPTS: usize = 8;

/// Names of namespaces that cannot be deleted. Source: kube-apiserver's NamespaceLifecycle.
const IMMORTAL_NAMESPACES: &[&str] = &["default", "kube-system", "kube-public"];

/// What an update is allowed to be based on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Basis {
    /// The client sends the whole object.
    Put,
    /// The new object was made from the present one here.
    Patch,
}

impl Api {
    pub(crate) fn create(&self, call: &Call, body: &Bytes) -> ApiResult<Reply> {
        check_dry_run(call)?;
        if let Some(reply) = crate::reviews::answer(self, call, body)? {
            return Ok(reply);
        }
        match call.subresource.as_str() {
            "eviction" => return self.evict(call, body),
            "binding" => return self.bind(call, body),
            _ => {}
        }
        let object = decode(call, body)?;
        let stored = self.create_object(call, object, None)?;
        Ok(Reply::Object(StatusCode::CREATED, stored))
    }

    /// Creates from an object that is decoded. `applied` says that the fields' owner is known already (server-side apply).
    pub(crate) fn create_object(
        &self,
        call: &Call,
        object: Value,
        applied: Option<()>,
    ) -> ApiResult<Arc<Stored>> {
        let generated =
            object::name(&object).is_empty() && !object::meta_str(&object, "generateName").is_empty();
        let attempts = if generated { NAME_ATTEMPTS } else { 1 };
        let mut last = ApiError::internal("no attempt was made");
        for _ in 0..attempts {
            match self.create_once(call, object.clone(), applied) {
                Err(error) if error.reason() == "AlreadyExists" && generated => last = error,
                result => return result,
            }
        }
        Err(last)
    }

    fn create_once(&self, call: &Call, mut object: Value, applied: Option<()>) -> ApiResult<Arc<Stored>> {
        self.fit_namespace(call, &mut object)?;
        if object::name(&object).is_empty() {
            let prefix = object::meta_str(&object, "generateName").to_owned();
            if prefix.is_empty() {
                let cause = Cause::required("metadata.name", "name or generateName is required");
                return Err(ApiError::invalid(call.kind_subject(""), vec![cause]));
            }
            let name = generated_name(&prefix);
            object::set_meta(&mut object, "name", Some(Value::from(name)));
        }
        if !object::meta_str(&object, "resourceVersion").is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let name = object::name(&object).to_owned();
        let key = object::key(object::namespace(&object), &name);
        crd::check_takes_objects(call)?;
        self.check_namespace_takes(call, object::namespace(&object), &name)?;
        if self.store.get(&call.resource.id, &key).is_some() {
            return Err(ApiError::already_exists(call.subject(&name)));
        }
        admission::prepare_create(&call.resource, &call.version, &mut object);
        self.fill_new(call, &mut object);
        self.admit(call, Operation::Create, None, &mut object)?;
        if applied.is_none() {
            schema::own_fields(self, call, None, &mut object, FieldsOf::Update)?;
        }
        crd::settle(self, call, &mut object)?;
        let grant = self.admission.allocate(call, None, &mut object)?;
        if call.dry_run() {
            let mut stored = Stored::new(0, object);
            object::set_meta(&mut stored.value, "resourceVersion", None);
            return Ok(Arc::new(stored));
        }
        let effect = self.effect_of(call, None, Some(&object));
        match self.store.commit(&call.resource.id, &key, Expected::Absent, Some(object), effect) {
            Ok(stored) => {
                grant.keep();
                Ok(stored)
            }
            Err(_) => Err(ApiError::already_exists(call.subject(&name))),
        }
    }

    /// Creates a definition that comes with this program, without judging it. Its fields are owned as if `kubectl apply --server-side` had written
    /// it, so that a user can do just that with another bundle.
    pub(crate) fn install_definition(&self, call: &Call, object: Value) -> ApiResult<()> {
        let patch = schema::Patch::Apply { object, force: true };
        let mut object = patch.apply_to_nothing(self, call)?;
        admission::prepare_create(&call.resource, &call.version, &mut object);
        self.fill_new(call, &mut object);
        admission::default_fields(&call.resource, &mut object);
        crd::settle(self, call, &mut object)?;
        let effect = self.effect_of(call, None, Some(&object));
        let committed =
            self.store.commit(&call.resource.id, &call.name, Expected::Absent, Some(object), effect);
        committed.map(drop).map_err(|_| ApiError::already_exists(call.subject(&call.name)))
    }

    fn fit_namespace(&self, call: &Call, object: &mut Value) -> ApiResult<()> {
        let stated = object::namespace(object);
        if !call.resource.namespaced {
            if !stated.is_empty() {
                let text = "namespace may not be set on cluster-scoped objects";
                return Err(ApiError::bad_request(text));
            }
            return Ok(());
        }
        if stated.is_empty() {
            object::set_meta(object, "namespace", Some(Value::from(call.namespace.as_str())));
        } else if stated != call.namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        Ok(())
    }

    fn check_namespace_takes(&self, call: &Call, namespace: &str, name: &str) -> ApiResult<()> {
        if !call.resource.namespaced {
            return Ok(());
        }
        let registry = self.registry();
        let Some(namespaces) = registry.get("", "namespaces") else { return Ok(()) };
        match self.store.get(&namespaces.id, namespace) {
            None => Err(ApiError::not_found(Subject::new("", "namespaces", namespace))),
            Some(found) if object::is_terminating(&found.value) => {
                let why = format!(
                    "unable to create new content in namespace {namespace} because it is being terminated"
                );
                Err(ApiError::forbidden(call.subject(name), &why)
                    .with_cause(Cause::namespace_terminating(namespace)))
            }
            Some(_) => Ok(()),
        }
    }

    /// The fields that only the server sets.
    fn fill_new(&self, call: &Call, object: &mut Value) {
        let (uid, created) = match self.identity() {
            Identity::Random => (clock::random_uid(), self.clock.seconds()),
            Identity::Stable => {
                let (namespace, name) = (object::namespace(object), object::name(object));
                let uid = clock::stable_uid(&call.resource.group, &call.resource.kind, namespace, name);
                (uid, clock::STABLE_CREATION.to_owned())
            }
        };
        let meta = object::meta_mut(object);
        for field in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
            meta.shift_remove(field);
        }
        meta.insert("uid".to_owned(), Value::from(uid));
        meta.insert("creationTimestamp".to_owned(), Value::from(created));
    }

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
        for _ in 0..ATTEMPTS {
            let current = self.find(call)?;
            if named_version.is_some_and(|named| named != current.revision) {
                return Err(ApiError::stale(call.subject(&call.name)));
            }
            match self.replace_object(call, &current, object.clone(), Basis::Put)? {
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
            if !patch.is_apply() {
                schema::decode(call, &mut object)?;
            }
            let named_version = object::revision(&object);
            if named_version.is_some_and(|named| named != current.revision) {
                return Err(ApiError::stale(call.subject(&call.name)));
            }
            let basis = if patch.is_apply() { Basis::Put } else { Basis::Patch };
            let done = match patch.is_apply() {
                true => self.replace_applied(call, &current, object)?,
                false => self.replace_object(call, &current, object, basis)?,
            };
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
        let object = patch.apply_to_nothing(self, call)?;
        let stored = self.create_object(call, object, Some(()))?;
        Ok(Reply::Object(StatusCode::CREATED, stored))
    }

    /// Replaces an object by what server-side apply made, which has its ownership settled.
    fn replace_applied(
        &self,
        call: &Call,
        current: &Arc<Stored>,
        object: Value,
    ) -> ApiResult<Option<Arc<Stored>>> {
        self.replace(call, current, object, None)
    }

    fn replace_object(
        &self,
        call: &Call,
        current: &Arc<Stored>,
        object: Value,
        basis: Basis,
    ) -> ApiResult<Option<Arc<Stored>>> {
        let _ = basis;
        self.replace(call, current, object, Some(FieldsOf::Update))
    }

    /// `None`: somebody else wrote meanwhile.
    fn replace(
        &self,
        call: &Call,
        current: &Arc<Stored>,
        mut object: Value,
        own: Option<FieldsOf>,
    ) -> ApiResult<Option<Arc<Stored>>> {
        let old = &current.value;
        keep_system_fields(call, old, &mut object)?;
        admission::prepare_update(&call.resource, &call.version, &call.subresource, old, &mut object);
        self.admit(call, Operation::Update, Some(old), &mut object)?;
        bump_generation(call, old, &mut object);
        if let Some(own) = own {
            schema::own_fields(self, call, Some(old), &mut object, own)?;
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
        let result = if gone {
            // The last word of the object is this update; then it is gone.
            self.store.commit(&call.resource.id, &key, expected, None, effect)
        } else {
            self.store.commit(&call.resource.id, &key, expected, Some(object), effect)
        };
        match result {
            Ok(stored) => {
                grant.keep();
                self.after_write(call, &stored, gone);
                Ok(Some(stored))
            }
            Err(_) => Ok(None),
        }
    }

    fn admit(
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

    fn update_scale(&self, call: &Call, change: impl Fn(&Value) -> ApiResult<Value>) -> ApiResult<Reply> {
        for _ in 0..ATTEMPTS {
            let current = self.find(call)?;
            let scale = change(&scale_of(call, &current.value)?)?;
            if object::revision(&scale).is_some_and(|named| named != current.revision) {
                return Err(ApiError::stale(call.subject(&call.name)));
            }
            let mut object = current.value.clone();
            set_replicas(call, &mut object, &scale)?;
            if let Some(stored) = self.replace(call, &current, object, Some(FieldsOf::Scale))? {
                return Ok(Reply::Value(StatusCode::OK, scale_of(call, &stored.value)?));
            }
        }
        Err(ApiError::stale(call.subject(&call.name)))
    }

    pub(crate) fn delete(&self, call: &Call, body: &Bytes) -> ApiResult<Reply> {
        check_dry_run(call)?;
        let options = DeleteOptions::decode(call, body)?;
        for _ in 0..ATTEMPTS {
            let current = self.find(call)?;
            if let Some(reply) = self.delete_object(call, &current, &options)? {
                return Ok(reply);
            }
        }
        Err(ApiError::stale(call.subject(&call.name)))
    }

    pub(crate) fn delete_collection(&self, call: &Call, body: &Bytes) -> ApiResult<Reply> {
        check_dry_run(call)?;
        let options = DeleteOptions::decode(call, body)?;
        let selector = read::selector_of(call)?;
        let snapshot = self.store.snapshot(&call.resource.id);
        let mut items = Vec::new();
        for (_, stored) in crate::store::in_namespace(&snapshot.objects, &call.namespace, None) {
            if !selector.matches(&stored.value) {
                continue;
            }
            let one = call.about(object::namespace(&stored.value), object::name(&stored.value));
            let mut current = stored.clone();
            for _ in 0..ATTEMPTS {
                match self.delete_object(&one, &current, &options) {
                    Ok(Some(_)) => {
                        items.push(current);
                        break;
                    }
                    Ok(None) => match self.find(&one) {
                        Ok(found) => current = found,
                        Err(_) => break,
                    },
                    Err(error) if error.code() == StatusCode::NOT_FOUND => break,
                    Err(error) => return Err(error),
                }
            }
        }
        let revision = self.store.revision();
        Ok(Reply::List(List { revision, items, continue_token: String::new(), remaining: None }))
    }

    /// `None`: somebody else wrote meanwhile.
    fn delete_object(
        &self,
        call: &Call,
        current: &Arc<Stored>,
        options: &DeleteOptions,
    ) -> ApiResult<Option<Reply>> {
        let old = &current.value;
        options.check(call, current)?;
        self.check_may_delete(call, old)?;
        self.admission.policies(self, call, Operation::Delete, Some(old), None)?;
        let object = self.marked_for_deletion(call, old, options);
        let key = object::key(&call.namespace, &call.name);
        let expected = Expected::Revision(current.revision);
        let Some(mut object) = object else {
            if call.dry_run() {
                return Ok(Some(deleted_reply(call, current)));
            }
            let effect = self.effect_of(call, Some(old), None);
            return Ok(match self.store.commit(&call.resource.id, &key, expected, None, effect) {
                Ok(stored) => {
                    self.after_write(call, &stored, true);
                    Some(deleted_reply(call, &stored))
                }
                Err(_) => None,
            });
        };
        if schema::is_same(old, &object) {
            return Ok(Some(Reply::Object(StatusCode::OK, current.clone())));
        }
        bump_generation_for_deletion(call, old, &mut object);
        if call.dry_run() {
            return Ok(Some(Reply::Object(StatusCode::OK, Arc::new(Stored::new(current.revision, object)))));
        }
        let effect = self.effect_of(call, Some(old), Some(&object));
        match self.store.commit(&call.resource.id, &key, expected, Some(object), effect) {
            Ok(stored) => {
                self.after_write(call, &stored, false);
                Ok(Some(Reply::Object(StatusCode::OK, stored)))
            }
            Err(_) => Ok(None),
        }
    }

    fn check_may_delete(&self, call: &Call, old: &Value) -> ApiResult<()> {
        let name = object::name(old);
        if call.resource.is("", "namespaces") && IMMORTAL_NAMESPACES.contains(&name) {
            return Err(ApiError::forbidden(call.subject(name), "this namespace may not be deleted"));
        }
        Ok(())
    }

    /// The object with its deletion begun; `None` when nothing holds it back and it goes at once.
    fn marked_for_deletion(&self, call: &Call, old: &Value, options: &DeleteOptions) -> Option<Value> {
        let mut object = old.clone();
        let mut finalizers: Vec<String> = object::finalizers(old).into_iter().map(str::to_owned).collect();
        finalizers.retain(|name| name != "orphan" && name != "foregroundDeletion");
        match options.propagation.as_deref() {
            Some("Orphan") => finalizers.push("orphan".to_owned()),
            Some("Foreground") => finalizers.push("foregroundDeletion".to_owned()),
            None => finalizers = object::finalizers(old).into_iter().map(str::to_owned).collect(),
            Some(_) => {}
        }
        if crd::is_definition(&call.resource) {
            crd::mark_terminating(&mut object, &self.clock.seconds());
            finalizers = object::finalizers(&object).into_iter().map(str::to_owned).collect();
        }
        let grace = self.grace_seconds(call, old, options);
        let is_namespace = call.resource.is("", "namespaces");
        let held_namespace = is_namespace && !object::array(old, "/spec/finalizers").is_empty();
        if finalizers.is_empty() && grace == 0 && !held_namespace {
            return None;
        }
        let list = (!finalizers.is_empty()).then(|| Value::from(finalizers));
        object::set_meta(&mut object, "finalizers", list);
        let shorter = object
            .pointer("/metadata/deletionGracePeriodSeconds")
            .and_then(Value::as_i64)
            .is_none_or(|had| grace < had);
        if !object::is_terminating(old) || shorter {
            let at =
                self.clock.now().checked_add(SignedDuration::from_secs(grace)).unwrap_or(self.clock.now());
            let at = if object::is_terminating(old) {
                object::meta_str(old, "deletionTimestamp").to_owned()
            } else {
                clock::seconds_text(at)
            };
            object::set_meta(&mut object, "deletionTimestamp", Some(Value::from(at)));
            object::set_meta(&mut object, "deletionGracePeriodSeconds", Some(Value::from(grace)));
        }
        if is_namespace {
            object::as_map(object::child(&mut object, "status"))
                .insert("phase".to_owned(), Value::from("Terminating"));
            object::set_meta(&mut object, "deletionGracePeriodSeconds", None);
        }
        Some(object)
    }

    /// Seconds that the object may go on living; only pods on a node have any.
    fn grace_seconds(&self, call: &Call, old: &Value, options: &DeleteOptions) -> i64 {
        if !call.resource.is("", "pods") || object::text(old, "/spec/nodeName").is_empty() {
            return 0;
        }
        if matches!(object::text(old, "/status/phase"), "Succeeded" | "Failed") {
            return 0;
        }
        let own = old.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30);
        options.grace_seconds.unwrap_or(own).max(0)
    }

    fn evict(&self, call: &Call, body: &Bytes) -> ApiResult<Reply> {
        let eviction = decode_any(call, body)?;
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
    fn bind(&self, call: &Call, body: &Bytes) -> ApiResult<Reply> {
        let binding = decode(call, body)?;
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

    /// What must happen together with a commit, before anybody sees it.
    fn effect_of<'a>(
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
    fn after_write(&self, call: &Call, stored: &Arc<Stored>, gone: bool) {
        if gone {
            self.admission.release(call, &stored.value);
            if call.resource.is("", "pods") {
                self.logs.forget(object::uid(&stored.value));
            }
        }
        crd::after_write(self, call, stored, gone);
    }
}

impl Call {
    /// The same request about one object of the collection.
    fn about(&self, namespace: &str, name: &str) -> Call {
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
    fn about_resource(&self, namespace: &str, name: &str) -> Call {
        Call { subresource: String::new(), ..self.about(namespace, name) }
    }
}

fn generated_name(prefix: &str) -> String {
    /// Longest prefix before the suffix, so that the whole fits a label. Source: kube-apiserver, 63 - 5.
    const PREFIX_CHARS: usize = 58;
    let prefix: String = prefix.chars().take(PREFIX_CHARS).collect();
    format!("{prefix}{}", clock::name_suffix())
}

fn check_dry_run(call: &Call) -> ApiResult<()> {
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
fn decode(call: &Call, body: &Bytes) -> ApiResult<Value> {
    let mut object = decode_any(call, body)?;
    schema::check_kind(call, &object)?;
    if call.resource.is("events.k8s.io", "events") {
        events::to_core_v1(&mut object);
    }
    // Eviction, Binding and Scale have fields of their own.
    if call.version.subresource(&call.subresource).is_none_or(|sub| sub.kind == call.resource.kind) {
        schema::decode(call, &mut object)?;
        let stored_version = call.resource.api_version(&call.resource.storage_version);
        object::as_map(&mut object).insert("apiVersion".to_owned(), Value::from(stored_version));
    }
    Ok(object)
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

/// The beginning of a deletion counts as a change of what is desired. Source: apiserver's `BeforeDelete`.
fn bump_generation_for_deletion(call: &Call, old: &Value, object: &mut Value) {
    if !object::is_terminating(old) && admission::has_generation(&call.resource) {
        object::set_meta(object, "generation", Some(Value::from(object::generation(old) + 1)));
    }
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

/// The condition that binding sets.
fn set_scheduled(pod: &mut Value, at: &str) {
    let status = object::child(pod, "status");
    let slot = object::as_map(status).entry("conditions").or_insert_with(|| json!([]));
    if let Value::Array(conditions) = slot {
        conditions.retain(|condition| object::text(condition, "/type") != "PodScheduled");
        conditions.push(json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": at}));
    }
}

/// What a delete asks for, from its body or its query.
#[derive(Debug, Default)]
struct DeleteOptions {
    uid: Option<String>,
    revision: Option<String>,
    propagation: Option<String>,
    grace_seconds: Option<i64>,
}

impl DeleteOptions {
    fn decode(call: &Call, body: &Bytes) -> ApiResult<DeleteOptions> {
        let mut options = if body.is_empty() {
            DeleteOptions::default()
        } else {
            DeleteOptions::from_value(&decode_any(call, body)?)?
        };
        let params = &call.params;
        if options.propagation.is_none() {
            options.propagation = match (params.propagation_policy.clone(), params.orphan_dependents) {
                (None, Some(true)) => Some("Orphan".to_owned()),
                (stated, _) => stated,
            };
        }
        options.grace_seconds = options.grace_seconds.or(params.grace_period_seconds);
        match options.propagation.as_deref() {
            None | Some("Orphan" | "Background" | "Foreground") => Ok(options),
            Some(other) => {
                let cause = Cause::unsupported(
                    "propagationPolicy",
                    &Value::from(other),
                    &["Foreground", "Background", "Orphan", "nil"],
                );
                Err(ApiError::invalid(Subject::new("meta.k8s.io", "DeleteOptions", ""), vec![cause]))
            }
        }
    }

    fn from_value(value: &Value) -> ApiResult<DeleteOptions> {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let propagation = match value.get("orphanDependents").and_then(Value::as_bool) {
            Some(true) => Some("Orphan".to_owned()),
            _ => text("/propagationPolicy"),
        };
        Ok(DeleteOptions {
            uid: text("/preconditions/uid"),
            revision: text("/preconditions/resourceVersion"),
            propagation,
            grace_seconds: value.get("gracePeriodSeconds").and_then(Value::as_i64),
        })
    }

    fn check(&self, call: &Call, current: &Stored) -> ApiResult<()> {
        let uid = object::uid(&current.value);
        if let Some(wanted) = self.uid.as_deref().filter(|wanted| *wanted != uid) {
            let why =
                format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}");
            return Err(ApiError::conflict(call.subject(&call.name), &why));
        }
        let revision = current.revision.to_string();
        if let Some(wanted) = self.revision.as_deref().filter(|wanted| *wanted != revision) {
            let why = format!(
                "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {revision}"
            );
            return Err(ApiError::conflict(call.subject(&call.name), &why));
        }
        Ok(())
    }
}

/// Kinds whose last state is the answer to their deletion. Source: `ReturnDeletedObject` in kube-apiserver's registries.
const RETURN_DELETED: &[(&str, &str)] = &[
    ("", "pods"),
    ("", "services"),
    ("", "serviceaccounts"),
    ("", "persistentvolumes"),
    ("", "persistentvolumeclaims"),
    ("", "podtemplates"),
];

fn deleted_reply(call: &Call, stored: &Arc<Stored>) -> Reply {
    if RETURN_DELETED.iter().any(|(group, plural)| call.resource.is(group, plural)) {
        return Reply::Object(StatusCode::OK, stored.clone());
    }
    let mut details = Map::new();
    details.insert("name".to_owned(), Value::from(object::name(&stored.value)));
    if !call.resource.group.is_empty() {
        details.insert("group".to_owned(), Value::from(call.resource.group.as_str()));
    }
    details.insert("kind".to_owned(), Value::from(call.resource.plural.as_str()));
    details.insert("uid".to_owned(), Value::from(object::uid(&stored.value)));
    Reply::Value(StatusCode::OK, success(Some(Value::Object(details))))
}

fn success(details: Option<Value>) -> Value {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if let Some(details) = details {
        status["details"] = details;
    }
    status
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

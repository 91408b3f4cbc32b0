//! Creation: from a body to a new object.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

use super::write::{self, Owning};
use super::{Api, Call};
use crate::Identity;
use crate::admission::{self, Operation};
use crate::clock;
use crate::crd;
use crate::error::{ApiError, ApiResult, Cause, Subject};
use crate::events;
use crate::object;
use crate::rest::encode::Reply;
use crate::schema;
use crate::store::{Expected, Now, Refused, ResourceId, Stored};

/// Attempts to find a free generated name. Source: kube-apiserver, 8.
const NAME_ATTEMPTS: usize = 8;

impl Api {
    pub(crate) fn create(&self, call: &Call, body: &Bytes) -> ApiResult<Reply> {
        write::check_dry_run(call)?;
        if let Some(reply) = crate::reviews::answer(self, call, body)? {
            return Ok(reply);
        }
        match call.subresource.as_str() {
            "eviction" => return self.evict(call, body),
            "binding" => return self.bind(call, body),
            "token" => return self.issue_token(call, body),
            _ => {}
        }
        let object = write::decode(call, body)?;
        let stored = self.create_object(call, object, Owning::Changes(schema::FieldsOf::Update))?;
        Ok(Reply::Object(StatusCode::CREATED, stored))
    }

    /// Creates an object of the server itself.
    pub(crate) fn create_own(&self, call: &Call, object: Value) -> ApiResult<()> {
        self.create_object(call, object, Owning::Changes(schema::FieldsOf::Update)).map(drop)
    }

    /// Creates from an object that is decoded.
    pub(super) fn create_object(&self, call: &Call, object: Value, owning: Owning) -> ApiResult<Arc<Stored>> {
        let generated =
            object::name(&object).is_empty() && !object::meta_str(&object, "generateName").is_empty();
        let attempts = if generated { NAME_ATTEMPTS } else { 1 };
        let mut last = ApiError::internal("no attempt was made");
        for _ in 0..attempts {
            match self.create_once(call, object.clone(), owning) {
                Err(error) if error.reason() == "AlreadyExists" && generated => last = error,
                result => return result,
            }
        }
        Err(last)
    }

    fn create_once(&self, call: &Call, mut object: Value, owning: Owning) -> ApiResult<Arc<Stored>> {
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
        let namespace = object::namespace(&object).to_owned();
        self.check_takes(call, &namespace, &name, |id, key| self.store.get(id, key))?;
        if self.store.get(&call.resource.id, &key).is_some() {
            return Err(ApiError::already_exists(call.subject(&name)));
        }
        admission::prepare_create(&call.resource, &call.version, &mut object);
        self.fill_new(call, &mut object);
        admission::complete_create(&call.resource, &mut object);
        self.admit(call, Operation::Create, None, &mut object)?;
        if let Owning::Changes(how) = owning {
            schema::own_fields(self, call, None, &mut object, how);
        }
        crd::settle(self, call, &mut object)?;
        let grant = self.admission.allocate(call, None, &mut object)?;
        if call.dry_run() {
            let mut stored = Stored::new(0, object);
            object::set_meta(&mut stored.value, "resourceVersion", None);
            return Ok(Arc::new(stored));
        }
        let effect = self.effect_of(call, None, Some(&object));
        // Asked again in the commit: a kind or a namespace that ends meanwhile would leave the object behind.
        let premise = |now: &Now<'_>| self.check_takes(call, &namespace, &name, |id, key| now.get(id, key));
        let id = &call.resource.id;
        match self.store.commit_if(id, &key, Expected::Absent, Some(object), premise, effect) {
            Ok(stored) => {
                grant.keep();
                if call.resource.id.plural.as_ref() == "events" && !call.resource.custom {
                    events::sweep(self);
                }
                Ok(stored)
            }
            Err(Refused::Stale) => Err(ApiError::already_exists(call.subject(&name))),
            Err(Refused::Premise(error)) => Err(error),
        }
    }

    /// Creates a definition that comes with this program, without judging it. Its fields are owned as if `kubectl
    /// apply --server-side` had written it, so that a user can do just that with another bundle.
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

    pub(super) fn fit_namespace(&self, call: &Call, object: &mut Value) -> ApiResult<()> {
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

    /// Whether the kind and the namespace of a new object are there and do not end; `get` reads what is stored.
    fn check_takes(
        &self,
        call: &Call,
        namespace: &str,
        name: &str,
        get: impl FnOnce(&ResourceId, &str) -> Option<Arc<Stored>>,
    ) -> ApiResult<()> {
        self.check_kind_takes(call)?;
        if !call.resource.namespaced {
            return Ok(());
        }
        match get(&ResourceId::new("", "namespaces"), namespace) {
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

    /// By the registry as it is now, not as it was when the call began.
    fn check_kind_takes(&self, call: &Call) -> ApiResult<()> {
        if !call.resource.custom {
            return Ok(());
        }
        match self.registry().get(&call.resource.group, &call.resource.plural) {
            None => Err(ApiError::unknown_path()),
            Some(resource) if resource.terminating => {
                Err(ApiError::create_while_terminating(call.subject("")))
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
}

fn generated_name(prefix: &str) -> String {
    /// Longest prefix before the suffix, so that the whole fits a label. Source: kube-apiserver, 63 - 5.
    const PREFIX_CHARS: usize = 58;
    let prefix: String = prefix.chars().take(PREFIX_CHARS).collect();
    format!("{prefix}{}", clock::name_suffix())
}

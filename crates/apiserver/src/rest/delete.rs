//! Deletion: at once, or begun and left to finalizers, kubelets and controllers.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use jiff::SignedDuration;
use serde_json::{Map, Value, json};

use super::write::{self, ATTEMPTS};
use super::{Api, Call, read};
use crate::admission::{self, Operation};
use crate::clock;
use crate::crd;
use crate::error::{ApiError, ApiResult, Cause, Subject};
use crate::object;
use crate::rest::encode::{List, Reply};
use crate::schema;
use crate::store::{Expected, Now, Refused, Stored};

/// Names of namespaces that cannot be deleted. Source: kube-apiserver's NamespaceLifecycle.
const IMMORTAL_NAMESPACES: &[&str] = &["default", "kube-system", "kube-public"];

impl Api {
    pub(crate) fn delete(&self, call: &Call, body: &Bytes) -> ApiResult<Reply> {
        write::check_dry_run(call)?;
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
        write::check_dry_run(call)?;
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
    pub(super) fn delete_object(
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
            let premise = |now: &Now<'_>| write::check_may_go(call, now);
            return match self.store.commit_if(&call.resource.id, &key, expected, None, premise, effect) {
                Ok(stored) => {
                    self.after_write(call, &stored, true);
                    Ok(Some(deleted_reply(call, &stored)))
                }
                Err(Refused::Stale) => Ok(None),
                Err(Refused::Premise(error)) => Err(error),
            };
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
}

/// The beginning of a deletion counts as a change of what is desired. Source: apiserver's `BeforeDelete`.
fn bump_generation_for_deletion(call: &Call, old: &Value, object: &mut Value) {
    if !object::is_terminating(old) && admission::has_generation(&call.resource) {
        object::set_meta(object, "generation", Some(Value::from(object::generation(old) + 1)));
    }
}

/// What a delete asks for, from its body or its query.
#[derive(Debug, Default)]
pub(super) struct DeleteOptions {
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
            DeleteOptions::from_value(&write::decode_any(call, body)?)?
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

    pub(super) fn from_value(value: &Value) -> ApiResult<DeleteOptions> {
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

/// Kinds whose last state is the answer to their deletion. Source: `ReturnDeletedObject` in kube-apiserver's
/// registries.
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

pub(super) fn success(details: Option<Value>) -> Value {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if let Some(details) = details {
        status["details"] = details;
    }
    status
}

//! `ValidatingAdmissionPolicy`: objects that say which objects may be written.
//!
//! Owns: finding the policies and parameters that a request is judged by. Invariant: a policy is compiled once for
//! each of its versions. The policies themselves are never judged by policies, so a wrong one can always be
//! deleted.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use weir_schema::cel::{Attributes, Binding, Policy, selector_matches};

use super::Operation;
use crate::error::{ApiError, ApiResult};
use crate::object;
use crate::registry::split_api_version;
use crate::rest::{Api, Call};
use crate::reviews;
use crate::store::{self, ResourceId, Stored};

const GROUP: &str = "admissionregistration.k8s.io";

/// A policy as it was compiled from a revision of its object; `None` when it does not compile.
type Compiled = (u64, Option<Arc<Policy>>);

/// Compiled policies by name.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    compiled: Mutex<HashMap<String, Compiled>>,
}

impl Policies {
    /// Asks every policy that is bound to this request.
    pub(crate) fn judge(
        &self,
        api: &Api,
        call: &Call,
        operation: Operation,
        old: Option<&Value>,
        object: Option<&Value>,
    ) -> ApiResult<()> {
        if call.resource.group == GROUP || call.resource.group.starts_with("auth") {
            return Ok(());
        }
        let bindings = api.store.snapshot(&ResourceId::new(GROUP, "validatingadmissionpolicybindings"));
        if bindings.objects.is_empty() {
            return Ok(());
        }
        let shown = object.or(old);
        let name = shown.map(object::name).unwrap_or_default().to_owned();
        // A namespace is in itself, as far as selectors for namespaces go.
        let namespace =
            if call.resource.is("", "namespaces") { name.as_str() } else { call.namespace.as_str() };
        let namespace_object = api.store.get(&ResourceId::new("", "namespaces"), namespace);
        let user = reviews::user_info(&call.user);
        let request = Attributes {
            operation: operation.into(),
            group: &call.resource.group,
            version: &call.version.name,
            resource: &call.resource.plural,
            subresource: &call.subresource,
            kind: &call.resource.kind,
            namespace: &call.namespace,
            name: &name,
            object,
            old_object: old,
            namespace_object: namespace_object.as_ref().map(|stored| &stored.value),
            user: &user,
            dry_run: call.dry_run(),
        };
        for (_, stored) in store::in_namespace(&bindings.objects, "", None) {
            let binding = Binding::read(&stored.value);
            let Some(policy) = self.policy(api, binding.policy()) else { continue };
            if !policy.applies(&binding, &request) {
                continue;
            }
            let params = params(api, &binding, call, binding.policy());
            let params: Vec<&Value> = params.iter().map(|stored| &stored.value).collect();
            let decision = policy.judge(&binding, &request, &params);
            decision.warnings.into_iter().for_each(|warning| call.warn(warning));
            if let Some(denial) = decision.denials.first() {
                return Err(ApiError::denied(call.subject(&name), denial));
            }
        }
        Ok(())
    }

    fn policy(&self, api: &Api, name: &str) -> Option<Arc<Policy>> {
        let stored = api.store.get(&ResourceId::new(GROUP, "validatingadmissionpolicies"), name)?;
        let mut compiled = self.compiled.lock();
        if let Some((revision, policy)) = compiled.get(name)
            && *revision == stored.revision
        {
            return policy.clone();
        }
        let policy = Policy::compile(&stored.value).ok().map(Arc::new);
        compiled.insert(name.to_owned(), (stored.revision, policy.clone()));
        policy
    }
}

/// The objects that a binding's `paramRef` names.
fn params(api: &Api, binding: &Binding, call: &Call, policy: &str) -> Vec<Arc<Stored>> {
    let find = || -> Option<Vec<Arc<Stored>>> {
        let reference = binding.param_ref()?;
        let policy = api.store.get(&ResourceId::new(GROUP, "validatingadmissionpolicies"), policy)?;
        let (group, _) = split_api_version(object::text(&policy.value, "/spec/paramKind/apiVersion"));
        let registry = api.registry();
        let resource = registry.by_kind(group, object::text(&policy.value, "/spec/paramKind/kind"))?;
        let namespace = match (resource.namespaced, object::text(reference, "/namespace")) {
            (false, _) => "",
            (true, "") => call.namespace.as_str(),
            (true, stated) => stated,
        };
        let name = object::text(reference, "/name");
        if !name.is_empty() {
            return Some(api.store.get(&resource.id, &object::key(namespace, name)).into_iter().collect());
        }
        let selector = reference.get("selector")?;
        let snapshot = api.store.snapshot(&resource.id);
        let nothing = Value::Null;
        Some(
            store::in_namespace(&snapshot.objects, namespace, None)
                .filter(|(_, stored)| {
                    selector_matches(selector, stored.value.pointer("/metadata/labels").unwrap_or(&nothing))
                })
                .map(|(_, stored)| stored.clone())
                .collect(),
        )
    };
    find().unwrap_or_default()
}

impl From<Operation> for weir_schema::cel::Operation {
    fn from(operation: Operation) -> weir_schema::cel::Operation {
        match operation {
            Operation::Create => weir_schema::cel::Operation::Create,
            Operation::Update => weir_schema::cel::Operation::Update,
            Operation::Delete => weir_schema::cel::Operation::Delete,
        }
    }
}

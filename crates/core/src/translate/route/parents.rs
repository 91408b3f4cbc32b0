//! The Gateways and ListenerSets of ours that a route names, or means by asking for the defaults.

use std::sync::Arc;

use weir_api::gateway_api::ParentReference;
use weir_api::kind_facts::GROUP;

use super::{Head, Neighbourhood};
use crate::objects::{Kind, ObjectKey, Presence};
use crate::translate::finding::Finding;
use crate::translate::gateway::Face;
use crate::translate::reading::{Reading, Unknown};

/// A parent of ours.
pub(super) struct Parent {
    /// Where the route says so.
    pub(super) field: String,
    pub(super) reference: ParentReference,
    /// The Gateway or ListenerSet.
    pub(super) owner: ObjectKey,
    pub(super) face: Arc<Face>,
}

/// Each reference once, in the order of the spec, then the defaults.
pub(super) fn of(
    head: &Head<'_>,
    around: &dyn Neighbourhood,
    reading: &mut Reading<'_>,
    findings: &mut Vec<Finding>,
) -> Vec<Parent> {
    let mut parents: Vec<Parent> = Vec::new();
    for (index, reference) in head.parents.iter().enumerate() {
        let Some(owner) = owner_of(reference, &head.key.namespace) else {
            continue;
        };
        let field = format!("spec.parentRefs[{index}]");
        if reading.presence(&owner, Unknown::Passes) == Presence::Absent {
            let message = format!("there is no {owner}, so nothing serves the route there");
            let reason = if owner.kind == Kind::Gateway { "GatewayNotFound" } else { "ListenerSetNotFound" };
            findings.push(Finding::error(field.clone(), reason, message));
        }
        let Some(face) = around.face(&owner) else {
            continue;
        };
        if parents.iter().all(|parent| parent.reference != *reference) {
            parents.push(Parent { field, reference: reference.clone(), owner, face });
        }
    }
    if head.uses_defaults {
        defaults(head, around, reading, &mut parents);
    }
    parents
}

/// The object that a parent reference names; `None` when it is of a kind that has no listeners.
fn owner_of(parent: &ParentReference, route_namespace: &str) -> Option<ObjectKey> {
    let namespace = parent.namespace.as_deref().unwrap_or(route_namespace);
    let kind = [Kind::Gateway, Kind::ListenerSet].into_iter().find(|kind| kind.as_str() == parent.kind)?;
    (parent.group == GROUP).then(|| ObjectKey::new(kind, namespace, parent.name.clone()))
}

/// The default Gateways that the route does not name anyway.
fn defaults(
    head: &Head<'_>,
    around: &dyn Neighbourhood,
    reading: &mut Reading<'_>,
    parents: &mut Vec<Parent>,
) {
    reading.note_read(&ObjectKey::default_gateways());
    for owner in around.default_gateways() {
        reading.note_read(&owner);
        let Some(face) = around.face(&owner).filter(|_| parents.iter().all(|p| p.owner != owner)) else {
            continue;
        };
        let reference = ParentReference {
            namespace: (owner.namespace != head.key.namespace).then(|| owner.namespace.clone()),
            name: owner.name.clone(),
            ..ParentReference::default()
        };
        parents.push(Parent { field: "spec.useDefaultGateways".to_owned(), reference, owner, face });
    }
}

//! One ListenerSet, as a part of its Gateway.

use std::sync::Arc;

use weir_api::condition::reasons;
use weir_api::gateway_api::{AllowedListeners, FromNamespaces, ListenerNamespaces, ListenerSet};

use super::finding::Finding;
use super::gateway::Face;
use super::listener::ListenerPlan;
use super::reading::{Reading, Unknown};
use crate::objects::{Kind, ObjectKey, Presence};

/// A set, judged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SetPlan {
    pub(crate) key: ObjectKey,
    pub(crate) generation: i64,
    /// Why the Gateway does not take it.
    pub(crate) refused: Option<String>,
    pub(crate) listeners: Vec<ListenerPlan>,
    /// What routes see.
    pub(crate) face: Arc<Face>,
    pub(crate) findings: Vec<Finding>,
}

/// What sets are ordered by: age, then `{namespace}/{name}` as one text, as the API says: `a-b/x` comes before `a/x`.
pub(super) fn precedence(set: &ListenerSet) -> (i64, String) {
    let metadata = &set.metadata;
    let created = metadata.creation_timestamp.map_or(0, |at| at.0);
    (created, format!("{}/{}", metadata.namespace, metadata.name))
}

/// Whether a Gateway takes sets of a namespace; `Err` says why not. While the namespace's labels are not known the
/// Gateway is held back, whatever the answer.
pub(super) fn allowed(
    gateway: &ObjectKey,
    spec: Option<&AllowedListeners>,
    namespace: &str,
    reading: &mut Reading<'_>,
) -> Result<(), String> {
    let of = format!("Gateway {}/{}", gateway.namespace, gateway.name);
    let default = ListenerNamespaces::default();
    let namespaces = spec.map_or(&default, |spec| &spec.namespaces);
    match &namespaces.from {
        FromNamespaces::All => return Ok(()),
        FromNamespaces::Same if gateway.namespace == namespace => return Ok(()),
        FromNamespaces::Same => return Err(format!("{of} takes ListenerSets of its own namespace only")),
        FromNamespaces::None => return Err(format!("{of} takes no ListenerSets")),
        FromNamespaces::Unknown(from) => {
            return Err(format!("{of} takes ListenerSets from {from:?}, which Weir does not know"));
        }
        FromNamespaces::Selector => {}
    }
    let Some(selector) = &namespaces.selector else {
        return Err(format!("{of} takes ListenerSets by a namespace selector that is not there"));
    };
    let key = ObjectKey::new(Kind::Namespace, "", namespace);
    let presence = reading.presence(&key, Unknown::Holds);
    let labels = reading.objects.namespace(namespace).map(|namespace| &namespace.metadata.labels);
    match (presence, labels) {
        (Presence::Present, Some(labels)) => match selector.matches(labels) {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("{of} takes no ListenerSets of namespace {namespace}")),
            Err(operator) => Err(format!("{of} has a namespace selector with unknown operator {operator:?}")),
        },
        _ => Err(format!("{of} takes no ListenerSets of namespace {namespace}, which is not there")),
    }
}

pub(super) fn not_allowed(message: &str) -> Finding {
    Finding::error("spec.parentRef", reasons::NOT_ALLOWED, message)
}

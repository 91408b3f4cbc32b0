//! Attachment: which listeners take a route, and on which hostnames.

use weir_api::condition::reasons;
use weir_api::gateway_api::{FromNamespaces, ParentReference};
use weir_api::kind_facts::GROUP;

use super::parents::Parent;
use crate::objects::{Kind, ObjectKey, Presence};
use crate::translate::finding::list;
use crate::translate::gateway::{Face, ListenerFace};
use crate::translate::hostname;
use crate::translate::reading::{Reading, Unknown};

/// Listeners that a message names.
pub(super) const LISTENERS_MAX: usize = 4;

/// What became of one parent reference.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Attached {
    To(Vec<Place>),
    Refused { reason: &'static str, message: String },
}

/// A listener that takes the route.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) section: String,
    /// Keys of the listener's resources; none when it is not served.
    pub(super) keys: Vec<String>,
    /// Never empty.
    pub(super) hostnames: Vec<String>,
}

/// Attaches a route with `hostnames` (in normal form; `None` when it has some and not one is usable).
pub(super) fn attach(
    parent: &Parent,
    route: &ObjectKey,
    hostnames: Option<&[String]>,
    reading: &mut Reading<'_>,
) -> Attached {
    let Parent { reference, owner, face, .. } = parent;
    if let Some(why) = &face.closed {
        let message = format!("{owner} is no part of its Gateway: {why}");
        return Attached::Refused { reason: reasons::NO_MATCHING_PARENT, message };
    }
    let named: Vec<&ListenerFace> =
        face.listeners.iter().filter(|listener| selects(reference, listener)).collect();
    if named.is_empty() {
        return Attached::Refused {
            reason: reasons::NO_MATCHING_PARENT,
            message: no_parent(owner, face, reference),
        };
    }
    let mut refusals = Vec::new();
    let mut allowed = Vec::new();
    for listener in named {
        match allows(listener, owner, route, reading) {
            Ok(()) => allowed.push(listener),
            Err(why) => refusals.push(format!("listener {} {why}", listener.name)),
        }
    }
    if allowed.is_empty() {
        let message = list(&refusals, LISTENERS_MAX);
        return Attached::Refused { reason: reasons::NOT_ALLOWED_BY_LISTENERS, message };
    }
    let places: Vec<Place> = allowed
        .iter()
        .map(|listener| Place {
            section: listener.name.clone(),
            keys: listener.keys.clone(),
            hostnames: hostnames.map_or(Vec::new(), |names| hostname::served(&listener.hostname, names)),
        })
        .filter(|place| !place.hostnames.is_empty())
        .collect();
    if places.is_empty() {
        let names: Vec<String> = allowed
            .iter()
            .map(|listener| {
                let host = if listener.hostname.is_empty() { "any host" } else { &listener.hostname };
                format!("listener {} ({host})", listener.name)
            })
            .collect();
        let message = format!("no hostname of the route is served by {}", list(&names, LISTENERS_MAX));
        return Attached::Refused { reason: reasons::NO_MATCHING_LISTENER_HOSTNAME, message };
    }
    Attached::To(places)
}

fn selects(parent: &ParentReference, listener: &ListenerFace) -> bool {
    parent.section_name.as_ref().is_none_or(|section| *section == listener.name)
        && parent.port.is_none_or(|port| port == listener.port)
}

fn no_parent(owner: &ObjectKey, face: &Face, parent: &ParentReference) -> String {
    let wanted = match (&parent.section_name, parent.port) {
        (Some(section), Some(port)) => format!("listener {section} on port {port}"),
        (Some(section), None) => format!("listener {section}"),
        (None, Some(port)) => format!("listener on port {port}"),
        (None, None) => "listener".to_owned(),
    };
    let present: Vec<String> = face.listeners.iter().map(|l| format!("{} ({})", l.name, l.port)).collect();
    if present.is_empty() {
        format!("{owner} has no {wanted}")
    } else {
        format!("{owner} has no {wanted}; it has {}", list(&present, LISTENERS_MAX))
    }
}

/// Whether the listener takes the route, by its kind and namespace; `Err` says why not. While the namespace's labels are
/// not known the route is held back, whatever the answer.
fn allows(
    listener: &ListenerFace,
    owner: &ObjectKey,
    route: &ObjectKey,
    reading: &mut Reading<'_>,
) -> Result<(), String> {
    if listener.kinds.iter().all(|kind| kind.group != GROUP || kind.kind != route.kind.as_str()) {
        return Err(format!("({}) takes no {}s", listener.protocol, route.kind));
    }
    match &listener.from {
        FromNamespaces::All => Ok(()),
        FromNamespaces::Same if owner.namespace == route.namespace => Ok(()),
        FromNamespaces::Same => Err(format!("takes routes of its own namespace {} only", owner.namespace)),
        FromNamespaces::Selector => selected(listener, &route.namespace, reading),
        FromNamespaces::None => Err("takes no routes".to_owned()),
        FromNamespaces::Unknown(from) => {
            Err(format!("takes routes of namespaces {from:?}, which is not a value that Weir knows"))
        }
    }
}

fn selected(listener: &ListenerFace, route_namespace: &str, reading: &mut Reading<'_>) -> Result<(), String> {
    let Some(selector) = &listener.selector else {
        return Err("takes routes by a namespace selector that is not there".to_owned());
    };
    let key = ObjectKey::new(Kind::Namespace, "", route_namespace);
    let presence = reading.presence(&key, Unknown::Holds);
    let labels = reading.objects.namespace(route_namespace).map(|namespace| &namespace.metadata.labels);
    match (presence, labels) {
        (Presence::Present, Some(labels)) => match selector.matches(labels) {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(format!("takes no routes of namespace {route_namespace}: its labels do not match"))
            }
            Err(operator) => Err(format!("has a namespace selector with unknown operator {operator:?}")),
        },
        _ => Err(format!("takes no routes of namespace {route_namespace}: it is not there")),
    }
}

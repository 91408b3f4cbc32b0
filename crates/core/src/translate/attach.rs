//! Attachment: which listeners take a route, and on which hostnames.

use weir_api::condition::reasons;
use weir_api::gateway::{FromNamespaces, GROUP};
use weir_api::route::ParentReference;

use super::finding::list;
use super::gateway::{Face, ListenerFace};
use super::hostname;
use super::reading::{Reading, Unknown};
use crate::objects::{Kind, ObjectKey, Presence};

/// Listeners that a message names.
const LISTENERS_MAX: usize = 4;

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

/// The Gateway that a parent reference names; `None` when it names something else.
pub(super) fn gateway_of(parent: &ParentReference, route_namespace: &str) -> Option<ObjectKey> {
    let namespace = parent.namespace.as_deref().unwrap_or(route_namespace);
    (parent.group == GROUP && parent.kind == "Gateway")
        .then(|| ObjectKey::new(Kind::Gateway, namespace, parent.name.clone()))
}

/// Attaches a route with `hostnames` (in normal form; `None` when it has some and not one is usable).
pub(super) fn attach(
    gateway: &ObjectKey,
    face: &Face,
    parent: &ParentReference,
    route_namespace: &str,
    hostnames: Option<&[String]>,
    reading: &mut Reading<'_>,
) -> Attached {
    let named: Vec<&ListenerFace> =
        face.listeners.iter().filter(|listener| selects(parent, listener)).collect();
    if named.is_empty() {
        return Attached::Refused {
            reason: reasons::NO_MATCHING_PARENT,
            message: no_parent(gateway, face, parent),
        };
    }
    let mut refusals = Vec::new();
    let mut allowed = Vec::new();
    for listener in named {
        match allows(listener, gateway, route_namespace, reading) {
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

fn no_parent(gateway: &ObjectKey, face: &Face, parent: &ParentReference) -> String {
    let wanted = match (&parent.section_name, parent.port) {
        (Some(section), Some(port)) => format!("listener {section} on port {port}"),
        (Some(section), None) => format!("listener {section}"),
        (None, Some(port)) => format!("listener on port {port}"),
        (None, None) => "listener".to_owned(),
    };
    let present: Vec<String> = face.listeners.iter().map(|l| format!("{} ({})", l.name, l.port)).collect();
    if present.is_empty() {
        format!("{gateway} has no {wanted}")
    } else {
        format!("{gateway} has no {wanted}; it has {}", list(&present, LISTENERS_MAX))
    }
}

/// Whether the listener takes HTTPRoutes of a namespace; `Err` says why not. While the namespace's labels are not
/// known the route is held back, whatever the answer.
fn allows(
    listener: &ListenerFace,
    gateway: &ObjectKey,
    route_namespace: &str,
    reading: &mut Reading<'_>,
) -> Result<(), String> {
    if !listener.takes_http_routes {
        return Err(format!("({}) takes no HTTPRoutes", listener.protocol));
    }
    match &listener.from {
        FromNamespaces::All => Ok(()),
        FromNamespaces::Same if gateway.namespace == route_namespace => Ok(()),
        FromNamespaces::Same => Err(format!("takes routes of its own namespace {} only", gateway.namespace)),
        FromNamespaces::Selector => selected(listener, route_namespace, reading),
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

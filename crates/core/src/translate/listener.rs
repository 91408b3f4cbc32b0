//! Listeners of one Gateway: what each is able to do, and which of them stand in each other's way.

use weir_api::condition::reasons;
use weir_api::gateway::{FromNamespaces, GROUP, Listener, Protocol, RouteGroupKind};
use weir_api::meta::LabelSelector;

use super::finding::{Finding, list};
use super::hostname;

/// Other listeners that a conflict's message names.
const RIVALS_MAX: usize = 4;

/// A listener, judged on the Gateway's spec alone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ListenerPlan {
    /// Position in the spec.
    pub(crate) index: usize,
    pub(crate) name: String,
    /// 1 to 65535 when the listener is accepted.
    pub(crate) port: i32,
    pub(crate) protocol: Protocol,
    /// In normal form; empty for any host.
    pub(crate) hostname: String,
    pub(crate) conflict: Option<Conflict>,
    /// Why the listener cannot be accepted, other than for a conflict.
    pub(crate) refused: Option<(&'static str, String)>,
    /// Route kinds that can attach.
    pub(crate) kinds: Vec<RouteGroupKind>,
    /// Why references in the listener cannot be used.
    pub(crate) unresolved: Option<(&'static str, String)>,
    pub(crate) from: FromNamespaces,
    pub(crate) selector: Option<LabelSelector>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conflict {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl ListenerPlan {
    /// Why the listener is not accepted.
    pub(crate) fn rejection(&self) -> Option<(&'static str, &str)> {
        let refused = self.refused.as_ref().map(|(reason, message)| (*reason, message.as_str()));
        refused.or_else(|| self.conflict.as_ref().map(|c| (c.reason, c.message.as_str())))
    }

    /// Whether the data plane is to have it.
    pub(crate) fn is_served(&self) -> bool {
        self.rejection().is_none() && !self.kinds.is_empty()
    }
}

/// Judges the listeners of a Gateway. Of listeners with one name only the first counts.
pub(crate) fn plan(listeners: &[Listener]) -> (Vec<ListenerPlan>, Vec<Finding>) {
    let mut plans: Vec<ListenerPlan> = Vec::with_capacity(listeners.len());
    let mut findings = Vec::new();
    for (index, listener) in listeners.iter().enumerate() {
        if plans.iter().any(|plan| plan.name == listener.name) {
            findings.push(Finding::error(
                format!("spec.listeners[{index}].name"),
                reasons::INVALID,
                format!("a listener before this one is called {} too; this one is left out", listener.name),
            ));
            continue;
        }
        let plan = judge(index, listener);
        for (at, problem) in [("", &plan.refused), (".allowedRoutes.kinds", &plan.unresolved)] {
            if let Some((reason, message)) = problem {
                findings.push(Finding::error(
                    format!("spec.listeners[{index}]{at}"),
                    reason,
                    message.clone(),
                ));
            }
        }
        plans.push(plan);
    }
    let conflicts: Vec<Option<Conflict>> = plans.iter().map(|plan| conflict(plan, &plans)).collect();
    for (plan, conflict) in plans.iter_mut().zip(conflicts) {
        if let Some(conflict) = &conflict {
            let field = format!("spec.listeners[{}]", plan.index);
            findings.push(Finding::error(field, conflict.reason, conflict.message.clone()));
        }
        plan.conflict = conflict;
    }
    (plans, findings)
}

fn judge(index: usize, listener: &Listener) -> ListenerPlan {
    let normal = listener.hostname.as_deref().map_or(Ok(String::new()), hostname::normal);
    let supported = listener.protocol == Protocol::Http;
    let refused = if !supported {
        let message = format!("protocol {} is not supported; HTTP is", listener.protocol);
        Some((reasons::UNSUPPORTED_PROTOCOL, message))
    } else if !(1..=65_535).contains(&listener.port) {
        Some((reasons::PORT_UNAVAILABLE, format!("{} is not a port number", listener.port)))
    } else if let Err(why) = &normal {
        let written = listener.hostname.as_deref().unwrap_or_default();
        Some((reasons::UNSUPPORTED_VALUE, format!("hostname {written:?} cannot be used: {why}")))
    } else {
        None
    };
    let (kinds, unresolved) =
        if supported { kinds(&listener.allowed_routes.kinds) } else { (Vec::new(), None) };
    ListenerPlan {
        index,
        name: listener.name.clone(),
        port: listener.port,
        protocol: listener.protocol.clone(),
        hostname: normal.unwrap_or_default(),
        conflict: None,
        refused,
        kinds,
        unresolved,
        from: listener.allowed_routes.namespaces.from.clone(),
        selector: listener.allowed_routes.namespaces.selector.clone(),
    }
}

/// The kinds that an HTTP listener takes, of those that it asks for.
fn kinds(asked: &[RouteGroupKind]) -> (Vec<RouteGroupKind>, Option<(&'static str, String)>) {
    let http_route = RouteGroupKind { group: GROUP.to_owned(), kind: "HTTPRoute".to_owned() };
    if asked.is_empty() {
        return (vec![http_route], None);
    }
    let mut kinds: Vec<RouteGroupKind> = asked.iter().filter(|kind| **kind == http_route).cloned().collect();
    kinds.dedup();
    let unknown: Vec<String> =
        asked.iter().filter(|kind| **kind != http_route).map(|k| format!("{}.{}", k.kind, k.group)).collect();
    let unresolved = (!unknown.is_empty()).then(|| {
        let named = list(&unknown, RIVALS_MAX);
        (reasons::INVALID_ROUTE_KINDS, format!("an HTTP listener takes HTTPRoutes; not supported: {named}"))
    });
    (kinds, unresolved)
}

/// What the wire needs to be told apart on one port.
#[derive(PartialEq)]
enum Family {
    Plain,
    Tls,
    Raw,
}

/// `None` for protocols that do not share TCP ports with others, or are not known.
fn family(protocol: &Protocol) -> Option<Family> {
    match protocol {
        Protocol::Http => Some(Family::Plain),
        Protocol::Https | Protocol::Tls => Some(Family::Tls),
        Protocol::Tcp => Some(Family::Raw),
        Protocol::Udp | Protocol::Unknown(_) => None,
    }
}

/// Listeners that a connection could not be told apart for are all in conflict: no one of them wins.
fn conflict(plan: &ListenerPlan, all: &[ListenerPlan]) -> Option<Conflict> {
    // A listener whose own values cannot be used is in nobody's way.
    let takes_part = |p: &ListenerPlan| {
        p.refused.as_ref().is_none_or(|(reason, _)| *reason == reasons::UNSUPPORTED_PROTOCOL)
    };
    if !takes_part(plan) {
        return None;
    }
    let others = || all.iter().filter(|o| o.name != plan.name && o.port == plan.port && takes_part(o));
    let named = |rivals: Vec<&ListenerPlan>| {
        let names: Vec<String> =
            rivals.iter().map(|r| format!("listener {} ({})", r.name, r.protocol)).collect();
        list(&names, RIVALS_MAX)
    };
    let mine = family(&plan.protocol);
    if mine.is_some() {
        let rivals: Vec<_> =
            others().filter(|o| family(&o.protocol).is_some() && family(&o.protocol) != mine).collect();
        if !rivals.is_empty() {
            let message =
                format!("port {} is also wanted with another protocol by {}", plan.port, named(rivals));
            return Some(Conflict { reason: reasons::PROTOCOL_CONFLICT, message });
        }
    }
    let by_hostname = matches!(mine, Some(Family::Plain | Family::Tls));
    let rivals: Vec<_> = others()
        .filter(|other| match mine {
            Some(_) => family(&other.protocol) == mine && (!by_hostname || other.hostname == plan.hostname),
            None => other.protocol == plan.protocol,
        })
        .collect();
    if rivals.is_empty() {
        return None;
    }
    if by_hostname {
        let host = if plan.hostname.is_empty() { "any hostname" } else { &plan.hostname };
        let message = format!("port {} with {host} is also wanted by {}", plan.port, named(rivals));
        Some(Conflict { reason: reasons::HOSTNAME_CONFLICT, message })
    } else {
        let message = format!("port {} is also wanted by {}", plan.port, named(rivals));
        Some(Conflict { reason: reasons::PROTOCOL_CONFLICT, message })
    }
}

//! The status of a Gateway: its plan, seen against what the data plane and its routes say.
//!
//! Owns the rules by which listeners sum up to a Gateway. Invariants: every condition carries the plan's generation;
//! Programmed is true only where a bind was reported; all conditions of the Gateway and its listeners are there.

use std::collections::BTreeMap;

use imbl::OrdMap;
use weir_api::condition::{Condition, ConditionStatus, reasons, types};
use weir_api::gateway::{GatewayStatus, ListenerStatus};
use weir_model::resource::BindReport;

use crate::objects::{AddressProblem, ObjectKey};
use crate::translate::finding::{Finding, list};
use crate::translate::gateway::GatewayPlan;
use crate::translate::listener::ListenerPlan;

/// Other Gateways that a message names.
const NEIGHBOURS_MAX: usize = 2;

/// What a Gateway's status depends on beside its plan.
pub(crate) struct Surroundings<'a> {
    /// Routes attached to each listener; a listener without routes may be left out.
    pub(crate) attached: Option<&'a BTreeMap<String, i32>>,
    pub(crate) binds: &'a OrdMap<(String, u32), BindReport>,
    /// For each listener that others are equal to: those others, `namespace/name`, sorted.
    pub(crate) neighbours: BTreeMap<String, Vec<String>>,
}

/// How far a listener got in the data plane.
enum Reach {
    /// Not to be served at all.
    Invalid(String),
    /// Not known yet.
    Pending(String),
    /// The operating system said no.
    Unavailable(String),
    Bound(String),
}

pub(crate) fn gateway_status(plan: &GatewayPlan, around: &Surroundings<'_>) -> (GatewayStatus, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut judged = Vec::with_capacity(plan.listeners.len());
    for listener in &plan.listeners {
        let reach = reach(plan, listener, around, &mut findings);
        judged.push((listener, reach));
    }
    if let (None, Some(problem)) = (&plan.rejection, &plan.addresses.problem) {
        let (reason, message) = address_problem(problem);
        findings.push(Finding::error("spec.addresses", reason, message));
    }
    let conditions = vec![accepted(plan, &judged), programmed(plan, &judged), resolved_refs(plan)];
    let listeners = judged
        .iter()
        .map(|(listener, reach)| ListenerStatus {
            name: listener.name.clone(),
            supported_kinds: listener.kinds.clone(),
            attached_routes: around
                .attached
                .and_then(|counts| counts.get(&listener.name))
                .copied()
                .unwrap_or(0),
            conditions: listener_conditions(listener, reach, plan.generation),
        })
        .collect();
    (GatewayStatus { addresses: plan.addresses.published.clone(), conditions, listeners }, findings)
}

fn reach(
    plan: &GatewayPlan,
    listener: &ListenerPlan,
    around: &Surroundings<'_>,
    findings: &mut Vec<Finding>,
) -> Reach {
    if let Some((_, message)) = listener.rejection() {
        return Reach::Invalid(message.to_owned());
    }
    if let Some((_, message)) = &plan.rejection {
        return Reach::Invalid(format!("The Gateway is not accepted: {message}"));
    }
    if !listener.is_served() {
        return Reach::Invalid("The listener allows no kind of route that it could serve.".to_owned());
    }
    if plan.addresses.bind.is_empty() {
        return Reach::Pending("Waiting for an address.".to_owned());
    }
    let port = u32::try_from(listener.port).unwrap_or_default();
    let field = format!("spec.listeners[{}].port", listener.index);
    let mut texts = Vec::new();
    for address in &plan.addresses.bind {
        let Some(report) = around.binds.get(&(address.clone(), port)) else {
            return Reach::Pending(format!(
                "Waiting for the data plane to listen on {}.",
                socket(address, port)
            ));
        };
        if !report.error.is_empty() || report.bound_port == 0 {
            let message = format!("{} cannot be listened on: {}", socket(address, port), report.error);
            findings.push(Finding::error(field, reasons::PORT_UNAVAILABLE, message.clone()));
            return Reach::Unavailable(message);
        }
        if report.bound_port == port {
            texts.push(format!("Listening on {}.", socket(address, port)));
        } else {
            texts.push(format!(
                "Listening on {} instead of port {port}, which this process may not bind.",
                socket(address, report.bound_port)
            ));
        }
    }
    if let Some(others) = around.neighbours.get(&listener.name) {
        let text = format!(
            "Shared with {}: unmanaged Gateways have one data plane, and equal listeners serve the routes of all.",
            neighbourhood(others)
        );
        texts.push(text);
    }
    Reach::Bound(texts.join(" "))
}

/// Names some of the others; never counts them, or one more of many would change the status of all.
fn neighbourhood(others: &[String]) -> String {
    if others.len() > NEIGHBOURS_MAX {
        format!("{} and others", others[..NEIGHBOURS_MAX].join(", "))
    } else {
        list(others, NEIGHBOURS_MAX)
    }
}

/// `address:port`, with brackets where they are needed.
fn socket(address: &str, port: u32) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn listener_conditions(listener: &ListenerPlan, reach: &Reach, generation: i64) -> Vec<Condition> {
    let condition =
        |type_, holds, reason, message: &str| Condition::new(type_, holds, reason, message, generation);
    let accepted = match (listener.rejection(), reach) {
        (Some((reason, message)), _) => condition(types::ACCEPTED, false, reason, message),
        (None, Reach::Unavailable(message)) => {
            condition(types::ACCEPTED, false, reasons::PORT_UNAVAILABLE, message)
        }
        (None, _) => condition(types::ACCEPTED, true, reasons::ACCEPTED, "The listener is valid."),
    };
    let conflicted = match &listener.conflict {
        Some(conflict) => condition(types::CONFLICTED, true, conflict.reason, &conflict.message),
        None => {
            condition(types::CONFLICTED, false, reasons::NO_CONFLICTS, "No other listener is in the way.")
        }
    };
    let programmed = match reach {
        Reach::Invalid(message) => {
            let conflict = listener.conflict.as_ref().filter(|_| listener.refused.is_none());
            let reason = conflict.map_or(reasons::INVALID, |conflict| conflict.reason);
            condition(types::PROGRAMMED, false, reason, message)
        }
        Reach::Unavailable(message) => condition(types::PROGRAMMED, false, reasons::INVALID, message),
        Reach::Pending(message) => condition(types::PROGRAMMED, false, reasons::PENDING, message),
        Reach::Bound(message) => condition(types::PROGRAMMED, true, reasons::PROGRAMMED, message),
    };
    let resolved = match &listener.unresolved {
        Some((reason, message)) => condition(types::RESOLVED_REFS, false, reason, message),
        None if listener.refused.is_some() => Condition {
            status: ConditionStatus::Unset,
            ..condition(
                types::RESOLVED_REFS,
                false,
                reasons::PENDING,
                "References are not followed while the listener is not accepted.",
            )
        },
        None => condition(types::RESOLVED_REFS, true, reasons::RESOLVED_REFS, "All references are resolved."),
    };
    vec![accepted, programmed, resolved, conflicted]
}

fn accepted(plan: &GatewayPlan, judged: &[(&ListenerPlan, Reach)]) -> Condition {
    let generation = plan.generation;
    if let Some((reason, message)) = &plan.rejection {
        return Condition::new(types::ACCEPTED, false, reason, message.clone(), generation);
    }
    let is_valid = |listener: &ListenerPlan, reach: &Reach| {
        listener.rejection().is_none() && !matches!(reach, Reach::Unavailable(_))
    };
    let (valid, invalid): (Vec<_>, Vec<_>) =
        judged.iter().partition(|(listener, reach)| is_valid(listener, reach));
    if invalid.is_empty() && !valid.is_empty() {
        return Condition::new(types::ACCEPTED, true, reasons::ACCEPTED, "The Gateway is valid.", generation);
    }
    let names = |group: &[&(&ListenerPlan, Reach)]| {
        let names: Vec<String> = group.iter().map(|(listener, _)| listener.name.clone()).collect();
        list(&names, judged.len())
    };
    let message = if judged.is_empty() {
        "The Gateway has no listener.".to_owned()
    } else if valid.is_empty() {
        format!("No listener is valid: {}.", names(&invalid))
    } else {
        format!("Not valid: {}; valid: {}.", names(&invalid), names(&valid))
    };
    Condition::new(types::ACCEPTED, !valid.is_empty(), reasons::LISTENERS_NOT_VALID, message, generation)
}

fn programmed(plan: &GatewayPlan, judged: &[(&ListenerPlan, Reach)]) -> Condition {
    let condition = |holds, reason, message: String| {
        Condition::new(types::PROGRAMMED, holds, reason, message, plan.generation)
    };
    if let Some((_, message)) = &plan.rejection {
        return condition(false, reasons::INVALID, format!("The Gateway is not accepted: {message}"));
    }
    if let Some(problem) = &plan.addresses.problem {
        let (reason, message) = address_problem(problem);
        return condition(false, reason, message.to_owned());
    }
    if judged.iter().all(|(_, reach)| matches!(reach, Reach::Invalid(_))) {
        return condition(false, reasons::INVALID, "There is no listener to serve.".to_owned());
    }
    if plan.addresses.bind.is_empty() {
        let message = "No address has been assigned yet.".to_owned();
        return condition(false, reasons::ADDRESS_NOT_ASSIGNED, message);
    }
    if let Some(message) = judged.iter().find_map(|(_, reach)| match reach {
        Reach::Pending(message) => Some(message),
        _ => None,
    }) {
        return condition(false, reasons::PENDING, message.clone());
    }
    if judged.iter().any(|(_, reach)| matches!(reach, Reach::Bound(_))) {
        let mut messages = vec!["The data plane runs this configuration.".to_owned()];
        messages.extend(judged.iter().filter_map(|(listener, reach)| match reach {
            Reach::Unavailable(message) => Some(format!("Listener {}: {message}.", listener.name)),
            _ => None,
        }));
        return condition(true, reasons::PROGRAMMED, messages.join(" "));
    }
    let messages: Vec<String> = judged
        .iter()
        .filter_map(|(_, reach)| match reach {
            Reach::Unavailable(message) => Some(message.clone()),
            _ => None,
        })
        .collect();
    condition(false, reasons::INVALID, list(&messages, messages.len()))
}

fn address_problem(problem: &AddressProblem) -> (&'static str, &str) {
    match problem {
        AddressProblem::NotUsable(message) => (reasons::ADDRESS_NOT_USABLE, message),
        AddressProblem::NotAssigned(message) => (reasons::ADDRESS_NOT_ASSIGNED, message),
        AddressProblem::NoResources(message) => (reasons::NO_RESOURCES, message),
    }
}

fn resolved_refs(plan: &GatewayPlan) -> Condition {
    let unresolved: Vec<String> = plan
        .listeners
        .iter()
        .filter(|listener| listener.unresolved.is_some())
        .map(|listener| listener.name.clone())
        .collect();
    if unresolved.is_empty() {
        let message = "No listener has a reference that is not resolved.";
        return Condition::new(types::RESOLVED_REFS, true, reasons::RESOLVED_REFS, message, plan.generation);
    }
    let message = format!("References are not resolved in: {}.", list(&unresolved, unresolved.len()));
    Condition::new(types::RESOLVED_REFS, false, reasons::LISTENERS_NOT_RESOLVED, message, plan.generation)
}

/// The neighbours of a listener as its status names them: `others` without `gateway` itself.
pub(crate) fn neighbours<'a>(
    others: impl IntoIterator<Item = &'a (ObjectKey, String)>,
    gateway: &ObjectKey,
) -> Vec<String> {
    let mut names: Vec<String> = others
        .into_iter()
        .filter(|(key, _)| key != gateway)
        .map(|(key, _)| format!("Gateway {}/{}", key.namespace, key.name))
        .collect();
    names.dedup();
    names
}

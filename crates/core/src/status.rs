//! The status of a Gateway and of its ListenerSets: the plan, seen against what the data plane and the routes say.
//!
//! Owns the rules by which listeners sum up to a Gateway or a set. Invariants: every condition carries the generation of
//! its object; Programmed is true only where a bind was reported; all conditions of the object and its listeners are
//! there.

use std::collections::BTreeMap;

use imbl::OrdMap;
use weir_api::condition::{Condition, ConditionStatus, reasons, types};
use weir_api::gateway_api::{GatewayStatus, ListenerSetStatus, ListenerStatus};
use weir_model::resource::{BindReport, DataPlaneName};

use crate::objects::{AddressProblem, ObjectKey, Place};
use crate::translate::finding::{Finding, list};
use crate::translate::gateway::GatewayPlan;
use crate::translate::listener::{ListenerPlan, is_udp};
use crate::translate::listener_set::SetPlan;

/// Other Gateways that a message names.
const NEIGHBOURS_MAX: usize = 2;
/// Fields that a message names.
const NAMED_MAX: usize = 4;

/// The reason of a ListenerSet whose Gateway is not accepted, or not there.
const PARENT_NOT_ACCEPTED: &str = "ParentNotAccepted";

/// What the statuses of a Gateway and its sets depend on beside the plan.
pub(crate) struct Surroundings<'a> {
    /// Routes attached to each listener of a Gateway or set; a listener without routes may be left out.
    pub(crate) attached: &'a dyn Fn(&ObjectKey) -> Option<&'a BTreeMap<String, i32>>,
    pub(crate) binds: &'a OrdMap<Place, BindReport>,
    /// For each listener, by key, that others are equal to: those others, `namespace/name`, sorted.
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

/// Of a Gateway that is called `key`.
pub(crate) fn gateway_status(
    key: &ObjectKey,
    plan: &GatewayPlan,
    around: &Surroundings<'_>,
) -> (GatewayStatus, Vec<Finding>) {
    let mut findings = Vec::new();
    let judged = judged(plan, &plan.listeners, around, &mut findings);
    if let (None, Some(problem)) = (&plan.rejection, &plan.addresses.problem) {
        let (reason, message) = address_problem(problem);
        findings.push(match problem {
            // Most often it comes in a moment.
            AddressProblem::NotAssigned(_) | AddressProblem::NotReady(_) => {
                Finding::info("spec.addresses", reason, message)
            }
            _ => Finding::error("spec.addresses", reason, message),
        });
    }
    let mut conditions = vec![accepted(plan, &judged), programmed(plan, &judged), resolved_refs(plan)];
    conditions.extend(insecure(plan));
    let attached_listener_sets = (!plan.sets.is_empty()).then(|| {
        let attached = plan.sets.iter().filter(|set| is_attached(plan, set, around)).count();
        i32::try_from(attached).unwrap_or(i32::MAX)
    });
    let status = GatewayStatus {
        addresses: plan.addresses.published.clone(),
        conditions,
        listeners: listener_statuses(key, &judged, plan.generation, around),
        attached_listener_sets,
    };
    (status, findings)
}

/// Of a ListenerSet that belongs to the Gateway of `plan`.
pub(crate) fn set_status(
    plan: &GatewayPlan,
    set: &SetPlan,
    around: &Surroundings<'_>,
) -> (ListenerSetStatus, Vec<Finding>) {
    let mut findings = Vec::new();
    let condition =
        |type_, holds, reason, message: &str| Condition::new(type_, holds, reason, message, set.generation);
    if let Some(why) = &set.refused {
        let conditions = vec![
            condition(types::ACCEPTED, false, reasons::NOT_ALLOWED, why),
            condition(types::PROGRAMMED, false, reasons::NOT_ALLOWED, why),
        ];
        return (ListenerSetStatus { conditions, listeners: Vec::new() }, findings);
    }
    let judged = judged(plan, &set.listeners, around, &mut findings);
    let listeners = listener_statuses(&set.key, &judged, set.generation, around);
    let conditions = if let Some((_, why)) = &plan.rejection {
        let message = format!("The Gateway is not accepted: {why}");
        vec![
            condition(types::ACCEPTED, false, PARENT_NOT_ACCEPTED, &message),
            condition(types::PROGRAMMED, false, PARENT_NOT_ACCEPTED, &message),
        ]
    } else {
        set_conditions(set, &judged)
    };
    (ListenerSetStatus { conditions, listeners }, findings)
}

/// Of a ListenerSet that a Gateway of ours had and no Gateway has now.
pub(crate) fn orphan_status(why: &str, generation: i64) -> ListenerSetStatus {
    let condition = |type_| Condition::new(type_, false, PARENT_NOT_ACCEPTED, why, generation);
    ListenerSetStatus {
        conditions: vec![condition(types::ACCEPTED), condition(types::PROGRAMMED)],
        listeners: Vec::new(),
    }
}

fn set_conditions(set: &SetPlan, judged: &[(&ListenerPlan, Reach)]) -> Vec<Condition> {
    let condition =
        |type_, holds, reason, message: String| Condition::new(type_, holds, reason, message, set.generation);
    let invalid: Vec<String> = judged
        .iter()
        .filter(|(_, reach)| matches!(reach, Reach::Invalid(_) | Reach::Unavailable(_)))
        .map(|(listener, _)| listener.name.clone())
        .collect();
    if invalid.len() == judged.len() {
        let message = if judged.is_empty() {
            "The ListenerSet has no listener.".to_owned()
        } else {
            format!("No listener is valid: {}.", list(&invalid, invalid.len()))
        };
        return vec![
            condition(types::ACCEPTED, false, reasons::LISTENERS_NOT_VALID, message.clone()),
            condition(types::PROGRAMMED, false, reasons::LISTENERS_NOT_VALID, message),
        ];
    }
    let accepted = if invalid.is_empty() {
        condition(types::ACCEPTED, true, reasons::ACCEPTED, "The ListenerSet is valid.".to_owned())
    } else {
        let message = format!("Not valid: {}.", list(&invalid, invalid.len()));
        condition(types::ACCEPTED, true, reasons::LISTENERS_NOT_VALID, message)
    };
    let pending = judged.iter().find_map(|(_, reach)| match reach {
        Reach::Pending(message) => Some(message.clone()),
        _ => None,
    });
    let programmed = match pending {
        Some(message) => condition(types::PROGRAMMED, false, reasons::PENDING, message),
        None => {
            let message = "The data plane runs this configuration.".to_owned();
            condition(types::PROGRAMMED, true, reasons::PROGRAMMED, message)
        }
    };
    vec![accepted, programmed]
}

/// Whether the Gateway counts the set: it takes it, and a listener of it can be served.
fn is_attached(plan: &GatewayPlan, set: &SetPlan, around: &Surroundings<'_>) -> bool {
    plan.rejection.is_none()
        && judged(plan, &set.listeners, around, &mut Vec::new())
            .iter()
            .any(|(_, reach)| matches!(reach, Reach::Pending(_) | Reach::Bound(_)))
}

fn judged<'a>(
    plan: &GatewayPlan,
    listeners: &'a [ListenerPlan],
    around: &Surroundings<'_>,
    findings: &mut Vec<Finding>,
) -> Vec<(&'a ListenerPlan, Reach)> {
    listeners.iter().map(|listener| (listener, reach(plan, listener, around, findings))).collect()
}

fn listener_statuses(
    owner: &ObjectKey,
    judged: &[(&ListenerPlan, Reach)],
    generation: i64,
    around: &Surroundings<'_>,
) -> Vec<ListenerStatus> {
    let attached = (around.attached)(owner);
    judged
        .iter()
        .map(|(listener, reach)| ListenerStatus {
            name: listener.name.clone(),
            supported_kinds: listener.kinds.clone(),
            attached_routes: attached.and_then(|counts| counts.get(&listener.name)).copied().unwrap_or(0),
            conditions: listener_conditions(listener, reach, generation),
        })
        .collect()
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
    if listener.has_nothing_to_show() {
        let why = listener.unresolved.as_ref().map_or("", |(_, message)| message);
        return Reach::Invalid(format!("The listener has no certificate to show: {why}"));
    }
    if plan.addresses.bind.is_empty() {
        return Reach::Pending("Waiting for an address.".to_owned());
    }
    let port = u32::try_from(listener.port).unwrap_or_default();
    let field = format!("spec.listeners[{}].port", listener.index);
    let udp = is_udp(&listener.protocol);
    let socket = |address: &str, port: u32| socket(address, port, udp);
    let mut texts = Vec::new();
    for address in &plan.addresses.bind {
        let Some(report) = around.binds.get(&(address.clone(), port, udp)) else {
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
    if let Some(others) = around.neighbours.get(&listener.key) {
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

/// `address:port`, with brackets where they are needed; the data plane where the address is its place.
fn socket(address: &str, port: u32, udp: bool) -> String {
    let protocol = if udp { " (UDP)" } else { "" };
    if let Some(name) = DataPlaneName::from_place(address) {
        format!("port {port}{protocol} of data plane {name}")
    } else if address.contains(':') {
        format!("[{address}]:{port}{protocol}")
    } else {
        format!("{address}:{port}{protocol}")
    }
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
        None => {
            let message = but_out_of_time("All references are resolved", &listener.out_of_time);
            condition(types::RESOLVED_REFS, true, reasons::RESOLVED_REFS, &message)
        }
    };
    let mut conditions = vec![accepted, programmed, resolved, conflicted];
    if let Some(overlap) = &listener.overlap {
        conditions.push(condition(types::OVERLAPPING_TLS_CONFIG, true, overlap.reason, &overlap.message));
    }
    conditions
}

fn accepted(plan: &GatewayPlan, judged: &[(&ListenerPlan, Reach)]) -> Condition {
    let generation = plan.generation;
    if let Some((reason, message)) = &plan.rejection {
        return Condition::new(types::ACCEPTED, false, reason, message.clone(), generation);
    }
    if let Some(problem) = &plan.parameters_problem {
        let message = format!("{problem}. The Gateway goes on with what can be used of its parameters.");
        return Condition::new(types::ACCEPTED, false, reasons::INVALID_PARAMETERS, message, generation);
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
        AddressProblem::NotReady(message) => (reasons::PENDING, message),
        AddressProblem::NoResources(message) => (reasons::NO_RESOURCES, message),
    }
}

/// Said only while it holds.
fn insecure(plan: &GatewayPlan) -> Option<Condition> {
    let type_ = types::INSECURE_FRONTEND_VALIDATION_MODE;
    let message =
        format!("Clients without a valid certificate are let through: {}.", list(&plan.insecure, NAMED_MAX));
    (!plan.insecure.is_empty())
        .then(|| Condition::new(type_, true, reasons::CONFIGURATION_CHANGED, message, plan.generation))
}

/// A certificate out of its time is resolved all the same: the API calls only what is missing, malformed or of a kind that is not
/// supported an invalid reference, and who is shown the certificate judges it.
fn but_out_of_time(resolved: &str, out_of_time: &[String]) -> String {
    match out_of_time {
        [] => format!("{resolved}."),
        _ => format!("{resolved}, but {}.", list(out_of_time, NAMED_MAX)),
    }
}

fn resolved_refs(plan: &GatewayPlan) -> Condition {
    if let Some((reason, message)) = &plan.client_problem {
        return Condition::new(types::RESOLVED_REFS, false, reason, message.clone(), plan.generation);
    }
    let unresolved: Vec<String> = plan
        .listeners
        .iter()
        .filter(|listener| listener.unresolved.is_some())
        .map(|listener| listener.name.clone())
        .collect();
    if unresolved.is_empty() {
        let resolved = "No listener has a reference that is not resolved";
        let message = but_out_of_time(resolved, &plan.client_out_of_time);
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

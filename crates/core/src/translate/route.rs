//! One HTTPRoute: parents, rules, status.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;
use weir_api::condition::{Condition, reasons, types};
use weir_api::kong::{ANNOTATION_PREFIX, STRIP_PATH_ANNOTATION};
use weir_api::route::{HttpRoute, HttpRouteRule, ParentReference, RouteParentStatus};
use weir_model::resource::{Attachment, HttpRoute as RouteResource, HttpRule};

use super::attach::{self, Attached};
use super::finding::{Finding, summary};
use super::gateway::Face;
use super::hostname;
use super::reading::{Reading, Unknown};
use super::rule::{self, RuleContext, RuleOutcome};
use crate::objects::{ObjectKey, Presence};

/// A route, translated.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RoutePlan {
    /// Entries of our controllers, in the order of the spec's references.
    pub(super) statuses: Vec<RouteParentStatus>,
    /// `None` when no listener that is served takes the route.
    pub(super) resource: Option<RouteResource>,
    /// Listeners that the route counts for: Gateway and section.
    pub(super) counted: BTreeSet<(ObjectKey, String)>,
    /// Service ports that the resource uses.
    pub(super) backends: BTreeSet<(ObjectKey, u32)>,
    pub(super) findings: Vec<Finding>,
}

/// Translates a route. `face_of` gives the face of a Gateway of ours. The result is to be used only if the reading has
/// nothing to wait for.
pub(super) fn plan(
    key: &ObjectKey,
    route: &HttpRoute,
    face_of: &dyn Fn(&ObjectKey) -> Option<Arc<Face>>,
    reading: &mut Reading<'_>,
) -> RoutePlan {
    let mut findings = Vec::new();
    let parents = our_parents(key, route, face_of, reading, &mut findings);
    if parents.is_empty() {
        return RoutePlan { findings, ..RoutePlan::default() };
    }
    let hostnames = hostnames(route, &mut findings);
    let attached: Vec<Attached> = parents
        .iter()
        .map(|parent| {
            let names = hostnames.as_deref();
            attach::attach(&parent.gateway, &parent.face, parent.reference, &key.namespace, names, reading)
        })
        .collect();

    let strip_path = annotations(route, &mut findings);
    let context = RuleContext { namespace: &key.namespace, strip_path };
    let default = [HttpRouteRule::default()];
    let rules = if route.spec.rules.is_empty() { &default } else { route.spec.rules.as_slice() };
    let outcomes: Vec<RuleOutcome> = rules
        .iter()
        .enumerate()
        .map(|(index, rule)| rule::translate(rule, index, &context, reading))
        .collect();
    let judgement = judge(&outcomes);

    let mut statuses = Vec::with_capacity(parents.len());
    let mut counted = BTreeSet::new();
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (parent, attached) in parents.iter().zip(&attached) {
        if let Attached::Refused { reason, message } = attached {
            findings.push(Finding::error(
                format!("spec.parentRefs[{}]", parent.index),
                reason,
                message.clone(),
            ));
        }
        if let Attached::To(to) = attached {
            for place in to {
                if judgement.rejection.is_none() {
                    counted.insert((parent.gateway.clone(), place.section.clone()));
                }
                places.extend(place.keys.iter().map(|key| (key.clone(), place.hostnames.clone())));
            }
        }
        statuses.push(RouteParentStatus {
            parent_ref: parent.reference.clone(),
            controller_name: parent.face.controller.clone(),
            conditions: conditions(attached, &judgement, route.metadata.generation),
        });
    }

    let backends = if places.is_empty() {
        BTreeSet::new()
    } else {
        outcomes.iter().flat_map(|outcome| outcome.backends.iter().cloned()).collect()
    };
    let mut translated = Vec::with_capacity(outcomes.len());
    for outcome in outcomes {
        findings.extend(outcome.faults);
        findings.extend(outcome.unresolved);
        findings.extend(outcome.notes);
        translated.extend(outcome.rule);
    }
    let resource =
        (!places.is_empty() && !translated.is_empty()).then(|| resource(key, route, places, translated));
    RoutePlan { statuses, resource, counted, backends, findings }
}

/// A parent reference to a Gateway of ours.
struct Parent<'a> {
    index: usize,
    reference: &'a ParentReference,
    gateway: ObjectKey,
    face: Arc<Face>,
}

fn our_parents<'a>(
    key: &ObjectKey,
    route: &'a HttpRoute,
    face_of: &dyn Fn(&ObjectKey) -> Option<Arc<Face>>,
    reading: &mut Reading<'_>,
    findings: &mut Vec<Finding>,
) -> Vec<Parent<'a>> {
    let mut parents: Vec<Parent<'a>> = Vec::new();
    for (index, reference) in route.spec.parent_refs.iter().enumerate() {
        let Some(gateway) = attach::gateway_of(reference, &key.namespace) else {
            continue;
        };
        if reading.presence(&gateway, Unknown::Passes) == Presence::Absent {
            let message = format!(
                "there is no Gateway {}/{}, so nothing serves the route there",
                gateway.namespace, gateway.name
            );
            findings.push(Finding::error(format!("spec.parentRefs[{index}]"), "GatewayNotFound", message));
        }
        let Some(face) = face_of(&gateway) else {
            continue;
        };
        if parents.iter().all(|parent| parent.reference != reference) {
            parents.push(Parent { index, reference, gateway, face });
        }
    }
    parents
}

/// The route's hostnames in normal form. `None` when it has some and not one can be used: that is no host, not any.
fn hostnames(route: &HttpRoute, findings: &mut Vec<Finding>) -> Option<Vec<String>> {
    let mut names = Vec::with_capacity(route.spec.hostnames.len());
    for (index, written) in route.spec.hostnames.iter().enumerate() {
        let field = format!("spec.hostnames[{index}]");
        match hostname::normal(written) {
            Ok(name) if !name.is_empty() => names.push(name),
            Ok(_) => {
                findings.push(Finding::error(
                    field,
                    reasons::UNSUPPORTED_VALUE,
                    "an empty hostname is not allowed",
                ));
            }
            Err(why) => {
                let message = format!("hostname {written:?} cannot be used: {why}");
                findings.push(Finding::error(field, reasons::UNSUPPORTED_VALUE, message));
            }
        }
    }
    (names.len() == route.spec.hostnames.len() || !names.is_empty()).then_some(names)
}

/// Reads Kong's annotations; returns whether the matched path is to be stripped.
fn annotations(route: &HttpRoute, findings: &mut Vec<Finding>) -> bool {
    let mut strip_path = false;
    for (name, value) in &route.metadata.annotations {
        let field = || format!("metadata.annotations[{name}]");
        if name == STRIP_PATH_ANNOTATION {
            match value.to_ascii_lowercase().as_str() {
                "true" => strip_path = true,
                "false" => {}
                _ => {
                    let message = format!("{value:?} is neither true nor false; the path is not stripped");
                    findings.push(Finding::warning(field(), reasons::UNSUPPORTED_VALUE, message));
                }
            }
        } else if name.starts_with(ANNOTATION_PREFIX) {
            let message = format!("annotation {name} is not supported and has no effect");
            findings.push(Finding::warning(field(), "NotSupported", message));
        }
    }
    if route.spec.use_default_gateways.as_deref().is_some_and(|value| value != "None") {
        let message = "useDefaultGateways is not supported yet and has no effect";
        findings.push(Finding::warning("spec.useDefaultGateways", "NotSupported", message));
    }
    strip_path
}

/// What the rules of a route say about it, whatever its parents are.
struct Judgement {
    /// Why no rule of the route works.
    rejection: Option<(&'static str, String)>,
    /// The message of PartiallyInvalid.
    partially: Option<(&'static str, String)>,
    /// Why references are not resolved.
    unresolved: Option<(&'static str, String)>,
}

fn judge(outcomes: &[RuleOutcome]) -> Judgement {
    let faults: Vec<&Finding> = outcomes.iter().flat_map(|outcome| &outcome.faults).collect();
    let unresolved: Vec<&Finding> = outcomes.iter().flat_map(|outcome| &outcome.unresolved).collect();
    let all_dropped = outcomes.iter().all(|outcome| outcome.is_dropped);
    // A reason that holds for some and not for all would mislead; the general one holds for all.
    let reason = match faults.split_first() {
        Some((first, rest)) if rest.iter().all(|fault| fault.reason == first.reason) => first.reason,
        _ => reasons::UNSUPPORTED_VALUE,
    };
    let text = summary(faults.iter().copied());
    let (rejection, partially) = if faults.is_empty() {
        (None, None)
    } else if all_dropped {
        (
            Some((
                reason,
                format!("No rule can be served; what they would match is answered with 500: {text}"),
            )),
            None,
        )
    } else {
        let message = format!("Dropped Rule: what cannot be served is answered with 500: {text}");
        (None, Some((reasons::UNSUPPORTED_VALUE, message)))
    };
    let unresolved = unresolved.first().map(|first| {
        (
            first.reason,
            format!(
                "The share of what cannot be resolved is answered with 500: {}",
                summary(unresolved.iter().copied())
            ),
        )
    });
    Judgement { rejection, partially, unresolved }
}

fn conditions(attached: &Attached, judgement: &Judgement, generation: i64) -> Vec<Condition> {
    let condition =
        |type_, holds, reason, message: &str| Condition::new(type_, holds, reason, message, generation);
    let accepted = match (attached, &judgement.rejection) {
        (Attached::Refused { reason, message }, _) => condition(types::ACCEPTED, false, reason, message),
        (Attached::To(_), Some((reason, message))) => condition(types::ACCEPTED, false, reason, message),
        (Attached::To(places), None) => {
            let sections: Vec<String> = places.iter().map(|place| place.section.clone()).collect();
            let message = format!("Attached to {}.", super::finding::list(&sections, sections.len()));
            condition(types::ACCEPTED, true, reasons::ACCEPTED, &message)
        }
    };
    let resolved = match &judgement.unresolved {
        Some((reason, message)) => condition(types::RESOLVED_REFS, false, reason, message),
        None => condition(types::RESOLVED_REFS, true, reasons::RESOLVED_REFS, "All references are resolved."),
    };
    let is_accepted = accepted.is_true();
    let mut conditions = vec![accepted, resolved];
    if let Some((reason, message)) = judgement.partially.as_ref().filter(|_| is_accepted) {
        conditions.push(condition(types::PARTIALLY_INVALID, true, reason, message));
    }
    conditions
}

fn resource(
    key: &ObjectKey,
    route: &HttpRoute,
    places: BTreeMap<String, Vec<String>>,
    mut rules: Vec<HttpRule>,
) -> RouteResource {
    let metadata = &route.metadata;
    let owner = if metadata.uid.is_empty() {
        format!("{}/{}", key.namespace, key.name)
    } else {
        metadata.uid.clone()
    };
    identify(&owner, &mut rules);
    RouteResource {
        key: format!("httproute/{}/{}", key.namespace, key.name),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid: metadata.uid.clone(),
        created_seconds: metadata.creation_timestamp.map_or(0, |at| at.0),
        attachments: places
            .into_iter()
            .map(|(listener_key, hostnames)| Attachment { listener_key, hostnames })
            .collect(),
        rules,
    }
}

/// Gives each rule the identity by which its split state outlives snapshots: the route and the rule's name, else a
/// hash of its matches; an ordinal tells equals apart.
fn identify(owner: &str, rules: &mut [HttpRule]) {
    let mut taken: BTreeMap<String, u32> = BTreeMap::new();
    for rule in rules {
        let plain = if rule.name.is_empty() {
            let mut bytes = Vec::new();
            for one in &rule.matches {
                bytes.extend(one.encode_length_delimited_to_vec());
            }
            format!("{owner}/matches:{:016x}", fnv1a(&bytes))
        } else {
            format!("{owner}/rule:{}", rule.name)
        };
        let ordinal = taken.entry(plain.clone()).or_default();
        rule.split_identity = if *ordinal == 0 { plain } else { format!("{plain}:{ordinal}") };
        *ordinal += 1;
    }
}

/// FNV-1a, 64 bits: the same on every machine and in every release, which std's hashers do not promise.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

//! One route of any kind: parents, rules, status.

mod attach;
mod external;
mod filter;
mod grpc;
mod http;
mod l4;
mod matching;
mod parents;
mod rule;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weir_api::condition::{Condition, reasons, types};
use weir_api::gateway_api::{GatewayDefaultScope, ParentReference, RouteParentStatus};
use weir_api::kong::{ANNOTATION_PREFIX, STRIP_PATH_ANNOTATION};
use weir_api::meta::ObjectMeta;
use weir_model::resource::{Attachment, Body, HttpRule};

use self::attach::Attached;
use self::l4::L4Rule;
use self::parents::Parent;
use self::rule::RuleOutcome;
pub(super) use self::rule::milliseconds;
pub(super) use self::session::{default_name as default_session_name, translate as session_persistence};
use super::annotations;
use super::backend::PortUse;
use super::finding::{Finding, summary};
use super::gateway::Face;
use super::hostname;
use super::reading::Reading;
use crate::objects::{Kind, Object, ObjectKey};

/// A listener of a Gateway or of a ListenerSet, by its owner and name.
pub(super) type ListenerId = (ObjectKey, String);

/// A Gateway that a route leads to, with the name of its controller.
pub(super) type Ancestor = (ObjectKey, String);

/// A route, translated.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RoutePlan {
    /// Entries of our controllers, in the order of the spec's references.
    pub(super) statuses: Vec<RouteParentStatus>,
    /// `None` when no listener that is served takes the route.
    pub(super) resource: Option<Body>,
    /// Listeners that the route counts for.
    pub(super) counted: BTreeSet<ListenerId>,
    /// Service ports that the resource uses.
    pub(super) backends: BTreeSet<(ObjectKey, PortUse)>,
    /// Gateways that use those Services through the route.
    pub(super) ancestors: BTreeSet<Ancestor>,
    /// Hostnames for which the route would be served on each listener, had it no rival.
    pub(super) claims: BTreeMap<ListenerId, Vec<String>>,
    pub(super) findings: Vec<Finding>,
}

impl RoutePlan {
    /// The Services that the route uses, each with the Gateways through which it does.
    pub(super) fn used_by(&self) -> BTreeSet<(&ObjectKey, &Ancestor)> {
        let services: BTreeSet<&ObjectKey> = self.backends.iter().map(|(service, _)| service).collect();
        services.iter().flat_map(|service| self.ancestors.iter().map(|one| (*service, one))).collect()
    }
}

/// What a route needs to know of the Gateways and of the other routes.
pub(super) trait Neighbourhood {
    /// The face of a Gateway or ListenerSet of ours.
    fn face(&self, key: &ObjectKey) -> Option<Arc<Face>>;
    /// The Gateways that are defaults, in order.
    fn default_gateways(&self) -> Vec<ObjectKey>;
    /// The route of another kind that has precedence over this one on a listener, where hostnames overlap.
    fn rival(&self, listener: &ListenerId) -> Option<ObjectKey>;
}

/// The part of a route that all kinds have.
struct Head<'a> {
    key: &'a ObjectKey,
    metadata: &'a ObjectMeta,
    parents: &'a [ParentReference],
    hostnames: &'a [String],
    uses_defaults: bool,
}

/// What happens to a share that cannot be served, in the words of a status.
fn consequence(kind: Kind) -> &'static str {
    match kind {
        Kind::GrpcRoute => "answered with UNAVAILABLE",
        Kind::TlsRoute | Kind::TcpRoute => "refused",
        Kind::UdpRoute => "dropped",
        _ => "answered with 500",
    }
}

/// Translates a route. The result is to be used only if the reading has nothing to wait for. `None`: not a route.
pub(super) fn plan(
    key: &ObjectKey,
    object: &Object,
    around: &dyn Neighbourhood,
    reading: &mut Reading<'_>,
) -> Option<RoutePlan> {
    let metadata = object.metadata();
    let head = |parents, hostnames, uses_defaults: &Option<GatewayDefaultScope>| Head {
        key,
        metadata,
        parents,
        hostnames,
        uses_defaults: *uses_defaults == Some(GatewayDefaultScope::All),
    };
    match object {
        Object::HttpRoute(route) => {
            let spec = &route.spec;
            let head = head(&spec.parent_refs, &spec.hostnames, &spec.use_default_gateways);
            Some(assemble(&head, around, reading, |findings, reading| {
                let strip_path = strips_path(metadata, findings);
                http::rules(key, route, strip_path, reading)
            }))
        }
        Object::GrpcRoute(route) => {
            let spec = &route.spec;
            let head = head(&spec.parent_refs, &spec.hostnames, &spec.use_default_gateways);
            Some(assemble(&head, around, reading, |findings, reading| {
                findings.extend(annotations::of_route(metadata));
                grpc::rules(key, route, reading)
            }))
        }
        Object::TlsRoute(route) => {
            let spec = &route.spec;
            let head = head(&spec.parent_refs, &spec.hostnames, &spec.use_default_gateways);
            let given = spec.rules.iter().map(L4Rule::from).collect();
            Some(assemble(&head, around, reading, |findings, reading| {
                findings.extend(annotations::of_route(metadata));
                l4::rules(key, given, findings, reading)
            }))
        }
        Object::TcpRoute(route) => {
            let spec = &route.spec;
            let head = head(&spec.parent_refs, &[], &spec.use_default_gateways);
            let given = spec.rules.iter().map(L4Rule::from).collect();
            Some(assemble(&head, around, reading, |findings, reading| {
                findings.extend(annotations::of_route(metadata));
                l4::rules(key, given, findings, reading)
            }))
        }
        Object::UdpRoute(route) => {
            let spec = &route.spec;
            let head = head(&spec.parent_refs, &[], &spec.use_default_gateways);
            let given = spec.rules.iter().map(L4Rule::from).collect();
            Some(assemble(&head, around, reading, |findings, reading| {
                findings.extend(annotations::of_route(metadata));
                l4::rules(key, given, findings, reading)
            }))
        }
        _ => None,
    }
}

/// Puts together what a route's parents and its rules say.
fn assemble(
    head: &Head<'_>,
    around: &dyn Neighbourhood,
    reading: &mut Reading<'_>,
    rules: impl FnOnce(&mut Vec<Finding>, &mut Reading<'_>) -> Vec<RuleOutcome>,
) -> RoutePlan {
    let key = head.key;
    let mut findings = Vec::new();
    let parents = parents::of(head, around, reading, &mut findings);
    if parents.is_empty() {
        return RoutePlan { findings, ..RoutePlan::default() };
    }
    let hostnames = hostnames(head.hostnames, &mut findings);
    let attached: Vec<Attached> =
        parents.iter().map(|parent| attach::attach(parent, key, hostnames.as_deref(), reading)).collect();
    let outcomes = rules(&mut findings, reading);
    let judgement = judge(key.kind, &outcomes);

    let mut plan = RoutePlan::default();
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (parent, attached) in parents.iter().zip(attached) {
        let attached = contest(key, parent, attached, &judgement, around, &mut plan);
        if let Attached::Refused { reason, message } = &attached {
            findings.push(Finding::error(parent.field.clone(), reason, message.clone()));
        }
        if let Attached::To(to) = &attached {
            for place in to {
                if judgement.rejection.is_none() {
                    plan.counted.insert((parent.owner.clone(), place.section.clone()));
                }
                if !place.keys.is_empty() {
                    plan.ancestors.insert((parent.face.gateway.clone(), parent.face.controller.clone()));
                }
                places.extend(place.keys.iter().map(|key| (key.clone(), place.hostnames.clone())));
            }
        }
        plan.statuses.push(RouteParentStatus {
            parent_ref: parent.reference.clone(),
            controller_name: parent.face.controller.clone(),
            conditions: conditions(&attached, &judgement, head.metadata.generation),
        });
    }
    if !places.is_empty() {
        plan.backends = outcomes.iter().flat_map(|outcome| outcome.backends.iter().cloned()).collect();
    }
    let mut translated = Vec::with_capacity(outcomes.len());
    for outcome in outcomes {
        findings.extend(outcome.faults);
        findings.extend(outcome.unresolved);
        findings.extend(outcome.notes);
        translated.extend(outcome.rule);
    }
    plan.resource = resource(head, places, translated);
    plan.findings = findings;
    plan
}

/// `None` when nobody serves the route, or nothing of it.
fn resource(head: &Head<'_>, places: BTreeMap<String, Vec<String>>, rules: Vec<HttpRule>) -> Option<Body> {
    if places.is_empty() || rules.is_empty() {
        return None;
    }
    let attachments =
        places.into_iter().map(|(listener_key, hostnames)| Attachment { listener_key, hostnames }).collect();
    match head.key.kind {
        Kind::HttpRoute | Kind::GrpcRoute => http::resource(head.key, head.metadata, attachments, rules),
        _ => l4::resource(head.key, head.metadata, attachments, rules),
    }
}

/// Takes away the listeners on which a route of another kind comes first, and notes all that were wanted.
fn contest(
    key: &ObjectKey,
    parent: &Parent,
    attached: Attached,
    judgement: &Judgement,
    around: &dyn Neighbourhood,
    plan: &mut RoutePlan,
) -> Attached {
    let Attached::To(mut places) = attached else {
        return attached;
    };
    if !matches!(key.kind, Kind::HttpRoute | Kind::GrpcRoute) || judgement.rejection.is_some() {
        return Attached::To(places);
    }
    let mut rivals = Vec::new();
    places.retain(|place| {
        let listener = (parent.owner.clone(), place.section.clone());
        let rival = around.rival(&listener);
        plan.claims.insert(listener, place.hostnames.clone());
        if let Some(rival) = &rival {
            rivals
                .push(format!("{rival} came first to a hostname of the route on listener {}", place.section));
        }
        rival.is_none()
    });
    if places.is_empty() {
        let message = super::finding::list(&rivals, attach::LISTENERS_MAX);
        return Attached::Refused { reason: reasons::HOSTNAME_CONFLICT, message };
    }
    Attached::To(places)
}

/// The route's hostnames in normal form. `None` when it has some and not one can be used: that is no host, not any.
fn hostnames(written: &[String], findings: &mut Vec<Finding>) -> Option<Vec<String>> {
    let mut names = Vec::with_capacity(written.len());
    for (index, written) in written.iter().enumerate() {
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
    (names.len() == written.len() || !names.is_empty()).then_some(names)
}

/// Reads Kong's annotations; returns whether the matched path is to be stripped.
fn strips_path(metadata: &ObjectMeta, findings: &mut Vec<Finding>) -> bool {
    let mut strip_path = false;
    for (name, value) in &metadata.annotations {
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
            findings.push(annotations::without_effect(name));
        }
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

fn judge(kind: Kind, outcomes: &[RuleOutcome]) -> Judgement {
    let faults: Vec<&Finding> = outcomes.iter().flat_map(|outcome| &outcome.faults).collect();
    let unresolved: Vec<&Finding> = outcomes.iter().flat_map(|outcome| &outcome.unresolved).collect();
    let all_dropped = outcomes.iter().all(|outcome| outcome.is_dropped);
    // A reason that holds for some and not for all would mislead; the general one holds for all.
    let reason = match faults.split_first() {
        Some((first, rest)) if rest.iter().all(|fault| fault.reason == first.reason) => first.reason,
        _ => reasons::UNSUPPORTED_VALUE,
    };
    let text = summary(faults.iter().copied());
    let is = consequence(kind);
    let (rejection, partially) = if faults.is_empty() {
        (None, None)
    } else if all_dropped {
        let message = format!("No rule can be served; what they would match is {is}: {text}");
        (Some((reason, message)), None)
    } else {
        let message = format!("Dropped Rule: what cannot be served is {is}: {text}");
        (None, Some((reasons::UNSUPPORTED_VALUE, message)))
    };
    let unresolved = unresolved.first().map(|first| {
        let text = summary(unresolved.iter().copied());
        let also = if first.field.contains(".requestMirror") { "; a mirror is left out" } else { "" };
        (first.reason, format!("The share of what cannot be resolved is {is}{also}: {text}"))
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

/// What a route's split state is named after: its uid, which survives changes and no second life.
fn owner(key: &ObjectKey, metadata: &ObjectMeta) -> String {
    if metadata.uid.is_empty() { format!("{}/{}", key.namespace, key.name) } else { metadata.uid.clone() }
}

/// FNV-1a, 64 bits: the same on every machine and in every release, which std's hashers do not promise.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

//! The rule of a TLSRoute, TCPRoute or UDPRoute, and its resource.

use std::collections::BTreeSet;

use weir_api::condition::reasons;
use weir_api::gateway_api::{BackendRef, TcpRouteRule, TlsRouteRule, UdpRouteRule};
use weir_api::meta::ObjectMeta;
use weir_model::resource::{Attachment, Body, HttpRule, L4Route as RouteResource};
use weir_model::split::MAX_BACKENDS;

use super::owner;
use super::rule::{RuleOutcome, too_many, weight};
use crate::objects::{Kind, ObjectKey};
use crate::translate::backend::{self, Use, Wants};
use crate::translate::finding::Finding;
use crate::translate::reading::Reading;

/// A rule of any of the three kinds.
#[derive(Default)]
pub(super) struct L4Rule<'a> {
    name: &'a str,
    backend_refs: &'a [BackendRef],
}

macro_rules! l4_rule {
    ($($type:ty),+) => {
        $(impl<'a> From<&'a $type> for L4Rule<'a> {
            fn from(rule: &'a $type) -> L4Rule<'a> {
                let name = rule.name.as_deref().unwrap_or_default();
                L4Rule { name, backend_refs: &rule.backend_refs }
            }
        })+
    };
}

l4_rule!(TlsRouteRule, TcpRouteRule, UdpRouteRule);

/// The one rule. Its matches stay empty; only name and backends count.
pub(super) fn rules(
    key: &ObjectKey,
    given: Vec<L4Rule<'_>>,
    findings: &mut Vec<Finding>,
    reading: &mut Reading<'_>,
) -> Vec<RuleOutcome> {
    if given.len() > 1 {
        let message = format!("a {} has one rule; those after the first have no effect", key.kind);
        findings.push(Finding::warning("spec.rules[1]", reasons::UNSUPPORTED_VALUE, message));
    }
    let rule = given.into_iter().next().unwrap_or_default();
    let wants = if key.kind == Kind::UdpRoute { Wants::Udp } else { Wants::Tcp };
    let uses = Use { kind: key.kind, namespace: &key.namespace, wants };
    let field = "spec.rules[0].backendRefs";
    let mut outcome = RuleOutcome {
        rule: None,
        faults: Vec::new(),
        is_dropped: false,
        unresolved: Vec::new(),
        notes: Vec::new(),
        backends: BTreeSet::new(),
    };
    outcome.faults.extend(too_many(rule.backend_refs.len(), field));
    let is_broken = !outcome.faults.is_empty();
    let mut broken = 0;
    let mut backends = Vec::new();
    for (index, reference) in rule.backend_refs.iter().enumerate().take(MAX_BACKENDS) {
        let field = format!("{field}[{index}]");
        let mut faults = Vec::new();
        let weight = weight(reference.weight, &field, &mut faults);
        let mut backend = backend::weighted(&reference.into(), weight, &uses, &field, reading);
        match backend.unresolved.take() {
            Some(finding) => outcome.unresolved.push(finding),
            None if faults.is_empty() && !is_broken => outcome.backends.extend(backend.used),
            None => {}
        }
        if is_broken || !faults.is_empty() {
            reasons::UNSUPPORTED_VALUE.clone_into(&mut backend.resource.invalid_reason);
            broken += 1;
        }
        outcome.faults.append(&mut faults);
        backends.push(backend.resource);
    }
    outcome.is_dropped = is_broken || (!backends.is_empty() && broken == backends.len());
    let name = rule.name.to_owned();
    outcome.rule = Some(HttpRule { name, backends, ..HttpRule::default() });
    vec![outcome]
}

pub(super) fn resource(
    key: &ObjectKey,
    metadata: &ObjectMeta,
    attachments: Vec<Attachment>,
    rules: Vec<HttpRule>,
) -> Option<Body> {
    let rule = rules.into_iter().next()?;
    let owner = owner(key, metadata);
    let attachments = attachments
        .into_iter()
        .map(|attachment| match key.kind {
            Kind::TlsRoute => attachment,
            _ => Attachment { hostnames: vec![String::new()], ..attachment },
        })
        .collect();
    Some(Body::L4Route(RouteResource {
        key: key.route_resource()?,
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid: metadata.uid.clone(),
        created_seconds: metadata.creation_timestamp.map_or(0, |at| at.0),
        attachments,
        split_identity: match rule.name.as_str() {
            "" => format!("{owner}/rule"),
            name => format!("{owner}/rule:{name}"),
        },
        rule_name: rule.name,
        backends: rule.backends,
    }))
}

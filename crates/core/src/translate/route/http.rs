//! Rules of an HTTPRoute, and the resource of an HTTPRoute or a GRPCRoute.

use std::collections::BTreeMap;

use prost::Message;
use weir_api::gateway_api::{HttpRoute, HttpRouteRule};
use weir_api::meta::ObjectMeta;
use weir_model::resource::{Attachment, Body, FilterKind, HttpRoute as RouteResource, HttpRule};

use super::matching;
use super::rule::{self, RuleContext, RuleOutcome, RuleSpec};
use super::session::default_name;
use super::{fnv1a, owner};
use crate::objects::{Kind, ObjectKey};
use crate::translate::reading::Reading;

pub(super) fn rules(
    key: &ObjectKey,
    route: &HttpRoute,
    strip_path: bool,
    reading: &mut Reading<'_>,
) -> Vec<RuleOutcome> {
    let context = RuleContext { kind: Kind::HttpRoute, namespace: &key.namespace, strip_path };
    let default = [HttpRouteRule::default()];
    let rules = if route.spec.rules.is_empty() { &default } else { route.spec.rules.as_slice() };
    let translate = |(index, rule): (usize, &HttpRouteRule)| {
        let spec = RuleSpec {
            name: rule.name.as_deref(),
            matches: matching::http(&rule.matches, &format!("spec.rules[{index}].matches")),
            filters: &rule.filters,
            backend_refs: &rule.backend_refs,
            timeouts: rule.timeouts.as_deref(),
            retry: rule.retry.as_deref(),
            session_persistence: rule.session_persistence.as_deref(),
        };
        rule::translate(spec, index, &context, reading)
    };
    rules.iter().enumerate().map(translate).collect()
}

pub(super) fn resource(
    key: &ObjectKey,
    metadata: &ObjectMeta,
    attachments: Vec<Attachment>,
    mut rules: Vec<HttpRule>,
) -> Option<Body> {
    identify(&owner(key, metadata), &mut rules);
    Some(Body::HttpRoute(RouteResource {
        key: key.route_resource()?,
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid: metadata.uid.clone(),
        created_seconds: metadata.creation_timestamp.map_or(0, |at| at.0),
        attachments,
        rules,
    }))
}

/// Gives each rule the identity by which its split state outlives snapshots: the route and the rule's name, else a
/// hash of its matches; an ordinal tells equals apart. What of the rule counts on its own is named after it.
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
        let identity = rule.split_identity.clone();
        if let Some(session) = rule.session_persistence.as_mut().filter(|session| session.name.is_empty()) {
            session.name = default_name(&identity);
        }
        let own = rule.filters.iter_mut();
        let of_backends = rule.backends.iter_mut().flat_map(|backend| backend.filters.iter_mut());
        let mirrors = own.chain(of_backends).filter_map(|filter| match &mut filter.kind {
            Some(FilterKind::RequestMirror(mirror)) => Some(mirror),
            _ => None,
        });
        for (index, mirror) in mirrors.enumerate() {
            mirror.split_identity = format!("{identity}/mirror:{index}");
        }
    }
}

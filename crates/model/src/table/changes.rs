//! Updates taken apart: the last word on each key, by kind.
//!
//! Owns which body may stand under which key, and the one form in which routes of all kinds are kept.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::{RouteKind, State};
use crate::resource::{
    Backend, Body, CaBundle, Certificate, Endpoints, HttpRoute, HttpRule, L4Route, Listener, Rejected,
    Resource, SessionKey, Update,
};

/// An update taken apart, the last word on each key only.
#[derive(Default)]
pub(super) struct Changes<'a> {
    pub(super) removals: BTreeSet<&'a str>,
    pub(super) listeners: BTreeMap<&'a str, &'a Listener>,
    pub(super) routes: BTreeMap<&'a str, Cow<'a, HttpRoute>>,
    pub(super) certificates: BTreeMap<&'a str, &'a Certificate>,
    pub(super) ca_bundles: BTreeMap<&'a str, &'a CaBundle>,
    pub(super) session_keys: BTreeMap<&'a str, &'a SessionKey>,
    pub(super) backends: BTreeMap<&'a str, &'a Backend>,
    pub(super) endpoints: BTreeMap<&'a str, &'a Endpoints>,
    pub(super) rejected: Vec<Rejected>,
}

impl<'a> Changes<'a> {
    pub(super) fn new(update: &'a Update, before: &'a State) -> Changes<'a> {
        let mut changes = Changes::default();
        let mut named: BTreeMap<&str, &Resource> = BTreeMap::new();
        for resource in &update.upserts {
            named.insert(resource.key(), resource);
        }
        for (&key, resource) in &named {
            changes.take(key, resource);
        }
        changes.removals = if update.full {
            before.keys().filter(|key| !named.contains_key(key)).collect()
        } else {
            update.removals.iter().map(String::as_str).filter(|key| !named.contains_key(key)).collect()
        };
        changes
    }

    fn take(&mut self, key: &'a str, resource: &'a Resource) {
        // One of a kind that a newer release writes is left alone: nothing here can refer to it.
        let Some(body) = &resource.body else { return };
        let kinds: &[&str] = match body {
            Body::Listener(_) => &["listener"],
            Body::HttpRoute(_) => &["httproute", "grpcroute"],
            Body::L4Route(_) => &["tlsroute", "tcproute", "udproute"],
            Body::Certificate(_) => &["certificate"],
            Body::CaBundle(_) => &["cabundle"],
            Body::SessionKey(_) => &["sessionkey"],
            Body::Backend(_) => &["backend"],
            Body::Endpoints(_) => &["endpoints"],
        };
        if !key.split_once('/').is_some_and(|(kind, _)| kinds.contains(&kind)) {
            let reason = format!("the key does not begin with `{}/`", kinds.join("/` or `"));
            self.rejected.push(Rejected { key: key.to_owned(), reason });
            return;
        }
        match body {
            Body::Listener(listener) => _ = self.listeners.insert(key, listener),
            Body::HttpRoute(route) => _ = self.routes.insert(key, Cow::Borrowed(route)),
            Body::L4Route(route) => _ = self.routes.insert(key, Cow::Owned(route_of_l4(route))),
            Body::Certificate(certificate) => _ = self.certificates.insert(key, certificate),
            Body::CaBundle(bundle) => _ = self.ca_bundles.insert(key, bundle),
            Body::SessionKey(one) => _ = self.session_keys.insert(key, one),
            Body::Backend(backend) => _ = self.backends.insert(key, backend),
            Body::Endpoints(endpoints) => _ = self.endpoints.insert(key, endpoints),
        }
    }
}

/// An L4 route is kept as the route of one rule without matches that it amounts to.
fn route_of_l4(route: &L4Route) -> HttpRoute {
    HttpRoute {
        key: route.key.clone(),
        namespace: route.namespace.clone(),
        name: route.name.clone(),
        uid: route.uid.clone(),
        created_seconds: route.created_seconds,
        attachments: route.attachments.clone(),
        rules: vec![HttpRule {
            name: route.rule_name.clone(),
            split_identity: route.split_identity.clone(),
            backends: route.backends.clone(),
            ..HttpRule::default()
        }],
    }
}

/// The resource that a route came as.
pub(super) fn body_of(key: &str, mut route: HttpRoute) -> Body {
    if !RouteKind::of_key(key).is_some_and(RouteKind::is_l4) {
        return Body::HttpRoute(route);
    }
    let rule = route.rules.pop().unwrap_or_default();
    Body::L4Route(L4Route {
        key: route.key,
        namespace: route.namespace,
        name: route.name,
        uid: route.uid,
        created_seconds: route.created_seconds,
        attachments: route.attachments,
        rule_name: rule.name,
        split_identity: rule.split_identity,
        backends: rule.backends,
    })
}

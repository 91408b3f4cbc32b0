//! Which resources a resource needs beside itself.
//!
//! Owns the edges of the graph of resources. Invariant: a data plane that is given a resource and, over and over, what it refers
//! to, can serve it; every message is taken apart field by field, so that a field which is added has to be thought of here.
//!
//! Deliberately absent: which of them are there.

use std::collections::BTreeSet;

use crate::resource::{
    Backend, BackendTls, Body, ClientValidation, Filter, FilterKind, HttpRoute, HttpRule, L4Route, Listener,
    ListenerTls, Parameters, Resource, WeightedBackend,
};

/// Keys of the resources that this one needs, sorted, each once. Listeners are not among them: a route says where it is attached
/// ([`attachments`]), and needs no listener to be there.
pub fn references(resource: &Resource) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    match &resource.body {
        Some(Body::Listener(listener)) => of_listener(listener, &mut keys),
        Some(Body::HttpRoute(route)) => of_http_route(route, &mut keys),
        Some(Body::L4Route(L4Route { backends, .. })) => of_backends(backends, &mut keys),
        Some(Body::Backend(backend)) => of_backend(backend, &mut keys),
        Some(Body::Endpoints(_) | Body::Certificate(_) | Body::CaBundle(_) | Body::SessionKey(_)) | None => {}
    }
    keys.remove("");
    keys
}

/// Keys of the listeners that a route is attached to, sorted, each once.
pub fn attachments(resource: &Resource) -> BTreeSet<String> {
    let attachments = match &resource.body {
        Some(Body::HttpRoute(route)) => &route.attachments,
        Some(Body::L4Route(route)) => &route.attachments,
        _ => return BTreeSet::new(),
    };
    attachments.iter().map(|attachment| attachment.listener_key.clone()).collect()
}

fn of_listener(listener: &Listener, keys: &mut BTreeSet<String>) {
    let Listener {
        key: _,
        gateway: _,
        section: _,
        address: _,
        port: _,
        protocol: _,
        hostname: _,
        tls,
        backend_client_certificate,
        parameters,
    } = listener;
    if let Some(ListenerTls { passthrough: _, certificates, client_validation }) = tls {
        keys.extend(certificates.iter().cloned());
        if let Some(ClientValidation { ca_bundles, insecure_fallback: _ }) = client_validation {
            keys.extend(ca_bundles.iter().cloned());
        }
    }
    keys.insert(backend_client_certificate.clone());
    if let Some(Parameters { limits: _, trusted_proxies: _, access_log: _, session_keys }) = parameters {
        keys.extend(session_keys.iter().cloned());
    }
}

fn of_http_route(route: &HttpRoute, keys: &mut BTreeSet<String>) {
    let HttpRoute { key: _, namespace: _, name: _, uid: _, created_seconds: _, attachments: _, rules } =
        route;
    for rule in rules {
        let HttpRule {
            name: _,
            split_identity: _,
            matches: _,
            filters,
            backends,
            request_timeout_ms: _,
            backend_request_timeout_ms: _,
            strip_path: _,
            retry: _,
            session_persistence: _,
        } = rule;
        of_filters(filters, keys);
        of_backends(backends, keys);
    }
}

/// A reference that cannot be used has a key, for the sake of its name, and nothing behind it that anybody may have.
fn of_backends(backends: &[WeightedBackend], keys: &mut BTreeSet<String>) {
    for WeightedBackend { weight: _, backend_key, invalid_reason, filters } in backends {
        if invalid_reason.is_empty() {
            keys.insert(backend_key.clone());
        }
        of_filters(filters, keys);
    }
}

fn of_filters(filters: &[Filter], keys: &mut BTreeSet<String>) {
    for filter in filters {
        match &filter.kind {
            Some(FilterKind::RequestMirror(mirror)) => _ = keys.insert(mirror.backend_key.clone()),
            Some(FilterKind::ExternalAuth(auth)) if auth.invalid_reason.is_empty() => {
                keys.insert(auth.backend_key.clone());
            }
            Some(
                FilterKind::ExternalAuth(_)
                | FilterKind::RequestHeaderModifier(_)
                | FilterKind::ResponseHeaderModifier(_)
                | FilterKind::RequestRedirect(_)
                | FilterKind::UrlRewrite(_)
                | FilterKind::Cors(_)
                | FilterKind::Invalid(_),
            )
            | None => {}
        }
    }
}

fn of_backend(backend: &Backend, keys: &mut BTreeSet<String>) {
    let Backend {
        key,
        namespace: _,
        service: _,
        port: _,
        protocol: _,
        tls,
        session_persistence: _,
        retry_budget: _,
        limits: _,
    } = backend;
    keys.extend(key.strip_prefix("backend/").map(|rest| format!("endpoints/{rest}")));
    if let Some(tls) = tls {
        let BackendTls {
            hostname: _,
            ca_bundles,
            system_authorities: _,
            subject_alt_names: _,
            invalid_reason: _,
        } = tls;
        keys.extend(ca_bundles.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::{attachments, references};
    use crate::resource::{
        Attachment, Backend, BackendTls, Body, ExternalAuth, Filter, FilterKind, HttpRoute, HttpRule,
        Listener, ListenerTls, RequestMirror, Resource, WeightedBackend,
    };

    fn of(body: Body) -> Vec<String> {
        references(&Resource { body: Some(body) }).into_iter().collect()
    }

    fn auth(backend_key: &str, invalid_reason: &str) -> Filter {
        let auth = ExternalAuth {
            backend_key: backend_key.to_owned(),
            invalid_reason: invalid_reason.to_owned(),
            ..ExternalAuth::default()
        };
        Filter { kind: Some(FilterKind::ExternalAuth(auth)) }
    }

    fn backend(backend_key: &str, invalid_reason: &str) -> WeightedBackend {
        WeightedBackend {
            weight: 1,
            backend_key: backend_key.to_owned(),
            invalid_reason: invalid_reason.to_owned(),
            filters: Vec::new(),
        }
    }

    #[test]
    fn a_route_needs_what_it_can_use_and_nothing_that_it_may_not() {
        let mirror = RequestMirror { backend_key: "backend/a/m/1".to_owned(), ..RequestMirror::default() };
        let rule = HttpRule {
            filters: vec![
                Filter { kind: Some(FilterKind::RequestMirror(mirror)) },
                auth("backend/a/x/1", ""),
                auth("backend/other/secret/1", "RefNotPermitted"),
            ],
            backends: vec![backend("backend/a/s/1", ""), backend("backend/other/s/1", "RefNotPermitted")],
            ..HttpRule::default()
        };
        let attached = |key: &str| Attachment { listener_key: key.to_owned(), hostnames: Vec::new() };
        let route = HttpRoute {
            rules: vec![rule],
            attachments: vec![attached("listener/a/g/x"), attached("listener/a/g/x")],
            ..HttpRoute::default()
        };
        let resource = Resource { body: Some(Body::HttpRoute(route.clone())) };
        assert_eq!(attachments(&resource).into_iter().collect::<Vec<_>>(), ["listener/a/g/x"]);
        assert_eq!(of(Body::HttpRoute(route)), ["backend/a/m/1", "backend/a/s/1", "backend/a/x/1"]);
    }

    #[test]
    fn listeners_need_certificates_and_backends_endpoints_and_authorities() {
        let listener = Listener {
            tls: Some(ListenerTls {
                certificates: vec!["certificate/1".to_owned()],
                ..ListenerTls::default()
            }),
            backend_client_certificate: "certificate/2".to_owned(),
            ..Listener::default()
        };
        assert_eq!(of(Body::Listener(listener)), ["certificate/1", "certificate/2"]);
        assert_eq!(of(Body::Listener(Listener::default())), [] as [&str; 0]);
        let tls = BackendTls { ca_bundles: vec!["cabundle/1".to_owned()], ..BackendTls::default() };
        let backend = Backend { key: "backend/a/s/1/h2".to_owned(), tls: Some(tls), ..Backend::default() };
        assert_eq!(of(Body::Backend(backend)), ["cabundle/1", "endpoints/a/s/1/h2"]);
    }
}

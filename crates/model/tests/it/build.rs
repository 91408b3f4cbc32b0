//! Short ways to write resources.

use weir_model::resource::{
    Attachment, Backend, Body, Endpoint, Endpoints, HttpMatch, HttpRoute, HttpRule, L4Route, Listener,
    ListenerProtocol, ListenerTls, PathKind, Resource, Update, ValueMatch, WeightedBackend,
};

pub(crate) fn listener(name: &str, address: &str, port: u32, hostname: &str) -> Resource {
    Resource {
        body: Some(Body::Listener(Listener {
            key: listener_key(name),
            gateway: "ns/gw".into(),
            section: name.into(),
            address: address.into(),
            port,
            protocol: 0,
            hostname: hostname.into(),
            ..Listener::default()
        })),
    }
}

/// On 127.0.0.1.
pub(crate) fn listener_of(protocol: ListenerProtocol, name: &str, port: u32, hostname: &str) -> Resource {
    let mut resource = listener(name, "127.0.0.1", port, hostname);
    if let Some(Body::Listener(listener)) = &mut resource.body {
        listener.protocol = protocol as i32;
        if matches!(protocol, ListenerProtocol::Https | ListenerProtocol::Tls) {
            listener.tls = Some(ListenerTls {
                passthrough: protocol == ListenerProtocol::Tls,
                certificates: vec![format!("certificate/{name}")],
                client_validation: None,
            });
        }
    }
    resource
}

/// `kind` as in keys: `tlsroute`.
pub(crate) fn l4_route(
    kind: &str,
    name: &str,
    created: i64,
    attachments: Vec<Attachment>,
    backends: Vec<WeightedBackend>,
) -> Resource {
    let (namespace, short) = name.split_once('/').unwrap_or(("ns", name));
    Resource {
        body: Some(Body::L4Route(L4Route {
            key: format!("{kind}/{namespace}/{short}"),
            namespace: namespace.into(),
            name: short.into(),
            uid: format!("uid-{namespace}-{short}"),
            created_seconds: created,
            attachments,
            rule_name: String::new(),
            split_identity: format!("uid-{namespace}-{short}/0"),
            backends,
        })),
    }
}

pub(crate) fn listener_key(name: &str) -> String {
    format!("listener/ns/gw/{name}")
}

pub(crate) fn attach(listener: &str, hostnames: &[&str]) -> Attachment {
    Attachment {
        listener_key: listener_key(listener),
        hostnames: hostnames.iter().map(|name| (*name).to_owned()).collect(),
    }
}

pub(crate) fn route(
    name: &str,
    created: i64,
    attachments: Vec<Attachment>,
    rules: Vec<HttpRule>,
) -> Resource {
    let (namespace, short) = name.split_once('/').unwrap_or(("ns", name));
    Resource {
        body: Some(Body::HttpRoute(HttpRoute {
            key: format!("httproute/{namespace}/{short}"),
            namespace: namespace.into(),
            name: short.into(),
            uid: format!("uid-{namespace}-{short}"),
            created_seconds: created,
            attachments,
            rules,
        })),
    }
}

/// A rule whose identity is its name.
pub(crate) fn rule(name: &str, matches: Vec<HttpMatch>, backends: &[(&str, u32)]) -> HttpRule {
    HttpRule {
        name: name.into(),
        split_identity: format!("uid/{name}"),
        matches,
        backends: backends.iter().map(|(name, weight)| weighted(name, *weight)).collect(),
        ..Default::default()
    }
}

pub(crate) fn weighted(name: &str, weight: u32) -> WeightedBackend {
    WeightedBackend { weight, backend_key: backend_key(name), invalid_reason: String::new(), filters: vec![] }
}

pub(crate) fn prefix(path: &str) -> HttpMatch {
    HttpMatch { path_kind: PathKind::Prefix as i32, path: path.into(), ..Default::default() }
}

pub(crate) fn exact(path: &str) -> HttpMatch {
    HttpMatch { path_kind: PathKind::Exact as i32, path: path.into(), ..Default::default() }
}

pub(crate) fn regex(path: &str) -> HttpMatch {
    HttpMatch { path_kind: PathKind::RegularExpression as i32, path: path.into(), ..Default::default() }
}

pub(crate) fn value(name: &str, value: &str) -> ValueMatch {
    ValueMatch { name: name.into(), value: value.into(), regex: false }
}

pub(crate) fn backend_key(name: &str) -> String {
    format!("backend/ns/{name}/80")
}

pub(crate) fn backend(name: &str) -> Resource {
    Resource {
        body: Some(Body::Backend(Backend {
            key: backend_key(name),
            namespace: "ns".into(),
            service: name.into(),
            port: 80,
            ..Backend::default()
        })),
    }
}

pub(crate) fn endpoints(name: &str, addresses: &[&str]) -> Resource {
    Resource {
        body: Some(Body::Endpoints(Endpoints {
            key: format!("endpoints/ns/{name}/80"),
            backend_key: backend_key(name),
            endpoints: addresses
                .iter()
                .map(|address| Endpoint { address: (*address).to_owned(), port: 8080 })
                .collect(),
        })),
    }
}

pub(crate) fn upserts(resources: Vec<Resource>) -> Update {
    Update { upserts: resources, ..Default::default() }
}

pub(crate) fn full(resources: Vec<Resource>) -> Update {
    Update { upserts: resources, full: true, ..Default::default() }
}

pub(crate) fn removals(keys: &[&str]) -> Update {
    Update { removals: keys.iter().map(|key| (*key).to_owned()).collect(), ..Default::default() }
}

//! Services as backends, and their endpoints.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weir_api::condition::reasons;
use weir_api::core_v1::{AddressType, Service, ServicePort, ServiceType, TransportProtocol};
use weir_api::route::BackendReference;
use weir_model::resource::{Backend, BackendProtocol, Endpoint, Endpoints};

use super::finding::{Finding, list};
use super::grant;
use super::reading::{Reading, Unknown};
use crate::objects::{Kind, ObjectKey, Objects, Presence};

/// Ports of a Service that a message names.
const PORTS_MAX: usize = 8;

/// Where a reference leads.
pub(super) enum Resolved {
    Usable {
        service: ObjectKey,
        port: u32,
    },
    Invalid(Finding),
    /// Something that it depends on has not been seen yet; the reading knows what.
    Pending,
}

/// The key of the backend resource that a reference leads to, valid or not.
pub(super) fn key(reference: &BackendReference, route_namespace: &str) -> String {
    let namespace = reference.namespace.as_deref().unwrap_or(route_namespace);
    format!("backend/{namespace}/{}/{}", reference.name, reference.port.unwrap_or(0))
}

/// Follows a backend reference of an HTTPRoute in `route_namespace`; `field` is where the reference is.
pub(super) fn resolve(
    reference: &BackendReference,
    route_namespace: &str,
    field: &str,
    reading: &mut Reading<'_>,
) -> Resolved {
    let invalid = |at: &str, reason, message: String| {
        let field = if at.is_empty() { field.to_owned() } else { format!("{field}.{at}") };
        Resolved::Invalid(Finding::error(field, reason, message))
    };
    let core = reference.group.is_empty() || reference.group == "core";
    if !core || reference.kind != "Service" {
        let kind =
            if core { reference.kind.clone() } else { format!("{}.{}", reference.kind, reference.group) };
        let message = format!("kind {kind} is not supported as a backend; only Service is");
        return invalid("kind", reasons::INVALID_KIND, message);
    }
    let namespace = reference.namespace.as_deref().unwrap_or(route_namespace);
    let service = ObjectKey::new(Kind::Service, namespace, reference.name.clone());
    if namespace != route_namespace {
        match grant::http_route_to_service(route_namespace, &service, reading) {
            Presence::Present => {}
            Presence::Unknown => return Resolved::Pending,
            Presence::Absent => {
                let message = format!(
                    "no ReferenceGrant in namespace {namespace} lets HTTPRoutes of namespace {route_namespace} refer to \
                     Service {}",
                    reference.name
                );
                return invalid("", reasons::REF_NOT_PERMITTED, message);
            }
        }
    }
    match reading.presence(&service, Unknown::Holds) {
        Presence::Present => {}
        Presence::Unknown => return Resolved::Pending,
        Presence::Absent => {
            let message = format!("there is no Service {}/{}", service.namespace, service.name);
            return invalid("name", reasons::BACKEND_NOT_FOUND, message);
        }
    }
    let Some(object) = reading.objects.service(&service) else {
        return Resolved::Pending;
    };
    match usable_port(object, &service, reference.port) {
        Err((at, reason, message)) => invalid(at, reason, message),
        Ok(port) => {
            if reading.objects.awaits_slices(&service) {
                reading.wait_for(&service);
            }
            Resolved::Usable { service, port }
        }
    }
}

/// The port, if the Service can be reached on it from an HTTPRoute.
fn usable_port(
    object: &Service,
    key: &ObjectKey,
    port: Option<i32>,
) -> Result<u32, (&'static str, &'static str, String)> {
    let name = format!("Service {}/{}", key.namespace, key.name);
    if object.spec.type_ == ServiceType::ExternalName {
        let host = object.spec.external_name.as_deref().unwrap_or_default();
        let message = format!("{name} is of type ExternalName ({host}), which is not supported as a backend");
        return Err(("name", reasons::UNSUPPORTED_VALUE, message));
    }
    let has = || {
        let ports: Vec<String> = object.spec.ports.iter().map(describe_port).collect();
        if ports.is_empty() {
            "it has no ports".to_owned()
        } else {
            format!("it has {}", list(&ports, PORTS_MAX))
        }
    };
    let Some(port) = port else {
        return Err((
            "port",
            reasons::BACKEND_NOT_FOUND,
            format!("a port of {name} must be named; {}", has()),
        ));
    };
    let mut with_number = object.spec.ports.iter().filter(|p| p.port == port).peekable();
    if with_number.peek().is_none() {
        return Err(("port", reasons::BACKEND_NOT_FOUND, format!("{name} has no port {port}; {}", has())));
    }
    let Some(found) = with_number.find(|p| p.protocol == TransportProtocol::Tcp) else {
        let message = format!("port {port} of {name} is not TCP; {}", has());
        return Err(("port", reasons::UNSUPPORTED_PROTOCOL, message));
    };
    if let Some(protocol) = found.app_protocol.as_deref().filter(|p| !speaks_http1(p)) {
        let message = format!(
            "port {port} of {name} has appProtocol {protocol:?}; Weir speaks HTTP/1.1 to backends, also for WebSocket"
        );
        return Err(("port", reasons::UNSUPPORTED_PROTOCOL, message));
    }
    u32::try_from(port).ok().filter(|port| (1..=65_535).contains(port)).ok_or_else(|| {
        ("port", reasons::BACKEND_NOT_FOUND, format!("{port} is not a port number; {}", has()))
    })
}

fn describe_port(port: &ServicePort) -> String {
    let mut text = port.port.to_string();
    if !port.name.is_empty() {
        text.push_str(&format!(" ({})", port.name));
    }
    if port.protocol != TransportProtocol::Tcp {
        text.push_str(&format!(" {}", port.protocol));
    }
    text
}

/// Whether a backend that says it speaks `app_protocol` can be spoken to with HTTP/1.1 in the clear. What is not known
/// to be something else can: vendors have names of their own for plain HTTP.
fn speaks_http1(app_protocol: &str) -> bool {
    !matches!(
        app_protocol.to_ascii_lowercase().as_str(),
        "kubernetes.io/h2c"
            | "kubernetes.io/wss"
            | "h2c"
            | "http2"
            | "h2"
            | "grpc"
            | "grpcs"
            | "https"
            | "tls"
            | "wss"
    )
}

/// Whether two states of a Service mean the same to the routes that refer to it.
pub(super) fn same_to_routes(before: &Service, now: &Service) -> bool {
    before.spec.type_ == now.spec.type_
        && before.spec.ports == now.spec.ports
        && before.spec.external_name == now.spec.external_name
}

/// The resources of one port of a Service. `None` when the Service or the port is not there.
pub(super) fn resources(objects: &Objects, service: &ObjectKey, port: u32) -> Option<(Backend, Endpoints)> {
    let object = objects.service(service)?;
    let found = object
        .spec
        .ports
        .iter()
        .find(|p| p.protocol == TransportProtocol::Tcp && u32::try_from(p.port) == Ok(port))?;
    let path = format!("{}/{}/{port}", service.namespace, service.name);
    let backend = Backend {
        key: format!("backend/{path}"),
        namespace: service.namespace.clone(),
        service: service.name.clone(),
        port,
        protocol: BackendProtocol::Http1.into(),
        ..Backend::default()
    };
    let endpoints = Endpoints {
        key: format!("endpoints/{path}"),
        backend_key: backend.key.clone(),
        endpoints: endpoints(objects, service, &found.name),
    };
    Some((backend, endpoints))
}

/// The endpoints behind the Service port named `port_name`: the ready ones, or, when none is ready, those that still
/// serve while they terminate (as kube-proxy does it).
fn endpoints(objects: &Objects, service: &ObjectKey, port_name: &str) -> Vec<Endpoint> {
    let mut ready = BTreeSet::new();
    let mut leaving = BTreeSet::new();
    for slice in objects.slices(service) {
        if !matches!(slice.address_type, AddressType::Ipv4 | AddressType::Ipv6) {
            continue;
        }
        let ports: Vec<u32> = slice
            .ports
            .iter()
            .filter(|p| p.name == port_name && p.protocol == TransportProtocol::Tcp)
            .filter_map(|p| u32::try_from(p.port?).ok().filter(|port| (1..=65_535).contains(port)))
            .collect();
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions;
            let is_ready = conditions.ready.unwrap_or(true);
            let serves = conditions.serving.unwrap_or(is_ready) && conditions.terminating.unwrap_or(false);
            let into = match (is_ready, serves) {
                (true, _) => &mut ready,
                (false, true) => &mut leaving,
                (false, false) => continue,
            };
            for address in endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
                into.extend(ports.iter().map(|port| Endpoint { address: address.to_string(), port: *port }));
            }
        }
    }
    let chosen = if ready.is_empty() { leaving } else { ready };
    chosen.into_iter().collect()
}

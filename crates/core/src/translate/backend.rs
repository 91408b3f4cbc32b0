//! Services as backends, and their endpoints.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weir_api::condition::reasons;
use weir_api::core_v1::{AddressType, Service, ServicePort, ServiceType, TransportProtocol};
use weir_api::reference::BackendReference;
use weir_model::resource::{Backend, BackendProtocol, Endpoint, Endpoints, WeightedBackend};

use super::finding::{Finding, list};
use super::grant::{self, Referrer};
use super::policy;
use super::reading::{Reading, Unknown};
use crate::objects::{Kind, ObjectKey, Objects, Presence};

/// Ports of a Service that a message names.
const PORTS_MAX: usize = 8;

/// Who uses a backend, and how.
#[derive(Clone, Copy)]
pub(super) struct Use<'a> {
    /// Kind and namespace of the route.
    pub(super) kind: Kind,
    pub(super) namespace: &'a str,
    pub(super) wants: Wants,
}

/// What is to be spoken to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// HTTP/1.1, unless the port says otherwise.
    Http,
    /// HTTP/2, which gRPC needs.
    Grpc,
    /// Bytes; what they are is the port's own matter.
    Tcp,
    Udp,
}

/// A port of a Service, in one of the forms in which it can be a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PortUse {
    pub(super) number: u32,
    pub(super) form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Form {
    /// TCP, and what the port itself says is spoken over it.
    Plain,
    /// TCP with HTTP/2, although the port does not say so.
    Http2,
    Udp,
}

impl PortUse {
    /// The part of resource keys that names it.
    pub(super) fn path(self, service: &ObjectKey) -> String {
        let form = match self.form {
            Form::Plain => "",
            Form::Http2 => "/h2",
            Form::Udp => "/udp",
        };
        format!("{}/{}/{}{form}", service.namespace, service.name, self.number)
    }
}

/// Where a reference leads.
pub(super) enum Resolved {
    Usable {
        service: ObjectKey,
        port: PortUse,
    },
    Invalid(Finding),
    /// Something that it depends on has not been seen yet; the reading knows what.
    Pending,
}

/// A reference with its weight, translated.
pub(super) struct Weighted {
    pub(super) resource: WeightedBackend,
    pub(super) used: Option<(ObjectKey, PortUse)>,
    pub(super) unresolved: Option<Finding>,
}

/// The key of the backend resource of a Service's port.
pub(super) fn key_of(service: &ObjectKey, port: PortUse) -> String {
    format!("backend/{}", port.path(service))
}

/// The key of the backend resource that a reference would lead to.
pub(super) fn key(reference: &BackendReference<'_>, uses: &Use<'_>) -> String {
    let namespace = reference.namespace.unwrap_or(uses.namespace);
    let form = if uses.wants == Wants::Udp { "/udp" } else { "" };
    format!("backend/{namespace}/{}/{}{form}", reference.name, reference.port.unwrap_or(0))
}

/// Follows a backendRef of a route; one that leads nowhere keeps its weight.
pub(super) fn weighted(
    reference: &BackendReference<'_>,
    weight: u32,
    uses: &Use<'_>,
    field: &str,
    reading: &mut Reading<'_>,
) -> Weighted {
    let mut resource =
        WeightedBackend { weight, backend_key: key(reference, uses), ..WeightedBackend::default() };
    match resolve(reference, uses, field, reading) {
        Resolved::Usable { service, port } => {
            resource.backend_key = key_of(&service, port);
            Weighted { resource, used: Some((service, port)), unresolved: None }
        }
        // The route as a whole is held back, so nobody sees this.
        Resolved::Pending => Weighted { resource, used: None, unresolved: None },
        Resolved::Invalid(finding) => {
            finding.reason.clone_into(&mut resource.invalid_reason);
            Weighted { resource, used: None, unresolved: Some(finding) }
        }
    }
}

/// Follows a backend reference; `field` is where it is.
pub(super) fn resolve(
    reference: &BackendReference<'_>,
    uses: &Use<'_>,
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
            if core { reference.kind.to_owned() } else { format!("{}.{}", reference.kind, reference.group) };
        let message = format!("kind {kind} is not supported as a backend; only Service is");
        return invalid("kind", reasons::INVALID_KIND, message);
    }
    let namespace = reference.namespace.unwrap_or(uses.namespace);
    let service = ObjectKey::new(Kind::Service, namespace, reference.name);
    if namespace != uses.namespace {
        let from = Referrer { kind: uses.kind, namespace: uses.namespace };
        match grant::permits(&from, &service, reading) {
            Presence::Present => {}
            Presence::Unknown => return Resolved::Pending,
            Presence::Absent => {
                return invalid("", reasons::REF_NOT_PERMITTED, grant::refusal(&from, &service));
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
    match usable_port(object, &service, reference.port, uses.wants, reading) {
        Err((at, reason, message)) => invalid(at, reason, message),
        Ok(port) => {
            if reading.objects.awaits_slices(&service) {
                reading.wait_for(&service);
            }
            Resolved::Usable { service, port }
        }
    }
}

/// The port, if the Service can be used on it as wanted.
fn usable_port(
    object: &Service,
    key: &ObjectKey,
    port: Option<i32>,
    wants: Wants,
    reading: &mut Reading<'_>,
) -> Result<PortUse, (&'static str, &'static str, String)> {
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
    let transport = if wants == Wants::Udp { TransportProtocol::Udp } else { TransportProtocol::Tcp };
    let Some(found) = with_number.find(|p| p.protocol == transport) else {
        let message = format!("port {port} of {name} is not {transport}; {}", has());
        return Err(("port", reasons::UNSUPPORTED_PROTOCOL, message));
    };
    let form = form(found, key, wants, reading).map_err(|why| {
        let protocol = found.app_protocol.as_deref().unwrap_or_default();
        let message = format!("port {port} of {name} has appProtocol {protocol:?}, {why}");
        ("port", reasons::UNSUPPORTED_PROTOCOL, message)
    })?;
    let number = u32::try_from(port).ok().filter(|port| (1..=65_535).contains(port)).ok_or_else(|| {
        ("port", reasons::BACKEND_NOT_FOUND, format!("{port} is not a port number; {}", has()))
    })?;
    Ok(PortUse { number, form })
}

/// What a port says is spoken to it (`appProtocol`).
struct Spoken {
    /// `None`: nothing that Weir knows; vendors have names of their own for plain HTTP.
    protocol: Option<BackendProtocol>,
    /// Only over TLS, which a BackendTLSPolicy says how to do.
    needs_tls: bool,
    web_socket: bool,
}

fn spoken(port: &ServicePort) -> Spoken {
    let name = port.app_protocol.as_deref().unwrap_or_default().to_ascii_lowercase();
    let (protocol, needs_tls) = match name.as_str() {
        "http" | "kubernetes.io/ws" | "ws" => (Some(BackendProtocol::Http1), false),
        "https" | "tls" | "kubernetes.io/wss" | "wss" => (Some(BackendProtocol::Http1), true),
        "kubernetes.io/h2c" | "h2c" | "http2" | "grpc" => (Some(BackendProtocol::Http2), false),
        "h2" | "grpcs" => (Some(BackendProtocol::Http2), true),
        _ => (None, false),
    };
    let web_socket = matches!(name.as_str(), "kubernetes.io/ws" | "ws" | "kubernetes.io/wss" | "wss");
    Spoken { protocol, needs_tls, web_socket }
}

/// The form in which a port is used; `Err` says why it cannot be.
fn form(
    port: &ServicePort,
    service: &ObjectKey,
    wants: Wants,
    reading: &mut Reading<'_>,
) -> Result<Form, &'static str> {
    let spoken = spoken(port);
    match wants {
        Wants::Udp => return Ok(Form::Udp),
        Wants::Tcp => return Ok(Form::Plain),
        Wants::Grpc if spoken.web_socket => return Err("which gRPC cannot be carried by"),
        Wants::Http | Wants::Grpc => {}
    }
    if spoken.needs_tls && !policy::encrypts(service, &port.name, reading) {
        return Err("which needs a BackendTLSPolicy for the Service");
    }
    if wants == Wants::Grpc && spoken.protocol != Some(BackendProtocol::Http2) {
        return Ok(Form::Http2);
    }
    Ok(Form::Plain)
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

/// Whether two states of a Service mean the same to the routes that refer to it.
pub(super) fn same_to_routes(before: &Service, now: &Service) -> bool {
    before.spec.type_ == now.spec.type_
        && before.spec.ports == now.spec.ports
        && before.spec.external_name == now.spec.external_name
}

/// The resources of one port of a Service, and the port's name. `None` when the Service or the port is not there.
pub(super) fn resources(
    objects: &Objects,
    service: &ObjectKey,
    port: PortUse,
) -> Option<(Backend, Endpoints, String)> {
    let object = objects.service(service)?;
    let transport = if port.form == Form::Udp { TransportProtocol::Udp } else { TransportProtocol::Tcp };
    let found = object
        .spec
        .ports
        .iter()
        .find(|p| p.protocol == transport && u32::try_from(p.port) == Ok(port.number))?;
    let protocol = match port.form {
        Form::Http2 => BackendProtocol::Http2,
        Form::Plain | Form::Udp => spoken(found).protocol.unwrap_or(BackendProtocol::Http1),
    };
    let backend = Backend {
        key: key_of(service, port),
        namespace: service.namespace.clone(),
        service: service.name.clone(),
        port: port.number,
        protocol: protocol.into(),
        ..Backend::default()
    };
    let endpoints = Endpoints {
        key: format!("endpoints/{}", port.path(service)),
        backend_key: backend.key.clone(),
        endpoints: endpoints(objects, service, &found.name, &transport),
    };
    Some((backend, endpoints, found.name.clone()))
}

/// The endpoints behind the Service port named `port_name`: the ready ones, or, when none is ready, those that still
/// serve while they terminate (as kube-proxy does it), or else those on nodes of which nobody has heard for a while: that they are not
/// ready says nothing of them.
fn endpoints(
    objects: &Objects,
    service: &ObjectKey,
    port_name: &str,
    transport: &TransportProtocol,
) -> Vec<Endpoint> {
    let mut ready = BTreeSet::new();
    let mut leaving = BTreeSet::new();
    let mut lost = BTreeSet::new();
    for slice in objects.slices(service) {
        if !matches!(slice.address_type, AddressType::Ipv4 | AddressType::Ipv6) {
            continue;
        }
        let ports: Vec<u32> = slice
            .ports
            .iter()
            .filter(|p| p.name == port_name && p.protocol == *transport)
            .filter_map(|p| u32::try_from(p.port?).ok().filter(|port| (1..=65_535).contains(port)))
            .collect();
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions;
            let is_ready = endpoint.is_ready();
            let serves = conditions.serving.unwrap_or(is_ready) && conditions.terminating.unwrap_or(false);
            let into = match (is_ready, serves) {
                (true, _) => &mut ready,
                (false, true) => &mut leaving,
                (false, false) if endpoint.is_node_lost => &mut lost,
                (false, false) => continue,
            };
            for address in endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
                into.extend(ports.iter().map(|port| Endpoint { address: address.to_string(), port: *port }));
            }
        }
    }
    let chosen = [ready, leaving, lost].into_iter().find(|set| !set.is_empty());
    chosen.into_iter().flatten().collect()
}

//! Listeners of a Gateway or a ListenerSet: what each is able to do, on its owner's spec and what that refers to.
//!
//! Deliberately absent: listeners in each other's way (`conflict`), which is judged once all owners' are known.

use std::sync::Arc;

use weir_api::condition::reasons;
use weir_api::gateway_api::{FromNamespaces, Listener, ProtocolType, RouteGroupKind, TlsModeType};
use weir_api::kind_facts::GROUP;
use weir_api::meta::LabelSelector;
use weir_model::resource::{self, ClientValidation, ListenerProtocol};

use super::ReservedPort;
use super::finding::{Finding, list};
use super::frontend::Frontend;
use super::grant::Referrer;
use super::hostname;
use super::reading::Reading;
use super::tls::{self, CertificateView, Followed, Materials};
use crate::objects::Kind;

/// Things of one sort that a message names.
const NAMED_MAX: usize = 4;

/// A listener, judged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ListenerPlan {
    /// Position in the spec.
    pub(crate) index: usize,
    pub(crate) name: String,
    /// Key of its first resource.
    pub(crate) key: String,
    /// 1 to 65535 when the listener is accepted.
    pub(crate) port: i32,
    pub(crate) protocol: ProtocolType,
    /// In normal form; empty for any host.
    pub(crate) hostname: String,
    pub(crate) tls: Option<TlsPlan>,
    pub(crate) conflict: Option<Conflict>,
    /// Why the listener cannot be accepted, other than for a conflict.
    pub(crate) refused: Option<(&'static str, String)>,
    /// Route kinds that can attach.
    pub(crate) kinds: Vec<RouteGroupKind>,
    /// Why references in the listener cannot be used.
    pub(crate) unresolved: Option<(&'static str, String)>,
    /// Which of the certificates that it shows nobody should accept now, and why.
    pub(crate) out_of_time: Vec<String>,
    /// A client that asks for one listener's name may get what another one is for.
    pub(crate) overlap: Option<Conflict>,
    pub(crate) from: FromNamespaces,
    pub(crate) selector: Option<LabelSelector>,
}

/// How a listener does TLS.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TlsPlan {
    pub(crate) passthrough: bool,
    /// Keys, in the order of the references; those that lead nowhere are left out.
    pub(crate) certificates: Vec<String>,
    /// Names that the certificates are for.
    pub(crate) names: Vec<String>,
    pub(crate) validation: Option<ClientValidation>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conflict {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl ListenerPlan {
    /// Why the listener is not accepted.
    pub(crate) fn rejection(&self) -> Option<(&'static str, &str)> {
        let refused = self.refused.as_ref().map(|(reason, message)| (*reason, message.as_str()));
        refused.or_else(|| self.conflict.as_ref().map(|c| (c.reason, c.message.as_str())))
    }

    /// Whether the data plane is to have it.
    pub(crate) fn is_served(&self) -> bool {
        self.rejection().is_none() && !self.kinds.is_empty()
    }

    /// Whether no handshake can succeed, because it ends TLS and has nothing to show.
    pub(crate) fn has_nothing_to_show(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.passthrough && tls.certificates.is_empty())
    }

    /// The form in which the data plane has it, for one of the Gateway's addresses.
    pub(super) fn resource(&self, key: String, gateway: String, address: String) -> resource::Listener {
        let protocol = match self.protocol {
            ProtocolType::Https => ListenerProtocol::Https,
            ProtocolType::Tls => ListenerProtocol::Tls,
            ProtocolType::Tcp => ListenerProtocol::Tcp,
            ProtocolType::Udp => ListenerProtocol::Udp,
            // No other is served.
            ProtocolType::Http | ProtocolType::Unknown(_) => ListenerProtocol::Http,
        };
        resource::Listener {
            key,
            gateway,
            section: self.name.clone(),
            address,
            port: u32::try_from(self.port).unwrap_or_default(),
            protocol: protocol.into(),
            hostname: self.hostname.clone(),
            tls: self.tls.as_ref().map(|tls| resource::ListenerTls {
                passthrough: tls.passthrough,
                certificates: tls.certificates.clone(),
                client_validation: tls.validation.clone(),
            }),
            ..resource::Listener::default()
        }
    }
}

/// Whether a protocol's sockets are UDP's.
pub(crate) fn is_udp(protocol: &ProtocolType) -> bool {
    *protocol == ProtocolType::Udp
}

/// What holds for listeners by their ports.
#[derive(Clone, Copy)]
pub(super) struct PortRules<'a> {
    pub(super) frontend: &'a Frontend,
    pub(super) reserved: &'static [ReservedPort],
}

impl PortRules<'_> {
    /// Why a listener cannot have its port, which is a port number.
    fn refusal(self, listener: &Listener) -> Option<(&'static str, String)> {
        let is_its = |reserved: &&ReservedPort| i32::from(reserved.port) == listener.port;
        let reserved = self.reserved.iter().find(is_its).filter(|_| !is_udp(&listener.protocol))?;
        let message = format!("port {} is not for listeners: {}", reserved.port, reserved.why);
        Some((reasons::PORT_UNAVAILABLE, message))
    }
}

/// What judging a listener needs beside it.
pub(super) struct Judge<'a, 'r> {
    pub(super) referrer: Referrer<'a>,
    /// What the keys of the owner's listeners begin with.
    pub(super) prefix: String,
    pub(super) ports: PortRules<'a>,
    pub(super) materials: &'a mut Materials,
    pub(super) reading: &'a mut Reading<'r>,
    /// Certificates that were found.
    pub(super) used: &'a mut Vec<Arc<CertificateView>>,
}

/// Judges the listeners of one owner. Of listeners with one name only the first counts.
pub(super) fn plan(listeners: &[Listener], judge: &mut Judge<'_, '_>) -> (Vec<ListenerPlan>, Vec<Finding>) {
    let mut plans: Vec<ListenerPlan> = Vec::with_capacity(listeners.len());
    let mut findings = Vec::new();
    for (index, listener) in listeners.iter().enumerate() {
        if plans.iter().any(|plan| plan.name == listener.name) {
            findings.push(Finding::error(
                format!("spec.listeners[{index}].name"),
                reasons::INVALID,
                format!("a listener before this one is called {} too; this one is left out", listener.name),
            ));
            continue;
        }
        plans.push(judge.listener(index, listener, &mut findings));
    }
    (plans, findings)
}

impl Judge<'_, '_> {
    fn listener(&mut self, index: usize, listener: &Listener, findings: &mut Vec<Finding>) -> ListenerPlan {
        let field = format!("spec.listeners[{index}]");
        let by_hostname =
            matches!(listener.protocol, ProtocolType::Http | ProtocolType::Https | ProtocolType::Tls);
        let written = listener.hostname.as_deref().filter(|_| by_hostname);
        let normal = written.map_or(Ok(String::new()), hostname::normal);
        let mut refused = refusal(listener, written.unwrap_or_default(), normal.as_ref().err())
            .or_else(|| self.ports.refusal(listener));
        let (kinds, wrong_kinds) = kinds(&listener.protocol, &listener.allowed_routes.kinds);
        let mut unresolved = None;
        let mut out_of_time = Vec::new();
        let mut tls = None;
        if refused.is_none() && matches!(listener.protocol, ProtocolType::Https | ProtocolType::Tls) {
            let before = self.used.len();
            let (plan, problem) = self.tls(listener);
            out_of_time = tls::out_of_time(&self.used[before..]);
            let refs = format!("{field}.tls.certificateRefs");
            findings.extend(out_of_time.iter().map(|why| tls::stale(&refs, why)));
            unresolved = problem.map(|problem| (".tls.certificateRefs", problem));
            tls = Some(plan);
            if listener.protocol == ProtocolType::Https {
                self.validate_clients(listener, &mut tls, &mut refused, &mut unresolved);
            }
        }
        let unresolved = unresolved.or(wrong_kinds.map(|problem| (".allowedRoutes.kinds", problem)));
        if let Some((reason, message)) = &refused {
            findings.push(Finding::error(field.clone(), reason, message.clone()));
        }
        if let Some((at, (reason, message))) = &unresolved {
            findings.push(Finding::error(format!("{field}{at}"), reason, message.clone()));
        }
        if listener.tls.as_ref().is_some_and(|tls| !tls.options.is_empty()) {
            let message = "tls.options is not supported and has no effect";
            findings.push(Finding::warning(format!("{field}.tls.options"), "NotSupported", message));
        }
        ListenerPlan {
            index,
            name: listener.name.clone(),
            key: format!("{}/{}", self.prefix, listener.name),
            port: listener.port,
            protocol: listener.protocol.clone(),
            hostname: normal.unwrap_or_default(),
            tls,
            conflict: None,
            refused,
            kinds,
            unresolved: unresolved.map(|(_, problem)| problem),
            out_of_time,
            overlap: None,
            from: listener.allowed_routes.namespaces.from.clone(),
            selector: listener.allowed_routes.namespaces.selector.clone(),
        }
    }

    /// The certificates of a listener, and the first reference that leads to none.
    fn tls(&mut self, listener: &Listener) -> (TlsPlan, Option<(&'static str, String)>) {
        let mut plan =
            TlsPlan { passthrough: false, certificates: Vec::new(), names: Vec::new(), validation: None };
        let tls = listener.tls.clone().unwrap_or_default();
        if tls.mode == TlsModeType::Passthrough {
            plan.passthrough = true;
            return (plan, None);
        }
        let mut problem = None;
        if tls.certificate_refs.is_empty() {
            let message = "there is no certificate: tls.certificateRefs is empty".to_owned();
            problem = Some((reasons::INVALID_CERTIFICATE_REF, message));
        }
        for reference in &tls.certificate_refs {
            match self.materials.certificate(reference, &self.referrer, self.reading) {
                Followed::Found(view) => {
                    if !plan.certificates.contains(&view.resource.key) {
                        plan.certificates.push(view.resource.key.clone());
                    }
                    plan.names.extend(view.names.iter().cloned());
                    self.used.push(view);
                }
                // The owner as a whole is held back, so nobody sees this.
                Followed::Pending => {}
                Followed::NotPermitted(message) => {
                    problem.get_or_insert((reasons::REF_NOT_PERMITTED, message));
                }
                Followed::WrongKind(message) | Followed::Unusable(message) => {
                    problem.get_or_insert((reasons::INVALID_CERTIFICATE_REF, message));
                }
            }
        }
        plan.names.sort();
        plan.names.dedup();
        (plan, problem)
    }

    /// Puts in what `spec.tls.frontend` says about the listener's port.
    fn validate_clients(
        &self,
        listener: &Listener,
        tls: &mut Option<TlsPlan>,
        refused: &mut Option<(&'static str, String)>,
        unresolved: &mut Option<(&'static str, (&'static str, String))>,
    ) {
        let Some(port) = self.ports.frontend.of_port(listener.port) else {
            return;
        };
        if let Some(problem) = &port.problem {
            unresolved.get_or_insert((".port", problem.clone()));
        }
        if port.validation.ca_bundles.is_empty() {
            let message = format!(
                "port {} asks clients for certificates, and there is no authority to judge them by",
                listener.port
            );
            *refused = Some((reasons::NO_VALID_CA_CERTIFICATE, message));
        }
        if let Some(tls) = tls {
            tls.validation = Some(port.validation.clone());
        }
    }
}

/// Why a listener cannot be accepted, on its own values.
fn refusal(
    listener: &Listener,
    written: &str,
    not_a_name: Option<&String>,
) -> Option<(&'static str, String)> {
    let protocol = &listener.protocol;
    if let ProtocolType::Unknown(other) = protocol {
        let message = format!("protocol {other} is not supported; HTTP, HTTPS, TLS, TCP and UDP are");
        return Some((reasons::UNSUPPORTED_PROTOCOL, message));
    }
    if !(1..=65_535).contains(&listener.port) {
        return Some((reasons::PORT_UNAVAILABLE, format!("{} is not a port number", listener.port)));
    }
    if let Some(why) = not_a_name {
        return Some((reasons::UNSUPPORTED_VALUE, format!("hostname {written:?} cannot be used: {why}")));
    }
    let mode = listener.tls.as_ref().map(|tls| &tls.mode);
    match (protocol, mode) {
        (ProtocolType::Https | ProtocolType::Tls, Some(TlsModeType::Unknown(mode))) => {
            Some((reasons::UNSUPPORTED_VALUE, format!("tls.mode {mode:?} is not supported")))
        }
        (ProtocolType::Https, Some(TlsModeType::Passthrough)) => {
            let message = "an HTTPS listener ends TLS; tls.mode Passthrough needs protocol TLS".to_owned();
            Some((reasons::UNSUPPORTED_VALUE, message))
        }
        _ => None,
    }
}

/// Route kinds that a listener of a protocol can carry.
fn carried(protocol: &ProtocolType) -> &'static [Kind] {
    match protocol {
        ProtocolType::Http | ProtocolType::Https => &[Kind::HttpRoute, Kind::GrpcRoute],
        ProtocolType::Tls => &[Kind::TlsRoute],
        ProtocolType::Tcp => &[Kind::TcpRoute],
        ProtocolType::Udp => &[Kind::UdpRoute],
        ProtocolType::Unknown(_) => &[],
    }
}

/// The kinds that a listener takes, of those that it asks for.
fn kinds(
    protocol: &ProtocolType,
    asked: &[RouteGroupKind],
) -> (Vec<RouteGroupKind>, Option<(&'static str, String)>) {
    let carried: Vec<RouteGroupKind> = carried(protocol)
        .iter()
        .map(|kind| RouteGroupKind { group: GROUP.to_owned(), kind: kind.as_str().to_owned() })
        .collect();
    if asked.is_empty() || carried.is_empty() {
        return (carried, None);
    }
    let mut kinds: Vec<RouteGroupKind> = Vec::new();
    let mut unknown = Vec::new();
    for kind in asked {
        if !carried.contains(kind) {
            unknown.push(format!("{}.{}", kind.kind, kind.group));
        } else if !kinds.contains(kind) {
            kinds.push(kind.clone());
        }
    }
    let unresolved = (!unknown.is_empty()).then(|| {
        let takes: Vec<String> = carried.iter().map(|kind| format!("{}s", kind.kind)).collect();
        let (takes, named) = (list(&takes, NAMED_MAX), list(&unknown, NAMED_MAX));
        let message = format!("a listener of protocol {protocol} takes {takes}; not supported: {named}");
        (reasons::INVALID_ROUTE_KINDS, message)
    });
    (kinds, unresolved)
}

//! Listeners compiled.

use std::sync::Arc;

use super::backend::port;
use super::bind::{BindAddress, TlsMode, Transport};
use super::parameters::CompiledParameters;
use super::rule::RouteKind;
use crate::hostname::Hostname;
use crate::limits::Limits;
use crate::resource::{Listener, ListenerProtocol, ListenerTls};

/// A listener as requests and connections see it.
#[derive(Debug)]
pub struct CompiledListener {
    pub key: Arc<str>,
    /// `<namespace>/<name>` of the Gateway.
    pub gateway: Arc<str>,
    /// The listener's name.
    pub section: Arc<str>,
    pub bind: BindAddress,
    pub protocol: ListenerProtocol,
    /// Any for TCP and UDP, which have no names.
    pub hostname: Hostname,
    /// Of its Gateway; `None` where there are none.
    pub(crate) parameters: Option<Arc<CompiledParameters>>,
    pub(crate) source: Listener,
}

impl CompiledListener {
    /// `limits` of the data plane; `before` is the listener as it was.
    pub(crate) fn compile(
        source: &Listener,
        limits: &Limits,
        before: Option<&CompiledListener>,
    ) -> Result<CompiledListener, String> {
        let ip = source.address.parse().map_err(|_| format!("`{}` is not an IP address", source.address))?;
        let port = port(source.port)?;
        let protocol = ListenerProtocol::try_from(source.protocol)
            .map_err(|_| format!("protocol {} is not known to this release", source.protocol))?;
        let has_names = !matches!(protocol, ListenerProtocol::Tcp | ListenerProtocol::Udp);
        let hostname = match Hostname::parse(&source.hostname) {
            Ok(hostname) if has_names => hostname,
            Ok(_) => Hostname::Any,
            Err(error) => return Err(error.to_string()),
        };
        match (protocol, &source.tls) {
            (ListenerProtocol::Https | ListenerProtocol::Tls, None) => {
                return Err("a listener of this protocol needs TLS settings".to_owned());
            }
            (ListenerProtocol::Https, Some(tls)) if tls.passthrough => {
                return Err("an HTTPS listener has to end TLS".to_owned());
            }
            _ => {}
        }
        let transport = match protocol {
            ListenerProtocol::Udp => Transport::Udp,
            _ => Transport::Tcp,
        };
        let parameters = match (&source.parameters, before) {
            (None, _) => None,
            (same, Some(before)) if before.source.parameters == *same => before.parameters.clone(),
            (Some(parameters), _) => Some(Arc::new(CompiledParameters::compile(parameters, limits)?)),
        };
        Ok(CompiledListener {
            key: Arc::from(source.key.as_str()),
            gateway: Arc::from(source.gateway.as_str()),
            section: Arc::from(source.section.as_str()),
            bind: BindAddress { ip, port, transport },
            protocol,
            hostname,
            parameters,
            source: source.clone(),
        })
    }

    /// Whether the other's routes stand where this one's do.
    pub(crate) fn is_at_the_place_of(&self, other: &CompiledListener) -> bool {
        self.bind == other.bind && self.protocol == other.protocol && self.hostname == other.hostname
    }

    /// Of HTTPS and TLS listeners.
    pub fn tls(&self) -> Option<&ListenerTls> {
        match self.protocol {
            ListenerProtocol::Https | ListenerProtocol::Tls => self.source.tls.as_ref(),
            ListenerProtocol::Http | ListenerProtocol::Tcp | ListenerProtocol::Udp => None,
        }
    }

    /// `None` for a listener without TLS.
    pub fn tls_mode(&self) -> Option<TlsMode> {
        self.tls().map(|tls| match self.protocol {
            _ if tls.passthrough => TlsMode::Passthrough,
            ListenerProtocol::Tls => TlsMode::Bytes,
            _ => TlsMode::Http,
        })
    }

    /// Key of the certificate that its Gateway shows to backends which ask for one.
    pub fn backend_client_certificate(&self) -> Option<&str> {
        Some(self.source.backend_client_certificate.as_str()).filter(|key| !key.is_empty())
    }

    /// Whether rules of routes of this kind can be served here.
    pub(crate) fn carries(&self, kind: RouteKind) -> bool {
        match self.protocol {
            ListenerProtocol::Http | ListenerProtocol::Https => !kind.is_l4(),
            ListenerProtocol::Tls | ListenerProtocol::Tcp => matches!(kind, RouteKind::Tls | RouteKind::Tcp),
            ListenerProtocol::Udp => kind == RouteKind::Udp,
        }
    }
}

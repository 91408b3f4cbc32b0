//! Authorities, certificates, TLS clients and servers, and the resources that go with them.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, Issuer, KeyPair, SanType};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use weir_model::resource::{
    Attachment, Body, CaBundle, Certificate, ClientValidation, L4Route, Listener, ListenerProtocol,
    ListenerTls, Resource, WeightedBackend,
};

use crate::harness::*;

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// One that signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
}

/// A certificate with its key.
pub(crate) struct Pair {
    pub(crate) pem: String,
    pub(crate) key: String,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) private: PrivateKeyDer<'static>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        Authority::until(name, 2100)
    }

    /// Valid until the beginning of this year.
    pub(crate) fn until(name: &str, year: i32) -> Authority {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.not_before = rcgen::date_time_ymd(2001, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        Authority {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(parameters, key),
        }
    }

    pub(crate) fn sign(&self, names: &[&str]) -> Pair {
        self.sign_with(names, KeyPair::generate().unwrap(), 2100)
    }

    /// Names that look like a URI become URI names.
    pub(crate) fn sign_with(&self, names: &[&str], key: KeyPair, year: i32) -> Pair {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2001, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
        for name in names {
            let name = (*name).to_owned();
            parameters.subject_alt_names.push(if name.contains("://") {
                SanType::URI(name.try_into().unwrap())
            } else {
                SanType::DnsName(name.try_into().unwrap())
            });
        }
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        Pair::new(&certificate, &key)
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        roots
    }

    pub(crate) fn bundle(&self, name: &str) -> Resource {
        bundle(name, &self.pem)
    }

    /// Clients that believe this authority.
    pub(crate) fn client(&self) -> ClientConfig {
        ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth()
    }

    /// The same, showing a certificate to servers that ask.
    pub(crate) fn client_as(&self, pair: &Pair) -> ClientConfig {
        ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(pair.chain.clone(), pair.private.clone_key())
            .unwrap()
    }
}

impl Pair {
    fn new(certificate: &rcgen::Certificate, key: &KeyPair) -> Pair {
        Pair {
            pem: certificate.pem(),
            key: key.serialize_pem(),
            chain: vec![certificate.der().clone()],
            private: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }

    pub(crate) fn self_signed(name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        Pair::new(&certificate, &key)
    }

    pub(crate) fn resource(&self, name: &str) -> Resource {
        let certificate = Certificate {
            key: format!("certificate/{name}"),
            chain: self.pem.clone().into(),
            private_key: self.key.clone().into(),
        };
        Resource { body: Some(Body::Certificate(certificate)) }
    }

    /// A server that shows it, and asks clients for a certificate of `clients` if there is one.
    pub(crate) fn server(&self, clients: Option<&Authority>) -> Arc<ServerConfig> {
        let builder =
            ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let roots = Arc::new(authority.roots());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        Arc::new(builder.with_single_cert(self.chain.clone(), self.private.clone_key()).unwrap())
    }
}

pub(crate) fn bundle(name: &str, pem: &str) -> Resource {
    let bundle = CaBundle { key: format!("cabundle/{name}"), certificates: pem.into() };
    Resource { body: Some(Body::CaBundle(bundle)) }
}

/// What a client saw of its handshake.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The connection ended without a byte.
    Silence,
    /// With an alert of this number.
    Alert(u8),
    Other(String),
}

impl Peer {
    /// Connects and shakes hands.
    pub(crate) fn secure(address: SocketAddr, name: &str, config: &ClientConfig) -> Peer {
        Peer::try_secure(address, name, config).unwrap()
    }

    /// `name`: may be an IP address, for which no server name is sent.
    pub(crate) fn try_secure(
        address: SocketAddr,
        name: &str,
        config: &ClientConfig,
    ) -> Result<Peer, Refused> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connection = ClientConnection::new(Arc::new(config.clone()), name).unwrap();
        let mut peer = Peer::connect(address);
        peer.shake_hands(connection.into())?;
        Ok(peer)
    }

    /// Shakes hands as a server.
    pub(crate) fn accept(&mut self, config: &Arc<ServerConfig>) -> Result<(), Refused> {
        self.shake_hands(ServerConnection::new(config.clone()).unwrap().into())
    }

    fn shake_hands(&mut self, mut connection: Connection) -> Result<(), Refused> {
        let other = |error: &dyn std::fmt::Display| Refused::Other(error.to_string());
        let mut received = 0;
        while connection.is_handshaking() || connection.wants_write() {
            while connection.wants_write() {
                connection.write_tls(&mut self.stream).map_err(|error| other(&error))?;
            }
            self.stream.flush().unwrap();
            if !connection.is_handshaking() {
                break;
            }
            match connection.read_tls(&mut self.stream) {
                Ok(0) if received == 0 => return Err(Refused::Silence),
                Ok(0) => return Err(other(&"an end")),
                Ok(count) => received += count,
                Err(error) if received == 0 && error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Err(Refused::Silence);
                }
                Err(error) => return Err(other(&error)),
            }
            match connection.process_new_packets() {
                Ok(_) => {}
                Err(rustls::Error::AlertReceived(alert)) => return Err(Refused::Alert(alert.into())),
                Err(error) => return Err(other(&error)),
            }
        }
        self.tls = Some(Box::new(connection));
        Ok(())
    }

    /// Waits for the server's word on our certificate, which TLS 1.3 gives after the handshake.
    pub(crate) fn is_let_in(&mut self) -> bool {
        self.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        self.head().is_some_and(|head| head.starts_with("HTTP/1.1 200"))
    }

    pub(crate) fn version(&self) -> rustls::ProtocolVersion {
        self.tls.as_ref().unwrap().protocol_version().unwrap()
    }

    pub(crate) fn handshake_kind(&self) -> rustls::HandshakeKind {
        self.tls.as_ref().unwrap().handshake_kind().unwrap()
    }

    pub(crate) fn peer_certificate(&self) -> CertificateDer<'static> {
        self.tls.as_ref().unwrap().peer_certificates().unwrap()[0].clone().into_owned()
    }
}

/// An origin that speaks TLS; connections whose handshake fails are dropped.
pub(crate) fn secure_origin(
    config: Arc<ServerConfig>,
    script: impl Fn(&mut Peer) + Send + Sync + 'static,
) -> Origin {
    Origin::start(move |peer| {
        if peer.accept(&config).is_ok() {
            script(peer);
        }
    })
}

/// A listener of any protocol.
pub(crate) struct ListenerOf<'a> {
    pub(crate) name: &'a str,
    pub(crate) address: SocketAddr,
    pub(crate) protocol: ListenerProtocol,
    pub(crate) hostname: &'a str,
    pub(crate) certificates: &'a [&'a str],
    pub(crate) passthrough: bool,
    pub(crate) validation: Option<ClientValidation>,
}

impl ListenerOf<'_> {
    pub(crate) fn https<'a>(
        address: SocketAddr,
        name: &'a str,
        hostname: &'a str,
        certificates: &'a [&'a str],
    ) -> ListenerOf<'a> {
        let protocol = ListenerProtocol::Https;
        ListenerOf { name, address, protocol, hostname, certificates, passthrough: false, validation: None }
    }

    pub(crate) fn tls<'a>(
        address: SocketAddr,
        name: &'a str,
        hostname: &'a str,
        certificates: &'a [&'a str],
    ) -> ListenerOf<'a> {
        let passthrough = certificates.is_empty();
        ListenerOf {
            protocol: ListenerProtocol::Tls,
            passthrough,
            ..ListenerOf::https(address, name, hostname, certificates)
        }
    }

    pub(crate) fn raw(address: SocketAddr, name: &str, protocol: ListenerProtocol) -> ListenerOf<'_> {
        ListenerOf { protocol, ..ListenerOf::https(address, name, "", &[]) }
    }

    pub(crate) fn resource(&self) -> Resource {
        let has_tls = matches!(self.protocol, ListenerProtocol::Https | ListenerProtocol::Tls);
        let tls = has_tls.then(|| ListenerTls {
            passthrough: self.passthrough,
            certificates: self.certificates.iter().map(|name| format!("certificate/{name}")).collect(),
            client_validation: self.validation.clone(),
        });
        let listener = Listener {
            key: named_listener(self.name),
            gateway: "default/gw".into(),
            section: self.name.into(),
            address: self.address.ip().to_string(),
            port: self.address.port().into(),
            protocol: self.protocol.into(),
            hostname: self.hostname.into(),
            tls,
            ..Listener::default()
        };
        Resource { body: Some(Body::Listener(listener)) }
    }
}

pub(crate) fn named_listener(name: &str) -> String {
    format!("listener/default/gw/{name}")
}

pub(crate) fn attachments(listeners: &[&str], hostnames: &[&str]) -> Vec<Attachment> {
    let attachment = |name: &&str| Attachment {
        listener_key: named_listener(name),
        hostnames: hostnames.iter().map(|name| (*name).to_owned()).collect(),
    };
    listeners.iter().map(attachment).collect()
}

/// An HTTPRoute for every path to one backend.
pub(crate) fn http_route(name: &str, listeners: &[&str], hostname: &str, backend: &str) -> Resource {
    let rule = weir_model::resource::HttpRule { backends: vec![to(backend, 1)], ..rule("/") };
    let mut resource = route(name, &[], vec![rule]);
    if let Some(Body::HttpRoute(route)) = &mut resource.body {
        route.attachments = attachments(listeners, &[hostname]);
    }
    resource
}

/// `kind`: `tlsroute`, `tcproute` or `udproute`.
pub(crate) fn l4_route(
    kind: &str,
    name: &str,
    listeners: &[&str],
    hostnames: &[&str],
    backends: Vec<WeightedBackend>,
) -> Resource {
    let route = L4Route {
        key: format!("{kind}/default/{name}"),
        namespace: "default".into(),
        name: name.into(),
        uid: name.into(),
        attachments: attachments(listeners, hostnames),
        split_identity: name.into(),
        backends,
        ..L4Route::default()
    };
    Resource { body: Some(Body::L4Route(route)) }
}

/// A reference that cannot be used.
pub(crate) fn invalid(weight: u32) -> WeightedBackend {
    WeightedBackend {
        weight,
        backend_key: "backend/default/missing/80".into(),
        invalid_reason: "BackendNotFound".into(),
        ..WeightedBackend::default()
    }
}

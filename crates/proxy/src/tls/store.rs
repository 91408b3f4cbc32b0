//! Certificates, authorities and what handshakes are made with, shared by all workers.
//!
//! Resources are parsed once, when they come. A handshake asks for a rustls configuration by what it has to say (certificates,
//! what is asked of clients; or a BackendTLSPolicy), and gets one that was made before if there is one: so listeners that agree share,
//! and replacing a certificate is nothing but another key in the next snapshot.
//!
//! Tickets: one ticketer for each bind and what is asked of clients there, kept while the bind is wanted. rustls believes the client's
//! certificate inside a ticket, so a ticket must not outlive a change of what is asked; and it may outlive the server's certificates.
//!
//! Invariants: no lock is taken for a request, only for a handshake and for the first request to a backend in a snapshot; a certificate
//! or authority that a snapshot names is here before a worker runs that snapshot. Private keys are never printed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use rustls::client::ResolvesClientCert;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use webpki::EndEntityCert;
use weir_model::resource::{
    BackendTls, Body, CaBundle, Certificate, ClientValidation, Rejected, Resource, Update,
};
use weir_model::table::{BindAddress, Snapshot};

use super::trust::{Authorities, BackendVerifier, ClientVerifier};

/// What is offered inside TLS, the preferred first.
const HTTP_PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Shared by the apply thread, which puts things in, and the workers.
pub(crate) struct TlsStore {
    provider: Arc<CryptoProvider>,
    next_identity: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    certificates: FxHashMap<String, Arc<CertifiedKey>>,
    bundles: FxHashMap<String, Arc<[CertificateDer<'static>]>>,
    ticketers: FxHashMap<(BindAddress, Option<Asked>), Arc<dyn ProducesTickets>>,
    /// `None`: handshakes are refused.
    fronts: FxHashMap<FrontSpec, Option<Arc<ServerConfig>>>,
    upstreams: FxHashMap<UpstreamSpec, Weak<UpstreamTls>>,
}

/// What is asked of clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Asked {
    ca_bundles: Vec<String>,
    insecure_fallback: bool,
}

impl From<&ClientValidation> for Asked {
    fn from(from: &ClientValidation) -> Asked {
        Asked { ca_bundles: from.ca_bundles.clone(), insecure_fallback: from.insecure_fallback }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct FrontSpec {
    bind: BindAddress,
    http: bool,
    certificates: Vec<String>,
    asked: Option<Asked>,
}

/// What is spoken to a backend inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Inside {
    Http1,
    Http2,
    /// Nothing that has a name.
    Bytes,
}

impl Inside {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Inside::Http1 => vec![b"http/1.1".to_vec()],
            Inside::Http2 => vec![b"h2".to_vec()],
            Inside::Bytes => Vec::new(),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct UpstreamSpec {
    hostname: String,
    ca_bundles: Vec<String>,
    system_authorities: bool,
    names: Vec<weir_model::resource::SubjectAltName>,
    client_certificate: Option<String>,
    inside: Inside,
}

/// How connections to a backend are encrypted. Connections of different identities are never mixed.
#[derive(Debug)]
pub(crate) struct UpstreamTls {
    /// Never 0, and never used again.
    pub(crate) identity: u64,
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) server_name: ServerName<'static>,
}

/// The policy cannot be met: nothing may be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BrokenPolicy(pub(crate) String);

impl TlsStore {
    pub(crate) fn new() -> TlsStore {
        TlsStore {
            provider: Arc::new(aws_lc_rs::default_provider()),
            next_identity: AtomicU64::new(1),
            state: Mutex::default(),
        }
    }

    /// Takes in what an update brings, before anybody runs its snapshot. Gives what could not be used.
    pub(crate) fn admit(&self, update: &Update) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        // Read here, once, and not by a worker in the middle of its work.
        let system = |resource: &Resource| match &resource.body {
            Some(Body::Backend(backend)) => backend.tls.as_ref().is_some_and(|tls| tls.system_authorities),
            _ => false,
        };
        if update.upserts.iter().any(system) {
            Authorities::system();
        }
        let mut reject = |key: &str, reason: String| rejected.push(Rejected { key: key.to_owned(), reason });
        let state = &mut *self.state.lock();
        for resource in &update.upserts {
            match &resource.body {
                Some(Body::Certificate(source)) if !state.certificates.contains_key(&source.key) => {
                    match parse(source, &self.provider) {
                        Ok(parsed) => _ = state.certificates.insert(source.key.clone(), Arc::new(parsed)),
                        Err(reason) => reject(&source.key, reason),
                    }
                }
                Some(Body::CaBundle(source)) if !state.bundles.contains_key(&source.key) => {
                    match authorities(source) {
                        Ok(found) => _ = state.bundles.insert(source.key.clone(), found),
                        Err(reason) => reject(&source.key, reason),
                    }
                }
                _ => continue,
            }
            state.forget(resource.key());
        }
        rejected
    }

    /// Forgets what neither the update's snapshot nor an older one can ask for, after everybody runs that snapshot.
    pub(crate) fn release(&self, update: &Update, snapshot: &Snapshot) {
        let state = &mut *self.state.lock();
        let named = |key: &str| update.upserts.iter().any(|resource| resource.key() == key);
        let gone: Vec<String> = if update.full {
            let keys = state.certificates.keys().chain(state.bundles.keys());
            keys.filter(|key| !named(key)).cloned().collect()
        } else {
            update.removals.iter().filter(|key| !named(key)).cloned().collect()
        };
        for key in &gone {
            if state.certificates.remove(key).is_some() | state.bundles.remove(key).is_some() {
                state.forget(key);
            }
        }
        state.ticketers.retain(|(bind, _), _| snapshot.bind(bind).is_some());
        state.fronts.retain(|spec, _| snapshot.bind(&spec.bind).is_some());
        state.upstreams.retain(|_, upstream| upstream.strong_count() > 0);
    }

    /// What a handshake is made with. `None`: it is to be refused.
    pub(crate) fn front(
        &self,
        bind: BindAddress,
        http: bool,
        certificates: &[&str],
        validation: Option<&ClientValidation>,
    ) -> Option<Arc<ServerConfig>> {
        let spec = FrontSpec {
            bind,
            http,
            certificates: certificates.iter().map(|key| (*key).to_owned()).collect(),
            asked: validation.map(Asked::from),
        };
        let state = &mut *self.state.lock();
        if let Some(known) = state.fronts.get(&spec) {
            return known.clone();
        }
        let made = self.make_front(state, &spec);
        if let Err(reason) = &made {
            tracing::debug!(%bind, reason, "handshakes are refused");
        }
        let made = made.ok().map(Arc::new);
        state.fronts.insert(spec, made.clone());
        made
    }

    fn make_front(&self, state: &mut State, spec: &FrontSpec) -> Result<ServerConfig, String> {
        let shown: Vec<_> =
            spec.certificates.iter().filter_map(|key| state.certificates.get(key).cloned()).collect();
        if shown.is_empty() {
            return Err("there is no certificate to show".to_owned());
        }
        let builder = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| error.to_string())?;
        let builder = match &spec.asked {
            None => builder.with_no_client_auth(),
            Some(asked) => {
                let authorities = state.authorities(&asked.ca_bundles, false);
                if authorities.is_empty() && !asked.insecure_fallback {
                    return Err("no client's certificate can be valid".to_owned());
                }
                let provider = self.provider.clone();
                let verifier = ClientVerifier::new(authorities, asked.insecure_fallback, provider);
                builder.with_client_cert_verifier(Arc::new(verifier))
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(Shown(shown)));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = match state.ticketers.entry((spec.bind, spec.asked.clone())) {
            std::collections::hash_map::Entry::Occupied(known) => known.get().clone(),
            std::collections::hash_map::Entry::Vacant(place) => {
                let ticketer = aws_lc_rs::Ticketer::new().map_err(|error| error.to_string())?;
                place.insert(ticketer).clone()
            }
        };
        if spec.http {
            config.alpn_protocols = HTTP_PROTOCOLS.iter().map(|name| name.to_vec()).collect();
        }
        Ok(config)
    }

    /// How a backend with this policy is spoken to.
    pub(crate) fn upstream(
        &self,
        policy: &BackendTls,
        client_certificate: Option<&str>,
        inside: Inside,
    ) -> Result<Arc<UpstreamTls>, BrokenPolicy> {
        if !policy.invalid_reason.is_empty() {
            return Err(BrokenPolicy(policy.invalid_reason.clone()));
        }
        let spec = UpstreamSpec {
            hostname: policy.hostname.clone(),
            ca_bundles: policy.ca_bundles.clone(),
            system_authorities: policy.system_authorities,
            names: policy.subject_alt_names.clone(),
            client_certificate: client_certificate.map(str::to_owned),
            inside,
        };
        let state = &mut *self.state.lock();
        if let Some(known) = state.upstreams.get(&spec).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let made = self.make_upstream(state, &spec).map(Arc::new).map_err(BrokenPolicy)?;
        state.upstreams.insert(spec, Arc::downgrade(&made));
        Ok(made)
    }

    fn make_upstream(&self, state: &State, spec: &UpstreamSpec) -> Result<UpstreamTls, String> {
        let server_name = ServerName::try_from(spec.hostname.clone())
            .map_err(|_| format!("`{}` is not a hostname", spec.hostname))?;
        let authorities = state.authorities(&spec.ca_bundles, spec.system_authorities);
        if authorities.is_empty() {
            return Err("there is no authority that could be believed".to_owned());
        }
        let verifier = BackendVerifier::new(authorities, &spec.names, &self.provider)?;
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &spec.client_certificate {
            None => builder.with_no_client_auth(),
            Some(key) => {
                let ours = state.certificates.get(key);
                let ours = ours.ok_or("the Gateway's client certificate cannot be used")?.clone();
                builder.with_client_cert_resolver(Arc::new(Ours(ours)))
            }
        };
        config.alpn_protocols = spec.inside.protocols();
        let identity = self.next_identity.fetch_add(1, Relaxed);
        Ok(UpstreamTls { identity, config: Arc::new(config), server_name })
    }
}

/// Why no handshake could be made with a certificate and its key.
pub fn check_certificate(source: &Certificate) -> Result<(), String> {
    parse(source, &aws_lc_rs::default_provider()).map(drop)
}

/// Why nobody could be believed for these authorities.
pub fn check_authorities(source: &CaBundle) -> Result<(), String> {
    authorities(source).map(drop)
}

fn parse(source: &Certificate, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&source.chain).collect();
    // What is wrong is not repeated: it may hold a part of the key, also where somebody put that in the chain's place.
    let chain = chain.map_err(|_| "the chain cannot be read".to_owned())?;
    let key = PrivateKeyDer::from_pem_slice(&source.private_key);
    let key = key.map_err(|_| "the private key cannot be read".to_owned())?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| error.to_string())
}

fn authorities(source: &CaBundle) -> Result<Arc<[CertificateDer<'static>]>, String> {
    let found = CertificateDer::pem_slice_iter(&source.certificates).filter_map(Result::ok);
    let found: Arc<[_]> = found.collect();
    if Authorities::new(found.iter().cloned()).is_empty() {
        return Err("no certificate of an authority in it".to_owned());
    }
    Ok(found)
}

impl State {
    fn authorities(&self, bundles: &[String], system: bool) -> Authorities {
        let of_system = if system { Authorities::system() } else { &[] };
        let configured =
            bundles.iter().filter_map(|key| self.bundles.get(key)).flat_map(|found| found.iter());
        Authorities::new(configured.chain(of_system).cloned())
    }

    /// Drops what was made with this resource, or without it.
    fn forget(&mut self, key: &str) {
        let is = |other: &String| other == key;
        self.fronts.retain(|spec, _| {
            !spec.certificates.iter().any(is)
                && !spec.asked.as_ref().is_some_and(|asked| asked.ca_bundles.iter().any(is))
        });
        self.upstreams.retain(|spec, _| {
            !spec.ca_bundles.iter().any(is) && !spec.client_certificate.as_ref().is_some_and(is)
        });
    }
}

/// The certificates of a listener, in its order.
#[derive(Debug)]
struct Shown(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    /// The first that fits the client's name and signature schemes; else the first that fits the schemes; else the first.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let [only] = &self.0[..] {
            return Some(only.clone());
        }
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let named = |key: &&Arc<CertifiedKey>| name.as_ref().is_none_or(|name| is_for(key, name));
        let best = self.0.iter().filter(usable).find(named);
        best.or_else(|| self.0.iter().find(usable)).or_else(|| self.0.first()).cloned()
    }
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let certificate = key.end_entity_cert().ok().and_then(|der| EndEntityCert::try_from(der).ok());
    certificate.is_some_and(|certificate| certificate.verify_is_valid_for_subject_name(name).is_ok())
}

/// The certificate of a Gateway, whoever asks.
#[derive(Debug)]
struct Ours(Arc<CertifiedKey>);

impl ResolvesClientCert for Ours {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn pair(shown: &KeyPair, used: &KeyPair) -> Certificate {
        let parameters = CertificateParams::new(vec!["a.example.com".to_owned()]).unwrap();
        let chain = parameters.self_signed(shown).unwrap().pem().into_bytes();
        Certificate { key: String::new(), chain, private_key: used.serialize_pem().into_bytes() }
    }

    #[test]
    fn a_key_of_another_certificate_is_found_out_though_the_key_does_not_say() {
        for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256] {
            let (own, other) =
                (KeyPair::generate_for(algorithm).unwrap(), KeyPair::generate_for(algorithm).unwrap());
            assert_eq!(check_certificate(&pair(&own, &own)), Ok(()));
            assert!(check_certificate(&pair(&own, &other)).is_err());
        }
    }

    #[test]
    fn authorities_are_certificates_that_can_be_read() {
        let own = KeyPair::generate().unwrap();
        let bundle = |certificates| CaBundle { key: String::new(), certificates };
        assert_eq!(check_authorities(&bundle(pair(&own, &own).chain)), Ok(()));
        let hollow = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".to_vec();
        assert!(check_authorities(&bundle(hollow)).is_err());
    }
}

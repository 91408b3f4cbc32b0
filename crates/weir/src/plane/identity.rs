//! Who this data plane is, and whom it believes to be a controller.
//!
//! Invariants: the private key is drawn here and never leaves but to the state directory; a controller is who shows a certificate of an
//! authority in `--ca-file` with the controllers' URI name, whatever the address at which it was found.

use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use weir_model::resource::CONTROLLER_URI;
use weir_model::wire::CertificateReply;

use super::keep::KeptIdentity;

/// A certificate that ends so soon is not used any more. Unit: time. Source: ours.
const LAST_MOMENTS: Duration = Duration::from_secs(2);

/// A key for which a certificate is asked.
pub(crate) struct NewKey {
    pair: KeyPair,
}

impl NewKey {
    pub(crate) fn draw() -> Result<NewKey> {
        Ok(NewKey { pair: KeyPair::generate().context("drawing a key")? })
    }

    /// SubjectPublicKeyInfo, DER.
    pub(crate) fn public(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    pub(crate) fn with(self, data_plane: String, reply: CertificateReply) -> KeptIdentity {
        let mut identity = KeptIdentity {
            data_plane,
            key: self.pair.serialize_der().into(),
            certificate: reply.certificate,
            not_after_seconds: reply.not_after_seconds,
            renew_seconds: 0,
        };
        identity.renew_at_last(reply.not_after_seconds.saturating_sub(reply.now_seconds));
        identity
    }
}

impl KeptIdentity {
    /// How long it is still good for.
    pub(crate) fn left(&self) -> Option<Duration> {
        let left = u64::try_from(self.not_after_seconds.saturating_sub(unix_seconds())).ok()?;
        Duration::from_secs(left).checked_sub(LAST_MOMENTS)
    }

    /// It is renewed when a third of these seconds, which it still has, are left for whatever may be in the way; drawn, so that many do
    /// not come at once.
    pub(crate) fn renew_at_last(&mut self, left_seconds: i64) {
        let draw = i64::try_from(RandomState::new().hash_one(left_seconds) % 100).unwrap_or_default();
        let spare = left_seconds.saturating_mul(300 + draw) / 1_000;
        self.renew_seconds =
            self.not_after_seconds.saturating_sub(spare).saturating_sub_unsigned(LAST_MOMENTS.as_secs());
    }
}

/// TLS to controllers, with the certificate or without one.
pub(crate) fn client_config(ca_file: &Path, identity: Option<&KeptIdentity>) -> Result<ClientConfig> {
    let what = || format!("--ca-file: {}", ca_file.display());
    let pem = std::fs::read(ca_file).with_context(what)?;
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&pem) {
        roots.add(root.with_context(what)?).with_context(what)?;
    }
    if roots.is_empty() {
        bail!("{}: there is no certificate in it", what());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(ControllerVerifier { roots, provider: provider.clone() });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.to_vec()));
            builder.with_client_auth_cert(vec![identity.certificate.to_vec().into()], key)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Any name does: what counts is in the certificate.
pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

/// Believes certificates of our authorities that are a controller's.
#[derive(Debug)]
struct ControllerVerifier {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ControllerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        let leaf = webpki::EndEntityCert::try_from(end_entity)
            .map_err(|_| TlsError::InvalidCertificate(CertificateError::BadEncoding))?;
        if leaf.valid_uri_names().eq([CONTROLLER_URI]) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(TlsError::InvalidCertificate(CertificateError::NotValidForName))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The wall clock.
pub(crate) fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

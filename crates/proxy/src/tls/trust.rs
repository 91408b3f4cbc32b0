//! Whom we believe: authorities, and the two verifiers that rustls asks during a handshake.
//!
//! Chains are verified by webpki. Around that stands what the Gateway API wants: names other than the server name (DNS and URI
//! SubjectAltNames of a BackendTLSPolicy), clients that are asked but let through (`AllowInsecureFallback`), and authorities that
//! count only while they are valid themselves.
//!
//! Invariant: a signature over the handshake that does not verify ends it, whatever the settings are.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use webpki::EndEntityCert;
use weir_model::resource::SubjectAltName;

use super::validity::Validity;

/// Certificates that end a chain.
#[derive(Debug)]
pub(crate) struct Authorities {
    certificates: Vec<(CertificateDer<'static>, Validity)>,
    roots: Arc<RootCertStore>,
}

impl Authorities {
    /// Those of the operating system, read once.
    pub(crate) fn system() -> &'static [CertificateDer<'static>] {
        static SYSTEM: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
        SYSTEM.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            for error in found.errors {
                tracing::warn!(%error, "some of the operating system's authorities could not be read");
            }
            found.certs
        })
    }

    /// Those among them that can be used.
    pub(crate) fn new(certificates: impl IntoIterator<Item = CertificateDer<'static>>) -> Authorities {
        let mut usable = Vec::new();
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            let Some(validity) = Validity::read(&certificate) else { continue };
            if roots.add(certificate.clone()).is_ok() {
                usable.push((certificate, validity));
            }
        }
        Authorities { certificates: usable, roots: Arc::new(roots) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }

    /// Those that are valid at this moment: nearly always all, and then nothing is made.
    fn at(&self, now: UnixTime) -> Arc<RootCertStore> {
        if self.certificates.iter().all(|(_, validity)| validity.contains(now)) {
            return self.roots.clone();
        }
        let mut roots = RootCertStore::empty();
        for (certificate, validity) in &self.certificates {
            if validity.contains(now) {
                // It was added once before, so this cannot fail.
                let _ = roots.add(certificate.clone());
            }
        }
        Arc::new(roots)
    }

    /// Whether this very certificate was configured, and is valid: a self-signed certificate that is its own authority, which
    /// path building does not take.
    fn names(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
        self.certificates.iter().any(|(known, validity)| known == certificate && validity.contains(now))
    }
}

/// A name of which a backend's certificate must have one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Name {
    Exact(ServerName<'static>),
    /// With the leading dot: any name under it, or the wildcard itself.
    Under(String),
    Uri(String),
}

/// Verifies backends.
#[derive(Debug)]
pub(crate) struct BackendVerifier {
    authorities: Authorities,
    /// Empty: the server name.
    names: Vec<Name>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl BackendVerifier {
    pub(crate) fn new(
        authorities: Authorities,
        names: &[SubjectAltName],
        provider: &CryptoProvider,
    ) -> Result<BackendVerifier, String> {
        let names = names.iter().map(|name| {
            if name.uri {
                return Ok(Name::Uri(name.value.clone()));
            }
            if let Some(under) = name.value.strip_prefix('*') {
                return Ok(Name::Under(under.to_ascii_lowercase()));
            }
            let exact = ServerName::try_from(name.value.clone());
            exact.map(Name::Exact).map_err(|_| format!("`{}` is not a hostname", name.value))
        });
        let names: Result<Vec<Name>, String> = names.collect();
        Ok(BackendVerifier {
            authorities,
            names: names?,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    fn has_name(
        &self,
        certificate: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
    ) -> Result<bool, Error> {
        let certificate = EndEntityCert::try_from(certificate)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        Ok(self.names.iter().any(|name| match name {
            Name::Exact(name) => verify_server_name(parsed, name).is_ok(),
            Name::Uri(uri) => certificate.valid_uri_names().any(|found| found == uri),
            Name::Under(under) => certificate.valid_dns_names().any(|found| {
                let found = found.to_ascii_lowercase();
                found.len() > under.len() && found.ends_with(under.as_str())
            }),
        }))
    }
}

impl ServerCertVerifier for BackendVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        if !self.authorities.names(end_entity, now) {
            let roots = self.authorities.at(now);
            let algorithms = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, &roots, intermediates, now, algorithms)?;
        }
        if self.names.is_empty() {
            verify_server_name(&parsed, server_name)?;
        } else if !self.has_name(end_entity, &parsed)? {
            return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Verifies clients.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    authorities: Authorities,
    /// What clients are told that we would believe.
    hints: Vec<DistinguishedName>,
    /// A missing or wrong certificate is let through.
    insecure_fallback: bool,
    provider: Arc<CryptoProvider>,
}

impl ClientVerifier {
    pub(crate) fn new(
        authorities: Authorities,
        insecure_fallback: bool,
        provider: Arc<CryptoProvider>,
    ) -> ClientVerifier {
        let hints = authorities.roots.subjects();
        ClientVerifier { authorities, hints, insecure_fallback, provider }
    }

    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }

    fn is_valid(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.authorities.names(end_entity, now) {
            return Ok(());
        }
        let roots = self.authorities.at(now);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, self.provider.clone())
            .build()
            .map_err(|_| Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        verifier.verify_client_cert(end_entity, intermediates, now).map(drop)
    }

    /// A key that cannot even be read proves nothing, which is no worse than no certificate.
    fn judge(
        &self,
        verified: Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        match verified {
            Err(Error::InvalidCertificate(reason))
                if self.insecure_fallback && reason != CertificateError::BadSignature =>
            {
                Ok(HandshakeSignatureValid::assertion())
            }
            verified => verified,
        }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.insecure_fallback
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // With the fallback every certificate is welcome.
        if self.insecure_fallback { &[] } else { &self.hints }
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if !self.insecure_fallback {
            self.is_valid(end_entity, intermediates, now)?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge(verify_tls12_signature(message, cert, dss, self.algorithms()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge(verify_tls13_signature(message, cert, dss, self.algorithms()))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}

//! TLS of the stand-ins: what a server shows and asks for, and what it saw of a client.
//!
//! Deliberately absent: any judgement of the certificate that is shown. The programs stood in for load any key pair that
//! parses, whatever its names. Nothing is said of a file that cannot be read but its path: what a parser quotes may be a
//! part of a private key.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ProtocolVersion, RootCertStore, ServerConfig, ServerConnection};

/// Why a server's TLS cannot be set up; the program stood in for would end with it.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("no volume has the file {0}")]
    NoFile(String),
    #[error("{0}: no certificate in it")]
    NoCertificate(String),
    #[error("{0}: it is not PEM (markers need lines of their own)")]
    NotPem(String),
    #[error("{0}: no private key that can be used in it")]
    NoKey(String),
    #[error("the client CA: {0}")]
    ClientCa(String),
    #[error(transparent)]
    Config(#[from] rustls::Error),
}

/// A file's path and text.
pub(super) struct File<'a> {
    pub(super) path: &'a str,
    pub(super) text: &'a str,
}

/// The server's side. With `client_ca` a client's certificate is asked for, and checked if there is one.
pub(super) fn server_config(
    certificate: &File<'_>,
    key: &File<'_>,
    client_ca: Option<&File<'_>>,
    alpn: &[&str],
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_slice(key.text.as_bytes())
        .map_err(|_| TlsError::NoKey(key.path.to_owned()))?;
    let signing =
        provider.key_provider.load_private_key(private).map_err(|_| TlsError::NoKey(key.path.to_owned()))?;
    let shown = Arc::new(Shown(Arc::new(CertifiedKey::new(chain, signing))));
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| TlsError::ClientCa(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(shown);
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

fn certificates(file: &File<'_>) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(file.text.as_bytes()).collect();
    let parsed = parsed.map_err(|_| TlsError::NotPem(file.path.to_owned()))?;
    if parsed.is_empty() {
        return Err(TlsError::NoCertificate(file.path.to_owned()));
    }
    Ok(parsed)
}

/// One key pair for every name.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// What a finished handshake says, in the words that Go's programs use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TlsFacts {
    pub(super) version: Version,
    pub(super) server_name: String,
    /// Empty for none.
    pub(super) negotiated_protocol: String,
    pub(super) cipher_suite: String,
    /// Empty where it is not known.
    pub(super) curve: String,
    /// As PEM, in the order in which the client sent them.
    pub(super) peer_certificates: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Tls12,
    Tls13,
}

impl Version {
    /// `TLSv1.3`
    pub(super) fn short(self) -> &'static str {
        match self {
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        }
    }

    /// `TLS 1.3`
    pub(super) fn spaced(self) -> &'static str {
        match self {
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        }
    }
}

impl TlsFacts {
    pub(super) fn of(connection: &ServerConnection) -> Self {
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => Version::Tls12,
            _ => Version::Tls13,
        };
        let suite = connection.negotiated_cipher_suite();
        let suite = suite.and_then(|suite| suite.suite().as_str()).unwrap_or_default();
        let group = connection.negotiated_key_exchange_group();
        let curve = match group.and_then(|group| group.name().as_str()) {
            Some("secp256r1") => "CurveP256",
            Some("secp384r1") => "CurveP384",
            Some("secp521r1") => "CurveP521",
            other => other.unwrap_or_default(),
        };
        let alpn = connection.alpn_protocol().unwrap_or_default();
        Self {
            version,
            server_name: connection.server_name().unwrap_or_default().to_owned(),
            negotiated_protocol: String::from_utf8_lossy(alpn).into_owned(),
            cipher_suite: suite.replacen("TLS13_", "TLS_", 1),
            curve: curve.to_owned(),
            peer_certificates: connection.peer_certificates().unwrap_or_default().iter().map(pem).collect(),
        }
    }
}

/// As Go encodes it: lines of 64 characters and a line end behind the last line.
fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII.
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_written_as_go_writes_them() {
        let key = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
        let rewritten = pem(key.cert.der());
        assert_eq!(rewritten, key.cert.pem().replace("\r\n", "\n"));
    }

    #[test]
    fn what_is_no_key_pair_names_its_file() {
        let key = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
        let (certificate, private) = (key.cert.pem(), key.signing_key.serialize_pem());
        let file = |path, text| File { path, text };
        let set_up =
            |certificate, key| server_config(&file("/c", certificate), &file("/k", key), None, &["h2"]);
        assert!(set_up(&certificate, &private).is_ok());
        assert_eq!(set_up("", &private).unwrap_err().to_string(), "/c: no certificate in it");
        assert!(set_up(&certificate, "x").unwrap_err().to_string().starts_with("/k: "));
    }

    #[test]
    fn nothing_of_a_private_key_that_cannot_be_read_is_said() {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
        let (certificate, private) = (made.cert.pem(), made.signing_key.serialize_pem());
        let body = private.lines().nth(1).expect("a line of the key");
        let decimals = format!("{:?}", &body.as_bytes()[..16]);
        for broken in
            [private.replace('\n', ""), private.replace('\n', " "), private.replace("-----END", "-END")]
        {
            for (shown, key) in [(&certificate, &broken), (&broken, &private)] {
                let (shown, key) = (File { path: "/c", text: shown }, File { path: "/k", text: key });
                let said = server_config(&shown, &key, None, &[]).unwrap_err().to_string();
                assert!(!said.contains(&body[..8]), "{said}");
                assert!(!said.contains(decimals.trim_matches(['[', ']'])), "{said}");
            }
        }
    }
}

//! Who asks, and whether they may: TLS identity of the server, bearer tokens, users.
//!
//! Owns: the self-signed certificate authority and the serving certificate of one server's life, the
//! administrator's token, and the rule for callers without one. Invariants: secrets are compared in constant time
//! and never printed; without a token only the health and version paths answer.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use base64::Engine as _;
use http::{HeaderMap, header};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::clock;

/// Paths that answer without credentials. Source: Kubernetes' `system:public-info-viewer` role.
const PUBLIC_PATHS: &[&str] = &["/livez", "/readyz", "/healthz", "/version"];

/// The group whose members may do everything.
pub(crate) const MASTERS: &str = "system:masters";

/// The caller of a request; carried in the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// For example `system:admin`.
    pub name: String,
    /// For example `system:masters`.
    pub groups: Vec<String>,
}

impl User {
    /// The administrator: the holder of the bearer token, and the in-process client.
    pub fn admin() -> User {
        User {
            name: "system:admin".to_owned(),
            groups: vec![MASTERS.to_owned(), "system:authenticated".to_owned()],
        }
    }

    pub(crate) fn anonymous() -> User {
        User { name: "system:anonymous".to_owned(), groups: vec!["system:unauthenticated".to_owned()] }
    }

    pub(crate) fn may_do_everything(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }
}

/// A secret that prints as nothing and compares in constant time.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    pub(crate) fn random() -> Token {
        Token(clock::random_token())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    pub(crate) fn matches(&self, offered: &str) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), offered.as_bytes());
        let mut difference = u8::from(ours.len() != theirs.len());
        for (index, byte) in ours.iter().enumerate() {
            difference |= byte ^ theirs.get(index).copied().unwrap_or(0);
        }
        std::hint::black_box(difference) == 0
    }
}

/// What a request's credentials say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Known(User),
    /// Nothing offered.
    Anonymous,
    /// Something offered, and it is wrong.
    Wrong,
}

/// The caller that the `Authorization` header proves.
pub(crate) fn authenticate(headers: &HeaderMap, token: &Token) -> Credentials {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Credentials::Anonymous };
    let offered = value.to_str().ok().and_then(|text| {
        let (scheme, rest) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(rest.trim())
    });
    match offered {
        Some(offered) if token.matches(offered) => Credentials::Known(User::admin()),
        _ => Credentials::Wrong,
    }
}

/// Whether a path answers to anybody.
pub(crate) fn is_public(path: &str) -> bool {
    PUBLIC_PATHS.iter().any(|public| {
        path.strip_prefix(public)
            .is_some_and(|rest| rest.is_empty() || (rest.starts_with('/') && *public != "/version"))
    })
}

/// The certificates of a server and how it presents them; see [`ServingTls::generate`].
#[derive(Clone)]
pub struct ServingTls {
    config: Arc<ServerConfig>,
    ca_pem: String,
}

impl fmt::Debug for ServingTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServingTls(..)")
    }
}

/// Why no certificate could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Making the key or signing the certificate failed.
    #[error("cannot make the serving certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused it.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl ServingTls {
    /// A new certificate authority and a serving certificate for `localhost`, the loopback addresses and `addresses`.
    /// The authority's key is thrown away at once.
    pub fn generate(addresses: &[IpAddr]) -> Result<ServingTls, TlsError> {
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.distinguished_name = common_name("weir-api-ca");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_certificate = ca.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca, ca_key);

        let key = KeyPair::generate()?;
        let mut params =
            CertificateParams::new(vec!["localhost".to_owned(), "kubernetes.default.svc".to_owned()])?;
        params.distinguished_name = common_name("weir-api");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        for address in loopback.iter().chain(addresses) {
            let name = SanType::IpAddress(*address);
            if !params.subject_alt_names.contains(&name) {
                params.subject_alt_names.push(name);
            }
        }
        let certificate = params.signed_by(&key, &issuer)?;

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone(), ca_certificate.der().clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(ServingTls { config: Arc::new(config), ca_pem: ca_certificate.pem() })
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// The certificate authority that clients must trust, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut out = DistinguishedName::new();
    out.push(DnType::CommonName, name);
    out
}

/// A kubeconfig for the administrator.
pub(crate) fn kubeconfig(server_url: &str, ca_pem: &str, token: &Token) -> String {
    let ca = base64::engine::general_purpose::STANDARD.encode(ca_pem);
    let token = token.reveal();
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: weir\n\
         \x20 cluster:\n\
         \x20   server: {server_url}\n\
         \x20   certificate-authority-data: {ca}\n\
         contexts:\n\
         - name: weir\n\
         \x20 context:\n\
         \x20   cluster: weir\n\
         \x20   user: admin\n\
         current-context: weir\n\
         users:\n\
         - name: admin\n\
         \x20 user:\n\
         \x20   token: {token}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_the_right_token_is_the_administrator() {
        let token = Token::random();
        let offer = |text: String| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&text).expect("printable"));
            authenticate(&headers, &token)
        };
        assert_eq!(offer(format!("Bearer {}", token.reveal())), Credentials::Known(User::admin()));
        assert_eq!(offer(format!("bearer  {}", token.reveal())), Credentials::Known(User::admin()));
        assert_eq!(offer("Bearer x".to_owned()), Credentials::Wrong);
        assert_eq!(offer(format!("Bearer {}x", token.reveal())), Credentials::Wrong);
        assert_eq!(offer(format!("Bearer {}", &token.reveal()[1..])), Credentials::Wrong);
        assert_eq!(offer(format!("Basic {}", token.reveal())), Credentials::Wrong);
        assert_eq!(authenticate(&HeaderMap::new(), &token), Credentials::Anonymous);
        assert!(!format!("{token:?}").contains(token.reveal()));
    }

    #[test]
    fn health_and_version_are_all_that_is_public() {
        for public in ["/livez", "/readyz", "/readyz/ping", "/healthz", "/version"] {
            assert!(is_public(public), "{public}");
        }
        for private in ["/", "/api", "/livezz", "/version/x", "/openapi/v2", "/apis"] {
            assert!(!is_public(private), "{private}");
        }
    }
}

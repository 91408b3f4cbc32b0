//! The certificate authority of controllers and data planes: made, rotated, and what it issues. Pure but for the keys that it draws:
//! time is passed in.
//!
//! A new authority is trusted for a while before it signs, and an old one as long as what it signed may be shown. Invariants: at
//! every moment everything that was issued and has not expired is trusted; the key of an authority that signs no more is
//! forgotten; what a certificate is for is its URI name and nothing else.
//!
//! Deliberately absent: where it is kept (`keeper`), and who may have a certificate (`token`).

use std::fmt;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use weir_model::resource::{CONTROLLER_URI, DataPlaneName};

/// So far back what is issued is valid: the clocks of nodes may differ by an hour. Unit: time. Source: ours.
const SKEW: Duration = Duration::from_secs(2 * 3600);

/// How long certificates are valid, and how they follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthorityPolicy {
    /// Of an authority; after two thirds of it the next one is made.
    pub authority_lifetime: Duration,
    /// Of a data plane's or a controller's certificate.
    pub certificate_lifetime: Duration,
    /// For how long a new authority is trusted before it signs: long enough for it to reach every data plane's file.
    pub overlap: Duration,
}

impl Default for AuthorityPolicy {
    fn default() -> AuthorityPolicy {
        AuthorityPolicy {
            authority_lifetime: Duration::from_secs(365 * 24 * 3600),
            certificate_lifetime: Duration::from_secs(24 * 3600),
            overlap: Duration::from_secs(3600),
        }
    }
}

impl AuthorityPolicy {
    /// Certificates of the old authority are renewed by the next one before it ends.
    ///
    /// # Errors
    /// An authority's last third is shorter than the overlap and a certificate's life together.
    pub fn check(&self) -> Result<(), String> {
        let AuthorityPolicy { authority_lifetime, certificate_lifetime, overlap } = self;
        let last_third = *authority_lifetime / 3;
        let needed = certificate_lifetime.saturating_add(*overlap);
        if last_third < needed {
            return Err(format!(
                "a third of the authority's lifetime ({} s) is less than a certificate's lifetime and the overlap together ({} s)",
                last_third.as_secs(),
                needed.as_secs()
            ));
        }
        Ok(())
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("making a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("what is kept of the authority cannot be read: {0}")]
    Form(String),
}

/// An authority that can sign.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signer {
    /// PEM.
    certificate: String,
    /// PEM, PKCS#8.
    key: String,
    /// Seconds since the Unix epoch.
    made: i64,
    not_after: i64,
}

/// One that signs no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Retired {
    certificate: String,
    /// Until when what it signed may be shown.
    until: i64,
}

/// The authorities of a moment, as they are kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authority {
    /// Of this form; one that is not known is not touched.
    form: u32,
    current: Signer,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<Signer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    retired: Vec<Retired>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Authority");
        debug.field("made", &self.current.made).field("next", &self.next.as_ref().map(|next| next.made));
        debug.field("retired", &self.retired.len()).finish_non_exhaustive()
    }
}

/// A certificate, with its times in seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    pub certificate: CertificateDer<'static>,
    pub not_before: i64,
    pub not_after: i64,
}

/// What [`Authority`] is written as.
const FORM: u32 = 1;

impl Authority {
    /// A first one.
    pub fn make(policy: &AuthorityPolicy, now: i64) -> Result<Authority, AuthorityError> {
        Ok(Authority { form: FORM, current: Signer::make(policy, now)?, next: None, retired: Vec::new() })
    }

    pub fn read(text: &[u8]) -> Result<Authority, AuthorityError> {
        let authority: Authority =
            serde_json::from_slice(text).map_err(|error| AuthorityError::Form(error.to_string()))?;
        if authority.form != FORM {
            return Err(AuthorityError::Form(format!("it is of form {}, not {FORM}", authority.form)));
        }
        authority.current.issuer()?;
        Ok(authority)
    }

    /// With private keys.
    pub fn write(&self) -> Result<Vec<u8>, AuthorityError> {
        serde_json::to_vec(self).map_err(|error| AuthorityError::Form(error.to_string()))
    }

    /// Everybody whose certificates are to be believed, PEM.
    pub fn trusted(&self) -> String {
        let signers = [Some(&self.current), self.next.as_ref()].into_iter().flatten();
        let all =
            signers.map(|signer| &signer.certificate).chain(self.retired.iter().map(|old| &old.certificate));
        all.map(String::as_str).collect()
    }

    /// The same, each by itself.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.trusted().as_bytes()).filter_map(Result::ok).collect()
    }

    /// The authority after a step that is due, if one is. `wanted`: somebody asks for a new one.
    pub fn step(
        &self,
        policy: &AuthorityPolicy,
        wanted: bool,
        now: i64,
    ) -> Result<Option<Authority>, AuthorityError> {
        let mut after = self.clone();
        after.retired.retain(|old| old.until > now);
        let age = now.saturating_sub(self.current.made);
        let is_due = age >= seconds(policy.authority_lifetime) * 2 / 3;
        match &self.next {
            None if is_due || wanted => after.next = Some(Signer::make(policy, now)?),
            Some(next) if now.saturating_sub(next.made) >= seconds(policy.overlap) => {
                after.next = None;
                let until = now.saturating_add(seconds(policy.certificate_lifetime) + seconds(SKEW));
                let old = std::mem::replace(&mut after.current, next.clone());
                after.retired.push(Retired { certificate: old.certificate, until });
            }
            _ => {}
        }
        Ok((after != *self).then_some(after))
    }

    /// A certificate for a data plane's key (SubjectPublicKeyInfo, DER).
    pub fn issue_plane(
        &self,
        name: &DataPlaneName,
        public_key: &[u8],
        policy: &AuthorityPolicy,
        now: i64,
    ) -> Result<Issued, AuthorityError> {
        let key = SubjectPublicKeyInfo::from_der(public_key)?;
        self.issue(&name.uri(), ExtendedKeyUsagePurpose::ClientAuth, &key, policy, now)
    }

    /// A certificate for a controller's key.
    pub fn issue_controller(
        &self,
        key: &KeyPair,
        policy: &AuthorityPolicy,
        now: i64,
    ) -> Result<Issued, AuthorityError> {
        self.issue(CONTROLLER_URI, ExtendedKeyUsagePurpose::ServerAuth, key, policy, now)
    }

    fn issue(
        &self,
        uri: &str,
        usage: ExtendedKeyUsagePurpose,
        key: &impl rcgen::PublicKeyData,
        policy: &AuthorityPolicy,
        now: i64,
    ) -> Result<Issued, AuthorityError> {
        let mut params = CertificateParams::default();
        // All that it says is in the URI; a name that is a person's would say it twice.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let not_before = now.saturating_sub(seconds(SKEW));
        let not_after = now.saturating_add(seconds(policy.certificate_lifetime)).min(self.current.not_after);
        params.not_before = date(not_before);
        params.not_after = date(not_after);
        let certificate = params.signed_by(key, &self.current.issuer()?)?.der().clone();
        Ok(Issued { certificate, not_before, not_after })
    }
}

impl Signer {
    fn make(policy: &AuthorityPolicy, now: i64) -> Result<Signer, AuthorityError> {
        let key = KeyPair::generate()?;
        let not_after = now.saturating_add(seconds(policy.authority_lifetime));
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("weir authority of {}", date(now)));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.not_before = date(now.saturating_sub(seconds(SKEW)));
        params.not_after = date(not_after);
        let certificate = params.self_signed(&key)?.pem();
        Ok(Signer { certificate, key: key.serialize_pem(), made: now, not_after })
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, AuthorityError> {
        Ok(Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?)
    }
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// A time that no certificate can say becomes the first that one can.
fn date(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::UnixTime;
    use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};

    const NOW: i64 = 1_790_000_000;
    const HOUR: i64 = 3600;

    fn policy() -> AuthorityPolicy {
        AuthorityPolicy::default()
    }

    #[test]
    fn a_policy_leaves_the_old_authority_time_for_what_it_signed() {
        assert_eq!(policy().check(), Ok(()));
        let hour = Duration::from_secs(3600);
        let tight = AuthorityPolicy { authority_lifetime: hour * 75, ..policy() };
        assert_eq!(tight.check(), Ok(()));
        let said = AuthorityPolicy { authority_lifetime: hour * 74, ..policy() }.check().unwrap_err();
        assert!(said.contains("(88800 s)") && said.contains("(90000 s)"), "{said}");
    }

    fn public_key() -> Vec<u8> {
        use rcgen::PublicKeyData as _;
        KeyPair::generate().unwrap().subject_public_key_info()
    }

    fn issue(authority: &Authority, now: i64) -> Issued {
        let name = DataPlaneName::new("default", "weir-g");
        authority.issue_plane(&name, &public_key(), &policy(), now).unwrap()
    }

    fn is_believed(authority: &Authority, issued: &Issued, usage: KeyUsage, at: i64) -> bool {
        let roots = authority.roots();
        let anchors: Vec<_> = roots.iter().map(|root| anchor_from_trusted_cert(root).unwrap()).collect();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at.try_into().unwrap()));
        let leaf = EndEntityCert::try_from(&issued.certificate).unwrap();
        leaf.verify_for_usage(ALL_VERIFICATION_ALGS, &anchors, &[], at, usage, None, None).is_ok()
    }

    #[test]
    fn what_is_issued_is_for_one_data_plane_for_a_day_and_for_clients() {
        let authority = Authority::make(&policy(), NOW).unwrap();
        let issued = issue(&authority, NOW);
        let leaf = EndEntityCert::try_from(&issued.certificate).unwrap();
        assert_eq!(leaf.valid_uri_names().collect::<Vec<_>>(), ["spiffe://weir.dev/plane/default/weir-g"]);
        let believed = |usage, at| is_believed(&authority, &issued, usage, at);
        assert!(believed(KeyUsage::client_auth(), NOW));
        assert!(!believed(KeyUsage::server_auth(), NOW), "a data plane cannot pass for a controller");
        assert!(believed(KeyUsage::client_auth(), NOW - HOUR), "a clock may be an hour behind");
        assert!(believed(KeyUsage::client_auth(), NOW + 23 * HOUR), "or an hour ahead of the renewal");
        assert!(!believed(KeyUsage::client_auth(), NOW + 25 * HOUR));
        let stranger = Authority::make(&policy(), NOW).unwrap();
        assert!(!is_believed(&stranger, &issued, KeyUsage::client_auth(), NOW), "of another authority");
        let key = KeyPair::generate().unwrap();
        let controller = authority.issue_controller(&key, &policy(), NOW).unwrap();
        assert!(is_believed(&authority, &controller, KeyUsage::server_auth(), NOW));
        assert!(!is_believed(&authority, &controller, KeyUsage::client_auth(), NOW));
    }

    #[test]
    fn what_was_issued_is_believed_through_a_rotation_until_it_expires() {
        let first = Authority::make(&policy(), NOW).unwrap();
        let early = issue(&first, NOW);
        assert!(first.step(&policy(), false, NOW).unwrap().is_none(), "nothing is due");
        let start = NOW + seconds(policy().authority_lifetime) * 2 / 3;
        let staged = first.step(&policy(), false, start).unwrap().unwrap();
        assert_eq!(staged.roots().len(), 2);
        assert!(staged.step(&policy(), false, start + HOUR - 1).unwrap().is_none());
        // Whoever trusts the first alone still believes what is issued before the switch, and after it who trusts both.
        let before = issue(&staged, start);
        assert!(is_believed(&first, &before, KeyUsage::client_auth(), start));
        let switched = staged.step(&policy(), false, start + HOUR).unwrap().unwrap();
        let after = issue(&switched, start + HOUR);
        assert!(is_believed(&staged, &after, KeyUsage::client_auth(), start + HOUR));
        assert!(!is_believed(&first, &after, KeyUsage::client_auth(), start + HOUR));
        assert!(is_believed(&switched, &before, KeyUsage::client_auth(), start + 23 * HOUR));
        assert!(!is_believed(&switched, &early, KeyUsage::client_auth(), start), "expired long ago");
        assert!(switched.step(&policy(), false, start + 26 * HOUR).unwrap().is_none());
        let done = switched.step(&policy(), false, start + 28 * HOUR).unwrap().unwrap();
        assert_eq!(done.roots().len(), 1);
        assert!(done.step(&policy(), false, start + 29 * HOUR).unwrap().is_none());
    }

    #[test]
    fn a_rotation_that_is_asked_for_begins_at_once_and_once() {
        let first = Authority::make(&policy(), NOW).unwrap();
        let staged = first.step(&policy(), true, NOW).unwrap().unwrap();
        assert!(staged.step(&policy(), true, NOW + 1).unwrap().is_none());
    }

    #[test]
    fn what_is_kept_comes_back_and_what_is_broken_is_told() {
        let authority = Authority::make(&policy(), NOW).unwrap().step(&policy(), true, NOW).unwrap().unwrap();
        assert_eq!(Authority::read(&authority.write().unwrap()).unwrap(), authority);
        for broken in [&b""[..], b"{}", b"{\"form\":2}"] {
            assert!(Authority::read(broken).is_err());
        }
        let text = String::from_utf8(authority.write().unwrap()).unwrap();
        assert!(Authority::read(text.replace("\"form\":1", "\"form\":9").as_bytes()).is_err());
        assert!(!format!("{authority:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_key_that_is_none_gets_no_certificate() {
        let authority = Authority::make(&policy(), NOW).unwrap();
        let name = DataPlaneName::new("default", "weir-g");
        for key in [&b""[..], b"key", &[0x30, 0x82, 0xff, 0xff]] {
            assert!(authority.issue_plane(&name, key, &policy(), NOW).is_err());
        }
    }
}

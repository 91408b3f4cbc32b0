//! Certificates and authorities out of Secrets and ConfigMaps: read, checked, and named by their content.
//!
//! Owns the memory of what each Secret or ConfigMap holds, so that it is parsed once however many refer to it.
//! Invariants: what is given on can be parsed and, as far as the key itself says which public key it has, fits together.
//! No message repeats anything of what was read: a PEM error may quote what stands in the place of a marker, which in a
//! key without its line breaks is the key.
//! What is valid only from or until some time is judged by the time that was last passed in, and again when that passes one
//! where the judgement turns. An authority out of its time is none, as for the data plane; a certificate that is shown is
//! shown all the same and told of: who is shown it may judge otherwise, and none at all helps nobody.
//! Deliberately absent: a clock, and chains of trust.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustc_hash::FxHashMap;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use weir_api::core_v1::{
    CA_CERTIFICATES_KEY, Secret, TLS_CERTIFICATE_KEY, TLS_PRIVATE_KEY_KEY, TLS_SECRET_TYPE,
};
use weir_api::gateway_api::{ObjectReference, SecretObjectReference};
use weir_model::resource::{Body, CaBundle, Certificate};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::der;
use super::finding::Finding;
use super::grant::{self, Referrer};
use super::reading::{Reading, Unknown};
use crate::objects::{Kind, Object, ObjectKey, Presence};

/// A certificate that can be shown.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CertificateView {
    pub(super) resource: Certificate,
    /// DNS names that it is for, lower case.
    pub(super) names: Vec<String>,
    /// Why nobody should accept it now.
    pub(super) out_of_time: Option<String>,
}

/// Back in time by less than this is a clock being set right, and no reason to judge all anew. Unit: seconds. Source: ours.
const CLOCK_SLACK_SECONDS: i64 = 60;

/// When a certificate is valid: the first and the last second, since the Unix epoch.
#[derive(Clone, Copy)]
struct Span {
    first: i64,
    last: i64,
}

impl Span {
    fn of(certificate: &X509Certificate<'_>) -> Span {
        let validity = certificate.validity();
        Span { first: validity.not_before.timestamp(), last: validity.not_after.timestamp() }
    }

    /// What is wrong with it at a time.
    fn fault(self, now: i64) -> Option<&'static str> {
        if now < self.first {
            Some("is not valid yet")
        } else if now > self.last {
            Some("has expired")
        } else {
            None
        }
    }
}

/// Where a reference to a certificate or to authorities leads.
pub(super) enum Followed<T> {
    Found(T),
    /// Something that it depends on has not been seen yet; the reading knows what.
    Pending,
    /// It is of a kind that holds no such thing.
    WrongKind(String),
    NotPermitted(String),
    /// It is not there, or what is there cannot be used.
    Unusable(String),
}

type Parsed<T> = Result<Arc<T>, String>;

/// What a data plane says of a certificate or of authorities that can be parsed: why it could not use them, without a word
/// of what is in a key. Pure functions of the program that the data plane runs, so that a status says what a handshake does.
#[derive(Clone, Copy, Debug)]
pub struct MaterialCheck {
    pub certificate: fn(&Certificate) -> Result<(), String>,
    pub authorities: fn(&CaBundle) -> Result<(), String>,
}

/// What Secrets and ConfigMaps were found to hold.
#[derive(Debug, Default)]
pub(super) struct Materials {
    check: Option<MaterialCheck>,
    certificates: FxHashMap<ObjectKey, Parsed<CertificateView>>,
    authorities: FxHashMap<ObjectKey, Parsed<CaBundle>>,
    /// The time of day, seconds since the Unix epoch; unknown, nothing is out of its time.
    now: Option<i64>,
    /// What is to be judged anew at some time.
    turns: BTreeSet<(i64, ObjectKey)>,
}

impl Materials {
    pub(super) fn new(check: Option<MaterialCheck>) -> Materials {
        Materials { check, ..Materials::default() }
    }

    /// The object changed.
    pub(super) fn forget(&mut self, key: &ObjectKey) {
        if self.drop_judgement(key) {
            self.turns.retain(|(_, other)| other != key);
        }
    }

    fn drop_judgement(&mut self, key: &ObjectKey) -> bool {
        let certificate = self.certificates.remove(key);
        self.authorities.remove(key).is_some() || certificate.is_some()
    }

    /// Sets the time; the objects about which something else may be said now.
    pub(super) fn set_time(&mut self, now: i64) -> Vec<ObjectKey> {
        let is_step_back = self.now.is_some_and(|before| now < before);
        let turned: Vec<ObjectKey> = if self.now.is_none_or(|before| now < before - CLOCK_SLACK_SECONDS) {
            self.turns.clear();
            self.certificates.keys().chain(self.authorities.keys()).cloned().collect()
        } else if is_step_back {
            return Vec::new();
        } else {
            let later = self.turns.split_off(&(now + 1, ObjectKey::new(Kind::GatewayClass, "", "")));
            std::mem::replace(&mut self.turns, later).into_iter().map(|(_, key)| key).collect()
        };
        self.now = Some(now);
        for key in &turned {
            self.drop_judgement(key);
        }
        turned
    }

    /// The time at which something is to be judged anew.
    pub(super) fn next_turn(&self) -> Option<i64> {
        self.turns.first().map(|(at, _)| *at)
    }

    /// Follows a reference to a TLS Secret.
    pub(super) fn certificate(
        &mut self,
        reference: &SecretObjectReference,
        from: &Referrer<'_>,
        reading: &mut Reading<'_>,
    ) -> Followed<Arc<CertificateView>> {
        let SecretObjectReference { group, kind, name, namespace } = reference;
        if !matches!(group.as_str(), "" | "core") || kind != "Secret" {
            return Followed::WrongKind(format!(
                "kind {kind:?} in group {group:?} holds no certificate; Secret does"
            ));
        }
        let target =
            ObjectKey::new(Kind::Secret, namespace.as_deref().unwrap_or(from.namespace), name.clone());
        if let Some(stopped) = stopped(&target, from, reading) {
            return stopped;
        }
        let (check, now, turns) = (self.check, self.now, &mut self.turns);
        let parsed =
            self.certificates.entry(target.clone()).or_insert_with(|| match reading.objects.get(&target) {
                Some(Object::Secret(secret)) => certificate(secret).and_then(|(mut view, span)| {
                    check.map_or(Ok(()), |check| (check.certificate)(&view.resource))?;
                    if let Some(now) = now {
                        note_turn(&[span], now, &target, turns);
                        let fault = span.fault(now);
                        view.out_of_time = fault.map(|fault| format!("the certificate of {target} {fault}"));
                    }
                    Ok(Arc::new(view))
                }),
                _ => Err("it is not there".to_owned()),
            });
        match parsed {
            Ok(view) => Followed::Found(Arc::clone(view)),
            Err(why) => Followed::Unusable(format!("{target} cannot be used: {why}")),
        }
    }

    /// Follows a reference to a ConfigMap with certificate authorities.
    pub(super) fn authorities(
        &mut self,
        reference: &ObjectReference,
        from: &Referrer<'_>,
        reading: &mut Reading<'_>,
    ) -> Followed<Arc<CaBundle>> {
        let ObjectReference { group, kind, name, namespace } = reference;
        if !matches!(group.as_str(), "" | "core") || kind != "ConfigMap" {
            return Followed::WrongKind(format!(
                "kind {kind:?} in group {group:?} holds no certificate authorities; ConfigMap does"
            ));
        }
        let target =
            ObjectKey::new(Kind::ConfigMap, namespace.as_deref().unwrap_or(from.namespace), name.clone());
        if let Some(stopped) = stopped(&target, from, reading) {
            return stopped;
        }
        let (check, now, turns) = (self.check, self.now, &mut self.turns);
        let parsed =
            self.authorities.entry(target.clone()).or_insert_with(|| match reading.objects.get(&target) {
                Some(Object::ConfigMap(map)) => {
                    let text = map.data.authorities.as_deref();
                    text.ok_or_else(|| format!("it has no {CA_CERTIFICATES_KEY}"))
                        .and_then(authorities)
                        .and_then(|(bundle, spans)| {
                            check.map_or(Ok(()), |check| (check.authorities)(&bundle))?;
                            if let Some(now) = now {
                                note_turn(&spans, now, &target, turns);
                                in_time(&spans, now)?;
                            }
                            Ok(Arc::new(bundle))
                        })
                }
                _ => Err("it is not there".to_owned()),
            });
        match parsed {
            Ok(bundle) => Followed::Found(Arc::clone(bundle)),
            Err(why) => Followed::Unusable(format!("{target} cannot be used: {why}")),
        }
    }
}

/// Remembers when the next of these certificates becomes valid, or the last second of one is over.
fn note_turn(spans: &[Span], now: i64, key: &ObjectKey, turns: &mut BTreeSet<(i64, ObjectKey)>) {
    let turn = spans.iter().flat_map(|span| [span.first, span.last.saturating_add(1)]);
    turns.extend(turn.filter(|at| *at > now).min().map(|at| (at, key.clone())));
}

/// One authority in its time is enough: the others are passed over.
fn in_time(spans: &[Span], now: i64) -> Result<(), String> {
    let faults: Option<BTreeSet<&str>> = spans.iter().map(|span| span.fault(now)).collect();
    match faults.map(|faults| faults.into_iter().collect::<Vec<_>>()).as_deref() {
        None => Ok(()),
        Some([fault]) => Err(format!("every certificate of {CA_CERTIFICATES_KEY} {fault}")),
        Some(_) => Err(format!("no certificate of {CA_CERTIFICATES_KEY} is valid now")),
    }
}

/// Why the target of a reference cannot be looked at, if so.
fn stopped<T>(target: &ObjectKey, from: &Referrer<'_>, reading: &mut Reading<'_>) -> Option<Followed<T>> {
    if target.namespace != from.namespace {
        match grant::permits(from, target, reading) {
            Presence::Present => {}
            Presence::Unknown => return Some(Followed::Pending),
            Presence::Absent => return Some(Followed::NotPermitted(grant::refusal(from, target))),
        }
    }
    match reading.presence(target, Unknown::Holds) {
        Presence::Present => None,
        Presence::Unknown => Some(Followed::Pending),
        Presence::Absent => Some(Followed::Unusable(format!("there is no {target}"))),
    }
}

fn certificate(secret: &Secret) -> Result<(CertificateView, Span), String> {
    if secret.type_ != TLS_SECRET_TYPE {
        return Err(format!("its type is {:?}, not {TLS_SECRET_TYPE}", secret.type_));
    }
    let chain = decoded(secret.data.certificate.as_deref(), TLS_CERTIFICATE_KEY)?;
    let private_key = decoded(secret.data.private_key.as_deref(), TLS_PRIVATE_KEY_KEY)?;
    let certificates = certificates(&chain, TLS_CERTIFICATE_KEY)?;
    let (leaf, span) =
        certificates.first().ok_or_else(|| format!("{TLS_CERTIFICATE_KEY} holds no certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(&private_key)
        .map_err(|error| format!("{TLS_PRIVATE_KEY_KEY} holds no private key: {}", in_words(&error)))?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| not_a_certificate(TLS_CERTIFICATE_KEY))?;
    if !belongs(&key, &leaf) {
        return Err(format!("the key of {TLS_PRIVATE_KEY_KEY} is not that of {TLS_CERTIFICATE_KEY}"));
    }
    let names = names(&leaf);
    let mut hash = Sha256::new();
    hash.update((chain.len() as u64).to_be_bytes());
    hash.update(&chain);
    hash.update(&private_key);
    let key = format!("certificate/{:x}", hash.finalize());
    let resource = Certificate { key, chain, private_key };
    Ok((CertificateView { resource, names, out_of_time: None }, *span))
}

fn authorities(pem: &str) -> Result<(CaBundle, Vec<Span>), String> {
    let certificates = certificates(pem.as_bytes(), CA_CERTIFICATES_KEY)?;
    if certificates.is_empty() {
        return Err(format!("{CA_CERTIFICATES_KEY} holds no certificate"));
    }
    let key = format!("cabundle/{:x}", Sha256::digest(pem));
    let spans = certificates.into_iter().map(|(_, span)| span).collect();
    Ok((CaBundle { key, certificates: pem.as_bytes().to_vec() }, spans))
}

fn decoded(value: Option<&str>, name: &str) -> Result<Vec<u8>, String> {
    let value = value.ok_or_else(|| format!("it has no {name}"))?;
    STANDARD.decode(value.trim()).map_err(|_| format!("{name} is not base64"))
}

/// Every certificate of a PEM text; all of them must be certificates.
fn certificates(pem: &[u8], name: &str) -> Result<Vec<(CertificateDer<'static>, Span)>, String> {
    let mut all = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate =
            certificate.map_err(|error| format!("{name} cannot be read: {}", in_words(&error)))?;
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|_| not_a_certificate(name))?;
        let span = Span::of(&parsed);
        all.push((certificate, span));
    }
    Ok(all)
}

fn not_a_certificate(name: &str) -> String {
    format!("{name} cannot be parsed: a section in it is no X.509 certificate")
}

/// What is wrong with a PEM text, without a byte of it.
fn in_words(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => {
            "a PEM section has no end (the BEGIN and END markers need lines of their own)"
        }
        pem::Error::IllegalSectionStart { .. } => {
            "a PEM section does not begin as it should (the BEGIN marker needs a line of its own)"
        }
        pem::Error::Base64Decode(_) => "the content of a PEM section is not base64",
        pem::Error::NoItemsFound => "there is no PEM section of that kind in it",
        _ => "it is not PEM",
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let mut names: Vec<String> = extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Whether the key is the certificate's, as far as the key says which public key is its own: an EC or Ed25519 key need
/// not, and a [`MaterialCheck`] finds out.
fn belongs(key: &PrivateKeyDer<'_>, certificate: &X509Certificate<'_>) -> bool {
    let public = match key {
        PrivateKeyDer::Pkcs1(key) => der::rsa_modulus(key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => der::ec_point(key.secret_sec1_der()),
        PrivateKeyDer::Pkcs8(key) => der::pkcs8_public(key.secret_pkcs8_der()),
        _ => None,
    };
    let Some(public) = public else {
        return true;
    };
    let subject = certificate.public_key();
    match subject.parsed() {
        Ok(PublicKey::RSA(rsa)) => der::without_zeros(rsa.modulus) == der::without_zeros(public),
        _ => subject.subject_public_key.data.as_ref() == public,
    }
}

/// Which of these certificates nobody should accept now, and why.
pub(super) fn out_of_time(used: &[Arc<CertificateView>]) -> Vec<String> {
    let mut why: Vec<String> = used.iter().filter_map(|view| view.out_of_time.clone()).collect();
    why.sort();
    why.dedup();
    why
}

/// Tells of a certificate that nobody should accept now.
pub(super) fn stale(field: &str, why: &str) -> Finding {
    Finding::warning(field, "CertificateOutOfTime", why)
}

/// The resources that `users` of certificates and authorities bring along.
pub(super) fn bodies(
    certificates: &[Arc<CertificateView>],
    bundles: &[Arc<CaBundle>],
) -> impl Iterator<Item = (String, Body)> {
    let certificates: Vec<_> = certificates
        .iter()
        .map(|view| (view.resource.key.clone(), Body::Certificate(view.resource.clone())))
        .collect();
    let bundles: Vec<_> =
        bundles.iter().map(|bundle| (bundle.key.clone(), Body::CaBundle((**bundle).clone()))).collect();
    certificates.into_iter().chain(bundles)
}

//! BackendTLSPolicy, XBackendTrafficPolicy and BackendPolicy: what they say about Services, and which of several holds.
//!
//! Invariants: of policies for the same Service and section the oldest holds, then the first by name, whether or not it
//! can be met; one for a section is before one for the whole Service. A policy that holds and cannot be met makes its
//! backends unusable: nothing is ever sent in the clear instead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weir_api::condition::{Condition, reasons, types};
use weir_api::gateway_api::{
    BackendTlsPolicy, BackendTlsPolicyValidation, LocalPolicyTargetReferenceWithSectionName, ObjectReference,
    ParentReference, PolicyAncestorStatus, RetryConstraint, SubjectAltNameType, WellKnownCaCertificatesType,
    XBackendTrafficPolicy,
};
use weir_api::meta::ObjectMeta;
use weir_api::weir::BackendPolicy;
use weir_model::limits::Side;
use weir_model::resource::{
    Backend, BackendTls, CaBundle, LimitSetting, RetryBudget, SessionPersistence, SubjectAltName,
};

use super::finding::{Finding, list, summary};
use super::grant::Referrer;
use super::hostname;
use super::parameters;
use super::reading::{Reading, Unknown};
use super::route::{self, Ancestor};
use super::tls::{Followed, Materials};
use crate::objects::{Kind, Object, ObjectKey, Objects, Presence};

/// Entries that a status can have, as the CRD says.
pub(super) const ANCESTORS_MAX: usize = 16;
/// Targets that a message names.
const NAMED_MAX: usize = 4;
/// The CRD's default `retryConstraint.budget.interval`, milliseconds.
const BUDGET_INTERVAL_DEFAULT_MS: u64 = 10_000;
/// The CRD's defaults of `retryConstraint.minRetryRate`: so many retries in so many milliseconds.
const MIN_RETRY_COUNT_DEFAULT: u32 = 10;
const MIN_RETRY_INTERVAL_DEFAULT_MS: u64 = 1_000;

/// A policy, judged.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PolicyPlan {
    generation: i64,
    pub(super) says: Says,
    /// Why it is not accepted, other than for a conflict.
    rejection: Option<(&'static str, String)>,
    /// Why references are not resolved. `None` inside: the kind has no references to speak of.
    unresolved: Option<Option<(&'static str, String)>>,
    /// The Services that it names.
    services: BTreeSet<ObjectKey>,
    /// Targets that another policy has, and that one.
    lost: Vec<(ObjectKey, String)>,
    /// Services that have no such section, and what is missing.
    missing: Vec<(ObjectKey, String)>,
    /// Services of which it has some part.
    held: BTreeSet<ObjectKey>,
    /// Authorities that it names.
    pub(super) bundles: Vec<Arc<CaBundle>>,
    pub(super) findings: Vec<Finding>,
}

/// What a policy says about its backends.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Says {
    Tls(BackendTls),
    Traffic { session_persistence: Option<SessionPersistence>, retry_budget: Option<RetryBudget> },
    Limits(Vec<LimitSetting>),
}

/// `None`: not a policy.
pub(super) fn plan(
    key: &ObjectKey,
    object: &Object,
    materials: &mut Materials,
    reading: &mut Reading<'_>,
) -> Option<PolicyPlan> {
    let mut plan = match object {
        Object::BackendTlsPolicy(policy) => tls(key, policy, materials, reading),
        Object::BackendTrafficPolicy(policy) => traffic(policy),
        Object::BackendPolicy(policy) => limits(policy),
        _ => return None,
    };
    plan.services = object.policy_targets().into_iter().collect();
    for (index, target) in targets(object).iter().enumerate() {
        let field = format!("spec.targetRefs[{index}]");
        let Some(service) = service_of(target, &key.namespace) else {
            let message =
                format!("kind {:?} in group {:?} is not supported; Service is", target.kind, target.group);
            plan.findings.push(Finding::error(field, reasons::INVALID_KIND, message));
            continue;
        };
        if reading.presence(&service, Unknown::Passes) == Presence::Absent {
            let message = format!("there is no {service}, so the policy has no effect there");
            plan.findings.push(Finding::error(field.clone(), reasons::TARGET_NOT_FOUND, message));
        }
        if let Some(message) = missing_section(key.kind, &service, target.section_name, reading.objects) {
            plan.findings.push(Finding::error(field, reasons::TARGET_NOT_FOUND, message.clone()));
            plan.missing.push((service, message));
            continue;
        }
        reading.note_read(&ObjectKey::policies_of(key.kind, &service));
        let section = target.section_name;
        match holder(reading.objects, key.kind, &service, section) {
            Some(holder) if holder != key => {
                let what = section.map_or(String::new(), |section| format!(" section {section}"));
                let message = format!("{service}{what} has {holder}, which came first");
                plan.findings.push(Finding::error(field, reasons::CONFLICTED, message.clone()));
                plan.lost.push((service, message));
            }
            _ => {
                plan.held.insert(service);
            }
        }
    }
    Some(plan)
}

fn tls(
    key: &ObjectKey,
    policy: &BackendTlsPolicy,
    materials: &mut Materials,
    reading: &mut Reading<'_>,
) -> PolicyPlan {
    let validation = &policy.spec.validation;
    let mut faults = Vec::new();
    let hostname = match hostname::normal(&validation.hostname) {
        Ok(name) if !name.is_empty() && !name.starts_with('*') => name,
        _ => {
            let message = format!("{:?} is not the name of a host", validation.hostname);
            faults.push(Finding::error("spec.validation.hostname", reasons::INVALID, message));
            String::new()
        }
    };
    let subject_alt_names = subject_alt_names(validation, &mut faults);
    let mut findings = Vec::new();
    let authorities = authorities(key, validation, materials, reading, &mut faults, &mut findings);
    let Authorities { system, bundles, unresolved } = authorities;
    let none_valid = !system && bundles.is_empty();
    let rejection = if let Some(first) = faults.first() {
        Some((first.reason, summary(&faults)))
    } else if none_valid {
        let why = unresolved.as_ref().map_or("there is no authority", |(_, message)| message);
        Some((reasons::NO_VALID_CA_CERTIFICATE, format!("No certificate can be judged: {why}")))
    } else {
        None
    };
    if none_valid && let Some((reason, message)) = &rejection {
        findings.push(Finding::error("spec.validation", reason, message.clone()));
    }
    if !policy.spec.options.is_empty() {
        let message = "options is not supported and has no effect";
        findings.push(Finding::warning("spec.options", "NotSupported", message));
    }
    findings.extend(faults);
    let tls = BackendTls {
        hostname,
        ca_bundles: bundles.iter().map(|bundle| bundle.key.clone()).collect(),
        system_authorities: system,
        subject_alt_names,
        invalid_reason: rejection.as_ref().map_or(String::new(), |(reason, _)| (*reason).to_owned()),
    };
    let bundles = if rejection.is_some() { Vec::new() } else { bundles };
    let tls = if rejection.is_some() { BackendTls { ca_bundles: Vec::new(), ..tls } } else { tls };
    PolicyPlan {
        bundles,
        unresolved: Some(unresolved),
        ..judged(&policy.metadata, Says::Tls(tls), rejection, findings)
    }
}

fn judged(
    metadata: &ObjectMeta,
    says: Says,
    rejection: Option<(&'static str, String)>,
    findings: Vec<Finding>,
) -> PolicyPlan {
    PolicyPlan {
        generation: metadata.generation,
        says,
        rejection,
        unresolved: None,
        services: BTreeSet::new(),
        lost: Vec::new(),
        missing: Vec::new(),
        held: BTreeSet::new(),
        bundles: Vec::new(),
        findings,
    }
}

fn subject_alt_names(
    validation: &BackendTlsPolicyValidation,
    faults: &mut Vec<Finding>,
) -> Vec<SubjectAltName> {
    let mut names = Vec::with_capacity(validation.subject_alt_names.len());
    for (index, name) in validation.subject_alt_names.iter().enumerate() {
        let field = format!("spec.validation.subjectAltNames[{index}]");
        let (uri, value) = match &name.type_ {
            SubjectAltNameType::Hostname => (false, name.hostname.clone().unwrap_or_default()),
            SubjectAltNameType::Uri => (true, name.uri.clone().unwrap_or_default()),
            other => {
                let message = format!("type {:?} is not supported", other.as_str());
                faults.push(Finding::error(field, reasons::INVALID, message));
                continue;
            }
        };
        if value.is_empty() {
            faults.push(Finding::error(field, reasons::INVALID, "the name is empty"));
        } else {
            let value = if uri { value } else { value.to_ascii_lowercase() };
            names.push(SubjectAltName { uri, value });
        }
    }
    names
}

/// By whom certificates are judged.
struct Authorities {
    system: bool,
    bundles: Vec<Arc<CaBundle>>,
    /// The first reference that leads to none.
    unresolved: Option<(&'static str, String)>,
}

fn authorities(
    key: &ObjectKey,
    validation: &BackendTlsPolicyValidation,
    materials: &mut Materials,
    reading: &mut Reading<'_>,
    faults: &mut Vec<Finding>,
    findings: &mut Vec<Finding>,
) -> Authorities {
    let mut all = Authorities { system: false, bundles: Vec::new(), unresolved: None };
    match &validation.well_known_ca_certificates {
        None => {}
        Some(WellKnownCaCertificatesType::System) => all.system = true,
        Some(WellKnownCaCertificatesType::Unknown(none)) if none.is_empty() => {}
        Some(WellKnownCaCertificatesType::Unknown(other)) => {
            let message = format!("{other:?} is not supported; System is");
            let field = "spec.validation.wellKnownCACertificates";
            faults.push(Finding::error(field, reasons::INVALID, message));
        }
    }
    let referrer = Referrer { kind: Kind::BackendTlsPolicy, namespace: &key.namespace };
    for (index, reference) in validation.ca_certificate_refs.iter().enumerate() {
        // The API lets a policy refer to its own namespace only.
        let (group, kind, name) = (reference.group.clone(), reference.kind.clone(), reference.name.clone());
        let reference = ObjectReference { group, kind, name, namespace: None };
        let (reason, message) = match materials.authorities(&reference, &referrer, reading) {
            Followed::Found(bundle) => {
                if !all.bundles.contains(&bundle) {
                    all.bundles.push(bundle);
                }
                continue;
            }
            // The policy is held back, so nobody sees this.
            Followed::Pending => continue,
            Followed::WrongKind(message) => (reasons::INVALID_KIND, message),
            Followed::NotPermitted(message) | Followed::Unusable(message) => {
                (reasons::INVALID_CA_CERTIFICATE_REF, message)
            }
        };
        let field = format!("spec.validation.caCertificateRefs[{index}]");
        findings.push(Finding::error(field, reason, message.clone()));
        all.unresolved.get_or_insert((reason, message));
    }
    all
}

fn traffic(policy: &XBackendTrafficPolicy) -> PolicyPlan {
    let mut faults = Vec::new();
    let session_persistence = policy
        .spec
        .session_persistence
        .as_deref()
        .and_then(|spec| route::session_persistence(spec, "spec.sessionPersistence", &mut faults));
    let retry_budget =
        policy.spec.retry_constraint.as_deref().and_then(|spec| retry_budget(spec, &mut faults));
    let rejection =
        faults.first().map(|first| (reasons::INVALID, format!("{}: {}", first.field, first.message)));
    judged(&policy.metadata, Says::Traffic { session_persistence, retry_budget }, rejection, faults)
}

fn limits(policy: &BackendPolicy) -> PolicyPlan {
    let mut faults = Vec::new();
    let settings = parameters::limits(Side::Backend, &policy.spec.limits, &mut faults);
    let rejection = faults.first().map(|first| (first.reason, summary(&faults)));
    judged(&policy.metadata, Says::Limits(settings), rejection, faults)
}

/// What a target names and its Service does not have. BackendTLSPolicy may be there before the port is: what is not yet there
/// is to be encrypted too.
fn missing_section(
    kind: Kind,
    service: &ObjectKey,
    section: Option<&str>,
    objects: &Objects,
) -> Option<String> {
    let section = section.filter(|_| kind == Kind::BackendPolicy)?;
    let ports = &objects.service(service)?.spec.ports;
    let is_missing = !ports.iter().any(|port| port.name == section);
    is_missing.then(|| format!("{service} has no port that is called {section:?}"))
}

fn retry_budget(spec: &RetryConstraint, faults: &mut Vec<Finding>) -> Option<RetryBudget> {
    let before = faults.len();
    let mut milliseconds = |text: Option<&str>, field: &str| {
        route::milliseconds(text, &format!("spec.retryConstraint.{field}"), faults)
    };
    let interval_ms = milliseconds(Some(&spec.budget.interval), "budget.interval");
    let min_retry_interval_ms =
        milliseconds(spec.min_retry_rate.interval.as_deref(), "minRetryRate.interval");
    let percent = u32::try_from(spec.budget.percent).ok().filter(|percent| *percent <= 100);
    if percent.is_none() {
        let message = format!("{} is not a percentage", spec.budget.percent);
        faults.push(Finding::error("spec.retryConstraint.budget.percent", reasons::INVALID, message));
    }
    let count =
        spec.min_retry_rate.count.map_or(Some(MIN_RETRY_COUNT_DEFAULT), |count| u32::try_from(count).ok());
    if count.is_none() {
        let message = "a number of retries cannot be negative";
        faults.push(Finding::error("spec.retryConstraint.minRetryRate.count", reasons::INVALID, message));
    }
    (faults.len() == before).then(|| RetryBudget {
        percent: percent.unwrap_or_default(),
        interval_ms: interval_ms.unwrap_or(BUDGET_INTERVAL_DEFAULT_MS),
        min_retry_count: count.unwrap_or_default(),
        min_retry_interval_ms: min_retry_interval_ms.unwrap_or(MIN_RETRY_INTERVAL_DEFAULT_MS),
    })
}

/// An object in the policy's namespace.
struct Target<'a> {
    group: &'a str,
    kind: &'a str,
    name: &'a str,
    /// Of a Service: the name of a port. XBackendTrafficPolicy has no such field.
    section_name: Option<&'a str>,
}

fn targets(object: &Object) -> Vec<Target<'_>> {
    match object {
        Object::BackendTlsPolicy(policy) => policy.spec.target_refs.iter().map(Target::of).collect(),
        Object::BackendPolicy(policy) => policy.spec.target_refs.iter().map(Target::of).collect(),
        Object::BackendTrafficPolicy(policy) => {
            let targets = policy.spec.target_refs.iter();
            targets
                .map(|to| Target { group: &to.group, kind: &to.kind, name: &to.name, section_name: None })
                .collect()
        }
        _ => Vec::new(),
    }
}

impl Target<'_> {
    fn of(to: &LocalPolicyTargetReferenceWithSectionName) -> Target<'_> {
        Target { group: &to.group, kind: &to.kind, name: &to.name, section_name: to.section_name.as_deref() }
    }
}

fn service_of(target: &Target<'_>, namespace: &str) -> Option<ObjectKey> {
    (matches!(target.group, "" | "core") && target.kind == "Service")
        .then(|| ObjectKey::new(Kind::Service, namespace, target.name))
}

/// The policy of a kind that has a Service's section, or the Service where it names none: the oldest of those that want
/// exactly that.
fn holder<'a>(
    objects: &'a Objects,
    kind: Kind,
    service: &'a ObjectKey,
    section: Option<&str>,
) -> Option<&'a ObjectKey> {
    objects
        .members(service, kind)
        .find(|(key, object)| {
            targets(object).iter().any(|target| {
                service_of(target, &key.namespace).as_ref() == Some(service) && target.section_name == section
            })
        })
        .map(|(key, _)| key)
}

/// Whether a BackendTLSPolicy holds for a port of a Service; the answer is noted as read.
pub(super) fn encrypts(service: &ObjectKey, port_name: &str, reading: &mut Reading<'_>) -> bool {
    let kind = Kind::BackendTlsPolicy;
    reading.note_read(&ObjectKey::policies_of(kind, service));
    holder_for_port(reading.objects, kind, service, port_name).is_some()
}

/// The policy that holds for a port: the port's own, else the Service's.
fn holder_for_port<'a>(
    objects: &'a Objects,
    kind: Kind,
    service: &'a ObjectKey,
    port_name: &str,
) -> Option<&'a ObjectKey> {
    holder(objects, kind, service, Some(port_name)).or_else(|| holder(objects, kind, service, None))
}

/// Puts into a backend what policies say about its port. `plan_of` gives the plans that were made.
pub(super) fn apply<'a>(
    backend: &mut Backend,
    datagrams: bool,
    service: &ObjectKey,
    port_name: &str,
    objects: &Objects,
    plan_of: &dyn Fn(&ObjectKey) -> Option<&'a PolicyPlan>,
) {
    // For datagrams there are neither encryption, sessions nor retries.
    let for_datagrams = [Kind::BackendPolicy];
    let kinds = if datagrams { &for_datagrams[..] } else { &Kind::POLICIES };
    for &kind in kinds {
        let Some(key) = holder_for_port(objects, kind, service, port_name) else {
            continue;
        };
        match plan_of(key).map(|plan| (&plan.says, &plan.rejection)) {
            Some((Says::Tls(tls), _)) => backend.tls = Some(tls.clone()),
            Some((Says::Traffic { session_persistence, retry_budget }, None)) => {
                backend.session_persistence.clone_from(session_persistence);
                if let Some(session) = backend.session_persistence.as_mut().filter(|s| s.name.is_empty()) {
                    session.name = route::default_session_name(&backend.key);
                }
                backend.retry_budget.clone_from(retry_budget);
            }
            Some((Says::Limits(settings), None)) => backend.limits.clone_from(settings),
            Some((Says::Traffic { .. } | Says::Limits(_), Some(_))) => {}
            // Not looked at yet: until it is, nothing may go out in the clear.
            None if kind == Kind::BackendTlsPolicy => {
                let invalid_reason = reasons::PENDING.to_owned();
                backend.tls = Some(BackendTls { invalid_reason, ..BackendTls::default() });
            }
            None => {}
        }
    }
}

impl PolicyPlan {
    /// The Services that it names.
    pub(super) fn services(&self) -> impl Iterator<Item = &ObjectKey> {
        self.services.iter()
    }

    /// The entries of a status: one for each Gateway that uses a Service of the policy.
    pub(super) fn status<'a>(
        &self,
        ancestors_of: &dyn Fn(&ObjectKey) -> Vec<&'a Ancestor>,
    ) -> Vec<PolicyAncestorStatus> {
        let mut ancestors: BTreeMap<&Ancestor, BTreeSet<&ObjectKey>> = BTreeMap::new();
        for service in &self.services {
            for ancestor in ancestors_of(service) {
                ancestors.entry(ancestor).or_default().insert(service);
            }
        }
        ancestors
            .into_iter()
            .take(ANCESTORS_MAX)
            .map(|((gateway, controller), services)| PolicyAncestorStatus {
                ancestor_ref: ParentReference {
                    namespace: Some(gateway.namespace.clone()),
                    name: gateway.name.clone(),
                    ..ParentReference::default()
                },
                controller_name: controller.clone(),
                conditions: self.conditions(&services),
            })
            .collect()
    }

    /// For a Gateway that uses these Services of the policy.
    fn conditions(&self, services: &BTreeSet<&ObjectKey>) -> Vec<Condition> {
        let condition = |type_, holds, reason, message: String| {
            Condition::new(type_, holds, reason, message, self.generation)
        };
        let lost: Vec<String> = self
            .lost
            .iter()
            .filter(|(service, _)| services.contains(service))
            .map(|(_, message)| message.clone())
            .collect();
        let has_some = services.iter().any(|service| self.held.contains(*service));
        let lost_text = list(&lost, NAMED_MAX);
        let missing = self.missing.iter().find(|(service, _)| services.contains(service));
        let accepted = match &self.rejection {
            _ if !has_some && !lost.is_empty() => {
                condition(types::ACCEPTED, false, reasons::CONFLICTED, lost_text)
            }
            Some((reason, message)) => condition(types::ACCEPTED, false, reason, message.clone()),
            None if let Some((_, message)) = missing.filter(|_| !has_some) => {
                condition(types::ACCEPTED, false, reasons::TARGET_NOT_FOUND, message.clone())
            }
            None if lost.is_empty() => {
                condition(types::ACCEPTED, true, reasons::ACCEPTED, "The policy is in force.".to_owned())
            }
            None => {
                let message = format!("The policy is in force, but not everywhere: {lost_text}.");
                condition(types::ACCEPTED, true, reasons::ACCEPTED, message)
            }
        };
        let mut conditions = vec![accepted];
        match &self.unresolved {
            None => {}
            Some(None) => conditions.push(condition(
                types::RESOLVED_REFS,
                true,
                reasons::RESOLVED_REFS,
                "All references are resolved.".to_owned(),
            )),
            Some(Some((reason, message))) => {
                conditions.push(condition(types::RESOLVED_REFS, false, reason, message.clone()));
            }
        }
        conditions
    }
}

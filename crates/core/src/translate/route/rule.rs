//! One rule of an HTTPRoute or a GRPCRoute.
//!
//! A rule with a fault that cannot be confined answers 500 for what it would match: nothing that the rule asks for is
//! skipped, and no request of its falls through to another rule. A match that cannot be evaluated is left out.

use std::collections::BTreeSet;

use weir_api::condition::reasons;
use weir_api::duration;
use weir_api::gateway_api::{
    HttpBackendRef, HttpRouteFilter, HttpRouteRetry, HttpRouteTimeouts, SessionPersistence as ApiSession,
};
use weir_api::reference::BackendReference;
use weir_model::resource::{FilterKind, HttpMatch, HttpRule, Retry, WeightedBackend};
use weir_model::split::{MAX_BACKENDS, MAX_WEIGHT};

use super::filter::{self, Level};
use super::session;
use crate::objects::{Kind, ObjectKey};
use crate::translate::backend::{self, PortUse, Resolved, Use, Wants};
use crate::translate::finding::Finding;
use crate::translate::reading::Reading;

/// Tries after the first where `retry` does not say how many. The API leaves it to the implementation.
const RETRY_ATTEMPTS_DEFAULT: u32 = 1;
/// Milliseconds between tries where `retry` does not say. The API leaves it to the implementation.
const RETRY_BACKOFF_DEFAULT_MS: u64 = 25;

/// A rule, translated.
pub(super) struct RuleOutcome {
    /// `None` when no match of the rule is usable. The split identities are not filled in.
    pub(super) rule: Option<HttpRule>,
    /// What the rule asks for and cannot have; such a part answers 500.
    pub(super) faults: Vec<Finding>,
    /// Whether nothing of the rule works, because of its faults.
    pub(super) is_dropped: bool,
    /// References that lead nowhere.
    pub(super) unresolved: Vec<Finding>,
    /// What has no effect.
    pub(super) notes: Vec<Finding>,
    /// Service ports that the rule uses.
    pub(super) backends: BTreeSet<(ObjectKey, PortUse)>,
}

/// What the rules of both kinds have.
pub(super) struct RuleSpec<'a> {
    pub(super) name: Option<&'a str>,
    /// The usable ones, and what is wrong with the others.
    pub(super) matches: (Vec<HttpMatch>, Vec<Finding>),
    pub(super) filters: &'a [HttpRouteFilter],
    pub(super) backend_refs: &'a [HttpBackendRef],
    pub(super) timeouts: Option<&'a HttpRouteTimeouts>,
    pub(super) retry: Option<&'a HttpRouteRetry>,
    pub(super) session_persistence: Option<&'a ApiSession>,
}

/// What a rule needs to know of its route.
pub(super) struct RuleContext<'a> {
    pub(super) kind: Kind,
    pub(super) namespace: &'a str,
    /// `konghq.com/strip-path`.
    pub(super) strip_path: bool,
}

impl RuleContext<'_> {
    /// How the route's requests use a backend.
    pub(super) fn uses(&self) -> Use<'_> {
        let wants = if self.kind == Kind::GrpcRoute { Wants::Grpc } else { Wants::Http };
        Use { kind: self.kind, namespace: self.namespace, wants }
    }
}

pub(super) fn translate(
    spec: RuleSpec<'_>,
    index: usize,
    context: &RuleContext<'_>,
    reading: &mut Reading<'_>,
) -> RuleOutcome {
    let field = format!("spec.rules[{index}]");
    let (matches, mut faults) = spec.matches;
    let mut filters =
        filter::translate(spec.filters, Level::Rule, &matches, &format!("{field}.filters"), context, reading);
    faults.append(&mut filters.faults);
    let (request_timeout_ms, backend_request_timeout_ms) = timeouts(spec.timeouts, &field, &mut faults);
    let retry = spec.retry.map(|spec| retry(spec, &format!("{field}.retry"), &mut faults));
    let session_persistence = spec
        .session_persistence
        .map(|spec| session::translate(spec, &format!("{field}.sessionPersistence"), &mut faults));
    faults.extend(too_many(spec.backend_refs.len(), &format!("{field}.backendRefs")));
    let rule_is_broken = !faults.is_empty();

    let mut refs = Refs { used: filters.used, unresolved: filters.unresolved, ..Refs::default() };
    for (index, reference) in spec.backend_refs.iter().enumerate().take(MAX_BACKENDS) {
        refs.add(reference, &matches, &format!("{field}.backendRefs[{index}]"), context, reading);
    }
    if rule_is_broken {
        for backend in &mut refs.backends {
            backend.invalid_reason = reasons::UNSUPPORTED_VALUE.to_owned();
            backend.filters.clear();
        }
        refs.used.clear();
    }
    faults.extend(refs.faults);

    let rewrites_path = filters.filters.iter().any(
        |filter| matches!(&filter.kind, Some(FilterKind::UrlRewrite(rewrite)) if rewrite.path.is_some()),
    );
    let is_dropped =
        rule_is_broken || (!spec.backend_refs.is_empty() && refs.broken == spec.backend_refs.len());
    let translated = HttpRule {
        name: spec.name.unwrap_or_default().to_owned(),
        split_identity: String::new(),
        matches,
        filters: if rule_is_broken { Vec::new() } else { filters.filters },
        backends: refs.backends,
        request_timeout_ms,
        backend_request_timeout_ms,
        strip_path: context.strip_path && !rewrites_path,
        retry,
        session_persistence: session_persistence.flatten(),
    };
    RuleOutcome {
        rule: (!translated.matches.is_empty()).then_some(translated),
        faults,
        is_dropped,
        unresolved: refs.unresolved,
        notes: Vec::new(),
        backends: refs.used,
    }
}

/// The references of a rule, as they are gathered.
#[derive(Default)]
struct Refs {
    backends: Vec<WeightedBackend>,
    used: BTreeSet<(ObjectKey, PortUse)>,
    unresolved: Vec<Finding>,
    /// Faults of references themselves.
    faults: Vec<Finding>,
    /// References that have faults.
    broken: usize,
}

impl Refs {
    fn add(
        &mut self,
        reference: &HttpBackendRef,
        matches: &[HttpMatch],
        field: &str,
        context: &RuleContext<'_>,
        reading: &mut Reading<'_>,
    ) {
        let mut filters = filter::translate(
            &reference.filters,
            Level::Backend,
            matches,
            &format!("{field}.filters"),
            context,
            reading,
        );
        let mut faults = std::mem::take(&mut filters.faults);
        let weight = weight(reference.weight, field, &mut faults);
        let mut backend = backend::weighted(&reference.into(), weight, &context.uses(), field, reading);
        if let Some(finding) = backend.unresolved.take() {
            self.unresolved.push(finding);
        } else if faults.is_empty() {
            self.used.extend(backend.used);
        }
        if let Some(fault) = faults.first() {
            fault.reason.clone_into(&mut backend.resource.invalid_reason);
            self.broken += 1;
        } else {
            backend.resource.filters = filters.filters;
            self.used.extend(filters.used);
            self.unresolved.extend(filters.unresolved);
        }
        self.backends.push(backend.resource);
        self.faults.append(&mut faults);
    }
}

/// A split has a limit of backends.
pub(super) fn too_many(count: usize, field: &str) -> Option<Finding> {
    let message = format!("{count} backends; at most {MAX_BACKENDS} can be told apart");
    (count > MAX_BACKENDS).then(|| Finding::error(field, reasons::UNSUPPORTED_VALUE, message))
}

/// A weight, or the default with a fault.
pub(super) fn weight(weight: i32, field: &str, faults: &mut Vec<Finding>) -> u32 {
    u32::try_from(weight).ok().filter(|weight| *weight <= MAX_WEIGHT).unwrap_or_else(|| {
        let message = format!("weight {weight} is not between 0 and {MAX_WEIGHT}");
        faults.push(Finding::error(format!("{field}.weight"), reasons::UNSUPPORTED_VALUE, message));
        1
    })
}

/// Milliseconds of `request` and `backendRequest`; 0 for none.
fn timeouts(spec: Option<&HttpRouteTimeouts>, field: &str, faults: &mut Vec<Finding>) -> (u64, u64) {
    let Some(spec) = spec else {
        return (0, 0);
    };
    let mut one = |name: &str, text: &Option<String>| {
        match milliseconds(text.as_deref(), &format!("{field}.timeouts.{name}"), faults) {
            // It is asked for that there be none, not for ours.
            Some(0) => u64::MAX,
            asked => asked.unwrap_or(0),
        }
    };
    let request = one("request", &spec.request);
    let backend_request = one("backendRequest", &spec.backend_request);
    if request > 0 && backend_request != u64::MAX && backend_request > request {
        let message = "backendRequest is longer than request".to_owned();
        faults.push(Finding::error(format!("{field}.timeouts"), reasons::UNSUPPORTED_VALUE, message));
    }
    (request, backend_request)
}

/// A duration; `None` where it is not there, or cannot be read, which is a fault.
pub(in crate::translate) fn milliseconds(
    text: Option<&str>,
    field: &str,
    faults: &mut Vec<Finding>,
) -> Option<u64> {
    let text = text?;
    match duration::parse(text).map(|duration| u64::try_from(duration.as_millis())) {
        Some(Ok(milliseconds)) => Some(milliseconds),
        _ => {
            let message = format!("{text:?} is not a duration such as 1h30m, 10s or 500ms");
            faults.push(Finding::error(field, reasons::UNSUPPORTED_VALUE, message));
            None
        }
    }
}

fn retry(spec: &HttpRouteRetry, field: &str, faults: &mut Vec<Finding>) -> Retry {
    let mut codes = Vec::with_capacity(spec.codes.len());
    for (index, code) in spec.codes.iter().enumerate() {
        match u32::try_from(*code).ok().filter(|code| (400..=599).contains(code)) {
            Some(code) if codes.contains(&code) => {}
            Some(code) => codes.push(code),
            None => {
                let message = format!("{code} is not a status of an error");
                let field = format!("{field}.codes[{index}]");
                faults.push(Finding::error(field, reasons::UNSUPPORTED_VALUE, message));
            }
        }
    }
    let attempts =
        spec.attempts.map_or(Some(RETRY_ATTEMPTS_DEFAULT), |attempts| u32::try_from(attempts).ok());
    if attempts.is_none() {
        let message = "a number of attempts cannot be negative".to_owned();
        faults.push(Finding::error(format!("{field}.attempts"), reasons::UNSUPPORTED_VALUE, message));
    }
    let backoff = milliseconds(spec.backoff.as_deref(), &format!("{field}.backoff"), faults);
    Retry {
        codes,
        attempts: attempts.unwrap_or(RETRY_ATTEMPTS_DEFAULT),
        backoff_ms: backoff.unwrap_or(RETRY_BACKOFF_DEFAULT_MS),
    }
}

/// Whether a reference can be used, for what only needs to know that.
pub(super) fn resolved(
    reference: &BackendReference<'_>,
    uses: &Use<'_>,
    field: &str,
    reading: &mut Reading<'_>,
) -> Result<Option<(ObjectKey, PortUse)>, Finding> {
    match backend::resolve(reference, uses, field, reading) {
        Resolved::Usable { service, port } => Ok(Some((service, port))),
        // The route as a whole is held back, so nobody sees this.
        Resolved::Pending => Ok(None),
        Resolved::Invalid(finding) => Err(finding),
    }
}

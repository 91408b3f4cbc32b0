//! One rule of an HTTPRoute.
//!
//! A rule with a fault that cannot be confined answers 500 for what it would match: nothing that the rule asks for is
//! skipped, and no request of its falls through to another rule. A match that cannot be evaluated is left out.

use std::collections::BTreeSet;

use weir_api::condition::reasons;
use weir_api::duration;
use weir_api::route::{HttpBackendRef, HttpRouteRule};
use weir_model::resource::{FilterKind, HttpRule, WeightedBackend};
use weir_model::split::{MAX_BACKENDS, MAX_WEIGHT};

use super::backend::{self, Resolved};
use super::filter::{self, Level};
use super::finding::Finding;
use super::matching;
use super::reading::Reading;
use crate::objects::ObjectKey;

/// A rule, translated.
pub(super) struct RuleOutcome {
    /// `None` when no match of the rule is usable. The split identity is not filled in.
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
    pub(super) backends: BTreeSet<(ObjectKey, u32)>,
}

/// What a rule needs to know of its route.
pub(super) struct RuleContext<'a> {
    pub(super) namespace: &'a str,
    /// `konghq.com/strip-path`.
    pub(super) strip_path: bool,
}

pub(super) fn translate(
    rule: &HttpRouteRule,
    index: usize,
    context: &RuleContext<'_>,
    reading: &mut Reading<'_>,
) -> RuleOutcome {
    let field = format!("spec.rules[{index}]");
    let (matches, mut faults) = matching::translate(&rule.matches, &format!("{field}.matches"));
    let (filters, filter_faults) =
        filter::translate(&rule.filters, Level::Rule, &matches, &format!("{field}.filters"));
    faults.extend(filter_faults);
    let request_timeout_ms = timeout(rule, "request", &field, &mut faults);
    let backend_request_timeout_ms = timeout(rule, "backendRequest", &field, &mut faults);
    if request_timeout_ms > 0 && backend_request_timeout_ms > request_timeout_ms {
        let message = "backendRequest is longer than request".to_owned();
        faults.push(Finding::error(format!("{field}.timeouts"), reasons::UNSUPPORTED_VALUE, message));
    }
    if rule.backend_refs.len() > MAX_BACKENDS {
        let message =
            format!("{} backends; at most {MAX_BACKENDS} can be told apart", rule.backend_refs.len());
        faults.push(Finding::error(format!("{field}.backendRefs"), reasons::UNSUPPORTED_VALUE, message));
    }
    let rule_is_broken = !faults.is_empty();

    let mut refs = Refs::default();
    for (index, reference) in rule.backend_refs.iter().enumerate().take(MAX_BACKENDS) {
        refs.add(reference, &format!("{field}.backendRefs[{index}]"), context, reading);
    }
    if rule_is_broken {
        for backend in &mut refs.backends {
            backend.invalid_reason = reasons::UNSUPPORTED_VALUE.to_owned();
            backend.filters.clear();
        }
        refs.used.clear();
    }
    faults.extend(refs.faults);

    let rewrites_path = filters.iter().any(
        |filter| matches!(&filter.kind, Some(FilterKind::UrlRewrite(rewrite)) if rewrite.path.is_some()),
    );
    let is_dropped =
        rule_is_broken || (!rule.backend_refs.is_empty() && refs.broken == rule.backend_refs.len());
    let translated = HttpRule {
        name: rule.name.clone().unwrap_or_default(),
        split_identity: String::new(),
        matches,
        filters: if rule_is_broken { Vec::new() } else { filters },
        backends: refs.backends,
        request_timeout_ms,
        backend_request_timeout_ms,
        strip_path: context.strip_path && !rewrites_path,
        ..HttpRule::default()
    };
    RuleOutcome {
        rule: (!translated.matches.is_empty()).then_some(translated),
        faults,
        is_dropped,
        unresolved: refs.unresolved,
        notes: not_supported_yet(rule, &field),
        backends: refs.used,
    }
}

/// The references of a rule, as they are gathered.
#[derive(Default)]
struct Refs {
    backends: Vec<WeightedBackend>,
    used: BTreeSet<(ObjectKey, u32)>,
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
        field: &str,
        context: &RuleContext<'_>,
        reading: &mut Reading<'_>,
    ) {
        let (filters, mut faults) =
            filter::translate(&reference.filters, Level::Backend, &[], &format!("{field}.filters"));
        let weight = u32::try_from(reference.weight).ok().filter(|weight| *weight <= MAX_WEIGHT);
        if weight.is_none() {
            let message = format!("weight {} is not between 0 and {MAX_WEIGHT}", reference.weight);
            faults.push(Finding::error(format!("{field}.weight"), reasons::UNSUPPORTED_VALUE, message));
        }
        let mut invalid_reason = match backend::resolve(&reference.backend, context.namespace, field, reading)
        {
            Resolved::Usable { service, port } if faults.is_empty() => {
                self.used.insert((service, port));
                ""
            }
            // Pending: the route as a whole is held back, so nobody sees this.
            Resolved::Usable { .. } | Resolved::Pending => "",
            Resolved::Invalid(finding) => {
                let reason = finding.reason;
                self.unresolved.push(finding);
                reason
            }
        };
        if let Some(fault) = faults.first() {
            invalid_reason = fault.reason;
            self.broken += 1;
        }
        self.backends.push(WeightedBackend {
            weight: weight.unwrap_or(1),
            backend_key: backend::key(&reference.backend, context.namespace),
            invalid_reason: invalid_reason.to_owned(),
            filters: if faults.is_empty() { filters } else { Vec::new() },
        });
        self.faults.append(&mut faults);
    }
}

/// Milliseconds; 0 for none.
fn timeout(rule: &HttpRouteRule, name: &str, field: &str, faults: &mut Vec<Finding>) -> u64 {
    let timeouts = rule.timeouts.as_ref();
    let text = timeouts
        .and_then(|t| if name == "request" { t.request.as_deref() } else { t.backend_request.as_deref() });
    let Some(text) = text else {
        return 0;
    };
    match duration::parse(text).map(|duration| u64::try_from(duration.as_millis())) {
        Some(Ok(milliseconds)) => milliseconds,
        _ => {
            let message = format!("{text:?} is not a duration such as 1h30m, 10s or 500ms");
            faults.push(Finding::error(
                format!("{field}.timeouts.{name}"),
                reasons::UNSUPPORTED_VALUE,
                message,
            ));
            0
        }
    }
}

/// Fields that are read and have no effect so far.
fn not_supported_yet(rule: &HttpRouteRule, field: &str) -> Vec<Finding> {
    [("retry", rule.retry.is_some()), ("sessionPersistence", rule.session_persistence.is_some())]
        .into_iter()
        .filter(|(_, is_set)| *is_set)
        .map(|(name, _)| {
            let message = format!("{name} is not supported yet and has no effect");
            Finding::warning(format!("{field}.{name}"), "NotSupported", message)
        })
        .collect()
}

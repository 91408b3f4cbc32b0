//! Routes, rules and matches compiled: what the request path reads.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use regex::bytes::{Regex, RegexBuilder};

use super::backend::BackendState;
use super::index::Placement;
use crate::limits::{MAX_REGEX_BYTES, MAX_REGEX_NEST};
use crate::path::{normalised, prefix_pattern};
use crate::resource::{HttpMatch, HttpRoute, HttpRule, PathKind, ValueMatch, WeightedBackend};
use crate::rewrite::{CompiledFilter, compile_filters};
use crate::split::{LayoutCache, Split, SplitSpec};

/// A rule ready to run. The same `Arc` for as long as nothing that it says changes.
pub struct CompiledRule {
    /// The route's `<namespace>/<name>`.
    pub route: Arc<str>,
    /// The rule's name, or empty.
    pub name: Arc<str>,
    /// Place in the route.
    pub index: usize,
    /// In the order in which they apply.
    pub filters: Box<[CompiledFilter]>,
    /// In configured order: what [`crate::split::Choice::backend`] is an index of.
    pub backends: Box<[RuleBackend]>,
    pub split: Arc<Split>,
    /// For the whole request, retries included.
    pub request_timeout: Option<Duration>,
    /// For one try.
    pub backend_request_timeout: Option<Duration>,
    /// Remove what the path match matched before the request is forwarded ([`crate::rewrite::strip_path`]).
    pub strip_path: bool,
}

/// A backendRef.
pub struct RuleBackend {
    pub key: Arc<str>,
    /// As configured.
    pub weight: u32,
    pub target: Target,
    pub filters: Box<[CompiledFilter]>,
}

/// What a ticket for a backendRef leads to.
#[derive(Clone)]
pub enum Target {
    Backend(Arc<BackendState>),
    /// The reference is invalid, and why: its tickets are answered with 500.
    Invalid(Arc<str>),
    /// A valid reference to a backend that this snapshot does not have: as invalid until it arrives.
    Unknown,
}

impl RuleBackend {
    /// The backend, if the reference is valid.
    pub fn state(&self) -> Option<&Arc<BackendState>> {
        match &self.target {
            Target::Backend(state) => Some(state),
            Target::Invalid(_) | Target::Unknown => None,
        }
    }

    /// Empty for a valid reference; else a reason from a closed set.
    pub fn invalid_reason(&self) -> Arc<str> {
        match &self.target {
            Target::Backend(_) => Arc::from(""),
            Target::Invalid(reason) => reason.clone(),
            Target::Unknown => Arc::from("BackendUnknown"),
        }
    }
}

/// One alternative of a rule, with everything about the request but the hostname.
pub struct CompiledMatch {
    pub path: PathPattern,
    /// `None` for any.
    pub method: Option<Box<[u8]>>,
    /// All have to hold.
    pub headers: Box<[ValueCondition]>,
    /// All have to hold.
    pub query: Box<[ValueCondition]>,
}

impl CompiledMatch {
    /// Whether only the path decides.
    pub(crate) fn is_unconditional(&self) -> bool {
        self.method.is_none() && self.headers.is_empty() && self.query.is_empty()
    }
}

#[derive(Clone)]
pub enum PathPattern {
    Exact(Arc<[u8]>),
    /// Without trailing slashes; empty for `/`.
    Prefix(Arc<[u8]>),
    Regex(Box<PathRegex>),
}

impl PathPattern {
    /// Whether both are found at the same place of a table.
    pub(crate) fn same_place(&self, other: &PathPattern) -> bool {
        match (self, other) {
            (PathPattern::Exact(a), PathPattern::Exact(b))
            | (PathPattern::Prefix(a), PathPattern::Prefix(b)) => a == b,
            (PathPattern::Regex(_), PathPattern::Regex(_)) => true,
            _ => false,
        }
    }
}

/// The kind and the pattern: `PathPrefix /foo`.
impl std::fmt::Display for PathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PathPattern::Exact(path) => write!(f, "Exact {}", String::from_utf8_lossy(path)),
            PathPattern::Prefix(path) if path.is_empty() => f.write_str("PathPrefix /"),
            PathPattern::Prefix(path) => write!(f, "PathPrefix {}", String::from_utf8_lossy(path)),
            PathPattern::Regex(regex) => write!(f, "RegularExpression {}", regex.pattern),
        }
    }
}

#[derive(Clone)]
pub struct PathRegex {
    /// As configured.
    pub pattern: Arc<str>,
    /// Of the pattern.
    pub characters: usize,
    /// What every matching path begins with: read off the pattern, to pass over most candidates cheaply.
    pub literal_prefix: Box<[u8]>,
    /// Anchored at both ends.
    pub regex: Regex,
}

/// A condition on a header or a query parameter.
pub struct ValueCondition {
    /// Headers: lower case.
    pub name: Box<str>,
    pub value: ValuePattern,
}

pub enum ValuePattern {
    Exact(Box<[u8]>),
    /// Anchored at both ends.
    Regex(Regex),
}

/// A route with all of its rules.
pub struct CompiledRoute {
    /// The resource, encoded: a third of the size of the message, and asked for only when the route is touched.
    source: Box<[u8]>,
    pub(crate) rules: Vec<RuleEntry>,
    /// Where its alternatives stand in the tables.
    pub(crate) placements: Box<[Placement]>,
}

#[derive(Clone)]
pub(crate) struct RuleEntry {
    pub(crate) rule: Arc<CompiledRule>,
    pub(crate) matches: Arc<[Arc<CompiledMatch>]>,
}

/// What a route is compiled in.
pub(crate) struct RuleContext<'a> {
    pub(crate) seed: u64,
    /// The epoch of splits that begin now.
    pub(crate) epoch: u64,
    pub(crate) layouts: &'a LayoutCache,
    pub(crate) backend: &'a dyn Fn(&str) -> Option<Arc<BackendState>>,
}

/// Work that was done, to hold the promise that an edit's cost does not depend on what else there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteWork {
    pub(crate) rules_compiled: usize,
    pub(crate) rules_kept: usize,
}

impl CompiledRoute {
    /// `before` is the route's last compiled form: rules that say the same are taken from it, splits of rules with the same
    /// identity go on.
    pub(crate) fn compile(
        source: &HttpRoute,
        before: Option<(&HttpRoute, &CompiledRoute)>,
        context: &RuleContext<'_>,
        work: &mut RouteWork,
    ) -> Result<CompiledRoute, String> {
        let id = match before.and_then(|(_, before)| before.rules.first()) {
            // A route's key is its name, so this cannot have changed.
            Some(entry) => entry.rule.route.clone(),
            None => Arc::from(format!("{}/{}", source.namespace, source.name)),
        };
        let mut old = before.map(|(source, compiled)| compiled.predecessors(source)).unwrap_or_default();
        let mut rules = Vec::with_capacity(source.rules.len());
        for (index, rule) in source.rules.iter().enumerate() {
            // Each old rule continues in one new rule at most.
            let predecessor = old
                .iter_mut()
                .find(|old| old.is_some_and(|old| old.source.split_identity == rule.split_identity))
                .and_then(Option::take);
            let targets: Vec<Target> = rule.backends.iter().map(|backend| target(backend, context)).collect();
            match predecessor {
                Some(old) if old.says_the_same(rule, index, &targets) => {
                    work.rules_kept += 1;
                    rules.push(old.entry.clone());
                }
                _ => {
                    work.rules_compiled += 1;
                    let entry = compile_rule(rule, index, &id, targets, predecessor, context)
                        .map_err(|reason| format!("rule {index}: {reason}"))?;
                    rules.push(entry);
                }
            }
        }
        Ok(CompiledRoute { source: encoded(source), rules, placements: Box::default() })
    }

    pub(crate) fn is(&self, source: &HttpRoute) -> bool {
        self.source == encoded(source)
    }

    /// The resource that it was compiled from. (It was encoded here, so it can be decoded.)
    pub(crate) fn source(&self) -> Option<HttpRoute> {
        HttpRoute::decode(&*self.source).ok()
    }

    fn predecessors<'a>(&'a self, source: &'a HttpRoute) -> Vec<Option<Predecessor<'a>>> {
        let pairs = source.rules.iter().zip(&self.rules);
        pairs.map(|(source, entry)| Some(Predecessor { source, entry })).collect()
    }
}

fn encoded(source: &HttpRoute) -> Box<[u8]> {
    source.encode_to_vec().into()
}

fn target(backend: &WeightedBackend, context: &RuleContext<'_>) -> Target {
    if !backend.invalid_reason.is_empty() {
        return Target::Invalid(Arc::from(backend.invalid_reason.as_str()));
    }
    match (context.backend)(&backend.backend_key) {
        Some(state) => Target::Backend(state),
        None => Target::Unknown,
    }
}

/// A rule as it was before an edit.
#[derive(Clone, Copy)]
struct Predecessor<'a> {
    source: &'a HttpRule,
    entry: &'a RuleEntry,
}

impl Predecessor<'_> {
    fn says_the_same(&self, rule: &HttpRule, index: usize, targets: &[Target]) -> bool {
        let old = &self.entry.rule;
        let same_target = |(backend, target): (&RuleBackend, &Target)| match (&backend.target, target) {
            (Target::Backend(a), Target::Backend(b)) => Arc::ptr_eq(a, b),
            (Target::Invalid(a), Target::Invalid(b)) => a == b,
            (Target::Unknown, Target::Unknown) => true,
            _ => false,
        };
        old.index == index && *self.source == *rule && old.backends.iter().zip(targets).all(same_target)
    }
}

fn compile_rule(
    source: &HttpRule,
    index: usize,
    route: &Arc<str>,
    targets: Vec<Target>,
    before: Option<Predecessor<'_>>,
    context: &RuleContext<'_>,
) -> Result<RuleEntry, String> {
    let matches = match before {
        Some(old) if old.source.matches == source.matches => old.entry.matches.clone(),
        _ => {
            let compiled: Result<Vec<_>, String> = source.matches.iter().map(compile_match).collect();
            Arc::from(compiled?)
        }
    };
    let mut backends = Vec::with_capacity(targets.len());
    for (backend, target) in source.backends.iter().zip(targets) {
        backends.push(RuleBackend {
            key: match &target {
                Target::Backend(state) => state.key.clone(),
                Target::Invalid(_) | Target::Unknown => Arc::from(backend.backend_key.as_str()),
            },
            weight: backend.weight,
            target,
            filters: compile_filters(&backend.filters)?,
        });
    }
    let split = split(source, route, &backends, before, context)?;
    let rule = CompiledRule {
        route: route.clone(),
        name: Arc::from(source.name.as_str()),
        index,
        filters: compile_filters(&source.filters)?,
        backends: backends.into(),
        split,
        request_timeout: timeout(source.request_timeout_ms),
        backend_request_timeout: timeout(source.backend_request_timeout_ms),
        strip_path: source.strip_path,
    };
    Ok(RuleEntry { rule: Arc::new(rule), matches })
}

fn split(
    source: &HttpRule,
    route: &str,
    backends: &[RuleBackend],
    before: Option<Predecessor<'_>>,
    context: &RuleContext<'_>,
) -> Result<Arc<Split>, String> {
    let keys: Vec<Arc<str>> = backends.iter().map(|backend| backend.key.clone()).collect();
    let weights: Vec<u32> = backends.iter().map(|backend| backend.weight).collect();
    if let Some(before) = before
        && before.entry.rule.split.continues(&keys, &weights)
    {
        return Ok(before.entry.rule.split.clone());
    }
    // The route's name keeps rules apart whose identities are equal by mistake.
    let identity = format!("{route}\0{}", source.split_identity);
    let spec = SplitSpec {
        seed: context.seed,
        identity: &identity,
        epoch: context.epoch,
        backends: &keys,
        weights: &weights,
    };
    let split = match before {
        Some(before) => before.entry.rule.split.successor(&spec, context.layouts),
        None => Split::new(&spec, context.layouts),
    };
    split.map(Arc::new).map_err(|error| error.to_string())
}

fn timeout(milliseconds: u64) -> Option<Duration> {
    (milliseconds != 0).then(|| Duration::from_millis(milliseconds))
}

/// A match, ready to be tried. The error says which part cannot be compiled; an update with such a match would be
/// rejected for the same reason.
pub fn compile_match(source: &HttpMatch) -> Result<Arc<CompiledMatch>, String> {
    let kind = PathKind::try_from(source.path_kind)
        .map_err(|_| format!("path match type {} is not known to this release", source.path_kind))?;
    let configured = if source.path.is_empty() { "/" } else { source.path.as_str() };
    let normal = || normalised(configured).map_err(|error| format!("path `{configured}`: {error}"));
    let path = match kind {
        PathKind::Exact => PathPattern::Exact(Arc::from(normal()?)),
        PathKind::GrpcMethod => return Err("path match type 3 is not known to this release".to_owned()),
        PathKind::Prefix => PathPattern::Prefix(Arc::from(prefix_pattern(&normal()?))),
        PathKind::RegularExpression => PathPattern::Regex(Box::new(PathRegex {
            pattern: Arc::from(configured),
            characters: configured.chars().count(),
            literal_prefix: literal_prefix(configured).into(),
            regex: anchored(configured).map_err(|error| format!("path `{configured}`: {error}"))?,
        })),
    };
    Ok(Arc::new(CompiledMatch {
        path,
        method: (!source.method.is_empty()).then(|| source.method.as_bytes().into()),
        headers: compile_conditions(&source.headers, str::to_ascii_lowercase)?,
        query: compile_conditions(&source.query, str::to_owned)?,
    }))
}

/// Of conditions on the same name only the first counts (API: `HTTPHeaderMatch.name`, `HTTPQueryParamMatch.name`).
fn compile_conditions(
    sources: &[ValueMatch],
    spell: impl Fn(&str) -> String,
) -> Result<Box<[ValueCondition]>, String> {
    let mut conditions: Vec<ValueCondition> = Vec::with_capacity(sources.len());
    for source in sources {
        let name = spell(&source.name);
        if conditions.iter().any(|condition| *condition.name == *name) {
            continue;
        }
        let value = if source.regex {
            let regex = anchored(&source.value).map_err(|error| format!("`{name}`: {error}"))?;
            ValuePattern::Regex(regex)
        } else {
            ValuePattern::Exact(source.value.as_bytes().into())
        };
        conditions.push(ValueCondition { name: name.into(), value });
    }
    Ok(conditions.into())
}

/// Bytes, not characters, unless the pattern needs characters: a request may carry any bytes, and `.` has to match them.
fn anchored(pattern: &str) -> Result<Regex, String> {
    // The pattern alone first: what is wrong inside it must not be made right by the parentheses around it.
    regex_syntax_check(pattern)?;
    let whole = format!("^(?:{pattern})$");
    let build = |unicode| {
        RegexBuilder::new(&whole)
            .unicode(unicode)
            .size_limit(MAX_REGEX_BYTES)
            .dfa_size_limit(MAX_REGEX_BYTES)
            .nest_limit(MAX_REGEX_NEST)
            .build()
    };
    build(false).or_else(|_| build(true)).map_err(|error| error.to_string())
}

fn regex_syntax_check(pattern: &str) -> Result<(), String> {
    let build = |unicode| {
        RegexBuilder::new(pattern)
            .unicode(unicode)
            .size_limit(MAX_REGEX_BYTES)
            .nest_limit(MAX_REGEX_NEST)
            .build()
            .map(|_| ())
    };
    build(false).or_else(|_| build(true)).map_err(|error| error.to_string())
}

/// The characters that every match begins with, as far as they are plain to see.
fn literal_prefix(pattern: &str) -> &[u8] {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    // An alternation may begin otherwise.
    if pattern.contains('|') {
        return b"";
    }
    let end =
        pattern.find(|c: char| r"\.+*?()[]{}^$#&~".contains(c) || !c.is_ascii()).unwrap_or(pattern.len());
    // The last character may be repeated zero times.
    let optional = pattern[end..].starts_with(['*', '?', '{']);
    &pattern.as_bytes()[..if optional { end.saturating_sub(1) } else { end }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_literal_prefix_is_a_prefix_of_every_match() {
        for (pattern, expected) in [
            ("/api/v[0-9]+/.*", "/api/v"),
            ("^/a/b$", "/a/b"),
            ("/ab?c", "/a"),
            ("/ab*", "/a"),
            ("/ab{0,2}", "/a"),
            ("/ab+", "/ab"),
            ("/a|/b", ""),
            ("(?i)/a", ""),
            (r"/a\d", "/a"),
            ("/.*", "/"),
            ("", ""),
        ] {
            assert_eq!(literal_prefix(pattern), expected.as_bytes(), "{pattern}");
        }
    }

    #[test]
    fn patterns_are_anchored_at_both_ends_and_match_bytes() {
        let regex = anchored("/a|/b").unwrap();
        assert!(regex.is_match(b"/a") && regex.is_match(b"/b"));
        assert!(!regex.is_match(b"/ax") && !regex.is_match(b"x/b") && !regex.is_match(b"/a\n"));
        assert!(anchored("/.*").unwrap().is_match(b"/\xff\xfe"));
        assert!(anchored("/[é]").unwrap().is_match("/é".as_bytes()));
    }

    #[test]
    fn patterns_that_are_wrong_alone_or_too_large_are_refused() {
        for bad in ["(", "a)(b", "[", r"\", "(?:a{1000}){1000}", "a)|(?:b"] {
            assert!(anchored(bad).is_err(), "{bad}");
        }
    }
}

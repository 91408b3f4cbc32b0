//! Routes and rules compiled: what the request path reads.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;

use super::backend::BackendState;
use super::index::Placement;
use super::matching::{CompiledMatch, compile_match};
use crate::filter::{self, CompiledFilter, FilterContext, compile_filters};
use crate::resource::{HttpMatch, HttpRoute, HttpRule, WeightedBackend};
use crate::retry::RetryPolicy;
use crate::session::Session;
use crate::split::{LayoutCache, Split, SplitSpec};

/// What kind of object a rule is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    Http,
    Grpc,
    Tls,
    Tcp,
    Udp,
}

impl RouteKind {
    const ALL: [RouteKind; 5] =
        [RouteKind::Http, RouteKind::Grpc, RouteKind::Tls, RouteKind::Tcp, RouteKind::Udp];

    /// As in resource keys: `httproute`.
    pub fn name(self) -> &'static str {
        match self {
            RouteKind::Http => "httproute",
            RouteKind::Grpc => "grpcroute",
            RouteKind::Tls => "tlsroute",
            RouteKind::Tcp => "tcproute",
            RouteKind::Udp => "udproute",
        }
    }

    /// As in the API: `HTTPRoute`.
    pub fn api_name(self) -> &'static str {
        match self {
            RouteKind::Http => "HTTPRoute",
            RouteKind::Grpc => "GRPCRoute",
            RouteKind::Tls => "TLSRoute",
            RouteKind::Tcp => "TCPRoute",
            RouteKind::Udp => "UDPRoute",
        }
    }

    /// Whether it is about connections or flows, not requests.
    pub fn is_l4(self) -> bool {
        matches!(self, RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp)
    }

    /// Of a route with this key.
    pub(crate) fn of_key(key: &str) -> Option<RouteKind> {
        let (kind, _) = key.split_once('/')?;
        RouteKind::ALL.into_iter().find(|known| known.name() == kind)
    }
}

/// A rule ready to run. The same `Arc` for as long as nothing that it says changes.
///
/// Rules of TLS, TCP and UDP routes are of this form too: a connection or flow takes a ticket of `split` as a request does, and
/// whatever is about HTTP is empty.
pub struct CompiledRule {
    /// The route's `<namespace>/<name>`.
    pub route: Arc<str>,
    pub kind: RouteKind,
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
    pub retry: Option<Arc<RetryPolicy>>,
    /// The rule's own: [`CompiledRule::session`] says what holds.
    pub own_session: Option<Arc<Session>>,
    /// Names the rule among all, in this snapshot and the next.
    pub identity: Box<str>,
    /// There is more to do than to change heads: retries, sessions, retry budgets, or filters that act by themselves.
    pub has_extras: bool,
}

impl CompiledRule {
    /// Whether the gateway's own errors are gRPC's.
    pub fn is_grpc(&self) -> bool {
        self.kind == RouteKind::Grpc
    }

    /// How requests to this backend (an index into [`CompiledRule::backends`]) are kept on it: as the rule says, else as the backend does.
    pub fn session(&self, backend: usize) -> Option<Arc<Session>> {
        let of_backend = || self.backends.get(backend)?.state()?.settings().session.clone();
        self.own_session.clone().or_else(of_backend)
    }

    /// Filters of the rule and of all of its backends.
    fn all_filters(&self) -> impl Iterator<Item = &CompiledFilter> {
        self.filters.iter().chain(self.backends.iter().flat_map(|backend| &backend.filters))
    }
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

impl Target {
    pub fn backend(&self) -> Option<&Arc<BackendState>> {
        match self {
            Target::Backend(state) => Some(state),
            Target::Invalid(_) | Target::Unknown => None,
        }
    }

    /// Empty for a valid reference; else a reason from a closed set.
    pub fn invalid_reason(&self) -> Arc<str> {
        match self {
            Target::Backend(_) => Arc::from(""),
            Target::Invalid(reason) => reason.clone(),
            Target::Unknown => Arc::from("BackendUnknown"),
        }
    }

    /// Whether both are the same thing.
    fn is(&self, other: &Target) -> bool {
        match (self, other) {
            (Target::Backend(a), Target::Backend(b)) => Arc::ptr_eq(a, b),
            (Target::Invalid(a), Target::Invalid(b)) => a == b,
            (Target::Unknown, Target::Unknown) => true,
            _ => false,
        }
    }
}

impl RuleBackend {
    /// The backend, if the reference is valid.
    pub fn state(&self) -> Option<&Arc<BackendState>> {
        self.target.backend()
    }

    /// Empty for a valid reference; else a reason from a closed set.
    pub fn invalid_reason(&self) -> Arc<str> {
        self.target.invalid_reason()
    }
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

impl RuleContext<'_> {
    pub(crate) fn target(&self, key: &str, invalid_reason: &str) -> Target {
        if !invalid_reason.is_empty() {
            return Target::Invalid(Arc::from(invalid_reason));
        }
        match (self.backend)(key) {
            Some(state) => Target::Backend(state),
            None => Target::Unknown,
        }
    }
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
        kind: RouteKind,
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
            let target =
                |backend: &WeightedBackend| context.target(&backend.backend_key, &backend.invalid_reason);
            let targets: Vec<Target> = rule.backends.iter().map(target).collect();
            match predecessor {
                Some(old) if old.says_the_same(rule, index, &targets, context) => {
                    work.rules_kept += 1;
                    rules.push(old.entry.clone());
                }
                _ => {
                    work.rules_compiled += 1;
                    let place = Place { kind, route: &id, index };
                    let entry = compile_rule(rule, &place, targets, predecessor, context)
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

/// Which rule of which route.
struct Place<'a> {
    kind: RouteKind,
    route: &'a Arc<str>,
    index: usize,
}

/// A rule as it was before an edit.
#[derive(Clone, Copy)]
struct Predecessor<'a> {
    source: &'a HttpRule,
    entry: &'a RuleEntry,
}

impl Predecessor<'_> {
    fn says_the_same(
        &self,
        rule: &HttpRule,
        index: usize,
        targets: &[Target],
        context: &RuleContext<'_>,
    ) -> bool {
        let old = &self.entry.rule;
        let same_filter = |filter| match filter::target(filter) {
            // What a filter says of itself is compared with the rule.
            None | Some((_, Target::Invalid(_))) => true,
            Some((key, target)) => target.is(&context.target(key, "")),
        };
        old.index == index
            && *self.source == *rule
            && old.backends.iter().zip(targets).all(|(backend, target)| backend.target.is(target))
            && old.all_filters().all(same_filter)
    }
}

fn compile_rule(
    source: &HttpRule,
    place: &Place<'_>,
    targets: Vec<Target>,
    before: Option<Predecessor<'_>>,
    context: &RuleContext<'_>,
) -> Result<RuleEntry, String> {
    let matches = match before {
        Some(old) if old.source.matches == source.matches => old.entry.matches.clone(),
        _ if place.kind.is_l4() => Arc::from([compile_match(&HttpMatch::default())?]),
        _ => source.matches.iter().map(compile_match).collect::<Result<_, _>>()?,
    };
    let filters = FilterContext {
        rule: context,
        route: place.route,
        before: before.iter().flat_map(|old| old.entry.rule.all_filters()).collect(),
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
            filters: compile_filters(&backend.filters, &filters)?,
        });
    }
    let split = split(source, place.route, &backends, before, context)?;
    let rule_filters = compile_filters(&source.filters, &filters)?;
    let asks_more = |backend: &RuleBackend| {
        let of_backend = |state: &Arc<BackendState>| state.settings().asks_more();
        backend.state().is_some_and(of_backend) || backend.filters.iter().any(CompiledFilter::acts)
    };
    let rule = CompiledRule {
        identity: format!("{}\0{}", place.route, source.split_identity).into(),
        has_extras: source.retry.is_some()
            || source.session_persistence.is_some()
            || rule_filters.iter().any(CompiledFilter::acts)
            || backends.iter().any(asks_more),
        route: place.route.clone(),
        kind: place.kind,
        name: Arc::from(source.name.as_str()),
        index: place.index,
        filters: rule_filters,
        backends: backends.into(),
        split,
        request_timeout: timeout(source.request_timeout_ms),
        backend_request_timeout: timeout(source.backend_request_timeout_ms),
        strip_path: source.strip_path,
        retry: source.retry.as_ref().map(RetryPolicy::compile).transpose()?.map(Arc::new),
        own_session: source.session_persistence.as_ref().map(Session::compile).transpose()?.map(Arc::new),
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

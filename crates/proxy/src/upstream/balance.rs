//! Endpoint choice inside one backend.
//!
//! Two candidates are looked at, the next in turn and one drawn at random, and the one with fewer requests in
//! flight is taken; at equal load the turn decides, so an idle backend is served round robin. In-flight counts are shared by all workers.
//! Endpoints that failed a moment ago are passed over while any other is left.
//!
//! Deliberately absent: weights (they belong to backends) and active health checks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use smallvec::SmallVec;
use weir_model::table::{EndpointSet, EndpointState};

/// Endpoints that one request has tried in vain.
pub(crate) type Tried = SmallVec<[Arc<EndpointState>; 4]>;

/// A request in flight at an endpoint; ends when dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<EndpointState>);

impl InFlight {
    fn new(endpoint: Arc<EndpointState>) -> InFlight {
        endpoint.in_flight.fetch_add(1, Relaxed);
        InFlight(endpoint)
    }

    pub(crate) fn endpoint(&self) -> &Arc<EndpointState> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// Chooses an endpoint that is not among `tried`, `preferred` before any other; `random` is any number.
pub(crate) fn choose(
    set: &EndpointSet,
    preferred: Option<SocketAddr>,
    tried: &Tried,
    random: u64,
    now_millis: u64,
) -> Option<InFlight> {
    if let Some(address) = preferred
        && let Some(endpoint) = set.find(address)
        && !is_tried(tried, endpoint)
    {
        return Some(InFlight::new(endpoint.clone()));
    }
    let count = set.endpoints.len();
    if count < 2 {
        return from(set, tried, 0, now_millis).map(|only| InFlight::new(only.clone()));
    }
    let turn = set.turn.fetch_add(1, Relaxed);
    let first = from(set, tried, turn, now_millis)?;
    // Of the others: 1..count steps on.
    let step = 1 + usize::try_from(random).unwrap_or(usize::MAX) % (count - 1);
    let second = &set.endpoints[(turn % count + step) % count];
    let better = !is_tried(tried, second)
        && !is_avoided(second, now_millis)
        && second.in_flight.load(Relaxed) < first.in_flight.load(Relaxed);
    Some(InFlight::new(if better { second.clone() } else { first.clone() }))
}

/// The first usable endpoint at or after `turn`; one that is avoided only if there is no other.
fn from<'a>(
    set: &'a EndpointSet,
    tried: &Tried,
    turn: usize,
    now_millis: u64,
) -> Option<&'a Arc<EndpointState>> {
    let count = set.endpoints.len();
    let mut avoided = None;
    for offset in 0..count {
        let endpoint = &set.endpoints[(turn % count + offset) % count];
        if is_tried(tried, endpoint) {
            continue;
        }
        if !is_avoided(endpoint, now_millis) {
            return Some(endpoint);
        }
        avoided = avoided.or(Some(endpoint));
    }
    avoided
}

/// Once all endpoints were tried in vain, only the last of them is passed over, if there is another.
pub(crate) fn leave_a_choice(set: &EndpointSet, tried: &mut Tried) {
    if set.endpoints.iter().any(|endpoint| !is_tried(tried, endpoint)) {
        return;
    }
    let last = tried.pop().filter(|_| set.endpoints.len() > 1);
    tried.clear();
    tried.extend(last);
}

/// Whether there is an endpoint that did not fail a moment ago.
pub(crate) fn has_fresh(set: &EndpointSet, tried: &Tried, now_millis: u64) -> bool {
    set.endpoints.iter().any(|endpoint| !is_avoided(endpoint, now_millis) && !is_tried(tried, endpoint))
}

fn is_tried(tried: &Tried, endpoint: &Arc<EndpointState>) -> bool {
    tried.iter().any(|other| Arc::ptr_eq(other, endpoint))
}

fn is_avoided(endpoint: &EndpointState, now_millis: u64) -> bool {
    endpoint.avoid_until_millis.load(Relaxed) > now_millis
}

/// The endpoint answered.
pub(crate) fn succeeded(endpoint: &EndpointState) {
    // Read first: a line that nobody writes stays in every core's cache.
    if endpoint.failures.load(Relaxed) != 0 {
        endpoint.failures.store(0, Relaxed);
        endpoint.avoid_until_millis.store(0, Relaxed);
    }
}

/// The endpoint took no connection, or closed one without an answer: it is passed over for `avoid`.
pub(crate) fn failed(endpoint: &EndpointState, now_millis: u64, avoid: Duration) {
    endpoint.failures.fetch_add(1, Relaxed);
    let until = now_millis.saturating_add(u64::try_from(avoid.as_millis()).unwrap_or(u64::MAX));
    endpoint.avoid_until_millis.store(until, Relaxed);
}

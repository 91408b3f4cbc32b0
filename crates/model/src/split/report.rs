//! What a split did, for people and metrics: never on the request path.
//!
//! The largest deviation is found by replaying the pure function from the last ticket that was looked at. Whole
//! periods are looked at in one step where the law allows it; a report does a bounded number of steps
//! ([`ReplayBudget`]) and says how far it came.

use std::borrow::Cow;
use std::sync::{Arc, PoisonError};

use super::layout::{Layout, TwoWay};
use super::{Split, SplitRule};
use crate::table::RouteKind;

/// Steps of replay that may still be done. One step is a ticket, a ticket of the lighter of two backends, or a period of a
/// layout: 5 to 500 ns.
#[derive(Clone, Copy, Debug)]
pub struct ReplayBudget {
    pub steps: u64,
}

impl ReplayBudget {
    /// What each of so many rules may spend in one report of all: some 0.1 s together, unless they are thousands.
    pub fn fair(rules: usize) -> ReplayBudget {
        const TOGETHER: u64 = 1 << 20;
        const LEAST: u64 = 1 << 8;
        ReplayBudget { steps: (TOGETHER / (rules as u64).max(1)).max(LEAST) }
    }
}

impl Default for ReplayBudget {
    fn default() -> Self {
        ReplayBudget::fair(1)
    }
}

/// One rule's split so far.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitReport {
    /// `<namespace>/<name>`; empty for a split outside a snapshot.
    pub route: Arc<str>,
    /// Names are unique within a kind only.
    pub kind: RouteKind,
    /// The rule's name, or empty.
    pub rule: Arc<str>,
    /// Place of the rule in its route.
    pub rule_index: usize,
    pub epoch: u64,
    /// Taken in this epoch.
    pub tickets: u64,
    /// Tickets of one period; 0 when all weights are zero.
    pub period: u64,
    pub backends: Vec<BackendShare>,
    /// The largest `|served_i - n w_i / W|` over all backends and over every prefix `n <= deviation_checked`.
    pub max_deviation: f64,
    /// Tickets up to which `max_deviation` was determined; less than `tickets` only when a report ran out of its budget.
    pub deviation_checked: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BackendShare {
    /// The backend's key.
    pub backend: Arc<str>,
    /// As configured.
    pub weight: u32,
    /// In this epoch.
    pub served: u64,
    /// Since the rule appeared, over all epochs: never goes back.
    pub served_total: u64,
    /// Not empty: the reference is invalid, and why.
    pub invalid_reason: Arc<str>,
}

impl SplitReport {
    /// Names the route among all kinds: as it is for an HTTPRoute, else with its kind, `tcproute/<namespace>/<name>`.
    pub fn route_label(&self) -> Cow<'_, str> {
        match self.kind {
            RouteKind::Http => Cow::Borrowed(&self.route),
            kind => Cow::Owned(format!("{}/{}", kind.name(), self.route)),
        }
    }
}

/// How far the replay came.
pub(super) struct Observer {
    /// Tickets looked at.
    tickets: u64,
    /// Three or more backends: served in the period that is under way, by member.
    in_period: Box<[u64]>,
    /// Two backends: tickets of the lighter one that were looked at.
    lighter: u64,
    /// Times `W`.
    largest: u64,
}

impl Observer {
    pub(super) fn new(rule: &SplitRule) -> Observer {
        let members = if matches!(rule.layout, Layout::Many(_)) { rule.members.len() } else { 0 };
        Observer { tickets: 0, in_period: vec![0; members].into(), lighter: 0, largest: 0 }
    }
}

impl Split {
    /// Counts and the largest deviation so far. `weights` are the configured ones, in order.
    pub fn report(&self, weights: &[u32], budget: &mut ReplayBudget) -> SplitReport {
        // First the tickets: what is served later is more than it, never less.
        let tickets = self.tickets();
        let period = self.period();
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        self.rule.replay(&mut observer, tickets, &member_weights(&self.weights), budget);
        let history =
            self.history.as_ref().map(|history| history.lock().unwrap_or_else(PoisonError::into_inner));
        let earlier = |key: &str| history.as_ref().map_or(0, |history| history.served(key));
        let backends = self.backends.iter().enumerate().map(|(index, key)| {
            let served = self.tally.served(index);
            // A key that occurs twice in a rule has one total.
            let here: u64 = (0..self.backends.len())
                .filter(|&other| self.backends[other] == *key)
                .map(|other| self.tally.served(other))
                .sum();
            BackendShare {
                backend: key.clone(),
                weight: weights.get(index).copied().unwrap_or(0),
                served,
                served_total: earlier(key) + here,
                invalid_reason: Arc::from(""),
            }
        });
        SplitReport {
            route: Arc::from(""),
            kind: RouteKind::Http,
            rule: Arc::from(""),
            rule_index: 0,
            epoch: self.epoch,
            tickets,
            period,
            backends: backends.collect(),
            max_deviation: if period == 0 { 0.0 } else { observer.largest as f64 / period as f64 },
            deviation_checked: observer.tickets,
        }
    }
}

fn member_weights(reduced: &[u32]) -> Vec<u64> {
    reduced.iter().copied().filter(|&weight| weight > 0).map(u64::from).collect()
}

impl SplitRule {
    fn replay(&self, seen: &mut Observer, tickets: u64, weights: &[u64], budget: &mut ReplayBudget) {
        match &self.layout {
            Layout::Nothing | Layout::One => seen.tickets = tickets,
            Layout::Pair(law) => replay_pair(law, self.key, seen, tickets, budget),
            Layout::Many(_) => self.replay_many(seen, tickets, weights, budget),
        }
    }

    fn replay_many(&self, seen: &mut Observer, tickets: u64, weights: &[u64], budget: &mut ReplayBudget) {
        let total: u64 = weights.iter().sum();
        let slots = match &self.layout {
            Layout::Many(shape) => shape.slots(),
            _ => None,
        };
        while seen.tickets < tickets {
            if let Some(slots) = slots
                && seen.largest >= u64::from(slots.deviations().largest)
            {
                // No period can be worse.
                seen.tickets = tickets;
                return;
            }
            if budget.steps == 0 {
                return;
            }
            budget.steps -= 1;
            let rank = seen.tickets % total;
            if let Some(slots) = slots
                && rank == 0
                && tickets - seen.tickets >= total
            {
                let phase = slots.phase(self.key, seen.tickets / total);
                let largest = slots.deviations().by_phase.get(phase).copied().unwrap_or(0);
                seen.largest = seen.largest.max(u64::from(largest));
                seen.tickets += total;
            } else {
                self.one_ticket(seen, rank, weights, total);
            }
        }
    }

    fn one_ticket(&self, seen: &mut Observer, rank: u64, weights: &[u64], total: u64) {
        if let Some(served) = self.member(seen.tickets).and_then(|member| seen.in_period.get_mut(member)) {
            *served += 1;
        }
        seen.tickets += 1;
        // Both terms are at most 255,000,000 squared. Whole periods are exact, so the rank in this one is enough.
        for (served, weight) in seen.in_period.iter().zip(weights) {
            seen.largest = seen.largest.max((served * total).abs_diff((rank + 1) * weight));
        }
        if rank + 1 == total {
            seen.in_period.fill(0);
        }
    }
}

/// Between two tickets of the lighter side its error only falls, so the worst prefixes are those that end just before and
/// just after one, and the last of all. (The other side's error is the same with the opposite sign.)
fn replay_pair(law: &TwoWay, key: u64, seen: &mut Observer, tickets: u64, budget: &mut ReplayBudget) {
    let (weight, total) = (law.lighter(), law.total());
    // Times `W`, of a prefix with that many tickets of the lighter side. Below `W`, as no prefix is off by 1.
    let error = |prefix: u64, lighter: u64| {
        let served = u128::from(lighter) * u128::from(total);
        served.abs_diff(u128::from(prefix) * u128::from(weight)) as u64
    };
    while seen.tickets < tickets {
        if seen.largest >= total - 1 {
            // No prefix can be worse.
            seen.tickets = tickets;
            return;
        }
        if budget.steps == 0 {
            return;
        }
        budget.steps -= 1;
        let place = law.ticket_of(key, seen.lighter);
        let worst = if place < tickets {
            let worst = error(place, seen.lighter).max(error(place + 1, seen.lighter + 1));
            seen.lighter += 1;
            seen.tickets = place + 1;
            worst
        } else {
            seen.tickets = tickets;
            error(tickets, seen.lighter)
        };
        seen.largest = seen.largest.max(worst);
    }
}

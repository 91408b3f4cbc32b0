//! Split: which backend the next request of a rule is given.
//!
//! Each request that chooses a backend for the first time takes one ticket `n` (0, 1, 2, ...) from one counter of the
//! rule, shared by all threads. The backend is a pure function of (seed, epoch, n); an epoch begins, with `n = 0`, when the
//! rule's backends (keys, in order) or its reduced weights (divided by their greatest common divisor) change. With
//! weights `w_i` (reduced) and their sum `W`:
//!
//! - **Exact per period:** of the tickets `mW .. (m + 1)W` backend `i` gets exactly `w_i`.
//! - **Exact on the way:** after every prefix, `|served_i - n w_i / W|` is below 1 for two backends, below 2 where
//!   `W <= 4096`, below 3 otherwise. (Proofs: [`layout`].)
//! - **No resonance:** places are drawn anew in each period, and where the law allows it every few tickets; each position
//!   of each period falls to backend `i` with probability `w_i / W`, independently of other periods. A client that always sends a page and
//!   `m - 1` assets sees each backend on the page in its share.
//! - **Any window**, wherever it starts: its count is within 1 (two backends) or 3 (more, `W <= 4096`) of its share, the share being
//!   rounded to the nearer whole number on that side.
//! - Weight 0 is never chosen; all zero: nothing is.
//!
//! A backend that cannot be used (an invalid reference, no endpoints) takes its tickets like any other: what it is
//! answered with is not decided here.
//!
//! Invariants: [`Split::next`] does not lock, allocate or loop over tickets; its only shared write besides the served
//! counter is one `fetch_add`, so threads cannot see anything but one sequence. Everything is the same on every machine
//! for the same seed, epoch and weights.
//!
//! Deliberately absent: endpoints, health, retries (they stay inside the chosen backend and take no ticket), session
//! persistence.

mod layout;
mod report;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use smallvec::SmallVec;

use self::layout::{Layout, greatest_common_divisor};
pub use self::layout::{LayoutCache, MAX_SLOTS};
use self::report::Observer;
pub use self::report::{BackendShare, ReplayBudget, SplitReport};

/// Most backends of one rule. A slot is one byte and 255 is kept free. (Source: ours; the API allows 16.)
pub const MAX_BACKENDS: usize = 255;

/// Largest weight. (Source: Gateway API, `HTTPBackendRef.weight`.)
pub const MAX_WEIGHT: u32 = 1_000_000;

/// What a ticket gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Index into the rule's backends, in their configured order.
    pub backend: usize,
    pub ticket: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    #[error("{0} backends; at most {MAX_BACKENDS} can be told apart")]
    TooManyBackends(usize),
    #[error("weight {0}; the largest is {MAX_WEIGHT}")]
    WeightTooLarge(u32),
}

/// The split of one rule during one epoch. Shared by all threads.
pub struct Split {
    rule: SplitRule,
    /// In configured order, divided by their greatest common divisor.
    weights: Box<[u32]>,
    backends: Arc<[Arc<str>]>,
    epoch: u64,
    tally: Arc<Tally>,
    observer: Mutex<Observer>,
    /// `None` in the first epoch.
    history: Option<Arc<Mutex<History>>>,
}

/// The pure function from tickets to backends.
pub(crate) struct SplitRule {
    /// Mixed from the process seed, the rule's identity and the epoch.
    key: u64,
    /// Configured index of each backend whose weight is not zero.
    members: SmallVec<[u8; 16]>,
    layout: Layout,
}

/// The ticket counter and the served counters of one epoch.
///
/// A request writes the ticket and one counter. They stand together on purpose: the thread that has just taken a ticket
/// owns the cache line, so counting beside it costs no second transfer between cores.
struct Tally {
    /// The ticket, then a counter for each backend.
    lines: Box<[CacheLine]>,
}

/// Of its own, so that rules whose counters are neighbours in memory do not slow each other down.
#[derive(Default)]
#[repr(align(64))]
struct CacheLine([AtomicU64; 8]);

/// What earlier epochs of the same rule served, so that totals never go back.
#[derive(Default)]
struct History {
    /// By backend key: the sums of epochs that nothing can count in any more.
    settled: Vec<(Arc<str>, u64)>,
    /// Epochs that ended but may still be held by a worker that has not swapped yet.
    ended: Vec<Ended>,
}

struct Ended {
    backends: Arc<[Arc<str>]>,
    tally: Arc<Tally>,
}

/// What makes one split different from another.
#[derive(Clone, Copy, Debug)]
pub struct SplitSpec<'a> {
    /// Of the process.
    pub seed: u64,
    /// Names the rule among all; equal identities with equal epochs have equal phases.
    pub identity: &'a str,
    pub epoch: u64,
    /// Keys of the backends, in configured order.
    pub backends: &'a [Arc<str>],
    /// As configured, one for each backend.
    pub weights: &'a [u32],
}

impl Split {
    pub fn new(spec: &SplitSpec<'_>, cache: &LayoutCache) -> Result<Split, SplitError> {
        check(spec.weights)?;
        Ok(Split::with_history(spec, cache, None))
    }

    /// A share of all requests: two sides, whose weights may be anything (the law for two holds for all sums of 32 bits).
    pub(crate) fn fraction(spec: &SplitSpec<'_>, cache: &LayoutCache) -> Split {
        Split::with_history(spec, cache, None)
    }

    /// The next epoch of the same rule: tickets from 0, totals carried on.
    pub fn successor(&self, spec: &SplitSpec<'_>, cache: &LayoutCache) -> Result<Split, SplitError> {
        check(spec.weights)?;
        let history = self.history.clone().unwrap_or_default();
        let next = Split::with_history(spec, cache, Some(history.clone()));
        let ended = Ended { backends: self.backends.clone(), tally: self.tally.clone() };
        history.lock().unwrap_or_else(PoisonError::into_inner).end(ended);
        Ok(next)
    }

    fn with_history(
        spec: &SplitSpec<'_>,
        cache: &LayoutCache,
        history: Option<Arc<Mutex<History>>>,
    ) -> Split {
        let weights = divided(spec.weights);
        let rule = SplitRule::new(spec, &weights, cache);
        Split {
            observer: Mutex::new(Observer::new(&rule)),
            rule,
            tally: Arc::new(Tally::new(weights.len())),
            weights,
            backends: spec.backends.into(),
            epoch: spec.epoch,
            history,
        }
    }

    /// Takes the next ticket. `None`, and no ticket, when there is nothing to choose from: no backends, or all weights zero.
    #[inline]
    pub fn next(&self) -> Option<Choice> {
        if matches!(self.rule.layout, Layout::Nothing) {
            return None;
        }
        // Relaxed: the order of tickets is the order of modifications of this one atomic; nothing else is published by it.
        let ticket = self.tally.count(0);
        let backend = self.rule.backend(ticket)?;
        self.tally.count(backend + 1);
        Some(Choice { backend, ticket })
    }

    /// The backend of a ticket. Pure.
    pub fn backend(&self, ticket: u64) -> Option<usize> {
        self.rule.backend(ticket)
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Tickets taken in this epoch.
    pub fn tickets(&self) -> u64 {
        self.tally.at(0).map_or(0, |tickets| tickets.load(Relaxed))
    }

    /// Tickets that one period has (`W`); 0 when there is nothing to choose from.
    pub fn period(&self) -> u64 {
        self.weights.iter().copied().map(u64::from).sum()
    }

    /// In configured order, divided by their greatest common divisor.
    pub fn reduced_weights(&self) -> &[u32] {
        &self.weights
    }

    /// Whether a rule with these backends and weights goes on with this state.
    pub fn continues(&self, backends: &[Arc<str>], weights: &[u32]) -> bool {
        check(weights).is_ok() && self.is_of(backends, weights)
    }

    pub(crate) fn is_of(&self, backends: &[Arc<str>], weights: &[u32]) -> bool {
        *self.backends == *backends && divided(weights) == self.weights
    }
}

impl SplitRule {
    fn new(spec: &SplitSpec<'_>, reduced: &[u32], cache: &LayoutCache) -> SplitRule {
        let mut members: SmallVec<[u8; 16]> = SmallVec::new();
        let mut positive: SmallVec<[u32; 16]> = SmallVec::new();
        for (index, &weight) in (0..=u8::MAX).zip(reduced) {
            if weight > 0 {
                members.push(index);
                positive.push(weight);
            }
        }
        SplitRule {
            key: mix(mix(spec.seed) ^ hash(spec.identity.as_bytes())).wrapping_add(mix(spec.epoch)),
            members,
            layout: cache.layout(&positive),
        }
    }

    #[inline]
    fn backend(&self, ticket: u64) -> Option<usize> {
        self.member(ticket).and_then(|member| self.members.get(member)).map(|&index| usize::from(index))
    }

    /// Index among the backends whose weight is not zero.
    #[inline]
    fn member(&self, ticket: u64) -> Option<usize> {
        match &self.layout {
            Layout::Nothing => None,
            Layout::One => Some(0),
            Layout::Pair(law) => Some(usize::from(!law.step(self.key, ticket).first)),
            Layout::Many(shape) => Some(shape.member(self.key, ticket)),
        }
    }
}

impl Tally {
    fn new(backends: usize) -> Tally {
        Tally { lines: (0..(backends + 1).div_ceil(8)).map(|_| CacheLine::default()).collect() }
    }

    /// Place 0 is the ticket, place `i + 1` what backend `i` served.
    #[inline]
    fn at(&self, place: usize) -> Option<&AtomicU64> {
        self.lines.get(place / 8).and_then(|line| line.0.get(place % 8))
    }

    #[inline]
    fn count(&self, place: usize) -> u64 {
        self.at(place).map_or(0, |counter| counter.fetch_add(1, Relaxed))
    }

    fn served(&self, backend: usize) -> u64 {
        self.at(backend + 1).map_or(0, |counter| counter.load(Relaxed))
    }
}

impl History {
    fn end(&mut self, epoch: Ended) {
        self.settle();
        self.ended.push(epoch);
    }

    /// Sums up the epochs that nobody else holds.
    fn settle(&mut self) {
        let settled = &mut self.settled;
        self.ended.retain_mut(|Ended { backends, tally }| {
            // `get_mut` succeeds for the last owner only, and then sees all that others counted.
            if Arc::get_mut(tally).is_none() {
                return true;
            }
            for (index, key) in backends.iter().enumerate() {
                let served = tally.served(index);
                match settled.iter_mut().find(|(k, _)| k == key) {
                    Some((_, sum)) => *sum += served,
                    None => settled.push((key.clone(), served)),
                }
            }
            false
        });
    }

    /// What ended epochs served, by backend key.
    fn served(&self, key: &str) -> u64 {
        let settled: u64 = self.settled.iter().filter(|(k, _)| **k == *key).map(|(_, sum)| sum).sum();
        let ended = self.ended.iter().flat_map(|Ended { backends, tally }| {
            backends.iter().enumerate().filter(|(_, k)| ***k == *key).map(|(index, _)| tally.served(index))
        });
        settled + ended.sum::<u64>()
    }
}

/// The weights divided by their greatest common divisor.
pub fn reduced(weights: &[u32]) -> Result<Box<[u32]>, SplitError> {
    check(weights).map(|()| divided(weights))
}

fn check(weights: &[u32]) -> Result<(), SplitError> {
    if weights.len() > MAX_BACKENDS {
        return Err(SplitError::TooManyBackends(weights.len()));
    }
    if let Some(&weight) = weights.iter().find(|&&weight| weight > MAX_WEIGHT) {
        return Err(SplitError::WeightTooLarge(weight));
    }
    Ok(())
}

fn divided(weights: &[u32]) -> Box<[u32]> {
    let divisor =
        weights.iter().fold(0, |divisor, &weight| greatest_common_divisor(divisor, u64::from(weight)));
    // A divisor of a weight is no larger than it, and with no weight at all there is nothing to divide.
    let divisor = u32::try_from(divisor).unwrap_or(1).max(1);
    weights.iter().map(|weight| weight / divisor).collect()
}

/// The finalizer of SplitMix64: a bijection in which every input bit reaches every output bit.
#[inline]
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 2^64 divided by the golden ratio, odd: the step of SplitMix64's sequence.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// FNV-1a, 64 bits: the same in every release and on every machine.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The `index`-th number of the sequence that `key` begins.
#[inline]
fn random(key: u64, index: u64) -> u64 {
    mix(key.wrapping_add(index.wrapping_mul(GOLDEN)))
}

/// A number below `bound`, uniform to within 2^-40 for every bound that occurs.
#[inline]
fn draw(key: u64, index: u64, bound: u64) -> u64 {
    // Below `bound`, so it fits.
    ((u128::from(random(key, index)) * u128::from(bound)) >> 64) as u64
}

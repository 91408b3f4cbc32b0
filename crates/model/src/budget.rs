//! How much of a backend's traffic may be retries (`XBackendTrafficPolicy.spec.retryConstraint`, GEP-3388). Pure: time is passed in.
//!
//! Tries are counted in slots of a sixteenth of an interval. A retry is allowed when, itself counted, retries are no more than their
//! share of all tries of the interval, or no more than the least number of theirs. What is summed up covers the whole interval and at
//! most one slot more, so that no interval, wherever it begins, has more retries than are allowed by its traffic and by one slot of
//! the traffic before it.
//!
//! Invariants: lock-free; shared by all threads; two retries that race for the last place may both be refused, never both allowed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::resource::RetryBudget;

/// Slots that an interval is divided into.
const SLOTS: u64 = 16;

/// The retries of one backend, and what they are measured by.
#[derive(Debug)]
pub struct Budget {
    percent: u64,
    least: u64,
    tries: Window,
    retries: Window,
    /// The same retries by the interval of the least number.
    retries_of_least: Window,
}

impl Budget {
    pub(crate) fn new(source: &RetryBudget) -> Budget {
        Budget {
            percent: u64::from(source.percent),
            least: u64::from(source.min_retry_count),
            tries: Window::new(source.interval_ms),
            retries: Window::new(source.interval_ms),
            retries_of_least: Window::new(source.min_retry_interval_ms),
        }
    }

    /// A request is sent to the backend for the first time.
    pub fn request(&self, now_millis: u64) {
        self.tries.add(now_millis);
    }

    /// Whether a request may be sent once more; counted if so.
    pub fn retry(&self, now_millis: u64) -> bool {
        // Counted first: of two that race each sees the other.
        self.tries.add(now_millis);
        self.retries.add(now_millis);
        self.retries_of_least.add(now_millis);
        let share = self.retries.sum(now_millis) * 100 <= self.percent * self.tries.sum(now_millis);
        let allowed = share || self.retries_of_least.sum(now_millis) <= self.least;
        if !allowed {
            self.tries.take_back(now_millis);
            self.retries.take_back(now_millis);
            self.retries_of_least.take_back(now_millis);
        }
        allowed
    }
}

/// Events of the last interval.
#[derive(Debug)]
struct Window {
    slot_millis: u64,
    /// Each the number of its slot in time (above 32 bits, wrapping) and the events in it (below). One more than the interval has, for
    /// the part of the oldest that belongs to it.
    slots: [AtomicU64; SLOTS as usize + 1],
}

const COUNT: u64 = u32::MAX as u64;

impl Window {
    fn new(interval_millis: u64) -> Window {
        Window { slot_millis: interval_millis.div_ceil(SLOTS).max(1), slots: Default::default() }
    }

    fn number(&self, now_millis: u64) -> u64 {
        // From 1 on: a slot that was never used is none of any time.
        (now_millis / self.slot_millis + 1) & COUNT
    }

    fn slot(&self, number: u64) -> &AtomicU64 {
        // The remainder is below the length.
        &self.slots[(number % (SLOTS + 1)) as usize]
    }

    fn add(&self, now_millis: u64) {
        let number = self.number(now_millis);
        let counted = |slot: u64| {
            let count = if slot >> 32 == number { (slot & COUNT).saturating_add(1).min(COUNT) } else { 1 };
            Some(number << 32 | count)
        };
        // The closure always gives a value.
        let _ = self.slot(number).fetch_update(Relaxed, Relaxed, counted);
    }

    fn take_back(&self, now_millis: u64) {
        let number = self.number(now_millis);
        let less = |slot: u64| (slot >> 32 == number && slot & COUNT > 0).then(|| slot - 1);
        // Where the slot is another's already, nothing of it is left to take back.
        let _ = self.slot(number).fetch_update(Relaxed, Relaxed, less);
    }

    fn sum(&self, now_millis: u64) -> u64 {
        let number = self.number(now_millis);
        let of_interval = |slot: u64| number.wrapping_sub(slot >> 32) & COUNT <= SLOTS && slot >> 32 != 0;
        self.slots
            .iter()
            .map(|slot| slot.load(Relaxed))
            .filter(|slot| of_interval(*slot))
            .map(|slot| slot & COUNT)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(percent: u32, least: u32) -> Budget {
        Budget::new(&RetryBudget {
            percent,
            interval_ms: 10_000,
            min_retry_count: least,
            min_retry_interval_ms: 1_000,
        })
    }

    fn allowed(budget: &Budget, asked: u32, now: u64) -> u32 {
        (0..asked).map(|_| u32::from(budget.retry(now))).sum()
    }

    #[test]
    fn retries_are_at_most_their_share_of_all_tries() {
        let budget = budget(20, 0);
        for _ in 0..800 {
            budget.request(5_000);
        }
        // 200 of 1,000 are 20 %.
        assert_eq!(allowed(&budget, 1_000, 5_000), 200);
        assert_eq!(allowed(&budget, 10, 5_001), 0, "what was refused is not counted");
        for _ in 0..4 {
            budget.request(5_002);
        }
        assert_eq!(allowed(&budget, 10, 5_002), 1);
    }

    #[test]
    fn a_least_number_is_allowed_whatever_the_traffic() {
        let budget = budget(0, 10);
        assert_eq!(allowed(&budget, 100, 1_000), 10);
        assert_eq!(allowed(&budget, 100, 1_500), 0);
        assert_eq!(allowed(&budget, 100, 2_100), 10, "an interval later");
    }

    #[test]
    fn only_the_traffic_of_the_interval_counts() {
        let budget = budget(50, 0);
        for _ in 0..10 {
            budget.request(1_000);
        }
        assert_eq!(allowed(&budget, 100, 10_999), 10, "half of twenty");
        // All of it, and one slot, later.
        assert_eq!(allowed(&budget, 100, 22_000), 0);
        budget.request(22_000);
        assert_eq!(allowed(&budget, 100, 22_000), 1);
    }

    #[test]
    fn every_retry_is_allowed_at_a_hundred_percent_and_none_at_nothing() {
        assert_eq!(allowed(&budget(100, 0), 50, 0), 50);
        assert_eq!(allowed(&budget(0, 0), 50, 0), 0);
    }

    #[test]
    fn threads_together_never_exceed_the_budget() {
        let budget = budget(0, 1_000);
        let allowed: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| allowed(&budget, 1_000, 7))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!((900..=1_000).contains(&allowed), "{allowed}");
    }
}

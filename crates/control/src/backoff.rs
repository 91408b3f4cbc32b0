//! Capped exponential backoff with jitter.
//!
//! Owns the waiting time between retries of one caller. Invariant: the wait never exceeds the cap, and is at least
//! half of its nominal value. Deliberately absent: sleeping; the caller races the wait against its shutdown.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The waits of one retrying caller.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    attempts: u32,
    jitter: RandomState,
}

impl Backoff {
    pub fn new(first: Duration, cap: Duration) -> Backoff {
        Backoff { first, cap, attempts: 0, jitter: RandomState::new() }
    }

    /// Forget earlier failures.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// The wait before the next attempt: `first * 2^attempts` up to the cap, the upper half of it drawn at random, so
    /// that callers which failed together do not come back together.
    pub fn next_wait(&mut self) -> Duration {
        let nominal =
            self.first.saturating_mul(1u32.checked_shl(self.attempts).unwrap_or(u32::MAX)).min(self.cap);
        self.attempts = self.attempts.saturating_add(1).min(31);
        let draw = self.jitter.hash_one(self.attempts) % 1_024;
        // draw < 1024, so the cast is exact.
        nominal / 2 + (nominal / 2).mul_f64(draw as f64 / 1_024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Backoff;
    use std::time::Duration;

    #[test]
    fn waits_grow_to_the_cap_and_stay_there() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let waits: Vec<Duration> = (0..40).map(|_| backoff.next_wait()).collect();
        assert!(waits[0] >= Duration::from_millis(50) && waits[0] <= Duration::from_millis(100), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(5)), "{waits:?}");
        assert!(waits[20..].iter().all(|wait| *wait >= Duration::from_millis(2_500)), "{waits:?}");
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}

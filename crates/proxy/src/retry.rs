//! When a request may be sent once more.
//!
//! Two cases, and no others. An endpoint that took no connection: the next one of the same backend, a bounded number of
//! times. A kept connection that turned out to be closed: a fresh one, if nothing came back and the request can do no
//! harm twice or has not left yet. Neither takes another ticket or leaves the chosen backend.

use crate::error::Failure;

/// What became of a request at an endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) failure: Failure,
    /// The connection had carried a request before.
    pub(crate) reused: bool,
    /// Anything came back.
    pub(crate) answered: bool,
    /// Doing the request twice means the same as doing it once.
    pub(crate) idempotent: bool,
    /// Bytes of the request that left.
    pub(crate) written: u64,
}

impl Outcome {
    /// Whether the same request may go out on a fresh connection.
    pub(crate) fn may_be_repeated(self) -> bool {
        self.failure == Failure::UpstreamClosed
            && self.reused
            && !self.answered
            && (self.idempotent || self.written == 0)
    }
}

/// Whether another endpoint may be tried after `tried` of them took no connection.
pub(crate) fn may_try_another(failure: Failure, tried: usize, attempts: usize) -> bool {
    failure.verdict().retryable && tried <= attempts
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: Outcome = Outcome {
        failure: Failure::UpstreamClosed,
        reused: true,
        answered: false,
        idempotent: true,
        written: 100,
    };

    #[test]
    fn only_a_stale_connection_and_a_harmless_request_are_tried_again() {
        assert!(STALE.may_be_repeated());
        assert!(Outcome { idempotent: false, written: 0, ..STALE }.may_be_repeated());
        for never in [
            Outcome { idempotent: false, ..STALE },
            Outcome { reused: false, ..STALE },
            Outcome { answered: true, ..STALE },
            Outcome { failure: Failure::UpstreamTimeout, ..STALE },
        ] {
            assert!(!never.may_be_repeated(), "{never:?}");
        }
    }

    #[test]
    fn further_endpoints_are_bounded_in_number() {
        assert!(may_try_another(Failure::Connect, 2, 2));
        assert!(!may_try_another(Failure::Connect, 3, 2));
        assert!(!may_try_another(Failure::RequestTimeout, 1, 2));
    }
}

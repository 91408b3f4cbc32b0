//! When a request may be sent once more.
//!
//! Three cases for every request. An endpoint that took no connection: the next one of the same backend, a bounded number of
//! times. A kept connection that turned out to be closed: a fresh one, if nothing came back and the request can do no
//! harm twice or has not left yet; once, and not where the connection goes on and only its stream was reset. A stream that the endpoint refused, or did not come to before it went away (RFC 9113
//! section 8.7): whatever the request does.
//!
//! A rule may ask for more tries (`rules[].retry`), and then says for which statuses; connection errors and time-outs count among
//! them. It does so for its own requests, whatever their method. The tries end when the client has seen anything, when the body was too
//! large to be kept, when the request's time is up, and when the backend's budget is used up (503).
//!
//! No try takes another ticket or leaves the chosen backend.

use std::time::Duration;

use weir_codec::body::BodyError;
use weir_model::retry::RetryPolicy;

use crate::error::Failure;

/// What became of a request at an endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) failure: Failure,
    /// The connection had carried a request before, and is no more.
    pub(crate) reused: bool,
    /// Anything came back.
    pub(crate) answered: bool,
    /// The endpoint has said that it did nothing with the request.
    pub(crate) refused: bool,
    /// Doing the request twice means the same as doing it once.
    pub(crate) idempotent: bool,
    /// Bytes of the request that left.
    pub(crate) written: u64,
}

impl Outcome {
    /// Whether the same request may go out on a fresh connection.
    pub(crate) fn may_be_repeated(self) -> bool {
        self.failure == Failure::UpstreamClosed
            && !self.answered
            && (self.refused || (self.reused && (self.idempotent || self.written == 0)))
    }
}

/// Whether another endpoint may be tried after `tried` of them took no connection.
pub(crate) fn may_try_another(failure: Failure, tried: usize, attempts: usize) -> bool {
    failure.verdict().retryable && tried <= attempts
}

/// Whether a rule wants another try for this.
pub(crate) fn is_worth_another_try(policy: &RetryPolicy, failure: Failure) -> bool {
    match failure {
        // Connection errors; a head that broke off is one.
        Failure::Connect
        | Failure::ConnectTimeout
        | Failure::UpstreamHandshake
        | Failure::UpstreamClosed
        | Failure::UpstreamBody(BodyError::Truncated) => true,
        Failure::UpstreamStatus(status) => policy.covers(status),
        Failure::BackendRequestTimeout | Failure::UpstreamTimeout => policy.covers(504),
        Failure::UpstreamHead(_) => policy.covers(502),
        _ => false,
    }
}

/// How long to wait before the next try: at least this, and up to half as much again, so that requests that failed together do not
/// come back together.
pub(crate) fn wait(least: Duration, random: u64) -> Duration {
    let half = u64::try_from(least.as_micros() / 2).unwrap_or(u64::MAX);
    least + Duration::from_micros(random % half.saturating_add(1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: Outcome = Outcome {
        failure: Failure::UpstreamClosed,
        reused: true,
        answered: false,
        refused: false,
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
    fn what_an_endpoint_refused_is_tried_again_whatever_it_does() {
        let refused = Outcome { refused: true, reused: false, idempotent: false, ..STALE };
        assert!(refused.may_be_repeated());
        assert!(!Outcome { answered: true, ..refused }.may_be_repeated());
    }

    #[test]
    fn further_endpoints_are_bounded_in_number() {
        assert!(may_try_another(Failure::Connect, 2, 2));
        assert!(!may_try_another(Failure::Connect, 3, 2));
        assert!(!may_try_another(Failure::RequestTimeout, 1, 2));
    }

    #[test]
    fn the_wait_is_never_shorter_than_asked_and_at_most_half_longer() {
        let least = Duration::from_millis(10);
        for random in [0, 1, 4_999, 5_000, 5_001, u64::MAX] {
            let waited = wait(least, random);
            assert!(waited >= least && waited <= Duration::from_millis(15), "{waited:?}");
        }
        assert_eq!(wait(Duration::ZERO, 7), Duration::ZERO);
    }
}

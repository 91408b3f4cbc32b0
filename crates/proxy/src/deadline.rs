//! One timer a connection, moved lazily.
//!
//! A connection's deadline changes several times a request, nearly always to a later moment. [`Deadline::set`]
//! only writes it down; the runtime's timer is touched when it fires too early, or when a deadline comes before
//! the armed one. So a request on a kept connection arms no timer at all.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::unconstrained;
use tokio::time::Sleep;

use crate::clock::{Clock, Moment};

#[derive(Debug)]
pub(crate) struct Deadline {
    at: Moment,
    /// What the timer is armed for.
    armed: Moment,
    sleep: Pin<Box<Sleep>>,
    /// The task is registered with the timer for the moment it is armed for.
    registered: bool,
}

impl Deadline {
    pub(crate) fn new(at: Moment, clock: &Clock) -> Deadline {
        let sleep = Box::pin(tokio::time::sleep_until(clock.instant(at)));
        Deadline { at, armed: at, sleep, registered: false }
    }

    pub(crate) fn set(&mut self, at: Moment) {
        self.at = at;
    }

    /// Ready when the deadline has passed. Must be polled by the same task every time.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, clock: &Clock) -> Poll<()> {
        if self.armed > self.at {
            self.arm(clock);
        }
        if self.registered && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        // Without the runtime's budget for the running task: used up, it would say "pending" and register nothing.
        while Pin::new(&mut unconstrained(self.sleep.as_mut())).poll(cx).is_ready() {
            if self.armed >= self.at {
                self.registered = false;
                return Poll::Ready(());
            }
            self.arm(clock);
        }
        self.registered = true;
        Poll::Pending
    }

    fn arm(&mut self, clock: &Clock) {
        self.armed = self.at;
        self.sleep.as_mut().reset(clock.instant(self.at));
        self.registered = false;
    }
}

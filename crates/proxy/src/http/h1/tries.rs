//! The tries of one request: at an endpoint, at another, and what the client is told when there are none left.
//!
//! When another try may be made is said in [`crate::retry`] and by the rule; what happens in one is an [`Exchange`].

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use weir_model::retry::RetryPolicy;
use weir_model::table::EndpointState;

use super::connection::{Connection, Next};
use super::exchange::Exchange;
use super::pipe::Pipe;
use super::route::{self, Decision, Forward};
use super::walk::Extras;
use crate::clock::Moment;
use crate::error::Failure;
use crate::record::RequestRecord;
use crate::retry;
use crate::session::Kept;
use crate::upstream::acquire::{Acquired, Begun, First, Speaks, Want, begin, search};
use crate::upstream::balance::{self, Tried};
use crate::worker::Worker;

impl Forward {
    /// The connection that the request wants.
    fn want<'a>(&'a self, worker: &'a Worker, fresh: bool) -> Result<Want<'a>, Failure> {
        let kept_at = |extras: &Extras| extras.session.as_ref().and_then(Kept::endpoint);
        let backend = self.state().ok_or(Failure::InvalidBackend)?;
        Ok(Want {
            backend,
            deadline: self.deadline,
            preferred: self.extras.as_deref().and_then(kept_at),
            // A rule that says how often to try means these tries too.
            attempts: if self.rule.retry.is_some() { 0 } else { self.limits(worker).retry_attempts },
            fresh,
            speaks: Speaks::Http(self.listener.as_deref()),
        })
    }

    /// Goes on to find a connection for the request.
    async fn search(
        &self,
        worker: &Rc<Worker>,
        tried: &mut Tried,
        fresh: bool,
        first: First,
    ) -> Result<Acquired, Failure> {
        let acquired = search(worker, &self.want(worker, fresh)?, tried, first).await?;
        if self.web_socket
            && let Some(stream) = acquired.socket.as_stream()
        {
            stream.takes_web_sockets(worker).await?;
        }
        Ok(acquired)
    }

    /// Whether the rule allows another try, whatever came of this one.
    pub(super) fn has_tries_left(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.tries_left > 0)
    }

    /// Whether a try that came to this is worth another one.
    pub(super) fn wants_another_try(&self, failure: Failure, up: &Pipe) -> bool {
        let covers = |policy: &Arc<RetryPolicy>| retry::is_worth_another_try(policy, failure);
        self.has_tries_left() && self.rule.retry.as_ref().is_some_and(covers) && up.can_rewind()
    }

    /// Uses up one of the tries. False when the backend's budget does not allow it.
    fn take_try(&mut self, worker: &Worker) -> bool {
        if let Some(extras) = &mut self.extras {
            extras.tries_left = extras.tries_left.saturating_sub(1);
        }
        let budget = self.state().and_then(|state| state.budget());
        let allowed = budget.is_none_or(|budget| budget.retry(worker.clock.now().millis()));
        if !allowed {
            worker.metrics.retries_refused.add(1);
        }
        allowed
    }

    /// Until when to wait before the next try, and whether the request's time is up then.
    fn waits_until(&self, worker: &Worker) -> (Moment, bool) {
        let asked = self.rule.retry.as_ref().map_or(Duration::ZERO, |policy| policy.backoff);
        let least = if asked.is_zero() { self.limits(worker).retry_backoff } else { asked };
        let until = worker.clock.now() + retry::wait(least, worker.random());
        match self.deadline {
            Some(deadline) if deadline < until => (deadline, true),
            _ => (until, false),
        }
    }
}

impl Connection {
    /// Gets a request its answer.
    pub(super) async fn forward(
        &mut self,
        forward: &mut Forward,
        record: &mut RequestRecord,
        worker: &Rc<Worker>,
    ) -> Next {
        let mut tried = Tried::new();
        let (mut fresh, mut repeats) = (false, 0);
        if forward.extras.is_some()
            && let Some(budget) = forward.state().and_then(|state| state.budget())
        {
            budget.request(worker.clock.now().millis());
        }
        loop {
            let begun = forward.want(worker, fresh).and_then(|want| begin(worker, &want, &tried));
            let acquired = match begun {
                Ok(Begun::Kept(acquired)) => Ok(acquired),
                Ok(Begun::Search(first)) => Box::pin(forward.search(worker, &mut tried, fresh, first)).await,
                Err(failure) => Err(failure),
            };
            let mut acquired = match acquired {
                Ok(acquired) => acquired,
                Err(failure) if forward.wants_another_try(failure, &self.to_endpoint) => {
                    match Box::pin(self.try_again(forward, record, &mut tried, None)).await {
                        Ok(()) => continue,
                        Err(failure) => {
                            let out = worker.buffers.out();
                            return Box::pin(self.give_up(forward, record, failure, out)).await;
                        }
                    }
                }
                Err(failure) => {
                    let out = worker.buffers.out();
                    return Box::pin(self.give_up(forward, record, failure, out)).await;
                }
            };
            record.retries += acquired.failed_tries;
            // A second one that ends is no accident of ours.
            acquired.reused &= !fresh;
            if let Some(text) = &mut record.text {
                text.endpoint = acquired.in_flight.endpoint().address.to_string();
            }
            let mut exchange = Exchange::new(acquired, self, forward, worker);
            let outcome = poll_fn(|cx| exchange.poll(cx, self, forward, record, worker)).await;
            let failure = match outcome {
                Ok(()) => return self.conclude(exchange, forward, record, worker),
                Err(failure) => failure,
            };
            if repeats <= forward.limits(worker).retry_attempts
                && exchange.may_be_repeated(failure, self, forward)
            {
                record.retries += 1;
                repeats += 1;
                fresh = true;
                self.abandon_answer(worker);
            } else if exchange.is_unanswered() && forward.wants_another_try(failure, &self.to_endpoint) {
                exchange.note(failure, forward, worker);
                let endpoint = exchange.in_flight.endpoint().clone();
                self.set_aside(exchange, forward, worker);
                fresh = false;
                let again = self.try_again(forward, record, &mut tried, Some(endpoint));
                if let Err(failure) = Box::pin(again).await {
                    let out = worker.buffers.out();
                    return Box::pin(self.give_up(forward, record, failure, out)).await;
                }
            } else if self.may_be_answered(&exchange) {
                exchange.note(failure, forward, worker);
                drop(exchange);
                // Interim responses that are not out yet go first: the client may have seen the start of one.
                let out = self.unsent_answer(worker);
                return Box::pin(self.give_up(forward, record, failure, out)).await;
            } else {
                return self.cut_short(&exchange, forward, record, worker, failure);
            }
        }
    }

    /// Makes a request ready for another try, at another endpoint of its backend if there is one, and waits until it is time.
    async fn try_again(
        &mut self,
        forward: &mut Forward,
        record: &mut RequestRecord,
        tried: &mut Tried,
        endpoint: Option<Arc<EndpointState>>,
    ) -> Result<(), Failure> {
        let worker = self.worker().clone();
        if !forward.take_try(&worker) {
            return Err(Failure::RetryBudget);
        }
        record.retries += 1;
        tried.extend(endpoint);
        if let Some(state) = forward.state() {
            balance::leave_a_choice(&state.endpoints(), tried);
        }
        self.to_endpoint.rewind();
        let (until, is_late) = forward.waits_until(&worker);
        poll_fn(|cx| self.poll_until(cx, &worker, until)).await?;
        if is_late { Err(Failure::RequestTimeout) } else { Ok(()) }
    }

    /// Waits, and notices a client that goes away meanwhile.
    fn poll_until(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        until: Moment,
    ) -> Poll<Result<(), Failure>> {
        if self.input.is_empty()
            && let Poll::Ready(read) = self.input.poll_fill(&mut self.client, &worker.buffers, cx)
        {
            match read {
                Err(_) => return Poll::Ready(Err(Failure::ClientGone)),
                // A half-closed client is waiting still.
                Ok(0) => {}
                Ok(_) => self.input.park(&worker.buffers),
            }
        }
        self.deadline.set(until);
        ready!(self.deadline.poll(cx, &worker.clock));
        worker.clock.tick();
        Poll::Ready(Ok(()))
    }

    /// Answers a request that could not be forwarded.
    async fn give_up(
        &mut self,
        forward: &Forward,
        record: &mut RequestRecord,
        failure: Failure,
        out: Vec<u8>,
    ) -> Next {
        let worker = self.worker().clone();
        record.request_bytes = self.to_endpoint.written();
        // What is left of the body would have to be read before the next request could be.
        let body_read = self.to_endpoint.skip_body(&mut self.input);
        let keep_alive =
            forward.keep_alive && body_read && !forward.asked.upgrade && !failure.verdict().close;
        worker.buffers.give_back_out(self.to_endpoint.take_out());
        let context = route::context(&worker, forward.asked.head, keep_alive, record).for_grpc(forward.grpc);
        if failure.verdict().answer.is_none() {
            record.failure = Some(failure);
            record.finish(&worker);
            return Next::Close;
        }
        match route::fail(&worker, failure, context, out, record) {
            Decision::Answer { out, keep_alive } => self.say(out, keep_alive, record).await,
            Decision::Wait | Decision::Forward(_) | Decision::Ask(_) => Next::Close,
        }
    }
}

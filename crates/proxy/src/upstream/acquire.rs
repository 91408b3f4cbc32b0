//! A usable connection for a request: endpoint choice, reuse, connecting, and what happens when neither can be had.
//!
//! A request never leaves its backend here, and never takes another ticket: endpoints are tried one after another, and a
//! backend that lost its last one a moment ago is waited for.

use std::sync::Arc;
use std::time::Instant;

use weir_model::table::BackendState;

use super::balance::{InFlight, Tried, choose, failed};
use super::connect::connect;
use crate::error::Failure;
use crate::http::h1::Forward;
use crate::io::Socket;
use crate::worker::Worker;

/// A connection in hand.
pub(crate) struct Acquired {
    pub(crate) socket: Socket,
    pub(crate) in_flight: InFlight,
    /// It has carried a request before.
    pub(crate) reused: bool,
    /// Endpoints that were tried in vain.
    pub(crate) failed_tries: u32,
}

/// Finds a connection for `forward`. `fresh` asks for a new one: a kept one turned out to be closed.
pub(crate) async fn acquire(
    worker: &Worker,
    forward: &Forward,
    tried: &mut Tried,
    fresh: bool,
) -> Result<Acquired, Failure> {
    let backend = forward.state().ok_or(Failure::InvalidBackend)?;
    let limits = &worker.settings.limits;
    let mut failed_tries = 0;
    let mut last = None;
    loop {
        let chosen = choose(&backend.endpoints(), tried, worker.random(), worker.clock.millis());
        let Some(in_flight) = chosen else {
            if let Some(failure) = last {
                return Err(failure);
            }
            wait_for_endpoints(worker, backend, forward.deadline).await?;
            continue;
        };
        let endpoint = in_flight.endpoint().clone();
        if !fresh && let Some(socket) = worker.pool.take(endpoint.address) {
            worker.metrics.upstream_reuses.add(1);
            return Ok(Acquired { socket, in_flight, reused: true, failed_tries });
        }
        let now = worker.clock.now();
        let mut limit = limits.upstream_connect_timeout;
        if let Some(deadline) = forward.deadline {
            limit = limit.min(deadline.saturating_duration_since(now));
        }
        match connect(worker, endpoint.address, limit).await {
            Ok(socket) => return Ok(Acquired { socket, in_flight, reused: false, failed_tries }),
            Err(failure) => {
                if forward.deadline.is_some_and(|deadline| deadline <= worker.clock.now()) {
                    return Err(Failure::RequestTimeout);
                }
                failed(&endpoint, worker.clock.millis(), limits.endpoint_retry_delay);
                tried.push(endpoint);
                failed_tries += 1;
                if !failure.verdict().retryable || tried.len() > limits.retry_attempts {
                    return Err(failure);
                }
                last = Some(failure);
            }
        }
    }
}

/// Waits, bounded in time and number, for a backend that had endpoints a moment ago.
async fn wait_for_endpoints(
    worker: &Worker,
    backend: &Arc<BackendState>,
    deadline: Option<Instant>,
) -> Result<(), Failure> {
    let hold = worker.settings.limits.endpoint_hold;
    let lost_at = backend.endpoints().lost_at_millis;
    let hold_millis = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
    let recently = lost_at.is_some_and(|at| worker.clock.millis() < at.saturating_add(hold_millis));
    if !recently {
        return Err(Failure::NoEndpoints);
    }
    let _held = Held::new(worker, backend)?;
    let until = worker.clock.now() + hold;
    let until = deadline.map_or(until, |deadline| deadline.min(until));
    loop {
        let changed = worker.endpoints_changed.notified();
        if !backend.endpoints().endpoints.is_empty() {
            return Ok(());
        }
        let waited = tokio::time::timeout_at(until.into(), changed).await;
        worker.clock.tick();
        if waited.is_err() {
            let late = deadline.is_some_and(|deadline| deadline <= worker.clock.now());
            return Err(if late { Failure::RequestTimeout } else { Failure::NoEndpoints });
        }
    }
}

/// A request that waits for endpoints, counted.
struct Held<'w> {
    worker: &'w Worker,
    backend: Arc<str>,
}

impl<'w> Held<'w> {
    fn new(worker: &'w Worker, backend: &BackendState) -> Result<Held<'w>, Failure> {
        let mut held = worker.held.borrow_mut();
        let count = held.entry(backend.key.clone()).or_insert(0);
        if *count >= worker.settings.limits.waiting_requests_per_backend {
            return Err(Failure::TooManyHeld);
        }
        *count += 1;
        worker.metrics.held.add(1);
        Ok(Held { worker, backend: backend.key.clone() })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut held = self.worker.held.borrow_mut();
        if let Some(count) = held.get_mut(&self.backend) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.backend);
            }
        }
    }
}

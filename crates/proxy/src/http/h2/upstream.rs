//! HTTP/2 connections to endpoints, each shared by many requests of one worker.
//!
//! One connection an endpoint is the normal case; another is opened when all have as many streams as they may. Requests
//! that come while a connection is being opened wait for it, and share its failure.
//!
//! Invariants: no more streams than the endpoint allows, or we do; a connection that says GOAWAY gets no new stream, and ends when
//! its last one has; a connection that does not answer is closed; an idle one is closed in time.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::SendRequest;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use weir_model::limits::Limits;
use weir_model::table::BackendState;

use super::connection::{Alive, frame_bytes, number, shared_window, window};
use super::io::Io;
use super::meter::Meter;
use super::stream::Stream;
use crate::buffer::ReadBuffer;
use crate::clock::Moment;
use crate::deadline::Deadline;
use crate::error::Failure;
use crate::io::Socket;
use crate::terms;
use crate::upstream::connect::connect;
use crate::upstream::pool::Place;
use crate::worker::Worker;

/// One worker's connections.
#[derive(Default)]
pub(crate) struct Links {
    endpoints: RefCell<FxHashMap<Place, Endpoint>>,
}

#[derive(Default)]
struct Endpoint {
    links: Vec<Link>,
    /// The connection that is being opened.
    dial: Option<Rc<Dial>>,
    /// Told when a stream ends.
    freed: Rc<Notify>,
}

struct Link {
    send: SendRequest<Bytes>,
    shared: Rc<Shared>,
}

/// What a connection's task, its streams and the list of connections know about it.
struct Shared {
    /// With TLS.
    secure: bool,
    active: Cell<usize>,
    /// It has carried a request.
    used: Cell<bool>,
    closed: Cell<bool>,
    /// The endpoint has said what it takes, and the machine has heard it.
    settled: Cell<bool>,
    /// Told when one of these two becomes true.
    changed: Notify,
    idle_since: Cell<Moment>,
    freed: Rc<Notify>,
    worker: Rc<Worker>,
    /// Of the backend for which the connection was opened.
    limits: Arc<Limits>,
}

/// A connection that is being opened.
pub(crate) struct Dial {
    outcome: Cell<Option<Result<(), Failure>>>,
    done: Notify,
}

impl Dial {
    /// Until the connection is there, or cannot be had.
    pub(crate) async fn wait(&self) -> Result<(), Failure> {
        loop {
            let done = self.done.notified();
            if let Some(outcome) = self.outcome.get() {
                return outcome;
            }
            done.await;
        }
    }
}

/// What a request gets.
pub(crate) enum Given {
    /// A stream, and whether its connection has carried others.
    Stream(Socket, bool),
    /// A connection is being opened.
    Dialing(Rc<Dial>),
    /// There are as many streams and connections as there may be; told when a stream ends.
    Full(Rc<Notify>),
}

/// A stream's place on its connection; makes room when dropped.
pub(super) struct Slot(Rc<Shared>);

impl Slot {
    fn new(shared: &Rc<Shared>) -> Slot {
        shared.active.set(shared.active.get() + 1);
        Slot(shared.clone())
    }

    /// Those of the backend for which the connection was opened.
    pub(super) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Whether the connection is encrypted.
    pub(super) fn is_secure(&self) -> bool {
        self.0.secure
    }

    /// Until the endpoint has said what it takes, or is gone.
    pub(super) async fn settled(&self) -> Result<(), Failure> {
        loop {
            let changed = self.0.changed.notified();
            if self.0.closed.get() {
                return Err(Failure::UpstreamClosed);
            }
            if self.0.settled.get() {
                return Ok(());
            }
            changed.await;
        }
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("active", &self.0.active).finish_non_exhaustive()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let shared = &self.0;
        shared.active.set(shared.active.get() - 1);
        shared.idle_since.set(shared.worker.clock.now());
        shared.freed.notify_one();
    }
}

impl Link {
    /// How many more streams there may be; `None` when there will never be another.
    fn room(&mut self, most: usize) -> Option<usize> {
        let cx = &mut Context::from_waker(Waker::noop());
        // It is never pending: no more streams are opened than the peer has allowed.
        if self.shared.closed.get() || matches!(self.send.poll_ready(cx), Poll::Ready(Err(_))) {
            return None;
        }
        let allowed = most.min(self.send.current_max_send_streams());
        Some(allowed.saturating_sub(self.shared.active.get()))
    }
}

impl Links {
    /// A stream to this place, or what to wait for.
    pub(crate) fn take(&self, worker: &Rc<Worker>, backend: &BackendState, place: &Place) -> Given {
        let limits = worker.limits(backend);
        let mut endpoints = self.endpoints.borrow_mut();
        let endpoint = endpoints.entry(place.clone()).or_default();
        let most = limits.upstream_http2_streams.max(1);
        let mut usable = None;
        endpoint.links.retain_mut(|link| {
            let room = link.room(most);
            if usable.is_none() && room.is_some_and(|room| room > 0) {
                let slot = Slot::new(&link.shared);
                let used = link.shared.used.replace(true);
                let stream = Stream::requested(link.send.clone(), worker.body_limits(backend), slot);
                usable = Some(Given::Stream(Socket::of_stream(stream), used));
            }
            room.is_some()
        });
        if let Some(given) = usable {
            return given;
        }
        if let Some(dial) = &endpoint.dial {
            return Given::Dialing(dial.clone());
        }
        if endpoint.links.len() >= limits.upstream_http2_connections.max(1) {
            return Given::Full(endpoint.freed.clone());
        }
        let dial = Rc::new(Dial { outcome: Cell::new(None), done: Notify::new() });
        endpoint.dial = Some(dial.clone());
        // In a task of its own: it does not end with the request that asked for it.
        let limits = backend.own_limits().unwrap_or_else(|| worker.settings.own_limits.clone());
        let wanted = (place.clone(), limits);
        tokio::task::spawn_local(open(worker.clone(), wanted, dial.clone(), endpoint.freed.clone()));
        Given::Dialing(dial)
    }

    fn opened(&self, place: Place, opened: Result<Link, Failure>, dial: &Dial) {
        let mut endpoints = self.endpoints.borrow_mut();
        let endpoint = endpoints.entry(place).or_default();
        endpoint.dial = None;
        dial.outcome.set(Some(opened.map(|link| endpoint.links.push(link))));
        dial.done.notify_waiters();
    }

    /// Closes what has been idle for too long, and forgets endpoints without connections.
    pub(crate) fn sweep(&self, now: Moment) {
        self.endpoints.borrow_mut().retain(|_, endpoint| {
            endpoint.links.retain(|link| {
                let shared = &link.shared;
                let until = shared.idle_since.get() + shared.limits.upstream_idle_timeout;
                !shared.closed.get() && (shared.active.get() > 0 || now < until)
            });
            !endpoint.links.is_empty() || endpoint.dial.is_some() || Rc::strong_count(&endpoint.freed) > 1
        });
    }

    /// Closes all connections once their streams have ended.
    pub(crate) fn clear(&self) {
        self.endpoints.borrow_mut().clear();
    }
}

/// Opens a connection and begins to serve it.
async fn open(worker: Rc<Worker>, (place, limits): (Place, Arc<Limits>), dial: Rc<Dial>, freed: Rc<Notify>) {
    let limit = limits.upstream_connect_timeout;
    let opened = match connect(&worker, place.address, place.tls.as_ref(), limit).await {
        Ok(socket) => tokio::time::timeout(limit, begin(&worker, socket, limits, freed))
            .await
            .unwrap_or(Err(Failure::ConnectTimeout)),
        Err(failure) => Err(failure),
    };
    worker.clock.tick();
    worker.links.opened(place, opened, &dial);
}

async fn begin(
    worker: &Rc<Worker>,
    socket: Socket,
    limits: Arc<Limits>,
    freed: Rc<Notify>,
) -> Result<Link, Failure> {
    let now = worker.clock.now();
    let meter = Rc::new(Meter::of_endpoint(now));
    let secure = socket.is_secure();
    let io = Io { socket, input: ReadBuffer::default(), meter: meter.clone(), worker: worker.clone() };
    let (send, mut machine) = builder(&limits).handshake(io).await.map_err(|error| {
        tracing::debug!(%error, "an endpoint does not speak HTTP/2");
        Failure::Connect
    })?;
    let shared = Rc::new(Shared {
        secure,
        active: Cell::new(0),
        used: Cell::new(false),
        closed: Cell::new(false),
        settled: Cell::new(false),
        changed: Notify::new(),
        idle_since: Cell::new(now),
        freed,
        worker: worker.clone(),
        limits,
    });
    let pings =
        machine.ping_pong().map(|pings| Alive::new(pings, shared.limits.upstream_http2_keepalive_pause));
    let deadline = Deadline::new(now + shared.limits.http2_keepalive_delay, &worker.clock);
    let mut task = Task { machine, shared: shared.clone(), meter, pings, deadline };
    tokio::task::spawn_local(async move {
        poll_fn(|cx| task.poll(cx)).await;
        task.shared.closed.set(true);
        task.shared.changed.notify_waiters();
        task.shared.freed.notify_waiters();
    });
    Ok(Link { send, shared })
}

/// The machine with every limit set. Requests of many clients share it: what one of them does, reads or gives up is no
/// business of the others, so bounds are those of streams.
fn builder(limits: &Limits) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .max_concurrent_streams(0)
        .initial_max_send_streams(limits.upstream_http2_streams.max(1))
        .initial_window_size(window(limits.http2_stream_window_bytes))
        .initial_connection_window_size(shared_window(limits, limits.upstream_http2_streams))
        .max_frame_size(frame_bytes(limits.http2_frame_bytes))
        .max_header_list_size(number(terms::head_limits(limits).head_bytes))
        .header_table_size(number(limits.http2_header_table_bytes))
        // It is one for all streams, and frames of streams that were given up are charged for ever.
        .data_frame_budget(usize::MAX)
        .max_send_buffer_size(limits.http2_send_buffer_bytes)
        .max_concurrent_reset_streams(limits.http2_reset_streams.max(limits.upstream_http2_streams))
        .reset_stream_duration(limits.http2_reset_hold)
        .max_pending_accept_reset_streams(limits.http2_pending_resets)
        .max_local_error_reset_streams(None);
    builder
}

/// The task that moves a connection's frames.
struct Task {
    machine: h2::client::Connection<Io, Bytes>,
    shared: Rc<Shared>,
    meter: Rc<Meter>,
    pings: Option<Alive>,
    deadline: Deadline,
}

impl Task {
    /// Ready when the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Poll::Ready(ended) = Pin::new(&mut self.machine).poll(cx) {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection of HTTP/2 to an endpoint ended early");
            }
            return Poll::Ready(());
        }
        if !self.shared.settled.get() && self.meter.is_settled() {
            self.shared.settled.set(true);
            self.shared.changed.notify_waiters();
        }
        let worker = &self.shared.worker;
        while self.shared.active.get() > 0 {
            let Some(alive) = &mut self.pings else { break };
            let Some(at) = alive.poll(cx, &self.meter, &self.shared.limits, worker) else {
                tracing::debug!("an endpoint gave no sign of life");
                return Poll::Ready(());
            };
            self.deadline.set(at);
            if self.deadline.poll(cx, &worker.clock).is_pending() {
                break;
            }
            worker.clock.tick();
        }
        Poll::Pending
    }
}

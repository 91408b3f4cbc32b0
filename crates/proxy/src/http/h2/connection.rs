//! A client's HTTP/2 connection: its streams, and its end.
//!
//! The connection's task moves frames and accepts streams; each stream is a task of its own, on the same thread, that runs
//! the same code as a connection of HTTP/1.1. They meet in the `h2` crate's state and in [`Streams`].
//!
//! Invariants: the connection outlives none of its limits (time, frames that carry nothing, resets, requests); when it is to end it
//! says so (GOAWAY) and lets the streams that it has end first.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Ping, PingPong, Reason, RecvStream};
use http::Request;
use weir_model::limits::Limits;

use super::io::Io;
use super::meter::Meter;
use super::stream::Stream;

use crate::buffer::ReadBuffer;
use crate::clock::Moment;
use crate::deadline::Deadline;
use crate::http::h1::{Downstream, serve_stream};
use crate::io::Socket;
use crate::terms::Terms;
use crate::worker::{Presence, Worker};

/// Serves a connection whose client speaks HTTP/2. `input` is what was read of it so far, the preface included.
pub(crate) async fn serve(down: Rc<Downstream>, client: Socket, input: ReadBuffer) {
    let worker = down.worker().clone();
    let meter = Rc::new(Meter::of_client(worker.clock.now()));
    let io = Io { socket: client, input, meter: meter.clone(), worker: worker.clone() };
    let terms = down.terms();
    let limits = &terms.limits;
    let mut deadline = Deadline::new(worker.clock.now() + limits.header_read_timeout, &worker.clock);
    let mut handshake = std::pin::pin!(builder(&terms, down.trusted.get()).handshake(io));
    let machine = poll_fn(|cx| match handshake.as_mut().poll(cx) {
        Poll::Ready(machine) => Poll::Ready(machine.ok()),
        Poll::Pending => deadline.poll(cx, &worker.clock).map(|()| None),
    });
    let Some(mut machine) = machine.await else { return };
    worker.metrics.http2_connections.add(1);
    let now = worker.clock.tick();
    let pings = machine.ping_pong().map(|pings| Alive::new(pings, Duration::ZERO));
    let streams = Rc::new(Streams {
        down,
        meter: meter.clone(),
        active: Cell::new(0),
        resets: Cell::new(0),
        ended_at: Cell::new(now),
    });
    let mut served = Served {
        machine,
        streams,
        terms,
        meter,
        pings,
        deadline,
        began: now,
        requests: 0,
        recent: (0, now),
        end: End::No,
    };
    poll_fn(|cx| served.poll(cx, &worker)).await;
}

/// The machine with every limit set. `shared`: the client is a proxy, and brings many users' streams.
fn builder(terms: &Terms, shared: bool) -> h2::server::Builder {
    let limits = &terms.limits;
    let mut builder = h2::server::Builder::new();
    let (connection_window, small_data) = match shared {
        true => (
            shared_window(limits, limits.http2_streams),
            limits.http2_small_data_bytes.saturating_mul(limits.http2_streams),
        ),
        false => (window(limits.http2_connection_window_bytes), limits.http2_small_data_bytes),
    };
    builder
        .max_concurrent_streams(number(limits.http2_streams))
        .initial_window_size(window(limits.http2_stream_window_bytes))
        .initial_connection_window_size(connection_window)
        .max_frame_size(frame_bytes(limits.http2_frame_bytes))
        .max_header_list_size(number(terms.head_limits.head_bytes))
        .header_table_size(number(limits.http2_header_table_bytes))
        .data_frame_budget(small_data)
        .max_send_buffer_size(limits.http2_send_buffer_bytes)
        .max_concurrent_reset_streams(limits.http2_reset_streams)
        .reset_stream_duration(limits.http2_reset_hold)
        .max_pending_accept_reset_streams(limits.http2_pending_resets)
        .max_local_error_reset_streams(Some(limits.http2_local_resets))
        .enable_connect_protocol();
    builder
}

/// Pause before a question that could not be asked is asked again. Unit: time. Source: ours.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a new connection that has said nothing yet is not taken for an idle one. Unit: time. Source: ours.
const FIRST_WORDS: Duration = Duration::from_secs(1);

/// A stream that is given up later than this was not opened in order to be. Unit: time. Source: ours; what an attacker has open for so
/// long is bounded by the number of streams.
const PREMATURE: Duration = Duration::from_secs(1);

/// After so long what was counted against a client counts half. Unit: time. Source: ours.
const FORGET: Duration = Duration::from_secs(60);

/// Bounds of SETTINGS_MAX_FRAME_SIZE (RFC 9113 section 6.5.2).
const LEAST_FRAME: u32 = 1 << 14;
const MOST_FRAME: u32 = (1 << 24) - 1;

pub(super) fn number(limit: usize) -> u32 {
    u32::try_from(limit).unwrap_or(u32::MAX)
}

/// A window may not be larger than this (RFC 9113 section 6.9.1).
pub(super) fn window(limit: usize) -> u32 {
    number(limit).min((1 << 31) - 1)
}

/// The window of a connection whose streams do not belong together: what each may hold back leaves room for the others.
pub(super) fn shared_window(limits: &Limits, streams: usize) -> u32 {
    let all = limits.http2_stream_window_bytes.saturating_mul(streams);
    window(all.max(limits.http2_connection_window_bytes))
}

pub(super) fn frame_bytes(limit: usize) -> u32 {
    number(limit).clamp(LEAST_FRAME, MOST_FRAME)
}

/// What the streams of a connection share with it.
pub(super) struct Streams {
    down: Rc<Downstream>,
    meter: Rc<Meter>,
    active: Cell<usize>,
    /// Streams that the client gave up early and before they were answered, of late.
    resets: Cell<usize>,
    /// When the last one ended.
    ended_at: Cell<Moment>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("active", &self.active).finish_non_exhaustive()
    }
}

impl Streams {
    pub(super) fn now(&self) -> Moment {
        self.down.worker().clock.now()
    }

    /// A stream that began then was given up by its client before it was answered.
    pub(super) fn was_reset(&self, began: Moment) {
        if self.now() < began + PREMATURE {
            self.resets.set(self.resets.get() + 1);
        }
    }

    /// A part of an answer is on its way.
    pub(super) fn answered(&self) {
        self.meter.answered();
    }

    fn presence(&self) -> &Presence {
        &self.down.registered.presence
    }
}

/// A stream's place among those of its connection; given up when dropped, however the stream ended.
struct Place(Rc<Streams>);

impl Drop for Place {
    fn drop(&mut self) {
        let streams = &self.0;
        let worker = streams.down.worker();
        if std::thread::panicking() {
            worker.metrics.panics.add(1);
        }
        streams.active.set(streams.active.get() - 1);
        streams.ended_at.set(worker.clock.now());
        if streams.active.get() == 0
            && let Some(waker) = &*streams.presence().waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}

/// Whether the peer is there.
pub(super) struct Alive {
    pings: PingPong,
    /// When it was asked, while it has not answered.
    asked_at: Option<Moment>,
    /// When it was last asked.
    last: Option<Moment>,
    /// Least time between two questions if it has said nothing else in between.
    pause: Duration,
}

impl Alive {
    pub(super) fn new(pings: PingPong, pause: Duration) -> Alive {
        Alive { pings, asked_at: None, last: None, pause }
    }

    /// Asks a peer that has been silent, and gives the moment at which something is to be done next; `None` when it has not
    /// answered in time.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        meter: &Meter,
        limits: &Limits,
        worker: &Worker,
    ) -> Option<Moment> {
        let now = worker.clock.now();
        let mut due = meter.read_at() + limits.http2_keepalive_delay;
        if let Some(last) = self.last.filter(|last| meter.carried_at() <= *last) {
            due = due.max(last + self.pause);
        }
        if self.asked_at.is_some() && self.pings.poll_pong(cx).is_ready() {
            self.asked_at = None;
        }
        if self.asked_at.is_none() && now >= due && self.pings.send_ping(Ping::opaque()).is_ok() {
            self.asked_at = Some(now);
            self.last = Some(now);
            // Registers for the answer.
            let _ = self.pings.poll_pong(cx);
        }
        match self.asked_at {
            // Where it could not be asked, soon again.
            None if now >= due => Some(now + AGAIN),
            None => Some(due),
            Some(asked) => Some(asked + limits.http2_keepalive_timeout).filter(|end| *end > now),
        }
    }
}

/// Where the end of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    No,
    /// No new streams; the others may end.
    Announced,
    /// At once; since when.
    Now(Moment),
}

struct Served {
    machine: h2::server::Connection<Io, Bytes>,
    streams: Rc<Streams>,
    terms: Arc<Terms>,
    meter: Rc<Meter>,
    pings: Option<Alive>,
    deadline: Deadline,
    began: Moment,
    requests: usize,
    /// Requests of late, and when they and resets were last halved.
    recent: (usize, Moment),
    end: End,
}

impl Served {
    /// Ready when the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>, worker: &Rc<Worker>) -> Poll<()> {
        let waker = &self.streams.down.registered.presence.waker;
        if !waker.borrow().as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker.borrow_mut() = Some(cx.waker().clone());
        }
        if !self.streams.down.bind.has(&self.terms) {
            // What was said to the client in SETTINGS stays.
            self.terms = self.streams.down.terms();
        }
        loop {
            self.judge(worker);
            match self.machine.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => self.accept(request, respond, worker),
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "a connection of HTTP/2 ended early");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending if self.judge(worker) => {}
                Poll::Pending => break,
            }
        }
        self.poll_time(cx, worker)
    }

    /// Decides whether the connection is to end. True when that has just become so.
    fn judge(&mut self, worker: &Worker) -> bool {
        let (requests, since) = self.recent;
        if worker.clock.now() > since + FORGET {
            self.recent = (requests / 2, worker.clock.now());
            self.streams.resets.set(self.streams.resets.get() / 2);
        }
        let limits = &self.terms.limits;
        let resets = self.streams.resets.get();
        let resetting = resets > limits.http2_premature_resets && resets > self.recent.0 / 2;
        // Requests that were reset while they waited, and have not noticed yet.
        let crowded = self.streams.active.get() > limits.http2_requests_under_way.max(limits.http2_streams);
        if resetting || crowded || self.meter.debt() > limits.http2_control_frames {
            if matches!(self.end, End::Now(_)) {
                return false;
            }
            worker.metrics.http2_floods.add(1);
            self.machine.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            self.end = End::Now(worker.clock.now());
            return true;
        }
        let presence = self.streams.presence();
        let idle = self.streams.active.get() == 0;
        let since = if self.requests == 0 { self.began + FIRST_WORDS } else { self.idle_since() };
        presence.idle_since.set(idle.then_some(since));
        let leaving = (worker.is_retiring() && self.requests > 0)
            || worker.is_draining()
            || presence.asked_to_close.get()
            || presence.leave_at.get().is_some()
            || self.requests >= limits.requests_per_connection;
        if self.end != End::No || !leaving {
            return false;
        }
        self.machine.graceful_shutdown();
        self.end = End::Announced;
        true
    }

    fn idle_since(&self) -> Moment {
        self.streams.ended_at.get()
    }

    fn accept(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>, worker: &Rc<Worker>) {
        self.requests += 1;
        self.recent.0 += 1;
        worker.metrics.http2_streams.add(1);
        let streams = self.streams.clone();
        streams.active.set(streams.active.get() + 1);
        let place = Place(streams.clone());
        let (fields, bodies) = (self.terms.limits.header_count, self.terms.body_limits);
        let key = websocket_key(worker);
        tokio::task::spawn_local(async move {
            let stream = Stream::served(request, respond, (&key, fields), bodies, streams.clone());
            serve_stream(streams.down.clone(), Socket::of_stream(stream)).await;
            drop(place);
        });
    }

    /// Waits for the next moment at which something is to be done although nothing came.
    fn poll_time(&mut self, cx: &mut Context<'_>, worker: &Rc<Worker>) -> Poll<()> {
        loop {
            let Some(at) = self.next_moment(cx, worker) else { return Poll::Ready(()) };
            self.deadline.set(at);
            if self.deadline.poll(cx, &worker.clock).is_pending() {
                return Poll::Pending;
            }
            let now = worker.clock.tick();
            if self.is_late(now) {
                return Poll::Ready(());
            }
            // A connection that has been idle for long, or says nothing: it is told, and given a moment to hear it.
            if self.streams.active.get() == 0 && self.end == End::No && now >= self.idle_until() {
                self.machine.abrupt_shutdown(Reason::NO_ERROR);
                self.end = End::Now(now);
                cx.waker().wake_by_ref();
            }
        }
    }

    fn idle_until(&self) -> Moment {
        let limits = &self.terms.limits;
        if self.requests == 0 {
            self.began + limits.first_byte_timeout
        } else {
            self.idle_since() + limits.idle_timeout
        }
    }

    /// Nothing is left to wait for.
    fn is_late(&self, now: Moment) -> bool {
        let limits = &self.terms.limits;
        if self.streams.presence().leave_at.get().is_some_and(|at| now >= at) {
            return true;
        }
        let idle = self.streams.active.get() == 0;
        match self.end {
            End::Now(since) if now >= since + limits.linger_timeout => true,
            End::Announced if idle && now >= self.idle_since().max(self.began) + limits.linger_timeout => {
                true
            }
            _ => self.meter.head_since().is_some_and(|since| now >= since + limits.header_read_timeout),
        }
    }

    /// `None` when the peer is gone.
    fn next_moment(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Option<Moment> {
        let terms = self.terms.clone();
        let limits = &terms.limits;
        let idle = self.streams.active.get() == 0;
        let mut at = match self.end {
            End::Now(since) => since + limits.linger_timeout,
            End::Announced if idle => self.idle_since() + limits.linger_timeout,
            End::No if idle => self.idle_until(),
            _ => match &mut self.pings {
                Some(alive) => alive.poll(cx, &self.meter, limits, worker)?,
                None => worker.clock.now() + limits.idle_timeout,
            },
        };
        if let Some(since) = self.meter.head_since() {
            at = at.min(since + limits.header_read_timeout);
        }
        if let Some(leave_at) = self.streams.presence().leave_at.get() {
            at = at.min(leave_at);
        }
        Some(at)
    }
}

/// What a handshake of WebSocket in HTTP/1.1 carries and one in HTTP/2 does not: 16 random bytes in base64.
fn websocket_key(worker: &Worker) -> [u8; 24] {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (high, low) = (worker.random(), worker.random());
    let bits = u128::from(high) << 64 | u128::from(low);
    let mut key = [b'='; 24];
    for (index, digit) in key.iter_mut().take(22).enumerate() {
        let shifted = if index < 21 { bits >> (122 - 6 * index) } else { bits << 4 };
        *digit = DIGITS[(shifted & 63) as usize];
    }
    key
}

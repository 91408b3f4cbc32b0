//! One request at one endpoint: both directions at once, until the response's last byte is written.
//!
//! The request goes up while the response may already come down (early answers, streams both ways). A connection
//! goes back to the pool only after a whole request and a whole response with nothing left over; anything else closes it.
//! Bytes that nobody asked for are never taken for a message.

use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use weir_codec::body::{BodyError, BodyLimits, BodyScan, Form, Framing};
use weir_codec::field::{FieldStore, Known, KnownSet};
use weir_codec::head::{HeadError, HeadScan, ResponseHead, Version};
use weir_codec::rewrite::{self, CameBy, Delimiting, field};

use super::answer::millis;
use super::connection::{Connection, Next};
use super::pipe::{PipeError, Waiting};
use super::route::Forward;
use super::walk::Extras;
use crate::clock::Moment;
use crate::error::Failure;
use crate::filter::Edited;
use crate::io::Socket;
use crate::record::RequestRecord;
use crate::retry::Outcome;
use crate::session::Sealer;
use crate::terms;
use crate::upstream::acquire::Acquired;
use crate::upstream::balance::{self, InFlight};
use crate::upstream::pool::Busy;
use crate::worker::Worker;

/// Where the response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No final head yet.
    Head,
    Body,
    /// Bytes both ways after a 101.
    Tunnel {
        down_ended: bool,
    },
}

pub(super) struct Exchange {
    upstream: Socket,
    pub(super) in_flight: InFlight,
    busy: Option<Busy>,
    /// The connection has carried a request before.
    reused: bool,
    phase: Phase,
    interim: usize,
    /// Where the final head begins in what goes down.
    head_begins: u64,
    /// The request is still going up.
    sending: bool,
    /// The endpoint took no more of the request: it may have answered already.
    refused: bool,
    /// The client will send nothing more, or has sent the start of its next request.
    watching: bool,
    /// The endpoint's connection may carry another exchange.
    reusable: bool,
    /// The client's connection may.
    keep_alive: bool,
    /// Only a reset tells the client that a response was cut short.
    ends_by_close: bool,
    up_waiting: Waiting,
    down_waiting: Waiting,
    /// When the last bytes moved, and how many had by then.
    moved_at: Moment,
    moved: u64,
    sent_at: Moment,
    /// The rule's time for this try.
    deadline: Option<Moment>,
}

impl Connection {
    /// A whole response went down.
    #[inline]
    pub(super) fn conclude(
        &mut self,
        exchange: Exchange,
        forward: &Forward,
        record: &mut RequestRecord,
        worker: &Worker,
    ) -> Next {
        let request_done = self.to_endpoint.is_finished();
        record.request_bytes = self.to_endpoint.written();
        record.response_bytes = self.to_client.written();
        record.finish(worker);
        let Exchange { upstream, busy, phase, refused, reusable, keep_alive, .. } = exchange;
        let clean = self.answer.is_empty() && request_done && !refused;
        let keep_alive = keep_alive && request_done;
        self.answer.consume(usize::MAX);
        self.answer.release(&worker.buffers);
        worker.buffers.give_back_out(self.to_endpoint.take_out());
        worker.buffers.give_back_out(self.to_client.take_out());
        if reusable
            && clean
            && let Some(busy) = busy
        {
            busy.keep(upstream, worker.clock.now(), forward.pool_limits(worker));
        }
        let nothing_follows = request_done && self.input.is_empty();
        if keep_alive {
            Next::Request
        } else if nothing_follows || matches!(phase, Phase::Tunnel { .. }) {
            Next::Close
        } else {
            Next::Linger
        }
    }

    /// A response broke off after it had begun: the client must see that.
    pub(super) fn cut_short(
        &mut self,
        exchange: &Exchange,
        forward: &Forward,
        record: &mut RequestRecord,
        worker: &Worker,
        failure: Failure,
    ) -> Next {
        exchange.note(failure, forward, worker);
        if exchange.ends_by_close {
            self.client.reset_on_close();
        }
        record.failure = Some(failure);
        record.request_bytes = self.to_endpoint.written();
        record.response_bytes = self.to_client.written();
        record.finish(worker);
        worker.buffers.give_back_out(self.to_endpoint.take_out());
        self.abandon_answer(worker);
        Next::Close
    }

    /// Gives back what is leased for an answer that nobody wants; its connection is closed.
    pub(super) fn abandon_answer(&mut self, worker: &Worker) {
        let unsent = self.unsent_answer(worker);
        worker.buffers.give_back_out(unsent);
    }

    /// As [`Self::abandon_answer`], but keeps what the client has not been sent yet.
    pub(super) fn unsent_answer(&mut self, worker: &Worker) -> Vec<u8> {
        self.answer.consume(usize::MAX);
        self.answer.release(&worker.buffers);
        match self.to_client.take_unsent() {
            none if none.capacity() == 0 => worker.buffers.out(),
            unsent => unsent,
        }
    }

    /// Uses up the body of an answer that nobody wants, as far as it has arrived. False if there is more of it.
    fn skip_answer_body(&mut self, framing: Framing, limits: BodyLimits) -> bool {
        let mut scan = BodyScan::new(framing, Form::AsSent, limits);
        while !scan.is_done() {
            match scan.step(self.answer.bytes()) {
                Ok(step) if step.skip + step.pass > 0 => self.answer.consume(step.skip + step.pass),
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }

    /// Whether the client has seen nothing of a final response yet.
    pub(super) fn may_be_answered(&mut self, exchange: &Exchange) -> bool {
        match exchange.phase {
            Phase::Head => true,
            Phase::Body => self.to_client.retract(exchange.head_begins, &self.answer),
            Phase::Tunnel { .. } => false,
        }
    }

    /// Keeps the connection of a try whose answer has been read whole, and closes any other.
    pub(super) fn set_aside(&mut self, exchange: Exchange, forward: &Forward, worker: &Worker) {
        let whole = exchange.reusable
            && self.answer.is_empty()
            && self.to_endpoint.is_finished()
            && !exchange.refused;
        self.answer.consume(usize::MAX);
        self.answer.release(&worker.buffers);
        worker.buffers.give_back_out(self.to_client.take_out());
        if whole && let Some(busy) = exchange.busy {
            busy.keep(exchange.upstream, worker.clock.now(), forward.pool_limits(worker));
        }
    }
}

impl Exchange {
    pub(super) fn new(
        acquired: Acquired,
        connection: &mut Connection,
        forward: &mut Forward,
        worker: &Worker,
    ) -> Exchange {
        let now = worker.clock.now();
        // A stream may be refused without a harm, whatever the request does.
        if acquired.reused && forward.idempotent || forward.has_tries_left() || acquired.socket.is_stream() {
            let most_kept = forward.limits(worker).retry_body_bytes;
            connection.to_endpoint.keep_for_replay(most_kept);
        } else {
            connection.to_endpoint.stop_keeping();
        }
        connection.to_client.begin(Vec::new(), BodyScan::nothing());
        connection.answer_scan = HeadScan::default();
        if let Some(kept) = forward.extras.as_mut().and_then(|extras| extras.session.as_mut()) {
            kept.goes_to(acquired.in_flight.endpoint().address);
        }
        Exchange {
            upstream: acquired.socket,
            in_flight: acquired.in_flight,
            busy: acquired.busy,
            reused: acquired.reused,
            phase: Phase::Head,
            interim: 0,
            head_begins: 0,
            sending: true,
            refused: false,
            watching: true,
            reusable: false,
            keep_alive: false,
            ends_by_close: false,
            up_waiting: Waiting::ForSink,
            down_waiting: Waiting::ForSource,
            moved_at: now,
            moved: 0,
            sent_at: now,
            deadline: forward.rule.backend_request_timeout.map(|timeout| now + timeout),
        }
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        forward: &mut Forward,
        record: &mut RequestRecord,
        worker: &Rc<Worker>,
    ) -> Poll<Result<(), Failure>> {
        worker.clock.on_event();
        if let Poll::Ready(outcome) = self.poll_both(cx, connection, forward, record, worker) {
            return Poll::Ready(outcome);
        }
        let now = worker.clock.now();
        // Twice, as what is written leaves the buffer too.
        let moved = connection.to_endpoint.written()
            + 2 * connection.to_client.written()
            + connection.answer.bytes().len() as u64;
        if moved != self.moved {
            self.moved = moved;
            self.moved_at = now;
        }
        let leave_at = connection.down.registered.presence.leave_at.get();
        let at = self.wait_until(forward, connection, worker);
        connection.deadline.set(leave_at.map_or(at, |leave_at| leave_at.min(at)));
        ready!(connection.deadline.poll(cx, &worker.clock));
        if leave_at.is_some_and(|leave_at| leave_at < at) && !matches!(self.phase, Phase::Tunnel { .. }) {
            return Poll::Ready(Err(Failure::ListenerGone));
        }
        Poll::Ready(self.timed_out(worker.clock.tick(), forward))
    }

    fn poll_both(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        forward: &mut Forward,
        record: &mut RequestRecord,
        worker: &Rc<Worker>,
    ) -> Poll<Result<(), Failure>> {
        loop {
            let before = self.phase;
            if let Phase::Tunnel { .. } = self.phase {
                return self.poll_tunnel(cx, connection, worker).map(Ok);
            }
            if self.sending {
                self.poll_up(cx, connection, worker)?;
            }
            match self.phase {
                Phase::Head => {
                    if let Poll::Ready(read) =
                        self.poll_response_head(cx, connection, forward, record, worker)
                    {
                        read?;
                    }
                }
                Phase::Body => {
                    if let Poll::Ready(sent) = self.poll_down(cx, connection, worker) {
                        return Poll::Ready(sent);
                    }
                }
                Phase::Tunnel { .. } => {}
            }
            if self.phase == before {
                // Last, so that an answer that is there already costs no look at the client.
                if !self.sending && self.watching {
                    self.watch_client(cx, connection, worker)?;
                }
                return Poll::Pending;
            }
        }
    }

    /// Bytes both ways until both sides have ended, or either is gone: there is no message left that could fail.
    fn poll_tunnel(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        worker: &Worker,
    ) -> Poll<()> {
        if self.sending && self.poll_up(cx, connection, worker).is_err() {
            return Poll::Ready(());
        }
        if self.phase == (Phase::Tunnel { down_ended: false }) {
            match self.poll_down(cx, connection, worker) {
                Poll::Pending => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {
                    connection.client.shut_down_writes();
                    self.phase = Phase::Tunnel { down_ended: true };
                }
            }
        }
        let over = self.refused || (self.phase == (Phase::Tunnel { down_ended: true }) && !self.sending);
        if over { Poll::Ready(()) } else { Poll::Pending }
    }

    fn poll_up(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        worker: &Worker,
    ) -> Result<(), Failure> {
        let (client, input) = (&mut connection.client, &mut connection.input);
        let sent = connection.to_endpoint.poll(
            cx,
            client,
            input,
            &mut self.upstream,
            &worker.buffers,
            &mut self.up_waiting,
        );
        let limit = connection.terms.limits.request_body_bytes as u64;
        if limit > 0 && connection.to_endpoint.passed() > limit && !matches!(self.phase, Phase::Tunnel { .. })
        {
            return Err(Failure::BodyTooLarge);
        }
        match sent {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            // The answer may be there already; reading will tell.
            Poll::Ready(Err(PipeError::Write)) => self.refused = true,
            Poll::Ready(Err(PipeError::Read | PipeError::Body(BodyError::Truncated))) => {
                return Err(Failure::ClientGone);
            }
            Poll::Ready(Err(PipeError::Body(error))) => return Err(Failure::Body(error)),
        }
        self.sending = false;
        self.sent_at = worker.clock.now();
        if matches!(self.phase, Phase::Tunnel { .. }) {
            self.upstream.shut_down_writes();
        }
        Ok(())
    }

    /// Notices a client that goes away while it waits. A half-closed one is waiting still.
    fn watch_client(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        worker: &Worker,
    ) -> Result<(), Failure> {
        if !connection.input.is_empty() {
            self.watching = false;
            return Ok(());
        }
        match connection.input.poll_fill(&mut connection.client, &worker.buffers, cx) {
            Poll::Pending => {}
            Poll::Ready(Err(_)) => return Err(Failure::ClientGone),
            Poll::Ready(Ok(0)) => {
                self.watching = false;
                self.keep_alive = false;
            }
            // The next request; it has to wait for this one.
            Poll::Ready(Ok(_)) => {
                self.watching = false;
                connection.input.park(&worker.buffers);
            }
        }
        Ok(())
    }

    /// Reads heads until the final one is there and its rewritten form is ready to be sent.
    fn poll_response_head(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        forward: &mut Forward,
        record: &mut RequestRecord,
        worker: &Rc<Worker>,
    ) -> Poll<Result<(), Failure>> {
        loop {
            if self.take_head(connection, forward, record, worker)? {
                if self.phase != Phase::Head {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            // Interim responses are sent on at once, not with the final one.
            ready!(connection.to_client.poll_output(cx, &mut connection.answer, &mut connection.client))
                .map_err(|_| Failure::ClientGone)?;
            match ready!(connection.answer.poll_fill(&mut self.upstream, &worker.buffers, cx)) {
                Ok(0) | Err(_) if connection.answer.is_empty() => {
                    return Poll::Ready(Err(Failure::UpstreamClosed));
                }
                Ok(0) | Err(_) => return Poll::Ready(Err(Failure::UpstreamBody(BodyError::Truncated))),
                Ok(_) => {}
            }
        }
    }

    /// Takes a head from the input. False if none is there whole.
    fn take_head(
        &mut self,
        connection: &mut Connection,
        forward: &mut Forward,
        record: &mut RequestRecord,
        worker: &Rc<Worker>,
    ) -> Result<bool, Failure> {
        if connection.answer.is_empty() {
            return Ok(false);
        }
        if connection.to_client.out_mut().capacity() == 0 {
            *connection.to_client.out_mut() = worker.buffers.out();
        }
        let mut store = FieldStore::new();
        let own;
        let limits = match forward.own_limits() {
            None => &worker.settings.head_limits,
            Some(limits) => {
                own = terms::head_limits(limits);
                &own
            }
        };
        let read =
            connection.answer_scan.response(connection.answer.bytes(), forward.asked, limits, &mut store);
        // Looked at where it is: a head is too large to be moved.
        let (head, length) = match &read {
            Ok(Some((head, length))) => (head, *length),
            Ok(None) => return Ok(false),
            Err(error) => return Err(Failure::UpstreamHead(*error)),
        };
        connection.answer_scan = HeadScan::default();
        if head.is_interim() {
            self.interim += 1;
            if self.interim > forward.limits(worker).interim_responses {
                return Err(Failure::UpstreamHead(HeadError::TooLarge));
            }
            if forward.version == Version::Http11 {
                rewrite::interim(head, connection.to_client.out_mut());
            }
            connection.answer.consume(length);
            return Ok(true);
        }
        let (framing, delimiting) = (head.framing, Delimiting::of(head.framing, forward.version));
        balance::succeeded(self.in_flight.endpoint());
        self.reusable = head.reusable;
        let status = head.status;
        if forward.extras.is_some()
            && self.interim == 0
            && forward.wants_another_try(Failure::UpstreamStatus(status), &connection.to_endpoint)
        {
            connection.answer.consume(length);
            self.reusable &= connection.skip_answer_body(framing, forward.body_limits(worker));
            return Err(Failure::UpstreamStatus(status));
        }
        record.status = status;
        self.ends_by_close = delimiting == Delimiting::Close;
        let client_stays = self.watching || !connection.input.is_empty();
        self.keep_alive = forward.keep_alive
            && !worker.is_retiring()
            && !self.ends_by_close
            && !forward.asked.upgrade
            && client_stays
            && connection.to_endpoint.is_finished();
        let latency = worker.clock.now().since(self.sent_at);
        record.upstream_latency = Some(latency);
        self.head_begins = connection.to_client.end();
        let told = Told { keep_alive: self.keep_alive, delimiting, sealer: &connection.terms.sealer };
        write_head(head, told, forward, record, worker, connection.to_client.out_mut());
        connection.answer.consume(length);
        self.begin_body(framing, delimiting, forward, connection, worker);
        Ok(true)
    }

    fn begin_body(
        &mut self,
        framing: Framing,
        delimiting: Delimiting,
        forward: &Forward,
        connection: &mut Connection,
        worker: &Worker,
    ) {
        let limits = forward.body_limits(worker);
        let form = if delimiting == Delimiting::Close { Form::DataOnly } else { Form::AsSent };
        let wrap = framing == Framing::UntilClose && delimiting == Delimiting::Chunked;
        connection.to_client.begin_body(BodyScan::new(framing, form, limits), wrap);
        // It has been answered: it will not be sent again.
        connection.to_endpoint.stop_keeping();
        if framing == Framing::Tunnel {
            worker.metrics.tunnels.add(1);
            connection.to_endpoint.begin_body(BodyScan::new(Framing::Tunnel, Form::AsSent, limits), false);
            self.sending = true;
            self.phase = Phase::Tunnel { down_ended: false };
        } else {
            self.phase = Phase::Body;
        }
    }

    fn poll_down(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        worker: &Worker,
    ) -> Poll<Result<(), Failure>> {
        let (upstream, input) = (&mut self.upstream, &mut connection.answer);
        let buffers = &worker.buffers;
        let sent = ready!(connection.to_client.poll(
            cx,
            upstream,
            input,
            &mut connection.client,
            buffers,
            &mut self.down_waiting
        ));
        Poll::Ready(sent.map_err(|error| match error {
            PipeError::Write => Failure::ClientGone,
            PipeError::Read => Failure::UpstreamBody(BodyError::Truncated),
            PipeError::Body(error) => Failure::UpstreamBody(error),
        }))
    }

    /// How long nothing may happen.
    fn wait_until(&self, forward: &Forward, connection: &Connection, worker: &Worker) -> Moment {
        let (limits, client) = (forward.limits(worker), &connection.terms.limits);
        let bounds = [self.deadline, forward.deadline].into_iter().flatten().min();
        // The rule wants no time-out: only what bounds every stream holds.
        let endless = bounds.is_some_and(Moment::is_never);
        let long = |usual: Duration| usual.max(limits.tunnel_idle_timeout);
        // A call of gRPC may be a stream that has nothing to say, either way. Whether its client still lives is asked by PINGs.
        let is_call = forward.grpc && connection.client.as_stream().is_some();
        let quiet_for = |usual: Duration| if endless || is_call { long(usual) } else { usual };
        let up = match self.up_waiting {
            Waiting::ForSource => quiet_for(client.body_read_timeout),
            Waiting::ForSink => limits.body_write_timeout,
        };
        let down = match self.down_waiting {
            Waiting::ForSource => quiet_for(limits.upstream_body_timeout),
            Waiting::ForSink => client.body_write_timeout,
        };
        let quiet = match self.phase {
            Phase::Head if self.sending => up,
            Phase::Head => match bounds {
                // The rule's own times take the place of the general one.
                Some(bound)
                    if !endless && (forward.rule.request_timeout.is_some() || self.deadline.is_some()) =>
                {
                    return bound;
                }
                _ if endless => long(limits.upstream_response_timeout),
                _ => limits.upstream_response_timeout,
            },
            Phase::Body if self.sending => up.max(down),
            Phase::Body => down,
            Phase::Tunnel { down_ended } if down_ended || !self.sending => {
                limits.tunnel_idle_timeout.min(client.body_read_timeout)
            }
            Phase::Tunnel { .. } => return self.moved_at + limits.tunnel_idle_timeout,
        };
        let at = self.moved_at + quiet;
        bounds.map_or(at, |bound| bound.min(at))
    }

    fn timed_out(&self, now: Moment, forward: &Forward) -> Result<(), Failure> {
        if matches!(self.phase, Phase::Tunnel { .. }) {
            return Ok(());
        }
        if forward.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Failure::RequestTimeout);
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Failure::BackendRequestTimeout);
        }
        Err(match self.phase {
            Phase::Head if self.sending && self.up_waiting == Waiting::ForSource => Failure::BodyTimeout,
            Phase::Body if self.down_waiting == Waiting::ForSink => Failure::ClientStalled,
            _ => Failure::UpstreamTimeout,
        })
    }

    /// Whether the request may be sent once more after this failure, and if so makes it ready for that.
    pub(super) fn may_be_repeated(
        &self,
        failure: Failure,
        connection: &mut Connection,
        forward: &Forward,
    ) -> bool {
        let outcome = Outcome {
            failure,
            reused: self.reused && !self.upstream.was_reset(),
            answered: self.interim > 0,
            refused: self.upstream.was_refused(),
            idempotent: forward.idempotent,
            written: connection.to_endpoint.written(),
        };
        outcome.may_be_repeated() && connection.to_endpoint.rewind()
    }

    /// Whether the client has seen nothing at all yet.
    pub(super) fn is_unanswered(&self) -> bool {
        self.phase == Phase::Head && self.interim == 0
    }

    /// Counts a failure against the endpoint if it is its fault.
    pub(super) fn note(&self, failure: Failure, forward: &Forward, worker: &Worker) {
        // A stream that was reset says nothing about its connection.
        if failure == Failure::UpstreamClosed && !self.reused && !self.upstream.is_stream() {
            let avoid = forward.limits(worker).endpoint_retry_delay;
            balance::failed(self.in_flight.endpoint(), worker.clock.now().millis(), avoid);
        }
    }
}

/// What a client is told beside what the endpoint says.
struct Told<'a> {
    keep_alive: bool,
    delimiting: Delimiting,
    sealer: &'a Sealer,
}

/// Writes a final response's head for the client.
fn write_head(
    head: &ResponseHead<'_, '_>,
    Told { keep_alive, delimiting, sealer }: Told<'_>,
    forward: &Forward,
    record: &RequestRecord,
    worker: &Worker,
    out: &mut Vec<u8>,
) {
    let tokens = worker.settings.headers;
    let mut ours = KnownSet::EMPTY;
    if tokens.latency {
        ours = ours.with(Known::Latency);
    }
    if tokens.request_id {
        ours = ours.with(Known::RequestId);
    }
    let mut edited = Edited::new(rewrite::response_dropped(head, delimiting, ours));
    let session = forward.extras.as_ref().and_then(|extras| extras.session.as_ref());
    let told = session.and_then(|kept| kept.header(&forward.rule, forward.backend, sealer));
    let answered = forward.extras.as_deref().map(Extras::answered).unwrap_or_default();
    edited.response(forward.filters(), answered, &head.fields);
    if let Some((name, _)) = &told
        && name != "Set-Cookie"
    {
        head.fields.drop_name(&mut edited.dropped, name.as_bytes());
    }
    let came_by = match forward.state() {
        _ if !tokens.server => CameBy::Untold,
        Some(state) if state.http2() => CameBy::Http2,
        _ => CameBy::Http1,
    };
    rewrite::response(head, delimiting, edited.dropped, keep_alive, came_by, out);
    if !head.fields.has(Known::Date) {
        field(b"Date", &worker.clock.date(), out);
    }
    if tokens.latency {
        let upstream = record.upstream_latency.unwrap_or_default();
        let whole = worker.clock.now().since(record.started);
        out.extend_from_slice(b"X-Kong-Upstream-Latency: ");
        out.extend_from_slice(itoa::Buffer::new().format(millis(upstream)).as_bytes());
        out.extend_from_slice(b"\r\nX-Kong-Proxy-Latency: ");
        out.extend_from_slice(itoa::Buffer::new().format(millis(whole.saturating_sub(upstream))).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if !forward.request_id.is_empty() {
        field(b"X-Kong-Request-Id", &forward.request_id, out);
    }
    edited.write(out);
    if let Some((name, value)) = &told {
        field(name.as_bytes(), value.as_bytes(), out);
    }
    rewrite::finish(out);
}

//! Streams: connections whose bytes go to a backend as they are, whatever they mean.
//!
//! A connection takes one ticket and is given one endpoint; the endpoint is connected to at once, because in many protocols the
//! server speaks first. Bytes are copied both ways with back-pressure; an end in one direction is passed on, and the other goes on.
//!
//! Invariants: an invalid backend's share is closed without a byte; a stream ends when nothing moves for too long, or some time after
//! its listener is gone, never because of another change.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use weir_codec::body::{BodyLimits, BodyScan, Form, Framing};
use weir_model::select::{NoProbe, select_l4};
use weir_model::table::{BackendState, CompiledListener, CompiledRule};

use crate::buffer::ReadBuffer;
use crate::clock::Moment;
use crate::deadline::Deadline;
use crate::error::Failure;
use crate::http::h1::{Pipe, PipeError, Waiting};
use crate::io::Socket;
use crate::record::{RequestRecord, RequestText};
use crate::terms::Terms;
use crate::upstream::acquire::{Acquired, Speaks, Want, acquire};
use crate::upstream::balance::{InFlight, Tried};
use crate::upstream::pool::Busy;
use crate::worker::{Incoming, LimitsOf, Worker};

/// The rule and backend that a connection or flow was given.
pub(crate) struct Given {
    rule: Arc<CompiledRule>,
    backend: usize,
    listener: Arc<CompiledListener>,
}

impl Given {
    /// Looks up the rule and takes a ticket.
    pub(crate) fn new(
        worker: &Worker,
        bind: &weir_model::table::BindAddress,
        server_name: Option<&[u8]>,
        record: &mut RequestRecord,
    ) -> Result<Given, Failure> {
        let snapshot = worker.snapshot();
        let table = snapshot.bind(bind).ok_or(Failure::NoRoute)?;
        let selected = select_l4(table, server_name, &mut NoProbe).ok_or(Failure::NoRoute)?;
        record.selected(selected.listener, selected.rule);
        let backend = selected.rule.split.next().ok_or(Failure::NoBackends)?.backend;
        record.chosen(selected.rule, backend);
        Ok(Given { rule: selected.rule.clone(), backend, listener: selected.listener.clone() })
    }

    /// What the same ticket leads to now. `None` when it is none any more: the rule is gone, or has other weights.
    pub(crate) fn again(&self, worker: &Worker, bind: &weir_model::table::BindAddress) -> Option<Given> {
        let snapshot = worker.snapshot();
        let selected = select_l4(snapshot.bind(bind)?, None, &mut NoProbe)?;
        let (rule, listener) = (selected.rule.clone(), selected.listener.clone());
        Arc::ptr_eq(&rule.split, &self.rule.split).then_some(Given { rule, backend: self.backend, listener })
    }

    pub(crate) fn backend(&self) -> Result<&Arc<BackendState>, Failure> {
        self.rule
            .backends
            .get(self.backend)
            .and_then(|backend| backend.state())
            .ok_or(Failure::InvalidBackend)
    }

    /// Limits towards the backend's endpoints.
    pub(crate) fn limits<'a>(&self, worker: &'a Worker) -> LimitsOf<'a> {
        match self.backend() {
            Ok(backend) => worker.limits(backend),
            Err(_) => LimitsOf::Started(&worker.settings.limits),
        }
    }
}

/// What the access log says of a connection or flow.
pub(crate) fn text(terms: &Terms, peer: SocketAddr, server_name: Option<&[u8]>) -> Option<Box<RequestText>> {
    terms.logged.map(|logged| {
        Box::new(RequestText {
            logged,
            client: peer.ip().to_canonical().to_string(),
            host: String::from_utf8_lossy(server_name.unwrap_or_default()).into_owned(),
            ..RequestText::default()
        })
    })
}

/// Serves one connection until both directions have ended. `passed`: the bytes are a client's TLS.
pub(crate) async fn serve(incoming: Incoming, server_name: Option<&[u8]>, passed: bool) {
    let Incoming { registered, mut client, mut input, peer, bind, .. } = incoming;
    let worker = registered.worker.clone();
    worker.metrics.streams.opened.add(1);
    let mut record = RequestRecord::new(worker.clock.now());
    record.text = text(&bind.terms(), peer, server_name);
    let outcome = match acquire_for(&worker, &bind.address, server_name, passed, &mut record).await {
        Ok((given, acquired)) => {
            *registered.presence.listener.borrow_mut() = Some(given.listener.key.clone());
            let idle = given.limits(&worker).stream_idle_timeout;
            let mut stream = Stream::new(acquired, idle, &worker);
            let presence = &registered.presence;
            *presence.waker.borrow_mut() = Some(poll_fn(|cx| Poll::Ready(cx.waker().clone())).await);
            let outcome = poll_fn(|cx| {
                let ends = Ends { leave_at: presence.leave_at.get(), idle };
                stream.poll(cx, &mut client, &mut input, ends, &worker)
            })
            .await;
            record.request_bytes = stream.up.written();
            record.response_bytes = stream.down.written();
            stream.give_back(&worker);
            if outcome.is_err() {
                client.reset_on_close();
            }
            outcome
        }
        // Closed without a word: neither an alert nor an end that looks meant.
        Err(failure) => Err(failure),
    };
    record.failure = outcome.err();
    input.consume(usize::MAX);
    input.release(&worker.buffers);
    worker.metrics.streams.closed.add(1);
    record.finish_stream(&worker);
}

async fn acquire_for(
    worker: &Rc<Worker>,
    bind: &weir_model::table::BindAddress,
    server_name: Option<&[u8]>,
    passed: bool,
    record: &mut RequestRecord,
) -> Result<(Given, Acquired), Failure> {
    let given = Given::new(worker, bind, server_name, record)?;
    let want = Want {
        backend: given.backend()?,
        deadline: None,
        preferred: None,
        attempts: given.limits(worker).retry_attempts,
        fresh: true,
        speaks: match passed {
            true => Speaks::ClientsTls,
            false => Speaks::Bytes(Some(&given.listener)),
        },
    };
    let acquired = acquire(worker, &want, &mut Tried::new()).await?;
    record.retries = acquired.failed_tries;
    if let Some(text) = &mut record.text {
        text.endpoint = acquired.in_flight.endpoint().address.to_string();
    }
    Ok((given, acquired))
}

/// When a stream ends although nobody ended it.
#[derive(Clone, Copy)]
struct Ends {
    /// Its listener is gone, and at this moment it has to be.
    leave_at: Option<Moment>,
    /// How long nothing may move.
    idle: Duration,
}

/// Both directions of one connection.
struct Stream {
    upstream: Socket,
    /// Counted until the stream ends.
    _in_flight: InFlight,
    _busy: Option<Busy>,
    input: ReadBuffer,
    up: Pipe,
    down: Pipe,
    up_ended: bool,
    down_ended: bool,
    /// The endpoint takes no more.
    refused: bool,
    deadline: Deadline,
    moved: u64,
    moved_at: Moment,
}

impl Stream {
    fn new(acquired: Acquired, idle: Duration, worker: &Worker) -> Stream {
        let now = worker.clock.now();
        let limits = BodyLimits { extension_bytes: 0, trailer_bytes: 0 };
        let pipe = || Pipe::new(Vec::new(), BodyScan::new(Framing::Tunnel, Form::AsSent, limits), false);
        Stream {
            upstream: acquired.socket,
            _in_flight: acquired.in_flight,
            _busy: acquired.busy,
            input: ReadBuffer::default(),
            up: pipe(),
            down: pipe(),
            up_ended: false,
            down_ended: false,
            refused: false,
            deadline: Deadline::new(now + idle, &worker.clock),
            moved: 0,
            moved_at: now,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Socket,
        from_client: &mut ReadBuffer,
        Ends { leave_at, idle }: Ends,
        worker: &Rc<Worker>,
    ) -> Poll<Result<(), Failure>> {
        let now = worker.clock.tick();
        let mut waiting = Waiting::ForSource;
        if !self.up_ended {
            let upstream = &mut self.upstream;
            match self.up.poll(cx, client, from_client, upstream, &worker.buffers, &mut waiting) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => {
                    self.up_ended = true;
                    self.upstream.shut_down_writes();
                }
                // What it has said before it went may still be there.
                Poll::Ready(Err(PipeError::Write)) => {
                    self.up_ended = true;
                    self.refused = true;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Failure::ClientGone)),
            }
        }
        if !self.down_ended {
            let (upstream, input) = (&mut self.upstream, &mut self.input);
            match self.down.poll(cx, upstream, input, client, &worker.buffers, &mut waiting) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) if self.refused => return Poll::Ready(Err(Failure::UpstreamClosed)),
                Poll::Ready(Ok(())) => {
                    self.down_ended = true;
                    client.shut_down_writes();
                }
                Poll::Ready(Err(PipeError::Write)) => return Poll::Ready(Err(Failure::ClientGone)),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Failure::UpstreamClosed)),
            }
        }
        if self.up_ended && self.down_ended {
            return Poll::Ready(Ok(()));
        }
        let moved = self.up.written() + self.down.written();
        if moved != self.moved {
            self.moved = moved;
            self.moved_at = now;
        }
        let idle_at = self.moved_at + idle;
        self.deadline.set(leave_at.map_or(idle_at, |leave_at| leave_at.min(idle_at)));
        ready!(self.deadline.poll(cx, &worker.clock));
        let listener_is_gone = leave_at.is_some_and(|leave_at| leave_at < idle_at);
        Poll::Ready(Err(if listener_is_gone { Failure::ListenerGone } else { Failure::StreamIdle }))
    }

    fn give_back(mut self, worker: &Worker) {
        self.input.consume(usize::MAX);
        self.input.release(&worker.buffers);
        if !(self.up_ended && self.down_ended) {
            // One direction that broke off ends the other, and both peers are to see that.
            self.upstream.reset_on_close();
        }
        worker.buffers.give_back_out(self.up.take_out());
        worker.buffers.give_back_out(self.down.take_out());
    }
}

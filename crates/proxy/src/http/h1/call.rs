//! Requests that the proxy makes on its own account: copies for mirrors, questions to authorisation servers.
//!
//! They take connections from the same pool, by the same choice of endpoints, as the requests of clients. A kept connection that turns out
//! to be closed is replaced once, on the terms of [`crate::retry`].

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use weir_codec::body::{BodyError, BodyScan, Form, Framing};
use weir_codec::field::FieldStore;
use weir_codec::head::{Asked, HeadError, HeadScan};
use weir_model::table::{BackendState, CompiledListener};

use super::pipe::Pipe;
use crate::buffer::ReadBuffer;
use crate::clock::Moment;
use crate::error::Failure;
use crate::mirror::Tapped;
use crate::retry::Outcome;
use crate::upstream::acquire::{Acquired, Speaks, Want, acquire};
use crate::upstream::balance::{self, Tried};
use crate::worker::Worker;

/// A request of the proxy's own.
pub(crate) struct Call {
    pub(crate) backend: Arc<BackendState>,
    /// Its Gateway's certificate is shown to a backend that asks for one.
    pub(crate) listener: Arc<CompiledListener>,
    /// The head, and what is there of the body.
    pub(crate) request: Vec<u8>,
    /// Where the rest of the body comes from.
    pub(crate) rest: Option<Tapped>,
    pub(crate) asked: Asked,
    /// HTTP/2 is spoken whatever the backend says of itself.
    pub(crate) http2: bool,
    /// Doing it twice means the same as doing it once.
    pub(crate) idempotent: bool,
    /// When an answer is of no use any more.
    pub(crate) deadline: Moment,
    /// Bytes of the answer's body that are wanted; the rest is read and dropped.
    pub(crate) wanted_bytes: usize,
}

/// An answer to a [`Call`].
#[derive(Debug, Default)]
pub(crate) struct Reply {
    /// As received, with its empty line.
    pub(crate) head: Vec<u8>,
    /// Without chunks, up to the bytes that were wanted.
    pub(crate) body: Vec<u8>,
    /// Nothing of the body was left out.
    pub(crate) whole: bool,
}

impl Call {
    /// Sends the request and reads its answer to the end.
    pub(crate) async fn run(mut self, worker: &Rc<Worker>) -> Result<Reply, Failure> {
        let deadline = worker.clock.instant(self.deadline);
        let done = tokio::time::timeout_at(deadline, self.converse(worker)).await;
        worker.clock.tick();
        done.unwrap_or(Err(Failure::UpstreamTimeout))
    }

    async fn converse(&mut self, worker: &Rc<Worker>) -> Result<Reply, Failure> {
        let mut tried = Tried::new();
        let (mut fresh, mut repeats) = (false, 0);
        loop {
            let through = Some(self.listener.as_ref());
            let want = Want {
                backend: &self.backend,
                deadline: Some(self.deadline),
                preferred: None,
                attempts: worker.limits(&self.backend).retry_attempts,
                fresh,
                speaks: if self.http2 { Speaks::Http2(through) } else { Speaks::Http(through) },
            };
            let acquired = acquire(worker, &want, &mut tried).await?;
            let mut conversation = Conversation::new(acquired, self.request.clone());
            let outcome = poll_fn(|cx| conversation.poll(cx, self, worker)).await;
            match outcome {
                Ok(()) => return Ok(conversation.conclude(&self.backend, worker)),
                Err(failure)
                    if repeats <= worker.limits(&self.backend).retry_attempts
                        && conversation.may_be_repeated(failure, self) =>
                {
                    repeats += 1;
                    fresh = true;
                }
                Err(failure) => {
                    conversation.note(failure, &self.backend, worker);
                    return Err(failure);
                }
            }
        }
    }

    /// Appends what has come of the rest of the body. Ready when nothing more will.
    fn poll_rest(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<u8>,
        most_kept: usize,
    ) -> Poll<Result<(), Failure>> {
        let Some(rest) = &mut self.rest else { return Poll::Ready(Ok(())) };
        let before = out.len();
        let more = rest.poll_take(cx, out);
        // Kept to be sent again, as far as that is worth it.
        if !self.request.is_empty() {
            self.request.extend_from_slice(&out[before..]);
            if self.request.len() > most_kept {
                self.request = Vec::new();
            }
        }
        match ready!(more) {
            Ok(()) => {
                self.rest = None;
                Poll::Ready(Ok(()))
            }
            Err(_) => Poll::Ready(Err(Failure::ClientGone)),
        }
    }
}

/// One try of a [`Call`] at one endpoint.
struct Conversation {
    acquired: Acquired,
    up: Pipe,
    sent: bool,
    /// The endpoint took no more: its answer may be there.
    refused: bool,
    input: ReadBuffer,
    scan: HeadScan,
    interim: usize,
    /// Of the answer's body, once its head is there.
    body: Option<BodyScan>,
    reusable: bool,
    reply: Reply,
}

impl Conversation {
    fn new(acquired: Acquired, request: Vec<u8>) -> Conversation {
        let mut up = Pipe::empty();
        *up.out_mut() = request;
        Conversation {
            acquired,
            up,
            sent: false,
            refused: false,
            input: ReadBuffer::default(),
            scan: HeadScan::default(),
            interim: 0,
            body: None,
            reusable: false,
            reply: Reply { whole: true, ..Reply::default() },
        }
    }

    /// Ready when the answer has been read.
    fn poll(&mut self, cx: &mut Context<'_>, call: &mut Call, worker: &Worker) -> Poll<Result<(), Failure>> {
        worker.clock.tick();
        if !self.sent {
            self.poll_send(cx, call, worker)?;
        }
        loop {
            while let Some(body) = &mut self.body {
                if body.is_done() {
                    return Poll::Ready(Ok(()));
                }
                let step = body.step(self.input.bytes()).map_err(Failure::UpstreamBody)?;
                if step.skip + step.pass == 0 {
                    break;
                }
                self.input.consume(step.skip);
                let data = &self.input.bytes()[..step.pass];
                let room = call.wanted_bytes - self.reply.body.len();
                self.reply.whole &= data.len() <= room;
                self.reply.body.extend_from_slice(&data[..data.len().min(room)]);
                self.input.consume(step.pass);
            }
            if self.body.is_none() && self.take_head(call, worker)? {
                continue;
            }
            self.input.release(&worker.buffers);
            let read = self.input.poll_fill(&mut self.acquired.socket, &worker.buffers, cx);
            match ready!(read) {
                // Only an end that was meant is one.
                Err(_) if self.body.is_some() => {
                    return Poll::Ready(Err(Failure::UpstreamBody(BodyError::Truncated)));
                }
                Ok(0) | Err(_) => match &mut self.body {
                    Some(body) => body.end_of_input().map_err(Failure::UpstreamBody)?,
                    None if self.input.is_empty() => return Poll::Ready(Err(Failure::UpstreamClosed)),
                    None => return Poll::Ready(Err(Failure::UpstreamBody(BodyError::Truncated))),
                },
                Ok(_) => {}
            }
        }
    }

    /// Sends what there is to be sent; a wait is not a failure.
    fn poll_send(&mut self, cx: &mut Context<'_>, call: &mut Call, worker: &Worker) -> Result<(), Failure> {
        let mut nothing = ReadBuffer::default();
        loop {
            match self.up.poll_output(cx, &mut nothing, &mut self.acquired.socket) {
                // A copy that was given up meanwhile does not wait for a mirror that takes nothing.
                Poll::Pending if call.rest.as_mut().is_some_and(|rest| rest.is_broken(cx)) => {
                    return Err(Failure::ClientGone);
                }
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    self.refused = true;
                    self.sent = true;
                    return Ok(());
                }
            }
            let most_kept = worker.limits(&call.backend).retry_body_bytes;
            match call.poll_rest(cx, self.up.out_mut(), most_kept) {
                Poll::Ready(Ok(())) if !self.up.has_output() => {
                    self.sent = true;
                    return Ok(());
                }
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(failure)) => return Err(failure),
                Poll::Pending if !self.up.has_output() => return Ok(()),
                Poll::Pending => {}
            }
        }
    }

    /// Takes a head from the input. False if none is there whole.
    fn take_head(&mut self, call: &Call, worker: &Worker) -> Result<bool, Failure> {
        if self.input.is_empty() {
            return Ok(false);
        }
        let mut store = FieldStore::new();
        let limits = worker.head_limits(&call.backend);
        let read = self.scan.response(self.input.bytes(), call.asked, &limits, &mut store);
        let Some((head, length)) = read.map_err(Failure::UpstreamHead)? else { return Ok(false) };
        self.scan = HeadScan::default();
        if head.is_interim() {
            self.interim += 1;
            if self.interim > worker.limits(&call.backend).interim_responses {
                return Err(Failure::UpstreamHead(HeadError::TooLarge));
            }
        } else {
            balance::succeeded(self.acquired.in_flight.endpoint());
            self.reusable = head.reusable;
            // Nobody is there to use a tunnel.
            let framing = if head.framing == Framing::Tunnel { Framing::None } else { head.framing };
            self.body = Some(BodyScan::new(framing, Form::DataOnly, worker.body_limits(&call.backend)));
            if call.wanted_bytes > 0 {
                self.reply.head = self.input.bytes()[..length].to_vec();
            }
        }
        self.input.consume(length);
        Ok(true)
    }

    /// Keeps the connection if it is as good as new.
    fn conclude(mut self, backend: &BackendState, worker: &Worker) -> Reply {
        let clean = self.sent && !self.refused && self.input.is_empty();
        self.input.consume(usize::MAX);
        self.input.release(&worker.buffers);
        if self.reusable
            && clean
            && let Some(busy) = self.acquired.busy
        {
            busy.keep(self.acquired.socket, worker.clock.now(), worker.pool_limits(backend));
        }
        self.reply
    }

    fn may_be_repeated(&self, failure: Failure, call: &Call) -> bool {
        let outcome = Outcome {
            failure,
            reused: self.acquired.reused && !self.acquired.socket.was_reset(),
            answered: self.interim > 0,
            refused: self.acquired.socket.was_refused(),
            idempotent: call.idempotent,
            written: self.up.written(),
        };
        outcome.may_be_repeated() && !call.request.is_empty()
    }

    /// Counts a failure against the endpoint if it is its fault.
    fn note(&self, failure: Failure, backend: &BackendState, worker: &Worker) {
        if failure == Failure::UpstreamClosed && !self.acquired.reused && !self.acquired.socket.is_stream() {
            let avoid = worker.limits(backend).endpoint_retry_delay;
            balance::failed(self.acquired.in_flight.endpoint(), worker.clock.now().millis(), avoid);
        }
    }
}

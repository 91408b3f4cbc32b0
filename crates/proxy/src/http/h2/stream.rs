//! One stream that looks like a connection carrying one HTTP/1.1 exchange.
//!
//! What is read from it is the peer's message as text: a head, then the body, in chunks where its length was not
//! announced. What is written to it is text too, and leaves as HEADERS and DATA. So everything that is done with a request
//! is done once for both versions, and a stream of either side can be put where a socket could.
//!
//! Invariants: at most one DATA frame is held here; a peer's window is opened again only when what it sent has been
//! taken and passed on; nothing is written beyond the peer's window and the bound of what may wait; a stream that is dropped
//! before its end is reset.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};
use weir_codec::body::{BodyLimits, BodyScan, CHUNK_END, Form, Framing, chunk_start};

use super::connection::Streams;
use super::head::{self, Asked, Written};
use super::upstream::Slot;
use crate::clock::Moment;
use crate::error::Failure;
use crate::worker::Worker;

/// Room that has to be left in a buffer for a chunk to be begun in it: its first line, some data, its end.
const LEAST_ROOM: usize = 64;

#[derive(Debug)]
pub(crate) struct Stream {
    reading: Reading,
    writing: Writing,
    /// The request that this is about.
    asked: Asked,
    limits: BodyLimits,
    /// The peer did nothing with the request, and said so.
    refused: bool,
    /// The peer has given the stream up.
    reset: bool,
    side: Side,
}

/// Who the peer is.
#[derive(Debug)]
enum Side {
    /// With the moment at which its request came.
    Client(Rc<Streams>, Moment),
    Endpoint(Slot),
}

/// What comes from the peer.
#[derive(Debug)]
struct Reading {
    /// Text that is ready to be taken: a head, a chunk's first line, trailers.
    text: Vec<u8>,
    text_at: usize,
    /// Data that is ready to be taken after the text.
    data: Bytes,
    /// What ends the data.
    after: &'static [u8],
    from: From,
    /// Data that was taken and not yet passed on.
    taken: usize,
}

#[derive(Debug)]
enum From {
    /// Nothing before a request has been written.
    Nowhere,
    /// The request could not be written.
    Failed,
    Response(ResponseFuture),
    Body(RecvStream, Written),
    /// The message is over.
    Over(Option<RecvStream>),
}

/// What goes to the peer.
#[derive(Debug)]
struct Writing {
    sink: Sink,
    scan: BodyScan,
    /// Bytes of data at the start of what is written next.
    pass: usize,
    trailers: HeaderMap,
}

enum Sink {
    /// A final response's head is still to come.
    Respond(SendResponse<Bytes>),
    /// A request's head is still to come.
    Request(SendRequest<Bytes>),
    Body(SendStream<Bytes>),
    Tunnel(SendStream<Bytes>),
    /// All has been written; the stream is still good for telling that it was reset.
    Over(Option<SendStream<Bytes>>),
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Sink::Respond(_) => "Respond",
            Sink::Request(_) => "Request",
            Sink::Body(_) => "Body",
            Sink::Tunnel(_) => "Tunnel",
            Sink::Over(_) => "Over",
        })
    }
}

fn failed(error: h2::Error) -> io::Error {
    error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
}

impl Stream {
    /// A client's request.
    pub(super) fn served(
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        (key, most_fields): (&[u8], usize),
        limits: BodyLimits,
        streams: Rc<Streams>,
    ) -> Stream {
        let mut text = Vec::with_capacity(1024);
        let written =
            head::request_text(&request, request.body().is_end_stream(), key, most_fields, &mut text);
        let asked = Asked::by_client(request.method());
        let body = request.into_body();
        let from =
            if written == Written::Nothing { From::Over(Some(body)) } else { From::Body(body, written) };
        let began = streams.now();
        Stream::new(text, from, Sink::Respond(respond), asked, limits, Side::Client(streams, began))
    }

    /// A place for a request to an endpoint.
    pub(super) fn requested(send: SendRequest<Bytes>, limits: BodyLimits, slot: Slot) -> Stream {
        let asked = Asked::default();
        Stream::new(Vec::new(), From::Nowhere, Sink::Request(send), asked, limits, Side::Endpoint(slot))
    }

    fn new(text: Vec<u8>, from: From, sink: Sink, asked: Asked, limits: BodyLimits, side: Side) -> Stream {
        let scan = BodyScan::new(Framing::None, Form::DataOnly, limits);
        Stream {
            reading: Reading { text, text_at: 0, data: Bytes::new(), after: b"", from, taken: 0 },
            writing: Writing { sink, scan, pass: 0, trailers: HeaderMap::new() },
            asked,
            limits,
            refused: false,
            reset: false,
            side,
        }
    }

    /// Whether the peer, which is there still, gave the stream up.
    pub(crate) fn was_reset(&self) -> bool {
        self.reset
    }

    /// Whether the peer said that it did nothing with the request (RFC 9113 sections 6.8 and 8.7).
    pub(crate) fn was_refused(&self) -> bool {
        self.refused
    }

    /// Whether the endpoint takes requests for WebSockets; waits until it has said so (RFC 8441 section 3), a bounded time.
    pub(crate) async fn takes_web_sockets(&self, worker: &Worker) -> Result<(), Failure> {
        let (Sink::Request(send), Side::Endpoint(slot)) = (&self.writing.sink, &self.side) else {
            return Err(Failure::NoWebSocket);
        };
        let limit = slot.limits().upstream_connect_timeout;
        let settled = tokio::time::timeout(limit, slot.settled()).await;
        worker.clock.tick();
        settled.unwrap_or(Err(Failure::ConnectTimeout))?;
        if send.is_extended_connect_protocol_enabled() { Ok(()) } else { Err(Failure::NoWebSocket) }
    }

    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reading.is_ready() {
            return Poll::Ready(Ok(()));
        }
        match ready!(self.poll_next(cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => {
                self.note(&error);
                Poll::Ready(Err(failed(error)))
            }
        }
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_readable(cx))?;
        let mut filled = self.reading.take(buffer);
        // As many frames as there is room for, so that few writes are made of them.
        while filled > 0 && buffer.len() - filled >= LEAST_ROOM && self.reading.goes_on() {
            match self.poll_next(cx) {
                Poll::Ready(Ok(())) if self.reading.is_ready() => {
                    filled += self.reading.take(&mut buffer[filled..]);
                }
                // Told again the next time.
                _ => break,
            }
        }
        Poll::Ready(Ok(filled))
    }

    /// Gets the next piece ready. Ready with nothing where a connection would have ended: after a tunnel, and after an endpoint's
    /// answer.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            match &mut self.reading.from {
                From::Nowhere => return Poll::Pending,
                From::Failed => return Poll::Ready(Err(Reason::INTERNAL_ERROR.into())),
                From::Response(response) => {
                    if let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
                        head::interim_text(&interim?, &mut self.reading.text);
                        if self.reading.is_ready() {
                            return Poll::Ready(Ok(()));
                        }
                        continue;
                    }
                    let response = ready!(Pin::new(response).poll(cx))?;
                    let ended = response.body().is_end_stream();
                    let written = head::response_text(&response, ended, &self.asked, &mut self.reading.text);
                    let body = response.into_body();
                    self.reading.from = match written {
                        Written::Nothing => From::Over(Some(body)),
                        written => From::Body(body, written),
                    };
                    return Poll::Ready(Ok(()));
                }
                From::Body(_, written) => {
                    let tunnel = *written == Written::Tunnel;
                    ready!(self.reading.poll_body(cx))?;
                    if tunnel || self.reading.is_ready() {
                        return Poll::Ready(Ok(()));
                    }
                }
                From::Over(_) => {
                    self.reading.release();
                    return match self.side {
                        // Whoever waits for an answer is told when the client no longer does.
                        Side::Client(..) => self.writing.poll_reset(cx),
                        Side::Endpoint(_) => Poll::Ready(Ok(())),
                    };
                }
            }
        }
    }

    /// Remembers what an error says beside that it is one.
    fn note(&mut self, error: &h2::Error) {
        // A bare reason is what a wait for a reset ends with.
        let bare = error.reason().is_some() && !error.is_reset() && !error.is_go_away();
        if !(error.is_remote() || bare) {
            return;
        }
        match &self.side {
            Side::Client(streams, began) if !self.reset && matches!(self.writing.sink, Sink::Respond(_)) => {
                streams.was_reset(*began);
            }
            Side::Client(..) => {}
            Side::Endpoint(_) => {
                self.refused |= error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM);
            }
        }
        self.reset = true;
    }

    pub(crate) fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut written = 0;
        for slice in slices {
            let mut at = 0;
            while at < slice.len() {
                match self.write(&slice[at..])? {
                    0 if written + at == 0 => return Err(io::ErrorKind::WouldBlock.into()),
                    0 => return Ok(written + at),
                    count => at += count,
                }
            }
            written += at;
        }
        Ok(written)
    }

    /// Takes the next piece of `bytes`, which are not empty; 0 when the peer's window is closed.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.write_piece(bytes);
        if let (Side::Client(streams, _), Ok(1..)) = (&self.side, &written) {
            streams.answered();
        }
        written
    }

    fn write_piece(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.writing.sink {
            Sink::Respond(_) => self.write_response(bytes),
            Sink::Request(_) => self.write_request(bytes),
            Sink::Body(_) => self.writing.write_body(bytes),
            Sink::Tunnel(stream) => {
                let count = Writing::room(stream, bytes.len());
                if count > 0 {
                    stream.send_data(Bytes::copy_from_slice(&bytes[..count]), false).map_err(failed)?;
                }
                Ok(count)
            }
            Sink::Over(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn write_response(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Sink::Respond(respond) = &mut self.writing.sink else { return Ok(0) };
        let (response, framing, length) = head::response_of(bytes, self.asked.to_head)?;
        if response.status().is_informational() {
            respond.send_informational(response).map_err(failed)?;
            return Ok(length);
        }
        let ends = matches!(framing, Framing::None | Framing::Length(0));
        let stream = respond.send_response(response, ends).map_err(failed)?;
        self.writing.begin(stream, framing, self.limits);
        Ok(length)
    }

    fn write_request(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (Sink::Request(send), Side::Endpoint(slot)) = (&mut self.writing.sink, &self.side) else {
            return Ok(0);
        };
        self.reading.from = From::Failed;
        let (request, asked, framing, length) = head::request_of(bytes, slot.is_secure())?;
        let ends = matches!(framing, Framing::None | Framing::Length(0));
        self.asked = asked;
        match send.send_request(request, ends) {
            Ok((response, stream)) => {
                self.reading.from = From::Response(response);
                self.writing.begin(stream, framing, self.limits);
                Ok(length)
            }
            Err(error) => {
                // The connection takes no more streams: this one never was.
                self.refused = true;
                Err(failed(error))
            }
        }
    }

    pub(crate) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (Sink::Body(stream) | Sink::Tunnel(stream)) = &mut self.writing.sink else {
            return Poll::Ready(Ok(()));
        };
        while stream.capacity() == 0 {
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    self.note(&error);
                    return Poll::Ready(Err(failed(error)));
                }
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the writing side, where that does not follow from what was written.
    pub(crate) fn finish(&mut self) {
        if let Sink::Tunnel(stream) = &mut self.writing.sink {
            // An error means that the stream is gone already.
            let _ = stream.send_data(Bytes::new(), true);
            self.writing.sink = Sink::Over(None);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reading.release();
        if matches!(self.side, Side::Endpoint(_)) {
            // Dropping the rest says CANCEL.
            return;
        }
        match &mut self.writing.sink {
            Sink::Respond(respond) => respond.send_reset(Reason::INTERNAL_ERROR),
            Sink::Body(stream) => stream.send_reset(Reason::INTERNAL_ERROR),
            Sink::Tunnel(stream) => stream.send_reset(Reason::CANCEL),
            Sink::Request(_) | Sink::Over(_) => {}
        }
    }
}

impl Reading {
    fn is_ready(&self) -> bool {
        self.text_at < self.text.len() || !self.data.is_empty() || !self.after.is_empty()
    }

    /// More of the same message may be there.
    fn goes_on(&self) -> bool {
        !self.is_ready() && matches!(self.from, From::Body(..))
    }

    /// Moves what is ready into `buffer`.
    fn take(&mut self, buffer: &mut [u8]) -> usize {
        let mut filled = copy(&self.text[self.text_at..], buffer);
        self.text_at += filled;
        if self.text_at < self.text.len() {
            return filled;
        }
        self.text.clear();
        self.text_at = 0;
        let count = copy(&self.data, &mut buffer[filled..]);
        self.data.advance(count);
        self.taken += count;
        filled += count;
        if self.data.is_empty() {
            // Its memory goes with the frame.
            self.data = Bytes::new();
            let count = copy(self.after, &mut buffer[filled..]);
            self.after = &self.after[count..];
            filled += count;
        }
        filled
    }

    /// Opens the peer's window for what has been passed on: whoever asks for more has done that.
    fn release(&mut self) {
        let (From::Body(body, _) | From::Over(Some(body))) = &mut self.from else { return };
        if self.taken > 0 {
            // An error means that the stream is gone already.
            let _ = body.flow_control().release_capacity(self.taken);
            self.taken = 0;
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        self.release();
        let From::Body(body, written) = &mut self.from else { return Poll::Ready(Ok(())) };
        let written = *written;
        loop {
            match ready!(body.poll_data(cx)) {
                Some(data) => self.data = data?,
                None => break,
            }
            if !self.data.is_empty() {
                if written == Written::Chunks {
                    chunk_start(self.data.len(), &mut self.text);
                    self.after = CHUNK_END;
                }
                return Poll::Ready(Ok(()));
            }
        }
        match written {
            Written::Tunnel => return Poll::Ready(Ok(())),
            Written::Chunks => {
                let trailers = ready!(body.poll_trailers(cx))?;
                head::trailers_text(trailers.as_ref(), &mut self.text);
            }
            Written::Plain | Written::Nothing => {}
        }
        if let From::Body(body, _) = std::mem::replace(&mut self.from, From::Over(None)) {
            self.from = From::Over(Some(body));
        }
        Poll::Ready(Ok(()))
    }
}

fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let count = from.len().min(to.len());
    to[..count].copy_from_slice(&from[..count]);
    count
}

impl Writing {
    fn begin(&mut self, stream: SendStream<Bytes>, framing: Framing, limits: BodyLimits) {
        self.scan = BodyScan::new(framing, Form::DataOnly, limits);
        self.sink = match framing {
            Framing::None | Framing::Length(0) => Sink::Over(Some(stream)),
            Framing::Tunnel => Sink::Tunnel(stream),
            _ => Sink::Body(stream),
        };
    }

    /// How many of `wanted` bytes may be written now.
    fn room(stream: &mut SendStream<Bytes>, wanted: usize) -> usize {
        stream.reserve_capacity(wanted);
        stream.capacity().min(wanted)
    }

    /// Takes a piece of a body's text.
    fn write_body(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Sink::Body(stream) = &mut self.sink else { return Ok(0) };
        let mut used = 0;
        if self.pass == 0 {
            let in_trailers = self.scan.is_in_trailers();
            let step = self.scan.step(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            if in_trailers {
                head::trailers_of(&bytes[..step.skip], &mut self.trailers)?;
            }
            (used, self.pass) = (step.skip, step.pass);
            if used + self.pass == 0 && !self.scan.is_done() {
                // Text is written in whole lines; half a one would never be completed.
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        if self.pass > 0 {
            let count = Writing::room(stream, self.pass);
            let ends = count == self.pass && self.scan.is_done();
            if count > 0 {
                let data = Bytes::copy_from_slice(&bytes[used..used + count]);
                stream.send_data(data, ends).map_err(failed)?;
            }
            self.pass -= count;
            used += count;
            if ends {
                self.end();
            }
        } else if self.scan.is_done() {
            if self.trailers.is_empty() {
                stream.send_data(Bytes::new(), true).map_err(failed)?;
            } else {
                stream.send_trailers(std::mem::take(&mut self.trailers)).map_err(failed)?;
            }
            self.end();
        }
        Ok(used)
    }

    fn end(&mut self) {
        if let Sink::Body(stream) = std::mem::replace(&mut self.sink, Sink::Over(None)) {
            self.sink = Sink::Over(Some(stream));
        }
    }

    /// Never ready with anything but an error: the peer, or the connection, has given the stream up.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let reset = match &mut self.sink {
            Sink::Respond(respond) => respond.poll_reset(cx),
            Sink::Body(stream) | Sink::Tunnel(stream) | Sink::Over(Some(stream)) => stream.poll_reset(cx),
            Sink::Request(_) | Sink::Over(None) => return Poll::Pending,
        };
        match ready!(reset) {
            Ok(reason) => Poll::Ready(Err(reason.into())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

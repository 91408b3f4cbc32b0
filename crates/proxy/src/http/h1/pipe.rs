//! One direction of an exchange: bytes from one socket to another, with what stands before, between and after them.
//!
//! A pipe holds at most one read buffer of bytes and reads no more before they are written: that is the
//! back-pressure. A head goes out together with what is there of its body in one plain send: the body is copied behind it where
//! it is small, else the head before the body, into the room that its buffer has for that.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use weir_codec::body::{BodyError, BodyScan, CHUNK_END, LAST_CHUNK, chunk_start};

use crate::buffer::{Buffers, ReadBuffer};
use crate::io::Socket;
use crate::mirror::{self, Taps};

/// Body bytes up to this many are copied behind a head so that both leave in one plain send. Unit: bytes. Source:
/// measured (2 to 4 % less CPU than a vectored write).
const JOIN_BYTES: usize = 4 * 1024;

#[derive(Debug)]
pub(crate) struct Pipe {
    /// What goes out before the passed bytes: a head, a chunk's first line.
    out: Vec<u8>,
    out_at: usize,
    /// Bytes at the start of the read buffer that go out next.
    pass: usize,
    /// What goes out after them.
    tail: &'static [u8],
    scan: BodyScan,
    /// Passed bytes are wrapped in chunks.
    wrap: bool,
    /// While not zero: everything is kept in `out` after it was written, up to so many bytes, to be sent again.
    replay_bytes: usize,
    /// Who else gets the body.
    taps: Option<Box<Taps>>,
    /// Bytes given to the kernel.
    written: u64,
    passed: u64,
}

#[derive(Debug)]
pub(crate) enum PipeError {
    /// The source failed.
    Read,
    /// The sink failed.
    Write,
    Body(BodyError),
}

/// Progress of [`Pipe::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    ForSource,
    ForSink,
}

impl Pipe {
    /// Sends `out`, then the body that `scan` finds, in chunks of its own if `wrap`.
    pub(crate) fn new(out: Vec<u8>, scan: BodyScan, wrap: bool) -> Pipe {
        Pipe {
            out,
            out_at: 0,
            pass: 0,
            tail: b"",
            scan,
            wrap,
            replay_bytes: 0,
            taps: None,
            written: 0,
            passed: 0,
        }
    }

    /// Sends nothing.
    pub(crate) fn empty() -> Pipe {
        Pipe::new(Vec::new(), BodyScan::nothing(), false)
    }

    /// Makes an empty pipe, or one whose bytes nobody wants any more, what [`Self::new`] makes, where it is.
    pub(crate) fn begin(&mut self, out: Vec<u8>, scan: BodyScan) {
        self.out = out;
        self.out_at = 0;
        self.pass = 0;
        self.tail = b"";
        self.scan = scan;
        self.wrap = false;
        self.replay_bytes = 0;
        self.taps = None;
        self.written = 0;
        self.passed = 0;
    }

    /// What follows the head that was put into [`Self::out_mut`].
    pub(crate) fn begin_body(&mut self, scan: BodyScan, wrap: bool) {
        self.scan = scan;
        self.wrap = wrap;
    }

    /// Lets mirrors have the body as it passes.
    pub(crate) fn tap(&mut self, mut taps: Taps) {
        if self.scan.is_done() {
            taps.end();
        }
        if !taps.is_empty() {
            self.taps = Some(Box::new(taps));
        }
    }

    /// Keeps what is sent, up to `bytes` of body, for [`Self::rewind`].
    pub(crate) fn keep_for_replay(&mut self, bytes: usize) {
        // What is kept already stays within the bound of the first try; what was too much for it is passed on once.
        if self.replay_bytes == 0 && self.pass == 0 {
            self.replay_bytes = self.out.len() + bytes;
        }
    }

    /// Whether [`Self::rewind`] is possible.
    pub(crate) fn can_rewind(&self) -> bool {
        self.replay_bytes != 0 || self.written == 0
    }

    /// Makes the pipe send everything again from the start. False when it is too late for that.
    pub(crate) fn rewind(&mut self) -> bool {
        let possible = self.can_rewind();
        if possible {
            self.out_at = 0;
            self.written = 0;
        }
        possible
    }

    /// Nothing will be sent again: what is written may be forgotten.
    pub(crate) fn stop_keeping(&mut self) {
        self.replay_bytes = 0;
        if self.out_at == self.out.len() {
            self.out.clear();
            self.out_at = 0;
        }
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Bytes of the body so far, as sent.
    pub(crate) fn passed(&self) -> u64 {
        self.passed
    }

    /// Uses up what is left of the body, if it has arrived already. False if there is more of it.
    pub(crate) fn skip_body(&mut self, input: &mut ReadBuffer) -> bool {
        input.consume(self.pass);
        self.pass = 0;
        while !self.scan.is_done() {
            match self.scan.step(input.bytes()) {
                Ok(step) if step.skip + step.pass > 0 => input.consume(step.skip + step.pass),
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }

    /// The whole body has been written.
    pub(crate) fn is_finished(&self) -> bool {
        self.scan.is_done() && !self.has_output()
    }

    pub(crate) fn out_mut(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Bytes that are written or ready to be: where what comes next will begin.
    pub(crate) fn end(&self) -> u64 {
        self.written + (self.out.len() - self.out_at) as u64
    }

    /// Takes back everything from `begin` (as [`Self::end`] gave it) on. False if some of it was written. What `input` holds is
    /// wanted no more.
    pub(crate) fn retract(&mut self, begin: u64, input: &ReadBuffer) -> bool {
        let Some(before) = begin.checked_sub(self.written).and_then(|before| usize::try_from(before).ok())
        else {
            return false;
        };
        if self.out_at == self.out.len() {
            // It went before the body, see `put_out_before`.
            let moved = self.pass.min(before);
            self.out.extend_from_slice(&input.bytes()[..moved]);
        }
        self.out.truncate(self.out_at + before);
        self.pass = 0;
        self.tail = b"";
        true
    }

    /// Ends it, and gives what has not been written yet, if that is in the head buffer alone.
    pub(crate) fn take_unsent(&mut self) -> Vec<u8> {
        let sent = self.out_at;
        let mut out = self.take_out();
        out.drain(..sent);
        out
    }

    /// Ends it, and gives the head buffer back.
    pub(crate) fn take_out(&mut self) -> Vec<u8> {
        self.out_at = 0;
        self.pass = 0;
        self.tail = b"";
        self.taps = None;
        std::mem::take(&mut self.out)
    }

    /// There is something that has not been written yet.
    pub(crate) fn has_output(&self) -> bool {
        self.out_at < self.out.len() || self.pass > 0 || !self.tail.is_empty()
    }

    /// Moves what can be moved. `Ready` when the whole body was written.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Socket,
        input: &mut ReadBuffer,
        sink: &mut Socket,
        buffers: &Buffers,
        waiting: &mut Waiting,
    ) -> Poll<Result<(), PipeError>> {
        loop {
            let mut loaded = true;
            while loaded && self.may_load(input) {
                loaded = self.load(input).map_err(PipeError::Body)?;
            }
            if self.has_output() || sink.has_unsent() {
                *waiting = Waiting::ForSink;
                ready!(self.poll_output(cx, input, sink)).map_err(|_| PipeError::Write)?;
            }
            input.release(buffers);
            if self.scan.is_done() {
                return Poll::Ready(Ok(()));
            }
            if loaded && !input.is_empty() {
                continue;
            }
            if self.taps.as_mut().is_some_and(|taps| taps.want_a_turn()) {
                return mirror::give_a_turn(cx);
            }
            // What is left could not be scanned: it is the start of something that has not arrived whole.
            let before = input.bytes().len();
            *waiting = Waiting::ForSource;
            let read = ready!(input.poll_fill(source, buffers, cx)).map_err(|_| PipeError::Read)?;
            if read == 0 {
                self.scan.end_of_input().map_err(PipeError::Body)?;
                if self.wrap {
                    self.out.extend_from_slice(LAST_CHUNK);
                }
            }
            debug_assert!(read == 0 || input.bytes().len() > before);
        }
    }

    /// There is room for more output, and something that may become it.
    fn may_load(&self, input: &ReadBuffer) -> bool {
        self.pass == 0
            && self.tail.is_empty()
            && !input.is_empty()
            && !self.scan.is_done()
            && self.out.len() - self.out_at < JOIN_BYTES
    }

    /// Takes one step through what is in the buffer. False when nothing more can be told from it.
    fn load(&mut self, input: &mut ReadBuffer) -> Result<bool, BodyError> {
        let step = self.scan.step(input.bytes())?;
        input.consume(step.skip);
        self.pass = step.pass;
        if let Some(taps) = &mut self.taps {
            taps.push(&input.bytes()[..self.pass]);
            if self.scan.is_done() {
                taps.end();
            }
        }
        if self.pass == 0 {
            return Ok(step.skip > 0);
        }
        self.passed += self.pass as u64;
        if self.wrap {
            chunk_start(self.pass, &mut self.out);
            self.tail = CHUNK_END;
        }
        self.join(input);
        Ok(true)
    }

    /// Copies passed bytes behind the head where that is cheaper than a vectored write, or where they must be kept.
    fn join(&mut self, input: &mut ReadBuffer) {
        let pending = self.out.len() - self.out_at;
        if self.replay_bytes != 0 {
            if self.out.len() + self.pass > self.replay_bytes {
                self.replay_bytes = 0;
            } else {
                return self.copy(input);
            }
        }
        if pending > 0 && self.pass <= JOIN_BYTES {
            self.copy(input);
        }
    }

    fn copy(&mut self, input: &mut ReadBuffer) {
        self.out.extend_from_slice(&input.bytes()[..self.pass]);
        self.out.extend_from_slice(self.tail);
        input.consume(self.pass);
        self.pass = 0;
        self.tail = b"";
    }

    /// Writes all output; waits for writability only after a write came up short.
    pub(crate) fn poll_output(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut ReadBuffer,
        sink: &mut Socket,
    ) -> Poll<io::Result<()>> {
        if self.pass > 0 {
            self.put_out_before(input);
        }
        while self.has_output() {
            let out = &self.out[self.out_at..];
            let wrote = if self.pass == 0 && self.tail.is_empty() {
                sink.try_write(out)
            } else if out.is_empty() && self.tail.is_empty() {
                sink.try_write(&input.bytes()[..self.pass])
            } else {
                sink.try_write_vectored(&[
                    IoSlice::new(out),
                    IoSlice::new(&input.bytes()[..self.pass]),
                    IoSlice::new(self.tail),
                ])
            };
            match wrote {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => self.advance(count, input),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(sink.poll_writable(cx))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if self.replay_bytes == 0 {
            self.out.clear();
            self.out_at = 0;
        }
        sink.poll_flush(cx)
    }

    /// Puts what goes out first before the passed bytes, in their buffer, so that both leave in one plain send.
    fn put_out_before(&mut self, input: &mut ReadBuffer) {
        let out = &self.out[self.out_at..];
        if !out.is_empty() && self.replay_bytes == 0 && input.put_before(out) {
            self.pass += out.len();
            self.out.clear();
            self.out_at = 0;
        }
    }

    fn advance(&mut self, count: usize, input: &mut ReadBuffer) {
        self.written += count as u64;
        let from_out = count.min(self.out.len() - self.out_at);
        self.out_at += from_out;
        let from_input = (count - from_out).min(self.pass);
        input.consume(from_input);
        self.pass -= from_input;
        self.tail = &self.tail[(count - from_out - from_input).min(self.tail.len())..];
    }
}

#[cfg(test)]
mod tests {
    use weir_codec::body::{BodyLimits, Form, Framing};

    use super::*;

    const BODY: [u8; 2 * JOIN_BYTES] = [b'b'; 2 * JOIN_BYTES];

    /// A pipe whose head went before the body in its buffer, and nothing was written of either yet.
    fn loaded(out: &[u8], keeps: Option<usize>, input: &mut ReadBuffer) -> Pipe {
        let limits = BodyLimits { extension_bytes: 0, trailer_bytes: 0 };
        let scan = BodyScan::new(Framing::Length(2 * BODY.len() as u64), Form::AsSent, limits);
        let mut pipe = Pipe::new(out.to_vec(), scan, false);
        if let Some(bytes) = keeps {
            pipe.keep_for_replay(bytes);
        }
        assert!(pipe.load(input).unwrap());
        pipe.put_out_before(input);
        assert_eq!(pipe.pass, out.len() + BODY.len());
        pipe
    }

    #[test]
    fn a_head_that_is_taken_back_leaves_what_goes_out_before_it_although_all_went_into_the_buffer_of_the_body()
     {
        let mut input = ReadBuffer::holding(&BODY, &Buffers::default());
        let mut pipe = loaded(b"interim head", None, &mut input);
        pipe.advance(3, &mut input);
        assert!(pipe.retract(8, &input));
        input.consume(usize::MAX);
        assert_eq!(pipe.take_unsent(), b"erim ");
    }

    #[test]
    fn a_head_of_which_some_was_written_is_not_taken_back() {
        let mut input = ReadBuffer::holding(&BODY, &Buffers::default());
        let mut pipe = loaded(b"interim head", None, &mut input);
        pipe.advance(9, &mut input);
        assert!(!pipe.retract(8, &input));
    }

    #[test]
    fn what_was_passed_on_and_not_kept_is_not_sent_again_by_a_later_try() {
        let mut input = ReadBuffer::holding(&BODY, &Buffers::default());
        let mut pipe = loaded(b"head", Some(JOIN_BYTES), &mut input);
        assert!(pipe.rewind(), "nothing has left");
        pipe.keep_for_replay(JOIN_BYTES);
        assert!(pipe.can_rewind());
        pipe.advance(100, &mut input);
        assert!(!pipe.can_rewind(), "the head is gone, and nobody has it any more");
    }
}

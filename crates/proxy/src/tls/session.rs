//! TLS on a socket: rustls' records between the kernel and our buffers.
//!
//! A session owns no buffer of its own beyond what rustls keeps of unfinished records: ciphertext is read into one scratch buffer
//! of the thread, and is all taken in before a call returns.
//!
//! Invariants: what was taken for writing is bounded (rustls' 64 KiB), and nothing more is taken before it left; an end of the
//! stream without the peer's `close_notify` is an error, never an end; after [`Session::break_off`] nothing is sent.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::task::{Context, Poll, ready};

use rustls::Connection;

use crate::io::Counted;

/// Most ciphertext that is read at once. Unit: bytes. Source: ours (as a read buffer: four full records).
const SCRATCH_BYTES: usize = 64 * 1024;

/// Most that is read at once where the caller has little room, and while hands are shaken: rustls holds the plaintext of this much.
const STEP_BYTES: usize = 4 * 1024;

/// Reads after which an idle connection that still brings something is not quiet. Unit: reads. Source: ours (tickets come in one or two).
const QUIET_STEPS: usize = 4;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// One side of a TLS connection.
#[derive(Debug)]
pub(crate) struct Session {
    connection: Connection,
    /// Decrypted bytes that nobody has read yet.
    plaintext: usize,
    /// The peer will send nothing more.
    ended: bool,
    /// Nothing more is to be sent.
    broken_off: bool,
}

impl Session {
    pub(crate) fn new(connection: impl Into<Connection>) -> Session {
        Session { connection: connection.into(), plaintext: 0, ended: false, broken_off: false }
    }

    /// Takes in what was read before the session was there.
    pub(crate) fn feed(&mut self, mut ciphertext: &[u8]) -> Result<(), rustls::Error> {
        while !ciphertext.is_empty() && self.take_in(&mut ciphertext)? {}
        Ok(())
    }

    /// Ready when hands are shaken and everything that had to be said for it has left.
    pub(crate) fn poll_handshake(
        &mut self,
        wire: &mut Counted,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), HandshakeError>> {
        loop {
            ready!(self.poll_flush(wire, cx)).map_err(HandshakeError::Wire)?;
            if !self.connection.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            ready!(wire.poll_readable(cx)).map_err(HandshakeError::Wire)?;
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let room = &mut scratch[..STEP_BYTES];
                let count = ready!(wire.poll_read(cx, room)).map_err(HandshakeError::Wire)?;
                if count == 0 {
                    return Poll::Ready(Err(HandshakeError::Wire(io::ErrorKind::UnexpectedEof.into())));
                }
                Poll::Ready(self.feed(&room[..count]).map_err(HandshakeError::Tls))
            });
            if let Err(error) = ready!(read) {
                self.say_why(wire);
                return Poll::Ready(Err(error));
            }
        }
    }

    /// Whether a read would bring something without a look at the socket.
    pub(crate) fn has_input(&self) -> bool {
        self.plaintext > 0 || self.ended
    }

    pub(crate) fn poll_read(
        &mut self,
        wire: &mut Counted,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.has_input() {
                return Poll::Ready(self.read_plaintext(buffer));
            }
            let filled = ready!(self.poll_step(wire, cx, buffer))?;
            if filled > 0 {
                return Poll::Ready(Ok(filled));
            }
        }
    }

    /// Whether there is nothing for a reader. Takes in what is not for one (a server may send tickets at any time), within reason.
    pub(crate) fn is_quiet(&mut self, wire: &mut Counted, cx: &mut Context<'_>) -> bool {
        for _ in 0..QUIET_STEPS {
            if self.has_input() {
                return false;
            }
            match self.poll_step(wire, cx, &mut []) {
                Poll::Pending => return true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return false,
            }
        }
        false
    }

    /// Reads from the socket once; gives the plaintext that came of it, which may be none.
    fn poll_step(
        &mut self,
        wire: &mut Counted,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let filled = SCRATCH.with_borrow_mut(|scratch| {
            let room = &mut scratch[..buffer.len().clamp(STEP_BYTES, SCRATCH_BYTES)];
            let count = ready!(wire.poll_read(cx, room))?;
            Poll::Ready(self.decrypt(&room[..count], buffer))
        });
        let filled = ready!(filled);
        if filled.is_err() || self.has_unsent() {
            // Why it failed; or an answer to a key update, which may also leave with the next bytes.
            self.say_why(wire);
        }
        Poll::Ready(filled)
    }

    /// Takes in all of `ciphertext` (none of it is the end of the stream); gives the plaintext that was there room for.
    fn decrypt(&mut self, mut ciphertext: &[u8], buffer: &mut [u8]) -> io::Result<usize> {
        if ciphertext.is_empty() {
            self.connection.read_tls(&mut ciphertext)?;
            self.ended = true;
        }
        let mut filled = 0;
        while !ciphertext.is_empty() {
            if !self.take_in(&mut ciphertext).map_err(io::Error::other)? {
                break;
            }
            if self.plaintext > 0 && filled < buffer.len() {
                filled += self.read_plaintext(&mut buffer[filled..])?;
            }
        }
        Ok(filled)
    }

    /// False when the peer has said that nothing more comes.
    fn take_in(&mut self, ciphertext: &mut &[u8]) -> Result<bool, rustls::Error> {
        let taken = self.connection.read_tls(ciphertext).map_err(|error| {
            // A slice does not fail: rustls holds more than it wants to.
            rustls::Error::General(error.to_string())
        })?;
        let state = self.connection.process_new_packets()?;
        self.plaintext = state.plaintext_bytes_to_read();
        self.ended |= state.peer_has_closed();
        Ok(taken > 0)
    }

    fn read_plaintext(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.connection.reader().read(buffer)?;
        self.plaintext -= count;
        Ok(count)
    }

    pub(crate) fn try_write(&mut self, wire: &Counted, bytes: &[u8]) -> io::Result<usize> {
        self.make_room(wire)?;
        let taken = self.connection.writer().write(bytes)?;
        self.flush_or_keep(wire)?;
        Ok(taken)
    }

    pub(crate) fn try_write_vectored(&mut self, wire: &Counted, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.make_room(wire)?;
        let taken = self.connection.writer().write_vectored(slices)?;
        self.flush_or_keep(wire)?;
        Ok(taken)
    }

    /// `WouldBlock` while what was taken before has not left.
    fn make_room(&mut self, wire: &Counted) -> io::Result<()> {
        if self.broken_off {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.flush_now(wire)
    }

    fn flush_or_keep(&mut self, wire: &Counted) -> io::Result<()> {
        match self.flush_now(wire) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            flushed => flushed,
        }
    }

    pub(crate) fn has_unsent(&self) -> bool {
        self.connection.wants_write() && !self.broken_off
    }

    /// Sends what the kernel takes; `WouldBlock` when something is left.
    fn flush_now(&mut self, wire: &Counted) -> io::Result<()> {
        while self.has_unsent() {
            match self.connection.write_tls(&mut WireWriter(wire)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(crate) fn poll_flush(&mut self, wire: &Counted, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.flush_now(wire) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(wire.poll_writable(cx))?,
                flushed => return Poll::Ready(flushed),
            }
        }
    }

    /// Sends what rustls has to say for itself: the alert that an error has left behind. Does not wait.
    pub(crate) fn say_why(&mut self, wire: &Counted) {
        let _ = self.flush_now(wire);
    }

    pub(crate) fn say_goodbye(&mut self, wire: &Counted) {
        if !self.broken_off {
            self.connection.send_close_notify();
            let _ = self.flush_now(wire);
        }
    }

    /// The end that follows must not look like one that is meant.
    pub(crate) fn break_off(&mut self) {
        self.broken_off = true;
    }
}

/// Why hands could not be shaken.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    Wire(io::Error),
    Tls(rustls::Error),
}

impl std::fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HandshakeError::Wire(error) => error.fmt(f),
            HandshakeError::Tls(error) => error.fmt(f),
        }
    }
}

struct WireWriter<'w>(&'w Counted);

impl Write for WireWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [only] => self.0.try_write(only),
            several => self.0.try_write_vectored(several),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

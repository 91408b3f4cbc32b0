//! TLS on a socket: rustls' records between the kernel and our buffers.
//!
//! A session owns no buffer of its own beyond what rustls keeps of unfinished records: ciphertext is read into one scratch buffer
//! of the thread, and is taken in before a call returns. Only where an unfinished record completes and its reader has little
//! room is there more than rustls takes; that is kept, and read from before the socket is.
//!
//! Invariants: what was taken for writing is bounded (rustls' 64 KiB), and nothing more is taken before it left; an end of the
//! stream without the peer's `close_notify` is an error, never an end; after [`Session::break_off`] nothing is sent.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use rustls::Connection;

use crate::io::Counted;

/// Most ciphertext that is read at once. Unit: bytes. Source: ours (as a read buffer: four full records).
const SCRATCH_BYTES: usize = 64 * 1024;

/// Most that is read at once where the caller has little room, and while hands are shaken: rustls holds the plaintext of this much.
const STEP_BYTES: usize = 4 * 1024;

/// Decrypted bytes beyond which rustls is given nothing more before somebody has read. Unit: bytes. Source: ours (it refuses more
/// at 16 KiB; a step may complete one record, which is as much again).
const HELD_BYTES: usize = 8 * 1024;

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
    /// Ciphertext that came with it and waits until it is read.
    rest: Bytes,
    /// The peer will send nothing more.
    ended: bool,
    /// Nothing more is to be sent.
    broken_off: bool,
}

impl Session {
    pub(crate) fn new(connection: impl Into<Connection>) -> Session {
        let connection = connection.into();
        Session { connection, plaintext: 0, rest: Bytes::new(), ended: false, broken_off: false }
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
        self.is_readable() || !self.rest.is_empty()
    }

    fn is_readable(&self) -> bool {
        self.plaintext > 0 || self.ended
    }

    pub(crate) fn poll_read(
        &mut self,
        wire: &mut Counted,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.is_readable() {
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

    /// Reads what was kept, else from the socket once; gives the plaintext that came of it, which may be none.
    fn poll_step(
        &mut self,
        wire: &mut Counted,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let filled = if self.rest.is_empty() {
            let filled = SCRATCH.with_borrow_mut(|scratch| {
                let room = &mut scratch[..buffer.len().clamp(STEP_BYTES, SCRATCH_BYTES)];
                let count = ready!(wire.poll_read(cx, room))?;
                Poll::Ready(self.decrypt(&room[..count], buffer).map(|(filled, taken)| {
                    if taken < count {
                        self.rest = Bytes::copy_from_slice(&room[taken..count]);
                    }
                    filled
                }))
            });
            ready!(filled)
        } else {
            let mut rest = std::mem::take(&mut self.rest);
            self.decrypt(&rest, buffer).map(|(filled, taken)| {
                rest.advance(taken);
                self.rest = rest;
                filled
            })
        };
        if filled.is_err() || self.has_unsent() {
            // Why it failed; or an answer to a key update, which may also leave with the next bytes.
            self.say_why(wire);
        }
        Poll::Ready(filled)
    }

    /// Takes in `ciphertext` (none of it is the end of the stream), all of it unless too much plaintext waits for a reader. Gives
    /// the plaintext that there was room for, and what was taken in.
    fn decrypt(&mut self, ciphertext: &[u8], buffer: &mut [u8]) -> io::Result<(usize, usize)> {
        let mut left = ciphertext;
        if ciphertext.is_empty() {
            self.connection.read_tls(&mut left)?;
            self.ended = true;
        }
        let mut filled = 0;
        while !left.is_empty() && self.plaintext <= HELD_BYTES {
            if !self.take_in(&mut left).map_err(io::Error::other)? {
                // Nothing behind the end is anybody's.
                left = &[];
            }
            if self.plaintext > 0 && filled < buffer.len() {
                filled += self.read_plaintext(&mut buffer[filled..])?;
            }
        }
        Ok((filled, ciphertext.len() - left.len()))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

    use super::*;

    /// A client, and a session of the server's side; hands are shaken.
    fn pair() -> (ClientConnection, Session) {
        let key = rcgen::KeyPair::generate().unwrap();
        let name = "a.example".to_owned();
        let certificate =
            rcgen::CertificateParams::new(vec![name.clone()]).unwrap().self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .unwrap();
        let name = ServerName::try_from(name).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut session = Session::new(ServerConnection::new(Arc::new(server)).unwrap());
        while client.is_handshaking() || session.connection.is_handshaking() {
            session.feed(&sent(&mut client)).unwrap();
            let mut answer = Vec::new();
            while session.connection.wants_write() {
                session.connection.write_tls(&mut answer).unwrap();
            }
            let mut answer = &answer[..];
            while !answer.is_empty() {
                client.read_tls(&mut answer).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        (client, session)
    }

    fn sent(client: &mut ClientConnection) -> Vec<u8> {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// A reader of `room` bytes is given the ciphertext in pieces of `piece` bytes; what is kept comes before the next one.
    fn read_in_pieces(ciphertext: &[u8], session: &mut Session, piece: usize, room: usize) -> Vec<u8> {
        let mut read = Vec::new();
        let mut buffer = vec![0; room];
        for piece in ciphertext.chunks(piece) {
            let mut left = piece;
            while !left.is_empty() || session.plaintext > 0 {
                if session.plaintext > 0 {
                    let count = session.read_plaintext(&mut buffer).unwrap();
                    read.extend_from_slice(&buffer[..count]);
                    continue;
                }
                let (filled, taken) = session.decrypt(left, &mut buffer).unwrap();
                read.extend_from_slice(&buffer[..filled]);
                assert!(taken > 0, "nothing is taken, though nobody has anything to read");
                left = &left[taken..];
            }
        }
        read
    }

    #[test]
    fn a_full_record_that_completes_is_no_error_however_little_room_the_reader_has() {
        let plaintext: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        // Full records; and a full one before many small ones, which complete with it.
        for cut in [plaintext.len(), 16 * 1024] {
            for piece in [1000, 4096, 16_000, 16_406, 40_000, 64 * 1024] {
                for room in [1, 100, 4096, 16 * 1024, 64 * 1024] {
                    let (mut client, mut session) = pair();
                    client.set_buffer_limit(None);
                    let (first, others) = plaintext.split_at(cut);
                    client.writer().write_all(first).unwrap();
                    for other in others.chunks(500) {
                        client.writer().write_all(other).unwrap();
                    }
                    let ciphertext = sent(&mut client);
                    let read = read_in_pieces(&ciphertext, &mut session, piece, room);
                    assert!(read == plaintext, "pieces of {piece}, room for {room}");
                }
            }
        }
    }
}

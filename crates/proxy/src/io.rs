//! Every socket call of the data plane's request path, in one place.
//!
//! A [`Socket`] asks the readiness that the runtime keeps in user space before it enters the kernel, and counts
//! each entry ([`SocketCalls`]): the promise of four socket calls a request is tested on these counters, and they are metrics too.
//!
//! Reads and sends enter the kernel directly, not through the C library's cancellation points (eight locked instructions
//! a request).
//!
//! Invariants: a short read or write clears readiness (edge-triggered), so that no second call is made to learn
//! what is known; nothing polls for writability before a write came up short. Bytes that a TLS socket has taken may not have
//! left yet: who has to know waits for [`Socket::poll_flush`].

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::{coop, unconstrained};

use crate::http::h2::Stream;
use crate::metrics::{Counter, WorkerMetrics};
use crate::tls::session::Session;

/// Kernel entries made by one worker's sockets.
#[derive(Debug, Default)]
pub(crate) struct SocketCalls {
    pub(crate) reads: Counter,
    pub(crate) writes: Counter,
}

/// A connection, either side. Matched, never called through a table: the plain path pays one predictable branch.
#[derive(Debug)]
pub(crate) enum Socket {
    /// A TCP connection.
    Plain(Counted),
    /// One with TLS on it.
    Tls(Box<Secure>),
    /// A stream of an HTTP/2 connection: carries one exchange, written as HTTP/1.1 on our side.
    Stream(Box<Stream>),
}

/// A TCP connection whose kernel entries are counted.
#[derive(Debug)]
pub(crate) struct Counted {
    stream: TcpStream,
    metrics: Arc<WorkerMetrics>,
    /// [`Self::poll_filling`] has left the waker of the one task that calls it, and nothing has come since.
    armed: bool,
}

/// A TCP connection with TLS on it.
#[derive(Debug)]
pub(crate) struct Secure {
    pub(crate) wire: Counted,
    pub(crate) session: Session,
}

impl Socket {
    pub(crate) fn of_stream(stream: Stream) -> Socket {
        Socket::Stream(Box::new(stream))
    }

    /// Whether this is one of several streams of a connection.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self, Socket::Stream(_))
    }

    /// The stream that this is, if it is one.
    pub(crate) fn as_stream(&self) -> Option<&Stream> {
        match self {
            Socket::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    /// Whether its bytes are inside TLS of its own.
    pub(crate) fn is_secure(&self) -> bool {
        matches!(self, Socket::Tls(_))
    }

    /// Whether the peer has said that it did nothing with what was sent.
    pub(crate) fn was_refused(&self) -> bool {
        matches!(self, Socket::Stream(stream) if stream.was_refused())
    }

    /// Whether the peer, which is there still, ended what is a stream.
    pub(crate) fn was_reset(&self) -> bool {
        matches!(self, Socket::Stream(stream) if stream.was_reset())
    }

    /// What is read and written from now on is inside TLS, which has begun on this very connection.
    pub(crate) fn encrypted(self, session: Session) -> Socket {
        match self {
            Socket::Plain(wire) => Socket::Tls(Box::new(Secure { wire, session })),
            // There is no TLS inside anything here.
            other => other,
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Socket::Plain(wire) => wire.local_addr(),
            Socket::Tls(tls) => tls.wire.local_addr(),
            Socket::Stream(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether there may be something to read. No kernel entry.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Plain(wire) => wire.poll_readable(cx),
            Socket::Tls(tls) if tls.session.has_input() => Poll::Ready(Ok(())),
            Socket::Tls(tls) => tls.wire.poll_readable(cx),
            Socket::Stream(stream) => stream.poll_readable(cx),
        }
    }

    /// As [`Self::poll_readable`], for a socket that one task alone waits for, which then leaves its waker once and not for
    /// every look. The task may change after [`Self::is_quiet`].
    pub(crate) fn poll_filling(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Plain(wire) => wire.poll_filling(cx),
            other => other.poll_readable(cx),
        }
    }

    /// Reads into `buffer`; 0 is the end of input. Call it when [`Self::poll_readable`] said so.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Socket::Plain(wire) => wire.poll_read(cx, buffer),
            Socket::Tls(tls) => tls.session.poll_read(&mut tls.wire, cx, buffer),
            Socket::Stream(stream) => stream.poll_read(cx, buffer),
        }
    }

    /// As [`Self::poll_read`], into room that need not be initialised.
    pub(crate) fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Socket::Plain(wire) = self {
            wire.armed = false;
            wire.metrics.socket_calls.reads.add(1);
            return Pin::new(&mut wire.stream).poll_read(cx, into);
        }
        let count = ready!(self.poll_read(cx, into.initialize_unfilled()))?;
        into.advance(count);
        Poll::Ready(Ok(()))
    }

    /// Writes what is taken now. `WouldBlock` when nothing is.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(wire) => wire.try_write(bytes),
            Socket::Tls(tls) => tls.session.try_write(&tls.wire, bytes),
            Socket::Stream(stream) => stream.try_write(&[IoSlice::new(bytes)]),
        }
    }

    /// As [`Self::try_write`], of several slices.
    pub(crate) fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Plain(wire) => wire.try_write_vectored(slices),
            Socket::Tls(tls) => tls.session.try_write_vectored(&tls.wire, slices),
            Socket::Stream(stream) => stream.try_write(slices),
        }
    }

    /// Waits until a write that came up short may go on.
    pub(crate) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Plain(wire) => wire.poll_writable(cx),
            Socket::Tls(tls) => tls.wire.poll_writable(cx),
            Socket::Stream(stream) => stream.poll_writable(cx),
        }
    }

    /// Whether bytes that were taken have not left yet.
    pub(crate) fn has_unsent(&self) -> bool {
        match self {
            Socket::Plain(_) | Socket::Stream(_) => false,
            Socket::Tls(tls) => tls.session.has_unsent(),
        }
    }

    /// Waits until everything that was taken has left.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Plain(_) | Socket::Stream(_) => Poll::Ready(Ok(())),
            Socket::Tls(tls) => tls.session.poll_flush(&tls.wire, cx),
        }
    }

    /// Whether an idle connection is as it was left: nothing to read, no end, no error. Where there is no TLS without a
    /// kernel entry, unless the runtime thinks that there is something.
    pub(crate) fn is_quiet(&mut self) -> bool {
        if let Socket::Plain(wire) = self {
            return wire.is_quiet();
        }
        let cx = &mut Context::from_waker(Waker::noop());
        // Without the runtime's budget for the running task, which would make it look quiet when used up.
        let mut readable = unconstrained(poll_fn(|cx| self.poll_readable(cx)));
        if Pin::new(&mut readable).poll(cx).is_pending() {
            return true;
        }
        match self {
            Socket::Plain(_) | Socket::Stream(_) => false,
            Socket::Tls(tls) => {
                let quiet = poll_fn(|cx| Poll::Ready(tls.session.is_quiet(&mut tls.wire, cx)));
                Pin::new(&mut unconstrained(quiet)).poll(cx) == Poll::Ready(true)
            }
        }
    }

    /// Ends the sending direction.
    pub(crate) fn shut_down_writes(&mut self) {
        self.say_goodbye();
        match self {
            Socket::Plain(wire) => wire.shut_down_writes(),
            Socket::Tls(tls) => tls.wire.shut_down_writes(),
            Socket::Stream(stream) => stream.finish(),
        }
    }

    /// Tells a TLS peer that the end that follows is meant. Does not wait: a peer that takes nothing more must do without.
    pub(crate) fn say_goodbye(&mut self) {
        if let Socket::Tls(tls) = self {
            tls.session.say_goodbye(&tls.wire);
        }
    }

    /// Makes the close that follows a reset: the peer must not take what it has for the whole.
    pub(crate) fn reset_on_close(&mut self) {
        match self {
            Socket::Plain(wire) => wire.reset_on_close(),
            Socket::Tls(tls) => {
                tls.session.break_off();
                tls.wire.reset_on_close();
            }
            // Dropped before its end it is reset anyway.
            Socket::Stream(_) => {}
        }
    }
}

impl Counted {
    pub(crate) fn new(stream: TcpStream, metrics: Arc<WorkerMetrics>) -> Counted {
        Counted { stream, metrics, armed: false }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whose waker it is, is not known here.
        self.armed = false;
        self.stream.poll_read_ready(cx)
    }

    /// See [`Socket::poll_filling`].
    fn poll_filling(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_readable() {
            // An event took the waker.
            self.armed = false;
            ready!(coop::poll_proceed(cx)).made_progress();
            return Poll::Ready(Ok(()));
        }
        if self.armed {
            return Poll::Pending;
        }
        // A task that has used up its budget is told to wait without its waker being kept.
        self.armed = coop::has_budget_remaining();
        let readable = self.stream.poll_read_ready(cx);
        self.armed &= readable.is_pending();
        readable
    }

    /// See [`Socket::is_quiet`].
    fn is_quiet(&mut self) -> bool {
        self.armed = false;
        // A read that filled its buffer left open whether there was more: then, and only then, the kernel is asked.
        let looked = self.stream.try_io(Interest::READABLE, || {
            self.metrics.socket_calls.reads.add(1);
            Ok(rustix::net::recv(&self.stream, &mut [0; 1], RecvFlags::PEEK)?)
        });
        looked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// What the runtime knows, without asking to be told.
    fn is_readable(&self) -> bool {
        self.stream.try_io(Interest::READABLE, || Ok(())).is_ok()
    }

    /// Reads once there is something to read, or the end.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.poll_readable(cx))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// Reads what is there; 0 is the end of input, or an empty buffer. `WouldBlock` when there is nothing.
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.armed = false;
        let mut read = 0;
        let outcome = self.stream.try_io(Interest::READABLE, || {
            self.metrics.socket_calls.reads.add(1);
            let (count, _) = rustix::net::recv(&self.stream, &mut *buffer, RecvFlags::empty())?;
            read = count;
            // A short read says that there is no more: the runtime is told so, and the next read waits for an event.
            if count == 0 || count == buffer.len() { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
        });
        match outcome {
            Err(error) if read == 0 => Err(error),
            _ => Ok(read),
        }
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.try_io(Interest::WRITABLE, || {
            self.metrics.socket_calls.writes.add(1);
            Ok(rustix::net::send(&self.stream, bytes, SendFlags::NOSIGNAL)?)
        })
    }

    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.metrics.socket_calls.writes.add(1);
        self.stream.try_write_vectored(slices)
    }

    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_write_ready(cx)
    }

    pub(crate) fn shut_down_writes(&mut self) {
        // A TCP stream's shutdown does not wait; an error means that the connection is gone already.
        let _ = Pin::new(&mut self.stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
    }

    pub(crate) fn reset_on_close(&self) {
        // An error means that the connection is gone already.
        let _ = self.stream.set_zero_linger();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A connection, and the peer's end of it.
    async fn connection() -> (Counted, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Counted::new(stream, Arc::default()), listener.accept().unwrap().0)
    }

    #[tokio::test]
    async fn a_connection_is_quiet_after_a_read_that_filled_its_buffer_and_not_when_there_is_more() {
        let (mut wire, mut peer) = connection().await;
        assert!(wire.is_quiet());
        peer.write_all(b"12345678").unwrap();
        let mut buffer = [0; 8];
        let count = poll_fn(|cx| wire.poll_read(cx, &mut buffer)).await.unwrap();
        assert_eq!(count, buffer.len());
        assert!(wire.is_quiet(), "it left open whether there is more, and there is not");
        peer.write_all(b"123456789").unwrap();
        poll_fn(|cx| wire.poll_read(cx, &mut buffer)).await.unwrap();
        assert!(!wire.is_quiet());
        poll_fn(|cx| wire.poll_read(cx, &mut buffer)).await.unwrap();
        assert!(wire.is_quiet());
        drop(peer);
        poll_fn(|cx| wire.poll_readable(cx)).await.unwrap();
        assert!(!wire.is_quiet(), "an end is something");
    }
}

//! Every socket call of the data plane's request path, in one place.
//!
//! A [`Socket`] asks the readiness that the runtime keeps in user space before it enters the kernel, and counts
//! each entry ([`SocketCalls`]): the promise of four socket calls a request is tested on these counters, and they are metrics too.
//!
//! Invariants: a short read or write clears readiness (edge-triggered), so that no second call is made to learn
//! what is known; nothing polls for writability before a write came up short.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::unconstrained;

use crate::metrics::{Counter, WorkerMetrics};

/// Kernel entries made by one worker's sockets.
#[derive(Debug, Default)]
pub(crate) struct SocketCalls {
    pub(crate) reads: Counter,
    pub(crate) writes: Counter,
}

/// One TCP connection, either side.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    metrics: Arc<WorkerMetrics>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, metrics: Arc<WorkerMetrics>) -> Socket {
        Socket { stream, metrics }
    }

    /// Whether there may be something to read. No kernel entry.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_read_ready(cx)
    }

    /// Reads into `buffer`; 0 is the end of input. To be called when [`Self::poll_readable`] said so, since it is counted
    /// as a kernel entry.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.metrics.socket_calls.reads.add(1);
        let mut into = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut into))?;
        Poll::Ready(Ok(into.filled().len()))
    }

    /// Writes what the kernel takes now. `WouldBlock` when it takes nothing.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.metrics.socket_calls.writes.add(1);
        self.stream.try_write(bytes)
    }

    /// As [`Self::try_write`], of several slices.
    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.metrics.socket_calls.writes.add(1);
        self.stream.try_write_vectored(slices)
    }

    /// Waits until a write that came up short may go on.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_write_ready(cx)
    }

    /// Whether an idle connection is as it was left: nothing to read, no end, no error. No kernel entry.
    pub(crate) fn is_quiet(&self) -> bool {
        // Without the runtime's budget for the running task, which would make it look quiet when used up.
        let mut readable = unconstrained(poll_fn(|cx| self.stream.poll_read_ready(cx)));
        Pin::new(&mut readable).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Ends the sending direction.
    pub(crate) fn shut_down_writes(&mut self) {
        // A TCP stream's shutdown does not wait; an error means that the connection is gone already.
        let _ = Pin::new(&mut self.stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
    }

    /// Makes the close that follows a reset: the peer must not take what it has for the whole.
    pub(crate) fn reset_on_close(&self) {
        // An error means that the connection is gone already.
        let _ = self.stream.set_zero_linger();
    }
}

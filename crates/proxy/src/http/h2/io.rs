//! A socket as the HTTP/2 machine wants one.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::Meter;
use crate::buffer::ReadBuffer;
use crate::io::Socket;
use crate::worker::Worker;

pub(super) struct Io {
    pub(super) socket: Socket,
    /// What was read before it was known that this is HTTP/2.
    pub(super) input: ReadBuffer,
    pub(super) meter: Rc<Meter>,
    pub(super) worker: Rc<Worker>,
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.input.is_empty() {
            let bytes = this.input.bytes();
            let count = bytes.len().min(buffer.remaining());
            buffer.put_slice(&bytes[..count]);
            this.meter.received(&bytes[..count], this.worker.clock.now());
            this.input.consume(count);
            this.input.release(&this.worker.buffers);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(this.socket.poll_readable(cx))?;
        ready!(this.socket.poll_read_into(cx, buffer))?;
        let now = this.worker.clock.tick();
        this.meter.received(&buffer.filled()[before..], now);
        Poll::Ready(Ok(()))
    }
}

impl Io {
    fn poll_wrote(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&mut Socket) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match write(&mut self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.socket.poll_writable(cx))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                wrote => {
                    self.meter.sent(*wrote.as_ref().unwrap_or(&0));
                    return Poll::Ready(wrote);
                }
            }
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_wrote(cx, |socket| socket.try_write(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_wrote(cx, |socket| socket.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.socket.poll_flush(cx))?;
        self.socket.shut_down_writes();
        Poll::Ready(Ok(()))
    }
}

//! Buffers, leased for as long as there are bytes in them.
//!
//! A worker keeps a few large buffers that are handed out last-in first-out, so that in steady state all
//! connections read through the same warm one; an idle connection has none. A connection that must wait with a
//! few bytes left (half a head) moves them to a small buffer of its own ([`ReadBuffer::park`]).
//!
//! Invariants: a lease is returned when it is empty; free lists are bounded; a buffer's bytes are initialised
//! once, when it is made.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, ready};

use crate::io::Socket;

/// A read buffer, as most messages need it. Unit: bytes. Source: measured (64 KiB reads halve the cost of 16 KiB ones).
const READ_BYTES: usize = 64 * 1024;

/// The largest head that can be held: one byte less than a read buffer, so that a head at its limit is told from one beyond it.
pub(crate) const LARGEST_HEAD_BYTES: usize = READ_BYTES - 1;

/// A read buffer while a large body streams. Unit: bytes. Source: measured (25 to 30 % less CPU a MiB than 64 KiB).
const LARGE_READ_BYTES: usize = 256 * 1024;

/// Free bytes before what is read into an empty buffer, so that what goes out before it can be put there: a head that we wrote
/// is longer than the one that it replaces by what we add. Unit: bytes. Source: ours.
const HEAD_ROOM_BYTES: usize = 512;

/// A buffer for heads and other small things to write, when new. Unit: bytes. Source: ours.
const OUT_BYTES: usize = 4 * 1024;

/// Bytes that may wait in a buffer of their own. Unit: bytes. Source: ours.
const PARKED_BYTES: usize = 4 * 1024;

/// Longest free lists of read buffers, large read buffers and out buffers (8 MiB, 4 MiB, and up to 64 MiB if all grew).
const FREE: [usize; 3] = [128, 16, 1024];

/// Out buffers that grew beyond this are not kept. Unit: bytes. Source: ours.
const OUT_KEPT_BYTES: usize = 64 * 1024;

/// One worker's free buffers.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    read: RefCell<Vec<Box<[u8]>>>,
    large: RefCell<Vec<Box<[u8]>>>,
    out: RefCell<Vec<Vec<u8>>>,
}

impl Buffers {
    fn read(&self, large: bool) -> Box<[u8]> {
        let (list, bytes) = if large { (&self.large, LARGE_READ_BYTES) } else { (&self.read, READ_BYTES) };
        list.borrow_mut().pop().unwrap_or_else(|| vec![0; bytes].into_boxed_slice())
    }

    fn give_back(&self, storage: Box<[u8]>) {
        let (list, most) = match storage.len() {
            READ_BYTES => (&self.read, FREE[0]),
            LARGE_READ_BYTES => (&self.large, FREE[1]),
            _ => return,
        };
        let mut list = list.borrow_mut();
        if list.len() < most {
            list.push(storage);
        }
    }

    /// An empty buffer to write heads into.
    pub(crate) fn out(&self) -> Vec<u8> {
        self.out.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(OUT_BYTES))
    }

    /// Takes a buffer back; one without capacity (never leased, or moved away) is dropped.
    pub(crate) fn give_back_out(&self, mut out: Vec<u8>) {
        let mut list = self.out.borrow_mut();
        if (OUT_BYTES..=OUT_KEPT_BYTES).contains(&out.capacity()) && list.len() < FREE[2] {
            out.clear();
            list.push(out);
        }
    }
}

/// Bytes that were received and not yet used up.
#[derive(Debug, Default)]
pub(crate) struct ReadBuffer {
    storage: Box<[u8]>,
    start: usize,
    end: usize,
    /// The last read brought a whole buffer: a large one pays.
    streaming: bool,
    /// A small buffer that was in use before and may be again.
    parked: Vec<u8>,
}

impl ReadBuffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self.storage.get(self.start..self.end) {
            Some(bytes) => bytes,
            None => &self.parked[self.start.min(self.parked.len())..],
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Uses up the first `count` bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Puts bytes before those that are there. False if there is no room for them.
    pub(crate) fn put_before(&mut self, bytes: &[u8]) -> bool {
        let Some(start) = self.start.checked_sub(bytes.len()) else { return false };
        let Some(room) = self.storage.get_mut(start..self.start) else { return false };
        room.copy_from_slice(bytes);
        self.start = start;
        true
    }

    /// Reads once. Gives the number of new bytes; 0 is the end of input. A lease is taken only when there is something to
    /// read, and given back if there was nothing after all. When there is no room (the caller uses up bytes
    /// before it asks for more, so this is a head at its limit) the answer is an error.
    pub(crate) fn poll_fill(
        &mut self,
        socket: &mut Socket,
        buffers: &Buffers,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        ready!(socket.poll_filling(cx))?;
        self.make_room(buffers);
        let room = &mut self.storage[self.end..];
        let room_bytes = room.len();
        if room_bytes == 0 {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        let read = socket.poll_read(cx, room);
        if let Poll::Ready(Ok(count)) = &read {
            self.end += count;
            self.streaming = *count == room_bytes || *count >= READ_BYTES;
        }
        self.release(buffers);
        read
    }

    /// Gives an empty buffer's lease back.
    pub(crate) fn release(&mut self, buffers: &Buffers) {
        if self.is_empty() && !self.storage.is_empty() {
            buffers.give_back(std::mem::take(&mut self.storage));
            self.parked = Vec::new();
            self.start = 0;
            self.end = 0;
        }
    }

    /// Before a wait of unknown length: gives the lease back if what is left is little enough to be kept apart.
    pub(crate) fn park(&mut self, buffers: &Buffers) {
        self.release(buffers);
        let left = self.end - self.start;
        if self.storage.is_empty() || left > PARKED_BYTES {
            return;
        }
        self.parked.clear();
        self.parked.extend_from_slice(&self.storage[self.start..self.end]);
        buffers.give_back(std::mem::take(&mut self.storage));
        self.start = 0;
        self.end = left;
    }

    fn make_room(&mut self, buffers: &Buffers) {
        if self.storage.is_empty() {
            let mut storage = buffers.read(self.streaming && self.is_empty());
            let left = self.end - self.start;
            let start = HEAD_ROOM_BYTES;
            if left > 0 {
                storage[start..start + left].copy_from_slice(&self.parked[self.start..self.end]);
            }
            self.storage = storage;
            self.start = start;
            self.end = start + left;
        } else if self.end == self.storage.len() && self.start > 0 {
            self.storage.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }
}

#[cfg(test)]
impl ReadBuffer {
    /// As after a read that brought these bytes.
    pub(crate) fn holding(bytes: &[u8], buffers: &Buffers) -> ReadBuffer {
        let mut buffer = ReadBuffer::default();
        buffer.make_room(buffers);
        buffer.end += bytes.len();
        buffer.storage[buffer.start..buffer.end].copy_from_slice(bytes);
        buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parked_bytes_survive_and_cost_no_lease() {
        let buffers = Buffers::default();
        let mut buffer = ReadBuffer::holding(b"GET / HT", &buffers);
        buffer.consume(4);
        buffer.park(&buffers);
        assert_eq!(buffers.read.borrow().len(), 1);
        assert_eq!(buffer.bytes(), b"/ HT");
        buffer.consume(1);
        assert_eq!(buffer.bytes(), b" HT");
        buffer.make_room(&buffers);
        assert_eq!(buffer.bytes(), b" HT");
    }

    #[test]
    fn what_goes_out_first_is_put_before_what_was_read_while_there_is_room() {
        let buffers = Buffers::default();
        let mut buffer = ReadBuffer::holding(b"old head|body", &buffers);
        buffer.consume(9);
        assert!(buffer.put_before(b"a longer new head|"));
        assert_eq!(buffer.bytes(), b"a longer new head|body");
        assert!(!buffer.put_before(&[b'x'; HEAD_ROOM_BYTES]));
        assert_eq!(buffer.bytes(), b"a longer new head|body");
        buffer.park(&buffers);
        assert!(!buffer.put_before(b"x"), "there is no room in a small buffer");
    }

    #[test]
    fn an_empty_buffer_gives_its_lease_back() {
        let buffers = Buffers::default();
        let mut buffer = ReadBuffer::holding(b"abc", &buffers);
        buffer.consume(3);
        buffer.release(&buffers);
        assert_eq!(buffers.read.borrow().len(), 1);
        assert!(buffer.bytes().is_empty());
    }
}

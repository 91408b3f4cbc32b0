//! What a peer's frames are for: counted as their bytes are read, before the HTTP/2 machine sees them.
//!
//! The machine bounds memory; this bounds work. Frames that carry no part of a message cost an allowance that frames which do,
//! bytes sent to the peer, and time give back. It also tells since when a head has been under way.
//!
//! Invariants: a few instructions a frame, none a byte; what is read here is never changed.

use std::cell::Cell;
use std::time::Duration;

use crate::clock::Moment;

/// After so long all debts are forgotten. Unit: time. Source: ours.
const FORGET: Duration = Duration::from_secs(60);

/// Bytes sent to the peer that give one frame back. Unit: bytes. Source: ours (a window update for less is not worth one).
const BYTES_A_FRAME: usize = 1024;

/// Frames that a piece of an answer gives back beside its bytes. Unit: frames. Source: grpc-go answers each DATA frame with a
/// WINDOW_UPDATE and a PING while it measures the path, however small the frame; one more for other habits.
const FRAMES_A_PIECE: usize = 3;

const HEADER_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// The length of what a client sends before its first frame (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;

#[derive(Debug)]
pub(super) struct Meter {
    header: Cell<[u8; HEADER_BYTES]>,
    /// Bytes of the header that are there.
    have: Cell<usize>,
    /// Bytes before the next header.
    skip: Cell<usize>,
    /// Since when a head has been coming.
    head_since: Cell<Option<Moment>>,
    /// The head's last frame is the one that is being skipped.
    head_ends: Cell<bool>,
    debt: Cell<usize>,
    debt_since: Cell<Moment>,
    sent: Cell<usize>,
    /// The peer has said what it takes.
    settled: Cell<bool>,
    /// When anything was last read.
    read_at: Cell<Moment>,
    /// When a part of a message was.
    carried_at: Cell<Moment>,
}

impl Meter {
    /// `skip` is what comes before the first frame.
    fn new(now: Moment, skip: usize) -> Meter {
        Meter {
            header: Cell::default(),
            have: Cell::new(0),
            skip: Cell::new(skip),
            head_since: Cell::new(None),
            head_ends: Cell::new(false),
            debt: Cell::new(0),
            debt_since: Cell::new(now),
            sent: Cell::new(0),
            settled: Cell::new(false),
            read_at: Cell::new(now),
            carried_at: Cell::new(now),
        }
    }

    pub(super) fn of_client(now: Moment) -> Meter {
        Meter::new(now, PREFACE_BYTES)
    }

    pub(super) fn of_endpoint(now: Moment) -> Meter {
        Meter::new(now, 0)
    }

    /// Frames without a part of a message, beyond those that were paid for.
    pub(super) fn debt(&self) -> usize {
        self.debt.get()
    }

    /// Since when a head has been coming that is not there whole.
    pub(super) fn head_since(&self) -> Option<Moment> {
        self.head_since.get()
    }

    /// Whether the peer's settings have begun to come.
    pub(super) fn is_settled(&self) -> bool {
        self.settled.get()
    }

    pub(super) fn read_at(&self) -> Moment {
        self.read_at.get()
    }

    /// When a part of a message was last read.
    pub(super) fn carried_at(&self) -> Moment {
        self.carried_at.get()
    }

    /// A piece of an answer, which leaves as a frame at least, was given to the machine.
    pub(super) fn answered(&self) {
        self.debt.set(self.debt.get().saturating_sub(FRAMES_A_PIECE));
    }

    pub(super) fn sent(&self, bytes: usize) {
        let sent = self.sent.get() + bytes;
        self.debt.set(self.debt.get().saturating_sub(sent / BYTES_A_FRAME));
        self.sent.set(sent % BYTES_A_FRAME);
    }

    pub(super) fn received(&self, mut bytes: &[u8], now: Moment) {
        self.read_at.set(now);
        if now > self.debt_since.get() + FORGET {
            self.debt_since.set(now);
            self.debt.set(0);
        }
        while !bytes.is_empty() {
            let skipped = self.skip.get().min(bytes.len());
            self.skip.set(self.skip.get() - skipped);
            bytes = &bytes[skipped..];
            if self.skip.get() == 0 && self.head_ends.get() {
                self.head_ends.set(false);
                self.head_since.set(None);
            }
            let have = self.have.get();
            let count = (HEADER_BYTES - have).min(bytes.len());
            if count == 0 {
                return;
            }
            let mut header = self.header.get();
            header[have..have + count].copy_from_slice(&bytes[..count]);
            self.header.set(header);
            bytes = &bytes[count..];
            self.have.set(have + count);
            if have + count == HEADER_BYTES {
                self.have.set(0);
                self.frame(header, now);
            }
        }
    }

    fn frame(&self, [high, middle, low, kind, flags, ..]: [u8; HEADER_BYTES], now: Moment) {
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.skip.set(length);
        if kind == SETTINGS && flags & ACK == 0 {
            self.settled.set(true);
        }
        let carries = kind == HEADERS || (kind == DATA && length > 0);
        let debt = self.debt.get();
        self.debt.set(if carries { debt.saturating_sub(1) } else { debt + 1 });
        if carries {
            self.carried_at.set(now);
        }
        if kind == HEADERS || kind == CONTINUATION {
            self.head_since.set(self.head_since.get().or(Some(now)));
            let ends = flags & END_HEADERS != 0;
            self.head_ends.set(ends);
            if ends && length == 0 {
                self.head_ends.set(false);
                self.head_since.set(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Epoch;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        bytes.extend(std::iter::repeat_n(kind, usize::from(length)));
        bytes
    }

    #[test]
    fn frames_are_told_apart_however_their_bytes_arrive() {
        let now = Epoch::start().now();
        let mut bytes = vec![b'P'; PREFACE_BYTES];
        for (kind, flags, length) in
            [(4, 0, 6), (HEADERS, END_HEADERS, 20), (6, 0, 8), (6, 0, 8), (DATA, 0, 0)]
        {
            bytes.extend(frame(kind, flags, length));
        }
        for piece in [1, 2, 7, bytes.len()] {
            let meter = Meter::of_client(now);
            for part in bytes.chunks(piece) {
                meter.received(part, now);
            }
            // SETTINGS, paid by HEADERS; two PINGs; an empty DATA.
            assert_eq!((meter.debt(), meter.head_since()), (3, None), "in pieces of {piece}");
            assert!(meter.is_settled());
        }
    }

    #[test]
    fn a_head_is_under_way_until_its_last_byte() {
        let now = Epoch::start().now();
        let meter = Meter::of_endpoint(now);
        let (first, last) = (frame(HEADERS, 0, 5), frame(CONTINUATION, END_HEADERS, 5));
        meter.received(&frame(SETTINGS, ACK, 0), now);
        assert!(!meter.is_settled(), "it said that it has heard ours");
        meter.received(&first, now);
        assert!(meter.head_since().is_some());
        meter.received(&last[..last.len() - 1], now + Duration::from_secs(1));
        assert_eq!(meter.head_since(), Some(now));
        meter.received(&last[last.len() - 1..], now);
        assert_eq!(meter.head_since(), None);
    }

    #[test]
    fn what_is_sent_and_time_pay_debts() {
        let now = Epoch::start().now();
        let meter = Meter::of_endpoint(now);
        for _ in 0..10 {
            meter.received(&frame(6, 0, 8), now);
        }
        assert_eq!(meter.debt(), 10);
        meter.sent(BYTES_A_FRAME + 1);
        assert_eq!(meter.debt(), 9);
        meter.answered();
        assert_eq!(meter.debt(), 9 - FRAMES_A_PIECE);
        meter.received(&frame(6, 0, 8), now + FORGET + Duration::from_secs(1));
        assert_eq!(meter.debt(), 1);
    }
}

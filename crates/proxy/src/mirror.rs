//! Mirrors: copies of requests whose answers nobody waits for.
//!
//! A copy goes out the moment its filter is reached, in a task of its own. What follows of the request's body is copied for it
//! as it passes ([`Tap`]), up to a bound for it and one for all of a worker: a mirror that falls behind by more than that is given up,
//! and so is one too many at once, one that takes too long, and one that cannot be reached. The request itself never waits for any of it; all that
//! a copy may cost it is giving the mirrors' tasks a turn while a large body passes.
//!
//! Owner: the worker. Copies under way are bounded in number and time, and end with it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use weir_codec::head::Asked;
use weir_model::limits::Limits;
use weir_model::table::{BackendState, CompiledListener};

use crate::http::h1::Call;
use crate::worker::Worker;

/// Bytes that a copy takes from what waits for it at a time. Unit: bytes. Source: ours.
const PIECE_BYTES: usize = 64 * 1024;

/// Copied bytes after which the mirrors' tasks are given a turn. Unit: bytes. Source: ours.
const TURN_BYTES: usize = 128 * 1024;

/// A request that is to be copied.
pub(crate) struct Copied {
    /// That the request came through.
    pub(crate) listener: Arc<CompiledListener>,
    pub(crate) backend: Arc<BackendState>,
    /// The head, and what of the body has passed already.
    pub(crate) request: Vec<u8>,
    /// More of the body will pass.
    pub(crate) more: bool,
    pub(crate) asked: Asked,
    pub(crate) idempotent: bool,
}

/// Sends a copy, within these limits of its client's. What is given back takes the rest of the body.
pub(crate) fn send(worker: &Rc<Worker>, limits: &Limits, copied: Copied) -> Option<Tap> {
    if worker.mirrors.get() >= limits.mirrors_at_once {
        worker.metrics.mirror_drops.add(1);
        return None;
    }
    let (tap, rest) = if copied.more {
        let room = Room { one: limits.mirror_body_bytes, all: limits.mirror_bytes };
        let (tap, rest) = tap(room, worker.mirror_bytes.clone());
        (Some(tap), Some(rest))
    } else {
        (None, None)
    };
    let call = Call {
        backend: copied.backend,
        listener: copied.listener,
        request: copied.request,
        rest,
        asked: copied.asked,
        idempotent: copied.idempotent,
        http2: false,
        deadline: worker.clock.now() + limits.mirror_timeout,
        wanted_bytes: 0,
    };
    let under_way = UnderWay::new(worker);
    tokio::task::spawn_local(async move {
        let worker = &under_way.0;
        match call.run(worker).await {
            Ok(_) => worker.metrics.mirrors.add(1),
            Err(failure) => {
                tracing::debug!(?failure, "a mirrored request was given up");
                worker.metrics.mirror_drops.add(1);
            }
        }
    });
    tap
}

/// A copy under way, counted.
struct UnderWay(Rc<Worker>);

impl UnderWay {
    fn new(worker: &Rc<Worker>) -> UnderWay {
        worker.mirrors.set(worker.mirrors.get() + 1);
        UnderWay(worker.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.mirrors.set(self.0.mirrors.get() - 1);
    }
}

/// The most bytes that may wait.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// For one mirror.
    one: usize,
    /// For all of a worker.
    all: usize,
}

/// A body's copy on its way from the request that it belongs to.
#[derive(Debug)]
struct Passing {
    bytes: BytesMut,
    room: Room,
    /// Bytes that wait for all mirrors of the worker, these included.
    of_all: Rc<Cell<usize>>,
    end: Option<Result<(), Broken>>,
    /// Who takes the bytes; gone when it has given up.
    reader: Option<Waker>,
    abandoned: bool,
}

/// The copy's body will never be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// The end of a copy's body where bytes go in.
#[derive(Debug)]
pub(crate) struct Tap(Rc<RefCell<Passing>>);

/// The end where they come out.
#[derive(Debug)]
pub(crate) struct Tapped(Rc<RefCell<Passing>>);

fn tap(room: Room, of_all: Rc<Cell<usize>>) -> (Tap, Tapped) {
    let bytes = BytesMut::new();
    let passing = Passing { bytes, room, of_all, end: None, reader: None, abandoned: false };
    let passing = Rc::new(RefCell::new(passing));
    (Tap(passing.clone()), Tapped(passing))
}

impl Passing {
    /// Takes these bytes in. False if there is no room for them.
    fn hold(&mut self, bytes: &[u8]) -> bool {
        let of_all = self.of_all.get() + bytes.len();
        let fits = self.bytes.len() + bytes.len() <= self.room.one && of_all <= self.room.all;
        if fits {
            self.bytes.extend_from_slice(bytes);
            self.of_all.set(of_all);
        }
        fits
    }

    /// Lets go of everything that waits.
    fn forget(&mut self) {
        self.of_all.set(self.of_all.get() - self.bytes.len());
        self.bytes = BytesMut::new();
    }

    fn finish(&mut self, end: Result<(), Broken>) {
        if self.end.is_none() {
            self.end = Some(end);
            self.wake();
        }
    }

    fn wait(&mut self, cx: &Context<'_>) {
        match &self.reader {
            Some(reader) if reader.will_wake(cx.waker()) => {}
            _ => self.reader = Some(cx.waker().clone()),
        }
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Tap {
    /// Copies bytes, or gives the copy up.
    fn push(&self, bytes: &[u8]) {
        let mut passing = self.0.borrow_mut();
        if passing.abandoned || passing.end.is_some() {
            return;
        }
        if passing.hold(bytes) {
            passing.wake();
        } else {
            passing.forget();
            passing.finish(Err(Broken));
        }
    }
}

/// A request that ends before its body leaves a copy that can never be whole.
impl Drop for Tap {
    fn drop(&mut self) {
        self.0.borrow_mut().finish(Err(Broken));
    }
}

impl Tapped {
    /// Appends some of what has come; when it appends nothing, nothing is there. Ready at the end of the body.
    pub(crate) fn poll_take(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<Result<(), Broken>> {
        let mut passing = self.0.borrow_mut();
        let length = passing.bytes.len().min(PIECE_BYTES);
        let piece = passing.bytes.split_to(length);
        out.extend_from_slice(&piece);
        passing.of_all.set(passing.of_all.get() - length);
        if let (Some(end), true) = (passing.end, passing.bytes.is_empty()) {
            return Poll::Ready(end);
        }
        passing.wait(cx);
        Poll::Pending
    }

    /// Whether the copy has been given up; tells `cx` when it is.
    pub(crate) fn is_broken(&mut self, cx: &mut Context<'_>) -> bool {
        let mut passing = self.0.borrow_mut();
        passing.wait(cx);
        passing.end == Some(Err(Broken))
    }
}

impl Drop for Tapped {
    fn drop(&mut self) {
        let mut passing = self.0.borrow_mut();
        passing.abandoned = true;
        passing.forget();
    }
}

/// The taps on one request's body.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    taps: Vec<Tap>,
    /// Bytes since the mirrors' tasks had a turn.
    since_turn: usize,
}

impl Taps {
    pub(crate) fn add(&mut self, tap: Tap) {
        self.taps.push(tap);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.taps.is_empty()
    }

    /// These bytes of the body pass.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.since_turn += bytes.len();
        for tap in &self.taps {
            tap.push(bytes);
        }
    }

    /// The body has passed whole.
    pub(crate) fn end(&mut self) {
        for tap in self.taps.drain(..) {
            tap.0.borrow_mut().finish(Ok(()));
        }
    }

    /// Whether the mirrors' tasks should be given a turn before more passes.
    pub(crate) fn want_a_turn(&mut self) -> bool {
        let due = !self.taps.is_empty() && self.since_turn > TURN_BYTES;
        if due {
            self.since_turn = 0;
        }
        due
    }
}

/// Lets the runtime's other tasks and sockets have a turn, then wakes this one.
pub(crate) fn give_a_turn<T>(cx: &mut Context<'_>) -> Poll<T> {
    let mut turn = std::pin::pin!(tokio::task::yield_now());
    match turn.as_mut().poll(cx) {
        Poll::Pending => {}
        Poll::Ready(()) => cx.waker().wake_by_ref(),
    }
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(one: usize) -> (Tap, Tapped) {
        super::tap(Room { one, all: 100 }, Rc::default())
    }

    fn taken(tapped: &mut Tapped) -> (Vec<u8>, Poll<Result<(), Broken>>) {
        let mut out = Vec::new();
        let end = tapped.poll_take(&mut Context::from_waker(Waker::noop()), &mut out);
        (out, end)
    }

    #[test]
    fn what_passes_comes_out_once_and_in_order() {
        let (tap, mut tapped) = tap(10);
        let mut taps = Taps::default();
        taps.add(tap);
        assert_eq!(taken(&mut tapped), (vec![], Poll::Pending));
        taps.push(b"abc");
        taps.push(b"de");
        assert_eq!(taken(&mut tapped), (b"abcde".to_vec(), Poll::Pending));
        taps.push(b"0123456789");
        taps.end();
        assert_eq!(taken(&mut tapped), (b"0123456789".to_vec(), Poll::Ready(Ok(()))));
    }

    #[test]
    fn a_mirror_that_falls_behind_is_given_up_and_holds_nothing() {
        let (tap, mut tapped) = tap(10);
        tap.push(b"0123456789");
        tap.push(b"x");
        tap.push(b"y");
        assert_eq!(taken(&mut tapped), (vec![], Poll::Ready(Err(Broken))));
        assert_eq!((tap.0.borrow().bytes.capacity(), tap.0.borrow().of_all.get()), (0, 0));
    }

    #[test]
    fn a_body_that_breaks_off_is_never_taken_for_whole() {
        let (tap, mut tapped) = tap(10);
        tap.push(b"abc");
        drop(tap);
        assert_eq!(taken(&mut tapped), (b"abc".to_vec(), Poll::Ready(Err(Broken))));
    }

    #[test]
    fn nothing_is_kept_for_a_mirror_that_has_given_up() {
        let (tap, tapped) = tap(10);
        tap.push(b"abc");
        drop(tapped);
        tap.push(b"def");
        assert_eq!((tap.0.borrow().bytes.capacity(), tap.0.borrow().of_all.get()), (0, 0));
    }

    #[test]
    fn what_waits_for_all_mirrors_together_is_bounded() {
        let of_all = Rc::<Cell<usize>>::default();
        let room = Room { one: 10, all: 25 };
        let mut pairs: Vec<_> = (0..3).map(|_| super::tap(room, of_all.clone())).collect();
        for (tap, _) in &pairs {
            tap.push(b"0123456789");
        }
        assert_eq!(of_all.get(), 20);
        assert_eq!(taken(&mut pairs[2].1), (vec![], Poll::Ready(Err(Broken))));
        assert_eq!(taken(&mut pairs[0].1), (b"0123456789".to_vec(), Poll::Pending));
        assert_eq!(of_all.get(), 10);
        drop(pairs);
        assert_eq!(of_all.get(), 0);
    }

    #[test]
    fn large_bodies_come_out_in_pieces() {
        let (tap, mut tapped) = super::tap(Room { one: 1 << 20, all: 1 << 20 }, Rc::default());
        let mut taps = Taps::default();
        taps.add(tap);
        taps.push(&vec![7; PIECE_BYTES + 1]);
        taps.end();
        assert_eq!(taken(&mut tapped), (vec![7; PIECE_BYTES], Poll::Pending));
        assert_eq!(taken(&mut tapped), (vec![7], Poll::Ready(Ok(()))));
    }
}

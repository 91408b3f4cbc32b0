//! Datagrams: what comes from one address and port is one flow, and a flow goes to one backend.
//!
//! Each worker has a socket of the port ([`crate::bind`]); the kernel gives all datagrams of a flow to one of them, so a flow lives and ends on one
//! worker and needs no lock. The first datagram from an address takes a ticket, of the sequence that all workers share; the flow keeps what it was
//! given until nothing has been passed on for a while, or its backend is gone, whatever else changes meanwhile. Each flow has a socket of its own
//! towards its endpoint, so that answers find their way back. An endpoint that is gone is replaced by another of the same backend. Flows end with
//! their listener, at once: nobody can tell a flow that is over from one that waits.
//!
//! Invariants: the number of flows of a port is bounded, over all workers; an invalid backend's share is dropped, and the flow remembered, so that it takes no second
//! ticket; a flow whose datagrams are dropped is looked at again after each change; no datagram goes to an address that was an
//! endpoint's of a backend that is gone; nothing is queued here: what the kernel does not take is lost, as datagrams are.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};

use rustc_hash::FxHashMap;
use socket2::SockRef;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::bind::Bind;
use crate::clock::Moment;
use crate::deadline::Deadline;
use crate::error::Failure;
use crate::record::RequestRecord;
use crate::tcp::{self, Given};
use crate::upstream::balance::{self, InFlight, Tried};
use crate::worker::Worker;

/// The largest datagram. Unit: bytes. Source: UDP's length field.
const LARGEST: usize = 64 * 1024;

/// Datagrams that are taken from a socket before others have their turn. Unit: datagrams. Source: ours.
const BURST: usize = 64;

thread_local! {
    static DATAGRAM: RefCell<Box<[u8]>> = RefCell::new(vec![0; LARGEST].into_boxed_slice());
}

/// A socket that is served.
pub(crate) struct Serving {
    stop: Rc<Notify>,
    task: JoinHandle<()>,
}

impl Serving {
    /// Ends its flows; the socket is closed when this returns.
    pub(crate) async fn end(self) {
        self.stop.notify_one();
        // A task that panicked has closed its socket, too.
        let _ = self.task.await;
    }
}

/// Begins to serve a socket.
pub(crate) fn serve(worker: Rc<Worker>, bind: Arc<Bind>, socket: std::net::UdpSocket) -> io::Result<Serving> {
    let front =
        Rc::new(Front { socket: UdpSocket::from_std(socket)?, bind, worker, flows: RefCell::default() });
    let stop = Rc::<Notify>::default();
    let task = tokio::task::spawn_local(front.run(stop.clone()));
    Ok(Serving { stop, task })
}

struct Front {
    socket: UdpSocket,
    bind: Arc<Bind>,
    worker: Rc<Worker>,
    flows: RefCell<FxHashMap<SocketAddr, Running>>,
}

/// A flow and the task that waits for its answers.
type Running = (Rc<Flow>, JoinHandle<()>);

/// What one client's datagrams go through.
struct Flow {
    peer: SocketAddr,
    /// `None`: it has taken no ticket, for want of a route or of a weight.
    given: RefCell<Option<Given>>,
    /// Why its datagrams are dropped.
    failure: Cell<Option<Failure>>,
    /// The change after which that was found.
    judged_at: Cell<u64>,
    upstream: RefCell<Option<Upstream>>,
    /// Of the task that waits for answers.
    waker: RefCell<Option<Waker>>,
    /// When a datagram was last passed on, either way.
    moved_at: Cell<Moment>,
    record: RefCell<RequestRecord>,
    _place: Place,
}

/// A flow's place among those of its port, given up when dropped.
struct Place(Arc<Bind>);

impl Place {
    /// `None` when there are as many as there may be.
    fn take(bind: &Arc<Bind>, most: usize) -> Option<Place> {
        let more = |count: usize| (count < most).then_some(count + 1);
        bind.flows.fetch_update(Relaxed, Relaxed, more).ok().map(|_| Place(bind.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.flows.fetch_sub(1, Relaxed);
    }
}

struct Upstream {
    socket: UdpSocket,
    in_flight: InFlight,
}

impl Front {
    async fn run(self: Rc<Self>, stop: Rc<Notify>) {
        loop {
            tokio::select! {
                biased;
                () = stop.notified() => break,
                readable = self.socket.readable() => {
                    if readable.is_err() {
                        break;
                    }
                }
            }
            self.worker.clock.tick();
            for _ in 0..BURST {
                if !self.clone().take_one() {
                    break;
                }
            }
            tokio::task::yield_now().await;
        }
        let flows = std::mem::take(&mut *self.flows.borrow_mut());
        for (flow, task) in flows.into_values() {
            task.abort();
            // The flow's task holds the socket until it has ended.
            let _ = task.await;
            flow.finish(&self.worker);
        }
    }

    /// Passes one datagram on. False when there is none.
    fn take_one(self: Rc<Self>) -> bool {
        DATAGRAM.with_borrow_mut(|datagram| match self.socket.try_recv_from(datagram) {
            Ok((count, peer)) => {
                let sent =
                    self.clone().flow(peer).is_some_and(|flow| flow.send(&datagram[..count], &self.worker));
                if !sent {
                    self.worker.metrics.datagrams_dropped.add(1);
                }
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                tracing::debug!(%error, "a datagram could not be received");
                true
            }
        })
    }

    /// The flow of this client. `None` when there are as many as there may be.
    fn flow(self: Rc<Self>, peer: SocketAddr) -> Option<Rc<Flow>> {
        let (worker, bind) = (&self.worker, &self.bind);
        let mut flows = self.flows.borrow_mut();
        if let Some((flow, _)) = flows.get(&peer) {
            if !flow.is_good(worker, bind) {
                flow.finish(worker);
                flow.begin(worker, bind);
            }
            return Some(flow.clone());
        }
        let flow = Rc::new(Flow::new(peer, Place::take(bind, bind.terms().limits.udp_flows)?, worker));
        flow.begin(worker, bind);
        let task = tokio::task::spawn_local(self.clone().answer(flow.clone()));
        flows.insert(peer, (flow.clone(), task));
        Some(flow)
    }

    /// Sends answers back until the flow has been idle for too long.
    async fn answer(self: Rc<Self>, flow: Rc<Flow>) {
        let worker = &self.worker;
        let mut deadline = Deadline::new(flow.ends_at(worker), &worker.clock);
        poll_fn(|cx| {
            flow.poll_answers(cx, &self.socket, worker);
            deadline.set(flow.ends_at(worker));
            deadline.poll(cx, &worker.clock)
        })
        .await;
        self.flows.borrow_mut().remove(&flow.peer);
        flow.finish(worker);
    }
}

impl Flow {
    fn new(peer: SocketAddr, place: Place, worker: &Worker) -> Flow {
        let now = worker.clock.now();
        Flow {
            peer,
            given: RefCell::default(),
            failure: Cell::default(),
            judged_at: Cell::new(worker.changes()),
            upstream: RefCell::default(),
            waker: RefCell::default(),
            moved_at: Cell::new(now),
            record: RefCell::new(RequestRecord::new(now)),
            _place: place,
        }
    }

    /// When it has been idle for too long.
    fn ends_at(&self, worker: &Worker) -> Moment {
        let idle = match &*self.given.borrow() {
            Some(given) => given.limits(worker).udp_idle_timeout,
            None => worker.settings.limits.udp_idle_timeout,
        };
        self.moved_at.get() + idle
    }

    /// Begins, or begins again: takes a ticket, if there is one.
    fn begin(&self, worker: &Worker, bind: &Bind) {
        worker.metrics.flows.opened.add(1);
        self.moved_at.set(worker.clock.now());
        *self.upstream.borrow_mut() = None;
        let mut record = RequestRecord::new(worker.clock.now());
        record.text = tcp::text(&bind.terms(), self.peer, None);
        *self.record.borrow_mut() = record;
        self.select(worker, bind);
    }

    fn select(&self, worker: &Worker, bind: &Bind) {
        match Given::new(worker, &bind.address, None, &mut self.record.borrow_mut()) {
            Ok(given) => self.give(given),
            Err(failure) => self.failure.set(Some(failure)),
        }
    }

    fn give(&self, given: Given) {
        self.failure.set(match given.backend() {
            // What was to be encrypted is not sent in the clear, and there is no other way for datagrams.
            Ok(backend) if backend.is_encrypted() => Some(Failure::BackendPolicy),
            Ok(_) => None,
            Err(failure) => Some(failure),
        });
        *self.given.borrow_mut() = Some(given);
    }

    /// Whether it goes on after what may have changed: a flow that works while its backend is there, one that does not while its
    /// ticket is one.
    fn is_good(&self, worker: &Worker, bind: &Bind) -> bool {
        if self.judged_at.replace(worker.changes()) == worker.changes() {
            return true;
        }
        let Some(given) = self.given.take() else {
            self.select(worker, bind);
            return true;
        };
        if self.failure.get().is_none() {
            let goes_on = given.backend().is_ok_and(|backend| {
                let snapshot = worker.snapshot();
                let now = snapshot.backend(&backend.key);
                now.is_some_and(|now| now.has_the_endpoints_of(backend) && !now.is_encrypted())
            });
            if goes_on {
                *self.given.borrow_mut() = Some(given);
            }
            return goes_on;
        }
        match given.again(worker, &bind.address) {
            Some(given) => self.give(given),
            None => return false,
        }
        true
    }

    /// Whether the datagram was sent.
    fn send(&self, datagram: &[u8], worker: &Worker) -> bool {
        let given = self.given.borrow();
        let (Some(given), None) = (&*given, self.failure.get()) else { return false };
        let mut upstream = self.upstream.borrow_mut();
        if upstream.as_ref().is_none_or(|upstream| !upstream.is_wanted(given)) {
            *upstream = self.open(given, worker);
            // The task that waits for answers has to look at the new socket.
            if let Some(waker) = &*self.waker.borrow() {
                waker.wake_by_ref();
            }
        }
        let Some(open) = &*upstream else { return false };
        // Not by the runtime, which of a new socket does not know yet that it can be written to.
        match SockRef::from(&open.socket).send(datagram) {
            Ok(_) => {
                self.moved_at.set(worker.clock.now());
                self.record.borrow_mut().request_bytes += datagram.len() as u64;
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                open.failed(&error, given, worker);
                *upstream = None;
                false
            }
        }
    }

    fn open(&self, given: &Given, worker: &Worker) -> Option<Upstream> {
        let backend = given.backend().ok()?;
        let (random, now) = (worker.random(), worker.clock.now().millis());
        let in_flight = balance::choose(&backend.endpoints(), None, &Tried::new(), random, now)?;
        let address = in_flight.endpoint().address;
        match connect(address) {
            Ok(socket) => {
                if let Some(text) = &mut self.record.borrow_mut().text {
                    text.endpoint = address.to_string();
                }
                Some(Upstream { socket, in_flight })
            }
            Err(error) => {
                tracing::debug!(endpoint = %address, %error, "a socket towards an endpoint could not be opened");
                None
            }
        }
    }

    /// Passes on what has come back.
    fn poll_answers(&self, cx: &mut Context<'_>, towards_client: &UdpSocket, worker: &Worker) {
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        let mut upstream = self.upstream.borrow_mut();
        let Some(open) = &*upstream else { return };
        let works = DATAGRAM.with_borrow_mut(|datagram| {
            let mut passed = 0;
            loop {
                if passed == BURST {
                    // Others have their turn first.
                    cx.waker().wake_by_ref();
                    return true;
                }
                let mut into = ReadBuf::new(datagram);
                match open.socket.poll_recv(cx, &mut into) {
                    Poll::Pending => return true,
                    Poll::Ready(Ok(())) => {
                        passed += 1;
                        self.moved_at.set(worker.clock.tick());
                        balance::succeeded(open.in_flight.endpoint());
                        if towards_client.try_send_to(into.filled(), self.peer).is_ok() {
                            self.record.borrow_mut().response_bytes += into.filled().len() as u64;
                        }
                    }
                    Poll::Ready(Err(error)) => {
                        if let Some(given) = &*self.given.borrow() {
                            open.failed(&error, given, worker);
                        }
                        return false;
                    }
                }
            }
        });
        if !works {
            // The next datagram is tried with another endpoint, if there is one.
            *upstream = None;
        }
    }

    fn finish(&self, worker: &Worker) {
        worker.metrics.flows.closed.add(1);
        let mut record = self.record.replace(RequestRecord::new(worker.clock.now()));
        record.failure = self.failure.get();
        record.finish_stream(worker);
    }
}

impl Upstream {
    /// Whether its endpoint is one of the backend's still.
    fn is_wanted(&self, given: &Given) -> bool {
        let address = self.in_flight.endpoint().address;
        given.backend().is_ok_and(|backend| backend.endpoints().find(address).is_some())
    }

    /// The endpoint said that nobody is there (ICMP), or cannot be reached.
    fn failed(&self, error: &io::Error, given: &Given, worker: &Worker) {
        let endpoint = self.in_flight.endpoint();
        tracing::debug!(endpoint = %endpoint.address, %error, "datagrams could not be exchanged with an endpoint");
        let avoid = given.limits(worker).endpoint_retry_delay;
        balance::failed(endpoint, worker.clock.now().millis(), avoid);
    }
}

/// A socket of its own towards an endpoint: what comes back on it is an answer.
fn connect(endpoint: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match endpoint {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(endpoint)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

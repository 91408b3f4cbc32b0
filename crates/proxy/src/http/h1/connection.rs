//! A client's connection: one request after another, and its end.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use weir_codec::head::HeadScan;
use weir_codec::rewrite::connection_lines;

use super::pipe::Pipe;
use super::route::{self, Decision};
use crate::bind::Bind;
use crate::buffer::ReadBuffer;
use crate::clock::Moment;
use crate::deadline::Deadline;
use crate::error::Failure;
use crate::http::h2;
use crate::io::Socket;
use crate::record::RequestRecord;
use crate::terms::Terms;
use crate::worker::{Front, Incoming, Registered, Worker};

/// How long a new connection that has said nothing yet is not taken for an idle one. Unit: time. Source: ours.
const FIRST_WORDS: std::time::Duration = std::time::Duration::from_secs(1);

/// What a client that speaks HTTP/2 without having asked begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves one connection until it ends.
pub(crate) async fn serve(incoming: Incoming) {
    let mut connection = Connection::new(incoming);
    // From the first: an exchange that begins with what is there already may wait for long.
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    *connection.down.registered.presence.waker.borrow_mut() = Some(waker);
    loop {
        match connection.turn().await {
            Next::Request => {}
            Next::Close => return connection.client.say_goodbye(),
            Next::Linger => return Box::pin(connection.linger()).await,
            // Apart, so that the others are no larger for it.
            Next::Http2 => {
                let Connection { mut down, client, input, .. } = connection;
                // Nobody else has it before the first stream.
                if let Some(down) = Rc::get_mut(&mut down) {
                    down.change_to_http2();
                }
                return Box::pin(h2::serve(down, client, input)).await;
            }
        }
    }
}

/// Serves the one request of a stream.
pub(crate) async fn serve_stream(down: Rc<Downstream>, stream: Socket) {
    // Whatever follows, there is no other request.
    Connection::over(down, stream).turn().await;
}

fn scheme(front: Option<&Front>) -> &'static str {
    if front.is_some() { "https" } else { "http" }
}

/// What follows a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another request may come.
    Request,
    Close,
    /// The client may be sending still: a close at once would reset what it has not read yet.
    Linger,
    /// The client speaks HTTP/2.
    Http2,
}

/// What came from the client.
enum Arrival {
    /// More of a head.
    Bytes,
    /// Nothing more.
    End,
    /// Nothing more in time.
    TooSlow,
}

/// What is known about a client's connection, and the same for every stream on it.
pub(crate) struct Downstream {
    pub(crate) registered: Registered,
    pub(crate) bind: Arc<Bind>,
    /// What the client said when it shook hands; `None` in the clear.
    pub(super) front: Option<Front>,
    /// Those on which its last request began.
    terms: RefCell<Arc<Terms>>,
    /// On them, the peer may say on whose behalf it speaks.
    pub(crate) trusted: Cell<bool>,
    ip: IpAddr,
    pub(super) http2: bool,
    /// The lines that every ordinary request of this connection is forwarded with.
    pub(super) lines: Box<[u8]>,
    peer: Box<str>,
    local: Box<str>,
}

impl Downstream {
    fn new(
        registered: Registered,
        client: &Socket,
        peer: SocketAddr,
        bind: Arc<Bind>,
        front: Option<Front>,
    ) -> Downstream {
        let terms = bind.terms();
        let ip = peer.ip().to_canonical();
        let local = if bind.address.ip.is_unspecified() {
            client.local_addr().map(|address| address.to_string()).unwrap_or_default()
        } else {
            SocketAddr::new(bind.address.ip, bind.bound_port).to_string()
        };
        let peer = ip.to_string();
        let mut down = Downstream {
            bind,
            front,
            trusted: Cell::new(terms.trusts(ip)),
            terms: RefCell::new(terms),
            ip,
            http2: false,
            lines: Box::default(),
            peer: peer.into(),
            local: local.into(),
            registered,
        };
        down.write_lines();
        down
    }

    /// The terms of now, for a request that begins.
    pub(crate) fn terms(&self) -> Arc<Terms> {
        let mut terms = self.terms.borrow_mut();
        if !self.bind.has(&terms) {
            *terms = self.bind.terms();
            self.trusted.set(terms.trusts(self.ip));
        }
        terms.clone()
    }

    fn write_lines(&mut self) {
        let mut lines = Vec::new();
        let (scheme, port) = (self.scheme().as_bytes(), self.bind.bound_port);
        connection_lines(self.peer(), scheme, port, self.http2, &mut lines);
        self.lines = lines.into();
    }

    /// The client turned out to speak HTTP/2.
    fn change_to_http2(&mut self) {
        self.http2 = true;
        self.write_lines();
    }

    pub(crate) fn worker(&self) -> &Rc<Worker> {
        &self.registered.worker
    }

    /// What the client's addresses begin with.
    pub(super) fn scheme(&self) -> &'static str {
        scheme(self.front.as_ref())
    }

    /// The peer's address without a port.
    pub(super) fn peer(&self) -> &[u8] {
        self.peer.as_bytes()
    }

    pub(super) fn peer_text(&self) -> String {
        self.peer.to_string()
    }

    /// What stands for `Host` where an old client sent none.
    pub(super) fn local_authority(&self) -> &[u8] {
        self.local.as_bytes()
    }

    /// The same without its port.
    pub(super) fn local_host(&self) -> &[u8] {
        let port = self.local.rfind(':').unwrap_or(self.local.len());
        &self.local.as_bytes()[..port]
    }
}

pub(super) struct Connection {
    pub(super) down: Rc<Downstream>,
    /// Of the request that is under way, else of the last one.
    pub(super) terms: Arc<Terms>,
    pub(super) client: Socket,
    pub(super) input: ReadBuffer,
    pub(super) deadline: Deadline,
    /// Requests so far, the current one included.
    pub(super) served: usize,
    pub(super) scan: HeadScan,
    /// The two directions of the request under way, and what its endpoint sent that is not used up. They are here, and begun anew
    /// where they are, because what a request needs would else be moved several times on its way.
    pub(super) to_endpoint: Pipe,
    pub(super) to_client: Pipe,
    pub(super) answer: ReadBuffer,
    pub(super) answer_scan: HeadScan,
}

impl Connection {
    fn new(incoming: Incoming) -> Connection {
        let Incoming { registered, client, input, peer, bind, front } = incoming;
        let down = Downstream::new(registered, &client, peer, bind, front);
        Connection { input, ..Connection::over(Rc::new(down), client) }
    }

    fn over(down: Rc<Downstream>, client: Socket) -> Connection {
        let worker = down.worker();
        let terms = down.terms();
        let patience = terms.limits.first_byte_timeout;
        Connection {
            client,
            input: ReadBuffer::default(),
            deadline: Deadline::new(worker.clock.now() + patience, &worker.clock),
            served: 0,
            scan: HeadScan::default(),
            to_endpoint: Pipe::empty(),
            to_client: Pipe::empty(),
            answer: ReadBuffer::default(),
            answer_scan: HeadScan::default(),
            terms,
            down,
        }
    }

    pub(super) fn worker(&self) -> &Rc<Worker> {
        self.down.worker()
    }

    async fn turn(&mut self) -> Next {
        let worker = self.worker().clone();
        let began = worker.clock.now();
        let mut first_byte = (!self.input.is_empty()).then_some(began);
        loop {
            if self.served == 0 && self.may_be_http2() {
                if self.input.bytes().len() >= PREFACE.len() {
                    return Next::Http2;
                }
            } else if first_byte.is_some() {
                self.renew();
                let mut record = RequestRecord::new(worker.clock.now());
                let mut decision = route::decide(self, &worker, &mut record);
                while let Decision::Ask(pending) = decision {
                    // Apart, so that what few requests need is not a part of every connection.
                    decision = Box::pin(self.ask(pending, &mut record)).await;
                }
                match decision {
                    Decision::Wait | Decision::Ask(_) => {}
                    Decision::Answer { out, keep_alive } => {
                        return Box::pin(self.say(out, keep_alive, &mut record)).await;
                    }
                    Decision::Forward(mut forward) => {
                        return self.forward(&mut forward, &mut record, &worker).await;
                    }
                }
            }
            match poll_fn(|cx| self.poll_bytes(cx, &worker, began, first_byte)).await {
                Arrival::Bytes => {
                    self.down.registered.presence.idle_since.set(None);
                    first_byte.get_or_insert(worker.clock.now());
                }
                Arrival::End => return Next::Close,
                Arrival::TooSlow => return Box::pin(self.refuse(Failure::HeadTimeout, &worker)).await,
            }
        }
    }

    /// Takes up what the Gateway's parameters say now.
    #[inline]
    fn renew(&mut self) {
        if !self.down.bind.has(&self.terms) {
            self.terms = self.down.terms();
        }
    }

    /// Whether what has come so far is the preface of HTTP/2, or its beginning.
    fn may_be_http2(&self) -> bool {
        let bytes = self.input.bytes();
        PREFACE.starts_with(&bytes[..bytes.len().min(PREFACE.len())])
    }

    /// Waits for more of a head.
    fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        began: Moment,
        first_byte: Option<Moment>,
    ) -> Poll<Arrival> {
        match self.input.poll_fill(&mut self.client, &worker.buffers, cx) {
            // An end in the middle of a head leaves nobody to answer.
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Arrival::End),
            Poll::Ready(Ok(_)) => {
                worker.clock.on_event();
                return Poll::Ready(Arrival::Bytes);
            }
            Poll::Pending => {}
        }
        self.input.park(&worker.buffers);
        let presence = &self.down.registered.presence;
        if self.input.is_empty() {
            presence.idle_since.set(Some(if self.served == 0 { began + FIRST_WORDS } else { began }));
            if presence.asked_to_close.get()
                || presence.leave_at.get().is_some()
                || (worker.is_draining() && self.served > 0)
            {
                return Poll::Ready(Arrival::End);
            }
        }
        self.deadline.set(self.head_deadline(worker, began, first_byte));
        ready!(self.deadline.poll(cx, &worker.clock));
        worker.clock.tick();
        Poll::Ready(if self.input.is_empty() { Arrival::End } else { Arrival::TooSlow })
    }

    fn head_deadline(&self, worker: &Worker, began: Moment, first_byte: Option<Moment>) -> Moment {
        let limits = &self.terms.limits;
        if !self.input.is_empty() {
            return first_byte.unwrap_or(began) + limits.header_read_timeout;
        }
        if self.served > 0 {
            return began + limits.idle_timeout;
        }
        let patience = limits.first_byte_timeout;
        began + if worker.is_draining() { patience.min(FIRST_WORDS) } else { patience }
    }

    /// Answers a request whose head did not come.
    async fn refuse(&mut self, failure: Failure, worker: &Worker) -> Next {
        let mut record = RequestRecord::new(worker.clock.now());
        match route::refuse(self, worker, failure, &mut record) {
            Decision::Answer { out, keep_alive } => self.say(out, keep_alive, &mut record).await,
            Decision::Wait | Decision::Forward(_) | Decision::Ask(_) => Next::Close,
        }
    }

    /// Sends an answer of the proxy's own.
    pub(super) async fn say(&mut self, out: Vec<u8>, keep_alive: bool, record: &mut RequestRecord) -> Next {
        let worker = self.worker().clone();
        let mut pipe = Pipe::empty();
        *pipe.out_mut() = out;
        let sent = self.send(&mut pipe, &worker).await;
        record.response_bytes = pipe.written();
        worker.buffers.give_back_out(pipe.take_out());
        record.finish(&worker);
        match sent {
            Ok(()) if keep_alive => Next::Request,
            Ok(()) => Next::Linger,
            Err(()) => Next::Close,
        }
    }

    /// Sends what a pipe holds.
    pub(super) async fn send(&mut self, pipe: &mut Pipe, worker: &Worker) -> Result<(), ()> {
        let limit = self.terms.limits.body_write_timeout;
        let mut nothing = ReadBuffer::default();
        let at = worker.clock.now() + limit;
        poll_fn(|cx| {
            if let Poll::Ready(sent) = pipe.poll_output(cx, &mut nothing, &mut self.client) {
                return Poll::Ready(sent.map_err(drop));
            }
            self.deadline.set(at);
            self.deadline.poll(cx, &worker.clock).map(Err)
        })
        .await
    }

    /// Ends the sending direction, then reads what the client still sends and drops it, for a while.
    async fn linger(mut self) {
        let worker = self.worker().clone();
        self.client.shut_down_writes();
        let at = worker.clock.now() + self.terms.limits.linger_timeout;
        poll_fn(|cx| {
            loop {
                self.input.consume(usize::MAX);
                match self.input.poll_fill(&mut self.client, &worker.buffers, cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(_)) if worker.clock.tick() >= at => return Poll::Ready(()),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => break,
                }
            }
            self.input.release(&worker.buffers);
            self.deadline.set(at);
            self.deadline.poll(cx, &worker.clock)
        })
        .await;
    }
}

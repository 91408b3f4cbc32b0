//! A worker: one thread, one single-threaded runtime, and everything that a request needs.
//!
//! Owns its snapshot pointer, its pool of upstream connections, its buffers, its clock and its counters. Nothing
//! of it is shared except through atomics that others only read, so there is no lock and no hop to another thread on the
//! request path. A new snapshot comes as a message.
//!
//! Invariants: a connection lives and dies on one worker; a request is selected in the snapshot that the worker
//! has at that moment; a panic costs one connection and is counted.

use std::cell::{Cell, OnceCell, Ref, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Waker;
use std::time::Duration;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot};
use weir_codec::body::BodyLimits;
use weir_codec::head::HeadLimits;
use weir_model::hostname::Hostname;
use weir_model::limits::Limits;
use weir_model::resource::{BackendTls, ClientValidation};
use weir_model::table::{BackendState, BindAddress, BindKind, BindTable, Snapshot, TlsMode};

use crate::access_log::LogSlot;
use crate::bind::Bind;
use crate::buffer::{Buffers, ReadBuffer};
use crate::clock::{Clock, Epoch, Moment, thread_has_waited};
use crate::config::HeaderTokens;
use crate::error::Failure;
use crate::http::{h1, h2};
use crate::io::{Counted, Socket};
use crate::metrics::WorkerMetrics;
use crate::terms::{self, Terms};
use crate::tls::accept;
use crate::tls::store::{BrokenPolicy, Inside, TlsStore, UpstreamTls};
use crate::upstream::pool::{Pool, PoolLimits};
use crate::{tcp, udp};

/// How often idle upstream connections are looked through, at least. Unit: time. Source: ours.
const SWEEP: Duration = Duration::from_secs(5);

/// Connections that may wait to be taken over by a worker. Unit: connections. Source: ours.
const HANDED_QUEUE: usize = 256;

/// Settings as the request path wants them. The same for all workers.
pub(crate) struct Settings {
    /// Towards endpoints, where a backend has none of its own.
    pub(crate) limits: Limits,
    /// The same, to be shared.
    pub(crate) own_limits: Arc<Limits>,
    pub(crate) head_limits: HeadLimits,
    pub(crate) body_limits: BodyLimits,
    pub(crate) pool_limits: PoolLimits,
    /// Towards clients, where a Gateway has none of its own.
    pub(crate) terms: Arc<Terms>,
    pub(crate) headers: HeaderTokens,
    pub(crate) log: LogSlot,
    pub(crate) epoch: Epoch,
    pub(crate) tls: TlsStore,
}

impl Settings {
    pub(crate) fn new(terms: Terms, headers: HeaderTokens, log: LogSlot) -> Settings {
        let limits = terms.limits.clone();
        Settings {
            head_limits: terms::head_limits(&limits),
            body_limits: terms::body_limits(&limits),
            pool_limits: terms::pool_limits(&limits),
            own_limits: Arc::new(limits.clone()),
            limits,
            terms: Arc::new(terms),
            headers,
            log,
            epoch: Epoch::start(),
            tls: TlsStore::new(),
        }
    }
}

/// Limits towards a backend's endpoints.
pub(crate) enum LimitsOf<'a> {
    /// Those that the process was started with.
    Started(&'a Limits),
    Own(Arc<Limits>),
}

impl std::ops::Deref for LimitsOf<'_> {
    type Target = Limits;

    fn deref(&self) -> &Limits {
        match self {
            LimitsOf::Started(limits) => limits,
            LimitsOf::Own(limits) => limits,
        }
    }
}

/// A connection on its way from the accept thread to its worker.
pub(crate) struct Handed {
    pub(crate) stream: std::net::TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) bind: Arc<Bind>,
}

/// A connection that begins to be served.
pub(crate) struct Incoming {
    pub(crate) registered: Registered,
    pub(crate) client: Socket,
    /// What was read already.
    pub(crate) input: ReadBuffer,
    pub(crate) peer: SocketAddr,
    pub(crate) bind: Arc<Bind>,
    /// `None`: in the clear.
    pub(crate) front: Option<Front>,
}

/// How hands were shaken with a client, for a connection that carries HTTP.
#[derive(Clone, Debug)]
pub(crate) struct Front(pub(crate) Rc<Established>);

#[derive(Debug)]
pub(crate) struct Established {
    /// What the client asked for. Lower case.
    pub(crate) server_name: Option<Box<[u8]>>,
    /// Of the listeners whose certificate it was shown.
    pub(crate) hostname: Hostname,
    /// What they asked of it.
    pub(crate) validation: Option<ClientValidation>,
}

impl Established {
    /// Whether hands would be shaken with the same listeners now, asking the same.
    fn holds(&self, table: &BindTable) -> bool {
        table.by_sni(self.server_name.as_deref()).is_some_and(|group| {
            group.hostname == self.hostname
                && group.tls_mode() == Some(TlsMode::Http)
                && group.client_validation() == self.validation.as_ref()
        })
    }
}

/// What a worker is told.
pub(crate) enum Order {
    /// Run this snapshot; acknowledged when it runs. `listeners` says whether any of them changed.
    Snapshot { snapshot: Box<Snapshot>, listeners: bool, done: oneshot::Sender<()> },
    /// Serve this socket for datagrams.
    Datagrams(Arc<Bind>, std::net::UdpSocket, oneshot::Sender<std::io::Result<()>>),
    /// Close it; acknowledged when it is closed.
    EndDatagrams(BindAddress, oneshot::Sender<()>),
    /// Close up to so many idle connections, those first that have been idle longest.
    Shed(usize),
    /// From now on each answer is the last one of its connection.
    Retire,
    /// Close idle connections at once and others with their answer; acknowledged when the last one is closed.
    Drain(oneshot::Sender<()>),
}

/// What others hold of a worker.
#[derive(Clone)]
pub(crate) struct WorkerHandle {
    pub(crate) connections: mpsc::Sender<Handed>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) load: Arc<Load>,
    pub(crate) metrics: Arc<WorkerMetrics>,
}

/// A worker's open connections, counted where it can be seen from outside.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) open: AtomicUsize,
    /// Told when a connection closes.
    pub(crate) room: Arc<Notify>,
}

pub(crate) struct Worker {
    pub(crate) settings: Arc<Settings>,
    pub(crate) clock: Clock,
    pub(crate) buffers: Buffers,
    pub(crate) pool: Pool,
    pub(crate) links: h2::Links,
    pub(crate) metrics: Arc<WorkerMetrics>,
    /// Told when endpoints may have changed.
    pub(crate) endpoints_changed: Notify,
    /// Requests that wait for endpoints, by backend key.
    pub(crate) held: RefCell<BTreeMap<Arc<str>, usize>>,
    /// Mirrored requests under way.
    pub(crate) mirrors: Cell<usize>,
    /// Bytes of bodies that are held for authorisation servers.
    pub(crate) auth_bytes: Rc<Cell<usize>>,
    /// Bytes of bodies that wait for mirrors.
    pub(crate) mirror_bytes: Rc<Cell<usize>>,
    /// The least time for which any backend's idle connections are kept.
    shortest_idle: Cell<Duration>,
    /// Room for a path before and after rewriting.
    pub(crate) paths: RefCell<[Vec<u8>; 2]>,
    /// How backends of this snapshot are spoken to over TLS.
    upstream_tls: RefCell<UpstreamIdentities>,
    /// Sockets for datagrams that this worker serves.
    datagrams: RefCell<BTreeMap<BindAddress, udp::Serving>>,
    snapshot: RefCell<Snapshot>,
    /// Snapshots so far.
    changes: Cell<u64>,
    random: Cell<u64>,
    retiring: Cell<bool>,
    draining: Cell<bool>,
    load: Arc<Load>,
    connections: RefCell<BTreeMap<u64, Rc<Presence>>>,
    next_connection: Cell<u64>,
    /// Told when the last connection has closed.
    empty: Notify,
}

/// A connection as its worker sees it.
#[derive(Default)]
pub(crate) struct Presence {
    /// Set while the connection waits between two requests, or for its first one; then it is a moment in the future at first,
    /// since a new connection most likely has a request under way.
    pub(crate) idle_since: Cell<Option<Moment>>,
    pub(crate) waker: RefCell<Option<Waker>>,
    /// The connection is to close as soon as it is idle.
    pub(crate) asked_to_close: Cell<bool>,
    /// What it came through.
    pub(crate) bind: OnceCell<Arc<Bind>>,
    /// The listener that a stream or a TLS connection belongs to; HTTP requests on one connection in the clear may belong to
    /// several.
    pub(crate) listener: RefCell<Option<Arc<str>>>,
    /// For HTTP over TLS.
    pub(crate) front: RefCell<Option<Front>>,
    /// The listener is gone, and at this moment the connection has to be.
    pub(crate) leave_at: Cell<Option<Moment>>,
}

/// By policy (kept, so that its address names it) and what is spoken: for each certificate of ours the identity.
type UpstreamIdentities = FxHashMap<(*const BackendTls, Inside), (Arc<BackendTls>, CertifiedIdentities)>;
type CertifiedIdentities = SmallVec<[(Option<Box<str>>, Result<Arc<UpstreamTls>, BrokenPolicy>); 1]>;

impl Worker {
    /// Starts a worker's thread.
    pub(crate) fn start(
        index: usize,
        settings: Arc<Settings>,
        room: Arc<Notify>,
        snapshot: Snapshot,
        seed: u64,
    ) -> std::io::Result<WorkerHandle> {
        let (connections, handed) = mpsc::channel(HANDED_QUEUE);
        let (orders, ordered) = mpsc::channel(16);
        let load = Arc::new(Load { open: AtomicUsize::new(0), room });
        let metrics = Arc::<WorkerMetrics>::default();
        let handle = WorkerHandle { connections, orders, load: load.clone(), metrics: metrics.clone() };
        // A runtime is bound to its thread, so whether it could be made is told from there.
        let (started, outcome) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name(format!("weir-worker-{index}")).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .on_thread_unpark(thread_has_waited)
                .build_local(Default::default());
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => {
                    // The starter waits for this.
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(()));
            let worker = Rc::new(Worker::new(settings, snapshot, load, metrics, seed));
            runtime.block_on(worker.run(handed, ordered));
        })?;
        outcome.recv().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()))?;
        Ok(handle)
    }

    fn new(
        settings: Arc<Settings>,
        snapshot: Snapshot,
        load: Arc<Load>,
        metrics: Arc<WorkerMetrics>,
        seed: u64,
    ) -> Worker {
        Worker {
            clock: Clock::new(settings.epoch),
            settings,
            buffers: Buffers::default(),
            pool: Pool::default(),
            links: h2::Links::default(),
            metrics,
            endpoints_changed: Notify::new(),
            held: RefCell::default(),
            mirrors: Cell::new(0),
            mirror_bytes: Rc::default(),
            auth_bytes: Rc::default(),
            shortest_idle: Cell::new(Duration::MAX),
            paths: RefCell::default(),
            upstream_tls: RefCell::default(),
            datagrams: RefCell::default(),
            snapshot: RefCell::new(snapshot),
            changes: Cell::new(0),
            random: Cell::new(seed),
            retiring: Cell::new(false),
            draining: Cell::new(false),
            load,
            connections: RefCell::default(),
            next_connection: Cell::new(0),
            empty: Notify::new(),
        }
    }

    /// Until the proxy is dropped, or has been drained.
    async fn run(self: Rc<Self>, mut handed: mpsc::Receiver<Handed>, mut orders: mpsc::Receiver<Order>) {
        let sweeper = tokio::task::spawn_local(self.clone().sweep());
        loop {
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(order) => self.clone().obey(order),
                    None => break,
                },
                Some(connection) = handed.recv() => self.clone().take_over(connection),
            }
        }
        sweeper.abort();
    }

    fn obey(self: Rc<Self>, order: Order) {
        match order {
            Order::Snapshot { snapshot, listeners, done } => {
                *self.snapshot.borrow_mut() = *snapshot;
                self.changes.set(self.changes.get() + 1);
                self.upstream_tls.borrow_mut().clear();
                if listeners {
                    self.part_with_listeners();
                }
                self.endpoints_changed.notify_waiters();
                // Nobody waits any more: the proxy is being dropped.
                let _ = done.send(());
            }
            Order::Datagrams(bind, socket, done) => {
                let address = bind.address;
                let served = udp::serve(self.clone(), bind, socket).map(|serving| {
                    self.datagrams.borrow_mut().insert(address, serving);
                });
                let _ = done.send(served);
            }
            Order::EndDatagrams(address, done) => {
                let serving = self.datagrams.borrow_mut().remove(&address);
                tokio::task::spawn_local(async move {
                    if let Some(serving) = serving {
                        serving.end().await;
                    }
                    let _ = done.send(());
                });
            }
            Order::Shed(count) => self.shed(count),
            Order::Retire => {
                self.retiring.set(true);
                // Those that carry many requests say so now.
                self.wake_connections();
            }
            Order::Drain(done) => {
                self.retiring.set(true);
                self.draining.set(true);
                self.wake_connections();
                tokio::task::spawn_local(async move {
                    while !self.connections.borrow().is_empty() {
                        self.empty.notified().await;
                    }
                    self.pool.clear();
                    self.links.clear();
                    let _ = done.send(());
                });
            }
        }
    }

    fn take_over(self: Rc<Self>, handed: Handed) {
        self.clock.tick();
        let stream = match prepare(handed.stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection was gone before it could be served");
                self.load.open.fetch_sub(1, Relaxed);
                self.load.room.notify_one();
                return;
            }
        };
        self.metrics.connections.add(1);
        let bind = handed.bind;
        let kind = self.snapshot().bind(&bind.address).map(|table| table.kind());
        let incoming = Incoming {
            client: Socket::Plain(Counted::new(stream, self.metrics.clone())),
            input: ReadBuffer::default(),
            peer: handed.peer,
            front: None,
            registered: self.register(&bind),
            bind,
        };
        match kind {
            Some(BindKind::Http) => tokio::task::spawn_local(h1::serve(incoming)),
            Some(BindKind::Tls) => tokio::task::spawn_local(accept::serve(incoming)),
            Some(BindKind::Tcp) => tokio::task::spawn_local(tcp::serve(incoming, None, false)),
            // The listener went away while the connection waited.
            Some(BindKind::Udp) | None => return,
        };
    }

    /// Connections whose listener is gone may go on for a while. Those that would be made with other listeners now, or asked for more, end
    /// when they have nothing under way: what they were believed for does not hold any more.
    fn part_with_listeners(&self) {
        let now = self.clock.tick();
        let snapshot = self.snapshot();
        for presence in self.connections.borrow().values() {
            let Some(bind) = presence.bind.get() else { continue };
            let table = snapshot.bind(&bind.address);
            let is_there = match (&*presence.front.borrow(), &*presence.listener.borrow()) {
                (Some(Front(made)), _) => table.is_some_and(|table| table.has_tls(&made.hostname)),
                (None, Some(key)) => {
                    snapshot.listener(key).is_some_and(|listener| listener.bind == bind.address)
                }
                (None, None) => table.is_some(),
            };
            match presence.leave_at.get() {
                None if !is_there => {
                    let patience = bind.terms().limits.listener_drain_timeout;
                    presence.leave_at.set(Some(now + patience));
                    wake(presence);
                }
                Some(_) if is_there => presence.leave_at.set(None),
                _ => {}
            }
            let holds = match (&*presence.front.borrow(), table) {
                (Some(Front(established)), Some(table)) => established.holds(table),
                _ => true,
            };
            if !holds && !presence.asked_to_close.replace(true) {
                wake(presence);
            }
        }
    }

    /// How connections to a backend with this policy are encrypted.
    pub(crate) fn upstream_tls(
        &self,
        policy: &Arc<BackendTls>,
        inside: Inside,
        certificate: Option<&str>,
    ) -> Result<Arc<UpstreamTls>, Failure> {
        let mut identities = self.upstream_tls.borrow_mut();
        let known = identities.entry((Arc::as_ptr(policy), inside));
        let (_, known) = known.or_insert_with(|| (policy.clone(), SmallVec::new()));
        let at = known.iter().position(|(ours, _)| ours.as_deref() == certificate).unwrap_or_else(|| {
            let identity = self.settings.tls.upstream(policy, certificate, inside);
            if let Err(BrokenPolicy(reason)) = &identity {
                tracing::warn!(hostname = policy.hostname, reason, "a backend's TLS policy cannot be met");
            }
            known.push((certificate.map(Into::into), identity));
            known.len() - 1
        });
        known[at].1.clone().map_err(|_| Failure::BackendPolicy)
    }

    fn register(self: Rc<Self>, bind: &Arc<Bind>) -> Registered {
        let id = self.next_connection.get();
        self.next_connection.set(id + 1);
        let presence = Rc::<Presence>::default();
        // It is new, and so has none.
        let _ = presence.bind.set(bind.clone());
        self.connections.borrow_mut().insert(id, presence.clone());
        Registered { worker: self, id, presence }
    }

    fn shed(&self, count: usize) {
        let now = self.clock.tick();
        let connections = self.connections.borrow();
        let asked = connections.values().filter(|presence| presence.asked_to_close.get()).count();
        let mut idle: Vec<_> = connections
            .values()
            .filter(|presence| !presence.asked_to_close.get())
            .filter_map(|presence| Some((presence.idle_since.get()?, presence)))
            .filter(|(since, _)| *since <= now)
            .collect();
        idle.sort_by_key(|(since, _)| *since);
        for (_, presence) in idle.into_iter().take(count.saturating_sub(asked)) {
            presence.asked_to_close.set(true);
            self.metrics.idle_closed.add(1);
            wake(presence);
        }
    }

    fn wake_connections(&self) {
        for presence in self.connections.borrow().values() {
            wake(presence);
        }
    }

    async fn sweep(self: Rc<Self>) {
        loop {
            // Some may be kept for less than others.
            let idle = self.settings.pool_limits.idle.min(self.shortest_idle.get());
            tokio::time::sleep((idle / 2).clamp(Duration::from_millis(10), SWEEP)).await;
            let now = self.clock.tick();
            self.pool.sweep(now);
            self.links.sweep(now);
        }
    }

    /// Limits towards a backend's endpoints: its own, else those that the process was started with.
    #[inline]
    pub(crate) fn limits(&self, backend: &BackendState) -> LimitsOf<'_> {
        match backend.own_limits() {
            None => LimitsOf::Started(&self.settings.limits),
            Some(own) => LimitsOf::Own(own),
        }
    }

    /// Bounds of the pool for a backend.
    #[inline]
    pub(crate) fn pool_limits(&self, backend: &BackendState) -> PoolLimits {
        match backend.own_limits() {
            None => self.settings.pool_limits,
            Some(own) => {
                self.shortest_idle.set(own.upstream_idle_timeout.min(self.shortest_idle.get()));
                terms::pool_limits(&own)
            }
        }
    }

    /// Bounds of a body that comes from a backend.
    #[inline]
    pub(crate) fn body_limits(&self, backend: &BackendState) -> BodyLimits {
        backend.own_limits().map_or(self.settings.body_limits, |own| terms::body_limits(&own))
    }

    /// Bounds of a head that comes from a backend.
    #[inline]
    pub(crate) fn head_limits(&self, backend: &BackendState) -> HeadLimits {
        backend.own_limits().map_or(self.settings.head_limits, |own| terms::head_limits(&own))
    }

    /// The snapshot of this moment. Not to be kept across a wait.
    pub(crate) fn snapshot(&self) -> Ref<'_, Snapshot> {
        self.snapshot.borrow()
    }

    /// Tells one snapshot of this worker from another.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// Connections do not stay open after an answer.
    pub(crate) fn is_retiring(&self) -> bool {
        self.retiring.get()
    }

    /// Connections do not stay open between requests.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// The next of a sequence of well-mixed numbers (SplitMix64); not for secrets.
    pub(crate) fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

fn prepare(stream: std::net::TcpStream) -> std::io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    TcpStream::from_std(stream)
}

fn wake(presence: &Presence) {
    if let Some(waker) = &*presence.waker.borrow() {
        waker.wake_by_ref();
    }
}

/// A connection's place on its worker; given up when dropped, in whatever way the connection ended.
pub(crate) struct Registered {
    pub(crate) worker: Rc<Worker>,
    pub(crate) presence: Rc<Presence>,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let worker = &self.worker;
        if std::thread::panicking() {
            worker.metrics.panics.add(1);
        }
        worker.connections.borrow_mut().remove(&self.id);
        worker.load.open.fetch_sub(1, Relaxed);
        worker.load.room.notify_one();
        if worker.draining.get() && worker.connections.borrow().is_empty() {
            worker.empty.notify_waiters();
        }
    }
}

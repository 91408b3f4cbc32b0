//! Changes: an update becomes a snapshot, sockets, and a message to every worker.
//!
//! One thread owns the current snapshot and the sockets, and takes updates one after another, also while connections drain. The order inside
//! one update keeps every promise about it: sockets that are wanted are bound first, then every worker runs the
//! new snapshot, then new sockets accept, then sockets that nobody wants are closed. What could not be bound is tried again with
//! each update and by a slow timer, and heals.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use weir_model::resource::{Applied, BindReport, Update};
use weir_model::table::{BindAddress, Snapshot, Transport};

use crate::bind::{self, AcceptOrder, Bind, Opened, Wanted};
use crate::drain::Drain;
use crate::metrics::FrontMetrics;
use crate::terms::{Basis, ProcessLimits, Terms};
use crate::worker::{Order, Settings, WorkerHandle};

/// How often binds that failed are tried again by themselves. Unit: time. Source: ours.
const BIND_RETRY: Duration = Duration::from_secs(2);

/// What the apply thread is told.
pub(crate) enum ApplyOrder {
    Update(Box<Update>, oneshot::Sender<Applied>),
    Drain { delay: Duration, deadline: Duration, done: oneshot::Sender<()> },
}

pub(crate) struct Applier {
    pub(crate) settings: Arc<Settings>,
    /// Bounds of the process, for those who accept and drain.
    pub(crate) limits: Arc<Mutex<ProcessLimits>>,
    /// What the terms of each bind were made from.
    pub(crate) bases: BTreeMap<BindAddress, (Basis, Arc<Terms>)>,
    /// Terms that were made so far.
    pub(crate) terms_made: u64,
    pub(crate) workers: Vec<WorkerHandle>,
    pub(crate) accept: mpsc::Sender<AcceptOrder>,
    pub(crate) low_port_fallback: bool,
    pub(crate) metrics: Arc<FrontMetrics>,
    /// The snapshot that every worker runs, for those who look from outside.
    pub(crate) current: Arc<Mutex<Snapshot>>,
    pub(crate) reports: watch::Sender<Arc<[BindReport]>>,
    /// By wanted address.
    pub(crate) binds: BTreeMap<BindAddress, State>,
    pub(crate) draining: bool,
}

/// What became of a wanted bind.
pub(crate) enum State {
    Bound(Arc<Bind>),
    Failed(io::Error),
}

impl Applier {
    /// Starts the apply thread. It ends when the sender is dropped.
    pub(crate) fn start(self) -> io::Result<mpsc::Sender<ApplyOrder>> {
        let (orders, ordered) = mpsc::channel(16);
        let (started, outcome) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name("weir-apply".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => {
                    // The starter waits for this.
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(()));
            runtime.block_on(self.run(ordered));
        })?;
        outcome.recv().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
        Ok(orders)
    }

    async fn run(mut self, mut orders: mpsc::Receiver<ApplyOrder>) {
        let mut drain: Option<Drain> = None;
        loop {
            let heals = !self.draining && self.binds.values().any(|state| matches!(state, State::Failed(_)));
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    // Nobody waits for an answer any more: the proxy is being dropped.
                    Some(ApplyOrder::Update(update, done)) => _ = done.send(self.apply(&update).await),
                    Some(ApplyOrder::Drain { delay, deadline, done }) => match &mut drain {
                        Some(drain) => drain.join(done),
                        None => drain = Some(self.begin_drain(delay, deadline, done).await),
                    },
                    None => break,
                },
                () = Drain::turn(&mut drain) => drain = self.go_on_draining(drain).await,
                () = tokio::time::sleep(BIND_RETRY), if heals => self.retry_binds().await,
            }
        }
        self.close_all().await;
    }

    async fn apply(&mut self, update: &Update) -> Applied {
        // First: backends change in place, and what their policies name has to be there.
        let unusable = self.settings.tls.admit(update);
        let before = self.current.lock().clone();
        let (snapshot, mut rejected) = before.apply_at(update, self.settings.epoch.now().millis());
        rejected.extend(unusable);
        self.metrics.updates.fetch_add(1, Relaxed);
        self.metrics.rejected_resources.fetch_add(rejected.len() as u64, Relaxed);
        self.set_terms(&snapshot);
        let opened = if self.draining { Vec::new() } else { self.open_wanted(&snapshot) };
        self.run_on_workers(&snapshot).await;
        self.settings.tls.release(update, &snapshot);
        *self.current.lock() = snapshot.clone();
        self.accept_on(opened).await;
        if self.close_unwanted(&snapshot).await && !self.draining {
            // A port may have been ours under another address.
            let opened = self.open_wanted(&snapshot);
            self.accept_on(opened).await;
        }
        let binds = self.report();
        Applied { sequence: update.sequence, binds: binds.to_vec(), rejected, planes: Vec::new() }
    }

    /// Makes the terms of each wanted bind, and gives them to the sockets that are there.
    fn set_terms(&mut self, snapshot: &Snapshot) {
        self.bases.retain(|address, _| snapshot.bind(address).is_some());
        for (address, table) in snapshot.binds() {
            let basis = Basis::of(table, snapshot);
            if self.bases.get(&address).is_some_and(|(known, _)| known.is(&basis)) {
                continue;
            }
            self.terms_made += 1;
            let terms = basis.terms(&self.settings.terms, self.terms_made, &self.settings.log);
            if let Some(State::Bound(bind)) = self.binds.get(&address) {
                bind.set_terms(terms.clone());
            }
            self.bases.insert(address, (basis, terms));
        }
        let all = self.bases.values().map(|(_, terms)| &terms.limits);
        *self.limits.lock() = ProcessLimits::over(&self.settings.limits, all);
    }

    /// Those of a wanted bind.
    fn terms(&self, address: &BindAddress) -> Arc<Terms> {
        self.bases.get(address).map_or_else(|| self.settings.terms.clone(), |(_, terms)| terms.clone())
    }

    /// Every worker runs the snapshot when this returns.
    async fn run_on_workers(&self, snapshot: &Snapshot) {
        let mut pending = Vec::with_capacity(self.workers.len());
        for worker in &self.workers {
            let (done, running) = oneshot::channel();
            let order = Order::Snapshot {
                snapshot: Box::new(snapshot.clone()),
                listeners: snapshot.work().listeners > 0,
                done,
            };
            if worker.orders.send(order).await.is_ok() {
                pending.push(running);
            }
        }
        for running in pending {
            // A worker that ended runs nothing; its connections went with it.
            let _ = running.await;
        }
    }

    /// Tries every wanted bind that has no socket.
    fn open_wanted(&mut self, snapshot: &Snapshot) -> Vec<(Arc<Bind>, Opened)> {
        let wanted: Vec<BindAddress> = snapshot.binds().map(|(address, _)| address).collect();
        let mut opened = Vec::new();
        for address in &wanted {
            if matches!(self.binds.get(address), Some(State::Bound(_))) {
                continue;
            }
            let dual_stack = bind::is_dual_stack(*address, wanted.iter().copied());
            let how = Wanted {
                dual_stack,
                low_port_fallback: self.low_port_fallback,
                receivers: self.workers.len(),
            };
            let state = match bind::open(*address, how) {
                Ok((socket, bound_port)) => {
                    let bind = Arc::new(Bind::new(*address, bound_port, self.terms(address)));
                    opened.push((bind.clone(), socket));
                    State::Bound(bind)
                }
                Err(error) => {
                    self.metrics.bind_failures.fetch_add(1, Relaxed);
                    if !matches!(self.binds.get(address), Some(State::Failed(before)) if before.kind() == error.kind())
                    {
                        tracing::warn!(%address, %error, "binding a socket failed; it is tried again");
                    }
                    State::Failed(error)
                }
            };
            self.binds.insert(*address, state);
        }
        opened
    }

    async fn accept_on(&mut self, opened: Vec<(Arc<Bind>, Opened)>) {
        for (bind, socket) in opened {
            let address = bind.address;
            let outcome = match socket {
                Opened::Listener(socket) => self.listen_on(bind, socket).await,
                Opened::Datagrams(sockets) => self.receive_on(bind, sockets).await,
            };
            if let Err(error) = outcome {
                tracing::error!(%address, %error, "a bound socket could not be accepted on");
                self.close(address).await;
                self.binds.insert(address, State::Failed(error));
            }
        }
    }

    async fn listen_on(&self, bind: Arc<Bind>, socket: std::net::TcpListener) -> io::Result<()> {
        let (done, added) = oneshot::channel();
        self.accept.send(AcceptOrder::Add(bind, socket, done)).await.map_err(|_| gone())?;
        added.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Each worker serves one of the sockets.
    async fn receive_on(&self, bind: Arc<Bind>, sockets: Vec<std::net::UdpSocket>) -> io::Result<()> {
        for (worker, socket) in self.workers.iter().zip(sockets) {
            let (done, served) = oneshot::channel();
            let order = Order::Datagrams(bind.clone(), socket, done);
            worker.orders.send(order).await.map_err(|_| gone())?;
            served.await.unwrap_or_else(|_| Err(gone()))?;
        }
        Ok(())
    }

    /// Returns when the socket is closed; what waits in it is taken before.
    async fn close(&self, address: BindAddress) {
        let mut closing = Vec::new();
        match address.transport {
            Transport::Tcp => {
                let (done, closed) = oneshot::channel();
                if self.accept.send(AcceptOrder::Remove(address, done)).await.is_ok() {
                    closing.push(closed);
                }
            }
            Transport::Udp => {
                for worker in &self.workers {
                    let (done, closed) = oneshot::channel();
                    if worker.orders.send(Order::EndDatagrams(address, done)).await.is_ok() {
                        closing.push(closed);
                    }
                }
            }
        }
        for closed in closing {
            let _ = closed.await;
        }
    }

    /// Closes all sockets.
    pub(crate) async fn close_all(&mut self) {
        let (done, closed) = oneshot::channel();
        if self.accept.send(AcceptOrder::RemoveAll(done)).await.is_ok() {
            let _ = closed.await;
        }
        for (address, state) in std::mem::take(&mut self.binds) {
            if address.transport == Transport::Udp && matches!(state, State::Bound(_)) {
                self.close(address).await;
            }
        }
    }

    /// Closes the sockets that the snapshot does not want. True if that may let a failed bind succeed.
    async fn close_unwanted(&mut self, snapshot: &Snapshot) -> bool {
        let unwanted: Vec<BindAddress> =
            self.binds.keys().filter(|address| snapshot.bind(address).is_none()).copied().collect();
        let mut freed = Vec::new();
        for address in unwanted {
            if let Some(State::Bound(bind)) = self.binds.remove(&address) {
                self.close(address).await;
                freed.push(bind.bound_port);
            }
        }
        self.binds
            .iter()
            .any(|(address, state)| matches!(state, State::Failed(_)) && freed.contains(&address.port))
    }

    async fn retry_binds(&mut self) {
        let snapshot = self.current.lock().clone();
        let opened = self.open_wanted(&snapshot);
        if !opened.is_empty() {
            self.accept_on(opened).await;
            self.report();
        }
    }

    /// The state of every wanted bind, published too.
    pub(crate) fn report(&self) -> Arc<[BindReport]> {
        let reports: Arc<[BindReport]> = self
            .binds
            .iter()
            .map(|(address, state)| {
                let (bound_port, error) = match state {
                    State::Bound(bind) => (u32::from(bind.bound_port), String::new()),
                    State::Failed(error) => (0, format!("{address}: {error}")),
                };
                BindReport {
                    address: address.ip.to_string(),
                    port: u32::from(address.port),
                    bound_port,
                    error,
                    udp: address.transport == Transport::Udp,
                }
            })
            .collect();
        self.reports.send_if_modified(|published| {
            let changed = *published != reports;
            *published = reports.clone();
            changed
        });
        reports
    }
}

/// The thread that was to serve a socket has ended.
fn gone() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

//! The data plane: runs a snapshot on sockets.
//!
//! Owns listening sockets, connections of both sides, the HTTP/1 state machine, streams of HTTP/2 as exchanges of it,
//! endpoint choice and reuse, retries, drain, metrics and the access log. What a request means is decided in `weir-model` and how it is written in
//! `weir-codec`; this crate moves bytes and keeps time.
//!
//! Threads: one that applies updates ([`apply`]), one that accepts ([`bind`]), and the workers ([`worker`]), each with a
//! runtime, a snapshot pointer and an upstream pool of its own. They meet in messages and atomics only.
//!
//! Invariants: no lock and no hop to another thread on the request path; four socket calls and no allocation for a
//! request on kept connections; every wait has a deadline and every queue a bound; peer input never panics the process.
//!
//! On what terms clients are served ([`terms`]) comes with updates too, and [`ProxyConfig`] says what holds without them.
//!
//! Deliberately absent: Kubernetes, statuses, and any configuration but [`ProxyConfig`] and updates.

mod access_log;
mod apply;
mod bind;
mod buffer;
mod clock;
mod config;
mod deadline;
mod drain;
mod error;
mod ext_authz;
mod filter;
mod http;
mod io;
mod metrics;
mod mirror;
mod query;
mod record;
mod retry;
mod session;
mod tcp;
mod terms;
mod tls;
mod udp;
mod upstream;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use weir_model::resource::{Applied, BindReport, Rejected, Update};
use weir_model::split::SplitReport;
use weir_model::table::Snapshot;

pub use crate::access_log::{AccessEntry, AccessSink};
pub use crate::config::{AccessLog, HeaderTokens, ProxyConfig};
pub use crate::session::SessionKey;
pub use crate::tls::store::{check_authorities, check_certificate};
pub use weir_model::network::{Network, NetworkError};

use crate::access_log::{Log, LogSlot};
use crate::apply::{Applier, ApplyOrder};
use crate::bind::Acceptor;
use crate::metrics::{FrontMetrics, Gauges};
use crate::session::Sealer;
use crate::terms::{Logged, ProcessLimits, Terms};
use crate::worker::{Settings, Worker, WorkerHandle};

/// A running data plane: a cheap handle. When the last one is dropped, sockets and connections are closed.
#[derive(Clone)]
pub struct Proxy {
    inner: Arc<Inner>,
}

struct Inner {
    apply: mpsc::Sender<ApplyOrder>,
    workers: Vec<WorkerHandle>,
    front: Arc<FrontMetrics>,
    current: Arc<Mutex<Snapshot>>,
    reports: watch::Receiver<Arc<[BindReport]>>,
    settings: Arc<Settings>,
    limits: Arc<Mutex<ProcessLimits>>,
}

impl Proxy {
    /// Starts the data plane's threads. It serves nothing before the first [`Proxy::apply`].
    pub fn start(config: ProxyConfig) -> std::io::Result<Proxy> {
        let sealer = Sealer::new(config.session_key.as_ref())?;
        let logged = (!matches!(config.access_log, AccessLog::Off)).then_some(Logged::All);
        let log = LogSlot::new(config.access_log);
        if logged.is_some() {
            log.open()?;
        }
        let limits = Arc::new(Mutex::new(ProcessLimits::over(&config.limits, [].into_iter())));
        let snapshot = Snapshot::with_limits(config.seed, config.limits.clone());
        let terms = Terms::started(config.limits, config.trusted, logged, sealer);
        let settings = Arc::new(Settings::new(terms, config.headers, log));
        let room = Arc::<Notify>::default();
        let count =
            config.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let mut workers = Vec::with_capacity(count);
        for index in 0..count.max(1) {
            let seed = config.seed ^ (index as u64).wrapping_mul(0xd134_2543_de82_ef95);
            workers.push(Worker::start(index, settings.clone(), room.clone(), snapshot.clone(), seed)?);
        }
        let front = Arc::<FrontMetrics>::default();
        let acceptor =
            Acceptor { workers: workers.clone(), limits: limits.clone(), room, metrics: front.clone() };
        let current = Arc::new(Mutex::new(snapshot));
        let (reports, reported) = watch::channel(Arc::from([]));
        let applier = Applier {
            settings: settings.clone(),
            limits: limits.clone(),
            bases: BTreeMap::new(),
            terms_made: 0,
            workers: workers.clone(),
            accept: acceptor.start()?,
            low_port_fallback: config.low_port_fallback,
            metrics: front.clone(),
            current: current.clone(),
            reports,
            binds: BTreeMap::new(),
            draining: false,
        };
        let apply = applier.start()?;
        let inner = Inner { apply, workers, front, current, reports: reported, settings, limits };
        Ok(Proxy { inner: Arc::new(inner) })
    }

    /// Runs an update; resolves when every worker runs it and its sockets accept. Updates take effect in the order of calls.
    pub async fn apply(&self, update: Update) -> Applied {
        let sequence = update.sequence;
        let (done, applied) = oneshot::channel();
        if self.inner.apply.send(ApplyOrder::Update(Box::new(update), done)).await.is_ok()
            && let Ok(applied) = applied.await
        {
            return applied;
        }
        let reason = "the data plane's apply thread has ended".to_owned();
        Applied { sequence, rejected: vec![Rejected { key: String::new(), reason }], ..Applied::default() }
    }

    /// The state of every wanted bind, now and whenever it changes: a bind that failed may heal without an update.
    pub fn binds(&self) -> watch::Receiver<Arc<[BindReport]>> {
        self.inner.reports.clone()
    }

    /// The snapshot that every worker runs.
    pub fn snapshot(&self) -> Snapshot {
        self.inner.current.lock().clone()
    }

    /// Every rule's weights, served counts and largest deviation.
    pub fn splits(&self) -> Vec<SplitReport> {
        self.snapshot().splits()
    }

    /// All counters, as Prometheus text.
    pub fn metrics(&self) -> String {
        let inner = &self.inner;
        let workers: Vec<_> = inner.workers.iter().map(|worker| worker.metrics.clone()).collect();
        let gauges = Gauges {
            open_connections: inner.workers.iter().map(|worker| worker.load.open.load(Relaxed)).collect(),
            binds: inner.reports.borrow().iter().filter(|report| report.error.is_empty()).count(),
            log_drops: inner.settings.log.get().map_or(0, Log::drops),
        };
        metrics::render(&workers, &inner.front, &gauges, &self.splits())
    }

    /// For how long connections are accepted, and then requests under way may go on, in [`Proxy::end`]: the limits `drain_delay` and
    /// `drain_timeout`, the largest of those of all Gateways.
    pub fn drain_times(&self) -> [Duration; 2] {
        let limits = *self.inner.limits.lock();
        [limits.drain_delay, limits.drain_timeout]
    }

    /// As [`Proxy::drain`], for as long as the limits say.
    pub async fn end(&self) {
        let [_, timeout] = self.drain_times();
        self.drain(timeout).await;
    }

    /// Goes on accepting for the `drain_delay` of the limits, then closes the listening sockets and the idle connections, and
    /// resolves when every request under way has ended, or after `deadline`.
    pub async fn drain(&self, deadline: Duration) {
        let (done, drained) = oneshot::channel();
        let [delay, _] = self.drain_times();
        let order = ApplyOrder::Drain { delay, deadline, done };
        if self.inner.apply.send(order).await.is_ok() {
            let _ = drained.await;
        }
    }
}

//! Snapshots over the wire: the set of resources on one side, data planes in their pods on the other.
//!
//! Owns the gRPC service `weir.dataplane.v1.Distribution` with mutual TLS, the authority of its certificates, and what each data
//! plane is sent. Invariants: a data plane gets what its own listeners lead to and nothing else, secrets included; what is held for a
//! slow one is bounded by what it is to have; only the leader makes an authority and looks at tokens, and only it, or who led last while nobody
//! is known to lead, serves and renews certificates; every wait is bounded. Deliberately absent: what resources mean, and pods (provisioning
//! makes them).
//!
//! | module | owns |
//! |---|---|
//! | [`graph`] | which data plane gets which resources |
//! | [`fleet`] | who is connected, what each was sent, how far each is |
//! | [`authority`], [`keeper`] | certificates, and the Secret in which the authority is kept |
//! | [`token`] | who has a token |
//! | [`server`], [`follow`] | connections, calls, streams, and how much data planes may say |

mod authority;
mod clock;
mod crowd;
mod fleet;
mod follow;
mod graph;
mod keeper;
mod server;
mod status;
mod token;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use weir_model::resource::{Applied, DataPlaneName, Update};

pub use self::authority::{Authority, AuthorityError, AuthorityPolicy, Issued};
pub use self::clock::Clock;
pub(crate) use self::fleet::LINGER;
pub use self::fleet::{EntryName, InstanceContents, InstanceReport, PlaneContents, PlaneReport};
pub use self::status::DistributeStatus;

use self::fleet::Fleet;
use self::keeper::{Keeper, Live};
use crate::call::Caller;
use crate::metrics::ControlStatus;

/// The audience of the tokens with which data planes come for the first time.
pub const DEFAULT_AUDIENCE: &str = "weir.dev/controller";

/// How long instances get to tell their counts. Unit: time. Source: ours.
const SPLITS_WAIT: Duration = Duration::from_secs(2);

/// Between two looks at how far data planes are at least: instances say something as often as they like, and each look is at all of
/// them. Unit: time. Source: ours, far below what anybody waits for in a status.
const TELL_SPACING: Duration = Duration::from_millis(5);

/// Whether this process may act, or who does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// `epoch` grows with each change of leader.
    Leader { epoch: u64 },
    /// This process led last, with `epoch`, and could neither go on nor learn whether anybody leads now: the API server is away, most likely. It
    /// goes on with what needs no API, for data planes that find no leader.
    Caretaker { epoch: u64 },
    /// `HOST:PORT` at which data planes reach the leader, if it is known.
    Standby { leader: Option<String> },
}

/// Settings of a distribution.
#[derive(Clone, Debug)]
pub struct DistributeConfig {
    pub listen: SocketAddr,
    /// Where the authority's Secret is, and its name.
    pub namespace: String,
    pub secret: String,
    /// Tokens must be for it.
    pub audience: String,
    pub policy: AuthorityPolicy,
    /// By which certificates are made and judged.
    pub clock: Clock,
    /// Counters; keep a clone to read them.
    pub status: Arc<DistributeStatus>,
    /// Where its calls to the API are counted, and what that refuses is told.
    pub calls: Arc<ControlStatus>,
}

/// Why nothing is distributed.
#[derive(Debug, thiserror::Error)]
#[error("listening for data planes on {address}: {source}")]
pub struct DistributeError {
    address: SocketAddr,
    source: std::io::Error,
}

/// The served counts of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceSplits {
    pub data_plane: DataPlaneName,
    pub instance: String,
    /// As its admin port's `/splits`.
    pub json: Bytes,
}

/// The served counts of those that were asked and answered in time.
#[derive(Debug, PartialEq, Eq)]
pub struct AllSplits {
    pub asked: usize,
    pub answered: Vec<InstanceSplits>,
}

/// A handle; cheap to clone. [`Distribution::run`] does the work.
#[derive(Clone)]
pub struct Distribution {
    shared: Arc<Shared>,
}

/// What calls and streams share.
struct Shared {
    caller: Caller,
    config: DistributeConfig,
    fleet: Mutex<Fleet>,
    /// Told when [`Fleet::applied`] may say something else.
    moved: Notify,
    live: watch::Sender<Option<Arc<Live>>>,
    trusted: watch::Sender<Arc<str>>,
    problem: watch::Sender<String>,
    /// And since when.
    leadership: watch::Sender<(Leadership, Instant)>,
    listening: watch::Sender<Option<SocketAddr>>,
    /// Who collects served counts, with the number of the request.
    collector: Mutex<Option<(u64, mpsc::Sender<InstanceSplits>)>>,
    splits: SplitsAsked,
}

/// Who asks for served counts: one after the other, so that nobody takes another's answers.
#[derive(Default)]
struct SplitsAsked {
    /// How often they were asked for.
    count: AtomicU64,
    /// The last that were collected, as long as somebody has them: how many had asked before it began.
    last: tokio::sync::Mutex<(u64, Weak<AllSplits>)>,
}

impl Distribution {
    pub fn new(client: kube::Client, config: DistributeConfig) -> Distribution {
        let shared = Shared {
            caller: Caller::new(client, Arc::clone(&config.calls)),
            config,
            fleet: Mutex::default(),
            moved: Notify::new(),
            live: watch::Sender::new(None),
            trusted: watch::Sender::new(Arc::from("")),
            problem: watch::Sender::new(String::new()),
            leadership: watch::Sender::new((Leadership::Standby { leader: None }, Instant::now())),
            listening: watch::Sender::new(None),
            collector: Mutex::default(),
            splits: SplitsAsked::default(),
        };
        Distribution { shared: Arc::new(shared) }
    }

    /// Whose certificates data planes are to believe, PEM; empty until it is known.
    pub fn trust(&self) -> watch::Receiver<Arc<str>> {
        self.shared.trusted.subscribe()
    }

    /// Where data planes are listened for, once they are.
    pub fn listening(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.shared.listening.subscribe()
    }

    /// What is missing for data planes to be served.
    pub fn ready(&self) -> Result<(), String> {
        let shared = &self.shared;
        if shared.listening.borrow().is_none() {
            return Err("data planes are not listened for yet".to_owned());
        }
        if shared.live.borrow().is_none() {
            let problem = shared.problem.borrow();
            let why = if problem.is_empty() { "it has not been read yet" } else { &problem };
            return Err(format!("there is no authority for data planes: {why}"));
        }
        Ok(())
    }

    pub fn planes(&self) -> Vec<PlaneReport> {
        self.shared.fleet.lock().reports()
    }

    /// What each data plane is to have, resource by resource.
    pub fn contents(&self) -> Vec<PlaneContents> {
        self.shared.fleet.lock().contents()
    }

    /// What every instance served so far, not earlier than this was called; of those that answer within two seconds. Whoever waits for
    /// another's answers meanwhile shares the next ones.
    pub async fn splits(&self) -> Arc<AllSplits> {
        let asked = &self.shared.splits;
        let ours = asked.count.fetch_add(1, Relaxed) + 1;
        let mut last = asked.last.lock().await;
        let (before, known) = &*last;
        if *before >= ours
            && let Some(all) = known.upgrade()
        {
            return all;
        }
        let before = asked.count.load(Relaxed);
        let all = Arc::new(self.collect_splits().await);
        *last = (before, Arc::downgrade(&all));
        all
    }

    async fn collect_splits(&self) -> AllSplits {
        let (request, asked) = self.shared.fleet.lock().want_splits();
        let (answers, mut answering) = mpsc::channel(asked.max(1));
        *self.shared.collector.lock() = Some((request, answers));
        let mut answered = Vec::with_capacity(asked);
        let _ = tokio::time::timeout(SPLITS_WAIT, async {
            while answered.len() < asked
                && let Some(one) = answering.recv().await
            {
                answered.push(one);
            }
        })
        .await;
        *self.shared.collector.lock() = None;
        answered.sort_by(|a, b| (&a.data_plane, &a.instance).cmp(&(&b.data_plane, &b.instance)));
        AllSplits { asked, answered }
    }

    /// Takes updates in, serves data planes and tells how far they are, until `shutdown` or the end of `updates`.
    pub async fn run(
        &self,
        leadership: watch::Receiver<Leadership>,
        updates: mpsc::Receiver<Update>,
        applied: mpsc::Sender<Applied>,
        shutdown: CancellationToken,
    ) -> Result<(), DistributeError> {
        let address = self.shared.config.listen;
        let failed = |source| DistributeError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        self.shared.listening.send_replace(Some(listener.local_addr().map_err(failed)?));
        let stop = shutdown.child_token();
        let keeper = Keeper {
            caller: self.shared.caller.clone(),
            namespace: self.shared.config.namespace.clone(),
            secret: self.shared.config.secret.clone(),
            policy: self.shared.config.policy,
            clock: self.shared.config.clock.clone(),
            leadership: leadership.clone(),
            live: self.shared.live.clone(),
            trusted: self.shared.trusted.clone(),
            problem: self.shared.problem.clone(),
        };
        let work = async {
            tokio::select! {
                () = self.shared.take_in(updates) => {}
                () = self.shared.tell(applied) => {}
                () = self.shared.follow_leadership(leadership) => {}
                () = stop.cancelled() => {}
            }
            stop.cancel();
        };
        tokio::join!(work, keeper.run(stop.clone()), server::run(&self.shared, listener, stop.clone()));
        Ok(())
    }
}

impl Shared {
    async fn take_in(&self, mut updates: mpsc::Receiver<Update>) {
        while let Some(update) = updates.recv().await {
            self.fleet.lock().apply(&update, Instant::now());
            self.moved.notify_one();
        }
    }

    /// Tells how far data planes are, each time that it is something else.
    async fn tell(&self, applied: mpsc::Sender<Applied>) {
        let mut told = None;
        let mut spacing = tokio::time::interval(TELL_SPACING);
        spacing.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            spacing.tick().await;
            let (now, deadline) = {
                let mut fleet = self.fleet.lock();
                let now = fleet.applied(Instant::now());
                (now, fleet.applied_deadline())
            };
            if told.as_ref() != Some(&now) {
                // Nothing was asked yet: there is nothing to answer.
                let asked = now.sequence > 0 || !now.planes.is_empty();
                if asked && applied.send(now.clone()).await.is_err() {
                    return;
                }
                told = Some(now);
            }
            let timer = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.moved.notified() => {}
                () = timer => {}
            }
        }
    }

    async fn follow_leadership(&self, mut leadership: watch::Receiver<Leadership>) {
        loop {
            let now = leadership.borrow_and_update().clone();
            self.config.status.caretaker.set(u64::from(matches!(now, Leadership::Caretaker { .. })));
            self.fleet.lock().stand_by(matches!(now, Leadership::Standby { .. }));
            self.leadership.send_replace((now, Instant::now()));
            self.moved.notify_one();
            if leadership.changed().await.is_err() {
                return;
            }
        }
    }
}

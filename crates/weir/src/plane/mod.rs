//! `weir proxy`: the data plane of one Gateway in a cluster.
//!
//! Owns the way from a controller's stream to the data plane of this process, and what is kept for a restart. Invariants: there is no
//! Kubernetes client; what is served never gets older (a controller that has less is not listened to); what ran last is served again after a
//! restart while no controller can be reached, and is said to be that; without anything to serve it is not ready.
//!
//! | module | owns |
//! |---|---|
//! | [`link`] | the connection: certificates, the stream, coming back |
//! | [`state`] | messages put together |
//! | [`identity`] | keys and trust |
//! | [`keep`] | the state directory |
//! | [`status`] | readiness, metrics, reports |

mod identity;
mod keep;
mod link;
mod state;
mod status;

use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use prost::Message as _;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use weir_model::limits::Limits;

use self::keep::{KeptState, Store};
use self::link::Link;
use self::state::State;
use self::status::PlaneStatus;
use crate::admin;
use crate::cli::ProxyOptions;
use crate::snapshot;
use crate::wire::{self, Room};

/// The address that stands for a data plane's own on the wire.
const WILDCARD: &str = "::";

/// How long a controller gets before what ran last is served. Unit: time. Source: ours.
const CONTROLLER_FIRST: Duration = Duration::from_secs(2);

/// Between two writes of the state at least, and so many times as long as a write takes. Unit: time. Source: ours.
const WRITE_SPACING: Duration = Duration::from_millis(500);
const WRITE_SHARE: u32 = 20;

/// After a write that failed it is tried again, whether something changed or not. Unit: time. Source: ours.
const WRITE_AGAIN: Duration = Duration::from_secs(10);

/// What the parts of this process share.
struct Plane {
    options: ProxyOptions,
    store: Store,
    status: PlaneStatus,
    state: Mutex<State>,
    /// When the state that was kept was written.
    kept_seconds: i64,
    /// The state changed since it was written.
    changed: Notify,
    /// Readiness may be another one.
    stirred: watch::Sender<()>,
    /// The first round of attempts to reach a controller is over.
    tried: Notify,
}

pub(crate) fn run(options: &ProxyOptions) -> Result<ExitCode> {
    let store = Store::open(&options.state_dir, &options.data_plane)?;
    let drain_delay = Duration::from_secs(u64::from(options.drain_delay));
    let proxy = wire::start_proxy(&options.process, false, Limits { drain_delay, ..Limits::default() })?;
    let address = options.address.map(|address| address.to_string());
    let (state, kept_seconds) = restored(&store);
    let plane = Arc::new(Plane {
        status: PlaneStatus::new(proxy.clone(), address),
        store,
        state: Mutex::new(state),
        kept_seconds,
        changed: Notify::new(),
        stirred: watch::Sender::new(()),
        tried: Notify::new(),
        options: options.clone(),
    });
    let shutdown = CancellationToken::new();
    let admin = admin::start(options.process.admin, Arc::new(Admin(plane.clone())), shutdown.clone())?;
    let room = {
        let (plane, stop) = (plane.clone(), shutdown.clone());
        Room::start("weir-link", 1, async move || plane.work(stop).await)?
    };
    println!("data plane {}: admin port at http://{admin}", options.data_plane);
    let outcome = wire::block_on(wire::serve_until_signal(&proxy, || {
        // Nobody is to be sent here any more.
        plane.status.drain();
        plane.stirred.send_replace(());
    }));
    shutdown.cancel();
    room.join();
    outcome
}

/// What the last run left, and when.
fn restored(store: &Store) -> (State, i64) {
    match store.state() {
        Ok(Some(kept)) => {
            let KeptState { position, entries, saved_seconds, .. } = kept;
            (State::restored(entries, position.unwrap_or_default()), saved_seconds)
        }
        Ok(None) => (State::default(), 0),
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(error, "the last known good state cannot be used");
            (State::default(), 0)
        }
    }
}

impl Plane {
    fn state(&self) -> MutexGuard<'_, State> {
        // What is behind the lock is whole after each change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(self: Arc<Plane>, shutdown: CancellationToken) {
        let link = Link::new(self.clone());
        tokio::select! {
            () = link.run() => {}
            () = self.fall_back() => {}
            () = self.write() => {}
            () = shutdown.cancelled() => {}
        }
        // What came last is there for the next run.
        if let Err(error) = self.write_once().await {
            tracing::warn!(%error, "the last state could not be written");
        }
    }

    /// Serves what ran last where no controller is there soon.
    async fn fall_back(&self) {
        if !self.state().is_empty() {
            tokio::select! {
                () = self.tried.notified() => {}
                () = tokio::time::sleep(CONTROLLER_FIRST) => {}
            }
            self.run_last_known_good().await;
        }
        std::future::pending().await
    }

    async fn run_last_known_good(&self) {
        if self.status.is_applied() {
            return;
        }
        let mut update = self.state().whole();
        self.readdress(&mut update);
        let resources = update.upserts.len();
        let applied = self.status.proxy().apply(update).await;
        self.state().applied(&applied);
        if self.status.is_applied() {
            // A controller was there first after all; what it said came later and holds.
            return;
        }
        self.status.runs_last_known_good(self.kept_seconds);
        self.stirred.send_replace(());
        tracing::warn!(resources, "no controller could be reached: the last known good state is served");
    }

    fn readdress(&self, update: &mut weir_model::resource::Update) {
        if let Some(address) = self.options.address {
            state::readdress(update, WILDCARD, &address.to_string());
        }
    }

    /// Writes the state whenever it changed, and not all the time.
    async fn write(&self) {
        let mut failing = false;
        loop {
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(WRITE_AGAIN), if failing => {}
            }
            let started = Instant::now();
            let outcome = self.write_once().await;
            match &outcome {
                Err(error) if !failing => {
                    tracing::warn!(%error, "the state could not be written: a restart without a controller would serve an older one");
                }
                Ok(()) if failing => tracing::info!("the state is written again"),
                _ => {}
            }
            failing = outcome.is_err();
            tokio::time::sleep(WRITE_SPACING.max(started.elapsed() * WRITE_SHARE)).await;
        }
    }

    async fn write_once(&self) -> std::io::Result<()> {
        if !self.status.is_applied() {
            return Ok(());
        }
        let kept = {
            let state = self.state();
            if !state.is_running() {
                // Who applies it says that something changed.
                return Ok(());
            }
            KeptState {
                data_plane: self.options.data_plane.to_string(),
                position: Some(state.position().clone()),
                entries: state.entries().cloned().collect(),
                saved_seconds: identity::unix_seconds(),
            }
        };
        let store = self.store.clone();
        let written = tokio::task::spawn_blocking(move || store.save_state(&kept.encode_to_vec())).await;
        let counters = &self.status.counters;
        let written = written.map_err(std::io::Error::other).and_then(|written| written);
        let counter = if written.is_ok() { &counters.writes } else { &counters.write_failures };
        counter.fetch_add(1, Relaxed);
        written
    }
}

/// The admin port's view.
struct Admin(Arc<Plane>);

impl admin::AdminSource for Admin {
    fn ready(&self) -> Result<(), String> {
        self.0.status.ready()
    }

    fn remark(&self) -> Option<String> {
        self.0.status.remark()
    }

    fn metrics(&self) -> String {
        self.0.status.metrics()
    }

    fn splits(&self) -> BoxFuture<'_, serde_json::Value> {
        futures::future::ready(wire::splits(self.0.status.proxy())).boxed()
    }

    fn snapshot(&self) -> serde_json::Value {
        let Plane { options, status, .. } = &*self.0;
        let instance = instance(options).unwrap_or_default();
        let state = self.0.state();
        let (epoch, rejected) = (state.position().epoch, state.rejected());
        snapshot::of_plane(
            &options.data_plane,
            epoch,
            state.entries(),
            &instance,
            status.ready().is_ok(),
            &rejected,
        )
    }
}

/// The pod's name, for people.
fn instance(options: &ProxyOptions) -> Result<String> {
    if let Some(instance) = &options.instance {
        return Ok(instance.clone());
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("the host's name")?;
    Ok(name.trim().to_owned())
}

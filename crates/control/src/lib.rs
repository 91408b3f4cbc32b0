//! The Kubernetes client side: watch, translate, write statuses, provision.
//!
//! Owns everything that speaks to a Kubernetes API, which it knows as a `kube::Client` and nothing else: a cluster's,
//! or the in-process service of the embedded API. Invariants: no timer lies between a watch event and the update that
//! follows from it; one writer of statuses; every call has a time-out, every queue a bound, every task ends on
//! shutdown. Deliberately absent: what objects mean (`weir-core`), sockets, and any data plane, which is met only as a
//! pair of channels.

mod backoff;
mod call;
pub mod distribute;
mod events;
mod kinds;
mod lease;
mod metrics;
mod page;
mod provision;
mod reconcile;
mod rights;
mod rivals;
mod source;
mod status_writer;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weir_core::{TranslateConfig, Translator};
use weir_model::resource::{Applied, Update};

pub use crate::backoff::Backoff;
pub use crate::lease::{
    ADMIN_PORT_ANNOTATION, Elector, LEASE_END, LEASE_LABEL, Leader, Leadership, LeaseConfig, LeaseTimes,
};
pub use crate::metrics::{ControlStatus, Number};
pub use crate::provision::{
    AddressRange, AddressRangeError, CONFIGURATION_FIELDS, Cluster, Fixed, Provision, Sandbox, gateway_label,
};
pub use crate::rights::Right;
pub use crate::rights::review::Installation;
pub use crate::source::NEEDED_KINDS;
/// The kinds that are read, and to whose objects statuses are written ([`Kind::has_status`]).
pub use weir_core::{Kind, MaterialCheck};

use crate::call::Caller;
use crate::provision::cluster::{Planes, RESERVED_PORTS};
use crate::provision::objects::Publisher;
use crate::reconcile::{Provisioning, Reconciler, Tools};
use crate::rivals::{Installations, StandBack};
use crate::status_writer::StatusWriter;

/// How long tasks get to end after the loop has.
const END: Duration = Duration::from_secs(2);

/// Settings of one control plane.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// How a Gateway gets its address.
    pub provision: Provision,
    pub translate: TranslateConfig,
    /// Names this process in the Events that it writes.
    pub instance: String,
    /// Counters; keep a clone to read them.
    pub status: Arc<ControlStatus>,
    /// The only namespaces whose objects are read; none: all.
    pub namespaces: Vec<String>,
    /// Whether this process may write.
    pub leadership: Leadership,
}

impl ControlConfig {
    pub fn new(provision: Provision) -> ControlConfig {
        ControlConfig {
            provision,
            translate: TranslateConfig::default(),
            instance: "weir".to_owned(),
            status: Arc::default(),
            namespaces: Vec::new(),
            leadership: Leadership::always(),
        }
    }
}

/// A candidate for leadership among the control planes of one installation. Its calls are counted in `status`.
pub fn elector(client: kube::Client, status: Arc<ControlStatus>, config: LeaseConfig) -> Elector {
    // Who is to lead is what it finds out, so nothing holds its own writes back but the version of the Lease.
    Elector::new(Caller::new(client, status), config)
}

/// Run a control plane until `shutdown`, or until the other end of a channel is gone. Updates are numbered from 1, the
/// first one is full, and each is to be answered on `applied`; in a cluster one with the last number again may follow, which only says
/// how new that is. While another leads it does all of this but write.
///
/// To be called on the runtime that is to do the work; `client` should have been made on it too.
pub async fn run(
    client: kube::Client,
    updates: mpsc::Sender<Update>,
    applied: mpsc::Receiver<Applied>,
    config: ControlConfig,
    shutdown: CancellationToken,
) {
    let stop = shutdown.child_token();
    let ControlConfig { provision, mut translate, instance, status, namespaces, leadership } = config;
    let caller = Caller::new(client.clone(), Arc::clone(&status)).under(leadership);
    let statuses = StatusWriter::new(caller.clone(), Arc::clone(&status), StandBack::default().ours());
    let (recorder, events) = events::recorder(caller.clone(), Arc::clone(&status), instance);
    let (found, standing_back) = watch::channel(None);
    let (seen, installations) = watch::channel(None);
    let mut tasks = JoinSet::new();
    let mut publisher = None;
    let mut planes = None;
    match &provision {
        Provision::Sandbox(_) => {
            let made = Publisher::new(caller.clone(), Arc::clone(&status), statuses.clone());
            tasks.spawn(made.clone().run(stop.clone()));
            publisher = Some(made);
        }
        Provision::Fixed(_) => {}
        Provision::Cluster(cluster) => {
            translate.reserved_ports = RESERVED_PORTS;
            let (cluster, status) = (cluster.clone(), Arc::clone(&status));
            let kept =
                Planes::new(cluster, caller.clone(), status, namespaces.clone(), installations.clone());
            tasks.spawn(kept.clone().run(stop.clone()));
            planes = Some(kept);
        }
    }
    match &provision {
        Provision::Cluster(cluster) => {
            let own = rivals::Own {
                namespace: cluster.namespace.clone(),
                lease: cluster.lease_name(),
                namespaces: namespaces.clone(),
                take_over: cluster.take_over,
            };
            let installation = Installation {
                namespace: cluster.namespace.clone(),
                lease: cluster.lease_name(),
                authority: Cluster::authority_name(&cluster.release),
                namespaces: namespaces.clone(),
            };
            let asking = Caller::new(client.clone(), Arc::clone(&status));
            tasks.spawn(rights::review::run(asking, installation, Arc::clone(&status), stop.clone()));
            tasks.spawn(rivals::look(caller.clone(), own, Arc::clone(&status), found, seen, stop.clone()));
        }
        _ => {
            let _ = seen.send(Some(Installations::alone(&namespaces)));
            let _ = found.send(Some(StandBack::default()));
        }
    }
    let (source_events, watched) = mpsc::channel(source::EVENT_QUEUE);
    let source =
        source::run(caller.clone(), Arc::clone(&status), namespaces.clone(), source_events, stop.clone());
    tasks.spawn(source);
    tasks.spawn(statuses.clone().run(stop.clone()));
    tasks.spawn(events.run(stop.clone()));
    let provisioning = Provisioning::new(provision, statuses.clone(), publisher, planes, namespaces.clone());
    let tools = Tools { caller, status, statuses, recorder, namespaces };
    let reconciler =
        Reconciler::new(tools, Translator::new(translate), provisioning, standing_back, installations);
    reconciler.run(watched, updates, applied, stop.clone()).await;
    stop.cancel();
    let ended = tokio::time::timeout(END, async {
        while let Some(task) = tasks.join_next().await {
            if let Err(error) = task {
                tracing::error!(%error, "a control task panicked");
            }
        }
    });
    if ended.await.is_err() {
        tracing::warn!("control tasks did not end in time and were dropped");
    }
}

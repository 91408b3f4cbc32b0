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
mod metrics;
mod provision;
mod reconcile;
mod source;
mod status_writer;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weir_core::{TranslateConfig, Translator};
use weir_model::resource::{Applied, Update};

pub use crate::backoff::Backoff;
pub use crate::metrics::{ControlStatus, Number};
pub use crate::provision::{AddressRange, AddressRangeError, Fixed, Provision, Sandbox};
/// The kinds that are read, and to whose objects statuses are written ([`Kind::has_status`]).
pub use weir_core::{Kind, MaterialCheck};

use crate::call::Caller;
use crate::provision::objects::Publisher;
use crate::reconcile::{Provisioning, Reconciler, Tools};
use crate::status_writer::{OurNames, StatusWriter};

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
}

impl ControlConfig {
    pub fn new(provision: Provision) -> ControlConfig {
        ControlConfig {
            provision,
            translate: TranslateConfig::default(),
            instance: "weir".to_owned(),
            status: Arc::default(),
        }
    }
}

/// Run a control plane until `shutdown`, or until the other end of a channel is gone. Updates are numbered from 1, the
/// first one is full, and each is to be answered on `applied`.
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
    let status = config.status;
    let caller = Caller::new(client, Arc::clone(&status));
    let ours = OurNames(weir_api::kong::CONTROLLERS.iter().map(|name| (*name).to_owned()).collect());
    let statuses = StatusWriter::new(caller.clone(), Arc::clone(&status), ours);
    let (recorder, events) = events::recorder(caller.clone(), Arc::clone(&status), config.instance);
    let publisher = config
        .provision
        .makes_objects()
        .then(|| Publisher::new(caller.clone(), Arc::clone(&status), statuses.clone()));
    let (source_events, watched) = mpsc::channel(source::EVENT_QUEUE);
    let mut tasks = JoinSet::new();
    tasks.spawn(source::run(caller.clone(), Arc::clone(&status), source_events, stop.clone()));
    tasks.spawn(statuses.clone().run(stop.clone()));
    tasks.spawn(events.run(stop.clone()));
    if let Some(publisher) = publisher.clone() {
        tasks.spawn(publisher.run(stop.clone()));
    }
    let provisioning = Provisioning::new(config.provision, statuses.clone(), publisher);
    let tools = Tools { caller, status, statuses, recorder };
    let reconciler = Reconciler::new(tools, Translator::new(config.translate), provisioning);
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

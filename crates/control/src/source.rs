//! Watches: from the API to a stream of [`SourceEvent`]s, one watch for each kind.
//!
//! Owns which version of a kind is read (by discovery, again whenever a CRD of its group changes), the lists and
//! watches, and their recovery. Invariants: a list is delivered whole or not at all, so its receiver can swap one set
//! for another; the events of one kind arrive in the order of the server; a failing kind never holds up another; an
//! object that is not understood is passed on as it came, but for what is never read ([`trim`]); an older state than was
//! seen is told only where the API stays at it, and then as that. Deliberately absent: any meaning of an object, and any
//! delay between an event and its delivery.

pub(crate) mod crds;
mod discovery;
pub(crate) mod trim;
pub(crate) mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weir_core::Kind;

use self::crds::{Bundles, Crds};
use crate::backoff::Backoff;
use crate::call::Caller;
use crate::kinds::collection;
use crate::metrics::ControlStatus;

/// What a watch tells.
#[derive(Debug)]
pub(crate) enum SourceEvent<K = Kind> {
    /// The kind is read in this version from now on, or is not served. Its objects stay until the next list.
    Served {
        kind: K,
        version: Option<&'static str>,
    },
    /// Every object of the kind, in the namespace where one is named: whatever is not here is gone.
    Listed {
        kind: K,
        namespace: String,
        resource_version: String,
        objects: Vec<Value>,
        /// The API was put back to an earlier day: what was seen of the kind says nothing any more, however new it was.
        put_back: bool,
    },
    /// One object, new or changed.
    Applied {
        kind: K,
        object: Value,
    },
    Deleted {
        kind: K,
        object: Value,
    },
    /// Nothing of the kind changed up to this version.
    Bookmark {
        kind: K,
        resource_version: String,
    },
    /// Of which releases the CRDs of the Gateway API are.
    Bundles(Bundles),
}

/// How long the events of the watches may pile up before the watches wait, in events. Nothing is dropped: a watch
/// that waits is slowed down by the server.
pub(crate) const EVENT_QUEUE: usize = 4_096;

/// After a change of a CRD, discovery is read again at these times: a server publishes a change a moment after the
/// CRD says so.
const SETTLE: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
];

/// How often discovery is read without a reason: the net under CRD watches that are not allowed or lost.
const RECHECK: Duration = Duration::from_secs(300);

/// Retry waits of lists, watches and discovery. Source: ours; an API that comes back after long is in use within the longer one.
pub(crate) const RETRY_FIRST: Duration = Duration::from_millis(100);
pub(crate) const RETRY_CAP: Duration = Duration::from_secs(10);

/// Kinds without which nothing can be served.
pub const NEEDED_KINDS: [Kind; 4] =
    [Kind::GatewayClass, Kind::Gateway, Kind::HttpRoute, Kind::ReferenceGrant];

/// Where the objects of a kind are read: in these namespaces, or everywhere in one watch, which is named by nothing.
pub(crate) fn places(kind: Kind, namespaces: &[String]) -> Vec<String> {
    if kind.cluster_scoped() || namespaces.is_empty() { vec![String::new()] } else { namespaces.to_vec() }
}

/// Leaves out what cannot matter and is large: the releases that Helm keeps in Secrets.
fn selection(kind: Kind) -> &'static str {
    match kind {
        Kind::Secret => "?fieldSelector=type%21%3Dhelm.sh%2Frelease.v1",
        _ => "",
    }
}

/// Run every watch until shutdown. `namespaces` that are read; none: all.
pub(crate) async fn run(
    caller: Caller,
    status: Arc<ControlStatus>,
    namespaces: Vec<String>,
    events: mpsc::Sender<SourceEvent>,
    shutdown: CancellationToken,
) {
    let changed = Arc::new(Notify::new());
    let mut tasks = JoinSet::new();
    let crds = Crds {
        caller: caller.clone(),
        events: events.clone(),
        changed: Arc::clone(&changed),
        bundles: Bundles::new(),
    };
    tasks.spawn(crds.run(shutdown.clone()));
    let (watches, newest) = (BTreeMap::new(), BTreeMap::new());
    let mut source = Source {
        caller,
        status,
        namespaces,
        events,
        changed,
        watches,
        newest,
        absent: None,
        tasks,
        shutdown,
    };
    source.supervise().await;
    while source.tasks.join_next().await.is_some() {}
}

struct Source {
    caller: Caller,
    status: Arc<ControlStatus>,
    namespaces: Vec<String>,
    events: mpsc::Sender<SourceEvent>,
    /// Rung when the set of served kinds may have changed.
    changed: Arc<Notify>,
    watches: BTreeMap<Kind, Running>,
    /// The newest version that was seen of a kind in a namespace, whichever watch saw it.
    newest: BTreeMap<(Kind, String), Arc<AtomicU64>>,
    /// The kinds without which nothing is served that were not there at the last look.
    absent: Option<Vec<&'static str>>,
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
}

/// The version in which a kind is read, and the watch that does; `None` while it is not served.
struct Running {
    version: Option<&'static str>,
    stop: CancellationToken,
}

impl Source {
    async fn supervise(&mut self) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
        let mut settle = SETTLE.len() - 1;
        loop {
            let wait = match discovery::served(&self.caller).await {
                Ok(served) => {
                    backoff.reset();
                    self.choose(&served).await;
                    settle += 1;
                    SETTLE.get(settle).copied().unwrap_or(RECHECK)
                }
                Err(error) => {
                    tracing::warn!(%error, "discovery failed");
                    backoff.next_wait()
                }
            };
            while self.tasks.try_join_next().is_some() {}
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = self.changed.notified() => settle = 0,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Start, keep, move or stop the watch of each kind by what is served now.
    async fn choose(&mut self, served: &discovery::Served) {
        let mut unserved = 0;
        for kind in Kind::ALL {
            let version = kind.versions().iter().copied().find(|version| served.has(kind, version));
            unserved += u64::from(version.is_none());
            if self.watches.get(&kind).is_some_and(|running| running.version == version) {
                continue;
            }
            self.switch(kind, version).await;
        }
        self.status.kinds_unserved.set(unserved);
        self.tell_absent();
    }

    /// Nothing happens without the definitions of some kinds: that is said, and when they have come.
    fn tell_absent(&mut self) {
        let is_absent = |kind: &Kind| self.watches.get(kind).is_none_or(|running| running.version.is_none());
        let absent: Vec<&'static str> =
            NEEDED_KINDS.into_iter().filter(is_absent).map(Kind::as_str).collect();
        if self.absent.as_ref() == Some(&absent) {
            return;
        }
        if !absent.is_empty() {
            let kinds = absent.join(", ");
            tracing::warn!(
                kinds,
                "the API does not serve kinds that are needed: install the CRDs of the Gateway API"
            );
        } else if self.absent.is_some() {
            tracing::info!("the API serves every kind that is needed now");
        }
        self.status.set_absent(absent.clone());
        self.absent = Some(absent);
    }

    async fn switch(&mut self, kind: Kind, version: Option<&'static str>) {
        if let Some(before) = self.watches.remove(&kind) {
            before.stop.cancel();
            tracing::info!(
                kind = kind.as_str(),
                from = before.version,
                to = version,
                "the version in which a kind is read changed"
            );
        }
        let stop = self.shutdown.child_token();
        self.watches.insert(kind, Running { version, stop: stop.clone() });
        tokio::select! {
            () = self.shutdown.cancelled() => return,
            sent = self.events.send(SourceEvent::Served { kind, version }) => if sent.is_err() { return },
        }
        let Some(version) = version else { return };
        for namespace in places(kind, &self.namespaces) {
            let newest = Arc::clone(self.newest.entry((kind, namespace.clone())).or_default());
            let watch = watch::Watch {
                kind,
                path: format!("{}{}", collection(kind, version).path(&namespace, ""), selection(kind)),
                namespace,
                caller: self.caller.clone(),
                status: Arc::clone(&self.status),
                events: self.events.clone(),
                changed: Arc::clone(&self.changed),
            };
            let stop = stop.clone();
            self.tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = watch.run_since(&newest) => {}
                }
            });
        }
    }
}

//! The watch of CRDs: when discovery is to be read again, and of which release those of the Gateway API are.
//!
//! Invariants: metadata alone is read; a change is told once, and also where the watch was away meanwhile. Where CRDs may not be read,
//! the slow check of discovery is all there is, and nothing is told of releases. Deliberately absent: what a release means.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::WatchEvent;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weir_core::Kind;

use super::watch::{GOOD_WATCH, WATCH_GRACE};
use super::{RETRY_CAP, RETRY_FIRST, SourceEvent};
use crate::backoff::Backoff;
use crate::call::{CallError, Caller, WATCH_SECONDS};

const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Where a CRD of the Gateway API says of which release it is (the API's text on `GatewayClassConditionStatusSupportedVersion`).
const BUNDLE_ANNOTATION: &str = "gateway.networking.k8s.io/bundle-version";

/// The releases of the CRDs of the Gateway API by the names of these; empty where one does not say.
pub(crate) type Bundles = BTreeMap<String, String>;

pub(super) struct Crds {
    pub(super) caller: Caller,
    pub(super) events: mpsc::Sender<SourceEvent>,
    /// Rung whenever a CRD of a kind that is read is made, changed or deleted.
    pub(super) changed: Arc<Notify>,
    pub(super) bundles: Bundles,
}

impl Crds {
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let watching = async {
            let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
            loop {
                let started = Instant::now();
                if let Err(error) = self.follow().await {
                    tracing::debug!(%error, "watch of CRDs failed");
                }
                if started.elapsed() >= GOOD_WATCH {
                    backoff.reset();
                }
                tokio::time::sleep(backoff.next_wait()).await;
                self.changed.notify_one();
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = watching => {}
        }
    }

    async fn follow(&mut self) -> Result<(), CallError> {
        let (version, crds) = self.caller.list(PATH, true).await?;
        // Whatever changed before this list is not in the watch.
        self.changed.notify_one();
        let listed = crds.iter().filter_map(bundle_of).collect();
        self.tell(listed).await;
        let mut stream = pin!(self.caller.watch(PATH, &version, true).await?);
        let idle = Duration::from_secs(WATCH_SECONDS) + WATCH_GRACE;
        while let Some(event) =
            tokio::time::timeout(idle, stream.next()).await.map_err(|_elapsed| CallError::TimedOut(idle))?
        {
            let (object, is_there) = match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, true),
                WatchEvent::Deleted(object) => (object, false),
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(status) => return Err(CallError::from(kube::Error::Api(status))),
            };
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            if Kind::ALL.iter().any(|kind| name.split_once('.') == Some((kind.plural(), kind.group()))) {
                self.changed.notify_one();
            }
            let mut bundles = self.bundles.clone();
            bundles.remove(name);
            bundles.extend(bundle_of(&object).filter(|_| is_there));
            self.tell(bundles).await;
        }
        Ok(())
    }

    async fn tell(&mut self, bundles: Bundles) {
        if self.bundles != bundles {
            self.bundles.clone_from(&bundles);
            // Whoever does not listen any more ends this task too.
            let _ = self.events.send(SourceEvent::Bundles(bundles)).await;
        }
    }
}

/// The name of a CRD of the Gateway API, and its release.
fn bundle_of(crd: &Value) -> Option<(String, String)> {
    let metadata = &crd["metadata"];
    let name = metadata["name"].as_str()?;
    let (_, group) = name.split_once('.')?;
    let is_ours = matches!(group, "gateway.networking.k8s.io" | "gateway.networking.x-k8s.io");
    let release = metadata["annotations"][BUNDLE_ANNOTATION].as_str().unwrap_or_default();
    is_ours.then(|| (name.to_owned(), release.to_owned()))
}

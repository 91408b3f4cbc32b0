//! One kind's list and watch, for ever.
//!
//! Invariants: after an error the watch goes on from the last version seen where the server still has it, else the
//! kind is listed again; a server that ends watches at once is not asked more often than the backoff allows; a silent
//! connection is given up after the time in which the server had promised to end it. Deliberately absent: versions of
//! kinds (the parent stops this task and starts another).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::WatchEvent;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use weir_core::Kind;

use super::{RETRY_CAP, RETRY_FIRST, SourceEvent};
use crate::backoff::Backoff;
use crate::call::{CallError, Caller, WATCH_SECONDS};
use crate::metrics::ControlStatus;

/// How much longer than promised a silent watch is believed in.
pub(super) const WATCH_GRACE: Duration = Duration::from_secs(10);

/// A watch that lived this long was a good one: the next failure starts the backoff anew.
pub(super) const GOOD_WATCH: Duration = Duration::from_secs(5);

/// The longest wait after a watch that the server ended in peace, however soon it did.
const CLEAN_WAIT: Duration = Duration::from_millis(500);

/// What a watch calls the kind that it reads.
pub(crate) trait Watched: Copy + Send + Sync + 'static {
    fn name(self) -> &'static str;
}

impl Watched for Kind {
    fn name(self) -> &'static str {
        self.as_str()
    }
}

pub(crate) struct Watch<K = Kind> {
    pub(crate) kind: K,
    /// The namespace whose objects are read; empty for all.
    pub(crate) namespace: String,
    /// Of the collection; it may end in a query that selects.
    pub(crate) path: String,
    pub(crate) caller: Caller,
    pub(crate) status: Arc<ControlStatus>,
    pub(crate) events: mpsc::Sender<SourceEvent<K>>,
    pub(crate) changed: Arc<Notify>,
}

/// Why a watch ended.
enum End {
    /// The server's usual end, after its time.
    Served,
    /// The version is too old, or an object could not be read: list again.
    Relist(String),
    Failed(CallError),
    /// Nobody listens any more.
    Closed,
}

impl<K: Watched> Watch<K> {
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
        let mut granted = self.status.rights.granted();
        loop {
            let mut version = match self.caller.list(&self.path, false).await {
                Ok((version, objects)) => {
                    self.status.lists.add(1);
                    self.status.watch_events.add(objects.len() as u64);
                    let listed = SourceEvent::Listed {
                        kind: self.kind,
                        namespace: self.namespace.clone(),
                        resource_version: version.clone(),
                        objects,
                    };
                    if self.events.send(listed).await.is_err() {
                        return;
                    }
                    version
                }
                Err(error) => {
                    self.failed("list failed", &error);
                    // A right that was missing may be there now.
                    granted.mark_unchanged();
                    let _ = tokio::time::timeout(backoff.next_wait(), granted.changed()).await;
                    continue;
                }
            };
            if !self.follow(&mut version, &mut backoff).await {
                return;
            }
        }
    }

    /// Watch from `version` on until the kind must be listed again (true) or nobody listens (false).
    async fn follow(&self, version: &mut String, backoff: &mut Backoff) -> bool {
        loop {
            let started = Instant::now();
            let end = self.once(version).await;
            if started.elapsed() >= GOOD_WATCH {
                backoff.reset();
            }
            let is_clean = matches!(end, End::Served);
            let relist = match end {
                End::Closed => return false,
                End::Served => version.is_empty(),
                End::Relist(reason) => {
                    tracing::info!(kind = self.kind.name(), reason, "listing again");
                    true
                }
                End::Failed(error) => {
                    self.failed("watch failed", &error);
                    error.is_gone() || error.is_not_found() || version.is_empty()
                }
            };
            if started.elapsed() < GOOD_WATCH {
                let longest = if is_clean { CLEAN_WAIT } else { RETRY_CAP };
                tokio::time::sleep(backoff.next_wait().min(longest)).await;
            }
            if relist {
                return true;
            }
        }
    }

    /// One watch call to its end.
    async fn once(&self, version: &mut String) -> End {
        let stream = match self.caller.watch(&self.path, version, false).await {
            Ok(stream) => stream,
            Err(error) => return End::Failed(error),
        };
        let mut stream = pin!(stream);
        let idle = Duration::from_secs(WATCH_SECONDS) + WATCH_GRACE;
        loop {
            let event = match tokio::time::timeout(idle, stream.next()).await {
                Err(_elapsed) => return End::Failed(CallError::TimedOut(idle)),
                Ok(None) => return End::Served,
                Ok(Some(Err(CallError::Answer(reason)))) => return End::Relist(reason),
                Ok(Some(Err(error))) => return End::Failed(error),
                Ok(Some(Ok(event))) => event,
            };
            let event = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.note(version, &object);
                    SourceEvent::Applied { kind: self.kind, object }
                }
                WatchEvent::Deleted(object) => {
                    self.note(version, &object);
                    SourceEvent::Deleted { kind: self.kind, object }
                }
                WatchEvent::Bookmark(bookmark) => {
                    version.clone_from(&bookmark.metadata.resource_version);
                    SourceEvent::Bookmark {
                        kind: self.kind,
                        resource_version: bookmark.metadata.resource_version,
                    }
                }
                WatchEvent::Error(status) if status.code == 410 => return End::Relist(status.message),
                WatchEvent::Error(status) => return End::Failed(CallError::from(kube::Error::Api(status))),
            };
            if self.events.send(event).await.is_err() {
                return End::Closed;
            }
        }
    }

    fn note(&self, version: &mut String, object: &Value) {
        self.status.watch_events.add(1);
        if let Some(seen) = object["metadata"]["resourceVersion"].as_str() {
            version.clear();
            version.push_str(seen);
        }
    }

    fn failed(&self, message: &'static str, error: &CallError) {
        self.status.watch_failures.add(1);
        if error.is_not_found() {
            self.changed.notify_one();
        }
        tracing::warn!(kind = self.kind.name(), namespace = self.namespace, %error, message);
    }
}

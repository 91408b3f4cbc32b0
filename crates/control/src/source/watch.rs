//! One kind's list and watch, for ever.
//!
//! Invariants: after an error the watch goes on from the last version seen where the server still has it, else the
//! kind is listed again; a server that ends watches at once is not asked more often than the backoff allows; a silent
//! connection is given up after the time in which the server had promised to end it. A list that is older than what was
//! seen is not believed before every list has been for [`PUT_BACK_WAIT`]: a server that lags behind catches up, and one whose
//! store was put back does not. Since it would be silent on a watch from its future, it is asked where it is before each watch but the first
//! after a list. Deliberately absent: versions of kinds (the parent stops this task and starts another).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use kube::api::WatchEvent;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use weir_core::Kind;

use super::trim::{page_objects, trim};
use super::{RETRY_CAP, RETRY_FIRST, SourceEvent};
use crate::backoff::Backoff;
use crate::call::{CallError, Caller, LIST_PAGE_OBJECTS, WATCH_SECONDS};
use crate::metrics::ControlStatus;

/// How much longer than promised a silent watch is believed in.
pub(super) const WATCH_GRACE: Duration = Duration::from_secs(10);

/// A watch that lived this long was a good one: the next failure starts the backoff anew.
pub(super) const GOOD_WATCH: Duration = Duration::from_secs(5);

/// The longest wait after a watch that the server ended in peace, however soon it did.
const CLEAN_WAIT: Duration = Duration::from_millis(500);

/// For how long every list must have been older than what was seen until that is taken to be the API's state. Source: ours; API
/// servers that lag behind others do so for seconds.
const PUT_BACK_WAIT: Duration = Duration::from_secs(30);

/// What a watch knows of the kind that it reads.
pub(crate) trait Watched: Copy + Send + Sync + 'static {
    fn name(self) -> &'static str;

    /// How many objects one page of a list may have.
    fn page_objects(self) -> u32 {
        LIST_PAGE_OBJECTS
    }

    /// Takes out what is not read.
    fn trim(self, _object: &mut Value) {}
}

impl Watched for Kind {
    fn name(self) -> &'static str {
        self.as_str()
    }

    fn page_objects(self) -> u32 {
        page_objects(self).unwrap_or(LIST_PAGE_OBJECTS)
    }

    fn trim(self, object: &mut Value) {
        trim(self, object);
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

/// What a list is worth.
#[derive(Debug, PartialEq)]
enum Worth {
    Newer,
    /// It is older than what was seen, and may be that of a server that lags behind.
    Older,
    /// It is older, and so was every list for long.
    PutBack,
}

impl<K: Watched> Watch<K> {
    pub(crate) async fn run(self) {
        self.run_since(&AtomicU64::default()).await;
    }

    /// The same after other watches of the kind, of which `newest` is the newest version seen.
    pub(super) async fn run_since(self, newest: &AtomicU64) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
        let mut granted = self.status.rights.granted();
        let mut older_since = None;
        loop {
            // What is seen while the list is on its way says nothing of the list.
            let seen = newest.load(Ordering::Relaxed);
            let waits = older_since.is_some_and(|since: Instant| since.elapsed() < PUT_BACK_WAIT);
            if waits && self.caller.version(&self.path).await.is_ok_and(|now| is_older(&now, seen)) {
                tokio::time::sleep(backoff.next_wait()).await;
                continue;
            }
            let kind = self.kind;
            let trim = move |object: &mut Value| kind.trim(object);
            let listed = self.caller.pages(&self.path, false, kind.page_objects(), &trim).await;
            let (mut version, objects) = match listed {
                Ok(listed) => listed,
                Err(error) => {
                    self.failed("list failed", &error);
                    // A right that was missing may be there now.
                    granted.mark_unchanged();
                    let _ = tokio::time::timeout(backoff.next_wait(), granted.changed()).await;
                    continue;
                }
            };
            self.status.lists.add(1);
            self.status.watch_events.add(objects.len() as u64);
            let worth = self.worth(&version, seen, &mut older_since);
            if worth == Worth::Older {
                tokio::time::sleep(backoff.next_wait()).await;
                continue;
            }
            if worth == Worth::PutBack {
                newest.store(0, Ordering::Relaxed);
            }
            note(newest, &version);
            if self.tell(worth == Worth::PutBack, version.clone(), objects).await.is_err() {
                return;
            }
            if !self.follow(&mut version, newest, &mut backoff).await {
                return;
            }
        }
    }

    /// `seen`: the newest version that was seen before the list was asked for.
    fn worth(&self, version: &str, seen: u64, older_since: &mut Option<Instant>) -> Worth {
        let (kind, namespace) = (self.kind.name(), &self.namespace);
        if !is_older(version, seen) {
            *older_since = None;
            return Worth::Newer;
        }
        let Some(since) = *older_since else {
            *older_since = Some(Instant::now());
            tracing::warn!(
                kind,
                namespace,
                version,
                seen,
                "the API answers with an older state than was seen; it is asked again"
            );
            return Worth::Older;
        };
        if since.elapsed() < PUT_BACK_WAIT {
            return Worth::Older;
        }
        *older_since = None;
        tracing::warn!(
            kind,
            namespace,
            version,
            seen,
            "the API stays at an older state than was seen: it was put back, and its state counts"
        );
        Worth::PutBack
    }

    async fn tell(
        &self,
        put_back: bool,
        resource_version: String,
        objects: Vec<Value>,
    ) -> Result<(), mpsc::error::SendError<()>> {
        self.events.reserve().await?.send(SourceEvent::Listed {
            kind: self.kind,
            namespace: self.namespace.clone(),
            resource_version,
            objects,
            put_back,
        });
        Ok(())
    }

    /// Watch from `version` on until the kind must be listed again (true) or nobody listens (false).
    async fn follow(&self, version: &mut String, newest: &AtomicU64, backoff: &mut Backoff) -> bool {
        let mut is_first = true;
        loop {
            let started = Instant::now();
            let end = self.once(version, newest, !std::mem::take(&mut is_first)).await;
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

    /// One watch call to its end; `asks`: after it has been asked whether the server still knows of this version.
    async fn once(&self, version: &mut String, newest: &AtomicU64, asks: bool) -> End {
        if asks {
            let seen = newest.load(Ordering::Relaxed);
            match self.caller.version(&self.path).await {
                Ok(now) if is_older(&now, seen) => {
                    return End::Relist(format!("{now} is older than {seen}, which was seen"));
                }
                Ok(_) => {}
                Err(error) => return End::Failed(error),
            }
        }
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
                WatchEvent::Added(mut object) | WatchEvent::Modified(mut object) => {
                    self.note(version, newest, &mut object);
                    SourceEvent::Applied { kind: self.kind, object }
                }
                WatchEvent::Deleted(mut object) => {
                    self.note(version, newest, &mut object);
                    SourceEvent::Deleted { kind: self.kind, object }
                }
                WatchEvent::Bookmark(bookmark) => {
                    note(newest, &bookmark.metadata.resource_version);
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

    fn note(&self, version: &mut String, newest: &AtomicU64, object: &mut Value) {
        self.status.watch_events.add(1);
        self.kind.trim(object);
        if let Some(seen) = object["metadata"]["resourceVersion"].as_str() {
            note(newest, seen);
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

/// Versions are compared where they are numbers.
fn is_older(version: &str, seen: u64) -> bool {
    version.parse::<u64>().is_ok_and(|version| version < seen)
}

fn note(newest: &AtomicU64, version: &str) {
    if let Ok(version) = version.parse::<u64>() {
        newest.fetch_max(version, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A running watch of a kind, whose API is this service.
    fn watching<K, S>(kind: K, api: S) -> (mpsc::Receiver<SourceEvent<K>>, tokio::task::JoinHandle<()>)
    where
        K: Watched,
        S: tower::Service<
                http::Request<kube::client::Body>,
                Response = http::Response<kube::client::Body>,
                Error = std::io::Error,
                Future: Send,
            > + Clone
            + Send
            + 'static,
    {
        let status = Arc::<ControlStatus>::default();
        let (events, coming) = mpsc::channel(16);
        let watch = Watch {
            kind,
            namespace: String::new(),
            path: "/api/v1/own".to_owned(),
            caller: Caller::new(kube::Client::new(api, "default"), Arc::clone(&status)),
            status,
            events,
            changed: Arc::default(),
        };
        (coming, tokio::spawn(watch.run()))
    }

    /// What is told of a store that is at one version and then at another; each list has one object of that version. Every watch ends at once.
    async fn told<K: Watched>(kind: K, first: u64, then: u64) -> Vec<(usize, bool, String)> {
        let version = Arc::new(AtomicU64::new(first));
        let served = Arc::clone(&version);
        let api = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let version = served.load(Ordering::Relaxed).to_string();
            let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let list = json!({
                "metadata": {"resourceVersion": version},
                "items": [{"metadata": {"name": "a", "resourceVersion": version}}],
            });
            let body = if is_watch { Vec::new() } else { list.to_string().into_bytes() };
            async { Ok::<_, std::io::Error>(http::Response::new(kube::client::Body::from(body))) }
        });
        let (mut coming, running) = watching(kind, api);
        tokio::time::sleep(Duration::from_secs(20)).await;
        version.store(then, Ordering::Relaxed);
        tokio::time::sleep(PUT_BACK_WAIT / 2).await;
        assert!(coming.len() <= 1, "nothing is taken back at once");
        tokio::time::sleep(PUT_BACK_WAIT * 2).await;
        running.abort();
        let mut told = Vec::new();
        while let Ok(event) = coming.try_recv() {
            if let SourceEvent::Listed { objects, put_back, resource_version, .. } = event {
                told.push((objects.len(), put_back, resource_version));
            }
        }
        told
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_was_put_back_is_believed_after_a_while_and_listed_as_that() {
        let (before, after) = ("100".to_owned(), "50".to_owned());
        assert_eq!(told(Kind::Service, 100, 50).await, [(1, false, before.clone()), (1, true, after)]);
        assert_eq!(told(Kind::Service, 100, 101).await, [(1, false, before)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_watch_tells_is_trimmed_too() {
        let api = tower::service_fn(|request: http::Request<kube::client::Body>| {
            let secret = json!({
                "metadata": {"name": "a", "resourceVersion": "6", "managedFields": [{"manager": "hidden"}]},
                "type": "Opaque", "data": {"password": "hidden"},
            });
            let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let body = if is_watch {
                ["ADDED", "MODIFIED", "DELETED"]
                    .map(|type_| format!("{}\n", json!({"type": type_, "object": secret})))
                    .concat()
            } else {
                json!({"metadata": {"resourceVersion": "5"}, "items": [secret]}).to_string()
            };
            async {
                Ok::<_, std::io::Error>(http::Response::new(kube::client::Body::from(body.into_bytes())))
            }
        });
        let (mut coming, running) = watching(Kind::Secret, api);
        for _ in 0..4 {
            let told = coming.recv().await.unwrap();
            let told = format!("{told:?}");
            assert!(told.contains("Opaque") && !told.contains("hidden"), "{told}");
        }
        running.abort();
    }
}

//! Watches: a reader's position in the history of one resource, as a stream of lines.
//!
//! Owns: what a watch starts from, what each change means to a selector, bookmarks, the ends. Invariants: an event
//! leaves as soon as its write is committed (no timer stands between); events of one watch are in the order of
//! their revisions and none is missing; a watch holds no queue, so a reader that is slower than the history is told
//! 410 and ended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::error::{ApiError, ApiResult};
use crate::rest::encode::Shape;
use crate::rest::path::Params;
use crate::rest::selector::Selector;
use crate::rest::{Api, Call};
use crate::store::{self, Change, Stored};

/// Changes read from the history at a time.
const BATCH: usize = 256;
/// Bytes put into one frame before it is handed on.
const FRAME_BYTES: usize = 64 * 1024;
/// Between bookmarks of a quiet watch. Source: kube-apiserver, about a minute.
const BOOKMARK_EVERY: Duration = Duration::from_secs(55);
/// Shortest life of a watch without a `timeoutSeconds`; up to twice this. Source: kube-apiserver's
/// min-request-timeout.
const LIFE_SECONDS: u32 = 1_800;

/// Where a watch starts.
enum Start {
    /// Everything that is there now, as `ADDED`, then changes.
    Present { end_marker: bool },
    /// Changes after this revision.
    After(u64),
}

struct Watch {
    api: Arc<Api>,
    call: Call,
    selector: Selector,
    shape: Shape,
    position: u64,
    lines: VecDeque<Bytes>,
    news: tokio::sync::watch::Receiver<u64>,
    ends: Instant,
    bookmark: Option<Instant>,
    shutdown: CancellationToken,
    over: bool,
}

/// A stream of JSON lines, or of Tables where asked.
pub(crate) fn watch(
    api: Arc<Api>,
    call: Call,
    selector: Selector,
    shape: Shape,
    shutdown: CancellationToken,
) -> ApiResult<impl Stream<Item = Bytes> + Send + 'static> {
    let start = start_of(&call.params, &api)?;
    let life = call
        .params
        .timeout_seconds
        .filter(|seconds| *seconds > 0)
        .unwrap_or_else(|| u64::from(LIFE_SECONDS + clock::random_below(LIFE_SECONDS)));
    let now = Instant::now();
    let mut watch = Watch {
        news: api.store.subscribe(&call.resource.id),
        position: 0,
        lines: VecDeque::new(),
        ends: now + Duration::from_secs(life),
        bookmark: call.params.allow_watch_bookmarks.then(|| now + BOOKMARK_EVERY),
        over: false,
        api,
        call,
        selector,
        shape,
        shutdown,
    };
    watch.begin(start)?;
    Ok(futures::stream::unfold(watch, |mut watch| async move {
        let frame = watch.next().await?;
        Some((frame, watch))
    }))
}

fn start_of(params: &Params, api: &Api) -> ApiResult<Start> {
    let version = params.resource_version.as_str();
    let asked: Option<u64> = match version {
        "" => None,
        text => Some(text.parse().map_err(|_| {
            ApiError::bad_request(format!(
                "Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))
        })?),
    };
    let current = api.store.revision();
    match params.send_initial_events {
        Some(initial) if params.resource_version_match != "NotOlderThan" => {
            let _ = initial;
            Err(ApiError::bad_request(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ))
        }
        Some(true) => Ok(Start::Present { end_marker: true }),
        Some(false) => Ok(Start::After(asked.filter(|asked| *asked > 0).unwrap_or(current))),
        None if !params.resource_version_match.is_empty() => Err(ApiError::bad_request(
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        )),
        None => match asked {
            None | Some(0) => Ok(Start::Present { end_marker: false }),
            // From an earlier life of this server: only a new list helps the client.
            Some(asked) if asked > current => Err(ApiError::too_old(asked, current)),
            Some(asked) => Ok(Start::After(asked)),
        },
    }
}

impl Watch {
    fn begin(&mut self, start: Start) -> ApiResult<()> {
        match start {
            Start::After(revision) => {
                self.position = revision;
                // Too old is an answer of its own rather than an event when it is known at once.
                match self.api.store.changes_after(&self.call.resource.id, revision, 0) {
                    Ok(_) => Ok(()),
                    Err(compacted) => Err(ApiError::too_old(revision, compacted.oldest)),
                }
            }
            Start::Present { end_marker } => {
                let snapshot = self.api.store.snapshot(&self.call.resource.id);
                self.position = snapshot.revision;
                let mut frame = BytesMut::new();
                for (_, stored) in store::in_namespace(&snapshot.objects, &self.call.namespace, None) {
                    if self.selector.matches(&stored.value) {
                        self.event("ADDED", stored, &mut frame);
                        self.flush(&mut frame, FRAME_BYTES);
                    }
                }
                self.flush(&mut frame, 1);
                if end_marker {
                    self.push_bookmark(true);
                }
                Ok(())
            }
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.lines.pop_front() {
                return Some(frame);
            }
            if self.over {
                return None;
            }
            self.news.borrow_and_update();
            self.read();
            if !self.lines.is_empty() || self.over {
                continue;
            }
            if !self.api.serves(&self.call.resource) {
                return None;
            }
            let bookmark = self.bookmark.unwrap_or(self.ends);
            tokio::select! {
                changed = self.news.changed() => self.over |= changed.is_err(),
                () = self.shutdown.cancelled() => self.over = true,
                () = tokio::time::sleep_until(self.ends.min(bookmark)) => self.tick(),
            }
        }
    }

    /// A bookmark is due, or the watch's life is over.
    fn tick(&mut self) {
        let now = Instant::now();
        if now >= self.ends {
            self.over = true;
        }
        if self.bookmark.is_some() {
            self.push_bookmark(false);
            self.bookmark = Some(now + BOOKMARK_EVERY);
        }
    }

    fn read(&mut self) {
        match self.api.store.changes_after(&self.call.resource.id, self.position, BATCH) {
            Ok((changes, complete)) => {
                let mut frame = BytesMut::new();
                for change in &changes {
                    self.change(change, &mut frame);
                    self.flush(&mut frame, FRAME_BYTES);
                }
                self.flush(&mut frame, 1);
                self.position = complete;
            }
            Err(compacted) => {
                let status = ApiError::too_old(self.position, compacted.oldest).to_status();
                self.lines.push_back(line(&json!({"type": "ERROR", "object": status})));
                self.over = true;
            }
        }
    }

    /// What a change means to this watch: an object may enter or leave what its selector shows.
    fn change(&mut self, change: &Change, frame: &mut BytesMut) {
        let namespace = &self.call.namespace;
        let in_scope = namespace.is_empty()
            || change.key.strip_prefix(namespace.as_str()).is_some_and(|rest| rest.starts_with('/'));
        if !in_scope {
            return;
        }
        let shown = |stored: &Option<Arc<Stored>>| {
            stored.as_ref().is_some_and(|stored| self.selector.matches(&stored.value))
        };
        match (shown(&change.before), shown(&change.after), &change.before, &change.after, &change.deleted) {
            (false, true, _, Some(after), _) => self.event("ADDED", after, frame),
            (true, true, _, Some(after), _) => self.event("MODIFIED", after, frame),
            (true, false, _, _, Some(deleted)) => self.event("DELETED", deleted, frame),
            (true, false, Some(before), _, None) => {
                let left = Arc::new(Stored::new(change.revision, before.value.clone()));
                self.event("DELETED", &left, frame);
            }
            _ => {}
        }
    }

    fn event(&mut self, kind: &str, stored: &Arc<Stored>, frame: &mut BytesMut) {
        frame.put_slice(b"{\"type\":\"");
        frame.put_slice(kind.as_bytes());
        frame.put_slice(b"\",\"object\":");
        self.shape.write_event_object(&self.api, &self.call, stored, frame);
        frame.put_slice(b"}\n");
    }

    fn flush(&mut self, frame: &mut BytesMut, at_least: usize) {
        if frame.len() >= at_least {
            self.lines.push_back(frame.split().freeze());
        }
    }

    fn push_bookmark(&mut self, end_of_initial: bool) {
        let mut metadata = json!({"resourceVersion": self.position.to_string(), "creationTimestamp": null});
        if end_of_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = self.shape.bookmark(&self.call, metadata);
        self.lines.push_back(line(&json!({"type": "BOOKMARK", "object": object})));
    }
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

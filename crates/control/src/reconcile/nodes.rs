//! Endpoints on nodes of which nobody has heard for a while.
//!
//! Kubernetes calls every pod of such a node not ready, though nobody has seen it fail: after a time without an API server that can
//! be every pod there is, until the kubelets have been heard again. Owns the look at a Node when no endpoint of a slice is ready, and
//! the mark on its endpoints ([`Endpoint::is_node_lost`](weir_api::core_v1::Endpoint)) where that says `Unknown`, or did a moment
//! ago. Invariants: a state is held back only where a look at its nodes is under way, and never for longer than [`HOLD`]; a mark comes from a look that began after the
//! state was seen, and is looked at again for as long as it stands; a Node is asked for at most four times a second.
//!
//! Deliberately absent: what marked endpoints are good for, which translation knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use serde_json::Value;
use tokio::time::Instant;
use weir_api::core_v1::EndpointSlice;
use weir_core::{Object, ObjectKey, Objects};

use crate::backoff::Backoff;
use crate::call::Caller;
use crate::source::{RETRY_CAP, RETRY_FIRST};

/// How long a state without a ready endpoint is held back for a look at its nodes. Unit: time. Source: ours; an API that has just come back
/// takes longer than the few milliseconds that it takes otherwise.
const HOLD: Duration = Duration::from_secs(3);

/// The least time between two looks at one Node.
const AT_MOST: Duration = Duration::from_millis(250);

/// How often a Node is looked at for as long as endpoints are marked for it.
const AGAIN: Duration = Duration::from_secs(10);

/// For how long after a Node was heard again its pods' states may be from before. Unit: seconds. Source: ours; a kubelet compares what it
/// knows with the API every ten seconds.
const HEARD_AGAIN: u64 = 60;

/// A Node that is ready for the first time was made not longer ago than this. Unit: seconds. Source: ours.
const NEW: u64 = 300;

/// Looks on their way at a time.
const IN_FLIGHT: usize = 8;

/// The longest name of a Node (RFC 1123 subdomain).
const NAME_MAX: usize = 253;

/// Whether the Node is lost; `None`: it could not be asked.
type Look = (String, Option<bool>);

pub(super) struct Nodes {
    caller: Caller,
    nodes: BTreeMap<String, Node>,
    /// The nodes of each slice of which no endpoint is ready.
    of_slices: BTreeMap<ObjectKey, BTreeSet<String>>,
    held: BTreeMap<ObjectKey, Held>,
    looks: FuturesUnordered<BoxFuture<'static, Look>>,
}

#[derive(Default)]
struct Node {
    slices: BTreeSet<ObjectKey>,
    is_lost: bool,
    /// A look is under way; whether another is to follow.
    is_looking: bool,
    is_wanted: bool,
    /// When it may be, or is to be, looked at.
    not_before: Option<Instant>,
    again: Option<Instant>,
}

/// A state that has not been put in.
struct Held {
    slice: Arc<EndpointSlice>,
    until: Instant,
}

impl Nodes {
    pub(super) fn new(caller: Caller) -> Nodes {
        Nodes {
            caller,
            nodes: BTreeMap::new(),
            of_slices: BTreeMap::new(),
            held: BTreeMap::new(),
            looks: FuturesUnordered::new(),
        }
    }

    /// A new state of a slice: as it is to be put in, or `None` if it is held back. `before`: what is in now.
    pub(super) fn take(
        &mut self,
        key: &ObjectKey,
        slice: Arc<EndpointSlice>,
        before: Option<&EndpointSlice>,
        now: Instant,
    ) -> Option<Arc<EndpointSlice>> {
        self.forget(key);
        let names = in_doubt(&slice);
        if names.is_empty() {
            return Some(slice);
        }
        for name in &names {
            let node = self.nodes.entry(name.clone()).or_default();
            node.slices.insert(key.clone());
            node.is_wanted = true;
        }
        let are_lost = names.iter().all(|name| self.is_lost(name));
        self.of_slices.insert(key.clone(), names);
        self.start(now);
        let was_of_use = before.is_none_or(|before| {
            before.endpoints.iter().any(|endpoint| endpoint.is_ready() || endpoint.is_node_lost)
        });
        if are_lost || !was_of_use {
            return Some(self.marked(&slice));
        }
        self.held.insert(key.clone(), Held { slice, until: now + HOLD });
        None
    }

    /// A slice is gone.
    pub(super) fn forget(&mut self, key: &ObjectKey) {
        self.held.remove(key);
        for name in self.of_slices.remove(key).unwrap_or_default() {
            if let Some(node) = self.nodes.get_mut(&name) {
                node.slices.remove(key);
                if node.slices.is_empty() && !node.is_looking {
                    self.nodes.remove(&name);
                }
            }
        }
    }

    /// The next look that has ended; never ends while there is none.
    pub(super) async fn next(&mut self) -> Look {
        match self.looks.next().await {
            Some(look) => look,
            None => std::future::pending().await,
        }
    }

    /// What is to be put in after a look.
    pub(super) fn looked(
        &mut self,
        (name, found): Look,
        objects: &Objects,
        now: Instant,
    ) -> Vec<Arc<EndpointSlice>> {
        let Some(node) = self.nodes.get_mut(&name) else { return Vec::new() };
        node.is_looking = false;
        if node.slices.is_empty() {
            self.nodes.remove(&name);
            self.start(now);
            return Vec::new();
        }
        if let Some(is_lost) = found {
            if is_lost && !node.is_lost {
                tracing::warn!(
                    node = name,
                    "nobody has heard of the node; endpoints on it are used where no others are ready"
                );
            }
            node.is_lost = is_lost;
        }
        node.again = (node.is_lost || found.is_none()).then(|| now + AGAIN);
        let keys = node.slices.clone();
        let mut changed = Vec::new();
        for key in keys {
            match self.held.get(&key).map(|held| Arc::clone(&held.slice)) {
                Some(_) if self.is_open(&key) => {}
                Some(slice) => {
                    self.held.remove(&key);
                    changed.push(self.marked(&slice));
                }
                None => {
                    let Some(Object::EndpointSlice(known)) = objects.get(&key) else { continue };
                    let marked = self.marked(known);
                    if marked != *known {
                        changed.push(marked);
                    }
                }
            }
        }
        self.start(now);
        changed
    }

    /// What has been held back for long enough, and the looks that are due.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Arc<EndpointSlice>> {
        for node in self.nodes.values_mut().filter(|node| node.again.is_some_and(|at| at <= now)) {
            node.again = None;
            node.is_wanted = true;
        }
        self.start(now);
        let over: Vec<ObjectKey> =
            self.held.iter().filter(|(_, held)| held.until <= now).map(|(key, _)| key.clone()).collect();
        let held = over.iter().filter_map(|key| self.held.remove(key)).collect::<Vec<_>>();
        held.iter().map(|held| self.marked(&held.slice)).collect()
    }

    /// When [`Nodes::tick`] is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let wanted = |node: &Node| node.not_before.filter(|_| node.is_wanted && !node.is_looking);
        let looks = self.nodes.values().flat_map(|node| node.again.into_iter().chain(wanted(node)));
        looks.chain(self.held.values().map(|held| held.until)).min()
    }

    fn start(&mut self, now: Instant) {
        for (name, node) in &mut self.nodes {
            let may = node.is_wanted && !node.is_looking && node.not_before.is_none_or(|at| at <= now);
            if !may || self.looks.len() >= IN_FLIGHT {
                continue;
            }
            (node.is_wanted, node.is_looking) = (false, true);
            node.not_before = Some(now + AT_MOST);
            self.looks.push(Box::pin(look(self.caller.clone(), name.clone())));
        }
    }

    fn is_lost(&self, name: &str) -> bool {
        self.nodes.get(name).is_some_and(|node| node.is_lost)
    }

    /// Whether a look is under way, or to come, at one of its nodes.
    fn is_open(&self, slice: &ObjectKey) -> bool {
        let names = self.of_slices.get(slice).into_iter().flatten();
        names.filter_map(|name| self.nodes.get(name)).any(|node| node.is_wanted || node.is_looking)
    }

    /// The slice with marks as they are known now.
    fn marked(&self, slice: &Arc<EndpointSlice>) -> Arc<EndpointSlice> {
        let mark = |name: &str| !name.is_empty() && self.is_lost(name);
        if slice.endpoints.iter().all(|endpoint| endpoint.is_node_lost == mark(&endpoint.node_in_doubt)) {
            return Arc::clone(slice);
        }
        let mut marked = EndpointSlice::clone(slice);
        for endpoint in &mut marked.endpoints {
            endpoint.is_node_lost = mark(&endpoint.node_in_doubt);
        }
        Arc::new(marked)
    }
}

/// The nodes of a slice's endpoints, if none of them is ready.
fn in_doubt(slice: &EndpointSlice) -> BTreeSet<String> {
    if slice.endpoints.iter().any(|endpoint| endpoint.is_ready()) {
        return BTreeSet::new();
    }
    let names = slice.endpoints.iter().map(|endpoint| &endpoint.node_in_doubt);
    names.filter(|name| is_name(name)).cloned().collect()
}

/// Whether it can name a Node: whoever may write slices chooses it, and it becomes part of a path.
fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let inside = label.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
        inside && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= NAME_MAX && text.split('.').all(is_label)
}

async fn look(caller: Caller, name: String) -> Look {
    let path = format!("/api/v1/nodes/{name}");
    let asked = async {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
        loop {
            match caller.get(&path).await {
                Ok(node) => return is_lost(&node, jiff::Timestamp::now()),
                // What is not there, or may not be read, is not known to be lost.
                Err(error) if error.is_final() || error.is_not_found() => return false,
                Err(_) => tokio::time::sleep(backoff.next_wait()).await,
            }
        }
    };
    let found = tokio::time::timeout(HOLD, asked).await.ok();
    (name, found)
}

/// Whether nobody has heard of a Node, or only for a moment: a kubelet that is heard again takes some seconds to say of each pod that it is
/// ready. A Node that has just been made is not heard again.
fn is_lost(node: &Value, now: jiff::Timestamp) -> bool {
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let Some(ready) = conditions.into_iter().find(|condition| condition["type"] == "Ready") else {
        return false;
    };
    let time = |value: &Value| value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let apart = |a: jiff::Timestamp, b: jiff::Timestamp| a.as_second().abs_diff(b.as_second());
    match ready["status"].as_str() {
        Some("Unknown") => true,
        Some("True") => time(&ready["lastTransitionTime"]).is_some_and(|since| {
            let made = time(&node["metadata"]["creationTimestamp"]);
            apart(now, since) < HEARD_AGAIN && made.is_some_and(|made| apart(since, made) >= NEW)
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{is_lost, is_name};

    #[test]
    fn a_node_is_lost_until_its_kubelet_has_had_the_time_to_tell_of_its_pods() {
        let node = |status: &str, since: &str| -> Value {
            json!({
                "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
                "status": {"conditions": [
                    {"type": "DiskPressure", "status": "False", "lastTransitionTime": "2026-01-01T01:00:00Z"},
                    {"type": "Ready", "status": status, "lastTransitionTime": since},
                ]},
            })
        };
        let now: jiff::Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        assert!(is_lost(&node("Unknown", "2026-01-01T00:10:00Z"), now));
        assert!(is_lost(&node("True", "2026-01-01T00:59:50Z"), now), "it has just been heard again");
        assert!(is_lost(&node("True", "2026-01-01T01:00:10Z"), now), "by a clock that is ahead");
        assert!(!is_lost(&node("True", "2026-01-01T00:58:50Z"), now), "its kubelet has had the time");
        assert!(!is_lost(&node("False", "2026-01-01T00:59:50Z"), now), "its kubelet says so");
        let new = "2026-01-01T00:00:40Z".parse().unwrap();
        assert!(!is_lost(&node("True", "2026-01-01T00:00:30Z"), new), "it is new");
        assert!(!is_lost(&json!({}), now));
    }

    #[test]
    fn what_becomes_part_of_a_path_is_a_name() {
        for name in ["n", "node-1", "ip-10-0-0-1.eu.example.com", "0"] {
            assert!(is_name(name), "{name}");
        }
        for odd in
            ["", ".", "..", "a/b", "../namespaces", "a..b", "-a", "A", "a?b", "a%2Fb", &"a".repeat(254)]
        {
            assert!(!is_name(odd), "{odd}");
        }
    }
}

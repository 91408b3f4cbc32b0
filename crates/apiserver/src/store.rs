//! Objects in memory, with one revision counter and a bounded history per resource.
//!
//! Owns: the current objects, their order, the revision, the history that watches read. Invariants: every change
//! takes the next revision and is in the history before anyone is told of it; a read sees all of a change or
//! nothing; the history of one resource is gapless from `compacted` to now. A watcher keeps a position, never a
//! queue, so a slow one costs nothing and is turned away (410) once the history has moved past it.
//!
//! Deliberately absent: rules of the API (that is `rest` and `admission`) and files. [`Store::commit`] is the only
//! writer, so a crash-safe backing has one place to stand in.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use imbl::OrdMap;
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::watch;

use crate::object;

/// Changes kept per resource; a watch from before the oldest of them gets 410. Source: kube-apiserver's watch cache
/// starts at 100 and grows to 102,400; 4,096 outlasts a client's reconnect at any rate of edits that one machine
/// makes.
pub(crate) const HISTORY_CHANGES: usize = 4_096;

/// Identifies stored objects of one resource, whatever version they are asked for in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ResourceId {
    pub(crate) group: Arc<str>,
    pub(crate) plural: Arc<str>,
}

impl ResourceId {
    pub(crate) fn new(group: &str, plural: &str) -> ResourceId {
        ResourceId { group: group.into(), plural: plural.into() }
    }
}

/// One version of one object.
#[derive(Debug)]
pub(crate) struct Stored {
    /// The revision that wrote it; also in `metadata.resourceVersion`.
    pub(crate) revision: u64,
    /// In the storage version.
    pub(crate) value: Value,
    /// What was written, where today's schema shows something else (`value`): a default that came later, a field that
    /// went. Kept, because tomorrow's schema starts from it again.
    written: Option<Value>,
    /// The JSON after `apiVersion` and `kind`, made once for all readers: `,"metadata":{...}}`.
    tail: OnceLock<Bytes>,
}

impl Stored {
    pub(crate) fn new(revision: u64, mut value: Value) -> Stored {
        object::set_meta(&mut value, "resourceVersion", Some(Value::from(revision.to_string())));
        Stored { revision, value, written: None, tail: OnceLock::new() }
    }

    /// The same version of the object as `show` has it; `None` where that is how it is shown already.
    fn shown(&self, show: impl Fn(&mut Value)) -> Option<Stored> {
        let written = self.written.as_ref().unwrap_or(&self.value);
        let mut value = written.clone();
        show(&mut value);
        if value == self.value {
            return None;
        }
        let written = (value != *written).then(|| written.clone());
        Some(Stored { revision: self.revision, value, written, tail: OnceLock::new() })
    }

    /// Appends the object's JSON under the given version and kind.
    pub(crate) fn write_json(&self, api_version: &str, kind: &str, out: &mut BytesMut) {
        out.put_slice(b"{\"kind\":");
        put_string(kind, out);
        out.put_slice(b",\"apiVersion\":");
        put_string(api_version, out);
        out.put_slice(self.tail.get_or_init(|| tail_of(&self.value)));
    }
}

fn put_string(text: &str, out: &mut BytesMut) {
    out.put_slice(Value::from(text).to_string().as_bytes());
}

fn tail_of(value: &Value) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    if let Value::Object(map) = value {
        for (key, field) in map.iter().filter(|(key, _)| *key != "kind" && *key != "apiVersion") {
            out.push(b',');
            out.extend_from_slice(Value::from(key.as_str()).to_string().as_bytes());
            out.push(b':');
            out.extend_from_slice(field.to_string().as_bytes());
        }
    }
    out.push(b'}');
    Bytes::from(out)
}

pub(crate) type Objects = OrdMap<Arc<str>, Arc<Stored>>;

/// One change of one object.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) key: Arc<str>,
    /// Before; `None` when the object was created.
    pub(crate) before: Option<Arc<Stored>>,
    /// After; `None` when it was deleted.
    pub(crate) after: Option<Arc<Stored>>,
    /// The last version under the revision of the deletion; only when it was deleted.
    pub(crate) deleted: Option<Arc<Stored>>,
}

/// What the writer believes is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Absent,
    Revision(u64),
}

/// The writer was wrong about what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stale;

/// Why nothing was written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused<E> {
    Stale,
    /// What the writer presumes about other objects does not hold.
    Premise(E),
}

/// Everything that is stored at the moment of a commit.
pub(crate) struct Now<'a>(&'a BTreeMap<ResourceId, Shelf>);

impl Now<'_> {
    pub(crate) fn get(&self, id: &ResourceId, key: &str) -> Option<Arc<Stored>> {
        self.0.get(id)?.objects.get(key).cloned()
    }

    pub(crate) fn has_any(&self, id: &ResourceId) -> bool {
        self.0.get(id).is_some_and(|shelf| !shelf.objects.is_empty())
    }

    /// The first resource that has an object in the namespace.
    pub(crate) fn resource_in(&self, namespace: &str) -> Option<&ResourceId> {
        let mut shelves = self.0.iter();
        shelves
            .find(|(_, shelf)| in_namespace(&shelf.objects, namespace, None).next().is_some())
            .map(|(id, _)| id)
    }
}

/// The history no longer reaches back that far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compacted {
    /// The oldest revision that can still be asked for.
    pub(crate) oldest: u64,
}

#[derive(Debug)]
struct Shelf {
    objects: Objects,
    history: VecDeque<Change>,
    /// The revision of the newest change that was dropped from the history; 0 while nothing was.
    compacted: u64,
    announce: watch::Sender<u64>,
}

impl Shelf {
    fn new() -> Shelf {
        let (announce, _) = watch::channel(0);
        Shelf { objects: OrdMap::new(), history: VecDeque::new(), compacted: 0, announce }
    }

    fn record(&mut self, change: Change, limit: usize) {
        self.history.push_back(change);
        while self.history.len() > limit {
            if let Some(dropped) = self.history.pop_front() {
                self.compacted = dropped.revision;
            }
        }
    }
}

#[derive(Debug)]
struct State {
    revision: u64,
    shelves: BTreeMap<ResourceId, Shelf>,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Store {
    state: RwLock<State>,
    history_changes: usize,
}

/// A list: everything of one resource at one revision.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) revision: u64,
    pub(crate) objects: Objects,
}

impl Store {
    pub(crate) fn new(history_changes: usize) -> Store {
        let state = State { revision: 1, shelves: BTreeMap::new() };
        Store { state: RwLock::new(state), history_changes }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.state.read().revision
    }

    pub(crate) fn get(&self, id: &ResourceId, key: &str) -> Option<Arc<Stored>> {
        self.state.read().shelves.get(id)?.objects.get(key).cloned()
    }

    /// Everything of one resource now.
    pub(crate) fn snapshot(&self, id: &ResourceId) -> Snapshot {
        let state = self.state.read();
        let objects = state.shelves.get(id).map(|shelf| shelf.objects.clone()).unwrap_or_default();
        Snapshot { revision: state.revision, objects }
    }

    /// Everything of one resource as it was at `revision`, undone from now by its history.
    pub(crate) fn snapshot_at(&self, id: &ResourceId, revision: u64) -> Result<Snapshot, Compacted> {
        let state = self.state.read();
        let Some(shelf) = state.shelves.get(id) else {
            return Ok(Snapshot { revision, objects: Objects::new() });
        };
        if revision < shelf.compacted {
            return Err(Compacted { oldest: shelf.compacted });
        }
        let mut objects = shelf.objects.clone();
        for change in shelf.history.iter().rev().take_while(|change| change.revision > revision) {
            match &change.before {
                Some(before) => objects.insert(change.key.clone(), before.clone()),
                None => objects.remove(&change.key),
            };
        }
        Ok(Snapshot { revision, objects })
    }

    /// At most `limit` changes after `revision`, oldest first, and the revision up to which they are complete.
    pub(crate) fn changes_after(
        &self,
        id: &ResourceId,
        revision: u64,
        limit: usize,
    ) -> Result<(Vec<Change>, u64), Compacted> {
        let state = self.state.read();
        let Some(shelf) = state.shelves.get(id) else { return Ok((Vec::new(), state.revision)) };
        if revision < shelf.compacted {
            return Err(Compacted { oldest: shelf.compacted });
        }
        let first = shelf.history.partition_point(|change| change.revision <= revision);
        let changes: Vec<Change> = shelf.history.range(first..).take(limit).cloned().collect();
        let complete = match changes.last() {
            Some(last) if changes.len() == limit => last.revision,
            _ => state.revision,
        };
        Ok((changes, complete))
    }

    /// Told the newest revision after every change of the resource.
    pub(crate) fn subscribe(&self, id: &ResourceId) -> watch::Receiver<u64> {
        let mut state = self.state.write();
        state.shelves.entry(id.clone()).or_insert_with(Shelf::new).announce.subscribe()
    }

    /// [`Store::commit_if`] that presumes nothing about other objects.
    pub(crate) fn commit(
        &self,
        id: &ResourceId,
        key: &str,
        expected: Expected,
        value: Option<Value>,
        effect: impl FnOnce(),
    ) -> Result<Arc<Stored>, Stale> {
        let nothing = |_: &Now<'_>| Ok::<(), std::convert::Infallible>(());
        self.commit_if(id, key, expected, value, nothing, effect).map_err(|_| Stale)
    }

    /// The one writer. Replaces, creates or (with `None`) deletes an object if what is stored is what the caller
    /// expects and `premise` holds. `premise` and `effect` run under the lock, before anybody can see the change.
    /// The answer is the new version, or the last one (under the revision of its deletion).
    pub(crate) fn commit_if<E>(
        &self,
        id: &ResourceId,
        key: &str,
        expected: Expected,
        value: Option<Value>,
        premise: impl FnOnce(&Now<'_>) -> Result<(), E>,
        effect: impl FnOnce(),
    ) -> Result<Arc<Stored>, Refused<E>> {
        let mut state = self.state.write();
        let revision = state.revision + 1;
        let objects = state.shelves.get(id).map(|shelf| &shelf.objects);
        let entry = objects
            .and_then(|objects| objects.get_key_value(key))
            .map(|(key, stored)| (key.clone(), stored.clone()));
        let found =
            entry.as_ref().map_or(Expected::Absent, |(_, stored)| Expected::Revision(stored.revision));
        if found != expected || (found == Expected::Absent && value.is_none()) {
            return Err(Refused::Stale);
        }
        premise(&Now(&state.shelves)).map_err(Refused::Premise)?;
        let shelf = state.shelves.entry(id.clone()).or_insert_with(Shelf::new);
        let (key, before) = match entry {
            Some((key, stored)) => (key, Some(stored)),
            None => (Arc::from(key), None),
        };
        let (after, answer) = match (value, &before) {
            (Some(value), _) => {
                let stored = Arc::new(Stored::new(revision, value));
                shelf.objects.insert(key.clone(), stored.clone());
                (Some(stored.clone()), stored)
            }
            (None, Some(last)) => {
                shelf.objects.remove(&key);
                (None, Arc::new(Stored::new(revision, last.value.clone())))
            }
            (None, None) => return Err(Refused::Stale),
        };
        let deleted = after.is_none().then(|| answer.clone());
        shelf.record(Change { revision, key, before, after, deleted }, self.history_changes);
        let announce = shelf.announce.clone();
        state.revision = revision;
        effect();
        drop(state);
        announce.send_replace(revision);
        Ok(answer)
    }

    /// Shows every object of a resource as `show` makes it from what was written. Revisions stay and nobody is told, as when
    /// an API server decodes what it has stored with a schema that changed; what is written meanwhile is left alone.
    pub(crate) fn show(&self, id: &ResourceId, show: impl Fn(&mut Value)) {
        let snapshot = self.snapshot(id);
        let changed: Vec<(Arc<str>, Arc<Stored>, Stored)> = snapshot
            .objects
            .iter()
            .filter_map(|(key, stored)| Some((key.clone(), stored.clone(), stored.shown(&show)?)))
            .collect();
        if changed.is_empty() {
            return;
        }
        let mut state = self.state.write();
        let Some(shelf) = state.shelves.get_mut(id) else { return };
        for (key, before, shown) in changed {
            if shelf.objects.get(&key).is_some_and(|current| Arc::ptr_eq(current, &before)) {
                shelf.objects.insert(key, Arc::new(shown));
            }
        }
    }

    /// Wakes the watchers of a resource, so that they see that its kind is gone.
    pub(crate) fn wake(&self, id: &ResourceId) {
        let state = self.state.read();
        if let Some(shelf) = state.shelves.get(id) {
            shelf.announce.send_replace(state.revision);
        }
    }
}

/// The objects of one namespace, or all when it is empty, from `start` (exclusive) on, in the order of their keys.
pub(crate) fn in_namespace<'a>(
    objects: &'a Objects,
    namespace: &str,
    start: Option<&str>,
) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<Stored>)> + use<'a> {
    use std::ops::Bound;
    let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
    let from = match start {
        Some(start) if start >= prefix.as_str() => Bound::Excluded(start.to_owned()),
        _ => Bound::Included(prefix.clone()),
    };
    objects
        .range::<(Bound<&str>, Bound<&str>), str>((from.as_ref().map(String::as_str), Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(&prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn id() -> ResourceId {
        ResourceId::new("", "things")
    }

    /// Keys and revisions.
    fn shape(objects: &Objects) -> BTreeMap<String, u64> {
        objects.iter().map(|(key, stored)| (key.to_string(), stored.revision)).collect()
    }

    /// Pseudo-random, the same for the same seed.
    fn next(state: &mut u64, bound: u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % bound
    }

    #[test]
    fn every_version_that_is_kept_is_what_the_list_of_events_says() {
        for seed in 0..20 {
            let (store, mut state) = (Store::new(50), seed);
            let mut model: BTreeMap<String, u64> = BTreeMap::new();
            let mut past: Vec<(u64, BTreeMap<String, u64>)> = vec![(store.revision(), model.clone())];
            for _ in 0..200 {
                let key = format!("ns{}/n{}", next(&mut state, 2), next(&mut state, 6));
                let expected =
                    model.get(&key).map_or(Expected::Absent, |revision| Expected::Revision(*revision));
                let value = (next(&mut state, 3) > 0 || expected == Expected::Absent)
                    .then(|| json!({"metadata": {"name": key}}));
                let deletes = value.is_none();
                let stored =
                    store.commit(&id(), &key, expected, value, || ()).expect("the expectation holds");
                if deletes {
                    model.remove(&key);
                } else {
                    model.insert(key, stored.revision);
                }
                past.push((stored.revision, model.clone()));
            }
            assert_eq!(shape(&store.snapshot(&id()).objects), model);
            let kept = past.len() - 51;
            for (revision, then) in &past[kept..] {
                let found = store.snapshot_at(&id(), *revision).expect("kept");
                assert_eq!(&shape(&found.objects), then, "seed {seed}, revision {revision}");
            }
            assert!(store.snapshot_at(&id(), past[kept - 1].0).is_err(), "older ones are gone");
            let (changes, complete) = store.changes_after(&id(), past[kept].0, usize::MAX).expect("kept");
            assert_eq!(changes.len(), 50);
            assert_eq!(complete, store.revision());
            assert!(changes.windows(2).all(|pair| pair[0].revision < pair[1].revision));
        }
    }

    #[test]
    fn a_writer_that_is_wrong_about_what_is_stored_changes_nothing() {
        let store = Store::new(10);
        let first = store.commit(&id(), "a", Expected::Absent, Some(json!({})), || ()).expect("absent");
        let again = store.commit(&id(), "a", Expected::Absent, Some(json!({})), || panic!("no effect"));
        assert_eq!(again.err(), Some(Stale));
        let stale =
            store.commit(&id(), "a", Expected::Revision(first.revision + 1), None, || panic!("no effect"));
        assert_eq!(stale.err(), Some(Stale));
        assert_eq!(store.revision(), first.revision);
    }

    #[test]
    fn changes_come_in_parts_that_join() {
        let store = Store::new(100);
        for n in 0..10 {
            store.commit(&id(), &n.to_string(), Expected::Absent, Some(json!({})), || ()).expect("absent");
        }
        let (mut position, mut seen) = (1, 0);
        while position < store.revision() {
            let (changes, complete) = store.changes_after(&id(), position, 3).expect("kept");
            assert!(changes.len() <= 3);
            seen += changes.len();
            position = complete;
        }
        assert_eq!(seen, 10);
    }

    #[test]
    fn a_namespace_is_a_range_of_keys() {
        let store = Store::new(100);
        for key in ["a-b/x", "a/x", "a/y", "a0/x", "b/x"] {
            store.commit(&id(), key, Expected::Absent, Some(json!({})), || ()).expect("absent");
        }
        let objects = store.snapshot(&id()).objects;
        let keys = |namespace: &str, start: Option<&str>| -> Vec<String> {
            in_namespace(&objects, namespace, start).map(|(key, _)| key.to_string()).collect()
        };
        assert_eq!(keys("a", None), ["a/x", "a/y"]);
        assert_eq!(keys("a", Some("a/x")), ["a/y"]);
        assert_eq!(keys("", Some("a/y")), ["a0/x", "b/x"]);
        assert_eq!(keys("c", None), Vec::<String>::new());
    }

    #[test]
    fn an_object_is_written_under_the_version_that_is_asked_for() {
        let stored = Stored::new(
            7,
            json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a"}, "spec": {"x": "\"y\""}}),
        );
        let mut out = BytesMut::new();
        stored.write_json("g/v2", "K", &mut out);
        let read: Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(
            read,
            json!({"kind": "K", "apiVersion": "g/v2", "metadata": {"name": "a", "resourceVersion": "7"}, "spec": {"x": "\"y\""}})
        );
    }
}

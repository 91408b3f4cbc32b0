//! Which data plane gets which resources.
//!
//! Owns the set of all resources, what refers to what, and for each data plane the set of entries that it is to have: its listeners, the
//! routes attached to them (and of these only the attachments that are there), and whatever those refer to. Invariants: the sets
//! depend on the resources only, not on the order or grouping in which they came; an edit costs the same among a hundred resources and
//! among ten thousand (references are counted for each data plane); what no listener of a data plane leads to is not in its set; a
//! data plane without listeners can be forgotten, and nothing of it stays.
//!
//! Deliberately absent: instances, connections and time.

#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use smallvec::SmallVec;
use weir_model::references;
use weir_model::resource::{Attachment, Body, DataPlaneName, Listener, Resource, Update};
use weir_model::wire::Entry;

/// The address that stands for a data plane's own on the way to it.
pub(crate) const WILDCARD: &str = "::";

/// Names a data plane until it is forgotten; never used for a second one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PlaneId(u64);

type Key = Arc<str>;

/// Keys whose entries changed for one data plane.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) configuration: BTreeSet<Key>,
    /// Endpoints that were there before and are still.
    pub(crate) endpoints: BTreeSet<Key>,
}

#[derive(Debug, Default)]
pub(crate) struct Graph {
    slots: HashMap<Key, Slot>,
    /// Routes by the listeners that they name.
    attached: HashMap<Key, BTreeSet<Key>>,
    names: BTreeMap<DataPlaneName, PlaneId>,
    planes: HashMap<PlaneId, Plane>,
    planes_made: u64,
    /// Counts that were changed, and entries that were made anew; for those who hold the cost down.
    work: usize,
}

#[derive(Debug)]
struct Plane {
    name: DataPlaneName,
    /// How many are its own.
    listeners: usize,
    entries: BTreeMap<Key, Arc<Entry>>,
}

/// What is known of a key: also one that is referred to and not there.
#[derive(Debug, Default)]
struct Slot {
    stored: Option<Arc<Stored>>,
    /// How many resources of a data plane lead here.
    counts: SmallVec<[(PlaneId, u32); 1]>,
}

#[derive(Debug)]
struct Stored {
    /// As it is on the wire: with a wildcard for the place, and with all attachments.
    entry: Arc<Entry>,
    /// As it came, to tell whether an update changes it.
    source_hash: Bytes,
    references: Vec<Key>,
    role: Role,
}

#[derive(Debug)]
enum Role {
    Listener(Option<PlaneId>),
    /// With the listeners that it is attached to.
    Route(Vec<Key>),
    Other,
}

impl Graph {
    /// The data plane of this name, whether it has anything or not.
    pub(crate) fn plane(&mut self, name: &DataPlaneName) -> PlaneId {
        if let Some(known) = self.names.get(name) {
            return *known;
        }
        self.planes_made += 1;
        let id = PlaneId(self.planes_made);
        self.names.insert(name.clone(), id);
        self.planes.insert(id, Plane { name: name.clone(), listeners: 0, entries: BTreeMap::new() });
        id
    }

    /// Whether a listener is the data plane's. Without one nothing leads to it, and it has nothing.
    pub(crate) fn has_listeners(&self, plane: PlaneId) -> bool {
        self.planes.get(&plane).is_some_and(|plane| plane.listeners > 0)
    }

    /// Forgets a data plane, unless a listener is its own.
    pub(crate) fn forget(&mut self, plane: PlaneId) {
        if !self.has_listeners(plane)
            && let Some(plane) = self.planes.remove(&plane)
        {
            self.names.remove(&plane.name);
        }
    }

    pub(crate) fn planes(&self) -> impl Iterator<Item = (PlaneId, &DataPlaneName)> {
        self.names.iter().map(|(name, id)| (*id, name))
    }

    pub(crate) fn name(&self, plane: PlaneId) -> Option<&DataPlaneName> {
        self.planes.get(&plane).map(|plane| &plane.name)
    }

    /// What a data plane is to have.
    pub(crate) fn entries(&self, plane: PlaneId) -> &BTreeMap<Key, Arc<Entry>> {
        static NONE: BTreeMap<Key, Arc<Entry>> = BTreeMap::new();
        self.planes.get(&plane).map_or(&NONE, |plane| &plane.entries)
    }

    /// Takes an update in; what changed, for each data plane to which it did.
    pub(crate) fn apply(&mut self, update: &Update) -> BTreeMap<PlaneId, Changed> {
        let mut touched = Touched::new();
        let named: BTreeSet<&str> = update.upserts.iter().map(Resource::key).collect();
        for resource in &update.upserts {
            self.put(resource, &mut touched);
        }
        let removed: Vec<Key> = if update.full {
            let there = self.slots.iter().filter(|(_, slot)| slot.stored.is_some()).map(|(key, _)| key);
            let mut gone: Vec<Key> = there.filter(|key| !named.contains(&***key)).cloned().collect();
            gone.sort();
            gone
        } else {
            let removals = update.removals.iter().filter(|key| !named.contains(key.as_str()));
            removals.map(|key| Key::from(key.as_str())).collect()
        };
        for key in removed {
            self.take_out(&key, &mut touched);
        }
        self.settle(touched)
    }

    /// How much of everything is kept.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> [usize; 4] {
        [self.slots.len(), self.attached.len(), self.names.len(), self.planes.len()]
    }

    fn put(&mut self, resource: &Resource, touched: &mut Touched) {
        if resource.key().is_empty() {
            return;
        }
        let source = Entry::of(resource);
        let before = self.slots.get(resource.key()).and_then(|slot| slot.stored.clone());
        if before.as_ref().is_some_and(|before| before.source_hash == source.hash) {
            return;
        }
        let key: Key = self.key(resource.key());
        let stored = Arc::new(self.stored(resource, source));
        self.replace(&key, before.as_deref(), Some(stored), touched);
    }

    fn take_out(&mut self, key: &Key, touched: &mut Touched) {
        if let Some(before) = self.slots.get(key).and_then(|slot| slot.stored.clone()) {
            self.replace(key, Some(&before), None, touched);
        }
    }

    /// The one string of a key.
    fn key(&self, key: &str) -> Key {
        self.slots.get_key_value(key).map_or_else(|| Key::from(key), |(key, _)| key.clone())
    }

    fn stored(&mut self, resource: &Resource, source: Entry) -> Stored {
        let references = references::references(resource).iter().map(|key| self.key(key)).collect();
        let source_hash = source.hash.clone();
        let mut entry = source;
        let role = match &resource.body {
            Some(Body::Listener(listener)) => {
                let name = DataPlaneName::from_place(&listener.address);
                if name.is_some() {
                    let wire = Listener { address: WILDCARD.to_owned(), ..listener.clone() };
                    entry = Entry::of(&Resource { body: Some(Body::Listener(wire)) });
                }
                Role::Listener(name.map(|name| self.plane(&name)))
            }
            Some(Body::HttpRoute(_) | Body::L4Route(_)) => {
                Role::Route(references::attachments(resource).iter().map(|key| self.key(key)).collect())
            }
            _ => Role::Other,
        };
        Stored { entry: Arc::new(entry), source_hash, references, role }
    }

    fn replace(
        &mut self,
        key: &Key,
        before: Option<&Stored>,
        after: Option<Arc<Stored>>,
        touched: &mut Touched,
    ) {
        self.slots.entry(key.clone()).or_default().stored.clone_from(&after);
        let counts = self.counts(key);
        let none = Vec::new();
        let old = before.map_or(&none, |stored| &stored.references);
        let new = after.as_ref().map_or(&none, |stored| &stored.references);
        for (plane, _) in counts {
            touched.insert((plane, key.clone()));
            new.iter().filter(|key| !old.contains(key)).for_each(|key| self.enter(key, plane, touched));
            old.iter().filter(|key| !new.contains(key)).for_each(|key| self.leave(key, plane, touched));
        }
        match (before.map(|stored| &stored.role), after.as_ref().map(|stored| &stored.role)) {
            (Some(Role::Listener(_)), _) | (_, Some(Role::Listener(_))) => {
                let plane_of = |role: Option<&Role>| match role {
                    Some(Role::Listener(plane)) => *plane,
                    _ => None,
                };
                let old = plane_of(before.map(|stored| &stored.role));
                let new = plane_of(after.as_ref().map(|stored| &stored.role));
                if old != new {
                    self.move_listener(key, old, new, touched);
                }
            }
            (Some(Role::Route(_)), _) | (_, Some(Role::Route(_))) => {
                let listeners_of = |role: Option<&Role>| match role {
                    Some(Role::Route(listeners)) => listeners.clone(),
                    _ => Vec::new(),
                };
                let old = listeners_of(before.map(|stored| &stored.role));
                let new = listeners_of(after.as_ref().map(|stored| &stored.role));
                self.move_route(key, &old, &new, touched);
            }
            _ => {}
        }
        self.prune(key);
    }

    /// A listener is another data plane's now, and with it what is attached.
    fn move_listener(
        &mut self,
        key: &Key,
        old: Option<PlaneId>,
        new: Option<PlaneId>,
        touched: &mut Touched,
    ) {
        for (plane, is_new) in [(new, true), (old, false)] {
            if let Some(plane) = plane.and_then(|plane| self.planes.get_mut(&plane)) {
                plane.listeners =
                    if is_new { plane.listeners + 1 } else { plane.listeners.saturating_sub(1) };
            }
        }
        let routes: Vec<Key> =
            self.attached.get(key).map(|routes| routes.iter().cloned().collect()).unwrap_or_default();
        for key in routes.iter().chain([key]) {
            if let Some(new) = new {
                touched.insert((new, key.clone()));
                self.enter(key, new, touched);
            }
            if let Some(old) = old {
                touched.insert((old, key.clone()));
                self.leave(key, old, touched);
            }
        }
    }

    fn move_route(&mut self, key: &Key, old: &[Key], new: &[Key], touched: &mut Touched) {
        for listener in new.iter().filter(|listener| !old.contains(listener)) {
            self.attached.entry(listener.clone()).or_default().insert(key.clone());
            if let Some(plane) = self.plane_of_listener(listener) {
                touched.insert((plane, key.clone()));
                self.enter(key, plane, touched);
            }
        }
        for listener in old.iter().filter(|listener| !new.contains(listener)) {
            if let Some(routes) = self.attached.get_mut(listener) {
                routes.remove(key);
                if routes.is_empty() {
                    self.attached.remove(listener);
                }
            }
            if let Some(plane) = self.plane_of_listener(listener) {
                touched.insert((plane, key.clone()));
                self.leave(key, plane, touched);
            }
        }
    }

    fn plane_of_listener(&self, key: &Key) -> Option<PlaneId> {
        match self.slots.get(key)?.stored.as_ref()?.role {
            Role::Listener(plane) => plane,
            _ => None,
        }
    }

    fn counts(&self, key: &Key) -> SmallVec<[(PlaneId, u32); 1]> {
        self.slots.get(key).map(|slot| slot.counts.clone()).unwrap_or_default()
    }

    /// One more resource of the data plane leads to this one. References have no circles: listeners and routes lead to backends and
    /// certificates, those to endpoints and authorities, and these nowhere.
    fn enter(&mut self, key: &Key, plane: PlaneId, touched: &mut Touched) {
        self.work += 1;
        let slot = self.slots.entry(key.clone()).or_default();
        if let Some((_, count)) = slot.counts.iter_mut().find(|(of, _)| *of == plane) {
            *count += 1;
            return;
        }
        slot.counts.push((plane, 1));
        touched.insert((plane, key.clone()));
        if let Some(stored) = slot.stored.clone() {
            stored.references.iter().for_each(|key| self.enter(key, plane, touched));
        }
    }

    fn leave(&mut self, key: &Key, plane: PlaneId, touched: &mut Touched) {
        self.work += 1;
        let Some(slot) = self.slots.get_mut(key) else { return };
        let Some(at) = slot.counts.iter().position(|(of, _)| *of == plane) else { return };
        slot.counts[at].1 -= 1;
        if slot.counts[at].1 > 0 {
            return;
        }
        slot.counts.swap_remove(at);
        touched.insert((plane, key.clone()));
        if let Some(stored) = slot.stored.clone() {
            stored.references.iter().for_each(|key| self.leave(key, plane, touched));
        }
        self.prune(key);
    }

    /// Forgets a key that is neither there nor referred to.
    fn prune(&mut self, key: &Key) {
        if self.slots.get(key).is_some_and(|slot| slot.stored.is_none() && slot.counts.is_empty()) {
            self.slots.remove(key);
        }
    }

    /// Brings the sets in line with the counts.
    fn settle(&mut self, touched: Touched) -> BTreeMap<PlaneId, Changed> {
        let mut changed: BTreeMap<PlaneId, Changed> = BTreeMap::new();
        for (plane, key) in touched {
            self.work += 1;
            let after = self.entry(plane, &key);
            let Some(entries) = self.planes.get_mut(&plane).map(|plane| &mut plane.entries) else {
                continue;
            };
            let before = entries.get(&key);
            if before.map(|entry| &entry.hash) == after.as_ref().map(|entry| &entry.hash) {
                continue;
            }
            let is_swap = before.is_some() && after.is_some() && key.starts_with("endpoints/");
            match after {
                Some(after) => _ = entries.insert(key.clone(), after),
                None => _ = entries.remove(&key),
            }
            let changed = changed.entry(plane).or_default();
            if is_swap {
                changed.endpoints.insert(key)
            } else {
                changed.configuration.insert(key)
            };
        }
        changed
    }

    /// The form in which a data plane is to have a resource, if it is.
    fn entry(&self, plane: PlaneId, key: &Key) -> Option<Arc<Entry>> {
        let slot = self.slots.get(key)?;
        if !slot.counts.iter().any(|(of, _)| *of == plane) {
            return None;
        }
        let stored = slot.stored.as_ref()?;
        let Role::Route(listeners) = &stored.role else { return Some(stored.entry.clone()) };
        if listeners.iter().all(|listener| self.plane_of_listener(listener) == Some(plane)) {
            return Some(stored.entry.clone());
        }
        // Encoded by us a moment ago.
        let mut part = Resource::decode(stored.entry.body.clone()).ok()?;
        let is_of_plane = |attachment: &Attachment| {
            let listener = self.slots.get_key_value(attachment.listener_key.as_str());
            listener.is_some_and(|(key, _)| self.plane_of_listener(key) == Some(plane))
        };
        match &mut part.body {
            Some(Body::HttpRoute(route)) => route.attachments.retain(is_of_plane),
            Some(Body::L4Route(route)) => route.attachments.retain(is_of_plane),
            _ => {}
        }
        Some(Arc::new(Entry::of(&part)))
    }
}

/// Entries to look at again, when all counts are right.
type Touched = BTreeSet<(PlaneId, Key)>;

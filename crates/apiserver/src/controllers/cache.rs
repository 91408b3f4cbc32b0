//! What the controllers know of one kind: a cache that reads its own writes.
//!
//! Owns: the objects of one kind, fed by a watch and by the answers to the controllers' own writes.
//!
//! Invariants: an object never goes back to an older resourceVersion; an object that is gone stays gone for every
//! answer that was written before it went; observers run once for each change, outside the lock.
//!
//! Deliberately absent: expectations. A controller that has just created an object finds it here at once, because the
//! answer of the create was stored, so it never creates a second one.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Removed objects that are remembered, so that a late answer to an older write does not bring one back.
/// Unit: objects. Source: ours; a write is in flight for milliseconds.
const REMEMBERED_REMOVALS: usize = 8192;

/// A kind that can be cached: one of k8s-openapi's, known at compile time.
pub(crate) trait Cached:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}
impl<K> Cached for K where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

/// Namespace and name; the namespace is empty for kinds without one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectKey {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl ObjectKey {
    pub(crate) fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub(crate) fn of<K: Resource>(object: &K) -> Self {
        Self::new(object.meta().namespace.clone().unwrap_or_default(), object.name_any())
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// One change of one object. At least one side is there.
pub(crate) struct Change<'a, K> {
    pub(crate) before: Option<&'a Arc<K>>,
    pub(crate) after: Option<&'a Arc<K>>,
}

impl<'a, K> Change<'a, K> {
    /// The object as it is, or as it was before it went.
    pub(crate) fn either(&self) -> Option<&'a Arc<K>> {
        self.after.or(self.before)
    }

    /// Both sides, for what must be told about the old labels as well as the new ones.
    pub(crate) fn sides(&self) -> impl Iterator<Item = &'a Arc<K>> {
        self.before.into_iter().chain(self.after)
    }
}

type Observer<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

/// See the module's head.
pub(crate) struct Cache<K> {
    contents: RwLock<Contents<K>>,
    observers: RwLock<Vec<Observer<K>>>,
    listed: watch::Sender<bool>,
}

struct Contents<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    /// Keys by the uid of their controlling owner.
    owned: HashMap<String, BTreeSet<ObjectKey>>,
    removed: Removals,
}

/// The revisions at which objects went.
#[derive(Default)]
struct Removals {
    revision: HashMap<ObjectKey, u64>,
    order: VecDeque<ObjectKey>,
}

impl Removals {
    fn remember(&mut self, key: &ObjectKey, revision: u64) {
        match self.revision.get_mut(key) {
            Some(known) => *known = revision.max(*known),
            None => {
                self.revision.insert(key.clone(), revision);
                self.order.push_back(key.clone());
            }
        }
        while self.order.len() > REMEMBERED_REMOVALS {
            if let Some(oldest) = self.order.pop_front() {
                self.revision.remove(&oldest);
            }
        }
    }

    fn covers(&self, key: &ObjectKey, revision: u64) -> bool {
        self.revision.get(key).is_some_and(|removed| revision <= *removed)
    }
}

/// An object's resourceVersion as a number. Kubernetes promises this form; 0 for anything else.
fn revision<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The uid of the owner that controls the object.
pub(crate) fn controller_uid<K: Resource>(object: &K) -> Option<&str> {
    let owners = object.meta().owner_references.as_deref()?;
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

impl<K: Cached> Cache<K> {
    pub(crate) fn new() -> Arc<Self> {
        let contents =
            Contents { objects: BTreeMap::new(), owned: HashMap::new(), removed: Removals::default() };
        Arc::new(Self {
            contents: RwLock::new(contents),
            observers: RwLock::new(Vec::new()),
            listed: watch::Sender::new(false),
        })
    }

    /// Calls `observer` for every change from now on. It must not block, and must not write to this cache.
    pub(crate) fn observe(&self, observer: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        self.observers.write().push(Box::new(observer));
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.contents.read().objects.get(key).cloned()
    }

    /// All objects of a namespace, by name.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let contents = self.contents.read();
        let first = ObjectKey::new(namespace, "");
        let rest = contents.objects.range(first..);
        rest.take_while(|(key, _)| key.namespace == namespace).map(|(_, object)| object.clone()).collect()
    }

    /// All objects that the owner with this uid controls, by name.
    pub(crate) fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        let contents = self.contents.read();
        let Some(keys) = contents.owned.get(uid) else { return Vec::new() };
        keys.iter().filter_map(|key| contents.objects.get(key).cloned()).collect()
    }

    /// Stores the answer to a write of ours.
    pub(crate) fn wrote(&self, object: K) {
        self.store(object);
    }

    /// Notes that a write of ours removed the object; `last` is the last form known of it.
    pub(crate) fn removed(&self, last: &K) {
        self.remove(&ObjectKey::of(last), revision(last));
    }

    /// Waits for the end of the first list, or for `shutdown`.
    pub(crate) async fn wait_listed(&self, shutdown: &CancellationToken) {
        let mut listed = self.listed.subscribe();
        tokio::select! {
            // The sender lives as long as `self`, so this cannot fail; returning early would be harmless besides.
            _ = listed.wait_for(|done| *done) => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Follows the kind until `shutdown`. A broken watch is started anew by kube's watcher, with its back-off.
    pub(crate) async fn follow(
        self: Arc<Self>,
        api: Api<K>,
        config: watcher::Config,
        shutdown: CancellationToken,
    ) {
        let mut events = pin!(watcher::watcher(api, config).default_backoff());
        let mut before_list = Vec::new();
        let mut listed = BTreeSet::new();
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                None => return,
                Some(Err(error)) => {
                    tracing::warn!(kind = %K::kind(&()), error = %error, "watch failed; it starts anew");
                }
                Some(Ok(Event::Apply(object))) => self.store(object),
                Some(Ok(Event::Delete(object))) => {
                    self.remove(&ObjectKey::of(&object), revision(&object));
                }
                Some(Ok(Event::Init)) => {
                    listed.clear();
                    before_list = self.revisions();
                }
                Some(Ok(Event::InitApply(object))) => {
                    listed.insert(ObjectKey::of(&object));
                    self.store(object);
                }
                Some(Ok(Event::InitDone)) => {
                    self.drop_unlisted(&before_list, &listed);
                    before_list = Vec::new();
                    listed.clear();
                    self.listed.send_replace(true);
                }
            }
        }
    }

    fn revisions(&self) -> Vec<(ObjectKey, u64)> {
        let contents = self.contents.read();
        contents.objects.iter().map(|(key, object)| (key.clone(), revision(object.as_ref()))).collect()
    }

    /// Removes what a new list no longer has. What was written since the list began is not in `before` and stays.
    fn drop_unlisted(&self, before: &[(ObjectKey, u64)], listed: &BTreeSet<ObjectKey>) {
        for (key, revision) in before {
            if !listed.contains(key) {
                self.remove(key, *revision);
            }
        }
    }

    fn store(&self, object: K) {
        let key = ObjectKey::of(&object);
        let revision_new = revision(&object);
        let object = Arc::new(object);
        let before = {
            let mut contents = self.contents.write();
            if revision_new != 0 && contents.removed.covers(&key, revision_new) {
                return;
            }
            if let Some(known) = contents.objects.get(&key)
                && revision_new != 0
                && revision(known.as_ref()) >= revision_new
            {
                return;
            }
            let before = contents.objects.insert(key.clone(), object.clone());
            contents.reindex(&key, before.as_ref(), Some(&object));
            before
        };
        self.tell(&Change { before: before.as_ref(), after: Some(&object) });
    }

    /// A newer object of the same name stays. Uids do not tell: in file mode they derive from the name.
    fn remove(&self, key: &ObjectKey, revision_gone: u64) {
        let before = {
            let mut contents = self.contents.write();
            let known = contents.objects.get(key);
            let newer =
                known.is_some_and(|known| revision_gone != 0 && revision(known.as_ref()) > revision_gone);
            if newer {
                return;
            }
            let before = contents.objects.remove(key);
            let last = before.as_ref().map_or(0, |object| revision(object.as_ref()));
            contents.removed.remember(key, last.max(revision_gone));
            contents.reindex(key, before.as_ref(), None);
            before
        };
        if let Some(before) = before {
            self.tell(&Change { before: Some(&before), after: None });
        }
    }

    fn tell(&self, change: &Change<'_, K>) {
        for observer in self.observers.read().iter() {
            observer(change);
        }
    }
}

impl<K: Resource> Contents<K> {
    fn reindex(&mut self, key: &ObjectKey, before: Option<&Arc<K>>, after: Option<&Arc<K>>) {
        let old = before.and_then(|object| controller_uid(object.as_ref()));
        let new = after.and_then(|object| controller_uid(object.as_ref()));
        if old == new {
            return;
        }
        if let Some(old) = old
            && let Some(keys) = self.owned.get_mut(old)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.owned.remove(old);
            }
        }
        if let Some(new) = new {
            self.owned.entry(new.to_owned()).or_default().insert(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str, uid: &str, revision: u64) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(name.into());
        map.metadata.namespace = Some("default".into());
        map.metadata.uid = Some(uid.into());
        map.metadata.resource_version = Some(revision.to_string());
        map
    }

    fn held(cache: &Cache<ConfigMap>, name: &str) -> Option<u64> {
        cache.get(&ObjectKey::new("default", name)).map(|object| revision(object.as_ref()))
    }

    #[test]
    fn an_older_form_never_replaces_a_newer_one() {
        let cache = Cache::new();
        cache.wrote(object("a", "1", 7));
        cache.wrote(object("a", "1", 6));
        assert_eq!(held(&cache, "a"), Some(7));
    }

    #[test]
    fn a_late_answer_does_not_bring_a_removed_object_back() {
        let cache = Cache::new();
        cache.wrote(object("a", "1", 5));
        cache.removed(&object("a", "1", 9));
        cache.wrote(object("a", "1", 8));
        assert_eq!(held(&cache, "a"), None);
        // The same name made anew is another object, also when the uid is derived from the name.
        cache.wrote(object("a", "1", 10));
        assert_eq!(held(&cache, "a"), Some(10));
    }

    #[test]
    fn the_end_of_an_old_object_leaves_its_successor() {
        let cache = Cache::new();
        cache.wrote(object("a", "2", 12));
        cache.removed(&object("a", "1", 11));
        assert_eq!(held(&cache, "a"), Some(12));
    }

    #[test]
    fn a_new_list_removes_what_it_lacks_but_not_what_was_written_since() {
        let cache = Cache::new();
        cache.wrote(object("gone", "1", 5));
        cache.wrote(object("kept", "2", 6));
        let before = cache.revisions();
        cache.wrote(object("new", "3", 9));
        let listed = BTreeSet::from([ObjectKey::new("default", "kept")]);
        cache.drop_unlisted(&before, &listed);
        assert_eq!(
            (held(&cache, "gone"), held(&cache, "kept"), held(&cache, "new")),
            (None, Some(6), Some(9))
        );
    }

    #[test]
    fn observers_see_each_change_once() {
        let cache = Cache::new();
        let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let seen = count.clone();
        cache.observe(move |_| {
            seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
        cache.wrote(object("a", "1", 1));
        cache.wrote(object("a", "1", 1));
        cache.removed(&object("a", "1", 2));
        cache.removed(&object("a", "1", 2));
        assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 2);
    }
}

//! The metadata of every object there is, whatever its kind: who owns whom, and what a namespace holds.
//!
//! Owns: one watch per kind, started and ended as kinds come and go, and the graph of owner references.
//!
//! Invariants: a kind that is no longer served takes its objects with it; observers run once per change, outside the
//! lock. What is not here may still exist: whoever deletes because something is absent must ask the API first.
//!
//! Deliberately absent: events. They own nothing, nothing owns them, and they are many.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::DynamicObject;
use kube::core::PartialObjectMeta;
use kube::discovery::{ApiResource, Discovery, Scope, verbs};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// After discovery failed. Source: ours; in process it does not fail.
const DISCOVERY_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// The metadata of one object.
pub(super) type Meta = PartialObjectMeta<DynamicObject>;

/// A kind that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) resource: ApiResource,
    pub(super) namespaced: bool,
}

impl Kind {
    fn id(&self) -> KindId {
        KindId { group: self.resource.group.clone(), plural: self.resource.plural.clone() }
    }

    /// The API of this kind, of all namespaces if `namespace` is empty; it is ignored for kinds without one.
    pub(super) fn api(&self, client: &Client, namespace: &str) -> Api<Meta> {
        if self.namespaced && !namespace.is_empty() {
            Api::namespaced_with(client.clone(), namespace, &self.resource)
        } else {
            Api::all_with(client.clone(), &self.resource)
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct KindId {
    group: String,
    plural: String,
}

/// What the inventory knows of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    pub(super) kind: Arc<Kind>,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) finalizers: Vec<String>,
    pub(super) deleting: bool,
}

impl Item {
    pub(super) fn new(kind: Arc<Kind>, meta: &ObjectMeta) -> Self {
        Self {
            kind,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
        }
    }

    fn place(&self) -> Place {
        Place { kind: self.kind.id(), namespace: self.namespace.clone(), name: self.name.clone() }
    }

    pub(super) fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().any(|known| known == name)
    }

    pub(super) fn api(&self, client: &Client) -> Api<Meta> {
        self.kind.api(client, &self.namespace)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    kind: KindId,
    namespace: String,
    name: String,
}

/// One change of one object. At least one side is there.
pub(super) struct ItemChange<'a> {
    pub(super) before: Option<&'a Arc<Item>>,
    pub(super) after: Option<&'a Arc<Item>>,
}

type Observer = Box<dyn Fn(&ItemChange<'_>) + Send + Sync>;

/// See the module's head.
pub(super) struct Inventory {
    client: Client,
    items: RwLock<Items>,
    kinds: RwLock<BTreeMap<KindId, Followed>>,
    observers: RwLock<Vec<Observer>>,
    kinds_changed: Notify,
    tasks: Mutex<JoinSet<()>>,
}

struct Followed {
    kind: Arc<Kind>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Items {
    by_place: BTreeMap<Place, Arc<Item>>,
    by_uid: HashMap<String, Arc<Item>>,
    /// Places of what an owner's uid owns.
    owned: HashMap<String, BTreeSet<Place>>,
    by_namespace: HashMap<String, BTreeSet<Place>>,
}

impl Inventory {
    pub(super) fn new(client: Client) -> Arc<Self> {
        Arc::new(Self {
            client,
            items: RwLock::default(),
            kinds: RwLock::default(),
            observers: RwLock::default(),
            kinds_changed: Notify::new(),
            tasks: Mutex::new(JoinSet::new()),
        })
    }

    /// Calls `observer` for every change from now on. It must not block.
    pub(super) fn observe(&self, observer: impl Fn(&ItemChange<'_>) + Send + Sync + 'static) {
        self.observers.write().push(Box::new(observer));
    }

    pub(super) fn by_uid(&self, uid: &str) -> Option<Arc<Item>> {
        self.items.read().by_uid.get(uid).cloned()
    }

    /// What names this uid as an owner.
    pub(super) fn owned_by(&self, uid: &str) -> Vec<Arc<Item>> {
        let items = self.items.read();
        let places = items.owned.get(uid).into_iter().flatten();
        places.filter_map(|place| items.by_place.get(place).cloned()).collect()
    }

    pub(super) fn in_namespace(&self, namespace: &str) -> Vec<Arc<Item>> {
        let items = self.items.read();
        let places = items.by_namespace.get(namespace).into_iter().flatten();
        places.filter_map(|place| items.by_place.get(place).cloned()).collect()
    }

    /// The kinds that are watched, and so may be in a namespace.
    pub(super) fn namespaced_kinds(&self) -> Vec<Arc<Kind>> {
        let kinds = self.kinds.read();
        kinds
            .values()
            .filter(|followed| followed.kind.namespaced)
            .map(|followed| followed.kind.clone())
            .collect()
    }

    /// The kinds whose objects the item may own: those of its namespace, or all if it has none.
    pub(super) fn kinds_below(&self, item: &Item) -> Vec<Arc<Kind>> {
        let kinds = self.kinds.read();
        let all = kinds.values().map(|followed| &followed.kind);
        all.filter(|kind| kind.namespaced || !item.kind.namespaced).cloned().collect()
    }

    /// The kind that an owner reference names; any version of the group will do.
    pub(super) fn kind_of(&self, owner: &OwnerReference) -> Option<Arc<Kind>> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let kinds = self.kinds.read();
        let mut all = kinds.values().map(|followed| &followed.kind);
        all.find(|kind| kind.resource.group == group && kind.resource.kind == owner.kind).cloned()
    }

    /// Follows every kind until `shutdown`.
    pub(super) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let definitions = tokio::spawn(self.clone().follow_definitions(shutdown.clone()));
        loop {
            if let Err(error) = self.discover(&shutdown).await {
                tracing::warn!(error = %error, "discovery failed; it is tried again");
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = tokio::time::sleep(DISCOVERY_RETRY) => continue,
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.kinds_changed.notified() => {}
            }
        }
        // A panic there was reported where it happened; there is nothing to add to it here.
        let _ = definitions.await;
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        while tasks.join_next().await.is_some() {}
    }

    /// Wakes discovery when definitions of kinds change.
    async fn follow_definitions(self: Arc<Self>, shutdown: CancellationToken) {
        let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(self.client.clone());
        let mut events = pin!(watcher::watcher(api, watcher::Config::default()).default_backoff());
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.next() => match event {
                    None => return,
                    Some(_) => self.kinds_changed.notify_one(),
                },
            }
        }
    }

    async fn discover(self: &Arc<Self>, shutdown: &CancellationToken) -> Result<(), kube::Error> {
        let discovery = Discovery::new(self.client.clone()).run().await?;
        let mut served = BTreeMap::new();
        for group in discovery.groups() {
            for (resource, capabilities) in group.recommended_resources() {
                let wanted = [verbs::LIST, verbs::WATCH, verbs::DELETE];
                if wanted.iter().all(|verb| capabilities.supports_operation(verb))
                    && resource.plural != "events"
                {
                    let kind = Kind { resource, namespaced: capabilities.scope == Scope::Namespaced };
                    served.insert(kind.id(), kind);
                }
            }
        }
        let gone: Vec<KindId> = {
            let mut kinds = self.kinds.write();
            let gone = kinds.iter().filter(|(id, known)| served.get(*id) != Some(known.kind.as_ref()));
            let gone: Vec<KindId> = gone.map(|(id, _)| id.clone()).collect();
            for followed in gone.iter().filter_map(|id| kinds.remove(id)) {
                followed.stop.cancel();
            }
            gone
        };
        for id in &gone {
            self.forget_kind(id, &served);
        }
        for (id, kind) in served {
            if let Entry::Vacant(place) = self.kinds.write().entry(id) {
                let (kind, stop) = (Arc::new(kind), shutdown.child_token());
                place.insert(Followed { kind: kind.clone(), stop: stop.clone() });
                let mut tasks = self.tasks.lock();
                while tasks.try_join_next().is_some() {}
                tasks.spawn(self.clone().follow(kind, stop));
            }
        }
        Ok(())
    }

    /// A kind that is served in another version is followed anew and keeps what is known.
    fn forget_kind(&self, id: &KindId, served: &BTreeMap<KindId, Kind>) {
        if served.contains_key(id) {
            return;
        }
        let places: Vec<Place> =
            self.items.read().by_place.keys().filter(|place| place.kind == *id).cloned().collect();
        for place in places {
            self.remove(&place);
        }
    }

    async fn follow(self: Arc<Self>, kind: Arc<Kind>, stop: CancellationToken) {
        let api: Api<Meta> = Api::all_with(self.client.clone(), &kind.resource);
        let mut events = pin!(watcher::watcher(api, watcher::Config::default()).default_backoff());
        let mut unlisted = BTreeSet::new();
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                None => return,
                // The kind may just have gone; discovery ends this watch then.
                Some(Err(error)) => {
                    tracing::debug!(kind = %kind.resource.kind, error = %error, "watch failed; it starts anew");
                }
                Some(Ok(Event::Apply(object))) => self.store(&kind, &object),
                Some(Ok(Event::Delete(object))) => {
                    self.remove(&Item::new(kind.clone(), &object.metadata).place())
                }
                Some(Ok(Event::Init)) => {
                    let id = kind.id();
                    let items = self.items.read();
                    unlisted = items.by_place.keys().filter(|place| place.kind == id).cloned().collect();
                }
                Some(Ok(Event::InitApply(object))) => {
                    unlisted.remove(&Item::new(kind.clone(), &object.metadata).place());
                    self.store(&kind, &object);
                }
                Some(Ok(Event::InitDone)) => {
                    for place in std::mem::take(&mut unlisted) {
                        self.remove(&place);
                    }
                }
            }
        }
    }

    fn store(&self, kind: &Arc<Kind>, object: &Meta) {
        let item = Arc::new(Item::new(kind.clone(), &object.metadata));
        let before = {
            let mut items = self.items.write();
            let place = item.place();
            let before = items.by_place.get(&place).cloned();
            if before.as_ref() == Some(&item) {
                return;
            }
            if let Some(before) = &before {
                items.unindex(&place, before);
            }
            items.index(&place, &item);
            before
        };
        self.tell(&ItemChange { before: before.as_ref(), after: Some(&item) });
    }

    fn remove(&self, place: &Place) {
        let before = {
            let mut items = self.items.write();
            let Some(before) = items.by_place.get(place).cloned() else { return };
            items.unindex(place, &before);
            before
        };
        self.tell(&ItemChange { before: Some(&before), after: None });
    }

    fn tell(&self, change: &ItemChange<'_>) {
        for observer in self.observers.read().iter() {
            observer(change);
        }
    }
}

impl Items {
    fn index(&mut self, place: &Place, item: &Arc<Item>) {
        self.by_place.insert(place.clone(), item.clone());
        self.by_uid.insert(item.uid.clone(), item.clone());
        for owner in &item.owners {
            self.owned.entry(owner.uid.clone()).or_default().insert(place.clone());
        }
        if item.kind.namespaced {
            self.by_namespace.entry(item.namespace.clone()).or_default().insert(place.clone());
        }
    }

    fn unindex(&mut self, place: &Place, item: &Arc<Item>) {
        self.by_place.remove(place);
        if self.by_uid.get(&item.uid).is_some_and(|known| known.place() == *place) {
            self.by_uid.remove(&item.uid);
        }
        for owner in &item.owners {
            remove_from(&mut self.owned, &owner.uid, place);
        }
        if item.kind.namespaced {
            remove_from(&mut self.by_namespace, &item.namespace, place);
        }
    }
}

fn remove_from(index: &mut HashMap<String, BTreeSet<Place>>, key: &str, place: &Place) {
    if let Some(places) = index.get_mut(key) {
        places.remove(place);
        if places.is_empty() {
            index.remove(key);
        }
    }
}

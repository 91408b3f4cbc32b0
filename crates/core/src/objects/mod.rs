//! What is known of the cluster: objects, what is known to be absent, addresses and binds.
//!
//! Owns the indexed view that translation reads. Persistent: a clone is a few pointers and shares its content.
//! Invariants: the content depends on the calls made, not on their order, except for what [`Mark`]s say about it
//! (an absence must be younger than the reference that it answers).
//!
//! Deliberately absent: any watching or reading; whoever does that calls in.

mod kind;
mod object;

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use weir_api::core_v1::{EndpointSlice, Namespace, Service};
use weir_api::gateway_api::{Gateway, GatewayClass, GatewayStatusAddress, ReferenceGrant};
use weir_api::kong::GatewayConfiguration;
use weir_api::networking::IngressClass;
use weir_api::weir::GatewayParameters;
use weir_model::resource::BindReport;

pub use self::kind::{Kind, ObjectKey};
pub use self::object::{Object, Unreadable};

/// A point in the sequence of calls to an [`Objects`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(u64);

/// Whether a reference's target is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Present,
    /// It was looked for after the reference was made, and was not there.
    Absent,
    /// It has not been seen yet, and nobody has looked since the reference was made.
    Unknown,
}

/// Where a Gateway is to be found, as provisioning says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// IP literals (IPv6 without brackets) on which the data plane is to bind the Gateway's listeners, or the one place of a data
    /// plane (`DataPlaneName::place`). Nothing here looks inside.
    pub bind: Vec<String>,
    /// What goes into the Gateway's status: where clients reach it.
    pub published: Vec<GatewayStatusAddress>,
    /// Whether other Gateways live at the same address.
    pub shared: bool,
    /// Why not everything that was asked for could be given; what is in `bind` is served all the same.
    pub problem: Option<AddressProblem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressProblem {
    /// An address of the spec cannot be used; the message names it and says what to do.
    NotUsable(String),
    /// No address could be given so far.
    NotAssigned(String),
    /// There are addresses, and nobody behind them yet.
    NotReady(String),
    /// The infrastructure for the Gateway could not be had.
    NoResources(String),
}

/// Where a socket is: IP literal, port, and whether it is one for UDP.
pub(crate) type Place = (String, u32, bool);

#[derive(Clone, Debug)]
struct Entry {
    object: Object,
    /// When the object's owner last changed it.
    seen: Mark,
    /// When it came in as an object that was not there before.
    born: Mark,
}

/// Objects and what is known beside them.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    entries: OrdMap<ObjectKey, Entry>,
    /// When each absent object was last known not to be there.
    absent: OrdMap<ObjectKey, Mark>,
    /// Services whose EndpointSlices are not waited for: they had one, or the time for it is over.
    settled: OrdSet<ObjectKey>,
    /// EndpointSlices of each Service: (namespace, service, slice).
    slices: OrdSet<(String, String, String)>,
    /// ListenerSets by their Gateway, policies by the Services that they name: (group, kind, creation, member).
    members: OrdSet<(ObjectKey, Kind, i64, ObjectKey)>,
    addresses: OrdMap<ObjectKey, Arc<Addresses>>,
    /// GatewayClasses that went while a Gateway named them, by name, as they last were.
    gone_classes: OrdMap<String, Arc<GatewayClass>>,
    binds: OrdMap<Place, BindReport>,
    now: u64,
}

impl Objects {
    pub fn new() -> Objects {
        Objects::default()
    }

    /// Puts an object in, or replaces it; its absence is forgotten. One with another uid than was there is another object:
    /// nothing that was known beside the first (its addresses) holds for it.
    pub fn upsert(&mut self, object: Object) -> ObjectKey {
        let key = object.key();
        if self.entries.get(&key).is_some_and(|entry| is_successor(&entry.object, &object)) {
            self.remove(&key);
        }
        self.now += 1;
        let before = self.entries.get(&key);
        let seen = before
            .filter(|entry| entry.object.same_intent(&object))
            .map_or(Mark(self.now), |entry| entry.seen);
        let born = before.map_or(Mark(self.now), |entry| entry.born);
        let before = before.map(|entry| entry.object.clone());
        self.unindex(before.as_ref());
        if before.is_some() && key.kind == Kind::ReferenceGrant {
            self.absent.insert(ObjectKey::grants_of(key.namespace.clone()), Mark(self.now));
        }
        if let Object::EndpointSlice(slice) = &object
            && let Some(service) = slice.service()
        {
            let namespace = slice.metadata.namespace.clone();
            self.settled.insert(ObjectKey::new(Kind::Service, namespace.clone(), service));
            self.slices.insert((namespace, service.to_owned(), slice.metadata.name.clone()));
        }
        self.members.extend(memberships(&object));
        self.absent.remove(&key);
        if key.kind == Kind::GatewayClass {
            self.gone_classes.remove(&key.name);
        }
        self.entries.insert(key.clone(), Entry { object, seen, born });
        if key.kind == Kind::Service && self.slices(&key).next().is_some() {
            // Made again, it has those of its predecessor.
            self.settled.insert(key.clone());
        }
        key
    }

    /// Takes an object out: it was seen to be deleted.
    pub fn remove(&mut self, key: &ObjectKey) {
        self.now += 1;
        let before = self.entries.remove(key).map(|entry| entry.object);
        self.unindex(before.as_ref());
        if let Some(Object::GatewayClass(class)) = before
            && self.is_named(&key.name)
        {
            self.gone_classes.insert(key.name.clone(), class);
        }
        self.settled.remove(key);
        self.addresses.remove(key);
        self.absent.insert(key.clone(), Mark(self.now));
        if key.kind == Kind::ReferenceGrant {
            self.absent.insert(ObjectKey::grants_of(key.namespace.clone()), Mark(self.now));
        }
    }

    /// Whether a Gateway is of the class of this name.
    fn is_named(&self, class: &str) -> bool {
        let mut gateways = self.of_kind(Kind::Gateway);
        gateways
            .any(|(_, object)| matches!(object, Object::Gateway(of) if of.spec.gateway_class_name == class))
    }

    fn unindex(&mut self, before: Option<&Object>) {
        if let Some(Object::EndpointSlice(slice)) = before
            && let Some(service) = slice.service()
        {
            let index = (slice.metadata.namespace.clone(), service.to_owned(), slice.metadata.name.clone());
            self.slices.remove(&index);
        }
        for membership in before.into_iter().flat_map(memberships) {
            self.members.remove(&membership);
        }
    }

    /// The present point in the sequence of calls. Take it before a read whose NotFound goes to
    /// [`Objects::confirm_absent_since`].
    pub fn mark(&self) -> Mark {
        Mark(self.now)
    }

    /// A read that began after every event so far said NotFound. Name the key as changed afterwards. For
    /// [`ObjectKey::grants_of`] a namespace: a list that began so was complete, and its grants are in.
    pub fn confirm_absent(&mut self, key: ObjectKey) {
        self.confirm_absent_since(key, self.mark());
    }

    /// A read that began at `mark` said NotFound: references made later are not answered by it.
    pub fn confirm_absent_since(&mut self, key: ObjectKey, mark: Mark) {
        // All grants of a namespace are no object, though one without a name would have their key.
        let is_there = !key.name.is_empty() && self.entries.contains_key(&key);
        if !is_there && self.absent.get(&key).is_none_or(|known| *known < mark) {
            self.absent.insert(key, mark);
        }
    }

    /// The time to wait for `key` is over: references to it that are Unknown now count as Absent, and a Service without
    /// EndpointSlices as one without endpoints. Name the key as changed afterwards.
    pub fn waive(&mut self, key: ObjectKey) {
        if !key.name.is_empty() && self.entries.contains_key(&key) {
            self.settled.insert(key);
        } else {
            self.confirm_absent(key);
        }
    }

    /// How much is remembered of what is not there.
    pub fn remembered(&self) -> usize {
        self.absent.len() + self.settled.len() + self.gone_classes.len()
    }

    /// Forgets the absence of what nobody refers to, and of Services that are gone whether they had EndpointSlices. A reference that is
    /// made later asks anew in any case. Call it after a translation of everything that changed.
    pub fn forget(&mut self, is_read: impl Fn(&ObjectKey) -> bool) {
        self.absent =
            self.absent.iter().filter(|(key, _)| is_read(key)).map(|(k, at)| (k.clone(), *at)).collect();
        let is_there =
            |key: &&ObjectKey| self.entries.contains_key(*key) || self.slices(key).next().is_some();
        self.settled = self.settled.iter().filter(is_there).cloned().collect();
        let gone = self.gone_classes.iter().filter(|(name, _)| self.is_named(name));
        self.gone_classes = gone.map(|(name, class)| (name.clone(), Arc::clone(class))).collect();
    }

    /// What provisioning gave to a Gateway; name the Gateway as changed afterwards.
    pub fn set_addresses(&mut self, gateway: &ObjectKey, addresses: Addresses) {
        self.addresses.insert(gateway.clone(), Arc::new(addresses));
    }

    /// The state of every bind of the data plane. Nothing needs to be named as changed for it.
    pub fn set_binds(&mut self, binds: &[BindReport]) {
        let fresh: OrdMap<_, _> =
            binds.iter().map(|bind| ((bind.address.clone(), bind.port, bind.udp), bind.clone())).collect();
        if fresh != self.binds {
            self.binds = fresh;
        }
    }

    /// What [`Objects::set_binds`] was last given, by address and port.
    pub fn bind_reports(&self) -> impl Iterator<Item = &BindReport> {
        self.binds.values()
    }

    pub fn get(&self, key: &ObjectKey) -> Option<&Object> {
        self.entries.get(key).map(|entry| &entry.object)
    }

    pub(crate) fn is_in(&self, key: &ObjectKey) -> bool {
        self.entries.contains_key(key)
    }

    /// Objects of one kind, in order.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectKey, &Object)> {
        let first = ObjectKey { kind, namespace: String::new(), name: String::new() };
        self.entries
            .range(first..)
            .take_while(move |(key, _)| key.kind == kind)
            .map(|(key, entry)| (key, &entry.object))
    }

    /// Objects of one kind in one namespace, in order.
    pub fn in_namespace<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Object)> {
        let first = ObjectKey { kind, namespace: namespace.to_owned(), name: String::new() };
        self.entries
            .range(first..)
            .take_while(move |(key, _)| key.kind == kind && key.namespace == namespace)
            .map(|(key, entry)| (key, &entry.object))
    }

    pub fn gateway_class(&self, name: &str) -> Option<&Arc<GatewayClass>> {
        match self.get(&ObjectKey::new(Kind::GatewayClass, "", name)) {
            Some(Object::GatewayClass(object)) => Some(object),
            _ => None,
        }
    }

    /// The class as it last was, whether it is there or went since: what a Gateway goes on with that has been given addresses, for a
    /// class is a template (GatewayClass in the Gateway API's reference). One that was gone before it was ever put in is not known.
    pub fn template(&self, name: &str) -> Option<&Arc<GatewayClass>> {
        self.gateway_class(name).or_else(|| self.gone_classes.get(name))
    }

    pub fn gateway(&self, key: &ObjectKey) -> Option<&Arc<Gateway>> {
        match self.get(key) {
            Some(Object::Gateway(object)) => Some(object),
            _ => None,
        }
    }

    /// Objects of `kind` that belong to `group`: ListenerSets to a Gateway, policies to a Service. The oldest come first, then
    /// by namespace and name.
    pub(crate) fn members<'a>(
        &'a self,
        group: &'a ObjectKey,
        kind: Kind,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Object)> {
        let first = ObjectKey { kind, namespace: String::new(), name: String::new() };
        self.members
            .range((group.clone(), kind, i64::MIN, first)..)
            .take_while(move |(of, its_kind, ..)| of == group && *its_kind == kind)
            .filter_map(|(.., key)| Some((key, self.get(key)?)))
    }

    pub fn service(&self, key: &ObjectKey) -> Option<&Arc<Service>> {
        match self.get(key) {
            Some(Object::Service(object)) => Some(object),
            _ => None,
        }
    }

    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        match self.get(&ObjectKey::new(Kind::Namespace, "", name)) {
            Some(Object::Namespace(object)) => Some(object),
            _ => None,
        }
    }

    pub fn ingress_class(&self, name: &str) -> Option<&Arc<IngressClass>> {
        match self.get(&ObjectKey::new(Kind::IngressClass, "", name)) {
            Some(Object::IngressClass(object)) => Some(object),
            _ => None,
        }
    }

    pub fn gateway_configuration(&self, key: &ObjectKey) -> Option<&Arc<GatewayConfiguration>> {
        match self.get(key) {
            Some(Object::GatewayConfiguration(object)) => Some(object),
            _ => None,
        }
    }

    pub fn gateway_parameters(&self, key: &ObjectKey) -> Option<&Arc<GatewayParameters>> {
        match self.get(key) {
            Some(Object::GatewayParameters(object)) => Some(object),
            _ => None,
        }
    }

    /// The grants of a namespace.
    pub fn grants<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<ReferenceGrant>> {
        self.in_namespace(Kind::ReferenceGrant, namespace).filter_map(|(_, object)| match object {
            Object::ReferenceGrant(grant) => Some(grant),
            _ => None,
        })
    }

    /// The EndpointSlices of a Service, by name.
    pub fn slices<'a>(&'a self, service: &'a ObjectKey) -> impl Iterator<Item = &'a Arc<EndpointSlice>> {
        let first = (service.namespace.clone(), service.name.clone(), String::new());
        self.slices
            .range(first..)
            .take_while(|(namespace, name, _)| *namespace == service.namespace && *name == service.name)
            .filter_map(|(namespace, _, slice)| {
                match self.get(&ObjectKey::new(Kind::EndpointSlice, namespace.clone(), slice.clone())) {
                    Some(Object::EndpointSlice(slice)) => Some(slice),
                    _ => None,
                }
            })
    }

    /// When the owner of an object last changed it.
    pub(crate) fn seen(&self, key: &ObjectKey) -> Mark {
        self.entries.get(key).map_or(Mark(0), |entry| entry.seen)
    }

    /// Whether the target of a reference made at `since` is there.
    pub(crate) fn presence(&self, target: &ObjectKey, since: Mark) -> Presence {
        if self.entries.contains_key(target) { Presence::Present } else { self.absence(target, since) }
    }

    /// [`Objects::presence`] of something that is not in: Absent or Unknown.
    pub(crate) fn absence(&self, target: &ObjectKey, since: Mark) -> Presence {
        if self.absent.get(target).is_some_and(|mark| *mark >= since) {
            Presence::Absent
        } else {
            Presence::Unknown
        }
    }

    /// Whether a Service has never had an EndpointSlice, and nobody said to stop waiting for one.
    pub(crate) fn awaits_slices(&self, service: &ObjectKey) -> bool {
        !self.settled.contains(service) && self.slices(service).next().is_none()
    }

    /// Services whose EndpointSlices were waited for in `before` and are not any more, or the other way round.
    pub(crate) fn settled_since<'a>(&'a self, before: &'a Objects) -> Vec<&'a ObjectKey> {
        if before.settled.ptr_eq(&self.settled) {
            return Vec::new();
        }
        let key = |change| match change {
            imbl::ordset::DiffItem::Add(key) | imbl::ordset::DiffItem::Remove(key) => key,
        };
        before.settled.diff(&self.settled).map(key).collect()
    }

    /// Whether an object is not the one that had its name in `before`, though it may look the same.
    pub(crate) fn is_reborn(&self, before: &Objects, key: &ObjectKey) -> bool {
        let born = |objects: &Objects| objects.entries.get(key).map(|entry| entry.born);
        born(before).zip(born(self)).is_some_and(|(before, now)| before != now)
    }

    /// What provisioning gave to a Gateway; `None` after the Gateway was removed, too.
    pub fn addresses(&self, gateway: &ObjectKey) -> Option<&Arc<Addresses>> {
        self.addresses.get(gateway)
    }

    pub(crate) fn binds(&self) -> &OrdMap<Place, BindReport> {
        &self.binds
    }
}

/// Whether two objects of one name are not the same object.
fn is_successor(before: &Object, now: &Object) -> bool {
    let (before, now) = (&before.metadata().uid, &now.metadata().uid);
    !before.is_empty() && !now.is_empty() && before != now
}

/// What an object is a member of, in the form of the index.
fn memberships(object: &Object) -> impl Iterator<Item = (ObjectKey, Kind, i64, ObjectKey)> {
    let key = object.key();
    let created = object.metadata().creation_timestamp.map_or(0, |at| at.0);
    let groups = object.gateway_of_set().into_iter().chain(object.policy_targets());
    groups.map(move |group| (group, key.kind, created, key.clone()))
}

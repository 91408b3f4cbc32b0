//! What translation remembers between calls: who read what, and how often things are used.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use weir_model::resource::{Listener, ListenerProtocol};

use super::backend::PortUse;
use super::reading::Seen;
use super::route::Ancestor;
use crate::objects::{ObjectKey, Place};

/// Who read what. Nodes and what they read are both named by objects.
#[derive(Debug, Default)]
pub(super) struct Dependencies {
    nodes: FxHashMap<ObjectKey, Seen>,
    readers: FxHashMap<ObjectKey, BTreeSet<ObjectKey>>,
    wants: Tally,
    waits: Tally,
}

impl Dependencies {
    /// Replaces what `node` read.
    pub(super) fn set(&mut self, node: &ObjectKey, seen: Seen) {
        let before = self.nodes.remove(node).unwrap_or_default();
        for target in before.reads.difference(&seen.reads) {
            if let Some(readers) = self.readers.get_mut(target) {
                readers.remove(node);
                if readers.is_empty() {
                    self.readers.remove(target);
                }
            }
        }
        for target in seen.reads.difference(&before.reads) {
            self.readers.entry(target.clone()).or_default().insert(node.clone());
        }
        self.wants.replace(&before.wants, &seen.wants);
        self.waits.replace(&before.waits, &seen.waits);
        if seen != Seen::default() {
            self.nodes.insert(node.clone(), seen);
        }
    }

    pub(super) fn mark_readers(&self, target: &ObjectKey, dirty: &mut BTreeSet<ObjectKey>) {
        dirty.extend(self.readers(target).cloned());
    }

    pub(super) fn readers(&self, target: &ObjectKey) -> impl Iterator<Item = &ObjectKey> {
        self.readers.get(target).into_iter().flatten()
    }

    pub(super) fn reads(&self, node: &ObjectKey) -> impl Iterator<Item = &ObjectKey> {
        self.nodes.get(node).into_iter().flat_map(|seen| &seen.reads)
    }

    pub(super) fn wants(&self) -> impl Iterator<Item = &ObjectKey> {
        self.wants.open.keys()
    }

    pub(super) fn waits(&self) -> impl ExactSizeIterator<Item = &ObjectKey> {
        self.waits.open.keys()
    }

    /// Wants and waits that are new, or that stay open although `changed` said that something was found out.
    pub(super) fn take_news(&mut self, changed: &[ObjectKey]) -> (Vec<ObjectKey>, Vec<ObjectKey>) {
        (self.wants.take_news(changed), self.waits.take_news(changed))
    }
}

/// How many nodes name each key.
#[derive(Debug, Default)]
struct Tally {
    open: BTreeMap<ObjectKey, usize>,
    news: BTreeSet<ObjectKey>,
}

impl Tally {
    fn replace(&mut self, before: &BTreeSet<ObjectKey>, now: &BTreeSet<ObjectKey>) {
        for key in now.difference(before) {
            let count = self.open.entry(key.clone()).or_default();
            *count += 1;
            if *count == 1 {
                self.news.insert(key.clone());
            }
        }
        for key in before.difference(now) {
            if let Some(count) = self.open.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    self.open.remove(key);
                    self.news.remove(key);
                }
            }
        }
    }

    fn take_news(&mut self, changed: &[ObjectKey]) -> Vec<ObjectKey> {
        let mut news = std::mem::take(&mut self.news);
        news.extend(changed.iter().filter(|key| self.open.contains_key(key)).cloned());
        news.into_iter().collect()
    }
}

/// A socket's place, and what is spoken on it for which hostname.
type Spot = (Place, i32, String);

/// How many members of a spot every member's status can name; see [`Counts::join`].
const NAMED_MEMBERS: usize = 4;

/// Counts and indexes over the results of many objects, kept a change at a time.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Routes attached to each listener of a Gateway or ListenerSet.
    attached: FxHashMap<ObjectKey, BTreeMap<String, i32>>,
    /// Gateways that listen at each address and port, with how many of their listeners.
    at: FxHashMap<Place, BTreeMap<ObjectKey, usize>>,
    /// Listeners that are equal to one another.
    spots: FxHashMap<Spot, BTreeSet<(ObjectKey, String)>>,
    /// Routes that use each port of a Service; 0 until the Service has been looked at.
    used: FxHashMap<ObjectKey, BTreeMap<PortUse, usize>>,
    /// Routes through which each Gateway uses a Service.
    led: FxHashMap<ObjectKey, BTreeMap<Ancestor, usize>>,
    /// Objects whose resources name a certificate or authorities.
    held: FxHashMap<String, usize>,
}

impl Counts {
    pub(super) fn attach(&mut self, gateway: &ObjectKey, section: &str) {
        *self.attached.entry(gateway.clone()).or_default().entry(section.to_owned()).or_default() += 1;
    }

    pub(super) fn detach(&mut self, gateway: &ObjectKey, section: &str) {
        let Some(sections) = self.attached.get_mut(gateway) else {
            return;
        };
        if let Some(count) = sections.get_mut(section) {
            *count -= 1;
            if *count <= 0 {
                sections.remove(section);
            }
        }
        if sections.is_empty() {
            self.attached.remove(gateway);
        }
    }

    pub(super) fn attached(&self, gateway: &ObjectKey) -> Option<&BTreeMap<String, i32>> {
        self.attached.get(gateway)
    }

    /// A listener begins to be served. Returns the Gateways whose status can differ for it: all at its spot while they
    /// are few, none once there are more than a status names.
    pub(super) fn join(&mut self, gateway: &ObjectKey, listener: &Listener) -> Vec<ObjectKey> {
        let place = place(listener);
        *self.at.entry(place).or_default().entry(gateway.clone()).or_default() += 1;
        let members = self.spots.entry(spot(listener)).or_default();
        let before = named(members);
        members.insert((gateway.clone(), listener.key.clone()));
        if before == named(members) {
            Vec::new()
        } else {
            members.iter().map(|(key, _)| key.clone()).collect()
        }
    }

    /// A listener ends being served; returns as [`Counts::join`] does.
    pub(super) fn leave(&mut self, gateway: &ObjectKey, listener: &Listener) -> Vec<ObjectKey> {
        let place = place(listener);
        if let Some(gateways) = self.at.get_mut(&place) {
            if let Some(count) = gateways.get_mut(gateway) {
                *count -= 1;
                if *count == 0 {
                    gateways.remove(gateway);
                }
            }
            if gateways.is_empty() {
                self.at.remove(&place);
            }
        }
        let spot = spot(listener);
        let Some(members) = self.spots.get_mut(&spot) else {
            return Vec::new();
        };
        let before = named(members);
        members.remove(&(gateway.clone(), listener.key.clone()));
        let changed = if before == named(members) {
            Vec::new()
        } else {
            members.iter().map(|(key, _)| key.clone()).collect()
        };
        if members.is_empty() {
            self.spots.remove(&spot);
        }
        changed
    }

    pub(super) fn gateways_at(&self, place: &Place) -> impl Iterator<Item = &ObjectKey> {
        self.at.get(place).into_iter().flat_map(BTreeMap::keys)
    }

    /// The listeners that are equal to one, itself included, as far as a status names them.
    pub(super) fn equals(&self, listener: &Listener) -> impl Iterator<Item = &(ObjectKey, String)> {
        self.spots.get(&spot(listener)).into_iter().flatten().take(NAMED_MEMBERS)
    }

    /// A route begins to use a port; whether it is the first.
    pub(super) fn use_port(&mut self, service: &ObjectKey, port: PortUse) -> bool {
        let count = self.used.entry(service.clone()).or_default().entry(port).or_default();
        *count += 1;
        *count == 1
    }

    /// A route ends using a port; whether it was the last.
    pub(super) fn release(&mut self, service: &ObjectKey, port: PortUse) -> bool {
        let count = self.used.get_mut(service).and_then(|ports| ports.get_mut(&port));
        count.is_some_and(|count| {
            *count -= 1;
            *count == 0
        })
    }

    /// The ports that are used, and those that no longer are, which this forgets.
    pub(super) fn ports(&mut self, service: &ObjectKey) -> Vec<PortUse> {
        let Some(ports) = self.used.get_mut(service) else {
            return Vec::new();
        };
        let all = ports.keys().copied().collect();
        ports.retain(|_, count| *count > 0);
        if ports.is_empty() {
            self.used.remove(service);
        }
        all
    }

    /// A Gateway begins to use a Service through one more route; whether that is the first.
    pub(super) fn lead_to(&mut self, service: &ObjectKey, ancestor: &Ancestor) -> bool {
        let count = self.led.entry(service.clone()).or_default().entry(ancestor.clone()).or_default();
        *count += 1;
        *count == 1
    }

    /// A Gateway ends using a Service through a route; whether that was the last.
    pub(super) fn lead_away(&mut self, service: &ObjectKey, ancestor: &Ancestor) -> bool {
        let Some(ancestors) = self.led.get_mut(service) else {
            return false;
        };
        let Some(count) = ancestors.get_mut(ancestor) else {
            return false;
        };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        ancestors.remove(ancestor);
        if ancestors.is_empty() {
            self.led.remove(service);
        }
        true
    }

    /// The Gateways that use a Service, in order.
    pub(super) fn ancestors(&self, service: &ObjectKey) -> Vec<&Ancestor> {
        self.led.get(service).into_iter().flat_map(BTreeMap::keys).collect()
    }

    /// One more object's resources name a certificate or authorities; whether that is the first.
    pub(super) fn hold(&mut self, key: &str) -> bool {
        let count = self.held.entry(key.to_owned()).or_default();
        *count += 1;
        *count == 1
    }

    /// One less; whether that was the last.
    pub(super) fn drop_hold(&mut self, key: &str) -> bool {
        let Some(count) = self.held.get_mut(key) else {
            return false;
        };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        self.held.remove(key);
        true
    }

    pub(super) fn uses(&self, service: &ObjectKey, port: PortUse) -> bool {
        self.used.get(service).is_some_and(|ports| ports.contains_key(&port))
    }
}

pub(super) fn place(listener: &Listener) -> Place {
    (listener.address.clone(), listener.port, listener.protocol() == ListenerProtocol::Udp)
}

fn spot(listener: &Listener) -> Spot {
    (place(listener), listener.protocol, listener.hostname.clone())
}

/// The members that statuses name.
fn named(members: &BTreeSet<(ObjectKey, String)>) -> Vec<(ObjectKey, String)> {
    members.iter().take(NAMED_MEMBERS).cloned().collect()
}

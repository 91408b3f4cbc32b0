//! Snapshots: the resources of one moment, compiled.
//!
//! A [`Snapshot`] is a value. [`Snapshot::apply`] makes the next one from an [`Update`]; both share whatever the update did
//! not touch, so an edited route costs the same among a hundred and among forty thousand, and unchanged rules keep their
//! compiled form (`Arc`) and their split state.
//!
//! Invariants: resources that cannot be compiled are left out and reported, everything else runs; the tables depend on the set of
//! resources only, not on the order or grouping in which they came (split epochs count updates, so they tell how often an
//! update came); a request is selected in one [`BindTable`], which belongs to one snapshot.
//!
//! Two things are deliberately not part of the value: the endpoints of a backend, and how it is spoken to. They change in place
//! ([`BackendState::endpoints`], [`BackendState::settings`]) for all snapshots at once: pods that come and go are not configuration, and a
//! backend that thousands of rules name changes in one place.
//!
//! Deliberately absent: sockets, statuses, clocks (the time is passed in).

mod backend;
mod bind;
mod changes;
mod index;
mod listener;
mod matching;
mod parameters;
mod rule;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use prost::Message;

use self::backend::EndpointSlot;
pub use self::backend::{BackendSettings, BackendState, EndpointSet, EndpointState};
pub use self::bind::{Authority, BindAddress, BindKind, BindTable, ListenerGroup, TlsMode, Transport};
use self::changes::{Changes, body_of};
pub use self::index::MatchEntry;
use self::index::Placement;
pub(crate) use self::index::{Candidates, Depth, HostTable};
pub use self::listener::CompiledListener;
pub use self::matching::{
    CompiledMatch, PathPattern, PathRegex, ValueCondition, ValuePattern, compile_match,
};
pub use self::parameters::CompiledParameters;
use self::rule::RouteWork;
pub(crate) use self::rule::RuleContext;
pub use self::rule::{CompiledRoute, CompiledRule, RouteKind, RuleBackend, Target};
use crate::filter::backend_keys;
use crate::hostname::{Hostname, parse_all};
use crate::limits::Limits;
pub use crate::resource::Rejected;
use crate::resource::{Body, CaBundle, Certificate, Endpoints, HttpRoute, Resource, SessionKey, Update};
use crate::split::LayoutCache;
pub use crate::split::{BackendShare, ReplayBudget, SplitReport};

/// Resources compiled for the proxy. Cheap to clone.
#[derive(Clone)]
pub struct Snapshot {
    state: Arc<State>,
}

#[derive(Clone)]
struct State {
    seed: u64,
    /// Where nothing else is set.
    limits: Arc<Limits>,
    /// Updates applied so far: the epoch of splits that begin with the next one.
    updates: u64,
    binds: OrdMap<BindAddress, Arc<BindTable>>,
    listeners: OrdMap<Arc<str>, Arc<CompiledListener>>,
    /// Of all kinds.
    routes: OrdMap<Arc<str>, Arc<CompiledRoute>>,
    certificates: OrdMap<Arc<str>, Arc<Certificate>>,
    ca_bundles: OrdMap<Arc<str>, Arc<CaBundle>>,
    session_keys: OrdMap<Arc<str>, Arc<SessionKey>>,
    backends: OrdMap<Arc<str>, Arc<BackendState>>,
    /// By key, encoded: to tell whether an update changes them.
    endpoints: OrdMap<Arc<str>, Arc<[u8]>>,
    /// By backend key; there before the backend if its endpoints come first.
    slots: OrdMap<Arc<str>, Arc<EndpointSlot>>,
    /// (listener key, key of a route that is attached to it), also for listeners that are not there.
    routes_by_listener: Relation,
    /// (backend key, key of a route that refers to it), also for backends that are not there.
    routes_by_backend: Relation,
    layouts: Arc<LayoutCache>,
    work: Work,
}

/// What the last update made it do. Equal for equal edits whatever the number of routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    pub listeners: usize,
    pub backends: usize,
    pub endpoint_sets: usize,
    /// Certificates, authorities and session keys put in or taken out.
    pub certificates: usize,
    /// Routes compiled again or taken out.
    pub routes: usize,
    pub rules_compiled: usize,
    /// Rules of those routes that kept their compiled form.
    pub rules_kept: usize,
    pub entries_added: usize,
    pub entries_removed: usize,
}

impl Snapshot {
    /// As [`Snapshot::with_limits`] with the defaults.
    pub fn empty(seed: u64) -> Snapshot {
        Snapshot::with_limits(seed, Limits::default())
    }

    /// Nothing yet. `seed`: of the process, for the phases of splits; `limits`: where nothing else is set.
    pub fn with_limits(seed: u64, limits: Limits) -> Snapshot {
        Snapshot {
            state: Arc::new(State {
                seed,
                limits: Arc::new(limits),
                updates: 0,
                binds: OrdMap::new(),
                listeners: OrdMap::new(),
                routes: OrdMap::new(),
                certificates: OrdMap::new(),
                ca_bundles: OrdMap::new(),
                session_keys: OrdMap::new(),
                backends: OrdMap::new(),
                endpoints: OrdMap::new(),
                slots: OrdMap::new(),
                routes_by_listener: OrdSet::new(),
                routes_by_backend: OrdSet::new(),
                layouts: Arc::default(),
                work: Work::default(),
            }),
        }
    }

    /// As [`Snapshot::apply_at`] at time 0.
    pub fn apply(&self, update: &Update) -> (Snapshot, Vec<Rejected>) {
        self.apply_at(update, 0)
    }

    /// The snapshot after an update, and the resources of it that could not be compiled (sorted by key; they are not in the
    /// snapshot, in no version). A key in both `upserts` and `removals` is upserted; of several upserts of a key the last
    /// counts. `now_millis` is a monotonic clock's; it marks when a backend lost its last endpoint.
    pub fn apply_at(&self, update: &Update, now_millis: u64) -> (Snapshot, Vec<Rejected>) {
        let changes = Changes::new(update, &self.state);
        let mut next = State::clone(&self.state);
        next.updates += 1;
        next.work = Work::default();
        let mut edit = Edit { before: &self.state, next, dirty: BTreeSet::new(), rejected: Vec::new() };
        edit.run(changes, now_millis);
        let mut rejected = edit.rejected;
        rejected.sort_by(|a, b| a.key.cmp(&b.key).then_with(|| a.reason.cmp(&b.reason)));
        (Snapshot { state: Arc::new(edit.next) }, rejected)
    }

    /// The sockets that are wanted, with what each serves; by address.
    pub fn binds(&self) -> impl Iterator<Item = (BindAddress, &Arc<BindTable>)> {
        self.state.binds.iter().map(|(address, table)| (*address, table))
    }

    /// What one socket serves.
    pub fn bind(&self, address: &BindAddress) -> Option<&Arc<BindTable>> {
        self.state.binds.get(address)
    }

    pub fn listener(&self, key: &str) -> Option<&Arc<CompiledListener>> {
        self.state.listeners.get(key)
    }

    pub fn backend(&self, key: &str) -> Option<&Arc<BackendState>> {
        self.state.backends.get(key)
    }

    /// By key.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<BackendState>> {
        self.state.backends.values()
    }

    /// As it came: PEM. The same `Arc` for as long as it is there.
    pub fn certificate(&self, key: &str) -> Option<&Arc<Certificate>> {
        self.state.certificates.get(key)
    }

    /// As it came: PEM. The same `Arc` for as long as it is there.
    pub fn ca_bundle(&self, key: &str) -> Option<&Arc<CaBundle>> {
        self.state.ca_bundles.get(key)
    }

    /// As it came. The same `Arc` for as long as it is there.
    pub fn session_key(&self, key: &str) -> Option<&Arc<SessionKey>> {
        self.state.session_keys.get(key)
    }

    /// The limits that hold where nothing else is set.
    pub fn limits(&self) -> &Limits {
        &self.state.limits
    }

    /// Of all kinds of routes. By route key, then in the order of the route.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<CompiledRule>> {
        self.state.routes.values().flat_map(|route| route.rules.iter().map(|entry| &entry.rule))
    }

    /// Every rule that has backends: weights, served, tickets, largest deviation. Ordered as [`Snapshot::rules`].
    pub fn splits(&self) -> Vec<SplitReport> {
        let rules: Vec<_> = self.rules().filter(|rule| !rule.backends.is_empty()).collect();
        // What one rule does not need is the next one's, but none can take what is another's.
        let share = ReplayBudget::fair(rules.len()).steps;
        let mut budget = ReplayBudget { steps: 0 };
        rules
            .into_iter()
            .map(|rule| {
                budget.steps += share;
                rule.report(&mut budget)
            })
            .collect()
    }

    /// The resources that run, by key: what a full update would have to hold to make this snapshot again. With private keys.
    pub fn resources(&self) -> Vec<Resource> {
        let state = &self.state;
        let routes = state.routes.iter().filter_map(|(key, route)| Some(body_of(key, route.source()?)));
        let endpoints = state.endpoints.values().filter_map(|bytes| Endpoints::decode(&**bytes).ok());
        let bodies = (state.listeners.values().map(|listener| Body::Listener(listener.source.clone())))
            .chain(routes)
            .chain(state.certificates.values().map(|one| Body::Certificate(Certificate::clone(one))))
            .chain(state.ca_bundles.values().map(|one| Body::CaBundle(CaBundle::clone(one))))
            .chain(state.session_keys.values().map(|one| Body::SessionKey(SessionKey::clone(one))))
            .chain(state.backends.values().map(|backend| Body::Backend(backend.settings().source.clone())))
            .chain(endpoints.map(Body::Endpoints));
        let mut all: Vec<Resource> = bodies.map(|body| Resource { body: Some(body) }).collect();
        all.sort_by(|a, b| a.key().cmp(b.key()));
        all
    }

    /// As [`Snapshot::resources`], for people and files: certificates without their private keys, session keys without their bytes.
    pub fn public_resources(&self) -> Vec<Resource> {
        let mut all = self.resources();
        for resource in &mut all {
            match &mut resource.body {
                Some(Body::Certificate(certificate)) => certificate.private_key.clear(),
                Some(Body::SessionKey(key)) => key.bytes.clear(),
                _ => {}
            }
        }
        all
    }

    /// What the update that made this snapshot cost.
    pub fn work(&self) -> Work {
        self.state.work
    }

    /// Resources that run: listeners, routes, backends, endpoint sets, certificates, sets of authorities.
    pub fn counts(&self) -> [usize; 6] {
        let state = &self.state;
        let [certificates, ca_bundles] = [state.certificates.len(), state.ca_bundles.len()];
        let [backends, endpoints] = [state.backends.len(), state.endpoints.len()];
        [state.listeners.len(), state.routes.len(), backends, endpoints, certificates, ca_bundles]
    }
}

impl CompiledRule {
    /// The rule's split so far.
    pub fn report(&self, budget: &mut ReplayBudget) -> SplitReport {
        let weights: Vec<u32> = self.backends.iter().map(|backend| backend.weight).collect();
        let mut report = self.split.report(&weights, budget);
        report.route = self.route.clone();
        report.kind = self.kind;
        report.rule = self.name.clone();
        report.rule_index = self.index;
        for (share, backend) in report.backends.iter_mut().zip(&self.backends) {
            share.invalid_reason = backend.invalid_reason();
        }
        report
    }
}

impl State {
    fn keys(&self) -> impl Iterator<Item = &str> {
        let keys = self.listeners.keys().chain(self.routes.keys());
        let keys = keys.chain(self.certificates.keys()).chain(self.ca_bundles.keys());
        let keys = keys.chain(self.session_keys.keys());
        keys.chain(self.backends.keys()).chain(self.endpoints.keys()).map(|key| &**key)
    }
}

/// One update under way.
struct Edit<'a> {
    before: &'a State,
    next: State,
    /// Routes whose entries have to be made again.
    dirty: BTreeSet<Arc<str>>,
    rejected: Vec<Rejected>,
}

impl Edit<'_> {
    fn run(&mut self, mut changes: Changes<'_>, now_millis: u64) {
        self.rejected.append(&mut changes.rejected);
        self.certificates(&changes);
        self.drop_backends(&changes);
        self.endpoints(&changes, now_millis);
        self.backends(&changes);
        let listeners = self.listeners(&changes);
        let routes = self.routes(&changes);
        // When listeners change, entries go before their groups do and come back when the groups are there.
        let removed = !listeners.is_empty();
        if removed {
            for key in &self.dirty {
                if let Some(route) = self.before.routes.get(key) {
                    self.next.remove_entries(route.placements.iter());
                }
            }
        }
        for (key, listener) in listeners {
            self.put_listener(&key, listener);
        }
        for key in std::mem::take(&mut self.dirty) {
            self.put_route(&key, routes.get(&*key).copied(), removed);
        }
    }

    fn reject(&mut self, key: &str, reason: impl ToString) {
        self.rejected.push(Rejected { key: key.to_owned(), reason: reason.to_string() });
    }

    fn certificates(&mut self, changes: &Changes<'_>) {
        let next = &mut self.next;
        for &key in &changes.removals {
            let gone = next.certificates.remove(key).is_some()
                || next.ca_bundles.remove(key).is_some()
                || next.session_keys.remove(key).is_some();
            next.work.certificates += usize::from(gone);
        }
        for (&key, &source) in &changes.certificates {
            if next.certificates.get(key).is_none_or(|known| **known != *source) {
                next.certificates.insert(Arc::from(key), Arc::new(source.clone()));
                next.work.certificates += 1;
            }
        }
        for (&key, &source) in &changes.ca_bundles {
            if next.ca_bundles.get(key).is_none_or(|known| **known != *source) {
                next.ca_bundles.insert(Arc::from(key), Arc::new(source.clone()));
                next.work.certificates += 1;
            }
        }
        for (&key, &source) in &changes.session_keys {
            if next.session_keys.get(key).is_none_or(|known| **known != *source) {
                next.session_keys.insert(Arc::from(key), Arc::new(source.clone()));
                next.work.certificates += 1;
            }
        }
    }

    fn endpoints(&mut self, changes: &Changes<'_>, now_millis: u64) {
        for &key in &changes.removals {
            self.drop_endpoints(key, now_millis);
        }
        for (&key, &source) in &changes.endpoints {
            let encoded = source.encode_to_vec();
            if self.next.endpoints.get(key).is_some_and(|known| **known == *encoded) {
                continue;
            }
            if source.backend_key != backend_of_endpoints(key) {
                self.drop_endpoints(key, now_millis);
                self.reject(
                    key,
                    format!("the backend key `{}` does not belong to this key", source.backend_key),
                );
                continue;
            }
            let backend: Arc<str> = Arc::from(source.backend_key.as_str());
            let slot = self.slot(&backend);
            let set = slot.load().next(Some(source), now_millis);
            match set {
                Ok(set) => {
                    slot.swap(set);
                    self.next.endpoints.insert(Arc::from(key), Arc::from(encoded));
                    self.next.work.endpoint_sets += 1;
                }
                Err(reason) => {
                    self.drop_endpoints(key, now_millis);
                    self.reject(key, reason);
                }
            }
            self.forget_slot(&backend);
        }
    }

    fn drop_endpoints(&mut self, key: &str, now_millis: u64) {
        if self.next.endpoints.remove(key).is_none() {
            return;
        }
        self.next.work.endpoint_sets += 1;
        let backend = backend_of_endpoints(key);
        // A backend that goes with its endpoints leaves them to whoever still runs an older snapshot.
        if self.next.backends.contains_key(backend.as_str())
            && let Some(slot) = self.next.slots.get(backend.as_str())
        {
            // Without a source there is nothing that could fail.
            let set = slot.load().next(None, now_millis).unwrap_or_default();
            slot.swap(set);
        }
        self.forget_slot(&backend);
    }

    /// Where the endpoints of this backend are, made at the first mention of either.
    fn slot(&mut self, backend: &Arc<str>) -> Arc<EndpointSlot> {
        if let Some(slot) = self.next.slots.get(backend) {
            return slot.clone();
        }
        let slot = Arc::<EndpointSlot>::default();
        self.next.slots.insert(backend.clone(), slot.clone());
        slot
    }

    /// Drops the slot of a backend that has neither a resource nor endpoints.
    fn forget_slot(&mut self, backend: &str) {
        let endpoints = backend.strip_prefix("backend/").map(|rest| format!("endpoints/{rest}"));
        let used = self.next.backends.contains_key(backend)
            || endpoints.is_some_and(|key| self.next.endpoints.contains_key(key.as_str()));
        if !used {
            self.next.slots.remove(backend);
        }
    }

    fn drop_backends(&mut self, changes: &Changes<'_>) {
        for &key in &changes.removals {
            if self.next.backends.remove(key).is_some() {
                self.backend_changed(key);
            }
        }
    }

    fn backends(&mut self, changes: &Changes<'_>) {
        for (&key, &source) in &changes.backends {
            let known = self.next.backends.get(key).cloned();
            if known.as_ref().is_some_and(|known| known.settings().source == *source) {
                continue;
            }
            let before = self.before.backends.get(key).map(|before| before.settings());
            let known_settings = before.as_ref().map(|before| &***before);
            let settings = BackendSettings::compile(source, known_settings, &self.before.limits);
            let settings = match (known, settings) {
                (Some(known), Ok(settings)) if known.takes(&settings) => {
                    self.next.work.backends += 1;
                    known.change(settings);
                    continue;
                }
                (_, settings) => settings,
            };
            let key: Arc<str> = Arc::from(key);
            let slot = self.slot(&key);
            match settings.and_then(|settings| BackendState::new(settings, slot)) {
                Ok(state) => {
                    self.next.backends.insert(key.clone(), Arc::new(state));
                }
                Err(reason) => {
                    self.next.backends.remove(&key);
                    self.reject(&key, reason);
                }
            }
            self.backend_changed(&key);
        }
    }

    fn backend_changed(&mut self, key: &str) {
        self.next.work.backends += 1;
        self.forget_slot(key);
        self.dirty.extend(related(&self.before.routes_by_backend, key));
    }

    /// The listeners whose place changes, with their new form. Others have it when this returns.
    fn listeners(&mut self, changes: &Changes<'_>) -> Vec<(Arc<str>, Option<Arc<CompiledListener>>)> {
        let mut changed = Vec::new();
        for &key in &changes.removals {
            if let Some((key, _)) = self.next.listeners.get_key_value(key) {
                changed.push((key.clone(), None));
            }
        }
        for (&key, &source) in &changes.listeners {
            if self.next.listeners.get(key).is_some_and(|known| known.source == *source) {
                continue;
            }
            let before = self.next.listeners.get(key).map(|before| &**before);
            match CompiledListener::compile(source, &self.before.limits, before).map(Arc::new) {
                Ok(listener) => match self.next.listeners.get(key) {
                    Some(old) if old.is_at_the_place_of(&listener) => self.renew_listener(listener),
                    _ => changed.push((listener.key.clone(), Some(listener))),
                },
                Err(reason) => {
                    changed.push((Arc::from(key), None));
                    self.reject(key, reason);
                }
            }
        }
        for (key, _) in &changed {
            self.dirty.extend(related(&self.before.routes_by_listener, key));
        }
        changed
    }

    fn renew_listener(&mut self, listener: Arc<CompiledListener>) {
        self.next.work.listeners += 1;
        if let Some(table) = self.next.binds.get_mut(&listener.bind) {
            Arc::make_mut(table).renew_listener(&listener);
        }
        self.next.listeners.insert(listener.key.clone(), listener);
    }

    fn put_listener(&mut self, key: &Arc<str>, listener: Option<Arc<CompiledListener>>) {
        self.next.work.listeners += 1;
        if let Some(old) = self.next.listeners.remove(key)
            && let Some(table) = self.next.binds.get_mut(&old.bind)
        {
            let table = Arc::make_mut(table);
            table.remove_listener(&old);
            if table.listeners == 0 {
                self.next.binds.remove(&old.bind);
            }
        }
        if let Some(new) = listener {
            let table = self.next.binds.entry(new.bind).or_insert_with(|| Arc::new(BindTable::new(new.bind)));
            Arc::make_mut(table).add_listener(&new);
            self.next.listeners.insert(key.clone(), new);
        }
    }

    /// The routes that say something new: their source, or `None` when they are removed.
    fn routes<'c>(&mut self, changes: &'c Changes<'_>) -> BTreeMap<&'c str, Option<&'c HttpRoute>> {
        let mut changed = BTreeMap::new();
        for &key in &changes.removals {
            if let Some((known, _)) = self.before.routes.get_key_value(key) {
                self.dirty.insert(known.clone());
                changed.insert(key, None);
            }
        }
        for (&key, source) in &changes.routes {
            let source: &HttpRoute = source;
            let known = self.before.routes.get_key_value(key);
            if known.is_some_and(|(_, known)| known.is(source)) {
                continue;
            }
            self.dirty.insert(known.map_or_else(|| Arc::from(key), |(key, _)| key.clone()));
            changed.insert(key, Some(source));
        }
        changed
    }

    /// Puts a route's new form in the place of its old one, whose entries may be `removed` already. Without a change it is
    /// compiled again from what it was.
    fn put_route(&mut self, key: &Arc<str>, change: Option<Option<&HttpRoute>>, removed: bool) {
        self.next.work.routes += 1;
        let before = self.before.routes.get(key);
        let old_source = before.and_then(|before| before.source());
        let old = old_source.as_ref().zip(before.map(|before| &**before));
        let source = change.unwrap_or(old_source.as_ref());
        let after = source.and_then(|source| match self.compile_route(key, source, old) {
            Ok(route) => Some((source, Arc::new(route))),
            Err(reason) => {
                self.reject(key, reason);
                None
            }
        });
        let sources = [old.map(|(source, _)| source), after.as_ref().map(|(source, _)| *source)];
        let listener = |name: &str| self.next.listeners.get_key_value(name).map(|(name, _)| name.clone());
        relate(
            &mut self.next.routes_by_listener,
            key,
            sources.map(|route| names(route, listeners_of)),
            listener,
        );
        let backend = |name: &str| self.next.slots.get_key_value(name).map(|(name, _)| name.clone());
        relate(
            &mut self.next.routes_by_backend,
            key,
            sources.map(|route| names(route, backends_of)),
            backend,
        );
        let old = before.filter(|_| !removed).map_or(&[][..], |route| &route.placements);
        let new = after.as_ref().map_or(&[][..], |(_, route)| &route.placements);
        self.next.exchange_entries(old, new);
        match after {
            Some((_, route)) => _ = self.next.routes.insert(key.clone(), route),
            None => _ = self.next.routes.remove(key),
        }
    }

    fn compile_route(
        &mut self,
        key: &str,
        source: &HttpRoute,
        before: Option<(&HttpRoute, &CompiledRoute)>,
    ) -> Result<CompiledRoute, String> {
        let named = format!("{}/{}", source.namespace, source.name);
        let Some(kind) = RouteKind::of_key(key).filter(|kind| key == format!("{}/{named}", kind.name()))
        else {
            return Err(format!("the key is not that of {named}"));
        };
        let mut hostnames = Vec::with_capacity(source.attachments.len());
        for attachment in &source.attachments {
            hostnames.push(parse_all(&attachment.hostnames).map_err(|error| error.to_string())?);
        }
        let next = &self.next;
        let context = RuleContext {
            seed: next.seed,
            epoch: next.updates,
            layouts: &next.layouts,
            backend: &|key| next.backends.get(key).cloned(),
        };
        let mut work = RouteWork::default();
        let mut route = CompiledRoute::compile(kind, source, before, &context, &mut work)?;
        route.placements = placements(&next.listeners, kind, source, &route, &hostnames);
        self.next.work.rules_compiled += work.rules_compiled;
        self.next.work.rules_kept += work.rules_kept;
        Ok(route)
    }
}

impl State {
    fn remove_entries<'a>(&mut self, placements: impl Iterator<Item = &'a Placement>) {
        for placement in placements {
            if let Some(table) = self.binds.get_mut(&placement.entry.listener.bind) {
                Arc::make_mut(table).remove_entry(placement);
                self.work.entries_removed += 1;
            }
        }
    }

    /// Takes a route's old entries out and puts the new ones in. Both are in the order of the route, so that what an edit
    /// leaves alone mostly stands side by side; that is not touched.
    fn exchange_entries(&mut self, old: &[Placement], new: &[Placement]) {
        let stale =
            old.iter().enumerate().filter(|(at, old)| !new.get(*at).is_some_and(|new| new.replaces(old)));
        self.remove_entries(stale.map(|(_, old)| old));
        for (at, placement) in new.iter().enumerate() {
            if old.get(at).is_some_and(|old| placement.is(old)) {
                continue;
            }
            if let Some(table) = self.binds.get_mut(&placement.entry.listener.bind) {
                Arc::make_mut(table).add_entry(placement);
                self.work.entries_added += 1;
            }
        }
    }
}

/// `backend/<rest>` for `endpoints/<rest>`.
fn backend_of_endpoints(key: &str) -> String {
    format!("backend/{}", key.strip_prefix("endpoints/").unwrap_or(key))
}

/// The parsed hostnames of each attachment of a route.
type AttachedNames = Vec<smallvec::SmallVec<[Hostname; 1]>>;

/// Every place where a route's alternatives stand.
fn placements(
    listeners: &OrdMap<Arc<str>, Arc<CompiledListener>>,
    kind: RouteKind,
    source: &HttpRoute,
    route: &CompiledRoute,
    hostnames: &AttachedNames,
) -> Box<[Placement]> {
    let mut all = Vec::new();
    for (at, (attachment, names)) in source.attachments.iter().zip(hostnames).enumerate() {
        let listener = listeners.get(attachment.listener_key.as_str());
        let Some(listener) = listener.filter(|listener| listener.carries(kind)) else { continue };
        // Two references of a route may lead to one listener. What stands there stands there once.
        let earlier = || source.attachments.iter().zip(hostnames).take(at);
        let is_new = |hostname: &&Hostname| {
            !earlier().any(|(other, names)| {
                other.listener_key == attachment.listener_key && names.contains(*hostname)
            })
        };
        for hostname in names.iter().filter(is_new) {
            for rule::RuleEntry { rule, matches } in &route.rules {
                for (alternative, matched) in matches.iter().enumerate() {
                    let entry = MatchEntry {
                        created_seconds: source.created_seconds,
                        unconditional: matched.is_unconditional(),
                        matched: matched.clone(),
                        alternative,
                        rule: rule.clone(),
                        listener: listener.clone(),
                    };
                    all.push(Placement { hostname: hostname.clone(), entry: Arc::new(entry) });
                }
            }
        }
    }
    all.into()
}

/// (name, route) pairs.
type Relation = OrdSet<(Arc<str>, Arc<str>)>;

fn listeners_of(route: &HttpRoute) -> Vec<&str> {
    route.attachments.iter().map(|attachment| attachment.listener_key.as_str()).collect()
}

fn backends_of(route: &HttpRoute) -> Vec<&str> {
    let mut keys = Vec::new();
    for rule in &route.rules {
        keys.extend(backend_keys(&rule.filters));
        for backend in &rule.backends {
            keys.push(backend.backend_key.as_str());
            keys.extend(backend_keys(&backend.filters));
        }
    }
    keys
}

fn names(route: Option<&HttpRoute>, of: fn(&HttpRoute) -> Vec<&str>) -> BTreeSet<&str> {
    route.map(of).unwrap_or_default().into_iter().collect()
}

/// What a route named before and what it names now. `known` finds the string that others already have of a name.
fn relate(
    relation: &mut Relation,
    route: &Arc<str>,
    [before, after]: [BTreeSet<&str>; 2],
    known: impl Fn(&str) -> Option<Arc<str>>,
) {
    for &name in before.difference(&after) {
        relation.remove(&(Arc::from(name), route.clone()));
    }
    for &name in after.difference(&before) {
        relation.insert((known(name).unwrap_or_else(|| Arc::from(name)), route.clone()));
    }
}

fn related(set: &Relation, name: &str) -> Vec<Arc<str>> {
    let from: (Arc<str>, Arc<str>) = (Arc::from(name), Arc::from(""));
    set.range(from..).take_while(|(key, _)| **key == *name).map(|(_, route)| route.clone()).collect()
}

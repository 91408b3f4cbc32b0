//! Translation: which objects have to be looked at again, and in which order.
//!
//! Owns the memory of what was computed for each object, with what was read for it. A change makes exactly the objects
//! dirty that read what changed; a result that stays the same makes nothing else dirty. The order is that of
//! [`Kind`]: classes, Gateways, routes, then what routes use; statuses of Gateways come last, when all counts stand.
//!
//! Deliberately absent: the meaning of anything (the modules below), and any loop over all objects after the first call.

mod annotations;
mod backend;
mod class;
mod conflict;
mod contest;
mod der;
mod features;
pub(crate) mod finding;
mod frontend;
pub(crate) mod gateway;
mod grant;
mod hostname;
mod ingress;
pub(crate) mod listener;
pub(crate) mod listener_set;
mod look;
mod look_route;
mod memory;
mod parameters;
mod policy;
mod reading;
mod route;
mod territory;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use rustc_hash::FxHashMap;
use weir_api::kong::CONTROLLERS;
use weir_model::resource::{Body, Resource, Update};

use crate::diagnostic::Diagnostic;
use crate::objects::{Kind, Object, ObjectKey, Objects};
use crate::output::{GatewayNeed, Output, Status};
use class::ClassView;
use contest::Contests;
use finding::Finding;
use gateway::{Face, GatewayPlan};
use memory::{Counts, Dependencies};
use policy::PolicyPlan;
use route::RoutePlan;
use territory::Territories;
use tls::Materials;

/// Settings of a [`Translator`].
#[derive(Clone, Debug, Default)]
pub struct TranslateConfig {
    /// Names of Gateway API features for the status of GatewayClasses; empty: not written.
    pub supported_features: Vec<String>,
    /// What the data plane says of certificates and authorities; without it only what can be seen in them is judged.
    pub material_check: Option<MaterialCheck>,
    /// Fields of a GatewayConfiguration that whoever provisions obeys (`spec.dataPlaneOptions.deployment.replicas`): all
    /// others are said to be without effect.
    pub configuration_fields: &'static [&'static str],
    /// Ports that whoever serves listeners has for itself: a listener on one is refused.
    pub reserved_ports: &'static [ReservedPort],
}

/// A port for TCP that no listener can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedPort {
    pub port: u16,
    /// Who has it, as the listener's status says it after a colon.
    pub why: &'static str,
}

pub use tls::MaterialCheck;

pub use features::{Channel, FEATURES, supported_features};

impl TranslateConfig {
    /// Whether TLS that ends here and TLS that is passed on may share a port. What is not claimed is not done: the API has
    /// such listeners in conflict without the feature.
    fn has_mixed_tls(&self) -> bool {
        let features = &self.supported_features;
        features.is_empty() || features.iter().any(|feature| feature == "TLSRouteModeMixed")
    }
}

/// Turns objects into resources, statuses and diagnostics, a change at a time.
#[derive(Debug, Default)]
pub struct Translator {
    config: TranslateConfig,
    /// Classes are to be looked at again: their statuses claim other features, or others answer for them.
    classes_changed: bool,
    /// Names of ours that another controller answers for, each with how that is known.
    standing_back: BTreeMap<String, String>,
    /// Secrets and ConfigMaps about which time says something else than at the last call.
    turned: Vec<ObjectKey>,
    started: bool,
    /// The objects of the last call, to see what really changed.
    before: Objects,
    dependencies: Dependencies,
    classes: FxHashMap<ObjectKey, ClassView>,
    gateways: FxHashMap<ObjectKey, Box<GatewayPlan>>,
    territories: Territories,
    /// What routes see of each Gateway and ListenerSet.
    faces: FxHashMap<ObjectKey, Arc<Face>>,
    /// The Gateway that each ListenerSet is judged with.
    set_owners: FxHashMap<ObjectKey, ObjectKey>,
    default_gateways: BTreeSet<ObjectKey>,
    routes: FxHashMap<ObjectKey, RoutePlan>,
    contests: Contests,
    policies: FxHashMap<ObjectKey, PolicyPlan>,
    materials: Materials,
    needs: BTreeMap<ObjectKey, GatewayNeed>,
    counts: Counts,
    resources: OrdMap<String, Resource>,
    statuses: FxHashMap<ObjectKey, Status>,
    /// Statuses of routes and policies that have entries of ours from before this translator: told once nothing is waited
    /// for, because until then what takes them may not be judged, and entries of the living would go and come again.
    deferred: BTreeMap<ObjectKey, Status>,
    /// ListenerSets that a Gateway of ours had and nobody has taken since.
    orphans: BTreeSet<ObjectKey>,
    diagnostics: BTreeMap<ObjectKey, Vec<Diagnostic>>,
}

/// One call's work.
#[derive(Default)]
struct Step {
    /// In the order in which they are to be looked at.
    dirty: BTreeSet<ObjectKey>,
    /// Gateways and policies whose status may differ.
    restate: BTreeSet<ObjectKey>,
    /// Resources as they were when the step first touched them.
    touched: BTreeMap<String, Option<Resource>>,
    statuses: BTreeMap<ObjectKey, Status>,
    diagnostics: Vec<Diagnostic>,
    needs: BTreeMap<ObjectKey, Option<GatewayNeed>>,
    looked_at: usize,
}

impl Translator {
    pub fn new(config: TranslateConfig) -> Translator {
        let materials = Materials::new(config.material_check);
        Translator { config, materials, ..Translator::default() }
    }

    /// Names of features that the statuses of GatewayClasses claim from the next call on; empty: not written.
    pub fn set_supported_features(&mut self, features: Vec<String>) {
        if self.config.supported_features != features {
            self.config.supported_features = features;
            self.classes_changed = true;
        }
    }

    /// Controllers for which somebody else answers from the next call on: their classes and entries are none of ours. Each
    /// with how that is known, which the class is told.
    pub fn set_standing_back(&mut self, controllers: BTreeMap<String, String>) {
        if self.standing_back != controllers {
            self.standing_back = controllers;
            self.classes_changed = true;
        }
    }

    /// The time of day from the next call on, in seconds since the Unix epoch. Before the first of these, certificates and
    /// authorities are judged as if they were always valid.
    pub fn set_time(&mut self, now_seconds: i64) {
        self.turned.extend(self.materials.set_time(now_seconds));
    }

    /// The time at which a call would say something else though nothing changed: a certificate's validity begins or ends.
    pub fn next_turn(&self) -> Option<i64> {
        self.materials.next_turn()
    }

    /// `changed` names what was upserted, removed, confirmed absent, waived or given addresses since the last call;
    /// naming too much costs time only. The first call looks at everything.
    pub fn translate(&mut self, objects: &Objects, changed: &[ObjectKey]) -> Output {
        let mut step = Step::default();
        let first = !self.started;
        self.started = true;
        if first {
            step.dirty
                .extend(Kind::ALL.iter().flat_map(|kind| objects.of_kind(*kind)).map(|(key, _)| key.clone()));
            self.add_services_of_slices(objects, &mut step);
        } else {
            for key in changed {
                self.touch(objects, key, &mut step);
            }
            self.touch_settled(objects, &mut step);
        }
        self.touch_binds(objects, &mut step);
        for key in std::mem::take(&mut self.turned) {
            self.dependencies.mark_readers(&key, &mut step.dirty);
        }
        if std::mem::take(&mut self.classes_changed) {
            let kinds = [Kind::GatewayClass, Kind::Gateway];
            let all = kinds.into_iter().flat_map(|kind| objects.of_kind(kind));
            step.dirty.extend(all.map(|(key, _)| key.clone()));
        }
        loop {
            while let Some(key) = step.dirty.pop_first() {
                self.look_at(objects, &key, &mut step);
            }
            // What a route wants does not depend on whether it gets it, so this ends.
            let (changed, looked_at) = self.contests.settle();
            step.dirty = changed;
            step.looked_at += looked_at;
            if step.dirty.is_empty() {
                break;
            }
        }
        while let Some(key) = step.restate.pop_first() {
            if key.kind == Kind::Gateway {
                self.restate_gateway(objects, &key, &mut step);
            } else {
                self.restate_policy(objects, &key, &mut step);
            }
        }
        if self.dependencies.waits().len() == 0 {
            for (key, status) in std::mem::take(&mut self.deferred) {
                self.state(&key, status, &mut step);
            }
        }
        self.before = objects.clone();
        let (wants, waits) = self.dependencies.take_news(changed);
        self.finish(step, first, wants, waits)
    }

    /// Every resource, by key: what a data plane that knows nothing has to be given.
    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.resources.values()
    }

    /// Every finding that holds.
    pub fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.values().flatten()
    }

    /// Every status as it was last returned, in no particular order, for the object that `key` names.
    pub fn status(&self, key: &ObjectKey) -> Option<&Status> {
        self.statuses.get(key)
    }

    /// Every reference whose presence is Unknown.
    pub fn wants(&self) -> impl Iterator<Item = &ObjectKey> {
        self.dependencies.wants()
    }

    /// Everything that some rule waits for.
    pub fn waits(&self) -> impl ExactSizeIterator<Item = &ObjectKey> {
        self.dependencies.waits()
    }

    /// Whether anything that was translated reads this, whether it is there or not.
    pub fn is_read(&self, key: &ObjectKey) -> bool {
        self.dependencies.readers(key).next().is_some()
    }

    /// Every Gateway of our classes that is to be provided for.
    pub fn needs(&self) -> impl Iterator<Item = &GatewayNeed> {
        self.needs.values()
    }

    /// Marks what a change of `key` can matter to.
    fn touch(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        if objects.is_reborn(&self.before, key) {
            // Nothing has been said about this one yet.
            self.forget(key);
        }
        let (before, now) = (self.before.get(key), objects.get(key));
        // A target that is not there matters by what is known of its absence, which is not compared here.
        let readers_care = match (before, now) {
            (_, None) | (None, Some(_)) => true,
            (Some(before), Some(now)) => match (before, now) {
                (Object::Service(before), Object::Service(now)) => !backend::same_to_routes(before, now),
                (Object::Namespace(before), Object::Namespace(now)) => {
                    before.metadata.labels != now.metadata.labels
                }
                (Object::IngressClass(before), Object::IngressClass(now)) => before.spec != now.spec,
                // A ListenerSet that nobody takes says which class its Gateway asks for in vain.
                (Object::Gateway(before), Object::Gateway(now)) => {
                    before.spec.gateway_class_name != now.spec.gateway_class_name
                }
                (Object::Secret(before), Object::Secret(now)) => {
                    before.type_ != now.type_
                        || before.data != now.data
                        || before.session_keys != now.session_keys
                }
                (Object::ConfigMap(before), Object::ConfigMap(now)) => before.data != now.data,
                (Object::GatewayParameters(before), Object::GatewayParameters(now)) => {
                    before.spec != now.spec
                }
                // These have views of their own, or are read for their presence only.
                _ => false,
            },
        };
        if readers_care {
            self.dependencies.mark_readers(key, &mut step.dirty);
        }
        step.dirty.insert(key.clone());
        match key.kind {
            Kind::ReferenceGrant => {
                let all = ObjectKey::grants_of(key.namespace.clone());
                self.dependencies.mark_readers(&all, &mut step.dirty);
            }
            Kind::EndpointSlice => {
                for service in [before, now].into_iter().flatten().filter_map(service_of) {
                    step.dirty.insert(service);
                }
            }
            Kind::ListenerSet => {
                step.dirty.extend([before, now].into_iter().flatten().filter_map(Object::gateway_of_set));
            }
            Kind::BackendTlsPolicy | Kind::BackendTrafficPolicy | Kind::BackendPolicy => {
                for service in [before, now].into_iter().flatten().flat_map(Object::policy_targets) {
                    let all = ObjectKey::policies_of(key.kind, &service);
                    self.dependencies.mark_readers(&all, &mut step.dirty);
                    step.dirty.insert(service);
                }
            }
            Kind::Secret | Kind::ConfigMap => self.materials.forget(key),
            _ => {}
        }
    }

    /// A slice can come and go, or change its Service twice, between two calls: neither its old nor its new form names
    /// the Service then whose wait is over.
    fn touch_settled(&self, objects: &Objects, step: &mut Step) {
        for service in objects.settled_since(&self.before) {
            if self.before.awaits_slices(service) != objects.awaits_slices(service) {
                self.dependencies.mark_readers(service, &mut step.dirty);
            }
        }
    }

    fn add_services_of_slices(&self, objects: &Objects, step: &mut Step) {
        let services = objects.of_kind(Kind::EndpointSlice).filter_map(|(_, slice)| service_of(slice));
        step.dirty.extend(services);
    }

    /// Marks the Gateways whose binds say something new.
    fn touch_binds(&self, objects: &Objects, step: &mut Step) {
        let (before, now) = (self.before.binds(), objects.binds());
        if before.ptr_eq(now) {
            return;
        }
        for change in before.diff(now) {
            let (place, _) = match change {
                imbl::ordmap::DiffItem::Add(place, report)
                | imbl::ordmap::DiffItem::Remove(place, report)
                | imbl::ordmap::DiffItem::Update { new: (place, report), .. } => (place, report),
            };
            step.restate.extend(self.counts.gateways_at(place).cloned());
        }
    }

    fn look_at(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        step.looked_at += 1;
        match key.kind {
            Kind::GatewayClass => self.look_at_class(objects, key, step),
            Kind::Gateway => self.look_at_gateway(objects, key, step),
            Kind::ListenerSet => self.look_at_listener_set(objects, key, step),
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute => {
                self.look_at_route(objects, key, step);
            }
            Kind::BackendTlsPolicy | Kind::BackendTrafficPolicy | Kind::BackendPolicy => {
                self.look_at_policy(objects, key, step);
            }
            Kind::Service => self.look_at_service(objects, key, step),
            Kind::GatewayConfiguration => self.look_at_configuration(objects, key, step),
            Kind::GatewayParameters => self.look_at_parameters(objects, key, step),
            Kind::Ingress => self.look_at_ingress(objects, key, step),
            Kind::ReferenceGrant
            | Kind::EndpointSlice
            | Kind::Namespace
            | Kind::Secret
            | Kind::ConfigMap
            | Kind::IngressClass => {}
        }
    }

    /// Sets or removes a resource.
    fn put(&mut self, key: &str, body: Option<Body>, step: &mut Step) {
        let now = body.map(|body| Resource { body: Some(body) });
        let before = self.resources.get(key);
        if before == now.as_ref() {
            return;
        }
        step.touched.entry(key.to_owned()).or_insert_with(|| before.cloned());
        match now {
            Some(resource) => self.resources.insert(key.to_owned(), resource),
            None => self.resources.remove(key),
        };
    }

    /// Swaps the certificates and authorities that an object's resources name; others may name them too.
    fn hold(&mut self, before: &BTreeMap<String, Body>, now: &BTreeMap<String, Body>, step: &mut Step) {
        for (key, body) in now.iter().filter(|(key, _)| !before.contains_key(*key)) {
            if self.counts.hold(key) {
                self.put(key, Some(body.clone()), step);
            }
        }
        for key in before.keys().filter(|key| !now.contains_key(*key)) {
            if self.counts.drop_hold(key) {
                self.put(key, None, step);
            }
        }
    }

    fn state(&mut self, key: &ObjectKey, status: Status, step: &mut Step) {
        self.deferred.remove(key);
        if self.statuses.get(key) != Some(&status) {
            step.statuses.insert(key.clone(), status.clone());
            self.statuses.insert(key.clone(), status);
        }
    }

    /// Says which entries of ours the status of a route or policy is to have, if there are any or were.
    fn state_entries(
        &mut self,
        key: &ObjectKey,
        object: &Object,
        is_empty: bool,
        status: Status,
        step: &mut Step,
    ) {
        let is_known = self.statuses.contains_key(key);
        let is_ours = |name: &&str| CONTROLLERS.contains(name) && !self.standing_back.contains_key(*name);
        let has_entries = object.status_controllers().iter().any(is_ours);
        if has_entries && !is_known && self.dependencies.waits().len() > 0 {
            self.deferred.insert(key.clone(), status);
        } else if !is_empty || has_entries || is_known {
            self.state(key, status, step);
        }
    }

    /// Replaces the findings about an object; only those that are new are told.
    fn diagnose(&mut self, key: &ObjectKey, findings: Vec<Finding>, step: &mut Step) {
        let mut now: Vec<Diagnostic> = findings.into_iter().map(|finding| finding.diagnostic(key)).collect();
        now.sort();
        now.dedup();
        let before = self.diagnostics.remove(key).unwrap_or_default();
        step.diagnostics.extend(now.iter().filter(|diagnostic| !before.contains(diagnostic)).cloned());
        if !now.is_empty() {
            self.diagnostics.insert(key.clone(), now);
        }
    }

    fn provide(&mut self, key: &ObjectKey, need: Option<GatewayNeed>, step: &mut Step) {
        if self.needs.get(key) == need.as_ref() {
            return;
        }
        step.needs.insert(key.clone(), need.clone());
        match need {
            Some(need) => self.needs.insert(key.clone(), need),
            None => self.needs.remove(key),
        };
    }

    /// Nothing is to be said about an object any more.
    fn forget(&mut self, key: &ObjectKey) {
        self.statuses.remove(key);
        self.deferred.remove(key);
        self.diagnostics.remove(key);
    }

    fn finish(&self, step: Step, first: bool, wants: Vec<ObjectKey>, waits: Vec<ObjectKey>) -> Output {
        let mut update = Update { full: first, ..Update::default() };
        for (key, before) in step.touched {
            match self.resources.get(&key) {
                now if now == before.as_ref() => {}
                Some(resource) => update.upserts.push(resource.clone()),
                None => update.removals.push(key),
            }
        }
        let mut output = Output {
            update,
            statuses: step.statuses.into_iter().collect(),
            diagnostics: step.diagnostics,
            wants,
            waits,
            looked_at: step.looked_at,
            ..Output::default()
        };
        output.diagnostics.sort();
        for (key, need) in step.needs {
            match need {
                Some(need) => output.gateways.push(need),
                None => output.released.push(key),
            }
        }
        output
    }
}

/// The Service that a slice belongs to.
fn service_of(object: &Object) -> Option<ObjectKey> {
    match object {
        Object::EndpointSlice(slice) => {
            Some(ObjectKey::new(Kind::Service, slice.metadata.namespace.clone(), slice.service()?))
        }
        _ => None,
    }
}

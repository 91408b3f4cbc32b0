//! Translation: which objects have to be looked at again, and in which order.
//!
//! Owns the memory of what was computed for each object, with what was read for it. A change makes exactly the objects
//! dirty that read what changed; a result that stays the same makes nothing else dirty. The order is that of
//! [`Kind`]: classes, Gateways, routes, then what routes use; statuses of Gateways come last, when all counts stand.
//!
//! Deliberately absent: the meaning of anything (the modules below), and any loop over all objects after the first call.

mod attach;
mod backend;
mod class;
mod filter;
pub(crate) mod finding;
pub(crate) mod gateway;
mod grant;
mod hostname;
mod ingress;
pub(crate) mod listener;
mod matching;
mod memory;
mod reading;
mod route;
mod rule;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use rustc_hash::FxHashMap;
use weir_api::gateway::Gateway;
use weir_api::kong::CONTROLLERS;
use weir_model::resource::{Body, Resource, Update};

use crate::diagnostic::Diagnostic;
use crate::objects::{Kind, Object, ObjectKey, Objects, Presence};
use crate::output::{GatewayNeed, Output, Status};
use crate::status::{self, Surroundings};
use class::{ClassView, Verdict};
use finding::Finding;
use gateway::{GatewayPlan, Planned};
use memory::{Counts, Dependencies};
use reading::{Reading, Unknown};
use route::RoutePlan;

/// Settings of a [`Translator`].
#[derive(Clone, Debug, Default)]
pub struct TranslateConfig {
    /// Names of Gateway API features for the status of GatewayClasses; empty: not written.
    pub supported_features: Vec<String>,
}

/// Features of Gateway API v1.6 that translation and data plane have.
pub const SUPPORTED_FEATURES: [&str; 20] = [
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayHTTPListenerIsolation",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
];

/// Turns objects into resources, statuses and diagnostics, a change at a time.
#[derive(Debug, Default)]
pub struct Translator {
    config: TranslateConfig,
    started: bool,
    /// The objects of the last call, to see what really changed.
    before: Objects,
    dependencies: Dependencies,
    classes: FxHashMap<ObjectKey, ClassView>,
    gateways: FxHashMap<ObjectKey, Box<GatewayPlan>>,
    routes: FxHashMap<ObjectKey, RoutePlan>,
    needs: BTreeMap<ObjectKey, GatewayNeed>,
    counts: Counts,
    resources: OrdMap<String, Resource>,
    statuses: FxHashMap<ObjectKey, Status>,
    diagnostics: BTreeMap<ObjectKey, Vec<Diagnostic>>,
}

/// One call's work.
#[derive(Default)]
struct Step {
    /// In the order in which they are to be looked at.
    dirty: BTreeSet<ObjectKey>,
    /// Gateways whose status may differ.
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
        Translator { config, ..Translator::default() }
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
        while let Some(key) = step.dirty.pop_first() {
            self.look_at(objects, &key, &mut step);
        }
        while let Some(key) = step.restate.pop_first() {
            self.restate_gateway(objects, &key, &mut step);
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
    pub fn waits(&self) -> impl Iterator<Item = &ObjectKey> {
        self.dependencies.waits()
    }

    /// Every Gateway of our classes that is to be provided for.
    pub fn needs(&self) -> impl Iterator<Item = &GatewayNeed> {
        self.needs.values()
    }

    /// Marks what a change of `key` can matter to.
    fn touch(&self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
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
            Kind::HttpRoute => self.look_at_route(objects, key, step),
            Kind::Service => self.look_at_service(objects, key, step),
            Kind::GatewayConfiguration => self.look_at_configuration(objects, key, step),
            Kind::Ingress => self.look_at_ingress(objects, key, step),
            Kind::ReferenceGrant | Kind::EndpointSlice | Kind::Namespace | Kind::IngressClass => {}
        }
    }

    fn look_at_class(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        let mut reading = Reading::new(objects, key);
        let object = objects.gateway_class(&key.name);
        let view = object.and_then(|class| class::view(class, &mut reading));
        // The configurations that were read, and those that now are, may say something else about their use.
        let configurations: Vec<ObjectKey> =
            self.dependencies.reads(key).chain(&reading.seen.reads).cloned().collect();
        step.dirty.extend(configurations);
        self.dependencies.set(key, reading.seen);
        if self.classes.get(key) != view.as_ref() {
            self.dependencies.mark_readers(key, &mut step.dirty);
        }
        let stated = match (object, &view) {
            (Some(class), Some(view)) => class::status(class, view, &self.config.supported_features),
            _ => None,
        };
        let is_pending = matches!(&view, Some(view) if view.verdict == Verdict::Pending);
        match view {
            Some(view) => self.classes.insert(key.clone(), view),
            None => self.classes.remove(key),
        };
        match stated {
            Some((status, findings)) => {
                self.state(key, Status::GatewayClass(status), step);
                self.diagnose(key, findings, step);
            }
            None if is_pending => {}
            None => self.forget(key),
        }
    }

    fn look_at_gateway(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        let mut reading = Reading::new(objects, key);
        let planned = match objects.gateway(key) {
            Some(gateway) => self.plan_gateway(objects, key, gateway, &mut reading),
            None => Planned::NotOurs(Vec::new()),
        };
        let configurations: Vec<ObjectKey> = self
            .dependencies
            .reads(key)
            .chain(&reading.seen.reads)
            .filter(|read| read.kind == Kind::GatewayConfiguration)
            .cloned()
            .collect();
        step.dirty.extend(configurations);
        self.dependencies.set(key, reading.seen);
        let (plan, findings) = match planned {
            Planned::Pending => return,
            Planned::NotOurs(findings) => (None, findings),
            Planned::Ours(plan) => (Some(plan), Vec::new()),
        };
        let before = self.gateways.remove(key);
        let face_changed = before.as_ref().map(|plan| &plan.face) != plan.as_ref().map(|plan| &plan.face);
        if face_changed {
            self.dependencies.mark_readers(key, &mut step.dirty);
        }
        self.replace_listeners(key, before.as_deref(), plan.as_deref(), step);
        let need = plan.as_ref().and_then(|plan| plan.need.clone());
        self.provide(key, need, step);
        match plan {
            Some(plan) => {
                self.gateways.insert(key.clone(), plan);
                step.restate.insert(key.clone());
            }
            None => {
                self.statuses.remove(key);
                self.diagnose(key, findings, step);
            }
        }
    }

    fn plan_gateway(
        &self,
        objects: &Objects,
        key: &ObjectKey,
        gateway: &Gateway,
        reading: &mut Reading<'_>,
    ) -> Planned {
        let name = &gateway.spec.gateway_class_name;
        let class_key = ObjectKey::new(Kind::GatewayClass, "", name);
        match reading.presence(&class_key, Unknown::Holds) {
            Presence::Present => {}
            Presence::Unknown => return Planned::Pending,
            Presence::Absent => {
                let message = format!("there is no GatewayClass {name}, so nobody serves the Gateway");
                return Planned::NotOurs(vec![Finding::error(
                    "spec.gatewayClassName",
                    "GatewayClassNotFound",
                    message,
                )]);
            }
        }
        match self.classes.get(&class_key) {
            Some(class) => gateway::plan(key, gateway, class, objects.addresses(key), reading),
            None => Planned::NotOurs(Vec::new()),
        }
    }

    /// Swaps the resources of a Gateway's listeners, and where it is known to listen.
    fn replace_listeners(
        &mut self,
        key: &ObjectKey,
        before: Option<&GatewayPlan>,
        plan: Option<&GatewayPlan>,
        step: &mut Step,
    ) {
        let old = before.map(|plan| plan.resources(key)).unwrap_or_default();
        let new = plan.map(|plan| plan.resources(key)).unwrap_or_default();
        if old == new {
            return;
        }
        for (resource_key, listener) in &old {
            step.restate.extend(self.counts.leave(key, listener));
            if !new.contains_key(resource_key) {
                self.put(resource_key, None, step);
            }
        }
        for (resource_key, listener) in new {
            step.restate.extend(self.counts.join(key, &listener));
            self.put(&resource_key, Some(Body::Listener(listener)), step);
        }
    }

    fn look_at_route(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        let mut reading = Reading::new(objects, key);
        let object = objects.http_route(key);
        let gateways = &self.gateways;
        let face_of = |gateway: &ObjectKey| gateways.get(gateway).map(|plan| Arc::clone(&plan.face));
        let plan = object.map(|route| route::plan(key, route, &face_of, &mut reading));
        let is_held = !reading.seen.waits.is_empty();
        self.dependencies.set(key, reading.seen);
        if is_held {
            return;
        }
        let before = self.routes.remove(key).unwrap_or_default();
        let mut now = plan.unwrap_or_default();
        for (gateway, section) in before.counted.difference(&now.counted) {
            self.counts.detach(gateway, section);
            step.restate.insert(gateway.clone());
        }
        for (gateway, section) in now.counted.difference(&before.counted) {
            self.counts.attach(gateway, section);
            step.restate.insert(gateway.clone());
        }
        for (service, port) in before.backends.difference(&now.backends) {
            if self.counts.release(service, *port) {
                step.dirty.insert(service.clone());
            }
        }
        for (service, port) in now.backends.difference(&before.backends) {
            if self.counts.use_port(service, *port) {
                step.dirty.insert(service.clone());
            }
        }
        if before.resource != now.resource {
            let resource_key = format!("httproute/{}/{}", key.namespace, key.name);
            self.put(&resource_key, now.resource.clone().map(Body::HttpRoute), step);
        }
        let Some(route) = object else {
            self.forget(key);
            return;
        };
        let has_entries =
            route.status.parents.iter().any(|p| CONTROLLERS.contains(&p.controller_name.as_str()));
        if !now.statuses.is_empty() || has_entries || self.statuses.contains_key(key) {
            self.state(key, Status::HttpRoute(std::mem::take(&mut now.statuses)), step);
        }
        self.diagnose(key, std::mem::take(&mut now.findings), step);
        self.routes.insert(key.clone(), now);
    }

    fn look_at_service(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        for port in self.counts.ports(key) {
            let path = format!("{}/{}/{port}", key.namespace, key.name);
            let used = self.counts.uses(key, port);
            let resources = if used { backend::resources(objects, key, port) } else { None };
            let (backend, endpoints) = resources.unzip();
            self.put(&format!("backend/{path}"), backend.map(Body::Backend), step);
            self.put(&format!("endpoints/{path}"), endpoints.map(Body::Endpoints), step);
        }
    }

    fn look_at_configuration(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        let in_use = self
            .dependencies
            .readers(key)
            .any(|reader| self.classes.contains_key(reader) || self.gateways.contains_key(reader));
        match objects.gateway_configuration(key).filter(|_| in_use) {
            Some(configuration) => {
                let (status, findings) = class::configuration_status(configuration);
                self.state(key, Status::GatewayConfiguration(status), step);
                self.diagnose(key, findings, step);
            }
            None => self.forget(key),
        }
    }

    fn look_at_ingress(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        let mut reading = Reading::new(objects, key);
        let findings = match objects.get(key) {
            Some(Object::Ingress(ingress)) => ingress::findings(ingress, &mut reading),
            _ => Vec::new(),
        };
        self.dependencies.set(key, reading.seen);
        self.diagnose(key, findings, step);
    }

    fn restate_gateway(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        let Some(plan) = self.gateways.get(key) else {
            return;
        };
        let around = Surroundings {
            attached: self.counts.attached(key),
            binds: objects.binds(),
            neighbours: plan
                .resources(key)
                .values()
                .filter_map(|listener| {
                    let others = status::neighbours(self.counts.equals(listener), key);
                    (!others.is_empty()).then(|| (listener.section.clone(), others))
                })
                .collect(),
        };
        let (status, mut findings) = status::gateway_status(plan, &around);
        findings.extend(plan.findings.iter().cloned());
        self.state(key, Status::Gateway(status), step);
        self.diagnose(key, findings, step);
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

    fn state(&mut self, key: &ObjectKey, status: Status, step: &mut Step) {
        if self.statuses.get(key) != Some(&status) {
            step.statuses.insert(key.clone(), status.clone());
            self.statuses.insert(key.clone(), status);
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

//! Looking at one route, policy or Service again.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_model::resource::Body;

use super::annotations;
use super::backend::Form;
use super::gateway::Face;
use super::policy;
use super::reading::Reading;
use super::route::{self, ListenerId, Neighbourhood, RoutePlan};
use super::{Step, Translator, backend};
use crate::objects::{Kind, Object, ObjectKey, Objects};
use crate::output::Status;

/// What a route sees of what was computed for others.
struct View<'a> {
    translator: &'a Translator,
    route: &'a ObjectKey,
}

impl Neighbourhood for View<'_> {
    fn face(&self, key: &ObjectKey) -> Option<Arc<Face>> {
        self.translator.faces.get(key).cloned()
    }

    fn default_gateways(&self) -> Vec<ObjectKey> {
        self.translator.default_gateways.iter().cloned().collect()
    }

    fn rival(&self, listener: &ListenerId) -> Option<ObjectKey> {
        self.translator.contests.rival(self.route, listener).cloned()
    }
}

impl Translator {
    pub(super) fn look_at_route(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        let mut reading = Reading::new(objects, key);
        let object = objects.get(key);
        let view = View { translator: self, route: key };
        let plan = object.and_then(|route| route::plan(key, route, &view, &mut reading));
        let is_held = !reading.seen.waits.is_empty();
        self.dependencies.set(key, reading.seen);
        if is_held {
            return;
        }
        let before = self.routes.remove(key).unwrap_or_default();
        let mut now = plan.unwrap_or_default();
        self.contend(key, object, &before, &now);
        self.count(objects, &before, &now, step);
        if before.resource != now.resource
            && let Some(resource_key) = key.route_resource()
        {
            self.put(&resource_key, now.resource.clone(), step);
        }
        let Some(object) = object else {
            self.forget(key);
            return;
        };
        let statuses = std::mem::take(&mut now.statuses);
        self.state_entries(key, object, statuses.is_empty(), Status::Route(statuses), step);
        self.diagnose(key, std::mem::take(&mut now.findings), step);
        self.routes.insert(key.clone(), now);
    }

    /// Says what the route wants of which listener.
    fn contend(&mut self, key: &ObjectKey, object: Option<&Object>, before: &RoutePlan, now: &RoutePlan) {
        for listener in before.claims.keys().filter(|listener| !now.claims.contains_key(*listener)) {
            self.contests.claim(key, listener, None);
        }
        let created = object.and_then(|object| object.metadata().creation_timestamp).map_or(0, |at| at.0);
        for (listener, hostnames) in &now.claims {
            self.contests.claim(key, listener, Some((created, hostnames)));
        }
    }

    /// Swaps what the route counts for.
    fn count(&mut self, objects: &Objects, before: &RoutePlan, now: &RoutePlan, step: &mut Step) {
        for (owner, section) in before.counted.difference(&now.counted) {
            self.counts.detach(owner, section);
            step.restate.insert(self.gateway_of(owner));
        }
        for (owner, section) in now.counted.difference(&before.counted) {
            self.counts.attach(owner, section);
            step.restate.insert(self.gateway_of(owner));
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
        let (old, new) = (before.used_by(), now.used_by());
        for (service, ancestor) in old.difference(&new) {
            if self.counts.lead_away(service, ancestor) {
                step.restate.extend(policies_of(objects, service));
            }
        }
        for (service, ancestor) in new.difference(&old) {
            if self.counts.lead_to(service, ancestor) {
                step.restate.extend(policies_of(objects, service));
            }
        }
    }

    /// The Gateway whose status counts for a Gateway or ListenerSet.
    fn gateway_of(&self, owner: &ObjectKey) -> ObjectKey {
        self.set_owners.get(owner).unwrap_or(owner).clone()
    }

    pub(super) fn look_at_service(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        let mut is_used = false;
        for port in self.counts.ports(key) {
            let path = port.path(key);
            let used = self.counts.uses(key, port);
            is_used |= used;
            let resources = if used { backend::resources(objects, key, port) } else { None };
            let (backend, endpoints) = match resources {
                None => (None, None),
                Some((mut backend, endpoints, port_name)) => {
                    let plan_of = |policy: &ObjectKey| self.policies.get(policy);
                    let datagrams = port.form == Form::Udp;
                    policy::apply(&mut backend, datagrams, key, &port_name, objects, &plan_of);
                    (Some(backend), Some(endpoints))
                }
            };
            self.put(&format!("backend/{path}"), backend.map(Body::Backend), step);
            self.put(&format!("endpoints/{path}"), endpoints.map(Body::Endpoints), step);
        }
        let service = objects.service(key).filter(|_| is_used);
        let findings = service.map(|service| annotations::of_backend(&service.metadata)).unwrap_or_default();
        self.diagnose(key, findings, step);
    }

    pub(super) fn look_at_policy(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        let mut reading = Reading::new(objects, key);
        let object = objects.get(key);
        let plan = object.and_then(|policy| policy::plan(key, policy, &mut self.materials, &mut reading));
        let is_held = !reading.seen.waits.is_empty();
        self.dependencies.set(key, reading.seen);
        if is_held {
            return;
        }
        let before = self.policies.remove(key);
        if let Some(plan) = plan.as_ref().filter(|_| before == plan) {
            // Another object may have come in its place, of which nothing has been said.
            self.diagnose(key, plan.findings.clone(), step);
            self.policies.extend(before.map(|plan| (key.clone(), plan)));
            step.restate.insert(key.clone());
            return;
        }
        let bundles = |plan: Option<&policy::PolicyPlan>| -> BTreeMap<String, Body> {
            plan.into_iter()
                .flat_map(|plan| &plan.bundles)
                .map(|bundle| (bundle.key.clone(), Body::CaBundle((**bundle).clone())))
                .collect()
        };
        self.hold(&bundles(before.as_ref()), &bundles(plan.as_ref()), step);
        for services in
            [before.as_ref(), plan.as_ref()].into_iter().flatten().map(policy::PolicyPlan::services)
        {
            step.dirty.extend(services.cloned());
        }
        match plan {
            Some(plan) => {
                self.diagnose(key, plan.findings.clone(), step);
                self.policies.insert(key.clone(), plan);
                step.restate.insert(key.clone());
            }
            None => self.forget(key),
        }
    }

    pub(super) fn restate_policy(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        let (Some(object), Some(plan)) = (objects.get(key), self.policies.get(key)) else {
            return;
        };
        let status = plan.status(&|service| self.counts.ancestors(service));
        self.state_entries(key, object, status.is_empty(), Status::Policy(status), step);
    }
}

fn policies_of<'a>(objects: &'a Objects, service: &'a ObjectKey) -> impl Iterator<Item = ObjectKey> + 'a {
    Kind::POLICIES
        .into_iter()
        .flat_map(move |kind| objects.members(service, kind))
        .map(|(key, _)| key.clone())
}

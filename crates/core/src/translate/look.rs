//! Looking at one class, Gateway, ListenerSet, configuration or Ingress again.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_api::gateway_api::Gateway;
use weir_model::resource::Body;

use super::class::{self, Verdict};
use super::finding::Finding;
use super::gateway::{self, Face, GatewayPlan, Planned};
use super::ingress;
use super::parameters;
use super::policy::ANCESTORS_MAX;
use super::reading::{Reading, Unknown};
use super::{Step, Translator};
use crate::objects::{Kind, Object, ObjectKey, Objects, Presence};
use crate::output::Status;
use crate::status::{self, Surroundings};

/// Who has a set that no Gateway of ours has.
enum Parent {
    /// Another controller.
    Theirs,
    /// The Gateway that it names has no controller; why.
    Nobody(ObjectKey, String),
    Unknown,
}

impl Translator {
    pub(super) fn look_at_class(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        let mut reading = Reading::new(objects, key);
        let object = objects.gateway_class(&key.name);
        let rival = object.and_then(|class| self.standing_back.get(&class.spec.controller_name).cloned());
        let object = object.filter(|_| rival.is_none());
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
            None => {
                self.forget(key);
                let said = rival.map(|rival| {
                    let message = format!("Weir leaves this class alone: {rival}");
                    Finding::info("spec.controllerName", "StandingBack", message)
                });
                self.diagnose(key, said.into_iter().collect(), step);
            }
        }
    }

    pub(super) fn look_at_gateway(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        let mut reading = Reading::new(objects, key);
        let planned = match objects.gateway(key) {
            Some(gateway) => self.plan_gateway(gateway, key, &mut reading),
            None => Planned::NotOurs(Vec::new()),
        };
        let configurations: Vec<ObjectKey> = self
            .dependencies
            .reads(key)
            .chain(&reading.seen.reads)
            .filter(|read| matches!(read.kind, Kind::GatewayConfiguration | Kind::GatewayParameters))
            .cloned()
            .collect();
        step.dirty.extend(configurations);
        let is_held = !reading.seen.waits.is_empty();
        self.dependencies.set(key, reading.seen);
        let (plan, findings) = match planned {
            Planned::Pending => return,
            _ if is_held => return,
            Planned::NotOurs(findings) => (None, findings),
            Planned::Ours(plan) => (Some(plan), Vec::new()),
        };
        let plan = self.settle_with_others(objects, key, plan, step);
        let before = self.gateways.remove(key);
        self.show_faces(key, before.as_deref(), plan.as_deref(), step);
        let empty = BTreeMap::new();
        let materials =
            |plan: Option<&GatewayPlan>| plan.map_or(empty.clone(), |plan| plan.materials.clone());
        self.hold(&materials(before.as_deref()), &materials(plan.as_deref()), step);
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

    fn plan_gateway(&mut self, gateway: &Gateway, key: &ObjectKey, reading: &mut Reading<'_>) -> Planned {
        let name = &gateway.spec.gateway_class_name;
        let class_key = ObjectKey::new(Kind::GatewayClass, "", name);
        match reading.presence(&class_key, Unknown::Holds) {
            Presence::Present => {}
            Presence::Unknown => return Planned::Pending,
            Presence::Absent => return self.plan_without_class(gateway, key, reading),
        }
        match self.classes.get(&class_key) {
            Some(class) => gateway::plan(key, gateway, class, &mut self.materials, &self.config, reading),
            None => Planned::NotOurs(Vec::new()),
        }
    }

    /// A Gateway that runs goes on as its class last was, so that whoever deletes a class (an uninstallation does) takes no traffic away;
    /// one that is new is nobody's.
    fn plan_without_class(
        &mut self,
        gateway: &Gateway,
        key: &ObjectKey,
        reading: &mut Reading<'_>,
    ) -> Planned {
        let name = &gateway.spec.gateway_class_name;
        let runs = reading.objects.addresses(key).is_some();
        let last = reading.objects.template(name).filter(|_| runs);
        let last = last.filter(|class| !self.standing_back.contains_key(&class.spec.controller_name));
        let finding = |message: &str| {
            let message = format!("there is no GatewayClass {name}, {message}");
            Finding::error("spec.gatewayClassName", "GatewayClassNotFound", message)
        };
        let Some(class) = last.and_then(|class| class::view(class, reading)) else {
            return Planned::NotOurs(vec![finding("so nobody serves the Gateway")]);
        };
        let mut planned = gateway::plan(key, gateway, &class, &mut self.materials, &self.config, reading);
        if let Planned::Ours(plan) = &mut planned {
            plan.findings.push(finding("the Gateway goes on as the class last was"));
        }
        planned
    }

    /// Takes from a Gateway what others at its addresses have before it; who has something else now is looked at again.
    fn settle_with_others(
        &mut self,
        objects: &Objects,
        key: &ObjectKey,
        mut plan: Option<Box<GatewayPlan>>,
        step: &mut Step,
    ) -> Option<Box<GatewayPlan>> {
        let wanted = plan.as_ref().map(|plan| plan.resources(key)).unwrap_or_default();
        let created = objects.gateway(key).and_then(|gateway| gateway.metadata.creation_timestamp);
        let moved = self.territories.claim(key, created.map_or(0, |at| at.0), wanted.values());
        step.dirty.extend(moved);
        if let Some(plan) = &mut plan {
            plan.give_up(|keys| self.territories.conflict(key, keys).cloned());
        }
        plan
    }

    /// Swaps what routes see of a Gateway and its sets; who sees something else is looked at again.
    fn show_faces(
        &mut self,
        key: &ObjectKey,
        before: Option<&GatewayPlan>,
        plan: Option<&GatewayPlan>,
        step: &mut Step,
    ) {
        let faces = |plan: Option<&GatewayPlan>| -> BTreeMap<ObjectKey, Arc<Face>> {
            let own = plan.map(|plan| (key.clone(), Arc::clone(&plan.face)));
            let sets = plan.into_iter().flat_map(|plan| &plan.sets);
            own.into_iter().chain(sets.map(|set| (set.key.clone(), Arc::clone(&set.face)))).collect()
        };
        let (old, new) = (faces(before), faces(plan));
        let is_default = new.get(key).is_some_and(|face| face.is_default);
        let was_default = if is_default {
            !self.default_gateways.insert(key.clone())
        } else {
            self.default_gateways.remove(key)
        };
        if was_default != is_default {
            self.dependencies.mark_readers(&ObjectKey::default_gateways(), &mut step.dirty);
        }
        for owner in old.keys().filter(|owner| !new.contains_key(*owner)) {
            // A set may be another Gateway's by now.
            if owner == key || self.set_owners.get(owner) == Some(key) {
                self.faces.remove(owner);
                self.dependencies.mark_readers(owner, &mut step.dirty);
            }
            if self.set_owners.get(owner) == Some(key) {
                self.set_owners.remove(owner);
                self.orphans.insert(owner.clone());
                self.forget(owner);
                step.dirty.insert(owner.clone());
            }
        }
        for (owner, face) in new {
            if owner != *key {
                self.set_owners.insert(owner.clone(), key.clone());
            }
            let before = self.faces.insert(owner.clone(), Arc::clone(&face));
            if before.as_ref() != Some(&face) {
                self.dependencies.mark_readers(&owner, &mut step.dirty);
            }
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

    /// A set that no Gateway of ours judges, unless one does.
    pub(super) fn look_at_listener_set(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        let mut reading = Reading::new(objects, key);
        let mut findings = Vec::new();
        let object = objects.get(key);
        let parent = object.map_or(Parent::Theirs, |set| self.parent_of_set(set, &mut reading));
        if let Parent::Nobody(gateway, message) = &parent
            && !objects.is_in(gateway)
        {
            findings.push(Finding::error("spec.parentRef", "GatewayNotFound", message.clone()));
        }
        self.dependencies.set(key, reading.seen);
        let Some(object) = object else {
            self.orphans.remove(key);
            self.forget(key);
            return;
        };
        if self.set_owners.contains_key(key) {
            self.orphans.remove(key);
            return;
        }
        self.diagnose(key, findings, step);
        match parent {
            Parent::Nobody(_, message) if self.orphans.contains(key) => {
                let status = status::orphan_status(&message, object.metadata().generation);
                self.state(key, Status::ListenerSet(status), step);
            }
            Parent::Theirs => {
                self.orphans.remove(key);
                self.statuses.remove(key);
            }
            Parent::Nobody(..) | Parent::Unknown => {}
        }
    }

    /// Who judges a set, as far as that is not a Gateway of ours.
    fn parent_of_set(&self, set: &Object, reading: &mut Reading<'_>) -> Parent {
        let Some(key) = set.gateway_of_set() else {
            return Parent::Theirs;
        };
        let objects = reading.objects;
        match reading.presence(&key, Unknown::Passes) {
            Presence::Unknown => return Parent::Unknown,
            Presence::Absent => {
                let message = format!("there is no {key}, so nothing serves the ListenerSet");
                return Parent::Nobody(key, message);
            }
            Presence::Present => {}
        }
        let class = objects.gateway(&key).map_or("", |gateway| &gateway.spec.gateway_class_name);
        let class = ObjectKey::new(Kind::GatewayClass, "", class);
        match reading.presence(&class, Unknown::Passes) {
            Presence::Absent => {
                let message = format!("there is no {class}, so nobody serves {key}");
                Parent::Nobody(key, message)
            }
            // One of ours is still to judge the Gateway.
            Presence::Present if !self.classes.contains_key(&class) => Parent::Theirs,
            Presence::Present | Presence::Unknown => Parent::Unknown,
        }
    }

    pub(super) fn look_at_configuration(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        let in_use = self
            .dependencies
            .readers(key)
            .any(|reader| self.classes.contains_key(reader) || self.gateways.contains_key(reader));
        match objects.gateway_configuration(key).filter(|_| in_use) {
            Some(configuration) => {
                let (status, findings) =
                    class::configuration_status(configuration, self.config.configuration_fields);
                self.state(key, Status::GatewayConfiguration(status), step);
                self.diagnose(key, findings, step);
            }
            None => self.forget(key),
        }
    }

    pub(super) fn look_at_parameters(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        let mut reading = Reading::new(objects, key);
        let object = objects.gateway_parameters(key);
        let read = object.map(|object| parameters::read(key, object, &mut reading));
        let is_held = !reading.seen.waits.is_empty();
        self.dependencies.set(key, reading.seen);
        if is_held {
            return;
        }
        let (Some(object), Some(read)) = (object, read) else {
            self.forget(key);
            return;
        };
        let user = |reader: &ObjectKey| match reader.kind {
            Kind::GatewayClass => Some((reader.clone(), self.classes.get(reader)?.controller.clone())),
            Kind::Gateway => Some((reader.clone(), self.gateways.get(reader)?.face.controller.clone())),
            _ => None,
        };
        let users: Vec<_> = self.dependencies.readers(key).filter_map(user).take(ANCESTORS_MAX).collect();
        let status = parameters::status(object.metadata.generation, &read, users);
        self.state(key, Status::GatewayParameters(status), step);
        self.diagnose(key, read.faults, step);
    }

    pub(super) fn look_at_ingress(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        let mut reading = Reading::new(objects, key);
        let findings = match objects.get(key) {
            Some(Object::Ingress(ingress)) => ingress::findings(ingress, &mut reading),
            _ => Vec::new(),
        };
        self.dependencies.set(key, reading.seen);
        self.diagnose(key, findings, step);
    }

    pub(super) fn restate_gateway(&mut self, objects: &Objects, key: &ObjectKey, step: &mut Step) {
        let Some(plan) = self.gateways.get(key) else {
            return;
        };
        let attached = |owner: &ObjectKey| self.counts.attached(owner);
        let around = Surroundings {
            attached: &attached,
            binds: objects.binds(),
            neighbours: plan
                .resources(key)
                .into_iter()
                .filter_map(|(resource_key, listener)| {
                    let others = status::neighbours(self.counts.equals(&listener), key);
                    (!others.is_empty()).then_some((resource_key, others))
                })
                .collect(),
        };
        let (status, mut findings) = status::gateway_status(key, plan, &around);
        findings.extend(plan.findings.iter().cloned());
        let mut stated = vec![(key.clone(), Status::Gateway(status), findings)];
        for set in &plan.sets {
            let (status, mut findings) = status::set_status(plan, set, &around);
            findings.extend(set.findings.iter().cloned());
            stated.push((set.key.clone(), Status::ListenerSet(status), findings));
        }
        for (key, status, findings) in stated {
            self.state(&key, status, step);
            self.diagnose(&key, findings, step);
        }
    }
}

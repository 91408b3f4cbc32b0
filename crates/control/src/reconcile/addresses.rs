//! Between translation and provisioning: needs of Gateways to addresses, and what there is to show of them.
//!
//! Invariant: a choice is made between a translation and the one that uses it, without waiting for anything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use weir_api::kong::KIC_CONTROLLER;
use weir_core::{GatewayNeed, Kind, Object, ObjectKey, Objects, Output};
use weir_model::resource::BindReport;

use crate::kinds::{Versions, api_version, collection};
use crate::provision::objects::{BoundPorts, KONG_NAMESPACE, PUBLISH_SERVICE, Publisher, Wishes, is_udp};
use crate::provision::{Assignment, GatewayView, Provision};
use crate::status_writer::StatusWriter;

pub(crate) struct Provisioning {
    provision: Provision,
    statuses: StatusWriter,
    /// Where objects are made for Gateways.
    publisher: Option<Publisher>,
    needs: BTreeMap<ObjectKey, GatewayNeed>,
    assignment: Assignment,
    bound: BoundPorts,
}

/// A port of a Gateway that is served at another.
#[derive(Debug)]
pub(super) struct Remapped {
    pub(super) gateway: ObjectKey,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// It is one for datagrams.
    pub(super) udp: bool,
    pub(super) bound_port: u16,
}

impl Provisioning {
    pub(crate) fn new(
        provision: Provision,
        statuses: StatusWriter,
        publisher: Option<Publisher>,
    ) -> Provisioning {
        Provisioning {
            provision,
            statuses,
            publisher,
            needs: BTreeMap::new(),
            assignment: Assignment::default(),
            bound: BoundPorts::new(),
        }
    }

    /// Choose addresses for what an output needs, and put them into `objects`; the Gateways whose addresses changed.
    pub(super) fn follow(
        &mut self,
        output: &Output,
        changed: &[ObjectKey],
        objects: &mut Objects,
        versions: &Versions,
    ) -> Vec<ObjectKey> {
        let touched = changed.iter().any(|key| matches!(key.kind, Kind::Gateway | Kind::GatewayClass));
        if !touched && output.gateways.is_empty() && output.released.is_empty() {
            return Vec::new();
        }
        for key in &output.released {
            self.needs.remove(key);
        }
        for need in &output.gateways {
            self.needs.insert(need.gateway.clone(), need.clone());
        }
        let views = self.views(objects);
        self.assignment = self.provision.assign(&views, has_class_of_kongs(objects));
        let mut moved = Vec::new();
        for view in &views {
            let Some(given) = self.assignment.gateways.get(&view.key) else { continue };
            let given = given.to_addresses(view.is_unmanaged());
            // Compared with what is known there: a Gateway that was deleted and made again has none, whatever was given before.
            if objects.addresses(&view.key).map(Arc::as_ref) != Some(&given) {
                objects.set_addresses(&view.key, given);
                moved.push(view.key.clone());
            }
        }
        self.wish(&views, versions);
        moved
    }

    /// A Service or Namespace as a watch showed it.
    pub(super) fn observe(&self, key: &ObjectKey, raw: &Value) {
        let Some(publisher) = &self.publisher else { return };
        match key.kind {
            Kind::Service => publisher.observe_service(raw),
            Kind::Namespace if key.name == KONG_NAMESPACE => publisher.observe_namespace(&key.name, true),
            _ => {}
        }
    }

    /// An object is gone.
    pub(super) fn forget(&mut self, key: &ObjectKey) {
        let Some(publisher) = &self.publisher else { return };
        match key.kind {
            Kind::Service => publisher.forget_service(&key.namespace, &key.name),
            Kind::Namespace => publisher.observe_namespace(&key.name, false),
            _ => {}
        }
    }

    /// The state of every bind; Gateways with a port that newly turned out to be served at another.
    pub(super) fn learn_binds(
        &mut self,
        binds: &[BindReport],
        objects: &Objects,
        versions: &Versions,
    ) -> Vec<Remapped> {
        let bound: BoundPorts = binds
            .iter()
            .filter(|bind| bind.bound_port != 0 && bind.bound_port != bind.port)
            .filter_map(|bind| {
                let address = bind.address.parse().ok()?;
                let port = u16::try_from(bind.port).ok()?;
                Some(((address, port, bind.udp), u16::try_from(bind.bound_port).ok()?))
            })
            .collect();
        if bound == self.bound {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.bound, bound);
        self.wish(&self.views(objects), versions);
        let mut notices = Vec::new();
        for (gateway, given) in &self.assignment.gateways {
            let ports = self.needs.get(gateway).map_or(&[][..], |need| &need.ports);
            let of_address =
                |address| ports.iter().map(move |(port, protocol)| (address, *port, is_udp(protocol)));
            let wanted: BTreeSet<_> = given.addresses.iter().copied().flat_map(of_address).collect();
            for bind in wanted {
                if let Some(bound_port) = self.bound.get(&bind)
                    && before.get(&bind) != Some(bound_port)
                {
                    let ((address, port, udp), gateway) = (bind, gateway.clone());
                    notices.push(Remapped { gateway, address, port, udp, bound_port: *bound_port });
                }
            }
        }
        notices
    }

    fn views(&self, objects: &Objects) -> Vec<GatewayView> {
        self.needs.values().filter_map(|need| self.view(need, objects)).collect()
    }

    fn view(&self, need: &GatewayNeed, objects: &Objects) -> Option<GatewayView> {
        let metadata = &objects.gateway(&need.gateway)?.metadata;
        // The status is looked at for the first choice only: later ones are ours to remember.
        let known = self.assignment.gateways.contains_key(&need.gateway);
        let previous = if known { Vec::new() } else { self.statuses.seen_addresses(&need.gateway) };
        Some(GatewayView {
            key: need.gateway.clone(),
            uid: metadata.uid.clone(),
            kind: need.kind,
            controller: need.controller.clone(),
            requested: need.requested.clone(),
            previous,
            ports: need.ports.clone(),
            labels: need.labels.clone(),
            annotations: need.annotations.clone(),
            publish_service: metadata.annotations.get(PUBLISH_SERVICE).cloned(),
        })
    }

    fn wish(&self, views: &[GatewayView], versions: &Versions) {
        let Some(publisher) = &self.publisher else { return };
        let api_version = api_version(versions, Kind::Gateway);
        let wishes = Wishes::of(views, &self.assignment, &self.bound, &api_version);
        let gateways = versions.get(&Kind::Gateway).map(|version| collection(Kind::Gateway, version));
        publisher.wish(wishes, gateways);
    }
}

/// Whether a class of Kong's ingress controller exists.
fn has_class_of_kongs(objects: &Objects) -> bool {
    objects.of_kind(Kind::GatewayClass).any(|(_, object)| match object {
        Object::GatewayClass(class) => class.spec.controller_name == KIC_CONTROLLER,
        _ => false,
    })
}

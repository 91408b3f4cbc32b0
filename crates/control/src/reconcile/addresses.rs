//! Between translation and provisioning: needs of Gateways to addresses, and what there is to show of them.
//!
//! Invariant: a choice is made between a translation and the one that uses it, without waiting for anything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;
use weir_api::gateway_api::{GatewayClass, GatewayStatusAddress, ParametersReference};
use weir_api::kong::{GatewayConfiguration, KIC_CONTROLLER, OPERATOR_GROUP, PUBLISH_SERVICE_ANNOTATION};
use weir_core::{
    AddressProblem, Addresses, ClassKind, GatewayNeed, Kind, Object, ObjectKey, Objects, Output,
};
use weir_model::resource::{BindReport, DataPlaneName};

use super::reach::Reach;
use super::words::{self, Said};

use crate::kinds::{Versions, api_version, collection};
use crate::provision::cluster::Planes;
use crate::provision::cluster::configuration::Notice;
use crate::provision::cluster::objects::Id;
use crate::provision::objects::{BoundPorts, KONG_NAMESPACE, Publisher, Wishes, is_udp};
use crate::provision::{Assignment, GatewayView, Provision};
use crate::status_writer::StatusWriter;

pub(crate) struct Provisioning {
    provision: Provision,
    statuses: StatusWriter,
    /// Where objects are made for Gateways.
    publisher: Option<Publisher>,
    /// In a cluster.
    planes: Option<Planes>,
    /// Whether clients get through to them.
    reach: Reach,
    /// In a cluster: where clients find each Gateway.
    behind: BTreeMap<ObjectKey, Behind>,
    /// Those that were there when this process began are in it.
    begun: bool,
    /// Rung when something that no object says moved an address.
    moved: Arc<Notify>,
    /// Addresses are to be asked for again, whatever changed.
    again: bool,
    /// What was told of each Gateway, and what is to be.
    told: BTreeMap<ObjectKey, BTreeSet<Notice>>,
    notices: Vec<(ObjectKey, Said)>,
    needs: BTreeMap<ObjectKey, GatewayNeed>,
    assignment: Assignment,
    bound: BoundPorts,
}

#[derive(Debug)]
struct Behind {
    service: Id,
    /// What the Gateway's status showed when it came here, from another Service or another controller: as long as it does, it says
    /// nothing of this one.
    stale: Option<Vec<GatewayStatusAddress>>,
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
        planes: Option<Planes>,
        namespaces: Vec<String>,
    ) -> Provisioning {
        Provisioning {
            provision,
            statuses,
            publisher,
            moved: planes.as_ref().map_or_else(Arc::default, Planes::moved),
            planes,
            reach: Reach::new(namespaces),
            behind: BTreeMap::new(),
            begun: false,
            again: false,
            told: BTreeMap::new(),
            notices: Vec::new(),
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
        let touched = changed.iter().any(|key| {
            matches!(key.kind, Kind::Gateway | Kind::GatewayClass)
                || key.kind == Kind::GatewayConfiguration && self.planes.is_some()
        });
        let now = Instant::now();
        let again = std::mem::take(&mut self.again) | self.reach_turned(changed, objects, now);
        if !touched && !again && output.gateways.is_empty() && output.released.is_empty() {
            return Vec::new();
        }
        for key in &output.released {
            self.needs.remove(key);
        }
        for need in &output.gateways {
            self.needs.insert(need.gateway.clone(), need.clone());
        }
        let views = self.views(objects);
        self.wish_planes(&views, objects, versions);
        self.assignment = match &self.planes {
            Some(planes) => planes.assign(&views),
            None => self.provision.assign(&views, has_class_of_kongs(objects)),
        };
        self.learn_services(&views);
        self.keep_what_is_open(&views);
        self.judge_reach(&views, objects, now);
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

    /// In a cluster: the Service of each Gateway, which another class or configuration changes.
    fn learn_services(&mut self, views: &[GatewayView]) {
        let Some(planes) = &self.planes else { return };
        let mut before = std::mem::take(&mut self.behind);
        let behind = |view: &GatewayView| {
            let service = planes.service(view);
            let shown = || self.statuses.seen_addresses(&view.key);
            let stale = match before.remove(&view.key) {
                Some(known) if known.service == service => {
                    known.stale.filter(|stale| self.statuses.seen_programmed(&view.key) && *stale == shown())
                }
                Some(_) => Some(shown()),
                // What another installation leaves is taken over as it is.
                None => (self.begun && self.statuses.seen_edited(&view.key)).then(shown),
            };
            (view.key.clone(), Behind { service, stale })
        };
        self.behind = views.iter().map(behind).collect();
        self.begun = true;
    }

    fn has_moved(&self, gateway: &ObjectKey) -> bool {
        self.behind.get(gateway).is_some_and(|behind| behind.stale.is_some())
    }

    /// Whether the status of a Gateway or ListenerSet says that it is programmed, and of a Gateway at the Service that it has now.
    pub(super) fn was_programmed(&self, gateway: &ObjectKey) -> bool {
        !self.has_moved(gateway) && self.statuses.seen_programmed(gateway)
    }

    /// In a cluster: what a status says stands until somebody has looked for what may be there, as another installation left it.
    fn keep_what_is_open(&mut self, views: &[GatewayView]) {
        let Some(planes) = &self.planes else { return };
        for view in views {
            if !planes.is_open(view) || self.has_moved(&view.key) {
                continue;
            }
            let Some(given) = self.assignment.gateways.get_mut(&view.key) else { continue };
            let Some(plane) = given.plane.as_mut() else { continue };
            plane.published = self.statuses.seen_addresses(&view.key);
            let is_unknown = matches!(given.problem, Some(AddressProblem::NotAssigned(_)));
            if is_unknown && !plane.published.is_empty() && self.statuses.seen_programmed(&view.key) {
                given.problem = None;
            }
        }
    }

    /// Whether clients get through to another Gateway now, or to one less.
    fn reach_turned(&mut self, changed: &[ObjectKey], objects: &Objects, now: Instant) -> bool {
        let is_due = self.reach.next_turn().is_some_and(|at| at <= now);
        (is_due || changed.iter().any(|key| key.kind == Kind::EndpointSlice)) && self.reach.look(objects, now)
    }

    /// In a cluster: an address behind which nobody is ready yet is told as that.
    fn judge_reach(&mut self, views: &[GatewayView], objects: &Objects, now: Instant) {
        let Some(planes) = &self.planes else { return };
        let mut services: Vec<_> =
            views.iter().map(|view| (planes.service(view), self.was_programmed(&view.key))).collect();
        // The shared one is there before the first Gateway behind it.
        services.push((planes.shared_service(), false));
        self.reach.follow(services, objects, now);
        for view in views {
            let Some(given) = self.assignment.gateways.get_mut(&view.key) else { continue };
            if given.problem.is_none() {
                let problem = self.reach.problem(&planes.service(view));
                given.problem = problem.map(|problem| planes.explain(view, problem));
            }
        }
    }

    /// When clients may be known not to get through though nothing changed.
    pub(super) fn next_turn(&self) -> Option<Instant> {
        self.reach.next_turn()
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
        let gateway = objects.gateway(&need.gateway)?;
        let metadata = &gateway.metadata;
        let listeners = gateway.spec.listeners.iter();
        let listeners = listeners
            .filter_map(|of| Some((of.name.clone(), u16::try_from(of.port).ok()?, of.protocol.clone())))
            .collect();
        let (configuration, frozen) = configuration(need, objects);
        // The status is looked at for the first choice only: later ones are ours to remember.
        let known = self.assignment.gateways.contains_key(&need.gateway);
        let seen = if known { Vec::new() } else { self.statuses.seen_addresses(&need.gateway) };
        let previous = seen.iter().filter_map(|address| address.value.parse().ok()).collect();
        Some(GatewayView {
            key: need.gateway.clone(),
            uid: metadata.uid.clone(),
            created_seconds: metadata.creation_timestamp.map_or(0, |at| at.0),
            kind: need.kind,
            controller: need.controller.clone(),
            requested: need.requested.clone(),
            previous,
            ports: need.ports.clone(),
            labels: need.labels.clone(),
            annotations: need.annotations.clone(),
            publish_service: metadata.annotations.get(PUBLISH_SERVICE_ANNOTATION).cloned(),
            listeners,
            drain: need.drain,
            configuration,
            frozen,
        })
    }

    /// In a cluster: what is wanted of data planes, and what is to be told about it.
    fn wish_planes(&mut self, views: &[GatewayView], objects: &Objects, versions: &Versions) {
        let Some(planes) = &self.planes else { return };
        let known = [Kind::Gateway, Kind::GatewayClass].iter().all(|kind| versions.contains_key(kind));
        let foreign = foreign_gateways(views, objects);
        let notices = planes.wish(views, foreign, known, &api_version(versions, Kind::Gateway));
        let before = std::mem::take(&mut self.told);
        for (gateway, notice) in notices {
            if !before.get(&gateway).is_some_and(|told| told.contains(&notice)) {
                self.notices.push((gateway.clone(), words::noticed(&notice)));
            }
            self.told.entry(gateway).or_default().insert(notice);
        }
    }

    /// All that holds and is to be told.
    pub(super) fn notices(&self) -> impl Iterator<Item = (ObjectKey, Said)> {
        let each =
            self.told.iter().flat_map(|(gateway, told)| told.iter().map(move |notice| (gateway, notice)));
        each.map(|(gateway, notice)| (gateway.clone(), words::noticed(notice)))
    }

    /// What is to be told since the last call.
    pub(super) fn take_notices(&mut self) -> Vec<(ObjectKey, Said)> {
        std::mem::take(&mut self.notices)
    }

    /// Rung when [`Provisioning::look_again`] is due.
    pub(super) fn moved(&self) -> Arc<Notify> {
        Arc::clone(&self.moved)
    }

    /// Whether addresses can be said.
    pub(super) fn is_ready(&self) -> bool {
        self.planes.as_ref().is_none_or(Planes::is_ready)
    }

    /// Whether updates go to data planes that other replicas serve too.
    pub(super) fn distributes(&self) -> bool {
        self.planes.is_some()
    }

    /// Ask for addresses again, though no object changed.
    pub(super) fn look_again(&mut self) {
        self.again = true;
    }

    /// In a cluster: Gateways that were programmed, or have pods, before this process began have a place before they are judged, so that
    /// what runs is known to.
    pub(super) fn remember(&self, objects: &mut Objects) {
        if self.planes.is_none() {
            return;
        }
        let runs = |key: &ObjectKey, uid: &str| {
            self.statuses.seen_programmed(key) || self.planes.as_ref().is_some_and(|planes| planes.has(uid))
        };
        let running: Vec<ObjectKey> = objects
            .of_kind(Kind::Gateway)
            .filter(|(key, gateway)| runs(key, &gateway.metadata().uid))
            .map(|(key, _)| key.clone())
            .collect();
        for key in running {
            let managed = class_of(&key, objects)
                .and_then(|class| ClassKind::of(class))
                .is_some_and(|kind| kind != ClassKind::Unmanaged);
            if managed {
                let place = DataPlaneName::of_gateway(&key.namespace, &key.name).place();
                objects.set_addresses(&key, Addresses { bind: vec![place], ..Addresses::default() });
            }
        }
    }

    fn wish(&self, views: &[GatewayView], versions: &Versions) {
        let Some(publisher) = &self.publisher else { return };
        let api_version = api_version(versions, Kind::Gateway);
        let wishes = Wishes::of(views, &self.assignment, &self.bound, &api_version);
        let gateways = versions.get(&Kind::Gateway).map(|version| collection(Kind::Gateway, version));
        publisher.wish(wishes, gateways);
    }
}

/// The operator's parameters of a Gateway, else of its class; whether they are not there. The class's never stand in for those that a
/// Gateway names: what runs would be shaped by them until its own are back.
fn configuration(need: &GatewayNeed, objects: &Objects) -> (Option<Arc<GatewayConfiguration>>, bool) {
    let class = objects.template(&need.class);
    let of_class = class.and_then(|class| class.spec.parameters_ref.as_deref());
    let references = [
        need.parameters.as_ref().map(|reference| (reference, need.gateway.namespace.as_str())),
        of_class.map(|reference| (reference, reference.namespace.as_deref().unwrap_or_default())),
    ];
    let is_operators = |reference: &ParametersReference| {
        reference.group == OPERATOR_GROUP && reference.kind == Kind::GatewayConfiguration.as_str()
    };
    let Some((reference, namespace)) =
        references.into_iter().flatten().find(|(named, _)| is_operators(named))
    else {
        return (None, false);
    };
    let key = ObjectKey::new(Kind::GatewayConfiguration, namespace, reference.name.clone());
    let configuration = objects.gateway_configuration(&key).map(Arc::clone);
    let is_missing = configuration.is_none();
    (configuration, is_missing)
}

fn class_of<'a>(gateway: &ObjectKey, objects: &'a Objects) -> Option<&'a Arc<GatewayClass>> {
    objects.gateway_class(&objects.gateway(gateway)?.spec.gateway_class_name)
}

/// Uids of Gateways whose class is there and gives them no data plane of their own.
fn foreign_gateways(views: &[GatewayView], objects: &Objects) -> Vec<String> {
    let ours: BTreeSet<&str> =
        views.iter().filter(|view| !view.is_unmanaged()).map(|view| view.uid.as_str()).collect();
    let all = objects.of_kind(Kind::Gateway);
    let foreign = all.filter(|(key, object)| {
        let kind = class_of(key, objects).map(|class| ClassKind::of(class));
        matches!(kind, Some(None | Some(ClassKind::Unmanaged)))
            && !ours.contains(object.metadata().uid.as_str())
    });
    foreign.map(|(_, object)| object.metadata().uid.clone()).collect()
}

/// Whether a class of Kong's ingress controller exists.
fn has_class_of_kongs(objects: &Objects) -> bool {
    objects.of_kind(Kind::GatewayClass).any(|(_, object)| match object {
        Object::GatewayClass(class) => class.spec.controller_name == KIC_CONTROLLER,
        _ => false,
    })
}

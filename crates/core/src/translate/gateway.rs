//! One Gateway with its ListenerSets: what it asks for, what its routes see of it, and its resources.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weir_api::condition::reasons;
use weir_api::gateway_api::{
    AddressType, FromNamespaces, Gateway, GatewayDefaultScope, ListenerSet, LocalParametersReference,
    ParametersReference, ProtocolType, RouteGroupKind,
};
use weir_api::meta::LabelSelector;
use weir_model::resource::{Body, Listener, Parameters};

use super::TranslateConfig;
use super::annotations;
use super::class::{ClassView, Verdict, bound};
use super::conflict::{self, Owner};
use super::finding::Finding;
use super::frontend;
use super::grant::Referrer;
use super::listener::{self, Conflict, Judge, ListenerPlan, PortRules};
use super::listener_set::{self, SetPlan};
use super::parameters::Settings;
use super::reading::Reading;
use super::tls::{self, CertificateView, Followed, Materials};
use crate::objects::{Addresses, Kind, Object, ObjectKey, Objects};
use crate::output::{GatewayNeed, RequestedAddress};

/// A Gateway of ours, judged on its spec, its class, its sets and its addresses.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GatewayPlan {
    pub(crate) generation: i64,
    pub(crate) addresses: Arc<Addresses>,
    /// Why the whole Gateway is not accepted.
    pub(crate) rejection: Option<(&'static str, String)>,
    /// Why its parameters cannot be used as they are, although it goes on being served: with what can be used of them.
    pub(crate) parameters_problem: Option<String>,
    pub(crate) listeners: Vec<ListenerPlan>,
    /// In the order of their precedence.
    pub(crate) sets: Vec<SetPlan>,
    /// Why the certificate for backends cannot be used.
    pub(crate) client_problem: Option<(&'static str, String)>,
    /// Why no backend should accept it now.
    pub(crate) client_out_of_time: Vec<String>,
    /// Fields that let clients without a valid certificate pass.
    pub(crate) insecure: Vec<String>,
    /// What routes see.
    pub(crate) face: Arc<Face>,
    /// What provisioning sees; `None` when nothing is to be provided.
    pub(crate) need: Option<GatewayNeed>,
    pub(crate) findings: Vec<Finding>,
    /// Key of the certificate for backends, or empty.
    client_certificate: String,
    /// What its parameters come to.
    parameters: Option<Parameters>,
    /// Certificates, authorities and session keys that its resources name.
    pub(crate) materials: BTreeMap<String, Body>,
}

/// The part of a Gateway or ListenerSet on which the translation of routes depends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Face {
    pub(crate) controller: String,
    /// The Gateway itself, or that of the set.
    pub(crate) gateway: ObjectKey,
    /// Whether routes that ask for the default Gateways mean it.
    pub(crate) is_default: bool,
    /// Why no route can attach, if so.
    pub(crate) closed: Option<String>,
    pub(crate) listeners: Vec<ListenerFace>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ListenerFace {
    pub(crate) name: String,
    pub(crate) port: i32,
    pub(crate) protocol: ProtocolType,
    pub(crate) hostname: String,
    pub(crate) kinds: Vec<RouteGroupKind>,
    pub(crate) from: FromNamespaces,
    pub(crate) selector: Option<LabelSelector>,
    /// Keys of its resources: none when it is not served, one for each address.
    pub(crate) keys: Vec<String>,
}

/// The outcome of looking at a Gateway.
pub(super) enum Planned {
    /// Of somebody else's class, or of none.
    NotOurs(Vec<Finding>),
    /// Something that it refers to has not been seen yet.
    Pending,
    Ours(Box<GatewayPlan>),
}

pub(super) fn plan(
    key: &ObjectKey,
    gateway: &Gateway,
    class: &ClassView,
    materials: &mut Materials,
    config: &TranslateConfig,
    reading: &mut Reading<'_>,
) -> Planned {
    let addresses = reading.objects.addresses(key).cloned();
    let mut findings: Vec<Finding> = annotations::of_gateway(&gateway.metadata).collect();
    let judged = judge(key, gateway, class, addresses.is_some(), reading, &mut findings);
    let Some(Judged { rejection, parameters_problem, settings }) = judged else {
        return Planned::Pending;
    };
    // Whoever has nothing gets nothing: else it would count as one that is served.
    let is_refused = matches!(rejection, Some((reasons::INVALID_PARAMETERS, _)));
    let addresses = addresses.unwrap_or_default();
    let referrer = Referrer { kind: Kind::Gateway, namespace: &key.namespace };
    let spec = gateway.spec.tls.as_ref();
    let front = frontend::read(spec.and_then(|tls| tls.frontend.as_ref()), &referrer, materials, reading);
    findings.extend(front.findings);
    let ports = PortRules { frontend: &front.frontend, reserved: config.reserved_ports };
    let mut used = Vec::new();
    let (client_certificate, client_problem) =
        client_certificate(gateway, &referrer, materials, reading, &mut used);
    let field = "spec.tls.backend.clientCertificateRef";
    findings.extend(client_problem.as_ref().map(|(reason, why)| Finding::error(field, reason, why.clone())));
    let client_out_of_time = tls::out_of_time(&used);
    findings.extend(client_out_of_time.iter().map(|why| tls::stale(field, why)));
    let mut judge = Judge {
        referrer,
        prefix: format!("listener/{}/{}", key.namespace, key.name),
        ports,
        materials,
        reading,
        used: &mut used,
    };
    let (mut listeners, listener_findings) = listener::plan(&gateway.spec.listeners, &mut judge);
    findings.extend(listener_findings);
    let mut sets = sets(key, gateway, class, ports, materials, reading, &mut used);
    settle(&mut listeners, &mut sets, &mut findings, config.has_mixed_tls());

    let shown = Shown { key, gateway, class, is_rejected: rejection.is_some(), addresses: &addresses };
    for set in &mut sets {
        set.face = shown.face(&set.key, &set.listeners, set.refused.clone());
    }
    let all = listeners.iter().chain(sets.iter().flat_map(|set| &set.listeners));
    let need = (!is_refused).then(|| need(key, gateway, class, all, settings.drain()));
    let materials = if rejection.is_some() {
        BTreeMap::new()
    } else {
        tls::bodies(&used, &front.used).chain(settings.bodies()).collect()
    };
    Planned::Ours(Box::new(GatewayPlan {
        generation: gateway.metadata.generation,
        face: shown.face(key, &listeners, None),
        addresses,
        rejection,
        parameters_problem,
        listeners,
        sets,
        client_problem,
        client_out_of_time,
        insecure: front.insecure,
        need,
        findings,
        client_certificate,
        parameters: settings.resource(),
        materials,
    }))
}

/// What faces are made of beside their listeners.
struct Shown<'a> {
    key: &'a ObjectKey,
    gateway: &'a Gateway,
    class: &'a ClassView,
    is_rejected: bool,
    addresses: &'a Addresses,
}

impl Shown<'_> {
    fn face(&self, owner: &ObjectKey, listeners: &[ListenerPlan], closed: Option<String>) -> Arc<Face> {
        let of_gateway = owner.kind == Kind::Gateway;
        Arc::new(Face {
            controller: self.class.controller.clone(),
            gateway: self.key.clone(),
            is_default: of_gateway && self.gateway.spec.default_scope == Some(GatewayDefaultScope::All),
            closed,
            listeners: listeners
                .iter()
                .map(|plan| listener_face(plan, self.is_rejected, self.addresses))
                .collect(),
        })
    }
}

/// What is said of the Gateway as a whole.
struct Judged {
    /// Why it is not accepted, and not served.
    rejection: Option<(&'static str, String)>,
    parameters_problem: Option<String>,
    settings: Settings,
}

/// `None` while it cannot be said. `runs`: it has been given addresses.
fn judge(
    key: &ObjectKey,
    gateway: &Gateway,
    class: &ClassView,
    runs: bool,
    reading: &mut Reading<'_>,
    findings: &mut Vec<Finding>,
) -> Option<Judged> {
    let mut rejection = match &class.verdict {
        Verdict::Pending => return None,
        Verdict::Accepted => None,
        // A Gateway that runs goes on as it was: a class is a template.
        Verdict::Rejected(_) if runs => None,
        Verdict::Rejected(why) => {
            let message = format!("GatewayClass {} is not accepted: {why}", gateway.spec.gateway_class_name);
            findings.push(Finding::error(
                "spec.gatewayClassName",
                reasons::INVALID_PARAMETERS,
                message.clone(),
            ));
            Some((reasons::INVALID_PARAMETERS, message))
        }
    };
    let reference = gateway.spec.infrastructure.as_ref().and_then(|i| i.parameters_ref.as_deref());
    let (verdict, settings) = bound(reference.map(local_parameters).as_ref(), Some(&key.namespace), reading);
    let mut parameters_problem = None;
    match verdict {
        Verdict::Pending => return None,
        Verdict::Accepted => {}
        Verdict::Rejected(why) => {
            findings.push(Finding::error(
                "spec.infrastructure.parametersRef",
                reasons::INVALID_PARAMETERS,
                &*why,
            ));
            let message = format!("spec.infrastructure.{why}");
            if runs {
                parameters_problem = Some(message);
            } else {
                rejection = rejection.or(Some((reasons::INVALID_PARAMETERS, message)));
            }
        }
    }
    if let Some(finding) = unsupported_address(gateway) {
        rejection = rejection.or(Some((reasons::UNSUPPORTED_ADDRESS, finding.message.clone())));
        findings.push(finding);
    }
    Some(Judged { rejection, parameters_problem, settings: settings.over(&class.settings) })
}

/// A Gateway's parameters are in its own namespace.
fn local_parameters(reference: &LocalParametersReference) -> ParametersReference {
    let LocalParametersReference { group, kind, name } = reference.clone();
    ParametersReference { group, kind, name, namespace: None }
}

fn unsupported_address(gateway: &Gateway) -> Option<Finding> {
    gateway.spec.addresses.iter().enumerate().find(|(_, a)| a.type_ != AddressType::IpAddress).map(
        |(index, address)| {
            let type_ = &address.type_;
            Finding::error(
                format!("spec.addresses[{index}].type"),
                reasons::UNSUPPORTED_ADDRESS,
                format!("spec.addresses[{index}] is of type {type_}, which is not supported; IPAddress is"),
            )
        },
    )
}

/// The key of the certificate that the Gateway shows to backends, or why there is none.
fn client_certificate(
    gateway: &Gateway,
    referrer: &Referrer<'_>,
    materials: &mut Materials,
    reading: &mut Reading<'_>,
    used: &mut Vec<Arc<CertificateView>>,
) -> (String, Option<(&'static str, String)>) {
    let backend = gateway.spec.tls.as_ref().and_then(|tls| tls.backend.as_ref());
    let Some(reference) = backend.and_then(|backend| backend.client_certificate_ref.as_ref()) else {
        return (String::new(), None);
    };
    let (reason, message) = match materials.certificate(reference, referrer, reading) {
        Followed::Found(view) => {
            let key = view.resource.key.clone();
            used.push(view);
            return (key, None);
        }
        // The Gateway as a whole is held back, so nobody sees this.
        Followed::Pending => return (String::new(), None),
        Followed::NotPermitted(message) => (reasons::REF_NOT_PERMITTED, message),
        Followed::WrongKind(message) | Followed::Unusable(message) => {
            (reasons::INVALID_CLIENT_CERTIFICATE_REF, message)
        }
    };
    (String::new(), Some((reason, message)))
}

/// The Gateway's sets, in the order of their precedence, without faces and conflicts.
fn sets(
    key: &ObjectKey,
    gateway: &Gateway,
    class: &ClassView,
    ports: PortRules<'_>,
    materials: &mut Materials,
    reading: &mut Reading<'_>,
    used: &mut Vec<Arc<CertificateView>>,
) -> Vec<SetPlan> {
    let members = members(key, reading.objects);
    let mut plans = Vec::with_capacity(members.len());
    for (set_key, set) in members {
        let of_gateway = reading.refer_from(set_key);
        let allowed = listener_set::allowed(
            key,
            gateway.spec.allowed_listeners.as_deref(),
            &set_key.namespace,
            reading,
        );
        let mut findings = Vec::new();
        let mut listeners = Vec::new();
        match &allowed {
            Err(why) => findings.push(listener_set::not_allowed(why)),
            Ok(()) => {
                let mut judge = Judge {
                    referrer: Referrer { kind: Kind::ListenerSet, namespace: &set_key.namespace },
                    prefix: format!(
                        "listener/{}/{}/{}/{}",
                        key.namespace, key.name, set_key.namespace, set_key.name
                    ),
                    ports,
                    materials,
                    reading,
                    used,
                };
                (listeners, findings) = listener::plan(&set.spec.listeners, &mut judge);
            }
        }
        reading.refer_as(of_gateway);
        let face = Face {
            controller: class.controller.clone(),
            gateway: key.clone(),
            is_default: false,
            closed: None,
            listeners: Vec::new(),
        };
        plans.push(SetPlan {
            key: set_key.clone(),
            generation: set.metadata.generation,
            refused: allowed.err(),
            listeners,
            face: Arc::new(face),
            findings,
        });
    }
    plans
}

/// The sets that name the Gateway, in the order of their precedence.
fn members<'a>(key: &'a ObjectKey, objects: &'a Objects) -> Vec<(&'a ObjectKey, &'a Arc<ListenerSet>)> {
    let mut members: Vec<(&ObjectKey, &Arc<ListenerSet>)> = objects
        .members(key, Kind::ListenerSet)
        .filter_map(|(key, object)| match object {
            Object::ListenerSet(set) => Some((key, set)),
            _ => None,
        })
        .collect();
    members.sort_by_cached_key(|(_, set)| listener_set::precedence(set));
    members
}

fn settle(
    listeners: &mut [ListenerPlan],
    sets: &mut [SetPlan],
    findings: &mut Vec<Finding>,
    mixed_tls: bool,
) {
    let mut owners = vec![Owner { name: "the Gateway itself".to_owned(), listeners, findings }];
    owners.extend(sets.iter_mut().map(|set| Owner {
        name: "a ListenerSet that comes first".to_owned(),
        listeners: &mut set.listeners,
        findings: &mut set.findings,
    }));
    conflict::settle(&mut owners, mixed_tls);
}

fn listener_face(plan: &ListenerPlan, rejected: bool, addresses: &Addresses) -> ListenerFace {
    ListenerFace {
        name: plan.name.clone(),
        port: plan.port,
        protocol: plan.protocol.clone(),
        hostname: plan.hostname.clone(),
        kinds: plan.kinds.clone(),
        from: plan.from.clone(),
        selector: plan.selector.clone(),
        keys: if rejected || !plan.is_served() {
            Vec::new()
        } else {
            (0..addresses.bind.len().max(1)).map(|index| resource_key(&plan.key, addresses, index)).collect()
        },
    }
}

/// The first address has the plain key, which routes can name before there is any address.
fn resource_key(plain: &str, addresses: &Addresses, index: usize) -> String {
    match addresses.bind.get(index) {
        Some(address) if index > 0 => format!("{plain}/{address}"),
        _ => plain.to_owned(),
    }
}

fn need<'a>(
    key: &ObjectKey,
    gateway: &Gateway,
    class: &ClassView,
    listeners: impl Iterator<Item = &'a ListenerPlan>,
    drain: Duration,
) -> GatewayNeed {
    let mut ports: Vec<(u16, ProtocolType)> = listeners
        .filter(|plan| plan.is_served())
        .filter_map(|plan| Some((u16::try_from(plan.port).ok()?, plan.protocol.clone())))
        .collect();
    ports.sort();
    ports.dedup();
    let infrastructure = gateway.spec.infrastructure.as_deref().cloned().unwrap_or_default();
    GatewayNeed {
        gateway: key.clone(),
        class: gateway.spec.gateway_class_name.clone(),
        controller: class.controller.clone(),
        kind: class.kind,
        requested: gateway
            .spec
            .addresses
            .iter()
            .filter(|address| address.type_ == AddressType::IpAddress)
            .map(|address| RequestedAddress {
                type_: address.type_.clone(),
                value: address.value.clone().filter(|value| !value.is_empty()),
            })
            .collect(),
        ports,
        labels: infrastructure.labels,
        annotations: infrastructure.annotations,
        parameters: infrastructure.parameters_ref.as_deref().map(local_parameters),
        drain,
    }
}

impl GatewayPlan {
    /// Its listeners and those of its sets.
    pub(crate) fn all_listeners(&self) -> impl Iterator<Item = &ListenerPlan> {
        self.listeners.iter().chain(self.sets.iter().flat_map(|set| &set.listeners))
    }

    /// The listeners that the data plane is to have, by key.
    pub(crate) fn resources(&self, key: &ObjectKey) -> BTreeMap<String, Listener> {
        let mut resources = BTreeMap::new();
        if self.rejection.is_some() {
            return resources;
        }
        let gateway = format!("{}/{}", key.namespace, key.name);
        for plan in self.all_listeners().filter(|plan| plan.is_served()) {
            for (index, address) in self.addresses.bind.iter().enumerate() {
                let resource_key = resource_key(&plan.key, &self.addresses, index);
                let mut resource = plan.resource(resource_key.clone(), gateway.clone(), address.clone());
                resource.backend_client_certificate.clone_from(&self.client_certificate);
                resource.parameters.clone_from(&self.parameters);
                resources.insert(resource_key, resource);
            }
        }
        resources
    }

    /// Marks the listeners that `lost`, which is given the keys of one's resources, to other Gateways: nothing of them is
    /// served. What provisioning sees stays, or an address could depend on who else has it.
    pub(super) fn give_up(&mut self, lost: impl Fn(&[String]) -> Option<Conflict>) {
        let own = (&mut self.listeners, &mut self.face, &mut self.findings);
        let sets = self.sets.iter_mut().map(|set| (&mut set.listeners, &mut set.face, &mut set.findings));
        for (listeners, face, findings) in std::iter::once(own).chain(sets) {
            for plan in listeners.iter_mut() {
                let seen = face.listeners.iter().position(|seen| seen.name == plan.name);
                let Some(seen) = seen.filter(|seen| !face.listeners[*seen].keys.is_empty()) else {
                    continue;
                };
                let Some(conflict) = lost(&face.listeners[seen].keys) else {
                    continue;
                };
                let field = format!("spec.listeners[{}]", plan.index);
                findings.push(Finding::error(field, conflict.reason, conflict.message.clone()));
                Arc::make_mut(face).listeners[seen].keys.clear();
                plan.conflict = Some(conflict);
            }
        }
    }
}

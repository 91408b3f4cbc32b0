//! One Gateway: what it asks for, what its routes see of it, its resources and its status.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_api::condition::reasons;
use weir_api::gateway::{AddressType, FromNamespaces, Gateway, Infrastructure, Protocol};
use weir_api::meta::LabelSelector;
use weir_model::resource::{Listener, ListenerProtocol};

use super::class::{ClassView, Verdict, parameters_verdict};
use super::finding::Finding;
use super::listener::{self, ListenerPlan};
use super::reading::Reading;
use crate::objects::{Addresses, ObjectKey};
use crate::output::{GatewayNeed, RequestedAddress};

/// A Gateway of ours, judged on its spec, its class and its addresses.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GatewayPlan {
    pub(crate) generation: i64,
    pub(crate) addresses: Arc<Addresses>,
    /// Why the whole Gateway is not accepted.
    pub(crate) rejection: Option<(&'static str, String)>,
    pub(crate) listeners: Vec<ListenerPlan>,
    /// What routes see.
    pub(crate) face: Arc<Face>,
    /// What provisioning sees; `None` when nothing is to be provided.
    pub(crate) need: Option<GatewayNeed>,
    pub(crate) findings: Vec<Finding>,
}

/// The part of a Gateway on which the translation of routes depends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Face {
    pub(crate) controller: String,
    pub(crate) listeners: Vec<ListenerFace>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ListenerFace {
    pub(crate) name: String,
    pub(crate) port: i32,
    pub(crate) protocol: Protocol,
    pub(crate) hostname: String,
    pub(crate) takes_http_routes: bool,
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
    addresses: Option<&Arc<Addresses>>,
    reading: &mut Reading<'_>,
) -> Planned {
    let (listeners, mut findings) = listener::plan(&gateway.spec.listeners);
    let mut rejection = match &class.verdict {
        Verdict::Pending => return Planned::Pending,
        Verdict::Accepted => None,
        // A Gateway that runs goes on as it was: a class is a template.
        Verdict::Rejected(_) if addresses.is_some() => None,
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
    let class_rejected = rejection.is_some();
    match infrastructure_verdict(key, gateway, reading) {
        Verdict::Pending => return Planned::Pending,
        Verdict::Accepted => {}
        Verdict::Rejected(why) => {
            findings.push(Finding::error(
                "spec.infrastructure.parametersRef",
                reasons::INVALID_PARAMETERS,
                &*why,
            ));
            rejection =
                rejection.or(Some((reasons::INVALID_PARAMETERS, format!("spec.infrastructure.{why}"))));
        }
    }
    if let Some(finding) = unsupported_address(gateway) {
        rejection = rejection.or(Some((reasons::UNSUPPORTED_ADDRESS, finding.message.clone())));
        findings.push(finding);
    }
    findings.extend(not_supported_yet(gateway));
    let addresses = addresses.cloned().unwrap_or_default();
    let face = face(key, class, &listeners, rejection.is_some(), &addresses);
    let need = (!class_rejected).then(|| need(key, gateway, class, &listeners));
    Planned::Ours(Box::new(GatewayPlan {
        generation: gateway.metadata.generation,
        addresses,
        rejection,
        listeners,
        face: Arc::new(face),
        need,
        findings,
    }))
}

fn infrastructure_verdict(key: &ObjectKey, gateway: &Gateway, reading: &mut Reading<'_>) -> Verdict {
    let parameters = gateway.spec.infrastructure.as_ref().and_then(|i| i.parameters_ref.as_ref());
    parameters
        .map_or(Verdict::Accepted, |parameters| parameters_verdict(parameters, Some(&key.namespace), reading))
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

/// Fields that are read and have no effect so far.
fn not_supported_yet(gateway: &Gateway) -> Vec<Finding> {
    let spec = &gateway.spec;
    let listener_sets = spec
        .allowed_listeners
        .as_ref()
        .and_then(|allowed| allowed.pointer("/namespaces/from"))
        .is_some_and(|from| from != "None");
    [
        ("spec.tls", spec.tls.is_some()),
        ("spec.allowedListeners", listener_sets),
        ("spec.defaultScope", spec.default_scope.as_deref().is_some_and(|scope| scope != "None")),
    ]
    .into_iter()
    .filter(|(_, is_set)| *is_set)
    .map(|(field, _)| {
        Finding::warning(field, "NotSupported", format!("{field} is not supported yet and has no effect"))
    })
    .collect()
}

fn face(
    key: &ObjectKey,
    class: &ClassView,
    listeners: &[ListenerPlan],
    rejected: bool,
    addresses: &Addresses,
) -> Face {
    let listeners = listeners
        .iter()
        .map(|plan| ListenerFace {
            name: plan.name.clone(),
            port: plan.port,
            protocol: plan.protocol.clone(),
            hostname: plan.hostname.clone(),
            takes_http_routes: !plan.kinds.is_empty(),
            from: plan.from.clone(),
            selector: plan.selector.clone(),
            keys: if rejected || !plan.is_served() {
                Vec::new()
            } else {
                (0..addresses.bind.len().max(1))
                    .map(|index| resource_key(key, &plan.name, addresses, index))
                    .collect()
            },
        })
        .collect();
    Face { controller: class.controller.clone(), listeners }
}

/// The first address has the plain key, which routes can name before there is any address.
fn resource_key(key: &ObjectKey, section: &str, addresses: &Addresses, index: usize) -> String {
    let plain = format!("listener/{}/{}/{section}", key.namespace, key.name);
    match addresses.bind.get(index) {
        Some(address) if index > 0 => format!("{plain}/{address}"),
        _ => plain,
    }
}

fn need(key: &ObjectKey, gateway: &Gateway, class: &ClassView, listeners: &[ListenerPlan]) -> GatewayNeed {
    let mut ports: Vec<(u16, Protocol)> = listeners
        .iter()
        .filter(|plan| plan.is_served())
        .filter_map(|plan| Some((u16::try_from(plan.port).ok()?, plan.protocol.clone())))
        .collect();
    ports.sort();
    ports.dedup();
    let infrastructure = gateway.spec.infrastructure.clone().unwrap_or_default();
    let Infrastructure { labels, annotations, parameters_ref } = infrastructure;
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
        labels,
        annotations,
        parameters: parameters_ref,
    }
}

impl GatewayPlan {
    /// The listeners that the data plane is to have, by key.
    pub(crate) fn resources(&self, key: &ObjectKey) -> BTreeMap<String, Listener> {
        let mut resources = BTreeMap::new();
        if self.rejection.is_some() {
            return resources;
        }
        for plan in self.listeners.iter().filter(|plan| plan.is_served()) {
            for (index, address) in self.addresses.bind.iter().enumerate() {
                let resource_key = resource_key(key, &plan.name, &self.addresses, index);
                let resource = Listener {
                    key: resource_key.clone(),
                    gateway: format!("{}/{}", key.namespace, key.name),
                    section: plan.name.clone(),
                    address: address.clone(),
                    port: u32::try_from(plan.port).unwrap_or_default(),
                    protocol: ListenerProtocol::Http.into(),
                    hostname: plan.hostname.clone(),
                    ..Listener::default()
                };
                resources.insert(resource_key, resource);
            }
        }
        resources
    }
}

//! Which slices a Service should have. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::super::pod_state;
use super::super::replica_set::controller_reference;
use crate::pods::published_port;

pub(in super::super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const OURS: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Most endpoints in a slice. Unit: endpoints. Source: Kubernetes' `--max-endpoints-per-slice`.
const LARGEST: usize = 100;

/// One write.
#[derive(Debug)]
pub(super) enum Action {
    /// The name is still to be made.
    Create(Box<EndpointSlice>),
    Update(Box<EndpointSlice>),
    Delete(Arc<EndpointSlice>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn address_type(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// Endpoints with the same ports, by the pod's uid.
type Group = BTreeMap<String, Endpoint>;

pub(super) fn is_ours(slice: &EndpointSlice) -> bool {
    slice.labels().get(MANAGED_BY).is_some_and(|by| by == OURS)
}

/// The slice's endpoints.
pub(crate) fn listed(slice: &EndpointSlice) -> &[Endpoint] {
    slice.endpoints.as_deref().unwrap_or_default()
}

/// Whether a change of a pod can change a slice.
pub(super) fn matters(before: &Pod, after: &Pod) -> bool {
    let status = |pod: &Pod| pod.status.as_ref().and_then(|status| status.pod_ips.clone());
    let spec = |pod: &Pod| {
        pod.spec.as_ref().map(|spec| (spec.node_name.clone(), spec.hostname.clone(), spec.subdomain.clone()))
    };
    before.uid() != after.uid()
        || before.metadata.deletion_timestamp.is_some() != after.metadata.deletion_timestamp.is_some()
        || before.labels() != after.labels()
        || before.annotations() != after.annotations()
        || pod_state::phase(before) != pod_state::phase(after)
        || pod_state::is_ready(before) != pod_state::is_ready(after)
        || status(before) != status(after)
        || spec(before) != spec(after)
}

/// Pure: the writes that bring `slices` (ours, of this Service) to what the Service and its pods say.
pub(super) fn plan(service: &Service, pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>]) -> Vec<Action> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let selects = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    if service.metadata.deletion_timestamp.is_some()
        || !selects
        || spec.type_.as_deref() == Some("ExternalName")
    {
        return Vec::new();
    }
    let mut actions = Vec::new();
    for family in [Family::V4, Family::V6] {
        let there: Vec<_> =
            slices.iter().filter(|slice| slice.address_type == family.address_type()).cloned().collect();
        if families(service).contains(&family) {
            plan_family(service, pods, &there, family, &mut actions);
        } else {
            actions.extend(there.into_iter().map(Action::Delete));
        }
    }
    actions
}

fn families(service: &Service) -> BTreeSet<Family> {
    let named = service.spec.as_ref().and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let named: BTreeSet<_> =
        named.iter().map(|name| if name == "IPv6" { Family::V6 } else { Family::V4 }).collect();
    if named.is_empty() { BTreeSet::from([Family::V4]) } else { named }
}

fn plan_family(
    service: &Service,
    pods: &[Arc<Pod>],
    slices: &[Arc<EndpointSlice>],
    family: Family,
    actions: &mut Vec<Action>,
) {
    let mut groups: Vec<(Vec<EndpointPort>, Group)> = Vec::new();
    for pod in pods {
        let Some(endpoint) = endpoint(service, pod, family) else { continue };
        let ports = ports(service, pod);
        let uid = pod.uid().unwrap_or_default();
        match groups.iter_mut().find(|(known, _)| *known == ports) {
            Some((_, group)) => {
                group.insert(uid, endpoint);
            }
            None => groups.push((ports, Group::from([(uid, endpoint)]))),
        }
    }
    if groups.is_empty() {
        // An empty slice says that the Service has been looked at.
        groups.push((Vec::new(), Group::new()));
    }
    let mut unused: Vec<Arc<EndpointSlice>> = slices.to_vec();
    for (ports, group) in groups {
        let (mine, others) = unused.into_iter().partition(|slice| {
            slice.ports.as_deref().unwrap_or_default() == ports.as_slice()
                && slice.metadata.deletion_timestamp.is_none()
        });
        unused = others;
        fill(service, family, &ports, group, mine, actions);
    }
    actions.extend(unused.into_iter().map(Action::Delete));
}

/// Spreads a group over its slices: endpoints stay where they are, new ones go where a write is due anyway.
fn fill(
    service: &Service,
    family: Family,
    ports: &[EndpointPort],
    mut group: Group,
    slices: Vec<Arc<EndpointSlice>>,
    actions: &mut Vec<Action>,
) {
    let mut drafts: Vec<Draft> =
        slices.into_iter().map(|slice| Draft::of(service, slice, &mut group)).collect();
    let mut rest: Vec<Endpoint> = group.into_values().collect();
    // Slices that are written anyway first, then the fullest.
    drafts.sort_by_key(|draft| (!draft.changed, std::cmp::Reverse(draft.endpoints.len())));
    for draft in &mut drafts {
        let room = LARGEST.saturating_sub(draft.endpoints.len()).min(rest.len());
        if room > 0 {
            draft.endpoints.extend(rest.drain(..room));
            draft.changed = true;
        }
    }
    // One empty slice may stay, and only where nothing else is.
    let mut full = drafts.iter().any(|draft| !draft.endpoints.is_empty()) || !rest.is_empty();
    for draft in drafts {
        if draft.endpoints.is_empty() && full {
            actions.push(Action::Delete(draft.before));
            continue;
        }
        full = true;
        if draft.changed {
            let mut slice = draft.before.as_ref().clone();
            slice.endpoints = Some(draft.endpoints);
            slice.metadata.labels = Some(labels(service));
            slice.metadata.owner_references = Some(vec![controller_reference(service)]);
            actions.push(Action::Update(Box::new(slice)));
        }
    }
    while !rest.is_empty() || !full {
        let more = rest.split_off(rest.len().min(LARGEST));
        actions.push(Action::Create(Box::new(new_slice(
            service,
            family,
            ports,
            std::mem::replace(&mut rest, more),
        ))));
        full = true;
    }
}

/// A slice as it shall become.
struct Draft {
    before: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

impl Draft {
    /// Keeps of the slice what is still in the group, and takes it out of the group.
    fn of(service: &Service, before: Arc<EndpointSlice>, group: &mut Group) -> Self {
        let mut endpoints = Vec::with_capacity(listed(&before).len());
        for known in listed(&before) {
            let uid = known.target_ref.as_ref().and_then(|target| target.uid.as_deref()).unwrap_or_default();
            if let Some(endpoint) = group.remove(uid) {
                endpoints.push(endpoint);
            }
        }
        let changed = endpoints != listed(&before)
            || before.metadata.labels.as_ref() != Some(&labels(service))
            || before.owner_references() != [controller_reference(service)];
        Self { before, endpoints, changed }
    }
}

fn new_slice(
    service: &Service,
    family: Family,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name_any())),
            namespace: service.namespace(),
            labels: Some(labels(service)),
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.address_type().to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports.to_vec()),
    }
}

/// The Service's own labels, and those by which slices are found.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.retain(|key, _| key != HEADLESS);
    labels.insert(SERVICE_NAME.to_owned(), service.name_any());
    labels.insert(MANAGED_BY.to_owned(), OURS.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
}

/// None for a pod that has ended or has no address of this family yet.
fn endpoint(service: &Service, pod: &Pod, family: Family) -> Option<Endpoint> {
    if pod_state::has_ended(pod) {
        return None;
    }
    let status = pod.status.as_ref()?;
    let listed = status.pod_ips.as_deref().unwrap_or_default().iter().map(|address| address.ip.as_str());
    let address = listed.chain(status.pod_ip.as_deref()).find(|address| {
        let parsed = address.parse::<IpAddr>();
        parsed.is_ok_and(|address| address.is_ipv6() == (family == Family::V6))
    })?;
    let spec = service.spec.as_ref();
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let serving = pod_state::is_ready(pod);
    let always = spec.is_some_and(|spec| spec.publish_not_ready_addresses == Some(true));
    let pod_spec = pod.spec.as_ref();
    let subdomain = pod_spec.and_then(|spec| spec.subdomain.as_deref());
    let hostname = pod_spec.and_then(|spec| spec.hostname.clone());
    Some(Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(always || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname.filter(|_| subdomain == Some(service.name_any().as_str())),
        node_name: pod_spec.and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.namespace(),
            name: Some(pod.name_any()),
            uid: pod.uid(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

/// The Service's ports as this pod has them. A named port that the pod does not name is left out.
fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let resolved = ports.iter().filter_map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        let number = target_port(port, &protocol, pod)?;
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(published_port(pod, number, &protocol)),
            protocol: Some(protocol),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

fn target_port(port: &ServicePort, protocol: &str, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    // Sidecars are init containers, and may be what a Service points to.
    let sidecars = spec.init_containers.as_deref().unwrap_or_default().iter();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let mut named = ports.filter(|port| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    named.next().map(|port| port.container_port)
}

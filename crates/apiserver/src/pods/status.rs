//! Pod statuses as a kubelet writes them. Pure.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

/// The one node's address.
pub(crate) const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// How a pod is doing.
pub(super) struct Condition<'a> {
    /// None before it has one.
    pub(super) address: Option<Ipv4Addr>,
    /// By container name; a container that is not here runs.
    pub(super) waiting: &'a [Waiting],
    /// When the containers were last started.
    pub(super) started: Timestamp,
    pub(super) restarts: i32,
}

/// Why a container does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) container: String,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The status of a pod that is not being deleted. Conditions of other writers are kept.
pub(super) fn status(pod: &Pod, condition: &Condition<'_>, now: Timestamp) -> PodStatus {
    let before = pod.status.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let running = condition.waiting.is_empty();
    let mut status = PodStatus {
        phase: Some(if running { "Running" } else { "Pending" }.to_owned()),
        host_ip: Some(HOST_ADDRESS.to_string()),
        host_ips: Some(vec![HostIP { ip: HOST_ADDRESS.to_string() }]),
        pod_ip: condition.address.map(|address| address.to_string()),
        pod_ips: condition.address.map(|address| vec![PodIP { ip: address.to_string() }]),
        start_time: before.start_time.clone().or_else(|| Some(Time::from(now))),
        qos_class: before.qos_class.clone().or_else(|| Some(quality(pod).to_owned())),
        observed_generation: pod.metadata.generation,
        container_statuses: Some(
            spec.containers
                .iter()
                .map(|container| container_status(pod, container, condition, &before))
                .collect(),
        ),
        ..before.clone()
    };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    status.init_container_statuses = (!init.is_empty())
        .then(|| init.iter().map(|container| init_status(pod, container, condition, &before)).collect());
    let not_ready: Vec<_> = condition.waiting.iter().map(|waiting| waiting.container.as_str()).collect();
    let containers_ready = running.then_some(()).ok_or_else(|| Reason {
        reason: "ContainersNotReady",
        message: format!("containers with unready status: [{}]", not_ready.join(" ")),
    });
    let ready = match &containers_ready {
        Ok(()) => gates(&spec.readiness_gates.unwrap_or_default(), &before),
        Err(reason) => Err(reason.clone()),
    };
    let mut conditions = before.conditions.unwrap_or_default();
    let has_sandbox =
        if condition.address.is_some() { Ok(()) } else { Err(Reason { reason: "", message: String::new() }) };
    for (kind, outcome) in [
        ("PodReadyToStartContainers", has_sandbox),
        ("Initialized", Ok(())),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Ok(())),
    ] {
        set(&mut conditions, kind, outcome, pod.metadata.generation, now);
    }
    status.conditions = Some(conditions);
    status
}

#[derive(Clone)]
struct Reason {
    reason: &'static str,
    message: String,
}

/// A pod with readiness gates is ready when their conditions, which others write, are true.
fn gates(gates: &[k8s_openapi::api::core::v1::PodReadinessGate], before: &PodStatus) -> Result<(), Reason> {
    let conditions = before.conditions.as_deref().unwrap_or_default();
    let closed = gates.iter().find(|gate| {
        !conditions.iter().any(|known| known.type_ == gate.condition_type && known.status == "True")
    });
    match closed {
        None => Ok(()),
        Some(gate) => Err(Reason {
            reason: "ReadinessGatesNotReady",
            message: format!("the status of pod readiness gate {:?} is not \"True\"", gate.condition_type),
        }),
    }
}

fn set(
    conditions: &mut Vec<PodCondition>,
    kind: &str,
    outcome: Result<(), Reason>,
    generation: Option<i64>,
    now: Timestamp,
) {
    let status = if outcome.is_ok() { "True" } else { "False" };
    let (reason, message) = match outcome {
        Ok(()) => (None, None),
        Err(why) => ((!why.reason.is_empty()).then(|| why.reason.to_owned()), Some(why.message)),
    };
    let known = conditions.iter().position(|condition| condition.type_ == kind);
    let since = known.map(|index| &conditions[index]).filter(|known| known.status == status);
    let since = since.and_then(|known| known.last_transition_time.clone());
    let condition = PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason,
        message: message.filter(|message| !message.is_empty()),
        last_transition_time: Some(since.unwrap_or_else(|| Time::from(now))),
        observed_generation: generation,
        ..PodCondition::default()
    };
    match known {
        Some(index) => conditions[index] = condition,
        None => conditions.push(condition),
    }
}

fn container_status(
    pod: &Pod,
    container: &Container,
    condition: &Condition<'_>,
    before: &PodStatus,
) -> ContainerStatus {
    let known = before.container_statuses.as_deref().unwrap_or_default();
    let known = known.iter().find(|status| status.name == container.name);
    match condition.waiting.iter().find(|waiting| waiting.container == container.name) {
        None => running_status(pod, container, condition),
        Some(waiting) => ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            restart_count: known.map_or(0, |known| known.restart_count),
            started: Some(false),
            state: Some(ContainerState {
                waiting: Some(ContainerStateWaiting {
                    reason: Some(waiting.reason.to_owned()),
                    message: (!waiting.message.is_empty()).then(|| waiting.message.clone()),
                }),
                ..ContainerState::default()
            }),
            last_state: Some(ContainerState::default()),
            ..ContainerStatus::default()
        },
    }
}

fn running_status(pod: &Pod, container: &Container, condition: &Condition<'_>) -> ContainerStatus {
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        image_id: image_id(container),
        container_id: Some(container_id(pod, container, condition.restarts)),
        ready: true,
        restart_count: condition.restarts,
        started: Some(true),
        state: Some(ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time::from(condition.started)) }),
            ..ContainerState::default()
        }),
        last_state: Some(ContainerState::default()),
        ..ContainerStatus::default()
    }
}

/// Init containers are done as soon as the pod has its place; those that always restart go on beside the others.
fn init_status(
    pod: &Pod,
    container: &Container,
    condition: &Condition<'_>,
    before: &PodStatus,
) -> ContainerStatus {
    if container.restart_policy.as_deref() == Some("Always") {
        return container_status(pod, container, condition, before);
    }
    let mut status = running_status(pod, container, condition);
    let at = Some(Time::from(condition.started));
    status.started = Some(false);
    status.state = Some(ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: status.container_id.clone(),
            exit_code: 0,
            reason: Some("Completed".into()),
            started_at: at.clone(),
            finished_at: at,
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    });
    status
}

/// Says what it is: there is no image here to have a digest.
fn image_id(container: &Container) -> String {
    format!("weir.dev/stand-in/{}", container.image.as_deref().unwrap_or_default())
}

fn container_id(pod: &Pod, container: &Container, restarts: i32) -> String {
    let name = format!("{}/{}/{restarts}", pod.uid().unwrap_or_default(), container.name);
    format!("weir://{}", uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, name.as_bytes()).simple())
}

/// Kubernetes' quality of service class, from requests and limits of CPU and memory.
fn quality(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else { return "BestEffort" };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let (mut any, mut guaranteed) = (false, true);
    for container in containers {
        let resources = container.resources.clone().unwrap_or_default();
        let (requests, limits) =
            (resources.requests.unwrap_or_default(), resources.limits.unwrap_or_default());
        for resource in ["cpu", "memory"] {
            let (request, limit) = (requests.get(resource), limits.get(resource));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

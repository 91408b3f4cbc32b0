//! Starting a pod's stand-ins: an address whose ports are free, an environment, sockets.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use parking_lot::Mutex;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::address::Addresses;
use super::answer::{Attempts, MadeBy, Stand};
use super::behaviour::{Behaviour, Speaks, Transport, WantedPort, is_only_listener, tls_paths};
use super::environment::{self, Addressed, Environment, Sources};
use super::listen::{self, BindError, Bound};
use super::serve::{Serving, Spoken};
use super::status::{HOST_ADDRESS, Waiting};
use super::tls::{self, TlsError};
use super::volumes::Volumes;
use crate::logs::LogSource;

/// Addresses that are tried when ports of one are in use. Unit: addresses. Source: ours; another sandbox with the
/// same range has a few in a row, a listener on all addresses has every one.
const ADDRESSES_TRIED: usize = 64;

/// Ports that are served elsewhere than asked.
pub(super) type MovedPorts = BTreeMap<(Transport, u16), u16>;

/// What a start needs.
pub(super) struct Means<'a> {
    pub(super) addresses: &'a Mutex<Addresses>,
    pub(super) runtime: &'a Handle,
    pub(super) places: &'a Arc<Semaphore>,
    pub(super) logs: &'a LogSource,
    pub(super) low_port_fallback: bool,
}

/// A pod that serves.
pub(super) struct Started {
    pub(super) address: Ipv4Addr,
    pub(super) serving: Serving,
    pub(super) moved: MovedPorts,
    /// Containers whose ports other containers of the pod have.
    pub(super) waiting: Vec<Waiting>,
    /// One line per container that serves.
    pub(super) told: Vec<String>,
}

/// A pod that cannot serve now.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) waiting: Vec<Waiting>,
    /// Reason and message of an event about the pod as a whole.
    pub(super) told: Option<(&'static str, String)>,
    /// A watch tells when to try again, so no clock is needed.
    pub(super) told_when_changed: bool,
}

/// What of a pod's spec the stand-ins are made from; a change of it restarts them.
pub(super) fn made_from(pod: &Pod) -> Value {
    let spec = pod.spec.as_ref();
    let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    json!([containers, init])
}

pub(super) fn start(pod: &Pod, sources: &impl Sources, means: &Means<'_>) -> Result<Started, Refused> {
    // A pod keeps its address over a restart of the process.
    let known = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    let mut known = known.and_then(|text| text.parse::<Ipv4Addr>().ok());
    let mut in_use = None;
    for _ in 0..ADDRESSES_TRIED {
        let address = match known.take() {
            Some(address) if means.addresses.lock().take(address) => address,
            _ => match means.addresses.lock().take_next() {
                Some(address) => address,
                None => {
                    return Err(all_wait(pod, "NoFreeAddress", "the pods' address range is used up", false));
                }
            },
        };
        match start_at(pod, address, sources, means) {
            Ok(started) => return Ok(started),
            Err(failure) => {
                means.addresses.lock().release(address);
                match failure {
                    Failure::InUse(waiting) => in_use = Some(waiting),
                    Failure::Refused(refused) => return Err(refused),
                }
            }
        }
    }
    let waiting = in_use.into_iter().collect::<Vec<_>>();
    Err(Refused { waiting: with_others(pod, waiting), told: None, told_when_changed: false })
}

enum Failure {
    /// Somebody else has a port at this address; another address may do.
    InUse(Waiting),
    Refused(Refused),
}

fn start_at(
    pod: &Pod,
    address: Ipv4Addr,
    sources: &impl Sources,
    means: &Means<'_>,
) -> Result<Started, Failure> {
    let volumes = Volumes::resolve(pod, sources).map_err(|error| {
        let waiting = with_others(pod, Vec::new());
        let told = Some(("FailedMount", error.to_string()));
        Failure::Refused(Refused { waiting, told, told_when_changed: true })
    })?;
    let mut ports: BTreeMap<(Transport, u16), Bound> = BTreeMap::new();
    let mut served = Vec::new();
    let mut waiting = Vec::new();
    for container in long_running(pod) {
        let environment = environment_of(pod, container, address, sources).map_err(Failure::Refused)?;
        let behaviour = Behaviour::of(container);
        let wanted = behaviour.ports(container, &environment, is_only_listener(pod, container));
        let taken = wanted.iter().find(|port| ports.contains_key(&(port.speaks.transport(), port.number)));
        if let Some(taken) = taken {
            waiting.push(Waiting {
                container: container.name.clone(),
                reason: "PortInUse",
                message: format!("port {} belongs to another container of this pod", taken.number),
            });
            continue;
        }
        let mut configured = Vec::new();
        for port in wanted {
            let transport = port.speaks.transport();
            let tls = tls_of(container, &environment, &volumes, port.speaks)
                .map_err(|error| tls_failure(pod, container, &error))?;
            let bound = listen::bind(address, transport, port.number, means.low_port_fallback)
                .map_err(|error| bind_failure(pod, container, address, error))?;
            ports.insert((transport, port.number), bound);
            configured.push((port, tls));
        }
        let stand = Arc::new(stand(pod, container, behaviour, environment, means.logs));
        served.push((stand, configured));
    }
    let (serving, moved, told) = serve_all(pod, address, means, ports, served)?;
    Ok(Started { address, serving, moved, waiting, told })
}

/// Ports of one container, with the TLS of those that have it.
type Configured = Vec<(WantedPort, Option<Arc<ServerConfig>>)>;

/// Starts to serve what is bound. Tells which ports moved, and a line per container.
fn serve_all(
    pod: &Pod,
    address: Ipv4Addr,
    means: &Means<'_>,
    mut ports: BTreeMap<(Transport, u16), Bound>,
    served: Vec<(Arc<Stand>, Configured)>,
) -> Result<(Serving, MovedPorts, Vec<String>), Failure> {
    let serving = Serving::new();
    let mut moved = BTreeMap::new();
    let mut told = Vec::new();
    for (stand, wanted) in served {
        let mut places = Vec::new();
        for (WantedPort { number, speaks }, tls) in wanted {
            let transport = speaks.transport();
            // Each number was put in for exactly one container.
            let Some(bound) = ports.remove(&(transport, number)) else { continue };
            if bound.real != bound.wanted {
                moved.insert((transport, bound.wanted), bound.real);
            }
            places.push(format!("{address}:{}", bound.real));
            if let Err(error) =
                serving.add(means.runtime, means.places, &stand, bound, Spoken { speaks, tls })
            {
                let message = format!("port {number} cannot be served: {error}");
                return Err(Failure::Refused(all_wait(pod, "ListenFailed", &message, false)));
            }
        }
        let at =
            if places.is_empty() { "without a port".to_owned() } else { format!("at {}", places.join(", ")) };
        let line =
            format!("Started container {}: Weir stands in for image {} {at}", stand.container, stand.image);
        stand.log(&line);
        told.push(line);
    }
    Ok((serving, moved, told))
}

/// The containers that serve: the regular ones and sidecars.
fn long_running(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let regular = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let sidecars = init.iter().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    regular.iter().chain(sidecars)
}

fn environment_of(
    pod: &Pod,
    container: &Container,
    address: Ipv4Addr,
    sources: &impl Sources,
) -> Result<Environment, Refused> {
    let (pod_ip, host_ip) = (address.to_string(), HOST_ADDRESS.to_string());
    let addressed = Addressed { pod_ip: &pod_ip, host_ip: &host_ip };
    environment::resolve(pod, container, &addressed, sources).map_err(|missing| {
        let waiting = Waiting {
            container: container.name.clone(),
            reason: "CreateContainerConfigError",
            message: missing.to_string(),
        };
        Refused { waiting: with_others(pod, vec![waiting]), told: None, told_when_changed: true }
    })
}

/// The TLS of a port; None where it has none.
fn tls_of(
    container: &Container,
    environment: &Environment,
    volumes: &Volumes,
    speaks: Speaks,
) -> Result<Option<Arc<ServerConfig>>, TlsError> {
    if !speaks.over_tls() {
        return Ok(None);
    }
    let Some(paths) = tls_paths(environment, speaks) else { return Ok(None) };
    let file = |path| match volumes.file(container, path) {
        Some(text) => Ok(tls::File { path, text }),
        None => Err(TlsError::NoFile(path.to_owned())),
    };
    let client_ca = paths.client_ca.map(file).transpose()?;
    let alpn: &[&str] = match speaks {
        Speaks::Https => &["h2", "http/1.1"],
        Speaks::GrpcOverTls => &["h2"],
        _ => &[],
    };
    tls::server_config(&file(paths.certificate)?, &file(paths.key)?, client_ca.as_ref(), alpn).map(Some)
}

/// The program stood in for ends when it cannot read its files, and is started again when they may have changed.
fn tls_failure(pod: &Pod, container: &Container, error: &TlsError) -> Failure {
    let waiting =
        Waiting { container: container.name.clone(), reason: "CrashLoopBackOff", message: error.to_string() };
    let waiting = with_others(pod, vec![waiting]);
    Failure::Refused(Refused { waiting, told: None, told_when_changed: true })
}

fn bind_failure(pod: &Pod, container: &Container, address: Ipv4Addr, error: BindError) -> Failure {
    let waiting = |reason| Waiting {
        container: container.name.clone(),
        reason,
        message: format!("{error} (tried at {address} last)"),
    };
    match &error {
        BindError::InUse(_) => Failure::InUse(waiting("PortInUse")),
        BindError::NotAllowed(_) => Failure::Refused(Refused {
            waiting: with_others(pod, vec![waiting("PortNotAllowed")]),
            told: None,
            told_when_changed: false,
        }),
        BindError::Other(..) => Failure::Refused(Refused {
            waiting: with_others(pod, vec![waiting("ListenFailed")]),
            told: None,
            told_when_changed: false,
        }),
    }
}

fn all_wait(pod: &Pod, reason: &'static str, message: &str, told_when_changed: bool) -> Refused {
    let waiting = long_running(pod).map(|container| Waiting {
        container: container.name.clone(),
        reason,
        message: message.to_owned(),
    });
    Refused { waiting: waiting.collect(), told: None, told_when_changed }
}

/// The containers that have nothing wrong wait for those that do.
fn with_others(pod: &Pod, mut waiting: Vec<Waiting>) -> Vec<Waiting> {
    for container in long_running(pod) {
        if !waiting.iter().any(|known| known.container == container.name) {
            waiting.push(Waiting {
                container: container.name.clone(),
                reason: "ContainerCreating",
                message: String::new(),
            });
        }
    }
    waiting
}

fn stand(
    pod: &Pod,
    container: &Container,
    behaviour: Behaviour,
    environment: Environment,
    logs: &LogSource,
) -> Stand {
    Stand {
        behaviour,
        environment,
        pod: pod.name_any(),
        pod_uid: pod.uid().unwrap_or_default(),
        namespace: pod.namespace().unwrap_or_default(),
        made_by: made_by(pod),
        container: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        logs: logs.clone(),
        attempts: Attempts::default(),
    }
}

/// A ReplicaSet with a template hash is a Deployment's.
fn made_by(pod: &Pod) -> MadeBy {
    let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    let Some(owner) = owner else {
        return MadeBy { kind: "Pod".into(), name: pod.name_any() };
    };
    let hash = pod.labels().get("pod-template-hash").map(|hash| format!("-{hash}"));
    let deployment = hash.and_then(|hash| owner.name.strip_suffix(&hash));
    match deployment {
        Some(name) if owner.kind == "ReplicaSet" => {
            MadeBy { kind: "Deployment".into(), name: name.to_owned() }
        }
        _ => MadeBy { kind: owner.kind.clone(), name: owner.name.clone() },
    }
}

//! The one node.
//!
//! Owns: the Node object `weir` and its status. It comes back when somebody deletes it.

use std::collections::BTreeMap;
use std::future::Future;

use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeStatus, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use super::NODE_NAME;
use super::cache::ObjectKey;
use super::objects::Objects;
use super::queue::{Next, Queue};
use crate::pods::HOST_ADDRESS;

/// Pods that the node says it has room for. Source: the sandbox is tested with as many.
const PODS: u32 = 1000;

/// Registers with the cache at once; the future works until `shutdown`.
pub(super) fn run(client: Client, shutdown: CancellationToken) -> impl Future<Output = ()> {
    let queue = Queue::new();
    let nodes: Objects<Node> = Objects::new(client.clone());
    let keys = queue.clone();
    nodes.observe(move |_| keys.add(()));
    queue.add(());
    async move {
        let follow = tokio::spawn(nodes.clone().follow(shutdown.clone()));
        nodes.wait_listed(&shutdown).await;
        let work = move |()| {
            let (client, nodes) = (client.clone(), nodes.clone());
            async move { reconcile(&client, &nodes).await }
        };
        queue.work(1, shutdown, work).await;
        // It ends by the same token; a panic there was reported where it happened.
        let _ = follow.await;
    }
}

async fn reconcile(client: &Client, nodes: &Objects<Node>) -> Result<Next, kube::Error> {
    let api: Api<Node> = Api::all(client.clone());
    let known = match nodes.get(&ObjectKey::new("", NODE_NAME)) {
        Some(known) => known.as_ref().clone(),
        None => {
            let made = api.create(&PostParams::default(), &node()).await?;
            nodes.wrote(made.clone());
            made
        }
    };
    let wanted = status(known.status.as_ref(), Timestamp::now());
    if known.metadata.deletion_timestamp.is_none() && known.status.as_ref() != Some(&wanted) {
        let told = Node { status: Some(wanted), ..known };
        nodes.wrote(api.replace_status(NODE_NAME, &PostParams::default(), &told).await?);
    }
    Ok(Next::OnChange)
}

fn node() -> Node {
    let labels = [
        ("kubernetes.io/hostname", NODE_NAME),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("node-role.kubernetes.io/control-plane", ""),
    ];
    Node {
        metadata: ObjectMeta {
            name: Some(NODE_NAME.into()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        ..Node::default()
    }
}

fn status(before: Option<&NodeStatus>, now: Timestamp) -> NodeStatus {
    let room = room();
    NodeStatus {
        addresses: Some(vec![
            NodeAddress { type_: "InternalIP".into(), address: HOST_ADDRESS.to_string() },
            NodeAddress { type_: "Hostname".into(), address: NODE_NAME.into() },
        ]),
        allocatable: Some(room.clone()),
        capacity: Some(room),
        conditions: Some(conditions(before, now)),
        node_info: Some(NodeSystemInfo {
            architecture: architecture().into(),
            operating_system: "linux".into(),
            os_image: "Weir sandbox".into(),
            kernel_version: kernel_version(),
            kubelet_version: concat!("v", env!("CARGO_PKG_VERSION"), "-weir").into(),
            container_runtime_version: concat!("weir://", env!("CARGO_PKG_VERSION")).into(),
            ..NodeSystemInfo::default()
        }),
        ..before.cloned().unwrap_or_default()
    }
}

fn conditions(before: Option<&NodeStatus>, now: Timestamp) -> Vec<NodeCondition> {
    let known = before.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let all = [
        ("MemoryPressure", "False", "HasSufficientMemory"),
        ("DiskPressure", "False", "HasNoDiskPressure"),
        ("PIDPressure", "False", "HasSufficientPID"),
        ("Ready", "True", "StandInsReady"),
    ];
    let make = |(kind, status, reason): (&str, &str, &str)| {
        let same = known.iter().find(|known| known.type_ == kind && known.status == status);
        let since = same.and_then(|known| known.last_transition_time.clone());
        let beat = same.and_then(|known| known.last_heartbeat_time.clone());
        NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some("pods on this node are in-process stand-ins".into()),
            last_transition_time: Some(since.unwrap_or_else(|| Time::from(now))),
            last_heartbeat_time: Some(beat.unwrap_or_else(|| Time::from(now))),
        }
    };
    all.map(make).into()
}

fn room() -> BTreeMap<String, Quantity> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    [
        ("cpu", processors.to_string()),
        ("memory", format!("{}Ki", memory_kibibytes())),
        ("pods", PODS.to_string()),
        ("ephemeral-storage", "0".to_owned()),
    ]
    .map(|(name, quantity)| (name.to_owned(), Quantity(quantity)))
    .into()
}

/// The machine's memory; 0 where it cannot be read.
fn memory_kibibytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Empty where it cannot be read.
fn kernel_version() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Kubernetes' name of this processor.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

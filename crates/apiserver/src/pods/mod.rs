//! Echo pods: every pod of the node is stood in for by an in-process server on a loopback address of its own.
//!
//! Owns: pods' addresses, sockets, statuses and logs; their end after a graceful deletion.
//!
//! Invariants: a pod is Ready only when its sockets are bound; a pod that is being deleted serves until no
//! EndpointSlice calls it ready and a short drain has passed; an address is one pod's at a time. The sockets live on
//! a runtime of their own, so that load on them starves no controller.
//!
//! Deliberately absent: containers. No image is pulled, no command runs, probes are not asked: a stand-in that is
//! bound answers.

mod address;
mod answer;
mod behaviour;
mod environment;
mod listen;
mod runner;
mod serve;
mod start;
mod status;
mod stream;
mod tls;
mod volumes;

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::logs::LogSource;
use behaviour::Transport;

pub use address::{AddressRange, AddressRangeError};
pub(crate) use status::HOST_ADDRESS;

/// Prefix of the annotation that names the port served in the stead of one that may not be bound.
const MOVED_PORT: &str = "weir.dev/port-";

/// How pods are run.
#[derive(Clone, Debug)]
pub struct PodsConfig {
    /// Where pods' addresses come from. Default 127.80.0.0/16.
    pub addresses: AddressRange,
    /// Serve a port under 1024 that may not be bound at the first free of p+8000, p+18000, …. Default true.
    pub low_port_fallback: bool,
    /// How long a pod goes on serving after no EndpointSlice calls it ready any more. Default 250 ms.
    pub drain: Duration,
    /// Threads that serve all pods' sockets. Default 2.
    pub threads: usize,
}

impl Default for PodsConfig {
    fn default() -> Self {
        Self {
            addresses: AddressRange::DEFAULT,
            low_port_fallback: true,
            drain: Duration::from_millis(250),
            threads: 2,
        }
    }
}

/// Runs the node's pods until `shutdown`. Resolves when every socket is closed.
pub async fn run(client: Client, config: PodsConfig, logs: LogSource, shutdown: CancellationToken) {
    runner::run(client, config, logs, shutdown).await;
}

/// The port at which a pod really serves its container port `number`.
pub(crate) fn published_port(pod: &Pod, number: i32, protocol: &str) -> i32 {
    let transport = match protocol {
        "TCP" => Transport::Tcp,
        "UDP" => Transport::Udp,
        _ => return number,
    };
    let moved = pod.annotations().get(&moved_port(transport, number));
    moved.and_then(|text| text.parse::<u16>().ok()).map_or(number, i32::from)
}

/// The annotation that says where the port is served: `weir.dev/port-80`, `weir.dev/port-53-udp`.
fn moved_port(transport: Transport, number: impl std::fmt::Display) -> String {
    match transport {
        Transport::Tcp => format!("{MOVED_PORT}{number}"),
        Transport::Udp => format!("{MOVED_PORT}{number}-udp"),
    }
}

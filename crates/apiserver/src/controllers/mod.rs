//! The controllers that Kubernetes itself brings: Deployments to ReplicaSets, ReplicaSets to pods, Services to
//! EndpointSlices, garbage, namespaces, and the one node.
//!
//! Owns: what those controllers write. They speak to a `kube::Client` like any other controller.
//!
//! Invariants: nothing polls; a change is worked on when its watch event, or the answer to our own write, arrives.
//! What to do is decided by pure functions (`plan`) over the objects read; the drivers only carry it out.
//!
//! Deliberately absent: StatefulSets, DaemonSets, Jobs, autoscalers, a scheduler with more than one node.

pub(crate) mod cache;
pub(crate) mod event;
pub(crate) mod naming;
pub(crate) mod objects;
pub(crate) mod queue;

pub(crate) mod endpoint_slice;
pub(crate) mod pod_state;

mod deployment;
mod garbage;
mod inventory;
mod namespace;
mod node;
mod replica_set;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use event::{Events, Recorder};
use inventory::Inventory;
use objects::Objects;

/// The name of the one node.
pub const NODE_NAME: &str = "weir";

/// Keys that one controller works on at a time. Unit: tasks. Source: ours; the API is in process.
const PARALLEL: usize = 16;

/// What the controllers see and write.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) deployments: Objects<Deployment>,
    pub(crate) replica_sets: Objects<ReplicaSet>,
    pub(crate) pods: Objects<Pod>,
    pub(crate) services: Objects<Service>,
    pub(crate) slices: Objects<EndpointSlice>,
    pub(crate) events: Events,
}

/// Runs all controllers until `shutdown`. Resolves when they have ended.
pub async fn run(client: Client, shutdown: CancellationToken) {
    let (events, recorder) = Recorder::new(client.clone(), "weir");
    let view = View {
        deployments: Objects::new(client.clone()),
        replica_sets: Objects::new(client.clone()),
        pods: Objects::new(client.clone()),
        services: Objects::new(client.clone()),
        slices: Objects::new(client.clone()),
        events,
    };
    let inventory = Inventory::new(client.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(recorder.run(shutdown.clone()));
    // Every controller registers its observers before the first watch begins, so none misses an event.
    tasks.spawn(deployment::run(view.clone(), shutdown.clone()));
    tasks.spawn(replica_set::run(view.clone(), shutdown.clone()));
    tasks.spawn(endpoint_slice::run(view.clone(), shutdown.clone()));
    tasks.spawn(garbage::run(client.clone(), inventory.clone(), shutdown.clone()));
    tasks.spawn(namespace::run(client.clone(), inventory.clone(), shutdown.clone()));
    tasks.spawn(node::run(client, shutdown.clone()));
    tasks.spawn(inventory.run(shutdown.clone()));
    tasks.spawn(view.deployments.clone().follow(shutdown.clone()));
    tasks.spawn(view.replica_sets.clone().follow(shutdown.clone()));
    tasks.spawn(view.pods.clone().follow(shutdown.clone()));
    tasks.spawn(view.services.clone().follow(shutdown.clone()));
    tasks.spawn(view.slices.clone().follow(shutdown.clone()));
    while tasks.join_next().await.is_some() {}
}

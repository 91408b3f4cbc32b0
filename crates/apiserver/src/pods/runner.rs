//! The node's part of a pod's life: place, start, status, drain, end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Binding, ConfigMap, ObjectReference, Pod, Secret};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::address::Addresses;
use super::environment::Sources;
use super::serve::{self, PodsRuntime, Serving};
use super::start::{self, MovedPorts, Started};
use super::status::{self, Waiting};
use super::{MOVED_PORT, PodsConfig, moved_port};
use crate::controllers::NODE_NAME;
use crate::controllers::cache::ObjectKey;
use crate::controllers::endpoint_slice::listed;
use crate::controllers::event::{Events, Recorder};
use crate::controllers::objects::Objects;
use crate::controllers::pod_state;
use crate::controllers::queue::{Next, Queue};
use crate::logs::LogSource;

/// Pods worked on at a time. Unit: tasks. Source: ours; the API is in process.
const PARALLEL: usize = 32;
/// A pod that is being deleted waits this long for its endpoint to go, at most. Source: ours; milliseconds are usual.
const LISTED_AT_MOST: Duration = Duration::from_secs(5);
/// Requests in progress at a pod's end get this long at most. Source: Kubernetes' default grace period.
const REQUESTS_AT_MOST: Duration = Duration::from_secs(30);
/// The same when the whole process ends. Source: ours.
const REQUESTS_AT_SHUTDOWN: Duration = Duration::from_secs(1);
/// First and longest wait before a port that somebody else has is tried again. Source: the kubelet's back-off, shorter.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(15);

pub(super) async fn run(client: Client, config: PodsConfig, logs: LogSource, shutdown: CancellationToken) {
    let runtime = match PodsRuntime::start(config.threads) {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(error = %error, "the pods' threads do not start; no pod will run");
            return;
        }
    };
    let (events, recorder) = Recorder::new(client.clone(), "weir-pods");
    let queue = Queue::new();
    let runner = Arc::new(Runner {
        pods: Objects::new(client.clone()),
        config_maps: Objects::new(client.clone()),
        secrets: Objects::new(client.clone()),
        slices: Objects::new(client.clone()),
        client,
        addresses: Mutex::new(Addresses::new(config.addresses, random())),
        places: Arc::new(Semaphore::new(serve::CONNECTIONS)),
        running: Mutex::default(),
        waiting: Mutex::default(),
        closing: TaskTracker::new(),
        queue: queue.clone(),
        config,
        logs,
        events,
        runtime,
    });
    runner.observe();
    let mut tasks = JoinSet::new();
    tasks.spawn(recorder.run(shutdown.clone()));
    tasks.spawn(runner.pods.clone().follow(shutdown.clone()));
    tasks.spawn(runner.config_maps.clone().follow(shutdown.clone()));
    tasks.spawn(runner.secrets.clone().follow(shutdown.clone()));
    tasks.spawn(runner.slices.clone().follow(shutdown.clone()));
    runner.wait_listed(&shutdown).await;
    let work = {
        let runner = runner.clone();
        move |key| runner.clone().sync(key)
    };
    queue.work(PARALLEL, shutdown, work).await;
    while tasks.join_next().await.is_some() {}
    runner.close_all().await;
}

fn random() -> u32 {
    let bytes = *uuid::Uuid::new_v4().as_bytes();
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

struct Runner {
    client: Client,
    config: PodsConfig,
    logs: LogSource,
    events: Events,
    runtime: PodsRuntime,
    pods: Objects<Pod>,
    config_maps: Objects<ConfigMap>,
    secrets: Objects<Secret>,
    slices: Objects<EndpointSlice>,
    addresses: Mutex<Addresses>,
    places: Arc<Semaphore>,
    running: Mutex<BTreeMap<ObjectKey, Running>>,
    /// Pods that could not be started, with the tries so far.
    waiting: Mutex<HashMap<ObjectKey, u32>>,
    closing: TaskTracker,
    queue: Arc<Queue<ObjectKey>>,
}

/// A pod whose sockets are there.
struct Running {
    uid: String,
    address: Ipv4Addr,
    serving: Arc<Serving>,
    /// Ports served elsewhere than asked.
    moved: MovedPorts,
    waiting: Vec<Waiting>,
    started: Timestamp,
    restarts: i32,
    /// What of the spec the stand-ins were made from.
    made_from: Value,
    end: End,
}

/// How far a pod's end has come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    No,
    /// Being deleted since then; it still serves.
    Draining {
        since: Instant,
        unlisted: Option<Instant>,
    },
    Closing,
    Closed,
}

/// What a pod that is being deleted comes to next.
enum Step {
    Wait(Duration),
    Nothing,
    Close(Arc<Serving>),
    Remove,
}

impl Runner {
    fn observe(self: &Arc<Self>) {
        let queue = self.queue.clone();
        self.pods.observe(move |change| {
            if let Some(pod) = change.either() {
                queue.add(ObjectKey::of(pod.as_ref()));
            }
        });
        // Weak, because the caches hold the observers and the runner holds the caches.
        let runner = Arc::downgrade(self);
        self.config_maps.observe(move |change| {
            if let (Some(runner), Some(map)) = (runner.upgrade(), change.either()) {
                runner.retry_waiting(&map.namespace().unwrap_or_default());
            }
        });
        let runner = Arc::downgrade(self);
        self.secrets.observe(move |change| {
            if let (Some(runner), Some(secret)) = (runner.upgrade(), change.either()) {
                runner.retry_waiting(&secret.namespace().unwrap_or_default());
            }
        });
        let queue = self.queue.clone();
        self.slices.observe(move |change| {
            let before = change.before.map(|slice| ready_pods(slice)).unwrap_or_default();
            let after = change.after.map(|slice| ready_pods(slice)).unwrap_or_default();
            let Some(namespace) = change.either().and_then(|slice| slice.namespace()) else { return };
            for (_, name) in before.difference(&after) {
                queue.add(ObjectKey::new(namespace.clone(), *name));
            }
        });
    }

    async fn wait_listed(&self, shutdown: &CancellationToken) {
        self.pods.wait_listed(shutdown).await;
        self.config_maps.wait_listed(shutdown).await;
        self.secrets.wait_listed(shutdown).await;
        self.slices.wait_listed(shutdown).await;
    }

    fn retry_waiting(&self, namespace: &str) {
        let waiting = self.waiting.lock();
        let mut keys: Vec<_> = waiting.keys().filter(|key| key.namespace == namespace).cloned().collect();
        drop(waiting);
        keys.sort();
        for key in keys {
            self.queue.add(key);
        }
    }

    async fn sync(self: Arc<Self>, key: ObjectKey) -> Result<Next, kube::Error> {
        let pod = self.pods.get(&key);
        let other = self.running.lock().get(&key).is_some_and(|running| {
            pod.as_ref().is_none_or(|pod| pod.metadata.uid.as_deref() != Some(&running.uid))
        });
        if other {
            self.stop(&key);
        }
        let Some(pod) = pod else {
            self.waiting.lock().remove(&key);
            return Ok(Next::OnChange);
        };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        if node.is_some_and(|node| node != NODE_NAME) {
            return Ok(Next::OnChange);
        }
        if pod.metadata.deletion_timestamp.is_some() {
            return self.end(&key, &pod).await;
        }
        if pod_state::has_ended(&pod) {
            self.stop(&key);
            return Ok(Next::OnChange);
        }
        if node.is_none() {
            return self.bind(&pod).await;
        }
        self.run_pod(key, &pod).await
    }

    /// There is one node to choose.
    async fn bind(&self, pod: &Pod) -> Result<Next, kube::Error> {
        let namespace = pod.namespace().unwrap_or_default();
        let binding = Binding {
            metadata: ObjectMeta { name: Some(pod.name_any()), uid: pod.uid(), ..ObjectMeta::default() },
            target: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: Some(NODE_NAME.into()),
                ..ObjectReference::default()
            },
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let (name, params) = (pod.name_any(), PostParams::default());
        match api.create_subresource::<Binding, Value>("binding", &name, &params, &binding).await {
            Ok(_) => {
                let message = format!("Successfully assigned {namespace}/{} to {NODE_NAME}", pod.name_any());
                self.events.named("default-scheduler").normal(pod, "Scheduled", message);
                Ok(Next::OnChange)
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Next::OnChange),
            Err(error) => Err(error),
        }
    }

    async fn run_pod(&self, key: ObjectKey, pod: &Arc<Pod>) -> Result<Next, kube::Error> {
        let made_from = start::made_from(pod);
        let changed = self.running.lock().get(&key).is_some_and(|running| running.made_from != made_from);
        let mut restarts = restarts(pod);
        if changed {
            self.restart(&key).await;
            restarts += 1;
        }
        if !self.running.lock().contains_key(&key) {
            match self.start(&key, pod) {
                Ok(started) => self.keep(key.clone(), pod, started, restarts, made_from),
                Err(refused) => return self.report_refusal(&key, pod, &refused).await,
            }
        }
        self.report(&key, pod).await?;
        Ok(Next::OnChange)
    }

    /// Closes a pod's sockets so that others can be bound at the same address.
    async fn restart(&self, key: &ObjectKey) {
        let Some(running) = self.running.lock().remove(key) else { return };
        running.serving.close(REQUESTS_AT_SHUTDOWN).await;
        self.addresses.lock().release(running.address);
    }

    fn start(&self, key: &ObjectKey, pod: &Pod) -> Result<Started, start::Refused> {
        let sources = NamespaceSources { runner: self, namespace: &key.namespace };
        let means = start::Means {
            addresses: &self.addresses,
            runtime: self.runtime.handle(),
            places: &self.places,
            logs: &self.logs,
            low_port_fallback: self.config.low_port_fallback,
        };
        start::start(pod, &sources, &means)
    }

    fn keep(&self, key: ObjectKey, pod: &Pod, started: Started, restarts: i32, made_from: Value) {
        self.waiting.lock().remove(&key);
        for told in &started.told {
            self.events.normal(pod, "Started", told.clone());
        }
        for ((_, wanted), real) in &started.moved {
            let message = format!(
                "port {wanted} needs the right to bind ports under 1024; it is served at {}:{real}, \
                 and Services send there",
                started.address
            );
            self.events.warning(pod, "PortMoved", message);
        }
        for waiting in &started.waiting {
            self.events.warning(
                pod,
                waiting.reason,
                format!("container {}: {}", waiting.container, waiting.message),
            );
        }
        let running = Running {
            uid: pod.uid().unwrap_or_default(),
            address: started.address,
            serving: Arc::new(started.serving),
            moved: started.moved,
            waiting: started.waiting,
            started: whole_second(Timestamp::now()),
            restarts,
            made_from,
            end: End::No,
        };
        self.running.lock().insert(key, running);
    }

    /// Writes what runs: first where moved ports are, then that the pod is ready.
    async fn report(&self, key: &ObjectKey, pod: &Arc<Pod>) -> Result<(), kube::Error> {
        let (moved, address, waiting, started, restarts) = {
            let running = self.running.lock();
            let Some(running) = running.get(key) else { return Ok(()) };
            (
                running.moved.clone(),
                running.address,
                running.waiting.clone(),
                running.started,
                running.restarts,
            )
        };
        let mut pod = pod.clone();
        if let Some(annotations) = moved_annotations(&pod, &moved) {
            let patch = json!({ "metadata": { "uid": pod.uid(), "annotations": annotations } });
            pod = match self.pods.merge(&pod, &patch).await {
                Ok(pod) => pod,
                Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
                Err(error) => return Err(error),
            };
        }
        let condition = status::Condition { address: Some(address), waiting: &waiting, started, restarts };
        self.write_status(&pod, &condition).await
    }

    async fn report_refusal(
        &self,
        key: &ObjectKey,
        pod: &Pod,
        refused: &start::Refused,
    ) -> Result<Next, kube::Error> {
        let tries = {
            let mut waiting = self.waiting.lock();
            let tries = waiting.entry(key.clone()).or_insert(0);
            *tries += 1;
            *tries
        };
        for waiting in refused.waiting.iter().filter(|waiting| !waiting.message.is_empty()) {
            let message = format!("container {}: {}", waiting.container, waiting.message);
            self.events.warning(pod, waiting.reason, message);
        }
        if let Some((reason, message)) = &refused.told {
            self.events.warning(pod, reason, message.clone());
        }
        let condition = status::Condition {
            address: None,
            waiting: &refused.waiting,
            started: whole_second(Timestamp::now()),
            restarts: restarts(pod),
        };
        self.write_status(pod, &condition).await?;
        if refused.told_when_changed {
            return Ok(Next::OnChange);
        }
        let delay = FIRST_RETRY.saturating_mul(1 << tries.min(10)).min(LONGEST_RETRY);
        Ok(Next::After(delay))
    }

    async fn write_status(&self, pod: &Pod, condition: &status::Condition<'_>) -> Result<(), kube::Error> {
        let wanted = status::status(pod, condition, whole_second(Timestamp::now()));
        if pod.status.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let updated = Pod { status: Some(wanted), ..pod.clone() };
        match self.pods.replace_status(&updated).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            answer => answer.map(|_| ()),
        }
    }

    /// One step of a pod's end: unlisted, drained, closed, removed.
    async fn end(self: &Arc<Self>, key: &ObjectKey, pod: &Arc<Pod>) -> Result<Next, kube::Error> {
        self.waiting.lock().remove(key);
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        if self.running.lock().get(key).is_some_and(|running| running.end == End::No) {
            for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
                self.events.normal(pod.as_ref(), "Killing", format!("Stopping container {}", container.name));
            }
        }
        let serving = match self.next_step(key, self.is_listed(pod), grace) {
            Step::Wait(delay) => return Ok(Next::After(delay)),
            Step::Nothing => return Ok(Next::OnChange),
            Step::Remove => {
                self.pods.delete(pod, Some(0)).await?;
                return Ok(Next::OnChange);
            }
            Step::Close(serving) => serving,
        };
        let (runner, key, uid) = (self.clone(), key.clone(), pod.uid());
        self.closing.spawn(async move {
            serving.close(grace.min(REQUESTS_AT_MOST)).await;
            if let Some(running) = runner.running.lock().get_mut(&key)
                && uid.as_deref() == Some(&running.uid)
            {
                running.end = End::Closed;
            }
            runner.queue.add(key);
        });
        Ok(Next::OnChange)
    }

    fn next_step(&self, key: &ObjectKey, listed: bool, grace: Duration) -> Step {
        let mut running = self.running.lock();
        let Some(running) = running.get_mut(key) else { return Step::Remove };
        let (since, unlisted) = match running.end {
            End::No => (Instant::now(), None),
            End::Draining { since, unlisted } => (since, unlisted),
            End::Closing => return Step::Nothing,
            End::Closed => return Step::Remove,
        };
        let now = Instant::now();
        let patience = LISTED_AT_MOST.min(grace).saturating_sub(now - since);
        if listed && unlisted.is_none() && !patience.is_zero() {
            running.end = End::Draining { since, unlisted: None };
            return Step::Wait(patience);
        }
        let unlisted = unlisted.unwrap_or(now);
        let rest = self.config.drain.min(grace).saturating_sub(now - unlisted);
        if rest.is_zero() {
            running.end = End::Closing;
            return Step::Close(running.serving.clone());
        }
        running.end = End::Draining { since, unlisted: Some(unlisted) };
        Step::Wait(rest)
    }

    /// Whether an EndpointSlice still sends new requests to the pod.
    fn is_listed(&self, pod: &Pod) -> bool {
        let Some(uid) = pod.metadata.uid.as_deref() else { return false };
        let slices = self.slices.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default());
        slices.iter().any(|slice| {
            listed(slice).iter().any(|endpoint| {
                let target = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref());
                target == Some(uid) && is_ready(endpoint)
            })
        })
    }

    /// Forgets a pod that is gone: closes its sockets, then gives its address back.
    fn stop(self: &Arc<Self>, key: &ObjectKey) {
        let Some(running) = self.running.lock().remove(key) else { return };
        let runner = self.clone();
        self.closing.spawn(async move {
            running.serving.close(REQUESTS_AT_SHUTDOWN).await;
            runner.addresses.lock().release(running.address);
            runner.logs.forget(&running.uid);
        });
    }

    async fn close_all(&self) {
        let running = std::mem::take(&mut *self.running.lock());
        let closes = running.values().map(|running| running.serving.close(REQUESTS_AT_SHUTDOWN));
        futures::future::join_all(closes).await;
        self.closing.close();
        self.closing.wait().await;
    }
}

/// ConfigMaps and Secrets of one namespace.
struct NamespaceSources<'a> {
    runner: &'a Runner,
    namespace: &'a str,
}

impl Sources for NamespaceSources<'_> {
    fn config_map(&self, name: &str) -> Option<BTreeMap<String, String>> {
        let map = self.runner.config_maps.get(&ObjectKey::new(self.namespace, name))?;
        Some(map.data.clone().unwrap_or_default())
    }

    fn secret(&self, name: &str) -> Option<BTreeMap<String, String>> {
        let secret = self.runner.secrets.get(&ObjectKey::new(self.namespace, name))?;
        let entries = secret.data.iter().flatten();
        let text = entries
            .filter_map(|(key, value)| Some((key.clone(), std::str::from_utf8(&value.0).ok()?.to_owned())));
        Some(text.collect())
    }
}

fn ready_pods(slice: &EndpointSlice) -> BTreeSet<(&str, &str)> {
    let ready = listed(slice).iter().filter(|endpoint| is_ready(endpoint));
    let targets = ready.filter_map(|endpoint| endpoint.target_ref.as_ref());
    targets.filter_map(|target| Some((target.uid.as_deref()?, target.name.as_deref()?))).collect()
}

fn is_ready(endpoint: &k8s_openapi::api::discovery::v1::Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

/// The annotations to change so that they say where moved ports are; None when they do already.
fn moved_annotations(pod: &Pod, moved: &MovedPorts) -> Option<BTreeMap<String, Option<String>>> {
    let wanted: BTreeMap<String, String> = moved
        .iter()
        .map(|((transport, wanted), real)| (moved_port(*transport, wanted), real.to_string()))
        .collect();
    let known = pod.annotations().iter().filter(|(key, _)| key.starts_with(MOVED_PORT));
    let mut changes: BTreeMap<String, Option<String>> =
        known.filter(|(key, _)| !wanted.contains_key(*key)).map(|(key, _)| (key.clone(), None)).collect();
    for (key, value) in wanted {
        if pod.annotations().get(&key) != Some(&value) {
            changes.insert(key, Some(value));
        }
    }
    (!changes.is_empty()).then_some(changes)
}

/// The most restarts of the pod's containers so far.
fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    statuses.unwrap_or_default().iter().map(|status| status.restart_count).max().unwrap_or(0)
}

/// The API keeps times in whole seconds, and a status must compare equal to what it became there.
fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

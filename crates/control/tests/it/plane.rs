//! A running control plane over the scripted API, with a data plane that records what it gets and answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir_control::{ControlConfig, ControlStatus, Provision, Sandbox};
use weir_model::resource::{Applied, BindReport, Body, Resource, Update};

use crate::api::{Api, GATEWAY_API};

/// How long a condition may take to come true. With the clock paused this is no real time.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the data plane runs.
#[derive(Default)]
struct Ran {
    resources: BTreeMap<String, Resource>,
    updates: Vec<Update>,
    /// When each update came.
    at: Vec<tokio::time::Instant>,
    silent: bool,
    unanswered: Vec<u64>,
    /// Real ports by listener port.
    remap: BTreeMap<u32, u32>,
    /// Errors by listener port.
    broken: BTreeMap<u32, String>,
    rejects: Vec<(String, String)>,
}

impl Ran {
    fn report(&self, sequence: u64) -> Applied {
        let mut binds: BTreeMap<(String, u32), BindReport> = BTreeMap::new();
        for resource in self.resources.values() {
            let Some(Body::Listener(listener)) = &resource.body else { continue };
            let error = self.broken.get(&listener.port).cloned().unwrap_or_default();
            let port = self.remap.get(&listener.port).copied().unwrap_or(listener.port);
            let bound_port = if error.is_empty() { port } else { 0 };
            let report = BindReport {
                address: listener.address.clone(),
                port: listener.port,
                bound_port,
                error,
                udp: false,
            };
            binds.insert((listener.address.clone(), listener.port), report);
        }
        let rejected = self
            .rejects
            .iter()
            .map(|(key, reason)| weir_model::resource::Rejected { key: key.clone(), reason: reason.clone() });
        Applied {
            sequence,
            binds: binds.into_values().collect(),
            rejected: rejected.collect(),
            ..Applied::default()
        }
    }
}

pub(crate) struct Plane {
    pub(crate) api: Api,
    pub(crate) status: Arc<ControlStatus>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<()>,
    ran: Arc<Mutex<Ran>>,
    answer: Arc<Notify>,
    takes: watch::Sender<bool>,
}

impl Plane {
    pub(crate) fn start(api: Api) -> Plane {
        Plane::start_with(api, Provision::Sandbox(Sandbox::new("127.64.0.0/16".parse().unwrap())))
    }

    pub(crate) fn start_with(api: Api, provision: Provision) -> Plane {
        let ran: Arc<Mutex<Ran>> = Arc::default();
        let answer = Arc::new(Notify::new());
        let (updates, mut coming) = mpsc::channel::<Update>(1);
        let (answers, applied) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        let config = ControlConfig::new(provision);
        let status = Arc::clone(&config.status);
        let task = tokio::spawn(weir_control::run(api.client(), updates, applied, config, shutdown.clone()));
        let (running, asked) = (Arc::clone(&ran), Arc::clone(&answer));
        let (takes, mut taking) = watch::channel(true);
        tokio::spawn(async move {
            loop {
                if taking.wait_for(|takes| *takes).await.is_err() {
                    return;
                }
                let reports: Vec<Applied> = tokio::select! {
                    update = coming.recv() => match update {
                        Some(update) => take(&running, update).into_iter().collect(),
                        None => return,
                    },
                    paused = taking.changed() => match paused {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                    () = asked.notified() => {
                        let mut ran = running.lock().unwrap();
                        let waiting = std::mem::take(&mut ran.unanswered);
                        waiting.into_iter().map(|sequence| ran.report(sequence)).collect()
                    }
                };
                for report in reports {
                    if answers.send(report).await.is_err() {
                        return;
                    }
                }
            }
        });
        Plane { api, status, shutdown, task, ran, answer, takes }
    }

    /// From now on updates are taken and not answered.
    pub(crate) fn fall_silent(&self) {
        self.ran.lock().unwrap().silent = true;
    }

    /// From now on no update is taken.
    pub(crate) fn pause(&self) {
        self.takes.send_replace(false);
    }

    pub(crate) fn resume(&self) {
        self.takes.send_replace(true);
    }

    /// Answer everything, and go on answering.
    pub(crate) fn speak(&self) {
        self.ran.lock().unwrap().silent = false;
        self.answer.notify_one();
    }

    pub(crate) fn remap(&self, port: u32, real: u32) {
        self.ran.lock().unwrap().remap.insert(port, real);
    }

    pub(crate) fn break_port(&self, port: u32, error: &str) {
        self.ran.lock().unwrap().broken.insert(port, error.to_owned());
    }

    pub(crate) fn reject(&self, rejects: &[(&str, &str)]) {
        let rejects = rejects.iter().map(|(key, reason)| ((*key).to_owned(), (*reason).to_owned()));
        self.ran.lock().unwrap().rejects = rejects.collect();
    }

    pub(crate) fn updates(&self) -> Vec<Update> {
        self.ran.lock().unwrap().updates.clone()
    }

    pub(crate) fn last_update_at(&self) -> tokio::time::Instant {
        *self.ran.lock().unwrap().at.last().unwrap()
    }

    pub(crate) fn resources(&self) -> BTreeMap<String, Resource> {
        self.ran.lock().unwrap().resources.clone()
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.ran.lock().unwrap().resources.keys().cloned().collect()
    }

    /// The condition of a Gateway, class or (of its first parent) a route; its `status`, or empty.
    pub(crate) fn condition(&self, plural: &str, namespace: &str, name: &str, type_: &str) -> String {
        let object = self.api.get(plural, namespace, name).unwrap_or_default();
        condition_of(&object, type_)
    }

    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Plane) -> bool) {
        let waited = tokio::time::timeout(DEADLINE, async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        if waited.await.is_err() {
            let dump: Vec<String> = ["gatewayclasses", "gateways", "httproutes", "services", "events"]
                .iter()
                .flat_map(|plural| self.api.all(plural))
                .map(|object| object.to_string())
                .collect();
            panic!("not within {DEADLINE:?}: {what}\nresources {:?}\n{}", self.keys(), dump.join("\n"));
        }
    }

    /// Nothing happens any more: every task is idle.
    pub(crate) async fn settle(&self) {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }
}

fn take(running: &Mutex<Ran>, update: Update) -> Option<Applied> {
    let mut ran = running.lock().unwrap();
    if update.full {
        ran.resources.clear();
    }
    for key in &update.removals {
        ran.resources.remove(key);
    }
    for resource in &update.upserts {
        ran.resources.insert(resource.key().to_owned(), resource.clone());
    }
    let sequence = update.sequence;
    ran.updates.push(update);
    ran.at.push(tokio::time::Instant::now());
    if ran.silent {
        ran.unanswered.push(sequence);
        return None;
    }
    Some(ran.report(sequence))
}

pub(crate) fn condition_of(object: &Value, type_: &str) -> String {
    let status = &object["status"];
    let conditions = if status["parents"].is_array() {
        status["parents"]
            .as_array()
            .unwrap()
            .iter()
            .find(|parent| parent["controllerName"] == "weir.dev/gateway-controller")
            .map_or(&Value::Null, |parent| &parent["conditions"])
    } else {
        &status["conditions"]
    };
    let found = conditions.as_array().into_iter().flatten().find(|condition| condition["type"] == type_);
    found.and_then(|condition| condition["status"].as_str()).unwrap_or_default().to_owned()
}

pub(crate) fn class(name: &str, controller: &str) -> Value {
    json!({
        "apiVersion": format!("{GATEWAY_API}/v1"), "kind": "GatewayClass", "metadata": {"name": name},
        "spec": {"controllerName": controller},
    })
}

pub(crate) fn kong_class() -> Value {
    let mut class = class("kong", "konghq.com/kic-gateway-controller");
    class["metadata"]["annotations"] = json!({"konghq.com/gatewayclass-unmanaged": "true"});
    class
}

pub(crate) fn gateway(name: &str, class: &str) -> Value {
    json!({
        "apiVersion": format!("{GATEWAY_API}/v1"), "kind": "Gateway",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"gatewayClassName": class, "listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}},
        ]},
    })
}

pub(crate) fn route(name: &str, gateway: &str, service: &str) -> Value {
    json!({
        "apiVersion": format!("{GATEWAY_API}/v1"), "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"parentRefs": [{"name": gateway}], "rules": [{
            "matches": [{"path": {"type": "PathPrefix", "value": format!("/{name}")}}],
            "backendRefs": [{"name": service, "port": 80}],
        }]},
    })
}

pub(crate) fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}], "selector": {"app": name}},
    })
}

pub(crate) fn slice(service: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-1"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

/// A class, a Gateway `g`, a Service `echo` with a slice.
pub(crate) fn ready_api() -> Api {
    let api = Api::new();
    api.apply(
        "namespaces",
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}),
    );
    api.apply("gatewayclasses", class("weir", "weir.dev/gateway-controller"));
    api.apply("gateways", gateway("g", "weir"));
    api.apply("services", service("echo"));
    api.apply("endpointslices", slice("echo", "127.1.0.1"));
    api
}

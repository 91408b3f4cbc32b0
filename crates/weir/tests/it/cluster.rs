//! Control as it runs in a cluster, over the embedded API in one process: who leads, what is made for Gateways, and what is
//! left alone. The data planes are played: they acknowledge what they are sent and bind what they are told.

mod configured;
mod leading;
mod marks;
mod ports;
mod rivals;
mod services;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams, WatchEvent, WatchParams,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use weir_apiserver::{ApiServer, ApiServerConfig, controllers};
use weir_control::{Cluster, ControlConfig, ControlStatus, Leadership, LeaseConfig, LeaseTimes, Provision};
use weir_model::resource::{Applied, BindReport, Body, KindVersion, PlaneApplied, Update};

use crate::harness::PATIENCE;

const GATEWAY: &str = "gateway.networking.k8s.io/v1/Gateway";
const CLASS: &str = "gateway.networking.k8s.io/v1/GatewayClass";
const SERVICE: &str = "/v1/Service";
const DEPLOYMENT: &str = "apps/v1/Deployment";
const SLICE: &str = "discovery.k8s.io/v1/EndpointSlice";
const CONFIGURATION: &str = "gateway-operator.konghq.com/v2beta1/GatewayConfiguration";
const LEASE: &str = "coordination.k8s.io/v1/Lease";

/// Short, so that a test does not take long; as far apart from one another as the real ones.
const TIMES: LeaseTimes = LeaseTimes {
    duration: Duration::from_secs(3),
    renewal: Duration::from_secs(2),
    retry: Duration::from_millis(400),
};

/// A cluster's API with what Kubernetes itself does about owners, and no pods.
struct Rig {
    client: kube::Client,
    trust: watch::Sender<Arc<str>>,
    stop: CancellationToken,
}

/// One control plane of it.
struct Replica {
    status: Arc<ControlStatus>,
    /// What it told last of the versions that it has read.
    versions: watch::Receiver<Vec<KindVersion>>,
    stop: CancellationToken,
}

impl Rig {
    async fn start() -> Rig {
        let api = ApiServer::new(ApiServerConfig::default()).expect("an API");
        let client = api.client();
        let (trust, _) = watch::channel(Arc::from("-----BEGIN CERTIFICATE-----\n"));
        let stop = CancellationToken::new();
        tokio::spawn(controllers::run(api.client(), stop.clone()));
        let rig = Rig { client, trust, stop };
        rig.create(CLASS, "", "weir", json!({"spec": {"controllerName": "weir.dev/gateway-controller"}}))
            .await;
        rig
    }

    fn control(&self, leadership: Leadership, take_over: bool, namespaces: &[&str]) -> Replica {
        self.control_of("test", leadership, take_over, namespaces)
    }

    /// The control plane of one installation among several.
    fn control_of(
        &self,
        release: &str,
        leadership: Leadership,
        take_over: bool,
        namespaces: &[&str],
    ) -> Replica {
        let mut config = ControlConfig::new(Provision::Cluster(Cluster {
            namespace: "default".to_owned(),
            release: release.to_owned(),
            image: "weir:test".to_owned(),
            pull_policy: Some("Never".to_owned()),
            pull_secrets: vec!["registry".to_owned()],
            log: Some("info".to_owned()),
            controller: "test-controller.default.svc:9902".to_owned(),
            audience: "weir.dev/controller".to_owned(),
            trust: self.trust.subscribe(),
            take_over,
        }));
        config.leadership = leadership;
        config.namespaces = namespaces.iter().map(|name| (*name).to_owned()).collect();
        let status = Arc::clone(&config.status);
        let (updates, wanted) = mpsc::channel(4);
        let (answers, applied) = mpsc::channel(4);
        let stop = self.stop.child_token();
        let (told, versions) = watch::channel(Vec::new());
        tokio::spawn(play(wanted, answers, told));
        tokio::spawn(weir_control::run(self.client.clone(), updates, applied, config, stop.clone()));
        Replica { status, versions, stop }
    }

    /// A candidate with the task that stands for election.
    fn candidate(&self, name: &str) -> (Leadership, CancellationToken, tokio::task::JoinHandle<()>) {
        self.candidate_of("test", name)
    }

    fn candidate_of(
        &self,
        release: &str,
        name: &str,
    ) -> (Leadership, CancellationToken, tokio::task::JoinHandle<()>) {
        let config = LeaseConfig {
            namespace: "default".to_owned(),
            name: format!("{release}-weir-leader"),
            identity: name.to_owned(),
            address: format!("{name}:9902"),
            admin_port: 9_903,
            namespaces: Vec::new(),
            times: TIMES,
        };
        let elector = weir_control::elector(self.client.clone(), Arc::default(), config);
        let (leadership, stop) = (elector.leadership(), self.stop.child_token());
        let task = tokio::spawn(elector.run(stop.clone()));
        (leadership, stop, task)
    }

    fn objects(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let mut parts = kind.rsplitn(3, '/');
        let (kind, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let group = parts.next().unwrap_or_default();
        let mut resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        if kind == "GatewayParameters" {
            // It is its own plural, which is guessed otherwise.
            resource.plural = kind.to_lowercase();
        }
        match namespace {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        }
    }

    async fn create(&self, kind: &str, namespace: &str, name: &str, mut object: Value) {
        let (api_version, of) = kind.rsplit_once('/').expect("a version and a kind");
        object["apiVersion"] = json!(api_version.trim_start_matches('/'));
        object["kind"] = json!(of);
        object["metadata"]["name"] = json!(name);
        let object: DynamicObject = serde_json::from_value(object).expect("an object");
        self.objects(kind, namespace).create(&PostParams::default(), &object).await.expect("it is created");
    }

    async fn gateway(&self, namespace: &str, name: &str, class: &str) {
        let spec = json!({"spec": {"gatewayClassName": class, "listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP"},
        ]}});
        self.create(GATEWAY, namespace, name, spec).await;
    }

    /// A Gateway of class `weir` that clients find at an address.
    async fn programmed(&self, name: &str, address: &str) {
        self.gateway("default", name, "weir").await;
        let service = format!("weir-{name}");
        self.until(SERVICE, "default", &service, Value::is_object).await;
        self.load_balance(&service, json!([{"ip": address}])).await;
        self.endpoint(&service, true).await;
        self.until(GATEWAY, "default", name, |g| condition(g, "Programmed").0 == "True").await;
    }

    /// Gives the Gateway's only listener another port.
    async fn listen(&self, gateway: &str, port: u16) {
        let listeners = json!([{"name": "http", "port": port, "protocol": "HTTP"}]);
        self.patch(GATEWAY, "default", gateway, json!({"spec": {"listeners": listeners}})).await;
    }

    /// Kong's class without a data plane for each Gateway.
    async fn unmanaged_class(&self) {
        let class = json!({
            "metadata": {"annotations": {"konghq.com/gatewayclass-unmanaged": "true"}},
            "spec": {"controllerName": "konghq.com/kic-gateway-controller"},
        });
        self.create(CLASS, "", "kong", class).await;
    }

    async fn patch(&self, kind: &str, namespace: &str, name: &str, patch: Value) {
        let patch = Patch::Merge(patch);
        self.objects(kind, namespace)
            .patch(name, &PatchParams::default(), &patch)
            .await
            .expect("it is patched");
    }

    async fn load_balance(&self, name: &str, ingress: Value) {
        let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": ingress}}}));
        let services = self.objects(SERVICE, "default");
        services.patch_status(name, &PatchParams::default(), &patch).await.expect("an address is given");
    }

    /// Pods behind a Service, ready or not.
    async fn endpoint(&self, service: &str, ready: bool) {
        let slice = json!({
            "metadata": {"labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["192.0.2.77"], "conditions": {"ready": ready}}],
        });
        self.create(SLICE, "default", &format!("{service}-played"), slice).await;
    }

    async fn get(&self, kind: &str, namespace: &str, name: &str) -> Value {
        let object = self.objects(kind, namespace).get_opt(name).await.expect("an answer");
        object.map(|object| serde_json::to_value(object).expect("JSON")).unwrap_or_default()
    }

    /// Every version of an object from now on.
    async fn all_versions(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> impl Stream<Item = Value> + use<> {
        let now = self.get(kind, namespace, name).await;
        let version = now["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let of_name = WatchParams::default().fields(&format!("metadata.name={name}"));
        let events = self.objects(kind, namespace).watch(&of_name, version).await.expect("a watch");
        events.filter_map(|event| async {
            match event.expect("an event") {
                WatchEvent::Modified(object) => serde_json::to_value(object).ok(),
                _ => None,
            }
        })
    }

    /// The object, or null, as soon as it is so.
    async fn until(&self, kind: &str, namespace: &str, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let object = self.get(kind, namespace, name).await;
            if holds(&object) {
                return object;
            }
            assert!(started.elapsed() < PATIENCE, "{kind} {name} did not become so: {object:#}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn event(&self, reason: &str) -> Value {
        let started = Instant::now();
        loop {
            let events =
                self.objects("/v1/Event", "default").list(&ListParams::default()).await.expect("events");
            let found = events.items.iter().map(|event| serde_json::to_value(event).expect("JSON"));
            if let Some(event) = found.into_iter().find(|event| event["reason"] == reason) {
                return event;
            }
            assert!(started.elapsed() < PATIENCE, "no event {reason}: {:#?}", events.items);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Data planes that run at once whatever they are sent.
async fn play(
    mut wanted: mpsc::Receiver<Update>,
    answers: mpsc::Sender<Applied>,
    told: watch::Sender<Vec<KindVersion>>,
) {
    let mut listeners = BTreeMap::new();
    while let Some(update) = wanted.recv().await {
        told.send_replace(update.versions);
        if update.full {
            listeners.clear();
        }
        for resource in &update.upserts {
            if let Some(Body::Listener(listener)) = &resource.body {
                listeners.insert(listener.key.clone(), (listener.address.clone(), listener.port));
            }
        }
        listeners.retain(|key, _| !update.removals.contains(key));
        let bind = |(address, port): &(String, u32)| BindReport {
            address: address.clone(),
            port: *port,
            bound_port: *port,
            ..BindReport::default()
        };
        let plane = |(address, _): &(String, u32)| PlaneApplied {
            place: address.clone(),
            sequence: update.sequence,
            connected: 1,
            ready: 1,
        };
        let answer = Applied {
            sequence: update.sequence,
            binds: listeners.values().map(bind).collect(),
            planes: listeners.values().map(plane).collect(),
            ..Applied::default()
        };
        if answers.send(answer).await.is_err() {
            return;
        }
    }
}

fn condition(object: &Value, type_: &str) -> (String, String, String) {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == type_).unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_gets_a_data_plane_of_its_own_and_its_services_addresses() {
    let rig = Rig::start().await;
    let control = rig.control(Leadership::always(), true, &[]);
    rig.gateway("default", "g", "weir").await;
    let deployment = rig.until(DEPLOYMENT, "default", "weir-g", Value::is_object).await;
    let service = rig.until(SERVICE, "default", "weir-g", Value::is_object).await;
    assert_eq!(service["spec"]["ports"][0]["targetPort"], 80);
    assert_eq!(service["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"]);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["image"], "weir:test");
    assert_eq!(pod["containers"][0]["imagePullPolicy"], "Never");
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "registry"}]));
    assert_eq!(pod["containers"][0]["env"][1], json!({"name": "WEIR_LOG", "value": "info"}));
    assert_eq!(pod["securityContext"]["sysctls"][0]["name"], "net.ipv4.ip_unprivileged_port_start");
    for kind in ["/v1/ServiceAccount", "policy/v1/PodDisruptionBudget", "networking.k8s.io/v1/NetworkPolicy"]
    {
        let made = rig.until(kind, "default", "weir-g", Value::is_object).await;
        assert_eq!(made["metadata"]["ownerReferences"][0]["name"], "g", "{kind}");
    }
    let trust = rig.until("/v1/ConfigMap", "default", "test-weir-authority", Value::is_object).await;
    assert!(trust["data"]["ca.crt"].as_str().unwrap_or_default().starts_with("-----BEGIN"));

    let gateway =
        rig.until(GATEWAY, "default", "g", |g| condition(g, "Programmed").1 == "AddressNotAssigned").await;
    assert_eq!(condition(&gateway, "Accepted").0, "True");
    rig.load_balance(
        "weir-g",
        json!([{"ip": "192.0.2.9"}, {"ip": "192.0.2.10"}, {"hostname": "lb.example"}]),
    )
    .await;
    // The data plane binds at once; what is missing is somebody behind the address.
    rig.endpoint("weir-g", false).await;
    let gateway = rig.until(GATEWAY, "default", "g", |g| condition(g, "Programmed").1 == "Pending").await;
    assert!(condition(&gateway, "Programmed").2.contains("no endpoint of Service default/weir-g"));
    let ready = json!({"endpoints": [{"addresses": ["192.0.2.77"], "conditions": {"ready": true}}]});
    rig.patch(SLICE, "default", "weir-g-played", ready).await;
    let gateway = rig.until(GATEWAY, "default", "g", |g| condition(g, "Programmed").0 == "True").await;
    let values: Vec<&str> = gateway["status"]["addresses"]
        .as_array()
        .expect("addresses")
        .iter()
        .map(|address| address["value"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(values, ["lb.example", "192.0.2.10", "192.0.2.9"], "hostnames first, each sorted");

    // Whoever restarts finds everything as it should be, and writes nothing.
    until("nothing is pending", || control.status.provision_pending.get() == 0).await;
    control.stop.cancel();
    let again = rig.control(Leadership::always(), true, &[]);
    until("it is ready", || again.status.ready()).await;
    until("nothing is pending", || again.status.provision_pending.get() == 0).await;
    assert_eq!(again.status.provision_writes.get(), 0);
}

/// The load balancer gives a Service one address, when it is made, and never another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_made_when_a_gateway_asks_for_an_address_that_one_service_can_have() {
    let rig = Rig::start().await;
    let control = rig.control(Leadership::always(), true, &[]);
    let ask = |values: &[&str]| {
        let addresses: Vec<Value> = values.iter().map(|value| json!({"value": value})).collect();
        json!({"spec": {"addresses": addresses}})
    };
    let mut gateway = ask(&["192.0.2.1", "192.0.2.9"]);
    gateway["spec"]["gatewayClassName"] = json!("weir");
    gateway["spec"]["listeners"] = json!([{"name": "http", "port": 80, "protocol": "HTTP"}]);
    rig.create(GATEWAY, "default", "g", gateway).await;
    rig.until(DEPLOYMENT, "default", "weir-g", Value::is_object).await;
    let told =
        rig.until(GATEWAY, "default", "g", |g| condition(g, "Programmed").1 == "AddressNotUsable").await;
    assert!(condition(&told, "Programmed").2.contains("192.0.2.1, 192.0.2.9"), "{told:#}");
    assert_eq!(condition(&told, "Accepted").0, "True");
    until("nothing is pending", || control.status.provision_pending.get() == 0).await;
    assert_eq!(rig.get(SERVICE, "default", "weir-g").await, Value::Null);

    rig.patch(GATEWAY, "default", "g", ask(&["192.0.2.9"])).await;
    let service = rig.until(SERVICE, "default", "weir-g", Value::is_object).await;
    assert_eq!(service["spec"]["loadBalancerIP"], "192.0.2.9");
    rig.load_balance("weir-g", json!([{"ip": "192.0.2.9"}])).await;
    rig.endpoint("weir-g", true).await;
    rig.until(GATEWAY, "default", "g", |g| condition(g, "Programmed").0 == "True").await;

    // What is there is not taken away by a request that cannot be met; the message of one that is not met says what helps.
    rig.patch(GATEWAY, "default", "g", ask(&["192.0.2.9", "192.0.2.1"])).await;
    rig.until(GATEWAY, "default", "g", |g| condition(g, "Programmed").1 == "AddressNotUsable").await;
    assert!(rig.get(SERVICE, "default", "weir-g").await.is_object());
    rig.patch(GATEWAY, "default", "g", ask(&["192.0.2.1"])).await;
    let is_told = |g: &Value| condition(g, "Programmed").2.contains("delete the Service");
    rig.until(GATEWAY, "default", "g", is_told).await;
    rig.objects(SERVICE, "default").delete("weir-g", &DeleteParams::default()).await.expect("it is deleted");
    let uid = &service["metadata"]["uid"];
    let is_another = |service: &Value| service.is_object() && service["metadata"]["uid"] != *uid;
    let service = rig.until(SERVICE, "default", "weir-g", is_another).await;
    assert_eq!(service["spec"]["loadBalancerIP"], "192.0.2.1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drift_is_repaired_and_what_is_the_users_stays() {
    let rig = Rig::start().await;
    let _control = rig.control(Leadership::always(), true, &[]);
    rig.gateway("default", "g", "weir").await;
    rig.until(SERVICE, "default", "weir-g", Value::is_object).await;
    rig.until(DEPLOYMENT, "default", "weir-g", Value::is_object).await;
    rig.patch(
        DEPLOYMENT,
        "default",
        "weir-g",
        json!({"spec": {"replicas": 4}, "metadata": {"labels": {"theirs": "x"}}}),
    )
    .await;
    rig.patch(
        DEPLOYMENT,
        "default",
        "weir-g",
        json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}),
    )
    .await;
    rig.patch(SERVICE, "default", "weir-g", json!({"spec": {"type": "NodePort"}})).await;
    rig.until(SERVICE, "default", "weir-g", |service| service["spec"]["type"] == "LoadBalancer").await;
    let deployment = rig
        .until(DEPLOYMENT, "default", "weir-g", |deployment| {
            deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 45
        })
        .await;
    assert_eq!(deployment["spec"]["replicas"], 4, "nobody said how many there are to be");
    assert_eq!(deployment["metadata"]["labels"]["theirs"], "x");

    let accounts = rig.objects("/v1/ServiceAccount", "default");
    accounts.delete("weir-g", &DeleteParams::default()).await.expect("it is deleted");
    rig.until("/v1/ServiceAccount", "default", "weir-g", Value::is_object).await;
    rig.patch(GATEWAY, "default", "g", json!({"spec": {"listeners": [
        {"name": "http", "port": 8080, "protocol": "HTTP"}, {"name": "dns", "port": 53, "protocol": "UDP"},
    ]}}))
    .await;
    let ports = |service: &Value| service["spec"]["ports"].as_array().map_or(0, Vec::len);
    rig.until(SERVICE, "default", "weir-g", |service| ports(service) == 2).await;
    let after = rig.get(DEPLOYMENT, "default", "weir-g").await;
    assert_eq!(after["spec"]["template"], deployment["spec"]["template"], "listeners restart no pod");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_ours_is_left_alone_and_that_is_told() {
    let rig = Rig::start().await;
    rig.create(
        DEPLOYMENT,
        "default",
        "weir-g",
        json!({"spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "theirs"}},
            "template": {
                "metadata": {"labels": {"app": "theirs"}},
                "spec": {"containers": [{"name": "theirs", "image": "theirs:1"}]},
            },
        }}),
    )
    .await;
    let _control = rig.control(Leadership::always(), true, &[]);
    rig.gateway("default", "g", "weir").await;
    let gateway = rig.until(GATEWAY, "default", "g", |g| condition(g, "Programmed").1 == "NoResources").await;
    let message = condition(&gateway, "Programmed").2;
    assert!(
        message.contains("Deployment default/weir-g") && message.contains("did not make it"),
        "{message}"
    );
    let theirs = rig.get(DEPLOYMENT, "default", "weir-g").await;
    assert_eq!(theirs["spec"]["template"]["spec"]["containers"][0]["name"], "theirs");

    // A Gateway that goes over to somebody else's class loses what was made for it, and nothing else.
    rig.create(CLASS, "", "other", json!({"spec": {"controllerName": "example.com/other"}})).await;
    rig.patch(GATEWAY, "default", "g", json!({"spec": {"gatewayClassName": "other"}})).await;
    rig.until(SERVICE, "default", "weir-g", Value::is_null).await;
    rig.until("/v1/ServiceAccount", "default", "weir-g", Value::is_null).await;
    assert!(rig.get(DEPLOYMENT, "default", "weir-g").await.is_object());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_gateway_takes_its_data_plane_along() {
    let rig = Rig::start().await;
    let _control = rig.control(Leadership::always(), true, &[]);
    rig.gateway("default", "g", "weir").await;
    rig.until(SERVICE, "default", "weir-g", Value::is_object).await;
    rig.until("/v1/ConfigMap", "default", "test-weir-authority", Value::is_object).await;
    rig.objects(GATEWAY, "default").delete("g", &DeleteParams::default()).await.expect("it is deleted");
    for kind in [
        SERVICE,
        DEPLOYMENT,
        "/v1/ServiceAccount",
        "policy/v1/PodDisruptionBudget",
        "networking.k8s.io/v1/NetworkPolicy",
    ] {
        rig.until(kind, "default", "weir-g", Value::is_null).await;
    }
    rig.until("/v1/ConfigMap", "default", "test-weir-authority", Value::is_null).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unmanaged_gateways_share_the_data_plane_of_the_installation() {
    let rig = Rig::start().await;
    rig.unmanaged_class().await;
    rig.gateway("default", "a", "kong").await;
    let _control = rig.control(Leadership::always(), true, &[]);
    // Class and Gateway may be there before the installation.
    rig.until(GATEWAY, "default", "a", |g| condition(g, "Programmed").1 == "AddressNotAssigned").await;
    rig.create(SERVICE, "default", "test-gateway-proxy", json!({
        "metadata": {"labels": {"weir.dev/instance": "default.test", "weir.dev/provisioned": "shared"}},
        "spec": {"type": "LoadBalancer", "ports": [{"name": "kong-proxy", "port": 80}, {"name": "kong-proxy-tls", "port": 443}]},
    }))
    .await;
    rig.load_balance("test-gateway-proxy", json!([{"ip": "192.0.2.1"}])).await;
    rig.until(GATEWAY, "default", "a", |g| condition(g, "Programmed").1 == "Pending").await;
    rig.endpoint("test-gateway-proxy", true).await;
    let gateway = rig.until(GATEWAY, "default", "a", |g| condition(g, "Programmed").0 == "True").await;
    assert_eq!(gateway["status"]["addresses"][0]["value"], "192.0.2.1");
    rig.listen("a", 8080).await;
    let listened = |service: &Value| -> Vec<u64> {
        let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
        ports.iter().filter_map(|port| port["port"].as_u64()).collect()
    };
    rig.until(SERVICE, "default", "test-gateway-proxy", |service| listened(service).contains(&8080)).await;
    rig.objects(GATEWAY, "default").delete("a", &DeleteParams::default()).await.expect("it is deleted");
    let service = rig.until(SERVICE, "default", "test-gateway-proxy", |s| !listened(s).contains(&8080)).await;
    assert_eq!(listened(&service), [80, 443]);
}

/// Whatever said so before: this controller at the Service before, or another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_class_changes_is_not_programmed_before_its_new_service_leads_anywhere() {
    let rig = Rig::start().await;
    rig.unmanaged_class().await;
    rig.create(CLASS, "", "other", json!({"spec": {"controllerName": "other.example/controller"}})).await;
    rig.gateway("default", "ours", "kong").await;
    rig.gateway("default", "others", "other").await;
    rig.create(
        SERVICE,
        "default",
        "test-gateway-proxy",
        json!({
            "metadata": {"labels": {"weir.dev/instance": "default.test", "weir.dev/provisioned": "shared"}},
            "spec": {"type": "LoadBalancer", "ports": [{"name": "kong-proxy", "port": 80}]},
        }),
    )
    .await;
    rig.load_balance("test-gateway-proxy", json!([{"ip": "192.0.2.1"}])).await;
    rig.endpoint("test-gateway-proxy", true).await;
    let _control = rig.control(Leadership::always(), true, &[]);
    let gateway = rig.until(GATEWAY, "default", "ours", |g| condition(g, "Programmed").0 == "True").await;
    let status = json!({"status": {
        "addresses": [{"type": "IPAddress", "value": "192.0.2.3"}],
        "conditions": gateway["status"]["conditions"],
    }});
    let gateways = rig.objects(GATEWAY, "default");
    let patched = gateways.patch_status("others", &PatchParams::default(), &Patch::Merge(status)).await;
    patched.expect("the other one's status is written");

    for (name, service, address) in
        [("ours", "weir-ours", "192.0.2.5"), ("others", "weir-others", "192.0.2.6")]
    {
        let mut versions = std::pin::pin!(rig.all_versions(GATEWAY, "default", name).await);
        rig.patch(GATEWAY, "default", name, json!({"spec": {"gatewayClassName": "weir"}})).await;
        rig.until(SERVICE, "default", service, Value::is_object).await;
        rig.load_balance(service, json!([{"ip": address}])).await;
        rig.until(GATEWAY, "default", name, |g| condition(g, "Programmed").1 == "Pending").await;
        rig.endpoint(service, true).await;
        let mut said = Vec::new();
        loop {
            let version = tokio::time::timeout(PATIENCE, versions.next()).await;
            let version = version.expect("it is programmed again").expect("a version");
            let (status, _, message) = condition(&version, "Programmed");
            if status == "True" && version["status"]["addresses"][0]["value"] == address {
                break;
            }
            said.push(message);
        }
        let waits = format!("no endpoint of Service default/{service} is ready");
        assert!(said.iter().any(|message| message.contains(&waits)), "{said:#?}");
    }
}

/// A data plane refuses what is older than what another replica sent it, which may have read a status along with a change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_new_a_replica_is_is_told_though_only_a_status_was_written() {
    let rig = Rig::start().await;
    let control = rig.control(Leadership::always(), true, &[]);
    rig.programmed("g", "192.0.2.9").await;
    rig.objects(GATEWAY, "default")
        .patch_status("g", &PatchParams::default(), &Patch::Merge(json!({"status": {"addresses": []}})))
        .await
        .expect("it is written");
    // It is repaired, which is a status too.
    rig.until(GATEWAY, "default", "g", |g| g["status"]["addresses"][0]["value"] == "192.0.2.9").await;
    let version = rig.get(GATEWAY, "default", "g").await["metadata"]["resourceVersion"].clone();
    until("it is told", || {
        let versions = control.versions.borrow();
        versions.iter().any(|of| of.kind == "Gateway" && version == of.resource_version.as_str())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_namespaces_that_are_named_are_read() {
    let rig = Rig::start().await;
    for namespace in ["seen", "unseen"] {
        rig.create("/v1/Namespace", "", namespace, json!({})).await;
        rig.gateway(namespace, "g", "weir").await;
    }
    let _control = rig.control(Leadership::always(), true, &["seen"]);
    rig.until(GATEWAY, "seen", "g", |g| condition(g, "Accepted").0 == "True").await;
    rig.until(DEPLOYMENT, "seen", "weir-g", Value::is_object).await;
    let unseen = rig.get(GATEWAY, "unseen", "g").await;
    assert_eq!(condition(&unseen, "Accepted").1, "Pending", "{unseen:#}");
    assert!(rig.get(DEPLOYMENT, "unseen", "weir-g").await.is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_runs_goes_on_when_its_class_is_deleted() {
    let rig = Rig::start().await;
    let _control = rig.control(Leadership::always(), true, &[]);
    rig.programmed("g", "192.0.2.10").await;
    rig.objects(CLASS, "").delete("weir", &DeleteParams::default()).await.expect("it is deleted");
    let event = rig.event("GatewayClassNotFound").await;
    let message = event["message"].as_str().unwrap_or_default();
    assert!(message.contains("goes on as the class last was"), "{message}");
    assert_eq!(condition(&rig.get(GATEWAY, "default", "g").await, "Programmed").0, "True");
    rig.listen("g", 8080).await;
    rig.until(SERVICE, "default", "weir-g", |service| service["spec"]["ports"][0]["port"] == 8080).await;
    assert!(rig.get(DEPLOYMENT, "default", "weir-g").await.is_object());
}

//! Control as it runs in a cluster, over the embedded API in one process: who leads, what is made for Gateways, and what is
//! left alone. The data planes are played: they acknowledge what they are sent and bind what they are told.

mod configured;
mod marks;
mod ports;
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
use weir_control::{
    Cluster, ControlConfig, ControlStatus, Leader, Leadership, LeaseConfig, LeaseTimes, Provision,
};
use weir_model::resource::{Applied, BindReport, Body, PlaneApplied, Update};

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
        tokio::spawn(play(wanted, answers));
        tokio::spawn(weir_control::run(self.client.clone(), updates, applied, config, stop.clone()));
        Replica { status, stop }
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
async fn play(mut wanted: mpsc::Receiver<Update>, answers: mpsc::Sender<Applied>) {
    let mut listeners = BTreeMap::new();
    while let Some(update) = wanted.recv().await {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_candidates_one_leads_and_the_other_follows_when_it_ends() {
    let rig = Rig::start().await;
    let (first, end, task) = rig.candidate("first");
    until("the first leads", || first.holds()).await;
    let (second, _, _) = rig.candidate("second");
    let mut seen = second.watch();
    let other =
        seen.wait_for(|leader| matches!(leader, Leader::Other { .. })).await.expect("it looks").clone();
    assert_eq!(other, Leader::Other { identity: "first".to_owned(), address: "first:9902".to_owned() });
    assert!(!second.holds());
    let before = epoch(&first);
    // Who ends gives the Lease back, and nobody waits for its end.
    let asked = Instant::now();
    end.cancel();
    task.await.expect("it ends");
    assert!(!first.holds());
    until("the second leads", || second.holds()).await;
    assert!(asked.elapsed() < TIMES.duration, "{:?}", asked.elapsed());
    assert!(epoch(&second) > before, "who took a Lease that was given back is later");
}

/// Of one who leads.
fn epoch(leadership: &Leadership) -> u64 {
    match *leadership.watch().borrow() {
        Leader::Own { epoch } => epoch,
        ref other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_deleted_makes_no_leader_older_than_those_before() {
    let rig = Rig::start().await;
    // As the chart brings it: without a word in it, and without the label by which it is found.
    rig.create(LEASE, "default", "test-weir-leader", json!({})).await;
    let (first, end, task) = rig.candidate("first");
    until("the first leads", || first.holds()).await;
    let lease = rig.get(LEASE, "default", "test-weir-leader").await;
    assert_eq!(lease["metadata"]["labels"]["app.kubernetes.io/part-of"], "weir", "{lease:#}");
    let before = epoch(&first);
    let leases = rig.objects(LEASE, "default");
    leases.delete("test-weir-leader", &DeleteParams::default()).await.expect("it is deleted");
    until(
        "the first leads again",
        || matches!(*first.watch().borrow(), Leader::Own { epoch } if epoch > before),
    )
    .await;
    let before = epoch(&first);
    // And where nobody is left who knew it.
    end.cancel();
    task.await.expect("it ends");
    leases.delete("test-weir-leader", &DeleteParams::default()).await.expect("it is deleted");
    let seconds = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    until("the next second", || seconds().as_secs() > before).await;
    let (second, _, _) = rig.candidate("second");
    until("the second leads", || second.holds()).await;
    assert!(epoch(&second) > before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_installations_the_first_answers_until_it_is_uninstalled() {
    let rig = Rig::start().await;
    let (leads, end, task) = rig.candidate_of("first", "first-0");
    until("the first leads", || leads.holds()).await;
    let first = rig.control_of("first", leads, true, &[]);
    rig.gateway("default", "g", "weir").await;
    rig.until(GATEWAY, "default", "g", |g| condition(g, "Accepted").0 == "True").await;
    let deployment = rig.until(DEPLOYMENT, "default", "weir-g", Value::is_object).await;
    assert_eq!(deployment["metadata"]["labels"]["weir.dev/instance"], "default.first");
    rig.until(SERVICE, "default", "weir-g", Value::is_object).await;
    rig.load_balance("weir-g", json!([{"ip": "192.0.2.10"}, {"hostname": "g.example.com"}])).await;
    rig.endpoint("weir-g", true).await;
    rig.until(GATEWAY, "default", "g", is_found).await;

    // An order to take over from Kong is none to take over from another installation.
    let (leads, _, _) = rig.candidate_of("second", "second-0");
    until("the second leads its own", || leads.holds()).await;
    let second = rig.control_of("second", leads, true, &[]);
    let event = rig.event("StandingBack").await;
    let message = event["message"].as_str().unwrap_or_default();
    assert!(message.contains("installation first of Weir in namespace default was there first"), "{message}");
    until("the second is ready", || second.status.ready()).await;
    let left = second.status.left_alone();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(left["weir.dev/gateway-controller"].contains("Lease default/first-weir-leader"), "{left:?}");
    rig.gateway("default", "h", "weir").await;
    rig.until(GATEWAY, "default", "h", |g| condition(g, "Accepted").0 == "True").await;
    rig.until(DEPLOYMENT, "default", "weir-h", Value::is_object).await;
    let writes = || {
        let status = &second.status;
        (status.status_writes.get(), status.provision_writes.get(), status.status_conflicts.get())
    };
    assert_eq!(writes().0, 0, "no status is the second's");
    assert!(first.status.left_alone().is_empty());

    // All its controllers are gone, and it is still installed.
    first.stop.cancel();
    end.cancel();
    task.await.expect("it ends");
    rig.gateway("default", "nobodys", "weir").await;
    assert_eq!(condition(&rig.get(GATEWAY, "default", "nobodys").await, "Accepted").1, "Pending");
    assert_eq!(writes().0, 0);
    let served = rig.all_versions(GATEWAY, "default", "g").await;
    rig.objects(LEASE, "default")
        .delete("first-weir-leader", &DeleteParams::default())
        .await
        .expect("it is uninstalled");
    rig.until(GATEWAY, "default", "nobodys", |g| condition(g, "Accepted").0 == "True").await;
    let deployment = rig.until(DEPLOYMENT, "default", "weir-nobodys", Value::is_object).await;
    assert_eq!(deployment["metadata"]["labels"]["weir.dev/instance"], "default.second");
    // What the first had made for the same Gateways is the second's now.
    for kind in [DEPLOYMENT, SERVICE] {
        let is_seconds =
            |object: &Value| object["metadata"]["labels"]["weir.dev/instance"] == "default.second";
        rig.until(kind, "default", "weir-g", is_seconds).await;
    }
    assert!(second.status.left_alone().is_empty());
    // Clients find it all the while, and where else it can be found from now on is the second's to tell.
    rig.load_balance("weir-g", json!([{"ip": "192.0.2.11"}])).await;
    let mut versions = 0;
    tokio::pin!(served);
    loop {
        let next =
            tokio::time::timeout(PATIENCE, served.next()).await.expect("the second tells of the new address");
        let gateway = next.expect("the watch goes on");
        versions += 1;
        if gateway["status"]["addresses"] == json!([{"type": "IPAddress", "value": "192.0.2.11"}]) {
            break;
        }
        assert!(is_found(&gateway), "{:#}", gateway["status"]);
    }
    assert!(versions < 10, "{versions} writes");
}

/// Its status says that clients find it, and where.
fn is_found(gateway: &Value) -> bool {
    let addresses = gateway["status"]["addresses"].as_array().map_or(0, Vec::len);
    addresses == 2 && condition(gateway, "Programmed").0 == "True"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_loses_leadership_by_its_own_clock_before_another_gets_it() {
    let rig = Rig::start().await;
    let (first, _, task) = rig.candidate("first");
    until("the first leads", || first.holds()).await;
    let (second, _, _) = rig.candidate("second");
    let mut seen = second.watch();
    seen.wait_for(|leader| matches!(leader, Leader::Other { .. })).await.expect("it looks");
    // As one that is stopped, it renews no more.
    task.abort();
    let started = Instant::now();
    until("the first knows", || {
        assert!(!(first.holds() && second.holds()), "two lead");
        !first.holds()
    })
    .await;
    assert!(started.elapsed() <= TIMES.renewal + Duration::from_millis(500));
    assert!(!second.holds(), "the Lease stands longer than its holder may use it");
    until("the second leads", || second.holds()).await;
    let longest = TIMES.duration + TIMES.retry * 2 + Duration::from_secs(2);
    assert!(started.elapsed() < longest, "{:?}", started.elapsed());
    let lease = rig.get(LEASE, "default", "test-weir-leader").await;
    assert_eq!(lease["spec"]["holderIdentity"], "second");
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_ready_and_writes_nothing_until_it_leads() {
    let rig = Rig::start().await;
    let (first, end, task) = rig.candidate("first");
    until("the first leads", || first.holds()).await;
    let leader = rig.control(first, true, &[]);
    let (second, _, _) = rig.candidate("second");
    let standby = rig.control(second.clone(), true, &[]);
    rig.gateway("default", "g", "weir").await;
    rig.until(SERVICE, "default", "weir-g", Value::is_object).await;
    rig.until(GATEWAY, "default", "g", |g| condition(g, "Accepted").0 == "True").await;
    until("the standby is warm", || standby.status.ready()).await;
    assert_eq!(standby.status.leader.get(), 0);
    // The leader ends; what it would have done the other does.
    leader.stop.cancel();
    end.cancel();
    task.await.expect("it ends");
    rig.listen("g", 8080).await;
    let writes = (standby.status.status_writes.get(), standby.status.provision_writes.get());
    assert!(second.holds() || writes == (0, 0), "{writes:?}");
    rig.until(SERVICE, "default", "weir-g", |service| service["spec"]["ports"][0]["port"] == 8080).await;
    rig.until(GATEWAY, "default", "g", |g| {
        condition(g, "Accepted").0 == "True" && g["status"]["conditions"][0]["observedGeneration"] == 2
    })
    .await;
    assert!(standby.status.status_writes.get() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_of_kongs_is_left_alone_while_a_controller_of_kongs_lives() {
    let rig = Rig::start().await;
    rig.create(
        LEASE,
        "default",
        "5b374a9e.konghq.com",
        json!({"spec": {"holderIdentity": "kong-1", "leaseDurationSeconds": 15}}),
    )
    .await;
    rig.unmanaged_class().await;
    rig.gateway("default", "theirs", "kong").await;
    let control = rig.control(Leadership::always(), false, &[]);
    rig.gateway("default", "ours", "weir").await;
    // Whether that lives is not known: nothing is told to data planes, which may serve these classes.
    until("it says what it waits for", || {
        control.status.left_alone().values().any(|why| why.contains("kong-1"))
    })
    .await;
    assert!(!control.status.ready());
    assert_eq!(condition(&rig.get(GATEWAY, "default", "ours").await, "Accepted").1, "Pending");
    // It lives.
    rig.patch(LEASE, "default", "5b374a9e.konghq.com", json!({"spec": {"leaseDurationSeconds": 16}})).await;
    rig.until(GATEWAY, "default", "ours", |g| condition(g, "Accepted").0 == "True").await;
    let event = rig.event("StandingBack").await;
    assert!(event["message"].as_str().unwrap_or_default().contains("kong-1"), "{event}");
    let theirs = rig.get(GATEWAY, "default", "theirs").await;
    assert_ne!(condition(&theirs, "Accepted").0, "True", "{theirs:#}");
    control.stop.cancel();
    let _ordered = rig.control(Leadership::always(), true, &[]);
    rig.until(GATEWAY, "default", "theirs", |g| condition(g, "Accepted").0 == "True").await;
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

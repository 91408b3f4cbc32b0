//! Control, the embedded API and the data plane in one process, without a socket of the API: what is said in statuses
//! is true at that moment, nobody's words are lost, and a change takes effect at once.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use weir_apiserver::{ApiServer, ApiServerConfig};
use weir_control::{ControlConfig, Provision, Sandbox};
use weir_proxy::{Proxy, ProxyConfig};

use crate::harness::PATIENCE;

/// Above 1023, so that anybody may bind it; the addresses are the test's own.
const PORT: u16 = 18_080;

/// An API, a data plane, and a control plane that can be ended and started again.
struct Rig {
    api: ApiServer,
    proxy: Proxy,
    client: kube::Client,
    range: String,
    stop: CancellationToken,
    control: tokio::task::JoinHandle<()>,
}

impl Rig {
    /// `block` tells the tests of one process apart.
    async fn start(block: u8) -> Rig {
        let process = std::process::id();
        let range = format!("127.{}.{}.0/26", 200 + process % 50, process / 50 % 250)
            .replace(".0/26", &format!(".{}/26", block * 64));
        let api = ApiServer::new(ApiServerConfig::default()).expect("an API");
        let proxy =
            Proxy::start(ProxyConfig { workers: Some(2), ..ProxyConfig::default() }).expect("a data plane");
        let client = api.client();
        let (stop, control) = run_control(&api, &proxy, &range);
        let rig = Rig { api, proxy, client, range, stop, control };
        rig.create(
            "gateway.networking.k8s.io/v1/GatewayClass",
            json!({
                "metadata": {"name": "weir"}, "spec": {"controllerName": "weir.dev/gateway-controller"},
            }),
        )
        .await;
        rig
    }

    async fn restart(&mut self) {
        self.stop.cancel();
        (&mut self.control).await.expect("control ends");
        (self.stop, self.control) = run_control(&self.api, &self.proxy, &self.range);
    }

    fn objects(&self, kind: &str) -> Api<DynamicObject> {
        let mut parts = kind.rsplitn(3, '/');
        let (kind, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let resource =
            ApiResource::from_gvk(&GroupVersionKind::gvk(parts.next().unwrap_or_default(), version, kind));
        match kind {
            "GatewayClass" => Api::all_with(self.client.clone(), &resource),
            _ => Api::namespaced_with(self.client.clone(), "default", &resource),
        }
    }

    async fn create(&self, kind: &str, mut object: Value) {
        let (api_version, name) = kind.rsplit_once('/').expect("a version and a kind");
        object["apiVersion"] = json!(api_version.trim_start_matches('/'));
        object["kind"] = json!(name);
        let object: DynamicObject = serde_json::from_value(object).expect("an object");
        self.objects(kind).create(&PostParams::default(), &object).await.expect("it is created");
    }

    async fn get(&self, kind: &str, name: &str) -> Value {
        let object = self.objects(kind).get(name).await.expect("it is there");
        serde_json::to_value(object).expect("JSON")
    }

    /// A Service of one endpoint, no selector.
    async fn backend(&self, name: &str, endpoint: SocketAddr) {
        self.create(
            "/v1/Service",
            json!({
                "metadata": {"name": name}, "spec": {"ports": [{"port": 80, "protocol": "TCP"}]},
            }),
        )
        .await;
        self.create(
            "discovery.k8s.io/v1/EndpointSlice",
            json!({
                "metadata": {"name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [endpoint.ip()], "conditions": {"ready": true}}],
                "ports": [{"port": endpoint.port(), "protocol": "TCP"}],
            }),
        )
        .await;
    }

    async fn gateway(&self, name: &str) {
        self.create(GATEWAY, json!({
            "metadata": {"name": name},
            "spec": {"gatewayClassName": "weir", "listeners": [{"name": "http", "port": PORT, "protocol": "HTTP"}]},
        }))
        .await;
    }

    async fn route(&self, name: &str, gateway: &str, backend: &str) {
        self.create(
            ROUTE,
            json!({
                "metadata": {"name": name},
                "spec": {"parentRefs": [{"name": gateway}], "rules": [{
                    "matches": [{"path": {"type": "PathPrefix", "value": format!("/{name}")}}],
                    "backendRefs": [{"name": backend, "port": 80}],
                }]},
            }),
        )
        .await;
    }

    /// The object as soon as it is so.
    async fn until(&self, kind: &str, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let object = self.get(kind, name).await;
            if holds(&object) {
                return object;
            }
            assert!(started.elapsed() < PATIENCE, "{kind} {name} did not become so: {object:#}");
            tokio::task::yield_now().await;
        }
    }

    /// The Gateway's address as soon as it is programmed.
    async fn programmed(&self, name: &str) -> SocketAddr {
        let object =
            self.until(GATEWAY, name, |object| holds(&object["status"]["conditions"], "Programmed")).await;
        let address = object["status"]["addresses"][0]["value"].as_str().expect("an address");
        SocketAddr::new(address.parse().expect("an IP address"), PORT)
    }

    async fn accepted(&self, name: &str) {
        self.until(ROUTE, name, |object| {
            ours(object).is_some_and(|entry| holds(&entry["conditions"], "Accepted"))
        })
        .await;
    }

    async fn end(self) {
        self.stop.cancel();
        self.control.await.expect("control ends");
        self.proxy.drain(Duration::ZERO).await;
    }
}

const GATEWAY: &str = "gateway.networking.k8s.io/v1/Gateway";
const ROUTE: &str = "gateway.networking.k8s.io/v1/HTTPRoute";
const OURS: &str = "weir.dev/gateway-controller";
const THEIRS: &str = "example.com/other";

fn run_control(
    api: &ApiServer,
    proxy: &Proxy,
    range: &str,
) -> (CancellationToken, tokio::task::JoinHandle<()>) {
    let (updates, mut wanted) = mpsc::channel(4);
    let (answers, applied) = mpsc::channel(4);
    let data_plane = proxy.clone();
    tokio::spawn(async move {
        while let Some(update) = wanted.recv().await {
            if answers.send(data_plane.apply(update).await).await.is_err() {
                return;
            }
        }
    });
    let stop = CancellationToken::new();
    let provision = Provision::Sandbox(Sandbox::new(range.parse().expect("a range")));
    let config = ControlConfig::new(provision);
    let control = tokio::spawn(weir_control::run(api.client(), updates, applied, config, stop.clone()));
    (stop, control)
}

fn holds(conditions: &Value, kind: &str) -> bool {
    let found = conditions.as_array().into_iter().flatten().find(|condition| condition["type"] == kind);
    found.is_some_and(|condition| condition["status"] == "True")
}

fn ours(route: &Value) -> Option<&Value> {
    route["status"]["parents"].as_array()?.iter().find(|entry| entry["controllerName"] == OURS)
}

/// An HTTP server that says one word.
fn backend(word: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    listener.set_nonblocking(true).expect("a socket");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = vec![0; 16_384];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    let requests = buffer[..count].windows(4).filter(|end| end == b"\r\n\r\n").count();
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{word}", word.len());
                    if stream.write_all(answer.repeat(requests).as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Status code and body of one request on a connection of its own.
async fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((code, body))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programmed_means_that_the_socket_answers_and_accepted_that_the_route_does() {
    let rig = Rig::start(0).await;
    rig.backend("echo", backend("echo")).await;
    for round in 0..20 {
        let gateway = format!("g{round}");
        rig.gateway(&gateway).await;
        let address = rig.programmed(&gateway).await;
        let (code, _) = get(address, "/nothing").await.expect("the first connection is taken");
        assert_eq!(code, 404);
        for number in 0..5 {
            let route = format!("r{round}-{number}");
            rig.route(&route, &gateway, "echo").await;
            rig.accepted(&route).await;
            let answer = get(address, &format!("/{route}")).await.expect("an answer");
            assert_eq!(answer, (200, "echo".to_owned()), "the first request after Accepted, {route}");
        }
    }
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_takes_effect_in_milliseconds() {
    let rig = Rig::start(1).await;
    rig.backend("left", backend("left")).await;
    rig.backend("right", backend("right")).await;
    rig.gateway("g").await;
    let address = rig.programmed("g").await;
    rig.route("r", "g", "left").await;
    rig.accepted("r").await;
    let routes = rig.objects(ROUTE);
    let mut times: Vec<Duration> = Vec::new();
    for round in 0..100 {
        let side = if round % 2 == 0 { "right" } else { "left" };
        let patch = json!([{"op": "replace", "path": "/spec/rules/0/backendRefs/0/name", "value": side}]);
        let patch: Patch<Value> = Patch::Json(serde_json::from_value(patch).expect("a patch"));
        let started = Instant::now();
        routes.patch("r", &PatchParams::default(), &patch).await.expect("it is patched");
        loop {
            let (code, word) = get(address, "/r").await.expect("an answer");
            assert_eq!(code, 200, "no request fails because of a change");
            if word == side {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "the edit has no effect");
        }
        times.push(started.elapsed());
    }
    times.sort();
    println!("edit to effect: median {:?}, 99th percentile {:?}", times[50], times[98]);
    assert!(times[50] < Duration::from_millis(50), "median {:?}", times[50]);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_controllers_words_are_never_lost() {
    let rig = Rig::start(2).await;
    rig.backend("echo", backend("echo")).await;
    rig.gateway("g").await;
    rig.programmed("g").await;
    rig.route("r", "g", "echo").await;
    rig.accepted("r").await;
    let routes = rig.objects(ROUTE);
    let rival = async {
        let mut said = 0;
        while said < 200 {
            let mut object = serde_json::to_value(routes.get("r").await.expect("it is there")).expect("JSON");
            let parents = object["status"]["parents"].as_array_mut().expect("parents");
            let before = parents.iter().position(|entry| entry["controllerName"] == THEIRS);
            let known = before.map(|place| parents[place]["conditions"][0]["message"].clone());
            assert!(said == 0 || known == Some(json!(said.to_string())), "said {said}, found {known:?}");
            let entry = json!({
                "parentRef": {"name": "theirs"}, "controllerName": THEIRS,
                "conditions": [{
                    "type": "Accepted", "status": "False", "reason": "No", "message": (said + 1).to_string(),
                    "lastTransitionTime": "2024-02-03T04:05:06Z", "observedGeneration": 1,
                }],
            });
            match before {
                Some(place) => parents[place] = entry,
                None => parents.insert(0, entry),
            }
            let object: DynamicObject = serde_json::from_value(object).expect("an object");
            match routes.replace_status("r", &PostParams::default(), &object).await {
                Ok(_) => said += 1,
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => panic!("{error}"),
            }
        }
        said
    };
    let editor = async {
        for round in 0..200 {
            let patch = Patch::Merge(json!({"spec": {"hostnames": [format!("h{round}.example.com")]}}));
            routes.patch("r", &PatchParams::default(), &patch).await.expect("it is patched");
            tokio::task::yield_now().await;
        }
    };
    let (said, ()) = tokio::join!(rival, editor);
    let is_current = |object: &Value| {
        let generation = &object["metadata"]["generation"];
        ours(object).is_some_and(|entry| entry["conditions"][0]["observedGeneration"] == *generation)
    };
    let object = rig.until(ROUTE, "r", is_current).await;
    let parents = object["status"]["parents"].as_array().expect("parents");
    assert_eq!(parents.len(), 2);
    assert_eq!(parents[0]["controllerName"], THEIRS);
    assert_eq!(parents[0]["conditions"][0]["message"], said.to_string());
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_control_writes_nothing_and_fails_no_request() {
    let mut rig = Rig::start(3).await;
    rig.backend("echo", backend("echo")).await;
    rig.gateway("g").await;
    let address = rig.programmed("g").await;
    rig.route("r", "g", "echo").await;
    rig.accepted("r").await;
    let counted = |object: &Value| object["status"]["listeners"][0]["attachedRoutes"] == 1;
    let gateway = rig.until(GATEWAY, "g", counted).await;
    let route = rig.get(ROUTE, "r").await;
    for _ in 0..3 {
        rig.restart().await;
        // Something new is the sign that the new one works.
        let name = format!("after-{}", rig.api_time());
        rig.route(&name, "g", "echo").await;
        rig.accepted(&name).await;
        assert_eq!(get(address, "/r").await.expect("an answer").0, 200);
        rig.objects(ROUTE).delete(&name, &Default::default()).await.expect("it is deleted");
        rig.until(GATEWAY, "g", counted).await;
    }
    assert_eq!(rig.get(ROUTE, "r").await, route);
    let after = rig.get(GATEWAY, "g").await;
    assert_eq!(after["status"], gateway["status"], "the same address, the same times");
    rig.end().await;
}

impl Rig {
    /// A name that was not used before.
    fn api_time(&self) -> u128 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos()
    }
}

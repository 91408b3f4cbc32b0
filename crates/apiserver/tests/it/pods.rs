//! Pods that answer: what each image is stood in for, statuses, logs, ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::sandbox::{DEADLINE, Sandbox, exchange, get, until};

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.clone().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn address(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|status| status.pod_ip.clone()).expect("has an address")
}

/// Creates a pod of one container and waits until it is ready.
async fn ready_pod(sandbox: &Sandbox, name: &str, container: Value) -> Pod {
    create_pod(sandbox, name, container).await;
    until(&sandbox.api::<Pod>(), "the pod is ready", |all: &[Pod]| {
        all.iter().find(|pod| pod.name_any() == name && is_ready(pod)).cloned()
    })
    .await
}

async fn create_pod(sandbox: &Sandbox, name: &str, container: Value) {
    let mut container = container;
    container["name"] = json!("c");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name } },
        "spec": { "containers": [container] },
    });
    sandbox.create_one(pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_pod_looks_as_a_kubelet_leaves_it() {
    let sandbox = Sandbox::start("127.95.1.0/24");
    let pod =
        ready_pod(&sandbox, "p", json!({ "image": "nginx:1", "ports": [{ "containerPort": 8099 }] })).await;
    let address = address(&pod);
    let pod = serde_json::to_value(&pod).expect("JSON");
    assert_eq!(pod["spec"]["nodeName"], "weir");
    let status = &pod["status"];
    assert_eq!((status["phase"].as_str(), status["hostIP"].as_str()), (Some("Running"), Some("127.0.0.1")));
    assert_eq!(status["podIPs"], json!([{ "ip": address }]));
    assert!(address.starts_with("127.95.1."), "{address}");
    assert!(status["startTime"].is_string());
    assert_eq!(status["qosClass"], "BestEffort");
    let conditions: BTreeMap<&str, &str> = status["conditions"]
        .as_array()
        .expect("has some")
        .iter()
        .map(|condition| {
            (condition["type"].as_str().expect("a type"), condition["status"].as_str().expect("one"))
        })
        .collect();
    for kind in ["PodScheduled", "Initialized", "ContainersReady", "Ready"] {
        assert_eq!(conditions.get(kind), Some(&"True"), "{kind}");
    }
    let container = &status["containerStatuses"][0];
    assert_eq!((container["name"].as_str(), container["image"].as_str()), (Some("c"), Some("nginx:1")));
    assert_eq!((container["ready"].as_bool(), container["restartCount"].as_i64()), (Some(true), Some(0)));
    assert!(container["state"]["running"]["startedAt"].is_string());
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn netexec_answers_as_documented() {
    let sandbox = Sandbox::start("127.95.2.0/24");
    let agnhost = json!({ "image": "registry.k8s.io/e2e-test-images/agnhost:2.40",
                          "args": ["netexec", "--http-port=8081"] });
    let pod = ready_pod(&sandbox, "agn", agnhost).await;
    let at = format!("{}:8081", address(&pod));
    let body = |target: &'static str| {
        let at = at.clone();
        async move { get(&at, target).await }
    };
    assert_eq!(body("/hostname").await.2, "agn");
    assert_eq!(body("/hostname?iteration=3").await.2, "agn");
    assert_eq!(body("/hostName").await.2, "agn");
    assert_eq!(body("/echo?msg=hello%20there").await.2, "hello there");
    let (code, _, text) = body("/echo?msg=x&code=404").await;
    assert_eq!((code, text.as_str()), (404, "x"));
    assert!(body("/").await.2.starts_with("NOW: 20"));
    assert!(body("/anything").await.2.starts_with("NOW: "));
    assert!(body("/clientip").await.2.starts_with("127."));
    assert_eq!(body("/serverport").await.2, "8081");
    assert_eq!(body("/header?key=Host").await.2, "test");
    assert_eq!(body("/healthz").await.0, 200);
    let (code, head, _) = body("/redirect?location=/echo%3Fmsg=foobar&code=307").await;
    assert!(code == 307 && head.to_lowercase().contains("location: /echo?msg=foobar"), "{head}");
    assert_eq!(body("/shell?cmd=id").await.0, 501);
    for harmless in ["/exit?code=1", "/shutdown"] {
        assert_eq!(body(harmless).await.0, 200);
    }
    assert_eq!(body("/hostname").await.2, "agn", "it goes on");
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn go_echo_says_only_what_its_variables_tell() {
    let sandbox = Sandbox::start("127.95.3.0/24");
    let one = json!({ "image": "kong/go-echo:latest", "env": [{ "name": "NODE_NAME", "value": "v1" }] });
    let pod = ready_pod(&sandbox, "one", one).await;
    let (_, _, text) = get(&format!("{}:1027", address(&pod)), "/echo").await;
    assert_eq!(text, "Welcome, you are connected to node v1.\n\n");
    let field =
        |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let all = json!({ "image": "kong/go-echo", "env": [
        field("NODE_NAME", "spec.nodeName"), field("POD_NAME", "metadata.name"),
        field("NAMESPACE", "metadata.namespace"), field("POD_IP", "status.podIP"),
    ]});
    let pod = ready_pod(&sandbox, "all", all).await;
    let (_, _, text) = get(&format!("{}:1027", address(&pod)), "/").await;
    let expected = format!(
        "Welcome, you are connected to node weir.\nRunning on Pod all.\nIn namespace default.\nWith IP address {}.\n\n",
        address(&pod)
    );
    assert_eq!(text, expected);
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn echo_basic_tells_what_arrived() {
    let sandbox = Sandbox::start("127.95.4.0/24");
    let field =
        |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let container = json!({ "image": "gcr.io/k8s-staging-gateway-api/echo-basic:v1", "env": [
        field("POD_NAME", "metadata.name"), field("NAMESPACE", "metadata.namespace"),
        { "name": "SERVICE_NAME", "value": "svc" },
    ]});
    let pod = ready_pod(&sandbox, "eb", container).await;
    let at = format!("{}:3000", address(&pod));
    let request = "POST /a//b?x=1 HTTP/1.1\r\nHost: example.org\r\nx-one: 1\r\nX-One: 2\r\n\
                   X-Echo-Set-Header: X-Set:yes, x-set:again\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
    let (code, head, text) = exchange(&at, request.as_bytes()).await;
    let told: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(code, 200);
    assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
    assert!(head.to_lowercase().contains("x-set: yes,again"), "{head}");
    assert_eq!((told["path"].as_str(), told["host"].as_str()), (Some("/a//b?x=1"), Some("example.org")));
    assert_eq!((told["method"].as_str(), told["proto"].as_str()), (Some("POST"), Some("HTTP/1.1")));
    assert_eq!(told["headers"]["X-One"], json!(["1", "2"]));
    assert!(told["headers"].get("Host").is_none());
    for (key, value) in
        [("httpPort", "3000"), ("namespace", "default"), ("service", "svc"), ("pod", "eb"), ("ingress", "")]
    {
        assert_eq!(told[key], value, "{key}");
    }
    assert_eq!(get(&at, "/status/418").await.0, 418);
    assert_eq!(get(&at, "/health").await.2, "OK");
    let log = sandbox.api::<Pod>().logs("eb", &LogParams::default()).await.expect("a log");
    assert!(log.contains("Echoing back request made to /a//b?x=1 to client (127."), "{log}");
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_other_image_is_a_page_that_says_what_it_is() {
    let sandbox = Sandbox::start("127.95.5.0/24");
    sandbox
        .create_one(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "app-v1" },
            "spec": { "selector": { "matchLabels": { "app": "v1" } }, "template": {
                "metadata": { "labels": { "app": "v1" } },
                "spec": { "containers": [{ "name": "app", "image": "kong-ingress-multi-backends:latest",
                                           "ports": [{ "containerPort": 8085 }] }] } } },
        }))
        .await;
    let pod =
        until(&sandbox.api::<Pod>(), "ready", |all: &[Pod]| all.iter().find(|pod| is_ready(pod)).cloned())
            .await;
    let (code, head, page) = get(&format!("{}:8085", address(&pod)), "/any/path").await;
    assert_eq!(code, 200);
    assert!(head.to_lowercase().contains("content-type: text/html"), "{head}");
    for part in [
        "<h1>app-v1</h1>",
        "Deployment",
        "kong-ingress-multi-backends:latest",
        "in place of",
        "<link rel=\"icon\" href=\"data:,\">",
    ] {
        assert!(page.contains(part), "`{part}` is not in {page}");
    }
    assert!(page.contains(&pod.name_any()));
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_somebody_else_has_is_told_and_taken_when_it_is_free() {
    // On all addresses, so that no other address of the range helps.
    let held = std::net::TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = held.local_addr().expect("bound").port();
    let sandbox = Sandbox::start("127.95.6.0/24");
    create_pod(&sandbox, "late", json!({ "image": "x", "ports": [{ "containerPort": port }] })).await;
    let pod = until(&sandbox.api::<Pod>(), "it says what it waits for", |all: &[Pod]| {
        let status = all.first()?.status.as_ref()?;
        let waiting = status.container_statuses.as_ref()?.first()?.state.as_ref()?.waiting.clone()?;
        (waiting.reason.as_deref() == Some("PortInUse")).then(|| (all[0].clone(), waiting.message))
    })
    .await;
    assert!(!is_ready(&pod.0));
    assert!(pod.1.expect("a message").contains(&port.to_string()));
    until(&sandbox.api::<Event>(), "an event names the port", |all: &[Event]| {
        let told = all.iter().filter(|event| event.reason.as_deref() == Some("PortInUse"));
        told.filter_map(|event| event.message.as_ref())
            .any(|text| text.contains(&port.to_string()))
            .then_some(())
    })
    .await;
    drop(held);
    until(&sandbox.api::<Pod>(), "ready", |all: &[Pod]| is_ready(&all[0]).then_some(())).await;
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_waits_for_the_config_map_that_its_environment_names() {
    let sandbox = Sandbox::start("127.95.7.0/24");
    let container = json!({ "image": "kong/go-echo", "env": [
        { "name": "NODE_NAME", "valueFrom": { "configMapKeyRef": { "name": "names", "key": "node" } } },
    ]});
    create_pod(&sandbox, "p", container).await;
    let pods = sandbox.api::<Pod>();
    let message = until(&pods, "it says what is missing", |all: &[Pod]| {
        let status = all.first()?.status.as_ref()?;
        let waiting = status.container_statuses.as_ref()?.first()?.state.as_ref()?.waiting.clone()?;
        (waiting.reason.as_deref() == Some("CreateContainerConfigError")).then_some(waiting.message)
    })
    .await;
    assert_eq!(message.as_deref(), Some("configmap \"names\" not found"));
    let map: ConfigMap =
        serde_json::from_value(json!({ "metadata": { "name": "names" }, "data": { "node": "n7" } }))
            .expect("one");
    sandbox.api::<ConfigMap>().create(&Default::default(), &map).await.expect("created");
    let pod = until(&pods, "ready", |all: &[Pod]| is_ready(&all[0]).then(|| all[0].clone())).await;
    let (_, _, text) = get(&format!("{}:1027", address(&pod)), "/").await;
    assert_eq!(text, "Welcome, you are connected to node n7.\n\n");
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_hold_requests_and_a_changed_image_restarts_the_container() {
    let sandbox = Sandbox::start("127.95.8.0/24");
    let pods = sandbox.api::<Pod>();
    let pod = ready_pod(&sandbox, "p", json!({ "image": "kong/go-echo" })).await;
    get(&format!("{}:1027", address(&pod)), "/seen?x=1").await;
    let log = pods.logs("p", &LogParams::default()).await.expect("a log");
    assert!(log.contains("GET /seen?x=1 from 127."), "{log}");
    let image = json!({ "spec": { "containers": [{ "name": "c", "image": "nginx" }] } });
    pods.patch("p", &PatchParams::default(), &Patch::Strategic(&image)).await.expect("patched");
    let again = until(&pods, "it restarted with the other image", |all: &[Pod]| {
        let status = all[0].status.as_ref()?.container_statuses.as_ref()?.first()?.clone();
        (status.restart_count == 1 && status.image == "nginx" && is_ready(&all[0])).then(|| all[0].clone())
    })
    .await;
    assert_eq!(address(&again), address(&pod));
    assert_eq!(get(&format!("{}:80", address(&again)), "/").await.0, 200);
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_uploads_are_read_to_their_end_and_connections_are_kept() {
    let sandbox = Sandbox::start("127.95.9.0/24");
    let pod = ready_pod(&sandbox, "p", json!({ "image": "agnhost", "args": ["netexec"] })).await;
    let mut stream = TcpStream::connect(format!("{}:8080", address(&pod))).await.expect("connects");
    let size = 64 * 1024 * 1024;
    let all = async {
        let head = format!("POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("writes");
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..size / chunk.len() {
            stream.write_all(&chunk).await.expect("writes");
        }
        let first = read_answer(&mut stream).await;
        assert!(first.contains(&format!("\"bytes\":{size}")), "{first}");
        stream.write_all(b"GET /hostname HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("the connection is kept");
        assert!(read_answer(&mut stream).await.ends_with("\r\n\r\np"));
    };
    tokio::time::timeout(DEADLINE, all).await.expect("in time");
    sandbox.stop().await;
}

/// One answer with a content length.
async fn read_answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    loop {
        let byte = stream.read_u8().await.expect("reads");
        answer.push(byte);
        if answer.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let head = String::from_utf8(answer).expect("text");
    let length = head.to_lowercase();
    let length = length.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let mut body = vec![0; length.and_then(|length| length.parse().ok()).expect("a length")];
    stream.read_exact(&mut body).await.expect("reads");
    head + &String::from_utf8(body).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_fails_no_request_that_goes_to_a_ready_endpoint() {
    let sandbox = Sandbox::start("127.95.10.0/24");
    sandbox.create(include_str!("../../../../examples/kic/echo-services.yaml")).await;
    let slices = sandbox.api::<EndpointSlice>();
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    until(&slices, "an endpoint", |all: &[EndpointSlice]| (!ready_endpoints(all).is_empty()).then_some(()))
        .await;
    let client = {
        let (slices, stop, sent) = (slices.clone(), stop.clone(), sent.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let all = slices.list(&ListParams::default()).await.expect("a list").items;
                let endpoints = ready_endpoints(&all);
                // At every moment there is one, and it answers.
                let endpoint = endpoints.first().unwrap_or_else(|| panic!("no ready endpoint: {all:#?}"));
                let (code, _, _) = get(&format!("{endpoint}:8080"), "/hostname").await;
                assert_eq!(code, 200);
                sent.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let deployments = sandbox.api::<k8s_openapi::api::apps::v1::Deployment>();
    let pods = sandbox.api::<Pod>();
    for turn in ["1", "2", "3"] {
        let template = json!({ "spec": { "template": { "metadata": { "annotations": { "turn": turn } } } } });
        deployments.patch("echo", &PatchParams::default(), &Patch::Merge(&template)).await.expect("patched");
        until(&pods, "the new pod alone", |all: &[Pod]| {
            let mine: Vec<_> = all.iter().filter(|pod| pod.labels()["app"] == "echo").collect();
            let new = mine.iter().all(|pod| pod.annotations().get("turn").is_some_and(|at| at == turn));
            (new && mine.len() == 1 && is_ready(mine[0])).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    client.await.expect("no request failed");
    assert!(sent.load(Ordering::Relaxed) > 20, "{sent:?}");
    sandbox.stop().await;
}

fn ready_endpoints(slices: &[EndpointSlice]) -> Vec<String> {
    let mine = slices
        .iter()
        .filter(|slice| slice.labels().get("kubernetes.io/service-name").is_some_and(|name| name == "echo"));
    let endpoints = mine.flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true));
    ready.flat_map(|endpoint| endpoint.addresses.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_pod_ends_the_request_it_has_and_goes_quickly() {
    let sandbox = Sandbox::start("127.95.11.0/24");
    let pods = sandbox.api::<Pod>();
    let pod = ready_pod(&sandbox, "p", json!({ "image": "x/echo-basic:1" })).await;
    let at = format!("{}:3000", address(&pod));
    let slow = tokio::spawn(async move { get(&at, "/?delay=700ms").await.0 });
    let log =
        |pods: kube::Api<Pod>| async move { pods.logs("p", &LogParams::default()).await.expect("a log") };
    let begun = Instant::now();
    while !log(pods.clone()).await.contains("/?delay=700ms") {
        assert!(begun.elapsed() < DEADLINE);
        tokio::task::yield_now().await;
    }
    let begun = Instant::now();
    pods.delete("p", &DeleteParams::default()).await.expect("deleted");
    until(&pods, "gone", |all: &[Pod]| all.is_empty().then_some(())).await;
    assert_eq!(slow.await.expect("ends"), 200);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    sandbox.stop().await;
}

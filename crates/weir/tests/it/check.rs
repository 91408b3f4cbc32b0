//! `weir check` of a cluster in which pods cannot start: what Kubernetes says of them, played into an API without kubelets.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::harness::process::{clean_command, finish};
use crate::harness::sandbox::WEIR;
use crate::plane::Cluster;

const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";

/// Makes an object, then writes its status. `at`: its namespace and name.
fn put(cluster: &Cluster, api_version: &str, kind: &str, at: (&str, &str), mut object: Value) -> Value {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let status = object.as_object_mut().and_then(|object| object.remove("status"));
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    object["metadata"]["name"] = json!(at.1);
    let object: DynamicObject = serde_json::from_value(object).expect("an object");
    cluster.runtime.block_on(async {
        let client = cluster.api.client();
        let objects: Api<DynamicObject> = match at.0 {
            "" => Api::all_with(client, &resource),
            namespace => Api::namespaced_with(client, namespace, &resource),
        };
        let mut made = objects.create(&PostParams::default(), &object).await.expect("it is created");
        if let Some(status) = status {
            let patch = Patch::Merge(json!({"status": status}));
            made = objects
                .patch_status(at.1, &PatchParams::default(), &patch)
                .await
                .expect("its status is written");
        }
        serde_json::to_value(made).expect("JSON")
    })
}

fn deployment(cluster: &Cluster, at: (&str, &str), status: Value) {
    let spec = json!({
        "selector": {"matchLabels": {"app": at.1}},
        "template": {
            "metadata": {"labels": {"app": at.1}},
            "spec": {"containers": [{"name": "c", "image": "weir:dev"}]},
        },
    });
    put(cluster, "apps/v1", "Deployment", at, json!({"spec": spec, "status": status}));
}

/// A pod whose only container waits for this, or is ready.
fn pod(cluster: &Cluster, at: (&str, &str), labels: Value, waits: Option<Value>) -> Value {
    let is_ready = waits.is_none();
    let state = waits.map_or(json!({"running": {}}), |waits| json!({"waiting": waits}));
    let pod = json!({
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "c", "image": "weir:dev"}]},
        "status": {
            "phase": if is_ready { "Running" } else { "Pending" },
            "conditions": [{"type": "Ready", "status": if is_ready { "True" } else { "False" }}],
            "containerStatuses": [{"name": "c", "image": "weir:dev", "imageID": "", "ready": is_ready, "restartCount": 0, "state": state}],
        },
    });
    put(cluster, "v1", "Pod", at, pod)
}

fn gateway(cluster: &Cluster, name: &str, class: &str) {
    let gateway = json!({
        "spec": {"gatewayClassName": class, "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
        "status": {"conditions": [{
            "type": "Programmed", "status": "False", "reason": "NoResources", "message": "no endpoint of its Service",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]},
    });
    put(cluster, GATEWAY_API, "Gateway", ("default", name), gateway);
}

fn class(cluster: &Cluster, name: &str, controller: &str, annotations: Value) {
    let class = json!({"metadata": {"annotations": annotations}, "spec": {"controllerName": controller}});
    put(cluster, GATEWAY_API, "GatewayClass", ("", name), class);
}

/// The release `kong` in the namespace `kong`, whose controllers have never led; labels of its controllers and of its data plane.
fn installed(cluster: &Cluster) -> [Value; 2] {
    put(cluster, "v1", "Namespace", ("", "kong"), json!({}));
    let lease = json!({"metadata": {"labels": {"app.kubernetes.io/part-of": "weir"}}});
    put(cluster, "coordination.k8s.io/v1", "Lease", ("kong", "kong-weir-leader"), lease);
    [
        json!({
            "app.kubernetes.io/name": "weir",
            "app.kubernetes.io/instance": "kong",
            "app.kubernetes.io/component": "controller",
        }),
        json!({"weir.dev/instance": "kong.kong", "weir.dev/provisioned": "shared"}),
    ]
}

/// What `weir check` prints of a cluster in which something is wrong.
fn checked(cluster: &Cluster) -> String {
    checked_by(&cluster.serve())
}

fn checked_by(kubeconfig: &Path) -> String {
    let mut command = clean_command(WEIR, kubeconfig.parent().expect("a folder"));
    finish(command.arg("check").arg("--kubeconfig").arg(kubeconfig)).refused()
}

/// An API that lists one Lease and one Gateway, and has nothing else for whoever asks; its kubeconfig.
fn guarded_api(folder: &Path) -> PathBuf {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 16384];
            let length = stream.read(&mut head).unwrap_or_default();
            let head = String::from_utf8_lossy(&head[..length]).into_owned();
            let path = head.split([' ', '?']).nth(1).unwrap_or_default();
            let (code, body) = guarded(path);
            let body = body.to_string();
            let answer = format!(
                "HTTP/1.1 {code} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let path = folder.join("kubeconfig");
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
    });
    std::fs::write(&path, kubeconfig.to_string()).expect("a file");
    path
}

fn guarded(path: &str) -> (u16, Value) {
    let list = |api_version: &str, kind: &str, item: Value| {
        let list = json!({"apiVersion": api_version, "kind": format!("{kind}List"), "metadata": {}, "items": [item]});
        (200, list)
    };
    let plural = path.rsplit('/').next().unwrap_or_default();
    match plural {
        "version" => {
            let names =
                ["gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"];
            let mut version = json!({"major": "1", "minor": "36"});
            for name in names {
                version[name] = json!("");
            }
            (200, version)
        }
        "leases" => {
            let metadata = json!({"namespace": "kong", "name": "kong-weir-leader"});
            list("coordination.k8s.io/v1", "Lease", json!({"metadata": metadata, "spec": {}}))
        }
        "gateways" => {
            let condition =
                json!({"type": "Programmed", "status": "False", "reason": "Pending", "message": "-"});
            let gateway = json!({
                "metadata": {"namespace": "default", "name": "g"},
                "spec": {"gatewayClassName": "weir"},
                "status": {"conditions": [condition]},
            });
            list(GATEWAY_API, "Gateway", gateway)
        }
        _ => {
            let status = json!({
                "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403,
                "message": format!("{plural} is forbidden"),
            });
            (403, status)
        }
    }
}

#[track_caller]
fn has(told: &str, line: &str) {
    assert!(told.lines().any(|one| one.trim_start() == line), "no line {line:?} in\n{told}");
}

#[test]
fn pods_of_an_installation_that_cannot_start_say_why_and_so_does_a_service_without_an_address() {
    let cluster = Cluster::new();
    let [controllers, shared] = installed(&cluster);
    deployment(&cluster, ("kong", "kong-controller"), json!({}));
    for at in 0..7 {
        let waits = json!({"reason": "CrashLoopBackOff", "message": "back-off 10s"});
        pod(&cluster, ("kong", &format!("kong-controller-{at}")), controllers.clone(), Some(waits));
    }
    deployment(&cluster, ("kong", "kong-gateway-proxy"), json!({}));
    let waits = json!({"reason": "ImagePullBackOff", "message": "Back-off pulling image \"weir:dev\""});
    pod(&cluster, ("kong", "kong-gateway-proxy-a"), shared.clone(), Some(waits));
    let waits = json!({"reason": "ContainerCreating"});
    let creating = pod(&cluster, ("kong", "kong-gateway-proxy-b"), shared, Some(waits));
    for (name, minute, message) in [("late", 2, "configmap \"x\" not found"), ("early", 1, "something else")]
    {
        let event = json!({
            "involvedObject": {"kind": "Pod", "namespace": "kong", "name": "kong-gateway-proxy-b", "uid": creating["metadata"]["uid"]},
            "type": "Warning", "reason": "FailedMount", "message": message,
            "lastTimestamp": format!("2026-01-01T00:0{minute}:00Z"),
        });
        put(&cluster, "v1", "Event", ("kong", name), event);
    }
    let service = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
    put(&cluster, "v1", "Service", ("kong", "kong-gateway-proxy"), service);
    let annotations = json!({"konghq.com/gatewayclass-unmanaged": "true"});
    class(&cluster, "kong", "konghq.com/kic-gateway-controller", annotations);
    gateway(&cluster, "kong", "kong");

    let told = checked(&cluster);
    has(&told, "BAD  Lease kong/kong-weir-leader: nobody leads");
    has(&told, "BAD  pod kong/kong-controller-0: container c waits: CrashLoopBackOff back-off 10s");
    // No more of a kind than anybody reads.
    assert!(!told.contains("kong-controller-6"), "{told}");
    has(&told, "BAD  kong/kong-controller: 2 more pods are not ready");
    has(
        &told,
        "BAD  pod kong/kong-gateway-proxy-a: container c waits: ImagePullBackOff Back-off pulling image \"weir:dev\"",
    );
    has(&told, "BAD  pod kong/kong-gateway-proxy-b: container c waits: ContainerCreating");
    has(&told, "BAD  pod kong/kong-gateway-proxy-b: FailedMount configmap \"x\" not found");
    has(&told, "note it is served by the shared data plane kong/kong-gateway-proxy");
    let service =
        told.lines().find(|line| line.contains("BAD  Service kong/kong-gateway-proxy: LoadBalancer"));
    assert!(service.is_some_and(|line| line.contains("no load balancer has given it one")), "{told}");
}

#[test]
fn a_gateways_own_deployment_says_why_it_has_no_pods() {
    let cluster = Cluster::new();
    let [controllers, shared] = installed(&cluster);
    // A pod that is ready beside one that is not: a rolling update, or a node that is full.
    deployment(&cluster, ("kong", "kong-controller"), json!({}));
    pod(&cluster, ("kong", "kong-controller-a"), controllers.clone(), None);
    let waits = json!({"reason": "CreateContainerConfigError", "message": "no such Secret"});
    pod(&cluster, ("kong", "kong-controller-b"), controllers, Some(waits));
    deployment(&cluster, ("kong", "kong-gateway-proxy"), json!({}));
    pod(&cluster, ("kong", "kong-gateway-proxy-a"), shared, None);
    class(&cluster, "weir", "weir.dev/gateway-controller", json!({}));
    gateway(&cluster, "own", "weir");
    gateway(&cluster, "unmade", "weir");
    let failure = json!({"conditions": [
        {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: pods"},
    ]});
    deployment(&cluster, ("default", "weir-own"), failure);
    let labels = json!({
        "weir.dev/component": "data-plane",
        "gateway.networking.k8s.io/gateway-name": "own",
    });
    let service =
        json!({"metadata": {"labels": labels}, "spec": {"type": "ClusterIP", "ports": [{"port": 80}]}});
    let service = put(&cluster, "v1", "Service", ("default", "renamed"), service);

    let told = checked(&cluster);
    has(
        &told,
        "note pod kong/kong-controller-b: container c waits: CreateContainerConfigError no such Secret",
    );
    assert!(!told.contains("kong-gateway-proxy"), "{told}");
    has(&told, "BAD  Gateway default/own: Programmed=False NoResources: no endpoint of its Service");
    has(&told, "BAD  Deployment default/weir-own: pods cannot be made: exceeded quota: pods");
    let inside = service["spec"]["clusterIP"].as_str().expect("an address");
    has(&told, &format!("note Service default/renamed: ClusterIP at {inside}, which is inside the cluster"));
    has(&told, "note it has no data plane of its own in default");
}

#[test]
fn what_may_not_be_read_is_said_once_and_the_rest_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let told = checked_by(&guarded_api(folder.path()));
    has(&told, "BAD  Lease kong/kong-weir-leader: nobody leads");
    has(&told, "note Deployment kong/kong-controller cannot be read: kong-controller is forbidden (403)");
    has(
        &told,
        "note Deployment kong/kong-gateway-proxy cannot be read: kong-gateway-proxy is forbidden (403)",
    );
    assert_eq!(told.matches("pods of kong cannot be read: pods is forbidden (403)").count(), 1, "{told}");
    has(&told, "BAD  Gateway default/g: Programmed=False Pending: -");
    assert!(told.contains("which classes are unmanaged cannot be read"), "{told}");
    has(&told, "note pods of default cannot be read: pods is forbidden (403)");
    has(&told, "note Services of default cannot be read: services is forbidden (403)");
}

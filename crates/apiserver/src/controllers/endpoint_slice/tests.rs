//! EndpointSlices of a Service by its selector: what a pod's readiness, ports and end do to them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::plan::{Action, listed, plan};

fn service(ports: Value) -> Service {
    serde_json::from_value(json!({
        "metadata": { "name": "echo", "namespace": "default", "uid": "svc" },
        "spec": { "selector": { "app": "echo" }, "ports": ports },
    }))
    .expect("a Service")
}

fn pod(number: usize, container_ports: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": format!("echo-{number}"), "namespace": "default", "uid": format!("pod-{number}"),
                      "labels": { "app": "echo" } },
        "spec": { "nodeName": "weir", "containers": [{ "name": "echo", "ports": container_ports }] },
        "status": { "phase": "Running", "podIP": format!("127.1.{}.{}", number / 250, number % 250 + 1),
                    "conditions": [{ "type": "Ready", "status": "True" }] },
    }))
    .expect("a Pod")
}

fn http_pods(count: usize) -> Vec<Arc<Pod>> {
    (0..count)
        .map(|number| Arc::new(pod(number, json!([{ "name": "http", "containerPort": 8080 }]))))
        .collect()
}

/// Plans and carries the plan out on `slices`; returns how many writes there were.
fn bring(slices: &mut Vec<Arc<EndpointSlice>>, service: &Service, pods: &[Arc<Pod>]) -> usize {
    let actions = plan(service, pods, slices);
    let writes = actions.len();
    for action in actions {
        match action {
            Action::Create(mut slice) => {
                slice.metadata.name = Some(format!("echo-{}", slices.len()));
                slices.push(Arc::from(slice));
            }
            Action::Update(slice) => {
                let place = slices.iter_mut().find(|known| known.metadata.name == slice.metadata.name);
                *place.expect("was there") = Arc::from(slice);
            }
            Action::Delete(slice) => slices.retain(|known| known.metadata.name != slice.metadata.name),
        }
    }
    writes
}

fn to_http() -> Service {
    service(
        json!([{ "name": "web", "port": 80, "protocol": "TCP", "targetPort": "http", "appProtocol": "http" }]),
    )
}

#[test]
fn a_slice_says_everything_a_client_asks() {
    let mut slices = Vec::new();
    bring(&mut slices, &to_http(), &http_pods(1));
    let slice = serde_json::to_value(slices[0].as_ref()).expect("serialises");
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "echo");
    assert_eq!(
        slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"],
        "endpointslice-controller.k8s.io"
    );
    assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], "svc");
    assert_eq!(slice["addressType"], "IPv4");
    assert_eq!(
        slice["ports"],
        json!([{ "name": "web", "port": 8080, "protocol": "TCP", "appProtocol": "http" }])
    );
    assert_eq!(
        slice["endpoints"],
        json!([{ "addresses": ["127.1.0.1"],
                 "conditions": { "ready": true, "serving": true, "terminating": false },
                 "nodeName": "weir",
                 "targetRef": { "kind": "Pod", "name": "echo-0", "namespace": "default", "uid": "pod-0" } }])
    );
}

#[test]
fn two_hundred_and_fifty_pods_make_three_slices_and_one_more_writes_one() {
    let (service, mut slices) = (to_http(), Vec::new());
    bring(&mut slices, &service, &http_pods(250));
    let mut sizes: Vec<_> = slices.iter().map(|slice| listed(slice).len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100, 100]);
    assert_eq!(bring(&mut slices, &service, &http_pods(250)), 0);
    assert_eq!(bring(&mut slices, &service, &http_pods(251)), 1);
    assert_eq!(slices.iter().map(|slice| listed(slice).len()).sum::<usize>(), 251);
    // Back to nothing: one empty slice says that the Service was looked at.
    bring(&mut slices, &service, &[]);
    assert_eq!((slices.len(), listed(&slices[0]).len()), (1, 0));
    assert_eq!(bring(&mut slices, &service, &[]), 0);
}

#[test]
fn pods_with_different_ports_go_into_different_slices() {
    let pods = vec![
        Arc::new(pod(0, json!([{ "name": "http", "containerPort": 8080 }]))),
        Arc::new(pod(1, json!([{ "name": "http", "containerPort": 9090 }]))),
        Arc::new(pod(2, json!([{ "name": "other", "containerPort": 9090 }]))),
    ];
    let mut slices = Vec::new();
    bring(&mut slices, &to_http(), &pods);
    let mut ports: Vec<_> = slices
        .iter()
        .map(|slice| slice.ports.iter().flatten().map(|port| port.port).collect::<Vec<_>>())
        .collect();
    ports.sort();
    assert_eq!(ports, [vec![], vec![Some(8080)], vec![Some(9090)]]);
}

#[test]
fn a_port_that_had_to_move_is_published_where_it_is() {
    let mut moved = pod(0, json!([{ "containerPort": 80 }]));
    moved.metadata.annotations = Some([("weir.dev/port-80".to_owned(), "8080".to_owned())].into());
    let mut slices = Vec::new();
    let service = service(json!([{ "port": 80 }]));
    bring(&mut slices, &service, &[Arc::new(moved), Arc::new(pod(1, json!([])))]);
    let mut ports: Vec<_> =
        slices.iter().flat_map(|slice| slice.ports.iter().flatten()).map(|p| p.port).collect();
    ports.sort();
    assert_eq!(ports, [Some(80), Some(8080)]);
}

#[test]
fn a_pod_that_goes_is_serving_but_not_ready_and_one_that_ended_is_not_listed() {
    let mut going = pod(0, json!([{ "name": "http", "containerPort": 8080 }]));
    going.metadata.deletion_timestamp = Some(k8s_openapi::jiff::Timestamp::UNIX_EPOCH.into());
    let mut ended = pod(1, json!([{ "name": "http", "containerPort": 8080 }]));
    ended.status.as_mut().expect("has one").phase = Some("Succeeded".into());
    let mut slices = Vec::new();
    bring(&mut slices, &to_http(), &[Arc::new(going), Arc::new(ended)]);
    assert_eq!(listed(&slices[0]).len(), 1);
    let conditions = listed(&slices[0])[0].conditions.clone().expect("has some");
    assert_eq!(
        (conditions.ready, conditions.serving, conditions.terminating),
        (Some(false), Some(true), Some(true))
    );
}

#[test]
fn services_without_a_selector_are_left_alone() {
    let mut service = to_http();
    service.spec.as_mut().expect("has one").selector = None;
    assert!(plan(&service, &http_pods(1), &[]).is_empty());
}

#[test]
fn a_headless_service_labels_its_slices_so() {
    let mut service = to_http();
    service.spec.as_mut().expect("has one").cluster_ip = Some("None".into());
    let mut slices = Vec::new();
    bring(&mut slices, &service, &http_pods(1));
    let labels = slices[0].metadata.labels.clone().expect("has some");
    assert_eq!(labels.get("service.kubernetes.io/headless").map(String::as_str), Some(""));
}

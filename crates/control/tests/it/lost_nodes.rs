//! Endpoints that are not ready because nobody has heard of their node.

use std::time::Duration;

use serde_json::{Value, json};
use weir_model::resource::Body;

use crate::api::Api;
use crate::plane::{Plane, ready_api, route};

fn node(ready: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"},
        "status": {"conditions": [{"type": "MemoryPressure", "status": "Unknown"}, {"type": "Ready", "status": ready}]}})
}

/// Puts the only endpoint of `echo` on the node.
fn put(api: &Api, node: &str, ready: bool, terminating: bool) {
    let mut slice = api.get("endpointslices", "default", "echo-1").unwrap();
    slice["endpoints"] = json!([{
        "addresses": ["127.1.0.1"],
        "nodeName": node,
        "conditions": {"ready": ready, "serving": ready, "terminating": terminating},
    }]);
    api.apply("endpointslices", slice);
}

fn endpoints(plane: &Plane) -> usize {
    match plane.resources().get("endpoints/default/echo/80").and_then(|resource| resource.body.clone()) {
        Some(Body::Endpoints(endpoints)) => endpoints.endpoints.len(),
        other => panic!("{other:?} of {:?}", plane.keys()),
    }
}

async fn serving() -> Plane {
    let api = ready_api();
    put(&api, "node-1", true, false);
    let plane = Plane::start(api);
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane.until("served", |plane| plane.keys().contains(&"endpoints/default/echo/80".to_owned())).await;
    assert_eq!(endpoints(&plane), 1);
    plane
}

#[tokio::test(start_paused = true)]
async fn endpoints_of_a_lost_node_stay_where_there_are_no_others() {
    let plane = serving().await;
    plane.api.apply("nodes", node("Unknown"));
    let updates = plane.updates().len();
    put(&plane.api, "node-1", false, false);
    plane.until("looked at", |plane| plane.api.reads("/nodes/node-1") > 0).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(endpoints(&plane), 1);
    assert_eq!(plane.updates().len(), updates, "not for a moment was it without");
    let looks = plane.api.reads("/nodes/node-1");
    assert!((3..=8).contains(&looks), "{looks} looks in a minute");
    // It has been heard again, and its kubelet says the same of the pod.
    plane.api.edit("nodes", "", "node-1", |known| *known = node("True"));
    plane.until("taken out", |plane| endpoints(plane) == 0).await;
    let looks = plane.api.reads("/nodes/node-1");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(plane.api.reads("/nodes/node-1"), looks, "nothing is in doubt any more");
    put(&plane.api, "node-1", true, false);
    plane.until("back", |plane| endpoints(plane) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_a_kubelet_calls_unready_are_taken_out_at_once() {
    let plane = serving().await;
    plane.api.apply("nodes", node("True"));
    put(&plane.api, "node-1", false, false);
    plane.until("taken out", |plane| endpoints(plane) == 0).await;
    put(&plane.api, "node-1", true, false);
    plane.until("back", |plane| endpoints(plane) == 1).await;
    // On its way out: nobody is asked.
    let looks = plane.api.reads("/nodes/");
    put(&plane.api, "node-1", false, true);
    plane.until("taken out", |plane| endpoints(plane) == 0).await;
    assert_eq!(plane.api.reads("/nodes/"), looks);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_there_or_cannot_be_asked_saves_nobody() {
    for (name, code) in [("node-1", 403), ("node-1", 500), ("another", 404), ("../namespaces/default", 404)] {
        let plane = serving().await;
        plane.api.apply("nodes", node("Unknown"));
        if code != 404 {
            // More often than it is asked before the state counts as it is.
            plane.api.fail("/nodes/node-1", 8, code);
        }
        put(&plane.api, name, false, false);
        plane.until("taken out", |plane| endpoints(plane) == 0).await;
        if code == 500 {
            plane.until("asked again", |plane| endpoints(plane) == 1).await;
        }
        assert!(name == "node-1" || plane.api.reads("/nodes/node-1") == 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_begins_then_gives_no_set_without_them() {
    let api = ready_api();
    api.apply("nodes", node("Unknown"));
    put(&api, "node-1", false, false);
    api.apply("httproutes", route("r", "g", "echo"));
    let plane = Plane::start(api);
    plane.until("served", |plane| plane.keys().contains(&"endpoints/default/echo/80".to_owned())).await;
    for update in plane.updates() {
        for resource in &update.upserts {
            let Some(Body::Endpoints(found)) = &resource.body else { continue };
            assert_eq!(found.endpoints.len(), 1);
        }
    }
}

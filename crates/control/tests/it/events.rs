//! What is said to people about objects.

use std::time::Duration;

use serde_json::Value;

use crate::plane::{Plane, ready_api, route};

fn said(plane: &Plane, name: &str) -> Vec<Value> {
    let events = plane.api.all("events").into_iter();
    events.filter(|event| event["involvedObject"]["name"] == name).collect()
}

#[tokio::test(start_paused = true)]
async fn a_finding_is_an_event_where_kubectl_describe_looks_for_it() {
    let plane = Plane::start(ready_api());
    plane.api.apply("httproutes", route("r", "g", "missing"));
    plane.until("said", |plane| !said(plane, "r").is_empty()).await;
    let object = plane.api.get("httproutes", "default", "r").unwrap();
    let event = &said(&plane, "r")[0];
    assert_eq!(event["involvedObject"]["uid"], object["metadata"]["uid"]);
    assert_eq!(event["involvedObject"]["apiVersion"], "gateway.networking.k8s.io/v1");
    assert_eq!(event["involvedObject"]["kind"], "HTTPRoute");
    assert_eq!(event["metadata"]["namespace"], "default");
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["reason"], "BackendNotFound");
    assert!(event["message"].as_str().unwrap().contains("spec.rules[0].backendRefs[0]"), "{event}");
    assert!(event["message"].as_str().unwrap().contains("missing"), "{event}");
    assert_eq!(event["count"], 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_said_again_is_counted_not_repeated() {
    let plane = Plane::start(ready_api());
    for round in 1..=5 {
        plane.api.apply("httproutes", route("r", "g", "missing"));
        plane.until("said", |plane| said(plane, "r").iter().any(|event| event["count"] == round)).await;
        plane.api.apply("httproutes", route("r", "g", "echo"));
        plane
            .until("mended", |plane| plane.condition("httproutes", "default", "r", "ResolvedRefs") == "True")
            .await;
    }
    assert_eq!(said(&plane, "r").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_has_too_much_to_say_is_cut_short_and_others_are_heard() {
    let plane = Plane::start(ready_api());
    for round in 0..60 {
        plane.api.apply("httproutes", route("r", "g", &format!("missing{round}")));
        plane.settle().await;
    }
    plane.api.apply("httproutes", route("other", "g", "missing"));
    plane.until("said", |plane| !said(plane, "other").is_empty()).await;
    assert!((20..=26).contains(&said(&plane, "r").len()), "{}", said(&plane, "r").len());
    assert!(plane.status.events_dropped.get() >= 30);
    // After a while there is more to come.
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    let before = said(&plane, "r").len();
    plane.api.apply("httproutes", route("r", "g", "once-more"));
    plane.until("said", |plane| said(plane, "r").len() > before).await;
}

#[tokio::test(start_paused = true)]
async fn events_that_cannot_be_written_hold_nothing_up() {
    let plane = Plane::start(ready_api());
    plane.api.fail("/events", 1_000_000, 500);
    for round in 0..50 {
        let name = format!("r{round}");
        plane.api.apply("httproutes", route(&name, "g", "missing"));
        plane
            .until("told", |plane| plane.condition("httproutes", "default", &name, "ResolvedRefs") == "False")
            .await;
    }
    assert!(plane.api.all("events").is_empty());
}

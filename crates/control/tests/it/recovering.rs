//! Watches that end, fail or fall behind, and kinds whose versions come and go.

use std::time::Duration;

use serde_json::json;

use crate::plane::{Plane, ready_api, route};

fn has(plane: &Plane, name: &str) -> bool {
    plane.keys().contains(&format!("httproute/default/{name}"))
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_is_taken_up_where_it_was() {
    let plane = Plane::start(ready_api());
    plane.api.apply("httproutes", route("before", "g", "echo"));
    plane.until("served", |plane| has(plane, "before")).await;
    let lists = plane.status.lists.get();
    tokio::time::sleep(Duration::from_secs(10)).await;
    plane.api.end_watches("httproutes");
    plane.api.apply("httproutes", route("between", "g", "echo"));
    plane.until("served", |plane| has(plane, "between")).await;
    assert_eq!(plane.status.lists.get(), lists, "no new list was needed");
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_or_too_old_a_version_the_list_is_swapped_whole() {
    let plane = Plane::start(ready_api());
    plane.api.apply("httproutes", route("stays", "g", "echo"));
    plane.api.apply("httproutes", route("goes", "g", "echo"));
    plane.until("served", |plane| has(plane, "stays") && has(plane, "goes")).await;
    let updates = plane.updates().len();
    plane.api.fail("/httproutes", 1, 410);
    plane.api.end_watches("httproutes");
    plane.api.delete("httproutes", "default", "goes");
    plane.api.apply("httproutes", route("comes", "g", "echo"));
    plane.until("swapped", |plane| has(plane, "comes") && !has(plane, "goes")).await;
    assert!(has(&plane, "stays"));
    for update in &plane.updates()[updates..] {
        assert!(!update.full && !update.removals.contains(&"httproute/default/stays".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_that_is_away_changes_nothing_and_is_asked_ever_more_slowly() {
    let plane = Plane::start(ready_api());
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane.until("served", |plane| has(plane, "r")).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (failures, updates) = (plane.status.watch_failures.get(), plane.updates().len());
    plane.api.fail("/httproutes", 1_000_000, 503);
    plane.api.end_watches("httproutes");
    tokio::time::sleep(Duration::from_secs(120)).await;
    let failed = plane.status.watch_failures.get() - failures;
    assert!((3..=40).contains(&failed), "{failed} attempts in two minutes");
    assert!(has(&plane, "r"));
    assert_eq!(plane.updates().len(), updates);
}

fn route_at(host: &str) -> serde_json::Value {
    let mut route = route("kept", "g", "echo");
    route["spec"]["hostnames"] = json!([host]);
    route
}

/// Whether the data plane has a route of this host, and its status says so.
fn is_served_at(plane: &Plane, host: &str) -> bool {
    let object = plane.api.get("httproutes", "default", "kept").unwrap_or_default();
    let said = &object["status"]["parents"][0]["conditions"][0]["observedGeneration"];
    format!("{:?}", plane.resources()["httproute/default/kept"]).contains(host)
        && *said == object["metadata"]["generation"]
}

#[tokio::test(start_paused = true)]
async fn an_api_that_was_put_back_to_an_earlier_day_is_followed_after_a_while() {
    let plane = Plane::start(ready_api());
    plane.api.apply("httproutes", route_at("first.example"));
    plane.until("served", |plane| has(plane, "kept") && is_served_at(plane, "first.example")).await;
    let backup = plane.api.back_up();
    for at in 0..50 {
        plane.api.apply("httproutes", route_at(&format!("lost-{at}.example")));
    }
    plane.api.apply("httproutes", route("lost", "g", "echo"));
    plane.until("served", |plane| has(plane, "lost") && is_served_at(plane, "lost-49.example")).await;
    plane.api.put_back(backup);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(has(&plane, "lost"), "it may be a server that lags behind");
    tokio::time::sleep(Duration::from_secs(30)).await;
    plane.until("put back", |plane| !has(plane, "lost") && is_served_at(plane, "first.example")).await;
    // Its versions have not caught up with those that were seen.
    plane.api.apply("httproutes", route_at("next.example"));
    plane.api.apply("httproutes", route("next", "g", "echo"));
    plane.until("followed", |plane| has(plane, "next") && is_served_at(plane, "next.example")).await;
    plane.until("said", |plane| plane.condition("httproutes", "default", "next", "Accepted") == "True").await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lags_behind_for_a_while_takes_nothing_back() {
    let plane = Plane::start(ready_api());
    plane.api.apply("httproutes", route_at("first.example"));
    plane.until("served", |plane| has(plane, "kept") && is_served_at(plane, "first.example")).await;
    let older = plane.api.back_up();
    plane.api.apply("httproutes", route_at("second.example"));
    plane.api.apply("httproutes", route("young", "g", "echo"));
    let accepted = |plane: &Plane| plane.condition("httproutes", "default", "young", "Accepted") == "True";
    plane.until("served", |plane| accepted(plane) && is_served_at(plane, "second.example")).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (newer, updates) = (plane.api.back_up(), plane.updates().len());
    plane.api.put_back(older);
    tokio::time::sleep(Duration::from_secs(15)).await;
    plane.api.put_back(newer);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(has(&plane, "young") && is_served_at(&plane, "second.example"));
    assert_eq!(plane.updates().len(), updates);
}

#[tokio::test(start_paused = true)]
async fn the_older_version_is_read_and_written_where_the_newer_is_not_served() {
    let api = ready_api();
    for plural in ["gatewayclasses", "gateways", "httproutes"] {
        api.serve("v1", plural, false);
    }
    let plane = Plane::start(api);
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane
        .until("accepted", |plane| plane.condition("httproutes", "default", "r", "Accepted") == "True")
        .await;
    let statuses = plane.api.writes("/status");
    assert!(!statuses.is_empty());
    assert!(statuses.iter().all(|(_, path, _)| path.contains("/v1beta1/") || path.starts_with("/api/v1/")));
}

#[tokio::test(start_paused = true)]
async fn a_kind_moves_to_a_better_version_when_its_crd_changes() {
    let api = ready_api();
    api.serve("v1", "httproutes", false);
    let plane = Plane::start(api);
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane.until("served", |plane| has(plane, "r")).await;
    plane.until("CRDs are watched", |plane| plane.api.is_watched("customresourcedefinitions")).await;
    let updates = plane.updates().len();
    plane.api.serve("v1", "httproutes", true);
    plane.api.apply(
        "customresourcedefinitions",
        json!({"metadata": {"name": "httproutes.gateway.networking.k8s.io"}, "spec": {}}),
    );
    let mut changed = route("r", "g", "echo");
    changed["spec"]["hostnames"] = json!(["example.com"]);
    tokio::time::sleep(Duration::from_secs(30)).await;
    plane.api.apply("httproutes", changed);
    plane
        .until("written in v1", |plane| {
            plane
                .api
                .writes("/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes/r/status")
                .len()
                == 1
        })
        .await;
    for update in &plane.updates()[updates..] {
        assert!(update.removals.is_empty(), "nothing was lost on the way: {update:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_served_no_longer_keeps_its_objects_and_the_class_says_so() {
    let plane = Plane::start(ready_api());
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane.until("served", |plane| has(plane, "r")).await;
    plane.until("CRDs are watched", |plane| plane.api.is_watched("customresourcedefinitions")).await;
    let crd = json!({"metadata": {"name": "httproutes.gateway.networking.k8s.io"}, "spec": {"round": 1}});
    plane.api.serve("v1", "httproutes", false);
    plane.api.serve("v1beta1", "httproutes", false);
    plane.api.apply("customresourcedefinitions", crd.clone());
    let told = |plane: &Plane| plane.condition("gatewayclasses", "", "weir", "weir.dev/KindsServed");
    plane.until("told", |plane| told(plane) == "False").await;
    assert!(has(&plane, "r"));
    plane.api.serve("v1", "httproutes", true);
    plane.api.delete("customresourcedefinitions", "", "httproutes.gateway.networking.k8s.io");
    plane.until("taken back", |plane| told(plane).is_empty()).await;
    assert!(has(&plane, "r"));
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_was_never_served_is_empty_and_holds_nothing_up() {
    let api = ready_api();
    api.serve("v1beta1", "referencegrants", false);
    let plane = Plane::start(api);
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane
        .until("accepted", |plane| plane.condition("httproutes", "default", "r", "Accepted") == "True")
        .await;
    // A reference that would need a grant is answered all the same.
    let mut far = route("far", "g", "echo");
    far["spec"]["rules"][0]["backendRefs"][0]["namespace"] = json!("elsewhere");
    plane.api.apply("httproutes", far);
    plane
        .until("told", |plane| plane.condition("httproutes", "default", "far", "ResolvedRefs") == "False")
        .await;
}

//! What is written into statuses, when, and what is left alone.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::plane::{Plane, condition_of, gateway, ready_api, route};

const OURS: &str = "weir.dev/gateway-controller";

fn foreign() -> Value {
    json!({
        "parentRef": {"name": "theirs", "sectionName": "a"}, "controllerName": "example.com/other",
        "conditions": [{
            "type": "Accepted", "status": "False", "reason": "No", "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2024-02-03T04:05:06Z",
        }],
    })
}

fn parents(plane: &Plane, name: &str) -> Vec<Value> {
    let object = plane.api.get("httproutes", "default", name).unwrap();
    object["status"]["parents"].as_array().cloned().unwrap_or_default()
}

fn add_parent(object: &mut Value, parent: Value) {
    if !object["status"]["parents"].is_array() {
        object["status"] = json!({"parents": []});
    }
    object["status"]["parents"].as_array_mut().unwrap().push(parent);
}

fn status_writes(plane: &Plane, plural: &str) -> usize {
    plane.api.writes(&format!("/{plural}/")).iter().filter(|(_, path, _)| path.ends_with("/status")).count()
}

#[tokio::test(start_paused = true)]
async fn entries_of_other_controllers_survive_every_conflict() {
    let api = ready_api();
    api.apply("httproutes", route("r", "g", "echo"));
    // Somebody writes just before each of our first five attempts.
    for number in 0..5 {
        api.intrude("r", move |object| {
            let mut entry = foreign();
            entry["parentRef"]["name"] = json!(format!("theirs-{number}"));
            add_parent(object, entry);
        });
    }
    let plane = Plane::start(api);
    plane
        .until("accepted", |plane| plane.condition("httproutes", "default", "r", "Accepted") == "True")
        .await;
    let (ours, theirs): (Vec<Value>, Vec<Value>) =
        parents(&plane, "r").into_iter().partition(|entry| entry["controllerName"] == OURS);
    assert_eq!(ours.len(), 1);
    assert_eq!(theirs.len(), 5, "{theirs:?}");
    for (number, entry) in theirs.iter().enumerate() {
        let mut expected = foreign();
        expected["parentRef"]["name"] = json!(format!("theirs-{number}"));
        assert_eq!(*entry, expected);
    }
    assert!(plane.status.status_conflicts.get() >= 5);
}

#[tokio::test(start_paused = true)]
async fn entries_go_with_their_parent_refs_and_others_stay() {
    let plane = Plane::start(ready_api());
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane
        .until("accepted", |plane| plane.condition("httproutes", "default", "r", "Accepted") == "True")
        .await;
    plane.api.edit("httproutes", "default", "r", |object| add_parent(object, foreign()));
    let mut unbound = route("r", "g", "echo");
    unbound["spec"]["parentRefs"] = json!([]);
    plane.api.apply("httproutes", unbound);
    plane.until("ours are gone", |plane| parents(plane, "r") == [foreign()]).await;
}

#[tokio::test(start_paused = true)]
async fn all_conditions_of_an_object_come_in_one_write_at_its_generation() {
    let plane = Plane::start(ready_api());
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane
        .until("accepted", |plane| plane.condition("httproutes", "default", "r", "Accepted") == "True")
        .await;
    let at_generation = |object: &Value, lists: &[&Value]| {
        let generation = &object["metadata"]["generation"];
        lists.iter().all(|conditions| {
            let conditions = conditions.as_array().unwrap();
            !conditions.is_empty()
                && conditions.iter().all(|condition| condition["observedGeneration"] == *generation)
        })
    };
    for generation in 2..5 {
        let mut listener = gateway("g", "weir");
        listener["spec"]["listeners"][0]["hostname"] = json!(format!("g{generation}.example.com"));
        plane.api.apply("gateways", listener);
        plane.settle().await;
        let object = plane.api.get("gateways", "default", "g").unwrap();
        assert_eq!(object["metadata"]["generation"], generation);
        let status = &object["status"];
        assert!(
            at_generation(&object, &[&status["conditions"], &status["listeners"][0]["conditions"]]),
            "{status}"
        );
        assert_eq!(condition_of(&object, "Programmed"), "True");
    }
    let written: Vec<Value> = plane
        .api
        .writes("/gateways/g/status")
        .into_iter()
        .map(|(_, _, patch)| patch[1]["value"]["conditions"].clone())
        .collect();
    for conditions in written {
        let generations: Vec<&Value> =
            conditions.as_array().unwrap().iter().map(|condition| &condition["observedGeneration"]).collect();
        assert!(generations.windows(2).all(|pair| pair[0] == pair[1]), "{conditions}");
    }
}

#[tokio::test(start_paused = true)]
async fn conditions_of_an_older_generation_are_never_written_onto_a_newer_one() {
    let plane = Plane::start(ready_api());
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    plane.fall_silent();
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane.settle().await;
    // The second generation is there, and no watch has told yet, when the status of the first may be written.
    plane.api.delay("httproutes");
    let mut edited = route("r", "g", "echo");
    edited["spec"]["hostnames"] = json!(["example.com"]);
    plane.api.apply("httproutes", edited);
    plane.speak();
    plane.settle().await;
    assert!(plane.api.reads("/httproutes/r") >= 1, "the write met the newer object");
    assert_eq!(parents(&plane, "r"), [] as [Value; 0]);
    plane.api.flush("httproutes");
    plane.settle().await;
    assert_eq!(parents(&plane, "r")[0]["conditions"][0]["observedGeneration"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_is_as_it_should_be_is_not_written() {
    let plane = Plane::start(ready_api());
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane
        .until("accepted", |plane| plane.condition("httproutes", "default", "r", "Accepted") == "True")
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (routes, gateways) = (status_writes(&plane, "httproutes"), status_writes(&plane, "gateways"));
    assert_eq!(routes, 1);
    let api = plane.api.clone();
    plane.shutdown.cancel();
    plane.task.await.unwrap();
    // A new process finds everything said.
    let again = Plane::start(api);
    again.until("ready", |plane| plane.status.ready() && plane.updates().len() == 1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(status_writes(&again, "httproutes"), routes);
    assert!(
        status_writes(&again, "gateways") <= gateways + 1,
        "a restart may say Programmed anew, and no more"
    );
}

#[tokio::test(start_paused = true)]
async fn a_route_is_accepted_when_it_answers_and_not_before() {
    let plane = Plane::start(ready_api());
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    plane.fall_silent();
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane.settle().await;
    assert!(plane.keys().contains(&"httproute/default/r".to_owned()), "the data plane has it");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(plane.condition("httproutes", "default", "r", "Accepted"), "");
    plane.speak();
    plane.settle().await;
    assert_eq!(plane.condition("httproutes", "default", "r", "Accepted"), "True");
}

#[tokio::test(start_paused = true)]
async fn a_route_waits_a_second_at_most_for_the_data_plane() {
    let plane = Plane::start(ready_api());
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    plane.fall_silent();
    let event = Instant::now();
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane
        .until("accepted", |plane| plane.condition("httproutes", "default", "r", "Accepted") == "True")
        .await;
    let waited = event.elapsed();
    assert!(waited >= Duration::from_secs(1) && waited < Duration::from_millis(1_100), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_is_programmed_when_its_socket_is_bound_and_not_before() {
    let api = ready_api();
    let plane = Plane::start(api);
    plane.fall_silent();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_ne!(plane.condition("gateways", "default", "g", "Programmed"), "True");
    assert_eq!(plane.condition("gateways", "default", "g", "Accepted"), "True", "the rest is not held back");
    plane.speak();
    plane.settle().await;
    assert_eq!(plane.condition("gateways", "default", "g", "Programmed"), "True");
}

#[tokio::test(start_paused = true)]
async fn a_port_that_somebody_has_is_told_by_the_listener() {
    let api = ready_api();
    let plane = Plane::start(api);
    plane.break_port(81, "address 127.64.1.1:81 is in use");
    let mut two = gateway("g", "weir");
    two["spec"]["listeners"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "b", "port": 81, "protocol": "HTTP"}));
    plane.api.apply("gateways", two);
    let listener = |plane: &Plane| {
        let object = plane.api.get("gateways", "default", "g").unwrap();
        object["status"]["listeners"][1]["conditions"].clone()
    };
    plane.until("told", |plane| listener(plane).to_string().contains("is in use")).await;
    let conditions = listener(&plane);
    let programmed = conditions.as_array().unwrap().iter().find(|c| c["type"] == "Programmed").unwrap();
    assert_eq!(programmed["status"], "False");
}

#[tokio::test(start_paused = true)]
async fn a_route_that_the_data_plane_rejects_is_not_accepted() {
    let plane = Plane::start(ready_api());
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    plane.reject(&[("httproute/default/r", "the expression is too big")]);
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane.until("told", |plane| plane.condition("httproutes", "default", "r", "Accepted") == "False").await;
    assert!(parents(&plane, "r")[0].to_string().contains("too big"));
    plane
        .until("said", |plane| plane.api.all("events").iter().any(|event| event["reason"] == "Rejected"))
        .await;
    plane.reject(&[]);
    let mut edited = route("r", "g", "echo");
    edited["spec"]["hostnames"] = json!(["example.com"]);
    plane.api.apply("httproutes", edited);
    plane
        .until("accepted", |plane| plane.condition("httproutes", "default", "r", "Accepted") == "True")
        .await;
}

#[tokio::test(start_paused = true)]
async fn while_routes_come_and_go_a_gateway_is_written_once_a_second() {
    let plane = Plane::start(ready_api());
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let attached = |plane: &Plane| {
        let object = plane.api.get("gateways", "default", "g").unwrap();
        object["status"]["listeners"][0]["attachedRoutes"].as_u64().unwrap()
    };
    let before = status_writes(&plane, "gateways");
    let started = Instant::now();
    plane.api.apply("httproutes", route("r0", "g", "echo"));
    plane.settle().await;
    assert_eq!((attached(&plane), Instant::now()), (1, started), "the first one is told at once");
    for number in 1..300 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        plane.api.apply("httproutes", route(&format!("r{number}"), "g", "echo"));
    }
    let last = Instant::now();
    plane.until("all are counted", |plane| attached(plane) == 300).await;
    assert!(last.elapsed() <= Duration::from_millis(100), "{:?}", last.elapsed());
    let writes = status_writes(&plane, "gateways") - before;
    assert!(writes <= 5, "{writes} writes in three seconds");
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changes_back_is_repaired_more_and_more_slowly() {
    let plane = Plane::start(ready_api());
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane
        .until("accepted", |plane| plane.condition("httproutes", "default", "r", "Accepted") == "True")
        .await;
    let wipe = |object: &mut Value| object["status"]["parents"] = json!([]);
    plane.api.edit("httproutes", "default", "r", wipe);
    plane.until("repaired", |plane| parents(plane, "r").len() == 1).await;
    let started = Instant::now();
    let mut repairs = 0;
    while started.elapsed() < Duration::from_secs(60) {
        if parents(&plane, "r").len() == 1 {
            plane.api.edit("httproutes", "default", "r", wipe);
            repairs += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!((3..=20).contains(&repairs), "{repairs} repairs in a minute of fight");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_tried_again_and_the_newest_status_wins() {
    let plane = Plane::start(ready_api());
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    plane.api.fail("/httproutes/r/status", 3, 500);
    plane.api.apply("httproutes", route("r", "g", "missing"));
    plane.settle().await;
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane
        .until("written", |plane| plane.condition("httproutes", "default", "r", "ResolvedRefs") == "True")
        .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(plane.condition("httproutes", "default", "r", "ResolvedRefs"), "True");
    assert!(plane.status.status_errors.get() >= 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_adds_defaults_is_not_written_to_for_ever() {
    let plane = Plane::start(ready_api());
    plane.api.add_defaults();
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane
        .until("accepted", |plane| plane.condition("httproutes", "default", "r", "Accepted") == "True")
        .await;
    assert_eq!(parents(&plane, "r")[0]["defaulted"], true);
    // Somebody else touches the object again and again, as controllers do.
    for number in 0..50 {
        plane.api.edit("httproutes", "default", "r", |object| {
            object["metadata"]["labels"] = json!({"round": number.to_string()});
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(status_writes(&plane, "httproutes"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_the_server_refuses_for_good_is_not_written_again_until_it_changes() {
    let plane = Plane::start(ready_api());
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    plane.api.fail("/httproutes/r/status", 1_000, 422);
    plane.api.apply("httproutes", route("r", "g", "echo"));
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(plane.api.failures_left("/httproutes/r/status"), 999);
    plane.api.apply("httproutes", route("r", "g", "missing"));
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(plane.api.failures_left("/httproutes/r/status"), 998);
}

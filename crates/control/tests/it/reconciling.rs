//! From an event to an update, and how references that have not been seen are dealt with.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use weir_model::resource::{Body, HttpRoute};

use crate::plane::{Plane, class, gateway, ready_api, route, service, slice};

fn http_route(plane: &Plane, name: &str) -> Option<HttpRoute> {
    match plane.resources().remove(&format!("httproute/default/{name}"))?.body {
        Some(Body::HttpRoute(route)) => Some(route),
        _ => None,
    }
}

fn invalid_reason(plane: &Plane, name: &str) -> Option<String> {
    Some(http_route(plane, name)?.rules[0].backends[0].invalid_reason.clone())
}

#[tokio::test(start_paused = true)]
async fn nothing_is_translated_before_every_first_list_is_complete() {
    let api = ready_api();
    api.apply("httproutes", route("r", "g", "echo"));
    api.fail("/httproutes", 4, 500);
    let plane = Plane::start(api);
    plane.until("the Gateways are watched", |plane| plane.api.is_watched("gateways")).await;
    plane.settle().await;
    assert!(plane.updates().is_empty() && !plane.status.ready());
    plane.until("the first update", |plane| !plane.updates().is_empty()).await;
    let first = &plane.updates()[0];
    assert!(first.full && first.sequence == 1);
    assert!(plane.keys().contains(&"httproute/default/r".to_owned()), "{:?}", plane.keys());
    assert!(plane.keys().contains(&"endpoints/default/echo/80".to_owned()), "{:?}", plane.keys());
    assert!(plane.status.ready());
}

#[tokio::test(start_paused = true)]
async fn no_timer_lies_between_an_event_and_its_update() {
    let plane = Plane::start(ready_api());
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    for round in 0..20 {
        tokio::time::advance(Duration::from_millis(777)).await;
        let before = plane.updates().len();
        let event = Instant::now();
        let mut edited = route("r", "g", "echo");
        edited["spec"]["rules"][0]["backendRefs"][0]["weight"] = json!(round + 2);
        plane.api.apply("httproutes", edited);
        // Tasks run while the clock stands still: it moves only when all of them wait.
        plane.settle().await;
        assert_eq!(event, Instant::now());
        assert_eq!(plane.updates().len(), before + 1);
        assert_eq!(plane.last_update_at(), event);
        assert_eq!(http_route(&plane, "r").unwrap().rules[0].backends[0].weight, round + 2);
        assert_eq!(
            plane.condition("httproutes", "default", "r", "Accepted"),
            "True",
            "and the status as well"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn events_that_are_there_together_are_one_update() {
    let plane = Plane::start(ready_api());
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    let before = plane.updates().len();
    for number in 0..40 {
        plane.api.apply("httproutes", route(&format!("r{number}"), "g", "echo"));
    }
    plane.until("all are served", |plane| http_route(plane, "r39").is_some()).await;
    assert_eq!(plane.updates().len() - before, 1);
    let numbers: Vec<u64> = plane.updates().iter().map(|update| update.sequence).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_busy_data_plane_gets_what_piled_up_at_once() {
    let plane = Plane::start(ready_api());
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    let before = plane.updates().len();
    plane.pause();
    for number in 0..50 {
        plane.api.apply("httproutes", route(&format!("r{number}"), "g", "echo"));
        plane.settle().await;
    }
    assert_eq!(plane.updates().len(), before, "it takes nothing");
    plane.resume();
    plane.until("served", |plane| http_route(plane, "r49").is_some()).await;
    // One that waited in the channel, one in the hands of the sender, and one with all the rest.
    assert!(plane.updates().len() - before <= 3, "{} updates", plane.updates().len() - before);
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_is_named_and_the_versions_that_were_read_are_told() {
    let plane = Plane::start(ready_api());
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane.until("served", |plane| http_route(plane, "r").is_some()).await;
    plane.api.delete("httproutes", "default", "r");
    plane.until("gone", |plane| http_route(plane, "r").is_none()).await;
    let last = plane.updates().pop().unwrap();
    assert!(last.removals.contains(&"httproute/default/r".to_owned()));
    assert!(!last.removals.iter().any(|key| key.starts_with("listener/")));
    assert!(
        last.versions.iter().any(|version| version.kind == "HTTPRoute" && version.resource_version != "0")
    );
}

#[tokio::test(start_paused = true)]
async fn a_reference_that_no_watch_has_shown_is_read() {
    let plane = Plane::start(ready_api());
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    plane.api.delay("services");
    plane.api.apply("services", service("late"));
    plane.api.apply("endpointslices", slice("late", "127.1.0.2"));
    let event = Instant::now();
    plane.api.apply("httproutes", route("r", "g", "late"));
    plane.until("served", |plane| http_route(plane, "r").is_some()).await;
    assert_eq!(invalid_reason(&plane, "r").unwrap(), "");
    assert!(plane.api.reads("/services/late") >= 1);
    assert!(event.elapsed() < Duration::from_millis(10), "nothing was waited for");
    // The event that comes late says nothing new.
    plane.api.flush("services");
    plane.settle().await;
    assert_eq!(invalid_reason(&plane, "r").unwrap(), "");
}

#[tokio::test(start_paused = true)]
async fn an_absent_service_is_absent_at_once_and_found_when_it_comes() {
    let plane = Plane::start(ready_api());
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    let event = Instant::now();
    plane.api.apply("httproutes", route("r", "g", "missing"));
    plane
        .until("told", |plane| plane.condition("httproutes", "default", "r", "ResolvedRefs") == "False")
        .await;
    assert!(event.elapsed() < Duration::from_millis(10), "{:?}", event.elapsed());
    assert_eq!(invalid_reason(&plane, "r").unwrap(), "BackendNotFound");
    plane.api.apply("endpointslices", slice("missing", "127.1.0.2"));
    plane.api.apply("services", service("missing"));
    plane
        .until("told", |plane| plane.condition("httproutes", "default", "r", "ResolvedRefs") == "True")
        .await;
    assert_eq!(invalid_reason(&plane, "r").unwrap(), "");
}

#[tokio::test(start_paused = true)]
async fn while_a_reference_is_unknown_an_edited_rule_keeps_its_form_for_a_second_at_most() {
    let plane = Plane::start(ready_api());
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane.until("served", |plane| invalid_reason(plane, "r").is_some_and(|reason| reason.is_empty())).await;
    plane.api.fail("/services/unseen", 1_000, 500);
    let event = Instant::now();
    plane.api.apply("httproutes", route("r", "g", "unseen"));
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(
        http_route(&plane, "r").unwrap().rules[0].backends[0].backend_key,
        "backend/default/echo/80",
        "the last good form"
    );
    plane
        .until("given up", |plane| invalid_reason(plane, "r").is_some_and(|reason| !reason.is_empty()))
        .await;
    let waited = event.elapsed();
    assert!(waited >= Duration::from_secs(1) && waited < Duration::from_millis(1_100), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn reads_that_fail_do_not_keep_others_from_being_read() {
    let plane = Plane::start(ready_api());
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    for number in 0..100 {
        plane.api.fail(&format!("/services/bad{number}"), 1_000_000, 500);
        plane.api.apply("httproutes", route(&format!("bad{number}"), "g", &format!("bad{number}")));
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let event = Instant::now();
    plane.api.apply("httproutes", route("r", "g", "missing"));
    plane
        .until("told", |plane| plane.condition("httproutes", "default", "r", "ResolvedRefs") == "False")
        .await;
    assert!(event.elapsed() < Duration::from_millis(10), "{:?}", event.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_new_service_without_slices_is_waited_for_a_second_at_most() {
    let plane = Plane::start(ready_api());
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    plane.api.apply("services", service("slow"));
    let event = Instant::now();
    plane.api.apply("httproutes", route("r", "g", "slow"));
    plane.settle().await;
    assert!(http_route(&plane, "r").is_none_or(|route| route.rules.is_empty()), "a new rule waits");
    plane.api.apply("endpointslices", slice("slow", "127.1.0.3"));
    plane.settle().await;
    assert_eq!(event, Instant::now());
    assert!(http_route(&plane, "r").is_some(), "the slice is what it waited for");

    plane.api.apply("services", service("never"));
    let event = Instant::now();
    plane.api.apply("httproutes", route("other", "g", "never"));
    plane
        .until("served", |plane| http_route(plane, "other").is_some_and(|route| !route.rules.is_empty()))
        .await;
    let waited = event.elapsed();
    assert!(waited >= Duration::from_secs(1) && waited < Duration::from_millis(1_100), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_hurts_only_itself() {
    let api = ready_api();
    let mut broken = route("broken", "g", "echo");
    broken["spec"]["rules"] = json!("not a list");
    api.apply("httproutes", broken);
    api.apply("httproutes", route("fine", "g", "echo"));
    let plane = Plane::start(api);
    plane.until("served", |plane| http_route(plane, "fine").is_some()).await;
    assert!(http_route(&plane, "broken").is_none());
    plane
        .until("told", |plane| {
            plane.api.all("events").iter().any(|event| {
                event["reason"] == "Unreadable"
                    && event["involvedObject"]["name"] == "broken"
                    && event["involvedObject"]["kind"] == "HTTPRoute"
            })
        })
        .await;
    assert_eq!(plane.status.undecodable_objects.get(), 1);
    // One that was good before stays as it was.
    let mut worse = route("fine", "g", "echo");
    worse["spec"]["rules"] = json!(7);
    plane.api.apply("httproutes", worse);
    plane.until("noticed", |plane| plane.status.undecodable_objects.get() == 2).await;
    plane.settle().await;
    assert!(http_route(&plane, "fine").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_status_that_is_written_causes_no_translation() {
    let plane = Plane::start(ready_api());
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane
        .until("accepted", |plane| plane.condition("httproutes", "default", "r", "Accepted") == "True")
        .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (translations, writes) = (plane.status.translations.get(), plane.api.writes("").len());
    plane.api.edit("httproutes", "default", "r", |object| {
        object["status"]["parents"].as_array_mut().unwrap().push(json!({
            "parentRef": {"name": "other"}, "controllerName": "example.com/other", "conditions": [],
        }));
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(plane.status.translations.get(), translations);
    assert_eq!(plane.api.writes("").len(), writes, "and no write: nothing of ours changed");
}

#[tokio::test(start_paused = true)]
async fn shutdown_is_prompt_whatever_goes_on() {
    let plane = Plane::start(ready_api());
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    plane.api.fail("/status", 1_000, 500);
    plane.api.fail("/services/unseen", 1_000, 500);
    plane.api.apply("httproutes", route("r", "g", "unseen"));
    plane.api.apply("gateways", gateway("h", "weir"));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let asked = Instant::now();
    plane.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), plane.task).await.unwrap().unwrap();
    assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
}

/// Deletes what the plane runs and makes it again, the same, so that both are taken in at one time.
async fn make_again(plane: &Plane, objects: &[(&str, Value)]) {
    plane.pause();
    // The data plane takes nothing: the first update waits in the channel, and what comes after it piles up.
    for name in ["first", "second"] {
        plane.api.apply("httproutes", route(name, "g", "echo"));
        plane.settle().await;
    }
    for (plural, object) in objects {
        let name = object["metadata"]["name"].as_str().unwrap();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let uid = plane.api.get(plural, namespace, name).unwrap()["metadata"]["uid"].clone();
        plane.api.delete(plural, namespace, name);
        let made = plane.api.apply(plural, object.clone());
        assert!(made["metadata"]["uid"] != uid && made["status"].is_null(), "another object");
    }
    plane.settle().await;
    plane.resume();
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_is_made_again_at_once_has_an_address_and_is_programmed() {
    let plane = Plane::start(ready_api());
    let address = |plane: &Plane| {
        plane.api.get("gateways", "default", "g").unwrap()["status"]["addresses"][0]["value"].clone()
    };
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    let before = address(&plane);
    make_again(&plane, &[("gateways", gateway("g", "weir"))]).await;
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    assert_eq!(address(&plane), before);
    assert!(before.is_string());
}

#[tokio::test(start_paused = true)]
async fn objects_that_are_made_again_at_once_have_their_statuses_written() {
    let again = || {
        vec![
            ("gatewayclasses", class("weir", "weir.dev/gateway-controller")),
            ("httproutes", route("r", "g", "echo")),
        ]
    };
    let plane = Plane::start(ready_api());
    plane.api.apply("httproutes", route("r", "g", "echo"));
    let told = |plane: &Plane| {
        plane.condition("httproutes", "default", "r", "Accepted") == "True"
            && plane.condition("gatewayclasses", "", "weir", "Accepted") == "True"
    };
    plane.until("accepted", told).await;
    make_again(&plane, &again()).await;
    plane.until("accepted again", told).await;

    // And where only the next list shows it.
    for (plural, object) in again() {
        plane.api.fail(&format!("/{plural}"), 1, 410);
        plane.api.end_watches(plural);
        let name = object["metadata"]["name"].as_str().unwrap();
        plane.api.delete(plural, object["metadata"]["namespace"].as_str().unwrap_or_default(), name);
        plane.api.apply(plural, object.clone());
    }
    plane.until("accepted again after a list", told).await;
}

#[tokio::test(start_paused = true)]
async fn an_entry_goes_though_the_route_is_edited_again_before_it_does() {
    let plane = Plane::start(ready_api());
    plane.api.apply("httproutes", route("r", "g", "echo"));
    plane
        .until("accepted", |plane| plane.condition("httproutes", "default", "r", "Accepted") == "True")
        .await;
    let entries = |plane: &Plane| {
        let route = plane.api.get("httproutes", "default", "r").unwrap();
        route["status"]["parents"].as_array().unwrap().len()
    };
    // The write of the first edit's status fails, and comes again when the second edit has been seen.
    plane.api.fail("/httproutes/r/status", 3, 500);
    let mut left = route("r", "elsewhere", "echo");
    left["metadata"]["generation"] = json!(2);
    plane.api.apply("httproutes", left.clone());
    plane.settle().await;
    left["spec"]["rules"][0]["backendRefs"][0]["weight"] = json!(7);
    plane.api.apply("httproutes", left);
    plane.until("gone", |plane| entries(plane) == 0).await;
}

#[tokio::test]
async fn an_authority_that_expires_is_told_though_nothing_changes() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let mut parameters = rcgen::CertificateParams::new(vec!["ca.example".to_owned()]).unwrap();
    parameters.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now + 3);
    let certificate = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
    let api = ready_api();
    api.serve("v1", "configmaps", true);
    api.serve("v1", "backendtlspolicies", true);
    api.apply("httproutes", route("r", "g", "echo"));
    api.apply(
        "configmaps",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca", "namespace": "default"},
            "data": {"ca.crt": certificate}}),
    );
    api.apply(
        "backendtlspolicies",
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "echo"}], "validation": {
                "hostname": "echo.example", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]}}}),
    );
    let plane = Plane::start(api);
    let told = |plane: &Plane| {
        let policy = plane.api.get("backendtlspolicies", "default", "p").unwrap_or_default();
        let conditions =
            policy["status"]["ancestors"][0]["conditions"].as_array().cloned().unwrap_or_default();
        let reason = |one: &serde_json::Value| one["reason"].as_str().unwrap_or_default().to_owned();
        conditions.iter().map(reason).collect::<Vec<_>>()
    };
    plane.until("in force", |plane| told(plane) == ["Accepted", "ResolvedRefs"]).await;
    plane.until("expired", |plane| told(plane) == ["NoValidCACertificate", "InvalidCACertificateRef"]).await;
}

#[tokio::test(start_paused = true)]
async fn what_came_and_went_is_not_remembered_for_ever() {
    let plane = Plane::start(ready_api());
    plane
        .until("programmed", |plane| plane.condition("gateways", "default", "g", "Programmed") == "True")
        .await;
    plane.api.apply("httproutes", route("lost", "g", "missing"));
    plane
        .until("a missing Service is known", |plane| {
            invalid_reason(plane, "lost").as_deref() == Some("BackendNotFound")
        })
        .await;
    for round in 0..60 {
        let names: Vec<String> = (0..20).map(|index| format!("gone-{round}-{index}")).collect();
        for name in &names {
            plane.api.apply("services", service(name));
            plane.api.apply("endpointslices", slice(name, "10.0.0.9"));
            plane.api.apply("httproutes", route(name, "g", name));
        }
        plane.until("they are served", |plane| http_route(plane, &names[19]).is_some()).await;
        for name in &names {
            plane.api.delete("httproutes", "default", name);
            plane.api.delete("services", "default", name);
            plane.api.delete("endpointslices", "default", &format!("{name}-1"));
        }
        plane.until("they are gone", |plane| http_route(plane, &names[19]).is_none()).await;
        plane.settle().await;
        let remembered = plane.status.remembered_absent.get();
        assert!(remembered < 2_048 + 200, "{remembered} after {round}");
    }
    // What somebody still refers to is: no more is asked about it.
    assert_eq!(invalid_reason(&plane, "lost").as_deref(), Some("BackendNotFound"));
    let asked = plane.api.reads("services/missing");
    plane.api.edit("gateways", "default", "g", |gateway| {
        gateway["metadata"]["labels"] = json!({"touched": "yes"});
    });
    plane.settle().await;
    assert_eq!(plane.api.reads("services/missing"), asked);
    assert_eq!(invalid_reason(&plane, "lost").as_deref(), Some("BackendNotFound"));
}

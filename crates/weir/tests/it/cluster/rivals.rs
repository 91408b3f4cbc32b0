//! Others that answer for the same classes: Kong's controllers, and other installations.

use futures::StreamExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use weir_control::Leadership;

use super::{DEPLOYMENT, GATEWAY, LEASE, Rig, SERVICE, condition, until};
use crate::harness::PATIENCE;

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

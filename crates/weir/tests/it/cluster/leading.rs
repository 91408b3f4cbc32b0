//! Who leads among the controllers of one installation, and what a change of leaders does.

use std::time::{Duration, Instant};

use kube::api::DeleteParams;
use serde_json::{Value, json};
use weir_control::{Leader, Leadership};

use super::{GATEWAY, LEASE, Rig, SERVICE, TIMES, condition, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_candidates_one_leads_and_the_other_follows_when_it_ends() {
    let rig = Rig::start().await;
    let (first, end, task) = rig.candidate("first");
    until("the first leads", || first.holds()).await;
    let (second, _, _) = rig.candidate("second");
    let mut seen = second.watch();
    let other =
        seen.wait_for(|leader| matches!(leader, Leader::Other { .. })).await.expect("it looks").clone();
    assert_eq!(other, Leader::Other { identity: "first".to_owned(), address: "first:9902".to_owned() });
    assert!(!second.holds());
    let before = epoch(&first);
    // Who ends gives the Lease back, and nobody waits for its end.
    let asked = Instant::now();
    end.cancel();
    task.await.expect("it ends");
    assert!(!first.holds());
    until("the second leads", || second.holds()).await;
    assert!(asked.elapsed() < TIMES.duration, "{:?}", asked.elapsed());
    assert!(epoch(&second) > before, "who took a Lease that was given back is later");
}

/// Of one who leads.
fn epoch(leadership: &Leadership) -> u64 {
    match *leadership.watch().borrow() {
        Leader::Own { epoch } => epoch,
        ref other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_deleted_makes_no_leader_older_than_those_before() {
    let rig = Rig::start().await;
    // As the chart brings it: without a word in it, and without the label by which it is found.
    rig.create(LEASE, "default", "test-weir-leader", json!({})).await;
    let (first, end, task) = rig.candidate("first");
    until("the first leads", || first.holds()).await;
    let lease = rig.get(LEASE, "default", "test-weir-leader").await;
    assert_eq!(lease["metadata"]["labels"]["app.kubernetes.io/part-of"], "weir", "{lease:#}");
    let before = epoch(&first);
    let leases = rig.objects(LEASE, "default");
    leases.delete("test-weir-leader", &DeleteParams::default()).await.expect("it is deleted");
    until(
        "the first leads again",
        || matches!(*first.watch().borrow(), Leader::Own { epoch } if epoch > before),
    )
    .await;
    let before = epoch(&first);
    // And where nobody is left who knew it.
    end.cancel();
    task.await.expect("it ends");
    leases.delete("test-weir-leader", &DeleteParams::default()).await.expect("it is deleted");
    let seconds = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    until("the next second", || seconds().as_secs() > before).await;
    let (second, _, _) = rig.candidate("second");
    until("the second leads", || second.holds()).await;
    assert!(epoch(&second) > before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_loses_leadership_by_its_own_clock_before_another_gets_it() {
    let rig = Rig::start().await;
    let (first, _, task) = rig.candidate("first");
    until("the first leads", || first.holds()).await;
    let (second, _, _) = rig.candidate("second");
    let mut seen = second.watch();
    seen.wait_for(|leader| matches!(leader, Leader::Other { .. })).await.expect("it looks");
    // As one that is stopped, it renews no more.
    task.abort();
    let started = Instant::now();
    until("the first knows", || {
        assert!(!(first.holds() && second.holds()), "two lead");
        !first.holds()
    })
    .await;
    assert!(started.elapsed() <= TIMES.renewal + Duration::from_millis(500));
    assert!(!second.holds(), "the Lease stands longer than its holder may use it");
    until("the second leads", || second.holds()).await;
    let longest = TIMES.duration + TIMES.retry * 2 + Duration::from_secs(2);
    assert!(started.elapsed() < longest, "{:?}", started.elapsed());
    let lease = rig.get(LEASE, "default", "test-weir-leader").await;
    assert_eq!(lease["spec"]["holderIdentity"], "second");
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_ready_and_writes_nothing_until_it_leads() {
    let rig = Rig::start().await;
    let (first, end, task) = rig.candidate("first");
    until("the first leads", || first.holds()).await;
    let leader = rig.control(first, true, &[]);
    let (second, _, _) = rig.candidate("second");
    let standby = rig.control(second.clone(), true, &[]);
    rig.gateway("default", "g", "weir").await;
    rig.until(SERVICE, "default", "weir-g", Value::is_object).await;
    rig.until(GATEWAY, "default", "g", |g| condition(g, "Accepted").0 == "True").await;
    until("the standby is warm", || standby.status.ready()).await;
    assert_eq!(standby.status.leader.get(), 0);
    // The leader ends; what it would have done the other does.
    leader.stop.cancel();
    end.cancel();
    task.await.expect("it ends");
    rig.listen("g", 8080).await;
    let writes = (standby.status.status_writes.get(), standby.status.provision_writes.get());
    assert!(second.holds() || writes == (0, 0), "{writes:?}");
    rig.until(SERVICE, "default", "weir-g", |service| service["spec"]["ports"][0]["port"] == 8080).await;
    rig.until(GATEWAY, "default", "g", |g| {
        condition(g, "Accepted").0 == "True" && g["status"]["conditions"][0]["observedGeneration"] == 2
    })
    .await;
    assert!(standby.status.status_writes.get() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_begins_to_lead_says_what_nobody_may_have_said() {
    let rig = Rig::start().await;
    // A leader that ends before it has told anybody anything.
    let (first, end, task) = rig.candidate("first");
    until("the first leads", || first.holds()).await;
    let (second, _, _) = rig.candidate("second");
    let standby = rig.control(second, true, &[]);
    rig.gateway("default", "odd", "nobodys").await;
    until("the standby has looked at it", || standby.status.ready()).await;
    end.cancel();
    task.await.expect("it ends");
    let event = rig.event("GatewayClassNotFound").await;
    assert_eq!(event["involvedObject"]["name"], "odd");
}

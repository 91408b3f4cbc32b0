//! `weir proxy` while nobody leads: the controller that led last goes on with it, until there is a leader.

use std::time::Duration;

use weir_control::distribute::{AuthorityPolicy, DEFAULT_AUDIENCE, Leadership};
use weir_model::resource::Update;

use crate::harness::sandbox::free_address;
use crate::harness::{eventually, within};
use crate::plane::{Cluster, Controller, DataPlane, endpoints, full, origin, site, unix_seconds};

/// The API server is away for this controller.
fn lapse(controller: &Controller, epoch: u64) {
    controller.leads.send_replace(Leadership::Caretaker { epoch });
}

fn serves(plane: &DataPlane, port: u16, text: &str) {
    eventually(&format!("{text} is served"), || (plane.get(port).ok()? == text).then_some(()));
}

#[test]
fn while_nobody_leads_certificates_are_renewed_and_a_restart_is_confirmed() {
    let cluster = Cluster::new();
    let port = free_address().port();
    let policy = AuthorityPolicy {
        certificate_lifetime: Duration::from_secs(60),
        overlap: Duration::from_secs(3),
        ..AuthorityPolicy::default()
    };
    let mut controller = cluster.start(free_address(), policy);
    controller.send(&cluster, full(site("weir-g", port, origin("one"))));
    let token = cluster.token("weir-g", DEFAULT_AUDIENCE);
    let mut plane = cluster.data_plane("weir-g", controller.address, &token, "one");
    plane.wait_ready();
    controller.runs("weir-g");
    lapse(&controller, 1);
    // Nobody could judge it now.
    std::fs::remove_file(&token).expect("it was there");
    let (certificates, connections) =
        (plane.metric("weir_plane_certificates_total"), plane.metric("weir_plane_connections_total"));
    within(Duration::from_secs(90), "a certificate follows, and a leader is looked for", || {
        assert_eq!(plane.metric("weir_plane_connected"), 1, "{}", plane.process.stderr());
        let left = plane.metric("weir_plane_certificate_end_seconds") - unix_seconds();
        assert!(left > 10, "however often streams begin, it is renewed in good time: {left} s");
        let renewed = plane.metric("weir_plane_certificates_total") - certificates;
        let began = plane.metric("weir_plane_connections_total") - connections;
        (renewed >= 1 && began >= renewed + 2).then_some(())
    });
    let said = plane.process.stderr();
    assert_eq!(said.matches("no controller leads now; the one that led last serves").count(), 1, "{said}");
    // What the controller still learns comes through.
    controller
        .send(&cluster, Update { upserts: vec![endpoints("weir-g", origin("two"))], ..Update::default() });
    serves(&plane, port, "two");
    eventually("the state is kept", || (plane.metric("weir_plane_state_writes_total") >= 2).then_some(()));
    plane.process.kill();
    let again = cluster.data_plane("weir-g", controller.address, &token, "one");
    eventually("a controller confirms it", || {
        (again.metric("weir_plane_last_known_good") == 0).then_some(())
    });
    let text = again.wait_ready();
    assert!(text.contains("no controller leads now; the one that led last serves"), "{text}");
    serves(&again, port, "two");
    controller.leads.send_replace(Leadership::Leader { epoch: 1 });
    eventually("it knows that there is a leader", || (again.wait_ready() == "ok\n").then_some(()));
    // One that has never had a state has nothing to tell an old one by.
    let other = cluster.token("weir-g", DEFAULT_AUDIENCE);
    lapse(&controller, 1);
    let new = cluster.data_plane("weir-g", controller.address, &other, "new");
    new.wait_unready("this controller led last, and nobody is known to lead now");
    controller.end(&cluster);
}

#[test]
fn a_leader_is_preferred_and_one_that_led_before_it_is_never_believed() {
    let cluster = Cluster::new();
    let port = free_address().port();
    let mut first =
        cluster.start_as(free_address(), AuthorityPolicy::default(), Leadership::Leader { epoch: 7 });
    let pointed = Leadership::Standby { leader: Some(first.address.to_string()) };
    let mut second = cluster.start_as(free_address(), AuthorityPolicy::default(), pointed.clone());
    first.send(&cluster, full(site("weir-g", port, origin("one"))));
    second.send(&cluster, full(site("weir-g", port, origin("two"))));
    let token = cluster.token("weir-g", DEFAULT_AUDIENCE);
    let plane = cluster.data_plane("weir-g", second.address, &token, "one");
    plane.wait_ready();
    serves(&plane, port, "one");
    // Cut off from the API: another leads soon, and the data plane comes to it though the first would serve on.
    lapse(&first, 7);
    second.leads.send_replace(Leadership::Leader { epoch: 8 });
    serves(&plane, port, "two");
    second.runs("weir-g");
    // That one is gone, nobody leads, and what the first has is older.
    let at = second.address;
    second.end(&cluster);
    let second = cluster.start_as(at, AuthorityPolicy::default(), pointed);
    eventually("it is refused", || (plane.metric("weir_plane_refused_states_total") > 0).then_some(()));
    assert_eq!(plane.get(port).expect("it serves"), "two");
    eventually("nobody serves", || (plane.metric("weir_plane_connected") == 0).then_some(()));
    first.end(&cluster);
    second.end(&cluster);
}

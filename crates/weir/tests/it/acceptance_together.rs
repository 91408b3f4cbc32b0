//! The guides one after another in one sandbox: none is bent by what another left behind.

use crate::harness::sandbox::Sandbox;
use crate::{acceptance_kic, acceptance_operator, acceptance_simple_apps};

#[test]
fn all_three_guides_hold_one_after_another() {
    let sandbox = Sandbox::start();
    acceptance_kic::IN_DEFAULT.run(&sandbox);
    acceptance_simple_apps::run(&sandbox, false);
    // The namespace is there since the first class of Kong's ingress controller; as in Kubernetes, that is an error.
    let again = sandbox.kubectl(&["create", "namespace", "kong"]).refused();
    assert!(
        again.contains("Error from server (AlreadyExists): namespaces \"kong\" already exists"),
        "{again}"
    );
    acceptance_operator::run(&sandbox);
}

#[test]
fn all_three_guides_hold_in_another_order() {
    let sandbox = Sandbox::start();
    assert_eq!(sandbox.kubectl(&["create", "namespace", "kong"]).ok(), "namespace/kong created\n");
    acceptance_operator::run(&sandbox);
    acceptance_simple_apps::run(&sandbox, true);
    // The class and the Gateway of this guide are there already, in the other guide's words: made anew.
    sandbox.kubectl(&["delete", "gatewayclass/kong", "gateway/kong"]).ok();
    acceptance_kic::IN_DEFAULT.run(&sandbox);
}

//! The guide of Kong's Operator, step by step: a managed Gateway and a canary route.

use crate::harness::http::Connection;
use crate::harness::sandbox::Sandbox;
use crate::harness::{Counts, assert_counts, counts, eventually, example};

#[test]
fn the_guide_holds_in_a_fresh_sandbox() {
    let sandbox = Sandbox::start();
    let created = sandbox.kubectl(&["create", "namespace", "kong"]);
    assert_eq!(created.ok(), "namespace/kong created\n");
    run(&sandbox);
}

/// The guide after its namespace.
pub(crate) fn run(sandbox: &Sandbox) {
    let applied = sandbox.kubectl(&["apply", "-f", &example("operator/gateway.yaml")]);
    let configuration = "gatewayconfiguration.gateway-operator.konghq.com/gateway-configuration created\n";
    assert!(applied.ok().contains(configuration), "{}", applied.stdout);
    assert!(applied.ok().contains("gatewayclass.gateway.networking.k8s.io/gateway-class created\n"));
    let echo = sandbox.kubectl(&["apply", "-f", &example("operator/echo.yaml"), "-n", "kong"]);
    let expected = "service/echo-v1 created\ndeployment.apps/echo-v1 created\n\
                    service/echo-v2 created\ndeployment.apps/echo-v2 created\n";
    assert_eq!(echo.ok(), expected);
    sandbox.wait_backends(&["echo-v1", "echo-v2"], "kong");
    let route = sandbox.kubectl(&["apply", "-f", &example("operator/canary-route.yaml")]);
    assert_eq!(route.ok_and_quiet(), "httproute.gateway.networking.k8s.io/canary-route created\n");
    sandbox.wait_route("canary-route", "kong");
    sandbox
        .kubectl(&["wait", "-n", "kong", "--for=condition=Programmed", "gateway/kong", "--timeout=60s"])
        .ok();
    half_and_half(sandbox);
    ninety_to_ten(sandbox);
}

fn half_and_half(sandbox: &Sandbox) {
    let socket = sandbox.socket("kong", "kong");
    let ip = sandbox.bash("kubectl get gateway kong -n kong -o jsonpath='{.status.addresses[0].value}'");
    assert_eq!(ip.ok(), socket.ip().to_string());
    let done = sandbox.bash(&format!("for i in {{1..10}}; do curl -s http://{socket}/echo; done"));
    let output = done.ok();
    assert_counts(
        &counts(output.lines()),
        &[
            ("Welcome, you are connected to node v1.", 5),
            ("Welcome, you are connected to node v2.", 5),
            ("", 10),
        ],
    );
    for pair in output.lines().collect::<Vec<_>>().chunks(2) {
        assert!(
            pair[0].starts_with("Welcome, ") && pair[1].is_empty(),
            "one empty line after each:\n{output}"
        );
    }
    assert!(output.ends_with(".\n\n"), "{output:?}");
}

fn ninety_to_ten(sandbox: &Sandbox) {
    let patch = r#"[{"op":"replace","path":"/spec/rules/0/backendRefs/0/weight","value":90},
                    {"op":"replace","path":"/spec/rules/0/backendRefs/1/weight","value":10}]"#;
    let patched =
        sandbox.kubectl(&["patch", "httproute", "canary-route", "-n", "kong", "--type=json", "-p", patch]);
    assert_eq!(patched.ok(), "httproute.gateway.networking.k8s.io/canary-route patched\n");
    sandbox.wait_route("canary-route", "kong");
    assert_counts(&nodes(sandbox, 100), &[("node v1", 90), ("node v2", 10)]);
}

/// Which node greeted, by requests.
fn nodes(sandbox: &Sandbox, number: u64) -> Counts {
    let mut connection = Connection::open(sandbox.socket("kong", "kong")).expect("the gateway listens");
    let mut greetings = Vec::new();
    for _ in 0..number {
        let answer = connection.get("any.example", "/echo").expect("the gateway answers");
        let text = answer.text();
        let node = text
            .trim()
            .strip_prefix("Welcome, you are connected to ")
            .and_then(|text| text.strip_suffix('.'));
        greetings.push(node.unwrap_or_else(|| panic!("{} {text:?}", answer.status)).to_owned());
    }
    counts(greetings.iter().map(String::as_str))
}

#[test]
fn a_gateway_that_changes_its_class_moves_its_address_and_its_routes_follow() {
    let sandbox = Sandbox::start();
    sandbox.kubectl(&["apply", "-f", &example("kic/gateway-v1.yaml"), "-n", "kong"]).ok();
    sandbox.kubectl(&["apply", "-f", &example("operator/echo.yaml"), "-n", "kong"]).ok();
    sandbox.wait_backends(&["echo-v1", "echo-v2"], "kong");
    sandbox.kubectl(&["apply", "-f", &example("operator/canary-route.yaml")]).ok();
    sandbox.wait_route("canary-route", "kong");
    let shared = sandbox.socket("kong", "kong");
    assert_counts(&nodes(&sandbox, 2), &[("node v1", 1), ("node v2", 1)]);

    let applied = sandbox.kubectl(&["apply", "-f", &example("operator/gateway.yaml")]);
    assert!(
        applied.ok().contains("gateway.gateway.networking.k8s.io/kong configured\n"),
        "{}",
        applied.stdout
    );
    let moved = eventually("the Gateway has an address of its own", || {
        let socket = sandbox.socket("kong", "kong");
        (socket.ip() != shared.ip()).then_some(socket)
    });
    sandbox.wait_route("canary-route", "kong");
    let answer = Connection::open(moved).and_then(|mut connection| connection.get("any.example", "/echo"));
    assert_eq!(answer.expect("the new address answers").status, 200);
    eventually("the shared address no longer serves the route", || {
        let answer =
            Connection::open(shared).and_then(|mut connection| connection.get("any.example", "/echo"));
        answer.map_or(true, |answer| answer.status == 404).then_some(())
    });
    let route = sandbox.get("httproute/canary-route", "kong").expect("the route is there");
    let parents = route["status"]["parents"].as_array().expect("the route has parents");
    assert_eq!(parents.len(), 1, "{route:#}");
    assert_eq!(parents[0]["controllerName"], "konghq.com/gateway-operator", "{route:#}");
}

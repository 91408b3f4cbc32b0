//! Weir's own kinds as a user meets them: `kubectl` says what is wrong where it is written, statuses say who uses them, and a change is
//! live without a lost connection.

use std::net::TcpListener;

use serde_json::Value;

use crate::harness::http::Connection;
use crate::harness::sandbox::{Sandbox, is_true};
use crate::harness::{eventually, example};

/// An endpoint that takes requests and says nothing.
fn mute() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound socket").port();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            kept.push(stream);
        }
    });
    port
}

fn service(port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: reports}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: reports-1, labels: {{kubernetes.io/service-name: reports}}}}\n\
         addressType: IPv4\nports: [{{port: {port}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: reports}}\n\
         spec: {{parentRefs: [{{name: edge}}], rules: [{{backendRefs: [{{name: reports, port: 80}}]}}]}}\n"
    )
}

fn policy(timeouts: &str) -> String {
    format!(
        "apiVersion: weir.dev/v1alpha1\nkind: BackendPolicy\nmetadata: {{name: reports}}\n\
         spec: {{targetRefs: [{{group: \"\", kind: Service, name: reports}}], timeouts: {timeouts}}}\n"
    )
}

fn accepted(sandbox: &Sandbox, resource: &str, at: &str) -> Option<(bool, String)> {
    let object = sandbox.get(resource, "default")?;
    let conditions = object.pointer(at)?;
    let condition = conditions.as_array()?.iter().find(|condition| condition["type"] == "Accepted")?;
    let current = condition["observedGeneration"] == object["metadata"]["generation"];
    let reason = condition["reason"].as_str()?.to_owned();
    current.then(|| (is_true(conditions, "Accepted", &object), reason))
}

#[test]
fn a_value_out_of_range_is_refused_where_it_is_written_and_explained() {
    let sandbox = Sandbox::start();
    for (spec, says) in [
        ("{requests: {headBytes: 5}}", "should be greater than or equal to 1024"),
        ("{requests: {headTimeout: 2d}}", "should match"),
        ("{requests: {headTimeout: 48h}}", "must be from 100ms to 1h"),
        ("{requests: {headByte: 5000}}", "unknown field \"spec.requests.headByte\""),
        ("{accessLog: {mode: Some}}", "supported values"),
        ("{trustedProxies: [everybody]}", "should match"),
    ] {
        let yaml = format!(
            "apiVersion: weir.dev/v1alpha1\nkind: GatewayParameters\nmetadata: {{name: p}}\nspec: {spec}\n"
        );
        let refused = sandbox.apply(&yaml);
        assert!(refused.stderr.to_lowercase().contains(&says.to_lowercase()), "{spec}: {}", refused.stderr);
    }
    let twice = "apiVersion: weir.dev/v1alpha1\nkind: BackendPolicy\nmetadata: {name: p}\nspec: {targetRefs: [\
        {group: \"\", kind: Service, name: a}, {group: \"\", kind: Service, name: a}]}\n";
    let refused = sandbox.apply(twice);
    assert!(refused.stderr.contains("can be named once"), "{}", refused.stderr);
    let explained = sandbox.kubectl(&["explain", "gatewayparameters.spec.requests.headBytes"]);
    for part in ["<integer>", "Largest head", "Default: 65536"] {
        assert!(explained.ok().contains(part), "{part} in\n{}", explained.stdout);
    }
    let explained = sandbox.kubectl(&["explain", "backendpolicy.spec.timeouts.connect"]);
    assert!(explained.ok().contains("Default: 5s"), "{}", explained.stdout);
}

#[test]
fn the_examples_are_taken_their_values_hold_and_changes_are_live() {
    let mut sandbox = Sandbox::start();
    for file in ["parameters/gatewayparameters.yaml", "parameters/backendpolicy.yaml"] {
        sandbox.kubectl(&["apply", "-f", &example(file)]).ok();
    }
    sandbox.apply(&service(mute())).ok();
    sandbox.wait_gateway("edge", "default");
    sandbox.wait_route("reports", "default");
    let parameters = || accepted(&sandbox, "gatewayparameters/edge", "/status/conditions");
    assert_eq!(eventually("the parameters are accepted", parameters), (true, "Accepted".to_owned()));
    let object = sandbox.get("gatewayparameters/edge", "default").expect("it is there");
    assert_eq!(object["status"]["ancestors"][0]["ancestorRef"]["name"], "edge");
    let listed = sandbox.kubectl(&["get", "gatewayparameters,backendpolicies"]);
    assert!(listed.ok().contains("ACCEPTED"), "{}", listed.stdout);

    sandbox.apply(&policy("{response: 300ms}")).ok();
    let of_policy = || accepted(&sandbox, "backendpolicy/reports", "/status/ancestors/0/conditions");
    assert_eq!(eventually("the policy is accepted", of_policy), (true, "Accepted".to_owned()));
    let socket = sandbox.socket("edge", "default");
    let mut client = Connection::open(socket).expect("the gateway listens");
    let answer = client.get("h", "/slow").expect("an answer");
    assert_eq!(answer.status, 504, "{}", answer.text());

    // The example's log is of errors, and it is on standard output.
    let line: Value = serde_json::from_str(&sandbox.process.line_with("\"path\":\"/slow\"")).expect("JSON");
    assert_eq!((&line["status"], &line["reason"]), (&504.into(), &"upstream_timeout".into()));

    let long = format!("GET /slow HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(3_000));
    client.send(long.as_bytes()).expect("it is sent");
    assert_eq!(client.answer().expect("an answer").status, 504, "such a head is taken");
    let patch = r#"{"spec":{"requests":{"headBytes":2048}}}"#;
    sandbox.kubectl(&["patch", "gatewayparameters", "edge", "--type=merge", "-p", patch]).ok();
    eventually("the change is in force", || {
        accepted(&sandbox, "gatewayparameters/edge", "/status/conditions")
    });
    client.send(long.as_bytes()).expect("the connection is still there");
    assert_eq!(client.answer().expect("an answer").status, 431);

    sandbox.kubectl(&["delete", "gatewayparameters", "edge"]).ok();
    eventually("the Gateway says what is missing", || {
        let state = accepted(&sandbox, "gateway/edge", "/status/conditions")?;
        (state == (false, "InvalidParameters".to_owned())).then_some(())
    });
    let mut client = Connection::open(socket).expect("and goes on");
    assert_eq!(client.get("h", "/slow").expect("an answer").status, 504);
}

//! Live change without harm: nothing fails while configuration changes, and a status is true when it is read.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::http::Connection;
use crate::harness::sandbox::{Sandbox, is_true};
use crate::harness::{PATIENCE, example};

const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes";
const GATEWAYS: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways";

fn guide() -> (Sandbox, SocketAddr) {
    let sandbox = Sandbox::start();
    for file in ["kic/gateway.yaml", "kic/echo-services.yaml"] {
        sandbox.kubectl(&["apply", "-f", &example(file)]).ok();
    }
    sandbox.wait_backends(&["echo", "echo2"], "default");
    sandbox.kubectl(&["apply", "-f", &example("kic/httproute.yaml")]).ok();
    sandbox.wait_route("echo", "default");
    let socket = sandbox.socket("kong", "default");
    (sandbox, socket)
}

/// A rule of route `echo` that stamps its answers.
fn stamped(stamp: u32) -> String {
    format!(
        r#"{{"spec":{{"rules":[{{"matches":[{{"path":{{"type":"PathPrefix","value":"/echo"}}}}],
        "filters":[{{"type":"ResponseHeaderModifier","responseHeaderModifier":{{"set":[{{"name":"x-stamp","value":"{stamp}"}}]}}}}],
        "backendRefs":[{{"name":"echo","port":80}},{{"name":"echo2","port":80}}]}}]}}}}"#
    )
}

fn edit(api: &mut Connection, stamp: u32) {
    let path = format!("{ROUTES}/echo");
    let answer = api
        .request("PATCH", &path, "application/merge-patch+json", &stamped(stamp))
        .expect("the API answers");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn no_request_fails_during_1000_edits_and_an_edit_is_live_in_milliseconds() {
    let (sandbox, socket) = guide();
    let (_proxy, address) = sandbox.api_proxy();
    let done = AtomicBool::new(false);
    let sent = AtomicU64::new(0);
    let mut delays = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut connection = Connection::open(socket).expect("the gateway listens");
                while !done.load(Ordering::Relaxed) {
                    let answer = connection.get("any.example", "/echo/hostname").expect("no request fails");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut api = Connection::open(address).expect("the API answers");
        let mut probe = Connection::open(socket).expect("the gateway listens");
        let mut delays = Vec::new();
        for stamp in 0..1_000 {
            let started = Instant::now();
            edit(&mut api, stamp);
            if stamp % 20 == 0 {
                delays.push(until_stamped(&mut probe, stamp, started));
            }
        }
        done.store(true, Ordering::Relaxed);
        delays
    });
    delays.sort();
    let median = delays[delays.len() / 2];
    println!(
        "{} requests, 1,000 edits, edit to effect: median {median:?}, all {delays:?}",
        sent.into_inner()
    );
    // No timer stands between the watch event and the swap: one of 100 ms would show, whatever the machine's load.
    assert!(median < Duration::from_millis(90), "edit to effect: median {median:?}");
}

fn until_stamped(probe: &mut Connection, stamp: u32, started: Instant) -> Duration {
    let stamp = stamp.to_string();
    loop {
        let answer = probe.get("any.example", "/echo/hostname").expect("no request fails");
        if answer.header("x-stamp") == Some(&stamp) {
            return started.elapsed();
        }
        assert!(started.elapsed() < PATIENCE, "edit {stamp} never took effect");
    }
}

fn read(api: &mut Connection, path: &str) -> Value {
    let answer = api.get("localhost", path).expect("the API answers");
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).expect("JSON")
}

fn create(api: &mut Connection, path: &str, object: &Value) {
    let answer = api.request("POST", path, "application/json", &object.to_string()).expect("the API answers");
    assert_eq!(answer.status, 201, "{}", answer.text());
}

/// Reads as fast as it can until the condition is True; returns the object.
fn as_soon_as(api: &mut Connection, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let object = read(api, path);
        if holds(&object) {
            return object;
        }
        assert!(started.elapsed() < PATIENCE, "never so: {object:#}");
    }
}

#[test]
fn programmed_is_never_true_before_the_socket_answers_nor_accepted_before_the_route_does() {
    let (sandbox, _) = guide();
    let class = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: weir}\n\
                 spec: {controllerName: weir.dev/gateway-controller}\n";
    sandbox.apply(class).ok();
    let (_proxy, address) = sandbox.api_proxy();
    let mut api = Connection::open(address).expect("the API answers");
    for round in 0..15 {
        let name = format!("g{round}");
        let gateway = serde_json::json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": name},
            "spec": {"gatewayClassName": "weir", "listeners": [{"name": "http", "port": 8080, "protocol": "HTTP"}]},
        });
        create(&mut api, GATEWAYS, &gateway);
        let path = format!("{GATEWAYS}/{name}");
        let object = as_soon_as(&mut api, &path, |object| {
            is_true(&object["status"]["conditions"], "Programmed", object)
        });
        let ip =
            object["status"]["addresses"][0]["value"].as_str().expect("an address").parse().expect("an IP");
        let mut connection =
            Connection::open(SocketAddr::new(ip, 8080)).expect("Programmed: the socket answers");
        assert_eq!(connection.get("a", "/").expect("it answers HTTP").status, 404);

        let route = serde_json::json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name},
            "spec": {"parentRefs": [{"name": name}], "rules": [{"backendRefs": [{"name": "echo", "port": 80}]}]},
        });
        create(&mut api, ROUTES, &route);
        let accepted =
            |object: &Value| is_true(&object["status"]["parents"][0]["conditions"], "Accepted", object);
        as_soon_as(&mut api, &format!("{ROUTES}/{name}"), accepted);
        let answer = connection.get("a", "/hostname").expect("it answers");
        assert_eq!(answer.status, 200, "round {round}: Accepted, and yet {}", answer.text());
    }
}

//! Gateways that live at one address: what one of them listens for, another cannot be given in another way.

use serde_json::{Value, json};
use weir_api::gateway_api::GatewayStatus;
use weir_core::{Addresses, Kind, ObjectKey, Status};
use weir_model::resource::Body;

use crate::world::{self, Circumstances, World, key, read};

fn listener(name: &str, port: u16, protocol: &str, hostname: Option<&str>) -> Value {
    let mut listener = json!({"name": name, "port": port, "protocol": protocol});
    if let Some(hostname) = hostname {
        listener["hostname"] = json!(hostname);
    }
    match protocol {
        "HTTPS" => listener["tls"] = json!({"certificateRefs": [{"name": "c"}]}),
        "TLS" => listener["tls"] = json!({"mode": "Passthrough"}),
        _ => {}
    }
    listener
}

fn gateway(name: &str, second: u8, listeners: &[Value]) -> Value {
    json!({"kind": "Gateway", "metadata": {"namespace": "default", "name": name, "generation": 1,
            "creationTimestamp": format!("2024-01-01T00:00:{second:02}Z")},
        "spec": {"gatewayClassName": "weir", "listeners": listeners}})
}

/// All Gateways are at one address.
fn world(names: &[&str]) -> World {
    let shared = Addresses { bind: vec!["127.0.0.9".to_owned()], shared: true, ..Addresses::default() };
    let addresses = names.iter().map(|name| (format!("default/{name}"), shared.clone())).collect();
    let mut world = World::with(Circumstances { addresses, ..Circumstances::default() });
    world.put(json!({"kind": "GatewayClass", "metadata": {"name": "weir"},
        "spec": {"controllerName": "weir.dev/gateway-controller"}}));
    let (certificate, private_key) = world::certificate(&["a.example.com"]);
    let encode = |text: &str| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text);
    world.put(json!({"kind": "Secret", "metadata": {"namespace": "default", "name": "c"},
        "type": "kubernetes.io/tls", "data": {"tls.crt": encode(&certificate), "tls.key": encode(&private_key)}}));
    world
}

fn status(world: &World, name: &str) -> GatewayStatus {
    match world.status(&key(Kind::Gateway, "default", name)) {
        Some(Status::Gateway(status)) => status.clone(),
        other => panic!("{name}: {other:?}"),
    }
}

/// The reason of Conflicted where it holds, for each listener; whether the listener is programmed goes with it.
fn conflicts(world: &World, name: &str) -> Vec<Option<String>> {
    status(world, name)
        .listeners
        .iter()
        .map(|listener| {
            let of = |type_: &str| {
                listener.conditions.iter().find(|c| c.type_ == type_).expect("the condition").clone()
            };
            let conflicted = of("Conflicted");
            assert_eq!(of("Programmed").is_true(), !conflicted.is_true(), "{name}/{}", listener.name);
            assert_eq!(of("Accepted").is_true(), !conflicted.is_true(), "{name}/{}", listener.name);
            conflicted.is_true().then_some(conflicted.reason)
        })
        .collect()
}

fn conflict(reason: &str) -> Option<String> {
    Some(reason.to_owned())
}

/// What the data plane is given at the one address.
fn served(world: &World) -> Vec<String> {
    let listeners = world.translator.resources().filter_map(|resource| match &resource.body {
        Some(Body::Listener(listener)) => Some(listener.gateway.clone()),
        _ => None,
    });
    listeners.collect()
}

#[test]
fn of_gateways_that_want_one_port_in_different_ways_the_oldest_is_served() {
    for protocol in ["HTTPS", "TLS", "TCP"] {
        let mut world = world(&["one", "two"]);
        world.put(gateway("one", 2, &[listener("l", 80, "HTTP", None), listener("udp", 80, "UDP", None)]));
        world.put(gateway("two", 1, &[listener("l", 80, protocol, None)]));
        world.settle();
        assert_eq!(conflicts(&world, "two"), [None]);
        assert_eq!(conflicts(&world, "one"), [conflict("ProtocolConflict"), None], "{protocol}");
        assert_eq!(served(&world), ["default/one", "default/two"]);
    }
}

#[test]
fn the_name_decides_between_gateways_of_one_age_and_a_loser_stands_in_nobodys_way() {
    let names = ["one", "two", "three"];
    let mut world = world(&names);
    world.put(gateway("two", 1, &[listener("l", 80, "TCP", None)]));
    world.put(gateway("three", 1, &[listener("l", 80, "HTTP", None)]));
    world.put(gateway("one", 1, &[listener("l", 80, "HTTP", None)]));
    world.settle();
    assert_eq!(conflicts(&world, "one"), [None]);
    assert_eq!(conflicts(&world, "three"), [None], "equal to the first");
    assert_eq!(conflicts(&world, "two"), [conflict("ProtocolConflict")]);
    // With the others gone it is served; back, they win again.
    world.remove(&key(Kind::Gateway, "default", "one"));
    world.remove(&key(Kind::Gateway, "default", "three"));
    world.settle();
    assert_eq!(conflicts(&world, "two"), [None]);
    world.put(gateway("one", 1, &[listener("l", 80, "HTTP", None)]));
    world.settle();
    assert_eq!(conflicts(&world, "two"), [conflict("ProtocolConflict")]);
    // A port of its own is a way out.
    world.put(gateway("two", 1, &[listener("l", 81, "TCP", None)]));
    world.settle();
    assert_eq!(conflicts(&world, "two"), [None]);
}

#[test]
fn one_server_name_is_ended_or_passed_on_and_other_names_share_the_port() {
    let mut world = world(&["one", "two"]);
    world.put(gateway("one", 1, &[listener("l", 443, "HTTPS", Some("a.example.com"))]));
    world.put(gateway(
        "two",
        2,
        &[
            listener("same", 443, "TLS", Some("a.example.com")),
            listener("other", 443, "TLS", Some("b.example.com")),
        ],
    ));
    world.settle();
    assert_eq!(conflicts(&world, "one"), [None]);
    assert_eq!(conflicts(&world, "two"), [conflict("HostnameConflict"), None]);
}

#[test]
fn gateways_at_addresses_of_their_own_have_no_conflict() {
    let mut world = world(&[]);
    world.put(gateway("one", 1, &[listener("l", 80, "HTTP", None)]));
    world.put(gateway("two", 2, &[listener("l", 80, "TCP", None)]));
    world.settle();
    assert_eq!(conflicts(&world, "one"), [None]);
    assert_eq!(conflicts(&world, "two"), [None]);
}

#[test]
fn routes_of_a_listener_that_lost_are_served_once_it_wins() {
    let mut world = world(&["one", "two"]);
    world.put(gateway("one", 1, &[listener("l", 80, "TCP", None)]));
    world.put(gateway("two", 2, &[listener("l", 80, "HTTP", None)]));
    world
        .put(json!({"kind": "HTTPRoute", "metadata": {"namespace": "default", "name": "r", "generation": 1},
        "spec": {"parentRefs": [{"name": "two"}], "rules": [{"backendRefs": [{"name": "s", "port": 80}]}]}}));
    world.settle();
    assert!(world.resource("httproute/default/r").is_none());
    world.remove(&key(Kind::Gateway, "default", "one"));
    world.settle();
    assert!(world.resource("httproute/default/r").is_some());
}

#[test]
fn one_more_gateway_among_many_at_one_address_looks_at_none_of_them() {
    let names: Vec<String> = (0..200).map(|n| format!("g{n:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = world(&names);
    for name in &names[..199] {
        world.objects.upsert(read(gateway(name, 1, &[listener("l", 80, "HTTP", None)])));
    }
    world.settle();
    let last: ObjectKey =
        world.objects.upsert(read(gateway(names[199], 1, &[listener("l", 80, "HTTP", None)])));
    let output = world.step(std::slice::from_ref(&last));
    assert_eq!(output.looked_at, 1);
}

/// The API has an HTTPRoute and a GRPCRoute exclude each other on one listener. Equal listeners of two Gateways are two: both
/// routes are served, a call by the rule that says more of its path, and both statuses say so.
#[test]
fn routes_of_both_kinds_on_equal_listeners_of_two_gateways_are_both_served() {
    let mut world = world(&["one", "two"]);
    world.put(gateway("one", 1, &[listener("l", 80, "HTTP", None)]));
    world.put(gateway("two", 2, &[listener("l", 80, "HTTP", None)]));
    let route = |kind: &str, gateway: &str, rule: Value| {
        json!({"kind": kind, "metadata": {"namespace": "default", "name": "r", "generation": 1},
            "spec": {"parentRefs": [{"name": gateway}], "hostnames": ["a.example.com"], "rules": [rule]}})
    };
    let backends = json!([{"name": "s", "port": 80}]);
    world.put(route("HTTPRoute", "one", json!({"backendRefs": backends})));
    let call = json!({"matches": [{"method": {"service": "a.B"}}], "backendRefs": backends});
    world.put(route("GRPCRoute", "two", call.clone()));
    world.settle();
    let accepted = |world: &World, kind| match world.status(&key(kind, "default", "r")) {
        Some(Status::Route(parents)) => {
            parents[0].conditions.iter().any(|c| c.type_ == "Accepted" && c.is_true())
        }
        other => panic!("{other:?}"),
    };
    assert_eq!([Kind::HttpRoute, Kind::GrpcRoute].map(|kind| accepted(&world, kind)), [true, true]);
    for key in ["httproute/default/r", "grpcroute/default/r"] {
        assert!(world.resource(key).is_some(), "{key}");
    }
    // On one and the same listener only the first is.
    world.put(route("GRPCRoute", "one", call));
    world.settle();
    assert_eq!([Kind::HttpRoute, Kind::GrpcRoute].map(|kind| accepted(&world, kind)), [true, false]);
}

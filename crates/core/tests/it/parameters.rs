//! Parameters of Gateways over time: what runs goes on, and keys come and go with their Secrets.

use serde_json::{Value, json};
use weir_core::{Kind, Status};
use weir_model::resource::{Body, Parameters};

use crate::world::{World, key};

const OLD: &str = "b29vb29vb29vb29vb29vb29vb29vb29vb29vb29vb28=";
const NEW: &str = "bm5ubm5ubm5ubm5ubm5ubm5ubm5ubm5ubm5ubm5ubm4=";

fn gateway(name: &str, parameters: &str) -> Value {
    json!({"kind": "Gateway", "metadata": {"namespace": "default", "name": name}, "spec": {
        "gatewayClassName": "weir",
        "infrastructure": {"parametersRef": {"group": "weir.dev", "kind": "GatewayParameters", "name": parameters}},
        "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}})
}

fn parameters(generation: i64, spec: Value) -> Value {
    json!({"kind": "GatewayParameters", "metadata": {"namespace": "default", "name": "p", "generation": generation},
        "spec": spec})
}

fn serving(spec: Value) -> World {
    let mut world = World::new();
    world.put(json!({"kind": "GatewayClass", "metadata": {"name": "weir"},
        "spec": {"controllerName": "weir.dev/gateway-controller"}}));
    world.put(parameters(1, spec));
    world.put(gateway("gw", "p"));
    world.settle();
    world
}

/// What the listener of the Gateway carries; panics when it is not served.
fn carried(world: &World) -> Option<Parameters> {
    match &world.resource("listener/default/gw/http").expect("the listener is served").body {
        Some(Body::Listener(listener)) => listener.parameters.clone(),
        other => panic!("{other:?}"),
    }
}

fn accepted(world: &World) -> (bool, String) {
    let Some(Status::Gateway(status)) = world.status(&key(Kind::Gateway, "default", "gw")) else {
        panic!("a status")
    };
    (status.conditions[0].is_true(), status.conditions[0].reason.clone())
}

fn limits(parameters: Option<Parameters>) -> Vec<(String, u64)> {
    parameters.into_iter().flat_map(|p| p.limits).map(|one| (one.name, one.value)).collect()
}

#[test]
fn a_gateway_that_runs_goes_on_with_what_can_be_used_of_its_parameters() {
    let mut world = serving(json!({"requests": {"headBytes": 4096}}));
    assert_eq!(accepted(&world), (true, "Accepted".into()));
    assert_eq!(limits(carried(&world)), [("head_bytes".into(), 4096)]);

    world.put(parameters(2, json!({"requests": {"headBytes": 1, "headerCount": 10}})));
    assert_eq!(accepted(&world), (false, "InvalidParameters".into()));
    assert_eq!(limits(carried(&world)), [("header_count".into(), 10)], "the good part holds");

    let output = world.remove(&key(Kind::GatewayParameters, "default", "p"));
    assert!(output.released.is_empty());
    world.settle();
    assert_eq!(accepted(&world), (false, "InvalidParameters".into()));
    assert_eq!(carried(&world), None, "the defaults hold");
    world.put(gateway("new", "p"));
    world.settle();
    assert!(world.resource("listener/default/new/http").is_none(), "one that is new has to wait");

    world.put(parameters(3, json!({"requests": {"headBytes": 2048}})));
    world.settle();
    assert_eq!(accepted(&world), (true, "Accepted".into()));
    assert_eq!(limits(carried(&world)), [("head_bytes".into(), 2048)]);
    assert!(world.resource("listener/default/new/http").is_some());
}

#[test]
fn session_keys_follow_their_secrets_and_leave_with_them() {
    let secret = |data: Value| {
        json!({"kind": "Secret", "metadata": {"namespace": "default", "name": "keys"},
            "type": "weir.dev/session-key", "data": data})
    };
    let refer = |keys: &[&str]| {
        let all: Vec<Value> = keys.iter().map(|key| json!({"name": "keys", "key": key})).collect();
        json!({"sessionKeySecretRefs": all})
    };
    let mut world = World::new();
    world.put(secret(json!({"a": OLD})));
    world.put(json!({"kind": "GatewayClass", "metadata": {"name": "weir"},
        "spec": {"controllerName": "weir.dev/gateway-controller"}}));
    world.put(parameters(1, refer(&["a"])));
    world.put(gateway("gw", "p"));
    world.settle();
    let keys = |world: &World| carried(world).map(|parameters| parameters.session_keys).unwrap_or_default();
    let bytes = |world: &World, name: &str| match &world.resource(name).expect("the key is given").body {
        Some(Body::SessionKey(key)) => key.bytes.clone(),
        other => panic!("{other:?}"),
    };
    let first = keys(&world);
    assert_eq!(first.len(), 1);
    assert_eq!(bytes(&world, &first[0]), b"o".repeat(32));

    world.put(secret(json!({"a": OLD, "b": NEW})));
    let output = world.put(parameters(2, refer(&["b", "a"])));
    assert_eq!(output.update.upserts.len(), 2, "the new key and the listener");
    let both = keys(&world);
    assert_eq!((both.len(), &both[1]), (2, &first[0]), "newest first");
    assert_eq!(bytes(&world, &both[0]), b"n".repeat(32));

    // A Secret's own change counts, too.
    world.put(secret(json!({"a": NEW, "b": NEW})));
    assert_eq!(keys(&world), [both[0].clone()], "the same key twice is one");
    assert!(world.resource(&first[0]).is_none(), "a key that nobody names is not given to anybody");
    assert_eq!(accepted(&world), (true, "Accepted".into()));
}

#[test]
fn parameters_say_who_refers_to_them_now() {
    let mut world = serving(json!({}));
    let users = |world: &World| -> Vec<String> {
        let Some(Status::GatewayParameters(status)) =
            world.status(&key(Kind::GatewayParameters, "default", "p"))
        else {
            panic!("a status")
        };
        status.ancestors.iter().map(|a| format!("{} {}", a.ancestor_ref.kind, a.ancestor_ref.name)).collect()
    };
    assert_eq!(users(&world), ["Gateway gw"]);
    world.put(json!({"kind": "GatewayClass", "metadata": {"name": "other"}, "spec": {
        "controllerName": "weir.dev/gateway-controller", "parametersRef": {
            "group": "weir.dev", "kind": "GatewayParameters", "name": "p", "namespace": "default"}}}));
    assert_eq!(users(&world), ["GatewayClass other", "Gateway gw"]);
    world.remove(&key(Kind::Gateway, "default", "gw"));
    assert_eq!(users(&world), ["GatewayClass other"]);
    world.remove(&key(Kind::GatewayClass, "", "other"));
    assert!(users(&world).is_empty());
}

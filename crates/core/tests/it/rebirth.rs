//! An object that was deleted and made again is another object, however like the first it is: its status is empty, and is
//! to be written.

use serde_json::{Value, json};
use weir_core::{Addresses, Kind, ObjectKey};

use crate::world::{World, key, read};

fn objects() -> Vec<Value> {
    vec![
        json!({"kind": "GatewayClass", "metadata": {"name": "weir"},
            "spec": {"controllerName": "weir.dev/gateway-controller"}}),
        json!({"kind": "GatewayClass", "metadata": {"name": "operator"},
            "spec": {"controllerName": "konghq.com/gateway-operator", "parametersRef": {
                "group": "gateway-operator.konghq.com", "kind": "GatewayConfiguration",
                "namespace": "default", "name": "p"}}}),
        json!({"kind": "GatewayConfiguration", "metadata": {"namespace": "default", "name": "p"}, "spec": {}}),
        json!({"kind": "Gateway", "metadata": {"namespace": "default", "name": "gw"},
            "spec": {"gatewayClassName": "weir", "allowedListeners": {"namespaces": {"from": "All"}},
                "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}),
        json!({"kind": "ListenerSet", "metadata": {"namespace": "default", "name": "set"},
            "spec": {"parentRef": {"name": "gw"}, "listeners": [{"name": "more", "port": 81, "protocol": "HTTP"}]}}),
        json!({"kind": "HTTPRoute", "metadata": {"namespace": "default", "name": "r"},
            "spec": {"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": [{"name": "s", "port": 80}]}]}}),
        json!({"kind": "TCPRoute", "metadata": {"namespace": "default", "name": "t"},
            "spec": {"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": [{"name": "s", "port": 80}]}]}}),
        json!({"kind": "BackendTLSPolicy", "metadata": {"namespace": "default", "name": "tls"},
            "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "s"}],
                "validation": {"hostname": "a.example.com", "wellKnownCACertificates": "System"}}}),
        json!({"kind": "Service", "metadata": {"namespace": "default", "name": "s"},
            "spec": {"ports": [{"name": "http", "port": 80}]}}),
    ]
}

fn with_uid(mut object: Value, uid: &str) -> Value {
    object["metadata"]["uid"] = json!(uid);
    object["metadata"]["generation"] = json!(1);
    object
}

fn world() -> World {
    let mut world = World::new();
    for object in objects() {
        world.objects.upsert(read(with_uid(object, "first")));
    }
    world.settle();
    world
}

/// What has a status of ours.
fn stated() -> Vec<(Value, ObjectKey)> {
    let all = objects().into_iter().map(|object| {
        let key = read(object.clone()).key();
        (object, key)
    });
    all.filter(|(_, key)| key.kind != Kind::Service).collect()
}

#[test]
fn the_status_of_an_object_that_was_deleted_and_made_again_between_two_calls_is_told_anew() {
    for uid in ["second", "first"] {
        let mut world = world();
        for (object, key) in stated() {
            assert!(world.status(&key).is_some(), "{key} has a status");
            world.objects.remove(&key);
            world.objects.upsert(read(with_uid(object, uid)));
            let addresses = Addresses { bind: vec!["127.0.1.1".to_owned()], ..Addresses::default() };
            if key.kind == Kind::Gateway {
                world.objects.set_addresses(&key, addresses);
            }
            let output = world.step(std::slice::from_ref(&key));
            assert!(output.statuses.iter().any(|(of, _)| *of == key), "{key} with uid {uid}: {output:?}");
        }
    }
}

#[test]
fn the_status_of_an_object_that_a_list_shows_with_another_uid_is_told_anew() {
    let mut world = world();
    for (object, key) in stated() {
        let output = world.put(with_uid(object, "second"));
        assert!(output.statuses.iter().any(|(of, _)| *of == key), "{key}: {output:?}");
    }
}

#[test]
fn findings_about_an_object_are_told_of_its_successor_too() {
    let mut world = world();
    let service = key(Kind::Service, "default", "s");
    world.remove(&service);
    let (route, key) = (objects().swap_remove(5), key(Kind::HttpRoute, "default", "r"));
    world.settle();
    world.told.clear();
    world.put(with_uid(route, "second"));
    world.settle();
    assert!(world.told.iter().any(|found| found.object == key), "{:?}", world.told);
}

#[test]
fn an_edit_is_no_rebirth() {
    let mut world = world();
    for (object, _) in stated() {
        let mut touched = with_uid(object, "first");
        touched["metadata"]["resourceVersion"] = json!("77");
        assert_eq!(world.put(touched).statuses, []);
    }
}

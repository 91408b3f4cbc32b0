//! Statuses as they go over the wire.

use serde_json::json;
use weir_core::{Kind, Status};

use crate::world::{World, key};

#[test]
fn statuses_are_spelled_as_the_api_wants_them() {
    let mut world = World::new();
    world.put(json!({"kind": "GatewayClass", "metadata": {"name": "weir", "generation": 4},
        "spec": {"controllerName": "weir.dev/gateway-controller"}}));
    world.put(json!({"kind": "Gateway", "metadata": {"namespace": "a", "name": "gw", "generation": 2},
        "spec": {"gatewayClassName": "weir", "listeners": [
            {"name": "odd", "port": 81, "protocol": "HTTP", "allowedRoutes": {"kinds": [{"kind": "Odd"}]}}]}}));
    world.put(json!({"kind": "HTTPRoute", "metadata": {"namespace": "a", "name": "r", "generation": 3},
        "spec": {"parentRefs": [{"name": "gw", "sectionName": "no"}], "rules": []}}));
    world.settle();
    let json = |kind, namespace, name| match world.status(&key(kind, namespace, name)).expect("a status") {
        Status::GatewayClass(status) => serde_json::to_value(status).unwrap(),
        Status::Gateway(status) => serde_json::to_value(status).unwrap(),
        Status::ListenerSet(status) => serde_json::to_value(status).unwrap(),
        Status::Route(status) => serde_json::to_value(status).unwrap(),
        Status::Policy(status) => serde_json::to_value(status).unwrap(),
        Status::GatewayConfiguration(status) => serde_json::to_value(status).unwrap(),
        Status::GatewayParameters(status) => serde_json::to_value(status).unwrap(),
    };
    assert_eq!(
        json(Kind::GatewayClass, "", "weir"),
        json!({"conditions": [{"type": "Accepted", "status": "True", "observedGeneration": 4, "reason": "Accepted",
            "message": "Each Gateway of this class gets an address of its own."}]})
    );
    let gateway = json(Kind::Gateway, "a", "gw");
    assert_eq!(gateway["addresses"], json!([{"type": "IPAddress", "value": "127.0.1.1"}]));
    let listener = &gateway["listeners"][0];
    assert_eq!(listener["supportedKinds"], json!([]));
    assert_eq!(listener["attachedRoutes"], json!(0));
    assert_eq!(listener["conditions"][2]["reason"], json!("InvalidRouteKinds"));
    let route = json(Kind::HttpRoute, "a", "r");
    assert_eq!(
        route[0]["parentRef"],
        json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw", "sectionName": "no"})
    );
    assert_eq!(route[0]["controllerName"], json!("weir.dev/gateway-controller"));
    for status in [gateway, route] {
        assert!(!status.to_string().contains("null"), "{status}");
    }
}

//! One edit costs the same whatever else there is.

use base64::Engine as _;
use serde_json::{Value, json};
use weir_core::Kind;

use crate::world::{World, key, read};

fn gateway() -> Vec<Value> {
    vec![
        json!({"kind": "GatewayClass", "metadata": {"name": "weir"},
               "spec": {"controllerName": "weir.dev/gateway-controller"}}),
        json!({"kind": "Gateway", "metadata": {"namespace": "infra", "name": "gw", "generation": 1},
               "spec": {"gatewayClassName": "weir", "listeners": [
                   {"name": "http", "port": 80, "protocol": "HTTP",
                    "allowedRoutes": {"namespaces": {"from": "All"}}}]}}),
    ]
}

fn route(index: usize, generation: i64) -> Value {
    json!({"kind": "HTTPRoute",
           "metadata": {"namespace": "apps", "name": format!("r{index}"), "generation": generation},
           "spec": {"parentRefs": [{"namespace": "infra", "name": "gw"}], "hostnames": ["one.example.com"],
                    "rules": [{"matches": [{"path": {"value": format!("/{index}/{generation}")}}],
                               "backendRefs": [{"name": format!("s{}", index % 7), "port": 80}]}]}})
}

fn populated(routes: usize) -> World {
    let mut world = World::new();
    for object in gateway() {
        world.objects.upsert(read(object));
    }
    for service in 0..7 {
        let name = format!("s{service}");
        world
            .objects
            .upsert(read(json!({"kind": "Service", "metadata": {"namespace": "apps", "name": name},
            "spec": {"ports": [{"name": "http", "port": 80}]}})));
        world.objects.upsert(slice(service, "10.0.0.1"));
    }
    for index in 0..routes {
        world.objects.upsert(read(route(index, 1)));
    }
    world.settle();
    world
}

fn slice(service: usize, address: &str) -> weir_core::Object {
    read(json!({"kind": "EndpointSlice",
        "metadata": {"namespace": "apps", "name": format!("s{service}-1"),
                     "labels": {"kubernetes.io/service-name": format!("s{service}")}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [address]}]}))
}

#[test]
fn an_edited_route_costs_the_same_among_few_and_among_many() {
    let mut costs = Vec::new();
    for routes in [10, 3_000] {
        let mut world = populated(routes);
        let output = world.put(route(5, 2));
        assert_eq!(output.update.upserts.len(), 1, "the route and nothing else");
        assert_eq!(output.statuses.len(), 1);
        costs.push(output.looked_at);
    }
    assert_eq!(costs, [1, 1]);
}

#[test]
fn a_pod_that_comes_or_goes_changes_endpoints_only() {
    let mut world = populated(500);
    let key = world.objects.upsert(slice(3, "10.0.0.2"));
    let output = world.step(&[key]);
    let keys: Vec<&str> = output.update.upserts.iter().map(|resource| resource.key()).collect();
    assert_eq!(keys, ["endpoints/apps/s3/80"]);
    assert!(output.update.removals.is_empty() && output.statuses.is_empty());
    assert!(output.looked_at <= 2, "{} objects were looked at", output.looked_at);
}

#[test]
fn what_means_nothing_to_routes_looks_at_no_route() {
    let mut world = populated(500);
    let service = |cluster_ip: &str| {
        json!({"kind": "Service",
            "metadata": {"namespace": "apps", "name": "s3", "annotations": {"touched": cluster_ip}},
            "spec": {"clusterIP": cluster_ip, "ports": [{"name": "http", "port": 80}]}})
    };
    let output = world.put(service("10.96.0.7"));
    assert!(output.update_is_empty() && output.statuses.is_empty());
    assert_eq!(output.looked_at, 1);
    let output = world.put(json!({"kind": "Namespace", "metadata": {"name": "apps", "labels": {"a": "b"}}}));
    assert!(output.update_is_empty() && output.statuses.is_empty());
    assert_eq!(output.looked_at, 1);
}

#[test]
fn one_more_route_changes_one_count_and_one_less_changes_it_back() {
    let mut world = populated(200);
    let output = world.put(route(200, 1));
    assert_eq!(output.looked_at, 1);
    let stated: Vec<String> = output.statuses.iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!(stated, ["Gateway infra/gw", "HTTPRoute apps/r200"]);
    let before = world.status(&key(Kind::Gateway, "infra", "gw")).cloned();
    world.put(route(201, 1));
    world.remove(&key(Kind::HttpRoute, "apps", "r201"));
    assert_eq!(world.status(&key(Kind::Gateway, "infra", "gw")), before.as_ref());
}

fn grpc_route(index: usize) -> Value {
    json!({"kind": "GRPCRoute", "metadata": {"namespace": "apps", "name": format!("g{index}"), "generation": 1},
           "spec": {"parentRefs": [{"namespace": "infra", "name": "gw"}],
                    "hostnames": [format!("g{index}.example.com")], "rules": [{}]}})
}

#[test]
fn routes_of_another_kind_on_the_listener_cost_an_edit_nothing() {
    let mut world = populated(500);
    for index in 0..500 {
        world.objects.upsert(read(grpc_route(index)));
    }
    world.settle();
    let changed: Vec<_> = (0..500).map(|index| key(Kind::GrpcRoute, "apps", &format!("g{index}"))).collect();
    world.step(&changed);
    world.settle();
    let output = world.put(route(5, 2));
    assert_eq!(output.looked_at, 1);
    assert_eq!(output.update.upserts.len(), 1, "the route and nothing else");
}

#[test]
fn a_secret_costs_those_who_refer_to_it() {
    let mut world = populated(300);
    let secret = |name: &str, host: &str| {
        let (certificate, private_key) = crate::world::certificate(&[host]);
        let encode = |text: String| base64::prelude::BASE64_STANDARD.encode(text);
        json!({"kind": "Secret", "metadata": {"namespace": "infra", "name": name}, "type": "kubernetes.io/tls",
               "data": {"tls.crt": encode(certificate), "tls.key": encode(private_key)}})
    };
    world.put(secret("used", "a.example.com"));
    world.put(json!({"kind": "Gateway", "metadata": {"namespace": "infra", "name": "tls", "generation": 1},
        "spec": {"gatewayClassName": "weir", "listeners": [
            {"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "used"}]}}]}}));
    world.settle();
    let output = world.put(secret("other", "a.example.com"));
    assert!(output.update_is_empty() && output.looked_at == 1, "{} objects were looked at", output.looked_at);
    let output = world.put(secret("used", "b.example.com"));
    assert_eq!(output.looked_at, 2, "the Secret and the Gateway");
    let upserts: Vec<&str> = output.update.upserts.iter().map(|resource| resource.key()).collect();
    assert!(
        matches!(&upserts[..], [certificate, "listener/infra/tls/https"] if certificate.starts_with("certificate/"))
    );
    assert_eq!(output.update.removals.len(), 1, "the certificate before");
    let output = world.remove(&key(Kind::Secret, "infra", "used"));
    assert!(output.update.removals[0].starts_with("certificate/"));
}

#[test]
fn a_route_beside_one_of_another_kind_costs_the_same_among_few_and_among_many() {
    let grpc = |created: &str| {
        json!({"kind": "GRPCRoute",
            "metadata": {"namespace": "apps", "name": "any", "generation": 1, "creationTimestamp": created},
            "spec": {"parentRefs": [{"namespace": "infra", "name": "gw"}],
                     "rules": [{"backendRefs": [{"name": "s0", "port": 80}]}]}})
    };
    let aged = |index: usize, generation: i64| {
        let mut route = route(index, generation);
        route["metadata"]["creationTimestamp"] = json!("2024-01-01T00:00:01Z");
        route
    };
    // Before all of them, or after.
    for created in ["2024-01-01T00:00:00Z", "2024-01-01T00:00:02Z"] {
        let mut costs = Vec::new();
        for routes in [10, 2_000] {
            let mut world = populated(0);
            for index in 0..routes {
                world.objects.upsert(read(aged(index, 1)));
            }
            world.objects.upsert(read(grpc(created)));
            world.settle();
            let mut moved = aged(6, 2);
            moved["spec"]["hostnames"] = json!(["two.example.com"]);
            let cost = [
                world.put(aged(routes, 1)).looked_at,
                world.put(moved).looked_at,
                world.remove(&key(Kind::HttpRoute, "apps", "r3")).looked_at,
            ];
            costs.push(cost);
        }
        assert_eq!(costs[0], costs[1], "{created}");
    }
}

//! Addresses, and the objects that show them.

use std::time::Duration;

use serde_json::{Value, json};
use weir_control::{Fixed, Provision};

use crate::api::Api;
use crate::plane::{Plane, class, gateway, kong_class, ready_api, route};

fn address(plane: &Plane, name: &str) -> String {
    let object = plane.api.get("gateways", "default", name).unwrap_or_default();
    object["status"]["addresses"][0]["value"].as_str().unwrap_or_default().to_owned()
}

fn proxy_service(plane: &Plane) -> Option<Value> {
    plane.api.get("services", "kong", "kong-gateway-proxy")
}

fn proxy_ip(plane: &Plane) -> String {
    let object = proxy_service(plane).unwrap_or_default();
    object["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap_or_default().to_owned()
}

fn bound_to(plane: &Plane, address: &str) -> bool {
    plane.resources().values().any(|resource| match &resource.body {
        Some(weir_model::resource::Body::Listener(listener)) => listener.address == address,
        _ => false,
    })
}

#[tokio::test(start_paused = true)]
async fn kongs_service_is_there_as_soon_as_its_class_and_not_before() {
    let plane = Plane::start(ready_api());
    plane.until("programmed", |plane| !address(plane, "g").is_empty()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(plane.api.get("namespaces", "", "kong").is_none());
    plane.api.apply("gatewayclasses", kong_class());
    plane.until("the address", |plane| !proxy_ip(plane).is_empty()).await;
    assert!(plane.api.get("namespaces", "", "kong").is_some());
    let service = proxy_service(&plane).unwrap();
    assert_eq!(service["spec"]["type"], "LoadBalancer");
    assert_eq!(service["spec"]["ports"][0]["port"], 80);

    plane.api.apply("gateways", gateway("kong", "kong"));
    plane.api.apply("gateways", gateway("kong2", "kong"));
    plane
        .until("both", |plane| !address(plane, "kong").is_empty() && !address(plane, "kong2").is_empty())
        .await;
    assert_eq!(address(&plane, "kong"), proxy_ip(&plane));
    assert_eq!(address(&plane, "kong2"), proxy_ip(&plane));
    assert_ne!(address(&plane, "g"), proxy_ip(&plane));
    let annotation = |plane: &Plane| {
        plane.api.get("gateways", "default", "kong").unwrap()["metadata"]["annotations"]
            ["konghq.com/publish-service"]
            .clone()
    };
    plane.until("annotated", |plane| annotation(plane) == "kong/kong-gateway-proxy").await;
}

#[tokio::test(start_paused = true)]
async fn kongs_service_is_kept_in_repair() {
    let api = Api::new();
    api.apply("namespaces", json!({"metadata": {"name": "kong"}}));
    api.apply("gatewayclasses", kong_class());
    let plane = Plane::start(api);
    plane.until("the address", |plane| !proxy_ip(plane).is_empty()).await;
    assert!(
        plane
            .api
            .writes("/api/v1/namespaces")
            .iter()
            .all(|(method, path, _)| { method != "POST" || path != "/api/v1/namespaces" })
    );
    let ip = proxy_ip(&plane);
    plane.api.edit("services", "kong", "kong-gateway-proxy", |object| {
        object["spec"]["type"] = json!("ClusterIP");
        object["status"] = json!({});
    });
    plane.until("repaired", |plane| proxy_ip(plane) == ip).await;
    plane
        .until("repaired", |plane| proxy_service(plane).is_some_and(|s| s["spec"]["type"] == "LoadBalancer"))
        .await;
    plane.api.delete("services", "kong", "kong-gateway-proxy");
    plane.until("back", |plane| proxy_ip(plane) == ip).await;
    plane.api.delete("services", "kong", "kong-gateway-proxy");
    plane.api.delete("namespaces", "", "kong");
    plane.until("back", |plane| proxy_ip(plane) == ip).await;
    plane.api.delete("gatewayclasses", "", "kong");
    plane.until("gone with the class", |plane| proxy_service(plane).is_none()).await;
    assert!(plane.api.get("namespaces", "", "kong").is_some(), "others may live in it");
}

#[tokio::test(start_paused = true)]
async fn a_new_listener_port_appears_in_kongs_service() {
    let api = Api::new();
    api.apply("gatewayclasses", kong_class());
    api.apply("gateways", gateway("kong", "kong"));
    let plane = Plane::start(api);
    plane.until("the address", |plane| !proxy_ip(plane).is_empty()).await;
    let mut more = gateway("kong", "kong");
    more["spec"]["listeners"].as_array_mut().unwrap().push(json!({
        "name": "other", "port": 8080, "protocol": "HTTP",
    }));
    plane.api.apply("gateways", more);
    let has = |plane: &Plane, port: u64| {
        let service = proxy_service(plane).unwrap();
        service["spec"]["ports"].as_array().unwrap().iter().any(|wish| wish["port"] == port)
    };
    plane.until("the port", |plane| has(plane, 8080)).await;
    assert!(has(&plane, 80) && has(&plane, 443));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_changes_its_class_moves_and_its_routes_follow() {
    let api = ready_api();
    api.apply("gatewayclasses", kong_class());
    api.apply("gatewayclasses", class("gateway-class", "konghq.com/gateway-operator"));
    api.apply("gateways", gateway("kong", "kong"));
    api.apply("httproutes", route("r", "kong", "echo"));
    let plane = Plane::start(api);
    plane.until("the address", |plane| !address(plane, "kong").is_empty()).await;
    let shared = address(&plane, "kong");
    let controller = |plane: &Plane| {
        plane.api.get("httproutes", "default", "r").unwrap()["status"]["parents"][0]["controllerName"].clone()
    };
    plane.until("accepted", |plane| controller(plane) == "konghq.com/kic-gateway-controller").await;
    plane.api.apply("gateways", gateway("kong", "gateway-class"));
    plane.until("moved", |plane| !["", shared.as_str()].contains(&address(plane, "kong").as_str())).await;
    let own = address(&plane, "kong");
    assert!(bound_to(&plane, &own) && !bound_to(&plane, &shared));
    plane.until("followed", |plane| controller(plane) == "konghq.com/gateway-operator").await;
    let parents = plane.api.get("httproutes", "default", "r").unwrap()["status"]["parents"].clone();
    assert_eq!(parents.as_array().unwrap().len(), 1, "{parents}");
    plane
        .until("its Service", |plane| {
            plane
                .api
                .get("services", "default", "dataplane-ingress-kong")
                .is_some_and(|service| service["status"]["loadBalancer"]["ingress"][0]["ip"] == own.as_str())
        })
        .await;
    let annotations = |plane: &Plane| {
        plane.api.get("gateways", "default", "kong").unwrap()["metadata"]["annotations"].to_string()
    };
    plane.until("the annotation is gone", |plane| !annotations(plane).contains("publish-service")).await;
    plane.api.apply("gateways", gateway("kong", "kong"));
    plane.until("back", |plane| address(plane, "kong") == shared).await;
    plane
        .until("no Service", |plane| plane.api.get("services", "default", "dataplane-ingress-kong").is_none())
        .await;
}

#[tokio::test(start_paused = true)]
async fn requests_for_addresses_are_honoured_or_refused_with_a_reason() {
    let mut asking = gateway("g", "weir");
    asking["spec"]["addresses"] = json!([{"type": "IPAddress", "value": "127.9.9.9"}]);
    let api = ready_api();
    api.apply("gateways", asking.clone());
    let plane = Plane::start(api);
    plane.until("given", |plane| address(plane, "g") == "127.9.9.9").await;
    asking["metadata"]["name"] = json!("other");
    plane.api.apply("gateways", asking.clone());
    let reason = |plane: &Plane, name: &str, type_: &str| {
        let object = plane.api.get("gateways", "default", name).unwrap();
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == type_);
        found.map(|found| found["reason"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
    };
    plane.until("refused", |plane| reason(plane, "other", "Programmed") == "AddressNotUsable").await;
    assert_eq!(reason(&plane, "other", "Accepted"), "Accepted");
    asking["spec"]["addresses"][0] = json!({"type": "test/fake-invalid-type", "value": "x"});
    plane.api.apply("gateways", asking);
    plane.until("refused", |plane| reason(plane, "other", "Accepted") == "UnsupportedAddress").await;
    plane.api.delete("gateways", "default", "g");
    plane.until("released", |plane| !bound_to(plane, "127.9.9.9")).await;
}

#[tokio::test(start_paused = true)]
async fn an_address_is_kept_over_a_restart() {
    let api = ready_api();
    let mut early = gateway("g", "weir");
    early["spec"]["listeners"][0]["port"] = json!(8080);
    api.apply("gateways", early);
    api.edit("gateways", "default", "g", |object| {
        object["status"] = json!({"addresses": [{"type": "IPAddress", "value": "127.64.77.77"}]});
    });
    let plane = Plane::start(api);
    plane.until("bound", |plane| bound_to(plane, "127.64.77.77")).await;
}

#[tokio::test(start_paused = true)]
async fn a_port_that_is_served_at_another_is_told_everywhere() {
    let api = ready_api();
    api.apply("gatewayclasses", kong_class());
    api.apply("gateways", gateway("kong", "kong"));
    let plane = Plane::start(api);
    plane.remap(80, 8080);
    plane
        .until("annotated", |plane| {
            proxy_service(plane).is_some_and(|service| {
                service["metadata"]["annotations"]["weir.dev/bound-ports"] == "80=8080"
            })
        })
        .await;
    let told = |plane: &Plane, gateway: &str| {
        plane.api.all("events").into_iter().any(|event| {
            event["reason"] == "PortRemapped"
                && event["involvedObject"]["name"] == gateway
                && event["type"] == "Normal"
                && event["message"].as_str().unwrap().contains(":8080")
        })
    };
    plane.until("told", |plane| told(plane, "kong") && told(plane, "g")).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let events =
        plane.api.all("events").into_iter().filter(|event| event["reason"] == "PortRemapped").count();
    assert_eq!(events, 2, "once for each Gateway");
}

#[tokio::test(start_paused = true)]
async fn in_file_mode_every_gateway_has_the_default_address_and_no_object_is_made() {
    let api = ready_api();
    api.apply("gatewayclasses", kong_class());
    api.apply("gateways", gateway("kong", "kong"));
    let mut asking = gateway("asking", "weir");
    asking["spec"]["addresses"] = json!([{"value": "127.0.0.9"}]);
    api.apply("gateways", asking);
    let plane = Plane::start_with(api, Provision::Fixed(Fixed::new("127.0.0.1".parse().unwrap())));
    plane.until("addresses", |plane| address(plane, "kong") == "127.0.0.1").await;
    plane.until("addresses", |plane| address(plane, "asking") == "127.0.0.9").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(plane.api.get("namespaces", "", "kong").is_none());
    assert_eq!(plane.api.all("services").len(), 1);
}

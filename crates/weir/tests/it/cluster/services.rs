//! Services whose names a configuration gives.

use kube::api::DeleteParams;
use serde_json::{Value, json};
use weir_control::Leadership;

use super::{CONFIGURATION, DEPLOYMENT, GATEWAY, Rig, SERVICE, condition, until};

/// A Gateway whose Service is to have a name.
async fn named(rig: &Rig, gateway: &str, service: &str) {
    let spec =
        json!({"spec": {"dataPlaneOptions": {"network": {"services": {"ingress": {"name": service}}}}}});
    rig.create(CONFIGURATION, "default", gateway, spec).await;
    let parameters =
        json!({"group": "gateway-operator.konghq.com", "kind": "GatewayConfiguration", "name": gateway});
    let spec = json!({"spec": {
        "gatewayClassName": "weir",
        "infrastructure": {"parametersRef": parameters},
        "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
    }});
    rig.create(GATEWAY, "default", gateway, spec).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_that_of_one_gateway_and_another_that_names_it_is_told() {
    let rig = Rig::start().await;
    let _control = rig.control(Leadership::always(), true, &[]);
    named(&rig, "z", "front").await;
    let service = rig.until(SERVICE, "default", "front", Value::is_object).await;
    assert_eq!(service["metadata"]["ownerReferences"][0]["name"], "z");
    named(&rig, "a", "front").await;
    let is_told =
        |gateway: &Value| condition(gateway, "Programmed").2.contains("Service default/front is that of");
    let told = rig.until(GATEWAY, "default", "a", is_told).await;
    let (status, _, message) = condition(&told, "Programmed");
    assert!(status == "False" && message.contains("Gateway default/z"), "{message}");
    rig.until(DEPLOYMENT, "default", "weir-a", Value::is_object).await;
    let service = rig.get(SERVICE, "default", "front").await;
    assert_eq!(service["metadata"]["ownerReferences"][0]["name"], "z", "it keeps it");
    // It is free when that one goes.
    rig.objects(GATEWAY, "default").delete("z", &DeleteParams::default()).await.expect("it is deleted");
    rig.until(SERVICE, "default", "front", |service| {
        service["metadata"]["ownerReferences"][0]["name"] == "a"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_keeps_its_name_while_the_parameters_that_gave_it_are_gone() {
    let rig = Rig::start().await;
    let control = rig.control(Leadership::always(), true, &[]);
    named(&rig, "g", "front").await;
    rig.until(SERVICE, "default", "front", Value::is_object).await;
    rig.load_balance("front", json!([{"ip": "192.0.2.10"}])).await;
    rig.endpoint("front", true).await;
    let is_served = |gateway: &Value| {
        gateway["status"]["addresses"][0]["value"] == "192.0.2.10"
            && condition(gateway, "Programmed").0 == "True"
    };
    rig.until(GATEWAY, "default", "g", is_served).await;
    rig.objects(CONFIGURATION, "default").delete("g", &DeleteParams::default()).await.expect("it is deleted");
    let is_told = |gateway: &Value| condition(gateway, "Accepted").1 == "InvalidParameters";
    let told = rig.until(GATEWAY, "default", "g", is_told).await;
    assert!(is_served(&told), "{:#}", told["status"]);
    // Who comes next knows it too.
    control.stop.cancel();
    let next = rig.control(Leadership::always(), true, &[]);
    until("the next one is ready", || next.status.ready()).await;
    rig.listen("g", 8080).await;
    let is_new = |gateway: &Value| {
        let conditions = gateway["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().all(|condition| condition["observedGeneration"] == 2)
    };
    let told = rig.until(GATEWAY, "default", "g", is_new).await;
    assert!(is_served(&told), "{:#}", told["status"]);
    assert!(!rig.get(SERVICE, "default", "weir-g").await.is_object());
}

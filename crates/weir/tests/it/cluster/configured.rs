//! What parameters make of data planes: the operator's, of a class and of a Gateway, and ours where pods cannot do what they say.

use kube::api::DeleteParams;
use serde_json::{Value, json};
use weir_control::Leadership;

use super::{CLASS, CONFIGURATION, DEPLOYMENT, GATEWAY, Rig, SERVICE, condition, until};

const PARAMETERS: &str = "weir.dev/v1alpha1/GatewayParameters";

fn reference(name: &str) -> Value {
    json!({"group": "gateway-operator.konghq.com", "kind": "GatewayConfiguration", "name": name})
}

/// A class of Kong's operator, with parameters in a namespace as those have them.
async fn class_with_parameters(rig: &Rig, spec: Value) {
    rig.create(CONFIGURATION, "default", "of-class", json!({"spec": spec})).await;
    let mut parameters = reference("of-class");
    parameters["namespace"] = json!("default");
    let class =
        json!({"spec": {"controllerName": "konghq.com/gateway-operator", "parametersRef": parameters}});
    rig.create(CLASS, "", "kong", class).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_of_a_class_shape_its_data_planes_which_run_our_image() {
    let rig = Rig::start().await;
    let proxy = json!({"name": "proxy", "image": "kong/kong-gateway:3.11", "resources": {"limits": {"memory": "1Gi"}}});
    let spec = json!({"dataPlaneOptions": {
        "deployment": {"replicas": 2, "podTemplateSpec": {"spec": {"containers": [proxy]}}},
        "network": {"services": {"ingress": {"type": "ClusterIP"}}},
    }});
    class_with_parameters(&rig, spec).await;
    rig.gateway("default", "g", "kong").await;
    let _control = rig.control(Leadership::always(), true, &[]);
    let deployment = rig.until(DEPLOYMENT, "default", "weir-g", Value::is_object).await;
    assert_eq!(deployment["spec"]["replicas"], 2);
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&container["image"], &container["args"][0]), (&json!("weir:test"), &json!("proxy")));
    assert_eq!(container["resources"]["limits"]["memory"], "1Gi");
    let service = rig.until(SERVICE, "default", "weir-g", Value::is_object).await;
    assert_eq!(service["spec"]["type"], "ClusterIP");
    let event = rig.event("ImageReplaced").await;
    assert_eq!(
        (&event["involvedObject"]["kind"], &event["involvedObject"]["name"]),
        (&json!("Gateway"), &json!("g"))
    );
    let message = event["message"].as_str().unwrap_or_default();
    assert!(message.contains("weir:test instead of kong/kong-gateway:3.11"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_classs_parameters_do_not_stand_in_for_a_gateways_that_are_gone_for_a_while() {
    let rig = Rig::start().await;
    let named = |service: &str, replicas: u32| {
        let ingress = json!({"name": service});
        json!({"dataPlaneOptions": {
            "deployment": {"replicas": replicas},
            "network": {"services": {"ingress": ingress}},
        }})
    };
    class_with_parameters(&rig, named("of-class", 1)).await;
    rig.create(CONFIGURATION, "default", "own", json!({"spec": named("front", 3)})).await;
    let spec = json!({"spec": {
        "gatewayClassName": "kong",
        "infrastructure": {"parametersRef": reference("own")},
        "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
    }});
    rig.create(GATEWAY, "default", "g", spec).await;
    let control = rig.control(Leadership::always(), true, &[]);
    let service = rig.until(SERVICE, "default", "front", Value::is_object).await;
    let deployment = rig.until(DEPLOYMENT, "default", "weir-g", Value::is_object).await;
    rig.load_balance("front", json!([{"ip": "192.0.2.10"}])).await;
    rig.endpoint("front", true).await;
    rig.until(GATEWAY, "default", "g", |g| condition(g, "Programmed").0 == "True").await;

    let configurations = rig.objects(CONFIGURATION, "default");
    configurations.delete("own", &DeleteParams::default()).await.expect("it is deleted");
    let is_told = |gateway: &Value| condition(gateway, "Accepted").1 == "InvalidParameters";
    rig.until(GATEWAY, "default", "g", is_told).await;
    until("nothing is pending", || control.status.provision_pending.get() == 0).await;
    assert!(rig.get(SERVICE, "default", "of-class").await.is_null());
    rig.create(CONFIGURATION, "default", "own", json!({"spec": named("front", 3)})).await;
    let gateway = rig.until(GATEWAY, "default", "g", |g| condition(g, "Accepted").1 == "Accepted").await;
    assert_eq!(gateway["status"]["addresses"][0]["value"], "192.0.2.10");
    until("nothing is pending", || control.status.provision_pending.get() == 0).await;
    for (kind, name, before) in [(SERVICE, "front", service), (DEPLOYMENT, "weir-g", deployment)] {
        let after = rig.get(kind, "default", name).await;
        let whether = |object: &Value| (object["metadata"]["uid"].clone(), object["spec"].clone());
        assert_eq!(whether(&after), whether(&before), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_is_told_that_the_shared_pods_end_before_its_drain_does() {
    let rig = Rig::start().await;
    rig.unmanaged_class().await;
    let pods = json!({
        "metadata": {"labels": {"weir.dev/instance": "default.test", "weir.dev/provisioned": "shared"}},
        "spec": {
            "selector": {"matchLabels": {"app": "proxy"}},
            "template": {
                "metadata": {"labels": {"app": "proxy"}},
                "spec": {
                    "terminationGracePeriodSeconds": 45,
                    "containers": [{"name": "proxy", "image": "weir:test"}],
                },
            },
        },
    });
    rig.create(DEPLOYMENT, "default", "test-gateway-proxy", pods).await;
    rig.create(PARAMETERS, "default", "patient", json!({"spec": {"drain": {"timeout": "2m"}}})).await;
    let parameters = json!({"group": "weir.dev", "kind": "GatewayParameters", "name": "patient"});
    let spec = json!({"spec": {
        "gatewayClassName": "kong",
        "infrastructure": {"parametersRef": parameters},
        "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
    }});
    rig.gateway("default", "plain", "kong").await;
    rig.create(GATEWAY, "default", "patient", spec).await;
    let _control = rig.control(Leadership::always(), true, &[]);
    let event = rig.event("GracePeriodTooShort").await;
    assert_eq!((&event["involvedObject"]["name"], &event["type"]), (&json!("patient"), &json!("Warning")));
    let message = event["message"].as_str().unwrap_or_default();
    let pods = "pods of Deployment default/test-gateway-proxy are ended after 45 s";
    assert!(message.contains("come to 125 s") && message.contains(pods), "{message}");
}

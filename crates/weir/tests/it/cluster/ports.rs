//! The port that the pods of data planes have for themselves.

use serde_json::{Value, json};
use weir_control::Leadership;

use super::{GATEWAY, Rig, SERVICE, condition};

const ADMIN_PORT: u16 = 19_901;
const POLICY: &str = "networking.k8s.io/v1/NetworkPolicy";

/// The condition of a listener.
fn of_listener(gateway: &Value, name: &str, type_: &str) -> (String, String, String) {
    let listeners = gateway["status"]["listeners"].as_array().cloned().unwrap_or_default();
    let found = listeners.into_iter().find(|listener| listener["name"] == name).unwrap_or_default();
    condition(&json!({"status": found}), type_)
}

fn ports(service: &Value) -> Vec<u64> {
    let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
    ports.iter().filter_map(|port| port["port"].as_u64()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_listener_has_the_admin_port_of_data_planes_and_no_service_shows_it() {
    let rig = Rig::start().await;
    rig.unmanaged_class().await;
    let shared = json!({
        "metadata": {"labels": {"weir.dev/instance": "default.test", "weir.dev/provisioned": "shared"}},
        "spec": {"type": "LoadBalancer", "ports": [{"name": "kong-proxy", "port": 80}]},
    });
    rig.create(SERVICE, "default", "test-gateway-proxy", shared).await;
    let _control = rig.control(Leadership::always(), true, &[]);
    for (gateway, class) in [("own", "weir"), ("shared", "kong")] {
        let spec = json!({"spec": {"gatewayClassName": class, "listeners": [
            {"name": "admin", "port": ADMIN_PORT, "protocol": "HTTP"},
            {"name": "stream", "port": ADMIN_PORT, "protocol": "TCP"},
            {"name": "http", "port": 8080, "protocol": "HTTP"},
        ]}});
        rig.create(GATEWAY, "default", gateway, spec).await;
        for listener in ["admin", "stream"] {
            let is_refused = |gateway: &Value| of_listener(gateway, listener, "Accepted").0 == "False";
            let told = rig.until(GATEWAY, "default", gateway, is_refused).await;
            let (_, reason, message) = of_listener(&told, listener, "Accepted");
            assert_eq!(reason, "PortUnavailable", "{message}");
            assert!(message.contains("19901") && message.contains("admin port"), "{message}");
            assert_eq!(of_listener(&told, "http", "Accepted").0, "True");
        }
    }
    let is_followed = |service: &Value| ports(service).contains(&8080);
    let service = rig.until(SERVICE, "default", "weir-own", is_followed).await;
    assert_eq!(ports(&service), [8080]);
    let service = rig.until(SERVICE, "default", "test-gateway-proxy", is_followed).await;
    assert_eq!(ports(&service), [80, 443, 8080]);
    let policy = rig.until(POLICY, "default", "weir-own", Value::is_object).await;
    let rules = policy["spec"]["ingress"].as_array().cloned().unwrap_or_default();
    let mut to_all = rules.iter().filter(|rule| rule.get("from").is_none());
    let opened = to_all.next().map(|rule| rule["ports"].clone());
    assert_eq!((opened, to_all.next()), (Some(json!([{"port": 8080, "protocol": "TCP"}])), None));
}

//! The objects that Weir serves in the measurements, as YAML of the Gateway API.

use std::fmt::Write;

/// Hosts beside the measured one, so that the look-up is not trivial. The peers do without them, in their favour.
pub(crate) const EXTRA_HOSTS: u32 = 200;
pub(crate) const ROUTES_PER_HOST: u32 = 4;
/// The shares of the two backends, as in the guide.
pub(crate) const WEIGHTS: [u32; 2] = [200, 100];

/// Gateway, route, Services with their EndpointSlices, and the extra hosts.
pub(crate) fn files(listener: u16, backends: [u16; 2]) -> Vec<(&'static str, String)> {
    let names = ["a", "b"];
    let services = names.iter().zip(backends).map(|(name, port)| service(name, port)).collect();
    vec![("gateway.yaml", gateway(listener)), ("services.yaml", services), ("routes.yaml", routes(names))]
}

fn gateway(port: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: weir}}
spec: {{controllerName: weir.dev/gateway-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: bench, namespace: default}}
spec:
  gatewayClassName: weir
  listeners: [{{name: http, port: {port}, protocol: HTTP}}]
"
    )
}

fn service(name: &str, port: u16) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec: {{ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{port: {port}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
"
    )
}

fn routes(names: [&str; 2]) -> String {
    let backends: Vec<String> = names
        .iter()
        .zip(WEIGHTS)
        .map(|(name, weight)| format!("{{name: {name}, port: 80, weight: {weight}}}"))
        .collect();
    let backends = backends.join(", ");
    let mut text = String::new();
    push_route(&mut text, "bench", None, &backends);
    for host in 0..EXTRA_HOSTS {
        for number in 0..ROUTES_PER_HOST {
            push_route(&mut text, &format!("h{host}-{number}"), Some((host, number)), &backends);
        }
    }
    text
}

fn push_route(text: &mut String, name: &str, extra: Option<(u32, u32)>, backends: &str) {
    let (hostnames, path) = match extra {
        Some((host, number)) => (format!("  hostnames: [host-{host}.example]\n"), format!("/path-{number}")),
        None => (String::new(), "/echo".to_owned()),
    };
    let written = write!(
        text,
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: default}}
spec:
  parentRefs: [{{name: bench}}]
{hostnames}  rules:
  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
    backendRefs: [{backends}]
"
    );
    debug_assert!(written.is_ok(), "a String takes any text");
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_objects_are_yaml_and_as_many_as_said() {
        for (name, text) in files(8080, [1, 2]) {
            let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
            let expected = match name {
                "gateway.yaml" => 2,
                "services.yaml" => 4,
                _ => 1 + EXTRA_HOSTS * ROUTES_PER_HOST,
            };
            let objects: Vec<_> = objects.iter().filter(|object| !object.is_null()).collect();
            assert_eq!(objects.len(), expected as usize, "{name}");
            assert!(objects.iter().all(|object| object["kind"].is_string()));
        }
    }
}

//! Services.

use serde_json::Value;

use super::{names, one_of, port_number, port_or_name};
use crate::error::Cause;
use crate::object::{array, text};

pub(super) fn validate(service: &Value, _: Option<&Value>, out: &mut Vec<Cause>) {
    let nothing = Value::Null;
    let spec = service.get("spec").unwrap_or(&nothing);
    let kind = text(spec, "/type");
    let ports = array(spec, "/ports");
    let headless = text(spec, "/clusterIP") == "None";
    if ports.is_empty() && !headless && kind != "ExternalName" {
        out.push(Cause::required("spec.ports", ""));
    }
    if kind == "ExternalName" {
        external_name(spec, out);
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        let value = Value::from("None");
        let detail = format!("may not be set to 'None' for {kind} services");
        out.push(Cause::invalid("spec.clusterIPs[0]", &value, &detail));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, own) in ports.iter().enumerate() {
        port(own, index, ports.len() > 1, &mut seen, out);
    }
    let affinities = ["ClientIP", "None"];
    one_of(spec, "/sessionAffinity", "spec.sessionAffinity".to_owned(), &affinities, out);
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    one_of(spec, "/type", "spec.type".to_owned(), &kinds, out);
    for (index, own) in ports.iter().enumerate() {
        let key = |port: &Value| (port.get("port").cloned(), port.get("protocol").cloned());
        if ports[..index].iter().any(|other| key(other) == key(own)) {
            out.push(Cause::duplicate(format!("spec.ports[{index}]"), own));
        }
    }
    policies(spec, kind, out);
}

fn external_name(spec: &Value, out: &mut Vec<Cause>) {
    let name = text(spec, "/externalName");
    if name.is_empty() {
        out.push(Cause::required("spec.externalName", ""));
    } else if let Some(detail) = names::not_a_subdomain(name.strip_suffix('.').unwrap_or(name)) {
        out.push(Cause::invalid("spec.externalName", &Value::from(name), &detail));
    }
}

fn port<'a>(port: &'a Value, index: usize, needs_name: bool, seen: &mut Vec<&'a str>, out: &mut Vec<Cause>) {
    let at = |part: &str| format!("spec.ports[{index}].{part}");
    let name = text(port, "/name");
    if name.is_empty() {
        if needs_name {
            out.push(Cause::required(at("name"), ""));
        }
    } else {
        if let Some(detail) = names::not_a_label(name) {
            out.push(Cause::invalid(at("name"), &Value::from(name), &detail));
        }
        if seen.contains(&name) {
            out.push(Cause::duplicate(at("name"), &Value::from(name)));
        }
        seen.push(name);
    }
    port_number(port.get("port").unwrap_or(&Value::from(0)), at("port"), out);
    one_of(port, "/protocol", at("protocol"), &["SCTP", "TCP", "UDP"], out);
    if let Some(target) = port.get("targetPort") {
        port_or_name(target, &at("targetPort"), out);
    }
}

fn policies(spec: &Value, kind: &str, out: &mut Vec<Cause>) {
    let external = spec.get("externalTrafficPolicy");
    let exposed = matches!(kind, "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && !array(spec, "/externalIPs").is_empty());
    if let (Some(value), false) = (external, exposed) {
        let detail = "may only be set for externally-accessible services";
        out.push(Cause::invalid("spec.externalTrafficPolicy", value, detail));
    }
    for key in ["externalTrafficPolicy", "internalTrafficPolicy"] {
        one_of(spec, &format!("/{key}"), format!("spec.{key}"), &["Cluster", "Local"], out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(spec: &Value) -> Vec<String> {
        let mut out = Vec::new();
        validate(&json!({"spec": spec}), None, &mut out);
        out.iter().map(Cause::line).collect()
    }

    #[test]
    fn several_ports_have_names_that_differ() {
        assert_eq!(lines(&json!({"type": "ClusterIP"})), ["spec.ports: Required value"]);
        assert_eq!(lines(&json!({"type": "ClusterIP", "clusterIP": "None"})), Vec::<String>::new());
        assert_eq!(
            lines(
                &json!({"type": "ClusterIP", "ports": [{"port": 1, "name": "a"}, {"port": 2}, {"port": 99_999, "name": "a", "targetPort": "A_B"}]})
            ),
            [
                "spec.ports[1].name: Required value",
                "spec.ports[2].name: Duplicate value: \"a\"",
                "spec.ports[2].port: Invalid value: 99999: must be between 1 and 65535, inclusive",
                "spec.ports[2].targetPort: Invalid value: \"A_B\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "spec.ports[2].targetPort: Invalid value: \"A_B\": must contain at least one letter (a-z)",
            ]
        );
        assert_eq!(lines(&json!({"type": "ExternalName"})), ["spec.externalName: Required value"]);
    }
}

//! The cells of what leads traffic somewhere. Source: kube-apiserver's printers.

use jiff::Timestamp;
use serde_json::Value;

use super::text::{self, age, labels, name, number, or_none, selector, shown, some_of};
use crate::object;

fn external_ip(object: &Value) -> String {
    let stated: Vec<&str> =
        object::array(object, "/spec/externalIPs").iter().filter_map(Value::as_str).collect();
    match object::text(object, "/spec/type") {
        "ClusterIP" | "NodePort" if stated.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => stated.join(","),
        "LoadBalancer" => {
            let given = text::load_balancer(object);
            let all: Vec<&str> = given.split(',').filter(|text| !text.is_empty()).chain(stated).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => object::text(object, "/spec/externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn service_ports(object: &Value) -> String {
    let ports: Vec<String> = object::array(object, "/spec/ports")
        .iter()
        .map(|port| {
            let (own, protocol) = (number(port, "/port"), object::text(port, "/protocol"));
            match number(port, "/nodePort") {
                0 => format!("{own}/{protocol}"),
                node => format!("{own}:{node}/{protocol}"),
            }
        })
        .collect();
    ports.join(",")
}

pub(super) fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        object::text(object, "/spec/type").into(),
        or_none(object::text(object, "/spec/clusterIPs/0")),
        external_ip(object).into(),
        or_none(&service_ports(object)),
        age(object, now),
        labels(object, "/spec/selector"),
    ]
}

/// An address and a port, with brackets where the address has colons.
fn host_port(address: &str, port: i64) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

pub(super) fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in object::array(object, "/subsets") {
        let addresses =
            || object::array(subset, "/addresses").iter().map(|address| object::text(address, "/ip"));
        let ports = object::array(subset, "/ports");
        if ports.is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            all.extend(addresses().map(|address| host_port(address, number(port, "/port"))));
        }
    }
    let none = object::array(object, "/subsets").is_empty();
    vec![name(object), if none { "<none>".into() } else { some_of(&all, 3).into() }, age(object, now)]
}

pub(super) fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = object::array(object, "/ports")
        .iter()
        .map(|port| match port.get("port").and_then(Value::as_i64) {
            Some(number) => number.to_string(),
            None => shown(port, "/name", "*"),
        })
        .collect();
    let addresses: Vec<String> = object::array(object, "/endpoints")
        .iter()
        .flat_map(|endpoint| object::array(endpoint, "/addresses"))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    let unset =
        |texts: &[String]| if texts.is_empty() { Value::from("<unset>") } else { some_of(texts, 3).into() };
    vec![
        name(object),
        object::text(object, "/addressType").into(),
        unset(&ports),
        unset(&addresses),
        age(object, now),
    ]
}

pub(super) fn network_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), selector(object, "/spec/podSelector"), age(object, now)]
}

pub(super) fn ingress(object: &Value, now: Timestamp) -> Vec<Value> {
    let hosts: Vec<String> = object::array(object, "/spec/rules")
        .iter()
        .map(|rule| object::text(rule, "/host").to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    let hosts = if hosts.is_empty() { "*".to_owned() } else { some_of(&hosts, 3) };
    let ports = if object::array(object, "/spec/tls").is_empty() { "80" } else { "80, 443" };
    vec![
        name(object),
        or_none(object::text(object, "/spec/ingressClassName")),
        hosts.into(),
        text::load_balancer(object).into(),
        ports.into(),
        age(object, now),
    ]
}

pub(super) fn ingress_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let default =
        object::label(object, "annotations", "ingressclass.kubernetes.io/is-default-class") == Some("true");
    let shown_name = format!("{}{}", object::name(object), if default { " (default)" } else { "" });
    let parameters = object.pointer("/spec/parameters").map_or_else(
        || "<none>".to_owned(),
        |parameters| {
            let kind = object::text(parameters, "/kind");
            let group = match object::text(parameters, "/apiGroup") {
                "" => String::new(),
                group => format!(".{group}"),
            };
            format!("{kind}{group}/{}", object::text(parameters, "/name"))
        },
    );
    vec![
        shown_name.into(),
        object::text(object, "/spec/controller").into(),
        parameters.into(),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn services_show_their_addresses_and_ports() {
        let object = json!({
            "metadata": {"name": "proxy"},
            "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.2"], "ports": [{"port": 80, "nodePort": 30001, "protocol": "TCP"}, {"port": 443, "protocol": "TCP"}]},
        });
        let cells = service(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[3], "<pending>");
        assert_eq!(cells[4], "80:30001/TCP,443/TCP");
        let mut object = object;
        object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "127.1.2.3"}]}});
        assert_eq!(service(&object, Timestamp::UNIX_EPOCH)[3], "127.1.2.3");
    }
}

//! What is wrong with objects of the built-in kinds beyond their schemas.
//!
//! Owns: the checks that a user of Deployments, Services, Ingresses and the like meets, in the words and the order
//! of Kubernetes. Source: `pkg/apis/*/validation` of Kubernetes 1.36. Deliberately absent: checks of volumes,
//! security contexts, scheduling and autoscaling, which nothing here acts on.

mod pod;
mod service;

use serde_json::{Value, json};

use super::names;
use crate::error::Cause;
use crate::object::{array, text};
use crate::registry::Resource;

/// What is wrong with an object; `old` is what it replaces.
pub(super) fn validate(resource: &Resource, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let out = &mut causes;
    match (resource.id.group.as_ref(), resource.plural.as_str()) {
        ("", "pods") => pod::validate(object, old, out),
        ("", "podtemplates") => pod::spec(&at(object, "/template/spec"), "template.spec", out),
        ("", "services") => service::validate(object, old, out),
        ("", "configmaps") => config_map(object, old, out),
        ("", "secrets") => secret(object, old, out),
        ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets") => workload(object, old, out),
        ("batch", "jobs") => job(object, old, out),
        ("batch", "cronjobs") => template(
            object,
            "/spec/jobTemplate/spec/template",
            "spec.jobTemplate.spec.template",
            &["OnFailure", "Never"],
            out,
        ),
        ("networking.k8s.io", "ingresses") => ingress(object, out),
        ("networking.k8s.io", "ingressclasses") => ingress_class(object, old, out),
        ("discovery.k8s.io", "endpointslices") => endpoint_slice(object, old, out),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => binding(object, old, out),
        _ => {}
    }
    causes
}

/// A part of an object; null when absent.
fn at(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).cloned().unwrap_or_default()
}

/// The value at a pointer may not change.
fn immutable(object: &Value, old: Option<&Value>, pointer: &str, out: &mut Vec<Cause>) {
    if let Some(old) = old
        && old.pointer(pointer) != object.pointer(pointer)
    {
        out.push(Cause::invalid(pointer[1..].replace('/', "."), &at(object, pointer), "field is immutable"));
    }
}

fn port_number(value: &Value, field: String, out: &mut Vec<Cause>) {
    if !value.as_i64().is_some_and(|number| (1..=65_535).contains(&number)) {
        out.push(Cause::invalid(field, value, "must be between 1 and 65535, inclusive"));
    }
}

/// A number, or the name of a container's port.
fn port_or_name(value: &Value, field: &str, out: &mut Vec<Cause>) {
    match value {
        Value::String(name) => {
            out.extend(not_a_port_name(name).into_iter().map(|detail| Cause::invalid(field, value, detail)));
        }
        number => port_number(number, field.to_owned(), out),
    }
}

/// Why a text is no name of a port (IANA service name). Source: RFC 6335 section 5.1.
fn not_a_port_name(name: &str) -> Vec<&'static str> {
    let mut out = Vec::new();
    if name.len() > 15 {
        out.push("must be no more than 15 characters");
    }
    if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        out.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    }
    if !name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)");
    }
    if name.contains("--") {
        out.push("must not contain consecutive hyphens");
    }
    if name.starts_with('-') || name.ends_with('-') {
        out.push("must not begin or end with a hyphen");
    }
    out
}

fn one_of(object: &Value, pointer: &str, field: String, supported: &[&str], out: &mut Vec<Cause>) {
    let value = at(object, pointer);
    if value.is_null() {
        return;
    }
    if !supported.iter().any(|known| value == *known) {
        out.push(Cause::unsupported(field, &value, supported));
    }
}

fn workload(object: &Value, old: Option<&Value>, out: &mut Vec<Cause>) {
    let replicas = at(object, "/spec/replicas");
    if replicas.as_i64().is_some_and(|count| count < 0) {
        out.push(Cause::invalid("spec.replicas", &replicas, "must be greater than or equal to 0"));
    }
    let selector = at(object, "/spec/selector");
    let is_empty = |key: &str| match selector.get(key) {
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        _ => true,
    };
    if selector.is_null() {
        out.push(Cause::required("spec.selector", ""));
    } else if is_empty("matchLabels") && is_empty("matchExpressions") {
        out.push(Cause::invalid("spec.selector", &selector, "empty selector is invalid for deployment"));
    }
    let labels = at(object, "/spec/template/metadata/labels");
    if selector.is_null() || !weir_schema::cel::selector_matches(&selector, &labels) {
        let shown = if labels.is_null() { json!({}) } else { labels };
        out.push(Cause::invalid(
            "spec.template.metadata.labels",
            &shown,
            "`selector` does not match template `labels`",
        ));
    }
    template(object, "/spec/template", "spec.template", &["Always"], out);
    immutable(object, old, "/spec/selector", out);
}

/// A pod template whose pods may be restarted in these ways only.
fn template(object: &Value, pointer: &str, field: &str, restarts: &[&str], out: &mut Vec<Cause>) {
    let spec = at(object, &format!("{pointer}/spec"));
    pod::spec(&spec, &format!("{field}.spec"), out);
    one_of(&spec, "/restartPolicy", format!("{field}.spec.restartPolicy"), restarts, out);
}

fn job(object: &Value, old: Option<&Value>, out: &mut Vec<Cause>) {
    let spec = at(object, "/spec/template/spec");
    pod::spec(&spec, "spec.template.spec", out);
    let field = "spec.template.spec.restartPolicy";
    if text(&spec, "/restartPolicy") == "Always" {
        out.push(Cause::required(field, "valid values: \"OnFailure\", \"Never\""));
    } else {
        one_of(&spec, "/restartPolicy", field.to_owned(), &["OnFailure", "Never"], out);
    }
    immutable(object, old, "/spec/selector", out);
    immutable(object, old, "/spec/completions", out);
}

const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  \
                          or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

/// Bytes of all data of a ConfigMap or Secret. Source: `MaxSecretSize` of Kubernetes, 1 MiB.
const DATA_BYTES: usize = 1024 * 1024;

fn config_keys(object: &Value, key: &str, out: &mut Vec<Cause>) {
    let Some(Value::Object(map)) = object.get(key) else { return };
    for name in map.keys() {
        let well_formed = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if name.is_empty() || name.len() > 253 || !well_formed || name == "." || name == ".." {
            out.push(Cause::invalid(format!("{key}[{name}]"), &Value::from(name.as_str()), CONFIG_KEY));
        }
    }
    let bytes: usize = map.values().map(|value| value.as_str().map_or(0, str::len)).sum();
    if bytes > DATA_BYTES {
        out.push(Cause::too_long(key, DATA_BYTES));
    }
}

/// An object marked `immutable` keeps its data and the mark.
fn sealed(object: &Value, old: Option<&Value>, keys: &[&str], out: &mut Vec<Cause>) {
    let Some(old) = old.filter(|old| old.get("immutable") == Some(&Value::Bool(true))) else { return };
    let detail = "field is immutable when `immutable` is set";
    if object.get("immutable") != Some(&Value::Bool(true)) {
        out.push(Cause::forbidden("immutable", detail));
    }
    for key in keys {
        if object.get(*key) != old.get(*key) {
            out.push(Cause::forbidden(*key, detail));
        }
    }
}

fn config_map(object: &Value, old: Option<&Value>, out: &mut Vec<Cause>) {
    config_keys(object, "data", out);
    config_keys(object, "binaryData", out);
    if let (Some(Value::Object(data)), Some(Value::Object(binary))) =
        (object.get("data"), object.get("binaryData"))
    {
        for key in data.keys().filter(|key| binary.contains_key(*key)) {
            let value = Value::from(key.as_str());
            out.push(Cause::invalid(
                format!("data[{key}]"),
                &value,
                "duplicate of key present in binaryData",
            ));
        }
    }
    sealed(object, old, &["data", "binaryData"], out);
}

fn secret(object: &Value, old: Option<&Value>, out: &mut Vec<Cause>) {
    config_keys(object, "data", out);
    let needed: &[&str] = match text(object, "/type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needed {
        if object.get("data").and_then(|data| data.get(*key)).is_none() {
            out.push(Cause::required(format!("data[{key}]"), ""));
        }
    }
    immutable(object, old, "/type", out);
    sealed(object, old, &["data"], out);
}

fn ingress(object: &Value, out: &mut Vec<Cause>) {
    let rules = array(object, "/spec/rules");
    if rules.is_empty() && object.pointer("/spec/defaultBackend").is_none() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        out.push(Cause::invalid("spec", &Value::Null, detail));
    }
    if let Some(backend) = object.pointer("/spec/defaultBackend") {
        ingress_backend(backend, "spec.defaultBackend", out);
    }
    for (index, rule) in rules.iter().enumerate() {
        let field = format!("spec.rules[{index}]");
        let host = text(rule, "/host");
        let bare = host.strip_prefix("*.").unwrap_or(host);
        if !host.is_empty()
            && let Some(detail) = names::not_a_subdomain(bare)
        {
            out.push(Cause::invalid(format!("{field}.host"), &Value::from(host), &detail));
        }
        for (number, path) in array(rule, "/http/paths").iter().enumerate() {
            ingress_path(path, &format!("{field}.http.paths[{number}]"), out);
        }
    }
}

fn ingress_path(path: &Value, field: &str, out: &mut Vec<Cause>) {
    let kind = text(path, "/pathType");
    let own = text(path, "/path");
    match kind {
        "" => out.push(Cause::required(format!("{field}.pathType"), "pathType must be specified")),
        "Exact" | "Prefix" => {
            let at = format!("{field}.path");
            if !own.starts_with('/') {
                out.push(Cause::invalid(at.clone(), &Value::from(own), "must be an absolute path"));
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if own.contains(part) {
                    out.push(Cause::invalid(
                        at.clone(),
                        &Value::from(own),
                        &format!("must not contain '{part}'"),
                    ));
                }
            }
        }
        "ImplementationSpecific" => {
            if !own.is_empty() && !own.starts_with('/') {
                out.push(Cause::invalid(
                    format!("{field}.path"),
                    &Value::from(own),
                    "must be an absolute path",
                ));
            }
        }
        _ => one_of(
            path,
            "/pathType",
            format!("{field}.pathType"),
            &["Exact", "ImplementationSpecific", "Prefix"],
            out,
        ),
    }
    ingress_backend(path.get("backend").unwrap_or(&Value::Null), &format!("{field}.backend"), out);
}

fn ingress_backend(backend: &Value, field: &str, out: &mut Vec<Cause>) {
    match (backend.get("service"), backend.get("resource")) {
        (None, None) => {
            out.push(Cause::invalid(field, &Value::from(""), "resource or service backend is required"));
        }
        (Some(_), Some(_)) => {
            out.push(Cause::invalid(
                field,
                &Value::from(""),
                "cannot set both resource and service backends",
            ));
        }
        (Some(service), None) => {
            if text(service, "/name").is_empty() {
                out.push(Cause::required(format!("{field}.service.name"), ""));
            }
            match (text(service, "/port/name"), service.pointer("/port/number")) {
                ("", None) => out.push(Cause::required(field, "port name or number is required")),
                ("", Some(number)) => port_number(number, format!("{field}.service.port.number"), out),
                (_, Some(_)) => {
                    out.push(Cause::invalid(
                        field,
                        &Value::from(""),
                        "cannot set both port name & port number",
                    ));
                }
                (_, None) => {}
            }
        }
        (None, Some(_)) => {}
    }
}

fn ingress_class(object: &Value, old: Option<&Value>, out: &mut Vec<Cause>) {
    if text(object, "/spec/controller").is_empty() {
        out.push(Cause::required("spec.controller", ""));
    }
    immutable(object, old, "/spec/controller", out);
}

fn endpoint_slice(object: &Value, old: Option<&Value>, out: &mut Vec<Cause>) {
    let kind = text(object, "/addressType");
    if kind.is_empty() {
        out.push(Cause::required("addressType", ""));
    } else {
        one_of(object, "/addressType", "addressType".to_owned(), &["FQDN", "IPv4", "IPv6"], out);
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, port) in array(object, "/ports").iter().enumerate() {
        let name = text(port, "/name");
        if seen.contains(&name) {
            out.push(Cause::duplicate(format!("ports[{index}].name"), &Value::from(name)));
        }
        seen.push(name);
        one_of(port, "/protocol", format!("ports[{index}].protocol"), &["SCTP", "TCP", "UDP"], out);
    }
    for (index, endpoint) in array(object, "/endpoints").iter().enumerate() {
        let addresses = array(endpoint, "/addresses");
        if addresses.is_empty() {
            let field = format!("endpoints[{index}].addresses");
            out.push(Cause::required(field, "must contain at least 1 address"));
        }
        for (number, address) in addresses.iter().enumerate() {
            address_of_kind(kind, address, format!("endpoints[{index}].addresses[{number}]"), out);
        }
    }
    immutable(object, old, "/addressType", out);
}

fn address_of_kind(kind: &str, address: &Value, field: String, out: &mut Vec<Cause>) {
    let parsed = address.as_str().unwrap_or_default().parse::<std::net::IpAddr>();
    match (kind, parsed) {
        ("IPv4" | "IPv6", Err(_)) => {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            out.push(Cause::invalid(field, address, detail));
        }
        ("IPv4", Ok(ip)) if !ip.is_ipv4() => {
            out.push(Cause::invalid(field, address, "must be an IPv4 address"));
        }
        ("IPv6", Ok(ip)) if !ip.is_ipv6() => {
            out.push(Cause::invalid(field, address, "must be an IPv6 address"));
        }
        ("FQDN", _) => {
            if let Some(detail) = names::not_a_subdomain(address.as_str().unwrap_or_default()) {
                out.push(Cause::invalid(field, address, &detail));
            }
        }
        _ => {}
    }
}

fn binding(object: &Value, old: Option<&Value>, out: &mut Vec<Cause>) {
    for (index, subject) in array(object, "/subjects").iter().enumerate() {
        let field = format!("subjects[{index}].kind");
        one_of(subject, "/kind", field, &["ServiceAccount", "User", "Group"], out);
    }
    if let Some(old) = old
        && old.get("roleRef") != object.get("roleRef")
    {
        out.push(Cause::invalid("roleRef", &at(object, "/roleRef"), "cannot change roleRef"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    fn fields(group: &str, plural: &str, object: &Value, old: Option<&Value>) -> Vec<String> {
        let registry = Registry::builtin();
        let resource = registry.get(group, plural).expect("a built-in resource");
        validate(resource, object, old).into_iter().map(|cause| cause.line()).collect()
    }

    #[test]
    fn a_deployment_selects_its_own_pods_for_ever() {
        let spec = |selected: &str| {
            json!({"spec": {
                "selector": {"matchLabels": {"app": selected}},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "x", "terminationMessagePolicy": "File"}]}},
            }})
        };
        assert_eq!(fields("apps", "deployments", &spec("a"), None), Vec::<String>::new());
        let wrong = fields("apps", "deployments", &spec("b"), Some(&spec("a")));
        assert_eq!(
            wrong[0],
            "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`"
        );
        assert_eq!(
            wrong[1],
            "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"b\"}}: field is immutable"
        );
    }

    #[test]
    fn data_that_is_sealed_stays() {
        let old = json!({"data": {"a": "1"}, "immutable": true});
        let new = json!({"data": {"a": "2"}, "immutable": true});
        assert_eq!(
            fields("", "configmaps", &new, Some(&old)),
            ["data: Forbidden: field is immutable when `immutable` is set"]
        );
    }

    #[test]
    fn an_ingress_leads_somewhere() {
        let path = json!({"path": "x", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 0}}}});
        let object = json!({"spec": {"rules": [{"host": "*.a.b", "http": {"paths": [path]}}]}});
        assert_eq!(
            fields("networking.k8s.io", "ingresses", &object, None),
            [
                "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
                "spec.rules[0].http.paths[0].backend.service.port.number: Invalid value: 0: must be between 1 and 65535, inclusive",
            ]
        );
    }

    #[test]
    fn slices_hold_addresses_of_their_kind() {
        let object = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["::1"]}, {"addresses": []}]});
        assert_eq!(fields("discovery.k8s.io", "endpointslices", &object, None).len(), 2);
    }
}

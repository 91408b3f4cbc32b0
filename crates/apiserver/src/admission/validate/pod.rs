//! Pods and templates of pods.

use serde_json::Value;

use super::{names, one_of, port_number};
use crate::error::Cause;
use crate::object::{array, text};

/// Fields of a pod's spec that may change.
const MUTABLE: &[&str] = &["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"];

pub(super) fn validate(pod: &Value, old: Option<&Value>, out: &mut Vec<Cause>) {
    let nothing = Value::Null;
    let own = pod.get("spec").unwrap_or(&nothing);
    spec(own, "spec", out);
    if let Some(old) = old
        && frozen(own) != frozen(old.get("spec").unwrap_or(&nothing))
    {
        out.push(Cause::forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
             `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
             `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        ));
    }
}

/// What of a pod's spec must stay as it is.
fn frozen(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let Value::Object(map) = &mut spec else { return spec };
    for field in MUTABLE {
        map.shift_remove(*field);
    }
    for list in ["containers", "initContainers"] {
        for container in map.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(container) = container {
                container.shift_remove("image");
            }
        }
    }
    spec
}

/// A pod's spec at `field`.
pub(super) fn spec(spec: &Value, field: &str, out: &mut Vec<Cause>) {
    let volumes: Vec<&str> = array(spec, "/volumes").iter().map(|volume| text(volume, "/name")).collect();
    for (index, volume) in array(spec, "/volumes").iter().enumerate() {
        let name = text(volume, "/name");
        let at = format!("{field}.volumes[{index}].name");
        if name.is_empty() {
            out.push(Cause::required(at, ""));
        } else if let Some(detail) = names::not_a_label(name) {
            out.push(Cause::invalid(at, &Value::from(name), &detail));
        } else if volumes[..index].contains(&name) {
            out.push(Cause::duplicate(at, &Value::from(name)));
        }
    }
    let containers = array(spec, "/containers");
    if containers.is_empty() {
        out.push(Cause::required(format!("{field}.containers"), ""));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (list, items) in [("initContainers", array(spec, "/initContainers")), ("containers", containers)] {
        for (index, item) in items.iter().enumerate() {
            container(item, &format!("{field}.{list}[{index}]"), &volumes, &mut seen, out);
        }
    }
    if field == "spec" {
        let supported = ["Always", "OnFailure", "Never"];
        one_of(spec, "/restartPolicy", format!("{field}.restartPolicy"), &supported, out);
    }
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    one_of(spec, "/dnsPolicy", format!("{field}.dnsPolicy"), &policies, out);
}

fn container<'a>(
    container: &'a Value,
    field: &str,
    volumes: &[&str],
    seen: &mut Vec<&'a str>,
    out: &mut Vec<Cause>,
) {
    let name = text(container, "/name");
    if text(container, "/image").trim().is_empty() {
        out.push(Cause::required(format!("{field}.image"), ""));
    }
    let at = format!("{field}.name");
    if name.is_empty() {
        out.push(Cause::required(at, ""));
    } else if let Some(detail) = names::not_a_label(name) {
        out.push(Cause::invalid(at, &Value::from(name), &detail));
    } else if seen.contains(&name) {
        out.push(Cause::duplicate(at, &Value::from(name)));
    }
    seen.push(name);
    ports(container, field, out);
    for (index, variable) in array(container, "/env").iter().enumerate() {
        if text(variable, "/name").is_empty() {
            out.push(Cause::required(format!("{field}.env[{index}].name"), ""));
        }
    }
    for (index, mount) in array(container, "/volumeMounts").iter().enumerate() {
        let name = text(mount, "/name");
        let at = |part: &str| format!("{field}.volumeMounts[{index}].{part}");
        if name.is_empty() {
            out.push(Cause::required(at("name"), ""));
        } else if !volumes.contains(&name) {
            out.push(Cause::not_found(at("name"), &Value::from(name)));
        }
        if text(mount, "/mountPath").is_empty() {
            out.push(Cause::required(at("mountPath"), ""));
        }
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    one_of(container, "/imagePullPolicy", format!("{field}.imagePullPolicy"), &policies, out);
}

fn ports(container: &Value, field: &str, out: &mut Vec<Cause>) {
    let mut names_seen: Vec<&str> = Vec::new();
    for (index, port) in array(container, "/ports").iter().enumerate() {
        let at = |part: &str| format!("{field}.ports[{index}].{part}");
        let name = text(port, "/name");
        if !name.is_empty() {
            let details = super::not_a_port_name(name);
            out.extend(details.iter().map(|detail| Cause::invalid(at("name"), &Value::from(name), detail)));
            if names_seen.contains(&name) {
                out.push(Cause::duplicate(at("name"), &Value::from(name)));
            }
            names_seen.push(name);
        }
        match port.get("containerPort") {
            None => out.push(Cause::required(at("containerPort"), "")),
            Some(number) => port_number(number, at("containerPort"), out),
        }
        one_of(port, "/protocol", at("protocol"), &["SCTP", "TCP", "UDP"], out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(object: &Value) -> Vec<String> {
        let mut out = Vec::new();
        spec(object, "spec", &mut out);
        out.iter().map(Cause::line).collect()
    }

    #[test]
    fn a_pod_runs_something_under_names_of_its_own() {
        assert_eq!(lines(&json!({})), ["spec.containers: Required value"]);
        assert_eq!(
            lines(&json!({"containers": [{"name": "a", "image": "x"}, {"name": "a"}]})),
            ["spec.containers[1].image: Required value", "spec.containers[1].name: Duplicate value: \"a\""]
        );
        let wrong = json!({"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 80_000}], "volumeMounts": [{"name": "v", "mountPath": "/"}]}]});
        assert_eq!(
            lines(&wrong),
            [
                "spec.containers[0].ports[0].containerPort: Invalid value: 80000: must be between 1 and 65535, inclusive",
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            ]
        );
    }

    #[test]
    fn of_a_pod_only_the_images_change() {
        let pod = |image: &str, port: u16| json!({"spec": {"containers": [{"name": "a", "image": image, "ports": [{"containerPort": port}]}]}});
        let mut out = Vec::new();
        validate(&pod("y", 1), Some(&pod("x", 1)), &mut out);
        assert_eq!(out, []);
        validate(&pod("x", 2), Some(&pod("x", 1)), &mut out);
        assert_eq!(out[0].field, "spec");
    }
}

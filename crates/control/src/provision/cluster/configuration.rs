//! What the operator's GatewayConfiguration says about a data plane. Pure.
//!
//! Invariants: a pod template is merged strategically, as the API server would; an image of Kong's is replaced, with what
//! goes with it, and that is told; what cannot be read is left out and told. Deliberately absent: fields about Kong's
//! own control plane.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use weir_api::kong::GatewayConfiguration;
use weir_schema::builtin::schema_for;
use weir_schema::patch::strategic;

use crate::events::Severity;
use crate::provision::GatewayView;
use crate::provision::objects::is_udp;

/// The container of the data plane, as Kong's operator calls it.
pub(super) const CONTAINER: &str = "proxy";

/// The fields that are obeyed: all others are said to be without effect.
pub const CONFIGURATION_FIELDS: &[&str] = &[
    "spec.dataPlaneOptions.deployment.annotations",
    "spec.dataPlaneOptions.deployment.labels",
    "spec.dataPlaneOptions.deployment.podTemplateSpec",
    "spec.dataPlaneOptions.deployment.replicas",
    "spec.dataPlaneOptions.deployment.scaling.horizontal",
    "spec.dataPlaneOptions.network.services.ingress.annotations",
    "spec.dataPlaneOptions.network.services.ingress.externalTrafficPolicy",
    "spec.dataPlaneOptions.network.services.ingress.internalTrafficPolicy",
    "spec.dataPlaneOptions.network.services.ingress.labels",
    "spec.dataPlaneOptions.network.services.ingress.name",
    "spec.dataPlaneOptions.network.services.ingress.trafficDistribution",
    "spec.dataPlaneOptions.network.services.ingress.type",
    "spec.dataPlaneOptions.resources.podDisruptionBudget",
    "spec.listenersOptions",
];

/// What is to be told about a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Notice {
    pub(crate) severity: Severity,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// How a data plane is to look.
#[derive(Clone, Debug, Default)]
pub(super) struct Shape {
    pub(super) pod_template: Option<Value>,
    pub(super) replicas: Option<u64>,
    /// The spec of an autoscaler, without its target.
    pub(super) scaling: Option<Map<String, Value>>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) service: ServiceShape,
    /// The spec of a disruption budget, without its selector.
    pub(super) disruption_budget: Option<Map<String, Value>>,
    /// By the port of the Service and whether it is one for UDP.
    pub(super) node_ports: BTreeMap<(u16, bool), u64>,
    pub(super) notices: Vec<Notice>,
}

#[derive(Clone, Debug)]
pub(super) struct ServiceShape {
    pub(super) name: Option<String>,
    pub(super) type_: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    /// Fields of the spec as they are.
    pub(super) fields: Map<String, Value>,
}

impl Default for ServiceShape {
    fn default() -> ServiceShape {
        ServiceShape {
            name: None,
            type_: "LoadBalancer".to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            fields: Map::new(),
        }
    }
}

impl ServiceShape {
    pub(super) fn is_load_balancer(&self) -> bool {
        self.type_ == "LoadBalancer"
    }

    fn of(ingress: &Value) -> ServiceShape {
        let mut shape = ServiceShape {
            name: text(&ingress["name"]),
            labels: strings(&ingress["labels"]),
            annotations: strings(&ingress["annotations"]),
            ..ServiceShape::default()
        };
        if let Some(type_) = text(&ingress["type"]) {
            shape.type_ = type_;
        }
        for field in ["externalTrafficPolicy", "internalTrafficPolicy", "trafficDistribution"] {
            // The API takes the first of a Service that the outside can reach, and of no other.
            if let Some(value) = text(&ingress[field])
                && (field != "externalTrafficPolicy" || shape.type_ != "ClusterIP")
            {
                shape.fields.insert(field.to_owned(), Value::from(value));
            }
        }
        shape
    }
}

/// The name that a configuration gives to the Service.
pub(super) fn service_name(configuration: Option<&GatewayConfiguration>) -> Option<String> {
    text(&configuration?.spec["dataPlaneOptions"]["network"]["services"]["ingress"]["name"])
}

impl Shape {
    pub(super) fn of(view: &GatewayView) -> Shape {
        let Some(configuration) = &view.configuration else { return Shape::default() };
        let options = &configuration.spec["dataPlaneOptions"];
        let deployment = &options["deployment"];
        let mut notices = Vec::new();
        let scaling = deployment["scaling"]["horizontal"].as_object().map(|spec| {
            let mut spec = spec.clone();
            if spec.get("metrics").is_none_or(|metrics| metrics.as_array().is_none_or(Vec::is_empty)) {
                spec.insert("metrics".to_owned(), default_metrics());
            }
            spec
        });
        if !deployment["rollout"].is_null() {
            notices.push(Notice {
                severity: Severity::Normal,
                reason: "FieldIgnored",
                message: "spec.dataPlaneOptions.deployment.rollout has no effect: a rolling update drains each pod and fails no request"
                    .to_owned(),
            });
        }
        let service = ServiceShape::of(&options["network"]["services"]["ingress"]);
        let node_ports = node_ports(view, configuration, &service, &mut notices);
        Shape {
            pod_template: Some(deployment["podTemplateSpec"].clone()).filter(Value::is_object),
            replicas: deployment["replicas"].as_u64(),
            scaling,
            labels: strings(&deployment["labels"]),
            annotations: strings(&deployment["annotations"]),
            service,
            disruption_budget: options["resources"]["podDisruptionBudget"]["spec"].as_object().cloned(),
            node_ports,
            notices,
        }
    }
}

/// The node ports that a configuration gives to the listeners of a Gateway. Those of one port and transport share the Service's port: any
/// of them may be named, and the first that is stands.
fn node_ports(
    view: &GatewayView,
    configuration: &GatewayConfiguration,
    service: &ServiceShape,
    notices: &mut Vec<Notice>,
) -> BTreeMap<(u16, bool), u64> {
    let metadata = &configuration.metadata;
    let mut given: BTreeMap<(u16, bool), u64> = BTreeMap::new();
    let options = configuration.spec["listenersOptions"].as_array().into_iter().flatten();
    for (index, option) in options.enumerate() {
        let Some(name) = text(&option["name"]) else { continue };
        let mut ignore = |field: &str, why: String| {
            let message = format!(
                "GatewayConfiguration {}/{}: spec.listenersOptions[{index}].{field} has no effect: {why}",
                metadata.namespace, metadata.name
            );
            notices.push(Notice { severity: Severity::Normal, reason: "FieldIgnored", message });
        };
        let Some((_, port, protocol)) = view.listeners.iter().find(|(own, _, _)| *own == name) else {
            ignore("name", format!("{} has no listener {name:?} of its own", view.key));
            continue;
        };
        let Some(node_port) = option["nodePort"].as_u64() else { continue };
        if service.type_ == "ClusterIP" {
            ignore("nodePort", "a Service of type ClusterIP has no node ports".to_owned());
            continue;
        }
        let (port, udp) = (*port, is_udp(protocol));
        let transport = if udp { "UDP" } else { "TCP" };
        let mut others = given.iter().filter(|((_, of), _)| *of == udp);
        let taken_by = others.find(|(_, taken)| **taken == node_port).map(|((of, _), _)| *of);
        match (given.get(&(port, udp)).copied(), taken_by) {
            (Some(before), _) if before == node_port => {}
            (Some(before), _) => {
                ignore("nodePort", format!("{transport} port {port} has node port {before} already"));
            }
            (None, Some(other)) => {
                ignore(
                    "nodePort",
                    format!("{node_port} is the node port of {transport} port {other} already"),
                );
            }
            (None, None) => _ = given.insert((port, udp), node_port),
        }
    }
    given
}

/// The API's own default, said so that it is seen.
fn default_metrics() -> Value {
    json!([{
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
    }])
}

/// The Deployment with the template of a configuration merged in, and what is to be told about that. `labels`: those that stay ours.
pub(super) fn with_pod_template(
    base: Value,
    template: Option<&Value>,
    account: &str,
    labels: &BTreeMap<String, String>,
) -> (Value, Vec<Notice>) {
    let Some(template) = template else { return (base, Vec::new()) };
    let patch = json!({"spec": {"template": template}});
    let merged = schema_for("apps", "v1", "Deployment")
        .ok_or_else(|| "the schema of Deployments is missing".to_owned())
        .and_then(|schema| strategic::apply(&schema, &base, &patch).map_err(|error| error.to_string()))
        .and_then(|merged| match misshapen(&merged["spec"]["template"]) {
            Some(field) => Err(format!("{field} is not an object")),
            None => Ok(merged),
        });
    let mut merged = match merged {
        Ok(merged) => merged,
        Err(error) => {
            let message = format!(
                "spec.dataPlaneOptions.deployment.podTemplateSpec cannot be merged and is left out: {error}"
            );
            return (
                base,
                vec![Notice { severity: Severity::Warning, reason: "InvalidPodTemplate", message }],
            );
        }
    };
    let ours = base["spec"]["template"]["spec"]["containers"][0].clone();
    let pod = &mut merged["spec"]["template"];
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        metadata.shift_remove("creationTimestamp");
    }
    for (name, value) in labels {
        pod["metadata"]["labels"][name.as_str()] = Value::from(value.as_str());
    }
    pod["spec"]["serviceAccountName"] = Value::from(account);
    let mut notices = Vec::new();
    for list in ["containers", "initContainers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            if container["name"] == CONTAINER {
                notices.extend(keep_ours(container, &ours));
            }
        }
    }
    (merged, notices)
}

/// A field of a pod template that has to be an object to have something of ours in it, and is none: definitions of kinds take anything
/// there.
fn misshapen(template: &Value) -> Option<&'static str> {
    let fields = [
        ("the template", template),
        ("metadata", &template["metadata"]),
        ("metadata.labels", &template["metadata"]["labels"]),
        ("spec", &template["spec"]),
    ];
    let is_wrong = |value: &Value| !value.is_object() && !value.is_null();
    fields.into_iter().find(|(_, value)| is_wrong(value)).map(|(name, _)| name)
}

/// Puts our image in the place of one of Kong's, with the command and probes that go with it.
fn keep_ours(container: &mut Value, ours: &Value) -> Option<Notice> {
    let image = text(&container["image"])?;
    if !is_kongs(&image) {
        return None;
    }
    let fields = container.as_object_mut()?;
    fields.shift_remove("command");
    for field in ["image", "args"] {
        fields.insert(field.to_owned(), ours[field].clone());
    }
    fields.shift_remove("startupProbe");
    for probe in ["readinessProbe", "livenessProbe"] {
        // Its times may stay; where it asks is ours.
        let Some(Value::Object(probe_fields)) = fields.get_mut(probe) else { continue };
        for way in ["exec", "tcpSocket", "grpc"] {
            probe_fields.shift_remove(way);
        }
        probe_fields.insert("httpGet".to_owned(), ours[probe]["httpGet"].clone());
    }
    let ours = ours["image"].as_str().unwrap_or_default();
    let message = format!(
        "the data plane runs {ours} instead of {image}: Weir is its own data plane, and KONG_* variables mean nothing to it"
    );
    Some(Notice { severity: Severity::Normal, reason: "ImageReplaced", message })
}

/// Whether an image's repository is one of Kong's: `kong:3.9`, `kong/kong-gateway:3.11`, `docker.io/kong/kong@sha256:…`.
fn is_kongs(image: &str) -> bool {
    let repository = image.split('@').next().unwrap_or_default();
    let mut parts = repository.split('/');
    parts.any(|part| {
        let name = part.split(':').next().unwrap_or_default();
        name == "kong" || name.starts_with("kong-gateway") || name.starts_with("kong-ee")
    })
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn strings(value: &Value) -> BTreeMap<String, String> {
    let fields = value.as_object().into_iter().flatten();
    fields.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::is_kongs;

    #[test]
    fn images_of_kongs_are_known_by_their_repository() {
        for image in [
            "kong",
            "kong:3.9",
            "kong/kong-gateway:3.11",
            "docker.io/kong/kong@sha256:00",
            "r.example:5000/kong-ee:1",
        ] {
            assert!(is_kongs(image), "{image}");
        }
        for image in ["weir:dev", "example.com/hongkong/proxy:kong", "kongress/x:1"] {
            assert!(!is_kongs(image), "{image}");
        }
    }
}

//! The objects of one Gateway's data plane. Pure.
//!
//! Invariants: nothing of the pod template depends on listeners, so adding one restarts nothing; what is not said here
//! is the server's or the user's (replicas under an autoscaler, node ports); our selector, ServiceAccount and labels
//! stand whatever a configuration says. Deliberately absent: versions, and what is there already.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value, json};
use weir_core::ReservedPort;
use weir_model::resource::DataPlaneName;

use super::Cluster;
use super::configuration::{self, Notice, Shape};
use crate::call::Collection;
use crate::events::Severity;
use crate::provision::GatewayView;
use crate::provision::objects::{GATEWAY_NAME_LABEL, PROVISIONED_LABEL, gateway_label, is_udp};
use crate::source::watch::Watched;

/// Names the installation that keeps an object; what has another one here is not ours.
pub(crate) const INSTANCE_LABEL: &str = "weir.dev/instance";
/// What the selectors of a data plane's pods go by, beside the Gateway's name.
const COMPONENT_LABEL: &str = "weir.dev/component";
const COMPONENT: &str = "data-plane";

/// The port of `/readyz`, `/livez` and `/metrics`: one that listeners hardly want. The chart has it for the shared data plane too.
const ADMIN_PORT: u16 = 19_901;

/// What a pod of a data plane listens on beside its listeners: a Service with such a port would show it to everybody.
pub(crate) const RESERVED_PORTS: &[ReservedPort] = &[ReservedPort {
    port: ADMIN_PORT,
    why: "it is the admin port of the data plane's pods, with their probes and metrics",
}];

/// The user and group of the image.
const USER: u32 = 65_532;

/// How much longer than its drain a pod may take to end, seconds.
const GRACE_SECONDS: u64 = 10;

/// How long a Deployment may make no progress before it says so, seconds; the API's own is 600.
const PROGRESS_SECONDS: u32 = 120;

/// Expiry of the projected token, seconds: it is exchanged once; the API's least is 600.
const TOKEN_SECONDS: u32 = 3_600;

/// The kinds that are made, in the order in which pods need them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Piece {
    ServiceAccount,
    ConfigMap,
    Service,
    Deployment,
    PodDisruptionBudget,
    HorizontalPodAutoscaler,
    NetworkPolicy,
}

impl Piece {
    pub(crate) const ALL: [Piece; 7] = [
        Piece::ServiceAccount,
        Piece::ConfigMap,
        Piece::Service,
        Piece::Deployment,
        Piece::PodDisruptionBudget,
        Piece::HorizontalPodAutoscaler,
        Piece::NetworkPolicy,
    ];

    pub(crate) fn kind(self) -> &'static str {
        match self {
            Piece::ServiceAccount => "ServiceAccount",
            Piece::ConfigMap => "ConfigMap",
            Piece::Service => "Service",
            Piece::Deployment => "Deployment",
            Piece::PodDisruptionBudget => "PodDisruptionBudget",
            Piece::HorizontalPodAutoscaler => "HorizontalPodAutoscaler",
            Piece::NetworkPolicy => "NetworkPolicy",
        }
    }

    pub(crate) fn collection(self) -> Collection {
        let (group, version, plural) = match self {
            Piece::ServiceAccount => ("", "v1", "serviceaccounts"),
            Piece::ConfigMap => ("", "v1", "configmaps"),
            Piece::Service => ("", "v1", "services"),
            Piece::Deployment => ("apps", "v1", "deployments"),
            Piece::PodDisruptionBudget => ("policy", "v1", "poddisruptionbudgets"),
            Piece::HorizontalPodAutoscaler => ("autoscaling", "v2", "horizontalpodautoscalers"),
            Piece::NetworkPolicy => ("networking.k8s.io", "v1", "networkpolicies"),
        };
        Collection { group, version, plural, namespaced: true }
    }
}

impl Watched for Piece {
    fn name(self) -> &'static str {
        self.kind()
    }
}

/// Names one object that is made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id {
    pub(crate) piece: Piece,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Id {
    pub(crate) fn new(piece: Piece, namespace: &str, name: &str) -> Id {
        Id { piece, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn path(&self) -> String {
        self.piece.collection().path(&self.namespace, &self.name)
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.piece.kind(), self.namespace, self.name)
    }
}

/// The data plane of a Gateway.
pub(crate) fn plane(view: &GatewayView) -> DataPlaneName {
    DataPlaneName::of_gateway(&view.key.namespace, &view.key.name)
}

/// The Service that shows a Gateway's addresses.
pub(crate) fn service_id(view: &GatewayView) -> Id {
    let named = configuration::service_name(view.configuration.as_deref());
    let name = named.unwrap_or_else(|| plane(view).name);
    Id::new(Piece::Service, &view.key.namespace, &name)
}

/// Everything that a managed Gateway's data plane is made of. `api_version`: of Gateways.
pub(crate) fn of_gateway(
    view: &GatewayView,
    cluster: &Cluster,
    api_version: &str,
) -> (Vec<(Id, Value)>, Vec<Notice>) {
    let maker = Maker { view, cluster, api_version, plane: plane(view), shape: Shape::of(view) };
    let (deployment, mut notices) = maker.deployment();
    let pods = Id::new(Piece::Deployment, &view.key.namespace, &maker.plane.name);
    notices.extend(grace(&deployment).and_then(|grace| cut_short(view, &pods, grace)));
    let mut made = vec![
        (Piece::ServiceAccount, maker.account()),
        (Piece::Service, maker.service()),
        (Piece::Deployment, deployment),
        (Piece::PodDisruptionBudget, maker.disruption_budget()),
        (Piece::NetworkPolicy, maker.network_policy()),
    ];
    made.extend(maker.autoscaler().map(|scaler| (Piece::HorizontalPodAutoscaler, scaler)));
    notices.extend(maker.shape.notices.iter().cloned());
    let identify = |(piece, object): (Piece, Value)| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        (Id::new(piece, &view.key.namespace, name), object)
    };
    (made.into_iter().map(identify).collect(), notices)
}

/// The ConfigMap in which the data planes of a namespace find whom to trust. It goes when all of `owners` have gone.
pub(crate) fn trust(namespace: &str, cluster: &Cluster, authority: &str, owners: &[Value]) -> (Id, Value) {
    let name = cluster.trust_name();
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "labels": {
                "app.kubernetes.io/managed-by": "weir",
                INSTANCE_LABEL: cluster.instance(),
                PROVISIONED_LABEL: "gateway",
            },
            "ownerReferences": owners,
        },
        "data": {"ca.crt": authority},
    });
    (Id::new(Piece::ConfigMap, namespace, &name), object)
}

/// After how many seconds pods of a Deployment are ended that have not ended.
pub(super) fn grace(deployment: &Value) -> Option<u64> {
    deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_u64()
}

/// What is to be told of a Gateway whose data plane is ended before it may end.
pub(super) fn cut_short(view: &GatewayView, deployment: &Id, grace_seconds: u64) -> Option<Notice> {
    let drain = view.drain.as_secs_f64();
    let message = format!(
        "drain.delay and drain.timeout come to {drain} s, and pods of {deployment} are ended after {grace_seconds} s \
         (terminationGracePeriodSeconds): what is under way then is cut off"
    );
    let is_late = view.drain > Duration::from_secs(grace_seconds);
    is_late.then_some(Notice { severity: Severity::Warning, reason: "GracePeriodTooShort", message })
}

/// Who an object goes with.
pub(crate) fn owner(view: &GatewayView, api_version: &str, controls: bool) -> Value {
    let mut owner = json!({
        "apiVersion": api_version, "kind": "Gateway", "name": view.key.name, "uid": view.uid,
    });
    if controls {
        owner["controller"] = Value::Bool(true);
    }
    owner
}

/// The ports of the shared data plane's Service, which is not ours but for these.
pub(crate) fn shared_service(id: &Id, gateways: &[&GatewayView]) -> Value {
    let listened = gateways.iter().flat_map(|view| &view.ports);
    let wanted: BTreeSet<(u16, bool)> = listened
        .map(|(port, protocol)| (*port, is_udp(protocol)))
        // Those that the Service is installed with.
        .chain([(80, false), (443, false)])
        .collect();
    let ports: Vec<Value> = wanted
        .into_iter()
        .map(|(port, udp)| {
            let name = match (port, udp) {
                (80, false) => "kong-proxy".to_owned(),
                (443, false) => "kong-proxy-tls".to_owned(),
                _ => port_name(port, udp),
            };
            port_object(&name, port, udp)
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": id.namespace, "name": id.name},
        "spec": {"ports": ports},
    })
}

fn port_name(port: u16, udp: bool) -> String {
    if udp { format!("port-{port}-udp") } else { format!("port-{port}") }
}

fn port_object(name: &str, port: u16, udp: bool) -> Value {
    let protocol = if udp { "UDP" } else { "TCP" };
    json!({"name": name, "protocol": protocol, "port": port, "targetPort": port})
}

struct Maker<'a> {
    view: &'a GatewayView,
    cluster: &'a Cluster,
    api_version: &'a str,
    plane: DataPlaneName,
    shape: Shape,
}

impl Maker<'_> {
    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.view.labels.clone();
        labels.extend(self.own_labels());
        labels
    }

    /// Those that nobody else's stand before.
    fn own_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.selector();
        let mut set = |name: &str, value: &str| labels.insert(name.to_owned(), value.to_owned());
        set("app.kubernetes.io/name", "weir");
        set("app.kubernetes.io/component", COMPONENT);
        set("app.kubernetes.io/managed-by", "weir");
        set(INSTANCE_LABEL, &self.cluster.instance());
        set(PROVISIONED_LABEL, "gateway");
        labels
    }

    fn selector(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (GATEWAY_NAME_LABEL.to_owned(), gateway_label(&self.view.key.name)),
            (COMPONENT_LABEL.to_owned(), COMPONENT.to_owned()),
        ])
    }

    /// Ours stand before those of a configuration.
    fn metadata(&self, labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> Value {
        let mut all = labels.clone();
        all.extend(self.labels());
        let mut notes = annotations.clone();
        notes.extend(self.view.annotations.clone());
        json!({
            "namespace": self.view.key.namespace,
            "name": self.plane.name,
            "labels": all,
            "annotations": notes,
            "ownerReferences": [owner(self.view, self.api_version, true)],
        })
    }

    fn plain(&self, piece: Piece, spec: Value) -> Value {
        let empty = BTreeMap::new();
        json!({
            "apiVersion": piece.collection().api_version(),
            "kind": piece.kind(),
            "metadata": self.metadata(&empty, &empty),
            "spec": spec,
        })
    }

    fn account(&self) -> Value {
        let empty = BTreeMap::new();
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": self.metadata(&empty, &empty),
            "automountServiceAccountToken": false,
        })
    }

    fn service(&self) -> Value {
        let shape = &self.shape.service;
        let wanted: BTreeSet<(u16, bool)> =
            self.view.ports.iter().map(|(port, protocol)| (*port, is_udp(protocol))).collect();
        let mut ports: Vec<Value> = wanted
            .into_iter()
            .map(|(port, udp)| {
                let mut object = port_object(&port_name(port, udp), port, udp);
                if let Some(node_port) = self.shape.node_ports.get(&(port, udp)) {
                    object["nodePort"] = Value::from(*node_port);
                }
                object
            })
            .collect();
        if ports.is_empty() {
            // A Service needs a port; a Gateway none of whose listeners is served has none of its own.
            ports.push(port_object(&port_name(80, false), 80, false));
        }
        let mut spec = Map::new();
        spec.insert("type".to_owned(), Value::from(shape.type_.as_str()));
        spec.insert("selector".to_owned(), json!(self.selector()));
        spec.insert("ports".to_owned(), Value::Array(ports));
        spec.extend(shape.fields.clone());
        if shape.is_load_balancer()
            && let Some(address) = self.view.requested.iter().find_map(|request| request.value.clone())
        {
            spec.insert("loadBalancerIP".to_owned(), Value::from(address));
        }
        let mut metadata = self.metadata(&shape.labels, &shape.annotations);
        if let Some(name) = &shape.name {
            metadata["name"] = Value::from(name.as_str());
        }
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    }

    fn deployment(&self) -> (Value, Vec<Notice>) {
        let shape = &self.shape;
        let mut spec = json!({
            "selector": {"matchLabels": self.selector()},
            "progressDeadlineSeconds": PROGRESS_SECONDS,
            "revisionHistoryLimit": 3,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        });
        if let Some(replicas) = shape.replicas.filter(|_| shape.scaling.is_none()) {
            spec["replicas"] = Value::from(replicas);
        }
        spec["template"] = self.pod_template();
        let base = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": self.metadata(&shape.labels, &shape.annotations),
            "spec": spec,
        });
        configuration::with_pod_template(
            base,
            shape.pod_template.as_ref(),
            &self.plane.name,
            &self.own_labels(),
        )
    }

    fn pod_template(&self) -> Value {
        let drain = self.view.drain.as_secs() + u64::from(self.view.drain.subsec_nanos() > 0);
        let mut template = json!({
            "metadata": {"labels": self.labels(), "annotations": self.view.annotations},
            "spec": {
                "serviceAccountName": self.plane.name,
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "terminationGracePeriodSeconds": drain + GRACE_SECONDS,
                "securityContext": {
                    "runAsNonRoot": true,
                    "runAsUser": USER,
                    "runAsGroup": USER,
                    "fsGroup": USER,
                    "seccompProfile": {"type": "RuntimeDefault"},
                    "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
                },
                "topologySpreadConstraints": [{
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": self.selector()},
                }],
                "containers": [self.container()],
                "volumes": [
                    {"name": "state", "emptyDir": {}},
                    {"name": "token", "projected": {"sources": [{"serviceAccountToken": {
                        "path": "token",
                        "audience": self.cluster.audience,
                        "expirationSeconds": TOKEN_SECONDS,
                    }}]}},
                    {"name": "authority", "configMap": {"name": self.cluster.trust_name()}},
                ],
            },
        });
        if !self.cluster.pull_secrets.is_empty() {
            let named = self.cluster.pull_secrets.iter().map(|name| json!({"name": name}));
            template["spec"]["imagePullSecrets"] = named.collect();
        }
        template
    }

    fn container(&self) -> Value {
        let probe = |path: &str, seconds: u32, failures: u32| {
            json!({
                "httpGet": {"path": path, "port": "admin"},
                "periodSeconds": seconds,
                "timeoutSeconds": 2,
                "failureThreshold": failures,
            })
        };
        let mut container = json!({
            // As Kong's operator calls it, so that what is written for that is merged in here.
            "name": configuration::CONTAINER,
            "image": self.cluster.image,
            "args": [
                "proxy",
                "--controller", self.cluster.controller,
                "--data-plane", self.plane.to_string(),
                "--token-file", "/var/run/secrets/weir/token",
                "--ca-file", "/var/run/secrets/weir-ca/ca.crt",
                "--state-dir", "/var/lib/weir",
                "--admin", format!("[::]:{ADMIN_PORT}"),
            ],
            "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "ports": [{"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            "readinessProbe": probe("/readyz", 1, 2),
            "livenessProbe": probe("/livez", 10, 6),
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "state", "mountPath": "/var/lib/weir"},
                {"name": "token", "mountPath": "/var/run/secrets/weir", "readOnly": true},
                {"name": "authority", "mountPath": "/var/run/secrets/weir-ca", "readOnly": true},
            ],
        });
        if let Some(policy) = &self.cluster.pull_policy {
            container["imagePullPolicy"] = Value::from(policy.as_str());
        }
        if let (Some(log), Some(environment)) = (&self.cluster.log, container["env"].as_array_mut()) {
            environment.push(json!({"name": "WEIR_LOG", "value": log}));
        }
        container
    }

    /// One pod at a time may be moved away; with one pod a node can still be emptied.
    fn disruption_budget(&self) -> Value {
        let mut spec = match &self.shape.disruption_budget {
            Some(fields) => fields.clone(),
            None => Map::from_iter([("maxUnavailable".to_owned(), Value::from(1))]),
        };
        spec.insert("selector".to_owned(), json!({"matchLabels": self.selector()}));
        self.plain(Piece::PodDisruptionBudget, Value::Object(spec))
    }

    fn autoscaler(&self) -> Option<Value> {
        let mut spec = self.shape.scaling.clone()?;
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": self.plane.name});
        spec.insert("scaleTargetRef".to_owned(), target);
        Some(self.plain(Piece::HorizontalPodAutoscaler, Value::Object(spec)))
    }

    /// Everybody may reach the listeners; the admin port is the cluster's own. Where data planes may go is not ours to say.
    fn network_policy(&self) -> Value {
        let wanted: BTreeSet<(u16, bool)> =
            self.view.ports.iter().map(|(port, protocol)| (*port, is_udp(protocol))).collect();
        let ports: Vec<Value> = wanted
            .into_iter()
            .map(|(port, udp)| json!({"port": port, "protocol": if udp { "UDP" } else { "TCP" }}))
            .collect();
        let mut ingress = Vec::new();
        if !ports.is_empty() {
            ingress.push(json!({"ports": ports}));
        }
        ingress.push(json!({
            "from": [{"namespaceSelector": {}}],
            "ports": [{"port": ADMIN_PORT, "protocol": "TCP"}],
        }));
        let spec = json!({
            "podSelector": {"matchLabels": self.selector()},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        });
        self.plain(Piece::NetworkPolicy, spec)
    }
}

#[cfg(test)]
mod tests;

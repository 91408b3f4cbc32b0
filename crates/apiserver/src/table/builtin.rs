//! Columns of the built-in kinds, and the cells of those that neither run nor lead traffic. Source: kube-apiserver's
//! printers.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::text::{self, age, name, number, or_none, shown, size};
use super::{AGE, Head, NAME, network, number_column, pod, text_column, wide_column, workload};
use crate::object;
use crate::registry::Resource;

/// Makes the cells of an object, in the order of its kind's columns.
type Cells = fn(&Value, Timestamp) -> Vec<Value>;

/// How a kind is printed.
pub(super) struct Printer {
    pub(super) heads: &'static [Head],
    pub(super) cells: Cells,
    pub(super) is_pod: bool,
}

const CONTAINERS: Head = wide_column("Containers");
const IMAGES: Head = wide_column("Images");
const SELECTOR: Head = wide_column("Selector");
const READY: Head = text_column("Ready");

const PODS: &[Head] = &[
    NAME,
    READY,
    text_column("Status"),
    text_column("Restarts"),
    AGE,
    wide_column("IP"),
    wide_column("Node"),
    wide_column("Nominated Node"),
    wide_column("Readiness Gates"),
];
const DEPLOYMENTS: &[Head] =
    &[NAME, READY, text_column("Up-to-date"), text_column("Available"), AGE, CONTAINERS, IMAGES, SELECTOR];
const REPLICA_SETS: &[Head] = &[
    NAME,
    number_column("Desired"),
    number_column("Current"),
    number_column("Ready"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const DAEMON_SETS: &[Head] = &[
    NAME,
    number_column("Desired"),
    number_column("Current"),
    number_column("Ready"),
    number_column("Up-to-date"),
    number_column("Available"),
    text_column("Node Selector"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const STATEFUL_SETS: &[Head] = &[NAME, READY, AGE, CONTAINERS, IMAGES];
const JOBS: &[Head] = &[
    NAME,
    text_column("Status"),
    text_column("Completions"),
    text_column("Duration"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const CRON_JOBS: &[Head] = &[
    NAME,
    text_column("Schedule"),
    text_column("Timezone"),
    Head { name: "Suspend", kind: "boolean", format: "", priority: 0 },
    number_column("Active"),
    text_column("Last Schedule"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const SERVICES: &[Head] = &[
    NAME,
    text_column("Type"),
    text_column("Cluster-IP"),
    text_column("External-IP"),
    text_column("Port(s)"),
    AGE,
    SELECTOR,
];
const INGRESSES: &[Head] =
    &[NAME, text_column("Class"), text_column("Hosts"), text_column("Address"), text_column("Ports"), AGE];
const INGRESS_CLASSES: &[Head] = &[NAME, text_column("Controller"), text_column("Parameters"), AGE];
const ENDPOINTS: &[Head] = &[NAME, text_column("Endpoints"), AGE];
const ENDPOINT_SLICES: &[Head] =
    &[NAME, text_column("AddressType"), text_column("Ports"), text_column("Endpoints"), AGE];
const NODES: &[Head] = &[
    NAME,
    text_column("Status"),
    text_column("Roles"),
    AGE,
    text_column("Version"),
    wide_column("Internal-IP"),
    wide_column("External-IP"),
    wide_column("OS-Image"),
    wide_column("Kernel-Version"),
    wide_column("Container-Runtime"),
];
const EVENTS: &[Head] = &[
    text_column("Last Seen"),
    text_column("Type"),
    text_column("Reason"),
    text_column("Object"),
    wide_column("Subobject"),
    wide_column("Source"),
    text_column("Message"),
    wide_column("First Seen"),
    wide_column("Count"),
    Head { name: "Name", kind: "string", format: "name", priority: 1 },
];
const NAMESPACES: &[Head] = &[NAME, text_column("Status"), AGE];
const SECRETS: &[Head] = &[NAME, text_column("Type"), text_column("Data"), AGE];
const CONFIG_MAPS: &[Head] = &[NAME, text_column("Data"), AGE];
const PLAIN: &[Head] = &[NAME, AGE];
const CREATED: &[Head] = &[NAME, Head { name: "Created At", kind: "date", format: "", priority: 0 }];
const VOLUMES: &[Head] = &[
    NAME,
    text_column("Capacity"),
    text_column("Access Modes"),
    text_column("Reclaim Policy"),
    text_column("Status"),
    text_column("Claim"),
    text_column("StorageClass"),
    text_column("VolumeAttributesClass"),
    text_column("Reason"),
    AGE,
    wide_column("VolumeMode"),
];
const CLAIMS: &[Head] = &[
    NAME,
    text_column("Status"),
    text_column("Volume"),
    text_column("Capacity"),
    text_column("Access Modes"),
    text_column("StorageClass"),
    text_column("VolumeAttributesClass"),
    AGE,
    wide_column("VolumeMode"),
];
const AUTOSCALERS: &[Head] = &[
    NAME,
    text_column("Reference"),
    text_column("Targets"),
    text_column("MinPods"),
    text_column("MaxPods"),
    text_column("Replicas"),
    AGE,
];
const NETWORK_POLICIES: &[Head] = &[NAME, text_column("Pod-Selector"), AGE];
const BINDINGS: &[Head] = &[
    NAME,
    text_column("Role"),
    AGE,
    wide_column("Users"),
    wide_column("Groups"),
    wide_column("ServiceAccounts"),
];
const LEASES: &[Head] = &[NAME, text_column("Holder"), AGE];
const REVISIONS: &[Head] = &[NAME, text_column("Controller"), text_column("Revision"), AGE];
const BUDGETS: &[Head] = &[
    NAME,
    text_column("Min Available"),
    text_column("Max Unavailable"),
    number_column("Allowed Disruptions"),
    AGE,
];
const POLICIES: &[Head] = &[NAME, number_column("Validations"), text_column("ParamKind"), AGE];
const POLICY_BINDINGS: &[Head] = &[NAME, text_column("PolicyName"), text_column("ParamRef"), AGE];
const TEMPLATES: &[Head] =
    &[NAME, text_column("Containers"), text_column("Images"), text_column("Pod Labels")];

/// The printer of a resource.
pub(super) fn printer(resource: &Resource) -> Printer {
    let (heads, cells): (&'static [Head], Cells) =
        match (resource.id.group.as_ref(), resource.plural.as_str()) {
            ("", "pods") => (PODS, pod::cells),
            ("", "services") => (SERVICES, network::service),
            ("", "endpoints") => (ENDPOINTS, network::endpoints),
            ("", "nodes") => (NODES, node),
            ("", "events") => (EVENTS, event),
            ("", "namespaces") => (NAMESPACES, namespace),
            ("", "secrets") => (SECRETS, secret),
            ("", "configmaps") => (CONFIG_MAPS, config_map),
            ("", "serviceaccounts") => (PLAIN, plain),
            ("", "persistentvolumes") => (VOLUMES, volume),
            ("", "persistentvolumeclaims") => (CLAIMS, claim),
            ("", "podtemplates") => (TEMPLATES, workload::template),
            ("apps", "deployments") => (DEPLOYMENTS, workload::deployment),
            ("apps", "replicasets") => (REPLICA_SETS, workload::replica_set),
            ("apps", "daemonsets") => (DAEMON_SETS, workload::daemon_set),
            ("apps", "statefulsets") => (STATEFUL_SETS, workload::stateful_set),
            ("apps", "controllerrevisions") => (REVISIONS, workload::revision),
            ("batch", "jobs") => (JOBS, workload::job),
            ("batch", "cronjobs") => (CRON_JOBS, workload::cron_job),
            ("networking.k8s.io", "ingresses") => (INGRESSES, network::ingress),
            ("networking.k8s.io", "ingressclasses") => (INGRESS_CLASSES, network::ingress_class),
            ("networking.k8s.io", "networkpolicies") => (NETWORK_POLICIES, network::network_policy),
            ("discovery.k8s.io", "endpointslices") => (ENDPOINT_SLICES, network::endpoint_slice),
            ("autoscaling", "horizontalpodautoscalers") => (AUTOSCALERS, workload::autoscaler),
            ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => (BINDINGS, binding),
            ("coordination.k8s.io", "leases") => (LEASES, lease),
            ("policy", "poddisruptionbudgets") => (BUDGETS, workload::budget),
            ("admissionregistration.k8s.io", "validatingadmissionpolicies") => (POLICIES, policy),
            ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => {
                (POLICY_BINDINGS, policy_binding)
            }
            _ => (CREATED, created),
        };
    Printer { heads, cells, is_pod: resource.is("", "pods") }
}

fn plain(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

fn created(object: &Value, _: Timestamp) -> Vec<Value> {
    vec![name(object), Value::from(object::meta_str(object, "creationTimestamp"))]
}

fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready =
        object::array(object, "/status/conditions").iter().find(|one| object::text(one, "/type") == "Ready");
    let mut status = match ready.map(|condition| object::text(condition, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if object.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let address = |kind: &str| {
        let all = object::array(object, "/status/addresses");
        let found = all.iter().find(|address| object::text(address, "/type") == kind);
        or_none(found.map(|address| object::text(address, "/address")).unwrap_or_default())
    };
    let info = |field: &str| match object::text(object, &format!("/status/nodeInfo/{field}")) {
        "" => "<unknown>".to_owned(),
        text => text.to_owned(),
    };
    let kernel = match object::text(object, "/status/nodeInfo/architecture") {
        "" => info("kernelVersion"),
        architecture => format!("{} ({architecture})", info("kernelVersion")),
    };
    vec![
        name(object),
        status.into(),
        or_none(&node_roles(object)),
        age(object, now),
        object::text(object, "/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage").into(),
        kernel.into(),
        info("containerRuntimeVersion").into(),
    ]
}

fn node_roles(object: &Value) -> String {
    let nothing = Map::new();
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object).unwrap_or(&nothing);
    let mut roles: Vec<&str> = labels
        .iter()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    roles.join(",")
}

fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let has = |pointer: &str| !object::text(object, pointer).is_empty();
    let first =
        text::age_at(object, if has("/firstTimestamp") { "/firstTimestamp" } else { "/eventTime" }, now);
    let series = object.get("series").is_some_and(Value::is_object);
    let last = if series {
        text::age_at(object, "/series/lastObservedTime", now)
    } else if has("/lastTimestamp") {
        text::age_at(object, "/lastTimestamp", now)
    } else {
        first.clone()
    };
    let count = if series { number(object, "/series/count") } else { number(object, "/count").max(1) };
    let kind = object::text(object, "/involvedObject/kind").to_lowercase();
    let target = match object::text(object, "/involvedObject/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let either = |a: &str, b: &str| match object::text(object, a) {
        "" => object::text(object, b).to_owned(),
        text => text.to_owned(),
    };
    let component = either("/source/component", "/reportingComponent");
    let source = match either("/source/host", "/reportingInstance").as_str() {
        "" => component,
        instance => format!("{component}, {instance}"),
    };
    vec![
        last.into(),
        object::text(object, "/type").into(),
        object::text(object, "/reason").into(),
        target.into(),
        object::text(object, "/involvedObject/fieldPath").into(),
        source.into(),
        object::text(object, "/message").trim().into(),
        first.into(),
        count.into(),
        name(object),
    ]
}

fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), object::text(object, "/status/phase").into(), age(object, now)]
}

fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), object::text(object, "/type").into(), size(object, "/data").into(), age(object, now)]
}

fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), (size(object, "/data") + size(object, "/binaryData")).into(), age(object, now)]
}

/// `RWO,ROX`: the short forms of access modes.
fn access_modes(object: &Value, pointer: &str) -> String {
    let modes = object::array(object, pointer);
    [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .iter()
    .filter(|(long, _)| modes.iter().any(|mode| mode == long))
    .map(|(_, short)| *short)
    .collect::<Vec<_>>()
    .join(",")
}

fn phase(object: &Value) -> Value {
    if object::is_terminating(object) {
        "Terminating".into()
    } else {
        object::text(object, "/status/phase").into()
    }
}

fn volume(object: &Value, now: Timestamp) -> Vec<Value> {
    let claim = match object.pointer("/spec/claimRef") {
        Some(claim) => format!("{}/{}", object::text(claim, "/namespace"), object::text(claim, "/name")),
        None => String::new(),
    };
    vec![
        name(object),
        shown(object, "/spec/capacity/storage", "0").into(),
        access_modes(object, "/spec/accessModes").into(),
        object::text(object, "/spec/persistentVolumeReclaimPolicy").into(),
        phase(object),
        claim.into(),
        object::text(object, "/spec/storageClassName").into(),
        shown(object, "/spec/volumeAttributesClassName", "<unset>").into(),
        object::text(object, "/status/reason").into(),
        age(object, now),
        shown(object, "/spec/volumeMode", "<unset>").into(),
    ]
}

fn claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let bound = object::text(object, "/spec/volumeName");
    let (capacity, modes) = match bound {
        "" => (String::new(), String::new()),
        _ => (shown(object, "/status/capacity/storage", "0"), access_modes(object, "/status/accessModes")),
    };
    vec![
        name(object),
        phase(object),
        bound.into(),
        capacity.into(),
        modes.into(),
        object::text(object, "/spec/storageClassName").into(),
        shown(object, "/spec/volumeAttributesClassName", "<unset>").into(),
        age(object, now),
        shown(object, "/spec/volumeMode", "<unset>").into(),
    ]
}

fn binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!("{}/{}", object::text(object, "/roleRef/kind"), object::text(object, "/roleRef/name"));
    let subjects = |kind: &str| -> Value {
        let all = object::array(object, "/subjects")
            .iter()
            .filter(|subject| object::text(subject, "/kind") == kind);
        let names: Vec<String> = all
            .map(|subject| match object::text(subject, "/namespace") {
                "" => object::text(subject, "/name").to_owned(),
                namespace => format!("{namespace}/{}", object::text(subject, "/name")),
            })
            .collect();
        names.join(", ").into()
    };
    vec![
        name(object),
        role.into(),
        age(object, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), object::text(object, "/spec/holderIdentity").into(), age(object, now)]
}

fn policy(object: &Value, now: Timestamp) -> Vec<Value> {
    let kind = match object.pointer("/spec/paramKind") {
        Some(kind) => format!("{}/{}", object::text(kind, "/apiVersion"), object::text(kind, "/kind")),
        None => "<unset>".to_owned(),
    };
    vec![name(object), size(object, "/spec/validations").into(), kind.into(), age(object, now)]
}

fn policy_binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = match object.pointer("/spec/paramRef") {
        None => "<unset>".to_owned(),
        Some(reference) => match (object::text(reference, "/namespace"), object::text(reference, "/name")) {
            (_, "") => reference.get("selector").map(crate::schema::selector_text).unwrap_or_default(),
            ("", name) => format!("*/{name}"),
            (namespace, name) => format!("{namespace}/{name}"),
        },
    };
    vec![name(object), object::text(object, "/spec/policyName").into(), parameters.into(), age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;
    use serde_json::json;

    #[test]
    fn every_kind_has_as_many_cells_as_columns() {
        for resource in Registry::builtin().all() {
            let printer = printer(resource);
            let cells = (printer.cells)(&json!({"metadata": {"name": "a"}}), Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), printer.heads.len(), "{}", resource.kind);
        }
    }
}

//! Columns and cells of the built-in kinds. Source: kube-apiserver's printers.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::text::{self, age, joined, labels, number, or_none, selector, shown, size, some_of};
use super::{AGE, Head, NAME, number_column, pod, text_column, wide_column};
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
            ("", "services") => (SERVICES, service),
            ("", "endpoints") => (ENDPOINTS, endpoints),
            ("", "nodes") => (NODES, node),
            ("", "events") => (EVENTS, event),
            ("", "namespaces") => (NAMESPACES, namespace),
            ("", "secrets") => (SECRETS, secret),
            ("", "configmaps") => (CONFIG_MAPS, config_map),
            ("", "serviceaccounts") => (PLAIN, plain),
            ("", "persistentvolumes") => (VOLUMES, volume),
            ("", "persistentvolumeclaims") => (CLAIMS, claim),
            ("", "podtemplates") => (TEMPLATES, template),
            ("apps", "deployments") => (DEPLOYMENTS, deployment),
            ("apps", "replicasets") => (REPLICA_SETS, replica_set),
            ("apps", "daemonsets") => (DAEMON_SETS, daemon_set),
            ("apps", "statefulsets") => (STATEFUL_SETS, stateful_set),
            ("apps", "controllerrevisions") => (REVISIONS, revision),
            ("batch", "jobs") => (JOBS, job),
            ("batch", "cronjobs") => (CRON_JOBS, cron_job),
            ("networking.k8s.io", "ingresses") => (INGRESSES, ingress),
            ("networking.k8s.io", "ingressclasses") => (INGRESS_CLASSES, ingress_class),
            ("networking.k8s.io", "networkpolicies") => (NETWORK_POLICIES, network_policy),
            ("discovery.k8s.io", "endpointslices") => (ENDPOINT_SLICES, endpoint_slice),
            ("autoscaling", "horizontalpodautoscalers") => (AUTOSCALERS, autoscaler),
            ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => (BINDINGS, binding),
            ("coordination.k8s.io", "leases") => (LEASES, lease),
            ("policy", "poddisruptionbudgets") => (BUDGETS, budget),
            ("admissionregistration.k8s.io", "validatingadmissionpolicies") => (POLICIES, policy),
            ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => {
                (POLICY_BINDINGS, policy_binding)
            }
            _ => (CREATED, created),
        };
    Printer { heads, cells, is_pod: resource.is("", "pods") }
}

fn name(object: &Value) -> Value {
    Value::from(object::name(object))
}

fn plain(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

fn created(object: &Value, _: Timestamp) -> Vec<Value> {
    vec![name(object), Value::from(object::meta_str(object, "creationTimestamp"))]
}

fn ratio(object: &Value) -> Value {
    Value::from(format!("{}/{}", number(object, "/status/readyReplicas"), number(object, "/spec/replicas")))
}

/// Names and images of a template's containers.
fn containers(object: &Value, pointer: &str) -> [Value; 2] {
    ["/name", "/image"].map(|field| Value::from(joined(object, pointer, field)))
}

const TEMPLATE: &str = "/spec/template/spec/containers";

fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, TEMPLATE);
    let updated = number(object, "/status/updatedReplicas");
    let available = number(object, "/status/availableReplicas");
    let selected = object.pointer("/spec/selector").map(crate::schema::selector_text).unwrap_or_default();
    vec![
        name(object),
        ratio(object),
        updated.into(),
        available.into(),
        age(object, now),
        names,
        images,
        selected.into(),
    ]
}

fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, TEMPLATE);
    vec![
        name(object),
        number(object, "/spec/replicas").into(),
        number(object, "/status/replicas").into(),
        number(object, "/status/readyReplicas").into(),
        age(object, now),
        names,
        images,
        selector(object, "/spec/selector"),
    ]
}

fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, TEMPLATE);
    vec![
        name(object),
        number(object, "/status/desiredNumberScheduled").into(),
        number(object, "/status/currentNumberScheduled").into(),
        number(object, "/status/numberReady").into(),
        number(object, "/status/updatedNumberScheduled").into(),
        number(object, "/status/numberAvailable").into(),
        labels(object, "/spec/template/spec/nodeSelector"),
        age(object, now),
        names,
        images,
        selector(object, "/spec/selector"),
    ]
}

fn stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, TEMPLATE);
    vec![name(object), ratio(object), age(object, now), names, images]
}

fn template(object: &Value, _: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, "/template/spec/containers");
    vec![name(object), names, images, labels(object, "/template/metadata/labels")]
}

fn revision(object: &Value, now: Timestamp) -> Vec<Value> {
    let owner = object::array(object, "/metadata/ownerReferences")
        .iter()
        .find(|owner| owner.get("controller") == Some(&Value::Bool(true)));
    let controller = owner.map_or_else(
        || "<none>".to_owned(),
        |owner| {
            let (group, _) = crate::registry::split_api_version(object::text(owner, "/apiVersion"));
            let kind = object::text(owner, "/kind").to_lowercase();
            let qualified = if group.is_empty() { kind } else { format!("{kind}.{group}") };
            format!("{qualified}/{}", object::text(owner, "/name"))
        },
    );
    vec![name(object), controller.into(), number(object, "/revision").into(), age(object, now)]
}

fn is_true(object: &Value, kind: &str) -> bool {
    object::array(object, "/status/conditions").iter().any(|condition| {
        object::text(condition, "/type") == kind && object::text(condition, "/status") == "True"
    })
}

fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    let succeeded = number(object, "/status/succeeded");
    let completions = match object.pointer("/spec/completions").and_then(Value::as_i64) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if number(object, "/spec/parallelism") > 1 => {
            format!("{succeeded}/1 of {}", number(object, "/spec/parallelism"))
        }
        None => format!("{succeeded}/1"),
    };
    let time = |pointer: &str| object::text(object, pointer).parse::<Timestamp>().ok();
    let duration = match (time("/status/startTime"), time("/status/completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => text::since(start, end.unwrap_or(now)),
    };
    let status = if is_true(object, "Complete") {
        "Complete"
    } else if is_true(object, "Failed") {
        "Failed"
    } else if object::is_terminating(object) {
        "Terminating"
    } else if is_true(object, "Suspended") {
        "Suspended"
    } else {
        "Running"
    };
    let [names, images] = containers(object, TEMPLATE);
    let selected = selector(object, "/spec/selector");
    vec![
        name(object),
        status.into(),
        completions.into(),
        duration.into(),
        age(object, now),
        names,
        images,
        selected,
    ]
}

fn cron_job(object: &Value, now: Timestamp) -> Vec<Value> {
    let suspend = match object.pointer("/spec/suspend").and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = match object::text(object, "/status/lastScheduleTime") {
        "" => "<none>".to_owned(),
        _ => text::age_at(object, "/status/lastScheduleTime", now),
    };
    let [names, images] = containers(object, "/spec/jobTemplate/spec/template/spec/containers");
    vec![
        name(object),
        object::text(object, "/spec/schedule").into(),
        or_none(object::text(object, "/spec/timeZone")),
        suspend.into(),
        size(object, "/status/active").into(),
        last.into(),
        age(object, now),
        names,
        images,
        selector(object, "/spec/jobTemplate/spec/selector"),
    ]
}

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

fn service(object: &Value, now: Timestamp) -> Vec<Value> {
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

fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
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

fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
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

fn autoscaler(object: &Value, now: Timestamp) -> Vec<Value> {
    let target = |field: &str| object::text(object, &format!("/spec/scaleTargetRef/{field}")).to_owned();
    let metrics = object::array(object, "/spec/metrics");
    let targets: Vec<String> =
        metrics.iter().enumerate().map(|(index, metric)| metric_text(object, index, metric)).collect();
    let shown_targets =
        if targets.is_empty() { "<none>".to_owned() } else { some_of(&targets, 2).replace(',', ", ") };
    vec![
        name(object),
        format!("{}/{}", target("kind"), target("name")).into(),
        shown_targets.into(),
        shown(object, "/spec/minReplicas", "<unset>").into(),
        number(object, "/spec/maxReplicas").into(),
        number(object, "/status/currentReplicas").into(),
        age(object, now),
    ]
}

/// `cpu: 3%/80%` and the like: what a metric is and should be.
fn metric_text(object: &Value, index: usize, metric: &Value) -> String {
    let (field, prefix) = match object::text(metric, "/type") {
        "Resource" => ("resource", format!("{}: ", object::text(metric, "/resource/name"))),
        "ContainerResource" => {
            ("containerResource", format!("{}: ", object::text(metric, "/containerResource/name")))
        }
        "Pods" => ("pods", String::new()),
        "Object" => ("object", String::new()),
        "External" => ("external", String::new()),
        _ => return "<unknown type>".to_owned(),
    };
    let wanted = |key: &str| metric.pointer(&format!("/{field}/target/{key}"));
    let (key, suffix) = match (wanted("averageValue"), wanted("averageUtilization")) {
        (Some(_), _) => ("averageValue", if matches!(field, "object" | "external") { " (avg)" } else { "" }),
        (None, Some(_)) => ("averageUtilization", ""),
        (None, None) => ("value", ""),
    };
    let percent = if key == "averageUtilization" { "%" } else { "" };
    let goal = wanted(key).map_or_else(
        || "<auto>".to_owned(),
        |_| shown(metric, &format!("/{field}/target/{key}"), "") + percent,
    );
    let at = format!("/status/currentMetrics/{index}/{field}/current/{key}");
    let current =
        object.pointer(&at).map_or_else(|| "<unknown>".to_owned(), |_| shown(object, &at, "") + percent);
    format!("{prefix}{current}/{goal}{suffix}")
}

fn network_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), selector(object, "/spec/podSelector"), age(object, now)]
}

fn ingress(object: &Value, now: Timestamp) -> Vec<Value> {
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

fn ingress_class(object: &Value, now: Timestamp) -> Vec<Value> {
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

fn budget(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        shown(object, "/spec/minAvailable", "N/A").into(),
        shown(object, "/spec/maxUnavailable", "N/A").into(),
        number(object, "/status/disruptionsAllowed").into(),
        age(object, now),
    ]
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

//! Defaults of the built-in kinds that Kubernetes keeps in code instead of in its schemas.
//!
//! Owns: the fields that a user sees filled in after creating an object. Invariants: a value that is set is never
//! touched; applying the defaults twice changes nothing. Source: `pkg/apis/*/v1/defaults.go` of Kubernetes 1.36.

use serde_json::{Map, Value, json};

use crate::object::{as_map, child, default_field};
use crate::registry::Resource;

/// Fills in the defaults of an object.
pub(crate) fn apply(resource: &Resource, object: &mut Value) {
    match (resource.id.group.as_ref(), resource.plural.as_str()) {
        ("", "pods") => pod(object),
        ("", "podtemplates") => pod_spec_at(object, &["template", "spec"]),
        ("", "services") => service(child(object, "spec")),
        ("", "endpoints") => endpoints(object),
        ("", "secrets") => default_field(object, "type", "Opaque"),
        ("", "namespaces") => namespace(object),
        ("", "events") => event(object),
        ("", "persistentvolumes") => volume(child(object, "spec")),
        ("", "persistentvolumeclaims") => default_field(child(object, "spec"), "volumeMode", "Filesystem"),
        ("apps", "deployments") => deployment(child(object, "spec")),
        ("apps", "replicasets") => workload(child(object, "spec")),
        ("apps", "statefulsets") => stateful_set(child(object, "spec")),
        ("apps", "daemonsets") => daemon_set(child(object, "spec")),
        ("batch", "jobs") => job(child(object, "spec")),
        ("batch", "cronjobs") => cron_job(child(object, "spec")),
        ("autoscaling", "horizontalpodautoscalers") => autoscaler(child(object, "spec")),
        ("networking.k8s.io", "networkpolicies") => network_policy(child(object, "spec")),
        ("networking.k8s.io", "ingressclasses") => ingress_class(object),
        ("discovery.k8s.io", "endpointslices") => endpoint_slice(object),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => binding(object),
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => policy(child(object, "spec")),
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => {
            policy_binding(child(object, "spec"))
        }
        _ => {}
    }
}

/// The items of a list, if it is there.
fn items<'a>(object: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

/// A map that is there and is one.
fn present<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    object.get_mut(key).filter(|value| value.is_object())
}

fn has(object: &Value, key: &str) -> bool {
    object.get(key).is_some_and(|value| !value.is_null())
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn namespace(object: &mut Value) {
    let name = crate::object::name(object).to_owned();
    let labels = child(child(object, "metadata"), "labels");
    as_map(labels).insert("kubernetes.io/metadata.name".to_owned(), Value::from(name));
}

fn event(object: &mut Value) {
    default_field(object, "source", json!({}));
    default_field(object, "reportingComponent", "");
    default_field(object, "reportingInstance", "");
}

fn pod(object: &mut Value) {
    let spec = child(object, "spec");
    requests_from_limits(spec);
    default_field(spec, "enableServiceLinks", true);
    pod_spec(spec);
    let account = match (text(spec, "serviceAccountName"), text(spec, "serviceAccount")) {
        ("", "") => "default".to_owned(),
        ("", alias) => alias.to_owned(),
        (name, _) => name.to_owned(),
    };
    default_field(spec, "serviceAccountName", account.as_str());
    default_field(spec, "serviceAccount", account);
    default_field(spec, "priority", 0);
    default_field(spec, "preemptionPolicy", "PreemptLowerPriority");
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        tolerate(spec, key);
    }
}

/// Pods stay for five minutes on a node that is in trouble.
fn tolerate(spec: &mut Value, key: &str) {
    let list = as_map(spec).entry("tolerations").or_insert_with(|| json!([]));
    let Value::Array(list) = list else { return };
    let covered = list.iter().any(|toleration| {
        (text(toleration, "key") == key || text(toleration, "key").is_empty())
            && matches!(text(toleration, "effect"), "NoExecute" | "")
    });
    if !covered {
        list.push(json!({"effect": "NoExecute", "key": key, "operator": "Exists", "tolerationSeconds": 300}));
    }
}

fn requests_from_limits(spec: &mut Value) {
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            let Some(resources) = present(container, "resources") else { continue };
            let Some(Value::Object(limits)) = resources.get("limits").cloned() else { continue };
            let requests = child(resources, "requests");
            for (name, limit) in limits {
                default_field(requests, &name, limit);
            }
        }
    }
}

fn pod_spec_at(object: &mut Value, path: &[&str]) {
    match path {
        [] => pod_spec(object),
        [first, rest @ ..] => {
            if let Some(inner) = present(object, first) {
                pod_spec_at(inner, rest);
            }
        }
    }
}

fn pod_spec(spec: &mut Value) {
    default_field(spec, "dnsPolicy", "ClusterFirst");
    default_field(spec, "restartPolicy", "Always");
    default_field(spec, "schedulerName", "default-scheduler");
    default_field(spec, "securityContext", json!({}));
    default_field(spec, "terminationGracePeriodSeconds", 30);
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for item in items(spec, list) {
            container(item, host_network);
        }
    }
    items(spec, "volumes").for_each(pod_volume);
}

fn container(container: &mut Value, host_network: bool) {
    let image = text(container, "image");
    let policy = if pulls_always(image) { "Always" } else { "IfNotPresent" };
    default_field(container, "imagePullPolicy", policy);
    default_field(container, "resources", json!({}));
    default_field(container, "terminationMessagePath", "/dev/termination-log");
    default_field(container, "terminationMessagePolicy", "File");
    for port in items(container, "ports") {
        default_field(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            default_field(port, "hostPort", number);
        }
    }
    for variable in items(container, "env") {
        if let Some(reference) = present(variable, "valueFrom").and_then(|from| present(from, "fieldRef")) {
            default_field(reference, "apiVersion", "v1");
        }
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = present(container, key) {
            probe_fields(probe);
        }
    }
    if let Some(lifecycle) = present(container, "lifecycle") {
        for key in ["postStart", "preStop"] {
            if let Some(get) = present(lifecycle, key).and_then(|hook| present(hook, "httpGet")) {
                http_get(get);
            }
        }
    }
}

/// An image without a tag, or tagged `latest`, may be another one tomorrow; one named by digest cannot.
fn pulls_always(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn probe_fields(probe: &mut Value) {
    for (key, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe.get(key).and_then(Value::as_i64).unwrap_or(0) == 0 {
            as_map(probe).insert(key.to_owned(), Value::from(value));
        }
    }
    if let Some(get) = present(probe, "httpGet") {
        http_get(get);
    }
    if let Some(grpc) = present(probe, "grpc") {
        default_field(grpc, "service", "");
    }
}

fn http_get(get: &mut Value) {
    default_field(get, "path", "/");
    default_field(get, "scheme", "HTTP");
}

fn pod_volume(volume: &mut Value) {
    const MODE: i64 = 0o644;
    if as_map(volume).len() < 2 {
        default_field(volume, "emptyDir", json!({}));
    }
    for key in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = present(volume, key) {
            default_field(source, "defaultMode", MODE);
            downward_items(source);
            for projection in items(source, "sources") {
                if let Some(token) = present(projection, "serviceAccountToken") {
                    default_field(token, "expirationSeconds", 3_600);
                }
                if let Some(downward) = present(projection, "downwardAPI") {
                    downward_items(downward);
                }
            }
        }
    }
    if let Some(path) = present(volume, "hostPath") {
        as_map(path).entry("type").or_insert_with(|| Value::from(""));
    }
}

fn downward_items(source: &mut Value) {
    for item in items(source, "items") {
        if let Some(reference) = present(item, "fieldRef") {
            default_field(reference, "apiVersion", "v1");
        }
    }
}

fn workload(spec: &mut Value) {
    default_field(spec, "replicas", 1);
    pod_spec_at(spec, &["template", "spec"]);
}

fn deployment(spec: &mut Value) {
    workload(spec);
    default_field(spec, "progressDeadlineSeconds", 600);
    default_field(spec, "revisionHistoryLimit", 10);
    let strategy = child(spec, "strategy");
    default_field(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = child(strategy, "rollingUpdate");
        default_field(rolling, "maxUnavailable", "25%");
        default_field(rolling, "maxSurge", "25%");
    }
}

fn stateful_set(spec: &mut Value) {
    workload(spec);
    default_field(spec, "podManagementPolicy", "OrderedReady");
    default_field(spec, "revisionHistoryLimit", 10);
    let strategy = child(spec, "updateStrategy");
    default_field(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        default_field(child(strategy, "rollingUpdate"), "partition", 0);
    }
    let retention = child(spec, "persistentVolumeClaimRetentionPolicy");
    default_field(retention, "whenDeleted", "Retain");
    default_field(retention, "whenScaled", "Retain");
    for claim in items(spec, "volumeClaimTemplates") {
        default_field(child(claim, "spec"), "volumeMode", "Filesystem");
    }
}

fn daemon_set(spec: &mut Value) {
    pod_spec_at(spec, &["template", "spec"]);
    default_field(spec, "revisionHistoryLimit", 10);
    let strategy = child(spec, "updateStrategy");
    default_field(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = child(strategy, "rollingUpdate");
        default_field(rolling, "maxUnavailable", 1);
        default_field(rolling, "maxSurge", 0);
    }
}

fn job(spec: &mut Value) {
    if !has(spec, "completions") && !has(spec, "parallelism") {
        default_field(spec, "completions", 1);
    }
    default_field(spec, "parallelism", 1);
    default_field(spec, "backoffLimit", 6);
    default_field(spec, "completionMode", "NonIndexed");
    default_field(spec, "suspend", false);
    default_field(spec, "manualSelector", false);
    let policy = if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    default_field(spec, "podReplacementPolicy", policy);
    pod_spec_at(spec, &["template", "spec"]);
}

fn cron_job(spec: &mut Value) {
    default_field(spec, "concurrencyPolicy", "Allow");
    default_field(spec, "suspend", false);
    default_field(spec, "successfulJobsHistoryLimit", 3);
    default_field(spec, "failedJobsHistoryLimit", 1);
    pod_spec_at(spec, &["jobTemplate", "spec", "template", "spec"]);
}

fn autoscaler(spec: &mut Value) {
    default_field(spec, "minReplicas", 1);
    let target = json!({"averageUtilization": 80, "type": "Utilization"});
    default_field(
        spec,
        "metrics",
        json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]),
    );
}

fn service(spec: &mut Value) {
    default_field(spec, "type", "ClusterIP");
    default_field(spec, "sessionAffinity", "None");
    if text(spec, "sessionAffinity") == "ClientIP" {
        let client = child(child(spec, "sessionAffinityConfig"), "clientIP");
        default_field(client, "timeoutSeconds", 10_800);
    }
    for port in items(spec, "ports") {
        default_field(port, "protocol", "TCP");
        let unset = match port.get("targetPort") {
            None | Some(Value::Null) => true,
            Some(Value::String(name)) => name.is_empty(),
            Some(number) => number.as_i64() == Some(0),
        };
        if unset && let Some(own) = port.get("port").cloned() {
            as_map(port).insert("targetPort".to_owned(), own);
        }
    }
    let kind = text(spec, "type").to_owned();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        default_field(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        default_field(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default_field(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn endpoints(object: &mut Value) {
    for subset in items(object, "subsets") {
        for port in items(subset, "ports") {
            default_field(port, "protocol", "TCP");
        }
    }
}

fn endpoint_slice(object: &mut Value) {
    for port in items(object, "ports") {
        default_field(port, "name", "");
        default_field(port, "protocol", "TCP");
    }
    for endpoint in items(object, "endpoints") {
        default_field(endpoint, "conditions", json!({}));
    }
    // Typed clients of old releases expect the list to be there.
    default_field(object, "endpoints", json!([]));
    default_field(object, "ports", json!([]));
}

fn volume(spec: &mut Value) {
    default_field(spec, "persistentVolumeReclaimPolicy", "Retain");
    default_field(spec, "volumeMode", "Filesystem");
}

fn network_policy(spec: &mut Value) {
    for (list, _) in [("ingress", 0), ("egress", 0)] {
        for rule in items(spec, list) {
            for port in items(rule, "ports") {
                default_field(port, "protocol", "TCP");
            }
        }
    }
    default_field(spec, "podSelector", json!({}));
    let has_egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
    let types = if has_egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    default_field(spec, "policyTypes", types);
}

fn ingress_class(object: &mut Value) {
    if let Some(parameters) = present(object, "spec").and_then(|spec| present(spec, "parameters")) {
        default_field(parameters, "scope", "Cluster");
    }
}

fn binding(object: &mut Value) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    if let Some(role) = present(object, "roleRef") {
        default_field(role, "apiGroup", GROUP);
    }
    for subject in items(object, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            default_field(subject, "apiGroup", GROUP);
        }
    }
}

fn match_resources(rules: &mut Value) {
    default_field(rules, "matchPolicy", "Equivalent");
    default_field(rules, "namespaceSelector", json!({}));
    default_field(rules, "objectSelector", json!({}));
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in items(rules, list) {
            default_field(rule, "scope", "*");
        }
    }
}

fn policy(spec: &mut Value) {
    default_field(spec, "failurePolicy", "Fail");
    if let Some(rules) = present(spec, "matchConstraints") {
        match_resources(rules);
    }
}

fn policy_binding(spec: &mut Value) {
    if let Some(rules) = present(spec, "matchResources") {
        match_resources(rules);
    }
}

/// The status that an object of this kind begins with.
pub(crate) fn first_status(resource: &Resource, object: &Value) -> Option<Value> {
    Some(match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => json!({"phase": "Pending", "qosClass": quality(object)}),
        ("", "services") | ("networking.k8s.io", "ingresses") => json!({"loadBalancer": {}}),
        ("", "namespaces") => json!({"phase": "Active"}),
        ("", "persistentvolumes" | "persistentvolumeclaims") => json!({"phase": "Pending"}),
        ("apps", "deployments") | ("batch", "jobs" | "cronjobs") => json!({}),
        ("apps", "replicasets") => json!({"replicas": 0}),
        ("apps", "statefulsets") => json!({"availableReplicas": 0, "replicas": 0}),
        ("apps", "daemonsets") => {
            json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0})
        }
        ("autoscaling", "horizontalpodautoscalers") => json!({"desiredReplicas": 0}),
        ("policy", "poddisruptionbudgets") => {
            json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => {
            json!({"observedGeneration": 1, "typeChecking": {}})
        }
        _ => return None,
    })
}

/// A pod's class by what its containers ask for. Source: `GetPodQOS` of Kubernetes.
fn quality(pod: &Value) -> &'static str {
    let nothing = Map::new();
    let mut guaranteed = true;
    let mut asked = false;
    let containers =
        ["/spec/containers", "/spec/initContainers"].into_iter().flat_map(|at| crate::object::array(pod, at));
    for container in containers {
        let part = |key: &str| {
            container.pointer(&format!("/resources/{key}")).and_then(Value::as_object).unwrap_or(&nothing)
        };
        let (limits, requests) = (part("limits"), part("requests"));
        asked |=
            ["cpu", "memory"].iter().any(|name| limits.contains_key(*name) || requests.contains_key(*name));
        guaranteed &= ["cpu", "memory"].iter().all(|name| {
            limits.get(*name).is_some_and(|limit| requests.get(*name).is_none_or(|request| request == limit))
        });
    }
    match (asked, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    fn defaulted(group: &str, plural: &str, mut object: Value) -> Value {
        let registry = Registry::builtin();
        let resource = registry.get(group, plural).expect("a built-in resource");
        apply(resource, &mut object);
        let once = object.clone();
        apply(resource, &mut object);
        assert_eq!(once, object, "the second time changes nothing");
        object
    }

    #[test]
    fn a_service_port_targets_itself_and_a_load_balancer_takes_node_ports() {
        let service = defaulted(
            "",
            "services",
            json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}, {"port": 1, "targetPort": "x"}]}}),
        );
        assert_eq!(service["spec"]["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
        assert_eq!(service["spec"]["ports"][1]["targetPort"], "x");
        assert_eq!(service["spec"]["allocateLoadBalancerNodePorts"], true);
        assert_eq!(service["spec"]["externalTrafficPolicy"], "Cluster");
    }

    #[test]
    fn images_that_may_change_are_pulled_always() {
        for (image, always) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1", false),
            ("host:5000/nginx", true),
            ("host:5000/nginx:1", false),
            ("nginx@sha256:0", false),
        ] {
            assert_eq!(pulls_always(image), always, "{image}");
        }
    }

    #[test]
    fn a_deployment_rolls_by_a_quarter() {
        let deployment = defaulted(
            "apps",
            "deployments",
            json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "x"}]}}}}),
        );
        assert_eq!(deployment["spec"]["replicas"], 1);
        assert_eq!(
            deployment["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "Always");
        let recreate = defaulted(
            "apps",
            "deployments",
            json!({"spec": {"replicas": 0, "strategy": {"type": "Recreate"}}}),
        );
        assert_eq!(
            (&recreate["spec"]["replicas"], &recreate["spec"]["strategy"]),
            (&json!(0), &json!({"type": "Recreate"}))
        );
    }

    #[test]
    fn a_pod_has_its_class_by_what_it_asks_for() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"resources": resources}]}});
        assert_eq!(quality(&pod(json!({}))), "BestEffort");
        assert_eq!(quality(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        assert_eq!(quality(&pod(json!({"limits": {"cpu": "1", "memory": "1"}}))), "Guaranteed");
    }
}

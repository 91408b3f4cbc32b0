//! What keeps the pods behind a Deployment from being ready, and the Service in front of them without an address.
//!
//! Owns the order in which Kubernetes itself is asked: the Deployment, whose conditions say why no pod can be made; the
//! pods, for the scheduler's and the kubelet's words; and events, where neither has any. Invariants: what may not be
//! read is said, and the rest is told all the same; however many pods there are, few are told. Deliberately absent: logs.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Pod, Service};
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::Value;

use super::Findings;
use crate::client;

/// Of so many pods of a Deployment it is told what keeps them: the others' reasons are mostly the same.
const PODS_TOLD: usize = 5;

/// A Deployment with its pods and its Service.
pub(super) struct Workload {
    pub(super) namespace: String,
    /// The name of the Deployment.
    pub(super) name: String,
    /// Labels that its pods have, and no others.
    pub(super) pods: String,
    pub(super) service: Front,
}

/// The Service in front of pods.
pub(super) enum Front {
    Named(String),
    Labelled(String),
}

impl Workload {
    /// The controllers of an installation.
    pub(super) fn controllers(namespace: &str, release: &str) -> Workload {
        let name = format!("{release}-controller");
        Workload {
            namespace: namespace.to_owned(),
            pods: format!(
                "app.kubernetes.io/name=weir,app.kubernetes.io/instance={release},app.kubernetes.io/component=controller"
            ),
            service: Front::Named(name.clone()),
            name,
        }
    }

    /// The data plane that unmanaged Gateways share.
    pub(super) fn of_unmanaged(namespace: &str, release: &str) -> Workload {
        let name = format!("{release}-gateway-proxy");
        Workload {
            namespace: namespace.to_owned(),
            pods: format!("weir.dev/instance={namespace}.{release},weir.dev/provisioned=shared"),
            service: Front::Named(name.clone()),
            name,
        }
    }

    /// The data plane of one Gateway.
    pub(super) fn of_gateway(namespace: &str, gateway: &str) -> Workload {
        let plane = weir_model::resource::DataPlaneName::of_gateway(namespace, gateway);
        let labels = format!(
            "weir.dev/component=data-plane,gateway.networking.k8s.io/gateway-name={}",
            weir_control::gateway_label(gateway)
        );
        Workload {
            namespace: namespace.to_owned(),
            name: plane.name,
            pods: labels.clone(),
            service: Front::Labelled(labels),
        }
    }

    /// Tells why pods are not ready: what serves nothing is bad, what has a pod that does is not. Whether there is
    /// anything of it, as far as can be seen.
    pub(super) async fn tell_pods(&self, client: &Client, findings: &mut Findings) -> bool {
        let Workload { namespace, name, .. } = self;
        let deployments = Api::<Deployment>::namespaced(client.clone(), namespace);
        let (deployment, is_seen) = match deployments.get_opt(name).await {
            Ok(found) => (found.map(|found| to_value(&found)), true),
            Err(error) => {
                let why = client::told(error);
                findings.note(format!("Deployment {namespace}/{name} cannot be read: {why}"));
                (None, false)
            }
        };
        let pods = Api::<Pod>::namespaced(client.clone(), namespace);
        let pods = match pods.list(&ListParams::default().labels(&self.pods)).await {
            Ok(pods) => Some(pods.items.iter().map(to_value).collect::<Vec<_>>()),
            Err(error) => {
                findings.note(format!("pods of {namespace} cannot be read: {}", client::told(error)));
                None
            }
        };
        let count = pods.as_ref().map(Vec::len);
        let pods = pods.unwrap_or_default();
        if pods.is_empty() && deployment.is_none() {
            return !is_seen;
        }
        let mut lines = Vec::new();
        if let Some(why) = deployment.as_ref().and_then(|deployment| standstill(deployment, count)) {
            lines.push(format!("Deployment {namespace}/{name}: {why}"));
        }
        let mut kept = 0;
        for pod in pods.iter().filter(|pod| !is_well(pod)) {
            kept += 1;
            if kept <= PODS_TOLD {
                let of = format!("pod {namespace}/{}", text(&pod["metadata"]["name"]));
                let told = self.why_not_ready(client, pod).await;
                lines.extend(told.into_iter().map(|line| format!("{of}: {line}")));
            }
        }
        if kept > PODS_TOLD {
            lines.push(format!("{namespace}/{name}: {} more pods are not ready", kept - PODS_TOLD));
        }
        let is_told_to_serve = |deployment: &Value| deployment["status"]["readyReplicas"].as_u64() > Some(0);
        let serves = pods.iter().any(is_ready) || deployment.as_ref().is_some_and(is_told_to_serve);
        for line in lines {
            if serves { findings.note(line) } else { findings.bad(line) }
        }
        true
    }

    async fn why_not_ready(&self, client: &Client, pod: &Value) -> Vec<String> {
        let mut found = pod_problems(pod);
        // Of what comes before a container, as volumes do, only events tell.
        if found.iter().all(|problem| !problem.has_words)
            && let Some(words) = last_warning(client, &self.namespace, pod).await
        {
            found.push(Problem { line: words, has_words: true });
        }
        found.into_iter().map(|problem| problem.line).collect()
    }

    /// Tells of what type the Service is and at which address, or that it has none.
    pub(super) async fn tell_service(&self, client: &Client, findings: &mut Findings) {
        let namespace = &self.namespace;
        let services = Api::<Service>::namespaced(client.clone(), namespace);
        let found = match &self.service {
            Front::Named(name) => services.get_opt(name).await.map(|found| found.into_iter().collect()),
            Front::Labelled(labels) => {
                services.list(&ListParams::default().labels(labels)).await.map(|list| list.items)
            }
        };
        let found: Vec<Service> = match found {
            Ok(found) => found,
            Err(error) => {
                let why = client::told(error);
                return findings.note(format!("Services of {namespace} cannot be read: {why}"));
            }
        };
        if found.is_empty() {
            findings.note(format!("there is no Service for {namespace}/{}", self.name));
        }
        for service in &found {
            let service = to_value(service);
            let of = format!("Service {namespace}/{}", text(&service["metadata"]["name"]));
            match address(&service) {
                Ok(told) => findings.note(format!("{of}: {told}")),
                Err(why) => {
                    let words = last_warning(client, namespace, &service).await;
                    let words = words.map(|words| format!(": {words}")).unwrap_or_default();
                    findings.bad(format!("{of}: {why}{words}"));
                }
            }
        }
    }
}

fn to_value(object: &impl serde::Serialize) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn condition<'a>(object: &'a Value, type_: &str, status: &str) -> Option<&'a Value> {
    let conditions = list(&object["status"]["conditions"]);
    conditions.iter().find(|condition| condition["type"] == type_ && condition["status"] == status)
}

/// Why a Deployment has fewer pods than it should: a quota, Pod Security, or nobody who wants any. `pods`: how many can be seen.
fn standstill(deployment: &Value, pods: Option<usize>) -> Option<String> {
    if let Some(failure) = condition(deployment, "ReplicaFailure", "True") {
        return Some(format!("pods cannot be made: {}", text(&failure["message"])));
    }
    if deployment["spec"]["replicas"] == 0 {
        return Some("it is scaled to no pods".to_owned());
    }
    let count = |field: &str| deployment["status"][field].as_u64().unwrap_or_default();
    let what = match pods {
        Some(0) => "it has no pods",
        // What the pods say is told with them.
        Some(_) => return None,
        None if count("readyReplicas") > 0 => return None,
        None if count("replicas") > 0 => "none of its pods is ready",
        None => "it has no pods",
    };
    let told = condition(deployment, "Progressing", "False");
    Some(told.map_or(what.to_owned(), |told| format!("{what}: {}", text(&told["message"]))))
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready", "True").is_some()
}

/// Whether there is nothing to tell of a pod: it serves, or is on its way out.
fn is_well(pod: &Value) -> bool {
    is_ready(pod) || pod["metadata"]["deletionTimestamp"].is_string() || pod["status"]["phase"] == "Succeeded"
}

/// One thing that keeps a pod, and whether somebody gave words to it.
struct Problem {
    line: String,
    has_words: bool,
}

/// Why a pod is not ready, in the kubelet's and the scheduler's words.
fn pod_problems(pod: &Value) -> Vec<Problem> {
    let status = &pod["status"];
    let mut found = Vec::new();
    let mut tell = |line: String, has_words| found.push(Problem { line, has_words });
    if status["phase"] == "Failed" {
        let (reason, message) = (text(&status["reason"]), text(&status["message"]));
        tell(format!("failed: {reason} {message}").trim_end().to_owned(), !message.is_empty());
        return found;
    }
    if let Some(told) = condition(pod, "PodScheduled", "False") {
        tell(format!("not scheduled: {}", text(&told["message"])), true);
    }
    for container in ["initContainerStatuses", "containerStatuses"].iter().flat_map(|of| list(&status[*of])) {
        let name = text(&container["name"]);
        let (waiting, last) = (&container["state"]["waiting"], &container["lastState"]["terminated"]);
        let ended = last["exitCode"].as_i64().map(|code| {
            let reason = Some(text(&last["reason"])).filter(|reason| !["", "Error"].contains(reason));
            format!(", it ended before with {code}{}", reason.map(|r| format!(" ({r})")).unwrap_or_default())
        });
        let ended = ended.unwrap_or_default();
        if waiting.is_object() {
            let (reason, message) = (text(&waiting["reason"]), text(&waiting["message"]));
            let line = format!("container {name} waits: {reason} {message}");
            tell(format!("{}{ended}", line.trim_end()), !message.is_empty());
        } else if container["ready"] == false {
            tell(format!("container {name} is not ready{ended}"), false);
        }
    }
    if found.is_empty() {
        found.push(Problem { line: "not ready".to_owned(), has_words: false });
    }
    found
}

/// The newest warning that there is about an object; none where events may not be read.
async fn last_warning(client: &Client, namespace: &str, object: &Value) -> Option<String> {
    let selector = format!("involvedObject.uid={},type=Warning", text(&object["metadata"]["uid"]));
    let events = Api::<Event>::namespaced(client.clone(), namespace);
    let events = events.list(&ListParams::default().fields(&selector)).await.ok()?;
    let newest = events.items.into_iter().max_by_key(|event| {
        let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
        let at = series.or(event.event_time.as_ref()).map(|at| at.0);
        at.max(event.last_timestamp.as_ref().map(|at| at.0))
    })?;
    let words = format!("{} {}", newest.reason.unwrap_or_default(), newest.message.unwrap_or_default());
    Some(words.trim().to_owned())
}

/// Of what type a Service is, and where it can be reached; or why it cannot be from outside, though it should.
fn address(service: &Value) -> Result<String, String> {
    let spec = &service["spec"];
    let inside: Vec<&str> = list(&spec["clusterIPs"]).iter().map(text).collect();
    let inside = if inside.is_empty() { text(&spec["clusterIP"]).to_owned() } else { inside.join(", ") };
    match text(&spec["type"]) {
        "LoadBalancer" => {
            let given = list(&service["status"]["loadBalancer"]["ingress"]);
            let values: Vec<&str> =
                given.iter().flat_map(|entry| [text(&entry["hostname"]), text(&entry["ip"])]).collect();
            let values: Vec<&str> = values.into_iter().filter(|value| !value.is_empty()).collect();
            if !values.is_empty() {
                return Ok(format!("LoadBalancer at {}", values.join(", ")));
            }
            let class = text(&spec["loadBalancerClass"]);
            let class = if class.is_empty() { class.to_owned() } else { format!(" of class {class}") };
            Err(format!(
                "LoadBalancer without an address (inside the cluster {inside}): no load balancer{class} has given it one yet; is there any in this cluster?"
            ))
        }
        "NodePort" => {
            let port = |port: &Value| format!("{} at {}", port["port"], port["nodePort"]);
            let ports: Vec<String> = list(&spec["ports"]).iter().map(port).collect();
            Ok(format!("NodePort, port {} of every node, inside the cluster {inside}", ports.join(", ")))
        }
        other => Ok(format!("{other} at {inside}, which is inside the cluster")),
    }
}

#[cfg(test)]
mod tests {
    use super::{address, is_well, pod_problems, standstill};
    use serde_json::{Value, json};

    fn lines(pod: &Value) -> Vec<String> {
        pod_problems(pod).into_iter().map(|problem| problem.line).collect()
    }

    #[test]
    fn a_pod_that_is_not_ready_says_why() {
        let pod = json!({"status": {
            "initContainerStatuses": [
                {"name": "first", "ready": false, "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                 "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}},
            ],
            "containerStatuses": [
                {"name": "proxy", "ready": false, "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}},
                {"name": "old", "ready": false, "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1}}},
                {"name": "fine", "ready": true, "state": {"running": {}}},
            ],
            "conditions": [{"type": "PodScheduled", "status": "False", "message": "no node fits"}],
        }});
        assert_eq!(
            lines(&pod),
            [
                "not scheduled: no node fits",
                "container first waits: CrashLoopBackOff back-off, it ended before with 137 (OOMKilled)",
                "container proxy waits: ErrImagePull no such image",
                "container old is not ready, it ended before with 1",
            ]
        );
        let failed = json!({"status": {"phase": "Failed", "reason": "SysctlForbidden", "message": "forbidden sysctl"}});
        assert_eq!(lines(&failed), ["failed: SysctlForbidden forbidden sysctl"]);
        assert_eq!(lines(&json!({"status": {}})), ["not ready"]);
        assert!(is_well(&json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})));
        assert!(is_well(&json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})));
        assert!(!is_well(&failed));
    }

    #[test]
    fn a_deployment_without_pods_says_why() {
        let deployment = |replicas: u32, conditions: Value| json!({"spec": {"replicas": replicas}, "status": {"conditions": conditions}});
        let failure = json!([{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]);
        let told = standstill(&deployment(1, failure), Some(1));
        assert_eq!(told.as_deref(), Some("pods cannot be made: exceeded quota"));
        let quiet = deployment(1, json!([]));
        assert_eq!(
            standstill(&deployment(0, json!([])), Some(0)).as_deref(),
            Some("it is scaled to no pods")
        );
        assert_eq!(standstill(&quiet, Some(0)).as_deref(), Some("it has no pods"));
        assert_eq!(standstill(&quiet, Some(1)), None);
        // Whoever may not see pods has the Deployment's counts.
        let mut counted =
            deployment(1, json!([{"type": "Progressing", "status": "False", "message": "deadline"}]));
        counted["status"]["replicas"] = json!(1);
        assert_eq!(standstill(&counted, None).as_deref(), Some("none of its pods is ready: deadline"));
        counted["status"]["readyReplicas"] = json!(1);
        assert_eq!(standstill(&counted, None), None);
    }

    #[test]
    fn a_service_says_where_it_is_or_that_nobody_gave_it_an_address() {
        let service = |type_: &str, class: Option<&str>, ingress: Value| {
            json!({
                "spec": {"type": type_, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "loadBalancerClass": class,
                         "ports": [{"port": 80, "nodePort": 30080}]},
                "status": {"loadBalancer": {"ingress": ingress}},
            })
        };
        let given = json!([{"hostname": "lb.example", "ip": "192.0.2.1"}]);
        assert_eq!(
            address(&service("LoadBalancer", None, given)).as_deref(),
            Ok("LoadBalancer at lb.example, 192.0.2.1")
        );
        let pending = address(&service("LoadBalancer", Some("a.example/b"), json!([]))).unwrap_err();
        assert!(pending.contains("no load balancer of class a.example/b has given it one"), "{pending}");
        assert_eq!(
            address(&service("NodePort", None, json!([]))).as_deref(),
            Ok("NodePort, port 80 at 30080 of every node, inside the cluster 10.0.0.1")
        );
        assert_eq!(
            address(&service("ClusterIP", None, json!([]))).as_deref(),
            Ok("ClusterIP at 10.0.0.1, which is inside the cluster")
        );
    }
}

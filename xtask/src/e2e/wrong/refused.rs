//! What a data plane needs and cannot have: a quota is full, Pod Security refuses its pods, a name is somebody else's, or another Gateway's.

use anyhow::Result;

use super::{PATIENCE, Wrong, with_options, with_pod_template};

/// A Gateway whose data plane needs nothing special.
const PLAIN: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: NAME, namespace: calm}
spec:
  gatewayClassName: calm
  listeners: [{name: http, port: 80, protocol: HTTP}]
";

pub(super) fn objects(wrong: &Wrong<'_>) -> Result<()> {
    quota(wrong)?;
    pod_security(wrong)?;
    taken(wrong)?;
    one_name_for_two(wrong)
}

fn quota(wrong: &Wrong<'_>) -> Result<()> {
    wrong.does("kubectl create quota full -n calm --hard=count/deployments.apps=0")?;
    let counted =
        "kubectl get quota full -n calm -o jsonpath='{.status.hard.count/deployments\\.apps} {.status.used}'";
    wrong.run.cluster.until(counted, |said| said.starts_with("0 ") && said.contains("deployments.apps"))?;
    is_told(wrong, "quota", &["Deployment calm/weir-quota cannot be written", "exceeded quota: full"])?;
    wrong.does("kubectl delete quota full -n calm")?;
    comes(wrong, "quota")
}

/// The Deployment is taken, and no pod of it.
fn pod_security(wrong: &Wrong<'_>) -> Result<()> {
    wrong.run.restrict("calm")?;
    let loose = "{spec: {containers: [{name: proxy, securityContext: {allowPrivilegeEscalation: true}}]}}";
    wrong.apply("loose", &with_pod_template("loose", loose))?;
    let words = ["NoResources", "Deployment calm/weir-loose: no pod is available", "violates PodSecurity"];
    wrong.condition("-n calm gateway/loose", "Programmed", "False", &words)?;
    wrong.is_calm()?;
    wrong.apply("strict", &with_pod_template("loose", "{}"))?;
    wrong.condition_within(2 * PATIENCE, "-n calm gateway/loose", "Programmed", "True", &[])?;
    wrong.does("kubectl label namespace calm pod-security.kubernetes.io/enforce-")?;
    wrong.does("kubectl delete -n calm gateway/loose gatewayconfiguration/loose").map(drop)
}

/// A Service of the name is there, and nobody touches it.
fn taken(wrong: &Wrong<'_>) -> Result<()> {
    wrong.does("kubectl create service clusterip weir-taken -n calm --tcp=80:80")?;
    let services = "services -n calm --field-selector metadata.name=weir-taken";
    let before = wrong.version_of(services)?;
    let words = ["Service calm/weir-taken cannot be written", "Weir did not make it"];
    is_told(wrong, "taken", &words)?;
    anyhow::ensure!(wrong.version_of(services)? == before, "somebody else's Service was written to");
    wrong.does("kubectl delete service weir-taken -n calm")?;
    comes(wrong, "taken")
}

fn one_name_for_two(wrong: &Wrong<'_>) -> Result<()> {
    wrong.apply("named", &named("first"))?;
    wrong.condition("-n calm gateway/first", "Programmed", "True", &[])?;
    wrong.apply("named-too", &named("second"))?;
    let words = ["NoResources", "Service calm/front is that of Gateway calm/first"];
    wrong.condition("-n calm gateway/second", "Programmed", "False", &words)?;
    wrong.condition("-n calm gateway/first", "Programmed", "True", &[])?;
    let whose = "kubectl get service front -n calm -o jsonpath='{.metadata.ownerReferences[*].name}'";
    wrong.run.cluster.says(whose, "first")?;
    wrong.is_calm()?;
    wrong.does("kubectl delete -n calm gateway/first gatewayconfiguration/first")?;
    wrong.condition("-n calm gateway/second", "Programmed", "True", &[])?;
    wrong.does("kubectl delete -n calm gateway/second gatewayconfiguration/second").map(drop)
}

/// A Gateway whose Service is called `front`.
fn named(gateway: &str) -> String {
    with_options(gateway, "{network: {services: {ingress: {name: front}}}}")
}

/// A Gateway that says why it is not programmed, while nobody is busy with it.
fn is_told(wrong: &Wrong<'_>, name: &str, words: &[&str]) -> Result<()> {
    wrong.apply(name, &PLAIN.replace("NAME", name))?;
    let words: Vec<&str> = ["NoResources"].iter().chain(words).copied().collect();
    wrong.condition(&format!("-n calm gateway/{name}"), "Programmed", "False", &words)?;
    wrong.is_calm()
}

/// It is programmed when what was in the way is gone.
fn comes(wrong: &Wrong<'_>, name: &str) -> Result<()> {
    wrong.condition(&format!("-n calm gateway/{name}"), "Programmed", "True", &[])?;
    wrong.does(&format!("kubectl delete -n calm gateway/{name}")).map(drop)
}

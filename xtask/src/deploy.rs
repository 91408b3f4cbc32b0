//! The plain YAML of the installation, made from the Helm chart: `deploy/weir.yaml`.
//!
//! Owns how the chart's rendering becomes that file, that the kustomize base is all of it, and what holds of the chart itself: it lints,
//! and its schema refuses what it should. Invariant: what `kubectl apply` installs is what `helm install weir -n weir-system` does.
//! Deliberately absent: definitions of kinds. They are files of their own, so that deleting an installation deletes no
//! object of theirs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::step;

/// The variable that names a Helm which is not on the path.
const HELM: &str = "WEIR_HELM";
const CHART: &str = "deploy/helm/weir";
const PLAIN: &str = "deploy/weir.yaml";
const BASE: &str = "deploy/kustomization.yaml";

const HEAD: &str = "\
# Weir in the namespace weir-system, as `helm install weir deploy/helm/weir -n weir-system` makes it.
# Made by `cargo xtask codegen deploy` from the chart; do not edit. The kinds come first: those of the Gateway API, without which
# the GatewayClass is not taken, and Weir's own:
#   kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.6.1/standard-install.yaml
#   kubectl apply --server-side -f deploy/helm/weir/crds
apiVersion: v1
kind: Namespace
metadata:
  name: weir-system
  labels:
    pod-security.kubernetes.io/enforce: restricted
    pod-security.kubernetes.io/warn: restricted
";

/// Values that the schema or a template has to refuse, and a word of what it says then.
const REFUSED: &[(&str, &str)] = &[
    ("controller.replicas=two", "replicas"),
    ("gatewayProxy.service.type=ExternalName", "type"),
    ("image.digest=latest", "digest"),
    ("image.pullPolicy=Sometimes", "pullPolicy"),
    ("watchNamespaces[0]=Not A Name", "watchNamespaces"),
    ("gatewayproxy.replicas=2", "gatewayproxy"),
    ("gatewayProxy.service.loadBalancerSourceRanges[0]=all", "loadBalancerSourceRanges"),
    ("certificates.authorityLifetimeSeconds=86400", "three times"),
    ("gatewayProxy.drainDelaySeconds=60", "terminationGracePeriodSeconds is 45"),
    ("gatewayProxy.terminationGracePeriodSeconds=39", "drainDelaySeconds (5)"),
    ("gatewayProxy.autoscaling.enabled=true,gatewayProxy.autoscaling.minReplicas=11", "maxReplicas"),
    (r"gatewayProxy.podLabels.app\.kubernetes\.io/component=a", "podLabels"),
    (r"gatewayProxy.podLabels.gateway\.networking\.k8s\.io/gateway-name=a", "podLabels"),
    (r"gatewayProxy.service.labels.weir\.dev/instance=a", "labels"),
    (r"controller.podLabels.app\.kubernetes\.io/name=a", "podLabels"),
    (r"monitoring.labels.app\.kubernetes\.io/version=a", "labels"),
];

/// `helm`, or why it cannot be used.
pub(crate) fn helm() -> Result<Command> {
    let program = std::env::var_os(HELM).unwrap_or_else(|| "helm".into());
    ensure!(
        step::is_installed(&program.to_string_lossy(), &["version", "--short"]),
        "helm is missing ({HELM} names one; go install helm.sh/helm/v4/cmd/helm@latest)"
    );
    Ok(Command::new(program))
}

/// Writes the plain YAML, or, with `check`, says that it is not what would be written.
pub(crate) fn generate(root: &Path, check: bool) -> Result<()> {
    let text = rendered(root)?;
    let path = root.join(PLAIN);
    if fs::read_to_string(&path).is_ok_and(|known| known == text) {
        return Ok(());
    }
    ensure!(!check, "{PLAIN} is not what the chart renders");
    fs::write(&path, text).with_context(|| PLAIN.to_owned())
}

/// Says what the kustomize base has too little or too much: it is every definition of the chart's, and the plain YAML.
pub(crate) fn base_is_whole(root: &Path) -> Result<()> {
    let text = fs::read_to_string(root.join(BASE)).context(BASE)?;
    let base: Value = serde_saphyr::from_str(&text).context(BASE)?;
    let listed = base["resources"].as_array().into_iter().flatten();
    let listed: BTreeSet<String> = listed.filter_map(|path| path.as_str().map(str::to_owned)).collect();
    let mut wanted = BTreeSet::from(["weir.yaml".to_owned()]);
    for entry in fs::read_dir(root.join(CHART).join("crds"))? {
        wanted.insert(format!("helm/weir/crds/{}", entry?.file_name().to_string_lossy()));
    }
    let wrong = difference(&listed, &wanted);
    ensure!(wrong.is_empty(), "{BASE}: {}", wrong.join(", "));
    Ok(())
}

fn difference(listed: &BTreeSet<String>, wanted: &BTreeSet<String>) -> Vec<String> {
    let missing = wanted.difference(listed).map(|path| format!("{path} is missing"));
    let strange = listed.difference(wanted).map(|path| format!("{path} is too much"));
    missing.chain(strange).collect()
}

/// The chart as it is installed with no option in a cluster that has the Gateway API.
fn rendered(root: &Path) -> Result<String> {
    let class = "--api-versions=gateway.networking.k8s.io/v1/GatewayClass";
    // Whoever applies a file cannot look first whether there is a class of Kong's already.
    let text = template(root, &["--namespace=weir-system", class, "--set=ingressClass.create=false"])?;
    let mut whole = HEAD.to_owned();
    for document in text.split("---\n") {
        let lines = document.lines().filter(|line| !line.starts_with("# Source: "));
        let document = lines.map(str::trim_end).collect::<Vec<_>>().join("\n");
        if !document.trim().is_empty() {
            whole.push_str("---\n");
            whole.push_str(document.trim());
            whole.push('\n');
        }
    }
    Ok(whole)
}

fn template(root: &Path, options: &[&str]) -> Result<String> {
    let output = helm()?
        .current_dir(root)
        .args(["template", "weir", CHART, "--skip-tests"])
        .args(options)
        .stdin(Stdio::null())
        .output()
        .context("helm did not start")?;
    ensure!(output.status.success(), "helm template: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// Lints the chart, and tries values that it has to refuse and sets that it has to take.
pub(crate) fn try_chart(root: &Path) -> Result<()> {
    let output = helm()?.current_dir(root).args(["lint", "--strict", CHART]).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "helm lint: {}", String::from_utf8_lossy(&output.stdout).trim());
    for (value, word) in REFUSED {
        match template(root, &["--set", value]) {
            Ok(_) => bail!("{CHART} lets {value} through"),
            Err(error) if format!("{error:#}").contains(word) => {}
            Err(error) => bail!("{value} was refused for another reason: {error:#}"),
        }
    }
    let long = "a".repeat(47);
    let named = |name: &str, namespace: &str| {
        let mut helm = helm()?;
        helm.current_dir(root).args(["template", name, CHART, "--namespace", namespace]).stdin(Stdio::null());
        let output = helm.output()?;
        Ok::<_, anyhow::Error>((
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ))
    };
    ensure!(!named(&long, "a")?.0, "{CHART} takes a release whose name is too long");
    ensure!(!named("kong.example", "a")?.0, "{CHART} takes a release with a dot in its name");
    ensure!(!named("1kong", "a")?.0, "{CHART} takes a release whose name begins with a digit");
    let (taken, why) = named("kong", "kong")?;
    ensure!(taken, "{CHART} refuses the release of the guides: {why}");
    let scoped = template(root, &["--namespace=weir-system", "--set=watchNamespaces={a,b}"])?;
    let roles = scoped.matches("\nkind: Role\n").count();
    ensure!(
        roles == 5,
        "watchNamespaces=a,b makes {roles} Roles; one in a, b, weir-system and default, and that of the Lease are 5"
    );
    let of_cluster = scoped.split("---\n").find(|document| document.contains("\nkind: ClusterRole\n"));
    let of_cluster = of_cluster.context("no ClusterRole with watchNamespaces")?;
    ensure!(!of_cluster.contains("secrets"), "with watchNamespaces the ClusterRole still reads Secrets");
    let inside = template(
        root,
        &[
            "--set=gatewayProxy.service.type=ClusterIP,gatewayProxy.service.loadBalancerClass=a,gatewayProxy.service.loadBalancerIP=192.0.2.1",
        ],
    )?;
    ensure!(!inside.contains("loadBalancer"), "a Service without a load balancer names one's fields");
    watched_by_prometheus(root)
}

/// The objects for Prometheus's operator name the ports and labels that the chart's others have.
fn watched_by_prometheus(root: &Path) -> Result<()> {
    let all = template(root, &["--set=monitoring.enabled=true,monitoring.labels.team=a"])?;
    let of = |kind: &str| {
        let line = format!("\nkind: {kind}\n");
        let found = all.split("---\n").find(|document| document.contains(&line));
        found.with_context(|| format!("no {kind} with monitoring.enabled"))
    };
    for (kind, looks_for) in [
        ("ServiceMonitor", "app.kubernetes.io/component: controller"),
        ("PodMonitor", "weir.dev/instance: default.weir"),
    ] {
        let object = of(kind)?;
        for wanted in [looks_for, "port: admin", "path: /metrics", "interval: 30s", "\n    team: a\n"] {
            ensure!(object.contains(wanted), "no {wanted:?} in the {kind}:\n{object}");
        }
        let holders = all.matches(looks_for).count() - object.matches(looks_for).count();
        ensure!(holders > 0, "nothing has the label {looks_for} by which the {kind} looks");
    }
    ensure!(of("Service")?.contains("name: admin"), "the controllers' Service has no port named admin");
    let elsewhere = template(root, &["--set=monitoring.enabled=true,watchNamespaces={a,b}"])?;
    ensure!(
        elsewhere.contains("matchNames:\n      - a\n      - b\n"),
        "the PodMonitor looks in other namespaces"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_lacks_nothing_and_has_nothing_else() {
        let of = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(difference(&of(&["a", "b"]), &of(&["b", "a"])), [""; 0]);
        assert_eq!(difference(&of(&["a", "c"]), &of(&["a", "b"])), ["b is missing", "c is too much"]);
    }
}

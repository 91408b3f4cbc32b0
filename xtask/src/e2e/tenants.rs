//! What a tenant must not have: another's keys, backends, hostnames, a say in how another's backends are reached, and the snapshot of
//! another's data plane.
//!
//! Owns one attempt each, with the rights that a tenant or a data plane has. Each is tried, and what comes of it is looked at both in the
//! status and in what is served.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Run;

const MANIFESTS: &str = include_str!("tenants.yaml");
const INTRUDER: &str = include_str!("intruder.yaml");
const CRAFTED: &str = include_str!("crafted.yaml");

/// How often what is served is asked for.
const REQUESTS: usize = 50;

/// With the release `kong` in the namespace `kong`.
pub(super) fn attempts(run: &Run<'_>) -> Result<()> {
    let cluster = run.cluster;
    let manifests = run.folder.join("tenants.yaml");
    std::fs::write(&manifests, MANIFESTS).context("writing the manifests")?;
    cluster.does(&format!("kubectl apply -f {}", manifests.display()))?;
    let certificate = "cd $(mktemp -d) && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
                       -subj /CN=a.example -keyout key -out cert 2>/dev/null \
                       && kubectl create secret tls key -n tenant-a --cert=cert --key=key";
    cluster.does(certificate)?;
    for (gateway, namespace) in [("a", "tenant-a"), ("b", "tenant-b")] {
        let wait = format!(
            "kubectl wait -n {namespace} --for=condition=Programmed gateway/{gateway} --timeout=120s"
        );
        cluster.does(&wait)?;
    }
    cluster.does("kubectl rollout status -n tenant-a deployment/steady --timeout=120s")?;
    run.wait_accepted("httproute/own", "tenant-a")?;
    rights(run)?;
    references(run)?;
    hostname(run)?;
    admin_port(run)?;
    snapshot(run)?;
    crafted(run)?;
    cluster.does("kubectl delete gateway -n tenant-a a && kubectl delete gateway -n tenant-b b")?;
    cluster.does("kubectl delete namespace tenant-a tenant-b --timeout=120s").map(drop)
}

/// The ServiceAccounts of data planes may do nothing, and the token in their pods is no token of the API's.
fn rights(run: &Run<'_>) -> Result<()> {
    let cluster = run.cluster;
    for account in ["kong:kong-gateway-proxy", "tenant-a:weir-a"] {
        for what in ["list secrets", "get configmaps", "list gateways.gateway.networking.k8s.io"] {
            let line = format!("kubectl auth can-i {what} -A --as=system:serviceaccount:{account} || true");
            cluster.says(&line, "no\n")?;
        }
    }
    let mounted = "kubectl get pods -n tenant-a -l weir.dev/component=data-plane -o jsonpath='{.items[*].spec.volumes[*].projected.sources[*].serviceAccountToken.audience}'";
    cluster.says(mounted, "weir.dev/controller")?;
    let shown = "curl -s -o /dev/null -w '%{http_code}' -k -H \"Authorization: Bearer $(kubectl create token -n tenant-a weir-a \
                 --audience weir.dev/controller)\" $(kubectl config view --minify -o jsonpath='{.clusters[0].cluster.server}')/api/v1/secrets";
    cluster.says(shown, "401")
}

/// A key and a backend of another namespace, without its grant.
fn references(run: &Run<'_>) -> Result<()> {
    let key = "kubectl get gateway b -n tenant-b -o jsonpath='{.status.listeners[?(@.name==\"https\")].conditions[?(@.type==\"ResolvedRefs\")].reason}'";
    run.cluster.until(key, |reason| reason == "RefNotPermitted").context("a key of another")?;
    let backend = "kubectl get httproute foreign -n tenant-b -o jsonpath='{.status.parents[0].conditions[?(@.type==\"ResolvedRefs\")].reason}'";
    run.cluster.until(backend, |reason| reason == "RefNotPermitted").context("a backend of another")?;
    let served = format!("{}; curl -s -o /dev/null -w '%{{http_code}}' http://$ADDRESS/ready", address("b"));
    run.cluster.says(&served, "500")
}

/// A route to a listener that takes routes of its own namespace alone.
fn hostname(run: &Run<'_>) -> Result<()> {
    let refused = "kubectl get httproute taken -n tenant-b -o jsonpath='{.status.parents[0].conditions[?(@.type==\"Accepted\")].reason}'";
    run.cluster
        .until(refused, |reason| reason == "NotAllowedByListeners")
        .context("a hostname of another")?;
    let served = format!("{}; curl -s -H 'Host: a.example' http://$ADDRESS/ready", address("a"));
    run.cluster.says(&served, "ok")
}

/// A listener on the port on which pods tell what they serve.
fn admin_port(run: &Run<'_>) -> Result<()> {
    let refused = "kubectl get gateway b -n tenant-b -o jsonpath='{.status.listeners[?(@.name==\"admin\")].conditions[?(@.type==\"Accepted\")].reason}'";
    run.cluster.until(refused, |reason| reason == "PortUnavailable").context("the admin port")?;
    let shown =
        "kubectl get service weir-b -n tenant-b -o jsonpath='{.spec.ports[*].port}' | grep -c 19901 || true";
    run.cluster.says(shown, "0\n")
}

/// The credentials of one data plane, shown for another.
fn snapshot(run: &Run<'_>) -> Result<()> {
    let manifest = run.folder.join("intruder.yaml");
    std::fs::write(&manifest, INTRUDER).context("writing the manifest")?;
    run.cluster.does(&format!("kubectl apply -f {}", manifest.display()))?;
    let line = "curl -s -m 5 http://$(kubectl get pod intruder -n tenant-b -o jsonpath='{.status.podIP}'):19901/readyz";
    let word = run
        .cluster
        .until(line, |word| word.contains("the token is that of system:serviceaccount:tenant-b:weir-b"))
        .context("a snapshot of another")?;
    ensure!(word.starts_with("not ready"), "{word}");
    println!("    the intruder: {}", word.trim());
    Ok(())
}

/// Policies for a Service that is called as another's, and a data plane that is said to be another's: nothing of the other changes.
fn crafted(run: &Run<'_>) -> Result<()> {
    let cluster = run.cluster;
    let of_a = "curl -s -f -m 5 http://$(kubectl get pods -n tenant-a -l weir.dev/component=data-plane -o jsonpath='{.items[*].status.podIP}'):19901/snapshot";
    let before = cluster.shell(of_a)?;
    ensure!(before.contains("tenant-a/steady"), "what the other has is not this: {before}");
    let manifests = run.folder.join("crafted.yaml");
    std::fs::write(&manifests, CRAFTED).context("writing the manifests")?;
    cluster.does(&format!("kubectl apply -f {}", manifests.display()))?;
    run.wait_accepted("httproute/own", "tenant-b")?;
    // Both hold, for the tenant's own Gateway and no other.
    for policy in ["backendpolicy", "backendtlspolicy"] {
        let told = format!(
            "kubectl get {policy} steady -n tenant-b -o jsonpath='{{range .status.ancestors[*]}}{{.ancestorRef.namespace}}/{{.ancestorRef.name}} \
             {{.conditions[?(@.type==\"Accepted\")].status}} {{end}}'"
        );
        let is = |said: &str| said.trim() == "tenant-b/b True" || said.trim() == "/b True";
        cluster.until(&told, is).with_context(|| format!("{policy} of tenant-b"))?;
    }
    let pod = "$(kubectl get pods -n tenant-b -l gateway.networking.k8s.io/gateway-name=crafted -o jsonpath='{.items[0].status.podIP}')";
    let word = format!("curl -s -m 5 http://{pod}:19901/readyz");
    let refused = "the token is that of system:serviceaccount:tenant-b:weir-crafted";
    let word = cluster.until(&word, |word| word.contains(refused)).context("a snapshot of another")?;
    ensure!(word.starts_with("not ready"), "{word}");
    println!("    the crafted one: {}", word.trim());
    let has = cluster.shell(&format!("curl -s -m 5 http://{pod}:19901/snapshot"))?;
    let has: Value = serde_json::from_str(&has).with_context(|| has.clone())?;
    ensure!(has.pointer("/planes/0/entries").is_some_and(|entries| *entries == json!([])), "{has}");
    let programmed = "kubectl get gateway crafted -n tenant-b -o jsonpath='{.status.conditions[?(@.type==\"Programmed\")].status}'";
    cluster.until(programmed, |status| status == "False").context("it serves nothing")?;

    ensure!(cluster.shell(of_a)? == before, "what the data plane of tenant-a has is another than before");
    let served = format!(
        "{}; for i in {{1..{REQUESTS}}}; do curl -s -m 5 -H 'Host: a.example' http://$ADDRESS/ready; done",
        address("a")
    );
    cluster.says(&served, &"ok".repeat(REQUESTS))?;
    let made = "kubectl get deployments,services,serviceaccounts -n tenant-a -l weir.dev/instance=kong.kong \
                -o jsonpath='{.items[*].metadata.name}'";
    cluster.says(made, "weir-a weir-a weir-a")?;
    cluster.does("kubectl delete gateway crafted -n tenant-b").map(drop)
}

fn address(gateway: &str) -> String {
    format!(
        "ADDRESS=$(kubectl get gateway {gateway} -n tenant-{gateway} -o jsonpath='{{.status.addresses[0].value}}')"
    )
}

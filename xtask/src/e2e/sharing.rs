//! Unmanaged Gateways share one data plane; one of them gets its own when its class changes, and goes back.
//!
//! Owns what is seen of it: addresses, who says with whom it shares, whose routes answer where.

use anyhow::{Context as _, Result, ensure};

use super::Run;
use super::guides::PROXY_IP;

/// With the release `kong` in the namespace `kong`.
pub(super) fn shared_and_moved(run: &Run<'_>) -> Result<()> {
    let cluster = run.cluster;
    cluster.does("kubectl apply -f examples/kic/gateway-v1.yaml -n kong")?;
    cluster.does("kubectl apply -f examples/kic/gateway.yaml -n default")?;
    for namespace in ["kong", "default"] {
        run.wait_gateway(namespace)?;
    }
    for file in ["echo-services.yaml", "httproute.yaml"] {
        cluster.does(&format!("kubectl apply -f examples/kic/{file} -n kong"))?;
    }
    run.wait_deployments(&["echo", "echo2"], "kong")?;
    run.wait_route("echo", "kong")?;
    let elsewhere = run.folder.join("sharing.yaml");
    std::fs::write(&elsewhere, ELSEWHERE).context("writing the route")?;
    cluster.does(&format!("kubectl apply -f {}", elsewhere.display()))?;
    run.wait_route("elsewhere", "default")?;
    let shared = cluster.shell(&format!("{PROXY_IP}; echo -n $PROXY_IP"))?;
    for (namespace, other) in [("kong", "default/kong"), ("default", "kong/kong")] {
        ensure!(address(run, namespace)? == shared, "Gateway {namespace}/kong is not at {shared}");
        let accepted = "{.status.listeners[*].conditions[?(@.type==\"Accepted\")].status}";
        let line = format!(
            "kubectl get gateway kong -n {namespace} -o jsonpath='{accepted} {{.status.listeners[*].conditions[*].message}}'"
        );
        let says =
            |said: &str| said.starts_with("True ") && said.contains(&format!("Shared with Gateway {other}"));
        cluster.until(&line, says).with_context(|| format!("{namespace}/kong says with whom it shares"))?;
    }
    answers(run, &shared, true)?;
    redirects(run, &shared)?;

    // A class of the Operator's: an address and pods of its own, and the routes follow.
    cluster.does("kubectl apply -f examples/operator/gateway.yaml")?;
    let own = settled(run, "konghq.com/gateway-operator", |address| address != shared)?;
    let owners = "kubectl get deployments,services -n kong -l gateway.networking.k8s.io/gateway-name=kong \
                  -o jsonpath='{.items[*].metadata.ownerReferences[*].name}'";
    cluster.says(owners, "kong kong")?;
    answers(run, &own, true)?;
    answers(run, &shared, false)?;
    redirects(run, &shared)?;
    let alone = "kubectl get gateway kong -n default -o jsonpath='{.status.listeners}'";
    cluster.until(alone, |said| !said.contains("Shared with")).context("the other one shares no more")?;

    // And back.
    cluster.does("kubectl apply -f examples/kic/gateway-v1.yaml -n kong")?;
    settled(run, "konghq.com/kic-gateway-controller", |address| address == shared)?;
    let left = "kubectl get deployments,services,serviceaccounts,pods -n kong -l gateway.networking.k8s.io/gateway-name=kong -o name";
    cluster.until(left, str::is_empty).context("what was made for it goes")?;
    answers(run, &shared, true)?;

    cluster.does(&format!("kubectl delete -f {}", elsewhere.display()))?;
    cluster
        .does("kubectl delete -n kong -f examples/kic/httproute.yaml -f examples/kic/echo-services.yaml")?;
    cluster.does("kubectl delete gateway/kong -n default")?;
    cluster.does("kubectl delete -n kong gateway/kong gatewayconfiguration/gateway-configuration")?;
    cluster.does("kubectl delete gatewayclass kong gateway-class").map(drop)
}

fn address(run: &Run<'_>, namespace: &str) -> Result<String> {
    run.cluster.shell(&format!(
        "kubectl get gateway kong -n {namespace} -o jsonpath='{{.status.addresses[*].value}}'"
    ))
}

/// Waits until `kong/kong` is programmed at an address of which `is` holds, and its route is this controller's; that address.
fn settled(run: &Run<'_>, controller: &str, is: impl Fn(&str) -> bool) -> Result<String> {
    let state = "{.metadata.generation}{range .status.conditions[?(@.type==\"Programmed\")]} {.observedGeneration}{.status}{end}";
    let line = format!(
        "kubectl get gateway kong -n kong -o jsonpath='{state} {{.status.addresses[*].value}}'; echo; \
         kubectl get httproute echo -n kong -o jsonpath='{{.status.parents[*].controllerName}}'"
    );
    let of = |printed: &str| -> Option<String> {
        let words: Vec<&str> = printed.split_whitespace().collect();
        let [generation, state, address, whose] = words[..] else { return None };
        let is_so = state == format!("{generation}True") && whose == controller && is(address);
        is_so.then(|| address.to_owned())
    };
    let printed = run.cluster.until(&line, |printed| of(printed).is_some());
    let printed = printed.with_context(|| format!("kong/kong and its route are of {controller}"))?;
    run.wait_route("echo", "kong")?;
    of(&printed).context("an address")
}

/// Half and half at this address; or nothing that this route leads to.
fn answers(run: &Run<'_>, address: &str, is_there: bool) -> Result<()> {
    let path = format!("http://{address}/echo/hostname?iteration");
    if is_there {
        let line = format!(r#"curl -s -f "{path}=[1-20]" -w "\n""#);
        return run.assert_split(&line, ["echo", "echo2"], 10, 20, 0);
    }
    let line = format!("curl -s -m 5 -o /dev/null -w '%{{http_code}}' {path}");
    run.cluster.until(&line, |code| code == "404").context("the route is elsewhere").map(drop)
}

/// The route of the other Gateway answers.
fn redirects(run: &Run<'_>, address: &str) -> Result<()> {
    run.cluster
        .says(&format!("curl -s -m 5 -o /dev/null -w '%{{http_code}}' http://{address}/elsewhere"), "302")
}

const ELSEWHERE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: elsewhere, namespace: default}
spec:
  parentRefs: [{name: kong}]
  rules:
  - matches: [{path: {value: /elsewhere}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: elsewhere.example, statusCode: 302}}]
";

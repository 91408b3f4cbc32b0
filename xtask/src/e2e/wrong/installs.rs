//! Beside Kong, living or gone; two installations in one cluster, and one that reads some namespaces alone.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Wrong, at, at_calm, ten_times};
use crate::e2e::guides::CHART;

/// The second stands back and says so; it takes over what the first had made when that is uninstalled, and so does one that comes later.
/// Which is there at the end.
pub(super) fn second(wrong: &Wrong<'_>) -> Result<&'static str> {
    wrong.case("a second installation stands back", || stands_back(wrong))?;
    wrong.case("it takes over what the first leaves", || takes_over(wrong, "kong", "other"))?;
    if !wrong.long {
        return Ok("other");
    }
    wrong.case("a later one takes over", || {
        let at_classless = at("classless", &ten_times("ready"));
        // The class of this one is the release's, and goes with it.
        wrong.does("helm upgrade other deploy/helm/weir -n other")?;
        wrong.apply("classless", CLASSLESS)?;
        wrong.condition("-n calm gateway/classless", "Programmed", "True", &[])?;
        wrong.run.wait_accepted("httproute/classless", "calm")?;
        remove(wrong, "other")?;
        // Nobody is there, and what was served is served.
        wrong.is_served()?;
        wrong.run.cluster.says("kubectl get gatewayclass weir --ignore-not-found -o name", "")?;
        wrong.run.cluster.says(&at_classless, "")?;
        wrong.install("kong", "")?;
        is_kept_by(wrong, "kong")?;
        wrong.condition("-n calm gateway/classless", "Programmed", "True", &[])?;
        wrong.run.cluster.says(&at_classless, "")?;
        wrong.does("kubectl delete -n calm httproute/classless gateway/classless").map(drop)
    })?;
    // As Kong's ingress controller without a database does, which elects nobody.
    wrong.case("somebody writes what is Kong's", || {
        wrong.apply("left", KONGS)?;
        remove(wrong, "kong")?;
        wrong.install("kong", "")?;
        wrong.condition("-n calm gateway/left", "Programmed", "True", &[])?;
        // Again and again, as one that repairs what Weir wrote.
        let status = r#"{"status":{"addresses":[{"type":"IPAddress","value":"192.0.2.9"}]}}"#;
        let line = format!(
            "kubectl patch gateway left -n calm --subresource=status --type=merge --field-manager=manager -p '{status}' >/dev/null; \
             kubectl get events -n default --field-selector involvedObject.kind=GatewayClass,involvedObject.name=left \
             -o jsonpath='{{.items[*].message}}'"
        );
        let said = |messages: &str| messages.contains("it writes the status of Gateway calm/left");
        wrong.run.cluster.until(&line, said).context("the class is left alone")?;
        wrong.is_served()?;
        wrong.does("kubectl delete -n calm httproute/left gateway/left")?;
        wrong.does("kubectl delete gatewayclass left").map(drop)
    })?;
    // Under the name of the one before, with another authority: its data planes trust that when their kubelet has told them.
    wrong.case("the same installation again", || {
        remove(wrong, "kong")?;
        wrong.install("kong", "")?;
        wrong.is_served()?;
        wrong.condition("-n calm gateway/calm", "Programmed", "False", &["data plane calm/weir-calm"])?;
        wrong.is_calm()?;
        wrong.condition_within(
            Duration::from_secs(240),
            "-n calm gateway/calm",
            "Programmed",
            "True",
            &[],
        )?;
        is_kept_by(wrong, "kong")
    })?;
    Ok("kong")
}

/// Nobody renews an election Lease of Kong's. Where it is younger than the installation it takes nothing that is served, for anybody may write
/// it. Where it was there before, each controller that begins finds out first whether it is renewed; what a Gateway of Kong's class is
/// served by is told nothing else meanwhile.
pub(super) fn lease_of_kongs(wrong: &Wrong<'_>) -> Result<()> {
    wrong.apply("left", KONGS)?;
    wrong.condition("-n calm gateway/left", "Programmed", "True", &[])?;
    wrong.run.wait_accepted("httproute/left", "calm")?;
    wrong.run.cluster.says(&at_left(), "")?;
    wrong.apply("left-lease", KONGS_LEASE)?;
    let asked = wrong.of_controllers_in("kong", "readyz", "");
    wrong.does(RESTART)?;
    let said = are_rolled(wrong, &asked)?;
    ensure!(!said.contains("whether that still lives"), "a younger Lease was waited for: {said}");
    super::kinds::change(wrong)?;
    // The leader makes its own anew, which is the younger then.
    wrong.does("kubectl delete lease kong-weir-leader -n kong")?;
    let held = "kubectl get lease kong-weir-leader -n kong -o jsonpath='{.spec.holderIdentity}'";
    wrong.run.cluster.until(held, |holder| !holder.is_empty())?;
    wrong.does(RESTART)?;
    wrong
        .until_served(&format!("{}; {asked}", at_left()), |said| said.contains("whether that still lives"))?;
    are_rolled(wrong, &asked)?;
    wrong.controllers_say("kong", "whether that still lives", false)?;
    wrong.run.cluster.says(&at_left(), "")?;
    super::kinds::change(wrong)?;
    wrong.does(&format!("kubectl delete {KONGS_LEASE_NAME}"))?;
    wrong.does("kubectl delete -n calm httproute/left gateway/left")?;
    wrong.does("kubectl delete gatewayclass left").map(drop)
}

/// All controllers have been replaced, and the Gateway of Kong's class was served all the while. What `asked` printed last.
fn are_rolled(wrong: &Wrong<'_>, asked: &str) -> Result<String> {
    let rolled = "kubectl rollout status -n kong deployment/kong-controller --timeout=1s 2>&1 || true";
    let is_over = |said: &str| said.contains("failed") || said.contains("successfully rolled out");
    let line = format!("{}; {asked}; {rolled}", at_left());
    let said = wrong.run.cluster.until_within(&line, Duration::from_secs(240), is_over)?;
    ensure!(!said.lines().any(|row| row == "failed"), "requests failed: {said}");
    Ok(said)
}

/// Somebody renews the election Lease of Kong's: Kong's classes are left alone, and what is Weir's is not, until it is told to take over.
pub(super) fn kong_lives(wrong: &Wrong<'_>) -> Result<()> {
    let cluster = wrong.run.cluster;
    wrong.apply("kongs-lease", KONGS_LEASE)?;
    // It ends with the Lease, or by itself.
    let renews = format!(
        "bash -c 'for i in {{1..600}}; do sleep 1; kubectl patch {KONGS_LEASE_NAME} --type=merge \
         -p \"{{\\\"spec\\\":{{\\\"renewTime\\\":\\\"$(date -u +%Y-%m-%dT%H:%M:%S.%6NZ)\\\"}}}}\" >/dev/null 2>&1 || exit; done'"
    );
    let mut kong = cluster.start(&renews)?;
    let played = beside_kong(wrong);
    let ended = wrong.does(&format!("kubectl delete --ignore-not-found {KONGS_LEASE_NAME}"));
    kong.wait().context("whoever renews the Lease comes to no end")?;
    played.and(ended.map(drop))
}

fn beside_kong(wrong: &Wrong<'_>) -> Result<()> {
    let cluster = wrong.run.cluster;
    // As an installation that comes when Kong is there.
    wrong.does(RESTART)?;
    wrong.does("kubectl rollout status deployment/kong-controller -n kong --timeout=120s")?;
    wrong.controllers_say("kong", "kong-1 answers for konghq.com/kic-gateway-controller", true)?;
    wrong.apply("left", KONGS)?;
    wrong.event(
        "GatewayClass/left",
        "default",
        "StandingBack",
        "it renews Lease calm/5b374a9e.konghq.com",
    )?;
    super::kinds::change(wrong)?;
    wrong.is_calm()?;
    // What Kong's own controller would write is for that to write.
    for (object, types) in [("gatewayclass left", "Unknown"), ("gateway left -n calm", "Unknown Unknown")] {
        let line = format!("kubectl get {object} -o jsonpath='{{.status.conditions[*].status}}'");
        cluster.says(&line, types)?;
    }
    cluster.says("kubectl get httproute left -n calm -o jsonpath='{.status.parents}'", "")?;

    wrong.does(&format!("helm upgrade kong {CHART} -n kong --set takeOver=true"))?;
    wrong.does("kubectl rollout status deployment/kong-controller -n kong --timeout=120s")?;
    wrong.condition("gatewayclass/left", "Accepted", "True", &[])?;
    wrong.condition("-n calm gateway/left", "Programmed", "True", &[])?;
    wrong.run.wait_accepted("httproute/left", "calm")?;
    cluster.says(&at_left(), "")?;
    wrong.is_calm()?;
    wrong.does("kubectl delete -n calm httproute/left gateway/left")?;
    wrong.does("kubectl delete gatewayclass left")?;
    wrong.does(&format!("kubectl delete {KONGS_LEASE_NAME}"))?;
    wrong.does(&format!("helm upgrade kong {CHART} -n kong"))?;
    wrong.does("kubectl rollout status deployment/kong-controller -n kong --timeout=120s").map(drop)
}

fn remove(wrong: &Wrong<'_>, release: &str) -> Result<()> {
    wrong.does(&format!("helm uninstall {release} -n {release}"))?;
    wrong.does(&format!("kubectl delete namespace {release} --timeout=120s")).map(drop)
}

/// Takes the last installation away, and what it served first.
pub(super) fn leave(wrong: &Wrong<'_>, release: &str) -> Result<()> {
    wrong.does("kubectl delete gateway calm -n calm")?;
    let planes = "kubectl get deployments,services -n calm -l weir.dev/provisioned=gateway -o name";
    wrong.run.cluster.until(planes, str::is_empty).context("what was made for the Gateway goes with it")?;
    remove(wrong, release)
}

fn stands_back(wrong: &Wrong<'_>) -> Result<()> {
    wrong.install("other", "")?;
    wrong.controllers_say("other", "installation kong of Weir in namespace kong was there first", true)?;
    wrong.controllers_say("kong", "was there first", false)?;
    wrong.event("GatewayClass/calm", "default", "StandingBack", "kong/kong-weir-leader")?;
    // Two that write to one object write it again and again.
    let objects = "gatewayclasses,gateways,httproutes -A";
    let before = wrong.version_of(objects)?;
    std::thread::sleep(Duration::from_secs(if wrong.long { 120 } else { 5 }));
    wrong.is_calm()?;
    ensure!(wrong.version_of(objects)? == before, "something was written while nothing changed");
    Ok(())
}

fn takes_over(wrong: &Wrong<'_>, first: &str, next: &str) -> Result<()> {
    wrong.does(&format!("helm uninstall {first} -n {first}"))?;
    wrong.controllers_say(next, "was there first", false)?;
    is_kept_by(wrong, next)?;
    wrong.does(&format!("kubectl delete namespace {first} --timeout=120s")).map(drop)
}

/// The data plane of `calm` becomes that of a release, without a request that fails, and changes go through.
fn is_kept_by(wrong: &Wrong<'_>, release: &str) -> Result<()> {
    let instance = format!("{release}.{release}");
    let label = "kubectl get deployment,service -n calm -l gateway.networking.k8s.io/gateway-name=calm \
                 -o jsonpath='{.items[*].metadata.labels.weir\\.dev/instance}'";
    let asked = at_calm(&format!("{}; {label}", ten_times("ready")));
    let of_release = |said: &str| {
        let labels: Vec<&str> = said.split_whitespace().collect();
        labels.len() >= 2 && labels.iter().all(|label| *label == instance)
    };
    let said = wrong.until_served(&asked, of_release)?;
    println!("    {said}");
    let rolls = "kubectl rollout status -n calm deployment/weir-calm --timeout=1s 2>&1 || true";
    let rolled = at_calm(&format!("{}; {rolls}", ten_times("ready")));
    wrong.until_served(&rolled, |said| said.contains("successfully rolled out"))?;
    // Those of the installation before may still answer; no change reaches them.
    let pods = "kubectl get pods -n calm -l gateway.networking.k8s.io/gateway-name=calm -o name | wc -l";
    wrong.run.cluster.until(pods, |count| count.trim() == "1").context("the pods from before end")?;
    wrong.condition("-n calm gateway/calm", "Programmed", "True", &[])?;
    super::kinds::change(wrong)?;
    wrong.is_calm()
}

/// With `watchNamespaces` there are no rights elsewhere, and the classes say whose objects are read.
pub(super) fn some_namespaces(wrong: &Wrong<'_>, before: &str) -> Result<()> {
    remove(wrong, before)?;
    wrong.does("kubectl create namespace outside")?;
    wrong.case("some namespaces alone", || {
        wrong.install("scoped", "--set 'watchNamespaces={calm}'")?;
        for (what, place, may) in [
            ("list secrets", "-n outside", "no"),
            ("get secrets", "-n default", "no"),
            ("patch services", "-n outside", "no"),
            ("list secrets", "-A", "no"),
            ("list secrets", "-n calm", "yes"),
        ] {
            let account = "system:serviceaccount:scoped:scoped-controller";
            let line = format!("kubectl auth can-i {what} {place} --as={account} || true");
            wrong.run.cluster.says(&line, &format!("{may}\n"))?;
        }
        is_kept_by(wrong, "scoped")?;
        let words = ["Only objects in these namespaces are read: calm, scoped."];
        wrong.condition("gatewayclass/calm", "Accepted", "True", &words)?;
        wrong.apply("outside", OUTSIDE)?;
        wrong.is_calm()?;
        let status = "kubectl get gateway unread -n outside -o jsonpath='{.status.conditions[*].status}'";
        wrong.run.cluster.says(status, "Unknown Unknown")?;
        wrong.condition("-n calm gateway/calm", "Programmed", "True", &[])?;
        // An event about a class is in a namespace that is not read.
        wrong.apply("outside-class", LOST)?;
        wrong.event("GatewayClass/lost", "default", "InvalidParameters", "there is no")?;
        wrong.does("kubectl delete gatewayclass lost")?;
        wrong.controllers_say("scoped", "the API refuses", false).map(drop)
    })?;
    wrong.does("kubectl delete namespace outside --timeout=120s")?;
    leave(wrong, "scoped")
}

const RESTART: &str = "kubectl rollout restart deployment/kong-controller -n kong";

/// Asks the Gateway of Kong's class.
fn at_left() -> String {
    at("left", &ten_times("left"))
}

/// A Gateway of the class that belongs to the release, and a route.
const CLASSLESS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: classless, namespace: calm}
spec:
  gatewayClassName: weir
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: classless, namespace: calm}
spec:
  parentRefs: [{name: classless}]
  rules: [{backendRefs: [{name: steady, port: 80}]}]
";

/// As Kong's ingress controller calls it.
const KONGS_LEASE_NAME: &str = "-n calm lease/5b374a9e.konghq.com";

const KONGS_LEASE: &str = "
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: 5b374a9e.konghq.com, namespace: calm}
spec: {holderIdentity: kong-1, leaseDurationSeconds: 15, renewTime: '2026-01-01T00:00:00.000000Z'}
";

/// A class of Kong's, a Gateway of it, and a route.
const KONGS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: left, annotations: {konghq.com/gatewayclass-unmanaged: 'true'}}
spec: {controllerName: konghq.com/kic-gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: left, namespace: calm}
spec:
  gatewayClassName: left
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: left, namespace: calm}
spec:
  parentRefs: [{name: left}]
  rules:
  - matches: [{path: {value: /left}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /ready}}}]
    backendRefs: [{name: steady, port: 80}]
";

const LOST: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: lost}
spec:
  controllerName: weir.dev/gateway-controller
  parametersRef: {group: weir.dev, kind: GatewayParameters, namespace: calm, name: none}
";

const OUTSIDE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: unread, namespace: outside}
spec:
  gatewayClassName: calm
  listeners: [{name: http, port: 80, protocol: HTTP}]
";

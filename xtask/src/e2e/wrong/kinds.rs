//! Definitions of kinds that are not there, lose a version, go, change, or are of a newer release than Weir knows.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Wrong, at_calm};
use crate::e2e::guides::{CHART, Crds};

const ROUTES: &str = "httproutes.gateway.networking.k8s.io";

/// Installed before the Gateway API is: everything runs, says what is missing, and goes on when it is there.
pub(super) fn absent(wrong: &Wrong<'_>) -> Result<()> {
    wrong.install("kong", "")?;
    let said = wrong.controllers_say("kong", "install the CRDs of the Gateway API", true)?;
    ensure!(said.contains("GatewayClass, Gateway, HTTPRoute, ReferenceGrant"), "{said}");
    let logged = "kubectl -n kong logs -l app.kubernetes.io/component=controller --tail=-1 | grep -c 'kinds that are needed' || true";
    wrong.run.cluster.until(logged, |count| count.trim() == "2").context("each controller logs it once")?;
    wrong.run.install_kinds(Crds::Current)?;
    wrong.controllers_say("kong", "install the CRDs", false)?;
    // As the notes of the chart say: for the class.
    wrong.does(&format!("helm upgrade kong {CHART} -n kong"))?;
    wrong.condition("gatewayclass/weir", "Accepted", "True", &[])?;
    wrong.condition("gatewayclass/weir", "SupportedVersion", "True", &["v1.6.1"])?;
    wrong.make_calm()
}

/// The version that is read is not served any more: another one is read, and the first again when it is back.
pub(super) fn loses_a_version(wrong: &Wrong<'_>) -> Result<()> {
    serve(wrong, "v1", false)?;
    reads(wrong, "v1beta1")?;
    change_in(wrong, "v1beta1")?;
    wrong.is_calm()?;
    serve(wrong, "v1", true)?;
    reads(wrong, "v1")?;
    change(wrong)
}

fn serve(wrong: &Wrong<'_>, version: &str, is_served: bool) -> Result<()> {
    let at = wrong.shell(&format!("kubectl get crd {ROUTES} -o jsonpath='{{.spec.versions[*].name}}'"))?;
    let at = at.split_whitespace().position(|name| name == version).context("no such version")?;
    let patch = format!(r#"[{{"op":"replace","path":"/spec/versions/{at}/served","value":{is_served}}}]"#);
    wrong.does(&format!("kubectl patch crd {ROUTES} --type=json -p '{patch}'")).map(drop)
}

/// Each controller has logged that it reads the version last.
fn reads(wrong: &Wrong<'_>, version: &str) -> Result<()> {
    let logs = "kubectl -n kong logs --tail=-1";
    let line = format!(
        "for p in $(kubectl -n kong get pods -o name -l app.kubernetes.io/component=controller); do {logs} $p | \
         grep 'the version in which a kind is read changed' | grep 'kind=\"HTTPRoute\"' | tail -n 1; done"
    );
    let to = format!("to=\"{version}\"");
    let is = |said: &str| said.lines().count() == 2 && said.lines().all(|line| line.contains(&to));
    wrong.run.cluster.until(&line, is).with_context(|| format!("{version} is read")).map(drop)
}

/// A change of the route goes all the way.
pub(super) fn change(wrong: &Wrong<'_>) -> Result<()> {
    change_in(wrong, "v1")
}

/// The same in a version: `kubectl` remembers which there were.
fn change_in(wrong: &Wrong<'_>, version: &str) -> Result<()> {
    let route = format!("httproutes.{version}.gateway.networking.k8s.io/calm");
    let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
    let header = format!(
        r#"{{"type":"ResponseHeaderModifier","responseHeaderModifier":{{"set":[{{"name":"x-stamp","value":"{stamp}"}}]}}}}"#
    );
    let patch = format!(r#"[{{"op":"add","path":"/spec/rules/0/filters","value":[{header}]}}]"#);
    wrong.does(&format!("kubectl patch {route} -n calm --type=json -p '{patch}'"))?;
    wrong.run.wait_accepted(&route, "calm")?;
    let seen = wrong.shell(&at_calm("curl -s -i -m 5 http://$ADDRESS/ready"))?;
    ensure!(seen.contains(&format!("x-stamp: {stamp}")), "{seen}");
    Ok(())
}

/// A kind that was read is not served any more: every class says so. What its objects said goes with them.
pub(super) fn goes(wrong: &Wrong<'_>) -> Result<()> {
    wrong.does("kubectl delete crd tlsroutes.gateway.networking.k8s.io")?;
    wrong.condition("gatewayclass/calm", "weir.dev/KindsServed", "False", &["TLSRoute"])?;
    wrong.is_calm()?;
    wrong.run.install_kinds(Crds::Current)?;
    let told = "kubectl get gatewayclass calm -o jsonpath='{.status.conditions[*].type}'";
    wrong.run.cluster.until(told, |types| !types.contains("KindsServed")).context("it is back")?;
    // With its objects, and all of the kinds: the Gateways first.
    let crds = wrong.run.crds.join("standard");
    wrong.does("kubectl delete gateway calm -n calm --timeout=60s")?;
    wrong.does(&format!("kubectl delete --timeout=60s -f {}", crds.display()))?;
    wrong.controllers_say("kong", "install the CRDs of the Gateway API", true)?;
    wrong.run.install_kinds(Crds::Current)?;
    wrong.controllers_say("kong", "install the CRDs", false)?;
    wrong.make_calm()
}

/// Definitions that say that they are of a release which Weir does not know, with a version and a filter that it does not know.
pub(super) fn newer(wrong: &Wrong<'_>) -> Result<()> {
    let mut crd: Value = serde_json::from_str(&wrong.shell(&format!("kubectl get crd {ROUTES} -o json"))?)?;
    crd["metadata"]["annotations"]["gateway.networking.k8s.io/bundle-version"] = Value::from("v1.99.0");
    let versions = crd["spec"]["versions"].as_array_mut().context("versions")?;
    learn(&mut versions[0]);
    let mut newest = versions[0].clone();
    (newest["name"], newest["storage"]) = (Value::from("v3"), Value::from(false));
    versions.push(newest);
    let path = wrong.run.folder.join("wrong-newer.json");
    std::fs::write(&path, crd.to_string())?;
    wrong.does(&format!("kubectl replace -f {}", path.display()))?;
    wrong.condition(
        "gatewayclass/calm",
        "SupportedVersion",
        "False",
        &["UnsupportedVersion", ROUTES, "v1.99.0"],
    )?;
    wrong.condition("gatewayclass/calm", "Accepted", "True", &[])?;
    change(wrong)?;
    let future = r#"[{"op":"add","path":"/spec/rules/0/filters/-","value":{"type":"FutureFilter"}}]"#;
    wrong.does(&format!("kubectl patch httproute calm -n calm --type=json -p '{future}'"))?;
    let parents = "kubectl get httproute calm -n calm -o jsonpath='{.status.parents[0].conditions}'";
    wrong.run.cluster.until(parents, |said| said.contains("FutureFilter")).context("the filter is told")?;
    let back = r#"[{"op":"remove","path":"/spec/rules/0/filters"}]"#;
    wrong.does(&format!("kubectl patch httproute calm -n calm --type=json -p '{back}'"))?;
    wrong.run.wait_accepted("httproute/calm", "calm")?;
    wrong.is_calm()?;
    wrong.run.install_kinds(Crds::Current)?;
    wrong.condition("gatewayclass/calm", "SupportedVersion", "True", &["v1.6.1"]).map(drop)
}

/// Puts a type of filters that nobody knows beside those that there are.
fn learn(schema: &mut Value) {
    match schema {
        Value::Array(all) if all.iter().any(|one| one == "ExtensionRef") => {
            all.push(Value::from("FutureFilter"))
        }
        Value::Array(all) => all.iter_mut().for_each(learn),
        Value::Object(all) => all.values_mut().for_each(learn),
        _ => {}
    }
}

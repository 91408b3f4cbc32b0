//! Data planes that cannot be: parameters that are not there, an image that cannot start, a Service without an address. And annotations
//! that mean nothing here.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{Wrong, with_pod_template};
use crate::step::LEFT_OUT;

/// A class or a Gateway names parameters that are not there.
pub(super) fn no_parameters(wrong: &Wrong<'_>) -> Result<()> {
    wrong.apply("parameters", PARAMETERS)?;
    for (object, named) in [
        ("gatewayclass/lost", "GatewayParameters calm/of-class"),
        ("-n calm gateway/lost", "GatewayConfiguration calm/of-gateway"),
    ] {
        wrong.condition(object, "Accepted", "False", &["InvalidParameters", "there is no", named])?;
    }
    wrong.event("Gateway/lost", "calm", "InvalidParameters", "of-gateway")?;
    wrong.is_calm()?;
    wrong.apply("parameters-found", FOUND)?;
    wrong.condition("gatewayclass/lost", "Accepted", "True", &[])?;
    wrong.condition("-n calm gateway/lost", "Accepted", "True", &[])?;
    wrong.does(
        "kubectl delete -n calm gateway/lost gatewayparameters/of-class gatewayconfiguration/of-gateway",
    )?;
    wrong.does("kubectl delete gatewayclass lost").map(drop)
}

/// The class of a Gateway that is served is deleted: it goes on as the class last was, and one that is new is nobody's.
pub(super) fn no_class(wrong: &Wrong<'_>) -> Result<()> {
    wrong.does("kubectl delete gatewayclass calm")?;
    wrong.event("Gateway/calm", "calm", "GatewayClassNotFound", "goes on as the class last was")?;
    super::kinds::change(wrong)?;
    wrong.apply("classless-new", &with_pod_template("new", "{}"))?;
    wrong.event("Gateway/new", "calm", "GatewayClassNotFound", "nobody serves the Gateway")?;
    wrong.is_calm()?;
    wrong.apply("calm", super::MANIFESTS)?;
    wrong.condition("gatewayclass/calm", "Accepted", "True", &[])?;
    wrong.condition("-n calm gateway/new", "Programmed", "True", &[])?;
    super::kinds::change(wrong)?;
    wrong.does("kubectl delete -n calm gateway/new gatewayconfiguration/new").map(drop)
}

/// How long the kubelet is away: a node is lost after 50 s without a word.
const KUBELET_AWAY: u32 = 90;

/// Kubernetes calls every pod of a node not ready when it has not heard of the node for a while; they are asked all the same. What leads to
/// the data plane by its Service is closed then by Kubernetes itself, so the pod is asked.
pub(super) fn lost_node(wrong: &Wrong<'_>) -> Result<()> {
    let cluster = wrong.run.cluster;
    if !cluster.can_be_hurt() {
        println!("{LEFT_OUT}a node of which nobody has heard: nothing says how a component is taken away");
        ensure!(!wrong.run.options.strict, "left out, a failure with --strict");
        return Ok(());
    }
    let pod = "kubectl get pods -n calm -l gateway.networking.k8s.io/gateway-name=calm -o jsonpath='{.items[0].status.podIP}'";
    let address = wrong.shell(pod)?;
    let node = "kubectl get nodes -o jsonpath='{.items[*].status.conditions[?(@.type==\"Ready\")].status}'";
    let ready = "kubectl get endpointslices -n calm -l kubernetes.io/service-name=steady -o jsonpath='{.items[*].endpoints[*].conditions.ready}'";
    let ask = format!("[ \"$(curl -s -m 5 http://{address}/ready)\" = ok ] || echo failed; sleep 0.1");
    std::thread::scope(|scope| {
        let away = scope.spawn(|| cluster.restart("kubelet", KUBELET_AWAY));
        let asked = (|| {
            wrong.until_served(&format!("{ask}; {node}"), |said| said == "Unknown")?;
            wrong.until_served(&format!("{ask}; {ready}"), |said| said == "false")?;
            let many = wrong.shell(&format!("for i in {{1..60}}; do {ask}; done"))?;
            ensure!(many.is_empty(), "requests failed: {many}");
            Ok(())
        })();
        away.join().map_err(|_panic| anyhow!("taking the kubelet away came to no end"))??;
        asked
    })?;
    wrong.until_served(&format!("{ask}; {node}"), |said| said == "True")?;
    wrong.until_served(&format!("{ask}; {ready}"), |said| said == "true")?;
    wrong.condition("-n calm gateway/calm", "Programmed", "True", &[])?;
    // Kubernetes opens the way through the Service again.
    cluster.until(&super::at_calm("curl -s -m 5 http://$ADDRESS/ready"), |said| said == "ok")?;
    wrong.is_calm()
}

/// A pod template of a shape that definitions of kinds let through and no pod can have.
pub(super) fn odd_template(wrong: &Wrong<'_>) -> Result<()> {
    wrong.apply("template", &with_pod_template("odd", "{metadata: {labels: [a]}}"))?;
    wrong.event("Gateway/odd", "calm", "InvalidPodTemplate", "metadata.labels is not an object")?;
    wrong.condition("-n calm gateway/odd", "Programmed", "True", &[])?;
    wrong.is_calm()?;
    wrong.does("kubectl delete -n calm gateway/odd gatewayconfiguration/odd").map(drop)
}

/// The pods of a data plane have an image that nobody has: its Gateway says where to look, and what runs goes on.
pub(super) fn no_image(wrong: &Wrong<'_>) -> Result<()> {
    let template = "{spec: {containers: [{name: proxy, image: 'nowhere.example/weir:none'}]}}";
    wrong.apply("image", &with_pod_template("broken", template))?;
    let words = [
        "no endpoint of Service calm/weir-broken is ready",
        "Deployment calm/weir-broken",
        "nowhere.example/weir:none",
    ];
    wrong.condition("-n calm gateway/broken", "Programmed", "False", &words)?;
    if wrong.long {
        let words =
            ["NoResources", "Deployment calm/weir-broken: no pod is available", "nowhere.example/weir:none"];
        wrong.condition_within(
            Duration::from_secs(240),
            "-n calm gateway/broken",
            "Programmed",
            "False",
            &words,
        )?;
    }
    wrong.is_calm()?;
    let image = r#"[{"op":"remove","path":"/spec/dataPlaneOptions/deployment/podTemplateSpec/spec/containers/0/image"}]"#;
    wrong.does(&format!("kubectl patch -n calm gatewayconfiguration broken --type=json -p '{image}'"))?;
    wrong.condition("-n calm gateway/broken", "Programmed", "True", &[])?;
    wrong.does("kubectl delete -n calm gateway/broken gatewayconfiguration/broken").map(drop)
}

/// Nobody gives the Service of a Gateway an address, for seconds or for minutes.
pub(super) fn no_address(wrong: &Wrong<'_>) -> Result<()> {
    wrong.apply("address-policy", POLICY)?;
    let denied = "kubectl patch service steady -n calm --subresource=status --type=merge --dry-run=server -p '{\"status\":{\"conditions\":[]}}' 2>&1 || true";
    wrong
        .run
        .cluster
        .until(denied, |said| said.contains("no address today"))
        .context("the policy is in force")?;
    wrong.apply("address", LONELY)?;
    let words = ["AddressNotAssigned", "Service calm/weir-lonely has no address yet"];
    wrong.condition("-n calm gateway/lonely", "Programmed", "False", &words)?;
    let gateways = "gateways -n calm";
    let before = wrong.version_of(gateways)?;
    std::thread::sleep(Duration::from_secs(if wrong.long { 200 } else { 3 }));
    wrong.is_calm()?;
    wrong.condition("-n calm gateway/lonely", "Programmed", "False", &words)?;
    ensure!(wrong.version_of(gateways)? == before, "a Gateway was written to while nothing changed");
    wrong.does("kubectl delete validatingadmissionpolicybinding/wrong-address validatingadmissionpolicy/wrong-address")?;
    let given = "kubectl annotate --overwrite -n calm service weir-lonely look=$(date +%s%N) >/dev/null; \
                 kubectl get gateway lonely -n calm -o jsonpath='{.status.conditions[?(@.type==\"Programmed\")].status}'";
    wrong.run.cluster.until(given, |status| status == "True").context("it has an address")?;
    wrong.does("kubectl delete -n calm gateway/lonely").map(drop)
}

/// Kong's annotations that mean nothing here are told where they are written.
pub(super) fn annotations(wrong: &Wrong<'_>) -> Result<()> {
    wrong.does(
        "kubectl annotate -n calm gateway/calm service/steady konghq.com/plugins=limit konghq.com/retries=3",
    )?;
    wrong.event("Gateway/calm", "calm", "NotSupported", "konghq.com/plugins")?;
    wrong.event("Service/steady", "calm", "NotSupported", "a BackendPolicy has retries.attempts")?;
    wrong.is_served()?;
    wrong
        .does("kubectl annotate -n calm gateway/calm service/steady konghq.com/plugins- konghq.com/retries-")
        .map(drop)
}

const PARAMETERS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: lost}
spec:
  controllerName: weir.dev/gateway-controller
  parametersRef: {group: weir.dev, kind: GatewayParameters, namespace: calm, name: of-class}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: lost, namespace: calm}
spec:
  gatewayClassName: calm
  infrastructure: {parametersRef: {group: gateway-operator.konghq.com, kind: GatewayConfiguration, name: of-gateway}}
  listeners: [{name: http, port: 80, protocol: HTTP}]
";

const FOUND: &str = "
apiVersion: weir.dev/v1alpha1
kind: GatewayParameters
metadata: {name: of-class, namespace: calm}
spec: {drain: {timeout: 1s}}
---
apiVersion: gateway-operator.konghq.com/v2beta1
kind: GatewayConfiguration
metadata: {name: of-gateway, namespace: calm}
spec: {}
";

/// Statuses of Services in the namespace are not written, by whoever gives addresses.
const POLICY: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: wrong-address}
spec:
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: calm}}
    resourceRules: [{apiGroups: [''], apiVersions: [v1], operations: [UPDATE], resources: [services/status]}]
  validations: [{expression: 'false', message: no address today}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: wrong-address}
spec: {policyName: wrong-address, validationActions: [Deny]}
";

const LONELY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: lonely, namespace: calm}
spec:
  gatewayClassName: calm
  listeners: [{name: http, port: 80, protocol: HTTP}]
";

//! A Gateway's own data plane: what its owner may say of it, what is repaired, and what is left to whom it belongs.
//!
//! Owns the order in which it is asked for. Each wish is looked for in the objects that were made, and at the end of a request.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Run;

const MANIFESTS: &str = include_str!("managed.yaml");

/// Long enough for a controller to undo what it does not want, had it a mind to.
const SETTLED: Duration = Duration::from_secs(5);

struct Managed<'a> {
    run: &'a Run<'a>,
}

pub(super) fn asked_for(run: &Run<'_>) -> Result<()> {
    let managed = Managed { run };
    let manifests = run.folder.join("managed.yaml");
    std::fs::write(&manifests, MANIFESTS).context("writing the manifests")?;
    run.cluster.does(&format!("kubectl apply -f {}", manifests.display()))?;
    run.restrict("shop")?;
    run.cluster.does("kubectl rollout status deployment/backend -n shop --timeout=120s")?;
    managed.is_shaped()?;
    managed.listeners_come_and_go()?;
    managed.is_repaired()?;
    managed.is_exposed_otherwise()?;
    managed.is_scaled()?;
    managed.goes_with_its_gateway()?;
    run.cluster.does(&format!("kubectl delete --ignore-not-found -f {}", manifests.display())).map(drop)
}

impl Managed<'_> {
    fn get(&self, what: &str) -> Result<Value> {
        let printed = self.run.cluster.shell(&format!("kubectl get -n shop {what} -o json"))?;
        serde_json::from_str(&printed).with_context(|| what.to_owned())
    }

    /// The one object of a kind that was made for the Gateway.
    fn made(&self, kind: &str) -> Result<Value> {
        let list = self.get(&format!("{kind} -l gateway.networking.k8s.io/gateway-name=shop"))?;
        let items = list["items"].as_array().context("a list")?;
        ensure!(items.len() == 1, "{} {kind} instead of one", items.len());
        Ok(items[0].clone())
    }

    fn programmed(&self) -> Result<()> {
        let printed = "{.metadata.generation}{range .status.conditions[?(@.type==\"Programmed\")]} {.observedGeneration}{.status}{end}";
        let line = format!("kubectl get gateway shop -n shop -o jsonpath='{printed}'");
        let is = |text: &str| {
            text.split_once(' ').is_some_and(|(generation, state)| state == format!("{generation}True"))
        };
        self.run.cluster.until(&line, is).context("the Gateway is programmed").map(drop)
    }

    /// Nodes take a moment to route to a port of a Service that is new.
    fn answers(&self, address: &str) -> Result<()> {
        let line = format!("curl -s -m 5 -o /dev/null -w '%{{http_code}}' http://{address}/ready || true");
        self.run.cluster.until(&line, |code| code == "200").map(drop)
    }

    fn patch(&self, object: &str, patch: &str) -> Result<()> {
        self.run.cluster.does(&format!("kubectl patch -n shop {object} --type=merge -p '{patch}'")).map(drop)
    }

    fn configure(&self, options: &str) -> Result<()> {
        self.patch("gatewayconfiguration shaped", &format!(r#"{{"spec":{{"dataPlaneOptions":{options}}}}}"#))
    }

    /// What the configuration and `spec.infrastructure` say is in the objects.
    fn is_shaped(&self) -> Result<()> {
        self.programmed()?;
        self.run.wait_accepted("httproute/shop", "shop")?;
        for kind in ["deployment", "service", "serviceaccount", "poddisruptionbudget", "networkpolicy"] {
            let metadata = &self.made(kind)?["metadata"];
            has(kind, metadata, "/labels/shop~1tier", "front")?;
            has(kind, metadata, "/annotations/shop~1owner", "shop")?;
            has(kind, metadata, "/ownerReferences/0/name", "shop")?;
        }
        let deployment = self.made("deployment")?;
        has("the Deployment", &deployment, "/metadata/labels/team", "shop")?;
        ensure!(deployment["spec"]["replicas"] == 2, "two pods were asked for: {}", deployment["spec"]);
        let template = &deployment["spec"]["template"];
        has("the pod template", template, "/metadata/annotations/shop~1note", "merged")?;
        has("the pod template", template, "/metadata/labels/shop~1tier", "front")?;
        has("the container", template, "/spec/containers/0/image", "weir:dev")?;
        has("the container", template, "/spec/containers/0/resources/limits/memory", "256Mi")?;
        let names = template["spec"]["containers"][0]["env"].as_array().context("variables")?;
        ensure!(names.iter().any(|variable| variable["name"] == "KONG_LOG_LEVEL"), "merged: {names:?}");
        let events = "kubectl get events -n shop --field-selector reason=ImageReplaced -o jsonpath='{.items[*].message}'";
        self.run.cluster.until(events, |text| text.contains("kong/kong-gateway:3.12"))?;

        let service = self.made("service")?;
        has("the Service", &service, "/metadata/name", "front")?;
        has("the Service", &service, "/metadata/annotations/shop~1kind", "ingress")?;
        has("the Service", &service, "/spec/type", "NodePort")?;
        has("the Service", &service, "/spec/externalTrafficPolicy", "Local")?;
        ensure!(service["spec"]["ports"][0]["nodePort"] == 30_080, "{}", service["spec"]["ports"]);
        let budget = self.made("poddisruptionbudget")?;
        ensure!(budget["spec"]["minAvailable"] == 1, "{}", budget["spec"]);
        // The Operator shows the ClusterIP of a Service that no load balancer is for.
        let shown = self.get("gateway shop")?["status"]["addresses"][0]["value"].clone();
        ensure!(shown == service["spec"]["clusterIP"], "{shown} instead of {}", service["spec"]["clusterIP"]);
        self.answers(shown.as_str().context("an address")?)?;
        let node =
            "kubectl get nodes -o jsonpath='{.items[0].status.addresses[?(@.type==\"InternalIP\")].address}'";
        let node = self.run.cluster.shell(node)?;
        self.answers(&format!("{node}:30080"))
    }

    /// A port more or less is a port of the Service, and no new pod.
    fn listeners_come_and_go(&self) -> Result<()> {
        let before = self.made("deployment")?["metadata"]["generation"].clone();
        let http = r#"{"name":"http","port":80,"protocol":"HTTP"}"#;
        let more = r#"{"name":"more","port":8088,"protocol":"HTTP"}"#;
        self.patch("gateway shop", &format!(r#"{{"spec":{{"listeners":[{http},{more}]}}}}"#))?;
        self.programmed()?;
        let address =
            self.run.cluster.shell("kubectl get service front -n shop -o jsonpath='{.spec.clusterIP}'")?;
        self.answers(&format!("{address}:8088"))?;
        self.patch("gateway shop", &format!(r#"{{"spec":{{"listeners":[{http}]}}}}"#))?;
        let ports = "kubectl get service front -n shop -o jsonpath='{.spec.ports[*].port}'";
        self.run.cluster.until(ports, |ports| ports == "80")?;
        let after = self.made("deployment")?["metadata"]["generation"].clone();
        ensure!(before == after, "a listener changed the Deployment: generation {before} became {after}");
        Ok(())
    }

    /// Whatever is deleted or changed of what is ours is as it was within seconds.
    fn is_repaired(&self) -> Result<()> {
        let cluster = self.run.cluster;
        for kind in ["service", "poddisruptionbudget", "networkpolicy", "serviceaccount"] {
            let metadata = self.made(kind)?["metadata"].clone();
            let of = |field: &str| metadata[field].as_str().map(str::to_owned).context("no metadata");
            let (name, uid) = (of("name")?, of("uid")?);
            cluster.does(&format!("kubectl delete -n shop {kind}/{name} --wait=false"))?;
            let line = format!("kubectl get -n shop {kind}/{name} -o jsonpath='{{.metadata.uid}}'");
            cluster.until(&line, |now| !now.is_empty() && now != uid)?;
        }
        let name = self.deployment()?;
        let foreign =
            r#"[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"somebody/else:1"}]"#;
        cluster.does(&format!("kubectl patch -n shop deployment {name} --type=json -p '{foreign}'"))?;
        let image = "{.spec.template.spec.containers[0].image}";
        cluster.until(&format!("kubectl get deployment {name} -n shop -o jsonpath='{image}'"), |image| {
            image == "weir:dev"
        })?;
        self.programmed()
    }

    fn deployment(&self) -> Result<String> {
        let name = self.made("deployment")?["metadata"]["name"].as_str().map(str::to_owned);
        name.context("no name")
    }

    /// Another type of Service: the address follows.
    fn is_exposed_otherwise(&self) -> Result<()> {
        self.configure(r#"{"network":{"services":{"ingress":{"type":"LoadBalancer","externalTrafficPolicy":"Cluster"}}}}"#)?;
        let cluster = self.run.cluster;
        let given = cluster.until(
            "kubectl get service front -n shop -o jsonpath='{.status.loadBalancer.ingress[0].ip}'",
            |ip| !ip.is_empty(),
        )?;
        let shown = "kubectl get gateway shop -n shop -o jsonpath='{.status.addresses[*].value}'";
        cluster.until(shown, |addresses| addresses == given)?;
        self.programmed()?;
        self.answers(&given)
    }

    /// Pods are counted by whoever is to: the configuration, an autoscaler, or a person.
    fn is_scaled(&self) -> Result<()> {
        let cluster = self.run.cluster;
        let name = self.deployment()?;
        let replicas = format!("kubectl get deployment {name} -n shop -o jsonpath='{{.spec.replicas}}'");
        self.configure(
            r#"{"deployment":{"replicas":null,"scaling":{"horizontal":{"minReplicas":1,"maxReplicas":3}}}}"#,
        )?;
        let target = "kubectl get hpa -n shop -o jsonpath='{.items[*].spec.scaleTargetRef.name}'";
        cluster.until(target, |target| target == name)?;
        let autoscaler = self.made("hpa")?;
        ensure!(autoscaler["spec"]["maxReplicas"] == 3, "{}", autoscaler["spec"]);
        // As an autoscaler does.
        cluster.does(&format!("kubectl scale deployment {name} -n shop --replicas=3"))?;
        self.patch(
            "gateway shop",
            r#"{"spec":{"infrastructure":{"annotations":{"shop/owner":"another"}}}}"#,
        )?;
        cluster.until(
            &format!(
                "kubectl get deployment {name} -n shop -o jsonpath='{{.metadata.annotations.shop/owner}}'"
            ),
            |owner| owner == "another",
        )?;
        std::thread::sleep(SETTLED);
        cluster.says(&replicas, "3")?;
        self.configure(r#"{"deployment":{"replicas":1,"scaling":null}}"#)?;
        cluster.until(&replicas, |replicas| replicas == "1")?;
        cluster.until("kubectl get hpa -n shop -o name", str::is_empty).map(drop)
    }

    fn goes_with_its_gateway(&self) -> Result<()> {
        self.run.cluster.does("kubectl delete gateway shop -n shop")?;
        let left = "kubectl get deployments,services,serviceaccounts,poddisruptionbudgets,networkpolicies,hpa,configmaps,pods -n shop \
                    -o name | grep -v -e serviceaccount/default -e kube-root-ca.crt -e backend -e service/shop || true";
        self.run.cluster.until(left, str::is_empty).context("all that was made for it goes").map(drop)
    }
}

/// Whether an object has this where it should be.
fn has(what: &str, object: &Value, at: &str, wanted: &str) -> Result<()> {
    let found = object.pointer(at).unwrap_or(&Value::Null);
    ensure!(found == wanted, "{what}: {at} is {found}, not {wanted:?}");
    Ok(())
}

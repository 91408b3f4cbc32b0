//! The guides, line by line, with the counts that they promise.
//!
//! Owns which way each guide was published, and what is awaited between its lines: statuses, as a person would by
//! `kubectl wait`. A guide's own lines are run as they are printed.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::leftovers::Inventory;
use super::{Run, clients, crowd, faults, managed, plain, sharing, tenants, wrong};

pub(super) const CHART: &str = "deploy/helm/weir";

/// Which definitions of kinds are installed.
#[derive(Clone, Copy)]
pub(super) enum Crds {
    /// The bundle that the guides' times had: four kinds.
    V1_0_0,
    Current,
}

/// What a guide installs.
struct Release {
    /// The guide's line, with this chart.
    line: &'static str,
    name: &'static str,
    namespace: &'static str,
    /// Whether its namespace is there before, and takes only pods that keep to Pod Security's `restricted`.
    is_restricted: bool,
}

const INGRESS: Release = Release {
    line: "helm install kong deploy/helm/weir -n kong --create-namespace",
    name: "kong",
    namespace: "kong",
    is_restricted: false,
};

const OPERATOR: Release = Release {
    line: "helm upgrade --install kong-operator deploy/helm/weir -n kong-system --create-namespace",
    name: "kong-operator",
    namespace: "kong-system",
    is_restricted: true,
};

/// One way of Kong Ingress Controller's guide.
struct Kic {
    crds: Crds,
    gateway: &'static str,
    route: &'static str,
    namespace: &'static str,
    /// Class and Gateway are there before anything is installed.
    gateway_first: bool,
}

const KIC: &[Kic] = &[
    Kic {
        crds: Crds::V1_0_0,
        gateway: "gateway.yaml",
        route: "httproute.yaml",
        namespace: "default",
        gateway_first: true,
    },
    Kic {
        crds: Crds::Current,
        gateway: "gateway-v1.yaml",
        route: "httproute.yaml",
        namespace: "kong",
        gateway_first: false,
    },
];

/// Only with `--long`.
const KIC_LONG: &[Kic] = &[Kic {
    crds: Crds::Current,
    gateway: "gateway.yaml",
    route: "httproute-v1beta1.yaml",
    namespace: "default",
    gateway_first: false,
}];

pub(super) fn all(run: &Run<'_>) -> Result<()> {
    let long = KIC_LONG.iter().filter(|_| run.options.long);
    for guide in KIC.iter().chain(long) {
        let Kic { gateway, namespace, .. } = guide;
        run.scenario(&format!("kic/{gateway} in {namespace}"), |run| kic(run, guide))?;
    }
    run.scenario("simple-apps", |run| run.installed(&INGRESS, || simple_apps(run)))?;
    run.scenario("operator", |run| run.installed(&OPERATOR, || operator(run)))?;
    // What follows is no guide: what may be asked of a Gateway's own data plane, who shares one, what one tenant must not have of another's, …
    run.scenario("managed", |run| run.installed(&OPERATOR, || managed::asked_for(run)))?;
    run.scenario("sharing", |run| run.installed(&INGRESS, || sharing::shared_and_moved(run)))?;
    run.scenario("plain", plain::without_helm)?;
    run.scenario("tenants", |run| run.installed(&INGRESS, || tenants::attempts(run)))?;
    run.scenario("clients", |run| run.installed(&INGRESS, || run.shared_gateway(|| clients_ask(run))))?;
    run.scenario("wrong", wrong::all)?;
    // Minutes that say little of a change: at full length, or when asked for.
    if run.options.long || run.options.only.is_some() {
        let gathers = |run: &Run<'_>| crowd::gathers(run, "kong", "kong");
        run.scenario("crowd", |run| run.installed(&INGRESS, || run.shared_gateway(|| gathers(run))))?;
    }
    run.scenario("faults", |run| run.installed(&INGRESS, || run.shared_gateway(|| parts_end(run))))
}

impl Run<'_> {
    /// One part of the run, unless another was asked for.
    fn scenario(&self, name: &str, play: impl FnOnce(&Run<'_>) -> Result<()>) -> Result<()> {
        if self.options.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            return Ok(());
        }
        println!("==> {name}");
        let started = Instant::now();
        play(self).with_context(|| name.to_owned())?;
        println!("    {name} ok, {:.0} s", started.elapsed().as_secs_f64());
        Ok(())
    }

    pub(super) fn install_kinds(&self, crds: Crds) -> Result<()> {
        let folder = match crds {
            Crds::V1_0_0 => self.crds.join("older/v1.0.0"),
            Crds::Current => self.crds.join("standard"),
        };
        self.cluster
            .does(&format!("kubectl apply --server-side --force-conflicts -f {}", folder.display()))?;
        let wait = "kubectl wait --for=condition=Established crd/httproutes.gateway.networking.k8s.io \
                    crd/gateways.gateway.networking.k8s.io crd/gatewayclasses.gateway.networking.k8s.io --timeout=60s";
        self.cluster.shell(wait).map(drop)
    }

    /// The guides' line; what it installs is awaited as `rollout status` does.
    pub(super) fn install(&self, line: &str, release: &str, namespace: &str) -> Result<()> {
        self.cluster.does(line)?;
        for part in ["controller", "gateway-proxy"] {
            let line =
                format!("kubectl -n {namespace} rollout status deployment/{release}-{part} --timeout=120s");
            self.cluster.does(&line)?;
        }
        Ok(())
    }

    /// What is played with the current kinds and a release there, none of which leaves anything behind.
    fn installed(&self, release: &Release, play: impl FnOnce() -> Result<()>) -> Result<()> {
        let Release { line, name, namespace, is_restricted } = release;
        self.install_kinds(Crds::Current)?;
        let before = Inventory::take(self.cluster)?;
        if *is_restricted {
            self.cluster.does(&format!("kubectl create namespace {namespace}"))?;
            self.restrict(namespace)?;
        }
        self.install(line, name, namespace)?;
        play()?;
        self.uninstall(name, namespace, &before)
    }

    /// From now on a namespace takes only pods that keep to Pod Security's `restricted`, which another one is shown.
    pub(super) fn restrict(&self, namespace: &str) -> Result<()> {
        let label = "pod-security.kubernetes.io/enforce=restricted";
        self.cluster.does(&format!("kubectl label --overwrite namespace {namespace} {label}"))?;
        let loose =
            format!("kubectl run loose -n {namespace} --image=weir:dev --dry-run=server 2>&1 || true");
        let is_refused = |said: &str| said.contains("violates PodSecurity \"restricted:latest\"");
        self.cluster.until(&loose, is_refused).context("Pod Security is enforced").map(drop)
    }

    /// What is played at a Gateway of the shared data plane's.
    fn shared_gateway(&self, play: impl FnOnce() -> Result<()>) -> Result<()> {
        self.cluster.does("kubectl apply -f examples/kic/gateway-v1.yaml -n kong")?;
        self.wait_gateway("kong")?;
        play()?;
        self.cluster.does("kubectl delete -n kong gateway/kong gatewayclass/kong").map(drop)
    }

    /// Takes the release away, and the namespace that was made for it.
    fn uninstall(&self, release: &str, namespace: &str, before: &Inventory) -> Result<()> {
        self.cluster.does(&format!("helm uninstall {release} -n {namespace}"))?;
        let left = "kubectl get all,secrets,configmaps,leases,networkpolicies,poddisruptionbudgets,roles,rolebindings";
        let line = format!("{left} -n {namespace} -o name | grep -v -e configmap/kube-root-ca.crt || true");
        self.cluster
            .until(&line, str::is_empty)
            .context("objects of the release are left in its namespace")?;
        self.cluster.does(&format!("kubectl delete namespace {namespace} --timeout=120s"))?;
        before.is_restored(self.cluster)
    }

    pub(super) fn wait_gateway(&self, namespace: &str) -> Result<()> {
        self.cluster
            .does(&format!(
                "kubectl wait -n {namespace} --for=condition=Programmed gateway/kong --timeout=120s"
            ))
            .map(drop)
    }

    /// Accepted at its current generation.
    pub(super) fn wait_route(&self, name: &str, namespace: &str) -> Result<()> {
        self.wait_accepted(&format!("httproute/{name}"), namespace)
    }

    /// The same of any kind of route.
    pub(super) fn wait_accepted(&self, route: &str, namespace: &str) -> Result<()> {
        let conditions = "{.metadata.generation}{range .status.parents[*].conditions[?(@.type==\"Accepted\")]} \
                          {.observedGeneration}{.status}{end}";
        let line = format!("kubectl get {route} -n {namespace} -o jsonpath='{conditions}'");
        let is = |printed: &str| {
            printed.split_once(' ').is_some_and(|(generation, state)| state == format!("{generation}True"))
        };
        self.cluster.until(&line, is).context("the route is accepted").map(drop)
    }

    pub(super) fn wait_deployments(&self, names: &[&str], namespace: &str) -> Result<()> {
        for name in names {
            self.cluster
                .does(&format!("kubectl rollout status deployment/{name} -n {namespace} --timeout=120s"))?;
        }
        Ok(())
    }

    /// Lines counted by the Deployment whose pod printed them.
    fn counts(&self, line: &str) -> Result<BTreeMap<String, u64>> {
        println!("    $ {line}");
        let mut counts = BTreeMap::new();
        for pod in self.cluster.shell(line)?.lines() {
            let (number, pod) = match pod.trim_start().split_once(' ') {
                Some((number, pod)) => (number.parse().with_context(|| pod.to_owned())?, pod),
                None => (1, pod),
            };
            let deployment = pod.rsplitn(3, '-').nth(2).unwrap_or(pod);
            *counts.entry(deployment.to_owned()).or_default() += number;
        }
        println!("    {counts:?}");
        Ok(counts)
    }

    /// `first` of `all` go to the first; off by at most `slack`.
    pub(super) fn assert_split(
        &self,
        line: &str,
        names: [&str; 2],
        first: u64,
        all: u64,
        slack: u64,
    ) -> Result<()> {
        let counts = self.counts(line)?;
        let of = |name: &str| counts.get(name).copied().unwrap_or_default();
        let (a, b) = (of(names[0]), of(names[1]));
        ensure!(a + b == all && counts.len() == 2, "{counts:?} are not {all} of both");
        ensure!(
            a.abs_diff(first) <= slack,
            "{counts:?} instead of {first} and {}, off by {slack}",
            all - first
        );
        Ok(())
    }
}

pub(super) const PROXY_IP: &str = "export PROXY_IP=$(kubectl get svc --namespace kong kong-gateway-proxy \
                        -o jsonpath='{.status.loadBalancer.ingress[0].ip}')";

fn kic(run: &Run<'_>, guide: &Kic) -> Result<()> {
    let cluster = run.cluster;
    let Kic { gateway, route, namespace, .. } = guide;
    run.install_kinds(guide.crds)?;
    let before = Inventory::take(cluster)?;
    let mut made = "gatewayclass.gateway.networking.k8s.io/kong created\n\
                    gateway.gateway.networking.k8s.io/kong created\n"
        .to_owned();
    let apply = format!("kubectl apply -f examples/kic/{gateway} -n {namespace}");
    if guide.gateway_first {
        cluster.says(&apply, &made)?;
    }
    run.install(INGRESS.line, INGRESS.name, INGRESS.namespace)?;
    if !guide.gateway_first {
        if *namespace == "kong" {
            // Its first document, which the installation has made already.
            made = format!("namespace/kong configured\n{made}");
        }
        let printed = cluster.does(&apply)?;
        ensure!(printed.replace("unchanged", "configured") == made, "{printed} instead of {made}");
    }
    run.wait_gateway(namespace)?;
    let table = cluster.until("kubectl get svc -n kong kong-gateway-proxy --no-headers", |row| {
        !row.contains("<pending>") && !row.contains("<none>")
    })?;
    ensure!(table.contains("LoadBalancer") && table.contains("80:"), "{table}");
    first_look(run)?;
    let expected = "service/echo created\ndeployment.apps/echo created\nservice/echo2 created\ndeployment.apps/echo2 created\n";
    cluster.says(&format!("kubectl apply -f examples/kic/echo-services.yaml -n {namespace}"), expected)?;
    run.wait_deployments(&["echo", "echo2"], namespace)?;
    let expected = "httproute.gateway.networking.k8s.io/echo created\n";
    cluster.says(&format!("kubectl apply -f examples/kic/{route} -n {namespace}"), expected)?;
    run.wait_route("echo", namespace)?;
    weights(run, namespace)?;
    if !guide.gateway_first {
        three_pods(run)?;
    }
    for line in [
        format!("kubectl delete -n {namespace} -f examples/kic/{route} -f examples/kic/echo-services.yaml"),
        // Not its namespace, which is the release's.
        format!("kubectl delete -n {namespace} gateway/kong gatewayclass/kong"),
    ] {
        cluster.does(&line)?;
    }
    run.uninstall("kong", "kong", &before)
}

/// The answer before any route, to the letter but for date and server.
fn first_look(run: &Run<'_>) -> Result<()> {
    let line = format!("{PROXY_IP}; curl -i -s $PROXY_IP");
    println!("    $ {line}");
    let answer = run.cluster.shell(&line)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the head")?;
    for wanted in [
        "HTTP/1.1 404 Not Found",
        "Content-Type: application/json; charset=utf-8",
        "Connection: keep-alive",
        "Content-Length: 48",
        "X-Kong-Response-Latency: 0",
    ] {
        ensure!(head.lines().any(|line| line == wanted), "no {wanted:?} in\n{head}");
    }
    ensure!(body == r#"{"message":"no Route matched with those values"}"#, "{body}");
    Ok(())
}

fn weights(run: &Run<'_>, namespace: &str) -> Result<()> {
    let two = ["echo", "echo2"];
    let guide = format!(
        r#"{PROXY_IP}; curl -s "$PROXY_IP/echo/hostname?iteration="{{1..200}} -w "\n" | sort | uniq -c"#
    );
    run.assert_split(&guide, two, 100, 200, 0)?;
    let range = format!(r#"{PROXY_IP}; curl -s "$PROXY_IP/echo/hostname?iteration=[1-200]" -w "\n""#);
    run.assert_split(&range, two, 100, 200, 0)?;
    let patch = format!(
        r#"kubectl patch -n {namespace} --type json httproute echo -p="$(cat examples/kic/weights.json)""#
    );
    let patched = "httproute.gateway.networking.k8s.io/echo patched";
    run.cluster.says(&patch, &format!("{patched}\n"))?;
    run.wait_route("echo", namespace)?;
    // 133 or 134, from the first request after the patch on.
    let counts = run.counts(&guide)?;
    let first = counts.get("echo").copied().unwrap_or_default();
    ensure!((133..=134).contains(&first) && counts.values().sum::<u64>() == 200, "{counts:?}");
    run.cluster.says(&patch, &format!("{patched} (no change)\n"))?;
    let separate = format!(
        r#"{PROXY_IP}; for i in {{1..200}}; do curl -s "$PROXY_IP/echo/hostname?iteration=$i" -w "\n"; done"#
    );
    run.assert_split(&separate, two, 133, 200, 2)?;
    let eight = format!(
        r#"{PROXY_IP}; seq 200 | xargs -P 8 -I@ bash -c 'echo "$(curl -s "$PROXY_IP/echo/hostname?iteration=@")"'"#
    );
    run.assert_split(&eight, two, 133, 200, 2)?;
    run.cluster.does(&format!("kubectl scale deployment echo2 --replicas=20 -n {namespace}"))?;
    run.wait_deployments(&["echo2"], namespace)?;
    run.assert_split(&range, two, 133, 200, 2)
}

/// Each of three pods is exact for itself; together they are off by one for each.
fn three_pods(run: &Run<'_>) -> Result<()> {
    run.cluster.does(&format!("helm upgrade kong {CHART} -n kong --set gatewayProxy.replicas=3"))?;
    run.cluster.does("kubectl -n kong rollout status deployment/kong-gateway-proxy --timeout=120s")?;
    let line = format!(
        r#"{PROXY_IP}; for i in {{1..300}}; do curl -s "$PROXY_IP/echo/hostname?iteration=$i" -w "\n"; done"#
    );
    run.assert_split(&line, ["echo", "echo2"], 200, 300, 3)?;
    each_is_exact(run, 3)?;
    // Whoever switches the autoscaler on begins with as many.
    let line = format!(
        "helm upgrade kong {CHART} -n kong --set gatewayProxy.autoscaling.enabled=true,gatewayProxy.autoscaling.minReplicas=2"
    );
    run.cluster.does(&line)?;
    let pods = "kubectl get deployment kong-gateway-proxy -n kong -o jsonpath='{.spec.replicas} {.status.availableReplicas}'";
    run.cluster.says(pods, "3 3")
}

/// By each pod's own counts: none is off by one whole request from the weights, and all have had requests since they were new.
fn each_is_exact(run: &Run<'_>, pods: usize) -> Result<()> {
    let addresses =
        "kubectl get pods -n kong -l weir.dev/provisioned=shared -o jsonpath='{.items[*].status.podIP}'";
    let addresses = run.cluster.shell(addresses)?;
    ensure!(addresses.split_whitespace().count() == pods, "{pods} pods are not at {addresses}");
    for address in addresses.split_whitespace() {
        let told = run.cluster.shell(&format!("curl -s -f -m 5 http://{address}:19901/splits"))?;
        let told: Value = serde_json::from_str(&told).with_context(|| told.clone())?;
        let rules = told["rules"].as_array().context("rules")?;
        let rule =
            rules.iter().find(|rule| rule["route"].as_str().is_some_and(|name| name.ends_with("/echo")));
        let rule = rule.with_context(|| format!("no route echo at {address}: {told}"))?;
        let number = |value: &Value| value.as_f64().with_context(|| format!("a number in {rule}"));
        let all = number(&rule["tickets"])?;
        let backends = rule["backends"].as_array().context("backends")?;
        let weights = backends.iter().map(|one| number(&one["weight"])).sum::<Result<f64>>()?;
        let mut counts = Vec::new();
        for backend in backends {
            let (weight, served) = (number(&backend["weight"])?, number(&backend["served"])?);
            let due = all * weight / weights;
            ensure!((served - due).abs() < 1.0, "{address}: {served} instead of {due:.2}: {rule}");
            counts.push(served);
        }
        println!("    {address}: {counts:?}");
        ensure!(counts.len() == 2 && counts.iter().sum::<f64>() == all && all > 0.0, "{address}: {rule}");
    }
    Ok(())
}

/// Not a guide: what people look at when something is wrong.
fn clients_ask(run: &Run<'_>) -> Result<()> {
    for file in ["echo-services.yaml", "httproute.yaml"] {
        run.cluster.does(&format!("kubectl apply -f examples/kic/{file} -n kong"))?;
    }
    run.wait_deployments(&["echo", "echo2"], "kong")?;
    run.wait_route("echo", "kong")?;
    clients::ask(run)?;
    let line = "kubectl delete -n kong -f examples/kic/httproute.yaml -f examples/kic/echo-services.yaml";
    run.cluster.does(line).map(drop)
}

/// Not a guide: what they promise has to hold while the installation's parts end.
fn parts_end(run: &Run<'_>) -> Result<()> {
    let address = run.cluster.shell(&format!("{PROXY_IP}; echo -n $PROXY_IP"))?;
    faults::under_load(run, "kong", "kong", &address)
}

fn simple_apps(run: &Run<'_>) -> Result<()> {
    let cluster = run.cluster;
    let files = [
        "app-v1-deployment.yml",
        "app-v1-service.yml",
        "app-v2-deployment.yml",
        "app-v2-service.yml",
        "kong-gateway.yml",
    ];
    for file in files {
        cluster.does(&format!("kubectl apply -f examples/simple-apps/{file}"))?;
    }
    run.wait_deployments(&["app-v1", "app-v2"], "default")?;
    run.wait_gateway("default")?;
    cluster.does("kubectl apply -f examples/simple-apps/simple-apps-http-route.yml")?;
    run.wait_route("simple-apps", "default")?;
    // One line for each page: the pod that it names.
    let loads = |number: u32| {
        format!(
            r#"{PROXY_IP}; curl -s -f -H 'Host: simple-apps.isc' "http://$PROXY_IP/?[1-{number}]" | grep -o '<h1>[^<]*' | sed 's/<h1>//'"#
        )
    };
    let two = ["app-v1", "app-v2"];
    run.assert_split(&loads(20), two, 10, 20, 0)?;
    // A browser asks for an icon after each page: pages come to each half by chance then, off by 40 once in a hundred million runs.
    let with_icons = format!(
        r#"{PROXY_IP}; curl -s -f -H 'Host: simple-apps.isc' $(for i in {{1..200}}; do echo "-o - http://$PROXY_IP/ -o /dev/null http://$PROXY_IP/favicon.ico"; done) | grep -o '<h1>[^<]*' | sed 's/<h1>//'"#
    );
    run.assert_split(&with_icons, two, 100, 200, 40)?;
    for line in [
        "curl -s -f --resolve simple-apps.isc:80:$PROXY_IP http://simple-apps.isc/ > /dev/null",
        "curl -s -f -H 'Host: simple-apps.isc:8080' http://$PROXY_IP/ > /dev/null",
    ] {
        cluster.does(&format!("{PROXY_IP}; {line}"))?;
    }
    let other = r#"{"message":"no Route matched with those values"}"#;
    cluster.says(&format!("{PROXY_IP}; curl -s -H 'Host: other.isc' http://$PROXY_IP/"), other)?;
    let weighted =
        "sed 's/# weight/weight/' examples/simple-apps/simple-apps-http-route.yml | kubectl apply -f -";
    cluster.says(weighted, "httproute.gateway.networking.k8s.io/simple-apps configured\n")?;
    run.wait_route("simple-apps", "default")?;
    run.assert_split(&loads(4), two, 3, 4, 0)?;
    run.assert_split(&loads(400), two, 300, 400, 1)?;
    cluster.does("kubectl delete -f examples/simple-apps").map(drop)
}

fn operator(run: &Run<'_>) -> Result<()> {
    let cluster = run.cluster;
    cluster.says("kubectl create namespace kong", "namespace/kong created\n")?;
    let applied = Instant::now();
    cluster.does("kubectl apply -f examples/operator/gateway.yaml")?;
    run.wait_gateway("kong")?;
    println!("    a data plane of its own, {:.1} s after the Gateway", applied.elapsed().as_secs_f64());
    let expected = "service/echo-v1 created\ndeployment.apps/echo-v1 created\n\
                    service/echo-v2 created\ndeployment.apps/echo-v2 created\n";
    cluster.says("kubectl apply -f examples/operator/echo.yaml -n kong", expected)?;
    run.wait_deployments(&["echo-v1", "echo-v2"], "kong")?;
    let expected = "httproute.gateway.networking.k8s.io/canary-route created\n";
    cluster.says("kubectl apply -f examples/operator/canary-route.yaml", expected)?;
    run.wait_route("canary-route", "kong")?;
    let address = "PROXY_IP=$(kubectl get gateway kong -n kong -o jsonpath='{.status.addresses[0].value}')";
    let greetings = format!("{address}; for i in {{1..10}}; do curl -s http://$PROXY_IP/echo; done");
    let printed = cluster.does(&greetings)?;
    let of = |node: &str| printed.matches(&format!("Welcome, you are connected to node {node}.\n\n")).count();
    ensure!((of("v1"), of("v2"), printed.lines().count()) == (5, 5, 20), "{printed}");
    let patch = r#"kubectl patch httproute canary-route -n kong --type=json -p '[{"op":"replace","path":"/spec/rules/0/backendRefs/0/weight","value":90},{"op":"replace","path":"/spec/rules/0/backendRefs/1/weight","value":10}]'"#;
    cluster.says(patch, "httproute.gateway.networking.k8s.io/canary-route patched\n")?;
    run.wait_route("canary-route", "kong")?;
    let hundred = format!("{address}; curl -s \"http://$PROXY_IP/echo?[1-100]\" | grep -o 'node v.'");
    let printed = cluster.does(&hundred)?;
    let of = |node: &str| printed.lines().filter(|line| *line == node).count();
    ensure!((of("node v1"), of("node v2")) == (90, 10), "{printed}");
    cluster
        .does("kubectl delete -f examples/operator/canary-route.yaml -f examples/operator/gateway.yaml")?;
    cluster.does("kubectl delete -n kong -f examples/operator/echo.yaml")?;
    cluster
        .until("kubectl get deployments,services,serviceaccounts,poddisruptionbudgets,networkpolicies -n kong -o name | grep -v serviceaccount/default || true", str::is_empty)
        .context("what was made for the Gateway goes with it")?;
    cluster.does("kubectl delete namespace kong --timeout=120s").map(drop)
}

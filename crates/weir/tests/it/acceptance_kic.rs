//! The guide of Kong's Ingress Controller, step by step: two Services behind one HTTPRoute.

use crate::harness::http::{Manner, count};
use crate::harness::sandbox::{Sandbox, is_true};
use crate::harness::{Counts, assert_between, assert_counts, by_deployment, eventually, example};

/// One way in which the guide was published.
pub(crate) struct Guide {
    pub(crate) gateway: &'static str,
    pub(crate) route: &'static str,
    pub(crate) namespace: &'static str,
}

pub(crate) const IN_DEFAULT: Guide =
    Guide { gateway: "kic/gateway.yaml", route: "kic/httproute.yaml", namespace: "default" };
const IN_KONG: Guide =
    Guide { gateway: "kic/gateway-v1.yaml", route: "kic/httproute.yaml", namespace: "kong" };
const OLD_ROUTE: Guide =
    Guide { gateway: "kic/gateway.yaml", route: "kic/httproute-v1beta1.yaml", namespace: "default" };

#[test]
fn the_guide_holds_in_the_default_namespace_with_v1beta1_gateways() {
    let sandbox = Sandbox::start();
    IN_DEFAULT.run(&sandbox);
    assert_no_file_outside(&sandbox);
}

#[test]
fn the_guide_holds_in_a_namespace_of_its_own_with_v1_gateways() {
    IN_KONG.run(&Sandbox::start());
}

#[test]
fn the_guide_holds_with_a_v1beta1_route() {
    OLD_ROUTE.run(&Sandbox::start());
}

impl Guide {
    /// The guide from its first to its last line.
    pub(crate) fn run(&self, sandbox: &Sandbox) {
        self.apply_gateway(sandbox);
        let proxy = self.proxy_address(sandbox);
        self.first_look(sandbox, &proxy);
        self.apply_services(sandbox);
        self.apply_route(sandbox);
        self.half_and_half(sandbox, &proxy);
        self.patch_weights(sandbox);
        self.two_to_one(sandbox, &proxy);
        self.scaled(sandbox, &proxy);
    }

    fn kubectl(&self, sandbox: &Sandbox, arguments: &[&str]) -> String {
        let namespace = ["-n", self.namespace];
        sandbox.kubectl(&[arguments, &namespace].concat()).ok().to_owned()
    }

    fn apply_gateway(&self, sandbox: &Sandbox) {
        let done = sandbox.kubectl(&["apply", "-f", &example(self.gateway), "-n", self.namespace]);
        let mut expected = String::new();
        if self.gateway.ends_with("-v1.yaml") {
            expected.push_str("namespace/kong created\n");
        }
        expected.push_str("gatewayclass.gateway.networking.k8s.io/kong created\n");
        expected.push_str("gateway.gateway.networking.k8s.io/kong created\n");
        assert_eq!(done.ok_and_quiet(), expected);
        sandbox.kubectl(&["wait", "--for=condition=Accepted", "gatewayclass/kong", "--timeout=60s"]).ok();
        self.kubectl(sandbox, &["wait", "--for=condition=Programmed", "gateway/kong", "--timeout=60s"]);
        let address = sandbox.wait_gateway("kong", self.namespace);
        let table = self.kubectl(sandbox, &["get", "gateway", "kong"]);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["NAME", "CLASS", "ADDRESS", "PROGRAMMED", "AGE"], "{table}");
        assert_eq!(lines[1][..4], ["kong", "kong", &address.to_string(), "True"], "{table}");
        assert_eq!(lines.len(), 2, "{table}");
    }

    /// What the guide calls `$PROXY_IP`, with the port where it is not 80.
    fn proxy_address(&self, sandbox: &Sandbox) -> String {
        let table = sandbox.kubectl(&["get", "svc", "-n", "kong", "kong-gateway-proxy"]);
        let table = table.ok();
        let head: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
        let row: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
        assert_eq!(head, ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"], "{table}");
        assert_eq!(row[1], "LoadBalancer", "{table}");
        let node_port =
            row[4].strip_prefix("80:").and_then(|ports| ports.split_once("/TCP")).map(|(port, _)| port);
        let node_port: u16 =
            node_port.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{table}"));
        assert!((30_000..=32_767).contains(&node_port), "{table}");

        let line = "kubectl get svc --namespace kong kong-gateway-proxy \
                    -o jsonpath='{.status.loadBalancer.ingress[0].ip}'";
        let ip = sandbox.bash(line).ok().to_owned();
        let newer = "kubectl get svc --namespace kong kong-gateway-proxy \
                     -o jsonpath='{range .status.loadBalancer.ingress[0]}{@.ip}{@.hostname}{end}'";
        assert_eq!(sandbox.bash(newer).ok(), ip);
        let socket = sandbox.socket("kong", self.namespace);
        assert_eq!(
            socket.ip().to_string(),
            ip,
            "every Gateway of the class answers at the Service's address"
        );
        assert_eq!(row[3], ip, "{table}");
        if socket.port() == 80 { ip } else { socket.to_string() }
    }

    fn first_look(&self, sandbox: &Sandbox, proxy: &str) {
        let done = sandbox.bash(&format!("curl -s -i {proxy}"));
        let (head, body) = done.ok().split_once("\r\n\r\n").expect("a head and a body");
        let mut lines = head.split("\r\n");
        assert_eq!(lines.next(), Some("HTTP/1.1 404 Not Found"));
        let headers: Vec<(String, &str)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect();
        let wanted = [
            ("content-type", "application/json; charset=utf-8"),
            ("connection", "keep-alive"),
            ("content-length", "48"),
            ("x-kong-response-latency", "0"),
        ];
        for (name, value) in wanted {
            assert!(
                headers.iter().any(|header| header.0 == name && header.1 == value),
                "{name}: {value} in\n{head}"
            );
        }
        let server = headers.iter().find(|(name, _)| name == "server").expect("a Server header").1;
        assert!(server.to_ascii_lowercase().contains("weir"), "a Server header of our own, not {server}");
        assert_eq!(body, r#"{"message":"no Route matched with those values"}"#);
    }

    fn apply_services(&self, sandbox: &Sandbox) {
        let applied = self.kubectl(sandbox, &["apply", "-f", &example("kic/echo-services.yaml")]);
        let expected = "service/echo created\ndeployment.apps/echo created\n\
                        service/echo2 created\ndeployment.apps/echo2 created\n";
        assert_eq!(applied, expected);
        sandbox.wait_backends(&["echo", "echo2"], self.namespace);
        let field = "{.items[0].spec.containers[0].env[?(@.name=='POD_NAME')].valueFrom.fieldRef.fieldPath}";
        let path = format!("jsonpath={field}");
        assert_eq!(self.kubectl(sandbox, &["get", "pods", "-l", "app=echo", "-o", &path]), "metadata.name");
    }

    fn apply_route(&self, sandbox: &Sandbox) {
        let done = sandbox.kubectl(&["apply", "-f", &example(self.route), "-n", self.namespace]);
        assert_eq!(done.ok_and_quiet(), "httproute.gateway.networking.k8s.io/echo created\n");
        sandbox.wait_route("echo", self.namespace);
    }

    /// The guide's own line, with bash's `{1..200}`, then curl's `[1-200]`, then other ways to send as many.
    fn half_and_half(&self, sandbox: &Sandbox, proxy: &str) {
        let line =
            format!(r#"curl -s "{proxy}/echo/hostname?iteration="{{1..200}} -w "\n" | sort | uniq -c"#);
        let counts = unique_counts(sandbox.bash(&line).ok());
        assert_counts(&counts, &[("echo", 100), ("echo2", 100)]);
        let counts = self.send(sandbox, proxy);
        assert_counts(&counts, &[("echo", 100), ("echo2", 100)]);
        let echo = format!(r#"curl -s "{proxy}/echo/echo?msg=stripped&iteration=7""#);
        assert_eq!(sandbox.bash(&echo).ok(), "stripped", "the backend sees /echo?msg=... without the prefix");
    }

    /// curl's own range: 200 requests on one connection.
    fn send(&self, sandbox: &Sandbox, proxy: &str) -> Counts {
        let line = format!(r#"curl -s "{proxy}/echo/hostname?iteration=[1-200]" -w "\n""#);
        by_deployment(sandbox.bash(&line).ok().lines())
    }

    fn patch_weights(&self, sandbox: &Sandbox) {
        let file = example("kic/weights.json");
        let patch =
            format!(r#"kubectl patch --type json httproute echo -n {} -p="$(cat {file})""#, self.namespace);
        let patched = "httproute.gateway.networking.k8s.io/echo patched";
        assert_eq!(sandbox.bash(&patch).ok_and_quiet(), format!("{patched}\n"));
        assert_eq!(sandbox.bash(&patch).ok_and_quiet(), format!("{patched} (no change)\n"));
        let tabs = format!(
            r#"kubectl patch --type json httproute echo -n {} -p="$(sed 's/^  /\t/' {file})""#,
            self.namespace
        );
        assert_eq!(sandbox.bash(&tabs).ok_and_quiet(), format!("{patched} (no change)\n"));
        sandbox.wait_route("echo", self.namespace);
    }

    fn two_to_one(&self, sandbox: &Sandbox, proxy: &str) {
        // From the first request after the patch.
        let counts = self.send(sandbox, proxy);
        assert_two_to_one(&counts, 133, 134);
        // These windows start elsewhere: off by at most one.
        let line =
            format!(r#"curl -s "{proxy}/echo/hostname?iteration="{{1..200}} -w "\n" | sort | uniq -c"#);
        assert_two_to_one(&unique_counts(sandbox.bash(&line).ok()), 132, 135);
        let separate =
            format!(r#"for i in {{1..200}}; do curl -s "{proxy}/echo/hostname?iteration=$i" -w "\n"; done"#);
        assert_two_to_one(&by_deployment(sandbox.bash(&separate).ok().lines()), 132, 135);
        // echo writes name and line end at once, so that eight at a time cannot mix their lines.
        let one = format!(r#"echo "$(curl -s "{proxy}/echo/hostname?iteration=@")""#);
        let eight = format!("seq 200 | xargs -P 8 -I@ bash -c '{one}'");
        assert_two_to_one(&by_deployment(sandbox.bash(&eight).ok().lines()), 132, 135);
        let report = sandbox.weir(&["split"]);
        assert!(report.ok().contains("echo2"), "{}", report.stdout);
        let metrics = sandbox.admin("/metrics").text();
        assert!(metrics.lines().any(|line| line.starts_with("weir_") && line.contains("echo2")), "{metrics}");
    }

    /// Weights are the Service's, not its pods'.
    fn scaled(&self, sandbox: &Sandbox, proxy: &str) {
        let scaled = self.kubectl(sandbox, &["scale", "deployment", "echo2", "--replicas=20"]);
        assert_eq!(scaled, "deployment.apps/echo2 scaled\n");
        sandbox.wait_backends(&["echo2"], self.namespace);
        let before =
            sandbox.bash("kubectl get pods -A --no-headers -l app=echo2 | wc -l").ok().trim().to_owned();
        assert_eq!(before, "20");
        let line = format!(r#"curl -s "{proxy}/echo/hostname?iteration=[1-200]" -w "\n""#);
        let output = sandbox.bash(&line).ok().to_owned();
        assert_two_to_one(&by_deployment(output.lines()), 132, 135);
        let mut pods: Vec<&str> = output.lines().filter(|pod| pod.starts_with("echo2-")).collect();
        pods.sort_unstable();
        pods.dedup();
        assert!(pods.len() >= 10, "67 requests reached {} of 20 pods: {pods:?}", pods.len());
    }
}

fn assert_two_to_one(counts: &Counts, low: u64, high: u64) {
    assert_between(counts, "echo", low, high);
    assert_between(counts, "echo2", 200 - high, 200 - low);
    assert_eq!(counts.values().sum::<u64>(), 200, "{counts:?}");
}

/// The output of `uniq -c`, by Deployment.
fn unique_counts(output: &str) -> Counts {
    let mut counts = Counts::new();
    for line in output.lines() {
        let (count, name) =
            line.trim().split_once(' ').unwrap_or_else(|| panic!("`{line}` is not of uniq -c"));
        let count: u64 = count.parse().unwrap_or_else(|_| panic!("`{line}` is not of uniq -c"));
        *counts.entry(crate::harness::deployment_of(name).to_owned()).or_default() += count;
    }
    counts
}

fn assert_no_file_outside(sandbox: &Sandbox) {
    let state = sandbox.home().join(".local");
    assert!(!state.exists(), "with --kubeconfig nothing is written to {}", state.display());
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&sandbox.kubeconfig).expect("the kubeconfig is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn ingress_classes_and_ingresses_are_kept_and_said_to_be() {
    let sandbox = Sandbox::start();
    sandbox.kubectl(&["apply", "-f", &example("kic/gateway.yaml")]).ok();
    let class = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: kong}\n\
                 spec: {controller: ingress-controllers.konghq.com/kong}\n";
    let applied = sandbox.apply(class);
    assert!(applied.ok().starts_with("ingressclass.networking.k8s.io/kong "), "{}", applied.stdout);
    let table = sandbox.kubectl(&["get", "ingressclass", "kong"]);
    assert!(table.ok().contains("ingress-controllers.konghq.com/kong"), "{}", table.stdout);
    let ingress = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: old}\n\
                   spec:\n  ingressClassName: kong\n  rules:\n  - host: old.example\n    http:\n      paths:\n      \
                   - {path: /, pathType: Prefix, backend: {service: {name: echo, port: {number: 80}}}}\n";
    assert_eq!(sandbox.apply(ingress).ok(), "ingress.networking.k8s.io/old created\n");
    let table = sandbox.kubectl(&["get", "ingress", "old"]);
    assert!(table.ok().contains("old.example"), "{}", table.stdout);
    eventually("an event says what becomes of the Ingress", || {
        let events = sandbox.kubectl(&["get", "events", "--field-selector", "involvedObject.kind=Ingress"]);
        events.ok().contains("ingress/old").then_some(())
    });
}

#[test]
fn gateways_of_the_unmanaged_class_share_one_address_and_say_so() {
    let sandbox = Sandbox::start();
    sandbox.kubectl(&["apply", "-f", &example("kic/gateway.yaml")]).ok();
    sandbox.kubectl(&["create", "namespace", "other"]).ok();
    let second = std::fs::read_to_string(example("kic/gateway-v1.yaml")).expect("an example");
    let second = second.split("---").last().expect("the Gateway is the last document");
    sandbox.kubectl(&["apply", "-n", "other", "-f", &sandbox.write("second.yaml", second)]).ok();
    sandbox.kubectl(&["apply", "-f", &example("kic/echo-services.yaml"), "-n", "other"]).ok();
    sandbox.wait_backends(&["echo", "echo2"], "other");
    sandbox.kubectl(&["apply", "-f", &example("kic/httproute.yaml"), "-n", "other"]).ok();
    sandbox.wait_route("echo", "other");
    let first = sandbox.socket("kong", "default");
    assert_eq!(sandbox.socket("kong", "other"), first);
    assert_counts(&count(Manner::OneConnection, first, "/echo/hostname", 20), &[("echo", 10), ("echo2", 10)]);
    let gateway = sandbox.get("gateway/kong", "other").expect("the Gateway is there");
    let listener = &gateway["status"]["listeners"][0];
    assert!(is_true(&listener["conditions"], "Accepted", &gateway), "{gateway:#}");
    let messages = format!("{}{}", gateway["status"]["conditions"], listener["conditions"]);
    assert!(
        messages.contains("default/kong"),
        "a message names the Gateway with the equal listener: {messages}"
    );
}

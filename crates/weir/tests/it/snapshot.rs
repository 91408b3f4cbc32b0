//! `weir snapshot` as people use it: against a sandbox, and against a controller and a data plane that are processes of their own.

use std::collections::BTreeMap;

use crate::harness::eventually;
use crate::harness::process::{Done, Process, clean_command, finish};
use crate::harness::sandbox::{Sandbox, WEIR, free_address};
use crate::plane::{Cluster, origin};

const KEY_MARK: &str = "PRIVATE KEY";

/// A class, a Gateway with a certificate, a route and its endpoint.
fn objects(
    certificate: &rcgen::CertifiedKey<rcgen::KeyPair>,
    port: u16,
    origin: std::net::SocketAddr,
) -> String {
    use base64::Engine as _;
    let encoded = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: own}}\n\
         spec: {{controllerName: weir.dev/gateway-controller}}\n---\n\
         apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: cert, namespace: default}}\n\
         data: {{tls.crt: {}, tls.key: {}}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g, namespace: default}}\n\
         spec: {{gatewayClassName: own, listeners: [{{name: http, port: {port}, protocol: HTTP}}, \
         {{name: https, port: 8443, protocol: HTTPS, tls: {{certificateRefs: [{{name: cert}}]}}}}]}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: default}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: s-1, namespace: default, labels: {{kubernetes.io/service-name: s}}}}\n\
         addressType: IPv4\nports: [{{port: {}}}]\nendpoints: [{{addresses: [{}]}}]\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: default}}\n\
         spec: {{parentRefs: [{{name: g}}], rules: [{{backendRefs: [{{name: s, port: 80}}]}}]}}\n",
        encoded(certificate.cert.pem()),
        encoded(certificate.signing_key.serialize_pem()),
        origin.port(),
        origin.ip(),
    )
}

/// Hash and size of each resource of a data plane, by kind and name.
fn entries(shown: &str, plane: &str) -> BTreeMap<(String, String), (String, u64)> {
    let lines = shown.lines().skip_while(|line| *line != plane).skip(2).take_while(|line| !line.is_empty());
    let entry = |line: &str| {
        let mut cells = line.split_whitespace().map(str::to_owned);
        let mut cell = || cells.next().expect("four columns");
        ((cell(), cell()), (cell(), cell().parse().expect("a size")))
    };
    lines.filter(|line| !line.contains(" cannot use ")).map(entry).collect()
}

fn kinds(entries: &BTreeMap<(String, String), (String, u64)>) -> Vec<&str> {
    entries.keys().map(|(kind, _)| kind.as_str()).collect()
}

#[test]
fn a_sandbox_shows_what_its_data_plane_has() {
    let sandbox = Sandbox::start();
    let certificate = rcgen::generate_simple_self_signed(["example.com".to_owned()]).expect("a certificate");
    sandbox.apply(&objects(&certificate, 8080, origin("one"))).ok();
    sandbox.wait_route("r", "default");
    let show = || sandbox.weir(&["snapshot"]).ok_and_quiet().to_owned();
    let shown = eventually("everything is there", || {
        let shown = show();
        (entries(&shown, "this process").len() == 6).then_some(shown)
    });
    let before = entries(&shown, "this process");
    assert_eq!(kinds(&before), ["backend", "certificate", "endpoints", "httproute", "listener", "listener"]);
    assert!(before.contains_key(&("httproute".to_owned(), "default/r".to_owned())), "{shown}");
    assert!(before.values().all(|(hash, bytes)| hash.len() == 32 && *bytes > 0), "{shown}");
    assert!(!shown.contains(KEY_MARK) && !sandbox.admin("/snapshot").text().contains(KEY_MARK));
    let checked = sandbox.weir(&["check", "--wait", "20"]).ok_and_quiet().to_owned();
    assert!(checked.contains("the sandbox is ready") && checked.contains("Gateway default/"), "{checked}");
    assert!(!checked.contains("BAD"), "{checked}");

    // A change is another hash, and of nothing else.
    let patch = r#"[{"op": "add", "path": "/spec/hostnames", "value": ["example.com"]}]"#;
    sandbox.kubectl(&["patch", "httproute", "r", "--type=json", "-p", patch]).ok();
    eventually("the route has another hash", || {
        let after = entries(&show(), "this process");
        let changed: Vec<&str> = before
            .iter()
            .filter(|(key, value)| after.get(*key) != Some(value))
            .map(|(key, _)| key.0.as_str())
            .collect();
        (changed == ["httproute"]).then_some(())
    });
    let refused = sandbox.weir(&["snapshot", "default/g"]).refused();
    assert!(refused.contains("there is no data plane default/g"), "{refused}");
}

#[test]
fn a_controller_and_its_data_plane_show_the_same_resources() {
    let cluster = Cluster::new();
    let kubeconfig = cluster.serve();
    let certificate = rcgen::generate_simple_self_signed(["example.com".to_owned()]).expect("a certificate");
    let port = free_address().port();
    let manifest = cluster.path("objects.yaml");
    std::fs::write(&manifest, objects(&certificate, port, origin("one"))).expect("a file");
    let home = cluster.path("");
    let kubectl = |arguments: &[&str]| -> Done {
        finish(clean_command("kubectl", &home).env("KUBECONFIG", &kubeconfig).args(arguments))
    };
    kubectl(&["apply", "-f", manifest.to_str().expect("UTF-8")]).ok();
    let (listen, admin) = (free_address(), free_address());
    let mut command = clean_command(WEIR, &home);
    command.arg("controller").arg("--kubeconfig").arg(&kubeconfig);
    command.args(["--namespace=default", "--release=test", "--take-over"]);
    let _controller =
        Process::start(command.arg(format!("--listen={listen}")).arg(format!("--admin={admin}")));
    let secrets = cluster.secrets();
    let trusted = eventually("the controller has made an authority", || {
        let secret = cluster.runtime.block_on(secrets.get_opt("test-weir-authority")).expect("an answer")?;
        secret.data?.remove("ca.crt")
    });
    std::fs::write(cluster.path("ca.crt"), trusted.0).expect("a file");
    let token = cluster.token("weir-g", "weir.dev/controller");
    let plane = cluster.data_plane("weir-g", listen, &token, "one");
    plane.wait_ready();
    let get = || plane.get(port).ok().filter(|text| text == "one");
    eventually("the route is served", get);

    let ask = |admin: std::net::SocketAddr, more: &[&str]| {
        let mut command = clean_command(WEIR, &home);
        command.arg("snapshot").args(more).arg(format!("--admin={admin}"));
        finish(&mut command)
    };
    let shown = eventually("the data plane has acknowledged everything", || {
        let shown = ask(admin, &["default/g"]).ok_and_quiet().to_owned();
        let row = shown.lines().nth(1)?.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        // DATA PLANE, RESOURCES, NEWEST, POD, READY, RUNS, WAITING, REJECTED
        (row[3] == "one" && row[4] == "yes" && row[2] == row[5] && row[6] == "0").then_some(shown)
    });
    let wanted = entries(&shown, "default/weir-g");
    assert_eq!(kinds(&wanted), ["backend", "certificate", "endpoints", "httproute", "listener", "listener"]);
    assert_eq!(entries(ask(plane.admin, &[]).ok_and_quiet(), "default/weir-g"), wanted);
    assert!(!shown.contains(KEY_MARK) && !plane.admin("/snapshot").text().contains(KEY_MARK));
    // By its kubeconfig the leader is found; that this API has no way to its pod is said.
    let mut command = clean_command(WEIR, &home);
    let refused = finish(command.arg("snapshot").arg("--kubeconfig").arg(&kubeconfig)).refused();
    assert!(refused.contains("asking pod default/"), "{refused}");
}

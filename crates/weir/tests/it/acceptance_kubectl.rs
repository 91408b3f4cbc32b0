//! A person's daily kubectl against the embedded API.

use serde_json::Value;

use crate::harness::sandbox::Sandbox;
use crate::harness::{eventually, example};

fn with_guide() -> Sandbox {
    let sandbox = Sandbox::start();
    for file in ["kic/gateway.yaml", "kic/echo-services.yaml", "kic/httproute.yaml"] {
        sandbox.kubectl(&["apply", "-f", &example(file)]).ok();
    }
    sandbox.wait_backends(&["echo", "echo2"], "default");
    sandbox.wait_route("echo", "default");
    sandbox
}

#[test]
fn objects_are_shown_in_every_form() {
    let sandbox = with_guide();
    let yaml = sandbox.kubectl(&["get", "httproute", "echo", "-o", "yaml"]);
    assert!(yaml.ok().contains("konghq.com/strip-path: \"true\""), "{}", yaml.stdout);
    let json = sandbox.kubectl(&["get", "httproute", "echo", "-o", "json"]);
    let route: Value = serde_json::from_str(json.ok()).expect("JSON");
    assert_eq!(route["spec"]["rules"][0]["backendRefs"][0]["weight"], 1, "defaults are filled in");
    let wide = sandbox.kubectl(&["get", "pods", "-o", "wide"]);
    let head: Vec<&str> = wide.ok().lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(head[..7], ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"], "{}", wide.stdout);
    assert_eq!(wide.stdout.matches("1/1").count(), 2, "{}", wide.stdout);
    assert_eq!(wide.stdout.matches("Running").count(), 2, "{}", wide.stdout);
    let all = sandbox.kubectl(&["get", "all"]);
    for part in ["service/echo", "deployment.apps/echo", "replicaset.apps/echo", "pod/echo"] {
        assert!(all.ok().contains(part), "{part} in\n{}", all.stdout);
    }
    for resource in [
        "nodes",
        "namespaces",
        "serviceaccounts",
        "configmaps",
        "secrets",
        "events",
        "crds",
        "endpointslices",
    ] {
        sandbox.kubectl(&["get", resource]).ok();
    }
    let described = sandbox.kubectl(&["describe", "gateway", "kong"]);
    assert!(described.ok().contains("Programmed"), "{}", described.stdout);
    let described = sandbox.kubectl(&["describe", "deployment", "echo"]);
    assert!(described.ok().contains("1 desired | 1 updated | 1 total | 1 available"), "{}", described.stdout);
    let described = sandbox.kubectl(&["describe", "pod", "-l", "app=echo"]);
    assert!(described.ok().contains("registry.k8s.io/e2e-test-images/agnhost:2.40"), "{}", described.stdout);
    sandbox.kubectl(&["describe", "service", "echo"]).ok();
}

#[test]
fn resources_are_listed_and_explained() {
    let sandbox = Sandbox::start();
    let resources = sandbox.kubectl(&["api-resources"]);
    for part in [
        "gatewayclasses",
        "httproutes",
        "deployments",
        "endpointslices",
        "customresourcedefinitions",
        "ingresses",
        "validatingadmissionpolicies",
        "gatewayconfigurations",
        "referencegrants",
    ] {
        assert!(resources.ok().contains(part), "{part} in\n{}", resources.stdout);
    }
    let short = sandbox.kubectl(&["get", "gtw"]);
    assert!(short.stderr.contains("No resources found"), "{}{}", short.stdout, short.stderr);
    let explained = sandbox.kubectl(&["explain", "httproute.spec.rules.backendRefs.weight"]);
    for part in ["HTTPRoute", "weight", "<integer>"] {
        assert!(explained.ok().contains(part), "{part} in\n{}", explained.stdout);
    }
    sandbox.kubectl(&["explain", "deployment.spec.template.spec.containers"]).ok();
    let version = sandbox.kubectl(&["version"]);
    assert!(version.ok().contains("Server Version: v1."), "{}", version.stdout);
    sandbox.kubectl(&["cluster-info"]).ok();
    assert_eq!(sandbox.kubectl(&["auth", "can-i", "create", "httproutes"]).ok(), "yes\n");
}

#[test]
fn all_three_kinds_of_patch_edit_label_annotate_and_diff_work() {
    let sandbox = with_guide();
    let weight = |index: usize| {
        let route = sandbox.get("httproute/echo", "default").expect("the route is there");
        route["spec"]["rules"][0]["backendRefs"][index]["weight"].clone()
    };
    let diff = sandbox.bash(&format!("kubectl diff -f {}; echo \"exit $?\"", example("kic/httproute.yaml")));
    assert_eq!(diff.ok(), "exit 0\n", "nothing was changed since the file was applied");
    let json = r#"[{"op":"replace","path":"/spec/rules/0/backendRefs/0/weight","value":7}]"#;
    sandbox.kubectl(&["patch", "httproute", "echo", "--type=json", "-p", json]).ok();
    assert_eq!(weight(0), 7);
    let merge = r#"{"metadata":{"labels":{"team":"a"}}}"#;
    sandbox.kubectl(&["patch", "httproute", "echo", "--type=merge", "-p", merge]).ok();
    let strategic = r#"{"spec":{"template":{"spec":{"containers":[{"name":"echo","env":[{"name":"ADDED","value":"1"}]}]}}}}"#;
    sandbox.kubectl(&["patch", "deployment", "echo", "-p", strategic]).ok();
    let deployment = sandbox.get("deployment/echo", "default").expect("the Deployment is there");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        container["image"], "registry.k8s.io/e2e-test-images/agnhost:2.40",
        "merged by name, not replaced"
    );
    let names: Vec<&Value> =
        container["env"].as_array().expect("a list").iter().map(|env| &env["name"]).collect();
    assert!(names.contains(&&Value::from("ADDED")) && names.contains(&&Value::from("POD_NAME")), "{names:?}");
    sandbox.kubectl(&["rollout", "status", "deployment/echo", "--timeout=60s"]).ok();

    let edited = sandbox.bash("EDITOR=\"sed -i 's/weight: 7/weight: 9/'\" kubectl edit httproute echo");
    assert_eq!(edited.ok(), "httproute.gateway.networking.k8s.io/echo edited\n");
    assert_eq!(weight(0), 9);
    assert_eq!(sandbox.kubectl(&["label", "service", "echo", "tier=back"]).ok(), "service/echo labeled\n");
    let listed = sandbox.kubectl(&["get", "services", "-l", "tier=back", "-o", "name"]);
    assert_eq!(listed.ok(), "service/echo\n");
    assert_eq!(sandbox.kubectl(&["annotate", "service", "echo", "note=x"]).ok(), "service/echo annotated\n");
    let changed = std::fs::read_to_string(example("kic/httproute.yaml"))
        .expect("an example")
        .replace("/echo", "/other");
    let file = sandbox.write("changed.yaml", &changed);
    let diff = sandbox.bash(&format!("kubectl diff -f {file}; echo \"exit $?\""));
    assert!(
        diff.ok().ends_with("exit 1\n") && diff.stdout.contains("+        value: /other"),
        "{}",
        diff.stdout
    );
    assert_eq!(
        sandbox.kubectl(&["apply", "--dry-run=server", "-f", &file]).ok(),
        "httproute.gateway.networking.k8s.io/echo configured (server dry run)\n"
    );
    assert_eq!(
        sandbox.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &file]).ok(),
        "httproute.gateway.networking.k8s.io/echo serverside-applied\n"
    );
}

#[test]
fn deployments_roll_scale_heal_and_log() {
    let sandbox = with_guide();
    let pods = || {
        let done =
            sandbox.kubectl(&["get", "pods", "-l", "app=echo", "-o", "jsonpath={.items[*].metadata.name}"]);
        done.ok().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let first = pods();
    assert_eq!(first.len(), 1);
    let deleted = sandbox.kubectl(&["delete", "pod", &first[0]]);
    assert!(deleted.ok().starts_with(&format!("pod \"{}\" deleted", first[0])), "{}", deleted.stdout);
    eventually("a deleted pod comes back under another name", || {
        let now = pods();
        (now.len() == 1 && now[0] != first[0]).then_some(())
    });
    sandbox.wait_backends(&["echo"], "default");
    assert_eq!(
        sandbox.kubectl(&["rollout", "restart", "deployment/echo"]).ok(),
        "deployment.apps/echo restarted\n"
    );
    let status = sandbox.kubectl(&["rollout", "status", "deployment/echo", "--timeout=60s"]);
    assert!(status.ok().contains("successfully rolled out"), "{}", status.stdout);
    let history = sandbox.kubectl(&["rollout", "history", "deployment/echo"]);
    assert!(history.ok().contains("REVISION"), "{}", history.stdout);
    sandbox.kubectl(&["scale", "deployment/echo", "--replicas=3"]).ok();
    sandbox.kubectl(&["wait", "--for=condition=Available", "deployment/echo", "--timeout=60s"]).ok();
    sandbox.wait_endpoints("echo", "default", 3);
    let socket = sandbox.socket("kong", "default");
    sandbox.bash(&format!("curl -s -f http://{socket}/echo/hostname?seen-in-log=[1-6]")).ok();
    let logs = sandbox.kubectl(&["logs", "-l", "app=echo", "--tail=-1"]);
    assert!(logs.ok().contains("seen-in-log"), "{}", logs.stdout);
    let events = sandbox.kubectl(&["events"]);
    assert!(events.ok().contains("Scaled"), "{}", events.stdout);
}

#[test]
fn objects_come_from_standard_input_and_from_a_url() {
    let sandbox = Sandbox::start();
    let piped = sandbox.bash(&format!("cat {} | kubectl apply -f -", example("kic/gateway.yaml")));
    assert!(piped.ok().contains("gateway.gateway.networking.k8s.io/kong created"), "{}", piped.stdout);
    // What a web server would serve, from a server of the test's own.
    let text = std::fs::read_to_string(example("kic/httproute.yaml")).expect("an example");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
            // A client that goes away early has no further use for it.
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            let _ = std::io::Write::write_all(&mut stream, (head + &text).as_bytes());
        }
    });
    let fetched = sandbox.kubectl(&["apply", "-f", &format!("http://{address}/httproute.yaml")]);
    assert_eq!(fetched.ok(), "httproute.gateway.networking.k8s.io/echo created\n");
}

#[test]
fn watches_waits_and_deletes_end_as_they_should() {
    let sandbox = with_guide();
    let watch = "timeout 20 kubectl get httproute echo --watch -o name | head -n 1";
    assert_eq!(sandbox.bash(watch).ok(), "httproute.gateway.networking.k8s.io/echo\n");
    let wait = r#"kubectl wait --for=jsonpath='{.status.parents[0].conditions[?(@.type=="Accepted")].status}'=True httproute/echo --timeout=20s"#;
    sandbox.bash(wait).ok();
    sandbox.kubectl(&["create", "namespace", "short"]).ok();
    sandbox.kubectl(&["apply", "-n", "short", "-f", &example("kic/echo-services.yaml")]).ok();
    sandbox.kubectl(&["delete", "namespace", "short", "--timeout=60s"]).ok();
    assert!(sandbox.kubectl(&["get", "namespace", "short"]).refused().contains("NotFound"));
    assert_eq!(sandbox.kubectl(&["get", "pods", "-n", "short", "-o", "name"]).ok(), "");
    sandbox.kubectl(&["delete", "deployment", "echo", "--timeout=60s"]).ok();
    eventually("its pods are gone", || {
        sandbox.kubectl(&["get", "pods", "-l", "app=echo", "-o", "name"]).ok().is_empty().then_some(())
    });
    sandbox.wait_endpoints("echo", "default", 0);
    let again = sandbox.kubectl(&["create", "-f", &example("kic/httproute.yaml")]).refused();
    assert!(again.contains("AlreadyExists"), "{again}");
    sandbox.kubectl(&["delete", "-f", &example("kic/httproute.yaml")]).ok();
    let gone = sandbox.kubectl(&["delete", "-f", &example("kic/httproute.yaml")]).refused();
    assert!(gone.contains("httproutes.gateway.networking.k8s.io \"echo\" not found"), "{gone}");
}

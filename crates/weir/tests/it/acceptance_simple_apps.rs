//! The hostname tutorial, step by step: six files, two pages, equally often in a browser.

use crate::harness::http::Connection;
use crate::harness::sandbox::Sandbox;
use crate::harness::{Counts, assert_between, assert_counts, counts, example};

const HOST: &str = "simple-apps.isc";

#[test]
fn the_guide_holds_in_a_fresh_sandbox() {
    run(&Sandbox::start(), true);
}

/// The tutorial from its first to its last line; `fresh` when no class `kong` is there yet.
pub(crate) fn run(sandbox: &Sandbox, fresh: bool) {
    let files = [
        ("app-v1-deployment.yml", "deployment.apps/app-v1 created\n"),
        ("app-v1-service.yml", "service/app-v1 created\n"),
        ("app-v2-deployment.yml", "deployment.apps/app-v2 created\n"),
        ("app-v2-service.yml", "service/app-v2 created\n"),
    ];
    for (file, expected) in files {
        assert_eq!(apply(sandbox, file), expected);
    }
    let applied = apply(sandbox, "kong-gateway.yml");
    if fresh {
        let expected = "gatewayclass.gateway.networking.k8s.io/kong created\n\
                        gateway.gateway.networking.k8s.io/kong created\n";
        assert_eq!(applied, expected);
    }
    sandbox.wait_backends(&["app-v1", "app-v2"], "default");
    assert_eq!(
        apply(sandbox, "simple-apps-http-route.yml"),
        "httproute.gateway.networking.k8s.io/simple-apps created\n"
    );
    sandbox.wait_route("simple-apps", "default");
    both_pages(sandbox);
    three_to_one(sandbox);
}

fn apply(sandbox: &Sandbox, file: &str) -> String {
    sandbox.kubectl(&["apply", "-f", &example(&format!("simple-apps/{file}"))]).ok().to_owned()
}

/// Which Deployment's page it is; each names exactly one.
fn page(body: &str) -> &'static str {
    match (body.contains("app-v1"), body.contains("app-v2")) {
        (true, false) => "app-v1",
        (false, true) => "app-v2",
        _ => panic!("the page names not exactly one Deployment:\n{body}"),
    }
}

fn load(connection: &mut Connection) -> &'static str {
    let answer = connection.get(HOST, "/").expect("the gateway answers");
    assert_eq!(answer.status, 200, "{}", answer.text());
    page(&answer.text())
}

fn loads(sandbox: &Sandbox, number: u64) -> Counts {
    let mut connection = Connection::open(sandbox.socket("kong", "default")).expect("the gateway listens");
    let pages: Vec<&str> = (0..number).map(|_| load(&mut connection)).collect();
    counts(pages)
}

fn both_pages(sandbox: &Sandbox) {
    let socket = sandbox.socket("kong", "default");
    assert_counts(&loads(sandbox, 20), &[("app-v1", 10), ("app-v2", 10)]);
    let port = socket.port();
    for line in [
        format!("curl -s -f -H 'Host: {HOST}' http://{socket}/"),
        format!("curl -s -f --resolve {HOST}:{port}:{} http://{HOST}:{port}/", socket.ip()),
        format!("curl -s -f -H 'Host: {HOST}:8080' http://{socket}/"),
        format!("curl -s -f -H 'Host: SIMPLE-APPS.isc' http://{socket}/"),
    ] {
        let done = sandbox.bash(&line);
        let html = done.ok();
        let deployment = page(html);
        let pods = sandbox.bash("kubectl get pods -o name").ok().replace("pod/", "");
        let pod = pods.lines().find(|pod| html.contains(pod)).expect("the page names its pod");
        assert!(pod.starts_with(deployment), "{html}");
        assert!(html.contains("kong-ingress-multi-backends:latest"), "the page names its image: {html}");
        assert!(
            html.contains(r#"<link rel="icon" href="data:,">"#),
            "a browser must ask for nothing else: {html}"
        );
    }
    let types = sandbox
        .bash(&format!("curl -s -o /dev/null -w '%{{content_type}}' -H 'Host: {HOST}' http://{socket}/"));
    assert!(types.ok().starts_with("text/html"), "{}", types.stdout);
    let other = sandbox.bash(&format!("curl -s -w '%{{http_code}}' -H 'Host: other.isc' http://{socket}/"));
    assert_eq!(other.ok(), r#"{"message":"no Route matched with those values"}404"#);
}

fn three_to_one(sandbox: &Sandbox) {
    let file = example("simple-apps/simple-apps-http-route.yml");
    let text = std::fs::read_to_string(file).expect("an example").replace("# weight", "weight");
    let applied = sandbox.apply(&text);
    assert_eq!(applied.ok(), "httproute.gateway.networking.k8s.io/simple-apps configured\n");
    sandbox.wait_route("simple-apps", "default");
    assert_counts(&loads(sandbox, 4), &[("app-v1", 3), ("app-v2", 1)]);
    let pages = loads(sandbox, 400);
    assert_between(&pages, "app-v1", 299, 301);
    assert_between(&pages, "app-v2", 99, 101);
    no_resonance(sandbox);
}

/// A browser that asks for page and favicon in turn still sees each page in its share. The phase is drawn anew each
/// period, so this count is random: 400 pages, standard deviation 10; a strictly periodic order would give 0, 200
/// or 400 of one kind at equal weights.
fn no_resonance(sandbox: &Sandbox) {
    // Without the two lines again: apply takes them out, and the API's default of 1 comes back.
    assert_eq!(
        apply(sandbox, "simple-apps-http-route.yml"),
        "httproute.gateway.networking.k8s.io/simple-apps configured\n"
    );
    sandbox.wait_route("simple-apps", "default");
    let mut connection = Connection::open(sandbox.socket("kong", "default")).expect("the gateway listens");
    let mut pages = Vec::new();
    for _ in 0..400 {
        pages.push(load(&mut connection));
        load(&mut connection);
    }
    let pages = counts(pages);
    assert_between(&pages, "app-v1", 140, 260);
    assert_between(&pages, "app-v2", 140, 260);
}

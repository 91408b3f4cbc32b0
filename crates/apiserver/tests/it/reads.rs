//! What a person reads with `kubectl`: get in all forms, describe, explain, events, logs, watches, who may what.

use jiff::Timestamp;

use crate::cli::{Cli, contains};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: proxy, labels: {app: proxy}}
spec: {type: LoadBalancer, selector: {app: proxy}, ports: [{name: http, port: 80}, {name: https, port: 443}]}
";

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: proxy}}
spec: {nodeName: node-1, containers: [{name: c, image: nginx}]}
";

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: Gateway
metadata: {name: kong}
spec: {gatewayClassName: kong, listeners: [{name: a, port: 80, protocol: HTTP}]}
";

const EVENT: &str = "
apiVersion: v1
kind: Event
metadata: {name: p.1, namespace: default}
type: Normal
reason: Started
message: it runs
involvedObject: {apiVersion: v1, kind: Pod, name: p, namespace: default}
firstTimestamp: '2026-01-01T00:00:00Z'
lastTimestamp: '2026-01-01T00:00:00Z'
count: 3
source: {component: test}
";

/// The words of every line.
fn cells(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn get_prints_tables_as_kubernetes_does() {
    let cli = Cli::start().await;
    cli.apply(SERVICE).await;
    let table = cli.ok(&["get", "svc", "proxy"]).await;
    let rows = cells(&table);
    assert_eq!(rows[0], ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]);
    assert_eq!(rows[1][..2], ["proxy", "LoadBalancer"]);
    assert!(rows[1][2].starts_with("10."), "{table}");
    assert_eq!(rows[1][3], "<pending>");
    let ports: Vec<u16> = rows[1][4]
        .split(',')
        .map(|port| {
            port.split(':')
                .nth(1)
                .and_then(|rest| rest.strip_suffix("/TCP"))
                .and_then(|number| number.parse().ok())
                .expect("a node port")
        })
        .collect();
    assert!(ports.iter().all(|port| (30_000..=32_767).contains(port)) && ports[0] != ports[1], "{ports:?}");

    let status = r#"{"status":{"loadBalancer":{"ingress":[{"ip":"127.80.0.1"}]}}}"#;
    cli.ok(&["patch", "svc", "proxy", "--subresource=status", "--type=merge", "-p", status]).await;
    let address = cli
        .ok(&[
            "get",
            "svc",
            "proxy",
            "-o",
            "jsonpath={range .status.loadBalancer.ingress[0]}{@.ip}{@.hostname}{end}",
        ])
        .await;
    assert_eq!(address, "127.80.0.1");
    assert_eq!(cells(&cli.ok(&["get", "svc", "proxy"]).await)[1][3], "127.80.0.1");
    contains(&cli.ok(&["get", "svc", "proxy", "-o", "wide"]).await, "app=proxy");
    let gateways = cli.ok(&["get", "gateways", "-A"]).await;
    assert_eq!(gateways, "");
    cli.apply(GATEWAY).await;
    let rows = cli.ok(&["get", "gateway", "kong"]).await;
    assert_eq!(cells(&rows)[0], ["NAME", "CLASS", "ADDRESS", "PROGRAMMED", "AGE"]);
    assert_eq!(cells(&rows)[1][..3], ["kong", "kong", "Unknown"]);
    let all = cli.ok(&["get", "all"]).await;
    contains(&all, "service/proxy");
    contains(&all, "service/kubernetes");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_prints_the_other_forms_and_selects() {
    let cli = Cli::start().await;
    cli.apply(&format!("{SERVICE}---{POD}")).await;
    assert_eq!(cli.ok(&["get", "svc", "proxy", "-o", "name"]).await, "service/proxy\n");
    contains(&cli.ok(&["get", "svc", "proxy", "-o", "yaml"]).await, "externalTrafficPolicy: Cluster");
    contains(&cli.ok(&["get", "svc", "proxy", "-o", "json"]).await, "\"kind\": \"Service\"");
    let custom =
        cli.ok(&["get", "pods", "-o", "custom-columns=N:.metadata.name,I:.spec.containers[0].image"]).await;
    assert_eq!(cells(&custom), [["N", "I"], ["p", "nginx"]]);
    contains(&cli.ok(&["get", "pods", "--show-labels"]).await, "app=proxy");
    let by_node =
        ["get", "pods", "-A", "--field-selector", "spec.nodeName=node-1,status.phase=Pending", "-o", "name"];
    assert_eq!(cli.ok(&by_node).await, "pod/p\n");
    assert_eq!(cli.ok(&["get", "pods", "--field-selector", "spec.nodeName!=node-1", "-o", "name"]).await, "");
    contains(
        &cli.fails(&["get", "pods", "--field-selector", "spec.colour=red"]).await,
        "field label not supported: spec.colour",
    );
    contains(&cli.fails(&["get", "nothing"]).await, "the server doesn't have a resource type \"nothing\"");
    contains(&cli.fails(&["get", "pod", "none"]).await, "pods \"none\" not found");
    for name in ["a", "b", "c", "d", "e"] {
        cli.ok(&["create", "configmap", name]).await;
    }
    let chunked = cli.ok(&["get", "configmaps", "--chunk-size=2", "-o", "name"]).await;
    assert_eq!(chunked.lines().count(), 5, "{chunked}");
    let sorted = cli.ok(&["get", "configmaps", "--sort-by=.metadata.name", "-o", "name"]).await;
    assert_eq!(sorted.lines().next(), Some("configmap/a"));
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn describe_tells_an_object_and_its_events() {
    let cli = Cli::start().await;
    cli.apply(&format!("{SERVICE}---{POD}")).await;
    let uid = cli.ok(&["get", "pod", "p", "-o", "jsonpath={.metadata.uid}"]).await;
    cli.apply(&EVENT.replace("name: p, namespace", &format!("uid: {uid}, name: p, namespace"))).await;
    let pod = cli.ok(&["describe", "pod", "p"]).await;
    contains(&pod, "Image:        nginx");
    contains(&pod, "it runs");
    contains(&cli.ok(&["describe", "svc", "proxy"]).await, "NodePort:                 http  3");
    contains(&cli.ok(&["describe", "namespace", "default"]).await, "Status:       Active");
    contains(&cli.ok(&["describe", "gatewayclasses"]).await, "");
    contains(&cli.ok(&["get", "events"]).await, "it runs");
    contains(&cli.ok(&["events"]).await, "it runs");
    contains(&cli.ok(&["events", "--for", "pod/p"]).await, "Started");
    assert_eq!(
        cli.ok(&["get", "events", "--field-selector", "involvedObject.name=other", "-o", "name"]).await,
        ""
    );
    let renamed =
        cli.ok(&["get", "events.events.k8s.io", "p.1", "-o", "jsonpath={.note} {.regarding.name}"]).await;
    assert_eq!(renamed, "it runs p", "both groups show one event");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_and_discovery_know_every_kind() {
    let cli = Cli::start().await;
    contains(&cli.ok(&["explain", "deployment.spec.replicas"]).await, "FIELD: replicas <integer>");
    contains(
        &cli.ok(&["explain", "httproute.spec.rules.backendRefs.weight"]).await,
        "FIELD: weight <integer>",
    );
    contains(
        &cli.ok(&["explain", "gateway", "--api-version=gateway.networking.k8s.io/v1beta1"]).await,
        "VERSION:    v1beta1",
    );
    contains(&cli.ok(&["explain", "pods", "--recursive"]).await, "containerPort");
    contains(&cli.fails(&["explain", "pod.spec.colour"]).await, "field \"colour\" does not exist");
    let resources = cli.ok(&["api-resources", "--no-headers"]).await;
    for line in [
        "pods ",
        "deployments ",
        "httproutes ",
        "gateways ",
        "endpointslices ",
        "customresourcedefinitions ",
        "gatewayconfigurations ",
    ] {
        contains(&resources, line);
    }
    assert_eq!(
        cli.ok(&["api-resources", "--api-group=apps", "--namespaced=false", "--no-headers"]).await,
        ""
    );
    contains(&cli.ok(&["api-versions"]).await, "gateway.networking.k8s.io/v1beta1\n");
    contains(&cli.ok(&["version"]).await, "Server Version: v1.36");
    assert_eq!(cli.ok(&["get", "--raw", "/readyz"]).await, "ok");
    contains(&cli.ok(&["get", "--raw", "/openapi/v2"]).await, "\"swagger\":\"2.0\"");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_administrator_may_do_everything_and_is_told_so() {
    let cli = Cli::start().await;
    assert_eq!(cli.ok(&["auth", "can-i", "create", "httproutes"]).await, "yes\n");
    assert_eq!(cli.ok(&["auth", "can-i", "*", "*", "--all-namespaces"]).await, "yes\n");
    contains(&cli.ok(&["auth", "whoami"]).await, "system:masters");
    contains(&cli.ok(&["auth", "can-i", "--list"]).await, "*.*");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_read_and_followed() {
    let cli = Cli::start().await;
    cli.apply(POD).await;
    let uid = cli.ok(&["get", "pod", "p", "-o", "jsonpath={.metadata.uid}"]).await;
    let logs = cli.server.logs();
    logs.append(&uid, "c", "first\nsecond\n", Timestamp::UNIX_EPOCH);
    assert_eq!(cli.ok(&["logs", "p"]).await, "first\nsecond\n");
    assert_eq!(cli.ok(&["logs", "p", "--tail=1"]).await, "second\n");
    contains(
        &cli.ok(&["logs", "p", "--timestamps", "--tail=1"]).await,
        "1970-01-01T00:00:00.000000000Z second",
    );
    contains(&cli.fails(&["logs", "p", "-c", "other"]).await, "container other is not valid for pod p");
    let mut follow = cli.spawn(&["logs", "-f", "p"]);
    follow.line_with("second").await;
    logs.append(&uid, "c", "third", Timestamp::UNIX_EPOCH);
    follow.line_with("third").await;
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_prints_changes_as_they_come() {
    let cli = Cli::start().await;
    cli.ok(&["create", "configmap", "a"]).await;
    let mut watch = cli.spawn(&["get", "configmaps", "--watch", "--output-watch-events"]);
    watch.line_with("ADDED").await;
    cli.ok(&["patch", "configmap", "a", "-p", r#"{"data":{"x":"y"}}"#]).await;
    contains(&watch.line_with("MODIFIED").await, "1");
    cli.ok(&["delete", "configmap", "a"]).await;
    watch.line_with("DELETED").await;
    let mut one = cli.spawn(&["get", "namespace", "default", "-w", "-o", "name"]);
    one.line_with("namespace/default").await;
    cli.stop().await;
}

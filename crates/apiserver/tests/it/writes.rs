//! What a person writes with `kubectl`: create, apply, edit, patch, label, scale, delete.

use crate::cli::{Cli, contains};

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec: {containers: [{name: echo, image: registry.k8s.io/e2e-test-images/agnhost:2.40, ports: [{containerPort: 8080}]}]}
";

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: echo}
spec:
  parentRefs: [{name: kong}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /echo}}]
    backendRefs: [{name: echo, port: 80}, {name: echo2, port: 80}]
";

#[tokio::test(flavor = "multi_thread")]
async fn create_makes_objects_from_arguments_and_refuses_them_twice() {
    let cli = Cli::start().await;
    assert_eq!(cli.ok(&["create", "namespace", "kong"]).await, "namespace/kong created\n");
    let twice = cli.fails(&["create", "namespace", "kong"]).await;
    assert_eq!(twice, "Error from server (AlreadyExists): namespaces \"kong\" already exists\n");
    for arguments in [
        &["create", "deployment", "d", "--image=nginx", "--replicas=0"][..],
        &["create", "configmap", "c", "--from-literal=a=1"],
        &["create", "secret", "generic", "s", "--from-literal=password=x"],
        &["create", "service", "loadbalancer", "lb", "--tcp=80:8080"],
        &["create", "serviceaccount", "sa"],
        &["create", "role", "r", "--verb=get", "--resource=pods"],
        &["create", "ingress", "i", "--rule=example.com/a=lb:80"],
        &["create", "job", "j", "--image=x"],
        &["create", "poddisruptionbudget", "p", "--selector=a=b", "--min-available=1"],
        &["run", "p", "--image=x", "--restart=Never"],
    ] {
        contains(&cli.ok(arguments).await, " created");
    }
    let replicas = cli.ok(&["get", "deployment", "d", "-o", "jsonpath={.spec.replicas}"]).await;
    assert_eq!(replicas, "0", "a zero that was asked for stays");
    let data = cli.ok(&["get", "secret", "s", "-o", "jsonpath={.data.password}"]).await;
    assert_eq!(data, "eA==");
    let missing = cli.fails(&["create", "configmap", "c", "-n", "nowhere"]).await;
    contains(&missing, "namespaces \"nowhere\" not found");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_says_created_unchanged_and_configured() {
    let cli = Cli::start().await;
    let both = format!("{DEPLOYMENT}---{ROUTE}");
    assert_eq!(
        cli.apply(&both).await,
        "deployment.apps/echo created\nhttproute.gateway.networking.k8s.io/echo created\n"
    );
    // kubectl compares a route's lists with those of the server, which have defaults in them, and so says
    // `configured`; nothing is.
    let again = cli.apply(&both).await;
    contains(&again, "deployment.apps/echo unchanged\n");
    let generation =
        async || cli.ok(&["get", "httproute", "echo", "-o", "jsonpath={.metadata.generation}"]).await;
    assert_eq!(generation().await, "1");
    assert_eq!(
        cli.apply(&ROUTE.replace("/echo}", "/other}")).await,
        "httproute.gateway.networking.k8s.io/echo configured\n"
    );
    assert_eq!(generation().await, "2");
    let image = DEPLOYMENT.replace("agnhost:2.40", "agnhost:2.41");
    assert_eq!(cli.apply(&image).await, "deployment.apps/echo configured\n");
    let containers = cli
        .ok(&["get", "deployment", "echo", "-o", "jsonpath={.spec.template.spec.containers[*].image}"])
        .await;
    assert_eq!(
        containers, "registry.k8s.io/e2e-test-images/agnhost:2.41",
        "a container is changed, not added"
    );
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_side_apply_owns_fields_and_names_conflicts() {
    let cli = Cli::start().await;
    let apply = ["apply", "--server-side", "-f", "-"];
    assert_eq!(cli.feed(&apply, DEPLOYMENT).await.out, "deployment.apps/echo serverside-applied\n");
    let scaled = DEPLOYMENT.replace("spec:\n  selector", "spec:\n  replicas: 3\n  selector");
    let other = ["apply", "--server-side", "--field-manager=other", "-f", "-"];
    assert_eq!(cli.feed(&other, &scaled).await.code, 0, "nobody owned the replicas");
    let conflict = cli.feed(&apply, &scaled.replace("replicas: 3", "replicas: 5")).await;
    assert_ne!(conflict.code, 0);
    contains(&conflict.err, "conflict with \"other\": .spec.replicas");
    let forced = cli
        .feed(
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
            &scaled.replace("replicas: 3", "replicas: 5"),
        )
        .await;
    assert_eq!(forced.code, 0, "{}", forced.err);
    assert_eq!(cli.ok(&["get", "deployment", "echo", "-o", "jsonpath={.spec.replicas}"]).await, "5");
    let managers = cli
        .ok(&[
            "get",
            "deployment",
            "echo",
            "--show-managed-fields",
            "-o",
            "jsonpath={.metadata.managedFields[*].manager}",
        ])
        .await;
    contains(&managers, "kubectl");
    contains(&managers, "other");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_of_all_kinds_change_what_they_say_and_tell_when_they_change_nothing() {
    let cli = Cli::start().await;
    cli.apply(&format!("{DEPLOYMENT}---{ROUTE}")).await;
    let weights = "[\n\t{\"op\": \"add\", \"path\": \"/spec/rules/0/backendRefs/0/weight\", \"value\": 200},\n\t{\"op\": \"add\", \"path\": \"/spec/rules/0/backendRefs/1/weight\", \"value\": 100}\n]";
    let patch = format!("-p={weights}");
    let json = ["patch", "--type", "json", "httproute", "echo", &patch];
    assert_eq!(cli.ok(&json).await, "httproute.gateway.networking.k8s.io/echo patched\n");
    assert_eq!(cli.ok(&json).await, "httproute.gateway.networking.k8s.io/echo patched (no change)\n");
    let shown =
        cli.ok(&["get", "httproute", "echo", "-o", "jsonpath={.spec.rules[0].backendRefs[*].weight}"]).await;
    assert_eq!(shown, "200 100");

    let merge =
        ["patch", "--type", "merge", "httproute", "echo", "-p", r#"{"spec":{"hostnames":["a.example"]}}"#];
    contains(&cli.ok(&merge).await, "patched");
    contains(&cli.ok(&merge).await, "(no change)");

    let strategic = [
        "patch",
        "deployment",
        "echo",
        "-p",
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"x"}]}}}}"#,
    ];
    contains(&cli.ok(&strategic).await, "deployment.apps/echo patched");
    let names = cli
        .ok(&["get", "deployment", "echo", "-o", "jsonpath={.spec.template.spec.containers[*].name}"])
        .await;
    assert!(names.contains("echo") && names.contains("side"), "merged by name: {names}");

    let unsupported = cli.fails(&["patch", "--type", "strategic", "httproute", "echo", "-p", "{}"]).await;
    contains(&unsupported, "application/strategic-merge-patch+json is not supported");
    let nowhere = cli
        .fails(&[
            "patch",
            "--type",
            "json",
            "httproute",
            "echo",
            "-p",
            r#"[{"op":"remove","path":"/spec/nothing"}]"#,
        ])
        .await;
    contains(&nowhere, "nothing");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edit_writes_what_the_editor_left() {
    let cli = Cli::start().await;
    cli.apply(ROUTE).await;
    let editor = ("KUBE_EDITOR", "sed -i s,value:./echo,value:\\ /edited,");
    let said = cli.with(editor, &["edit", "httproute", "echo"]).await;
    assert_eq!(said.out, "httproute.gateway.networking.k8s.io/echo edited\n", "{}", said.err);
    let value =
        cli.ok(&["get", "httproute", "echo", "-o", "jsonpath={.spec.rules[0].matches[0].path.value}"]).await;
    assert_eq!(value, "/edited");
    let nothing = cli.with(("KUBE_EDITOR", "true"), &["edit", "httproute", "echo"]).await;
    contains(&nothing.err, "no changes made");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_annotations_scale_and_images_are_set_by_their_commands() {
    let cli = Cli::start().await;
    cli.apply(DEPLOYMENT).await;
    assert_eq!(
        cli.ok(&["label", "deployment", "echo", "tier=front"]).await,
        "deployment.apps/echo labeled\n"
    );
    contains(&cli.fails(&["label", "deployment", "echo", "tier=back"]).await, "already has a value");
    contains(
        &cli.fails(&["label", "deployment", "echo", "tier=not ok", "--overwrite"]).await,
        "a valid label must be",
    );
    assert_eq!(
        cli.ok(&["annotate", "deployment", "echo", "note=x"]).await,
        "deployment.apps/echo annotated\n"
    );
    assert_eq!(
        cli.ok(&["scale", "deployment", "echo", "--replicas=20"]).await,
        "deployment.apps/echo scaled\n"
    );
    contains(
        &cli.fails(&["scale", "deployment", "echo", "--replicas=1", "--current-replicas=3"]).await,
        "Expected replicas to be 3, was 20",
    );
    assert_eq!(
        cli.ok(&["get", "deployment", "echo", "-o", "jsonpath={.spec.replicas} {.metadata.generation}"])
            .await,
        "20 2"
    );
    contains(&cli.ok(&["set", "image", "deployment/echo", "echo=x:2"]).await, "image updated");
    contains(&cli.ok(&["rollout", "restart", "deployment/echo"]).await, "restarted");
    contains(&cli.ok(&["expose", "deployment", "echo", "--port=80"]).await, "service/echo exposed");
    assert_eq!(
        cli.ok(&["get", "deployments", "-l", "tier=front", "-o", "name"]).await,
        "deployment.apps/echo\n"
    );
    assert_eq!(cli.ok(&["get", "deployments", "-l", "tier notin (front)", "-o", "name"]).await, "");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn diff_and_dry_run_show_what_would_be_and_store_nothing() {
    let cli = Cli::start().await;
    cli.apply(ROUTE).await;
    let same = cli.feed(&["diff", "-f", "-"], ROUTE).await;
    assert_eq!((same.code, same.out.as_str()), (0, ""), "{}", same.err);
    let other = ROUTE.replace("/echo}", "/changed}");
    let differs = cli.feed(&["diff", "-f", "-"], &other).await;
    assert_eq!(differs.code, 1, "{}", differs.err);
    contains(&differs.out, "+        value: /changed");
    let dry = cli.feed(&["apply", "--dry-run=server", "-f", "-"], &other).await;
    assert_eq!(dry.out, "httproute.gateway.networking.k8s.io/echo configured (server dry run)\n");
    contains(
        &cli.ok(&["create", "namespace", "ghost", "--dry-run=server"]).await,
        "created (server dry run)",
    );
    contains(&cli.fails(&["get", "namespace", "ghost"]).await, "namespaces \"ghost\" not found");
    let value =
        cli.ok(&["get", "httproute", "echo", "-o", "jsonpath={.spec.rules[0].matches[0].path.value}"]).await;
    assert_eq!(value, "/echo");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_takes_names_labels_and_everything_and_waits_for_finalizers() {
    let cli = Cli::start().await;
    cli.apply(&format!("{DEPLOYMENT}---{ROUTE}")).await;
    assert_eq!(
        cli.ok(&["delete", "httproute", "echo"]).await,
        "httproute.gateway.networking.k8s.io \"echo\" deleted\n"
    );
    let gone = cli.fails(&["delete", "httproute", "echo"]).await;
    assert_eq!(
        gone,
        "Error from server (NotFound): httproutes.gateway.networking.k8s.io \"echo\" not found\n"
    );
    assert_eq!(cli.ok(&["delete", "httproute", "echo", "--ignore-not-found"]).await, "");
    for name in ["a", "b", "c"] {
        cli.ok(&["create", "configmap", name]).await;
    }
    cli.ok(&["label", "configmap", "a", "b", "x=y"]).await;
    assert_eq!(
        cli.ok(&["delete", "configmaps", "-l", "x=y", "-o", "name"]).await,
        "configmap/a\nconfigmap/b\n"
    );
    contains(&cli.ok(&["delete", "configmaps", "--all"]).await, "configmap \"c\" deleted");

    cli.ok(&["create", "configmap", "held"]).await;
    cli.ok(&["patch", "configmap", "held", "-p", r#"{"metadata":{"finalizers":["example.com/hold"]}}"#])
        .await;
    let mut deleting = cli.spawn(&["delete", "configmap", "held"]);
    deleting.line_with("configmap \"held\" deleted").await;
    let stamp = cli.ok(&["get", "configmap", "held", "-o", "jsonpath={.metadata.deletionTimestamp}"]).await;
    assert!(!stamp.is_empty(), "it is held");
    let more = cli
        .fails(&["patch", "configmap", "held", "-p", r#"{"metadata":{"finalizers":["example.com/more"]}}"#])
        .await;
    contains(&more, "no new finalizers can be added if the object is being deleted");
    cli.ok(&["patch", "configmap", "held", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#])
        .await;
    deleting.ends().await;
    contains(&cli.fails(&["delete", "namespace", "default"]).await, "this namespace may not be deleted");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_ends_when_a_condition_or_a_value_is_there() {
    let cli = Cli::start().await;
    cli.apply(ROUTE).await;
    let mut value = cli.spawn(&[
        "wait",
        "--for=jsonpath={.spec.hostnames[0]}=a.example",
        "httproute/echo",
        "--timeout=20s",
    ]);
    cli.ok(&["patch", "httproute", "echo", "--type=merge", "-p", r#"{"spec":{"hostnames":["a.example"]}}"#])
        .await;
    value.line_with("condition met").await;
    let node = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n"}}"#;
    contains(&cli.apply(node).await, "node/n created");
    let status = r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;
    cli.ok(&["patch", "node", "n", "--subresource=status", "--type=merge", "-p", status]).await;
    contains(&cli.ok(&["wait", "--for=condition=Ready", "node/n", "--timeout=20s"]).await, "condition met");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_objects_are_refused_with_their_fields() {
    let cli = Cli::start().await;
    let refuse = async |yaml: &str| {
        let said = cli.feed(&["apply", "-f", "-"], yaml).await;
        assert_ne!(said.code, 0, "{yaml} was taken");
        said.err
    };
    let typo = refuse(&ROUTE.replace("matches:", "matchez:")).await;
    contains(&typo, "strict decoding error: unknown field \"spec.rules[0].matchez\"");
    let typo = refuse(&DEPLOYMENT.replace("template:", "templete:")).await;
    contains(&typo, "unknown field \"spec.templete\"");
    let kind = refuse(&ROUTE.replace("HTTPRoute", "HTTPRout")).await;
    contains(&kind, "no matches for kind \"HTTPRout\" in version \"gateway.networking.k8s.io/v1\"");
    let range =
        refuse(&ROUTE.replace("port: 80}, {name: echo2", "port: 80, weight: -1}, {name: echo2")).await;
    contains(&range, "spec.rules[0].backendRefs[0].weight");
    let rule = refuse(&ROUTE.replace("value: /echo", "value: echo")).await;
    contains(&rule, "The HTTPRoute \"echo\" is invalid");
    contains(
        &rule,
        "value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']",
    );
    let kind_of_value =
        refuse(&ROUTE.replace("port: 80}, {name: echo2", "port: eighty}, {name: echo2")).await;
    contains(&kind_of_value, "spec.rules[0].backendRefs[0].port");
    let selector = refuse(&DEPLOYMENT.replace("labels: {app: echo}", "labels: {app: other}")).await;
    contains(&selector, "`selector` does not match template `labels`");
    let name = refuse("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_OK}\n").await;
    contains(&name, "a lowercase RFC 1123 subdomain must consist of");

    let warned = cli
        .feed(
            &["apply", "--validate=warn", "-f", "-"],
            &ROUTE.replace("parentRefs:", "colour: red\n  parentRefs:"),
        )
        .await;
    assert_eq!(warned.code, 0, "{}", warned.err);
    contains(&warned.err, "Warning: unknown field \"spec.colour\"");
    assert_eq!(
        cli.ok(&["get", "httproute", "echo", "-o", "jsonpath={.spec.colour}"]).await,
        "",
        "it was dropped"
    );
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_writes_conflict() {
    let cli = Cli::start().await;
    cli.ok(&["create", "configmap", "c", "--from-literal=a=1"]).await;
    let read = cli.ok(&["get", "configmap", "c", "-o", "yaml"]).await;
    cli.ok(&["patch", "configmap", "c", "-p", r#"{"data":{"a":"2"}}"#]).await;
    let said = cli.feed(&["replace", "-f", "-"], &read).await;
    assert_ne!(said.code, 0);
    contains(
        &said.err,
        "Operation cannot be fulfilled on configmaps \"c\": the object has been modified; please apply your changes to the latest version and try again",
    );
    cli.stop().await;
}

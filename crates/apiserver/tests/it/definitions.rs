//! Custom resource definitions and admission policies, as users bring them.

use weir_apiserver::{ApiServerConfig, Channel};

use crate::cli::{Cli, contains};

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: lamps.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Lamp, plural: lamps, shortNames: [lp]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.bulbs, statusReplicasPath: .status.bulbs}}
    additionalPrinterColumns:
    - {name: Colour, type: string, jsonPath: .spec.colour}
    - {name: Bulbs, type: integer, jsonPath: .spec.bulbs, priority: 1}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [colour]
            properties:
              colour: {type: string, enum: [red, green]}
              bulbs: {type: integer, default: 1, minimum: 0}
            x-kubernetes-validations:
            - {rule: "self.colour != 'red' || self.bulbs < 3", message: red lamps have at most two bulbs}
          status: {type: object, properties: {bulbs: {type: integer}}}
"#;

const LAMP: &str = "
apiVersion: example.com/v1
kind: Lamp
metadata: {name: l}
spec: {colour: red}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_serves_its_kind_from_its_creation_to_its_end() {
    let cli = Cli::start().await;
    contains(&cli.fails(&["get", "lamps"]).await, "the server doesn't have a resource type \"lamps\"");
    cli.apply(DEFINITION).await;
    contains(
        &cli.ok(&["wait", "--for=condition=Established", "crd/lamps.example.com", "--timeout=20s"]).await,
        "condition met",
    );
    assert_eq!(cli.apply(LAMP).await, "lamp.example.com/l created\n");
    let table = cli.ok(&["get", "lp"]).await;
    assert_eq!(
        table.lines().next().map(|line| line.split_whitespace().collect()),
        Some(vec!["NAME", "COLOUR"])
    );
    contains(&cli.ok(&["get", "lp", "-o", "wide"]).await, "BULBS");
    assert_eq!(cli.ok(&["get", "lamp", "l", "-o", "jsonpath={.spec.bulbs}"]).await, "1", "the default");

    let refused = cli.feed(&["apply", "-f", "-"], &LAMP.replace("red", "blue")).await.err;
    contains(&refused, "spec.colour: Unsupported value: \"blue\": supported values: \"red\", \"green\"");
    let refused = cli.feed(&["apply", "-f", "-"], &LAMP.replace("red}", "red, bulbs: 3}")).await.err;
    contains(&refused, "red lamps have at most two bulbs");

    assert_eq!(cli.ok(&["scale", "lamp", "l", "--replicas=2"]).await, "lamp.example.com/l scaled\n");
    contains(
        &cli.ok(&[
            "patch",
            "lamp",
            "l",
            "--type=merge",
            "--subresource=status",
            "-p",
            r#"{"status":{"bulbs":2},"spec":{"colour":"green"}}"#,
        ])
        .await,
        "patched",
    );
    let both = cli
        .ok(&[
            "get",
            "lamp",
            "l",
            "-o",
            "jsonpath={.spec.colour} {.spec.bulbs} {.status.bulbs} {.metadata.generation}",
        ])
        .await;
    assert_eq!(
        both, "red 2 2 2",
        "the status is written apart, and does not count as a change of what is desired"
    );

    contains(&cli.ok(&["delete", "crd", "lamps.example.com"]).await, "deleted");
    contains(&cli.fails(&["get", "lamps"]).await, "the server could not find the requested resource");
    cli.apply(DEFINITION).await;
    contains(
        &cli.ok(&["wait", "--for=condition=Established", "crd/lamps.example.com", "--timeout=20s"]).await,
        "condition met",
    );
    assert_eq!(cli.ok(&["get", "lamps", "-o", "name"]).await, "", "its objects went with it");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_waits_for_objects_that_are_held() {
    let cli = Cli::start().await;
    cli.apply(DEFINITION).await;
    cli.apply(&LAMP.replace("name: l}", "name: l, finalizers: [example.com/hold]}")).await;
    cli.ok(&["delete", "crd", "lamps.example.com", "--wait=false"]).await;
    let condition = cli
        .ok(&[
            "get",
            "crd",
            "lamps.example.com",
            "-o",
            "jsonpath={.status.conditions[?(@.type==\"Terminating\")].status}",
        ])
        .await;
    assert_eq!(condition, "True");
    let refused = cli.feed(&["create", "-f", "-"], &LAMP.replace("name: l}", "name: other}")).await;
    contains(&refused.err, "create not allowed while custom resource definition is terminating");
    cli.ok(&["patch", "lamp", "l", "--type=merge", "-p", r#"{"metadata":{"finalizers":[]}}"#]).await;
    contains(&cli.fails(&["get", "crd", "lamps.example.com"]).await, "not found");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_definition_says_is_what_is_served() {
    let cli = Cli::start().await;
    cli.apply(DEFINITION).await;
    cli.apply(LAMP).await;
    let blue = DEFINITION.replace("[red, green]", "[red, green, blue]");
    assert_eq!(
        cli.apply(&blue).await,
        "customresourcedefinition.apiextensions.k8s.io/lamps.example.com configured\n"
    );
    assert_eq!(cli.apply(&LAMP.replace("red", "blue")).await, "lamp.example.com/l configured\n");
    let broken = cli
        .feed(
            &["apply", "-f", "-"],
            &DEFINITION.replace("type: integer, default: 1", "type: lamp, default: 1"),
        )
        .await;
    contains(&broken.err, "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[bulbs].type");
    let moved =
        cli.feed(&["apply", "-f", "-"], &DEFINITION.replace("scope: Namespaced", "scope: Cluster")).await;
    contains(&moved.err, "spec.scope: Invalid value: \"Cluster\": field is immutable");
    let misnamed = cli
        .feed(
            &["apply", "-f", "-"],
            &DEFINITION.replace("name: lamps.example.com", "name: lamps.example.org"),
        )
        .await;
    contains(&misnamed.err, "must be spec.names.plural+\".\"+spec.group");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundle_can_be_applied_over_the_built_in_one() {
    let cli =
        Cli::start_with(ApiServerConfig { channel: Channel::Experimental, ..ApiServerConfig::default() })
            .await;
    let bundle: Vec<String> =
        weir_schema::crds::builtin(Channel::Standard).map(|(_, definition)| definition.to_string()).collect();
    let file = cli.file("standard.json", &bundle.join("\n"));
    let said = cli.try_run(&["apply", "-f", &file]).await;
    assert_eq!(said.code, 0, "{}", said.err);
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines.len(), bundle.len());
    assert!(lines.iter().all(|line| line.ends_with(" configured")), "{lines:?}");
    let channel = cli
        .ok(&[
            "get",
            "crd",
            "httproutes.gateway.networking.k8s.io",
            "-o",
            "jsonpath={.metadata.annotations.gateway\\.networking\\.k8s\\.io/channel}",
        ])
        .await;
    assert_eq!(channel, "standard");
    let again = cli.ok(&["apply", "-f", &file]).await;
    assert!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_bundle_can_be_applied_by_the_server_without_a_conflict() {
    let cli =
        Cli::start_with(ApiServerConfig { channel: Channel::Standard, ..ApiServerConfig::default() }).await;
    let bundle: Vec<String> = weir_schema::crds::builtin(Channel::Experimental)
        .map(|(_, definition)| definition.to_string())
        .collect();
    let file = cli.file("experimental.json", &bundle.join("\n"));
    let said = cli.try_run(&["apply", "--server-side", "-f", &file]).await;
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.lines().all(|line| line.ends_with(" serverside-applied")), "{}", said.out);
    contains(&cli.ok(&["get", "crds", "-o", "name"]).await, "xmeshes.gateway.networking.x-k8s.io");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_a_kind_show_one_object() {
    let cli = Cli::start().await;
    let class = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: GatewayClass\nmetadata: {name: g}\nspec: {controllerName: example.com/c}\n";
    cli.apply(class).await;
    let old = cli
        .ok(&[
            "get",
            "gatewayclasses.v1beta1.gateway.networking.k8s.io",
            "g",
            "-o",
            "jsonpath={.apiVersion} {.metadata.uid}",
        ])
        .await;
    let new = cli
        .ok(&[
            "get",
            "gatewayclasses.v1.gateway.networking.k8s.io",
            "g",
            "-o",
            "jsonpath={.apiVersion} {.metadata.uid}",
        ])
        .await;
    assert_eq!(old.replace("v1beta1", "v1"), new);
    assert_ne!(old, new);
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_shown_by_the_schema_of_today_and_kept_as_it_was_written() {
    let cli = Cli::start().await;
    let with_watts = |default: &str| {
        DEFINITION.replace(
            "bulbs: {type: integer, default: 1, minimum: 0}",
            &format!("bulbs: {{type: integer, default: 1, minimum: 0}}\n              watts: {{type: integer{default}}}"),
        )
    };
    cli.apply(DEFINITION).await;
    cli.ok(&["wait", "--for=condition=Established", "crd/lamps.example.com", "--timeout=10s"]).await;
    cli.apply(LAMP).await;
    let shown = async || {
        cli.ok(&[
            "get",
            "lamp",
            "l",
            "-o",
            "jsonpath={.spec.bulbs} {.spec.watts} {.metadata.resourceVersion}",
        ])
        .await
    };
    let before = shown().await;
    let version = before.rsplit(' ').next().unwrap().to_owned();
    assert_eq!(before, format!("1  {version}"));
    // A default that comes later holds for what is there, and as long as nobody writes the object the newest one does.
    for watts in ["40", "60"] {
        cli.apply(&with_watts(&format!(", default: {watts}"))).await;
        assert_eq!(shown().await, format!("1 {watts} {version}"));
    }
    let listed = cli.ok(&["get", "lamps", "-o", "jsonpath={.items[*].spec.watts}"]).await;
    assert_eq!(listed, "60");
    cli.apply(DEFINITION).await;
    assert_eq!(shown().await, before, "the field is not known any more");
    // Written, it is the object's own.
    cli.apply(&with_watts(", default: 80")).await;
    cli.ok(&["annotate", "lamp", "l", "a=b"]).await;
    for definition in [with_watts(", default: 90"), with_watts("")] {
        cli.apply(&definition).await;
        assert!(shown().await.starts_with("1 80 "), "{}", shown().await);
    }
    cli.apply(DEFINITION).await;
    assert!(shown().await.starts_with("1  "), "{}", shown().await);
    cli.apply(&with_watts("")).await;
    assert!(shown().await.starts_with("1 80 "), "what was written was kept");
    cli.stop().await;
}

const POLICY: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: named}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [configmaps]}]}
  validations: [{expression: "object.metadata.name.startsWith('ok')", message: names begin with ok}]
"#;

const BINDING: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: named}
spec: {policyName: named, validationActions: [Deny]}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn admission_policies_are_obeyed_once_they_are_bound() {
    let cli = Cli::start().await;
    cli.apply(POLICY).await;
    cli.ok(&["create", "configmap", "free"]).await;
    cli.apply(BINDING).await;
    let refused = cli.fails(&["create", "configmap", "bad"]).await;
    assert_eq!(
        refused,
        "error: failed to create configmap: configmaps \"bad\" is forbidden: ValidatingAdmissionPolicy 'named' with binding 'named' denied request: names begin with ok\n"
    );
    cli.ok(&["create", "configmap", "ok-1"]).await;
    contains(&cli.fails(&["label", "configmap", "free", "a=b"]).await, "names begin with ok");
    cli.ok(&["delete", "configmap", "free"]).await;
    let broken = cli.feed(&["apply", "-f", "-"], &POLICY.replace("startsWith('ok')", "startsWith(")).await;
    contains(&broken.err, "spec.validations[0].expression");
    cli.ok(&["delete", "validatingadmissionpolicybinding", "named"]).await;
    cli.ok(&["create", "configmap", "bad"]).await;
    cli.stop().await;
}

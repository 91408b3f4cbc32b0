//! Admission policies: what they match and what they say. The upstream one is read from the published bundles, where
//! they are; `WEIR_UPSTREAM_CRDS` names them, or they lie beside the repository.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weir_schema::cel::{Attributes, Binding, Decision, Operation, Policy, selector_matches};

use crate::schemas::{one, yaml};

fn upstream() -> Option<PathBuf> {
    let named = std::env::var_os("WEIR_UPSTREAM_CRDS").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/crds");
    let directory = named.unwrap_or(beside);
    if !directory.join("standard").is_dir() {
        // Past the test harness's capture: `cargo xtask test` collects these lines, and fails on them where it is strict.
        let line =
            "left out: the upstream admission policy: no upstream CRDs here; WEIR_UPSTREAM_CRDS names them\n";
        std::io::stderr().lock().write_all(line.as_bytes()).unwrap();
        return None;
    }
    Some(directory)
}

/// The policy of a bundle and its binding.
fn safe_upgrades(directory: &Path) -> (Policy, Binding) {
    let text =
        std::fs::read_to_string(directory.join("gateway.networking.k8s.io_vap_safeupgrades.yaml")).unwrap();
    let documents = yaml(&text);
    let of_kind = |kind: &str| documents.iter().find(|document| document["kind"] == kind).unwrap();
    (
        Policy::compile(of_kind("ValidatingAdmissionPolicy")).unwrap(),
        Binding::read(of_kind("ValidatingAdmissionPolicyBinding")),
    )
}

fn crd(version: &str, channel: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "httproutes.gateway.networking.k8s.io",
            "annotations": {
                "gateway.networking.k8s.io/bundle-version": version,
                "gateway.networking.k8s.io/channel": channel,
            },
        },
        "spec": {"group": "gateway.networking.k8s.io"},
    })
}

fn request<'a>(object: Option<&'a Value>, old: Option<&'a Value>) -> Attributes<'a> {
    Attributes {
        operation: match (object, old) {
            (Some(_), None) => Operation::Create,
            (Some(_), Some(_)) => Operation::Update,
            _ => Operation::Delete,
        },
        group: "apiextensions.k8s.io",
        version: "v1",
        resource: "customresourcedefinitions",
        subresource: "",
        kind: "CustomResourceDefinition",
        namespace: "",
        name: "httproutes.gateway.networking.k8s.io",
        object,
        old_object: old,
        namespace_object: None,
        user: &Value::Null,
        dry_run: false,
    }
}

fn decide(policy: &Policy, binding: &Binding, request: &Attributes<'_>) -> Decision {
    if policy.applies(binding, request) { policy.judge(binding, request, &[]) } else { Decision::default() }
}

#[test]
fn the_upstream_policy_refuses_old_bundles_and_experimental_over_standard() {
    let Some(directory) = upstream() else { return };
    for (bundle, older) in [
        ("standard", &["v1.0.0", "v1.4.1", "v0.8.1"][..]),
        ("experimental", &["v1.0.0", "v1.4.1", "v0.8.1"][..]),
        ("older/v1.5.1", &["v1.0.0", "v1.4.1", "v0.8.1"][..]),
    ] {
        let (policy, binding) = safe_upgrades(&directory.join(bundle));
        assert_eq!(policy.name(), "safe-upgrades.gateway.networking.k8s.io");
        for version in older {
            let decision = decide(&policy, &binding, &request(Some(&crd(version, "standard")), None));
            assert_eq!(decision.denials.len(), 1, "{bundle} {version}");
            let denial = &decision.denials[0];
            assert!(denial.message.contains("is prohibited by default"), "{bundle} {version}: {denial}");
            assert_eq!((denial.code(), denial.reason.as_str()), (422, "Invalid"));
            let text = denial.to_string();
            assert!(text.starts_with(
                "ValidatingAdmissionPolicy 'safe-upgrades.gateway.networking.k8s.io' with binding \
                 'safe-upgrades.gateway.networking.k8s.io' denied request: Installing CRDs with version"
            ));
        }
        for channel in ["standard", "experimental"] {
            let new = crd("v1.6.1", channel);
            assert_eq!(
                decide(&policy, &binding, &request(Some(&new), None)),
                Decision::default(),
                "{bundle}"
            );
        }
        let (standard, experimental) = (crd("v1.6.1", "standard"), crd("v1.6.1", "experimental"));
        let decision = decide(&policy, &binding, &request(Some(&experimental), Some(&standard)));
        assert_eq!(decision.denials.len(), 1, "{bundle}");
        assert!(decision.denials[0].message.starts_with("Installing experimental CRDs on top of standard"));
        for (new, old) in [(&standard, &standard), (&standard, &experimental), (&experimental, &experimental)]
        {
            assert!(decide(&policy, &binding, &request(Some(new), Some(old))).denials.is_empty(), "{bundle}");
        }
    }
}

#[test]
fn the_upstream_policy_is_about_gateway_api_crds_only() {
    let Some(directory) = upstream() else { return };
    let (policy, binding) = safe_upgrades(&directory.join("standard"));
    let mut foreign = crd("v1.0.0", "experimental");
    foreign["spec"]["group"] = json!("example.com");
    assert!(decide(&policy, &binding, &request(Some(&foreign), None)).denials.is_empty());
    let mut bare = crd("v1.0.0", "standard");
    bare["metadata"].as_object_mut().unwrap().shift_remove("annotations");
    assert_eq!(decide(&policy, &binding, &request(Some(&bare), None)).denials.len(), 1);
    let old = crd("v1.0.0", "standard");
    assert!(!policy.applies(&binding, &request(None, Some(&old))), "deletes are not its business");
    let pod = Attributes { group: "", resource: "pods", ..request(Some(&old), None) };
    assert!(!policy.applies(&binding, &pod));
    let status = Attributes { subresource: "status", ..request(Some(&old), Some(&old)) };
    assert!(!policy.applies(&binding, &status), "a rule without a slash leaves subresources alone");
}

#[test]
fn the_upstream_bundles_of_today_and_before_are_judged_whole() {
    let Some(directory) = upstream() else { return };
    let (policy, binding) = safe_upgrades(&directory.join("standard"));
    for (bundle, refused) in
        [("standard", false), ("experimental", false), ("older/v1.0.0", true), ("older/v1.5.1", true)]
    {
        for entry in std::fs::read_dir(directory.join(bundle)).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            for document in
                yaml(&text).iter().filter(|document| document["kind"] == "CustomResourceDefinition")
            {
                let denials = decide(&policy, &binding, &request(Some(document), None)).denials;
                let expected = refused && document["spec"]["group"] == "gateway.networking.k8s.io";
                assert_eq!(
                    !denials.is_empty(),
                    expected,
                    "{bundle} {}: {denials:?}",
                    document["metadata"]["name"]
                );
            }
        }
    }
}

fn policy(spec: Value) -> Policy {
    Policy::compile(&json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
}

fn everything() -> Value {
    json!({"resourceRules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}]})
}

fn binding(spec: Value) -> Binding {
    let mut all = json!({"policyName": "p", "validationActions": ["Deny"]});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    Binding::read(&json!({"metadata": {"name": "b"}, "spec": all}))
}

#[test]
fn variables_conditions_messages_and_reasons() {
    let policy = policy(json!({
        "matchConstraints": everything(),
        "matchConditions": [{"name": "not-exempt", "expression": "!has(object.metadata.labels) || !('exempt' in object.metadata.labels)"}],
        "variables": [
            {"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "double", "expression": "variables.replicas * 2"},
            {"name": "broken", "expression": "object.none"},
        ],
        "validations": [
            {"expression": "variables.double <= 10", "messageExpression": "'double is ' + string(variables.double)", "reason": "Forbidden"},
            {"expression": "request.operation != 'DELETE' && request.namespace == 'ns' && request.userInfo.username == 'me'"},
            {"expression": "oldObject == null || object.spec.replicas >= oldObject.spec.replicas", "message": "no scaling down"},
            {"expression": "namespaceObject.metadata.name == 'ns'", "message": "namespace"},
        ],
    }));
    let binding = binding(json!({}));
    let user = json!({"username": "me"});
    let namespace = json!({"metadata": {"name": "ns"}});
    let object = |replicas: u32| json!({"metadata": {"name": "d"}, "spec": {"replicas": replicas}});
    let (small, large) = (object(2), object(9));
    let base = Attributes {
        namespace: "ns",
        user: &user,
        namespace_object: Some(&namespace),
        ..request(Some(&small), None)
    };
    assert_eq!(decide(&policy, &binding, &base), Decision::default());
    let denials = decide(&policy, &binding, &Attributes { object: Some(&large), ..base }).denials;
    assert_eq!((denials.len(), denials[0].message.as_str()), (1, "double is 18"));
    assert_eq!((denials[0].reason.as_str(), denials[0].code()), ("Forbidden", 403));
    let denials = decide(&policy, &binding, &Attributes { namespace: "other", ..base }).denials;
    assert_eq!(
        denials[0].message,
        "failed expression: request.operation != 'DELETE' && request.namespace == 'ns' && request.userInfo.username == 'me'"
    );
    let down = Attributes { old_object: Some(&large), operation: Operation::Update, ..base };
    assert_eq!(decide(&policy, &binding, &down).denials[0].message, "no scaling down");
    let mut exempt = large.clone();
    exempt["metadata"]["labels"] = json!({"exempt": ""});
    assert!(decide(&policy, &binding, &Attributes { object: Some(&exempt), ..base }).denials.is_empty());
}

#[test]
fn errors_follow_the_failure_policy_and_actions_the_binding() {
    let spec = |failure: &str| {
        json!({
            "matchConstraints": everything(), "failurePolicy": failure,
            "validations": [{"expression": "object.none == 1", "message": "m"}],
        })
    };
    let object = json!({"metadata": {}});
    let request = request(Some(&object), None);
    let denials = decide(&policy(spec("Fail")), &binding(json!({})), &request).denials;
    assert_eq!(denials[0].message, "expression 'object.none == 1' resulted in error: no such key: none");
    assert!(decide(&policy(spec("Ignore")), &binding(json!({})), &request).denials.is_empty());
    let warned =
        decide(&policy(spec("Fail")), &binding(json!({"validationActions": ["Warn", "Audit"]})), &request);
    assert!(warned.denials.is_empty());
    assert_eq!(
        warned.warnings,
        [
            "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': expression 'object.none == 1' \
          resulted in error: no such key: none"
        ]
    );
    let status = denials[0].status(&request);
    assert_eq!(status["code"], 422);
    assert_eq!(
        status["message"],
        "customresourcedefinitions.apiextensions.k8s.io \"httproutes.gateway.networking.k8s.io\" is forbidden: \
         ValidatingAdmissionPolicy 'p' with binding 'b' denied request: expression 'object.none == 1' resulted in \
         error: no such key: none"
    );
    let endless = policy(json!({
        "matchConstraints": everything(),
        "validations": [{"expression": "lists.range(500).all(a, lists.range(500).all(b, lists.range(500).all(c, true)))"}],
    }));
    assert!(
        decide(&endless, &binding(json!({})), &request).denials[0]
            .message
            .contains("actual cost limit exceeded")
    );
}

#[test]
fn parameters_are_given_one_by_one() {
    let policy = policy(json!({
        "matchConstraints": everything(), "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.n <= int(params.data.max)", "messageExpression": "'over ' + params.data.max"}],
    }));
    let binding = binding(json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}}));
    assert_eq!(binding.param_ref().unwrap()["name"], "limits");
    let object = json!({"n": 5});
    let request = request(Some(&object), None);
    let (high, low) = (json!({"data": {"max": "9"}}), json!({"data": {"max": "3"}}));
    assert!(policy.judge(&binding, &request, &[&high]).denials.is_empty());
    assert_eq!(policy.judge(&binding, &request, &[&high, &low]).denials[0].message, "over 3");
    assert!(policy.judge(&binding, &request, &[]).denials[0].message.contains("no params found"));
}

#[test]
fn rules_match_by_wildcard_operation_scope_name_and_exclusion() {
    let matches = |constraints: Value, request: &Attributes<'_>| {
        policy(json!({"matchConstraints": constraints, "validations": []})).matches(request)
    };
    let object = json!({"metadata": {"labels": {"app": "a"}}});
    let crd = request(Some(&object), None);
    let pod = Attributes { group: "", resource: "pods", namespace: "ns", name: "p", ..crd };
    let log = Attributes { subresource: "log", ..pod };
    let rule = |resources: &str| json!({"resourceRules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": [resources]}]});
    for (resources, on_pod, on_log) in [
        ("*", true, false),
        ("*/*", true, true),
        ("pods", true, false),
        ("pods/*", true, true),
        ("pods/log", false, true),
        ("*/log", false, true),
        ("services", false, false),
    ] {
        assert_eq!(matches(rule(resources), &pod), on_pod, "{resources}");
        assert_eq!(matches(rule(resources), &log), on_log, "{resources}");
    }
    let with = |extra: Value| {
        let mut constraints = rule("*");
        constraints["resourceRules"][0].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        constraints
    };
    assert!(matches(with(json!({"scope": "Namespaced"})), &pod));
    assert!(!matches(with(json!({"scope": "Namespaced"})), &crd));
    assert!(matches(with(json!({"scope": "Cluster"})), &crd));
    assert!(!matches(with(json!({"resourceNames": ["q"]})), &pod));
    assert!(!matches(with(json!({"operations": ["UPDATE", "DELETE"]})), &pod));
    assert!(!matches(with(json!({"apiGroups": ["apps"]})), &pod));
    assert!(matches(with(json!({"apiVersions": ["v2"]})), &pod), "another version is an equivalent resource");
    let mut exact = with(json!({"apiVersions": ["v2"]}));
    exact["matchPolicy"] = json!("Exact");
    assert!(!matches(exact, &pod));
    let mut excluded = rule("*");
    excluded["excludeResourceRules"] = rule("pods")["resourceRules"].take();
    assert!(!matches(excluded.clone(), &pod) && matches(excluded, &crd));
    let policies =
        Attributes { group: "admissionregistration.k8s.io", resource: "validatingadmissionpolicies", ..crd };
    assert!(!matches(rule("*"), &policies));
}

#[test]
fn selectors_choose_by_the_labels_of_objects_and_namespaces() {
    let constraints = |key: &str, selector: Value| {
        let mut all = everything();
        all[key] = selector;
        policy(json!({"matchConstraints": all, "validations": []}))
    };
    let labelled = json!({"metadata": {"labels": {"env": "prod"}}});
    let plain = json!({"metadata": {}});
    let by_object = constraints("objectSelector", json!({"matchLabels": {"env": "prod"}}));
    assert!(by_object.matches(&request(Some(&labelled), None)));
    assert!(!by_object.matches(&request(Some(&plain), None)));
    assert!(by_object.matches(&request(Some(&plain), Some(&labelled))), "the old object counts too");
    let by_namespace = constraints("namespaceSelector", json!({"matchLabels": {"env": "prod"}}));
    let pod = Attributes { group: "", resource: "pods", namespace: "ns", ..request(Some(&plain), None) };
    assert!(by_namespace.matches(&Attributes { namespace_object: Some(&labelled), ..pod }));
    assert!(!by_namespace.matches(&Attributes { namespace_object: Some(&plain), ..pod }));
    assert!(by_namespace.matches(&request(Some(&plain), None)), "cluster-scoped objects are in no namespace");
    let own = Attributes { group: "", resource: "namespaces", ..request(Some(&plain), None) };
    assert!(!by_namespace.matches(&own));
    let labels = json!({"a": "1", "b": "2"});
    for (selector, wanted) in [
        ("{}", true),
        ("{matchLabels: {a: '1', b: '2'}}", true),
        ("{matchLabels: {a: '2'}}", false),
        ("{matchExpressions: [{key: a, operator: In, values: ['1', '3']}]}", true),
        ("{matchExpressions: [{key: a, operator: NotIn, values: ['1']}]}", false),
        ("{matchExpressions: [{key: c, operator: NotIn, values: ['1']}]}", true),
        ("{matchExpressions: [{key: a, operator: Exists}, {key: c, operator: DoesNotExist}]}", true),
        ("{matchExpressions: [{key: c, operator: Exists}]}", false),
        ("{matchExpressions: [{key: a, operator: Like, values: ['1']}]}", false),
    ] {
        assert_eq!(selector_matches(&one(selector), &labels), wanted, "{selector}");
    }
}

#[test]
fn a_policy_that_cannot_be_compiled_says_where() {
    let errors = Policy::compile(&json!({"spec": {
        "variables": [{"name": "late", "expression": "variables.later"}, {"name": "later", "expression": "1"}],
        "validations": [{"expression": "object.a >"}, {"expression": "authorizer.x"}, {}],
    }}))
    .unwrap_err();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(
        texts[0].starts_with("spec.variables[0].expression: Invalid value: \"variables.later\""),
        "{texts:?}"
    );
    assert!(texts[1].contains("spec.validations[0].expression"));
    assert!(texts[2].contains("undeclared reference to 'authorizer'"));
    assert_eq!(texts[3], "spec.validations[2].expression: Required value");
}

#[test]
fn the_upstream_bundles_of_today_and_before_compile() {
    let Some(directory) = upstream() else { return };
    let mut versions = 0;
    for bundle in ["standard", "experimental", "older/v1.0.0", "older/v1.5.1"] {
        for entry in std::fs::read_dir(directory.join(bundle)).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            for crd in yaml(&text).iter().filter(|document| document["kind"] == "CustomResourceDefinition") {
                for version in crd["spec"]["versions"].as_array().unwrap() {
                    let schema = &version["schema"]["openAPIV3Schema"];
                    if let Err(error) = weir_schema::Structural::compile(schema) {
                        panic!("{bundle} {} {}: {error}", crd["metadata"]["name"], version["name"]);
                    }
                    versions += 1;
                }
            }
        }
    }
    assert!(versions > 50, "{versions}");
}

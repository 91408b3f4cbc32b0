//! Decoding, defaults and validation, in the words of an API server.

use serde_json::{Value, json};
use weir_schema::{AdmitError, FieldErrorKind, FieldValidation, Structural};

use crate::schemas::{embedded, of, one};

fn compile(properties: Value) -> Structural {
    Structural::compile(&json!({
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": properties}},
    }))
    .unwrap()
}

fn errors(schema: &Structural, spec: Value) -> Vec<String> {
    let mut object = json!({"apiVersion": "e.x/v1", "kind": "E", "metadata": {"name": "e"}, "spec": spec});
    match schema.admit(&mut object, None, FieldValidation::Strict) {
        Ok(_) => Vec::new(),
        Err(AdmitError::Invalid(errors)) => errors.iter().map(ToString::to_string).collect(),
        Err(other) => panic!("{other}"),
    }
}

#[track_caller]
fn says(schema: Value, value: Value, wanted: &[&str]) {
    assert_eq!(errors(&compile(json!({"x": schema})), json!({"x": value})), wanted);
}

#[test]
fn a_schema_is_shared_between_threads() {
    fn shared<T: Send + Sync + Clone>() {}
    shared::<Structural>();
}

#[test]
fn wrong_types_are_named() {
    for (kind, value, got) in [
        ("integer", json!("a"), "string"),
        ("string", json!(1), "integer"),
        ("boolean", json!("true"), "string"),
        ("object", json!([]), "array"),
        ("array", json!({}), "object"),
        ("number", json!(true), "boolean"),
    ] {
        let schema = match kind {
            "array" => json!({"type": "array", "items": {"type": "string"}}),
            _ => json!({"type": kind}),
        };
        let wanted =
            format!("spec.x: Invalid value: \"{got}\": spec.x in body must be of type {kind}: \"{got}\"");
        says(schema, value, &[&wanted]);
    }
    says(
        json!({"type": "integer"}),
        json!(1.5),
        &[
            "spec.x: Invalid value: \"number\": spec.x in body must be of type integer: \"number\"",
            "<nil>: Invalid value: \"\": Checked value must be of type integer (default format) in spec.x",
        ],
    );
    says(
        json!({"type": "string", "enum": ["a"]}),
        json!(5),
        &[
            "spec.x: Invalid value: \"integer\": spec.x in body must be of type string: \"integer\"",
            "spec.x: Unsupported value: 5: supported values: \"a\"",
        ],
    );
    says(json!({"type": "number"}), json!(1), &[]);
    says(json!({"type": "integer"}), json!(2.0), &[]);
    says(
        json!({"x-kubernetes-int-or-string": true}),
        json!(true),
        &["spec.x: Invalid value: \"boolean\": spec.x in body must be of type integer,string: \"boolean\""],
    );
    for value in [json!(1), json!("50%")] {
        let both =
            json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]});
        says(both, value, &[]);
    }
}

#[test]
fn required_fields_enumerations_and_patterns() {
    says(
        json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}),
        json!({}),
        &["spec.x.a: Required value"],
    );
    says(
        json!({"type": "string", "enum": ["a", "b"]}),
        json!("c"),
        &["spec.x: Unsupported value: \"c\": supported values: \"a\", \"b\""],
    );
    says(
        json!({"type": "integer", "enum": [301, 302]}),
        json!(300),
        &["spec.x: Unsupported value: 300: supported values: \"301\", \"302\""],
    );
    says(
        json!({"type": "string", "pattern": "^[a-z]+$"}),
        json!("A"),
        &["spec.x: Invalid value: \"A\": spec.x in body should match '^[a-z]+$'"],
    );
}

#[test]
fn numbers_have_limits() {
    let number = |limits: Value| {
        let mut schema = json!({"type": "integer"});
        schema.as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
        schema
    };
    for (limits, value, words) in [
        (json!({"maximum": 65535}), 70000, "should be less than or equal to 65535"),
        (json!({"maximum": 1000000}), 1000001, "should be less than or equal to 1000000"),
        (json!({"maximum": 5, "exclusiveMaximum": true}), 5, "should be less than 5"),
        (json!({"minimum": 1}), 0, "should be greater than or equal to 1"),
        (json!({"minimum": 0, "exclusiveMinimum": true}), 0, "should be greater than 0"),
        (json!({"multipleOf": 5}), 7, "should be a multiple of 5"),
    ] {
        let wanted = format!("spec.x: Invalid value: {value}: spec.x in body {words}");
        says(number(limits), json!(value), &[&wanted]);
    }
    says(
        json!({"type": "integer", "format": "int32"}),
        json!(3_000_000_000_u64),
        &["<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in spec.x"],
    );
}

#[test]
fn lengths_count_characters_and_items() {
    says(json!({"type": "string", "maxLength": 2}), json!("\u{e9}\u{e9}"), &[]);
    says(
        json!({"type": "string", "maxLength": 2}),
        json!("abc"),
        &["spec.x: Too long: may not be more than 2 bytes"],
    );
    says(
        json!({"type": "string", "maxLength": 2, "pattern": "^[a-z]+$"}),
        json!("ABC"),
        &["spec.x: Too long: may not be more than 2 bytes"],
    );
    says(
        json!({"type": "string", "minLength": 1}),
        json!(""),
        &["spec.x: Invalid value: \"\": spec.x in body should be at least 1 chars long"],
    );
    let list = |limits: Value| {
        let mut schema = json!({"type": "array", "items": {"type": "integer"}});
        schema.as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
        schema
    };
    says(list(json!({"maxItems": 2})), json!([1, 2, 3]), &["spec.x: Too many: 3: must have at most 2 items"]);
    says(
        list(json!({"minItems": 1})),
        json!([]),
        &["spec.x: Invalid value: 0: spec.x in body should have at least 1 items"],
    );
    says(
        list(json!({"uniqueItems": true})),
        json!([1, 1]),
        &["spec.x: Invalid value: [1,1]: spec.x in body shouldn't contain duplicates"],
    );
    let map = json!({"type": "object", "maxProperties": 1, "additionalProperties": {"type": "integer"}});
    says(map, json!({"a": 1, "b": 2}), &["spec.x: Too many: 2: must have at most 1 item"]);
}

#[test]
fn lists_with_identities_have_no_duplicates() {
    let keyed = json!({
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "v": {"type": "integer"}}},
    });
    says(
        keyed,
        json!([{"name": "a"}, {"name": "b"}, {"name": "a", "v": 1}, {"name": "a"}]),
        &["spec.x[2]: Duplicate value: {\"name\":\"a\"}"],
    );
    let set = json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}});
    says(set, json!(["a", "b", "a"]), &["spec.x[2]: Duplicate value: \"a\""]);
}

#[test]
fn formats_and_alternatives() {
    says(
        json!({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
        json!("host"),
        &[
            "<nil>: Invalid value: \"\": \"spec.x\" must validate at least one schema (anyOf)",
            "spec.x: Invalid value: \"host\": spec.x in body must be of type ipv4: \"host\"",
        ],
    );
    says(
        json!({"type": "string", "format": "date-time"}),
        json!("yesterday"),
        &["spec.x: Invalid value: \"yesterday\": spec.x in body must be of type date-time: \"yesterday\""],
    );
    says(
        json!({"type": "string", "not": {"enum": ["a"]}}),
        json!("a"),
        &["<nil>: Invalid value: \"\": \"spec.x\" must not validate the schema (not)"],
    );
    says(
        json!({"type": "integer", "oneOf": [{"minimum": 1}, {"minimum": 2}]}),
        json!(3),
        &[
            "<nil>: Invalid value: \"\": \"spec.x\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
        ],
    );
    says(
        json!({"type": "integer", "allOf": [{"minimum": 1}, {"maximum": 2}]}),
        json!(3),
        &[
            "spec.x: Invalid value: 3: spec.x in body should be less than or equal to 2",
            "<nil>: Invalid value: \"\": \"spec.x\" must validate all the schemas (allOf)",
        ],
    );
}

#[test]
fn null_means_absent_unless_it_is_allowed() {
    let schema = compile(json!({
        "a": {"type": "string"},
        "b": {"type": "string", "nullable": true},
        "c": {"type": "string", "default": "d"},
        "list": {"type": "array", "items": {"type": "integer", "default": 3}},
    }));
    let mut object = json!({"metadata": {"creationTimestamp": null}, "spec": {"a": null, "b": null, "c": null, "list": [null, 1]}});
    schema.admit(&mut object, None, FieldValidation::Strict).unwrap();
    assert_eq!(object["spec"], json!({"b": null, "c": "d", "list": [3, 1]}));
    assert_eq!(object["metadata"], json!({}));
}

#[test]
fn defaults_go_into_objects_items_and_maps_that_are_there() {
    let schema = compile(json!({
        "made": {"type": "object", "default": {}, "properties": {"x": {"type": "integer", "default": 1}}},
        "absent": {"type": "object", "properties": {"x": {"type": "integer", "default": 1}}},
        "items": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer", "default": 1}}}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "integer", "default": 1}}}},
    }));
    let mut object = json!({"spec": {"items": [{}, {"x": 2}], "map": {"k": {}}}});
    schema.default(&mut object);
    assert_eq!(
        object["spec"],
        json!({"items": [{"x": 1}, {"x": 2}], "map": {"k": {"x": 1}}, "made": {"x": 1}})
    );
}

#[test]
fn unknown_fields_are_found_wherever_they_are_not_allowed() {
    let schema = compile(json!({
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"known": {"type": "object", "properties": {"a": {"type": "string"}}}}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "string"}}}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
        "resource": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
    }));
    let mut object = json!({
        "apiVersion": "v1", "kind": "K", "metadata": {"name": "n", "labels": {"any": "thing"}, "colour": "red"},
        "spec": {
            "free": {"any": {"thing": 1}, "known": {"a": "", "b": 1}},
            "map": {"k": {"a": "", "b": 1}},
            "list": [{"a": ""}, {"b": 1}],
            "resource": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "size": 1}, "spec": {"x": 1}},
            "extra": 1,
        },
        "top": 1,
    });
    let error = schema.decode(&mut object.clone(), FieldValidation::Strict).unwrap_err();
    assert_eq!(
        error.to_string(),
        "strict decoding error: unknown field \"metadata.colour\", unknown field \"spec.free.known.b\", \
         unknown field \"spec.map.k.b\", unknown field \"spec.list[1].b\", \
         unknown field \"spec.resource.metadata.size\", unknown field \"spec.extra\", unknown field \"top\""
    );
    schema.decode(&mut object, FieldValidation::Ignore).unwrap();
    assert_eq!(
        object,
        json!({
            "apiVersion": "v1", "kind": "K", "metadata": {"name": "n", "labels": {"any": "thing"}},
            "spec": {
                "free": {"any": {"thing": 1}, "known": {"a": ""}},
                "map": {"k": {"a": ""}},
                "list": [{"a": ""}, {}],
                "resource": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"x": 1}},
            },
        })
    );
}

#[test]
fn metadata_is_typed() {
    let schema = compile(json!({}));
    for (metadata, words) in [
        (
            json!({"labels": {"a": 1}}),
            "cannot unmarshal number 1 into field metadata.labels.a of type string",
        ),
        (
            json!({"annotations": {"a": true}}),
            "cannot unmarshal bool into field metadata.annotations.a of type string",
        ),
        (json!({"name": 5}), "cannot unmarshal number 5 into field metadata.name of type string"),
        (json!({"finalizers": "x"}), "cannot unmarshal string into field metadata.finalizers of type array"),
        (json!({"creationTimestamp": "soon"}), "metadata.creationTimestamp: \"soon\" is not date-time"),
    ] {
        let error = schema.decode(&mut json!({"metadata": metadata}), FieldValidation::Ignore).unwrap_err();
        assert!(matches!(&error, AdmitError::BadRequest(text) if text.contains(words)), "{error}");
    }
}

#[test]
fn built_in_kinds_are_decoded_as_go_decodes_them() {
    let mut deployment = one("
        apiVersion: apps/v1
        kind: Deployment
        metadata: {name: d, creationTimestamp: null}
        spec:
          selector: {matchLabels: {app: d}}
          template:
            metadata: {labels: {app: d}}
            spec:
              containers:
              - name: c
                image: i
                ports: [{containerPort: 80}]
                env: [{name: A, value: x}]
                resources: {requests: {cpu: 1, memory: 64Mi}}
              volumes: null
        status: {}
    ");
    of(&deployment).admit(&mut deployment, None, FieldValidation::Strict).unwrap();
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["ports"][0]["protocol"], "TCP");
    assert_eq!(container["resources"]["requests"]["cpu"], "1");
    assert_eq!(deployment["spec"]["template"]["spec"].get("volumes"), None);
    assert_eq!(deployment["spec"].get("strategy"), None, "zero values of Go are not written");
    for (place, value, words) in [
        (
            "/spec/replicas",
            json!("3"),
            "json: cannot unmarshal string into field spec.replicas of type integer",
        ),
        (
            "/spec/replicas",
            json!(9_000_000_000_u64),
            "json: cannot unmarshal number 9000000000 into field spec.replicas of type int32",
        ),
        (
            "/spec/template/spec/containers",
            json!({}),
            "cannot unmarshal object into field spec.template.spec.containers of type array",
        ),
        (
            "/spec/template/spec/containers/0/env/0/value",
            json!(1),
            "field spec.template.spec.containers[0].env[0].value of type string",
        ),
        (
            "/spec/template/spec/containers/0/resources/requests/cpu",
            json!("one"),
            "field spec.template.spec.containers[0].resources.requests.cpu of type quantity",
        ),
    ] {
        let mut bad = deployment.clone();
        let (parent, last) = place.rsplit_once('/').unwrap();
        match bad.pointer_mut(parent).unwrap() {
            Value::Array(items) => items[0] = value,
            other => other[last] = value,
        }
        let error = of(&bad).admit(&mut bad, None, FieldValidation::Warn).unwrap_err();
        assert!(matches!(&error, AdmitError::BadRequest(text) if text.contains(words)), "{error}");
    }
    let mut incomplete = one("{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {}}");
    let error = of(&incomplete).admit(&mut incomplete, None, FieldValidation::Warn).unwrap_err();
    assert_eq!(error.to_string(), "[spec.selector: Required value, spec.template: Required value]");
    let mut service = one(
        "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: Gateway, ports: [{port: 80, targetPort: http}]}}",
    );
    let error = of(&service).admit(&mut service, None, FieldValidation::Warn).unwrap_err().to_string();
    assert!(error.starts_with("spec.type: Unsupported value: \"Gateway\": supported values: "), "{error}");
}

#[test]
fn recursive_schemas_work() {
    let mut crd = weir_schema::crds::builtin(weir_schema::crds::Channel::Standard)
        .find(|(name, _)| name.ends_with("_gateways"))
        .unwrap()
        .1;
    let schema = of(&crd);
    schema.admit(&mut crd, None, FieldValidation::Strict).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["listeners"]
        ["minItem"] = json!(1);
    let error = schema.admit(&mut crd, None, FieldValidation::Strict).unwrap_err();
    assert_eq!(
        error.to_string(),
        "strict decoding error: unknown field \
         \"spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.listeners.minItem\""
    );
}

#[test]
fn a_route_gets_the_defaults_of_the_gateway_api() {
    let mut route = one("
        apiVersion: gateway.networking.k8s.io/v1
        kind: HTTPRoute
        metadata: {name: r}
        spec:
          parentRefs: [{name: g}]
          rules:
          - backendRefs: [{name: s, port: 80}]
            filters:
            - type: RequestRedirect
              requestRedirect: {scheme: https}
    ");
    route["spec"]["rules"][0].as_object_mut().unwrap().shift_remove("backendRefs");
    embedded("HTTPRoute", "v1").admit(&mut route, None, FieldValidation::Strict).unwrap();
    assert_eq!(
        route["spec"],
        json!({
            "parentRefs": [{"name": "g", "group": "gateway.networking.k8s.io", "kind": "Gateway"}],
            "rules": [{
                "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 302}}],
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
            }],
        })
    );
    let mut class = one("
        {apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: c}, spec: {controllerName: a.b/c}}
    ");
    embedded("GatewayClass", "v1").admit(&mut class, None, FieldValidation::Strict).unwrap();
    assert_eq!(class["status"]["conditions"][0]["type"], "Accepted");
    assert_eq!(class["status"]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:00Z");
}

#[test]
fn rules_of_the_gateway_api_are_obeyed_in_their_words() {
    let base = one("
        apiVersion: gateway.networking.k8s.io/v1
        kind: HTTPRoute
        metadata: {name: r}
        spec:
          parentRefs: [{name: g}]
          rules:
          - matches: [{path: {type: PathPrefix, value: /}}]
            backendRefs: [{name: s, port: 80}]
    ");
    let schema = embedded("HTTPRoute", "v1");
    for (place, value, wanted) in [
        (
            "/spec/rules/0/matches/0/path/value",
            json!("no-slash"),
            "spec.rules[0].matches[0].path: Invalid value: value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']",
        ),
        (
            "/spec/rules/0/backendRefs/0",
            json!({"name": "s"}),
            "spec.rules[0].backendRefs[0]: Invalid value: Must have port for Service reference",
        ),
        (
            "/spec/rules/0/backendRefs/0/weight",
            json!(-1),
            "spec.rules[0].backendRefs[0].weight: Invalid value: -1: spec.rules[0].backendRefs[0].weight in body should be greater than or equal to 0",
        ),
        (
            "/spec/rules/0/timeouts",
            json!({"request": "1s", "backendRequest": "2s"}),
            "spec.rules[0].timeouts: Invalid value: backendRequest timeout cannot be longer than request timeout",
        ),
        (
            "/spec/parentRefs",
            json!([{"name": "g"}, {"name": "g"}]),
            "sectionName or port must be unique when parentRefs includes 2 or more references to the same parent",
        ),
    ] {
        let mut route = base.clone();
        let (parent, last) = place.rsplit_once('/').unwrap();
        match route.pointer_mut(parent).unwrap() {
            Value::Array(items) => items[last.parse::<usize>().unwrap()] = value,
            other => other[last] = value,
        }
        let error = schema.admit(&mut route, None, FieldValidation::Strict).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn where_the_schema_fails_rules_are_not_run_and_that_is_said() {
    let schema = Structural::compile(&json!({
        "type": "object",
        "properties": {"spec": {
            "type": "object",
            "required": ["a"],
            "properties": {"a": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "self.a > 3"}],
        }},
    }))
    .unwrap();
    assert_eq!(
        errors(&schema, json!({})),
        [
            "spec.a: Required value",
            "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; \
             correct the existing errors to complete validation",
        ]
    );
    assert_eq!(errors(&schema, json!({"a": 1})), ["spec: Invalid value: failed rule: self.a > 3"]);
}

#[test]
fn rules_have_messages_reasons_and_places() {
    let schema = |rule: Value| {
        Structural::compile(&json!({
            "type": "object",
            "properties": {"spec": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
                "x-kubernetes-validations": [rule],
            }},
        }))
    };
    for (rule, wanted) in [
        (json!({"rule": "self.a > 3", "message": " too small "}), "spec: Invalid value: too small"),
        (
            json!({"rule": "self.a > 3", "messageExpression": "'a is ' + string(self.a)", "message": "m"}),
            "spec: Invalid value: a is 1",
        ),
        (
            json!({"rule": "self.a > 3", "messageExpression": "self.none", "message": "m"}),
            "undefined field 'none'",
        ),
        (
            json!({"rule": "self.a > 3", "messageExpression": "string(1 / (self.a - 1))", "message": "m"}),
            "spec: Invalid value: m",
        ),
        (
            json!({"rule": "self.a > 3", "message": "m", "reason": "FieldValueForbidden"}),
            "spec: Forbidden: m",
        ),
        (
            json!({"rule": "self.a > 3", "message": "m", "reason": "FieldValueRequired", "fieldPath": ".b"}),
            "spec.b: Required value: m",
        ),
        (
            json!({"rule": "self.b == 'x'"}),
            "spec: Invalid value: \"object\": no such key: b evaluating rule: self.b == 'x'",
        ),
        (
            json!({"rule": "dyn(self.a) + 'x' == 'y'"}),
            "'no such overload': call arguments did not match a supported operator, function or macro signature for rule",
        ),
        (
            json!({"rule": "self.a"}),
            "cel expression must evaluate to a bool, but evaluated to int for rule: self.a",
        ),
    ] {
        let text = match schema(rule) {
            Ok(schema) => errors(&schema, json!({"a": 1})).join("; "),
            Err(error) => error.to_string(),
        };
        assert!(text.contains(wanted), "{text}");
    }
    for (rule, wanted) in [
        (json!({"rule": "self.a >"}), "compilation failed: ERROR: <input>:1:9: Syntax error"),
        (json!({"rule": "self.c > 1"}), "compilation failed: undefined field 'c'"),
        (json!({"rule": "self.a.c > 1"}), "type 'integer' does not support field selection"),
        (json!({"rule": " "}), "rule: Required value"),
        (json!({"rule": "true", "reason": "Because"}), "reason: Unsupported value: \"Because\""),
        (json!({"rule": "true", "message": "a\nb"}), "message must not contain line breaks"),
    ] {
        let error = schema(rule).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        assert!(error.contains("properties[spec].x-kubernetes-validations[0]"), "{error}");
    }
}

#[test]
fn transition_rules_need_an_old_value() {
    let schema = embedded("GatewayClass", "v1");
    let class = |controller: &str| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "c"},
            "spec": {"controllerName": controller},
        })
    };
    let mut old = class("a.b/c");
    schema.admit(&mut old, None, FieldValidation::Strict).unwrap();
    schema.admit(&mut old.clone(), Some(&old), FieldValidation::Strict).unwrap();
    let error = schema.admit(&mut class("a.b/d"), Some(&old), FieldValidation::Strict).unwrap_err();
    assert_eq!(error.to_string(), "spec.controllerName: Invalid value: \"a.b/d\": Value is immutable");
}

#[test]
fn what_was_stored_wrong_and_did_not_change_is_let_be() {
    let schema = compile(json!({
        "a": {"type": "integer", "maximum": 5, "x-kubernetes-validations": [{"rule": "self < 3"}]},
        "b": {"type": "string"},
        "items": {
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
            "items": {"type": "object", "required": ["n"], "properties": {"n": {"type": "string"}, "v": {"type": "integer", "maximum": 5}}},
        },
    }));
    let old = json!({"spec": {"a": 9, "b": "x", "items": [{"n": "a", "v": 9}, {"n": "b", "v": 1}]}});
    let mut new = json!({"spec": {"a": 9, "b": "y", "items": [{"n": "b", "v": 2}, {"n": "a", "v": 9}]}});
    schema.admit(&mut new, Some(&old), FieldValidation::Strict).unwrap();
    new["spec"]["items"][0]["v"] = json!(7);
    new["spec"]["a"] = json!(8);
    let AdmitError::Invalid(found) = schema.admit(&mut new, Some(&old), FieldValidation::Strict).unwrap_err()
    else {
        panic!("a wrong value is invalid");
    };
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "spec.a: Invalid value: 8: spec.a in body should be less than or equal to 5",
            "spec.items[0].v: Invalid value: 7: spec.items[0].v in body should be less than or equal to 5",
            "spec.a: Invalid value: 8: failed rule: self < 3",
        ]
    );
}

#[test]
fn rules_see_the_types_of_the_schema() {
    let schema = |rule: &str| {
        Structural::compile(&json!({
            "type": "object",
            "properties": {"spec": {
                "type": "object",
                "properties": {
                    "at": {"type": "string", "format": "date-time"},
                    "wait": {"type": "string", "format": "duration"},
                    "data": {"type": "string", "format": "byte"},
                    "share": {"type": "number"},
                    "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                    "other": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                    "map": {"type": "object", "additionalProperties": {"type": "string"}},
                },
                "x-kubernetes-validations": [{"rule": rule}],
            }},
        }))
        .unwrap()
    };
    let spec = json!({
        "at": "2026-08-01T00:00:00Z", "wait": "90s", "data": "aGk=", "share": 1,
        "set": ["a", "b"], "other": ["b", "a"], "map": {"a-b": "c"},
    });
    for rule in [
        "self.at > timestamp('2026-01-01T00:00:00Z')",
        "self.wait == duration('1m30s')",
        "self.data == b'hi' && self.data.size() == 2",
        "self.share == 1.0 && type(self.share) == double",
        "self.set == self.other",
        "self.map['a-b'] == 'c' && self.map.exists(k, k == 'a-b')",
    ] {
        assert_eq!(errors(&schema(rule), spec.clone()), Vec::<String>::new(), "{rule}");
    }
}

#[test]
fn rules_of_one_object_share_a_budget() {
    let rules: Vec<Value> =
        (0..40).map(|n| json!({"rule": format!("self.all(a, self.all(b, a + b >= -{n}))")})).collect();
    let schema = compile(
        json!({"list": {"type": "array", "items": {"type": "integer"}, "x-kubernetes-validations": rules}}),
    );
    let found = errors(&schema, json!({"list": (0..300).collect::<Vec<u32>>()}));
    assert_eq!(found.len(), 1);
    assert!(
        found[0].contains("running out of cost budget, no further validation rules will be run"),
        "{found:?}"
    );
    let deep = compile(json!({"list": {
        "type": "array", "items": {"type": "integer"},
        "x-kubernetes-validations": [{"rule": "self.all(a, self.all(b, self.all(c, true)))"}],
    }}));
    let found = errors(&deep, json!({"list": (0..300).collect::<Vec<u32>>()}));
    assert!(found[0].contains("call cost exceeds limit for rule"), "{found:?}");
}

#[test]
fn an_error_is_a_cause_of_a_status() {
    let schema = embedded("Gateway", "v1");
    let mut gateway = one("
        apiVersion: gateway.networking.k8s.io/v1
        kind: Gateway
        metadata: {name: g}
        spec: {gatewayClassName: c, listeners: [{name: a, port: 80, protocol: HTTP}, {name: a, port: 81, protocol: HTTP}]}
    ");
    let AdmitError::Invalid(errors) = schema.admit(&mut gateway, None, FieldValidation::Strict).unwrap_err()
    else {
        panic!("a duplicate is invalid");
    };
    assert_eq!(errors[0].kind, FieldErrorKind::Duplicate);
    assert_eq!(
        errors[0].cause(),
        json!({"reason": "FieldValueDuplicate", "message": "Duplicate value: {\"name\":\"a\"}", "field": "spec.listeners[1]"})
    );
}

#[test]
fn schemas_that_are_not_structural_are_refused() {
    for (schema, wanted) in [
        (
            json!({"type": "object", "properties": {"a": {}}}),
            "properties[a].type: Required value: must not be empty for specified object fields",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array"}}}),
            "properties[a].items: Required value: must be specified",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "text"}}}),
            "properties[a].type: Unsupported value: \"text\"",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}),
            "properties[a].pattern: Invalid value: \"(\": must be a valid regular expression",
        ),
        (json!({"type": "object", "properties": {"a": {"$ref": "#/x"}}}), "$ref: Forbidden"),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "string"}}, "additionalProperties": {"type": "string"}}}}),
            "additionalProperties: Forbidden",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "integer", "maximum": 3, "default": 5}}}),
            "properties[a].default: Invalid value: 5: Invalid value: 5:",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "default": {"b": "x"}, "properties": {"b": {"type": "integer"}}}}}),
            "properties[a].default: Invalid value: {\"b\":\"x\"}: b: Invalid value",
        ),
        (json!({"type": "string"}), "type: Invalid value"),
        (json!([]), "must be an object"),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"}}}),
            "x-kubernetes-list-map-keys: Required value",
        ),
    ] {
        let error = Structural::compile(&schema).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn deep_objects_are_refused_not_followed() {
    let schema =
        Structural::compile(&json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}))
            .unwrap();
    let mut deep = json!({});
    for _ in 0..400 {
        deep = json!({ "a": deep });
    }
    let error = schema.admit(&mut deep, None, FieldValidation::Ignore).unwrap_err();
    assert!(matches!(error, AdmitError::BadRequest(text) if text.contains("nested deeper")));
}

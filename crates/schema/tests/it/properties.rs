//! Promises that hold for any object, held against random ones.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use weir_schema::patch::apply::{Writer, apply, update_managed_fields};
use weir_schema::patch::{json as json_patch, merge, strategic};
use weir_schema::{FieldValidation, Structural};

use crate::schemas::{embedded, of};

/// Any JSON, with names that schemas know as often as not.
fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        Just("spec"),
        Just("metadata"),
        Just("name"),
        Just("rules"),
        Just("matches"),
        Just("path"),
        Just("type"),
        Just("value"),
        Just("backendRefs"),
        Just("weight"),
        Just("port"),
        Just("listeners"),
        Just("labels"),
        Just("parentRefs"),
        Just("status"),
        Just("conditions"),
        Just("filters"),
        Just("hostname"),
        Just("$patch"),
        Just("$setElementOrder/rules"),
        Just("x"),
        Just("\u{e9}"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z/.*%\u{e9}-]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(7, 96, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..6).prop_map(|fields| Value::Object(
                fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
            )),
        ]
    })
}

/// A Deployment with random containers, labels and other parts that lists and maps are made of.
fn any_deployment() -> impl Strategy<Value = Value> {
    let port = (1u16..5, any::<bool>()).prop_map(|(port, udp)| {
        let mut out = json!({"containerPort": port});
        if udp {
            out["protocol"] = json!("UDP");
        }
        out
    });
    let unique = |list: Vec<Value>, key: fn(&Value) -> String| {
        let mut seen = std::collections::HashSet::new();
        list.into_iter().filter(|item| seen.insert(key(item))).collect::<Vec<Value>>()
    };
    let container =
        ("[a-d]", 0u8..3, prop::collection::vec(port, 0..3), prop::collection::vec("[a-c]", 0..3)).prop_map(
            move |(name, image, ports, args)| {
                let ports = unique(ports, |port| format!("{}{}", port["containerPort"], port["protocol"]));
                let mut out = json!({"name": name, "image": format!("i{image}")});
                if !ports.is_empty() {
                    out["ports"] = ports.into();
                }
                if !args.is_empty() {
                    out["args"] = args.into();
                }
                out
            },
        );
    let labels = prop::collection::btree_map("[a-c]", "[x-z]", 0..3);
    (prop::collection::vec(container, 1..4), labels.clone(), labels, prop::option::of(0u8..4), any::<bool>()).prop_map(
        move |(containers, labels, selector, replicas, finalize)| {
            let containers = unique(containers, |container| container["name"].to_string());
            let mut out = json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
                "spec": {"selector": {"matchLabels": selector}, "template": {"spec": {"containers": containers}}},
            });
            if !labels.is_empty() {
                out["metadata"]["labels"] = json!(labels);
            }
            if let Some(replicas) = replicas {
                out["spec"]["replicas"] = json!(replicas);
            }
            if finalize {
                out["metadata"]["finalizers"] = json!(["a/b", "c/d"]);
            }
            out
        },
    )
}

/// What `kubectl apply` sends to make `new` of `old`, for lists that merge by name and everything else.
fn strategic_diff(old: &Map<String, Value>, new: &Map<String, Value>) -> Value {
    let mut patch = Map::new();
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in new {
        match (old.get(name), value) {
            (Some(before), after) if before == after => {}
            (Some(Value::Object(before)), Value::Object(after)) => {
                patch.insert(name.clone(), strategic_diff(before, after));
            }
            (Some(Value::Array(before)), Value::Array(after)) if name == "containers" => {
                let named =
                    |list: &[Value], name: &Value| list.iter().find(|item| item["name"] == *name).cloned();
                let mut items = Vec::new();
                for item in after {
                    match named(before, &item["name"]) {
                        Some(was) if was == *item => {}
                        Some(Value::Object(was)) => {
                            let mut change = strategic_diff(&was, item.as_object().unwrap());
                            // Ports merge by containerPort alone, so they are replaced here.
                            if let Some(Value::Array(ports)) = change.get_mut("ports") {
                                ports.insert(0, json!({"$patch": "replace"}));
                            }
                            change["name"] = item["name"].clone();
                            items.push(change);
                        }
                        _ => items.push(item.clone()),
                    }
                }
                for item in before.iter().filter(|item| named(after, &item["name"]).is_none()) {
                    items.push(json!({"name": item["name"], "$patch": "delete"}));
                }
                let order: Vec<Value> = after.iter().map(|item| json!({"name": item["name"]})).collect();
                patch.insert("$setElementOrder/containers".to_owned(), order.into());
                patch.insert(name.clone(), items.into());
            }
            (_, after) => {
                patch.insert(name.clone(), after.clone());
            }
        }
    }
    Value::Object(patch)
}

fn schemas() -> Vec<Structural> {
    let built_in = |api_version: &str, kind: &str| of(&json!({"apiVersion": api_version, "kind": kind}));
    vec![
        embedded("HTTPRoute", "v1"),
        embedded("Gateway", "v1"),
        embedded("GatewayConfiguration", "v2beta1"),
        built_in("apps/v1", "Deployment"),
        built_in("v1", "Service"),
        built_in("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    ]
}

const BY: Writer<'static> =
    Writer { manager: "m", api_version: "apps/v1", subresource: "", time: "2026-01-01T00:00:00Z" };

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_a_client_can_send_panics(object in any_json(), old in any_json(), patch in any_json()) {
        for schema in schemas() {
            let mut admitted = object.clone();
            let _ = schema.admit(&mut admitted, Some(&old), FieldValidation::Warn);
            let mut decoded = object.clone();
            if schema.decode(&mut decoded, FieldValidation::Ignore).is_ok() {
                schema.default(&mut decoded);
                let _ = schema.validate(&decoded, None);
            }
            let _ = strategic::apply(&schema, &object, &patch);
            let _ = apply(&schema, Some(&old), &object, &BY, false);
            let mut updated = object.clone();
            update_managed_fields(&schema, Some(&old), &mut updated, &BY);
        }
        let _ = json_patch::apply(&object, &patch);
        let _ = merge::apply(&object, &patch);
    }

    #[test]
    fn defaulting_and_pruning_twice_change_nothing_more(object in any_json()) {
        for schema in schemas() {
            let mut once = object.clone();
            if schema.decode(&mut once, FieldValidation::Ignore).is_err() {
                continue;
            }
            schema.default(&mut once);
            let mut twice = once.clone();
            prop_assert_eq!(schema.decode(&mut twice, FieldValidation::Strict), Ok(Vec::new()));
            schema.default(&mut twice);
            prop_assert_eq!(&twice, &once);
        }
    }

    #[test]
    fn applying_is_idempotent_and_sets_what_was_applied(live in any_deployment(), config in any_deployment()) {
        let schema = of(&config);
        let mut created = live.clone();
        update_managed_fields(&schema, None, &mut created, &Writer { manager: "creator", ..BY });
        let once = apply(&schema, Some(&created), &config, &BY, true).unwrap();
        let twice = apply(&schema, Some(&once), &config, &Writer { time: "2026-02-02T00:00:00Z", ..BY }, false).unwrap();
        prop_assert_eq!(&twice, &once);
        // What was applied is there: applying it by merge finds nothing to change.
        prop_assert_eq!(&once["spec"]["selector"], &config["spec"]["selector"]);
        for container in config["spec"]["template"]["spec"]["containers"].as_array().unwrap() {
            let have = once["spec"]["template"]["spec"]["containers"].as_array().unwrap();
            let found = have.iter().find(|have| have["name"] == container["name"]).unwrap();
            prop_assert_eq!(&found["image"], &container["image"]);
        }
    }

    #[test]
    fn what_one_applier_alone_set_goes_with_it(config in any_deployment(), next in any_deployment()) {
        let schema = of(&config);
        let first = apply(&schema, None, &config, &BY, false).unwrap();
        let second = apply(&schema, Some(&first), &next, &BY, false).unwrap();
        let mut bare = second.clone();
        bare["metadata"].as_object_mut().unwrap().shift_remove("managedFields");
        let mut fresh = apply(&schema, None, &next, &BY, false).unwrap();
        fresh["metadata"].as_object_mut().unwrap().shift_remove("managedFields");
        prop_assert_eq!(bare, fresh);
    }

    #[test]
    fn a_field_has_an_owner_after_any_writes(states in prop::collection::vec((any_deployment(), 0usize..3), 1..6)) {
        let managers = ["a", "b", "c"];
        let schema = of(&states[0].0);
        let mut live: Option<Value> = None;
        for (state, manager) in &states {
            let by = Writer { manager: managers[*manager], ..BY };
            let mut next = state.clone();
            update_managed_fields(&schema, live.as_ref(), &mut next, &by);
            live = Some(next);
        }
        let live = live.unwrap();
        let recorded = live["metadata"]["managedFields"].to_string();
        for container in live["spec"]["template"]["spec"]["containers"].as_array().unwrap() {
            let key = format!("k:{{\\\"name\\\":{}}}", container["name"].to_string().replace('"', "\\\""));
            prop_assert!(recorded.contains(&key), "{} not in {}", key, recorded);
        }
    }

    #[test]
    fn a_strategic_patch_of_the_difference_makes_the_new_object(old in any_deployment(), new in any_deployment()) {
        let patch = strategic_diff(old.as_object().unwrap(), new.as_object().unwrap());
        let mut patched = strategic::apply(&of(&old), &old, &patch).unwrap();
        // Finalizers are a list that merges; the patch above only adds to it.
        for object in [&mut patched] {
            if let Some(metadata) = object["metadata"].as_object_mut() && new["metadata"].get("finalizers").is_none() {
                metadata.shift_remove("finalizers");
            }
        }
        prop_assert_eq!(patched, new);
    }

    #[test]
    fn a_merge_patch_sets_what_it_says(target in any_json(), patch in any_json()) {
        let once = merge::apply(&target, &patch);
        prop_assert_eq!(merge::apply(&once, &patch), once);
    }
}

//! Server-side apply: what it makes of objects, whom it asks, and what is written down about it.

use serde_json::{Value, json};
use weir_schema::patch::apply::{ApplyError, Writer, apply, update_managed_fields};

use crate::schemas::{embedded, of};

fn writer<'a>(manager: &'a str, time: &'a str) -> Writer<'a> {
    Writer { manager, api_version: "apps/v1", subresource: "", time }
}

const T1: &str = "2026-01-01T00:00:01Z";
const T2: &str = "2026-01-01T00:00:02Z";
const T3: &str = "2026-01-01T00:00:03Z";

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}, "spec": spec})
}

fn applied(live: Option<&Value>, config: &Value, manager: &str, time: &str) -> Result<Value, ApplyError> {
    apply(&of(config), live, config, &writer(manager, time), false)
}

fn entry<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    entries
        .iter()
        .find(|entry| entry["manager"] == manager)
        .unwrap_or_else(|| panic!("no {manager}: {entries:?}"))
}

#[test]
fn creating_by_apply_records_the_applied_fields() {
    let config = deployment(json!({
        "replicas": 2,
        "template": {
            "metadata": {"labels": {"app": "d"}},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}], "args": ["a"]}], "nodeSelector": {}},
        },
    }));
    let object = applied(None, &config, "me", T1).unwrap();
    assert_eq!(object["spec"], config["spec"]);
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{
            "manager": "me", "operation": "Apply", "apiVersion": "apps/v1", "time": T1, "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {
                "f:replicas": {},
                "f:template": {
                    "f:metadata": {"f:labels": {"f:app": {}}},
                    "f:spec": {
                        "f:containers": {"k:{\"name\":\"c\"}": {
                            ".": {}, "f:args": {}, "f:image": {}, "f:name": {},
                            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                        }},
                        "f:nodeSelector": {},
                    },
                },
            }},
        }])
    );
}

#[test]
fn applying_again_changes_nothing_and_keeps_the_time() {
    let config = deployment(json!({"replicas": 2}));
    let first = applied(None, &config, "me", T1).unwrap();
    assert_eq!(applied(Some(&first), &config, "me", T2).unwrap(), first);
}

#[test]
fn fields_that_the_applier_drops_go_unless_another_has_them() {
    let config = deployment(json!({
        "replicas": 2, "paused": true,
        "template": {"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}},
    }));
    let first = applied(None, &config, "me", T1).unwrap();
    let co_owned = deployment(
        json!({"paused": true, "template": {"spec": {"containers": [{"name": "b", "image": "i"}]}}}),
    );
    let second = applied(Some(&first), &co_owned, "other", T2).unwrap();
    assert_eq!(second["spec"], first["spec"]);
    let less = deployment(json!({"template": {"spec": {"containers": [{"name": "a", "image": "i"}]}}}));
    let third = applied(Some(&second), &less, "me", T3).unwrap();
    assert_eq!(
        third["spec"],
        json!({"paused": true, "template": {"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}}})
    );
    let none =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}});
    let fourth = applied(Some(&third), &none, "other", T3).unwrap();
    assert_eq!(fourth["spec"], json!({"template": {"spec": {"containers": [{"name": "a", "image": "i"}]}}}));
    assert_eq!(fourth["metadata"]["managedFields"].as_array().unwrap().len(), 1);
}

#[test]
fn server_defaults_stay_when_the_applier_drops_what_they_stand_beside() {
    let config = deployment(
        json!({"template": {"spec": {"containers": [{"name": "a", "image": "i", "ports": [{"containerPort": 80, "name": "http"}]}]}}}),
    );
    let mut live = applied(None, &config, "me", T1).unwrap();
    live["spec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"] = json!("TCP");
    live["spec"]["template"]["spec"]["dnsPolicy"] = json!("ClusterFirst");
    let less = deployment(json!({"template": {"spec": {"containers": [{"name": "a", "image": "i"}]}}}));
    let after = applied(Some(&live), &less, "me", T2).unwrap();
    assert_eq!(
        after["spec"],
        json!({"template": {"spec": {"containers": [{"name": "a", "image": "i"}], "dnsPolicy": "ClusterFirst"}}})
    );
}

#[test]
fn a_conflict_names_the_holder_and_the_field() {
    let config = deployment(
        json!({"replicas": 2, "template": {"spec": {"containers": [{"name": "c", "image": "1"}]}}}),
    );
    let mut live = config.clone();
    update_managed_fields(&of(&live.clone()), None, &mut live, &writer("kubectl-client-side-apply", T1));
    let error = applied(Some(&live), &deployment(json!({"replicas": 3})), "me", T2).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    let ApplyError::Conflicts(conflicts) = error else { panic!("a conflict") };
    assert_eq!(
        conflicts[0].cause(),
        json!({
            "reason": "FieldManagerConflict",
            "message": "conflict with \"kubectl-client-side-apply\" using apps/v1",
            "field": ".spec.replicas",
        })
    );
    let two = deployment(
        json!({"replicas": 3, "template": {"spec": {"containers": [{"name": "c", "image": "2"}]}}}),
    );
    assert_eq!(
        applied(Some(&live), &two, "me", T2).unwrap_err().to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n\
         - .spec.replicas\n- .spec.template.spec.containers[name=\"c\"].image"
    );
    let forced = apply(&of(&two), Some(&live), &two, &writer("me", T2), true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 3);
    let lost = &entry(&forced, "kubectl-client-side-apply")["fieldsV1"];
    assert_eq!(lost["f:spec"].get("f:replicas"), None);
    assert_eq!(entry(&forced, "me")["fieldsV1"]["f:spec"]["f:replicas"], json!({}));
}

#[test]
fn agreeing_with_another_is_no_conflict() {
    let config = deployment(json!({"replicas": 2}));
    let first = applied(None, &config, "a", T1).unwrap();
    let second = applied(Some(&first), &config, "b", T2).unwrap();
    assert_eq!(second["spec"], first["spec"]);
    assert_eq!(entry(&second, "a"), entry(&first, "a"));
    assert_eq!(entry(&second, "b")["time"], T2);
    let error = applied(Some(&second), &deployment(json!({"replicas": 3})), "b", T3).unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas");
}

#[test]
fn a_create_and_updates_are_recorded_by_what_they_change() {
    let schema = of(&deployment(json!({})));
    let mut live = deployment(
        json!({"replicas": 1, "template": {"spec": {"containers": [{"name": "c", "image": "1"}]}}}),
    );
    live["metadata"]["labels"] = json!({"a": "b"});
    update_managed_fields(&schema, None, &mut live, &writer("creator", T1));
    assert_eq!(
        entry(&live, "creator"),
        &json!({
            "manager": "creator", "operation": "Update", "apiVersion": "apps/v1", "time": T1, "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
                "f:spec": {
                    ".": {},
                    "f:replicas": {},
                    "f:template": {".": {}, "f:spec": {".": {}, "f:containers": {".": {}, "k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}}}},
                },
            },
        })
    );
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = json!(5);
    update_managed_fields(&schema, Some(&live), &mut scaled, &writer("scaler", T2));
    assert_eq!(entry(&scaled, "scaler")["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(entry(&scaled, "creator")["fieldsV1"]["f:spec"].get("f:replicas"), None);
    assert_eq!(entry(&scaled, "creator")["time"], T1);
    let mut unchanged = scaled.clone();
    update_managed_fields(&schema, Some(&scaled), &mut unchanged, &writer("idler", T3));
    assert_eq!(unchanged, scaled);
    let mut less = scaled.clone();
    less["spec"].as_object_mut().unwrap().shift_remove("replicas");
    update_managed_fields(&schema, Some(&scaled), &mut less, &writer("creator", T3));
    assert!(
        !less["metadata"]["managedFields"].to_string().contains("scaler"),
        "a manager without fields is none"
    );
}

#[test]
fn the_status_has_managers_of_its_own() {
    let schema = of(&deployment(json!({})));
    let mut live = deployment(json!({"replicas": 1}));
    update_managed_fields(&schema, None, &mut live, &writer("ctl", T1));
    let mut with_status = live.clone();
    with_status["status"] = json!({"replicas": 1});
    let status = Writer { subresource: "status", ..writer("ctl", T2) };
    update_managed_fields(&schema, Some(&live), &mut with_status, &status);
    let entries = with_status["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1]["subresource"], "status");
    assert_eq!(entries[1]["fieldsV1"], json!({"f:status": {".": {}, "f:replicas": {}}}));
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "status": {"replicas": 2}});
    let error = apply(
        &schema,
        Some(&with_status),
        &config,
        &Writer { subresource: "status", ..writer("x", T3) },
        false,
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "Apply failed with 1 conflict: conflict with \"ctl\" with subresource \"status\" using apps/v1: .status.replicas"
    );
}

#[test]
fn clients_may_reset_or_send_managed_fields_but_not_lose_them() {
    let schema = of(&deployment(json!({})));
    let mut live = deployment(json!({"replicas": 1}));
    update_managed_fields(&schema, None, &mut live, &writer("a", T1));
    let mut silent = live.clone();
    silent["metadata"].as_object_mut().unwrap().shift_remove("managedFields");
    update_managed_fields(&schema, Some(&live), &mut silent, &writer("b", T2));
    assert_eq!(silent, live);
    for reset in [json!([]), json!([{}])] {
        let mut cleared = live.clone();
        cleared["metadata"]["managedFields"] = reset;
        update_managed_fields(&schema, Some(&live), &mut cleared, &writer("b", T2));
        assert_eq!(cleared["metadata"].get("managedFields"), None);
        // Nobody tracks it any more; the first apply finds who came before.
        let mut changed = cleared.clone();
        changed["spec"]["paused"] = json!(true);
        update_managed_fields(&schema, Some(&cleared), &mut changed, &writer("b", T2));
        assert_eq!(changed["metadata"].get("managedFields"), None);
        let error = applied(Some(&changed), &deployment(json!({"replicas": 9})), "c", T3).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas"
        );
    }
}

#[test]
fn many_updaters_become_one_ancient_one() {
    let schema = of(&json!({"apiVersion": "v1", "kind": "ConfigMap"}));
    let mut live = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {}});
    for n in 0..25 {
        let mut next = live.clone();
        next["data"][format!("k{n}")] = json!("v");
        let (manager, time) = (format!("m{n:02}"), format!("2026-01-01T00:00:{n:02}Z"));
        let by = Writer { manager: &manager, api_version: "v1", subresource: "", time: &time };
        update_managed_fields(&schema, if n == 0 { None } else { Some(&live) }, &mut next, &by);
        live = next;
    }
    let managers: Vec<&str> = live["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["manager"].as_str().unwrap())
        .collect();
    assert_eq!(managers.len(), 10);
    assert_eq!((managers[0], managers[9]), ("ancient-changes", "m24"));
    assert_eq!(entry(&live, "ancient-changes")["fieldsV1"]["f:data"].as_object().unwrap().len(), 17);
}

#[test]
fn versions_of_one_kind_share_their_owners() {
    let route = |version: &str, weight: u32| {
        json!({
            "apiVersion": format!("gateway.networking.k8s.io/{version}"), "kind": "HTTPRoute", "metadata": {"name": "r"},
            "spec": {"hostnames": ["a.b"], "rules": [{"backendRefs": [{"name": "s", "port": 80, "weight": weight}]}]},
        })
    };
    let schema = embedded("HTTPRoute", "v1");
    let by =
        |version: &'static str, time| Writer { manager: "me", api_version: version, subresource: "", time };
    let first =
        apply(&schema, None, &route("v1beta1", 1), &by("gateway.networking.k8s.io/v1beta1", T1), false)
            .unwrap();
    let second =
        apply(&schema, Some(&first), &route("v1", 2), &by("gateway.networking.k8s.io/v1", T2), false)
            .unwrap();
    assert_eq!(second["metadata"]["managedFields"].as_array().unwrap().len(), 1);
    assert_eq!(entry(&second, "me")["apiVersion"], "gateway.networking.k8s.io/v1");
    assert_eq!(
        entry(&second, "me")["fieldsV1"],
        json!({"f:spec": {"f:hostnames": {}, "f:rules": {}}}),
        "rules are atomic"
    );
    assert_eq!(second["spec"]["rules"][0]["backendRefs"][0]["weight"], 2);
}

#[test]
fn listeners_of_a_gateway_can_have_several_owners() {
    let schema = embedded("Gateway", "v1");
    let gateway = |listeners: Value| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "g"},
            "spec": {"gatewayClassName": "c", "listeners": listeners},
        })
    };
    let by = |manager, time| Writer {
        manager,
        api_version: "gateway.networking.k8s.io/v1",
        subresource: "",
        time,
    };
    let http = json!({"name": "http", "port": 80, "protocol": "HTTP"});
    let https = json!({"name": "https", "port": 443, "protocol": "HTTPS"});
    let first = apply(&schema, None, &gateway(json!([http])), &by("a", T1), false).unwrap();
    let mut config = gateway(json!([https]));
    config["spec"].as_object_mut().unwrap().shift_remove("gatewayClassName");
    let second = apply(&schema, Some(&first), &config, &by("b", T2), false).unwrap();
    assert_eq!(second["spec"]["listeners"], json!([http, https]));
    let third = apply(&schema, Some(&second), &gateway(json!([])), &by("a", T3), false).unwrap();
    assert_eq!(third["spec"]["listeners"], json!([https]));
}

#[test]
fn items_come_in_the_applied_order_between_those_of_others() {
    let list = |names: &[&str]| {
        let containers: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        deployment(json!({"template": {"spec": {"containers": containers}}}))
    };
    let names = |object: &Value| -> Vec<String> {
        let containers = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        containers.iter().map(|container| container["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = applied(None, &list(&["a", "x", "b", "y", "c"]), "other", T1).unwrap();
    let second = applied(Some(&first), &list(&["c", "n", "a"]), "me", T2).unwrap();
    let order = names(&second);
    let at = |name: &str| order.iter().position(|have| have == name).unwrap();
    assert!(at("c") < at("n") && at("n") < at("a"), "{order:?}");
    assert!(at("x") < at("b") && at("b") < at("y"), "{order:?}");
    assert_eq!(order.len(), 6);
    let third = applied(Some(&first), &list(&["a", "m", "b", "c"]), "me", T2).unwrap();
    assert_eq!(names(&third), ["a", "x", "m", "b", "y", "c"]);
}

#[test]
fn sets_and_maps_are_taken_apart_and_atomic_ones_are_not() {
    let service = |spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "finalizers": ["f/a"]}, "spec": spec});
    let by = |manager, time| Writer { manager, api_version: "v1", subresource: "", time };
    let schema = of(&service(json!({})));
    let first =
        apply(&schema, None, &service(json!({"selector": {"app": "x"}})), &by("a", T1), false).unwrap();
    assert_eq!(
        entry(&first, "a")["fieldsV1"],
        json!({"f:metadata": {"f:finalizers": {"v:\"f/a\"": {}}}, "f:spec": {"f:selector": {}}}),
        "a selector is one field"
    );
    let mut more = service(json!({}));
    more["metadata"]["finalizers"] = json!(["f/b"]);
    let second = apply(&schema, Some(&first), &more, &by("b", T2), false).unwrap();
    assert_eq!(second["metadata"]["finalizers"], json!(["f/a", "f/b"]));
}

#[test]
fn an_applied_list_must_tell_its_items_apart() {
    let config = deployment(json!({"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}}));
    assert_eq!(
        applied(None, &config, "me", T1).unwrap_err().to_string(),
        "failed to create typed patch object (n/d; apps/v1, Kind=Deployment): .spec.template.spec.containers: \
         duplicate entries for key [name=\"a\"]"
    );
    let config = deployment(json!({"template": {"spec": {"containers": [{"image": "a"}]}}}));
    let error = applied(None, &config, "me", T1).unwrap_err().to_string();
    assert!(
        error.contains("element 0: associative list with keys has an element that omits key field \"name\""),
        "{error}"
    );
}

#[test]
fn kubectl_goes_from_client_side_to_server_side_apply() {
    let last = deployment(json!({"replicas": 2}));
    let mut live = last.clone();
    live["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": format!("{last}\n")});
    let schema = of(&live);
    update_managed_fields(&schema, None, &mut live, &writer("kubectl-client-side-apply", T1));
    let config = deployment(json!({"replicas": 3}));
    let after = applied(Some(&live), &config, "kubectl", T2).unwrap();
    assert_eq!(after["spec"]["replicas"], 3);
    assert_eq!(
        after["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"],
        format!("{config}\n")
    );
    // Somebody else's change since then is a conflict all the same.
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = json!(7);
    update_managed_fields(&schema, Some(&live), &mut scaled, &writer("scaler", T2));
    let error = applied(Some(&scaled), &config, "kubectl", T3).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"scaler\" using apps/v1: .spec.replicas"
    );
}

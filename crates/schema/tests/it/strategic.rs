//! Strategic merge patches of built-in kinds.

use serde_json::{Value, json};
use weir_schema::patch::strategic;

use crate::schemas::of;

fn deployment(pod: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 1, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}, "template": {"spec": pod}},
    })
}

fn pod_after(pod: Value, patch: Value) -> Result<Value, String> {
    let target = deployment(pod);
    strategic::apply(&of(&target), &target, &json!({"spec": {"template": {"spec": patch}}}))
        .map(|mut patched| patched["spec"]["template"]["spec"].take())
        .map_err(|error| error.to_string())
}

#[test]
fn containers_merge_by_name() {
    let pod = json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "x"}]}, {"name": "b", "image": "1"}]});
    let patched = pod_after(
        pod,
        json!({"containers": [{"name": "b", "image": "2"}, {"name": "a", "env": [{"name": "Y", "value": "y"}]}, {"name": "c", "image": "3"}]}),
    )
    .unwrap();
    assert_eq!(
        patched,
        json!({"containers": [
            {"name": "b", "image": "2"},
            {"name": "a", "image": "1", "env": [{"name": "Y", "value": "y"}, {"name": "X", "value": "x"}]},
            {"name": "c", "image": "3"},
        ]})
    );
}

#[test]
fn lists_without_a_hint_and_scalars_are_replaced_and_null_deletes() {
    let patched = pod_after(
        json!({"containers": [{"name": "a", "args": ["1"], "image": "x", "workingDir": "/"}], "dnsPolicy": "Default"}),
        json!({"containers": [{"name": "a", "args": ["2", "3"], "workingDir": null}], "dnsPolicy": null, "none": null}),
    )
    .unwrap();
    assert_eq!(patched, json!({"containers": [{"name": "a", "args": ["2", "3"], "image": "x"}]}));
}

#[test]
fn items_can_be_deleted_and_lists_and_objects_replaced() {
    let pod = json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"x": "y"}, "securityContext": {"runAsUser": 1, "fsGroup": 2}});
    let delete = json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "c"}]});
    assert_eq!(pod_after(pod.clone(), delete).unwrap()["containers"], json!([{"name": "c"}, {"name": "b"}]));
    let replace = json!({"containers": [{"$patch": "replace"}, {"name": "z"}], "securityContext": {"$patch": "replace", "runAsUser": 3}, "nodeSelector": {"$patch": "delete"}});
    let patched = pod_after(pod, replace).unwrap();
    assert_eq!(
        patched,
        json!({"containers": [{"name": "z"}], "securityContext": {"runAsUser": 3}, "nodeSelector": {}})
    );
}

#[test]
fn an_order_is_applied_to_named_and_plain_items() {
    let pod = json!({"containers": [{"name": "a"}, {"name": "x"}, {"name": "b"}, {"name": "c"}]});
    let patched = pod_after(
        pod.clone(),
        json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}], "containers": [{"name": "b", "image": "2"}]}),
    )
    .unwrap();
    assert_eq!(
        patched["containers"],
        json!([{"name": "x"}, {"name": "c"}, {"name": "a"}, {"name": "b", "image": "2"}])
    );
    let only_order =
        pod_after(pod, json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]})).unwrap();
    assert_eq!(only_order["containers"], json!([{"name": "x"}, {"name": "b"}, {"name": "a"}, {"name": "c"}]));
    let meta = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"finalizers": ["a", "b", "c"]}});
    let patched = strategic::apply(
        &of(&meta),
        &meta,
        &json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "$setElementOrder/finalizers": ["d", "a", "c"], "finalizers": ["d"]}}),
    )
    .unwrap();
    assert_eq!(patched["metadata"]["finalizers"], json!(["d", "a", "c"]));
    let merged =
        strategic::apply(&of(&meta), &meta, &json!({"metadata": {"finalizers": ["c", "e"]}})).unwrap();
    assert_eq!(merged["metadata"]["finalizers"], json!(["a", "b", "c", "e"]));
}

#[test]
fn retained_keys_clear_the_others() {
    let target = deployment(json!({}));
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let patched = strategic::apply(&of(&target), &target, &patch).unwrap();
    assert_eq!(patched["spec"]["strategy"], json!({"type": "Recreate"}));
    assert_eq!(patched["spec"]["replicas"], 1);
}

#[test]
fn directives_do_not_stay_in_what_is_new() {
    let patched = pod_after(
        json!({}),
        json!({
            "$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
            "containers": [{"name": "a", "$setElementOrder/ports": [{"containerPort": 1}], "ports": [{"containerPort": 1}]}, {"name": "b", "image": null}],
            "volumes": [{"name": "v", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}, {"name": "gone", "$patch": "delete"}],
        }),
    )
    .unwrap();
    assert_eq!(
        patched,
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 1}]}, {"name": "b"}], "volumes": [{"name": "v", "emptyDir": {}}]})
    );
}

#[test]
fn malformed_patches_say_why() {
    let pod = json!({"containers": [{"name": "a"}], "volumes": [{"name": "v"}]});
    for (patch, words) in [
        (json!({"containers": [{"image": "x"}]}), "does not contain declared merge key: name"),
        (json!({"containers": [{"$patch": "delete"}]}), "does not contain declared merge key: name"),
        (json!({"containers": [{"name": "a", "$patch": "melt"}]}), "unknown patch type: melt"),
        (json!({"$patch": "melt"}), "unknown patch type: melt"),
        (json!({"containers": [{"name": "a"}, "b"]}), "list items of different types"),
        (json!({"$setElementOrder/containers": "a"}), "must be a list"),
        (
            json!({"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}),
            "doesn't match $setElementOrder/containers list",
        ),
        (json!({"$retainKeys": ["volumes"], "containers": []}), "invalid patch format of retainKeys"),
    ] {
        let error = pod_after(pod.clone(), patch).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    assert!(strategic::apply(&of(&deployment(json!({}))), &deployment(json!({})), &json!([])).is_err());
}

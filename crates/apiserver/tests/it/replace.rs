//! File mode: the store made equal to a list of objects.

use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use weir_apiserver::{ApiServer, ApiServerConfig, Identity};

fn server() -> ApiServer {
    ApiServer::new(ApiServerConfig { identity: Identity::Stable, ..ApiServerConfig::default() })
        .expect("a server")
}

fn map(namespace: &str, name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": {"v": value}})
}

fn route(path: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "r"},
        "spec": {"rules": [{"matches": [{"path": {"value": path}}]}]},
    })
}

async fn names(server: &ApiServer, namespace: &str) -> Vec<String> {
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), namespace);
    maps.list(&ListParams::default()).await.expect("a list").items.iter().map(ResourceExt::name_any).collect()
}

#[tokio::test]
async fn the_same_files_mean_the_same_objects_at_every_start() {
    let mut seen = Vec::new();
    for _ in 0..2 {
        let server = server();
        assert_eq!(server.replace(vec![map("shop", "a", "1")]), []);
        let maps: Api<ConfigMap> = Api::namespaced(server.client(), "shop");
        let found = maps.get("a").await.expect("there");
        seen.push((found.uid(), found.creation_timestamp().map(|time| time.0.to_string())));
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn what_is_the_same_is_untouched_what_changed_is_written_what_vanished_goes() {
    let server = server();
    assert_eq!(server.replace(vec![map("shop", "a", "1"), map("shop", "b", "1"), map("shop", "c", "1")]), []);
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "shop");
    let version = async |name: &str| maps.get(name).await.expect("there").resource_version();
    let before = (version("a").await, version("b").await);
    assert_eq!(server.replace(vec![map("shop", "a", "1"), map("shop", "b", "2")]), []);
    let after = (version("a").await, version("b").await);
    assert_eq!(before.0, after.0);
    assert_ne!(before.1, after.1);
    assert_eq!(names(&server, "shop").await, ["a", "b"]);
    assert_eq!(server.replace(Vec::<Value>::new()), []);
    let namespaces: Api<Namespace> = Api::all(server.client());
    assert!(
        namespaces.get_opt("shop").await.expect("an answer").is_none(),
        "a namespace that files implied goes with them"
    );
    assert!(namespaces.get_opt("default").await.expect("an answer").is_some());
}

#[tokio::test]
async fn what_somebody_else_changed_is_as_in_the_files_again() {
    let server = server();
    let routes: Api<DynamicObject> = Api::namespaced_with(
        server.client(),
        "default",
        &ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute")),
    );
    let path = async || {
        routes.get("r").await.expect("there").data["spec"]["rules"][0]["matches"][0]["path"]["value"].clone()
    };
    assert_eq!(server.replace(vec![route("/a")]), []);
    let patch = json!({"spec": {"rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/b"}}]}]}});
    routes.patch("r", &PatchParams::default(), &Patch::Merge(patch)).await.expect("patched");
    assert_eq!(path().await, "/b");
    assert_eq!(server.replace(vec![route("/a")]), []);
    assert_eq!(path().await, "/a");
    routes.delete("r", &DeleteParams::default()).await.expect("deleted");
    assert_eq!(server.replace(vec![route("/a")]), []);
    assert_eq!(path().await, "/a");
}

#[tokio::test]
async fn what_is_refused_is_told_by_field_and_leaves_everything_else_as_it_is() {
    let server = server();
    assert_eq!(server.replace(vec![route("/a"), map("default", "a", "1")]), []);
    let typo = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "dat": {}});
    let unknown = json!({"apiVersion": "example.com/v1", "kind": "Lamp", "metadata": {"name": "l"}});
    let rejections = server.replace(vec![
        route("no slash"),
        map("default", "a", "2"),
        typo,
        unknown,
        map("default", "a", "3"),
    ]);
    let mut told: Vec<(usize, &str, &str)> =
        rejections.iter().map(|one| (one.index, one.object.as_str(), one.field.as_str())).collect();
    // Two rules of the schema speak about the one path.
    told.dedup();
    assert_eq!(told[0], (0, "HTTPRoute default/r", "spec.rules[0].matches[0].path"));
    assert!(rejections[0].reason.contains("must be an absolute path"), "{rejections:?}");
    assert_eq!(
        told[1..4],
        [(2, "ConfigMap default/b", "dat"), (3, "Lamp l", ""), (4, "ConfigMap default/a", "")]
    );
    assert!(
        rejections.iter().any(|one| one.reason.contains("no matches for kind \"Lamp\"")),
        "{rejections:?}"
    );
    let routes: Api<DynamicObject> = Api::namespaced_with(
        server.client(),
        "default",
        &ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute")),
    );
    let stored = routes.get("r").await.expect("still there");
    assert_eq!(stored.data["spec"]["rules"][0]["matches"][0]["path"]["value"], "/a");
    assert_eq!(names(&server, "default").await, ["a"]);
}

#[tokio::test]
async fn definitions_come_before_their_objects_wherever_they_stand() {
    let server = server();
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "lamps.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"kind": "Lamp", "plural": "lamps"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    });
    let lamp = json!({"apiVersion": "example.com/v1", "kind": "Lamp", "metadata": {"name": "l"}});
    assert_eq!(server.replace(vec![lamp.clone(), definition.clone()]), []);
    assert_eq!(server.replace(vec![lamp, definition]), []);
}

#[tokio::test]
async fn a_namespace_that_left_the_files_can_come_back_though_there_were_events_in_it() {
    let server = server();
    assert_eq!(server.replace(vec![map("shop", "a", "1")]), []);
    let events: Api<Event> = Api::namespaced(server.client(), "shop");
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "shop"},
        "involvedObject": {"apiVersion": "v1", "kind": "ConfigMap", "namespace": "shop", "name": "a"},
        "reason": "R", "message": "m", "type": "Warning",
    });
    let event = serde_json::from_value(event).expect("an Event");
    events.create(&PostParams::default(), &event).await.expect("created");
    assert_eq!(server.replace(Vec::<Value>::new()), []);
    let namespaces: Api<Namespace> = Api::all(server.client());
    assert!(namespaces.get_opt("shop").await.expect("an answer").is_none());
    assert_eq!(server.replace(vec![map("shop", "a", "1")]), []);
    assert_eq!(names(&server, "shop").await, ["a"]);
    assert_eq!(events.list(&ListParams::default()).await.expect("a list").items, []);
}

#[tokio::test]
async fn the_end_of_a_namespace_that_is_held_up_is_tried_again() {
    let server = server();
    assert_eq!(server.replace(vec![map("shop", "a", "1")]), []);
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "shop");
    let mut held = map("shop", "held", "1");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let held = serde_json::from_value(held).expect("a ConfigMap");
    maps.create(&PostParams::default(), &held).await.expect("created");
    assert_eq!(server.replace(Vec::<Value>::new()), []);
    assert_ne!(server.replace(vec![map("shop", "a", "1")]), [], "it is being terminated");
    let patch = json!({"metadata": {"finalizers": null}});
    maps.patch("held", &PatchParams::default(), &Patch::Merge(patch)).await.expect("let go");
    assert_eq!(server.replace(vec![map("shop", "a", "1")]), []);
    assert_eq!(names(&server, "shop").await, ["a"]);
}

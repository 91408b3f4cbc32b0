//! The controllers over the in-process API, as a person with kubectl sees them.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;

use crate::sandbox::{Sandbox, until};

const ECHO: &str = include_str!("../../../../examples/kic/echo-services.yaml");

fn ready(pods: &[Pod]) -> Vec<&Pod> {
    let is_ready = |pod: &&Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        pod.metadata.deletion_timestamp.is_none()
            && conditions.clone().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    pods.iter().filter(is_ready).collect()
}

fn ready_addresses(slices: &[EndpointSlice], service: &str) -> Vec<String> {
    let mine = slices
        .iter()
        .filter(|slice| slice.labels().get("kubernetes.io/service-name").is_some_and(|name| name == service));
    let endpoints = mine.flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true));
    ready.flat_map(|endpoint| endpoint.addresses.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_becomes_a_ready_pod_behind_its_service() {
    let sandbox = Sandbox::start("127.94.1.0/24");
    sandbox.create(ECHO).await;
    let deployment = until(&sandbox.api::<Deployment>(), "echo is available", |all: &[Deployment]| {
        let echo = all.iter().find(|deployment| deployment.name_any() == "echo")?;
        let status = echo.status.clone()?;
        let settled = status.conditions.iter().flatten().any(|condition| {
            condition.type_ == "Progressing" && condition.reason.as_deref() == Some("NewReplicaSetAvailable")
        });
        (settled && status.available_replicas == Some(1)).then(|| echo.clone())
    })
    .await;
    let status = deployment.status.clone().expect("has one");
    assert_eq!(
        (status.replicas, status.updated_replicas, status.ready_replicas),
        (Some(1), Some(1), Some(1))
    );
    assert_eq!(
        deployment.annotations().get("deployment.kubernetes.io/revision").map(String::as_str),
        Some("1")
    );
    let address = until(&sandbox.api::<EndpointSlice>(), "echo has an endpoint", |slices| {
        ready_addresses(slices, "echo").pop()
    })
    .await;
    let pod = until(&sandbox.api::<Pod>(), "both pods are ready", |pods: &[Pod]| {
        let ready = ready(pods);
        (ready.len() == 2).then(|| ready.into_iter().find(|pod| pod.labels()["app"] == "echo").cloned())?
    })
    .await;
    assert_eq!(pod.status.as_ref().and_then(|status| status.pod_ip.clone()), Some(address.clone()));
    // <deployment>-<hash>-<suffix>, so that both parts can be cut off.
    let hash = &pod.labels()["pod-template-hash"];
    assert!(pod.name_any().starts_with(&format!("echo-{hash}-")), "{}", pod.name_any());
    let (code, _, body) = crate::sandbox::get(&format!("{address}:8080"), "/hostname?iteration=7").await;
    assert_eq!((code, body), (200, pod.name_any()));
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_up_and_down_and_deleting_a_pod_ends_where_asked() {
    let sandbox = Sandbox::start("127.94.2.0/24");
    sandbox.create(ECHO).await;
    let (deployments, pods, slices) =
        (sandbox.api::<Deployment>(), sandbox.api::<Pod>(), sandbox.api::<EndpointSlice>());
    for count in [20, 1] {
        let scale = json!({ "spec": { "replicas": count } });
        deployments
            .patch_scale("echo2", &PatchParams::default(), &Patch::Merge(&scale))
            .await
            .expect("scaled");
        until(&slices, "as many endpoints as asked", |slices| {
            (ready_addresses(slices, "echo2").len() == count).then_some(())
        })
        .await;
        until(&pods, "as many pods as asked", |all: &[Pod]| {
            let mine = all.iter().filter(|pod| pod.labels()["app"] == "echo2");
            (mine.count() == count).then_some(())
        })
        .await;
    }
    let first = until(&pods, "one pod of echo", |all: &[Pod]| {
        ready(all).into_iter().find(|pod| pod.labels()["app"] == "echo").map(ResourceExt::name_any)
    })
    .await;
    pods.delete(&first, &Default::default()).await.expect("deleted");
    until(&pods, "another pod in its place", |all: &[Pod]| {
        let mine: Vec<_> = all.iter().filter(|pod| pod.labels()["app"] == "echo").collect();
        (mine.len() == 1 && mine[0].name_any() != first && ready(all).len() == 2).then_some(())
    })
    .await;
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_template_rolls_and_undo_finds_the_old_replica_set() {
    let sandbox = Sandbox::start("127.94.3.0/24");
    sandbox.create(ECHO).await;
    let (deployments, sets, pods) =
        (sandbox.api::<Deployment>(), sandbox.api::<ReplicaSet>(), sandbox.api::<Pod>());
    until(&pods, "ready", |all: &[Pod]| (ready(all).len() == 2).then_some(())).await;
    let first = sets.list(&Default::default()).await.expect("a list").items;
    let first = first.iter().find(|set| set.labels()["app"] == "echo").cloned().expect("echo's");
    let template =
        |value: &str| json!({ "spec": { "template": { "metadata": { "annotations": { "turn": value } } } } });
    let patch = |value: serde_json::Value| {
        let deployments = deployments.clone();
        async move {
            deployments.patch("echo", &PatchParams::default(), &Patch::Merge(&value)).await.expect("patched");
        }
    };
    patch(template("second")).await;
    let revision_2 = until(&deployments, "rolled", |all: &[Deployment]| rolled(all, "2")).await;
    assert_eq!(revision_2.status.clone().and_then(|status| status.replicas), Some(1));
    patch(json!({ "spec": { "template": { "metadata": { "annotations": { "turn": null } } } } })).await;
    until(&deployments, "rolled back", |all: &[Deployment]| rolled(all, "3")).await;
    let now = until(&sets, "the first set serves again", |all: &[ReplicaSet]| {
        let set = all.iter().find(|set| set.name_any() == first.name_any())?;
        (set.status.as_ref()?.available_replicas == Some(1)).then(|| set.clone())
    })
    .await;
    assert_eq!(now.uid(), first.uid());
    assert_eq!(now.annotations()["deployment.kubernetes.io/revision-history"], "1");
    sandbox.stop().await;
}

/// The Deployment `echo` once its rollout to this revision is complete.
fn rolled(all: &[Deployment], revision: &str) -> Option<Deployment> {
    let echo = all.iter().find(|deployment| deployment.name_any() == "echo")?;
    let status = echo.status.clone()?;
    let at = echo.annotations().get("deployment.kubernetes.io/revision").is_some_and(|at| at == revision);
    let complete = status.observed_generation == echo.metadata.generation
        && status.updated_replicas == Some(1)
        && status.replicas == Some(1)
        && status.available_replicas == Some(1);
    (at && complete).then(|| echo.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_deployment_leaves_nothing_behind() {
    let sandbox = Sandbox::start("127.94.4.0/24");
    sandbox.create(ECHO).await;
    let (deployments, sets, pods, slices) = (
        sandbox.api::<Deployment>(),
        sandbox.api::<ReplicaSet>(),
        sandbox.api::<Pod>(),
        sandbox.api::<EndpointSlice>(),
    );
    until(&pods, "ready", |all: &[Pod]| (ready(all).len() == 2).then_some(())).await;
    deployments.delete("echo", &DeleteParams::default()).await.expect("deleted");
    until(&pods, "its pod is gone", |all: &[Pod]| (all.len() == 1).then_some(())).await;
    let left = sets.list(&ListParams::default()).await.expect("a list").items;
    assert_eq!(left.iter().map(|set| set.labels()["app"].as_str()).collect::<Vec<_>>(), ["echo2"]);
    sandbox.api::<Service>().delete("echo", &DeleteParams::default()).await.expect("deleted");
    until(&slices, "its slice is gone", |all: &[EndpointSlice]| {
        all.iter().all(|slice| slice.labels()["kubernetes.io/service-name"] == "echo2").then_some(())
    })
    .await;
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreground_deletion_ends_with_the_owner_and_an_orphaning_one_spares_the_pods() {
    let sandbox = Sandbox::start("127.94.5.0/24");
    sandbox.create(ECHO).await;
    let (deployments, sets, pods) =
        (sandbox.api::<Deployment>(), sandbox.api::<ReplicaSet>(), sandbox.api::<Pod>());
    until(&pods, "ready", |all: &[Pod]| (ready(all).len() == 2).then_some(())).await;
    deployments.delete("echo", &DeleteParams::foreground()).await.expect("deleted");
    until(&deployments, "the owner is gone", |all: &[Deployment]| (all.len() == 1).then_some(())).await;
    let of_echo = |labels: &std::collections::BTreeMap<String, String>| labels["app"] == "echo";
    let left = pods.list(&ListParams::default()).await.expect("a list").items;
    assert!(!left.iter().any(|pod| of_echo(pod.labels())), "pods go before their owner");

    let spared = left.first().map(ResourceExt::name_any).expect("echo2's pod");
    let set = sets.list(&ListParams::default()).await.expect("a list").items[0].name_any();
    deployments.delete("echo2", &DeleteParams::orphan()).await.expect("deleted");
    until(&sets, "the set has no owner", |all: &[ReplicaSet]| {
        (all.len() == 1 && all[0].owner_references().is_empty()).then_some(())
    })
    .await;
    sets.delete(&set, &DeleteParams::orphan()).await.expect("deleted");
    until(&pods, "the pod has no owner", |all: &[Pod]| {
        (all.len() == 1 && all[0].owner_references().is_empty()).then_some(())
    })
    .await;
    // A Deployment that selects it takes it up again, by way of a new set.
    let pod = pods.get(&spared).await.expect("still there");
    assert_eq!(ready(std::slice::from_ref(&pod)).len(), 1);
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_namespace_takes_its_contents_along() {
    let sandbox = Sandbox::start("127.94.6.0/24");
    let namespaces: Api<Namespace> = Api::all(sandbox.client.clone());
    let shop = serde_json::from_value(json!({
        "metadata": { "name": "shop" }, "spec": { "finalizers": ["kubernetes"] },
    }))
    .expect("a Namespace");
    namespaces.create(&PostParams::default(), &shop).await.expect("created");
    let accounts: Api<ServiceAccount> = Api::namespaced(sandbox.client.clone(), "shop");
    until(&accounts, "an account", |all: &[ServiceAccount]| {
        all.iter().any(|account| account.name_any() == "default").then_some(())
    })
    .await;
    let deployments: Api<Deployment> = Api::namespaced(sandbox.client.clone(), "shop");
    let pods: Api<Pod> = Api::namespaced(sandbox.client.clone(), "shop");
    let echo = serde_saphyr::from_multiple::<serde_json::Value>(ECHO).expect("YAML").remove(1);
    let echo: Deployment = serde_json::from_value(echo).expect("a Deployment");
    deployments.create(&PostParams::default(), &echo).await.expect("created");
    until(&pods, "ready", |all: &[Pod]| (ready(all).len() == 1).then_some(())).await;
    namespaces.delete("shop", &DeleteParams::default()).await.expect("deleted");
    until(&namespaces, "gone", |all: &[Namespace]| {
        all.iter().all(|namespace| namespace.name_any() != "shop").then_some(())
    })
    .await;
    // A namespace of the same name begins empty.
    namespaces.create(&PostParams::default(), &shop).await.expect("created");
    assert!(deployments.list(&ListParams::default()).await.expect("a list").items.is_empty());
    assert!(pods.list(&ListParams::default()).await.expect("a list").items.is_empty());
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_its_namespace_though_it_was_made_as_that_ended() {
    let sandbox = Sandbox::start("127.94.8.0/24");
    let namespaces: Api<Namespace> = Api::all(sandbox.client.clone());
    let maps: Api<ConfigMap> = Api::namespaced(sandbox.client.clone(), "shop");
    let shop = serde_json::from_value(json!({ "metadata": { "name": "shop" } })).expect("a Namespace");
    for _ in 0..5 {
        namespaces.create(&PostParams::default(), &shop).await.expect("created");
        let mut writers = JoinSet::new();
        for writer in 0..4 {
            let maps = maps.clone();
            writers.spawn(async move {
                let mut made = 0;
                loop {
                    let name = format!("m-{writer}-{made}");
                    let map = serde_json::from_value(json!({ "metadata": { "name": name } })).expect("a map");
                    match maps.create(&PostParams::default(), &map).await {
                        Ok(_) => made += 1,
                        Err(kube::Error::Api(status)) if status.is_forbidden() || status.is_not_found() => {
                            return made;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        until(&maps, "maps", |all: &[ConfigMap]| (all.len() > 10).then_some(())).await;
        namespaces.delete("shop", &DeleteParams::default()).await.expect("deleted");
        let made: usize = writers.join_all().await.into_iter().sum();
        assert!(made > 10);
        until(&namespaces, "gone", |all: &[Namespace]| {
            all.iter().all(|namespace| namespace.name_any() != "shop").then_some(())
        })
        .await;
        let all: Api<ConfigMap> = Api::all(sandbox.client.clone());
        let left = all.list(&ListParams::default()).await.expect("a list").items;
        assert!(left.iter().all(|map| map.namespace().as_deref() != Some("shop")), "{left:?}");
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn a_namespace_with_something_in_it_cannot_be_finalized_away() {
    let server =
        weir_apiserver::ApiServer::new(weir_apiserver::ApiServerConfig::default()).expect("a server");
    let namespaces: Api<Namespace> = Api::all(server.client());
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "shop");
    let shop = serde_json::from_value(json!({ "metadata": { "name": "shop" } })).expect("a Namespace");
    namespaces.create(&PostParams::default(), &shop).await.expect("created");
    let map = serde_json::from_value(json!({ "metadata": { "name": "a" } })).expect("a map");
    maps.create(&PostParams::default(), &map).await.expect("created");
    namespaces.delete("shop", &DeleteParams::default()).await.expect("begun");
    let finalize = || async {
        let mut shop = namespaces.get("shop").await.expect("it is there");
        shop.spec.get_or_insert_default().finalizers = Some(Vec::new());
        namespaces.replace_subresource("finalize", "shop", &PostParams::default(), &shop).await
    };
    let refused = finalize().await.expect_err("it is not empty").to_string();
    assert!(refused.contains("the namespace still holds configmaps"), "{refused}");
    maps.delete("a", &DeleteParams::default()).await.expect("deleted");
    finalize().await.expect("it is empty");
    assert!(namespaces.get_opt("shop").await.expect("an answer").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_is_ready_and_comes_back() {
    let sandbox = Sandbox::start("127.94.7.0/24");
    let nodes: Api<Node> = Api::all(sandbox.client.clone());
    let ready = |all: &[Node]| {
        let node = all.iter().find(|node| node.name_any() == "weir")?;
        let mut conditions = node.status.as_ref()?.conditions.iter().flatten();
        conditions
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
            .then(|| node.uid())?
    };
    let first = until(&nodes, "ready", ready).await;
    nodes.delete("weir", &DeleteParams::default()).await.expect("deleted");
    until(&nodes, "ready again", |all: &[Node]| ready(all).filter(|uid| *uid != first)).await;
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_pods_come_and_go() {
    let sandbox = Sandbox::start("127.94.16.0/22");
    sandbox.create(ECHO).await;
    let (deployments, slices) = (sandbox.api::<Deployment>(), sandbox.api::<EndpointSlice>());
    for count in [300, 1] {
        let scale = json!({ "spec": { "replicas": count } });
        deployments
            .patch_scale("echo", &PatchParams::default(), &Patch::Merge(&scale))
            .await
            .expect("scaled");
        until(&deployments, "as many available as asked", |all: &[Deployment]| {
            let echo = all.iter().find(|deployment| deployment.name_any() == "echo")?;
            (echo.status.as_ref()?.available_replicas == Some(count)).then_some(())
        })
        .await;
        let addresses = until(&slices, "as many endpoints as asked", |slices| {
            let addresses = ready_addresses(slices, "echo");
            (addresses.len() == usize::try_from(count).expect("small")).then_some(addresses)
        })
        .await;
        let distinct: std::collections::BTreeSet<_> = addresses.iter().collect();
        assert_eq!(distinct.len(), addresses.len());
    }
    until(&sandbox.api::<Pod>(), "the others are gone", |all: &[Pod]| (all.len() == 2).then_some(())).await;
    sandbox.stop().await;
}

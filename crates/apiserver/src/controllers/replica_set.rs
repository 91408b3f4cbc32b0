//! ReplicaSets to pods.
//!
//! Owns: the pods of every ReplicaSet, and its status.
//!
//! Invariants: pods are matched by controller reference; orphans that the selector selects are adopted, pods that it
//! no longer selects are released. Scaling down takes first what serves least: unscheduled, pending, unready, then
//! cheap by annotation, then newest.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::core::{Selector, SelectorExt};
use kube::{Resource, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::cache::{ObjectKey, controller_uid};
use super::pod_state::{self, Availability};
use super::queue::{Next, Queue};
use super::{NODE_NAME, PARALLEL, View, naming};

/// Pods created or deleted in one pass. Unit: pods. Source: Kubernetes' burst for ReplicaSets.
const BURST: usize = 500;
/// Tries for a name that nobody has. Unit: tries. Source: Kubernetes' `generateName`.
const NAME_TRIES: usize = 8;

/// Registers with the caches at once; the future works until `shutdown`.
pub(super) fn run(view: View, shutdown: CancellationToken) -> impl Future<Output = ()> {
    let view = View { events: view.events.named("replicaset-controller"), ..view };
    let queue = Queue::new();
    let keys = queue.clone();
    view.replica_sets.observe(move |change| {
        if let Some(set) = change.either() {
            keys.add(ObjectKey::of(set.as_ref()));
        }
    });
    let (keys, sets) = (queue.clone(), view.replica_sets.clone());
    view.pods.observe(move |change| {
        for pod in change.sides() {
            let namespace = pod.namespace().unwrap_or_default();
            match controller_uid(pod.as_ref()) {
                Some(uid) => {
                    let owner = pod.owner_references().iter().find(|owner| owner.uid == uid);
                    if let Some(owner) = owner.filter(|owner| owner.kind == "ReplicaSet") {
                        keys.add(ObjectKey::new(namespace, &owner.name));
                    }
                }
                // An orphan may be adopted by any that selects it.
                None => {
                    for set in sets.in_namespace(&namespace) {
                        if selector(&set).is_some_and(|selector| selector.matches(pod.labels())) {
                            keys.add(ObjectKey::of(set.as_ref()));
                        }
                    }
                }
            }
        }
    });
    async move {
        view.replica_sets.wait_listed(&shutdown).await;
        view.pods.wait_listed(&shutdown).await;
        let work = move |key| reconcile(view.clone(), key);
        queue.work(PARALLEL, shutdown, work).await;
    }
}

async fn reconcile(view: View, key: ObjectKey) -> Result<Next, kube::Error> {
    let Some(set) = view.replica_sets.get(&key) else { return Ok(Next::OnChange) };
    let plan = plan(&set, &view.pods.in_namespace(&key.namespace));
    if (plan.create > 0 || !plan.adopt.is_empty()) && !view.replica_sets.is_wanted(&set).await? {
        return Ok(Next::OnChange);
    }
    let mut failure = None;
    if let Err(error) = claim(&view, &set, &plan).await {
        failure = Some(("FailedUpdate", error));
    }
    if let Err(error) = scale(&view, &set, &plan).await {
        failure = Some(error);
    }
    // The pods as they are now, our own writes included.
    let owned = view.pods.controlled_by(set.uid().as_deref().unwrap_or_default());
    let (status, recheck) = status(&set, &owned, failure.as_ref(), Timestamp::now());
    write_status(&view, &set, status).await?;
    match failure {
        Some((_, error)) => Err(error),
        None => Ok(recheck.map_or(Next::OnChange, Next::After)),
    }
}

/// What to do for one ReplicaSet.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) adopt: Vec<Arc<Pod>>,
    pub(crate) release: Vec<Arc<Pod>>,
    pub(crate) create: usize,
    pub(crate) delete: Vec<Arc<Pod>>,
}

/// Pure: `pods` are all pods of the namespace.
pub(crate) fn plan(set: &ReplicaSet, pods: &[Arc<Pod>]) -> Plan {
    let mut plan = Plan::default();
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let Some(selector) = selector(set) else { return plan };
    let uid = set.uid().unwrap_or_default();
    let mut active = Vec::new();
    for pod in pods {
        let selected = selector.matches(pod.labels());
        match controller_uid(pod.as_ref()) {
            Some(owner) if owner == uid && !selected => {
                if pod.metadata.deletion_timestamp.is_none() {
                    plan.release.push(pod.clone());
                }
                continue;
            }
            Some(owner) if owner == uid => {}
            None if selected && pod_state::is_active(pod) => plan.adopt.push(pod.clone()),
            _ => continue,
        }
        if pod_state::is_active(pod) {
            active.push(pod.clone());
        }
    }
    let wanted = usize::try_from(desired(set)).unwrap_or(0);
    if active.len() < wanted {
        // After a refusal one pod is tried alone, lest hundreds are refused again and again.
        let burst = if has_failed(set) { 1 } else { BURST };
        plan.create = (wanted - active.len()).min(burst);
    } else if active.len() > wanted {
        let surplus = (active.len() - wanted).min(BURST);
        active.sort_by(|left, right| least_serving_first(left, right));
        plan.delete = active.into_iter().take(surplus).collect();
    }
    plan
}

fn has_failed(set: &ReplicaSet) -> bool {
    let conditions = set.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")
}

pub(crate) fn desired(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1).max(0)
}

/// None for a selector that selects nothing: an empty one, or one that does not parse.
fn selector(set: &ReplicaSet) -> Option<Selector> {
    let selector = Selector::try_from(set.spec.as_ref()?.selector.clone()).ok()?;
    (!selector.selects_all()).then_some(selector)
}

/// Kubernetes' order of `ActivePods`, for one node.
fn least_serving_first(left: &Pod, right: &Pod) -> Ordering {
    let scheduled = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let phase = |pod: &Pod| match pod_state::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let restarts = |pod: &Pod| {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
        statuses.unwrap_or_default().iter().map(|status| status.restart_count).max().unwrap_or(0)
    };
    (scheduled(left), phase(left), pod_state::is_ready(left), deletion_cost(left))
        .cmp(&(scheduled(right), phase(right), pod_state::is_ready(right), deletion_cost(right)))
        // Newer first: it has the fewest connections.
        .then_with(|| pod_state::ready_since(right).cmp(&pod_state::ready_since(left)))
        .then_with(|| restarts(right).cmp(&restarts(left)))
        .then_with(|| right.metadata.creation_timestamp.cmp(&left.metadata.creation_timestamp))
        .then_with(|| right.metadata.name.cmp(&left.metadata.name))
}

fn deletion_cost(pod: &Pod) -> i32 {
    let cost = pod.annotations().get("controller.kubernetes.io/pod-deletion-cost");
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

async fn claim(view: &View, set: &ReplicaSet, plan: &Plan) -> Result<(), kube::Error> {
    for pod in &plan.adopt {
        let mut owners = pod.owner_references().to_vec();
        owners.push(controller_reference(set));
        let patch = json!({ "metadata": {
            "uid": pod.uid(), "resourceVersion": pod.resource_version(), "ownerReferences": owners,
        }});
        view.pods.merge(pod, &patch).await?;
    }
    for pod in &plan.release {
        let uid = set.uid();
        let owners: Vec<_> =
            pod.owner_references().iter().filter(|owner| Some(&owner.uid) != uid.as_ref()).collect();
        let patch = json!({ "metadata": {
            "uid": pod.uid(), "resourceVersion": pod.resource_version(), "ownerReferences": owners,
        }});
        view.pods.merge(pod, &patch).await?;
    }
    Ok(())
}

async fn scale(view: &View, set: &ReplicaSet, plan: &Plan) -> Result<(), (&'static str, kube::Error)> {
    let mut creates: FuturesUnordered<_> = (0..plan.create).map(|_| create_pod(view, set)).collect();
    let mut outcome = Ok(());
    while let Some(result) = creates.next().await {
        match result {
            Ok(pod) => {
                let message = format!("Created pod: {}", pod.name_any());
                view.events.normal(set, "SuccessfulCreate", message);
            }
            Err(error) => {
                view.events.warning(set, "FailedCreate", format!("Error creating: {error}"));
                outcome = Err(("FailedCreate", error));
            }
        }
    }
    let mut deletes: FuturesUnordered<_> =
        plan.delete.iter().map(|pod| async move { (pod, view.pods.delete(pod, None).await) }).collect();
    while let Some((pod, result)) = deletes.next().await {
        match result {
            Ok(()) => view.events.normal(set, "SuccessfulDelete", format!("Deleted pod: {}", pod.name_any())),
            Err(error) => {
                view.events.warning(set, "FailedDelete", format!("Error deleting: {error}"));
                outcome = Err(("FailedDelete", error));
            }
        }
    }
    outcome
}

async fn create_pod(view: &View, set: &ReplicaSet) -> Result<Arc<Pod>, kube::Error> {
    let stem = format!("{}-", set.name_any());
    let mut tries = 0;
    loop {
        tries += 1;
        match view.pods.create(&pod_of(set, &stem, naming::generated(&stem))).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() && tries < NAME_TRIES => {}
            answer => return answer,
        }
    }
}

fn pod_of(set: &ReplicaSet, stem: &str, name: String) -> Pod {
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    let mut spec = template.spec.unwrap_or_default();
    // There is one node and nothing to choose, so the scheduler's write is saved.
    spec.node_name.get_or_insert_with(|| NODE_NAME.to_owned());
    Pod {
        metadata: ObjectMeta {
            name: Some(name),
            generate_name: Some(stem.to_owned()),
            namespace: set.namespace(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(set)]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// The reference by which an object says that `owner` controls it.
pub(crate) fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Pure: the status that says how things are, and when it changes by itself.
fn status(
    set: &ReplicaSet,
    owned: &[Arc<Pod>],
    failure: Option<&(&'static str, kube::Error)>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = set.spec.clone().unwrap_or_default();
    let template_labels: BTreeMap<String, String> =
        spec.template.and_then(|template| template.metadata).and_then(|meta| meta.labels).unwrap_or_default();
    let min_ready_seconds = spec.min_ready_seconds.unwrap_or(0);
    let mut counts = ReplicaSetStatus { observed_generation: set.metadata.generation, ..Default::default() };
    let (mut labeled, mut ready, mut available, mut terminating) = (0, 0, 0, 0);
    let mut recheck: Option<Duration> = None;
    for pod in owned {
        if !pod_state::is_active(pod) {
            terminating += i32::from(pod.metadata.deletion_timestamp.is_some() && !pod_state::has_ended(pod));
            continue;
        }
        counts.replicas += 1;
        labeled += i32::from(template_labels.iter().all(|(key, value)| pod.labels().get(key) == Some(value)));
        ready += i32::from(pod_state::is_ready(pod));
        match pod_state::availability(pod, min_ready_seconds, now) {
            Availability::Available => available += 1,
            Availability::In(left) => recheck = Some(recheck.map_or(left, |known| known.min(left))),
            Availability::No => {}
        }
    }
    // Zero is left out where Kubernetes leaves it out.
    let some = |count: i32| (count > 0).then_some(count);
    counts.fully_labeled_replicas = some(labeled);
    counts.ready_replicas = some(ready);
    counts.available_replicas = some(available);
    counts.terminating_replicas = Some(terminating);
    counts.conditions = conditions(set, failure, now);
    (counts, recheck)
}

fn conditions(
    set: &ReplicaSet,
    failure: Option<&(&'static str, kube::Error)>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let known = set.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut conditions: Vec<_> =
        known.iter().filter(|condition| condition.type_ != "ReplicaFailure").cloned().collect();
    if let Some((reason, error)) = failure {
        let before = known.iter().find(|condition| condition.type_ == "ReplicaFailure");
        let since = before.and_then(|condition| condition.last_transition_time.clone());
        conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some((*reason).into()),
            message: Some(error.to_string()),
            last_transition_time: Some(since.unwrap_or_else(|| Time::from(now))),
        });
    }
    (!conditions.is_empty()).then_some(conditions)
}

async fn write_status(view: &View, set: &ReplicaSet, status: ReplicaSetStatus) -> Result<(), kube::Error> {
    // Claiming and scaling do not write the ReplicaSet, so what was read is what the status is about.
    if set.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let updated = ReplicaSet { status: Some(status), ..set.clone() };
    match view.replica_sets.replace_status(&updated).await {
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
        answer => answer.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": { "name": "echo-1", "namespace": "default", "uid": "rs", "generation": 3 },
            "spec": { "replicas": replicas, "minReadySeconds": 10, "selector": { "matchLabels": { "app": "echo" } },
                      "template": { "metadata": { "labels": { "app": "echo" } },
                                    "spec": { "containers": [{ "name": "c" }] } } },
        }))
        .expect("a ReplicaSet")
    }

    /// A pod that became ready at this second; never, if it is negative.
    fn pod(name: &str, owner: Option<&str>, app: &str, ready_at: i64) -> Arc<Pod> {
        let owners = owner.map(|uid| {
            json!([{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "echo-1",
                                              "uid": uid, "controller": true }])
        });
        let ready = if ready_at < 0 { "False" } else { "True" };
        let since = Timestamp::from_second(ready_at.max(0)).expect("a time").to_string();
        let pod = json!({
            "metadata": { "name": name, "namespace": "default", "uid": name, "labels": { "app": app },
                          "ownerReferences": owners },
            "spec": { "nodeName": "weir", "containers": [{ "name": "c" }] },
            "status": { "phase": "Running",
                        "conditions": [{ "type": "Ready", "status": ready, "lastTransitionTime": since }] },
        });
        Arc::new(serde_json::from_value(pod).expect("a Pod"))
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<String> {
        pods.iter().map(|pod| pod.name_any()).collect()
    }

    #[test]
    fn missing_pods_are_made_and_others_are_left_alone() {
        let pods = [pod("mine", Some("rs"), "echo", 0), pod("other", Some("x"), "echo", 0)];
        let plan = plan(&set(3), &pods);
        assert_eq!((plan.create, plan.delete.len(), plan.adopt.len(), plan.release.len()), (2, 0, 0, 0));
    }

    #[test]
    fn orphans_are_adopted_and_strangers_released() {
        let pods =
            [pod("orphan", None, "echo", 0), pod("stranger", Some("rs"), "else", 0), pod("no", None, "x", 0)];
        let plan = plan(&set(1), &pods);
        assert_eq!(
            (names(&plan.adopt), names(&plan.release)),
            (vec!["orphan".into()], vec!["stranger".into()])
        );
        assert_eq!(plan.create, 0);
    }

    #[test]
    fn scaling_down_takes_what_serves_least() {
        let mut cheap = pod("cheap", Some("rs"), "echo", 100).as_ref().clone();
        let cost = ("controller.kubernetes.io/pod-deletion-cost".to_owned(), "-1".to_owned());
        cheap.metadata.annotations = Some([cost].into());
        let mut going = pod("going", Some("rs"), "echo", 100).as_ref().clone();
        going.metadata.deletion_timestamp = Some(Timestamp::UNIX_EPOCH.into());
        let pods = [
            pod("old", Some("rs"), "echo", 100),
            pod("new", Some("rs"), "echo", 900),
            pod("unready", Some("rs"), "echo", -1),
            Arc::new(cheap),
            Arc::new(going),
        ];
        assert_eq!(names(&plan(&set(1), &pods).delete), ["unready", "cheap", "new"]);
    }

    #[test]
    fn a_refused_pod_is_tried_alone() {
        let mut set = set(50);
        let failed = ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            ..Default::default()
        };
        set.status = Some(ReplicaSetStatus { conditions: Some(vec![failed]), ..Default::default() });
        assert_eq!(plan(&set, &[]).create, 1);
    }

    #[test]
    fn a_ready_pod_is_available_after_the_time_asked_and_looked_at_then() {
        let pods = [pod("long", Some("rs"), "echo", 100), pod("just", Some("rs"), "echo", 107)];
        let now = Timestamp::from_second(110).expect("a time");
        let (status, recheck) = status(&set(2), &pods, None, now);
        assert_eq!(
            (status.replicas, status.ready_replicas, status.available_replicas),
            (2, Some(2), Some(1))
        );
        assert_eq!((status.observed_generation, recheck), (Some(3), Some(Duration::from_secs(7))));
    }
}

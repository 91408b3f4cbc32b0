//! Deployments to ReplicaSets.
//!
//! Owns: the ReplicaSets of every Deployment, the revision annotations, and the Deployment's status.
//!
//! Invariants: one pass does what `plan` says for what was read, then writes the status for what is there after it;
//! each write of ours makes the Deployment due again, so a rollout goes on until there is nothing left to do.

mod plan;
mod revision;
mod status;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::core::SelectorExt;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::cache::{ObjectKey, controller_uid};
use super::queue::{Next, Queue};
use super::replica_set::controller_reference;
use super::{PARALLEL, View};
use plan::{Action, Facts};
use status::{CreateFailure, Outcome};

/// Registers with the caches at once; the future works until `shutdown`.
pub(super) fn run(view: View, shutdown: CancellationToken) -> impl Future<Output = ()> {
    let view = View { events: view.events.named("deployment-controller"), ..view };
    let queue = Queue::new();
    let keys = queue.clone();
    view.deployments.observe(move |change| {
        if let Some(deployment) = change.either() {
            keys.add(ObjectKey::of(deployment.as_ref()));
        }
    });
    let (keys, deployments) = (queue.clone(), view.deployments.clone());
    view.replica_sets.observe(move |change| {
        for set in change.sides() {
            let namespace = set.namespace().unwrap_or_default();
            match controller_uid(set.as_ref()) {
                Some(uid) => {
                    let owner = set.owner_references().iter().find(|owner| owner.uid == uid);
                    if let Some(owner) = owner.filter(|owner| owner.kind == "Deployment") {
                        keys.add(ObjectKey::new(namespace, &owner.name));
                    }
                }
                None => {
                    for deployment in deployments.in_namespace(&namespace) {
                        if plan::selector(&deployment).is_some_and(|selector| selector.matches(set.labels()))
                        {
                            keys.add(ObjectKey::of(deployment.as_ref()));
                        }
                    }
                }
            }
        }
    });
    // `Recreate` waits for the end of the old pods.
    let (keys, sets) = (queue.clone(), view.replica_sets.clone());
    view.pods.observe(move |change| {
        let (Some(pod), None) = (change.before, change.after) else { return };
        let namespace = pod.namespace().unwrap_or_default();
        let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
        let set = owner.and_then(|owner| sets.get(&ObjectKey::new(namespace.clone(), &owner.name)));
        let Some(set) = set else { return };
        if let Some(owner) = set.owner_references().iter().find(|owner| owner.controller == Some(true)) {
            keys.add(ObjectKey::new(namespace, &owner.name));
        }
    });
    async move {
        view.deployments.wait_listed(&shutdown).await;
        view.replica_sets.wait_listed(&shutdown).await;
        view.pods.wait_listed(&shutdown).await;
        let work = move |key| reconcile(view.clone(), key);
        queue.work(PARALLEL, shutdown, work).await;
    }
}

async fn reconcile(view: View, key: ObjectKey) -> Result<Next, kube::Error> {
    let Some(mut deployment) = view.deployments.get(&key) else { return Ok(Next::OnChange) };
    if plan::selector(&deployment).is_none() {
        let message = "This deployment is selecting all pods. A non-empty selector is required.";
        view.events.warning(deployment.as_ref(), "SelectingAll", message.into());
        return Ok(Next::OnChange);
    }
    let sets = view.replica_sets.in_namespace(&key.namespace);
    let facts = Facts::gather(&deployment, &sets, |set| pods_of(&view, set));
    let mut outcome = Outcome::default();
    let mut failure = None;
    let actions = plan::plan(&facts);
    let gives = |action: &Action| matches!(action, Action::Adopt(_) | Action::Create { .. });
    if actions.iter().any(gives) && !view.deployments.is_wanted(&deployment).await? {
        return Ok(Next::OnChange);
    }
    for action in actions {
        if let Err(error) = carry_out(&view, &mut deployment, action, &mut outcome).await {
            failure = Some(error);
            break;
        }
    }
    let sets = view.replica_sets.in_namespace(&key.namespace);
    let facts = Facts::gather(&deployment, &sets, |set| pods_of(&view, set));
    let (status, recheck) = status::status(&facts, &outcome, Timestamp::now());
    write_status(&view, &deployment, status).await?;
    match failure {
        Some(error) => Err(error),
        None => Ok(recheck.map_or(Next::OnChange, Next::After)),
    }
}

/// Pods of the set that have not ended, those being deleted included.
fn pods_of(view: &View, set: &ReplicaSet) -> usize {
    let pods = view.pods.controlled_by(set.uid().as_deref().unwrap_or_default());
    pods.iter().filter(|pod| !super::pod_state::has_ended(pod)).count()
}

async fn carry_out(
    view: &View,
    deployment: &mut Arc<Deployment>,
    action: Action,
    outcome: &mut Outcome,
) -> Result<(), kube::Error> {
    match action {
        Action::Adopt(set) => {
            let mut owners = set.owner_references().to_vec();
            owners.push(controller_reference(deployment.as_ref()));
            view.replica_sets.merge(&set, &owners_patch(&set, &owners)).await.map(|_| ())
        }
        Action::Release(set) => {
            let uid = deployment.uid();
            let owners = set.owner_references().iter().filter(|owner| Some(&owner.uid) != uid.as_ref());
            let owners: Vec<_> = owners.cloned().collect();
            view.replica_sets.merge(&set, &owners_patch(&set, &owners)).await.map(|_| ())
        }
        Action::Create(set) => create(view, deployment, &set, outcome).await,
        Action::Scale { set, replicas, annotations } => {
            let before = super::replica_set::desired(&set);
            let patch = json!({
                "metadata": { "resourceVersion": set.resource_version(), "annotations": annotations },
                "spec": { "replicas": replicas },
            });
            view.replica_sets.merge(&set, &patch).await?;
            if replicas != before {
                let direction = if replicas > before { "up" } else { "down" };
                let name = set.name_any();
                let message = format!("Scaled {direction} replica set {name} from {before} to {replicas}");
                view.events.normal(deployment.as_ref(), "ScalingReplicaSet", message);
            }
            Ok(())
        }
        Action::Annotate { set, annotations, min_ready_seconds } => {
            let patch = json!({
                "metadata": { "resourceVersion": set.resource_version(), "annotations": annotations },
                "spec": { "minReadySeconds": min_ready_seconds },
            });
            view.replica_sets.merge(&set, &patch).await.map(|_| ())
        }
        Action::Delete(set) => view.replica_sets.delete(&set, None).await,
        Action::SetRevision(revision) => {
            let patch = json!({ "metadata": {
                "resourceVersion": deployment.resource_version(),
                "annotations": { revision::REVISION: revision },
            }});
            *deployment = view.deployments.merge(deployment, &patch).await?;
            Ok(())
        }
    }
}

fn owners_patch(
    set: &ReplicaSet,
    owners: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference],
) -> serde_json::Value {
    json!({ "metadata": {
        "uid": set.uid(), "resourceVersion": set.resource_version(), "ownerReferences": owners,
    }})
}

async fn create(
    view: &View,
    deployment: &Deployment,
    set: &ReplicaSet,
    outcome: &mut Outcome,
) -> Result<(), kube::Error> {
    match view.replica_sets.create(set).await {
        Ok(made) => {
            outcome.created = Some(made.name_any());
            let replicas = super::replica_set::desired(&made);
            if replicas > 0 {
                let message = format!("Scaled up replica set {} from 0 to {replicas}", made.name_any());
                view.events.normal(deployment, "ScalingReplicaSet", message);
            }
            Ok(())
        }
        Err(kube::Error::Api(answer)) if answer.is_already_exists() => {
            // Ours already, and the cache is behind; or the hash collides with another template's.
            let found = view.replica_sets.read(&ObjectKey::of(set)).await?;
            let ours = found.is_some_and(|found| {
                controller_uid(found.as_ref()) == deployment.metadata.uid.as_deref()
                    && plan::same_template(deployment, &found)
            });
            outcome.collided = !ours;
            Ok(())
        }
        Err(error) => {
            let name = set.name_any();
            let message = format!("Failed to create new replica set {name:?}: {error}");
            view.events.warning(deployment, "ReplicaSetCreateError", message.clone());
            outcome.create_failure = Some(CreateFailure { message });
            Err(error)
        }
    }
}

async fn write_status(
    view: &View,
    deployment: &Deployment,
    status: DeploymentStatus,
) -> Result<(), kube::Error> {
    if deployment.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let updated = Deployment { status: Some(status), ..deployment.clone() };
    match view.deployments.replace_status(&updated).await {
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
        answer => answer.map(|_| ()),
    }
}

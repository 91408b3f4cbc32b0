//! A Deployment's status: counts and the conditions that `kubectl rollout status` and `kubectl wait` read. Pure.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::super::replica_set::desired;
use super::plan::Facts;

/// What a pass did that the status must tell.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The name of the ReplicaSet made in this pass.
    pub(super) created: Option<String>,
    /// The name made from the template's hash belongs to another template.
    pub(super) collided: bool,
    pub(super) create_failure: Option<CreateFailure>,
}

#[derive(Debug)]
pub(super) struct CreateFailure {
    pub(super) message: String,
}

/// The status, and when it changes though nothing else does (the progress deadline).
pub(super) fn status(
    facts: &Facts<'_>,
    outcome: &Outcome,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let before = facts.deployment.status.clone().unwrap_or_default();
    let sum = |count: fn(&ReplicaSetStatus) -> i32| -> i32 {
        facts.all().filter_map(|set| set.status.as_ref()).map(count).sum()
    };
    let some = |count: i32| (count > 0).then_some(count);
    let available = sum(|status| status.available_replicas.unwrap_or(0));
    let wanted: i32 = facts.all().map(|set| desired(set)).sum();
    let updated =
        facts.newest.as_ref().and_then(|set| set.status.as_ref()).map_or(0, |status| status.replicas);
    let mut status = DeploymentStatus {
        observed_generation: facts.deployment.metadata.generation,
        replicas: some(sum(|status| status.replicas)),
        updated_replicas: some(updated),
        ready_replicas: some(sum(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some(wanted - available),
        terminating_replicas: Some(sum(|status| status.terminating_replicas.unwrap_or(0))),
        collision_count: before.collision_count,
        conditions: None,
    };
    if outcome.collided {
        status.collision_count = Some(before.collision_count.unwrap_or(0) + 1);
    }
    let mut conditions = Conditions { list: before.conditions.clone().unwrap_or_default(), now };
    set_available(facts, available, &mut conditions);
    let recheck = set_progressing(facts, outcome, &before, &status, &mut conditions);
    set_failure(facts, outcome, &mut conditions);
    status.conditions = (!conditions.list.is_empty()).then_some(conditions.list);
    (status, recheck)
}

struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn get(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|condition| condition.type_ == kind)
    }

    /// Kubernetes' rule: the same status and reason is no change at all.
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let known = self.get(kind);
        if known.is_some_and(|known| known.status == status && known.reason.as_deref() == Some(reason)) {
            return;
        }
        self.put(kind, status, reason, message);
    }

    /// Also renews the time of the last update, from which the progress deadline counts.
    fn put(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let since = self.get(kind).filter(|known| known.status == status);
        let since = since.and_then(|known| known.last_transition_time.clone());
        let condition = DeploymentCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_update_time: Some(Time::from(self.now)),
            last_transition_time: Some(since.unwrap_or_else(|| Time::from(self.now))),
        };
        match self.list.iter_mut().find(|known| known.type_ == kind) {
            Some(known) => *known = condition,
            None => self.list.push(condition),
        }
    }

    fn remove(&mut self, kind: &str) {
        self.list.retain(|condition| condition.type_ != kind);
    }
}

fn set_available(facts: &Facts<'_>, available: i32, conditions: &mut Conditions) {
    if available >= facts.replicas - facts.max_unavailable {
        let message = "Deployment has minimum availability.".to_owned();
        conditions.set("Available", "True", "MinimumReplicasAvailable", message);
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        conditions.set("Available", "False", "MinimumReplicasUnavailable", message);
    }
}

fn set_progressing(
    facts: &Facts<'_>,
    outcome: &Outcome,
    before: &DeploymentStatus,
    status: &DeploymentStatus,
    conditions: &mut Conditions,
) -> Option<Duration> {
    let deadline =
        facts.deployment.spec.as_ref().and_then(|spec| spec.progress_deadline_seconds).unwrap_or(600);
    if deadline == i32::MAX {
        conditions.remove("Progressing");
        return None;
    }
    let known = conditions.get("Progressing").cloned();
    let reason = known.as_ref().and_then(|known| known.reason.clone()).unwrap_or_default();
    if facts.paused() {
        // A deadline that has passed stays passed, as in Kubernetes.
        if reason != "ProgressDeadlineExceeded" {
            conditions.set("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused".into());
        }
        return None;
    }
    if reason == "DeploymentPaused" {
        conditions.set("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed".into());
    }
    if let Some(name) = &outcome.created {
        let message = format!("Created new replica set {name:?}");
        conditions.put("Progressing", "True", "NewReplicaSetCreated", message);
    } else if known.is_none()
        && let Some(newest) = &facts.newest
    {
        let message = format!("Found new replica set {:?}", newest.name_any());
        conditions.set("Progressing", "True", "FoundNewReplicaSet", message);
    }
    let settled = status.replicas == status.updated_replicas && reason == "NewReplicaSetAvailable";
    if settled && outcome.created.is_none() {
        return None;
    }
    let subject = facts.newest.as_ref().map_or_else(
        || format!("Deployment {:?}", facts.deployment.name_any()),
        |set| format!("ReplicaSet {:?}", set.name_any()),
    );
    if is_complete(facts, status) {
        let message = format!("{subject} has successfully progressed.");
        conditions.set("Progressing", "True", "NewReplicaSetAvailable", message);
        return None;
    }
    if outcome.create_failure.is_none() && progressed(before, status) {
        let message = format!("{subject} is progressing.");
        conditions.put("Progressing", "True", "ReplicaSetUpdated", message);
    }
    time_out(deadline, &subject, conditions)
}

/// Sets the condition when the deadline has passed, or says how long is left.
fn time_out(deadline_seconds: i32, subject: &str, conditions: &mut Conditions) -> Option<Duration> {
    let known = conditions.get("Progressing")?;
    if matches!(known.reason.as_deref(), Some("NewReplicaSetAvailable" | "ProgressDeadlineExceeded")) {
        return None;
    }
    let since = known.last_update_time.as_ref()?.0;
    let waited = Duration::try_from(conditions.now.duration_since(since)).unwrap_or_default();
    let deadline = Duration::from_secs(u64::from(deadline_seconds.unsigned_abs()));
    if waited < deadline {
        // Times are kept in whole seconds, so look again just after the second in which it passes.
        return Some(deadline - waited + Duration::from_secs(1));
    }
    let message = format!("{subject} has timed out progressing.");
    conditions.set("Progressing", "False", "ProgressDeadlineExceeded", message);
    None
}

fn is_complete(facts: &Facts<'_>, status: &DeploymentStatus) -> bool {
    facts.newest.is_some()
        && status.updated_replicas.unwrap_or(0) == facts.replicas
        && status.replicas.unwrap_or(0) == facts.replicas
        && status.available_replicas.unwrap_or(0) == facts.replicas
}

fn progressed(before: &DeploymentStatus, now: &DeploymentStatus) -> bool {
    let old = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    now.updated_replicas > before.updated_replicas
        || old(now) < old(before)
        || now.ready_replicas > before.ready_replicas
        || now.available_replicas > before.available_replicas
}

fn set_failure(facts: &Facts<'_>, outcome: &Outcome, conditions: &mut Conditions) {
    if let Some(failure) = &outcome.create_failure {
        conditions.set("ReplicaFailure", "True", "ReplicaSetCreateError", failure.message.clone());
        return;
    }
    let failed = facts.newest.as_ref().and_then(|set| set.status.as_ref()).and_then(|status| {
        status.conditions.as_ref()?.iter().find(|condition| condition.type_ == "ReplicaFailure").cloned()
    });
    match failed {
        Some(failed) => conditions.set(
            "ReplicaFailure",
            &failed.status,
            failed.reason.as_deref().unwrap_or_default(),
            failed.message.unwrap_or_default(),
        ),
        None => conditions.remove("ReplicaFailure"),
    }
}

//! The annotations by which a Deployment and its ReplicaSets tell revisions and sizes (`kubectl rollout history`).

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::ResourceExt;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// A Deployment's annotations that say something about itself and are not copied to its ReplicaSets.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
];
/// Longest history kept in the annotation. Unit: bytes. Source: Kubernetes.
const LONGEST_HISTORY: usize = 2000;

/// The revision of a ReplicaSet; 0 before it has one.
pub(super) fn of(set: &ReplicaSet) -> i64 {
    set.annotations().get(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The annotations that say how large the whole Deployment is to be.
pub(super) fn sizes(replicas: i32, max_surge: i32) -> BTreeMap<String, String> {
    BTreeMap::from([
        (DESIRED_REPLICAS.to_owned(), replicas.to_string()),
        (MAX_REPLICAS.to_owned(), replicas.saturating_add(max_surge).to_string()),
    ])
}

/// What the newest ReplicaSet's annotations lack. Empty when it is all there.
pub(super) fn missing(deployment: &Deployment, set: &ReplicaSet, newest: i64) -> BTreeMap<String, String> {
    let mut missing = inherited(deployment);
    missing.retain(|key, value| set.annotations().get(key) != Some(value));
    let known = of(set);
    if known < newest {
        missing.insert(REVISION.to_owned(), newest.to_string());
        if known > 0 {
            missing.insert(REVISION_HISTORY.to_owned(), history(set, known));
        }
    }
    missing
}

/// The Deployment's annotations that its ReplicaSets carry too.
pub(super) fn inherited(deployment: &Deployment) -> BTreeMap<String, String> {
    let annotations = deployment.annotations().iter();
    annotations
        .filter(|(key, _)| !OWN.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn history(set: &ReplicaSet, known: i64) -> String {
    let before = set.annotations().get(REVISION_HISTORY).map_or("", String::as_str);
    let mut revisions: Vec<&str> = before.split(',').filter(|text| !text.is_empty()).collect();
    let known = known.to_string();
    revisions.push(&known);
    while revisions.len() > 1 && revisions.iter().map(|text| text.len() + 1).sum::<usize>() > LONGEST_HISTORY
    {
        revisions.remove(0);
    }
    revisions.join(",")
}

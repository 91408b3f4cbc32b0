//! What to do next for a Deployment. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};

use super::super::cache::controller_uid;
use super::super::naming;
use super::super::replica_set::{controller_reference, desired};
use super::revision;

/// The label that tells the ReplicaSets of one Deployment apart.
pub(super) const TEMPLATE_HASH: &str = "pod-template-hash";

/// One write.
#[derive(Debug)]
pub(super) enum Action {
    Adopt(Arc<ReplicaSet>),
    Release(Arc<ReplicaSet>),
    Create(Box<ReplicaSet>),
    Scale { set: Arc<ReplicaSet>, replicas: i32, annotations: BTreeMap<String, String> },
    Annotate { set: Arc<ReplicaSet>, annotations: BTreeMap<String, String>, min_ready_seconds: Option<i32> },
    Delete(Arc<ReplicaSet>),
    SetRevision(String),
}

/// What was read about one Deployment.
pub(super) struct Facts<'a> {
    pub(super) deployment: &'a Deployment,
    adopt: Vec<Arc<ReplicaSet>>,
    release: Vec<Arc<ReplicaSet>>,
    /// The one with the Deployment's template.
    pub(super) newest: Option<Arc<ReplicaSet>>,
    /// The others, oldest first.
    pub(super) old: Vec<Arc<ReplicaSet>>,
    /// Pods of old ReplicaSets that have not ended.
    old_pods: usize,
    pub(super) replicas: i32,
    max_surge: i32,
    pub(super) max_unavailable: i32,
    recreate: bool,
}

impl<'a> Facts<'a> {
    /// `sets` are all of the namespace; `pods_of` counts a set's pods that have not ended.
    pub(super) fn gather(
        deployment: &'a Deployment,
        sets: &[Arc<ReplicaSet>],
        pods_of: impl Fn(&ReplicaSet) -> usize,
    ) -> Self {
        let selector = selector(deployment);
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let (mut adopt, mut release, mut owned) = (Vec::new(), Vec::new(), Vec::new());
        for set in sets {
            let selected = selector.as_ref().is_some_and(|selector| selector.matches(set.labels()));
            let going = set.metadata.deletion_timestamp.is_some();
            match controller_uid(set.as_ref()) {
                Some(owner) if owner == uid && selected => owned.push(set.clone()),
                Some(owner) if owner == uid && !going => release.push(set.clone()),
                None if selected && !going => adopt.push(set.clone()),
                _ => {}
            }
        }
        owned.sort_by(|left, right| age(left).cmp(&age(right)));
        let newest = owned.iter().position(|set| same_template(deployment, set));
        let newest = newest.map(|index| owned.remove(index));
        let old_pods = owned.iter().map(|set| pods_of(set)).sum();
        let spec = deployment.spec.clone().unwrap_or_default();
        let replicas = spec.replicas.unwrap_or(1).max(0);
        let strategy = spec.strategy.unwrap_or_default();
        let recreate = strategy.type_.as_deref() == Some("Recreate");
        let rolling = strategy.rolling_update.unwrap_or_default();
        let (max_surge, max_unavailable) = if recreate {
            (0, 0)
        } else {
            bounds(rolling.max_surge.as_ref(), rolling.max_unavailable.as_ref(), replicas)
        };
        Self {
            deployment,
            adopt,
            release,
            newest,
            old: owned,
            old_pods,
            replicas,
            max_surge,
            max_unavailable,
            recreate,
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.newest)
    }

    fn total(&self) -> i32 {
        self.all().map(|set| desired(set)).sum()
    }

    pub(super) fn paused(&self) -> bool {
        self.deployment.spec.as_ref().is_some_and(|spec| spec.paused == Some(true))
    }

    fn scale(&self, set: &Arc<ReplicaSet>, replicas: i32) -> Option<Action> {
        let mut annotations = revision::sizes(self.replicas, self.max_surge);
        annotations.retain(|key, value| set.annotations().get(key) != Some(value));
        if replicas == desired(set) && annotations.is_empty() {
            return None;
        }
        Some(Action::Scale { set: set.clone(), replicas, annotations })
    }
}

fn age(set: &ReplicaSet) -> (Option<k8s_openapi::jiff::Timestamp>, Option<&str>) {
    (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.metadata.name.as_deref())
}

/// None for a selector that selects everything or does not parse.
pub(super) fn selector(deployment: &Deployment) -> Option<Selector> {
    let selector = Selector::try_from(deployment.spec.as_ref()?.selector.clone()).ok()?;
    (!selector.selects_all()).then_some(selector)
}

/// Whether the set was made from the Deployment's present template.
pub(super) fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let wanted = deployment.spec.as_ref().map(|spec| without_hash(&spec.template));
    let there = set.spec.as_ref().and_then(|spec| spec.template.as_ref()).map(without_hash);
    wanted == there
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(TEMPLATE_HASH);
    }
    if let Some(meta) = template.metadata.as_mut() {
        meta.labels.take_if(|labels| labels.is_empty());
        meta.annotations.take_if(|annotations| annotations.is_empty());
    }
    template.metadata.take_if(|meta| *meta == ObjectMeta::default());
    template
}

/// maxSurge rounded up and maxUnavailable rounded down; both at once must not be zero.
fn bounds(surge: Option<&IntOrString>, unavailable: Option<&IntOrString>, replicas: i32) -> (i32, i32) {
    let part = |value: Option<&IntOrString>, round_up: bool| match value {
        Some(IntOrString::Int(number)) => (*number).max(0),
        Some(IntOrString::String(text)) => percent(text, replicas, round_up),
        None => percent("25%", replicas, round_up),
    };
    match (part(surge, true), part(unavailable, false)) {
        (0, 0) => (0, 1),
        (surge, unavailable) => (surge, unavailable.min(replicas)),
    }
}

fn percent(text: &str, of: i32, round_up: bool) -> i32 {
    let Some(percent) = text.strip_suffix('%').and_then(|number| number.parse::<i64>().ok()) else {
        return 0;
    };
    let product = percent.max(0) * i64::from(of);
    let value = if round_up { (product + 99) / 100 } else { product / 100 };
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// Pure: the writes of this pass, in order.
pub(super) fn plan(facts: &Facts<'_>) -> Vec<Action> {
    if facts.deployment.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let mut actions: Vec<Action> = facts.adopt.iter().cloned().map(Action::Adopt).collect();
    actions.extend(facts.release.iter().cloned().map(Action::Release));
    // What is adopted counts from the next pass on.
    if !facts.adopt.is_empty() {
        return actions;
    }
    annotate_newest(facts, &mut actions);
    if facts.paused() {
        scale_all(facts, &mut actions);
        clean_up(facts, &mut actions);
    } else if is_scaling(facts) {
        scale_all(facts, &mut actions);
    } else if facts.recreate {
        recreate(facts, &mut actions);
    } else {
        roll(facts, &mut actions);
    }
    if !facts.paused() && is_complete(facts) {
        clean_up(facts, &mut actions);
    }
    actions
}

fn newest_revision(facts: &Facts<'_>) -> i64 {
    facts.old.iter().map(|set| revision::of(set)).max().unwrap_or(0) + 1
}

fn annotate_newest(facts: &Facts<'_>, actions: &mut Vec<Action>) {
    let Some(newest) = &facts.newest else { return };
    let number = newest_revision(facts).max(revision::of(newest));
    let annotations = revision::missing(facts.deployment, newest, number);
    let wanted = facts.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
    let known = newest.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
    if !annotations.is_empty() || wanted.unwrap_or(0) != known.unwrap_or(0) {
        actions.push(Action::Annotate { set: newest.clone(), annotations, min_ready_seconds: wanted });
    }
    let number = number.to_string();
    if facts.deployment.annotations().get(revision::REVISION) != Some(&number) {
        actions.push(Action::SetRevision(number));
    }
}

/// Whether the Deployment's size changed since its active ReplicaSets were last sized.
fn is_scaling(facts: &Facts<'_>) -> bool {
    facts.all().filter(|set| desired(set) > 0).any(|set| {
        let known = set.annotations().get(revision::DESIRED_REPLICAS);
        known.is_some_and(|known| known.parse() != Ok(facts.replicas))
    })
}

/// Spreads the Deployment's size over its ReplicaSets without a step of a rollout.
fn scale_all(facts: &Facts<'_>, actions: &mut Vec<Action>) {
    let active: Vec<_> = facts.all().filter(|set| desired(set) > 0).collect();
    let only = match active.as_slice() {
        [] => facts.newest.as_ref().or(facts.old.last()),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(only) = only {
        actions.extend(facts.scale(only, facts.replicas));
    } else if facts.newest.as_ref().is_some_and(|set| is_saturated(facts, set)) {
        actions.extend(facts.old.iter().filter(|set| desired(set) > 0).filter_map(|set| facts.scale(set, 0)));
    } else if !facts.recreate {
        scale_in_proportion(facts, &active, actions);
    }
}

fn is_saturated(facts: &Facts<'_>, set: &ReplicaSet) -> bool {
    let known = set.annotations().get(revision::DESIRED_REPLICAS);
    known.is_some_and(|known| known.parse() == Ok(facts.replicas))
        && desired(set) == facts.replicas
        && available(set) == facts.replicas
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

fn scale_in_proportion(facts: &Facts<'_>, active: &[&Arc<ReplicaSet>], actions: &mut Vec<Action>) {
    let allowed = if facts.replicas > 0 { facts.replicas + facts.max_surge } else { 0 };
    let to_add = allowed - facts.total();
    // Larger first; among equals the newer gains first and the older loses first.
    let mut sets: Vec<_> = active.to_vec();
    sets.sort_by(|left, right| {
        let by_age = if to_add > 0 { age(right).cmp(&age(left)) } else { age(left).cmp(&age(right)) };
        desired(right).cmp(&desired(left)).then(by_age)
    });
    let mut sizes = Vec::with_capacity(sets.len());
    let mut added = 0;
    for set in &sets {
        let share = if to_add == 0 { 0 } else { proportion(facts, set, to_add, added) };
        sizes.push(desired(set) + share);
        added += share;
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    actions.extend(sets.iter().zip(sizes).filter_map(|(set, size)| facts.scale(set, size)));
}

fn proportion(facts: &Facts<'_>, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    let size = desired(set);
    if facts.replicas == 0 {
        return -size;
    }
    let before = set.annotations().get(revision::MAX_REPLICAS).and_then(|text| text.parse::<i64>().ok());
    let status = facts.deployment.status.as_ref().and_then(|status| status.replicas).map(i64::from);
    let before = before.filter(|count| *count > 0).or(status).filter(|count| *count > 0);
    let Some(before) = before else { return 0 };
    let after = i64::from(facts.replicas + facts.max_surge);
    let scaled = (i64::from(size) * after * 2 + before) / (before * 2);
    let fraction = i32::try_from(scaled).unwrap_or(i32::MAX) - size;
    if to_add > 0 { fraction.min(to_add - added) } else { fraction.max(to_add - added) }
}

fn recreate(facts: &Facts<'_>, actions: &mut Vec<Action>) {
    let active: Vec<_> = facts.old.iter().filter(|set| desired(set) > 0).collect();
    if !active.is_empty() {
        actions.extend(active.into_iter().filter_map(|set| facts.scale(set, 0)));
        return;
    }
    if facts.old_pods > 0 {
        return;
    }
    match &facts.newest {
        None => create(facts, facts.replicas, actions),
        Some(newest) => actions.extend(facts.scale(newest, facts.replicas)),
    }
}

fn roll(facts: &Facts<'_>, actions: &mut Vec<Action>) {
    let Some(newest) = &facts.newest else {
        let room = facts.replicas + facts.max_surge - facts.total();
        create(facts, room.clamp(0, facts.replicas), actions);
        return;
    };
    let size = desired(newest);
    let wanted = if size >= facts.replicas {
        facts.replicas
    } else {
        let room = (facts.replicas + facts.max_surge - facts.total()).max(0);
        size + room.min(facts.replicas - size)
    };
    if wanted != size {
        actions.extend(facts.scale(newest, wanted));
        return;
    }
    shrink_old(facts, newest, actions);
}

/// Scales old ReplicaSets down as far as availability allows, those that serve nothing first.
fn shrink_old(facts: &Facts<'_>, newest: &ReplicaSet, actions: &mut Vec<Action>) {
    if facts.old.iter().all(|set| desired(set) == 0) {
        return;
    }
    let min_available = facts.replicas - facts.max_unavailable;
    let newest_unavailable = (desired(newest) - available(newest)).max(0);
    let mut removable = facts.total() - min_available - newest_unavailable;
    if removable <= 0 {
        return;
    }
    let mut sizes: Vec<i32> = facts.old.iter().map(|set| desired(set)).collect();
    for (set, size) in facts.old.iter().zip(&mut sizes) {
        let unhealthy = (*size - available(set)).clamp(0, removable.max(0));
        *size -= unhealthy;
        removable -= unhealthy;
    }
    let mut spare = facts.all().map(|set| available(set)).sum::<i32>() - min_available;
    for size in &mut sizes {
        let fewer = (*size).min(spare.min(removable)).max(0);
        *size -= fewer;
        spare -= fewer;
        removable -= fewer;
    }
    let changed = facts.old.iter().zip(sizes).filter(|(set, size)| desired(set) != *size);
    actions.extend(changed.filter_map(|(set, size)| facts.scale(set, size)));
}

fn create(facts: &Facts<'_>, replicas: i32, actions: &mut Vec<Action>) {
    let deployment = facts.deployment;
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = naming::template_hash(&spec.template, collisions);
    let mut template = spec.template;
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().insert(TEMPLATE_HASH.to_owned(), hash.clone());
    let labels = meta.labels.clone();
    let mut selector: LabelSelector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(TEMPLATE_HASH.to_owned(), hash.clone());
    let number = newest_revision(facts).to_string();
    let mut annotations = revision::inherited(deployment);
    annotations.extend(revision::sizes(facts.replicas, facts.max_surge));
    annotations.insert(revision::REVISION.to_owned(), number.clone());
    let set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    actions.push(Action::Create(Box::new(set)));
    if deployment.annotations().get(revision::REVISION) != Some(&number) {
        actions.push(Action::SetRevision(number));
    }
}

fn is_complete(facts: &Facts<'_>) -> bool {
    let Some(status) = &facts.deployment.status else { return false };
    facts.newest.is_some()
        && status.updated_replicas.unwrap_or(0) == facts.replicas
        && status.replicas.unwrap_or(0) == facts.replicas
        && status.available_replicas.unwrap_or(0) == facts.replicas
        && status.observed_generation >= facts.deployment.metadata.generation
}

/// Deletes the oldest ReplicaSets over the history limit.
fn clean_up(facts: &Facts<'_>, actions: &mut Vec<Action>) {
    let limit = facts.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
    let surplus = facts.old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    let mut oldest: Vec<_> =
        facts.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
    oldest.sort_by_key(|set| revision::of(set));
    let idle = oldest.into_iter().take(surplus).filter(|set| {
        let status = set.status.as_ref();
        desired(set) == 0
            && status.is_none_or(|status| status.replicas == 0)
            && status.and_then(|status| status.observed_generation) >= set.metadata.generation
    });
    actions.extend(idle.cloned().map(Action::Delete));
}

//! Rollouts step by step, with ReplicaSets and pods played by the test.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::super::replica_set::desired;
use super::plan::{Action, Facts, plan};
use super::revision;
use super::status::{Outcome, status};

/// A Deployment with its ReplicaSets, whose pods become ready when the test says so.
struct World {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    now: Timestamp,
    made: usize,
    outcome: Outcome,
}

impl World {
    fn new(spec: Value) -> Self {
        let mut value = json!({
            "metadata": { "name": "echo", "namespace": "default", "uid": "d", "generation": 1 },
            "spec": { "selector": { "matchLabels": { "app": "echo" } },
                      "template": { "metadata": { "labels": { "app": "echo" } },
                                    "spec": { "containers": [{ "name": "c", "image": "a" }] } } },
        });
        for (key, part) in spec.as_object().expect("a map") {
            value["spec"][key] = part.clone();
        }
        let deployment = serde_json::from_value(value).expect("a Deployment");
        let now = Timestamp::from_second(1_000_000).expect("a time");
        Self { deployment, sets: Vec::new(), now, made: 0, outcome: Outcome::default() }
    }

    fn facts(&self) -> Facts<'_> {
        Facts::gather(&self.deployment, &self.sets, |set| {
            set.status.as_ref().map_or(0, |status| usize::try_from(status.replicas).expect("positive"))
        })
    }

    /// One pass; returns how many writes it asked for.
    fn pass(&mut self) -> usize {
        let actions = plan(&self.facts());
        let count = actions.len();
        self.outcome = Outcome::default();
        for action in actions {
            self.carry_out(action);
        }
        let (status, _) = status(&self.facts(), &self.outcome, self.now);
        self.deployment.status = Some(status);
        count
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Create(set) => {
                let mut set = *set;
                self.made += 1;
                set.metadata.uid = Some(format!("rs-{}", self.made));
                let born = self.now + SignedDuration::from_secs(i64::try_from(self.made).expect("small"));
                set.metadata.creation_timestamp = Some(born.into());
                self.outcome.created = Some(set.name_any());
                self.sets.push(Arc::new(set));
            }
            Action::Scale { set, replicas, annotations } => self.change(&set, |set| {
                set.spec.as_mut().expect("has one").replicas = Some(replicas);
                set.metadata.annotations.get_or_insert_default().extend(annotations.clone());
            }),
            Action::Annotate { set, annotations, min_ready_seconds } => self.change(&set, |set| {
                set.spec.as_mut().expect("has one").min_ready_seconds = min_ready_seconds;
                set.metadata.annotations.get_or_insert_default().extend(annotations.clone());
            }),
            Action::Delete(set) => self.sets.retain(|known| known.metadata.uid != set.metadata.uid),
            Action::SetRevision(number) => {
                let annotations = self.deployment.metadata.annotations.get_or_insert_default();
                annotations.insert(revision::REVISION.to_owned(), number);
            }
            Action::Adopt(set) => self.change(&set, |set| {
                let owner =
                    OwnerReference { uid: "d".into(), controller: Some(true), ..OwnerReference::default() };
                set.metadata.owner_references = Some(vec![owner]);
            }),
            Action::Release(set) => self.change(&set, |set| set.metadata.owner_references = None),
        }
    }

    fn change(&mut self, set: &ReplicaSet, change: impl Fn(&mut ReplicaSet)) {
        let place = self.sets.iter_mut().find(|known| known.metadata.name == set.metadata.name);
        change(Arc::make_mut(place.expect("is there")));
    }

    /// The pods of every set become what was asked, all of them ready.
    fn settle_pods(&mut self) {
        for set in &mut self.sets {
            let set = Arc::make_mut(set);
            let count = desired(set);
            set.status = Some(ReplicaSetStatus {
                replicas: count,
                ready_replicas: Some(count),
                available_replicas: Some(count),
                ..ReplicaSetStatus::default()
            });
        }
    }

    /// Passes and pods until neither has anything to do. `check` looks at every state in between.
    fn run(&mut self, check: impl Fn(&World)) {
        for _ in 0..200 {
            let writes = self.pass();
            check(self);
            if writes == 0 {
                let before = self.sets.clone();
                self.settle_pods();
                if before == self.sets && self.pass() == 0 {
                    return;
                }
            }
        }
        panic!("no end in sight: {:#?}", self.sets);
    }

    fn set_image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().expect("has one");
        spec.template.spec.as_mut().expect("has one").containers[0].image = Some(image.to_owned());
        *self.deployment.metadata.generation.as_mut().expect("has one") += 1;
    }

    fn set_replicas(&mut self, count: i32) {
        self.deployment.spec.as_mut().expect("has one").replicas = Some(count);
        *self.deployment.metadata.generation.as_mut().expect("has one") += 1;
    }

    fn set_paused(&mut self, paused: bool) {
        self.deployment.spec.as_mut().expect("has one").paused = Some(paused);
    }

    /// Sizes by image.
    fn sizes(&self) -> Vec<(String, i32)> {
        let image = |set: &ReplicaSet| {
            let template = set.spec.as_ref()?.template.as_ref()?;
            template.spec.as_ref()?.containers[0].image.clone()
        };
        let mut sizes: Vec<_> =
            self.sets.iter().map(|set| (image(set).expect("an image"), desired(set))).collect();
        sizes.sort();
        sizes
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(|set| desired(set)).sum()
    }

    fn available(&self) -> i32 {
        let counts = self.sets.iter().filter_map(|set| {
            set.status.as_ref()?.available_replicas.map(|count| {
                // Scaled down sets lose their pods at once.
                count.min(desired(set))
            })
        });
        counts.sum()
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let conditions = self.deployment.status.as_ref().and_then(|status| status.conditions.as_ref());
        let found =
            conditions.into_iter().flatten().find(|condition| condition.type_ == kind).expect("is there");
        (found.status.clone(), found.reason.clone().unwrap_or_default())
    }

    fn number(&self) -> &str {
        &self.deployment.annotations()[revision::REVISION]
    }
}

fn sizes(expected: &[(&str, i32)]) -> Vec<(String, i32)> {
    expected.iter().map(|(image, count)| ((*image).to_owned(), *count)).collect()
}

#[test]
fn a_new_deployment_is_one_set_of_its_size() {
    let mut world = World::new(json!({ "replicas": 3 }));
    world.pass();
    assert_eq!(world.sizes(), sizes(&[("a", 3)]));
    assert_eq!(world.condition("Progressing"), ("True".into(), "NewReplicaSetCreated".into()));
    assert_eq!(world.condition("Available"), ("False".into(), "MinimumReplicasUnavailable".into()));
    world.run(|_| {});
    assert_eq!(world.condition("Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
    assert_eq!(world.condition("Available"), ("True".into(), "MinimumReplicasAvailable".into()));
    let set = &world.sets[0];
    let hash = &set.labels()["pod-template-hash"];
    assert_eq!(set.name_any(), format!("echo-{hash}"));
    let spec = set.spec.as_ref().expect("has one");
    assert_eq!(
        spec.selector.match_labels.as_ref().and_then(|labels| labels.get("pod-template-hash")),
        Some(hash)
    );
}

#[test]
fn a_rolling_update_keeps_its_bounds_at_every_step() {
    for (surge, unavailable, replicas) in [
        (json!(1), json!(0), 5),
        (json!(0), json!(1), 5),
        (json!("25%"), json!("25%"), 10),
        (json!("100%"), json!("100%"), 4),
        (json!(0), json!(0), 3),
        (json!("25%"), json!("25%"), 1),
    ] {
        let rolling = json!({ "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } });
        let mut world = World::new(json!({ "replicas": replicas, "strategy": rolling }));
        world.run(|_| {});
        let facts = world.facts();
        let (most, least) = match (&surge, &unavailable) {
            (surge, _) if *surge == json!(1) => (6, 5),
            (_, unavailable) if *unavailable == json!(1) => (5, 4),
            _ if replicas == 10 => (13, 8),
            _ if replicas == 4 => (8, 0),
            _ if replicas == 3 => (3, 2),
            _ => (2, 1),
        };
        assert_eq!(facts.replicas - facts.max_unavailable, least, "{surge} {unavailable}");
        world.set_image("b");
        world.run(|world| {
            assert!(world.total() <= most, "{surge} {unavailable}: {:?}", world.sizes());
            assert!(world.available() >= least, "{surge} {unavailable}: {:?}", world.sizes());
        });
        assert_eq!(world.sizes(), sizes(&[("a", 0), ("b", replicas)]));
        assert_eq!(world.number(), "2");
    }
}

#[test]
fn a_rollout_that_does_not_become_ready_stops_at_its_bounds_and_times_out() {
    let mut world = World::new(json!({ "replicas": 4, "progressDeadlineSeconds": 60 }));
    world.run(|_| {});
    world.set_image("broken");
    while world.pass() > 0 {}
    // One more than asked, one fewer available: 25% of four each.
    assert_eq!(world.sizes(), sizes(&[("a", 3), ("broken", 2)]));
    world.now += SignedDuration::from_secs(59);
    world.pass();
    assert_eq!(world.condition("Progressing").0, "True");
    world.now += SignedDuration::from_secs(2);
    world.pass();
    assert_eq!(world.condition("Progressing"), ("False".into(), "ProgressDeadlineExceeded".into()));
    // Undone, the old set fills up again and the broken one goes.
    world.set_image("a");
    world.run(|_| {});
    assert_eq!(world.sizes(), sizes(&[("a", 4), ("broken", 0)]));
    assert_eq!((world.number(), world.condition("Progressing").1.as_str()), ("3", "NewReplicaSetAvailable"));
}

#[test]
fn recreate_ends_the_old_pods_before_the_first_new_one() {
    let mut world = World::new(json!({ "replicas": 3, "strategy": { "type": "Recreate" } }));
    world.run(|_| {});
    world.set_image("b");
    world.pass();
    assert_eq!(world.sizes(), sizes(&[("a", 0)]));
    // Their pods are still there.
    assert_eq!(world.pass(), 0);
    world.run(|_| {});
    assert_eq!(world.sizes(), sizes(&[("a", 0), ("b", 3)]));
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(json!({ "replicas": 2 }));
    world.run(|_| {});
    world.set_paused(true);
    world.set_image("b");
    world.set_replicas(4);
    world.run(|_| {});
    assert_eq!(world.sizes(), sizes(&[("a", 4)]));
    assert_eq!(world.condition("Progressing"), ("Unknown".into(), "DeploymentPaused".into()));
    world.set_paused(false);
    world.run(|_| {});
    assert_eq!(world.sizes(), sizes(&[("a", 0), ("b", 4)]));
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_shared_in_proportion() {
    let mut world = World::new(json!({ "replicas": 10 }));
    world.run(|_| {});
    world.set_image("b");
    while world.pass() > 0 {}
    assert_eq!(world.sizes(), sizes(&[("a", 8), ("b", 5)]));
    world.set_replicas(20);
    world.pass();
    // 20 and a quarter more, shared as 8 to 5 were.
    assert_eq!(world.sizes(), sizes(&[("a", 15), ("b", 10)]));
    world.run(|_| {});
    assert_eq!(world.sizes(), sizes(&[("a", 0), ("b", 20)]));
    world.set_replicas(0);
    world.run(|_| {});
    assert_eq!(world.total(), 0);
}

#[test]
fn old_sets_are_kept_as_far_as_the_history_goes() {
    let mut world = World::new(json!({ "replicas": 1, "revisionHistoryLimit": 2 }));
    for image in ["a", "b", "c", "d", "e"] {
        world.set_image(image);
        world.run(|_| {});
    }
    assert_eq!(world.sizes(), sizes(&[("c", 0), ("d", 0), ("e", 1)]));
    // Back to one of them: it is the same set, with the next number and its old one remembered.
    world.set_image("c");
    world.run(|_| {});
    assert_eq!(world.sizes(), sizes(&[("c", 1), ("d", 0), ("e", 0)]));
    assert_eq!(world.number(), "6");
    let set = world.facts().newest.expect("is there");
    assert_eq!(set.annotations()["deployment.kubernetes.io/revision-history"], "3");
}

#[test]
fn an_orphaned_set_is_adopted_and_one_no_longer_selected_is_let_go() {
    let mut world = World::new(json!({ "replicas": 2 }));
    world.run(|_| {});
    world.change(&world.sets[0].clone(), |set| set.metadata.owner_references = None);
    world.run(|_| {});
    assert_eq!((world.sizes(), world.sets.len()), (sizes(&[("a", 2)]), 1));
    world.change(&world.sets[0].clone(), |set| {
        set.metadata.labels = Some([("app".to_owned(), "other".to_owned())].into());
    });
    world.run(|_| {});
    assert_eq!(world.sets.len(), 2, "another one takes its place");
    assert!(world.sets[0].owner_references().is_empty());
}

#[test]
fn a_name_that_is_taken_by_another_template_is_passed_over() {
    let mut world = World::new(json!({ "replicas": 1 }));
    let name = |world: &World| match &plan(&world.facts())[0] {
        Action::Create(set) => set.name_any(),
        other => panic!("{other:?}"),
    };
    let first = name(&world);
    world.outcome.collided = true;
    let (told, _) = status(&world.facts(), &world.outcome, world.now);
    assert_eq!(told.collision_count, Some(1));
    world.deployment.status = Some(told);
    assert_ne!(name(&world), first);
}

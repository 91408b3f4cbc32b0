//! Garbage: what an owner leaves behind when it goes.
//!
//! Owns: deleting objects whose owners are all gone (background), deleting dependents before their owner
//! (`foregroundDeletion`), and cutting them loose from it (`orphan`).
//!
//! Invariants: nothing is deleted because an owner is merely unknown; the API is asked before an owner counts as
//! gone. An object with one living owner stays. A delete carries the uid that was examined.

use std::future::Future;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::PARALLEL;
use super::inventory::{Inventory, Item, Meta};
use super::queue::{Next, Queue};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// Registers with the inventory at once; the future works until `shutdown`.
pub(super) fn run(
    client: Client,
    inventory: Arc<Inventory>,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> {
    let queue = Queue::new();
    let (keys, graph) = (queue.clone(), inventory.clone());
    inventory.observe(move |change| {
        if let Some(after) = change.after
            && (!after.owners.is_empty() || waits_for_us(after))
        {
            keys.add(after.uid.clone());
        }
        // Its owner may wait for it to go, or to be cut loose.
        for side in [change.before, change.after].into_iter().flatten() {
            for owner in &side.owners {
                if graph.by_uid(&owner.uid).is_some_and(|owner| waits_for_us(&owner)) {
                    keys.add(owner.uid.clone());
                }
            }
        }
        if let Some(before) = change.before
            && change.after.is_none_or(|after| after.uid != before.uid)
        {
            for dependent in graph.owned_by(&before.uid) {
                keys.add(dependent.uid.clone());
            }
        }
        if let Some(after) = change.after.filter(|after| waits_for_us(after)) {
            for dependent in graph.owned_by(&after.uid) {
                keys.add(dependent.uid.clone());
            }
        }
    });
    let collector = Arc::new(Collector { client, inventory });
    async move {
        let work = move |uid: String| {
            let collector = collector.clone();
            async move { collector.examine(&uid).await }
        };
        queue.work(PARALLEL, shutdown, work).await;
    }
}

/// Whether the item is being deleted and one of our finalizers holds it.
fn waits_for_us(item: &Item) -> bool {
    item.deleting && (item.has_finalizer(FOREGROUND) || item.has_finalizer(ORPHAN))
}

struct Collector {
    client: Client,
    inventory: Arc<Inventory>,
}

/// How an owner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// There, or its kind is not known, so that nothing can be said.
    Solid,
    Gone,
    /// There, but it waits for its dependents to go first.
    Waiting,
}

impl Collector {
    async fn examine(&self, uid: &str) -> Result<Next, kube::Error> {
        let Some(item) = self.inventory.by_uid(uid) else { return Ok(Next::OnChange) };
        if item.deleting {
            if item.has_finalizer(ORPHAN) {
                self.orphan(&item).await?;
            } else if item.has_finalizer(FOREGROUND) {
                self.finish_foreground(&item).await?;
            }
            return Ok(Next::OnChange);
        }
        if self.owners(&item).await?.iter().all(|owner| *owner == Owner::Solid) {
            return Ok(Next::OnChange);
        }
        // The inventory may be behind: the object may just have been cut loose from its owner.
        let Some(item) = self.latest(&item).await? else { return Ok(Next::OnChange) };
        let kinds = self.owners(&item).await?;
        if item.deleting || kinds.iter().all(|kind| *kind == Owner::Solid) {
            return Ok(Next::OnChange);
        }
        if kinds.contains(&Owner::Solid) {
            let solid = item.owners.iter().zip(&kinds).filter(|(_, kind)| **kind == Owner::Solid);
            self.set_owners(&item, solid.map(|(owner, _)| owner.clone()).collect()).await?;
            return Ok(Next::OnChange);
        }
        let policy = if kinds.contains(&Owner::Waiting) && self.has_dependents(&item).await? {
            PropagationPolicy::Foreground
        } else {
            PropagationPolicy::Background
        };
        self.delete(&item, policy).await?;
        Ok(Next::OnChange)
    }

    /// The object as the API has it; None when it is gone.
    async fn latest(&self, item: &Item) -> Result<Option<Item>, kube::Error> {
        let found = item.api(&self.client).get_opt(&item.name).await?;
        let found = found.map(|found| Item::new(item.kind.clone(), &found.metadata));
        Ok(found.filter(|found| found.uid == item.uid))
    }

    /// How each of the item's owners is, in order.
    async fn owners(&self, item: &Item) -> Result<Vec<Owner>, kube::Error> {
        let mut kinds = Vec::with_capacity(item.owners.len());
        for owner in &item.owners {
            kinds.push(self.owner(item, owner).await?);
        }
        Ok(kinds)
    }

    async fn owner(&self, item: &Item, owner: &OwnerReference) -> Result<Owner, kube::Error> {
        let Some(kind) = self.inventory.kind_of(owner) else { return Ok(Owner::Solid) };
        if kind.namespaced && !item.kind.namespaced {
            // Such an owner cannot be looked up; Kubernetes leaves the dependent alone too.
            return Ok(Owner::Solid);
        }
        if let Some(known) = self.inventory.by_uid(&owner.uid) {
            let waits = known.deleting && known.has_finalizer(FOREGROUND);
            return Ok(if waits && owner.block_owner_deletion == Some(true) {
                Owner::Waiting
            } else {
                Owner::Solid
            });
        }
        let found = kind.api(&self.client, &item.namespace).get_opt(&owner.name).await?;
        let same = found.is_some_and(|found| found.metadata.uid.as_deref() == Some(&owner.uid));
        Ok(if same { Owner::Solid } else { Owner::Gone })
    }

    /// Once nothing blocks the owner, it may go.
    async fn finish_foreground(&self, item: &Item) -> Result<(), kube::Error> {
        let dependents = self.inventory.owned_by(&item.uid);
        let blocks = |dependent: &Arc<Item>| {
            let mut refs = dependent.owners.iter().filter(|owner| owner.uid == item.uid);
            refs.any(|owner| owner.block_owner_deletion == Some(true))
        };
        // The inventory may not have seen a dependent yet. Each is examined by itself, and its coming and its end make
        // this one due again.
        if dependents.iter().any(blocks) || (dependents.is_empty() && self.has_dependents(item).await?) {
            return Ok(());
        }
        self.remove_finalizer(item, FOREGROUND).await
    }

    /// Whether anything names the item as its owner: by the inventory, or else by the API, which is ahead of it.
    async fn has_dependents(&self, item: &Item) -> Result<bool, kube::Error> {
        if !self.inventory.owned_by(&item.uid).is_empty() {
            return Ok(true);
        }
        for kind in self.inventory.kinds_below(item) {
            let objects = kind.api(&self.client, &item.namespace).list(&ListParams::default()).await?;
            let owned = |meta: &Meta| meta.owner_references().iter().any(|owner| owner.uid == item.uid);
            if objects.items.iter().any(owned) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn orphan(&self, item: &Item) -> Result<(), kube::Error> {
        for dependent in self.inventory.owned_by(&item.uid) {
            let others = dependent.owners.iter().filter(|owner| owner.uid != item.uid).cloned().collect();
            self.set_owners(&dependent, others).await?;
        }
        self.remove_finalizer(item, ORPHAN).await
    }

    async fn set_owners(&self, item: &Item, owners: Vec<OwnerReference>) -> Result<(), kube::Error> {
        self.patch(item, json!({ "uid": item.uid, "ownerReferences": owners })).await
    }

    async fn remove_finalizer(&self, item: &Item, finalizer: &str) -> Result<(), kube::Error> {
        let rest: Vec<_> = item.finalizers.iter().filter(|known| *known != finalizer).collect();
        self.patch(item, json!({ "uid": item.uid, "finalizers": rest })).await
    }

    async fn patch(&self, item: &Item, metadata: serde_json::Value) -> Result<(), kube::Error> {
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        let answer = item.api(&self.client).patch(&item.name, &PatchParams::default(), &patch).await;
        gone_is_fine(answer.map(|_| ()))
    }

    async fn delete(&self, item: &Item, policy: PropagationPolicy) -> Result<(), kube::Error> {
        // Finalizers that its creator chose decide before the policy of its owner's deletion.
        let policy = match item {
            item if item.has_finalizer(ORPHAN) => PropagationPolicy::Orphan,
            item if item.has_finalizer(FOREGROUND) => PropagationPolicy::Foreground,
            _ => policy,
        };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions { uid: Some(item.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        gone_is_fine(item.api(&self.client).delete(&item.name, &params).await.map(|_| ()))
    }
}

/// Gone already, or another object by that name: either way there is nothing left to do.
fn gone_is_fine(answer: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match answer {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        answer => answer,
    }
}

//! Namespaces: a `default` ServiceAccount in each, and an orderly end.
//!
//! Owns: the account, and the end of a namespace: everything in it is deleted, then the finalizer is taken away. That the
//! namespace goes only when nothing is left in it is the API's own care: it refuses that write else.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Api, Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::PARALLEL;
use super::cache::ObjectKey;
use super::inventory::{Inventory, Kind};
use super::objects::Objects;
use super::queue::{Next, Queue};

const ACCOUNT: &str = "default";
const FINALIZER: &str = "kubernetes";
/// Between looks at a namespace that held what the inventory had not seen: its end need not come as a change. Unit: time.
/// Source: ours.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Registers with the caches at once; the future works until `shutdown`.
pub(super) fn run(
    client: Client,
    inventory: Arc<Inventory>,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> {
    let queue = Queue::new();
    let namespaces: Objects<Namespace> = Objects::new(client.clone());
    let accounts: Objects<ServiceAccount> = Objects::new(client.clone());
    let keys = queue.clone();
    namespaces.observe(move |change| {
        if let Some(namespace) = change.either() {
            keys.add(namespace.name_any());
        }
    });
    let keys = queue.clone();
    accounts.observe(move |change| {
        if let (Some(account), None) = (change.before, change.after)
            && account.name_any() == ACCOUNT
        {
            keys.add(account.namespace().unwrap_or_default());
        }
    });
    let (keys, known) = (queue.clone(), namespaces.clone());
    inventory.observe(move |change| {
        let Some(item) = change.before.or(change.after) else { return };
        let namespace = known.get(&ObjectKey::new("", &item.namespace));
        if namespace.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
            keys.add(item.namespace.clone());
        }
    });
    let keeper = Arc::new(Keeper { client, inventory, namespaces, accounts });
    async move {
        let namespaces = tokio::spawn(keeper.namespaces.clone().follow(shutdown.clone()));
        let accounts = tokio::spawn(keeper.accounts.clone().follow(shutdown.clone()));
        keeper.namespaces.wait_listed(&shutdown).await;
        keeper.accounts.wait_listed(&shutdown).await;
        let work = move |name: String| {
            let keeper = keeper.clone();
            async move { keeper.reconcile(&name).await }
        };
        queue.work(PARALLEL, shutdown, work).await;
        // They end by the same token; a panic there was reported where it happened.
        let _ = tokio::join!(namespaces, accounts);
    }
}

struct Keeper {
    client: Client,
    inventory: Arc<Inventory>,
    namespaces: Objects<Namespace>,
    accounts: Objects<ServiceAccount>,
}

impl Keeper {
    async fn reconcile(&self, name: &str) -> Result<Next, kube::Error> {
        let Some(namespace) = self.namespaces.get(&ObjectKey::new("", name)) else {
            return Ok(Next::OnChange);
        };
        if namespace.metadata.deletion_timestamp.is_none() {
            self.ensure_account(name).await?;
        } else if finalizers(&namespace).iter().any(|finalizer| finalizer == FINALIZER) {
            return self.end(&namespace).await;
        }
        Ok(Next::OnChange)
    }

    async fn ensure_account(&self, namespace: &str) -> Result<(), kube::Error> {
        if self.accounts.get(&ObjectKey::new(namespace, ACCOUNT)).is_some() {
            return Ok(());
        }
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(ACCOUNT.into()),
                namespace: Some(namespace.into()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        match self.accounts.create(&account).await {
            // Made by somebody else, or the namespace is going; both come back as a change.
            Err(kube::Error::Api(status))
                if status.is_already_exists() || status.is_not_found() || status.is_forbidden() =>
            {
                Ok(())
            }
            answer => answer.map(|_| ()),
        }
    }

    /// One pass over a namespace that is being deleted. The end of an object in it makes it due again.
    async fn end(&self, namespace: &Namespace) -> Result<Next, kube::Error> {
        let name = namespace.name_any();
        let known = self.inventory.in_namespace(&name);
        let mut held: Vec<String> = Vec::new();
        for item in &known {
            if !item.deleting {
                let answer = item.api(&self.client).delete(&item.name, &DeleteParams::background()).await;
                gone_is_fine(answer.map(|_| ()))?;
            } else if let Some(finalizer) = item.finalizers.first() {
                held.push(format!("{} {} ({finalizer})", item.kind.resource.kind, item.name));
            }
        }
        if !known.is_empty() {
            self.tell_what_holds(namespace, &held).await?;
            return Ok(Next::OnChange);
        }
        // The inventory may be behind, so what it knows is only where to begin.
        let mut left = false;
        for kind in self.inventory.namespaced_kinds() {
            left |= self.clear(&kind, &name).await?;
        }
        self.clear(&events(), &name).await?;
        if left || !self.finalize(namespace).await? {
            return Ok(Next::After(LOOK_AGAIN));
        }
        Ok(Next::OnChange)
    }

    /// Deletes what the API still lists of a kind; whether there was anything.
    async fn clear(&self, kind: &Kind, namespace: &str) -> Result<bool, kube::Error> {
        let api = kind.api(&self.client, namespace);
        let found = match api.list(&ListParams::default().limit(1)).await {
            Ok(found) => found,
            // The kind has gone meanwhile, and its objects with it.
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(false),
            Err(error) => return Err(error),
        };
        if found.items.is_empty() {
            return Ok(false);
        }
        let answer = api.delete_collection(&DeleteParams::background(), &ListParams::default()).await;
        gone_is_fine(answer.map(|_| ()))?;
        Ok(true)
    }

    /// `false`: the API knows of something in it yet (of a kind that is not discovered, say), or it has changed.
    async fn finalize(&self, namespace: &Namespace) -> Result<bool, kube::Error> {
        let mut done = namespace.clone();
        let rest: Vec<_> =
            finalizers(namespace).iter().filter(|finalizer| *finalizer != FINALIZER).cloned().collect();
        done.spec.get_or_insert_default().finalizers = Some(rest);
        let api: Api<Namespace> = Api::all(self.client.clone());
        let answer =
            api.replace_subresource("finalize", &done.name_any(), &PostParams::default(), &done).await;
        match answer {
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(false),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(true),
            answer => answer.map(|_: Namespace| true),
        }
    }

    /// Names in the status what keeps the namespace from going.
    async fn tell_what_holds(&self, namespace: &Namespace, held: &[String]) -> Result<(), kube::Error> {
        let status = namespace.status.clone().unwrap_or_default();
        let mut conditions = status.conditions.clone().unwrap_or_default();
        let known = conditions.iter().position(|condition| condition.type_ == "NamespaceFinalizersRemaining");
        if held.is_empty() && known.is_none() {
            return Ok(());
        }
        let (flag, reason, message) = if held.is_empty() {
            ("False", "ContentHasNoFinalizers", "All content-preserving finalizers finished".to_owned())
        } else {
            let message =
                format!("Some content in the namespace has finalizers remaining: {}", held.join(", "));
            ("True", "SomeFinalizersRemain", message)
        };
        let before = known.map(|index| conditions[index].clone());
        if before.as_ref().is_some_and(|before| before.message.as_deref() == Some(&message)) {
            return Ok(());
        }
        let condition = NamespaceCondition {
            type_: "NamespaceFinalizersRemaining".into(),
            status: flag.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(Time::from(Timestamp::now())),
        };
        match known {
            Some(index) => conditions[index] = condition,
            None => conditions.push(condition),
        }
        let mut told = namespace.clone();
        told.status.get_or_insert_default().conditions = Some(conditions);
        let api: Api<Namespace> = Api::all(self.client.clone());
        let answer = api.replace_status(&told.name_any(), &PostParams::default(), &told).await;
        gone_is_fine(answer.map(|_| ()))
    }
}

fn finalizers(namespace: &Namespace) -> &[String] {
    namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default()
}

/// Events are not in the inventory.
fn events() -> Kind {
    Kind { resource: ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Event")), namespaced: true }
}

/// Gone already, or changed meanwhile, which comes back as a change.
fn gone_is_fine(answer: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match answer {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        answer => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ApiServer, ApiServerConfig};
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    fn keeper() -> Keeper {
        let client = ApiServer::new(ApiServerConfig::default()).expect("a server").client();
        Keeper {
            inventory: Inventory::new(client.clone()),
            namespaces: Objects::new(client.clone()),
            accounts: Objects::new(client.clone()),
            client,
        }
    }

    #[tokio::test]
    async fn a_namespace_whose_contents_are_not_discovered_yet_stays() {
        let keeper = keeper();
        let namespaces: Api<Namespace> = Api::all(keeper.client.clone());
        let maps: Api<ConfigMap> = Api::namespaced(keeper.client.clone(), "shop");
        let shop = serde_json::from_value(json!({"metadata": {"name": "shop"}})).expect("a Namespace");
        namespaces.create(&PostParams::default(), &shop).await.expect("created");
        let map = serde_json::from_value(json!({"metadata": {"name": "a"}})).expect("a ConfigMap");
        maps.create(&PostParams::default(), &map).await.expect("created");
        namespaces.delete("shop", &DeleteParams::default()).await.expect("begun");

        // The inventory has not looked at the API at all.
        let going = namespaces.get("shop").await.expect("it is there");
        assert_eq!(keeper.end(&going).await.expect("an answer"), Next::After(LOOK_AGAIN));
        assert!(maps.get_opt("a").await.expect("an answer").is_some());

        let shutdown = CancellationToken::new();
        let inventory = tokio::spawn(keeper.inventory.clone().run(shutdown.clone()));
        while let Some(going) = namespaces.get_opt("shop").await.expect("an answer") {
            keeper.end(&going).await.expect("an answer");
            tokio::task::yield_now().await;
        }
        assert!(maps.get_opt("a").await.expect("an answer").is_none());
        shutdown.cancel();
        inventory.await.expect("it ends");
    }
}

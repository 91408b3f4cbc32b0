//! The objects of one namespaced kind as a controller handles them: read from the cache, written through it.
//!
//! Invariants: every answer of the API goes into the cache before the call returns; deletes carry the uid that was
//! read, so that a successor of the same name is never hit; status and spec writes carry the resourceVersion.

use std::ops::Deref;
use std::sync::Arc;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::NamespaceResourceScope;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::cache::{Cache, Cached, ObjectKey};

/// See the module's head. Cheap to clone.
pub(crate) struct Objects<K> {
    cache: Arc<Cache<K>>,
    client: Client,
}

impl<K> Clone for Objects<K> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone(), client: self.client.clone() }
    }
}

impl<K> Deref for Objects<K> {
    type Target = Cache<K>;

    fn deref(&self) -> &Cache<K> {
        &self.cache
    }
}

impl<K: Cached> Objects<K> {
    pub(crate) fn new(client: Client) -> Self {
        Self { cache: Cache::new(), client }
    }

    /// Follows the kind in all namespaces until `shutdown`.
    pub(crate) async fn follow(self, shutdown: CancellationToken) {
        let api = Api::all(self.client.clone());
        self.cache.follow(api, watcher::Config::default(), shutdown).await;
    }
}

impl<K> Objects<K>
where
    K: Cached + Serialize + Resource<Scope = NamespaceResourceScope>,
{
    fn api(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn api_of(&self, object: &K) -> Api<K> {
        self.api(object.meta().namespace.as_deref().unwrap_or_default())
    }

    pub(crate) async fn create(&self, object: &K) -> Result<Arc<K>, kube::Error> {
        let made = self.api_of(object).create(&PostParams::default(), object).await?;
        Ok(self.keep(made))
    }

    /// Replaces the object; refused when it changed since it was read.
    pub(crate) async fn replace(&self, object: &K) -> Result<Arc<K>, kube::Error> {
        let made = self.api_of(object).replace(&object.name_any(), &PostParams::default(), object).await?;
        Ok(self.keep(made))
    }

    /// Replaces the object's status; refused when it changed since it was read.
    pub(crate) async fn replace_status(&self, object: &K) -> Result<Arc<K>, kube::Error> {
        let made =
            self.api_of(object).replace_status(&object.name_any(), &PostParams::default(), object).await?;
        Ok(self.keep(made))
    }

    /// Merges `patch` into the object.
    pub(crate) async fn merge(&self, object: &K, patch: &serde_json::Value) -> Result<Arc<K>, kube::Error> {
        let patch = Patch::Merge(patch);
        let made = self.api_of(object).patch(&object.name_any(), &PatchParams::default(), &patch).await?;
        Ok(self.keep(made))
    }

    /// Reads the object from the API, past the cache.
    pub(crate) async fn read(&self, key: &ObjectKey) -> Result<Option<Arc<K>>, kube::Error> {
        let found = self.api(&key.namespace).get_opt(&key.name).await?;
        Ok(found.map(|object| self.keep(object)))
    }

    /// Whether the object is still there and not being deleted, by the API. To be asked before something is made for it or
    /// given to it: watches of different kinds are not ordered, so the end of a pod that goes with its owner may be seen
    /// before the owner's, and what were made in its place would outlive the owner.
    pub(crate) async fn is_wanted(&self, object: &K) -> Result<bool, kube::Error> {
        let latest = self.read(&ObjectKey::of(object)).await?;
        Ok(latest.is_some_and(|now| now.uid() == object.uid() && now.meta().deletion_timestamp.is_none()))
    }

    /// Deletes the object that was read. It is no error if it is gone, or if another one has its name by now.
    /// `grace_seconds` is the kind's own when absent.
    pub(crate) async fn delete(&self, object: &K, grace_seconds: Option<u32>) -> Result<(), kube::Error> {
        let params = DeleteParams {
            grace_period_seconds: grace_seconds,
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions { uid: object.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.api_of(object).delete(&object.name_any(), &params).await {
            Ok(answer) => match answer.left() {
                // Finalizers or a grace period keep it for a while.
                Some(last)
                    if !last.finalizers().is_empty()
                        || (last.meta().deletion_timestamp.is_some() && grace_seconds != Some(0)) =>
                {
                    self.cache.wrote(last);
                }
                Some(last) => self.cache.removed(&last),
                None => self.cache.removed(object),
            },
            Err(kube::Error::Api(status)) if status.is_not_found() => self.cache.removed(object),
            Err(kube::Error::Api(status)) if status.is_conflict() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn keep(&self, object: K) -> Arc<K> {
        let key = ObjectKey::of(&object);
        let copy = Arc::new(object.clone());
        self.cache.wrote(object);
        self.cache.get(&key).unwrap_or(copy)
    }
}

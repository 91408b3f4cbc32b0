//! Services and pods to EndpointSlices.
//!
//! Owns: the slices labelled as managed by this controller. Slices of Services without a selector, and slices that
//! somebody else manages, are never touched.
//!
//! Invariants: a pod appears once per address family and set of ports; a terminating pod stays listed, not ready,
//! until it is gone; a pass writes no more slices than changed.

mod plan;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;
use tokio_util::sync::CancellationToken;

use super::cache::ObjectKey;
use super::queue::{Next, Queue};
use super::{PARALLEL, View, naming};
use plan::Action;

use plan::SERVICE_NAME;
pub(crate) use plan::listed;

/// Registers with the caches at once; the future works until `shutdown`.
pub(super) fn run(view: View, shutdown: CancellationToken) -> impl Future<Output = ()> {
    let queue = Queue::new();
    let keys = queue.clone();
    view.services.observe(move |change| {
        if let Some(service) = change.either() {
            keys.add(ObjectKey::of(service.as_ref()));
        }
    });
    let (keys, services) = (queue.clone(), view.services.clone());
    view.pods.observe(move |change| {
        if let (Some(before), Some(after)) = (change.before, change.after)
            && !plan::matters(before, after)
        {
            return;
        }
        let Some(namespace) = change.either().and_then(|pod| pod.namespace()) else { return };
        for service in services.in_namespace(&namespace) {
            if change.sides().any(|pod| selects(&service, pod)) {
                keys.add(ObjectKey::of(service.as_ref()));
            }
        }
    });
    let keys = queue.clone();
    view.slices.observe(move |change| {
        let Some(slice) = change.either() else { return };
        if let Some(name) = slice.labels().get(SERVICE_NAME)
            && plan::is_ours(slice)
        {
            keys.add(ObjectKey::new(slice.namespace().unwrap_or_default(), name));
        }
    });
    async move {
        view.services.wait_listed(&shutdown).await;
        view.pods.wait_listed(&shutdown).await;
        view.slices.wait_listed(&shutdown).await;
        let work = move |key| reconcile(view.clone(), key);
        queue.work(PARALLEL, shutdown, work).await;
    }
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| {
        !selector.is_empty() && selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
    })
}

async fn reconcile(view: View, key: ObjectKey) -> Result<Next, kube::Error> {
    // The slices of a Service that is gone are garbage by their owner reference.
    let Some(service) = view.services.get(&key) else { return Ok(Next::OnChange) };
    let pods: Vec<Arc<Pod>> =
        view.pods.in_namespace(&key.namespace).into_iter().filter(|pod| selects(&service, pod)).collect();
    let mut slices = view.slices.in_namespace(&key.namespace);
    slices.retain(|slice| plan::is_ours(slice) && slice.labels().get(SERVICE_NAME) == Some(&key.name));
    for action in plan::plan(&service, &pods, &slices) {
        match action {
            Action::Create(mut slice) => {
                slice.metadata.name = Some(naming::generated(&format!("{}-", key.name)));
                view.slices.create(&slice).await?;
            }
            Action::Update(slice) => {
                view.slices.replace(&slice).await?;
            }
            Action::Delete(slice) => view.slices.delete(&slice, None).await?,
        }
    }
    Ok(Next::OnChange)
}

//! Events that controllers tell about objects (`kubectl describe`, `kubectl events`).
//!
//! Owns: the queue of events to write and the counts of repeated ones.
//!
//! Invariants: telling never waits; the queue is bounded and drops are counted; a repeated event becomes a higher
//! count on the same object, as in Kubernetes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Events that may wait to be written. Unit: events. Source: ours.
const WAITING: usize = 4096;
/// Events whose counts are remembered. Unit: events. Source: client-go's event cache.
const REMEMBERED: usize = 4096;

/// A cheap handle that tells events under one component's name.
#[derive(Clone)]
pub(crate) struct Events {
    sender: mpsc::Sender<Told>,
    dropped: Arc<AtomicU64>,
    component: &'static str,
}

/// Whether an event is good news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Normal,
    Warning,
}

struct Told {
    kind: Kind,
    component: &'static str,
    object: ObjectReference,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// Writes what the handles tell. Runs until `shutdown`.
pub(crate) struct Recorder {
    client: Client,
    receiver: mpsc::Receiver<Told>,
    written: HashMap<Identity, Written>,
    order: VecDeque<Identity>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Identity {
    uid: String,
    kind: Kind,
    component: &'static str,
    reason: &'static str,
    message: String,
}

struct Written {
    namespace: String,
    name: String,
    count: i32,
}

impl Events {
    /// The same queue under another component's name.
    pub(crate) fn named(&self, component: &'static str) -> Self {
        Self { component, ..self.clone() }
    }

    pub(crate) fn normal<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &'static str,
        message: String,
    ) {
        self.tell(Kind::Normal, object, reason, message);
    }

    pub(crate) fn warning<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &'static str,
        message: String,
    ) {
        self.tell(Kind::Warning, object, reason, message);
    }

    fn tell<K: Resource<DynamicType = ()>>(
        &self,
        kind: Kind,
        object: &K,
        reason: &'static str,
        message: String,
    ) {
        let object = object.object_ref(&());
        let told = Told { kind, component: self.component, object, reason, message, at: Timestamp::now() };
        if self.sender.try_send(told).is_err() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            if dropped.is_power_of_two() {
                tracing::warn!(dropped, "events were dropped: too many wait to be written");
            }
        }
    }
}

impl Recorder {
    /// A recorder and a handle to it.
    pub(crate) fn new(client: Client, component: &'static str) -> (Events, Self) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let events = Events { sender, dropped: Arc::default(), component };
        (events, Self { client, receiver, written: HashMap::new(), order: VecDeque::new() })
    }

    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let told = tokio::select! {
                () = shutdown.cancelled() => return,
                told = self.receiver.recv() => told,
            };
            let Some(told) = told else { return };
            if let Err(error) = self.write(told).await {
                // The object's namespace may be going; an event is never worth a retry.
                tracing::debug!(error = %error, "an event was not written");
            }
        }
    }

    async fn write(&mut self, told: Told) -> Result<(), kube::Error> {
        let identity = Identity {
            uid: told.object.uid.clone().unwrap_or_default(),
            kind: told.kind,
            component: told.component,
            reason: told.reason,
            message: told.message.clone(),
        };
        if let Some(written) = self.written.get_mut(&identity) {
            written.count += 1;
            let api: Api<Event> = Api::namespaced(self.client.clone(), &written.namespace);
            let repeat = serde_json::json!({ "count": written.count, "lastTimestamp": Time::from(told.at) });
            match api.patch(&written.name, &PatchParams::default(), &Patch::Merge(repeat)).await {
                Err(kube::Error::Api(status)) if status.is_not_found() => {
                    self.written.remove(&identity);
                    self.order.retain(|known| *known != identity);
                }
                answer => return answer.map(|_| ()),
            }
        }
        let event = told.event();
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let name = event.metadata.name.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        api.create(&PostParams::default(), &event).await?;
        self.remember(identity, Written { namespace, name, count: 1 });
        Ok(())
    }

    fn remember(&mut self, identity: Identity, written: Written) {
        self.order.push_back(identity.clone());
        self.written.insert(identity, written);
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.written.remove(&oldest);
            }
        }
    }
}

impl Told {
    fn event(self) -> Event {
        let mut event = Event::default();
        let object = self.object.name.as_deref().unwrap_or_default();
        // Unique without a read: 16 hexadecimal digits, as client-go appends its clock.
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let mut stem = object.len().min(200);
        while !object.is_char_boundary(stem) {
            stem -= 1;
        }
        event.metadata.name = Some(format!("{}.{}", &object[..stem], &unique[16..]));
        // Objects without a namespace have their events in `default`.
        event.metadata.namespace = Some(self.object.namespace.clone().unwrap_or_else(|| "default".into()));
        event.involved_object = self.object;
        event.reason = Some(self.reason.into());
        event.message = Some(self.message);
        event.type_ = Some(if self.kind == Kind::Normal { "Normal" } else { "Warning" }.into());
        event.count = Some(1);
        event.first_timestamp = Some(Time::from(self.at));
        event.last_timestamp = Some(Time::from(self.at));
        event.source = Some(EventSource { component: Some(self.component.into()), host: None });
        event.reporting_component = Some(self.component.into());
        event.reporting_instance = Some(String::new());
        event
    }
}

//! Findings about objects as Kubernetes Events, where `kubectl describe` and `kubectl events` show them.
//!
//! Invariants: what is said again about an object raises the count of the first Event; an object gets no more than a
//! burst of new Events at a time; the queue and every table are bounded, and what does not fit is counted and
//! dropped: an Event is a courtesy, statuses are the truth. Deliberately absent: deciding what is worth saying.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weir_core::ObjectKey;

use crate::backoff::Backoff;
use crate::call::{CallError, Caller, PatchKind};
use crate::metrics::ControlStatus;
use crate::status_writer::timestamp;

/// Findings that wait to be written.
const QUEUE: usize = 1_024;

/// Events whose counts are remembered; client-go remembers as many.
const REMEMBERED: usize = 4_096;

/// New Events that one object may get at once, and how long one more takes to be allowed; client-go's values.
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(300);

/// Attempts to write one Event.
const ATTEMPTS: u32 = 3;

/// The longest message that the API takes, bytes.
const MESSAGE_BYTES: usize = 1_024;

/// A finding about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) object: ObjectKey,
    pub(crate) api_version: String,
    pub(crate) uid: String,
    pub(crate) severity: Severity,
    /// One word in CamelCase.
    pub(crate) reason: String,
    /// The field that is meant, as `spec.rules[0]`, or empty.
    pub(crate) field: String,
    pub(crate) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

/// The sending half.
#[derive(Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Finding>,
    status: Arc<ControlStatus>,
}

/// The writing half.
pub(crate) struct Events {
    caller: Caller,
    status: Arc<ControlStatus>,
    instance: String,
    queue: mpsc::Receiver<Finding>,
    remembered: Remembered,
    allowances: HashMap<String, Allowance>,
}

/// Both halves of the recorder. `instance` names this process in the Events.
pub(crate) fn recorder(caller: Caller, status: Arc<ControlStatus>, instance: String) -> (Recorder, Events) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let events = Events {
        caller,
        status: Arc::clone(&status),
        instance,
        queue,
        remembered: Remembered::default(),
        allowances: HashMap::new(),
    };
    (Recorder { queue: sender, status }, events)
}

impl Recorder {
    /// Say this about the object, soon, unless there is too much to say. Never waits.
    pub(crate) fn report(&self, finding: Finding) {
        if self.queue.try_send(finding).is_err() {
            self.status.events_dropped.add(1);
        }
    }
}

impl Events {
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let finding = tokio::select! {
                () = shutdown.cancelled() => return,
                finding = self.queue.recv() => finding,
            };
            let Some(finding) = finding else { return };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.record(finding) => {}
            }
        }
    }

    async fn record(&mut self, finding: Finding) {
        if !self.caller.leadership().holds() {
            return;
        }
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for attempt in 1..=ATTEMPTS {
            match self.write(&finding).await {
                Ok(true) => return self.status.events.add(1),
                Ok(false) => break,
                Err(error) if attempt == ATTEMPTS || error.is_final() || error.is_not_found() => {
                    tracing::debug!(object = %finding.object, reason = finding.reason, %error, "event not written");
                    break;
                }
                Err(_) => tokio::time::sleep(backoff.next_wait()).await,
            }
        }
        self.status.events_dropped.add(1);
    }

    /// Write the Event, or one more occurrence of it; false if the object has had too many.
    async fn write(&mut self, finding: &Finding) -> Result<bool, CallError> {
        let fingerprint = Fingerprint::of(finding);
        let now = timestamp();
        if let Some(known) = self.remembered.get(&fingerprint) {
            known.count += 1;
            let patch = json!({"count": known.count, "lastTimestamp": now});
            match self.caller.patch(&known.path, PatchKind::Merge, &patch).await {
                Err(error) if error.is_not_found() => self.remembered.forget(&fingerprint),
                Err(error) => return Err(error),
                Ok(_) => return Ok(true),
            }
        }
        if !self.allow(&finding.uid) {
            return Ok(false);
        }
        let namespace = match finding.object.namespace.as_str() {
            "" => "default",
            namespace => namespace,
        };
        let collection = format!("/api/v1/namespaces/{namespace}/events");
        let event = self.event(finding, namespace, &now);
        let written = self.caller.create(&collection, &event).await?;
        let name = written["metadata"]["name"].as_str().unwrap_or_default();
        self.remembered.insert(fingerprint, Recorded { path: format!("{collection}/{name}"), count: 1 });
        Ok(true)
    }

    fn event(&self, finding: &Finding, namespace: &str, now: &str) -> Value {
        let message = match finding.field.as_str() {
            "" => finding.message.clone(),
            field => format!("{field}: {}", finding.message),
        };
        let message: String = message.chars().scan(0, within(MESSAGE_BYTES)).collect();
        let involved = {
            let mut reference = json!({
                "apiVersion": finding.api_version,
                "kind": finding.object.kind.as_str(),
                "name": finding.object.name,
                "uid": finding.uid,
            });
            if !finding.object.namespace.is_empty() {
                reference["namespace"] = Value::from(finding.object.namespace.as_str());
            }
            reference
        };
        // The name that client-go gives: the object's, and a moment.
        let stem: String = finding.object.name.chars().take(200).collect();
        let moment = jiff::Timestamp::now().as_nanosecond();
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": format!("{stem}.{moment:x}"), "namespace": namespace},
            "involvedObject": involved,
            "type": match finding.severity {
                Severity::Normal => "Normal",
                Severity::Warning => "Warning",
            },
            "reason": finding.reason,
            "message": message,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": "weir"},
            "reportingComponent": "weir.dev/gateway-controller",
            "reportingInstance": self.instance,
        })
    }

    /// Take one new Event from the object's allowance.
    fn allow(&mut self, uid: &str) -> bool {
        let now = Instant::now();
        if self.allowances.len() >= REMEMBERED {
            self.allowances.retain(|_, allowance| allowance.level(now) < f64::from(BURST));
        }
        if self.allowances.len() >= REMEMBERED && !self.allowances.contains_key(uid) {
            return false;
        }
        let full = Allowance { left: f64::from(BURST), at: now };
        let allowance = self.allowances.entry(uid.to_owned()).or_insert(full);
        allowance.left = allowance.level(now);
        allowance.at = now;
        if allowance.left < 1.0 {
            return false;
        }
        allowance.left -= 1.0;
        true
    }
}

/// A state for `scan` that ends a string before `limit` bytes are passed.
fn within(limit: usize) -> impl FnMut(&mut usize, char) -> Option<char> {
    move |used, next| {
        *used += next.len_utf8();
        (*used <= limit).then_some(next)
    }
}

struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn level(&self, now: Instant) -> f64 {
        let refilled = now.duration_since(self.at).as_secs_f64() / REFILL.as_secs_f64();
        (self.left + refilled).min(f64::from(BURST))
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Fingerprint {
    uid: String,
    severity: Severity,
    reason: String,
    field: String,
    message: String,
}

impl Fingerprint {
    fn of(finding: &Finding) -> Fingerprint {
        Fingerprint {
            uid: finding.uid.clone(),
            severity: finding.severity,
            reason: finding.reason.clone(),
            field: finding.field.clone(),
            message: finding.message.clone(),
        }
    }
}

struct Recorded {
    path: String,
    count: u64,
}

/// Events by what they say; the oldest are forgotten first.
#[derive(Default)]
struct Remembered {
    by_fingerprint: HashMap<Fingerprint, Recorded>,
    order: VecDeque<Fingerprint>,
}

impl Remembered {
    fn get(&mut self, fingerprint: &Fingerprint) -> Option<&mut Recorded> {
        self.by_fingerprint.get_mut(fingerprint)
    }

    fn forget(&mut self, fingerprint: &Fingerprint) {
        self.by_fingerprint.remove(fingerprint);
        self.order.retain(|known| known != fingerprint);
    }

    fn insert(&mut self, fingerprint: Fingerprint, recorded: Recorded) {
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_fingerprint.remove(&oldest);
        }
        self.order.push_back(fingerprint.clone());
        self.by_fingerprint.insert(fingerprint, recorded);
    }
}

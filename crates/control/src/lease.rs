//! Leadership of one among several controllers, held by a Lease.
//!
//! Owns the election: who may write, serve and provision now ([`Leadership`]), and the Lease that says so. Invariants:
//! a Lease is changed only in the state in which it was read (a JSON patch whose first step tests the version), so of two
//! that want it one gets it; leadership ends by this machine's clock that goes on while the process is stopped or the
//! machine sleeps (`CLOCK_BOOTTIME`), [`LeaseTimes::renewal`] after the last renewal *began*, and so before anybody else
//! may take it; another's Lease runs out by the time for which it was seen unchanged here, never by the times written in
//! it, so clocks that differ do no harm; an epoch is larger than every one before it, also where the Lease was deleted meanwhile (it
//! follows the wall clock where that is ahead); who waits for leadership is told whenever it begins or is back.
//! Deliberately absent: what leaders do; every write asks [`Leadership::holds`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::call::{CallError, Caller, Collection, PatchKind};

/// The collection of Leases.
pub(crate) const LEASES: Collection =
    Collection { group: "coordination.k8s.io", version: "v1", plural: "leases", namespaced: true };

/// Where the leader tells at which `HOST:PORT` data planes find it.
const ADDRESS_ANNOTATION: &str = "weir.dev/address";

/// Where it tells on which port of its pod it answers questions about itself.
pub const ADMIN_PORT_ANNOTATION: &str = "weir.dev/admin-port";

/// Where it tells which namespaces it reads, comma-separated; empty or absent: all.
pub(crate) const NAMESPACES_ANNOTATION: &str = "weir.dev/watch-namespaces";

/// Where it tells its epoch.
const EPOCH_ANNOTATION: &str = "weir.dev/epoch";

/// What the name of an installation's Lease ends with, behind the name of the release.
pub const LEASE_END: &str = "-weir-leader";

/// The label, `NAME=VALUE`, by which the Leases of Weir's controllers are found.
pub const LEASE_LABEL: &str = "app.kubernetes.io/part-of=weir";

/// The longest that one call for the Lease may take.
const CALL: Duration = Duration::from_secs(4);

/// The shortest wait between two tries.
const SOON: Duration = Duration::from_millis(50);

/// Leadership that no clock ends.
const FOREVER: u64 = u64::MAX;

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leader {
    /// Nobody that is known: the Lease is free, or could not be read.
    Unknown,
    /// This process, as long as [`Leadership::holds`]. `epoch` grows with every change of leaders.
    Own { epoch: u64 },
    /// Nobody that is known: this process led last, with `epoch`, and could not renew the Lease, nor read who has it now.
    Lapsed { epoch: u64 },
    /// `address` is where it serves data planes (`HOST:PORT`), or empty.
    Other { identity: String, address: String },
}

/// Whether this process leads. A handle; cheap to clone.
#[derive(Clone, Debug)]
pub struct Leadership {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// On `CLOCK_BOOTTIME`, nanoseconds; 0 while not leading.
    until: AtomicU64,
    leader: watch::Sender<Leader>,
}

impl Leadership {
    /// Of a process that is alone.
    pub fn always() -> Leadership {
        Leadership::of(FOREVER, Leader::Own { epoch: 1 })
    }

    fn none() -> Leadership {
        Leadership::of(0, Leader::Unknown)
    }

    fn of(until: u64, leader: Leader) -> Leadership {
        let shared = Shared { until: AtomicU64::new(until), leader: watch::Sender::new(leader) };
        Leadership { shared: Arc::new(shared) }
    }

    /// Whether this process leads at this moment, by the clock that no pause stops.
    pub fn holds(&self) -> bool {
        // In this order, so that whoever finds it ended does so before `lead` looks whether anybody could.
        let now = now();
        now < self.shared.until.load(Ordering::Acquire)
    }

    /// Who leads, as it changes. After a pause it can say [`Leader::Own`] for a moment when [`Leadership::holds`] does
    /// not any more. Leadership that ended by the clock and is renewed is told again, also where it is the same.
    pub fn watch(&self) -> watch::Receiver<Leader> {
        self.shared.leader.subscribe()
    }

    fn lead(&self, until: u64, epoch: u64) {
        let before = self.shared.until.swap(until, Ordering::AcqRel);
        // Who found that it had ended waits to be told, though nobody else led meanwhile.
        let had_ended = before <= now();
        self.tell(Leader::Own { epoch }, had_ended);
    }

    fn follow(&self, leader: Leader) {
        self.shared.until.store(0, Ordering::Release);
        self.tell(leader, false);
    }

    /// `again`: also where it is known.
    fn tell(&self, leader: Leader, again: bool) {
        self.shared.leader.send_if_modified(|known| {
            let changed = *known != leader;
            *known = leader;
            changed || again
        });
    }
}

/// `CLOCK_BOOTTIME`, nanoseconds; never 0.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    // Neither part of this clock is negative.
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
    (seconds * 1_000_000_000 + nanos).max(1)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(FOREVER - 1)
}

/// How long things last in an election.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTimes {
    /// How long a Lease that is not renewed stands: whole seconds, the API knows no parts.
    pub duration: Duration,
    /// How long the leader goes on without having renewed; shorter than `duration` by what a write under way may take.
    pub renewal: Duration,
    /// How often the leader renews and others look.
    pub retry: Duration,
}

impl Default for LeaseTimes {
    /// The values of client-go: 15 s, 10 s and 2 s. Somebody else leads at most 17.5 s after the leader stopped.
    fn default() -> LeaseTimes {
        LeaseTimes {
            duration: Duration::from_secs(15),
            renewal: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// One candidate's settings.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    pub namespace: String,
    pub name: String,
    /// Tells this process from every other one, also from its own predecessors.
    pub identity: String,
    /// Where data planes find this process if it leads, `HOST:PORT`; may be empty.
    pub address: String,
    /// The port of this process's admin server.
    pub admin_port: u16,
    /// The only namespaces that this process reads; none: all.
    pub namespaces: Vec<String>,
    pub times: LeaseTimes,
}

/// A candidate. [`Elector::run`] it for [`Elector::leadership`] to mean something.
pub struct Elector {
    caller: Caller,
    config: LeaseConfig,
    leadership: Leadership,
    seen: Option<Seen>,
    /// The highest epoch that was ever seen here.
    epoch: u64,
    /// The Lease could not be read or written at the last try.
    failing: bool,
    /// Somebody else was first at the last try.
    late: bool,
}

/// A Lease as it was last read.
#[derive(Clone, Debug)]
struct Seen {
    version: String,
    spec: Value,
    address: String,
    /// What a leader says of itself beside the spec.
    annotations: Value,
    labels: Value,
    /// When it was first seen to say what it says: on our clock.
    since: u64,
}

impl Seen {
    fn holder(&self) -> &str {
        self.spec["holderIdentity"].as_str().unwrap_or_default()
    }

    fn is_over(&self, now: u64) -> bool {
        let seconds = self.spec["leaseDurationSeconds"].as_u64().unwrap_or_default();
        self.holder().is_empty() || now.saturating_sub(self.since) >= nanos(Duration::from_secs(seconds))
    }
}

impl Elector {
    pub(crate) fn new(caller: Caller, config: LeaseConfig) -> Elector {
        Elector {
            caller,
            config,
            leadership: Leadership::none(),
            seen: None,
            epoch: 0,
            failing: false,
            late: false,
        }
    }

    /// What the candidate has to say about it.
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Stand for election until shutdown, and give the Lease back then.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let wait = tokio::select! {
                () = shutdown.cancelled() => break,
                wait = self.round() => wait,
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.resign().await;
    }

    /// One try to get or to keep the Lease; how long until the next.
    async fn round(&mut self) -> Duration {
        let led = match *self.leadership.watch().borrow() {
            Leader::Own { epoch } if !self.leadership.holds() => Some(epoch),
            _ => None,
        };
        if let Some(epoch) = led {
            tracing::warn!("leadership ended: the lease was not renewed in time");
            self.leadership.follow(Leader::Lapsed { epoch });
            self.seen = None;
        }
        let outcome = match tokio::time::timeout(CALL, self.attempt()).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(CallError::TimedOut(CALL)),
        };
        match outcome {
            Ok(()) => (self.failing, self.late) = (false, false),
            Err(error) if error.is_conflict() || error.is_unprocessable() => {
                // Somebody else was first: see who.
                self.forget_version();
                if !std::mem::replace(&mut self.late, true) {
                    return SOON;
                }
            }
            Err(error) => {
                self.forget_version();
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "the lease cannot be read or written");
                }
            }
        }
        self.wait()
    }

    /// Until the next look: `retry` or a little less, but not past the end of another's Lease, and `retry` again where a look at that
    /// end brought nothing: an API that fails is not asked oftener for it.
    fn wait(&self) -> Duration {
        let retry = Backoff::new(self.config.times.retry, self.config.times.retry).next_wait();
        let Some(seen) = self.seen.as_ref().filter(|_| !self.leadership.holds()) else { return retry };
        let seconds = seen.spec["leaseDurationSeconds"].as_u64().unwrap_or_default();
        let end = seen.since.saturating_add(nanos(Duration::from_secs(seconds)));
        match Duration::from_nanos(end.saturating_sub(now())) {
            Duration::ZERO if self.failing || self.late => retry,
            left => retry.min(left.max(SOON)),
        }
    }

    /// Renew from what is known without reading, if this process leads; else read, and take the Lease if it is free.
    async fn attempt(&mut self) -> Result<(), CallError> {
        if self.leadership.holds()
            && let Some(seen) = self.seen.clone().filter(|seen| !seen.version.is_empty())
        {
            return self.write(&seen).await;
        }
        let path = LEASES.path(&self.config.namespace, &self.config.name);
        let lease = match self.caller.get(&path).await {
            Ok(lease) => lease,
            Err(error) if error.is_not_found() => return self.create().await,
            Err(error) => return Err(error),
        };
        let seen = self.observe(&lease);
        if seen.holder() == self.config.identity || seen.is_over(now()) {
            return self.write(&seen).await;
        }
        let other = Leader::Other { identity: seen.holder().to_owned(), address: seen.address };
        if self.leadership.holds() {
            tracing::error!("the lease was taken while this process held it");
        }
        self.leadership.follow(other);
        Ok(())
    }

    async fn create(&mut self) -> Result<(), CallError> {
        let began = now();
        let (label, value) = LEASE_LABEL.split_once('=').unwrap_or_default();
        let lease = json!({
            "apiVersion": LEASES.api_version(),
            "kind": "Lease",
            "metadata": {
                "name": self.config.name,
                "namespace": self.config.namespace,
                "labels": {label: value},
                "annotations": self.annotations(&Value::Null, self.next_epoch()),
            },
            "spec": self.spec(&Value::Null, true),
        });
        let answer = self.caller.create(&LEASES.path(&self.config.namespace, ""), &lease).await?;
        self.won(&answer, began);
        Ok(())
    }

    /// Take or renew the Lease in the state in which it was seen.
    async fn write(&mut self, seen: &Seen) -> Result<(), CallError> {
        let began = now();
        let renews = seen.holder() == self.config.identity;
        let mut steps = vec![
            json!({"op": "test", "path": "/metadata/resourceVersion", "value": seen.version}),
            json!({"op": "add", "path": "/spec", "value": self.spec(&seen.spec, !renews)}),
        ];
        let known = epoch_of(&seen.annotations);
        let epoch = known.filter(|_| renews).unwrap_or_else(|| self.next_epoch());
        let annotations = self.annotations(&seen.annotations, epoch);
        if annotations != seen.annotations {
            steps.push(json!({"op": "add", "path": "/metadata/annotations", "value": annotations}));
        }
        // By it the others find this one.
        let (label, value) = LEASE_LABEL.split_once('=').unwrap_or_default();
        if seen.labels[label] != value {
            let mut labels = seen.labels.as_object().cloned().unwrap_or_default();
            labels.insert(label.to_owned(), Value::from(value));
            steps.push(json!({"op": "add", "path": "/metadata/labels", "value": labels}));
        }
        let path = LEASES.path(&self.config.namespace, &self.config.name);
        let answer = self.caller.patch(&path, PatchKind::Json, &Value::Array(steps)).await?;
        self.won(&answer, began);
        Ok(())
    }

    /// Those that are there, and ours.
    fn annotations(&self, there: &Value, epoch: u64) -> Value {
        let mut all = there.as_object().cloned().unwrap_or_default();
        all.insert(ADDRESS_ANNOTATION.to_owned(), Value::from(self.config.address.as_str()));
        all.insert(ADMIN_PORT_ANNOTATION.to_owned(), Value::from(self.config.admin_port.to_string()));
        all.insert(NAMESPACES_ANNOTATION.to_owned(), Value::from(self.config.namespaces.join(",")));
        all.insert(EPOCH_ANNOTATION.to_owned(), Value::from(epoch.to_string()));
        Value::Object(all)
    }

    /// One that is larger than all before, also those of a Lease that was deleted: nobody counts faster than seconds go by.
    fn next_epoch(&self) -> u64 {
        let seconds = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
        seconds.max(self.epoch.saturating_add(1))
    }

    fn won(&mut self, lease: &Value, began: u64) {
        let seen = self.observe(lease);
        if !self.leadership.holds() {
            tracing::info!(identity = self.config.identity, "this process leads");
        }
        let epoch = epoch_of(&seen.annotations).unwrap_or(self.epoch);
        self.leadership.lead(began.saturating_add(nanos(self.config.times.renewal)), epoch);
    }

    /// The spec with which this process holds the Lease. `takes`: it did not before.
    fn spec(&self, before: &Value, takes: bool) -> Value {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let transitions = before["leaseTransitions"].as_u64().unwrap_or_default();
        // The chart makes one that nobody has ever held.
        let was_held = !before["acquireTime"].is_null();
        json!({
            "holderIdentity": self.config.identity,
            "leaseDurationSeconds": self.config.times.duration.as_secs().max(1),
            "acquireTime": if takes { json!(time) } else { before["acquireTime"].clone() },
            "renewTime": time,
            "leaseTransitions": transitions + u64::from(takes && was_held),
        })
    }

    fn observe(&mut self, lease: &Value) -> Seen {
        let annotations = &lease["metadata"]["annotations"];
        let spec = lease["spec"].clone();
        let since = self.seen.as_ref().filter(|seen| seen.spec == spec).map_or_else(now, |seen| seen.since);
        let seen = Seen {
            version: lease["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned(),
            address: annotations[ADDRESS_ANNOTATION].as_str().unwrap_or_default().to_owned(),
            annotations: annotations.clone(),
            labels: lease["metadata"]["labels"].clone(),
            spec,
            since,
        };
        self.epoch = self.epoch.max(epoch_of(annotations).unwrap_or_default());
        self.seen = Some(seen.clone());
        seen
    }

    /// The next try reads the Lease; for how long it has said what it says is still known.
    fn forget_version(&mut self) {
        if let Some(seen) = &mut self.seen {
            seen.version.clear();
        }
    }

    /// Give the Lease back, so that nobody has to wait for its end.
    async fn resign(mut self) {
        if !self.leadership.holds() {
            return;
        }
        let Some(seen) = self.seen.take().filter(|seen| !seen.version.is_empty()) else { return };
        self.leadership.follow(Leader::Unknown);
        let mut spec = self.spec(&seen.spec, false);
        spec["holderIdentity"] = Value::from("");
        spec["leaseDurationSeconds"] = Value::from(1);
        let patch = json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": seen.version},
            {"op": "add", "path": "/spec", "value": spec},
        ]);
        let path = LEASES.path(&self.config.namespace, &self.config.name);
        let given = tokio::time::timeout(CALL, self.caller.patch(&path, PatchKind::Json, &patch)).await;
        if !matches!(given, Ok(Ok(_))) {
            tracing::info!("the lease could not be given back; it runs out by itself");
        }
    }
}

fn epoch_of(annotations: &Value) -> Option<u64> {
    annotations[EPOCH_ANNOTATION].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::ControlStatus;

    /// That many seconds from now.
    fn seconds(count: u64) -> u64 {
        now() + nanos(Duration::from_secs(count))
    }

    /// A candidate that holds `lease`, which is what its API answers, but not before `go`.
    fn candidate(lease: Value, go: &CancellationToken) -> Elector {
        let (go, body) = (go.clone(), lease.to_string());
        let slow = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            let (go, body) = (go.clone(), body.clone());
            async move {
                go.cancelled().await;
                Ok::<_, std::io::Error>(http::Response::new(kube::client::Body::from(body.into_bytes())))
            }
        });
        let caller = Caller::new(kube::Client::new(slow, "default"), Arc::new(ControlStatus::default()));
        let config = LeaseConfig {
            namespace: "default".to_owned(),
            name: "test-weir-leader".to_owned(),
            identity: "us".to_owned(),
            address: String::new(),
            admin_port: 0,
            namespaces: Vec::new(),
            times: LeaseTimes { renewal: Duration::from_secs(600), ..LeaseTimes::default() },
        };
        let mut elector = Elector::new(caller, config);
        elector.observe(&lease);
        elector
    }

    #[tokio::test]
    async fn leadership_that_ends_while_it_is_renewed_is_told_when_it_is_back() {
        let go = CancellationToken::new();
        let lease = json!({
            "metadata": {"resourceVersion": "5", "annotations": {EPOCH_ANNOTATION: "7"}},
            "spec": {"holderIdentity": "us", "leaseDurationSeconds": 15},
        });
        let mut elector = candidate(lease, &go);
        let leadership = elector.leadership();
        leadership.lead(now() + nanos(Duration::from_millis(500)), 7);
        let mut leader = leadership.watch();
        // As those who write do: look, and look again when there is news.
        let waiter = async {
            while leadership.holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            go.cancel();
            while !leadership.holds() {
                leader.changed().await.expect("the candidate lives");
            }
        };
        let waiter = tokio::time::timeout(Duration::from_secs(20), waiter);
        let (answer, waited) = tokio::join!(elector.attempt(), waiter);
        answer.expect("it is renewed");
        waited.expect("it is told");
        assert_eq!(*leadership.watch().borrow(), Leader::Own { epoch: 7 }, "nobody else led meanwhile");
    }

    #[tokio::test]
    async fn to_take_a_lease_that_nobody_has_held_is_no_transition() {
        let elector = candidate(Value::Null, &CancellationToken::new());
        let transitions = |before: Value, takes| elector.spec(&before, takes)["leaseTransitions"].clone();
        for never_held in [Value::Null, json!({})] {
            assert_eq!(transitions(never_held, true), 0, "as the chart makes it");
        }
        let released = json!({"holderIdentity": "", "acquireTime": "2026-01-01T00:00:00.000000Z", "leaseTransitions": 4});
        assert_eq!((transitions(released.clone(), true), transitions(released, false)), (json!(5), json!(4)));
    }

    #[tokio::test]
    async fn who_led_last_knows_it_until_the_lease_can_be_read() {
        let held_by = |who: &str| {
            json!({
                "metadata": {"resourceVersion": "6", "annotations": {EPOCH_ANNOTATION: "9"}},
                "spec": {"holderIdentity": who, "leaseDurationSeconds": 15},
            })
        };
        let go = CancellationToken::new();
        go.cancel();
        let mut elector = candidate(held_by("another"), &go);
        let known = std::mem::replace(&mut elector.caller, Caller::to_nobody());
        let leadership = elector.leadership();
        elector.round().await;
        assert_eq!(*leadership.watch().borrow(), Leader::Unknown, "it never led");
        leadership.lead(1, 7);
        elector.round().await;
        elector.round().await;
        assert_eq!(*leadership.watch().borrow(), Leader::Lapsed { epoch: 7 });
        elector.caller = known;
        elector.round().await;
        assert!(
            matches!(&*leadership.watch().borrow(), Leader::Other { identity, .. } if identity == "another")
        );
    }

    #[tokio::test]
    async fn an_api_that_fails_is_not_asked_oftener_because_a_lease_has_ended() {
        let go = CancellationToken::new();
        let lease = json!({
            "metadata": {"resourceVersion": "6"},
            "spec": {"holderIdentity": "another", "leaseDurationSeconds": 0},
        });
        let mut elector = candidate(lease, &go);
        assert_eq!(elector.wait(), SOON, "it has just ended: the first look is at once");
        elector.caller = Caller::to_nobody();
        for _ in 0..3 {
            assert!(elector.round().await >= elector.config.times.retry / 2);
        }
    }

    #[test]
    fn leadership_that_is_renewed_in_time_is_no_news() {
        let leadership = Leadership::none();
        leadership.lead(seconds(60), 1);
        let leader = leadership.watch();
        leadership.lead(seconds(120), 1);
        assert!(!leader.has_changed().expect("it lives"));
        leadership.lead(1, 1);
        assert!(!leader.has_changed().expect("it lives"), "it was in force until now");
        leadership.lead(seconds(60), 1);
        assert!(leader.has_changed().expect("it lives"), "it is in force again");
    }
}

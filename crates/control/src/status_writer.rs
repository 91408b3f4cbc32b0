//! The only writer of status.
//!
//! Holds, for each object, what its status should say and what it was last seen to say, and writes the difference.
//! Invariants: a status is written only when it changes, whole, against the `resourceVersion` it was computed from (a
//! JSON patch whose first step tests it), so a concurrent write is never lost: after a conflict the object is read
//! and merged again. The newest wish for an object wins; there is one entry for each object, so the queue is bounded
//! by the objects, and by [`MAX_OBJECTS`]. A status that others overwrite is written again, more and more slowly.
//! Where statuses are refused for want of a right, one object at a time asks whether they still are.
//! A status in which only others have a say is not kept: it is read when there is something to say beside them.
//! A wish made for an older generation than the object now has is dropped: the newer one is on its way.
//! Deliberately absent: what a status says, and when the data plane allows it to be said.

mod merge;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weir_api::condition::types;
use weir_api::gateway_api::{AddressType, GatewayStatusAddress};
use weir_core::{Kind, ObjectKey};

pub(crate) use self::merge::{Desired, OurNames};
use self::merge::{merge, only_counts_differ};
use crate::backoff::Backoff;
use crate::call::{CallError, Caller, PatchKind};
use crate::kinds::{Versions, path};
use crate::metrics::ControlStatus;
use crate::source::{RETRY_CAP, RETRY_FIRST};

/// Objects whose status can be wanted at a time; more are refused and counted.
const MAX_OBJECTS: usize = 250_000;

/// Writes on their way at a time.
const IN_FLIGHT: usize = 16;

/// While the numbers of attached routes keep changing, they are written at most once in this time...
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// ...or when they have not changed for this long.
const COUNT_QUIET: Duration = Duration::from_millis(90);

/// A status that another writer changed back is repaired after this long, doubled each time up to [`RETRY_CAP`].
const REPAIR_FIRST: Duration = Duration::from_millis(20);

/// Without a fight for this long, the next repair is a first one again.
const REPAIR_FORGET: Duration = Duration::from_secs(300);

/// Conflicts in a row that are answered at once; after that the backoff decides.
const QUICK_CONFLICTS: u32 = 3;

/// A handle; cheap to clone.
#[derive(Clone)]
pub(crate) struct StatusWriter {
    shared: Arc<Shared>,
}

struct Shared {
    caller: Caller,
    status: Arc<ControlStatus>,
    table: Mutex<Table>,
    ready: Notify,
}

#[derive(Default)]
struct Table {
    /// Whose entries are ours.
    ours: OurNames,
    entries: HashMap<ObjectKey, Entry>,
    due: BTreeSet<(Instant, ObjectKey)>,
    /// Where statuses of a kind may not be written (by its namespace), and when that is asked again.
    denied: HashMap<(Kind, String), Instant>,
    versions: Versions,
    /// Entries that there ever were.
    entries_made: u64,
}

struct Entry {
    /// Tells it from an earlier entry of the same name: an answer belongs to the entry that asked.
    number: u64,
    wanted: Option<Wanted>,
    observed: Option<Observed>,
    /// The wish that was written last, and the status that the server made of it: a server that adds defaults must
    /// not be written to for ever.
    settled: Option<(Arc<Desired>, Value)>,
    /// The version and wish that the server refused for good.
    refused: Option<(String, Arc<Desired>)>,
    /// Under which time it is in [`Table::due`]; `None`: it is not.
    due: Option<Instant>,
    busy: bool,
    /// Something changed while a call was on its way.
    again: bool,
    last_count_write: Option<Instant>,
    conflicts: u32,
    backoff: Backoff,
    repairs: Backoff,
    last_repair: Option<Instant>,
}

#[derive(Clone)]
struct Wanted {
    uid: String,
    generation: i64,
    desired: Arc<Desired>,
    changed: Instant,
}

struct Observed {
    uid: String,
    resource_version: String,
    generation: i64,
    status: Value,
}

/// What to do about one object now.
enum Plan {
    Nothing,
    Wait(Instant),
    Read(String),
    Write { path: String, patch: Value, version: String, desired: Arc<Desired>, counts_only: bool },
}

/// One finished call.
struct Done {
    key: ObjectKey,
    entry: u64,
    plan: Plan,
    answer: Result<Value, CallError>,
}

impl StatusWriter {
    pub(crate) fn new(caller: Caller, status: Arc<ControlStatus>, ours: OurNames) -> StatusWriter {
        let table = Mutex::new(Table { ours, ..Table::default() });
        let shared = Shared { caller, status, table, ready: Notify::new() };
        StatusWriter { shared: Arc::new(shared) }
    }

    /// Entries under these names alone are ours from now on.
    pub(crate) fn answer_for(&self, ours: OurNames) {
        self.shared.table.lock().ours = ours;
    }

    /// Another process writes from now on: nothing that is wanted is to be written. What is seen is kept.
    #[expect(clippy::iter_over_hash_type, reason = "every entry is treated alike, in any order")]
    pub(crate) fn fall_silent(&self) {
        let mut table = self.shared.table.lock();
        table.due.clear();
        for entry in table.entries.values_mut() {
            entry.wanted = None;
            entry.due = None;
            entry.again = false;
        }
        self.woken(&table);
    }

    /// The status of this object is another's to write.
    pub(crate) fn let_be(&self, key: &ObjectKey) {
        if let Some(entry) = self.shared.table.lock().entries.get_mut(key) {
            entry.wanted = None;
        }
    }

    /// The version in which a kind's statuses are written from now on.
    pub(crate) fn serve(&self, kind: Kind, version: Option<&'static str>) {
        let mut table = self.shared.table.lock();
        let Some(version) = version else {
            table.versions.remove(&kind);
            return;
        };
        table.versions.insert(kind, version);
        let now = Instant::now();
        let mut wanted: Vec<ObjectKey> = table
            .entries
            .iter()
            .filter(|(key, entry)| key.kind == kind && entry.wanted.is_some())
            .map(|(key, _)| key.clone())
            .collect();
        wanted.sort();
        for key in wanted {
            table.schedule(&key, now);
        }
        self.woken(&table);
    }

    /// The API was put back to an earlier day: what was seen and written of a kind, in one namespace or in all, may never have been.
    #[expect(clippy::iter_over_hash_type, reason = "every entry is treated alike, in any order")]
    pub(crate) fn put_back(&self, kind: Kind, namespace: &str) {
        let mut table = self.shared.table.lock();
        for (key, entry) in &mut table.entries {
            if key.kind == kind && (namespace.is_empty() || key.namespace == namespace) {
                (entry.observed, entry.settled, entry.refused) = (None, None, None);
            }
        }
    }

    /// This object's status should say this. `generation` 0: of any generation.
    pub(crate) fn want(&self, key: &ObjectKey, uid: &str, generation: i64, desired: Desired) {
        let mut table = self.shared.table.lock();
        if table.entries.len() >= MAX_OBJECTS && !table.entries.contains_key(key) {
            self.shared.status.status_dropped.add(1);
            return;
        }
        let now = Instant::now();
        let entry = table.entry(key);
        let same = entry.wanted.as_ref().is_some_and(|wanted| {
            *wanted.desired == desired && wanted.generation == generation && wanted.uid == uid
        });
        if same {
            return;
        }
        entry.wanted =
            Some(Wanted { uid: uid.to_owned(), generation, desired: Arc::new(desired), changed: now });
        table.schedule(key, now);
        self.woken(&table);
    }

    /// The object as a watch or list showed it.
    pub(crate) fn observe(&self, key: &ObjectKey, object: &Value) {
        let observed = Observed::of(object);
        let mut table = self.shared.table.lock();
        if table.is_anothers(key, &observed.status) {
            return table.forget(key);
        }
        if table.entries.len() >= MAX_OBJECTS && !table.entries.contains_key(key) {
            self.shared.status.status_dropped.add(1);
            return;
        }
        let now = Instant::now();
        let entry = table.entry(key);
        if entry.observed.as_ref().is_some_and(|before| before.is_newer_than(&observed)) {
            return;
        }
        let drifted = entry.drifted(&observed);
        entry.observed = Some(observed);
        if entry.wanted.is_none() {
            return;
        }
        let at = if drifted { entry.repair_at(now) } else { now };
        table.schedule(key, at);
        self.woken(&table);
    }

    /// Where the status of a Gateway, as it was last seen, says that clients find it.
    pub(crate) fn seen_addresses(&self, gateway: &ObjectKey) -> Vec<GatewayStatusAddress> {
        let table = self.shared.table.lock();
        let seen = table.entries.get(gateway).and_then(|entry| entry.observed.as_ref());
        let addresses = seen.and_then(|seen| seen.status["addresses"].as_array()).into_iter().flatten();
        let read = |address: &Value| {
            let value = address["value"].as_str()?.to_owned();
            let type_ = address["type"].as_str().map_or_else(AddressType::default, AddressType::from);
            Some(GatewayStatusAddress { type_, value })
        };
        addresses.filter_map(read).collect()
    }

    /// Whether the status of a Gateway or ListenerSet, as it was last seen, says that it is programmed.
    pub(crate) fn seen_programmed(&self, key: &ObjectKey) -> bool {
        let table = self.shared.table.lock();
        let seen = table.entries.get(key).and_then(|entry| entry.observed.as_ref());
        seen.and_then(Observed::programmed).is_some_and(|condition| condition["status"] == "True")
    }

    /// Whether what it says of that is of an earlier generation of it.
    pub(crate) fn seen_edited(&self, key: &ObjectKey) -> bool {
        let table = self.shared.table.lock();
        let seen = table.entries.get(key).and_then(|entry| entry.observed.as_ref());
        seen.is_some_and(|seen| {
            let said = seen.programmed().and_then(|condition| condition["observedGeneration"].as_i64());
            said.is_some_and(|generation| generation < seen.generation)
        })
    }

    /// The object is gone.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.shared.table.lock().forget(key);
    }

    fn woken(&self, table: &Table) {
        self.shared.status.status_queue.set(table.due.len() as u64);
        self.shared.ready.notify_one();
    }

    /// Write until shutdown.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut calls = FuturesUnordered::new();
        let mut leader = self.shared.caller.leadership().watch();
        let mut granted = self.shared.status.rights.granted();
        loop {
            let next = loop {
                let room = calls.len() < IN_FLIGHT;
                match self.take_due(room) {
                    Take::Call(key, entry, plan) => calls.push(self.call(key, entry, plan)),
                    Take::Until(at) => break at,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.shared.ready.notified() => {}
                () = until(next) => {}
                Ok(()) = leader.changed() => {}
                Ok(()) = granted.changed() => self.shared.table.lock().ask_again(Instant::now()),
                Some(done) = calls.next() => self.finish(done),
            }
        }
    }

    /// The next call to make, or when to look again (`None`: when woken).
    fn take_due(&self, room: bool) -> Take {
        let mut table = self.shared.table.lock();
        let table = &mut *table;
        let now = Instant::now();
        let may = room && self.shared.caller.leadership().holds();
        loop {
            let Some((at, key)) = table.due.first().cloned() else {
                self.shared.status.status_queue.set(0);
                return Take::Until(None);
            };
            if !may {
                return Take::Until(None);
            }
            if at > now {
                return Take::Until(Some(at));
            }
            table.due.pop_first();
            self.shared.status.status_queue.set(table.due.len() as u64);
            let Some(entry) = table.entries.get_mut(&key) else { continue };
            entry.due = None;
            // What is wanted of a kind that is not served is planned again when it is.
            let Some(path) = path(&table.versions, &key) else { continue };
            let denied = table.denied.get(&(key.kind, key.namespace.clone())).copied();
            if let Some(again) = denied.filter(|again| *again > now) {
                table.schedule(&key, again);
                continue;
            }
            match entry.plan(key.kind, path, &table.ours, now) {
                Plan::Nothing => {}
                Plan::Wait(at) => table.schedule(&key, at),
                plan => {
                    entry.busy = true;
                    return Take::Call(key, entry.number, plan);
                }
            }
        }
    }

    async fn call(&self, key: ObjectKey, entry: u64, plan: Plan) -> Done {
        let caller = &self.shared.caller;
        let answer = match &plan {
            Plan::Read(path) => caller.get(path).await,
            Plan::Write { path, patch, .. } => {
                caller.patch(&format!("{path}/status"), PatchKind::Json, patch).await
            }
            // Never called with these.
            Plan::Nothing | Plan::Wait(_) => Ok(Value::Null),
        };
        Done { key, entry, plan, answer }
    }

    fn finish(&self, done: Done) {
        let status = &self.shared.status;
        let mut table = self.shared.table.lock();
        let now = Instant::now();
        // The object may be gone, or another have its name: what was asked of the first says nothing of that.
        let entry = table.entries.get_mut(&done.key).filter(|entry| entry.number == done.entry);
        let Some(entry) = entry else { return };
        entry.busy = false;
        let mut next = std::mem::take(&mut entry.again).then_some(now);
        let mut denied = false;
        match (done.plan, done.answer) {
            (Plan::Write { desired, counts_only, .. }, Ok(object)) => {
                status.status_writes.add(1);
                let observed = Observed::of(&object);
                entry.settled = Some((desired, observed.status.clone()));
                entry.last_count_write = counts_only.then_some(now).or(entry.last_count_write);
                entry.adopt(observed);
                entry.conflicts = 0;
                entry.backoff.reset();
            }
            (Plan::Read(_), Ok(object)) => {
                entry.adopt(Observed::of(&object));
                next = Some(now);
            }
            (Plan::Write { version, desired, .. }, Err(error))
                if error.is_conflict() || error.is_unprocessable() =>
            {
                status.status_conflicts.add(1);
                if error.is_unprocessable() {
                    // Either the test of the version failed, or the status itself is refused: reading tells.
                    entry.refused = Some((version, desired));
                }
                entry.observed = None;
                entry.conflicts += 1;
                let wait = if entry.conflicts <= QUICK_CONFLICTS {
                    Duration::ZERO
                } else {
                    entry.backoff.next_wait()
                };
                next = Some(now + wait);
                tracing::debug!(object = %done.key, %error, "status write met another write");
            }
            (_, Err(error)) if error.is_not_leading() => next = Some(now),
            (_, Err(error)) if error.is_denied() => {
                // The right is told as one that is missing.
                status.status_errors.add(1);
                next = Some(now + RETRY_CAP);
                denied = true;
            }
            (_, Err(error)) => {
                status.status_errors.add(1);
                let wait = if error.is_final() { RETRY_CAP } else { entry.backoff.next_wait() };
                next = Some(now + wait);
                tracing::warn!(object = %done.key, %error, "status write failed");
            }
            (Plan::Nothing | Plan::Wait(_), Ok(_)) => {}
        }
        if denied {
            table.denied.insert((done.key.kind, done.key.namespace.clone()), now + RETRY_CAP);
        }
        if let Some(at) = next {
            table.schedule(&done.key, at);
        }
        status.status_queue.set(table.due.len() as u64);
    }
}

enum Take {
    Call(ObjectKey, u64, Plan),
    Until(Option<Instant>),
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Table {
    /// Rights were granted: what was refused is tried now.
    fn ask_again(&mut self, now: Instant) {
        let denied = std::mem::take(&mut self.denied);
        let is_refused = |key: &ObjectKey| denied.contains_key(&(key.kind, key.namespace.clone()));
        let waiting: Vec<(Instant, ObjectKey)> =
            self.due.iter().filter(|(at, key)| *at > now && is_refused(key)).cloned().collect();
        for due in waiting {
            self.due.remove(&due);
            if let Some(entry) = self.entries.get_mut(&due.1) {
                entry.due = None;
            }
            self.schedule(&due.1, now);
        }
    }

    /// Whether an object's status is nothing to us so far: what others say is not kept, and read if something is to be said beside it.
    fn is_anothers(&self, key: &ObjectKey, status: &Value) -> bool {
        let is_wanted = self.entries.get(key).is_some_and(|entry| entry.wanted.is_some() || entry.busy);
        !is_wanted && self.ours.have_no_part_in(status)
    }

    fn forget(&mut self, key: &ObjectKey) {
        if let Some(entry) = self.entries.remove(key)
            && let Some(due) = entry.due
        {
            self.due.remove(&(due, key.clone()));
        }
    }

    fn entry(&mut self, key: &ObjectKey) -> &mut Entry {
        let made = &mut self.entries_made;
        self.entries.entry(key.clone()).or_insert_with(|| {
            *made += 1;
            Entry::new(*made)
        })
    }

    /// Look at this object at `at`, or earlier if that was planned.
    fn schedule(&mut self, key: &ObjectKey, at: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.busy {
            entry.again = true;
            return;
        }
        if let Some(due) = entry.due {
            if due <= at {
                return;
            }
            self.due.remove(&(due, key.clone()));
        }
        entry.due = Some(at);
        self.due.insert((at, key.clone()));
    }
}

impl Entry {
    fn new(number: u64) -> Entry {
        Entry {
            number,
            wanted: None,
            observed: None,
            settled: None,
            refused: None,
            due: None,
            busy: false,
            again: false,
            last_count_write: None,
            conflicts: 0,
            backoff: Backoff::new(RETRY_FIRST, RETRY_CAP),
            repairs: Backoff::new(REPAIR_FIRST, RETRY_CAP),
            last_repair: None,
        }
    }

    fn plan(&self, kind: Kind, path: String, ours: &OurNames, now: Instant) -> Plan {
        let Some(wanted) = &self.wanted else { return Plan::Nothing };
        let Some(observed) = &self.observed else { return Plan::Read(path) };
        if observed.uid != wanted.uid && !wanted.uid.is_empty() {
            return Plan::Nothing;
        }
        // To have no entry says nothing of a generation: no newer wish may be on its way.
        let is_of_generation = wanted.generation != 0 && !wanted.desired.is_no_entry();
        if is_of_generation && observed.generation > wanted.generation {
            return Plan::Nothing;
        }
        if self.is_settled(wanted, observed) || self.is_refused(wanted, observed) {
            return Plan::Nothing;
        }
        let Some(merged) = merge(&observed.status, &wanted.desired, ours, &timestamp()) else {
            return Plan::Nothing;
        };
        let counts_only = kind == Kind::Gateway && only_counts_differ(&observed.status, &merged);
        if counts_only && let Some(last) = self.last_count_write {
            let at = (last + COUNT_INTERVAL).min(wanted.changed + COUNT_QUIET);
            if at > now {
                return Plan::Wait(at);
            }
        }
        let patch = json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": observed.resource_version},
            {"op": "add", "path": "/status", "value": merged},
        ]);
        Plan::Write {
            path,
            patch,
            version: observed.resource_version.clone(),
            desired: Arc::clone(&wanted.desired),
            counts_only,
        }
    }

    fn is_settled(&self, wanted: &Wanted, observed: &Observed) -> bool {
        self.settled
            .as_ref()
            .is_some_and(|(desired, status)| *desired == wanted.desired && *status == observed.status)
    }

    fn is_refused(&self, wanted: &Wanted, observed: &Observed) -> bool {
        let refused = self.refused.as_ref().is_some_and(|(version, desired)| {
            *version == observed.resource_version && *desired == wanted.desired
        });
        if refused {
            tracing::warn!(uid = wanted.uid, "the API refuses the status as it is");
        }
        refused
    }

    fn adopt(&mut self, observed: Observed) {
        if !self.observed.as_ref().is_some_and(|before| before.is_newer_than(&observed)) {
            self.observed = Some(observed);
        }
    }

    /// Whether somebody changed a status that we had written and still want.
    fn drifted(&self, observed: &Observed) -> bool {
        match (&self.settled, &self.wanted) {
            (Some((desired, status)), Some(wanted)) => {
                *desired == wanted.desired && *status != observed.status
            }
            _ => false,
        }
    }

    fn repair_at(&mut self, now: Instant) -> Instant {
        if self.last_repair.is_none_or(|last| now.duration_since(last) > REPAIR_FORGET) {
            self.repairs.reset();
        }
        self.last_repair = Some(now);
        now + self.repairs.next_wait()
    }
}

impl Observed {
    fn of(object: &Value) -> Observed {
        let metadata = &object["metadata"];
        Observed {
            uid: metadata["uid"].as_str().unwrap_or_default().to_owned(),
            resource_version: metadata["resourceVersion"].as_str().unwrap_or_default().to_owned(),
            generation: metadata["generation"].as_i64().unwrap_or_default(),
            status: object.get("status").cloned().unwrap_or_default(),
        }
    }

    /// By version, where versions are numbers; else what came last is the newest.
    fn is_newer_than(&self, other: &Observed) -> bool {
        match (self.resource_version.parse::<u64>(), other.resource_version.parse::<u64>()) {
            (Ok(own), Ok(others)) => self.uid == other.uid && own > others,
            _ => false,
        }
    }

    fn programmed(&self) -> Option<&Value> {
        let mut conditions = self.status["conditions"].as_array()?.iter();
        conditions.find(|condition| condition["type"] == types::PROGRAMMED)
    }
}

/// Now, as the API writes times in conditions.
pub(crate) fn timestamp() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer() -> StatusWriter {
        let nobody = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Ok::<_, std::io::Error>(http::Response::new(kube::client::Body::empty()))
        });
        let status = Arc::new(ControlStatus::default());
        let caller = Caller::new(kube::Client::new(nobody, "default"), Arc::clone(&status));
        let writer =
            StatusWriter::new(caller, status, OurNames(vec!["weir.dev/gateway-controller".to_owned()]));
        writer.serve(Kind::HttpRoute, Some("v1"));
        writer
    }

    fn route(uid: &str, version: &str) -> Value {
        json!({"metadata": {"uid": uid, "resourceVersion": version, "generation": 1}})
    }

    fn wish() -> Desired {
        wish_for("g")
    }

    /// What is to be said of one Gateway.
    fn wish_for(gateway: &str) -> Desired {
        Desired::Parents(vec![
            json!({"parentRef": {"name": gateway}, "controllerName": "weir.dev/gateway-controller",
            "conditions": []}),
        ])
    }

    #[tokio::test]
    async fn an_answer_about_an_object_says_nothing_of_its_successor() {
        let (writer, key) = (writer(), ObjectKey::new(Kind::HttpRoute, "default", "r"));
        writer.observe(&key, &route("first", "5"));
        writer.want(&key, "first", 1, wish());
        let Take::Call(_, entry, plan) = writer.take_due(true) else { panic!("a write is due") };
        // It is deleted and made again before the answer is looked at.
        writer.forget(&key);
        writer.observe(&key, &route("second", "9"));
        let answer = Ok(route("first", "6"));
        writer.finish(Done { key: key.clone(), entry, plan, answer });
        writer.want(&key, "second", 1, wish());
        let Take::Call(_, _, Plan::Write { version, .. }) = writer.take_due(true) else {
            panic!("the successor's status is written")
        };
        assert_eq!(version, "9");
    }

    #[tokio::test]
    async fn what_others_alone_say_is_read_when_there_is_something_to_say_beside_it() {
        let (writer, key) = (writer(), ObjectKey::new(Kind::HttpRoute, "default", "r"));
        let said_by = |controllers: &[&str]| {
            let mut route = route("u", "5");
            let parent =
                |name: &&str| json!({"parentRef": {"name": "x"}, "controllerName": name, "conditions": []});
            route["status"] = json!({"parents": controllers.iter().map(parent).collect::<Vec<Value>>()});
            route
        };
        let kept = || writer.shared.table.lock().entries.len();
        writer.observe(&key, &said_by(&["example.com/other"]));
        assert_eq!(kept(), 0);
        for controllers in [&["example.com/other", "weir.dev/gateway-controller"][..], &[]] {
            writer.observe(&key, &said_by(controllers));
            assert_eq!(kept(), 1, "{controllers:?}");
            writer.observe(&key, &said_by(&["example.com/other"]));
            assert_eq!(kept(), 0);
        }
        writer.want(&key, "u", 1, wish());
        let Take::Call(_, entry, plan @ Plan::Read(_)) = writer.take_due(true) else { panic!("it is read") };
        let answer = Ok(said_by(&["example.com/other"]));
        writer.finish(Done { key: key.clone(), entry, plan, answer });
        let Take::Call(_, _, Plan::Write { patch, .. }) = writer.take_due(true) else {
            panic!("it is written")
        };
        let parents = patch[1]["value"]["parents"].as_array().unwrap();
        assert_eq!((parents.len(), &parents[0]["controllerName"]), (2, &json!("example.com/other")));
        // From now on it is ours too, whatever others do to it.
        writer.observe(&key, &said_by(&["example.com/other"]));
        assert_eq!(kept(), 1);
    }

    #[tokio::test]
    async fn statuses_of_a_kind_that_is_not_served_are_written_when_it_is_again() {
        let (writer, key) = (writer(), ObjectKey::new(Kind::HttpRoute, "default", "r"));
        let fallen_due = || {
            assert!(matches!(writer.take_due(true), Take::Until(None)), "nothing can be written");
            assert!(writer.shared.table.lock().due.is_empty());
        };
        let written = || match writer.take_due(true) {
            Take::Call(_, entry, plan @ Plan::Write { .. }) => (entry, plan),
            _ => panic!("a write is due"),
        };
        writer.observe(&key, &route("u", "5"));
        writer.serve(Kind::HttpRoute, None);
        writer.want(&key, "u", 1, wish());
        fallen_due();
        // It falls due once more, for another reason.
        writer.observe(&key, &route("u", "6"));
        fallen_due();
        writer.serve(Kind::HttpRoute, Some("v1"));
        let (entry, plan) = written();
        // The kind goes while the call is on its way, and with it what the answer makes due.
        writer.serve(Kind::HttpRoute, None);
        let conflict =
            CallError::Refused { code: 409, reason: "Conflict".to_owned(), message: String::new() };
        writer.finish(Done { key: key.clone(), entry, plan, answer: Err(conflict) });
        fallen_due();
        writer.observe(&key, &route("u", "7"));
        fallen_due();
        writer.serve(Kind::HttpRoute, Some("v1"));
        let (entry, plan) = written();
        writer.finish(Done { key: key.clone(), entry, plan, answer: Ok(route("u", "8")) });
        assert!(matches!(writer.take_due(true), Take::Until(None)), "it is written");
        writer.want(&key, "u", 1, wish_for("h"));
        written();
    }

    #[tokio::test]
    async fn statuses_that_may_not_be_written_are_asked_about_one_at_a_time() {
        let (writer, now) = (writer(), Instant::now());
        let keys = ["a", "b", "c"].map(|name| ObjectKey::new(Kind::HttpRoute, "default", name));
        for key in &keys {
            writer.observe(key, &route(&key.name, "5"));
            writer.want(key, &key.name, 1, wish());
        }
        let Take::Call(key, entry, plan) = writer.take_due(true) else { panic!("a write is due") };
        let message = "User \"u\" cannot patch resource \"httproutes/status\"".to_owned();
        let denied = CallError::Refused { code: 403, reason: "Forbidden".to_owned(), message };
        writer.finish(Done { key: key.clone(), entry, plan, answer: Err(denied) });
        let Take::Until(Some(at)) = writer.take_due(true) else { panic!("the others wait with the first") };
        assert!(at > now + RETRY_CAP / 2);
        assert_eq!(writer.shared.table.lock().due.len(), keys.len());
        writer.shared.table.lock().ask_again(Instant::now());
        for _ in &keys {
            assert!(matches!(writer.take_due(true), Take::Call(_, _, Plan::Write { .. })), "it is granted");
        }
    }
}

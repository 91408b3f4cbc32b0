//! The data planes that are connected, what each has been sent, and how far they are. Pure: time is passed in.
//!
//! Invariants: nothing is sent before the set of resources is complete; one message of a lane is under way to an instance, and what
//! changes meanwhile is one more key to send and never a queue of messages; a message is a set of one moment, but for endpoints, of
//! which the newest are sent; an instance that does not acknowledge in time is let go; what an instance says of resources that are not
//! its data plane's counts for nothing, its words are cut short, and what it tells is bounded in number, for each and for all of a data
//! plane; a data plane that has no listener and no instance is forgotten.
//!
//! Deliberately absent: connections, certificates and who may be whom.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use weir_model::resource::{Applied, BindReport, DataPlaneName, KindVersion, PlaneApplied, Rejected, Update};
use weir_model::wire::{Acknowledged, Entry, HASH_BYTES, Held, Hello, Lane, Part, Position, Report};

use super::graph::{Graph, PlaneId};

type Key = Arc<str>;

/// A hash by which an instance names what it has; one that is none is all zero.
type HeldHash = [u8; HASH_BYTES];

/// A part is ended when it is so large. Unit: bytes. Source: ours.
const PART_BYTES: usize = 512 * 1024;

/// [`PART_BYTES`], but where a test wants many small parts.
#[derive(Clone, Copy, Debug)]
struct PartSize(usize);

impl Default for PartSize {
    fn default() -> PartSize {
        PartSize(PART_BYTES)
    }
}

/// Keys that may wait for an instance beyond those that it is to have; with more, all is sent. Unit: keys. Source: ours.
const DIRTY_SLACK: usize = 4_096;

/// The longest that a message may go without an acknowledgement. Unit: time. Source: ours.
const ACKNOWLEDGE: Duration = Duration::from_secs(60);

/// The longest that a slow instance holds up a status. Unit: time. Source: ours (a Gateway's claim to be programmed).
const LAGGARDS: Duration = Duration::from_secs(5);

/// For so long an instance that went away is believed to come back. Unit: time. Source: ours, above the longest wait between two
/// attempts of a data plane to connect.
pub(crate) const LINGER: Duration = Duration::from_secs(10);

/// The longest that a set is held back because something that it depends on is waited for. Unit: time. Source: ours, above the time for
/// which translation waits.
const SETTLE: Duration = Duration::from_secs(3);

/// The longest that an instance's words about a socket or a resource may be. Unit: bytes. Source: ours; a condition's message has
/// 32,768 at most, and may put together several.
pub(super) const WORDS_MAX: usize = 1024;

/// Sockets of an instance that count. Unit: sockets. Source: ours; a Gateway with its ListenerSets has some thousands of listeners at
/// most.
pub(super) const BINDS_MAX: usize = 4_096;

/// And of all instances of a data plane; what there is no room for counts for nothing, for others have the same. Unit: sockets.
/// Source: ours; 100 ports of 600 instances. Each look at a data plane is at all of them.
const PLANE_BINDS_MAX: usize = 65_536;

/// Resources that the instances of a data plane may say they cannot use. Unit: resources. Source: ours; as for sockets.
const PLANE_REJECTED_MAX: usize = 65_536;

/// Keys that instances of a data plane hold that have not been sent anything yet; one that comes then is sent everything. Unit: keys.
/// Source: ours; 50 instances of 3,000 routes that come at once, under 100 MiB with keys of 100 bytes.
const PLANE_HELD_MAX: usize = 524_288;

/// The longest key of a resource. Unit: bytes. Source: ours; a kind, a namespace of 63 and a name of 253 have under 340.
const KEY_MAX: usize = 512;

/// The longest literal of an address. Unit: bytes. Source: IPv6, with a zone.
const ADDRESS_MAX: usize = 64;

/// What a process draws to be known by. Unit: bytes. Source: ours; this release draws 16.
const RUN_MAX: usize = 64;

/// The longest name of an instance. Unit: bytes. Source: that of a pod.
const NAME_MAX: usize = 253;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(u64);

/// Why an instance is let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parting {
    /// A later stream of the same process is there.
    Replaced,
    /// It has not acknowledged a message in time.
    Slow,
}

/// What an instance is to be sent next.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Part(Part),
    SplitsWanted(u64),
    Nothing,
    End(Parting),
}

#[derive(Debug, Default)]
pub(crate) struct Fleet {
    graph: Graph,
    /// The last update that was taken in.
    sequence: u64,
    versions: Vec<KindVersion>,
    /// When sending may begin; `None` before the first update.
    opens: Option<Instant>,
    /// Updates of the last [`LAGGARDS`], with their times; and the last one before those.
    sent: VecDeque<(u64, Instant)>,
    aged: u64,
    sessions: BTreeMap<SessionId, Session>,
    /// By data plane.
    states: BTreeMap<PlaneId, PlaneState>,
    sessions_made: u64,
    splits_requested: u64,
    part_size: PartSize,
    /// Another process serves.
    stands_by: bool,
}

/// What is known of a data plane as a whole.
#[derive(Debug, Default)]
struct PlaneState {
    /// The last update that changed what it is to have.
    changed: u64,
    /// Everything up to this update runs.
    runs: u64,
    /// Its binds when the last ready instance went away, and until when they are believed.
    lingering: Option<(Vec<BindReport>, Instant)>,
}

#[derive(Debug)]
struct Session {
    plane: PlaneId,
    instance: String,
    run: Bytes,
    lanes: [LaneState; 2],
    /// What it had when it came; taken by the first message.
    held: Option<HashMap<String, HeldHash>>,
    /// The next message of configuration is to hold everything.
    full: bool,
    report: Report,
    rejected: BTreeMap<String, String>,
    parting: Option<Parting>,
    /// A request for served counts that is to be sent, and the one that was sent and not answered.
    splits: Option<u64>,
    splits_sent: Option<u64>,
    wake: Arc<Notify>,
}

#[derive(Debug, Default)]
struct LaneState {
    dirty: BTreeSet<Key>,
    under_way: Option<UnderWay>,
    /// Of the last message.
    number: u64,
    /// Everything up to this update is acknowledged.
    runs: u64,
}

/// A message that is being sent, or waits for its acknowledgement.
#[derive(Debug)]
struct UnderWay {
    /// What is still to be sent; `None` when all is.
    rest: Option<Rest>,
    /// The update that it is up to date with.
    sequence: u64,
    position: Option<Position>,
    /// How many it names.
    keys: usize,
    /// When its last part was made.
    moved: Instant,
}

#[derive(Debug)]
struct Rest {
    full: bool,
    upserts: VecDeque<Arc<Entry>>,
    removals: VecDeque<String>,
}

/// An instance, for those who look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceReport {
    pub name: String,
    pub ready: bool,
    pub draining: bool,
    /// Everything up to this update runs there.
    pub sequence: u64,
}

/// A data plane, for those who look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaneReport {
    pub name: DataPlaneName,
    /// Resources that it is to have.
    pub resources: usize,
    pub instances: Vec<InstanceReport>,
    /// Everything up to this update runs there, as statuses have it.
    pub sequence: u64,
}

/// What a data plane is to have, and how far its instances are. No resource is in it: some hold private keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaneContents {
    pub name: DataPlaneName,
    /// The last update, and that up to which everything runs there, as statuses have it.
    pub newest: u64,
    pub sequence: u64,
    pub entries: Vec<EntryName>,
    pub instances: Vec<InstanceContents>,
}

/// A resource by its key, with the hash and the number of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryName {
    pub key: Arc<str>,
    pub hash: Bytes,
    pub bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceContents {
    pub report: InstanceReport,
    /// Keys that are not acknowledged yet, on either lane; everything counts before its first message.
    pub waiting: usize,
    /// Resources that it cannot use, with why.
    pub rejected: Vec<(String, String)>,
}

impl Fleet {
    /// Takes an update in and wakes those whom it concerns.
    pub(crate) fn apply(&mut self, update: &Update, now: Instant) {
        self.versions.clone_from(&update.versions);
        if update.sequence == self.sequence {
            // It is the one that is in already, and is newer than it said.
            return;
        }
        let changed = self.graph.apply(update);
        let before = std::mem::replace(&mut self.sequence, update.sequence);
        self.sent.push_back((update.sequence, now));
        let opens = if update.settled { now } else { now + SETTLE };
        let was_open = self.is_open(now);
        self.opens = Some(self.opens.map_or(opens, |known| known.min(opens)));
        for (plane, changed) in &changed {
            self.states.entry(*plane).or_default().changed = update.sequence;
            for session in self.sessions.values_mut().filter(|session| session.plane == *plane) {
                session.mark(&changed.configuration, Lane::Configuration, before);
                session.mark(&changed.endpoints, Lane::Endpoints, before);
                session.collapse(self.graph.entries(*plane).len());
                session.wake.notify_one();
            }
        }
        if self.is_open(now) && !was_open {
            self.sessions.values().for_each(|session| session.wake.notify_one());
        }
    }

    /// Whether another process serves from now on: what ran before it did says nothing of what runs after.
    pub(crate) fn stand_by(&mut self, stands_by: bool) {
        self.stands_by = stands_by;
    }

    /// Whether what there is may be sent.
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        self.opens.is_some_and(|opens| opens <= now)
    }

    /// Where a data plane would be with what there is.
    pub(crate) fn position(&self, epoch: u64) -> Position {
        Position { epoch, versions: self.versions.clone() }
    }

    /// A new stream. `wake` is told when there may be something to send.
    pub(crate) fn connect(&mut self, name: &DataPlaneName, hello: Hello, wake: Arc<Notify>) -> SessionId {
        let plane = self.graph.plane(name);
        self.states.entry(plane).or_default();
        // Of its own: it holds on to no message.
        let run = Bytes::copy_from_slice(&hello.run[..hello.run.len().min(RUN_MAX)]);
        for other in self.sessions.values_mut() {
            if other.plane == plane && !run.is_empty() && other.run == run {
                other.parting = Some(Parting::Replaced);
                other.wake.notify_one();
            }
        }
        self.sessions_made += 1;
        let id = SessionId(self.sessions_made);
        let waiting = self.of_plane(plane).filter_map(|other| other.held.as_ref());
        let room = PLANE_HELD_MAX.saturating_sub(waiting.map(HashMap::len).sum());
        let held = held(hello.held, room);
        let session = Session {
            plane,
            instance: shortened(hello.instance, NAME_MAX),
            run,
            lanes: [LaneState::default(), LaneState::default()],
            held: Some(held),
            full: false,
            report: Report::default(),
            rejected: BTreeMap::new(),
            parting: None,
            splits: None,
            splits_sent: None,
            wake,
        };
        self.sessions.insert(id, session);
        id
    }

    pub(crate) fn disconnect(&mut self, id: SessionId, now: Instant) {
        // With what it said last.
        if let Some(plane) = self.sessions.get(&id).map(|session| session.plane) {
            self.advance(plane);
        }
        let Some(session) = self.sessions.remove(&id) else { return };
        let is_last = !self.of_plane(session.plane).any(|other| other.report.ready);
        if session.report.ready && !session.report.draining && is_last {
            let binds = session.report.binds.iter().filter(|bind| bind.error.is_empty()).cloned().collect();
            let state = self.states.entry(session.plane).or_default();
            state.lingering = Some((binds, now + LINGER));
        }
    }

    /// How far a data plane is by what its instances said so far.
    fn advance(&mut self, plane: PlaneId) {
        let sessions: Vec<&Session> =
            self.sessions.values().filter(|session| session.plane == plane).collect();
        self.states.entry(plane).or_default().advance(&sessions, self.sequence, self.aged);
    }

    fn of_plane(&self, plane: PlaneId) -> impl Iterator<Item = &Session> {
        self.sessions.values().filter(move |session| session.plane == plane)
    }

    /// What an instance is to be sent now.
    pub(crate) fn next(&mut self, id: SessionId, epoch: u64, now: Instant) -> Next {
        let is_open = self.is_open(now);
        let Some(session) = self.sessions.get_mut(&id) else { return Next::End(Parting::Replaced) };
        if let Some(parting) = &session.parting {
            return Next::End(parting.clone());
        }
        if session.lanes.iter().any(|lane| lane.is_late(now)) {
            return Next::End(Parting::Slow);
        }
        if let Some(request) = session.splits.take() {
            session.splits_sent = Some(request);
            return Next::SplitsWanted(request);
        }
        if !is_open {
            return Next::Nothing;
        }
        let entries = self.graph.entries(session.plane);
        let position = Position { epoch, versions: self.versions.clone() };
        // Endpoints first: they are small, and wait for nothing but the first set.
        let is_first = session.lanes[0].runs == 0;
        if !is_first {
            session.begin_endpoints(entries, self.sequence, now);
            if let Some(part) = session.lanes[1].part(Lane::Endpoints, entries, self.part_size, now) {
                return Next::Part(part);
            }
        }
        session.begin_configuration(entries, self.sequence, position, now);
        match session.lanes[0].part(Lane::Configuration, entries, self.part_size, now) {
            Some(part) => Next::Part(part),
            None => Next::Nothing,
        }
    }

    /// When to look at an instance again though nothing woke it.
    pub(crate) fn deadline(&self, id: SessionId, now: Instant) -> Option<Instant> {
        let lanes = &self.sessions.get(&id)?.lanes;
        let late = lanes.iter().filter_map(|lane| Some(lane.under_way.as_ref()?.moved + ACKNOWLEDGE));
        late.chain(self.opens.filter(|opens| *opens > now)).min()
    }

    /// Whether an instance has not acknowledged yet what it was sent.
    pub(crate) fn is_under_way(&self, id: SessionId) -> bool {
        self.sessions
            .get(&id)
            .is_some_and(|session| session.lanes.iter().any(|lane| lane.under_way.is_some()))
    }

    /// An instance says that it runs a message. Whether it was one that is waited for.
    pub(crate) fn acknowledged(&mut self, id: SessionId, said: Acknowledged) -> bool {
        let rejected_room = self.room(id, PLANE_REJECTED_MAX, |other| other.rejected.len());
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        let lane = &mut session.lanes[usize::from(said.lane() == Lane::Endpoints)];
        if lane.number != said.number {
            return false;
        }
        let Some(under_way) = lane.under_way.take_if(|under_way| under_way.rest.is_none()) else {
            return false;
        };
        lane.runs = under_way.sequence;
        // Nobody has a say about what is another's.
        let entries = self.graph.entries(session.plane);
        let own = said.rejected.into_iter().filter(|one| entries.contains_key(one.key.as_str()));
        let own = own.map(|one| (one.key, shortened(one.reason, WORDS_MAX))).take(rejected_room);
        session.rejected = own.collect();
        session.wake.notify_one();
        if let Some(report) = said.report {
            self.reported(id, report);
        }
        true
    }

    /// What the other instances of its data plane leave an instance of `most`.
    fn room(&self, id: SessionId, most: usize, taken: impl Fn(&Session) -> usize) -> usize {
        let Some(plane) = self.sessions.get(&id).map(|session| session.plane) else { return 0 };
        let others = self.sessions.iter().filter(|(other, session)| **other != id && session.plane == plane);
        most.saturating_sub(others.map(|(_, session)| taken(session)).sum())
    }

    /// Whether it says something else than before.
    pub(crate) fn reported(&mut self, id: SessionId, report: Report) -> bool {
        let room = self.room(id, PLANE_BINDS_MAX, |other| other.report.binds.len());
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        let report = bounded(report, room);
        let is_news = session.report != report;
        session.report = report;
        is_news
    }

    /// Asks every instance for its served counts; the number under which they answer, and how many are asked.
    pub(crate) fn want_splits(&mut self) -> (u64, usize) {
        self.splits_requested += 1;
        for session in self.sessions.values_mut() {
            session.splits = Some(self.splits_requested);
            session.wake.notify_one();
        }
        (self.splits_requested, self.sessions.len())
    }

    /// An instance answers a request for served counts: who it is, if it was asked and has not answered yet.
    pub(crate) fn answered_splits(&mut self, id: SessionId, request: u64) -> Option<(DataPlaneName, String)> {
        self.sessions.get_mut(&id)?.splits_sent.take_if(|sent| *sent == request)?;
        self.whose(id)
    }

    /// Data plane and instance of a stream.
    pub(crate) fn whose(&self, id: SessionId) -> Option<(DataPlaneName, String)> {
        let session = self.sessions.get(&id)?;
        Some((self.graph.name(session.plane)?.clone(), session.instance.clone()))
    }

    pub(crate) fn connected(&self) -> usize {
        self.sessions.len()
    }

    /// How far everybody is.
    pub(crate) fn applied(&mut self, now: Instant) -> Applied {
        while self.sent.front().is_some_and(|(_, at)| now.duration_since(*at) >= LAGGARDS)
            && let Some((sequence, _)) = self.sent.pop_front()
        {
            self.aged = sequence;
        }
        let mut applied = Applied { sequence: self.sequence, ..Applied::default() };
        let mut rejected: BTreeMap<&str, &str> = BTreeMap::new();
        let mut by_plane: BTreeMap<PlaneId, Vec<&Session>> = BTreeMap::new();
        for session in self.sessions.values() {
            by_plane.entry(session.plane).or_default().push(session);
        }
        for (plane, name) in self.graph.planes() {
            let state = self.states.entry(plane).or_default();
            let sessions = by_plane.remove(&plane).unwrap_or_default();
            let place = name.place();
            if sessions.is_empty() && self.graph.entries(plane).is_empty() {
                continue;
            }
            if sessions.is_empty() && self.stands_by {
                state.runs = 0;
            }
            state.advance(&sessions, self.sequence, self.aged);
            let ready = sessions.iter().filter(|session| session.report.ready).count();
            if ready > 0 || state.lingering.as_ref().is_some_and(|(_, until)| *until <= now) {
                state.lingering = None;
            }
            applied.binds.extend(binds(&place, &sessions, state));
            for session in &sessions {
                rejected.extend(session.rejected.iter().map(|(key, why)| (key.as_str(), why.as_str())));
            }
            if ready > 0 {
                // What one data plane does or leaves holds nothing of another's back for longer.
                applied.sequence = applied.sequence.min(state.runs.max(self.aged));
            }
            let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            let [connected, ready] = [count(sessions.len()), count(ready)];
            applied.planes.push(PlaneApplied { place, sequence: state.runs, connected, ready });
        }
        let rejected = rejected.into_iter();
        applied.rejected = rejected
            .map(|(key, reason)| Rejected { key: key.to_owned(), reason: reason.to_owned() })
            .collect();
        self.forget_gone(now);
        applied
    }

    /// Gateways come and go for as long as this process runs.
    fn forget_gone(&mut self, now: Instant) {
        let there: BTreeSet<PlaneId> = self.sessions.values().map(|session| session.plane).collect();
        let lingers = |plane: &PlaneId| {
            let lingering = self.states.get(plane).and_then(|state| state.lingering.as_ref());
            lingering.is_some_and(|(_, until)| *until > now)
        };
        let all = self.graph.planes().map(|(plane, _)| plane);
        let gone: Vec<PlaneId> = all
            .filter(|plane| !there.contains(plane) && !self.graph.has_listeners(*plane) && !lingers(plane))
            .collect();
        for plane in gone {
            self.graph.forget(plane);
            self.states.remove(&plane);
        }
    }

    /// When [`Fleet::applied`] may say something else though nothing happened.
    pub(crate) fn applied_deadline(&self) -> Option<Instant> {
        let lingering = self.states.values().filter_map(|state| state.lingering.as_ref());
        let lingering = lingering.map(|(_, until)| *until);
        let behind = self.states.values().any(|state| state.runs < self.sequence);
        let aging = self.sent.front().filter(|_| behind).map(|(_, at)| *at + LAGGARDS);
        lingering.chain(aging).min()
    }

    pub(crate) fn reports(&self) -> Vec<PlaneReport> {
        let planes = self.graph.planes().map(|(plane, name)| PlaneReport {
            name: name.clone(),
            resources: self.graph.entries(plane).len(),
            instances: self.of_plane(plane).map(|session| session.told(self.sequence)).collect(),
            sequence: self.states.get(&plane).map_or(0, |state| state.runs),
        });
        planes.filter(|report| report.resources > 0 || !report.instances.is_empty()).collect()
    }

    /// The same, with every resource by name.
    pub(crate) fn contents(&self) -> Vec<PlaneContents> {
        let planes = self.graph.planes().map(|(plane, name)| {
            let entries = self.graph.entries(plane);
            let instance = |session: &Session| InstanceContents {
                report: session.told(self.sequence),
                waiting: session.waiting(entries.len()),
                rejected: session.rejected.iter().map(|(key, why)| (key.clone(), why.clone())).collect(),
            };
            let name_of = |(key, entry): (&Key, &Arc<Entry>)| EntryName {
                key: key.clone(),
                hash: entry.hash.clone(),
                bytes: entry.body.len(),
            };
            PlaneContents {
                name: name.clone(),
                newest: self.sequence,
                sequence: self.states.get(&plane).map_or(0, |state| state.runs),
                entries: entries.iter().map(name_of).collect(),
                instances: self.of_plane(plane).map(instance).collect(),
            }
        });
        planes.filter(|plane| !plane.entries.is_empty() || !plane.instances.is_empty()).collect()
    }
}

impl PlaneState {
    /// One instance that is ready must run an update, and all that are connected must or have had the time for it.
    fn advance(&mut self, sessions: &[&Session], sequence: u64, aged: u64) {
        let runs = |session: &&Session| session.runs(sequence);
        let Some(best) = sessions.iter().filter(|session| session.report.ready).map(runs).max() else {
            // Nobody is there, and nothing that would have to run changed.
            if self.runs > 0 && self.runs >= self.changed {
                self.runs = self.runs.max(sequence);
            }
            return;
        };
        let worst = sessions.iter().map(runs).min().unwrap_or(best);
        self.runs = self.runs.max(worst.min(best)).max(best.min(aged));
    }
}

/// What an instance says of itself, within bounds: an instance may be anybody's by now. `room`: sockets that there is room for.
fn bounded(report: Report, room: usize) -> Report {
    let Report { ready, binds, draining } = report;
    let mut seen = BTreeSet::new();
    let mut kept = Vec::new();
    for bind in binds.into_iter().filter(|bind| (1..=u32::from(u16::MAX)).contains(&bind.port)) {
        if kept.len() >= BINDS_MAX.min(room) {
            break;
        }
        let address = shortened(bind.address, ADDRESS_MAX);
        if seen.insert((address.clone(), bind.port, bind.udp)) {
            kept.push(BindReport { address, error: shortened(bind.error, WORDS_MAX), ..bind });
        }
    }
    kept.shrink_to_fit();
    Report { ready, binds: kept, draining }
}

/// What an instance says it has. Nothing, if it is more than there is `room` for or not what a data plane can have: all is sent then.
fn held(held: Vec<Held>, room: usize) -> HashMap<String, HeldHash> {
    if held.len() > room || held.iter().any(|one| one.key.len() > KEY_MAX) {
        return HashMap::new();
    }
    let named = |one: Held| (one.key, HeldHash::try_from(&one.hash[..]).unwrap_or_default());
    held.into_iter().map(named).collect()
}

/// Words that get into statuses and logs.
pub(super) fn shortened(mut words: String, max: usize) -> String {
    words.truncate(words.floor_char_boundary(max));
    // What was cut off is not kept.
    words.shrink_to_fit();
    words
}

/// The state of a data plane's sockets: bound where one instance that is ready has it.
fn binds(place: &str, sessions: &[&Session], state: &PlaneState) -> Vec<BindReport> {
    let mut all: BTreeMap<(u32, bool), BindReport> = BTreeMap::new();
    let lingering = state.lingering.iter().flat_map(|(binds, _)| binds);
    let ready =
        sessions.iter().filter(|session| session.report.ready).flat_map(|session| &session.report.binds);
    // Of those that are not ready only what is wrong counts.
    let others = sessions.iter().filter(|session| !session.report.ready);
    let errors = others.flat_map(|session| &session.report.binds).filter(|bind| !bind.error.is_empty());
    for bind in ready.chain(lingering).chain(errors) {
        let known = all.entry((bind.port, bind.udp)).or_insert_with(|| bind.clone());
        if !known.error.is_empty() && bind.error.is_empty() {
            known.clone_from(bind);
        }
    }
    all.into_values().map(|bind| BindReport { address: place.to_owned(), ..bind }).collect()
}

impl Session {
    /// `before`: the update before the one with which the keys changed.
    fn mark(&mut self, keys: &BTreeSet<Key>, lane: Lane, before: u64) {
        // Before the first message all is to be sent anyway.
        if self.held.is_some() || keys.is_empty() {
            return;
        }
        let lane = &mut self.lanes[usize::from(lane == Lane::Endpoints)];
        if lane.is_idle() && lane.runs > 0 {
            lane.runs = lane.runs.max(before);
        }
        lane.dirty.extend(keys.iter().cloned());
    }

    /// Keys that come and go while an instance is slow must not pile up.
    fn collapse(&mut self, wanted: usize) {
        if self.lanes.iter().map(|lane| lane.dirty.len()).sum::<usize>() > wanted + DIRTY_SLACK {
            self.lanes.iter_mut().for_each(|lane| lane.dirty.clear());
            self.full = true;
        }
    }

    fn begin_endpoints(&mut self, entries: &BTreeMap<Key, Arc<Entry>>, sequence: u64, now: Instant) {
        let lane = &mut self.lanes[1];
        if lane.under_way.is_some() || lane.dirty.is_empty() {
            return;
        }
        let keys = std::mem::take(&mut lane.dirty);
        // Those that are gone by now go on the other lane.
        let upserts = keys.iter().filter_map(|key| entries.get(key).cloned()).collect();
        let rest = Rest { full: false, upserts, removals: VecDeque::new() };
        lane.begin(rest, sequence, None, now);
    }

    fn begin_configuration(
        &mut self,
        entries: &BTreeMap<Key, Arc<Entry>>,
        sequence: u64,
        position: Position,
        now: Instant,
    ) {
        if self.lanes[0].under_way.is_some() {
            return;
        }
        let rest = if let Some(held) = self.held.take() {
            difference(entries, &held)
        } else if std::mem::take(&mut self.full) {
            self.lanes[1].dirty.clear();
            Rest { full: true, upserts: entries.values().cloned().collect(), removals: VecDeque::new() }
        } else if self.lanes[0].dirty.is_empty() {
            return;
        } else {
            let keys = std::mem::take(&mut self.lanes[0].dirty);
            let gone = keys.iter().filter(|key| !entries.contains_key(*key));
            let removals = gone.map(|key| key.to_string()).collect();
            let upserts = keys.iter().filter_map(|key| entries.get(key).cloned()).collect();
            Rest { full: false, upserts, removals }
        };
        self.lanes[0].begin(rest, sequence, Some(position), now);
    }

    fn told(&self, sequence: u64) -> InstanceReport {
        InstanceReport {
            name: self.instance.clone(),
            ready: self.report.ready,
            draining: self.report.draining,
            sequence: self.runs(sequence),
        }
    }

    /// How many keys it has not acknowledged; `wanted`: as many as it is to have.
    fn waiting(&self, wanted: usize) -> usize {
        if self.held.is_some() || self.full || self.lanes[0].runs == 0 {
            return wanted;
        }
        self.lanes
            .iter()
            .map(|lane| lane.dirty.len() + lane.under_way.as_ref().map_or(0, |one| one.keys))
            .sum()
    }

    /// Everything up to which update runs there.
    fn runs(&self, sequence: u64) -> u64 {
        let [configuration, endpoints] = &self.lanes;
        // Nothing is known of it before its first message is acknowledged.
        if configuration.runs == 0 {
            return 0;
        }
        let runs = |lane: &LaneState| if lane.is_idle() { sequence } else { lane.runs };
        if self.full { configuration.runs } else { runs(configuration).min(runs(endpoints)) }
    }
}

/// What makes those who hold `held` have `entries`.
fn difference(entries: &BTreeMap<Key, Arc<Entry>>, held: &HashMap<String, HeldHash>) -> Rest {
    let is_known = |entry: &Entry| held.get(&entry.key).is_some_and(|hash| entry.hash == hash[..]);
    let mut removals: Vec<&String> = held.keys().filter(|key| !entries.contains_key(key.as_str())).collect();
    removals.sort();
    Rest {
        full: held.is_empty(),
        upserts: entries.values().filter(|entry| !is_known(entry)).cloned().collect(),
        removals: removals.into_iter().cloned().collect(),
    }
}

impl LaneState {
    fn begin(&mut self, rest: Rest, sequence: u64, position: Option<Position>, now: Instant) {
        self.number += 1;
        let keys = rest.upserts.len() + rest.removals.len();
        self.under_way = Some(UnderWay { rest: Some(rest), sequence, position, keys, moved: now });
    }

    fn is_idle(&self) -> bool {
        self.dirty.is_empty() && self.under_way.is_none()
    }

    fn is_late(&self, now: Instant) -> bool {
        self.under_way.as_ref().is_some_and(|one| now.duration_since(one.moved) >= ACKNOWLEDGE)
    }

    /// The next part of what is under way.
    fn part(
        &mut self,
        lane: Lane,
        entries: &BTreeMap<Key, Arc<Entry>>,
        size: PartSize,
        now: Instant,
    ) -> Option<Part> {
        let under_way = self.under_way.as_mut()?;
        let rest = under_way.rest.as_mut()?;
        let mut part = Part { lane: lane.into(), number: self.number, ..Part::default() };
        part.full = std::mem::take(&mut rest.full);
        let mut bytes = 0;
        while bytes < size.0
            && let Some(key) = rest.removals.pop_front()
        {
            bytes += key.len() + 4;
            part.removals.push(key);
        }
        while bytes < size.0
            && let Some(entry) = rest.upserts.pop_front()
        {
            // Endpoints may have gone ahead on their own lane.
            let newest = entries.get(entry.key.as_str()).filter(|_| entry.key.starts_with("endpoints/"));
            let entry = Entry::clone(newest.unwrap_or(&entry));
            bytes += entry.encoded_len() + 4;
            part.upserts.push(entry);
        }
        under_way.moved = now;
        if rest.removals.is_empty() && rest.upserts.is_empty() {
            part.last = true;
            part.position = under_way.position.take();
            under_way.rest = None;
        }
        Some(part)
    }
}

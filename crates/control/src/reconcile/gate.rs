//! Which statuses may be written yet. Pure: time is passed in.
//!
//! Invariants: a status that follows from an update is written when the data plane runs that update; a route's waits
//! no longer than [`ROUTE_WAIT`], and not at all while none of its Gateways is programmed and the data plane is
//! silent; a Gateway's claim to be programmed waits as long as it takes, the rest of its status no longer than
//! [`GATEWAY_WAIT`]; both wait [`RETURN_WAIT`] for a data plane that has to come back to a process which has just begun to
//! lead; the newest status of an object replaces one that still waits. Where there are several data planes a status waits for
//! those of its own Gateways, so that one which is not there holds up nobody else. Deliberately absent: writing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use weir_api::condition::{Condition, ConditionStatus, reasons, types};
use weir_api::gateway_api::RouteParentStatus;
use weir_core::{Kind, ObjectKey, Status};
use weir_model::resource::{Applied, Rejected};

/// The longest that a route's status waits for the data plane.
const ROUTE_WAIT: Duration = Duration::from_secs(1);

/// After this long without an answer a Gateway's status is written without the claim to be programmed.
const GATEWAY_WAIT: Duration = Duration::from_secs(1);

/// A data plane that has not answered for this long is silent.
const SILENT: Duration = Duration::from_secs(1);

/// So long a Gateway that was programmed is given to be so again when this process begins: its data plane has to come back first. Its routes
/// wait as long, so that what is accepted is in effect then too.
const RETURN_WAIT: Duration = Duration::from_secs(10);

const NOT_YET: &str = "the data plane does not run this generation yet";

#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// The last update that was sent, and the last that every worker runs.
    sent: u64,
    applied: u64,
    outstanding: VecDeque<Outstanding>,
    held: Waiting,
    /// Gateways and ListenerSets whose last status claims that they are programmed.
    programmed: BTreeMap<ObjectKey, bool>,
    /// Resources that the data plane could not compile, by key, with the reason.
    rejected: BTreeMap<String, String>,
    /// Where there are several data planes: the last update that each runs, by place.
    planes: BTreeMap<String, u64>,
}

/// What a Gateway's or a ListenerSet's status waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grounds {
    /// Places of its data planes; none where one data plane serves everything.
    pub(crate) places: Vec<String>,
    /// It is known to have been programmed before.
    pub(crate) was_programmed: bool,
}

/// An update without an answer.
#[derive(Debug)]
struct Outstanding {
    sequence: u64,
    sent: Instant,
    /// Keys of the resources in it.
    touched: Vec<String>,
}

/// Statuses that wait. Invariant: what is not due costs nothing, however many there are.
#[derive(Debug, Default)]
struct Waiting {
    held: BTreeMap<ObjectKey, Held>,
    /// By the data planes that they wait for, then by the update.
    by_sequence: BTreeMap<Vec<String>, BTreeSet<(u64, ObjectKey)>>,
    by_deadline: BTreeSet<(Instant, ObjectKey)>,
}

#[derive(Debug)]
struct Held {
    status: Status,
    sequence: u64,
    /// When to write what can be written without an answer; `None` if that has been done.
    deadline: Option<Instant>,
    /// The data planes that it waits for; none for the one.
    places: Vec<String>,
}

impl Waiting {
    fn insert(&mut self, key: ObjectKey, held: Held) {
        self.remove(&key);
        let of_planes = self.by_sequence.entry(held.places.clone()).or_default();
        of_planes.insert((held.sequence, key.clone()));
        self.by_deadline.extend(held.deadline.map(|at| (at, key.clone())));
        self.held.insert(key, held);
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<Held> {
        let held = self.held.remove(key)?;
        if let Some(of_planes) = self.by_sequence.get_mut(&held.places) {
            of_planes.remove(&(held.sequence, key.clone()));
            if of_planes.is_empty() {
                self.by_sequence.remove(&held.places);
            }
        }
        if let Some(at) = held.deadline {
            self.by_deadline.remove(&(at, key.clone()));
        }
        Some(held)
    }

    /// Those that wait for an update that their data planes run, or no longer than until `now`; in the order of their keys. With how
    /// many were looked at for it.
    fn due(&self, runs: impl Fn(&[String]) -> u64, now: Instant) -> (BTreeSet<ObjectKey>, usize) {
        let answered = self.by_sequence.iter().flat_map(|(places, waiting)| {
            let run = runs(places);
            waiting.iter().take_while(move |(sequence, _)| *sequence <= run)
        });
        let late = self.by_deadline.iter().take_while(|(at, _)| *at <= now);
        let due = answered.map(|(_, key)| key).chain(late.map(|(_, key)| key));
        let mut looked_at = 0;
        let keys = due.inspect(|_| looked_at += 1).cloned().collect();
        (keys, looked_at)
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(at, _)| *at)
    }
}

impl Gate {
    /// An update that changes or removes these resources is on its way to the data plane.
    pub(crate) fn sent(&mut self, sequence: u64, touched: Vec<String>, now: Instant) {
        self.sent = sequence;
        self.outstanding.push_back(Outstanding { sequence, sent: now, touched });
    }

    /// A status that follows from everything sent so far: returned if it may be written now, else kept. `grounds` are those of a
    /// Gateway or ListenerSet.
    pub(crate) fn offer(
        &mut self,
        key: ObjectKey,
        status: Status,
        grounds: impl Fn(&ObjectKey) -> Grounds,
        now: Instant,
    ) -> Option<(ObjectKey, Status)> {
        let conditions = match &status {
            Status::Gateway(status) => Some(&status.conditions),
            Status::ListenerSet(status) => Some(&status.conditions),
            _ => None,
        };
        if let Some(conditions) = conditions {
            let programmed = conditions.iter().any(|c| c.type_ == types::PROGRAMMED && c.is_true());
            self.programmed.insert(key.clone(), programmed);
        }
        let mut own = Grounds::default();
        let mut returns = false;
        let waits = match &status {
            Status::GatewayClass(_) | Status::GatewayConfiguration(_) => false,
            Status::Gateway(_) | Status::ListenerSet(_) => {
                own = grounds(&key);
                returns = self.returns(&own);
                self.runs(&own.places) < self.sent
            }
            Status::Policy(_) | Status::GatewayParameters(_) => self.applied < self.sent,
            Status::Route(parents) => {
                let waits;
                (waits, own.places, returns) = self.route_waits(&key, parents, &grounds, now);
                waits
            }
        };
        let before = self.held.remove(&key);
        if !waits {
            let status = self.judged(&key, status);
            return Some((key, status));
        }
        let is_gateway = matches!(key.kind, Kind::Gateway | Kind::ListenerSet);
        let longest = match (is_gateway, returns) {
            (_, true) => RETURN_WAIT,
            (true, false) => GATEWAY_WAIT,
            (false, false) => ROUTE_WAIT,
        };
        let deadline = before.and_then(|before| before.deadline).unwrap_or(now + longest);
        let held = Held { status, sequence: self.sent, deadline: Some(deadline), places: own.places };
        self.held.insert(key, held);
        None
    }

    /// Whether a status waits for a data plane that was there before this process began, and has not come to it yet.
    fn returns(&self, of: &Grounds) -> bool {
        of.was_programmed && of.places.iter().any(|place| !self.is_known(place))
    }

    /// Whether a route's status waits, for which data planes, and whether one of them has to come back first.
    fn route_waits(
        &self,
        key: &ObjectKey,
        parents: &[RouteParentStatus],
        grounds: impl Fn(&ObjectKey) -> Grounds,
        now: Instant,
    ) -> (bool, Vec<String>, bool) {
        let mut places = Vec::new();
        let mut returns = false;
        let mut is_elsewhere = parents.is_empty();
        let mut is_programmed = false;
        for parent in parents.iter().filter_map(|entry| parent_of(key, entry)) {
            let programmed = self.programmed.get(&parent).copied().unwrap_or_default();
            let of_parent = grounds(&parent);
            let parent_returns = self.returns(&of_parent);
            returns |= parent_returns;
            if of_parent.places.is_empty() {
                is_elsewhere = true;
                is_programmed |= programmed;
            } else if programmed || parent_returns {
                places.extend(of_parent.places);
            }
        }
        if self.runs(&places) < self.sent && !places.is_empty() {
            return (true, places, returns);
        }
        let waits = is_elsewhere && self.applied < self.sent && (!self.is_silent(now) || is_programmed);
        (waits, Vec::new(), false)
    }

    /// The last update that all of these data planes run.
    fn runs(&self, places: &[String]) -> u64 {
        let runs = |place: &String| self.planes.get(place).copied().unwrap_or_default();
        places.iter().map(runs).min().unwrap_or(self.applied)
    }

    /// Whether a data plane has ever run anything that this process sent.
    fn is_known(&self, place: &str) -> bool {
        self.planes.get(place).is_some_and(|runs| *runs > 0)
    }

    /// What data planes run, and without which resources. Returns the keys of resources that were rejected and are not any more, or
    /// the other way round.
    pub(crate) fn applied(&mut self, report: &Applied) -> Vec<String> {
        self.applied = self.applied.max(report.sequence);
        let mut before = BTreeMap::new();
        while self.outstanding.front().is_some_and(|waiting| waiting.sequence <= report.sequence)
            && let Some(answered) = self.outstanding.pop_front()
        {
            before.extend(answered.touched.into_iter().filter_map(|key| self.rejected.remove_entry(&key)));
        }
        if !report.planes.is_empty() {
            self.planes = report.planes.iter().map(|plane| (plane.place.clone(), plane.sequence)).collect();
            // All that are rejected anywhere are told each time.
            before.append(&mut self.rejected);
        }
        let mut changed = Vec::new();
        for Rejected { key, reason } in &report.rejected {
            let known = before.remove(key).or_else(|| self.rejected.get(key).cloned());
            if known.as_ref() != Some(reason) {
                changed.push(key.clone());
            }
            self.rejected.insert(key.clone(), reason.clone());
        }
        changed.extend(before.into_keys());
        changed
    }

    /// What may be written now.
    pub(crate) fn release(&mut self, now: Instant) -> Vec<(ObjectKey, Status)> {
        let (due, _) = self.held.due(|places| self.runs(places), now);
        due.into_iter().filter_map(|key| self.release_one(key)).collect()
    }

    fn release_one(&mut self, key: ObjectKey) -> Option<(ObjectKey, Status)> {
        let Held { status, sequence, places, .. } = self.held.remove(&key)?;
        let status = self.judged(&key, status);
        let mut part = status.clone();
        let (conditions, listeners) = match &mut part {
            Status::Gateway(part) => (&mut part.conditions, &mut part.listeners),
            Status::ListenerSet(part) => (&mut part.conditions, &mut part.listeners),
            _ => return Some((key, status)),
        };
        if sequence <= self.runs(&places) {
            return Some((key, status));
        }
        conditions.iter_mut().for_each(not_yet);
        listeners.iter_mut().flat_map(|listener| &mut listener.conditions).for_each(not_yet);
        self.held.insert(key.clone(), Held { status, sequence, deadline: None, places });
        Some((key, part))
    }

    /// A route that the data plane could not compile is not accepted, whatever translation thought of it.
    fn judged(&self, key: &ObjectKey, status: Status) -> Status {
        let Status::Route(mut parents) = status else { return status };
        let resource = key.route_resource();
        if let Some(reason) = resource.and_then(|resource| self.rejected.get(&resource)) {
            for condition in parents.iter_mut().flat_map(|parent| &mut parent.conditions) {
                if condition.type_ == types::ACCEPTED && condition.is_true() {
                    condition.status = ConditionStatus::False;
                    reasons::UNSUPPORTED_VALUE.clone_into(&mut condition.reason);
                    condition.message = format!("the data plane cannot serve the route: {reason}");
                }
            }
        }
        Status::Route(parents)
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.held.next_deadline()
    }

    pub(crate) fn forget(&mut self, key: &ObjectKey) {
        self.held.remove(key);
        self.programmed.remove(key);
    }

    pub(crate) fn held(&self) -> usize {
        self.held.held.len()
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.outstanding.front().is_some_and(|waiting| now.duration_since(waiting.sent) >= SILENT)
    }
}

/// The Gateway or ListenerSet of an entry in a route's status.
fn parent_of(route: &ObjectKey, entry: &RouteParentStatus) -> Option<ObjectKey> {
    let parent = &entry.parent_ref;
    let namespace = parent.namespace.as_deref().unwrap_or(&route.namespace);
    let kinds = [Kind::Gateway, Kind::ListenerSet];
    let kind = kinds.into_iter().find(|kind| kind.as_str() == parent.kind)?;
    Some(ObjectKey::new(kind, namespace, parent.name.as_str()))
}

/// Take back a claim to be programmed.
fn not_yet(condition: &mut Condition) {
    if condition.type_ == types::PROGRAMMED && condition.is_true() {
        condition.status = ConditionStatus::Unset;
        reasons::PENDING.clone_into(&mut condition.reason);
        NOT_YET.clone_into(&mut condition.message);
    }
}

#[cfg(test)]
mod tests {
    use super::{Gate, Grounds};
    use std::time::Duration;
    use tokio::time::Instant;
    use weir_api::condition::{Condition, ConditionStatus, types};
    use weir_api::gateway_api::{GatewayStatus, ParentReference, RouteParentStatus};
    use weir_core::{Kind, ObjectKey, Status};
    use weir_model::resource::{Applied, PlaneApplied, Rejected};

    fn gateway() -> ObjectKey {
        ObjectKey::new(Kind::Gateway, "default", "g")
    }

    fn route() -> ObjectKey {
        ObjectKey::new(Kind::HttpRoute, "default", "r")
    }

    fn gateway_status(programmed: bool) -> Status {
        Status::Gateway(GatewayStatus {
            conditions: vec![
                Condition::new(types::ACCEPTED, true, "Accepted", "", 1),
                Condition::new(types::PROGRAMMED, programmed, "Programmed", "", 1),
            ],
            ..GatewayStatus::default()
        })
    }

    fn route_status() -> Status {
        let parent_ref: ParentReference = serde_json::from_value(serde_json::json!({"name": "g"})).unwrap();
        Status::Route(vec![RouteParentStatus {
            parent_ref,
            controller_name: "weir.dev/gateway-controller".to_owned(),
            conditions: vec![Condition::new(types::ACCEPTED, true, "Accepted", "", 1)],
        }])
    }

    /// As where one data plane serves everything.
    fn offer(gate: &mut Gate, key: ObjectKey, status: Status, now: Instant) -> Option<(ObjectKey, Status)> {
        gate.offer(key, status, |_| Grounds::default(), now)
    }

    /// As where each Gateway has a data plane of its name.
    fn offer_of(
        gate: &mut Gate,
        key: ObjectKey,
        status: Status,
        now: Instant,
    ) -> Option<(ObjectKey, Status)> {
        gate.offer(key, status, grounds, now)
    }

    fn grounds(gateway: &ObjectKey) -> Grounds {
        Grounds { places: vec![format!("plane:default/{}", gateway.name)], was_programmed: false }
    }

    fn one(sequence: u64) -> Applied {
        Applied { sequence, ..Applied::default() }
    }

    fn rejecting(sequence: u64) -> Applied {
        let rejected = Rejected { key: "httproute/default/r".to_owned(), reason: "too big".to_owned() };
        Applied { rejected: vec![rejected], ..one(sequence) }
    }

    fn planes(sequences: &[(&str, u64)]) -> Applied {
        let plane = |(name, sequence): &(&str, u64)| PlaneApplied {
            place: format!("plane:default/{name}"),
            sequence: *sequence,
            ..PlaneApplied::default()
        };
        let least = sequences.iter().map(|(_, sequence)| *sequence).min().unwrap_or_default();
        Applied { planes: sequences.iter().map(plane).collect(), ..one(least) }
    }

    fn status_of(status: &Status, type_: &str) -> ConditionStatus {
        let conditions = match status {
            Status::Gateway(status) => &status.conditions,
            Status::Route(parents) => &parents[0].conditions,
            _ => panic!("no such status here"),
        };
        conditions.iter().find(|condition| condition.type_ == type_).unwrap().status.clone()
    }

    #[test]
    fn a_status_waits_for_its_update_and_no_longer() {
        let now = Instant::now();
        let mut gate = Gate::default();
        gate.sent(1, vec!["httproute/default/r".to_owned()], now);
        assert!(offer(&mut gate, route(), route_status(), now).is_none());
        assert!(offer(&mut gate, gateway(), gateway_status(true), now).is_none());
        gate.sent(2, Vec::new(), now);
        let other = ObjectKey::new(Kind::HttpRoute, "default", "other");
        assert!(offer(&mut gate, other.clone(), route_status(), now).is_none());
        gate.applied(&one(1));
        let keys: Vec<ObjectKey> = gate.release(now).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [gateway(), route()]);
        gate.applied(&one(2));
        assert_eq!(gate.release(now).len(), 1);
        assert!(offer(&mut gate, other, route_status(), now).is_some(), "nothing is on its way");
    }

    #[test]
    fn a_route_waits_a_second_at_most() {
        let now = Instant::now();
        let mut gate = Gate::default();
        gate.sent(1, vec!["httproute/default/r".to_owned()], now);
        assert!(offer(&mut gate, route(), route_status(), now).is_none());
        let later = now + Duration::from_millis(900);
        assert!(
            offer(&mut gate, route(), route_status(), later).is_none(),
            "a new status does not start it anew"
        );
        assert!(gate.release(later).is_empty());
        assert_eq!(gate.next_deadline(), Some(now + Duration::from_secs(1)));
        assert_eq!(gate.release(now + Duration::from_secs(1)).len(), 1);
        assert_eq!(gate.next_deadline(), None);
    }

    #[test]
    fn a_route_does_not_wait_for_a_silent_data_plane_unless_its_gateway_is_programmed() {
        let now = Instant::now();
        let silent = now + Duration::from_secs(2);
        let mut gate = Gate::default();
        gate.sent(1, vec!["httproute/default/r".to_owned()], now);
        assert!(offer(&mut gate, route(), route_status(), silent).is_some());
        assert!(offer(&mut gate, gateway(), gateway_status(true), now).is_none());
        assert!(offer(&mut gate, route(), route_status(), silent).is_none());
    }

    #[test]
    fn a_gateway_never_claims_to_be_programmed_before_the_answer() {
        let now = Instant::now();
        let mut gate = Gate::default();
        gate.sent(1, vec!["httproute/default/r".to_owned()], now);
        assert!(offer(&mut gate, gateway(), gateway_status(true), now).is_none());
        let late = gate.release(now + Duration::from_secs(5));
        assert_eq!(status_of(&late[0].1, types::PROGRAMMED), ConditionStatus::Unset);
        assert_eq!(status_of(&late[0].1, types::ACCEPTED), ConditionStatus::True);
        assert!(gate.release(now + Duration::from_secs(60)).is_empty(), "told once");
        gate.applied(&one(1));
        let told = gate.release(now + Duration::from_secs(61));
        assert_eq!(status_of(&told[0].1, types::PROGRAMMED), ConditionStatus::True);
    }

    #[test]
    fn what_is_not_due_is_not_looked_at_however_much_waits() {
        let now = Instant::now();
        let mut gate = Gate::default();
        gate.sent(1, Vec::new(), now);
        assert!(offer(&mut gate, route(), route_status(), now).is_none());
        gate.sent(2, Vec::new(), now);
        for number in 0..10_000 {
            let key = ObjectKey::new(Kind::HttpRoute, "default", format!("r{number}"));
            assert!(offer(&mut gate, key, route_status(), now + Duration::from_millis(1)).is_none());
        }
        gate.applied(&one(1));
        assert_eq!(gate.held.due(|_| 1, now).1, 1);
        assert_eq!(gate.release(now).len(), 1);
        assert_eq!(gate.held.due(|_| 1, now).1, 0);
        // Statuses of objects that are gone, or said anew, leave nothing behind.
        for number in 0..5_000 {
            let key = ObjectKey::new(Kind::HttpRoute, "default", format!("r{number}"));
            if number % 2 == 0 {
                gate.forget(&key);
            } else {
                assert!(offer(&mut gate, key, route_status(), now + Duration::from_millis(2)).is_none());
            }
        }
        assert_eq!(gate.next_deadline(), Some(now + Duration::from_millis(1_001)));
        gate.applied(&one(2));
        assert_eq!((gate.release(now).len(), gate.held(), gate.next_deadline()), (7_500, 0, None));
        assert_eq!((gate.held.by_sequence.len(), gate.held.by_deadline.len()), (0, 0));
    }

    #[test]
    fn a_route_that_cannot_be_compiled_is_not_accepted() {
        let now = Instant::now();
        let mut gate = Gate::default();
        gate.sent(1, vec!["httproute/default/r".to_owned()], now);
        assert!(offer(&mut gate, route(), route_status(), now).is_none());
        let changed = gate.applied(&rejecting(1));
        assert_eq!(changed, ["httproute/default/r"]);
        assert_eq!(status_of(&gate.release(now)[0].1, types::ACCEPTED), ConditionStatus::False);
        gate.sent(2, Vec::new(), now);
        gate.applied(&one(2));
        let still = offer(&mut gate, route(), route_status(), now).unwrap();
        assert_eq!(status_of(&still.1, types::ACCEPTED), ConditionStatus::False, "it was not in the update");
        gate.sent(3, vec!["httproute/default/r".to_owned()], now);
        assert_eq!(gate.applied(&one(3)), ["httproute/default/r"]);
        let again = offer(&mut gate, route(), route_status(), now).unwrap();
        assert_eq!(status_of(&again.1, types::ACCEPTED), ConditionStatus::True);
    }

    #[test]
    fn a_status_waits_for_the_data_plane_of_its_own_gateway_and_for_no_other() {
        let now = Instant::now();
        let mut gate = Gate::default();
        let other = ObjectKey::new(Kind::Gateway, "default", "nobody");
        gate.sent(1, Vec::new(), now);
        assert!(offer_of(&mut gate, gateway(), gateway_status(true), now).is_none());
        assert!(offer_of(&mut gate, other.clone(), gateway_status(true), now).is_none());
        assert!(
            offer_of(&mut gate, route(), route_status(), now).is_none(),
            "its Gateway claims to be programmed"
        );
        gate.applied(&planes(&[("g", 1), ("nobody", 0)]));
        let told: Vec<ObjectKey> = gate.release(now).into_iter().map(|(key, _)| key).collect();
        assert_eq!(told, [gateway(), route()]);
        let late = gate.release(now + Duration::from_secs(1));
        assert_eq!(late[0].0, other);
        assert_eq!(status_of(&late[0].1, types::PROGRAMMED), ConditionStatus::Unset);
        assert!(gate.release(now + Duration::from_secs(600)).is_empty());
        gate.applied(&planes(&[("g", 1), ("nobody", 1)]));
        let told = gate.release(now + Duration::from_secs(601));
        assert_eq!(status_of(&told[0].1, types::PROGRAMMED), ConditionStatus::True);
    }

    #[test]
    fn a_route_does_not_wait_at_all_while_its_gateway_is_not_programmed() {
        let now = Instant::now();
        let mut gate = Gate::default();
        gate.sent(1, Vec::new(), now);
        gate.applied(&planes(&[("g", 0)]));
        assert!(offer_of(&mut gate, route(), route_status(), now).is_some());
        assert!(offer_of(&mut gate, gateway(), gateway_status(false), now).is_none());
        assert!(offer_of(&mut gate, route(), route_status(), now).is_some());
        assert!(offer_of(&mut gate, gateway(), gateway_status(true), now).is_none());
        assert!(offer_of(&mut gate, route(), route_status(), now).is_none());
        assert_eq!(gate.release(now + Duration::from_secs(1)).len(), 2, "a second at most");
    }

    #[test]
    fn a_gateway_that_was_programmed_waits_for_its_data_plane_to_come_back() {
        let now = Instant::now();
        let mut gate = Gate::default();
        let before = |gateway: &ObjectKey| Grounds { was_programmed: true, ..grounds(gateway) };
        gate.sent(1, Vec::new(), now);
        // As it looks to a leader that has just begun: nobody has told of a socket.
        assert!(gate.offer(gateway(), gateway_status(false), before, now).is_none());
        assert!(gate.release(now + Duration::from_secs(9)).is_empty());
        gate.applied(&planes(&[("g", 1)]));
        assert!(gate.offer(gateway(), gateway_status(true), before, now).is_some());
        gate.sent(2, Vec::new(), now);
        assert!(gate.offer(gateway(), gateway_status(true), before, now).is_none());
        assert_eq!(gate.release(now + Duration::from_secs(1)).len(), 1, "it is there");
        let mut gate = Gate::default();
        gate.sent(1, Vec::new(), now);
        assert!(gate.offer(gateway(), gateway_status(false), before, now).is_none());
        assert_eq!(gate.release(now + Duration::from_secs(10)).len(), 1, "it does not come");
    }

    #[test]
    fn routes_of_a_gateway_wait_for_its_data_plane_to_come_back() {
        let now = Instant::now();
        let before = |gateway: &ObjectKey| Grounds { was_programmed: true, ..grounds(gateway) };
        for comes in [true, false] {
            let mut gate = Gate::default();
            gate.sent(1, Vec::new(), now);
            assert!(gate.offer(gateway(), gateway_status(false), before, now).is_none());
            assert!(gate.offer(route(), route_status(), before, now).is_none(), "it would say too much");
            assert!(gate.release(now + Duration::from_secs(9)).is_empty());
            if comes {
                gate.applied(&planes(&[("g", 1)]));
                assert_eq!(gate.release(now).len(), 2, "what they say is so");
            } else {
                assert_eq!(gate.release(now + Duration::from_secs(10)).len(), 2, "it does not come");
            }
        }
    }

    #[test]
    fn a_route_is_accepted_again_when_no_data_plane_rejects_it() {
        let now = Instant::now();
        let mut gate = Gate::default();
        gate.sent(1, vec!["httproute/default/r".to_owned()], now);
        let rejected = Applied { rejected: rejecting(1).rejected, ..planes(&[("g", 1)]) };
        assert_eq!(gate.applied(&rejected), ["httproute/default/r"]);
        assert_eq!(gate.applied(&rejected), [] as [&str; 0], "it is known");
        assert_eq!(gate.applied(&planes(&[("g", 1)])), ["httproute/default/r"], "who rejected it is gone");
    }
}

//! What the data plane has been given: messages put together, and refused where they are older than what is there. Pure.
//!
//! Invariants: a message takes effect as a whole or not at all; of endpoints that come on both lanes the last that came counts; a
//! resource that cannot be read hurts only itself.

use std::collections::{BTreeMap, BTreeSet};

use weir_model::resource::{Applied, Body, Rejected, Resource, Update};
use weir_model::wire::{Entry, Held, Lane, Part, Position};

#[derive(Debug, Default)]
pub(crate) struct State {
    entries: BTreeMap<String, Entry>,
    position: Position,
    gathering: [Option<Gathering>; 2],
    /// Resources that could not be compiled, or read.
    rejected: BTreeMap<String, String>,
    /// Of the last update for the proxy, and of the last that it runs.
    sequence: u64,
    runs: u64,
}

/// A message of which not all parts are there.
#[derive(Debug, Default)]
struct Gathering {
    number: u64,
    full: bool,
    upserts: BTreeMap<String, Entry>,
    removals: BTreeSet<String>,
}

/// A message that is complete.
#[derive(Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) lane: Lane,
    pub(crate) number: u64,
    /// What the proxy is to do.
    pub(crate) update: Update,
}

/// Why nothing more is taken from a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TakeError {
    #[error("it is older than what this data plane has: {0}")]
    Older(String),
    #[error("a part of message {0} came while {1} was not complete")]
    Order(u64, u64),
}

impl State {
    /// What was kept of an earlier run.
    pub(crate) fn restored(entries: Vec<Entry>, position: Position) -> State {
        let entries = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        State { entries, position, ..State::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.values()
    }

    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    /// What a controller is told of it.
    pub(crate) fn held(&self) -> Vec<Held> {
        self.entries().map(|entry| Held { key: entry.key.clone(), hash: entry.hash.clone() }).collect()
    }

    /// A new stream: what an earlier one left incomplete is nothing.
    pub(crate) fn begin(&mut self) {
        self.gathering = [None, None];
    }

    /// Takes a part in; the message, if it was the last. `insisted`: an older state is taken all the same.
    pub(crate) fn take(&mut self, mut part: Part, insisted: bool) -> Result<Option<Message>, TakeError> {
        let lane = part.lane();
        let at = usize::from(lane == Lane::Endpoints);
        let number = part.number;
        let gathering = self.gathering[at].get_or_insert_with(|| Gathering {
            number,
            full: part.full,
            ..Gathering::default()
        });
        if gathering.number != number {
            return Err(TakeError::Order(number, gathering.number));
        }
        for entry in part.upserts {
            gathering.removals.remove(&entry.key);
            gathering.upserts.insert(entry.key.clone(), entry);
        }
        for key in part.removals {
            gathering.upserts.remove(&key);
            gathering.removals.insert(key);
        }
        if !part.last {
            return Ok(None);
        }
        let position = part.position.take();
        if !insisted
            && let Some(why) = position.as_ref().and_then(|position| position.older_than(&self.position))
        {
            self.gathering[at] = None;
            return Err(TakeError::Older(why));
        }
        self.position = position.unwrap_or_else(|| std::mem::take(&mut self.position));
        let Some(mut gathered) = self.gathering[at].take() else { return Ok(None) };
        if lane == Lane::Endpoints {
            self.overtake(&mut gathered);
        }
        Ok(Some(Message { lane, number, update: self.commit(gathered) }))
    }

    /// Endpoints went ahead of a message of configuration that has them too, and is older.
    fn overtake(&mut self, gathered: &mut Gathering) {
        if let Some(waiting) = &mut self.gathering[0] {
            for (key, entry) in &gathered.upserts {
                if let Some(older) = waiting.upserts.get_mut(key) {
                    older.clone_from(entry);
                }
            }
        }
        // Those of a backend that is not there yet come again with it.
        gathered.upserts.retain(|key, _| self.entries.contains_key(key));
    }

    fn commit(&mut self, gathered: Gathering) -> Update {
        self.sequence += 1;
        if gathered.full {
            self.entries.clear();
            self.rejected.clear();
        }
        let mut update = Update { sequence: self.sequence, full: gathered.full, ..Update::default() };
        for key in gathered.removals {
            self.entries.remove(&key);
            self.rejected.remove(&key);
            update.removals.push(key);
        }
        for (key, entry) in gathered.upserts {
            self.rejected.remove(&key);
            match entry.resource() {
                Ok(resource) => update.upserts.push(resource),
                Err(error) => _ = self.rejected.insert(key.clone(), error.to_string()),
            }
            self.entries.insert(key, entry);
        }
        update
    }

    /// Everything, for a proxy that has nothing yet.
    pub(crate) fn whole(&mut self) -> Update {
        self.sequence += 1;
        let mut update = Update { sequence: self.sequence, full: true, ..Update::default() };
        for (key, entry) in &self.entries {
            match entry.resource() {
                Ok(resource) => update.upserts.push(resource),
                Err(error) => _ = self.rejected.insert(key.clone(), error.to_string()),
            }
        }
        update
    }

    /// What the proxy made of an update.
    pub(crate) fn applied(&mut self, applied: &Applied) {
        self.runs = self.runs.max(applied.sequence);
        let rejected = applied.rejected.iter();
        self.rejected.extend(rejected.map(|one| (one.key.clone(), one.reason.clone())));
    }

    /// Whether all of it runs: what never did is not to be kept for a restart.
    pub(crate) fn is_running(&self) -> bool {
        self.runs == self.sequence
    }

    pub(crate) fn rejected(&self) -> Vec<Rejected> {
        let rejected = self.rejected.iter();
        rejected.map(|(key, reason)| Rejected { key: key.clone(), reason: reason.clone() }).collect()
    }
}

/// Puts an address where the wildcard stands.
pub(crate) fn readdress(update: &mut Update, from: &str, to: &str) {
    for resource in &mut update.upserts {
        if let Resource { body: Some(Body::Listener(listener)) } = resource
            && listener.address == from
        {
            to.clone_into(&mut listener.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_model::resource::{Backend, Endpoint, Endpoints, KindVersion};

    fn backend(service: &str) -> Entry {
        let backend = Backend { key: format!("backend/a/{service}/80"), ..Backend::default() };
        Entry::of(&Resource { body: Some(Body::Backend(backend)) })
    }

    fn endpoints(service: &str, port: u32) -> Entry {
        let endpoints = Endpoints {
            key: format!("endpoints/a/{service}/80"),
            backend_key: format!("backend/a/{service}/80"),
            endpoints: vec![Endpoint { address: "127.0.0.1".to_owned(), port }],
        };
        Entry::of(&Resource { body: Some(Body::Endpoints(endpoints)) })
    }

    fn part(lane: Lane, number: u64, upserts: Vec<Entry>, last: bool) -> Part {
        Part { lane: lane.into(), number, upserts, last, ..Part::default() }
    }

    fn keys(update: &Update) -> Vec<&str> {
        update.upserts.iter().map(Resource::key).collect()
    }

    #[test]
    fn a_message_takes_effect_when_its_last_part_is_there() {
        let mut state = State::default();
        let first = Part { full: true, ..part(Lane::Configuration, 1, vec![backend("x")], false) };
        assert_eq!(state.take(first, false), Ok(None));
        assert!(state.is_empty());
        let message = state.take(part(Lane::Configuration, 1, vec![backend("y")], true), false);
        let message = message.unwrap().unwrap();
        assert!(message.update.full);
        assert_eq!(keys(&message.update), ["backend/a/x/80", "backend/a/y/80"]);
        let delta = Part {
            removals: vec!["backend/a/x/80".to_owned()],
            ..part(Lane::Configuration, 2, vec![backend("z")], true)
        };
        let update = state.take(delta, false).unwrap().unwrap().update;
        assert_eq!((update.full, update.removals.len(), keys(&update)), (false, 1, vec!["backend/a/z/80"]));
        let held: Vec<String> = state.held().into_iter().map(|held| held.key).collect();
        assert_eq!(held, ["backend/a/y/80", "backend/a/z/80"]);
        assert_eq!(state.whole().upserts.len(), 2);
    }

    #[test]
    fn endpoints_go_ahead_of_a_message_that_is_still_coming() {
        let mut state = State::restored(vec![backend("x"), endpoints("x", 1)], Position::default());
        let slow = part(Lane::Configuration, 1, vec![endpoints("x", 1), endpoints("new", 1)], false);
        assert_eq!(state.take(slow, false), Ok(None));
        let fast = part(Lane::Endpoints, 1, vec![endpoints("x", 2), endpoints("new", 2)], true);
        let ahead = state.take(fast, false).unwrap().unwrap();
        assert_eq!(keys(&ahead.update), ["endpoints/a/x/80"], "the other is not there yet");
        let last = state.take(part(Lane::Configuration, 1, vec![backend("new")], true), false);
        let update = last.unwrap().unwrap().update;
        let ports = update.upserts.iter().filter_map(|resource| match &resource.body {
            Some(Body::Endpoints(endpoints)) => Some(endpoints.endpoints[0].port),
            _ => None,
        });
        assert_eq!(ports.collect::<Vec<_>>(), [2, 2], "the older ones do not come back");
    }

    #[test]
    fn an_older_state_is_refused_unless_somebody_insists() {
        let version = |version: &str| {
            let kind = "HTTPRoute".to_owned();
            vec![KindVersion { kind, resource_version: version.to_owned(), changed: version.to_owned() }]
        };
        let position = |epoch, of: &str| Some(Position { epoch, versions: version(of) });
        let mut state = State::default();
        let with = |number, position| Part { position, ..part(Lane::Configuration, number, vec![], true) };
        assert!(state.take(with(1, position(2, "10")), false).is_ok());
        assert!(matches!(state.take(with(2, position(1, "11")), false), Err(TakeError::Older(_))));
        assert!(matches!(state.take(with(2, position(3, "9")), false), Err(TakeError::Older(_))));
        assert_eq!(state.position().epoch, 2);
        assert!(state.take(with(2, position(3, "9")), true).is_ok());
        assert_eq!(state.position().epoch, 3);
    }

    #[test]
    fn a_resource_that_cannot_be_read_hurts_only_itself() {
        let mut state = State::default();
        let broken = Entry { hash: Default::default(), ..backend("x") };
        let message = state.take(part(Lane::Configuration, 1, vec![broken, backend("y")], true), false);
        assert_eq!(keys(&message.unwrap().unwrap().update), ["backend/a/y/80"]);
        assert_eq!(state.rejected()[0].key, "backend/a/x/80");
        state.take(part(Lane::Configuration, 2, vec![backend("x")], true), false).unwrap();
        assert!(state.rejected().is_empty());
    }

    #[test]
    fn what_does_not_run_yet_is_told_from_what_does() {
        let mut state = State::restored(vec![backend("x")], Position::default());
        let update = state.whole();
        assert!(!state.is_running());
        state.applied(&Applied { sequence: update.sequence, ..Applied::default() });
        assert!(state.is_running());
        let message = state.take(part(Lane::Configuration, 1, vec![backend("y")], true), false);
        let sequence = message.unwrap().unwrap().update.sequence;
        assert!(!state.is_running());
        // The answer to an earlier one may come later.
        state.applied(&Applied { sequence: sequence - 1, ..Applied::default() });
        assert!(!state.is_running());
        state.applied(&Applied { sequence, ..Applied::default() });
        assert!(state.is_running());
    }

    #[test]
    fn parts_of_two_messages_are_not_mixed() {
        let mut state = State::default();
        state.take(part(Lane::Configuration, 1, vec![backend("x")], false), false).unwrap();
        let wrong = part(Lane::Configuration, 2, vec![backend("y")], true);
        assert_eq!(state.take(wrong, false), Err(TakeError::Order(2, 1)));
        state.begin();
        let message = state.take(part(Lane::Configuration, 1, vec![backend("y")], true), false);
        assert_eq!(keys(&message.unwrap().unwrap().update), ["backend/a/y/80"]);
    }
}

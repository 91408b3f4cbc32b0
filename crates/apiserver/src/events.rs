//! Events in their two forms: `v1` as they are kept, `events.k8s.io/v1` as newer clients write and read them.
//!
//! Owns: the renaming of fields between the two, and the age at which events go. Invariant: a round trip loses
//! nothing.

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::Value;

use crate::object;
use crate::rest::Api;
use crate::store::{Expected, ResourceId};

/// Events that nothing happened to for this long go. Source: kube-apiserver's default for `--event-ttl`, 1 h.
const LIFE: SignedDuration = SignedDuration::from_hours(1);
/// Between looks for events that are too old.
const SWEEP_EVERY: SignedDuration = SignedDuration::from_mins(1);

/// When events were last looked through.
#[derive(Debug, Default)]
pub(crate) struct LastSweep(Mutex<Option<Timestamp>>);

/// Deletes the events that are too old, at most once a minute. Called when an event is written, so a quiet server
/// does nothing.
pub(crate) fn sweep(api: &Api) {
    let now = api.clock.now();
    {
        let mut last = api.last_sweep.0.lock();
        if last.is_some_and(|last| now.duration_since(last) < SWEEP_EVERY) {
            return;
        }
        *last = Some(now);
    }
    let id = ResourceId::new("", "events");
    for (key, stored) in &api.store.snapshot(&id).objects {
        if last_seen(&stored.value).is_some_and(|seen| now.duration_since(seen) > LIFE) {
            // Who wrote it meanwhile keeps it.
            let _ = api.store.commit(&id, key, Expected::Revision(stored.revision), None, || ());
        }
    }
}

/// The newest of an event's times.
fn last_seen(event: &Value) -> Option<Timestamp> {
    [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/eventTime",
        "/firstTimestamp",
        "/metadata/creationTimestamp",
    ]
    .iter()
    .filter_map(|pointer| object::text(event, pointer).parse().ok())
    .max()
}

/// Fields by their name in `v1` and in `events.k8s.io/v1`.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// From the form in the store.
pub(crate) fn to_events_v1(event: &mut Value) {
    rename(event, |(core, new)| (core, new));
}

/// Into the form in the store.
pub(crate) fn to_core_v1(event: &mut Value) {
    rename(event, |(core, new)| (new, core));
}

fn rename(
    event: &mut Value,
    direction: impl Fn(&(&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let map = object::as_map(event);
    for pair in RENAMED {
        let (from, to) = direction(pair);
        if let Some(value) = map.shift_remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_as_old_as_its_newest_time() {
        let event = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "eventTime": "2026-01-01T00:00:01.000000Z", "lastTimestamp": null});
        assert_eq!(last_seen(&event), "2026-01-01T00:00:01Z".parse().ok());
        assert_eq!(last_seen(&json!({})), None);
    }

    #[test]
    fn both_forms_of_an_event_are_one_object() {
        let core = json!({"metadata": {"name": "a"}, "involvedObject": {"kind": "Pod"}, "message": "m", "count": 2, "source": {"component": "c"}});
        let mut event = core.clone();
        to_events_v1(&mut event);
        assert_eq!(event["regarding"]["kind"], "Pod");
        assert_eq!(event["note"], "m");
        to_core_v1(&mut event);
        assert_eq!(event, core);
    }
}

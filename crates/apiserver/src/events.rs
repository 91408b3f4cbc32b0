//! Events in their two forms: `v1` as they are kept, `events.k8s.io/v1` as newer clients write and read them.
//!
//! Owns: the renaming of fields between the two. Invariant: a round trip loses nothing.

use serde_json::Value;

use crate::object;

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

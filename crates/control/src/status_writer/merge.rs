//! Merging what we say into a status that others write too. Pure.
//!
//! Invariants: an entry of another controller is kept as it is and where it is; `lastTransitionTime` moves only when
//! a condition's status does; the result equals the current status exactly when there is nothing to write.
//! Deliberately absent: the decision what to say (that is `weir-core`), clocks and calls.

use serde_json::{Map, Value};

/// What we want a status to say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Desired {
    /// A status that is ours: top-level fields by name. A field that is `Null` is removed; one that is not named
    /// stays; conditions of other owners (a type with a domain that is not ours) stay.
    Own(Map<String, Value>),
    /// A route's `status.parents`: our entries, all of them.
    Parents(Vec<Value>),
    /// A policy's `status.ancestors`: our entries, all of them.
    Ancestors(Vec<Value>),
}

impl Desired {
    /// Whether nothing is wanted but that no entry is ours.
    pub(super) fn is_no_entry(&self) -> bool {
        matches!(self, Desired::Parents(entries) | Desired::Ancestors(entries) if entries.is_empty())
    }
}

/// The most entries of a route's `status.parents` that the CRD takes.
const PARENTS_MAX: usize = 32;

/// The most entries of `status.ancestors` that the CRD takes.
const ANCESTORS_MAX: usize = 16;

/// Controllers whose entries in `status.parents` and `status.ancestors` are ours to write.
#[derive(Clone, Debug, Default)]
pub(crate) struct OurNames(pub(crate) Vec<String>);

impl OurNames {
    fn has(&self, entry: &Value) -> bool {
        entry["controllerName"].as_str().is_some_and(|name| self.0.iter().any(|ours| ours == name))
    }

    /// Whether others alone have entries in the status of a route or policy.
    pub(super) fn have_no_part_in(&self, status: &Value) -> bool {
        let lists = [&status[PARENTS.list], &status[ANCESTORS.list]];
        let mut entries = lists.into_iter().filter_map(Value::as_array).flatten().peekable();
        entries.peek().is_some() && !entries.any(|entry| self.has(entry))
    }
}

/// The status to write, or `None` when `current` says it already. `now` is the time for conditions that change.
pub(crate) fn merge(current: &Value, desired: &Desired, ours: &OurNames, now: &str) -> Option<Value> {
    let mut merged = current.as_object().cloned().unwrap_or_default();
    match desired {
        Desired::Own(fields) => {
            for (name, value) in fields {
                merge_field(&mut merged, name, value, now);
            }
        }
        Desired::Parents(entries) => merge_entries(&mut merged, &PARENTS, entries, ours, now)?,
        Desired::Ancestors(entries) => merge_entries(&mut merged, &ANCESTORS, entries, ours, now)?,
    }
    let merged = Value::Object(merged);
    (merged != *current).then_some(merged)
}

fn merge_field(status: &mut Map<String, Value>, name: &str, value: &Value, now: &str) {
    if value.is_null() {
        status.shift_remove(name);
        return;
    }
    let before = status.get(name).and_then(Value::as_array);
    let merged = match (name, value) {
        ("conditions", Value::Array(wanted)) => {
            let before = before.map_or(&[][..], Vec::as_slice);
            let mut conditions = merge_conditions(before, wanted, now);
            conditions.extend(before.iter().filter(|condition| is_foreign(condition, wanted)).cloned());
            Value::Array(conditions)
        }
        ("listeners", Value::Array(wanted)) => {
            let before = before.map_or(&[][..], Vec::as_slice);
            Value::Array(wanted.iter().map(|listener| merge_listener(before, listener, now)).collect())
        }
        _ => value.clone(),
    };
    status.insert(name.to_owned(), merged);
}

/// Whether somebody else owns this condition: the API reserves types without a domain to the object's controller.
fn is_foreign(condition: &Value, wanted: &[Value]) -> bool {
    let Some(kind) = condition["type"].as_str() else { return false };
    let ours = match kind.split_once('/') {
        Some((domain, _)) => domain == "weir.dev" || domain.ends_with(".weir.dev"),
        None => true,
    };
    !ours && !wanted.iter().any(|wanted| wanted["type"] == condition["type"])
}

fn merge_listener(before: &[Value], wanted: &Value, now: &str) -> Value {
    let same = before.iter().find(|listener| listener["name"] == wanted["name"]);
    with_merged_conditions(same, wanted, now)
}

/// A list to which several controllers add entries, each about an object that a field of the entry names.
struct Shared {
    list: &'static str,
    reference: &'static str,
    /// The most entries that there may be.
    most: usize,
}

const PARENTS: Shared = Shared { list: "parents", reference: "parentRef", most: PARENTS_MAX };
const ANCESTORS: Shared = Shared { list: "ancestors", reference: "ancestorRef", most: ANCESTORS_MAX };

/// `None`: there is nothing, and nothing is wanted.
fn merge_entries(
    status: &mut Map<String, Value>,
    shared: &Shared,
    wanted: &[Value],
    ours: &OurNames,
    now: &str,
) -> Option<()> {
    let before = status.get(shared.list).and_then(Value::as_array).cloned().unwrap_or_default();
    if before.is_empty() && wanted.is_empty() {
        return None;
    }
    let mut left: Vec<Option<&Value>> = wanted.iter().map(Some).collect();
    let mut entries = Vec::with_capacity(before.len() + wanted.len());
    for entry in &before {
        if !ours.has(entry) {
            entries.push(entry.clone());
            continue;
        }
        let place = left
            .iter_mut()
            .find(|slot| slot.is_some_and(|wanted| same_object(entry, wanted, shared.reference)));
        if let Some(wanted) = place.and_then(Option::take) {
            entries.push(with_merged_conditions(Some(entry), wanted, now));
        }
    }
    entries.extend(left.into_iter().flatten().map(|wanted| with_merged_conditions(None, wanted, now)));
    entries.truncate(shared.most.max(before.len()));
    status.insert(shared.list.to_owned(), Value::Array(entries));
    Some(())
}

/// Whether two entries are about one object under one controller. Fields left out mean what the API defaults.
fn same_object(a: &Value, b: &Value, reference: &str) -> bool {
    let field = |entry: &Value, name: &str, default: &str| {
        entry[reference][name].as_str().unwrap_or(default).to_owned()
    };
    a["controllerName"] == b["controllerName"]
        && field(a, "group", "gateway.networking.k8s.io") == field(b, "group", "gateway.networking.k8s.io")
        && field(a, "kind", "Gateway") == field(b, "kind", "Gateway")
        && ["namespace", "name", "sectionName"].iter().all(|name| field(a, name, "") == field(b, name, ""))
        && a[reference].get("port") == b[reference].get("port")
}

fn with_merged_conditions(before: Option<&Value>, wanted: &Value, now: &str) -> Value {
    let mut merged = wanted.clone();
    if let Some(conditions) = wanted["conditions"].as_array() {
        let before = before.and_then(|entry| entry["conditions"].as_array()).map_or(&[][..], Vec::as_slice);
        merged["conditions"] = Value::Array(merge_conditions(before, conditions, now));
    }
    merged
}

fn merge_conditions(before: &[Value], wanted: &[Value], now: &str) -> Vec<Value> {
    wanted
        .iter()
        .map(|condition| {
            let mut merged = condition.clone();
            let time = before
                .iter()
                .find(|old| old["type"] == condition["type"] && old["status"] == condition["status"])
                .and_then(|old| old["lastTransitionTime"].as_str())
                .unwrap_or(now);
            merged["lastTransitionTime"] = Value::from(time);
            merged
        })
        .collect()
}

/// Whether two Gateway statuses differ in nothing but how many routes their listeners have.
pub(crate) fn only_counts_differ(a: &Value, b: &Value) -> bool {
    without_counts(a) == without_counts(b)
}

fn without_counts(status: &Value) -> Value {
    let mut status = status.clone();
    if let Some(listeners) = status.get_mut("listeners").and_then(Value::as_array_mut) {
        for listener in listeners {
            if let Some(listener) = listener.as_object_mut() {
                listener.shift_remove("attachedRoutes");
            }
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::{Desired, OurNames, merge, only_counts_differ};
    use serde_json::{Value, json};

    const OLD: &str = "2024-01-01T00:00:00Z";
    const NOW: &str = "2025-06-01T12:00:00Z";

    fn ours() -> OurNames {
        OurNames(vec!["weir.dev/gateway-controller".to_owned()])
    }

    fn own(value: Value) -> Desired {
        Desired::Own(value.as_object().unwrap().clone())
    }

    fn parent(controller: &str, name: &str, status: &str, time: Option<&str>) -> Value {
        let mut condition =
            json!({"type": "Accepted", "status": status, "reason": "R", "observedGeneration": 2});
        if let Some(time) = time {
            condition["lastTransitionTime"] = json!(time);
        }
        json!({"parentRef": {"name": name}, "controllerName": controller, "conditions": [condition]})
    }

    #[test]
    fn nothing_is_written_when_the_status_says_it_already() {
        let current = json!({"conditions": [
            {"type": "Accepted", "status": "True", "reason": "R", "lastTransitionTime": OLD},
        ]});
        let desired = own(json!({"conditions": [{"status": "True", "type": "Accepted", "reason": "R"}]}));
        assert_eq!(merge(&current, &desired, &ours(), NOW), None);
    }

    #[test]
    fn a_transition_time_moves_only_with_the_status() {
        let current = json!({"conditions": [
            {"type": "Accepted", "status": "True", "reason": "R", "lastTransitionTime": OLD},
            {"type": "Programmed", "status": "Unknown", "reason": "Pending", "lastTransitionTime": OLD},
        ]});
        let desired = own(json!({"conditions": [
            {"type": "Accepted", "status": "True", "reason": "Other"},
            {"type": "Programmed", "status": "True", "reason": "Programmed"},
        ]}));
        let merged = merge(&current, &desired, &ours(), NOW).unwrap();
        assert_eq!(merged["conditions"][0]["lastTransitionTime"], OLD);
        assert_eq!(merged["conditions"][0]["reason"], "Other");
        assert_eq!(merged["conditions"][1]["lastTransitionTime"], NOW);
    }

    #[test]
    fn conditions_that_no_longer_apply_go_and_those_of_other_owners_stay() {
        let foreign = json!({"type": "example.com/Seen", "status": "True", "lastTransitionTime": OLD});
        let current = json!({"conditions": [
            {"type": "ResolvedRefs", "status": "False", "lastTransitionTime": OLD}, foreign,
            {"type": "weir.dev/Note", "status": "True", "lastTransitionTime": OLD},
        ]});
        let desired = own(json!({"conditions": [{"type": "Accepted", "status": "True"}]}));
        let merged = merge(&current, &desired, &ours(), NOW).unwrap();
        let types: Vec<&Value> =
            merged["conditions"].as_array().unwrap().iter().map(|condition| &condition["type"]).collect();
        assert_eq!(types, ["Accepted", "example.com/Seen"]);
        assert_eq!(merged["conditions"][1], foreign);
    }

    #[test]
    fn a_null_field_is_removed_and_an_unnamed_one_stays() {
        let current = json!({"addresses": [{"value": "127.0.0.1"}], "other": 1});
        let merged = merge(&current, &own(json!({"addresses": null})), &ours(), NOW).unwrap();
        assert_eq!(merged, json!({"other": 1}));
    }

    #[test]
    fn parents_of_other_controllers_are_kept_in_place_byte_for_byte() {
        let foreign = parent("example.com/other", "a", "False", Some(OLD));
        let current = json!({"parents": [
            parent("weir.dev/gateway-controller", "gone", "True", Some(OLD)),
            foreign,
            parent("weir.dev/gateway-controller", "a", "True", Some(OLD)),
        ]});
        let desired = Desired::Parents(vec![
            parent("weir.dev/gateway-controller", "new", "True", None),
            parent("weir.dev/gateway-controller", "a", "True", None),
        ]);
        let merged = merge(&current, &desired, &ours(), NOW).unwrap();
        let parents = merged["parents"].as_array().unwrap();
        assert_eq!(parents.len(), 3);
        assert_eq!(parents[0].to_string(), foreign.to_string());
        assert_eq!(parents[1], parent("weir.dev/gateway-controller", "a", "True", Some(OLD)));
        assert_eq!(parents[2], parent("weir.dev/gateway-controller", "new", "True", Some(NOW)));
    }

    #[test]
    fn a_policy_has_room_for_sixteen_ancestors_and_those_of_others_stay() {
        let ancestor = |controller: &str, name: &str, time: Option<&str>| {
            let mut entry = parent(controller, name, "True", time);
            entry["ancestorRef"] = entry["parentRef"].clone();
            entry.as_object_mut().unwrap().remove("parentRef");
            entry
        };
        let foreign = ancestor("example.com/other", "a", Some(OLD));
        let kept = ancestor("weir.dev/gateway-controller", "g3", Some(OLD));
        let current = json!({"ancestors": [foreign, kept]});
        let wanted =
            (0..20).map(|n| ancestor("weir.dev/gateway-controller", &format!("g{n}"), None)).collect();
        let merged = merge(&current, &Desired::Ancestors(wanted), &ours(), NOW).unwrap();
        let ancestors = merged["ancestors"].as_array().unwrap();
        assert_eq!(ancestors.len(), 16);
        assert_eq!(ancestors[..2], [foreign, kept]);
        assert_eq!(ancestors[2], ancestor("weir.dev/gateway-controller", "g0", Some(NOW)));
    }

    #[test]
    fn a_route_has_room_for_thirty_two_parents_and_those_of_others_stay() {
        let named = |n: usize, time| parent("weir.dev/gateway-controller", &format!("g{n}"), "True", time);
        let foreign = parent("example.com/other", "a", "False", Some(OLD));
        let current = json!({"parents": [foreign, named(39, Some(OLD))]});
        let wanted = (0..40).map(|n| named(n, None)).collect();
        let merged = merge(&current, &Desired::Parents(wanted), &ours(), NOW).unwrap();
        let parents = merged["parents"].as_array().unwrap();
        assert_eq!(parents.len(), 32);
        assert_eq!(parents[..3], [foreign, named(39, Some(OLD)), named(0, Some(NOW))]);
    }

    #[test]
    fn losing_every_parent_leaves_the_foreign_ones() {
        let foreign = parent("example.com/other", "a", "False", Some(OLD));
        let current =
            json!({"parents": [foreign, parent("weir.dev/gateway-controller", "a", "True", Some(OLD))]});
        let merged = merge(&current, &Desired::Parents(Vec::new()), &ours(), NOW).unwrap();
        assert_eq!(merged, json!({"parents": [foreign]}));
    }

    #[test]
    fn parents_that_differ_in_section_or_port_are_different() {
        let entry = |section: Value, port: Value| {
            json!({
                "parentRef": {"name": "g", "sectionName": section, "port": port},
                "controllerName": "weir.dev/gateway-controller",
                "conditions": [{"type": "Accepted", "status": "True", "lastTransitionTime": OLD}],
            })
        };
        let current = json!({"parents": [entry(json!("a"), json!(80)), entry(json!("a"), json!(81))]});
        let Value::Array(wanted) = current["parents"].clone() else { unreachable!() };
        assert_eq!(merge(&current, &Desired::Parents(wanted.clone()), &ours(), NOW), None);
        let reversed: Vec<Value> = wanted.into_iter().rev().collect();
        assert_eq!(merge(&current, &Desired::Parents(reversed), &ours(), NOW), None);
    }

    #[test]
    fn a_change_of_counts_alone_is_recognised() {
        let status = |count: u32, status: &str| json!({"listeners": [{"name": "a", "attachedRoutes": count, "conditions": [{"status": status}]}]});
        assert!(only_counts_differ(&status(1, "True"), &status(2, "True")));
        assert!(!only_counts_differ(&status(1, "True"), &status(2, "False")));
    }
}

//! Server-side apply and field ownership (`metadata.managedFields`).
//!
//! Owns: who set which field of an object, kept through every write; what an apply adds, changes and takes away; who
//! stands in its way. The model is that of structured merge: a manager owns the fields that it applied last, or, when it
//! writes by other means, those that it changed last.
//!
//! Invariants: applying the same object twice changes nothing; the result never has a field that the applier dropped
//! and nobody else owns; managed fields are sorted and free of the fields that belong to the server.
//!
//! All versions of a kind are taken to have the same fields, which holds for every kind that is served here. The caller
//! leaves out of an applied object what its endpoint may not set (`status` where it is a subresource), and passes the time.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::fields::Set;
use super::typed::Typed;
use crate::field::quote;
use crate::structural::Structural;

/// Managers by update that are told apart; beyond it the oldest become one. The limit of an API server.
const MAX_UPDATE_MANAGERS: usize = 10;

/// The manager that stands for the oldest ones beyond [`MAX_UPDATE_MANAGERS`].
const ANCIENT: &str = "ancient-changes";

/// The manager of fields that were there before anybody applied, on an object without managed fields.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Where client-side `kubectl apply` keeps what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Who writes, how, and when.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// `fieldManager` of the request, or what the server makes of its user agent.
    pub manager: &'a str,
    /// The `apiVersion` of the object in the request.
    pub api_version: &'a str,
    /// `status`, `scale`, ...; empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339 with seconds, as it goes into `managedFields[].time`.
    pub time: &'a str,
}

/// One field that another manager holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The entry that holds it, for example `"kubectl-client-side-apply" using apps/v1`.
    pub manager: String,
    /// The field, for example `.spec.replicas`.
    pub field: String,
}

impl Conflict {
    /// The entry for `Status.details.causes`.
    pub fn cause(&self) -> Value {
        json!({
            "reason": "FieldManagerConflict",
            "message": format!("conflict with {}", self.manager),
            "field": self.field,
        })
    }
}

/// Why an apply was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// 409: fields that others hold would change; `force` takes them over.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// 400: the applied object cannot be read with the schema.
    #[error("{0}")]
    Malformed(String),
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", only.manager, only.field);
    }
    let mut by_manager: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for conflict in conflicts {
        by_manager.entry(&conflict.manager).or_default().push(&conflict.field);
    }
    let mut lines = Vec::new();
    for (manager, fields) in by_manager {
        lines.push(format!("conflicts with {manager}:"));
        lines.extend(fields.into_iter().map(|field| format!("- {field}")));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// The object after `applied` was applied to `live` (or created), with `metadata.managedFields` brought up to date.
///
/// `applied` is the configuration alone: unknown fields dropped, nothing defaulted.
pub fn apply(
    schema: &Structural,
    live: Option<&Value>,
    applied: &Value,
    by: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    let typed = Typed::new(schema.arena());
    let applied = without_managed(applied);
    if let Err(ambiguous) = typed.ambiguities(&applied) {
        let metadata = &applied["metadata"];
        return Err(ApplyError::Malformed(format!(
            "failed to create typed patch object ({}/{}; {}, Kind={}): {}",
            metadata["namespace"].as_str().unwrap_or_default(),
            metadata["name"].as_str().unwrap_or_default(),
            applied["apiVersion"].as_str().unwrap_or_default(),
            applied["kind"].as_str().unwrap_or_default(),
            ambiguous.0
        )));
    }
    let mut managed = live.map(Managed::of).unwrap_or_default();
    let bare = live.map(without_managed).unwrap_or_else(|| json!({}));
    if live.is_some() && managed.entries.is_empty() {
        let key = Key { manager: BEFORE_FIRST_APPLY.to_owned(), ..Key::update(by) };
        managed
            .entries
            .insert(key, Entry { fields: typed.compare(&json!({}), &bare).added, ..Entry::new(by) });
        managed.leave_server_fields_out();
    }
    let attempt = Attempt { schema, typed, live: &bare, applied: &applied, by };
    match attempt.run(managed.clone(), force) {
        Err(ApplyError::Conflicts(conflicts)) if by.manager == "kubectl" => {
            attempt.after_client_side_apply(managed, conflicts)
        }
        result => result,
    }
}

struct Attempt<'a> {
    schema: &'a Structural,
    typed: Typed<'a>,
    /// Without managed fields.
    live: &'a Value,
    applied: &'a Value,
    by: &'a Writer<'a>,
}

impl Attempt<'_> {
    fn run(&self, mut managed: Managed, force: bool) -> Result<Value, ApplyError> {
        let key = Key::apply(self.by);
        let last = managed.entries.get(&key).cloned();
        let merged = self.typed.merge(self.live, self.applied);
        let mut entry = Entry { fields: self.typed.fields(self.applied), ..Entry::new(self.by) };
        managed.entries.insert(key.clone(), entry.clone());
        let object = match &last {
            Some(last) if !last.fields.is_empty() => {
                let pruned = self.pruned(&merged, &managed, &last.fields);
                // A container that lost its last field stays where the applier says that it is empty.
                self.typed.merge(&pruned, self.applied)
            }
            _ => merged,
        };
        let conflicts = managed.take_over(self.typed, self.live, &object, &key);
        if !force && !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
        managed.leave_server_fields_out();
        // Applying what is there already is not worth a new time.
        if let Some(kept) = managed.entries.get_mut(&key)
            && let Some(last) = last
            && last.fields == kept.fields
            && object == *self.live
        {
            entry.time = last.time;
            kept.time = entry.time;
        }
        let mut object = object;
        if self.by.manager == "kubectl" {
            refresh_last_applied(&mut object, self.applied);
        }
        managed.store(&mut object);
        Ok(object)
    }

    /// Takes away what the applier set last time, does not set now, and nobody else owns.
    fn pruned(&self, merged: &Value, managed: &Managed, last: &Set) -> Value {
        let arena = self.schema.arena();
        let named = |set: &Set| set.with_named_fields(arena, Some(arena.root));
        let last = named(last);
        let all = named(&self.typed.fields(merged));
        let mut owned = Set::default();
        for entry in managed.entries.values() {
            owned.absorb(&entry.fields);
        }
        let first = self.typed.without(merged, &last);
        let kept = named(&self.typed.fields(&first)).union(&named(&owned));
        let second = self.typed.without(merged, &all.difference(&kept));
        // An item that only stood because somebody owned a field in it.
        let left = named(&self.typed.fields(&second));
        self.typed.without(merged, &all.difference(&left).intersection(&last))
    }

    /// `kubectl apply --server-side` after `kubectl apply`: fields that client-side apply set, and that nobody has
    /// changed since, are the same user's and no conflict.
    fn after_client_side_apply(
        &self,
        managed: Managed,
        conflicts: Vec<Conflict>,
    ) -> Result<Value, ApplyError> {
        let annotation = self.live["metadata"]["annotations"][LAST_APPLIED].as_str();
        let Some(last) = annotation.and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
            return Err(ApplyError::Conflicts(conflicts));
        };
        let comparison = self.typed.compare(self.live, &last);
        let allowed =
            self.typed.fields(&last).difference(&comparison.modified).difference(&comparison.added).paths();
        let left: Vec<Conflict> =
            conflicts.into_iter().filter(|conflict| !allowed.contains(&conflict.field)).collect();
        if left.is_empty() { self.run(managed, true) } else { Err(ApplyError::Conflicts(left)) }
    }
}

/// Keeps the annotation of client-side apply in step, where it is.
fn refresh_last_applied(object: &mut Value, applied: &Value) {
    let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else {
        return;
    };
    let kept = annotations.get(LAST_APPLIED).and_then(Value::as_str).unwrap_or_default();
    if kept.is_empty() {
        return;
    }
    let mut applied = applied.clone();
    if let Some(inner) = applied.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        inner.shift_remove(LAST_APPLIED);
    }
    annotations.insert(LAST_APPLIED.to_owned(), Value::String(format!("{applied}\n")));
}

/// Records in `new.metadata.managedFields` what a create, update or patch by `by` changed against `live`.
///
/// Managed fields in `new` count as sent by the client: none keep those of `live`, an empty list resets them.
pub fn update_managed_fields(schema: &Structural, live: Option<&Value>, new: &mut Value, by: &Writer<'_>) {
    let typed = Typed::new(schema.arena());
    let kept = live.map(Managed::of).unwrap_or_default();
    let sent = new.pointer("/metadata/managedFields");
    let reset = sent.and_then(Value::as_array).is_some_and(|entries| match entries.as_slice() {
        [] => true,
        [only] => only.as_object().is_some_and(Map::is_empty),
        _ => false,
    });
    let mut managed = if !by.subresource.is_empty() {
        kept
    } else if reset {
        Managed::default()
    } else {
        let sent = Managed::of(new);
        if sent.entries.is_empty() { kept } else { sent }
    };
    let bare_new = without_managed(new);
    // An object that nobody tracks stays so until somebody applies to it.
    if live.is_some() && managed.entries.is_empty() {
        *new = bare_new;
        return;
    }
    let bare_live = live.map(without_managed).unwrap_or_else(|| json!({}));
    let comparison = typed.compare(&bare_live, &bare_new);
    let taken = comparison.modified.union(&comparison.added);
    for entry in managed.entries.values_mut() {
        entry.fields = entry.fields.difference(&taken).difference(&comparison.removed);
    }
    if !taken.is_empty() {
        let entry = managed.entries.entry(Key::update(by)).or_insert_with(|| Entry::new(by));
        entry.fields.absorb(&taken);
        // Fields of the server do not make the writer's entry newer.
        if !taken.difference(&server_fields()).is_empty() {
            entry.time = Some(by.time.to_owned());
        }
    }
    managed.leave_server_fields_out();
    managed.limit();
    *new = bare_new;
    managed.store(new);
}

fn without_managed(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
    object
}

/// What tells the entries of `managedFields` apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    manager: String,
    applies: bool,
    /// Empty for appliers: they are the same whatever version they use.
    api_version: String,
    subresource: String,
}

impl Key {
    fn apply(by: &Writer<'_>) -> Key {
        Key {
            manager: by.manager.to_owned(),
            applies: true,
            api_version: String::new(),
            subresource: by.subresource.to_owned(),
        }
    }

    fn update(by: &Writer<'_>) -> Key {
        Key { applies: false, api_version: by.api_version.to_owned(), ..Key::apply(by) }
    }

    /// As conflicts name it.
    fn shown(&self) -> String {
        let mut text = quote(&self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {}", quote(&self.subresource)));
        }
        if !self.applies {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

#[derive(Debug, Clone)]
struct Entry {
    api_version: String,
    time: Option<String>,
    fields: Set,
}

impl Entry {
    fn new(by: &Writer<'_>) -> Entry {
        Entry {
            api_version: by.api_version.to_owned(),
            time: Some(by.time.to_owned()),
            fields: Set::default(),
        }
    }
}

/// `metadata.managedFields`.
#[derive(Debug, Clone, Default)]
struct Managed {
    entries: BTreeMap<Key, Entry>,
}

fn server_fields() -> Set {
    Set::of_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
}

impl Managed {
    /// Reads the entries of an object; those that cannot be read are nobody's.
    fn of(object: &Value) -> Managed {
        let mut managed = Managed::default();
        let list = object.pointer("/metadata/managedFields").and_then(Value::as_array);
        for entry in list.into_iter().flatten() {
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            let Some(fields) = Set::from_json(&entry["fieldsV1"]) else { continue };
            let applies = entry["operation"] == "Apply";
            let key = Key {
                manager: text("manager"),
                applies,
                api_version: if applies { String::new() } else { text("apiVersion") },
                subresource: text("subresource"),
            };
            let time = entry["time"].as_str().map(str::to_owned);
            managed.entries.insert(key, Entry { api_version: text("apiVersion"), time, fields });
        }
        managed
    }

    /// Gives the fields in which `new` differs from `live` to the manager of `key`; what others lose by it is returned.
    fn take_over(&mut self, typed: Typed<'_>, live: &Value, new: &Value, key: &Key) -> Vec<Conflict> {
        let comparison = typed.compare(live, new);
        let taken = comparison.modified.union(&comparison.added);
        let mut conflicts = Vec::new();
        for (other, entry) in &mut self.entries {
            if other == key {
                continue;
            }
            let lost = entry.fields.intersection(&taken);
            conflicts
                .extend(lost.paths().into_iter().map(|field| Conflict { manager: other.shown(), field }));
            entry.fields = entry.fields.difference(&lost).difference(&comparison.removed);
        }
        conflicts
    }

    /// Names, versions, times and the like belong to the server.
    fn leave_server_fields_out(&mut self) {
        let server = server_fields();
        for entry in self.entries.values_mut() {
            entry.fields = entry.fields.difference(&server);
        }
        self.entries.retain(|_, entry| !entry.fields.is_empty());
    }

    /// Makes one manager of the oldest beyond the limit.
    fn limit(&mut self) {
        let mut updates: Vec<(Option<String>, Key)> = self
            .entries
            .iter()
            .filter(|(key, _)| !key.applies)
            .map(|(key, entry)| (entry.time.clone(), key.clone()))
            .collect();
        updates.sort();
        let mut excess = updates.len().saturating_sub(MAX_UPDATE_MANAGERS);
        if excess > 0 {
            // The one that the oldest are merged into is there as well.
            excess += 1;
        }
        for (time, key) in updates.into_iter().take(excess) {
            let Some(entry) = self.entries.remove(&key) else { continue };
            let ancient = Key { manager: ANCIENT.to_owned(), subresource: String::new(), ..key };
            let into = self
                .entries
                .entry(ancient)
                .or_insert_with(|| Entry { fields: Set::default(), ..entry.clone() });
            into.fields.absorb(&entry.fields);
            into.time = time.max(into.time.take());
        }
    }

    fn store(&self, object: &mut Value) {
        let mut sorted: Vec<(&Key, &Entry)> = self.entries.iter().collect();
        sorted.sort_by(|(a, x), (b, y)| {
            b.applies.cmp(&a.applies).then_with(|| x.time.cmp(&y.time)).then_with(|| {
                (&a.manager, &x.api_version, &a.subresource).cmp(&(
                    &b.manager,
                    &y.api_version,
                    &b.subresource,
                ))
            })
        });
        let list: Vec<Value> = sorted
            .into_iter()
            .map(|(key, entry)| {
                let mut out = Map::new();
                out.insert("manager".into(), key.manager.clone().into());
                out.insert("operation".into(), if key.applies { "Apply" } else { "Update" }.into());
                out.insert("apiVersion".into(), entry.api_version.clone().into());
                if let Some(time) = &entry.time {
                    out.insert("time".into(), time.clone().into());
                }
                out.insert("fieldsType".into(), "FieldsV1".into());
                out.insert("fieldsV1".into(), entry.fields.to_json());
                if !key.subresource.is_empty() {
                    out.insert("subresource".into(), key.subresource.clone().into());
                }
                Value::Object(out)
            })
            .collect();
        let Value::Object(fields) = object else { return };
        let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
        if let Value::Object(metadata) = metadata {
            if list.is_empty() {
                metadata.shift_remove("managedFields");
            } else {
                metadata.insert("managedFields".into(), Value::Array(list));
            }
        }
    }
}

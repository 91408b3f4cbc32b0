//! File mode: the store made equal to a list of objects.
//!
//! Owns: which objects came from the list, so that those that vanish from it are deleted. Invariants: every object
//! goes the way that a client's would (server-side apply by a manager of its own, strict about unknown fields), so
//! files mean what `kubectl apply` means; what is refused leaves the object as it was; what is the same is not
//! written, and what the list said before already is not even applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::Rejection;
use crate::error::{ApiError, ApiResult};
use crate::object;
use crate::registry::{Resource, split_api_version};
use crate::rest::{Api, Call};
use crate::schema::Patch;
use crate::store::{Expected, Now, ResourceId, Stored};

/// The owner of fields that stand in files.
const MANAGER: &str = "weir-files";
/// Where an object without a namespace goes.
const DEFAULT_NAMESPACE: &str = "default";
/// Attempts to end a namespace against concurrent writers.
const ATTEMPTS: usize = 64;

/// An object of the list in the order in which it must be there.
struct Entry {
    index: usize,
    object: Arc<Value>,
}

/// What came from the list, by kind and key; with what was applied, where the list itself had it and it was taken.
pub(crate) type Owned = BTreeMap<(ResourceId, String), Option<Taken>>;

/// An object of the list that was applied, and what became of it.
#[derive(Clone)]
pub(crate) struct Taken {
    source: Arc<Value>,
    uid: String,
    version: Version,
}

/// What changes when somebody changes more of an object than its status, as far as its kind tells the two apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Generation(i64),
    Revision(u64),
}

impl Version {
    fn of(stored: &Stored) -> Version {
        let generation = stored.value.pointer("/metadata/generation").and_then(Value::as_i64);
        generation.map_or(Version::Revision(stored.revision), Version::Generation)
    }
}

impl Taken {
    /// Whether the same words stand in the list still, and nobody else has changed what they made.
    fn still_holds(&self, source: &Arc<Value>, stored: &Stored) -> bool {
        (Arc::ptr_eq(&self.source, source) || self.source == *source)
            && self.uid == object::uid(&stored.value)
            && self.version == Version::of(stored)
    }
}

pub(crate) fn replace(api: &Arc<Api>, objects: Vec<Arc<Value>>) -> Vec<Rejection> {
    let mut owned = api.owned.lock();
    end_namespaces(api, owned.keys());
    let mut rejections = Vec::new();
    let mut wanted = Owned::new();
    let mut entries: Vec<Entry> =
        objects.into_iter().enumerate().map(|(index, object)| Entry { index, object }).collect();
    entries.sort_by_key(|entry| rank(object::text(&entry.object, "/kind")));
    for entry in &entries {
        if let Err(found) = settle(api, &entry.object, &owned, &mut wanted) {
            rejections.extend(reject(api, entry, &found));
        }
    }
    let mut vanished: Vec<(ResourceId, String)> =
        owned.keys().filter(|key| !wanted.contains_key(key)).cloned().collect();
    vanished.sort_by_key(|(id, _)| end_rank(&id.plural));
    for (id, key) in vanished {
        if let Err(error) = remove(api, &id, &key) {
            tracing::warn!(%error, resource = %id.plural, key, "an object that is in no file any more was not deleted");
        }
        // A namespace whose end is held up is tried again.
        if is_namespace(&id) && api.store.get(&id, &key).is_some() {
            wanted.insert((id, key), None);
        }
    }
    *owned = wanted;
    rejections.sort_by_key(|rejection| rejection.index);
    rejections
}

/// Definitions and namespaces come before what needs them.
fn rank(kind: &str) -> u8 {
    match kind {
        "CustomResourceDefinition" => 0,
        "Namespace" => 1,
        _ => 2,
    }
}

/// What is in a namespace goes before it, and definitions last.
fn end_rank(plural: &str) -> u8 {
    match plural {
        "customresourcedefinitions" => 2,
        "namespaces" => 1,
        _ => 0,
    }
}

/// Applies one object and notes it as wanted, whether it was taken or not.
fn settle(api: &Arc<Api>, source: &Arc<Value>, before: &Owned, wanted: &mut Owned) -> ApiResult<()> {
    let resource = resource_of(api, source)?;
    let name = object::name(source);
    if name.is_empty() {
        return Err(ApiError::bad_request("metadata.name is missing"));
    }
    let namespace = place(&resource, source);
    let key = (resource.id.clone(), object::key(namespace, name));
    if wanted.contains_key(&key) {
        return Err(ApiError::bad_request("the same object is there twice"));
    }
    wanted.insert(key.clone(), None);
    if resource.namespaced {
        need_namespace(api, namespace, before, wanted)?;
    }
    let stored = || api.store.get(&key.0, &key.1);
    if let Some(Some(taken)) = before.get(&key)
        && stored().is_some_and(|stored| taken.still_holds(source, &stored))
    {
        wanted.insert(key, Some(taken.clone()));
        return Ok(());
    }
    if namespace != object::namespace(source) {
        let mut object = Value::clone(source);
        object::set_meta(&mut object, "namespace", Some(Value::from(DEFAULT_NAMESPACE)));
        apply(api, &object)?;
    } else {
        apply(api, source)?;
    }
    if let Some(stored) = stored() {
        let (uid, version) = (object::uid(&stored.value).to_owned(), Version::of(&stored));
        wanted.insert(key, Some(Taken { source: source.clone(), uid, version }));
    }
    Ok(())
}

/// The namespace that an object goes to.
fn place<'a>(resource: &Resource, object: &'a Value) -> &'a str {
    let written = object::namespace(object);
    if resource.namespaced && written.is_empty() { DEFAULT_NAMESPACE } else { written }
}

fn resource_of(api: &Arc<Api>, object: &Value) -> ApiResult<Arc<Resource>> {
    let (api_version, kind) = (object::text(object, "/apiVersion"), object::text(object, "/kind"));
    if api_version.is_empty() || kind.is_empty() {
        return Err(ApiError::bad_request("apiVersion and kind are needed"));
    }
    let (group, version) = split_api_version(api_version);
    let registry = api.registry();
    let found = registry.by_kind(group, kind).filter(|resource| resource.version(version).is_some());
    found.cloned().ok_or_else(|| {
        ApiError::bad_request(format!("no matches for kind {kind:?} in version {api_version:?}"))
    })
}

/// Files need not spell out the namespaces that they put objects into.
fn need_namespace(api: &Arc<Api>, namespace: &str, before: &Owned, wanted: &mut Owned) -> ApiResult<()> {
    let namespaces = ResourceId::new("", "namespaces");
    let key = (namespaces, namespace.to_owned());
    if wanted.contains_key(&key) {
        return Ok(());
    }
    if api.store.get(&key.0, namespace).is_none() {
        apply(api, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}))?;
        wanted.insert(key, None);
    } else if before.contains_key(&key) {
        wanted.insert(key, None);
    }
    Ok(())
}

fn apply(api: &Arc<Api>, object: &Value) -> ApiResult<()> {
    let resource = resource_of(api, object)?;
    let mut call = Call::internal(api, &resource.group, &resource.plural, object)?;
    call.manager = MANAGER.to_owned();
    call.params.field_validation = "Strict".to_owned();
    call.params.field_manager = MANAGER.to_owned();
    let patch = Patch::Apply { object: object.clone(), force: true };
    api.apply_patch(&call, &patch).map(drop)
}

/// One rejection for every field that is wrong.
fn reject(api: &Arc<Api>, entry: &Entry, error: &ApiError) -> Vec<Rejection> {
    let kind = object::text(&entry.object, "/kind");
    let resource = resource_of(api, &entry.object).ok();
    let namespace =
        resource.map_or(object::namespace(&entry.object), |resource| place(&resource, &entry.object));
    let name = object::key(namespace, object::name(&entry.object));
    let rejection = |field: String, reason: String| Rejection {
        index: entry.index,
        object: if name.is_empty() { kind.to_owned() } else { format!("{kind} {name}") },
        field,
        reason,
    };
    if error.causes().is_empty() {
        let text = error.to_string();
        let findings = unknown_fields(&text);
        if findings.is_empty() {
            return vec![rejection(String::new(), text)];
        }
        return findings.into_iter().map(|field| rejection(field, "unknown field".to_owned())).collect();
    }
    error.causes().iter().map(|cause| rejection(cause.field.clone(), cause.message.clone())).collect()
}

/// The fields that a strict decoding error names.
fn unknown_fields(text: &str) -> Vec<String> {
    text.split("unknown field \"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(str::to_owned)
        .collect()
}

fn remove(api: &Arc<Api>, id: &ResourceId, key: &str) -> ApiResult<()> {
    let Some(stored) = api.store.get(id, key) else { return Ok(()) };
    let registry = api.registry();
    let Some(resource) = registry.get(&id.group, &id.plural) else { return Ok(()) };
    let Some(version) = resource.versions.iter().find(|version| version.served) else { return Ok(()) };
    let call = Call::internal_for(resource, version, &stored.value);
    match api.delete(&call, &Bytes::new()) {
        Err(error) if error.code() == http::StatusCode::NOT_FOUND => {}
        other => drop(other?),
    }
    if is_namespace(id) {
        end_namespace(api, id, key);
    }
    Ok(())
}

fn is_namespace(id: &ResourceId) -> bool {
    id.group.is_empty() && &*id.plural == "namespaces"
}

/// Takes up again the ends that were held up.
fn end_namespaces<'a>(api: &Arc<Api>, owned: impl Iterator<Item = &'a (ResourceId, String)>) {
    for (id, name) in owned.filter(|(id, _)| is_namespace(id)) {
        if api.store.get(id, name).is_some_and(|stored| object::is_terminating(&stored.value)) {
            end_namespace(api, id, name);
        }
    }
}

/// A namespace that is in no file any more goes at once, with what else is in it (Events): no controller may be running to
/// end it. What has finalizers holds it up.
fn end_namespace(api: &Arc<Api>, id: &ResourceId, name: &str) {
    for _ in 0..ATTEMPTS {
        let left = objects_in(api, name);
        for (of, key) in &left {
            if let Err(error) = remove(api, of, key) {
                tracing::debug!(%error, resource = %of.plural, key, "an object holds up the end of its namespace");
            }
        }
        if left.iter().any(|(of, key)| api.store.get(of, key).is_some()) {
            return;
        }
        let Some(stored) = api.store.get(id, name) else { return };
        let expected = Expected::Revision(stored.revision);
        let empty = |now: &Now<'_>| if now.resource_in(name).is_none() { Ok(()) } else { Err(()) };
        if api.store.commit_if(id, name, expected, None, empty, || ()).is_ok() {
            return;
        }
    }
}

/// Everything in a namespace.
fn objects_in(api: &Arc<Api>, namespace: &str) -> Vec<(ResourceId, String)> {
    let prefix = format!("{namespace}/");
    let registry = api.registry();
    let namespaced = registry.all().filter(|resource| resource.namespaced);
    namespaced
        .flat_map(|resource| {
            let snapshot = api.store.snapshot(&resource.id);
            crate::store::in_namespace(&snapshot.objects, namespace, None)
                .filter(|(key, _)| key.starts_with(&prefix))
                .map(|(key, _)| (resource.id.clone(), key.to_string()))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_errors_name_their_fields() {
        let text = r#"strict decoding error: unknown field "spec.a", unknown field "spec.b""#;
        assert_eq!(unknown_fields(text), ["spec.a", "spec.b"]);
        assert!(unknown_fields("something else").is_empty());
    }
}

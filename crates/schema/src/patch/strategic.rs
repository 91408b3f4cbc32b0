//! Strategic merge patch, driven by the patch hints of the schema: which lists merge, and by which key.
//!
//! Directives: `$patch: replace|delete` in objects and list items, `$setElementOrder/FIELD`,
//! `$deleteFromPrimitiveList/FIELD`, `$retainKeys`. Lists without a hint are replaced. An order is always restored: items
//! of the patch in the patch's order, the others where they were relative to those.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::PatchError;
use crate::structural::Structural;
use crate::structural::node::{Arena, NodeId, PatchHints};
use crate::structural::validate::canonical;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// The target with the patch merged into it.
pub fn apply(schema: &Structural, target: &Value, patch: &Value) -> Result<Value, PatchError> {
    let (Some(target), Some(patch)) = (target.as_object(), patch.as_object()) else {
        return Err(PatchError::Malformed("json: a strategic merge patch must be an object".to_owned()));
    };
    let arena = schema.arena();
    Merger { arena }.objects(Some(arena.root), target, patch).map(Value::Object)
}

struct Merger<'a> {
    arena: &'a Arena,
}

fn malformed<T>(message: impl Into<String>) -> Result<T, PatchError> {
    Err(PatchError::Malformed(message.into()))
}

impl Merger<'_> {
    fn child(&self, node: Option<NodeId>, name: &str) -> Option<NodeId> {
        self.arena.node(node?).child(name)
    }

    fn items(&self, node: Option<NodeId>) -> Option<NodeId> {
        self.arena.node(node?).items
    }

    fn hints(&self, node: Option<NodeId>) -> PatchHints {
        node.map(|id| self.arena.node(id).patch.clone()).unwrap_or_default()
    }

    fn objects(
        &self,
        node: Option<NodeId>,
        original: &Map<String, Value>,
        patch: &Map<String, Value>,
    ) -> Result<Map<String, Value>, PatchError> {
        match patch.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
            None => {}
            Some("replace") => {
                return Ok(match plain(&Value::Object(patch.clone())) {
                    Value::Object(replaced) => replaced,
                    _ => Map::new(),
                });
            }
            Some("delete") => return Ok(Map::new()),
            Some("merge") => {}
            Some(other) => return malformed(format!("unknown patch type: {other} in map: {}", shown(patch))),
        }
        let mut merged = original.clone();
        retain(&mut merged, patch)?;
        let ordered = self.ordered_lists(node, &mut merged, patch)?;
        for (name, change) in patch {
            let is_directive = name == DIRECTIVE || name == RETAIN_KEYS || name.starts_with(ORDER);
            if is_directive || ordered.contains(name.as_str()) {
                continue;
            }
            if let Some(field) = name.strip_prefix(DELETE) {
                delete_items(&mut merged, field, change)?;
                continue;
            }
            let value = match (merged.get(name), change) {
                (_, Value::Null) => {
                    merged.shift_remove(name);
                    continue;
                }
                (Some(Value::Object(before)), Value::Object(after)) => {
                    let child = self.child(node, name);
                    if self.hints(child).replace {
                        change.clone()
                    } else {
                        Value::Object(self.objects(child, before, after)?)
                    }
                }
                (Some(Value::Array(before)), Value::Array(after)) => {
                    Value::Array(self.lists(self.child(node, name), before, after)?)
                }
                _ => plain(change),
            };
            merged.insert(name.clone(), value);
        }
        Ok(merged)
    }

    /// Lists for which the patch gives an order, with the order applied. Gives the names of those lists.
    fn ordered_lists<'p>(
        &self,
        node: Option<NodeId>,
        merged: &mut Map<String, Value>,
        patch: &'p Map<String, Value>,
    ) -> Result<HashSet<&'p str>, PatchError> {
        let mut done = HashSet::new();
        for (directive, order) in patch {
            let Some(name) = directive.strip_prefix(ORDER) else { continue };
            let Some(order) = order.as_array() else {
                return malformed(format!("{directive} must be a list"));
            };
            let child = self.child(node, name);
            let key = self.hints(child).merge_key;
            let before = merged.get(name).and_then(Value::as_array).cloned();
            let change = match patch.get(name) {
                Some(Value::Array(items)) => Some(items),
                None => None,
                Some(Value::Null) => continue,
                Some(_) => return malformed(format!("{name} must be a list")),
            };
            if let Some(change) = change {
                check_order(directive, change, order, key.as_deref())?;
            }
            let list = match (&before, change) {
                (None, None) => continue,
                (Some(before), None) => before.clone(),
                (None, Some(change)) => plain_list(change),
                (Some(before), Some(change)) => self.lists(child, before, change)?,
            };
            let list = in_order(list, order, before.as_deref().unwrap_or_default(), key.as_deref());
            merged.insert(name.to_owned(), Value::Array(list));
            done.insert(name);
        }
        Ok(done)
    }

    fn lists(
        &self,
        node: Option<NodeId>,
        original: &[Value],
        patch: &[Value],
    ) -> Result<Vec<Value>, PatchError> {
        let hints = self.hints(node);
        if !hints.merge {
            return Ok(patch.to_vec());
        }
        let objects = original.iter().chain(patch).filter(|item| item.is_object()).count();
        if objects == 0 {
            let mut seen = HashSet::new();
            let both: Vec<Value> =
                original.iter().chain(patch).filter(|item| seen.insert(canonical(item))).cloned().collect();
            return Ok(in_order(both, patch, original, None));
        }
        if objects != original.len() + patch.len() {
            return malformed("list items of different types");
        }
        let Some(key) = hints.merge_key.as_deref() else {
            return malformed("cannot merge lists without merge key");
        };
        self.keyed_lists(node, original, patch, key)
    }

    fn keyed_lists(
        &self,
        node: Option<NodeId>,
        original: &[Value],
        patch: &[Value],
        key: &str,
    ) -> Result<Vec<Value>, PatchError> {
        let mut merged = original.to_vec();
        let mut changes = Vec::with_capacity(patch.len());
        let mut replace = false;
        for change in patch {
            match change.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
                None => changes.push(change),
                Some("replace") => replace = true,
                Some("delete") => {
                    let wanted = key_of(change, key)?;
                    merged.retain(|item| item.get(key) != Some(wanted));
                }
                Some("merge") => return malformed("merging lists cannot yet be specified in the patch"),
                Some(other) => {
                    return malformed(format!("unknown patch type: {other} in list item {change}"));
                }
            }
        }
        if replace {
            return Ok(changes.into_iter().map(plain).collect());
        }
        let item = self.items(node);
        for change in &changes {
            let wanted = key_of(change, key)?;
            let place = merged.iter_mut().find(|item| item.get(key) == Some(wanted));
            match (place, change.as_object()) {
                (Some(place), Some(change)) => {
                    let before = place.as_object().cloned().unwrap_or_default();
                    *place = Value::Object(self.objects(item, &before, change)?);
                }
                _ => merged.push(plain(change)),
            }
        }
        let order: Vec<Value> = changes.into_iter().cloned().collect();
        Ok(in_order(merged, &order, original, Some(key)))
    }
}

fn shown(map: &Map<String, Value>) -> String {
    Value::Object(map.clone()).to_string()
}

fn key_of<'v>(item: &'v Value, key: &str) -> Result<&'v Value, PatchError> {
    match item.get(key) {
        Some(value) => Ok(value),
        None => malformed(format!("map: {item} does not contain declared merge key: {key}")),
    }
}

/// `$retainKeys`: of the fields that are there only those listed stay.
fn retain(merged: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), PatchError> {
    let Some(kept) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let Some(kept) = kept.as_array() else { return malformed("invalid patch format of retainKeys") };
    let kept: HashSet<&str> = kept.iter().filter_map(Value::as_str).collect();
    let stray = patch
        .iter()
        .any(|(name, value)| !value.is_null() && !name.starts_with('$') && !kept.contains(name.as_str()));
    if stray {
        return malformed("invalid patch format of retainKeys");
    }
    merged.retain(|name, _| kept.contains(name.as_str()));
    Ok(())
}

fn delete_items(merged: &mut Map<String, Value>, field: &str, gone: &Value) -> Result<(), PatchError> {
    let Some(gone) = gone.as_array() else {
        return malformed(format!("{DELETE}{field} must be a list"));
    };
    if let Some(Value::Array(items)) = merged.get_mut(field) {
        items.retain(|item| !gone.contains(item));
    }
    Ok(())
}

/// The items of the patch must come in the order that the patch itself demands.
fn check_order(
    directive: &str,
    patch: &[Value],
    order: &[Value],
    key: Option<&str>,
) -> Result<(), PatchError> {
    let places = places(order, key);
    let mut last = None;
    for item in patch {
        if item.get(DIRECTIVE).is_some() {
            continue;
        }
        let place = identity(item, key).and_then(|identity| places.get(&identity).copied());
        let in_order = place.is_some() && place >= last;
        last = place;
        if !in_order {
            return malformed(format!(
                "The order in patch list:\n{}\n doesn't match {directive} list:\n{}\n",
                Value::Array(patch.to_vec()),
                Value::Array(order.to_vec())
            ));
        }
    }
    Ok(())
}

/// What tells an item apart: its merge key, or itself.
fn identity(item: &Value, key: Option<&str>) -> Option<String> {
    match key {
        Some(key) => item.get(key).map(canonical),
        None => Some(canonical(item)),
    }
}

/// Where each item first stands.
fn places(list: &[Value], key: Option<&str>) -> HashMap<String, usize> {
    let mut places = HashMap::with_capacity(list.len());
    for (place, item) in list.iter().enumerate() {
        if let Some(identity) = identity(item, key) {
            places.entry(identity).or_insert(place);
        }
    }
    places
}

/// Items that `order` names in that order; the others keep their place of `original` relative to them.
fn in_order(list: Vec<Value>, order: &[Value], original: &[Value], key: Option<&str>) -> Vec<Value> {
    let (order, original) = (places(order, key), places(original, key));
    let mut named = Vec::new();
    let mut others = Vec::new();
    for item in list {
        let identity = identity(&item, key).unwrap_or_default();
        let before = original.get(&identity).copied();
        match order.get(&identity) {
            Some(place) => named.push((*place, before, item)),
            None => others.push((before.unwrap_or(usize::MAX), before, item)),
        }
    }
    named.sort_by_key(|(place, ..)| *place);
    others.sort_by_key(|(place, ..)| *place);
    let mut out = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let next = match (others.peek(), named.peek()) {
            (Some((_, Some(other), _)), Some((_, Some(next), _))) if other < next => others.next(),
            (_, Some(_)) => named.next(),
            (Some(_), None) => others.next(),
            (None, None) => return out,
        };
        out.extend(next.map(|(_, _, item)| item));
    }
}

/// A value of the patch that meets nothing: without directives and nulls.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .filter(|(name, value)| {
                    let directive = *name == DIRECTIVE
                        || *name == RETAIN_KEYS
                        || name.starts_with(ORDER)
                        || name.starts_with(DELETE);
                    !directive && !value.is_null()
                })
                .map(|(name, value)| (name.clone(), plain(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(plain_list(items)),
        other => other.clone(),
    }
}

/// Items that ask for their own deletion, or carry nothing but a directive, are no items.
fn plain_list(items: &[Value]) -> Vec<Value> {
    items
        .iter()
        .filter(|item| {
            item.get(DIRECTIVE).is_none_or(|directive| directive != "delete" && directive != "replace")
        })
        .map(plain)
        .collect()
}

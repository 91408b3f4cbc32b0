//! Objects seen through their schema: which fields they set, how two differ, what they make together.
//!
//! The list types of the schema decide: items of a set or a list with keys are told apart, everything atomic is one
//! field. Where there is no schema, objects are taken apart and lists are not.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::fields::{Element, Scalar, Set};
use crate::structural::node::{Arena, ListType, Node, NodeId};

/// A value is one field, or it is taken apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Leaf,
    Object,
    List,
}

/// A list item that cannot be told apart from the others, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ambiguous(pub(crate) String);

#[derive(Clone, Copy)]
pub(crate) struct Typed<'a> {
    arena: &'a Arena,
}

impl<'a> Typed<'a> {
    pub(crate) fn new(arena: &'a Arena) -> Typed<'a> {
        Typed { arena }
    }

    fn node(&self, id: Option<NodeId>) -> Option<&'a Node> {
        id.map(|id| self.arena.node(id))
    }

    fn shape(&self, id: Option<NodeId>, value: &Value) -> Shape {
        let node = self.node(id);
        match value {
            Value::Object(_) => match node {
                Some(node) if node.map_atomic => Shape::Leaf,
                // A free-form part of a built-in kind is one field.
                Some(node) if self.arena.builtin && node.preserve_unknown => Shape::Leaf,
                _ => Shape::Object,
            },
            Value::Array(_) => match node {
                Some(node) if node.list != ListType::Atomic => Shape::List,
                _ => Shape::Leaf,
            },
            _ => Shape::Leaf,
        }
    }

    fn child(&self, id: Option<NodeId>, name: &str) -> Option<NodeId> {
        self.node(id)?.child(name)
    }

    fn items(&self, id: Option<NodeId>) -> Option<NodeId> {
        self.node(id)?.items
    }

    /// What tells an item apart; `None` when nothing does.
    fn identity(&self, id: Option<NodeId>, item: &Value) -> Option<Element> {
        let node = self.node(id)?;
        let ListType::Map(keys) = &node.list else {
            return (!item.is_object() && !item.is_array()).then(|| Element::Item(Scalar(item.clone())));
        };
        let item = item.as_object()?;
        let mut identity = Vec::with_capacity(keys.len());
        for key in keys {
            let default = || self.node(self.child(node.items, key))?.default.as_ref();
            let value = item.get(&**key).filter(|value| !value.is_null()).or_else(default)?;
            identity.push((key.to_string(), Scalar(value.clone())));
        }
        identity.sort_by(|(a, _), (b, _)| a.cmp(b));
        Some(Element::Key(identity))
    }

    /// Items with what tells them apart; items that nothing tells apart are left out.
    fn identified<'v>(&self, id: Option<NodeId>, list: &'v [Value]) -> Vec<(Element, &'v Value)> {
        list.iter().filter_map(|item| Some((self.identity(id, item)?, item))).collect()
    }

    /// Says where a list of an applied object has two items alike or one without its keys.
    pub(crate) fn ambiguities(&self, object: &Value) -> Result<(), Ambiguous> {
        self.ambiguous(Some(self.arena.root), object, &mut Vec::new())
    }

    fn ambiguous(&self, id: Option<NodeId>, value: &Value, path: &mut Vec<Element>) -> Result<(), Ambiguous> {
        let shown = |path: &[Element]| path.iter().map(Element::to_string).collect::<String>();
        match (self.shape(id, value), value) {
            (Shape::Object, Value::Object(fields)) => {
                for (name, value) in fields {
                    path.push(Element::Field(name.clone()));
                    self.ambiguous(self.child(id, name), value, path)?;
                    path.pop();
                }
            }
            (Shape::List, Value::Array(items)) => {
                let mut seen = BTreeSet::new();
                for (index, item) in items.iter().enumerate() {
                    let Some(identity) = self.identity(id, item) else {
                        return Err(Ambiguous(format!(
                            "{}: element {index}: associative list with keys has an element that omits key field {}",
                            shown(path),
                            self.keys(id)
                        )));
                    };
                    if !seen.insert(identity.clone()) {
                        return Err(Ambiguous(format!(
                            "{}: duplicate entries for key {identity}",
                            shown(path)
                        )));
                    }
                    path.push(identity);
                    self.ambiguous(self.items(id), item, path)?;
                    path.pop();
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn keys(&self, id: Option<NodeId>) -> String {
        match self.node(id).map(|node| &node.list) {
            Some(ListType::Map(keys)) => {
                keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ")
            }
            _ => "(a set holds scalars)".to_owned(),
        }
    }

    /// The fields that an object sets.
    pub(crate) fn fields(&self, object: &Value) -> Set {
        let mut set = Set::default();
        self.gather(Some(self.arena.root), object, &mut Vec::new(), &mut set);
        set
    }

    fn gather(&self, id: Option<NodeId>, value: &Value, path: &mut Vec<Element>, set: &mut Set) {
        match (self.shape(id, value), value) {
            (Shape::Object, Value::Object(fields)) => {
                for (name, value) in fields {
                    path.push(Element::Field(name.clone()));
                    self.gather(self.child(id, name), value, path, set);
                    let declared =
                        self.node(id).is_some_and(|node| node.properties.contains_key(name.as_str()));
                    let hollow = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                    if hollow || !declared {
                        set.insert(path);
                    }
                    path.pop();
                }
            }
            (Shape::List, Value::Array(items)) => {
                for (element, item) in self.identified(id, items) {
                    path.push(element);
                    self.gather(self.items(id), item, path, set);
                    set.insert(path);
                    path.pop();
                }
            }
            _ => set.insert(path),
        }
    }

    /// How `new` differs from `old`.
    pub(crate) fn compare(&self, old: &Value, new: &Value) -> Comparison {
        let mut comparison = Comparison::default();
        let root = Some(self.arena.root);
        self.differ(root, Some(old), Some(new), &mut Vec::new(), &mut comparison);
        comparison
    }

    fn differ<'v>(
        &self,
        id: Option<NodeId>,
        old: Option<&'v Value>,
        new: Option<&'v Value>,
        path: &mut Vec<Element>,
        comparison: &mut Comparison,
    ) {
        let shape = self.common_shape(id, old, new);
        if let (Shape::Leaf, Some(before), Some(after)) = (shape, old, new)
            && self.shape(id, before) != self.shape(id, after)
            && !(is_hollow(before) && is_hollow(after))
        {
            // Of one shape before and of another now: what was inside is gone, what is inside came.
            self.inside(id, Some(before), None, path, comparison);
            self.inside(id, None, Some(after), path, comparison);
            comparison.modified.insert(path);
            return;
        }
        if shape != Shape::Leaf {
            self.inside(id, old, new, path, comparison);
        }
        match (old, new) {
            (None, Some(_)) => comparison.added.insert(path),
            (Some(_), None) => comparison.removed.insert(path),
            (Some(old), Some(new)) if shape == Shape::Leaf && old != new => comparison.modified.insert(path),
            _ => {}
        }
    }

    /// The parts of a container.
    fn inside<'v>(
        &self,
        id: Option<NodeId>,
        old: Option<&'v Value>,
        new: Option<&'v Value>,
        path: &mut Vec<Element>,
        comparison: &mut Comparison,
    ) {
        match self.common_shape(id, old, new) {
            Shape::Leaf => {}
            Shape::Object => {
                let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
                let kept = old.into_iter().flatten().map(|(name, _)| name);
                let came = new.into_iter().flatten().map(|(name, _)| name);
                let came = came.filter(|name| old.is_none_or(|old| !old.contains_key(*name)));
                for name in kept.chain(came) {
                    path.push(Element::Field(name.clone()));
                    let (before, after) =
                        (old.and_then(|fields| fields.get(name)), new.and_then(|fields| fields.get(name)));
                    self.differ(self.child(id, name), before, after, path, comparison);
                    path.pop();
                }
            }
            Shape::List => {
                let items = |value: Option<&'v Value>| {
                    let list = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                    self.identified(id, list)
                };
                let (before, after) = (items(old), items(new));
                let old_items: BTreeMap<&Element, &Value> =
                    before.iter().rev().map(|(element, item)| (element, *item)).collect();
                let new_items: BTreeMap<&Element, &Value> =
                    after.iter().rev().map(|(element, item)| (element, *item)).collect();
                let elements: BTreeSet<&Element> =
                    old_items.keys().chain(new_items.keys()).copied().collect();
                for element in elements {
                    path.push(element.clone());
                    let (before, after) = (old_items.get(element).copied(), new_items.get(element).copied());
                    self.differ(self.items(id), before, after, path, comparison);
                    path.pop();
                }
            }
        }
    }

    /// Two empty or missing containers are one field, so that an empty one is told from a missing one; so are two
    /// values of different shapes.
    fn common_shape(&self, id: Option<NodeId>, old: Option<&Value>, new: Option<&Value>) -> Shape {
        let shape = |value: Option<&Value>| value.map(|value| self.shape(id, value));
        if old.is_none_or(is_hollow) && new.is_none_or(is_hollow) {
            return Shape::Leaf;
        }
        match (shape(old), shape(new)) {
            (Some(old), Some(new)) if old == new => old,
            (Some(_), Some(_)) => Shape::Leaf,
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => Shape::Leaf,
        }
    }

    /// The live object with the applied one laid over it.
    pub(crate) fn merge(&self, live: &Value, applied: &Value) -> Value {
        self.merged(Some(self.arena.root), live, applied)
    }

    fn merged(&self, id: Option<NodeId>, live: &Value, applied: &Value) -> Value {
        match (self.common_shape(id, Some(live), Some(applied)), live, applied) {
            (Shape::Object, Value::Object(live), Value::Object(applied)) => {
                let mut out = live.clone();
                for (name, value) in applied {
                    let merged = match live.get(name) {
                        Some(before) => self.merged(self.child(id, name), before, value),
                        None => value.clone(),
                    };
                    out.insert(name.clone(), merged);
                }
                Value::Object(out)
            }
            (Shape::List, Value::Array(live), Value::Array(applied)) => {
                Value::Array(self.merged_list(id, live, applied))
            }
            // A null says nothing about a container that is there.
            (_, live @ (Value::Object(_) | Value::Array(_)), Value::Null) => live.clone(),
            _ => applied.clone(),
        }
    }

    /// Applied items in their order, with live-only items where they were relative to those that both have.
    fn merged_list(&self, id: Option<NodeId>, live: &[Value], applied: &[Value]) -> Vec<Value> {
        let (live, applied) = (self.identified(id, live), self.identified(id, applied));
        let live_items: BTreeMap<&Element, &Value> =
            live.iter().rev().map(|(element, item)| (element, *item)).collect();
        let applied_elements: BTreeSet<&Element> = applied.iter().map(|(element, _)| element).collect();
        let mut shared = applied
            .iter()
            .map(|(element, _)| element)
            .filter(|element| live_items.contains_key(element))
            .peekable();
        let mut taken = BTreeSet::new();
        let mut out = Vec::with_capacity(live.len() + applied.len());
        let (mut at_live, mut at_applied) = (0, 0);
        loop {
            let theirs = live.get(at_live);
            let ours = applied.get(at_applied);
            match (theirs, ours) {
                (None, None) => return out,
                (Some((element, item)), _) if !applied_elements.contains(element) => {
                    out.push((*item).clone());
                    at_live += 1;
                }
                // Taken already, or its turn in the applied order is later.
                (Some((element, _)), _) if taken.contains(element) => at_live += 1,
                (Some((element, _)), Some((due, _)))
                    if element != due && shared.peek().is_some_and(|next| *next != element) =>
                {
                    at_live += 1;
                }
                (theirs, Some((element, item))) => {
                    out.push(match live_items.get(element) {
                        Some(before) => self.merged(self.items(id), before, item),
                        None => (*item).clone(),
                    });
                    at_applied += 1;
                    at_live += usize::from(theirs.is_some_and(|(theirs, _)| theirs == element));
                    taken.insert(element);
                    shared.next_if(|next| *next == element);
                }
                // Every applied item is taken, so what is left of the live ones is too.
                (Some(_), None) => at_live += 1,
            }
        }
    }

    /// The object without the fields of a set. A container that loses everything goes too.
    pub(crate) fn without(&self, object: &Value, fields: &Set) -> Value {
        self.stripped(Some(self.arena.root), object, fields).unwrap_or_else(|| Value::Object(Map::new()))
    }

    fn stripped(&self, id: Option<NodeId>, value: &Value, fields: &Set) -> Option<Value> {
        match (self.shape(id, value), value) {
            (Shape::Object, Value::Object(map)) if !map.is_empty() => {
                let mut out = Map::new();
                for (name, value) in map {
                    let element = Element::Field(name.clone());
                    if fields.has(&element) {
                        continue;
                    }
                    let kept = match fields.below(&element) {
                        Some(below) => self.stripped(self.child(id, name), value, below),
                        None => Some(value.clone()),
                    };
                    if let Some(kept) = kept {
                        out.insert(name.clone(), kept);
                    }
                }
                (!out.is_empty()).then_some(Value::Object(out))
            }
            (Shape::List, Value::Array(items)) if !items.is_empty() => {
                let mut out = Vec::with_capacity(items.len());
                for item in items {
                    let Some(element) = self.identity(id, item) else {
                        out.push(item.clone());
                        continue;
                    };
                    if fields.has(&element) {
                        continue;
                    }
                    match fields.below(&element) {
                        Some(below) => out.extend(self.stripped(self.items(id), item, below)),
                        None => out.push(item.clone()),
                    }
                }
                (!out.is_empty()).then_some(Value::Array(out))
            }
            _ => Some(value.clone()),
        }
    }
}

fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Fields that came, went, and changed.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    pub(crate) added: Set,
    pub(crate) removed: Set,
    pub(crate) modified: Set,
}

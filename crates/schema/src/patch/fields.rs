//! Sets of fields, and their form in `managedFields[].fieldsV1`.
//!
//! A set is a tree of path elements. A path is in it when its last element is a member of the tree's node there; a node
//! on the way need not be. The top of an object is never in a set.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

use crate::field::quote;
use crate::structural::node::{Arena, NodeId};
use crate::structural::validate::compare;

/// A scalar inside a path element, with an order.
#[derive(Debug, Clone)]
pub(crate) struct Scalar(pub(crate) Value);

impl Scalar {
    fn rank(&self) -> u8 {
        match &self.0 {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Array(_) => 3,
            Value::Object(_) => 4,
            Value::Null => 5,
        }
    }
}

impl Ord for Scalar {
    fn cmp(&self, other: &Scalar) -> Ordering {
        self.rank().cmp(&other.rank()).then_with(|| match (&self.0, &other.0) {
            (Value::Number(a), Value::Number(b)) => compare(a, b),
            (Value::String(a), Value::String(b)) => a.cmp(b),
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (a, b) => a.to_string().cmp(&b.to_string()),
        })
    }
}

impl PartialOrd for Scalar {
    fn partial_cmp(&self, other: &Scalar) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Scalar) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scalar {}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Element {
    /// A field of an object.
    Field(String),
    /// The item of a list that has these keys, sorted by name.
    Key(Vec<(String, Scalar)>),
    /// The item of a set.
    Item(Scalar),
    /// An item by its place. Read for the sake of other writers; never made here.
    Index(i64),
}

impl Element {
    fn parse(text: &str) -> Option<Element> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Element::Field(rest.to_owned())),
            "v" => Some(Element::Item(Scalar(serde_json::from_str(rest).ok()?))),
            "i" => Some(Element::Index(rest.parse().ok()?)),
            "k" => {
                let keys: Map<String, Value> = serde_json::from_str(rest).ok()?;
                let mut keys: Vec<(String, Scalar)> =
                    keys.into_iter().map(|(name, value)| (name, Scalar(value))).collect();
                keys.sort_by(|(a, _), (b, _)| a.cmp(b));
                Some(Element::Key(keys))
            }
            _ => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Element::Field(name) => format!("f:{name}"),
            Element::Item(value) => format!("v:{}", value.0),
            Element::Index(index) => format!("i:{index}"),
            Element::Key(keys) => {
                let keys: Map<String, Value> =
                    keys.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect();
                format!("k:{}", Value::Object(keys))
            }
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scalar = |value: &Scalar| match &value.0 {
            Value::String(text) => quote(text),
            other => other.to_string(),
        };
        match self {
            Element::Field(name) => write!(f, ".{name}"),
            Element::Item(value) => write!(f, "[={}]", scalar(value)),
            Element::Index(index) => write!(f, "[{index}]"),
            Element::Key(keys) => {
                let keys: Vec<String> =
                    keys.iter().map(|(name, value)| format!("{name}={}", scalar(value))).collect();
                write!(f, "[{}]", keys.join(","))
            }
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Set {
    members: BTreeSet<Element>,
    children: BTreeMap<Element, Set>,
}

impl Set {
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.values().all(Set::is_empty)
    }

    pub(crate) fn has(&self, element: &Element) -> bool {
        self.members.contains(element)
    }

    pub(crate) fn below(&self, element: &Element) -> Option<&Set> {
        self.children.get(element)
    }

    pub(crate) fn insert(&mut self, path: &[Element]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    pub(crate) fn of_fields(paths: &[&[&str]]) -> Set {
        let mut set = Set::default();
        for path in paths {
            let path: Vec<Element> = path.iter().map(|name| Element::Field((*name).to_owned())).collect();
            set.insert(&path);
        }
        set
    }

    pub(crate) fn union(&self, other: &Set) -> Set {
        let mut result = self.clone();
        result.absorb(other);
        result
    }

    pub(crate) fn absorb(&mut self, other: &Set) {
        self.members.extend(other.members.iter().cloned());
        for (element, below) in &other.children {
            self.children.entry(element.clone()).or_default().absorb(below);
        }
    }

    pub(crate) fn intersection(&self, other: &Set) -> Set {
        let mut result =
            Set { members: self.members.intersection(&other.members).cloned().collect(), ..Set::default() };
        for (element, below) in &self.children {
            if let Some(other) = other.children.get(element) {
                result.attach(element, below.intersection(other));
            }
        }
        result
    }

    /// The paths that are not in the other set. What is below a path is a path of its own.
    pub(crate) fn difference(&self, other: &Set) -> Set {
        let mut result =
            Set { members: self.members.difference(&other.members).cloned().collect(), ..Set::default() };
        for (element, below) in &self.children {
            let left = match other.children.get(element) {
                Some(other) => below.difference(other),
                None => below.clone(),
            };
            result.attach(element, left);
        }
        result
    }

    fn attach(&mut self, element: &Element, below: Set) {
        if !below.is_empty() {
            self.children.insert(element.clone(), below);
        }
    }

    /// The set with the declared fields on the way to its paths as members too: who owns `spec.a.b` owns `spec.a` as
    /// long as it is a field of the schema rather than a key of a map.
    pub(crate) fn with_named_fields(&self, arena: &Arena, node: Option<NodeId>) -> Set {
        let mut result = Set { members: self.members.clone(), children: BTreeMap::new() };
        for (element, below) in &self.children {
            let declared = node.map(|id| arena.node(id));
            let child = match (element, declared) {
                (Element::Field(name), Some(node)) => {
                    if node.properties.contains_key(name.as_str()) {
                        result.members.insert(element.clone());
                    }
                    node.child(name)
                }
                (_, Some(node)) => node.items,
                (_, None) => None,
            };
            result.children.insert(element.clone(), below.with_named_fields(arena, child));
        }
        result
    }

    /// All paths, parents before children.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        let elements: BTreeSet<&Element> = self.members.iter().chain(self.children.keys()).collect();
        for element in elements {
            let path = format!("{prefix}{element}");
            if self.members.contains(element) {
                paths.push(path.clone());
            }
            if let Some(below) = self.children.get(element) {
                below.collect(&path, paths);
            }
        }
    }

    /// Reads `fieldsV1`; `None` when it is not one.
    pub(crate) fn from_json(fields: &Value) -> Option<Set> {
        let mut set = Set::default();
        for (key, below) in fields.as_object()? {
            // The dot stands for the node itself and is read where the node's element is.
            if key == "." {
                continue;
            }
            let element = Element::parse(key)?;
            let below_fields = below.as_object()?;
            if below_fields.is_empty() || below_fields.contains_key(".") {
                set.members.insert(element.clone());
            }
            let below = Set::from_json(below)?;
            set.attach(&element, below);
        }
        Some(set)
    }

    pub(crate) fn to_json(&self) -> Value {
        let elements: BTreeSet<&Element> = self.members.iter().chain(self.children.keys()).collect();
        let mut fields = Map::new();
        for element in elements {
            let mut below = match self.children.get(element) {
                Some(set) if !set.is_empty() => set.to_json(),
                _ if self.members.contains(element) => Value::Object(Map::new()),
                _ => continue,
            };
            if let Value::Object(inner) = &mut below
                && !inner.is_empty()
                && self.members.contains(element)
            {
                let mut with_self = Map::new();
                with_self.insert(".".to_owned(), Value::Object(Map::new()));
                with_self.extend(std::mem::take(inner));
                below = Value::Object(with_self);
            }
            fields.insert(element.text(), below);
        }
        Value::Object(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_written_as_kubernetes_writes_them() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}, "f:finalizers": {".": {}, "v:\"x\"": {}}},
            "f:spec": {
                "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}},
                "f:list": {"i:0": {}},
            },
        });
        let set = Set::from_json(&fields).unwrap();
        let sorted = json!({
            "f:metadata": {"f:finalizers": {".": {}, "v:\"x\"": {}}, "f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:list": {"i:0": {}},
                "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}},
            },
        });
        assert_eq!(set.to_json().to_string(), sorted.to_string());
        assert_eq!(
            set.paths(),
            [
                ".metadata.finalizers",
                ".metadata.finalizers[=\"x\"]",
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.list[0]",
                ".spec.ports",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].port",
            ]
        );
    }

    #[test]
    fn what_is_not_a_field_set_is_refused() {
        for fields in [json!([]), json!({"x": {}}), json!({"f:a": 1}), json!({"k:{": {}}), json!({"i:x": {}})]
        {
            assert!(Set::from_json(&fields).is_none(), "{fields}");
        }
    }

    #[test]
    fn sets_combine_by_path() {
        let a = Set::of_fields(&[&["a"], &["a", "b"], &["c"]]);
        let b = Set::of_fields(&[&["a", "b"], &["d"]]);
        assert_eq!(a.difference(&b).paths(), [".a", ".c"]);
        assert_eq!(a.intersection(&b).paths(), [".a.b"]);
        assert_eq!(a.union(&b).paths(), [".a", ".a.b", ".c", ".d"]);
        assert!(a.difference(&a).is_empty());
    }
}

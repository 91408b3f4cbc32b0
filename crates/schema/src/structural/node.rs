//! The compiled form of a schema: an arena of nodes that refer to each other by index, so that recursive schemas are
//! plain data, clones share everything, and a walk never compiles, parses or allocates.

use indexmap::IndexMap;
use serde_json::Value;

use super::format::Format;
use super::pattern::Pattern;
use crate::cel::Rule;

/// Index of a node in its arena.
pub(crate) type NodeId = usize;

/// All nodes of one schema.
#[derive(Debug)]
pub(crate) struct Arena {
    pub(crate) nodes: Vec<Node>,
    pub(crate) root: NodeId,
    /// Whether unknown fields, nulls and types are treated as the Go decoder of a built-in kind does.
    pub(crate) builtin: bool,
}

impl Arena {
    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    pub(crate) fn root(&self) -> &Node {
        &self.nodes[self.root]
    }
}

/// The declared JSON type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Any => "any",
            Kind::Object => "object",
            Kind::Array => "array",
            Kind::String => "string",
            Kind::Integer => "integer",
            Kind::Number => "number",
            Kind::Boolean => "boolean",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Kind> {
        Some(match name {
            "object" => Kind::Object,
            "array" => Kind::Array,
            "string" => Kind::String,
            "integer" => Kind::Integer,
            "number" => Kind::Number,
            "boolean" => Kind::Boolean,
            _ => return None,
        })
    }

    pub(crate) fn admits(self, value: &Value) -> bool {
        match self {
            Kind::Any => true,
            Kind::Object => value.is_object(),
            Kind::Array => value.is_array(),
            Kind::String => value.is_string(),
            Kind::Integer => match value {
                Value::Number(number) => {
                    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|f| f.fract() == 0.0)
                }
                _ => false,
            },
            Kind::Number => value.is_number(),
            Kind::Boolean => value.is_boolean(),
        }
    }
}

/// The JSON type of a value, as error messages name it.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// How the items of a list belong together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum ListType {
    /// One value, owned and replaced as a whole.
    #[default]
    Atomic,
    /// Scalars, each there at most once.
    Set,
    /// Objects, told apart by these keys.
    Map(Vec<Box<str>>),
}

/// What may stand beside the declared properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Additional {
    /// Nothing: other fields are unknown.
    #[default]
    None,
    /// Anything.
    Any,
    /// Values of this schema.
    Schema(NodeId),
}

/// How strategic merge patches treat the field (`x-kubernetes-patch-strategy`, `x-kubernetes-patch-merge-key`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PatchHints {
    pub(crate) merge: bool,
    pub(crate) replace: bool,
    pub(crate) retain_keys: bool,
    pub(crate) merge_key: Option<Box<str>>,
}

/// One schema node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) nullable: bool,
    pub(crate) int_or_string: bool,
    pub(crate) preserve_unknown: bool,
    pub(crate) embedded: bool,
    /// The value is decoded into a Go struct: wrong types are decoding errors and null means absent.
    pub(crate) typed: bool,
    pub(crate) properties: IndexMap<Box<str>, NodeId>,
    pub(crate) additional: Additional,
    pub(crate) items: Option<NodeId>,
    pub(crate) required: Vec<Box<str>>,
    pub(crate) default: Option<Value>,
    pub(crate) list: ListType,
    pub(crate) map_atomic: bool,
    pub(crate) patch: PatchHints,
    pub(crate) checks: Option<Box<Checks>>,
    pub(crate) rules: Vec<Rule>,
    /// A default, a rule, a transition rule is at this node or below it: walks skip what has none.
    pub(crate) has_default: bool,
    pub(crate) has_rule: bool,
    pub(crate) has_transition: bool,
}

impl Node {
    pub(crate) fn checks_mut(&mut self) -> &mut Checks {
        self.checks.get_or_insert_default()
    }

    /// The node of a property: declared, or one for all others.
    pub(crate) fn child(&self, name: &str) -> Option<NodeId> {
        match self.properties.get(name) {
            Some(id) => Some(*id),
            None => match self.additional {
                Additional::Schema(id) => Some(id),
                _ => None,
            },
        }
    }
}

/// Value validations of a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checks {
    pub(crate) format: Option<Format>,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) choices: Vec<Value>,
    pub(crate) minimum: Option<Bound>,
    pub(crate) maximum: Option<Bound>,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) unique_items: bool,
    pub(crate) all_of: Vec<NodeId>,
    pub(crate) any_of: Vec<NodeId>,
    pub(crate) one_of: Vec<NodeId>,
    pub(crate) not: Option<NodeId>,
}

impl Checks {
    pub(crate) fn is_empty(&self) -> bool {
        let counts = [
            self.min_length,
            self.max_length,
            self.min_items,
            self.max_items,
            self.min_properties,
            self.max_properties,
        ];
        self.format.is_none()
            && self.pattern.is_none()
            && self.choices.is_empty()
            && self.minimum.is_none()
            && self.maximum.is_none()
            && self.multiple_of.is_none()
            && counts.iter().all(Option::is_none)
            && !self.unique_items
            && self.all_of.is_empty()
            && self.any_of.is_empty()
            && self.one_of.is_empty()
            && self.not.is_none()
    }
}

/// A numeric limit as written, and whether the limit itself is outside.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bound {
    pub(crate) limit: serde_json::Number,
    pub(crate) exclusive: bool,
}

//! From OpenAPI v3 JSON to an arena of nodes.
//!
//! Two dialects: a CRD version's nested `openAPIV3Schema`, which must be structural, and the components of a real API
//! server, which refer to each other by `$ref` and may be recursive.

use std::collections::HashMap;
use std::fmt;

use serde_json::{Map, Number, Value};

use super::format::Format;
use super::node::{Additional, Arena, Bound, Checks, Kind, ListType, Node, NodeId, PatchHints};
use super::object_meta;
use super::pattern::Pattern;
use super::{default, validate};
use crate::cel;
use crate::field::{FieldError, FieldErrorKind, Path, aggregate};

/// Levels of nesting in a schema. JSON itself is read to 128 levels; no upstream CRD comes near half of that.
const MAX_DEPTH: usize = 100;

const REF_PREFIX: &str = "#/components/schemas/";

/// A schema that cannot be used, with every reason found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError(pub Vec<FieldError>);

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&aggregate(&self.0))
    }
}

impl std::error::Error for CompileError {}

pub(crate) fn crd(schema: &Value) -> Result<Arena, CompileError> {
    let mut compiler = Compiler::new(None);
    let root = compiler.schema(schema, &Path::Root, 0, Place::Spine);
    if compiler.errors.is_empty() && compiler.nodes[root].kind != Kind::Object {
        compiler.fail(&Path::Root.field("type"), FieldErrorKind::Invalid, "must be object at the root");
    }
    compiler.nodes[root].embedded = true;
    compiler.finish(root)
}

pub(crate) fn component(components: &Map<String, Value>, name: &str) -> Result<Arena, CompileError> {
    let mut compiler = Compiler::new(Some(components));
    let root = compiler.component(name, &Path::Root, 0);
    compiler.finish(root)
}

/// Where a schema stands: on the structural spine, or in a value validation (`allOf` and the like) that adds checks only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Spine,
    Validation,
}

struct Compiler<'a> {
    components: Option<&'a Map<String, Value>>,
    by_name: HashMap<&'a str, NodeId>,
    nodes: Vec<Node>,
    /// Nodes that stand for another one, with a default or patch hints of their own.
    aliases: Vec<(NodeId, NodeId)>,
    /// Nodes with a default, and where.
    defaults: Vec<(NodeId, String)>,
    errors: Vec<FieldError>,
    programs: cel::Programs,
}

impl<'a> Compiler<'a> {
    fn new(components: Option<&'a Map<String, Value>>) -> Compiler<'a> {
        Compiler {
            components,
            by_name: HashMap::new(),
            nodes: Vec::new(),
            aliases: Vec::new(),
            defaults: Vec::new(),
            errors: Vec::new(),
            programs: cel::Programs::default(),
        }
    }

    fn fail(&mut self, path: &Path<'_>, kind: FieldErrorKind, detail: impl Into<String>) {
        self.errors.push(FieldError::new(path, kind, detail));
    }

    fn finish(mut self, root: NodeId) -> Result<Arena, CompileError> {
        self.resolve_aliases();
        if self.components.is_none() {
            self.type_metadata();
        }
        if !self.errors.is_empty() {
            return Err(CompileError(self.errors));
        }
        let builtin = self.components.is_some();
        if builtin {
            for node in &mut self.nodes {
                node.typed = true;
                // A struct without fields (RawExtension, FieldsV1, JSON) carries whatever it is given.
                if node.properties.is_empty() && matches!(node.additional, Additional::None) {
                    node.preserve_unknown = true;
                }
                // The zero value of a Go field is written as its default; it means nothing to an object.
                node.default = node.default.take().filter(|default| !is_zero(default));
            }
        }
        mark_subtrees(&mut self.nodes);
        let arena = Arena { nodes: self.nodes, root, builtin };
        let misfits: Vec<FieldError> =
            self.defaults.iter().filter_map(|(id, place)| misfit(&arena, *id, place)).collect();
        if misfits.is_empty() { Ok(arena) } else { Err(CompileError(misfits)) }
    }

    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn component(&mut self, name: &str, path: &Path<'_>, depth: usize) -> NodeId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let id = self.add(Node::default());
        let Some((key, schema)) = self.components.and_then(|components| components.get_key_value(name))
        else {
            self.fail(path, FieldErrorKind::Invalid, format!("unknown component {name:?}"));
            return id;
        };
        self.by_name.insert(key, id);
        let compiled = self.schema(schema, path, depth, Place::Spine);
        if name.ends_with(".resource.Quantity") {
            self.nodes[compiled].checks_mut().format = Some(Format::Quantity);
        }
        self.aliases.push((id, compiled));
        id
    }

    fn schema(&mut self, schema: &Value, path: &Path<'_>, depth: usize, place: Place) -> NodeId {
        if depth > MAX_DEPTH {
            self.fail(path, FieldErrorKind::Invalid, format!("nested deeper than {MAX_DEPTH} levels"));
            return self.add(Node::default());
        }
        let Some(schema) = schema.as_object() else {
            self.fail(path, FieldErrorKind::Invalid, "must be an object");
            return self.add(Node::default());
        };
        if let Some(target) = self.reference(schema, path, depth) {
            let own = self.shape(schema, path, place);
            let id = self.add(own);
            self.aliases.push((id, target));
            return id;
        }
        let mut node = self.shape(schema, path, place);
        self.children(schema, &mut node, path, depth, place);
        self.value_checks(schema, &mut node, path, depth);
        self.rules(schema, &mut node, path);
        if place == Place::Spine && self.components.is_none() {
            self.structural(&node, path);
            if node.default.is_some() {
                let place = path.field("default").to_string();
                self.defaults.push((self.nodes.len(), place));
            }
        }
        self.add(node)
    }

    /// `$ref`, alone or as the one entry of `allOf`, which is how siblings such as a default are written beside it.
    fn reference(&mut self, schema: &Map<String, Value>, path: &Path<'_>, depth: usize) -> Option<NodeId> {
        let direct = schema.get("$ref");
        let wrapped = match schema.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
            Some([only]) => only.get("$ref"),
            _ => None,
        };
        let name = direct.or(wrapped)?.as_str()?;
        if self.components.is_none() {
            self.fail(&path.field("$ref"), FieldErrorKind::Forbidden, "$ref is not supported");
            return None;
        }
        let name = name.strip_prefix(REF_PREFIX).unwrap_or(name);
        Some(self.component(name, path, depth + 1))
    }

    /// The type, the Kubernetes extensions, and the default.
    fn shape(&mut self, schema: &Map<String, Value>, path: &Path<'_>, place: Place) -> Node {
        let flag = |key: &str| schema.get(key).and_then(Value::as_bool).unwrap_or(false);
        let text = |key: &str| schema.get(key).and_then(Value::as_str);
        let mut node = Node {
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string") || text("format") == Some("int-or-string"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            map_atomic: text("x-kubernetes-map-type") == Some("atomic"),
            default: schema.get("default").cloned(),
            ..Node::default()
        };
        if let Some(name) = text("type") {
            match Kind::parse(name) {
                Some(kind) => node.kind = kind,
                None => self.errors.push(FieldError::with_value(
                    path.field("type"),
                    FieldErrorKind::NotSupported,
                    &name.into(),
                    "supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
                )),
            }
        }
        if place == Place::Validation && node.default.take().is_some() && self.components.is_none() {
            self.fail(&path.field("default"), FieldErrorKind::Forbidden, "must be undefined");
        }
        node.list = self.list_type(schema, path);
        for strategy in text("x-kubernetes-patch-strategy").unwrap_or_default().split(',') {
            match strategy {
                "merge" => node.patch.merge = true,
                "replace" => node.patch.replace = true,
                "retainKeys" => node.patch.retain_keys = true,
                _ => {}
            }
        }
        node.patch.merge_key = text("x-kubernetes-patch-merge-key").map(Into::into);
        node
    }

    fn list_type(&mut self, schema: &Map<String, Value>, path: &Path<'_>) -> ListType {
        match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
            None | Some("atomic") => ListType::Atomic,
            Some("set") => ListType::Set,
            Some("map") => {
                let keys: Vec<Box<str>> = schema
                    .get("x-kubernetes-list-map-keys")
                    .and_then(Value::as_array)
                    .map(|keys| keys.iter().filter_map(Value::as_str).map(Into::into).collect())
                    .unwrap_or_default();
                if keys.is_empty() {
                    let detail = "must not be empty if x-kubernetes-list-type is map";
                    self.fail(&path.field("x-kubernetes-list-map-keys"), FieldErrorKind::Required, detail);
                }
                ListType::Map(keys)
            }
            Some(other) => {
                self.errors.push(FieldError::with_value(
                    path.field("x-kubernetes-list-type"),
                    FieldErrorKind::NotSupported,
                    &other.into(),
                    "supported values: \"atomic\", \"map\", \"set\"",
                ));
                ListType::Atomic
            }
        }
    }

    fn children(
        &mut self,
        schema: &Map<String, Value>,
        node: &mut Node,
        path: &Path<'_>,
        depth: usize,
        place: Place,
    ) {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let at = path.field("properties");
            for (name, property) in properties {
                let id = self.schema(property, &at.key(name), depth + 1, place);
                node.properties.insert(name.as_str().into(), id);
            }
        }
        if let Some(required) = schema.get("required").and_then(Value::as_array) {
            node.required = required.iter().filter_map(Value::as_str).map(Into::into).collect();
        }
        match schema.get("additionalProperties") {
            Some(Value::Bool(true)) => node.additional = Additional::Any,
            Some(additional @ Value::Object(_)) => {
                let at = path.field("additionalProperties");
                node.additional = Additional::Schema(self.schema(additional, &at, depth + 1, place));
            }
            _ => {}
        }
        if let Some(items) = schema.get("items") {
            node.items = Some(self.schema(items, &path.field("items"), depth + 1, place));
        }
    }

    fn value_checks(&mut self, schema: &Map<String, Value>, node: &mut Node, path: &Path<'_>, depth: usize) {
        let count = |key: &str| schema.get(key).and_then(Value::as_u64);
        let mut checks = Checks {
            format: schema.get("format").and_then(Value::as_str).and_then(Format::parse),
            choices: schema.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            minimum: bound(schema, "minimum", "exclusiveMinimum"),
            maximum: bound(schema, "maximum", "exclusiveMaximum"),
            multiple_of: schema.get("multipleOf").and_then(Value::as_f64).filter(|factor| *factor > 0.0),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            unique_items: schema.get("uniqueItems").and_then(Value::as_bool).unwrap_or(false),
            ..Checks::default()
        };
        if let Some(source) = schema.get("pattern").and_then(Value::as_str) {
            match Pattern::compile(source) {
                Ok(pattern) => checks.pattern = Some(pattern),
                Err(error) => self.errors.push(FieldError::with_value(
                    path.field("pattern"),
                    FieldErrorKind::Invalid,
                    &source.into(),
                    format!("must be a valid regular expression, but isn't: {error}"),
                )),
            }
        }
        checks.all_of = self.alternatives(schema, "allOf", path, depth);
        checks.any_of = self.alternatives(schema, "anyOf", path, depth);
        checks.one_of = self.alternatives(schema, "oneOf", path, depth);
        checks.not =
            schema.get("not").map(|not| self.schema(not, &path.field("not"), depth + 1, Place::Validation));
        if !checks.is_empty() {
            node.checks = Some(Box::new(checks));
        }
    }

    fn alternatives(
        &mut self,
        schema: &Map<String, Value>,
        key: &str,
        path: &Path<'_>,
        depth: usize,
    ) -> Vec<NodeId> {
        let Some(list) = schema.get(key).and_then(Value::as_array) else { return Vec::new() };
        let at = path.field(key);
        list.iter()
            .enumerate()
            .map(|(index, one)| self.schema(one, &at.index(index), depth + 1, Place::Validation))
            .collect()
    }

    fn rules(&mut self, schema: &Map<String, Value>, node: &mut Node, path: &Path<'_>) {
        let Some(rules) = schema.get("x-kubernetes-validations").and_then(Value::as_array) else { return };
        let at = path.field("x-kubernetes-validations");
        for (index, rule) in rules.iter().enumerate() {
            match cel::Rule::compile(rule, &at.index(index), node, &self.nodes, &mut self.programs) {
                Ok(rule) => node.rules.push(rule),
                Err(error) => self.errors.push(error),
            }
        }
    }

    /// What makes a CRD schema structural: every node of the spine says its type.
    fn structural(&mut self, node: &Node, path: &Path<'_>) {
        let free = node.int_or_string || node.preserve_unknown;
        if node.kind == Kind::Any && !free {
            let detail = "must not be empty for specified object fields";
            self.fail(&path.field("type"), FieldErrorKind::Required, detail);
        }
        if node.kind == Kind::Array && node.items.is_none() && !node.preserve_unknown {
            self.fail(&path.field("items"), FieldErrorKind::Required, "must be specified");
        }
        if node.embedded && node.kind != Kind::Object {
            let detail = "must be object if x-kubernetes-embedded-resource is true";
            self.fail(&path.field("type"), FieldErrorKind::Invalid, detail);
        }
        if !node.properties.is_empty() && !matches!(node.additional, Additional::None) {
            let detail = "additionalProperties and properties are mutual exclusive";
            self.fail(&path.field("additionalProperties"), FieldErrorKind::Forbidden, detail);
        }
    }

    /// Puts the node that each alias stands for in its place; an alias keeps what is written beside its
    /// reference.
    fn resolve_aliases(&mut self) {
        let targets: HashMap<NodeId, NodeId> = self.aliases.iter().copied().collect();
        for (alias, first) in std::mem::take(&mut self.aliases) {
            let mut target = first;
            let mut hops = 0;
            while let Some(next) = targets.get(&target) {
                target = *next;
                hops += 1;
                if hops > targets.len() {
                    self.fail(&Path::Root, FieldErrorKind::Invalid, "a component refers to itself only");
                    return;
                }
            }
            let copy = self.nodes[target].clone();
            let own = std::mem::replace(&mut self.nodes[alias], copy);
            let merged = &mut self.nodes[alias];
            merged.default = own.default.or_else(|| merged.default.take());
            merged.map_atomic |= own.map_atomic;
            if own.patch != PatchHints::default() {
                merged.patch = own.patch;
            }
        }
    }

    /// Gives `apiVersion`, `kind` and `metadata` of the root and of embedded resources their types.
    fn type_metadata(&mut self) {
        for resource in 0..self.nodes.len() {
            if !self.nodes[resource].embedded {
                continue;
            }
            for name in ["apiVersion", "kind"] {
                if !self.nodes[resource].properties.contains_key(name) {
                    let id = self.add(Node { kind: Kind::String, typed: true, ..Node::default() });
                    self.nodes[resource].properties.insert(name.into(), id);
                }
            }
            let own = self.nodes[resource].properties.get("metadata").copied();
            let meta = object_meta::add(&mut self.nodes);
            if let Some(own) = own {
                // A CRD may restrict the names of its objects, nothing else of the metadata.
                for field in ["name", "generateName"] {
                    let Some(restricted) = self.nodes[own].properties.get(field).copied() else { continue };
                    let Some(plain) = self.nodes[meta].properties.get(field).copied() else { continue };
                    let mut node = self.nodes[restricted].clone();
                    node.typed = true;
                    self.nodes[plain] = node;
                }
            }
            self.nodes[resource].properties.insert("metadata".into(), meta);
        }
    }
}

fn bound(schema: &Map<String, Value>, key: &str, exclusive: &str) -> Option<Bound> {
    let limit: Number = schema.get(key)?.as_number()?.clone();
    Some(Bound { limit, exclusive: schema.get(exclusive).and_then(Value::as_bool).unwrap_or(false) })
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// What is wrong with the default of a node, once it has the defaults inside it.
fn misfit(arena: &Arena, id: NodeId, place: &str) -> Option<FieldError> {
    let mut value = arena.node(id).default.clone()?;
    default::fill(arena, id, &mut value);
    let error = validate::validate_at(arena, id, &value).into_iter().next()?;
    let detail = match error.path.as_str() {
        "" => error.body(),
        path => format!("{path}: {}", error.body()),
    };
    Some(FieldError::with_value(place, FieldErrorKind::Invalid, &value, detail))
}

/// Marks every node that has a default or a rule at it or below it. Recursive schemas need the fixed point.
fn mark_subtrees(nodes: &mut [Node]) {
    for node in nodes.iter_mut() {
        node.has_default = node.default.is_some();
        node.has_rule = !node.rules.is_empty();
        node.has_transition = node.rules.iter().any(|rule| rule.transition);
    }
    loop {
        let mut changed = false;
        for id in 0..nodes.len() {
            let node = &nodes[id];
            let marks = |node: &Node| [node.has_default, node.has_rule, node.has_transition];
            let own = marks(node);
            if own == [true; 3] {
                continue;
            }
            let additional = match node.additional {
                Additional::Schema(id) => Some(id),
                _ => None,
            };
            let nested = node.checks.iter().flat_map(|checks| &checks.all_of);
            let mut found = own;
            for child in node.properties.values().chain(&node.items).chain(&additional).chain(nested) {
                for (mark, below) in found.iter_mut().zip(marks(&nodes[*child])) {
                    *mark |= below;
                }
            }
            if found != own {
                changed = true;
                let node = &mut nodes[id];
                [node.has_default, node.has_rule, node.has_transition] = found;
            }
        }
        if !changed {
            return;
        }
    }
}

//! Value validations, worded as an API server words them.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Number, Value};

use super::format::Format;
use super::node::{Additional, Arena, Bound, Checks, Kind, ListType, Node, NodeId, type_name};
use crate::field::{FieldError, FieldErrorKind, Path, quote, shown};

pub(crate) fn validate(arena: &Arena, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut validator = Validator { arena, errors: Vec::new() };
    validator.value(arena.root, new, old, &Path::Root);
    validator.errors
}

/// The errors of a value on its own under one node.
pub(crate) fn validate_at(arena: &Arena, id: NodeId, value: &Value) -> Vec<FieldError> {
    let mut validator = Validator { arena, errors: Vec::new() };
    validator.value(id, value, None, &Path::Root);
    validator.errors
}

struct Validator<'a> {
    arena: &'a Arena,
    errors: Vec<FieldError>,
}

impl Validator<'_> {
    fn invalid(&mut self, path: &Path<'_>, value: &Value, detail: String) {
        self.errors.push(FieldError::with_value(path, FieldErrorKind::Invalid, value, detail));
    }

    fn value(&mut self, id: NodeId, value: &Value, old: Option<&Value>, path: &Path<'_>) {
        let node = self.arena.node(id);
        if old == Some(value) && id != self.arena.root {
            return;
        }
        if value.is_null() && node.nullable {
            return;
        }
        if !admits(node, value) {
            let wanted = if node.int_or_string { "integer,string" } else { node.kind.name() };
            self.mistyped(path, wanted, type_name(value));
            if let Some(checks) = &node.checks {
                self.choices(checks, value, path);
            }
            if node.kind == Kind::Integer {
                self.representable(node, value, path);
            }
            return;
        }
        self.representable(node, value, path);
        if let Some(checks) = &node.checks {
            self.checks(checks, node, value, path);
        }
        match value {
            Value::Array(items) => self.items(node, items, old, path),
            Value::Object(fields) => self.fields(node, fields, old, path),
            _ => {}
        }
    }

    /// A value of the wrong type or format. What is shown is the name of the type that was found.
    fn mistyped(&mut self, path: &Path<'_>, wanted: &str, got: &str) {
        self.errors.push(FieldError {
            path: path.to_string(),
            kind: FieldErrorKind::TypeInvalid,
            value: Some(quote(got)),
            detail: format!("{path} in body must be of type {wanted}: {}", quote(got)),
        });
    }

    fn fields(&mut self, node: &Node, fields: &Map<String, Value>, old: Option<&Value>, path: &Path<'_>) {
        for name in &node.required {
            if !fields.contains_key(&**name) && self.demands(node, name, path) {
                self.errors.push(FieldError::new(path.field(name), FieldErrorKind::Required, ""));
            }
        }
        if node.embedded && !matches!(path, Path::Root) {
            for name in ["apiVersion", "kind"] {
                let given = fields.get(name).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
                if !given && !node.required.iter().any(|required| &**required == name) {
                    self.errors.push(FieldError::new(path.field(name), FieldErrorKind::Required, ""));
                }
            }
        }
        for (name, value) in fields {
            let child = match (node.properties.get(name.as_str()), node.additional) {
                (Some(id), _) => *id,
                (None, Additional::Schema(id)) => id,
                (None, _) => continue,
            };
            let old = old.and_then(|old| old.get(name));
            self.value(child, value, old, &path.field(name));
        }
    }

    /// A field of a built-in kind whose zero value is as good as any may be left out: flags, and all of the status.
    fn demands(&self, node: &Node, name: &str, path: &Path<'_>) -> bool {
        if !self.arena.builtin {
            return true;
        }
        let flag = node.properties.get(name).is_some_and(|id| self.arena.node(*id).kind == Kind::Boolean);
        !flag && path.first() != Some("status")
    }

    fn items(&mut self, node: &Node, items: &[Value], old: Option<&Value>, path: &Path<'_>) {
        if let Some(item) = node.items {
            let old = old.and_then(Value::as_array);
            for (index, value) in items.iter().enumerate() {
                let before = old.and_then(|old| same_item(node, value, old));
                self.value(item, value, before, &path.index(index));
            }
        }
        match &node.list {
            ListType::Atomic => {}
            ListType::Set => self.duplicates(items, path, |item| Some(item.clone())),
            ListType::Map(keys) => self.duplicates(items, path, |item| key_of(item, keys)),
        }
    }

    fn duplicates(&mut self, items: &[Value], path: &Path<'_>, identity: impl Fn(&Value) -> Option<Value>) {
        let mut seen: HashMap<String, bool> = HashMap::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let Some(identity) = identity(item) else { continue };
            match seen.get_mut(&canonical(&identity)) {
                None => {
                    seen.insert(canonical(&identity), false);
                }
                // Each value is told once.
                Some(told) if !*told => {
                    *told = true;
                    let at = path.index(index);
                    self.errors.push(FieldError::with_value(at, FieldErrorKind::Duplicate, &identity, ""));
                }
                Some(_) => {}
            }
        }
    }

    fn checks(&mut self, checks: &Checks, node: &Node, value: &Value, path: &Path<'_>) {
        match value {
            Value::String(text) => self.string(checks, text, value, path),
            Value::Number(number) => self.number(checks, number, value, path),
            Value::Array(items) => self.list_size(checks, items, value, path),
            Value::Object(fields) => self.object_size(checks, fields.len() as u64, path),
            _ => {}
        }
        self.choices(checks, value, path);
        // An int-or-string field may spell its two types out; that was checked with the type.
        if !node.int_or_string {
            self.any_of(checks, value, path);
            self.one_of(checks, value, path);
        }
        self.all_of(checks, value, path);
        if let Some(not) = checks.not
            && self.trial(not, value, path).is_empty()
        {
            self.composite(path, "must not validate the schema (not)");
        }
    }

    fn choices(&mut self, checks: &Checks, value: &Value, path: &Path<'_>) {
        if checks.choices.is_empty() || checks.choices.iter().any(|choice| same(choice, value)) {
            return;
        }
        let choices: Vec<String> = checks
            .choices
            .iter()
            .map(|choice| match choice {
                Value::String(text) => quote(text),
                other => quote(&other.to_string()),
            })
            .collect();
        let detail = format!("supported values: {}", choices.join(", "));
        self.errors.push(FieldError::with_value(path, FieldErrorKind::NotSupported, value, detail));
    }

    /// Length and pattern: the first that fails is the one that is told.
    fn string(&mut self, checks: &Checks, text: &str, value: &Value, path: &Path<'_>) {
        let length = match (checks.min_length, checks.max_length) {
            (None, None) => 0,
            _ => text.chars().count() as u64,
        };
        if let Some(limit) = checks.max_length.filter(|limit| length > *limit) {
            let bytes = if limit == 1 { "byte" } else { "bytes" };
            let detail = format!("may not be more than {limit} {bytes}");
            self.errors.push(FieldError::new(path, FieldErrorKind::TooLong, detail));
        } else if let Some(limit) = checks.min_length.filter(|limit| length < *limit) {
            self.invalid(path, value, format!("{path} in body should be at least {limit} chars long"));
        } else if let Some(pattern) = &checks.pattern
            && !pattern.is_match(text)
        {
            self.invalid(path, value, format!("{path} in body should match '{}'", pattern.source));
        }
        if let Some(format) = checks.format
            && !format.admits(text)
        {
            self.mistyped(path, format.name(), text);
        }
    }

    /// Whether a number fits the format of its field; an API server attaches the answer to no field.
    fn representable(&mut self, node: &Node, value: &Value, path: &Path<'_>) {
        let Value::Number(number) = value else { return };
        let kind = node.kind;
        let whole = number.as_i64().or_else(|| {
            number
                .as_f64()
                .filter(|float| float.fract() == 0.0 && float.abs() < 9.2e18)
                .map(|float| float as i64)
        });
        let format = node.checks.as_ref().and_then(|checks| checks.format);
        let (fits, words) = match (format, kind) {
            (Some(Format::Int32), _) => {
                (whole.is_some_and(|n| i32::try_from(n).is_ok()), "with format int32")
            }
            (Some(Format::Int64), _) => (whole.is_some(), "with format int64"),
            (_, Kind::Integer) => (whole.is_some(), "(default format)"),
            _ => return,
        };
        if !fits {
            self.errors.push(FieldError {
                path: String::new(),
                kind: FieldErrorKind::Invalid,
                value: Some(quote("")),
                detail: format!("Checked value must be of type {} {words} in {path}", kind.name()),
            });
        }
    }

    fn number(&mut self, checks: &Checks, number: &Number, value: &Value, path: &Path<'_>) {
        if let Some(Bound { limit, exclusive }) = &checks.maximum {
            let order = compare(number, limit);
            if order.is_gt() || (*exclusive && order.is_eq()) {
                let words = if *exclusive { "less than" } else { "less than or equal to" };
                self.invalid(path, value, format!("{path} in body should be {words} {}", shown_limit(limit)));
            }
        }
        if let Some(Bound { limit, exclusive }) = &checks.minimum {
            let order = compare(number, limit);
            if order.is_lt() || (*exclusive && order.is_eq()) {
                let words = if *exclusive { "greater than" } else { "greater than or equal to" };
                self.invalid(path, value, format!("{path} in body should be {words} {}", shown_limit(limit)));
            }
        }
        if let Some(factor) = checks.multiple_of
            && number.as_f64().is_some_and(|n| (n / factor).fract() != 0.0)
        {
            let factor = Number::from_f64(factor).map(|n| shown_limit(&n)).unwrap_or_default();
            self.invalid(path, value, format!("{path} in body should be a multiple of {factor}"));
        }
    }

    fn list_size(&mut self, checks: &Checks, items: &[Value], value: &Value, path: &Path<'_>) {
        let count = items.len() as u64;
        if let Some(limit) = checks.max_items.filter(|limit| count > *limit) {
            let noun = if limit == 1 { "item" } else { "items" };
            let detail = format!("must have at most {limit} {noun}");
            self.errors.push(FieldError::with_value(path, FieldErrorKind::TooMany, &count.into(), detail));
        }
        if let Some(limit) = checks.min_items.filter(|limit| count < *limit) {
            let detail = format!("{path} in body should have at least {limit} items");
            self.invalid(path, &count.into(), detail);
        }
        if checks.unique_items {
            let mut seen = HashSet::new();
            if !items.iter().all(|item| seen.insert(canonical(item))) {
                self.invalid(path, value, format!("{path} in body shouldn't contain duplicates"));
            }
        }
    }

    fn object_size(&mut self, checks: &Checks, count: u64, path: &Path<'_>) {
        if let Some(limit) = checks.max_properties.filter(|limit| count > *limit) {
            let noun = if limit == 1 { "item" } else { "items" };
            let detail = format!("must have at most {limit} {noun}");
            self.errors.push(FieldError::with_value(path, FieldErrorKind::TooMany, &count.into(), detail));
        }
        if let Some(limit) = checks.min_properties.filter(|limit| count < *limit) {
            let detail = format!("{path} in body should have at least {limit} properties");
            self.invalid(path, &count.into(), detail);
        }
    }

    /// The errors that a value would have under another node.
    fn trial(&mut self, id: NodeId, value: &Value, path: &Path<'_>) -> Vec<FieldError> {
        let kept = std::mem::take(&mut self.errors);
        self.value(id, value, None, path);
        std::mem::replace(&mut self.errors, kept)
    }

    fn any_of(&mut self, checks: &Checks, value: &Value, path: &Path<'_>) {
        let mut nearest: Option<Vec<FieldError>> = None;
        for id in &checks.any_of {
            let errors = self.trial(*id, value, path);
            if errors.is_empty() {
                return;
            }
            if nearest.as_ref().is_none_or(|nearest| errors.len() < nearest.len()) {
                nearest = Some(errors);
            }
        }
        if let Some(nearest) = nearest {
            self.composite(path, "must validate at least one schema (anyOf)");
            self.errors.extend(nearest);
        }
    }

    fn one_of(&mut self, checks: &Checks, value: &Value, path: &Path<'_>) {
        if checks.one_of.is_empty() {
            return;
        }
        let mut valid = 0;
        let mut nearest: Option<Vec<FieldError>> = None;
        for id in &checks.one_of {
            let errors = self.trial(*id, value, path);
            if errors.is_empty() {
                valid += 1;
            } else if nearest.as_ref().is_none_or(|nearest| errors.len() < nearest.len()) {
                nearest = Some(errors);
            }
        }
        match valid {
            1 => {}
            0 => {
                self.composite(path, "must validate one and only one schema (oneOf). Found none valid");
                self.errors.extend(nearest.unwrap_or_default());
            }
            _ => {
                let found = format!(
                    "must validate one and only one schema (oneOf). Found {valid} valid alternatives"
                );
                self.composite(path, &found);
            }
        }
    }

    fn all_of(&mut self, checks: &Checks, value: &Value, path: &Path<'_>) {
        let before = self.errors.len();
        for id in &checks.all_of {
            self.value(*id, value, None, path);
        }
        if self.errors.len() > before {
            self.composite(path, "must validate all the schemas (allOf)");
        }
    }

    /// An API server attaches these to no field and names the place in the text.
    fn composite(&mut self, path: &Path<'_>, what: &str) {
        self.errors.push(FieldError {
            path: String::new(),
            kind: FieldErrorKind::Invalid,
            value: Some(quote("")),
            detail: format!("{} {what}", quote(&path.to_string())),
        });
    }
}

pub(crate) fn fits_int32(number: &Number) -> bool {
    number.as_i64().is_some_and(|n| i32::try_from(n).is_ok())
}

fn admits(node: &Node, value: &Value) -> bool {
    if node.int_or_string {
        return value.is_string() || Kind::Integer.admits(value);
    }
    node.kind.admits(value)
}

/// The item of the old list that a new item continues; only lists with keys have such a thing.
fn same_item<'o>(node: &Node, item: &Value, old: &'o [Value]) -> Option<&'o Value> {
    let ListType::Map(keys) = &node.list else { return None };
    old.iter().find(|candidate| {
        keys.iter().all(|key| candidate.get(&**key) == item.get(&**key)) && item.is_object()
    })
}

fn key_of(item: &Value, keys: &[Box<str>]) -> Option<Value> {
    let item = item.as_object()?;
    let mut key = Map::new();
    for name in keys {
        if let Some(value) = item.get(&**name) {
            key.insert(name.to_string(), value.clone());
        }
    }
    Some(Value::Object(key))
}

/// A text that is equal for equal values whatever the order of their fields.
pub(crate) fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_unstable();
            text.push('{');
            for name in names {
                text.push_str(&quote(name));
                text.push(':');
                write_canonical(&fields[name], text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                write_canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9e15 => {
                text.push_str(&(float as i64).to_string());
            }
            _ => text.push_str(&number.to_string()),
        },
        other => text.push_str(&shown(other)),
    }
}

/// Equality in which `1` and `1.0` are the same number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare(a, b).is_eq(),
        _ => a == b,
    }
}

pub(crate) fn compare(a: &Number, b: &Number) -> std::cmp::Ordering {
    let whole = |n: &Number| n.as_i64().map(i128::from).or_else(|| n.as_u64().map(i128::from));
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => {
            let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            a.partial_cmp(&b).unwrap_or(std::cmp::Ordering::Equal)
        }
    }
}

/// A limit without the point that a whole number does not need.
fn shown_limit(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if float.fract() == 0.0 && float.abs() < 9e15 => format!("{float:.0}"),
        _ => number.to_string(),
    }
}

//! Value validations, worded as an API server words them.

use serde_json::{Map, Number, Value};

use super::format::Format;
use super::node::{Additional, Arena, Bound, Checks, Kind, ListType, Node, NodeId, type_name};
use crate::field::{FieldError, FieldErrorKind, Path, quote, shown};

pub(crate) fn validate(arena: &Arena, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut validator = Validator { arena, errors: Vec::new() };
    validator.value(arena.root, new, old, &Path::Root);
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
            return;
        }
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
            if !fields.contains_key(&**name) {
                self.errors.push(FieldError::new(path.field(name), FieldErrorKind::Required, ""));
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
        let mut seen: std::collections::HashSet<String> =
            std::collections::HashSet::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let Some(identity) = identity(item) else { continue };
            if !seen.insert(canonical(&identity)) {
                let at = path.index(index);
                self.errors.push(FieldError::with_value(at, FieldErrorKind::Duplicate, &identity, ""));
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
        if !checks.choices.is_empty() && !checks.choices.iter().any(|choice| same(choice, value)) {
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

    fn string(&mut self, checks: &Checks, text: &str, value: &Value, path: &Path<'_>) {
        if checks.min_length.is_some() || checks.max_length.is_some() {
            let length = text.chars().count() as u64;
            if let Some(limit) = checks.max_length.filter(|limit| length > *limit) {
                let bytes = if limit == 1 { "byte" } else { "bytes" };
                let detail = format!("may not be more than {limit} {bytes}");
                self.errors.push(FieldError::new(path, FieldErrorKind::TooLong, detail));
            }
            if let Some(limit) = checks.min_length.filter(|limit| length < *limit) {
                self.invalid(path, value, format!("{path} in body should be at least {limit} chars long"));
            }
        }
        if let Some(pattern) = &checks.pattern
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

    fn number(&mut self, checks: &Checks, number: &Number, value: &Value, path: &Path<'_>) {
        if let Some(format @ Format::Int32) = checks.format
            && !number.is_f64()
            && !fits_int32(number)
        {
            self.mistyped(path, format.name(), type_name(value));
        }
        if let Some(Bound { limit, exclusive }) = &checks.maximum {
            let order = compare(number, limit);
            if order.is_gt() || (*exclusive && order.is_eq()) {
                let words = if *exclusive { "less than" } else { "less than or equal to" };
                self.invalid(path, value, format!("{path} in body should be {words} {}", go_number(limit)));
            }
        }
        if let Some(Bound { limit, exclusive }) = &checks.minimum {
            let order = compare(number, limit);
            if order.is_lt() || (*exclusive && order.is_eq()) {
                let words = if *exclusive { "greater than" } else { "greater than or equal to" };
                self.invalid(path, value, format!("{path} in body should be {words} {}", go_number(limit)));
            }
        }
        if let Some(factor) = checks.multiple_of
            && number.as_f64().is_some_and(|n| (n / factor).fract() != 0.0)
        {
            let factor = Number::from_f64(factor).map(|n| go_number(&n)).unwrap_or_default();
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
            let mut seen = std::collections::HashSet::new();
            if !items.iter().all(|item| seen.insert(canonical(item))) {
                self.invalid(path, value, format!("{path} in body shouldn't contain duplicates"));
            }
        }
    }

    fn object_size(&mut self, checks: &Checks, count: u64, path: &Path<'_>) {
        if let Some(limit) = checks.max_properties.filter(|limit| count > *limit) {
            let detail = format!("{path} in body should have at most {limit} properties");
            self.invalid(path, &count.into(), detail);
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

/// A limit as Go prints a float64: with an exponent from a million on.
fn go_number(number: &Number) -> String {
    let Some(float) = number.as_f64() else { return number.to_string() };
    let scientific = format!("{float:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return format!("{float}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

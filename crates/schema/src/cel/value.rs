//! Values of CEL, borrowed from JSON where they come from JSON.
//!
//! A value keeps the schema node that it was read with: the node says whether a string is a timestamp, whether a number
//! is a double, and which lists are equal in any order.

use std::cmp::Ordering;
use std::ops::Deref;
use std::rc::Rc;

use kube_cel::cel;
use serde_json::Value as Json;

use super::eval::{Fault, Meter};
use super::library;
use crate::structural::format::{Format, duration_nanos};
use crate::structural::node::{Arena, Kind, ListType, Node, NodeId};

/// The schema node of a value, if it has one.
pub(crate) type Typed<'v> = Option<(&'v Arena, NodeId)>;

fn node<'v>(typed: Typed<'v>) -> Option<&'v Node> {
    typed.map(|(arena, id)| arena.node(id))
}

#[derive(Debug, Clone)]
pub(crate) enum Text<'v> {
    Borrowed(&'v str),
    Shared(Rc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Val<'v> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Text<'v>),
    Bytes(Rc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    List(List<'v>),
    Map(Map<'v>),
    Optional(Option<Rc<Val<'v>>>),
    Type(&'static str),
    /// A value of the function library: a timestamp, an address, a quantity, ...
    Foreign(cel::Value),
}

#[derive(Debug, Clone)]
pub(crate) enum List<'v> {
    Json(&'v [Json], Typed<'v>),
    Own(Rc<[Val<'v>]>),
}

#[derive(Debug, Clone)]
pub(crate) enum Map<'v> {
    Json(&'v serde_json::Map<String, Json>, Typed<'v>),
    Own(Rc<[(Val<'v>, Val<'v>)]>),
}

impl<'v> List<'v> {
    pub(crate) fn len(&self) -> usize {
        match self {
            List::Json(items, _) => items.len(),
            List::Own(items) => items.len(),
        }
    }

    pub(crate) fn get(&self, index: usize) -> Option<Val<'v>> {
        match self {
            List::Json(items, typed) => {
                let item = node(*typed).and_then(|node| node.items);
                items.get(index).map(|value| lift(value, retyped(*typed, item)))
            }
            List::Own(items) => items.get(index).cloned(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Val<'v>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    fn list_type(&self) -> &ListType {
        match self {
            List::Json(_, typed) => node(*typed).map_or(&ListType::Atomic, |node| &node.list),
            List::Own(_) => &ListType::Atomic,
        }
    }
}

impl<'v> Map<'v> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Map::Json(fields, _) => fields.len(),
            Map::Own(entries) => entries.len(),
        }
    }

    pub(crate) fn get(&self, key: &Val<'v>) -> Option<Val<'v>> {
        match (self, key) {
            (Map::Json(..), Val::Text(name)) => self.field(name),
            (Map::Json(..), _) => None,
            (Map::Own(entries), _) => {
                entries.iter().find(|(have, _)| scalars_equal(have, key)).map(|(_, value)| value.clone())
            }
        }
    }

    pub(crate) fn field(&self, name: &str) -> Option<Val<'v>> {
        match self {
            Map::Json(fields, typed) => {
                let value = fields.get(name)?;
                let child = node(*typed).and_then(|node| node.child(name));
                Some(lift(value, retyped(*typed, child)))
            }
            Map::Own(entries) => entries
                .iter()
                .find(|(have, _)| matches!(have, Val::Text(text) if **text == *name))
                .map(|(_, value)| value.clone()),
        }
    }

    pub(crate) fn entries(&self) -> Vec<(Val<'v>, Val<'v>)> {
        match self {
            Map::Json(fields, typed) => fields
                .iter()
                .map(|(name, value)| {
                    let child = node(*typed).and_then(|node| node.child(name));
                    (Val::Text(Text::Borrowed(name)), lift(value, retyped(*typed, child)))
                })
                .collect(),
            Map::Own(entries) => entries.to_vec(),
        }
    }
}

fn retyped<'v>(parent: Typed<'v>, child: Option<NodeId>) -> Typed<'v> {
    Some((parent?.0, child?))
}

/// A JSON value as CEL sees it.
pub(crate) fn lift<'v>(value: &'v Json, typed: Typed<'v>) -> Val<'v> {
    match value {
        Json::Null => Val::Null,
        Json::Bool(flag) => Val::Bool(*flag),
        Json::Number(number) => {
            let kind = node(typed).map(|node| node.kind);
            match number.as_i64() {
                Some(whole) if kind != Some(Kind::Number) => Val::Int(whole),
                _ => {
                    let float = number.as_f64().unwrap_or(f64::NAN);
                    if kind == Some(Kind::Integer) && float.fract() == 0.0 && float.abs() < 9e15 {
                        Val::Int(float as i64)
                    } else {
                        Val::Double(float)
                    }
                }
            }
        }
        Json::String(text) => lift_text(text, node(typed)),
        Json::Array(items) => Val::List(List::Json(items, typed)),
        Json::Object(fields) => Val::Map(Map::Json(fields, typed)),
    }
}

fn lift_text<'v>(text: &'v str, node: Option<&Node>) -> Val<'v> {
    let plain = Val::Text(Text::Borrowed(text));
    let Some(node) = node.filter(|node| node.kind == Kind::String) else { return plain };
    match node.checks.as_ref().and_then(|checks| checks.format) {
        Some(Format::Duration) => duration_nanos(text).map_or(plain, Val::Duration),
        Some(Format::DateTime) => library::timestamp(text).unwrap_or(plain),
        Some(Format::Byte) => {
            use base64::Engine;
            match base64::engine::general_purpose::STANDARD.decode(text) {
                Ok(bytes) => Val::Bytes(bytes.into()),
                Err(_) => plain,
            }
        }
        _ => plain,
    }
}

impl<'v> Val<'v> {
    pub(crate) fn text(text: impl Into<Rc<str>>) -> Val<'v> {
        Val::Text(Text::Shared(text.into()))
    }

    pub(crate) fn list(items: Vec<Val<'v>>) -> Val<'v> {
        Val::List(List::Own(items.into()))
    }

    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Val::Null => "null_type",
            Val::Bool(_) => "bool",
            Val::Int(_) => "int",
            Val::Uint(_) => "uint",
            Val::Double(_) => "double",
            Val::Text(_) => "string",
            Val::Bytes(_) => "bytes",
            Val::Duration(_) => "google.protobuf.Duration",
            Val::List(_) => "list",
            Val::Map(_) => "map",
            Val::Optional(_) => "optional_type",
            Val::Type(_) => "type",
            Val::Foreign(cel::Value::Timestamp(_)) => "google.protobuf.Timestamp",
            Val::Foreign(_) => "opaque",
        }
    }

    /// The zero value of the type, as `optional.ofNonZeroValue` understands it.
    pub(crate) fn is_zero(&self) -> bool {
        match self {
            Val::Null => true,
            Val::Bool(flag) => !flag,
            Val::Int(n) | Val::Duration(n) => *n == 0,
            Val::Uint(n) => *n == 0,
            Val::Double(n) => *n == 0.0,
            Val::Text(text) => text.is_empty(),
            Val::Bytes(bytes) => bytes.is_empty(),
            Val::List(list) => list.len() == 0,
            Val::Map(map) => map.len() == 0,
            Val::Optional(inner) => inner.is_none(),
            Val::Type(_) | Val::Foreign(_) => false,
        }
    }
}

/// Equality of values that can be keys; never looks into lists or maps.
fn scalars_equal(a: &Val<'_>, b: &Val<'_>) -> bool {
    match (a, b) {
        (Val::Null, Val::Null) => true,
        // What a format's `validate` gives for a good text. Upstream rules compare it with null and mean this; cel-go
        // itself says that the two differ.
        (Val::Null, Val::Optional(None)) | (Val::Optional(None), Val::Null) => true,
        (Val::Optional(None), Val::Optional(None)) => true,
        (Val::Bytes(a), Val::Bytes(b)) => a == b,
        (Val::Type(a), Val::Type(b)) => a == b,
        (Val::Foreign(a), Val::Foreign(b)) => a == b,
        _ => compare(a, b) == Some(Ordering::Equal),
    }
}

/// The order of two values of types that have one; `None` for others, and for NaN.
pub(crate) fn compare(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    Some(match (a, b) {
        (Val::Bool(a), Val::Bool(b)) => a.cmp(b),
        (Val::Text(a), Val::Text(b)) => (**a).cmp(&**b),
        (Val::Bytes(a), Val::Bytes(b)) => a.cmp(b),
        (Val::Duration(a), Val::Duration(b)) => a.cmp(b),
        (Val::Foreign(a), Val::Foreign(b)) => return a.partial_cmp(b),
        (Val::Int(_) | Val::Uint(_), Val::Int(_) | Val::Uint(_)) => whole(a)?.cmp(&whole(b)?),
        _ => return float(a)?.partial_cmp(&float(b)?),
    })
}

fn whole(value: &Val<'_>) -> Option<i128> {
    match value {
        Val::Int(n) => Some(i128::from(*n)),
        Val::Uint(n) => Some(i128::from(*n)),
        _ => None,
    }
}

fn float(value: &Val<'_>) -> Option<f64> {
    match value {
        Val::Int(n) => Some(*n as f64),
        Val::Uint(n) => Some(*n as f64),
        Val::Double(n) => Some(*n),
        _ => None,
    }
}

/// Whether two values have an order at all.
pub(crate) fn comparable(a: &Val<'_>, b: &Val<'_>) -> bool {
    let numeric = |value: &Val<'_>| matches!(value, Val::Int(_) | Val::Uint(_) | Val::Double(_));
    match (a, b) {
        (Val::Bool(_), Val::Bool(_))
        | (Val::Text(_), Val::Text(_))
        | (Val::Bytes(_), Val::Bytes(_))
        | (Val::Duration(_), Val::Duration(_)) => true,
        (Val::Foreign(a), Val::Foreign(b)) => a.partial_cmp(b).is_some(),
        _ => numeric(a) && numeric(b),
    }
}

/// Equality of any two values; values of different types differ. Every part that is looked at is charged.
pub(crate) fn equal<'v>(a: &Val<'v>, b: &Val<'v>, meter: &Meter) -> Result<bool, Fault> {
    meter.charge(1)?;
    match (a, b) {
        (Val::Text(a), Val::Text(b)) => {
            meter.charge_bytes(a.len().min(b.len()))?;
            Ok(**a == **b)
        }
        (Val::List(a), Val::List(b)) => lists_equal(a, b, meter),
        (Val::Map(a), Val::Map(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for (key, value) in a.entries() {
                meter.charge(1)?;
                match b.get(&key) {
                    Some(other) if equal(&value, &other, meter)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (Val::Optional(Some(a)), Val::Optional(Some(b))) => equal(a, b, meter),
        _ => Ok(scalars_equal(a, b)),
    }
}

/// Lists are equal item by item; a set or a list with keys is equal in any order.
fn lists_equal<'v>(a: &List<'v>, b: &List<'v>, meter: &Meter) -> Result<bool, Fault> {
    if a.len() != b.len() {
        return Ok(false);
    }
    if *a.list_type() == ListType::Atomic || a.list_type() != b.list_type() {
        for (a, b) in a.iter().zip(b.iter()) {
            if !equal(&a, &b, meter)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    for item in a.iter() {
        if !contains(b, &item, meter)? {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(crate) fn contains<'v>(list: &List<'v>, wanted: &Val<'v>, meter: &Meter) -> Result<bool, Fault> {
    for item in list.iter() {
        if equal(&item, wanted, meter)? {
            return Ok(true);
        }
    }
    Ok(false)
}

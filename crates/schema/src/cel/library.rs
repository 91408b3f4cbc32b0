//! Functions. Those that rules use all the time are here and borrow from the object; the rest of the Kubernetes
//! libraries (addresses, quantities, URLs, versions, formats, ...) come from kube-cel, called with converted values.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use kube_cel::KubeCelExt;
use kube_cel::cel::common::ast::{CallExpr, Expr as Tree};
use kube_cel::cel::objects::{Key, OptionalValue};
use kube_cel::cel::{self, Context, IdedExpr};

use super::ast::{Expr, Literal, Operator};
use super::eval::{Fault, Meter};
use super::value::{Map, Val};
use crate::structural::format::duration_nanos;
use crate::structural::pattern::Pattern;

static LIBRARY: LazyLock<Context<'static>> = LazyLock::new(|| Context::default().with_all());

/// A function that an expression names, found when the expression is parsed.
#[derive(Debug)]
pub(crate) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    /// With the pattern when it is a literal.
    Matches(Option<Pattern>),
    Int,
    Uint,
    Double,
    Text,
    Bool,
    Bytes,
    Duration,
    Dyn,
    Type,
    LowerAscii,
    UpperAscii,
    Range,
    OptionalNone,
    OptionalOf,
    OptionalOfNonZero,
    HasValue,
    Value,
    Or,
    OrValue,
    /// A function of kube-cel: the call, with `@0`, `@1`, ... for the receiver and the arguments.
    Library(Box<LibraryCall>),
}

#[derive(Debug)]
pub(crate) struct LibraryCall {
    name: Box<str>,
    call: IdedExpr,
}

const NAMESPACES: [&str; 11] =
    ["math", "sets", "lists", "strings", "base64", "jsonpatch", "format", "ip", "optional", "cel", "regex"];

const TYPES: [&str; 10] =
    ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"];

/// Functions of kube-cel that are called with a receiver.
const METHODS: &[&str] = &[
    "charAt",
    "indexOf",
    "lastIndexOf",
    "replace",
    "split",
    "substring",
    "trim",
    "join",
    "reverse",
    "format",
    "find",
    "findAll",
    "isSorted",
    "sum",
    "min",
    "max",
    "slice",
    "sort",
    "flatten",
    "distinct",
    "first",
    "last",
    "family",
    "isLoopback",
    "isUnspecified",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isGlobalUnicast",
    "containsIP",
    "containsCIDR",
    "prefixLength",
    "masked",
    "ip",
    "string",
    "isGreaterThan",
    "isLessThan",
    "compareTo",
    "isInteger",
    "asInteger",
    "asApproximateFloat",
    "sign",
    "add",
    "sub",
    "major",
    "minor",
    "patch",
    "validate",
    "getScheme",
    "getHost",
    "getHostname",
    "getPort",
    "getEscapedPath",
    "getQuery",
    "getFullYear",
    "getMonth",
    "getDayOfYear",
    "getDayOfMonth",
    "getDate",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
    "indexOf",
];

/// Functions of kube-cel that are called without one.
const GLOBALS: &[&str] = &[
    "timestamp",
    "ip",
    "isIP",
    "cidr",
    "isCIDR",
    "quantity",
    "isQuantity",
    "semver",
    "isSemver",
    "url",
    "isURL",
    "ip.isCanonical",
    "jsonpatch.escapeKey",
    "base64.encode",
    "base64.decode",
    "sets.contains",
    "sets.equivalent",
    "sets.intersects",
    "strings.quote",
    "math.ceil",
    "math.floor",
    "math.round",
    "math.trunc",
    "math.abs",
    "math.sign",
    "math.isInf",
    "math.isNaN",
    "math.isFinite",
    "math.bitAnd",
    "math.bitOr",
    "math.bitXor",
    "math.bitNot",
    "math.bitShiftLeft",
    "math.bitShiftRight",
    "math.sqrt",
    "math.greatest",
    "math.least",
    "format.dns1123Label",
    "format.dns1123Subdomain",
    "format.dns1035Label",
    "format.dns1035LabelPrefix",
    "format.dns1123LabelPrefix",
    "format.dns1123SubdomainPrefix",
    "format.qualifiedName",
    "format.labelValue",
    "format.uri",
    "format.uuid",
    "format.byte",
    "format.date",
    "format.datetime",
    "format.named",
];

pub(crate) fn is_namespace(name: &str) -> bool {
    NAMESPACES.contains(&name)
}

pub(crate) fn is_type(name: &str) -> bool {
    TYPES.contains(&name)
}

pub(crate) fn type_value(name: &str) -> Option<Val<'static>> {
    TYPES.iter().find(|known| **known == name).map(|known| Val::Type(known))
}

impl Function {
    /// Finds a function by its name (with its namespace, if any) and the number of its arguments.
    pub(crate) fn resolve(name: &str, receiver: bool, args: &[Expr]) -> Result<Function, String> {
        let count = args.len();
        let function = match (name, receiver, count) {
            ("size", false, 1) | ("size", true, 0) => Function::Size,
            ("contains", true, 1) => Function::Contains,
            ("startsWith", true, 1) => Function::StartsWith,
            ("endsWith", true, 1) => Function::EndsWith,
            ("matches", true, 1) | ("matches", false, 2) => Function::Matches(literal_pattern(args)?),
            ("int", false, 1) => Function::Int,
            ("uint", false, 1) => Function::Uint,
            ("double", false, 1) => Function::Double,
            ("string", false, 1) => Function::Text,
            ("bool", false, 1) => Function::Bool,
            ("bytes", false, 1) => Function::Bytes,
            ("duration", false, 1) => Function::Duration,
            ("dyn", false, 1) => Function::Dyn,
            ("type", false, 1) => Function::Type,
            ("lowerAscii", true, 0) => Function::LowerAscii,
            ("upperAscii", true, 0) => Function::UpperAscii,
            ("lists.range", false, 1) => Function::Range,
            ("optional.none", false, 0) => Function::OptionalNone,
            ("optional.of", false, 1) => Function::OptionalOf,
            ("optional.ofNonZeroValue", false, 1) => Function::OptionalOfNonZero,
            ("hasValue", true, 0) => Function::HasValue,
            ("value", true, 0) => Function::Value,
            ("or", true, 1) => Function::Or,
            ("orValue", true, 1) => Function::OrValue,
            (_, true, _) if METHODS.contains(&name) => Function::Library(library_call(name, true, count)),
            (_, false, _) if GLOBALS.contains(&name) => Function::Library(library_call(name, false, count)),
            _ => return Err(format!("undeclared reference to '{name}' (in container '')")),
        };
        Ok(function)
    }
}

fn literal_pattern(args: &[Expr]) -> Result<Option<Pattern>, String> {
    match args.last() {
        Some(Expr::Literal(Literal::Text(source))) => {
            Pattern::compile(source).map(Some).map_err(|error| format!("invalid matches argument: {error}"))
        }
        _ => Ok(None),
    }
}

fn library_call(name: &str, receiver: bool, count: usize) -> Box<LibraryCall> {
    let ident = |name: String| IdedExpr { id: 0, expr: Tree::Ident(name) };
    let total = count + usize::from(receiver);
    let mut args: Vec<IdedExpr> = (0..total).map(|at| ident(format!("@{at}"))).collect();
    let (target, func_name) = match name.split_once('.') {
        Some((namespace, function)) => (Some(Box::new(ident(namespace.to_owned()))), function),
        None if receiver => (Some(Box::new(args.remove(0))), name),
        None => (None, name),
    };
    let call = Tree::Call(CallExpr { func_name: func_name.to_owned(), target, args });
    Box::new(LibraryCall { name: name.into(), call: IdedExpr { id: 0, expr: call } })
}

/// Calls a function; a receiver is the first argument.
pub(crate) fn call<'v>(function: &Function, mut args: Vec<Val<'v>>, meter: &Meter) -> Result<Val<'v>, Fault> {
    meter.charge(1)?;
    if let Function::Library(call) = function {
        return call_library(call, &args, meter);
    }
    let second = if args.len() > 1 { args.pop() } else { None };
    let Some(first) = args.pop() else { return Ok(Val::Optional(None)) };
    match (function, first, second) {
        (Function::Size, value, None) => size(&value, meter),
        (Function::Contains, Val::Text(text), Some(Val::Text(part))) => {
            meter.charge_bytes(text.len())?;
            Ok(Val::Bool(text.contains(&*part)))
        }
        (Function::StartsWith, Val::Text(text), Some(Val::Text(part))) => {
            meter.charge_bytes(part.len())?;
            Ok(Val::Bool(text.starts_with(&*part)))
        }
        (Function::EndsWith, Val::Text(text), Some(Val::Text(part))) => {
            meter.charge_bytes(part.len())?;
            Ok(Val::Bool(text.ends_with(&*part)))
        }
        (Function::Matches(compiled), Val::Text(text), Some(Val::Text(source))) => {
            matches(compiled.as_ref(), &text, &source, meter)
        }
        (Function::LowerAscii, Val::Text(text), None) => {
            meter.charge_bytes(text.len())?;
            Ok(Val::text(text.to_ascii_lowercase()))
        }
        (Function::UpperAscii, Val::Text(text), None) => {
            meter.charge_bytes(text.len())?;
            Ok(Val::text(text.to_ascii_uppercase()))
        }
        (Function::Range, Val::Int(count), None) => {
            meter.charge(u64::try_from(count).unwrap_or(0))?;
            Ok(Val::list((0..count).map(Val::Int).collect()))
        }
        (Function::Dyn, value, None) => Ok(value),
        (Function::Type, value, None) => Ok(Val::Type(value.type_name())),
        (Function::Duration, value @ Val::Duration(_), None) => Ok(value),
        (Function::Duration, Val::Text(text), None) => duration_nanos(&text)
            .map(Val::Duration)
            .ok_or_else(|| Fault::Error(format!("time: invalid duration {:?}", &*text))),
        (Function::OptionalOf, value, None) => Ok(Val::Optional(Some(Rc::new(value)))),
        (Function::OptionalOfNonZero, value, None) => {
            Ok(Val::Optional((!value.is_zero()).then(|| Rc::new(value))))
        }
        (Function::HasValue, Val::Optional(inner), None) => Ok(Val::Bool(inner.is_some())),
        (Function::Value, Val::Optional(inner), None) => inner
            .map(|value| (*value).clone())
            .ok_or_else(|| Fault::Error("optional.none() dereference".to_owned())),
        (Function::Or, Val::Optional(inner), Some(other @ Val::Optional(_))) => {
            Ok(if inner.is_some() { Val::Optional(inner) } else { other })
        }
        (Function::OrValue, Val::Optional(inner), Some(other)) => {
            Ok(inner.map_or(other, |value| (*value).clone()))
        }
        (function, value, None) => convert(function, value, meter),
        _ => Err(Fault::overload()),
    }
}

fn size<'v>(value: &Val<'v>, meter: &Meter) -> Result<Val<'v>, Fault> {
    let count = match value {
        Val::Text(text) => {
            meter.charge_bytes(text.len())?;
            text.chars().count()
        }
        Val::Bytes(bytes) => bytes.len(),
        Val::List(list) => list.len(),
        Val::Map(map) => map.len(),
        _ => return Err(Fault::overload()),
    };
    Ok(Val::Int(i64::try_from(count).unwrap_or(i64::MAX)))
}

fn matches<'v>(
    compiled: Option<&Pattern>,
    text: &str,
    source: &str,
    meter: &Meter,
) -> Result<Val<'v>, Fault> {
    // Matching is linear in the text and the compiled pattern; a pattern from the object is compiled here.
    meter.charge((text.len() as u64 / 10 + 1).saturating_mul(source.len() as u64 / 4 + 1))?;
    match compiled {
        Some(pattern) => Ok(Val::Bool(pattern.is_match(text))),
        None => {
            meter.charge(1_000)?;
            let pattern = Pattern::compile(source).map_err(Fault::Error)?;
            Ok(Val::Bool(pattern.is_match(text)))
        }
    }
}

/// Type conversions.
fn convert<'v>(function: &Function, value: Val<'v>, meter: &Meter) -> Result<Val<'v>, Fault> {
    let overflow = || Fault::Error("integer overflow".to_owned());
    let unparsed = |text: &str, wanted: &str| Fault::Error(format!("cannot convert {text:?} to {wanted}"));
    match (function, value) {
        (Function::Int, value @ Val::Int(_))
        | (Function::Uint, value @ Val::Uint(_))
        | (Function::Double, value @ Val::Double(_))
        | (Function::Text, value @ Val::Text(_))
        | (Function::Bool, value @ Val::Bool(_))
        | (Function::Bytes, value @ Val::Bytes(_)) => Ok(value),
        (Function::Int, Val::Uint(n)) => i64::try_from(n).map(Val::Int).map_err(|_| overflow()),
        (Function::Int, Val::Double(n)) if n.abs() < 9.2e18 => Ok(Val::Int(n as i64)),
        (Function::Int, Val::Text(text)) => text.parse().map(Val::Int).map_err(|_| unparsed(&text, "int")),
        (Function::Uint, Val::Int(n)) => u64::try_from(n).map(Val::Uint).map_err(|_| overflow()),
        (Function::Uint, Val::Double(n)) if (0.0..1.8e19).contains(&n) => Ok(Val::Uint(n as u64)),
        (Function::Uint, Val::Text(text)) => text.parse().map(Val::Uint).map_err(|_| unparsed(&text, "uint")),
        (Function::Int | Function::Uint, Val::Double(_)) => Err(overflow()),
        (Function::Double, Val::Int(n)) => Ok(Val::Double(n as f64)),
        (Function::Double, Val::Uint(n)) => Ok(Val::Double(n as f64)),
        (Function::Double, Val::Text(text)) => {
            text.parse().map(Val::Double).map_err(|_| unparsed(&text, "double"))
        }
        (Function::Bool, Val::Text(text)) => match &*text {
            "true" | "True" | "TRUE" | "t" | "1" => Ok(Val::Bool(true)),
            "false" | "False" | "FALSE" | "f" | "0" => Ok(Val::Bool(false)),
            other => Err(unparsed(other, "bool")),
        },
        (Function::Bytes, Val::Text(text)) => {
            meter.charge_bytes(text.len())?;
            Ok(Val::Bytes(text.as_bytes().into()))
        }
        (Function::Text, value) => to_text(value, meter),
        (Function::Int, Val::Foreign(cel::Value::Timestamp(time))) => Ok(Val::Int(time.timestamp())),
        _ => Err(Fault::overload()),
    }
}

fn to_text<'v>(value: Val<'v>, meter: &Meter) -> Result<Val<'v>, Fault> {
    Ok(Val::text(match value {
        Val::Bool(flag) => flag.to_string(),
        Val::Int(n) => n.to_string(),
        Val::Uint(n) => n.to_string(),
        Val::Double(n) => n.to_string(),
        Val::Bytes(bytes) => {
            meter.charge_bytes(bytes.len())?;
            String::from_utf8(bytes.to_vec())
                .map_err(|_| Fault::Error("invalid UTF-8 in bytes".to_owned()))?
        }
        Val::Duration(nanos) => {
            let (seconds, rest) = (nanos / 1_000_000_000, (nanos % 1_000_000_000).abs());
            let sign = if nanos < 0 && seconds == 0 { "-" } else { "" };
            let fraction = format!("{rest:09}");
            let fraction = fraction.trim_end_matches('0');
            let point = if fraction.is_empty() { "" } else { "." };
            format!("{sign}{seconds}{point}{fraction}s")
        }
        Val::Foreign(cel::Value::Timestamp(time)) => {
            let text = time.to_rfc3339();
            text.strip_suffix("+00:00").map(|text| format!("{text}Z")).unwrap_or(text)
        }
        Val::Foreign(value) => {
            return call_library(&library_call("string", true, 0), &[Val::Foreign(value)], meter);
        }
        _ => return Err(Fault::overload()),
    }))
}

pub(crate) fn arithmetic<'v>(
    operator: Operator,
    left: Val<'v>,
    right: Val<'v>,
    meter: &Meter,
) -> Result<Val<'v>, Fault> {
    let overflow = || Fault::Error("integer overflow".to_owned());
    match (left, right) {
        (Val::Int(a), Val::Int(b)) => match operator {
            Operator::Add => a.checked_add(b),
            Operator::Subtract => a.checked_sub(b),
            Operator::Multiply => a.checked_mul(b),
            Operator::Divide if b == 0 => return Err(Fault::Error("division by zero".to_owned())),
            Operator::Divide => a.checked_div(b),
            Operator::Remainder if b == 0 => return Err(Fault::Error("modulus by zero".to_owned())),
            Operator::Remainder => a.checked_rem(b),
            _ => return Err(Fault::overload()),
        }
        .map(Val::Int)
        .ok_or_else(overflow),
        (Val::Uint(a), Val::Uint(b)) => match operator {
            Operator::Add => a.checked_add(b),
            Operator::Subtract => a.checked_sub(b),
            Operator::Multiply => a.checked_mul(b),
            Operator::Divide if b == 0 => return Err(Fault::Error("division by zero".to_owned())),
            Operator::Divide => a.checked_div(b),
            Operator::Remainder if b == 0 => return Err(Fault::Error("modulus by zero".to_owned())),
            Operator::Remainder => a.checked_rem(b),
            _ => return Err(Fault::overload()),
        }
        .map(Val::Uint)
        .ok_or_else(overflow),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(match operator {
            Operator::Add => a + b,
            Operator::Subtract => a - b,
            Operator::Multiply => a * b,
            Operator::Divide => a / b,
            _ => return Err(Fault::overload()),
        })),
        (Val::Duration(a), Val::Duration(b)) => match operator {
            Operator::Add => a.checked_add(b),
            Operator::Subtract => a.checked_sub(b),
            _ => return Err(Fault::overload()),
        }
        .map(Val::Duration)
        .ok_or_else(overflow),
        (Val::Text(a), Val::Text(b)) if operator == Operator::Add => {
            meter.charge_bytes(a.len() + b.len())?;
            Ok(Val::text([&*a, &*b].concat()))
        }
        (Val::Bytes(a), Val::Bytes(b)) if operator == Operator::Add => {
            meter.charge_bytes(a.len() + b.len())?;
            Ok(Val::Bytes([&*a, &*b].concat().into()))
        }
        (Val::List(a), Val::List(b)) if operator == Operator::Add => {
            meter.charge((a.len() + b.len()) as u64)?;
            Ok(Val::list(a.iter().chain(b.iter()).collect()))
        }
        (a, b) => foreign_arithmetic(operator, &a, &b, meter),
    }
}

/// Timestamps and durations.
fn foreign_arithmetic<'v>(
    operator: Operator,
    a: &Val<'v>,
    b: &Val<'v>,
    meter: &Meter,
) -> Result<Val<'v>, Fault> {
    let timed = |value: &Val<'_>| matches!(value, Val::Foreign(cel::Value::Timestamp(_)) | Val::Duration(_));
    if !timed(a) || !timed(b) {
        return Err(Fault::overload());
    }
    let (a, b) = (lower(a, meter)?, lower(b, meter)?);
    let result = guarded(|| match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        _ => Err(cel::ExecutionError::NoSuchOverload),
    })?;
    raise(result, meter)
}

/// A timestamp value from its text.
pub(crate) fn timestamp(text: &str) -> Option<Val<'static>> {
    let call = library_call("timestamp", false, 1);
    let mut context = LIBRARY.new_inner_scope();
    context.add_variable_from_value("@0", text.to_owned());
    guarded(|| cel::Value::resolve(&call.call, &context)).ok().map(Val::Foreign)
}

fn call_library<'v>(call: &LibraryCall, args: &[Val<'v>], meter: &Meter) -> Result<Val<'v>, Fault> {
    charge_growth(&call.name, args, meter)?;
    let mut context = LIBRARY.new_inner_scope();
    for (at, arg) in args.iter().enumerate() {
        context.add_variable_from_value(format!("@{at}"), lower(arg, meter)?);
    }
    let result = guarded(|| cel::Value::resolve(&call.call, &context))?;
    raise(result, meter)
}

/// Runs library code. What it computes is bounded by what was charged; a panic in it is an error of the expression.
fn guarded(run: impl FnOnce() -> cel::ResolveResult) -> Result<cel::Value, Fault> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(cel::ExecutionError::NoSuchOverload)) => Err(Fault::overload()),
        Ok(Err(error)) => Err(Fault::Error(error.to_string())),
        Err(_) => Err(Fault::Error("internal error in a library function".to_owned())),
    }
}

/// Functions whose result or work can outgrow their arguments pay for that before they run.
fn charge_growth(name: &str, args: &[Val<'_>], meter: &Meter) -> Result<(), Fault> {
    let text = |at: usize| match args.get(at) {
        Some(Val::Text(text)) => &**text,
        _ => "",
    };
    match name {
        "replace" => {
            let places =
                if text(1).is_empty() { text(0).len() + 1 } else { text(0).len() / text(1).len() + 1 };
            meter.charge((places as u64).saturating_mul(text(2).len() as u64 + 1) / 10)
        }
        "join" => {
            let pieces = match args.first() {
                Some(Val::List(list)) => list.len(),
                _ => 0,
            };
            meter.charge((pieces as u64).saturating_mul(text(1).len() as u64 + 1) / 10)
        }
        "indexOf" | "lastIndexOf" => {
            meter.charge((text(0).len() as u64).saturating_mul(text(1).len() as u64 / 10 + 1) / 10)
        }
        "find" | "findAll" => {
            meter.charge(1_000)?;
            meter.charge((text(0).len() as u64 / 10 + 1).saturating_mul(text(1).len() as u64 / 4 + 1))
        }
        "format" => {
            let digits = text(0).as_bytes().chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit());
            let widest = digits.filter(|run| run[0].is_ascii_digit()).map(<[u8]>::len).max().unwrap_or(0);
            if widest > 3 { Err(Fault::Error("precision is too large".to_owned())) } else { Ok(()) }
        }
        "sets.contains" | "sets.equivalent" | "sets.intersects" | "distinct" | "sort" | "flatten" => {
            let length = |at: usize| match args.get(at) {
                Some(Val::List(list)) => list.len() as u64,
                _ => 0,
            };
            meter.charge(length(0).saturating_mul(length(1).max(length(0))))
        }
        _ => Ok(()),
    }
}

/// To a value of the library; every part is charged.
fn lower(value: &Val<'_>, meter: &Meter) -> Result<cel::Value, Fault> {
    meter.charge(1)?;
    Ok(match value {
        Val::Null => cel::Value::Null,
        Val::Bool(flag) => cel::Value::Bool(*flag),
        Val::Int(n) => cel::Value::Int(*n),
        Val::Uint(n) => cel::Value::UInt(*n),
        Val::Double(n) => cel::Value::Float(*n),
        Val::Text(text) => {
            meter.charge_bytes(text.len())?;
            cel::Value::String(Arc::new(text.to_string()))
        }
        Val::Bytes(bytes) => {
            meter.charge_bytes(bytes.len())?;
            cel::Value::Bytes(Arc::new(bytes.to_vec()))
        }
        Val::Duration(nanos) => {
            let call = library_call("duration", false, 1);
            let mut context = LIBRARY.new_inner_scope();
            context.add_variable_from_value("@0", format!("{nanos}ns"));
            guarded(|| cel::Value::resolve(&call.call, &context))?
        }
        Val::List(list) => {
            let items: Result<Vec<_>, Fault> = list.iter().map(|item| lower(&item, meter)).collect();
            cel::Value::List(Arc::new(items?))
        }
        Val::Map(map) => {
            let mut out = std::collections::HashMap::with_capacity(map.len());
            for (key, value) in map.entries() {
                let key = match key {
                    Val::Text(text) => Key::String(Arc::new(text.to_string())),
                    Val::Int(n) => Key::Int(n),
                    Val::Uint(n) => Key::Uint(n),
                    Val::Bool(flag) => Key::Bool(flag),
                    _ => return Err(Fault::overload()),
                };
                out.insert(key, lower(&value, meter)?);
            }
            cel::Value::Map(cel::objects::Map { map: Arc::new(out) })
        }
        Val::Optional(None) => cel::Value::Opaque(Arc::new(OptionalValue::none())),
        Val::Optional(Some(inner)) => cel::Value::Opaque(Arc::new(OptionalValue::of(lower(inner, meter)?))),
        Val::Type(name) => cel::Value::String(Arc::new((*name).to_owned())),
        Val::Foreign(value) => value.clone(),
    })
}

/// From a value of the library; maps come in the order of their keys.
fn raise<'v>(value: cel::Value, meter: &Meter) -> Result<Val<'v>, Fault> {
    meter.charge(1)?;
    Ok(match value {
        cel::Value::Null => Val::Null,
        cel::Value::Bool(flag) => Val::Bool(flag),
        cel::Value::Int(n) => Val::Int(n),
        cel::Value::UInt(n) => Val::Uint(n),
        cel::Value::Float(n) => Val::Double(n),
        cel::Value::String(text) => {
            meter.charge_bytes(text.len())?;
            Val::text(text.as_str())
        }
        cel::Value::Bytes(bytes) => Val::Bytes(bytes.as_slice().into()),
        cel::Value::Duration(duration) => match duration.num_nanoseconds() {
            Some(nanos) => Val::Duration(nanos),
            None => return Err(Fault::Error("duration out of range".to_owned())),
        },
        cel::Value::List(items) => {
            let items: Result<Vec<_>, Fault> = items.iter().map(|item| raise(item.clone(), meter)).collect();
            Val::list(items?)
        }
        cel::Value::Map(map) => {
            let mut entries: Vec<(&Key, &cel::Value)> = map.map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let mut out = Vec::with_capacity(entries.len());
            for (key, value) in entries {
                out.push((raise(cel::Value::from(key), meter)?, raise(value.clone(), meter)?));
            }
            Val::Map(Map::Own(out.into()))
        }
        cel::Value::Opaque(opaque) => match opaque.downcast_ref::<OptionalValue>() {
            Some(optional) => match optional.value() {
                Some(inner) => Val::Optional(Some(Rc::new(raise(inner.clone(), meter)?))),
                None => Val::Optional(None),
            },
            None => Val::Foreign(cel::Value::Opaque(opaque)),
        },
        other => Val::Foreign(other),
    })
}

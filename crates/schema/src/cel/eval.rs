//! Evaluation, metered: every step is charged, and an evaluation that spends its budget ends there.
//!
//! Invariants: no recursion deeper than the expression or the values are (both bounded), no panic, and work in
//! proportion to what was charged. An error in one side of `&&` or `||` counts only when the other side does not decide;
//! an exhausted budget always counts.

use std::cell::Cell;
use std::cmp::Ordering;
use std::rc::Rc;

use super::ast::{Each, Expr, Field, Literal, Loop, Operator};
use super::library;
use super::value::{List, Map, Text, Val, comparable, compare, contains, equal};

/// Cost units one evaluation may spend; the limit of an API server for one call. A step costs 1, ten bytes of text 1.
pub(crate) const EVALUATION_LIMIT: u64 = 1_000_000;

/// Why an evaluation has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The budget is spent.
    Exhausted,
    /// An error of the expression with these operands.
    Error(String),
}

impl Fault {
    pub(crate) fn overload() -> Fault {
        Fault::Error("no such overload".to_owned())
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Exhausted => f.write_str("operation cancelled: actual cost limit exceeded"),
            Fault::Error(message) => f.write_str(message),
        }
    }
}

/// What is left to spend.
#[derive(Debug)]
pub(crate) struct Meter {
    left: Cell<u64>,
}

impl Meter {
    pub(crate) fn new(budget: u64) -> Meter {
        Meter { left: Cell::new(budget) }
    }

    pub(crate) fn charge(&self, units: u64) -> Result<(), Fault> {
        match self.left.get().checked_sub(units) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => {
                self.left.set(0);
                Err(Fault::Exhausted)
            }
        }
    }

    pub(crate) fn charge_bytes(&self, bytes: usize) -> Result<(), Fault> {
        self.charge(bytes as u64 / 10)
    }

    pub(crate) fn left(&self) -> u64 {
        self.left.get()
    }
}

/// The variables that an expression starts with.
pub(crate) trait Roots<'v> {
    /// A root variable such as `self`.
    fn root(&self, name: &str) -> Option<Val<'v>>;

    /// `variables.name` of an admission policy.
    fn variable(&self, name: &str, meter: &Meter) -> Result<Val<'v>, Fault>;
}

/// A name that a macro bound, and those around it.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'s, 'v> {
    inner: Option<&'s Bound<'s, 'v>>,
}

struct Bound<'s, 'v> {
    name: &'v str,
    value: Val<'v>,
    outer: Scope<'s, 'v>,
}

pub(crate) fn evaluate<'v>(expr: &'v Expr, roots: &dyn Roots<'v>, meter: &Meter) -> Result<Val<'v>, Fault> {
    Evaluator { roots, meter }.eval(expr, Scope { inner: None })
}

struct Evaluator<'e, 'v> {
    roots: &'e dyn Roots<'v>,
    meter: &'e Meter,
}

impl<'v> Evaluator<'_, 'v> {
    fn eval(&self, expr: &'v Expr, scope: Scope<'_, 'v>) -> Result<Val<'v>, Fault> {
        self.meter.charge(1)?;
        match expr {
            Expr::Literal(literal) => Ok(lift_literal(literal)),
            Expr::Var(name) => self.lookup(name, scope),
            Expr::Variable(name) => self.roots.variable(name, self.meter),
            Expr::Select { of, field, optional } => self.select(of, field, *optional, scope),
            Expr::Has { of, field } => self.has(of, field, scope),
            Expr::Index { of, at, optional } => self.index(of, at, *optional, scope),
            Expr::Not(operand) => match self.eval(operand, scope)? {
                Val::Bool(flag) => Ok(Val::Bool(!flag)),
                _ => Err(Fault::overload()),
            },
            Expr::Negate(operand) => negate(self.eval(operand, scope)?),
            Expr::And(parts) => self.decide(parts, false, scope),
            Expr::Or(parts) => self.decide(parts, true, scope),
            Expr::Conditional(parts) => {
                let [test, yes, no] = &**parts;
                match self.eval(test, scope)? {
                    Val::Bool(true) => self.eval(yes, scope),
                    Val::Bool(false) => self.eval(no, scope),
                    _ => Err(Fault::overload()),
                }
            }
            Expr::Binary(operator, sides) => {
                let left = self.eval(&sides[0], scope)?;
                let right = self.eval(&sides[1], scope)?;
                self.binary(*operator, left, right)
            }
            Expr::List(items) => self.list(items, scope),
            Expr::Map(entries) => self.map(entries, scope),
            Expr::Each(each) => self.each(each, scope),
            Expr::Bind { name, value, body } => {
                let value = self.eval(value, scope)?;
                let bound = Bound { name, value, outer: scope };
                self.eval(body, Scope { inner: Some(&bound) })
            }
            Expr::OptMap { of, name, body, flat } => self.opt_map(of, name, body, *flat, scope),
            Expr::Call(call) => {
                let receiver =
                    call.receiver.as_ref().map(|receiver| self.eval(receiver, scope)).transpose()?;
                let mut args = Vec::with_capacity(call.args.len() + 1);
                args.extend(receiver);
                for arg in &call.args {
                    args.push(self.eval(arg, scope)?);
                }
                library::call(&call.function, args, self.meter)
            }
        }
    }

    fn lookup(&self, name: &str, scope: Scope<'_, 'v>) -> Result<Val<'v>, Fault> {
        let mut at = scope.inner;
        while let Some(bound) = at {
            if bound.name == name {
                return Ok(bound.value.clone());
            }
            at = bound.outer.inner;
        }
        self.roots
            .root(name)
            .or_else(|| library::type_value(name))
            .ok_or_else(|| Fault::Error(format!("no such attribute(s): {name}")))
    }

    fn field_of(map: &Map<'v>, field: &Field) -> Option<Val<'v>> {
        map.field(&field.name).or_else(|| map.field(field.unescaped.as_deref()?))
    }

    fn select(
        &self,
        of: &'v Expr,
        field: &'v Field,
        optional: bool,
        scope: Scope<'_, 'v>,
    ) -> Result<Val<'v>, Fault> {
        match self.eval(of, scope)? {
            Val::Map(map) => match (Self::field_of(&map, field), optional) {
                (Some(value), false) => Ok(value),
                (found, true) => Ok(Val::Optional(found.map(Rc::new))),
                (None, false) => Err(Fault::Error(format!("no such key: {}", field.name))),
            },
            Val::Optional(None) => Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => match &*inner {
                Val::Map(map) => Ok(Val::Optional(Self::field_of(map, field).map(Rc::new))),
                _ => Err(Fault::overload()),
            },
            _ => Err(Fault::overload()),
        }
    }

    fn has(&self, of: &'v Expr, field: &'v Field, scope: Scope<'_, 'v>) -> Result<Val<'v>, Fault> {
        match self.eval(of, scope)? {
            Val::Map(map) => Ok(Val::Bool(Self::field_of(&map, field).is_some())),
            Val::Optional(None) => Ok(Val::Bool(false)),
            Val::Optional(Some(inner)) => match &*inner {
                Val::Map(map) => Ok(Val::Bool(Self::field_of(map, field).is_some())),
                _ => Err(Fault::overload()),
            },
            _ => Err(Fault::overload()),
        }
    }

    fn index(
        &self,
        of: &'v Expr,
        at: &'v Expr,
        optional: bool,
        scope: Scope<'_, 'v>,
    ) -> Result<Val<'v>, Fault> {
        let of = self.eval(of, scope)?;
        let at = self.eval(at, scope)?;
        let (container, optional) = match of {
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => ((*inner).clone(), true),
            plain => (plain, optional),
        };
        let found = match &container {
            Val::List(list) => position(&at).and_then(|at| list.get(at)),
            Val::Map(map) => {
                if let Map::Own(entries) = map {
                    self.meter.charge(entries.len() as u64)?;
                }
                map.get(&at)
            }
            _ => return Err(Fault::overload()),
        };
        match (found, optional) {
            (found, true) => Ok(Val::Optional(found.map(Rc::new))),
            (Some(value), false) => Ok(value),
            (None, false) => Err(match (&container, &at) {
                (Val::List(_), Val::Int(at)) => Fault::Error(format!("index out of bounds: {at}")),
                (Val::List(_), Val::Uint(at)) => Fault::Error(format!("index out of bounds: {at}")),
                (Val::Map(_), Val::Text(key)) => Fault::Error(format!("no such key: {}", &**key)),
                (Val::Map(_), Val::Int(key)) => Fault::Error(format!("no such key: {key}")),
                (Val::Map(_), _) => Fault::Error("no such key".to_owned()),
                _ => Fault::overload(),
            }),
        }
    }

    /// `&&` (decided by false) and `||` (decided by true).
    fn decide(&self, parts: &'v [Expr], decisive: bool, scope: Scope<'_, 'v>) -> Result<Val<'v>, Fault> {
        let mut fault = None;
        for part in parts {
            match self.eval(part, scope) {
                Ok(Val::Bool(flag)) if flag == decisive => return Ok(Val::Bool(decisive)),
                Ok(Val::Bool(_)) => {}
                Ok(_) => fault = fault.or(Some(Fault::overload())),
                Err(Fault::Exhausted) => return Err(Fault::Exhausted),
                Err(error) => fault = fault.or(Some(error)),
            }
        }
        match fault {
            Some(fault) => Err(fault),
            None => Ok(Val::Bool(!decisive)),
        }
    }

    fn binary(&self, operator: Operator, left: Val<'v>, right: Val<'v>) -> Result<Val<'v>, Fault> {
        let ordered = |holds: fn(Ordering) -> bool| {
            if !comparable(&left, &right) {
                return Err(Fault::overload());
            }
            if let (Val::Text(a), Val::Text(b)) = (&left, &right) {
                self.meter.charge_bytes(a.len().min(b.len()))?;
            }
            Ok(Val::Bool(compare(&left, &right).is_some_and(holds)))
        };
        match operator {
            Operator::Equal => equal(&left, &right, self.meter).map(Val::Bool),
            Operator::NotEqual => equal(&left, &right, self.meter).map(|same| Val::Bool(!same)),
            Operator::Less => ordered(Ordering::is_lt),
            Operator::LessOrEqual => ordered(Ordering::is_le),
            Operator::Greater => ordered(Ordering::is_gt),
            Operator::GreaterOrEqual => ordered(Ordering::is_ge),
            Operator::In => match &right {
                Val::List(list) => contains(list, &left, self.meter).map(Val::Bool),
                Val::Map(map) => {
                    if let Map::Own(entries) = map {
                        self.meter.charge(entries.len() as u64)?;
                    }
                    Ok(Val::Bool(map.get(&left).is_some()))
                }
                _ => Err(Fault::overload()),
            },
            _ => library::arithmetic(operator, left, right, self.meter),
        }
    }

    fn list(&self, items: &'v [(Expr, bool)], scope: Scope<'_, 'v>) -> Result<Val<'v>, Fault> {
        let mut list = Vec::with_capacity(items.len());
        for (item, optional) in items {
            match (self.eval(item, scope)?, optional) {
                (Val::Optional(inner), true) => list.extend(inner.map(|value| (*value).clone())),
                (_, true) => return Err(Fault::overload()),
                (value, false) => list.push(value),
            }
        }
        Ok(Val::list(list))
    }

    fn map(&self, entries: &'v [(Expr, Expr, bool)], scope: Scope<'_, 'v>) -> Result<Val<'v>, Fault> {
        let mut map: Vec<(Val<'v>, Val<'v>)> = Vec::with_capacity(entries.len());
        for (key, value, optional) in entries {
            let key = self.eval(key, scope)?;
            if !matches!(key, Val::Text(_) | Val::Int(_) | Val::Uint(_) | Val::Bool(_)) {
                return Err(Fault::Error(format!("unsupported key type: {}", key.type_name())));
            }
            self.meter.charge(map.len() as u64)?;
            for (other, _) in &map {
                if equal(other, &key, self.meter)? {
                    return Err(Fault::Error("Failed with repeated key".to_owned()));
                }
            }
            match (self.eval(value, scope)?, optional) {
                (Val::Optional(inner), true) => map.extend(inner.map(|value| (key, (*value).clone()))),
                (_, true) => return Err(Fault::overload()),
                (value, false) => map.push((key, value)),
            }
        }
        Ok(Val::Map(Map::Own(map.into())))
    }

    fn opt_map(
        &self,
        of: &'v Expr,
        name: &'v str,
        body: &'v Expr,
        flat: bool,
        scope: Scope<'_, 'v>,
    ) -> Result<Val<'v>, Fault> {
        let Val::Optional(inner) = self.eval(of, scope)? else { return Err(Fault::overload()) };
        let Some(inner) = inner else { return Ok(Val::Optional(None)) };
        let bound = Bound { name, value: (*inner).clone(), outer: scope };
        let value = self.eval(body, Scope { inner: Some(&bound) })?;
        match (flat, value) {
            (false, value) => Ok(Val::Optional(Some(Rc::new(value)))),
            (true, value @ Val::Optional(_)) => Ok(value),
            (true, _) => Err(Fault::overload()),
        }
    }

    fn each(&self, each: &'v Each, scope: Scope<'_, 'v>) -> Result<Val<'v>, Fault> {
        let range = self.eval(&each.range, scope)?;
        let mut turn = Turn::default();
        match &range {
            Val::List(list) => {
                for (index, item) in list.iter().enumerate() {
                    let index = Val::Int(i64::try_from(index).unwrap_or(i64::MAX));
                    if self.turn(each, index, item, false, scope, &mut turn)? {
                        break;
                    }
                }
            }
            Val::Map(map) => {
                self.meter.charge(map.len() as u64)?;
                for (key, value) in map.entries() {
                    if self.turn(each, key, value, true, scope, &mut turn)? {
                        break;
                    }
                }
            }
            _ => return Err(Fault::overload()),
        }
        turn.result(each.kind)
    }

    /// One round of a loop; true ends it.
    fn turn(
        &self,
        each: &'v Each,
        key: Val<'v>,
        item: Val<'v>,
        of_map: bool,
        scope: Scope<'_, 'v>,
        turn: &mut Turn<'v>,
    ) -> Result<bool, Fault> {
        self.meter.charge(1)?;
        // With one name a list gives its items and a map its keys.
        let single = each.second.is_none();
        let shown = if single && !of_map { item.clone() } else { key.clone() };
        let first = Bound { name: &each.name, value: shown.clone(), outer: scope };
        let first_scope = Scope { inner: Some(&first) };
        let second = each.second.as_deref().map(|name| Bound { name, value: item, outer: first_scope });
        let inside = second.as_ref().map_or(first_scope, |bound| Scope { inner: Some(bound) });
        let test = match &each.test {
            None => Ok(true),
            Some(test) => match self.eval(test, inside) {
                Ok(Val::Bool(flag)) => Ok(flag),
                Ok(_) => Err(Fault::overload()),
                Err(fault) => Err(fault),
            },
        };
        match (each.kind, test) {
            (_, Err(Fault::Exhausted)) => return Err(Fault::Exhausted),
            (Loop::All, Ok(false)) | (Loop::Exists, Ok(true)) => {
                turn.decided = true;
                return Ok(true);
            }
            (Loop::All | Loop::Exists, Ok(_)) => {}
            (Loop::All | Loop::Exists, Err(fault)) => turn.fault = turn.fault.take().or(Some(fault)),
            (_, Err(fault)) => return Err(fault),
            (_, Ok(false)) => {}
            (Loop::ExistsOne, Ok(true)) => turn.count += 1,
            (Loop::Filter, Ok(true)) => turn.items.push((Val::Null, shown)),
            (kind, Ok(true)) => {
                let Some(transform) = &each.transform else { return Err(Fault::overload()) };
                let value = self.eval(transform, inside)?;
                turn.take(kind, key, shown, value, self.meter)?;
            }
        }
        Ok(false)
    }
}

/// What a loop has gathered.
#[derive(Default)]
struct Turn<'v> {
    decided: bool,
    fault: Option<Fault>,
    count: u64,
    items: Vec<(Val<'v>, Val<'v>)>,
}

impl<'v> Turn<'v> {
    fn take(
        &mut self,
        kind: Loop,
        key: Val<'v>,
        shown: Val<'v>,
        value: Val<'v>,
        meter: &Meter,
    ) -> Result<(), Fault> {
        match kind {
            Loop::TransformMap => self.items.push((key, value)),
            Loop::SortBy => self.items.push((value, shown)),
            Loop::TransformMapEntry => {
                let Val::Map(map) = value else { return Err(Fault::overload()) };
                for (key, value) in map.entries() {
                    meter.charge(self.items.len() as u64 + 1)?;
                    for (other, _) in &self.items {
                        if equal(other, &key, meter)? {
                            return Err(Fault::Error("insert failed: key already exists".to_owned()));
                        }
                    }
                    self.items.push((key, value));
                }
            }
            _ => self.items.push((Val::Null, value)),
        }
        Ok(())
    }

    fn result(self, kind: Loop) -> Result<Val<'v>, Fault> {
        let values = |items: Vec<(Val<'v>, Val<'v>)>| {
            Val::List(List::Own(items.into_iter().map(|(_, value)| value).collect()))
        };
        match kind {
            Loop::All | Loop::Exists => match (self.decided, self.fault) {
                (true, _) => Ok(Val::Bool(kind == Loop::Exists)),
                (false, Some(fault)) => Err(fault),
                (false, None) => Ok(Val::Bool(kind == Loop::All)),
            },
            Loop::ExistsOne => Ok(Val::Bool(self.count == 1)),
            Loop::Map | Loop::Filter | Loop::TransformList => Ok(values(self.items)),
            Loop::TransformMap | Loop::TransformMapEntry => Ok(Val::Map(Map::Own(self.items.into()))),
            Loop::SortBy => {
                let mut items = self.items;
                let ordered = items.windows(2).all(|pair| comparable(&pair[0].0, &pair[1].0));
                if !ordered {
                    return Err(Fault::overload());
                }
                items.sort_by(|(a, _), (b, _)| compare(a, b).unwrap_or(Ordering::Equal));
                Ok(values(items))
            }
        }
    }
}

fn lift_literal(literal: &Literal) -> Val<'_> {
    match literal {
        Literal::Null => Val::Null,
        Literal::Bool(flag) => Val::Bool(*flag),
        Literal::Int(n) => Val::Int(*n),
        Literal::Uint(n) => Val::Uint(*n),
        Literal::Double(n) => Val::Double(*n),
        Literal::Text(text) => Val::Text(Text::Borrowed(text)),
        Literal::Bytes(bytes) => Val::Bytes(Rc::from(&**bytes)),
    }
}

fn negate(value: Val<'_>) -> Result<Val<'_>, Fault> {
    match value {
        Val::Int(n) => n.checked_neg().map(Val::Int).ok_or_else(|| Fault::Error("integer overflow".into())),
        Val::Double(n) => Ok(Val::Double(-n)),
        Val::Duration(n) => Ok(Val::Duration(n.saturating_neg())),
        _ => Err(Fault::overload()),
    }
}

fn position(at: &Val<'_>) -> Option<usize> {
    match at {
        Val::Int(at) => usize::try_from(*at).ok(),
        Val::Uint(at) => usize::try_from(*at).ok(),
        Val::Double(at) if at.fract() == 0.0 && (0.0..9e15).contains(at) => Some(*at as usize),
        _ => None,
    }
}

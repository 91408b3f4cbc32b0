//! `x-kubernetes-validations`: compiling the rules of a node, and running the rules of a schema over an object.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value;

use super::ast::Expr;
use super::eval::{EVALUATION_LIMIT, Fault, Meter, Roots, evaluate};
use super::parse::{Environment, parse};
use super::typing;
use super::value::{Val, lift};
use crate::field::{FieldError, FieldErrorKind, Path, quote, shown};
use crate::structural::node::{Additional, Arena, Kind, ListType, Node, NodeId};

/// Cost units that all rules of one object may spend together; the limit of an API server.
const OBJECT_BUDGET: u64 = 10_000_000;

/// Bytes of a message that `messageExpression` gives.
const MAX_MESSAGE_BYTES: usize = 5 * 1024;

const ENVIRONMENT: Environment<'static> = Environment { roots: &["self", "oldSelf"], variables: None };

/// Parsed expressions by their text: the versions of a CRD repeat each other.
#[derive(Default)]
pub(crate) struct Programs {
    parsed: HashMap<String, Result<Arc<Expr>, String>>,
}

impl Programs {
    fn get(&mut self, source: &str) -> Result<Arc<Expr>, String> {
        if let Some(parsed) = self.parsed.get(source) {
            return parsed.clone();
        }
        let parsed = parse(source, ENVIRONMENT).map(Arc::new);
        self.parsed.insert(source.to_owned(), parsed.clone());
        parsed
    }
}

/// One entry of `x-kubernetes-validations`.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    source: Box<str>,
    program: Arc<Expr>,
    /// A transition rule: it needs the stored value.
    pub(crate) transition: bool,
    optional_old: bool,
    message: Option<Box<str>>,
    message_expression: Option<Arc<Expr>>,
    reason: FieldErrorKind,
    field_path: Option<Box<str>>,
}

impl Rule {
    /// Compiles an entry at `this`, whose child nodes are in `nodes`.
    pub(crate) fn compile(
        rule: &Value,
        path: &Path<'_>,
        this: &Node,
        nodes: &[Node],
        programs: &mut Programs,
    ) -> Result<Rule, FieldError> {
        let text =
            |key: &str| rule.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        let Some(source) = text("rule") else {
            return Err(FieldError::new(
                path.field("rule"),
                FieldErrorKind::Required,
                "rule is not specified",
            ));
        };
        let mut compile = |key: &str, source: &str| {
            programs
                .get(source)
                .and_then(|program| typing::check(&program, this, nodes).map(|()| program))
                .map_err(|error| {
                    let detail = format!("compilation failed: {error}");
                    FieldError::with_value(path.field(key), FieldErrorKind::Invalid, &source.into(), detail)
                })
        };
        let program = compile("rule", source)?;
        let message_expression =
            text("messageExpression").map(|source| compile("messageExpression", source)).transpose()?;
        let message = text("message");
        if let Some(message) = message.filter(|message| message.contains('\n')) {
            let detail = "message must not contain line breaks";
            let value = message.into();
            return Err(FieldError::with_value(
                path.field("message"),
                FieldErrorKind::Invalid,
                &value,
                detail,
            ));
        }
        let reason = reason(text("reason"), path)?;
        Ok(Rule {
            source: source.into(),
            transition: program.mentions("oldSelf"),
            program,
            optional_old: rule.get("optionalOldSelf").and_then(Value::as_bool).unwrap_or(false),
            message: message.map(Into::into),
            message_expression,
            reason,
            field_path: text("fieldPath").map(Into::into),
        })
    }

    /// What the rule is called in messages about it.
    fn label(&self) -> &str {
        self.message.as_deref().unwrap_or(&self.source)
    }

    /// Why the rule says neither yes nor no, when it had `granted` to spend.
    fn no_verdict(&self, fault: &Fault, granted: u64) -> String {
        let label = self.label();
        match fault {
            Fault::Exhausted if granted < EVALUATION_LIMIT => {
                "validation failed due to running out of cost budget, no further validation rules will be run"
                    .to_owned()
            }
            Fault::Exhausted => format!(
                "'{fault}': no further validation rules will be run due to call cost exceeds limit for rule: {label}"
            ),
            fault if *fault == Fault::overload() => format!(
                "'{fault}': call arguments did not match a supported operator, function or macro signature for rule: {label}"
            ),
            fault => format!("{fault} evaluating rule: {label}"),
        }
    }

    fn failure(&self, path: &Path<'_>, shown: Option<String>, message: String) -> FieldError {
        let mut at = path.to_string();
        if let Some(field) = &self.field_path {
            if !field.starts_with(['.', '[']) && !at.is_empty() {
                at.push('.');
            }
            at.push_str(if at.is_empty() { field.trim_start_matches('.') } else { field });
        }
        let (value, detail) = match self.reason {
            FieldErrorKind::Invalid => (shown, message),
            FieldErrorKind::Duplicate => (shown, String::new()),
            _ => (None, message),
        };
        FieldError { path: at, kind: self.reason, value, detail }
    }
}

/// The kind of error that a failed rule is.
fn reason(name: Option<&str>, path: &Path<'_>) -> Result<FieldErrorKind, FieldError> {
    match name {
        None | Some("FieldValueInvalid") => Ok(FieldErrorKind::Invalid),
        Some("FieldValueForbidden") => Ok(FieldErrorKind::Forbidden),
        Some("FieldValueRequired") => Ok(FieldErrorKind::Required),
        Some("FieldValueDuplicate") => Ok(FieldErrorKind::Duplicate),
        Some(other) => {
            let detail = "supported values: \"FieldValueInvalid\", \"FieldValueForbidden\", \
                          \"FieldValueRequired\", \"FieldValueDuplicate\"";
            Err(FieldError::with_value(
                path.field("reason"),
                FieldErrorKind::NotSupported,
                &other.into(),
                detail,
            ))
        }
    }
}

/// Runs the rules of the whole schema over an object that the rest of the schema has admitted.
pub(crate) fn validate(arena: &Arena, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut run = Run { arena, left: OBJECT_BUDGET, errors: Vec::new() };
    // When the budget is spent the error that says so is in the list.
    let _ = run.value(arena.root, new, old, &Path::Root, false);
    run.errors
}

/// The budget of the object is spent.
struct Spent;

struct Run<'a> {
    arena: &'a Arena,
    left: u64,
    errors: Vec<FieldError>,
}

/// `self` and `oldSelf`.
struct SelfRoots<'v> {
    this: Val<'v>,
    old: Option<Val<'v>>,
}

impl<'v> Roots<'v> for SelfRoots<'v> {
    fn root(&self, name: &str) -> Option<Val<'v>> {
        match name {
            "self" => Some(self.this.clone()),
            "oldSelf" => self.old.clone(),
            _ => None,
        }
    }

    fn variable(&self, name: &str, _: &Meter) -> Result<Val<'v>, Fault> {
        Err(Fault::Error(format!("no such key: {name}")))
    }
}

impl Run<'_> {
    /// `unchanged`: the value is as it was stored, so only transition rules are of interest.
    fn value(
        &mut self,
        id: NodeId,
        value: &Value,
        old: Option<&Value>,
        path: &Path<'_>,
        unchanged: bool,
    ) -> Result<(), Spent> {
        let arena = self.arena;
        let node = arena.node(id);
        let unchanged = unchanged || (id != arena.root && old == Some(value));
        let interesting = if unchanged { node.has_transition } else { node.has_rule };
        if !interesting || value.is_null() {
            return Ok(());
        }
        self.rules(id, id, value, old, path, unchanged)?;
        match value {
            Value::Array(items) => {
                let Some(item) = node.items else { return Ok(()) };
                let old = old.and_then(Value::as_array);
                for (index, value) in items.iter().enumerate() {
                    let before = old.and_then(|old| same_item(node, value, old));
                    self.value(item, value, before, &path.index(index), unchanged)?;
                }
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    let (child, at) = match (node.properties.get(name.as_str()), node.additional) {
                        (Some(id), _) => (*id, path.field(name)),
                        (None, Additional::Schema(id)) => (id, path.key(name)),
                        (None, _) => continue,
                    };
                    // The parts of an atomic map do not continue those of the stored one.
                    let before = old.filter(|_| !node.map_atomic).and_then(|old| old.get(name));
                    self.value(child, value, before, &at, unchanged)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The rules of the node `of`, then those in its `allOf`, over a value typed by `typed`.
    fn rules(
        &mut self,
        of: NodeId,
        typed: NodeId,
        value: &Value,
        old: Option<&Value>,
        path: &Path<'_>,
        unchanged: bool,
    ) -> Result<(), Spent> {
        let arena = self.arena;
        let node = arena.node(of);
        for rule in &node.rules {
            if rule.transition || !unchanged {
                self.rule(rule, typed, value, old, path)?;
            }
        }
        for nested in node.checks.iter().flat_map(|checks| &checks.all_of) {
            if arena.node(*nested).has_rule {
                self.rules(*nested, typed, value, old, path, unchanged)?;
            }
        }
        Ok(())
    }

    fn rule(
        &mut self,
        rule: &Rule,
        typed: NodeId,
        value: &Value,
        old: Option<&Value>,
        path: &Path<'_>,
    ) -> Result<(), Spent> {
        if rule.transition && old.is_none() && !rule.optional_old {
            return Ok(());
        }
        let arena = self.arena;
        let typed = Some((arena, typed));
        let old = match (old.map(|old| lift(old, typed)), rule.optional_old) {
            (old, true) => Some(Val::Optional(old.map(Rc::new))),
            (old, false) => old,
        };
        let roots = SelfRoots { this: lift(value, typed), old };
        // Containers are not shown; where there is no verdict the type of the field stands for the value.
        let shown = (!value.is_object() && !value.is_array()).then(|| shown(value));
        let kind = typed.map_or(Kind::Any, |(arena, id)| arena.node(id).kind);
        let kind = quote(if kind == Kind::Any { "" } else { kind.name() });
        let meter = Meter::new(self.left.min(EVALUATION_LIMIT));
        let granted = meter.left();
        let result = evaluate(&rule.program, &roots, &meter);
        self.left -= granted - meter.left();
        let detail = match &result {
            Ok(Val::Bool(true)) => return Ok(()),
            Ok(Val::Bool(false)) => {
                let message = self.message(rule, &roots);
                self.errors.push(rule.failure(path, shown, message));
                return Ok(());
            }
            Ok(other) => format!(
                "cel expression must evaluate to a bool, but evaluated to {} for rule: {}",
                other.type_name(),
                rule.label()
            ),
            Err(fault) => rule.no_verdict(fault, granted),
        };
        let value = Some(kind);
        self.errors.push(FieldError { path: path.to_string(), kind: FieldErrorKind::Invalid, value, detail });
        if matches!(result, Err(Fault::Exhausted)) { Err(Spent) } else { Ok(()) }
    }

    /// The message of a rule that failed: its expression, else its text, else the rule itself.
    fn message<'v>(&mut self, rule: &'v Rule, roots: &SelfRoots<'v>) -> String {
        if let Some(expression) = &rule.message_expression {
            let meter = Meter::new(self.left.min(EVALUATION_LIMIT));
            let granted = meter.left();
            let result = evaluate(expression, roots, &meter);
            self.left -= granted - meter.left();
            if let Ok(Val::Text(text)) = result {
                let text = text.trim();
                if !text.is_empty() && !text.contains('\n') && text.len() <= MAX_MESSAGE_BYTES {
                    return text.to_owned();
                }
            }
        }
        match &rule.message {
            Some(message) => message.to_string(),
            None => format!("failed rule: {}", rule.source),
        }
    }
}

fn same_item<'o>(node: &Node, item: &Value, old: &'o [Value]) -> Option<&'o Value> {
    let ListType::Map(keys) = &node.list else { return None };
    old.iter().find(|candidate| keys.iter().all(|key| candidate.get(&**key) == item.get(&**key)))
}

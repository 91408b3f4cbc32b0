//! Rules in CEL.

use serde_json::Value;

use crate::field::{FieldError, FieldErrorKind, Path};
use crate::structural::node::Arena;

/// Parsed programs by their text.
#[derive(Default)]
pub(crate) struct Programs;

/// One entry of `x-kubernetes-validations`.
#[derive(Debug, Clone)]
pub(crate) struct Rule;

impl Rule {
    pub(crate) fn compile(rule: &Value, path: &Path<'_>, _: &mut Programs) -> Result<Rule, FieldError> {
        match rule.get("rule").and_then(Value::as_str) {
            Some(_) => Ok(Rule),
            None => Err(FieldError::new(path.field("rule"), FieldErrorKind::Required, "")),
        }
    }
}

pub(crate) fn validate(_: &Arena, _: &Value, _: Option<&Value>) -> Vec<FieldError> {
    Vec::new()
}

//! Field paths and field errors, in the words of a Kubernetes API server.
//!
//! Owns: how a path is written (`spec.rules[0].name`, `spec.options[example.com/a]`), what kinds of field error there
//! are, and how an error reads. Errors are plain data: the caller puts them into a `Status`.
//! Deliberately absent: deciding what is an error (`structural`, `cel`).

use std::fmt;

use serde_json::{Value, json};

/// A path from the object's root to one value, linked on the stack so that walking allocates nothing.
#[derive(Clone, Copy)]
pub(crate) enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
    Key(&'a Path<'a>, &'a str),
}

impl<'a> Path<'a> {
    pub(crate) fn field(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    pub(crate) fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }

    pub(crate) fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }

    /// The field right below the root on the way here.
    pub(crate) fn first(&self) -> Option<&'a str> {
        match self {
            Path::Root => None,
            Path::Field(Path::Root, name) => Some(name),
            Path::Field(parent, _) | Path::Index(parent, _) | Path::Key(parent, _) => parent.first(),
        }
    }

    fn is_root(&self) -> bool {
        matches!(self, Path::Root)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(parent, name) if parent.is_root() => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Path::Key(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}

/// What is wrong with a field. The reasons are those of `metav1.CauseType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// A value that must be there is not.
    Required,
    /// A value that breaks a rule of its field.
    Invalid,
    /// A value of another type than its field.
    TypeInvalid,
    /// A value that is not one of an enumeration.
    NotSupported,
    /// A second value where values must differ.
    Duplicate,
    /// A value that is well-formed but not allowed here.
    Forbidden,
    /// A string over its length limit.
    TooLong,
    /// A list over its item limit.
    TooMany,
    /// A rule that could not be evaluated for a reason outside the object.
    Internal,
}

impl FieldErrorKind {
    /// The machine-readable reason, as in `Status.details.causes[].reason`.
    pub fn reason(self) -> &'static str {
        match self {
            FieldErrorKind::Required => "FieldValueRequired",
            FieldErrorKind::Invalid => "FieldValueInvalid",
            FieldErrorKind::TypeInvalid => "FieldValueTypeInvalid",
            FieldErrorKind::NotSupported => "FieldValueNotSupported",
            FieldErrorKind::Duplicate => "FieldValueDuplicate",
            FieldErrorKind::Forbidden => "FieldValueForbidden",
            FieldErrorKind::TooLong => "FieldValueTooLong",
            FieldErrorKind::TooMany => "FieldValueTooMany",
            FieldErrorKind::Internal => "InternalError",
        }
    }

    fn words(self) -> &'static str {
        match self {
            FieldErrorKind::Required => "Required value",
            FieldErrorKind::Invalid | FieldErrorKind::TypeInvalid => "Invalid value",
            FieldErrorKind::NotSupported => "Unsupported value",
            FieldErrorKind::Duplicate => "Duplicate value",
            FieldErrorKind::Forbidden => "Forbidden",
            FieldErrorKind::TooLong => "Too long",
            FieldErrorKind::TooMany => "Too many",
            FieldErrorKind::Internal => "Internal error",
        }
    }
}

/// One finding about one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Where, for example `spec.rules[0].backendRefs[1].port`; empty for the object as a whole.
    pub path: String,
    /// What.
    pub kind: FieldErrorKind,
    /// The offending value as it is shown, already quoted when it is a string; `None` shows no value.
    pub value: Option<String>,
    /// Why, in words; may be empty.
    pub detail: String,
}

impl FieldError {
    /// An error without a shown value.
    pub fn new(path: impl ToString, kind: FieldErrorKind, detail: impl Into<String>) -> FieldError {
        FieldError { path: path.to_string(), kind, value: None, detail: detail.into() }
    }

    /// An error that shows the value it is about.
    pub fn with_value(
        path: impl ToString,
        kind: FieldErrorKind,
        value: &Value,
        detail: impl Into<String>,
    ) -> FieldError {
        FieldError { path: path.to_string(), kind, value: Some(shown(value)), detail: detail.into() }
    }

    /// The error without its path, as in `Status.details.causes[].message`.
    pub fn body(&self) -> String {
        let mut body = String::from(self.kind.words());
        if let Some(value) = &self.value {
            body.push_str(": ");
            body.push_str(value);
        }
        if !self.detail.is_empty() {
            body.push_str(": ");
            body.push_str(&self.detail);
        }
        body
    }

    /// The entry for `Status.details.causes`: `reason`, `message`, `field`.
    pub fn cause(&self) -> Value {
        json!({ "reason": self.kind.reason(), "message": self.body(), "field": self.shown_path() })
    }

    fn shown_path(&self) -> &str {
        if self.path.is_empty() { "<nil>" } else { &self.path }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.shown_path(), self.body())
    }
}

/// Several field errors in one sentence: a single one as it is, more in brackets, equal ones once.
pub(crate) fn aggregate(errors: &[FieldError]) -> String {
    let mut texts: Vec<String> = Vec::with_capacity(errors.len());
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.as_slice() {
        [single] => single.clone(),
        _ => format!("[{}]", texts.join(", ")),
    }
}

/// A value as an error message shows it: scalars plainly, strings quoted, the rest as JSON.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        other => other.to_string(),
    }
}

/// A string in double quotes with the escapes of Go's `%q`.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => quoted.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_in_kubernetes() {
        let root = Path::Root;
        let spec = root.field("spec");
        let options = spec.field("options");
        let rules = spec.field("rules");
        let rule = rules.index(3);
        assert_eq!(rule.field("name").to_string(), "spec.rules[3].name");
        assert_eq!(options.key("example.com/a").to_string(), "spec.options[example.com/a]");
    }

    #[test]
    fn errors_read_as_in_kubernetes() {
        let required = FieldError::new("spec.foo", FieldErrorKind::Required, "");
        assert_eq!(required.to_string(), "spec.foo: Required value");
        let invalid =
            FieldError::with_value("spec.x", FieldErrorKind::Invalid, &json!("a\"b"), "must be \"c\"");
        assert_eq!(invalid.to_string(), r#"spec.x: Invalid value: "a\"b": must be "c""#);
        assert_eq!(
            invalid.cause(),
            json!({"reason": "FieldValueInvalid", "message": r#"Invalid value: "a\"b": must be "c""#, "field": "spec.x"})
        );
        assert_eq!(
            FieldError::with_value("a", FieldErrorKind::Invalid, &json!(3), "x").body(),
            "Invalid value: 3: x"
        );
    }

    #[test]
    fn several_errors_are_listed_once_each_in_brackets() {
        let a = FieldError::new("a", FieldErrorKind::Required, "");
        let b = FieldError::new("b", FieldErrorKind::Required, "");
        assert_eq!(aggregate(&[a.clone(), b, a.clone()]), "[a: Required value, b: Required value]");
        assert_eq!(aggregate(&[a]), "a: Required value");
    }
}

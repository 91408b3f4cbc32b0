//! Structural schemas: what an API server does to one object with the schema of its kind.
//!
//! Owns: compiling OpenAPI v3 (a CRD's own schema, or the components of the built-in kinds), and with the result
//! dropping unknown fields, defaulting, and validating. CEL rules of the schema run here too; their engine is
//! [`crate::cel`].
//!
//! Invariants: a compiled schema is immutable and shared; no input makes these functions panic; the same input gives
//! the same errors in the same order.
//!
//! Deliberately absent: duplicate keys (a JSON reader sees them, a value does not), names and label syntax of
//! metadata, what a subresource may change, and any state between calls.

mod compile;
mod decode;
mod default;
pub(crate) mod format;
pub(crate) mod node;
mod object_meta;
pub(crate) mod pattern;
pub(crate) mod validate;

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

pub use compile::CompileError;
use node::Arena;

use crate::cel;
use crate::field::{FieldError, FieldErrorKind, aggregate};

/// What to do about fields that the schema does not know (`fieldValidation` of a request).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Refuse the object.
    Strict,
    /// Drop them and say so. The default of an API server.
    #[default]
    Warn,
    /// Drop them in silence.
    Ignore,
}

/// Why an object was not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdmitError {
    /// 400 BadRequest under strict field validation: one entry for each finding, such as `unknown field "spec.foo"`.
    /// Duplicate fields found by the caller belong into the same list.
    Strict(Vec<String>),
    /// 400 BadRequest: the JSON does not fit the Go type of the field; names the field and the type that it wants.
    BadRequest(String),
    /// 422 Invalid: the causes.
    Invalid(Vec<FieldError>),
}

impl fmt::Display for AdmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdmitError::Strict(findings) => write!(f, "strict decoding error: {}", findings.join(", ")),
            AdmitError::BadRequest(message) => f.write_str(message),
            AdmitError::Invalid(errors) => f.write_str(&aggregate(errors)),
        }
    }
}

impl std::error::Error for AdmitError {}

/// The compiled schema of one version of a kind. Cheap to clone.
#[derive(Clone)]
pub struct Structural {
    arena: Arc<Arena>,
}

impl fmt::Debug for Structural {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Structural").field("nodes", &self.arena.nodes.len()).finish()
    }
}

impl Structural {
    /// Compiles `spec.versions[].schema.openAPIV3Schema` of a CRD. Errors have paths relative to that schema.
    pub fn compile(openapi: &Value) -> Result<Structural, CompileError> {
        compile::crd(openapi).map(|arena| Structural { arena: Arc::new(arena) })
    }

    /// Compiles the component `name` (for example `io.k8s.api.apps.v1.Deployment`) of an API server's OpenAPI v3
    /// `components.schemas`; `$ref` and recursion are followed.
    pub fn compile_component(
        components: &Map<String, Value>,
        name: &str,
    ) -> Result<Structural, CompileError> {
        compile::component(components, name).map(|arena| Structural { arena: Arc::new(arena) })
    }

    /// Everything in order: [`decode`](Self::decode), [`default`](Self::default), then
    /// [`validate`](Self::validate). Gives the warnings for the response.
    ///
    /// `old` is the stored object when this is an update: parts that did not change are not judged again, and
    /// transition rules (`oldSelf`) run.
    pub fn admit(
        &self,
        new: &mut Value,
        old: Option<&Value>,
        mode: FieldValidation,
    ) -> Result<Vec<String>, AdmitError> {
        let warnings = self.decode(new, mode)?;
        self.default(new);
        let errors = self.validate(new, old);
        if errors.is_empty() { Ok(warnings) } else { Err(AdmitError::Invalid(errors)) }
    }

    /// Drops unknown fields, or refuses them when `mode` is strict, and checks what is decoded into Go types: metadata,
    /// and all of a built-in kind. Gives the warnings for the response.
    pub fn decode(&self, object: &mut Value, mode: FieldValidation) -> Result<Vec<String>, AdmitError> {
        if !object.is_object() {
            return Err(AdmitError::BadRequest("json: the object must be a JSON object".to_owned()));
        }
        if decode::deeper_than(object, decode::MAX_OBJECT_DEPTH) {
            return Err(AdmitError::BadRequest(format!(
                "json: nested deeper than {} levels",
                decode::MAX_OBJECT_DEPTH
            )));
        }
        let found = decode::decode(&self.arena, object);
        if !found.mistyped.is_empty() {
            return Err(AdmitError::BadRequest(found.mistyped.join(", ")));
        }
        let findings: Vec<String> =
            found.unknown.iter().map(|path| format!("unknown field {}", crate::field::quote(path))).collect();
        match mode {
            FieldValidation::Strict if !findings.is_empty() => Err(AdmitError::Strict(findings)),
            FieldValidation::Warn => Ok(findings),
            FieldValidation::Strict | FieldValidation::Ignore => Ok(Vec::new()),
        }
    }

    /// Fills in the defaults of the schema, those of `status` too, and drops nulls that stand for nothing.
    pub fn default(&self, object: &mut Value) {
        default::apply(&self.arena, object);
        if !self.arena.builtin {
            default::drop_nulls(&self.arena, object);
        }
        default::tidy_metadata(object);
    }

    /// The value validations and list types of the schema, then its CEL rules. With `old`, what did not change is not
    /// judged again, transition rules excepted.
    pub fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = validate::validate(&self.arena, new, old);
        if !self.arena.root().has_rule {
            return errors;
        }
        if errors.iter().any(|error| blocks_rules(error.kind)) {
            errors.push(FieldError {
                path: String::new(),
                kind: FieldErrorKind::Invalid,
                value: Some("null".to_owned()),
                detail: "some validation rules were not checked because the object was invalid; \
                         correct the existing errors to complete validation"
                    .to_owned(),
            });
            return errors;
        }
        errors.extend(cel::validate(&self.arena, new, old));
        errors
    }

    pub(crate) fn arena(&self) -> &Arena {
        &self.arena
    }
}

/// Rules may rely on types, required fields, enumerations and limits; where those fail they are not run.
fn blocks_rules(kind: FieldErrorKind) -> bool {
    matches!(
        kind,
        FieldErrorKind::NotSupported
            | FieldErrorKind::Required
            | FieldErrorKind::TooLong
            | FieldErrorKind::TooMany
            | FieldErrorKind::TypeInvalid
    )
}

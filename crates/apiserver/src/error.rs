//! Refusals, shaped and worded as Kubernetes' `Status` objects.
//!
//! Owns: every message that a client can get as an error. Invariant: reason, code and details go together as
//! `k8s.io/apimachinery/pkg/api/errors` has them, because clients decide by `reason` and `details`, not by text.

use http::StatusCode;
use serde_json::{Map, Value, json};

/// What a refusal is about, as Kubernetes prints it: the resource, its group and the object's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) group: String,
    /// A plural resource name, or the kind for `Invalid`.
    pub(crate) kind: String,
    pub(crate) name: String,
}

impl Subject {
    pub(crate) fn new(group: &str, kind: &str, name: &str) -> Subject {
        Subject { group: group.to_owned(), kind: kind.to_owned(), name: name.to_owned() }
    }

    fn qualified(&self) -> String {
        if self.group.is_empty() { self.kind.clone() } else { format!("{}.{}", self.kind, self.group) }
    }
}

/// One entry of `details.causes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueInvalid`, `FieldValueRequired`, ...
    pub reason: &'static str,
    /// Kubernetes' text without the field, for example `Invalid value: 3: must be ...`.
    pub message: String,
    /// The field's path, for example `spec.rules[0].name`.
    pub field: String,
}

impl Cause {
    fn new(reason: &'static str, field: impl Into<String>, message: String) -> Cause {
        Cause { reason, message, field: field.into() }
    }

    /// `Invalid value`: present and wrong.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Cause {
        Cause::new("FieldValueInvalid", field, format!("Invalid value: {value}: {detail}"))
    }

    /// `Required value`: absent and needed.
    pub fn required(field: impl Into<String>, detail: &str) -> Cause {
        let message =
            if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        Cause::new("FieldValueRequired", field, message)
    }

    /// `Duplicate value`: two entries of a set or keyed list are the same.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Cause {
        Cause::new("FieldValueDuplicate", field, format!("Duplicate value: {value}"))
    }

    /// `Unsupported value`: not one of an enumeration.
    pub fn unsupported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Cause {
        let list = supported.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ");
        Cause::new(
            "FieldValueNotSupported",
            field,
            format!("Unsupported value: {value}: supported values: {list}"),
        )
    }

    /// `Not found`: names something that is not there.
    pub fn not_found(field: impl Into<String>, value: &Value) -> Cause {
        Cause::new("FieldValueNotFound", field, format!("Not found: {value}"))
    }

    /// `Forbidden`: may not be set here, or not be changed.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Cause {
        Cause::new("FieldValueForbidden", field, format!("Forbidden: {detail}"))
    }

    /// `Too long`: over a limit in bytes.
    pub(crate) fn too_long(field: impl Into<String>, limit_bytes: usize) -> Cause {
        Cause::new("FieldValueTooLong", field, format!("Too long: may not be more than {limit_bytes} bytes"))
    }

    /// An apply would change what another manager set.
    pub(crate) fn field_manager_conflict(field: &str, manager: &str) -> Cause {
        Cause::new("FieldManagerConflict", field, format!("conflict with {manager}"))
    }

    pub(crate) fn namespace_terminating(namespace: &str) -> Cause {
        let message = format!("namespace {namespace} is being terminated");
        Cause::new("NamespaceTerminating", "metadata.namespace", message)
    }

    /// The cause in one line, as in the text of an `Invalid` status.
    pub fn line(&self) -> String {
        if self.field.is_empty() { self.message.clone() } else { format!("{}: {}", self.field, self.message) }
    }
}

/// A refusal; becomes a `Status` object. One pointer wide, because every request can end in one.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", .0.message)]
pub struct ApiError(Box<Refusal>);

#[derive(Debug, Clone)]
struct Refusal {
    code: StatusCode,
    reason: &'static str,
    message: String,
    subject: Option<Subject>,
    causes: Vec<Cause>,
    retry_after_seconds: Option<u32>,
}

/// The result of everything that a request can be refused by.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> ApiError {
        let message = message.into();
        let causes = Vec::new();
        ApiError(Box::new(Refusal {
            code,
            reason,
            message,
            subject: None,
            causes,
            retry_after_seconds: None,
        }))
    }

    fn about(mut self, subject: Subject) -> ApiError {
        self.0.subject = Some(subject);
        self
    }

    pub(crate) fn not_found(subject: Subject) -> ApiError {
        let message = format!("{} {:?} not found", subject.qualified(), subject.name);
        ApiError::new(StatusCode::NOT_FOUND, "NotFound", message).about(subject)
    }

    /// The path names no resource that is served.
    pub(crate) fn unknown_path() -> ApiError {
        let text = "the server could not find the requested resource";
        ApiError::new(StatusCode::NOT_FOUND, "NotFound", text).about(Subject::default())
    }

    pub(crate) fn already_exists(subject: Subject) -> ApiError {
        let message = format!("{} {:?} already exists", subject.qualified(), subject.name);
        ApiError::new(StatusCode::CONFLICT, "AlreadyExists", message).about(subject)
    }

    /// A write against a version that is no longer the newest.
    pub(crate) fn stale(subject: Subject) -> ApiError {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        ApiError::conflict(subject, why)
    }

    pub(crate) fn conflict(subject: Subject, why: &str) -> ApiError {
        let message =
            format!("Operation cannot be fulfilled on {} {:?}: {why}", subject.qualified(), subject.name);
        ApiError::new(StatusCode::CONFLICT, "Conflict", message).about(subject)
    }

    /// Server-side apply met fields of other managers.
    pub(crate) fn apply_conflict(message: String, causes: Vec<Cause>) -> ApiError {
        let mut error = ApiError::new(StatusCode::CONFLICT, "Conflict", message).about(Subject::default());
        error.0.causes = causes;
        error
    }

    /// `subject.kind` is a kind here, not a resource.
    pub(crate) fn invalid(subject: Subject, causes: Vec<Cause>) -> ApiError {
        let mut lines: Vec<String> = Vec::new();
        for cause in &causes {
            let line = cause.line();
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let text = if lines.len() == 1 { lines.concat() } else { format!("[{}]", lines.join(", ")) };
        let message = format!("{} {:?} is invalid: {text}", subject.qualified(), subject.name);
        let mut error = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).about(subject);
        error.0.causes = causes;
        error
    }

    /// 422 for a reason that is no field's.
    pub(crate) fn unprocessable(subject: Subject, why: &str) -> ApiError {
        let _ = &subject;
        let message = "the server rejected our request due to an error in our request".to_owned();
        let mut error =
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).about(Subject::default());
        error.0.causes = vec![Cause { reason: "", message: why.to_owned(), field: String::new() }];
        error
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn forbidden(subject: Subject, why: &str) -> ApiError {
        let message = if subject.kind.is_empty() {
            format!("forbidden: {why}")
        } else if subject.name.is_empty() {
            format!("{} is forbidden: {why}", subject.qualified())
        } else {
            format!("{} {:?} is forbidden: {why}", subject.qualified(), subject.name)
        };
        ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message).about(subject)
    }

    /// An admission policy said no.
    pub(crate) fn denied(subject: Subject, denial: &weir_schema::cel::Denial) -> ApiError {
        let code = StatusCode::from_u16(denial.code()).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
        let reason = match denial.reason.as_str() {
            "Unauthorized" => "Unauthorized",
            "Forbidden" => "Forbidden",
            "RequestEntityTooLarge" => "RequestEntityTooLarge",
            _ => "Invalid",
        };
        let message = format!("{} {:?} is forbidden: {denial}", subject.qualified(), subject.name);
        let mut error = ApiError::new(code, reason, message).about(subject);
        error.0.causes = vec![Cause { reason: "", message: denial.to_string(), field: String::new() }];
        error
    }

    pub(crate) fn method_not_allowed() -> ApiError {
        let text = "the server does not allow this method on the requested resource";
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", text).about(Subject::default())
    }

    pub(crate) fn create_while_terminating(subject: Subject) -> ApiError {
        let text = "create not allowed while custom resource definition is terminating";
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", text).about(subject)
    }

    pub(crate) fn not_acceptable(accepted: &[&str]) -> ApiError {
        let text = format!("only the following media types are accepted: {}", accepted.join(", "));
        ApiError::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", text)
    }

    pub(crate) fn unsupported_media_type(accepted: &[&str]) -> ApiError {
        let text = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", text)
    }

    pub(crate) fn too_large(limit_bytes: usize) -> ApiError {
        let text = format!("Request entity too large: limit is {limit_bytes}");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", text).about(Subject::default())
    }

    pub(crate) fn timeout(message: &str) -> ApiError {
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> ApiError {
        let message = format!("Internal error occurred: {}", message.into());
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// A watch from a version whose successors are no longer kept.
    pub(crate) fn too_old(asked: u64, oldest: u64) -> ApiError {
        let text = format!("too old resource version: {asked} ({oldest})");
        ApiError::new(StatusCode::GONE, "Expired", text)
    }

    /// A list at a version that is no longer kept.
    pub(crate) fn list_expired() -> ApiError {
        let text = "The provided continue parameter is too old to display a consistent list result. You can start a new \
                    list without the continue parameter.";
        ApiError::new(StatusCode::GONE, "Expired", text)
    }

    /// A read that asks for a version which does not exist yet.
    pub(crate) fn too_new(asked: u64, current: u64) -> ApiError {
        let text = format!("Too large resource version: {asked}, current: {current}");
        let mut error = ApiError::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", text).about(Subject::default());
        error.0.causes =
            vec![Cause::new("ResourceVersionTooLarge", "", "Too large resource version".to_owned())];
        error.0.retry_after_seconds = Some(1);
        error
    }

    /// The status code of the response.
    pub fn code(&self) -> StatusCode {
        self.0.code
    }

    /// The machine-readable reason, for example `AlreadyExists`.
    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// The fields that were found wrong; empty when the refusal is not about fields.
    pub fn causes(&self) -> &[Cause] {
        &self.0.causes
    }

    /// Seconds after which a client may try again, for the `Retry-After` header.
    pub(crate) fn retry_after_seconds(&self) -> Option<u32> {
        self.0.retry_after_seconds
    }

    pub(crate) fn with_cause(mut self, cause: Cause) -> ApiError {
        self.0.causes.push(cause);
        self
    }

    /// The `Status` object.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.0.message,
            "reason": self.0.reason,
        });
        if let (Some(details), Value::Object(map)) = (self.details(), &mut status) {
            map.insert("details".to_owned(), details);
        }
        status["code"] = Value::from(self.0.code.as_u16());
        status
    }

    fn details(&self) -> Option<Value> {
        if self.0.subject.is_none() && self.0.causes.is_empty() && self.0.retry_after_seconds.is_none() {
            return None;
        }
        let mut details = Map::new();
        let mut put = |key: &str, text: &str| {
            if !text.is_empty() {
                details.insert(key.to_owned(), Value::from(text));
            }
        };
        if let Some(subject) = &self.0.subject {
            put("name", &subject.name);
            put("group", &subject.group);
            put("kind", &subject.kind);
        }
        if !self.0.causes.is_empty() {
            details.insert("causes".to_owned(), self.0.causes.iter().map(cause_json).collect());
        }
        if let Some(seconds) = self.0.retry_after_seconds {
            details.insert("retryAfterSeconds".to_owned(), Value::from(seconds));
        }
        Some(Value::Object(details))
    }
}

fn cause_json(cause: &Cause) -> Value {
    let mut out = json!({});
    if !cause.reason.is_empty() {
        out["reason"] = Value::from(cause.reason);
    }
    out["message"] = Value::from(cause.message.as_str());
    if !cause.field.is_empty() {
        out["field"] = Value::from(cause.field.as_str());
    }
    out
}

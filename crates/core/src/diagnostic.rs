//! Findings about objects.

use crate::objects::ObjectKey;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing; everything asked for is done.
    Info,
    /// Something asked for is done differently, or not at all, without harm to traffic.
    Warning,
    /// A part of the object does not work.
    Error,
}

/// A finding about one field of one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Diagnostic {
    pub object: ObjectKey,
    /// Path inside the object, as `kubectl explain` would take it with indices (`spec.rules[0].backendRefs[1]`).
    pub field: String,
    /// One word; the reason of the condition that says the same, where there is one.
    pub reason: &'static str,
    pub message: String,
    pub severity: Severity,
}

//! Custom resource definitions: what they say is what is served.
use std::sync::Arc;

use serde_json::Value;

use crate::registry::Registry;
use crate::rest::{Api, Call};
use crate::store::Stored;

/// The registry as it must be once this write is committed; `None` when it stays as it is.
pub(crate) fn registry_after(
    _api: &Api,
    _call: &Call,
    _old: Option<&Value>,
    _new: Option<&Value>,
) -> Option<Registry> {
    None
}

/// What follows from a write that is committed.
pub(crate) fn after_write(_api: &Api, _call: &Call, _stored: &Arc<Stored>, _gone: bool) {}

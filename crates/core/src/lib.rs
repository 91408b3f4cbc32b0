//! Pure translation: objects to resources, statuses and diagnostics.
//!
//! Owns [`Objects`] (what is known of the cluster, indexed and cheap to clone), [`Translator`] (pure functions per
//! object, memoised with what they read) and the meaning of the Gateway API's conditions.
//!
//! Invariants: no I/O, no clock, no environment, no randomness, no panic on any object; the same objects give the same
//! bytes in whatever order they came; an incremental result equals a full one; a bad part becomes a diagnostic and a
//! truthful condition, and nothing else is disturbed.
//!
//! Deliberately absent: times (the status writer merges `lastTransitionTime`), sequence numbers, anything compiled.

pub mod diagnostic;
pub mod objects;
pub mod output;
mod status;
pub mod translate;

pub use diagnostic::{Diagnostic, Severity};
pub use objects::{AddressProblem, Addresses, Kind, Mark, Object, ObjectKey, Objects, Unreadable};
pub use output::{ClassKind, GatewayNeed, Output, RequestedAddress, Status};
pub use translate::{
    Channel, FEATURES, MaterialCheck, ReservedPort, TranslateConfig, Translator, supported_features,
};

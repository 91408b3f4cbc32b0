//! The four ways to change an object: JSON patch, merge patch, strategic merge patch, server-side apply.
//!
//! Invariants: the target is never changed in place, so a failed patch leaves nothing behind.
//!
//! Deliberately absent: validation of the result; that is [`crate::Structural::admit`].

pub mod apply;
mod fields;
pub mod json;
pub mod merge;
pub mod strategic;
mod typed;

/// A patch that cannot be applied. The kinds become 400 BadRequest and 422 Invalid answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// 400: the patch itself is malformed.
    #[error("{0}")]
    Malformed(String),
    /// 422: the patch is well-formed and does not fit this object.
    #[error("{0}")]
    DoesNotFit(String),
}

//! What an API server does to one object, pure: validate, default, prune, CEL rules, and the four patches.
//!
//! Owns: structural schemas ([`structural`]), rules and admission policies in CEL ([`cel`]), JSON, merge, strategic and
//! apply patches with field ownership ([`patch`]), the CRDs that Weir brings ([`crds`]) and the schemas of the built-in
//! kinds ([`builtin`]).
//!
//! Invariants: no I/O, clock or randomness (times are passed in); no input makes a function of this crate panic; equal
//! input gives equal bytes.
//!
//! Deliberately absent: storage, requests, several objects at once, and everything that needs to know who asks.

pub mod builtin;
pub mod cel;
pub mod crds;
mod field;
pub mod patch;
pub mod structural;

pub use field::{FieldError, FieldErrorKind};
pub use structural::{AdmitError, CompileError, FieldValidation, Structural};

//! What an API server does to one object, from the outside.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails where it stands"
)]

mod admit;
mod apply;
mod bundle_rules;
mod guides;
mod limits;
mod policy;
mod properties;
mod schemas;
mod strategic;
mod typed;

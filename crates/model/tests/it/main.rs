//! The promises of `weir-model`, each by name.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod apply;
mod build;
mod cost;
mod explain;
mod garbage;
mod random;
mod select;
mod split;
mod world;

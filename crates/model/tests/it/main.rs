//! The promises of `weir-model`, each by name.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod apply;
mod build;
mod cost;
mod explain;
mod fields;
mod filter;
mod garbage;
mod l4;
mod limits;
mod parameters;
mod random;
mod scan;
mod select;
mod split;
mod tls;
mod world;

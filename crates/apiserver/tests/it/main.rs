//! The crate's integration tests, one binary.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test may fail by panicking; clippy sees tests only in #[test]"
)]

mod access;
mod cli;
mod controllers;
mod definitions;
mod loader;
mod pods;
mod reads;
mod replace;
mod sandbox;
mod watches;
mod writes;

//! The crate's integration tests, one binary.

mod controllers;
mod loader;
mod sandbox;

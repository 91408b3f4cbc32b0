//! The crate's integration tests, one binary.

mod controllers;
mod loader;
mod pods;
mod sandbox;

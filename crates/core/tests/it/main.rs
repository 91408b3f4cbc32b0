//! What translation promises, checked from outside.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test may fail by panicking; clippy sees tests only in #[test]"
)]

mod bad_input;
mod cost;
mod decisions;
mod golden;
mod material;
mod oracle;
mod parameters;
mod presence;
mod property;
mod rebirth;
mod render;
mod serial;
mod territory;
mod world;

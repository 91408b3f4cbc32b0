//! What the codec promises, held against examples, a corpus and random bytes.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

mod bodies;
mod corpus;
mod heads;
mod oracle;
mod properties;
mod rewriting;

//! What the codec promises, held against examples, a corpus and random bytes.

mod bodies;
mod corpus;
mod heads;
mod oracle;
mod properties;
mod rewriting;

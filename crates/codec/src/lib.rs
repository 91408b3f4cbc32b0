//! HTTP/1 without I/O: heads, framing, header rewriting.
//!
//! Owns: what a request or response head is ([`head`]), which fields it has and what they mean to a gateway
//! ([`field`]), where a message ends ([`body`]), and which bytes go to the next hop ([`rewrite`]).
//!
//! Invariants: no I/O, no clock, no randomness, no panic on any bytes; nothing is allocated except in buffers
//! that the caller hands in; what is ambiguous under RFC 9112 is refused and never repaired.
//!
//! Deliberately absent: routing, time-outs, connection state, HTTP/2.

pub mod body;
pub mod date;
pub mod field;
pub mod head;
pub mod rewrite;
mod syntax;
pub mod target;

//! HTTP towards clients and endpoints.
//!
//! Requests of both versions take one way: [`h1`] decides about heads and moves bodies; [`h2`] makes a stream look like a
//! connection that carries one HTTP/1.1 exchange, on either side.

pub(crate) mod h1;
pub(crate) mod h2;

//! HTTP towards clients and endpoints.

pub(crate) mod h1;

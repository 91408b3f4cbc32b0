//! The snapshot and its meaning: resources, compiled tables, selection, split. Pure.
//!
//! Everything here is a function of what it is given: no I/O, no clock, no environment, no randomness (a seed is passed
//! in), no panic. Given the same resources in any order the tables are the same.
//!
//! | module | owns |
//! |---|---|
//! | [`resource`] | the messages: the one form in memory, on the wire and on disk |
//! | [`table`] | [`table::Snapshot`]: resources compiled to persistent tables, changed by small updates |
//! | [`select`] | one request to one rule, and why |
//! | [`explain`] | the same selection, told |
//! | [`split`] | one ticket to one backend |
//! | [`filter`] | filters, checked and ready |
//! | [`cors`] | what is said to browsers about sharing |
//! | [`budget`] | how much of a backend's traffic may be retries |
//! | [`retry`], [`session`] | tries after the first; whom requests stay with |
//! | [`rewrite`] | paths, locations and headers as filters change them |
//! | [`path`], [`hostname`] | normal forms and their comparison |
//! | [`limits`] | every bound and time-out, with unit, default, range, field and source |
//! | [`network`] | which peers are meant |
//! | [`references`] | which resources a resource needs |
//! | [`wire`] | what controllers and data planes say to each other |

pub mod budget;
mod bytemap;
pub mod cors;
pub mod explain;
pub mod filter;
pub mod hostname;
pub mod limits;
pub mod network;
pub mod path;
pub mod references;
pub mod resource;
pub mod retry;
pub mod rewrite;
pub mod select;
pub mod session;
pub mod split;
pub mod table;
pub mod wire;

//! The snapshot and its meaning: resources, compiled tables, selection, split. Pure.

pub mod resource;

//! The promises of `weir-model`, each by name.

mod apply;
mod build;
mod explain;
mod random;
mod select;
mod split;
mod world;

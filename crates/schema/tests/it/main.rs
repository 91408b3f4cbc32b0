//! What an API server does to one object, from the outside.

mod admit;
mod apply;
mod guides;
mod policy;
mod properties;
mod schemas;
mod strategic;

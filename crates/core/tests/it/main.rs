//! What translation promises, checked from outside.

mod cost;
mod golden;
mod presence;
mod property;
mod render;
mod serial;
mod world;

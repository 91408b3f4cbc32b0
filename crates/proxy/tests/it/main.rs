//! The data plane on real sockets, against origins that answer byte for byte what a test says.

mod guards;
mod harness;
mod messages;
mod refusals;
mod upgrades;

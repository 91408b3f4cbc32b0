//! The binary as its users meet it: real processes, the real `kubectl` and `curl`, real sockets.
//!
//! Modules named `acceptance_*` hold what the guides and the README promise; `cargo xtask acceptance` runs them alone.

#![expect(clippy::expect_used, reason = "a test that cannot go on says why and ends")]
#![expect(clippy::print_stdout, reason = "shown with a test that failed")]

mod acceptance_crds;
mod acceptance_demo;
mod acceptance_exact;
mod acceptance_files;
mod acceptance_kic;
mod acceptance_kubectl;
mod acceptance_live;
mod acceptance_operator;
mod acceptance_parameters;
mod acceptance_ports;
mod acceptance_simple_apps;
mod acceptance_together;
mod acceptance_wrong;
mod check;
mod cluster;
mod control;
mod echo_basic;
mod harness;
mod plane;
mod plane_caretaker;
mod plane_places;
mod rights;
mod snapshot;

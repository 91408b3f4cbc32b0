//! `weir`: a Kubernetes Gateway API gateway in one binary.
//!
//! Owns the command line and the wiring of the rooms. Deliberately absent: anything a room could do itself.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program speaks on its streams"
)]

mod address;
mod admin;
mod check;
mod cli;
mod client;
mod controller;
mod demo;
mod files;
mod plane;
mod process;
mod sandbox;
mod serve;
mod snapshot;
mod split;
mod status;
mod validate;
mod wire;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let command_line = cli::CommandLine::parse();
    // A controller's log is read by nobody who is there when things happen.
    let usual = if matches!(command_line.command, cli::Command::Controller(_)) { "info" } else { "warn" };
    process::start_logging(command_line.log.as_deref().unwrap_or(usual));
    match run(command_line.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weir: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: cli::Command) -> anyhow::Result<ExitCode> {
    match command {
        cli::Command::Demo(options) => demo::run(&options),
        cli::Command::Sandbox(options) => sandbox::run(&options),
        cli::Command::Serve(options) => serve::run(&options),
        cli::Command::Controller(options) => controller::run(&options),
        cli::Command::Proxy(options) => plane::run(&options),
        cli::Command::Validate(options) => validate::run(&options),
        cli::Command::Status(options) => status::run(&options),
        cli::Command::Split(options) => split::run(&options),
        cli::Command::Snapshot(options) => snapshot::run(&options),
        cli::Command::Check(options) => check::run(&options),
    }
}

//! `cargo xtask bench`: what Weir costs beside nginx and HAProxy in the same run, and how fast an edit takes effect.
//!
//! Owns the method: who runs on which core, what each proxy is asked to do, what is counted and how it is judged.
//! Invariants: rounds are interleaved, so that a noisy minute hits everybody; figures are medians; no claim compares
//! numbers of two runs. Everything listens on loopback, lasts a bounded time, and is ended by its own process id.
//! Deliberately absent: any measurement across machines, and any default that only Weir gets.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool reports on its output streams"
)]

mod backend;
mod client;
mod edit;
mod load;
mod objects;
mod peers;
mod programs;
mod report;
mod running;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};

use crate::report::Report;

#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    about = "CPU per request beside nginx and HAProxy; edit-to-effect latency"
)]
struct Cli {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum What {
    /// CPU per request and latency over HTTP/1.1, interleaved with the peers.
    H1,
    /// From the patch of a route to the first answer that shows it; then edits under load.
    Edit,
    /// The backend of the measurements; started by the others.
    #[command(hide = true)]
    Backend,
}

#[derive(Args)]
struct Options {
    /// Interleaved rounds of each case.
    #[arg(long, default_value_t = 7, global = true, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Seconds of each turn of a proxy.
    #[arg(long, default_value_t = 1, global = true, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "", global = true)]
    only: String,
    /// Edits whose effect is timed, and as many again under load.
    #[arg(long, default_value_t = 1_000, global = true, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    edits: u32,
    /// Other routes that are there while one is edited.
    #[arg(long, default_value_t = 100, global = true, value_parser = clap::value_parser!(u32).range(0..=40_000))]
    routes: u32,
    /// A missed target is a failure.
    #[arg(long, global = true)]
    gate: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    if matches!(cli.what, Some(What::Backend)) {
        return backend::run();
    }
    let cores = std::thread::available_parallelism()?.get();
    ensure!(cores >= 2, "one core for the proxy and one for the load: this needs two, and there is {cores}");
    let mut report = Report::new()?;
    if matches!(cli.what, None | Some(What::H1)) {
        load::run(&cli.options, &mut report)?;
    }
    if matches!(cli.what, None | Some(What::Edit)) {
        edit::run(&cli.options, &mut report)?;
    }
    print!("{}", report.markdown());
    let missed = report.missed();
    ensure!(!cli.options.gate || missed.is_empty(), "missed: {}", missed.join("; "));
    Ok(())
}

//! `cargo xtask`: everything a developer or a CI machine does with this repository beside `cargo build`.
//!
//! Owns the order of the checks, what each one prints, and the rule that nothing is left out in silence: what this
//! machine cannot run is a `left out:` line, and with `--strict` a failure.
//! Deliberately absent: anything that the product needs at run time, and any state outside the target directory.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool reports on its output streams"
)]

mod api;
mod builtin;
mod check;
mod clients;
mod cluster;
mod conformance;
mod crds;
mod deploy;
mod e2e;
mod fuzz;
mod image;
mod kinds;
mod step;
mod test;
mod upstream;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Checks, tests, generated files and benches of this repository")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Format, lints, checks, every test and the acceptance of the guides; stops at the first failure.
    Test(test::Options),
    /// Only the acceptance tests (the guides, the exactness matrix, wrong input), with real kubectl and curl.
    Acceptance(test::AcceptanceOptions),
    /// What the compiler does not look at: arrows between rooms, unsafe code, names, sizes, links, generated files.
    Check(check::Options),
    /// Makes generated files anew.
    Codegen {
        #[command(subcommand)]
        what: Codegen,
    },
    /// The official conformance suite against a sandbox of its own: a table for each profile.
    Conformance(conformance::Options),
    /// Clients that others have written through a sandbox: h2spec, grpc-go, WebSockets and Autobahn's suite, DNS, curl.
    Clients(clients::Options),
    /// Runs the fuzz targets, each for a bounded time.
    Fuzz(fuzz::Options),
    /// The chart and the guides in a real cluster, by kubectl, helm and curl.
    E2e(e2e::Options),
    /// The container image as an OCI archive: one static program, made without a container engine.
    Image(image::Options),
    /// CPU per request and latency beside nginx and HAProxy; the arguments are those of `weir-bench`.
    #[command(disable_help_flag = true)]
    Bench {
        /// Handed on as they are; `cargo xtask bench --help` shows them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(Subcommand)]
enum Codegen {
    /// Schemas and discovery of the built-in kinds, from the cluster of the current kubeconfig.
    Builtin,
    /// The embedded CRDs, from the published bundles, and the types that are made from them.
    Crds,
    /// The types of Gateway API in `crates/api`, from the embedded CRDs.
    Api,
    /// The CRDs of Weir's own kinds and their documentation, from the table of limits.
    Kinds,
    /// The plain YAML of an installation, from the Helm chart (needs helm).
    Deploy,
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not a returned error: its backtrace would hide the line that matters.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<()> {
    let root = repository_root()?;
    match task {
        Task::Test(options) => test::run(&root, options),
        Task::Acceptance(options) => test::acceptance(&root, options),
        Task::Check(options) => check::run(&root, options),
        Task::Codegen { what: Codegen::Builtin } => builtin::generate(&root),
        Task::Codegen { what: Codegen::Crds } => {
            crds::generate(&root, &upstream::crds(&root)?, false)?;
            api::generate(&root, false)
        }
        Task::Codegen { what: Codegen::Api } => api::generate(&root, false),
        Task::Codegen { what: Codegen::Kinds } => kinds::generate(&root, false),
        Task::Codegen { what: Codegen::Deploy } => deploy::generate(&root, false),
        Task::Conformance(options) => conformance::run(&root, options),
        Task::Clients(options) => clients::run(&root, options),
        Task::Fuzz(options) => fuzz::run(&root, options),
        Task::E2e(options) => e2e::run(&root, options),
        Task::Image(options) => image::run(&root, options).map(drop),
        Task::Bench { arguments } => bench(&root, arguments),
    }
}

/// The directory of the workspace manifest: the parent of this package.
fn repository_root() -> Result<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(package.parent().context("the xtask package has no parent directory")?.to_owned())
}

/// Builds the binary and the bench in release form and runs the bench.
fn bench(root: &Path, arguments: &[String]) -> Result<()> {
    let build = ["build", "--release", "--package", "weir", "--package", "weir-bench"];
    step::run("build", step::cargo(root).args(build))?;
    let run = ["run", "--quiet", "--release", "--package", "weir-bench", "--"];
    step::run("bench", step::cargo(root).args(run).args(arguments))?;
    Ok(())
}

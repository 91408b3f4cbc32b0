//! `cargo xtask check`: the rules of this repository that a compiler does not hold.
//!
//! Owns the list of checks and what a finding looks like: file, line where there is one, what is wrong, what to do.
//! All checks run before the task fails, so one run shows everything.

mod arrows;
mod documents;
mod generated;
mod purity;
mod reports;
mod shape;
mod sources;
mod supply;
mod unsafe_code;
mod words;

use std::path::Path;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::step::LEFT_OUT;
use sources::Sources;

#[derive(Args, Default)]
pub(crate) struct Options {
    /// Also what takes minutes or needs an extra tool: `cargo deny` with its advisory database.
    #[arg(long)]
    long: bool,
    /// What this machine cannot run is a failure, not a `left out:` line.
    #[arg(long)]
    strict: bool,
}

/// What the checks found.
#[derive(Default)]
pub(crate) struct Report {
    findings: Vec<String>,
    left_out: Vec<String>,
}

impl Report {
    fn finding(&mut self, text: impl Into<String>) {
        self.findings.push(text.into());
    }

    fn left_out(&mut self, text: impl Into<String>) {
        self.left_out.push(text.into());
    }
}

/// Everything that a check looks at.
struct Context<'a> {
    root: &'a Path,
    sources: Sources,
    options: &'a Options,
}

type Check = fn(&Context<'_>, &mut Report) -> Result<()>;

const CHECKS: &[(&str, Check)] = &[
    ("arrows between rooms", arrows::check),
    ("pure rooms stay pure", purity::check),
    ("unsafe code is listed", unsafe_code::check),
    ("words and paths", words::check),
    ("names and sizes", shape::check),
    ("documents and links", documents::check),
    ("dependencies", supply::check),
    ("generated files", generated::check),
    ("conformance reports", reports::check),
];

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let left_out = run_all(root, options)?;
    ensure!(!options.strict || left_out.is_empty(), "{} left out, a failure with --strict", left_out.len());
    Ok(())
}

/// Runs every check; returns what was left out.
pub(crate) fn run_all(root: &Path, options: &Options) -> Result<Vec<String>> {
    let context = Context { root, sources: Sources::read(root)?, options };
    let mut left_out = Vec::new();
    let mut wrong = 0;
    for (name, check) in CHECKS {
        let mut report = Report::default();
        check(&context, &mut report)?;
        let state = if report.findings.is_empty() { "ok" } else { "WRONG" };
        println!("==> check {name}: {state}");
        for finding in &report.findings {
            println!("    {finding}");
        }
        for what in &report.left_out {
            println!("    {LEFT_OUT}{what}");
        }
        wrong += report.findings.len();
        left_out.append(&mut report.left_out);
    }
    if wrong > 0 {
        bail!("{wrong} finding(s); run it again with\n    cargo xtask check");
    }
    Ok(left_out)
}

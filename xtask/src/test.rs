//! `cargo xtask test` and `cargo xtask acceptance`: what has to hold before a change is good.
//!
//! Owns the order (cheap first), the summary at the end, and the prerequisites: without `kubectl` or `curl` the task
//! fails at once and names the remedy, because the acceptance of the guides is half of its worth.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::step::{self, LEFT_OUT};
use crate::{check, upstream};

#[derive(Args)]
pub(crate) struct Options {
    /// What this machine cannot run is a failure, not a `left out:` line.
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Args)]
pub(crate) struct AcceptanceOptions {
    /// What this machine cannot run is a failure, not a `left out:` line.
    #[arg(long)]
    strict: bool,
    /// Only tests whose name contains this.
    #[arg(default_value = "acceptance")]
    filter: String,
}

/// Format, lints, checks and every test, in that order.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let started = Instant::now();
    prerequisites()?;
    let mut summary = Summary::default();
    summary.step("format", step::run("format", step::cargo(root).args(["fmt", "--all", "--check"]))?);
    let checked = Instant::now();
    let left_out = check::run_all(root, &check::Options::default())?;
    summary.step("checks", checked.elapsed());
    summary.left_out.extend(left_out);
    let lints = ["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"];
    summary.step("lints", step::run("lints", step::cargo(root).args(lints))?);
    let took = tests(root, &["test", "--workspace", "--locked", "--no-fail-fast"], &mut summary)?;
    summary.step("tests", took);
    summary.print(started.elapsed(), options.strict)
}

/// The acceptance tests alone.
pub(crate) fn acceptance(root: &Path, options: &AcceptanceOptions) -> Result<()> {
    let started = Instant::now();
    prerequisites()?;
    let mut summary = Summary::default();
    let arguments = ["test", "--package", "weir", "--test", "it", "--locked", &options.filter];
    let took = tests(root, &arguments, &mut summary)?;
    summary.step("acceptance", took);
    summary.print(started.elapsed(), options.strict)
}

fn prerequisites() -> Result<()> {
    if !step::is_installed("kubectl", &["version", "--client"]) {
        bail!(
            "kubectl is missing: the acceptance of the guides runs with the real one. Install a release from 1.27 on, \
             for example by https://kubernetes.io/docs/tasks/tools/, and run this again"
        );
    }
    if !step::is_installed("curl", &["--version"]) {
        bail!(
            "curl is missing: the acceptance of the guides runs with the real one (Debian: apt-get install curl)"
        );
    }
    Ok(())
}

fn tests(root: &Path, arguments: &[&str], summary: &mut Summary) -> Result<Duration> {
    let mut command = step::cargo(root);
    command.args(arguments);
    if let Ok(crds) = upstream::crds(root) {
        command.env(upstream::VARIABLE, crds);
    }
    let result = step::watch("tests", &mut command, |line| summary.see(line));
    if result.is_err() {
        summary.print_suites();
    }
    result
}

#[derive(Default)]
struct Summary {
    steps: Vec<(String, Duration)>,
    left_out: Vec<String>,
    /// Tests that say themselves why they do not run with the others.
    ignored: Vec<String>,
    /// The test binary whose result is awaited.
    suite: String,
    suites: Vec<String>,
}

impl Summary {
    fn step(&mut self, name: &str, took: Duration) {
        self.steps.push((name.to_owned(), took));
    }

    /// Looks at one line of `cargo test`.
    fn see(&mut self, line: &str) {
        let line = line.trim();
        // A test's announcement may follow libtest's unfinished `test name ... ` on one line.
        if let Some(at) = line.find(LEFT_OUT) {
            self.left_out.push(line[at + LEFT_OUT.len()..].to_owned());
        } else if let Some((name, reason)) = ignored(line) {
            match reason {
                Some(reason) => self.ignored.push(format!("{name}: {reason}")),
                None => self.left_out.push(format!("{name}: ignored without a reason")),
            }
        } else if let Some(suite) = line.strip_prefix("Running ").or_else(|| line.strip_prefix("Doc-tests "))
        {
            self.suite = suite.split(" (").next().unwrap_or(suite).to_owned();
            if let Some((_, binary)) = line.rsplit_once('/') {
                let package = binary.rsplit_once('-').map_or(binary, |(name, _)| name);
                self.suite = format!("{package} {}", self.suite);
            }
        } else if line.starts_with("test result: ") {
            self.suites.push(format!("{line} ({})", self.suite));
        }
    }

    fn print_suites(&self) {
        println!();
        for suite in &self.suites {
            println!("{suite}");
        }
    }

    /// The summary; the results of the test binaries are the last lines.
    fn print(mut self, total: Duration, strict: bool) -> Result<()> {
        println!();
        for (name, took) in &self.steps {
            println!("{name:<12} ok {:>8.1} s", took.as_secs_f64());
        }
        println!("{:<12} ok {:>8.1} s", "all", total.as_secs_f64());
        self.left_out.sort();
        self.left_out.dedup();
        for what in &self.ignored {
            println!("ignored: {what}");
        }
        for what in &self.left_out {
            println!("{LEFT_OUT}{what}");
        }
        self.print_suites();
        if strict && !self.left_out.is_empty() {
            bail!("{} left out, and --strict counts that as a failure", self.left_out.len());
        }
        Ok(())
    }
}

/// Name and reason of a test that libtest says it ignored.
fn ignored(line: &str) -> Option<(&str, Option<&str>)> {
    let (name, state) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
    Some((name, state.strip_prefix(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_kept_with_their_binary_and_announcements_are_found_inside_a_line() {
        let mut summary = Summary::default();
        summary.see("     Running unittests src/lib.rs (target/debug/deps/weir_model-0a1b2c)");
        summary.see("test result: ok. 3 passed; 0 failed; 0 ignored");
        summary.see("test x ... left out: older CRDs: none here");
        summary.see("test cost::edits ... ignored, prints times");
        assert_eq!(summary.ignored, ["cost::edits: prints times"]);
        assert_eq!(
            summary.suites,
            ["test result: ok. 3 passed; 0 failed; 0 ignored (weir_model unittests src/lib.rs)"]
        );
        assert_eq!(summary.left_out, ["older CRDs: none here"]);
        summary.see("test half::done ... ignored");
        assert_eq!(summary.left_out.len(), 2);
        assert!(summary.print(Duration::ZERO, true).is_err());
    }
}

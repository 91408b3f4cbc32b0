//! `cargo xtask fuzz`: every fuzz target of every room, each for the same bounded time.
//!
//! Owns the search for targets (`crates/*/fuzz`) and the announcement where `cargo-fuzz` or a nightly compiler is
//! missing. Without them the committed corpora are still replayed by the rooms' own tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::step::{self, LEFT_OUT};

#[derive(Args)]
pub(crate) struct Options {
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// A missing tool is a failure, not a `left out:` line.
    #[arg(long)]
    strict: bool,
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    if let Some(missing) = missing() {
        ensure!(!options.strict, "{missing}");
        println!("{LEFT_OUT}fuzz targets: {missing}");
        return Ok(());
    }
    let mut targets = 0;
    for room in fuzzed_rooms(root)? {
        for target in target_names(&room)? {
            // One process, one thread: the machine may be small, and a found crash must be reproducible.
            let limit = format!("-max_total_time={}", options.seconds);
            let arguments =
                ["+nightly", "fuzz", "run", &target, "--", &limit, "-max_len=65536", "-timeout=10"];
            step::run(&format!("fuzz {target}"), Command::new("cargo").current_dir(&room).args(arguments))?;
            targets += 1;
        }
    }
    ensure!(targets > 0, "no fuzz target under crates/*/fuzz");
    Ok(())
}

fn missing() -> Option<&'static str> {
    if !step::is_installed("cargo", &["+nightly", "--version"]) {
        Some("no nightly compiler (rustup toolchain install nightly --profile minimal)")
    } else if !step::is_installed("cargo", &["+nightly", "fuzz", "--version"]) {
        Some("no cargo-fuzz (cargo install cargo-fuzz --locked)")
    } else {
        None
    }
}

fn fuzzed_rooms(root: &Path) -> Result<Vec<PathBuf>> {
    let mut rooms = Vec::new();
    for entry in fs::read_dir(root.join("crates"))? {
        let room = entry?.path();
        if room.join("fuzz/Cargo.toml").is_file() {
            rooms.push(room);
        }
    }
    rooms.sort();
    Ok(rooms)
}

fn target_names(room: &Path) -> Result<Vec<String>> {
    let output = Command::new("cargo")
        .args(["+nightly", "fuzz", "list"])
        .current_dir(room)
        .stdin(Stdio::null())
        .output()
        .context("cargo fuzz list did not start")?;
    if !output.status.success() {
        bail!("cargo fuzz list: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

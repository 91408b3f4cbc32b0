//! `xtask codegen api`: the types of Gateway API, from the embedded CRDs.
//!
//! Owns `crates/api/src/gateway_api`, whole: a file for each kind, one for the types of several kinds, and the facts about
//! the kinds. The CRDs under `crates/schema/crds` are the only input, so a new release is taken up by `xtask codegen crds`
//! and this. Deliberately absent: descriptions (none are in the input), validation, and what has no schema of its own
//! (metadata, conditions, selectors: written by hand in the room).

mod facts;
mod names;
mod render;
mod shape;
mod words;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

const INPUT: &str = "crates/schema/crds";
const OUTPUT: &str = "crates/api/src/gateway_api";

/// Writes the types, or, with `check`, says which files are not what would be written.
pub(crate) fn generate(root: &Path, check: bool) -> Result<()> {
    let model = shape::Model::read(&root.join(INPUT))?;
    let mut wanted = BTreeMap::new();
    for (name, text) in render::files(model)? {
        let text = formatted(root, &text).with_context(|| name.clone())?;
        wanted.insert(name, text);
    }
    let directory = root.join(OUTPUT);
    let stale = crate::crds::differences(&directory, &wanted)?;
    if !check {
        crate::crds::write(&directory, &wanted)?;
    } else if !stale.is_empty() {
        bail!("types differ from the CRDs that they are made from: {}", stale.join(", "));
    }
    Ok(())
}

/// The files of a directory with this extension, by name.
fn sorted_files(directory: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The text as `cargo fmt` leaves it.
pub(crate) fn formatted(root: &Path, text: &str) -> Result<String> {
    let mut child = Command::new("rustfmt")
        .args(["--edition", "2024", "--config-path"])
        .arg(root.join("rustfmt.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("rustfmt did not start")?;
    let mut input = child.stdin.take().context("rustfmt without an input")?;
    let text = text.to_owned();
    // Beside the reading below, so that neither waits for the other on a full pipe.
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "rustfmt ended with {}", output.status);
    match writer.join() {
        Ok(written) => written?,
        Err(_) => bail!("the text could not be handed to rustfmt"),
    }
    Ok(String::from_utf8(output.stdout)?)
}

//! The Go programs under `conformance/`: whether Go is there, and building them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::step;

/// What to tell who has no Go; None where it is there.
pub(crate) fn missing() -> Option<&'static str> {
    (!step::is_installed("go", &["version"])).then_some(
        "Go is missing: the conformance suite is a Go program. Install 1.26 or later (https://go.dev/dl/) and run this again",
    )
}

/// `go test -c` looks at no code beyond the compiler's rules.
pub(crate) fn vet(module: &Path) -> Result<()> {
    let name = module.file_name().unwrap_or_default().to_string_lossy();
    step::run(&format!("vet {name}"), Command::new("go").current_dir(module).args(["vet", "./..."]))?;
    Ok(())
}

/// Compiles the suite into `folder`, unless what is there is newer than its sources.
pub(super) fn build_suite(root: &Path, folder: &Path) -> Result<PathBuf> {
    let (sources, built) = (root.join("conformance"), folder.join("suite.test"));
    if !is_newer(&built, &sources)? {
        vet(&sources)?;
        let mut build = Command::new("go");
        build.current_dir(&sources).args(["test", "-c", "-o"]).arg(&built).arg(".");
        step::run("build the suite", &mut build)?;
    }
    Ok(built)
}

/// Whether `built` is there and newer than every file of `sources` itself.
fn is_newer(built: &Path, sources: &Path) -> Result<bool> {
    let Ok(built) = fs::metadata(built).and_then(|metadata| metadata.modified()) else { return Ok(false) };
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in fs::read_dir(sources).with_context(|| format!("reading {}", sources.display()))? {
        let metadata = entry?.metadata()?;
        if metadata.is_file() {
            newest = newest.max(metadata.modified()?);
        }
    }
    Ok(built > newest)
}

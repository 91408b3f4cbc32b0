//! The Go programs under `conformance/`: whether Go is there, and building them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::step;

/// The suite's module, at the release that `conformance/go.mod` pins.
const MODULE: &str = "sigs.k8s.io/gateway-api/conformance";

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

/// The program of the suite's backends, static, built from the suite's own module.
pub(super) fn build_echo(root: &Path, folder: &Path) -> Result<PathBuf> {
    let program = folder.join("echo-basic");
    let mut build = Command::new("go");
    build.current_dir(root.join("conformance")).env("CGO_ENABLED", "0");
    build.args(["build", "-trimpath", "-o"]).arg(&program).arg(format!("{MODULE}/echo-basic"));
    step::run("build echo-basic", &mut build)?;
    Ok(program)
}

/// The images that the suite's manifests name, each once.
pub(super) fn images(root: &Path) -> Result<Vec<String>> {
    let mut go = Command::new("go");
    go.current_dir(root.join("conformance")).args(["list", "-m", "-f", "{{.Dir}}", MODULE]);
    let output = go.output().context("go did not start")?;
    ensure!(output.status.success(), "go list: {}", String::from_utf8_lossy(&output.stderr));
    let module = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    let mut names = BTreeSet::new();
    for folder in ["base", "tests"].map(|name| module.join(name)) {
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") && !is_of_meshes(&path) {
                let text = fs::read_to_string(&path)?;
                let named = text
                    .lines()
                    .filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix("image:"));
                names.extend(named.map(|name| name.trim().to_owned()));
            }
        }
    }
    Ok(names.into_iter().collect())
}

fn is_of_meshes(manifest: &Path) -> bool {
    manifest.file_name().is_some_and(|name| name.to_string_lossy().starts_with("mesh"))
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

//! Where the upstream CRDs are: the published bundles that the built-in set is made from and held equal to.
//!
//! Owns the search: the directory that `WEIR_UPSTREAM_CRDS` names, else `../shared/crds` beside the repository, else
//! the Go module of the Gateway API at the pinned releases (through the `go` command, where there is one).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The variable that names a directory with `standard/`, `experimental/` and `older/v.../`.
pub(crate) const VARIABLE: &str = "WEIR_UPSTREAM_CRDS";
/// The release that the built-in set is made from.
const RELEASE: &str = "v1.6.1";
/// The releases that guides of their time tell people to apply.
const OLDER: &[&str] = &["v1.0.0", "v1.5.1"];
const MODULE: &str = "sigs.k8s.io/gateway-api";

/// A directory with `standard/`, `experimental/` and `older/v1.0.0`, `older/v1.5.1`; the error says what to do.
pub(crate) fn crds(root: &Path) -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os(VARIABLE) {
        let directory = PathBuf::from(directory);
        ensure!(
            directory.join("standard").is_dir(),
            "{VARIABLE} names {} without standard/",
            directory.display()
        );
        return directory.canonicalize().context("the directory's full path");
    }
    if let Some(beside) = root.parent().map(|parent| parent.join("shared/crds"))
        && beside.join("standard").is_dir()
    {
        return Ok(beside);
    }
    from_module(root).with_context(|| {
        format!("no upstream CRDs: set {VARIABLE}, or install Go, by which the module {MODULE} can be had")
    })
}

/// Lays the module's CRDs out under the target directory.
fn from_module(root: &Path) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let directory = root.join(target).join("upstream-crds");
    copy_bundle(RELEASE, "standard", &directory.join("standard"))?;
    copy_bundle(RELEASE, "experimental", &directory.join("experimental"))?;
    for release in OLDER {
        copy_bundle(release, "standard", &directory.join("older").join(release))?;
    }
    Ok(directory)
}

fn copy_bundle(release: &str, channel: &str, to: &Path) -> Result<()> {
    if to.is_dir() {
        return Ok(());
    }
    let from = module_directory(release)?.join("config/crd").join(channel);
    let parent = to.parent().context("a bundle without a parent directory")?;
    fs::create_dir_all(parent)?;
    // Whole or not at all: an interrupted copy must not pass for a bundle.
    let partial = to.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir(&partial)?;
    for entry in fs::read_dir(&from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        if let Some(name) = path.file_name()
            && name.to_string_lossy().starts_with("gateway.networking.")
        {
            fs::write(partial.join(name), fs::read(&path)?)?;
        }
    }
    fs::rename(&partial, to)?;
    Ok(())
}

fn module_directory(release: &str) -> Result<PathBuf> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", &format!("{MODULE}@{release}")])
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .output()
        .context("go did not start")?;
    ensure!(output.status.success(), "go mod download: {}", String::from_utf8_lossy(&output.stdout));
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    Ok(PathBuf::from(answer["Dir"].as_str().context("go mod download names no directory")?))
}

//! `cargo xtask clients`: clients that others have written, through a sandbox of their own.
//!
//! Owns: building the programs of the Go module under `clients/`, and what Autobahn's suite needs, which is Python 2.7 and a
//! package of PyPI's under the target directory. The tests say what holds. Deliberately absent: any choice among them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::conformance::go;
use crate::step::{self, LEFT_OUT};

/// The variable that names a Python 2.7.
const PYTHON: &str = "WEIR_PYTHON2";

/// The package and release of Autobahn's suite. It runs on Python 2.7 alone.
const AUTOBAHN: &str = "autobahntestsuite==25.10.1";

#[derive(Args)]
pub(crate) struct Options {
    /// What this machine cannot run is a failure, not a `left out:` line.
    #[arg(long)]
    strict: bool,
    /// All cases of Autobahn's suite: on the plain listener also those of compression and of throughput, some ten minutes.
    #[arg(long)]
    long: bool,
    /// Only the tests that this regular expression matches, as `go test -run` takes it.
    #[arg(value_name = "TEST")]
    filter: Option<String>,
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let mut left_out = Vec::new();
    if let Some(missing) = go::missing() {
        left_out.push(format!("clients of others: {missing}"));
    } else if !step::is_installed("curl", &["--version"])
        || !step::is_installed("kubectl", &["version", "--client"])
    {
        left_out.push("clients of others: curl or kubectl is missing".to_owned());
    } else {
        with_go(root, options, &mut left_out)?;
    }
    for what in &left_out {
        println!("{LEFT_OUT}{what}");
    }
    ensure!(!options.strict || left_out.is_empty(), "{} left out, a failure with --strict", left_out.len());
    Ok(())
}

fn with_go(root: &Path, options: &Options, left_out: &mut Vec<String>) -> Result<()> {
    let folder = step::target_folder(root).join("clients");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let module = root.join("clients");
    let (tests, h2spec) = (folder.join("clients.test"), folder.join("h2spec"));
    let go = |name: &str, arguments: &[&str], output: &Path, package: &str| {
        let mut command = Command::new("go");
        command.current_dir(&module).args(arguments).arg("-o").arg(output).arg(package);
        step::run(name, &mut command)
    };
    go::vet(&module)?;
    go("build the clients", &["test", "-c"], &tests, ".")?;
    go("build h2spec", &["build"], &h2spec, "github.com/summerwind/h2spec/cmd/h2spec")?;
    step::run("build weir", step::cargo(root).args(["build", "--package", "weir"]))?;
    let mut command = Command::new(&tests);
    command.args(["-test.v", "-test.timeout=90m", "-weir"]).arg(step::target_folder(root).join("debug/weir"));
    command.arg("-h2spec").arg(&h2spec);
    match autobahn(&folder) {
        Ok((python, packages)) => {
            command.arg("-autobahn").arg(python).arg("-autobahn-packages").arg(packages);
        }
        Err(error) => {
            left_out.push(format!("Autobahn's WebSocket test suite: {error:#}"));
            command.arg("-test.skip=^TestAutobahn$");
        }
    }
    if options.long {
        command.arg("-all");
    }
    if let Some(filter) = &options.filter {
        command.arg(format!("-test.run={filter}"));
    }
    let mut ended = 0;
    step::watch("clients", &mut command, |line| ended += usize::from(line.starts_with("--- ")))?;
    ensure!(ended > 0, "no test ran");
    Ok(())
}

/// A Python 2.7, and the folder with the suite's packages; the error says what to do.
fn autobahn(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let python = python2()?;
    let packages = folder.join(AUTOBAHN.replace("==", "-"));
    if !packages.is_dir() {
        // Whole or not at all: an interrupted installation must not pass for one.
        let partial = folder.join("autobahn.partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
        step::run("install Autobahn's suite", install.arg(&partial).arg(AUTOBAHN))?;
        fs::rename(&partial, &packages)?;
    }
    Ok((python, packages))
}

/// The one that the variable names, that is on the path, or that pyenv has.
fn python2() -> Result<PathBuf> {
    let named = std::env::var_os(PYTHON).map(PathBuf::from);
    let of_pyenv = pyenv_versions().into_iter().map(|version| version.join("bin/python2.7"));
    let on_path = ["python2.7", "python2"].map(PathBuf::from);
    let is_it = |python: &PathBuf| {
        let check = "import sys, pip; sys.exit(sys.version_info[:2] != (2, 7))";
        let python = python.as_os_str();
        Command::new(python).args(["-c", check]).output().is_ok_and(|output| output.status.success())
    };
    match named.into_iter().chain(on_path).chain(of_pyenv).find(is_it) {
        Some(python) => Ok(python),
        None => bail!("no Python 2.7 with pip ({PYTHON} names one; pyenv install 2.7.18)"),
    }
}

/// Where pyenv keeps interpreters that start with 2.7.
fn pyenv_versions() -> Vec<PathBuf> {
    let Ok(told) = Command::new("pyenv").arg("root").output() else { return Vec::new() };
    let root = PathBuf::from(String::from_utf8_lossy(&told.stdout).trim());
    let entries = fs::read_dir(root.join("versions")).into_iter().flatten().flatten();
    let is_it = |name: &OsString| name.to_string_lossy().starts_with("2.7");
    let mut versions: Vec<_> =
        entries.filter(|entry| is_it(&entry.file_name())).map(|entry| entry.path()).collect();
    versions.sort();
    versions
}

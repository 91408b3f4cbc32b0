//! One step of a task: a command with a name, a time and, where it fails, the line to run again.
//!
//! Owns how steps are announced. Every child gets an empty standard input; its output goes through unchanged.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Starts every announcement of something that this machine could not run.
pub(crate) const LEFT_OUT: &str = "left out: ";

/// `cargo` of the running toolchain, in the workspace.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// Where cargo puts what it builds.
pub(crate) fn target_folder(root: &Path) -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        // Relative to the directory of the caller, as cargo takes it.
        Some(folder) => std::path::absolute(&folder).unwrap_or_else(|_| folder.into()),
        None => root.join("target"),
    }
}

/// Runs a command to its end; an error names the line to run again.
pub(crate) fn run(name: &str, command: &mut Command) -> Result<Duration> {
    let line = shown(command);
    println!("==> {name}: {line}");
    let started = Instant::now();
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("{line} did not start"))?;
    let took = started.elapsed();
    if !status.success() {
        bail!("{name} failed after {:.1} s ({status}); run it again with\n    {line}", took.as_secs_f64());
    }
    println!("    {name} ok, {:.1} s", took.as_secs_f64());
    Ok(took)
}

/// Like [`run`], with both output streams passed on line by line through `see`.
pub(crate) fn watch(name: &str, command: &mut Command, mut see: impl FnMut(&str)) -> Result<Duration> {
    let line = shown(command);
    println!("==> {name}: {line}");
    let started = Instant::now();
    let (reader, writer) = std::io::pipe()?;
    let copy = writer.try_clone()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(copy)
        .spawn()
        .with_context(|| format!("{line} did not start"))?;
    // The command holds the writing ends: while it lives here the reader below would never see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    for output in BufReader::new(reader).split(b'\n') {
        let output = output?;
        let output = String::from_utf8_lossy(&output);
        println!("{output}");
        see(&output);
    }
    std::io::stdout().flush()?;
    let status = child.wait()?;
    let took = started.elapsed();
    if !status.success() {
        bail!("{name} failed after {:.1} s ({status}); run it again with\n    {line}", took.as_secs_f64());
    }
    println!("    {name} ok, {:.1} s", took.as_secs_f64());
    Ok(took)
}

/// Whether a program can be started at all.
pub(crate) fn is_installed(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The command as a person types it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut words = vec![quoted(program)];
    words.extend(command.get_args().map(quoted));
    words.join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_names_the_line_to_run_again() {
        let error = run("nothing", Command::new("sh").args(["-c", "exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c 'exit 3'") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_watched_step_sees_the_lines_of_both_streams() {
        let mut seen = Vec::new();
        let script = "echo out; echo err >&2; echo 'left out: x'";
        watch("lines", Command::new("sh").args(["-c", script]), |line| seen.push(line.to_owned())).unwrap();
        seen.sort();
        assert_eq!(seen, ["err", "left out: x", "out"]);
        assert!(watch("false", &mut Command::new("false"), |_| {}).is_err());
    }
}

//! The programs that are measured beside Weir and that make the load, as Debian packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Program and Debian package.
const NEEDED: &[(&str, &str)] =
    &[("nginx", "nginx"), ("haproxy", "haproxy"), ("wrk", "wrk"), ("taskset", "util-linux")];
/// Where they are installed; an ordinary user's `PATH` may lack the second.
const DIRECTORIES: &[&str] = &["/usr/bin", "/usr/sbin", "/bin", "/usr/local/bin", "/usr/local/sbin"];
/// While this file says 101, installing a package starts no service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// The path of an installed program.
pub(crate) fn path(program: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|directory| Path::new(directory).join(program)).find(|path| path.is_file())
}

/// Installs what is missing, as root; otherwise says what to install.
pub(crate) fn install_missing() -> Result<()> {
    let missing = NEEDED.iter().filter(|(program, _)| path(program).is_none());
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    let line = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    ensure!(is_root()?, "missing programs; as root (without starting the services): {line}");
    ensure!(
        Path::new("/usr/bin/apt-get").is_file(),
        "missing programs, and no apt-get here: {}",
        packages.join(" ")
    );
    println!("==> {line}");
    let _policy = NoServices::new()?;
    apt_get(&["update", "-qq"])?;
    apt_get(&[&["install", "-y", "-qq", "--no-install-recommends"], &packages[..]].concat())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .status()
        .context("apt-get did not start")?;
    ensure!(status.success(), "apt-get {}: {status}", arguments.join(" "));
    Ok(())
}

/// Packages of servers start them at once; this forbids it while it lives.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn new() -> Result<NoServices> {
        use std::os::unix::fs::PermissionsExt;
        if Path::new(POLICY).exists() {
            return Ok(NoServices { ours: false });
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| POLICY.to_owned())?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        Ok(NoServices { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            // Left behind it would only keep services from starting by themselves.
            let _ = fs::remove_file(POLICY);
        }
    }
}

fn is_root() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("Uid:")).context("a process has a user")?;
    Ok(line.split_whitespace().nth(2) == Some("0"))
}

/// The release binary, which `cargo xtask bench` builds beside this one.
pub(crate) fn weir() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let weir = own.parent().context("a program has a directory")?.join("weir");
    ensure!(weir.is_file(), "{} is missing: cargo build --release", weir.display());
    Ok(weir)
}

/// What a program says about its version, in one line.
pub(crate) fn version(program: &Path, flag: &str) -> Result<String> {
    let output = Command::new(program).arg(flag).stdin(Stdio::null()).output()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    match text.lines().find(|line| !line.trim().is_empty()) {
        Some(line) => Ok(line.trim().to_owned()),
        None => bail!("{} {flag} says nothing", program.display()),
    }
}

//! `core`, `schema`, `model` and `codec` do no I/O and read no clock, environment or randomness: those are passed in.
//!
//! Held in two ways: no crate that does I/O among all that they build with, and no call of the standard library's own
//! doors to the world in their product code.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};

use super::{Context, Report};
use crate::step;

const PURE_ROOMS: &[&str] = &["core", "schema", "model", "codec"];
/// Crates whose presence means sockets, runtimes or system calls.
const FORBIDDEN_CRATES: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "hyper",
    "kube",
    "kube-client",
    "notify",
    "redb",
    "rustls",
    "tracing-subscriber",
];
/// Crates that a pure room may not name itself (a dependency may have them for hashing and the like).
const FORBIDDEN_DIRECT: &[&str] = &["rand", "getrandom", "fastrand", "libc", "nix", "rustix", "chrono"];
const FORBIDDEN_CALLS: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
    "Zoned::now",
    "std::env::",
    "env::var",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "std::process::",
    "std::thread",
    "std::io::stdin",
    "println!",
    "RandomState::new",
    "Uuid::new_v4",
    "Uuid::now_v7",
];

pub(super) fn check(context: &Context<'_>, report: &mut Report) -> Result<()> {
    for room in PURE_ROOMS {
        let deep = dependencies(context, room, None)?;
        for name in deep.iter().filter(|name| FORBIDDEN_CRATES.contains(&name.as_str())) {
            report.finding(format!(
                "crates/{room}: builds with {name}, which does I/O (cargo tree -p weir-{room})"
            ));
        }
        let direct = dependencies(context, room, Some(1))?;
        for name in direct.iter().filter(|name| FORBIDDEN_DIRECT.contains(&name.as_str())) {
            report.finding(format!(
                "crates/{room}/Cargo.toml: {name} reads the outside world; pass the value in"
            ));
        }
    }
    for source in context.sources.rust() {
        let is_pure = PURE_ROOMS.iter().any(|room| source.path.starts_with(&format!("crates/{room}/src/")));
        if !is_pure {
            continue;
        }
        for (number, line) in source.product_lines() {
            if let Some(call) = FORBIDDEN_CALLS.iter().find(|call| line.contains(**call)) {
                report
                    .finding(format!("{}:{number}: `{call}` in a pure room; pass the value in", source.path));
            }
        }
    }
    Ok(())
}

/// The names of what a room is built with.
fn dependencies(context: &Context<'_>, room: &str, depth: Option<u32>) -> Result<Vec<String>> {
    let mut command = step::cargo(context.root);
    command.args(["tree", "--edges", "normal,build", "--prefix", "none", "--format", "{p}", "--package"]);
    command.arg(format!("weir-{room}"));
    if let Some(depth) = depth {
        command.args(["--depth", &depth.to_string()]);
    }
    let output = command.stdin(Stdio::null()).output().context("cargo tree did not start")?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

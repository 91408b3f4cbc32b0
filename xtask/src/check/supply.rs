//! Where code of others comes from: crates.io alone, and none of the crates that `deny.toml` bans. With `--long` also
//! `cargo deny`, which knows licences and advisories.

use std::collections::BTreeSet;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};

use super::{Context, Report};
use crate::step;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

pub(super) fn check(context: &Context<'_>, report: &mut Report) -> Result<()> {
    let read = |path: &str| std::fs::read_to_string(context.root.join(path)).with_context(|| path.to_owned());
    for line in read("Cargo.lock")?.lines() {
        if let Some(source) = line.strip_prefix("source = \"")
            && source.trim_end_matches('"') != REGISTRY
        {
            report.finding(format!("Cargo.lock: a crate from {source}; only crates.io is allowed"));
        }
    }
    let banned = banned(&read("deny.toml")?);
    ensure!(!banned.is_empty(), "deny.toml bans nothing; this check would check nothing");
    for name in built_with(context)?.intersection(&banned) {
        report.finding(format!(
            "{name} is built although deny.toml bans it (cargo tree -i {name} --target all)"
        ));
    }
    if context.options.long {
        deny(context, report);
    }
    Ok(())
}

/// The names in the `deny = [...]` list of the `[bans]` table, one `{ crate = "name", ... }` a line.
fn banned(deny: &str) -> BTreeSet<String> {
    let list = deny.split_once("\ndeny = [").map_or("", |(_, rest)| rest);
    let list = list.split_once("\n]").map_or(list, |(list, _)| list);
    let name = |line: &str| Some(line.split_once("crate = \"")?.1.split_once('"')?.0.to_owned());
    list.lines().filter_map(name).collect()
}

/// Everything that is compiled for any target: the lock file also names crates that no feature switches on.
fn built_with(context: &Context<'_>) -> Result<BTreeSet<String>> {
    let output = step::cargo(context.root)
        .args(["tree", "--workspace", "--target", "all", "--prefix", "none", "--format", "{p}"])
        .stdin(Stdio::null())
        .output()
        .context("cargo tree did not start")?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

fn deny(context: &Context<'_>, report: &mut Report) {
    if !step::is_installed("cargo-deny", &["--version"]) {
        report.left_out("cargo deny: not installed (cargo install cargo-deny --locked)");
        return;
    }
    let mut deny = |name: &str, what: &[&str]| {
        let mut command = step::cargo(context.root);
        command.args(["deny", "--all-features", "check"]).args(what);
        let mut unreachable = false;
        let result = step::watch(name, &mut command, |line| {
            unreachable |= line.contains("failed to fetch advisory database");
        });
        match result {
            Err(_) if unreachable => {
                report.left_out("advisories: RustSec's database cannot be fetched from here");
            }
            Err(error) => report.finding(error.to_string()),
            Ok(_) => {}
        }
    };
    deny("cargo deny", &["bans", "licenses", "sources"]);
    deny("cargo deny, advisories", &["advisories"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banned_names_are_read() {
        let deny = "[bans]\ndeny = [\n    { crate = \"ring\", reason = \"x\" },\n    { crate = \"openssl\" },\n]\nallow = [\n { crate = \"no\" },\n]\n";
        assert_eq!(banned(deny).into_iter().collect::<Vec<_>>(), ["openssl", "ring"]);
    }
}

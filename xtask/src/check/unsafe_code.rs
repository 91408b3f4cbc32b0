//! Who allows unsafe code. The workspace denies it; whoever allows it stands in `docs/adr/unsafe-code.md`, one line of
//! the form "- `path`: why", and whoever stands there still needs it.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Context, Report};

const LIST: &str = "docs/adr/unsafe-code.md";

pub(super) fn check(context: &Context<'_>, report: &mut Report) -> Result<()> {
    let list = context.sources.files.iter().find(|file| file.path == LIST);
    let Some(list) = list else {
        report.finding(format!("{LIST} is missing"));
        return Ok(());
    };
    let listed: BTreeSet<&str> = list.text.lines().filter_map(listed_path).collect();
    let mut allowing = BTreeSet::new();
    for source in context.sources.rust().filter(|source| !source.path.starts_with("xtask/src/check/")) {
        let allows = source.text.lines().enumerate().find(|(_, line)| allows_unsafe(line));
        if let Some((at, _)) = allows {
            allowing.insert(source.path.as_str());
            if !listed.contains(source.path.as_str()) {
                report.finding(format!(
                    "{}:{}: allows unsafe code and is not listed in {LIST}",
                    source.path,
                    at + 1
                ));
            }
            let blocks = source.text.matches("unsafe {").count();
            let reasons = source.text.matches("// SAFETY:").count();
            if reasons < blocks {
                let path = &source.path;
                report.finding(format!("{path}: {blocks} unsafe blocks and {reasons} `// SAFETY:` comments"));
            }
        }
    }
    for manifest in context.sources.files.iter().filter(|file| file.path.ends_with("Cargo.toml")) {
        // A member that does not inherit the workspace's lints would escape them all.
        let is_member = manifest.text.contains("[package]") && !manifest.text.contains("\n[workspace]");
        if is_member && !manifest.text.contains("[lints]\nworkspace = true") {
            report.finding(format!("{}: no `[lints] workspace = true`", manifest.path));
        }
    }
    for gone in listed.difference(&allowing) {
        report.finding(format!("{LIST}: {gone} allows no unsafe code (any more); take the line out"));
    }
    Ok(())
}

fn allows_unsafe(line: &str) -> bool {
    let line = line.trim_start();
    let attribute = line.starts_with("#[") || line.starts_with("#![");
    let level = line.contains("allow(") || line.contains("expect(") || line.contains("warn(");
    attribute && level && line.contains("unsafe_code")
}

fn listed_path(line: &str) -> Option<&str> {
    let (path, why) = line.strip_prefix("- `")?.split_once("`:")?;
    (!why.trim().is_empty()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowing_attribute_is_seen_and_a_listed_line_needs_a_reason() {
        assert!(allows_unsafe("    #[allow(unsafe_code)]"));
        assert!(allows_unsafe("#![expect(unsafe_code, reason = \"x\")]"));
        assert!(!allows_unsafe("// #[allow(unsafe_code)]"));
        assert!(!allows_unsafe("#![deny(unsafe_code)]"));
        assert_eq!(listed_path("- `crates/proxy/src/x.rs`: because"), Some("crates/proxy/src/x.rs"));
        assert_eq!(listed_path("- `crates/proxy/src/x.rs`:"), None);
    }
}

//! Names and sizes: no module or type whose name says nothing, no file that nobody can read at once.

use anyhow::Result;

use super::sources::Source;
use super::{Context, Report};

/// A file of more lines says why in its head: a line `//! Long because ...`.
const MAX_LINES: usize = 800;
const LONG_BECAUSE: &str = "Long because ";
const EMPTY_NAMES: &[&str] =
    &["util", "utils", "common", "helper", "helpers", "manager", "misc", "shared", "base"];

pub(super) fn check(context: &Context<'_>, report: &mut Report) -> Result<()> {
    for source in context.sources.rust().filter(|source| !source.is_generated()) {
        let lines = source.text.lines().count();
        if lines > MAX_LINES && !has_reason(source) {
            let path = &source.path;
            report.finding(format!(
                "{path}: {lines} lines; split it, or say `//! {LONG_BECAUSE}...` in its head"
            ));
        }
        if let Some(name) = empty_module_name(&source.path) {
            report
                .finding(format!("{}: a module named `{name}` says nothing about what it owns", source.path));
        }
        if !source.path.contains("/fuzz/") && !starts_with_head(source) {
            report.finding(format!(
                "{}: no module head (`//! ` what it owns and what it does not)",
                source.path
            ));
        }
        for (number, line) in source.product_lines() {
            if let Some(name) = empty_type_name(line) {
                report.finding(format!("{}:{number}: `{name}` says nothing about what it is", source.path));
            }
        }
    }
    Ok(())
}

fn has_reason(source: &Source) -> bool {
    let head = source.text.lines().take_while(|line| line.starts_with("//!") || line.is_empty());
    head.into_iter().any(|line| line.contains(LONG_BECAUSE))
}

fn starts_with_head(source: &Source) -> bool {
    source.text.starts_with("//! ")
}

/// The last part of a path that names a module: the file's stem, or its directory for `mod.rs`.
fn empty_module_name(path: &str) -> Option<&str> {
    path.trim_end_matches(".rs").split('/').find(|part| EMPTY_NAMES.contains(part))
}

fn empty_type_name(line: &str) -> Option<&str> {
    let words = line.trim_start();
    let words = words.strip_prefix("pub ").or_else(|| words.strip_prefix("pub(crate) ")).unwrap_or(words);
    let kinds = ["struct ", "enum ", "trait ", "type "];
    let rest = kinds.iter().find_map(|kind| words.strip_prefix(kind))?;
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let name = &rest[..end];
    ["Impl", "Manager", "Helper", "Utils"].iter().any(|suffix| name.ends_with(suffix)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_names_are_found() {
        assert_eq!(empty_module_name("crates/proxy/src/utils.rs"), Some("utils"));
        assert_eq!(empty_module_name("crates/proxy/src/helpers/mod.rs"), Some("helpers"));
        assert_eq!(empty_module_name("crates/proxy/src/upstream/pool.rs"), None);
        assert_eq!(empty_type_name("pub(crate) struct SplitManager<T> {"), Some("SplitManager"));
        assert_eq!(empty_type_name("    trait ProxyImpl {"), Some("ProxyImpl"));
        assert_eq!(empty_type_name("pub struct Split;"), None);
    }
}

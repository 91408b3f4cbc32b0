//! Who may depend on whom. The table is the one of `ARCHITECTURE.md`; development dependencies count too, because a
//! test that reaches across rooms ties them together as well.

use std::collections::BTreeMap;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Context, Report};
use crate::step;

/// Each package and the packages of this workspace that it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("weir-api", &[]),
    ("weir-schema", &["weir-api"]),
    ("weir-model", &[]),
    ("weir-codec", &[]),
    ("weir-core", &["weir-api", "weir-model"]),
    ("weir-proxy", &["weir-model", "weir-codec"]),
    ("weir-control", &["weir-api", "weir-schema", "weir-model", "weir-core"]),
    ("weir-apiserver", &["weir-api", "weir-schema"]),
    ("weir", &["weir-api", "weir-schema", "weir-model", "weir-proxy", "weir-control", "weir-apiserver"]),
    ("weir-bench", &[]),
    ("xtask", &["weir-model"]),
];

pub(super) fn check(context: &Context<'_>, report: &mut Report) -> Result<()> {
    let output = step::cargo(context.root)
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .stdin(Stdio::null())
        .output()
        .context("cargo metadata did not start")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    for finding in findings(&serde_json::from_slice(&output.stdout)?)? {
        report.finding(finding);
    }
    Ok(())
}

fn findings(metadata: &Value) -> Result<Vec<String>> {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut findings = Vec::new();
    for package in metadata["packages"].as_array().context("cargo metadata without packages")? {
        let name = package["name"].as_str().context("a package without a name")?;
        let Some(allowed) = allowed.get(name) else {
            findings.push(format!("{name}: a package without a line in xtask/src/check/arrows.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            let ours = dependency["path"].is_string();
            if ours && used != name && !allowed.contains(&used) {
                let kind = dependency["kind"].as_str().map_or(String::new(), |kind| format!(" ({kind})"));
                findings.push(format!("{name} -> {used}{kind}: an arrow that ARCHITECTURE.md does not have"));
            }
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_arrow_against_the_table_is_found_whatever_its_kind() {
        let metadata = json!({"packages": [
            {"name": "weir-proxy", "dependencies": [
                {"name": "weir-model", "path": "/x", "kind": null},
                {"name": "weir-control", "path": "/y", "kind": "dev"},
                {"name": "tokio", "kind": null},
            ]},
            {"name": "weir-new", "dependencies": []},
        ]});
        let findings = findings(&metadata).unwrap();
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings[0].starts_with("weir-proxy -> weir-control (dev)"));
        assert!(findings[1].starts_with("weir-new"));
    }

    #[test]
    fn the_table_has_no_circle() {
        // Every package may use only packages that stand before it, except the development ones, which use none.
        for (at, (name, used)) in ARROWS.iter().enumerate() {
            for used in *used {
                let position = ARROWS.iter().position(|(other, _)| other == used);
                assert!(position.is_some_and(|position| position < at), "{name} -> {used}");
            }
        }
    }
}

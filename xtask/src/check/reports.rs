//! The conformance reports are of runs that held: of each channel one in a sandbox and one in a real cluster; every profile in each,
//! nothing failed or skipped, and as much in a cluster as in a sandbox.
//!
//! Deliberately absent: whether today's code would have the same; a run tells that.

use std::fs;

use anyhow::Result;
use serde_json::Value;

use super::{Context, Report};

const PROFILES: usize = 5;

/// Channel and mode of each, and what makes it anew.
const KEPT: [(&str, &str, &str); 4] = [
    ("standard", "default", "--report --channel standard"),
    ("experimental", "default", "--report"),
    ("experimental", "cluster", "--report --cluster"),
    ("standard", "cluster", "--report --cluster --channel standard"),
];

pub(super) fn check(context: &Context<'_>, report: &mut Report) -> Result<()> {
    let mut all = Vec::new();
    for (channel, mode, options) in KEPT {
        let path = format!("conformance/reports/{channel}-{mode}-report.yaml");
        let text = fs::read_to_string(context.root.join(&path)).unwrap_or_default();
        let kept: Value = serde_saphyr::from_str(&text).unwrap_or_default();
        for wrong in wrong(&kept, channel, mode) {
            report.finding(format!("{path}: {wrong}; make it anew with `cargo xtask conformance {options}`"));
        }
        all.push((channel, mode, kept));
    }
    for (channel, mode, of_cluster) in all.iter().filter(|(_, mode, _)| *mode == "cluster") {
        let of_sandbox = all.iter().find(|(other, mode, _)| other == channel && *mode == "default");
        let Some((_, _, of_sandbox)) = of_sandbox else { continue };
        for wrong in unlike(of_sandbox, of_cluster) {
            report.finding(format!(
                "conformance/reports/{channel}-{mode}-report.yaml: {wrong}; make both of this channel anew"
            ));
        }
    }
    Ok(())
}

/// In which profiles two reports tell of other tests or features.
fn unlike(one: &Value, other: &Value) -> Vec<String> {
    let profiles = |report: &Value| report["profiles"].as_array().cloned().unwrap_or_default();
    let (one, other) = (profiles(one), profiles(other));
    let counted = |profile: &Value, level: &str| {
        let level = &profile[level];
        ["statistics", "supportedFeatures", "unsupportedFeatures"].map(|field| level[field].clone())
    };
    let mut wrong = Vec::new();
    for profile in &one {
        let name = &profile["name"];
        let Some(same) = other.iter().find(|same| same["name"] == *name) else {
            wrong.push(format!("it has no profile {name}"));
            continue;
        };
        for level in ["core", "extended"] {
            if counted(profile, level) != counted(same, level) {
                wrong.push(format!("{name} {level} is not what it is in the sandbox"));
            }
        }
    }
    wrong
}

fn wrong(report: &Value, channel: &str, mode: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if report["kind"] != "ConformanceReport" || report["gatewayAPIChannel"] != channel {
        wrong.push(format!("it is no report of the {channel} channel"));
    }
    if report["mode"] != mode {
        wrong.push(format!("it is no report of the mode {mode}"));
    }
    if report["date"].as_str().is_none_or(str::is_empty) {
        wrong.push("it has no date".to_owned());
    }
    let version = report["implementation"]["version"].as_str().unwrap_or_default();
    if !version.split_once('+').is_some_and(|(_, commit)| commit.chars().all(|c| c.is_ascii_hexdigit())) {
        wrong.push(format!("its version {version:?} names no commit"));
    }
    let profiles = report["profiles"].as_array().map_or(&[][..], Vec::as_slice);
    if profiles.len() != PROFILES {
        wrong.push(format!("it has {} profiles", profiles.len()));
    }
    for profile in profiles {
        for level in ["core", "extended"] {
            let counts = &profile[level]["statistics"];
            let held = profile[level]["result"] == "success"
                && counts["Failed"] == 0
                && counts["Skipped"] == 0
                && counts["Passed"].as_u64().is_some_and(|passed| passed > 0);
            if !held {
                wrong.push(format!("{} {level} did not hold", profile["name"]));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report() -> Value {
        let level = json!({ "result": "success", "statistics": { "Failed": 0, "Passed": 3, "Skipped": 0 } });
        let profile =
            |at: usize| json!({ "name": format!("GATEWAY-{at}"), "core": level, "extended": level });
        json!({
            "kind": "ConformanceReport",
            "gatewayAPIChannel": "standard",
            "mode": "default",
            "date": "2026-01-01T00:00:00Z",
            "implementation": { "version": "0.1.0+0123456789ab" },
            "profiles": (0..PROFILES).map(profile).collect::<Vec<_>>(),
        })
    }

    #[test]
    fn a_cluster_has_what_a_sandbox_has() {
        assert_eq!(unlike(&report(), &report()), [""; 0]);
        for (pointer, value) in [
            ("/profiles/2/core/statistics/Passed", json!(2)),
            (
                "/profiles/2/extended",
                json!({ "statistics": { "Failed": 0, "Passed": 3, "Skipped": 0 }, "supportedFeatures": ["a"] }),
            ),
            ("/profiles/2/name", json!("GATEWAY-Z")),
        ] {
            let mut other = report();
            *other.pointer_mut(pointer).unwrap() = value;
            assert_eq!(unlike(&report(), &other).len(), 1, "{pointer}");
        }
    }

    #[test]
    fn only_a_report_of_a_run_that_held_is_good() {
        assert_eq!(wrong(&report(), "standard", "default"), [""; 0]);
        assert_eq!(wrong(&report(), "experimental", "default").len(), 1);
        assert_eq!(wrong(&report(), "standard", "cluster").len(), 1);
        for (pointer, value) in [
            ("/date", json!("")),
            ("/implementation/version", json!("0.1.0")),
            ("/implementation/version", json!("0.1.0+0123456789ab-dirty")),
            ("/profiles/2/core/result", json!("partial")),
            ("/profiles/2/extended/statistics/Failed", json!(1)),
            ("/profiles/4/extended/statistics/Skipped", json!(1)),
            ("/profiles", json!([])),
        ] {
            let mut report = report();
            *report.pointer_mut(pointer).unwrap() = value;
            assert_eq!(wrong(&report, "standard", "default").len(), 1, "{pointer}");
        }
        assert!(!wrong(&Value::Null, "standard", "default").is_empty());
    }
}

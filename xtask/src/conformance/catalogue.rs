//! The suite's tests as the suite itself tells them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// See the module's head. Tests of service meshes are left out.
pub(super) struct Catalogue {
    pub(super) tests: Vec<Test>,
    /// Features that no gateway claims.
    pub(super) mesh_features: Vec<String>,
}

pub(super) struct Test {
    pub(super) name: String,
    features: Vec<String>,
    provisional: bool,
    parallel: bool,
    /// It needs a feature that only the experimental channel has.
    pub(super) experimental: bool,
    /// Profiles that count the test, by the suite's names.
    pub(super) profiles: BTreeMap<String, Level>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Core,
    Extended,
}

impl Catalogue {
    pub(super) fn ask(suite: &Path, folder: &Path) -> Result<Self> {
        let file = folder.join("catalogue.json");
        let status = Command::new(suite).arg(format!("-catalogue={}", file.display())).status();
        let status = status.with_context(|| format!("{} did not start", suite.display()))?;
        ensure!(status.success(), "the suite does not tell its tests ({status})");
        Self::read(&fs::read_to_string(&file)?)
    }

    fn read(text: &str) -> Result<Self> {
        let file: Value = serde_json::from_str(text)?;
        let tests = file["tests"].as_array().context("no tests in the catalogue")?;
        let tests = tests.iter().filter(|test| test["mesh"] != true).map(Test::read);
        Ok(Self { tests: tests.collect::<Result<_>>()?, mesh_features: texts(&file["meshFeatures"]) })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tests.iter().any(|test| test.name == name)
    }

    pub(super) fn print(&self) {
        for test in &self.tests {
            let profiles = test.profiles.iter().map(|(profile, level)| {
                let level = if *level == Level::Core { "core" } else { "extended" };
                format!("{} {level}", profile.trim_start_matches("GATEWAY-"))
            });
            let mut marks: Vec<String> = profiles.collect();
            marks.extend(test.provisional.then(|| "provisional".to_owned()));
            marks.extend(test.parallel.then(|| "parallel".to_owned()));
            marks.extend(test.experimental.then(|| "experimental channel".to_owned()));
            println!("{:<70} {} ({})", test.name, test.features.join(","), marks.join(", "));
        }
        println!("{} tests", self.tests.len());
    }
}

impl Test {
    fn read(test: &Value) -> Result<Self> {
        let profiles = test["profiles"].as_object().context("a test without profiles")?;
        let level = |level: &Value| if level == "core" { Level::Core } else { Level::Extended };
        Ok(Self {
            name: test["name"].as_str().context("a test without a name")?.to_owned(),
            features: texts(&test["features"]),
            provisional: test["provisional"] == true,
            parallel: test["parallel"] == true,
            experimental: test["experimental"] == true,
            profiles: profiles.iter().map(|(name, of)| (name.clone(), level(of))).collect(),
        })
    }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn small() -> Catalogue {
        Catalogue::read(
            r#"{ "meshFeatures": ["Mesh"], "tests": [
                { "name": "A", "features": ["Gateway"], "profiles": { "GATEWAY-HTTP": "core" } },
                { "name": "B", "features": ["Gateway", "X"], "parallel": true,
                  "profiles": { "GATEWAY-HTTP": "extended", "GATEWAY-TCP": "extended" } },
                { "name": "E", "features": ["Gateway", "Y"], "experimental": true,
                  "profiles": { "GATEWAY-HTTP": "extended" } },
                { "name": "M", "features": ["Mesh"], "mesh": true, "profiles": {} },
                { "name": "N", "features": ["Gateway"], "profiles": {} } ] }"#,
        )
        .unwrap()
    }

    #[test]
    fn the_catalogue_is_read_without_meshes() {
        let catalogue = small();
        let names: Vec<_> = catalogue.tests.iter().map(|test| test.name.as_str()).collect();
        assert_eq!(names, ["A", "B", "E", "N"]);
        assert_eq!(catalogue.tests[1].profiles["GATEWAY-TCP"], Level::Extended);
        assert_eq!(catalogue.mesh_features, ["Mesh"]);
    }
}

//! The embedded CRDs: the published bundles without their prose.
//!
//! Owns what is left out (descriptions, status, empty timestamps) and what stays (names, annotations, printer columns,
//! schemas with their rules and messages). The files are JSON: they are read at every start, and reading JSON is cheap.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

const CHANNELS: [&str; 2] = ["standard", "experimental"];

/// Writes `crates/schema/crds/CHANNEL/NAME.json` from the CRDs in `shared/CHANNEL` (or `shared/crds/CHANNEL`), or, with
/// `check`, says which of them are not what would be written.
pub(crate) fn generate(root: &Path, shared: &Path, check: bool) -> Result<()> {
    let nested = shared.join("crds");
    let source = if nested.is_dir() { nested } else { shared.to_owned() };
    let mut stale = Vec::new();
    for channel in CHANNELS {
        let wanted = channel_files(&source.join(channel))?;
        let directory = root.join("crates/schema/crds").join(channel);
        stale.extend(differences(&directory, &wanted)?.into_iter().map(|name| format!("{channel}/{name}")));
        if !check {
            write(&directory, &wanted)?;
        }
    }
    if check && !stale.is_empty() {
        bail!("embedded CRDs differ from {}: {}", source.display(), stale.join(", "));
    }
    Ok(())
}

/// File name to content, for every CRD of a channel.
fn channel_files(directory: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).with_context(|| path.display().to_string())?;
        for mut crd in documents {
            if crd["kind"] != "CustomResourceDefinition" {
                continue;
            }
            let plural = crd["spec"]["names"]["plural"].as_str().context("a CRD without a plural name")?;
            let group = crd["spec"]["group"].as_str().context("a CRD without a group")?;
            let name = format!("{group}_{plural}.json");
            strip(&mut crd);
            let mut content = serde_json::to_string(&crd)?;
            content.push('\n');
            files.insert(name, content);
        }
    }
    ensure!(!files.is_empty(), "no CRDs in {}", directory.display());
    Ok(files)
}

/// Names of files that are missing, differ, or should not be there.
pub(crate) fn differences(directory: &Path, wanted: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (name, content) in wanted {
        if fs::read_to_string(directory.join(name)).ok().as_ref() != Some(content) {
            names.push(name.clone());
        }
    }
    if directory.is_dir() {
        for entry in fs::read_dir(directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !wanted.contains_key(&name) {
                names.push(name);
            }
        }
    }
    Ok(names)
}

pub(crate) fn write(directory: &Path, wanted: &BTreeMap<String, String>) -> Result<()> {
    fs::create_dir_all(directory)?;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let known = path.file_name().is_some_and(|name| wanted.contains_key(name.to_string_lossy().as_ref()));
        if !known {
            fs::remove_file(&path)?;
        }
    }
    for (name, content) in wanted {
        fs::write(directory.join(name), content)?;
    }
    Ok(())
}

/// Takes the prose out of a CRD.
fn strip(crd: &mut Value) {
    if let Value::Object(fields) = crd {
        fields.shift_remove("status");
    }
    if let Some(Value::Object(metadata)) = crd.get_mut("metadata") {
        metadata.retain(|_, value| !value.is_null());
    }
    let Some(Value::Array(versions)) = crd.pointer_mut("/spec/versions") else { return };
    for version in versions {
        if let Some(Value::Array(columns)) = version.get_mut("additionalPrinterColumns") {
            for column in columns.iter_mut().filter_map(Value::as_object_mut) {
                column.shift_remove("description");
            }
        }
        if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
            strip_schema(schema);
        }
    }
}

/// Takes `description` out of a schema; a property that is called so stays.
fn strip_schema(schema: &mut Value) {
    let Value::Object(keywords) = schema else { return };
    keywords.shift_remove("description");
    for (keyword, value) in keywords {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(strip_schema),
            ("items" | "additionalProperties" | "not", value) => strip_schema(value),
            ("allOf" | "anyOf" | "oneOf", Value::Array(alternatives)) => {
                alternatives.iter_mut().for_each(strip_schema);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn descriptions_go_and_properties_of_that_name_stay() {
        let mut crd = json!({
            "metadata": {"creationTimestamp": null, "annotations": {"a": "b"}},
            "status": {"x": 1},
            "spec": {"versions": [{
                "additionalPrinterColumns": [{"name": "Age", "description": "prose"}],
                "schema": {"openAPIV3Schema": {
                    "description": "prose",
                    "properties": {
                        "description": {"type": "string", "description": "prose"},
                        "list": {"items": {"description": "prose", "anyOf": [{"description": "prose"}]}},
                    },
                }},
            }]},
        });
        strip(&mut crd);
        assert_eq!(
            crd,
            json!({
                "metadata": {"annotations": {"a": "b"}},
                "spec": {"versions": [{
                    "additionalPrinterColumns": [{"name": "Age"}],
                    "schema": {"openAPIV3Schema": {
                        "properties": {
                            "description": {"type": "string"},
                            "list": {"items": {"anyOf": [{}]}},
                        },
                    }},
                }]},
            })
        );
    }
}

//! The types that the schemas describe: every version of every kind in both channels, laid over one another.
//!
//! Owns the union. A type is what all places say that have its name: fields add up, a field is required where all
//! require it, a default counts where any has it, enumerations add up. Invariants: two places that cannot be one type
//! (a string here, a number there; two defaults) are an error that names both.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use super::names;

/// The type of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Bool,
    Int32,
    Int64,
    Map(Box<Type>),
    List(Box<Type>),
    Struct(String),
    Enumeration(String),
    /// Written by hand elsewhere in the room: metadata, selectors, conditions.
    ByHand(&'static str),
}

#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) type_: Type,
    pub(super) required: bool,
    pub(super) default: Option<Value>,
    /// Where it was first met, with its kind.
    pub(super) path: String,
    /// Constraints, as text.
    pub(super) facts: String,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Struct {
    pub(super) fields: BTreeMap<String, Field>,
    /// Where it was met, each place once.
    pub(super) paths: Vec<String>,
    pub(super) is_read: bool,
    pub(super) is_written: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Enumeration {
    pub(super) values: Vec<String>,
    pub(super) paths: Vec<String>,
}

/// A field of older releases.
pub(super) struct Extra {
    pub(super) parent: &'static str,
    pub(super) field: &'static str,
    pub(super) note: &'static str,
}

/// One version of a kind: its name, and in each channel whether it is served (`None`: not there).
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) name: String,
    pub(super) standard: Option<bool>,
    pub(super) experimental: Option<bool>,
}

#[derive(Clone, Debug)]
pub(super) struct Kind {
    pub(super) name: String,
    pub(super) plural: String,
    pub(super) group: String,
    pub(super) cluster_scoped: bool,
    pub(super) has_status: bool,
    /// Best first.
    pub(super) versions: Vec<Version>,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) kinds: BTreeMap<String, Kind>,
    pub(super) structs: BTreeMap<String, Struct>,
    pub(super) enumerations: BTreeMap<String, Enumeration>,
    /// The bundle's release, as the files say.
    pub(super) release: String,
}

impl Model {
    /// Reads `DIRECTORY/{experimental,standard}/*.json`. What is met first speaks for the documentation, so the
    /// experimental channel comes first, and in it the best version.
    pub(super) fn read(directory: &Path) -> Result<Model> {
        let mut model = Model::default();
        for channel in ["experimental", "standard"] {
            for path in super::sorted_files(&directory.join(channel), "json")? {
                let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                let crd: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
                model.add(&crd, channel).with_context(|| path.display().to_string())?;
            }
        }
        ensure!(!model.kinds.is_empty(), "no CRDs under {}", directory.display());
        for extra in names::EXTRA {
            let owner = model.structs.get_mut(extra.parent).context(extra.parent)?;
            owner.fields.entry(extra.field.to_owned()).or_insert_with(|| Field {
                type_: Type::Text,
                required: false,
                default: None,
                path: format!("{}.{}", extra.parent, extra.field),
                facts: extra.note.to_owned(),
            });
        }
        Ok(model)
    }

    fn add(&mut self, crd: &Value, channel: &str) -> Result<()> {
        let text = |pointer: &str| {
            crd.pointer(pointer)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .with_context(|| pointer.to_owned())
        };
        let name = text("/spec/names/kind")?;
        self.release = text("/metadata/annotations/gateway.networking.k8s.io~1bundle-version")?;
        let mut versions: Vec<&Value> =
            crd["spec"]["versions"].as_array().context("a CRD without versions")?.iter().collect();
        versions.sort_by_key(|version| rank(version["name"].as_str().unwrap_or_default()));
        let kind = Kind {
            name: name.clone(),
            plural: text("/spec/names/plural")?,
            group: text("/spec/group")?,
            cluster_scoped: text("/spec/scope")? == "Cluster",
            has_status: versions.iter().any(|version| version.pointer("/subresources/status").is_some()),
            versions: Vec::new(),
        };
        let kind = self.kinds.entry(name.clone()).or_insert(kind);
        for version in &versions {
            let label = version["name"].as_str().context("a version without a name")?;
            let served = version["served"].as_bool();
            let at = kind.versions.iter().position(|known| known.name == label).unwrap_or_else(|| {
                let name = label.to_owned();
                kind.versions.push(Version { name, standard: None, experimental: None });
                kind.versions.len() - 1
            });
            match channel {
                "standard" => kind.versions[at].standard = served,
                _ => kind.versions[at].experimental = served,
            }
        }
        kind.versions.sort_by_key(|version| rank(&version.name));
        for version in versions {
            let schema = version.pointer("/schema/openAPIV3Schema").context("a version without a schema")?;
            self.object(schema, &name, &name, Direction::default())?;
        }
        Ok(())
    }

    /// Adds the properties of an object schema to the type `name`.
    fn object(&mut self, schema: &Value, name: &str, path: &str, direction: Direction) -> Result<()> {
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let is_kind = name == path;
        let properties = schema["properties"].as_object().cloned().unwrap_or_default();
        let mut fields = Vec::new();
        for (field, schema) in &properties {
            if is_kind && ["apiVersion", "kind"].contains(&field.as_str()) {
                continue;
            }
            let direction = match (is_kind, field.as_str()) {
                (true, "status") => Direction::WRITTEN,
                (true, _) => Direction::READ,
                _ => direction,
            };
            let place = format!("{path}.{field}");
            let type_ = self.type_of(schema, name, field, &place, direction)?;
            let found = Field {
                type_,
                required: required.contains(&field.as_str()),
                default: schema.get("default").cloned(),
                facts: super::facts::of(schema),
                path: place,
            };
            fields.push((field.clone(), found));
        }
        let owner = self.structs.entry(name.to_owned()).or_default();
        owner.is_read |= direction.is_read;
        owner.is_written |= direction.is_written;
        if !owner.paths.iter().any(|known| known == path) {
            owner.paths.push(path.to_owned());
        }
        for (field, found) in fields {
            match owner.fields.get_mut(&field) {
                None => drop(owner.fields.insert(field, found)),
                Some(known) => merge(known, found)?,
            }
        }
        Ok(())
    }

    fn type_of(
        &mut self,
        schema: &Value,
        parent: &str,
        field: &str,
        path: &str,
        direction: Direction,
    ) -> Result<Type> {
        Ok(match schema["type"].as_str().with_context(|| format!("{path} without a type"))? {
            "string" => self.text(schema, parent, field, path),
            "boolean" => Type::Bool,
            "integer" if schema["format"] == "int32" => Type::Int32,
            "integer" => Type::Int64,
            "array" => {
                let items = self.type_of(&schema["items"], parent, field, &format!("{path}[]"), direction)?;
                Type::List(Box::new(items))
            }
            "object" => match (schema.get("additionalProperties"), schema["properties"].as_object()) {
                (Some(values), None) => {
                    let values = self.type_of(values, parent, field, &format!("{path}{{}}"), direction)?;
                    Type::Map(Box::new(values))
                }
                (None, Some(properties)) => match by_hand(properties) {
                    Some(known) => Type::ByHand(known),
                    None => {
                        let name = names::of_object(parent, field);
                        self.object(schema, &name, path, direction)?;
                        Type::Struct(name)
                    }
                },
                (None, None) if field == "metadata" => Type::ByHand("ObjectMeta"),
                _ => bail!("{path}: an object of a shape that is not known here"),
            },
            other => bail!("{path}: type {other} is not known here"),
        })
    }

    fn text(&mut self, schema: &Value, parent: &str, field: &str, path: &str) -> Type {
        let listed =
            schema["enum"].as_array().map(|values| values.iter().filter_map(Value::as_str).collect());
        let values: Option<Vec<&str>> =
            listed.or_else(|| names::open_values(parent, field).map(<[&str]>::to_vec));
        let Some(values) = values.filter(|_| !names::is_plain(parent, field)) else {
            return Type::Text;
        };
        let name = names::of_enumeration(parent, field);
        let known = self.enumerations.entry(name.clone()).or_default();
        for value in values {
            if !known.values.iter().any(|text| text == value) {
                known.values.push(value.to_owned());
            }
        }
        if !known.paths.iter().any(|text| text == path) {
            known.paths.push(path.to_owned());
        }
        Type::Enumeration(name)
    }
}

/// Whether a type is read from the API, written to it, or both.
#[derive(Clone, Copy, Default)]
struct Direction {
    is_read: bool,
    is_written: bool,
}

impl Direction {
    const READ: Direction = Direction { is_read: true, is_written: false };
    const WRITTEN: Direction = Direction { is_read: false, is_written: true };
}

fn by_hand(properties: &Map<String, Value>) -> Option<&'static str> {
    let has = |names: &[&str]| names.iter().all(|name| properties.contains_key(*name));
    if has(&["lastTransitionTime", "message", "reason", "status", "type"]) {
        Some("Condition")
    } else if properties.len() == 2 && has(&["matchExpressions", "matchLabels"]) {
        Some("LabelSelector")
    } else {
        None
    }
}

fn merge(known: &mut Field, found: Field) -> Result<()> {
    ensure!(
        known.type_ == found.type_,
        "{} is {:?} and {} is {:?}",
        known.path,
        known.type_,
        found.path,
        found.type_
    );
    match (&known.default, &found.default) {
        (Some(one), Some(other)) if one != other => {
            bail!("{} is {one} by default and {} is {other}", known.path, found.path)
        }
        (None, Some(_)) => known.default = found.default,
        _ => {}
    }
    known.required &= found.required;
    // The place that is nearest to the root is the one that people know.
    if found.path.matches('.').count() < known.path.matches('.').count() {
        known.path = found.path;
        known.facts = found.facts;
    }
    Ok(())
}

/// Orders versions as Kubernetes does: general availability, betas, alphas, the highest number first.
fn rank(version: &str) -> (u8, std::cmp::Reverse<u32>, std::cmp::Reverse<u32>) {
    let number = |text: &str| std::cmp::Reverse(text.parse().unwrap_or(0));
    let rest = version.trim_start_matches('v');
    for (stage, word) in [(1, "beta"), (2, "alpha")] {
        if let Some((major, minor)) = rest.split_once(word) {
            return (stage, number(major), number(minor));
        }
    }
    (0, number(rest), number(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn crd(kind: &str, spec: &Value) -> Value {
        json!({
            "metadata": {"annotations": {"gateway.networking.k8s.io/bundle-version": "v9"}},
            "spec": {
                "group": "g", "scope": "Namespaced", "names": {"kind": kind, "plural": "p"},
                "versions": [{"name": "v1", "served": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "properties": {"spec": spec}}}}]}})
    }

    #[test]
    fn two_schemas_of_a_type_add_up_and_contradictions_are_told() {
        let object = |fields: Value| json!({"type": "object", "required": ["a"], "properties": fields});
        let mut model = Model::default();
        model.add(&crd("Thing", &object(json!({"a": {"type": "string"}}))), "experimental").unwrap();
        let wider =
            json!({"a": {"type": "string", "default": "x"}, "b": {"type": "integer", "format": "int32"}});
        model.add(&crd("Thing", &object(wider)), "standard").unwrap();
        let spec = &model.structs["ThingSpec"];
        assert_eq!(spec.fields["a"].default, Some(json!("x")));
        assert!(spec.fields["a"].required && !spec.fields["b"].required);
        assert_eq!(spec.fields["b"].type_, Type::Int32);
        let other = crd("Thing", &object(json!({"a": {"type": "boolean"}})));
        let error = format!("{:#}", model.add(&other, "standard").unwrap_err());
        assert!(error.contains("Thing.spec.a is Text"), "{error}");
    }

    #[test]
    fn versions_are_in_the_order_of_kubernetes() {
        let mut versions = ["v1alpha2", "v1", "v1beta1", "v2", "v1alpha3"];
        versions.sort_by_key(|version| rank(version));
        assert_eq!(versions, ["v2", "v1", "v1beta1", "v1alpha3", "v1alpha2"]);
    }
}

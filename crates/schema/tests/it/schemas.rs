//! Schemas that several tests need.

use std::sync::OnceLock;

use serde_json::Value;
use weir_schema::Structural;
use weir_schema::crds::{Channel, builtin};

/// A version of a kind of the embedded CRDs; compiled once.
pub(crate) fn embedded(kind: &str, version: &str) -> Structural {
    static ALL: OnceLock<Vec<(String, String, Structural)>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let mut all = Vec::new();
        for (_, crd) in builtin(Channel::Experimental) {
            for version in crd["spec"]["versions"].as_array().unwrap() {
                all.push((
                    crd["spec"]["names"]["kind"].as_str().unwrap().to_owned(),
                    version["name"].as_str().unwrap().to_owned(),
                    Structural::compile(&version["schema"]["openAPIV3Schema"]).unwrap(),
                ));
            }
        }
        all
    });
    all.iter().find(|(k, v, _)| k == kind && v == version).map(|(.., schema)| schema.clone()).unwrap()
}

/// The schema of any kind that an object names: embedded, or built in.
pub(crate) fn of(object: &Value) -> Structural {
    let api_version = object["apiVersion"].as_str().unwrap();
    let kind = object["kind"].as_str().unwrap();
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    match weir_schema::builtin::schema_for(group, version, kind) {
        Some(schema) => schema,
        None => embedded(kind, version),
    }
}

/// YAML documents.
pub(crate) fn yaml(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

/// One YAML document.
pub(crate) fn one(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

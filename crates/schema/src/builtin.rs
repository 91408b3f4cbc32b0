//! Schemas of the built-in kinds, from the OpenAPI of a Kubernetes 1.36 API server.
//!
//! The document is read on first use and each kind is compiled when it is first asked for; nothing happens at start.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::{Map, Value};

use crate::structural::Structural;

/// OpenAPI v3 components by name, without descriptions.
pub const SCHEMAS: &str = include_str!("../builtin/schemas.json");

/// The components and where each kind's is.
struct Components {
    schemas: Map<String, Value>,
    by_kind: HashMap<(String, String, String), String>,
}

fn components() -> &'static Components {
    static COMPONENTS: OnceLock<Components> = OnceLock::new();
    COMPONENTS.get_or_init(|| {
        // The document is a part of the program and a test reads it whole.
        let schemas: Map<String, Value> = serde_json::from_str(SCHEMAS).unwrap_or_default();
        let mut by_kind = HashMap::new();
        for (name, schema) in &schemas {
            let kinds = schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array);
            for kind in kinds.into_iter().flatten() {
                let part = |key: &str| kind[key].as_str().unwrap_or_default().to_owned();
                by_kind.insert((part("group"), part("version"), part("kind")), name.clone());
            }
        }
        Components { schemas, by_kind }
    })
}

/// The name of the component that describes a kind, for example `io.k8s.api.apps.v1.Deployment`.
pub fn component_of(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    let key = (group.to_owned(), version.to_owned(), kind.to_owned());
    components().by_kind.get(&key).map(String::as_str)
}

/// The compiled schema of a built-in kind; `None` for a kind that is not built in. Compiled once and shared.
pub fn schema_for(group: &str, version: &str, kind: &str) -> Option<Structural> {
    static COMPILED: OnceLock<Mutex<HashMap<&'static str, Structural>>> = OnceLock::new();
    let name = component_of(group, version, kind)?;
    let compiled = COMPILED.get_or_init(Mutex::default);
    let mut compiled = compiled.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(schema) = compiled.get(name) {
        return Some(schema.clone());
    }
    let schema = Structural::compile_component(&components().schemas, name).ok()?;
    compiled.insert(name, schema.clone());
    Some(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_kind_compiles() {
        let components = components();
        assert!(components.by_kind.len() > 90);
        let names: std::collections::BTreeSet<&String> = components.by_kind.values().collect();
        for name in names {
            if let Err(error) = Structural::compile_component(&components.schemas, name) {
                panic!("{name}: {error}");
            }
        }
    }

    #[test]
    fn a_kind_that_is_not_built_in_has_no_schema() {
        assert!(schema_for("", "v1", "Teapot").is_none());
        assert!(schema_for("apps", "v1", "Deployment").is_some());
    }
}

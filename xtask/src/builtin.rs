//! `xtask codegen builtin`: the schemas and the discovery of Kubernetes' built-in kinds, as a real API server
//! publishes them, without descriptions.
//!
//! Owns `crates/schema/builtin/{schemas,discovery}.json`. Needs `kubectl`, `curl` and a kubeconfig that points at a
//! Kubernetes of the release to be imitated; nothing else of the project needs a cluster for this.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

/// The group versions that the embedded API serves.
const GROUP_VERSIONS: &[(&str, &str)] = &[
    ("", "v1"),
    ("apps", "v1"),
    ("batch", "v1"),
    ("autoscaling", "v1"),
    ("autoscaling", "v2"),
    ("policy", "v1"),
    ("networking.k8s.io", "v1"),
    ("discovery.k8s.io", "v1"),
    ("events.k8s.io", "v1"),
    ("coordination.k8s.io", "v1"),
    ("rbac.authorization.k8s.io", "v1"),
    ("admissionregistration.k8s.io", "v1"),
    ("apiextensions.k8s.io", "v1"),
    ("authentication.k8s.io", "v1"),
    ("authorization.k8s.io", "v1"),
];

/// Writes both files under `root`, from the cluster of the current kubeconfig.
pub(crate) fn generate(root: &Path) -> Result<()> {
    let proxy = ApiProxy::start()?;
    let mut schemas = BTreeMap::new();
    for (group, version) in GROUP_VERSIONS {
        let prefix = if group.is_empty() { "api".to_owned() } else { format!("apis/{group}") };
        let document = proxy.get(&format!("/openapi/v3/{prefix}/{version}"), "application/json")?;
        let components = document.pointer("/components/schemas").and_then(Value::as_object);
        for (name, schema) in components.context("an OpenAPI document without components")? {
            let mut schema = schema.clone();
            strip_descriptions(&mut schema);
            schemas.insert(name.clone(), schema);
        }
    }
    let mut items = Vec::new();
    for path in ["/api", "/apis"] {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let list = proxy.get(path, accept)?;
        for group in list["items"].as_array().context("discovery without items")? {
            items.extend(trimmed_group(group));
        }
    }
    let discovery = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    });
    let kept = reachable(&schemas, &discovery);
    let schemas: Map<String, Value> = schemas.into_iter().filter(|(name, _)| kept.contains(name)).collect();

    let folder = root.join("crates/schema/builtin");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("schemas.json"), one_entry_a_line(&schemas)?)?;
    std::fs::write(folder.join("discovery.json"), serde_json::to_string_pretty(&discovery)? + "\n")?;
    Ok(())
}

/// A `kubectl proxy` on a Unix socket, ended when dropped.
struct ApiProxy {
    child: std::process::Child,
    socket: std::path::PathBuf,
}

impl ApiProxy {
    fn start() -> Result<Self> {
        let socket = std::env::temp_dir().join(format!("xtask-builtin-{}.sock", std::process::id()));
        let mut command = Command::new("kubectl");
        command.arg("proxy").arg(format!("--unix-socket={}", socket.display())).stdout(Stdio::null());
        let child = command.spawn().context("kubectl is needed")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !socket.exists() {
            ensure!(Instant::now() < deadline, "kubectl proxy did not start: is there a kubeconfig?");
            std::thread::yield_now();
        }
        Ok(Self { child, socket })
    }

    fn get(&self, path: &str, accept: &str) -> Result<Value> {
        let output = Command::new("curl")
            .args(["-sf", "--max-time", "60", "-H", &format!("Accept: {accept}"), "--unix-socket"])
            .arg(&self.socket)
            .arg(format!("http://localhost{path}"))
            .output()
            .context("curl is needed")?;
        if !output.status.success() {
            bail!("GET {path}: curl ended with {}", output.status);
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// The group with only the versions that are served here, or nothing.
fn trimmed_group(group: &Value) -> Option<Value> {
    let name = group.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let versions: Vec<Value> = group["versions"]
        .as_array()?
        .iter()
        .filter(|v| GROUP_VERSIONS.iter().any(|(g, served)| *g == name && v["version"] == *served))
        .cloned()
        .collect();
    if versions.is_empty() {
        return None;
    }
    let metadata = if name.is_empty() { json!({}) } else { json!({ "name": name }) };
    Some(json!({ "metadata": metadata, "versions": versions }))
}

/// Component names that a served kind needs, directly or through references.
fn reachable(schemas: &BTreeMap<String, Value>, discovery: &Value) -> BTreeSet<String> {
    let mut kinds = BTreeSet::new();
    collect_kinds(discovery, &mut kinds);
    let named = |schema: &Value| {
        let gvks = schema["x-kubernetes-group-version-kind"].as_array().cloned().unwrap_or_default();
        gvks.iter().any(|gvk| kinds.contains(gvk["kind"].as_str().unwrap_or_default()))
    };
    let mut queue: Vec<String> =
        schemas.iter().filter(|(_, schema)| named(schema)).map(|(name, _)| name.clone()).collect();
    let mut kept = BTreeSet::new();
    while let Some(name) = queue.pop() {
        if let Some(schema) = schemas.get(&name)
            && kept.insert(name)
        {
            collect_references(schema, &mut queue);
        }
    }
    kept
}

fn collect_kinds(value: &Value, kinds: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(kind) = fields.get("responseKind").and_then(|k| k["kind"].as_str()) {
                kinds.insert(kind.to_owned());
                kinds.insert(format!("{kind}List"));
            }
            fields.values().for_each(|field| collect_kinds(field, kinds));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_kinds(item, kinds)),
        _ => {}
    }
}

fn collect_references(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                names.push(reference.trim_start_matches("#/components/schemas/").to_owned());
            }
            fields.values().for_each(|field| collect_references(field, names));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, names)),
        _ => {}
    }
}

/// Drops the keyword `description`, but not a property of that name.
fn strip_descriptions(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    fields.remove("description");
    for (keyword, value) in fields.iter_mut() {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(strip_descriptions),
            (_, Value::Array(items)) => items.iter_mut().for_each(strip_descriptions),
            (_, value) => strip_descriptions(value),
        }
    }
}

/// One component a line: diffs stay readable and the file small.
fn one_entry_a_line(schemas: &Map<String, Value>) -> Result<String> {
    let lines: Vec<String> = schemas
        .iter()
        .map(|(name, schema)| {
            Ok(format!("{}:{}", Value::from(name.as_str()), serde_json::to_string(schema)?))
        })
        .collect::<Result<_>>()?;
    Ok(format!("{{\n{}\n}}\n", lines.join(",\n")))
}

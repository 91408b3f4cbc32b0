//! A container's environment, resolved as a kubelet resolves it. Pure, but for what `Sources` looks up.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};
use kube::ResourceExt;

/// Variables by name.
pub(super) type Environment = BTreeMap<String, String>;

/// Where values come from that are not in the pod itself. All are of the pod's namespace.
pub(super) trait Sources {
    /// The entries of a ConfigMap that are text; None when it does not exist.
    fn config_map(&self, name: &str) -> Option<BTreeMap<String, String>>;
    /// The entries of a Secret that are UTF-8; None when it does not exist.
    fn secret(&self, name: &str) -> Option<BTreeMap<String, String>>;
}

/// What is not there yet. The kubelet's reason for it is `CreateContainerConfigError`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Missing(pub(super) String);

/// The addresses that fields may name.
pub(super) struct Addressed<'a> {
    pub(super) pod_ip: &'a str,
    pub(super) host_ip: &'a str,
}

/// The environment of `container`.
pub(super) fn resolve(
    pod: &Pod,
    container: &Container,
    addressed: &Addressed<'_>,
    sources: &impl Sources,
) -> Result<Environment, Missing> {
    let mut environment = Environment::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let entries = if let Some(reference) = &from.config_map_ref {
            found(sources.config_map(&reference.name), "configmap", &reference.name, reference.optional)?
        } else if let Some(reference) = &from.secret_ref {
            found(sources.secret(&reference.name), "secret", &reference.name, reference.optional)?
        } else {
            continue;
        };
        environment.extend(entries.into_iter().map(|(key, value)| (format!("{prefix}{key}"), value)));
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => Some(expand(value, &environment)),
            (None, Some(source)) => from_source(pod, container, source, addressed, sources)?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            environment.insert(variable.name.clone(), value);
        }
    }
    Ok(environment)
}

/// `$(NAME)` becomes the variable's value, `$$` one `$`; an unknown name stays as it is written.
pub(super) fn expand(text: &str, environment: &Environment) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            match environment.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&rest[at..at + name.len() + 3]),
            }
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

fn from_source(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    addressed: &Addressed<'_>,
    sources: &impl Sources,
) -> Result<Option<String>, Missing> {
    if let Some(field) = &source.field_ref {
        return Ok(Some(pod_field(pod, &field.field_path, addressed)));
    }
    if let Some(resource) = &source.resource_field_ref {
        return Ok(Some(resource_field(container, &resource.resource)));
    }
    if let Some(key) = &source.config_map_key_ref {
        let entries = found(sources.config_map(&key.name), "configmap", &key.name, key.optional)?;
        return entry(&entries, "ConfigMap", &key.name, &key.key, pod, key.optional);
    }
    if let Some(key) = &source.secret_key_ref {
        let entries = found(sources.secret(&key.name), "secret", &key.name, key.optional)?;
        return entry(&entries, "Secret", &key.name, &key.key, pod, key.optional);
    }
    Ok(None)
}

fn found(
    entries: Option<BTreeMap<String, String>>,
    kind: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<BTreeMap<String, String>, Missing> {
    match entries {
        Some(entries) => Ok(entries),
        None if optional == Some(true) => Ok(BTreeMap::new()),
        None => Err(Missing(format!("{kind} \"{name}\" not found"))),
    }
}

fn entry(
    entries: &BTreeMap<String, String>,
    kind: &str,
    name: &str,
    key: &str,
    pod: &Pod,
    optional: Option<bool>,
) -> Result<Option<String>, Missing> {
    match entries.get(key) {
        Some(value) => Ok(Some(value.clone())),
        None if optional == Some(true) => Ok(None),
        None => {
            let namespace = pod.namespace().unwrap_or_default();
            Err(Missing(format!("couldn't find key {key} in {kind} {namespace}/{name}")))
        }
    }
}

/// The fields that the downward API offers; an unknown one is empty, for the API server has refused it before.
fn pod_field(pod: &Pod, path: &str, addressed: &Addressed<'_>) -> String {
    let spec = pod.spec.as_ref();
    match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => {
            let name = spec.and_then(|spec| spec.service_account_name.clone());
            name.unwrap_or_else(|| "default".to_owned())
        }
        "status.podIP" | "status.podIPs" => addressed.pod_ip.to_owned(),
        "status.hostIP" | "status.hostIPs" => addressed.host_ip.to_owned(),
        "metadata.labels" => listed(pod.labels()),
        "metadata.annotations" => listed(pod.annotations()),
        _ => {
            let (kind, key) =
                path.strip_suffix("']").and_then(|path| path.split_once("['")).unwrap_or(("", ""));
            let entries = match kind {
                "metadata.labels" => pod.labels(),
                "metadata.annotations" => pod.annotations(),
                _ => return String::new(),
            };
            entries.get(key).cloned().unwrap_or_default()
        }
    }
}

fn listed(entries: &BTreeMap<String, String>) -> String {
    let lines: Vec<_> = entries.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// A limit or request as the container states it; 0 when it states none.
fn resource_field(container: &Container, path: &str) -> String {
    let resources = container.resources.as_ref();
    let (list, name) = match path.split_once('.') {
        Some(("limits", name)) => (resources.and_then(|resources| resources.limits.as_ref()), name),
        Some(("requests", name)) => (resources.and_then(|resources| resources.requests.as_ref()), name),
        _ => return "0".to_owned(),
    };
    list.and_then(|list| list.get(name)).map_or_else(|| "0".to_owned(), |quantity| quantity.0.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Fixed;

    impl Sources for Fixed {
        fn config_map(&self, name: &str) -> Option<BTreeMap<String, String>> {
            (name == "settings").then(|| BTreeMap::from([("colour".to_owned(), "blue".to_owned())]))
        }

        fn secret(&self, name: &str) -> Option<BTreeMap<String, String>> {
            (name == "keys").then(|| BTreeMap::from([("token".to_owned(), "s3".to_owned())]))
        }
    }

    fn resolved(env: serde_json::Value, env_from: serde_json::Value) -> Result<Environment, Missing> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "echo-1", "namespace": "shop", "uid": "u-1", "labels": { "app": "echo" } },
            "spec": { "nodeName": "weir", "containers": [{
                "name": "c", "env": env, "envFrom": env_from, "resources": { "limits": { "cpu": "2" } },
            }] },
        }))
        .expect("a Pod");
        let container = pod.spec.as_ref().expect("has one").containers[0].clone();
        let addressed = Addressed { pod_ip: "127.9.0.1", host_ip: "127.0.0.1" };
        resolve(&pod, &container, &addressed, &Fixed)
    }

    #[test]
    fn every_source_of_a_value_is_resolved() {
        let field = |path: &str| json!({ "fieldRef": { "fieldPath": path } });
        let environment = resolved(
            json!([
                { "name": "PLAIN", "value": "v" },
                { "name": "NODE", "valueFrom": field("spec.nodeName") },
                { "name": "POD", "valueFrom": field("metadata.name") },
                { "name": "IP", "valueFrom": field("status.podIP") },
                { "name": "LABEL", "valueFrom": field("metadata.labels['app']") },
                { "name": "CPU", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu" } } },
                { "name": "TOKEN", "valueFrom": { "secretKeyRef": { "name": "keys", "key": "token" } } },
                { "name": "JOINED", "value": "$(POD)@$(IP) $$(POD) $(NOBODY) $" },
                { "name": "NONE", "valueFrom": { "configMapKeyRef": { "name": "x", "key": "y", "optional": true } } },
            ]),
            json!([{ "prefix": "S_", "configMapRef": { "name": "settings" } }]),
        )
        .expect("all there");
        let expected = [
            ("CPU", "2"),
            ("IP", "127.9.0.1"),
            ("JOINED", "echo-1@127.9.0.1 $(POD) $(NOBODY) $"),
            ("LABEL", "echo"),
            ("NODE", "weir"),
            ("PLAIN", "v"),
            ("POD", "echo-1"),
            ("S_colour", "blue"),
            ("TOKEN", "s3"),
        ];
        let found: Vec<_> = environment.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = resolved(
            json!([{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "keys", "key": "other" } } }]),
            json!([]),
        );
        assert_eq!(missing, Err(Missing("couldn't find key other in Secret shop/keys".into())));
        let missing = resolved(json!([]), json!([{ "configMapRef": { "name": "absent" } }]));
        assert_eq!(missing, Err(Missing("configmap \"absent\" not found".into())));
    }
}

//! Which resources are served, in which versions, under which names.
//!
//! Owns: the table of built-in kinds (taken from the recorded discovery of a real API server, restricted to what is
//! served here) and the entries that custom resource definitions add. Invariant: a [`Registry`] is immutable; a
//! change of a definition makes a new one, and a request works with one from its start to its end.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use weir_schema::Structural;

use crate::openapi::{self, Document};
use crate::store::ResourceId;

/// Discovery of a Kubernetes 1.36 API server: names, scope and verbs of the built-in kinds.
const BUILTIN_DISCOVERY: &str = include_str!("../../schema/builtin/discovery.json");

/// Resources of that document which are not served: nothing here would do what they ask.
const NOT_SERVED: &[(&str, &str)] = &[
    ("", "bindings"),
    ("", "componentstatuses"),
    ("", "limitranges"),
    ("", "resourcequotas"),
    ("", "replicationcontrollers"),
    ("autoscaling/v1", "horizontalpodautoscalers"),
    ("networking.k8s.io", "ipaddresses"),
    ("networking.k8s.io", "servicecidrs"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
];

/// What every request for the older form of endpoints is told.
const ENDPOINTS_DEPRECATION: &str =
    "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";

/// Subresources that are served; the others need a kubelet.
const SERVED_SUBRESOURCES: &[&str] = &["status", "scale", "log", "finalize", "eviction", "binding", "token"];

/// A part of a resource with a path of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subresource {
    pub(crate) name: String,
    /// Group, version and kind of what is sent and received.
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) verbs: Vec<String>,
}

/// Where a custom resource keeps what the scale subresource shows; JSON paths such as `.spec.replicas`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScalePaths {
    pub(crate) spec_replicas: String,
    pub(crate) status_replicas: String,
    pub(crate) label_selector: Option<String>,
}

/// A printed column of a custom resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) format: String,
    pub(crate) description: String,
    pub(crate) priority: i64,
    pub(crate) json_path: String,
}

/// One version of a resource.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) name: String,
    pub(crate) served: bool,
    pub(crate) verbs: Vec<String>,
    pub(crate) subresources: Vec<Subresource>,
    /// Empty for built-in kinds, whose columns are in `table`.
    pub(crate) columns: Vec<Column>,
    pub(crate) selectable_fields: Vec<String>,
    pub(crate) scale: Option<ScalePaths>,
    /// The schema as a definition gives it; null for built-in kinds.
    pub(crate) openapi: Value,
    /// Compiled when first asked for; set from the start for custom resources.
    pub(crate) schema: OnceLock<Option<Structural>>,
    /// Text of the warning that every request of a deprecated version gets.
    pub(crate) deprecation: Option<String>,
}

impl Version {
    pub(crate) fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    pub(crate) fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }
}

/// One resource with all its versions.
#[derive(Debug, Clone)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    pub(crate) versions: Vec<Arc<Version>>,
    /// Version that objects are kept in; the others differ by name alone, except for events.
    pub(crate) storage_version: String,
    /// Where the objects are; shared by the two groups of events.
    pub(crate) id: ResourceId,
    /// Made by a custom resource definition.
    pub(crate) custom: bool,
    /// Its definition ends; no new objects are taken.
    pub(crate) terminating: bool,
}

impl Resource {
    pub(crate) fn version(&self, name: &str) -> Option<&Arc<Version>> {
        self.versions.iter().find(|version| version.name == name && version.served)
    }

    /// Whether this is the built-in resource of that group and name.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        !self.custom && self.group == group && self.plural == plural
    }

    pub(crate) fn api_version(&self, version: &str) -> String {
        api_version(&self.group, version)
    }
}

/// `group/version`, or `version` for the core group.
pub(crate) fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Group and version of an `apiVersion`.
pub(crate) fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry {
    /// In the order in which discovery lists the groups: built-in ones first, then custom ones by name.
    resources: Vec<Arc<Resource>>,
    by_name: BTreeMap<(String, String), usize>,
    openapi: OnceLock<BTreeMap<String, Document>>,
}

impl Registry {
    /// The built-in kinds.
    pub(crate) fn builtin() -> Registry {
        // The document is part of the program; a test reads it whole.
        let document: Value = serde_json::from_str(BUILTIN_DISCOVERY).unwrap_or_default();
        Registry::of(builtin_resources(&document))
    }

    fn of(resources: Vec<Arc<Resource>>) -> Registry {
        let by_name = resources
            .iter()
            .enumerate()
            .map(|(index, resource)| ((resource.group.clone(), resource.plural.clone()), index))
            .collect();
        Registry { resources, by_name, openapi: OnceLock::new() }
    }

    /// The same with one custom resource put in, replaced, or (with `None`) taken out.
    pub(crate) fn with_custom(&self, group: &str, plural: &str, resource: Option<Arc<Resource>>) -> Registry {
        let (mut custom, mut all): (Vec<Arc<Resource>>, Vec<Arc<Resource>>) = self
            .resources
            .iter()
            .filter(|known| !(known.custom && known.group == group && known.plural == plural))
            .cloned()
            .partition(|known| known.custom);
        custom.extend(resource);
        custom.sort_by(|a, b| (&a.group, &a.plural).cmp(&(&b.group, &b.plural)));
        all.extend(custom);
        Registry::of(all)
    }

    /// The OpenAPI documents by path; made when first asked for.
    pub(crate) fn openapi(&self) -> &BTreeMap<String, Document> {
        self.openapi.get_or_init(|| openapi::documents(self))
    }

    pub(crate) fn get(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        let index = self.by_name.get(&(group.to_owned(), plural.to_owned()))?;
        self.resources.get(*index)
    }

    pub(crate) fn by_kind(&self, group: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|resource| resource.group == group && resource.kind == kind)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter()
    }
}

fn builtin_resources(document: &Value) -> Vec<Arc<Resource>> {
    let mut out: Vec<Resource> = Vec::new();
    for group in list(document, "items") {
        let group_name = group.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        for version in list(group, "versions") {
            let version_name = string(version, "version");
            for entry in list(version, "resources") {
                let plural = string(entry, "resource");
                if is_served(group_name, &version_name, &plural) {
                    add_builtin(&mut out, group_name, &version_name, &plural, entry);
                }
            }
        }
    }
    out.into_iter().map(Arc::new).collect()
}

fn is_served(group: &str, version: &str, plural: &str) -> bool {
    let versioned = api_version(group, version);
    !NOT_SERVED.iter().any(|(place, name)| *name == plural && (*place == group || *place == versioned))
}

fn add_builtin(out: &mut Vec<Resource>, group: &str, version: &str, plural: &str, entry: &Value) {
    let served = Version {
        name: version.to_owned(),
        served: true,
        verbs: strings(entry, "verbs"),
        subresources: list(entry, "subresources")
            .iter()
            .map(|sub| builtin_subresource(sub, group, version))
            .filter(|sub| SERVED_SUBRESOURCES.contains(&sub.name.as_str()))
            .collect(),
        columns: Vec::new(),
        selectable_fields: Vec::new(),
        scale: None,
        openapi: Value::Null,
        schema: OnceLock::new(),
        deprecation: (group.is_empty() && plural == "endpoints").then(|| ENDPOINTS_DEPRECATION.to_owned()),
    };
    if let Some(known) = out.iter_mut().find(|known| known.group == group && known.plural == plural) {
        known.versions.push(Arc::new(served));
        return;
    }
    let kind = entry.pointer("/responseKind/kind").and_then(Value::as_str).unwrap_or_default();
    let storage_group = if plural == "events" { "" } else { group };
    out.push(Resource {
        group: group.to_owned(),
        plural: plural.to_owned(),
        singular: string(entry, "singularResource"),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        short_names: strings(entry, "shortNames"),
        categories: strings(entry, "categories"),
        namespaced: string(entry, "scope") == "Namespaced",
        versions: vec![Arc::new(served)],
        storage_version: version.to_owned(),
        id: ResourceId::new(storage_group, plural),
        custom: false,
        terminating: false,
    });
}

fn builtin_subresource(entry: &Value, group: &str, version: &str) -> Subresource {
    let own = |field: &str, otherwise: &str| {
        let text =
            entry.pointer(&format!("/responseKind/{field}")).and_then(Value::as_str).unwrap_or_default();
        if text.is_empty() { otherwise.to_owned() } else { text.to_owned() }
    };
    let kind = own("kind", "");
    let version_of_kind = own("version", version);
    // An empty group beside a stated version is the core group; without a version it means the resource's own.
    let stated = entry.pointer("/responseKind/version").and_then(Value::as_str).unwrap_or_default();
    let group_of_kind = if stated.is_empty() { group.to_owned() } else { own("group", "") };
    Subresource {
        name: string(entry, "subresource"),
        group: group_of_kind,
        version: version_of_kind,
        kind,
        verbs: strings(entry, "verbs"),
    }
}

fn string(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn strings(value: &Value, key: &str) -> Vec<String> {
    list(value, key).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_discovery_gives_the_kinds_that_are_served() {
        let registry = Registry::builtin();
        let pods = registry.get("", "pods").expect("pods are served");
        assert_eq!(pods.kind, "Pod");
        assert_eq!(pods.short_names, ["po"]);
        assert!(pods.namespaced && pods.version("v1").expect("v1").has_status());
        let scale =
            registry.get("apps", "deployments").and_then(|found| found.version("v1")).expect("deployments");
        let scale = scale.subresource("scale").expect("scale");
        assert_eq!(
            (scale.group.as_str(), scale.version.as_str(), scale.kind.as_str()),
            ("autoscaling", "v1", "Scale")
        );
        assert_eq!(
            registry.get("events.k8s.io", "events").expect("events").id,
            ResourceId::new("", "events")
        );
        assert!(registry.get("", "componentstatuses").is_none());
    }
}

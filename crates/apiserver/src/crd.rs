//! Custom resource definitions: what they say is what is served.
//!
//! Owns: the defaults, validation and status of definitions, the registry entries that they make, and the end of a
//! definition (its objects go first). Invariants: the registry changes inside the commit of the definition, so who
//! sees a definition as established finds its kind served; a version's schema is compiled once and kept over edits
//! that leave it alone.
//!
//! Deliberately absent: conversion webhooks (only the strategy `None` is taken).

use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use weir_schema::{FieldValidation, Structural};

use crate::admission::names;
use crate::error::{ApiResult, Cause};
use crate::object;
use crate::registry::{Column, Registry, Resource, ScalePaths, Subresource, Version};
use crate::rest::{Api, Call};
use crate::schema;
use crate::store::{self, Expected, Now, ResourceId, Stored};

/// Held by a definition until its objects are gone.
pub(crate) const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
const APPROVAL: &str = "api-approved.kubernetes.io";
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Field manager of what the server itself writes into a definition's status.
const STATUS_MANAGER: &str = "kube-apiserver";
/// Attempts to end a definition against concurrent writers.
const ATTEMPTS: usize = 64;

pub(crate) fn is_definition(resource: &Resource) -> bool {
    resource.is("apiextensions.k8s.io", "customresourcedefinitions")
}

/// The defaults of a definition. Source: apiextensions `defaults.go`.
pub(crate) fn default_fields(object: &mut Value) {
    let spec = object::child(object, "spec");
    let kind = object::text(spec, "/names/kind").to_owned();
    if !kind.is_empty() {
        let names = object::child(spec, "names");
        object::default_field(names, "singular", kind.to_lowercase());
        object::default_field(names, "listKind", format!("{kind}List"));
    }
    object::default_field(object::child(spec, "conversion"), "strategy", "None");
    // Kubernetes keeps `false` out of what it shows.
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(false)) {
        object::as_map(spec).shift_remove("preserveUnknownFields");
    }
}

/// What is wrong with a definition beyond the schema of definitions.
pub(crate) fn validate(object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    validate_names(object, &mut causes);
    validate_versions(object, old, &mut causes);
    if let Some(old) = old {
        for pointer in ["/spec/group", "/spec/names/plural", "/spec/names/kind", "/spec/scope"] {
            if object.pointer(pointer) != old.pointer(pointer) {
                let value = object.pointer(pointer).cloned().unwrap_or_default();
                causes.push(Cause::invalid(pointer[1..].replace('/', "."), &value, "field is immutable"));
            }
        }
        validate_stored_versions(object, old, &mut causes);
    }
    causes
}

fn validate_names(object: &Value, causes: &mut Vec<Cause>) {
    let (group, plural) = (object::text(object, "/spec/group"), object::text(object, "/spec/names/plural"));
    let expected = format!("{plural}.{group}");
    if object::name(object) != expected {
        let value = Value::from(object::name(object));
        causes.push(Cause::invalid("metadata.name", &value, "must be spec.names.plural+\".\"+spec.group"));
    }
    if group.is_empty() {
        causes.push(Cause::required("spec.group", ""));
    } else if !group.contains('.') {
        causes.push(Cause::invalid(
            "spec.group",
            &Value::from(group),
            "should be a domain with at least one dot",
        ));
    } else if let Some(detail) = names::not_a_subdomain(group) {
        causes.push(Cause::invalid("spec.group", &Value::from(group), &detail));
    }
    let protected = group.ends_with(".k8s.io")
        || group.ends_with(".kubernetes.io")
        || group == "k8s.io"
        || group == "kubernetes.io";
    if protected && object::label(object, "annotations", APPROVAL).unwrap_or_default().is_empty() {
        let detail = format!(
            "protected groups must have approval annotation {APPROVAL:?}, see https://github.com/kubernetes/enhancements/pull/1111"
        );
        causes.push(Cause::required(format!("metadata.annotations[{APPROVAL}]"), &detail));
    }
    for (field, value) in [("plural", plural), ("singular", object::text(object, "/spec/names/singular"))] {
        if let Some(detail) = names::not_a_label_1035(value) {
            causes.push(Cause::invalid(format!("spec.names.{field}"), &Value::from(value), &detail));
        }
    }
    let scope = object::text(object, "/spec/scope");
    if !matches!(scope, "Cluster" | "Namespaced") {
        causes.push(Cause::unsupported("spec.scope", &Value::from(scope), &["Cluster", "Namespaced"]));
    }
    if object::text(object, "/spec/conversion/strategy") != "None" {
        let value = object.pointer("/spec/conversion/strategy").cloned().unwrap_or_default();
        causes.push(Cause::unsupported("spec.conversion.strategy", &value, &["None"]));
    }
    if object.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true)) {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        causes.push(Cause::invalid("spec.preserveUnknownFields", &Value::from(true), detail));
    }
}

fn validate_versions(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let versions = object::array(object, "/spec/versions");
    let mut seen: Vec<&str> = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        let at = |field: &str| format!("spec.versions[{index}].{field}");
        let name = object::text(version, "/name");
        if let Some(detail) = names::not_a_label_1035(name) {
            causes.push(Cause::invalid(at("name"), &Value::from(name), &detail));
        }
        if seen.contains(&name) {
            causes.push(Cause::invalid(
                "spec.versions",
                &Value::from(name),
                "must contain unique version names",
            ));
        }
        seen.push(name);
        validate_columns(version, &at("additionalPrinterColumns"), causes);
        match version.pointer("/schema/openAPIV3Schema") {
            None => causes.push(Cause::required(at("schema.openAPIV3Schema"), "schemas are required")),
            Some(schema) if is_known_schema(old, schema) => {}
            Some(schema) => {
                if let Err(error) = Structural::compile(schema) {
                    let base = at("schema.openAPIV3Schema");
                    causes.extend(error.0.into_iter().map(|error| schema::cause_below(error, &base)));
                }
            }
        }
    }
    let stored = versions.iter().filter(|version| version.get("storage") == Some(&Value::Bool(true))).count();
    if stored != 1 {
        let value = Value::from(seen);
        causes.push(Cause::invalid(
            "spec.versions",
            &value,
            "must have exactly one version marked as storage version",
        ));
    }
}

/// Whether a schema was judged when the stored definition was written.
fn is_known_schema(old: Option<&Value>, schema: &Value) -> bool {
    old.is_some_and(|old| {
        object::array(old, "/spec/versions")
            .iter()
            .any(|version| version.pointer("/schema/openAPIV3Schema") == Some(schema))
    })
}

fn validate_columns(version: &Value, base: &str, causes: &mut Vec<Cause>) {
    const TYPES: &[&str] = &["integer", "number", "string", "boolean", "date"];
    for (index, column) in object::array(version, "/additionalPrinterColumns").iter().enumerate() {
        let kind = object::text(column, "/type");
        if !TYPES.contains(&kind) {
            let detail = "must be one of boolean,date,integer,number,string";
            causes.push(Cause::invalid(format!("{base}[{index}].type"), &Value::from(kind), detail));
        }
        for (field, path) in
            [("name", object::text(column, "/name")), ("jsonPath", object::text(column, "/jsonPath"))]
        {
            if path.is_empty() {
                causes.push(Cause::required(format!("{base}[{index}].{field}"), ""));
            }
        }
    }
}

fn validate_stored_versions(object: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let names: Vec<&str> = object::array(object, "/spec/versions")
        .iter()
        .map(|version| object::text(version, "/name"))
        .collect();
    for (index, stored) in object::array(old, "/status/storedVersions").iter().enumerate() {
        let stored = stored.as_str().unwrap_or_default();
        if !names.contains(&stored) {
            let detail = format!(
                "missing from spec.versions; {stored} was previously a storage version, and must remain in spec.versions until a storage \
                 migration ensures no data remains persisted in {stored} and removes {stored} from status.storedVersions"
            );
            causes.push(Cause::invalid(
                format!("status.storedVersions[{index}]"),
                &Value::from(stored),
                &detail,
            ));
        }
    }
}

/// Sets the status that Kubernetes' controllers would, at once: names accepted, established, approved, versions
/// stored.
pub(crate) fn settle(api: &Api, call: &Call, object: &mut Value) -> ApiResult<()> {
    if !is_definition(&call.resource) || !call.subresource.is_empty() {
        return Ok(());
    }
    let before = object.clone();
    let now = api.clock.seconds();
    let conflict = name_conflict(&api.registry(), object);
    let mut status = object.get("status").cloned().unwrap_or_else(|| json!({}));
    match &conflict {
        None => {
            status["acceptedNames"] = object.pointer("/spec/names").cloned().unwrap_or_default();
            set_condition(&mut status, "NamesAccepted", "True", "NoConflicts", "no conflicts found", &now);
            let message = "the initial names have been accepted";
            set_condition(&mut status, "Established", "True", "InitialNamesAccepted", message, &now);
        }
        Some((reason, message)) => {
            object::default_field(&mut status, "acceptedNames", json!({"plural": "", "kind": ""}));
            set_condition(&mut status, "NamesAccepted", "False", reason, message, &now);
            set_condition(
                &mut status,
                "Established",
                "False",
                "NotAccepted",
                "not all names are accepted",
                &now,
            );
        }
    }
    approve(object, &mut status, &now);
    let mut stored: Vec<Value> = object::array(&status, "/storedVersions").to_vec();
    if let Some(version) = storage_version(object)
        && !stored.iter().any(|name| name == version)
    {
        stored.push(Value::from(version));
    }
    status["storedVersions"] = Value::from(stored);
    object::as_map(object).insert("status".to_owned(), status);
    schema::own_fields_as(api, call, STATUS_MANAGER, "status", &before, object);
    Ok(())
}

/// The condition about the approval annotation, for groups that need one.
fn approve(object: &Value, status: &mut Value, now: &str) {
    let group = object::text(object, "/spec/group");
    if !(group.ends_with(".k8s.io") || group.ends_with(".kubernetes.io")) {
        return;
    }
    let annotation = object::label(object, "annotations", APPROVAL).unwrap_or_default();
    let kind = "KubernetesAPIApprovalPolicyConformant";
    if annotation.starts_with("unapproved") {
        let message = format!("not approved: {annotation:?}");
        set_condition(status, kind, "False", "UnapprovedAnnotation", &message, now);
    } else {
        set_condition(status, kind, "True", "ApprovedAnnotation", &format!("approved in {annotation}"), now);
    }
}

fn set_condition(status: &mut Value, kind: &str, value: &str, reason: &str, message: &str, now: &str) {
    let slot = object::as_map(status).entry("conditions").or_insert_with(|| json!([]));
    let Value::Array(conditions) = slot else { return };
    let entry = json!({"lastTransitionTime": now, "message": message, "reason": reason, "status": value, "type": kind});
    match conditions.iter_mut().find(|condition| object::text(condition, "/type") == kind) {
        Some(found) => {
            let since = found.get("lastTransitionTime").cloned();
            let same = object::text(found, "/status") == value;
            *found = entry;
            if let (true, Some(since)) = (same, since) {
                found["lastTransitionTime"] = since;
            }
        }
        None => conditions.push(entry),
    }
}

fn storage_version(object: &Value) -> Option<&str> {
    let versions = object::array(object, "/spec/versions");
    let version = versions.iter().find(|version| version.get("storage") == Some(&Value::Bool(true)))?;
    version.get("name")?.as_str()
}

/// A name that another kind of the group has already.
fn name_conflict(registry: &Registry, object: &Value) -> Option<(&'static str, String)> {
    let (group, plural) = (object::text(object, "/spec/group"), object::text(object, "/spec/names/plural"));
    let taken = |name: &str| format!("{name:?} is already in use");
    for other in registry.all().filter(|other| other.group == group && other.plural != plural) {
        let resources: Vec<&str> = [other.plural.as_str(), other.singular.as_str()]
            .into_iter()
            .chain(other.short_names.iter().map(String::as_str))
            .collect();
        let singular = object::text(object, "/spec/names/singular");
        if resources.contains(&plural) {
            return Some(("PluralConflict", taken(plural)));
        }
        if resources.contains(&singular) {
            return Some(("SingularConflict", taken(singular)));
        }
        let short = object::array(object, "/spec/names/shortNames").iter().filter_map(Value::as_str);
        if let Some(name) = short.into_iter().find(|name| resources.contains(name)) {
            return Some(("ShortNamesConflict", taken(name)));
        }
        let kinds = [other.kind.as_str(), other.list_kind.as_str()];
        let (kind, list) =
            (object::text(object, "/spec/names/kind"), object::text(object, "/spec/names/listKind"));
        if kinds.contains(&kind) {
            return Some(("KindConflict", taken(kind)));
        }
        if kinds.contains(&list) {
            return Some(("ListKindConflict", taken(list)));
        }
    }
    None
}

/// The resource that a definition makes; `None` while its names are not accepted. Compiled schemas of `known` are
/// used again.
pub(crate) fn resource_of(definition: &Value, known: Option<&Resource>) -> Option<Resource> {
    let established = object::array(definition, "/status/conditions").iter().any(|condition| {
        object::text(condition, "/type") == "Established" && object::text(condition, "/status") == "True"
    });
    if !established {
        return None;
    }
    let text = |pointer: &str| object::text(definition, pointer).to_owned();
    let list = |pointer: &str| -> Vec<String> {
        object::array(definition, pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let (group, plural) = (text("/spec/group"), text("/spec/names/plural"));
    let namespaced = text("/spec/scope") == "Namespaced";
    let kind = text("/spec/names/kind");
    let versions = object::array(definition, "/spec/versions")
        .iter()
        .map(|version| Arc::new(version_of(version, &group, &kind, known)))
        .collect();
    Some(Resource {
        id: ResourceId::new(&group, &plural),
        singular: text("/spec/names/singular"),
        list_kind: text("/spec/names/listKind"),
        short_names: list("/spec/names/shortNames"),
        categories: list("/spec/names/categories"),
        storage_version: storage_version(definition).unwrap_or_default().to_owned(),
        custom: true,
        terminating: object::is_terminating(definition),
        group,
        plural,
        kind,
        namespaced,
        versions,
    })
}

fn version_of(version: &Value, group: &str, kind: &str, known: Option<&Resource>) -> Version {
    let name = object::text(version, "/name").to_owned();
    let flag = |key: &str| version.get(key) == Some(&Value::Bool(true));
    let openapi = version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_default();
    let same = known.and_then(|known| known.versions.iter().find(|version| version.openapi == openapi));
    let scale = version.pointer("/subresources/scale").map(scale_of);
    let deprecation = flag("deprecated").then(|| match object::text(version, "/deprecationWarning") {
        "" => format!("{group}/{name} {kind} is deprecated"),
        stated => stated.to_owned(),
    });
    Version {
        served: flag("served"),
        verbs: VERBS.iter().map(|verb| (*verb).to_owned()).collect(),
        subresources: subresources_of(version, group, &name, kind),
        columns: columns_of(version),
        selectable_fields: object::array(version, "/selectableFields")
            .iter()
            .map(|field| object::text(field, "/jsonPath").to_owned())
            .collect(),
        scale,
        schema: same.map_or_else(OnceLock::new, |known| known.schema.clone()),
        openapi,
        deprecation,
        name,
    }
}

fn subresources_of(version: &Value, group: &str, name: &str, kind: &str) -> Vec<Subresource> {
    let verbs = || ["get", "patch", "update"].map(str::to_owned).to_vec();
    let mut out = Vec::new();
    if version.pointer("/subresources/scale").is_some() {
        out.push(Subresource {
            name: "scale".to_owned(),
            group: "autoscaling".to_owned(),
            version: "v1".to_owned(),
            kind: "Scale".to_owned(),
            verbs: verbs(),
        });
    }
    if version.pointer("/subresources/status").is_some() {
        let (group, version, kind) = (group.to_owned(), name.to_owned(), kind.to_owned());
        out.push(Subresource { name: "status".to_owned(), group, version, kind, verbs: verbs() });
    }
    out
}

fn scale_of(scale: &Value) -> ScalePaths {
    ScalePaths {
        spec_replicas: object::text(scale, "/specReplicasPath").to_owned(),
        status_replicas: object::text(scale, "/statusReplicasPath").to_owned(),
        label_selector: scale.get("labelSelectorPath").and_then(Value::as_str).map(str::to_owned),
    }
}

fn columns_of(version: &Value) -> Vec<Column> {
    let stated = object::array(version, "/additionalPrinterColumns");
    if stated.is_empty() {
        let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
        return vec![column_of(&age)];
    }
    stated.iter().map(column_of).collect()
}

fn column_of(column: &Value) -> Column {
    let text = |pointer: &str| object::text(column, pointer).to_owned();
    Column {
        name: text("/name"),
        kind: text("/type"),
        format: text("/format"),
        description: text("/description"),
        priority: column.get("priority").and_then(Value::as_i64).unwrap_or(0),
        json_path: text("/jsonPath"),
    }
}

/// A change of the registry that goes with a commit.
pub(crate) struct Reregister {
    group: String,
    plural: String,
    resource: Option<Arc<Resource>>,
}

impl Reregister {
    /// The registry after it.
    pub(crate) fn apply(self, registry: &Registry) -> Registry {
        registry.with_custom(&self.group, &self.plural, self.resource)
    }
}

/// What the commit of a definition changes in the registry; `None` for other objects. `new` is `None` when it goes.
pub(crate) fn reregister(
    api: &Api,
    resource: &Resource,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Option<Reregister> {
    let definition = new.or(old).filter(|_| is_definition(resource))?;
    let (group, plural) =
        (object::text(definition, "/spec/group"), object::text(definition, "/spec/names/plural"));
    let registry = api.registry();
    let known = registry.get(group, plural).filter(|known| known.custom);
    let resource = new.and_then(|new| resource_of(new, known.map(Arc::as_ref))).map(Arc::new);
    Some(Reregister { group: group.to_owned(), plural: plural.to_owned(), resource })
}

/// What follows from a write that is committed: objects are shown by the schema of today; those of a definition that ends
/// go, and then the definition.
pub(crate) fn after_write(api: &Api, call: &Call, stored: &Arc<Stored>, gone: bool) {
    if is_definition(&call.resource) {
        let id = ResourceId::new(
            object::text(&stored.value, "/spec/group"),
            object::text(&stored.value, "/spec/names/plural"),
        );
        if gone {
            api.store.wake(&id);
        } else if object::is_terminating(&stored.value) {
            delete_objects(api, &id);
            finish(api, &id);
        } else {
            show_objects(api, &id);
        }
    } else if gone && call.resource.custom {
        // By the registry of now: the definition may have begun to end since the call began.
        let registry = api.registry();
        if registry.get(&call.resource.group, &call.resource.plural).is_some_and(|known| known.terminating) {
            finish(api, &call.resource.id);
        }
    }
}

/// Prunes and defaults stored objects by the schema of their storage version, as an API server does when it reads them.
fn show_objects(api: &Api, id: &ResourceId) {
    let registry = api.registry();
    let Some(resource) = registry.get(&id.group, &id.plural).filter(|resource| resource.custom) else {
        return;
    };
    let Some(version) = resource.versions.iter().find(|version| version.name == resource.storage_version)
    else {
        return;
    };
    let Some(schema) = schema::structural(resource, version) else { return };
    api.store.show(id, |object| {
        let mut shown = object.clone();
        // One that does not fit its schema at all any more is shown as it was written.
        if schema.decode(&mut shown, FieldValidation::Ignore).is_ok() {
            schema.default(&mut shown);
            *object = shown;
        }
    });
}

/// Deletes every object of a definition that ends; those with finalizers stay for now.
fn delete_objects(api: &Api, id: &ResourceId) {
    let registry = api.registry();
    let Some(resource) = registry.get(&id.group, &id.plural) else { return };
    let Some(version) = resource.versions.iter().find(|version| version.served) else { return };
    let snapshot = api.store.snapshot(id);
    for (_, stored) in store::in_namespace(&snapshot.objects, "", None) {
        let call = Call::internal_for(resource, version, &stored.value);
        if let Err(error) = api.delete(&call, &bytes::Bytes::new()) {
            tracing::debug!(%error, object = call.name, "an object of a definition that ends was not deleted");
        }
    }
}

/// Takes the cleanup finalizer off a definition that ends, once it has no objects.
fn finish(api: &Api, id: &ResourceId) {
    let registry = api.registry();
    let Some(definitions) = registry.get("apiextensions.k8s.io", "customresourcedefinitions") else { return };
    let name = format!("{}.{}", id.plural, id.group);
    for _ in 0..ATTEMPTS {
        if !api.store.snapshot(id).objects.is_empty() {
            return;
        }
        let Some(current) = api.store.get(&definitions.id, &name) else { return };
        if !object::is_terminating(&current.value) {
            return;
        }
        let left: Vec<Value> = object::finalizers(&current.value)
            .into_iter()
            .filter(|finalizer| *finalizer != CLEANUP_FINALIZER)
            .map(Value::from)
            .collect();
        let next = (!left.is_empty()).then(|| {
            let mut next = current.value.clone();
            object::set_meta(&mut next, "finalizers", Some(Value::from(left)));
            next
        });
        let gone = next.is_none();
        let effect = reregister(api, definitions, Some(&current.value), next.as_ref());
        let expected = Expected::Revision(current.revision);
        // An object that was made meanwhile holds it up.
        let premise = |now: &Now<'_>| if now.has_any(id) { Err(()) } else { Ok(()) };
        let committed = api.store.commit_if(&definitions.id, &name, expected, next, premise, || {
            if let Some(effect) = effect {
                api.change_registry(|registry| effect.apply(registry));
            }
        });
        if committed.is_ok() {
            if gone {
                api.store.wake(id);
            }
            return;
        }
    }
}

/// Marks a definition's deletion: its cleanup is a finalizer and a condition.
pub(crate) fn mark_terminating(object: &mut Value, now: &str) {
    let mut finalizers: Vec<Value> = object::finalizers(object).into_iter().map(Value::from).collect();
    if !finalizers.iter().any(|finalizer| finalizer == CLEANUP_FINALIZER) {
        finalizers.push(Value::from(CLEANUP_FINALIZER));
    }
    object::set_meta(object, "finalizers", Some(Value::from(finalizers)));
    let mut status = object.get("status").cloned().unwrap_or_else(|| json!({}));
    let message = "CustomResource deletion is in progress";
    set_condition(&mut status, "Terminating", "True", "InstanceDeletionInProgress", message, now);
    object::as_map(object).insert("status".to_owned(), status);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Value {
        json!({
            "metadata": {"name": "tests.example.com"},
            "spec": {
                "group": "example.com",
                "names": {"plural": "tests", "kind": "Test"},
                "scope": "Namespaced",
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
            },
        })
    }

    #[test]
    fn names_are_defaulted_from_the_kind() {
        let mut object = definition();
        default_fields(&mut object);
        assert_eq!(object["spec"]["names"]["singular"], "test");
        assert_eq!(object["spec"]["names"]["listKind"], "TestList");
        assert_eq!(object["spec"]["conversion"]["strategy"], "None");
        assert_eq!(validate(&object, None), []);
    }

    #[test]
    fn a_definition_must_be_named_by_its_resource_and_have_one_storage_version() {
        let mut object = definition();
        default_fields(&mut object);
        object["metadata"]["name"] = json!("other");
        object["spec"]["versions"][0]["storage"] = json!(false);
        let fields: Vec<String> = validate(&object, None).into_iter().map(|cause| cause.field).collect();
        assert_eq!(fields, ["metadata.name", "spec.versions"]);
    }

    #[test]
    fn protected_groups_need_an_approval() {
        let mut object = definition();
        object["spec"]["group"] = json!("x.k8s.io");
        object["metadata"]["name"] = json!("tests.x.k8s.io");
        default_fields(&mut object);
        assert!(validate(&object, None).iter().any(|cause| cause.field.contains(APPROVAL)));
    }
}

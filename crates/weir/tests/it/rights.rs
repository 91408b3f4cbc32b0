//! What the installation may do is what its controllers need, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use weir_control::{Installation, Right};

fn installed() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/weir.yaml");
    let text = std::fs::read_to_string(path).expect("the installation");
    text.split("\n---\n")
        .map(|document| serde_saphyr::from_str::<Value>(document).expect("YAML"))
        .filter(|document| !document.is_null())
        .collect()
}

/// `VERB RESOURCE.GROUP/SUBRESOURCE`, as the rules of a role give them.
fn given(role: &Value) -> BTreeSet<String> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
    };
    let mut all = BTreeSet::new();
    for rule in role["rules"].as_array().expect("rules") {
        for (group, resource) in texts(&rule["apiGroups"]).iter().flat_map(|group| {
            texts(&rule["resources"]).into_iter().map(move |resource| (group.clone(), resource))
        }) {
            let (plural, part) =
                resource.split_once('/').map_or((resource.as_str(), None), |(a, b)| (a, Some(b)));
            let group = if group.is_empty() { group } else { format!(".{group}") };
            let part = part.map(|part| format!("/{part}")).unwrap_or_default();
            all.extend(texts(&rule["verbs"]).iter().map(|verb| format!("{verb} {plural}{group}{part}")));
        }
    }
    all
}

#[test]
fn the_installations_rights_are_those_that_controllers_need() {
    let documents = installed();
    let role = |kind: &str| {
        documents.iter().find(|document| document["kind"] == kind).unwrap_or_else(|| panic!("a {kind}"))
    };
    let installation = Installation {
        namespace: "weir-system".to_owned(),
        lease: "weir-weir-leader".to_owned(),
        authority: "weir-weir-authority".to_owned(),
        namespaces: Vec::new(),
    };
    let needed = installation.needed();
    let of = |is_local: bool| -> BTreeSet<String> {
        let rights = needed.iter().filter(|right| right.namespace.is_empty() != is_local);
        rights.map(|Right { verb, resource, .. }| format!("{verb} {resource}")).collect()
    };
    assert_eq!(given(role("ClusterRole")), of(false));
    assert_eq!(given(role("Role")), of(true));
}

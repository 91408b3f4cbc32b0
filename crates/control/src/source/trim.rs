//! What is left of an object once it has been read.
//!
//! Invariant: translation reads the same of what is left as of the whole. `managedFields` is the bulk of most objects; of a Secret
//! or ConfigMap nobody needs more than its name, its type and the keys that a reference can be to. Deliberately absent: objects
//! that Weir makes and keeps, which are compared whole.

use serde_json::{Map, Value};
use weir_api::core_v1::{CA_CERTIFICATES_KEY, reads_secret_key};
use weir_api::meta::LAST_APPLIED_ANNOTATION;
use weir_core::Kind;

/// Objects of one page of Secrets or ConfigMaps: each may have a megabyte, which is there until the page is read. Source: ours.
const CONTENTS_PAGE_OBJECTS: u32 = 20;

/// How many objects of a kind are asked for at a time; `None`: as many as ever.
pub(super) fn page_objects(kind: Kind) -> Option<u32> {
    matches!(kind, Kind::Secret | Kind::ConfigMap).then_some(CONTENTS_PAGE_OBJECTS)
}

/// Takes out what is not read.
pub(crate) fn trim(kind: Kind, object: &mut Value) {
    let Some(fields) = object.as_object_mut() else { return };
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.shift_remove(LAST_APPLIED_ANNOTATION);
        }
    }
    match kind {
        Kind::Secret => {
            let type_ = fields.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
            keep_contents(fields, |key| reads_secret_key(&type_, key));
        }
        Kind::ConfigMap => keep_contents(fields, |key| key == CA_CERTIFICATES_KEY),
        _ => {}
    }
}

/// Of an object that is there for its contents, these, its type, and what tells it from others.
fn keep_contents(fields: &mut Map<String, Value>, is_read: impl Fn(&str) -> bool) {
    fields.retain(|name, _| matches!(name.as_str(), "metadata" | "type" | "data"));
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|name, _| !matches!(name.as_str(), "annotations" | "labels" | "ownerReferences"));
    }
    if let Some(data) = fields.get_mut("data").and_then(Value::as_object_mut) {
        // A map keeps the room that it ever had.
        *data = std::mem::take(data).into_iter().filter(|(key, _)| is_read(key)).collect();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use weir_core::{Kind, Object};

    use super::trim;

    fn object(type_: &str, data: &Value) -> Value {
        json!({
            "metadata": {
                "name": "n", "namespace": "d", "uid": "u", "resourceVersion": "5", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"team": "a"},
                "annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": "{\"data\": \"hidden\"}",
                    "konghq.com/x": "hidden",
                },
                "managedFields": [{"manager": "hidden"}],
            },
            "type": type_, "data": data, "binaryData": {"x": "hidden"}, "stringData": {"x": "hidden"},
        })
    }

    #[test]
    fn of_secrets_and_config_maps_only_what_can_be_referred_to_is_left() {
        let keys = ["tls.crt", "tls.key", "ca.crt", "password"];
        let data: Value = keys.iter().map(|key| (String::from(*key), json!("hidden"))).collect();
        for (kind, type_, left) in [
            (Kind::Secret, "kubernetes.io/tls", &["tls.crt", "tls.key"][..]),
            (Kind::Secret, "weir.dev/session-key", &keys[..]),
            (Kind::Secret, "Opaque", &[]),
            (Kind::Secret, "kubernetes.io/service-account-token", &[]),
            (Kind::Secret, "", &[]),
            (Kind::ConfigMap, "", &["ca.crt"]),
        ] {
            let whole = object(type_, &data);
            let mut trimmed = whole.clone();
            trim(kind, &mut trimmed);
            let data: Vec<&String> = trimmed["data"].as_object().unwrap().keys().collect();
            assert_eq!(data, left, "{type_}");
            assert_eq!(trimmed.to_string().matches("hidden").count(), left.len(), "{trimmed}");
            assert_eq!(trimmed["metadata"]["uid"], "u");
            let (whole, trimmed) = (Object::read(kind, whole).unwrap(), Object::read(kind, trimmed).unwrap());
            assert_eq!(whole.key(), trimmed.key());
            match (whole, trimmed) {
                (Object::Secret(whole), Object::Secret(trimmed)) => {
                    assert_eq!(whole.type_, trimmed.type_);
                    assert!(whole.data == trimmed.data && whole.session_keys == trimmed.session_keys);
                }
                (Object::ConfigMap(whole), Object::ConfigMap(trimmed)) => {
                    assert_eq!(whole.data, trimmed.data)
                }
                _ => unreachable!("another kind"),
            }
        }
    }

    #[test]
    fn of_other_objects_everything_is_left_but_bookkeeping() {
        let whole = object("t", &json!({"a": 1}));
        let mut trimmed = whole.clone();
        trim(Kind::Service, &mut trimmed);
        assert_eq!(trimmed["metadata"]["annotations"], json!({"konghq.com/x": "hidden"}));
        assert_eq!(trimmed["metadata"].get("managedFields"), None);
        assert_eq!(trimmed["data"], whole["data"]);
        assert_eq!(
            Object::read(Kind::Service, trimmed).unwrap(),
            Object::read(Kind::Service, whole).unwrap()
        );
    }

    #[test]
    fn what_is_no_object_is_left_as_it_is() {
        for mut odd in [json!(null), json!([1]), json!({"metadata": 1, "data": "x"}), json!({})] {
            trim(Kind::Secret, &mut odd);
            trim(Kind::Gateway, &mut odd);
        }
    }
}

//! The manifests of the guides are admitted as they are; a typo in one is named with its path.

use std::path::Path;

use serde_json::{Value, json};
use weir_schema::{AdmitError, FieldValidation, patch};

use crate::schemas;

fn manifests() -> Vec<(String, Value)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut found = Vec::new();
    for guide in ["kic", "operator", "simple-apps"] {
        for entry in std::fs::read_dir(root.join(guide)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
                let name = format!("{guide}/{}", path.file_name().unwrap().to_string_lossy());
                let text = std::fs::read_to_string(&path).unwrap();
                found.extend(schemas::yaml(&text).into_iter().map(|object| (name.clone(), object)));
            }
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

fn manifest(name: &str, kind: &str) -> Value {
    manifests().into_iter().find(|(file, object)| file == name && object["kind"] == kind).unwrap().1
}

#[test]
fn every_manifest_of_the_guides_is_admitted_under_strict_validation() {
    let manifests = manifests();
    assert!(manifests.len() >= 25, "{}", manifests.len());
    for (name, mut object) in manifests {
        let outcome = schemas::of(&object).admit(&mut object, None, FieldValidation::Strict);
        assert_eq!(outcome, Ok(Vec::new()), "{name} {}", object["kind"]);
    }
}

#[test]
fn a_typo_is_named_with_its_whole_path() {
    for (file, kind, place, typo, path) in [
        (
            "kic/httproute.yaml",
            "HTTPRoute",
            "/spec/rules/0/backendRefs/1",
            "wieght",
            "spec.rules[0].backendRefs[1].wieght",
        ),
        (
            "kic/httproute.yaml",
            "HTTPRoute",
            "/spec/rules/0/matches/0/path",
            "vlaue",
            "spec.rules[0].matches[0].path.vlaue",
        ),
        (
            "kic/gateway.yaml",
            "Gateway",
            "/spec/listeners/0/allowedRoutes",
            "namespace",
            "spec.listeners[0].allowedRoutes.namespace",
        ),
        (
            "kic/echo-services.yaml",
            "Deployment",
            "/spec/template/spec/containers/0",
            "imagePullPolciy",
            "spec.template.spec.containers[0].imagePullPolciy",
        ),
        ("kic/echo-services.yaml", "Service", "/spec/ports/0", "targetport", "spec.ports[0].targetport"),
        (
            "operator/gateway.yaml",
            "GatewayConfiguration",
            "/spec/dataPlaneOptions/deployment",
            "podTemplate",
            "spec.dataPlaneOptions.deployment.podTemplate",
        ),
        ("kic/httproute.yaml", "HTTPRoute", "/metadata", "annotation", "metadata.annotation"),
    ] {
        let mut object = manifest(file, kind);
        object.pointer_mut(place).unwrap()[typo] = json!("x");
        let schema = schemas::of(&object);
        let finding = format!("unknown field \"{path}\"");
        let strict = schema.admit(&mut object.clone(), None, FieldValidation::Strict).unwrap_err();
        assert_eq!(strict, AdmitError::Strict(vec![finding.clone()]), "{file}");
        assert_eq!(strict.to_string(), format!("strict decoding error: {finding}"));
        let mut kept = object.clone();
        assert_eq!(schema.admit(&mut kept, None, FieldValidation::Warn), Ok(vec![finding]));
        assert!(kept.pointer(place).unwrap().get(typo).is_none());
        assert_eq!(schema.admit(&mut object, None, FieldValidation::Ignore), Ok(Vec::new()));
    }
}

#[test]
fn the_weights_of_the_guide_are_patched_in() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/kic/weights.json");
    let weights: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut route = manifest("kic/httproute.yaml", "HTTPRoute");
    let schema = schemas::of(&route);
    schema.admit(&mut route, None, FieldValidation::Strict).unwrap();
    assert_eq!(route["spec"]["rules"][0]["backendRefs"][0]["weight"], 1);
    let mut patched = patch::json::apply(&route, &weights).unwrap();
    schema.admit(&mut patched, Some(&route), FieldValidation::Strict).unwrap();
    assert_eq!(patched["spec"]["rules"][0]["backendRefs"][0]["weight"], 200);
    assert_eq!(patched["spec"]["rules"][0]["backendRefs"][1]["weight"], 100);
}

#[test]
fn the_podtemplate_of_a_gateway_configuration_is_kept_as_it_is() {
    let mut object = manifest("operator/gateway.yaml", "GatewayConfiguration");
    schemas::of(&object).admit(&mut object, None, FieldValidation::Strict).unwrap();
    assert_eq!(
        object["spec"]["dataPlaneOptions"]["deployment"]["podTemplateSpec"]["spec"]["containers"][0]["name"],
        "proxy"
    );
    assert_eq!(object["apiVersion"], "gateway-operator.konghq.com/v2beta1");
}

//! Objects as they come: from old CRDs, with fields of newer ones, with nulls.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking; clippy sees tests only in #[test]")]

use serde_json::json;
use weir_api::core_v1::{EndpointSlice, Service};
use weir_api::gateway::{AddressType, FromNamespaces, Gateway, GatewayClass, Protocol};
use weir_api::kong::GatewayConfiguration;
use weir_api::networking::Ingress;
use weir_api::policy::ReferenceGrant;
use weir_api::route::{FilterType, HttpRoute, ParentReference, PathMatchType, ValueMatchType};

#[test]
fn absent_fields_read_as_the_crd_defaults_them() {
    let route: HttpRoute = serde_json::from_value(json!({
        "metadata": {"name": "r"},
        "spec": {
            "parentRefs": [{"name": "gw"}],
            "rules": [{
                "matches": [{"path": {}, "headers": [{"name": "a", "value": "b"}]}],
                "filters": [
                    {"type": "RequestRedirect", "requestRedirect": {}},
                    {"type": "CORS", "cors": {}},
                    {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "m"}, "fraction": {"numerator": 3}}}],
                "backendRefs": [{"name": "s", "port": 80}]}]}}))
    .unwrap();
    let parent = &route.spec.parent_refs[0];
    assert_eq!((parent.group.as_str(), parent.kind.as_str()), ("gateway.networking.k8s.io", "Gateway"));
    let rule = &route.spec.rules[0];
    let path = rule.matches[0].path.as_ref().unwrap();
    assert_eq!((&path.type_, path.value()), (&PathMatchType::PathPrefix, "/"));
    assert_eq!(rule.matches[0].headers[0].type_, ValueMatchType::Exact);
    assert_eq!(rule.filters[0].request_redirect.as_ref().unwrap().status_code, 302);
    assert_eq!(rule.filters[1].cors.as_ref().unwrap().max_age, 5);
    let mirror = rule.filters[2].request_mirror.as_ref().unwrap();
    assert_eq!((mirror.fraction.unwrap().denominator, mirror.backend_ref.kind.as_str()), (100, "Service"));
    let backend = &rule.backend_refs[0];
    assert_eq!(
        (backend.weight, backend.backend.kind.as_str(), backend.backend.group.as_str()),
        (1, "Service", "")
    );

    let gateway: Gateway = serde_json::from_value(json!({
        "spec": {"gatewayClassName": "c", "addresses": [{}],
                 "listeners": [{"name": "l", "port": 80, "protocol": "HTTP", "tls": {"certificateRefs": [{"name": "c"}]}}]}}))
    .unwrap();
    let listener = &gateway.spec.listeners[0];
    assert_eq!(listener.allowed_routes.namespaces.from, FromNamespaces::Same);
    assert_eq!(listener.tls.as_ref().unwrap().certificate_refs[0].kind, "Secret");
    assert_eq!(gateway.spec.addresses[0].type_, AddressType::IpAddress);
}

#[test]
fn null_reads_like_absent_and_unknown_fields_are_ignored() {
    let nulls: HttpRoute = serde_json::from_value(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "status": null,
        "metadata": {"name": "r", "labels": null, "annotations": null, "generation": null, "managedFields": [{"x": 1}]},
        "spec": {"hostnames": null, "future": {"a": 1}, "parentRefs": [{"name": "gw", "group": null, "kind": null}],
            "rules": [{"name": null, "matches": null, "filters": null, "timeouts": null,
                       "backendRefs": [{"name": "s", "kind": null, "group": null, "weight": null, "filters": null}]}]}}))
    .unwrap();
    let plain: HttpRoute = serde_json::from_value(json!({
        "metadata": {"name": "r"},
        "spec": {"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": [{"name": "s"}]}]}}))
    .unwrap();
    assert_eq!(nulls, plain);
    for json in [json!({}), json!({"metadata": {}, "spec": null})] {
        serde_json::from_value::<Gateway>(json.clone()).unwrap();
        serde_json::from_value::<GatewayClass>(json.clone()).unwrap();
        serde_json::from_value::<ReferenceGrant>(json.clone()).unwrap();
        serde_json::from_value::<Service>(json.clone()).unwrap();
        serde_json::from_value::<EndpointSlice>(json.clone()).unwrap();
        serde_json::from_value::<Ingress>(json.clone()).unwrap();
        serde_json::from_value::<GatewayConfiguration>(json).unwrap();
    }
}

#[test]
fn a_value_that_is_not_known_is_kept_as_text() {
    let gateway: Gateway = serde_json::from_value(json!({
        "spec": {"listeners": [{"name": "l", "port": 1, "protocol": "example.com/odd"}]}}))
    .unwrap();
    let protocol = &gateway.spec.listeners[0].protocol;
    assert_eq!(*protocol, Protocol::Unknown("example.com/odd".to_owned()));
    assert_eq!(protocol.to_string(), "example.com/odd");
    let route: HttpRoute =
        serde_json::from_value(json!({"spec": {"rules": [{"filters": [{"type": "Future"}, {}]}]}})).unwrap();
    let types: Vec<&FilterType> = route.spec.rules[0].filters.iter().map(|filter| &filter.type_).collect();
    assert_eq!(types, [&FilterType::Unknown("Future".to_owned()), &FilterType::Absent]);
}

#[test]
fn a_parent_reference_is_written_as_it_was_with_group_and_kind() {
    let parent: ParentReference =
        serde_json::from_value(json!({"name": "gw", "sectionName": "s", "port": 80})).unwrap();
    assert_eq!(
        serde_json::to_value(&parent).unwrap(),
        json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw", "sectionName": "s", "port": 80})
    );
}

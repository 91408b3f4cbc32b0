//! Objects as they come: from old CRDs, with fields of newer ones, with nulls.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking; clippy sees tests only in #[test]")]

use serde_json::{Value, json};
use weir_api::core_v1::{ConfigMap, EndpointSlice, Secret, Service};
use weir_api::gateway_api::{
    AddressType, FromNamespaces, Gateway, GatewayClass, HeaderMatchType, HttpMethod, HttpRoute,
    HttpRouteFilterType, ParentReference, PathMatchType, ProtocolType, ReferenceGrant, UdpRoute, XBackend,
    XBackendTrafficPolicy, XMesh, kinds,
};
use weir_api::kong::GatewayConfiguration;
use weir_api::networking::Ingress;
use weir_api::read;

#[test]
fn absent_fields_read_as_the_crd_defaults_them() {
    let route: HttpRoute = read(json!({
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
    let path = &rule.matches[0].path;
    assert_eq!((&path.type_, path.value.as_str()), (&PathMatchType::PathPrefix, "/"));
    assert_eq!(rule.matches[0].headers[0].type_, HeaderMatchType::Exact);
    assert_eq!(rule.filters[0].request_redirect.as_ref().unwrap().status_code, 302);
    assert_eq!(rule.filters[1].cors.as_ref().unwrap().max_age, 5);
    let mirror = rule.filters[2].request_mirror.as_ref().unwrap();
    assert_eq!(
        (mirror.fraction.as_ref().unwrap().denominator, mirror.backend_ref.kind.as_str()),
        (100, "Service")
    );
    let backend = &rule.backend_refs[0];
    assert_eq!((backend.weight, backend.kind.as_str(), backend.group.as_str()), (1, "Service", ""));

    let gateway: Gateway = read(json!({
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
    let nulls: HttpRoute = read(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "status": null,
        "metadata": {"name": "r", "labels": null, "annotations": null, "generation": null, "managedFields": [{"x": 1}]},
        "spec": {"hostnames": null, "future": {"a": 1}, "parentRefs": [{"name": "gw", "group": null, "kind": null}],
            "rules": [{"name": null, "matches": null, "filters": null, "timeouts": null,
                       "backendRefs": [{"name": "s", "kind": null, "group": null, "weight": null, "filters": null}]}]}}))
    .unwrap();
    let plain: HttpRoute = read(json!({
        "metadata": {"name": "r"},
        "spec": {"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": [{"name": "s"}]}]}}))
    .unwrap();
    assert_eq!(nulls, plain);
    for json in [json!({}), json!({"metadata": {}, "spec": null})] {
        read::<Gateway>(json.clone()).unwrap();
        read::<GatewayClass>(json.clone()).unwrap();
        read::<ReferenceGrant>(json.clone()).unwrap();
        read::<Service>(json.clone()).unwrap();
        read::<EndpointSlice>(json.clone()).unwrap();
        read::<Ingress>(json.clone()).unwrap();
        read::<GatewayConfiguration>(json).unwrap();
    }
}

#[test]
fn a_value_that_is_not_known_is_kept_as_text() {
    let gateway: Gateway = read(json!({
        "spec": {"listeners": [{"name": "l", "port": 1, "protocol": "example.com/odd"}]}}))
    .unwrap();
    let protocol = &gateway.spec.listeners[0].protocol;
    assert_eq!(*protocol, ProtocolType::Unknown("example.com/odd".to_owned()));
    assert_eq!(protocol.to_string(), "example.com/odd");
    let route: HttpRoute = read(json!({"spec": {"rules": [{"filters": [{"type": "Future"}, {}]}]}})).unwrap();
    let types: Vec<&HttpRouteFilterType> =
        route.spec.rules[0].filters.iter().map(|filter| &filter.type_).collect();
    assert_eq!(
        types,
        [&HttpRouteFilterType::Unknown("Future".to_owned()), &HttpRouteFilterType::Unknown(String::new())]
    );
}

#[test]
fn a_parent_reference_is_written_as_it_was_with_group_and_kind() {
    let parent: ParentReference = read(json!({"name": "gw", "sectionName": "s", "port": 80})).unwrap();
    assert_eq!(
        serde_json::to_value(&parent).unwrap(),
        json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw", "sectionName": "s", "port": 80})
    );
}

#[test]
fn what_an_object_leaves_out_or_leaves_empty_is_not_the_same() {
    let read_route = |rules: Value| read::<HttpRoute>(json!({"spec": {"rules": rules}})).unwrap();
    let defaulted = read::<HttpRoute>(json!({})).unwrap();
    assert_eq!(defaulted.spec.rules.len(), 1);
    assert_eq!(defaulted.spec.rules[0].matches[0].path.type_, PathMatchType::PathPrefix);
    assert!(read_route(json!([])).spec.rules.is_empty());
    assert_eq!(read_route(json!([{}])), defaulted);

    let policy = |constraint: Value| {
        read::<XBackendTrafficPolicy>(json!({"spec": {"retryConstraint": constraint}}))
            .unwrap()
            .spec
            .retry_constraint
            .unwrap()
    };
    let whole = policy(json!({}));
    assert_eq!((whole.budget.percent, whole.budget.interval.as_str()), (20, "10s"));
    assert_eq!(
        (whole.min_retry_rate.count, whole.min_retry_rate.interval.as_deref()),
        (Some(10), Some("1s"))
    );
    // The default is of the object as a whole: once it is there its parts have none.
    let part = policy(json!({"minRetryRate": {"count": 3}}));
    assert_eq!((part.min_retry_rate.count, part.min_retry_rate.interval), (Some(3), None));
}

#[test]
fn a_namespace_selection_reads_as_the_api_defaults_it_where_it_stands() {
    let gateway: Gateway =
        read(json!({"spec": {"allowedListeners": {}, "listeners": [{"name": "l"}]}})).unwrap();
    assert_eq!(gateway.spec.allowed_listeners.unwrap().namespaces.from, FromNamespaces::None);
    assert_eq!(gateway.spec.listeners[0].allowed_routes.namespaces.from, FromNamespaces::Same);
    assert_eq!(gateway.spec.listeners[0].protocol, ProtocolType::Unknown(String::new()));
}

#[test]
fn every_kind_of_both_channels_has_a_type_and_facts() {
    let names: Vec<&str> = kinds::ALL.iter().map(|facts| facts.kind).collect();
    assert_eq!(
        names,
        [
            "BackendTLSPolicy",
            "GRPCRoute",
            "Gateway",
            "GatewayClass",
            "HTTPRoute",
            "ListenerSet",
            "ReferenceGrant",
            "TCPRoute",
            "TLSRoute",
            "UDPRoute",
            "XBackend",
            "XBackendTrafficPolicy",
            "XMesh"
        ]
    );
    let tls = kinds::TLS_ROUTE;
    assert_eq!(tls.version_names, ["v1", "v1alpha3", "v1alpha2"]);
    let served: Vec<_> = tls.versions.iter().map(|one| (one.standard, one.experimental)).collect();
    assert_eq!(served, [(Some(true), Some(true)), (Some(false), Some(true)), (Some(false), Some(true))]);
    let of_cluster: Vec<&str> =
        kinds::ALL.iter().filter(|facts| facts.cluster_scoped).map(|facts| facts.kind).collect();
    assert_eq!(of_cluster, ["GatewayClass", "XMesh"]);
    assert_eq!(kinds::X_MESH.versions[0].standard, None);
    let without_status: Vec<&str> =
        kinds::ALL.iter().filter(|facts| !facts.has_status).map(|facts| facts.kind).collect();
    assert_eq!(without_status, ["ReferenceGrant"]);

    let backend: XBackend = read(json!({"spec": {"type": "ExternalHostname", "port": {"port": 443},
        "externalHostname": {"hostname": "a.example.com"}, "protocol": "H2C"}}))
    .unwrap();
    assert_eq!((backend.spec.port.port, backend.spec.protocol.unwrap().as_str()), (443, "H2C"));
    let mesh: XMesh = read(json!({"spec": {"controllerName": "a/b"}})).unwrap();
    assert_eq!(mesh.spec.controller_name, "a/b");
    let udp: UdpRoute =
        read(json!({"spec": {"rules": [{"backendRefs": [{"name": "s", "port": 53}]}]}})).unwrap();
    assert_eq!(udp.spec.rules[0].backend_refs[0].weight, 1);
}

#[test]
fn parts_that_are_mostly_absent_take_a_pointer() {
    let filter = std::mem::size_of::<weir_api::gateway_api::HttpRouteFilter>();
    assert!(filter <= 160, "a filter takes {filter} bytes");
    let rule = std::mem::size_of::<weir_api::gateway_api::HttpRouteRule>();
    assert!(rule <= 136, "a rule takes {rule} bytes");
}

#[test]
fn a_method_keeps_its_text_whatever_it_is() {
    let route: HttpRoute =
        read(json!({"spec": {"rules": [{"matches": [{"method": "PURGE"}, {"method": "GET"}]}]}})).unwrap();
    let methods: Vec<_> = route.spec.rules[0].matches.iter().map(|one| one.method.clone().unwrap()).collect();
    assert_eq!(methods, [HttpMethod::Unknown("PURGE".to_owned()), HttpMethod::Get]);
}

/// An object that `kubectl apply` made, with everything that a Secret can hold.
fn secret(type_: &str) -> Value {
    let data = json!({"tls.crt": "Y2VydA==", "tls.key": "a2V5", "ca.crt": "hidden", "password": "hidden"});
    json!({
        "metadata": {
            "name": "s", "labels": {"team": "a"},
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "{\"data\": \"hidden\"}",
                "konghq.com/strip-path": "true",
            },
        },
        "type": type_, "data": data,
    })
}

#[test]
fn what_kubectl_last_applied_is_not_read() {
    let route: HttpRoute = read(secret("")).unwrap();
    let Secret { metadata, .. } = read(secret("kubernetes.io/tls")).unwrap();
    for metadata in [route.metadata, metadata] {
        let names: Vec<&String> = metadata.annotations.keys().collect();
        assert_eq!(names, ["konghq.com/strip-path"]);
        assert_eq!(metadata.labels.len(), 1);
    }
}

#[test]
fn of_a_secret_only_what_its_type_is_for_is_read() {
    let tls: Secret = read(secret("kubernetes.io/tls")).unwrap();
    assert_eq!(
        (tls.data.certificate.as_deref(), tls.data.private_key.as_deref()),
        (Some("Y2VydA=="), Some("a2V5"))
    );
    assert!(tls.session_keys.is_empty());
    let session: Secret = read(secret("weir.dev/session-key")).unwrap();
    assert_eq!((session.session_keys.len(), session.data.private_key), (4, None));
    for type_ in ["Opaque", "kubernetes.io/service-account-token", ""] {
        let other: Secret = read(secret(type_)).unwrap();
        assert!(other.data.certificate.is_none() && other.data.private_key.is_none(), "{type_}");
        assert!(other.session_keys.is_empty(), "{type_}");
    }
    let map: ConfigMap = read(secret("")).unwrap();
    assert_eq!(map.data.authorities.as_deref(), Some("hidden"));
}

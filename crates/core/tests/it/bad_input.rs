//! Bad input: the object gets the API's own condition and reason, and everything beside it goes on.

use std::fmt::Write as _;

use base64::Engine as _;
use serde_json::{Value, json};
use weir_api::condition::Condition;
use weir_core::{Kind, Status};
use weir_model::resource::Body;

use crate::world::{World, certificate, key, read};

/// A class, a Gateway with an HTTP and two HTTPS listeners, a Service and a route that is in order.
fn world(more: Vec<Value>) -> World {
    let (chain, private_key) = certificate(&["a.example.com"]);
    let mut all = vec![
        json!({"kind": "GatewayClass", "metadata": {"name": "weir"}, "spec": {"controllerName": "weir.dev/gateway-controller"}}),
        json!({"kind": "Gateway", "metadata": {"namespace": "a", "name": "gw"}, "spec": {"gatewayClassName": "weir", "listeners": [
            {"name": "plain", "port": 80, "protocol": "HTTP"},
            {"name": "good", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "good"}]}},
            {"name": "bad", "port": 8443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "bad"}]}}]}}),
        secret(
            "good",
            "kubernetes.io/tls",
            &json!({"tls.crt": coded(&chain), "tls.key": coded(&private_key)}),
        ),
        json!({"kind": "Service", "metadata": {"namespace": "a", "name": "s"}, "spec": {"ports": [{"port": 80}]}}),
        route("fine", json!({"rules": [{"backendRefs": [{"name": "s", "port": 80}]}]})),
    ];
    all.extend(more);
    let mut world = World::new();
    for json in all {
        world.objects.upsert(read(json));
    }
    world.settle();
    assert_eq!(world.rejected(), []);
    world
}

fn coded(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn secret(name: &str, type_: &str, data: &Value) -> Value {
    json!({"kind": "Secret", "metadata": {"namespace": "a", "name": name}, "type": type_, "data": data})
}

/// A route to the plain listener.
fn route(name: &str, mut spec: Value) -> Value {
    spec["parentRefs"] = json!([{"name": "gw", "sectionName": "plain"}]);
    json!({"kind": "HTTPRoute", "metadata": {"namespace": "a", "name": name, "uid": name}, "spec": spec})
}

/// `Type=Status Reason` of every condition of an object; of a Gateway also of each listener, after its name.
fn said(world: &World, kind: Kind, name: &str) -> String {
    let one = |all: &[Condition], before: &str, out: &mut String| {
        for condition in all {
            let _ = writeln!(out, "{before}{}={} {}", condition.type_, condition.status, condition.reason);
        }
    };
    let mut out = String::new();
    match world.status(&key(kind, "a", name)) {
        Some(Status::Gateway(status)) => {
            one(&status.conditions, "", &mut out);
            for listener in &status.listeners {
                one(&listener.conditions, &format!("{} ", listener.name), &mut out);
            }
        }
        Some(Status::ListenerSet(status)) => one(&status.conditions, "", &mut out),
        Some(Status::Route(entries)) => entries.iter().for_each(|entry| one(&entry.conditions, "", &mut out)),
        Some(Status::Policy(entries)) => {
            entries.iter().for_each(|entry| one(&entry.conditions, "", &mut out))
        }
        _ => {}
    }
    out
}

#[track_caller]
fn has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|one| one == *line), "{line} is not in\n{text}");
    }
}

/// The route that is in order, and the listeners beside the bad one, are as if nothing had happened.
#[track_caller]
fn the_rest_goes_on(world: &World) {
    has(&said(world, Kind::HttpRoute, "fine"), &["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]);
    let gateway = said(world, Kind::Gateway, "gw");
    has(&gateway, &["Accepted=True Accepted", "Programmed=True Programmed"]);
    has(&gateway, &["plain Programmed=True Programmed", "good Programmed=True Programmed"]);
    has(&gateway, &["plain ResolvedRefs=True ResolvedRefs", "good ResolvedRefs=True ResolvedRefs"]);
    assert!(world.resource("httproute/a/fine").is_some());
}

#[test]
fn a_certificate_that_is_broken_makes_its_listener_s_reference_invalid() {
    let (chain, private_key) = certificate(&["a.example.com"]);
    let (_, foreign) = certificate(&["a.example.com"]);
    let cut = chain.replace('\n', " ");
    let half = &chain[..chain.len() / 2];
    let pairs = [
        ("no PEM", json!({"tls.crt": coded("x"), "tls.key": coded(&private_key)})),
        ("no base64", json!({"tls.crt": "%%%", "tls.key": coded(&private_key)})),
        ("line breaks lost", json!({"tls.crt": coded(&cut), "tls.key": coded(&private_key)})),
        ("cut in the middle", json!({"tls.crt": coded(half), "tls.key": coded(&private_key)})),
        ("no key", json!({"tls.crt": coded(&chain)})),
        ("no chain", json!({"tls.key": coded(&private_key)})),
        ("the key is no key", json!({"tls.crt": coded(&chain), "tls.key": coded(&chain)})),
        ("another's key", json!({"tls.crt": coded(&chain), "tls.key": coded(&foreign)})),
        ("nothing", json!({})),
    ];
    for (what, data) in pairs {
        let world = world(vec![secret("bad", "kubernetes.io/tls", &data)]);
        let gateway = said(&world, Kind::Gateway, "gw");
        assert!(gateway.contains("bad ResolvedRefs=False InvalidCertificateRef"), "{what}: {gateway}");
        assert!(gateway.contains("bad Programmed=False Invalid"), "{what}: {gateway}");
        the_rest_goes_on(&world);
    }
}

#[test]
fn a_secret_of_another_type_or_none_is_no_certificate() {
    let (chain, private_key) = certificate(&["a.example.com"]);
    let data = json!({"tls.crt": coded(&chain), "tls.key": coded(&private_key)});
    for more in [vec![secret("bad", "Opaque", &data)], vec![secret("bad", "", &data)], Vec::new()] {
        let world = world(more);
        has(&said(&world, Kind::Gateway, "gw"), &["bad ResolvedRefs=False InvalidCertificateRef"]);
        the_rest_goes_on(&world);
    }
}

/// The authority of a backend, as PEM; `expired`: its time was over long ago.
fn authority(expired: bool) -> String {
    let pair = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters.not_before = rcgen::date_time_ymd(2000, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(if expired { 2001 } else { 4000 }, 1, 1);
    parameters.self_signed(&pair).unwrap().pem()
}

fn policy(authorities: &Value) -> Vec<Value> {
    vec![
        json!({"kind": "ConfigMap", "metadata": {"namespace": "a", "name": "ca"}, "data": authorities}),
        json!({"kind": "BackendTLSPolicy", "metadata": {"namespace": "a", "name": "p"}, "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "s"}],
            "validation": {"hostname": "s.example.com", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]}}}),
    ]
}

#[test]
fn where_nobody_says_what_time_it_is_an_expired_authority_is_a_valid_reference() {
    // With a time it is none (`material`). The data plane, which knows it, takes no certificate that the authority vouches for.
    for expired in [false, true] {
        let world = world(policy(&json!({"ca.crt": authority(expired)})));
        let text = said(&world, Kind::BackendTlsPolicy, "p");
        has(&text, &["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]);
        let tls = world.translator.resources().find_map(|resource| match &resource.body {
            Some(Body::Backend(backend)) => backend.tls.clone(),
            _ => None,
        });
        let tls = tls.expect("the backend is spoken to over TLS");
        assert_eq!(
            (tls.ca_bundles.len(), tls.system_authorities, tls.invalid_reason.as_str()),
            (1, false, "")
        );
        the_rest_goes_on(&world);
    }
}

#[test]
fn authorities_that_cannot_be_read_leave_a_policy_without_any_and_its_backend_without_plain_text() {
    let garbled = authority(false).replace("MII", "@@@");
    for data in [json!({}), json!({"ca.crt": ""}), json!({"ca.crt": "x"}), json!({"ca.crt": garbled})] {
        let world = world(policy(&data));
        let text = said(&world, Kind::BackendTlsPolicy, "p");
        has(&text, &["Accepted=False NoValidCACertificate", "ResolvedRefs=False InvalidCACertificateRef"]);
        for resource in world.translator.resources() {
            if let Some(Body::Backend(backend)) = &resource.body {
                let tls = backend.tls.as_ref().expect("never without TLS");
                assert_eq!(tls.invalid_reason, "NoValidCACertificate");
            }
        }
    }
}

#[test]
fn a_regular_expression_that_does_not_compile_drops_its_rule_and_nothing_else() {
    let backends = json!([{"name": "s", "port": 80}]);
    let all_bad = json!([{"path": {"type": "RegularExpression", "value": "/("}}]);
    let some = json!([{"path": {"type": "RegularExpression", "value": "/("}}, {"path": {"type": "Exact", "value": "/ok"}}]);
    let header = json!([{"headers": [{"type": "RegularExpression", "name": "x", "value": "a{99999999}"}]}]);
    let world = world(vec![
        route("none", json!({"rules": [{"matches": all_bad, "backendRefs": backends}]})),
        route(
            "some",
            json!({"rules": [{"matches": some, "backendRefs": backends},
            {"matches": [{"path": {"value": "/s"}}], "backendRefs": backends}]}),
        ),
        route(
            "header",
            json!({"rules": [{"matches": header, "backendRefs": backends},
            {"matches": [{"path": {"value": "/h"}}], "backendRefs": backends}]}),
        ),
    ]);
    has(&said(&world, Kind::HttpRoute, "none"), &["Accepted=False UnsupportedValue"]);
    has(
        &said(&world, Kind::HttpRoute, "some"),
        &["Accepted=True Accepted", "PartiallyInvalid=True UnsupportedValue"],
    );
    has(
        &said(&world, Kind::HttpRoute, "header"),
        &["Accepted=True Accepted", "PartiallyInvalid=True UnsupportedValue"],
    );
    the_rest_goes_on(&world);
}

/// The largest route that the API lets through: 16 rules with 128 matches together, 16 backends each, 16 filters' worth of header
/// changes, names and values as long as they may be.
fn largest() -> Value {
    let headers: Vec<Value> =
        (0..16).map(|index| json!({"name": format!("{index:0>256}"), "value": "v".repeat(4096)})).collect();
    let backends: Vec<Value> = (0..16)
        .map(
            |weight| json!({"name": "s", "port": 80, "weight": if weight == 0 { 1_000_000 } else { weight }}),
        )
        .collect();
    let rules: Vec<Value> = (0..16)
        .map(|rule| {
            let matches: Vec<Value> = (0..8)
                .map(|one| {
                    let start = format!("/{rule}/{one}/");
                    json!({"path": {"type": "PathPrefix", "value": format!("{start}{}", "p".repeat(1024 - start.len()))},
                        "headers": headers, "queryParams": [{"name": "q".repeat(256), "value": "v".repeat(1024)}]})
                })
                .collect();
            json!({"name": format!("rule-{rule}"), "matches": matches, "backendRefs": backends,
                "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": headers}}]})
        })
        .collect();
    let hostnames: Vec<String> = (0..16).map(|index| format!("h{index}.example.com")).collect();
    route("large", json!({"hostnames": hostnames, "rules": rules}))
}

#[test]
fn a_route_at_every_limit_of_the_api_is_served_and_one_beyond_those_of_a_split_loses_that_rule() {
    // An API server does not let more in; from an older one it may come.
    let with = |name: &str, count: usize| {
        let mut route = largest();
        route["metadata"] = json!({"namespace": "a", "name": name, "uid": name});
        route["spec"]["rules"][3]["backendRefs"] = vec![json!({"name": "s", "port": 80}); count].into();
        route
    };
    let world = world(vec![largest(), with("more", 17), with("too-many", 256)]);
    for name in ["large", "more"] {
        let text = said(&world, Kind::HttpRoute, name);
        has(&text, &["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]);
        assert!(!text.contains("PartiallyInvalid"), "{text}");
    }
    let Some(Body::HttpRoute(route)) = &world.resource("httproute/a/large").unwrap().body else {
        panic!("a route");
    };
    assert_eq!(route.rules.len(), 16);
    assert!(route.rules.iter().all(|rule| rule.matches.len() == 8 && rule.backends.len() == 16));
    let text = said(&world, Kind::HttpRoute, "too-many");
    has(&text, &["Accepted=True Accepted", "PartiallyInvalid=True UnsupportedValue"]);
    the_rest_goes_on(&world);
}

#[test]
fn references_that_lead_nowhere_or_in_circles_are_told_and_come_to_rest() {
    let set = |name: &str, parent: Value| {
        json!({"kind": "ListenerSet", "metadata": {"namespace": "a", "name": name},
            "spec": {"parentRef": parent, "listeners": [{"name": "l", "port": 90, "protocol": "HTTP"}]}})
    };
    let to =
        |kind: &str, name: &str| json!({"group": "gateway.networking.k8s.io", "kind": kind, "name": name});
    let at_set = json!({"kind": "HTTPRoute", "metadata": {"namespace": "a", "name": "at-set", "uid": "x"},
        "spec": {"parentRefs": [to("ListenerSet", "one")]}});
    let at_route = json!({"kind": "HTTPRoute", "metadata": {"namespace": "a", "name": "at-route", "uid": "y"},
        "spec": {"parentRefs": [to("HTTPRoute", "at-route")]}});
    let mirror =
        json!([{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "gone", "port": 80}}}]);
    let outside = json!({"kind": "Service", "metadata": {"namespace": "a", "name": "self"},
        "spec": {"type": "ExternalName", "externalName": "self.a.svc.cluster.local", "ports": [{"port": 80}]}});
    let world = world(vec![
        set("one", to("ListenerSet", "two")),
        set("two", to("ListenerSet", "one")),
        set("three", to("ListenerSet", "three")),
        set("lost", to("Gateway", "gone")),
        at_set,
        at_route,
        outside,
        route("missing", json!({"rules": [{"backendRefs": [{"name": "gone", "port": 80}]}]})),
        route(
            "mirrored",
            json!({"rules": [{"filters": mirror, "backendRefs": [{"name": "s", "port": 80}]}]}),
        ),
        route("circular", json!({"rules": [{"backendRefs": [{"name": "self", "port": 80}]}]})),
        route("unnamed", json!({"parentRefs": [], "rules": [{"backendRefs": [{"port": 80}]}]})),
    ]);
    // Nobody's: a set whose Gateway is not ours has no status of ours, nor has a route whose parents lead nowhere.
    for name in ["one", "two", "three", "lost"] {
        assert_eq!(said(&world, Kind::ListenerSet, name), "", "{name}");
    }
    for name in ["at-set", "at-route"] {
        assert_eq!(said(&world, Kind::HttpRoute, name), "", "{name}");
        assert!(world.resource(&format!("httproute/a/{name}")).is_none());
    }
    has(
        &said(&world, Kind::HttpRoute, "missing"),
        &["Accepted=True Accepted", "ResolvedRefs=False BackendNotFound"],
    );
    // A mirror that leads nowhere harms no request, and is told.
    has(
        &said(&world, Kind::HttpRoute, "mirrored"),
        &["Accepted=True Accepted", "ResolvedRefs=False BackendNotFound"],
    );
    has(
        &said(&world, Kind::HttpRoute, "circular"),
        &["Accepted=True Accepted", "ResolvedRefs=False UnsupportedValue"],
    );
    has(
        &said(&world, Kind::HttpRoute, "unnamed"),
        &["Accepted=True Accepted", "ResolvedRefs=False BackendNotFound"],
    );
    the_rest_goes_on(&world);
}

#[test]
fn an_extension_of_nobody_s_is_an_invalid_kind_and_its_rule_answers_500() {
    let filters =
        json!([{"type": "ExtensionRef", "extensionRef": {"group": "x.example", "kind": "Odd", "name": "n"}}]);
    let world = world(vec![route(
        "odd",
        json!({"rules": [{"filters": filters, "backendRefs": [{"name": "s", "port": 80}]}]}),
    )]);
    has(&said(&world, Kind::HttpRoute, "odd"), &["Accepted=True Accepted", "ResolvedRefs=False InvalidKind"]);
    the_rest_goes_on(&world);
}

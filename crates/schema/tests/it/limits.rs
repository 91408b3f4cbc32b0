//! The largest HTTPRoute that the API lets in, and every way of going one beyond.

use serde_json::{Value, json};

use crate::schemas::embedded;

fn headers(count: usize) -> Vec<Value> {
    (0..count).map(|index| json!({"name": format!("{index:0>256}"), "value": "v".repeat(4096)})).collect()
}

fn path(start: &str, length: usize) -> Value {
    json!({"type": "PathPrefix", "value": format!("{start}{}", "p".repeat(length - start.len()))})
}

/// 16 rules with 8 matches each, which is all of 128; of everything else as much and as long as may be.
fn largest() -> Value {
    let queries: Vec<Value> =
        (0..16).map(|index| json!({"name": format!("{index:0>256}"), "value": "v".repeat(1024)})).collect();
    let rule = |index: usize| {
        let matches: Vec<Value> = (0..8)
            .map(|one| {
                json!({"path": path(&format!("/{index}/{one}/"), 1024), "headers": headers(16), "queryParams": queries})
            })
            .collect();
        let modifier = json!({"set": headers(16), "add": headers(16),
            "remove": (0..16).map(|index| format!("r{index}")).collect::<Vec<_>>()});
        let mut filters = vec![
            json!({"type": "RequestHeaderModifier", "requestHeaderModifier": modifier}),
            json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": modifier}),
        ];
        let mirror =
            json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "m", "port": 65535}}});
        filters.resize(16, mirror);
        json!({"name": format!("{index:0>253}"), "matches": matches, "filters": filters,
            "backendRefs": vec![json!({"name": "s", "port": 80, "weight": 1_000_000}); 16]})
    };
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "large"},
        "spec": {
            "parentRefs": (0..32).map(|index| json!({"name": format!("g{index}")})).collect::<Vec<_>>(),
            "hostnames": (0..16).map(|index| format!("h{index}.example.com")).collect::<Vec<_>>(),
            "rules": (0..16).map(rule).collect::<Vec<_>>()}})
}

fn told(route: &Value) -> Vec<String> {
    let schema = embedded("HTTPRoute", "v1");
    let mut route = route.clone();
    schema.default(&mut route);
    schema.validate(&route, None).into_iter().map(|error| error.to_string()).collect()
}

#[test]
fn a_route_at_every_limit_is_let_in_and_one_beyond_any_of_them_is_not() {
    assert_eq!(told(&largest()), Vec::<String>::new());
    let first = |pointer: &str| format!("/spec/rules/0{pointer}");
    // Where something is too long or too many, and what it says.
    let beyond: Vec<(String, Value, &str)> = vec![
        ("/spec/parentRefs/-".into(), json!({"name": "more"}), "must have at most 32 items"),
        ("/spec/hostnames/-".into(), json!("more.example.com"), "must have at most 16 items"),
        ("/spec/hostnames/0".into(), json!(format!("{}.com", "a".repeat(250))), "may not be more than 253"),
        ("/spec/rules/-".into(), json!({}), "must have at most 16 items"),
        (first("/matches/-"), json!({}), "less than 128"),
        (first("/matches"), json!(vec![json!({}); 65]), "must have at most 64 items"),
        (first("/matches/0/headers/-"), json!({"name": "a", "value": "b"}), "must have at most 16 items"),
        (first("/matches/0/headers/0/name"), json!("n".repeat(257)), "may not be more than 256"),
        (first("/matches/0/headers/0/value"), json!("v".repeat(4097)), "may not be more than 4096"),
        (first("/matches/0/queryParams/-"), json!({"name": "a", "value": "b"}), "must have at most 16 items"),
        (first("/matches/0/queryParams/0/value"), json!("v".repeat(1025)), "may not be more than 1024"),
        (first("/matches/0/path"), path("/", 1025), "may not be more than 1024"),
        (first("/name"), json!("n".repeat(254)), "may not be more than 253"),
        (first("/filters/-"), json!({"type": "CORS", "cors": {}}), "must have at most 16 items"),
        (
            first("/filters/0/requestHeaderModifier/set/-"),
            json!({"name": "a", "value": "b"}),
            "must have at most 16 items",
        ),
        (first("/filters/0/requestHeaderModifier/remove/-"), json!("a"), "must have at most 16 items"),
        (first("/filters/2/requestMirror/backendRef/port"), json!(65_536), "less than or equal to 65535"),
        (first("/backendRefs/-"), json!({"name": "s", "port": 80}), "must have at most 16 items"),
        (first("/backendRefs/0/weight"), json!(1_000_001), "less than or equal to 1000000"),
        (first("/backendRefs/0/weight"), json!(-1), "greater than or equal to 0"),
        (first("/backendRefs/0/port"), json!(0), "greater than or equal to 1"),
    ];
    for (pointer, value, wanted) in beyond {
        let mut route = largest();
        match pointer.strip_suffix("/-") {
            Some(list) => route.pointer_mut(list).unwrap().as_array_mut().unwrap().push(value),
            None => *route.pointer_mut(&pointer).unwrap() = value,
        }
        let told = told(&route);
        assert!(told.iter().any(|error| error.contains(wanted)), "{pointer}: {told:?}");
    }
}

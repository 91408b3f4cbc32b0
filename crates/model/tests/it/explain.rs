//! What people are told about a request.

use weir_model::explain::{Candidate, MAX_STEPS, explain, explain_connection, explain_https};
use weir_model::resource::{HttpMatch, ListenerProtocol};
use weir_model::select::RequestView;
use weir_model::table::{BindKind, Snapshot};

use crate::build::{attach, full, l4_route, listener, listener_of, prefix, regex, route, rule, value};
use crate::random::Random;
use crate::world::{
    Answer, LISTENERS, answer, connect, random_l4_route, random_listener, random_request, random_route,
};

const NONE: [(&str, &str); 0] = [];

fn get<'a>(host: &'a str, path: &'a str) -> RequestView<'a> {
    RequestView { method: b"GET", host: host.as_bytes(), path: path.as_bytes(), query: None, headers: &NONE }
}

#[test]
fn every_entry_that_was_passed_over_is_named_with_its_reason() {
    let with = |change: fn(&mut HttpMatch)| {
        let mut matched = prefix("/a");
        change(&mut matched);
        matched
    };
    let (snapshot, _) = Snapshot::empty(1).apply(&full(vec![
        listener("l", "127.0.0.1", 80, "*.example.com"),
        route(
            "r",
            0,
            vec![attach("l", &["*.example.com"])],
            vec![
                rule("", vec![regex("/a/[0-9]"), with(|m| m.method = "PUT".into())], &[]),
                rule("canary", vec![with(|m| m.headers = vec![value("x-canary", "1")])], &[]),
                rule("beta", vec![with(|m| m.query = vec![value("beta", "1")])], &[]),
                rule("all", vec![prefix("/")], &[]),
                rule("elsewhere", vec![prefix("/b")], &[]),
            ],
        ),
    ]));
    let (_, table) = snapshot.binds().next().unwrap();
    let (selected, explanation) = explain(table, &get("a.example.com", "/a/x"));
    assert_eq!(&*selected.unwrap().rule.name, "all");
    assert_eq!(
        explanation.to_string(),
        "listeners for `*.example.com`: listener/ns/gw/l\n\
         passed over HTTPRoute ns/r rule 0 match 0: RegularExpression /a/[0-9]: the path does not match the expression\n\
         passed over HTTPRoute ns/r rule 0 match 1: PathPrefix /a: another method\n\
         passed over HTTPRoute ns/r rule 1 (canary) match 0: PathPrefix /a: header `x-canary` is missing or has another value\n\
         passed over HTTPRoute ns/r rule 2 (beta) match 0: PathPrefix /a: query parameter `beta` is missing or has another value\n\
         chosen HTTPRoute ns/r rule 3 (all) match 0: PathPrefix /, attached to listener/ns/gw/l\n"
    );
    let (selected, explanation) = explain(table, &get("example.org", "/"));
    assert!(selected.is_none());
    assert_eq!(explanation.to_string(), "no listener serves this host\n");
}

#[test]
fn explaining_is_selecting() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut resources: Vec<_> = LISTENERS.iter().map(|name| random_listener(&mut random, name)).collect();
        resources.extend((0..8).map(|index| random_route(&mut random, &format!("ns/r{index}"))));
        resources.extend((0..3).map(|index| random_l4_route(&mut random, &format!("ns/r{index}"))));
        let (snapshot, _) = Snapshot::empty(1).apply(&full(resources));
        for _ in 0..40 {
            let request = random_request(&mut random);
            let Some(table) = snapshot.bind(&request.bind) else { continue };
            let server_name = request.server_name.map(str::as_bytes);
            let explanation = match table.kind() {
                BindKind::Tls => explain_https(table, server_name, &request.view()).1,
                _ => explain(table, &request.view()).1,
            };
            let route = |one: &Candidate| format!("{}/{}", one.kind.name(), one.route);
            let told = match explanation.chosen {
                Some(one) => Answer::Rule {
                    route: route(&one),
                    rule: one.rule_index,
                    alternative: one.match_index,
                    listener: one.listener,
                },
                None if explanation.misdirected => Answer::Misdirected,
                None => Answer::NotFound,
            };
            assert_eq!(told, answer(&snapshot, &request));
            let (_, explanation) = explain_connection(table, server_name);
            let told = explanation.chosen.map(|one| (route(&one), one.listener));
            assert_eq!(told, connect(&snapshot, &request));
        }
    }
}

#[test]
fn connections_are_told_of_too() {
    let on_443 = |name, hostname| listener_of(ListenerProtocol::Tls, name, 443, hostname);
    let (snapshot, _) = Snapshot::empty(1).apply(&full(vec![
        on_443("l", "*.example.com"),
        listener_of(ListenerProtocol::Https, "h", 443, "www.example.com"),
        l4_route("tlsroute", "old", 1, vec![attach("l", &["a.example.com"])], vec![]),
        l4_route("tlsroute", "young", 2, vec![attach("l", &["a.example.com"])], vec![]),
        l4_route("tlsroute", "wide", 0, vec![attach("l", &["*.example.com"])], vec![]),
    ]));
    let (_, table) = snapshot.binds().next().unwrap();
    let (selected, explanation) = explain_connection(table, Some(b"a.example.com"));
    assert_eq!(&*selected.unwrap().rule.route, "ns/old");
    let why = "another route is older, first by name, or more specific";
    assert_eq!(
        explanation.to_string(),
        format!(
            "listeners for `*.example.com`: listener/ns/gw/l\n\
             TLS is passed on as it is\n\
             passed over TLSRoute ns/young: {why}\n\
             passed over TLSRoute ns/wide: {why}\n\
             chosen TLSRoute ns/old, attached to listener/ns/gw/l\n"
        )
    );
    let (_, explanation) = explain_connection(table, Some(b"example.org"));
    assert_eq!(explanation.to_string(), "no listener serves this host\n");
    let (_, explanation) = explain_https(table, Some(b"www.example.com"), &get("a.example.com", "/"));
    assert_eq!(
        explanation.to_string(),
        "this host belongs to other listeners than the connection does (421)\n"
    );
    let (_, explanation) = explain_https(table, Some(b"www.example.com"), &get("www.example.com", "/"));
    assert_eq!(
        explanation.to_string(),
        "listeners for `www.example.com`: listener/ns/gw/h\n\
         TLS ends here, with HTTP inside\n\
         no rule of these listeners takes it\n"
    );
}

#[test]
fn an_explanation_is_bounded() {
    let rules = (0..MAX_STEPS + 10)
        .map(|index| {
            let headers = vec![value(&format!("h{index}"), "1")];
            rule(&format!("r{index}"), vec![HttpMatch { headers, ..prefix("/") }], &[])
        })
        .collect();
    let (snapshot, _) = Snapshot::empty(1).apply(&full(vec![
        listener("l", "127.0.0.1", 80, ""),
        route("r", 0, vec![attach("l", &[""])], rules),
    ]));
    let (_, table) = snapshot.binds().next().unwrap();
    let (selected, explanation) = explain(table, &get("h", "/"));
    assert!(selected.is_none());
    assert_eq!((explanation.passed_over.len(), explanation.untold), (MAX_STEPS, 10));
    assert!(explanation.to_string().ends_with("and 10 more\nno rule of these listeners takes it\n"));
}

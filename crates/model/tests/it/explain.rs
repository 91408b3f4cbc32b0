//! What people are told about a request.

use weir_model::explain::{MAX_STEPS, explain};
use weir_model::resource::HttpMatch;
use weir_model::select::RequestView;
use weir_model::table::Snapshot;

use crate::build::{attach, full, listener, prefix, regex, route, rule, value};
use crate::random::Random;
use crate::world::{LISTENERS, answer, random_listener, random_request, random_route};

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
         passed over route ns/r rule 0 match 0: RegularExpression /a/[0-9]: the path does not match the expression\n\
         passed over route ns/r rule 0 match 1: PathPrefix /a: another method\n\
         passed over route ns/r rule 1 (canary) match 0: PathPrefix /a: header `x-canary` is missing or has another value\n\
         passed over route ns/r rule 2 (beta) match 0: PathPrefix /a: query parameter `beta` is missing or has another value\n\
         chosen route ns/r rule 3 (all) match 0: PathPrefix /, attached to listener/ns/gw/l\n"
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
        let (snapshot, _) = Snapshot::empty(1).apply(&full(resources));
        for _ in 0..40 {
            let request = random_request(&mut random);
            let Some(table) = snapshot.bind(&request.bind) else { continue };
            let (_, explanation) = explain(table, &request.view());
            let told = explanation.chosen.map(|c| (c.route, c.rule_index, c.match_index, c.listener));
            assert_eq!(told, answer(&snapshot, &request));
        }
    }
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

//! Selection over indexes against a scan that is written down from the API's text.

use weir_model::path::normalised;
use weir_model::resource::{HttpMatch, Resource};
use weir_model::select::{NoProbe, PathMatch, RequestView, select};
use weir_model::table::{BindAddress, Snapshot, Transport};

use crate::build::{attach, exact, full, listener, prefix, regex, route, rule, value};
use crate::random::{Random, effort};
use crate::scan::{scan, scan_connection};
use crate::world::{
    Answer, LISTENERS, answer, connect, random_l4_route, random_listener, random_request, random_route,
};

#[test]
fn indexed_selection_agrees_with_a_scan_of_the_specification() {
    let (mut rules, mut misdirected, mut grpc, mut connections) = (0, 0, 0, 0);
    for seed in 0..3_000 * effort() {
        let mut random = Random::new(seed);
        let mut resources = Vec::new();
        for name in LISTENERS {
            resources.push(random_listener(&mut random, name));
        }
        // Now and then enough for every table to take its large form.
        let routes = if seed % 40 == 0 { 120 } else { 1 + random.below(14) };
        for index in 0..routes {
            let name = format!("ns{}/r{index}", index % 3);
            resources.push(if random.one_in(5) {
                random_l4_route(&mut random, &name)
            } else {
                random_route(&mut random, &name)
            });
        }
        let (snapshot, rejected) = Snapshot::empty(1).apply(&full(resources.clone()));
        assert!(rejected.is_empty(), "{rejected:?}");
        for _ in 0..40 {
            let request = random_request(&mut random);
            let expected = scan(&resources, &request);
            assert_eq!(answer(&snapshot, &request), expected, "seed {seed}: {request:?}\n{resources:#?}");
            let connection = scan_connection(&resources, &request);
            assert_eq!(connect(&snapshot, &request), connection, "seed {seed}: {request:?}\n{resources:#?}");
            match expected {
                Answer::Rule { route, .. } => {
                    rules += 1;
                    grpc += usize::from(route.starts_with("grpcroute/"));
                }
                Answer::Misdirected => misdirected += 1,
                Answer::NotFound => {}
            }
            connections += usize::from(connection.is_some());
        }
    }
    let found = [rules, grpc, misdirected, connections];
    let least = [18_000, 5_000, 5_000, 1_500];
    assert!(
        found.iter().zip(least).all(|(found, least)| *found > least),
        "most requests must find something for this to mean anything: {found:?}"
    );
}

// What people ask for by name.

const BIND: BindAddress = BindAddress {
    ip: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    port: 80,
    transport: Transport::Tcp,
};

fn snapshot(resources: Vec<Resource>) -> Snapshot {
    let (snapshot, rejected) = Snapshot::empty(1).apply(&full(resources));
    assert!(rejected.is_empty(), "{rejected:?}");
    snapshot
}

/// The name of the rule that answers.
fn named(snapshot: &Snapshot, host: &str, path: &str) -> Option<String> {
    named_with(snapshot, host, path, "GET", None, &[])
}

fn named_with(
    snapshot: &Snapshot,
    host: &str,
    path: &str,
    method: &str,
    query: Option<&str>,
    headers: &[(&str, &str)],
) -> Option<String> {
    let headers = headers.to_vec();
    let request = RequestView {
        method: method.as_bytes(),
        host: host.as_bytes(),
        path: path.as_bytes(),
        query: query.map(str::as_bytes),
        headers: &headers,
    };
    select(snapshot.bind(&BIND)?, &request, &mut NoProbe).map(|selected| selected.rule.name.to_string())
}

fn one_listener() -> Resource {
    listener("l", "127.0.0.1", 80, "")
}

#[test]
fn a_prefix_matches_whole_segments_and_its_trailing_slash_is_ignored() {
    let snapshot = snapshot(vec![
        one_listener(),
        route(
            "r",
            0,
            vec![attach("l", &[""])],
            vec![
                rule("v2", vec![prefix("/v2/")], &[]),
                rule("deep", vec![prefix("/v2/a/b")], &[]),
                rule("exact", vec![exact("/one/")], &[]),
            ],
        ),
    ]);
    for (path, expected) in [
        ("/v2", Some("v2")),
        ("/v2/", Some("v2")),
        ("/v2/x", Some("v2")),
        ("/v2example", None),
        ("/v2/a", Some("v2")),
        ("/v2/a/b", Some("deep")),
        ("/v2/a/b/", Some("deep")),
        ("/v2/a/bc", Some("v2")),
        ("/v2//a/b", Some("v2")),
        ("/", None),
        ("/one/", Some("exact")),
        ("/one", None),
        ("/V2", None),
    ] {
        assert_eq!(named(&snapshot, "h", path).as_deref(), expected, "{path}");
    }
}

#[test]
fn a_request_belongs_to_the_most_specific_listener_even_if_it_has_no_route_there() {
    let snapshot = snapshot(vec![
        listener("any", "127.0.0.1", 80, ""),
        listener("wild", "127.0.0.1", 80, "*.example.com"),
        listener("name", "127.0.0.1", 80, "a.example.com"),
        route("r0", 0, vec![attach("any", &[""])], vec![rule("any", vec![prefix("/")], &[])]),
        route("r1", 0, vec![attach("wild", &["*.example.com"])], vec![rule("wild", vec![prefix("/w")], &[])]),
        route("r2", 0, vec![attach("name", &["a.example.com"])], vec![rule("name", vec![prefix("/n")], &[])]),
    ]);
    for (host, path, expected) in [
        ("a.example.com", "/n", Some("name")),
        ("a.example.com", "/w", None),
        ("b.example.com", "/w", Some("wild")),
        ("b.example.com", "/", None),
        ("c.b.example.com", "/w", Some("wild")),
        ("example.com", "/w", Some("any")),
        ("127.0.0.1", "/", Some("any")),
    ] {
        assert_eq!(named(&snapshot, host, path).as_deref(), expected, "{host}{path}");
    }
}

#[test]
fn equal_listeners_of_two_gateways_serve_each_others_routes() {
    let snapshot = snapshot(vec![
        listener("l0", "127.0.0.1", 80, "a.b"),
        listener("l1", "127.0.0.1", 80, "a.b"),
        route("r0", 0, vec![attach("l0", &["a.b"])], vec![rule("zero", vec![prefix("/0")], &[])]),
        route("r1", 0, vec![attach("l1", &["a.b"])], vec![rule("one", vec![prefix("/1")], &[])]),
    ]);
    assert_eq!(named(&snapshot, "a.b", "/0").as_deref(), Some("zero"));
    assert_eq!(named(&snapshot, "a.b", "/1").as_deref(), Some("one"));
    assert_eq!(snapshot.bind(&BIND).unwrap().listeners().len(), 2);
}

#[test]
fn what_does_not_match_falls_through_to_shorter_prefixes_and_less_specific_hostnames() {
    let with = |path: &str, name: &str, expected: &str| HttpMatch {
        headers: vec![value(name, expected)],
        ..prefix(path)
    };
    let snapshot = snapshot(vec![
        one_listener(),
        route(
            "r0",
            0,
            vec![attach("l", &["a.b"])],
            vec![
                rule("deep", vec![with("/x/y", "v", "2")], &[]),
                rule("shallow", vec![with("/x", "v", "3")], &[]),
            ],
        ),
        route("r1", 0, vec![attach("l", &["*.b"])], vec![rule("wild", vec![with("/", "v", "4")], &[])]),
        route("r2", 0, vec![attach("l", &[""])], vec![rule("any", vec![prefix("/")], &[])]),
    ]);
    for (version, expected) in [("2", "deep"), ("3", "shallow"), ("4", "wild"), ("5", "any")] {
        let got = named_with(&snapshot, "a.b", "/x/y/z", "GET", None, &[("v", version)]);
        assert_eq!(got.as_deref(), Some(expected));
    }
}

#[test]
fn the_order_at_one_path_is_method_headers_query_age_name_rule() {
    let base = || prefix("/");
    let method = HttpMatch { method: "GET".into(), ..base() };
    let header = HttpMatch { headers: vec![value("h", "1")], ..base() };
    let headers = HttpMatch { headers: vec![value("h", "1"), value("i", "1")], ..base() };
    let query = HttpMatch { query: vec![value("q", "1")], ..base() };
    let attached = || vec![attach("l", &[""])];
    let mut resources = vec![
        one_listener(),
        route(
            "ns/young",
            9,
            attached(),
            vec![
                rule("query", vec![query], &[]),
                rule("header", vec![header], &[]),
                rule("headers", vec![headers], &[]),
                rule("method", vec![method], &[]),
            ],
        ),
        route("ns/b", 5, attached(), vec![rule("b", vec![base()], &[])]),
        // `a-b/x` comes before `a/x` in the order of the joined names, though `a` comes before `a-b`.
        route("a/x", 5, attached(), vec![rule("a/x", vec![base()], &[])]),
        route(
            "a-b/x",
            5,
            attached(),
            vec![rule("first", vec![base()], &[]), rule("second", vec![base()], &[])],
        ),
    ];
    let ask = |snapshot: &Snapshot, method, query, headers: &[(&str, &str)]| {
        named_with(snapshot, "h", "/", method, query, headers).unwrap()
    };
    let all = snapshot(resources.clone());
    assert_eq!(ask(&all, "GET", Some("q=1"), &[("h", "1"), ("i", "1")]), "method");
    assert_eq!(ask(&all, "PUT", Some("q=1"), &[("h", "1"), ("i", "1")]), "headers");
    assert_eq!(ask(&all, "PUT", Some("q=1"), &[("h", "1")]), "header");
    assert_eq!(ask(&all, "PUT", Some("q=1"), &[]), "query");
    assert_eq!(ask(&all, "PUT", None, &[]), "first");
    resources.pop();
    assert_eq!(ask(&snapshot(resources.clone()), "PUT", None, &[]), "a/x");
    resources.push(route("ns/old", 1, attached(), vec![rule("old", vec![base()], &[])]));
    assert_eq!(ask(&snapshot(resources), "PUT", None, &[]), "old");
}

#[test]
fn an_exact_path_beats_an_expression_and_that_a_prefix() {
    let snapshot = snapshot(vec![
        one_listener(),
        route(
            "r",
            0,
            vec![attach("l", &[""])],
            vec![
                rule("prefix", vec![prefix("/a/b/c")], &[]),
                rule("short", vec![regex("/a/.*")], &[]),
                rule("long", vec![regex("/a/b/[c-d]+")], &[]),
                rule("exact", vec![exact("/a/b/c")], &[]),
            ],
        ),
    ]);
    for (path, expected) in
        [("/a/b/c", "exact"), ("/a/b/d", "long"), ("/a/b/c/d", "short"), ("/a/x", "short")]
    {
        assert_eq!(named(&snapshot, "h", path).as_deref(), Some(expected), "{path}");
    }
}

#[test]
fn how_much_of_the_path_matched_is_told() {
    let snapshot = snapshot(vec![
        one_listener(),
        route(
            "r",
            0,
            vec![attach("l", &[""])],
            vec![rule("all", vec![prefix("/"), prefix("/ab/cd/"), exact("/e"), regex("/r[0-9]")], &[])],
        ),
    ]);
    let matched = |path: &str| {
        let headers: [(&str, &str); 0] = [];
        let request =
            RequestView { method: b"GET", host: b"h", path: path.as_bytes(), query: None, headers: &headers };
        let selected = select(snapshot.bind(&BIND).unwrap(), &request, &mut NoProbe).unwrap();
        (selected.path_match, selected.alternative)
    };
    assert_eq!(matched("/x"), (PathMatch::Prefix(0), 0));
    assert_eq!(matched("/ab/cd/x"), (PathMatch::Prefix(6), 1));
    assert_eq!(matched("/ab/cd"), (PathMatch::Prefix(6), 1));
    assert_eq!(matched("/e"), (PathMatch::Exact, 2));
    assert_eq!(matched("/r7"), (PathMatch::Regex, 3));
}

#[test]
fn configured_paths_have_the_normal_form_of_requests() {
    let snapshot = snapshot(vec![
        one_listener(),
        route(
            "r",
            0,
            vec![attach("l", &[""])],
            vec![rule("accent", vec![prefix("/caf%c3%a9")], &[]), rule("tilde", vec![exact("/%7Eme")], &[])],
        ),
    ]);
    let asked = |path: &str| named(&snapshot, "h", std::str::from_utf8(&normalised(path).unwrap()).unwrap());
    assert_eq!(asked("/caf%C3%A9/x").as_deref(), Some("accent"));
    assert_eq!(asked("/caf%c3%a9").as_deref(), Some("accent"));
    assert_eq!(asked("/~me").as_deref(), Some("tilde"));
    assert_eq!(asked("/x/../%7eme").as_deref(), Some("tilde"));
}

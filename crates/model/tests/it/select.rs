//! Selection over indexes against a scan that is written down from the API's text.

use std::cmp::Reverse;

use weir_model::path::normalised;
use weir_model::resource::{Body, HttpMatch, HttpRoute, Listener, PathKind, Resource, ValueMatch};
use weir_model::select::{NoProbe, PathMatch, RequestView, select};
use weir_model::table::{BindAddress, Snapshot, Transport};

use crate::build::{attach, exact, full, listener, prefix, regex, route, rule, value};
use crate::random::{Random, effort};
use crate::world::{Answer, LISTENERS, Request, answer, random_listener, random_request, random_route};

#[test]
fn indexed_selection_agrees_with_a_scan_of_the_specification() {
    let mut found = 0;
    for seed in 0..3_000 * effort() {
        let mut random = Random::new(seed);
        let mut resources = Vec::new();
        for name in LISTENERS {
            resources.push(random_listener(&mut random, name));
        }
        // Now and then enough for every table to take its large form.
        let routes = if seed % 40 == 0 { 120 } else { 1 + random.below(14) };
        for index in 0..routes {
            resources.push(random_route(&mut random, &format!("ns{}/r{index}", index % 3)));
        }
        let (snapshot, rejected) = Snapshot::empty(1).apply(&full(resources.clone()));
        assert!(rejected.is_empty(), "{rejected:?}");
        for _ in 0..40 {
            let request = random_request(&mut random);
            let expected = scan(&resources, &request);
            assert_eq!(answer(&snapshot, &request), expected, "seed {seed}: {request:?}\n{resources:#?}");
            found += usize::from(expected.is_some());
        }
    }
    assert!(found > 20_000, "most requests must find a rule for this to mean anything: {found}");
}

/// The API's text, word by word, over everything there is.
fn scan(resources: &[Resource], request: &Request) -> Answer {
    let on_bind: Vec<&Listener> = resources
        .iter()
        .filter_map(|resource| match &resource.body {
            Some(Body::Listener(listener)) => Some(listener),
            _ => None,
        })
        .filter(|listener| {
            listener.address.parse() == Ok(request.bind.ip) && listener.port == u32::from(request.bind.port)
        })
        .collect();
    let host = request.host.trim_end_matches('.').to_ascii_lowercase();
    let group = on_bind.iter().filter_map(|listener| specificity(&listener.hostname, &host)).max()?;
    let in_group =
        |key: &str| on_bind.iter().any(|l| l.key == key && specificity(&l.hostname, &host) == Some(group));
    let mut best = None;
    for resource in resources {
        let Some(Body::HttpRoute(route)) = &resource.body else { continue };
        for attachment in route.attachments.iter().filter(|attachment| in_group(&attachment.listener_key)) {
            let Some(hostname) =
                attachment.hostnames.iter().filter_map(|name| specificity(name, &host)).max()
            else {
                continue;
            };
            for (rule, alternative, matched) in alternatives(route) {
                if !holds(matched, request) {
                    continue;
                }
                let order = (
                    Reverse(hostname),
                    path_order(matched),
                    matched.method.is_empty(),
                    Reverse(names(&matched.headers)),
                    Reverse(names(&matched.query)),
                    route.created_seconds,
                    format!("{}/{}", route.namespace, route.name),
                    rule,
                    alternative,
                    attachment.listener_key.clone(),
                );
                if best.as_ref().is_none_or(|best| order < *best) {
                    best = Some(order);
                }
            }
        }
    }
    best.map(|order| (order.6, order.7, order.8, order.9))
}

fn alternatives(route: &HttpRoute) -> impl Iterator<Item = (usize, usize, &HttpMatch)> {
    route.rules.iter().enumerate().flat_map(|(rule, source)| {
        source.matches.iter().enumerate().map(move |(alternative, matched)| (rule, alternative, matched))
    })
}

/// Exact before wildcard before any; longer before shorter.
fn specificity(hostname: &str, host: &str) -> Option<(u8, usize)> {
    let literal = host.is_empty() || host.parse::<std::net::IpAddr>().is_ok();
    match hostname.strip_prefix('*') {
        _ if hostname.is_empty() => Some((0, 0)),
        _ if literal => None,
        Some(suffix) => (host.ends_with(suffix) && host.len() > suffix.len()).then_some((1, suffix.len())),
        None => (hostname == host).then_some((2, hostname.len())),
    }
}

fn path_order(matched: &HttpMatch) -> (u8, Reverse<usize>) {
    match matched.path_kind() {
        PathKind::Exact => (0, Reverse(0)),
        PathKind::RegularExpression => (1, Reverse(matched.path.len())),
        PathKind::Prefix => match matched.path.trim_end_matches('/').len() {
            0 => (4, Reverse(0)),
            length => (2, Reverse(length)),
        },
        PathKind::GrpcMethod => (3, Reverse(0)),
    }
}

fn names(values: &[ValueMatch]) -> usize {
    first_of_each(values).count()
}

fn first_of_each(values: &[ValueMatch]) -> impl Iterator<Item = &ValueMatch> {
    values.iter().enumerate().filter(|(at, v)| values[..*at].iter().all(|o| o.name != v.name)).map(|(_, v)| v)
}

fn holds(matched: &HttpMatch, request: &Request) -> bool {
    let path = match matched.path_kind() {
        PathKind::Exact => request.path == matched.path,
        PathKind::RegularExpression => whole(&matched.path, &request.path),
        PathKind::Prefix => {
            let wanted: Vec<&str> = matched.path.trim_end_matches('/').split('/').collect();
            let got: Vec<&str> = request.path.split('/').collect();
            request.path.starts_with('/') && got.starts_with(&wanted)
        }
        PathKind::GrpcMethod => {
            let got: Vec<&str> = request.path.split('/').collect();
            got.len() == 3 && got[0].is_empty() && got[2] == matched.path
        }
    };
    path && (matched.method.is_empty() || matched.method == request.method)
        && first_of_each(&matched.headers).all(|condition| {
            let values: Vec<&str> = request
                .headers
                .iter()
                .filter(|(name, _)| name.to_ascii_lowercase() == condition.name)
                .map(|(_, value)| *value)
                .collect();
            !values.is_empty() && value_holds(condition, &values.join(","))
        })
        && first_of_each(&matched.query).all(|condition| {
            let query = request.query.clone().unwrap_or_default();
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (decoded(name), decoded(value)))
                .find(|(name, _)| *name == condition.name)
                .is_some_and(|(_, value)| value_holds(condition, &value))
        })
}

fn value_holds(condition: &ValueMatch, value: &str) -> bool {
    if condition.regex { whole(&condition.value, value) } else { condition.value == value }
}

fn decoded(text: &str) -> String {
    text.replace("%70", "p").replace("%31", "1").replace("%2C", ",")
}

/// Matches by hand what the few expressions of these worlds mean.
fn whole(pattern: &str, text: &str) -> bool {
    match pattern {
        "/a.*" => text.starts_with("/a"),
        "/[ab]+" => {
            text.len() > 1 && text.starts_with('/') && text[1..].bytes().all(|b| b == b'a' || b == b'b')
        }
        "/a/b?" => text == "/a/" || text == "/a/b",
        ".*" => true,
        ".+" => !text.is_empty(),
        "/ab|/a" => text == "/ab" || text == "/a",
        "/(a|b)/.*" => text.starts_with("/a/") || text.starts_with("/b/"),
        "/a/b" => text == "/a/b",
        "(?i)/A" => text == "/a" || text == "/A",
        "[12]" => text == "1" || text == "2",
        "1|2,1" => text == "1" || text == "2,1",
        other => panic!("{other} is not one of these worlds' expressions"),
    }
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

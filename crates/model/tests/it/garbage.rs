//! Whatever comes in, nothing panics and everything else runs.

use prost::Message;
use weir_model::explain::explain;
use weir_model::path::{normalise, normalised};
use weir_model::resource::{
    Attachment, Backend, Body, Endpoint, Endpoints, Filter, FilterKind, HeaderModifier, HeaderValue,
    HttpMatch, HttpRoute, HttpRule, Listener, PathModifier, RequestRedirect, Resource, Update, UrlRewrite,
    ValueMatch, WeightedBackend,
};
use weir_model::rewrite::{
    CompiledFilter, PathChange, RedirectedRequest, location, replace_path, strip_path,
};
use weir_model::select::RequestView;
use weir_model::table::Snapshot;

use crate::build::{attach, listener, prefix, route, rule, upserts};
use crate::random::{Random, effort};

const TEXTS: [&str; 30] = [
    "",
    "/",
    "//",
    "/a",
    "/a/../b",
    "/%",
    "/%2e%2e",
    "/%00",
    "*",
    "*.a",
    "a.b",
    "a",
    "\0",
    "\r\n",
    " ",
    "é",
    "/é/",
    "(",
    ".*",
    "[a-",
    "(?:a{99}){99}",
    "\\",
    "::1",
    "127.0.0.1",
    "GET",
    "x",
    "listener/ns/gw/l",
    "backend/ns/s/80",
    "httproute/ns/r",
    "endpoints/ns/s/80",
];
const NUMBERS: [u32; 9] = [0, 1, 2, 3, 80, 65_535, 65_536, 1_000_001, u32::MAX];

fn text(random: &mut Random) -> String {
    if random.one_in(30) { "x".repeat(random.size(3_000)) } else { random.pick(&TEXTS).to_owned() }
}

/// Good most of the time, so that what is bad is met inside what is taken.
fn odd(random: &mut Random, good: &[&'static str]) -> String {
    if random.one_in(40) { text(random) } else { random.pick(good).to_owned() }
}

fn number(random: &mut Random) -> u32 {
    random.pick(&NUMBERS)
}

fn some<T>(random: &mut Random, mut one: impl FnMut(&mut Random) -> T) -> Vec<T> {
    (0..random.below(4)).map(|_| one(random)).collect()
}

fn garbage(random: &mut Random) -> Resource {
    let body = match random.below(5) {
        0 => Body::Listener(Listener {
            key: text(random),
            gateway: text(random),
            section: text(random),
            address: text(random),
            port: number(random),
            protocol: number(random) as i32,
            hostname: text(random),
        }),
        1 => Body::Backend(Backend {
            key: text(random),
            namespace: text(random),
            service: text(random),
            port: number(random),
            protocol: number(random) as i32,
        }),
        2 => Body::Endpoints(Endpoints {
            key: text(random),
            backend_key: text(random),
            endpoints: some(random, |random| Endpoint { address: text(random), port: number(random) }),
        }),
        _ => Body::HttpRoute(HttpRoute {
            key: odd(random, &["httproute/ns/r"]),
            namespace: odd(random, &["ns"]),
            name: odd(random, &["r"]),
            uid: text(random),
            created_seconds: random.next() as i64,
            attachments: some(random, |random| Attachment {
                listener_key: odd(random, &["listener/ns/gw/l"]),
                hostnames: some(random, |random| odd(random, &["", "a", "*.a", "a.b"])),
            }),
            rules: some(random, garbage_rule),
        }),
    };
    Resource { body: Some(body) }
}

fn garbage_rule(random: &mut Random) -> HttpRule {
    HttpRule {
        name: text(random),
        split_identity: text(random),
        matches: some(random, |random| HttpMatch {
            path_kind: if random.one_in(40) { 3 } else { random.below(3) as i32 },
            path: odd(random, &["/", "", "/a", "/é", "/%41", ".*", "//"]),
            method: text(random),
            headers: some(random, garbage_value),
            query: some(random, garbage_value),
        }),
        filters: some(random, garbage_filter),
        backends: some(random, |random| WeightedBackend {
            weight: if random.one_in(40) { number(random) } else { random.below(1_000_001) as u32 },
            backend_key: odd(random, &["backend/ns/s/80", ""]),
            invalid_reason: odd(random, &["", "why"]),
            filters: some(random, garbage_filter),
        }),
        request_timeout_ms: u64::from(number(random)) << random.below(33),
        backend_request_timeout_ms: u64::MAX,
        strip_path: random.one_in(2),
    }
}

fn garbage_value(random: &mut Random) -> ValueMatch {
    ValueMatch { name: text(random), value: odd(random, &["x", ".*", ""]), regex: random.one_in(2) }
}

fn garbage_filter(random: &mut Random) -> Filter {
    let header = |random: &mut Random| HeaderValue {
        name: odd(random, &["x", "X-Y"]),
        value: odd(random, &["1", "é", ""]),
    };
    let modifier = |random: &mut Random| HeaderModifier {
        set: some(random, header),
        add: some(random, header),
        remove: some(random, |random| odd(random, &["x", "Y"])),
    };
    let path = |random: &mut Random| {
        (!random.one_in(3))
            .then(|| PathModifier { prefix: random.one_in(2), value: odd(random, &["/x", "x", "", "//"]) })
    };
    let kind = match random.below(40) {
        0 => None,
        1..10 => Some(FilterKind::RequestHeaderModifier(modifier(random))),
        10..20 => Some(FilterKind::ResponseHeaderModifier(modifier(random))),
        20..30 => {
            Some(FilterKind::UrlRewrite(UrlRewrite { hostname: odd(random, &["", "h"]), path: path(random) }))
        }
        _ => Some(FilterKind::RequestRedirect(RequestRedirect {
            scheme: odd(random, &["", "http", "HTTPS"]),
            hostname: odd(random, &["", "h"]),
            path: path(random),
            port: if random.one_in(40) { number(random) } else { random.below(65_536) as u32 },
            status: if random.one_in(40) { number(random) } else { 302 },
        })),
    };
    Filter { kind }
}

#[test]
fn garbage_neither_panics_nor_disturbs_what_is_good() {
    let good = upserts(vec![
        listener("good", "127.0.0.2", 80, ""),
        route("good", 0, vec![attach("good", &[""])], vec![rule("good", vec![prefix("/")], &[])]),
    ]);
    let mut rejections = 0;
    let mut rules = 0;
    for seed in 0..400 * effort() {
        let mut random = Random::new(seed);
        let mut snapshot = Snapshot::empty(seed).apply(&good).0;
        snapshot = snapshot.apply(&upserts(vec![listener("l", "127.0.0.1", 80, "")])).0;
        for _ in 0..20 {
            let update = Update {
                full: false,
                upserts: some(&mut random, garbage),
                removals: some(&mut random, text),
                ..Default::default()
            };
            // As it comes over the wire.
            let update = Update::decode(&*update.encode_to_vec()).unwrap();
            let (next, rejected) = snapshot.apply(&update);
            snapshot = next;
            rejections += rejected.len();
            ask(&mut random, &snapshot);
        }
        rules += snapshot.rules().count();
        assert!(snapshot.rules().any(|rule| &*rule.name == "good"));
        for report in snapshot.splits() {
            assert!(report.max_deviation < 3.5);
        }
    }
    assert!(rejections > 1_000 && rules > 500, "{rejections} {rules}");
}

fn ask(random: &mut Random, snapshot: &Snapshot) {
    let (host, path, method, query) = (text(random), text(random), text(random), text(random));
    let (name, value) = (text(random), text(random));
    let headers = [(name.as_str(), value.as_str())];
    let request = RequestView {
        method: method.as_bytes(),
        host: host.as_bytes(),
        path: path.as_bytes(),
        query: random.one_in(2).then_some(query.as_bytes()),
        headers: &headers,
    };
    for (_, table) in snapshot.binds() {
        let (selected, explanation) = explain(table, &request);
        assert!(!explanation.to_string().is_empty());
        let Some(selected) = selected else { continue };
        let mut out = Vec::new();
        strip_path(request.path, selected.path_match, &mut out);
        assert_eq!(out.first(), Some(&b'/'));
        for filter in &selected.rule.filters {
            out.clear();
            match filter {
                CompiledFilter::Redirect(redirect) => location(
                    redirect,
                    &RedirectedRequest {
                        scheme: "http",
                        host: request.host,
                        listener_port: 80,
                        path: request.path,
                        query: request.query,
                        matched: selected.path_match,
                    },
                    &mut out,
                ),
                CompiledFilter::Rewrite(rewrite) => {
                    let all = PathChange::Full("".into());
                    replace_path(
                        request.path,
                        selected.path_match,
                        rewrite.path.as_ref().unwrap_or(&all),
                        &mut out,
                    );
                    assert_eq!(out.first(), Some(&b'/'));
                }
                CompiledFilter::RequestHeaders(_) | CompiledFilter::ResponseHeaders(_) => {}
            }
        }
        if let Some(choice) = selected.rule.split.next() {
            assert!(selected.rule.backends[choice.backend].weight > 0);
        }
    }
}

#[test]
fn any_bytes_are_a_path_or_are_refused() {
    let mut buffer = Vec::new();
    for seed in 0..20_000 * effort() {
        let mut random = Random::new(seed);
        let bytes: Vec<u8> = (0..random.below(40)).map(|_| random.next() as u8).collect();
        _ = normalise(&bytes, &mut buffer);
        _ = normalised(&String::from_utf8_lossy(&bytes));
    }
}

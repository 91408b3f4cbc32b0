//! Whatever comes in, nothing panics and everything else runs.

use prost::Message;
use weir_model::cors::Preflight;
use weir_model::explain::{explain, explain_connection, explain_https};
use weir_model::filter::CompiledFilter;
use weir_model::path::{normalise, normalised};
use weir_model::resource::{
    Attachment, Backend, BackendTls, Body, CaBundle, Certificate, ClientValidation, Cors, Endpoint,
    Endpoints, ExternalAuth, Filter, FilterKind, HeaderModifier, HeaderValue, HttpMatch, HttpRoute, HttpRule,
    L4Route, LimitSetting, Listener, ListenerProtocol, ListenerTls, Networks, Parameters, PathModifier,
    RequestMirror, RequestRedirect, Resource, Retry, RetryBudget, SessionKey, SessionPersistence,
    SubjectAltName, Update, UrlRewrite, ValueMatch, WeightedBackend,
};
use weir_model::rewrite::{PathChange, RedirectedRequest, location, replace_path, strip_path};
use weir_model::select::{NoProbe, RequestView, select_l4};
use weir_model::table::Snapshot;

use crate::build::{attach, listener, listener_of, prefix, route, rule, upserts};
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

fn garbage_limit(random: &mut Random) -> LimitSetting {
    let names = ["head_bytes", "header_count", "upstream_request_timeout", "http2_streams"];
    LimitSetting { name: odd(random, &names), value: u64::MAX >> random.below(64) }
}

fn garbage(random: &mut Random) -> Resource {
    let body = match random.below(10) {
        9 => Body::SessionKey(SessionKey {
            key: odd(random, &["sessionkey/0", "sessionkey/1"]),
            bytes: text(random).into(),
        }),
        0 => Body::Listener(Listener {
            key: text(random),
            gateway: text(random),
            section: text(random),
            address: text(random),
            port: number(random),
            protocol: number(random) as i32,
            hostname: text(random),
            tls: (!random.one_in(3)).then(|| ListenerTls {
                passthrough: random.one_in(2),
                certificates: some(random, text),
                client_validation: random.one_in(2).then(|| ClientValidation {
                    ca_bundles: some(random, text),
                    insecure_fallback: random.one_in(2),
                }),
            }),
            backend_client_certificate: text(random),
            parameters: random.one_in(2).then(|| Parameters {
                limits: some(random, garbage_limit),
                trusted_proxies: random.one_in(3).then(|| Networks { networks: some(random, text) }),
                access_log: number(random) as i32,
                session_keys: some(random, text),
            }),
        }),
        1 => Body::Backend(Backend {
            key: text(random),
            namespace: text(random),
            service: text(random),
            port: number(random),
            protocol: number(random) as i32,
            tls: random.one_in(2).then(|| BackendTls {
                hostname: text(random),
                ca_bundles: some(random, text),
                system_authorities: random.one_in(2),
                subject_alt_names: some(random, |random| SubjectAltName {
                    uri: random.one_in(2),
                    value: text(random),
                }),
                invalid_reason: text(random),
            }),
            session_persistence: random.one_in(2).then(|| garbage_session(random)),
            retry_budget: random.one_in(2).then(|| RetryBudget {
                percent: number(random),
                interval_ms: u64::from(number(random)),
                min_retry_count: number(random),
                min_retry_interval_ms: u64::MAX - u64::from(number(random)),
            }),
            limits: some(random, garbage_limit),
        }),
        2 => Body::Endpoints(Endpoints {
            key: text(random),
            backend_key: text(random),
            endpoints: some(random, |random| Endpoint { address: text(random), port: number(random) }),
        }),
        3 => Body::Certificate(Certificate {
            key: odd(random, &["certificate/0", "certificate/1"]),
            chain: text(random).into(),
            private_key: text(random).into(),
        }),
        4 => Body::CaBundle(CaBundle {
            key: odd(random, &["cabundle/0", "cabundle/1"]),
            certificates: text(random).into(),
        }),
        5 => Body::L4Route(L4Route {
            key: odd(random, &["tlsroute/ns/r", "tcproute/ns/r", "udproute/ns/r"]),
            namespace: odd(random, &["ns"]),
            name: odd(random, &["r"]),
            uid: text(random),
            created_seconds: random.next() as i64,
            attachments: some(random, garbage_attachment),
            rule_name: text(random),
            split_identity: text(random),
            backends: some(random, garbage_backend),
        }),
        _ => Body::HttpRoute(HttpRoute {
            key: odd(random, &["httproute/ns/r", "grpcroute/ns/r"]),
            namespace: odd(random, &["ns"]),
            name: odd(random, &["r"]),
            uid: text(random),
            created_seconds: random.next() as i64,
            attachments: some(random, garbage_attachment),
            rules: some(random, garbage_rule),
        }),
    };
    Resource { body: Some(body) }
}

fn garbage_attachment(random: &mut Random) -> Attachment {
    Attachment {
        listener_key: odd(random, &["listener/ns/gw/l", "listener/ns/gw/tls", "listener/ns/gw/udp"]),
        hostnames: some(random, |random| odd(random, &["", "a", "*.a", "a.b"])),
    }
}

fn garbage_backend(random: &mut Random) -> WeightedBackend {
    WeightedBackend {
        weight: if random.one_in(40) { number(random) } else { random.below(1_000_001) as u32 },
        backend_key: odd(random, &["backend/ns/s/80", ""]),
        invalid_reason: odd(random, &["", "why"]),
        filters: some(random, garbage_filter),
    }
}

fn garbage_session(random: &mut Random) -> SessionPersistence {
    SessionPersistence {
        name: odd(random, &["x", "session"]),
        header: random.one_in(2),
        absolute_timeout_ms: u64::from(number(random)),
        idle_timeout_ms: u64::MAX,
        permanent: random.one_in(2),
    }
}

fn garbage_rule(random: &mut Random) -> HttpRule {
    HttpRule {
        name: text(random),
        split_identity: text(random),
        matches: some(random, |random| HttpMatch {
            path_kind: if random.one_in(40) { 4 } else { random.below(4) as i32 },
            path: odd(random, &["/", "", "/a", "/é", "/%41", ".*", "//", "a"]),
            method: text(random),
            headers: some(random, garbage_value),
            query: some(random, garbage_value),
        }),
        filters: some(random, garbage_filter),
        backends: some(random, garbage_backend),
        request_timeout_ms: u64::from(number(random)) << random.below(33),
        backend_request_timeout_ms: u64::MAX,
        strip_path: random.one_in(2),
        retry: random.one_in(2).then(|| Retry {
            codes: if random.one_in(20) { some(random, number) } else { vec![500, 503] },
            attempts: number(random),
            backoff_ms: u64::MAX,
        }),
        session_persistence: random.one_in(2).then(|| garbage_session(random)),
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
    let kind = match random.below(60) {
        0 => None,
        1..10 => Some(FilterKind::RequestHeaderModifier(modifier(random))),
        10..20 => Some(FilterKind::ResponseHeaderModifier(modifier(random))),
        20..30 => {
            Some(FilterKind::UrlRewrite(UrlRewrite { hostname: odd(random, &["", "h"]), path: path(random) }))
        }
        40..45 => {
            let odds = random.one_in(20);
            Some(FilterKind::RequestMirror(RequestMirror {
                backend_key: odd(random, &["backend/ns/s/80", ""]),
                numerator: if odds { number(random) } else { random.below(3) as u32 },
                denominator: if odds { number(random) } else { random.pick(&[2, 3, u32::MAX]) },
                split_identity: text(random),
            }))
        }
        45..50 => Some(FilterKind::Cors(Cors {
            allow_origins: some(random, |random| {
                odd(random, &["*", "https://a", "http://*.b:81", "https://*"])
            }),
            allow_methods: some(random, |random| odd(random, &["*", "GET", "PUT"])),
            allow_headers: some(random, |random| odd(random, &["*", "x-a"])),
            expose_headers: some(random, |random| odd(random, &["*", "x-b"])),
            allow_credentials: random.one_in(2),
            max_age_seconds: number(random),
        })),
        50..55 => Some(FilterKind::ExternalAuth(ExternalAuth {
            backend_key: odd(random, &["backend/ns/s/80", ""]),
            invalid_reason: odd(random, &["", "why"]),
            grpc: random.one_in(2),
            path: odd(random, &["", "/auth"]),
            allowed_request_headers: some(random, |random| odd(random, &["x-a", "X-B"])),
            allowed_response_headers: some(random, |random| odd(random, &["x-a", "X-B"])),
            max_body_bytes: random.next(),
        })),
        55 => Some(FilterKind::Invalid(text(random))),
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
        snapshot = snapshot
            .apply(&upserts(vec![
                listener("l", "127.0.0.1", 80, ""),
                listener_of(ListenerProtocol::Tls, "tls", 443, ""),
                listener_of(ListenerProtocol::Udp, "udp", 53, ""),
            ]))
            .0;
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
    for budget in snapshot.backends().filter_map(|backend| backend.budget()) {
        let now_millis = random.next() >> random.below(64);
        budget.request(now_millis);
        budget.retry(now_millis);
    }
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
        let server_name = random.one_in(2).then_some(request.host);
        for explanation in
            [explain_https(table, server_name, &request).1, explain_connection(table, server_name).1]
        {
            assert!(!explanation.to_string().is_empty());
        }
        if let Some(selected) = select_l4(table, server_name, &mut NoProbe)
            && let Some(choice) = selected.rule.split.next()
        {
            assert!(selected.rule.backends[choice.backend].weight > 0);
        }
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
                CompiledFilter::Cors(cors) => {
                    let origin = text(random);
                    let asked = Preflight {
                        origin: origin.as_bytes(),
                        method: request.method,
                        headers: random.one_in(2).then_some(value.as_bytes()),
                    };
                    for (_, value) in cors.preflight(&asked).iter().chain(&cors.response(Some(asked.origin)))
                    {
                        assert!(value.bytes().all(|byte| (b' '..0x7f).contains(&byte)), "{value:?}");
                    }
                }
                CompiledFilter::Mirror(mirror) => _ = mirror.wants_copy(),
                CompiledFilter::ExternalAuth(auth) => _ = auth.backend(),
                CompiledFilter::Invalid(_)
                | CompiledFilter::RequestHeaders(_)
                | CompiledFilter::ResponseHeaders(_) => {}
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

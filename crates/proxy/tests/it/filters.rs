//! Filters in the order in which they are written, on rules and on backendRefs, and those that cannot be used.

use weir_model::resource::{
    Cors, FilterKind, HeaderModifier, HeaderValue, HttpRule, PathModifier, RequestMirror, RequestRedirect,
    UrlRewrite, WeightedBackend,
};
use weir_proxy::ProxyConfig;

use crate::harness::{Origin, World, backend, eventually, fields, filter, rule, to};

fn world() -> World {
    World::start(ProxyConfig { workers: Some(1), ..ProxyConfig::default() })
}

fn set(name: &str, value: &str) -> FilterKind {
    FilterKind::RequestHeaderModifier(HeaderModifier {
        set: vec![HeaderValue { name: name.into(), value: value.into() }],
        ..HeaderModifier::default()
    })
}

fn redirect() -> FilterKind {
    FilterKind::RequestRedirect(RequestRedirect {
        hostname: "elsewhere.example".into(),
        status: 302,
        ..RequestRedirect::default()
    })
}

fn mirror(name: &str) -> FilterKind {
    FilterKind::RequestMirror(RequestMirror {
        backend_key: format!("backend/default/{name}/80"),
        numerator: 1,
        denominator: 1,
        split_identity: name.into(),
    })
}

fn invalid() -> FilterKind {
    FilterKind::Invalid("UnknownFilter".into())
}

fn with(backend: &str, weight: u32, filters: Vec<FilterKind>) -> WeightedBackend {
    WeightedBackend { filters: filters.into_iter().map(filter).collect(), ..to(backend, weight) }
}

#[test]
fn a_filter_that_cannot_be_used_answers_500_and_nothing_is_forwarded() {
    let origin = Origin::named("a");
    let world = world();
    let mut resources = backend("a", &[origin.address]).to_vec();
    let filters = vec![filter(invalid())];
    resources.push(world.route("r", HttpRule { backends: vec![to("a", 1)], filters, ..rule("/") }));
    assert_eq!(world.apply(resources).rejected, []);
    let mut client = world.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").status, 500);
    }
    assert_eq!(origin.requests(), 0);
    world.expect_failures("invalid_filter", 3);
    assert_eq!(world.proxy.splits()[0].tickets, 0, "a request that a filter answers takes no ticket");
}

#[test]
fn a_backends_filter_that_cannot_be_used_answers_500_for_exactly_its_share() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let world = world();
    let mut resources = backend("a", &[a.address]).to_vec();
    resources.extend(backend("b", &[b.address]));
    let backends = vec![with("a", 3, vec![]), with("b", 1, vec![invalid()])];
    resources.push(world.route("r", HttpRule { backends, ..rule("/") }));
    assert_eq!(world.apply(resources).rejected, []);
    let mut client = world.client();
    let failed = (0..100).filter(|_| client.get("/").status == 500).count();
    assert_eq!((failed, a.requests(), b.requests()), (25, 75, 0));
}

#[test]
fn filters_act_in_the_order_in_which_they_are_written() {
    let (origin, first, second) = (Origin::named("a"), Origin::named("m1"), Origin::named("m2"));
    let world = world();
    let mut resources = backend("a", &[origin.address]).to_vec();
    resources.extend(backend("m1", &[first.address]));
    resources.extend(backend("m2", &[second.address]));
    let filters =
        [set("x-step", "one"), mirror("m1"), set("x-step", "two"), mirror("m2"), set("x-step", "three")];
    let filters = filters.into_iter().map(filter).collect();
    resources.push(world.route("r", HttpRule { backends: vec![to("a", 1)], filters, ..rule("/") }));
    assert_eq!(world.apply(resources).rejected, []);
    assert_eq!(world.client().get("/").status, 200);
    eventually("both mirrors have their copy", || first.requests() + second.requests() == 2);
    for (origin, step) in [(&first, "one"), (&second, "two"), (&origin, "three")] {
        assert_eq!(fields(&origin.last_head(), "x-step"), [step]);
    }
}

#[test]
fn what_stands_before_a_filter_that_ends_the_request_has_acted_and_what_stands_behind_has_not() {
    let (origin, copied) = (Origin::named("a"), Origin::named("m"));
    let world = world();
    let mut resources = backend("a", &[origin.address]).to_vec();
    resources.extend(backend("m", &[copied.address]));
    for (name, kinds) in [
        ("before", vec![mirror("m"), redirect(), invalid()]),
        ("behind", vec![redirect(), mirror("m")]),
        ("broken", vec![invalid(), mirror("m"), redirect()]),
    ] {
        let filters = kinds.into_iter().map(filter).collect();
        let path = format!("/{name}");
        resources.push(world.route(name, HttpRule { backends: vec![to("a", 1)], filters, ..rule(&path) }));
    }
    assert_eq!(world.apply(resources).rejected, []);
    let mut client = world.client();
    assert_eq!(client.get("/behind").status, 302);
    assert_eq!(client.get("/broken").status, 500);
    let response = client.get("/before/x");
    assert_eq!(
        (response.status, response.field("location")),
        (302, Some("http://elsewhere.example:18080/before/x"))
    );
    eventually("the mirror has its copy", || copied.requests() > 0);
    assert_eq!(copied.heads().len(), 1);
    assert!(copied.last_head().starts_with("GET /before/x "), "{}", copied.last_head());
    assert_eq!(origin.requests(), 0);
}

#[test]
fn a_mirror_before_a_request_that_fails_still_gets_the_whole_body() {
    let copied = Origin::named("m");
    let world = world();
    let mut resources = backend("m", &[copied.address]).to_vec();
    let invalid = WeightedBackend { invalid_reason: "BackendNotFound".into(), ..to("x", 1) };
    let filters = vec![filter(mirror("m"))];
    resources.push(world.route("r", HttpRule { backends: vec![invalid], filters, ..rule("/") }));
    assert_eq!(world.apply(resources).rejected, []);
    let mut client = world.client();
    let response = client.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(response.status, 500);
    eventually("the copy is done", || world.metric("weir_proxy_mirrors_total") == 1);
    assert_eq!(client.get("/").status, 500, "the connection goes on");
}

#[test]
fn filters_of_a_backend_act_on_its_share_alone_and_after_the_rules() {
    let (a, b, copied) = (Origin::named("a"), Origin::named("b"), Origin::named("m"));
    let world = world();
    let mut resources = backend("a", &[a.address]).to_vec();
    resources.extend(backend("b", &[b.address]));
    resources.extend(backend("m", &[copied.address]));
    let rewrite = FilterKind::UrlRewrite(UrlRewrite {
        hostname: "b.internal".into(),
        path: Some(PathModifier { prefix: true, value: "/inner".into() }),
    });
    let cors =
        FilterKind::Cors(Cors { allow_origins: vec!["*".into()], max_age_seconds: 5, ..Cors::default() });
    let answer = FilterKind::ResponseHeaderModifier(HeaderModifier {
        add: vec![HeaderValue { name: "x-from".into(), value: "b".into() }],
        ..HeaderModifier::default()
    });
    let of_b = vec![set("x-who", "backend"), mirror("m"), rewrite, cors, answer];
    let backends = vec![with("a", 1, vec![]), with("b", 1, of_b), with("c", 2, vec![redirect()])];
    resources.extend(backend("c", &[a.address]));
    let filters = vec![filter(set("x-who", "rule"))];
    resources.push(world.route("r", HttpRule { backends, filters, ..rule("/outer") }));
    assert_eq!(world.apply(resources).rejected, []);
    let mut client = world.client();
    let (mut redirected, mut shared) = (0, 0);
    for _ in 0..40 {
        let response =
            client.exchange("GET /outer/x HTTP/1.1\r\nHost: h\r\nOrigin: https://o.example\r\n\r\n");
        redirected += usize::from(response.status == 302);
        if response.field("access-control-allow-origin").is_some() {
            shared += 1;
            assert_eq!((response.text(), response.field("x-from")), ("b", Some("b")));
        }
    }
    assert_eq!((redirected, shared, a.requests(), b.requests()), (20, 10, 10, 10));
    eventually("the mirror has its copies", || copied.requests() == 10);
    assert!(a.heads().iter().all(|head| fields(head, "x-who") == ["rule"]));
    assert!(b.heads().iter().all(|head| fields(head, "x-who") == ["backend"]));
    assert!(b.last_head().starts_with("GET /inner/x HTTP/1.1\r\nHost: b.internal\r\n"), "{}", b.last_head());
    // The copy left before the rewrite.
    assert!(copied.last_head().starts_with("GET /outer/x "), "{}", copied.last_head());
    assert_eq!(fields(&copied.last_head(), "x-who"), ["backend"]);
}

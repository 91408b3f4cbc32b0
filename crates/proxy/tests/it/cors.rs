//! Sharing between origins: the sentences of `HTTPCORSFilter`.

use weir_model::resource::{Cors, FilterKind, HttpRule, RequestRedirect};
use weir_proxy::ProxyConfig;

use crate::harness::{Origin, Response, World, backend, filter, ok, rule, to};

/// What the API's own example says.
fn example() -> Cors {
    let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
    Cors {
        allow_origins: list(&["https://www.foo.com", "https://*.bar.com", "http://port.com:12345"]),
        allow_methods: list(&["GET", "OPTIONS"]),
        allow_headers: list(&["x-header-1", "x-header-2"]),
        expose_headers: list(&["x-header-3", "x-header-4"]),
        allow_credentials: true,
        max_age_seconds: 3600,
    }
}

fn everything(credentials: bool) -> Cors {
    let all = vec!["*".to_owned()];
    Cors {
        allow_origins: all.clone(),
        allow_methods: all.clone(),
        allow_headers: all.clone(),
        expose_headers: all,
        allow_credentials: credentials,
        max_age_seconds: 5,
    }
}

fn world(origin: &Origin, cors: Cors) -> World {
    let world = World::start(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
    let mut resources = backend("a", &[origin.address]).to_vec();
    let filters = vec![filter(FilterKind::Cors(cors))];
    resources.push(world.route("r", HttpRule { backends: vec![to("a", 1)], filters, ..rule("/") }));
    assert_eq!(world.apply(resources).rejected, []);
    world
}

fn preflight(world: &World, origin: &str, method: &str, headers: &str) -> Response {
    let headers = if headers.is_empty() {
        String::new()
    } else {
        format!("Access-Control-Request-Headers: {headers}\r\n")
    };
    world.client().exchange(&format!(
        "OPTIONS /p HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: {method}\r\n{headers}\r\n"
    ))
}

fn actual(world: &World, method: &str, origin: &str) -> Response {
    world.client().exchange(&format!(
        "{method} /p HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\nContent-Length: 0\r\n\r\n"
    ))
}

#[test]
fn a_preflight_is_answered_by_the_gateway_and_the_backend_never_sees_it() {
    let origin = Origin::named("a");
    let world = world(&origin, example());
    let response = preflight(&world, "https://www.foo.com", "PUT", "x-header-1");
    assert_eq!((response.status, response.body.len()), (204, 0));
    for (name, value) in [
        ("access-control-allow-origin", "https://www.foo.com"),
        ("access-control-allow-methods", "GET, OPTIONS"),
        ("access-control-allow-headers", "x-header-1, x-header-2"),
        ("access-control-expose-headers", "x-header-3, x-header-4"),
        ("access-control-allow-credentials", "true"),
        ("access-control-max-age", "3600"),
        ("vary", "Origin"),
    ] {
        assert_eq!(response.field(name), Some(value), "{name}");
    }
    assert_eq!(origin.requests(), 0);
    assert_eq!(world.proxy.splits()[0].tickets, 0, "it takes no ticket");
}

#[test]
fn an_origin_is_matched_by_scheme_host_wildcard_and_port() {
    let origin = Origin::named("a");
    let world = world(&origin, example());
    for (from, allowed) in [
        ("https://www.foo.com", true),
        ("https://www.foo.com:443", true),
        ("https://www.bar.com", true),
        ("https://xpto.www.bar.com", true),
        ("http://port.com:12345", true),
        ("https://foobar.com", false),
        ("http://www.foo.com", false),
        ("https://foo.com", false),
        ("https://bar.com", false),
        ("http://port.com", false),
        ("null", false),
    ] {
        let expected = allowed.then_some(from);
        let response = preflight(&world, from, "GET", "");
        assert_eq!(response.status, 204, "{from}");
        assert_eq!(response.field("access-control-allow-origin"), expected, "{from}");
        for name in ["access-control-allow-methods", "access-control-allow-headers", "access-control-max-age"]
        {
            assert_eq!(response.field(name).is_some(), allowed, "{name} for {from}");
        }
        assert_eq!(actual(&world, "GET", from).field("access-control-allow-origin"), expected, "{from}");
    }
}

#[test]
fn an_actual_request_gets_the_backends_answer_with_the_gateways_headers() {
    let origin = Origin::always(
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: false\r\n\
         Access-Control-Max-Age: 1\r\nVary: Accept-Encoding\r\nX-Kept: 1\r\n\r\nhello",
    );
    let world = world(&origin, example());
    for method in ["GET", "POST", "DELETE"] {
        let response = actual(&world, method, "https://a.bar.com");
        assert_eq!((response.status, response.text(), response.field("x-kept")), (200, "hello", Some("1")));
        assert_eq!(response.field("access-control-allow-origin"), Some("https://a.bar.com"));
        assert_eq!(response.field("access-control-allow-credentials"), Some("true"));
        assert_eq!(response.field("access-control-expose-headers"), Some("x-header-3, x-header-4"));
        assert_eq!(response.field("access-control-max-age"), None);
        assert_eq!(response.all("vary"), ["Accept-Encoding", "Origin"]);
    }
    // The backend's leave is not the gateway's.
    let refused = actual(&world, "GET", "https://evil.example");
    assert_eq!((refused.status, refused.text()), (200, "hello"));
    assert_eq!(refused.field("access-control-allow-origin"), None);
    assert_eq!(refused.field("access-control-allow-credentials"), None);
    assert_eq!(world.client().get("/").all("vary"), ["Accept-Encoding", "Origin"]);
}

#[test]
fn without_credentials_the_header_for_them_is_left_out_and_stars_may_be_sent() {
    let origin = Origin::named("a");
    let world = world(&origin, everything(false));
    let response = preflight(&world, "https://any.example", "PUT", "x-a, x-b");
    assert_eq!(response.field("access-control-allow-origin"), Some("*"));
    assert_eq!(response.field("access-control-allow-credentials"), None);
    assert_eq!(response.field("access-control-max-age"), Some("5"));
    assert_eq!(response.field("access-control-allow-headers"), Some("x-a, x-b"));
    assert_eq!(
        actual(&world, "GET", "https://any.example").field("access-control-expose-headers"),
        Some("*")
    );
}

#[test]
fn with_credentials_no_star_is_sent_but_what_was_asked_for() {
    let origin = Origin::named("a");
    let world = world(&origin, everything(true));
    let response = preflight(&world, "https://any.example", "PUT", "x-a, x-b");
    for (name, value) in [
        ("access-control-allow-origin", Some("https://any.example")),
        ("access-control-allow-methods", Some("PUT")),
        ("access-control-allow-headers", Some("x-a, x-b")),
        ("access-control-allow-credentials", Some("true")),
        ("access-control-expose-headers", None),
    ] {
        assert_eq!(response.field(name), value, "{name}");
    }
    assert!(!response.head.contains('*'));
    let without = preflight(&world, "https://any.example", "PUT", "");
    assert_eq!(without.field("access-control-allow-headers"), None);
}

#[test]
fn an_options_request_that_asks_nothing_goes_to_the_backend() {
    let origin = Origin::named("a");
    let world = world(&origin, example());
    let plain =
        world.client().exchange("OPTIONS /p HTTP/1.1\r\nHost: h\r\nOrigin: https://www.foo.com\r\n\r\n");
    assert_eq!((plain.status, plain.text()), (200, "a"));
    assert_eq!(plain.field("access-control-allow-origin"), Some("https://www.foo.com"));
    assert_eq!(origin.requests(), 1);
}

#[test]
fn a_script_may_read_the_gateways_own_errors_too() {
    let origin = Origin::start(|peer| {
        peer.request();
    });
    let world = world(&origin, example());
    let response = actual(&world, "POST", "https://www.foo.com");
    assert_eq!(
        (response.status, response.field("access-control-allow-origin")),
        (502, Some("https://www.foo.com"))
    );
    let refused = actual(&world, "POST", "https://evil.example");
    assert_eq!((refused.status, refused.field("access-control-allow-origin")), (502, None));
}

#[test]
fn a_preflight_is_answered_before_a_redirect_that_stands_behind_it() {
    let world = World::start(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
    let redirect =
        RequestRedirect { hostname: "b.example".into(), status: 301, ..RequestRedirect::default() };
    let filters = vec![filter(FilterKind::Cors(example())), filter(FilterKind::RequestRedirect(redirect))];
    world.apply(vec![world.route("r", HttpRule { filters, ..rule("/") })]);
    assert_eq!(preflight(&world, "https://www.foo.com", "GET", "").status, 204);
    let redirected = actual(&world, "GET", "https://www.foo.com");
    assert_eq!(redirected.status, 301);
    assert_eq!(redirected.field("access-control-allow-origin"), Some("https://www.foo.com"));
}

#[test]
fn the_connection_goes_on_after_a_preflight() {
    let answer = ok("a");
    let origin = Origin::start(move |peer| {
        while peer.request().is_some() {
            peer.send(&answer);
        }
    });
    let world = world(&origin, example());
    let mut client = world.client();
    for _ in 0..3 {
        let asked = "OPTIONS / HTTP/1.1\r\nHost: h\r\nOrigin: https://www.foo.com\r\nAccess-Control-Request-Method: GET\r\n\r\n";
        assert_eq!(client.exchange(asked).status, 204);
        assert_eq!(client.get("/").text(), "a");
    }
}

//! What a backend and a client see of each other: fields, paths, filters.

use weir_model::resource::{
    FilterKind, HeaderModifier, HeaderValue, HttpRule, PathModifier, RequestRedirect, UrlRewrite,
};
use weir_proxy::{HeaderTokens, ProxyConfig};

use crate::harness::*;

fn line(name: &str, value: &str) -> HeaderValue {
    HeaderValue { name: name.into(), value: value.into() }
}

fn one_worker() -> ProxyConfig {
    ProxyConfig { workers: Some(1), ..ProxyConfig::default() }
}

/// A world whose one rule is `rule` with a backend at `origin`.
fn ruled(origin: &Origin, rule: HttpRule) -> World {
    let world = World::start(one_worker());
    let mut resources = backend("b", &[origin.address]).to_vec();
    resources.push(world.route("r", HttpRule { backends: vec![to("b", 1)], ..rule }));
    assert_eq!(world.apply(resources).rejected, []);
    world
}

#[test]
fn a_backend_is_told_who_asked_and_for_what() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    let mut client = world.client();
    let response = client.exchange(
        "GET /a%41/../b?q=1 HTTP/1.1\r\nHost: shop.example:8080\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\n\
         X-Real-IP: 9.9.9.9\r\nx_forwarded_host: evil\r\nForwarded: for=9.9.9.9\r\nX-Kong-Request-Id: mine\r\n\
         Connection: x-forwarded-for, x-real-ip, via, cookie\r\nCookie: a\r\nVia: 1.0 other\r\n\r\n",
    );
    let head = origin.last_head();
    let peer = client.stream.local_addr().unwrap().ip().to_string();
    assert!(
        head.starts_with("GET /b?q=1 HTTP/1.1\r\n"),
        "matched, forwarded and reported in one form: {head}"
    );
    assert_eq!(fields(&head, "host"), ["shop.example:8080"]);
    assert_eq!(fields(&head, "x-forwarded-for"), [format!("9.9.9.9, {peer}")]);
    assert_eq!(fields(&head, "x-forwarded-proto"), ["http"]);
    assert_eq!(fields(&head, "x-forwarded-host"), ["shop.example:8080"]);
    assert_eq!(fields(&head, "x-forwarded-port"), [PORT.to_string()]);
    assert_eq!(fields(&head, "x-forwarded-path"), ["/b"]);
    assert_eq!(fields(&head, "x-real-ip"), [peer]);
    assert_eq!(fields(&head, "via"), ["1.0 other", "1.1 weir"]);
    assert_eq!(fields(&head, "connection"), ["keep-alive"]);
    for absent in ["x-forwarded-prefix", "forwarded", "x_forwarded_host", "cookie"] {
        assert!(fields(&head, absent).is_empty(), "{absent}: {head}");
    }
    let id = fields(&head, "x-kong-request-id")[0].to_owned();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    assert_eq!(response.field("x-kong-request-id"), Some(id.as_str()));
    assert_eq!(response.field("via"), Some("1.1 weir"));
    assert!(response.field("x-kong-upstream-latency").unwrap().parse::<u64>().is_ok());
    assert!(response.field("x-kong-proxy-latency").unwrap().parse::<u64>().is_ok());
    assert_eq!(response.field("server"), None, "the backend's, if it has one");
    assert!(response.field("date").unwrap().ends_with(" GMT"), "added where the backend sends none");
    client.get("/");
    assert_ne!(fields(&origin.last_head(), "x-kong-request-id"), [id.as_str()]);
}

#[test]
fn a_trusted_peers_word_is_kept() {
    let origin = Origin::named("ok");
    let config = ProxyConfig { trusted: vec!["127.0.0.0/8".parse().unwrap()], ..one_worker() };
    let world = World::with(&origin, config);
    let response = world.client().exchange(
        "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\n\
         X-Real-IP: 9.9.9.9\r\nX-Kong-Request-Id: mine\r\n\r\n",
    );
    let head = origin.last_head();
    assert!(fields(&head, "x-forwarded-for")[0].starts_with("9.9.9.9, 127."));
    assert_eq!(fields(&head, "x-forwarded-proto"), ["https"]);
    assert_eq!(fields(&head, "x-forwarded-port"), ["443"]);
    assert_eq!(fields(&head, "x-real-ip"), ["9.9.9.9"]);
    assert_eq!(fields(&head, "x-forwarded-host"), ["h"]);
    assert_eq!(fields(&head, "x-kong-request-id"), ["mine"]);
    assert_eq!(response.field("x-kong-request-id"), Some("mine"));
}

#[test]
fn what_the_proxy_says_about_itself_can_be_switched_off() {
    let origin = Origin::named("ok");
    let headers = HeaderTokens { server: false, latency: false, request_id: false };
    let world = World::with(&origin, ProxyConfig { headers, ..one_worker() });
    let mut client = world.client();
    let response = client.get("/");
    for name in ["via", "x-kong-upstream-latency", "x-kong-proxy-latency", "x-kong-request-id"] {
        assert_eq!(response.field(name), None, "{name}");
    }
    assert!(fields(&origin.last_head(), "x-kong-request-id").is_empty());
    let own = client.exchange("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((own.field("server"), own.field("x-kong-response-latency")), (None, None));
}

#[test]
fn strip_path_removes_what_matched_and_says_so() {
    let origin = Origin::named("ok");
    let world = ruled(&origin, HttpRule { strip_path: true, ..rule("/echo") });
    let mut client = world.client();
    for (path, expected) in [
        ("/echo", "/"),
        ("/echo/", "/"),
        ("/echo/hostname?iteration=1", "/hostname?iteration=1"),
        ("/echo//x", "//x"),
        ("/%65cho/x", "/x"),
    ] {
        client.get(path);
        let head = origin.last_head();
        assert_eq!(head.split(' ').nth(1), Some(expected), "{path}");
        assert_eq!(fields(&head, "x-forwarded-prefix"), ["/echo"]);
    }
    assert_eq!(client.get("/echoes").status, 404);
}

#[test]
fn header_modifiers_change_both_heads() {
    let origin = Origin::always(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Old: 1\r\nX-Old: 2\r\nX-Gone: 1\r\nServer: s\r\n\r\nok",
    );
    let request = HeaderModifier {
        set: vec![line("X-Set", "new"), line("Host", "other.example"), line("Content-Length", "999")],
        add: vec![line("X-Add", "b"), line("Transfer-Encoding", "chunked")],
        remove: vec!["X-Remove".into(), "content-length".into(), "X-Forwarded-Host".into()],
    };
    let response = HeaderModifier {
        set: vec![line("X-Old", "3"), line("Connection", "close")],
        add: vec![line("X-More", "1")],
        remove: vec!["x-gone".into(), "server".into()],
    };
    let filters = vec![
        filter(FilterKind::RequestHeaderModifier(request)),
        filter(FilterKind::ResponseHeaderModifier(response)),
    ];
    let world = ruled(&origin, HttpRule { filters, ..rule("/") });
    let mut client = world.client();
    let answer = client.exchange(
        "POST / HTTP/1.1\r\nHost: h\r\nX-Set: 1\r\nx-set: 2\r\nX-Add: a\r\nX-REMOVE: 1\r\nContent-Length: 2\r\n\r\nhi",
    );
    let head = origin.last_head();
    assert_eq!(fields(&head, "x-set"), ["new"]);
    assert_eq!(fields(&head, "x-add"), ["a", "b"]);
    assert_eq!(fields(&head, "host"), ["other.example"]);
    assert_eq!(fields(&head, "content-length"), ["2"], "framing is not a filter's to change");
    assert!(fields(&head, "transfer-encoding").is_empty() && fields(&head, "x-remove").is_empty());
    assert!(fields(&head, "x-forwarded-host").is_empty());
    assert_eq!(answer.field("x-old"), Some("3"));
    assert_eq!(
        (answer.field("x-more"), answer.field("x-gone"), answer.field("server")),
        (Some("1"), None, None)
    );
    assert_eq!(answer.field("connection"), Some("keep-alive"));
    assert_eq!(client.get("/").status, 200);
}

#[test]
fn a_filter_may_say_how_the_client_came() {
    let origin = Origin::named("ok");
    let edits = HeaderModifier { set: vec![line("X-Forwarded-Proto", "https")], ..HeaderModifier::default() };
    let filters = vec![filter(FilterKind::RequestHeaderModifier(edits))];
    let world = ruled(&origin, HttpRule { filters, ..rule("/") });
    world.client().get("/");
    assert_eq!(fields(&origin.last_head(), "x-forwarded-proto"), ["https"]);
}

#[test]
fn a_url_rewrite_changes_host_and_path() {
    let origin = Origin::named("ok");
    let rewrite = UrlRewrite {
        hostname: "inside.example".into(),
        path: Some(PathModifier { prefix: true, value: "/new".into() }),
    };
    let world =
        ruled(&origin, HttpRule { filters: vec![filter(FilterKind::UrlRewrite(rewrite))], ..rule("/old") });
    let response = world.client().get("/old/x?y=z");
    assert_eq!(response.status, 200);
    let head = origin.last_head();
    assert!(head.starts_with("GET /new/x?y=z HTTP/1.1\r\n"), "{head}");
    assert_eq!(fields(&head, "host"), ["inside.example"]);
    assert_eq!(fields(&head, "x-forwarded-host"), ["example.com"]);
    assert_eq!(fields(&head, "x-forwarded-path"), ["/old/x"]);
}

#[test]
fn a_redirect_is_answered_without_a_ticket() {
    let origin = Origin::named("never");
    let redirect = RequestRedirect {
        scheme: "https".into(),
        hostname: "new.example".into(),
        path: Some(PathModifier { prefix: false, value: "/there".into() }),
        port: 8443,
        status: 301,
    };
    let edits = HeaderModifier { set: vec![line("X-Why", "moved")], ..HeaderModifier::default() };
    let filters = vec![
        filter(FilterKind::RequestRedirect(redirect)),
        filter(FilterKind::ResponseHeaderModifier(edits)),
    ];
    let world = ruled(&origin, HttpRule { filters, ..rule("/") });
    let mut client = world.client();
    for _ in 0..2 {
        let response = client.get("/here?q=1");
        assert_eq!(response.status, 301);
        assert_eq!(response.field("location"), Some("https://new.example:8443/there?q=1"));
        assert_eq!((response.field("x-why"), response.field("content-length")), (Some("moved"), Some("0")));
    }
    assert_eq!((origin.requests(), world.proxy.splits()[0].tickets), (0, 0));
}

#[test]
fn a_redirect_without_a_host_leads_to_where_the_client_is() {
    let origin = Origin::named("never");
    let redirect = RequestRedirect { status: 302, ..RequestRedirect::default() };
    let filters = vec![filter(FilterKind::RequestRedirect(redirect))];
    let world = ruled(&origin, HttpRule { filters, ..rule("/") });
    let response = world.client().exchange("GET /x HTTP/1.0\r\n\r\n");
    assert_eq!(response.field("location"), Some(format!("http://{}/x", world.address).as_str()));
}

#[test]
fn matches_look_at_host_method_headers_and_query() {
    let (by_method, by_header, by_query) =
        (Origin::named("method"), Origin::named("header"), Origin::named("query"));
    let world = World::start(one_worker());
    let mut resources = Vec::new();
    let mut rules = Vec::new();
    for (name, origin) in [("m", &by_method), ("h", &by_header), ("q", &by_query)] {
        resources.extend(backend(name, &[origin.address]));
        let mut rule = HttpRule { backends: vec![to(name, 1)], split_identity: name.into(), ..rule("/") };
        let value =
            |n: &str| weir_model::resource::ValueMatch { name: n.into(), value: "1".into(), regex: false };
        match name {
            "m" => rule.matches[0].method = "DELETE".into(),
            "h" => rule.matches[0].headers = vec![value("x-version")],
            _ => rule.matches[0].query = vec![value("v")],
        }
        rules.push(rule);
    }
    resources.push(route("r", &[(world.address.ip(), world.address.port())], rules));
    assert_eq!(world.apply(resources).rejected, []);
    let mut client = world.client();
    assert_eq!(client.exchange("DELETE / HTTP/1.1\r\nHost: h\r\n\r\n").text(), "method");
    assert_eq!(client.exchange("GET / HTTP/1.1\r\nHost: h\r\nX-VERSION: 1\r\n\r\n").text(), "header");
    assert_eq!(client.get("/?v=1").text(), "query");
    assert_eq!(client.get("/").status, 404);
}

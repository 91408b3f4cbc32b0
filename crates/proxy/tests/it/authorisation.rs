//! Outside authorisation over HTTP: the sentences of `HTTPExternalAuthFilter`.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use weir_model::limits::Limits;
use weir_model::resource::{ExternalAuth, FilterKind, HeaderModifier, HeaderValue, HttpRule, RequestMirror};
use weir_proxy::ProxyConfig;

use crate::harness::{Origin, Response, World, backend, eventually, fields, filter, ok, rule, to};

fn auth() -> ExternalAuth {
    ExternalAuth { backend_key: "backend/default/auth/80".into(), ..ExternalAuth::default() }
}

fn world_of(
    server: std::net::SocketAddr,
    origin: &Origin,
    filters: Vec<FilterKind>,
    limits: Limits,
) -> World {
    let world = World::start(ProxyConfig { workers: Some(1), limits, ..ProxyConfig::default() });
    let mut resources = backend("a", &[origin.address]).to_vec();
    resources.extend(backend("auth", &[server]));
    let filters = filters.into_iter().map(filter).collect();
    resources.push(world.route("r", HttpRule { backends: vec![to("a", 1)], filters, ..rule("/") }));
    assert_eq!(world.apply(resources).rejected, []);
    world
}

fn world(server: &Origin, origin: &Origin, auth: ExternalAuth) -> World {
    world_of(server.address, origin, vec![FilterKind::ExternalAuth(auth)], Limits::default())
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

const YES: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Type: text/plain\r\nX-User: ada\r\nX-Team: one\r\n\r\nfine";
const NO: &str =
    "HTTP/1.1 401 Unauthorized\r\nContent-Length: 8\r\nWWW-Authenticate: Basic\r\nX-Why: key\r\n\r\nwho dis?";

fn echo() -> Origin {
    Origin::start(|peer| {
        while let Some((_, body)) = peer.request() {
            peer.send(ok(std::str::from_utf8(&body).unwrap()));
        }
    })
}

/// Answers 200 and keeps the bodies that it was asked with.
fn server_that_keeps() -> (Origin, Arc<Mutex<Vec<String>>>) {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let kept = bodies.clone();
    let server = Origin::start(move |peer| {
        while let Some((_, body)) = peer.request() {
            kept.lock().unwrap().push(String::from_utf8(body).unwrap());
            peer.send(YES);
        }
    });
    (server, bodies)
}

#[test]
fn a_200_lets_the_request_pass() {
    let (server, origin) = (Origin::always(YES), echo());
    let world = world(&server, &origin, auth());
    let mut client = world.client();
    for n in 1..=5 {
        let response = client.exchange("POST /x?y=z HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!((response.status, response.text()), (200, "hello"));
        assert_eq!((server.requests(), origin.requests()), (n, n));
    }
    assert_eq!(server.connections(), 1, "the server's connection is kept");
    assert!(origin.last_head().starts_with("POST /x?y=z HTTP/1.1\r\nHost: h\r\n"), "{}", origin.last_head());
}

#[test]
fn the_server_is_sent_host_method_path_length_and_authorization_and_nothing_else() {
    let (server, origin) = (Origin::always(YES), echo());
    let world = world(&server, &origin, auth());
    let request = "PUT /x/y?q=1 HTTP/1.1\r\nHost: some.example:81\r\nAuthorization: Bearer t\r\nCookie: c=1\r\nX-A: 1\r\n\
                   Content-Length: 2\r\n\r\nhi";
    assert_eq!(world.client().exchange(request).status, 200);
    let expected = "PUT /x/y?q=1 HTTP/1.1\r\nHost: some.example:81\r\nAuthorization: Bearer t\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(server.last_head(), expected);
}

#[test]
fn the_headers_that_the_filter_names_are_sent_too_behind_its_path() {
    let (server, origin) = (Origin::always(YES), echo());
    let filter = ExternalAuth {
        path: "/check/".into(),
        allowed_request_headers: names(&["cookie", "x-a", "content-length", "connection"]),
        ..auth()
    };
    let world = world(&server, &origin, filter);
    let request = "GET /a/../b HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nX-A: 2\r\nX-B: 3\r\nCookie: c=1\r\n\r\n";
    assert_eq!(world.client().exchange(request).status, 200);
    let head = server.last_head();
    assert!(head.starts_with("GET /check/b HTTP/1.1\r\n"), "{head}");
    assert_eq!((fields(&head, "x-a"), fields(&head, "cookie")), (vec!["1", "2"], vec!["c=1"]));
    assert_eq!((fields(&head, "x-b"), fields(&head, "content-length")), (vec![], vec!["0"]));
}

#[test]
fn any_other_answer_is_the_clients_and_the_backend_sees_nothing() {
    let redirect = "HTTP/1.1 302 Found\r\nLocation: https://login.example/\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n";
    let chunked = "HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno \r\n3\r\nway\r\n0\r\n\r\n";
    for (answer, status, body) in [
        (NO, 401, "who dis?"),
        (redirect, 302, ""),
        (chunked, 403, "no way"),
        ("HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\nnew", 201, "new"),
        ("HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n", 500, ""),
    ] {
        let (server, origin) = (Origin::always(answer), echo());
        let world = world(&server, &origin, auth());
        let mut client = world.client();
        for _ in 0..2 {
            let response = client.exchange("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
            assert_eq!((response.status, response.text()), (status, body));
            if status == 401 {
                assert_eq!(response.field("www-authenticate"), Some("Basic"));
            }
            if status == 302 {
                assert_eq!(response.field("location"), Some("https://login.example/"));
                assert_eq!(response.all("set-cookie"), ["a=1", "b=2"]);
            }
        }
        assert_eq!((origin.requests(), server.requests()), (0, 2));
        assert_eq!(world.proxy.splits()[0].tickets, 0, "it takes no ticket");
    }
}

#[test]
fn headers_of_the_answer_take_the_place_of_the_clients_in_the_request() {
    for (allowed, team) in [(&[][..], &["one"][..]), (&["x-user"], &["client's"])] {
        let (server, origin) = (Origin::always(YES), echo());
        let world =
            world(&server, &origin, ExternalAuth { allowed_response_headers: names(allowed), ..auth() });
        let request = "POST / HTTP/1.1\r\nHost: h\r\nX-User: forged\r\nX-User: again\r\nX-Team: client's\r\n\
                       Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(world.client().exchange(request).text(), "{}");
        let head = origin.last_head();
        assert_eq!(fields(&head, "x-user"), ["ada"]);
        assert_eq!(fields(&head, "x-team"), team);
        assert_eq!(fields(&head, "host"), ["h"]);
        // What is about the answer is not about the request.
        assert_eq!(
            (fields(&head, "content-type"), fields(&head, "content-length")),
            (vec!["application/json"], vec!["2"])
        );
    }
}

#[test]
fn where_the_list_is_empty_all_headers_but_authority_and_host_are_copied_and_else_only_those_listed() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nDate: yesterday\r\nServer: theirs\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
         X-User: ada\r\nHost: evil\r\nAuthority: evil\r\nContent-Language: la\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
         Content-Length: 0\r\n\r\n";
    let (server, origin) = (Origin::always(ANSWER), echo());
    let all = world(&server, &origin, auth());
    assert_eq!(all.client().get("/").status, 200);
    let head = origin.last_head();
    for (name, values) in [
        ("date", &["yesterday"][..]),
        ("server", &["theirs"]),
        ("set-cookie", &["a=1", "b=2"]),
        ("x-user", &["ada"]),
        ("content-language", &["la"]),
        ("host", &["example.com"]),
        ("authority", &[]),
        ("x-hop", &[]),
        ("content-length", &[]),
    ] {
        assert_eq!(fields(&head, name), values, "{name}");
    }
    // The client's own body is described by the client.
    let request = "POST / HTTP/1.1\r\nHost: h\r\nContent-Language: en\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(all.client().exchange(request).text(), "hi");
    assert_eq!(fields(&origin.last_head(), "content-language"), ["en"]);
    let listed = names(&["content-language", "date", "host", "content-length"]);
    let some = world(&server, &origin, ExternalAuth { allowed_response_headers: listed, ..auth() });
    assert_eq!(some.client().exchange(request).text(), "hi");
    let head = origin.last_head();
    for (name, values) in [
        ("date", &["yesterday"][..]),
        ("content-language", &["la"]),
        ("server", &[]),
        ("x-user", &[]),
        ("host", &["h"]),
        ("content-length", &["2"]),
    ] {
        assert_eq!(fields(&head, name), values, "{name}");
    }
}

#[test]
fn the_body_is_sent_to_both_where_the_filter_wants_it() {
    let ((server, asked), origin) = (server_that_keeps(), echo());
    let world = world(&server, &origin, ExternalAuth { max_body_bytes: 100, ..auth() });
    let mut client = world.client();
    let plain = client.exchange("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(plain.text(), "hello");
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    client.send("4\r\ndefg\r\n0\r\n\r\n");
    assert_eq!(client.response().text(), "abcdefg");
    assert_eq!(client.get("/").text(), "");
    assert_eq!(*asked.lock().unwrap(), ["hello", "abcdefg", ""]);
    assert!(server.heads().iter().all(|head| fields(head, "transfer-encoding").is_empty()));
    assert_eq!(fields(&origin.heads()[1], "transfer-encoding"), ["chunked"]);
}

#[test]
fn a_client_that_waits_to_be_asked_for_its_body_is_asked_by_the_gateway() {
    let ((server, asked), origin) = (server_that_keeps(), echo());
    let world = world(&server, &origin, ExternalAuth { max_body_bytes: 100, ..auth() });
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.response().status, 100);
    client.send("hello");
    assert_eq!(client.response().text(), "hello");
    assert_eq!(*asked.lock().unwrap(), ["hello"]);
    assert_eq!(fields(&origin.last_head(), "expect"), [""; 0]);
}

#[test]
fn a_body_that_is_too_large_is_refused_with_a_413_and_nobody_is_asked() {
    let (server, origin) = (Origin::always(YES), echo());
    let world = world(&server, &origin, ExternalAuth { max_body_bytes: 10, ..auth() });
    let known = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\nhello world";
    assert_eq!(world.client().exchange(known).status, 413);
    let chunked =
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n";
    assert_eq!(world.client().exchange(chunked).status, 413);
    let endless = format!(
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        "1\r\nx\r\n".repeat(5_000)
    );
    assert_eq!(world.client().exchange(&endless).status, 413);
    assert_eq!((server.requests(), origin.requests()), (0, 0));
    assert_eq!(
        world.client().exchange("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n0123456789").status,
        200
    );
}

#[test]
fn what_follows_a_body_that_was_read_in_part_is_never_taken_for_a_request() {
    let (server, origin) = (Origin::always(YES), echo());
    let limits = Limits { auth_bytes: 10, ..Limits::default() };
    let filter = ExternalAuth { max_body_bytes: 1_000, ..auth() };
    let world = world_of(server.address, &origin, vec![FilterKind::ExternalAuth(filter)], limits);
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n0123456789x");
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    client.send(format!("{}{smuggled}", "y".repeat(89)));
    let response = client.response();
    assert_eq!((response.status, response.field("connection")), (503, Some("close")));
    assert!(client.rest().is_empty());
    assert_eq!((server.requests(), origin.requests()), (0, 0));
}

fn refused(world: &World) -> Response {
    world.client().get("/")
}

#[test]
fn whatever_is_wrong_with_the_server_nothing_passes() {
    let origin = echo();
    let closes = Origin::start(|peer| {
        peer.request();
    });
    let garbage = Origin::always("nonsense\r\n\r\n");
    let silent = Origin::start(|peer| {
        peer.request();
        peer.fill();
    });
    let quick = Limits { auth_timeout: Duration::from_millis(200), ..Limits::default() };
    for server in [Origin::nobody(), closes.address, garbage.address, silent.address] {
        let world = world_of(server, &origin, vec![FilterKind::ExternalAuth(auth())], quick.clone());
        assert_eq!(refused(&world).status, 503, "{server}");
        world.expect_failures("authorisation", 1);
    }
    let nobody = ExternalAuth { invalid_reason: "BackendNotFound".into(), ..auth() };
    let world = world_of(origin.address, &origin, vec![FilterKind::ExternalAuth(nobody)], quick);
    assert_eq!(refused(&world).status, 500);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn the_requests_own_time_covers_the_question() {
    let origin = echo();
    let silent = Origin::start(|peer| {
        peer.request();
        peer.fill();
    });
    let world = World::start(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
    let mut resources = backend("a", &[origin.address]).to_vec();
    resources.extend(backend("auth", &[silent.address]));
    let filters = vec![filter(FilterKind::ExternalAuth(auth()))];
    let timed = HttpRule { backends: vec![to("a", 1)], filters, request_timeout_ms: 200, ..rule("/") };
    resources.push(world.route("r", timed));
    assert_eq!(world.apply(resources).rejected, []);
    let began = Instant::now();
    assert_eq!(refused(&world).status, 504);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn two_servers_are_asked_one_after_the_other_and_see_what_stands_before_them() {
    let first = Origin::always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-User: ada\r\n\r\n");
    let second = Origin::always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Role: admin\r\n\r\n");
    let (origin, copied) = (echo(), Origin::named("m"));
    let world = World::start(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
    let mut resources = backend("a", &[origin.address]).to_vec();
    for (name, origin) in [("one", &first), ("two", &second), ("m", &copied)] {
        resources.extend(backend(name, &[origin.address]));
    }
    let asks = |name: &str, allowed: &[&str]| {
        FilterKind::ExternalAuth(ExternalAuth {
            backend_key: format!("backend/default/{name}/80"),
            allowed_request_headers: names(allowed),
            max_body_bytes: 1_000,
            ..auth()
        })
    };
    let set = FilterKind::RequestHeaderModifier(HeaderModifier {
        set: vec![HeaderValue { name: "x-step".into(), value: "set".into() }],
        ..HeaderModifier::default()
    });
    let mirror = FilterKind::RequestMirror(RequestMirror {
        backend_key: "backend/default/m/80".into(),
        numerator: 1,
        denominator: 1,
        split_identity: "m".into(),
    });
    let filters = [asks("one", &["x-step", "x-user"]), set, asks("two", &["x-step", "x-user"]), mirror];
    let filters = filters.into_iter().map(filter).collect();
    resources.push(world.route("r", HttpRule { backends: vec![to("a", 1)], filters, ..rule("/") }));
    assert_eq!(world.apply(resources).rejected, []);
    let request =
        "POST / HTTP/1.1\r\nHost: h\r\nX-User: forged\r\nX-Step: client\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(world.client().exchange(request).text(), "hi");
    let seen = |origin: &Origin| {
        let head = origin.last_head();
        [fields(&head, "x-step").join(","), fields(&head, "x-user").join(",")]
    };
    assert_eq!(seen(&first), ["client", "forged"]);
    assert_eq!(seen(&second), ["set", "ada"]);
    assert_eq!(seen(&origin), ["set", "ada"]);
    assert_eq!(fields(&origin.last_head(), "x-role"), ["admin"]);
    eventually("the copy behind both has the body too", || world.metric("weir_proxy_mirrors_total") == 1);
    assert_eq!(fields(&copied.last_head(), "x-role"), ["admin"]);
}

#[test]
fn an_answer_that_is_too_large_is_passed_on_without_its_body() {
    let server = Origin::start(|peer| {
        while peer.request().is_some() {
            peer.send(format!(
                "HTTP/1.1 403 No\r\nContent-Length: 200000\r\nContent-Type: text/html\r\nX-Why: size\r\n\r\n{}",
                "x".repeat(200_000)
            ));
        }
    });
    let origin = echo();
    let world = world(&server, &origin, auth());
    let mut client = world.client();
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!((response.status, response.body.len(), response.field("x-why")), (403, 0, Some("size")));
        assert_eq!(response.field("content-type"), None);
    }
}

#[test]
fn bodies_that_are_held_are_bounded_together() {
    let origin = echo();
    let asked = Arc::new(Mutex::new(()));
    let gate = asked.clone();
    let shut = gate.lock().unwrap();
    let waiting = asked.clone();
    let server = Origin::start(move |peer| {
        while peer.request().is_some() {
            drop(waiting.lock().unwrap());
            peer.send(YES);
        }
    });
    let limits = Limits { auth_bytes: 100_000, ..Limits::default() };
    let filter = ExternalAuth { max_body_bytes: 90_000, ..auth() };
    let world = world_of(server.address, &origin, vec![FilterKind::ExternalAuth(filter)], limits);
    let body = "x".repeat(80_000);
    let request = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 80000\r\n\r\n{body}");
    let mut first = world.client();
    first.send(&request);
    eventually("the first question is asked", || server.requests() == 1);
    assert_eq!(world.client().exchange(&request).status, 503);
    drop(shut);
    assert_eq!(first.response().body.len(), 80_000);
    // There is room again.
    assert_eq!(world.client().exchange(&request).body.len(), 80_000);
}

#[test]
fn an_answer_to_head_has_no_body() {
    let (server, origin) = (Origin::always("HTTP/1.1 401 No\r\nContent-Length: 8\r\n\r\n"), echo());
    let world = world(&server, &origin, auth());
    let mut client = world.client();
    for _ in 0..2 {
        let response = client.exchange("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!((response.status, response.body.len()), (401, 0));
    }
    assert!(server.last_head().starts_with("HEAD / "));
}

/// What a server may say of a client, the client does not say of itself.
#[test]
fn a_listed_header_that_the_answer_lacks_is_not_the_clients_either() {
    let (server, origin) = (Origin::always(YES), echo());
    let listed = names(&["X-User", "x-role", "content-type"]);
    let world = world(&server, &origin, ExternalAuth { allowed_response_headers: listed, ..auth() });
    let request = "POST / HTTP/1.1\r\nHost: h\r\nX-Role: admin\r\nX-User: admin\r\nX-Other: kept\r\n\
                   Content-Type: text/csv\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(world.client().exchange(request).text(), "hi");
    let head = origin.last_head();
    assert_eq!((fields(&head, "x-user"), fields(&head, "x-role")), (vec!["ada"], vec![]));
    assert_eq!(fields(&head, "x-other"), ["kept"]);
    // The client's body is described by someone.
    assert_eq!(fields(&head, "content-type").len(), 1);
}

#[test]
fn a_client_may_send_as_many_headers_as_without_a_server_to_ask() {
    let (server, origin) = (Origin::always(YES), echo());
    let filter = ExternalAuth { allowed_request_headers: names(&["x-h-0", "x-h-126"]), ..auth() };
    let world = world(&server, &origin, filter);
    let many: String = (0..127).map(|n| format!("X-H-{n}: v{n}\r\n")).collect();
    assert_eq!(world.client().exchange(&format!("GET / HTTP/1.1\r\nHost: h\r\n{many}\r\n")).status, 200);
    let asked = server.last_head();
    assert_eq!((fields(&asked, "x-h-0"), fields(&asked, "x-h-126")), (vec!["v0"], vec!["v126"]));
    assert_eq!(fields(&origin.last_head(), "x-h-126"), ["v126"]);
}

#[test]
fn the_bound_of_request_bodies_holds_for_those_that_are_held() {
    let ((server, asked), origin) = (server_that_keeps(), echo());
    let limits = Limits { request_body_bytes: 5, ..Limits::default() };
    let filter = FilterKind::ExternalAuth(ExternalAuth { max_body_bytes: 1_000, ..auth() });
    let world = world_of(server.address, &origin, vec![filter], limits);
    let chunked = |body: &str| {
        let length = body.len();
        format!(
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
        )
    };
    assert_eq!(world.client().exchange(&chunked("hello!")).status, 413);
    assert_eq!((server.requests(), origin.requests()), (0, 0));
    assert_eq!(world.client().exchange(&chunked("hello")).text(), "hello");
    assert_eq!(*asked.lock().unwrap(), ["hello"]);
}

/// RFC 9112 section 8: an answer that ends with its connection is whole only if the connection was closed.
#[test]
fn an_answer_that_broke_off_is_no_word() {
    let server = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 401 No\r\nX-Why: key\r\n\r\nhalf of");
        socket2::SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let origin = echo();
    let world = world(&server, &origin, auth());
    for _ in 0..20 {
        assert_eq!(refused(&world).status, 503);
    }
    assert_eq!(origin.requests(), 0);
}

//! What is refused, and that nothing of it reaches a backend. One test for each class of attack of the last years
//! that HTTP/1 knows.

use std::time::Duration;

use weir_model::limits::Limits;
use weir_proxy::ProxyConfig;

use crate::harness::*;

fn config(limits: Limits) -> ProxyConfig {
    ProxyConfig { workers: Some(1), limits, ..ProxyConfig::default() }
}

/// Sends `bytes` and a request behind them on a connection: exactly one answer of this status comes, then the end.
fn refused(world: &World, bytes: &str, status: u16, message: &str) {
    let mut client = world.client();
    client.send(bytes);
    client.send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response();
    assert_eq!(response.status, status, "{bytes:?}: {}", response.head);
    assert_eq!(response.text(), format!("{{\"message\":\"{message}\"}}"), "{bytes:?}");
    assert_eq!(response.field("connection"), Some("close"), "{bytes:?}");
    assert!(client.rest().is_empty(), "{bytes:?}: one answer and no more");
}

#[test]
fn ambiguous_framing_never_reaches_a_backend() {
    let origin = Origin::named("reached");
    let world = World::to(&origin);
    let post = |fields: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}");
    for bytes in [
        post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nX"),
        post("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", "0\r\n\r\nX"),
        post("Content-Length: 1\r\nContent-Length: 2\r\n", "xx"),
        post("Content-Length: 1\r\nContent-Length: 1\r\n", "x"),
        post("Content-Length: 1, 1\r\n", "x"),
        post("Content-Length: +1\r\n", "x"),
        post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: identity\r\n", ""),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: \u{b}chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        post("Content-Length: 1\n", "x"),
        post("X: a\rContent-Length: 1\r\n", "x"),
        post("X: a\r\n Content-Length: 1\r\n", "x"),
        post("X: a\0b\r\n", ""),
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\nHost: a\n\n".to_owned(),
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n".to_owned(),
    ] {
        refused(&world, &bytes, 400, "Bad request");
    }
    assert_eq!(origin.requests(), 0);
    eventually("every one is counted", || {
        world.failures("ambiguous_framing") + world.failures("bad_request") == 23
    });
}

#[test]
fn other_refusals_have_their_own_status() {
    let origin = Origin::named("reached");
    let world = World::to(&origin);
    refused(&world, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405, "Method not allowed");
    refused(&world, "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "HTTP version not supported");
    refused(&world, "GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", 417, "Expectation failed");
    refused(&world, &format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(20_000)), 414, "URI too long");
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200));
    refused(&world, &many, 431, "Request header or cookie too large");
    let mut client = world.client();
    let response = client.exchange("GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(response.status, 421);
    for path in ["/a/..%2fb", "/%zz", "/a%00b"] {
        let response = client.get(path);
        assert_eq!((response.status, response.field("connection")), (400, Some("keep-alive")), "{path}");
    }
    assert_eq!(client.exchange("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").status, 404);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn a_malformed_chunk_ends_the_request_on_both_sides() {
    let origin = Origin::start(|peer| {
        peer.request_head();
        let rest = peer.rest();
        assert_eq!(String::from_utf8_lossy(&rest), "2\r\nok\r\n", "only what was well-formed came");
    });
    let world = World::to(&origin);
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n");
    eventually("the origin has the head", || origin.requests() == 1);
    client.send("3 \r\nbad\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.field("connection")), (400, Some("close")));
    assert!(client.rest().is_empty());
    world.expect_failures("bad_body", 1);
}

#[test]
fn a_hundred_megabytes_of_header_are_refused_at_once_and_cost_no_memory() {
    in_its_own_process("refusals::process_with_a_hundred_megabytes_of_header");
}

#[test]
#[ignore = "run by a_hundred_megabytes_of_header_are_refused_at_once_and_cost_no_memory"]
fn process_with_a_hundred_megabytes_of_header() {
    let origin = Origin::named("reached");
    let world = World::to(&origin);
    let before = resident_bytes();
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
    let started = std::time::Instant::now();
    let block = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        // The proxy stops reading after a while; a send that fails then is part of the test.
        client.send(&block);
    }
    let response = client.response();
    assert_eq!(response.status, 431);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert!(resident_bytes().saturating_sub(before) < 8 << 20);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn a_client_that_sends_its_head_too_slowly_gets_a_408() {
    let origin = Origin::named("reached");
    let limits = Limits { header_read_timeout: Duration::from_millis(300), ..Limits::default() };
    let world = World::with(&origin, config(limits));
    let mut client = world.client();
    let started = std::time::Instant::now();
    for byte in b"GET / HTTP/1.1\r\nHost: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" {
        client.send([*byte]);
        std::thread::sleep(Duration::from_millis(10));
        if started.elapsed() > Duration::from_millis(400) {
            break;
        }
    }
    let response = client.response();
    assert_eq!((response.status, response.field("connection")), (408, Some("close")));
    assert!(client.ends());
    world.expect_failures("head_timeout", 1);
}

#[test]
fn a_client_that_says_nothing_is_closed_without_an_answer() {
    let limits = Limits {
        first_byte_timeout: Duration::from_millis(100),
        idle_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let origin = Origin::named("ok");
    let world = World::with(&origin, config(limits));
    assert!(world.client().rest().is_empty());
    let mut client = world.client();
    assert_eq!(client.get("/").status, 200);
    assert!(client.rest().is_empty());
}

#[test]
fn a_client_that_stops_sending_its_body_gets_a_408() {
    let origin = Origin::start(|peer| {
        peer.request_head();
        peer.rest();
    });
    let limits = Limits { body_read_timeout: Duration::from_millis(200), ..Limits::default() };
    let world = World::with(&origin, config(limits));
    let mut client = world.client();
    let response = client.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    assert_eq!((response.status, response.field("connection")), (408, Some("close")));
    world.expect_failures("body_timeout", 1);
}

#[test]
fn a_client_that_stops_reading_is_dropped() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        peer.send(vec![0; 100_000_000]);
    });
    let limits = Limits { body_write_timeout: Duration::from_millis(300), ..Limits::default() };
    let world = World::with(&origin, config(limits));
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the client is given up", || world.failures("client_stalled") == 1);
}

#[test]
fn a_body_beyond_its_limit_is_refused_whatever_its_framing() {
    let origin = Origin::start(|peer| {
        while let Some((_, body)) = peer.request() {
            peer.send(ok(&body.len().to_string()));
        }
    });
    let world = World::with(&origin, config(Limits { request_body_bytes: 1000, ..Limits::default() }));
    let mut client = world.client();
    let fits = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(1000));
    assert_eq!(client.exchange(&fits).text(), "1000");
    let length = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n";
    assert_eq!(client.exchange(length).status, 413);
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..20 {
        client.send(format!("64\r\n{}\r\n", "x".repeat(100)));
    }
    let response = client.response();
    assert_eq!((response.status, response.text()), (413, r#"{"message":"Payload too large"}"#));
    world.expect_failures("body_too_large", 2);
}

#[test]
fn a_head_that_ends_early_is_no_request() {
    let origin = Origin::named("reached");
    let world = World::to(&origin);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n");
    client.finish_sending();
    assert!(client.rest().is_empty());
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    client.finish_sending();
    client.rest();
    eventually("the half request is given up", || world.failures("client_gone") == 1);
}

#[test]
fn the_answer_to_a_refused_head_request_has_no_body() {
    let world = World::start(config(Limits::default()));
    let mut client = world.client();
    for _ in 0..2 {
        let response = client.exchange("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((response.status, response.field("content-length")), (404, Some("48")));
    }
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n");
    assert_eq!(client.response_to("HEAD").status, 400);
    assert!(client.rest().is_empty());
}

#[test]
fn an_unroutable_requests_body_is_skipped_where_it_is_there_and_closes_where_not() {
    let world = World::start(config(Limits::default()));
    let mut client = world.client();
    let response = client.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!((response.status, response.field("connection")), (404, Some("keep-alive")));
    let response = client.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell");
    assert_eq!((response.status, response.field("connection")), (404, Some("close")));
    assert!(client.ends());
}

/// Each option is looked for among all fields: as many as there may be fields are enough.
#[test]
fn more_options_of_a_connection_than_fields_are_refused() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    let with = |count: usize| {
        let options = vec!["a"; count].join(",");
        format!("GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\nConnection: {options}\r\n\r\n")
    };
    assert_eq!(world.client().exchange(&with(100)).status, 200);
    assert_eq!(fields(&origin.last_head(), "a"), [""; 0]);
    assert_eq!(world.client().exchange(&with(1_000)).status, 431);
    assert_eq!(origin.requests(), 1);
}

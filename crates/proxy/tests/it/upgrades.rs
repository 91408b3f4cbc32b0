//! Upgraded connections: a tunnel only after the backend's 101.

use crate::harness::*;

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";

#[test]
fn after_a_101_bytes_go_both_ways_until_both_sides_are_done() {
    let origin = Origin::start(|peer| {
        let head = peer.request_head().unwrap();
        assert_eq!(fields(&head, "connection"), ["upgrade"]);
        assert_eq!(fields(&head, "upgrade"), ["websocket"]);
        assert_eq!(fields(&head, "sec-websocket-key"), ["k"]);
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
        );
        for _ in 0..100 {
            let data = peer.exactly(4);
            peer.send(data);
        }
        assert!(peer.ends(), "the client's half-close comes through");
        peer.send("last words");
    });
    let world = World::to(&origin);
    let mut client = world.client();
    client.send(UPGRADE);
    let head = client.head().unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "));
    assert_eq!((fields(&head, "connection"), fields(&head, "upgrade")), (vec!["upgrade"], vec!["websocket"]));
    assert_eq!(client.exactly(5), b"hello");
    for n in 0..100 {
        let data = format!("{n:04}");
        client.send(&data);
        assert_eq!(client.exactly(4), data.as_bytes());
    }
    client.finish_sending();
    assert_eq!(client.rest(), b"last words");
    assert_eq!(world.metric("weir_proxy_tunnels_total"), 1);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the tunnel's connection was not pooled", || origin.connections() == 2);
}

/// CVE-2026-2833 and its like: bytes behind an upgrade request must not reach the backend as a request of its own.
#[test]
fn what_follows_an_upgrade_request_waits_for_the_101() {
    let origin = Origin::start(|peer| {
        peer.request_head().unwrap();
        // Time in which something wrong could come; nothing does.
        peer.stream.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
        let came = std::io::Read::read(&mut peer.stream, &mut [0; 1]);
        assert!(peer.buffer.is_empty() && came.is_err(), "{came:?}");
        peer.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(peer.rest(), b"", "nothing else ever comes on this connection");
    });
    let world = World::to(&origin);
    let mut client = world.client();
    client.send(format!("{UPGRADE}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"));
    let response = client.response();
    assert_eq!((response.status, response.field("connection")), (403, Some("close")));
    assert!(client.rest().is_empty(), "nor is it answered as a request");
    assert_eq!(origin.requests(), 1);
}

#[test]
fn what_follows_an_upgrade_request_goes_through_the_tunnel() {
    let origin = Origin::start(|peer| {
        peer.request_head().unwrap();
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        let early = peer.exactly(5);
        peer.send(early);
    });
    let world = World::to(&origin);
    let mut client = world.client();
    client.send(format!("{UPGRADE}early"));
    client.head().unwrap();
    assert_eq!(client.exactly(5), b"early");
}

#[test]
fn an_upgrade_request_with_a_body_is_refused() {
    let origin = Origin::named("reached");
    let world = World::to(&origin);
    for body in ["Content-Length: 3\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] {
        let mut client = world.client();
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n{body}"
        ));
        assert_eq!(client.response().status, 400);
        assert!(client.rest().is_empty());
    }
    assert_eq!(origin.requests(), 0);
}

/// An h2c tunnel would carry requests past every route.
#[test]
fn an_upgrade_to_http_is_served_without_one() {
    let origin = Origin::named("plain");
    let world = World::to(&origin);
    let mut client = world.client();
    for _ in 0..2 {
        let response = client.exchange(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n\r\n",
        );
        assert_eq!((response.text(), response.field("connection")), ("plain", Some("keep-alive")));
    }
    let head = origin.last_head();
    assert!(fields(&head, "upgrade").is_empty() && fields(&head, "http2-settings").is_empty());
}

#[test]
fn a_101_that_nobody_asked_for_is_an_invalid_response() {
    let origin =
        Origin::always("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    let world = World::to(&origin);
    assert_eq!(world.client().get("/").status, 502);
    world.expect_failures("bad_response", 1);
}

//! The head that the next hop gets, byte for byte.

use weir_codec::field::{FieldStore, Known, KnownSet};
use weir_codec::head::{Asked, RequestHead, ResponseHead, Version};
use weir_codec::rewrite::{self, Delimiting, Forwarding, RequestTarget};
use weir_codec::target::Target;

const FORWARDING: Forwarding<'_> = Forwarding {
    http2: false,
    peer: b"192.0.2.7",
    trusted: false,
    scheme: b"http",
    authority: b"h",
    port: 80,
    path: b"/a",
    prefix: None,
    request_id: b"",
    overridden: KnownSet::EMPTY,
    connection: CONNECTION,
};

/// What every ordinary request of a connection from this peer has.
const CONNECTION: &[u8] =
    b"X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: 80\r\n\
    X-Real-IP: 192.0.2.7\r\nVia: 1.1 weir\r\nConnection: keep-alive\r\n";

#[test]
fn an_ordinary_request_gets_the_lines_of_its_connection() {
    let mut lines = Vec::new();
    rewrite::connection_lines(b"192.0.2.7", b"http", 80, false, &mut lines);
    assert_eq!(lines, CONNECTION);
    let forwarding = Forwarding { prefix: Some(b"/p"), request_id: b"id", ..FORWARDING };
    assert_eq!(
        forwarded("GET /a HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n", &forwarding),
        "GET /a HTTP/1.1\r\nHost: h\r\nAccept: */*\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\n\
         X-Forwarded-Port: 80\r\nX-Real-IP: 192.0.2.7\r\nVia: 1.1 weir\r\nConnection: keep-alive\r\n\
         X-Forwarded-Host: h\r\nX-Forwarded-Path: /a\r\nX-Forwarded-Prefix: /p\r\nX-Kong-Request-Id: id\r\n\r\n"
    );
}

fn forwarded(bytes: &str, forwarding: &Forwarding<'_>) -> String {
    let mut store = FieldStore::new();
    let head = RequestHead::parse(bytes.as_bytes(), &mut store).unwrap();
    let Target::Path { path, query, .. } = head.target else { panic!("no path") };
    let dropped = rewrite::request_dropped(&head, forwarding.trusted);
    let mut out = Vec::new();
    rewrite::request(&head, &RequestTarget { path, query, host: None }, dropped, forwarding, &mut out);
    rewrite::finish(&mut out);
    String::from_utf8(out).unwrap()
}

fn returned(bytes: &str, client: Version) -> String {
    let mut store = FieldStore::new();
    let head =
        ResponseHead::parse(bytes.as_bytes(), Asked { head: false, upgrade: true }, &mut store).unwrap();
    let delimiting = Delimiting::of(head.framing, client);
    let mut out = Vec::new();
    if head.is_interim() {
        rewrite::interim(&head, &mut out);
    } else {
        let dropped = rewrite::response_dropped(&head, delimiting, KnownSet::EMPTY);
        rewrite::response(&head, delimiting, dropped, true, rewrite::CameBy::Http1, &mut out);
        rewrite::finish(&mut out);
    }
    String::from_utf8(out).unwrap()
}

#[test]
fn a_request_goes_on_with_its_fields_in_order_and_ours_behind() {
    assert_eq!(
        forwarded(
            "GET /a?b HTTP/1.1\r\nHost: h\r\nAccept: */*\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
             Cookie: a=b\r\nTE: gzip, trailers\r\nProxy-Authorization: x\r\nUpgrade: websocket\r\n\r\n",
            &FORWARDING
        ),
        "GET /a?b HTTP/1.1\r\nHost: h\r\nAccept: */*\r\nCookie: a=b\r\nX-Forwarded-For: 192.0.2.7\r\n\
         X-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\nX-Forwarded-Port: 80\r\nX-Forwarded-Path: /a\r\nX-Real-IP: 192.0.2.7\r\n\
         Via: 1.1 weir\r\nConnection: TE\r\nTE: trailers\r\n\r\n"
    );
}

#[test]
fn what_a_client_says_about_itself_is_kept_only_from_trusted_peers() {
    let bytes = "GET /a HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 10.1.1.1, 10.1.1.2\r\nx-forwarded-for: 10.1.1.3\r\n\
        X-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /evil\r\nX-Real-IP: 10.1.1.1\r\nForwarded: for=10.1.1.1\r\n\
        X_Real_IP: 6.6.6.6\r\nX-Kong-Request-Id: mine\r\n\r\n";
    let untrusted = forwarded(bytes, &Forwarding { request_id: b"ours", ..FORWARDING });
    assert_eq!(
        untrusted,
        "GET /a HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 10.1.1.1, 10.1.1.2, 10.1.1.3, 192.0.2.7\r\n\
         X-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\nX-Forwarded-Port: 80\r\nX-Forwarded-Path: /a\r\n\
         X-Real-IP: 192.0.2.7\r\nX-Kong-Request-Id: ours\r\nVia: 1.1 weir\r\nConnection: keep-alive\r\n\r\n"
    );
    let trusted = forwarded(bytes, &Forwarding { trusted: true, request_id: b"ours", ..FORWARDING });
    assert_eq!(
        trusted,
        "GET /a HTTP/1.1\r\nHost: h\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /evil\r\nX-Real-IP: 10.1.1.1\r\n\
         Forwarded: for=10.1.1.1\r\nX-Kong-Request-Id: mine\r\n\
         X-Forwarded-For: 10.1.1.1, 10.1.1.2, 10.1.1.3, 192.0.2.7\r\nX-Forwarded-Host: h\r\nX-Forwarded-Port: 80\r\n\
         X-Forwarded-Path: /a\r\nVia: 1.1 weir\r\nConnection: keep-alive\r\n\r\n"
    );
}

#[test]
fn what_a_filter_sets_is_not_set_again() {
    let overridden = KnownSet::EMPTY.with(Known::XForwardedProto).with(Known::XForwardedFor);
    let out = forwarded("GET /a HTTP/1.1\r\nHost: h\r\n\r\n", &Forwarding { overridden, ..FORWARDING });
    assert!(!out.contains("X-Forwarded-Proto") && !out.contains("X-Forwarded-For"));
    assert!(out.contains("X-Forwarded-Host"));
}

#[test]
fn framing_goes_on_as_it_was_decided() {
    let chunked = forwarded(
        "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: CHUNKED\r\nTrailer: x\r\nExpect: 100-continue\r\n\r\n",
        &FORWARDING,
    );
    assert!(chunked.contains("\r\nTransfer-Encoding: chunked\r\n"));
    assert!(chunked.contains("\r\nTrailer: x\r\n") && chunked.contains("\r\nExpect: 100-continue\r\n"));
    let length = forwarded(
        "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTrailer: x\r\nConnection: content-length\r\n\r\n",
        &FORWARDING,
    );
    assert!(length.contains("\r\nContent-Length: 3\r\n"), "Connection cannot remove framing");
    assert!(!length.contains("Trailer"));
    let old = forwarded("GET /a HTTP/1.0\r\nHost: h\r\nExpect: 100-continue\r\n\r\n", &FORWARDING);
    assert!(
        old.starts_with("GET /a HTTP/1.1\r\n") && old.contains("Via: 1.0 weir") && !old.contains("Expect")
    );
}

#[test]
fn an_upgrade_goes_on_with_its_own_connection_option() {
    let out = forwarded(
        "GET /a HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n",
        &FORWARDING,
    );
    assert!(out.contains("\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"));
    assert!(out.contains("Sec-WebSocket-Key: k") && !out.contains("keep-alive"));
}

#[test]
fn a_response_comes_back_without_its_connections_fields() {
    assert_eq!(
        returned(
            "HTTP/1.1 200 Fine by me\r\nServer: x\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
             Content-Length: 3\r\n\r\n",
            Version::Http11
        ),
        "HTTP/1.1 200 Fine by me\r\nServer: x\r\nContent-Length: 3\r\nConnection: keep-alive\r\nVia: 1.1 weir\r\n\r\n"
    );
    assert_eq!(
        returned("HTTP/1.0 404\r\nConnection: close\r\nContent-Length: 3\r\n\r\n", Version::Http11),
        "HTTP/1.1 404 \r\nContent-Length: 3\r\nConnection: keep-alive\r\nVia: 1.0 weir\r\n\r\n"
    );
}

#[test]
fn a_body_without_a_known_end_is_delimited_for_its_client() {
    let until_close = "HTTP/1.1 200 OK\r\nServer: x\r\n\r\n";
    assert_eq!(
        returned(until_close, Version::Http11),
        "HTTP/1.1 200 OK\r\nServer: x\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\nVia: 1.1 weir\r\n\r\n"
    );
    for bytes in
        [until_close, "HTTP/1.1 200 OK\r\nServer: x\r\nTransfer-Encoding: chunked\r\nTrailer: a\r\n\r\n"]
    {
        assert_eq!(
            returned(bytes, Version::Http10),
            "HTTP/1.1 200 OK\r\nServer: x\r\nConnection: close\r\nVia: 1.1 weir\r\n\r\n"
        );
    }
}

#[test]
fn responses_without_a_body_say_nothing_of_a_length() {
    let no_content = returned("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", Version::Http11);
    assert!(!no_content.contains("Content-Length"));
    let not_modified = returned("HTTP/1.1 304 Not\r\nContent-Length: 5\r\nETag: x\r\n\r\n", Version::Http11);
    assert!(not_modified.contains("Content-Length: 5"), "a 304's length is the representation's");
    assert_eq!(
        returned("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\n", Version::Http11),
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    );
    assert_eq!(
        returned(
            "HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec: x\r\n\r\n",
            Version::Http11
        ),
        "HTTP/1.1 101 Go\r\nSec: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nVia: 1.1 weir\r\n\r\n"
    );
}

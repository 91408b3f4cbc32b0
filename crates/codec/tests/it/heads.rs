//! What a head says, field by field.

use weir_codec::body::Framing;
use weir_codec::field::{FieldStore, Known};
use weir_codec::head::{Asked, HeadError, HeadLimits, HeadScan, RequestHead, ResponseHead, Version};
use weir_codec::target::{Absolute, Target};

use crate::oracle::HEAD_LIMITS;

fn with_request<T>(bytes: &str, look: impl FnOnce(Result<RequestHead<'_, '_>, HeadError>) -> T) -> T {
    let scanned = HeadScan::default().advance(bytes.as_bytes(), &HEAD_LIMITS);
    let length = match scanned {
        Ok(length) => length.expect("the head is whole"),
        Err(error) => return look(Err(error)),
    };
    look(RequestHead::parse(&bytes.as_bytes()[..length], &mut FieldStore::new()))
}

fn error(bytes: &str) -> Option<HeadError> {
    with_request(bytes, |head| head.err())
}

fn with_response<T>(
    bytes: &str,
    asked: Asked,
    look: impl FnOnce(Result<ResponseHead<'_, '_>, HeadError>) -> T,
) -> T {
    look(ResponseHead::parse(bytes.as_bytes(), asked, &mut FieldStore::new()))
}

const PLAIN: Asked = Asked { head: false, upgrade: false };

#[test]
fn a_request_says_what_it_is() {
    let bytes = "PATCH http://Example.com:8080/a/b?c=d HTTP/1.1\r\nhost: example.COM:8080\r\nConnection: close, TE\r\n\
        TE: trailers\r\nContent-Length: 7\r\nExpect: 100-Continue\r\n\r\n";
    with_request(bytes, |head| {
        let head = head.unwrap();
        let absolute = Some(Absolute { secure: false, authority: b"Example.com:8080" });
        assert_eq!(head.method, b"PATCH");
        assert_eq!(head.target, Target::Path { path: b"/a/b", query: Some(b"c=d"), absolute });
        assert_eq!(head.authority.raw, b"Example.com:8080", "the target wins over Host");
        assert_eq!(head.version, Version::Http11);
        assert_eq!(head.framing, Framing::Length(7));
        assert!(!head.keep_alive && head.te_trailers && head.expect_continue);
        assert!(!head.is_idempotent() && !head.is_head());
        assert_eq!(head.fields.values(Known::ContentLength).collect::<Vec<_>>(), [b"7"]);
        assert_eq!(head.fields.named(b"CONNECTION").collect::<Vec<_>>(), [b"close, TE"]);
    });
}

#[test]
fn connections_stay_by_version_and_option() {
    for (version, options, stays) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: foo\r\nConnection: CLOSE\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let bytes = format!("GET / HTTP/{version}\r\nHost: h\r\n{options}\r\n");
        with_request(&bytes, |head| assert_eq!(head.unwrap().keep_alive, stays, "{bytes}"));
    }
}

#[test]
fn each_ambiguity_is_refused_for_its_own_reason() {
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    for (bytes, expected) in [
        (post("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), HeadError::LengthAndEncoding),
        (post("Content-Length: 1\r\nContent-Length: 1\r\n"), HeadError::ContentLengthRepeated),
        (post("Content-Length: 1, 1\r\n"), HeadError::ContentLength),
        (post("Transfer-Encoding: chunked, identity\r\n"), HeadError::TransferEncoding),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(), HeadError::EncodingInOldVersion),
        ("GET / HTTP/1.1\r\n\r\n".into(), HeadError::HostMissing),
        ("GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n".into(), HeadError::HostRepeated),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n".into(), HeadError::HostRepeated),
        ("GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n".into(), HeadError::Host),
        ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n".into(), HeadError::HostDiffers),
        ("GET / HTTP/1.1\nHost: b\r\n\r\n".into(), HeadError::LineEnding),
        ("\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n".into(), HeadError::BlankLine),
        (post("X: a\r\n\tb\r\n"), HeadError::Folding),
        (post("X : a\r\n"), HeadError::Field),
        (post("Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 1\r\n"), HeadError::UpgradeWithBody),
        (post("Expect: something\r\n"), HeadError::Expectation),
        ("CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n".into(), HeadError::Connect),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n".into(), HeadError::Version),
    ] {
        assert_eq!(error(&bytes), Some(expected), "{bytes}");
    }
}

#[test]
fn limits_hold_before_the_head_is_whole() {
    let limits = HeadLimits { head_bytes: 100, first_line_bytes: 30, fields: 3 };
    let scan = |bytes: &str| HeadScan::default().advance(bytes.as_bytes(), &limits);
    assert_eq!(scan(&format!("GET /{}", "a".repeat(40))), Err(HeadError::FirstLineTooLong));
    assert_eq!(scan(&format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(100))), Err(HeadError::TooLarge));
    assert_eq!(scan("GET / HTTP/1.1\r\nA: 1\r\nB: 1\r\nC: 1\r\nD: 1\r\n"), Err(HeadError::TooManyFields));
    assert_eq!(scan("GET / HTTP/1.1\r\nA: 1\r\nB: 1\r\nC: 1\r\n\r\n"), Ok(Some(36)));
    let exact = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(100 - 23));
    assert_eq!((exact.len(), scan(&exact)), (100, Ok(Some(100))));
}

#[test]
fn an_upgrade_is_passed_on_unless_it_would_carry_http_past_the_routes() {
    for (protocols, version, options, expected) in [
        ("websocket", "1.1", "Upgrade", true),
        ("WebSocket, foo/2", "1.1", "keep-alive, upgrade", true),
        ("websocket", "1.1", "keep-alive", false),
        ("websocket", "1.0", "upgrade", false),
        ("h2c", "1.1", "upgrade", false),
        ("websocket, H2C", "1.1", "upgrade", false),
        ("HTTP/2.0", "1.1", "upgrade", false),
        ("TLS/1.2", "1.1", "upgrade", false),
        (",", "1.1", "upgrade", false),
    ] {
        let bytes = format!(
            "GET / HTTP/{version}\r\nHost: h\r\nConnection: {options}\r\nUpgrade: {protocols}\r\n\r\n"
        );
        with_request(&bytes, |head| assert_eq!(head.unwrap().upgrade.is_some(), expected, "{bytes}"));
    }
}

#[test]
fn a_responses_framing_depends_on_status_request_and_fields() {
    let head = Asked { head: true, upgrade: false };
    for (bytes, asked, framing, reusable) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", PLAIN, Framing::Length(5), true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", head, Framing::None, true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", PLAIN, Framing::Chunked, true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", head, Framing::None, true),
        ("HTTP/1.1 200 OK\r\n\r\n", PLAIN, Framing::UntilClose, false),
        ("HTTP/1.1 200 OK\r\n\r\n", head, Framing::None, true),
        ("HTTP/1.1 204 No\r\n\r\n", PLAIN, Framing::None, true),
        ("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", PLAIN, Framing::None, false),
        ("HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\n", PLAIN, Framing::None, true),
        ("HTTP/1.1 100 Go\r\n\r\n", PLAIN, Framing::None, true),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n",
            PLAIN,
            Framing::Length(5),
            false,
        ),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", PLAIN, Framing::Length(5), false),
        (
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n",
            PLAIN,
            Framing::Length(5),
            true,
        ),
    ] {
        with_response(bytes, asked, |response| {
            let response = response.unwrap();
            assert_eq!((response.framing, response.reusable), (framing, reusable), "{bytes}");
        });
    }
}

#[test]
fn a_101_counts_only_where_an_upgrade_was_asked_for() {
    let bytes = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let asked = Asked { head: false, upgrade: true };
    with_response(bytes, asked, |head| assert_eq!(head.unwrap().framing, Framing::Tunnel));
    with_response(bytes, PLAIN, |head| assert_eq!(head.err(), Some(HeadError::UnaskedUpgrade)));
    let without = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    with_response(without, asked, |head| assert_eq!(head.err(), Some(HeadError::UnaskedUpgrade)));
}

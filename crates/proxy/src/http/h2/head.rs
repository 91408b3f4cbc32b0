//! Heads and trailers, from HTTP/2 to the HTTP/1.1 text that the rest of the data plane reads and writes, and back.
//!
//! Text that is written here is read by the codec with all of its checks, so what cannot be said in HTTP/1.1 without
//! ambiguity is refused there, once for both versions. Text that is read here was written by the codec.
//!
//! Invariants: no field that belongs to one connection crosses (RFC 9113 section 8.2.2); the length of a body is announced in one
//! way only; names and values come from types that cannot hold a line end.

use std::io;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use weir_codec::body::Framing;
use weir_codec::field::{HOP_BY_HOP, Known, classify};
use weir_codec::rewrite::{field, finish, number_field};

/// How a body that comes as DATA frames is written as HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// There is none.
    Nothing,
    /// As it is: its length has been announced.
    Plain,
    /// In chunks, with trailers.
    Chunks,
    /// As it is, in both directions, without an announced end.
    Tunnel,
}

/// What a response depends on.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    /// The request is a HEAD.
    pub(super) to_head: bool,
    /// Whoever asked wants trailers (`TE: trailers`), with a length announced or not.
    wants_trailers: bool,
    /// For a WebSocket: the key of the handshake in HTTP/1.1.
    web_socket: Option<Bytes>,
}

impl Asked {
    /// By a client, whose response is text already.
    pub(super) fn by_client(method: &Method) -> Asked {
        Asked { to_head: *method == Method::HEAD, ..Asked::default() }
    }
}

/// What is put behind a WebSocket's key before it is hashed (RFC 6455 section 1.3).
const WEB_SOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether messages of this type end with trailers that matter and announce no length that does.
pub(crate) fn is_grpc(content_type: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    content_type.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
        && matches!(content_type.get(GRPC.len()), None | Some(b'+' | b';' | b' '))
}

/// Fields that mean something to one connection of HTTP/1.1 only.
fn is_connection_field(known: Known) -> bool {
    matches!(
        known,
        Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::TransferEncoding
            | Known::Upgrade
            | Known::Http2Settings
    )
}

/// How the body after this head is to be written, given that it is not over already.
///
/// In HTTP/1.1 trailers can only follow chunks, so what is announced to have some goes in chunks, whether its length is known or not.
/// Trailers that nobody has announced or asked for, after a body of a known length, are left out there (RFC 9110 section 6.5.1).
fn written(fields: &HeaderMap) -> Written {
    let grpc = fields.get(http::header::CONTENT_TYPE).is_some_and(|value| is_grpc(value.as_bytes()));
    let trailers = grpc || fields.contains_key(http::header::TRAILER);
    if fields.contains_key(http::header::CONTENT_LENGTH) && !trailers {
        Written::Plain
    } else {
        Written::Chunks
    }
}

/// A client's request as text; `ended` where there is no body. `key` is what a WebSocket handshake in HTTP/1.1 needs; `most_fields` is where cookie crumbs
/// are no longer put together, so that a flood of them is counted.
pub(super) fn request_text<B>(
    request: &Request<B>,
    ended: bool,
    key: &[u8],
    most_fields: usize,
    out: &mut Vec<u8>,
) -> Written {
    let protocol = request.extensions().get::<h2::ext::Protocol>();
    let websocket =
        *request.method() == Method::CONNECT && protocol.is_some_and(|it| it.as_str() == "websocket");
    let (uri, fields) = (request.uri(), request.headers());
    let target = match uri.path_and_query() {
        Some(target) if websocket || *request.method() != Method::CONNECT => target.as_str(),
        // Refused by its method.
        _ => "/",
    };
    out.extend_from_slice(if websocket { b"GET" } else { request.method().as_str().as_bytes() });
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    if let Some(authority) = authority {
        field(b"host", authority, out);
    }
    let body = match ended {
        true => Written::Nothing,
        false if websocket => Written::Tunnel,
        false => written(fields),
    };
    let crumbs = fields.len() <= most_fields;
    for (name, value) in fields {
        let keep = match classify(name.as_str().as_bytes()) {
            // One that names another place is left in, as a second one, and refused.
            Known::Host => {
                authority.is_none_or(|authority| !authority.eq_ignore_ascii_case(value.as_bytes()))
            }
            Known::ContentLength => matches!(body, Written::Plain | Written::Nothing),
            known if is_connection_field(known) => false,
            _ if websocket && *name == http::header::SEC_WEBSOCKET_KEY => false,
            _ => !(crumbs && *name == http::header::COOKIE),
        };
        if keep {
            field(name.as_str().as_bytes(), value.as_bytes(), out);
        }
    }
    if crumbs {
        cookie(fields, out);
    }
    if websocket {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        field(b"sec-websocket-key", key, out);
    } else if body == Written::Chunks {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    finish(out);
    body
}

/// Puts a cookie's crumbs together (RFC 9113 section 8.2.3).
fn cookie(fields: &HeaderMap, out: &mut Vec<u8>) {
    let mut crumbs = fields.get_all(http::header::COOKIE).iter();
    let Some(first) = crumbs.next() else { return };
    out.extend_from_slice(b"cookie: ");
    out.extend_from_slice(first.as_bytes());
    for crumb in crumbs {
        out.extend_from_slice(b"; ");
        out.extend_from_slice(crumb.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// An endpoint's final response as text; `ended` where there is no body.
pub(super) fn response_text<B>(
    response: &Response<B>,
    ended: bool,
    asked: &Asked,
    out: &mut Vec<u8>,
) -> Written {
    let (status, fields) = (response.status(), response.headers());
    if let Some(key) = asked.web_socket.as_ref().filter(|_| status.is_success() && !ended) {
        web_socket_text(fields, key, out);
        return Written::Tunnel;
    }
    let bodiless = asked.to_head || matches!(status.as_u16(), 204 | 304);
    let body = match ended {
        true => Written::Nothing,
        false if bodiless => Written::Nothing,
        false if asked.wants_trailers => Written::Chunks,
        false => written(fields),
    };
    status_text(status, out);
    for (name, value) in fields {
        let known = classify(name.as_str().as_bytes());
        if is_connection_field(known) || (known == Known::ContentLength && body == Written::Chunks) {
            continue;
        }
        field(name.as_str().as_bytes(), value.as_bytes(), out);
    }
    match body {
        Written::Chunks => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Written::Nothing if !bodiless && !fields.contains_key(http::header::CONTENT_LENGTH) => {
            number_field(b"content-length", 0, out);
        }
        _ => {}
    }
    finish(out);
    body
}

/// An endpoint's word that it has taken a WebSocket, as the handshake of HTTP/1.1 has it.
fn web_socket_text(fields: &HeaderMap, key: &[u8], out: &mut Vec<u8>) {
    status_text(StatusCode::SWITCHING_PROTOCOLS, out);
    for (name, value) in fields {
        let known = classify(name.as_str().as_bytes());
        let ours = *name == http::header::SEC_WEBSOCKET_ACCEPT;
        if !(ours || is_connection_field(known) || known == Known::ContentLength) {
            field(name.as_str().as_bytes(), value.as_bytes(), out);
        }
    }
    out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
    let mut hashed = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hashed.update(key);
    hashed.update(WEB_SOCKET_GUID);
    field(b"sec-websocket-accept", STANDARD.encode(hashed.finish()).as_bytes(), out);
    finish(out);
}

/// An endpoint's interim response as text. One that cannot be said in HTTP/2 (101) is left out.
pub(super) fn interim_text(response: &Response<()>, out: &mut Vec<u8>) {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    status_text(response.status(), out);
    for (name, value) in response.headers() {
        if !is_connection_field(classify(name.as_str().as_bytes())) {
            field(name.as_str().as_bytes(), value.as_bytes(), out);
        }
    }
    finish(out);
}

fn status_text(status: StatusCode, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The end of a chunked body, with these trailers.
pub(super) fn trailers_text(trailers: Option<&HeaderMap>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        field(name.as_str().as_bytes(), value.as_bytes(), out);
    }
    finish(out);
}

/// The length of the head at the start of `bytes`, its empty line included.
fn head_length(bytes: &[u8]) -> io::Result<usize> {
    memchr::memmem::find(bytes, b"\r\n\r\n").map(|end| end + 4).ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// The fields of a head, or trailers, as they go into HTTP/2; how long the head says that its body is; and `Host`, which is no
/// field there.
fn fields_of(text: &Bytes, from: usize) -> io::Result<(HeaderMap, Framing, Option<HeaderValue>)> {
    let (mut fields, mut framing, mut host, mut at) = (HeaderMap::new(), Framing::None, None, from);
    while let Some(length) = memchr::memmem::find(&text[at..], b"\r\n").filter(|length| *length > 0) {
        let line = text.slice(at..at + length);
        at += length + 2;
        let colon = memchr::memchr(b':', &line).ok_or_else(malformed)?;
        let value = line[colon + 1..].trim_ascii();
        let known = classify(&line[..colon]);
        match known {
            Known::TransferEncoding => framing = Framing::Chunked,
            Known::ContentLength => {
                let length = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
                framing = Framing::Length(length.ok_or_else(malformed)?);
            }
            _ => {}
        }
        if is_connection_field(known) || (known == Known::Te && value != b"trailers") {
            continue;
        }
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| malformed())?;
        let value = HeaderValue::from_maybe_shared(line.slice_ref(value)).map_err(|_| malformed())?;
        if known == Known::Host {
            host = Some(value);
        } else {
            fields.append(name, value);
        }
    }
    Ok((fields, framing, host))
}

/// A target as a URI has it: some bytes that are taken in HTTP/1.1 have to be percent-encoded.
fn path_and_query(target: Bytes) -> io::Result<PathAndQuery> {
    PathAndQuery::from_maybe_shared(target.clone()).or_else(|_| {
        let mut encoded = Vec::with_capacity(target.len() + 16);
        for byte in &target {
            match byte {
                b'<' | b'>' | b'\\' | b'^' | b'`' | b'|' | b'"' | b'{' | b'}' | 0..=0x20 | 0x7f.. => {
                    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                    let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
                    encoded.extend([b'%', DIGITS[high], DIGITS[low]]);
                }
                other => encoded.push(*other),
            }
        }
        PathAndQuery::from_maybe_shared(Bytes::from(encoded)).map_err(|_| malformed())
    })
}

/// The key of a request for a WebSocket, which is spoken of in other words in HTTP/2.
fn web_socket_key(line_end: usize, text: &[u8], fields: &HeaderMap) -> Option<Bytes> {
    const UPGRADE: &[u8] = b"\r\nupgrade: websocket\r\n";
    let named = |at: &[u8]| at.get(..UPGRADE.len()).is_some_and(|line| line.eq_ignore_ascii_case(UPGRADE));
    let key = fields.get(http::header::SEC_WEBSOCKET_KEY)?;
    let lines = &text[line_end..];
    let asked = memchr::memchr_iter(b'\r', lines).any(|at| named(&lines[at..]));
    asked.then(|| Bytes::copy_from_slice(key.as_bytes()))
}

/// A request for an endpoint from the text at the start of `bytes`: with what its response depends on, the length of that text, and of its
/// body. One for a WebSocket becomes an extended CONNECT (RFC 8441 section 5).
pub(super) fn request_of(bytes: &[u8], secure: bool) -> io::Result<(Request<()>, Asked, Framing, usize)> {
    let length = head_length(bytes)?;
    let text = Bytes::copy_from_slice(&bytes[..length]);
    let line_end = memchr::memchr(b'\r', &text).ok_or_else(malformed)?;
    let mut words = text[..line_end].split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(_), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(malformed());
    };
    let (mut fields, mut framing, host) = fields_of(&text, line_end + 2)?;
    let host = host.ok_or_else(malformed)?;
    let mut asked = Asked {
        to_head: method == b"HEAD",
        wants_trailers: fields.contains_key(http::header::TE),
        web_socket: None,
    };
    if method == b"GET" && framing == Framing::None {
        asked.web_socket = web_socket_key(line_end, &text, &fields);
    }
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| malformed())?);
    uri.path_and_query = Some(path_and_query(text.slice_ref(target))?);
    let mut request = Request::new(());
    *request.version_mut() = Version::HTTP_2;
    *request.method_mut() = Method::from_bytes(method).map_err(|_| malformed())?;
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| malformed())?;
    if asked.web_socket.is_some() {
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        fields.remove(http::header::SEC_WEBSOCKET_KEY);
        framing = Framing::Tunnel;
    }
    *request.headers_mut() = fields;
    Ok((request, asked, framing, length))
}

/// A response for a client, final or not, from the text at the start of `bytes`: with the length of that text, and of its body.
pub(super) fn response_of(bytes: &[u8], to_head: bool) -> io::Result<(Response<()>, Framing, usize)> {
    let length = head_length(bytes)?;
    let text = Bytes::copy_from_slice(&bytes[..length]);
    let line_end = memchr::memchr(b'\r', &text).ok_or_else(malformed)?;
    let code = text.get(9..12).ok_or_else(malformed)?;
    let status = StatusCode::from_bytes(code).map_err(|_| malformed())?;
    let (mut fields, announced, _) = fields_of(&text, line_end + 2)?;
    let framing = match status.as_u16() {
        101 => Framing::Tunnel,
        100..=199 | 204 | 304 => Framing::None,
        _ if to_head => Framing::None,
        _ => announced,
    };
    let grpc = fields.get(http::header::CONTENT_TYPE).is_some_and(|value| is_grpc(value.as_bytes()));
    if framing == Framing::Tunnel || (grpc && framing == Framing::Length(0)) {
        // Trailers alone are a whole answer of gRPC, and have no length.
        fields.remove(http::header::CONTENT_LENGTH);
    }
    let mut response = Response::new(());
    *response.version_mut() = Version::HTTP_2;
    *response.status_mut() = status;
    if framing == Framing::Tunnel {
        *response.status_mut() = StatusCode::OK;
        fields.remove(http::header::SEC_WEBSOCKET_ACCEPT);
    }
    *response.headers_mut() = fields;
    Ok((response, framing, length))
}

/// Trailers from the lines that end a chunked body.
pub(super) fn trailers_of(lines: &[u8], into: &mut HeaderMap) -> io::Result<()> {
    let (fields, ..) = fields_of(&Bytes::copy_from_slice(lines), 0)?;
    for (name, value) in &fields {
        if !HOP_BY_HOP.contains(classify(name.as_str().as_bytes())) {
            into.append(name, value.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_its_type_and_nothing_else() {
        for grpc in
            ["application/grpc", "application/grpc+proto", "Application/GRPC;x=y", "application/grpc ; x"]
        {
            assert!(is_grpc(grpc.as_bytes()), "{grpc}");
        }
        for other in ["", "application/grp", "application/grpc-web", "application/grpcx", "text/plain"] {
            assert!(!is_grpc(other.as_bytes()), "{other}");
        }
    }

    fn text_of(request: &Request<()>, ended: bool) -> (String, Written) {
        let mut out = Vec::new();
        let written = request_text(request, ended, b"KEY", 128, &mut out);
        (String::from_utf8(out).unwrap(), written)
    }

    #[test]
    fn a_request_is_written_with_one_host_and_one_length() {
        let plain = Request::get("http://h:1/a?b").header("host", "H:1").header("x", "y").body(()).unwrap();
        let text = "GET /a?b HTTP/1.1\r\nhost: h:1\r\nx: y\r\n";
        assert_eq!(text_of(&plain, true), (format!("{text}\r\n"), Written::Nothing));
        let chunked = format!("{text}transfer-encoding: chunked\r\n\r\n");
        assert_eq!(text_of(&plain, false), (chunked, Written::Chunks));
        let other = Request::get("http://h/").header("host", "other").body(()).unwrap();
        assert_eq!(text_of(&other, true).0.matches("host: ").count(), 2, "left to be refused");
        let call = Request::post("http://h/s/m")
            .header("content-length", "5")
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let (text, written) = text_of(&call, false);
        assert!(!text.contains("content-length") && written == Written::Chunks, "{text}");
    }

    #[test]
    fn a_websocket_becomes_an_upgrade_and_another_connect_stays_one() {
        let mut asked =
            Request::connect("http://h/chat").header("sec-websocket-key", "theirs").body(()).unwrap();
        assert!(text_of(&asked, false).0.starts_with("CONNECT / HTTP/1.1\r\n"));
        asked.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let (text, written) = text_of(&asked, false);
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: KEY\r\n\r\n";
        assert_eq!(text, format!("GET /chat HTTP/1.1\r\nhost: h\r\n{upgrade}"));
        assert_eq!(written, Written::Tunnel);
    }

    /// Whatever the types of the `http` crate can hold, the codec reads as the same request, or refuses.
    #[test]
    fn nothing_that_can_be_said_in_http2_is_read_as_something_else() {
        use weir_codec::field::FieldStore;
        use weir_codec::head::{HeadLimits, HeadScan};
        let limits = HeadLimits { head_bytes: 60_000, first_line_bytes: 16_000, fields: 128 };
        let runner = &mut proptest::test_runner::TestRunner::default();
        let name = "[!#$%&'*+.^_`|~0-9a-z-]{1,24}";
        let value = "[\\t -~\u{80}-\u{2ff}]{0,40}";
        let fields = proptest::collection::vec((name, value), 0..12);
        let asked = ("[A-Z]{1,8}", "/[!-~]{0,40}", fields, proptest::bool::ANY);
        let outcome = runner.run(&asked, |(method, target, fields, ended)| {
            let uri = format!("http://h{target}");
            let Ok(mut request) = Request::builder().method(method.as_str()).uri(uri).body(()) else {
                return Ok(());
            };
            for (name, value) in &fields {
                if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                    request.headers_mut().append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
                }
            }
            let mut out = Vec::new();
            request_text(&request, ended, b"KEY", 128, &mut out);
            let end = out.len();
            out.extend_from_slice(b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n");
            let mut store = FieldStore::new();
            let Ok(read) = HeadScan::default().request(&out, &limits, &mut store) else { return Ok(()) };
            let (head, length) = read.unwrap();
            proptest::prop_assert_eq!(length, end);
            proptest::prop_assert_eq!(head.method, request.method().as_str().as_bytes());
            proptest::prop_assert_eq!(head.authority.raw, b"h");
            for (name, value) in head.fields.iter() {
                let ours = [&b"host"[..], b"cookie", b"transfer-encoding"].contains(&name);
                let theirs = request.headers().iter().any(|(given, said)| {
                    given.as_str().as_bytes() == name && said.as_bytes().trim_ascii() == value.trim_ascii()
                });
                proptest::prop_assert!(ours || theirs, "{:?}", String::from_utf8_lossy(name));
            }
            Ok(())
        });
        outcome.unwrap();
    }

    #[test]
    fn a_request_loses_what_belongs_to_its_connection() {
        let text = b"POST /a?b HTTP/1.1\r\nHost: h:1\r\nX-Y:  z \r\nConnection: TE\r\nTE: trailers\r\nKeep-Alive: 1\r\n\
            Transfer-Encoding: chunked\r\n\r\nrest";
        let (request, asked, framing, length) = request_of(text, true).unwrap();
        assert!(asked.wants_trailers && asked.web_socket.is_none());
        assert_eq!((framing, length), (Framing::Chunked, text.len() - 4));
        assert_eq!(request.uri().to_string(), "https://h:1/a?b");
        let fields: Vec<_> =
            request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, [("x-y", &b"z"[..]), ("te", b"trailers")]);
    }

    #[test]
    fn a_handshake_becomes_an_extended_connect_and_its_answer_one_again() {
        let text = b"GET /chat HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
            Connection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let (request, asked, framing, _) = request_of(text, false).unwrap();
        assert_eq!((request.method(), framing), (&Method::CONNECT, Framing::Tunnel));
        assert_eq!(request.uri().to_string(), "http://h/chat");
        let names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["sec-websocket-version"]);
        let mut out = Vec::new();
        let taken = Response::builder().header("sec-websocket-protocol", "chat").body(()).unwrap();
        assert_eq!(response_text(&taken, false, &asked, &mut out), Written::Tunnel);
        let lines = "sec-websocket-protocol: chat\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
            sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, format!("HTTP/1.1 101 Switching Protocols\r\n{lines}"));
        let refused = Response::builder().status(403).header("content-length", "2").body(()).unwrap();
        assert_eq!(response_text(&refused, false, &asked, &mut Vec::new()), Written::Plain);
        let other = b"GET /chat HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: x\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n";
        assert_eq!(request_of(other, false).unwrap().0.method(), &Method::GET);
    }

    #[test]
    fn what_is_announced_or_asked_to_have_trailers_goes_in_chunks() {
        let response = |trailer: bool| {
            let builder = Response::builder().header("content-length", "5");
            let builder = if trailer { builder.header("trailer", "x-sum") } else { builder };
            builder.body(()).unwrap()
        };
        let asked = |wants_trailers| Asked { wants_trailers, ..Asked::default() };
        for (trailer, wants, expected) in
            [(false, false, Written::Plain), (true, false, Written::Chunks), (false, true, Written::Chunks)]
        {
            let mut out = Vec::new();
            assert_eq!(response_text(&response(trailer), false, &asked(wants), &mut out), expected);
            let announced = String::from_utf8(out).unwrap().contains("content-length");
            assert_eq!(announced, expected == Written::Plain);
        }
    }

    #[test]
    fn a_target_that_is_no_uri_is_encoded() {
        let target =
            |text: &'static str| path_and_query(Bytes::from_static(text.as_bytes())).unwrap().to_string();
        assert_eq!(target("/a%20b?c=d"), "/a%20b?c=d");
        assert_eq!(target("/a<b>?`c^"), "/a%3Cb%3E?%60c%5E");
    }

    #[test]
    fn a_response_has_a_body_only_where_one_may_be() {
        let framing = |status: u16, to_head, lines: &str| {
            response_of(format!("HTTP/1.1 {status} \r\n{lines}\r\n").as_bytes(), to_head).unwrap().1
        };
        assert_eq!(framing(200, false, "Content-Length: 5\r\n"), Framing::Length(5));
        assert_eq!(framing(200, true, "Content-Length: 5\r\n"), Framing::None);
        assert_eq!(framing(304, false, "Content-Length: 5\r\n"), Framing::None);
        assert_eq!(framing(103, false, "Link: x\r\n"), Framing::None);
        assert_eq!(framing(101, false, "Upgrade: x\r\n"), Framing::Tunnel);
        assert!(response_of(b"HTTP/1.1 2 \r\n\r\n", false).is_err());
        assert!(response_of(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", false).is_err());
        assert!(response_of(b"HTTP/1.1 200 OK\r\n", false).is_err());
    }
}

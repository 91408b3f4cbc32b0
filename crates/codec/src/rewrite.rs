//! The head that the next hop gets.
//!
//! Each function writes whole lines into the caller's buffer and leaves the final empty line to [`finish`], so
//! that a caller may add fields of its own with [`field`]. A normal message is one copy of the original fields
//! and a few lines after it.
//!
//! Invariants: framing fields are written from the [`Framing`] that was decided, never from what filters say;
//! nothing that a client names in `Connection` removes what is written here.

use crate::body::Framing;
use crate::field::{Dropped, FORWARDING, Fields, Known, KnownSet, list};
use crate::head::{RequestHead, ResponseHead, Version};

/// How this gateway names itself in `Via`.
const VIA: &[u8] = b"Via: 1.1 weir\r\n";
const VIA_OLD: &[u8] = b"Via: 1.0 weir\r\n";
const VIA_HTTP2: &[u8] = b"Via: 2 weir\r\n";
const KEEP_ALIVE: &[u8] = b"Connection: keep-alive\r\n";

/// What the next hop is told about the client.
#[derive(Clone, Copy, Debug)]
pub struct Forwarding<'a> {
    /// The peer's address, as text without a port.
    pub peer: &'a [u8],
    /// The peer may say on whose behalf it speaks; its own forwarding fields are kept where it sent them.
    pub trusted: bool,
    /// `http` or `https`.
    pub scheme: &'a [u8],
    /// The authority that the client asked for, as sent.
    pub authority: &'a [u8],
    /// The port that the client connected to.
    pub port: u16,
    /// The path that the client asked for, before any rewriting.
    pub path: &'a [u8],
    /// The prefix that was taken off the path.
    pub prefix: Option<&'a [u8]>,
    /// 32 hexadecimal digits.
    pub request_id: &'a [u8],
    /// Kinds that a filter sets or removes: nothing is written for them here.
    pub overridden: KnownSet,
    /// The client speaks HTTP/2, and the head was written for it.
    pub http2: bool,
    /// What [`connection_lines`] wrote for this peer, scheme, port and version.
    pub connection: &'a [u8],
}

/// Writes the lines that are the same for every ordinary request of one connection, to be written once and copied.
pub fn connection_lines(peer: &[u8], scheme: &[u8], port: u16, http2: bool, out: &mut Vec<u8>) {
    field(b"X-Forwarded-For", peer, out);
    field(b"X-Forwarded-Proto", scheme, out);
    number_field(b"X-Forwarded-Port", u64::from(port), out);
    field(b"X-Real-IP", peer, out);
    out.extend_from_slice(via(Version::Http11, http2));
    out.extend_from_slice(KEEP_ALIVE);
}

/// The line that says which protocol a message came by (RFC 9110 section 7.6.3).
fn via(version: Version, http2: bool) -> &'static [u8] {
    match version {
        _ if http2 => VIA_HTTP2,
        Version::Http10 => VIA_OLD,
        Version::Http11 => VIA,
    }
}

/// The first line and `Host` of a forwarded request.
#[derive(Clone, Copy, Debug)]
pub struct RequestTarget<'a> {
    pub path: &'a [u8],
    pub query: Option<&'a [u8]>,
    /// Written in the place of the client's `Host`, which the caller drops then; `None` keeps the client's line.
    pub host: Option<&'a [u8]>,
}

/// The kinds of request fields that are not copied as they are. Names that filters set or remove come on top
/// ([`Fields::drop_name`]).
pub fn request_dropped(head: &RequestHead<'_, '_>, trusted: bool) -> Dropped {
    let mut kinds = if trusted { KnownSet::EMPTY.with(Known::XForwardedFor) } else { FORWARDING };
    if !head.expect_continue {
        kinds = kinds.with(Known::Expect);
    }
    if head.framing != Framing::Chunked {
        kinds = kinds.with(Known::Trailer);
    }
    head.fields.dropping(kinds)
}

/// Writes a request head without its final empty line.
pub fn request(
    head: &RequestHead<'_, '_>,
    target: &RequestTarget<'_>,
    dropped: Dropped,
    forwarding: &Forwarding<'_>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(head.method);
    out.push(b' ');
    out.extend_from_slice(target.path);
    if let Some(query) = target.query {
        out.push(b'?');
        out.extend_from_slice(query);
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if let Some(host) = target.host {
        field(b"Host", host, out);
    }
    for lines in head.fields.kept(dropped) {
        out.extend_from_slice(lines);
    }
    let ordinary = !forwarding.trusted
        && forwarding.overridden == KnownSet::EMPTY
        && !head.fields.has(Known::XForwardedFor)
        && head.version == Version::Http11
        && head.upgrade.is_none()
        && !head.te_trailers;
    if ordinary {
        out.extend_from_slice(forwarding.connection);
        request_lines(forwarding, out);
    } else {
        forwarding_fields(&head.fields, forwarding, out);
        out.extend_from_slice(via(head.version, forwarding.http2));
        match (head.upgrade, head.te_trailers) {
            (Some(protocols), _) => {
                out.extend_from_slice(b"Connection: upgrade\r\n");
                field(b"Upgrade", protocols, out);
            }
            (None, true) => out.extend_from_slice(b"Connection: TE\r\nTE: trailers\r\n"),
            (None, false) => out.extend_from_slice(KEEP_ALIVE),
        }
    }
    if head.framing == Framing::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
}

/// The lines that are not the same for every request of a connection.
fn request_lines(forwarding: &Forwarding<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"X-Forwarded-Host: ");
    out.extend_from_slice(forwarding.authority);
    out.extend_from_slice(b"\r\nX-Forwarded-Path: ");
    out.extend_from_slice(forwarding.path);
    if let Some(prefix) = forwarding.prefix {
        out.extend_from_slice(b"\r\nX-Forwarded-Prefix: ");
        out.extend_from_slice(prefix);
    }
    if !forwarding.request_id.is_empty() {
        out.extend_from_slice(b"\r\nX-Kong-Request-Id: ");
        out.extend_from_slice(forwarding.request_id);
    }
    out.extend_from_slice(b"\r\n");
}

fn forwarding_fields(fields: &Fields<'_, '_>, forwarding: &Forwarding<'_>, out: &mut Vec<u8>) {
    let given = |known: Known| forwarding.trusted && fields.has(known);
    let ours = |known: Known| !(forwarding.overridden.contains(known) || given(known));
    if !forwarding.overridden.contains(Known::XForwardedFor) {
        out.extend_from_slice(b"X-Forwarded-For: ");
        for value in fields.values(Known::XForwardedFor).flat_map(list) {
            out.extend_from_slice(value);
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(forwarding.peer);
        out.extend_from_slice(b"\r\n");
    }
    if ours(Known::XForwardedProto) {
        field(b"X-Forwarded-Proto", forwarding.scheme, out);
    }
    if ours(Known::XForwardedHost) {
        field(b"X-Forwarded-Host", forwarding.authority, out);
    }
    if ours(Known::XForwardedPort) {
        number_field(b"X-Forwarded-Port", u64::from(forwarding.port), out);
    }
    if ours(Known::XForwardedPath) {
        field(b"X-Forwarded-Path", forwarding.path, out);
    }
    if let Some(prefix) = forwarding.prefix
        && ours(Known::XForwardedPrefix)
    {
        field(b"X-Forwarded-Prefix", prefix, out);
    }
    if ours(Known::XRealIp) {
        field(b"X-Real-IP", forwarding.peer, out);
    }
    if ours(Known::RequestId) && !forwarding.request_id.is_empty() {
        field(b"X-Kong-Request-Id", forwarding.request_id, out);
    }
}

/// How the body of a response goes to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delimiting {
    /// As the backend delimited it, or not at all.
    AsReceived,
    /// In chunks, because its end is not known beforehand.
    Chunked,
    /// By closing, because the client does not know chunks.
    Close,
}

impl Delimiting {
    /// What a client of this version can be given.
    pub fn of(framing: Framing, client: Version) -> Delimiting {
        match (framing, client) {
            (Framing::Chunked | Framing::UntilClose, Version::Http10) => Delimiting::Close,
            (Framing::Chunked | Framing::UntilClose, Version::Http11) => Delimiting::Chunked,
            (Framing::None | Framing::Length(_) | Framing::Tunnel, _) => Delimiting::AsReceived,
        }
    }
}

/// The kinds of response fields that are not copied as they are; `also` are those that the caller writes itself.
pub fn response_dropped(head: &ResponseHead<'_, '_>, delimiting: Delimiting, also: KnownSet) -> Dropped {
    let mut kinds = also;
    if delimiting != Delimiting::AsReceived || head.status < 200 || head.status == 204 {
        kinds = kinds.with(Known::ContentLength);
    }
    if delimiting != Delimiting::Chunked || head.framing != Framing::Chunked {
        kinds = kinds.with(Known::Trailer);
    }
    head.fields.dropping(kinds)
}

/// What `Via` says about a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CameBy {
    /// Nothing.
    Untold,
    /// The version of its head.
    Http1,
    Http2,
}

/// Writes a final response's head, or a 101's, without its final empty line.
pub fn response(
    head: &ResponseHead<'_, '_>,
    delimiting: Delimiting,
    dropped: Dropped,
    keep_alive: bool,
    came_by: CameBy,
    out: &mut Vec<u8>,
) {
    status_line(head, out);
    for lines in head.fields.kept(dropped) {
        out.extend_from_slice(lines);
    }
    if delimiting == Delimiting::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    match head.upgrade {
        Some(protocol) => {
            out.extend_from_slice(b"Connection: upgrade\r\n");
            field(b"Upgrade", protocol, out);
        }
        None => connection(keep_alive && delimiting != Delimiting::Close, out),
    }
    if came_by != CameBy::Untold {
        out.extend_from_slice(via(head.version, came_by == CameBy::Http2));
    }
}

/// Writes an interim response (1xx but not 101) whole.
pub fn interim(head: &ResponseHead<'_, '_>, out: &mut Vec<u8>) {
    status_line(head, out);
    for lines in head.fields.kept(response_dropped(head, Delimiting::AsReceived, KnownSet::EMPTY)) {
        out.extend_from_slice(lines);
    }
    finish(out);
}

fn status_line(head: &ResponseHead<'_, '_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status_and_reason);
    // The space after the code is not optional (RFC 9112 section 4), but some backends leave it out.
    out.extend_from_slice(if head.status_and_reason.len() == 3 { b" \r\n" } else { b"\r\n" });
}

/// Writes the `Connection` field of a response.
pub fn connection(keep_alive: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if keep_alive { KEEP_ALIVE } else { b"Connection: close\r\n" });
}

/// Writes one field line. `name` and `value` must have been checked where they were configured or received.
pub fn field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes one field line with a decimal number.
pub fn number_field(name: &[u8], value: u64, out: &mut Vec<u8>) {
    field(name, itoa::Buffer::new().format(value).as_bytes(), out);
}

/// Ends a head.
pub fn finish(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

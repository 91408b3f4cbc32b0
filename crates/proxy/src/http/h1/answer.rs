//! Responses that the proxy makes itself.

use std::time::Duration;

use weir_codec::field::{FieldStore, Known, KnownSet};
use weir_codec::head::{Asked, ResponseHead};
use weir_codec::rewrite::{self, CameBy, Delimiting, connection, field, finish, number_field};
use weir_model::cors;

use super::call::Reply;
use crate::error::Failure;
use crate::worker::Worker;

/// How the proxy names itself.
const SERVER: &str = concat!("weir/", env!("CARGO_PKG_VERSION"));

/// What a response of the proxy's own depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    /// The request was a HEAD.
    pub(super) head: bool,
    pub(super) keep_alive: bool,
    /// Since the request's head arrived.
    pub(super) latency: Duration,
    /// The client speaks gRPC, and so does the answer.
    pub(super) grpc: bool,
}

impl Context {
    pub(super) fn for_grpc(self, grpc: bool) -> Context {
        Context { grpc, ..self }
    }
}

/// Writes the response that a failure calls for, with these lines in its head. False when it calls for none.
pub(super) fn failure(
    worker: &Worker,
    failure: Failure,
    context: Context,
    lines: &[u8],
    out: &mut Vec<u8>,
) -> bool {
    let Some((status, message)) = failure.verdict().answer else { return false };
    if context.grpc {
        grpc_failure(worker, failure, message, context, out);
        return true;
    }
    // Messages are constants without characters that JSON escapes.
    const BEFORE: &[u8] = b"{\"message\":\"";
    const AFTER: &[u8] = b"\"}";
    let length = BEFORE.len() + message.len() + AFTER.len();
    start(worker, status, out);
    field(b"Content-Type", b"application/json; charset=utf-8", out);
    connection(context.keep_alive, out);
    number_field(b"Content-Length", length as u64, out);
    if status == 405 {
        field(b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE", out);
    }
    out.extend_from_slice(lines);
    end(worker, context, out);
    if !context.head {
        out.extend_from_slice(BEFORE);
        out.extend_from_slice(message.as_bytes());
        out.extend_from_slice(AFTER);
    }
    true
}

/// An answer of gRPC that is trailers alone: in HTTP/2 one HEADERS frame.
fn grpc_failure(worker: &Worker, failure: Failure, message: &str, context: Context, out: &mut Vec<u8>) {
    start(worker, 200, out);
    field(b"Content-Type", b"application/grpc", out);
    number_field(b"grpc-status", u64::from(failure.grpc_status()), out);
    // Messages are constants without characters that have to be percent-encoded.
    field(b"grpc-message", message.as_bytes(), out);
    connection(context.keep_alive, out);
    number_field(b"Content-Length", 0, out);
    end(worker, context, out);
}

/// Writes a redirect's head up to where more fields may follow; [`end`] ends it.
pub(super) fn redirect(worker: &Worker, status: u16, location: &[u8], context: Context, out: &mut Vec<u8>) {
    start(worker, status, out);
    field(b"Location", location, out);
    connection(context.keep_alive, out);
    number_field(b"Content-Length", 0, out);
}

/// Writes the answer to a browser's question about sharing, and tells its status.
pub(super) fn preflight(worker: &Worker, lines: &[u8], context: Context, out: &mut Vec<u8>) -> u16 {
    const STATUS: u16 = 204;
    start(worker, STATUS, out);
    out.extend_from_slice(lines);
    connection(context.keep_alive, out);
    end(worker, context, out);
    STATUS
}

/// Writes another server's answer, which the proxy gives in its own name, and tells its status. `None` when it cannot be read.
pub(super) fn passed_on(
    worker: &Worker,
    reply: &Reply,
    context: Context,
    lines: &[u8],
    out: &mut Vec<u8>,
) -> Option<u16> {
    let mut store = FieldStore::new();
    let asked = Asked { head: context.head, upgrade: false };
    let head = ResponseHead::parse(&reply.head, asked, &mut store).ok()?;
    let mut dropped =
        rewrite::response_dropped(&head, Delimiting::AsReceived, KnownSet::EMPTY.with(Known::ContentLength));
    if !lines.is_empty() {
        for name in cors::RESPONSE_HEADERS {
            head.fields.drop_name(&mut dropped, name.as_bytes());
        }
    }
    let body = if reply.whole {
        reply.body.as_slice()
    } else {
        // A part of it would be taken for something else.
        head.fields.drop_name(&mut dropped, b"content-type");
        head.fields.drop_name(&mut dropped, b"content-encoding");
        b""
    };
    let via = if worker.settings.headers.server { CameBy::Http1 } else { CameBy::Untold };
    rewrite::response(&head, Delimiting::AsReceived, dropped, context.keep_alive, via, out);
    out.extend_from_slice(lines);
    // Whatever the server says: the client reads none after these.
    let has_body = !(context.head || matches!(head.status, 204 | 304));
    if has_body {
        number_field(b"Content-Length", body.len() as u64, out);
    }
    if !head.fields.has(Known::Date) {
        field(b"Date", &worker.clock.date(), out);
    }
    finish(out);
    if has_body {
        out.extend_from_slice(body);
    }
    Some(head.status)
}

fn start(worker: &Worker, status: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason_phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    field(b"Date", &worker.clock.date(), out);
}

pub(super) fn end(worker: &Worker, context: Context, out: &mut Vec<u8>) {
    if worker.settings.headers.latency {
        number_field(b"X-Kong-Response-Latency", millis(context.latency), out);
    }
    if worker.settings.headers.server {
        field(b"Server", SERVER.as_bytes(), out);
    }
    finish(out);
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
        204 => "No Content",
        200 => "OK",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

//! Responses that the proxy makes itself.

use std::time::Duration;

use weir_codec::rewrite::{connection, field, finish, number_field};

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
}

/// Writes the response that a failure calls for. False when it calls for none.
pub(super) fn failure(worker: &Worker, failure: Failure, context: Context, out: &mut Vec<u8>) -> bool {
    let Some((status, message)) = failure.verdict().answer else { return false };
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
    end(worker, context, out);
    if !context.head {
        out.extend_from_slice(BEFORE);
        out.extend_from_slice(message.as_bytes());
        out.extend_from_slice(AFTER);
    }
    true
}

/// Writes a redirect's head up to where more fields may follow; [`end`] ends it.
pub(super) fn redirect(worker: &Worker, status: u16, location: &[u8], context: Context, out: &mut Vec<u8>) {
    start(worker, status, out);
    field(b"Location", location, out);
    connection(context.keep_alive, out);
    number_field(b"Content-Length", 0, out);
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

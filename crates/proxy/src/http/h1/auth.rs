//! Outside authorisation (Gateway API `HTTPExternalAuthFilter`, GEP-1494).
//!
//! Over HTTP a [`Question`] is the client's request again: its method, its path behind the filter's prefix, `Host`, `Authorization`, the headers that the
//! filter names, and the body if the filter wants it; nothing else. The answer 200 lets the request pass, with the headers of the answer that the
//! filter names; any other is the client's answer. A server that cannot be asked, or says nothing in time, lets nothing pass.
//!
//! Over gRPC it is Envoy's `CheckRequest` ([`crate::ext_authz`]), with all headers of the request or those that the filter names.
//!
//! Of the headers of an answer that lets pass, those that belong to its connection or its framing are never put into the request, nor is
//! `Host` (the API's text excepts `Authority or Host`). What describes a body (`Content-*`) comes in where the filter names it; where
//! the filter names nothing it comes in unless the client's request has a body, which it would describe wrongly.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use weir_codec::body::{BodyLimits, BodyScan, Form, Framing};
use weir_codec::field::{FieldStore, HOP_BY_HOP, Known, KnownSet, classify};
use weir_codec::head::{Asked, ResponseHead, Version};
use weir_codec::rewrite::{field, finish, number_field};
use weir_model::cors::CorsHeaders;
use weir_model::filter::{AuthProtocol, ExternalAuth};
use weir_model::limits::Limits;
use weir_model::path::normalised;
use weir_model::table::{BackendState, CompiledListener};

use super::call::{Call, Reply};
use super::connection::Connection;
use super::pipe::Pipe;
use super::route::{self, Answer, Decision, Pending, Routed};
use super::walk::Incoming;
use crate::error::Failure;
use crate::ext_authz::{
    self, Address, AttributeContext, CheckRequest, HttpRequest, Peer, SocketAddress, Word,
};
use crate::filter::{Grant, GrantLine, Put};
use crate::query::QueryEdits;
use crate::record::RequestRecord;
use crate::worker::Worker;

/// Fields of an answer that are about its connection, its framing or its way.
const ABOUT_THE_ANSWER: KnownSet =
    HOP_BY_HOP.with(Known::Host).with(Known::ContentLength).with(Known::Trailer).with(Known::Via);

/// Fields of a request that are not a part of the question as they are.
const NOT_ASKED_WITH: KnownSet =
    HOP_BY_HOP.with(Known::Host).with(Known::ContentLength).with(Known::Expect).with(Known::Trailer);

/// What an authorisation server is asked.
pub(super) struct Question {
    filter: Arc<ExternalAuth>,
    backend: Arc<BackendState>,
    listener: Arc<CompiledListener>,
    /// Which list of filters, and which of them.
    place: [usize; 2],
    form: Wording,
}

enum Wording {
    Http {
        /// Without `Content-Length` and the empty line.
        head: Vec<u8>,
        /// Headers of the answer that go into the request; empty for all that may.
        allowed: Box<[Box<str>]>,
        is_head: bool,
        /// The client's request has a body.
        has_body: bool,
    },
    Grpc(Box<HttpRequest>, String),
}

impl Question {
    /// `edited` is the request's head as the filters before this one make it.
    pub(super) fn new(
        filter: &Arc<ExternalAuth>,
        incoming: Incoming<'_>,
        edited: &[u8],
        place: [usize; 2],
    ) -> Result<Question, Failure> {
        let backend = filter.backend().ok_or(Failure::InvalidFilter)?.clone();
        let form = match &filter.protocol {
            AuthProtocol::Http { path, allowed_response_headers } => Wording::Http {
                head: http_head(filter, path, incoming, edited)?,
                allowed: allowed_response_headers.clone(),
                is_head: incoming.head.is_head(),
                has_body: !matches!(incoming.head.framing, Framing::None | Framing::Length(0)),
            },
            AuthProtocol::Grpc => Wording::Grpc(
                Box::new(attributes(filter, incoming, edited)),
                text(incoming.connection.down.peer()),
            ),
        };
        let listener = incoming.listener.clone();
        Ok(Question { filter: filter.clone(), backend, listener, place, form })
    }

    /// Bytes of the request's body that may be sent along, 0 for none.
    fn most_body_bytes(&self, limits: &Limits) -> usize {
        let asked = usize::try_from(self.filter.max_body_bytes.unwrap_or(0)).unwrap_or(usize::MAX);
        let most = asked.min(limits.auth_body_bytes);
        if limits.request_body_bytes > 0 { most.min(limits.request_body_bytes) } else { most }
    }

    /// Asks.
    async fn put(
        &self,
        worker: &Rc<Worker>,
        limits: &Limits,
        body: Vec<u8>,
        record: &RequestRecord,
    ) -> Result<Reply, Failure> {
        let call = Call {
            backend: self.backend.clone(),
            listener: self.listener.clone(),
            request: self.worded(body, limits.auth_timeout),
            rest: None,
            asked: self.asked(),
            // A question asked twice has the same answer.
            idempotent: true,
            http2: matches!(self.form, Wording::Grpc(..)),
            deadline: record.deadline.into_iter().fold(worker.clock.now() + limits.auth_timeout, Ord::min),
            wanted_bytes: limits.auth_answer_bytes,
        };
        let answered = call.run(worker).await;
        answered.map_err(|failure| {
            tracing::debug!(?failure, "an authorisation server could not be asked");
            let late = record.deadline.is_some_and(|deadline| deadline <= worker.clock.now());
            if late { Failure::RequestTimeout } else { Failure::Authorisation }
        })
    }

    /// As it goes over the wire.
    fn worded(&self, body: Vec<u8>, timeout: Duration) -> Vec<u8> {
        match &self.form {
            Wording::Http { head, .. } => {
                let mut request = head.clone();
                number_field(b"Content-Length", body.len() as u64, &mut request);
                finish(&mut request);
                request.extend_from_slice(&body);
                request
            }
            Wording::Grpc(http, peer) => {
                let mut http = HttpRequest::clone(http);
                if !body.is_empty() {
                    http.size = i64::try_from(body.len()).unwrap_or(i64::MAX);
                    match String::from_utf8(body) {
                        Ok(text) => http.body = text,
                        Err(error) => http.raw_body = error.into_bytes(),
                    }
                }
                let source = Some(SocketAddress { address: peer.clone() });
                let message = ext_authz::framed(&CheckRequest {
                    attributes: Some(AttributeContext {
                        source: Some(Peer { address: Some(Address { socket_address: source }) }),
                        request: Some(ext_authz::Request { http: Some(http) }),
                    }),
                });
                let mut request = format!(
                    "POST {} HTTP/1.1\r\nHost: {}.{}:{}\r\nContent-Type: application/grpc\r\nTE: trailers\r\nConnection: TE\r\n\
                     grpc-timeout: {}m\r\nContent-Length: {}\r\n\r\n",
                    ext_authz::PATH,
                    self.backend.service,
                    self.backend.namespace,
                    self.backend.port,
                    timeout.as_millis(),
                    message.len(),
                )
                .into_bytes();
                request.extend_from_slice(&message);
                request
            }
        }
    }

    fn asked(&self) -> Asked {
        Asked { head: matches!(self.form, Wording::Http { is_head: true, .. }), upgrade: false }
    }

    /// What the answer lets into the request, or the answer that is the client's.
    fn judge(&self, reply: Reply) -> Result<Result<Grant, Reply>, Failure> {
        let mut store = FieldStore::new();
        let head =
            ResponseHead::parse(&reply.head, self.asked(), &mut store).map_err(|_| Failure::Authorisation)?;
        match &self.form {
            Wording::Http { .. } if head.status != 200 => Ok(Err(reply)),
            Wording::Http { allowed, has_body, .. } => {
                let of_connection = head.fields.dropping(KnownSet::EMPTY);
                let lines = head.fields.iter().filter_map(|(name, value)| {
                    let name = std::str::from_utf8(name).ok()?;
                    let listed = allowed.iter().any(|allowed| name.eq_ignore_ascii_case(allowed));
                    let unlisted = allowed.is_empty() && !(*has_body && is_about_a_body(name));
                    let kept = may_enter(name) && head.fields.keeps_name(of_connection, name.as_bytes());
                    let enters = kept && (listed || unlisted);
                    enters.then(|| GrantLine { name: name.into(), value: value.into(), put: Put::InPlace })
                });
                let lines = once_each(lines.collect());
                // What is the server's to say, the client does not say in its place.
                let unsaid = |name: &str| {
                    !is_about_a_body(name) && !lines.iter().any(|line| line.name.eq_ignore_ascii_case(name))
                };
                Ok(Ok(Grant {
                    place: self.place,
                    remove: allowed.iter().filter(|name| unsaid(name)).cloned().collect(),
                    lines,
                    response: Vec::new(),
                    query: QueryEdits::default(),
                }))
            }
            Wording::Grpc(..) => {
                let refused = head.fields.named(b"grpc-status").any(|code| code != b"0");
                if head.status != 200 || refused || !reply.whole {
                    return Err(Failure::Authorisation);
                }
                match ext_authz::word(&reply.body, self.place) {
                    Ok(Word::Pass(grant)) => Ok(Ok(grant)),
                    Ok(Word::Deny { head, body }) => Ok(Err(Reply { head, body, whole: true })),
                    Err(error) => {
                        tracing::debug!(%error, "an authorisation server's word makes no sense");
                        Err(Failure::Authorisation)
                    }
                }
            }
        }
    }
}

/// Several fields of one name stay several: the first takes the place of the client's, the others come beside it.
fn once_each(mut lines: Vec<GrantLine>) -> Vec<GrantLine> {
    for at in 1..lines.len() {
        let (before, rest) = lines.split_at_mut(at);
        if let Some(line) = rest.first_mut()
            && before.iter().any(|other| other.name.eq_ignore_ascii_case(&line.name))
        {
            line.put = Put::Beside;
        }
    }
    lines
}

/// The head of a question over HTTP, up to where the length of the body is said.
fn http_head(
    filter: &ExternalAuth,
    prefix: &str,
    incoming: Incoming<'_>,
    edited: &[u8],
) -> Result<Vec<u8>, Failure> {
    let mut question = Vec::with_capacity(512);
    question.extend_from_slice(incoming.head.method);
    question.push(b' ');
    question.extend_from_slice(&prefixed(prefix, incoming.path)?);
    if let Some(query) = incoming.query {
        question.push(b'?');
        question.extend_from_slice(query);
    }
    question.extend_from_slice(b" HTTP/1.1\r\n");
    field(b"Host", authority(incoming), &mut question);
    for (name, value) in lines_of(edited) {
        let named = |allowed: &str| name.eq_ignore_ascii_case(allowed.as_bytes());
        let wanted = named("authorization") || filter.allowed_request_headers.iter().any(|name| named(name));
        if wanted && !NOT_ASKED_WITH.contains(classify(name)) {
            field(name, value, &mut question);
        }
    }
    Ok(question)
}

/// What a server is told over gRPC.
fn attributes(filter: &ExternalAuth, incoming: Incoming<'_>, edited: &[u8]) -> HttpRequest {
    let head = incoming.head;
    let mut headers = BTreeMap::<String, String>::new();
    for (name, value) in lines_of(edited).filter(|(name, _)| !NOT_ASKED_WITH.contains(classify(name))) {
        let name = text(name).to_ascii_lowercase();
        let allowed = &filter.allowed_request_headers;
        if allowed.is_empty() || allowed.iter().any(|allowed| **allowed == *name) {
            let joined = headers.entry(name).or_default();
            if !joined.is_empty() {
                joined.push(',');
            }
            joined.push_str(&text(value));
        }
    }
    let mut path = text(incoming.path);
    if let Some(query) = incoming.query {
        path.push('?');
        path.push_str(&text(query));
    }
    HttpRequest {
        id: lines_of(edited)
            .find(|(name, _)| classify(name) == Known::RequestId)
            .map(|(_, value)| text(value))
            .unwrap_or_default(),
        method: text(head.method),
        headers,
        path,
        host: text(authority(incoming)),
        scheme: incoming.connection.down.scheme().to_owned(),
        size: match head.framing {
            Framing::None => 0,
            Framing::Length(length) => i64::try_from(length).unwrap_or(i64::MAX),
            _ => -1,
        },
        protocol: if head.version == Version::Http10 { "HTTP/1.0" } else { "HTTP/1.1" }.to_owned(),
        body: String::new(),
        raw_body: Vec::new(),
    }
}

/// Names and values of a head that was written here: as many as the client's and ours together, which is more than a client may send.
fn lines_of(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = head.split(|byte| *byte == b'\n').skip(1).map(<[u8]>::trim_ascii_end);
    lines.filter_map(|line| {
        let (name, value) = line.split_at_checked(line.iter().position(|byte| *byte == b':')?)?;
        Some((name, value.get(1..)?.trim_ascii()))
    })
}

/// What the client asked for.
fn authority<'a>(incoming: Incoming<'a>) -> &'a [u8] {
    match incoming.head.authority.raw {
        b"" => incoming.connection.down.local_authority(),
        raw => raw,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether a field of an answer may be put into a request at all.
fn may_enter(name: &str) -> bool {
    !name.eq_ignore_ascii_case("authority") && !ABOUT_THE_ANSWER.contains(classify(name.as_bytes()))
}

fn is_about_a_body(name: &str) -> bool {
    name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("content-"))
}

/// The path behind the filter's prefix, both in normal form.
fn prefixed(prefix: &str, path: &[u8]) -> Result<Vec<u8>, Failure> {
    if prefix.is_empty() {
        return Ok(path.to_vec());
    }
    let rooted = if prefix.starts_with('/') { prefix.to_owned() } else { format!("/{prefix}") };
    let mut whole = normalised(&rooted).map_err(|_| Failure::InvalidFilter)?;
    while whole.last() == Some(&b'/') {
        whole.pop();
    }
    whole.extend_from_slice(path);
    Ok(whole)
}

/// A body that is held, counted for as long as it is.
#[derive(Debug)]
pub(super) struct Held {
    bytes: usize,
    of_all: Rc<Cell<usize>>,
}

impl Held {
    fn new(worker: &Worker) -> Held {
        Held { bytes: 0, of_all: worker.auth_bytes.clone() }
    }

    /// More of it. False when that is too much for all together.
    fn grow(&mut self, bytes: usize, most: usize) -> bool {
        let of_all = self.of_all.get() + bytes;
        let fits = of_all <= most;
        if fits {
            self.bytes += bytes;
            self.of_all.set(of_all);
        }
        fits
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of_all.set(self.of_all.get() - self.bytes);
    }
}

/// Lines for what is said about sharing between origins.
pub(super) fn lines(headers: &CorsHeaders<'_>, out: &mut Vec<u8>) {
    for (name, value) in headers {
        field(name.as_bytes(), value.as_bytes(), out);
    }
}

impl Connection {
    /// Asks the authorisation server that a request waits for, and goes on with the request.
    pub(super) async fn ask(&mut self, mut pending: Box<Pending>, record: &mut RequestRecord) -> Decision {
        let worker = self.worker().clone();
        let outcome = match self.word(&mut pending, &worker, record).await {
            Ok(Ok(grant)) => {
                pending.walk.grants.push(grant);
                return route::resume(self, &worker, *pending, record);
            }
            Ok(Err(reply)) => Ok(Routed::Answer(Answer::Denied(reply))),
            Err(failure) => Err(failure),
        };
        route::end(self, &worker, *pending, outcome, record)
    }

    /// The server's word: what it lets in, or the client's answer.
    async fn word(
        &mut self,
        pending: &mut Pending,
        worker: &Rc<Worker>,
        record: &RequestRecord,
    ) -> Result<Result<Grant, Reply>, Failure> {
        let most = pending.question.most_body_bytes(&self.terms.limits);
        let framing = pending.received.framing;
        let body = if most == 0 || matches!(framing, Framing::None | Framing::Length(0)) {
            Vec::new()
        } else {
            if pending.walk.body.is_none() {
                let read = self.read_body(pending, most, worker, record).await;
                // Where the body ends is not known any more, nor then what follows it.
                pending.received.stays &= read.is_ok();
                let (raw, held) = read?;
                pending.walk.holds(held);
                pending.walk.taps.push(&raw);
                pending.walk.taps.end();
                pending.walk.body = Some(raw);
            }
            let raw = pending.walk.body.as_deref().unwrap_or_default();
            data(raw, framing, self.terms.body_limits)
                .filter(|data| data.len() <= most)
                .ok_or(Failure::BodyTooLarge)?
        };
        let reply = pending.question.put(worker, &self.terms.limits, body, record).await?;
        pending.question.judge(reply)
    }

    /// Reads a whole body, as it was sent.
    async fn read_body(
        &mut self,
        pending: &Pending,
        most: usize,
        worker: &Rc<Worker>,
        record: &RequestRecord,
    ) -> Result<(Vec<u8>, Held), Failure> {
        let framing = pending.received.framing;
        // Chunks have a frame each; what is left of it all is counted later.
        let most_raw = match framing {
            Framing::Length(length) if length > most as u64 => return Err(Failure::BodyTooLarge),
            Framing::Length(_) => most,
            _ => most.saturating_mul(8).saturating_add(self.terms.limits.trailer_bytes),
        };
        if pending.received.expects_continue && self.input.is_empty() {
            let mut pipe = Pipe::empty();
            pipe.out_mut().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            self.send(&mut pipe, worker).await.map_err(|()| Failure::ClientGone)?;
        }
        let mut scan = BodyScan::new(framing, Form::AsSent, self.terms.body_limits);
        let mut raw = Vec::new();
        let mut held = Held::new(worker);
        loop {
            let step = scan.step(self.input.bytes()).map_err(Failure::Body)?;
            self.input.consume(step.skip);
            raw.extend_from_slice(&self.input.bytes()[..step.pass]);
            self.input.consume(step.pass);
            if raw.len() > most_raw {
                return Err(Failure::BodyTooLarge);
            }
            if !held.grow(step.pass, self.terms.limits.auth_bytes) {
                return Err(Failure::TooManyHeld);
            }
            if scan.is_done() {
                self.input.release(&worker.buffers);
                return Ok((raw, held));
            }
            if step.skip + step.pass == 0 {
                self.read_more(worker, record).await?;
            }
        }
    }

    async fn read_more(&mut self, worker: &Rc<Worker>, record: &RequestRecord) -> Result<(), Failure> {
        let patience = worker.clock.tick() + self.terms.limits.body_read_timeout;
        let until = record.deadline.map_or(patience, |deadline| deadline.min(patience));
        poll_fn(|cx| {
            let filled = self.input.poll_fill(&mut self.client, &worker.buffers, cx);
            if let std::task::Poll::Ready(read) = filled {
                return std::task::Poll::Ready(match read {
                    Ok(0) | Err(_) => Err(Failure::ClientGone),
                    Ok(_) => Ok(()),
                });
            }
            self.deadline.set(until);
            self.deadline
                .poll(cx, &worker.clock)
                .map(|()| Err(if until < patience { Failure::RequestTimeout } else { Failure::BodyTimeout }))
        })
        .await
    }
}

/// A whole body without its chunks. `None` for what is no body.
fn data(raw: &[u8], framing: Framing, limits: BodyLimits) -> Option<Vec<u8>> {
    let mut scan = BodyScan::new(framing, Form::DataOnly, limits);
    let mut data = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while !scan.is_done() {
        let step = scan.step(rest).ok().filter(|step| step.skip + step.pass > 0)?;
        data.extend_from_slice(&rest[step.skip..step.skip + step.pass]);
        rest = &rest[step.skip + step.pass..];
    }
    Some(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_put_before_the_path_and_cannot_climb_out_of_itself() {
        for (prefix, path, expected) in [
            ("", "/a/b", "/a/b"),
            ("/auth", "/a/b", "/auth/a/b"),
            ("/auth/", "/a/b", "/auth/a/b"),
            ("auth", "/", "/auth/"),
            ("/x/../auth", "/a", "/auth/a"),
            ("/", "/a", "/a"),
        ] {
            let whole = prefixed(prefix, path.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(whole).unwrap(), expected, "{prefix} {path}");
        }
    }

    #[test]
    fn what_is_about_the_answers_framing_or_connection_never_enters_the_request_nor_does_host() {
        for name in ["Content-Length", "Transfer-Encoding", "Host", "Authority", "Connection", "Via"] {
            assert!(!may_enter(name), "{name}");
        }
        for name in ["X-User", "Authorization", "Set-Cookie", "Date", "Server", "Content-Type"] {
            assert!(may_enter(name), "{name}");
        }
        assert!(is_about_a_body("content-Type") && !is_about_a_body("Cont") && !is_about_a_body("X-User"));
    }
}

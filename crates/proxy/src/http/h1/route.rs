//! From a request head to a decision: which rule, which filters, which backend, and the head for the next hop.
//!
//! All of it happens between two waits, over one snapshot, without allocating: what the decision keeps is the rule and the
//! rewritten head, never the snapshot.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use weir_codec::body::{BodyLimits, BodyScan, Form, Framing};
use weir_codec::field::{FieldStore, Fields, Known};
use weir_codec::head::{Asked, HeadError, HeadScan, RequestHead, Version};
use weir_codec::rewrite::{self, Forwarding, RequestTarget};
use weir_codec::target::Target;
use weir_model::filter::CompiledFilter;
use weir_model::limits::Limits;
use weir_model::path::{Normalised, normalise};
use weir_model::rewrite::{Redirect, RedirectedRequest, location, replace_path, strip_path};
use weir_model::select::{
    Headers, NoProbe, PathMatch, RequestView, Selected, SelectedHttps, select, select_on,
};
use weir_model::table::{BackendState, CompiledListener, CompiledRule};

use super::answer::{self, Context};
use super::auth::Question;
use super::call::Reply;
use super::connection::Connection;
use super::walk::{Extras, Incoming, Walk};
use crate::clock::Moment;
use crate::error::Failure;
use crate::filter::{Answered, Edited, Passed};
use crate::http::h2;
use crate::record::{RequestRecord, RequestText};
use crate::terms;
use crate::upstream::pool::PoolLimits;
use crate::worker::{Front, Worker};

/// What becomes of a request.
pub(super) enum Decision {
    /// The head is not there whole.
    Wait,
    /// The proxy answers itself: these bytes.
    Answer {
        out: Vec<u8>,
        keep_alive: bool,
    },
    Forward(Forward),
    /// Another server has to be asked first.
    Ask(Box<Pending>),
}

/// A request that waits for an authorisation server's word.
pub(super) struct Pending {
    pub(super) question: Box<Question>,
    pub(super) walk: Box<Walk>,
    pub(super) received: Received,
    listener: Arc<CompiledListener>,
    rule: Arc<CompiledRule>,
    matched: PathMatch,
    /// The client's, as it was received.
    head: Vec<u8>,
}

/// What of a head is needed when it has been used up.
#[derive(Clone, Copy)]
pub(super) struct Received {
    pub(super) framing: Framing,
    is_head: bool,
    /// The connection may carry another request after this one.
    pub(super) stays: bool,
    pub(super) expects_continue: bool,
    grpc: bool,
}

/// A request on its way to a backend.
pub(crate) struct Forward {
    pub(super) rule: Arc<CompiledRule>,
    /// Index into the rule's backends.
    pub(super) backend: usize,
    pub(super) asked: Asked,
    pub(super) version: Version,
    pub(super) keep_alive: bool,
    pub(super) idempotent: bool,
    /// The client wants a WebSocket.
    pub(super) web_socket: bool,
    pub(super) grpc: bool,
    pub(super) request_id: SmallVec<[u8; 32]>,
    /// The rule's time for the whole request.
    pub(crate) deadline: Option<Moment>,
    /// `None` for most rules.
    pub(super) extras: Option<Box<Extras>>,
    /// Only where the backend is spoken to over TLS.
    pub(super) listener: Option<Arc<CompiledListener>>,
    /// The backend's own limits, where it has any.
    limits: Option<Arc<Limits>>,
}

impl Forward {
    /// The chosen backend. A decision to forward is only made for valid ones.
    pub(crate) fn state(&self) -> Option<&Arc<BackendState>> {
        self.rule.backends.get(self.backend)?.state()
    }

    /// Limits towards the endpoint.
    #[inline]
    pub(super) fn limits<'a>(&'a self, worker: &'a Worker) -> &'a Limits {
        match &self.limits {
            None => &worker.settings.limits,
            Some(own) => own,
        }
    }

    /// Those, where the backend has any of its own.
    #[inline]
    pub(super) fn own_limits(&self) -> Option<&Limits> {
        self.limits.as_deref()
    }

    /// Bounds of a body that the endpoint sends.
    #[inline]
    pub(super) fn body_limits(&self, worker: &Worker) -> BodyLimits {
        self.limits.as_ref().map_or(worker.settings.body_limits, |own| terms::body_limits(own))
    }

    /// Bounds of the pool to which a connection is given back.
    #[inline]
    pub(super) fn pool_limits(&self, worker: &Worker) -> PoolLimits {
        self.limits.as_ref().map_or(worker.settings.pool_limits, |own| terms::pool_limits(own))
    }

    /// The filters that apply, the rule's first.
    pub(super) fn filters(&self) -> [&[CompiledFilter]; 2] {
        filters(&self.rule, self.backend)
    }
}

pub(super) fn filters(rule: &CompiledRule, backend: usize) -> [&[CompiledFilter]; 2] {
    [&rule.filters, rule.backends.get(backend).map_or(&[], |backend| &backend.filters)]
}

/// Decides about the head at the start of the connection's input, and uses it up.
pub(super) fn decide(
    connection: &mut Connection,
    worker: &Rc<Worker>,
    record: &mut RequestRecord,
) -> Decision {
    let mut store = FieldStore::new();
    let limits = &connection.terms.head_limits;
    // Looked at where it is: a head is too large to be moved.
    let read = connection.scan.request(connection.input.bytes(), limits, &mut store);
    let (head, length) = match &read {
        Ok(Some((head, length))) => (head, *length),
        Ok(None) => return Decision::Wait,
        Err(error) => {
            let error = *error;
            let foreign = error == HeadError::Version && !speaks_http(connection.input.bytes());
            let failure = if foreign { Failure::NotHttp } else { Failure::Head(error) };
            return refuse(connection, worker, failure, record);
        }
    };
    let served = connection.served + 1;
    let received = Received {
        framing: head.framing,
        is_head: head.is_head(),
        stays: head.keep_alive
            && !worker.is_retiring()
            && served < connection.terms.limits.requests_per_connection,
        expects_continue: head.expect_continue,
        grpc: is_grpc(head),
    };
    let mut paths = worker.paths.borrow_mut();
    let mut out = worker.buffers.out();
    let mut walk = None;
    let result = route(connection, worker, head, &mut paths, &mut out, record, &mut walk);
    drop(paths);
    let kept = match &result {
        Ok(Routed::Ask { .. }) => connection.input.bytes()[..length].to_vec(),
        _ => Vec::new(),
    };
    connection.scan = HeadScan::default();
    connection.served = served;
    connection.input.consume(length);
    if let Ok(Routed::Forward(forward)) = result {
        return send_on(connection, received, forward, walk, out);
    }
    settle(connection, worker, received, Outcome { result, walk, head: kept, out }, record)
}

/// Goes on with a request that waited.
pub(super) fn resume(
    connection: &mut Connection,
    worker: &Rc<Worker>,
    pending: Pending,
    record: &mut RequestRecord,
) -> Decision {
    let Pending { mut walk, received, listener, rule, matched, head: kept, .. } = pending;
    let mut store = FieldStore::new();
    let head = match RequestHead::parse(&kept, &mut store) {
        Ok(head) => head,
        Err(error) => return refuse(connection, worker, Failure::Head(error), record),
    };
    let mut paths = worker.paths.borrow_mut();
    let [normal, rewritten] = &mut *paths;
    let mut out = worker.buffers.out();
    let result = admit(connection, &head).and_then(|(raw_path, query)| {
        let path = match normalise(raw_path, normal).map_err(Failure::Path)? {
            Normalised::AsReceived => raw_path,
            Normalised::InBuffer => normal,
        };
        let (head, listener, rule) = (&head, &listener, &rule);
        let incoming = Incoming { connection, worker, head, listener, rule, matched, path, query };
        walk.go_on(incoming, rewritten, &mut out, record)
    });
    drop(paths);
    settle(connection, worker, received, Outcome { result, walk: Some(walk), head: kept, out }, record)
}

/// Ends a request that waited.
pub(super) fn end(
    connection: &mut Connection,
    worker: &Rc<Worker>,
    pending: Pending,
    result: Result<Routed, Failure>,
    record: &mut RequestRecord,
) -> Decision {
    let out = worker.buffers.out();
    let outcome = Outcome { result, walk: Some(pending.walk), head: Vec::new(), out };
    settle(connection, worker, pending.received, outcome, record)
}

/// What routing came to, and what it leaves.
struct Outcome {
    result: Result<Routed, Failure>,
    walk: Option<Box<Walk>>,
    /// The client's head, for a request that has to wait.
    head: Vec<u8>,
    /// The head for the next hop, or an empty buffer.
    out: Vec<u8>,
}

/// Makes a decision of what routing came to.
fn settle(
    connection: &mut Connection,
    worker: &Worker,
    received: Received,
    outcome: Outcome,
    record: &mut RequestRecord,
) -> Decision {
    let Outcome { result, walk, head, mut out } = outcome;
    match result {
        Ok(Routed::Forward(forward)) => send_on(connection, received, forward, walk, out),
        Ok(Routed::Ask { question, listener, rule, matched }) => {
            worker.buffers.give_back_out(out);
            let walk = walk.unwrap_or_default();
            let pending = Pending { question, walk, received, listener, rule, matched, head };
            Decision::Ask(Box::new(pending))
        }
        Ok(Routed::Answer(answer)) => {
            let mut body = Remaining { framing: received.framing, walk };
            let keep_alive = received.stays && body.skip(connection);
            let context = context(worker, received.is_head, keep_alive, record).for_grpc(received.grpc);
            match answer.write(worker, body.answered(), context, record, &mut out) {
                Ok(()) => Decision::Answer { out, keep_alive },
                Err(failure) => {
                    out.clear();
                    fail(worker, failure, context, out, record)
                }
            }
        }
        Err(failure) => {
            out.clear();
            let mut body = Remaining { framing: received.framing, walk };
            let closes = failure.verdict().close;
            let keep_alive = received.stays && !closes && body.skip(connection);
            let context = context(worker, received.is_head, keep_alive, record).for_grpc(received.grpc);
            fail(worker, failure, context, out, record)
        }
    }
}

impl Answer {
    fn write(
        &self,
        worker: &Worker,
        answered: Answered<'_>,
        context: Context,
        record: &mut RequestRecord,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        record.status = match self {
            Answer::Redirect { rule, backend, status, location } => {
                answer::redirect(worker, *status, location, context, out);
                let none = Fields::none();
                let mut edited = Edited::new(none.dropping(Default::default()));
                edited.response(filters(rule, *backend), answered, &none);
                edited.write(out);
                answer::end(worker, context, out);
                *status
            }
            Answer::Preflight { lines } => answer::preflight(worker, lines, context, out),
            Answer::Denied(reply) => {
                answer::passed_on(worker, reply, context, &record.decor, out).ok_or(Failure::Authorisation)?
            }
        };
        Ok(())
    }
}

#[inline]
fn send_on(
    connection: &mut Connection,
    received: Received,
    mut forward: Forward,
    walk: Option<Box<Walk>>,
    mut out: Vec<u8>,
) -> Decision {
    forward.keep_alive = received.stays;
    forward.grpc = received.grpc || forward.rule.is_grpc();
    let (body, taps) = walk.map_or((None, None), |walk| (walk.body, Some(walk.taps)));
    let framing = match &body {
        Some(body) => {
            out.extend_from_slice(body);
            Framing::None
        }
        None => received.framing,
    };
    let scan = BodyScan::new(framing, Form::AsSent, connection.terms.body_limits);
    connection.to_endpoint.begin(out, scan);
    if let Some(taps) = taps {
        connection.to_endpoint.tap(taps);
    }
    Decision::Forward(forward)
}

/// A body that is not forwarded.
struct Remaining {
    framing: Framing,
    walk: Option<Box<Walk>>,
}

impl Remaining {
    /// What the edits of an answer depend on.
    fn answered(&self) -> Answered<'_> {
        self.walk.as_ref().map(|walk| walk.answered()).unwrap_or_default()
    }

    /// Uses it up, for mirrors alone, as far as it has arrived. False if there is more of it.
    fn skip(&mut self, connection: &mut Connection) -> bool {
        if self.walk.as_ref().is_some_and(|walk| walk.body.is_some()) {
            return true;
        }
        let mut scan = BodyScan::new(self.framing, Form::AsSent, connection.terms.body_limits);
        while !scan.is_done() {
            match scan.step(connection.input.bytes()) {
                Ok(step) if step.skip + step.pass > 0 => {
                    connection.input.consume(step.skip);
                    if let Some(walk) = &mut self.walk {
                        walk.taps.push(&connection.input.bytes()[..step.pass]);
                    }
                    connection.input.consume(step.pass);
                }
                Ok(_) | Err(_) => return false,
            }
        }
        if let Some(walk) = &mut self.walk {
            walk.taps.end();
        }
        true
    }
}

/// Whether the client speaks gRPC: always POST, and of its own type.
fn is_grpc(head: &RequestHead<'_, '_>) -> bool {
    head.method == b"POST" && head.fields.named(b"content-type").any(h2::is_grpc)
}

/// Whether the first line names a version of HTTP.
fn speaks_http(head: &[u8]) -> bool {
    let end = memchr::memchr(b'\n', head).unwrap_or(head.len());
    memchr::memmem::find(&head[..end], b" HTTP/").is_some()
}

/// The answer to a head that could not be read: nothing of what follows it can be, either.
pub(super) fn refuse(
    connection: &mut Connection,
    worker: &Worker,
    failure: Failure,
    record: &mut RequestRecord,
) -> Decision {
    if let Some(logged) = connection.terms.logged {
        let client = connection.down.peer_text();
        record.text = Some(Box::new(RequestText { logged, client, ..RequestText::default() }));
    }
    // HEAD is told from the first bytes: a body after its answer would be read as the next answer.
    let is_head = connection.input.bytes().starts_with(b"HEAD ");
    fail(worker, failure, context(worker, is_head, false, record), worker.buffers.out(), record)
}

pub(super) fn context(worker: &Worker, head: bool, keep_alive: bool, record: &RequestRecord) -> Context {
    Context { head, keep_alive, latency: worker.clock.now().since(record.started), grpc: false }
}

pub(super) fn fail(
    worker: &Worker,
    failure: Failure,
    context: Context,
    mut out: Vec<u8>,
    record: &mut RequestRecord,
) -> Decision {
    record.failure = Some(failure);
    record.status = failure.verdict().answer.map_or(0, |(status, _)| status);
    answer::failure(worker, failure, context, &record.decor, &mut out);
    Decision::Answer { out, keep_alive: context.keep_alive }
}

/// What routing comes to.
pub(super) enum Routed {
    /// Complete but for what is known only when the head is used up.
    Forward(Forward),
    /// Another server has to be asked.
    Ask {
        question: Box<Question>,
        listener: Arc<CompiledListener>,
        rule: Arc<CompiledRule>,
        matched: PathMatch,
    },
    Answer(Answer),
}

/// An answer that a filter gives.
pub(super) enum Answer {
    Redirect {
        rule: Arc<CompiledRule>,
        backend: usize,
        status: u16,
        location: Vec<u8>,
    },
    /// To a browser's question about sharing: lines of its head.
    Preflight {
        lines: Vec<u8>,
    },
    /// The authorisation server's.
    Denied(Reply),
}

fn route(
    connection: &Connection,
    worker: &Rc<Worker>,
    head: &RequestHead<'_, '_>,
    paths: &mut [Vec<u8>; 2],
    out: &mut Vec<u8>,
    record: &mut RequestRecord,
    walk: &mut Option<Box<Walk>>,
) -> Result<Routed, Failure> {
    if let Some(logged) = connection.terms.logged {
        record.text = Some(Box::new(RequestText { logged, ..text(connection, head) }));
    }
    let (raw_path, query) = admit(connection, head)?;
    let [normal, rewritten] = paths;
    let path = match normalise(raw_path, normal).map_err(Failure::Path)? {
        Normalised::AsReceived => raw_path,
        Normalised::InBuffer => normal,
    };
    let headers = HeadHeaders(&head.fields);
    let view = RequestView { method: head.method, host: head.authority.host, path, query, headers: &headers };
    let snapshot = worker.snapshot();
    let down = &*connection.down;
    let table = snapshot.bind(&down.bind.address).ok_or(Failure::NoRoute)?;
    let selected = match &down.front {
        None => select(table, &view, &mut NoProbe).ok_or(Failure::NoRoute)?,
        Some(Front(made)) => match select_on(table, &made.hostname, &view, &mut NoProbe) {
            SelectedHttps::Rule(selected) => selected,
            SelectedHttps::Misdirected => return Err(Failure::Misdirected),
            SelectedHttps::NotFound => return Err(Failure::NoRoute),
        },
    };
    let rule = selected.rule;
    record.selected(selected.listener, rule);
    let Selected { listener, path_match: matched, .. } = selected;
    let incoming = Incoming { connection, worker, head, listener, rule, matched, path, query };
    if head.upgrade.is_some() && !connection.client.is_stream() {
        *down.registered.presence.listener.borrow_mut() = Some(listener.key.clone());
    }
    if rule.has_extras {
        record.deadline = rule.request_timeout.map(|timeout| record.started + timeout);
        return walk.insert(Box::default()).go_on(incoming, rewritten, out, record);
    }
    if let Some(redirect) = find_redirect(&rule.filters) {
        return Ok(redirected(redirect, incoming, usize::MAX));
    }
    let backend = rule.split.next().ok_or(Failure::NoBackends)?.backend;
    record.chosen(rule, backend);
    let chosen = rule.backends.get(backend).ok_or(Failure::NoBackends)?;
    let state = chosen.state().ok_or(Failure::InvalidBackend)?;
    if let Some(redirect) = find_redirect(&chosen.filters) {
        return Ok(redirected(redirect, incoming, backend));
    }
    let request_id = request_id(connection, worker, &head.fields, record);
    write_head(incoming, &Passed::all(filters(rule, backend)), rewritten, &request_id, out);
    Ok(Routed::Forward(forward(incoming, backend, state, request_id, record)))
}

/// A request for this backend, whose head has been written.
pub(super) fn forward(
    incoming: Incoming<'_>,
    backend: usize,
    state: &BackendState,
    request_id: SmallVec<[u8; 32]>,
    record: &RequestRecord,
) -> Forward {
    let Incoming { head, rule, worker, .. } = incoming;
    let own = state.own_limits();
    let limits = own.as_deref().unwrap_or(&worker.settings.limits);
    Forward {
        rule: rule.clone(),
        backend,
        asked: Asked { head: head.is_head(), upgrade: head.upgrade.is_some() },
        version: head.version,
        keep_alive: false,
        idempotent: head.is_idempotent(),
        web_socket: head.upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket")),
        grpc: false,
        request_id,
        deadline: request_timeout(rule, limits).map(|timeout| record.started + timeout),
        extras: None,
        listener: state.is_encrypted().then(|| incoming.listener.clone()),
        limits: own,
    }
}

/// The rule's time for a whole request, else the backend's.
#[inline]
fn request_timeout(rule: &CompiledRule, limits: &Limits) -> Option<Duration> {
    let of_backend = Some(limits.upstream_request_timeout).filter(|timeout| !timeout.is_zero());
    rule.request_timeout.or(of_backend)
}

/// The path and query of a request that may be looked up.
fn admit<'b>(
    connection: &Connection,
    head: &RequestHead<'_, 'b>,
) -> Result<(&'b [u8], Option<&'b [u8]>), Failure> {
    let Target::Path { path, query, absolute } = head.target else {
        // `OPTIONS *` is about the server, and no route says anything about that.
        return Err(Failure::NoRoute);
    };
    if absolute.is_some_and(|absolute| absolute.secure != connection.down.front.is_some()) {
        return Err(Failure::Misdirected);
    }
    let limit = connection.terms.limits.request_body_bytes;
    if limit > 0 && matches!(head.framing, Framing::Length(length) if length > limit as u64) {
        return Err(Failure::BodyTooLarge);
    }
    Ok((path, query))
}

pub(super) fn redirected(redirect: &Redirect, incoming: Incoming<'_>, backend: usize) -> Routed {
    let Incoming { connection, head, rule, .. } = incoming;
    let request = RedirectedRequest {
        scheme: connection.down.scheme(),
        host: if head.authority.host.is_empty() { connection.down.local_host() } else { head.authority.host },
        listener_port: connection.down.bind.bound_port,
        path: incoming.path,
        query: incoming.query,
        matched: incoming.matched,
    };
    let mut to = Vec::new();
    location(redirect, &request, &mut to);
    Routed::Answer(Answer::Redirect { rule: rule.clone(), backend, status: redirect.status, location: to })
}

fn find_redirect(filters: &[CompiledFilter]) -> Option<&Redirect> {
    filters.iter().find_map(|filter| match filter {
        CompiledFilter::Redirect(redirect) => Some(redirect),
        _ => None,
    })
}

/// What the endpoint is asked for.
struct Rewritten<'a> {
    path: &'a [u8],
    /// What a filter says.
    host: Option<&'a str>,
    /// What was taken off the path.
    prefix: Option<&'a [u8]>,
}

/// `buffer` holds a path that was changed.
fn rewrite_target<'a>(incoming: Incoming<'a>, passed: &Passed<'a>, buffer: &'a mut Vec<u8>) -> Rewritten<'a> {
    let Incoming { rule, matched, path, .. } = incoming;
    buffer.clear();
    let mut changed = rule.strip_path;
    let mut prefix = None;
    if rule.strip_path {
        strip_path(path, matched, buffer);
        prefix = match matched {
            PathMatch::Prefix(0) => None,
            PathMatch::Prefix(length) => path.get(..length),
            PathMatch::Exact | PathMatch::Regex => Some(path),
        };
    }
    let mut host = None;
    for filter in passed.lists.into_iter().flatten() {
        let CompiledFilter::Rewrite(rewrite) = filter else { continue };
        host = rewrite.hostname.as_deref().or(host);
        if let Some(change) = &rewrite.path {
            buffer.clear();
            replace_path(path, matched, change, buffer);
            changed = true;
        }
    }
    Rewritten { path: if changed { buffer } else { path }, host, prefix }
}

/// Writes the head for the next hop as the filters that were passed make it.
pub(super) fn write_head(
    incoming: Incoming<'_>,
    passed: &Passed<'_>,
    rewritten: &mut Vec<u8>,
    request_id: &[u8],
    out: &mut Vec<u8>,
) {
    let Incoming { connection, head, path, query, .. } = incoming;
    let Rewritten { path: new_path, host, prefix } = rewrite_target(incoming, passed, rewritten);
    let trusted = connection.down.trusted.get();
    let edited_query = passed.query(query);
    let query = edited_query.as_ref().map_or(query, Option::as_deref);
    let mut to = RequestTarget { path: new_path, query, host: None };
    let mut edited = Edited::new(rewrite::request_dropped(head, trusted));
    edited.request(passed, &head.fields);
    to.host = edited.host.or(host.map(str::as_bytes));
    if to.host.is_none() && !keeps_host(head) {
        to.host = Some(if head.authority.raw.is_empty() {
            connection.down.local_authority()
        } else {
            head.authority.raw
        });
    }
    if to.host.is_some() {
        head.fields.drop_name(&mut edited.dropped, b"host");
    }
    let forwarding = Forwarding {
        peer: connection.down.peer(),
        trusted,
        scheme: connection.down.scheme().as_bytes(),
        authority: head.authority.raw,
        port: connection.down.bind.bound_port,
        path,
        prefix,
        request_id,
        overridden: edited.overridden,
        http2: connection.down.http2,
        connection: &connection.down.lines,
    };
    rewrite::request(head, &to, edited.dropped, &forwarding, out);
    edited.write(out);
    rewrite::finish(out);
}

/// Whether the client's own `Host` line says what is to be sent.
fn keeps_host(head: &RequestHead<'_, '_>) -> bool {
    head.fields.has(Known::Host)
        && !head.authority.raw.is_empty()
        && !matches!(head.target, Target::Path { absolute: Some(_), .. })
}

/// The client's id if it is trusted and gave one, else a new one, else (switched off) none.
pub(super) fn request_id(
    connection: &Connection,
    worker: &Worker,
    fields: &Fields<'_, '_>,
    record: &mut RequestRecord,
) -> SmallVec<[u8; 32]> {
    let id = made_id(connection, worker, fields);
    if let Some(text) = &mut record.text {
        text.request_id = String::from_utf8_lossy(&id).into_owned();
    }
    id
}

fn made_id(connection: &Connection, worker: &Worker, fields: &Fields<'_, '_>) -> SmallVec<[u8; 32]> {
    if !worker.settings.headers.request_id {
        return SmallVec::new();
    }
    if connection.down.trusted.get()
        && let Some(given) = fields.values(Known::RequestId).next()
    {
        return SmallVec::from_slice(given);
    }
    let mut id = [0; 32];
    for (half, number) in id.as_chunks_mut::<16>().0.iter_mut().zip([worker.random(), worker.random()]) {
        let (high, low) = half.split_at_mut(8);
        high.copy_from_slice(&hexadecimal((number >> 32) as u32));
        low.copy_from_slice(&hexadecimal(number as u32));
    }
    SmallVec::from_slice(&id)
}

/// The eight digits of a number, all at once: its halves, then their halves, and so on are moved apart until each octet has
/// one digit's value.
fn hexadecimal(number: u32) -> [u8; 8] {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let mut digits = u64::from(number);
    digits = (digits | digits << 16) & 0x0000_ffff_0000_ffff;
    digits = (digits | digits << 8) & 0x00ff_00ff_00ff_00ff;
    digits = (digits | digits << 4) & (ONES * 0x0f);
    // From ten on six more than sixteen.
    let letters = (digits + ONES * 6) >> 4 & ONES;
    (digits + ONES * u64::from(b'0') + letters * u64::from(b'a' - b'0' - 10)).to_be_bytes()
}

fn text(connection: &Connection, head: &RequestHead<'_, '_>) -> RequestText {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let path = match head.target {
        Target::Path { path, .. } => path,
        Target::Asterisk => b"*",
    };
    RequestText {
        client: connection.down.peer_text(),
        method: lossy(head.method),
        host: lossy(head.authority.host),
        path: lossy(path),
        user_agent: head.fields.named(b"user-agent").next().map(lossy).unwrap_or_default(),
        ..RequestText::default()
    }
}

/// A head's fields as selection looks at them.
struct HeadHeaders<'a, 's, 'b>(&'a Fields<'s, 'b>);

impl Headers for HeadHeaders<'_, '_, '_> {
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        for value in self.0.named(name.as_bytes()) {
            visit(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::hexadecimal;

    #[test]
    fn eight_digits_are_what_the_standard_library_writes() {
        let odd = (0..32).map(|bit| 0x9e37_79b9_u32.rotate_left(bit));
        for number in odd.chain([0, 1, 9, 10, 15, 16, 0x0123_4567, 0x89ab_cdef, u32::MAX]) {
            assert_eq!(hexadecimal(number), *format!("{number:08x}").as_bytes());
        }
    }
}

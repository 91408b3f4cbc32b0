//! From a request head to a decision: which rule, which filters, which backend, and the head for the next hop.
//!
//! All of it happens between two waits, over one snapshot, without allocating: what the decision keeps is the rule and the
//! rewritten head, never the snapshot.

use std::sync::Arc;

use smallvec::SmallVec;
use weir_codec::body::{BodyScan, Form, Framing};
use weir_codec::field::{FieldStore, Fields, Known};
use weir_codec::head::{Asked, HeadScan, RequestHead, Version};
use weir_codec::rewrite::{self, Forwarding, RequestTarget};
use weir_codec::target::Target;
use weir_model::filter::CompiledFilter;
use weir_model::path::{Normalised, normalise};
use weir_model::rewrite::{Redirect, RedirectedRequest, location, replace_path, strip_path};
use weir_model::select::{Headers, NoProbe, PathMatch, RequestView, select};
use weir_model::table::{BackendState, CompiledRule};

use super::answer::{self, Context};
use super::connection::Connection;
use super::pipe::Pipe;
use crate::clock::Moment;
use crate::error::Failure;
use crate::filter::Edited;
use crate::record::{RequestRecord, RequestText};
use crate::worker::Worker;

/// What clients of this release's listeners use.
pub(super) const SCHEME: &str = "http";

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
}

/// A request on its way to a backend.
pub(crate) struct Forward {
    pub(super) rule: Arc<CompiledRule>,
    /// Index into the rule's backends.
    pub(super) backend: usize,
    /// Towards the endpoint: the rewritten head, then the body.
    pub(super) up: Pipe,
    pub(super) asked: Asked,
    pub(super) version: Version,
    pub(super) keep_alive: bool,
    pub(super) idempotent: bool,
    pub(super) request_id: SmallVec<[u8; 32]>,
    /// The rule's time for the whole request.
    pub(crate) deadline: Option<Moment>,
}

impl Forward {
    /// The chosen backend. A decision to forward is only made for valid ones.
    pub(crate) fn state(&self) -> Option<&Arc<BackendState>> {
        self.rule.backends.get(self.backend)?.state()
    }

    /// The filters that apply, the rule's first.
    pub(super) fn filters(&self) -> [&[CompiledFilter]; 2] {
        filters(&self.rule, self.backend)
    }
}

fn filters(rule: &CompiledRule, backend: usize) -> [&[CompiledFilter]; 2] {
    [&rule.filters, rule.backends.get(backend).map_or(&[], |backend| &backend.filters)]
}

/// Decides about the head at the start of the connection's input, and uses it up.
pub(super) fn decide(connection: &mut Connection, worker: &Worker, record: &mut RequestRecord) -> Decision {
    let mut store = FieldStore::new();
    let limits = &worker.settings.head_limits;
    let (head, length) = match connection.scan.request(connection.input.bytes(), limits, &mut store) {
        Ok(Some(read)) => read,
        Ok(None) => return Decision::Wait,
        Err(error) => return refuse(connection, worker, Failure::Head(error), record),
    };
    let framing = head.framing;
    let (is_head, wants_more) = (head.is_head(), head.keep_alive);
    let mut paths = worker.paths.borrow_mut();
    let mut out = worker.buffers.out();
    let outcome = route(connection, worker, &head, &mut paths, &mut out, record);
    drop(paths);
    connection.scan = HeadScan::default();
    connection.served += 1;
    let (input, limits) = (&mut connection.input, &worker.settings.limits);
    input.consume(length);
    let stays = wants_more && !worker.is_retiring() && connection.served < limits.requests_per_connection;
    match outcome {
        Ok(Routed::Forward(mut forward)) => {
            forward.keep_alive = stays;
            let body = BodyScan::new(framing, Form::AsSent, worker.settings.body_limits);
            forward.up = Pipe::new(out, body, false);
            Decision::Forward(forward)
        }
        Ok(Routed::Redirect { rule, backend, redirect, location }) => {
            let keep_alive = stays && skip_body(connection, worker, framing);
            let context = context(worker, is_head, keep_alive, record);
            record.status = redirect;
            answer::redirect(worker, redirect, &location, context, &mut out);
            let none = Fields::none();
            let mut edited = Edited::new(none.dropping(Default::default()));
            for filters in filters(&rule, backend) {
                edited.response(filters, &none);
            }
            edited.write(&mut out);
            answer::end(worker, context, &mut out);
            Decision::Answer { out, keep_alive }
        }
        Err(failure) => {
            out.clear();
            let keep_alive = stays && !failure.verdict().close && skip_body(connection, worker, framing);
            fail(worker, failure, context(worker, is_head, keep_alive, record), out, record)
        }
    }
}

/// The answer to a head that could not be read: nothing of what follows it can be, either.
pub(super) fn refuse(
    connection: &mut Connection,
    worker: &Worker,
    failure: Failure,
    record: &mut RequestRecord,
) -> Decision {
    if record.text.is_some() || worker.settings.access_log.is_some() {
        record.text =
            Some(Box::new(RequestText { client: connection.peer_text(), ..RequestText::default() }));
    }
    // HEAD is told from the first bytes: a body after its answer would be read as the next answer.
    let is_head = connection.input.bytes().starts_with(b"HEAD ");
    fail(worker, failure, context(worker, is_head, false, record), worker.buffers.out(), record)
}

pub(super) fn context(worker: &Worker, head: bool, keep_alive: bool, record: &RequestRecord) -> Context {
    Context { head, keep_alive, latency: worker.clock.now().since(record.started) }
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
    answer::failure(worker, failure, context, &mut out);
    Decision::Answer { out, keep_alive: context.keep_alive }
}

/// Uses up a body that has arrived already. False if there is more of it.
fn skip_body(connection: &mut Connection, worker: &Worker, framing: Framing) -> bool {
    let mut scan = BodyScan::new(framing, Form::AsSent, worker.settings.body_limits);
    while !scan.is_done() {
        match scan.step(connection.input.bytes()) {
            Ok(step) if step.skip + step.pass > 0 => connection.input.consume(step.skip + step.pass),
            Ok(_) | Err(_) => return false,
        }
    }
    true
}

enum Routed {
    /// Complete but for what is known only when the head is used up.
    Forward(Forward),
    Redirect {
        rule: Arc<CompiledRule>,
        backend: usize,
        redirect: u16,
        location: Vec<u8>,
    },
}

fn route(
    connection: &Connection,
    worker: &Worker,
    head: &RequestHead<'_, '_>,
    paths: &mut [Vec<u8>; 2],
    out: &mut Vec<u8>,
    record: &mut RequestRecord,
) -> Result<Routed, Failure> {
    if worker.settings.access_log.is_some() {
        record.text = Some(Box::new(text(connection, head)));
    }
    let (raw_path, query) = admit(worker, head)?;
    let [normal, rewritten] = paths;
    let path = match normalise(raw_path, normal).map_err(Failure::Path)? {
        Normalised::AsReceived => raw_path,
        Normalised::InBuffer => normal,
    };
    let headers = HeadHeaders(&head.fields);
    let view = RequestView { method: head.method, host: head.authority.host, path, query, headers: &headers };
    let snapshot = worker.snapshot();
    let table = snapshot.bind(&connection.bind.address).ok_or(Failure::NoRoute)?;
    let selected = select(table, &view, &mut NoProbe).ok_or(Failure::NoRoute)?;
    let rule = selected.rule;
    record.selected(selected.listener, rule);
    let request = RedirectedRequest {
        scheme: SCHEME,
        host: if head.authority.host.is_empty() { connection.local_host() } else { head.authority.host },
        listener_port: connection.bind.bound_port,
        path,
        query,
        matched: selected.path_match,
    };
    if let Some(redirect) = find_redirect(&rule.filters) {
        return Ok(redirected(redirect, &request, rule, usize::MAX));
    }
    let backend = rule.split.next().ok_or(Failure::NoBackends)?.backend;
    record.chosen(rule, backend);
    let chosen = rule.backends.get(backend).ok_or(Failure::NoBackends)?;
    if chosen.state().is_none() {
        return Err(Failure::InvalidBackend);
    }
    if let Some(redirect) = find_redirect(&chosen.filters) {
        return Ok(redirected(redirect, &request, rule, backend));
    }
    rewritten.clear();
    let target = Rewriting { rule, backend, matched: selected.path_match, path, rewritten };
    let request_id = write_head(connection, worker, head, query, target, out);
    if let Some(text) = &mut record.text {
        text.request_id = String::from_utf8_lossy(&request_id).into_owned();
    }
    Ok(Routed::Forward(Forward {
        rule: rule.clone(),
        backend,
        up: Pipe::empty(),
        asked: Asked { head: head.is_head(), upgrade: head.upgrade.is_some() },
        version: head.version,
        keep_alive: false,
        idempotent: head.is_idempotent(),
        request_id,
        deadline: rule.request_timeout.map(|timeout| record.started + timeout),
    }))
}

/// The path and query of a request that may be looked up.
fn admit<'b>(worker: &Worker, head: &RequestHead<'_, 'b>) -> Result<(&'b [u8], Option<&'b [u8]>), Failure> {
    let Target::Path { path, query, absolute } = head.target else {
        // `OPTIONS *` is about the server, and no route says anything about that.
        return Err(Failure::NoRoute);
    };
    if absolute.is_some_and(|absolute| absolute.secure) {
        return Err(Failure::Misdirected);
    }
    let limit = worker.settings.limits.request_body_bytes;
    if limit > 0 && matches!(head.framing, Framing::Length(length) if length > limit as u64) {
        return Err(Failure::BodyTooLarge);
    }
    Ok((path, query))
}

fn redirected(
    redirect: &Redirect,
    request: &RedirectedRequest<'_>,
    rule: &Arc<CompiledRule>,
    backend: usize,
) -> Routed {
    let mut to = Vec::new();
    location(redirect, request, &mut to);
    Routed::Redirect { rule: rule.clone(), backend, redirect: redirect.status, location: to }
}

fn find_redirect(filters: &[CompiledFilter]) -> Option<&Redirect> {
    filters.iter().find_map(|filter| match filter {
        CompiledFilter::Redirect(redirect) => Some(redirect),
        _ => None,
    })
}

/// What the path and host of a forwarded request are made from.
struct Rewriting<'a> {
    rule: &'a CompiledRule,
    backend: usize,
    matched: PathMatch,
    path: &'a [u8],
    /// Empty; holds the changed path.
    rewritten: &'a mut Vec<u8>,
}

/// What the endpoint is asked for.
struct Rewritten<'a> {
    path: &'a [u8],
    /// What a filter says.
    host: Option<&'a str>,
    /// What was taken off the path.
    prefix: Option<&'a [u8]>,
}

impl<'a> Rewriting<'a> {
    fn run(self) -> Rewritten<'a> {
        let Rewriting { rule, backend, matched, path, rewritten } = self;
        let mut changed = rule.strip_path;
        let mut prefix = None;
        if rule.strip_path {
            strip_path(path, matched, rewritten);
            prefix = match matched {
                PathMatch::Prefix(0) => None,
                PathMatch::Prefix(length) => path.get(..length),
                PathMatch::Exact | PathMatch::Regex => Some(path),
            };
        }
        let mut host = None;
        for filter in filters(rule, backend).into_iter().flatten() {
            let CompiledFilter::Rewrite(rewrite) = filter else { continue };
            host = rewrite.hostname.as_deref().or(host);
            if let Some(change) = &rewrite.path {
                rewritten.clear();
                replace_path(path, matched, change, rewritten);
                changed = true;
            }
        }
        Rewritten { path: if changed { rewritten } else { path }, host, prefix }
    }
}

/// Writes the head for the endpoint and gives the request's id.
fn write_head(
    connection: &Connection,
    worker: &Worker,
    head: &RequestHead<'_, '_>,
    query: Option<&[u8]>,
    target: Rewriting<'_>,
    out: &mut Vec<u8>,
) -> SmallVec<[u8; 32]> {
    let path = target.path;
    let (rule, backend) = (target.rule, target.backend);
    let Rewritten { path: new_path, host, prefix } = target.run();
    let trusted = connection.trusted;
    let mut to = RequestTarget { path: new_path, query, host: None };
    let mut edited = Edited::new(rewrite::request_dropped(head, trusted));
    for filters in filters(rule, backend) {
        edited.request(filters, &head.fields);
    }
    to.host = edited.host.or(host).map(str::as_bytes);
    if to.host.is_none() && !keeps_host(head) {
        to.host = Some(if head.authority.raw.is_empty() {
            connection.local_authority()
        } else {
            head.authority.raw
        });
    }
    if to.host.is_some() {
        head.fields.drop_name(&mut edited.dropped, b"host");
    }
    let request_id = request_id(connection, worker, &head.fields);
    let forwarding = Forwarding {
        peer: connection.peer(),
        trusted,
        scheme: SCHEME.as_bytes(),
        authority: head.authority.raw,
        port: connection.bind.bound_port,
        path,
        prefix,
        request_id: &request_id,
        overridden: edited.overridden,
        connection: &connection.lines,
    };
    rewrite::request(head, &to, edited.dropped, &forwarding, out);
    edited.write(out);
    rewrite::finish(out);
    request_id
}

/// Whether the client's own `Host` line says what is to be sent.
fn keeps_host(head: &RequestHead<'_, '_>) -> bool {
    head.fields.has(Known::Host)
        && !head.authority.raw.is_empty()
        && !matches!(head.target, Target::Path { absolute: Some(_), .. })
}

/// The client's id if it is trusted and gave one, else a new one, else (switched off) none.
fn request_id(connection: &Connection, worker: &Worker, fields: &Fields<'_, '_>) -> SmallVec<[u8; 32]> {
    if !worker.settings.headers.request_id {
        return SmallVec::new();
    }
    if connection.trusted
        && let Some(given) = fields.values(Known::RequestId).next()
    {
        return SmallVec::from_slice(given);
    }
    let mut id = [0; 32];
    for (half, number) in id.chunks_exact_mut(16).zip([worker.random(), worker.random()]) {
        for (at, digit) in half.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(number >> (60 - 4 * at) & 15) as usize];
        }
    }
    SmallVec::from_slice(&id)
}

fn text(connection: &Connection, head: &RequestHead<'_, '_>) -> RequestText {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let path = match head.target {
        Target::Path { path, .. } => path,
        Target::Asterisk => b"*",
    };
    RequestText {
        client: connection.peer_text(),
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

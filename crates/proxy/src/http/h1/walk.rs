//! A request's way through filters, for rules that have more than changes of heads: mirrors, sharing between origins, outside
//! authorisation, sessions, retries.
//!
//! Filters act in the order in which they are written, the rule's first and then those of the backend that was chosen. What a
//! filter sees of the head is what those before it have made of it. A filter that has to wait (an authorisation server) stops the walk;
//! it goes on later from there ([`Walk`] is what is kept meanwhile), in the rule in which it began.

use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;
use weir_codec::body::Framing;
use weir_codec::head::{Asked, RequestHead};
use weir_model::cors::{Cors, Preflight};
use weir_model::filter::{CompiledFilter, ExternalAuth, Mirror};
use weir_model::select::PathMatch;
use weir_model::table::{CompiledListener, CompiledRule};

use super::auth::{self, Held, Question};
use super::connection::Connection;
use super::route::{Answer, Routed, forward, redirected, request_id, write_head};
use crate::error::Failure;
use crate::filter::{Answered, Grant, Passed};
use crate::mirror::{self, Copied, Taps};
use crate::record::RequestRecord;
use crate::session::Kept;
use crate::worker::Worker;

/// A request that has found its rule.
#[derive(Clone, Copy)]
pub(super) struct Incoming<'a> {
    pub(super) connection: &'a Connection,
    pub(super) worker: &'a Rc<Worker>,
    pub(super) head: &'a RequestHead<'a, 'a>,
    pub(super) listener: &'a Arc<CompiledListener>,
    pub(super) rule: &'a Arc<CompiledRule>,
    pub(super) matched: PathMatch,
    /// In its normal form.
    pub(super) path: &'a [u8],
    pub(super) query: Option<&'a [u8]>,
}

/// What of a forwarded request only some rules ask for.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// The value of `Origin`, where a filter wants to know it.
    pub(super) origin: Option<Box<[u8]>>,
    /// How the request is kept with its backend.
    pub(super) session: Option<Kept>,
    /// Tries that the rule still allows.
    pub(super) tries_left: u32,
    /// A body that was read whole before it was forwarded.
    held: Option<Held>,
    /// What authorisation servers put into the response.
    grants: Vec<Grant>,
}

impl Extras {
    /// What the edits of the response depend on.
    pub(super) fn answered(&self) -> Answered<'_> {
        Answered { origin: self.origin.as_deref(), grants: &self.grants }
    }
}

/// How far a request has come.
#[derive(Default)]
pub(super) struct Walk {
    /// Filters of the rule (0), of the backend (1).
    list: usize,
    /// The next one of them.
    next: usize,
    backend: Option<usize>,
    /// What authorisation servers put into the request.
    pub(super) grants: Vec<Grant>,
    pub(super) taps: Taps,
    /// The body, where it has been read already: as sent, whole.
    pub(super) body: Option<Vec<u8>>,
    request_id: Option<SmallVec<[u8; 32]>>,
    extras: Extras,
}

impl Walk {
    /// Goes on until the request can be forwarded, is answered, or has to wait.
    pub(super) fn go_on(
        &mut self,
        incoming: Incoming<'_>,
        rewritten: &mut Vec<u8>,
        out: &mut Vec<u8>,
        record: &mut RequestRecord,
    ) -> Result<Routed, Failure> {
        let rule = incoming.rule;
        if let Some(routed) = self.pass(0, &rule.filters, incoming, rewritten, record)? {
            return Ok(routed);
        }
        let backend = match self.backend {
            Some(backend) => backend,
            None => self.choose(incoming)?,
        };
        self.backend = Some(backend);
        record.chosen(rule, backend);
        let chosen = rule.backends.get(backend).ok_or(Failure::NoBackends)?;
        let state = chosen.state().ok_or(Failure::InvalidBackend)?;
        if let Some(routed) = self.pass(1, &chosen.filters, incoming, rewritten, record)? {
            return Ok(routed);
        }
        let request_id = self.request_id(incoming, record);
        write_head(incoming, &self.passed(rule), rewritten, &request_id, out);
        let mut forward = forward(incoming, backend, state, request_id, record);
        let mut extras = std::mem::take(&mut self.extras);
        extras.tries_left = rule.retry.as_ref().map_or(0, |retry| retry.attempts);
        extras.grants = std::mem::take(&mut self.grants);
        forward.extras = Some(Box::new(extras));
        Ok(Routed::Forward(forward))
    }

    /// Passes the filters of one list that have not been passed yet, up to one that ends the walk or has to wait.
    fn pass(
        &mut self,
        list: usize,
        filters: &[CompiledFilter],
        incoming: Incoming<'_>,
        rewritten: &mut Vec<u8>,
        record: &mut RequestRecord,
    ) -> Result<Option<Routed>, Failure> {
        while self.list == list
            && let Some(filter) = filters.get(self.next)
        {
            match filter {
                CompiledFilter::RequestHeaders(_)
                | CompiledFilter::ResponseHeaders(_)
                | CompiledFilter::Rewrite(_) => {}
                CompiledFilter::Invalid(_) => return Err(Failure::InvalidFilter),
                CompiledFilter::Redirect(redirect) => {
                    let backend = self.backend.unwrap_or(usize::MAX);
                    return Ok(Some(redirected(redirect, incoming, backend)));
                }
                CompiledFilter::Cors(cors) => {
                    if let Some(preflight) = self.share(cors, incoming, record) {
                        return Ok(Some(preflight));
                    }
                }
                CompiledFilter::Mirror(mirror) => self.mirror(mirror, incoming, rewritten, record),
                CompiledFilter::ExternalAuth(auth) => {
                    let question = Box::new(self.ask(auth, incoming, rewritten, record)?);
                    self.next += 1;
                    let Incoming { listener, rule, matched, .. } = incoming;
                    let (listener, rule) = (listener.clone(), rule.clone());
                    return Ok(Some(Routed::Ask { question, listener, rule, matched }));
                }
            }
            self.next += 1;
        }
        if self.list == list {
            self.list += 1;
            self.next = 0;
        }
        Ok(None)
    }

    /// The body is held until the request is over.
    pub(super) fn holds(&mut self, held: Held) {
        self.extras.held = Some(held);
    }

    /// What the edits of an answer of our own depend on.
    pub(super) fn answered(&self) -> Answered<'_> {
        Answered { grants: &self.grants, ..self.extras.answered() }
    }

    /// The filters that are behind the request.
    fn passed<'a>(&'a self, rule: &'a CompiledRule) -> Passed<'a> {
        let of_backend = self
            .backend
            .and_then(|backend| rule.backends.get(backend))
            .map_or(&[][..], |backend| &backend.filters);
        let lists: [&[CompiledFilter]; 2] = match self.list {
            0 => [rule.filters.get(..self.next).unwrap_or_default(), &[]],
            1 => [&rule.filters, of_backend.get(..self.next).unwrap_or_default()],
            _ => [&rule.filters, of_backend],
        };
        Passed { lists, grants: &self.grants, body_is_here: self.body.is_some() }
    }

    fn request_id(&mut self, incoming: Incoming<'_>, record: &mut RequestRecord) -> SmallVec<[u8; 32]> {
        self.request_id
            .get_or_insert_with(|| {
                request_id(incoming.connection, incoming.worker, &incoming.head.fields, record)
            })
            .clone()
    }

    /// A live session's backend, else that of the next ticket.
    fn choose(&mut self, incoming: Incoming<'_>) -> Result<usize, Failure> {
        let Incoming { rule, worker, connection, .. } = incoming;
        let secure = connection.down.front.is_some();
        let sealer = &connection.terms.sealer;
        if let Some((backend, kept)) = Kept::find(rule, sealer, &incoming.head.fields, secure) {
            worker.metrics.session_requests.add(1);
            self.extras.session = Some(kept);
            return Ok(backend);
        }
        let backend = rule.split.next().ok_or(Failure::NoBackends)?.backend;
        self.extras.session = rule.session(backend).map(|_| Kept::new(secure));
        Ok(backend)
    }

    /// Answers a preflight; notes what a response to anything else needs.
    fn share(&mut self, cors: &Cors, incoming: Incoming<'_>, record: &mut RequestRecord) -> Option<Routed> {
        let fields = &incoming.head.fields;
        let origin = fields.named(b"origin").next();
        let asked = Preflight::of(
            incoming.head.method,
            origin,
            fields.named(b"access-control-request-method").next(),
            fields.named(b"access-control-request-headers").next(),
        );
        if let Some(asked) = asked {
            let mut lines = Vec::new();
            auth::lines(&cors.preflight(&asked), &mut lines);
            return Some(Routed::Answer(Answer::Preflight { lines }));
        }
        self.extras.origin = origin.map(Box::from);
        record.decor.clear();
        auth::lines(&cors.response(origin), &mut record.decor);
        None
    }

    /// Sends a copy of the request as it is at this point.
    fn mirror(
        &mut self,
        mirror: &Mirror,
        incoming: Incoming<'_>,
        rewritten: &mut Vec<u8>,
        record: &mut RequestRecord,
    ) {
        let Some(backend) = mirror.backend().filter(|_| mirror.wants_copy()) else { return };
        let head = incoming.head;
        let request_id = self.request_id(incoming, record);
        let mut request = Vec::with_capacity(1024);
        write_head(incoming, &self.passed(incoming.rule), rewritten, &request_id, &mut request);
        request.extend_from_slice(self.body.as_deref().unwrap_or_default());
        let copied = Copied {
            listener: incoming.listener.clone(),
            backend: backend.clone(),
            request,
            more: self.body.is_none() && !matches!(head.framing, Framing::None | Framing::Length(0)),
            asked: Asked { head: head.is_head(), upgrade: head.upgrade.is_some() },
            idempotent: head.is_idempotent(),
        };
        if let Some(tap) = mirror::send(incoming.worker, &incoming.connection.terms.limits, copied) {
            self.taps.add(tap);
        }
    }

    /// What the authorisation server is asked.
    fn ask(
        &mut self,
        filter: &Arc<ExternalAuth>,
        incoming: Incoming<'_>,
        rewritten: &mut Vec<u8>,
        record: &mut RequestRecord,
    ) -> Result<Question, Failure> {
        let request_id = self.request_id(incoming, record);
        let mut head = Vec::with_capacity(1024);
        write_head(incoming, &self.passed(incoming.rule), rewritten, &request_id, &mut head);
        Question::new(filter, incoming, &head, [self.list, self.next])
    }
}

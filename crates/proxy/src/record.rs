//! One record a request: what metrics and the access log are made from.

use std::sync::Arc;
use std::time::Duration;

use weir_model::table::{CompiledListener, CompiledRule};

use crate::clock::Moment;
use crate::error::Failure;
use crate::terms::Logged;
use crate::worker::Worker;

/// What is known about the request that a connection is busy with; or about a connection or flow whose bytes are nobody's
/// business.
#[derive(Debug)]
pub(crate) struct RequestRecord {
    pub(crate) started: Moment,
    /// 0 until a response begins.
    pub(crate) status: u16,
    pub(crate) failure: Option<Failure>,
    /// From the request's last byte sent to the response's head.
    pub(crate) upstream_latency: Option<Duration>,
    /// Times that the request was sent again.
    pub(crate) retries: u32,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    /// When the rule's time for the request is up; known here only for requests that wait before they are forwarded.
    pub(crate) deadline: Option<Moment>,
    /// Lines for the head of an answer of the proxy's own.
    pub(crate) decor: Vec<u8>,
    /// Only where an access log wants it.
    pub(crate) text: Option<Box<RequestText>>,
}

/// The part of a record that takes copies.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestText {
    pub(crate) logged: Logged,
    pub(crate) client: String,
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) request_id: String,
    pub(crate) user_agent: String,
    pub(crate) listener: Option<Arc<str>>,
    pub(crate) route: Option<Arc<str>>,
    pub(crate) rule: Option<Arc<str>>,
    pub(crate) rule_index: usize,
    pub(crate) backend: Option<Arc<str>>,
    pub(crate) endpoint: String,
}

impl RequestRecord {
    pub(crate) fn new(started: Moment) -> RequestRecord {
        RequestRecord {
            started,
            status: 0,
            failure: None,
            upstream_latency: None,
            retries: 0,
            request_bytes: 0,
            response_bytes: 0,
            deadline: None,
            decor: Vec::new(),
            text: None,
        }
    }

    pub(crate) fn selected(&mut self, listener: &CompiledListener, rule: &CompiledRule) {
        if let Some(text) = &mut self.text {
            text.listener = Some(listener.key.clone());
            text.route = Some(rule.route.clone());
            text.rule = Some(rule.name.clone());
            text.rule_index = rule.index;
        }
    }

    pub(crate) fn chosen(&mut self, rule: &CompiledRule, backend: usize) {
        if let (Some(text), Some(backend)) = (&mut self.text, rule.backends.get(backend)) {
            text.backend = Some(backend.key.clone());
        }
    }

    /// The request is over: count it, and log it if wanted.
    pub(crate) fn finish(&mut self, worker: &Worker) {
        let metrics = &worker.metrics;
        let micros = worker.clock.now().micros_since(self.started);
        let class = usize::from(self.status / 100).min(5);
        metrics.requests[class].add(1);
        metrics.durations.observe(micros);
        self.finish_any(worker, micros);
    }

    /// The connection or flow, which is no request, is over.
    pub(crate) fn finish_stream(&mut self, worker: &Worker) {
        let micros = worker.clock.now().micros_since(self.started);
        self.finish_any(worker, micros);
    }

    fn finish_any(&mut self, worker: &Worker, micros: u64) {
        let metrics = &worker.metrics;
        if self.retries > 0 {
            metrics.retries.add(u64::from(self.retries));
        }
        if let Some(failure) = self.failure {
            metrics.failures.of(failure.verdict().reason).add(1);
        }
        if let Some(text) = &self.text
            && self.is_wanted(text.logged)
            && let Some(log) = worker.settings.log.get()
        {
            let whole = std::mem::replace(self, RequestRecord::new(self.started));
            log.write(whole, Duration::from_micros(micros));
        }
    }

    /// Whether the log gets a line.
    fn is_wanted(&self, logged: Logged) -> bool {
        let is_request_at_fault = (400..500).contains(&self.status);
        logged == Logged::All || self.status >= 500 || (self.failure.is_some() && !is_request_at_fault)
    }
}

//! What a container's stand-in answers to a request.
//!
//! Invariant: a request's body is read to its end before the answer, so that a large upload never ends in a reset.

mod echo_basic;
mod go_echo;
mod netexec;
mod page;
mod query;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;

use super::behaviour::Behaviour;
use super::environment::Environment;
use crate::logs::LogSource;

pub(super) use echo_basic::Attempts;

/// One container of one pod, as its stand-in knows it.
pub(super) struct Stand {
    pub(super) behaviour: Behaviour,
    pub(super) environment: Environment,
    pub(super) pod: String,
    pub(super) pod_uid: String,
    pub(super) namespace: String,
    /// The Deployment, or what else made the pod; the pod's own name where nothing did.
    pub(super) made_by: MadeBy,
    pub(super) container: String,
    pub(super) image: String,
    pub(super) logs: LogSource,
    /// For echo-basic's `/retry`.
    pub(super) attempts: Attempts,
}

/// The kind and name of what made a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MadeBy {
    pub(super) kind: String,
    pub(super) name: String,
}

/// Where a request came in.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    /// The port that the container asked for, whichever it got.
    pub(super) port: u16,
    /// Only HTTP/2 is expected here.
    pub(super) expects_http2: bool,
    pub(super) peer: SocketAddr,
}

/// A request without its body.
pub(super) struct Asked {
    pub(super) parts: Parts,
    /// Bytes that the body had.
    pub(super) body_bytes: u64,
}

impl Asked {
    /// The request target as it stood in the request line.
    fn target(&self) -> &str {
        let uri = &self.parts.uri;
        uri.path_and_query().map_or_else(|| uri.path(), |target| target.as_str())
    }

    fn query(&self, name: &str) -> Option<String> {
        query::value(self.parts.uri.query().unwrap_or_default(), name)
    }
}

pub(super) type Answer = Response<Full<Bytes>>;

impl Stand {
    /// Reads the request to its end and answers it. None closes the connection without an answer.
    pub(super) async fn answer<B>(
        self: Arc<Self>,
        arrival: Arrival,
        request: http::Request<B>,
    ) -> Option<Answer>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let (parts, mut body) = request.into_parts();
        let mut body_bytes = 0;
        while let Some(frame) = body.frame().await {
            // The peer is gone, so nobody reads an answer.
            let frame = frame.ok()?;
            body_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        let asked = Asked { parts, body_bytes };
        match self.behaviour {
            Behaviour::Netexec => Some(netexec::answer(&self, arrival, &asked)),
            Behaviour::ServeHostname => Some(netexec::hostname(&self, arrival, &asked)),
            Behaviour::GoEcho => Some(go_echo::answer(&self, arrival, &asked)),
            Behaviour::EchoBasic => echo_basic::answer(&self, arrival, &asked).await,
            Behaviour::Page => Some(page::answer(&self, arrival, &asked)),
        }
    }

    /// Writes a line to the container's log.
    pub(super) fn log(&self, line: &str) {
        self.logs.append(&self.pod_uid, &self.container, line, Timestamp::now());
    }

    fn log_request(&self, arrival: Arrival, asked: &Asked) {
        self.log(&format!("{} {} from {}", asked.parts.method, asked.target(), arrival.peer));
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    respond(status, "text/plain; charset=utf-8", body)
}

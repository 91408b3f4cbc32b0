//! What a container's stand-in answers to a request.
//!
//! Invariant: a request's body is read to its end before the answer, so that a large upload never ends in a reset.

mod body;
pub(super) mod datagrams;
mod echo_basic;
mod go_echo;
mod grpc;
mod json;
pub(super) mod lines;
mod netexec;
mod page;
mod query;
pub(super) mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use jiff::Timestamp;

use body::Reply;

use super::behaviour::{Behaviour, Speaks};
use super::environment::Environment;
use super::tls::TlsFacts;
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
#[derive(Clone)]
pub(super) struct Arrival {
    /// The port that the container asked for, whichever it got.
    pub(super) port: u16,
    pub(super) speaks: Speaks,
    pub(super) peer: SocketAddr,
    /// What the handshake said, where there was one.
    pub(super) tls: Option<Arc<TlsFacts>>,
}

/// A request without its body.
pub(super) struct Asked {
    pub(super) parts: Parts,
    /// Bytes that the body had.
    pub(super) body_bytes: u64,
    /// The body's beginning.
    pub(super) body: Bytes,
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

pub(super) type Answer = Response<Reply>;

/// What comes of a request.
pub(super) enum Outcome {
    Answer(Answer),
    /// The answer agrees to WebSocket; frames are echoed behind it.
    WebSocket(Answer),
    /// The connection is closed without an answer.
    Close,
    /// The same, by a TCP reset where there is no TLS.
    Reset,
}

impl From<Answer> for Outcome {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

/// Bytes of a body that are kept for an answer that needs them. Source: grpc-go's default limit of a message.
const BODY_KEPT: usize = 4 * 1024 * 1024;

impl Stand {
    /// Reads the request to its end and answers it.
    pub(super) async fn answer<B>(self: Arc<Self>, arrival: &Arrival, request: http::Request<B>) -> Outcome
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let (parts, mut incoming) = request.into_parts();
        let keeps = matches!(arrival.speaks, Speaks::Grpc | Speaks::GrpcOverTls);
        let (mut body_bytes, mut body) = (0, Vec::new());
        while let Some(frame) = incoming.frame().await {
            // The peer is gone, so nobody reads an answer.
            let Ok(frame) = frame else { return Outcome::Close };
            let Some(data) = frame.data_ref() else { continue };
            body_bytes += data.len() as u64;
            if keeps {
                body.extend_from_slice(&data[..data.len().min(BODY_KEPT.saturating_sub(body.len()))]);
            }
        }
        let asked = Asked { parts, body_bytes, body: body.into() };
        let mut outcome = self.clone().outcome(arrival, &asked, keeps).await;
        if let (Outcome::Answer(answer), &Method::HEAD) = (&mut outcome, &asked.parts.method) {
            // The server leaves the body out of HTTP/1.1 by itself, and of HTTP/2 it does not.
            let length = answer.body_mut().drop_bytes();
            answer.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
        }
        outcome
    }

    async fn outcome(self: Arc<Self>, arrival: &Arrival, asked: &Asked, is_grpc: bool) -> Outcome {
        match self.behaviour {
            Behaviour::Netexec => netexec::answer(&self, arrival, asked).into(),
            Behaviour::ServeHostname => netexec::hostname(&self, arrival, asked).into(),
            Behaviour::GoEcho => go_echo::answer(&self, arrival, asked).into(),
            Behaviour::EchoBasic if is_grpc => grpc::answer(&self, arrival, asked).into(),
            Behaviour::EchoBasic => echo_basic::answer(&self, arrival, asked).await,
            Behaviour::CoreDns | Behaviour::Page => page::answer(&self, arrival, asked).into(),
        }
    }

    /// Writes a line to the container's log.
    pub(super) fn log(&self, line: &str) {
        self.logs.append(&self.pod_uid, &self.container, line, Timestamp::now());
    }

    fn log_request(&self, arrival: &Arrival, asked: &Asked) {
        self.log(&format!("{} {} from {}", asked.parts.method, asked.target(), arrival.peer));
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Reply::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// An answer without a body, and so without a type.
fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Reply::default());
    *answer.status_mut() = status;
    answer
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    respond(status, "text/plain; charset=utf-8", body)
}

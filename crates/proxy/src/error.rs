//! What can go wrong with a request, and the one function that says what follows from it ([`Failure::verdict`]):
//! the response, whose fault it is, the name in logs and metrics, and whether the connection may go on.

use weir_codec::body::BodyError;
use weir_codec::head::HeadError;
use weir_model::path::PathError;

use crate::tls::hello::HelloError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The request head was refused.
    Head(HeadError),
    /// What came is of another protocol: an answer would not be understood.
    NotHttp,
    /// The request path was refused.
    Path(PathError),
    /// An absolute target names a scheme that this listener does not serve.
    Misdirected,
    /// The request head did not arrive in time.
    HeadTimeout,
    /// The request body is larger than is allowed.
    BodyTooLarge,
    /// The request body was malformed.
    Body(BodyError),
    /// The request body stopped coming.
    BodyTimeout,
    /// The client closed or reset the connection before it had its answer.
    ClientGone,
    /// The client stopped taking its answer.
    ClientStalled,
    /// No route matched.
    NoRoute,
    /// The rule has no backends, or all their weights are zero.
    NoBackends,
    /// The ticket fell to a backendRef that is invalid.
    InvalidBackend,
    /// A filter that cannot be used stands in the request's way.
    InvalidFilter,
    /// The authorisation server could not be asked, or did not answer.
    Authorisation,
    /// A try's answer has a status that the rule wants another try for. Never the last word on a request.
    UpstreamStatus(u16),
    /// Another try was due, and the backend's retry budget is used up.
    RetryBudget,
    /// The backend has no ready endpoint.
    NoEndpoints,
    /// As many requests as may wait for an endpoint or a connection wait already.
    TooManyHeld,
    /// There are as many connections to the endpoint as there may be, and none became free.
    EndpointsBusy,
    /// No endpoint of the backend took a connection.
    Connect,
    /// No endpoint of the backend took a connection in time.
    ConnectTimeout,
    /// The backend is to be spoken to over TLS, and how cannot be met.
    BackendPolicy,
    /// TLS with the endpoint could not be set up: it is not whom we believe, or does not speak it.
    UpstreamHandshake,
    /// The request is for a WebSocket, and the endpoint speaks HTTP/2 without it (RFC 8441).
    NoWebSocket,
    /// The endpoint closed without an answer.
    UpstreamClosed,
    /// The endpoint's response head was refused.
    UpstreamHead(HeadError),
    /// The endpoint's response body was malformed or cut short.
    UpstreamBody(BodyError),
    /// The endpoint stopped answering.
    UpstreamTimeout,
    /// The rule's time for one try at a backend was up.
    BackendRequestTimeout,
    /// The rule's time for the request was up.
    RequestTimeout,
    /// The first bytes of a connection to a TLS listener were refused.
    Hello(HelloError),
    /// Hands were not shaken in time.
    HandshakeTimeout,
    /// Nobody serves the name that the client asked for.
    UnknownName,
    /// The listener has no certificate to show, or nothing to verify clients with.
    HandshakeRefused,
    /// Hands could not be shaken with the client.
    Handshake,
    /// Nothing moved on a stream for too long.
    StreamIdle,
    /// The listener that a stream came through is gone, and its time with it.
    ListenerGone,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    Downstream,
    Upstream,
    Configuration,
}

impl Blame {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Blame::Downstream => "downstream",
            Blame::Upstream => "upstream",
            Blame::Configuration => "configuration",
        }
    }
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict {
    /// Status and message of the response; `None` when nobody is there to read one.
    pub(crate) answer: Option<(u16, &'static str)>,
    pub(crate) blame: Blame,
    /// From a closed set: a metric label, and the reason in access logs.
    pub(crate) reason: Reason,
    /// Another endpoint of the same backend may be tried, if no byte of the request was used up.
    pub(crate) retryable: bool,
    /// The client's connection cannot carry another request: what follows on it is not known.
    pub(crate) close: bool,
}

macro_rules! reasons {
    ($($name:ident => $label:literal,)*) => {
        /// Why a request failed: metric label and access-log reason.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Reason { $($name,)* }

        impl Reason {
            pub(crate) const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $label,)* }
            }
        }
    };
}

reasons! {
    BadRequest => "bad_request",
    AmbiguousFraming => "ambiguous_framing",
    HeadTooLarge => "head_too_large",
    TargetTooLong => "target_too_long",
    Expectation => "expectation",
    Method => "method",
    Version => "version",
    NotHttp => "not_http",
    BadPath => "bad_path",
    Misdirected => "misdirected",
    HeadTimeout => "head_timeout",
    BodyTooLarge => "body_too_large",
    BadBody => "bad_body",
    BodyTimeout => "body_timeout",
    ClientGone => "client_gone",
    ClientStalled => "client_stalled",
    NoRoute => "no_route",
    NoBackends => "no_backends",
    InvalidBackend => "invalid_backend",
    InvalidFilter => "invalid_filter",
    Authorisation => "authorisation",
    RetryBudget => "retry_budget",
    NoEndpoints => "no_endpoints",
    TooManyHeld => "too_many_held",
    EndpointsBusy => "endpoints_busy",
    Connect => "connect",
    ConnectTimeout => "connect_timeout",
    NoWebSocket => "no_web_socket",
    UpstreamClosed => "upstream_closed",
    BadResponse => "bad_response",
    ResponseCutShort => "response_cut_short",
    UpstreamTimeout => "upstream_timeout",
    BackendRequestTimeout => "backend_request_timeout",
    RequestTimeout => "request_timeout",
    BackendPolicy => "backend_policy",
    UpstreamHandshake => "upstream_handshake",
    Hello => "tls_hello",
    HandshakeTimeout => "tls_timeout",
    UnknownName => "tls_unknown_name",
    HandshakeRefused => "tls_refused",
    Handshake => "tls_handshake",
    StreamIdle => "stream_idle",
    ListenerGone => "listener_gone",
}

const BAD_REQUEST: (u16, &str) = (400, "Bad request");
const UNEXPECTED: (u16, &str) = (500, "An unexpected error occurred");
const INVALID_RESPONSE: (u16, &str) = (502, "An invalid response was received from the upstream server");
const NO_WEB_SOCKET: (u16, &str) = (502, "The upstream server speaks HTTP/2 without WebSocket");
const NO_PEER: (u16, &str) = (503, "failure to get a peer from the ring-balancer");
const UNAVAILABLE: (u16, &str) = (503, "The upstream server is currently unavailable");
const TIMING_OUT: (u16, &str) = (504, "The upstream server is timing out");

impl Failure {
    pub(crate) fn verdict(self) -> Verdict {
        use Blame::{Configuration, Downstream, Upstream};
        match self {
            Failure::Head(error) => head_verdict(error),
            Failure::NotHttp => silent(Reason::NotHttp),
            Failure::Path(_) => kept(BAD_REQUEST, Downstream, Reason::BadPath),
            Failure::Misdirected => kept((421, "Misdirected request"), Downstream, Reason::Misdirected),
            Failure::HeadTimeout => closing((408, "Request timeout"), Downstream, Reason::HeadTimeout),
            Failure::BodyTooLarge => closing((413, "Payload too large"), Downstream, Reason::BodyTooLarge),
            Failure::Body(_) => closing(BAD_REQUEST, Downstream, Reason::BadBody),
            Failure::BodyTimeout => closing((408, "Request timeout"), Downstream, Reason::BodyTimeout),
            Failure::ClientGone => silent(Reason::ClientGone),
            Failure::ClientStalled => silent(Reason::ClientStalled),
            Failure::NoRoute => {
                kept((404, "no Route matched with those values"), Downstream, Reason::NoRoute)
            }
            Failure::NoBackends => kept(UNEXPECTED, Configuration, Reason::NoBackends),
            Failure::InvalidBackend => kept(UNEXPECTED, Configuration, Reason::InvalidBackend),
            Failure::InvalidFilter => kept(UNEXPECTED, Configuration, Reason::InvalidFilter),
            Failure::Authorisation => kept(UNAVAILABLE, Upstream, Reason::Authorisation),
            Failure::UpstreamStatus(_) => kept(INVALID_RESPONSE, Upstream, Reason::BadResponse),
            Failure::RetryBudget => kept(UNAVAILABLE, Upstream, Reason::RetryBudget),
            Failure::NoEndpoints => kept(NO_PEER, Upstream, Reason::NoEndpoints),
            Failure::TooManyHeld => kept(UNAVAILABLE, Upstream, Reason::TooManyHeld),
            Failure::EndpointsBusy => kept(UNAVAILABLE, Upstream, Reason::EndpointsBusy),
            Failure::Connect => retryable(kept(INVALID_RESPONSE, Upstream, Reason::Connect)),
            Failure::NoWebSocket => kept(NO_WEB_SOCKET, Upstream, Reason::NoWebSocket),
            Failure::ConnectTimeout => retryable(kept(TIMING_OUT, Upstream, Reason::ConnectTimeout)),
            Failure::UpstreamClosed => retryable(kept(INVALID_RESPONSE, Upstream, Reason::UpstreamClosed)),
            Failure::UpstreamHead(_) => kept(INVALID_RESPONSE, Upstream, Reason::BadResponse),
            Failure::UpstreamBody(BodyError::Truncated) => {
                kept(INVALID_RESPONSE, Upstream, Reason::ResponseCutShort)
            }
            Failure::UpstreamBody(_) => kept(INVALID_RESPONSE, Upstream, Reason::BadResponse),
            Failure::UpstreamTimeout => kept(TIMING_OUT, Upstream, Reason::UpstreamTimeout),
            Failure::BackendRequestTimeout => kept(TIMING_OUT, Upstream, Reason::BackendRequestTimeout),
            Failure::RequestTimeout => kept(TIMING_OUT, Upstream, Reason::RequestTimeout),
            Failure::BackendPolicy => kept(UNEXPECTED, Configuration, Reason::BackendPolicy),
            Failure::UpstreamHandshake => {
                retryable(kept(INVALID_RESPONSE, Upstream, Reason::UpstreamHandshake))
            }
            Failure::Hello(_) => silent(Reason::Hello),
            Failure::HandshakeTimeout => silent(Reason::HandshakeTimeout),
            Failure::UnknownName => silent(Reason::UnknownName),
            Failure::HandshakeRefused => Verdict { blame: Configuration, ..silent(Reason::HandshakeRefused) },
            Failure::Handshake => silent(Reason::Handshake),
            Failure::StreamIdle => silent(Reason::StreamIdle),
            Failure::ListenerGone => Verdict { blame: Configuration, ..silent(Reason::ListenerGone) },
        }
    }
}

impl Failure {
    /// The status of gRPC that says the same (its codes, and what its clients make of HTTP's).
    pub(crate) fn grpc_status(self) -> u8 {
        const DEADLINE_EXCEEDED: u8 = 4;
        const PERMISSION_DENIED: u8 = 7;
        const RESOURCE_EXHAUSTED: u8 = 8;
        const UNIMPLEMENTED: u8 = 12;
        const INTERNAL: u8 = 13;
        const UNAVAILABLE: u8 = 14;
        const UNAUTHENTICATED: u8 = 16;
        match self.verdict().answer.map_or(0, |(status, _)| status) {
            400 | 405 | 417 | 505 => INTERNAL,
            401 => UNAUTHENTICATED,
            403 => PERMISSION_DENIED,
            404 => UNIMPLEMENTED,
            408 | 504 => DEADLINE_EXCEEDED,
            413 | 414 | 429 | 431 => RESOURCE_EXHAUSTED,
            _ => UNAVAILABLE,
        }
    }
}

fn head_verdict(error: HeadError) -> Verdict {
    use Blame::Downstream;
    match error {
        HeadError::TooLarge | HeadError::TooManyFields => {
            closing((431, "Request header or cookie too large"), Downstream, Reason::HeadTooLarge)
        }
        HeadError::FirstLineTooLong => closing((414, "URI too long"), Downstream, Reason::TargetTooLong),
        HeadError::Expectation => closing((417, "Expectation failed"), Downstream, Reason::Expectation),
        HeadError::Connect => closing((405, "Method not allowed"), Downstream, Reason::Method),
        HeadError::Version => closing((505, "HTTP version not supported"), Downstream, Reason::Version),
        HeadError::ContentLength
        | HeadError::ContentLengthRepeated
        | HeadError::LengthAndEncoding
        | HeadError::TransferEncoding
        | HeadError::EncodingInOldVersion
        | HeadError::UpgradeWithBody
        | HeadError::LineEnding => closing(BAD_REQUEST, Downstream, Reason::AmbiguousFraming),
        _ => closing(BAD_REQUEST, Downstream, Reason::BadRequest),
    }
}

const fn kept(answer: (u16, &'static str), blame: Blame, reason: Reason) -> Verdict {
    Verdict { answer: Some(answer), blame, reason, retryable: false, close: false }
}

const fn closing(answer: (u16, &'static str), blame: Blame, reason: Reason) -> Verdict {
    Verdict { answer: Some(answer), blame, reason, retryable: false, close: true }
}

const fn silent(reason: Reason) -> Verdict {
    Verdict { answer: None, blame: Blame::Downstream, reason, retryable: false, close: true }
}

const fn retryable(verdict: Verdict) -> Verdict {
    Verdict { retryable: true, ..verdict }
}

//! Every bound and time-out of the data plane, in one table.
//!
//! [`Limits`] is what the proxy runs with; [`Limits::table`] is the same with unit, default, range, source and meaning, and with the
//! field of `GatewayParameters` or `BackendPolicy` that sets it: the schemas of both kinds and their documentation are made from it. A
//! limit that is not here does not exist: a constant elsewhere is a format's, not a policy's.

use std::time::Duration;

use crate::resource::LimitSetting;

/// Bytes of a compiled regular expression, and of its lazily built automaton. Source: ours; an expression of a few hundred characters
/// needs a few tens of KiB, and RE2's default budget in the field is of the same order.
pub const MAX_REGEX_BYTES: usize = 1 << 20;

/// Nested groups in a regular expression. Source: ours; the engine's own default is 250.
pub const MAX_REGEX_NEST: u32 = 100;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;

/// How a limit's number is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Count,
    Milliseconds,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::Bytes => "bytes",
            Unit::Count => "count",
            Unit::Milliseconds => "ms",
        }
    }
}

/// Whose limits: each side of the data plane has values of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Towards clients: of a Gateway, by its `GatewayParameters`.
    Gateway,
    /// Towards endpoints: of a Service's port, by a `BackendPolicy`.
    Backend,
}

impl Side {
    pub const ALL: [Side; 2] = [Side::Gateway, Side::Backend];

    /// The kind by which limits of this side are set.
    pub fn kind(self) -> &'static str {
        match self {
            Side::Gateway => "GatewayParameters",
            Side::Backend => "BackendPolicy",
        }
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitRow {
    /// The field's name.
    pub name: &'static str,
    pub unit: Unit,
    pub default: u64,
    /// The least and the most that can be set.
    pub least: u64,
    pub most: u64,
    /// Where it is set: the path below `spec` of the side's kind. Never empty.
    pub fields: &'static [(Side, &'static str)],
    /// API field, RFC section or the peers that it agrees with.
    pub source: &'static str,
    pub meaning: &'static str,
}

impl LimitRow {
    /// Where the limit is set for a side; `None` where that side has no such limit.
    pub fn field(&self, side: Side) -> Option<&'static str> {
        self.fields.iter().find(|(of, _)| *of == side).map(|(_, path)| *path)
    }
}

/// A type that a limit can have.
trait Limit: Sized {
    fn of(number: u64) -> Self;
    fn number(&self) -> u64;
}

impl Limit for usize {
    fn of(number: u64) -> Self {
        usize::try_from(number).unwrap_or(usize::MAX)
    }

    fn number(&self) -> u64 {
        u64::try_from(*self).unwrap_or(u64::MAX)
    }
}

impl Limit for Duration {
    fn of(number: u64) -> Self {
        Duration::from_millis(number)
    }

    fn number(&self) -> u64 {
        u64::try_from(self.as_millis()).unwrap_or(u64::MAX)
    }
}

macro_rules! limits {
    ($($name:ident: $type:ty = $default:expr, $unit:ident, [$least:expr, $most:expr],
        { $($side:ident $path:literal),+ }, $source:literal, $meaning:literal;)*) => {
        /// The bounds and time-outs of a data plane. Every field is in [`Limits::table`].
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits {
            $(#[doc = $meaning] #[doc = ""] #[doc = concat!("Default ", stringify!($default), ". Source: ", $source)] pub $name: $type,)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Limits { $($name: <$type as Limit>::of($default),)* }
            }
        }

        impl Limits {
            const ROWS: &'static [LimitRow] = &[
                $(LimitRow {
                    name: stringify!($name),
                    unit: Unit::$unit,
                    default: $default,
                    least: $least,
                    most: $most,
                    fields: &[$((Side::$side, $path)),+],
                    source: $source,
                    meaning: $meaning,
                },)*
            ];

            /// The values in the order of [`Limits::table`], each in its unit.
            pub fn values(&self) -> Vec<u64> {
                vec![$(Limit::number(&self.$name),)*]
            }

            /// Sets a limit by name, in its unit. False when there is none of that name.
            pub fn set(&mut self, name: &str, number: u64) -> bool {
                match name {
                    $(stringify!($name) => self.$name = Limit::of(number),)*
                    _ => return false,
                }
                true
            }
        }
    };
}

limits! {
    request_line_bytes: usize = 16 * 1024, Bytes, [1_024, 65_535],
        { Gateway "requests.lineBytes", Backend "responses.lineBytes" },
        "RFC 9112 section 3 (at least 8000 octets); HAProxy and nginx 8 to 32 KiB for a line",
        "Longest request line of a client. Longer: 414.";
    head_bytes: usize = 64 * 1024, Bytes, [1_024, 65_536],
        { Gateway "requests.headBytes", Backend "responses.headBytes" },
        "Envoy max_request_headers_kb 60; RFC 9110 section 5.4 (431)",
        "Largest head of a request or response, start line included. Larger: 431 to a client, 502 from a backend.";
    header_count: usize = 128, Count, [8, 128],
        { Gateway "requests.headerCount", Backend "responses.headerCount" },
        "Envoy and Apache 100, HAProxy 101; a little more, since proxies before us add some",
        "Most header lines of one message. More: 431 to a client, 502 from a backend.";
    trailer_bytes: usize = 16 * 1024, Bytes, [0, 65_535],
        { Gateway "requests.trailerBytes", Backend "responses.trailerBytes" },
        "RFC 9112 section 7.1.2 (a recipient may bound them); gRPC's own hard limit for metadata, since its errors come in trailers",
        "Largest trailer section of a body.";
    chunk_extension_bytes: usize = 4 * 1024, Bytes, [0, 1 << 20],
        { Gateway "requests.chunkExtensionBytes", Backend "responses.chunkExtensionBytes" },
        "RFC 9112 section 7.1.1 (a recipient ought to bound them); ours",
        "Most bytes of chunk extensions in one body.";
    header_read_timeout: Duration = 10_000, Milliseconds, [100, HOUR],
        { Gateway "requests.headTimeout" },
        "HAProxy timeout http-request, 10 s in its guides; nginx client_header_timeout 60 s is too kind",
        "From the first byte of a request to the end of its head. Later: 408.";
    idle_timeout: Duration = 75_000, Milliseconds, [100, DAY],
        { Gateway "connections.idleTimeout" },
        "nginx keepalive_timeout 75 s",
        "How long a client's connection stays open between two requests.";
    first_byte_timeout: Duration = 30_000, Milliseconds, [100, HOUR],
        { Gateway "connections.firstByteTimeout" },
        "ours: a connection that never says anything is not worth a keep-alive's time",
        "How long a new connection may be silent before its first request.";
    requests_per_connection: usize = 100_000, Count, [1, 1_000_000_000],
        { Gateway "connections.requests" },
        "nginx keepalive_requests 1000, Envoy unbounded; high enough to cost nothing, low enough to level connections",
        "Requests after which a client's connection is closed with its answer.";
    body_read_timeout: Duration = 60_000, Milliseconds, [100, DAY],
        { Gateway "requests.bodyTimeout" },
        "nginx client_body_timeout 60 s; Kong read_timeout 60 s",
        "Longest wait for the next bytes of a request body. Later: 408 if nothing was answered, else a close. A call of gRPC may be quiet for `timeouts.tunnelIdle`.";
    body_write_timeout: Duration = 60_000, Milliseconds, [100, DAY],
        { Gateway "connections.writeTimeout", Backend "timeouts.write" },
        "nginx send_timeout 60 s; Kong write_timeout 60 s",
        "Longest wait for a peer, on either side, to take the next bytes.";
    request_body_bytes: usize = 0, Bytes, [0, 1 << 50],
        { Gateway "requests.bodyBytes" },
        "Kong client_max_body_size 0; the API has no such field",
        "Largest request body; 0 for no bound (bodies are streamed, never held).";
    upstream_connect_timeout: Duration = 5_000, Milliseconds, [10, HOUR],
        { Backend "timeouts.connect" },
        "Envoy connect_timeout 5 s; Kong's 60 s outlives most clients",
        "For one attempt to connect to an endpoint.";
    upstream_response_timeout: Duration = 60_000, Milliseconds, [10, DAY],
        { Backend "timeouts.response" },
        "Kong read_timeout 60 s; HTTPRouteRule timeouts.backendRequest takes its place",
        "From the end of the request to the head of the response. Later: 504.";
    upstream_request_timeout: Duration = 0, Milliseconds, [0, DAY],
        { Backend "timeouts.request" },
        "Envoy route timeout 15 s, nginx and HAProxy none; HTTPRouteRule timeouts.request takes its place",
        "For a whole request, tries and response body included; `0s`: no bound. Later: 504.";
    upstream_body_timeout: Duration = 60_000, Milliseconds, [10, DAY],
        { Backend "timeouts.read" },
        "Kong read_timeout 60 s (between two reads)",
        "Longest wait for the next bytes of a response body. A call of gRPC may be quiet for `timeouts.tunnelIdle`.";
    linger_timeout: Duration = 2_000, Milliseconds, [0, MINUTE],
        { Gateway "connections.lingerTimeout" },
        "nginx lingering_timeout 5 s, RFC 9112 section 9.6",
        "How long what a client still sends is read and dropped after an answer that ends its connection; `0s`: not at all.";
    tunnel_idle_timeout: Duration = 3_600_000, Milliseconds, [100, WEEK],
        { Backend "timeouts.tunnelIdle" },
        "HAProxy timeout tunnel, 1 h in its guides; GRPCRoute has no time-outs, and nginx grpc_read_timeout and Envoy stream_idle_timeout have to be raised for quiet streams",
        "How long an upgraded connection or a call of gRPC may carry nothing in either direction.";
    retry_body_bytes: usize = 64 * 1024, Bytes, [0, 1 << 20],
        { Backend "retries.bodyBytes" },
        "nginx client_body_buffer_size and Envoy retries hold as much or more",
        "Part of a request body that is kept to be sent again. A longer body is sent once.";
    retry_attempts: usize = 2, Count, [0, 16],
        { Backend "retries.attempts" },
        "Kong retries 5, nginx bounded by its upstreams; a broken backend should not be asked for ever",
        "Endpoints tried after the first one could not be connected to or closed a reused connection before answering. Unless it is 0, those that refuse at once do not count: each is passed over for `health.retryDelay` then.";
    retry_backoff: Duration = 25, Milliseconds, [0, MINUTE],
        { Backend "retries.backoff" },
        "Envoy's base interval of 25 ms; HTTPRouteRetry.backoff takes its place",
        "Least wait before a request is tried again because its rule says so; `0s`: at once.";
    mirrors_at_once: usize = 1_024, Count, [0, 1_000_000],
        { Gateway "mirrors.atOnce" },
        "as waiting_requests_per_backend",
        "Mirrored requests of one worker under way. More are not copied.";
    mirror_body_bytes: usize = 4 * 1024 * 1024, Bytes, [0, 1 << 30],
        { Gateway "mirrors.bodyBytes" },
        "ours: what a fast client sends while a connection to the mirror is opened",
        "Bytes of one request body that wait for a mirror. One that is further behind is given up.";
    mirror_bytes: usize = 64 * 1024 * 1024, Bytes, [0, 1 << 40],
        { Gateway "mirrors.allBodiesBytes" },
        "ours: as the buffers that a worker keeps",
        "Bytes of all request bodies of one worker that wait for mirrors. A mirror that would need more is given up.";
    mirror_timeout: Duration = 60_000, Milliseconds, [10, DAY],
        { Gateway "mirrors.timeout" },
        "as upstream_response_timeout",
        "For one mirrored request, from its head to the end of the answer that nobody reads.";
    auth_timeout: Duration = 5_000, Milliseconds, [10, HOUR],
        { Gateway "authorization.timeout" },
        "ours: a request should not wait longer to be told no; Envoy ext_authz 200 ms is too short for a cold start",
        "For an authorisation server's word. Later: 503.";
    auth_body_bytes: usize = 1024 * 1024, Bytes, [0, 1 << 30],
        { Gateway "authorization.bodyBytes" },
        "HTTPExternalAuthFilter forwardBody.maxSize up to this; Envoy's examples 8 KiB",
        "Largest request body that is held for an authorisation server, whatever a route says. Larger: 413.";
    auth_bytes: usize = 64 * 1024 * 1024, Bytes, [0, 1 << 40],
        { Gateway "authorization.allBodiesBytes" },
        "ours: as mirror_bytes",
        "Bytes of all request bodies of one worker that are held for authorisation servers. A request that would need more: 503.";
    auth_answer_bytes: usize = 64 * 1024, Bytes, [0, 1 << 24],
        { Gateway "authorization.answerBytes" },
        "as head_bytes",
        "Largest body of an authorisation server's answer that is passed to the client. A larger one is left out.";
    interim_responses: usize = 16, Count, [0, 1_000],
        { Backend "responses.interim" },
        "RFC 9110 section 15.2 (zero or more); ours",
        "Most 1xx answers of a backend to one request.";
    client_connections: usize = 20_000, Count, [1, 10_000_000],
        { Gateway "connections.atOnce" },
        "Envoy's edge guide asks for a bound; two sockets each stay under a usual limit of 65,536 files",
        "Connections of clients to one process. More wait in the kernel's queue.";
    upstream_connections_per_endpoint: usize = 1_024, Count, [1, 1_000_000],
        { Backend "pool.connectionsPerEndpoint" },
        "Envoy circuit breaker max_connections 1024",
        "Connections of one worker to one endpoint.";
    upstream_idle_per_endpoint: usize = 64, Count, [0, 1_000_000],
        { Backend "pool.idlePerEndpoint" },
        "nginx keepalive 32 to 64 in its guides; Kong upstream_keepalive_pool_size 512 for a whole pool",
        "Idle connections that one worker keeps to one endpoint.";
    upstream_idle_timeout: Duration = 50_000, Milliseconds, [10, DAY],
        { Backend "pool.idleTimeout" },
        "below the 60 s after which many backends close; Kong upstream_keepalive_idle_timeout 60 s",
        "How long an idle connection to an endpoint is kept.";
    waiting_requests_per_backend: usize = 1_024, Count, [0, 1_000_000],
        { Backend "pool.waitingRequests" },
        "Envoy circuit breaker max_pending_requests 1024",
        "Requests of one worker that wait for a connection or for an endpoint of one backend. More: 503.";
    endpoint_hold: Duration = 1_000, Milliseconds, [0, HOUR],
        { Backend "hold.duration" },
        "ours: bridges the moment in which a rollout flips a selector",
        "How long requests wait for a backend that had endpoints a moment ago, before 503; `0s`: they do not wait.";
    endpoint_retry_delay: Duration = 1_000, Milliseconds, [0, HOUR],
        { Backend "health.retryDelay" },
        "ours: short enough to notice a recovery at once, long enough not to dial a dead address for each request",
        "How long an endpoint that could not be connected to is passed over while others can; `0s`: it is not.";
    client_hello_bytes: usize = 16 * 1024, Bytes, [1_024, 65_536],
        { Gateway "tls.clientHelloBytes" },
        "Envoy tls_inspector max_client_hello_size 16 KiB; hellos of the day have 2 KiB",
        "Largest ClientHello. Larger: the connection is closed.";
    tls_handshake_timeout: Duration = 10_000, Milliseconds, [100, HOUR],
        { Gateway "tls.handshakeTimeout" },
        "HAProxy timeout client-hs, 10 s in its guides; Envoy transport_socket_connect_timeout in its edge guide 10 s",
        "From the first look at a connection to a TLS listener until hands are shaken.";
    stream_idle_timeout: Duration = 3_600_000, Milliseconds, [100, WEEK],
        { Backend "timeouts.streamIdle" },
        "Envoy tcp_proxy idle_timeout 1 h",
        "How long a TCP or TLS stream may carry nothing in either direction.";
    udp_idle_timeout: Duration = 60_000, Milliseconds, [10, WEEK],
        { Backend "timeouts.datagramIdle" },
        "Envoy udp_proxy idle_timeout 1 min",
        "How long a UDP flow may carry nothing in either direction before it is forgotten.";
    udp_flows: usize = 10_000, Count, [1, 1_000_000],
        { Gateway "datagrams.flows" },
        "Envoy circuit breaker max_connections 1024 for a cluster; a socket each, under a usual limit of 65,536 files",
        "UDP flows of one port, over all workers. Datagrams that would begin more are dropped.";
    listener_drain_timeout: Duration = 30_000, Milliseconds, [0, DAY],
        { Gateway "drain.listenerTimeout" },
        "as drain_timeout: what is under way gets the time that a shutdown would give it",
        "How long connections go on after the listener that they came through is gone; `0s`: they end with it.";
    drain_delay: Duration = 5_000, Milliseconds, [0, HOUR],
        { Gateway "drain.delay" },
        "ours: time for load balancers to see that we are not ready",
        "How long connections are still accepted after a signal to end; `0s`: no longer than what waits already.";
    drain_timeout: Duration = 30_000, Milliseconds, [0, DAY],
        { Gateway "drain.timeout" },
        "Kubernetes terminationGracePeriodSeconds 30",
        "How long requests under way may take after that; `0s`: they are cut off.";
    http2_streams: usize = 100, Count, [1, 1_000_000],
        { Gateway "http2.streams" },
        "RFC 9113 section 5.1.2 (not below 100); HAProxy 100, nginx 128, Envoy's edge guide 100",
        "Most requests at a time on one HTTP/2 connection of a client.";
    http2_stream_window_bytes: usize = 256 * 1024, Bytes, [65_535, (1 << 31) - 1],
        { Gateway "http2.streamWindowBytes", Backend "http2.streamWindowBytes" },
        "RFC 9113 section 6.9.2 (64 KiB to begin with); four times that lets one upload fill a longer path",
        "Bytes of one request or response body that a peer may send before we have passed them on.";
    http2_connection_window_bytes: usize = 1024 * 1024, Bytes, [65_535, (1 << 31) - 1],
        { Gateway "http2.connectionWindowBytes" },
        "Envoy's edge guide initial_connection_window_size 1 MiB",
        "Bytes of all request bodies of one client's HTTP/2 connection that may come before we have passed them on. Where many users share a connection (endpoints, trusted proxies) it is one stream's window for each stream, so that none stops another.";
    http2_small_data_bytes: usize = 4 * 1024 * 1024, Bytes, [1_024, 1 << 30],
        { Gateway "http2.smallDataBytes" },
        "CVE-2019-9511 and its like; one stream's window in messages of 16 bytes, each counted as 256",
        "What the bookkeeping of small DATA frames that wait may cost on one client's connection; for each stream on one of a trusted proxy. More: ENHANCE_YOUR_CALM. Endpoints: bounded by the streams' windows alone.";
    http2_header_table_bytes: usize = 4_096, Bytes, [0, 65_536],
        { Gateway "http2.headerTableBytes", Backend "http2.headerTableBytes" },
        "RFC 9113 section 6.5.2 (what it is to begin with)",
        "Size of the table by which a peer compresses its heads.";
    http2_frame_bytes: usize = 16 * 1024, Bytes, [16_384, (1 << 24) - 1],
        { Gateway "http2.frameBytes", Backend "http2.frameBytes" },
        "RFC 9113 section 6.5.2 (the least that may be set)",
        "Largest frame that we take.";
    http2_send_buffer_bytes: usize = 128 * 1024, Bytes, [16_384, 1 << 30],
        { Gateway "http2.sendBufferBytes", Backend "http2.sendBufferBytes" },
        "ours: two read buffers; the h2 crate's own is 400 KiB",
        "Bytes of one stream that wait to be written to its connection.";
    http2_pending_resets: usize = 20, Count, [1, 100_000],
        { Gateway "http2.pendingResets" },
        "CVE-2023-44487; the h2 crate's own",
        "Requests that a client has reset before we looked at them. More: the connection is closed with ENHANCE_YOUR_CALM.";
    http2_premature_resets: usize = 200, Count, [1, 1_000_000],
        { Gateway "http2.prematureResets" },
        "CVE-2023-44487; Envoy premature_reset_total_stream_count 500",
        "Requests that a client has reset within a second and before their answer began, when they are more than half of its requests; both counts are halved each minute. More: ENHANCE_YOUR_CALM.";
    http2_requests_under_way: usize = 400, Count, [1, 1_000_000],
        { Gateway "http2.requestsUnderWay" },
        "ours: four times http2_streams; a request that was reset while it waits needs a moment to end",
        "Most requests of one connection that have not ended, those included that the client has given up. More: ENHANCE_YOUR_CALM.";
    http2_local_resets: usize = 1_024, Count, [1, 1_000_000],
        { Gateway "http2.localResets" },
        "CVE-2025-8671; the h2 crate's own",
        "Streams that a client made us reset by breaking the protocol. More: the connection is closed. Of endpoints they are not counted: what is late for a stream that was given up would be among them.";
    http2_reset_streams: usize = 50, Count, [0, 1_000_000],
        { Gateway "http2.resetStreams", Backend "http2.resetStreams" },
        "RFC 9113 section 5.4.2; the h2 crate's own",
        "Streams reset by us whose late frames are still ignored; towards endpoints as many as there may be streams, if that is more.";
    http2_reset_hold: Duration = 1_000, Milliseconds, [0, MINUTE],
        { Gateway "http2.resetHold", Backend "http2.resetHold" },
        "RFC 9113 section 5.4.2; the h2 crate's own",
        "How long late frames of a stream that we reset are ignored; `0s`: not at all.";
    http2_control_frames: usize = 1_000, Count, [10, 1_000_000],
        { Gateway "http2.controlFrames" },
        "CVE-2019-9511 to 9518; nginx closes when frames without payload outweigh the rest",
        "Frames of a client in a minute that carry no part of a message, beyond one for each that does and each KiB sent to it, and three for each piece of an answer. More: ENHANCE_YOUR_CALM.";
    http2_keepalive_delay: Duration = 30_000, Milliseconds, [100, DAY],
        { Gateway "http2.keepaliveDelay", Backend "http2.keepaliveDelay" },
        "Envoy connection_keepalive.interval 30 s in its guides",
        "How long a peer may be silent while requests are under way before it is asked for a sign of life (PING).";
    upstream_http2_keepalive_pause: Duration = 360_000, Milliseconds, [0, DAY],
        { Backend "http2.keepalivePause" },
        "gRPC servers close after three PINGs that come within 5 min with nothing said in between (grpc-go EnforcementPolicy.MinTime)",
        "Shortest time between two such questions to an endpoint that has sent no part of a message in between; `0s`: only `http2.keepaliveDelay` counts.";
    http2_keepalive_timeout: Duration = 20_000, Milliseconds, [100, HOUR],
        { Gateway "http2.keepaliveTimeout", Backend "http2.keepaliveTimeout" },
        "gRPC keepalive timeout 20 s",
        "How long a peer may take to answer that. Later: the connection is closed.";
    upstream_http2_connections: usize = 16, Count, [1, 100_000],
        { Backend "http2.connectionsPerEndpoint" },
        "ours: with 100 streams each as many requests as there may be HTTP/1 connections",
        "HTTP/2 connections of one worker to one endpoint; another is opened when all are full.";
    upstream_http2_streams: usize = 100, Count, [1, 1_000_000],
        { Backend "http2.streams" },
        "RFC 9113 section 5.1.2; Envoy max_concurrent_streams 100 in its guides",
        "Most requests at a time on one HTTP/2 connection to an endpoint, or fewer if it says so.";
    accept_pause: Duration = 100, Milliseconds, [1, MINUTE],
        { Gateway "connections.acceptPause" },
        "ours: when the process is out of files, trying again at once only burns time",
        "Pause after a failed accept.";
}

impl Limits {
    /// Every limit with unit, default, range, fields, source and meaning.
    pub fn table() -> &'static [LimitRow] {
        Limits::ROWS
    }

    /// The row of a name.
    pub fn row(name: &str) -> Option<&'static LimitRow> {
        Limits::ROWS.iter().find(|row| row.name == name)
    }

    /// These limits with what is set of one side. A name that this release does not know, or that is of the other side, has no
    /// effect; a number out of range is the nearest in it: whoever set it has been told.
    pub fn with(&self, side: Side, settings: &[LimitSetting]) -> Limits {
        let mut limits = self.clone();
        for setting in settings {
            if let Some(row) = Limits::row(&setting.name).filter(|row| row.field(side).is_some()) {
                limits.set(row.name, setting.value.clamp(row.least, row.most));
            }
        }
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_the_struct_say_the_same() {
        let limits = Limits::default();
        let defaults: Vec<u64> = Limits::table().iter().map(|row| row.default).collect();
        assert_eq!(limits.values(), defaults);
        let mut changed = limits.clone();
        for (index, row) in Limits::table().iter().enumerate() {
            assert!(changed.set(row.name, row.default + 7), "{}", row.name);
            assert_eq!(changed.values()[index], row.default + 7, "{}", row.name);
            assert!(!row.meaning.is_empty() && !row.source.is_empty());
        }
        assert!(!changed.set("no_such_limit", 1));
    }

    #[test]
    fn every_limit_has_a_range_and_one_field_for_a_side() {
        let mut fields = std::collections::BTreeSet::new();
        for row in Limits::table() {
            assert!(row.least <= row.default && row.default <= row.most, "{}", row.name);
            assert!(i64::try_from(row.most).is_ok(), "{} has to fit an API's integer", row.name);
            assert!(!row.fields.is_empty(), "{}", row.name);
            for (side, path) in row.fields {
                assert!(fields.insert((side, path)), "{path} is there twice");
                let (group, field) = path.split_once('.').unwrap();
                assert!(!group.is_empty() && !field.is_empty() && !field.contains('.'), "{path}");
                let says_bytes = field.ends_with("Bytes");
                assert_eq!(says_bytes, row.unit == Unit::Bytes, "{path}");
            }
        }
    }

    #[test]
    fn settings_of_the_other_side_and_of_nobody_have_no_effect() {
        let set = |name: &str, value| LimitSetting { name: name.to_owned(), value };
        let settings = [
            set("head_bytes", 2_048),
            set("requests_per_connection", 7),
            set("endpoint_hold", u64::MAX),
            set("of_a_newer_release", 1),
        ];
        let (base, gateway) = (Limits::default(), Limits::default().with(Side::Gateway, &settings));
        assert_eq!((gateway.head_bytes, gateway.requests_per_connection), (2_048, 7));
        assert_eq!(gateway.endpoint_hold, base.endpoint_hold);
        let backend = base.with(Side::Backend, &settings);
        assert_eq!((backend.head_bytes, backend.requests_per_connection), (2_048, 100_000));
        assert_eq!(
            backend.endpoint_hold,
            Duration::from_millis(HOUR),
            "out of range is the end of the range"
        );
    }

    #[test]
    fn times_are_milliseconds_and_the_rest_is_not() {
        for row in Limits::table() {
            let is_time = ["_timeout", "_hold", "_delay", "_pause", "_backoff"]
                .iter()
                .any(|end| row.name.ends_with(end));
            assert_eq!(row.unit == Unit::Milliseconds, is_time, "{}", row.name);
            assert_eq!(row.unit == Unit::Bytes, row.name.ends_with("_bytes"), "{}", row.name);
        }
    }
}

//! What a data plane is started with.

use std::path::PathBuf;
use std::sync::Arc;

use weir_model::limits::Limits;
use weir_model::network::Network;

use crate::access_log::AccessSink;
use crate::session::SessionKey;

/// The settings of one data plane; they do not change while it runs. Limits, trusted peers, access log and session key hold where
/// parameters of a Gateway say nothing else.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Worker threads; `None` for as many as the process may run on at once.
    pub workers: Option<usize>,
    /// Of the splits' phases. The same seed gives the same choices.
    pub seed: u64,
    pub limits: Limits,
    /// Peers that may say on whose behalf they speak (`X-Forwarded-*`, `X-Real-IP`, request ids). Default: none.
    pub trusted: Vec<Network>,
    /// Where the right to bind a port `p` under 1024 is missing, bind the first free of `p + 8000`, `p + 18000`, ...
    pub low_port_fallback: bool,
    pub access_log: AccessLog,
    pub headers: HeaderTokens,
    /// What session tokens are sealed with where a Gateway names no key. `None` for a random one: then sessions end with the process.
    pub session_key: Option<SessionKey>,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        ProxyConfig {
            workers: None,
            seed: 0,
            limits: Limits::default(),
            trusted: Vec::new(),
            low_port_fallback: false,
            access_log: AccessLog::Off,
            headers: HeaderTokens::default(),
            session_key: None,
        }
    }
}

/// What the proxy adds to responses about itself (Kong's `headers` setting).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderTokens {
    /// `Via` on proxied responses, `Server` on its own.
    pub server: bool,
    /// `X-Kong-Upstream-Latency` and `X-Kong-Proxy-Latency` on proxied responses, `X-Kong-Response-Latency` on its own.
    pub latency: bool,
    /// `X-Kong-Request-Id` on proxied requests and responses.
    pub request_id: bool,
}

impl Default for HeaderTokens {
    fn default() -> Self {
        HeaderTokens { server: true, latency: true, request_id: true }
    }
}

/// Where a line for each request goes.
#[derive(Clone, Default)]
pub enum AccessLog {
    #[default]
    Off,
    /// JSON lines on standard output.
    Stdout,
    /// JSON lines appended to a file.
    File(PathBuf),
    /// Called in the worker's thread: must be quick.
    Sink(Arc<dyn AccessSink>),
}

impl std::fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AccessLog::Off => f.write_str("Off"),
            AccessLog::Stdout => f.write_str("Stdout"),
            AccessLog::File(path) => f.debug_tuple("File").field(path).finish(),
            AccessLog::Sink(_) => f.write_str("Sink"),
        }
    }
}

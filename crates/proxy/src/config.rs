//! What a data plane is started with.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use weir_model::limits::Limits;

use crate::access_log::AccessSink;
use crate::session::SessionKey;

/// The settings of one data plane; they do not change while it runs.
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
    /// What session tokens are sealed with. `None` for a random one: then sessions end with the process.
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

/// An IP network, as `10.0.0.0/8`; a bare address is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an IP network such as 10.0.0.0/8 or fd00::/8")]
pub struct NetworkError(String);

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Network, NetworkError> {
        let error = || NetworkError(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| error())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        match bits.unwrap_or(most) {
            bits if bits <= most => Ok(Network { address, prefix_bits: bits }),
            _ => Err(error()),
        }
    }
}

impl Network {
    /// Whether `address` (IPv4-mapped addresses count as IPv4) belongs to the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (ours, theirs) = match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (u128::from(u32::from(a)) << 96, u128::from(u32::from(b)) << 96)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a), u128::from(b)),
            _ => return false,
        };
        self.prefix_bits == 0 || (ours ^ theirs) >> (128 - u32::from(self.prefix_bits)) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_they_say() {
        let network = |text: &str| text.parse::<Network>().unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(network("10.0.0.0/8").contains(ip("10.255.0.1")));
        assert!(network("10.0.0.0/8").contains(ip("::ffff:10.1.2.3")));
        assert!(!network("10.0.0.0/8").contains(ip("11.0.0.1")));
        assert!(network("127.0.0.1").contains(ip("127.0.0.1")));
        assert!(!network("127.0.0.1").contains(ip("127.0.0.2")));
        assert!(network("fd00::/8").contains(ip("fd12::1")));
        assert!(!network("fd00::/8").contains(ip("fe80::1")));
        assert!(network("0.0.0.0/0").contains(ip("8.8.8.8")));
        assert!(!network("0.0.0.0/0").contains(ip("::1")));
        for bad in ["", "x", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}

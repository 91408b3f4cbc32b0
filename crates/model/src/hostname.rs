//! Hostnames: what a listener or an attachment says, what a request asks for, and which is the most specific.
//!
//! Rules (Gateway API, `Hostname` and HTTPRoute `hostnames`): comparison ignores case; `*.example.com` matches one or
//! more labels before `.example.com` and never `example.com` itself; an exact name beats every wildcard, a longer
//! wildcard beats a shorter one, any wildcard beats "any host". A trailing dot of the request's host is ignored.
//! A request whose host is an IP literal, empty or longer than a DNS name matches "any host" only.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::bytemap::ByteMap;

/// Bytes. RFC 1035 section 2.3.4, in text form without the trailing dot.
pub const MAX_HOSTNAME_BYTES: usize = 253;

/// A hostname as configured.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hostname {
    Any,
    /// Lower case.
    Exact(Arc<[u8]>),
    /// Lower case, with the leading dot and without the star: `.example.com`.
    Wildcard(Arc<[u8]>),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{hostname}` is not a hostname: {reason}")]
pub struct HostnameError {
    pub hostname: String,
    pub reason: &'static str,
}

impl Hostname {
    /// Empty for any host, `*.example.com` for a wildcard, else a DNS name.
    pub fn parse(text: &str) -> Result<Hostname, HostnameError> {
        if text.is_empty() {
            return Ok(Hostname::Any);
        }
        let error = |reason| HostnameError { hostname: text.to_owned(), reason };
        let lower = text.to_ascii_lowercase();
        let (name, wildcard) = match lower.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (lower.as_str(), false),
        };
        if lower.len() > MAX_HOSTNAME_BYTES {
            return Err(error("longer than 253 bytes"));
        }
        for label in name.split('.') {
            if label.is_empty() {
                return Err(error("an empty label"));
            }
            if label.len() > 63 {
                return Err(error("a label longer than 63 bytes"));
            }
            if !label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
                return Err(error("a character that is not a letter, digit or hyphen"));
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(error("a label that begins or ends with a hyphen"));
            }
        }
        if is_ip_literal(name.as_bytes()) {
            return Err(error("an IP address"));
        }
        Ok(if wildcard {
            Hostname::Wildcard(Arc::from(&lower.as_bytes()[1..]))
        } else {
            Hostname::Exact(Arc::from(name.as_bytes()))
        })
    }

    /// Whether a request for `host` (as [`RequestHost::bytes`]) is served under this name.
    pub fn matches(&self, host: &RequestHost<'_>) -> bool {
        match (self, host.bytes()) {
            (Hostname::Any, _) => true,
            (_, None) => false,
            (Hostname::Exact(name), Some(host)) => **name == *host,
            (Hostname::Wildcard(suffix), Some(host)) => host.len() > suffix.len() && host.ends_with(suffix),
        }
    }
}

/// As configured: empty for any, `*.example.com` for a wildcard.
impl std::fmt::Display for Hostname {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Hostname::Any => Ok(()),
            Hostname::Exact(name) => f.write_str(&String::from_utf8_lossy(name)),
            Hostname::Wildcard(suffix) => write!(f, "*{}", String::from_utf8_lossy(suffix)),
        }
    }
}

/// The host of a request, ready for comparison: lower case, without a trailing dot. Never allocates.
pub struct RequestHost<'h>(Ready<'h>);

#[expect(
    clippy::large_enum_variant,
    reason = "a box would be an allocation for each request of a client that writes capitals"
)]
enum Ready<'h> {
    /// Only "any host" can match.
    Any,
    /// As the client wrote it: nearly always in lower case.
    AsSent(&'h [u8]),
    Lowered {
        buffer: [u8; MAX_HOSTNAME_BYTES],
        length: usize,
    },
}

impl<'h> RequestHost<'h> {
    /// `host` is the request's host without its port.
    #[inline]
    pub fn new(host: &'h [u8]) -> RequestHost<'h> {
        let host = host.strip_suffix(b".").unwrap_or(host);
        if host.is_empty() || host.len() > MAX_HOSTNAME_BYTES || is_ip_literal(host) {
            return RequestHost(Ready::Any);
        }
        if host.iter().any(u8::is_ascii_uppercase) {
            return RequestHost::lowered(host);
        }
        RequestHost(Ready::AsSent(host))
    }

    #[cold]
    fn lowered(host: &[u8]) -> RequestHost<'h> {
        let mut buffer = [0; MAX_HOSTNAME_BYTES];
        let lower = &mut buffer[..host.len()];
        lower.copy_from_slice(host);
        lower.make_ascii_lowercase();
        RequestHost(Ready::Lowered { buffer, length: host.len() })
    }

    /// `None` when only "any host" can match.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.0 {
            Ready::Any => None,
            Ready::AsSent(host) => Some(host),
            Ready::Lowered { buffer, length } => Some(&buffer[..*length]),
        }
    }
}

/// IPv4 in dotted form, or IPv6 (with or without brackets: a name has no colon).
fn is_ip_literal(host: &[u8]) -> bool {
    match host {
        [b'[', ..] => true,
        [.., b'0'..=b'9'] if is_dotted_quad(host) => true,
        _ => memchr::memchr(b':', host).is_some(),
    }
}

/// Four numbers up to 255, without leading zeros, and nothing else: what the standard library reads as an IPv4 address.
fn is_dotted_quad(host: &[u8]) -> bool {
    let (mut dots, mut digits, mut value) = (0, 0, 0_u32);
    for byte in host {
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 {
            value = value * 10 + u32::from(digit);
            // What follows a zero that begins a number, or makes it too large.
            if value > 255 || (digits > 0 && value < 10) {
                return false;
            }
            digits += 1;
        } else {
            if *byte != b'.' || digits == 0 {
                return false;
            }
            dots += 1;
            (digits, value) = (0, 0);
        }
    }
    dots == 3 && digits > 0
}

/// Values by configured hostname, found by a request's host from the most specific to the least.
#[derive(Clone)]
pub(crate) struct HostMap<V> {
    exact: ByteMap<V>,
    wildcard: ByteMap<V>,
    any: Option<V>,
}

impl<V> Default for HostMap<V> {
    fn default() -> Self {
        HostMap { exact: ByteMap::default(), wildcard: ByteMap::default(), any: None }
    }
}

impl<V: Clone> HostMap<V> {
    pub(crate) fn is_empty(&self) -> bool {
        self.any.is_none() && self.exact.is_empty() && self.wildcard.is_empty()
    }

    /// The first value for which `visit` answers, from the most specific hostname that matches to the least.
    pub(crate) fn most_specific_first<'a, R>(
        &'a self,
        host: &RequestHost<'_>,
        mut visit: impl FnMut(&'a V) -> Option<R>,
    ) -> Option<R> {
        if let Some(host) = host.bytes() {
            if !self.exact.is_empty()
                && let Some(found) = self.exact.get(host).and_then(&mut visit)
            {
                return Some(found);
            }
            if !self.wildcard.is_empty() {
                // From the second byte on: at least one byte stands where the star is.
                for dot in memchr::memchr_iter(b'.', host).filter(|&dot| dot > 0) {
                    if let Some(found) = self.wildcard.get(&host[dot..]).and_then(&mut visit) {
                        return Some(found);
                    }
                }
            }
        }
        self.any.as_ref().and_then(visit)
    }

    pub(crate) fn get(&self, name: &Hostname) -> Option<&V> {
        match name {
            Hostname::Any => self.any.as_ref(),
            Hostname::Exact(key) => self.exact.get(key),
            Hostname::Wildcard(key) => self.wildcard.get(key),
        }
    }

    pub(crate) fn get_mut(&mut self, name: &Hostname) -> Option<&mut V> {
        match name {
            Hostname::Any => self.any.as_mut(),
            Hostname::Exact(key) => self.exact.get_mut(key),
            Hostname::Wildcard(key) => self.wildcard.get_mut(key),
        }
    }

    pub(crate) fn insert(&mut self, name: &Hostname, value: V) {
        match name {
            Hostname::Any => self.any = Some(value),
            Hostname::Exact(key) => self.exact.insert(key.clone(), value),
            Hostname::Wildcard(key) => self.wildcard.insert(key.clone(), value),
        }
    }

    pub(crate) fn remove(&mut self, name: &Hostname) {
        match name {
            Hostname::Any => self.any = None,
            Hostname::Exact(key) => self.exact.remove(key),
            Hostname::Wildcard(key) => self.wildcard.remove(key),
        }
    }

    /// In no particular order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.exact.values().chain(self.wildcard.values()).chain(self.any.iter())
    }
}

/// The hostnames of an attachment, each once, in the order given.
pub(crate) fn parse_all(texts: &[String]) -> Result<SmallVec<[Hostname; 1]>, HostnameError> {
    let mut names: SmallVec<[Hostname; 1]> = SmallVec::new();
    for text in texts {
        let name = Hostname::parse(text)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visited(names: &[&str], host: &str) -> Vec<String> {
        let mut map = HostMap::default();
        for name in names {
            map.insert(&Hostname::parse(name).unwrap(), (*name).to_owned());
        }
        let mut order = Vec::new();
        let none: Option<()> = map.most_specific_first(&RequestHost::new(host.as_bytes()), |v| {
            order.push(v.clone());
            None
        });
        assert_eq!(none, None);
        order
    }

    #[test]
    fn exact_then_longest_wildcard_then_any() {
        let names = ["", "*.com", "*.example.com", "a.example.com", "*.b.example.com"];
        assert_eq!(visited(&names, "A.Example.COM"), ["a.example.com", "*.example.com", "*.com", ""]);
        assert_eq!(visited(&names, "x.y.b.example.com."), ["*.b.example.com", "*.example.com", "*.com", ""]);
        assert_eq!(visited(&names, "b.example.com"), ["*.example.com", "*.com", ""]);
        assert_eq!(visited(&names, "example.org"), [""]);
    }

    #[test]
    fn a_wildcard_never_matches_the_bare_domain_nor_an_empty_label() {
        assert!(visited(&["*.example.com"], "example.com").is_empty());
        assert!(visited(&["*.example.com"], ".example.com").is_empty());
        assert!(visited(&["*.example.com"], "xexample.com").is_empty());
    }

    #[test]
    fn a_dotted_quad_is_what_the_standard_library_reads_as_one() {
        let parts =
            ["0", "00", "01", "1", "9", "25", "255", "256", "999", "1000", "", "a", "4294967296", "1a"];
        for a in parts {
            for b in parts {
                for text in [
                    format!("{a}.{b}.1.2"),
                    format!("1.2.{a}.{b}"),
                    format!("{a}.{b}"),
                    format!("{a}.1.2.3.{b}"),
                    format!("{a}.2.3.{b}."),
                ] {
                    let expected = text.parse::<std::net::Ipv4Addr>().is_ok();
                    assert_eq!(is_dotted_quad(text.as_bytes()), expected, "{text}");
                }
            }
        }
    }

    #[test]
    fn ip_literals_and_oversized_hosts_match_any_host_only() {
        let long = "a.".repeat(200);
        for host in ["127.0.0.1", "[::1]", "::1", "", ".", long.as_str()] {
            assert_eq!(visited(&["", "*.1", "*.0.1", "*.a"], host), [""], "{host}");
        }
        assert_eq!(visited(&["", "*.1"], "a.1"), ["*.1", ""]);
    }

    #[test]
    fn what_is_not_a_hostname_is_refused() {
        for bad in ["*", "*.", "a..b", "-a", "a-", "a_b", "a.*.b", "10.0.0.1", "exämple.com", "a b", ".a"] {
            assert!(Hostname::parse(bad).is_err(), "{bad}");
        }
        assert!(Hostname::parse(&"a".repeat(64)).is_err());
        assert_eq!(Hostname::parse("A.b").unwrap(), Hostname::Exact(Arc::from(&b"a.b"[..])));
    }

    #[test]
    fn matches_agrees_with_the_map() {
        for (name, host, expected) in [
            ("", "x", true),
            ("a.b", "A.B.", true),
            ("*.b", "a.b", true),
            ("*.b", "b", false),
            ("*.b", ".b", false),
            ("a.b", "1.2.3.4", false),
        ] {
            let name = Hostname::parse(name).unwrap();
            assert_eq!(name.matches(&RequestHost::new(host.as_bytes())), expected, "{name:?} {host}");
        }
    }

    #[test]
    fn a_removed_name_is_gone() {
        let mut map = HostMap::default();
        for name in ["", "*.a", "b.a"] {
            let name = Hostname::parse(name).unwrap();
            map.insert(&name, 1);
            *map.get_mut(&name).unwrap() = 2;
            assert_eq!(map.get(&name), Some(&2));
        }
        assert_eq!(map.values().count(), 3);
        for name in ["", "*.a", "b.a"] {
            map.remove(&Hostname::parse(name).unwrap());
        }
        assert!(map.is_empty());
    }
}

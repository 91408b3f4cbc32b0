//! One request to one rule.
//!
//! 1. **Listener.** Of the bind's listener groups the one with the most specific hostname that matches the request's host,
//!    and no other: a request that it has no route for is not tried elsewhere (listener isolation).
//! 2. **Hostname.** In that group, the hostnames under which routes are attached, most specific first. Where no rule of
//!    one matches, the next is tried.
//! 3. **Path.** Exact, then regular expression (longest pattern first; the API leaves its place to implementations), then prefix
//!    (longest first). Candidates that fail on another condition fall through to the next. A gRPC method is `/<service>/<method>`, so
//!    that these are its exact name, an expression, and its service; the method of any service comes before the prefix `/`.
//! 4. **At one path**, the API's order: a method, the most headers, the most query parameters, the oldest
//!    route, its `<namespace>/<name>`, the first rule, the first alternative.
//!
//! What is compared:
//! - Paths as [`crate::path::normalise`] leaves them; prefixes by whole segments.
//! - Methods byte by byte.
//! - Header values exactly. Values of a repeated header are joined by `,` (RFC 9110 section 5.3).
//! - Query parameters by their decoded name and value: percent-encodings are decoded, `+` is not (RFC 3986 knows no such
//!   encoding); the first of equal names counts.
//!
//! Invariants: no allocation, except for a regular expression against a repeated header or an encoded parameter; no work
//! that grows with the number of hostnames or paths.

use std::borrow::Cow;
use std::sync::Arc;

use crate::bytemap::ByteMap;
use crate::hostname::{Hostname, RequestHost};
use crate::table::{
    Authority, BindKind, BindTable, Candidates, CompiledListener, CompiledMatch, CompiledRule, Depth,
    HostTable, ListenerGroup, MatchEntry, PathPattern, ValueCondition, ValuePattern,
};

/// What selection looks at.
#[derive(Clone, Copy)]
pub struct RequestView<'a> {
    pub method: &'a [u8],
    /// Without the port; any case. An IPv6 literal in brackets.
    pub host: &'a [u8],
    /// As [`crate::path::normalise`] leaves it.
    pub path: &'a [u8],
    /// Without the question mark.
    pub query: Option<&'a [u8]>,
    pub headers: &'a dyn Headers,
}

/// Header look-up, however the caller keeps them.
pub trait Headers {
    /// Calls `visit` with the value of each header of this name (lower case), in the order received.
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8]));
}

/// For requests without headers, and tests.
impl Headers for [(&str, &str)] {
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        for (_, value) in self.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)) {
            visit(value.as_bytes());
        }
    }
}

impl<const N: usize> Headers for [(&str, &str); N] {
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        self.as_slice().each(name, visit);
    }
}

impl Headers for Vec<(&str, &str)> {
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        self.as_slice().each(name, visit);
    }
}

/// The rule that answers a request. Borrowed from the table: clone the `rule` (and nothing larger) to keep it while the
/// request runs.
#[derive(Clone, Copy)]
pub struct Selected<'t> {
    pub rule: &'t Arc<CompiledRule>,
    /// Which of the rule's matches it was.
    pub alternative: usize,
    pub path_match: PathMatch,
    pub listener: &'t Arc<CompiledListener>,
}

/// How much of the path matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// All of it.
    Exact,
    /// This many bytes from the start; 0 for the prefix `/`. What follows is empty or begins with `/`.
    Prefix(usize),
    /// All of it: expressions are anchored at both ends.
    Regex,
}

/// Watches selection. Every method does nothing by default, and then costs nothing.
pub trait Probe {
    /// The request belongs to the listeners of this group.
    fn group(&mut self, _group: &ListenerGroup) {}
    /// No listener of the bind serves the host.
    fn no_group(&mut self) {}
    /// The host belongs to listeners that the connection does not belong to.
    fn misdirected(&mut self) {}
    /// An entry whose path may match was not taken.
    fn passed_over(&mut self, _entry: &MatchEntry, _reason: PassedOver<'_>) {}
    fn chosen(&mut self, _entry: &MatchEntry) {}
    /// The group has no rule for the request.
    fn no_rule(&mut self) {}
}

/// Why an entry was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassedOver<'a> {
    /// Another entry goes before it.
    Precedence,
    /// The regular expression does not match the path.
    Path,
    Method,
    /// The header of this name.
    Header(&'a str),
    /// The query parameter of this name.
    Query(&'a str),
}

/// The probe of the request path.
pub struct NoProbe;

impl Probe for NoProbe {}

/// The rule for a request, if there is one.
#[inline]
pub fn select<'t, P: Probe>(
    bind: &'t BindTable,
    request: &RequestView<'_>,
    probe: &mut P,
) -> Option<Selected<'t>> {
    let host = RequestHost::new(request.host);
    let Some(group) = bind.groups.most_specific_first(&host, Some) else {
        probe.no_group();
        return None;
    };
    in_group(group, &host, request, probe)
}

/// What becomes of a request over TLS.
#[derive(Clone, Copy)]
pub enum SelectedHttps<'t> {
    Rule(Selected<'t>),
    /// The host belongs to other listeners of the port than the connection does: 421.
    Misdirected,
    /// 404
    NotFound,
}

/// The rule for a request on a TLS connection that would be made now for `server_name`, if the connection may carry it
/// ([`BindTable::authority`]).
pub fn select_https<'t, P: Probe>(
    bind: &'t BindTable,
    server_name: Option<&[u8]>,
    request: &RequestView<'_>,
    probe: &mut P,
) -> SelectedHttps<'t> {
    in_authority(bind.authority(server_name, request.host), request, probe)
}

/// The rule for a request on a TLS connection that was made with the listeners of hostname `own`, if the connection may carry it
/// ([`BindTable::authority_on`]).
pub fn select_on<'t, P: Probe>(
    bind: &'t BindTable,
    own: &Hostname,
    request: &RequestView<'_>,
    probe: &mut P,
) -> SelectedHttps<'t> {
    in_authority(bind.authority_on(Some(own), request.host), request, probe)
}

#[inline]
fn in_authority<'t, P: Probe>(
    authority: Authority<'t>,
    request: &RequestView<'_>,
    probe: &mut P,
) -> SelectedHttps<'t> {
    match authority {
        Authority::Serve(group) => match in_group(group, &RequestHost::new(request.host), request, probe) {
            Some(selected) => SelectedHttps::Rule(selected),
            None => SelectedHttps::NotFound,
        },
        Authority::Misdirected => {
            probe.misdirected();
            SelectedHttps::Misdirected
        }
        Authority::NotFound => {
            probe.no_group();
            SelectedHttps::NotFound
        }
    }
}

#[inline(always)]
fn in_group<'t, P: Probe>(
    group: &'t ListenerGroup,
    host: &RequestHost<'_>,
    request: &RequestView<'_>,
    probe: &mut P,
) -> Option<Selected<'t>> {
    probe.group(group);
    let mut selected = group.hosts.most_specific_first(host, |table| in_host(table, request, probe));
    match &mut selected {
        Some(selected) => {
            if let Some(renewed) = group.renewed(selected.listener) {
                selected.listener = renewed;
            }
        }
        None => probe.no_rule(),
    }
    selected
}

/// The rule that a connection or flow belongs to. Borrowed from the table: clone the `rule` to keep it.
#[derive(Clone, Copy)]
pub struct SelectedL4<'t> {
    pub rule: &'t Arc<CompiledRule>,
    pub listener: &'t Arc<CompiledListener>,
}

/// The rule for a connection (TLS, TCP) or flow (UDP). The server name counts for TLS only: of the listeners that it leads to
/// ([`BindTable::by_sni`]), the most specific hostname of a route that matches it; of several routes the oldest, then
/// the first by name, gets everything.
pub fn select_l4<'t, P: Probe>(
    bind: &'t BindTable,
    server_name: Option<&[u8]>,
    probe: &mut P,
) -> Option<SelectedL4<'t>> {
    let Some((group, name)) = l4_group(bind, server_name) else {
        probe.no_group();
        return None;
    };
    probe.group(group);
    let entry = group.l4.most_specific_first(&name, |candidates| candidates.find(Some));
    let Some(entry) = entry else {
        probe.no_rule();
        return None;
    };
    probe.chosen(entry);
    Some(SelectedL4 {
        rule: &entry.rule,
        listener: group.renewed(&entry.listener).unwrap_or(&entry.listener),
    })
}

/// The listeners of a connection, and the name by which their routes are found.
pub(crate) fn l4_group<'t, 'n>(
    bind: &'t BindTable,
    server_name: Option<&'n [u8]>,
) -> Option<(&'t ListenerGroup, RequestHost<'n>)> {
    let (group, name) = match bind.kind() {
        BindKind::Tls => (bind.by_sni(server_name)?, server_name.unwrap_or_default()),
        BindKind::Tcp | BindKind::Udp => (bind.raw()?, &b""[..]),
        BindKind::Http => return None,
    };
    Some((group, RequestHost::new(name)))
}

fn in_host<'t, P: Probe>(
    table: &'t HostTable,
    request: &RequestView<'_>,
    probe: &mut P,
) -> Option<Selected<'t>> {
    if !table.exact.is_empty()
        && let Some(candidates) = table.exact.get(request.path)
        && let Some(selected) = first_match(candidates, request, probe)
    {
        return Some(selected);
    }
    if !table.regex.is_empty()
        && let Some(selected) = first_match(&table.regex, request, probe)
    {
        return Some(selected);
    }
    match &table.methods {
        None => by_prefix(table, &table.prefix_depths, request, probe),
        Some(methods) => by_prefix_and_method(table, methods, request, probe),
    }
}

/// Where there are gRPC methods of any service. Out of the way of everybody else.
#[cold]
fn by_prefix_and_method<'t, P: Probe>(
    table: &'t HostTable,
    methods: &'t ByteMap<Candidates>,
    request: &RequestView<'_>,
    probe: &mut P,
) -> Option<Selected<'t>> {
    // The prefix `/`, which is the last, comes after the methods.
    let named = table.prefix_depths.partition_point(|depth| depth.segments > 0);
    let (named, root) = table.prefix_depths.split_at(named);
    by_prefix(table, named, request, probe)
        .or_else(|| first_match(methods.get(grpc_method(request.path)?)?, request, probe))
        .or_else(|| by_prefix(table, root, request, probe))
}

/// The second of exactly two segments.
fn grpc_method(path: &[u8]) -> Option<&[u8]> {
    let rest = path.strip_prefix(b"/")?;
    let method = &rest[memchr::memchr(b'/', rest)? + 1..];
    memchr::memchr(b'/', method).is_none().then_some(method)
}

/// The longest prefix of one of these depths that takes the request.
#[inline(always)]
fn by_prefix<'t, P: Probe>(
    table: &'t HostTable,
    depths: &[Depth],
    request: &RequestView<'_>,
    probe: &mut P,
) -> Option<Selected<'t>> {
    let path = request.path;
    if path.first() != Some(&b'/') {
        return None;
    }
    let mut depths = depths.iter();
    let mut depth = depths.next()?;
    // The end of the first `most` segments, or of the path where it has fewer.
    let (mut end, mut segments) = first_segments(path, depth.segments);
    loop {
        // Prefixes with more segments than this cannot match.
        while depth.segments > segments {
            depth = depths.next()?;
        }
        while segments > depth.segments {
            // The slash before a segment begins it, so there is one for each.
            end = memchr::memrchr(b'/', &path[..end]).unwrap_or(0);
            segments -= 1;
        }
        if let Some(candidates) = table.prefix.get(&path[..end])
            && let Some(selected) = first_match(candidates, request, probe)
        {
            return Some(selected);
        }
        depth = depths.next()?;
    }
}

/// Where the first `most` segments of a path end, and how many there are up to there.
fn first_segments(path: &[u8], most: u32) -> (usize, u32) {
    let mut count = 0;
    for slash in memchr::memchr_iter(b'/', path) {
        if count == most {
            return (slash, count);
        }
        count += 1;
    }
    (path.len(), count)
}

fn first_match<'t, P: Probe>(
    candidates: &'t Candidates,
    request: &RequestView<'_>,
    probe: &mut P,
) -> Option<Selected<'t>> {
    candidates.find(|entry| {
        if let Err(reason) = holds(entry, request) {
            probe.passed_over(entry, reason);
            return None;
        }
        probe.chosen(entry);
        let path_match = match &entry.matched.path {
            PathPattern::Exact(_) | PathPattern::GrpcMethod(_) => PathMatch::Exact,
            PathPattern::Prefix(prefix) => PathMatch::Prefix(prefix.len()),
            PathPattern::Regex(_) => PathMatch::Regex,
        };
        Some(Selected {
            rule: &entry.rule,
            alternative: entry.alternative,
            path_match,
            listener: &entry.listener,
        })
    })
}

/// Whether an entry that was found by its path takes the request.
fn holds<'t>(entry: &'t MatchEntry, request: &RequestView<'_>) -> Result<(), PassedOver<'t>> {
    let matched: &CompiledMatch = &entry.matched;
    if let PathPattern::Regex(regex) = &matched.path
        && !(request.path.starts_with(&regex.literal_prefix) && regex.regex.is_match(request.path))
    {
        return Err(PassedOver::Path);
    }
    if entry.unconditional {
        return Ok(());
    }
    if matched.method.as_ref().is_some_and(|method| **method != *request.method) {
        return Err(PassedOver::Method);
    }
    if let Some(failed) = matched.headers.iter().find(|condition| !header_holds(condition, request.headers)) {
        return Err(PassedOver::Header(&failed.name));
    }
    let query = request.query.unwrap_or_default();
    if let Some(failed) = matched.query.iter().find(|condition| !parameter_holds(condition, query)) {
        return Err(PassedOver::Query(&failed.name));
    }
    Ok(())
}

fn header_holds(condition: &ValueCondition, headers: &dyn Headers) -> bool {
    match &condition.value {
        ValuePattern::Exact(expected) => {
            // What is still expected of the joined value; `None` when it cannot be right any more.
            let mut rest = None;
            let mut first = true;
            headers.each(&condition.name, &mut |value| {
                let before =
                    if first { Some(&**expected) } else { rest.and_then(|r: &[u8]| r.strip_prefix(b",")) };
                first = false;
                rest = before.and_then(|before| before.strip_prefix(value));
            });
            rest == Some(b"")
        }
        ValuePattern::Regex(regex) => {
            let mut values = 0;
            let mut matched = false;
            headers.each(&condition.name, &mut |value| {
                values += 1;
                if values == 1 {
                    matched = regex.is_match(value);
                }
            });
            if values < 2 {
                return matched;
            }
            let mut joined = Vec::new();
            headers.each(&condition.name, &mut |value| {
                if !joined.is_empty() {
                    joined.push(b',');
                }
                joined.extend_from_slice(value);
            });
            regex.is_match(&joined)
        }
    }
}

fn parameter_holds(condition: &ValueCondition, query: &[u8]) -> bool {
    let Some(value) = parameter(query, condition.name.as_bytes()) else { return false };
    match &condition.value {
        ValuePattern::Exact(expected) => decoded_equals(value, expected),
        ValuePattern::Regex(regex) => {
            let decoded: Cow<'_, [u8]> = percent_encoding::percent_decode(value).into();
            regex.is_match(&decoded)
        }
    }
}

/// The value, still encoded, of the first parameter with this name. A parameter without `=` has an empty value.
fn parameter<'q>(query: &'q [u8], name: &[u8]) -> Option<&'q [u8]> {
    query.split(|&b| b == b'&').find_map(|pair| {
        let (key, value) = match memchr::memchr(b'=', pair) {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &b""[..]),
        };
        (!pair.is_empty() && decoded_equals(key, name)).then_some(value)
    })
}

fn decoded_equals(encoded: &[u8], plain: &[u8]) -> bool {
    if encoded == plain {
        // Equal as written, and nothing to decode.
        return memchr::memchr(b'%', encoded).is_none() || decoded_is(encoded, plain);
    }
    // Decoding never makes longer.
    encoded.len() > plain.len() && decoded_is(encoded, plain)
}

fn decoded_is(encoded: &[u8], plain: &[u8]) -> bool {
    percent_encoding::percent_decode(encoded).eq(plain.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(name: &str, value: &str) -> ValueCondition {
        ValueCondition { name: name.into(), value: ValuePattern::Exact(value.as_bytes().into()) }
    }

    #[test]
    fn repeated_headers_are_joined_by_commas() {
        let headers = [("a", "1"), ("B", "x"), ("A", "2"), ("a", "3")];
        for (value, expected) in [
            ("1,2,3", true),
            ("1", false),
            ("1,2", false),
            ("1,2,3,", false),
            ("1, 2, 3", false),
            ("", false),
        ] {
            assert_eq!(header_holds(&exact("a", value), &headers), expected, "{value}");
        }
        assert!(header_holds(&exact("b", "x"), &headers));
        assert!(!header_holds(&exact("c", ""), &headers), "a missing header has no value, not an empty one");
        assert!(header_holds(&exact("c", ""), &[("c", "")]));
        let regex = ValueCondition {
            name: "a".into(),
            value: ValuePattern::Regex(regex::bytes::Regex::new("^1,.,3$").unwrap()),
        };
        assert!(header_holds(&regex, &headers));
    }

    #[test]
    fn the_first_parameter_of_a_name_counts_and_is_decoded() {
        for (query, value, expected) in [
            ("a=1", "1", true),
            ("b=2&a=1", "1", true),
            ("a=1&a=2", "1", true),
            ("a=1&a=2", "2", false),
            ("%61=%31", "1", true),
            ("a=x%20y", "x y", true),
            ("a=x+y", "x y", false),
            ("a=x+y", "x+y", true),
            ("a=%2x", "%2x", true),
            ("a=%31", "%31", false),
            ("a", "", true),
            ("a=", "", true),
            ("A=1", "1", false),
            ("", "", false),
            ("&&", "", false),
            ("aa=1", "1", false),
            ("a=1=2", "1=2", true),
        ] {
            assert_eq!(parameter_holds(&exact("a", value), query.as_bytes()), expected, "{query} {value}");
        }
    }

    #[test]
    fn segments_are_counted_from_the_start() {
        for (path, most, expected) in [
            ("/", 0, (0, 0)),
            ("/", 1, (1, 1)),
            ("/a/b", 1, (2, 1)),
            ("/a/b", 2, (4, 2)),
            ("/a/b", 9, (4, 2)),
            ("/a/b/", 9, (5, 3)),
            ("//", 1, (1, 1)),
        ] {
            assert_eq!(first_segments(path.as_bytes(), most), expected, "{path} {most}");
        }
    }
}

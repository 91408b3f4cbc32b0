//! What filters do to paths, locations and headers. Pure functions that write into the caller's buffer.
//!
//! - [`strip_path`]: `konghq.com/strip-path`. The matched part goes; what is left begins with `/`.
//! - [`replace_path`]: `URLRewrite` and `RequestRedirect` path modifiers (API: `HTTPPathModifier`).
//! - [`location`]: the `Location` of a `RequestRedirect`, with the API's port rules.
//! - [`HeaderEdits::apply`]: header modifiers, on whatever implements [`HeaderEditor`].
//!
//! Paths come in without their query and the caller puts the query behind what comes out.

use crate::resource::{HeaderModifier, HeaderValue, PathModifier, RequestRedirect, UrlRewrite};
use crate::select::PathMatch;

/// `RequestHeaderModifier` or `ResponseHeaderModifier`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    pub set: Box<[HeaderLine]>,
    pub add: Box<[HeaderLine]>,
    /// Lower case.
    pub remove: Box<[Box<str>]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderLine {
    /// As configured: this is how it is sent.
    pub name: Box<str>,
    pub value: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Lower case; `None` for the request's.
    pub scheme: Option<Box<str>>,
    /// `None` for the request's.
    pub hostname: Option<Box<str>>,
    pub path: Option<PathChange>,
    /// `None` for the API's rules.
    pub port: Option<u16>,
    pub status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// `None` for unchanged.
    pub hostname: Option<Box<str>>,
    pub path: Option<PathChange>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// The whole path.
    Full(Box<str>),
    /// The part that the rule's prefix matched.
    Prefix(Box<str>),
}

/// Removes what matched. Kong's meaning: prefix `/echo`: `/echo` and `/echo/` become `/`, `/echo/x` becomes `/x`; the
/// prefix `/` changes nothing; an exact path or a whole expression leaves `/`.
pub fn strip_path(path: &[u8], matched: PathMatch, out: &mut Vec<u8>) {
    let rest = match matched {
        PathMatch::Prefix(length) => path.get(length..).unwrap_or_default(),
        PathMatch::Exact | PathMatch::Regex => b"",
    };
    out.extend_from_slice(if rest.is_empty() { b"/" } else { rest });
}

/// Appends the changed path. A prefix is replaced with its trailing slash ignored on both sides, as in the API's table: `/foo/bar` with
/// `/foo` replaced by `/xyz/` is `/xyz/bar`, `/foo/` by `/xyz` is `/xyz/`, `/foo` by nothing or `/` is `/`. A rule that matched otherwise
/// than by a prefix (the API forbids it) has its whole path replaced.
pub fn replace_path(path: &[u8], matched: PathMatch, change: &PathChange, out: &mut Vec<u8>) {
    let (replacement, rest) = match change {
        PathChange::Full(replacement) => (replacement.as_bytes(), &b""[..]),
        PathChange::Prefix(replacement) => {
            let rest = match matched {
                PathMatch::Prefix(length) => path.get(length..).unwrap_or_default(),
                PathMatch::Exact | PathMatch::Regex => b"",
            };
            (replacement.as_bytes().strip_suffix(b"/").unwrap_or(replacement.as_bytes()), rest)
        }
    };
    let start = out.len();
    if replacement.first().is_some_and(|&first| first != b'/') {
        out.push(b'/');
    }
    out.extend_from_slice(replacement);
    out.extend_from_slice(rest);
    if out.len() == start {
        out.push(b'/');
    }
}

/// The request as its redirect sees it.
#[derive(Clone, Copy, Debug)]
pub struct RedirectedRequest<'a> {
    /// `http` or `https`: what the client used.
    pub scheme: &'a str,
    /// Without the port; an IPv6 literal in brackets.
    pub host: &'a [u8],
    /// The port of the listener.
    pub listener_port: u16,
    /// As normalised for selection.
    pub path: &'a [u8],
    /// Without the question mark.
    pub query: Option<&'a [u8]>,
    pub matched: PathMatch,
}

/// Appends the value of `Location`. The port is the filter's; else, with a scheme in the filter, that scheme's well-known
/// one; else the listener's. It is left out where it is the well-known one of the resulting scheme (API: `RequestRedirect.port`).
pub fn location(redirect: &Redirect, request: &RedirectedRequest<'_>, out: &mut Vec<u8>) {
    let scheme = redirect.scheme.as_deref().unwrap_or(request.scheme);
    let well_known = well_known_port(scheme);
    let port = match (redirect.port, &redirect.scheme) {
        (Some(port), _) => port,
        (None, Some(_)) => well_known.unwrap_or(request.listener_port),
        (None, None) => request.listener_port,
    };
    out.extend_from_slice(scheme.as_bytes());
    out.extend_from_slice(b"://");
    out.extend_from_slice(redirect.hostname.as_deref().map_or(request.host, str::as_bytes));
    if well_known != Some(port) {
        out.push(b':');
        push_number(port, out);
    }
    match &redirect.path {
        Some(change) => replace_path(request.path, request.matched, change, out),
        None => out.extend_from_slice(request.path),
    }
    if let Some(query) = request.query {
        out.push(b'?');
        out.extend_from_slice(query);
    }
}

fn well_known_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

fn push_number(number: u16, out: &mut Vec<u8>) {
    let mut digits = [0u8; 5];
    let mut rest = number;
    let mut start = digits.len();
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        start = at;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

/// Headers that can be changed. Names are compared without regard to case.
pub trait HeaderEditor {
    /// One header with this value in the place of all of this name.
    fn set(&mut self, name: &str, value: &str);
    /// One more header, behind those of this name.
    fn add(&mut self, name: &str, value: &str);
    /// All headers of this name (given in lower case).
    fn remove(&mut self, name: &str);
}

impl HeaderEdits {
    /// In the API's order of fields: set, add, remove.
    pub fn apply(&self, headers: &mut (impl HeaderEditor + ?Sized)) {
        for line in &self.set {
            headers.set(&line.name, &line.value);
        }
        for line in &self.add {
            headers.add(&line.name, &line.value);
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

impl HeaderEdits {
    pub(crate) fn compile(source: &HeaderModifier) -> Result<HeaderEdits, String> {
        let lines = |values: &[HeaderValue]| -> Result<Box<[HeaderLine]>, String> {
            values
                .iter()
                .map(|line| {
                    check_name(&line.name)?;
                    check_value(&line.value)?;
                    Ok(HeaderLine { name: line.name.as_str().into(), value: line.value.as_str().into() })
                })
                .collect()
        };
        let remove: Result<Box<[Box<str>]>, String> = source
            .remove
            .iter()
            .map(|name| check_name(name).map(|()| name.to_ascii_lowercase().into_boxed_str()))
            .collect();
        Ok(HeaderEdits { set: lines(&source.set)?, add: lines(&source.add)?, remove: remove? })
    }
}

/// RFC 9110 section 5.6.2, `token`.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(format!("`{name}` is not a header name"));
    }
    Ok(())
}

/// RFC 9110 section 5.5: no control characters but the tab, so that no value can end its line.
fn check_value(value: &str) -> Result<(), String> {
    if value.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f) {
        return Err(format!("the header value {value:?} has a control character"));
    }
    Ok(())
}

impl Redirect {
    pub(crate) fn compile(source: &RequestRedirect) -> Result<Redirect, String> {
        let port = match source.port {
            0 => None,
            port => Some(u16::try_from(port).map_err(|_| format!("redirect port {port} is above 65535"))?),
        };
        let status = u16::try_from(source.status).ok().filter(|status| (300..400).contains(status));
        Ok(Redirect {
            scheme: optional(&source.scheme.to_ascii_lowercase(), "scheme")?,
            hostname: optional(&source.hostname, "hostname")?,
            path: source.path.as_ref().map(compile_path).transpose()?,
            port,
            status: status.ok_or_else(|| format!("{} is not a redirect status", source.status))?,
        })
    }
}

impl Rewrite {
    pub(crate) fn compile(source: &UrlRewrite) -> Result<Rewrite, String> {
        Ok(Rewrite {
            hostname: optional(&source.hostname, "hostname")?,
            path: source.path.as_ref().map(compile_path).transpose()?,
        })
    }
}

fn compile_path(source: &PathModifier) -> Result<PathChange, String> {
    if source.value.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return Err(format!("the path {:?} has a space or control character", source.value));
    }
    let value = source.value.as_str().into();
    Ok(if source.prefix { PathChange::Prefix(value) } else { PathChange::Full(value) })
}

fn optional(value: &str, field: &str) -> Result<Option<Box<str>>, String> {
    if value.bytes().any(|b| b <= b' ' || b == 0x7f || b == b'/' || b == b'?' || b == b'#' || b == b'@') {
        return Err(format!("the {field} {value:?} has a character that does not belong there"));
    }
    Ok((!value.is_empty()).then(|| value.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strip_path_means_what_it_means_in_kong() {
        for (path, matched, expected) in [
            ("/echo", PathMatch::Prefix(5), "/"),
            ("/echo/", PathMatch::Prefix(5), "/"),
            ("/echo/x", PathMatch::Prefix(5), "/x"),
            ("/echo//x", PathMatch::Prefix(5), "//x"),
            ("/", PathMatch::Prefix(0), "/"),
            ("/a/b", PathMatch::Prefix(0), "/a/b"),
            ("/a/b", PathMatch::Exact, "/"),
            ("/a/b", PathMatch::Regex, "/"),
        ] {
            let mut out = Vec::new();
            strip_path(path.as_bytes(), matched, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{path} {matched:?}");
        }
    }

    #[test]
    fn prefix_replacement_follows_the_table_of_the_api() {
        for (path, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo", "", "/xyz", "/xyz/foo"),
        ] {
            let mut out = Vec::new();
            let change = PathChange::Prefix(replacement.into());
            replace_path(path.as_bytes(), PathMatch::Prefix(prefix.len()), &change, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{path} {prefix} {replacement}");
        }
        for (replacement, expected) in [("/x", "/x"), ("x", "/x"), ("", "/"), ("/x/", "/x/")] {
            let mut out = Vec::new();
            replace_path(b"/foo/bar", PathMatch::Prefix(4), &PathChange::Full(replacement.into()), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{replacement}");
        }
    }

    fn located(redirect: RequestRedirect, scheme: &str, listener_port: u16) -> String {
        let mut out = Vec::new();
        let redirect = Redirect::compile(&RequestRedirect { status: 302, ..redirect }).unwrap();
        let request = RedirectedRequest {
            scheme,
            host: b"example.com",
            listener_port,
            path: b"/p/q",
            query: Some(b"a=b"),
            matched: PathMatch::Prefix(2),
        };
        location(&redirect, &request, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_port_of_a_redirect_follows_the_rules_of_the_api() {
        let redirect =
            |scheme: &str, port: u32| RequestRedirect { scheme: scheme.into(), port, ..Default::default() };
        for (filter, scheme, listener_port, expected) in [
            (redirect("", 0), "http", 80, "http://example.com/p/q?a=b"),
            (redirect("", 0), "http", 8080, "http://example.com:8080/p/q?a=b"),
            (redirect("", 80), "http", 8080, "http://example.com/p/q?a=b"),
            (redirect("", 443), "http", 80, "http://example.com:443/p/q?a=b"),
            (redirect("https", 0), "http", 8080, "https://example.com/p/q?a=b"),
            (redirect("https", 443), "http", 80, "https://example.com/p/q?a=b"),
            (redirect("https", 8443), "http", 80, "https://example.com:8443/p/q?a=b"),
            (redirect("HTTP", 0), "https", 443, "http://example.com/p/q?a=b"),
            (redirect("", 0), "https", 443, "https://example.com/p/q?a=b"),
            (redirect("", 65535), "https", 443, "https://example.com:65535/p/q?a=b"),
        ] {
            assert_eq!(located(filter.clone(), scheme, listener_port), expected, "{filter:?}");
        }
    }

    #[test]
    fn a_redirect_changes_host_and_path_and_keeps_the_query() {
        let filter = RequestRedirect {
            hostname: "other.org".into(),
            path: Some(PathModifier { prefix: true, value: "/new".into() }),
            ..Default::default()
        };
        assert_eq!(located(filter, "http", 80), "http://other.org/new/q?a=b");
    }

    #[test]
    fn what_could_break_out_of_a_header_is_refused() {
        let modifier = |name: &str, value: &str| HeaderModifier {
            set: vec![HeaderValue { name: name.into(), value: value.into() }],
            ..Default::default()
        };
        assert!(HeaderEdits::compile(&modifier("x-a", "1, 2\t3 é")).is_ok());
        for (name, value) in [("", "1"), ("a b", "1"), ("a:", "1"), ("a", "1\r\nb: 2"), ("a", "\0")] {
            assert!(HeaderEdits::compile(&modifier(name, value)).is_err(), "{name:?} {value:?}");
        }
        let redirect =
            |hostname: &str| RequestRedirect { hostname: hostname.into(), status: 302, ..Default::default() };
        for hostname in ["a b", "a/b", "a\r\n", "a@b", "a?b"] {
            assert!(Redirect::compile(&redirect(hostname)).is_err(), "{hostname:?}");
        }
        assert!(Redirect::compile(&RequestRedirect { status: 200, ..Default::default() }).is_err());
    }

    #[test]
    fn edits_are_applied_in_order() {
        #[derive(Default)]
        struct Log(Vec<String>);
        impl HeaderEditor for Log {
            fn set(&mut self, name: &str, value: &str) {
                self.0.push(format!("set {name}={value}"));
            }
            fn add(&mut self, name: &str, value: &str) {
                self.0.push(format!("add {name}={value}"));
            }
            fn remove(&mut self, name: &str) {
                self.0.push(format!("remove {name}"));
            }
        }
        let line = |name: &str, value: &str| HeaderValue { name: name.into(), value: value.into() };
        let edits = HeaderEdits::compile(&HeaderModifier {
            set: vec![line("X-Set", "1")],
            add: vec![line("X-Add", "2")],
            remove: vec!["X-Remove".into()],
        });
        let mut log = Log::default();
        edits.unwrap().apply(&mut log);
        assert_eq!(log.0, ["set X-Set=1", "add X-Add=2", "remove x-remove"]);
    }
}

//! Cross-origin resource sharing as the gateway decides it (Gateway API `HTTPCORSFilter`; Fetch standard, section 3.2). Pure.
//!
//! - A **preflight** is an `OPTIONS` request with `Origin` and `Access-Control-Request-Method` (Fetch 3.2.2). The gateway answers it
//!   itself, with 204; with the headers of [`Cors::preflight`] if the origin may, without any if not, so that the browser stops there.
//! - Other requests are forwarded, whatever their origin. Of the response all [`RESPONSE_HEADERS`] of the backend go, and the headers of
//!   [`Cors::response`] come.
//!
//! What is compared: origins by scheme, host (case is ignored) and port, with 80 and 443 where none is written; `*` in a
//! host stands for one or more labels at its left end. An origin that is not of this form (`null`) is allowed by `*` alone only.
//!
//! With credentials no `*` is ever sent: what the request asks for comes back instead, and what cannot be spelled out is left out.

use smallvec::SmallVec;

use crate::resource;
use crate::rewrite::check_name;

/// What a backend says about sharing is not what the gateway says: lower case.
pub const RESPONSE_HEADERS: [&str; 6] = [
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-expose-headers",
    "access-control-max-age",
];

/// A `CORS` filter, ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    origins: Origins,
    methods: Listed,
    headers: Listed,
    expose: Listed,
    credentials: bool,
    /// Seconds, in decimal.
    max_age: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Origins {
    All,
    Some(Box<[OriginPattern]>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct OriginPattern {
    secure: bool,
    host: HostPattern,
    port: u16,
}

/// Lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPattern {
    Any,
    Exact(Box<[u8]>),
    /// With the leading dot.
    EndsWith(Box<[u8]>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Listed {
    /// `*`
    All,
    /// Joined by commas; empty for none.
    Some(Box<str>),
}

/// What a preflight asks.
#[derive(Clone, Copy, Debug)]
pub struct Preflight<'a> {
    pub origin: &'a [u8],
    /// `Access-Control-Request-Method`
    pub method: &'a [u8],
    /// `Access-Control-Request-Headers`
    pub headers: Option<&'a [u8]>,
}

impl<'a> Preflight<'a> {
    /// `None` when the request is not a preflight.
    pub fn of(
        method: &[u8],
        origin: Option<&'a [u8]>,
        requested_method: Option<&'a [u8]>,
        requested_headers: Option<&'a [u8]>,
    ) -> Option<Preflight<'a>> {
        if method != b"OPTIONS" {
            return None;
        }
        Some(Preflight { origin: origin?, method: requested_method?, headers: requested_headers })
    }
}

/// Names in lower case. `vary` goes beside what the response has of it; each other header takes the place of all of its name.
pub type CorsHeaders<'a> = SmallVec<[(&'static str, &'a str); 8]>;

const VARY: &str = "vary";

impl Cors {
    pub(crate) fn compile(source: &resource::Cors) -> Result<Cors, String> {
        let origins = if source.allow_origins.iter().any(|origin| origin == "*") {
            Origins::All
        } else {
            Origins::Some(
                source.allow_origins.iter().map(|text| origin_pattern(text)).collect::<Result<_, _>>()?,
            )
        };
        Ok(Cors {
            origins,
            methods: listed(&source.allow_methods)?,
            headers: listed(&source.allow_headers)?,
            expose: listed(&source.expose_headers)?,
            credentials: source.allow_credentials,
            max_age: source.max_age_seconds.to_string().into(),
        })
    }

    /// Whether responses may be shared with this origin (the value of `Origin`).
    pub fn allows(&self, origin: &[u8]) -> bool {
        match &self.origins {
            Origins::All => true,
            Origins::Some(patterns) => parse_origin(origin)
                .is_some_and(|origin| patterns.iter().any(|pattern| pattern.matches(&origin))),
        }
    }

    /// The headers of the answer to a preflight.
    pub fn preflight<'a>(&'a self, asked: &Preflight<'a>) -> CorsHeaders<'a> {
        let mut headers = self.response(Some(asked.origin));
        if !headers.iter().any(|(name, _)| *name == "access-control-allow-origin") {
            return headers;
        }
        let requested = |value: Option<&'a [u8]>| value.and_then(printable).filter(|value| !value.is_empty());
        let allowed = |listed: &'a Listed, asked: Option<&'a str>| match listed {
            Listed::Some(list) => Some(&**list).filter(|list| !list.is_empty()),
            // `*` would be no leave for `Authorization`, what was asked for is.
            Listed::All => asked.or((!self.credentials).then_some("*")),
        };
        let methods = match &self.methods {
            Listed::All if !self.credentials => Some("*"),
            methods => allowed(methods, requested(Some(asked.method))),
        };
        headers.extend(methods.map(|value| ("access-control-allow-methods", value)));
        let names = allowed(&self.headers, requested(asked.headers));
        headers.extend(names.map(|value| ("access-control-allow-headers", value)));
        headers.push(("access-control-max-age", &self.max_age));
        headers
    }

    /// The headers of a response that was forwarded, or made by the gateway behind this filter. `origin` is the value of `Origin`, if
    /// there is one.
    pub fn response<'a>(&'a self, origin: Option<&'a [u8]>) -> CorsHeaders<'a> {
        let mut headers = CorsHeaders::new();
        let any = matches!(self.origins, Origins::All) && !self.credentials;
        if !any {
            headers.push((VARY, "Origin"));
        }
        let allowed = origin.filter(|origin| self.allows(origin)).and_then(printable);
        let Some(origin) = allowed else { return headers };
        headers.push(("access-control-allow-origin", if any { "*" } else { origin }));
        if self.credentials {
            headers.push(("access-control-allow-credentials", "true"));
        }
        match &self.expose {
            Listed::Some(list) if list.is_empty() => {}
            Listed::Some(list) => headers.push(("access-control-expose-headers", list)),
            Listed::All if self.credentials => {}
            Listed::All => headers.push(("access-control-expose-headers", "*")),
        }
        headers
    }
}

/// What may be written back: no control characters, nothing beyond ASCII.
fn printable(value: &[u8]) -> Option<&str> {
    if !value.iter().all(|&byte| (b' '..0x7f).contains(&byte)) {
        return None;
    }
    std::str::from_utf8(value).ok().map(str::trim)
}

/// Header names and methods are tokens alike.
fn listed(values: &[String]) -> Result<Listed, String> {
    if values.iter().any(|value| value == "*") {
        return Ok(Listed::All);
    }
    values.iter().try_for_each(|value| check_name(value))?;
    Ok(Listed::Some(values.join(", ").into()))
}

struct Origin<'a> {
    secure: bool,
    host: &'a [u8],
    port: u16,
}

/// `<scheme>://<host>[:<port>]`, schemes `http` and `https`.
fn parse_origin(text: &[u8]) -> Option<Origin<'_>> {
    let at = memchr::memmem::find(text, b"://")?;
    let (scheme, authority) = (&text[..at], &text[at + 3..]);
    let secure = match scheme {
        _ if scheme.eq_ignore_ascii_case(b"https") => true,
        _ if scheme.eq_ignore_ascii_case(b"http") => false,
        _ => return None,
    };
    // The colons of an IPv6 literal are inside its brackets.
    let after_literal = memchr::memrchr(b']', authority).map_or(0, |end| end + 1);
    let (host, port) = match memchr::memrchr(b':', &authority[after_literal..]) {
        Some(colon) => {
            let digits = &authority[after_literal + colon + 1..];
            let number = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
            (&authority[..after_literal + colon], number?.parse().ok()?)
        }
        None => (authority, if secure { 443 } else { 80 }),
    };
    (!host.is_empty() && port != 0).then_some(Origin { secure, host, port })
}

fn origin_pattern(text: &str) -> Result<OriginPattern, String> {
    let wrong = || format!("`{text}` is not an origin");
    let origin = parse_origin(text.as_bytes()).ok_or_else(wrong)?;
    let host = origin.host.to_ascii_lowercase();
    let is_host = |host: &[u8]| {
        !host.is_empty() && host.iter().all(|&b| b.is_ascii_alphanumeric() || b"-.:[]_".contains(&b))
    };
    let host = match host.strip_prefix(b"*") {
        Some(b"") => HostPattern::Any,
        Some(suffix) if suffix.first() == Some(&b'.') && is_host(&suffix[1..]) => {
            HostPattern::EndsWith(suffix.into())
        }
        None if is_host(&host) => HostPattern::Exact(host.into()),
        _ => return Err(wrong()),
    };
    Ok(OriginPattern { secure: origin.secure, host, port: origin.port })
}

impl OriginPattern {
    fn matches(&self, origin: &Origin<'_>) -> bool {
        let host = origin.host;
        let host_matches = match &self.host {
            HostPattern::Any => true,
            HostPattern::Exact(exact) => host.eq_ignore_ascii_case(exact),
            HostPattern::EndsWith(suffix) => {
                host.len() > suffix.len() && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
            }
        };
        self.secure == origin.secure && self.port == origin.port && host_matches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(change: impl FnOnce(&mut resource::Cors)) -> Cors {
        let mut source = resource::Cors {
            allow_origins: vec!["https://www.foo.com".into(), "https://*.bar.com".into()],
            allow_methods: vec!["GET".into(), "OPTIONS".into()],
            allow_headers: vec!["x-header-1".into(), "x-header-2".into()],
            expose_headers: vec!["x-header-3".into(), "x-header-4".into()],
            allow_credentials: true,
            max_age_seconds: 3600,
        };
        change(&mut source);
        Cors::compile(&source).unwrap()
    }

    fn origins(patterns: &[&str]) -> Cors {
        cors(|source| source.allow_origins = patterns.iter().map(|&text| text.to_owned()).collect())
    }

    const ASKED: Preflight<'static> =
        Preflight { origin: b"https://www.foo.com", method: b"PUT", headers: Some(b"x-a, Authorization") };

    #[test]
    fn origins_are_compared_by_scheme_host_and_port() {
        for (pattern, origin, expected) in [
            ("https://www.foo.com", "https://www.foo.com", true),
            ("https://www.foo.com", "HTTPS://WWW.Foo.com", true),
            ("https://www.foo.com", "https://www.foo.com:443", true),
            ("https://www.foo.com:443", "https://www.foo.com", true),
            ("http://www.foo.com:80", "http://www.foo.com", true),
            ("https://www.foo.com", "http://www.foo.com", false),
            ("https://www.foo.com", "http://www.foo.com:443", false),
            ("https://www.foo.com", "https://www.foo.com:8443", false),
            ("https://www.foo.com:8443", "https://www.foo.com:8443", true),
            ("https://www.foo.com", "https://xwww.foo.com", false),
            ("https://www.foo.com", "https://www.foo.com.evil.org", false),
            ("https://www.foo.com", "https://www.foo.com/", false),
            ("https://*.bar.com", "https://www.bar.com", true),
            ("https://*.bar.com", "https://xpto.www.bar.com", true),
            ("https://*.bar.com", "https://bar.com", false),
            ("https://*.bar.com", "https://.bar.com", false),
            ("https://*.bar.com", "https://xbar.com", false),
            ("https://*.bar.com", "https://www.bar.com:81", false),
            ("https://*.bar.com:81", "https://www.bar.com:81", true),
            ("https://*", "https://anything", true),
            ("https://*", "http://anything", false),
            ("https://*", "https://anything:81", false),
            ("http://[::1]:81", "http://[::1]:81", true),
            ("http://[::1]", "http://[::1]", true),
            ("*", "null", true),
            ("*", "ftp://x", true),
            ("https://*", "null", false),
            ("https://*", "", false),
            ("https://*", "https://", false),
            ("https://*", "https://x:", false),
            ("https://*", "https://x:99999", false),
            ("https://*", "https://x:+443", false),
        ] {
            assert_eq!(origins(&[pattern]).allows(origin.as_bytes()), expected, "{pattern} {origin}");
        }
    }

    #[test]
    fn what_is_not_an_origin_a_method_or_a_header_is_refused() {
        for origin in [
            "",
            "foo.com",
            "https://",
            "https://*foo.com",
            "https://a.*.b",
            "https://a b",
            "https://a/b",
            "https://a:0",
        ] {
            let source = resource::Cors { allow_origins: vec![origin.into()], ..Default::default() };
            assert!(Cors::compile(&source).is_err(), "{origin}");
        }
        let source = resource::Cors { allow_methods: vec!["GET\r\n".into()], ..Default::default() };
        assert!(Cors::compile(&source).is_err());
        let source = resource::Cors { expose_headers: vec!["a:b".into()], ..Default::default() };
        assert!(Cors::compile(&source).is_err());
    }

    #[test]
    fn a_preflight_of_an_allowed_origin_gets_what_is_configured() {
        let expected = [
            ("vary", "Origin"),
            ("access-control-allow-origin", "https://www.foo.com"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "x-header-3, x-header-4"),
            ("access-control-allow-methods", "GET, OPTIONS"),
            ("access-control-allow-headers", "x-header-1, x-header-2"),
            ("access-control-max-age", "3600"),
        ];
        assert_eq!(&*cors(|_| {}).preflight(&ASKED), &expected);
    }

    #[test]
    fn a_preflight_of_another_origin_gets_no_leave() {
        let asked = Preflight { origin: b"https://foobar.com", ..ASKED };
        assert_eq!(&*cors(|_| {}).preflight(&asked), &[("vary", "Origin")]);
    }

    fn all(credentials: bool) -> Cors {
        cors(|source| {
            for list in [
                &mut source.allow_origins,
                &mut source.allow_methods,
                &mut source.allow_headers,
                &mut source.expose_headers,
            ] {
                *list = vec!["*".into()];
            }
            source.allow_credentials = credentials;
        })
    }

    #[test]
    fn with_credentials_no_star_is_ever_sent() {
        let expected = [
            ("vary", "Origin"),
            ("access-control-allow-origin", "https://www.foo.com"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "PUT"),
            ("access-control-allow-headers", "x-a, Authorization"),
            ("access-control-max-age", "3600"),
        ];
        assert_eq!(&*all(true).preflight(&ASKED), &expected);
        let without = all(true);
        let without = without.preflight(&Preflight { headers: None, ..ASKED });
        assert!(!without.iter().any(|(name, _)| *name == "access-control-allow-headers"));
        assert!(without.iter().all(|(_, value)| *value != "*"));
    }

    #[test]
    fn without_credentials_everything_is_a_star_but_headers_that_were_asked_for() {
        let expected = [
            ("access-control-allow-origin", "*"),
            ("access-control-expose-headers", "*"),
            ("access-control-allow-methods", "*"),
            ("access-control-allow-headers", "x-a, Authorization"),
            ("access-control-max-age", "3600"),
        ];
        assert_eq!(&*all(false).preflight(&ASKED), &expected);
        let asked = Preflight { headers: None, ..ASKED };
        assert!(all(false).preflight(&asked).contains(&("access-control-allow-headers", "*")));
    }

    #[test]
    fn a_response_is_shared_with_its_origin_only_and_varies_by_it() {
        let cors = cors(|_| {});
        let shared = [
            ("vary", "Origin"),
            ("access-control-allow-origin", "https://a.bar.com"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "x-header-3, x-header-4"),
        ];
        assert_eq!(&*cors.response(Some(b"https://a.bar.com")), &shared);
        assert_eq!(&*cors.response(Some(b"https://evil.com")), &[("vary", "Origin")]);
        assert_eq!(&*cors.response(None), &[("vary", "Origin")]);
        assert!(all(false).response(None).is_empty());
    }

    #[test]
    fn what_cannot_stand_in_a_header_is_not_sent_back() {
        for bad in [&b"https://a\r\nx: y"[..], b"https://\xff", b"\0"] {
            assert_eq!(&*all(true).response(Some(bad)), &[("vary", "Origin")]);
            let headers = all(true);
            let headers = headers.preflight(&Preflight { method: bad, headers: Some(bad), ..ASKED });
            assert!(
                !headers.iter().any(|(name, _)| name.ends_with("-methods") || name.ends_with("-headers"))
            );
        }
    }

    #[test]
    fn only_options_with_an_origin_and_a_method_is_a_preflight() {
        let (origin, method) = (Some(&b"https://a"[..]), Some(&b"GET"[..]));
        assert!(Preflight::of(b"OPTIONS", origin, method, None).is_some());
        assert!(Preflight::of(b"GET", origin, method, None).is_none());
        assert!(Preflight::of(b"OPTIONS", None, method, None).is_none());
        assert!(Preflight::of(b"OPTIONS", origin, None, None).is_none());
    }
}

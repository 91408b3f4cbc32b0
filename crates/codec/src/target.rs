//! Request targets and authorities (RFC 9112 section 3.2, RFC 3986 section 3.2).

use crate::head::HeadError;

/// A request target in one of the forms that a gateway serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'b> {
    /// `/path?query`. `absolute` is set where the request had an absolute-form target.
    Path { path: &'b [u8], query: Option<&'b [u8]>, absolute: Option<Absolute<'b>> },
    /// `*`, with OPTIONS only.
    Asterisk,
}

/// The part of an absolute-form target before its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absolute<'b> {
    pub secure: bool,
    pub authority: &'b [u8],
}

/// Takes a target apart. `method` decides whether `*` is allowed.
pub fn parse<'b>(method: &[u8], target: &'b [u8]) -> Result<Target<'b>, HeadError> {
    if method == b"CONNECT" {
        return Err(HeadError::Connect);
    }
    match target.first() {
        Some(b'/') => origin_form(target, None),
        Some(b'*') if target.len() == 1 && method == b"OPTIONS" => Ok(Target::Asterisk),
        _ => absolute_form(target),
    }
}

fn origin_form<'b>(target: &'b [u8], absolute: Option<Absolute<'b>>) -> Result<Target<'b>, HeadError> {
    // A fragment is never sent (RFC 9110 section 7.1); origins disagree about what one would mean.
    let Some(end) = target.iter().position(|byte| matches!(byte, b'?' | b'#')) else {
        return Ok(Target::Path { path: target, query: None, absolute });
    };
    if memchr::memchr(b'#', &target[end..]).is_some() {
        return Err(HeadError::Target);
    }
    Ok(Target::Path { path: &target[..end], query: Some(&target[end + 1..]), absolute })
}

fn absolute_form(target: &[u8]) -> Result<Target<'_>, HeadError> {
    let (secure, rest) = if let Some(rest) = strip_prefix_ignore_case(target, b"http://") {
        (false, rest)
    } else if let Some(rest) = strip_prefix_ignore_case(target, b"https://") {
        (true, rest)
    } else {
        return Err(HeadError::Target);
    };
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() {
        return Err(HeadError::Target);
    }
    let absolute = Some(Absolute { secure, authority });
    match path.first() {
        None => Ok(Target::Path { path: b"/", query: None, absolute }),
        Some(b'/') => origin_form(path, absolute),
        Some(b'?') if !path.contains(&b'#') => {
            Ok(Target::Path { path: b"/", query: Some(&path[1..]), absolute })
        }
        Some(_) => Err(HeadError::Target),
    }
}

fn strip_prefix_ignore_case<'b>(bytes: &'b [u8], prefix: &[u8]) -> Option<&'b [u8]> {
    let (start, rest) = bytes.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// A checked authority: what `Host` or an absolute-form target names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Authority<'b> {
    /// As sent, port included.
    pub raw: &'b [u8],
    /// Without the port; an IPv6 literal keeps its brackets. Any case. Empty when the client named none.
    pub host: &'b [u8],
    pub port: Option<u16>,
}

impl<'b> Authority<'b> {
    /// Checks and splits `raw`. User information, lists, whitespace and anything that an origin could read in
    /// two ways are refused.
    pub fn parse(raw: &'b [u8]) -> Result<Authority<'b>, HeadError> {
        let (host, port) = match raw.first() {
            Some(b'[') => split_bracketed(raw)?,
            _ => split_name(raw)?,
        };
        let port = match port {
            None | Some([]) => None,
            Some(digits) => Some(parse_port(digits)?),
        };
        Ok(Authority { raw, host, port })
    }

    /// Whether two authorities name the same place: hosts in any case, ports with the scheme's default filled in.
    pub fn same_as(&self, other: &Authority<'_>, default_port: u16) -> bool {
        self.host.eq_ignore_ascii_case(other.host)
            && self.port.unwrap_or(default_port) == other.port.unwrap_or(default_port)
    }
}

type HostAndPort<'b> = (&'b [u8], Option<&'b [u8]>);

fn split_bracketed(raw: &[u8]) -> Result<HostAndPort<'_>, HeadError> {
    let close = memchr::memchr(b']', raw).ok_or(HeadError::Host)?;
    let literal = std::str::from_utf8(&raw[1..close]).map_err(|_| HeadError::Host)?;
    literal.parse::<std::net::Ipv6Addr>().map_err(|_| HeadError::Host)?;
    match &raw[close + 1..] {
        [] => Ok((&raw[..=close], None)),
        [b':', port @ ..] => Ok((&raw[..=close], Some(port))),
        _ => Err(HeadError::Host),
    }
}

fn split_name(raw: &[u8]) -> Result<HostAndPort<'_>, HeadError> {
    let end = raw.iter().position(|byte| !NAME_BYTES[usize::from(*byte)]);
    let Some(end) = end else { return Ok((raw, None)) };
    if raw[end] != b':' || end == 0 {
        return Err(HeadError::Host);
    }
    Ok((&raw[..end], Some(&raw[end + 1..])))
}

/// Registered names: unreserved characters, and the sub-delimiters that no origin reads as a list or a quote.
const NAME_BYTES: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        allowed[byte] = (byte as u8).is_ascii_alphanumeric()
            || matches!(
                byte as u8,
                b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'*' | b'+' | b'='
            );
        byte += 1;
    }
    allowed
};

fn parse_port(digits: &[u8]) -> Result<u16, HeadError> {
    if digits.len() > 5 {
        return Err(HeadError::Host);
    }
    let mut port = 0_u32;
    for digit in digits {
        let value = digit.wrapping_sub(b'0');
        if value > 9 {
            return Err(HeadError::Host);
        }
        port = port * 10 + u32::from(value);
    }
    u16::try_from(port).map_err(|_| HeadError::Host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_told_apart() {
        assert_eq!(
            parse(b"GET", b"/a?b?c"),
            Ok(Target::Path { path: b"/a", query: Some(b"b?c"), absolute: None })
        );
        let absolute = Some(Absolute { secure: false, authority: b"h:8" });
        assert_eq!(parse(b"GET", b"HTTP://h:8/x"), Ok(Target::Path { path: b"/x", query: None, absolute }));
        assert_eq!(
            parse(b"GET", b"http://h:8?q"),
            Ok(Target::Path { path: b"/", query: Some(b"q"), absolute })
        );
        assert_eq!(parse(b"OPTIONS", b"*"), Ok(Target::Asterisk));
        assert_eq!(parse(b"GET", b"*"), Err(HeadError::Target));
        assert_eq!(parse(b"CONNECT", b"h:443"), Err(HeadError::Connect));
        for bad in [&b"x"[..], b"", b"ftp://h/", b"/a#b", b"/a?b#c", b"http:///x", b"//"] {
            let parsed = parse(b"GET", bad);
            assert_eq!(parsed.is_err(), bad != b"//", "{bad:?} gave {parsed:?}");
        }
    }

    #[test]
    fn authorities_are_checked() {
        let good = |raw: &'static [u8]| Authority::parse(raw).unwrap();
        assert_eq!(good(b"a.example:80").host, b"a.example");
        assert_eq!(good(b"[::1]:8080").host, b"[::1]");
        assert_eq!(good(b"[::1]:8080").port, Some(8080));
        assert_eq!(good(b"a:").port, None);
        assert_eq!(good(b"").host, b"");
        for bad in [
            &b"a b"[..],
            b"a,b",
            b"u@h",
            b"h:1:2",
            b"h:99999",
            b"h:+1",
            b"[::1",
            b"[::1]x",
            b"[a]",
            b"h/",
            b":80",
            b"a\\b",
            b"\xff",
        ] {
            assert_eq!(Authority::parse(bad), Err(HeadError::Host), "{bad:?}");
        }
        assert!(good(b"A:80").same_as(&good(b"a"), 80));
        assert!(!good(b"a:81").same_as(&good(b"a"), 80));
    }
}

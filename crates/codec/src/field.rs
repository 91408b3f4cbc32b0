//! The fields of one head: found, classified, and marked for keeping or dropping.
//!
//! A field is classified by the length of its name first and by a case-insensitive comparison second, so that
//! an unknown field costs one table jump. Kept fields are copied later as maximal contiguous ranges of the
//! original bytes ([`Fields::kept`]).

use std::mem::MaybeUninit;
use std::ops::Range;

/// Most fields that a head may have, whatever the configured limit says. Unit: fields. Source: ours (the marks
/// of a head are one 128-bit word).
pub const MAX_FIELDS: usize = 128;

/// Names that mean something to a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Known {
    Other,
    Te,
    Via,
    Host,
    Date,
    Server,
    Expect,
    Upgrade,
    Trailer,
    XRealIp,
    Forwarded,
    Connection,
    KeepAlive,
    ContentLength,
    Http2Settings,
    XForwardedFor,
    XForwardedHost,
    XForwardedPort,
    XForwardedPath,
    XForwardedProto,
    XForwardedPrefix,
    RequestId,
    /// `X-Kong-Upstream-Latency` or `X-Kong-Proxy-Latency`.
    Latency,
    TransferEncoding,
    ProxyConnection,
    ProxyAuthenticate,
    ProxyAuthorization,
    /// A look-alike of a forwarding field with `_` for `-`: some origins cannot tell the two apart.
    Disguised,
}

/// A set of [`Known`] names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownSet(u32);

impl KnownSet {
    pub const EMPTY: KnownSet = KnownSet(0);

    pub const fn with(self, known: Known) -> KnownSet {
        KnownSet(self.0 | 1 << known as u8)
    }

    pub const fn union(self, other: KnownSet) -> KnownSet {
        KnownSet(self.0 | other.0)
    }

    pub const fn contains(self, known: Known) -> bool {
        self.0 & 1 << known as u8 != 0
    }
}

/// Fields that belong to one connection only (RFC 9110 section 7.6.1), beside those that `Connection` names.
pub const HOP_BY_HOP: KnownSet = KnownSet::EMPTY
    .with(Known::Connection)
    .with(Known::KeepAlive)
    .with(Known::ProxyConnection)
    .with(Known::ProxyAuthenticate)
    .with(Known::ProxyAuthorization)
    .with(Known::Te)
    .with(Known::TransferEncoding)
    .with(Known::Upgrade)
    .with(Known::Http2Settings);

/// Fields that say who the client is and how it came; only a trusted peer's are believed.
pub const FORWARDING: KnownSet = KnownSet::EMPTY
    .with(Known::XForwardedFor)
    .with(Known::XForwardedHost)
    .with(Known::XForwardedPort)
    .with(Known::XForwardedPath)
    .with(Known::XForwardedProto)
    .with(Known::XForwardedPrefix)
    .with(Known::XRealIp)
    .with(Known::Forwarded)
    .with(Known::RequestId);

/// Fields that a `Connection` option cannot remove: message framing and routing, and what this gateway or a
/// trusted one before it says about the request.
const PROTECTED: KnownSet = FORWARDING
    .with(Known::Host)
    .with(Known::ContentLength)
    .with(Known::Via)
    .with(Known::Date)
    .with(Known::Expect)
    .with(Known::Trailer);

/// Classifies a field name.
pub fn classify(name: &[u8]) -> Known {
    let Some((plain, known)) = candidate(name) else { return Known::Other };
    if same_token(name, plain) {
        return *known;
    }
    if DISGUISABLE.contains(*known) && disguised(name, plain) { Known::Disguised } else { Known::Other }
}

/// The only known name with this length and these first and last letters: by them alone most names are told from all
/// known ones.
fn candidate(name: &[u8]) -> Option<&'static (&'static [u8], Known)> {
    let ends = [*name.first()? | 0x20, *name.last()? | 0x20];
    // By length first: one jump.
    Some(match name.len() {
        2 if ends == *b"te" => &(b"te", Known::Te),
        3 if ends == *b"va" => &(b"via", Known::Via),
        4 if ends == *b"ht" => &(b"host", Known::Host),
        4 if ends == *b"de" => &(b"date", Known::Date),
        6 if ends == *b"sr" => &(b"server", Known::Server),
        6 if ends == *b"et" => &(b"expect", Known::Expect),
        7 if ends == *b"ue" => &(b"upgrade", Known::Upgrade),
        7 if ends == *b"tr" => &(b"trailer", Known::Trailer),
        9 if ends == *b"xp" => &(b"x-real-ip", Known::XRealIp),
        9 if ends == *b"fd" => &(b"forwarded", Known::Forwarded),
        10 if ends == *b"cn" => &(b"connection", Known::Connection),
        10 if ends == *b"ke" => &(b"keep-alive", Known::KeepAlive),
        14 if ends == *b"ch" => &(b"content-length", Known::ContentLength),
        14 if ends == *b"hs" => &(b"http2-settings", Known::Http2Settings),
        15 if ends == *b"xr" => &(b"x-forwarded-for", Known::XForwardedFor),
        // The two differ in the first letter of their last word.
        16 if ends == *b"xt" && name[12] | 0x20 == b'h' => &(b"x-forwarded-host", Known::XForwardedHost),
        16 if ends == *b"xt" => &(b"x-forwarded-port", Known::XForwardedPort),
        16 if ends == *b"xh" => &(b"x-forwarded-path", Known::XForwardedPath),
        16 if ends == *b"pn" => &(b"proxy-connection", Known::ProxyConnection),
        17 if ends == *b"tg" => &(b"transfer-encoding", Known::TransferEncoding),
        17 if ends == *b"xo" => &(b"x-forwarded-proto", Known::XForwardedProto),
        17 if ends == *b"xd" => &(b"x-kong-request-id", Known::RequestId),
        18 if ends == *b"xx" => &(b"x-forwarded-prefix", Known::XForwardedPrefix),
        18 if ends == *b"pe" => &(b"proxy-authenticate", Known::ProxyAuthenticate),
        19 if ends == *b"pn" => &(b"proxy-authorization", Known::ProxyAuthorization),
        20 if ends == *b"xy" => &(b"x-kong-proxy-latency", Known::Latency),
        23 if ends == *b"xy" => &(b"x-kong-upstream-latency", Known::Latency),
        _ => return None,
    })
}

/// Whether a token is this known name in any case; both are of one length. Eight octets at a time: setting the bit that tells
/// the cases apart makes nothing else alike that may stand in a token.
fn same_token(token: &[u8], name: &[u8]) -> bool {
    const CASE: u64 = 0x2020_2020_2020_2020;
    let (words, rest) = token.as_chunks::<8>();
    let (name_words, name_rest) = name.as_chunks::<8>();
    words.iter().zip(name_words).all(|(a, b)| u64::from_ne_bytes(*a) | CASE == u64::from_ne_bytes(*b))
        && rest.iter().zip(name_rest).all(|(a, b)| a | 0x20 == *b)
}

/// Fields whose look-alikes are dropped.
const DISGUISABLE: KnownSet =
    FORWARDING.with(Known::ContentLength).with(Known::TransferEncoding).with(Known::ProxyConnection);

/// True for `x_forwarded_for` and the like, of equal length, where at least one dash became an underscore.
fn disguised(name: &[u8], plain: &[u8]) -> bool {
    name.contains(&b'_')
        && name.len() == plain.len()
        && name.iter().zip(plain).all(|(a, b)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-'))
}

/// Where a parser puts the fields of a head and what it takes them for: on the caller's stack, so that a head that refers to
/// it is small. The fields are uninitialised until used.
pub struct FieldStore<'b> {
    pub(crate) headers: [MaybeUninit<httparse::Header<'b>>; MAX_FIELDS],
    pub(crate) known: [Known; MAX_FIELDS],
}

impl FieldStore<'_> {
    pub const fn new() -> Self {
        FieldStore {
            headers: [const { MaybeUninit::uninit() }; MAX_FIELDS],
            known: [Known::Other; MAX_FIELDS],
        }
    }
}

impl Default for FieldStore<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// The fields of one head, in order, over the head's own bytes.
pub struct Fields<'s, 'b> {
    head: &'b [u8],
    headers: &'s [httparse::Header<'b>],
    /// What each of them is, by index.
    known: &'s [Known],
    present: KnownSet,
    /// Fields that a `Connection` option names.
    named: u128,
}

impl<'s, 'b> Fields<'s, 'b> {
    /// `head` is the whole head with its final empty line; `headers` were parsed from it; `store` has room for as many.
    pub(crate) fn new(
        head: &'b [u8],
        headers: &'s [httparse::Header<'b>],
        store: &'s mut [Known; MAX_FIELDS],
    ) -> Self {
        let mut present = KnownSet::EMPTY;
        for (header, known) in headers.iter().zip(store.iter_mut()) {
            *known = classify(header.name.as_bytes());
            present = present.with(*known);
        }
        Fields { head, headers, known: store, present, named: 0 }
    }

    /// No fields at all.
    pub fn none() -> Fields<'static, 'static> {
        Fields { head: b"\r\n", headers: &[], known: &[], present: KnownSet::EMPTY, named: 0 }
    }

    pub fn len(&self) -> usize {
        self.headers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    /// Whether any field of this kind is there.
    pub fn has(&self, known: Known) -> bool {
        self.present.contains(known)
    }

    /// Every field in order: name as sent, value without surrounding whitespace.
    pub fn iter(&self) -> impl Iterator<Item = (&'b [u8], &'b [u8])> + '_ {
        self.headers.iter().map(|header| (header.name.as_bytes(), header.value))
    }

    /// Values of every field of one kind, in order.
    pub fn values(&self, known: Known) -> impl Iterator<Item = &'b [u8]> + '_ {
        let wanted = if self.has(known) { self.headers.len() } else { 0 };
        self.headers[..wanted]
            .iter()
            .zip(self.known)
            .filter(move |(_, kind)| **kind == known)
            .map(|(header, _)| header.value)
    }

    /// The value at `index` if that field is of this kind.
    pub(crate) fn value_if(&self, index: usize, known: Known) -> Option<&'b [u8]> {
        let header = self.headers.get(index)?;
        (self.known.get(index) == Some(&known)).then_some(header.value)
    }

    /// Values of every field with this name, in any case.
    pub fn named<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'b [u8]> + 'a {
        self.headers
            .iter()
            .filter(move |header| header.name.as_bytes().eq_ignore_ascii_case(name))
            .map(|header| header.value)
    }

    /// Marks the fields that a `Connection` option names, if they may be removed at all.
    pub(crate) fn mark_connection_option(&mut self, option: &[u8]) {
        for (index, (header, known)) in self.headers.iter().zip(self.known).enumerate() {
            if header.name.as_bytes().eq_ignore_ascii_case(option) && !PROTECTED.contains(*known) {
                self.named |= 1 << index;
            }
        }
    }

    /// The fields to drop: hop-by-hop ones and the kinds in `also`.
    pub fn dropping(&self, also: KnownSet) -> Dropped {
        let kinds = HOP_BY_HOP.union(also).with(Known::Disguised);
        let mut marks = self.named;
        if self.present.0 & kinds.0 != 0 {
            for (index, (_, known)) in self.headers.iter().zip(self.known).enumerate() {
                marks |= u128::from(kinds.contains(*known)) << index;
            }
        }
        Dropped(marks)
    }

    /// Adds every field with this name (in any case) to the dropped ones.
    pub fn drop_name(&self, dropped: &mut Dropped, name: &[u8]) {
        for (index, header) in self.headers.iter().enumerate() {
            if header.name.as_bytes().eq_ignore_ascii_case(name) {
                dropped.0 |= 1 << index;
            }
        }
    }

    /// Whether a field with this name is there and kept.
    pub fn keeps_name(&self, dropped: Dropped, name: &[u8]) -> bool {
        self.headers.iter().enumerate().any(|(index, header)| {
            dropped.0 & 1 << index == 0 && header.name.as_bytes().eq_ignore_ascii_case(name)
        })
    }

    /// The kept fields as maximal contiguous ranges of the head, whole lines each.
    pub fn kept(&self, dropped: Dropped) -> impl Iterator<Item = &'b [u8]> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            while next < self.headers.len() && dropped.0 & 1 << next != 0 {
                next += 1;
            }
            if next == self.headers.len() {
                return None;
            }
            let start = self.line(next).start;
            while next < self.headers.len() && dropped.0 & 1 << next == 0 {
                next += 1;
            }
            let end = self.line(next - 1).end;
            self.head.get(start..end)
        })
    }

    /// The bytes of one field's line in the head. A line ends where the next name starts: lines are contiguous
    /// because folding, blank lines and bare line ends were refused.
    fn line(&self, index: usize) -> Range<usize> {
        let start = self.offset(index);
        let end = if index + 1 < self.headers.len() { self.offset(index + 1) } else { self.head.len() - 2 };
        start..end
    }

    fn offset(&self, index: usize) -> usize {
        offset(self.head, &self.headers[index])
    }
}

/// Where a field that was parsed from `head` begins in it.
pub(crate) fn offset(head: &[u8], header: &httparse::Header<'_>) -> usize {
    (header.name.as_ptr() as usize).wrapping_sub(head.as_ptr() as usize)
}

/// Which fields of a head are not copied to the next hop.
#[derive(Clone, Copy, Debug)]
pub struct Dropped(u128);

/// The elements of a comma-separated list, trimmed, empty ones left out (RFC 9110 section 5.6.1).
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Whether `byte` may stand in a token (RFC 9110 section 5.6.2).
pub const fn is_token_byte(byte: u8) -> bool {
    matches!(byte,
        b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z')
}

/// Whether `byte` may stand in a field value: no control but the tab (RFC 9110 section 5.5).
pub const fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_classified_in_any_case() {
        assert_eq!(classify(b"hOsT"), Known::Host);
        assert_eq!(classify(b"CONTENT-length"), Known::ContentLength);
        assert_eq!(classify(b"X-Forwarded-Port"), Known::XForwardedPort);
        assert_eq!(classify(b"x-forwarded-parT"), Known::Other);
        assert_eq!(classify(b"Transfer-Encodin"), Known::Other);
        assert_eq!(classify(b""), Known::Other);
    }

    #[test]
    fn underscored_look_alikes_are_told_apart_from_unknown_names() {
        assert_eq!(classify(b"X_Forwarded_For"), Known::Disguised);
        assert_eq!(classify(b"x-forwarded_proto"), Known::Disguised);
        assert_eq!(classify(b"Content_Length"), Known::Disguised);
        assert_eq!(classify(b"transfer_encoding"), Known::Disguised);
        assert_eq!(classify(b"x_request_idx"), Known::Other);
    }

    #[test]
    fn lists_skip_empty_elements() {
        let elements: Vec<_> = list(b", a ,,b\t, ").collect();
        assert_eq!(elements, [&b"a"[..], b"b"]);
    }
}

//! The fields of one head: found, classified, and marked for keeping or dropping.
//!
//! A field is classified by the length of its name first and by a case-insensitive comparison second, so that
//! an unknown field costs one table jump. Kept fields are copied later as maximal contiguous ranges of the
//! original bytes ([`Fields::kept`]).

use std::ops::Range;

use arrayvec::ArrayVec;

use crate::head::HeadError;

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

/// Whether a token is this known name in any case; both are of one length. Many octets at a time: setting the bit that tells
/// the cases apart makes nothing else alike that may stand in a token.
fn same_token(token: &[u8], name: &[u8]) -> bool {
    const CASE: u64 = u64::from_ne_bytes([0x20; 8]);
    match (token.first_chunk(), token.last_chunk(), name.first_chunk(), name.last_chunk()) {
        // The two overlap in all but the longest names.
        (Some(first), Some(last), Some(name_first), Some(name_last)) if token.len() <= 16 => {
            let differs = |a: &[u8; 8], b: &[u8; 8]| (u64::from_ne_bytes(*a) | CASE) ^ u64::from_ne_bytes(*b);
            differs(first, name_first) | differs(last, name_last) == 0
        }
        _ => token.iter().zip(name).all(|(a, b)| a | 0x20 == *b),
    }
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

/// One field's line, as places in its head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldLine {
    start: u32,
    name_end: u32,
    value: u32,
    value_end: u32,
    known: Known,
}

impl FieldLine {
    /// A line whose name ends at `name_end`; all of it is within the first 4 GiB, as `syntax::field_lines` looks no further.
    pub(crate) fn new(start: usize, name_end: usize, value: Range<usize>, known: Known) -> FieldLine {
        FieldLine {
            start: start as u32,
            name_end: name_end as u32,
            value: value.start as u32,
            value_end: value.end as u32,
            known,
        }
    }

    fn name<'b>(&self, head: &'b [u8]) -> &'b [u8] {
        head.get(self.start as usize..self.name_end as usize).unwrap_or_default()
    }

    fn value<'b>(&self, head: &'b [u8]) -> &'b [u8] {
        head.get(self.value as usize..self.value_end as usize).unwrap_or_default()
    }
}

/// Where a head's field lines are kept: on the caller's stack, so that a head that refers to it is small.
#[derive(Debug, Default)]
pub struct FieldStore {
    lines: ArrayVec<FieldLine, MAX_FIELDS>,
    present: KnownSet,
}

impl FieldStore {
    pub fn new() -> Self {
        FieldStore::default()
    }

    pub(crate) fn clear(&mut self) {
        self.lines.clear();
        self.present = KnownSet::EMPTY;
    }

    pub(crate) fn push(&mut self, line: FieldLine) -> Result<(), HeadError> {
        self.present = self.present.with(line.known);
        self.lines.try_push(line).map_err(|_| HeadError::TooManyFields)
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }
}

/// The fields of one head, in order, over the head's own bytes.
pub struct Fields<'s, 'b> {
    head: &'b [u8],
    lines: &'s [FieldLine],
    present: KnownSet,
    /// Fields that a `Connection` option names.
    named: u128,
}

impl<'s, 'b> Fields<'s, 'b> {
    /// `head` is the whole head with its final empty line; the lines in `store` were found in it.
    pub(crate) fn new(head: &'b [u8], store: &'s FieldStore) -> Self {
        Fields { head, lines: &store.lines, present: store.present, named: 0 }
    }

    /// No fields at all.
    pub fn none() -> Fields<'static, 'static> {
        Fields { head: b"\r\n", lines: &[], present: KnownSet::EMPTY, named: 0 }
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether any field of this kind is there.
    pub fn has(&self, known: Known) -> bool {
        self.present.contains(known)
    }

    /// Every field in order: name as sent, value without surrounding whitespace.
    pub fn iter(&self) -> impl Iterator<Item = (&'b [u8], &'b [u8])> + '_ {
        self.lines.iter().map(|line| (line.name(self.head), line.value(self.head)))
    }

    /// Values of every field of one kind, in order.
    pub fn values(&self, known: Known) -> impl Iterator<Item = &'b [u8]> + '_ {
        let wanted = if self.has(known) { self.lines.len() } else { 0 };
        self.lines[..wanted].iter().filter(move |line| line.known == known).map(|line| line.value(self.head))
    }

    /// The value at `index` if that field is of this kind.
    pub(crate) fn value_if(&self, index: usize, known: Known) -> Option<&'b [u8]> {
        let line = self.lines.get(index)?;
        (line.known == known).then(|| line.value(self.head))
    }

    /// Values of every field with this name, in any case.
    pub fn named<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'b [u8]> + 'a {
        self.lines
            .iter()
            .filter(move |line| line.name(self.head).eq_ignore_ascii_case(name))
            .map(|line| line.value(self.head))
    }

    /// Marks the fields that a `Connection` option names, if they may be removed at all.
    pub(crate) fn mark_connection_option(&mut self, option: &[u8]) {
        for (index, line) in self.lines.iter().enumerate() {
            if line.name(self.head).eq_ignore_ascii_case(option) && !PROTECTED.contains(line.known) {
                self.named |= 1 << index;
            }
        }
    }

    /// The fields to drop: hop-by-hop ones and the kinds in `also`.
    pub fn dropping(&self, also: KnownSet) -> Dropped {
        let kinds = HOP_BY_HOP.union(also).with(Known::Disguised);
        let mut marks = self.named;
        if self.present.0 & kinds.0 != 0 {
            for (index, line) in self.lines.iter().enumerate() {
                marks |= u128::from(kinds.contains(line.known)) << index;
            }
        }
        Dropped(marks)
    }

    /// Adds every field with this name (in any case) to the dropped ones.
    pub fn drop_name(&self, dropped: &mut Dropped, name: &[u8]) {
        for (index, line) in self.lines.iter().enumerate() {
            if line.name(self.head).eq_ignore_ascii_case(name) {
                dropped.0 |= 1 << index;
            }
        }
    }

    /// Whether a field with this name is there and kept.
    pub fn keeps_name(&self, dropped: Dropped, name: &[u8]) -> bool {
        self.lines.iter().enumerate().any(|(index, line)| {
            dropped.0 & 1 << index == 0 && line.name(self.head).eq_ignore_ascii_case(name)
        })
    }

    /// The kept fields as maximal contiguous ranges of the head, whole lines each.
    pub fn kept(&self, dropped: Dropped) -> impl Iterator<Item = &'b [u8]> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            while next < self.lines.len() && dropped.0 & 1 << next != 0 {
                next += 1;
            }
            if next == self.lines.len() {
                return None;
            }
            let start = self.line(next).start;
            while next < self.lines.len() && dropped.0 & 1 << next == 0 {
                next += 1;
            }
            let end = self.line(next - 1).end;
            self.head.get(start..end)
        })
    }

    /// The bytes of one field's line in the head. A line ends where the next one starts: there is nothing between them.
    fn line(&self, index: usize) -> Range<usize> {
        let start_of = |index: usize| self.lines.get(index).map(|line| line.start as usize);
        let end = start_of(index + 1).unwrap_or(self.head.len() - 2);
        start_of(index).unwrap_or(end)..end
    }
}

/// Which fields of a head are not copied to the next hop.
#[derive(Clone, Copy, Debug)]
pub struct Dropped(u128);

/// The elements of a comma-separated list, trimmed, empty ones left out (RFC 9110 section 5.6.1).
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Whether `byte` may stand in a token (RFC 9110 section 5.6.2).
#[inline]
pub const fn is_token_byte(byte: u8) -> bool {
    TOKEN_BYTES[byte as usize]
}

const TOKEN_BYTES: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        allowed[byte] = matches!(byte as u8,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z');
        byte += 1;
    }
    allowed
};

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

//! Request and response heads: where one ends, what it says, and whether it says it in one way only.
//!
//! A [`HeadScan`] goes with the buffer in which a head arrives. [`HeadScan::request`] and [`HeadScan::response`] read a
//! head that is there whole in one pass; one that is not is scanned for its end as its pieces come, in linear time, and
//! read once. Both ways accept and refuse the same heads. Framing follows RFC 9112 section 6 with every choice that it
//! leaves to a recipient taken as "refuse".

use crate::body::Framing;
use crate::field::{FieldStore, Fields, Known, MAX_FIELDS, list};
use crate::syntax::{self, RequestLine, StatusLine, Stop};
use crate::target::{self, Authority, Target};

/// Bounds on one head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of the whole head.
    pub head_bytes: usize,
    /// Bytes of the first line.
    pub first_line_bytes: usize,
    /// Number of fields; at most [`MAX_FIELDS`].
    pub fields: usize,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("a line does not end in CRLF, or CR or LF stands alone")]
    LineEnding,
    #[error("a blank line stands before the first line")]
    BlankLine,
    #[error("a line is folded or starts with whitespace")]
    Folding,
    #[error("the first line is malformed")]
    FirstLine,
    #[error("a field is malformed")]
    Field,
    #[error("the version is not 1.0 or 1.1")]
    Version,
    #[error("the request target is malformed")]
    Target,
    #[error("CONNECT is not served")]
    Connect,
    #[error("Host is missing")]
    HostMissing,
    #[error("Host occurs more than once")]
    HostRepeated,
    #[error("Host is malformed")]
    Host,
    #[error("Host and the absolute target name different places")]
    HostDiffers,
    #[error("Content-Length is malformed or too large")]
    ContentLength,
    #[error("Content-Length occurs more than once")]
    ContentLengthRepeated,
    #[error("Content-Length and Transfer-Encoding are both there")]
    LengthAndEncoding,
    #[error("Transfer-Encoding is not exactly `chunked`")]
    TransferEncoding,
    #[error("Transfer-Encoding in HTTP/1.0")]
    EncodingInOldVersion,
    #[error("an upgrade request has a body")]
    UpgradeWithBody,
    #[error("a TRACE request has a body")]
    TraceWithBody,
    #[error("Expect is not `100-continue`")]
    Expectation,
    #[error("a 101 nobody asked for")]
    UnaskedUpgrade,
    #[error("the first line is too long")]
    FirstLineTooLong,
    #[error("the head is too large")]
    TooLarge,
    #[error("the head has too many fields")]
    TooManyFields,
}

impl HeadError {
    /// A short constant name for logs and metric labels.
    pub const fn reason(self) -> &'static str {
        match self {
            HeadError::LineEnding => "line_ending",
            HeadError::BlankLine => "blank_line",
            HeadError::Folding => "folding",
            HeadError::FirstLine => "first_line",
            HeadError::Field => "field",
            HeadError::Version => "version",
            HeadError::Target => "target",
            HeadError::Connect => "connect",
            HeadError::HostMissing => "host_missing",
            HeadError::HostRepeated => "host_repeated",
            HeadError::Host => "host",
            HeadError::HostDiffers => "host_differs",
            HeadError::ContentLength => "content_length",
            HeadError::ContentLengthRepeated => "content_length_repeated",
            HeadError::LengthAndEncoding => "length_and_encoding",
            HeadError::TransferEncoding => "transfer_encoding",
            HeadError::EncodingInOldVersion => "encoding_in_old_version",
            HeadError::UpgradeWithBody => "upgrade_with_body",
            HeadError::TraceWithBody => "trace_with_body",
            HeadError::Expectation => "expectation",
            HeadError::UnaskedUpgrade => "unasked_upgrade",
            HeadError::FirstLineTooLong => "first_line_too_long",
            HeadError::TooLarge => "head_too_large",
            HeadError::TooManyFields => "too_many_fields",
        }
    }
}

/// Where the reading of one head is. Keep one beside the buffer in which a head arrives, and call it with all bytes so
/// far; only new ones are looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScan {
    /// Bytes whose line endings were checked.
    checked: usize,
    line_start: usize,
    lines: usize,
}

impl HeadScan {
    /// The request head at the start of `bytes` with its length, once it is there whole.
    pub fn request<'s, 'b>(
        &mut self,
        bytes: &'b [u8],
        limits: &HeadLimits,
        store: &'s mut FieldStore,
    ) -> Result<Option<(RequestHead<'s, 'b>, usize)>, HeadError> {
        if self.checked > 0 || bytes.is_empty() {
            let Some(length) = self.advance(bytes, limits)? else { return Ok(None) };
            return RequestHead::parse(&bytes[..length], store).map(|head| Some((head, length)));
        }
        match self.whole(bytes, find_request(bytes, store), store.len(), limits)? {
            Some((line, length)) => {
                RequestHead::accept(line, &bytes[..length], store).map(|head| Some((head, length)))
            }
            None => Ok(None),
        }
    }

    /// The response head at the start of `bytes` with its length, once it is there whole.
    pub fn response<'s, 'b>(
        &mut self,
        bytes: &'b [u8],
        asked: Asked,
        limits: &HeadLimits,
        store: &'s mut FieldStore,
    ) -> Result<Option<(ResponseHead<'s, 'b>, usize)>, HeadError> {
        if self.checked > 0 || bytes.is_empty() {
            let Some(length) = self.advance(bytes, limits)? else { return Ok(None) };
            return ResponseHead::parse(&bytes[..length], asked, store).map(|head| Some((head, length)));
        }
        match self.whole(bytes, find_response(bytes, store), store.len(), limits)? {
            Some((line, length)) => {
                ResponseHead::accept(line, asked, &bytes[..length], store).map(|head| Some((head, length)))
            }
            None => Ok(None),
        }
    }

    /// What a look at everything that is there means. A head that is whole and within the limits is taken; anything else
    /// is scanned, which says what is wrong or that more has to come.
    fn whole<L: FirstLine>(
        &mut self,
        bytes: &[u8],
        found: Result<(L, usize), Stop>,
        fields: usize,
        limits: &HeadLimits,
    ) -> Result<Option<(L, usize)>, HeadError> {
        if let Ok((line, length)) = found
            && line.length() <= limits.first_line_bytes.saturating_add(2)
            && length <= limits.head_bytes
            && fields <= limits.fields
        {
            return Ok(Some((line, length)));
        }
        match (self.advance(bytes, limits)?, found) {
            (_, Err(Stop::Wrong(error))) => Err(error),
            (None, Err(Stop::Incomplete)) => Ok(None),
            // The two do not agree about where the head ends: it can be read in two ways.
            (Some(_), Err(Stop::Incomplete)) | (_, Ok(_)) => Err(HeadError::LineEnding),
        }
    }

    /// `bytes` starts at the head's first byte. Gives the head's length once its empty line has arrived.
    pub fn advance(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
        while let Some(found) = memchr::memchr2(b'\r', b'\n', &bytes[self.checked.min(bytes.len())..]) {
            let at = self.checked + found;
            if bytes[at] == b'\n' {
                return Err(if at == 0 { HeadError::BlankLine } else { HeadError::LineEnding });
            }
            match bytes.get(at + 1) {
                None => {
                    self.checked = at;
                    return self.incomplete(bytes, limits);
                }
                Some(b'\n') => {}
                Some(_) => return Err(HeadError::LineEnding),
            }
            let end = at + 2;
            if end > limits.head_bytes {
                return Err(HeadError::TooLarge);
            }
            if at == self.line_start {
                return if self.lines == 0 { Err(HeadError::BlankLine) } else { Ok(Some(end)) };
            }
            self.line(&bytes[self.line_start..at], limits)?;
            self.checked = end;
            self.line_start = end;
        }
        self.checked = bytes.len();
        self.incomplete(bytes, limits)
    }

    /// Whether any byte of a head was seen.
    pub fn started(&self) -> bool {
        self.checked > 0
    }

    fn line(&mut self, line: &[u8], limits: &HeadLimits) -> Result<(), HeadError> {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(HeadError::Folding);
        }
        if self.lines == 0 && line.len() > limits.first_line_bytes {
            return Err(HeadError::FirstLineTooLong);
        }
        if self.lines > limits.fields.min(MAX_FIELDS) {
            return Err(HeadError::TooManyFields);
        }
        self.lines += 1;
        Ok(())
    }

    fn incomplete(&self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
        if self.lines == 0 && bytes.len() > limits.first_line_bytes.saturating_add(1) {
            return Err(HeadError::FirstLineTooLong);
        }
        if bytes.len() > limits.head_bytes {
            return Err(HeadError::TooLarge);
        }
        Ok(None)
    }
}

/// The first line of either kind of head.
trait FirstLine: Copy {
    /// Bytes, with its CRLF.
    fn length(&self) -> usize;
}

impl FirstLine for RequestLine<'_> {
    fn length(&self) -> usize {
        self.length
    }
}

impl FirstLine for StatusLine<'_> {
    fn length(&self) -> usize {
        self.length
    }
}

/// The request line and the fields, into `store`, of the head at the start of `bytes`, with its length.
fn find_request<'b>(bytes: &'b [u8], store: &mut FieldStore) -> Result<(RequestLine<'b>, usize), Stop> {
    let line = syntax::request_line(bytes)?;
    Ok((line, syntax::field_lines(bytes, line.length, store)?))
}

/// As [`find_request`], of a response.
fn find_response<'b>(bytes: &'b [u8], store: &mut FieldStore) -> Result<(StatusLine<'b>, usize), Stop> {
    let line = syntax::status_line(bytes)?;
    Ok((line, syntax::field_lines(bytes, line.length, store)?))
}

/// A head that has to be whole, and nothing behind it.
fn exactly<L>(found: Result<(L, usize), Stop>, bytes: &[u8]) -> Result<L, HeadError> {
    match found {
        Ok((line, length)) if length == bytes.len() => Ok(line),
        Ok(_) | Err(Stop::Incomplete) => Err(HeadError::FirstLine),
        Err(Stop::Wrong(error)) => Err(error),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// A request head that was accepted.
pub struct RequestHead<'s, 'b> {
    pub method: &'b [u8],
    pub target: Target<'b>,
    /// What the request is for: the absolute target's authority, else `Host`.
    pub authority: Authority<'b>,
    pub version: Version,
    pub framing: Framing,
    /// Whether the client wants the connection to stay.
    pub keep_alive: bool,
    /// The protocols that the client wants to change to, where that may be passed on.
    pub upgrade: Option<&'b [u8]>,
    pub expect_continue: bool,
    pub te_trailers: bool,
    pub fields: Fields<'s, 'b>,
}

impl<'s, 'b> RequestHead<'s, 'b> {
    /// Reads a whole head: the bytes up to the length that [`HeadScan::advance`] gave.
    pub fn parse(head: &'b [u8], store: &'s mut FieldStore) -> Result<Self, HeadError> {
        RequestHead::accept(exactly(find_request(head, store), head)?, head, store)
    }

    fn accept(line: RequestLine<'b>, head: &'b [u8], store: &'s FieldStore) -> Result<Self, HeadError> {
        let RequestLine { method, version, .. } = line;
        let mut fields = Fields::new(head, store);
        let target = target::parse(method, line.target)?;
        let authority = authority(&fields, version, &target)?;
        let framing = request_framing(&fields, version)?;
        let options = connection_options(&mut fields)?;
        let upgrade = if version == Version::Http11 && options.upgrade { upgrade(&fields) } else { None };
        let has_body = !matches!(framing, Framing::None | Framing::Length(0));
        if has_body && upgrade.is_some() {
            return Err(HeadError::UpgradeWithBody);
        }
        if has_body && method == b"TRACE" {
            return Err(HeadError::TraceWithBody);
        }
        let te_trailers =
            fields.values(Known::Te).flat_map(list).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
        Ok(RequestHead {
            method,
            target,
            authority,
            version,
            framing,
            keep_alive: options.keep_alive(version),
            upgrade,
            expect_continue: expectation(&fields, version)?,
            te_trailers,
            fields,
        })
    }

    pub fn is_head(&self) -> bool {
        self.method == b"HEAD"
    }

    /// Whether doing the request twice means the same as doing it once (RFC 9110 section 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
    }
}

/// What a response's meaning depends on.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The request was a HEAD.
    pub head: bool,
    /// The request asked for an upgrade.
    pub upgrade: bool,
}

/// A response head that was accepted.
pub struct ResponseHead<'s, 'b> {
    pub version: Version,
    pub status: u16,
    /// The status code and reason phrase as sent.
    pub status_and_reason: &'b [u8],
    pub framing: Framing,
    /// Whether the connection may carry another exchange after this one.
    pub reusable: bool,
    /// The protocol of a 101.
    pub upgrade: Option<&'b [u8]>,
    pub fields: Fields<'s, 'b>,
}

impl<'s, 'b> ResponseHead<'s, 'b> {
    /// Reads a whole head: the bytes up to the length that [`HeadScan::advance`] gave.
    pub fn parse(head: &'b [u8], asked: Asked, store: &'s mut FieldStore) -> Result<Self, HeadError> {
        ResponseHead::accept(exactly(find_response(head, store), head)?, asked, head, store)
    }

    fn accept(
        line: StatusLine<'b>,
        asked: Asked,
        head: &'b [u8],
        store: &'s FieldStore,
    ) -> Result<Self, HeadError> {
        let StatusLine { version, status, status_and_reason, .. } = line;
        if status < 100 {
            return Err(HeadError::FirstLine);
        }
        let mut fields = Fields::new(head, store);
        let options = connection_options(&mut fields)?;
        let declared = declared_framing(&fields, version)?;
        let framing = response_framing(status, asked, declared);
        let upgrade = if status == 101 { fields.values(Known::Upgrade).next() } else { None };
        if status == 101 && (!asked.upgrade || upgrade.is_none() || !options.upgrade) {
            return Err(HeadError::UnaskedUpgrade);
        }
        let reusable = options.keep_alive(version)
            && !matches!(framing, Framing::UntilClose | Framing::Tunnel)
            && !body_where_none_may_be(status, declared);
        Ok(ResponseHead { version, status, status_and_reason, framing, reusable, upgrade, fields })
    }

    /// 1xx other than 101: another response follows.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

fn authority<'b>(
    fields: &Fields<'_, 'b>,
    version: Version,
    target: &Target<'b>,
) -> Result<Authority<'b>, HeadError> {
    let mut hosts = fields.values(Known::Host);
    let host = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(HeadError::HostRepeated),
        (None, _) if version == Version::Http11 => return Err(HeadError::HostMissing),
        (host, None) => host.map(Authority::parse).transpose()?,
        (None, Some(_)) => None,
    };
    let Target::Path { absolute: Some(absolute), .. } = target else {
        return Ok(host.unwrap_or_default());
    };
    let authority = Authority::parse(absolute.authority)?;
    if authority.host.is_empty() {
        return Err(HeadError::Host);
    }
    let default_port = if absolute.secure { 443 } else { 80 };
    match host {
        Some(host) if !host.same_as(&authority, default_port) => Err(HeadError::HostDiffers),
        _ => Ok(authority),
    }
}

/// What Content-Length and Transfer-Encoding say, with every contradiction refused (RFC 9112 section 6.3).
fn declared_framing(fields: &Fields<'_, '_>, version: Version) -> Result<Option<Framing>, HeadError> {
    let encoded = fields.has(Known::TransferEncoding);
    if !fields.has(Known::ContentLength) {
        return if encoded { encoding(fields, version).map(Some) } else { Ok(None) };
    }
    if encoded {
        return Err(HeadError::LengthAndEncoding);
    }
    let mut lengths = fields.values(Known::ContentLength);
    let length = content_length(lengths.next().unwrap_or_default())?;
    if lengths.next().is_some() {
        return Err(HeadError::ContentLengthRepeated);
    }
    Ok(Some(Framing::Length(length)))
}

fn encoding(fields: &Fields<'_, '_>, version: Version) -> Result<Framing, HeadError> {
    if version == Version::Http10 {
        return Err(HeadError::EncodingInOldVersion);
    }
    let mut values = fields.values(Known::TransferEncoding);
    match (values.next(), values.next()) {
        (Some(value), None) if value.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        _ => Err(HeadError::TransferEncoding),
    }
}

/// Digits only, at most 2^63 - 1.
fn content_length(value: &[u8]) -> Result<u64, HeadError> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(HeadError::ContentLength);
    }
    let length = value.iter().fold(0u64, |length, digit| length * 10 + u64::from(digit - b'0'));
    if length > i64::MAX as u64 { Err(HeadError::ContentLength) } else { Ok(length) }
}

fn request_framing(fields: &Fields<'_, '_>, version: Version) -> Result<Framing, HeadError> {
    Ok(declared_framing(fields, version)?.unwrap_or(Framing::None))
}

fn response_framing(status: u16, asked: Asked, declared: Option<Framing>) -> Framing {
    match status {
        101 => Framing::Tunnel,
        100..=199 | 204 | 304 => Framing::None,
        _ if asked.head => Framing::None,
        _ => declared.unwrap_or(Framing::UntilClose),
    }
}

/// A 1xx or 204 that announces a body: bytes may follow that belong to nothing.
fn body_where_none_may_be(status: u16, declared: Option<Framing>) -> bool {
    (status < 200 || status == 204) && !matches!(declared, None | Some(Framing::Length(0)))
}

#[derive(Clone, Copy, Default)]
struct ConnectionOptions {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
}

impl ConnectionOptions {
    fn keep_alive(self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.close,
            Version::Http10 => self.keep_alive && !self.close,
        }
    }
}

/// What the `Connection` fields say. Each option that names a field is looked for among all: there can be no more of them than fields.
fn connection_options(fields: &mut Fields<'_, '_>) -> Result<ConnectionOptions, HeadError> {
    let mut options = ConnectionOptions::default();
    if !fields.has(Known::Connection) {
        return Ok(options);
    }
    let mut named = 0;
    for index in 0..fields.len() {
        let Some(value) = fields.value_if(index, Known::Connection) else { continue };
        for option in list(value) {
            if option.eq_ignore_ascii_case(b"close") {
                options.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                options.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                options.upgrade = true;
            } else {
                named += 1;
                if named > MAX_FIELDS {
                    return Err(HeadError::TooManyFields);
                }
                fields.mark_connection_option(option);
            }
        }
    }
    Ok(options)
}

/// The value of the one Upgrade field, unless it offers a protocol that would carry HTTP past this gateway's
/// routing (`h2c`) or is not a tunnel at all.
fn upgrade<'b>(fields: &Fields<'_, 'b>) -> Option<&'b [u8]> {
    let mut values = fields.values(Known::Upgrade);
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let carries_http = |protocol: &[u8]| {
        let name = protocol.split(|b| *b == b'/').next().unwrap_or_default();
        [&b"h2c"[..], b"h2", b"h3", b"http", b"tls"].iter().any(|other| name.eq_ignore_ascii_case(other))
    };
    let usable = list(value).next().is_some() && !list(value).any(carries_http);
    usable.then_some(value)
}

fn expectation(fields: &Fields<'_, '_>, version: Version) -> Result<bool, HeadError> {
    if version == Version::Http10 {
        return Ok(false);
    }
    let mut expected = false;
    for value in fields.values(Known::Expect) {
        if expected || !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(HeadError::Expectation);
        }
        expected = true;
    }
    Ok(expected)
}

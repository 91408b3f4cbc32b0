//! The written form of a head: a first line and field lines, each ended by CRLF and by nothing else.
//!
//! One pass over the bytes that are there finds and checks every line, and tells what each field is. Names and values are
//! looked at eight octets at a time. Invariants: what is found lies one line after another, without a gap; no byte that RFC 9112
//! allows nowhere is passed over. Deliberately absent: what the lines mean together (`head`), bounds on lines and heads, and
//! precise reasons for line ends that are wrong ([`crate::head::HeadScan::advance`] knows).

use crate::field::{FieldLine, FieldStore, classify, is_token_byte};
use crate::head::{HeadError, Version};

/// Why no head was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// What is there may be the beginning of one.
    Incomplete,
    Wrong(HeadError),
}

use Stop::{Incomplete, Wrong};

/// The first line of a request (RFC 9112 section 3).
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestLine<'b> {
    pub(crate) method: &'b [u8],
    pub(crate) target: &'b [u8],
    pub(crate) version: Version,
    /// With its CRLF.
    pub(crate) length: usize,
}

/// The first line of a response (RFC 9112 section 4).
#[derive(Clone, Copy, Debug)]
pub(crate) struct StatusLine<'b> {
    pub(crate) version: Version,
    pub(crate) status: u16,
    pub(crate) status_and_reason: &'b [u8],
    /// With its CRLF.
    pub(crate) length: usize,
}

/// The request line at the start of `bytes`.
pub(crate) fn request_line(bytes: &[u8]) -> Result<RequestLine<'_>, Stop> {
    let method_end = skip(bytes, 0, is_token_byte);
    let target_at = after(bytes, method_end, b' ', HeadError::FirstLine)?;
    let target_end = target_end(bytes, target_at);
    let version_at = after(bytes, target_end, b' ', HeadError::FirstLine)?;
    let (method, target) = (&bytes[..method_end], &bytes[target_at..target_end]);
    let is_text = target.is_ascii() || std::str::from_utf8(target).is_ok();
    if method.is_empty() || target.is_empty() || !is_text {
        return Err(Wrong(HeadError::FirstLine));
    }
    let version = version(&bytes[version_at..])?;
    let length = line_end(bytes, version_at + VERSION_BYTES, HeadError::LineEnding)?;
    Ok(RequestLine { method, target, version, length })
}

/// The status line at the start of `bytes`. A reason phrase, and the space before it, may be missing.
pub(crate) fn status_line(bytes: &[u8]) -> Result<StatusLine<'_>, Stop> {
    let version = version(bytes)?;
    let status_at = after(bytes, VERSION_BYTES, b' ', HeadError::Version)?;
    let mut status = 0;
    for at in status_at..status_at + 3 {
        match bytes.get(at) {
            Some(digit @ b'0'..=b'9') => status = status * 10 + u16::from(digit - b'0'),
            Some(_) => return Err(Wrong(HeadError::FirstLine)),
            None => return Err(Incomplete),
        }
    }
    let status_end = status_at + 3;
    let reason_end = match bytes.get(status_end) {
        Some(b' ') => value_end(bytes, status_end),
        _ => status_end,
    };
    let length = line_end(bytes, reason_end, HeadError::FirstLine)?;
    Ok(StatusLine { version, status, status_and_reason: &bytes[status_at..reason_end], length })
}

/// The field lines from `start` on (RFC 9112 section 5), into `store`. Gives the end of the empty line behind them.
pub(crate) fn field_lines(bytes: &[u8], start: usize, store: &mut FieldStore) -> Result<usize, Stop> {
    store.clear();
    let bytes = &bytes[..bytes.len().min(u32::MAX as usize)];
    let mut at = start;
    loop {
        let name_end = name_end(bytes, at);
        match bytes.get(name_end) {
            Some(b':') if name_end > at => {}
            Some(b'\r') if name_end == at => return line_end(bytes, at, HeadError::LineEnding),
            Some(_) => return Err(Wrong(HeadError::Field)),
            None => return Err(Incomplete),
        }
        let mut value_at = name_end + 1;
        while bytes.get(value_at).copied().is_some_and(is_blank) {
            value_at += 1;
        }
        let line_ends = value_end(bytes, value_at);
        let next = line_end(bytes, line_ends, HeadError::Field)?;
        let mut value_end = line_ends;
        while value_end > value_at && is_blank(bytes[value_end - 1]) {
            value_end -= 1;
        }
        let known = classify(&bytes[at..name_end]);
        store.push(FieldLine::new(at, name_end, value_at..value_end, known)).map_err(Wrong)?;
        at = next;
    }
}

const VERSION_BYTES: usize = 8;

fn version(bytes: &[u8]) -> Result<Version, Stop> {
    match bytes.first_chunk::<VERSION_BYTES>() {
        Some(b"HTTP/1.1") => Ok(Version::Http11),
        Some(b"HTTP/1.0") => Ok(Version::Http10),
        None if b"HTTP/1.".starts_with(&bytes[..bytes.len().min(7)]) => Err(Incomplete),
        _ => Err(Wrong(HeadError::Version)),
    }
}

/// The place behind `wanted`, which has to be at `at`.
fn after(bytes: &[u8], at: usize, wanted: u8, otherwise: HeadError) -> Result<usize, Stop> {
    match bytes.get(at) {
        Some(byte) if *byte == wanted => Ok(at + 1),
        Some(_) => Err(Wrong(otherwise)),
        None => Err(Incomplete),
    }
}

/// The place behind the CRLF, which has to be at `at`.
fn line_end(bytes: &[u8], at: usize, otherwise: HeadError) -> Result<usize, Stop> {
    match bytes.get(at..) {
        Some([b'\r', b'\n', ..]) => Ok(at + 2),
        Some([] | [b'\r']) | None => Err(Incomplete),
        Some(_) => Err(Wrong(otherwise)),
    }
}

/// The first place from `at` on where a byte is not `allowed`.
fn skip(bytes: &[u8], at: usize, allowed: impl Fn(u8) -> bool) -> usize {
    at + bytes[at..].iter().take_while(|byte| allowed(**byte)).count()
}

const fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const TOPS: u64 = ONES << 7;

/// Eight octets, the first one lowest.
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Which octet the lowest mark stands for.
fn first_mark(marks: u64) -> usize {
    (marks.trailing_zeros() / 8) as usize
}

/// The end of the name that begins at `at`: letters and dashes eight at a time, all else that a token may have one by one.
fn name_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(word) = word(bytes, at) {
        let lower = (word | (ONES * 0x20)) & !TOPS;
        // No sum reaches the next octet: seven bits and seven bits.
        let letters = (lower + ONES * (0x80 - b'a' as u64)) & !(lower + ONES * (0x7f - b'z' as u64));
        let not_dashes = (word ^ (ONES * b'-' as u64)) & !TOPS;
        let dashes = !(not_dashes + ONES * 0x7f);
        let others = (!(letters | dashes) | word) & TOPS;
        if others == 0 {
            at += 8;
            continue;
        }
        at += first_mark(others);
        if !is_token_byte(bytes[at]) {
            return at;
        }
        at += 1;
    }
    skip(bytes, at, is_token_byte)
}

/// The first place from `at` on where a byte may not stand in a value.
fn value_end(bytes: &[u8], mut at: usize) -> usize {
    loop {
        at = first_below(bytes, at, b' ');
        if bytes.get(at) != Some(&b'\t') {
            return at;
        }
        at += 1;
    }
}

/// The end of the target that begins at `at`: no control and no space. Octets beyond ASCII may stand in it: clients send them,
/// and origins expect them.
fn target_end(bytes: &[u8], at: usize) -> usize {
    first_below(bytes, at, b' ' + 1)
}

/// The first place from `at` on with an octet less than `least` (at most 0x80) or DEL, else the end.
fn first_below(bytes: &[u8], mut at: usize, least: u8) -> usize {
    while let Some(word) = word(bytes, at) {
        let low = word & !TOPS;
        // The top bit of an octet stays clear where it is less, and is set where it is DEL.
        let less = !(low + ONES * u64::from(0x80 - least));
        let deletes = low + ONES;
        let marks = (less | deletes) & TOPS & !word;
        if marks != 0 {
            return at + first_mark(marks);
        }
        at += 8;
    }
    skip(bytes, at, |byte| byte >= least && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::is_value_byte;

    #[test]
    fn eight_octets_at_a_time_end_where_one_at_a_time_does() {
        for byte in 0..=255_u8 {
            for place in 0..23 {
                let mut bytes = *b"content-lengthCONTENT-x";
                bytes[place] = byte;
                assert_eq!(name_end(&bytes, 0), skip(&bytes, 0, is_token_byte), "{byte:#x} at {place}");
                assert_eq!(value_end(&bytes, 0), skip(&bytes, 0, is_value_byte), "{byte:#x} at {place}");
                let in_target = |byte| byte > b' ' && byte != 0x7f;
                assert_eq!(target_end(&bytes, 0), skip(&bytes, 0, in_target), "{byte:#x} at {place}");
            }
        }
    }

    #[test]
    fn every_beginning_of_a_head_is_incomplete_and_nothing_else() {
        let head = b"GET /a?b HTTP/1.1\r\nHost: h\r\nA-Long-Name_1:\t some value \r\n\r\n";
        for end in 0..head.len() {
            let read = request_line(&head[..end])
                .and_then(|line| field_lines(&head[..end], line.length, &mut FieldStore::new()));
            assert_eq!(read, Err(Incomplete), "{end}");
        }
        let status = b"HTTP/1.1 200 OK\r\n";
        for end in 0..status.len() {
            assert_eq!(status_line(&status[..end]).err(), Some(Incomplete), "{end}");
        }
    }
}

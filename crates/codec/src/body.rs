//! Where a body ends, and which of its bytes go on.
//!
//! A [`BodyScan`] is fed the bytes that arrive and answers with [`Step`]s: drop so many, pass on so many. A
//! chunked body goes on in its own chunks, byte for byte, except for chunk extensions (which no recipient needs
//! and which parsers disagree about) and trailer fields that may not be trailers. Bytes after the body's end are
//! never touched.
//!
//! Bounds: 16 hexadecimal digits of chunk size and at most 2^63 - 1 bytes a chunk; [`BodyLimits`] for the rest.

use crate::field::{HOP_BY_HOP, Known, KnownSet, classify, is_token_byte, is_value_byte};

/// Bounds on what a chunked body has beside its data.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Bytes of chunk extensions in one body.
    pub extension_bytes: u32,
    /// Bytes of the trailer section, its final empty line included.
    pub trailer_bytes: u32,
}

/// How a message's body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks, then trailers.
    Chunked,
    /// Everything until the sender closes; responses only.
    UntilClose,
    /// No message any more: bytes both ways after a 101.
    Tunnel,
}

/// What a chunked body is turned into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Its own chunks.
    AsSent,
    /// Its data alone, for a recipient that does not know chunks.
    DataOnly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("a chunk size is malformed")]
    ChunkSize,
    #[error("a chunk is too large")]
    ChunkTooLarge,
    #[error("a chunk extension is malformed or too long")]
    Extension,
    #[error("a chunk's data does not end in CRLF")]
    ChunkEnd,
    #[error("a trailer is malformed")]
    Trailer,
    #[error("the trailer section is too large")]
    TrailersTooLarge,
    #[error("the sender closed before the body's end")]
    Truncated,
}

/// What to do with the next bytes: drop `skip`, then pass on `pass`. Both are zero when more bytes are needed
/// or the body is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub skip: usize,
    pub pass: usize,
}

/// The place in one body.
#[derive(Clone, Copy, Debug)]
pub struct BodyScan {
    state: State,
    form: Form,
    /// What is left of each.
    left: BodyLimits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    /// In the hexadecimal digits of a chunk size.
    Size {
        value: u64,
        digits: u8,
    },
    /// In a chunk extension; `value` is the chunk's size.
    Extension {
        value: u64,
    },
    /// Between CR and LF after a chunk size.
    SizeLineEnd {
        value: u64,
    },
    Data(u64),
    /// CR, then LF after a chunk's data.
    DataEnd {
        cr_seen: bool,
    },
    /// At the start of a trailer line.
    Trailer,
    Done,
}

enum Verdict {
    Pass,
    Skip,
}

impl BodyScan {
    /// For a message without a body.
    pub const fn nothing() -> BodyScan {
        BodyScan {
            state: State::Done,
            form: Form::AsSent,
            left: BodyLimits { extension_bytes: 0, trailer_bytes: 0 },
        }
    }

    pub fn new(framing: Framing, form: Form, limits: BodyLimits) -> BodyScan {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { value: 0, digits: 0 },
            Framing::UntilClose | Framing::Tunnel => State::UntilClose,
        };
        BodyScan { state, form, left: limits }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes of the body that are still to come, where that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// The sender closed.
    pub fn end_of_input(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyError::Truncated),
        }
    }

    /// What comes next is the trailer section. With [`Form::DataOnly`] no step crosses its start, so that a caller who wants
    /// the trailers finds their lines, and the empty one after them, in what the next step drops.
    pub fn is_in_trailers(&self) -> bool {
        self.state == State::Trailer
    }

    /// Looks at `input`, the bytes not yet accounted for. The caller drops `skip` of them, passes `pass` on, and
    /// calls again with the rest; a zero step asks for more input, with what is left kept in place.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, BodyError> {
        let mut step = Step::default();
        while step.skip + step.pass < input.len() {
            let rest = &input[step.skip + step.pass..];
            let before = *self;
            let Some((length, verdict)) = self.piece(rest)? else { break };
            match verdict {
                Verdict::Pass => step.pass += length,
                Verdict::Skip if step.pass == 0 => step.skip += length,
                // A dropped piece ends the contiguous range; it is looked at again in the next step.
                Verdict::Skip if length > 0 => {
                    *self = before;
                    break;
                }
                Verdict::Skip => {}
            }
            let at_trailers =
                self.form == Form::DataOnly && self.is_in_trailers() && before.state != State::Trailer;
            if self.is_done() || at_trailers {
                break;
            }
        }
        Ok(step)
    }

    /// One piece of one kind at the start of `input` (not empty), or `None` when it has not arrived whole.
    fn piece(&mut self, input: &[u8]) -> Result<Option<(usize, Verdict)>, BodyError> {
        let framing = match self.form {
            Form::AsSent => Verdict::Pass,
            Form::DataOnly => Verdict::Skip,
        };
        match self.state {
            State::Done => Ok(None),
            State::UntilClose => Ok(Some((input.len(), Verdict::Pass))),
            State::Length(left) => {
                let length = within(left, input);
                self.state =
                    if length as u64 == left { State::Done } else { State::Length(left - length as u64) };
                Ok(Some((length, Verdict::Pass)))
            }
            State::Data(left) => {
                let length = within(left, input);
                self.state = if length as u64 == left {
                    State::DataEnd { cr_seen: false }
                } else {
                    State::Data(left - length as u64)
                };
                Ok(Some((length, Verdict::Pass)))
            }
            State::DataEnd { cr_seen } => {
                self.state = match (cr_seen, input[0]) {
                    (false, b'\r') => State::DataEnd { cr_seen: true },
                    (true, b'\n') => State::Size { value: 0, digits: 0 },
                    _ => return Err(BodyError::ChunkEnd),
                };
                Ok(Some((1, framing)))
            }
            State::Size { value, digits } => {
                self.size(input, value, digits).map(|length| Some((length, framing)))
            }
            State::SizeLineEnd { value } => {
                if input[0] != b'\n' {
                    return Err(BodyError::ChunkSize);
                }
                self.state = if value == 0 { State::Trailer } else { State::Data(value) };
                Ok(Some((1, framing)))
            }
            State::Extension { value } => {
                self.extension(input, value).map(|length| Some((length, Verdict::Skip)))
            }
            State::Trailer => self.trailer(input),
        }
    }

    fn size(&mut self, input: &[u8], mut value: u64, mut digits: u8) -> Result<usize, BodyError> {
        for (index, byte) in input.iter().enumerate() {
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                b'A'..=b'F' => byte - b'A' + 10,
                b'\r' | b';' if digits == 0 => return Err(BodyError::ChunkSize),
                b'\r' => {
                    self.state = State::SizeLineEnd { value };
                    return Ok(index + 1);
                }
                b';' => {
                    self.state = State::Extension { value };
                    return Ok(index);
                }
                _ => return Err(BodyError::ChunkSize),
            };
            digits += 1;
            value = value << 4 | u64::from(digit);
            if digits > 16 || value > i64::MAX as u64 {
                return Err(BodyError::ChunkTooLarge);
            }
        }
        self.state = State::Size { value, digits };
        Ok(input.len())
    }

    /// Drops an extension up to, not including, the CR that ends its line.
    fn extension(&mut self, input: &[u8], value: u64) -> Result<usize, BodyError> {
        let length = input.iter().position(|b| !is_value_byte(*b)).unwrap_or(input.len());
        let spent = u32::try_from(length).unwrap_or(u32::MAX);
        self.left.extension_bytes =
            self.left.extension_bytes.checked_sub(spent).ok_or(BodyError::Extension)?;
        match input.get(length) {
            None => {}
            // As after bare digits: the CR is read again there, and passed on.
            Some(b'\r') => self.state = State::Size { value, digits: 16 },
            Some(_) => return Err(BodyError::Extension),
        }
        Ok(length)
    }

    fn trailer(&mut self, input: &[u8]) -> Result<Option<(usize, Verdict)>, BodyError> {
        let room = self.left.trailer_bytes as usize;
        let Some(end) = memchr::memchr(b'\n', input) else {
            return if input.len() >= room { Err(BodyError::TrailersTooLarge) } else { Ok(None) };
        };
        let length = end + 1;
        if length > room {
            return Err(BodyError::TrailersTooLarge);
        }
        let line = input[..length].strip_suffix(b"\r\n").ok_or(BodyError::Trailer)?;
        self.left.trailer_bytes -= u32::try_from(length).unwrap_or(self.left.trailer_bytes);
        let kept = self.form == Form::AsSent;
        if line.is_empty() {
            self.state = State::Done;
            return Ok(Some((length, if kept { Verdict::Pass } else { Verdict::Skip })));
        }
        let colon = memchr::memchr(b':', line).ok_or(BodyError::Trailer)?;
        let (name, value) = line.split_at(colon);
        if name.is_empty()
            || !name.iter().copied().all(is_token_byte)
            || !value.iter().copied().all(is_value_byte)
        {
            return Err(BodyError::Trailer);
        }
        let pass = kept && may_be_trailer(name);
        Ok(Some((length, if pass { Verdict::Pass } else { Verdict::Skip })))
    }
}

fn within(left: u64, input: &[u8]) -> usize {
    usize::try_from(left).map_or(input.len(), |left| left.min(input.len()))
}

/// Framing, routing, connection, forwarding and authentication fields mean nothing, or harm, after a body
/// (RFC 9110 section 6.5.1).
fn may_be_trailer(name: &[u8]) -> bool {
    const NEVER: KnownSet = HOP_BY_HOP
        .union(crate::field::FORWARDING)
        .with(Known::ContentLength)
        .with(Known::Host)
        .with(Known::Trailer)
        .with(Known::Expect)
        .with(Known::Via)
        .with(Known::Disguised);
    const ALSO_NEVER: [&[u8]; 9] = [
        b"authorization",
        b"www-authenticate",
        b"cookie",
        b"set-cookie",
        b"content-type",
        b"content-encoding",
        b"content-range",
        b"cache-control",
        b"max-forwards",
    ];
    !NEVER.contains(classify(name)) && !ALSO_NEVER.iter().any(|never| name.eq_ignore_ascii_case(never))
}

/// Writes the line that starts a chunk of `length` bytes; the chunk's data ends with [`CHUNK_END`].
pub fn chunk_start(length: usize, out: &mut Vec<u8>) {
    let mut digits = [0u8; 16];
    let mut at = digits.len();
    let mut left = length;
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[left & 15];
        left >>= 4;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// Ends a chunk's data.
pub const CHUNK_END: &[u8] = b"\r\n";

/// Ends a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

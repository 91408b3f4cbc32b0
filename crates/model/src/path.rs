//! Paths: the one normalised form that is used to match, to decide and to forward.
//!
//! A proxy that matches one spelling of a path and forwards another lets a client walk around a rule, so there is one
//! form and it is computed once, before selection ([`normalise`]):
//!
//! - **Unreserved octets that are percent-encoded are decoded** (`/%61dmin` is `/admin`; RFC 3986 section 6.2.2.2), and the
//!   hexadecimal digits of all other encodings are written in upper case (6.2.2.1). Nothing else is decoded.
//! - **Dot segments are removed**, also in their encoded forms `%2e` (RFC 3986 section 5.2.4). `..` at the root stays at
//!   the root.
//! - **Slashes are not merged**: `//` is an empty segment, and backends may tell it from `/`.
//! - **`%2F` and `%5C` stay as they are**: they are data inside a segment, never separators for matching.
//! - **What cannot be decided is refused** ([`PathError`], a 400): a broken percent-encoding; an encoded or raw NUL, space
//!   or control character, or a raw `#` or `?`; and a `..` or `.` that would be a dot segment only for a backend that decodes `%2F` or `%5C`,
//!   takes `\` for a slash, or strips path parameters (`/a/..%2fb`, `/a/..\b`, `/a/..;x/b`).
//! - Bytes from 0x80 up and other characters are left alone.
//!
//! Configured exact and prefix paths go through the same function, so that `/caf%c3%a9` matches `/caf%C3%A9`.
//!
//! Invariants: idempotent; the result begins with `/` and has no dot segments; a path that is already normal is neither
//! copied nor allocated for.

/// Why a path is refused. Downstream's fault: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    #[error("a percent sign is not followed by two hexadecimal digits")]
    BadEncoding,
    #[error("a NUL, space or control character, `#` or `?`")]
    ForbiddenByte,
    #[error("a dot segment that backends may read differently")]
    AmbiguousDots,
}

/// Where the normalised path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalised {
    /// The path was normal: use it as it was received.
    AsReceived,
    /// The normalised path has been written to the buffer.
    InBuffer,
}

/// Brings a request's path (no query; empty is read as `/`) to its normal form, in `buffer` if it has to change.
/// What `buffer` held is lost unless the path is plainly normal.
pub fn normalise(path: &[u8], buffer: &mut Vec<u8>) -> Result<Normalised, PathError> {
    match path.first() {
        Some(b'/') => {}
        Some(_) => return Err(PathError::NotAbsolute),
        None => {
            buffer.clear();
            buffer.push(b'/');
            return Ok(Normalised::InBuffer);
        }
    }
    if is_plain(path)? {
        return Ok(Normalised::AsReceived);
    }
    buffer.clear();
    buffer.reserve(path.len());
    decode(path, buffer)?;
    if buffer.windows(2).any(|pair| pair[1] == b'.' && starts_piece(pair[0]))
        || contains_encoded_slash(buffer)
    {
        refuse_ambiguous_dots(buffer)?;
        remove_dot_segments(buffer);
    }
    Ok(if **buffer == *path { Normalised::AsReceived } else { Normalised::InBuffer })
}

/// As [`normalise`], for a configured path: always owned.
pub fn normalised(path: &str) -> Result<Vec<u8>, PathError> {
    let mut buffer = Vec::new();
    Ok(match normalise(path.as_bytes(), &mut buffer)? {
        Normalised::AsReceived => path.as_bytes().to_vec(),
        Normalised::InBuffer => buffer,
    })
}

/// A prefix pattern without the trailing slashes that the API says to ignore: `/foo/` is `/foo`, `/` is empty.
pub fn prefix_pattern(normal: &[u8]) -> &[u8] {
    let mut pattern = normal;
    while let Some(shorter) = pattern.strip_suffix(b"/") {
        pattern = shorter;
    }
    pattern
}

/// How many segments a prefix pattern (as [`prefix_pattern`] gives it) has: 0 for `/`, 2 for `/foo/bar`.
pub(crate) fn segments(pattern: &[u8]) -> usize {
    memchr::memchr_iter(b'/', pattern).count()
}

/// True when there is nothing to decode, remove or refuse.
fn is_plain(path: &[u8]) -> Result<bool, PathError> {
    // Sixteen at a time without branches, so that the compiler may look at them at once.
    let (blocks, rest) = path.as_chunks::<16>();
    let marked = blocks.iter().any(|block| block.iter().fold(false, |any, byte| any | is_marked(*byte)))
        || rest.iter().any(|byte| MARKED[usize::from(*byte)]);
    if !marked {
        return Ok(true);
    }
    if path.iter().any(|byte| is_forbidden(*byte)) {
        return Err(PathError::ForbiddenByte);
    }
    let dots =
        path.iter().zip(path.iter().skip(1)).any(|(before, byte)| *byte == b'.' && starts_piece(*before));
    Ok(!dots && memchr::memchr(b'%', path).is_none())
}

/// Whether `byte` asks for a closer look.
const fn is_marked(byte: u8) -> bool {
    is_forbidden(byte) || byte == b'%' || byte == b'.'
}

const MARKED: [bool; 256] = {
    let mut marked = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        marked[byte] = is_marked(byte as u8);
        byte += 1;
    }
    marked
};

const fn is_forbidden(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7f || byte == b'#' || byte == b'?'
}

/// Whether what follows `byte` begins a segment for some backend.
fn starts_piece(byte: u8) -> bool {
    byte == b'/' || byte == b'\\'
}

fn contains_encoded_slash(path: &[u8]) -> bool {
    memchr::memchr_iter(b'%', path).any(|at| is_encoded_slash(&path[at..]))
}

fn is_encoded_slash(rest: &[u8]) -> bool {
    // Hexadecimal digits are in upper case by now.
    rest.starts_with(b"%2F") || rest.starts_with(b"%5C")
}

/// Decodes unreserved octets, writes other encodings in upper case, refuses broken ones and control characters.
fn decode(path: &[u8], out: &mut Vec<u8>) -> Result<(), PathError> {
    let mut rest = path;
    while let Some(at) = memchr::memchr(b'%', rest) {
        out.extend_from_slice(&rest[..at]);
        let (Some(high), Some(low)) =
            (rest.get(at + 1).copied().and_then(hex_value), rest.get(at + 2).copied().and_then(hex_value))
        else {
            return Err(PathError::BadEncoding);
        };
        let octet = high << 4 | low;
        if octet < b' ' || octet == 0x7f {
            return Err(PathError::ForbiddenByte);
        }
        if octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~') {
            out.push(octet);
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            out.extend_from_slice(&[b'%', DIGITS[usize::from(high)], DIGITS[usize::from(low)]]);
        }
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
    Ok(())
}

fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Refuses a segment in which a backend may see a dot segment that we do not.
fn refuse_ambiguous_dots(path: &[u8]) -> Result<(), PathError> {
    for segment in path.split(|&b| b == b'/') {
        if is_dots(segment) {
            continue;
        }
        let mut rest = segment;
        loop {
            let end = (0..rest.len()).find(|&at| rest[at] == b'\\' || is_encoded_slash(&rest[at..]));
            let piece = &rest[..end.unwrap_or(rest.len())];
            let bare = memchr::memchr(b';', piece).map_or(piece, |at| &piece[..at]);
            // Parameters may be encoded, too: `..%3Bx`.
            let bare = memchr::memmem::find(bare, b"%3B").map_or(bare, |at| &bare[..at]);
            if is_dots(bare) {
                return Err(PathError::AmbiguousDots);
            }
            match end {
                Some(at) => rest = &rest[at + if rest[at] == b'\\' { 1 } else { 3 }..],
                None => break,
            }
        }
    }
    Ok(())
}

fn is_dots(piece: &[u8]) -> bool {
    piece == b"." || piece == b".."
}

/// RFC 3986 section 5.2.4 on a path that begins with a slash, in place.
fn remove_dot_segments(path: &mut Vec<u8>) {
    let mut read = 0;
    let mut write = 0;
    // Each turn takes one segment with the slash before it.
    while read < path.len() {
        let end = memchr::memchr(b'/', &path[read + 1..]).map_or(path.len(), |at| read + 1 + at);
        let last = end == path.len();
        match &path[read + 1..end] {
            b"." => {
                if last {
                    path[write] = b'/';
                    write += 1;
                }
            }
            b".." => {
                write = memchr::memrchr(b'/', &path[..write]).unwrap_or(0);
                if last {
                    path[write] = b'/';
                    write += 1;
                }
            }
            _ => {
                path.copy_within(read..end, write);
                write += end - read;
            }
        }
        read = end;
    }
    path.truncate(write);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(path: &str) -> Result<String, PathError> {
        normalised(path).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_normal_path_is_used_as_received() {
        let mut buffer = b"untouched".to_vec();
        for path in ["/", "/a", "/a/", "//a//b/", "/a.b/c..d/e.", "/é", "/a;b=c", "/a\\b", "/*"] {
            assert_eq!(normalise(path.as_bytes(), &mut buffer), Ok(Normalised::AsReceived), "{path}");
        }
        assert_eq!(buffer, b"untouched");
        assert_eq!(normalise(b"/.well-known/x%20y/...", &mut buffer), Ok(Normalised::AsReceived));
    }

    #[test]
    fn dot_segments_are_removed_also_when_encoded() {
        for (path, expected) in [
            ("", "/"),
            ("/.", "/"),
            ("/..", "/"),
            ("/./", "/"),
            ("/../", "/"),
            ("/../..", "/"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a/b/c/./../../g", "/a/g"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("/a//../b", "/a/b"),
            ("//..", "/"),
            ("/...", "/..."),
            ("/..a/.b", "/..a/.b"),
        ] {
            assert_eq!(normal(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn only_unreserved_octets_are_decoded() {
        for (path, expected) in [
            ("/%61dmin", "/admin"),
            ("/%7Euser%2d%5F", "/~user-_"),
            ("/a%2fb", "/a%2Fb"),
            ("/%c3%A9", "/%C3%A9"),
            ("/%2561", "/%2561"),
            ("/a%20b%3f", "/a%20b%3F"),
        ] {
            assert_eq!(normal(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn what_backends_may_read_differently_is_refused() {
        for (path, expected) in [
            ("a", PathError::NotAbsolute),
            ("*", PathError::NotAbsolute),
            ("/%", PathError::BadEncoding),
            ("/%4", PathError::BadEncoding),
            ("/%zz", PathError::BadEncoding),
            ("/%+1", PathError::BadEncoding),
            ("/a\0", PathError::ForbiddenByte),
            ("/a b", PathError::ForbiddenByte),
            ("/a#b", PathError::ForbiddenByte),
            ("/a%00", PathError::ForbiddenByte),
            ("/a%0d%0ab", PathError::ForbiddenByte),
            ("/a/..%2fb", PathError::AmbiguousDots),
            ("/a/%2e%2e%2Fb", PathError::AmbiguousDots),
            ("/a%2F..", PathError::AmbiguousDots),
            ("/a%5c..%5cb", PathError::AmbiguousDots),
            ("/a/..\\b", PathError::AmbiguousDots),
            ("/a\\..\\b", PathError::AmbiguousDots),
            ("/a/..;/b", PathError::AmbiguousDots),
            ("/a/..;x=1/b", PathError::AmbiguousDots),
            ("/a/.;x/b", PathError::AmbiguousDots),
            ("/a/..%3bx/b", PathError::AmbiguousDots),
        ] {
            assert_eq!(normal(path), Err(expected), "{path}");
        }
    }

    #[test]
    fn a_trailing_slash_of_a_prefix_is_ignored() {
        for (path, expected, count) in
            [("/", "", 0), ("/foo", "/foo", 1), ("/foo/", "/foo", 1), ("/a/b/", "/a/b", 2)]
        {
            assert_eq!(prefix_pattern(path.as_bytes()), expected.as_bytes());
            assert_eq!(segments(expected.as_bytes()), count);
        }
    }

    /// Segments that a careful reader finds in the path, dot segments resolved, for comparison with the real thing.
    fn naive(path: &str) -> String {
        let segments: Vec<&str> = path[1..].split('/').collect();
        let mut kept: Vec<&str> = Vec::new();
        for (i, segment) in segments.iter().enumerate() {
            let last = i + 1 == segments.len();
            match *segment {
                "." | ".." => {
                    if *segment == ".." {
                        kept.pop();
                    }
                    if last {
                        kept.push("");
                    }
                }
                other => kept.push(other),
            }
        }
        format!("/{}", kept.join("/"))
    }

    proptest! {
        #[test]
        fn removal_of_dots_agrees_with_a_naive_one(path in "(/(\\.|\\.\\.|a|b|\\.a|)){1,9}") {
            prop_assert_eq!(normal(&path).unwrap(), naive(&path));
        }

        #[test]
        fn normalising_is_idempotent_and_never_panics(path in proptest::collection::vec(
            prop_oneof![Just(b'/'), Just(b'.'), Just(b'%'), Just(b'2'), Just(b'e'), Just(b'F'), Just(b';'), Just(b'\\'), any::<u8>()], 0..24)) {
            let mut first = Vec::new();
            let once = match normalise(&path, &mut first) {
                Err(_) => return Ok(()),
                Ok(Normalised::AsReceived) => path,
                Ok(Normalised::InBuffer) => first,
            };
            prop_assert_eq!(once.first(), Some(&b'/'));
            prop_assert!(once.split(|&b| b == b'/').all(|segment| !is_dots(segment)));
            let mut second = Vec::new();
            prop_assert_eq!(normalise(&once, &mut second), Ok(Normalised::AsReceived));
        }
    }
}

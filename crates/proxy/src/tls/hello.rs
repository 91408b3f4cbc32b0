//! What a client says before anything is decided: is it TLS at all, and which server does it ask for.
//!
//! The first bytes of a connection are looked at and not used up: they go to rustls, which reads them again and judges them, or
//! to a backend as they are. So this reads no more than it needs, and leaves what it does not know alone.
//!
//! Pure, and total: any bytes give an answer.

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// The start of a ClientHello.
    Incomplete,
    /// Something else, or more than `limit` bytes.
    Refused(HelloError),
    Complete {
        /// Lower case; `None` when the client names no server, or one that is no DNS name.
        server_name: Option<Box<[u8]>>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HelloError {
    #[error("the first bytes are not TLS")]
    NotTls,
    #[error("the first message is not a whole ClientHello")]
    Malformed,
    #[error("the ClientHello is larger than is allowed")]
    TooLarge,
}

/// RFC 8446 sections 5.1, 4.1.2 and 4.2; RFC 6066 section 3.
const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER: usize = 5;
const LARGEST_RECORD: usize = 16 * 1024;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
const LONGEST_NAME: usize = 255;

/// Looks at the first bytes of a connection. `limit`: of the message, in bytes.
pub(crate) fn read(bytes: &[u8], limit: usize) -> Hello {
    let mut joined = Vec::new();
    let mut rest = bytes;
    loop {
        let (payload, after) = match record(rest) {
            Ok(Some(record)) => record,
            Ok(None) => return Hello::Incomplete,
            Err(error) => return Hello::Refused(error),
        };
        joined.extend_from_slice(payload);
        rest = after;
        match message(&joined, limit) {
            Ok(Some(body)) => {
                return match server_name(body) {
                    Some(server_name) => Hello::Complete { server_name },
                    None => Hello::Refused(HelloError::Malformed),
                };
            }
            // A record that was cut short is all there is.
            Ok(None) if rest.is_empty() => return Hello::Incomplete,
            Ok(None) => {}
            Err(error) => return Hello::Refused(error),
        }
    }
}

/// Two parts of the bytes.
type Split<'b> = (&'b [u8], &'b [u8]);

/// What there is of the first record's payload, and what follows the record. `None` if not even its head is there.
fn record(bytes: &[u8]) -> Result<Option<Split<'_>>, HelloError> {
    let is_tls = match bytes {
        [] => return Ok(None),
        [kind] => *kind == HANDSHAKE_RECORD,
        [kind, major, ..] => *kind == HANDSHAKE_RECORD && *major == 3,
    };
    if !is_tls {
        return Err(HelloError::NotTls);
    }
    let Some((header, payload)) = bytes.split_at_checked(RECORD_HEADER) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if length == 0 || length > LARGEST_RECORD {
        return Err(HelloError::Malformed);
    }
    Ok(Some(payload.split_at(length.min(payload.len()))))
}

/// The body of the first message, if it is there whole.
fn message(bytes: &[u8], limit: usize) -> Result<Option<&[u8]>, HelloError> {
    match bytes {
        [] => Ok(None),
        [kind, ..] if *kind != CLIENT_HELLO => Err(HelloError::Malformed),
        [_, high, middle, low, body @ ..] => {
            let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
            if length > limit {
                return Err(HelloError::TooLarge);
            }
            Ok(body.get(..length))
        }
        _ => Ok(None),
    }
}

/// A position in a message.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<usize> {
        Some(usize::from(*self.take(1)?.first()?))
    }

    fn u16(&mut self) -> Option<usize> {
        let bytes = self.take(2)?;
        Some(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    }
}

/// The name in a ClientHello; `None` when the message is malformed.
fn server_name(body: &[u8]) -> Option<Option<Box<[u8]>>> {
    let mut reader = Reader(body);
    // Version and random.
    reader.take(2 + 32)?;
    let session = reader.u8()?;
    reader.take(session)?;
    let suites = reader.u16()?;
    reader.take(suites)?;
    let compressions = reader.u8()?;
    reader.take(compressions)?;
    if reader.0.is_empty() {
        // Extensions may be missing before TLS 1.3.
        return Some(None);
    }
    let length = reader.u16()?;
    let mut extensions = Reader(reader.take(length)?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let length = extensions.u16()?;
        let data = extensions.take(length)?;
        if kind == usize::from(SERVER_NAME) {
            return host_name(data).map(dns_name);
        }
    }
    Some(None)
}

/// The host name of a server_name extension; there is one kind of names and one name of a kind.
fn host_name(data: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(data);
    let length = reader.u16()?;
    let mut names = Reader(reader.take(length)?);
    let kind = names.u8()?;
    let length = names.u16()?;
    let name = names.take(length)?;
    (kind == usize::from(HOST_NAME) && !name.is_empty()).then_some(name)
}

/// The name as it is looked up. Addresses are not names (RFC 6066), and are treated as if nothing had been said.
fn dns_name(name: &[u8]) -> Option<Box<[u8]>> {
    let is_address = std::str::from_utf8(name).is_ok_and(|text| text.parse::<std::net::IpAddr>().is_ok());
    let is_text = name.iter().all(|byte| byte.is_ascii_graphic());
    (is_text && !is_address && name.len() <= LONGEST_NAME).then(|| name.to_ascii_lowercase().into())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A ClientHello in records of `fragment` bytes.
    pub(crate) fn hello(name: Option<&[u8]>, padding: usize, fragment: usize) -> Vec<u8> {
        let mut extensions = vec![0x00, 0x15];
        extensions.extend(u16::try_from(padding).unwrap().to_be_bytes());
        extensions.extend(vec![0; padding]);
        if let Some(name) = name {
            let length = u16::try_from(name.len()).unwrap();
            extensions.extend([0, 0]);
            extensions.extend((length + 5).to_be_bytes());
            extensions.extend((length + 3).to_be_bytes());
            extensions.push(0);
            extensions.extend(length.to_be_bytes());
            extensions.extend(name);
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let mut message = vec![1, length[1], length[2], length[3]];
        message.extend(body);
        let mut records = Vec::new();
        for part in message.chunks(fragment) {
            records.extend([22, 3, 1]);
            records.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
            records.extend(part);
        }
        records
    }

    fn complete(name: Option<&[u8]>) -> Hello {
        Hello::Complete { server_name: name.map(Into::into) }
    }

    #[test]
    fn the_name_is_found_however_the_message_is_cut() {
        for (name, expected) in [
            (Some(&b"Example.COM"[..]), Some(&b"example.com"[..])),
            (None, None),
            (Some(b"127.0.0.1"), None),
            (Some(b"::1"), None),
            (Some(b"a b"), None),
        ] {
            for fragment in [1, 3, 50, 16_000] {
                let bytes = hello(name, 40, fragment);
                assert_eq!(read(&bytes, 16_384), complete(expected), "{name:?} in records of {fragment}");
                for end in 0..bytes.len() {
                    assert_eq!(read(&bytes[..end], 16_384), Hello::Incomplete, "{end} of {}", bytes.len());
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_client_hello_is_refused_as_soon_as_it_shows() {
        assert_eq!(read(b"G", 100), Hello::Refused(HelloError::NotTls));
        assert_eq!(read(b"GET / HTTP/1.1", 100), Hello::Refused(HelloError::NotTls));
        assert_eq!(read(&[22, 2], 100), Hello::Refused(HelloError::NotTls));
        assert_eq!(read(&[22, 3, 1, 0, 0], 100), Hello::Refused(HelloError::Malformed), "an empty record");
        assert_eq!(read(&[22, 3, 1, 0xff, 0xff], 100), Hello::Refused(HelloError::Malformed));
        assert_eq!(read(&[22, 3, 1, 0, 4, 2], 100), Hello::Refused(HelloError::Malformed), "a ServerHello");
        assert_eq!(read(&[22, 3, 1, 0, 4, 1, 0, 0, 101], 100), Hello::Refused(HelloError::TooLarge));
        assert_eq!(read(&[22, 3, 1, 0, 5, 1, 0, 0, 1, 3], 100), Hello::Refused(HelloError::Malformed));
    }

    #[test]
    fn a_large_hello_is_read_up_to_the_limit() {
        let bytes = hello(Some(b"a.example"), 20_000, 16_384);
        assert_eq!(read(&bytes, 32_768), complete(Some(b"a.example")));
        assert_eq!(read(&bytes, 16_384), Hello::Refused(HelloError::TooLarge));
    }

    #[test]
    fn any_bytes_give_an_answer() {
        let whole = hello(Some(b"a.example"), 10, 60);
        let mut state = 1_u64;
        for _ in 0..200_000 {
            let mut bytes = whole.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = usize::try_from(state >> 33).unwrap() % bytes.len();
                bytes[at] = (state >> 20) as u8;
            }
            read(&bytes, 4096);
        }
    }
}

//! echo-basic's `/ws`: each frame of text or bytes comes back as a frame of text, in pieces as they arrive.
//!
//! Deliberately absent: extensions and subprotocols, which the program stood in for does not have either.

use std::io;

use base64::Engine;
use http::header::{
    CONNECTION, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use sha1_smol::Sha1;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use super::{Answer, Outcome, empty};

/// Source: RFC 6455 1.3.
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes echoed in one frame. Source: Go's `io.Copy`.
const PIECE: usize = 32 * 1024;
/// Source: RFC 6455 5.5.
const CONTROL: usize = 125;
/// Source: RFC 6455 7.4.1.
const PROTOCOL_ERROR: u16 = 1002;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const FINAL: u8 = 0x80;

/// The answer to a request for `/ws`.
pub(super) fn handshake(parts: &Parts) -> Outcome {
    match accept(parts) {
        Ok(answer) => Outcome::WebSocket(answer),
        Err(status) => Outcome::Answer(empty(status)),
    }
}

fn accept(parts: &Parts) -> Result<Answer, StatusCode> {
    let headers = &parts.headers;
    if parts.method != Method::GET {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let upgrades = field(headers, UPGRADE).eq_ignore_ascii_case("websocket");
    if !upgrades || !field(headers, CONNECTION).to_ascii_lowercase().contains("upgrade") {
        return Err(StatusCode::BAD_REQUEST);
    }
    let key = field(headers, SEC_WEBSOCKET_KEY);
    if key.is_empty() || field(headers, SEC_WEBSOCKET_VERSION) != "13" {
        return Err(StatusCode::BAD_REQUEST);
    }
    // Which origin it is does not matter, but there has to be one.
    if field(headers, ORIGIN).parse::<Uri>().is_err() {
        return Err(StatusCode::FORBIDDEN);
    }
    let mut answer = empty(StatusCode::SWITCHING_PROTOCOLS);
    let told = answer.headers_mut();
    told.insert(UPGRADE, HeaderValue::from_static("websocket"));
    told.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    // Base64 is a header value.
    if let Ok(value) = HeaderValue::from_str(&accept_key(&key)) {
        told.insert(SEC_WEBSOCKET_ACCEPT, value);
    }
    Ok(answer)
}

fn field(headers: &HeaderMap, name: HeaderName) -> String {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
}

fn accept_key(key: &str) -> String {
    let mut hash = Sha1::from(key.as_bytes());
    hash.update(ACCEPT_SUFFIX);
    base64::engine::general_purpose::STANDARD.encode(hash.digest().bytes())
}

/// A frame's head.
struct Head {
    opcode: u8,
    length: u64,
    mask: Option<[u8; 4]>,
}

/// Echoes until the peer closes.
pub(in super::super) async fn echo<S>(stream: S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::new(stream);
    let mut buffer = vec![0; PIECE];
    while let Some(head) = read_head(&mut stream).await? {
        let Some(mask) = head.mask else {
            write_frame(&mut stream, CLOSE, &PROTOCOL_ERROR.to_be_bytes()).await?;
            break;
        };
        match head.opcode {
            CONTINUATION | TEXT | BINARY => echo_frame(&mut stream, &mut buffer, head.length, mask).await?,
            PING => {
                let Some(length) = usize::try_from(head.length).ok().filter(|length| *length <= CONTROL)
                else {
                    break;
                };
                stream.read_exact(&mut buffer[..length]).await?;
                unmask(&mut buffer[..length], mask, 0);
                write_frame(&mut stream, PONG, &buffer[..length]).await?;
            }
            PONG => {
                let mut rest = (&mut stream).take(head.length);
                tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
            }
            _ => break,
        }
    }
    stream.shutdown().await
}

async fn echo_frame<S>(
    stream: &mut BufReader<S>,
    buffer: &mut [u8],
    length: u64,
    mask: [u8; 4],
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut at = 0;
    while at < length {
        let most = usize::try_from(length - at).unwrap_or(PIECE).min(PIECE);
        let read = stream.read(&mut buffer[..most]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        unmask(&mut buffer[..read], mask, at);
        write_frame(stream, TEXT, &buffer[..read]).await?;
        at += read as u64;
    }
    Ok(())
}

/// None where the stream ends between frames.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> io::Result<Option<Head>> {
    let first = match stream.read_u8().await {
        Ok(first) => first,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let second = stream.read_u8().await?;
    let length = match second & 0x7f {
        126 => u64::from(stream.read_u16().await?),
        127 => stream.read_u64().await? & (u64::MAX >> 1),
        short => u64::from(short),
    };
    let mask = if second & 0x80 == 0 {
        None
    } else {
        let mut mask = [0; 4];
        stream.read_exact(&mut mask).await?;
        Some(mask)
    };
    Ok(Some(Head { opcode: first & 0x0f, length, mask }))
}

/// `at` is how many bytes of the frame came before.
fn unmask(bytes: &mut [u8], mask: [u8; 4], at: u64) {
    let offset = (at % 4) as usize;
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte ^= mask[(offset + index) % 4];
    }
}

/// Lengths are at most [`PIECE`].
async fn write_frame<S: AsyncWrite + Unpin>(stream: &mut S, opcode: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(payload.len() + 4);
    frame.push(FINAL | opcode);
    match u8::try_from(payload.len()) {
        Ok(short) if usize::from(short) <= CONTROL => frame.push(short),
        _ => {
            let length = u16::try_from(payload.len()).map_err(io::Error::other)?;
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    stream.write_all(&frame).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_is_the_rfcs() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn frames_come_back_unmasked_and_as_text() {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let echoing = tokio::spawn(echo(server));
        let (mut reading, mut writing) = tokio::io::split(client);
        let mask = [1, 2, 3, 4];
        let masked = |opcode: u8, payload: &[u8]| {
            let mut body = payload.to_vec();
            unmask(&mut body, mask, 0);
            let mut frame = vec![FINAL | opcode, 0x80 | u8::try_from(payload.len()).expect("short")];
            frame.extend(mask);
            frame.extend(body);
            frame
        };
        for frame in [masked(BINARY, b"\x00\xff!"), masked(PING, b"p"), masked(CLOSE, b"")] {
            writing.write_all(&frame).await.expect("writes");
        }
        let mut answers = Vec::new();
        reading.read_to_end(&mut answers).await.expect("reads");
        assert_eq!(answers, [&[FINAL | TEXT, 3, 0, 0xff, b'!'][..], &[FINAL | PONG, 1, b'p']].concat());
        echoing.await.expect("ends").expect("without an error");
    }
}

//! UDP: echo-basic's UDP mode, and answers in the stead of a DNS server.

use std::io;
use std::time::Duration;

use serde::Serialize;
use tokio::net::UdpSocket;

use super::{Stand, json};
use crate::pods::behaviour::Speaks;

/// Bytes of a datagram that are read; the rest is cut. Source: echo-basic's buffer.
const ECHOED: usize = 1024;
/// Source: the largest UDP payload over IPv4.
const LARGEST: usize = 65_507;
/// After an error of the socket, so that one that lasts does not spin.
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Serialize)]
struct Told<'a> {
    request: &'a str,
    namespace: &'a str,
    ingress: &'a str,
    service: &'a str,
    pod: &'a str,
}

/// Answers datagrams until it is dropped.
pub(in super::super) async fn serve(stand: &Stand, speaks: Speaks, socket: &UdpSocket) {
    let mut buffer = vec![0; LARGEST];
    loop {
        if let Err(error) = answer_one(stand, speaks, socket, &mut buffer).await {
            tracing::debug!(error = %error, "a pod's UDP socket");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn answer_one(stand: &Stand, speaks: Speaks, socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<()> {
    let (length, peer) = socket.recv_from(buffer).await?;
    let datagram = &buffer[..length];
    let answer = match speaks {
        Speaks::Dns => {
            let Some(answer) = dns_answer(datagram) else { return Ok(()) };
            stand.log(&format!("Answered a query of {length} bytes from {peer}"));
            answer
        }
        _ => {
            let text = String::from_utf8_lossy(&datagram[..length.min(ECHOED)]);
            stand.log(&format!("Received UDP {text} from {peer}"));
            let variable = |name| stand.variable(name).unwrap_or_default();
            let told = Told {
                request: &text,
                namespace: variable("NAMESPACE"),
                ingress: variable("INGRESS_NAME"),
                service: variable("SERVICE_NAME"),
                pod: variable("POD_NAME"),
            };
            json::compact(&told).into_bytes()
        }
    };
    socket.send_to(&answer, peer).await.map(|_| ())
}

/// Bytes of a DNS header. Source: RFC 1035 4.1.1.
const HEADER: usize = 12;
/// Of records made here. Unit: seconds. Source: ours.
const TTL: u32 = 60;
const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;

/// The answer to a query: 127.0.0.1 where an address is asked for, else no record. None for what is no query.
fn dns_answer(query: &[u8]) -> Option<Vec<u8>> {
    let header = query.get(..HEADER)?;
    let (flags, questions) = (header[2], u16::from_be_bytes([header[4], header[5]]));
    let is_response = flags & 0x80 != 0;
    if is_response {
        return None;
    }
    let opcode_and_recursion = flags & 0x79;
    let answer_head = |rcode: u8, questions: u16, answers: u16| {
        // QR and RA are set; the id, the kind of query and RD are the query's.
        let mut out = vec![header[0], header[1], 0x80 | opcode_and_recursion, 0x80 | rcode];
        for count in [questions, answers, 0, 0] {
            out.extend(count.to_be_bytes());
        }
        out
    };
    let question = if questions == 1 { question(&query[HEADER..]) } else { None };
    let Some((question, kind, class)) = question else {
        const FORMAT_ERROR: u8 = 1;
        return Some(answer_head(FORMAT_ERROR, 0, 0));
    };
    let is_address = kind == TYPE_A && class == CLASS_IN;
    let mut out = answer_head(0, 1, u16::from(is_address));
    out.extend_from_slice(question);
    if is_address {
        // The name is a pointer to the question's.
        out.extend([0xc0, HEADER as u8]);
        out.extend(TYPE_A.to_be_bytes());
        out.extend(CLASS_IN.to_be_bytes());
        out.extend(TTL.to_be_bytes());
        out.extend([0, 4, 127, 0, 0, 1]);
    }
    Some(out)
}

/// The first question, with its type and class.
fn question(bytes: &[u8]) -> Option<(&[u8], u16, u16)> {
    let mut at = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        match length {
            0 => break,
            1..=63 => {}
            _ => return None,
        }
    }
    let rest = bytes.get(at..at + 4)?;
    let (kind, class) = (u16::from_be_bytes([rest[0], rest[1]]), u16::from_be_bytes([rest[2], rest[3]]));
    Some((&bytes[..at + 4], kind, class))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(kind: u8) -> Vec<u8> {
        let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(b"\x03foo\x03bar\x03com\0");
        query.extend([0, kind, 0, 1]);
        query
    }

    #[test]
    fn an_address_is_answered_and_the_id_is_the_querys() {
        let answer = dns_answer(&query(1)).expect("an answer");
        assert_eq!(&answer[..8], [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1]);
        assert_eq!(&answer[HEADER..HEADER + 17], &query(1)[HEADER..]);
        assert_eq!(&answer[answer.len() - 4..], [127, 0, 0, 1]);
        let other = dns_answer(&query(28)).expect("an answer");
        assert_eq!((&other[6..8], other.len()), (&[0, 0][..], query(28).len()));
    }

    #[test]
    fn what_is_no_query_is_refused_or_ignored() {
        assert_eq!(dns_answer(b"short"), None);
        let mut response = query(1);
        response[2] |= 0x80;
        assert_eq!(dns_answer(&response), None);
        let cut = dns_answer(&query(1)[..15]).expect("an answer");
        assert_eq!(&cut[..4], [0xab, 0xcd, 0x81, 0x81]);
        assert_eq!(cut.len(), HEADER);
        let mut compressed = query(1);
        compressed[HEADER] = 0xc0;
        assert_eq!(dns_answer(&compressed).expect("an answer")[3], 0x81);
    }
}

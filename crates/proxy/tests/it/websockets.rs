//! WebSocket (RFC 6455) through the gateway, frame by frame: backends of `kubernetes.io/ws`.

use crate::harness::{Origin, Peer, World};

/// The example of RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

#[derive(Debug, PartialEq, Eq)]
struct Frame {
    last: bool,
    opcode: u8,
    payload: Vec<u8>,
}

fn frame(last: bool, opcode: u8, payload: &[u8]) -> Frame {
    Frame { last, opcode, payload: payload.to_vec() }
}

/// RFC 6455 section 5.2. Clients mask, servers do not.
fn encode(frame: &Frame, mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut bytes = vec![u8::from(frame.last) << 7 | frame.opcode];
    let masked = u8::from(mask.is_some()) << 7;
    match frame.payload.len() {
        length @ 0..126 => bytes.push(masked | u8::try_from(length).unwrap()),
        length @ 126..65_536 => {
            bytes.push(masked | 126);
            bytes.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            bytes.push(masked | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let mask = mask.inspect(|mask| bytes.extend_from_slice(mask)).unwrap_or_default();
    bytes.extend(frame.payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The next frame; `None` when the connection ends first.
fn decode(peer: &mut Peer, from_client: bool) -> Option<Frame> {
    while peer.buffer.len() < 2 {
        if !peer.fill() {
            return None;
        }
    }
    let start = peer.exactly(2);
    assert_eq!(start[1] >> 7 == 1, from_client, "clients mask, and only they");
    let length = match start[1] & 127 {
        126 => usize::from(u16::from_be_bytes(peer.exactly(2).try_into().unwrap())),
        127 => usize::try_from(u64::from_be_bytes(peer.exactly(8).try_into().unwrap())).unwrap(),
        length => usize::from(length),
    };
    let mask: [u8; 4] = if from_client { peer.exactly(4).try_into().unwrap() } else { [0; 4] };
    let payload = peer.exactly(length);
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    Some(Frame { last: start[0] >> 7 == 1, opcode: start[0] & 15, payload })
}

/// Shakes hands, then echoes data, answers pings, and closes when it is asked to.
fn echo() -> Origin {
    Origin::start(|peer| {
        let Some(head) = peer.request_head() else { return };
        assert!(
            head.contains("\r\nConnection: upgrade\r\n") && head.contains("\r\nUpgrade: websocket\r\n"),
            "{head}"
        );
        peer.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        ));
        while let Some(mut frame) = decode(peer, true) {
            if frame.opcode == PING {
                frame.opcode = PONG;
            }
            peer.send(encode(&frame, None));
            if frame.opcode == CLOSE {
                return;
            }
        }
    })
}

fn open(world: &World) -> Peer {
    let mut client = world.client();
    client.send(format!(
        "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    ));
    let response = client.response();
    assert_eq!((response.status, response.field("sec-websocket-accept")), (101, Some(ACCEPT)));
    client
}

fn sends(client: &mut Peer, frame: &Frame) {
    client.send(encode(frame, Some([0x12, 0x34, 0x56, 0x78])));
}

#[test]
fn text_and_binary_frames_of_every_length_form_come_back_as_they_were() {
    let origin = echo();
    let world = World::to(&origin);
    let mut client = open(&world);
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20] {
        for opcode in [TEXT, BINARY] {
            let sent = frame(true, opcode, &vec![b'a'; length]);
            sends(&mut client, &sent);
            assert!(decode(&mut client, false) == Some(sent), "{length} bytes");
        }
    }
}

#[test]
fn control_frames_pass_in_the_middle_of_a_message() {
    let origin = echo();
    let world = World::to(&origin);
    let mut client = open(&world);
    let sent = [frame(false, TEXT, b"one "), frame(true, PING, b"?"), frame(true, CONTINUATION, b"message")];
    for frame in &sent {
        sends(&mut client, frame);
    }
    assert_eq!(decode(&mut client, false).as_ref(), Some(&sent[0]));
    assert_eq!(decode(&mut client, false), Some(frame(true, PONG, b"?")));
    assert_eq!(decode(&mut client, false).as_ref(), Some(&sent[2]));
}

#[test]
fn a_close_is_answered_and_ends_the_connection() {
    let origin = echo();
    let world = World::to(&origin);
    let mut client = open(&world);
    sends(&mut client, &frame(true, CLOSE, &[0x03, 0xe8]));
    assert_eq!(decode(&mut client, false), Some(frame(true, CLOSE, &[0x03, 0xe8])));
    assert!(client.ends());
}

#[test]
fn a_server_may_speak_first_and_frames_behind_the_101_are_not_lost() {
    let origin = Origin::start(|peer| {
        peer.request_head();
        let mut first = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        )
        .into_bytes();
        first.extend(encode(&frame(true, TEXT, b"welcome"), None));
        peer.send(first);
        peer.fill();
    });
    let world = World::to(&origin);
    let mut client = open(&world);
    assert_eq!(decode(&mut client, false), Some(frame(true, TEXT, b"welcome")));
}

#[test]
fn many_connections_keep_their_own_frames_apart() {
    let origin = echo();
    let world = World::to(&origin);
    let mut clients: Vec<Peer> = (0..20).map(|_| open(&world)).collect();
    for round in 0..5 {
        for (n, client) in clients.iter_mut().enumerate() {
            sends(client, &frame(true, TEXT, format!("{n} {round}").as_bytes()));
        }
        for (n, client) in clients.iter_mut().enumerate() {
            assert_eq!(decode(client, false), Some(frame(true, TEXT, format!("{n} {round}").as_bytes())));
        }
    }
    assert_eq!(world.metric("weir_proxy_tunnels_total"), 20);
}

#[test]
fn a_refused_handshake_is_an_ordinary_answer() {
    let origin = Origin::always("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno");
    let world = World::to(&origin);
    let mut client = world.client();
    let response = client.exchange(&format!(
        "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    ));
    assert_eq!((response.status, response.text()), (403, "no"));
}

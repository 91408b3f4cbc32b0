//! WebSocket inside TLS on both sides: HTTPS listeners, and backends of `kubernetes.io/wss`, which a BackendTLSPolicy says how to speak to.

use weir_model::resource::{Backend, BackendTls, Body, Resource};
use weir_proxy::ProxyConfig;

use crate::harness::*;
use crate::secure::*;

/// RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A masked text frame of `hello` (RFC 6455 section 5.7), and the same as a server sends it.
const MASKED: &[u8] = &[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
const PLAIN: &[u8] = &[0x81, 0x05, b'H', b'e', b'l', b'l', b'o'];

struct Site {
    world: World,
    authority: Authority,
    origin: Origin,
}

/// Answers `MASKED` with `PLAIN`, and anything else by ending.
fn server(peer: &mut Peer) {
    let Some(head) = peer.request_head() else { return };
    if !head.contains("\r\nUpgrade: websocket\r\n") {
        peer.send(ok("no upgrade"));
        return;
    }
    let name = match peer.tls.as_deref() {
        Some(rustls::Connection::Server(tls)) => tls.server_name().unwrap_or("none").to_owned(),
        _ => "in the clear".to_owned(),
    };
    peer.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\nX-Name: {name}\r\n\r\n"
    ));
    loop {
        while peer.buffer.len() < MASKED.len() {
            if !peer.fill() {
                return;
            }
        }
        if peer.exactly(MASKED.len()) != MASKED {
            return;
        }
        peer.send(PLAIN);
    }
}

impl Site {
    fn start(backend_name: &str) -> Site {
        let authority = Authority::new("authority");
        let origin = secure_origin(authority.sign(&["backend.example"]).server(None), server);
        let world = World::bare(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
        let mut resources = vec![
            authority.bundle("ca"),
            authority.sign(&["a.example"]).resource("c"),
            ListenerOf::https(world.address, "l", "a.example", &["c"]).resource(),
            http_route("r", &["l"], "a.example", "b"),
            encrypted(backend_name),
        ];
        resources.push(endpoints("b", &[origin.address]));
        assert_eq!(world.apply(resources).rejected, []);
        Site { world, authority, origin }
    }

    fn connect(&self) -> Peer {
        Peer::secure(self.world.address, "a.example", &self.authority.client())
    }
}

/// What `kubernetes.io/wss` with a policy comes to: HTTP/1.1 inside TLS.
fn encrypted(hostname: &str) -> Resource {
    let tls = BackendTls {
        hostname: hostname.into(),
        ca_bundles: vec!["cabundle/ca".into()],
        ..BackendTls::default()
    };
    let backend = Backend {
        key: "backend/default/b/80".into(),
        namespace: "default".into(),
        service: "b".into(),
        port: 80,
        tls: Some(tls),
        ..Backend::default()
    };
    Resource { body: Some(Body::Backend(backend)) }
}

fn handshake() -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

#[test]
fn frames_pass_through_tls_of_the_client_and_tls_of_the_backend() {
    let site = Site::start("backend.example");
    let mut client = site.connect();
    client.send(handshake());
    let response = client.response();
    assert_eq!((response.status, response.field("sec-websocket-accept")), (101, Some(ACCEPT)));
    assert_eq!(response.field("x-name"), Some("backend.example"), "the policy's name was asked for");
    for _ in 0..100 {
        client.send(MASKED);
        assert_eq!(client.exactly(PLAIN.len()), PLAIN);
    }
    assert_eq!(site.world.metric("weir_proxy_upstream_tls_handshakes_total"), 1);
    assert_eq!(site.world.metric("weir_proxy_tunnels_total"), 1);
}

#[test]
fn a_backend_whose_certificate_is_for_another_name_gets_no_handshake() {
    let site = Site::start("other.example");
    assert_eq!(site.connect().exchange(&handshake()).status, 502);
    assert_eq!(site.origin.requests(), 0);
    site.world.expect_failures("upstream_handshake", 1);
}

#[test]
fn the_end_of_a_stream_is_told_with_close_notify_on_both_sides() {
    let site = Site::start("backend.example");
    let mut client = site.connect();
    client.send(handshake());
    assert_eq!(client.response().status, 101);
    // The backend ends.
    client.send(vec![0; MASKED.len()]);
    assert!(client.ends());
    let state = client.tls.as_mut().unwrap().process_new_packets().unwrap();
    assert!(state.peer_has_closed(), "the end came with close_notify");
}

//! Peers that mean harm, or behave as if they did, on TLS listeners: what bounds them.

use std::time::{Duration, Instant};

use weir_model::limits::Limits;
use weir_proxy::ProxyConfig;

use crate::harness::*;
use crate::secure::*;

struct Site {
    world: World,
    authority: Authority,
    _origin: Origin,
}

impl Site {
    fn start(limits: Limits) -> Site {
        let origin = Origin::named("ok");
        let world = World::bare(ProxyConfig { workers: Some(1), limits, ..ProxyConfig::default() });
        let authority = Authority::new("authority");
        let mut resources = vec![
            authority.sign(&["a.example"]).resource("c"),
            ListenerOf::https(world.address, "l", "", &["c"]).resource(),
            http_route("r", &["l"], "", "b"),
        ];
        resources.extend(backend("b", &[origin.address]));
        assert_eq!(world.apply(resources).rejected, []);
        Site { world, authority, _origin: origin }
    }

    fn hurried() -> Site {
        Site::start(Limits { tls_handshake_timeout: Duration::from_millis(300), ..Limits::default() })
    }

    /// What everybody else sees.
    fn serves(&self) {
        let mut client = Peer::secure(self.world.address, "a.example", &self.authority.client());
        assert_eq!(client.get("/").text(), "ok");
    }

    /// The bytes that a usual client begins with.
    fn hello(&self) -> Vec<u8> {
        let name = rustls::pki_types::ServerName::try_from("a.example").unwrap();
        let config = std::sync::Arc::new(self.authority.client());
        let mut connection = rustls::ClientConnection::new(config, name).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        bytes
    }
}

#[test]
fn garbage_is_closed_without_a_word() {
    let site = Site::start(Limits::default());
    let mut count = 0;
    for garbage in
        [&b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"[..], b"\0", b"SSH-2.0-x\r\n", &[0x80; 70_000]]
    {
        let mut client = site.world.client();
        client.send(garbage);
        assert!(client.ends(), "{:?}", &garbage[..garbage.len().min(20)]);
        count += 1;
    }
    site.world.expect_failures("tls_hello", count);
    site.serves();
}

#[test]
fn a_damaged_hello_is_refused_and_nobody_else_notices() {
    let site = Site::start(Limits::default());
    let hello = site.hello();
    for at in (0..hello.len()).step_by(3) {
        let mut damaged = hello.clone();
        damaged[at] ^= 0x55;
        let mut client = site.world.client();
        client.send(&damaged);
        // Whatever it is taken for, a client that says nothing more is no client for long.
        client.finish_sending();
        client.rest();
    }
    assert_eq!(site.world.metric("weir_proxy_panics_total"), 0);
    site.serves();
}

#[test]
fn a_hello_that_comes_slowly_has_a_bounded_time() {
    let site = Site::hurried();
    let hello = site.hello();
    let started = Instant::now();
    let mut client = site.world.client();
    for byte in &hello {
        client.send([*byte]);
        if started.elapsed() > Duration::from_millis(400) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(client.ends());
    assert!(started.elapsed() < Duration::from_secs(3));
    site.world.expect_failures("tls_timeout", 1);
    site.serves();
}

#[test]
fn a_hello_in_small_pieces_is_put_together() {
    let site = Site::start(Limits::default());
    let config = std::sync::Arc::new(site.authority.client());
    let name = rustls::pki_types::ServerName::try_from("a.example").unwrap();
    let mut connection = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    let mut client = site.world.client();
    for piece in hello.chunks(7) {
        client.send(piece);
    }
    assert!(client.fill());
    connection.read_tls(&mut client.buffer.as_slice()).unwrap();
    connection.process_new_packets().unwrap();
}

#[test]
fn a_client_that_never_finishes_its_handshake_has_a_bounded_time() {
    let site = Site::hurried();
    let started = Instant::now();
    let mut stuck: Vec<Peer> = (0..50)
        .map(|_| {
            let mut client = site.world.client();
            client.send(site.hello());
            client
        })
        .collect();
    site.serves();
    for client in &mut stuck {
        client.rest();
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    site.world.expect_failures("tls_timeout", 50);
    eventually("the connections are gone", || {
        site.world.metric("weir_proxy_connections_open{worker=\"0\"}") == 0
    });
}

#[test]
fn a_client_that_says_nothing_has_a_bounded_time() {
    let site = Site::hurried();
    let mut client = site.world.client();
    assert!(client.ends());
    site.world.expect_failures("tls_timeout", 1);
}

#[test]
fn a_hello_that_is_too_large_is_refused_before_it_is_whole() {
    let site = Site::start(Limits::default());
    // A handshake message of 20,000 bytes in two records.
    let mut bytes = vec![22, 3, 1, 0x40, 0x00, 1, 0x00, 0x4e, 0x20];
    bytes.resize(5 + 16_384, 0);
    let mut client = site.world.client();
    client.send(&bytes);
    assert!(client.ends());
    // As a flood of records with a byte each.
    let mut client = site.world.client();
    let message = [1, 0x00, 0x3f, 0xff].into_iter().chain(std::iter::repeat_n(0, 16_383));
    let flood: Vec<u8> = message.flat_map(|byte| [22, 3, 1, 0, 1, byte]).collect();
    client.send(&flood);
    assert!(client.ends());
    site.world.expect_failures("tls_hello", 2);
    site.serves();
}

#[test]
fn tls_1_2_clients_cannot_renegotiate() {
    let site = Site::start(Limits::default());
    // curl and openssl are not asked: a second ClientHello inside is what it would be.
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(site.authority.roots())
        .with_no_client_auth();
    let mut client = Peer::secure(site.world.address, "a.example", &config);
    assert_eq!(client.get("/").text(), "ok");
    // In the clear, as an attacker between would put it there.
    use std::io::Write;
    client.stream.write_all(&site.hello()).unwrap();
    assert!(!client.fill(), "the connection is ended");
    site.serves();
}

#[test]
fn bytes_that_were_changed_on_the_way_end_the_connection() {
    use std::io::Write;
    let site = Site::start(Limits::default());
    let mut client = Peer::secure(site.world.address, "a.example", &site.authority.client());
    assert_eq!(client.get("/").text(), "ok");
    let tls = client.tls.as_mut().unwrap();
    tls.writer().write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    let mut record = Vec::new();
    tls.write_tls(&mut record).unwrap();
    *record.last_mut().unwrap() ^= 1;
    client.stream.write_all(&record).unwrap();
    assert!(!client.fill());
    assert_eq!(site.world.metric("weir_proxy_requests_total{code=\"2xx\"}"), 1);
    site.serves();
}

#[test]
fn ten_thousand_refused_handshakes_leave_nothing_behind() {
    in_its_own_process("tls_hostile::refused_handshakes_process");
}

#[test]
#[ignore = "run by ten_thousand_refused_handshakes_leave_nothing_behind"]
fn refused_handshakes_process() {
    let site = Site::start(Limits::default());
    let hello = site.hello();
    let round = || {
        for n in 0..5_000 {
            let mut client = site.world.client();
            match n % 3 {
                0 => client.send(&hello),
                1 => client.send(&hello[..hello.len() / 2]),
                _ => client.send("garbage"),
            }
        }
        eventually("the connections are gone", || {
            site.world.metric("weir_proxy_connections_open{worker=\"0\"}") == 0
        });
        resident_bytes()
    };
    // How many are under way at once, and so how much is needed, differs from round to round.
    let rounds: Vec<usize> = (0..5).map(|_| round()).collect();
    let grown = rounds[4].saturating_sub(rounds[1]);
    assert!(grown < 8 * 1024 * 1024, "{grown} bytes after another 15,000 of {rounds:?}");
    site.serves();
}

#[test]
fn idle_connections_inside_tls_cost_little() {
    in_its_own_process("tls_hostile::idle_connections_process");
}

/// What the clients need is dropped after their handshakes: the memory that is looked at is the proxy's.
#[test]
#[ignore = "run by idle_connections_inside_tls_cost_little"]
fn idle_connections_process() {
    let site = Site::start(Limits::default());
    let config = site.authority.client();
    let connect = |count: usize| -> Vec<Peer> {
        let secure = || Peer::secure(site.world.address, "a.example", &config);
        (0..count)
            .map(|_| {
                let mut peer = secure();
                assert_eq!(peer.get("/").text(), "ok");
                peer.tls = None;
                peer.buffer = Vec::new();
                peer
            })
            .collect()
    };
    let first = connect(50);
    let before = resident_bytes();
    let more = connect(450);
    let each = resident_bytes().saturating_sub(before) / more.len();
    assert!(each < 24 * 1024, "{each} bytes for each");
    drop(first);
}

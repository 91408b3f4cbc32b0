//! What hostile peers cost, in memory of the process before and after: the classes that hold on to something (heads that never end, readers that
//! never read, handshakes that never finish), those that pour (requests without reading answers, chunk extensions, trailers), and
//! CVE-2025-8671, where the client makes the server do the resetting.
//!
//! Each runs in a process of its own. Where peers hold on to something, what many of them cost is bounded, and more waves of them
//! add nothing to it.

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use weir_model::limits::Limits;
use weir_proxy::ProxyConfig;

use crate::harness::*;
use crate::http2_harness::frames::*;
use crate::http2_harness::{Http2Origin, say};
use crate::secure::*;

const MIB: usize = 1024 * 1024;

fn with(limits: Limits) -> ProxyConfig {
    ProxyConfig { workers: Some(1), limits, ..ProxyConfig::default() }
}

/// Memory beyond `before`; the figures are what one looks at when one runs this by hand.
#[expect(clippy::print_stdout, reason = "shown where a test fails, or is run with --nocapture")]
fn grown(before: usize, what: &str) -> usize {
    let after = resident_bytes();
    println!("{what}: {} KiB before, {} KiB after", before / 1024, after / 1024);
    after.saturating_sub(before)
}

/// Waves of peers: the first two may cost `most` together; once the allocator has settled (seen: by the fifth wave), two more cost
/// nothing to speak of beside that.
fn waves(what: &str, most: usize, mut wave: impl FnMut()) {
    let before = resident_bytes();
    wave();
    wave();
    assert!(grown(before, what) < most);
    for _ in 0..3 {
        wave();
    }
    let settled = resident_bytes();
    wave();
    wave();
    assert!(grown(settled, "two more waves") < most / 4);
}

/// Sends until the other side takes no more for a while, or closes; how much it took.
fn pour(client: &mut Peer, piece: &[u8], most: usize) -> usize {
    client.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let block = piece.repeat(65_536 / piece.len() + 1);
    let mut sent = 0;
    while sent < most {
        match client.stream.write(&block) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    sent
}

#[test]
fn heads_that_never_end_cost_a_bound_and_leave_nothing_behind() {
    in_its_own_process("hostile_memory::process_with_heads_that_never_end");
}

#[test]
#[ignore = "run by heads_that_never_end_cost_a_bound_and_leave_nothing_behind"]
fn process_with_heads_that_never_end() {
    const PEERS: usize = 200;
    let origin = Origin::named("reached");
    let limits = Limits { header_read_timeout: Duration::from_millis(700), ..Limits::default() };
    let world = World::with(&origin, with(limits));
    // Less than is refused at once.
    let part = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(12 * 1024));
    let mut gone = 0;
    waves("200 heads of 12 KiB without an end", PEERS * 64 * 1024, || {
        let peers: Vec<Peer> = (0..PEERS)
            .map(|_| {
                let mut peer = world.client();
                peer.send(&part);
                peer
            })
            .collect();
        gone += PEERS as u64;
        eventually("all are given up", || world.failures("head_timeout") == gone);
        drop(peers);
    });
    assert_eq!(origin.requests(), 0);
}

#[test]
fn readers_that_never_read_cost_a_bound_and_are_given_up_in_time() {
    in_its_own_process("hostile_memory::process_with_readers_that_never_read");
}

#[test]
#[ignore = "run by readers_that_never_read_cost_a_bound_and_are_given_up_in_time"]
fn process_with_readers_that_never_read() {
    const PEERS: usize = 60;
    let origin = Origin::start(|peer| {
        static BLOCK: [u8; 65_536] = [7; 65_536];
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 268435456\r\n\r\n");
        for _ in 0..4096 {
            if peer.stream.write_all(&BLOCK).is_err() {
                return;
            }
        }
    });
    let limits = Limits { body_write_timeout: Duration::from_secs(1), ..Limits::default() };
    let world = World::with(&origin, with(limits));
    let mut gone = 0;
    // Of each answer of 256 MiB no more than some buffers; the threads that send are of this process, too.
    waves("60 answers of 256 MiB that nobody reads", PEERS * 512 * 1024, || {
        let peers: Vec<Peer> = (0..PEERS)
            .map(|_| {
                let mut peer = world.client();
                peer.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                peer
            })
            .collect();
        gone += PEERS as u64;
        eventually("all are given up", || world.failures("client_stalled") == gone);
        drop(peers);
    });
}

#[test]
fn requests_that_are_poured_in_without_reading_answers_are_held_back() {
    in_its_own_process("hostile_memory::process_with_requests_poured_in");
}

#[test]
#[ignore = "run by requests_that_are_poured_in_without_reading_answers_are_held_back"]
fn process_with_requests_poured_in() {
    let origin = Origin::start(|peer| {
        let answer = ok(&"x".repeat(10_000));
        while peer.request().is_some() {
            peer.send(&answer);
        }
    });
    let world = World::with(&origin, with(Limits::default()));
    let mut client = world.client();
    assert_eq!(client.get("/").status, 200);
    let before = resident_bytes();
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let sent = pour(&mut client, request, 256 * MIB);
    assert!(grown(before, "requests without reading answers") < 16 * MIB);
    assert!(sent < 64 * MIB, "the proxy stops reading: {sent} bytes were taken");
    let asked = (sent / request.len()) as u64;
    assert!(origin.requests() < asked, "{} of {asked} were asked", origin.requests());
    assert_eq!(world.client().get("/").status, 200, "others are served");
}

#[test]
fn chunk_extensions_and_trailers_without_an_end_are_refused_and_cost_no_memory() {
    in_its_own_process("hostile_memory::process_with_chunks_without_an_end");
}

#[test]
#[ignore = "run by chunk_extensions_and_trailers_without_an_end_are_refused_and_cost_no_memory"]
fn process_with_chunks_without_an_end() {
    // Its requests break off: one that read them as messages would panic, and a panic's trace takes more memory than is looked for.
    let origin = Origin::start(|peer| {
        peer.rest();
    });
    let world = World::with(&origin, with(Limits::default()));
    let before = resident_bytes();
    for (n, (start, piece)) in [
        ("5;", &b"ext=value;"[..]),
        ("5\r\nhello\r\n5;x=\"", b"aaaaaaaaaaaa"),
        ("0\r\n", b"X-Trailer: value\r\n"),
        ("0\r\nX-Trailer: ", b"valuevaluevalue"),
        // Each a chunk of one byte with an extension that is small: the sum is not.
        ("", b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = world.client();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{start}"));
        let sent = pour(&mut client, piece, 64 * MIB);
        let refused = world.failures("bad_body") as usize == n + 1;
        assert!(refused || sent >= 64 * MIB, "{start:?} after {sent} bytes");
        assert!(grown(before, start) < 8 * MIB);
        if !refused {
            // Extensions of chunks that carry something are dropped as they come; nothing is kept of them.
            break;
        }
    }
    assert!(world.failures("bad_body") >= 4);
}

#[test]
fn hellos_that_never_end_cost_a_bound_and_leave_nothing_behind() {
    in_its_own_process("hostile_memory::process_with_hellos_that_never_end");
}

#[test]
#[ignore = "run by hellos_that_never_end_cost_a_bound_and_leave_nothing_behind"]
fn process_with_hellos_that_never_end() {
    const PEERS: usize = 200;
    let origin = Origin::named("ok");
    let limits = Limits { tls_handshake_timeout: Duration::from_millis(700), ..Limits::default() };
    let world = World::bare(with(limits));
    let authority = Authority::new("authority");
    let mut resources = vec![
        authority.sign(&["a.example"]).resource("c"),
        ListenerOf::https(world.address, "l", "", &["c"]).resource(),
        http_route("r", &["l"], "", "b"),
    ];
    resources.extend(backend("b", &[origin.address]));
    assert_eq!(world.apply(resources).rejected, []);
    // A record that says 12 KiB, of a ClientHello that says as much, and never ends.
    let length = 12 * 1024_u16;
    let mut part = vec![22, 3, 1];
    part.extend(length.to_be_bytes());
    part.extend([1, 0]);
    part.extend((length - 4).to_be_bytes());
    part.resize(usize::from(length) - 100, 3);
    let mut gone = 0;
    waves("200 hellos of 12 KiB without an end", PEERS * 64 * 1024, || {
        let peers: Vec<Peer> = (0..PEERS)
            .map(|_| {
                let mut peer = world.client();
                peer.send(&part);
                peer
            })
            .collect();
        gone += PEERS as u64;
        eventually("all are given up", || {
            world.failures("tls_timeout") + world.failures("tls_hello") == gone
        });
        drop(peers);
    });
    let mut client = Peer::secure(world.address, "a.example", &authority.client());
    assert_eq!(client.get("/").text(), "ok");
}

/// CVE-2025-8671: frames that break a rule of their stream, so that the server resets it and the work for it goes on.
#[test]
fn a_client_that_makes_the_server_reset_its_streams_ends_its_connection() {
    in_its_own_process("hostile_memory::process_where_the_server_is_made_to_reset");
}

#[test]
#[ignore = "run by a_client_that_makes_the_server_reset_its_streams_ends_its_connection"]
fn process_where_the_server_is_made_to_reset() {
    // One thread for all: what it needs for each request is not what is looked at.
    let origin = Http2Origin::start(|_, mut respond| async move { say(&mut respond, 200, "ok") });
    let world = World::to_http2(&origin);
    assert_eq!(world.client().get("/").status, 200);
    let overflow = |stream| frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
    let nothing = |stream| frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes());
    let behind_the_end = |stream| frame(DATA, 0, stream, b"more");
    type Way<'a> = (&'a str, &'a dyn Fn(u32) -> Vec<u8>);
    let ways: [Way<'_>; 3] = [
        ("a window beyond its limit", &overflow),
        ("a window update of nothing", &nothing),
        ("data behind the end", &behind_the_end),
    ];
    for (what, breaks) in ways {
        let (before, requests) = (resident_bytes(), origin.requests());
        let mut peer = world.client();
        peer.send(hello(&[]));
        let started = Instant::now();
        let mut streams = 0;
        for stream in (1..40_000).step_by(2) {
            let mut pair = frame(HEADERS, END_HEADERS | END_STREAM, stream, GET);
            pair.extend(breaks(stream));
            if !peer.flood(&pair, 1) {
                break;
            }
            streams += 1;
        }
        assert!(peer.reason_of_end().is_none_or(|reason| reason != 0), "{what}: it ends for a reason");
        assert!(started.elapsed() < PATIENCE, "{what}");
        assert!(grown(before, what) < 16 * MIB, "{what}");
        let reached = origin.requests() - requests;
        assert!(reached < 5_000, "{what}: {reached} requests of {streams} streams reached the backend");
    }
    assert_eq!(world.client().get("/").status, 200, "others are served");
}

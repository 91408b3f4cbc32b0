//! Peers that do not behave: every class of attack meets a bound, and the connection ends.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Response};
use weir_model::limits::Limits;

use crate::harness::*;
use crate::http2_harness::frames::*;
use crate::http2_harness::*;

const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;
const NO_ERROR: u32 = 0;

/// Memory that a hostile connection may cost at most, beside noise.
const BOUND: usize = 16 * 1024 * 1024;

fn hello_to(world: &World) -> Peer {
    let mut peer = world.client();
    peer.send(hello(&[]));
    peer
}

/// The connection ends for this reason, or so hard that the reason is lost.
fn ends_with(peer: &mut Peer, reason: u32) {
    if let Some(given) = peer.reason_of_end() {
        assert_eq!(given, reason);
    }
}

fn serves_others(world: &World) {
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        assert_eq!(client.get("/").await.status, 200);
    });
}

/// CVE-2023-44487: requests that are reset at once.
#[test]
fn a_rapid_reset_ends_the_connection() {
    in_its_own_process("http2_hostile::process_where_a_rapid_reset_ends_the_connection");
}

#[test]
#[ignore = "run by a_rapid_reset_ends_the_connection"]
fn process_where_a_rapid_reset_ends_the_connection() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    let mut peer = hello_to(&world);
    let before = resident_bytes();
    for stream in (1..20_000).step_by(2) {
        let mut pair = frame(HEADERS, END_HEADERS | END_STREAM, stream, GET);
        pair.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        if !peer.flood(&pair, 1) {
            break;
        }
    }
    ends_with(&mut peer, ENHANCE_YOUR_CALM);
    assert!(resident_bytes() < before + BOUND);
    assert!(origin.requests() < 5_000, "{}", origin.requests());
    serves_others(&world);
}

/// The same, slowly enough for every request to have reached a backend.
#[test]
fn requests_that_are_always_given_up_end_the_connection() {
    let origin = Origin::start(|peer| {
        peer.request_head();
        peer.rest();
    });
    let limits = Limits { http2_premature_resets: 20, ..Limits::default() };
    let world = World::with(&origin, with_limits(limits));
    let mut peer = hello_to(&world);
    for (count, stream) in (1..10_000).step_by(2).enumerate() {
        peer.ask(stream);
        let reached =
            || origin.requests() > count as u64 || world.metric("weir_proxy_http2_floods_total") > 0;
        eventually("the request is there, or the end", reached);
        if world.metric("weir_proxy_http2_floods_total") > 0 {
            break;
        }
        peer.send(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    ends_with(&mut peer, ENHANCE_YOUR_CALM);
    assert!((20..=23).contains(&origin.requests()), "{}", origin.requests());
}

/// The same where nobody looks at the requests for a while, because they wait for an endpoint.
#[test]
fn requests_that_are_given_up_while_they_wait_are_bounded() {
    let origin = Origin::named("ok");
    let limits = Limits {
        http2_streams: 5,
        http2_requests_under_way: 20,
        endpoint_hold: PATIENCE,
        ..Limits::default()
    };
    let world = World::with(&origin, with_limits(limits));
    assert_eq!(world.apply(vec![endpoints("b0", &[])]).rejected, []);
    let mut peer = hello_to(&world);
    for stream in (1..10_000).step_by(2) {
        peer.ask(stream);
        peer.send(frame(PING, 0, 0, &[0; 8]));
        // The request is with its task when a later PING has been answered.
        let mut kinds = std::iter::from_fn(|| peer.frame()).map(|(kind, flags, ..)| (kind, flags));
        if !kinds.any(|answer| answer == (PING, 1)) {
            break;
        }
        peer.send(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    eventually("the end", || world.metric("weir_proxy_http2_floods_total") == 1);
    let waited = world.metric("weir_proxy_held_total");
    assert!((20..=22).contains(&waited), "{waited}");
}

/// CVE-2024-27316 and its like: a head without an end.
#[test]
fn a_continuation_flood_ends_the_connection() {
    in_its_own_process("http2_hostile::process_where_a_continuation_flood_ends_the_connection");
}

#[test]
#[ignore = "run by a_continuation_flood_ends_the_connection"]
fn process_where_a_continuation_flood_ends_the_connection() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    let before = resident_bytes();
    let mut peer = hello_to(&world);
    peer.send(frame(HEADERS, END_STREAM, 1, GET));
    // A literal without indexing, so that nothing is shared.
    let mut line = b"\0\x05x-abc\x7f\x81\x7e".to_vec();
    line.extend([b'y'; 16_381 - 10]);
    peer.flood(&frame(CONTINUATION, 0, 1, &line), 5_000);
    assert!(peer.reason_of_end().is_none_or(|reason| reason != NO_ERROR));
    assert!(resident_bytes() < before + BOUND);
    assert_eq!(origin.requests(), 0);
    serves_others(&world);
}

/// As small as it gets: frames without a byte.
#[test]
fn empty_continuations_end_the_connection() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    let mut peer = hello_to(&world);
    peer.send(frame(HEADERS, END_STREAM, 1, GET));
    peer.flood(&frame(CONTINUATION, 0, 1, b""), 1_000_000);
    assert!(peer.reason_of_end().is_none_or(|reason| reason != NO_ERROR));
    assert_eq!(origin.requests(), 0);
}

/// CVE-2019-9512, 9515, 9513, 9511, 9518: frames that make work and carry nothing.
#[test]
fn floods_of_frames_that_carry_nothing_end_the_connection() {
    in_its_own_process("http2_hostile::process_where_floods_of_frames_that_carry_nothing_end_the_connection");
}

#[test]
#[ignore = "run by floods_of_frames_that_carry_nothing_end_the_connection"]
fn process_where_floods_of_frames_that_carry_nothing_end_the_connection() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    let floods = [
        ("PING", frame(PING, 0, 0, &[7; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("PRIORITY", frame(2, 0, 3, &[0, 0, 0, 0, 5])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())),
        ("unknown", frame(0xfa, 0, 0, b"")),
    ];
    let before = resident_bytes();
    for (index, (name, flood)) in floods.iter().enumerate() {
        let mut peer = hello_to(&world);
        let began = Instant::now();
        peer.flood(flood, 1_000_000);
        ends_with(&mut peer, ENHANCE_YOUR_CALM);
        assert!(began.elapsed() < PATIENCE, "{name}");
        eventually(name, || world.metric("weir_proxy_http2_floods_total") == index as u64 + 1);
    }
    assert!(resident_bytes() < before + BOUND);
    serves_others(&world);
}

/// CVE-2019-9518: DATA without data.
#[test]
fn a_flood_of_empty_data_ends_the_connection() {
    let origin = Origin::start(|peer| {
        peer.request_head();
        peer.rest();
    });
    let world = World::to(&origin);
    let mut peer = hello_to(&world);
    peer.send(frame(HEADERS, END_HEADERS, 1, b"\x83\x86\x84\x01\x01a"));
    peer.flood(&frame(DATA, 0, 1, b""), 1_000_000);
    ends_with(&mut peer, ENHANCE_YOUR_CALM);
}

/// Many small frames in a window that would hold them many times over.
#[test]
fn a_flood_of_tiny_data_costs_no_memory() {
    in_its_own_process("http2_hostile::process_where_a_flood_of_tiny_data_costs_no_memory");
}

#[test]
#[ignore = "run by a_flood_of_tiny_data_costs_no_memory"]
fn process_where_a_flood_of_tiny_data_costs_no_memory() {
    let origin = Origin::start(|peer| {
        peer.request_head();
        std::thread::sleep(PATIENCE);
    });
    let world = World::to(&origin);
    let before = resident_bytes();
    let mut peer = hello_to(&world);
    peer.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    for stream in [1, 3, 5, 7] {
        peer.send(frame(HEADERS, END_HEADERS, stream, b"\x83\x86\x84\x01\x01a"));
        peer.flood(&frame(DATA, 0, stream, b"x"), 250_000);
    }
    assert!(resident_bytes() < before + BOUND);
}

#[test]
fn a_client_that_opens_no_window_costs_a_bound_and_time() {
    in_its_own_process("http2_hostile::process_with_closed_windows");
}

/// CVE-2019-9517 and the "HTTP/2 bomb" of 2026: every stream asks for much and takes nothing.
#[test]
#[ignore = "run by a_client_that_opens_no_window_costs_a_bound_and_time"]
fn process_with_closed_windows() {
    let body = "x".repeat(1024 * 1024);
    let answer = ok(&body);
    let origin = Origin::start(move |peer| {
        while peer.request().is_some() {
            peer.send(&answer);
        }
    });
    let limits = Limits { body_write_timeout: Duration::from_millis(500), ..Limits::default() };
    let world = World::with(&origin, with_limits(limits));
    serves_others(&world);
    let before = resident_bytes();
    // SETTINGS_INITIAL_WINDOW_SIZE 0.
    let mut peers: Vec<_> = (0..5)
        .map(|_| {
            let mut peer = world.client();
            peer.send(hello(&[(4, 0)]));
            for stream in (1..200).step_by(2) {
                peer.ask(stream);
            }
            peer
        })
        .collect();
    eventually("all have been asked for", || origin.requests() >= 500);
    let grown = resident_bytes().saturating_sub(before);
    // A read buffer each, on both sides of what this process plays, and no more.
    assert!(grown < 500 * 192 * 1024, "{grown} bytes");
    eventually("all are given up", || world.failures("client_stalled") >= 500);
    for peer in &mut peers {
        let mut resets = 0;
        while resets < 100 {
            resets += usize::from(peer.frame().expect("the connection stays").0 == RST_STREAM);
        }
    }
}

/// It opens its window little by little, and takes much longer for what was read at once than a client may stand still.
#[test]
fn a_client_that_reads_slowly_is_not_given_up() {
    const PIECE_BYTES: usize = 1000;
    let origin = Origin::named(&"x".repeat(20 * PIECE_BYTES));
    let limits = Limits { body_write_timeout: Duration::from_millis(600), ..Limits::default() };
    let world = World::with(&origin, with_limits(limits));
    let mut peer = world.client();
    peer.send(hello(&[(4, PIECE_BYTES as u32)]));
    peer.ask(1);
    let mut taken = 0;
    while taken < 20 * PIECE_BYTES {
        let (kind, _, _, payload) = peer.frame().expect("the connection stays");
        assert_ne!(kind, RST_STREAM, "after {taken} bytes");
        if kind == DATA {
            taken += payload.len();
            // As slow as it may be: the pace is what is tested.
            std::thread::sleep(Duration::from_millis(100));
            peer.send(frame(WINDOW_UPDATE, 0, 1, &(payload.len() as u32).to_be_bytes()));
        }
    }
    assert_eq!(world.failures("client_stalled"), 0);
}

/// The window of the connection, instead of those of the streams.
#[test]
fn a_client_that_reads_nothing_at_all_is_given_up() {
    let origin = Origin::named(&"x".repeat(64 * 1024));
    let limits = Limits {
        body_write_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(300),
        linger_timeout: Duration::from_millis(100),
        http2_keepalive_delay: Duration::from_millis(100),
        http2_keepalive_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let world = World::with(&origin, with_limits(limits));
    let mut peer = world.client();
    peer.send(hello(&[(4, (1 << 31) - 1)]));
    peer.send(frame(WINDOW_UPDATE, 0, 0, &((1u32 << 31) - 65_536).to_be_bytes()));
    let mut stream = 1;
    // Much more than all buffers of the kernel's hold.
    eventually("the connection is closed", || {
        for _ in 0..50 {
            peer.ask(stream);
            stream += 2;
        }
        world.metric("weir_proxy_connections_open{worker=\"0\"}") == 0
    });
}

#[test]
fn a_head_beyond_the_limit_is_refused_and_costs_no_memory() {
    in_its_own_process("http2_hostile::process_where_a_head_beyond_the_limit_is_refused_and_costs_no_memory");
}

#[test]
#[ignore = "run by a_head_beyond_the_limit_is_refused_and_costs_no_memory"]
fn process_where_a_head_beyond_the_limit_is_refused_and_costs_no_memory() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    let before = resident_bytes();
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let mut asked = request(Method::GET, "/");
        for index in 0..17 {
            let name: http::HeaderName = format!("x-{index}").parse().unwrap();
            asked.headers_mut().append(name, "y".repeat(4_000).parse().unwrap());
        }
        let (response, _) = client.begin(asked, true).await;
        assert_eq!(response.await.unwrap().status(), 431);
        // A little too large is refused, and the connection stays.
        assert_eq!(client.get("/").await.status, 200);
    });
    assert!(resident_bytes() < before + BOUND);
}

/// A few bytes on the wire that stand for very many: one large field in the table, named again and again.
#[test]
fn a_compression_bomb_ends_at_the_limit() {
    in_its_own_process("http2_hostile::process_where_a_compression_bomb_ends_at_the_limit");
}

#[test]
#[ignore = "run by a_compression_bomb_ends_at_the_limit"]
fn process_where_a_compression_bomb_ends_at_the_limit() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    let before = resident_bytes();
    let mut block = GET.to_vec();
    // A literal with indexing of 4,000 bytes, then its index 16,000 times: 64 MB.
    block.extend(b"\x40\x01x\x7f\xa1\x1e");
    block.extend([b'y'; 4_000]);
    block.extend([0xbe; 12_000]);
    let mut peer = hello_to(&world);
    for stream in (1..200).step_by(2) {
        peer.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block));
    }
    // It may have ended already.
    let _ = peer.stream.shutdown(std::net::Shutdown::Write);
    while peer.frame().is_some() {}
    assert!(resident_bytes() < before + BOUND);
    assert_eq!(origin.requests(), 0);
    serves_others(&world);
}

#[test]
fn many_crumbs_of_a_cookie_are_counted() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let mut asked = request(Method::GET, "/");
        for _ in 0..200 {
            asked.headers_mut().append("cookie", "a=b".parse().unwrap());
        }
        let (response, _) = client.begin(asked, true).await;
        assert_eq!(response.await.unwrap().status(), 431);
    });
}

#[test]
fn a_head_that_does_not_end_ends_the_connection_in_time() {
    let origin = Origin::named("ok");
    let limits = Limits { header_read_timeout: Duration::from_millis(100), ..Limits::default() };
    let world = World::with(&origin, with_limits(limits));
    let mut begun = hello_to(&world);
    begun.send(frame(HEADERS, END_STREAM, 1, GET));
    // Half a frame.
    let mut half = hello_to(&world);
    half.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, GET)[..12]);
    for peer in [&mut begun, &mut half] {
        assert!(peer.reason_of_end().is_none_or(|reason| reason != PROTOCOL_ERROR));
    }
    assert_eq!(origin.requests(), 0);
}

#[test]
fn a_connection_that_asks_for_nothing_ends_in_time() {
    let origin = Origin::named("ok");
    let limits = Limits {
        first_byte_timeout: Duration::from_millis(100),
        idle_timeout: Duration::from_millis(150),
        ..Limits::default()
    };
    let world = World::with(&origin, with_limits(limits));
    let mut silent = hello_to(&world);
    assert_eq!(silent.reason_of_end(), Some(NO_ERROR));
    let mut idle = hello_to(&world);
    idle.ask(1);
    assert_eq!(idle.reason_of_end(), Some(NO_ERROR));
    assert_eq!(origin.requests(), 1);
}

#[test]
fn a_client_that_gives_no_sign_of_life_is_given_up() {
    let origin = Origin::start(|peer| {
        peer.request_head();
        peer.rest();
    });
    let limits = Limits {
        http2_keepalive_delay: Duration::from_millis(50),
        http2_keepalive_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let world = World::with(&origin, with_limits(limits));
    let mut peer = hello_to(&world);
    peer.ask(1);
    let mut asked = false;
    while let Some((kind, ..)) = peer.frame() {
        asked |= kind == PING;
    }
    assert!(asked, "it was asked before");
    world.expect_failures("client_gone", 1);
}

#[test]
fn idle_connections_cost_little() {
    in_its_own_process("http2_hostile::process_where_idle_connections_cost_little");
}

#[test]
#[ignore = "run by idle_connections_cost_little"]
fn process_where_idle_connections_cost_little() {
    const CONNECTIONS: usize = 300;
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    let open = |count: usize| -> Vec<Peer> {
        let mut peers: Vec<_> = (0..count).map(|_| hello_to(&world)).collect();
        for peer in &mut peers {
            peer.ask(1);
            while peer.frame().expect("an answer").0 != DATA {}
        }
        peers
    };
    // What is made once is not what a connection costs.
    let _first = open(5);
    let before = resident_bytes();
    let _peers = open(CONNECTIONS);
    let each = resident_bytes().saturating_sub(before) / CONNECTIONS;
    // Ours and the client's, which is in this process too.
    assert!(each < 48 * 1024, "{each} bytes for each");
    println!("{each} bytes for each idle connection");
}

#[test]
fn more_streams_than_allowed_are_refused() {
    let origin = Origin::start(|peer| {
        peer.request_head();
        peer.rest();
    });
    let limits = Limits { http2_streams: 5, ..Limits::default() };
    let world = World::with(&origin, with_limits(limits));
    let mut peer = hello_to(&world);
    for stream in (1..=13).step_by(2) {
        peer.ask(stream);
    }
    let mut refused = Vec::new();
    while refused.len() < 2 {
        let (kind, _, stream, payload) = peer.frame().expect("the connection stays");
        if kind == RST_STREAM {
            assert_eq!(payload, 7u32.to_be_bytes());
            refused.push(stream);
        }
    }
    assert_eq!(refused, [11, 13]);
    eventually("the others are served", || origin.requests() == 5);
}

/// RFC 9113 section 8.1.1: what the length says and what comes must agree.
#[test]
fn a_body_that_is_not_as_long_as_announced_is_refused() {
    let origin = Origin::start(|peer| {
        peer.request_head();
        peer.rest();
    });
    let world = World::to(&origin);
    for body in [&b"ab"[..], b"abcd"] {
        let mut peer = hello_to(&world);
        // content-length: 3
        peer.send(frame(HEADERS, END_HEADERS, 1, b"\x83\x86\x84\x01\x01a\x0f\x0d\x013"));
        peer.send(frame(DATA, END_STREAM, 1, body));
        loop {
            let (kind, _, stream, payload) = peer.frame().expect("only the stream ends");
            if kind == RST_STREAM {
                assert_eq!((stream, payload), (1, PROTOCOL_ERROR.to_be_bytes().to_vec()));
                break;
            }
        }
    }
}

/// RFC 9113 section 8.2.2, and smuggling by what HTTP/1.1 would read in it.
#[test]
fn fields_that_would_change_the_meaning_in_http1_never_arrive() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    let literal = |name: &[u8], value: &[u8]| {
        let mut field = vec![0, name.len() as u8];
        field.extend(name);
        field.push(value.len() as u8);
        field.extend(value);
        field
    };
    for (name, value) in [
        (&b"transfer-encoding"[..], &b"chunked"[..]),
        (b"connection", b"close"),
        (b"upgrade", b"websocket"),
        (b"keep-alive", b"1"),
        (b"proxy-connection", b"x"),
        (b"te", b"gzip"),
        (b"x-a", b"b\r\nx-injected: c"),
        (b"x-a\r\nx-injected", b"c"),
        (b"x-a: b", b"c"),
        (b"X-Upper", b"c"),
        (b"x a", b"c"),
        (b":path", b"/other"),
        (b":unknown", b"x"),
    ] {
        let mut peer = hello_to(&world);
        peer.send(frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            1,
            &[GET.to_vec(), literal(name, value)].concat(),
        ));
        loop {
            match peer.frame() {
                None => break,
                Some((RST_STREAM | GOAWAY, ..)) => break,
                Some((HEADERS, ..)) => panic!("{:?} was answered", String::from_utf8_lossy(name)),
                Some(_) => {}
            }
        }
    }
    assert_eq!(origin.requests(), 0);
}

#[test]
fn an_endpoint_that_floods_is_bounded_too() {
    in_its_own_process("http2_hostile::process_where_an_endpoint_that_floods_is_bounded_too");
}

#[test]
#[ignore = "run by an_endpoint_that_floods_is_bounded_too"]
fn process_where_an_endpoint_that_floods_is_bounded_too() {
    let builder = std::sync::Arc::new(h2::server::Builder::new());
    let origin = Http2Origin::serve(move |stream, _, requests| {
        let builder = builder.clone();
        async move {
            let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                note(&requests, &request);
                let mut response = Response::new(());
                for index in 0..300 {
                    let name: http::HeaderName = format!("x-{index}").parse().unwrap();
                    response.headers_mut().append(name, "y".repeat(1_000).parse().unwrap());
                }
                let _ = respond.send_response(response, true);
            }
        }
    });
    let world = World::to_http2(&origin);
    let before = resident_bytes();
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        for _ in 0..20 {
            assert_eq!(client.get("/").await.status, 502);
        }
    });
    assert!(resident_bytes() < before + BOUND);
}

/// What the length says and what an endpoint sends must agree, or the client learns that it did not get the whole.
#[test]
fn an_answer_that_is_not_as_long_as_announced_is_not_taken_for_whole() {
    let origin = Http2Origin::start(|_, mut respond| async move {
        let response = Response::builder().header("content-length", 5).body(()).unwrap();
        let mut stream = respond.send_response(response, false).unwrap();
        stream.send_data(Bytes::from_static(b"abc"), true).unwrap();
    });
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let (response, _) = client.begin(request(Method::GET, "/"), true).await;
        match response.await {
            Ok(response) if response.status() == 502 => {}
            Ok(response) => assert!(all(&mut response.into_body()).await.is_err()),
            Err(error) => assert!(error.is_reset(), "{error}"),
        }
    });
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.head().unwrap_or_default();
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 502") || client.rest().len() < 5);
}

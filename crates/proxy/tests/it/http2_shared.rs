//! What one stream of a shared connection may do to the others: nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use http::{Method, Response};
use weir_model::limits::Limits;
use weir_model::resource::HttpRule;

use crate::harness::*;
use crate::http2_harness::frames::*;
use crate::http2_harness::*;

/// `:status: 200` of the static table.
const OK: &[u8] = b"\x88";

/// An origin that bounds nothing, so that only the proxy does.
fn patient() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder.data_frame_budget(usize::MAX).initial_connection_window_size(1 << 30);
    builder
}

/// Such a client.
async fn client_of(world: &World) -> Http2Client {
    let mut builder = h2::client::Builder::new();
    builder.data_frame_budget(usize::MAX);
    Http2Client::with(world.address, &builder).await
}

/// Answers `/many` with so many messages of 16 bytes in frames of their own, `/large` with much, and all else with a word.
fn origin(messages: usize) -> Http2Origin {
    Http2Origin::start(move |request, mut respond| async move {
        let path = request.uri().path().to_owned();
        if path != "/many" && path != "/large" {
            return say(&mut respond, 200, "ok");
        }
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        let (piece, count) = if path == "/many" { (21, messages) } else { (16 * 1024, 1_000) };
        for _ in 0..count {
            // The other side may have gone.
            if pour_on(&mut stream, Bytes::from(vec![b'x'; piece])).await.is_err() {
                return;
            }
        }
        let _ = stream.send_data(Bytes::new(), true);
    })
}

/// Asks for `path`, and waits until the backend has sent what it may.
async fn stall(world: &World, path: &str) -> (Http2Client, h2::RecvStream) {
    let mut client = client_of(world).await;
    let (response, _) = client.begin(request(Method::GET, path), true).await;
    let mut body = response.await.unwrap().into_body();
    assert!(!body.data().await.unwrap().unwrap().is_empty());
    (client, body)
}

#[test]
fn clients_that_stop_reading_stop_nobody_else_of_their_backends_connection() {
    let origin = origin(0);
    let world = World::to_http2(&origin);
    in_time(async {
        let mut stalled = Vec::new();
        for _ in 0..12 {
            stalled.push(stall(&world, "/large").await);
        }
        let mut client = Http2Client::connect(world.address).await;
        for _ in 0..3 {
            assert_eq!(client.get("/large").await.body.len(), 16 * 1024 * 1_000);
        }
        assert_eq!(client.get("/").await.text(), "ok");
    });
    assert_eq!(origin.connections(), 1);
}

/// The same towards a proxy in front that brings many users' uploads over one connection.
#[test]
fn uploads_that_stall_stop_nobody_else_behind_a_trusted_proxy() {
    let origin = Http2Origin::with(patient(), |request, mut respond| async move {
        if request.uri().path() == "/stall" {
            // Takes nothing for as long as the stream is there.
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            return;
        }
        all(&mut request.into_body()).await.unwrap();
        say(&mut respond, 200, "taken");
    });
    let trusted = vec!["127.0.0.0/8".parse().unwrap()];
    let config = weir_proxy::ProxyConfig { trusted, ..one_worker() };
    let world = World::to_http2_with(&origin, config);
    in_time(async {
        let mut front = Http2Client::connect(world.address).await;
        let mut stalled = Vec::new();
        for _ in 0..12 {
            let (response, mut stream) = front.begin(request(Method::POST, "/stall"), false).await;
            let poured = Arc::new(AtomicUsize::new(0));
            let count = poured.clone();
            let pouring = tokio::spawn(async move {
                while pour_on(&mut stream, Bytes::from(vec![b'x'; 16 * 1024])).await.is_ok() {
                    count.fetch_add(16 * 1024, Ordering::SeqCst);
                }
            });
            settled(&poured).await;
            stalled.push((response, pouring));
        }
        let (response, mut stream) = front.begin(request(Method::POST, "/"), false).await;
        pour(&mut stream, Bytes::from(vec![b'x'; 2 * 1024 * 1024])).await.unwrap();
        assert_eq!(whole(response.await.unwrap()).await.text(), "taken");
    });
}

#[test]
fn small_messages_that_nobody_reads_end_no_connection_of_a_backend() {
    let origin = origin(30_000);
    let world = World::to_http2(&origin);
    in_time(async {
        let (_client, mut body) = stall(&world, "/many").await;
        // While it does not read, others are served on the same connection.
        let mut other = client_of(&world).await;
        for _ in 0..100 {
            assert_eq!(other.get("/").await.text(), "ok");
        }
        assert_eq!(other.get("/many").await.body.len(), 21 * 30_000);
        body.flow_control().release_capacity(21).unwrap();
        let mut read = 21;
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            read += data.len();
        }
        assert!(read >= 21 * 29_000, "{read}");
    });
    assert_eq!(origin.connections(), 1);
}

/// As many small messages as a stream's window holds, before the backend takes the first.
#[test]
fn a_burst_of_small_messages_of_a_client_does_not_end_its_connection() {
    let (release, released) = tokio::sync::watch::channel(false);
    let origin = Http2Origin::with(patient(), move |request, mut respond| {
        let mut released = released.clone();
        async move {
            let mut body = request.into_body();
            released.wait_for(|it| *it).await.unwrap();
            assert_eq!(all(&mut body).await.unwrap().len(), 30_000 * 21);
            say(&mut respond, 200, "all of it");
        }
    });
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let (response, mut stream) = client.begin(request(Method::POST, "/"), false).await;
        let poured = Arc::new(AtomicUsize::new(0));
        let count = poured.clone();
        let pouring = tokio::spawn(async move {
            for _ in 0..30_000 {
                pour_on(&mut stream, Bytes::from_static(&[b'x'; 21])).await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
            }
            stream.send_data(Bytes::new(), true).unwrap();
        });
        assert!(settled(&poured).await > 10_000);
        release.send(true).unwrap();
        pouring.await.unwrap();
        assert_eq!(whole(response.await.unwrap()).await.text(), "all of it");
    });
}

/// What grpc-go sends for each DATA frame that it gets while it measures the path.
#[test]
fn a_window_update_and_a_ping_for_each_small_message_are_no_flood() {
    const MESSAGES: usize = 2_500;
    let (go_on, went_on) = std::sync::mpsc::channel::<()>();
    let went_on = std::sync::Mutex::new(went_on);
    let origin = Origin::start(move |peer| {
        peer.request_head();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..MESSAGES {
            peer.send("5\r\nhello\r\n");
            if went_on.lock().unwrap().recv_timeout(PATIENCE).is_err() {
                return;
            }
        }
        peer.send("0\r\n\r\n");
    });
    let world = World::to(&origin);
    let mut peer = world.client();
    peer.send(hello(&[]));
    peer.ask(1);
    let mut got = 0;
    loop {
        let (kind, flags, _, payload) = peer.frame().expect("the connection stays");
        assert_ne!(kind, GOAWAY, "after {got} messages");
        if kind != DATA {
            continue;
        }
        if !payload.is_empty() {
            got += 1;
            let mut answer = frame(WINDOW_UPDATE, 0, 0, &5u32.to_be_bytes());
            answer.extend(frame(PING, 0, 0, &[7; 8]));
            peer.send(answer);
            go_on.send(()).unwrap();
        }
        if flags & END_STREAM != 0 {
            break;
        }
    }
    assert_eq!(got, MESSAGES);
    assert_eq!(world.metric("weir_proxy_http2_floods_total"), 0);
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

/// Who leaves a page, or ends a watch, gives up streams that were being answered.
#[test]
fn streams_that_are_given_up_after_their_answer_began_are_no_flood() {
    let origin = Http2Origin::start(|_, mut respond| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data(Bytes::from_static(b"begun"), false).unwrap();
        let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
    });
    let limits = Limits { http2_premature_resets: 10, ..Limits::default() };
    let world = World::to_http2_with(&origin, with_limits(limits));
    let mut peer = world.client();
    peer.send(hello(&[]));
    for stream in (1..200).step_by(2) {
        peer.ask(stream);
        while peer.frame().expect("the connection stays").0 != DATA {}
        peer.send(reset(stream));
    }
    assert_eq!(world.metric("weir_proxy_http2_floods_total"), 0);
}

/// A client whose deadlines pass because a backend is slow does not attack.
#[test]
fn streams_that_are_given_up_after_a_while_are_no_flood() {
    let origin = Http2Origin::start(|_, mut respond| async move {
        let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
    });
    let limits = Limits { http2_premature_resets: 10, ..Limits::default() };
    let world = World::to_http2_with(&origin, with_limits(limits));
    let mut peer = world.client();
    peer.send(hello(&[]));
    let streams: Vec<u32> = (1..100).step_by(2).collect();
    for &stream in &streams {
        peer.ask(stream);
    }
    eventually("all are asked for", || origin.requests() == streams.len());
    let began = Instant::now();
    eventually("the deadline passes", || began.elapsed() > Duration::from_millis(1_200));
    for &stream in &streams {
        peer.send(reset(stream));
    }
    eventually("all are over", || world.failures("client_gone") >= streams.len() as u64);
    peer.send(frame(PING, 0, 0, &[0; 8]));
    while peer.frame().expect("the connection stays").0 != PING {}
    assert_eq!(world.metric("weir_proxy_http2_floods_total"), 0);
}

/// A reset is an answer: whoever asked may ask again.
#[test]
fn a_request_whose_stream_was_reset_is_not_sent_again() {
    let origin = Http2Origin::start(|request, mut respond| async move {
        match request.uri().path() {
            "/" => say(&mut respond, 200, "ok"),
            _ => respond.send_reset(Reason::INTERNAL_ERROR),
        }
    });
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        assert_eq!(client.get("/").await.text(), "ok");
        assert_eq!(client.get("/broken").await.status, 502);
    });
    assert_eq!(origin.requests(), 2);
}

/// A connection that ends without a word is as stale as one of HTTP/1.1; the request goes out once more, on a new one.
#[test]
fn a_harmless_request_is_repeated_once_when_its_connection_ends() {
    let origin = Origin::start(|peer| {
        peer.exactly(PREFACE.len());
        peer.send(frame(SETTINGS, 0, 0, &[]));
        // Each connection answers one request, and closes at the next.
        let mut answered = peer.index > 1;
        while let Some((kind, _, stream, _)) = peer.frame() {
            if kind != HEADERS {
                continue;
            }
            peer.request_noted();
            if answered {
                return;
            }
            answered = true;
            peer.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, OK));
        }
    });
    let world = World::start(one_worker());
    world.serve_http2(&[origin.address]);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        assert_eq!(client.get("/").await.status, 200);
        // The first connection closes, the second answers.
        assert_eq!(client.get("/").await.status, 200);
        assert_eq!(origin.requests(), 3);
        // The second closes, and so does every other: one repeat, no more.
        assert_eq!(client.get("/").await.status, 502);
    });
    assert_eq!(origin.requests(), 5);
}

#[test]
fn a_harmless_request_is_not_sent_over_one_stale_connection_after_another() {
    let origin = Origin::start(|peer| {
        peer.exactly(PREFACE.len());
        peer.send(frame(SETTINGS, 0, 0, &[]));
        let mut answered = false;
        while let Some((kind, _, stream, _)) = peer.frame() {
            if kind == HEADERS {
                peer.request_noted();
                if answered {
                    return;
                }
                eventually("three are asked", || peer.counted() >= 3);
                answered = true;
                peer.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, OK));
            }
        }
    });
    let limits = Limits { upstream_http2_streams: 1, ..Limits::default() };
    let world = World::start(with_limits(limits));
    world.serve_http2(&[origin.address]);
    let mut clients: Vec<_> = (0..3).map(|_| world.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.response_to("HEAD").status, 200);
    }
    assert_eq!((origin.connections(), origin.requests()), (3, 3));
    assert_eq!(world.client().get("/").status, 502);
    assert_eq!((origin.connections(), origin.requests()), (3, 5));
}

/// Frames of streams that were given up may be on their way; they say nothing about the endpoint.
#[test]
fn requests_that_are_given_up_end_no_connection_of_a_backend() {
    let origin = Origin::start(|peer| {
        peer.exactly(PREFACE.len());
        peer.send(frame(SETTINGS, 0, 0, &[]));
        let mut last = 0;
        while let Some((kind, _, stream, _)) = peer.frame() {
            if kind == HEADERS {
                last = stream;
                peer.send(frame(HEADERS, END_HEADERS, stream, OK));
                peer.send(frame(DATA, 0, stream, b"begun"));
            } else if kind == RST_STREAM {
                // It was under way already.
                peer.send(frame(DATA, 0, stream, b"late"));
                peer.send(frame(DATA, 0, stream, b"later"));
                peer.request_noted();
            } else if kind == PING {
                peer.send(frame(PING, 1, 0, &[0; 8]));
            }
            if peer.counted() == 40 && last > 0 {
                peer.send(frame(DATA, END_STREAM, 1, b" and ended"));
                last = 0;
            }
        }
    });
    let limits = Limits { http2_local_resets: 5, http2_reset_streams: 2, ..Limits::default() };
    let world = World::start(with_limits(limits));
    world.serve_http2(&[origin.address]);
    in_time(async {
        let (_kept, mut first) = stall(&world, "/").await;
        for _ in 0..40 {
            drop(stall(&world, "/").await);
        }
        first.flow_control().release_capacity(5).unwrap();
        assert_eq!(all(&mut first).await.unwrap(), b" and ended");
    });
    assert_eq!(origin.connections(), 1);
}

/// Servers of gRPC take more than two questions in five minutes without anything said in between for an attack.
#[test]
fn a_silent_endpoint_is_asked_once_and_not_again_soon() {
    assert_eq!(questions_to_a_silent_endpoint(Limits::default().upstream_http2_keepalive_pause), 2);
    // Where that is wanted, it is asked for as long as it is silent.
    assert_eq!(questions_to_a_silent_endpoint(Duration::ZERO), 5);
}

/// Asks for something, hears the beginning and a piece after the first question; counts questions, up to five.
fn questions_to_a_silent_endpoint(pause: Duration) -> usize {
    const ASKED_AFTER: Duration = Duration::from_millis(40);
    let (tell, told) = std::sync::mpsc::channel();
    let origin = Origin::start(move |peer| {
        peer.exactly(PREFACE.len());
        peer.send(frame(SETTINGS, 0, 0, &[]));
        let mut pings = 0;
        while let Some((kind, flags, stream, payload)) = peer.frame() {
            if kind == HEADERS {
                peer.send(frame(HEADERS, END_HEADERS, stream, OK));
            } else if kind == PING && flags == 0 {
                peer.send(frame(PING, 1, 0, &payload));
                pings += 1;
                if pings == 1 {
                    // Said something: from now on it may be asked again.
                    peer.send(frame(DATA, 0, 1, b"news"));
                }
                let _ = tell.send(());
            }
        }
    });
    let limits = Limits {
        http2_keepalive_delay: ASKED_AFTER,
        upstream_http2_keepalive_pause: pause,
        ..Limits::default()
    };
    let world = World::start(with_limits(limits));
    world.serve_http2(&[origin.address]);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.head().expect("an answer begins");
    let asked = (0..5).take_while(|_| told.recv_timeout(20 * ASKED_AFTER).is_ok()).count();
    assert_eq!(origin.connections(), 1);
    asked
}

/// Errors of gRPC with details come in trailers, and may have as many bytes as metadata may.
#[test]
fn trailers_of_the_size_of_grpc_metadata_pass() {
    let origin = Http2Origin::start(|_, mut respond| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "3".parse().unwrap());
        trailers.insert("grpc-status-details-bin", "x".repeat(15_000).parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    });
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let (response, _) = client.begin(call("/a.B/C"), true).await;
        let answer = whole(response.await.unwrap()).await;
        assert_eq!(answer.trailer("grpc-status-details-bin").map(str::len), Some(15_000));
    });
}

const SHORT: Duration = Duration::from_millis(100);

fn impatient() -> Limits {
    Limits {
        upstream_response_timeout: SHORT,
        upstream_body_timeout: SHORT,
        body_read_timeout: SHORT,
        ..Limits::default()
    }
}

/// `GRPCRoute` has no time-outs: a stream that is quiet both ways, before and after its answer began, is a stream.
#[test]
fn a_quiet_call_of_grpc_is_not_ended_by_the_time_outs_of_bodies() {
    let origin = Http2Origin::start(|_, mut respond| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data("a".into(), false).unwrap();
        tokio::time::sleep(5 * SHORT).await;
        stream.send_data("b".into(), false).unwrap();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    });
    let world = World::to_http2_with(&origin, with_limits(impatient()));
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let (response, _request) = client.begin(call("/a.B/C"), false).await;
        let answer = whole(response.await.unwrap()).await;
        assert_eq!(answer.trailer("grpc-status"), Some("0"));
        assert_eq!(answer.body, b"ab");
    });
}

/// `timeouts`: the zero duration disables the time-out completely.
#[test]
fn a_request_whose_rule_wants_no_time_out_has_none() {
    let origin = Origin::start(|peer| {
        while peer.request().is_some() {
            std::thread::sleep(3 * SHORT);
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfi");
            std::thread::sleep(3 * SHORT);
            peer.send("ne");
        }
    });
    let world = World::with(&origin, with_limits(impatient()));
    assert_eq!(world.client().get("/").status, 504);
    let never = HttpRule { backends: vec![to("b0", 1)], request_timeout_ms: u64::MAX, ..rule("/") };
    let of_try = HttpRule { request_timeout_ms: 0, backend_request_timeout_ms: u64::MAX, ..never.clone() };
    for rule in [never, of_try] {
        assert_eq!(world.apply(vec![world.route("r", rule)]).rejected, []);
        assert_eq!(world.client().get("/").text(), "fine");
    }
}

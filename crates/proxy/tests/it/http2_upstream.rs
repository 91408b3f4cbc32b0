//! Connections of HTTP/2 to endpoints: shared, replaced in time, and never asked for more than they allow.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{Method, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weir_model::limits::Limits;

use crate::harness::*;
use crate::http2_harness::*;

const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
const SETTINGS_ACK: &[u8] = b"\0\0\0\x04\x01\0\0\0\0";
/// Of stream 0: no request was looked at.
const GOAWAY: &[u8] = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";

async fn all_at_once(client: &Http2Client, count: usize) -> Vec<Answer> {
    let mut asking = Vec::new();
    for _ in 0..count {
        let send = client.send.clone();
        asking.push(tokio::spawn(async move {
            let (response, _) =
                send.ready().await.unwrap().send_request(request(Method::GET, "/"), true).unwrap();
            whole(response.await.unwrap()).await
        }));
    }
    let mut answers = Vec::new();
    for asked in asking {
        answers.push(asked.await.unwrap());
    }
    answers
}

#[test]
fn requests_that_come_at_once_share_one_connection() {
    let origin = Http2Origin::start(|_, mut respond| async move { say(&mut respond, 200, "ok") });
    let world = World::to_http2(&origin);
    in_time(async {
        let client = Http2Client::connect(world.address).await;
        for answer in all_at_once(&client, 50).await {
            assert_eq!(answer.text(), "ok");
        }
    });
    assert_eq!((origin.connections(), origin.requests()), (1, 50));
    assert_eq!(world.metric("weir_proxy_upstream_connects_total"), 1);
}

#[test]
fn an_endpoint_is_never_given_more_streams_than_it_allows() {
    let (active, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let highest = most.clone();
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(2);
    let builder = Arc::new(builder);
    let origin = Http2Origin::serve(move |stream, _, requests| {
        let (builder, active, most) = (builder.clone(), active.clone(), most.clone());
        async move {
            let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
            let mine = Arc::new(AtomicUsize::new(0));
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                note(&requests, &request);
                let (mine, active) = (mine.clone(), active.clone());
                most.fetch_max(mine.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                active.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    mine.fetch_sub(1, Ordering::SeqCst);
                    say(&mut respond, 200, "ok");
                });
            }
        }
    });
    let limits = Limits { upstream_http2_connections: 3, ..Limits::default() };
    let world = World::to_http2_with(&origin, with_limits(limits));
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        // So that the endpoint has said what it allows.
        assert_eq!(client.get("/").await.text(), "ok");
        for answer in all_at_once(&client, 30).await {
            assert_eq!(answer.text(), "ok");
        }
    });
    assert_eq!(highest.load(Ordering::SeqCst), 2);
    assert!((2..=3).contains(&origin.connections()), "{}", origin.connections());
    assert_eq!(origin.requests(), 31);
}

#[test]
fn a_connection_that_goes_away_ends_its_streams_and_gets_no_new_ones() {
    let builder = Arc::new(h2::server::Builder::new());
    let (finish, finished) = tokio::sync::watch::channel(false);
    let origin = Http2Origin::serve(move |stream, index, requests| {
        let (builder, finished) = (builder.clone(), finished.clone());
        async move {
            let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                note(&requests, &request);
                let first = requests.lock().unwrap().len() == 1;
                if index == 0 && first {
                    connection.graceful_shutdown();
                    let mut finished = finished.clone();
                    tokio::spawn(async move {
                        finished.wait_for(|it| *it).await.unwrap();
                        say(&mut respond, 200, "first");
                    });
                } else {
                    say(&mut respond, 200, "second");
                }
            }
        }
    });
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let (first, _) = client.begin(request(Method::GET, "/"), true).await;
        while origin.requests() == 0 {
            tokio::task::yield_now().await;
        }
        // Until the news has arrived the old connection may get requests; none fails.
        while origin.connections() < 2 {
            assert_eq!(client.get("/").await.text(), "second");
        }
        assert_eq!(client.get("/").await.text(), "second");
        finish.send(true).unwrap();
        assert_eq!(whole(first.await.unwrap()).await.text(), "first");
    });
    assert_eq!(origin.connections(), 2);
}

#[test]
fn a_refused_stream_is_sent_again_whatever_the_request_does() {
    let tries = Arc::new(AtomicUsize::new(0));
    let seen = tries.clone();
    let origin = Http2Origin::start(move |request, mut respond| {
        let first = tries.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            let body = all(&mut request.into_body()).await.unwrap();
            if first {
                respond.send_reset(Reason::REFUSED_STREAM);
            } else {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data(body.into(), true).unwrap();
            }
        }
    });
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        assert_eq!(client.post("/", b"once").await.text(), "once");
    });
    assert_eq!(seen.load(Ordering::SeqCst), 2);
    assert_eq!(world.metric("weir_proxy_retries_total"), 1);
}

#[test]
fn a_request_that_a_leaving_endpoint_did_not_look_at_is_sent_again() {
    let builder = Arc::new(h2::server::Builder::new());
    let origin = Http2Origin::serve(move |mut stream, index, requests| {
        let builder = builder.clone();
        async move {
            if index == 0 {
                stream.write_all(SETTINGS).await.unwrap();
                stream.write_all(SETTINGS_ACK).await.unwrap();
                let mut bytes = Vec::new();
                while !bytes.windows(4).any(|four| four == b"once") {
                    assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
                }
                stream.write_all(GOAWAY).await.unwrap();
                return;
            }
            let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                note(&requests, &request);
                say(&mut respond, 200, "second");
            }
        }
    });
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        assert_eq!(client.post("/", b"once").await.text(), "second");
    });
    assert_eq!((origin.connections(), origin.requests()), (2, 1));
}

#[test]
fn a_request_that_may_have_been_done_is_not_sent_again() {
    let origin = Http2Origin::start(|request, mut respond| async move {
        all(&mut request.into_body()).await.unwrap();
        respond.send_reset(Reason::INTERNAL_ERROR);
    });
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        assert_eq!(client.post("/", b"once").await.status, 502);
    });
    assert_eq!(origin.requests(), 1);
}

#[test]
fn an_endpoint_that_refuses_for_ever_is_not_asked_for_ever() {
    let origin =
        Http2Origin::start(|_, mut respond| async move { respond.send_reset(Reason::REFUSED_STREAM) });
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        assert_eq!(client.get("/").await.status, 502);
    });
    assert!((2..=4).contains(&origin.requests()), "{}", origin.requests());
}

#[test]
fn an_endpoint_that_gives_no_sign_of_life_is_given_up() {
    let builder = Arc::new(h2::server::Builder::new());
    let origin = Http2Origin::serve(move |mut stream, index, requests| {
        let builder = builder.clone();
        async move {
            if index == 0 {
                // Takes everything, and answers nothing, not even a PING.
                stream.write_all(SETTINGS).await.unwrap();
                stream.write_all(SETTINGS_ACK).await.unwrap();
                let mut bytes = Vec::new();
                while stream.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {}
                return;
            }
            let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                note(&requests, &request);
                say(&mut respond, 200, "alive");
            }
        }
    });
    let limits = Limits {
        http2_keepalive_delay: Duration::from_millis(30),
        http2_keepalive_timeout: Duration::from_millis(30),
        ..Limits::default()
    };
    let world = World::to_http2_with(&origin, with_limits(limits));
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        assert_eq!(client.post("/", b"x").await.status, 502);
        assert_eq!(client.get("/").await.text(), "alive");
    });
    assert_eq!(origin.connections(), 2);
}

#[test]
fn an_endpoint_that_speaks_no_http2_is_an_error_and_no_more() {
    let origin = Origin::always("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    let world = World::start(one_worker());
    world.serve_http2(&[origin.address]);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        for _ in 0..3 {
            assert_eq!(client.get("/").await.status, 502);
        }
    });
}

#[test]
fn endpoints_that_take_no_connection_are_passed_over() {
    let origin = Http2Origin::start(|_, mut respond| async move { say(&mut respond, 200, "ok") });
    let world = World::start(one_worker());
    world.serve_http2(&[Origin::nobody(), origin.address]);
    in_time(async {
        let client = Http2Client::connect(world.address).await;
        for answer in all_at_once(&client, 20).await {
            assert_eq!(answer.text(), "ok");
        }
    });
}

#[test]
fn idle_connections_are_closed_in_time() {
    let (told, ended) = std::sync::mpsc::channel();
    let builder = Arc::new(h2::server::Builder::new());
    let origin = Http2Origin::serve(move |stream, _, requests| {
        let (builder, told) = (builder.clone(), told.clone());
        async move {
            let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                note(&requests, &request);
                say(&mut respond, 200, "ok");
            }
            told.send(()).unwrap();
        }
    });
    let limits = Limits { upstream_idle_timeout: Duration::from_millis(50), ..Limits::default() };
    let world = World::to_http2_with(&origin, with_limits(limits));
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        assert_eq!(client.get("/").await.text(), "ok");
    });
    ended.recv_timeout(PATIENCE).expect("the connection ends");
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        assert_eq!(client.get("/").await.text(), "ok");
    });
    assert_eq!(origin.connections(), 2);
}

/// Two windows, two buffers of what waits, and a read buffer or two.
const IN_BETWEEN: usize = 4 * 1024 * 1024;

#[test]
fn a_client_that_stops_reading_stops_the_backend() {
    let poured = Arc::new(AtomicUsize::new(0));
    let count = poured.clone();
    let origin = Http2Origin::start(move |_, mut respond| {
        let count = count.clone();
        async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            let piece = Bytes::from(vec![b'x'; 64 * 1024]);
            while pour_on(&mut stream, piece.clone()).await.is_ok() {
                count.fetch_add(piece.len(), Ordering::SeqCst);
            }
        }
    });
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let (response, _) = client.begin(request(Method::GET, "/"), true).await;
        let mut body = response.await.unwrap().into_body();
        let taken = settled(&poured).await;
        assert!(taken < IN_BETWEEN, "{taken} bytes");
        // And it goes on where it stopped.
        let mut read = 0;
        while read < 2 * IN_BETWEEN {
            let data = body.data().await.unwrap().unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            read += data.len();
        }
    });
}

#[test]
fn a_backend_that_stops_reading_stops_the_client() {
    let (release, released) = tokio::sync::watch::channel(false);
    let origin = Http2Origin::start(move |request, mut respond| {
        let mut released = released.clone();
        async move {
            let mut body = request.into_body();
            released.wait_for(|it| *it).await.unwrap();
            let body = all(&mut body).await.unwrap();
            assert_eq!(body.len(), 3 * IN_BETWEEN);
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
            let piece = Bytes::from(vec![b'x'; 64 * 1024]);
            while count.load(Ordering::SeqCst) < 3 * IN_BETWEEN {
                pour_on(&mut stream, piece.clone()).await.unwrap();
                count.fetch_add(piece.len(), Ordering::SeqCst);
            }
            stream.send_data(Bytes::new(), true).unwrap();
        });
        let taken = settled(&poured).await;
        assert!(taken < IN_BETWEEN, "{taken} bytes");
        release.send(true).unwrap();
        pouring.await.unwrap();
        assert_eq!(whole(response.await.unwrap()).await.text(), "all of it");
    });
}

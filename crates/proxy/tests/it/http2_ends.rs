//! How connections of HTTP/2 end, what outlives a change, and WebSocket over them.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use weir_model::limits::Limits;
use weir_model::resource::{HttpRule, Update};

use crate::harness::*;
use crate::http2_harness::frames::{GOAWAY, HEADERS, hello};
use crate::http2_harness::*;

fn echo() -> Http2Origin {
    Http2Origin::start(|request, mut respond| async move {
        let mut body = request.into_body();
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).unwrap();
            if stream.send_data(data, false).is_err() {
                return;
            }
        }
        let _ = stream.send_data(Bytes::new(), true);
    })
}

#[test]
fn draining_says_so_at_once_and_lets_streams_end() {
    let origin = echo();
    let limits = Limits { drain_delay: Duration::from_millis(300), ..Limits::default() };
    let world = World::to_http2_with(&origin, with_limits(limits));
    let mut watched = world.client();
    watched.send(hello(&[]));
    watched.ask(1);
    while watched.frame().expect("an answer").0 != HEADERS {}
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let (response, mut stream) = client.begin(request(Method::POST, "/"), false).await;
        let mut body = response.await.unwrap().into_body();
        let proxy = world.proxy.clone();
        let draining = tokio::spawn(async move { proxy.drain(PATIENCE).await });
        // The machine of the client's has seen GOAWAY when no new stream can be had.
        let mut send = client.send.clone();
        while std::future::poll_fn(|cx| send.poll_ready(cx)).await.is_ok() {
            tokio::task::yield_now().await;
        }
        for turn in 0..3u8 {
            stream.send_data(Bytes::from(vec![turn; 3]), false).unwrap();
            let data = body.data().await.unwrap().unwrap();
            assert_eq!(data, vec![turn; 3]);
        }
        assert!(!draining.is_finished());
        stream.send_data(Bytes::new(), true).unwrap();
        assert_eq!(all(&mut body).await.unwrap(), b"");
        draining.await.unwrap();
    });
    let mut goaways = 0;
    while let Some((kind, ..)) = watched.frame() {
        goaways += usize::from(kind == GOAWAY);
    }
    assert!(goaways >= 1);
}

#[test]
fn idle_connections_end_with_the_drain() {
    let origin = echo();
    let limits = Limits { drain_delay: Duration::ZERO, ..Limits::default() };
    let world = World::to_http2_with(&origin, with_limits(limits));
    let mut idle = world.client();
    idle.send(hello(&[]));
    // Served, so that it is known to be there.
    idle.ask(1);
    while idle.frame().expect("an answer").0 != HEADERS {}
    block_on(world.proxy.drain(PATIENCE));
    assert_eq!(idle.reason_of_end(), Some(0));
}

#[test]
fn a_connection_ends_after_so_many_requests() {
    let origin = Origin::named("ok");
    let limits = Limits { requests_per_connection: 3, ..Limits::default() };
    let world = World::with(&origin, with_limits(limits));
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        for _ in 0..3 {
            assert_eq!(client.get("/").await.text(), "ok");
        }
        client.connection.await.unwrap().unwrap();
    });
}

#[test]
fn streams_outlive_changes_of_everything_but_their_listener() {
    let origin = echo();
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let (response, mut stream) = client.begin(request(Method::POST, "/"), false).await;
        let mut body = response.await.unwrap().into_body();
        for turn in 1..=50u8 {
            let mut update = Update { sequence: 100 + u64::from(turn), ..Update::default() };
            if turn == 50 {
                update.removals = vec!["httproute/default/r".into(), "backend/default/b/80".into()];
            } else {
                let path = format!("/{turn}");
                update.upserts =
                    vec![world.route("r", HttpRule { backends: vec![to("b", turn.into())], ..rule(&path) })];
            }
            let applied = world.proxy.apply(update).await;
            assert_eq!(applied.rejected, []);
            stream.send_data(Bytes::from(vec![turn; 3]), false).unwrap();
            let data = body.data().await.unwrap().unwrap();
            assert_eq!(data, vec![turn; 3]);
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert_eq!(all(&mut body).await.unwrap(), b"");
        // On the same connection the next request sees the change.
        assert_eq!(client.get("/").await.status, 404);
    });
}

fn websocket() -> Request<()> {
    let mut asked =
        Request::builder().method(Method::CONNECT).uri("http://example.com/chat").body(()).unwrap();
    asked.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    asked.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    asked
}

async fn connect_websocket(world: &World) -> Http2Client {
    let client = Http2Client::connect(world.address).await;
    while !client.send.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    client
}

/// RFC 8441, towards a backend that knows WebSocket as an upgrade.
#[test]
fn a_websocket_over_http2_is_an_upgrade_at_the_backend() {
    let origin = Origin::start(|peer| {
        let head = peer.request_head().unwrap();
        assert!(head.starts_with("GET /chat HTTP/1.1\r\n"), "{head}");
        assert_eq!(fields(&head, "connection"), ["upgrade"]);
        assert_eq!(fields(&head, "upgrade"), ["websocket"]);
        assert_eq!(fields(&head, "sec-websocket-version"), ["13"]);
        let key = fields(&head, "sec-websocket-key")[0];
        assert!(key.len() == 24 && key.ends_with("=="), "{key}");
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nhello");
        for _ in 0..20 {
            let data = peer.exactly(4);
            peer.send(data);
        }
        assert!(peer.ends(), "the client's end comes through");
        peer.send("last words");
    });
    let world = World::to(&origin);
    in_time(async {
        let mut client = connect_websocket(&world).await;
        let (response, mut stream) = client.begin(websocket(), false).await;
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        for gone in ["upgrade", "connection", "sec-websocket-accept", "content-length"] {
            assert!(!response.headers().contains_key(gone), "{gone}");
        }
        let mut body = response.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "hello");
        for turn in 0..20 {
            stream.send_data(format!("{turn:04}").into(), false).unwrap();
            assert_eq!(body.data().await.unwrap().unwrap(), format!("{turn:04}"));
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert_eq!(all(&mut body).await.unwrap(), b"last words");
    });
    assert_eq!(world.metric("weir_proxy_tunnels_total"), 1);
}

#[test]
fn a_websocket_that_the_backend_refuses_is_refused() {
    let origin = Origin::always("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    let world = World::to(&origin);
    in_time(async {
        let mut client = connect_websocket(&world).await;
        let (response, _stream) = client.begin(websocket(), false).await;
        let answer = whole(response.await.unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (403, "no"));
        let mut other = websocket();
        other.extensions_mut().insert(h2::ext::Protocol::from_static("connect-udp"));
        let (response, _stream) = client.begin(other, false).await;
        assert_eq!(response.await.unwrap().status(), 405);
    });
    assert_eq!(origin.requests(), 1);
}

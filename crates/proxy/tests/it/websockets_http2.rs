//! WebSocket to backends of `kubernetes.io/h2c`: extended CONNECT (RFC 8441) where the backend takes it, a plain refusal where not.

use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request, Response};
use weir_model::limits::Limits;

use crate::harness::{Peer, World};
use crate::http2_harness::*;

/// RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn handshake() -> String {
    format!(
        "GET /chat?room=1 HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// Takes WebSockets, and gives back what it gets; other requests are answered.
async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let protocol = request.extensions().get::<h2::ext::Protocol>().map(|it| it.as_str().to_owned());
    if protocol.as_deref() != Some("websocket") {
        return say(&mut respond, 200, "no tunnel");
    }
    if request.uri().path() == "/refused" {
        return say(&mut respond, 403, "no");
    }
    let response = Response::builder().header("sec-websocket-protocol", "chat").body(()).unwrap();
    let mut stream = respond.send_response(response, false).unwrap();
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        if pour_on(&mut stream, data).await.is_err() {
            return;
        }
    }
    let _ = stream.send_data(Bytes::new(), true);
}

fn origin() -> Http2Origin {
    let mut builder = h2::server::Builder::new();
    builder.enable_connect_protocol();
    Http2Origin::with(builder, echo)
}

fn echoes(client: &mut Peer, text: &[u8]) {
    client.send(text);
    assert!(client.exactly(text.len()) == text);
}

#[test]
fn a_handshake_of_http1_becomes_an_extended_connect_and_is_answered_as_one_of_http1() {
    let origin = origin();
    let world = World::to_http2(&origin);
    for _ in 0..3 {
        let mut client = world.client();
        client.send(handshake());
        let response = client.response();
        assert_eq!(response.status, 101);
        assert_eq!(response.field("sec-websocket-accept"), Some(ACCEPT));
        assert_eq!(response.field("sec-websocket-protocol"), Some("chat"));
        assert_eq!(response.field("upgrade"), Some("websocket"));
        echoes(&mut client, b"one");
        echoes(&mut client, &vec![b'x'; 500_000]);
        client.finish_sending();
        assert!(client.ends(), "an end is passed on both ways");
    }
    let asked = origin.last();
    assert_eq!(
        (asked.method(), asked.uri().to_string().as_str()),
        (&Method::CONNECT, "http://example.com/chat?room=1")
    );
    assert_eq!(asked.headers()["sec-websocket-version"], "13");
    for gone in ["sec-websocket-key", "upgrade", "connection", "host"] {
        assert_eq!(asked.headers().get(gone), None, "{gone}");
    }
    assert_eq!(origin.connections(), 1, "tunnels are streams of a connection");
    assert_eq!(world.metric("weir_proxy_tunnels_total"), 3);
}

#[test]
fn a_websocket_of_http2_stays_one_at_a_backend_of_http2() {
    let origin = origin();
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        // The server's settings have come with its first answer.
        assert_eq!(client.get("/").await.text(), "no tunnel");
        let mut asked =
            Request::builder().method(Method::CONNECT).uri("http://example.com/chat").body(()).unwrap();
        asked.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let (response, mut up) = client.begin(asked, false).await;
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers().get("sec-websocket-accept"), None);
        let mut down = response.into_body();
        for text in [&b"one"[..], b"another"] {
            pour_on(&mut up, Bytes::from_static(text)).await.unwrap();
            let mut echoed = Vec::new();
            while echoed.len() < text.len() {
                echoed.extend_from_slice(&down.data().await.unwrap().unwrap());
            }
            assert_eq!(echoed, text);
        }
        up.send_data(Bytes::new(), true).unwrap();
        assert_eq!(all(&mut down).await.unwrap(), b"");
    });
    assert_eq!(origin.last().method(), Method::CONNECT);
}

#[test]
fn a_backend_that_refuses_a_websocket_has_its_answer_passed_on() {
    let origin = origin();
    let world = World::to_http2(&origin);
    let mut client = world.client();
    let response = client.exchange(&handshake().replace("/chat?room=1", "/refused"));
    assert_eq!((response.status, response.text()), (403, "no"));
}

#[test]
fn a_backend_whose_settings_do_not_allow_it_is_not_asked_and_the_client_told_so() {
    let origin = Http2Origin::start(echo);
    let world = World::to_http2(&origin);
    for _ in 0..2 {
        let response = world.client().exchange(&handshake());
        assert_eq!(
            (response.status, response.text()),
            (502, "{\"message\":\"The upstream server speaks HTTP/2 without WebSocket\"}")
        );
    }
    assert_eq!((origin.requests(), origin.connections()), (0, 1));
    world.expect_failures("no_web_socket", 2);
    assert_eq!(world.client().get("/").text(), "no tunnel", "other requests go on");
}

#[test]
fn an_upgrade_to_something_else_goes_on_as_the_request_that_it_is() {
    let origin = origin();
    let world = World::to_http2(&origin);
    let request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n";
    assert_eq!(world.client().exchange(request).text(), "no tunnel");
    assert_eq!(origin.last().method(), Method::GET);
}

#[test]
fn a_backend_that_never_says_what_it_takes_is_waited_for_a_bounded_time() {
    let origin = Http2Origin::serve(|stream, _, _| async move {
        // Holds the connection and says nothing.
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    });
    let limits = Limits { upstream_connect_timeout: Duration::from_millis(200), ..Limits::default() };
    let world = World::to_http2_with(&origin, with_limits(limits));
    assert_eq!(world.client().exchange(&handshake()).status, 504);
    world.expect_failures("connect_timeout", 1);
}

//! HTTP/2 towards clients and endpoints, in every pairing with HTTP/1.1: what goes in comes out.

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use weir_model::resource::HttpRule;

use crate::harness::*;
use crate::http2_harness::*;

fn pattern(length: usize) -> Bytes {
    (0..length).map(|index| (index * 7 + index / 251) as u8).collect::<Vec<_>>().into()
}

#[test]
fn a_plain_listener_takes_http2_by_its_preface() {
    let origin = Origin::named("from an origin of HTTP/1.1");
    let world = World::to(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        for _ in 0..3 {
            let answer = client.get("/a?b=c").await;
            assert_eq!((answer.status.as_u16(), answer.text()), (200, "from an origin of HTTP/1.1"));
        }
    });
    let head = origin.last_head();
    assert!(head.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{head}");
    assert_eq!(fields(&head, "host"), ["example.com"]);
    assert_eq!(fields(&head, "x-forwarded-host"), ["example.com"]);
    assert_eq!(fields(&head, "x-forwarded-proto"), ["http"]);
    assert_eq!(fields(&head, "via"), ["2 weir"]);
    assert_eq!(origin.connections(), 1, "streams share the pool");
    assert_eq!(world.metric("weir_proxy_http2_connections_total"), 1);
    assert_eq!(world.metric("weir_proxy_http2_streams_total"), 3);
}

#[test]
fn a_preface_may_come_byte_by_byte() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    in_time(async {
        use tokio::io::AsyncWriteExt as _;
        let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
            stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        // SETTINGS of the other side: nothing else begins so.
        use tokio::io::AsyncReadExt as _;
        let mut header = [0; 9];
        stream.read_exact(&mut header).await.unwrap();
        assert_eq!(header[3], 4, "{header:?}");
    });
}

#[test]
fn what_only_begins_like_a_preface_is_a_request() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    let answer = world.client().exchange("PRIX / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answer.status, 200);
    let refused = world.client().exchange("PRI * HTTP/2.0\r\n\r\nXY\r\n\r\n");
    assert_eq!(refused.status, 505);
}

#[test]
fn what_is_not_http_at_all_is_closed_without_an_answer() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    let mut client = world.client();
    client.send("NEITHER THIS NOR THAT\r\n\r\n");
    assert!(client.ends());
    world.expect_failures("not_http", 1);
}

#[test]
fn an_http1_client_reaches_an_endpoint_of_http2() {
    let origin = Http2Origin::start(|request, mut respond| async move {
        let body = all(&mut request.into_body()).await.unwrap();
        let response =
            Response::builder().header("x-length", body.len()).header("content-length", 5).body(()).unwrap();
        let mut stream = respond.send_response(response, false).unwrap();
        stream.send_data(Bytes::from_static(b"hello"), true).unwrap();
    });
    let world = World::to_http2(&origin);
    let mut client = world.client();
    for _ in 0..3 {
        let answer = client.exchange("POST /x?y HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nTE: trailers\r\nKeep-Alive: 3\r\n\r\nabc");
        assert_eq!((answer.status, answer.text()), (200, "hello"));
        assert_eq!(answer.field("x-length"), Some("3"));
        assert_eq!(answer.field("via"), Some("2 weir"));
        // Whoever wants trailers gets chunks, which alone can be followed by some.
        assert_eq!(
            (answer.field("content-length"), answer.field("transfer-encoding")),
            (None, Some("chunked"))
        );
    }
    let seen = origin.last();
    assert_eq!(seen.uri().to_string(), "http://a.example/x?y");
    assert_eq!(seen.headers()["te"], "trailers");
    assert_eq!(seen.headers()["content-length"], "3");
    assert_eq!(seen.headers()["via"], "1.1 weir");
    for gone in ["host", "connection", "keep-alive", "transfer-encoding"] {
        assert!(!seen.headers().contains_key(gone), "{gone}");
    }
    assert_eq!(origin.connections(), 1);
}

/// The three pairings with HTTP/2 in them, with a body of this size each way.
fn bodies_pass(length: usize) {
    let echo = |request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>| async move {
        let mut body = request.into_body();
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        let body = all(&mut body).await.unwrap();
        pour(&mut stream, body.into()).await.unwrap();
    };
    let body = pattern(length);
    let old = Origin::start(|peer| {
        while let Some((_, body)) = peer.request() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
            peer.send(&body);
        }
    });
    let new = Http2Origin::start(echo);
    for world in [World::to(&old), World::to_http2(&new)] {
        in_time(async {
            let mut client = Http2Client::connect(world.address).await;
            let (response, mut stream) = client.begin(request(Method::POST, "/"), false).await;
            let (sent, answer) =
                tokio::join!(pour(&mut stream, body.clone()), async { whole(response.await.unwrap()).await });
            sent.unwrap();
            assert!(answer.body == body, "{} of {length} bytes came back", answer.body.len());
        });
    }
    let world = World::to_http2(&new);
    let mut client = world.client();
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
    let mut sender = client.stream.try_clone().unwrap();
    let copy = body.clone();
    let sending = std::thread::spawn(move || std::io::Write::write_all(&mut sender, &copy).unwrap());
    let answer = client.response_to("POST");
    sending.join().unwrap();
    assert!(answer.body == body, "{} of {length} bytes came back", answer.body.len());
}

#[test]
fn small_bodies_pass_in_every_pairing() {
    bodies_pass(10);
}

#[test]
fn bodies_larger_than_every_window_pass_in_every_pairing() {
    bodies_pass(5 * 1024 * 1024 + 1);
}

#[test]
fn trailers_pass_both_ways() {
    let origin = Http2Origin::start(|request, mut respond| async move {
        let mut body = request.into_body();
        all(&mut body).await.unwrap();
        let asked = body.trailers().await.unwrap().unwrap();
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data(Bytes::from_static(b"body"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", asked["x-sum"].clone());
        stream.send_trailers(trailers).unwrap();
    });
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let (response, mut stream) = client.begin(request(Method::POST, "/"), false).await;
        stream.send_data(Bytes::from_static(b"data"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "42".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
        let answer = whole(response.await.unwrap()).await;
        assert_eq!((answer.text(), answer.trailer("x-sum")), ("body", Some("42")));
    });
    let mut client = world.client();
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndata\r\n0\r\nx-sum: 43\r\n\r\n",
    );
    client.head().unwrap();
    assert_eq!(client.line(), "4");
    client.line();
    assert_eq!((client.line(), client.line()), ("0".into(), "x-sum: 43".into()));
}

#[test]
fn a_chunked_answer_with_trailers_reaches_a_client_of_http2() {
    let origin = Origin::always(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\n\r\n",
    );
    let world = World::to(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let answer = client.get("/").await;
        assert_eq!((answer.text(), answer.trailer("x-sum")), ("abcde", Some("7")));
        assert_eq!(answer.trailer("content-length"), None);
        assert_eq!(answer.field("transfer-encoding"), None);
        assert_eq!(answer.field("connection"), None);
    });
}

#[test]
fn both_directions_of_a_stream_flow_at_once() {
    let origin = Http2Origin::start(|request, mut respond| async move {
        let mut body = request.into_body();
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).unwrap();
            stream.send_data(data, false).unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
    });
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let (response, mut stream) = client.begin(request(Method::POST, "/"), false).await;
        let mut body = response.await.unwrap().into_body();
        for turn in 0..20u8 {
            stream.send_data(Bytes::from(vec![turn; 10]), false).unwrap();
            let echoed = body.data().await.unwrap().unwrap();
            assert_eq!(echoed, vec![turn; 10]);
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert_eq!(all(&mut body).await.unwrap(), b"");
    });
}

#[test]
fn interim_responses_pass_in_every_pairing() {
    let old = Origin::always(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    let new = Http2Origin::start(|_, mut respond| async move {
        let early = Response::builder().status(103).header("link", "</a.css>").body(()).unwrap();
        respond.send_informational(early).unwrap();
        say(&mut respond, 200, "ok");
    });
    for world in [World::to(&old), World::to_http2(&new)] {
        in_time(async {
            let mut client = Http2Client::connect(world.address).await;
            let (mut response, _) = client.begin(request(Method::GET, "/"), true).await;
            let early = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
            assert_eq!(
                (early.status().as_u16(), &early.headers()["link"]),
                (103, &"</a.css>".parse().unwrap())
            );
            assert_eq!(whole(response.await.unwrap()).await.text(), "ok");
        });
    }
    let world = World::to_http2(&new);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.head().unwrap().starts_with("HTTP/1.1 103 "));
    assert_eq!(client.response().text(), "ok");
}

#[test]
fn head_requests_have_the_length_and_not_the_body() {
    let old = Origin::always("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n");
    let new = Http2Origin::start(|_, mut respond| async move {
        let response = Response::builder().header("content-length", 1234).body(()).unwrap();
        respond.send_response(response, true).unwrap();
    });
    for world in [World::to(&old), World::to_http2(&new)] {
        in_time(async {
            let mut client = Http2Client::connect(world.address).await;
            let (response, _) = client.begin(request(Method::HEAD, "/"), true).await;
            let answer = whole(response.await.unwrap()).await;
            assert_eq!((answer.field("content-length"), answer.body.len()), (Some("1234"), 0));
        });
    }
    let answer = World::to_http2(&new).client().exchange("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answer.field("content-length"), Some("1234"));
}

#[test]
fn statuses_without_a_body_stay_without() {
    let origin = Http2Origin::start(|request, mut respond| async move {
        let status: u16 = request.uri().path()[1..].parse().unwrap();
        say(&mut respond, status, "");
    });
    let world = World::to_http2(&origin);
    let mut client = world.client();
    for status in [204, 304, 200, 404] {
        let answer = client.exchange(&format!("GET /{status} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!((answer.status, answer.body.len()), (status, 0));
        assert_eq!(answer.field("content-length").is_some(), status == 200 || status == 404);
    }
}

#[test]
fn the_crumbs_of_a_cookie_are_put_together() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let mut asked = request(Method::GET, "/");
        for crumb in ["a=b", "c=d", "e=f"] {
            asked.headers_mut().append("cookie", crumb.parse().unwrap());
        }
        let (response, _) = client.begin(asked, true).await;
        assert_eq!(response.await.unwrap().status(), 200);
    });
    assert_eq!(fields(&origin.last_head(), "cookie"), ["a=b; c=d; e=f"]);
}

#[test]
fn a_host_that_differs_from_the_authority_is_refused() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        for (host, status) in [("example.com", 200), ("other.example", 400)] {
            let mut asked = request(Method::GET, "/");
            asked.headers_mut().insert("host", host.parse().unwrap());
            let (response, _) = client.begin(asked, true).await;
            assert_eq!(response.await.unwrap().status(), status, "{host}");
        }
    });
    assert_eq!(fields(&origin.last_head(), "host"), ["example.com"]);
}

#[test]
fn a_refused_request_leaves_the_connection_to_the_others() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let mut many = request(Method::GET, "/");
        for index in 0..200 {
            let name: http::HeaderName = format!("x-{index}").parse().unwrap();
            many.headers_mut().append(name, "y".parse().unwrap());
        }
        let (refused, _) = client.begin(many, true).await;
        assert_eq!(refused.await.unwrap().status(), 431);
        assert_eq!(client.get("/").await.status, 200);
    });
}

#[test]
fn requests_of_one_connection_are_split_like_any_others() {
    let origins = [Origin::named("a"), Origin::named("b")];
    let world = World::start(one_worker());
    world.serve(&[(origins[0].address, 3), (origins[1].address, 1)]);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        for _ in 0..40 {
            assert_eq!(client.get("/").await.status, 200);
        }
    });
    assert_eq!([origins[0].requests(), origins[1].requests()], [30, 10]);
}

#[test]
fn an_answer_that_breaks_off_is_seen_to_have() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    });
    let world = World::to(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let (response, _) = client.begin(request(Method::GET, "/"), true).await;
        let error = match response.await {
            Ok(response) => all(&mut response.into_body()).await.unwrap_err(),
            // The head may have been overtaken.
            Err(error) => error,
        };
        assert!(error.is_reset() && error.is_remote(), "{error}");
    });
}

#[test]
fn no_route_and_no_backend_are_answered_as_in_http1() {
    let world = World::start(one_worker());
    let backends = vec![to("gone", 1)];
    let applied = world.apply(vec![world.route("r", HttpRule { backends, ..rule("/a") })]);
    assert_eq!(applied.rejected, []);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let answer = client.get("/").await;
        assert_eq!(
            (answer.status.as_u16(), answer.field("content-type")),
            (404, Some("application/json; charset=utf-8"))
        );
        assert_eq!(client.get("/a").await.status, 500);
    });
}

#[test]
fn a_method_of_its_own_passes_and_connect_does_not() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let (response, _) = client.begin(request(Method::from_bytes(b"PURGE").unwrap(), "/"), true).await;
        assert_eq!(response.await.unwrap().status(), 200);
        let connect = http::Request::builder().method("CONNECT").uri("example.com:443").body(()).unwrap();
        let (response, _) = client.begin(connect, false).await;
        assert_eq!(response.await.unwrap().status(), 405);
    });
    assert_eq!(origin.requests(), 1);
}

//! Trailers beside an announced length (RFC 9113 section 8.1), between both versions of HTTP and both ways; and who is given which
//! (RFC 9110 section 6.5: announced by `Trailer`, or wanted by `TE: trailers`, else a gateway may leave them out).

use bytes::Bytes;
use http::{HeaderMap, Method, Response};

use crate::harness::{Origin, World, fields};
use crate::http2_harness::*;

fn sum(value: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", value.parse().unwrap());
    trailers
}

/// Answers with the trailer it was sent, behind a body whose length it announces.
fn http2_origin(announces: bool) -> Http2Origin {
    Http2Origin::start(move |request, mut respond| async move {
        let mut body = request.into_body();
        let asked = all(&mut body).await.unwrap();
        let trailers = body.trailers().await.unwrap();
        let value = trailers.as_ref().and_then(|trailers| trailers.get("x-sum"));
        let value = value.map_or("none", |value| value.to_str().unwrap());
        let mut response = Response::builder().header("content-length", asked.len());
        if announces {
            response = response.header("trailer", "x-sum");
        }
        let mut stream = respond.send_response(response.body(()).unwrap(), false).unwrap();
        stream.send_data(Bytes::from(asked), false).unwrap();
        stream.send_trailers(sum(value)).unwrap();
    })
}

/// A request with a length and a trailer, over HTTP/2.
async fn ask(client: &mut Http2Client, announces: bool, te: bool) -> Answer {
    let mut asked = request(Method::POST, "/");
    asked.headers_mut().insert("content-length", "4".parse().unwrap());
    if announces {
        asked.headers_mut().insert("trailer", "x-sum".parse().unwrap());
    }
    if te {
        asked.headers_mut().insert("te", "trailers".parse().unwrap());
    }
    let (response, mut stream) = client.begin(asked, false).await;
    stream.send_data(Bytes::from_static(b"data"), false).unwrap();
    stream.send_trailers(sum("42")).unwrap();
    whole(response.await.unwrap()).await
}

#[test]
fn announced_trailers_behind_a_known_length_pass_from_http2_to_http2_both_ways() {
    let origin = http2_origin(true);
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let answer = ask(&mut client, true, false).await;
        assert_eq!((answer.text(), answer.trailer("x-sum")), ("data", Some("42")));
        assert_eq!(answer.field("trailer"), Some("x-sum"));
    });
    assert_eq!(origin.last().headers()["trailer"], "x-sum");
}

#[test]
fn announced_trailers_behind_a_known_length_pass_from_http2_to_http1_and_back_in_chunks() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.request_head() {
            assert_eq!(fields(&head, "transfer-encoding"), ["chunked"], "{head}");
            assert_eq!(fields(&head, "content-length"), [""; 0], "{head}");
            assert_eq!(fields(&head, "trailer"), ["x-sum"], "{head}");
            let lines = [(); 4].map(|()| peer.line());
            assert_eq!(lines, ["4", "data", "0", "x-sum: 42"]);
            assert_eq!(peer.line(), "");
            peer.send("HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nback\r\n0\r\nX-Sum: 43\r\n\r\n");
        }
    });
    let world = World::to(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        for _ in 0..2 {
            let answer = ask(&mut client, true, false).await;
            assert_eq!((answer.text(), answer.trailer("x-sum")), ("back", Some("43")));
        }
    });
    assert_eq!(origin.connections(), 1);
}

#[test]
fn trailers_of_http1_pass_to_http2_and_come_back_behind_chunks() {
    let origin = http2_origin(true);
    let world = World::to_http2(&origin);
    let mut client = world.client();
    for value in ["43", "44"] {
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndata\r\n0\r\nx-sum: {value}\r\n\r\n"
        ));
        let head = client.head().unwrap();
        assert_eq!(fields(&head, "transfer-encoding"), ["chunked"], "{head}");
        assert_eq!(fields(&head, "content-length"), [""; 0], "one length only");
        let lines = [(); 5].map(|()| client.line());
        assert_eq!(lines, ["4", "data", "0", &format!("x-sum: {value}"), ""]);
    }
}

#[test]
fn who_says_te_trailers_is_given_them_announced_or_not_in_both_versions() {
    let origin = http2_origin(false);
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let answer = ask(&mut client, true, true).await;
        assert_eq!((answer.text(), answer.trailer("x-sum")), ("data", Some("42")));
        assert_eq!(origin.last().headers()["te"], "trailers");
    });
    let mut client = world.client();
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\nContent-Length: 4\r\n\r\ndata",
    );
    let head = client.head().unwrap();
    assert_eq!(fields(&head, "transfer-encoding"), ["chunked"], "{head}");
    assert_eq!([(); 5].map(|()| client.line()), ["4", "data", "0", "x-sum: none", ""]);
}

#[test]
fn trailers_that_nobody_announced_or_wants_leave_the_length_and_the_message_as_they_are() {
    let origin = http2_origin(false);
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        for _ in 0..2 {
            let answer = ask(&mut client, false, false).await;
            assert_eq!((answer.text(), answer.field("content-length")), ("data", Some("4")));
            assert_eq!(answer.trailer("x-sum"), None);
        }
    });
    assert_eq!(origin.last().headers()["content-length"], "4");
    let mut client = world.client();
    for _ in 0..2 {
        let response = client.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\ndata");
        assert_eq!((response.text(), response.field("content-length")), ("data", Some("4")));
    }
}

#[test]
fn te_is_forwarded_for_trailers_alone() {
    let origin = http2_origin(true);
    let world = World::to_http2(&origin);
    let ask = |te: &str| {
        let request =
            format!("POST / HTTP/1.1\r\nHost: a\r\nTE: {te}\r\nConnection: TE\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(world.client().exchange(&request).status, 200);
        origin.last().headers().get("te").cloned()
    };
    assert_eq!(ask("trailers").unwrap(), "trailers");
    assert_eq!(ask("gzip, trailers").map(|te| te.to_str().unwrap().to_owned()), Some("trailers".into()));
    assert_eq!(ask("gzip"), None);
}

//! gRPC: what backends say passes, and what the proxy has to say itself is said in gRPC.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Response};
use weir_model::limits::Limits;
use weir_model::resource::HttpRule;

use crate::harness::*;
use crate::http2_harness::*;

async fn status_of(client: &mut Http2Client, path: &str) -> (u16, Option<String>, bool) {
    let (response, mut stream) = client.begin(call(path), false).await;
    // The answer may come first.
    let _ = stream.send_data(Bytes::from_static(b"\0\0\0\0\0"), true);
    let response = response.await.unwrap();
    let trailers_only = response.body().is_end_stream();
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert!(!response.headers().contains_key("content-length"));
    let status = response.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
    (response.status().as_u16(), status, trailers_only)
}

#[test]
fn errors_of_the_proxy_are_trailers_alone_with_a_status_of_grpc() {
    let silent = Http2Origin::start(|_, respond| async move {
        std::future::pending::<()>().await;
        drop(respond);
    });
    let world = World::start(one_worker());
    let mut resources = Vec::from(http2_backend("silent", &[silent.address]));
    resources.extend(http2_backend("empty", &[]));
    resources.extend(http2_backend("dead", &[Origin::nobody()]));
    let one = |backend: &str, path: &str| HttpRule { backends: vec![to(backend, 1)], ..rule(path) };
    let rules = vec![
        one("unknown", "/pkg.Service/Invalid"),
        one("empty", "/pkg.Service/Empty"),
        one("dead", "/pkg.Service/Dead"),
        HttpRule { request_timeout_ms: 50, ..one("silent", "/pkg.Service/Slow") },
    ];
    resources.push(route("r", &[(world.address.ip(), world.address.port())], rules));
    assert_eq!(world.apply(resources).rejected, []);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        for (method, status) in
            [("None", "12"), ("Invalid", "14"), ("Empty", "14"), ("Dead", "14"), ("Slow", "4")]
        {
            let answer = status_of(&mut client, &format!("/pkg.Service/{method}")).await;
            assert_eq!(answer, (200, Some(status.to_owned()), true), "{method}");
        }
    });
}

#[test]
fn other_requests_are_answered_in_http() {
    let world = World::start(one_worker());
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        for content_type in ["application/json", "application/grpc-web", "application/grpcx"] {
            let mut asked = request(http::Method::POST, "/");
            asked.headers_mut().insert("content-type", content_type.parse().unwrap());
            let (response, _) = client.begin(asked, true).await;
            assert_eq!(response.await.unwrap().status(), 404, "{content_type}");
        }
    });
}

#[test]
fn a_call_and_its_status_pass() {
    let origin = Http2Origin::start(|request, mut respond| async move {
        let message = all(&mut request.into_body()).await.unwrap();
        // A length where one may be, and trailers all the same.
        let response = Response::builder()
            .header("content-type", "application/grpc+proto")
            .header("content-length", message.len())
            .body(())
            .unwrap();
        let mut stream = respond.send_response(response, false).unwrap();
        stream.send_data(message.into(), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        trailers.insert("grpc-message", "fine%20thing".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    });
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let mut asked = call("/pkg.Service/Echo");
        asked.headers_mut().insert("grpc-timeout", "10S".parse().unwrap());
        let (response, mut stream) = client.begin(asked, false).await;
        stream.send_data(Bytes::from_static(b"\0\0\0\0\x02hi"), true).unwrap();
        let answer = whole(response.await.unwrap()).await;
        assert_eq!(answer.body, b"\0\0\0\0\x02hi");
        assert_eq!(
            (answer.trailer("grpc-status"), answer.trailer("grpc-message")),
            (Some("0"), Some("fine%20thing"))
        );
    });
    let seen = origin.last();
    assert_eq!(seen.headers()["te"], "trailers");
    assert_eq!(seen.headers()["grpc-timeout"], "10S");
    assert_eq!(seen.headers()["content-type"], "application/grpc");
}

#[test]
fn an_answer_of_trailers_alone_stays_one() {
    let origin = Http2Origin::start(|_, mut respond| async move {
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "5")
            .header("grpc-message", "not%20here")
            .body(())
            .unwrap();
        respond.send_response(response, true).unwrap();
    });
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let answer = status_of(&mut client, "/pkg.Service/Missing").await;
        assert_eq!(answer, (200, Some("5".to_owned()), true));
    });
}

#[test]
fn a_call_that_its_client_cancels_is_cancelled_at_the_backend() {
    let (told, cancelled) = std::sync::mpsc::channel();
    let origin = Http2Origin::start(move |request, mut respond| {
        let told = told.clone();
        async move {
            let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            told.send(reset.unwrap()).unwrap();
            drop(request);
        }
    });
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let (response, mut stream) = client.begin(call("/pkg.Service/Long"), false).await;
        while origin.requests() == 0 {
            tokio::task::yield_now().await;
        }
        stream.send_reset(Reason::CANCEL);
        drop(response);
        // Others go on.
        assert!(!client.connection.is_finished());
        while world.failures("client_gone") == 0 {
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(cancelled.recv_timeout(PATIENCE).unwrap(), Reason::CANCEL);
}

/// However the request's end was announced.
#[test]
fn any_request_that_its_client_gives_up_is_given_up_at_the_backend() {
    let (told, cancelled) = std::sync::mpsc::channel();
    let origin = Http2Origin::start(move |request, mut respond| {
        let told = told.clone();
        async move {
            let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            told.send(reset.unwrap()).unwrap();
            drop(request);
        }
    });
    let world = World::to_http2(&origin);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        for (count, length) in [None, Some(0), Some(4)].into_iter().enumerate() {
            let mut asked = request(http::Method::POST, "/");
            if let Some(length) = length {
                asked.headers_mut().insert("content-length", length.into());
            }
            let (response, mut stream) = client.begin(asked, false).await;
            let body = &b"body"[..length.unwrap_or(3)];
            stream.send_data(Bytes::from_static(body), true).unwrap();
            while origin.requests() == count {
                tokio::task::yield_now().await;
            }
            stream.send_reset(Reason::CANCEL);
            drop(response);
            while world.failures("client_gone") == count as u64 {
                tokio::task::yield_now().await;
            }
        }
    });
    for _ in 0..3 {
        assert_eq!(cancelled.recv_timeout(PATIENCE).unwrap(), Reason::CANCEL);
    }
}

#[test]
fn calls_are_split_by_weight_and_an_invalid_backend_keeps_its_share() {
    let origin = Http2Origin::start(|_, mut respond| async move { say(&mut respond, 200, "ok") });
    let world = World::start(one_worker());
    let mut resources = Vec::from(http2_backend("good", &[origin.address]));
    resources
        .push(world.route("r", HttpRule { backends: vec![to("good", 3), to("unknown", 1)], ..rule("/") }));
    assert_eq!(world.apply(resources).rejected, []);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let mut unavailable = 0;
        for _ in 0..40 {
            let (response, _) = client.begin(call("/pkg.Service/Any"), true).await;
            let response = response.await.unwrap();
            unavailable +=
                usize::from(response.headers().get("grpc-status").is_some_and(|status| status == "14"));
        }
        assert_eq!((unavailable, origin.requests()), (10, 30));
    });
}

#[test]
fn a_call_without_an_answer_in_time_has_exceeded_its_deadline() {
    let origin = Http2Origin::start(|request, respond| async move {
        std::future::pending::<()>().await;
        drop((request, respond));
    });
    let limits = Limits { upstream_response_timeout: Duration::from_millis(50), ..Limits::default() };
    let world = World::to_http2_with(&origin, with_limits(limits));
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let answer = status_of(&mut client, "/pkg.Service/Never").await;
        assert_eq!(answer, (200, Some("4".to_owned()), true));
    });
}

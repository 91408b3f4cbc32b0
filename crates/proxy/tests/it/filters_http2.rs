//! Filters, retries and sessions where clients and endpoints speak HTTP/2: the same sentences hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, Response};
use weir_model::resource::{
    Cors, ExternalAuth, FilterKind, HttpRule, RequestMirror, Resource, Retry, SessionPersistence,
};

use crate::harness::*;
use crate::http2_harness::*;

/// Answers with the body that it got.
fn echo() -> Http2Origin {
    Http2Origin::start(|request, mut respond| async move {
        let mut body = request.into_body();
        let Ok(whole) = all(&mut body).await else { return };
        let mut stream = respond.send_response(Response::new(()), whole.is_empty()).unwrap();
        let _ = pour(&mut stream, whole.into()).await;
    })
}

fn world(resources: impl IntoIterator<Item = Resource>, rule: HttpRule) -> World {
    let world = World::start(one_worker());
    let mut resources: Vec<Resource> = resources.into_iter().collect();
    resources.push(world.route("r", rule));
    assert_eq!(world.apply(resources).rejected, []);
    world
}

fn kinds(kinds: Vec<FilterKind>) -> Vec<weir_model::resource::Filter> {
    kinds.into_iter().map(filter).collect()
}

fn mirror(name: &str) -> FilterKind {
    FilterKind::RequestMirror(RequestMirror {
        backend_key: format!("backend/default/{name}/80"),
        numerator: 1,
        denominator: 1,
        split_identity: name.into(),
    })
}

#[test]
fn a_large_body_is_copied_whole_to_mirrors_of_both_versions() {
    let (primary, two) = (echo(), echo());
    let one = Origin::start(|peer| {
        while peer.request().is_some() {
            peer.send(ok(""));
        }
    });
    let mut resources = http2_backend("a", &[primary.address]).to_vec();
    resources.extend(http2_backend("two", &[two.address]));
    resources.extend(backend("one", &[one.address]));
    let filters = kinds(vec![mirror("one"), mirror("two")]);
    let world = world(resources, HttpRule { backends: vec![to("a", 1)], filters, ..rule("/") });
    let body: Bytes = (0..300_000u32).flat_map(u32::to_be_bytes).collect();
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let (response, mut stream) = client.begin(request(Method::POST, "/"), false).await;
        let (answer, sent) =
            tokio::join!(async { whole(response.await.unwrap()).await }, pour(&mut stream, body.clone()));
        sent.unwrap();
        assert!(answer.body == body);
        for _ in 0..9 {
            assert_eq!(client.get("/").await.status, 200);
        }
    });
    eventually("every copy is done", || world.metric("weir_proxy_mirrors_total") == 20);
    assert_eq!((one.requests(), two.requests()), (10, 10));
    assert_eq!(world.metric("weir_proxy_mirror_drops_total"), 0);
}

#[test]
fn a_preflight_over_http2_is_answered_by_the_gateway() {
    let origin = echo();
    let cors = Cors {
        allow_origins: vec!["https://*.example".into()],
        allow_methods: vec!["PUT".into()],
        max_age_seconds: 5,
        ..Cors::default()
    };
    let rule =
        HttpRule { backends: vec![to("a", 1)], filters: kinds(vec![FilterKind::Cors(cors)]), ..rule("/") };
    let world = world(http2_backend("a", &[origin.address]), rule);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let mut asked = request(Method::OPTIONS, "/");
        asked.headers_mut().insert("origin", "https://a.example".parse().unwrap());
        asked.headers_mut().insert("access-control-request-method", "PUT".parse().unwrap());
        let (response, _) = client.begin(asked, true).await;
        let answer = whole(response.await.unwrap()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.field("access-control-allow-methods")),
            (204, Some("PUT"))
        );
        let mut actual = request(Method::GET, "/");
        actual.headers_mut().insert("origin", "https://a.example".parse().unwrap());
        let (response, _) = client.begin(actual, true).await;
        let answer = whole(response.await.unwrap()).await;
        assert_eq!(answer.field("access-control-allow-origin"), Some("https://a.example"));
    });
    assert_eq!(origin.requests(), 1);
}

#[test]
fn statuses_of_an_http2_endpoint_are_tried_again_with_the_body() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let origin = Http2Origin::start(move |request, mut respond| {
        let failing = count.fetch_add(1, Ordering::Relaxed) < 2;
        async move {
            if failing {
                return say(&mut respond, 503, "later");
            }
            let mut body = request.into_body();
            let whole = all(&mut body).await.unwrap();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            pour(&mut stream, whole.into()).await.unwrap();
        }
    });
    let retry = Some(Retry { codes: vec![503], attempts: 2, backoff_ms: 1 });
    let rule = HttpRule { backends: vec![to("a", 1)], retry, ..rule("/") };
    let world = world(http2_backend("a", &[origin.address]), rule);
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        let answer = client.post("/", b"hello").await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "hello"));
    });
    assert_eq!((origin.requests(), origin.connections()), (3, 1));
}

#[test]
fn sessions_hold_for_clients_that_send_their_cookies_in_crumbs() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let session = SessionPersistence { name: "weir".into(), ..SessionPersistence::default() };
    let mut resources = backend("a", &[a.address]).to_vec();
    resources.extend(backend("b", &[b.address]));
    let backends = vec![to("a", 1), to("b", 1)];
    let world = world(resources, HttpRule { backends, session_persistence: Some(session), ..rule("/") });
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        for _ in 0..4 {
            let first = client.get("/").await;
            let cookie = first.field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
            for _ in 0..4 {
                let mut again = request(Method::GET, "/");
                again.headers_mut().append("cookie", "other=1".parse().unwrap());
                again.headers_mut().append("cookie", cookie.parse().unwrap());
                let (response, _) = client.begin(again, true).await;
                assert_eq!(whole(response.await.unwrap()).await.text(), first.text());
            }
        }
    });
    assert_eq!(world.proxy.splits()[0].tickets, 4);
}

#[test]
fn an_authorisation_server_is_asked_for_requests_of_http2_too() {
    let server = Origin::start(|peer| {
        while let Some((head, body)) = peer.request() {
            let allowed = body == b"let me in" && fields(&head, "authorization") == ["t"];
            peer.send(if allowed {
                ok("")
            } else {
                "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno".to_owned()
            });
        }
    });
    let origin = echo();
    let mut resources = http2_backend("a", &[origin.address]).to_vec();
    resources.extend(backend("auth", &[server.address]));
    let auth = ExternalAuth {
        backend_key: "backend/default/auth/80".into(),
        max_body_bytes: 1_000,
        ..ExternalAuth::default()
    };
    let filters = kinds(vec![FilterKind::ExternalAuth(auth)]);
    let world = world(resources, HttpRule { backends: vec![to("a", 1)], filters, ..rule("/") });
    in_time(async {
        let mut client = Http2Client::connect(world.address).await;
        for (said, status, text) in [("let me in", 200, "let me in"), ("please", 403, "no")] {
            let mut asking = request(Method::POST, "/");
            asking.headers_mut().insert("authorization", "t".parse().unwrap());
            let (response, mut stream) = client.begin(asking, false).await;
            stream.send_data(Bytes::from_static(said.as_bytes()), true).unwrap();
            let answer = whole(response.await.unwrap()).await;
            assert_eq!((answer.status.as_u16(), answer.text()), (status, text));
        }
    });
    assert_eq!(origin.requests(), 1);
}

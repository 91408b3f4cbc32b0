//! HTTP/2 inside TLS, on either side.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use weir_model::limits::Limits;
use weir_model::resource::{BackendTls, Body, Update};

use crate::harness::*;
use crate::http2_harness::*;
use crate::secure::*;

/// A world with two listeners of their own hostnames on one port, each with an origin of its name.
struct Secure {
    world: World,
    authority: Authority,
    origins: Vec<Origin>,
}

const NAMES: [&str; 2] = ["a.example", "b.example"];

fn secure(limits: Limits) -> Secure {
    let world = World::bare(with_limits(limits));
    let authority = Authority::new("authority");
    let mut resources = vec![authority.sign(&NAMES).resource("c")];
    let mut origins = Vec::new();
    for name in NAMES {
        let (id, origin) = (&name[..1], Origin::named(name));
        resources.push(ListenerOf::https(world.address, id, name, &["c"]).resource());
        resources.extend(backend(id, &[origin.address]));
        resources.push(http_route(id, &[id], name, id));
        origins.push(origin);
    }
    let applied = world.apply(resources);
    assert_eq!(applied.rejected, []);
    assert!(applied.binds.iter().all(|bind| bind.error.is_empty()), "{applied:?}");
    Secure { world, authority, origins }
}

fn to_host(host: &str) -> Request<()> {
    Request::builder().uri(format!("https://{host}/")).body(()).unwrap()
}

#[test]
fn clients_that_offer_http2_get_it() {
    let secure = secure(Limits::default());
    in_time(async {
        let mut client =
            Http2Client::secure(secure.world.address, "a.example", &secure.authority.client()).await;
        for _ in 0..3 {
            let (response, _) = client.begin(to_host("a.example"), true).await;
            assert_eq!(whole(response.await.unwrap()).await.text(), "a.example");
        }
    });
    let head = secure.origins[0].last_head();
    assert_eq!(fields(&head, "x-forwarded-proto"), ["https"]);
    let mut old = Peer::secure(secure.world.address, "a.example", &secure.authority.client());
    assert_eq!(old.exchange("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").text(), "a.example");
}

/// Browsers put requests for every name of a certificate on one connection.
#[test]
fn a_request_for_another_listener_is_misdirected_and_the_next_one_is_served() {
    let secure = secure(Limits::default());
    in_time(async {
        let mut client =
            Http2Client::secure(secure.world.address, "a.example", &secure.authority.client()).await;
        for (host, status) in [("a.example", 200), ("b.example", 421), ("a.example", 200)] {
            let (response, _) = client.begin(to_host(host), true).await;
            assert_eq!(response.await.unwrap().status(), status, "{host}");
        }
    });
    assert_eq!(secure.origins[1].requests(), 0);
}

#[test]
fn large_bodies_pass_inside_tls_on_both_sides() {
    let authority = Authority::new("authority");
    let mut config = (*authority.sign(&["backend.example"]).server(None)).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let builder = Arc::new(h2::server::Builder::new());
    let origin = Http2Origin::serve(move |stream, _, requests| {
        let (builder, acceptor) = (builder.clone(), acceptor.clone());
        async move {
            let stream = acceptor.accept(stream).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                note(&requests, &request);
                tokio::spawn(async move {
                    let body = all(&mut request.into_body()).await.unwrap();
                    let mut stream = respond.send_response(Response::new(()), false).unwrap();
                    pour(&mut stream, body.into()).await.unwrap();
                });
            }
        }
    });
    let world = World::bare(one_worker());
    let [mut backend, endpoints] = http2_backend("b", &[origin.address]);
    if let Some(Body::Backend(backend)) = &mut backend.body {
        backend.tls = Some(BackendTls {
            hostname: "backend.example".into(),
            ca_bundles: vec!["cabundle/ca".into()],
            ..BackendTls::default()
        });
    }
    let applied = world.apply(vec![
        authority.bundle("ca"),
        authority.sign(&["a.example"]).resource("c"),
        ListenerOf::https(world.address, "a", "a.example", &["c"]).resource(),
        backend,
        endpoints,
        http_route("r", &["a"], "a.example", "b"),
    ]);
    assert_eq!(applied.rejected, []);
    in_time(async {
        let mut client = Http2Client::secure(world.address, "a.example", &authority.client()).await;
        let mut asked = to_host("a.example");
        *asked.method_mut() = Method::POST;
        let (response, mut stream) = client.begin(asked, false).await;
        let body = Bytes::from((0..3_000_001).map(|index| (index % 251) as u8).collect::<Vec<_>>());
        let (sent, answer) =
            tokio::join!(pour(&mut stream, body.clone()), async { whole(response.await.unwrap()).await });
        sent.unwrap();
        assert!(answer.body == body, "{} bytes came back", answer.body.len());
    });
    assert_eq!(origin.last().uri().scheme_str(), Some("https"));
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_listener_that_goes_ends_its_connections_in_time() {
    let limits = Limits { listener_drain_timeout: Duration::from_millis(200), ..Limits::default() };
    let secure = secure(limits);
    in_time(async {
        let address: SocketAddr = secure.world.address;
        let mut client = Http2Client::secure(address, "a.example", &secure.authority.client()).await;
        let (response, _) = client.begin(to_host("a.example"), true).await;
        assert_eq!(response.await.unwrap().status(), 200);
        let removals = NAMES.iter().map(|name| named_listener(&name[..1])).collect();
        let applied =
            secure.world.proxy.apply(Update { sequence: 1_000, removals, ..Update::default() }).await;
        assert_eq!(applied.rejected, []);
        // Told by GOAWAY, or cut off; in time either way.
        let _ = client.connection.await.unwrap();
    });
}

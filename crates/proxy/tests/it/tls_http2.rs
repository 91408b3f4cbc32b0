//! HTTP/2 inside TLS: which listener a request belongs to, which connection to a backend it may share, and the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request};
use tokio_rustls::TlsAcceptor;
use weir_model::limits::Limits;
use weir_model::resource::{BackendTls, Body, Resource, Update};
use weir_proxy::ProxyConfig;

use crate::harness::*;
use crate::http2_harness::*;
use crate::secure::*;

fn config() -> ProxyConfig {
    ProxyConfig { workers: Some(2), ..ProxyConfig::default() }
}

fn get(host: &str) -> Request<()> {
    Request::builder().method(Method::GET).uri(format!("https://{host}/")).body(()).unwrap()
}

/// The answer: a status, or who answered.
async fn ask(client: &mut Http2Client, host: &str) -> String {
    let (response, _) = client.begin(get(host), true).await;
    let answer = whole(response.await.unwrap()).await;
    if answer.status == 200 { answer.text().to_owned() } else { answer.status.as_u16().to_string() }
}

/// Listeners (name, hostname), each with a route and an origin of its name.
fn listeners(world: &World, authority: &Authority, names: &[(&str, &str)]) -> Vec<Origin> {
    let all: Vec<&str> =
        names.iter().map(|(_, hostname)| *hostname).filter(|name| !name.is_empty()).collect();
    let mut resources = vec![authority.sign(&[&all[..], &["unknown.example"]].concat()).resource("c")];
    let mut origins = Vec::new();
    for (name, hostname) in names {
        let origin = Origin::named(name);
        resources.push(ListenerOf::https(world.address, name, hostname, &["c"]).resource());
        resources.extend(backend(name, &[origin.address]));
        resources.push(http_route(name, &[name], hostname, name));
        origins.push(origin);
    }
    assert_eq!(world.apply(resources).rejected, []);
    origins
}

#[test]
fn requests_for_other_listeners_are_misdirected_one_by_one() {
    let (world, authority) = (World::bare(config()), Authority::new("authority"));
    let names = [
        ("any", ""),
        ("exact", "second.example.org"),
        ("wildcard", "*.wildcard.org"),
        ("inside", "very.specific.wildcard.org"),
    ];
    let _origins = listeners(&world, &authority, &names);
    let config = authority.client();
    in_time(async {
        for (name, asked) in [
            (
                "second.example.org",
                [("second.example.org", "exact"), ("x.wildcard.org", "421"), ("other.example", "421")],
            ),
            (
                "x.wildcard.org",
                [
                    ("y.wildcard.org", "wildcard"),
                    ("very.specific.wildcard.org", "421"),
                    ("second.example.org", "421"),
                ],
            ),
            (
                "very.specific.wildcard.org",
                [
                    ("very.specific.wildcard.org", "inside"),
                    ("x.wildcard.org", "421"),
                    ("unknown.example", "421"),
                ],
            ),
            (
                "unknown.example",
                [("unknown.example", "any"), ("other.example", "any"), ("second.example.org", "421")],
            ),
        ] {
            let mut client = Http2Client::secure(world.address, name, &config).await;
            for (host, expected) in asked {
                assert_eq!(ask(&mut client, host).await, expected, "{name} {host}");
            }
        }
    });
}

/// A backend that speaks HTTP/2 inside TLS, and offers these protocols.
fn secure_http2(pair: &Pair, protocols: &'static [&'static [u8]]) -> Http2Origin {
    let mut config = (*pair.server(None)).clone();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Http2Origin::serve(move |stream, _, requests| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                note(&requests, &request);
                say(&mut respond, 200, "secure");
            }
        }
    })
}

fn with_policy(name: &str, address: SocketAddr, hostname: &str) -> [Resource; 2] {
    let [mut backend, endpoints] = http2_backend(name, &[address]);
    let Some(Body::Backend(inner)) = &mut backend.body else { unreachable!() };
    inner.tls = Some(BackendTls {
        hostname: hostname.into(),
        ca_bundles: vec!["cabundle/ca".into()],
        ..BackendTls::default()
    });
    [backend, endpoints]
}

#[test]
fn backends_of_http2_are_spoken_to_inside_tls_on_one_connection() {
    let authority = Authority::new("authority");
    let origin = secure_http2(&authority.sign(&["a.example"]), &[b"h2"]);
    let world = World::start(ProxyConfig { workers: Some(1), ..config() });
    world.apply(vec![authority.bundle("ca")]);
    world.serve(&[(origin.address, 1)]);
    assert_eq!(world.apply(with_policy("b0", origin.address, "a.example").to_vec()).rejected, []);
    let mut client = world.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "secure");
    }
    assert_eq!(origin.connections(), 1);
    assert_eq!(origin.last().uri().scheme_str(), Some("https"));
    world.apply(with_policy("b0", origin.address, "b.example").to_vec());
    assert_eq!(client.get("/").status, 502, "another identity, and not whom we believe");
}

#[test]
fn a_backend_that_does_not_agree_on_http2_gets_no_request() {
    let authority = Authority::new("authority");
    let origin = secure_http2(&authority.sign(&["a.example"]), &[b"http/1.1"]);
    let world = World::start(config());
    world.apply(vec![authority.bundle("ca")]);
    world.serve(&[(origin.address, 1)]);
    world.apply(with_policy("b0", origin.address, "a.example").to_vec());
    assert_eq!(world.client().get("/").status, 502);
    assert_eq!(origin.requests(), 0);
    world.expect_failures("upstream_handshake", 1);
}

#[test]
fn a_connection_ends_in_time_when_its_listener_goes_and_streams_may_end_before() {
    let limits = Limits { listener_drain_timeout: Duration::from_millis(500), ..Limits::default() };
    let (removal, wait) = signal();
    let origin = Origin::start(move |peer| {
        while let Some((head, _)) = peer.request() {
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
            if head.contains("/short") {
                wait();
                peer.send("0\r\n\r\n");
            }
        }
    });
    let world = World::bare(ProxyConfig { limits, ..config() });
    let authority = Authority::new("authority");
    let mut resources = vec![
        authority.sign(&["a.example"]).resource("c"),
        ListenerOf::https(world.address, "l", "", &["c"]).resource(),
        http_route("r", &["l"], "", "b"),
    ];
    resources.extend(backend("b", &[origin.address]));
    world.apply(resources);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut client = runtime.block_on(Http2Client::secure(world.address, "a.example", &authority.client()));
    let mut begin = |path: &str| {
        let uri = format!("https://a.example{path}");
        let request = Request::builder().uri(uri).body(()).unwrap();
        runtime.block_on(async { client.begin(request, true).await.0.await.unwrap() })
    };
    let (short, long) = (begin("/short"), begin("/long"));
    let removed = Instant::now();
    world.update(Update { removals: vec![named_listener("l")], ..Update::default() });
    removal.send(()).unwrap();
    let answer = runtime.block_on(whole(short));
    assert_eq!(answer.text(), "first");
    let broken = runtime.block_on(async { all(&mut long.into_body()).await });
    assert!(broken.is_err(), "what is cut short is not taken for whole");
    assert!((Duration::from_millis(450)..Duration::from_secs(3)).contains(&removed.elapsed()));
}

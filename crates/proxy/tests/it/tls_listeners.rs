//! HTTPS listeners: which listener a connection belongs to, and what is different about its requests.

use std::sync::Arc;

use rustls::{ProtocolVersion, RootCertStore};
use weir_model::resource::{FilterKind, HttpRule, RequestRedirect, Resource, Update};
use weir_proxy::ProxyConfig;

use crate::harness::*;
use crate::secure::*;

fn config() -> ProxyConfig {
    ProxyConfig { workers: Some(2), ..ProxyConfig::default() }
}

/// Four listeners on one port, as the conformance suite has them, each with a certificate and an origin of its own.
struct Four {
    world: World,
    authority: Authority,
    _origins: Vec<Origin>,
}

const NAMES: [(&str, &str); 4] = [
    ("any", ""),
    ("exact", "second.example.org"),
    ("wildcard", "*.wildcard.org"),
    ("inside", "very.specific.wildcard.org"),
];

impl Four {
    fn with(listeners: &[&str]) -> Four {
        let world = World::bare(config());
        let authority = Authority::new("authority");
        let mut origins = Vec::new();
        let mut resources: Vec<Resource> = Vec::new();
        let all = [
            "a.example",
            "second.example.org",
            "*.wildcard.org",
            "very.specific.wildcard.org",
            "unknown.example",
        ];
        resources.push(authority.sign(&all).resource("c"));
        for (name, hostname) in NAMES.into_iter().filter(|(name, _)| listeners.contains(name)) {
            let origin = Origin::named(name);
            resources.push(ListenerOf::https(world.address, name, hostname, &["c"]).resource());
            resources.extend(backend(name, &[origin.address]));
            resources.push(http_route(name, &[name], hostname, name));
            origins.push(origin);
        }
        let applied = world.apply(resources);
        assert_eq!(applied.rejected, []);
        assert!(applied.binds.iter().all(|bind| bind.error.is_empty()), "{applied:?}");
        Four { world, authority, _origins: origins }
    }

    /// The answer to a request for `host` on a connection for `name`: a status, or who answered.
    fn ask(&self, name: &str, host: &str) -> String {
        let mut client = Peer::secure(self.world.address, name, &self.authority.client());
        let response = client.exchange(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        if response.status == 200 { response.text().to_owned() } else { response.status.to_string() }
    }
}

#[test]
fn the_most_specific_listener_serves_a_name() {
    let four = Four::with(&["any", "exact", "wildcard", "inside"]);
    for (name, expected) in [
        ("a.example", "any"),
        ("unknown.example", "any"),
        ("second.example.org", "exact"),
        ("x.wildcard.org", "wildcard"),
        ("very.specific.wildcard.org", "inside"),
    ] {
        assert_eq!(four.ask(name, name), expected, "{name}");
        assert_eq!(four.ask(name, &format!("{}:443", name.to_uppercase())), expected, "{name}");
    }
}

#[test]
fn a_host_that_another_listener_serves_better_is_misdirected() {
    let four = Four::with(&["any", "exact", "wildcard", "inside"]);
    for (name, host, expected) in [
        ("a.example", "second.example.org", "421"),
        ("second.example.org", "x.wildcard.org", "421"),
        ("x.wildcard.org", "very.specific.wildcard.org", "421"),
        ("very.specific.wildcard.org", "x.wildcard.org", "421"),
        ("x.wildcard.org", "y.wildcard.org", "wildcard"),
        ("unknown.example", "a.example", "any"),
        // The listener without a hostname would serve it, and it is not this connection's.
        ("second.example.org", "elsewhere.example", "421"),
    ] {
        assert_eq!(four.ask(name, host), expected, "{name} {host}");
    }
}

#[test]
fn a_host_that_nobody_serves_is_not_found() {
    let four = Four::with(&["exact", "wildcard"]);
    assert_eq!(four.ask("second.example.org", "elsewhere.example"), "404");
}

#[test]
fn a_misdirected_request_leaves_its_connection_to_others() {
    let four = Four::with(&["any", "exact"]);
    let mut client = Peer::secure(four.world.address, "second.example.org", &four.authority.client());
    let ask = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    assert_eq!(client.exchange(&ask("a.example")).status, 421);
    assert_eq!(client.exchange(&ask("second.example.org")).text(), "exact");
    four.world.expect_failures("misdirected", 1);
}

#[test]
fn a_name_that_nobody_serves_is_closed_without_a_word() {
    let four = Four::with(&["exact"]);
    for name in ["unknown.example", "127.0.0.1"] {
        let refused = Peer::try_secure(four.world.address, name, &four.authority.client());
        assert_eq!(refused.err(), Some(Refused::Silence), "{name}");
    }
    four.world.expect_failures("tls_unknown_name", 2);
    assert_eq!(four.world.metric("weir_proxy_tls_handshake_failures_total"), 2);
}

#[test]
fn a_client_without_a_server_name_gets_the_listener_without_a_hostname() {
    let four = Four::with(&["any", "exact"]);
    let mut config = four.authority.client();
    config.enable_sni = false;
    let mut client = Peer::secure(four.world.address, "a.example", &config);
    assert_eq!(client.get("/").text(), "any");
}

#[test]
fn both_versions_of_tls_are_spoken_and_no_older_one() {
    let four = Four::with(&["any"]);
    for (version, expected) in [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(four.authority.roots())
            .with_no_client_auth();
        let mut client = Peer::secure(four.world.address, "a.example", &config);
        assert_eq!(client.version(), expected);
        for _ in 0..3 {
            assert_eq!(client.get("/").text(), "any");
        }
    }
    assert_eq!(four.world.metric("weir_proxy_tls_handshakes_total"), 2);
    assert_eq!(four.world.metric("weir_proxy_connections_total"), 2, "connections are kept");
}

#[test]
fn http_1_is_agreed_on_and_what_nobody_speaks_refused() {
    let four = Four::with(&["any"]);
    let mut config = four.authority.client();
    config.alpn_protocols = vec![b"foo".to_vec(), b"http/1.1".to_vec()];
    let client = Peer::secure(four.world.address, "a.example", &config);
    assert_eq!(client.tls.unwrap().alpn_protocol(), Some(&b"http/1.1"[..]));
    config.alpn_protocols = vec![b"foo".to_vec()];
    let refused = Peer::try_secure(four.world.address, "a.example", &config);
    assert_eq!(refused.err(), Some(Refused::Alert(120)), "no_application_protocol");
}

#[test]
fn backends_and_redirects_are_told_that_it_is_https() {
    let origin = Origin::named("ok");
    let world = World::bare(config());
    let authority = Authority::new("authority");
    let redirect =
        RequestRedirect { status: 302, hostname: "b.example".into(), ..RequestRedirect::default() };
    let redirects =
        HttpRule { filters: vec![filter(FilterKind::RequestRedirect(redirect))], ..rule("/away") };
    let mut resources = vec![
        authority.sign(&["a.example"]).resource("c"),
        ListenerOf::https(world.address, "l", "a.example", &["c"]).resource(),
        http_route("r", &["l"], "a.example", "b"),
    ];
    if let Some(weir_model::resource::Body::HttpRoute(route)) = &mut resources[2].body {
        route.rules.push(redirects);
    }
    resources.extend(backend("b", &[origin.address]));
    assert_eq!(world.apply(resources).rejected, []);
    let mut client = Peer::secure(world.address, "a.example", &authority.client());
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(client.exchange(&ask("/x")).status, 200);
    assert_eq!(fields(&origin.last_head(), "x-forwarded-proto"), ["https"]);
    let port = world.address.port();
    let response = client.exchange(&ask("/away"));
    assert_eq!(response.field("location"), Some(format!("https://b.example:{port}/away").as_str()));
    let absolute = "GET https://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n";
    assert_eq!(client.exchange(absolute).status, 200);
    assert_eq!(client.exchange(&absolute.replace("https:", "http:")).status, 421);
}

#[test]
fn large_bodies_go_through_both_ways_and_unchanged() {
    const BYTES: usize = 5_000_000;
    let origin = Origin::start(|peer| {
        while let Some((_, body)) = peer.request() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
            peer.send(body);
        }
    });
    let world = World::bare(config());
    let authority = Authority::new("authority");
    let mut resources = vec![
        authority.sign(&["a.example"]).resource("c"),
        ListenerOf::https(world.address, "l", "", &["c"]).resource(),
        http_route("r", &["l"], "", "b"),
    ];
    resources.extend(backend("b", &[origin.address]));
    world.apply(resources);
    let body: Vec<u8> = (0..BYTES).map(|at| (at * 31 % 251) as u8).collect();
    let mut client = Peer::secure(world.address, "a.example", &authority.client());
    for _ in 0..2 {
        client.send(format!("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {BYTES}\r\n\r\n"));
        client.send(&body);
        assert!(client.response().body == body);
    }
}

#[test]
fn an_end_that_is_meant_is_told_from_one_that_is_not() {
    let whole = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nwhole");
    });
    let world = World::bare(config());
    let authority = Authority::new("authority");
    let mut resources = vec![
        authority.sign(&["a.example"]).resource("c"),
        ListenerOf::https(world.address, "l", "", &["c"]).resource(),
        http_route("r", &["l"], "", "b"),
    ];
    resources.extend(backend("b", &[whole.address]));
    world.apply(resources);
    let mut client = Peer::secure(world.address, "a.example", &authority.client());
    client.send("GET / HTTP/1.0\r\nHost: a.example\r\n\r\n");
    assert_eq!(client.response().text(), "whole");
    let mut tls = client.tls.unwrap();
    let state = tls.process_new_packets().unwrap();
    assert!(state.peer_has_closed(), "the end came with close_notify");
}

#[test]
fn tickets_are_taken_back_also_after_the_certificate_was_replaced() {
    let four = Four::with(&["any", "exact"]);
    let client = four.authority.client();
    let visit = |name: &str| {
        let mut peer = Peer::secure(four.world.address, name, &client);
        // Tickets come with the first answer, at the latest.
        assert_eq!(peer.exchange(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).status, 200);
        peer.handshake_kind()
    };
    assert_eq!(visit("a.example"), rustls::HandshakeKind::Full);
    assert_eq!(visit("a.example"), rustls::HandshakeKind::Resumed);
    four.world.apply(vec![
        four.authority.sign(&["a.example"]).resource("d"),
        ListenerOf::https(four.world.address, "any", "", &["d"]).resource(),
    ]);
    assert_eq!(visit("a.example"), rustls::HandshakeKind::Resumed);
    assert_eq!(visit("second.example.org"), rustls::HandshakeKind::Full, "a name of its own");
}

#[test]
fn a_proxy_that_believes_nobody_gives_its_certificate_to_be_judged() {
    let four = Four::with(&["any"]);
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(Arc::new(RootCertStore::empty()))
        .with_no_client_auth();
    let refused = Peer::try_secure(four.world.address, "a.example", &config);
    assert!(matches!(refused.err(), Some(Refused::Other(_))));
    four.world.expect_failures("tls_handshake", 1);
}

#[test]
fn plain_listeners_beside_are_not_touched() {
    let four = Four::with(&["any"]);
    let plain = std::net::SocketAddr::new(four.world.address.ip(), PORT + 1);
    four.world.update(Update {
        upserts: vec![
            listener(plain.ip(), plain.port()),
            route(
                "plain",
                &[(plain.ip(), plain.port())],
                vec![HttpRule { backends: vec![to("any", 1)], ..rule("/") }],
            ),
        ],
        ..Update::default()
    });
    assert_eq!(Peer::connect(plain).get("/").text(), "any");
    assert_eq!(four.ask("a.example", "a.example"), "any");
}

#[test]
fn connections_of_a_listener_that_goes_are_drained_and_its_neighbours_stay() {
    let four = Four::with(&["exact", "wildcard"]);
    let connect = |four: &Four, name: &str| {
        let mut client = Peer::secure(four.world.address, name, &four.authority.client());
        let ask = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n");
        assert_eq!(client.exchange(&ask).status, 200);
        (client, ask)
    };
    let (mut going, _) = connect(&four, "second.example.org");
    let (mut staying, ask) = connect(&four, "x.wildcard.org");
    let removals = vec![named_listener("exact")];
    four.world.update(Update { removals, ..Update::default() });
    assert!(going.ends(), "idle, and so at once");
    assert_eq!(staying.exchange(&ask).text(), "wildcard");
    let refused = Peer::try_secure(four.world.address, "second.example.org", &four.authority.client());
    assert_eq!(refused.err(), Some(Refused::Silence));
}

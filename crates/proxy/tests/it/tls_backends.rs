//! Backends that are spoken to over TLS (BackendTLSPolicy): whom we believe, what we show, and that nothing goes in the clear.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use weir_model::resource::{
    Backend, BackendTls, Body, HttpRule, Listener, ListenerProtocol, Resource, Retry, SubjectAltName, Update,
};
use weir_proxy::ProxyConfig;

use crate::harness::*;
use crate::secure::*;

struct Site {
    world: World,
    authority: Authority,
    origin: Origin,
}

fn policy(hostname: &str) -> BackendTls {
    BackendTls { hostname: hostname.into(), ca_bundles: vec!["cabundle/ca".into()], ..BackendTls::default() }
}

fn dns(value: &str) -> SubjectAltName {
    SubjectAltName { uri: false, value: value.into() }
}

fn uri(value: &str) -> SubjectAltName {
    SubjectAltName { uri: true, value: value.into() }
}

/// Answers with the server name that it was asked for.
fn names_the_name(peer: &mut Peer) {
    while peer.request().is_some() {
        let name = match peer.tls.as_deref() {
            Some(rustls::Connection::Server(tls)) => tls.server_name().unwrap_or("none").to_owned(),
            _ => "in the clear".to_owned(),
        };
        peer.send(ok(&name));
    }
}

impl Site {
    /// A backend whose certificate has these names.
    fn with(names: &[&str]) -> Site {
        let authority = Authority::new("authority");
        let origin = secure_origin(authority.sign(names).server(None), names_the_name);
        let world = World::start(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
        world.serve(&[(origin.address, 1)]);
        world.apply(vec![authority.bundle("ca")]);
        Site { world, authority, origin }
    }

    fn policy(&self, tls: BackendTls) {
        assert_eq!(self.world.apply(vec![with_policy("b0", Some(tls))]).rejected, []);
    }

    fn ask(&self) -> String {
        let response = self.world.client().get("/");
        if response.status == 200 { response.text().to_owned() } else { response.status.to_string() }
    }
}

fn with_policy(name: &str, tls: Option<BackendTls>) -> Resource {
    let backend = Backend {
        key: format!("backend/default/{name}/80"),
        namespace: "default".into(),
        service: name.into(),
        port: 80,
        tls,
        ..Backend::default()
    };
    Resource { body: Some(Body::Backend(backend)) }
}

#[test]
fn the_hostname_is_asked_for_and_verified() {
    let site = Site::with(&["a.example"]);
    site.policy(policy("a.example"));
    assert_eq!(site.ask(), "a.example");
    site.policy(policy("b.example"));
    assert_eq!(site.ask(), "502", "the certificate is for another name");
    assert_eq!(site.world.metric("weir_proxy_upstream_tls_handshakes_total"), 1);
    assert!(site.world.metric("weir_proxy_upstream_tls_handshake_failures_total") >= 1);
    site.world.expect_failures("upstream_handshake", 1);
}

#[test]
fn connections_are_kept_and_reused_within_one_identity_only() {
    let site = Site::with(&["a.example", "b.example"]);
    site.policy(policy("a.example"));
    let mut client = site.world.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "a.example");
    }
    assert_eq!(site.origin.connections(), 1);
    site.policy(policy("b.example"));
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "b.example");
    }
    assert_eq!(site.origin.connections(), 2);
    // The old identity is the same again, and so are its connections.
    site.policy(policy("a.example"));
    assert_eq!(client.get("/").text(), "a.example");
    assert_eq!(site.origin.connections(), 2);
    site.world.apply(vec![with_policy("b0", None)]);
    assert_ne!(client.get("/").status, 200, "a connection for TLS carries nothing in the clear");
}

#[test]
fn with_alternative_names_only_those_count() {
    let site = Site::with(&["other.example", "*.wild.example", "spiffe://a/b"]);
    for (names, expected) in [
        (vec![], "502"),
        (vec![dns("other.example")], "sni.example"),
        (vec![dns("sni.example")], "502"),
        (vec![uri("spiffe://a/b")], "sni.example"),
        (vec![uri("spiffe://a/b/c")], "502"),
        (vec![uri("spiffe://A/b"), dns("nobody.example"), dns("other.example")], "sni.example"),
        (vec![dns("x.wild.example")], "sni.example"),
        (vec![dns("*.wild.example")], "sni.example"),
        (vec![dns("*.example")], "sni.example"),
        (vec![dns("*.test")], "502"),
    ] {
        site.policy(BackendTls { subject_alt_names: names.clone(), ..policy("sni.example") });
        assert_eq!(site.ask(), expected, "{names:?}");
    }
}

#[test]
fn only_the_configured_authorities_are_believed() {
    let site = Site::with(&["a.example"]);
    let other = Authority::new("other");
    site.world.apply(vec![other.bundle("other")]);
    let with = |bundles: &[&str]| BackendTls {
        ca_bundles: bundles.iter().map(|name| format!("cabundle/{name}")).collect(),
        ..policy("a.example")
    };
    site.policy(with(&["other"]));
    assert_eq!(site.ask(), "502");
    site.policy(with(&["other", "ca"]));
    assert_eq!(site.ask(), "a.example");
    site.policy(BackendTls { system_authorities: true, ..with(&[]) });
    assert_ne!(site.ask(), "a.example", "the operating system does not know our authority");
}

#[test]
fn an_authority_that_has_expired_vouches_for_nobody() {
    let site = Site::with(&["a.example"]);
    let expired = Authority::until("expired", 2020);
    let origin = secure_origin(expired.sign(&["a.example"]).server(None), names_the_name);
    let mut resources = vec![expired.bundle("expired")];
    resources.push(endpoints("b0", &[origin.address]));
    site.world.apply(resources);
    let bundles = vec!["cabundle/expired".to_owned(), "cabundle/ca".to_owned()];
    site.policy(BackendTls { ca_bundles: bundles, ..policy("a.example") });
    assert_eq!(site.ask(), "502");
}

#[test]
fn a_certificate_that_is_its_own_authority_is_believed() {
    let site = Site::with(&["a.example"]);
    let pair = Pair::self_signed("a.example");
    let origin = secure_origin(pair.server(None), names_the_name);
    site.world.apply(vec![bundle("own", &pair.pem), endpoints("b0", &[origin.address])]);
    site.policy(BackendTls { ca_bundles: vec!["cabundle/own".into()], ..policy("a.example") });
    assert_eq!(site.ask(), "a.example");
}

#[test]
fn a_policy_that_cannot_be_met_answers_500_and_sends_nothing() {
    let site = Site::with(&["a.example"]);
    let count = 4;
    for broken in [
        BackendTls { invalid_reason: "NoValidCACertificate".into(), ..policy("a.example") },
        BackendTls { ca_bundles: vec!["cabundle/missing".into()], ..policy("a.example") },
        BackendTls { ca_bundles: Vec::new(), ..policy("a.example") },
        policy("not a name"),
    ] {
        site.policy(broken.clone());
        assert_eq!(site.ask(), "500", "{broken:?}");
    }
    assert_eq!(site.origin.connections(), 0);
    site.world.expect_failures("backend_policy", count);
    site.policy(policy("a.example"));
    assert_eq!(site.ask(), "a.example");
}

#[test]
fn an_authority_that_comes_late_heals_its_policy() {
    let site = Site::with(&["a.example"]);
    site.policy(BackendTls { ca_bundles: vec!["cabundle/late".into()], ..policy("a.example") });
    assert_eq!(site.ask(), "500");
    site.world.apply(vec![site.authority.bundle("late")]);
    assert_eq!(site.ask(), "a.example");
    site.world.update(Update { removals: vec!["cabundle/late".into()], ..Update::default() });
    assert_eq!(site.ask(), "500", "also on connections that were made before");
}

#[test]
fn the_gateways_certificate_is_shown_to_backends_that_ask() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let ours = clients.sign(&["gateway.example"]);
    let expected = ours.chain[0].clone();
    let origin = secure_origin(servers.sign(&["a.example"]).server(Some(&clients)), move |peer| {
        while peer.request().is_some() {
            let same = peer.peer_certificate() == expected;
            peer.send(ok(if same { "ours" } else { "another" }));
        }
    });
    let world = World::start(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
    world.serve(&[(origin.address, 1)]);
    world.apply(vec![
        servers.bundle("ca"),
        ours.resource("ours"),
        with_policy("b0", Some(policy("a.example"))),
    ]);
    assert_eq!(world.client().get("/").status, 502, "we show nothing yet");
    let mut listener = listener(world.address.ip(), world.address.port());
    if let Some(Body::Listener(Listener { backend_client_certificate, .. })) = &mut listener.body {
        *backend_client_certificate = "certificate/ours".into();
    }
    world.apply(vec![listener]);
    assert_eq!(world.client().get("/").text(), "ours");
}

#[test]
fn a_backend_that_does_not_speak_tls_gets_no_request() {
    let site = Site::with(&["a.example"]);
    let plain = Origin::start(|peer| {
        peer.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        while peer.request().is_some() {}
    });
    site.world.apply(vec![endpoints("b0", &[plain.address])]);
    site.policy(policy("a.example"));
    assert_eq!(site.ask(), "502");
    assert_eq!(plain.requests(), 0);
}

#[test]
fn a_backend_that_closes_idle_connections_costs_no_request() {
    let authority = Authority::new("authority");
    let origin = secure_origin(authority.sign(&["a.example"]).server(None), |peer| {
        peer.request();
        peer.send(ok("once"));
        peer.finish_sending();
    });
    let world = World::start(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
    world.serve(&[(origin.address, 1)]);
    world.apply(vec![authority.bundle("ca"), with_policy("b0", Some(policy("a.example")))]);
    let mut client = world.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "once");
    }
    assert_eq!(origin.connections(), 20);
}

#[test]
fn a_response_that_is_cut_short_is_not_taken_for_whole() {
    let authority = Authority::new("authority");
    // Until the end of the connection, which comes without close_notify.
    let origin = secure_origin(authority.sign(&["a.example"]).server(None), |peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf");
    });
    let world = World::start(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
    world.serve(&[(origin.address, 1)]);
    world.apply(vec![authority.bundle("ca"), with_policy("b0", Some(policy("a.example")))]);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.rest();
    world.expect_failures("response_cut_short", 1);
}

#[test]
fn https_to_a_backend_over_tls_carries_large_bodies_both_ways() {
    const BYTES: usize = 3_000_000;
    let authority = Authority::new("authority");
    let origin = secure_origin(authority.sign(&["a.example"]).server(None), |peer| {
        while let Some((_, body)) = peer.request() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
            peer.send(body);
        }
    });
    let world = World::bare(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
    world.apply(vec![
        authority.bundle("ca"),
        authority.sign(&["front.example"]).resource("c"),
        ListenerOf::https(world.address, "l", "", &["c"]).resource(),
        http_route("r", &["l"], "", "b"),
        with_policy("b", Some(policy("a.example"))),
        endpoints("b", &[origin.address]),
    ]);
    let body: Vec<u8> = (0..BYTES).map(|at| (at * 7 % 253) as u8).collect();
    let mut client = Peer::secure(world.address, "front.example", &authority.client());
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\n\r\n"));
    client.send(&body);
    assert!(client.response().body == body);
}

#[test]
fn streams_follow_the_policy_of_their_backend_too() {
    let authority = Authority::new("authority");
    let origin = secure_origin(authority.sign(&["a.example"]).server(None), |peer| {
        peer.send("secure\r\n");
        while peer.fill() {}
        peer.finish_sending();
    });
    let world = World::bare(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
    world.apply(vec![
        authority.bundle("ca"),
        ListenerOf::raw(world.address, "l", ListenerProtocol::Tcp).resource(),
        l4_route("tcproute", "r", &["l"], &[""], vec![to("b", 1)]),
        with_policy("b", Some(policy("a.example"))),
        endpoints("b", &[origin.address]),
    ]);
    assert_eq!(world.client().line(), "secure");
    world.apply(vec![with_policy("b", Some(BackendTls::default()))]);
    assert!(world.client().ends(), "never in the clear");
}

/// Every snapshot's requests, while the policy of their backend goes back and forth.
#[test]
fn no_request_fails_while_the_policy_of_its_backend_changes() {
    let site = Site::with(&["a.example", "b.example"]);
    site.policy(policy("a.example"));
    let world = &site.world;
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = world.client();
            while !stop.load(Relaxed) {
                let response = client.get("/");
                assert!(response.status == 200 && response.text().ends_with(".example"), "{response:?}");
                asked.fetch_add(1, Relaxed);
            }
        });
        for turn in 0..100 {
            let name = if turn % 2 == 0 { "b.example" } else { "a.example" };
            // The authority comes in the same update as the policy that names it, under a name of its own.
            let mut tls = policy(name);
            tls.ca_bundles = vec![format!("cabundle/ca{turn}")];
            let upserts = vec![with_policy("b0", Some(tls)), site.authority.bundle(&format!("ca{turn}"))];
            let before = asked.load(Relaxed);
            assert_eq!(world.apply(upserts).rejected, []);
            eventually("a request came after the change", || asked.load(Relaxed) > before + 1);
        }
        stop.store(true, Relaxed);
    });
}

/// A rotation takes the old authority away at once; a request that was given its backend before is not to fail for it.
#[test]
fn a_request_that_is_tried_again_after_a_rotation_goes_on_with_what_it_was_given() {
    let (rotated, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let authority = Authority::new("authority");
    let origin = secure_origin(authority.sign(&["a.example"]).server(None), move |peer| {
        while peer.request().is_some() {
            // The first connection is gone after its answer, so that another is needed.
            if peer.index == 0 {
                wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
                peer.send("HTTP/1.1 503 Later\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                return;
            }
            peer.send(ok("again"));
        }
    });
    let world = World::start(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
    let retry = Retry { codes: vec![503], attempts: 1, backoff_ms: 1 };
    let mut resources = vec![authority.bundle("ca"), with_policy("b0", Some(policy("a.example")))];
    resources.push(endpoints("b0", &[origin.address]));
    resources
        .push(world.route("r", HttpRule { backends: vec![to("b0", 1)], retry: Some(retry), ..rule("/") }));
    assert_eq!(world.apply(resources).rejected, []);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request is there", || origin.requests() == 1);
    let next = BackendTls { ca_bundles: vec!["cabundle/next".into()], ..policy("a.example") };
    let applied = world.update(Update {
        upserts: vec![authority.bundle("next"), with_policy("b0", Some(next))],
        removals: vec!["cabundle/ca".into()],
        ..Update::default()
    });
    assert_eq!(applied.rejected, []);
    world.apply(backend("other", &[]).to_vec());
    rotated.send(()).unwrap();
    let response = client.response();
    assert_eq!((response.status, response.text()), (200, "again"));
    assert_eq!(world.client().get("/").text(), "again");
    // What holds is what is there now: without an authority nobody is believed.
    world.update(Update { removals: vec!["cabundle/next".into()], ..Update::default() });
    assert_eq!(world.client().get("/").status, 500);
}

#[test]
fn a_request_that_waits_shows_the_gateways_certificate_of_now() {
    let (rotated, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let (before, now) = (clients.sign(&["before.example"]), clients.sign(&["now.example"]));
    let expected = now.chain[0].clone();
    let origin = secure_origin(servers.sign(&["a.example"]).server(Some(&clients)), move |peer| {
        while peer.request().is_some() {
            // The first connection is gone after its answer, so that another is needed.
            if peer.index == 0 {
                wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
                peer.send("HTTP/1.1 503 Later\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                return;
            }
            peer.send(ok(if peer.peer_certificate() == expected { "now" } else { "before" }));
        }
    });
    let world = World::start(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
    let with_certificate = |name: &str| {
        let mut listener = listener(world.address.ip(), world.address.port());
        if let Some(Body::Listener(Listener { backend_client_certificate, .. })) = &mut listener.body {
            *backend_client_certificate = format!("certificate/{name}");
        }
        listener
    };
    let retry = Retry { codes: vec![503], attempts: 1, backoff_ms: 1 };
    let mut resources = vec![servers.bundle("ca"), before.resource("before"), with_certificate("before")];
    resources.push(with_policy("b0", Some(policy("a.example"))));
    resources.push(endpoints("b0", &[origin.address]));
    resources
        .push(world.route("r", HttpRule { backends: vec![to("b0", 1)], retry: Some(retry), ..rule("/") }));
    assert_eq!(world.apply(resources).rejected, []);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request is there", || origin.requests() == 1);
    let applied = world.update(Update {
        upserts: vec![now.resource("now"), with_certificate("now")],
        removals: vec!["certificate/before".into()],
        ..Update::default()
    });
    assert_eq!(applied.rejected, []);
    world.apply(backend("other", &[]).to_vec());
    rotated.send(()).unwrap();
    let response = client.response();
    assert_eq!((response.status, response.text()), (200, "now"));
}

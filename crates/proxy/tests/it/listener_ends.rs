//! What becomes of connections in the clear when their listener goes: idle ones end at once, others in a bounded time.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_model::limits::Limits;
use weir_model::resource::{Body, Listener, Update};
use weir_proxy::ProxyConfig;

use crate::harness::*;
use crate::secure::*;

const TIME: Duration = Duration::from_millis(400);

fn config() -> ProxyConfig {
    let limits = Limits { listener_drain_timeout: TIME, ..Limits::default() };
    ProxyConfig { workers: Some(2), limits, ..ProxyConfig::default() }
}

/// Upgrades, then gives back what it gets; other requests are answered after a while.
fn origin() -> Origin {
    Origin::start(|peer| {
        while let Some(head) = peer.request_head() {
            if head.contains("/upgrade") {
                peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
                while peer.fill() {
                    let bytes = std::mem::take(&mut peer.buffer);
                    peer.send(bytes);
                }
                return;
            }
            peer.send(ok("done"));
        }
    })
}

const UPGRADE: &str =
    "GET /upgrade HTTP/1.1\r\nHost: example.com\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";

fn upgraded(world: &World) -> Peer {
    let mut client = world.client();
    client.send(UPGRADE);
    assert!(client.head().unwrap().starts_with("HTTP/1.1 101"));
    client
}

fn echoes(client: &mut Peer) {
    client.send("ping");
    assert_eq!(client.exactly(4), b"ping");
}

fn remove(world: &World) -> Instant {
    let removals = vec![listener_key(world.address.ip(), world.address.port())];
    world.update(Update { removals, ..Update::default() });
    Instant::now()
}

#[test]
fn idle_connections_end_at_once_and_requests_under_way_are_answered() {
    let (removal, wait) = signal();
    let origin = Origin::start(move |peer| {
        while let Some((head, _)) = peer.request() {
            if head.starts_with("GET /slow ") {
                wait();
            }
            peer.send(ok("done"));
        }
    });
    let world = World::with(&origin, config());
    let mut idle = world.client();
    assert_eq!(idle.get("/").text(), "done");
    let mut busy = world.client();
    busy.send("GET /slow HTTP/1.1\r\nHost: example.com\r\n\r\n");
    eventually("the request is under way", || origin.requests() == 2);
    let removed = remove(&world);
    assert!(idle.ends());
    assert!(removed.elapsed() < TIME);
    removal.send(()).unwrap();
    assert_eq!(busy.response().text(), "done");
    assert!(busy.ends());
}

#[test]
fn an_upgraded_stream_survives_other_changes_and_ends_in_time_with_its_listener() {
    let origin = origin();
    let world = World::with(&origin, config());
    let mut client = upgraded(&world);
    for n in 0..20 {
        world.apply(backend(&format!("other{n}"), &[]).to_vec());
    }
    world.update(Update {
        removals: vec!["httproute/default/r".into(), "backend/default/b0/80".into()],
        ..Update::default()
    });
    // For longer than it would live without its listener.
    let changed = Instant::now();
    while changed.elapsed() < TIME + TIME / 4 {
        echoes(&mut client);
    }
    let removed = remove(&world);
    echoes(&mut client);
    assert!(client.ends());
    assert!((TIME - Duration::from_millis(50)..Duration::from_secs(3)).contains(&removed.elapsed()));
}

#[test]
fn one_of_two_listeners_of_a_port_takes_only_its_streams_along() {
    let origin = origin();
    let world = World::with(&origin, config());
    let mut resource = listener(world.address.ip(), world.address.port());
    let Some(Body::Listener(Listener { key, hostname, .. })) = &mut resource.body else { unreachable!() };
    *key = "listener/default/gw/second".into();
    *hostname = "second.example".into();
    let mut routed =
        world.route("second", weir_model::resource::HttpRule { backends: vec![to("b0", 1)], ..rule("/") });
    let Some(Body::HttpRoute(route)) = &mut routed.body else { unreachable!() };
    route.attachments[0].listener_key = "listener/default/gw/second".into();
    route.attachments[0].hostnames = vec!["second.example".into()];
    assert_eq!(world.apply(vec![resource, routed]).rejected, []);
    let mut first = upgraded(&world);
    let mut second = world.client();
    second.send(UPGRADE.replace("example.com", "second.example"));
    assert!(second.head().unwrap().starts_with("HTTP/1.1 101"));
    let removals = vec!["listener/default/gw/second".into()];
    world.update(Update { removals, ..Update::default() });
    assert!(second.ends());
    echoes(&mut first);
}

#[test]
fn a_response_that_takes_longer_than_that_is_seen_to_be_cut_short() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nfirst");
        peer.rest();
    });
    let world = World::with(&origin, config());
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n");
    client.head().unwrap();
    let removed = remove(&world);
    assert_eq!(client.rest(), b"first");
    assert!((TIME - Duration::from_millis(50)..Duration::from_secs(3)).contains(&removed.elapsed()));
    world.expect_failures("listener_gone", 1);
}

/// The end of a handshake of TLS 1.3 and a first request may come in one piece, so that nothing is waited for before the stream.
#[test]
fn a_stream_whose_request_came_with_the_end_of_the_handshake_ends_with_its_listener() {
    let origin = origin();
    let world = World::bare(config());
    let authority = Authority::new("authority");
    let mut resources = vec![
        authority.sign(&["a.example"]).resource("c"),
        ListenerOf::https(world.address, "l", "a.example", &["c"]).resource(),
        http_route("r", &["l"], "a.example", "b"),
    ];
    resources.extend(backend("b", &[origin.address]));
    assert_eq!(world.apply(resources).rejected, []);
    let name = rustls::pki_types::ServerName::try_from("a.example").unwrap();
    let mut tls = rustls::ClientConnection::new(Arc::new(authority.client()), name).unwrap();
    let mut client = world.client();
    while tls.is_handshaking() {
        while tls.wants_write() {
            tls.write_tls(&mut client.stream).unwrap();
        }
        tls.read_tls(&mut client.stream).unwrap();
        tls.process_new_packets().unwrap();
    }
    tls.writer().write_all(UPGRADE.replace("example.com", "a.example").as_bytes()).unwrap();
    let mut piece = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut piece).unwrap();
    }
    client.stream.write_all(&piece).unwrap();
    client.tls = Some(Box::new(tls.into()));
    assert!(client.head().unwrap().starts_with("HTTP/1.1 101"));
    echoes(&mut client);
    world.update(Update { removals: vec![named_listener("l")], ..Update::default() });
    assert!(client.ends());
}

//! TCP listeners: connections by ticket, bytes both ways, ends that are passed on, and bounds.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use weir_model::limits::Limits;
use weir_model::resource::{ListenerProtocol, Update, WeightedBackend};
use weir_proxy::ProxyConfig;

use crate::harness::*;
use crate::secure::*;

fn start(limits: Limits, backends: Vec<WeightedBackend>, origins: &[(&str, &Origin)]) -> World {
    let world = World::bare(ProxyConfig { workers: Some(2), limits, ..ProxyConfig::default() });
    let mut resources = vec![
        ListenerOf::raw(world.address, "l", ListenerProtocol::Tcp).resource(),
        l4_route("tcproute", "r", &["l"], &[""], backends),
    ];
    for (name, origin) in origins {
        resources.extend(backend(name, &[origin.address]));
    }
    let applied = world.apply(resources);
    assert_eq!(applied.rejected, []);
    assert_eq!((applied.binds[0].error.as_str(), applied.binds[0].udp), ("", false));
    world
}

/// Says its name, then gives back what it gets until the end of it.
fn echo(name: &'static str) -> Origin {
    Origin::start(move |peer| {
        peer.send(format!("{name}\r\n"));
        while peer.fill() {
            let bytes = std::mem::take(&mut peer.buffer);
            peer.send(bytes);
        }
        peer.send("end");
        peer.finish_sending();
    })
}

#[test]
fn a_server_may_speak_first_and_an_end_is_passed_on_while_the_other_direction_goes_on() {
    let origin = echo("a");
    let world = start(Limits::default(), vec![to("a", 1)], &[("a", &origin)]);
    let mut client = world.client();
    assert_eq!(client.line(), "a");
    client.send("ping");
    assert_eq!(client.exactly(4), b"ping");
    client.finish_sending();
    assert_eq!(client.rest(), b"end");
    eventually("the stream is over", || world.metric("weir_proxy_streams_open") == 0);
    assert_eq!(world.metric("weir_proxy_requests_total{code=\"none\"}"), 0, "it was no request");
}

#[test]
fn connections_are_split_exactly_and_an_invalid_backends_share_is_closed() {
    let (a, b) = (echo("a"), echo("b"));
    let backends = vec![to("a", 7), to("b", 3), to("c", 0), invalid(2)];
    let world = start(Limits::default(), backends, &[("a", &a), ("b", &b), ("c", &b)]);
    let mut seen = BTreeMap::new();
    for _ in 0..120 {
        let mut client = world.client();
        let name = if client.fill() { client.line() } else { "closed".to_owned() };
        *seen.entry(name).or_insert(0) += 1;
    }
    assert_eq!(seen, BTreeMap::from([("a".into(), 70), ("b".into(), 30), ("closed".into(), 20)]));
    let report = &world.proxy.splits()[0];
    assert_eq!(report.backends.iter().map(|share| share.served).collect::<Vec<_>>(), [70, 30, 0, 20]);
}

#[test]
fn a_slow_reader_stops_the_other_side_and_not_the_proxy() {
    let origin = Origin::start(|peer| {
        let block = vec![7; 1024 * 1024];
        let mut sent = 0_usize;
        while sent < 200 && peer.stream.write_all(&block).is_ok() {
            sent += 1;
        }
    });
    let world = start(Limits::default(), vec![to("a", 1)], &[("a", &origin)]);
    let before = resident_bytes();
    let mut client = world.client();
    // Until nothing moves any more.
    let written = || world.metric("weir_proxy_socket_calls_total{call=\"write\"}");
    let mut last = 0;
    eventually("the proxy waits for the reader", || {
        std::thread::sleep(Duration::from_millis(100));
        std::mem::replace(&mut last, written()) == last
    });
    assert!(resident_bytes() < before + 32 * 1024 * 1024);
    let mut received = 0;
    while client.fill() {
        received += client.buffer.len();
        client.buffer.clear();
    }
    assert_eq!(received, 200 * 1024 * 1024);
}

#[test]
fn an_idle_stream_is_closed_in_its_time_and_a_busy_one_is_not() {
    let limits = Limits { stream_idle_timeout: Duration::from_millis(300), ..Limits::default() };
    let origin = echo("a");
    let world = start(limits, vec![to("a", 1)], &[("a", &origin)]);
    let mut client = world.client();
    client.line();
    let started = Instant::now();
    let mut idle_since = started;
    while started.elapsed() < Duration::from_millis(700) {
        idle_since = Instant::now();
        client.send("x");
        assert_eq!(client.exactly(1), b"x");
        std::thread::sleep(Duration::from_millis(50));
    }
    client.rest();
    assert!((Duration::from_millis(250)..Duration::from_secs(3)).contains(&idle_since.elapsed()));
    world.expect_failures("stream_idle", 1);
}

#[test]
fn an_endpoint_that_takes_no_connection_is_passed_over() {
    let origin = echo("a");
    let world = start(Limits::default(), vec![to("a", 1)], &[]);
    world.apply(backend("a", &[Origin::nobody(), origin.address]).to_vec());
    for _ in 0..6 {
        assert_eq!(world.client().line(), "a");
    }
    world.apply(backend("a", &[Origin::nobody()]).to_vec());
    assert!(world.client().ends());
    world.expect_failures("connect", 1);
}

#[test]
fn a_backend_without_endpoints_closes_its_share() {
    let world = start(Limits::default(), vec![to("a", 1)], &[]);
    world.apply(backend("a", &[]).to_vec());
    assert!(world.client().ends());
    world.expect_failures("no_endpoints", 1);
}

#[test]
fn a_reset_of_one_side_reaches_the_other() {
    let origin = Origin::start(|peer| {
        peer.exactly(4);
        socket2::SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let world = start(Limits::default(), vec![to("a", 1)], &[("a", &origin)]);
    let mut client = world.client();
    client.send("ping");
    let error = loop {
        match std::io::Read::read(&mut client.stream, &mut [0; 16]) {
            Ok(0) => panic!("an end that looks meant"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    world.expect_failures("upstream_closed", 1);
}

#[test]
fn streams_survive_changes_and_are_drained_when_their_listener_goes() {
    let limits = Limits { listener_drain_timeout: Duration::from_millis(400), ..Limits::default() };
    let (a, b) = (echo("a"), echo("b"));
    let world = start(limits, vec![to("a", 1)], &[("a", &a), ("b", &b)]);
    let mut client = world.client();
    assert_eq!(client.line(), "a");
    world.apply(vec![l4_route("tcproute", "r", &["l"], &[""], vec![to("b", 1)])]);
    assert_eq!(world.client().line(), "b");
    world.update(Update {
        removals: vec!["tcproute/default/r".into(), "backend/default/a/80".into()],
        ..Update::default()
    });
    client.send("ping");
    assert_eq!(client.exactly(4), b"ping");
    let removed = Instant::now();
    world.update(Update { removals: vec![named_listener("l")], ..Update::default() });
    assert!(std::net::TcpStream::connect(world.address).is_err(), "nobody new is let in");
    client.send("pong");
    assert_eq!(client.exactly(4), b"pong");
    client.rest();
    assert!((Duration::from_millis(350)..Duration::from_secs(3)).contains(&removed.elapsed()));
    world.expect_failures("listener_gone", 1);
}

#[test]
fn a_listener_that_comes_back_in_time_keeps_its_streams() {
    let limits = Limits { listener_drain_timeout: Duration::from_millis(400), ..Limits::default() };
    let a = echo("a");
    let world = start(limits, vec![to("a", 1)], &[("a", &a)]);
    let mut client = world.client();
    client.line();
    world.update(Update { removals: vec![named_listener("l")], ..Update::default() });
    world.apply(vec![ListenerOf::raw(world.address, "l", ListenerProtocol::Tcp).resource()]);
    let back = Instant::now();
    while back.elapsed() < Duration::from_millis(700) {
        client.send("x");
        assert_eq!(client.exactly(1), b"x");
        std::thread::sleep(Duration::from_millis(50));
    }
}

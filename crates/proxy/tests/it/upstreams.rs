//! Endpoints that fail, in every way that an endpoint can.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use weir_model::limits::Limits;
use weir_model::resource::HttpRule;
use weir_proxy::ProxyConfig;

use crate::harness::*;

fn config(limits: Limits) -> ProxyConfig {
    ProxyConfig { workers: Some(1), limits, ..ProxyConfig::default() }
}

/// An origin that answers once on each connection and closes it when the next request has come.
fn closes_on_the_second() -> Origin {
    Origin::start(|peer| {
        if let Some((_, body)) = peer.request() {
            peer.send(ok(std::str::from_utf8(&body).unwrap()));
        }
        peer.request_head();
    })
}

/// Connections of the proxy to this address that neither side has closed, by what the kernel says.
fn established_with(address: std::net::SocketAddr) -> usize {
    const ESTABLISHED: &str = "01";
    let std::net::SocketAddr::V4(v4) = address else { unreachable!("an IPv4 address") };
    let remote = format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let is_one = |line: &&str| {
        let mut words = line.split_whitespace().skip(2);
        words.next() == Some(&remote) && words.next() == Some(ESTABLISHED)
    };
    table.lines().filter(is_one).count()
}

#[test]
fn a_stale_connection_costs_an_idempotent_request_nothing() {
    let origin = closes_on_the_second();
    let world = World::to(&origin);
    let mut client = world.client();
    for n in 0..20 {
        assert_eq!(client.get("/").status, 200, "request {n}");
        let put = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n{}", "x".repeat(30_000));
        assert_eq!(client.exchange(&put).body.len(), 30_000, "a body that is kept is sent again");
    }
    let chunked = "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(client.exchange(chunked).text(), "abc");
    eventually("every request but the first was sent again", || {
        world.metric("weir_proxy_retries_total") == 40
    });
    let failures = world.proxy.metrics();
    assert!(
        failures.lines().filter(|l| l.starts_with("weir_proxy_failures_total")).all(|l| l.ends_with(" 0"))
    );
}

/// A read that fills its buffer to the last byte leaves open whether there is more; that is no reason to part with a connection.
#[test]
fn a_connection_whose_answers_fill_the_buffer_exactly_is_kept() {
    let origin = Origin::start(|peer| {
        let body = vec![7; 16 * 65_536];
        while peer.request().is_some() {
            // Apart, so that the reads of the body begin with it.
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n");
            peer.send(&body);
        }
    });
    let world = World::to(&origin);
    let mut client = world.client();
    for _ in 0..300 {
        assert_eq!(client.get("/").body.len(), 16 * 65_536);
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_stale_connection_that_is_known_to_be_closed_is_not_used() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send(ok("once"));
    });
    let world = World::to(&origin);
    let mut client = world.client();
    for _ in 0..10 {
        // Not idempotent, so a second try would be an error.
        let response = client.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(response.status, 200);
        // It tells the worker together with the next request, at the latest.
        eventually("the kernel knows of the close", || established_with(origin.address) == 0);
    }
    assert_eq!(world.metric("weir_proxy_retries_total"), 0);
}

#[test]
fn what_may_do_harm_twice_is_sent_once() {
    let origin = closes_on_the_second();
    let world = World::to(&origin);
    let mut client = world.client();
    assert_eq!(client.get("/").status, 200);
    let response = client.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(response.status, 502);
    assert_eq!(response.text(), r#"{"message":"An invalid response was received from the upstream server"}"#);
    assert_eq!(origin.heads().iter().filter(|head| head.starts_with("POST")).count(), 1);
    world.expect_failures("upstream_closed", 1);
}

#[test]
fn a_body_that_is_too_large_to_be_kept_is_sent_once() {
    let origin = Origin::start(|peer| {
        if peer.request().is_some() {
            peer.send(ok("first"));
        }
        peer.request_head();
        peer.exactly(300_000);
    });
    let world = World::to(&origin);
    let mut client = world.client();
    assert_eq!(client.get("/").status, 200);
    client
        .send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n{}", "x".repeat(300_000)));
    assert_eq!(client.response().status, 502);
    assert_eq!(origin.heads().iter().filter(|head| head.starts_with("PUT")).count(), 1);
}

#[test]
fn a_refused_connection_is_tried_at_the_next_endpoint_of_the_same_backend() {
    let good = Origin::named("good");
    let other = Origin::named("other");
    let world = World::start(config(Limits::default()));
    let mut resources = Vec::new();
    resources.extend(backend("a", &[Origin::nobody(), good.address]));
    resources.extend(backend("b", &[other.address]));
    let backends = vec![to("a", 1), to("b", 1)];
    resources.push(world.route("r", HttpRule { backends, ..rule("/") }));
    world.apply(resources);
    let mut client = world.client();
    for _ in 0..50 {
        assert_eq!(client.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").status, 200);
    }
    assert_eq!(
        (good.requests(), other.requests()),
        (25, 25),
        "a retry takes no ticket and stays in its backend"
    );
    assert!(world.metric("weir_proxy_upstream_connect_failures_total") >= 1);
    assert!(
        world.metric("weir_proxy_upstream_connect_failures_total") <= 3,
        "an endpoint that failed is passed over for a moment"
    );
}

#[test]
fn among_many_endpoints_that_refuse_the_one_that_does_not_is_found() {
    let good = Origin::named("good");
    let world = World::start(config(Limits::default()));
    // As a Deployment that was scaled up a moment ago: its pods are there, and listen soon.
    let mut endpoints: Vec<_> = (0..30).map(|_| Origin::nobody()).collect();
    endpoints.insert(17, good.address);
    let mut resources = Vec::from(backend("a", &endpoints));
    resources.push(world.route("r", HttpRule { backends: vec![to("a", 1)], ..rule("/") }));
    world.apply(resources);
    let mut client = world.client();
    for _ in 0..50 {
        assert_eq!(client.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").status, 200);
    }
    assert_eq!(good.requests(), 50);
    let failures = world.metric("weir_proxy_upstream_connect_failures_total");
    assert!(
        failures <= 60,
        "{failures}: each is asked once a second at most, whatever the number of requests"
    );
}

#[test]
fn a_backend_whose_endpoints_all_refuse_answers_502_for_its_share_only() {
    let good = Origin::named("good");
    let world = World::start(config(Limits::default()));
    world.serve(&[(Origin::nobody(), 1), (good.address, 1)]);
    let mut client = world.client();
    let mut statuses = [0; 2];
    for _ in 0..40 {
        match client.get("/").status {
            200 => statuses[0] += 1,
            502 => statuses[1] += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(statuses, [20, 20]);
    world.expect_failures("connect", 20);
}

#[test]
fn an_endpoint_that_never_accepts_is_a_504() {
    // A listener whose queue is full: connecting to it hangs.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&std::net::SocketAddr::new(own_address().into(), 0).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let fillers: Vec<_> = (0..4)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address.into());
            socket
        })
        .collect();
    let limits = Limits { upstream_connect_timeout: Duration::from_millis(200), ..Limits::default() };
    let world = World::start(config(limits));
    world.serve(&[(address, 1)]);
    let response = world.client().get("/");
    assert_eq!(
        (response.status, response.text()),
        (504, r#"{"message":"The upstream server is timing out"}"#)
    );
    world.expect_failures("connect_timeout", 1);
    drop(fillers);
}

#[test]
fn an_answer_that_is_not_http_is_a_502() {
    for answer in [
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let origin = Origin::always(answer);
        let world = World::to(&origin);
        let mut client = world.client();
        for _ in 0..2 {
            let response = client.get("/");
            assert_eq!(
                (response.status, response.field("connection")),
                (502, Some("keep-alive")),
                "{answer:?}"
            );
        }
        assert_eq!(origin.connections(), 2, "such a connection is not used again: {answer:?}");
        world.expect_failures("bad_response", 2);
    }
}

#[test]
fn an_endpoint_that_closes_without_an_answer_is_a_502() {
    let origin = Origin::start(|peer| {
        peer.request();
    });
    let world = World::to(&origin);
    let mut client = world.client();
    assert_eq!(client.get("/").status, 502);
    assert_eq!(client.get("/").status, 502);
    assert_eq!(origin.requests(), 2, "on a fresh connection nothing is sent twice");
    let half = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Le");
    });
    assert_eq!(World::to(&half).client().get("/").status, 502);
}

#[test]
fn a_response_that_is_cut_short_is_seen_to_be() {
    let cases = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this", "only this"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n", "9\r\nonly this\r\n"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n0\r\n",
            "9\r\nonly this\r\n0\r\n",
        ),
    ];
    for (answer, expected) in cases {
        let origin = Origin::start(move |peer| {
            peer.request();
            peer.send(answer);
        });
        let world = World::to(&origin);
        let mut client = world.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.head().unwrap();
        let rest = client.rest();
        assert_eq!(String::from_utf8_lossy(&rest), expected, "never a clean end");
        world.expect_failures("response_cut_short", 1);
    }
}

#[test]
fn a_malformed_body_is_cut_where_it_goes_wrong_or_answered_for_while_nothing_has_left() {
    let bad = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly thisXX";
    let origin = Origin::always(bad);
    let world = World::to(&origin);
    assert_eq!(world.client().get("/").status, 502);
    let (begun, wait) = signal();
    let origin = Origin::start(move |peer| {
        peer.request();
        peer.send(&bad[..bad.len() - 6]);
        wait();
        peer.send(&bad[bad.len() - 6..]);
        peer.rest();
    });
    let world = World::to(&origin);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.head().unwrap();
    let mut came = client.exactly(8);
    begun.send(()).unwrap();
    came.extend(client.rest());
    assert_eq!(came, b"9\r\nonly ", "nothing of the piece that is wrong");
    world.expect_failures("bad_response", 1);
}

/// An old client knows the end of a response by the close alone, so only a reset can tell it.
#[test]
fn an_old_client_gets_a_reset_for_a_response_that_is_cut_short() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    });
    let world = World::to(&origin);
    let mut client = world.client();
    client.send("GET / HTTP/1.0\r\n\r\n");
    let mut chunk = [0; 4096];
    let end = loop {
        match std::io::Read::read(&mut client.stream, &mut chunk) {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error.kind()),
        }
    };
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn a_backend_that_resets_a_response_without_length_ends_nothing_cleanly() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\n\r\npartial");
        socket2::SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let world = World::to(&origin);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    // The reset may overtake everything.
    if client.head().is_some() {
        let rest = client.rest();
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&rest));
    }
}

#[test]
fn bytes_behind_a_response_are_never_the_next_response() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong",
        "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nwrong",
        "HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong",
    ] {
        let origin = Origin::always(answer);
        let world = World::to(&origin);
        let mut client = world.client();
        for _ in 0..4 {
            assert_ne!(client.get("/").text(), "wrong", "{answer:?}");
        }
        assert_eq!(origin.connections(), 4, "{answer:?}");
    }
}

/// A HEAD's answer with a body after all: what follows must not poison the connection.
#[test]
fn a_body_in_the_answer_to_a_head_is_not_the_next_response() {
    let origin = Origin::always("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong");
    let world = World::to(&origin);
    let mut client = world.client();
    for _ in 0..3 {
        assert_eq!(client.exchange("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
    }
    assert_eq!(origin.connections(), 3);
}

#[test]
fn bytes_that_nobody_asked_for_spoil_a_kept_connection() {
    let (answered, spoiled) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (seen, done) = (answered.clone(), spoiled.clone());
    let origin = Origin::start(move |peer| {
        while peer.request().is_some() {
            peer.send(ok("right"));
            eventually("the client has the answer", || seen.load(SeqCst) > done.load(SeqCst));
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong");
            done.fetch_add(1, SeqCst);
        }
    });
    let world = World::to(&origin);
    let mut client = world.client();
    for n in 1..=4 {
        assert_eq!(client.get("/").text(), "right");
        answered.store(n, SeqCst);
        eventually("the bytes have been sent", || spoiled.load(SeqCst) == n);
    }
    assert_eq!(origin.connections(), 4);
}

#[test]
fn a_silent_backend_is_a_504_by_the_general_time() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.rest();
    });
    let limits = Limits { upstream_response_timeout: Duration::from_millis(150), ..Limits::default() };
    let world = World::with(&origin, config(limits));
    let mut client = world.client();
    let response = client.get("/");
    assert_eq!((response.status, response.field("connection")), (504, Some("keep-alive")));
    assert_eq!(response.text(), r#"{"message":"The upstream server is timing out"}"#);
    assert_eq!(client.get("/").status, 504, "the client's connection goes on");
    world.expect_failures("upstream_timeout", 2);
}

#[test]
fn the_rules_times_end_requests_with_a_504() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.rest();
    });
    let world = World::start(config(Limits::default()));
    let mut resources = backend("b", &[origin.address]).to_vec();
    let timed = |prefix: &str, request, backend_request| HttpRule {
        backends: vec![to("b", 1)],
        request_timeout_ms: request,
        backend_request_timeout_ms: backend_request,
        ..rule(prefix)
    };
    let rules = vec![timed("/request", 150, 0), timed("/backend", 0, 150), timed("/both", 5000, 150)];
    resources.push(route("r", &[(world.address.ip(), world.address.port())], rules));
    world.apply(resources);
    let mut client = world.client();
    for path in ["/request", "/backend", "/both"] {
        let started = Instant::now();
        assert_eq!(client.get(path).status, 504, "{path}");
        let took = started.elapsed();
        assert!((Duration::from_millis(140)..Duration::from_secs(3)).contains(&took), "{path}: {took:?}");
    }
    world.expect_failures("request_timeout", 1);
    world.expect_failures("backend_request_timeout", 2);
}

#[test]
fn a_rules_time_that_is_up_in_the_middle_of_a_response_cuts_it_short() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nstart");
        peer.rest();
    });
    let world = World::start(config(Limits::default()));
    let mut resources = backend("b", &[origin.address]).to_vec();
    let rule = HttpRule { backends: vec![to("b", 1)], request_timeout_ms: 150, ..rule("/") };
    resources.push(world.route("r", rule));
    world.apply(resources);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.head().unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(client.rest(), b"start");
    world.expect_failures("request_timeout", 1);
}

#[test]
fn a_backend_that_stops_in_the_middle_of_a_response_is_given_up() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nstart");
        peer.rest();
    });
    let limits = Limits { upstream_body_timeout: Duration::from_millis(150), ..Limits::default() };
    let world = World::with(&origin, config(limits));
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.head().unwrap();
    assert_eq!(client.rest(), b"start");
    world.expect_failures("upstream_timeout", 1);
}

#[test]
fn idle_connections_are_bounded_and_grow_old() {
    let origin = Origin::named("ok");
    let limits = Limits {
        upstream_idle_per_endpoint: 2,
        upstream_idle_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let world = World::with(&origin, config(limits));
    let mut clients: Vec<_> = (0..6).map(|_| world.client()).collect();
    let barrier: Vec<_> = clients.iter_mut().map(|client| client.get("/").status).collect();
    assert_eq!(barrier, [200; 6]);
    let before = origin.connections();
    assert!(before <= 6);
    eventually("idle connections are closed", || established_with(origin.address) == 0);
    assert_eq!(clients[0].get("/").status, 200);
    assert_eq!(origin.connections(), before + 1);
}

#[test]
fn endpoints_of_a_backend_share_its_requests() {
    let origins: Vec<_> = (0..4).map(|_| Origin::named("ok")).collect();
    let world = World::start(config(Limits::default()));
    let addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let mut resources = backend("b", &addresses).to_vec();
    resources.push(world.route("r", HttpRule { backends: vec![to("b", 1)], ..rule("/") }));
    world.apply(resources);
    let mut client = world.client();
    for _ in 0..100 {
        client.get("/");
    }
    let counts: Vec<_> = origins.iter().map(Origin::requests).collect();
    assert_eq!(counts, [25; 4], "in turn, at equal load");
}

#[test]
fn a_busy_endpoint_gets_less() {
    let slow = Origin::start(|peer| {
        while peer.request().is_some() {
            std::thread::sleep(Duration::from_millis(30));
            peer.send(ok("slow"));
        }
    });
    let quick = Origin::named("quick");
    let world = World::start(config(Limits::default()));
    let mut resources = backend("b", &[slow.address, quick.address]).to_vec();
    resources.push(world.route("r", HttpRule { backends: vec![to("b", 1)], ..rule("/") }));
    world.apply(resources);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = world.client();
                for _ in 0..25 {
                    assert_eq!(client.get("/").status, 200);
                }
            });
        }
    });
    assert_eq!(slow.requests() + quick.requests(), 200);
    assert!(quick.requests() > 2 * slow.requests(), "{} {}", quick.requests(), slow.requests());
}

#[test]
fn requests_wait_a_moment_for_a_backend_that_had_endpoints_just_now() {
    let origin = Origin::named("back");
    let world = World::to(&origin);
    assert_eq!(world.client().get("/").status, 200);
    world.apply(vec![endpoints("b0", &[])]);
    let world = &world;
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| world.client().get("/"))).collect();
        eventually("the requests are held", || world.metric("weir_proxy_held_total") == 4);
        let started = Instant::now();
        world.apply(vec![endpoints("b0", &[origin.address])]);
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap().text(), "back");
        }
        assert!(started.elapsed() < Duration::from_millis(500), "they are woken, not polled");
    });
}

#[test]
fn a_backend_without_endpoints_answers_503_at_once_or_after_its_hold() {
    let origin = Origin::named("gone");
    let limits = Limits {
        endpoint_hold: Duration::from_millis(200),
        waiting_requests_per_backend: 1,
        ..Limits::default()
    };
    let world = World::with(&origin, config(limits));
    // One that never had any.
    let mut resources = backend("never", &[]).to_vec();
    resources.push(world.route("n", HttpRule { backends: vec![to("never", 1)], ..rule("/never") }));
    world.apply(resources);
    let message = r#"{"message":"failure to get a peer from the ring-balancer"}"#;
    let started = Instant::now();
    let response = world.client().get("/never");
    assert_eq!((response.status, response.text()), (503, message));
    assert!(started.elapsed() < Duration::from_millis(150));
    world.apply(vec![endpoints("b0", &[])]);
    let world = &world;
    std::thread::scope(|scope| {
        let held = scope.spawn(|| world.client().get("/"));
        eventually("one request is held", || world.metric("weir_proxy_held_total") == 1);
        let response = world.client().get("/");
        assert_eq!(response.status, 503);
        world.expect_failures("too_many_held", 1);
        assert_eq!(held.join().unwrap().status, 503);
    });
    world.expect_failures("no_endpoints", 2);
}

#[test]
fn at_the_connection_limit_of_an_endpoint_requests_wait_for_each_other() {
    let origin = Origin::start(|peer| {
        while peer.request().is_some() {
            std::thread::sleep(Duration::from_millis(20));
            peer.send(ok("ok"));
        }
    });
    let limits =
        Limits { upstream_connections_per_endpoint: 2, waiting_requests_per_backend: 6, ..Limits::default() };
    let world = World::with(&origin, config(limits));
    let world = &world;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = world.client();
                for _ in 0..5 {
                    assert_eq!(client.get("/").status, 200);
                }
            });
        }
    });
    assert_eq!((origin.requests(), origin.connections()), (40, 2));
}

#[test]
fn a_request_that_waits_too_long_for_a_connection_gets_a_503() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.rest();
    });
    let limits = Limits {
        upstream_connections_per_endpoint: 1,
        upstream_connect_timeout: Duration::from_millis(150),
        ..Limits::default()
    };
    let world = World::with(&origin, config(limits));
    let mut first = world.client();
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the first is with the origin", || origin.requests() == 1);
    let response = world.client().get("/");
    assert_eq!(response.status, 503);
    assert_eq!(response.text(), r#"{"message":"The upstream server is currently unavailable"}"#);
    world.expect_failures("endpoints_busy", 1);
    drop(first);
}

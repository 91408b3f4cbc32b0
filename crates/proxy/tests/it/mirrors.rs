//! Mirrors: the sentences of `HTTPRequestMirrorFilter`, and what must not happen to the request itself.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use weir_model::limits::Limits;
use weir_model::resource::{Filter, FilterKind, HttpRule, RequestMirror};
use weir_proxy::ProxyConfig;

use crate::harness::{
    Origin, World, backend, eventually, fields, filter, in_its_own_process, ok, resident_bytes, rule, to,
};

fn mirror(name: &str, numerator: u32, denominator: u32) -> Filter {
    filter(FilterKind::RequestMirror(RequestMirror {
        backend_key: format!("backend/default/{name}/80"),
        numerator,
        denominator,
        split_identity: format!("{name} {numerator}/{denominator}"),
    }))
}

/// One route to `primary`, with mirrors of these names, endpoints and fractions.
fn world(primary: &Origin, mirrors: &[(&str, &[SocketAddr], (u32, u32))], limits: Limits) -> World {
    let world = World::start(ProxyConfig { workers: Some(1), limits, ..ProxyConfig::default() });
    let mut resources = backend("a", &[primary.address]).to_vec();
    let mut filters = Vec::new();
    for (name, addresses, (numerator, denominator)) in mirrors {
        resources.extend(backend(name, addresses));
        filters.push(mirror(name, *numerator, *denominator));
    }
    resources.push(world.route("r", HttpRule { backends: vec![to("a", 1)], filters, ..rule("/") }));
    assert_eq!(world.apply(resources).rejected, []);
    world
}

fn copies(world: &World) -> u64 {
    world.metric("weir_proxy_mirrors_total")
}

fn drops(world: &World) -> u64 {
    world.metric("weir_proxy_mirror_drops_total")
}

/// Takes connections and reads nothing of them.
fn stalled() -> Origin {
    Origin::start(|peer| {
        let _held = peer.stream.try_clone().unwrap();
        thread::park_timeout(Duration::from_secs(30));
    })
}

#[test]
fn each_request_is_copied_to_one_endpoint_of_the_mirror_and_its_answer_is_ignored() {
    let primary = Origin::named("primary");
    let failing = || Origin::always("HTTP/1.1 500 Mirror\r\nContent-Length: 6\r\nX-Mirror: 1\r\n\r\nmirror");
    let (m1, m2) = (failing(), failing());
    let world = world(&primary, &[("m", &[m1.address, m2.address], (1, 1))], Limits::default());
    let mut client = world.client();
    for n in 0..40 {
        let response = client.get(&format!("/p{n}?q={n}"));
        assert_eq!((response.status, response.text(), response.field("x-mirror")), (200, "primary", None));
        // One after another, so that a kept connection is there for the next.
        eventually("the copy is done", || copies(&world) == n + 1);
    }
    assert_eq!(m1.requests() + m2.requests(), 40);
    assert!(m1.requests() >= 8 && m2.requests() >= 8, "{} {}", m1.requests(), m2.requests());
    let mut seen: Vec<String> = [m1.heads(), m2.heads()].concat();
    seen.retain(|head| head.starts_with("GET /p7?q=7 HTTP/1.1\r\n"));
    assert_eq!(seen.len(), 1);
    assert_eq!(drops(&world), 0);
    assert!(m1.connections() + m2.connections() <= 4, "copies go over kept connections");
}

#[test]
fn the_copy_says_what_the_request_says() {
    let (primary, copied) = (Origin::named("primary"), Origin::named("m"));
    let world = world(&primary, &[("m", &[copied.address], (1, 1))], Limits::default());
    world.client().exchange("DELETE /x HTTP/1.1\r\nHost: some.example\r\nX-A: 1\r\nCookie: c=d\r\n\r\n");
    eventually("the copy is done", || copies(&world) == 1);
    assert_eq!(copied.last_head(), primary.last_head());
}

#[test]
fn several_mirrors_are_independent_of_each_other() {
    let (primary, m1, m2) = (Origin::named("primary"), Origin::named("m1"), Origin::named("m2"));
    let all = (1, 1);
    let mirrors: [(&str, &[SocketAddr], (u32, u32)); 3] =
        [("m1", &[m1.address], all), ("dead", &[Origin::nobody()], all), ("m2", &[m2.address], all)];
    let world = world(&primary, &mirrors, Limits::default());
    let mut client = world.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "primary");
    }
    eventually("both living mirrors have all copies", || m1.requests() == 10 && m2.requests() == 10);
    eventually("the copies to the dead one are counted", || drops(&world) == 10);
}

#[test]
fn a_percentage_or_fraction_of_requests_is_copied_exactly() {
    let (primary, m1, m2, m3) =
        (Origin::named("primary"), Origin::named("m1"), Origin::named("m2"), Origin::named("m3"));
    let mirrors: [(&str, &[SocketAddr], (u32, u32)); 4] = [
        ("m1", &[m1.address], (20, 100)),
        ("m2", &[m2.address], (25, 50)),
        ("m3", &[m3.address], (35, 100)),
        ("none", &[m3.address], (0, 100)),
    ];
    let world = world(&primary, &mirrors, Limits::default());
    let mut clients = [world.client(), world.client()];
    for n in 0..500 {
        assert_eq!(clients[n % 2].get("/").status, 200);
    }
    eventually("every copy is done", || copies(&world) == 100 + 250 + 175);
    assert_eq!((m1.requests(), m2.requests(), m3.requests()), (100, 250, 175));
    assert_eq!(world.proxy.splits()[0].tickets, 500, "the rule's own sequence is another one");
}

/// Answers with the body that it got.
fn echo() -> Origin {
    Origin::start(|peer| {
        while let Some((_, body)) = peer.request() {
            peer.send(ok(std::str::from_utf8(&body).unwrap()));
        }
    })
}

#[test]
fn the_body_is_copied_whole_as_it_passes() {
    let (primary, bodies) = (echo(), std::sync::Arc::new(std::sync::Mutex::new(Vec::new())));
    let seen = bodies.clone();
    let copied = Origin::start(move |peer| {
        while let Some((_, body)) = peer.request() {
            seen.lock().unwrap().push(body);
            peer.send(ok(""));
        }
    });
    let world = world(&primary, &[("m", &[copied.address], (1, 1))], Limits::default());
    let mut client = world.client();
    let large: String = (0..60_000).map(|n| format!("{n:06}")).collect();
    let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", large.len());
    client.send(head);
    // In pieces, as a network brings it.
    for piece in large.as_bytes().chunks(10_000) {
        client.send(piece);
    }
    assert_eq!(client.response().text(), large);
    eventually("the first copy is done", || copies(&world) == 1);
    let chunked = "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n";
    assert_eq!(client.exchange(chunked).text(), "abcdefg");
    eventually("both copies are done", || copies(&world) == 2);
    let bodies = bodies.lock().unwrap();
    assert!(bodies[0] == large.as_bytes() && bodies[1] == b"abcdefg");
    assert_eq!(fields(&copied.last_head(), "transfer-encoding"), ["chunked"]);
}

#[test]
fn a_mirror_that_reads_nothing_never_delays_the_request_and_is_given_up() {
    let (primary, mirror) = (echo(), stalled());
    let limits = Limits { mirror_body_bytes: 256 * 1024, ..Limits::default() };
    let world = world(&primary, &[("m", &[mirror.address], (1, 1))], limits);
    // More than the kernel holds for a peer that reads nothing.
    let body = "x".repeat(24 << 20);
    let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut client = world.client();
    let began = Instant::now();
    let sender = {
        let mut sending = crate::harness::Peer::new(client.stream.try_clone().unwrap());
        thread::spawn(move || {
            sending.send(head);
            sending.send(body);
        })
    };
    let response = client.response();
    sender.join().unwrap();
    assert_eq!((response.status, response.body.len()), (200, 24 << 20));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    eventually("the copy was given up", || drops(&world) == 1);
    assert_eq!(copies(&world), 0);
    // Nor does one whose mirror never answers.
    for _ in 0..5 {
        assert_eq!(client.get("/").status, 200);
    }
}

#[test]
fn copies_under_way_are_bounded_in_number_and_time() {
    let (primary, mirror) = (Origin::named("primary"), stalled());
    let limits =
        Limits { mirrors_at_once: 3, mirror_timeout: Duration::from_millis(500), ..Limits::default() };
    let world = world(&primary, &[("m", &[mirror.address], (1, 1))], limits);
    let mut client = world.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(drops(&world), 7);
    eventually("the others ended with their time", || drops(&world) == 10);
    assert_eq!(client.get("/").status, 200);
    eventually("there is room again", || mirror.connections() == 4);
}

#[test]
fn a_mirror_without_a_backend_leaves_the_request_alone() {
    let primary = Origin::named("primary");
    let world = World::start(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
    let mut resources = backend("a", &[primary.address]).to_vec();
    let filters = vec![mirror("gone", 1, 1)];
    resources.push(world.route("r", HttpRule { backends: vec![to("a", 1)], filters, ..rule("/") }));
    assert_eq!(world.apply(resources).rejected, []);
    assert_eq!(world.client().get("/").text(), "primary");
    assert_eq!(copies(&world) + drops(&world), 0);
}

#[test]
fn a_copy_survives_a_connection_that_the_mirror_has_closed_meanwhile() {
    let primary = Origin::named("primary");
    // Answers once on each connection, and closes it with the next request.
    let copied = Origin::start(|peer| {
        peer.request();
        peer.send(ok(""));
        peer.request_head();
    });
    let world = world(&primary, &[("m", &[copied.address], (1, 1))], Limits::default());
    let mut client = world.client();
    for n in 1..=10 {
        assert_eq!(client.get("/").status, 200);
        eventually("the copy is done", || copies(&world) == n);
    }
    assert_eq!(drops(&world), 0);
}

#[test]
fn a_request_whose_body_breaks_off_leaves_no_copy_that_looks_whole() {
    let (primary, whole) = (echo(), std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let count = whole.clone();
    let copied = Origin::start(move |peer| {
        let Some(_) = peer.request_head() else { return };
        while peer.fill() {}
        count.store(peer.buffer.len(), std::sync::atomic::Ordering::Relaxed);
    });
    let world = world(&primary, &[("m", &[copied.address], (1, 1))], Limits::default());
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n0123456789");
    eventually("the copy has begun", || copied.requests() == 1);
    drop(client);
    eventually("the copy was given up", || drops(&world) == 1);
    eventually("its connection is closed", || whole.load(std::sync::atomic::Ordering::Relaxed) <= 10);
}

#[test]
fn mirrors_that_read_nothing_hold_a_bounded_memory_together() {
    in_its_own_process("mirrors::process_with_stalled_mirrors");
}

#[test]
#[ignore = "run by mirrors_that_read_nothing_hold_a_bounded_memory_together"]
fn process_with_stalled_mirrors() {
    // Takes the body and says how long it was, so that only the proxy's memory grows.
    let primary = Origin::start(|peer| {
        while let Some(head) = peer.request_head() {
            let mut left: usize = fields(&head, "content-length")[0].parse().unwrap();
            while left > 0 {
                if peer.buffer.is_empty() && !peer.fill() {
                    return;
                }
                let taken = peer.buffer.len().min(left);
                peer.buffer.drain(..taken);
                left -= taken;
            }
            peer.send(ok("taken"));
        }
    });
    let mirror = stalled();
    let limits = Limits {
        mirror_body_bytes: 4 << 20,
        mirror_bytes: 16 << 20,
        mirror_timeout: Duration::from_secs(60),
        ..Limits::default()
    };
    let world = world(&primary, &[("m", &[mirror.address], (1, 1))], limits);
    let length = 13 << 20;
    let piece = vec![b'x'; 1 << 20];
    let mut client = world.client();
    let mut upload = || {
        client.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"));
        for _ in 0..length >> 20 {
            client.send(&piece);
        }
        assert_eq!(client.response().text(), "taken");
    };
    upload();
    let before = resident_bytes();
    for _ in 0..40 {
        upload();
    }
    let grown = resident_bytes().saturating_sub(before);
    // What waits for the mirrors, twice for what allocators keep, and the kernel holds the rest.
    assert!(grown < 48 << 20, "{} MiB for 520 MiB of copies", grown >> 20);
}

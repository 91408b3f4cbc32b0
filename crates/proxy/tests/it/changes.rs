//! Live change: sockets, snapshots, and nothing that fails because of them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use weir_model::limits::Limits;
use weir_model::resource::{HttpRule, Update};
use weir_proxy::{Proxy, ProxyConfig};

use crate::harness::*;

fn config(workers: usize) -> ProxyConfig {
    ProxyConfig { workers: Some(workers), ..ProxyConfig::default() }
}

#[test]
fn no_request_fails_while_routes_change_under_load() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let world = World::start(config(2));
    world.serve(&[(a.address, 1)]);
    let done = AtomicBool::new(false);
    let requests = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|n| {
                let (world, done) = (&world, &done);
                scope.spawn(move || {
                    let mut count = 0;
                    let mut client = world.client();
                    while !done.load(Ordering::Relaxed) {
                        // Kept connections and new ones.
                        if n % 2 == 1 && count % 10 == 0 {
                            client = world.client();
                        }
                        assert_eq!(client.get("/").status, 200);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for n in 0..1000u32 {
            let address = if n % 2 == 0 { b.address } else { a.address };
            match n % 4 {
                0 | 1 => world.serve(&[(address, 1)]),
                2 => world.serve(&[(a.address, n), (b.address, 1)]),
                _ => {
                    let other = HttpRule { backends: vec![to("b0", 1)], ..rule(&format!("/other/{n}")) };
                    world.apply(vec![world.route("other", other)]);
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).sum::<u64>()
    });
    assert_eq!(a.requests() + b.requests(), requests);
    assert!(requests > 100, "{requests}");
}

#[test]
fn an_applied_change_is_what_the_next_request_sees() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let world = World::start(config(2));
    let mut clients: Vec<_> = (0..6).map(|_| world.client()).collect();
    for n in 0..100 {
        let (origin, name) = if n % 2 == 0 { (&a, "a") } else { (&b, "b") };
        world.serve(&[(origin.address, 1)]);
        for client in &mut clients {
            assert_eq!(client.get("/").text(), name, "on every worker as soon as apply has answered");
        }
    }
}

#[test]
fn requests_under_way_keep_the_rule_that_they_were_given() {
    let (changed, wait) = signal();
    let origin = Origin::start(move |peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
        wait();
        peer.send("final");
    });
    let world = World::to(&origin);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.head().unwrap();
    world.update(Update {
        full: true,
        upserts: vec![listener(world.address.ip(), PORT)],
        ..Update::default()
    });
    changed.send(()).unwrap();
    assert_eq!(client.exactly(10), b"firstfinal");
    assert_eq!(client.get("/").status, 404);
}

#[test]
fn a_port_that_somebody_has_is_named_and_heals_by_itself() {
    let address = SocketAddr::new(own_address().into(), PORT);
    let somebody = TcpListener::bind(address).unwrap();
    let origin = Origin::named("ok");
    let proxy = Proxy::start(config(1)).unwrap();
    let mut upserts = backend("b", &[origin.address]).to_vec();
    upserts.push(listener(address.ip(), PORT));
    let rule = HttpRule { backends: vec![to("b", 1)], ..rule("/") };
    upserts.push(route("r", &[(address.ip(), PORT)], vec![rule]));
    let applied = block_on(proxy.apply(Update { sequence: 7, upserts, ..Update::default() }));
    let report = &applied.binds[0];
    assert_eq!((report.bound_port, applied.sequence), (0, 7));
    assert!(
        report.error.contains(&address.to_string()) && report.error.contains("in use"),
        "{}",
        report.error
    );
    drop(somebody);
    let mut reports = proxy.binds();
    let healed = async {
        reports.wait_for(|reports| reports.iter().all(|report| report.error.is_empty())).await.unwrap();
    };
    block_on(async { tokio::time::timeout(PATIENCE, healed).await })
        .expect("the bind heals without an update");
    assert_eq!(proxy.binds().borrow()[0].bound_port, u32::from(PORT));
    assert_eq!(Peer::connect(address).get("/").text(), "ok");
}

#[test]
fn a_failed_bind_is_tried_again_with_each_update() {
    let address = SocketAddr::new(own_address().into(), PORT);
    let somebody = TcpListener::bind(address).unwrap();
    let proxy = Proxy::start(config(1)).unwrap();
    let update = || Update { upserts: vec![listener(address.ip(), PORT)], ..Update::default() };
    assert_ne!(block_on(proxy.apply(update())).binds[0].error, "");
    drop(somebody);
    assert_eq!(block_on(proxy.apply(update())).binds[0].error, "");
}

#[test]
fn sockets_follow_listeners_and_stay_where_they_are_wanted() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    let mut kept = world.client();
    kept.get("/");
    let second = SocketAddr::new(own_address().into(), PORT);
    let applied = world.apply(vec![listener(second.ip(), PORT)]);
    assert_eq!(applied.binds.len(), 2);
    assert_eq!(Peer::connect(second).get("/").status, 404, "bound, and without a route");
    assert_eq!(kept.get("/").status, 200, "on a connection through the first socket");
    let removals = vec![listener_key(second.ip(), PORT)];
    let applied = world.update(Update { removals, ..Update::default() });
    assert_eq!(applied.binds.len(), 1);
    assert!(std::net::TcpStream::connect(second).is_err(), "nobody listens when apply has answered");
    assert_eq!(kept.get("/").status, 200);
    TcpListener::bind(second).expect("the port is free");
}

#[test]
fn a_socket_may_change_its_address_to_one_that_overlaps() {
    let ip: IpAddr = own_address().into();
    let proxy = Proxy::start(config(1)).unwrap();
    let port = 20_000 + (std::process::id() % 3_000) as u16;
    let any = IpAddr::from([0, 0, 0, 0]);
    let full = |resource| Update { full: true, upserts: vec![resource], ..Update::default() };
    assert_eq!(block_on(proxy.apply(full(listener(any, port)))).binds[0].error, "");
    let applied = block_on(proxy.apply(full(listener(ip, port))));
    assert_eq!((applied.binds.len(), applied.binds[0].error.as_str()), (1, ""));
    let response = Peer::connect(SocketAddr::new(ip, port)).get("/");
    assert_eq!(response.status, 404);
}

#[test]
fn ipv6_is_served_like_ipv4() {
    let port = 23_000 + (std::process::id() % 3_000) as u16;
    let address = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port);
    let origin = Origin::on(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0), |peer| {
        while peer.request().is_some() {
            peer.send(ok("six"));
        }
    });
    let world = World::at(address, config(1));
    world.serve(&[(origin.address, 1)]);
    let response = world.client().exchange(&format!("GET / HTTP/1.1\r\nHost: [::1]:{port}\r\n\r\n"));
    assert_eq!(response.text(), "six");
    let head = origin.last_head();
    assert_eq!(fields(&head, "x-forwarded-for"), ["::1"]);
    assert_eq!(fields(&head, "host"), [format!("[::1]:{port}")]);
}

#[test]
fn an_unspecified_ipv6_socket_serves_ipv4_clients_under_their_ipv4_name() {
    let port = 26_000 + (std::process::id() % 3_000) as u16;
    let origin = Origin::named("both");
    let world = World::at(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), config(1));
    world.serve(&[(origin.address, 1)]);
    for ip in [IpAddr::from([127, 0, 0, 1]), Ipv6Addr::LOCALHOST.into()] {
        assert_eq!(Peer::connect(SocketAddr::new(ip, port)).get("/").text(), "both");
        assert_eq!(fields(&origin.last_head(), "x-forwarded-for"), [ip.to_string()]);
    }
}

#[test]
fn a_resource_that_cannot_be_compiled_hurts_only_itself() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    let mut bad = rule("/bad");
    bad.matches[0].path = "(".into();
    bad.matches[0].path_kind = 2;
    let applied = world.apply(vec![world.route("bad", bad)]);
    assert_eq!(applied.rejected.len(), 1);
    assert_eq!(applied.rejected[0].key, "httproute/default/bad");
    assert_eq!(world.client().get("/").text(), "ok");
    assert_eq!(world.metric("weir_proxy_rejected_resources_total"), 1);
}

#[test]
fn draining_answers_what_is_under_way_and_closes_the_rest() {
    let (closed, wait) = signal();
    let origin = Origin::start(move |peer| {
        while let Some((head, _)) = peer.request() {
            if head.starts_with("GET /slow") {
                wait();
            }
            peer.send(ok("done"));
        }
    });
    let limits = Limits { drain_delay: Duration::from_millis(200), ..Limits::default() };
    let world = World::with(&origin, ProxyConfig { limits, ..config(2) });
    let mut idle = world.client();
    assert_eq!(idle.get("/").field("connection"), Some("keep-alive"));
    let mut busy = world.client();
    let proxy = world.proxy.clone();
    let draining = std::thread::spawn(move || {
        let started = Instant::now();
        block_on(proxy.drain(Duration::from_secs(5)));
        started.elapsed()
    });
    // In the first phase connections are accepted still, and each answer says that it is the last.
    eventually("answers say that they are the last", || {
        let response = world.client().get("/");
        response.status == 200 && response.field("connection") == Some("close")
    });
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the socket is closed", || std::net::TcpStream::connect(world.address).is_err());
    assert!(idle.ends(), "an idle connection is closed");
    closed.send(()).unwrap();
    let response = busy.response();
    assert_eq!((response.text(), response.field("connection")), ("done", Some("close")));
    let took = draining.join().unwrap();
    assert!((Duration::from_millis(190)..Duration::from_secs(3)).contains(&took), "{took:?}");
}

#[test]
fn draining_does_not_wait_beyond_its_deadline() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.rest();
    });
    let limits = Limits { drain_delay: Duration::ZERO, ..Limits::default() };
    let world = World::with(&origin, ProxyConfig { limits, ..config(1) });
    let mut stuck = world.client();
    stuck.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request is under way", || origin.requests() == 1);
    let started = Instant::now();
    block_on(world.proxy.drain(Duration::from_millis(200)));
    assert!((Duration::from_millis(190)..Duration::from_secs(3)).contains(&started.elapsed()));
}

#[test]
fn dropping_the_last_handle_closes_everything() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    let mut client = world.client();
    client.get("/");
    let address = world.address;
    drop(world);
    assert!(client.ends());
    eventually("the socket is closed", || std::net::TcpStream::connect(address).is_err());
}

#[test]
fn open_streams_keep_no_snapshot() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
        peer.rest();
    });
    let world = World::to(&origin);
    let address = weir_model::table::BindAddress::tcp(world.address.ip(), PORT);
    let mut streams = Vec::new();
    let mut tables = Vec::new();
    for n in 0..100 {
        let mut client = world.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.head().unwrap();
        streams.push(client);
        tables.push(std::sync::Arc::downgrade(world.proxy.snapshot().bind(&address).unwrap()));
        let other = HttpRule { backends: vec![to("b0", 1)], ..rule(&format!("/other/{n}")) };
        world.apply(vec![world.route("other", other)]);
    }
    assert_eq!(tables.iter().filter(|table| table.upgrade().is_some()).count(), 0);
    assert_eq!(streams.len(), 100);
}

/// Runs `setpriv`, where it is there, because the test itself may be allowed to bind any port.
#[test]
fn without_the_right_to_a_low_port_the_next_free_one_stands_in() {
    let probe = std::process::Command::new("setpriv").args(UNPRIVILEGED).arg("true").output();
    if !probe.is_ok_and(|output| output.status.success()) {
        left_out("low ports without rights", "setpriv (util-linux) is not there or may not change the user");
        return;
    }
    // The child may not be allowed to read where this binary is.
    let place = tempfile::tempdir().unwrap();
    let binary = place.path().join("it");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    for path in [place.path(), &binary] {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, permissions).unwrap();
    }
    let output = std::process::Command::new("setpriv")
        .args(UNPRIVILEGED)
        .arg(&binary)
        .args(["--exact", "changes::unprivileged_process", "--ignored", "--nocapture"])
        .env("WEIR_TEST_ADDRESS", own_address().to_string())
        .current_dir("/")
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    if text.contains(ANYBODY_MAY) {
        left_out("low ports without rights", ANYBODY_MAY);
    }
}

const ANYBODY_MAY: &str = "this kernel lets everybody bind low ports";

const UNPRIVILEGED: [&str; 5] =
    ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"];

#[test]
#[ignore = "run by without_the_right_to_a_low_port_the_next_free_one_stands_in"]
fn unprivileged_process() {
    let Ok(ip) = std::env::var("WEIR_TEST_ADDRESS") else { return };
    let ip: IpAddr = ip.parse().unwrap();
    if TcpListener::bind(SocketAddr::new(ip, 80)).is_ok() {
        // The parent passes it on.
        println!("{ANYBODY_MAY}");
        return;
    }
    let _taken = TcpListener::bind(SocketAddr::new(ip, 8080)).unwrap();
    let update = || Update { upserts: vec![listener(ip, 80), listener(ip, 443)], ..Update::default() };
    let strict = Proxy::start(config(1)).unwrap();
    let refused = block_on(strict.apply(update()));
    assert!(refused.binds[0].error.contains("ermission denied"), "{refused:?}");
    let proxy = Proxy::start(ProxyConfig { low_port_fallback: true, ..config(1) }).unwrap();
    let applied = block_on(proxy.apply(update()));
    let ports: Vec<_> = applied.binds.iter().map(|bind| (bind.port, bind.bound_port)).collect();
    assert_eq!(ports, [(80, 18080), (443, 8443)]);
    assert_eq!(Peer::connect(SocketAddr::new(ip, 18080)).get("/").status, 404);
}

/// What is under way at the end may need what comes later: an endpoint that takes the place of one that went.
#[test]
fn updates_are_applied_while_requests_end() {
    let origin = Origin::named("done");
    let limits = Limits { drain_delay: Duration::ZERO, endpoint_hold: PATIENCE, ..Limits::default() };
    let world = World::with(&origin, ProxyConfig { limits, ..config(1) });
    assert_eq!(world.client().get("/").status, 200);
    world.apply(vec![endpoints("b0", &[])]);
    let mut waiting = world.client();
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request waits", || world.metric("weir_proxy_held_total") == 1);
    // Two wait for the same end.
    let draining: Vec<_> = (0..2)
        .map(|_| {
            let proxy = world.proxy.clone();
            std::thread::spawn(move || block_on(proxy.drain(PATIENCE)))
        })
        .collect();
    eventually("the socket is closed", || std::net::TcpStream::connect(world.address).is_err());
    assert_eq!(world.apply(vec![endpoints("b0", &[origin.address])]).rejected, []);
    assert_eq!(waiting.response().text(), "done");
    for drained in draining {
        drained.join().unwrap();
    }
}

#[test]
fn updates_are_applied_while_connections_are_accepted_for_the_last_time() {
    let (old, new) = (Origin::named("old"), Origin::named("new"));
    let limits = Limits { drain_delay: PATIENCE, ..Limits::default() };
    let world = World::with(&old, ProxyConfig { limits, ..config(1) });
    let proxy = world.proxy.clone();
    let draining = std::thread::spawn(move || block_on(proxy.drain(PATIENCE)));
    eventually("answers say that they are the last", || {
        world.client().get("/").field("connection") == Some("close")
    });
    world.serve(&[(new.address, 1)]);
    assert_eq!(world.client().get("/").text(), "new");
    assert!(!draining.is_finished(), "it was not after the end");
}

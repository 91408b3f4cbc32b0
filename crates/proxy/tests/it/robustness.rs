//! Load, floods and accidents.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use weir_model::limits::Limits;
use weir_proxy::{AccessEntry, AccessLog, AccessSink, ProxyConfig};

use crate::harness::*;

fn config(limits: Limits) -> ProxyConfig {
    ProxyConfig { workers: Some(1), limits, ..ProxyConfig::default() }
}

#[test]
fn thousands_of_idle_connections_cost_little_and_serve_when_asked() {
    in_its_own_process("robustness::process_with_idle_connections");
}

/// Bare sockets: the memory that is looked at is the proxy's.
#[test]
#[ignore = "run by thousands_of_idle_connections_cost_little_and_serve_when_asked"]
fn process_with_idle_connections() {
    let origin = Origin::named("ok");
    let world = World::with(&origin, ProxyConfig { workers: Some(2), ..ProxyConfig::default() });
    // Both ends are in this process, so the usual limit of files decides how many.
    let count = (open_files_limit().saturating_sub(400) / 2).min(5000);
    assert!(count >= 200, "the limit of open files is too low for this test");
    let before = resident_bytes();
    let mut idle: Vec<_> = (0..count).map(|_| std::net::TcpStream::connect(world.address).unwrap()).collect();
    // Every tenth has asked once and stays.
    for stream in idle.iter_mut().step_by(10) {
        std::io::Write::write_all(stream, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut chunk = [0; 1024];
        assert!(std::io::Read::read(stream, &mut chunk).unwrap() > 0);
    }
    eventually("all are accepted", || world.metric("weir_proxy_connections_total") >= count as u64);
    let each = resident_bytes().saturating_sub(before) / count;
    assert!(each < 8 * 1024, "{each} bytes for each of {count} idle connections");
    let started = Instant::now();
    assert_eq!(world.client().get("/").status, 200);
    assert!(started.elapsed() < Duration::from_secs(1));
    let open = |worker: &str| world.metric(&format!("weir_proxy_connections_open{{worker=\"{worker}\"}}"));
    assert!(open("0").abs_diff(open("1")) <= 2, "spread evenly: {} {}", open("0"), open("1"));
}

fn open_files_limit() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[test]
fn at_the_connection_limit_idle_connections_make_room() {
    let origin = Origin::named("ok");
    let limits =
        Limits { client_connections: 4, accept_pause: Duration::from_millis(20), ..Limits::default() };
    let world = World::with(&origin, config(limits));
    let mut first: Vec<_> = (0..4).map(|_| world.client()).collect();
    for client in &mut first {
        client.get("/");
    }
    for _ in 0..8 {
        assert_eq!(world.client().get("/").status, 200, "the longest idle one was closed instead");
    }
    assert!(world.metric("weir_proxy_idle_closed_total") >= 1);
    assert!(first[0].ends());
}

#[test]
fn at_the_connection_limit_busy_connections_stay_and_others_wait() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Mutex::new(released);
    let origin = Origin::start(move |peer| {
        while peer.request().is_some() {
            released.lock().unwrap().recv().unwrap();
            peer.send(ok("ok"));
        }
    });
    let limits =
        Limits { client_connections: 2, accept_pause: Duration::from_millis(20), ..Limits::default() };
    let world = World::with(&origin, config(limits));
    let mut clients: Vec<_> = (0..3)
        .map(|_| {
            let mut client = world.client();
            client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            client
        })
        .collect();
    eventually("two are busy", || origin.requests() == 2);
    eventually("accepting waits", || world.metric("weir_proxy_accept_pauses_total") >= 1);
    assert_eq!(origin.requests(), 2);
    for _ in 0..3 {
        release.send(()).unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.response().status, 200, "the third was served when there was room");
    }
}

/// Panics for one path and keeps the rest.
#[derive(Default)]
struct Trap(Mutex<Vec<AccessEntry>>);

impl AccessSink for Trap {
    fn entry(&self, entry: AccessEntry) {
        assert!(entry.path != "/trap", "a fault in the middle of a request");
        self.0.lock().unwrap().push(entry);
    }
}

#[test]
fn a_panic_costs_one_connection_and_is_counted() {
    let origin = Origin::named("ok");
    let access_log = AccessLog::Sink(Arc::new(Trap::default()));
    let world = World::with(&origin, ProxyConfig { access_log, ..config(Limits::default()) });
    let mut neighbour = world.client();
    assert_eq!(neighbour.get("/").status, 200);
    for n in 1..=3 {
        let mut client = world.client();
        client.send("GET /trap HTTP/1.1\r\nHost: a\r\n\r\n");
        client.rest();
        eventually("the panic is counted", || world.metric("weir_proxy_panics_total") == n);
        assert_eq!(neighbour.get("/").status, 200, "on the same worker");
    }
    eventually("their places are free", || world.metric("weir_proxy_connections_open{worker=\"0\"}") == 1);
}

#[test]
fn every_request_is_logged_where_a_log_is_asked_for() {
    let origin = Origin::named("hello");
    let trap = Arc::new(Trap::default());
    let access_log = AccessLog::Sink(trap.clone());
    let world = World::with(&origin, ProxyConfig { access_log, ..config(Limits::default()) });
    let mut client = world.client();
    let response =
        client.exchange("GET /a?secret=1 HTTP/1.1\r\nHost: Shop.example:80\r\nUser-Agent: me\r\n\r\n");
    client.exchange("BREW * HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("both are logged", || trap.0.lock().unwrap().len() == 2);
    let entries = trap.0.lock().unwrap().clone();
    let served = &entries[0];
    assert_eq!(
        (served.method.as_str(), served.host.as_str(), served.path.as_str()),
        ("GET", "Shop.example", "/a")
    );
    assert_eq!((served.status, served.reason, served.user_agent.as_str()), (200, "", "me"));
    assert_eq!((served.route.as_str(), served.backend.as_str()), ("default/r", "backend/default/b0/80"));
    assert_eq!(served.endpoint, origin.address.to_string());
    assert_eq!(Some(served.request_id.as_str()), response.field("x-kong-request-id"));
    assert!(served.client.starts_with("127."));
    assert!(served.upstream_latency_ms.is_some() && served.duration_ms > 0.0);
    assert!(served.response_bytes > 5 && served.request_bytes > 10);
    assert_eq!((entries[1].status, entries[1].reason, entries[1].blame), (400, "bad_request", "downstream"));
}

#[test]
fn a_log_in_a_file_has_one_json_line_for_each_request() {
    let origin = Origin::named("hello");
    let file = tempfile::NamedTempFile::new().unwrap();
    let access_log = AccessLog::File(file.path().to_owned());
    let world = World::with(&origin, ProxyConfig { access_log, ..config(Limits::default()) });
    let mut client = world.client();
    for _ in 0..5 {
        client.get("/x");
    }
    let lines = || std::fs::read_to_string(file.path()).unwrap();
    eventually("five lines", || lines().lines().count() == 5);
    for line in lines().lines() {
        assert!(line.starts_with('{') && line.ends_with('}') && line.contains("\"path\":\"/x\""), "{line}");
    }
}

#[test]
fn metrics_are_well_formed_and_few() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    let mut client = world.client();
    client.get("/");
    client.exchange("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("both are counted", || world.metric("weir_proxy_requests_total{code=\"4xx\"}") == 1);
    assert_eq!(world.metric("weir_proxy_requests_total{code=\"2xx\"}"), 1);
    assert_eq!(world.metric("weir_proxy_request_duration_seconds_count"), 2);
    let text = world.proxy.metrics();
    let mut seen = std::collections::HashSet::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            assert!(
                comment.starts_with("HELP weir_proxy_") || comment.starts_with("TYPE weir_proxy_"),
                "{line}"
            );
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(series.starts_with("weir_proxy_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(seen.insert(series.to_owned()), "twice: {series}");
    }
    assert!(seen.len() < 120, "{}", seen.len());
}

#[test]
fn a_flood_of_connections_that_close_at_once_leaves_nothing_behind() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    for n in 0..500 {
        let mut client = world.client();
        if n % 2 == 0 {
            client.send("GET / HTTP/1.1\r\nHo");
        }
        if n % 3 == 0 {
            socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
    eventually("all are gone", || world.metric("weir_proxy_connections_open{worker=\"0\"}") == 0);
    assert_eq!(world.client().get("/").status, 200);
}

/// In a process of its own, because the limit of open files is a process's.
#[test]
fn without_files_accepting_pauses_and_goes_on_by_itself() {
    let binary = std::env::current_exe().unwrap();
    let command = format!(
        "ulimit -n 80; exec '{}' --exact robustness::process_with_few_files --ignored --nocapture",
        binary.display()
    );
    let mut child = std::process::Command::new("sh")
        .args(["-c", &command])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let address = lines
        .by_ref()
        .find_map(|line| Some(line.unwrap().split_once("serving on ")?.1.to_owned()))
        .expect("the process says where it serves");
    let address = address.trim().parse().unwrap();
    // Each has begun a request, so none is idle: nothing can be closed to make room.
    let mut many: Vec<_> = (0..100)
        .map(|_| {
            let mut client = Peer::connect(address);
            client.send("GET / HTTP/1.1\r\nHost: a\r\n");
            client
        })
        .collect();
    let failed = lines.by_ref().any(|line| line.unwrap() == "accepting had failed");
    assert!(failed, "there are more connections than files");
    // They end their requests and leave; the rest is accepted then.
    let mut answered = 0;
    for client in many.drain(..) {
        let mut client = client;
        client.send("Connection: close\r\n\r\n");
        assert_eq!(client.response().status, 404);
        answered += 1;
    }
    assert_eq!(answered, 100);
    drop(child.stdin.take());
    let output: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success(), "{output:?}");
}

#[test]
#[ignore = "run by without_files_accepting_pauses_and_goes_on_by_itself"]
fn process_with_few_files() {
    let limits = Limits { accept_pause: Duration::from_millis(20), ..Limits::default() };
    let world = World::start(config(limits));
    println!("\nserving on {}", world.address);
    eventually("accepting fails", || world.metric("weir_proxy_accept_failures_total") > 0);
    println!("\naccepting had failed");
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
}

//! What must not creep in: more than four socket calls a request.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use weir_proxy::ProxyConfig;

use crate::harness::*;
use crate::secure::*;

const REQUESTS: u64 = 500;

const CALLS: [&str; 2] =
    ["weir_proxy_socket_calls_total{call=\"read\"}", "weir_proxy_socket_calls_total{call=\"write\"}"];

/// Every read and write of the data plane goes through one module, which counts what enters the kernel.
#[test]
fn a_request_on_kept_connections_takes_exactly_four_socket_calls() {
    let origin = Origin::named("small body");
    let world = World::to(&origin);
    let mut client = world.client();
    client.get("/");
    let before = CALLS.map(|series| world.metric(series));
    for _ in 0..REQUESTS {
        assert_eq!(client.get("/").status, 200);
    }
    let after = CALLS.map(|series| world.metric(series));
    assert_eq!([after[0] - before[0], after[1] - before[1]], [2 * REQUESTS, 2 * REQUESTS]);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_small_request_body_costs_no_further_socket_call() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    let mut client = world.client();
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    client.exchange(post);
    let before = CALLS.map(|series| world.metric(series));
    for _ in 0..REQUESTS {
        assert_eq!(client.exchange(post).status, 200);
    }
    let after = CALLS.map(|series| world.metric(series));
    assert_eq!([after[0] - before[0], after[1] - before[1]], [2 * REQUESTS, 2 * REQUESTS]);
}

/// The same as the kernel sees it, where `strace` is there and may trace: nothing but reads, writes and the waits between.
#[test]
fn the_kernel_sees_four_socket_calls_and_the_waits_between_them() {
    let probe = Command::new("strace").args(["-c", "-o", "/dev/null", "true"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("strace is not there or may not trace: the data plane's own counters stand alone");
        return;
    }
    let few = traced_calls(100);
    let many = traced_calls(100 + REQUESTS);
    let grown: Vec<_> = many
        .iter()
        .map(|(call, count)| {
            (call.as_str(), count - few.iter().find(|(c, _)| c == call).map_or(0, |(_, n)| *n))
        })
        .filter(|(_, count)| *count > REQUESTS as i64 / 20)
        .collect();
    let of = |names: &[&str]| -> i64 {
        grown.iter().filter(|(call, _)| names.contains(call)).map(|(_, count)| count).sum()
    };
    let margin = REQUESTS as i64 / 50;
    let near = |count: i64, expected: i64| (count - expected).abs() <= margin;
    assert!(near(of(&["recvfrom", "read"]), 2 * REQUESTS as i64), "{grown:?}");
    assert!(near(of(&["sendto", "write", "writev", "sendmsg"]), 2 * REQUESTS as i64), "{grown:?}");
    // One client waits for each answer, so each of the two wake-ups is a wait of its own; a busy worker shares them.
    assert!(of(&["epoll_wait", "epoll_pwait", "epoll_pwait2"]) <= 2 * REQUESTS as i64 + margin, "{grown:?}");
    let expected = ["recvfrom", "read", "sendto", "write", "epoll_wait", "epoll_pwait", "epoll_pwait2"];
    assert!(grown.iter().all(|(call, _)| expected.contains(call)), "{grown:?}");
}

/// System calls of a proxy process by name, over this many requests.
fn traced_calls(requests: u64) -> Vec<(String, i64)> {
    let report = tempfile::NamedTempFile::new().unwrap();
    let origin = Origin::named("small body");
    let mut child = Command::new("strace")
        .args(["-f", "-c", "-U", "calls,name", "-o"])
        .arg(report.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "guards::proxy_process", "--ignored", "--nocapture"])
        .env("WEIR_TEST_ORIGIN", origin.address.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines
        .by_ref()
        .find_map(|line| Some(line.unwrap().split_once("serving on ")?.1.to_owned()))
        .expect("the proxy process says where it serves");
    let mut client = Peer::connect(address.trim().parse().unwrap());
    for _ in 0..requests {
        assert_eq!(client.get("/").status, 200);
    }
    drop(client);
    drop(child.stdin.take());
    // Reads to the end, so that the process is never blocked on its output.
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
    let text = std::fs::read_to_string(report.path()).unwrap();
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let count = words.next()?.parse().ok()?;
            Some((words.next()?.to_owned(), count))
        })
        // Beside its sum, strace may list threads that it could not name a call for.
        .filter(|(name, _)| name != "total" && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
        .collect()
}

/// The process that is traced: not a test by itself.
#[test]
#[ignore = "run by the_kernel_sees_four_socket_calls_and_the_waits_between_them"]
fn proxy_process() {
    let Ok(origin) = std::env::var("WEIR_TEST_ORIGIN") else { return };
    let world = World::start(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
    world.serve(&[(origin.parse().unwrap(), 1)]);
    println!("serving on {}", world.address);
    std::io::stdout().flush().unwrap();
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
}

/// The official checks of HTTP/2 (`h2spec`), where the program is there: `H2SPEC` is its path.
#[test]
fn http2_is_spoken_as_its_specification_says() {
    let Some(program) = std::env::var_os("H2SPEC") else {
        eprintln!("H2SPEC does not name the program: nothing was checked");
        return;
    };
    let (world, _origin) = specified_world();
    println!("{}", spoken_as_specified(program, &[], world.address));
}

/// The same inside TLS.
#[test]
fn http2_inside_tls_is_spoken_as_its_specification_says() {
    let Some(program) = std::env::var_os("H2SPEC") else {
        eprintln!("H2SPEC does not name the program: nothing was checked");
        return;
    };
    let (world, _origin) = specified_world();
    let address = SocketAddr::new(world.address.ip(), world.address.port() + 1);
    let listener = ListenerOf::https(address, "https", "", &["c"]).resource();
    let route = http_route("secure", &["https"], "", "b0");
    let applied = world.apply(vec![Pair::self_signed("a.example").resource("c"), listener, route]);
    assert_eq!(applied.rejected, []);
    println!("{}", spoken_as_specified(program, &["-t", "-k"], address));
}

fn specified_world() -> (World, Origin) {
    // A body that is there for those cases that hold its window shut. Requests are answered when they are there whole, and
    // may be broken off.
    let answer = ok(&"x".repeat(100)).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let origin = Origin::start(move |peer| {
        let Some(head) = peer.request_head() else { return };
        let length = fields(&head, "content-length").first().map_or(0, |length| length.parse().unwrap());
        let chunked = !fields(&head, "transfer-encoding").is_empty();
        while peer.buffer.len() < length || (chunked && !peer.buffer.ends_with(b"\r\n\r\n")) {
            if !peer.fill() {
                return;
            }
        }
        peer.send(&answer);
        peer.rest();
    });
    (World::to(&origin), origin)
}

/// Gives the program's summary.
fn spoken_as_specified(program: std::ffi::OsString, options: &[&str], address: SocketAddr) -> String {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let options = [&["-h", &host, "-p", &port, "-o", "5"], options].concat();
    let output = Command::new(program).args(options).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains(" 0 failed"), "{text}");
    text.lines().find(|line| line.contains(" passed,")).unwrap_or_default().to_owned()
}

//! What must not creep in: more than four socket calls a request.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use weir_proxy::ProxyConfig;

use crate::harness::*;

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
        left_out("system calls as the kernel counts them", "strace is not there or may not trace");
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

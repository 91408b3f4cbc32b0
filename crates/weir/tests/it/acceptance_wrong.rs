//! Wrong input as a new user gives it: each gets an answer that names object, field and reason, and nothing else is
//! disturbed.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::http::{Connection, Manner, count};
use crate::harness::sandbox::{Sandbox, condition, has_status};
use crate::harness::{assert_counts, eventually, example, within};

/// The guide's objects, up to its first count.
fn guide() -> (Sandbox, SocketAddr) {
    guide_in(Sandbox::start())
}

fn guide_in(sandbox: Sandbox) -> (Sandbox, SocketAddr) {
    for file in ["kic/gateway.yaml", "kic/echo-services.yaml"] {
        sandbox.kubectl(&["apply", "-f", &example(file)]).ok();
    }
    sandbox.wait_backends(&["echo", "echo2"], "default");
    sandbox.kubectl(&["apply", "-f", &example("kic/httproute.yaml")]).ok();
    sandbox.wait_route("echo", "default");
    let socket = sandbox.socket("kong", "default");
    (sandbox, socket)
}

/// The neighbours are well: 20 requests, 10 and 10.
#[track_caller]
fn undisturbed(socket: SocketAddr) {
    let counts = count(Manner::OneConnection, socket, "/echo/hostname", 20);
    assert_counts(&counts, &[("echo", 10), ("echo2", 10)]);
}

fn route(name: &str, gateway: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\n\
         spec:\n  parentRefs: [{{name: {gateway}}}]\n  rules: {rules}\n"
    )
}

#[test]
fn fields_that_are_wrong_are_refused_as_kubernetes_refuses_them() {
    let (sandbox, socket) = guide();
    let refused = |rules: &str, parts: &[&str]| {
        let answer = sandbox.apply(&route("wrong", "kong", rules)).refused();
        for part in parts {
            assert!(answer.contains(part), "`{part}` is not in\n{answer}");
        }
    };
    refused(
        "[{backendRef: [{name: echo, port: 80}]}]",
        &["HTTPRoute", "strict decoding error", r#"unknown field "spec.rules[0].backendRef""#],
    );
    refused(
        "[{backendRefs: [{name: echo, port: 80, weight: ten}]}]",
        &[r#"The HTTPRoute "wrong" is invalid"#, "spec.rules[0].backendRefs[0].weight", "integer"],
    );
    refused(
        "[{backendRefs: [{name: echo, port: 80, weight: 1000001}]}]",
        &["spec.rules[0].backendRefs[0].weight", "1000001", "should be less than or equal to 1000000"],
    );
    refused(
        "[{backendRefs: [{name: echo, port: 80}], matches: [{path: {type: PathPrefix, value: no-slash}}]}]",
        &["spec.rules[0].matches[0].path", "value must be an absolute path and start with '/'"],
    );
    refused(
        "[{backendRefs: [{name: echo}]}]",
        &["spec.rules[0].backendRefs[0]", "Must have port for Service reference"],
    );
    assert!(sandbox.get("httproute/wrong", "default").is_none(), "nothing of it was kept");
    let typo = sandbox.kubectl(&["get", "httprouts"]).refused();
    assert!(typo.contains("the server doesn't have a resource type \"httprouts\""), "{typo}");
    undisturbed(socket);
}

#[test]
fn a_service_that_is_unknown_is_named_in_the_condition() {
    let (sandbox, socket) = guide();
    sandbox
        .apply(&route(
            "lost",
            "kong",
            "[{matches: [{path: {value: /lost}}], backendRefs: [{name: nobody, port: 80}]}]",
        ))
        .ok();
    let wanted = [("Accepted", "True"), ("ResolvedRefs", "False")];
    let object = sandbox.wait_route_conditions("lost", "default", &wanted);
    let resolved = condition(&object["status"]["parents"][0]["conditions"], "ResolvedRefs");
    assert_eq!(resolved["reason"], "BackendNotFound");
    assert!(resolved["message"].as_str().unwrap_or_default().contains("nobody"), "{resolved}");
    assert_counts(&count(Manner::OneConnection, socket, "/lost", 3), &[("500", 3)]);
    undisturbed(socket);
    // Made later, it is found without another edit of the route.
    sandbox.kubectl(&["create", "service", "clusterip", "nobody", "--tcp=80:80"]).ok();
    sandbox.wait_route("lost", "default");
}

#[test]
fn a_route_to_a_gateway_that_does_not_exist_is_shown_by_weir_status() {
    let (sandbox, socket) = guide();
    sandbox.apply(&route("stray", "nowhere", "[{backendRefs: [{name: echo, port: 80}]}]")).ok();
    let report = sandbox.weir(&["status"]).refused();
    let line = report.lines().find(|line| line.contains("default/stray"));
    assert!(line.is_some_and(|line| line.contains("nowhere")), "{report}");
    let described = sandbox.kubectl(&["get", "events", "--field-selector", "involvedObject.name=stray"]);
    println!("{}", described.ok());
    undisturbed(socket);
    // Made later, the Gateway takes it without another edit of the route.
    let gateway = std::fs::read_to_string(example("kic/gateway.yaml")).expect("an example");
    let gateway = gateway
        .split("---")
        .last()
        .expect("the Gateway is the last document")
        .replace("name: kong", "name: nowhere");
    sandbox.apply(&gateway).ok();
    sandbox.wait_route("stray", "default");
}

const OWN_CLASS: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: weir}
spec: {controllerName: weir.dev/gateway-controller}
";

fn gateway(name: &str, address: Option<&str>, listeners: &str) -> String {
    let addresses = address
        .map_or(String::new(), |address| format!("  addresses: [{{type: IPAddress, value: {address}}}]\n"));
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\n\
         spec:\n  gatewayClassName: weir\n{addresses}  listeners: {listeners}\n"
    )
}

#[test]
fn listeners_in_conflict_are_said_to_be_and_the_others_serve() {
    let (sandbox, socket) = guide();
    let same = "[{name: a, port: 8080, protocol: HTTP}, {name: b, port: 8080, protocol: HTTP}]";
    let answer = sandbox.apply(&format!("{OWN_CLASS}{}", gateway("twice", None, same))).refused();
    assert!(
        answer.contains("Combination of port, protocol and hostname must be unique for each listener"),
        "{answer}"
    );
    let mixed = "[{name: a, port: 8081, protocol: HTTP}, {name: b, port: 8081, protocol: TCP}, \
                 {name: c, port: 8082, protocol: HTTP}]";
    sandbox.apply(&gateway("mixed", None, mixed)).ok();
    let object = eventually("listeners a and b are Conflicted, c is Programmed", || {
        let object = sandbox.get("gateway/mixed", "default")?;
        let listeners = object["status"]["listeners"].as_array()?;
        let named = |name: &str| listeners.iter().find(|listener| listener["name"] == name);
        let conflicted =
            |name| has_status(&named(name)?["conditions"], "Conflicted", "True", &object).then_some(());
        conflicted("a").and(conflicted("b"))?;
        has_status(&named("c")?["conditions"], "Programmed", "True", &object).then(|| object.clone())
    });
    let conflicted = condition(&object["status"]["listeners"][0]["conditions"], "Conflicted");
    assert_eq!(conflicted["reason"], "ProtocolConflict", "{conflicted}");
    let message = conflicted["message"].as_str().unwrap_or_default();
    assert!(message.contains("8081") || message.contains('b'), "the message names the other: {message}");
    let ip = object["status"]["addresses"][0]["value"].as_str().expect("an address").parse().expect("an IP");
    assert_counts(&count(Manner::OneConnection, SocketAddr::new(ip, 8082), "/", 1), &[("404", 1)]);
    undisturbed(socket);
}

#[test]
fn a_port_that_somebody_else_has_is_named_in_the_listeners_condition() {
    let sandbox = Sandbox::start_with(&["--address-range", "127.231.0.0/16"]);
    let (sandbox, socket) = guide_in(sandbox);
    let address = "127.231.0.200";
    let taken = TcpListener::bind((address, 8085)).expect("the port is free");
    let listeners = "[{name: taken, port: 8085, protocol: HTTP}, {name: free, port: 8086, protocol: HTTP}]";
    sandbox.apply(&format!("{OWN_CLASS}{}", gateway("busy", Some(address), listeners))).ok();
    let object = eventually("listener `taken` is not Programmed, `free` is", || {
        let object = sandbox.get("gateway/busy", "default")?;
        let listeners = object["status"]["listeners"].as_array()?;
        let named = |name: &str| listeners.iter().find(|listener| listener["name"] == name);
        has_status(&named("taken")?["conditions"], "Programmed", "False", &object).then_some(())?;
        has_status(&named("free")?["conditions"], "Programmed", "True", &object).then(|| object.clone())
    });
    let listeners = object["status"]["listeners"].as_array().expect("a list").clone();
    let listener = listeners.iter().find(|listener| listener["name"] == "taken").expect("it is there");
    let programmed = condition(&listener["conditions"], "Programmed");
    let message = programmed["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("8085") && message.contains("use"),
        "the message names port and reason: {message}"
    );
    assert_eq!(object["status"]["addresses"][0]["value"], address);
    undisturbed(socket);
    drop(taken);
    eventually("the port is taken as soon as it is free", || {
        let object = sandbox.get("gateway/busy", "default")?;
        let listeners = object["status"]["listeners"].as_array()?;
        let listener = listeners.iter().find(|listener| listener["name"] == "taken")?;
        has_status(&listener["conditions"], "Programmed", "True", &object).then_some(())
    });
}

#[test]
fn a_header_of_100_mb_is_refused_without_keeping_it() {
    let (sandbox, socket) = guide();
    undisturbed(socket);
    let before = sandbox.process.resident_kib();
    let mut connection = Connection::open(socket).expect("the gateway listens");
    connection.send(b"GET /echo/hostname HTTP/1.1\r\nHost: a\r\nX-Large: ").expect("the beginning is taken");
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        // Refused at 64 KiB; what comes after the answer is dropped for a while, so that the client can read it.
        if let Err(error) = connection.send(&chunk) {
            assert!([ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()), "{error}");
            break;
        }
    }
    if let Ok(answer) = connection.answer() {
        assert_eq!(answer.status, 431, "{}", answer.text());
    }
    let mut small = Connection::open(socket).expect("the gateway listens");
    let large = "y".repeat(200 * 1024);
    small
        .send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Large: {large}\r\n\r\n").as_bytes())
        .expect("it is taken");
    let answer = small.answer().expect("the client learns why");
    assert_eq!(answer.status, 431, "{}", answer.text());
    assert!(!answer.text().is_empty(), "the answer says why");
    let after = sandbox.process.resident_kib();
    assert!(after < before + 32 * 1024, "resident memory grew from {before} to {after} KiB");
    undisturbed(socket);
}

#[test]
fn a_client_that_sends_one_byte_a_second_is_told_and_let_go() {
    let (_sandbox, socket) = guide();
    let mut stream = TcpStream::connect(socket).expect("the gateway listens");
    let pace = Duration::from_secs(1);
    stream.set_read_timeout(Some(pace)).expect("a time-out");
    let started = Instant::now();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    // One byte of an endless head, then up to a second of listening for what the gateway says to it.
    for byte in b"GET /echo/hostname HTTP/1.1\r\nHost: a\r\nX-Slow: ".iter().chain(std::iter::repeat(&b'x')) {
        let sent = stream.write_all(&[*byte]);
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {}
            Err(_) => break,
        }
        assert!(started.elapsed() < Duration::from_secs(40), "still listening after {:?}", started.elapsed());
        if sent.is_err() {
            break;
        }
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408 "), "after {:?}: {answer:?}", started.elapsed());
    undisturbed(socket);
}

#[test]
fn five_thousand_idle_connections_disturb_nobody() {
    const IDLE: usize = 5_000;
    // Both ends are on this machine: the test process needs as many descriptors as the gateway.
    if !raise_descriptor_limit(IDLE as u64 + 1_000) {
        crate::harness::left_out(
            "5,000 idle connections",
            "the limit of open files cannot be raised (ulimit -Hn)",
        );
        return;
    }
    let (sandbox, socket) = guide();
    let before = sandbox.process.resident_kib();
    let idle: Vec<TcpStream> = (0..IDLE).map(|_| TcpStream::connect(socket).expect("a connection")).collect();
    let started = Instant::now();
    undisturbed(socket);
    assert!(started.elapsed() < Duration::from_secs(5), "20 requests took {:?}", started.elapsed());
    let after = sandbox.process.resident_kib();
    println!("resident: {before} KiB before, {after} KiB with {} idle connections", idle.len());
    assert!(after < before + 200 * 1024, "more than 40 KiB for an idle connection: {before} to {after} KiB");
    // One of them is used after all.
    let mut late = &idle[IDLE / 2];
    late.write_all(b"GET /echo/hostname HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .expect("it is open");
    let mut answer = String::new();
    late.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
    late.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// Raises this process's own limit of open files, and by inheritance that of the children it starts from now on.
fn raise_descriptor_limit(wanted: u64) -> bool {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("the kernel tells the limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line for open files");
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    let (soft, hard) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if soft >= wanted {
        return true;
    }
    let own = std::process::id().to_string();
    let limit = format!("--nofile={}:{}", wanted.max(soft), hard.max(wanted));
    std::process::Command::new("prlimit")
        .args(["--pid", &own, &limit])
        .status()
        .is_ok_and(|status| status.success())
}

/// A backend of the test's own behind a Service without a selector.
fn own_backend(sandbox: &Sandbox, name: &str, answer: impl Fn(TcpStream) + Send + 'static) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound socket").port();
    // Ends with the process: the listener is this thread's alone and blocks nothing.
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
    let objects = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{port: {port}, protocol: TCP}}]\n\
         endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]\n---\n"
    );
    let rules =
        format!("[{{matches: [{{path: {{value: /{name}}}}}], backendRefs: [{{name: {name}, port: 80}}]}}]");
    sandbox.apply(&(objects + &route(name, "kong", &rules))).ok();
    sandbox.wait_route(name, "default");
}

fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        head.push(byte[0]);
    }
}

#[test]
fn a_backend_that_closes_in_the_middle_of_a_body_ends_that_answer_alone() {
    let (sandbox, socket) = guide();
    own_backend(&sandbox, "broken", |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this");
    });
    let done = sandbox.bash(&format!("curl -s -m 20 http://{socket}/broken; echo \" exit $?\""));
    // 18: "transfer closed with outstanding read data remaining".
    assert_eq!(done.ok(), "only this exit 18\n");
    let chunked = sandbox.bash(&format!("curl -s -m 20 --http1.0 http://{socket}/broken; echo \" exit $?\""));
    assert_eq!(chunked.ok(), "only this exit 18\n");
    undisturbed(socket);
}

#[test]
fn a_backend_that_says_nothing_or_nonsense_is_a_502_for_that_request_alone() {
    let (sandbox, socket) = guide();
    own_backend(&sandbox, "silent", |mut stream| read_head(&mut stream));
    own_backend(&sandbox, "nonsense", |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"SSH-2.0-not-http\r\n\r\n");
    });
    assert_counts(&count(Manner::OneConnection, socket, "/silent", 3), &[("502", 3)]);
    assert_counts(&count(Manner::OneConnection, socket, "/nonsense", 3), &[("502", 3)]);
    undisturbed(socket);
}

#[test]
fn after_kill_9_a_fresh_start_in_the_same_place_works() {
    let (sandbox, _) = guide();
    let (home, kubeconfig) = sandbox.kill();
    let started = Instant::now();
    let sandbox = Sandbox::start_in(home, kubeconfig, &[]);
    println!("ready again after {:?}", started.elapsed());
    // The sandbox keeps its objects in memory: they are gone, and can be made again.
    assert!(sandbox.get("httproute/echo", "default").is_none());
    let (_sandbox, socket) = guide_in(sandbox);
    undisturbed(socket);
}

#[test]
fn two_sandboxes_at_once_do_not_meet() {
    let (first, one) = guide();
    let (second, two) = guide();
    assert_ne!(one.ip(), two.ip());
    assert_ne!(first.kubeconfig, second.kubeconfig);
    undisturbed(one);
    undisturbed(two);
    first.kubectl(&["delete", "httproute", "echo"]).ok();
    within(Duration::from_secs(10), "the first answers 404", || {
        let counts = count(Manner::OneConnection, one, "/echo/hostname", 1);
        counts.contains_key("404").then_some(())
    });
    undisturbed(two);
}

#[test]
fn a_range_or_an_admin_port_that_is_taken_is_said_at_once() {
    let first = Sandbox::start_with(&["--address-range", "127.232.0.0/16"]);
    let again = first.weir(&["sandbox", "--address-range", "127.232.0.0/16"]).refused();
    assert!(again.contains("--address-range") && again.contains("127.232.0.0/16"), "{again}");
    let admin = first.admin.to_string();
    let again = first.weir(&["sandbox", "--admin", &admin]).refused();
    assert!(again.contains("--admin") && again.contains(&admin), "{again}");
    let outside = first.weir(&["sandbox", "--address-range", "10.0.0.0/16"]).refused();
    assert!(outside.contains("127.0.0.0/8"), "{outside}");
    let unknown = first.weir(&["sandbox", "--sed", "1"]).refused();
    assert!(unknown.contains("--sed") && unknown.contains("--seed"), "{unknown}");
}

#[test]
fn requests_with_ambiguous_framing_are_refused_and_reach_no_backend() {
    let (sandbox, socket) = guide();
    undisturbed(socket);
    let tickets = |sandbox: &Sandbox| sandbox.split("default/echo")["tickets"].as_u64().expect("a number");
    let before = tickets(&sandbox);
    for head in [
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "GET /echo HTTP/1.1\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /echo HTTP/1.1\nHost: a\n\n",
        "GET /echo HTTP/1.1\r\nHost: a\r\nX-Folded: a\r\n b\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost : a\r\n\r\n",
        "NONSENSE\r\n\r\n",
    ] {
        let mut connection = Connection::open(socket).expect("the gateway listens");
        connection.send(head.as_bytes()).expect("the bytes are taken");
        let answer = connection.answer().unwrap_or_else(|error| panic!("no answer to {head:?}: {error}"));
        assert_eq!(answer.status, 400, "{head:?}: {}", answer.text());
        let mut rest = Vec::new();
        let mut stream = connection.stream();
        assert!(stream.read_to_end(&mut rest).is_ok() && rest.is_empty(), "closed after {head:?}");
    }
    assert_eq!(tickets(&sandbox), before, "none of them took a ticket");
    undisturbed(socket);
}

#[test]
fn deleting_what_a_route_needs_is_told_in_its_status() {
    let (sandbox, socket) = guide();
    sandbox.kubectl(&["delete", "service", "echo2"]).ok();
    let wanted = [("Accepted", "True"), ("ResolvedRefs", "False")];
    let object: Value = sandbox.wait_route_conditions("echo", "default", &wanted);
    let message = condition(&object["status"]["parents"][0]["conditions"], "ResolvedRefs")["message"].clone();
    assert!(message.as_str().unwrap_or_default().contains("echo2"), "{message}");
    assert_counts(&count(Manner::OneConnection, socket, "/echo/hostname", 20), &[("echo", 10), ("500", 10)]);
    sandbox.kubectl(&["delete", "gateway", "kong"]).ok();
    within(Duration::from_secs(10), "nothing answers any more", || {
        TcpStream::connect(socket).is_err().then_some(())
    });
}

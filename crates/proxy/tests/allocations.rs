//! A request on kept connections allocates nothing.
//!
//! A test binary of its own, because it counts the allocations of the whole process: the client and the origin here use
//! fixed buffers only.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use weir_model::resource::{
    Attachment, Backend, Body, Endpoint, Endpoints, HttpMatch, HttpRoute, HttpRule, Listener, Resource,
    Update, WeightedBackend,
};
use weir_proxy::{Proxy, ProxyConfig};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const REQUEST: &[u8] = b"GET /a/b?c=d HTTP/1.1\r\nHost: example.com\r\nUser-Agent: test\r\nAccept: */*\r\n\
    Accept-Encoding: gzip\r\nCookie: a=b; c=d\r\nConnection: keep-alive\r\n\r\n";
const POST: &[u8] = b"POST /a HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\n\r\nhello";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 20\r\n\r\nbackend-a-0123456789";

#[test]
fn a_request_on_kept_connections_allocates_nothing() {
    let listen = SocketAddr::from((Ipv4Addr::new(127, 9, (std::process::id() % 250) as u8, 1), 18081));
    let origin = start_origin();
    let proxy = Proxy::start(ProxyConfig { workers: Some(1), ..ProxyConfig::default() }).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let applied = runtime.block_on(proxy.apply(snapshot(listen, origin)));
    assert_eq!((applied.binds[0].error.as_str(), applied.rejected.len()), ("", 0));

    let mut client = TcpStream::connect(listen).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut exchange = |request: &[u8]| {
        client.write_all(request).unwrap();
        read_answer(&mut client);
    };
    for _ in 0..200 {
        exchange(REQUEST);
        exchange(POST);
    }
    let region = Region::new(ALLOCATOR);
    for _ in 0..1000 {
        exchange(REQUEST);
        exchange(POST);
    }
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations), (0, 0), "{change:?}");
}

/// Reads one response whose body is the one of [`ANSWER`].
fn read_answer(client: &mut TcpStream) {
    let mut buffer = [0; 4096];
    let mut filled = 0;
    loop {
        let count = client.read(&mut buffer[filled..]).unwrap();
        assert!(count > 0, "the proxy closed");
        filled += count;
        if buffer[..filled].ends_with(b"backend-a-0123456789") {
            assert!(buffer.starts_with(b"HTTP/1.1 200 OK\r\n"));
            return;
        }
    }
}

fn start_origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = [0; 4096];
        // Each request comes in one piece: the proxy joins head and body.
        while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
            stream.write_all(ANSWER).unwrap();
        }
    });
    address
}

fn snapshot(listen: SocketAddr, origin: SocketAddr) -> Update {
    let listener = Listener {
        key: "listener/default/gw/http".into(),
        gateway: "default/gw".into(),
        section: "http".into(),
        address: listen.ip().to_string(),
        port: listen.port().into(),
        ..Listener::default()
    };
    let backend = Backend {
        key: "backend/default/a/80".into(),
        namespace: "default".into(),
        service: "a".into(),
        port: 80,
        ..Backend::default()
    };
    let endpoint = Endpoint { address: origin.ip().to_string(), port: origin.port().into() };
    let endpoints = Endpoints {
        key: "endpoints/default/a/80".into(),
        backend_key: backend.key.clone(),
        endpoints: vec![endpoint],
    };
    let weighted = WeightedBackend { weight: 1, backend_key: backend.key.clone(), ..Default::default() };
    let rule = HttpRule {
        split_identity: "r".into(),
        matches: vec![HttpMatch { path: "/".into(), ..HttpMatch::default() }],
        backends: vec![weighted.clone(), WeightedBackend { weight: 2, ..weighted }],
        ..HttpRule::default()
    };
    let route = HttpRoute {
        key: "httproute/default/r".into(),
        namespace: "default".into(),
        name: "r".into(),
        uid: "r".into(),
        attachments: vec![Attachment { listener_key: listener.key.clone(), hostnames: vec![String::new()] }],
        rules: vec![rule],
        ..HttpRoute::default()
    };
    let bodies = [
        Body::Listener(listener),
        Body::Backend(backend),
        Body::Endpoints(endpoints),
        Body::HttpRoute(route),
    ];
    let upserts = bodies.map(|body| Resource { body: Some(body) }).into();
    Update { sequence: 1, full: true, upserts, ..Update::default() }
}

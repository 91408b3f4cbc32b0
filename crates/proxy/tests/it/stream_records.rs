//! What the access log says of connections that are no requests: refused handshakes, streams, flows.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use weir_model::limits::Limits;
use weir_model::resource::ListenerProtocol;
use weir_proxy::{AccessEntry, AccessLog, AccessSink, ProxyConfig};

use crate::harness::*;
use crate::secure::*;

#[derive(Default)]
struct Kept(Mutex<Vec<AccessEntry>>);

impl AccessSink for Kept {
    fn entry(&self, entry: AccessEntry) {
        self.0.lock().unwrap().push(entry);
    }
}

impl Kept {
    fn next(&self) -> AccessEntry {
        eventually("an entry is written", || !self.0.lock().unwrap().is_empty());
        self.0.lock().unwrap().remove(0)
    }
}

fn start(limits: Limits) -> (World, Arc<Kept>) {
    let kept = Arc::<Kept>::default();
    let access_log = AccessLog::Sink(kept.clone());
    (World::bare(ProxyConfig { workers: Some(1), limits, access_log, ..ProxyConfig::default() }), kept)
}

#[test]
fn a_refused_handshake_is_an_entry_with_its_reason_and_whose_fault_it_was() {
    let (world, kept) = start(Limits::default());
    let authority = Authority::new("authority");
    world.apply(vec![
        authority.sign(&["a.example"]).resource("c"),
        ListenerOf::https(world.address, "l", "a.example", &["c"]).resource(),
        ListenerOf::https(world.address, "m", "b.example", &["missing"]).resource(),
    ]);
    for (name, reason, blame) in
        [("unknown.example", "tls_unknown_name", "downstream"), ("b.example", "tls_refused", "configuration")]
    {
        assert!(Peer::try_secure(world.address, name, &authority.client()).is_err());
        let entry = kept.next();
        assert_eq!((entry.reason, entry.blame, entry.status), (reason, blame, 0));
        assert_eq!((entry.host.as_str(), entry.client.as_str()), (name, "127.0.0.1"));
    }
    world.client().send("garbage");
    assert_eq!(kept.next().reason, "tls_hello");
    assert_eq!(world.metric("weir_proxy_requests_total{code=\"none\"}"), 0, "none of them was a request");
}

#[test]
fn a_stream_is_an_entry_with_where_it_went_and_how_much() {
    let (world, kept) = start(Limits::default());
    let origin = Origin::start(|peer| {
        peer.send("hello");
        peer.rest();
    });
    let mut resources = vec![
        ListenerOf::raw(world.address, "l", ListenerProtocol::Tcp).resource(),
        l4_route("tcproute", "r", &["l"], &[""], vec![to("b", 1), invalid(1)]),
    ];
    resources.extend(backend("b", &[origin.address]));
    world.apply(resources);
    let mut entries = Vec::new();
    for _ in 0..2 {
        let mut client = world.client();
        client.send("ping");
        // The invalid backend's share may be closed already.
        let _ = client.stream.shutdown(std::net::Shutdown::Write);
        client.rest();
        entries.push(kept.next());
    }
    entries.sort_by_key(|entry| entry.reason);
    let [served, refused] = &entries[..] else { unreachable!() };
    assert_eq!((served.request_bytes, served.response_bytes, served.reason), (4, 5, ""));
    assert_eq!(served.endpoint, origin.address.to_string());
    assert_eq!((served.route.as_str(), served.backend.as_str()), ("default/r", "backend/default/b/80"));
    assert_eq!(served.listener, named_listener("l"));
    assert_eq!((refused.reason, refused.blame), ("invalid_backend", "configuration"));
    assert_eq!(refused.backend, "backend/default/missing/80");
}

#[test]
fn a_flow_is_an_entry_when_it_is_forgotten() {
    let limits = Limits { udp_idle_timeout: Duration::from_millis(100), ..Limits::default() };
    let (world, kept) = start(limits);
    let origin = UdpSocket::bind(SocketAddr::new(own_address().into(), 0)).unwrap();
    let mut resources = vec![
        ListenerOf::raw(world.address, "l", ListenerProtocol::Udp).resource(),
        l4_route("udproute", "r", &["l"], &[""], vec![to("b", 1)]),
    ];
    resources.extend(backend("b", &[origin.local_addr().unwrap()]));
    world.apply(resources);
    let client = UdpSocket::bind(SocketAddr::new(own_address().into(), 0)).unwrap();
    client.send_to(b"ping", world.address).unwrap();
    let mut datagram = [0; 16];
    let (count, peer) = origin.recv_from(&mut datagram).unwrap();
    assert_eq!(&datagram[..count], b"ping");
    origin.send_to(b"answer", peer).unwrap();
    let entry = kept.next();
    assert_eq!((entry.request_bytes, entry.response_bytes, entry.reason), (4, 6, ""));
    assert_eq!(entry.client, client.local_addr().unwrap().ip().to_string());
    assert_eq!(entry.endpoint, origin.local_addr().unwrap().to_string());
    assert_eq!(entry.route, "default/r");
}

//! A request over TLS is judged by the listener that its connection was made with: whose certificate the client was shown, and what it
//! was asked for (Gateway `listeners[].hostname`; RFC 9110 section 7.4).

use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use weir_model::resource::{Body, ClientValidation, Resource, Update};
use weir_proxy::ProxyConfig;

use crate::harness::*;
use crate::secure::*;

struct Site {
    world: World,
    authority: Authority,
    origin: Origin,
    /// Lets the answer to a request for `/slow` go.
    go: mpsc::Sender<()>,
}

impl Site {
    /// A listener for `*.example`, and one backend behind all that follow.
    fn start() -> Site {
        let (go, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let origin = Origin::start(move |peer| {
            while let Some((head, _)) = peer.request() {
                if head.starts_with("GET /upgrade ") {
                    peer.send(
                        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
                    );
                    while peer.fill() {
                        let bytes = std::mem::take(&mut peer.buffer);
                        peer.send(bytes);
                    }
                    return;
                }
                if head.starts_with("GET /slow ") {
                    let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
                }
                peer.send(ok("ok"));
            }
        });
        let world = World::bare(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
        let authority = Authority::new("authority");
        let names = ["a.example", "b.example", "c.test"];
        let mut resources = vec![
            authority.sign(&names).resource("c"),
            authority.bundle("clients"),
            ListenerOf::https(world.address, "wild", "*.example", &["c"]).resource(),
            http_route("wild", &["wild"], "*.example", "b"),
        ];
        resources.extend(backend("b", &[origin.address]));
        assert_eq!(world.apply(resources).rejected, []);
        Site { world, authority, origin, go }
    }

    fn client(&self, name: &str) -> Peer {
        Peer::secure(self.world.address, name, &self.authority.client())
    }

    /// Another listener of the port, of another Gateway, with the same certificate and backend.
    fn add(&self, name: &str, hostname: &str) {
        let mut listener = ListenerOf::https(self.world.address, name, hostname, &["c"]).resource();
        let Some(Body::Listener(source)) = &mut listener.body else { unreachable!() };
        source.gateway = format!("other/{name}");
        let applied = self.world.apply(vec![listener, http_route(name, &[name], hostname, "b")]);
        assert_eq!(applied.rejected, []);
    }
}

fn ask(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

#[test]
fn a_host_that_a_listener_of_another_gateway_serves_on_the_port_is_misdirected() {
    let site = Site::start();
    site.add("other", "c.test");
    site.add("exact", "b.example");
    for (name, host, status) in [
        ("a.example", "a.example", 200),
        ("a.example", "x.example", 200),
        ("a.example", "b.example", 421),
        ("a.example", "c.test", 421),
        ("a.example", "d.test", 404),
        ("b.example", "b.example", 200),
        ("b.example", "a.example", 421),
        ("c.test", "a.example", 421),
        ("c.test", "c.test", 200),
    ] {
        assert_eq!(site.client(name).exchange(&ask("/", host)).status, status, "{name} {host}");
    }
}

#[test]
fn a_listener_that_comes_later_does_not_answer_on_connections_that_another_one_made() {
    let site = Site::start();
    let mut idle = site.client("b.example");
    assert_eq!(idle.exchange(&ask("/", "b.example")).status, 200);
    let mut stays = site.client("a.example");
    assert_eq!(stays.exchange(&ask("/", "a.example")).status, 200);
    let mut busy = site.client("b.example");
    busy.send(ask("/slow", "b.example"));
    eventually("it is under way", || site.origin.requests() == 3);
    site.add("exact", "b.example");
    assert!(idle.ends(), "the next connection is made with the listener that serves the name now");
    // Sent before it could know.
    busy.send(ask("/", "b.example") + &ask("/", "a.example"));
    site.go.send(()).unwrap();
    assert_eq!(busy.response().status, 200, "what was under way is answered");
    assert_eq!(busy.response().status, 421);
    assert_eq!(busy.response().status, 200, "what the connection was made for goes on");
    assert!(busy.ends(), "and idle it ends");
    assert_eq!(site.client("b.example").exchange(&ask("/", "b.example")).status, 200);
    assert_eq!(stays.exchange(&ask("/", "a.example")).status, 200, "others are left alone");
}

#[test]
fn a_listener_that_goes_gives_its_names_back_to_new_connections() {
    let site = Site::start();
    site.add("exact", "b.example");
    let mut before = site.client("b.example");
    assert_eq!(before.exchange(&ask("/", "b.example")).status, 200);
    let removals = vec![named_listener("exact")];
    site.world.update(Update { removals, ..Update::default() });
    assert!(before.ends());
    assert_eq!(site.client("b.example").exchange(&ask("/", "b.example")).status, 200);
}

#[test]
fn connections_that_were_asked_for_less_end_when_idle_and_their_streams_go_on() {
    let site = Site::start();
    let mut idle = site.client("a.example");
    assert_eq!(idle.exchange(&ask("/", "a.example")).status, 200);
    let mut stream = site.client("a.example");
    stream.send("GET /upgrade HTTP/1.1\r\nHost: a.example\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert!(stream.head().unwrap().starts_with("HTTP/1.1 101"));
    site.world.apply(vec![asking(&site)]);
    assert!(idle.ends());
    stream.send("still there?");
    assert_eq!(stream.exactly(12), b"still there?");
    let config = site.authority.client();
    let bare = Peer::try_secure(site.world.address, "a.example", &config);
    assert!(!bare.is_ok_and(|mut peer| peer.is_let_in()), "a certificate is asked for now");
    let pair = site.authority.sign(&["client.example"]);
    let config = site.authority.client_as(&pair);
    let mut known = Peer::secure(site.world.address, "a.example", &config);
    assert_eq!(known.exchange(&ask("/", "a.example")).status, 200);
}

fn asking(site: &Site) -> Resource {
    let validation =
        ClientValidation { ca_bundles: vec!["cabundle/clients".into()], insecure_fallback: false };
    let listener = ListenerOf {
        validation: Some(validation),
        ..ListenerOf::https(site.world.address, "wild", "*.example", &["c"])
    };
    listener.resource()
}

#[test]
fn another_certificate_ends_no_connection() {
    let site = Site::start();
    let mut client = site.client("a.example");
    assert_eq!(client.exchange(&ask("/", "a.example")).status, 200);
    let applied = site.world.apply(vec![
        site.authority.sign(&["a.example"]).resource("d"),
        ListenerOf::https(site.world.address, "wild", "*.example", &["d"]).resource(),
    ]);
    assert_eq!(applied.rejected, []);
    for _ in 0..3 {
        assert_eq!(client.exchange(&ask("/", "a.example")).status, 200);
    }
    assert_eq!(site.world.metric("weir_proxy_connections_total"), 1);
}

/// Listeners of several Gateways may share a hostname and a port; none of them is the one that a connection came through.
#[test]
fn a_connection_ends_with_the_last_of_the_listeners_that_made_it() {
    let site = Site::start();
    // Its key comes before that of the other.
    site.add("also", "*.example");
    let mut client = site.client("a.example");
    assert_eq!(client.exchange(&ask("/", "a.example")).text(), "ok");
    site.world.update(Update {
        removals: vec![named_listener("also"), "httproute/default/also".into()],
        ..Update::default()
    });
    for _ in 0..3 {
        let response = client.exchange(&ask("/", "a.example"));
        assert_eq!((response.text(), response.field("connection")), ("ok", Some("keep-alive")));
    }
    site.world.update(Update { removals: vec![named_listener("wild")], ..Update::default() });
    assert!(client.ends());
}

//! Long streams of every kind survive every change that does not remove their listener; where it is removed they end in a stated time:
//! `listener_drain_timeout` for connections, at once for flows of datagrams.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use weir_model::limits::Limits;
use weir_model::resource::{
    Backend, BackendProtocol, BackendTls, Body, ClientValidation, Endpoint, Endpoints, HttpRoute, HttpRule,
    ListenerProtocol, Resource, RetryBudget, Update, WeightedBackend,
};
use weir_proxy::ProxyConfig;

use crate::harness::*;
use crate::http2_harness::*;
use crate::secure::*;

/// How long streams may go on without their listener.
const TIME: Duration = Duration::from_millis(500);

const UDP: &str = "u/53/udp";

/// Every kind of listener, each with a route to a backend of its own.
struct Site {
    world: World,
    authority: Authority,
    upgrading: Origin,
    raw: Origin,
    _secure: Origin,
    grpc: Http2Origin,
    udp: SocketAddr,
}

fn echo(peer: &mut Peer) {
    while peer.fill() {
        let bytes = std::mem::take(&mut peer.buffer);
        peer.send(bytes);
    }
}

fn upgrade(peer: &mut Peer) {
    while let Some(head) = peer.request_head() {
        if head.contains("\r\nUpgrade: websocket\r\n") {
            peer.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            );
            return echo(peer);
        }
        peer.send(ok("no upgrade"));
    }
}

fn datagrams() -> SocketAddr {
    let socket = UdpSocket::bind(SocketAddr::new(own_address().into(), 0)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut datagram = [0; 2048];
        while let Ok((count, peer)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&datagram[..count], peer);
        }
    });
    address
}

fn udp_resources(address: SocketAddr) -> [Resource; 2] {
    let backend = Backend {
        key: format!("backend/default/{UDP}"),
        namespace: "default".into(),
        service: "u".into(),
        port: 53,
        ..Backend::default()
    };
    let endpoint = Endpoint { address: address.ip().to_string(), port: address.port().into() };
    let endpoints = Endpoints {
        key: format!("endpoints/default/{UDP}"),
        backend_key: backend.key.clone(),
        endpoints: vec![endpoint],
    };
    [Resource { body: Some(Body::Backend(backend)) }, Resource { body: Some(Body::Endpoints(endpoints)) }]
}

fn to_udp(weight: u32) -> WeightedBackend {
    WeightedBackend { weight, backend_key: format!("backend/default/{UDP}"), ..WeightedBackend::default() }
}

/// Names of listeners; the first three share the port for TLS.
const LISTENERS: [&str; 6] = ["web", "pass", "term", "tcp", "udp", "plain"];

/// For each route: its kind, name, listeners, hostname, and backend.
const ROUTES: [(&str, &str, &[&str], &str, &str); 6] = [
    ("httproute", "ws", &["web", "plain"], "a.example", "ws"),
    ("httproute", "grpc", &["web", "plain"], "g.example", "grpc"),
    ("tlsroute", "pass", &["pass"], "p.example", "pass"),
    ("tlsroute", "term", &["term"], "t.example", "raw"),
    ("tcproute", "tcp", &["tcp"], "", "raw"),
    ("udproute", "udp", &["udp"], "", "u"),
];

impl Site {
    fn start() -> Site {
        let authority = Authority::new("authority");
        let limits = Limits { listener_drain_timeout: TIME, ..Limits::default() };
        let world = World::bare(ProxyConfig { workers: Some(2), limits, ..ProxyConfig::default() });
        let site = Site {
            world,
            upgrading: Origin::start(upgrade),
            raw: Origin::start(echo),
            _secure: secure_origin(authority.sign(&["p.example"]).server(None), echo),
            grpc: Http2Origin::start(|request, mut respond| async move {
                let response = http::Response::builder().header("content-type", "application/grpc");
                let mut down = respond.send_response(response.body(()).unwrap(), false).unwrap();
                let mut up = request.into_body();
                while let Some(Ok(data)) = up.data().await {
                    up.flow_control().release_capacity(data.len()).unwrap();
                    if pour_on(&mut down, data).await.is_err() {
                        return;
                    }
                }
            }),
            udp: datagrams(),
            authority,
        };
        let mut resources = vec![site.authority.sign(&["a.example", "g.example", "t.example"]).resource("c")];
        resources.extend(LISTENERS.map(|name| site.listener(name)));
        resources.extend(ROUTES.iter().map(|route| site.route(route.1, 1)));
        resources.extend(backend("ws", &[site.upgrading.address]));
        resources.extend(http2_backend("grpc", &[site.grpc.address]));
        resources.extend(backend("pass", &[site._secure.address]));
        resources.extend(backend("raw", &[site.raw.address]));
        resources.extend(udp_resources(site.udp));
        site.apply(resources);
        site
    }

    fn apply(&self, resources: Vec<Resource>) {
        let applied = self.world.apply(resources);
        assert_eq!(applied.rejected, []);
        assert!(applied.binds.iter().all(|bind| bind.error.is_empty()), "{applied:?}");
    }

    fn address(&self, listener: &str) -> SocketAddr {
        let step = match listener {
            "tcp" => 1,
            "udp" => 2,
            "plain" => 3,
            _ => 0,
        };
        SocketAddr::new(self.world.address.ip(), PORT + step)
    }

    fn listener(&self, name: &str) -> Resource {
        let address = self.address(name);
        let listener = match name {
            "web" => ListenerOf::https(address, name, "*.example", &["c"]),
            "pass" => ListenerOf::tls(address, name, "p.example", &[]),
            "term" => ListenerOf::tls(address, name, "t.example", &["c"]),
            "tcp" => ListenerOf::raw(address, name, ListenerProtocol::Tcp),
            "udp" => ListenerOf::raw(address, name, ListenerProtocol::Udp),
            _ => ListenerOf::raw(address, name, ListenerProtocol::Http),
        };
        listener.resource()
    }

    /// The route of this name, with this weight for its backend beside another that is invalid.
    fn route(&self, name: &str, weight: u32) -> Resource {
        let (kind, _, listeners, hostname, backend) =
            *ROUTES.iter().find(|route| route.1 == name).expect("a route of that name");
        let own = if kind == "udproute" { to_udp(weight) } else { to(backend, weight) };
        let backends = if weight == 1 { vec![own] } else { vec![own, invalid(1)] };
        self.routed(kind, name, listeners, hostname, backends)
    }

    fn routed(
        &self,
        kind: &str,
        name: &str,
        listeners: &[&str],
        hostname: &str,
        backends: Vec<WeightedBackend>,
    ) -> Resource {
        if kind != "httproute" {
            return l4_route(kind, name, listeners, &[hostname], backends);
        }
        let mut resource = route(name, &[], vec![HttpRule { backends, ..rule("/") }]);
        let Some(Body::HttpRoute(HttpRoute { attachments: of, .. })) = &mut resource.body else {
            unreachable!()
        };
        *of = attachments(listeners, &[hostname]);
        resource
    }

    /// Every backend as it is, but for an edit.
    fn backends(&self, edit: impl Fn(&mut Backend)) -> Vec<Resource> {
        let mut resources = Vec::new();
        for name in ["ws", "grpc", "pass", "raw"] {
            let [mut resource, _] = backend(name, &[]);
            let Some(Body::Backend(backend)) = &mut resource.body else { unreachable!() };
            if name == "grpc" {
                backend.protocol = BackendProtocol::Http2.into();
            }
            edit(backend);
            resources.push(resource);
        }
        let [mut resource, _] = udp_resources(self.udp);
        let Some(Body::Backend(backend)) = &mut resource.body else { unreachable!() };
        edit(backend);
        resources.push(resource);
        resources
    }
}

/// One of every kind.
struct Streams {
    /// By the listener that it came through.
    bytes: Vec<(&'static str, &'static str, Peer)>,
    datagrams: UdpSocket,
    grpc: Vec<(&'static str, SendStream<Bytes>, RecvStream)>,
    _clients: Vec<Http2Client>,
    turn: u32,
    runtime: tokio::runtime::Runtime,
}

const UPGRADE: &str =
    "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

impl Streams {
    fn open(site: &Site) -> Streams {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = site.authority.client();
        let mut plain = Peer::connect(site.address("plain"));
        let mut web = Peer::secure(site.address("web"), "a.example", &config);
        for client in [&mut plain, &mut web] {
            client.send(UPGRADE);
            assert!(client.head().unwrap().starts_with("HTTP/1.1 101"));
        }
        let bytes = vec![
            ("plain", "WebSocket", plain),
            ("web", "WebSocket inside TLS", web),
            ("tcp", "TCP", Peer::connect(site.address("tcp"))),
            ("pass", "TLS passthrough", Peer::secure(site.address("pass"), "p.example", &config)),
            ("term", "terminated TLS", Peer::secure(site.address("term"), "t.example", &config)),
        ];
        let datagrams = UdpSocket::bind(SocketAddr::new(own_address().into(), 0)).unwrap();
        datagrams.connect(site.address("udp")).unwrap();
        datagrams.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut grpc = Vec::new();
        let mut clients = vec![
            runtime.block_on(Http2Client::connect(site.address("plain"))),
            runtime.block_on(Http2Client::secure(site.address("web"), "g.example", &config)),
        ];
        for (listener, client) in ["plain", "web"].into_iter().zip(&mut clients) {
            let mut asked = call("/s/m");
            *asked.uri_mut() = "http://g.example/s/m".parse().unwrap();
            let (response, up) = runtime.block_on(client.begin(asked, false));
            let response = runtime.block_on(response).unwrap();
            assert_eq!(response.status(), 200);
            grpc.push((listener, up, response.into_body()));
        }
        let mut streams = Streams { runtime, bytes, datagrams, grpc, _clients: clients, turn: 0 };
        streams.all_go_on("they were opened");
        streams
    }

    fn all_go_on(&mut self, after: &str) {
        self.go_on_but("", after);
    }

    /// All but those that came through this listener.
    fn go_on_but(&mut self, listener: &str, after: &str) {
        self.turn += 1;
        let text = format!("turn {:04}", self.turn);
        for (_, kind, client) in self.bytes.iter_mut().filter(|(of, ..)| *of != listener) {
            client.send(&text);
            assert_eq!(client.exactly(text.len()), text.as_bytes(), "{kind} after {after}");
        }
        if listener != "udp" {
            let mut datagram = [0; 100];
            self.datagrams.send(text.as_bytes()).unwrap();
            let count = self.datagrams.recv(&mut datagram).unwrap_or_else(|_| panic!("UDP after {after}"));
            assert_eq!(&datagram[..count], text.as_bytes());
        }
        let Streams { runtime, grpc, .. } = self;
        for (of, up, down) in grpc.iter_mut().filter(|(of, ..)| *of != listener) {
            let echoed = runtime.block_on(async {
                pour_on(up, Bytes::from(text.clone())).await?;
                let mut echoed = Vec::new();
                while echoed.len() < text.len()
                    && let Some(data) = down.data().await
                {
                    let data = data?;
                    down.flow_control().release_capacity(data.len())?;
                    echoed.extend_from_slice(&data);
                }
                Ok::<_, h2::Error>(echoed)
            });
            assert_eq!(echoed.unwrap_or_default(), text.as_bytes(), "gRPC through {of} after {after}");
        }
    }
}

/// Opens a stream of each kind, makes these changes one after the other, and looks at all streams after each.
fn survive(changes: impl FnOnce(&Site) -> Vec<(&'static str, Update)>) {
    let site = Site::start();
    let mut streams = Streams::open(&site);
    for (what, update) in changes(&site) {
        let applied = site.world.update(update);
        assert_eq!(applied.rejected, [], "{what}");
        streams.all_go_on(what);
    }
    // Longer than a stream without its listener would live.
    let end = Instant::now() + TIME + TIME;
    while Instant::now() < end {
        streams.all_go_on("a while");
    }
}

fn upserts(upserts: Vec<Resource>) -> Update {
    Update { upserts, ..Update::default() }
}

fn removals(keys: &[&str]) -> Update {
    Update { removals: keys.iter().map(|key| (*key).to_owned()).collect(), ..Update::default() }
}

#[test]
fn streams_survive_an_edit_of_their_route_and_its_removal() {
    survive(|site| {
        let edited = ROUTES.iter().map(|(kind, name, listeners, hostname, _)| {
            site.routed(kind, name, listeners, hostname, vec![invalid(1)])
        });
        let keys: Vec<String> =
            ROUTES.iter().map(|(kind, name, ..)| format!("{kind}/default/{name}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        vec![("an edit", upserts(edited.collect())), ("a removal", removals(&keys))]
    });
}

#[test]
fn streams_survive_other_weights_for_their_backends() {
    survive(|site| {
        let weighted = |weight| upserts(ROUTES.iter().map(|route| site.route(route.1, weight)).collect());
        vec![("weight 5", weighted(5)), ("weight 0", weighted(0)), ("weight 1", weighted(1))]
    });
}

#[test]
fn streams_survive_another_certificate_of_their_listener() {
    survive(|site| {
        let names = ["a.example", "g.example", "t.example"];
        let mut listeners = vec![site.authority.sign(&names).resource("d")];
        for (name, hostname) in [("web", "*.example"), ("term", "t.example")] {
            let address = site.address(name);
            listeners.push(match name {
                "web" => ListenerOf::https(address, name, hostname, &["d"]).resource(),
                _ => ListenerOf::tls(address, name, hostname, &["d"]).resource(),
            });
        }
        vec![
            ("another certificate", upserts(listeners)),
            ("the old one is gone", removals(&["certificate/c"])),
        ]
    });
}

#[test]
fn streams_survive_a_listener_that_comes_beside_theirs_on_the_same_port_and_goes_again() {
    survive(|site| {
        let https =
            |name, hostname| ListenerOf::https(site.address("web"), name, hostname, &["c"]).resource();
        let mut plain = ListenerOf::raw(site.address("plain"), "beside-plain", ListenerProtocol::Http);
        plain.hostname = "beside.example";
        // One of them is for the very name that streams were opened with.
        let beside =
            vec![https("beside", "beside.example"), https("same-name", "a.example"), plain.resource()];
        let keys = ["beside", "same-name", "beside-plain"].map(named_listener);
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        vec![("listeners beside", upserts(beside)), ("their removal", removals(&keys))]
    });
}

#[test]
fn streams_survive_other_endpoints_of_their_backend() {
    survive(|_| {
        let elsewhere = Origin::start(echo).address;
        let mut others: Vec<Resource> =
            ["ws", "grpc", "pass", "raw"].iter().map(|name| endpoints(name, &[elsewhere])).collect();
        // A flow of datagrams goes on at another endpoint.
        others.push(udp_resources(datagrams())[1].clone());
        vec![("other endpoints", upserts(others))]
    });
}

#[test]
fn connections_survive_that_their_backend_has_no_endpoints_any_more() {
    survive(|_| {
        let none = ["ws", "grpc", "pass", "raw"].iter().map(|name| endpoints(name, &[]));
        vec![("no endpoints", upserts(none.collect()))]
    });
}

#[test]
fn streams_survive_that_their_backend_leaves_the_rule_and_then_is_gone() {
    survive(|site| {
        let mut others: Vec<Resource> = backend("other", &[site.raw.address]).to_vec();
        others.extend(ROUTES.iter().map(|(kind, name, listeners, hostname, _)| {
            let backends = if *kind == "udproute" { vec![invalid(1)] } else { vec![to("other", 1)] };
            site.routed(kind, name, listeners, hostname, backends)
        }));
        let keys = ["ws", "grpc", "pass", "raw"].map(|name| format!("backend/default/{name}/80"));
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        vec![("another backend", upserts(others)), ("the backend is gone", removals(&keys))]
    });
}

#[test]
fn streams_survive_other_policies_of_their_backend_and_their_listener() {
    survive(|site| {
        let tls = BackendTls { hostname: "x.example".into(), ..BackendTls::default() };
        // But for datagrams: there is no way to send them encrypted, and none in the clear any more.
        let encrypted = site.backends(|backend| {
            backend.tls = (backend.service != "u").then(|| tls.clone());
        });
        let budget = RetryBudget {
            percent: 10,
            interval_ms: 10_000,
            min_retry_count: 1,
            min_retry_interval_ms: 1_000,
        };
        let budgeted = site.backends(|backend| backend.retry_budget = Some(budget.clone()));
        let validation =
            ClientValidation { ca_bundles: vec!["cabundle/none".into()], insecure_fallback: false };
        let asking = ListenerOf {
            validation: Some(validation),
            ..ListenerOf::https(site.address("web"), "web", "*.example", &["c"])
        };
        vec![
            ("a TLS policy", upserts(encrypted)),
            ("a retry budget", upserts(budgeted)),
            ("clients are asked for certificates", upserts(vec![asking.resource()])),
        ]
    });
}

/// `listener` goes; its streams end in time, and those of the others go on.
fn ends_in_time(listener: &'static str) {
    let site = Site::start();
    let mut streams = Streams::open(&site);
    site.world.update(removals(&[&named_listener(listener)]));
    let removed = Instant::now();
    let in_time = || (TIME - Duration::from_millis(50)..TIME + PATIENCE / 2).contains(&removed.elapsed());
    for (_, kind, client) in streams.bytes.iter_mut().filter(|(of, ..)| *of == listener) {
        client.send("before the end");
        assert_eq!(client.exactly(14), b"before the end", "{kind} is given its time");
    }
    streams.go_on_but(listener, "another listener's removal");
    for (_, kind, client) in streams.bytes.iter_mut().filter(|(of, ..)| *of == listener) {
        assert!(client.ends() && in_time(), "{kind} after {:?}", removed.elapsed());
    }
    for (_, _, down) in streams.grpc.iter_mut().filter(|(of, ..)| *of == listener) {
        let end = streams.runtime.block_on(down.data());
        assert!(!matches!(end, Some(Ok(_))) && in_time(), "gRPC after {:?}", removed.elapsed());
    }
    if listener == "udp" {
        UdpSocket::bind(site.address("udp")).expect("the port is free, and with it the flows are gone");
        for worker in 0..2 {
            let open = format!("weir_proxy_udp_flows_open{{worker=\"{worker}\"}}");
            assert_eq!(site.world.metric(&open), 0);
        }
    }
    streams.go_on_but(listener, "the end of the others");
}

#[test]
fn streams_of_a_plain_listener_that_goes_end_in_time() {
    ends_in_time("plain");
}

#[test]
fn streams_of_an_https_listener_that_goes_end_in_time_and_those_beside_it_stay() {
    ends_in_time("web");
}

#[test]
fn streams_that_are_passed_through_end_in_time_with_their_listener() {
    ends_in_time("pass");
}

#[test]
fn streams_whose_tls_ends_here_end_in_time_with_their_listener() {
    ends_in_time("term");
}

#[test]
fn tcp_streams_end_in_time_with_their_listener() {
    ends_in_time("tcp");
}

#[test]
fn flows_of_datagrams_end_at_once_with_their_listener() {
    ends_in_time("udp");
}

//! UDP listeners: flows by ticket, answers that find their way back, and bounds.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use weir_model::limits::Limits;
use weir_model::resource::{
    Backend, BackendTls, Body, Endpoint, Endpoints, ListenerProtocol, Resource, Update, WeightedBackend,
};
use weir_proxy::ProxyConfig;

use crate::harness::*;
use crate::secure::*;

/// Answers each datagram with its name and what came.
fn echo(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind(SocketAddr::new(own_address().into(), 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut datagram = vec![0; 65_536];
        while let Ok((count, peer)) = socket.recv_from(&mut datagram) {
            let answer = [name.as_bytes(), b" ", &datagram[..count]].concat();
            let _ = socket.send_to(&answer, peer);
        }
    });
    address
}

fn target(name: &str, weight: u32) -> WeightedBackend {
    WeightedBackend {
        weight,
        backend_key: format!("backend/default/{name}/53/udp"),
        ..WeightedBackend::default()
    }
}

fn udp_backend(name: &str, addresses: &[SocketAddr]) -> Vec<Resource> {
    let key = format!("default/{name}/53/udp");
    let backend = Backend {
        key: format!("backend/{key}"),
        namespace: "default".into(),
        service: name.into(),
        port: 53,
        ..Backend::default()
    };
    let mut endpoints: Vec<Endpoint> = addresses
        .iter()
        .map(|address| Endpoint { address: address.ip().to_string(), port: address.port().into() })
        .collect();
    endpoints.sort();
    let endpoints =
        Endpoints { key: format!("endpoints/{key}"), backend_key: backend.key.clone(), endpoints };
    vec![Resource { body: Some(Body::Backend(backend)) }, Resource { body: Some(Body::Endpoints(endpoints)) }]
}

fn start(limits: Limits, backends: Vec<WeightedBackend>, targets: &[(&str, SocketAddr)]) -> World {
    let world = World::bare(ProxyConfig { workers: Some(2), limits, ..ProxyConfig::default() });
    let mut resources = vec![
        ListenerOf::raw(world.address, "l", ListenerProtocol::Udp).resource(),
        l4_route("udproute", "r", &["l"], &[""], backends),
    ];
    for (name, address) in targets {
        resources.extend(udp_backend(name, &[*address]));
    }
    let applied = world.apply(resources);
    assert_eq!(applied.rejected, []);
    let bind = &applied.binds[0];
    assert_eq!((bind.error.as_str(), bind.udp, bind.bound_port), ("", true, u32::from(PORT)));
    world
}

struct Client(UdpSocket);

impl Client {
    fn of(world: &World) -> Client {
        let socket = UdpSocket::bind(SocketAddr::new(own_address().into(), 0)).unwrap();
        // Answers from anywhere else are not taken.
        socket.connect(world.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(socket)
    }

    fn send(&self, text: &str) {
        self.0.send(text.as_bytes()).unwrap();
    }

    fn receive(&self) -> String {
        let mut datagram = vec![0; 65_536];
        let count = self.0.recv(&mut datagram).expect("an answer comes");
        String::from_utf8_lossy(&datagram[..count]).into_owned()
    }

    fn ask(&self, text: &str) -> String {
        self.send(text);
        self.receive()
    }
}

#[test]
fn answers_come_back_from_the_address_that_was_asked() {
    let world = start(Limits::default(), vec![target("a", 1)], &[("a", echo("a"))]);
    let clients: Vec<Client> = (0..20).map(|_| Client::of(&world)).collect();
    for round in 0..5 {
        for (n, client) in clients.iter().enumerate() {
            assert_eq!(client.ask(&format!("{n} {round}")), format!("a {n} {round}"));
        }
    }
    let large = "x".repeat(60_000);
    assert_eq!(clients[0].ask(&large), format!("a {large}"));
    assert_eq!(clients[0].ask(""), "a ", "an empty datagram is one");
    assert_eq!(world.metric("weir_proxy_udp_flows_total"), 20);
    assert_eq!(flows_of_workers(&world).iter().sum::<u64>(), 20);
}

#[test]
fn flows_are_split_exactly_and_an_invalid_backends_share_is_dropped() {
    let backends = vec![target("a", 7), target("b", 3), target("c", 0), invalid(2)];
    let targets = [("a", echo("a")), ("b", echo("b")), ("c", echo("c"))];
    let world = start(Limits::default(), backends, &targets);
    // One after another, so that the datagrams come in order; a second of a flow takes no second ticket.
    let mut clients = Vec::new();
    for n in 1..=120 {
        let client = Client::of(&world);
        client.send("x");
        client.send("y");
        clients.push(client);
        eventually("the flow has begun", || world.metric("weir_proxy_udp_flows_total") == n);
    }
    eventually("the invalid share is dropped", || {
        world.metric("weir_proxy_udp_datagrams_dropped_total") == 40
    });
    let report = &world.proxy.splits()[0];
    assert_eq!(report.backends.iter().map(|share| share.served).collect::<Vec<_>>(), [70, 30, 0, 20]);
    let mut names: Vec<Option<char>> = vec![None; clients.len()];
    eventually("every other flow is answered", || {
        for (client, name) in clients.iter().zip(&mut names).filter(|(_, name)| name.is_none()) {
            client.0.set_nonblocking(true).unwrap();
            let mut datagram = [0; 100];
            if client.0.recv(&mut datagram).is_ok() {
                *name = Some(char::from(datagram[0]));
            }
        }
        names.iter().flatten().count() == 100
    });
    let mut seen = BTreeMap::new();
    for name in names.into_iter().flatten() {
        *seen.entry(name).or_insert(0) += 1;
    }
    assert_eq!(seen, BTreeMap::from([('a', 70), ('b', 30)]));
}

/// Open flows of each of the two workers.
fn flows_of_workers(world: &World) -> [u64; 2] {
    [0, 1].map(|worker| world.metric(&format!("weir_proxy_udp_flows_open{{worker=\"{worker}\"}}")))
}

/// Sockets of this process on an address, by what the kernel says.
fn sockets_on(address: SocketAddr) -> usize {
    let SocketAddr::V4(v4) = address else { unreachable!("an IPv4 address") };
    let named = format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port());
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    table.lines().filter(|line| line.split_whitespace().nth(1) == Some(&named)).count()
}

#[test]
fn every_worker_has_a_socket_and_all_datagrams_of_a_flow_come_to_one_of_them() {
    let world =
        start(Limits::default(), vec![target("a", 2), target("b", 1)], &[("a", echo("a")), ("b", echo("b"))]);
    assert_eq!(sockets_on(world.address), 2, "one for each worker");
    let clients: Vec<Client> = (0..90).map(|_| Client::of(&world)).collect();
    let first: Vec<String> = clients.iter().map(|client| client.ask("x")).collect();
    for round in 0..5 {
        for (client, first) in clients.iter().zip(&first) {
            assert_eq!(client.ask("x"), *first, "round {round}: a flow keeps its backend");
        }
    }
    assert_eq!(world.metric("weir_proxy_udp_flows_total"), 90, "no flow was begun twice");
    let report = &world.proxy.splits()[0];
    let served: Vec<u64> = report.backends.iter().map(|share| share.served).collect();
    assert_eq!(served, [60, 30], "one sequence of tickets for all workers");
    // 2^-90 that the kernel's hash gives all of them to one.
    let open = flows_of_workers(&world);
    assert!(open.iter().all(|count| *count > 0) && open.iter().sum::<u64>() == 90, "{open:?}");
}

#[test]
fn the_bound_on_flows_is_one_for_all_workers() {
    let limits = Limits { udp_flows: 20, ..Limits::default() };
    let world = start(limits, vec![target("a", 1)], &[("a", echo("a"))]);
    let clients: Vec<Client> = (0..60).map(|_| Client::of(&world)).collect();
    for client in &clients {
        client.send("x");
    }
    eventually("all that came are judged", || {
        let begun = world.metric("weir_proxy_udp_flows_total");
        begun + world.metric("weir_proxy_udp_datagrams_dropped_total") == 60
    });
    assert_eq!(world.metric("weir_proxy_udp_flows_total"), 20);
}

#[test]
fn a_port_that_somebody_else_has_is_an_error_and_not_half_of_the_datagrams() {
    use socket2::{Domain, Protocol, Socket, Type};
    let shared = |address: SocketAddr| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&address.into()).map(|()| socket)
    };
    let world = World::bare(ProxyConfig { workers: Some(2), ..ProxyConfig::default() });
    // Others that would share the port, as long as they were there first.
    let theirs = shared(world.address).unwrap();
    let applied = world.apply(vec![ListenerOf::raw(world.address, "l", ListenerProtocol::Udp).resource()]);
    assert!(applied.binds[0].error.contains("in use"), "{applied:?}");
    drop(theirs);
    eventually("the socket heals by itself", || {
        world.proxy.binds().borrow().iter().all(|bind| bind.error.is_empty())
    });
    // A second data plane of ours does not share it either.
    let second = World::bare(ProxyConfig { workers: Some(2), ..ProxyConfig::default() });
    let applied = second.apply(vec![ListenerOf::raw(world.address, "l", ListenerProtocol::Udp).resource()]);
    assert!(applied.binds[0].error.contains("in use"), "{applied:?}");
}

#[test]
fn a_flow_stays_where_it_is_whatever_changes() {
    let (a, b) = (echo("a"), echo("b"));
    let world = start(Limits::default(), vec![target("a", 1)], &[("a", a), ("b", b)]);
    let client = Client::of(&world);
    assert_eq!(client.ask("1"), "a 1");
    world.apply(vec![l4_route("udproute", "r", &["l"], &[""], vec![target("b", 1)])]);
    assert_eq!(Client::of(&world).ask("1"), "b 1");
    assert_eq!(client.ask("2"), "a 2");
    world.update(Update { removals: vec!["udproute/default/r".into()], ..Update::default() });
    assert_eq!(client.ask("3"), "a 3");
    let other = ListenerOf::raw(SocketAddr::new(world.address.ip(), PORT + 1), "m", ListenerProtocol::Udp);
    world.apply(vec![other.resource()]);
    assert_eq!(client.ask("4"), "a 4");
}

/// A client that goes on sending, as an exporter of logs does, is not to be forgotten before it is served.
#[test]
fn a_client_that_was_there_before_its_route_is_served_once_the_route_is_there() {
    let world = start(Limits::default(), vec![], &[("a", echo("a"))]);
    world.update(Update { removals: vec!["udproute/default/r".into()], ..Update::default() });
    let client = Client::of(&world);
    client.send("early");
    eventually("it is dropped", || world.metric("weir_proxy_udp_datagrams_dropped_total") == 1);
    // All weights zero: no ticket yet.
    world.apply(vec![l4_route("udproute", "r", &["l"], &[""], vec![target("a", 0)])]);
    client.send("early");
    eventually("it is dropped", || world.metric("weir_proxy_udp_datagrams_dropped_total") == 2);
    world.apply(vec![l4_route("udproute", "r", &["l"], &[""], vec![target("a", 1)])]);
    assert_eq!(client.ask("1"), "a 1");
    assert_eq!(world.metric("weir_proxy_udp_flows_total"), 1);
    assert_eq!(world.proxy.splits()[0].tickets, 1);
}

/// A reference that becomes valid (the Service comes, or the grant) holds for those who were given it before.
#[test]
fn a_share_that_was_invalid_is_served_once_its_backend_is_there_without_another_ticket() {
    let refused = WeightedBackend { invalid_reason: "RefNotPermitted".into(), ..target("a", 1) };
    let world = start(Limits::default(), vec![refused], &[("a", echo("a"))]);
    let client = Client::of(&world);
    client.send("early");
    eventually("it is dropped", || world.metric("weir_proxy_udp_datagrams_dropped_total") == 1);
    // Something else changes: the flow stays with the ticket that it has.
    world.apply(udp_backend("other", &[]));
    client.send("early");
    eventually("it is dropped", || world.metric("weir_proxy_udp_datagrams_dropped_total") == 2);
    assert_eq!(world.proxy.splits()[0].tickets, 1);
    world.apply(vec![l4_route("udproute", "r", &["l"], &[""], vec![target("a", 1)])]);
    assert_eq!(client.ask("1"), "a 1");
    assert_eq!((world.metric("weir_proxy_udp_flows_total"), world.proxy.splits()[0].tickets), (1, 1));
    // Other weights are other tickets: who has none of them takes one.
    let refused = WeightedBackend { invalid_reason: "RefNotPermitted".into(), ..target("a", 1) };
    world.apply(vec![l4_route("udproute", "r", &["l"], &[""], vec![refused])]);
    let other = Client::of(&world);
    other.send("early");
    eventually("it is dropped", || world.metric("weir_proxy_udp_datagrams_dropped_total") == 3);
    world.apply(udp_backend("b", &[echo("b")]));
    world.apply(vec![l4_route("udproute", "r", &["l"], &[""], vec![target("b", 1)])]);
    assert_eq!(other.ask("2"), "b 2");
}

#[test]
fn datagrams_that_go_nowhere_do_not_keep_a_flow() {
    let limits = Limits { udp_idle_timeout: Duration::from_millis(100), ..Limits::default() };
    let world = start(limits, vec![invalid(1)], &[]);
    let client = Client::of(&world);
    eventually("the flow is forgotten", || {
        client.send("x");
        world.metric("weir_proxy_udp_flows_total") > 1
    });
}

/// The address of a Service's pod is another's soon after it has gone.
#[test]
fn a_flow_ends_with_its_backend_and_goes_to_the_new_one_of_its_name() {
    let (a, b, c) = (echo("a"), echo("b"), echo("c"));
    let world = start(Limits::default(), vec![target("s", 1)], &[("s", a)]);
    let client = Client::of(&world);
    assert_eq!(client.ask("1"), "a 1");
    let gone = || Update {
        removals: vec!["backend/default/s/53/udp".into(), "endpoints/default/s/53/udp".into()],
        ..Update::default()
    };
    world.update(gone());
    client.send("2");
    eventually("it goes nowhere", || world.metric("weir_proxy_udp_datagrams_dropped_total") == 1);
    world.apply(udp_backend("s", &[b]));
    assert_eq!(client.ask("3"), "b 3");
    // Between two datagrams.
    world.update(gone());
    world.apply(udp_backend("s", &[c]));
    assert_eq!(client.ask("4"), "c 4");
    // The route goes elsewhere, and the Service is gone.
    world.apply(udp_backend("t", &[a]));
    world.apply(vec![l4_route("udproute", "r", &["l"], &[""], vec![target("t", 1)])]);
    assert_eq!(client.ask("5"), "c 5", "a flow stays while its backend is there");
    world.update(gone());
    assert_eq!(client.ask("6"), "a 6");
}

#[test]
fn a_flow_ends_when_its_backend_wants_tls() {
    let a = echo("a");
    let world = start(Limits::default(), vec![target("s", 1)], &[("s", a)]);
    let client = Client::of(&world);
    assert_eq!(client.ask("1"), "a 1");
    let mut resources = udp_backend("s", &[a]);
    let Some(Body::Backend(backend)) = &mut resources[0].body else { unreachable!() };
    backend.tls = Some(BackendTls { hostname: "a.example".into(), ..BackendTls::default() });
    world.apply(resources);
    client.send("2");
    eventually("it is dropped", || world.metric("weir_proxy_udp_datagrams_dropped_total") == 1);
    world.apply(udp_backend("s", &[a]));
    assert_eq!(client.ask("3"), "a 3");
}

#[test]
fn an_endpoint_that_is_gone_is_replaced_within_the_backend() {
    let (a, b) = (echo("a"), echo("b"));
    let world = start(Limits::default(), vec![target("s", 1)], &[("s", a)]);
    let client = Client::of(&world);
    assert_eq!(client.ask("1"), "a 1");
    world.apply(udp_backend("s", &[b]));
    assert_eq!(client.ask("2"), "b 2");
    world.apply(udp_backend("s", &[]));
    client.send("3");
    eventually("it goes nowhere", || world.metric("weir_proxy_udp_datagrams_dropped_total") == 1);
    world.apply(udp_backend("s", &[a]));
    assert_eq!(client.ask("4"), "a 4");
    assert_eq!(world.metric("weir_proxy_udp_flows_total"), 1);
}

#[test]
fn an_endpoint_where_nobody_listens_is_passed_over() {
    let a = echo("a");
    let nobody = SocketAddr::new(own_address().into(), 9);
    let world = start(Limits::default(), vec![target("s", 1)], &[]);
    world.apply(udp_backend("s", &[nobody, a]));
    for _ in 0..4 {
        let client = Client::of(&world);
        client.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        eventually("another endpoint answers", || {
            client.send("x");
            client.0.recv(&mut [0; 100]).is_ok()
        });
    }
}

#[test]
fn an_idle_flow_is_forgotten_and_its_client_takes_another_ticket() {
    let limits = Limits { udp_idle_timeout: Duration::from_millis(200), ..Limits::default() };
    let world = start(limits, vec![target("a", 1)], &[("a", echo("a"))]);
    let client = Client::of(&world);
    assert_eq!(client.ask("1"), "a 1");
    eventually("the flow is forgotten", || flows_of_workers(&world) == [0, 0]);
    assert_eq!(client.ask("2"), "a 2");
    assert_eq!(world.metric("weir_proxy_udp_flows_total"), 2);
}

#[test]
fn there_are_no_more_flows_than_there_may_be() {
    let limits = Limits { udp_flows: 3, ..Limits::default() };
    let world = start(limits, vec![target("a", 1)], &[("a", echo("a"))]);
    let clients: Vec<Client> = (0..3).map(|_| Client::of(&world)).collect();
    for client in &clients {
        assert_eq!(client.ask("x"), "a x");
    }
    let fourth = Client::of(&world);
    fourth.send("x");
    eventually("it is dropped", || world.metric("weir_proxy_udp_datagrams_dropped_total") == 1);
    assert_eq!(clients[0].ask("y"), "a y", "those that are there go on");
    assert_eq!(world.metric("weir_proxy_udp_flows_total"), 3);
}

#[test]
fn a_backend_that_wants_tls_gets_no_datagram_in_the_clear() {
    let world = start(Limits::default(), vec![target("a", 1)], &[("a", echo("a"))]);
    let mut resources = udp_backend("a", &[echo("a")]);
    let Some(Body::Backend(backend)) = &mut resources[0].body else { unreachable!() };
    backend.tls = Some(BackendTls { hostname: "a.example".into(), ..BackendTls::default() });
    world.apply(resources);
    Client::of(&world).send("x");
    eventually("it is dropped", || world.metric("weir_proxy_udp_datagrams_dropped_total") == 1);
}

#[test]
fn a_socket_is_closed_with_its_listener_and_the_port_is_free() {
    let world = start(Limits::default(), vec![target("a", 1)], &[("a", echo("a"))]);
    let client = Client::of(&world);
    assert_eq!(client.ask("1"), "a 1");
    world.update(Update { removals: vec![named_listener("l")], ..Update::default() });
    let taken = UdpSocket::bind(world.address).expect("the port is free when apply has answered");
    let applied = world.apply(vec![ListenerOf::raw(world.address, "l", ListenerProtocol::Udp).resource()]);
    assert!(applied.binds[0].error.contains("in use"), "{applied:?}");
    drop(taken);
    eventually("the socket heals by itself", || {
        world.proxy.binds().borrow().iter().all(|bind| bind.error.is_empty())
    });
    assert_eq!(Client::of(&world).ask("2"), "a 2");
}

#[test]
fn udp_and_tcp_share_a_port_number() {
    let origin = Origin::start(|peer| peer.send("tcp\r\n"));
    let world = start(Limits::default(), vec![target("a", 1)], &[("a", echo("a"))]);
    let mut resources = backend("b", &[origin.address]).to_vec();
    resources.push(ListenerOf::raw(world.address, "t", ListenerProtocol::Tcp).resource());
    resources.push(l4_route("tcproute", "t", &["t"], &[""], vec![to("b", 1)]));
    let applied = world.apply(resources);
    let binds: Vec<_> = applied.binds.iter().map(|bind| (bind.port, bind.udp, bind.error.as_str())).collect();
    assert_eq!(binds, [(u32::from(PORT), false, ""), (u32::from(PORT), true, "")]);
    assert_eq!(world.client().line(), "tcp");
    assert_eq!(Client::of(&world).ask("x"), "a x");
}

#[test]
fn draining_closes_sockets_for_datagrams_too() {
    let limits = Limits { drain_delay: Duration::ZERO, ..Limits::default() };
    let world = start(limits, vec![target("a", 1)], &[("a", echo("a"))]);
    assert_eq!(Client::of(&world).ask("1"), "a 1");
    block_on(world.proxy.drain(Duration::from_secs(5)));
    UdpSocket::bind(world.address).expect("the port is free");
}

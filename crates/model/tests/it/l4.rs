//! Connections and flows: which rule they belong to, and that they are split as requests are.

use weir_model::resource::{Body, ListenerProtocol, Resource};
use weir_model::select::{NoProbe, select_l4};
use weir_model::table::{BindAddress, BindKind, RouteKind, Snapshot, Target};

use crate::build::{attach, backend, endpoints, full, l4_route, listener_of, removals, upserts, weighted};

fn snapshot(resources: Vec<Resource>) -> Snapshot {
    let (snapshot, rejected) = Snapshot::empty(1).apply(&full(resources));
    assert!(rejected.is_empty(), "{rejected:?}");
    snapshot
}

/// Kind and route of the rule.
fn ask(snapshot: &Snapshot, bind: BindAddress, server_name: Option<&str>) -> Option<String> {
    let table = snapshot.bind(&bind)?;
    let selected = select_l4(table, server_name.map(str::as_bytes), &mut NoProbe)?;
    Some(format!("{}/{}", selected.rule.kind.name(), selected.rule.route))
}

fn tcp(port: u16) -> BindAddress {
    BindAddress::tcp([127, 0, 0, 1].into(), port)
}

fn udp(port: u16) -> BindAddress {
    BindAddress::udp([127, 0, 0, 1].into(), port)
}

#[test]
fn tcp_and_udp_of_one_port_are_two_binds() {
    let snapshot = snapshot(vec![
        listener_of(ListenerProtocol::Tcp, "t", 53, ""),
        listener_of(ListenerProtocol::Udp, "u", 53, "ignored.example"),
        l4_route("tcproute", "r", 0, vec![attach("t", &[""])], vec![]),
        l4_route("udproute", "r", 0, vec![attach("u", &[""])], vec![]),
    ]);
    let binds: Vec<(String, BindKind)> =
        snapshot.binds().map(|(address, table)| (address.to_string(), table.kind())).collect();
    assert_eq!(
        binds,
        [("127.0.0.1:53".to_owned(), BindKind::Tcp), ("127.0.0.1:53/udp".to_owned(), BindKind::Udp)]
    );
    assert_eq!(ask(&snapshot, tcp(53), None).as_deref(), Some("tcproute/ns/r"));
    assert_eq!(ask(&snapshot, udp(53), None).as_deref(), Some("udproute/ns/r"));
}

#[test]
fn the_oldest_route_of_a_listener_gets_everything_and_then_the_first_by_name() {
    let attached = || vec![attach("t", &[""])];
    let mut resources = vec![
        listener_of(ListenerProtocol::Tcp, "t", 9000, ""),
        l4_route("tcproute", "b/x", 5, attached(), vec![]),
        l4_route("tcproute", "a/x", 5, attached(), vec![]),
        l4_route("tcproute", "c/x", 9, attached(), vec![]),
    ];
    assert_eq!(ask(&snapshot(resources.clone()), tcp(9000), None).as_deref(), Some("tcproute/a/x"));
    resources.push(l4_route("tcproute", "z/x", 1, attached(), vec![]));
    let all = snapshot(resources);
    assert_eq!(ask(&all, tcp(9000), None).as_deref(), Some("tcproute/z/x"));
    let (later, _) = all.apply(&removals(&["tcproute/z/x", "tcproute/a/x"]));
    assert_eq!(ask(&later, tcp(9000), None).as_deref(), Some("tcproute/b/x"));
}

#[test]
fn the_server_name_finds_the_listener_and_in_it_the_most_specific_hostname() {
    let snapshot = snapshot(vec![
        listener_of(ListenerProtocol::Tls, "any", 443, ""),
        listener_of(ListenerProtocol::Tls, "wild", 443, "*.example.com"),
        l4_route("tlsroute", "org", 0, vec![attach("any", &["*.org", "x.org"])], vec![]),
        l4_route("tlsroute", "wild", 0, vec![attach("wild", &["*.example.com"])], vec![]),
        l4_route("tlsroute", "exact", 9, vec![attach("wild", &["a.example.com"])], vec![]),
        l4_route("tlsroute", "young", 9, vec![attach("any", &["x.org"])], vec![]),
        // Never reached: the other listener is more specific.
        l4_route("tlsroute", "hidden", 0, vec![attach("any", &["a.example.com"])], vec![]),
    ]);
    for (name, expected) in [
        (Some("a.example.com"), Some("exact")),
        (Some("A.EXAMPLE.COM"), Some("exact")),
        (Some("b.example.com"), Some("wild")),
        (Some("c.b.example.com"), Some("wild")),
        (Some("example.com"), None),
        (Some("x.org"), Some("org")),
        (Some("y.x.org"), Some("org")),
        (Some("org"), None),
        (Some("10.0.0.1"), None),
        (None, None),
    ] {
        let expected = expected.map(|name| format!("tlsroute/ns/{name}"));
        assert_eq!(ask(&snapshot, tcp(443), name), expected, "{name:?}");
    }
}

#[test]
fn connections_are_split_exactly_and_an_invalid_backend_keeps_its_share() {
    let mut broken = weighted("s2", 1);
    broken.invalid_reason = "RefNotPermitted".into();
    let backends = vec![weighted("s0", 7), weighted("s1", 2), broken, weighted("s3", 0)];
    let snapshot = snapshot(vec![
        listener_of(ListenerProtocol::Udp, "u", 53, ""),
        backend("s0"),
        backend("s1"),
        l4_route("udproute", "r", 0, vec![attach("u", &[""])], backends),
    ]);
    let selected = select_l4(snapshot.bind(&udp(53)).unwrap(), None, &mut NoProbe).unwrap();
    assert_eq!(&*selected.listener.section, "u");
    for period in 0..200 {
        let mut counts = [0; 4];
        for _ in 0..10 {
            counts[selected.rule.split.next().unwrap().backend] += 1;
        }
        assert_eq!(counts, [7, 2, 1, 0], "period {period}");
    }
    assert!(matches!(selected.rule.backends[2].target, Target::Invalid(_)));
    let reports = snapshot.splits();
    assert_eq!(reports.len(), 1);
    assert_eq!((&*reports[0].route, reports[0].kind, reports[0].tickets), ("ns/r", RouteKind::Udp, 2_000));
    assert_eq!(&*reports[0].backends[2].invalid_reason, "RefNotPermitted");
    assert_eq!(reports[0].route_label(), "udproute/ns/r", "an HTTPRoute may have the same name");
}

#[test]
fn an_l4_split_goes_on_over_edits_that_leave_it_alone() {
    let one = |weight, created, hostnames: &[&str]| {
        let backends = vec![weighted("s0", weight), weighted("s1", 1)];
        l4_route("tlsroute", "r", created, vec![attach("t", hostnames)], backends)
    };
    let first = snapshot(vec![listener_of(ListenerProtocol::Tls, "t", 443, ""), one(3, 0, &["a.b"])]);
    let split = |snapshot: &Snapshot| snapshot.rules().next().unwrap().split.clone();
    split(&first).next();
    for (edit, continues) in [
        (one(3, 7, &["a.b"]), true),
        (one(3, 0, &["c.d"]), true),
        (one(4, 0, &["a.b"]), false),
        (backend("s0"), true),
    ] {
        let (next, rejected) = first.apply(&upserts(vec![edit.clone()]));
        assert!(rejected.is_empty(), "{rejected:?}");
        assert_eq!(std::sync::Arc::ptr_eq(&split(&first), &split(&next)), continues, "{edit:?}");
    }
    let (moved, _) = first.apply(&upserts(vec![one(3, 0, &["c.d"])]));
    assert_eq!(ask(&moved, tcp(443), Some("a.b")), None);
    assert_eq!(ask(&moved, tcp(443), Some("c.d")).as_deref(), Some("tlsroute/ns/r"));
}

#[test]
fn a_udp_port_of_a_service_is_a_backend_of_its_own() {
    let mut udp_backend = backend("s0");
    let mut udp_endpoints = endpoints("s0", &["10.0.0.2"]);
    if let (Some(Body::Backend(backend)), Some(Body::Endpoints(endpoints))) =
        (&mut udp_backend.body, &mut udp_endpoints.body)
    {
        backend.key += "/udp";
        endpoints.key += "/udp";
        endpoints.backend_key += "/udp";
    }
    let snapshot = snapshot(vec![backend("s0"), endpoints("s0", &["10.0.0.1"]), udp_backend, udp_endpoints]);
    for (key, address) in [("backend/ns/s0/80", "10.0.0.1:8080"), ("backend/ns/s0/80/udp", "10.0.0.2:8080")] {
        let set = snapshot.backend(key).unwrap().endpoints_owned();
        assert_eq!(set.endpoints[0].address.to_string(), address, "{key}");
    }
}

#[test]
fn routes_of_one_name_and_different_kinds_keep_apart() {
    let attached = || vec![attach("t", &["a.b"])];
    let both = snapshot(vec![
        listener_of(ListenerProtocol::Tls, "t", 443, ""),
        l4_route("tlsroute", "r", 0, attached(), vec![weighted("s0", 1)]),
        l4_route("tcproute", "r", 0, attached(), vec![weighted("s1", 1)]),
    ]);
    assert_eq!(ask(&both, tcp(443), Some("a.b")).as_deref(), Some("tlsroute/ns/r"));
    let (one, _) = both.apply(&removals(&["tlsroute/ns/r"]));
    assert_eq!(ask(&one, tcp(443), Some("a.b")).as_deref(), Some("tcproute/ns/r"));
}

#[test]
fn what_comes_in_comes_out_again() {
    let resources = vec![
        l4_route("tcproute", "t", 3, vec![attach("t", &[""])], vec![weighted("s0", 3)]),
        l4_route("tlsroute", "t", 4, vec![attach("t", &["a.b"])], vec![weighted("s1", 2)]),
    ];
    assert_eq!(snapshot(resources.clone()).resources(), resources);
}

#[test]
fn a_key_of_another_kind_is_rejected() {
    for kind in ["httproute", "grpcroute", "backend", "route"] {
        let (snapshot, rejected) =
            Snapshot::empty(1).apply(&full(vec![l4_route(kind, "r", 0, vec![], vec![])]));
        assert!(rejected[0].reason.contains("`tlsroute/` or `tcproute/` or `udproute/`"), "{rejected:?}");
        assert_eq!(snapshot.rules().count(), 0);
    }
}

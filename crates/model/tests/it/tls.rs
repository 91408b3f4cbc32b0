//! Listeners that are told apart by server name, and requests that came on the wrong connection.

use weir_model::resource::{
    Body, CaBundle, Certificate, ClientValidation, ListenerProtocol, ListenerTls, Resource,
};
use weir_model::select::{NoProbe, RequestView, SelectedHttps, select, select_https};
use weir_model::table::{BindAddress, BindKind, BindTable, Snapshot, TlsMode};

use crate::build::{attach, full, l4_route, listener, listener_of, prefix, removals, route, rule, upserts};

const NONE: [(&str, &str); 0] = [];

fn snapshot(resources: Vec<Resource>) -> Snapshot {
    let (snapshot, rejected) = Snapshot::empty(1).apply(&full(resources));
    assert!(rejected.is_empty(), "{rejected:?}");
    snapshot
}

fn on_443(snapshot: &Snapshot) -> &BindTable {
    snapshot.bind(&BindAddress::tcp([127, 0, 0, 1].into(), 443)).unwrap()
}

fn https(name: &str, hostname: &str) -> Resource {
    listener_of(ListenerProtocol::Https, name, 443, hostname)
}

fn tls(name: &str, hostname: &str, passthrough: bool) -> Resource {
    let mut resource = listener_of(ListenerProtocol::Tls, name, 443, hostname);
    settings(&mut resource).passthrough = passthrough;
    resource
}

fn settings(resource: &mut Resource) -> &mut ListenerTls {
    let Some(Body::Listener(listener)) = &mut resource.body else { panic!("not a listener") };
    listener.tls.get_or_insert_default()
}

fn get<'a>(host: &'a str, path: &'a str) -> RequestView<'a> {
    RequestView { method: b"GET", host: host.as_bytes(), path: path.as_bytes(), query: None, headers: &NONE }
}

/// The rule's name, or the status.
fn ask(table: &BindTable, server_name: Option<&str>, host: &str, path: &str) -> String {
    match select_https(table, server_name.map(str::as_bytes), &get(host, path), &mut NoProbe) {
        SelectedHttps::Rule(selected) => selected.rule.name.to_string(),
        SelectedHttps::Misdirected => "421".into(),
        SelectedHttps::NotFound => "404".into(),
    }
}

#[test]
fn the_server_name_finds_the_most_specific_listener() {
    let snapshot = snapshot(vec![
        https("any", ""),
        https("wild", "*.example.com"),
        https("name", "a.example.com"),
        tls("through", "p.example.com", true),
        tls("ended", "t.example.com", false),
    ]);
    let table = on_443(&snapshot);
    assert_eq!(table.kind(), BindKind::Tls);
    for (name, listener, mode) in [
        (Some("a.example.com"), "any/name", TlsMode::Http),
        (Some("A.Example.Com"), "any/name", TlsMode::Http),
        (Some("b.example.com"), "any/wild", TlsMode::Http),
        (Some("x.a.example.com"), "any/wild", TlsMode::Http),
        (Some("p.example.com"), "any/through", TlsMode::Passthrough),
        (Some("t.example.com"), "any/ended", TlsMode::Bytes),
        (Some("example.com"), "any/any", TlsMode::Http),
        (Some("127.0.0.1"), "any/any", TlsMode::Http),
        (Some(""), "any/any", TlsMode::Http),
        (None, "any/any", TlsMode::Http),
    ] {
        let name = name.map(str::as_bytes);
        let group = table.by_sni(name).unwrap();
        let (_, section) = listener.split_once('/').unwrap();
        assert_eq!(&*group.listeners.values().next().unwrap().section, section, "{name:?}");
        assert_eq!(group.tls_mode(), Some(mode), "{name:?}");
        assert_eq!(group.certificates(), [format!("certificate/{section}")]);
    }
}

#[test]
fn without_a_listener_for_any_host_other_names_find_nothing() {
    let snapshot = snapshot(vec![https("name", "a.example.com")]);
    assert!(on_443(&snapshot).by_sni(Some(b"b.example.com")).is_none());
    assert!(on_443(&snapshot).by_sni(None).is_none());
}

#[test]
fn equal_listeners_show_all_their_certificates_and_ask_as_the_strictest_does() {
    let mut first = https("l0", "a.b");
    let mut second = https("l1", "a.b");
    settings(&mut first).certificates = vec!["certificate/x".into(), "certificate/y".into()];
    settings(&mut second).certificates = vec!["certificate/y".into(), "certificate/z".into()];
    let validation =
        |insecure_fallback| ClientValidation { ca_bundles: vec!["cabundle/c".into()], insecure_fallback };
    settings(&mut first).client_validation = Some(validation(true));
    settings(&mut second).client_validation = Some(validation(false));
    let snapshot = snapshot(vec![first, second]);
    let group = on_443(&snapshot).by_sni(Some(b"a.b")).unwrap();
    assert_eq!(group.certificates(), ["certificate/x", "certificate/y", "certificate/z"]);
    assert_eq!(group.client_validation(), Some(&validation(false)));
}

/// The listeners of the official test of misdirected requests, with its pairs of server name and host.
#[test]
fn a_host_that_other_listeners_of_the_port_serve_is_misdirected() {
    let one = |name: &str, listener: &str, hostname: &str| {
        route(name, 0, vec![attach(listener, &[hostname])], vec![rule(name, vec![prefix("/p")], &[])])
    };
    let snapshot = snapshot(vec![
        https("any", ""),
        https("second", "second-example.org"),
        https("wild", "*.wildcard.org"),
        https("fourth", "fourth-example.wildcard.org"),
        one("r1", "any", "example.org"),
        one("r2", "second", "second-example.org"),
        one("r3", "wild", "*.wildcard.org"),
        one("r4", "fourth", "fourth-example.wildcard.org"),
    ]);
    for (server_name, host, expected) in [
        ("example.org", "example.org", "r1"),
        ("example.org", "second-example.org", "421"),
        ("example.org", "unknown-example.org", "404"),
        ("second-example.org", "second-example.org", "r2"),
        ("second-example.org", "example.org", "421"),
        ("second-example.org", "unknown-example.org", "421"),
        ("third-example.wildcard.org", "third-example.wildcard.org", "r3"),
        ("third-example.wildcard.org", "fith-example.wildcard.org", "r3"),
        ("third-example.wildcard.org", "fourth-example.wildcard.org", "421"),
        ("third-example.wildcard.org", "second-example.org", "421"),
        ("third-example.wildcard.org", "unknown-example.org", "421"),
        ("fourth-example.wildcard.org", "fourth-example.wildcard.org", "r4"),
        ("fourth-example.wildcard.org", "fith-example.wildcard.org", "421"),
        ("unknown-example.org", "example.org", "r1"),
        ("unknown-example.org", "unknown-example.org", "404"),
    ] {
        assert_eq!(ask(on_443(&snapshot), Some(server_name), host, "/p"), expected, "{server_name} {host}");
    }
    assert_eq!(ask(on_443(&snapshot), None, "example.org", "/p"), "r1");
    assert_eq!(ask(on_443(&snapshot), None, "second-example.org", "/p"), "421");
    assert_eq!(ask(on_443(&snapshot), Some("second-example.org"), "SECOND-example.org.", "/p"), "r2");
    assert_eq!(ask(on_443(&snapshot), Some("second-example.org"), "second-example.org", "/x"), "404");
    // The listener of a connection that is still open is gone: a new connection finds another.
    let (later, _) = snapshot.apply(&removals(&["listener/ns/gw/second"]));
    assert_eq!(ask(on_443(&later), Some("second-example.org"), "second-example.org", "/p"), "404");
    let (later, _) = later.apply(&removals(&["listener/ns/gw/any"]));
    assert_eq!(ask(on_443(&later), Some("second-example.org"), "x.wildcard.org", "/p"), "421");
    assert_eq!(ask(on_443(&later), Some("x.wildcard.org"), "example.org", "/p"), "404");
}

#[test]
fn a_host_that_is_passed_through_is_misdirected_on_a_connection_that_ends_here() {
    let snapshot = snapshot(vec![
        https("wild", "*.example.com"),
        tls("through", "p.example.com", true),
        route("r", 0, vec![attach("wild", &["*.example.com"])], vec![rule("wild", vec![prefix("/")], &[])]),
    ]);
    let table = on_443(&snapshot);
    assert_eq!(ask(table, Some("a.example.com"), "b.example.com", "/"), "wild");
    assert_eq!(ask(table, Some("a.example.com"), "p.example.com", "/"), "421");
}

#[test]
fn plain_and_encrypted_listeners_never_serve_each_others_routes() {
    let on = |port| listener("plain", "127.0.0.1", port, "a.b");
    let resources = |port| {
        vec![
            on(port),
            https("secret", "a.b"),
            route("r0", 0, vec![attach("plain", &["a.b"])], vec![rule("plain", vec![prefix("/")], &[])]),
            route("r1", 0, vec![attach("secret", &["a.b"])], vec![rule("secret", vec![prefix("/")], &[])]),
            // No listener that it names carries it.
            l4_route("tcproute", "r2", 0, vec![attach("plain", &[""]), attach("secret", &[""])], vec![]),
        ]
    };
    let apart = snapshot(resources(80));
    let plain = apart.bind(&BindAddress::tcp([127, 0, 0, 1].into(), 80)).unwrap();
    assert_eq!((plain.kind(), on_443(&apart).kind()), (BindKind::Http, BindKind::Tls));
    let in_the_clear = |table: &BindTable| {
        select(table, &get("a.b", "/"), &mut NoProbe).map(|selected| selected.rule.name.to_string())
    };
    assert_eq!(in_the_clear(plain).as_deref(), Some("plain"));
    assert_eq!(in_the_clear(on_443(&apart)), None);
    assert_eq!(ask(on_443(&apart), Some("a.b"), "a.b", "/"), "secret");
    // A conflict that nobody settled: nothing that was to be encrypted is in the clear.
    let together = snapshot(resources(443));
    assert_eq!(on_443(&together).kind(), BindKind::Tls);
    assert_eq!(ask(on_443(&together), Some("a.b"), "a.b", "/"), "secret");
    assert_eq!(in_the_clear(on_443(&together)).as_deref(), Some("plain"));
}

fn certificate(name: &str) -> Resource {
    Resource {
        body: Some(Body::Certificate(Certificate {
            key: format!("certificate/{name}"),
            chain: b"-----BEGIN CERTIFICATE-----".to_vec(),
            private_key: b"SECRET".to_vec(),
        })),
    }
}

fn authorities(name: &str) -> Resource {
    let certificates = b"-----BEGIN CERTIFICATE-----".to_vec();
    Resource { body: Some(Body::CaBundle(CaBundle { key: format!("cabundle/{name}"), certificates })) }
}

#[test]
fn certificates_are_found_by_key_and_stay_the_same_while_they_are_there() {
    let first = snapshot(vec![certificate("a"), certificate("b"), authorities("a"), https("l", "")]);
    let held = first.certificate("certificate/a").unwrap().clone();
    assert_eq!(held.private_key, b"SECRET");
    assert!(first.ca_bundle("cabundle/a").is_some() && first.ca_bundle("cabundle/b").is_none());
    let (next, rejected) = first.apply(&upserts(vec![certificate("a"), certificate("c"), authorities("a")]));
    assert!(rejected.is_empty());
    assert_eq!(next.work().certificates, 1, "only what is new");
    assert!(std::sync::Arc::ptr_eq(&held, next.certificate("certificate/a").unwrap()));
    let (gone, _) = next.apply(&removals(&["certificate/a", "cabundle/a"]));
    assert!(gone.certificate("certificate/a").is_none() && gone.ca_bundle("cabundle/a").is_none());
    assert!(gone.certificate("certificate/b").is_some());
    let (full_again, _) = gone.apply(&full(vec![certificate("c")]));
    assert_eq!(full_again.counts(), [0, 0, 0, 0, 1, 0]);
}

#[test]
fn private_keys_are_not_shown() {
    let snapshot = snapshot(vec![certificate("a"), https("l", "")]);
    let all = snapshot.resources();
    let keys = |all: &[Resource]| {
        all.iter()
            .filter(|resource| {
                matches!(&resource.body, Some(Body::Certificate(one)) if !one.private_key.is_empty())
            })
            .count()
    };
    assert_eq!((keys(&all), keys(&snapshot.public_resources())), (1, 0));
    assert_eq!(all.len(), snapshot.public_resources().len());
    let update = full(all.clone());
    for shown in
        [format!("{all:?}"), format!("{all:#?}"), format!("{update:?}"), format!("{:?}", all[0].body)]
    {
        assert!(shown.contains("certificate/a"), "{shown}");
        assert!(!shown.contains("SECRET"), "{shown}");
        // Nor as the list of bytes that a derived form would show.
        assert!(!shown.contains("83, 69, 67, 82, 69, 84") && !shown.contains("private_key"), "{shown}");
    }
}

#[test]
fn a_listener_that_cannot_end_tls_as_it_should_is_rejected() {
    let mut without = https("l", "");
    let Some(Body::Listener(listener)) = &mut without.body else { unreachable!() };
    listener.tls = None;
    let mut through = https("l", "");
    settings(&mut through).passthrough = true;
    for (resource, reason) in [(without, "needs TLS settings"), (through, "has to end TLS")] {
        let (snapshot, rejected) = Snapshot::empty(1).apply(&full(vec![resource]));
        assert!(rejected[0].reason.contains(reason), "{rejected:?}");
        assert_eq!(snapshot.binds().count(), 0);
    }
}

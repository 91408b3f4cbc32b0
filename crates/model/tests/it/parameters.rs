//! Limits and parameters that are set: whose they are, and what changes when they do.

use std::sync::Arc;
use std::time::Duration;

use weir_model::limits::Limits;
use weir_model::resource::{
    AccessLogMode, Body, LimitSetting, ListenerProtocol, Networks, Parameters, Resource, SessionKey,
};
use weir_model::table::{BindAddress, Snapshot};

use crate::build::*;

fn setting(name: &str, value: u64) -> LimitSetting {
    LimitSetting { name: name.to_owned(), value }
}

fn with_parameters(mut resource: Resource, parameters: Parameters) -> Resource {
    if let Some(Body::Listener(listener)) = &mut resource.body {
        listener.parameters = Some(parameters);
    }
    resource
}

fn limits_of(name: &str, limits: Vec<LimitSetting>) -> Resource {
    let mut resource = backend(name);
    if let Some(Body::Backend(backend)) = &mut resource.body {
        backend.limits = limits;
    }
    resource
}

fn address(port: u16) -> BindAddress {
    BindAddress::tcp("127.0.0.1".parse().unwrap(), port)
}

#[test]
fn parameters_are_those_of_the_first_listener_of_a_bind_that_has_any() {
    let of = |bytes| Parameters { limits: vec![setting("head_bytes", bytes)], ..Parameters::default() };
    let base = Limits { idle_timeout: Duration::from_secs(7), ..Limits::default() };
    let (snapshot, rejected) = Snapshot::with_limits(1, base).apply(&full(vec![
        listener("a", "127.0.0.1", 80, "a.example"),
        with_parameters(listener("c", "127.0.0.1", 80, "c.example"), of(3_000)),
        with_parameters(listener("b", "127.0.0.1", 80, "b.example"), of(2_000)),
        listener("d", "127.0.0.1", 81, ""),
    ]));
    assert_eq!(rejected, []);
    let parameters = |snapshot: &Snapshot, port| snapshot.bind(&address(port)).unwrap().parameters().cloned();
    let first = parameters(&snapshot, 80).unwrap();
    assert_eq!(first.limits.head_bytes, 2_000);
    assert_eq!(first.limits.idle_timeout, Duration::from_secs(7), "what is not set is the data plane's");
    assert!(parameters(&snapshot, 81).is_none());

    let (renewed, _) = snapshot
        .apply(&upserts(vec![with_parameters(listener("c", "127.0.0.1", 80, "c.example"), of(4_000))]));
    assert!(Arc::ptr_eq(&parameters(&renewed, 80).unwrap(), &first), "another's change is not the bind's");
    let (gone, _) = renewed.apply(&removals(&[&listener_key("b")]));
    assert_eq!(parameters(&gone, 80).unwrap().limits.head_bytes, 4_000);
    let (plain, _) = gone.apply(&upserts(vec![listener("c", "127.0.0.1", 80, "c.example")]));
    assert!(parameters(&plain, 80).is_none(), "parameters that are taken away are gone");
}

#[test]
fn a_change_of_parameters_compiles_no_route() {
    let (snapshot, _) = Snapshot::empty(1).apply(&full(vec![
        listener("a", "127.0.0.1", 80, ""),
        backend("s"),
        route("ns/r", 0, vec![attach("a", &[""])], vec![rule("x", vec![prefix("/")], &[("s", 1)])]),
    ]));
    let log = Parameters { access_log: AccessLogMode::All as i32, ..Parameters::default() };
    let (next, rejected) =
        snapshot.apply(&upserts(vec![with_parameters(listener("a", "127.0.0.1", 80, ""), log)]));
    assert_eq!(rejected, []);
    assert_eq!((next.work().listeners, next.work().routes), (1, 0));
    assert_eq!(next.bind(&address(80)).unwrap().parameters().unwrap().access_log, AccessLogMode::All);
}

#[test]
fn a_backends_limits_are_its_own_and_leave_the_split_alone() {
    let resources = |limits| {
        vec![
            listener("a", "127.0.0.1", 80, ""),
            limits_of("s", limits),
            backend("t"),
            route(
                "ns/r",
                0,
                vec![attach("a", &[""])],
                vec![rule("x", vec![prefix("/")], &[("s", 1), ("t", 1)])],
            ),
        ]
    };
    let (snapshot, _) = Snapshot::empty(1).apply(&full(resources(vec![])));
    let limits =
        |snapshot: &Snapshot, name| snapshot.backend(&format!("backend/ns/{name}/80")).unwrap().own_limits();
    assert!(limits(&snapshot, "s").is_none());
    let rule = snapshot.rules().next().unwrap().clone();
    rule.split.next();
    let (next, _) = snapshot.apply(&full(resources(vec![
        setting("upstream_response_timeout", 1_500),
        setting("requests_per_connection", 1),
    ])));
    let set = limits(&next, "s").unwrap();
    assert_eq!(set.upstream_response_timeout, Duration::from_millis(1_500));
    assert_eq!(set.requests_per_connection, 100_000, "not a limit of this side");
    assert!(limits(&next, "t").is_none());
    assert!(Arc::ptr_eq(next.rules().next().unwrap(), &rule), "no rule is compiled for it");
}

#[test]
fn what_cannot_be_compiled_is_refused_and_keys_are_not_shown() {
    let trusted = Some(Networks { networks: vec!["10.0.0.0/8".into(), "not a network".into()] });
    let bad = Parameters { trusted_proxies: trusted, ..Parameters::default() };
    let key = SessionKey { key: "sessionkey/1".into(), bytes: vec![7; 32] };
    assert!(!format!("{key:?}").contains("7, 7"));
    let (snapshot, rejected) = Snapshot::empty(1).apply(&full(vec![
        with_parameters(listener("a", "127.0.0.1", 80, ""), bad),
        listener_of(ListenerProtocol::Tcp, "b", 81, ""),
        Resource { body: Some(Body::SessionKey(key)) },
    ]));
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].key, listener_key("a"));
    assert!(snapshot.bind(&address(81)).is_some(), "one bad listener hurts only itself");
    assert_eq!(snapshot.session_key("sessionkey/1").unwrap().bytes, [7; 32]);
    let shown = snapshot.public_resources();
    let bytes = shown.iter().find_map(|resource| match &resource.body {
        Some(Body::SessionKey(key)) => Some(key.bytes.clone()),
        _ => None,
    });
    assert_eq!(bytes, Some(Vec::new()));
    let (gone, _) = snapshot.apply(&removals(&["sessionkey/1"]));
    assert!(gone.session_key("sessionkey/1").is_none());
}

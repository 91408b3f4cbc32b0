//! Updates: incremental equals full, unchanged things stay the same things, and cost does not depend on the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_model::filter::CompiledFilter;
use weir_model::resource::{Body, HttpRoute, ListenerProtocol, PathModifier, Resource, Update, UrlRewrite};
use weir_model::resource::{Filter, FilterKind};
use weir_model::select::{NoProbe, RequestView, SelectedHttps, select_https};
use weir_model::table::{BindAddress, CompiledRule, Snapshot, Target, Work};

use crate::build::{
    attach, backend, endpoints, exact, full, listener, listener_of, prefix, regex, removals, route, rule,
    upserts, value, weighted,
};
use crate::random::{Random, effort};
use crate::world::{
    Answer, BACKENDS, LISTENERS, Request, answer, connect, random_backend, random_certificate,
    random_endpoints, random_l4_route, random_listener, random_request, random_route, settings,
};

/// Everything about a snapshot that a user can see and that does not depend on its history.
fn visible(snapshot: &Snapshot, requests: &[Request]) -> String {
    let mut text = String::new();
    for (address, table) in snapshot.binds() {
        let listeners: Vec<String> =
            table.listeners().iter().map(|l| format!("{} {:?} {:?}", l.key, l.hostname, l.tls())).collect();
        text += &format!("{address} {:?} {listeners:?} {:?}\n", table.kind(), table.parameters());
    }
    for name in 0..4 {
        let certificate = snapshot.certificate(&format!("certificate/{name}")).map(|one| &one.chain);
        let bundle = snapshot.ca_bundle(&format!("cabundle/{name}")).map(|one| &one.certificates);
        let key = snapshot.session_key(&format!("sessionkey/{name}")).map(|one| &one.bytes);
        text += &format!("{certificate:?} {bundle:?} {key:?}\n");
    }
    for rule in snapshot.rules() {
        let backends: Vec<String> = rule
            .backends
            .iter()
            .map(|b| {
                let endpoints: Vec<String> = b
                    .state()
                    .map(|state| state.endpoints().endpoints.iter().map(|e| e.address.to_string()).collect())
                    .unwrap_or_default();
                let port = b.state().map(|state| state.port);
                let limits = b.state().and_then(|state| state.own_limits());
                format!("{} {} {} {port:?} {limits:?} {endpoints:?}", b.key, b.weight, b.invalid_reason())
            })
            .collect();
        text += &format!("{:?} {} {} {} {backends:?}\n", rule.kind, rule.route, rule.name, rule.index);
    }
    for request in requests {
        text += &format!("{:?} {:?}\n", answer(snapshot, request), connect(snapshot, request));
        text += &settings(snapshot, request);
    }
    text + &format!("{:?}", snapshot.counts())
}

/// A resource that may be wrong, from a small pool of keys.
fn random_resource(random: &mut Random) -> Resource {
    match random.below(12) {
        10 => random_certificate(random),
        11 => {
            let name = format!("ns{}/r{}", random.below(2), random.below(4));
            random_l4_route(random, &name)
        }
        0 | 1 => {
            let name = random.pick(&LISTENERS);
            if random.one_in(8) {
                return listener(name, "127.0.0.1", 80, "not a hostname");
            }
            random_listener(random, name)
        }
        2 => {
            let name = random.pick(&BACKENDS);
            random_backend(random, name)
        }
        3 | 4 => {
            let name = random.pick(&BACKENDS);
            if random.one_in(8) {
                return endpoints(name, &["not an address"]);
            }
            random_endpoints(random, name)
        }
        _ => {
            let name = format!("ns{}/r{}", random.below(2), random.below(8));
            if random.one_in(10) {
                return route(&name, 0, vec![attach("l0", &[""])], vec![rule("bad", vec![regex("(")], &[])]);
            }
            random_route(random, &name)
        }
    }
}

#[test]
fn incremental_equals_full_after_any_edits_in_any_grouping_and_order() {
    for seed in 0..150 * effort() {
        let mut random = Random::new(seed);
        let mut current: BTreeMap<String, Resource> = BTreeMap::new();
        let mut snapshot = Snapshot::empty(seed);
        let requests: Vec<Request> = (0..60).map(|_| random_request(&mut random)).collect();
        for step in 0..25 {
            let mut update = Update { sequence: step, ..Default::default() };
            for _ in 0..1 + random.below(6) {
                if random.one_in(4) && !current.is_empty() {
                    let key = current.keys().nth(random.size(current.len())).unwrap().clone();
                    update.removals.push(key);
                } else {
                    update.upserts.push(random_resource(&mut random));
                }
            }
            for key in &update.removals {
                current.remove(key);
            }
            for resource in &update.upserts {
                current.insert(resource.key().to_owned(), resource.clone());
            }
            let (next, rejected) = snapshot.apply(&update);
            snapshot = next;

            let mut all: Vec<Resource> = current.values().cloned().collect();
            random.shuffle(&mut all);
            let (fresh, rejected_in_full) = Snapshot::empty(seed).apply(&full(all.clone()));
            assert_eq!(visible(&snapshot, &requests), visible(&fresh, &requests), "seed {seed} step {step}");
            assert!(
                rejected.iter().all(|one| rejected_in_full.contains(one)),
                "{rejected:?} {rejected_in_full:?}"
            );

            if step % 8 == 0 {
                let (again, none) = Snapshot::empty(seed).apply(&full(snapshot.resources()));
                assert!(none.is_empty());
                assert_eq!(
                    visible(&snapshot, &requests),
                    visible(&again, &requests),
                    "seed {seed} step {step}"
                );
                // A full update that says what there is already changes nothing at all.
                let (same, again) = snapshot.apply(&full(all));
                assert_eq!(again, rejected_in_full);
                assert!(same_rules(&snapshot, &same), "seed {seed} step {step}");
            }
        }
    }
}

fn same_rules(a: &Snapshot, b: &Snapshot) -> bool {
    a.rules().count() == b.rules().count() && a.rules().zip(b.rules()).all(|(a, b)| Arc::ptr_eq(a, b))
}

#[test]
fn the_order_of_resources_in_an_update_changes_nothing_not_even_the_splits() {
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let mut by_key: BTreeMap<String, Resource> = BTreeMap::new();
        for _ in 0..40 {
            let resource = random_resource(&mut random);
            by_key.insert(resource.key().to_owned(), resource);
        }
        let mut resources: Vec<Resource> = by_key.into_values().collect();
        let (first, rejected) = Snapshot::empty(7).apply(&upserts(resources.clone()));
        random.shuffle(&mut resources);
        let (second, rejected_too) = Snapshot::empty(7).apply(&upserts(resources));
        assert_eq!(rejected, rejected_too);
        let requests: Vec<Request> = (0..60).map(|_| random_request(&mut random)).collect();
        assert_eq!(visible(&first, &requests), visible(&second, &requests));
        for (a, b) in first.rules().zip(second.rules()) {
            assert_eq!(a.split.epoch(), b.split.epoch());
            assert!((0..200).all(|ticket| a.split.backend(ticket) == b.split.backend(ticket)));
        }
    }
}

// Splits over snapshots.

fn two_rules(edit: impl FnOnce(&mut HttpRoute)) -> Resource {
    let mut resource = route(
        "r",
        0,
        vec![attach("l", &[""])],
        vec![
            rule("one", vec![prefix("/one")], &[("s0", 2), ("s1", 1)]),
            rule("two", vec![prefix("/two")], &[("s0", 1), ("s1", 1)]),
        ],
    );
    if let Some(Body::HttpRoute(route)) = &mut resource.body {
        edit(route);
    }
    resource
}

fn base() -> Snapshot {
    let resources = vec![
        listener("l", "127.0.0.1", 80, ""),
        backend("s0"),
        backend("s1"),
        endpoints("s0", &["10.0.0.1"]),
        endpoints("s1", &["10.0.0.2"]),
        two_rules(|_| {}),
        route(
            "other",
            0,
            vec![attach("l", &["o.example"])],
            vec![rule("o", vec![prefix("/")], &[("s0", 1)])],
        ),
    ];
    let (snapshot, rejected) = Snapshot::empty(5).apply(&full(resources));
    assert!(rejected.is_empty(), "{rejected:?}");
    snapshot
}

fn rule_named<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Arc<CompiledRule> {
    snapshot.rules().find(|rule| *rule.name == *name).unwrap()
}

fn after(snapshot: &Snapshot, resource: Resource) -> Snapshot {
    let (next, rejected) = snapshot.apply(&upserts(vec![resource]));
    assert!(rejected.is_empty(), "{rejected:?}");
    next
}

#[test]
fn a_split_goes_on_while_backends_and_reduced_weights_stay() {
    let snapshot = base();
    let split = rule_named(&snapshot, "one").split.clone();
    split.next();
    let edits: Vec<(&str, Resource)> = vec![
        ("other filters", two_rules(|route| route.rules[0].filters.push(rewrite("/x")))),
        (
            "weights in other words",
            two_rules(|route| {
                route.rules[0].backends[0].weight = 200;
                route.rules[0].backends[1].weight = 100;
            }),
        ),
        ("other matches", two_rules(|route| route.rules[0].matches = vec![exact("/1")])),
        (
            "a rule before it",
            two_rules(|route| {
                route.rules.insert(0, rule("zero", vec![prefix("/zero")], &[("s0", 1)]));
            }),
        ),
        ("rules turned round", two_rules(|route| route.rules.reverse())),
        ("other hostnames", two_rules(|route| route.attachments = vec![attach("l", &["x.example"])])),
        (
            "a reference that became invalid",
            two_rules(|route| {
                route.rules[0].backends[1].invalid_reason = "BackendNotFound".into();
            }),
        ),
        ("another time-out", two_rules(|route| route.rules[0].request_timeout_ms = 7)),
        ("filters of a backend", two_rules(|route| route.rules[0].backends[0].filters.push(rewrite("/y")))),
        ("endpoints gone", endpoints("s1", &[])),
        ("endpoints changed", endpoints("s0", &["10.0.0.7", "10.0.0.8", "10.0.0.9"])),
        (
            "another route",
            route("third", 0, vec![attach("l", &[""])], vec![rule("t", vec![prefix("/t")], &[])]),
        ),
        ("a new listener", listener("l2", "127.0.0.1", 80, "a.b")),
        ("the listener's port", listener("l", "127.0.0.1", 81, "")),
    ];
    for (what, edit) in edits {
        let next = after(&snapshot, edit);
        assert!(Arc::ptr_eq(&rule_named(&next, "one").split, &split), "{what}");
        let (gone_too, _) = next.apply(&removals(&["backend/ns/s1/80"]));
        assert!(Arc::ptr_eq(&rule_named(&gone_too, "one").split, &split), "{what}, and a backend away");
    }
}

fn rewrite(path: &str) -> Filter {
    let path = Some(PathModifier { prefix: true, value: path.into() });
    Filter { kind: Some(FilterKind::UrlRewrite(UrlRewrite { hostname: String::new(), path })) }
}

#[test]
fn a_new_epoch_begins_when_backends_or_reduced_weights_change() {
    let snapshot = base();
    let split = rule_named(&snapshot, "one").split.clone();
    for _ in 0..30 {
        split.next();
    }
    let edits: Vec<(&str, Resource)> = vec![
        ("weight", two_rules(|route| route.rules[0].backends[0].weight = 3)),
        ("backend", two_rules(|route| route.rules[0].backends[0].backend_key = "backend/ns/s2/80".into())),
        ("order", two_rules(|route| route.rules[0].backends.reverse())),
        ("one more", two_rules(|route| route.rules[0].backends.push(weighted("s2", 1)))),
        ("one more of weight zero", two_rules(|route| route.rules[0].backends.push(weighted("s2", 0)))),
    ];
    for (what, edit) in edits {
        let next = after(&snapshot, edit);
        let new = &rule_named(&next, "one").split;
        assert!(!Arc::ptr_eq(new, &split), "{what}");
        assert_eq!(new.tickets(), 0, "{what}");
        assert!(new.epoch() > split.epoch(), "{what}");
        assert!(
            Arc::ptr_eq(rule_named(&next, "two"), rule_named(&snapshot, "two")),
            "{what}: the sibling is untouched"
        );
    }
}

#[test]
fn changing_weights_there_and_back_draws_new_places_each_time() {
    let mut snapshot = base();
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..20 {
        let edit = two_rules(|route| route.rules[0].backends[0].weight = if round % 2 == 0 { 19 } else { 2 });
        snapshot = after(&snapshot, edit);
        if round % 2 == 0 {
            let split = &rule_named(&snapshot, "one").split;
            seen.insert((0..100).map(|ticket| split.backend(ticket)).collect::<Vec<_>>());
        }
    }
    assert_eq!(seen.len(), 10);
}

#[test]
fn totals_survive_changes_of_weights() {
    let mut snapshot = base();
    for round in 1..=5u64 {
        for _ in 0..30 {
            rule_named(&snapshot, "one").split.next();
        }
        let edit = two_rules(|route| route.rules[0].backends[0].weight = round as u32 + 2);
        snapshot = after(&snapshot, edit);
        let reports = snapshot.splits();
        let report = reports.iter().find(|report| &*report.rule == "one").unwrap();
        let total: u64 = report.backends.iter().map(|share| share.served_total).sum();
        assert_eq!((total, report.tickets), (30 * round, 0));
        assert_eq!((&*report.route, report.rule_index), ("ns/r", 0));
    }
}

#[test]
fn rules_with_equal_identities_keep_apart() {
    let twins = |weight| {
        let one = rule("twin", vec![prefix("/a")], &[("s0", weight), ("s1", 1)]);
        let two = rule("twin", vec![prefix("/b")], &[("s0", 5), ("s1", 1)]);
        route("twins", 0, vec![attach("l", &[""])], vec![one, two])
    };
    let first = after(&base(), twins(3));
    let splits = |snapshot: &Snapshot| {
        snapshot
            .rules()
            .filter(|rule| &*rule.name == "twin")
            .map(|rule| rule.split.clone())
            .collect::<Vec<_>>()
    };
    let second = after(&first, twins(4));
    let (before, now) = (splits(&first), splits(&second));
    assert!(!Arc::ptr_eq(&before[0], &before[1]));
    assert!(!Arc::ptr_eq(&before[0], &now[0]));
    assert!(Arc::ptr_eq(&before[1], &now[1]));
}

// Backends and endpoints.

#[test]
fn an_endpoints_only_update_rebuilds_no_table() {
    let before = base();
    let held = rule_named(&before, "one").backends[0].state().unwrap().clone();
    let (after, rejected) =
        before.apply(&upserts(vec![endpoints("s0", &["10.0.0.5", "10.0.0.4", "10.0.0.5"])]));
    assert!(rejected.is_empty());
    assert_eq!(after.work(), Work { endpoint_sets: 1, ..Work::default() });
    for ((_, a), (_, b)) in before.binds().zip(after.binds()) {
        assert!(Arc::ptr_eq(a, b));
    }
    assert!(same_rules(&before, &after));
    let addresses: Vec<String> = held.endpoints().endpoints.iter().map(|e| e.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.4:8080", "10.0.0.5:8080"], "who held the backend before sees them, too");
}

#[test]
fn endpoints_that_stay_keep_what_is_known_about_them() {
    let before = base();
    let state = before.backend("backend/ns/s0/80").unwrap().clone();
    let endpoint = state.endpoints().endpoints[0].clone();
    let next = after(&before, endpoints("s0", &["10.0.0.9", "10.0.0.1"]));
    assert!(Arc::ptr_eq(&state.endpoints().endpoints[0], &endpoint));
    // Also when the backend itself changes.
    let mut changed = backend("s0");
    if let Some(Body::Backend(backend)) = &mut changed.body {
        backend.service = "renamed".into();
    }
    let next = after(&next, changed);
    let new = next.backend("backend/ns/s0/80").unwrap();
    assert!(!Arc::ptr_eq(new, &state));
    assert!(Arc::ptr_eq(&new.endpoints().endpoints[0], &endpoint));
    assert_eq!(&*rule_named(&next, "one").backends[0].state().unwrap().service, "renamed");
}

#[test]
fn the_time_of_losing_the_last_endpoint_is_kept_until_there_is_one_again() {
    let snapshot = base();
    let lost = |snapshot: &Snapshot| snapshot.backend("backend/ns/s0/80").unwrap().endpoints().lost_at_millis;
    assert_eq!(lost(&snapshot), None);
    let (snapshot, _) = snapshot.apply_at(&upserts(vec![endpoints("s0", &[])]), 1_000);
    assert_eq!(lost(&snapshot), Some(1_000));
    let (snapshot, _) = snapshot.apply_at(&removals(&["endpoints/ns/s0/80"]), 2_000);
    assert_eq!(lost(&snapshot), Some(1_000));
    let (snapshot, _) = snapshot.apply_at(&upserts(vec![endpoints("s0", &["10.0.0.1"])]), 3_000);
    assert_eq!(lost(&snapshot), None);
    let (snapshot, _) = snapshot.apply_at(&removals(&["endpoints/ns/s0/80"]), 4_000);
    assert_eq!(lost(&snapshot), Some(4_000));
    // A backend that never had any lost nothing.
    let (snapshot, _) = snapshot.apply_at(&upserts(vec![backend("s2"), endpoints("s2", &[])]), 5_000);
    assert_eq!(snapshot.backend("backend/ns/s2/80").unwrap().endpoints().lost_at_millis, None);
}

#[test]
fn an_unknown_backend_takes_its_tickets_until_it_arrives() {
    let resources = vec![
        listener("l", "127.0.0.1", 80, ""),
        backend("s0"),
        route(
            "r",
            0,
            vec![attach("l", &[""])],
            vec![rule("one", vec![prefix("/")], &[("s0", 3), ("late", 1)])],
        ),
        endpoints("late", &["10.0.0.3"]),
    ];
    let (snapshot, rejected) = Snapshot::empty(1).apply(&full(resources));
    assert!(rejected.is_empty());
    let one = rule_named(&snapshot, "one").clone();
    assert!(matches!(one.backends[1].target, Target::Unknown));
    assert_eq!(&*one.backends[1].invalid_reason(), "BackendUnknown");
    let chosen: Vec<usize> = (0..40).map(|_| one.split.next().unwrap().backend).collect();
    assert!(chosen.chunks(4).all(|period| period.iter().filter(|&&b| b == 1).count() == 1));
    let next = after(&snapshot, backend("late"));
    let one = rule_named(&next, "one");
    assert_eq!(
        one.backends[1].state().unwrap().endpoints().endpoints.len(),
        1,
        "endpoints that came first are there"
    );
    assert_eq!(one.split.tickets(), 40);
}

#[test]
fn an_invalid_backend_keeps_its_share_of_every_period() {
    let mut broken = rule("one", vec![prefix("/")], &[("s0", 3), ("missing", 1)]);
    broken.backends[1].invalid_reason = "BackendNotFound".into();
    let resources = vec![
        listener("l", "127.0.0.1", 80, ""),
        backend("s0"),
        route("r", 0, vec![attach("l", &[""])], vec![broken]),
    ];
    let (snapshot, _) = Snapshot::empty(1).apply(&full(resources));
    let one = rule_named(&snapshot, "one");
    for period in 0..500 {
        let errors = (0..4)
            .filter(|_| matches!(one.backends[one.split.next().unwrap().backend].target, Target::Invalid(_)))
            .count();
        assert_eq!(errors, 1, "period {period}");
    }
    let report = &snapshot.splits()[0];
    let served: Vec<u64> = report.backends.iter().map(|share| share.served).collect();
    assert_eq!(served, [1500, 500]);
    assert_eq!(&*report.backends[1].invalid_reason, "BackendNotFound");
}

// Backends change in one place.

/// A backend that a thousand rules of a thousand routes name.
fn a_thousand_rules() -> Snapshot {
    let mut resources =
        vec![listener("l", "127.0.0.1", 80, ""), backend("s0"), endpoints("s0", &["10.0.0.1"])];
    for at in 0..1_000 {
        let name = format!("r{at}");
        let rules = vec![rule(&name, vec![prefix(&format!("/{at}"))], &[("s0", 1)])];
        resources.push(route(&name, at, vec![attach("l", &[""])], rules));
    }
    after_full(resources)
}

fn after_full(resources: Vec<Resource>) -> Snapshot {
    let (snapshot, rejected) = Snapshot::empty(1).apply(&full(resources));
    assert_eq!(rejected, []);
    snapshot
}

fn changed_backend(edit: impl FnOnce(&mut weir_model::resource::Backend)) -> Resource {
    let mut resource = backend("s0");
    let Some(Body::Backend(source)) = &mut resource.body else { unreachable!() };
    edit(source);
    resource
}

#[test]
fn a_backends_settings_change_at_once_for_all_rules_that_name_it_and_none_is_compiled() {
    let before = a_thousand_rules();
    assert_eq!(before.rules().count(), 1_000);
    let held: Vec<Arc<CompiledRule>> = before.rules().cloned().collect();
    let state = before.backend("backend/ns/s0/80").unwrap().clone();
    assert!(!state.is_encrypted() && !state.http2());
    let encrypted = |hostname: &str, protocol| {
        changed_backend(|source| {
            source.protocol = protocol;
            source.tls =
                Some(weir_model::resource::BackendTls { hostname: hostname.into(), ..Default::default() });
        })
    };
    let only = Work { backends: 1, ..Work::default() };
    let mut snapshot = before.clone();
    for (resource, name, http2) in [
        (encrypted("a.example", 0), Some("a.example"), false),
        (encrypted("b.example", 0), Some("b.example"), false),
        (encrypted("b.example", 1), Some("b.example"), true),
        (changed_backend(|source| source.protocol = 1), None, true),
        (backend("s0"), None, false),
    ] {
        snapshot = after(&snapshot, resource.clone());
        assert_eq!(snapshot.work(), only, "{name:?}");
        assert!(snapshot.rules().zip(&held).all(|(now, then)| Arc::ptr_eq(now, then)));
        // Also for whoever still runs an older snapshot, or holds a rule.
        let seen = held[999].backends[0].state().unwrap();
        assert!(Arc::ptr_eq(seen, &state));
        assert_eq!((seen.is_encrypted(), seen.http2()), (name.is_some(), http2));
        assert_eq!(seen.in_the_clear().is_none(), name.is_some());
        let settings = seen.settings();
        assert_eq!(settings.tls.as_ref().map(|tls| tls.hostname.as_str()), name);
        assert!(snapshot.resources().contains(&resource), "what runs is told as it is");
    }
    assert_eq!(after(&snapshot, backend("s0")).work(), Work::default(), "nothing changed");
}

#[test]
fn rules_learn_when_a_backend_begins_or_ceases_to_ask_for_more_and_at_no_other_change_of_that() {
    let budgeted = |percent| {
        changed_backend(|source| {
            source.retry_budget = Some(weir_model::resource::RetryBudget {
                percent,
                interval_ms: 10_000,
                min_retry_count: 1,
                min_retry_interval_ms: 1_000,
            });
        })
    };
    let before = a_thousand_rules();
    let first = after(&before, budgeted(10));
    assert_eq!(first.work().rules_compiled, 1_000);
    assert!(first.rules().all(|rule| rule.has_extras));
    let second = after(&first, budgeted(20));
    assert_eq!((second.work().rules_compiled, second.work().routes), (0, 0));
    let third = after(&second, backend("s0"));
    assert!(third.rules().all(|rule| !rule.has_extras));
}

// Bad resources.

#[test]
fn a_bad_resource_is_reported_and_hurts_only_itself() {
    let header = |name: &str| {
        let set = vec![weir_model::resource::HeaderValue { name: name.into(), value: "1".into() }];
        let modifier = weir_model::resource::HeaderModifier { set, ..Default::default() };
        Filter { kind: Some(FilterKind::RequestHeaderModifier(modifier)) }
    };
    let bad: Vec<(Resource, &str)> = vec![
        (listener("l9", "nowhere", 80, ""), "IP address"),
        (listener("l9", "127.0.0.1", 0, ""), "port 0"),
        (listener("l9", "127.0.0.1", 70_000, ""), "port 70000"),
        (listener("l9", "127.0.0.1", 80, "a..b"), "empty label"),
        (two_rules(|route| route.rules[1].matches = vec![regex("(")]), "rule 1: path `(`"),
        (two_rules(|route| route.rules[0].matches = vec![prefix("/%zz")]), "rule 0: path `/%zz`"),
        (two_rules(|route| route.rules[0].matches[0].headers = vec![bad_value("h")]), "rule 0: `h`"),
        (two_rules(|route| route.rules[0].backends[0].weight = 1_000_001), "weight 1000001"),
        (two_rules(|route| route.rules[0].filters.push(header("bad name"))), "`bad name`"),
        (two_rules(|route| route.attachments[0].hostnames = vec!["-".into()]), "hyphen"),
        (two_rules(|route| route.rules[0].matches[0].path_kind = 9), "type 9"),
        (two_rules(|route| route.name = "other".into()), "the key is not that of ns/other"),
        (endpoints("s0", &["here"]), "`here`"),
        (Resource { body: Some(Body::Backend(misnamed())) }, "does not begin with `backend/`"),
    ];
    for (resource, reason) in bad {
        let (snapshot, rejected) = base().apply(&upserts(vec![resource.clone()]));
        assert_eq!(rejected.len(), 1, "{resource:?}");
        assert_eq!(rejected[0].key, resource.key());
        assert!(rejected[0].reason.contains(reason), "{reason}: {:?}", rejected[0]);
        assert_eq!(&*rule_named(&snapshot, "o").name, "o", "the rest runs");
        if resource.key().starts_with("httproute/") {
            assert!(snapshot.rules().all(|rule| &*rule.route != "ns/r"), "no version of it runs");
            let mended = after(&snapshot, two_rules(|_| {}));
            assert_eq!(mended.rules().filter(|rule| &*rule.route == "ns/r").count(), 2);
        }
    }
}

fn bad_value(name: &str) -> weir_model::resource::ValueMatch {
    weir_model::resource::ValueMatch { regex: true, ..value(name, "[") }
}

fn misnamed() -> weir_model::resource::Backend {
    weir_model::resource::Backend { key: "listener/x".into(), port: 80, ..Default::default() }
}

#[test]
fn a_filter_of_a_kind_of_a_newer_release_answers_for_its_rule_alone() {
    let unknown = two_rules(|route| route.rules[0].filters.push(Filter { kind: None }));
    let Some(Body::HttpRoute(route)) = &unknown.body else { unreachable!() };
    let named = [&route.rules[0].name, &route.rules[1].name].map(Clone::clone);
    let (snapshot, rejected) = base().apply(&upserts(vec![unknown]));
    assert_eq!(rejected, []);
    let with_it = rule_named(&snapshot, &named[0]);
    assert!(
        matches!(&*with_it.filters, [.., CompiledFilter::Invalid(reason)] if **reason == *"UnsupportedValue")
    );
    assert!(with_it.has_extras, "it is not passed over");
    let beside = rule_named(&snapshot, &named[1]);
    assert!(!beside.filters.iter().any(|filter| matches!(filter, CompiledFilter::Invalid(_))));
}

#[test]
fn a_resource_of_a_kind_of_a_newer_release_is_ignored() {
    let (snapshot, rejected) = base().apply(&upserts(vec![Resource { body: None }]));
    assert!(rejected.is_empty());
    assert_eq!(snapshot.rules().count(), 3);
}

#[test]
fn an_upsert_beats_a_removal_and_a_later_upsert_an_earlier_one() {
    let update = Update {
        removals: vec!["httproute/ns/r".into()],
        upserts: vec![two_rules(|route| route.rules.truncate(1)), two_rules(|_| {})],
        ..Default::default()
    };
    let (snapshot, _) = base().apply(&update);
    assert_eq!(snapshot.rules().filter(|rule| &*rule.route == "ns/r").count(), 2);
}

#[test]
fn a_route_that_reached_a_listener_twice_stays_when_it_reaches_it_once() {
    let attached = |attachments| two_rules(|route| route.attachments = attachments);
    let once = || attach("l", &["a.example", "b.example"]);
    let first = after(&base(), attached(vec![attach("l", &["a.example"]), once()]));
    assert_eq!(first.work().entries_added, 4, "two rules under two names");
    let later = after(&first, attached(vec![once()]));
    let request = Request {
        bind: BindAddress::tcp([127, 0, 0, 1].into(), 80),
        host: "a.example",
        server_name: None,
        path: "/one".into(),
        method: "GET",
        query: None,
        headers: vec![],
    };
    assert_ne!(answer(&later, &request), Answer::NotFound);
}

#[test]
fn binds_come_and_go_with_their_listeners() {
    let addresses = |snapshot: &Snapshot| snapshot.binds().map(|(a, _)| a.to_string()).collect::<Vec<_>>();
    let snapshot = base();
    assert_eq!(addresses(&snapshot), ["127.0.0.1:80"]);
    let snapshot = after(&snapshot, listener("six", "::1", 8080, ""));
    assert_eq!(addresses(&snapshot), ["127.0.0.1:80", "[::1]:8080"]);
    let table = snapshot.bind(&BindAddress::tcp("::1".parse().unwrap(), 8080)).unwrap().clone();
    let snapshot = after(&snapshot, two_rules(|route| route.rules.truncate(1)));
    let same = snapshot.bind(&table.address).unwrap();
    assert!(Arc::ptr_eq(&table, same), "a bind that an edit does not concern keeps its table");
    let (snapshot, _) = snapshot.apply(&removals(&["listener/ns/gw/l", "listener/ns/gw/six"]));
    assert!(addresses(&snapshot).is_empty());
}

// Cost.

pub(crate) fn many(count: usize) -> Vec<Resource> {
    let mut resources = vec![listener("l", "127.0.0.1", 80, ""), backend("s0")];
    for index in 0..count {
        let rules = vec![rule(&format!("a{index}"), vec![prefix(&format!("/r/{index}"))], &[("s0", 1)])];
        resources.push(route(&format!("r{index}"), 0, vec![attach("l", &["one.example"])], rules));
    }
    resources
}

/// The route with another path in each round.
pub(crate) fn edited(index: usize, round: usize) -> Resource {
    let rules =
        vec![rule(&format!("a{index}"), vec![prefix(&format!("/edited{round}/{index}"))], &[("s0", 1)])];
    route(&format!("r{index}"), 0, vec![attach("l", &["one.example"])], rules)
}

#[test]
fn one_edited_route_is_the_same_work_among_a_hundred_and_among_forty_thousand() {
    let work = |count: usize| {
        let (snapshot, rejected) = Snapshot::empty(1).apply(&full(many(count)));
        assert!(rejected.is_empty());
        assert_eq!(snapshot.rules().count(), count);
        let next = after(&snapshot, edited(count / 2, 0));
        // All other rules are the same things as before.
        let kept = snapshot.rules().zip(next.rules()).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(kept, count - 1);
        next.work()
    };
    let expected =
        Work { routes: 1, rules_compiled: 1, entries_added: 1, entries_removed: 1, ..Work::default() };
    assert_eq!(work(100), expected);
    assert_eq!(work(40_000), expected);
}

#[test]
fn new_settings_of_a_listener_are_the_same_work_however_many_routes_it_has() {
    let renewed = |certificate: &str| {
        let mut resource = listener_of(ListenerProtocol::Https, "l", 443, "");
        let Some(Body::Listener(listener)) = &mut resource.body else { unreachable!() };
        listener.gateway = format!("ns/{certificate}");
        listener.backend_client_certificate = certificate.into();
        listener.tls.as_mut().unwrap().certificates = vec![certificate.into()];
        resource
    };
    let mut resources = many(500);
    resources[0] = renewed("certificate/old");
    let (snapshot, rejected) = Snapshot::empty(1).apply(&full(resources));
    assert!(rejected.is_empty());
    let next = after(&snapshot, renewed("certificate/new"));
    assert_eq!(next.work(), Work { listeners: 1, ..Work::default() });
    for (snapshot, expected) in [(&snapshot, "certificate/old"), (&next, "certificate/new")] {
        let (_, table) = snapshot.binds().next().unwrap();
        let name = Some(&b"one.example"[..]);
        assert_eq!(table.by_sni(name).unwrap().certificates(), [expected]);
        let headers: [(&str, &str); 0] = [];
        let request = RequestView {
            method: b"GET",
            host: b"one.example",
            path: b"/r/7",
            query: None,
            headers: &headers,
        };
        let SelectedHttps::Rule(selected) = select_https(table, name, &request, &mut NoProbe) else {
            panic!("there is a rule");
        };
        assert_eq!(selected.listener.backend_client_certificate(), Some(expected));
        assert_eq!(*selected.listener.gateway, format!("ns/{expected}"));
    }
    // Another place is another thing.
    let moved = after(&next, listener_of(ListenerProtocol::Https, "l", 8443, ""));
    assert_eq!((moved.work().routes, moved.binds().count()), (500, 1));
    let gone = moved.apply(&removals(&["listener/ns/gw/l"])).0;
    assert_eq!(gone.binds().count(), 0);
}

#[test]
fn rules_held_by_streams_do_not_hold_snapshots() {
    let mut snapshot = base();
    let mut held = Vec::new();
    let mut tables = Vec::new();
    for round in 0..1_000u32 {
        snapshot = after(&snapshot, two_rules(|route| route.rules[0].backends[0].weight = round % 7 + 2));
        held.push(rule_named(&snapshot, "one").clone());
        tables.extend(snapshot.binds().map(|(_, table)| Arc::downgrade(table)));
    }
    let alive = tables.iter().filter(|table| table.strong_count() > 0).count();
    assert_eq!(alive, 1, "only the table in use is alive");
    assert_eq!(held.len(), 1_000);
}

#[test]
fn a_backend_that_goes_leaves_its_endpoints_to_requests_of_older_snapshots() {
    let (key, endpoints_key) = ("backend/ns/s9/80", "endpoints/ns/s9/80");
    let (before, _) =
        Snapshot::empty(1).apply(&upserts(vec![backend("s9"), endpoints("s9", &["127.0.0.1"])]));
    let held = before.backend(key).expect("it is there").clone();
    assert_eq!(held.endpoints().endpoints.len(), 1);
    let (without, _) = before.apply(&removals(&[key, endpoints_key]));
    assert!(without.backend(key).is_none());
    assert_eq!(held.endpoints().endpoints.len(), 1);
    // Endpoints that go alone are gone for everybody.
    let (alone, _) = before.apply(&removals(&[endpoints_key]));
    assert!(alone.backend(key).is_some());
    assert_eq!(held.endpoints().endpoints.len(), 0);
}

//! Filters that refer to other backends, and what rules and backends say about retries and sessions.

use std::sync::Arc;
use std::time::Duration;

use weir_model::filter::{AuthProtocol, CompiledFilter, ExternalAuth, Mirror, check_filter};
use weir_model::resource::{
    self, Body, Filter, FilterKind, HttpRule, RequestMirror, Resource, Retry, RetryBudget, SessionPersistence,
};
use weir_model::session::SessionCarrier;
use weir_model::table::{CompiledRule, Snapshot, Target};

use crate::build::{attach, backend, backend_key, full, listener, prefix, removals, route, rule, upserts};

fn mirror(backend: &str, numerator: u32, denominator: u32) -> Filter {
    let split_identity = format!("uid/mirror/{backend}");
    let backend_key = backend_key(backend);
    let mirror = RequestMirror { backend_key, numerator, denominator, split_identity };
    Filter { kind: Some(FilterKind::RequestMirror(mirror)) }
}

fn with(filters: Vec<Filter>) -> Resource {
    changed(|rule| rule.filters = filters)
}

fn changed(change: impl FnOnce(&mut HttpRule)) -> Resource {
    let mut rule = rule("one", vec![prefix("/")], &[("s0", 1), ("s1", 1)]);
    change(&mut rule);
    route("r", 0, vec![attach("l", &[""])], vec![rule])
}

fn base(route: Resource) -> Snapshot {
    let resources = vec![listener("l", "127.0.0.1", 80, ""), backend("s0"), backend("m"), route];
    let (snapshot, rejected) = Snapshot::empty(3).apply(&full(resources));
    assert!(rejected.is_empty(), "{rejected:?}");
    snapshot
}

fn after(snapshot: &Snapshot, resource: Resource) -> Snapshot {
    let (next, rejected) = snapshot.apply(&upserts(vec![resource]));
    assert!(rejected.is_empty(), "{rejected:?}");
    next
}

fn only_rule(snapshot: &Snapshot) -> Arc<CompiledRule> {
    snapshot.rules().next().unwrap().clone()
}

fn mirrors(snapshot: &Snapshot) -> Vec<Mirror> {
    let rule = only_rule(snapshot);
    let mirrors = rule.filters.iter().map(|filter| match filter {
        CompiledFilter::Mirror(mirror) => mirror.clone(),
        _ => panic!("not a mirror"),
    });
    mirrors.collect()
}

fn auth(snapshot: &Snapshot) -> Arc<ExternalAuth> {
    match &only_rule(snapshot).filters[0] {
        CompiledFilter::ExternalAuth(auth) => auth.clone(),
        _ => panic!("not an external authorization"),
    }
}

#[test]
fn of_d_requests_in_a_row_exactly_n_are_copied() {
    for (numerator, denominator) in
        [(0, 100), (1, 100), (25, 100), (50, 100), (35, 100), (99, 100), (1, 3), (2, 7)]
    {
        let snapshot = base(with(vec![mirror("m", numerator, denominator)]));
        let mirror = &mirrors(&snapshot)[0];
        for _ in 0..50 {
            let copies = (0..denominator).filter(|_| mirror.wants_copy()).count();
            assert_eq!(copies as u32, numerator, "of {denominator}");
        }
    }
    let all = base(with(vec![mirror("m", 7, 7)]));
    assert!((0..100).all(|_| mirrors(&all)[0].wants_copy()));
}

#[test]
fn the_largest_fraction_that_the_api_takes_is_kept_on_the_way() {
    let largest = i32::MAX as u32;
    let snapshot = base(with(vec![mirror("m", largest / 3, largest)]));
    let copies = (0..30_000).filter(|_| mirrors(&snapshot)[0].wants_copy()).count();
    assert!((9_999..=10_001).contains(&copies), "{copies}");
    assert!(check_filter(&mirror("m", 2, 1)).is_err() && check_filter(&mirror("m", 0, 0)).is_err());
}

#[test]
fn several_mirrors_and_the_split_have_sequences_of_their_own() {
    let snapshot = base(with(vec![mirror("m", 1, 2), mirror("s0", 1, 2)]));
    let both = mirrors(&snapshot);
    let draw = |mirror: &Mirror| (0..64).map(|_| mirror.wants_copy()).collect::<Vec<_>>();
    let (first, second) = (draw(&both[0]), draw(&both[1]));
    assert_ne!(first, second);
    assert_eq!(only_rule(&snapshot).split.tickets(), 0, "a mirror takes no ticket of the rule");
}

#[test]
fn the_sequence_of_a_mirror_goes_on_over_edits_that_leave_it_alone() {
    let first = base(with(vec![mirror("m", 1, 10)]));
    // Nine tickets and what is left of the period is known.
    let copied = (0..9).filter(|_| mirrors(&first)[0].wants_copy()).count();
    let edited = after(
        &first,
        changed(|rule| {
            rule.filters = vec![mirror("m", 1, 10)];
            rule.request_timeout_ms = 7;
        }),
    );
    assert!(!Arc::ptr_eq(&only_rule(&first), &only_rule(&edited)));
    assert_eq!(usize::from(mirrors(&edited)[0].wants_copy()) + copied, 1);
    let other = after(&edited, with(vec![mirror("m", 1, 5)]));
    assert_eq!((0..5).filter(|_| mirrors(&other)[0].wants_copy()).count(), 1);
}

#[test]
fn a_mirror_follows_its_backend_as_it_comes_and_goes() {
    let snapshot = base(with(vec![mirror("late", 1, 1)]));
    assert!(mirrors(&snapshot)[0].backend().is_none());
    let held = only_rule(&snapshot).split.clone();
    let there = after(&snapshot, backend("late"));
    assert_eq!(&*mirrors(&there)[0].backend().unwrap().service, "late");
    assert!(Arc::ptr_eq(&held, &only_rule(&there).split));
    let (gone, _) = there.apply(&removals(&["backend/ns/late/80"]));
    assert!(matches!(mirrors(&gone)[0].target, Target::Unknown));
    // Also on a backendRef.
    let on_ref = base(changed(|rule| rule.backends[0].filters = vec![mirror("late", 1, 1)]));
    let there = after(&on_ref, backend("late"));
    let rule = only_rule(&there);
    let CompiledFilter::Mirror(mirror) = &rule.backends[0].filters[0] else { panic!("not a mirror") };
    assert!(mirror.backend().is_some());
}

fn external(change: impl FnOnce(&mut resource::ExternalAuth)) -> Filter {
    let mut auth = resource::ExternalAuth {
        backend_key: backend_key("m"),
        path: "/check".into(),
        allowed_request_headers: vec!["X-Token".into()],
        allowed_response_headers: vec!["X-User".into()],
        ..Default::default()
    };
    change(&mut auth);
    Filter { kind: Some(FilterKind::ExternalAuth(auth)) }
}

#[test]
fn an_external_authorization_has_its_backend_or_refuses() {
    let snapshot = base(with(vec![external(|_| {})]));
    let ready = auth(&snapshot);
    assert_eq!(&*ready.backend().unwrap().service, "m");
    assert_eq!(
        ready.protocol,
        AuthProtocol::Http { path: "/check".into(), allowed_response_headers: ["x-user".into()].into() }
    );
    assert_eq!((&*ready.allowed_request_headers, ready.max_body_bytes), (&["x-token".into()][..], None));
    let (gone, _) = snapshot.apply(&removals(&["backend/ns/m/80"]));
    assert!(auth(&gone).backend().is_none());
    let invalid = base(with(vec![external(|auth| auth.invalid_reason = "RefNotPermitted".into())]));
    assert_eq!(&*auth(&invalid).target.invalid_reason(), "RefNotPermitted");
    let grpc = base(with(vec![external(|auth| (auth.grpc, auth.max_body_bytes) = (true, 9))]));
    assert_eq!((&auth(&grpc).protocol, auth(&grpc).max_body_bytes), (&AuthProtocol::Grpc, Some(9)));
    for bad in [external(|auth| auth.path = "/a?b".into()), external(|auth| auth.path = "/\r\n".into())] {
        assert!(check_filter(&bad).is_err());
    }
    assert!(check_filter(&external(|auth| auth.allowed_request_headers.push("a b".into()))).is_err());
}

#[test]
fn a_filter_that_cannot_be_used_stays_in_its_place() {
    let invalid = Filter { kind: Some(FilterKind::Invalid("nobody knows it".into())) };
    let snapshot = base(with(vec![mirror("m", 1, 1), invalid]));
    let rule = only_rule(&snapshot);
    assert!(matches!(&rule.filters[1], CompiledFilter::Invalid(why) if &**why == "nobody knows it"));
}

#[test]
fn a_rules_own_session_goes_before_its_backends() {
    let session = |name: &str, header, permanent| SessionPersistence {
        name: name.into(),
        header,
        absolute_timeout_ms: 60_000,
        idle_timeout_ms: 0,
        permanent,
    };
    let mut sticky = backend("s0");
    let Some(Body::Backend(source)) = &mut sticky.body else { unreachable!() };
    source.session_persistence = Some(session("of-backend", false, true));
    let by_backend = after(&base(with(vec![])), sticky);
    let rule = only_rule(&by_backend);
    let of_backend = rule.session(0).unwrap();
    assert_eq!((&*of_backend.name, of_backend.carrier), ("of-backend", SessionCarrier::PermanentCookie));
    assert_eq!((of_backend.absolute_timeout, of_backend.idle_timeout), (Some(Duration::from_secs(60)), None));
    assert!(rule.session(1).is_none(), "its backend says nothing");
    let own = changed(|rule| rule.session_persistence = Some(session("own", true, false)));
    let rule = only_rule(&after(&by_backend, own));
    for backend in 0..2 {
        let held = rule.session(backend).unwrap();
        assert_eq!((&*held.name, held.carrier), ("own", SessionCarrier::Header));
    }
    let bad = changed(|rule| rule.session_persistence = Some(session("a b", true, false)));
    let (_, rejected) = by_backend.apply(&upserts(vec![bad]));
    assert!(rejected[0].reason.contains("`a b`"), "{rejected:?}");
}

#[test]
fn a_retry_budget_goes_on_while_its_settings_stay() {
    let budgeted = |percent, service: &str| {
        let mut resource = backend("s0");
        let Some(Body::Backend(source)) = &mut resource.body else { unreachable!() };
        source.service = service.into();
        source.retry_budget = Some(RetryBudget {
            percent,
            interval_ms: 10_000,
            min_retry_count: 10,
            min_retry_interval_ms: 1_000,
        });
        resource
    };
    let budget = |snapshot: &Snapshot| snapshot.backend("backend/ns/s0/80").unwrap().budget();
    let plain = base(with(vec![]));
    assert!(budget(&plain).is_none());
    let first = after(&plain, budgeted(20, "s0"));
    let held = budget(&first).unwrap();
    assert_eq!((0..20).filter(|_| held.retry(5)).count(), 10);
    let renamed = after(&first, budgeted(20, "s1"));
    assert!(Arc::ptr_eq(&held, &budget(&renamed).unwrap()));
    let other = after(&renamed, budgeted(30, "s1"));
    assert!(!Arc::ptr_eq(&held, &budget(&other).unwrap()));
}

#[test]
fn retries_are_as_the_rule_says() {
    let retry = Retry { codes: vec![503], attempts: 3, backoff_ms: 25 };
    let rule = only_rule(&base(changed(|rule| rule.retry = Some(retry))));
    let policy = rule.retry.as_ref().unwrap();
    assert_eq!((policy.attempts, policy.backoff), (3, Duration::from_millis(25)));
    assert!(policy.covers(503) && !policy.covers(500));
}

//! What is to be done about what is there, step by step with a clock of their own.

use super::*;
use weir_api::gateway_api::AddressType;

use crate::provision::sandbox::tests::{asking, unmanaged, view};

const SERVER: &str = "1";

fn id(piece: Piece) -> Id {
    Id::new(piece, "default", "weir-g")
}

fn pods() -> Id {
    id(Piece::Deployment)
}

fn object(piece: Piece, spec: Value) -> Value {
    json!({
        "metadata": {
            "namespace": "default",
            "name": "weir-g",
            "labels": {PROVISIONED_LABEL: "gateway"},
            "ownerReferences": [{"kind": "Gateway", "uid": "g"}],
        },
        "kind": piece.kind(),
        "spec": spec,
    })
}

/// As the server has it after `object` was written: with a uid, a version, and defaults.
fn stored(mut object: Value, version: u32) -> Value {
    object["metadata"]["uid"] = json!(SERVER);
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    object["spec"]["defaulted"] = json!(true);
    object
}

/// Everything was listed, and was not there.
fn table() -> Table {
    let mut table = Table::new(&[]);
    for piece in Piece::ALL {
        table.listed(piece, "", Vec::new(), false);
    }
    table
}

fn wish(table: &mut Table, wishes: &[(Piece, Value)]) {
    let wish = |(piece, spec): &(Piece, Value)| {
        (id(*piece), Arc::new(Wish::new(object(*piece, spec.clone()), Some(view("g").key), false)))
    };
    table.wish(wishes.iter().map(wish).collect(), BTreeSet::from(["g".to_owned()]), true, true);
}

fn next(table: &mut Table, now: Instant) -> Option<Action> {
    table.next(now).0.map(|(_, action)| action)
}

/// Writes what is to be written, as the server would take it.
fn settle(table: &mut Table, now: Instant, version: u32) {
    while let (Some((id, action)), _) = table.next(now) {
        match action {
            Action::Make { object, hash } | Action::Change { object, hash, .. } => {
                table.wrote(&id, hash, stored(object, version));
            }
            Action::Delete { .. } => _ = table.found(&id, None),
        }
    }
}

#[test]
fn nothing_is_done_before_everything_was_listed() {
    let mut table = Table::new(&["a".to_owned(), "b".to_owned()]);
    wish(&mut table, &[(Piece::Service, json!({"type": "LoadBalancer"}))]);
    let now = Instant::now();
    for piece in Piece::ALL {
        assert_eq!(next(&mut table, now), None);
        table.listed(piece, "a", Vec::new(), false);
    }
    assert_eq!(next(&mut table, now), None, "one of two namespaces");
    for piece in Piece::ALL {
        table.listed(piece, "b", Vec::new(), false);
    }
    assert!(matches!(next(&mut table, now), Some(Action::Make { .. })));
}

#[test]
fn what_an_api_that_was_put_back_has_is_what_there_is() {
    let now = Instant::now();
    let mut table = table();
    wish(&mut table, &[(Piece::Service, json!({"type": "LoadBalancer"}))]);
    settle(&mut table, now, 9);
    let drifted = stored(object(Piece::Service, json!({"type": "ClusterIP"})), 3);
    table.listed(Piece::Service, "", vec![drifted.clone()], false);
    assert_eq!(table.next(now), (None, None), "older than what is known");
    assert!(table.knows_newer(&id(Piece::Service), &drifted), "no state to write against");
    table.listed(Piece::Service, "", vec![drifted], true);
    let later = table.next(now).1.unwrap();
    let Some(Action::Change { object, .. }) = next(&mut table, later) else { panic!("a repair") };
    assert_eq!(object["metadata"]["resourceVersion"], "3", "against the version that is there");
}

#[test]
fn what_was_written_is_written_once_and_drift_is_repaired_against_the_version_that_was_seen() {
    let mut table = table();
    wish(&mut table, &[(Piece::Service, json!({"type": "LoadBalancer"}))]);
    let now = Instant::now();
    settle(&mut table, now, 5);
    assert_eq!((next(&mut table, now), table.pending()), (None, 0));
    let mut status = table.there[&id(Piece::Service)].object.clone();
    status["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    status["metadata"]["resourceVersion"] = json!("6");
    assert!(table.seen(Piece::Service, status.clone()), "it has an address now");
    assert_eq!(next(&mut table, now), None, "a status is no drift");
    status["spec"]["type"] = json!("NodePort");
    status["metadata"]["resourceVersion"] = json!("7");
    table.seen(Piece::Service, status);
    let (none, later) = table.next(now);
    assert_eq!(none, None, "a moment later");
    let later = later.unwrap();
    assert!(later - now <= REPAIR_FIRST);
    let Some(Action::Change { object, .. }) = next(&mut table, later) else { panic!("a repair") };
    assert_eq!(object["metadata"]["resourceVersion"], "7");
    assert_eq!(object["spec"]["type"], "LoadBalancer");
}

#[test]
fn whoever_starts_anew_finds_what_is_as_it_should_be() {
    let mut first = table();
    let wishes = [(Piece::Service, json!({"type": "LoadBalancer"}))];
    wish(&mut first, &wishes);
    let now = Instant::now();
    settle(&mut first, now, 5);
    let there = first.there[&id(Piece::Service)].object.clone();
    let mut second = table();
    second.seen(Piece::Service, there.clone());
    wish(&mut second, &wishes);
    assert_eq!(next(&mut second, now), None);
    // What another release of ours wrote, or somebody changed meanwhile, is not.
    let mut changed = there;
    changed["metadata"]["resourceVersion"] = json!("6");
    changed["spec"]["type"] = json!("ClusterIP");
    let mut third = table();
    third.seen(Piece::Service, changed);
    wish(&mut third, &wishes);
    assert!(matches!(next(&mut third, now), Some(Action::Change { .. })));
}

#[test]
fn what_another_installation_may_have_made_is_open_until_somebody_looked() {
    let (mut table, service, now) = (table(), id(Piece::Service), Instant::now());
    assert!(!table.is_open(&service, &view("g").key), "nobody wants it");
    wish(&mut table, &[(Piece::Service, json!({"type": "LoadBalancer"}))]);
    assert!(table.is_open(&service, &view("g").key));
    assert!(!table.is_open(&service, &view("h").key), "it is another's");
    assert!(matches!(next(&mut table, now), Some(Action::Make { .. })));
    // An answer that says nothing of it leaves that open.
    table.failed(&service, "503".to_owned(), false, now);
    assert!(table.is_open(&service, &view("g").key));
    let mut theirs = stored(object(Piece::Service, json!({"type": "LoadBalancer"})), 3);
    theirs["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    assert!(table.found(&service, Some(theirs)), "its address is news");
    assert!(!table.is_open(&service, &view("g").key));
    assert_eq!(table.addresses(&service, &view("g")).0[0].value, "192.0.2.1");
    assert!(table.found(&service, None), "that it went is news too");
    assert!(!table.is_open(&service, &view("g").key), "it is known not to be there");
    // Another is nobody's business until it is wanted again.
    wish(&mut table, &[]);
    wish(&mut table, &[(Piece::Service, json!({"type": "LoadBalancer"}))]);
    assert!(table.is_open(&service, &view("g").key));
    table.failed(&service, "it is another's".to_owned(), true, now);
    assert!(!table.is_open(&service, &view("g").key));
}

#[test]
fn what_lost_our_label_is_repaired_more_and_more_slowly_where_somebody_takes_it_away_again() {
    let (mut table, service) = (table(), id(Piece::Service));
    wish(&mut table, &[(Piece::Service, json!({"type": "LoadBalancer"}))]);
    let mut now = Instant::now();
    settle(&mut table, now, 5);
    let mut waited = Duration::ZERO;
    for round in 0..12_u32 {
        let mut unmarked = table.there[&service].object.clone();
        unmarked["metadata"]["labels"] = json!({});
        unmarked["metadata"]["resourceVersion"] = json!((10 + 2 * round).to_string());
        // To a watch by label it is gone, which may be or not: its address stands until somebody looked.
        table.gone(Piece::Service, &unmarked);
        assert!(table.is_open(&service, &view("g").key));
        assert!(matches!(next(&mut table, now), Some(Action::Make { .. })), "somebody looks");
        table.found(&service, Some(unmarked));
        let (_, later) = table.next(now);
        waited = later.unwrap() - now;
        now += waited;
        let (Some((_, Action::Change { object, hash, .. })), _) = table.next(now) else { panic!("a repair") };
        assert_eq!(object["metadata"]["labels"][PROVISIONED_LABEL], "gateway");
        table.wrote(&service, hash, stored(object, 11 + 2 * round));
    }
    assert!(waited > Duration::from_secs(5), "{waited:?}");
    assert_eq!((next(&mut table, now), table.pending()), (None, 0));
}

#[test]
fn of_many_addresses_as_many_are_shown_as_a_status_has_room_for() {
    let mut table = table();
    let service = id(Piece::Service);
    let ingress: Vec<Value> = (1..=20).map(|last| json!({"ip": format!("192.0.2.{last}")})).collect();
    let mut object = stored(object(Piece::Service, json!({"type": "LoadBalancer"})), 3);
    object["status"] = json!({"loadBalancer": {"ingress": ingress}});
    table.seen(Piece::Service, object);
    let (published, problem) = table.addresses(&service, &view("g"));
    assert_eq!((published.len(), problem), (MAX_ADDRESSES, None));
    // One that is asked for may be among the others.
    let asked = asking("g", AddressType::IpAddress, "192.0.2.9");
    assert!(!table.addresses(&service, &asked).0.iter().any(|address| address.value == "192.0.2.9"));
    assert_eq!(table.addresses(&service, &asked).1, None);
}

#[test]
fn a_fight_gets_slower_and_a_new_wish_does_not_wait_for_it() {
    let mut table = table();
    wish(&mut table, &[(Piece::Service, json!({"type": "LoadBalancer"}))]);
    let mut now = Instant::now();
    settle(&mut table, now, 5);
    let mut waited = Duration::ZERO;
    for round in 0..12_u32 {
        let mut theirs = table.there[&id(Piece::Service)].object.clone();
        theirs["spec"]["type"] = json!("NodePort");
        theirs["metadata"]["resourceVersion"] = json!((10 + 2 * round).to_string());
        table.seen(Piece::Service, theirs);
        let (_, later) = table.next(now);
        waited = later.unwrap() - now;
        now += waited;
        settle(&mut table, now, 11 + 2 * round);
    }
    assert!(waited > Duration::from_secs(5), "{waited:?}");
    wish(&mut table, &[(Piece::Service, json!({"type": "ClusterIP"}))]);
    assert!(next(&mut table, now).is_some());
}

#[test]
fn pods_wait_for_their_account_and_keep_their_number_when_it_is_nobodys_any_more() {
    let mut table = table();
    let account = (Piece::ServiceAccount, json!({}));
    wish(&mut table, &[(Piece::Deployment, json!({"replicas": 4}))]);
    let now = Instant::now();
    assert_eq!(next(&mut table, now), None);
    wish(&mut table, &[account.clone(), (Piece::Deployment, json!({"replicas": 4}))]);
    settle(&mut table, now, 5);
    assert_eq!(table.there.len(), 2);
    wish(&mut table, &[account, (Piece::Deployment, json!({"paused": false}))]);
    let Some(Action::Change { keeps_replicas, .. }) = next(&mut table, now) else { panic!("a change") };
    assert_eq!(keeps_replicas, Some(4));
}

#[test]
fn only_what_is_certainly_ours_and_not_wanted_is_deleted() {
    let now = Instant::now();
    let mut made = table();
    made.seen(Piece::Service, stored(object(Piece::Service, json!({})), 3));
    made.wish(BTreeMap::new(), BTreeSet::new(), true, true);
    assert_eq!(next(&mut made, now), None, "its Gateway is not known");
    made.wish(BTreeMap::new(), BTreeSet::from(["g".to_owned()]), false, true);
    assert_eq!(next(&mut made, now), None, "Gateways are not served");
    let mut shared = stored(object(Piece::Service, json!({})), 3);
    shared["metadata"]["labels"][PROVISIONED_LABEL] = json!("shared");
    let mut theirs = table();
    theirs.seen(Piece::Service, shared);
    theirs.wish(BTreeMap::new(), BTreeSet::from(["g".to_owned()]), true, true);
    assert_eq!(next(&mut theirs, now), None, "the installation's");
    made.wish(BTreeMap::new(), BTreeSet::from(["g".to_owned()]), true, true);
    let expected = Action::Delete { uid: SERVER.to_owned(), version: "3".to_owned() };
    assert_eq!(next(&mut made, now), Some(expected));
}

#[test]
fn failures_are_told_when_they_stay_and_forgotten_when_they_end() {
    let mut table = table();
    wish(&mut table, &[(Piece::Service, json!({}))]);
    let mut now = Instant::now();
    for _ in 0..QUIET_FAILURES {
        let (Some((id, _)), _) = table.next(now) else { panic!("it is tried") };
        assert!(!table.failed(&id, "down".to_owned(), false, now));
        now = table.next(now).1.unwrap();
        assert_eq!(table.trouble(&view("g").key, &pods()), None);
    }
    let (Some((id, Action::Make { object, hash })), _) = table.next(now) else { panic!("it is tried") };
    assert!(table.failed(&id, "down".to_owned(), false, now));
    assert_eq!(
        table.trouble(&view("g").key, &pods()).unwrap(),
        "Service default/weir-g cannot be written: down"
    );
    assert!(table.wrote(&id, hash, stored(object, 3)), "that is news");
    assert_eq!(table.trouble(&view("g").key, &pods()), None);
    // A refusal is told at once, and tried again less and less often.
    wish(&mut table, &[(Piece::Service, json!({"type": "nonsense"}))]);
    let (Some((id, _)), _) = table.next(now) else { panic!("it is tried") };
    assert!(table.failed(&id, "invalid".to_owned(), true, now));
    assert_eq!(table.next(now).1, Some(now + REFUSED_WAIT));
    for _ in 0..12 {
        now = table.next(now).1.expect("it is tried again");
        let (Some((id, _)), _) = table.next(now) else { panic!("it is tried") };
        table.failed(&id, "invalid".to_owned(), true, now);
    }
    assert!(table.next(now).1.is_some_and(|next| next >= now + RETRY_CAP / 2));
}

fn service(spec: Value, ingress: Value) -> Table {
    let mut table = table();
    let mut service = stored(object(Piece::Service, spec), 2);
    service["status"] = json!({"loadBalancer": {"ingress": ingress}});
    table.seen(Piece::Service, service);
    table
}

fn addresses(table: &Table, view: &GatewayView) -> (Vec<String>, Option<AddressProblem>) {
    let (published, problem) = table.addresses(&id(Piece::Service), view);
    (published.into_iter().map(|address| address.value).collect(), problem)
}

#[test]
fn addresses_are_the_services_in_the_operators_order() {
    let ingress = json!([{"ip": "192.0.2.9"}, {"hostname": "b.example"}, {"ip": "192.0.2.10"}, {"hostname": "a.example"}]);
    let balanced = service(json!({"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"]}), ingress);
    let (values, problem) = addresses(&balanced, &view("g"));
    assert_eq!(values, ["a.example", "b.example", "192.0.2.10", "192.0.2.9"]);
    assert_eq!(problem, None);
    let inside = service(json!({"type": "ClusterIP", "clusterIPs": ["10.0.0.1", "fd00::1"]}), json!([]));
    assert_eq!(addresses(&inside, &view("g")), (vec!["10.0.0.1".to_owned(), "fd00::1".to_owned()], None));
    let waiting = service(json!({"type": "LoadBalancer"}), json!([]));
    assert!(matches!(addresses(&waiting, &view("g")).1, Some(AddressProblem::NotAssigned(_))));
    assert!(matches!(addresses(&table(), &unmanaged("g")).1, Some(AddressProblem::NotAssigned(_))));
}

#[test]
fn an_address_that_was_asked_for_and_not_given_is_a_problem() {
    let given = service(json!({"type": "LoadBalancer"}), json!([{"ip": "192.0.2.9"}]));
    let ask = |value: &str| asking("g", AddressType::IpAddress, value);
    assert_eq!(addresses(&given, &ask("192.0.2.9")).1, None);
    assert_eq!(addresses(&given, &ask("")).1, None, "any will do");
    let refused = |view: &GatewayView| match addresses(&given, view).1 {
        Some(AddressProblem::NotUsable(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(refused(&ask("192.0.2.1")).contains("192.0.2.1 cannot be had"));
    assert!(refused(&ask("nonsense")).contains("not an IP address"));
    let mut two = ask("192.0.2.9");
    two.requested.extend(ask("192.0.2.1").requested);
    assert!(refused(&two).contains("one address"));
    let (published, problem) = addresses(&table(), &two);
    assert!(published.is_empty() && matches!(problem, Some(AddressProblem::NotUsable(_))), "{problem:?}");
}

#[test]
fn a_service_that_is_held_back_is_made_when_it_is_not_and_kept_where_it_is_there() {
    let mut table = table();
    let mut now = Instant::now();
    let wishes = |held: bool, address: &str| {
        let spec = json!({"type": "LoadBalancer", "loadBalancerIP": address});
        let wish = Wish::new(object(Piece::Service, spec), Some(view("g").key), false);
        let wish = if held { wish.held_back() } else { wish };
        BTreeMap::from([(id(Piece::Service), Arc::new(wish))])
    };
    let judged = || BTreeSet::from(["g".to_owned()]);
    table.wish(wishes(true, "192.0.2.1"), judged(), true, true);
    assert_eq!(next(&mut table, now), None, "it would be given an address that nobody asked for");
    table.wish(wishes(false, "192.0.2.1"), judged(), true, true);
    let Some(Action::Make { object, .. }) = table.next(now).0.map(|(_, action)| action) else {
        panic!("the same wish, not held back any more")
    };
    assert_eq!(object["spec"]["loadBalancerIP"], "192.0.2.1");
    table.put_off(&id(Piece::Service));
    settle(&mut table, now, 2);
    table.wish(wishes(true, "192.0.2.2"), judged(), true, true);
    now += REPAIR_FORGET;
    assert!(
        matches!(next(&mut table, now), Some(Action::Change { .. })),
        "not taken away, nor left as it was"
    );
}

#[test]
fn pods_that_cannot_be_made_are_told_with_the_servers_own_words() {
    let mut table = table();
    wish(&mut table, &[(Piece::ServiceAccount, json!({})), (Piece::Deployment, json!({}))]);
    settle(&mut table, Instant::now(), 2);
    let mut stuck = table.there[&id(Piece::Deployment)].object.clone();
    stuck["metadata"]["resourceVersion"] = json!("3");
    stuck["status"] = json!({"conditions": [
        {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "has timed out"},
    ]});
    assert!(table.seen(Piece::Deployment, stuck.clone()));
    assert!(table.trouble(&view("g").key, &pods()).unwrap().contains("has timed out"));
    stuck["metadata"]["resourceVersion"] = json!("4");
    stuck["status"]["availableReplicas"] = json!(1);
    assert!(table.seen(Piece::Deployment, stuck));
    assert_eq!(table.trouble(&view("g").key, &pods()), None);
}

#[test]
fn while_gateways_cannot_be_seen_what_is_missing_is_made_and_what_is_there_stays() {
    let (now, mut table) = (Instant::now(), table());
    let unknown = |table: &mut Table, wishes: &[(Piece, Value)]| {
        let wish = |(piece, spec): &(Piece, Value)| {
            (id(*piece), Arc::new(Wish::new(object(*piece, spec.clone()), None, false)))
        };
        table.wish(wishes.iter().map(wish).collect(), BTreeSet::from(["g".to_owned()]), false, true);
    };
    table.seen(Piece::Service, stored(object(Piece::Service, json!({"type": "LoadBalancer"})), 3));
    table.seen(Piece::NetworkPolicy, stored(object(Piece::NetworkPolicy, json!({})), 4));
    let wishes = [(Piece::ConfigMap, json!({})), (Piece::Service, json!({"type": "NodePort"}))];
    unknown(&mut table, &wishes);
    let (Some((made, Action::Make { object, hash })), _) = table.next(now) else { panic!("it is missing") };
    assert_eq!(made.piece, Piece::ConfigMap);
    table.wrote(&made, hash, stored(object, 5));
    assert_eq!(next(&mut table, now), None, "neither changed nor deleted");
    wish(&mut table, &wishes);
    assert!(matches!(next(&mut table, now), Some(Action::Change { .. })), "now it is known");
    assert!(matches!(next(&mut table, now), Some(Action::Delete { .. })));
}

#[test]
fn what_was_refused_is_tried_at_once_when_there_is_reason_to() {
    let (now, mut table) = (Instant::now(), table());
    wish(&mut table, &[(Piece::Service, json!({"type": "LoadBalancer"}))]);
    assert!(matches!(next(&mut table, now), Some(Action::Make { .. })));
    assert!(table.failed(&id(Piece::Service), "forbidden".to_owned(), true, now), "that is news");
    assert_eq!(next(&mut table, now), None);
    table.try_again();
    assert!(matches!(next(&mut table, now), Some(Action::Make { .. })));
    assert!(!table.failed(&id(Piece::Service), "forbidden".to_owned(), true, now), "it was told");
}

//! What instances are sent, and how far they are said to be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::sync::Notify;
use tokio::time::Instant;
use weir_model::resource::{Applied, BindReport, KindVersion, Rejected, Resource, Update};
use weir_model::wire::{Acknowledged, Entry, Held, Hello, Lane, Part, Position, Report};

use super::super::graph::tests::{backend, certificate, endpoints, listener, plane, route, upserts};
use super::{
    BINDS_MAX, Fleet, KEY_MAX, Next, PLANE_BINDS_MAX, PLANE_HELD_MAX, PLANE_REJECTED_MAX, PartSize, Parting,
    RUN_MAX, SessionId, bounded, held,
};

const SECOND: Duration = Duration::from_secs(1);

/// The set as an instance has it.
#[derive(Default)]
struct Instance {
    entries: BTreeMap<String, Entry>,
    messages: usize,
}

impl Instance {
    fn take(&mut self, part: &Part) {
        if part.full {
            self.entries.clear();
        }
        for key in &part.removals {
            self.entries.remove(key);
        }
        self.entries.extend(part.upserts.iter().map(|entry| (entry.key.clone(), entry.clone())));
        self.messages += usize::from(part.last);
    }
}

fn update(sequence: u64, update: Update) -> Update {
    Update { sequence, settled: true, ..update }
}

fn first() -> Update {
    let place = "plane:default/a";
    update(
        1,
        upserts(vec![
            listener("a", place, Some("a")),
            certificate("a", 1),
            route("r", &["a"], &["one"]),
            backend("one", None),
            endpoints("one", 1),
        ]),
    )
}

fn hello(run: &'static str, held: Vec<Held>) -> Hello {
    Hello { run: run.into(), instance: run.to_owned(), held, ..Hello::default() }
}

fn connect(fleet: &mut Fleet, run: &'static str) -> SessionId {
    fleet.connect(&plane("a"), hello(run, Vec::new()), Arc::<Notify>::default())
}

fn part(fleet: &mut Fleet, id: SessionId, now: Instant) -> Option<Part> {
    match fleet.next(id, 1, now) {
        Next::Part(part) => Some(part),
        Next::Nothing => None,
        other => panic!("{other:?}"),
    }
}

fn report(ready: bool) -> Report {
    let bind = BindReport { address: "::".to_owned(), port: 80, bound_port: 80, ..BindReport::default() };
    Report { ready, binds: vec![bind], draining: false }
}

fn acknowledge(fleet: &mut Fleet, id: SessionId, part: &Part, ready: bool) -> bool {
    let report = Some(report(ready));
    fleet
        .acknowledged(id, Acknowledged { lane: part.lane, number: part.number, rejected: Vec::new(), report })
}

/// Takes and acknowledges all that there is.
fn drink(fleet: &mut Fleet, id: SessionId, instance: &mut Instance, now: Instant) {
    while let Some(part) = part(fleet, id, now) {
        instance.take(&part);
        if part.last {
            assert!(acknowledge(fleet, id, &part, true));
        }
    }
}

fn of<'a>(applied: &'a Applied, name: &str) -> &'a weir_model::resource::PlaneApplied {
    applied.planes.iter().find(|one| one.place == plane(name).place()).unwrap()
}

#[test]
fn nothing_is_sent_before_the_set_is_complete() {
    let now = Instant::now();
    let mut fleet = Fleet::default();
    let id = connect(&mut fleet, "x");
    assert_eq!(part(&mut fleet, id, now), None, "it would take everything away");
    fleet.apply(&Update { settled: false, ..first() }, now);
    assert_eq!(part(&mut fleet, id, now), None, "something is still waited for");
    assert!(part(&mut fleet, id, now + 3 * SECOND).is_some(), "not for ever");
    let mut fleet = Fleet::default();
    let id = connect(&mut fleet, "x");
    fleet.apply(&first(), now);
    assert!(part(&mut fleet, id, now).is_some());
}

#[test]
fn who_has_most_of_it_is_sent_the_rest() {
    let now = Instant::now();
    let mut fleet = Fleet::default();
    fleet.apply(&first(), now);
    let mut known = Instance::default();
    let id = connect(&mut fleet, "x");
    drink(&mut fleet, id, &mut known, now);
    assert_eq!(known.entries.len(), 5);
    let mut held: Vec<Held> = known
        .entries
        .values()
        .map(|entry| Held { key: entry.key.clone(), hash: entry.hash.clone() })
        .collect();
    held.push(Held { key: "httproute/default/gone".to_owned(), hash: Default::default() });
    held.retain(|held| !held.key.starts_with("certificate"));
    let again = fleet.connect(&plane("a"), hello("y", held), Arc::default());
    let part = part(&mut fleet, again, now).unwrap();
    assert!(!part.full && part.last);
    assert_eq!(part.upserts.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["certificate/a"]);
    assert_eq!(part.removals, ["httproute/default/gone"]);
}

#[test]
fn what_is_in_can_turn_out_to_be_newer_than_it_said() {
    let now = Instant::now();
    let routes = |version: &str| KindVersion {
        kind: "HTTPRoute".to_owned(),
        resource_version: version.to_owned(),
        changed: version.to_owned(),
    };
    let mut fleet = Fleet::default();
    fleet.apply(&Update { versions: vec![routes("8")], ..first() }, now);
    let id = connect(&mut fleet, "x");
    drink(&mut fleet, id, &mut Instance::default(), now);
    let elsewhere = Position { epoch: 1, versions: vec![routes("9")] };
    assert!(fleet.position(1).older_than(&elsewhere).is_some());
    fleet.apply(&update(1, Update { versions: vec![routes("9")], ..Update::default() }), now);
    assert_eq!(fleet.position(1).older_than(&elsewhere), None);
    assert_eq!(part(&mut fleet, id, now), None, "nothing is sent for it");
    assert_eq!(of(&fleet.applied(now), "a").sequence, 1, "and nothing is waited for");
}

#[test]
fn who_served_before_another_begins_anew() {
    let now = Instant::now();
    let mut fleet = Fleet::default();
    fleet.apply(&first(), now);
    let id = connect(&mut fleet, "x");
    drink(&mut fleet, id, &mut Instance::default(), now);
    assert_eq!(of(&fleet.applied(now), "a").sequence, 1);
    fleet.disconnect(id, now);
    // Nothing that the data plane is to have changed, so it is believed to run that too,
    fleet.apply(&update(2, Update::default()), now);
    assert_eq!(of(&fleet.applied(now), "a").sequence, 2);
    // but not across another's time.
    fleet.stand_by(true);
    assert_eq!(of(&fleet.applied(now), "a").sequence, 0);
    fleet.stand_by(false);
    fleet.apply(&update(3, Update::default()), now);
    assert_eq!(of(&fleet.applied(now), "a").sequence, 0);
    let id = connect(&mut fleet, "x");
    assert_eq!(of(&fleet.applied(now), "a").sequence, 0, "it may have anything");
    drink(&mut fleet, id, &mut Instance::default(), now);
    assert_eq!(of(&fleet.applied(now), "a").sequence, 3);
}

#[test]
fn what_changes_while_an_instance_is_slow_is_one_message() {
    let now = Instant::now();
    let mut fleet = Fleet::default();
    fleet.apply(&first(), now);
    let id = connect(&mut fleet, "x");
    let begun = part(&mut fleet, id, now).unwrap();
    for sequence in 2..1_000 {
        let name = format!("r{sequence}");
        let before = format!("httproute/default/r{}", sequence - 1);
        let mut change = upserts(vec![route(&name, &["a"], &["one"])]);
        change.removals.push(before);
        fleet.apply(&update(sequence, change), now);
    }
    assert_eq!(part(&mut fleet, id, now), None, "one message at a time");
    let mut instance = Instance::default();
    instance.take(&begun);
    acknowledge(&mut fleet, id, &begun, true);
    drink(&mut fleet, id, &mut instance, now);
    assert_eq!(instance.messages, 2);
    assert!(instance.entries.contains_key("httproute/default/r999"));
    assert_eq!(instance.entries.len(), 6);
    assert_eq!(of(&fleet.applied(now), "a").sequence, 999);
}

#[test]
fn keys_that_come_and_go_do_not_pile_up() {
    let now = Instant::now();
    let mut fleet = Fleet::default();
    fleet.apply(&first(), now);
    let id = connect(&mut fleet, "x");
    let begun = part(&mut fleet, id, now).unwrap();
    for sequence in 2..12_000 {
        let mut change = upserts(vec![route(&format!("r{sequence}"), &["a"], &["one"])]);
        change.removals.push(format!("httproute/default/r{}", sequence - 1));
        fleet.apply(&update(sequence, change), now);
        let waiting: usize = fleet.sessions[&id].lanes.iter().map(|lane| lane.dirty.len()).sum();
        assert!(waiting < 4_200, "{waiting}");
    }
    let mut instance = Instance::default();
    instance.take(&begun);
    acknowledge(&mut fleet, id, &begun, true);
    let all = part(&mut fleet, id, now).unwrap();
    assert!(all.full, "everything, since nobody knows any more what went");
    instance.take(&all);
    assert_eq!(instance.entries.len(), 6);
}

#[test]
fn endpoints_do_not_wait_for_a_route_that_is_under_way() {
    let now = Instant::now();
    let mut fleet = Fleet::default();
    fleet.apply(&first(), now);
    let id = connect(&mut fleet, "x");
    drink(&mut fleet, id, &mut Instance::default(), now);
    fleet.apply(&update(2, upserts(vec![route("new", &["a"], &["one"])])), now);
    let slow = part(&mut fleet, id, now).unwrap();
    assert_eq!(slow.lane(), Lane::Configuration);
    fleet.apply(&update(3, upserts(vec![endpoints("one", 2)])), now);
    let fast = part(&mut fleet, id, now).unwrap();
    assert_eq!((fast.lane(), fast.last, fast.upserts.len()), (Lane::Endpoints, true, 1));
    acknowledge(&mut fleet, id, &fast, true);
    assert_eq!(of(&fleet.applied(now), "a").sequence, 1, "the route does not run yet");
    acknowledge(&mut fleet, id, &slow, true);
    assert_eq!(of(&fleet.applied(now), "a").sequence, 3);
}

#[test]
fn one_that_does_not_acknowledge_is_let_go() {
    let now = Instant::now();
    let mut fleet = Fleet::default();
    fleet.apply(&first(), now);
    let id = connect(&mut fleet, "x");
    let begun = part(&mut fleet, id, now).unwrap();
    assert!(!acknowledge(&mut fleet, id, &Part { number: 9, ..begun }, true), "that was not sent");
    assert_eq!(fleet.next(id, 1, now + 59 * SECOND), Next::Nothing);
    assert_eq!(fleet.next(id, 1, now + 60 * SECOND), Next::End(Parting::Slow));
}

#[test]
fn a_later_stream_of_the_same_process_takes_the_place_of_the_first() {
    let mut fleet = Fleet::default();
    let first = connect(&mut fleet, "x");
    let other = connect(&mut fleet, "y");
    let second = connect(&mut fleet, "x");
    let now = Instant::now();
    assert_eq!(fleet.next(first, 1, now), Next::End(Parting::Replaced));
    assert_eq!(fleet.next(other, 1, now), Next::Nothing);
    assert_eq!(fleet.next(second, 1, now), Next::Nothing);
}

#[test]
fn an_update_runs_when_a_ready_instance_and_all_others_run_it_or_had_the_time() {
    let now = Instant::now();
    let mut fleet = Fleet::default();
    fleet.apply(&first(), now);
    let (x, y) = (connect(&mut fleet, "x"), connect(&mut fleet, "y"));
    let begun = part(&mut fleet, x, now).unwrap();
    acknowledge(&mut fleet, x, &begun, false);
    let applied = fleet.applied(now);
    assert_eq!((of(&applied, "a").sequence, of(&applied, "a").connected), (0, 2), "nobody is ready");
    assert!(applied.binds.is_empty());
    fleet.reported(x, report(true));
    let applied = fleet.applied(now);
    assert_eq!(
        (of(&applied, "a").sequence, of(&applied, "a").ready),
        (0, 1),
        "the other does not run it yet"
    );
    assert_eq!(applied.binds[0].address, "plane:default/a");
    let late = fleet.applied_deadline().unwrap();
    assert_eq!(late, now + 5 * SECOND);
    assert_eq!(of(&fleet.applied(late), "a").sequence, 1, "it had its time");
    fleet.apply(&update(2, upserts(vec![route("new", &["a"], &["one"])])), late);
    let begun = part(&mut fleet, y, late).unwrap();
    acknowledge(&mut fleet, y, &begun, true);
    assert_eq!(of(&fleet.applied(late), "a").sequence, 1);
    let begun = part(&mut fleet, x, late).unwrap();
    acknowledge(&mut fleet, x, &begun, true);
    assert_eq!(of(&fleet.applied(late), "a").sequence, 2);
}

#[test]
fn a_data_plane_that_is_not_there_holds_up_nobody_else() {
    let now = Instant::now();
    let mut fleet = Fleet::default();
    fleet.apply(&first(), now);
    fleet.apply(&update(2, upserts(vec![listener("b", "plane:default/b", None)])), now);
    let id = connect(&mut fleet, "x");
    drink(&mut fleet, id, &mut Instance::default(), now);
    let applied = fleet.applied(now);
    assert_eq!((of(&applied, "a").sequence, of(&applied, "b").sequence, applied.sequence), (2, 0, 2));
}

#[test]
fn one_that_is_ready_and_answers_nothing_holds_up_its_own_data_plane_alone() {
    let now = Instant::now();
    let mut fleet = Fleet::default();
    fleet.apply(&first(), now);
    let id = connect(&mut fleet, "x");
    fleet.reported(id, report(true));
    assert_eq!(fleet.applied(now).sequence, 0);
    let late = fleet.applied_deadline().unwrap();
    let applied = fleet.applied(late);
    assert_eq!((of(&applied, "a").sequence, applied.sequence), (0, 1), "nobody waits longer for it");
}

#[test]
fn an_instance_that_went_away_is_believed_to_come_back_for_a_while() {
    let now = Instant::now();
    let mut fleet = Fleet::default();
    fleet.apply(&first(), now);
    let id = connect(&mut fleet, "x");
    drink(&mut fleet, id, &mut Instance::default(), now);
    fleet.disconnect(id, now);
    let applied = fleet.applied(now);
    assert_eq!((applied.binds.len(), of(&applied, "a").connected), (1, 0));
    // What is not for it runs there as ever, and what is for it does not.
    fleet.apply(&update(2, upserts(vec![listener("b", "plane:default/b", None)])), now);
    assert_eq!(of(&fleet.applied(now), "a").sequence, 2);
    fleet.apply(&update(3, upserts(vec![route("new", &["a"], &["one"])])), now);
    assert_eq!(of(&fleet.applied(now), "a").sequence, 2);
    let over = now + 10 * SECOND;
    assert!(fleet.applied_deadline().is_some_and(|deadline| deadline <= over));
    assert!(fleet.applied(over).binds.is_empty());
    // One that said that it ends is not waited for.
    let id = connect(&mut fleet, "y");
    drink(&mut fleet, id, &mut Instance::default(), over);
    assert_eq!(fleet.applied(over).binds.len(), 1);
    fleet.reported(id, Report { ready: false, draining: true, ..report(false) });
    fleet.disconnect(id, over);
    assert!(fleet.applied(over).binds.is_empty());
}

#[test]
fn what_any_instance_rejects_is_told_until_none_does() {
    let now = Instant::now();
    let mut fleet = Fleet::default();
    fleet.apply(&first(), now);
    let id = connect(&mut fleet, "x");
    let begun = part(&mut fleet, id, now).unwrap();
    let rejected = vec![Rejected { key: "httproute/default/r".to_owned(), reason: "too big".to_owned() }];
    let said =
        Acknowledged { lane: begun.lane, number: begun.number, rejected: rejected.clone(), report: None };
    assert!(fleet.acknowledged(id, said));
    assert_eq!(fleet.applied(now).rejected, rejected);
    fleet.disconnect(id, now);
    assert!(fleet.applied(now).rejected.is_empty());
}

#[test]
fn ten_thousand_routes_are_sent_in_bounded_parts_and_one_edit_alone() {
    let now = Instant::now();
    let mut fleet = Fleet::default();
    let mut all = first();
    all.upserts.extend((0..10_000).map(|index| route(&format!("r{index}"), &["a"], &["one"])));
    fleet.apply(&all, now);
    let id = connect(&mut fleet, "x");
    let mut instance = Instance::default();
    let (mut bytes, mut parts) = (0, 0);
    while let Some(part) = part(&mut fleet, id, now) {
        let size = prost::Message::encoded_len(&part);
        assert!(size < 600 * 1024, "{size}");
        (bytes, parts) = (bytes + size, parts + 1);
        instance.take(&part);
        if part.last {
            acknowledge(&mut fleet, id, &part, true);
        }
    }
    assert_eq!((instance.messages, instance.entries.len()), (1, 10_005));
    assert!(parts > 1 && bytes > 1_000_000, "{parts} parts of {bytes} bytes");
    fleet.apply(&update(2, upserts(vec![route("r7", &["a"], &["other"])])), now);
    let delta = part(&mut fleet, id, now).unwrap();
    assert!(delta.last && prost::Message::encoded_len(&delta) < 400);
}

#[test]
fn gateways_that_come_and_go_leave_nothing_behind() {
    let mut now = Instant::now();
    let mut fleet = Fleet::default();
    fleet.apply(&first(), now);
    let sizes =
        |fleet: &Fleet| (fleet.graph.sizes(), fleet.states.len(), fleet.sessions.len(), fleet.sent.len());
    fleet.applied(now);
    let before = sizes(&fleet);
    for turn in 0..200_u64 {
        let (name, sequence) = (format!("gone{turn}"), 2 + turn * 3);
        let place = plane(&name).place();
        let made = upserts(vec![
            listener(&name, &place, Some(&name)),
            certificate(&name, 1),
            route(&name, &[&name], &[&name]),
            backend(&name, None),
            endpoints(&name, 1),
        ]);
        let keys = made.upserts.iter().map(|resource| resource.key().to_owned()).collect();
        fleet.apply(&update(sequence, made), now);
        let id = fleet.connect(&plane(&name), hello("x", Vec::new()), Arc::default());
        drink(&mut fleet, id, &mut Instance::default(), now);
        assert_eq!(of(&fleet.applied(now), &name).ready, 1);
        if turn % 2 == 0 {
            // Its pod goes last, and without a word.
            fleet.apply(&update(sequence + 1, Update { removals: keys, ..Update::default() }), now);
            fleet.disconnect(id, now);
        } else {
            fleet.reported(id, Report { ready: false, draining: true, ..report(false) });
            fleet.disconnect(id, now);
            fleet.apply(&update(sequence + 1, Update { removals: keys, ..Update::default() }), now);
        }
        fleet.applied(now);
        // One that nobody knows comes, with a certificate that it still has.
        let id = fleet.connect(&plane(&name), hello("y", Vec::new()), Arc::default());
        fleet.disconnect(id, now);
        now += 10 * SECOND;
        fleet.applied(now);
        assert_eq!(sizes(&fleet), (before.0, before.1, before.2, 0), "after {name}");
        assert_eq!(fleet.applied_deadline(), None, "nothing is waited for");
    }
}

#[test]
fn an_instance_has_no_say_about_what_is_anothers() {
    let now = Instant::now();
    let mut fleet = Fleet::default();
    fleet.apply(&first(), now);
    fleet.apply(
        &update(2, upserts(vec![listener("b", "plane:default/b", None), route("theirs", &["b"], &["two"])])),
        now,
    );
    let id = connect(&mut fleet, "x");
    let begun = part(&mut fleet, id, now).unwrap();
    let rejected = |key: &str| Rejected { key: key.to_owned(), reason: "é".repeat(4_000) };
    let bind = |port| BindReport { address: "192.0.2.1".to_owned(), port, ..report(true).binds.remove(0) };
    let said = Acknowledged {
        lane: begun.lane,
        number: begun.number,
        rejected: vec![rejected("httproute/default/theirs"), rejected("httproute/default/r")],
        report: Some(Report { ready: true, binds: vec![bind(80), bind(70_000), bind(0)], draining: false }),
    };
    assert!(fleet.acknowledged(id, said));
    let applied = fleet.applied(now);
    let told: Vec<(&str, usize)> =
        applied.rejected.iter().map(|one| (one.key.as_str(), one.reason.len())).collect();
    assert_eq!(told, [("httproute/default/r", 1_024)]);
    let binds: Vec<(&str, u32)> =
        applied.binds.iter().map(|bind| (bind.address.as_str(), bind.port)).collect();
    assert_eq!(binds, [("plane:default/a", 80)], "its own place, and ports that there are");
}

fn sockets(ports: impl IntoIterator<Item = u32>) -> Report {
    let bind = |port| BindReport { port, ..report(true).binds.remove(0) };
    Report { ready: true, binds: ports.into_iter().map(bind).collect(), draining: false }
}

#[test]
fn sockets_count_once_and_as_many_as_there_can_be() {
    let mut many = sockets((1..=65_535).chain([0, 70_000]).cycle().take(200_000));
    many.binds[0].error = "x".repeat(100_000);
    many.binds[0].address = "::".repeat(100_000);
    let kept = bounded(many, PLANE_BINDS_MAX).binds;
    assert_eq!((kept.len(), kept[0].error.len(), kept[0].address.len()), (BINDS_MAX, 1_024, 64));
    assert!(
        kept.capacity() < 2 * BINDS_MAX && kept[0].error.capacity() < 2_048,
        "no room is kept for the others"
    );
    assert_eq!(bounded(sockets(vec![80; 10_000]), PLANE_BINDS_MAX), sockets([80]));
    // Another protocol or address is another socket.
    let mut three = sockets([80, 80, 80]);
    three.binds[1].udp = true;
    three.binds[2].address = "192.0.2.1".to_owned();
    assert_eq!(bounded(three.clone(), PLANE_BINDS_MAX), three);
    assert_eq!(bounded(three, 2).binds.len(), 2);
}

#[test]
fn what_instances_of_one_data_plane_tell_is_bounded_for_all_of_them() {
    let now = Instant::now();
    let mut fleet = Fleet::default();
    fleet.apply(&first(), now);
    let full = PLANE_BINDS_MAX / BINDS_MAX;
    let ids: Vec<SessionId> = (0..=full).map(|_| connect(&mut fleet, "")).collect();
    for id in &ids {
        assert!(fleet.reported(*id, sockets(1..=65_535)));
        assert!(!fleet.reported(*id, sockets(1..=65_535)), "its own are no others'");
    }
    let told = |fleet: &Fleet| fleet.sessions.values().map(|one| one.report.binds.len()).sum::<usize>();
    assert_eq!(told(&fleet), PLANE_BINDS_MAX);
    assert!(fleet.sessions[&ids[full]].report.ready, "the rest of what it says counts");
    let other = fleet.connect(&plane("b"), hello("b", Vec::new()), Arc::default());
    fleet.reported(other, sockets(1..=100));
    assert_eq!(told(&fleet), PLANE_BINDS_MAX + 100, "another data plane has room of its own");
    assert!(fleet.applied(now).binds.len() <= BINDS_MAX + 100);
    assert_eq!(fleet.room(ids[0], PLANE_REJECTED_MAX, |other| other.rejected.len()), PLANE_REJECTED_MAX);
}

#[test]
fn who_holds_what_cannot_be_or_comes_with_too_many_is_sent_everything() {
    let now = Instant::now();
    let one = |key: String| Held { key, hash: vec![7; 16].into() };
    assert_eq!(held(vec![one("a".to_owned()), one("a".to_owned())], 2).len(), 1);
    assert!(held(vec![one("a".to_owned()), one("b".to_owned())], 1).is_empty());
    assert!(held(vec![one("a".to_owned()), one("x".repeat(KEY_MAX + 1))], 2).is_empty());
    let short = held(vec![Held { hash: vec![7; 3].into(), ..one("a".to_owned()) }], 1);
    assert_eq!(short["a"], [0; 16], "no hash is that of a resource");

    let mut fleet = Fleet::default();
    let many: Vec<Held> = (0..PLANE_HELD_MAX / 4).map(|index| one(format!("httproute/x/{index}"))).collect();
    let run = vec![b'r'; 10_000];
    let mut last = None;
    for _ in 0..5 {
        let hello = Hello { run: run.clone().into(), held: many.clone(), ..Hello::default() };
        last = Some(fleet.connect(&plane("a"), hello, Arc::default()));
    }
    let waiting = |session: &super::Session| session.held.as_ref().map_or(0, |held| held.len());
    assert_eq!(fleet.sessions.values().map(waiting).sum::<usize>(), PLANE_HELD_MAX);
    assert!(fleet.sessions.values().all(|session| session.run.len() == RUN_MAX));
    fleet.apply(&first(), now);
    let part = part(&mut fleet, last.unwrap(), now).unwrap();
    assert!(part.full && part.upserts.len() == 5, "{part:?}");
}

#[test]
fn served_counts_are_taken_once_from_each_that_was_asked() {
    let now = Instant::now();
    let mut fleet = Fleet::default();
    fleet.apply(&first(), now);
    let (x, y) = (connect(&mut fleet, "x"), connect(&mut fleet, "y"));
    let (request, asked) = fleet.want_splits();
    assert_eq!(asked, 2);
    assert_eq!(fleet.answered_splits(x, request), None, "it was not asked yet");
    assert_eq!(fleet.next(x, 1, now), Next::SplitsWanted(request));
    assert_eq!(fleet.answered_splits(x, request + 1), None, "nobody asked that");
    assert_eq!(fleet.answered_splits(x, request), Some((plane("a"), "x".to_owned())));
    assert_eq!(fleet.answered_splits(x, request), None, "it would take another's room");
    assert_eq!(fleet.next(y, 1, now), Next::SplitsWanted(request));
    assert_eq!(fleet.answered_splits(y, request), Some((plane("a"), "y".to_owned())));
}

#[test]
fn what_a_data_plane_is_to_have_is_told_by_name_and_not_by_content() {
    let now = Instant::now();
    let mut fleet = Fleet::default();
    fleet.apply(&first(), now);
    let id = connect(&mut fleet, "x");
    let contents = fleet.contents();
    let keys: Vec<&str> = contents[0].entries.iter().map(|entry| &*entry.key).collect();
    assert_eq!(
        keys,
        [
            "backend/default/one/80",
            "certificate/a",
            "endpoints/default/one/80",
            "httproute/default/r",
            "listener/default/a"
        ]
    );
    assert_eq!((contents[0].instances[0].waiting, contents[0].instances[0].report.sequence), (5, 0));
    let mut instance = Instance::default();
    drink(&mut fleet, id, &mut instance, now);
    let contents = fleet.contents();
    assert_eq!((contents[0].instances[0].waiting, contents[0].instances[0].report.sequence), (0, 1));
    for entry in &contents[0].entries {
        let held = &instance.entries[&*entry.key];
        assert_eq!((&held.hash, held.body.len()), (&entry.hash, entry.bytes), "{}", entry.key);
    }
    fleet.apply(&update(2, upserts(vec![endpoints("one", 2)])), now);
    assert_eq!(fleet.contents()[0].instances[0].waiting, 1);
    part(&mut fleet, id, now).unwrap();
    assert_eq!(fleet.contents()[0].instances[0].waiting, 1, "sent is not acknowledged");
}

/// An instance as it is: a message takes effect with its last part, and endpoints may go ahead of configuration that is still coming.
#[derive(Clone, Debug, Default)]
struct Careful {
    entries: BTreeMap<String, Entry>,
    gathering: [Option<Part>; 2],
    /// What is to be acknowledged.
    done: Vec<Part>,
}

impl Careful {
    fn take(&mut self, part: Part) {
        let lane = usize::from(part.lane() == Lane::Endpoints);
        let (number, last) = (part.number, part.last);
        let gathered = self.gathering[lane].get_or_insert_with(|| Part { full: part.full, ..header(&part) });
        assert_eq!(gathered.number, number, "one message of a lane at a time");
        gathered.upserts.extend(part.upserts);
        gathered.removals.extend(part.removals);
        if !last {
            return;
        }
        let mut message = self.gathering[lane].take().unwrap();
        if message.lane() == Lane::Endpoints {
            for entry in &message.upserts {
                assert!(entry.key.starts_with("endpoints/"), "{entry:?}");
                let waiting = self.gathering[0].iter_mut().flat_map(|waiting| &mut waiting.upserts);
                waiting.filter(|older| older.key == entry.key).for_each(|older| older.clone_from(entry));
            }
            message.upserts.retain(|entry| self.entries.contains_key(&entry.key));
        }
        if message.full {
            self.entries.clear();
        }
        message.removals.iter().for_each(|key| _ = self.entries.remove(key));
        self.entries.extend(message.upserts.iter().map(|entry| (entry.key.clone(), entry.clone())));
        self.done.push(header(&message));
    }

    fn held(&self) -> Vec<Held> {
        let held = |entry: &Entry| Held { key: entry.key.clone(), hash: entry.hash.clone() };
        self.entries.values().map(held).collect()
    }
}

fn header(part: &Part) -> Part {
    Part { lane: part.lane, number: part.number, ..Part::default() }
}

#[derive(Clone, Debug)]
enum Turn {
    /// An edit of one of a few names.
    Listener(usize, bool),
    Route(usize, usize),
    Service(usize, bool),
    Endpoints(usize, u32),
    /// Everything anew, as after a restart of the source.
    Full,
    /// So many parts are sent to an instance.
    Send(usize, usize),
    Acknowledge(usize),
    Reconnect(usize),
    /// It comes back without what it had.
    Replace(usize),
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        2 => (0..3_usize, any::<bool>()).prop_map(|(name, there)| Turn::Listener(name, there)),
        4 => (0..4_usize, 0..5_usize).prop_map(|(name, service)| Turn::Route(name, service)),
        2 => (0..4_usize, any::<bool>()).prop_map(|(name, there)| Turn::Service(name, there)),
        6 => (0..4_usize, 0..9_u32).prop_map(|(name, port)| Turn::Endpoints(name, port)),
        1 => Just(Turn::Full),
        10 => (0..2_usize, 1..4_usize).prop_map(|(who, parts)| Turn::Send(who, parts)),
        6 => (0..2_usize).prop_map(Turn::Acknowledge),
        1 => (0..2_usize).prop_map(Turn::Reconnect),
        1 => (0..2_usize).prop_map(Turn::Replace),
    ];
    proptest::collection::vec(turn, 1..80)
}

/// The set of everything after an edit, with what the edit is as an update.
fn edit(all: &mut BTreeMap<String, Resource>, turn: &Turn) -> Option<Update> {
    let mut put = |resource: Resource| {
        all.insert(resource.key().to_owned(), resource.clone());
        upserts(vec![resource])
    };
    let removal = |key: String| Update { removals: vec![key], ..Update::default() };
    Some(match turn {
        Turn::Listener(name, true) => put(listener(&format!("l{name}"), "plane:default/a", Some("c"))),
        Turn::Listener(name, false) => {
            let key = format!("listener/default/l{name}");
            all.remove(&key);
            removal(key)
        }
        Turn::Route(name, 4) => {
            let key = format!("httproute/default/r{name}");
            all.remove(&key);
            removal(key)
        }
        Turn::Route(name, service) => {
            let listener = format!("l{}", name % 3);
            put(route(&format!("r{name}"), &[&listener], &[&format!("s{service}")]))
        }
        Turn::Service(name, true) => put(backend(&format!("s{name}"), None)),
        Turn::Service(name, false) => {
            let key = format!("backend/default/s{name}/80");
            all.remove(&key);
            removal(key)
        }
        Turn::Endpoints(name, 0) => {
            let key = format!("endpoints/default/s{name}/80");
            all.remove(&key);
            removal(key)
        }
        Turn::Endpoints(name, port) => put(endpoints(&format!("s{name}"), *port)),
        Turn::Full => Update { full: true, ..upserts(all.values().cloned().collect()) },
        _ => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn whatever_happens_on_the_way_every_instance_comes_to_have_what_it_should(turns in turns()) {
        let now = Instant::now();
        // A part has one or two resources.
        let mut fleet = Fleet { part_size: PartSize(100), ..Fleet::default() };
        let mut all = BTreeMap::new();
        let mut sequence = 1;
        // Services that a route brings along, and nothing that leads to them yet.
        for name in 0..4 {
            edit(&mut all, &Turn::Service(name, true));
            edit(&mut all, &Turn::Endpoints(name, 1));
            edit(&mut all, &Turn::Listener(name % 3, true));
        }
        let first = upserts(all.values().cloned().collect());
        fleet.apply(&update(sequence, Update { full: true, ..first }), now);
        let mut instances = [Careful::default(), Careful::default()];
        let mut ids = ["x", "y"].map(|run| connect(&mut fleet, run));
        for turn in &turns {
            if let Some(change) = edit(&mut all, turn) {
                sequence += 1;
                fleet.apply(&update(sequence, change), now);
            }
            match turn {
                Turn::Send(who, parts) => {
                    for _ in 0..*parts {
                        part(&mut fleet, ids[*who], now).into_iter().for_each(|part| instances[*who].take(part));
                    }
                }
                Turn::Acknowledge(who) => {
                    for done in std::mem::take(&mut instances[*who].done) {
                        prop_assert!(acknowledge(&mut fleet, ids[*who], &done, true));
                    }
                }
                Turn::Reconnect(who) | Turn::Replace(who) => {
                    fleet.disconnect(ids[*who], now);
                    let before = std::mem::take(&mut instances[*who]);
                    if matches!(turn, Turn::Reconnect(_)) {
                        instances[*who].entries = before.entries;
                    }
                    let hello = hello(["x", "y"][*who], instances[*who].held());
                    ids[*who] = fleet.connect(&plane("a"), hello, Arc::default());
                }
                _ => {}
            }
        }
        for (instance, id) in instances.iter_mut().zip(ids) {
            // Whatever is left: acknowledged, sent, acknowledged.
            loop {
                for done in std::mem::take(&mut instance.done) {
                    prop_assert!(acknowledge(&mut fleet, id, &done, true));
                }
                let Some(part) = part(&mut fleet, id, now) else { break };
                instance.take(part);
            }
            let wanted = &fleet.contents();
            let wanted: BTreeMap<&str, &bytes::Bytes> =
                wanted[0].entries.iter().map(|entry| (&*entry.key, &entry.hash)).collect();
            let has: BTreeMap<&str, &bytes::Bytes> =
                instance.entries.iter().map(|(key, entry)| (key.as_str(), &entry.hash)).collect();
            prop_assert_eq!(wanted, has);
        }
        let applied = fleet.applied(now);
        prop_assert_eq!(of(&applied, "a").sequence, sequence, "and that is known");
    }
}

//! Times and sizes, for people: `cargo test -p weir-model --test it -- --ignored --nocapture --test-threads 1 cost`.
//! What must hold on any machine is counted elsewhere ([`crate::apply`]).

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use weir_model::path::normalise;
use weir_model::resource::Resource;
use weir_model::select::{NoProbe, RequestView, select};
use weir_model::split::{LayoutCache, Split, SplitSpec};
use weir_model::table::Snapshot;

use crate::apply::{edited, many};
use crate::build::{attach, backend, full, listener, prefix, route, rule, upserts};

fn nanoseconds(rounds: u32, mut work: impl FnMut(u32)) -> f64 {
    let started = Instant::now();
    for round in 0..rounds {
        work(round);
    }
    started.elapsed().as_nanos() as f64 / f64::from(rounds)
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "prints times"]
fn tickets() {
    let sixteen: Vec<u32> = (0..16).map(|i| 900_000 + i).collect();
    for weights in [
        &[1][..],
        &[1, 1],
        &[2, 1],
        &[999_999, 1],
        &[499_999, 500_001],
        &[5, 3, 2],
        &[34, 21, 13, 8, 5, 3, 2, 1],
        &sixteen,
    ] {
        let backends: Vec<Arc<str>> = (0..weights.len()).map(|i| Arc::from(i.to_string())).collect();
        let spec = SplitSpec { seed: 1, identity: "", epoch: 1, backends: &backends, weights };
        let split = Split::new(&spec, &LayoutCache::default()).unwrap();
        let time = nanoseconds(10_000_000, |_| {
            black_box(split.next());
        });
        println!("{weights:?}: {time:.1} ns a ticket");
    }
}

fn asked(name: &str) -> Option<usize> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// `ROUTES` and `ROUNDS` make a run short, to count instructions with callgrind.
#[test]
#[ignore = "prints times"]
fn selections() {
    let by_host: fn(usize) -> Vec<Resource> = |count| {
        let mut resources = vec![listener("l", "127.0.0.1", 80, ""), backend("s0")];
        resources.extend((0..count).map(|index| {
            let rules = vec![rule("", vec![prefix("/")], &[("s0", 1)])];
            route(&format!("r{index}"), 0, vec![attach("l", &[&format!("h{index}.example.com")])], rules)
        }));
        resources
    };
    let (routes, rounds) = (asked("ROUTES"), asked("ROUNDS").unwrap_or(3_000_000));
    for count in routes.map_or(vec![1, 100, 40_000], |count| vec![count]) {
        for (what, resources, host, path) in [
            ("by host", by_host(count), format!("h{}.example.com", count / 2), "/echo".to_owned()),
            ("by path", many(count), "one.example".to_owned(), format!("/r/{}/x/y?", count / 2)),
        ] {
            let (snapshot, _) = Snapshot::empty(1).apply(&full(resources));
            let (_, table) = snapshot.binds().next().unwrap();
            let headers: [(&str, &str); 0] = [];
            let mut buffer = Vec::new();
            let path = path.trim_end_matches('?');
            let time = nanoseconds(rounds as u32, |_| {
                normalise(black_box(path.as_bytes()), &mut buffer).unwrap();
                let request = RequestView {
                    method: b"GET",
                    host: black_box(host.as_bytes()),
                    path: path.as_bytes(),
                    query: None,
                    headers: &headers,
                };
                assert!(select(table, &request, &mut NoProbe).is_some());
            });
            println!("{count} routes {what}: {time:.0} ns a selection");
        }
    }
}

/// `ROUTES` and `EDITS` make a run of their own, to count instructions with callgrind: the difference of two runs.
#[test]
#[ignore = "prints times and sizes"]
fn edits() {
    let counts = asked("ROUTES").map_or(vec![100, 1_000, 5_000, 40_000], |count| vec![count]);
    let edits = asked("EDITS").unwrap_or(4_000);
    for count in counts {
        let update = full(many(count));
        let before = resident_kib();
        let started = Instant::now();
        let (mut snapshot, _) = Snapshot::empty(1).apply(&update);
        let loaded = started.elapsed();
        let grown = resident_kib() - before;
        let updates: Vec<_> = (0..edits)
            .map(|edit| {
                upserts(vec![if edit % 2 == 0 {
                    edited(edit % count, edit)
                } else {
                    reweighted(edit % count, edit)
                }])
            })
            .collect();
        let started = Instant::now();
        for update in &updates {
            snapshot = snapshot.apply(update).0;
        }
        let time = started.elapsed().as_nanos() / edits.max(1) as u128;
        println!("{count} routes: load {loaded:?}, {grown} KiB more resident, {time} ns an edit");
    }
}

/// The route with other backends in each round.
fn reweighted(index: usize, round: usize) -> Resource {
    let weight = round as u32 % 1_000 + 2;
    let rules =
        vec![rule(&format!("a{index}"), vec![prefix(&format!("/r/{index}"))], &[("s0", 1), ("s1", weight)])];
    route(&format!("r{index}"), 0, vec![attach("l", &["one.example"])], rules)
}

//! What the tests of the binary share: its processes, the real `kubectl` and `curl`, waits with a deadline, counts.
//!
//! Invariants: every child is ended by its own id when its owner is dropped; every wait is on a condition and names
//! it when its deadline passes; nothing is written outside the test's own temporary directory.

pub(crate) mod http;
pub(crate) mod process;
pub(crate) mod sandbox;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// For each wait: far above what a loaded machine needs, so that it only ends what hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// A file of the guides, as the project carries it.
pub(crate) fn example(path: &str) -> String {
    let full = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(path);
    let full = full.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", full.display()));
    full.to_str().expect("the repository's path is UTF-8").to_owned()
}

/// Looks again and again until there is a value; panics with `what` after [`PATIENCE`].
pub(crate) fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

/// Like [`eventually`], with a limit that is part of what the test promises.
pub(crate) fn within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(started.elapsed() < limit, "after {limit:?} still not so: {what}");
        std::thread::sleep(POLL);
    }
}

/// Says that this machine cannot run a part. Written past the test harness's capture, so that it is always seen;
/// `cargo xtask test` collects these lines.
pub(crate) fn left_out(what: &str, why: &str) {
    let line = format!("left out: {what}: {why}\n");
    std::io::stderr().lock().write_all(line.as_bytes()).expect("standard error takes a line");
}

/// How often each line came.
pub(crate) type Counts = BTreeMap<String, u64>;

pub(crate) fn counts<'a>(lines: impl IntoIterator<Item = &'a str>) -> Counts {
    let mut counts = Counts::new();
    for line in lines {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    counts
}

/// The Deployment in a pod's name `<deployment>-<template hash>-<5 letters>`; other text comes back unchanged.
pub(crate) fn deployment_of(pod: &str) -> &str {
    let mut parts = pod.rsplitn(3, '-');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(end), Some(hash), Some(name)) if end.len() == 5 && !hash.is_empty() && !pod.contains(' ') => {
            name
        }
        _ => pod,
    }
}

/// Counts of pod names, by Deployment.
pub(crate) fn by_deployment<'a>(lines: impl IntoIterator<Item = &'a str>) -> Counts {
    counts(lines.into_iter().map(deployment_of))
}

/// Asserts `name n` pairs, all of them and no others.
#[track_caller]
pub(crate) fn assert_counts(counts: &Counts, expected: &[(&str, u64)]) {
    let expected: Counts = expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    assert_eq!(*counts, expected);
}

/// Asserts that `name` was counted from `low` to `high` times.
#[track_caller]
pub(crate) fn assert_between(counts: &Counts, name: &str, low: u64, high: u64) {
    let count = counts.get(name).copied().unwrap_or(0);
    assert!((low..=high).contains(&count), "{name}: {count} is not in {low}..={high}: {counts:?}");
}

#[test]
fn pods_are_counted_by_their_deployment() {
    assert_eq!(deployment_of("echo2-7d4b9c-x2x4z"), "echo2");
    assert_eq!(deployment_of("my-app-7d4b9c-x2x4z"), "my-app");
    assert_eq!(deployment_of("503 no ready endpoint"), "503 no ready endpoint");
    assert_counts(&by_deployment(["a-1b-aaaaa", "a-1b-bbbbb", "b-1b-aaaaa"]), &[("a", 2), ("b", 1)]);
}

//! What is in a cluster that somebody else brought up, and would be lost by a run.
//!
//! Owns the refusal to begin there. Invariant: nothing is written before it is known. A cluster of this command's own is not asked.
//! Deliberately absent: what only changes. Definitions of kinds are replaced by those of the release that Weir knows.

use anyhow::{Context as _, Result, bail};

use crate::cluster::Cluster;

/// Groups whose definitions are deleted, with every object of theirs.
const GROUPS: [&str; 2] = ["gateway.networking.k8s.io", "gateway.networking.x-k8s.io"];

/// Namespaces that are made, and deleted with all that is in them.
const NAMESPACES: &[&str] = &[
    "calm",
    "kong",
    "kong-system",
    "other",
    "outside",
    "scoped",
    "shop",
    "tenant-a",
    "tenant-b",
    "weir-system",
];

/// How many of each are named.
const NAMED: usize = 10;

/// Refuses a cluster in which something would be lost, unless that was allowed.
pub(super) fn may_be_used(cluster: &Cluster, may_delete_definitions: bool) -> Result<()> {
    let lines = |text: String| -> Vec<String> { text.lines().map(str::to_owned).collect() };
    let of_groups = |name: &String| {
        GROUPS.iter().any(|group| name.strip_suffix(group).is_some_and(|kind| kind.ends_with('.')))
    };
    let all = cluster.shell("kubectl get crd -o name").context("looking at what is in the cluster")?;
    let named = all.lines().filter_map(|line| Some(line.split_once('/')?.1.to_owned()));
    let definitions: Vec<String> = named.filter(of_groups).collect();
    let mut objects = Vec::new();
    if !definitions.is_empty() {
        let each = "{range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{\"\\n\"}{end}";
        let line =
            format!("kubectl get {} -A --ignore-not-found -o jsonpath='{each}'", definitions.join(","));
        // What is of no namespace has nothing before its name.
        objects = lines(cluster.shell(&line)?.replace(" /", " "));
    }
    let there = "kubectl get namespaces -o jsonpath='{range .items[*]}{.metadata.name}{\"\\n\"}{end}'";
    let mut namespaces = lines(cluster.shell(there)?);
    namespaces.retain(|name| NAMESPACES.contains(&name.as_str()));
    match refusal(&definitions, &objects, &namespaces, may_delete_definitions) {
        Some(why) => bail!("{why}"),
        None => Ok(()),
    }
}

fn refusal(definitions: &[String], objects: &[String], namespaces: &[String], may: bool) -> Option<String> {
    let mut lost = Vec::new();
    if !may {
        lost.extend(some("definitions of kinds", definitions));
        lost.extend(some("their objects", objects));
    }
    lost.extend(some("namespaces", namespaces));
    if lost.is_empty() {
        return None;
    }
    let mut ways = Vec::new();
    if !may && !definitions.is_empty() {
        ways.push("let the definitions and their objects go with --may-delete-definitions");
    }
    if !namespaces.is_empty() {
        ways.push("delete those namespaces yourself");
    }
    Some(format!(
        "this run would delete what is in the cluster: {}; take a cluster that nobody needs, or {}",
        lost.join("; "),
        ways.join(" and ")
    ))
}

/// What there is of a sort, and how many of it.
fn some(what: &str, names: &[String]) -> Option<String> {
    let first = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => None,
        count if count > NAMED => Some(format!("{what} {first} and {} more", count - NAMED)),
        _ => Some(format!("{what} {first}")),
    }
}

#[cfg(test)]
mod tests {
    use super::refusal;

    #[test]
    fn what_would_be_lost_is_named_and_needs_a_word() {
        let all = |count: usize| (0..count).map(|at| format!("name-{at}")).collect::<Vec<_>>();
        assert_eq!(refusal(&[], &[], &[], false), None);
        let said = refusal(&all(2), &all(12), &[], false).unwrap();
        assert!(said.contains("kinds name-0, name-1; their objects name-0, "), "{said}");
        assert!(said.contains("name-9 and 2 more"), "{said}");
        assert!(said.contains("--may-delete-definitions"), "{said}");
        assert_eq!(refusal(&all(2), &all(12), &[], true), None);
        // What is in a namespace is nobody's to allow by that word.
        for may in [false, true] {
            let said = refusal(&[], &[], &all(1), may).unwrap();
            assert!(said.contains("namespaces name-0; ") && !said.contains("--may"), "{said}");
        }
    }
}

//! What an installation leaves behind: every object of every kind before it, held beside those after it.
//!
//! Deliberately absent: events (they end by themselves), definitions of kinds and what the API makes of them.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};

use super::Cluster;

/// Kinds that come and go without anybody's doing, or are meant to stay.
const NOT_COUNTED: &[&str] = &[
    "events",
    "events.events.k8s.io",
    "componentstatuses",
    "customresourcedefinitions.apiextensions.k8s.io",
    "apiservices.apiregistration.k8s.io",
];

/// The objects that are there, one line each: kind, namespace, name.
pub(crate) struct Inventory(BTreeSet<String>);

impl Inventory {
    pub(crate) fn take(cluster: &Cluster) -> Result<Inventory> {
        let kinds = cluster.shell("kubectl api-resources --verbs=list -o name")?;
        let counted: Vec<&str> = kinds.lines().filter(|kind| !NOT_COUNTED.contains(kind)).collect();
        let line = format!(
            "kubectl get {} -A --ignore-not-found -o jsonpath='{{range .items[*]}}{{.kind}} \
             {{.metadata.namespace}}/{{.metadata.name}}{{\"\\n\"}}{{end}}'",
            counted.join(",")
        );
        Ok(Inventory(cluster.shell(&line)?.lines().map(str::to_owned).collect()))
    }

    /// Waits until nothing is there that was not there then.
    pub(crate) fn is_restored(&self, cluster: &Cluster) -> Result<()> {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
        loop {
            let now = Inventory::take(cluster).context("listing what is left")?;
            let left: Vec<&str> = now.0.difference(&self.0).map(String::as_str).collect();
            if left.is_empty() {
                println!("    nothing is left but definitions of kinds");
                return Ok(());
            }
            anyhow::ensure!(std::time::Instant::now() < end, "left behind: {}", left.join(", "));
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }
}

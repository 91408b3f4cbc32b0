//! `weir snapshot`: what data planes are to have, have, and cannot use, resource by resource.
//!
//! Owns the admin port's `/snapshot` in all three forms (a process that is control and data plane, a controller, a data plane in a pod)
//! and the command that shows them. Invariant: a resource is told by its key, the hash and the number of its bytes, and never by
//! the bytes, since some are private keys. Deliberately absent: what resources say (the objects that they were made from do).

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde_json::{Value, json};
use weir_control::distribute::PlaneContents;
use weir_model::resource::{Applied, DataPlaneName, Rejected, Update};
use weir_model::wire::{Entry, hash_text};

use crate::cli::SnapshotOptions;
use crate::client;

/// What stands for the name of a data plane that is one with its control plane.
const OWN: &str = "this process";

pub(crate) fn run(options: &SnapshotOptions) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = client::ask(&options.client, options.namespace.as_deref(), "snapshot");
    let answers = runtime.block_on(asked)?;
    let mut planes = Vec::new();
    for body in answers {
        let mut told: Value =
            serde_json::from_slice(&body).context("the admin port's answer to /snapshot")?;
        planes.extend(told["planes"].as_array_mut().map(std::mem::take).unwrap_or_default());
    }
    if let Some(wanted) = &options.data_plane {
        planes.retain(|plane| is_named(plane, wanted));
        if planes.is_empty() {
            bail!("there is no data plane {wanted}, and none of a Gateway of that name");
        }
    }
    if planes.is_empty() {
        println!("No data plane has anything yet.");
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", client::table(&summary(&planes)));
    for plane in &planes {
        print!("{}", details(plane));
    }
    Ok(ExitCode::SUCCESS)
}

/// `wanted`: `NAMESPACE/NAME` of the data plane, or of its Gateway.
fn is_named(plane: &Value, wanted: &str) -> bool {
    let name = plane["dataPlane"].as_str().unwrap_or_default();
    let of_gateway = |(namespace, gateway)| DataPlaneName::of_gateway(namespace, gateway).to_string();
    name == wanted || wanted.split_once('/').map(of_gateway).is_some_and(|of| of == name)
}

fn summary(planes: &[Value]) -> Vec<Vec<String>> {
    let head = ["DATA PLANE", "RESOURCES", "NEWEST", "POD", "READY", "RUNS", "WAITING", "REJECTED"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for plane in planes {
        let instances = list(&plane["instances"]);
        let title =
            [text(&plane["dataPlane"]), list(&plane["entries"]).len().to_string(), text(&plane["newest"])];
        if instances.is_empty() {
            rows.push([&title[..], &["none is connected".to_owned()]].concat());
        }
        for (index, instance) in instances.iter().enumerate() {
            let ready = match (instance["ready"] == true, instance["draining"] == true) {
                (_, true) => "ends",
                (true, _) => "yes",
                _ => "no",
            };
            let title = if index == 0 { title.clone() } else { Default::default() };
            let rest = [
                text(&instance["instance"]),
                ready.to_owned(),
                text(&instance["sequence"]),
                text(&instance["waiting"]),
                list(&instance["rejected"]).len().to_string(),
            ];
            rows.push([&title[..], &rest].concat());
        }
    }
    rows
}

fn details(plane: &Value) -> String {
    let mut rows = vec![["KIND", "NAME", "HASH", "BYTES"].map(str::to_owned).to_vec()];
    for entry in list(&plane["entries"]) {
        let key = entry["key"].as_str().unwrap_or_default();
        let (kind, name) = key.split_once('/').unwrap_or((key, ""));
        rows.push(vec![kind.to_owned(), name.to_owned(), text(&entry["hash"]), text(&entry["bytes"])]);
    }
    let mut out = format!("\n{}\n{}", text(&plane["dataPlane"]), client::table(&rows));
    for instance in list(&plane["instances"]) {
        for one in list(&instance["rejected"]) {
            out += &format!(
                "{} cannot use {}: {}\n",
                text(&instance["instance"]),
                text(&one["key"]),
                text(&one["reason"])
            );
        }
    }
    out
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What a data plane in this process was given, by name.
#[derive(Default)]
pub(crate) struct Contents {
    inner: Mutex<Given>,
}

#[derive(Default)]
struct Given {
    /// The last update, and the last that runs.
    newest: u64,
    runs: u64,
    /// Hash and number of bytes, by key.
    entries: BTreeMap<String, (Bytes, usize)>,
    rejected: BTreeMap<String, String>,
}

impl Contents {
    fn inner(&self) -> MutexGuard<'_, Given> {
        // What is behind the lock is whole after each change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An update that is about to be applied.
    pub(crate) fn give(&self, update: &Update) {
        // Not under the lock: somebody may be reading.
        let named: Vec<Entry> = update.upserts.iter().map(Entry::of).collect();
        let mut given = self.inner();
        given.newest = update.sequence;
        if update.full {
            given.entries.clear();
            given.rejected.clear();
        }
        for key in &update.removals {
            given.entries.remove(key);
            given.rejected.remove(key);
        }
        for entry in named {
            given.rejected.remove(&entry.key);
            let name = (entry.hash, entry.body.len());
            given.entries.insert(entry.key, name);
        }
    }

    /// What came of it.
    pub(crate) fn applied(&self, applied: &Applied) {
        let mut given = self.inner();
        given.runs = applied.sequence;
        let rejected = applied.rejected.iter();
        given.rejected.extend(rejected.map(|one| (one.key.clone(), one.reason.clone())));
    }

    pub(crate) fn json(&self, is_ready: bool) -> Value {
        let given = self.inner();
        let entries = given.entries.iter().map(|(key, (hash, bytes))| entry_json(key, hash, *bytes));
        let rejected = given.rejected.iter().map(|(key, why)| rejected_json(key, why));
        let instance = json!({
            "instance": format!("process {}", std::process::id()),
            "ready": is_ready,
            "sequence": given.runs,
            "rejected": rejected.collect::<Vec<_>>(),
        });
        json!({ "planes": [{
            "dataPlane": OWN,
            "newest": given.newest,
            "entries": entries.collect::<Vec<_>>(),
            "instances": [instance],
        }] })
    }
}

/// What a controller's data planes are to have, and how far they are.
pub(crate) fn of_controller(planes: Vec<PlaneContents>) -> Value {
    let plane = |plane: PlaneContents| {
        let entries = plane.entries.iter().map(|entry| entry_json(&entry.key, &entry.hash, entry.bytes));
        let instances = plane.instances.iter().map(|instance| {
            let rejected = instance.rejected.iter().map(|(key, why)| rejected_json(key, why));
            json!({
                "instance": instance.report.name,
                "ready": instance.report.ready,
                "draining": instance.report.draining,
                "sequence": instance.report.sequence,
                "waiting": instance.waiting,
                "rejected": rejected.collect::<Vec<_>>(),
            })
        });
        json!({
            "dataPlane": plane.name.to_string(),
            "newest": plane.newest,
            "sequence": plane.sequence,
            "entries": entries.collect::<Vec<_>>(),
            "instances": instances.collect::<Vec<_>>(),
        })
    };
    json!({ "planes": planes.into_iter().map(plane).collect::<Vec<_>>() })
}

/// What a data plane in a pod has. Its `epoch` is that of the leader that gave it; the leader's numbers it does not know.
pub(crate) fn of_plane<'a>(
    name: &DataPlaneName,
    epoch: u64,
    entries: impl Iterator<Item = &'a Entry>,
    instance: &str,
    is_ready: bool,
    rejected: &[Rejected],
) -> Value {
    let entries = entries.map(|entry| entry_json(&entry.key, &entry.hash, entry.body.len()));
    let rejected = rejected.iter().map(|one| rejected_json(&one.key, &one.reason));
    json!({ "planes": [{
        "dataPlane": name.to_string(),
        "epoch": epoch,
        "entries": entries.collect::<Vec<_>>(),
        "instances": [{
            "instance": instance,
            "ready": is_ready,
            "rejected": rejected.collect::<Vec<_>>(),
        }],
    }] })
}

fn entry_json(key: &str, hash: &[u8], bytes: usize) -> Value {
    json!({ "key": key, "hash": hash_text(hash), "bytes": bytes })
}

fn rejected_json(key: &str, reason: &str) -> Value {
    json!({ "key": key, "reason": reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_model::resource::{Backend, Body, Certificate, Resource};

    fn certificate(key: &str, private_key: &[u8]) -> Resource {
        let certificate = Certificate {
            key: format!("certificate/{key}"),
            private_key: private_key.to_vec(),
            ..Certificate::default()
        };
        Resource { body: Some(Body::Certificate(certificate)) }
    }

    fn backend(name: &str) -> Resource {
        let backend = Backend { key: format!("backend/default/{name}/80"), ..Backend::default() };
        Resource { body: Some(Body::Backend(backend)) }
    }

    #[test]
    fn a_process_tells_what_it_was_given_and_no_byte_of_it() {
        let contents = Contents::default();
        let upserts = vec![certificate("c", b"PRIVATE bytes"), backend("a"), backend("b")];
        contents.give(&Update { sequence: 1, full: true, upserts, ..Update::default() });
        let rejected = Rejected { key: "certificate/c".to_owned(), reason: "no certificate".to_owned() };
        contents.applied(&Applied { sequence: 1, rejected: vec![rejected], ..Applied::default() });
        let told = contents.json(true);
        assert!(!told.to_string().contains("PRIVATE"), "{told}");
        let planes = list(&told["planes"]);
        let rows = summary(planes);
        assert_eq!(rows[1][..3], ["this process", "3", "1"]);
        assert_eq!(rows[1][4..], ["yes", "1", "-", "1"]);
        let shown = details(&planes[0]);
        assert!(shown.contains("certificate  c "), "{shown}");
        assert!(shown.contains("cannot use certificate/c: no certificate"), "{shown}");

        let hash = |key: &str| contents.inner().entries.get(key).cloned();
        let before = hash("certificate/c");
        let upserts = vec![certificate("c", b"other bytes")];
        let removals = vec!["backend/default/b/80".to_owned()];
        contents.give(&Update { sequence: 2, upserts, removals, ..Update::default() });
        assert_ne!(hash("certificate/c"), before);
        let told = contents.json(true);
        let planes = list(&told["planes"]);
        assert_eq!(summary(planes)[1][..3], ["this process", "2", "2"]);
        assert_eq!(summary(planes)[1][4..], ["yes", "1", "-", "0"], "the new one may do");
    }

    #[test]
    fn a_data_plane_is_found_by_its_name_and_by_its_gateways() {
        let plane = json!({"dataPlane": "default/weir-g"});
        assert!(is_named(&plane, "default/weir-g") && is_named(&plane, "default/g"));
        assert!(!is_named(&plane, "default/other") && !is_named(&plane, "g") && !is_named(&plane, "kong/g"));
    }
}

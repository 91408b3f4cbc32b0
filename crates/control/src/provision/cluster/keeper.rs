//! The task that keeps a cluster's objects as they should be.
//!
//! Invariants: only the leader writes; at most [`IN_FLIGHT`] calls at a time, one for each object; nothing of another is
//! taken over: before an object is made it is looked for, and one that is not marked as ours stays as it is, unless it was made for the
//! same Gateway by us, and lost its mark, or by an installation that is not there any more.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Planes;
use super::objects::{INSTANCE_LABEL, Id, Piece};
use super::table::{Action, Table};
use crate::call::{CallError, FIELD_MANAGER, PatchKind, percent_encode};
use crate::source::watch::Watch;
use crate::source::{EVENT_QUEUE, SourceEvent};

/// Calls on their way at a time.
const IN_FLIGHT: usize = 8;

/// Under this name the number of pods is said that others go on from.
const REPLICAS_MANAGER: &str = "weir-replicas";

/// What came of one call.
struct Done {
    id: Id,
    outcome: Result<Outcome, Failed>,
}

enum Outcome {
    /// The server's answer to the write of the wish of this hash.
    Wrote {
        object: Value,
        hash: String,
    },
    /// It was there and is ours, which had not been seen yet.
    Found(Value),
    Gone,
}

enum Failed {
    Call(CallError),
    /// The name belongs to another; why.
    Taken(String),
}

impl Planes {
    /// Keep things as they should be until shutdown.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let (events, mut watched) = mpsc::channel(EVENT_QUEUE);
        let mut watches = self.watch(&events, &shutdown);
        let mut trust = self.shared.cluster.trust.clone();
        let mut leader = self.shared.caller.leadership().watch();
        let mut installations = self.shared.installations.clone();
        let mut granted = self.shared.status.rights.granted();
        let mut calls = FuturesUnordered::new();
        loop {
            let next = loop {
                if calls.len() >= IN_FLIGHT || !self.shared.caller.leadership().holds() {
                    break None;
                }
                let (action, later) = self.shared.table.lock().next(Instant::now());
                let Some((id, action)) = action else { break later };
                calls.push(self.act(id, action));
            };
            let pending = self.shared.table.lock().pending();
            self.shared.status.provision_pending.set(pending as u64);
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(event) = watched.recv() => self.take_in(event),
                Some(done) = calls.next() => self.finish(done),
                () = self.shared.changed.notified() => {}
                Ok(()) = leader.changed() => {}
                Ok(()) = installations.changed() => self.shared.table.lock().try_again(),
                Ok(()) = granted.changed() => self.shared.table.lock().try_again(),
                Ok(()) = trust.changed() => self.shared.moved.notify_one(),
                () = until(next) => {}
            }
        }
        while watches.join_next().await.is_some() {}
    }

    /// One watch for each kind and namespace, of what is marked as ours.
    fn watch(&self, events: &mpsc::Sender<SourceEvent<Piece>>, shutdown: &CancellationToken) -> JoinSet<()> {
        let selector = format!("{INSTANCE_LABEL}={}", self.shared.cluster.instance());
        let everywhere = [String::new()];
        let namespaces = &self.shared.namespaces;
        let places = if namespaces.is_empty() { &everywhere[..] } else { namespaces };
        let mut tasks = JoinSet::new();
        for (piece, place) in
            Piece::ALL.into_iter().flat_map(|piece| places.iter().map(move |place| (piece, place)))
        {
            let path = piece.collection().path(place, "");
            let watch = Watch {
                kind: piece,
                namespace: place.clone(),
                path: format!("{path}?labelSelector={}", percent_encode(&selector)),
                caller: self.shared.caller.clone(),
                status: Arc::clone(&self.shared.status),
                events: events.clone(),
                changed: Arc::new(Notify::new()),
            };
            let stop = shutdown.clone();
            tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = watch.run() => {}
                }
            });
        }
        tasks
    }

    fn take_in(&self, event: SourceEvent<Piece>) {
        let mut table = self.shared.table.lock();
        let moved = match event {
            SourceEvent::Listed { kind, namespace, objects, put_back, .. } => {
                table.listed(kind, &namespace, objects, put_back)
            }
            SourceEvent::Applied { kind, object } => table.seen(kind, object),
            SourceEvent::Deleted { kind, object } => table.gone(kind, &object),
            SourceEvent::Served { .. } | SourceEvent::Bookmark { .. } | SourceEvent::Bundles(_) => false,
        };
        if moved {
            self.shared.moved.notify_one();
        }
    }

    async fn act(&self, id: Id, action: Action) -> Done {
        let outcome = match action {
            Action::Make { object, hash } => self.make(&id, &object, hash).await,
            Action::Change { object, hash, keeps_replicas } => {
                self.change(&id, object, hash, keeps_replicas).await
            }
            Action::Delete { uid, version } => self.delete(&id, &uid, &version).await,
        };
        Done { id, outcome }
    }

    async fn make(&self, id: &Id, object: &Value, hash: String) -> Result<Outcome, Failed> {
        let caller = &self.shared.caller;
        match caller.get(&id.path()).await {
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(Failed::Call(error)),
            Ok(there) => {
                return match there["metadata"]["labels"][INSTANCE_LABEL].as_str() {
                    Some(instance) if instance == self.shared.cluster.instance() => Ok(Outcome::Found(there)),
                    Some(other) if self.is_left_behind(other) && has_owner_of(&there, object) => {
                        tracing::info!(object = %id, installation = other, "taken over from an installation that is gone");
                        Ok(Outcome::Found(there))
                    }
                    Some(other) => {
                        Err(Failed::Taken(format!("it is kept by another installation of Weir, {other}")))
                    }
                    None if is_unmarked_own(&there, object) => {
                        tracing::info!(object = %id, "somebody took its label {INSTANCE_LABEL} away");
                        Ok(Outcome::Found(there))
                    }
                    None => Err(Failed::Taken("it is there already, and Weir did not make it".to_owned())),
                };
            }
        }
        let made = caller.patch(&id.path(), PatchKind::Apply, object).await.map_err(Failed::Call)?;
        Ok(Outcome::Wrote { object: made, hash })
    }

    /// Whether it is known that nobody keeps the objects of an installation any more.
    fn is_left_behind(&self, instance: &str) -> bool {
        let seen = self.shared.installations.borrow();
        let all = seen.as_ref().and_then(|seen| seen.instances.as_ref());
        all.is_some_and(|all| !all.contains(instance))
    }

    async fn change(
        &self,
        id: &Id,
        mut object: Value,
        hash: String,
        keeps_replicas: Option<u64>,
    ) -> Result<Outcome, Failed> {
        let caller = &self.shared.caller;
        if let Some(replicas) = keeps_replicas {
            let mut held = json!({
                "apiVersion": object["apiVersion"],
                "kind": object["kind"],
                "metadata": {"namespace": id.namespace, "name": id.name},
                "spec": {"replicas": replicas},
            });
            held["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
            let answer = caller.apply_as(&id.path(), REPLICAS_MANAGER, &held).await.map_err(Failed::Call)?;
            object["metadata"]["resourceVersion"] = answer["metadata"]["resourceVersion"].clone();
        }
        match caller.patch(&id.path(), PatchKind::Apply, &object).await {
            Ok(object) => Ok(Outcome::Wrote { object, hash }),
            Err(error) if error.is_not_found() => Ok(Outcome::Gone),
            // It is another now than was seen: see it.
            Err(error) if error.is_conflict() => match caller.get(&id.path()).await {
                Ok(there) => Ok(Outcome::Found(there)),
                Err(error) if error.is_not_found() => Ok(Outcome::Gone),
                Err(error) => Err(Failed::Call(error)),
            },
            Err(error) => Err(Failed::Call(error)),
        }
    }

    async fn delete(&self, id: &Id, uid: &str, version: &str) -> Result<Outcome, Failed> {
        let preconditions = json!({"uid": uid, "resourceVersion": version});
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": preconditions});
        match self.shared.caller.delete(&id.path(), &options).await {
            Ok(_) => Ok(Outcome::Gone),
            Err(error) if error.is_not_found() => Ok(Outcome::Gone),
            Err(error) if error.is_conflict() => match self.shared.caller.get(&id.path()).await {
                Ok(there) => Ok(Outcome::Found(there)),
                Err(error) if error.is_not_found() => Ok(Outcome::Gone),
                Err(error) => Err(Failed::Call(error)),
            },
            Err(error) => Err(Failed::Call(error)),
        }
    }

    fn finish(&self, done: Done) {
        let Done { id, outcome } = done;
        let mut table = self.shared.table.lock();
        let wrote = || self.shared.status.provision_writes.add(1);
        let moved = match outcome {
            Ok(Outcome::Wrote { object, hash }) => {
                wrote();
                tracing::info!(object = %id, "provisioned");
                table.wrote(&id, hash, object)
            }
            // Whose state cannot be written against now: it lags behind, or was put back.
            Ok(Outcome::Found(object)) if table.knows_newer(&id, &object) => {
                failed(&mut table, &id, "the API answers with an older state than was seen".to_owned(), false)
            }
            Ok(Outcome::Found(object)) => table.found(&id, Some(object)),
            Ok(Outcome::Gone) => {
                wrote();
                table.found(&id, None)
            }
            Err(Failed::Call(error)) if error.is_not_leading() => {
                table.put_off(&id);
                false
            }
            Err(Failed::Call(error)) => failed(&mut table, &id, error.to_string(), error.is_final()),
            Err(Failed::Taken(why)) => failed(&mut table, &id, why, true),
        };
        if moved {
            self.shared.moved.notify_one();
        }
    }
}

/// Notes a failure, and tells of it unless it was told of. Whether that is a new thing to tell.
fn failed(table: &mut Table, id: &Id, why: String, is_final: bool) -> bool {
    let is_news = table.failed(id, why.clone(), is_final, Instant::now());
    if is_news {
        tracing::warn!(object = %id, error = why, "a provisioned object cannot be written");
    } else {
        tracing::debug!(object = %id, error = why, "a provisioned object cannot be written");
    }
    is_news
}

/// Whether an object without our label is what we made for this wish all the same: it goes with the same Gateway in the same way, and the
/// server has it that we applied it.
fn is_unmarked_own(there: &Value, wanted: &Value) -> bool {
    let mut managers = there["metadata"]["managedFields"].as_array().into_iter().flatten();
    let is_applied = managers.any(|entry| entry["manager"] == FIELD_MANAGER && entry["operation"] == "Apply");
    let is_same = |a: &Value, b: &Value| a["uid"] == b["uid"] && a["controller"] == b["controller"];
    is_applied && share_an_owner(there, wanted, is_same)
}

/// Whether both objects go with one Gateway.
fn has_owner_of(there: &Value, wanted: &Value) -> bool {
    let is_same = |a: &Value, b: &Value| {
        a["uid"].is_string() && a["uid"] == b["uid"] && [a, b].iter().all(|owner| owner["kind"] == "Gateway")
    };
    share_an_owner(there, wanted, is_same)
}

fn share_an_owner(one: &Value, other: &Value, is_same: impl Fn(&Value, &Value) -> bool) -> bool {
    let owners = |of: &Value| of["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
    let others = owners(other);
    owners(one).iter().any(|a| others.iter().any(|b| is_same(a, b)))
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::is_unmarked_own;

    #[test]
    fn an_object_without_our_label_is_ours_if_we_applied_it_for_the_same_gateway() {
        let owner = |uid: &str, controls: bool| json!({"kind": "Gateway", "name": "g", "uid": uid, "controller": controls});
        let applied = json!([
            {"manager": "weir", "operation": "Apply"},
            {"manager": "kubectl-label", "operation": "Update"},
        ]);
        let there = |owner: Value, managers: &Value| json!({"metadata": {"ownerReferences": [owner], "managedFields": managers}});
        let wanted = json!({"metadata": {"ownerReferences": [owner("g", true)]}});
        assert!(is_unmarked_own(&there(owner("g", true), &applied), &wanted));
        assert!(!is_unmarked_own(&there(owner("other", true), &applied), &wanted), "of another Gateway");
        assert!(!is_unmarked_own(&there(owner("g", false), &applied), &wanted), "somebody hung it there");
        for others in [
            json!([{"manager": "weir", "operation": "Update"}]),
            json!([{"manager": "kubectl", "operation": "Apply"}]),
        ] {
            assert!(!is_unmarked_own(&there(owner("g", true), &others), &wanted), "{others}");
        }
        assert!(!is_unmarked_own(&json!({"metadata": {}}), &json!({"metadata": {}})), "nobody's");
    }
}

//! Taking watch events in: raw objects to typed ones, into the reconciler's view and to whoever else keeps one.
//!
//! Invariants: an older state of an object never replaces a newer one (reads and watches overtake each other), but where the
//! API was put back; an object that did not change in what translation reads causes no translation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use tokio::time::Instant;
use weir_api::core_v1::EndpointSlice;
use weir_core::{Kind, Object, ObjectKey, supported_features};

use super::Reconciler;
use crate::events::{Finding, Severity};
use crate::kinds::api_version;
use crate::source::SourceEvent;

impl Reconciler {
    pub(super) fn take_in(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Served { kind, version } => self.serve(kind, version),
            SourceEvent::Listed { kind, namespace, resource_version, objects, put_back } => {
                if put_back {
                    self.put_back(kind, &namespace);
                }
                for object in &objects {
                    newest(&mut self.changes, kind, version_of(object));
                }
                let version = resource_version.parse().ok().filter(|_| !put_back);
                self.remove_others(kind, &namespace, version, &objects);
                for object in objects {
                    if put_back {
                        self.put_in(kind, key_of(kind, &object), object);
                    } else {
                        self.upsert(kind, object);
                    }
                }
                self.note_seen(kind, resource_version);
                self.first_list(kind, namespace);
            }
            SourceEvent::Applied { kind, object } => {
                self.note_version(kind, &object);
                self.upsert(kind, object);
            }
            SourceEvent::Deleted { kind, object } => {
                self.note_version(kind, &object);
                self.delete(kind, &object);
            }
            SourceEvent::Bookmark { kind, resource_version } => self.note_seen(kind, resource_version),
            SourceEvent::Bundles(bundles) => {
                self.readable.bundles = bundles;
                self.rewrite_classes();
            }
        }
    }

    fn serve(&mut self, kind: Kind, version: Option<&'static str>) {
        self.tools.statuses.serve(kind, version);
        self.serve_objects(kind, version);
        let features = supported_features(|kind| self.versions.contains_key(&kind));
        self.translator.set_supported_features(features);
        // What data planes are to be depends on whether it can be known which Gateways there are.
        self.provisioning.look_again();
        self.stirred = true;
    }

    fn serve_objects(&mut self, kind: Kind, version: Option<&'static str>) {
        match version {
            Some(version) => {
                self.versions.insert(kind, version);
            }
            None => {
                self.versions.remove(&kind);
                if self.listed.contains(&kind) && self.readable.lost.insert(kind) {
                    tracing::warn!(
                        kind = kind.as_str(),
                        "the API serves the kind no longer; its last objects stay"
                    );
                    self.rewrite_classes();
                }
                let before = self.unlisted.len();
                self.unlisted.retain(|(unlisted, _)| *unlisted != kind);
                self.stirred |= self.unlisted.len() != before;
            }
        }
        self.tell_missing();
    }

    fn first_list(&mut self, kind: Kind, namespace: String) {
        self.listed.insert(kind);
        if self.unlisted.remove(&(kind, namespace)) {
            self.stirred = true;
            self.tell_missing();
        }
        if self.readable.lost.remove(&kind) {
            self.rewrite_classes();
        }
    }

    /// The API was put back to an earlier day: every version that was seen may be one that never was.
    fn put_back(&mut self, kind: Kind, namespace: &str) {
        self.seen.remove(&kind);
        self.changes.remove(&kind);
        self.untold = true;
        self.tools.statuses.put_back(kind, namespace);
    }

    /// What is not in a list of a kind, in one namespace or in all, is gone. `version` of the list, where younger objects may be known.
    fn remove_others(&mut self, kind: Kind, namespace: &str, version: Option<u64>, objects: &[Value]) {
        let listed: BTreeSet<ObjectKey> = objects.iter().map(|object| key_of(kind, object)).collect();
        let gone: Vec<ObjectKey> = self
            .objects
            .of_kind(kind)
            .filter(|(key, object)| {
                // A read may have seen an object that is younger than the list.
                let younger = version
                    .zip(object.metadata().resource_version.parse::<u64>().ok())
                    .is_some_and(|(list, object)| object > list);
                let in_scope = namespace.is_empty() || key.namespace == namespace;
                in_scope && !listed.contains(*key) && !younger
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.remove(&key);
        }
    }

    pub(super) fn upsert(&mut self, kind: Kind, raw: Value) {
        let key = key_of(kind, &raw);
        if !self.has_newer(&key, &raw) {
            self.put_in(kind, key, raw);
        }
    }

    fn put_in(&mut self, kind: Kind, key: ObjectKey, raw: Value) {
        match kind {
            kind if kind.has_status() => self.tools.statuses.observe(&key, &raw),
            Kind::Service | Kind::Namespace => self.provisioning.observe(&key, &raw),
            _ => {}
        }
        let uid = raw["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        match Object::read(kind, raw) {
            Ok(Object::EndpointSlice(slice)) => {
                let before = match self.objects.get(&key) {
                    Some(Object::EndpointSlice(before)) => Some(&**before),
                    _ => None,
                };
                let taken = self.nodes.take(&key, slice, before, Instant::now());
                self.put_slices(taken);
            }
            Ok(object) => self.put(key, object),
            Err(error) => self.unreadable(key, uid, &error.message),
        }
    }

    fn put(&mut self, key: ObjectKey, object: Object) {
        let before = self.objects.get(&key);
        let unchanged = before.is_some_and(|before| same(before, &object));
        if before.is_none() {
            // What was waited for is there. If something else is waited for now, its time begins anew.
            self.waits.remove(&key);
        }
        self.objects.upsert(object);
        if !unchanged {
            self.changed.insert(key);
        }
    }

    pub(super) fn put_slices(&mut self, slices: impl IntoIterator<Item = Arc<EndpointSlice>>) {
        for slice in slices {
            let object = Object::EndpointSlice(slice);
            self.put(object.key(), object);
        }
    }

    fn unreadable(&self, key: ObjectKey, uid: String, message: &str) {
        self.tools.status.undecodable_objects.add(1);
        tracing::warn!(object = %key, error = message, "an object cannot be read; its last good form stays");
        self.tools.recorder.report(Finding {
            api_version: api_version(&self.versions, key.kind),
            object: key,
            uid,
            severity: Severity::Warning,
            reason: "Unreadable".to_owned(),
            field: String::new(),
            message: format!("the object cannot be read, and its last good form stays in force: {message}"),
        });
    }

    fn delete(&mut self, kind: Kind, raw: &Value) {
        let key = key_of(kind, raw);
        let uid = raw["metadata"]["uid"].as_str().unwrap_or_default();
        // A read may have seen its successor already.
        if self.objects.get(&key).is_some_and(|object| object.metadata().uid == uid) {
            self.remove(&key);
        } else if self.objects.get(&key).is_none() {
            self.forget(&key);
        }
    }

    fn remove(&mut self, key: &ObjectKey) {
        self.objects.remove(key);
        self.changed.insert(key.clone());
        self.forget(key);
    }

    fn forget(&mut self, key: &ObjectKey) {
        self.tools.statuses.forget(key);
        self.nodes.forget(key);
        self.gate.forget(key);
        self.waits.remove(key);
        self.provisioning.forget(key);
    }

    fn note_version(&mut self, kind: Kind, object: &Value) {
        if let Some(version) = object["metadata"]["resourceVersion"].as_str() {
            self.untold |= newest(&mut self.changes, kind, version);
            self.note_seen(kind, version.to_owned());
        }
    }

    /// Several watches may read one kind: the newest version of all counts, where versions are numbers.
    fn note_seen(&mut self, kind: Kind, version: String) {
        newest(&mut self.seen, kind, &version);
    }

    /// Which kinds are still to be listed, for whoever asks why nothing happens.
    fn tell_missing(&self) {
        let kinds: BTreeSet<Kind> = self.unlisted.iter().map(|(kind, _)| *kind).collect();
        self.tools.status.set_missing(kinds.iter().map(|kind| kind.as_str()).collect());
    }

    fn has_newer(&self, key: &ObjectKey, raw: &Value) -> bool {
        let Some(known) = self.objects.get(key) else { return false };
        let metadata = &raw["metadata"];
        let incoming = metadata["resourceVersion"].as_str().and_then(|text| text.parse::<u64>().ok());
        let version = known.metadata().resource_version.parse::<u64>().ok();
        version.zip(incoming).is_some_and(|(known, incoming)| known > incoming)
    }
}

/// Puts a version in unless a newer one is there; whether it did.
fn newest(versions: &mut BTreeMap<Kind, String>, kind: Kind, version: &str) -> bool {
    let known = versions.get(&kind).and_then(|known| known.parse::<u64>().ok());
    let is_newer = known.zip(version.parse::<u64>().ok()).is_none_or(|(known, now)| known < now);
    if is_newer {
        versions.insert(kind, version.to_owned());
    }
    is_newer
}

fn version_of(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default()
}

fn key_of(kind: Kind, object: &Value) -> ObjectKey {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    ObjectKey::new(kind, text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]))
}

/// Whether two states of an object are alike in everything that translation reads: a status was written, or nothing.
fn same(before: &Object, after: &Object) -> bool {
    let (mine, theirs) = (before.metadata(), after.metadata());
    let alike = mine.uid == theirs.uid
        && mine.generation == theirs.generation
        && mine.labels == theirs.labels
        && mine.annotations == theirs.annotations
        && mine.deletion_timestamp == theirs.deletion_timestamp;
    alike
        && match (before, after) {
            (Object::GatewayClass(a), Object::GatewayClass(b)) => a.spec == b.spec,
            (Object::Gateway(a), Object::Gateway(b)) => a.spec == b.spec,
            (Object::ListenerSet(a), Object::ListenerSet(b)) => a.spec == b.spec,
            (Object::HttpRoute(a), Object::HttpRoute(b)) => a.spec == b.spec,
            (Object::GrpcRoute(a), Object::GrpcRoute(b)) => a.spec == b.spec,
            (Object::TlsRoute(a), Object::TlsRoute(b)) => a.spec == b.spec,
            (Object::TcpRoute(a), Object::TcpRoute(b)) => a.spec == b.spec,
            (Object::UdpRoute(a), Object::UdpRoute(b)) => a.spec == b.spec,
            (Object::BackendTlsPolicy(a), Object::BackendTlsPolicy(b)) => a.spec == b.spec,
            (Object::BackendTrafficPolicy(a), Object::BackendTrafficPolicy(b)) => a.spec == b.spec,
            (Object::BackendPolicy(a), Object::BackendPolicy(b)) => a.spec == b.spec,
            (Object::Secret(a), Object::Secret(b)) => {
                a.type_ == b.type_ && a.data == b.data && a.session_keys == b.session_keys
            }
            (Object::ConfigMap(a), Object::ConfigMap(b)) => a.data == b.data,
            (Object::ReferenceGrant(a), Object::ReferenceGrant(b)) => a.spec == b.spec,
            (Object::Service(a), Object::Service(b)) => a.spec == b.spec,
            (Object::EndpointSlice(a), Object::EndpointSlice(b)) => {
                a.address_type == b.address_type && a.endpoints == b.endpoints && a.ports == b.ports
            }
            (Object::Namespace(_), Object::Namespace(_)) => true,
            (Object::GatewayConfiguration(a), Object::GatewayConfiguration(b)) => a.spec == b.spec,
            (Object::GatewayParameters(a), Object::GatewayParameters(b)) => a.spec == b.spec,
            (Object::Ingress(a), Object::Ingress(b)) => a.spec == b.spec,
            (Object::IngressClass(a), Object::IngressClass(b)) => a.spec == b.spec,
            _ => false,
        }
}

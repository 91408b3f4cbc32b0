//! A small scripted Kubernetes API as a tower service: objects with versions and generations, lists, watches, the
//! patches that control sends, and faults on demand. Just enough, and strict: what it does not know is a 404 or 500.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;

pub(crate) type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;

/// Group, version, plural, kind, namespaced.
const KINDS: [(&str, &str, &str, &str, bool); 17] = [
    ("", "v1", "nodes", "Node", false),
    ("", "v1", "namespaces", "Namespace", false),
    ("", "v1", "services", "Service", true),
    ("", "v1", "events", "Event", true),
    ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", true),
    ("networking.k8s.io", "v1", "ingresses", "Ingress", true),
    ("networking.k8s.io", "v1", "ingressclasses", "IngressClass", false),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", false),
    (GATEWAY_API, "v1", "gatewayclasses", "GatewayClass", false),
    (GATEWAY_API, "v1", "gateways", "Gateway", true),
    (GATEWAY_API, "v1", "httproutes", "HTTPRoute", true),
    (GATEWAY_API, "v1beta1", "gatewayclasses", "GatewayClass", false),
    (GATEWAY_API, "v1beta1", "gateways", "Gateway", true),
    (GATEWAY_API, "v1beta1", "httproutes", "HTTPRoute", true),
    (GATEWAY_API, "v1beta1", "referencegrants", "ReferenceGrant", true),
    ("", "v1", "configmaps", "ConfigMap", true),
    (GATEWAY_API, "v1", "backendtlspolicies", "BackendTLSPolicy", true),
];

/// Those of [`KINDS`] that are served only where a test says so: group and plural.
const OFF_AT_FIRST: [(&str, &str); 2] = [("", "configmaps"), (GATEWAY_API, "backendtlspolicies")];

pub(crate) const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// Plural, namespace, name.
type Name = (String, String, String);

/// What somebody else does to an object.
type Change = Box<dyn FnOnce(&mut Value) + Send>;

/// What a store holds at one time.
#[derive(Clone, Default)]
pub(crate) struct Backup {
    version: u64,
    objects: BTreeMap<Name, Value>,
}

/// One watch, which is told of what is newer than its version.
struct Watcher {
    path: String,
    from: u64,
    sender: mpsc::UnboundedSender<String>,
}

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<Name, Value>,
    watchers: Vec<Watcher>,
    /// (group, version, plural) that are not served, beyond those not in [`KINDS`].
    unserved: BTreeSet<(String, String, String)>,
    /// Writes as they came: method, path, body.
    writes: Vec<(String, String, Value)>,
    /// Before the next status writes of objects with this name, somebody else changes the object so.
    intruders: BTreeMap<String, Vec<Change>>,
    /// Paths that fail with this code this many times.
    failures: BTreeMap<String, (u32, StatusCode)>,
    /// Plurals whose events are held back from watchers.
    delayed: BTreeMap<String, Vec<String>>,
    /// Reads of single objects.
    reads: Vec<String>,
    /// Tokens with their user and audience.
    tokens: BTreeMap<String, (String, String)>,
    /// Adds a field to every entry of a route's status that lacks it, as a schema's default would.
    defaults: bool,
}

/// A handle; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Api {
    state: Arc<Mutex<State>>,
}

impl Api {
    pub(crate) fn new() -> Api {
        let api = Api::default();
        let off = OFF_AT_FIRST.map(|(group, plural)| (group.to_owned(), "v1".to_owned(), plural.to_owned()));
        api.lock().unserved.extend(off);
        api
    }

    pub(crate) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Create or replace an object as its owner would, status aside.
    pub(crate) fn apply(&self, plural: &str, object: Value) -> Value {
        let mut state = self.lock();
        let name = name_of(plural, &object);
        let before = state.objects.get(&name).cloned();
        state.store(name, object, before, Part::Spec)
    }

    /// Change an object as it is, as any writer could.
    pub(crate) fn edit(&self, plural: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.lock();
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        let before = state.objects[&key].clone();
        let mut after = before.clone();
        change(&mut after);
        state.store(key, after, Some(before), Part::All);
    }

    pub(crate) fn delete(&self, plural: &str, namespace: &str, name: &str) {
        self.lock().delete(&(plural.to_owned(), namespace.to_owned(), name.to_owned()));
    }

    pub(crate) fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.lock().objects.get(&(plural.to_owned(), namespace.to_owned(), name.to_owned())).cloned()
    }

    pub(crate) fn all(&self, plural: &str) -> Vec<Value> {
        let state = self.lock();
        state.objects.iter().filter(|(key, _)| key.0 == plural).map(|(_, object)| object.clone()).collect()
    }

    /// Writes since the beginning whose path contains `part`.
    pub(crate) fn writes(&self, part: &str) -> Vec<(String, String, Value)> {
        self.lock().writes.iter().filter(|(_, path, _)| path.contains(part)).cloned().collect()
    }

    /// From now on a token is known as this user's, for this audience.
    pub(crate) fn know_token(&self, token: &str, user: &str, audience: &str) {
        self.lock().tokens.insert(token.to_owned(), (user.to_owned(), audience.to_owned()));
    }

    /// From now on the server adds defaults to statuses of routes.
    pub(crate) fn add_defaults(&self) {
        self.lock().defaults = true;
    }

    pub(crate) fn reads(&self, part: &str) -> usize {
        self.lock().reads.iter().filter(|path| path.contains(part)).count()
    }

    /// Just before the next status write of the object of this name, somebody else changes it.
    pub(crate) fn intrude(&self, name: &str, change: impl FnOnce(&mut Value) + Send + 'static) {
        self.lock().intruders.entry(name.to_owned()).or_default().push(Box::new(change));
    }

    /// The next calls to paths that end so fail.
    pub(crate) fn fail(&self, path_end: &str, times: u32, code: u16) {
        let code = StatusCode::from_u16(code).unwrap();
        self.lock().failures.insert(path_end.to_owned(), (times, code));
    }

    /// How many more calls to paths that end so would fail.
    pub(crate) fn failures_left(&self, path_end: &str) -> u32 {
        self.lock().failures.get(path_end).map_or(0, |(left, _)| *left)
    }

    pub(crate) fn serve(&self, version: &str, plural: &str, served: bool) {
        let mut state = self.lock();
        let group = if plural == "configmaps" { "" } else { GATEWAY_API };
        let key = (group.to_owned(), version.to_owned(), plural.to_owned());
        if served {
            state.unserved.remove(&key)
        } else {
            state.unserved.insert(key)
        };
        let path_end = format!("/{version}/{plural}");
        state.watchers.retain(|watcher| served || !watcher.path.ends_with(&path_end));
    }

    /// End every watch of the kind, as a server does after a while.
    pub(crate) fn end_watches(&self, plural: &str) {
        let end = format!("/{plural}");
        self.lock().watchers.retain(|watcher| !watcher.path.ends_with(&end));
    }

    /// What is there now.
    pub(crate) fn back_up(&self) -> Backup {
        let state = self.lock();
        Backup { version: state.version, objects: state.objects.clone() }
    }

    /// Be as at an earlier time; every watch ends, as where servers are started anew.
    pub(crate) fn put_back(&self, backup: Backup) {
        let mut state = self.lock();
        (state.version, state.objects) = (backup.version, backup.objects);
        state.watchers.clear();
    }

    /// Whether a watch of the kind is on.
    pub(crate) fn is_watched(&self, plural: &str) -> bool {
        let end = format!("/{plural}");
        self.lock().watchers.iter().any(|one| one.path.ends_with(&end) && !one.sender.is_closed())
    }

    /// Keep the kind's events from watchers until [`Api::flush`].
    pub(crate) fn delay(&self, plural: &str) {
        self.lock().delayed.insert(plural.to_owned(), Vec::new());
    }

    pub(crate) fn flush(&self, plural: &str) {
        let mut state = self.lock();
        for line in state.delayed.remove(plural).unwrap_or_default() {
            state.send(plural, &line, u64::MAX);
        }
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<AnswerBody> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let content =
            parts.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut state = self.lock();
        if let Some(end) = state.failures.keys().find(|end| path.ends_with(end.as_str())).cloned() {
            let (left, code) = state.failures.get_mut(&end).unwrap();
            let code = *code;
            *left -= 1;
            if *left == 0 {
                state.failures.remove(&end);
            }
            return status(code, "Injected");
        }
        if let Some(answer) = state.discovery(&path) {
            return answer;
        }
        if path.ends_with("/tokenreviews") {
            return json_answer(StatusCode::CREATED, &state.review(&body));
        }
        let Some(place) = state.place(&path) else { return status(StatusCode::NOT_FOUND, "NotFound") };
        match parts.method {
            Method::GET if query.contains("watch=true") => state.watch(&path, &place, &query),
            Method::GET if place.name.2.is_empty() => {
                let accepts = parts.headers.get("accept").and_then(|value| value.to_str().ok());
                let of_metadata = accepts.is_some_and(|types| types.contains("PartialObjectMetadataList"));
                state.list(&place, of_metadata)
            }
            Method::GET => {
                state.reads.push(path);
                match state.objects.get(&place.name) {
                    Some(object) => json_answer(StatusCode::OK, object),
                    None => status(StatusCode::NOT_FOUND, "NotFound"),
                }
            }
            Method::POST => {
                state.writes.push(("POST".to_owned(), path, body.clone()));
                let name = (
                    place.name.0.clone(),
                    place.name.1.clone(),
                    body["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
                );
                if state.objects.contains_key(&name) {
                    return status(StatusCode::CONFLICT, "AlreadyExists");
                }
                let stored = state.store(name, body, None, Part::Spec);
                json_answer(StatusCode::CREATED, &stored)
            }
            Method::PATCH => state.patch(&path, &place, content, &body),
            Method::DELETE => {
                state.writes.push(("DELETE".to_owned(), path, body));
                match state.delete(&place.name) {
                    true => json_answer(StatusCode::OK, &json!({"kind": "Status", "status": "Success"})),
                    false => status(StatusCode::NOT_FOUND, "NotFound"),
                }
            }
            _ => status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }
}

/// What a path names.
struct Place {
    name: Name,
    status: bool,
}

enum Part {
    Spec,
    Status,
    All,
}

impl State {
    fn is_served(&self, group: &str, version: &str, plural: &str) -> bool {
        KINDS.iter().any(|kind| (kind.0, kind.1, kind.2) == (group, version, plural))
            && !self.unserved.contains(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// As a server that knows audiences.
    fn review(&self, question: &Value) -> Value {
        let asked = &question["spec"]["audiences"];
        let known = self.tokens.get(question["spec"]["token"].as_str().unwrap_or_default());
        let known = known.filter(|(_, audience)| asked.as_array().unwrap().contains(&json!(audience)));
        match known {
            Some((user, audience)) => json!({"status": {
                "authenticated": true, "user": {"username": user}, "audiences": [audience],
            }}),
            None => json!({"status": {"error": "token or audience is not known"}}),
        }
    }

    fn discovery(&self, path: &str) -> Option<Response<AnswerBody>> {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let (group, version) = match parts[..] {
            ["api", version] => ("", version),
            ["apis", group, version] => (group, version),
            _ => return None,
        };
        let resources: Vec<Value> = KINDS
            .iter()
            .filter(|kind| kind.0 == group && kind.1 == version && self.is_served(group, version, kind.2))
            .map(|kind| json!({"name": kind.2, "kind": kind.3, "namespaced": kind.4}))
            .collect();
        if resources.is_empty() {
            return Some(status(StatusCode::NOT_FOUND, "NotFound"));
        }
        Some(json_answer(StatusCode::OK, &json!({"kind": "APIResourceList", "resources": resources})))
    }

    fn place(&self, path: &str) -> Option<Place> {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let (group, version, rest) = match &parts[..] {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let (plural, name, status) = match rest {
            [plural] => (*plural, "", false),
            [plural, name] => (*plural, *name, false),
            [plural, name, "status"] => (*plural, *name, true),
            _ => return None,
        };
        let name = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        // Secrets are read and written by name, and not watched.
        let is_there = plural == "secrets" || self.is_served(group, version, plural);
        is_there.then_some(Place { name, status })
    }

    fn list(&self, place: &Place, of_metadata: bool) -> Response<AnswerBody> {
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(key, _)| key.0 == place.name.0 && (place.name.1.is_empty() || key.1 == place.name.1))
            .map(|(_, object)| object)
            .collect();
        // As Kubernetes has it: null, not empty.
        let items = if of_metadata && items.is_empty() { Value::Null } else { json!(items) };
        let list = json!({
            "kind": "List", "apiVersion": "v1",
            "metadata": {"resourceVersion": self.version.to_string()}, "items": items,
        });
        json_answer(StatusCode::OK, &list)
    }

    fn watch(&mut self, path: &str, place: &Place, query: &str) -> Response<AnswerBody> {
        let from: u64 = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("resourceVersion="))
            .and_then(|version| version.parse().ok())
            .unwrap_or_default();
        let (sender, mut lines) = mpsc::unbounded_channel();
        // What changed since, as far as it is still there; deletions in between are what a 410 is for.
        let version = |object: &Value| -> u64 {
            object["metadata"]["resourceVersion"]
                .as_str()
                .and_then(|text| text.parse().ok())
                .unwrap_or_default()
        };
        for (key, object) in &self.objects {
            if key.0 == place.name.0 && version(object) > from {
                let _ = sender.send(line("MODIFIED", object));
            }
        }
        self.watchers.push(Watcher { path: path.to_owned(), from, sender });
        let stream = futures::stream::poll_fn(move |context| {
            lines
                .poll_recv(context)
                .map(|line| line.map(|line| Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(line)))))
        });
        Response::new(UnsyncBoxBody::new(StreamBody::new(stream)))
    }

    fn patch(&mut self, path: &str, place: &Place, content: &str, body: &Value) -> Response<AnswerBody> {
        self.writes.push(("PATCH".to_owned(), path.to_owned(), body.clone()));
        if place.status
            && let Some(changes) = self.intruders.get_mut(&place.name.2)
            && !changes.is_empty()
        {
            let change = changes.remove(0);
            if let Some(before) = self.objects.get(&place.name).cloned() {
                let mut after = before.clone();
                change(&mut after);
                self.store(place.name.clone(), after, Some(before), Part::All);
            }
        }
        let Some(before) = self.objects.get(&place.name).cloned() else {
            return status(StatusCode::NOT_FOUND, "NotFound");
        };
        let mut after = before.clone();
        match content {
            "application/merge-patch+json" => json_patch::merge(&mut after, body),
            "application/json-patch+json" => {
                let patch: json_patch::Patch = serde_json::from_value(body.clone()).unwrap();
                if json_patch::patch(&mut after, &patch).is_err() {
                    return status(StatusCode::UNPROCESSABLE_ENTITY, "Invalid");
                }
            }
            _ => return status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType"),
        }
        let part = if place.status { Part::Status } else { Part::Spec };
        let stored = self.store(place.name.clone(), after, Some(before), part);
        json_answer(StatusCode::OK, &stored)
    }

    /// Put an object in with what a server adds, and tell the watchers. Of an update only one part counts.
    fn store(&mut self, name: Name, mut object: Value, before: Option<Value>, part: Part) -> Value {
        match (&before, part) {
            (Some(before), Part::Spec) => object["status"] = before["status"].clone(),
            (Some(before), Part::Status) => {
                let written = object["status"].take();
                object = before.clone();
                object["status"] = written;
            }
            _ => {}
        }
        if object["status"].is_null() {
            object.as_object_mut().unwrap().shift_remove("status");
        }
        if self.defaults
            && let Some(parents) = object["status"]["parents"].as_array_mut()
        {
            parents.iter_mut().for_each(|parent| parent["defaulted"] = json!(true));
        }
        let generation = match &before {
            Some(before) => {
                let kept = before["metadata"]["generation"].as_u64().unwrap();
                kept + u64::from(before["spec"] != object["spec"])
            }
            None => 1,
        };
        let uid = match &before {
            Some(before) => before["metadata"]["uid"].clone(),
            None => json!(format!("uid-{}", self.version + 1)),
        };
        let metadata = &mut object["metadata"];
        metadata["generation"] = json!(generation);
        metadata["uid"] = uid;
        metadata["creationTimestamp"] = json!("2025-01-01T00:00:00Z");
        metadata["resourceVersion"] =
            before.as_ref().map_or(Value::Null, |before| before["metadata"]["resourceVersion"].clone());
        if !name.1.is_empty() {
            metadata["namespace"] = json!(name.1);
        }
        if before.as_ref() == Some(&object) {
            return object;
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(name.clone(), object.clone());
        let told = line(if before.is_some() { "MODIFIED" } else { "ADDED" }, &object);
        self.tell(&name.0, told);
        object
    }

    fn delete(&mut self, name: &Name) -> bool {
        let Some(mut object) = self.objects.remove(name) else { return false };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.tell(&name.0, line("DELETED", &object));
        true
    }

    fn tell(&mut self, plural: &str, line: String) {
        match self.delayed.get_mut(plural) {
            Some(held) => held.push(line),
            None => self.send(plural, &line, self.version),
        }
    }

    fn send(&mut self, plural: &str, line: &str, version: u64) {
        let end = format!("/{plural}");
        for watcher in self.watchers.iter().filter(|watcher| version > watcher.from) {
            if watcher.path.ends_with(&end) {
                let _ = watcher.sender.send(line.to_owned());
            }
        }
    }
}

fn name_of(plural: &str, object: &Value) -> Name {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (plural.to_owned(), text("namespace"), text("name"))
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

fn json_answer(code: StatusCode, value: &Value) -> Response<AnswerBody> {
    let body = UnsyncBoxBody::new(Full::new(Bytes::from(value.to_string())));
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}

fn status(code: StatusCode, reason: &str) -> Response<AnswerBody> {
    let value = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "message": reason, "code": code.as_u16(),
    });
    json_answer(code, &value)
}

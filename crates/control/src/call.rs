//! Calls to the API: one place where a URL is made, a time-out is set and an answer is judged.
//!
//! Invariants: every call ends within its time-out; every failure is counted; a [`CallError`] says whether the same
//! call can succeed later. Deliberately absent: retries (each caller has its own policy) and decoding into types.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use http::header::{ACCEPT, CONTENT_TYPE};
use kube::api::WatchEvent;
use serde_json::Value;

use crate::lease::Leadership;
use crate::metrics::ControlStatus;
use crate::page::{self, Trim};
use crate::rights::Right;

/// The longest that one call may take, seconds; a list of a large kind is the slowest of them.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The media type that lets a server leave out everything but metadata, and that any server can answer.
const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// A collection of objects: group (empty for the core group), version and plural name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Collection {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) namespaced: bool,
}

impl Collection {
    /// The path of one object, or of the whole collection where `name` is empty; `namespace` empty means all.
    pub(crate) fn path(&self, namespace: &str, name: &str) -> String {
        let mut path = match self.group {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        if self.namespaced && !namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(self.plural);
        if !name.is_empty() {
            path.push('/');
            path.push_str(name);
        }
        path
    }

    /// `apiVersion` as objects write it.
    pub(crate) fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The server's own refusal, with its status code.
    #[error("{message} ({code} {reason})")]
    Refused { code: u16, reason: String, message: String },
    #[error("cannot reach the API: {0}")]
    Transport(String),
    #[error("the answer is not what the API promises: {0}")]
    Answer(String),
    /// Nothing was sent: another process leads.
    #[error("this process does not lead")]
    NotLeading,
}

impl CallError {
    fn code(&self) -> u16 {
        match self {
            CallError::Refused { code, .. } => *code,
            _ => 0,
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    /// The object changed since it was read. A failed `test` of a JSON patch is answered with 422.
    pub(crate) fn is_conflict(&self) -> bool {
        self.code() == 409
    }

    pub(crate) fn is_already_exists(&self) -> bool {
        matches!(self, CallError::Refused { code: 409, reason, .. } if reason == "AlreadyExists")
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.code() == 410
    }

    /// The server understood and will say the same to the same words.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self.code(), 400 | 403 | 405 | 413 | 415 | 422)
    }

    pub(crate) fn is_unprocessable(&self) -> bool {
        self.code() == 422
    }

    pub(crate) fn is_not_leading(&self) -> bool {
        matches!(self, CallError::NotLeading)
    }

    /// The server knows us and we may not do this: a matter of rights, not of quotas or policies, which answer with the
    /// same code.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, CallError::Refused { code: 403, message, .. } if message.contains(" cannot "))
    }
}

impl From<kube::Error> for CallError {
    fn from(error: kube::Error) -> CallError {
        match error {
            kube::Error::Api(status) => {
                CallError::Refused { code: status.code, reason: status.reason, message: status.message }
            }
            kube::Error::SerdeError(error) => CallError::Answer(error.to_string()),
            other => CallError::Transport(other.to_string()),
        }
    }
}

/// How a body changes an object.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PatchKind {
    Json,
    Merge,
    /// Server-side apply under our name; what others own is taken over.
    Apply,
}

/// A client with time-outs and counters, whose writes only the leader may make. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Caller {
    client: kube::Client,
    status: Arc<ControlStatus>,
    leadership: Leadership,
}

impl Caller {
    /// Whose writes nothing holds back.
    pub(crate) fn new(client: kube::Client, status: Arc<ControlStatus>) -> Caller {
        Caller { client, status, leadership: Leadership::always() }
    }

    /// An API that is away.
    #[cfg(test)]
    pub(crate) fn to_nobody() -> Caller {
        let nobody = tower::service_fn(async |_: http::Request<kube::client::Body>| {
            let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
            Err::<http::Response<kube::client::Body>, _>(refused)
        });
        Caller::new(kube::Client::new(nobody, "default"), Arc::default())
    }

    /// The same, but every write asks `leadership` first.
    pub(crate) fn under(self, leadership: Leadership) -> Caller {
        Caller { leadership, ..self }
    }

    pub(crate) fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, CallError> {
        self.call(http::Request::get(path), Vec::new()).await
    }

    /// A whole list in the pages that the server gives, or its metadata alone. `path` may end in a query that selects.
    pub(crate) async fn list(
        &self,
        path: &str,
        metadata_only: bool,
    ) -> Result<(String, Vec<Value>), CallError> {
        self.pages(path, metadata_only, LIST_PAGE_OBJECTS, &|_: &mut Value| {}).await
    }

    /// A whole list in pages of at most so many objects, of each of which is kept what `trim` leaves.
    pub(crate) async fn pages(
        &self,
        path: &str,
        metadata_only: bool,
        most: u32,
        trim: Trim<'_>,
    ) -> Result<(String, Vec<Value>), CallError> {
        let mut objects = Vec::new();
        let mut proceed = String::new();
        loop {
            let read = |text: &str| page::read(text, &mut objects, trim);
            let metadata = self.page(path, metadata_only, most, &proceed, read).await?;
            match metadata["continue"].as_str() {
                Some(token) if !token.is_empty() => token.clone_into(&mut proceed),
                _ => {
                    let version = metadata["resourceVersion"].as_str().unwrap_or_default().to_owned();
                    return Ok((version, objects));
                }
            }
        }
    }

    /// The version that a list would have now.
    pub(crate) async fn version(&self, path: &str) -> Result<String, CallError> {
        let mut one = Vec::new();
        let read = |text: &str| page::read(text, &mut one, &|_: &mut Value| {});
        let metadata = self.page(path, true, 1, "", read).await?;
        Ok(metadata["resourceVersion"].as_str().unwrap_or_default().to_owned())
    }

    async fn page(
        &self,
        path: &str,
        metadata_only: bool,
        most: u32,
        proceed: &str,
        read: impl FnOnce(&str) -> Result<Option<Value>, serde_json::Error>,
    ) -> Result<Value, CallError> {
        let mut uri = format!("{}limit={most}", with_query(path));
        if !proceed.is_empty() {
            uri = format!("{uri}&continue={}", percent_encode(proceed));
        }
        let mut request = http::Request::get(uri);
        if metadata_only {
            request = request.header(ACCEPT, METADATA_LIST);
        }
        let request = request.body(Vec::new()).map_err(|error| CallError::Answer(error.to_string()))?;
        let right = Right::of(request.method(), request.uri());
        let text = self.bounded(right, self.client.request_text(request)).await?;
        let metadata = read(&text).map_err(|error| CallError::Answer(error.to_string()))?;
        metadata.ok_or_else(|| CallError::Answer(format!("the list at {path} has no items")))
    }

    /// A watch from `resource_version` on. The server ends it after about [`WATCH_SECONDS`].
    pub(crate) async fn watch(
        &self,
        path: &str,
        resource_version: &str,
        metadata_only: bool,
    ) -> Result<impl Stream<Item = Result<WatchEvent<Value>, CallError>> + Send + use<>, CallError> {
        let uri = format!(
            "{}watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={}",
            with_query(path),
            percent_encode(resource_version)
        );
        let mut request = http::Request::get(uri);
        if metadata_only {
            request = request.header(ACCEPT, METADATA_LIST.replace("List;", ";").as_str());
        }
        let request = request.body(Vec::new()).map_err(|error| CallError::Answer(error.to_string()))?;
        let right = Right::of(request.method(), request.uri());
        let started = self.bounded(right, self.client.request_events::<Value>(request)).await?;
        Ok(StreamExt::map(started, |event| event.map_err(CallError::from)))
    }

    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Value, CallError> {
        let request = http::Request::post(with_field_manager(path)).header(CONTENT_TYPE, "application/json");
        self.call(request, object.to_string().into_bytes()).await
    }

    pub(crate) async fn patch(&self, path: &str, kind: PatchKind, patch: &Value) -> Result<Value, CallError> {
        let (media, force) = match kind {
            PatchKind::Json => ("application/json-patch+json", ""),
            PatchKind::Merge => ("application/merge-patch+json", ""),
            // JSON is YAML.
            PatchKind::Apply => ("application/apply-patch+yaml", "&force=true"),
        };
        let uri = format!("{}{force}", with_field_manager(path));
        let request = http::Request::patch(uri).header(CONTENT_TYPE, media);
        self.call(request, patch.to_string().into_bytes()).await
    }

    /// Server-side apply under another name than ours.
    pub(crate) async fn apply_as(
        &self,
        path: &str,
        manager: &str,
        object: &Value,
    ) -> Result<Value, CallError> {
        let uri = format!("{path}?fieldManager={manager}&force=true");
        let request = http::Request::patch(uri).header(CONTENT_TYPE, "application/apply-patch+yaml");
        self.call(request, object.to_string().into_bytes()).await
    }

    pub(crate) async fn delete(&self, path: &str, preconditions: &Value) -> Result<Value, CallError> {
        let request = http::Request::delete(path).header(CONTENT_TYPE, "application/json");
        self.call(request, preconditions.to_string().into_bytes()).await
    }

    async fn call(&self, request: http::request::Builder, body: Vec<u8>) -> Result<Value, CallError> {
        let request = request.body(body).map_err(|error| CallError::Answer(error.to_string()))?;
        if request.method() != http::Method::GET && !self.leadership.holds() {
            return Err(CallError::NotLeading);
        }
        let right = Right::of(request.method(), request.uri());
        self.bounded(right, self.client.request::<Value>(request)).await
    }

    async fn bounded<T>(
        &self,
        right: Right,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, CallError> {
        let answer = match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(answer) => answer.map_err(CallError::from),
            Err(_elapsed) => Err(CallError::TimedOut(CALL_TIMEOUT)),
        };
        if let Err(error) = &answer
            && !error.is_not_found()
            && !error.is_conflict()
        {
            self.status.call_errors.add(1);
        }
        match &answer {
            Err(error @ CallError::Refused { message, .. }) if error.is_denied() => {
                self.status.rights.deny(right, message);
            }
            Err(CallError::Transport(_) | CallError::TimedOut(_)) => return answer,
            _ => self.status.rights.grant(&right),
        }
        if !matches!(&answer, Err(CallError::Refused { code: 500.., .. })) {
            self.status.answered();
        }
        answer
    }
}

/// How many objects one page of a list may have; client-go's value.
pub(crate) const LIST_PAGE_OBJECTS: u32 = 500;

/// After how many seconds a server is asked to end a watch; under the 5 minutes after which proxies on the way cut it.
pub(crate) const WATCH_SECONDS: u64 = 290;

/// The name under which our writes appear in `managedFields`.
pub(crate) const FIELD_MANAGER: &str = "weir";

/// A path to which a query can be added.
fn with_query(path: &str) -> String {
    format!("{path}{}", if path.contains('?') { '&' } else { '?' })
}

fn with_field_manager(path: &str) -> String {
    format!("{path}?fieldManager={FIELD_MANAGER}")
}

/// Escape everything that is not unreserved in a query (RFC 3986 section 2.3).
pub(crate) fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Collection, percent_encode};

    #[test]
    fn paths_follow_group_scope_and_name() {
        let services = Collection { group: "", version: "v1", plural: "services", namespaced: true };
        assert_eq!(services.path("", ""), "/api/v1/services");
        assert_eq!(services.path("kong", "proxy"), "/api/v1/namespaces/kong/services/proxy");
        assert_eq!(services.api_version(), "v1");
        let classes = Collection {
            group: "gateway.networking.k8s.io",
            version: "v1beta1",
            plural: "gatewayclasses",
            namespaced: false,
        };
        assert_eq!(
            classes.path("ignored", "kong"),
            "/apis/gateway.networking.k8s.io/v1beta1/gatewayclasses/kong"
        );
        assert_eq!(classes.api_version(), "gateway.networking.k8s.io/v1beta1");
    }

    #[test]
    fn continue_tokens_are_escaped() {
        assert_eq!(percent_encode("a+b/c=="), "a%2Bb%2Fc%3D%3D");
    }
}

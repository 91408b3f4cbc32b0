//! Requests: from a path to an answer.
//!
//! Owns: the state that all requests share ([`Api`]), dispatch, the body's bound, warnings. Invariant: a request
//! works with one registry from start to end; nothing in here blocks or waits except for the request's body and for
//! watches.

pub(crate) mod body;
mod create;
mod delete;
pub(crate) mod encode;
pub(crate) mod negotiate;
pub(crate) mod path;
mod pod_parts;
mod read;
mod scale;
pub(crate) mod selector;
pub(crate) mod write;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::Identity;
use crate::admission::Admission;
use crate::auth::{Token, User};
use crate::clock::Clock;
use crate::discovery;
use crate::error::{ApiError, ApiResult, Subject};
use crate::events::LastSweep;
use crate::logs::LogSource;
use crate::registry::{Registry, Resource, Version};
use crate::replace::Owned;
use crate::rest::encode::{Reply, Shape};
use crate::rest::negotiate::Accept;
use crate::rest::path::{Params, ResourcePath};
use crate::server::ServerShutdown;
use crate::service_tokens::ServiceTokens;
use crate::store::Store;
use crate::watch;

/// Bytes of a request's body. Source: kube-apiserver's `MaxRequestBodyBytes`, 3 MiB.
pub(crate) const BODY_BYTES: usize = 3 * 1024 * 1024;

/// From the head of a request to the end of its body. Source: kube-apiserver's `--request-timeout`, 60 s.
const BODY_TIME: Duration = Duration::from_secs(60);

/// The body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What all requests share.
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) admission: Admission,
    pub(crate) logs: LogSource,
    pub(crate) last_sweep: LastSweep,
    /// What came from files.
    pub(crate) owned: Mutex<Owned>,
    registry: RwLock<Arc<Registry>>,
    identity: Identity,
    token: Token,
    pub(crate) service_tokens: ServiceTokens,
}

/// One request for a resource.
pub(crate) struct Call {
    pub(crate) user: User,
    pub(crate) resource: Arc<Resource>,
    pub(crate) version: Arc<Version>,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    pub(crate) params: Params,
    pub(crate) accept: Accept,
    /// Who owns the fields that are written: `fieldManager`, else the user agent's first word.
    pub(crate) manager: String,
    pub(crate) content_type: String,
    /// Texts for `Warning` headers.
    pub(crate) warnings: parking_lot::Mutex<Vec<String>>,
}

impl Call {
    pub(crate) fn api_version(&self) -> String {
        self.resource.api_version(&self.version.name)
    }

    /// The resource and an object's name, as refusals name them.
    pub(crate) fn subject(&self, name: &str) -> Subject {
        Subject::new(&self.resource.group, &self.resource.plural, name)
    }

    /// The kind and an object's name, as `Invalid` names them.
    pub(crate) fn kind_subject(&self, name: &str) -> Subject {
        Subject::new(&self.resource.group, &self.resource.kind, name)
    }

    pub(crate) fn warn(&self, text: impl Into<String>) {
        self.warnings.lock().push(text.into());
    }

    pub(crate) fn dry_run(&self) -> bool {
        !self.params.dry_run.is_empty()
    }
}

impl Api {
    pub(crate) fn new(store: Store, registry: Registry, clock: Clock, identity: Identity) -> Api {
        Api {
            store,
            clock,
            admission: Admission::new(),
            logs: LogSource::default(),
            last_sweep: LastSweep::default(),
            owned: Mutex::default(),
            registry: RwLock::new(Arc::new(registry)),
            identity,
            token: Token::random(),
            service_tokens: ServiceTokens::default(),
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    pub(crate) fn token(&self) -> &Token {
        &self.token
    }

    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.registry.read().clone()
    }

    pub(crate) fn change_registry(&self, change: impl FnOnce(&Registry) -> Registry) {
        let mut registry = self.registry.write();
        *registry = Arc::new(change(&registry));
    }

    /// Whether a resource is still served (a custom one goes with its definition).
    pub(crate) fn serves(&self, resource: &Resource) -> bool {
        self.registry.read().get(&resource.group, &resource.plural).is_some()
    }

    /// A refusal as a response.
    pub(crate) fn refuse(error: &ApiError) -> Response<Body> {
        let body = format!("{}\n", error.to_status());
        let mut response = respond(error.code(), "application/json", full(Bytes::from(body)));
        if let Some(seconds) = error.retry_after_seconds() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// Answers one request. The caller's identity is in its extensions.
    pub(crate) async fn handle<B>(self: &Arc<Self>, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        match self.route(&head, body).await {
            Ok(response) => response,
            Err(error) => Api::refuse(&error),
        }
    }

    async fn route<B>(self: &Arc<Self>, head: &http::request::Parts, body: B) -> ApiResult<Response<Body>>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if let Some(response) = discovery::answer(self, head)? {
            return Ok(response);
        }
        let segments = path::segments(head.uri.path()).ok_or_else(ApiError::unknown_path)?;
        let place = ResourcePath::parse(&segments).ok_or_else(ApiError::unknown_path)?;
        let call = self.call(head, place)?;
        let body = read_body(body).await?;
        let shutdown = head.extensions.get::<ServerShutdown>().map(|end| end.0.clone()).unwrap_or_default();
        let Some(reply) = self.dispatch(&call, &head.method, &body)? else {
            let warnings = std::mem::take(&mut *call.warnings.lock());
            let mut response = self.stream(call, shutdown)?;
            add_warnings(response.headers_mut(), &warnings);
            return Ok(response);
        };
        let encoded = encode::encode(self, &call, &reply)?;
        let mut response = respond(encoded.code, encoded.media_type, full(encoded.body));
        add_warnings(response.headers_mut(), &call.warnings.lock());
        Ok(response)
    }

    fn call(&self, head: &http::request::Parts, place: ResourcePath) -> ApiResult<Call> {
        let registry = self.registry();
        let resource = registry.get(&place.group, &place.plural).ok_or_else(ApiError::unknown_path)?.clone();
        let version = resource.version(&place.version).ok_or_else(ApiError::unknown_path)?.clone();
        if !place.subresource.is_empty() && version.subresource(&place.subresource).is_none() {
            return Err(ApiError::unknown_path());
        }
        let of_namespaces = resource.is("", "namespaces");
        if !resource.namespaced && !of_namespaces && !place.namespace.is_empty() {
            return Err(ApiError::unknown_path());
        }
        let needs_namespace = resource.namespaced && place.namespace.is_empty();
        if needs_namespace && (!place.name.is_empty() || head.method == Method::POST) {
            return Err(ApiError::unknown_path());
        }
        let params = Params::parse(head.uri.query().unwrap_or_default())?;
        let text = |name: header::HeaderName| {
            head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let manager = manager_of(&params.field_manager, &text(header::USER_AGENT));
        let call = Call {
            user: head.extensions.get::<User>().cloned().unwrap_or_else(User::anonymous),
            resource,
            version,
            namespace: place.namespace,
            name: place.name,
            subresource: place.subresource,
            params,
            accept: Accept::of(&head.headers)?,
            manager,
            content_type: text(header::CONTENT_TYPE),
            warnings: parking_lot::Mutex::new(Vec::new()),
        };
        if let Some(deprecation) = &call.version.deprecation {
            call.warn(deprecation.clone());
        }
        Ok(call)
    }

    /// `None` means a stream: a watch, or a log that is followed.
    fn dispatch(self: &Arc<Self>, call: &Call, method: &Method, body: &Bytes) -> ApiResult<Option<Reply>> {
        if !call.user.may_do_everything() {
            return Err(ApiError::forbidden(call.subject(&call.name), "the user may do nothing here"));
        }
        let verb = verb(call, method)?;
        if !allows(call, verb) {
            return Err(ApiError::method_not_allowed());
        }
        match verb {
            "watch" => Ok(None),
            "get" if call.subresource == "log" => Ok(None),
            "get" => self.get(call).map(Some),
            "list" => self.list(call).map(Some),
            "create" => self.create(call, body).map(Some),
            "update" => self.update(call, body).map(Some),
            "patch" => self.patch(call, body).map(Some),
            "delete" => self.delete(call, body).map(Some),
            "deletecollection" => self.delete_collection(call, body).map(Some),
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    fn stream(self: &Arc<Self>, call: Call, shutdown: CancellationToken) -> ApiResult<Response<Body>> {
        if call.subresource == "log" {
            return self.log(&call, shutdown);
        }
        let selector = read::selector_of(&call)?;
        let shape = Shape::new(call.accept);
        let lines = watch::watch(self.clone(), call, selector, shape, shutdown)?;
        let frames = lines.map(|line| Ok::<_, Infallible>(Frame::data(line)));
        Ok(respond(StatusCode::OK, "application/json", StreamBody::new(frames).boxed_unsync()))
    }
}

fn verb(call: &Call, method: &Method) -> ApiResult<&'static str> {
    let one = !call.name.is_empty();
    Ok(match (method.as_str(), one) {
        ("GET" | "HEAD", _) if call.params.watch && call.subresource.is_empty() => "watch",
        ("GET" | "HEAD", true) => "get",
        ("GET" | "HEAD", false) => "list",
        ("POST", _) => "create",
        ("PUT", true) => "update",
        ("PATCH", true) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => return Err(ApiError::method_not_allowed()),
    })
}

fn allows(call: &Call, verb: &str) -> bool {
    let verbs = match call.version.subresource(&call.subresource) {
        Some(subresource) => &subresource.verbs,
        None => &call.version.verbs,
    };
    verbs.iter().any(|allowed| allowed == verb)
        // A POST to a name is no create of the resource itself.
        && (verb != "create" || call.subresource.is_empty() == call.name.is_empty())
}

/// Who owns written fields: the parameter, else the user agent up to its first slash. Source: apimachinery.
fn manager_of(parameter: &str, user_agent: &str) -> String {
    if !parameter.is_empty() {
        return parameter.to_owned();
    }
    let first = user_agent.split('/').next().unwrap_or_default();
    let printable: String = first.chars().filter(|c| !c.is_control()).take(128).collect();
    if printable.is_empty() { "unknown".to_owned() } else { printable }
}

async fn read_body<B>(body: B) -> ApiResult<Bytes>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let reading = tokio::time::timeout(BODY_TIME, Limited::new(body, BODY_BYTES).collect());
    let Ok(read) = reading.await else {
        return Err(ApiError::timeout("the request's body did not come in time"));
    };
    match read {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<http_body_util::LengthLimitError>().is_some() => {
            Err(ApiError::too_large(BODY_BYTES))
        }
        Err(error) => Err(ApiError::bad_request(format!("the request's body cannot be read: {error}"))),
    }
}

pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).boxed_unsync()
}

pub(crate) fn respond(code: StatusCode, media_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// `Warning: 299 - "text"`, as RFC 7234 section 5.5 has it; at most 4 KiB in all, longer texts are cut.
fn add_warnings(headers: &mut HeaderMap, warnings: &[String]) {
    const TOTAL_BYTES: usize = 4 * 1024;
    let mut used = 0;
    for (index, warning) in warnings.iter().enumerate() {
        if warnings[..index].contains(warning) || used + warning.len() > TOTAL_BYTES {
            continue;
        }
        used += warning.len();
        let quoted: String = warning
            .chars()
            .flat_map(|c| match c {
                '"' | '\\' => vec!['\\', c],
                c if c.is_control() => vec![' '],
                c => vec![c],
            })
            .collect();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            headers.append(header::WARNING, value);
        }
    }
}

/// A JSON value as an answer.
pub(crate) fn json_response(code: StatusCode, value: &Value) -> Response<Body> {
    respond(code, "application/json", full(Bytes::from(format!("{value}\n"))))
}

//! The embedded Kubernetes-compatible API server.
//!
//! Owns: objects and their history ([`ApiServer`]), the REST protocol over them (create, read, watch, patch,
//! delete, discovery, tables, OpenAPI), custom resource definitions, admission policies, credentials; beside it the
//! controllers that Kubernetes itself brings ([`controllers`]), pods that stand in for containers ([`pods`]) and
//! objects from files ([`loader`]). Real clients decide whether it is right.
//!
//! Invariants: one revision counter orders all changes; a watch event leaves as soon as its write is committed;
//! peer input never panics and is bounded.
//!
//! Deliberately absent: admission webhooks, aggregated API servers, authorization by RBAC (whoever has the token
//! may do everything).

mod admission;
mod auth;
mod bootstrap;
mod clock;
pub mod controllers;
mod crd;
mod discovery;
mod error;
mod events;
pub mod loader;
mod logs;
mod object;
mod openapi;
pub mod pods;
mod protobuf;
mod registry;
mod replace;
mod rest;
mod reviews;
mod schema;
mod server;
mod service_tokens;
mod store;
mod table;
mod watch;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderValue, Request, Response, header};
use tokio_util::sync::CancellationToken;

pub use auth::{ServingTls, TlsError, User};
pub use clock::Clock;
pub use error::{ApiError, Cause};
pub use logs::{LogLine, LogReader, LogSource};
use registry::Registry;
use rest::Api;
use store::Store;
pub use weir_schema::crds::Channel;

/// How uids and creation times are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Identity {
    /// Random uids and the clock's time, as in a cluster.
    #[default]
    Random,
    /// File mode: the uid follows from group, kind, namespace and name, and every object has the same creation
    /// time, so that the same files mean the same at every start.
    Stable,
}

/// How an [`ApiServer`] is made.
#[derive(Debug, Clone)]
pub struct ApiServerConfig {
    /// The built-in definitions of Gateway API.
    pub channel: Channel,
    /// How uids and creation times are made.
    pub identity: Identity,
    /// Where time comes from.
    pub clock: Clock,
    /// Changes kept per resource for watches that come back; a count, default 4,096.
    pub history_changes: usize,
}

impl Default for ApiServerConfig {
    fn default() -> ApiServerConfig {
        ApiServerConfig {
            channel: Channel::default(),
            identity: Identity::default(),
            clock: Clock::system(),
            history_changes: store::HISTORY_CHANGES,
        }
    }
}

/// Why no server could be made.
#[derive(Debug, thiserror::Error)]
pub enum ApiServerError {
    /// A built-in object was refused; a defect of this program.
    #[error("cannot create the built-in {object}: {source}")]
    Builtin {
        /// Kind and name.
        object: String,
        /// The refusal.
        source: ApiError,
    },
}

/// An object of [`ApiServer::replace`] that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The position in the list that was given.
    pub index: usize,
    /// Kind, namespace and name, for example `HTTPRoute default/echo`.
    pub object: String,
    /// The field that is wrong, for example `spec.rules[0].matches`; empty when the object as a whole is.
    pub field: String,
    /// What is wrong with it, in the words of Kubernetes.
    pub reason: String,
}

/// The server; a cheap handle.
#[derive(Clone)]
pub struct ApiServer {
    api: Arc<Api>,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("revision", &self.api.store.revision()).finish_non_exhaustive()
    }
}

impl ApiServer {
    /// A server with its built-in kinds, definitions and namespaces.
    pub fn new(config: ApiServerConfig) -> Result<ApiServer, ApiServerError> {
        let store = Store::new(config.history_changes);
        let api = Arc::new(Api::new(store, Registry::builtin(), config.clock, config.identity));
        let server = ApiServer { api };
        bootstrap::install(&server.api, config.channel)?;
        Ok(server)
    }

    /// A client of this server in the same process, as the administrator. Must be made inside the runtime that uses
    /// it.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(InProcess { api: self.api.clone() }, "default")
    }

    /// Serves the API on a socket until `shutdown`; then watches end and connections drain.
    pub async fn serve(&self, listener: std::net::TcpListener, tls: ServingTls, shutdown: CancellationToken) {
        server::serve(self.api.clone(), listener, tls, shutdown).await;
    }

    /// A kubeconfig for the administrator of the server at `server_url` (for example `https://127.0.0.1:6443`),
    /// which trusts `tls`. It holds the token: give it mode 0600.
    pub fn kubeconfig(&self, server_url: &str, tls: &ServingTls) -> String {
        auth::kubeconfig(server_url, tls.ca_pem(), self.api.token())
    }

    /// Where pods write what `kubectl logs` reads.
    pub fn logs(&self) -> LogSource {
        self.api.logs.clone()
    }

    /// File mode: makes the objects that are there equal to these. What vanished from the list since the last call
    /// is deleted, what is the same is left alone, and what is refused stays as it was before.
    pub fn replace<V: Into<Arc<serde_json::Value>>>(&self, objects: Vec<V>) -> Vec<Rejection> {
        replace::replace(&self.api, objects.into_iter().map(Into::into).collect())
    }
}

/// The API as a service for `kube::Client`.
#[derive(Clone)]
struct InProcess {
    api: Arc<Api>,
}

impl tower::Service<Request<kube::client::Body>> for InProcess {
    type Response = Response<rest::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<kube::client::Body>) -> Self::Future {
        let api = self.api.clone();
        if request.extensions().get::<User>().is_none() {
            request.extensions_mut().insert(User::admin());
        }
        request.headers_mut().entry(header::USER_AGENT).or_insert(HeaderValue::from_static("weir"));
        Box::pin(async move { Ok(api.handle(request).await) })
    }
}

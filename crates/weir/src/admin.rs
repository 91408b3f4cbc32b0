//! The admin port: `/livez`, `/readyz`, `/metrics` (Prometheus text), `/splits` and `/snapshot` (JSON).
//!
//! Owns a runtime thread of its own, so that a busy data plane cannot starve a health check. Read-only.
//! Deliberately absent: TLS and authentication; it listens on loopback unless told otherwise.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use crate::process;

/// A connection that sends no complete head for so long is closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections served at once; more wait in the accept queue.
const MAX_CONNECTIONS: usize = 64;

/// What the admin port tells, read anew for each request.
pub(crate) trait AdminSource: Send + Sync + 'static {
    /// `Err` says what is still missing.
    fn ready(&self) -> Result<(), String>;
    /// What is to be known of a process that is ready.
    fn remark(&self) -> Option<String> {
        None
    }
    /// Prometheus text format.
    fn metrics(&self) -> String;
    fn splits(&self) -> BoxFuture<'_, serde_json::Value>;
    /// What data planes have, by name.
    fn snapshot(&self) -> serde_json::Value;
}

/// Binds now, serves on a thread of its own until `shutdown`. Returns the bound address.
pub(crate) fn start(
    address: Option<SocketAddr>,
    source: Arc<dyn AdminSource>,
    shutdown: CancellationToken,
) -> Result<SocketAddr> {
    let address = address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    let address = process::listen_address(address);
    let listener =
        std::net::TcpListener::bind(address).with_context(|| format!("--admin: binding {address}"))?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("weir-admin".to_owned());
    thread.spawn(move || runtime.block_on(serve(listener, source, shutdown)))?;
    Ok(bound)
}

async fn serve(listener: std::net::TcpListener, source: Arc<dyn AdminSource>, shutdown: CancellationToken) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let slots = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let slot = slots.clone().acquire_owned().await;
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, or a peer that is gone already: neither may spin this loop.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let source = source.clone();
        let ended = shutdown.clone();
        tokio::spawn(async move {
            let _slot = slot;
            let service = hyper::service::service_fn(move |request| {
                let source = source.clone();
                async move { Ok::<_, Infallible>(answer(&request, source.as_ref()).await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            let http = http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            tokio::select! {
                () = ended.cancelled() => {}
                _ = http.serve_connection(TokioIo::new(stream), service) => {}
            }
        });
    }
}

async fn answer(request: &Request<Incoming>, source: &dyn AdminSource) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
    }
    match request.uri().path() {
        "/livez" | "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => match source.ready() {
            Ok(()) => {
                let remark = source.remark().map(|remark| format!(": {remark}")).unwrap_or_default();
                text(StatusCode::OK, format!("ok{remark}\n"))
            }
            Err(missing) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing}\n")),
        },
        "/metrics" => with_type(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            source.metrics() + &process::usage(),
        ),
        "/splits" => with_type(StatusCode::OK, "application/json", format!("{:#}\n", source.splits().await)),
        "/snapshot" => with_type(StatusCode::OK, "application/json", format!("{}\n", source.snapshot())),
        _ => text(StatusCode::NOT_FOUND, "try /livez, /readyz, /metrics, /splits or /snapshot\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

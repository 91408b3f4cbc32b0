//! The API on a socket: TLS, HTTP/1.1 and HTTP/2, credentials.
//!
//! Owns: connections and their limits. Invariants: a peer that is slow in the handshake or in its head is cut off;
//! the number of connections is bounded, and one more waits in the kernel's queue; on shutdown watches end and
//! connections drain for a bounded time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{self, Credentials, ServingTls, User};
use crate::error::{ApiError, Subject};
use crate::rest::{Api, Body};

/// Open connections at once.
const CONNECTIONS: usize = 1_024;
/// From the TCP connection to the end of the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// From a request's first byte to the end of its head. Source: kube-apiserver's ReadHeaderTimeout, 32 s.
const HEAD: Duration = Duration::from_secs(32);
/// Bytes of a request's head. Source: Go's net/http default, 1 MiB; 64 KiB holds every client's.
const HEAD_BYTES: usize = 64 * 1024;
/// HTTP/2 streams of one connection. Source: kube-apiserver's default, 100.
const STREAMS: u32 = 250;
/// Requests in progress at shutdown may end within this.
const DRAIN: Duration = Duration::from_secs(5);
/// After an accept error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Ends the watches of a request when the server that took it ends.
#[derive(Debug, Clone)]
pub(crate) struct ServerShutdown(pub(crate) CancellationToken);

pub(crate) async fn serve(
    api: Arc<Api>,
    listener: std::net::TcpListener,
    tls: ServingTls,
    shutdown: CancellationToken,
) {
    let listener = match listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the API socket cannot be used");
            return;
        }
    };
    let acceptor = TlsAcceptor::from(tls.config());
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let place = tokio::select! {
            () = shutdown.cancelled() => break,
            place = places.clone().acquire_owned() => place,
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (api, acceptor, shutdown) = (api.clone(), acceptor.clone(), shutdown.clone());
                connections.spawn(async move {
                    connection(api, stream, acceptor, shutdown).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the API socket did not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::warn!("connections to the API were cut at shutdown");
    }
}

async fn connection(api: Arc<Api>, stream: TcpStream, acceptor: TlsAcceptor, shutdown: CancellationToken) {
    // Small answers leave at once; a failure here only costs latency.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake with an API client failed");
            return;
        }
        Err(_) => return,
    };
    let service = {
        let shutdown = shutdown.clone();
        service_fn(move |request: Request<Incoming>| {
            let (api, shutdown) = (api.clone(), shutdown.clone());
            async move { Ok::<_, Infallible>(answer(&api, request, shutdown).await) }
        })
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_BYTES as u32)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            match tokio::time::timeout(DRAIN, serving).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection of an API client ended");
    }
}

async fn answer(
    api: &Arc<Api>,
    mut request: Request<Incoming>,
    shutdown: CancellationToken,
) -> Response<Body> {
    let path = request.uri().path();
    let user = match auth::authenticate(request.headers(), api.token()) {
        Credentials::Known(user) => user,
        Credentials::Wrong => return Api::refuse(&ApiError::unauthorized()),
        Credentials::Anonymous if auth::is_public(path) => User::anonymous(),
        Credentials::Anonymous => {
            let verb = request.method().as_str().to_ascii_lowercase();
            let why = format!("User \"system:anonymous\" cannot {verb} path \"{path}\"");
            return Api::refuse(&ApiError::forbidden(Subject::default(), &why));
        }
    };
    if let Some(other) = request.headers().get("impersonate-user") {
        let subject = Subject::new("", "users", other.to_str().unwrap_or_default());
        return Api::refuse(&ApiError::forbidden(
            subject,
            "nobody else can be impersonated here: there is one user",
        ));
    }
    request.extensions_mut().insert(user);
    request.extensions_mut().insert(ServerShutdown(shutdown));
    api.handle(request).await
}

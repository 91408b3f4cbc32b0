//! New connections to endpoints.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConnection;
use tokio::net::TcpStream;

use crate::error::Failure;
use crate::io::{Counted, Secure, Socket};
use crate::tls::session::Session;
use crate::tls::store::UpstreamTls;
use crate::worker::Worker;

/// Connects, and shakes hands if the backend wants TLS, within `limit`.
pub(crate) async fn connect(
    worker: &Worker,
    endpoint: SocketAddr,
    tls: Option<&Arc<UpstreamTls>>,
    limit: Duration,
) -> Result<Socket, Failure> {
    worker.metrics.upstream_connects.add(1);
    let connecting = async {
        let stream = TcpStream::connect(endpoint).await.map_err(|error| {
            tracing::debug!(%endpoint, %error, "connecting to an endpoint failed");
            Failure::Connect
        })?;
        // Small writes go out at once; an error means that the connection is gone, and the write will say so.
        let _ = stream.set_nodelay(true);
        let wire = Counted::new(stream, worker.metrics.clone());
        match tls {
            None => Ok(Socket::Plain(wire)),
            Some(tls) => secure(worker, endpoint, wire, tls).await,
        }
    };
    let connected = tokio::time::timeout(limit, connecting).await;
    worker.clock.tick();
    let connected = connected.unwrap_or(Err(Failure::ConnectTimeout));
    if connected.is_err() {
        worker.metrics.upstream_connect_failures.add(1);
    }
    connected
}

async fn secure(
    worker: &Worker,
    endpoint: SocketAddr,
    mut wire: Counted,
    tls: &UpstreamTls,
) -> Result<Socket, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        worker.metrics.upstream_handshake_failures.add(1);
        tracing::debug!(%endpoint, server_name = ?tls.server_name, %error, "TLS with an endpoint failed");
        Failure::UpstreamHandshake
    };
    let connection = ClientConnection::new(tls.config.clone(), tls.server_name.clone());
    let mut session = Session::new(connection.map_err(|error| failed(&error))?);
    poll_fn(|cx| session.poll_handshake(&mut wire, cx)).await.map_err(|error| failed(&error))?;
    worker.metrics.upstream_handshakes.add(1);
    Ok(Socket::Tls(Box::new(Secure { wire, session })))
}

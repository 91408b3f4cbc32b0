//! New connections to endpoints.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::error::Failure;
use crate::io::{Counted, Socket};
use crate::worker::Worker;

/// Connects, within `limit`.
pub(crate) async fn connect(
    worker: &Worker,
    endpoint: SocketAddr,
    limit: Duration,
) -> Result<Socket, Failure> {
    worker.metrics.upstream_connects.add(1);
    let connected = tokio::time::timeout(limit, TcpStream::connect(endpoint)).await;
    worker.clock.tick();
    let failure = match connected {
        Ok(Ok(stream)) => {
            // Small writes go out at once; an error means that the connection is gone, and the write will say so.
            let _ = stream.set_nodelay(true);
            return Ok(Socket::Plain(Counted::new(stream, worker.metrics.clone())));
        }
        Ok(Err(error)) => {
            tracing::debug!(%endpoint, %error, "connecting to an endpoint failed");
            Failure::Connect
        }
        Err(_) => Failure::ConnectTimeout,
    };
    worker.metrics.upstream_connect_failures.add(1);
    Err(failure)
}

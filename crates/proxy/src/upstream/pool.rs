//! One worker's idle connections to endpoints.
//!
//! Last in, first out: the connections that are used stay warm and the rest grow old and are closed by
//! [`Pool::sweep`]. A connection that the endpoint closed meanwhile is found out at check-out without entering
//! the kernel.
//!
//! Invariants: a connection is put back only after a whole exchange, with nothing left unread; bounds per
//! endpoint and in total hold.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::io::Socket;

#[derive(Debug)]
struct Idle {
    socket: Socket,
    since: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: RefCell<FxHashMap<SocketAddr, Vec<Idle>>>,
}

/// What bounds a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolLimits {
    pub(crate) per_endpoint: usize,
    pub(crate) idle: Duration,
}

impl Pool {
    /// A connection that may be used at once.
    pub(crate) fn take(&self, endpoint: SocketAddr) -> Option<Socket> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&endpoint)?;
        while let Some(connection) = connections.pop() {
            if connection.socket.is_quiet() {
                return Some(connection.socket);
            }
        }
        None
    }

    pub(crate) fn put(&self, endpoint: SocketAddr, socket: Socket, now: Instant, limits: PoolLimits) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(endpoint).or_default();
        if connections.len() < limits.per_endpoint {
            connections.push(Idle { socket, since: now });
        }
    }

    /// Closes what is too old or was closed by the endpoint, and forgets endpoints without connections.
    pub(crate) fn sweep(&self, now: Instant, limits: PoolLimits) {
        self.idle.borrow_mut().retain(|_, connections| {
            connections.retain(|connection| {
                now.saturating_duration_since(connection.since) < limits.idle && connection.socket.is_quiet()
            });
            !connections.is_empty()
        });
    }

    /// Closes all.
    pub(crate) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }
}

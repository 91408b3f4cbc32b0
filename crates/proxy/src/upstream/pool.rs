//! One worker's connections to endpoints: the idle ones, and how many are busy.
//!
//! Last in, first out: the connections that are used stay warm and the rest grow old and are closed by
//! [`Pool::sweep`]. A connection that the endpoint closed meanwhile is found out at check-out without entering
//! the kernel.
//!
//! Invariants: a connection is put back only after a whole exchange, with nothing left unread; every busy
//! connection is counted by one [`Busy`], however it ends; bounds per endpoint hold.

use std::cell::RefCell;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use crate::clock::Moment;
use crate::io::Socket;
use crate::tls::store::UpstreamTls;

/// What connections are kept apart by: those of one place can carry each other's exchanges.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    /// `None`: in the clear.
    pub(crate) tls: Option<Arc<UpstreamTls>>,
}

impl Place {
    fn identity(&self) -> (SocketAddr, u64) {
        (self.address, self.tls.as_ref().map_or(0, |tls| tls.identity))
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Place) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Place {}

impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

#[derive(Debug)]
struct Idle {
    socket: Socket,
    /// When it is too old.
    until: Moment,
}

#[derive(Debug, Default)]
struct Connections {
    idle: Vec<Idle>,
    busy: usize,
    /// Told when one becomes free; only there once somebody waits.
    freed: Option<Rc<Notify>>,
}

#[derive(Debug, Default)]
pub(crate) struct Pool {
    endpoints: RefCell<FxHashMap<Place, Rc<RefCell<Connections>>>>,
}

/// What bounds a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolLimits {
    /// Connections to one endpoint.
    pub(crate) per_endpoint: usize,
    /// Idle connections to one endpoint.
    pub(crate) idle_per_endpoint: usize,
    /// How long a connection may be idle.
    pub(crate) idle: Duration,
}

/// What a request gets from the pool.
pub(crate) enum Taken {
    /// A connection that may be used at once.
    Kept(Socket, Busy),
    /// Leave to open one.
    Room(Busy),
    /// There are as many as there may be; told when one becomes free.
    Full(Rc<Notify>),
}

impl Pool {
    /// A kept connection unless `fresh`, or leave to open one.
    pub(crate) fn take(&self, place: Place, fresh: bool, limits: PoolLimits) -> Taken {
        let connections = self.endpoints.borrow_mut().entry(place).or_default().clone();
        let mut of = connections.borrow_mut();
        if !fresh {
            while let Some(mut idle) = of.idle.pop() {
                if idle.socket.is_quiet() {
                    of.busy += 1;
                    drop(of);
                    return Taken::Kept(idle.socket, Busy { connections });
                }
            }
        }
        if of.busy >= limits.per_endpoint {
            return Taken::Full(of.freed.get_or_insert_default().clone());
        }
        of.busy += 1;
        drop(of);
        Taken::Room(Busy { connections })
    }

    /// Closes what is too old or was closed by the endpoint, and forgets endpoints without connections.
    pub(crate) fn sweep(&self, now: Moment) {
        self.endpoints.borrow_mut().retain(|_, connections| {
            let mut of = connections.borrow_mut();
            of.idle.retain_mut(|connection| now < connection.until && connection.socket.is_quiet());
            !of.idle.is_empty() || of.busy > 0 || Rc::strong_count(connections) > 1
        });
    }

    /// Closes all idle connections.
    pub(crate) fn clear(&self) {
        self.endpoints.borrow_mut().clear();
    }
}

/// A connection that is in use or being opened; it makes room when dropped.
#[derive(Debug)]
pub(crate) struct Busy {
    connections: Rc<RefCell<Connections>>,
}

impl Busy {
    /// Keeps the connection, whose exchange is over.
    pub(crate) fn keep(self, socket: Socket, now: Moment, limits: PoolLimits) {
        let mut connections = self.connections.borrow_mut();
        if connections.idle.len() < limits.idle_per_endpoint {
            connections.idle.push(Idle { socket, until: now + limits.idle });
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut connections = self.connections.borrow_mut();
        connections.busy -= 1;
        if let Some(freed) = &connections.freed {
            freed.notify_one();
        }
    }
}

//! Listening sockets, and the one thread that accepts on all of them.
//!
//! One socket for each address and port, without `SO_REUSEPORT`: a port that somebody else has is an error and not half
//! of the traffic, and a socket is kept for as long as it is wanted, so that no connection that waits in it is lost.
//! Each connection goes to the worker with the fewest. Datagrams have no connections to hand out, so there each worker has a socket of its own of
//! the same port, bound alone first ([`receive`]).
//!
//! Invariants: before a socket is closed, whatever waits in it is accepted; when there are too many connections or no file
//! descriptors, accepting pauses and goes on by itself, and idle connections are closed to make room.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use weir_model::table::{BindAddress, Transport};

use crate::metrics::FrontMetrics;
use crate::terms::{ProcessLimits, Terms};
use crate::worker::{Handed, Order, WorkerHandle};

/// Connections that may wait in the kernel. Unit: connections. Source: ours (the kernel's `somaxconn` bounds it further).
const BACKLOG: i32 = 4096;

/// Datagrams that may wait in the kernel. Unit: bytes. Source: ours (the kernel's `rmem_max` bounds it further).
const RECEIVE_BYTES: usize = 4 * 1024 * 1024;

/// Datagrams that are dropped before a socket is served, at most. Unit: datagrams. Source: ours.
const EARLY_DATAGRAMS: usize = 4096;

/// Distance of the ports that stand in for one under 1024. Source: ours.
const FALLBACK_FIRST: u16 = 8_000;
const FALLBACK_STEP: u16 = 10_000;

/// A socket as connections that came through it see it.
pub(crate) struct Bind {
    /// What is served there.
    pub(crate) address: BindAddress,
    /// The port that clients connect to.
    pub(crate) bound_port: u16,
    /// The number of the terms, to be looked at by each request.
    version: AtomicU64,
    terms: Mutex<Arc<Terms>>,
    /// Flows of datagrams, over all workers.
    pub(crate) flows: AtomicUsize,
}

impl Bind {
    pub(crate) fn new(address: BindAddress, bound_port: u16, terms: Arc<Terms>) -> Bind {
        Bind {
            address,
            bound_port,
            version: AtomicU64::new(terms.version),
            terms: Mutex::new(terms),
            flows: AtomicUsize::new(0),
        }
    }

    /// Whether these are the terms of now.
    #[inline]
    pub(crate) fn has(&self, terms: &Terms) -> bool {
        self.version.load(Relaxed) == terms.version
    }

    /// The terms of now.
    pub(crate) fn terms(&self) -> Arc<Terms> {
        self.terms.lock().clone()
    }

    /// Requests that begin from now on are served on these terms.
    pub(crate) fn set_terms(&self, terms: Arc<Terms>) {
        let mut current = self.terms.lock();
        let version = terms.version;
        *current = terms;
        self.version.store(version, Relaxed);
    }
}

/// A socket that was opened.
pub(crate) enum Opened {
    Listener(std::net::TcpListener),
    /// One for each worker.
    Datagrams(Vec<std::net::UdpSocket>),
}

/// What a socket has to be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// On `::`, IPv4 too.
    pub(crate) dual_stack: bool,
    pub(crate) low_port_fallback: bool,
    /// Sockets that share what comes as datagrams.
    pub(crate) receivers: usize,
}

/// Opens a socket, and listens on it if it is one for connections. Gives the socket and the port that it really has.
pub(crate) fn open(address: BindAddress, wanted: Wanted) -> io::Result<(Opened, u16)> {
    let Wanted { dual_stack, low_port_fallback, receivers } = wanted;
    let open = |address: SocketAddr, transport| match transport {
        Transport::Tcp => listen(address, dual_stack).map(Opened::Listener),
        Transport::Udp => receive(address, dual_stack, receivers).map(Opened::Datagrams),
    };
    let mut opened = open(SocketAddr::from(address), address.transport);
    if address.ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        && dual_stack
        && opened.as_ref().is_err_and(is_without_ipv6)
    {
        // All addresses are those of IPv4 then.
        opened = open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port)), address.transport);
    }
    let denied = match opened {
        Ok(socket) => return Ok((socket, address.port)),
        Err(error) => error,
    };
    if denied.kind() != io::ErrorKind::PermissionDenied || address.port >= 1024 || !low_port_fallback {
        return Err(denied);
    }
    for port in stand_ins(address.port) {
        if let Ok(socket) = open(SocketAddr::new(address.ip, port), address.transport) {
            return Ok((socket, port));
        }
    }
    Err(denied)
}

/// The kernel has no IPv6, or it is switched off.
fn is_without_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error();
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].iter().any(|errno| code == Some(errno.raw_os_error()))
}

fn stand_ins(port: u16) -> impl Iterator<Item = u16> {
    (0..6).map_while(move |step| {
        FALLBACK_STEP.checked_mul(step)?.checked_add(FALLBACK_FIRST)?.checked_add(port)
    })
}

fn listen(address: SocketAddr, dual_stack: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    // Lets a restart bind while connections of the last run are in TIME_WAIT; two live listeners still exclude each other.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// As many sockets of one address as there are workers; the kernel gives each flow to one of them, by a hash of both addresses.
///
/// The first is bound alone: who has the port already is an error and not half of the datagrams. Only then may others share it, which only
/// processes of this user that ask for it can; and what came before all of them were there is dropped, since its flow may belong to another.
fn receive(address: SocketAddr, dual_stack: bool, receivers: usize) -> io::Result<Vec<std::net::UdpSocket>> {
    // Without SO_REUSEADDR, which for datagrams would let two sockets have one port.
    let first = datagrams(address, dual_stack)?;
    first.bind(&address.into())?;
    let mut sockets = vec![first];
    if receivers > 1 {
        sockets[0].set_reuse_port(true)?;
        for _ in 1..receivers {
            let socket = datagrams(address, dual_stack)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            sockets.push(socket);
        }
    }
    let first: std::net::UdpSocket = sockets.swap_remove(0).into();
    let mut nothing = [0; 1];
    // Bounded, should somebody send faster than this reads.
    for _ in 0..EARLY_DATAGRAMS {
        if first.recv_from(&mut nothing).is_err() {
            break;
        }
    }
    Ok(std::iter::once(first).chain(sockets.into_iter().map(Into::into)).collect())
}

fn datagrams(address: SocketAddr, dual_stack: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    // What the system allows of it: datagrams that find no room are lost.
    let _ = socket.set_recv_buffer_size(RECEIVE_BYTES);
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether a socket on `::` shall take IPv4 too: not where a socket on `0.0.0.0` is wanted beside it.
pub(crate) fn is_dual_stack(address: BindAddress, mut wanted: impl Iterator<Item = BindAddress>) -> bool {
    let v4 = BindAddress { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), ..address };
    address.ip.is_unspecified() && !wanted.any(|other| other == v4)
}

/// What the accept thread is told.
pub(crate) enum AcceptOrder {
    Add(Arc<Bind>, std::net::TcpListener, oneshot::Sender<io::Result<()>>),
    /// Accept what waits, then close the socket.
    Remove(BindAddress, oneshot::Sender<()>),
    /// The same for all.
    RemoveAll(oneshot::Sender<()>),
}

/// What accepting needs.
pub(crate) struct Acceptor {
    pub(crate) workers: Vec<WorkerHandle>,
    pub(crate) limits: Arc<Mutex<ProcessLimits>>,
    /// Told when a connection closes.
    pub(crate) room: Arc<Notify>,
    pub(crate) metrics: Arc<FrontMetrics>,
}

struct Accepting {
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Acceptor {
    /// Starts the accept thread.
    pub(crate) fn start(self) -> io::Result<mpsc::Sender<AcceptOrder>> {
        let (orders, ordered) = mpsc::channel(16);
        let (started, outcome) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name("weir-accept".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => {
                    // The starter waits for this.
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(()));
            runtime.block_on(Arc::new(self).run(ordered));
        })?;
        outcome.recv().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
        Ok(orders)
    }

    async fn run(self: Arc<Self>, mut orders: mpsc::Receiver<AcceptOrder>) {
        let mut accepting: BTreeMap<BindAddress, Accepting> = BTreeMap::new();
        while let Some(order) = orders.recv().await {
            match order {
                AcceptOrder::Add(bind, socket, done) => {
                    let added = TcpListener::from_std(socket).map(|listener| {
                        let stop = Arc::<Notify>::default();
                        let address = bind.address;
                        let task = tokio::spawn(self.clone().accept(listener, bind, stop.clone()));
                        accepting.insert(address, Accepting { stop, task });
                    });
                    // Nobody waits any more: the proxy is being dropped.
                    let _ = done.send(added);
                }
                AcceptOrder::Remove(address, done) => {
                    if let Some(accepting) = accepting.remove(&address) {
                        accepting.close().await;
                    }
                    let _ = done.send(());
                }
                AcceptOrder::RemoveAll(done) => {
                    for (_, accepting) in std::mem::take(&mut accepting) {
                        accepting.close().await;
                    }
                    let _ = done.send(());
                }
            }
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, bind: Arc<Bind>, stop: Arc<Notify>) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.notified() => break,
                accepted = self.accept_one(&listener) => accepted,
            };
            self.hand_over(accepted, &bind).await;
        }
        // What has connected already is not turned away: until the kernel has nothing more.
        let Ok(listener) = listener.into_std() else { return };
        while let Ok(accepted) = listener.accept() {
            self.hand_over(accepted, &bind).await;
        }
    }

    async fn accept_one(&self, listener: &TcpListener) -> (std::net::TcpStream, SocketAddr) {
        loop {
            self.wait_for_room().await;
            match listener.accept().await.and_then(into_std) {
                Ok(accepted) => return accepted,
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    self.metrics.accept_failures.fetch_add(1, Relaxed);
                    tracing::warn!(%error, "accepting a connection failed; trying again");
                    self.shed(16);
                    tokio::time::sleep(self.limits().accept_pause).await;
                }
            }
        }
    }

    /// While there are too many connections, more wait in the kernel.
    async fn wait_for_room(&self) {
        while self.open() >= self.limits().client_connections {
            self.metrics.accept_pauses.fetch_add(1, Relaxed);
            self.shed(1);
            let notified = self.room.notified();
            if self.open() < self.limits().client_connections {
                break;
            }
            // A pause bounds the wait should the connection that was asked to close have become busy.
            let _ = tokio::time::timeout(self.limits().accept_pause, notified).await;
        }
    }

    fn limits(&self) -> ProcessLimits {
        *self.limits.lock()
    }

    fn open(&self) -> usize {
        self.workers.iter().map(|worker| worker.load.open.load(Relaxed)).sum()
    }

    /// Asks the fullest worker to close idle connections.
    fn shed(&self, count: usize) {
        if let Some(worker) = self.workers.iter().max_by_key(|worker| worker.load.open.load(Relaxed)) {
            // A full queue means that it has been asked already.
            let _ = worker.orders.try_send(Order::Shed(count));
        }
    }

    async fn hand_over(&self, (stream, peer): (std::net::TcpStream, SocketAddr), bind: &Arc<Bind>) {
        let living = self.workers.iter().filter(|worker| !worker.connections.is_closed());
        let Some(worker) = living.min_by_key(|worker| worker.load.open.load(Relaxed)) else { return };
        worker.load.open.fetch_add(1, Relaxed);
        if worker.connections.send(Handed { stream, peer, bind: bind.clone() }).await.is_err() {
            worker.load.open.fetch_sub(1, Relaxed);
        }
    }
}

impl Accepting {
    async fn close(self) {
        self.stop.notify_one();
        // A task that panicked has closed its socket, too.
        let _ = self.task.await;
    }
}

fn into_std(
    (stream, peer): (tokio::net::TcpStream, SocketAddr),
) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    stream.into_std().map(|stream| (stream, peer))
}

/// The peer went away between its handshake and now: nothing to wait for.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_stand_in_for_low_ones_are_valid_ports() {
        let of = |port| stand_ins(port).collect::<Vec<_>>();
        assert_eq!(of(80), [8080, 18080, 28080, 38080, 48080, 58080]);
        assert_eq!(of(1023), [9023, 19023, 29023, 39023, 49023, 59023]);
    }

    #[test]
    fn only_a_lack_of_ipv6_leads_to_ipv4_alone() {
        use rustix::io::Errno;
        let is = |errno: Errno| is_without_ipv6(&io::Error::from_raw_os_error(errno.raw_os_error()));
        assert!(is(Errno::AFNOSUPPORT) && is(Errno::ADDRNOTAVAIL));
        assert!(!is(Errno::ADDRINUSE) && !is(Errno::ACCESS));
    }

    #[test]
    fn an_unspecified_ipv6_socket_takes_ipv4_unless_that_has_its_own() {
        let address = |ip: &str| BindAddress::tcp(ip.parse().unwrap(), 80);
        assert!(is_dual_stack(address("::"), [address("::"), address("127.0.0.1")].into_iter()));
        assert!(!is_dual_stack(address("::"), [address("::"), address("0.0.0.0")].into_iter()));
        assert!(!is_dual_stack(address("::1"), [address("::1")].into_iter()));
    }
}

//! A pod's sockets.
//!
//! Invariants: every socket of a pod is on the pod's own address; a port under 1024 that may not be bound is served
//! at the first free of p+8000, p+18000, …; a port that somebody else has is an error that names it.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use super::behaviour::Transport;

/// Ports under this need a right. Source: Linux' default `net.ipv4.ip_unprivileged_port_start`.
const FIRST_UNPRIVILEGED: u16 = 1024;
/// Where the search for a free port begins, and its step. Unit: ports. Source: ours.
const FALLBACK_FIRST: u16 = 8000;
const FALLBACK_STEP: u16 = 10_000;
/// Connections that wait to be accepted. Source: Linux' `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A bound port.
#[derive(Debug)]
pub(super) struct Bound {
    /// The port that the container asked for.
    pub(super) wanted: u16,
    /// The port that it got; another one only for want of the right to bind low ports.
    pub(super) real: u16,
    pub(super) socket: BoundSocket,
}

#[derive(Debug)]
pub(super) enum BoundSocket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Why a port could not be bound.
#[derive(Debug, thiserror::Error)]
pub(super) enum BindError {
    #[error("port {0} is in use by another process")]
    InUse(u16),
    #[error("port {0} needs the right to bind ports under 1024")]
    NotAllowed(u16),
    #[error("port {0} cannot be bound: {1}")]
    Other(u16, #[source] io::Error),
}

/// Binds `port` of `address`.
pub(super) fn bind(
    address: Ipv4Addr,
    transport: Transport,
    port: u16,
    low_port_fallback: bool,
) -> Result<Bound, BindError> {
    match open(address, transport, port) {
        Ok(socket) => Ok(Bound { wanted: port, real: port, socket }),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && port < FIRST_UNPRIVILEGED => {
            if !low_port_fallback {
                return Err(BindError::NotAllowed(port));
            }
            bind_fallback(address, transport, port)
        }
        Err(error) => Err(failed(port, error)),
    }
}

fn bind_fallback(address: Ipv4Addr, transport: Transport, port: u16) -> Result<Bound, BindError> {
    for candidate in fallbacks(port) {
        match open(address, transport, candidate) {
            Ok(socket) => return Ok(Bound { wanted: port, real: candidate, socket }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(failed(port, error)),
        }
    }
    Err(BindError::InUse(port))
}

/// p+8000, p+18000, … as long as they are ports.
pub(super) fn fallbacks(port: u16) -> impl Iterator<Item = u16> {
    let first = port.checked_add(FALLBACK_FIRST);
    std::iter::successors(first, |candidate| candidate.checked_add(FALLBACK_STEP))
}

fn failed(port: u16, error: io::Error) -> BindError {
    match error.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(port),
        io::ErrorKind::PermissionDenied => BindError::NotAllowed(port),
        _ => BindError::Other(port, error),
    }
}

fn open(address: Ipv4Addr, transport: Transport, port: u16) -> io::Result<BoundSocket> {
    Ok(match transport {
        Transport::Tcp => BoundSocket::Tcp(listen(address, port)?),
        Transport::Udp => {
            let socket = UdpSocket::bind(SocketAddrV4::new(address, port))?;
            socket.set_nonblocking(true)?;
            BoundSocket::Udp(socket)
        }
    })
}

fn listen(address: Ipv4Addr, port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    // Old connections of a pod that had this address may linger; a listener of another process still refuses.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddrV4::new(address, port).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fallbacks_are_every_ten_thousand_from_eight_thousand() {
        assert_eq!(fallbacks(80).collect::<Vec<_>>(), [8080, 18080, 28080, 38080, 48080, 58080]);
        assert_eq!(fallbacks(443).next(), Some(8443));
    }

    #[test]
    fn a_port_in_use_is_named() {
        let address = Ipv4Addr::new(127, 91, 7, 3);
        let held = bind(address, Transport::Tcp, 4711, true).expect("free");
        assert_eq!((held.wanted, held.real), (4711, 4711));
        let error = bind(address, Transport::Tcp, 4711, true).expect_err("held");
        assert_eq!(error.to_string(), "port 4711 is in use by another process");
        // A UDP port of the same number is another port.
        let datagrams = bind(address, Transport::Udp, 4711, true).expect("free");
        assert!(matches!(datagrams.socket, BoundSocket::Udp(_)));
        assert!(matches!(bind(address, Transport::Udp, 4711, true), Err(BindError::InUse(4711))));
    }

    #[test]
    fn a_search_for_a_low_port_passes_those_in_use() {
        let address = Ipv4Addr::new(127, 91, 7, 4);
        let held = bind(address, Transport::Tcp, 8080, true).expect("free");
        let moved = bind_fallback(address, Transport::Tcp, 80).expect("18080 is free");
        assert_eq!((moved.wanted, moved.real), (80, 18080));
        drop(held);
    }
}

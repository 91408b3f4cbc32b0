//! Sockets that are wanted, and what each serves: listener groups by hostname.
//!
//! The listeners of one bind are of one family: plain HTTP, TLS (HTTPS and TLS listeners, told apart by server name), raw TCP or UDP.
//! Whoever made the resources has settled conflicts; should there be two families on one port all the same, TLS goes before plain
//! HTTP and that before raw TCP, so that nothing that was to be encrypted is served in the clear.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use imbl::OrdMap;

use super::index::{Candidates, HostTable, Placement};
use super::listener::CompiledListener;
use super::parameters::CompiledParameters;
use crate::hostname::{HostMap, Hostname, RequestHost};
use crate::resource::{ClientValidation, ListenerProtocol};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    Tcp,
    Udp,
}

/// The address, port and transport of a socket. `ip` may be unspecified (any address).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BindAddress {
    pub ip: IpAddr,
    pub port: u16,
    pub transport: Transport,
}

impl BindAddress {
    pub fn tcp(ip: IpAddr, port: u16) -> BindAddress {
        BindAddress { ip, port, transport: Transport::Tcp }
    }

    pub fn udp(ip: IpAddr, port: u16) -> BindAddress {
        BindAddress { ip, port, transport: Transport::Udp }
    }
}

impl From<BindAddress> for SocketAddr {
    fn from(bind: BindAddress) -> SocketAddr {
        SocketAddr::new(bind.ip, bind.port)
    }
}

/// `127.0.0.1:80`, `127.0.0.1:53/udp`
impl std::fmt::Display for BindAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        SocketAddr::from(*self).fmt(f)?;
        match self.transport {
            Transport::Tcp => Ok(()),
            Transport::Udp => f.write_str("/udp"),
        }
    }
}

/// What is spoken on a bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BindKind {
    /// HTTP/1 and HTTP/2 with prior knowledge, in the clear: [`crate::select::select`].
    Http,
    /// TLS: the server name finds the listeners ([`BindTable::by_sni`]), and they say what becomes of the connection
    /// ([`ListenerGroup::tls_mode`]).
    Tls,
    /// Bytes: [`crate::select::select_l4`].
    Tcp,
    /// Datagrams: [`crate::select::select_l4`].
    Udp,
}

/// What becomes of a connection to a bind of [`BindKind::Tls`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsMode {
    /// TLS ends here, HTTP is inside: [`crate::select::select_https`] for each request.
    Http,
    /// TLS ends here, the bytes inside go to a backend: [`crate::select::select_l4`].
    Bytes,
    /// The stream goes to a backend as it is: [`crate::select::select_l4`].
    Passthrough,
}

/// What one socket serves.
#[derive(Clone)]
pub struct BindTable {
    pub address: BindAddress,
    /// Of HTTP listeners.
    pub(crate) groups: HostMap<Arc<ListenerGroup>>,
    /// Of HTTPS and TLS listeners.
    pub(crate) tls: HostMap<Arc<ListenerGroup>>,
    /// Of TCP or UDP listeners: one group for any host.
    pub(crate) raw: HostMap<Arc<ListenerGroup>>,
    /// Of the listeners that have any, by their key: the first holds.
    parameters: OrdMap<Arc<str>, Arc<CompiledParameters>>,
    /// Listeners in all groups.
    pub(crate) listeners: usize,
}

/// The listeners of a bind that have the same hostname: they serve each other's routes.
#[derive(Clone)]
pub struct ListenerGroup {
    pub hostname: Hostname,
    /// By key. Never empty.
    pub listeners: BTreeMap<Arc<str>, Arc<CompiledListener>>,
    /// Whether a listener has changed since entries were made that hold it.
    renewed: bool,
    /// HTTP and gRPC rules, by the hostname of an attachment.
    pub(crate) hosts: HostMap<Arc<HostTable>>,
    /// TLS, TCP and UDP rules, by the hostname of an attachment.
    pub(crate) l4: HostMap<Candidates>,
}

/// To which listeners a request over TLS belongs.
#[derive(Clone, Copy)]
pub enum Authority<'t> {
    /// Those of the connection.
    Serve(&'t ListenerGroup),
    /// Others on this port: 421.
    Misdirected,
    /// None on this port: 404.
    NotFound,
}

impl BindTable {
    pub(crate) fn new(address: BindAddress) -> BindTable {
        BindTable {
            address,
            groups: HostMap::default(),
            tls: HostMap::default(),
            raw: HostMap::default(),
            parameters: OrdMap::new(),
            listeners: 0,
        }
    }

    /// What connections are served with; `None` for what the data plane was started with.
    pub fn parameters(&self) -> Option<&Arc<CompiledParameters>> {
        self.parameters.get_min().map(|(_, first)| first)
    }

    fn set_parameters(&mut self, listener: &CompiledListener) {
        match &listener.parameters {
            Some(parameters) => self.parameters.insert(listener.key.clone(), parameters.clone()),
            None => self.parameters.remove(&listener.key),
        };
    }

    pub fn kind(&self) -> BindKind {
        if self.address.transport == Transport::Udp {
            BindKind::Udp
        } else if !self.tls.is_empty() {
            BindKind::Tls
        } else if self.groups.is_empty() {
            BindKind::Tcp
        } else {
            BindKind::Http
        }
    }

    /// All listeners of this bind, by key.
    pub fn listeners(&self) -> Vec<Arc<CompiledListener>> {
        let groups = self.groups.values().chain(self.tls.values()).chain(self.raw.values());
        let mut all: Vec<_> = groups.flat_map(|group| group.listeners.values().cloned()).collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }

    /// The listeners that a TLS connection belongs to: those whose hostname is the most specific that matches the server
    /// name; those without a hostname where there is no name, or one that nobody else has. `None`: nobody serves it, and the
    /// connection is to be closed.
    pub fn by_sni(&self, server_name: Option<&[u8]>) -> Option<&ListenerGroup> {
        self.tls_group(&RequestHost::new(server_name.unwrap_or_default()))
    }

    /// Whether there are HTTPS or TLS listeners of this very hostname.
    pub fn has_tls(&self, hostname: &Hostname) -> bool {
        self.tls.get(hostname).is_some()
    }

    /// The listeners of a bind of [`BindKind::Tcp`] or [`BindKind::Udp`].
    pub fn raw(&self) -> Option<&ListenerGroup> {
        self.raw.most_specific_first(&RequestHost::new(b""), |group| Some(&**group))
    }

    /// Whether a request for `host` (without the port) may be answered on a TLS connection that would be made now for `server_name`.
    pub fn authority(&self, server_name: Option<&[u8]>, host: &[u8]) -> Authority<'_> {
        self.authority_on(self.by_sni(server_name).map(|own| &own.hostname), host)
    }

    /// Whether a request for `host` (without the port) may be answered on a TLS connection that was made with the listeners of hostname
    /// `own`: with their certificate, and what they asked of the client.
    ///
    /// The rule of the API (Gateway, `listeners[].hostname`), over all HTTPS and TLS listeners of the port, whatever Gateway they are of: where
    /// another listener matches the host better, or matches it and the connection's own does not, the request is misdirected; where none
    /// matches, there is nothing to be found.
    pub fn authority_on(&self, own: Option<&Hostname>, host: &[u8]) -> Authority<'_> {
        match self.tls_group(&RequestHost::new(host)) {
            None => Authority::NotFound,
            Some(wanted) if own == Some(&wanted.hostname) => Authority::Serve(wanted),
            Some(_) => Authority::Misdirected,
        }
    }

    fn tls_group(&self, host: &RequestHost<'_>) -> Option<&ListenerGroup> {
        self.tls.most_specific_first(host, |group| Some(&**group))
    }

    fn family(&mut self, protocol: ListenerProtocol) -> &mut HostMap<Arc<ListenerGroup>> {
        match protocol {
            ListenerProtocol::Http => &mut self.groups,
            ListenerProtocol::Https | ListenerProtocol::Tls => &mut self.tls,
            ListenerProtocol::Tcp | ListenerProtocol::Udp => &mut self.raw,
        }
    }

    pub(crate) fn add_listener(&mut self, listener: &Arc<CompiledListener>) {
        self.set_parameters(listener);
        let groups = self.family(listener.protocol);
        if groups.get_mut(&listener.hostname).is_none() {
            groups.insert(&listener.hostname, Arc::new(ListenerGroup::new(listener.hostname.clone())));
        }
        if let Some(group) = groups.get_mut(&listener.hostname) {
            Arc::make_mut(group).listeners.insert(listener.key.clone(), listener.clone());
            self.listeners += 1;
        }
    }

    /// Its routes have to be gone from the group before.
    pub(crate) fn remove_listener(&mut self, listener: &CompiledListener) {
        self.parameters.remove(&listener.key);
        let groups = self.family(listener.protocol);
        let Some(group) = groups.get_mut(&listener.hostname) else { return };
        let group = Arc::make_mut(group);
        let removed = group.listeners.remove(&listener.key).is_some();
        if group.listeners.is_empty() {
            groups.remove(&listener.hostname);
        }
        self.listeners -= usize::from(removed);
    }

    /// Puts a listener in the place of what it was, whatever about it changed but its place. Entries stay, so that new settings of a
    /// listener (another certificate) cost the same however many routes it has.
    pub(crate) fn renew_listener(&mut self, listener: &Arc<CompiledListener>) {
        self.set_parameters(listener);
        if let Some(group) = self.family(listener.protocol).get_mut(&listener.hostname) {
            let group = Arc::make_mut(group);
            group.listeners.insert(listener.key.clone(), listener.clone());
            group.renewed = true;
        }
    }

    /// In the place of the entry of the same precedence, if there is one.
    pub(crate) fn add_entry(&mut self, placement: &Placement) {
        let listener = &placement.entry.listener;
        if let Some(group) = self.family(listener.protocol).get_mut(&listener.hostname) {
            Arc::make_mut(group).add_entry(placement);
        }
    }

    pub(crate) fn remove_entry(&mut self, placement: &Placement) {
        let listener = &placement.entry.listener;
        if let Some(group) = self.family(listener.protocol).get_mut(&listener.hostname) {
            Arc::make_mut(group).remove_entry(placement);
        }
    }
}

impl ListenerGroup {
    fn new(hostname: Hostname) -> ListenerGroup {
        ListenerGroup {
            hostname,
            listeners: BTreeMap::new(),
            renewed: false,
            hosts: HostMap::default(),
            l4: HostMap::default(),
        }
    }

    /// An entry's listener as it is now, should it have changed.
    #[inline]
    pub(crate) fn renewed(&self, listener: &CompiledListener) -> Option<&Arc<CompiledListener>> {
        if self.renewed { self.listeners.get(&listener.key) } else { None }
    }

    /// What becomes of a TLS connection to these listeners; `None` for listeners without TLS. (Listeners of one hostname that say
    /// different things are a conflict that was settled before; here the first of [`TlsMode`] holds.)
    pub fn tls_mode(&self) -> Option<TlsMode> {
        self.listeners.values().filter_map(|listener| listener.tls_mode()).min()
    }

    /// Keys of the certificates that may be shown, in order, each once. Empty: every handshake is to be refused.
    pub fn certificates(&self) -> Vec<&str> {
        let mut keys: Vec<&str> = Vec::new();
        for listener in self.listeners.values() {
            for key in listener.tls().into_iter().flat_map(|tls| &tls.certificates) {
                if !keys.contains(&key.as_str()) {
                    keys.push(key);
                }
            }
        }
        keys
    }

    /// What is asked of clients; `None` for nothing. The strictest, should listeners differ.
    pub fn client_validation(&self) -> Option<&ClientValidation> {
        let asked = self.listeners.values().filter_map(|listener| listener.tls()?.client_validation.as_ref());
        asked.min_by_key(|validation| validation.insecure_fallback)
    }

    fn add_entry(&mut self, placement: &Placement) {
        let Placement { hostname, entry } = placement;
        if entry.rule.kind.is_l4() {
            if self.l4.get_mut(hostname).is_none() {
                self.l4.insert(hostname, Candidates::default());
            }
            if let Some(candidates) = self.l4.get_mut(hostname) {
                candidates.insert(entry.clone());
            }
            return;
        }
        if self.hosts.get_mut(hostname).is_none() {
            self.hosts.insert(hostname, Arc::default());
        }
        if let Some(host) = self.hosts.get_mut(hostname) {
            Arc::make_mut(host).add(entry.clone());
        }
    }

    fn remove_entry(&mut self, placement: &Placement) {
        let Placement { hostname, entry } = placement;
        if entry.rule.kind.is_l4() {
            let Some(candidates) = self.l4.get_mut(hostname) else { return };
            candidates.remove(entry);
            if candidates.is_empty() {
                self.l4.remove(hostname);
            }
            return;
        }
        let Some(host) = self.hosts.get_mut(hostname) else { return };
        let host = Arc::make_mut(host);
        host.remove(entry);
        if host.is_empty() {
            self.hosts.remove(hostname);
        }
    }
}

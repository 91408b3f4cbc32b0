//! Backends: their endpoints, and how they are spoken to. Neither is configuration of the rules that name them: both hang off the backend behind
//! swaps of their own, so that pods coming and going, or another TLS policy, rebuild no table, touch no split and are seen at once by
//! every worker, whatever the number of rules.
//!
//! The one exception: whether a backend asks more of its requests than to be forwarded (sessions, a retry budget) is known to its rules, so that
//! all others pay nothing for it; a change of that makes a new [`BackendState`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize};

use arc_swap::{ArcSwap, Guard};

use crate::budget::Budget;
use crate::limits::{Limits, Side};
use crate::resource::{Backend, BackendProtocol, BackendTls, Endpoints};
use crate::session::Session;

/// A backend as rules refer to it. The same for as long as it is there and asks for more, or does not.
#[derive(Debug)]
pub struct BackendState {
    /// `backend/<namespace>/<service>/<port>`, of a UDP port with `/udp` behind it.
    pub key: Arc<str>,
    pub namespace: Box<str>,
    pub service: Box<str>,
    /// The Service's port.
    pub port: u16,
    /// What every request wants to know of the settings, for one plain load: [`HTTP2`], [`ENCRYPTED`] and [`LIMITED`].
    wire: AtomicU8,
    settings: ArcSwap<BackendSettings>,
    slot: Arc<EndpointSlot>,
}

/// HTTP/2 is spoken.
const HTTP2: u8 = 1;
/// Connections are encrypted.
const ENCRYPTED: u8 = 2;
/// There are limits of its own.
const LIMITED: u8 = 4;

/// What of a backend may change while rules refer to it.
#[derive(Debug)]
pub struct BackendSettings {
    pub protocol: BackendProtocol,
    /// Connections are encrypted, and how.
    pub tls: Option<Arc<BackendTls>>,
    /// Holds where a rule says nothing of its own ([`super::CompiledRule::session`]).
    pub session: Option<Arc<Session>>,
    /// How much of its traffic may be retries, and how much of it was. Goes on for as long as its own settings stay.
    pub budget: Option<Arc<Budget>>,
    /// Where any is set for it; `None` for those that the data plane was started with.
    pub limits: Option<Arc<Limits>>,
    pub(crate) source: Backend,
}

impl BackendSettings {
    /// `before` is what they were, `limits` are the data plane's.
    pub(crate) fn compile(
        source: &Backend,
        before: Option<&BackendSettings>,
        limits: &Limits,
    ) -> Result<BackendSettings, String> {
        let protocol = BackendProtocol::try_from(source.protocol)
            .map_err(|_| format!("backend protocol {} is not known to this release", source.protocol))?;
        let session = source.session_persistence.as_ref().map(Session::compile).transpose()?;
        let budget = match before {
            Some(before) if before.source.retry_budget == source.retry_budget => before.budget.clone(),
            _ => source.retry_budget.as_ref().map(|settings| Arc::new(Budget::new(settings))),
        };
        let limits = match before {
            _ if source.limits.is_empty() => None,
            Some(before) if before.source.limits == source.limits => before.limits.clone(),
            _ => Some(Arc::new(limits.with(Side::Backend, &source.limits))),
        };
        Ok(BackendSettings {
            protocol,
            tls: source.tls.clone().map(Arc::new),
            session: session.map(Arc::new),
            budget,
            limits,
            source: source.clone(),
        })
    }

    /// Whether there is more to do for a request than to forward it.
    pub(crate) fn asks_more(&self) -> bool {
        self.session.is_some() || self.budget.is_some()
    }

    fn wire(&self) -> u8 {
        let http2 = if self.protocol == BackendProtocol::Http2 { HTTP2 } else { 0 };
        let encrypted = if self.tls.is_some() { ENCRYPTED } else { 0 };
        http2 | encrypted | if self.limits.is_some() { LIMITED } else { 0 }
    }
}

impl BackendState {
    pub(crate) fn new(settings: BackendSettings, slot: Arc<EndpointSlot>) -> Result<BackendState, String> {
        let source = &settings.source;
        Ok(BackendState {
            key: Arc::from(source.key.as_str()),
            namespace: source.namespace.as_str().into(),
            service: source.service.as_str().into(),
            port: port(source.port)?,
            wire: AtomicU8::new(settings.wire()),
            settings: ArcSwap::from_pointee(settings),
            slot,
        })
    }

    /// Whether these settings can take the place of those that are there: for everything else its rules look elsewhere.
    pub(crate) fn takes(&self, settings: &BackendSettings) -> bool {
        let source = &settings.source;
        self.settings().asks_more() == settings.asks_more()
            && (&*self.namespace, &*self.service) == (source.namespace.as_str(), source.service.as_str())
            && u32::from(self.port) == source.port
    }

    /// Every worker sees these settings from now on.
    pub(crate) fn change(&self, settings: BackendSettings) {
        let wire = settings.wire();
        // Whoever reads that connections are encrypted finds out how.
        self.settings.store(Arc::new(settings));
        self.wire.store(wire, Release);
    }

    /// The settings as they are now. Lock-free; do not keep the guard across a wait.
    #[inline]
    pub fn settings(&self) -> Guard<Arc<BackendSettings>> {
        self.settings.load()
    }

    /// Whether HTTP/2 with prior knowledge is spoken to it.
    #[inline]
    pub fn http2(&self) -> bool {
        self.wire.load(Acquire) & HTTP2 != 0
    }

    /// Whether connections to it are encrypted.
    #[inline]
    pub fn is_encrypted(&self) -> bool {
        self.wire.load(Acquire) & ENCRYPTED != 0
    }

    /// The protocol, of a backend whose connections are not encrypted. `None`: they are, and the settings say the rest.
    #[inline]
    pub fn in_the_clear(&self) -> Option<BackendProtocol> {
        match self.wire.load(Acquire) & (HTTP2 | ENCRYPTED) {
            0 => Some(BackendProtocol::Http1),
            HTTP2 => Some(BackendProtocol::Http2),
            _ => None,
        }
    }

    /// Limits towards its endpoints; `None` for those that the data plane was started with.
    #[inline]
    pub fn own_limits(&self) -> Option<Arc<Limits>> {
        if self.wire.load(Acquire) & LIMITED == 0 { None } else { self.settings().limits.clone() }
    }

    /// How much of its traffic may be retries.
    pub fn budget(&self) -> Option<Arc<Budget>> {
        self.settings().budget.clone()
    }

    /// Whether both are one backend, before and after a change of its settings. A backend that went and came back is another.
    pub fn has_the_endpoints_of(&self, other: &BackendState) -> bool {
        Arc::ptr_eq(&self.slot, &other.slot)
    }

    /// The endpoints as they are now. Lock-free; do not keep the guard across a wait.
    #[inline]
    pub fn endpoints(&self) -> Guard<Arc<EndpointSet>> {
        self.slot.set.load()
    }

    /// As [`BackendState::endpoints`], to be kept.
    pub fn endpoints_owned(&self) -> Arc<EndpointSet> {
        self.slot.set.load_full()
    }
}

/// Where a backend's endpoints are found; outlives changes of the backend itself.
#[derive(Debug, Default)]
pub(crate) struct EndpointSlot {
    set: ArcSwap<EndpointSet>,
}

impl EndpointSlot {
    pub(crate) fn load(&self) -> Guard<Arc<EndpointSet>> {
        self.set.load()
    }

    pub(crate) fn swap(&self, set: EndpointSet) {
        self.set.store(Arc::new(set));
    }
}

/// The ready endpoints of one backend at one time.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// Sorted by address, each once.
    pub endpoints: Vec<Arc<EndpointState>>,
    /// When the set became empty after it had endpoints, in milliseconds of the clock given to
    /// [`super::Snapshot::apply_at`]; `None` while there are endpoints, or if there never were any.
    pub lost_at_millis: Option<u64>,
    /// Counts choices: whose turn it is at equal load. Shared by all workers.
    pub turn: AtomicUsize,
}

impl EndpointSet {
    /// The set after a change. Endpoints that stay keep their state.
    pub(crate) fn next(&self, source: Option<&Endpoints>, now_millis: u64) -> Result<EndpointSet, String> {
        let mut addresses = Vec::new();
        for endpoint in source.into_iter().flat_map(|source| &source.endpoints) {
            let ip: IpAddr = endpoint
                .address
                .parse()
                .map_err(|_| format!("endpoint address `{}` is not an IP address", endpoint.address))?;
            addresses.push(SocketAddr::new(ip, port(endpoint.port)?));
        }
        addresses.sort_unstable();
        addresses.dedup();
        let endpoints: Vec<_> = addresses
            .into_iter()
            .map(|address| match self.find(address) {
                Some(kept) => kept.clone(),
                None => Arc::new(EndpointState::new(address)),
            })
            .collect();
        let lost_at_millis = match (endpoints.is_empty(), self.endpoints.is_empty()) {
            (false, _) => None,
            (true, false) => Some(now_millis),
            (true, true) => self.lost_at_millis,
        };
        Ok(EndpointSet { endpoints, lost_at_millis, turn: AtomicUsize::new(0) })
    }

    pub fn find(&self, address: SocketAddr) -> Option<&Arc<EndpointState>> {
        self.endpoints
            .binary_search_by_key(&address, |endpoint| endpoint.address)
            .ok()
            .and_then(|at| self.endpoints.get(at))
    }
}

/// One endpoint with what all workers know about it. A cache line of its own: workers write to neighbours at once.
#[derive(Debug)]
#[repr(align(64))]
pub struct EndpointState {
    pub address: SocketAddr,
    /// Requests that were given to it and have not ended.
    pub in_flight: AtomicU32,
    /// Failures in a row, of the kind that count against an endpoint.
    pub failures: AtomicU32,
    /// Milliseconds of the proxy's clock until which it should be passed over; 0 for never.
    pub avoid_until_millis: AtomicU64,
}

impl EndpointState {
    fn new(address: SocketAddr) -> EndpointState {
        EndpointState {
            address,
            in_flight: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            avoid_until_millis: AtomicU64::new(0),
        }
    }
}

pub(crate) fn port(number: u32) -> Result<u16, String> {
    u16::try_from(number)
        .ok()
        .filter(|&port| port != 0)
        .ok_or_else(|| format!("port {number} is not in 1..=65535"))
}

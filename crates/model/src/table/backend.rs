//! Backends and their endpoints. Endpoints are not configuration: they hang off a backend behind their own swap, so
//! that pods coming and going rebuild no table, touch no split and are seen at once by every worker.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};

use arc_swap::{ArcSwap, Guard};

use crate::budget::Budget;
use crate::resource::{Backend, BackendProtocol, BackendTls, Endpoints};
use crate::session::Session;

/// A backend as rules refer to it. The same for as long as its resource does not change.
#[derive(Debug)]
pub struct BackendState {
    /// `backend/<namespace>/<service>/<port>`, of a UDP port with `/udp` behind it.
    pub key: Arc<str>,
    pub namespace: Box<str>,
    pub service: Box<str>,
    /// The Service's port.
    pub port: u16,
    pub protocol: BackendProtocol,
    /// Connections are encrypted, and how.
    pub tls: Option<Arc<BackendTls>>,
    /// Holds where a rule says nothing of its own ([`super::CompiledRule::session`]).
    pub session: Option<Arc<Session>>,
    /// How much of its traffic may be retries, and how much of it was. Goes on for as long as its own settings stay.
    pub budget: Option<Arc<Budget>>,
    slot: Arc<EndpointSlot>,
    pub(crate) source: Backend,
}

impl BackendState {
    /// `before` is the backend as it was.
    pub(crate) fn compile(
        source: &Backend,
        slot: Arc<EndpointSlot>,
        before: Option<&BackendState>,
    ) -> Result<BackendState, String> {
        let port = port(source.port)?;
        let protocol = BackendProtocol::try_from(source.protocol)
            .map_err(|_| format!("backend protocol {} is not known to this release", source.protocol))?;
        let session = source.session_persistence.as_ref().map(Session::compile).transpose()?;
        let budget = match before {
            Some(before) if before.source.retry_budget == source.retry_budget => before.budget.clone(),
            _ => source.retry_budget.as_ref().map(|settings| Arc::new(Budget::new(settings))),
        };
        Ok(BackendState {
            key: Arc::from(source.key.as_str()),
            namespace: source.namespace.as_str().into(),
            service: source.service.as_str().into(),
            port,
            protocol,
            tls: source.tls.clone().map(Arc::new),
            session: session.map(Arc::new),
            budget,
            slot,
            source: source.clone(),
        })
    }

    /// Whether HTTP/2 with prior knowledge is spoken to it.
    pub fn http2(&self) -> bool {
        self.protocol == BackendProtocol::Http2
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

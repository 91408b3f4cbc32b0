//! On what terms the clients of a bind are served: limits, whom to believe, what is logged, what sessions are sealed with.
//!
//! Made by the apply thread from a Gateway's parameters over what the data plane was started with, and shared by all workers. Each
//! made one has a number of its own; a connection looks at the number in its [`Bind`](crate::bind::Bind) when a request begins, and
//! takes up new terms there and then.
//!
//! Invariants: a request ends on the terms on which it began; what cannot be had (a log that cannot be opened, a key that is
//! missing) leaves what was started with, never less safety. Deliberately absent: what faces endpoints; that is a backend's own.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use weir_codec::body::BodyLimits;
use weir_codec::head::HeadLimits;
use weir_model::limits::Limits;
use weir_model::network::Network;
use weir_model::resource::{self, AccessLogMode};
use weir_model::table::{BindTable, CompiledParameters, Snapshot};

use crate::access_log::LogSlot;
use crate::buffer::LARGEST_HEAD_BYTES;
use crate::session::Sealer;
use crate::upstream::pool::PoolLimits;

pub(crate) struct Terms {
    /// Unequal for unequal terms of one process.
    pub(crate) version: u64,
    pub(crate) limits: Limits,
    pub(crate) head_limits: HeadLimits,
    pub(crate) body_limits: BodyLimits,
    trusted: Box<[Network]>,
    /// `None`: nothing is logged.
    pub(crate) logged: Option<Logged>,
    pub(crate) sealer: Arc<Sealer>,
}

/// Which requests get a line in the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Logged {
    #[default]
    All,
    /// Answered 5xx, or failed in a way that is not the client's request's.
    Errors,
}

impl Terms {
    /// Those that hold where a Gateway says nothing.
    pub(crate) fn started(
        limits: Limits,
        trusted: Vec<Network>,
        logged: Option<Logged>,
        sealer: Sealer,
    ) -> Terms {
        Terms::new(0, limits, trusted.into(), logged, Arc::new(sealer))
    }

    fn new(
        version: u64,
        limits: Limits,
        trusted: Box<[Network]>,
        logged: Option<Logged>,
        sealer: Arc<Sealer>,
    ) -> Terms {
        Terms {
            version,
            head_limits: head_limits(&limits),
            body_limits: body_limits(&limits),
            limits,
            trusted,
            logged,
            sealer,
        }
    }

    /// Whether this peer may say on whose behalf it speaks.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(peer))
    }
}

pub(crate) fn head_limits(limits: &Limits) -> HeadLimits {
    HeadLimits {
        head_bytes: limits.head_bytes.min(LARGEST_HEAD_BYTES),
        first_line_bytes: limits.request_line_bytes.min(LARGEST_HEAD_BYTES),
        fields: limits.header_count,
    }
}

pub(crate) fn body_limits(limits: &Limits) -> BodyLimits {
    BodyLimits {
        extension_bytes: u32::try_from(limits.chunk_extension_bytes).unwrap_or(u32::MAX),
        trailer_bytes: u32::try_from(limits.trailer_bytes.min(LARGEST_HEAD_BYTES)).unwrap_or(u32::MAX),
    }
}

pub(crate) fn pool_limits(limits: &Limits) -> PoolLimits {
    PoolLimits {
        per_endpoint: limits.upstream_connections_per_endpoint.max(1),
        idle_per_endpoint: limits.upstream_idle_per_endpoint,
        idle: limits.upstream_idle_timeout,
    }
}

/// What terms of a bind were made from.
#[derive(Clone, Default)]
pub(crate) struct Basis {
    parameters: Option<Arc<CompiledParameters>>,
    keys: Vec<Arc<resource::SessionKey>>,
}

impl Basis {
    pub(crate) fn of(table: &BindTable, snapshot: &Snapshot) -> Basis {
        let parameters = table.parameters().cloned();
        let names = parameters.iter().flat_map(|parameters| &parameters.session_keys);
        let keys = names.filter_map(|name| snapshot.session_key(name).cloned()).collect();
        Basis { parameters, keys }
    }

    /// Whether terms made from the other are good for this.
    pub(crate) fn is(&self, other: &Basis) -> bool {
        let same_parameters = match (&self.parameters, &other.parameters) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            _ => false,
        };
        same_parameters && self.keys == other.keys
    }

    /// `version` has not been given to others.
    pub(crate) fn terms(&self, started: &Arc<Terms>, version: u64, log: &LogSlot) -> Arc<Terms> {
        let Some(parameters) = &self.parameters else { return started.clone() };
        let logged = match parameters.access_log {
            AccessLogMode::Inherited => started.logged,
            AccessLogMode::Off => None,
            AccessLogMode::Errors => log.is_open().then_some(Logged::Errors),
            AccessLogMode::All => log.is_open().then_some(Logged::All),
        };
        let sealer = match self.keys.is_empty() {
            true => started.sealer.clone(),
            false => Sealer::of(&self.keys).map_or_else(
                |error| {
                    tracing::error!(%error, "session keys cannot be used; sessions have the process's own");
                    started.sealer.clone()
                },
                Arc::new,
            ),
        };
        let trusted = parameters.trusted_proxies.clone().unwrap_or_else(|| started.trusted.clone());
        Arc::new(Terms::new(version, parameters.limits.clone(), trusted, logged, sealer))
    }
}

/// Bounds of a whole process, of which there is one whatever the number of Gateways: for each the largest that any of its binds has,
/// so that no Gateway takes anything from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessLimits {
    pub(crate) client_connections: usize,
    pub(crate) accept_pause: Duration,
    pub(crate) drain_delay: Duration,
    pub(crate) drain_timeout: Duration,
}

impl ProcessLimits {
    /// `started`: where there is no bind.
    pub(crate) fn over<'a>(started: &'a Limits, binds: impl Iterator<Item = &'a Limits>) -> ProcessLimits {
        let of = |limits: &Limits| ProcessLimits {
            client_connections: limits.client_connections.max(1),
            accept_pause: limits.accept_pause,
            drain_delay: limits.drain_delay,
            drain_timeout: limits.drain_timeout,
        };
        let largest = |a: ProcessLimits, b: ProcessLimits| ProcessLimits {
            client_connections: a.client_connections.max(b.client_connections),
            accept_pause: a.accept_pause.max(b.accept_pause),
            drain_delay: a.drain_delay.max(b.drain_delay),
            drain_timeout: a.drain_timeout.max(b.drain_timeout),
        };
        binds.map(of).reduce(largest).unwrap_or_else(|| of(started))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_the_process_are_the_largest_of_its_binds() {
        let started = Limits::default();
        assert_eq!(ProcessLimits::over(&started, [].into_iter()).client_connections, 20_000);
        let of = |client_connections, seconds| Limits {
            client_connections,
            drain_delay: Duration::from_secs(seconds),
            ..Limits::default()
        };
        let (few, many) = (of(10, 9), of(30, 1));
        let both = ProcessLimits::over(&started, [&few, &many].into_iter());
        assert_eq!((both.client_connections, both.drain_delay), (30, Duration::from_secs(9)));
        let one = ProcessLimits::over(&started, [&few].into_iter());
        assert_eq!(one.client_connections, 10, "what one Gateway alone asks for holds");
    }
}

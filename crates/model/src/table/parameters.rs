//! A Gateway's parameters compiled: what its clients' connections are served with.
//!
//! They hang off a bind, because a connection is there before anyone knows which listener it is for.

use std::sync::Arc;

use crate::limits::{Limits, Side};
use crate::network::Network;
use crate::resource::{AccessLogMode, Parameters};

/// The same for as long as nothing that it says changes.
#[derive(Debug, PartialEq, Eq)]
pub struct CompiledParameters {
    /// Of the data plane, with what is set.
    pub limits: Limits,
    /// `None`: those that the data plane was started with.
    pub trusted_proxies: Option<Box<[Network]>>,
    pub access_log: AccessLogMode,
    /// Keys of session keys: the first seals, all open. None: the data plane's own.
    pub session_keys: Box<[Arc<str>]>,
}

impl CompiledParameters {
    pub(crate) fn compile(source: &Parameters, limits: &Limits) -> Result<CompiledParameters, String> {
        let trusted_proxies = match &source.trusted_proxies {
            None => None,
            Some(list) => {
                let networks =
                    list.networks.iter().map(|text| text.parse().map_err(|error| format!("{error}")));
                Some(networks.collect::<Result<_, String>>()?)
            }
        };
        Ok(CompiledParameters {
            limits: limits.with(Side::Gateway, &source.limits),
            trusted_proxies,
            // A mode of a newer release is as none.
            access_log: AccessLogMode::try_from(source.access_log).unwrap_or(AccessLogMode::Inherited),
            session_keys: source.session_keys.iter().map(|key| Arc::from(key.as_str())).collect(),
        })
    }
}

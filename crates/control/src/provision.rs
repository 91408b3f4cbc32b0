//! How a Gateway gets its addresses, and the objects that show them.
//!
//! Owns the choice of addresses ([`Provision`], pure and at once) and, where objects belong to it, the task that keeps
//! them as they should be ([`objects`]). Invariants: a Gateway keeps its address as long as it exists and does not ask
//! for another; no two owners have one address, where addresses are ours to give; a choice waits for nothing, so it
//! can be made between an event and its update. Deliberately absent: sockets (whether an address can be bound is told
//! by the data plane). In a cluster the choice is not ours: [`cluster`] asks for data planes and says what came of it.

pub(crate) mod cluster;
pub(crate) mod fixed;
pub(crate) mod objects;
pub(crate) mod sandbox;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use weir_api::gateway_api::{AddressType, GatewayStatusAddress, ProtocolType};
use weir_api::kong::GatewayConfiguration;
use weir_core::{AddressProblem, Addresses, ClassKind, ObjectKey, RequestedAddress};

pub use self::cluster::{CONFIGURATION_FIELDS, Cluster};
pub use self::fixed::Fixed;
pub use self::objects::gateway_label;
pub use self::sandbox::{AddressRange, AddressRangeError, Sandbox};

/// How Gateways get addresses.
#[derive(Clone, Debug)]
pub enum Provision {
    /// One loopback address for each Gateway out of a range, Services that show them, and Kong's shared proxy Service.
    Sandbox(Sandbox),
    /// One address for every Gateway that does not ask for one; no object is made.
    Fixed(Fixed),
    /// A data plane of its own for each managed Gateway, in pods behind a Service.
    Cluster(Cluster),
}

/// What provisioning has to know of a Gateway of ours.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GatewayView {
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
    /// Seconds since the Unix epoch.
    pub(crate) created_seconds: i64,
    pub(crate) kind: ClassKind,
    /// Controller name of its class.
    pub(crate) controller: String,
    /// `spec.addresses`.
    pub(crate) requested: Vec<RequestedAddress>,
    /// Addresses that its status showed when it was first seen.
    pub(crate) previous: Vec<IpAddr>,
    /// Ports of its listeners, each once for each protocol.
    pub(crate) ports: Vec<(u16, ProtocolType)>,
    /// `spec.infrastructure`.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// The annotation by which Kong's controller names the Service that publishes the address.
    pub(crate) publish_service: Option<String>,
    /// Its own listeners, served or not.
    pub(crate) listeners: Vec<(String, u16, ProtocolType)>,
    /// How long its data plane may take to end.
    pub(crate) drain: Duration,
    /// The operator's parameters of the Gateway, or of its class.
    pub(crate) configuration: Option<Arc<GatewayConfiguration>>,
    /// It has parameters that are not there: what runs goes on as it was.
    pub(crate) frozen: bool,
}

impl GatewayView {
    pub(crate) fn is_unmanaged(&self) -> bool {
        self.kind == ClassKind::Unmanaged
    }
}

/// The addresses of one Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Assigned {
    pub(crate) addresses: Vec<IpAddr>,
    /// The data plane that serves it, where that is not this process.
    pub(crate) plane: Option<PlanePlace>,
    pub(crate) problem: Option<AddressProblem>,
}

/// A data plane of its own, and where clients find it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlanePlace {
    /// As listeners name it.
    pub(crate) name: String,
    pub(crate) published: Vec<GatewayStatusAddress>,
}

impl Assigned {
    /// In the words of translation. `shared`: other Gateways are served at the same address.
    pub(crate) fn to_addresses(&self, shared: bool) -> Addresses {
        if let Some(PlanePlace { name, published }) = self.plane.clone() {
            return Addresses { bind: vec![name], published, shared, problem: self.problem.clone() };
        }
        let bind: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        let published = bind
            .iter()
            .map(|value| GatewayStatusAddress { type_: AddressType::IpAddress, value: value.clone() })
            .collect();
        Addresses { bind, published, shared, problem: self.problem.clone() }
    }
}

/// The addresses of all Gateways, and of the shared data plane where there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) gateways: BTreeMap<ObjectKey, Assigned>,
    pub(crate) shared: Option<IpAddr>,
}

impl Provision {
    /// The addresses of these Gateways. `shared_wanted`: a class of Kong's ingress controller exists.
    pub(crate) fn assign(&mut self, gateways: &[GatewayView], shared_wanted: bool) -> Assignment {
        match self {
            Provision::Sandbox(sandbox) => sandbox.assign(gateways, shared_wanted),
            Provision::Fixed(fixed) => fixed.assign(gateways),
            // Whoever keeps the data planes says it.
            Provision::Cluster(_) => Assignment::default(),
        }
    }
}

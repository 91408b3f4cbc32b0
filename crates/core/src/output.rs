//! What one step of translation yields.

use std::collections::BTreeMap;
use std::time::Duration;

use weir_api::gateway_api::{
    AddressType, GatewayClass, GatewayClassStatus, GatewayStatus, ListenerSetStatus, ParametersReference,
    PolicyAncestorStatus, ProtocolType, RouteParentStatus,
};
use weir_api::kong::{
    GatewayConfigurationStatus, KIC_CONTROLLER, OPERATOR_CONTROLLER, WEIR_CONTROLLER, is_unmanaged,
};
use weir_api::weir::GatewayParametersStatus;
use weir_model::resource::Update;

use crate::diagnostic::Diagnostic;
use crate::objects::ObjectKey;

/// Everything that changed since the call before. Lists are sorted by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// The change to the resources; `sequence` is 0 and `versions` empty, the sender fills them in.
    /// `full` on a translator's first call.
    pub update: Update,
    /// Statuses that differ from what was last returned for the same object. Never one for an object that is gone.
    pub statuses: Vec<(ObjectKey, Status)>,
    /// Findings that were not there before. [`crate::Translator::diagnostics`] has all that hold.
    pub diagnostics: Vec<Diagnostic>,
    /// References whose presence became Unknown: read each, then `upsert` it or `confirm_absent` it, and name it in the
    /// next call's `changed`. A ReferenceGrant with an empty name stands for all grants of its namespace: list them,
    /// upsert what is there, then confirm the key as it is. [`crate::Translator::wants`] has all that are open.
    pub wants: Vec<ObjectKey>,
    /// What rules newly wait for (the wants, and Services that have no EndpointSlice yet): call [`crate::Objects::waive`]
    /// for each that is still open after 1 s. [`crate::Translator::waits`] has all that are open.
    pub waits: Vec<ObjectKey>,
    /// Gateways of our classes whose needs are new or changed.
    pub gateways: Vec<GatewayNeed>,
    /// Gateways that no longer need anything: gone, or of somebody else's class now.
    pub released: Vec<ObjectKey>,
    /// How many objects were looked at: the cost of the call, for a metric and for tests.
    pub looked_at: usize,
}

impl Output {
    /// Whether the resources stay as they are, so that there is nothing to send to a data plane.
    pub fn update_is_empty(&self) -> bool {
        !self.update.full && self.update.upserts.is_empty() && self.update.removals.is_empty()
    }
}

/// A status to write, whole, at the generation that its conditions carry, without times.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    GatewayClass(GatewayClassStatus),
    Gateway(GatewayStatus),
    ListenerSet(ListenerSetStatus),
    /// Of a route of any kind. Entries of our controllers only: every entry of any of our controller names is to be
    /// replaced by these, and every other entry kept.
    Route(Vec<RouteParentStatus>),
    /// Of a policy. Entries of our controllers only, as for a route.
    Policy(Vec<PolicyAncestorStatus>),
    GatewayConfiguration(GatewayConfigurationStatus),
    GatewayParameters(GatewayParametersStatus),
}

/// How the Gateways of a class get their data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClassKind {
    /// Weir's own controller name: an address for each Gateway.
    Weir,
    /// A class of Kong's with the unmanaged annotation: all its Gateways share one address and one data plane.
    Unmanaged,
    /// A class of Kong's without it: an address for each Gateway.
    Managed,
}

impl ClassKind {
    /// `None` when the class belongs to somebody else.
    pub fn of(class: &GatewayClass) -> Option<ClassKind> {
        let unmanaged = is_unmanaged(&class.metadata.annotations);
        match class.spec.controller_name.as_str() {
            WEIR_CONTROLLER => Some(ClassKind::Weir),
            KIC_CONTROLLER if unmanaged => Some(ClassKind::Unmanaged),
            KIC_CONTROLLER | OPERATOR_CONTROLLER => Some(ClassKind::Managed),
            _ => None,
        }
    }
}

/// What a Gateway needs from whoever provisions data planes and addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayNeed {
    pub gateway: ObjectKey,
    pub class: String,
    pub controller: String,
    pub kind: ClassKind,
    /// `spec.addresses`, in its order; only types that Weir supports.
    pub requested: Vec<RequestedAddress>,
    /// Ports of the listeners that will be served, sorted, each once for each protocol.
    pub ports: Vec<(u16, ProtocolType)>,
    /// `spec.infrastructure`.
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub parameters: Option<ParametersReference>,
    /// How long the data plane may take to end after it was told to, by the parameters that hold.
    pub drain: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedAddress {
    pub type_: AddressType,
    /// `None`: any address of that type.
    pub value: Option<String>,
}

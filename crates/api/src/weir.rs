//! Weir's own kinds: the parameters of Gateways, and the policy of Services.
//!
//! Which limits there are is said in one table (`weir_model::limits`), from which the schemas are made too; here their fields are
//! kept as they came, and whoever knows the table reads them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::condition::Condition;
use crate::gateway_api::{LocalPolicyTargetReferenceWithSectionName, ParentReference};
use crate::meta::ObjectMeta;
use crate::open::open_enum;
use crate::seen::SeenPolicyStatus;

/// API group of Weir's own kinds.
pub const WEIR_GROUP: &str = "weir.dev";
/// The kind of [`GatewayParameters`].
pub const GATEWAY_PARAMETERS: &str = "GatewayParameters";

/// What clients of a Gateway are served with. Bound by the `parametersRef` of a Gateway's infrastructure or of a GatewayClass.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayParameters {
    pub metadata: ObjectMeta,
    pub spec: GatewayParametersSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayParametersSpec {
    /// Networks of peers that may say on whose behalf they speak. Absent: nothing is said about them; empty: none.
    pub trusted_proxies: Option<Vec<String>>,
    pub access_log: Option<AccessLog>,
    /// Newest first.
    pub session_key_secret_refs: Option<Vec<SecretKeyReference>>,
    #[serde(flatten)]
    pub limits: LimitFields,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AccessLog {
    pub mode: AccessLogMode,
}

open_enum! {
    /// Which requests get a line.
    AccessLogMode default Off {
        Off = "Off",
        Errors = "Errors",
        All = "All",
    }
}

/// A key of a Secret in the namespace of the object that refers to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretKeyReference {
    pub name: String,
    pub key: String,
}

/// How the endpoints of Services are spoken to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendPolicy {
    pub metadata: ObjectMeta,
    pub spec: BackendPolicySpec,
    pub status: SeenPolicyStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendPolicySpec {
    /// Services of the policy's namespace; the section is the name of a port.
    pub target_refs: Vec<LocalPolicyTargetReferenceWithSectionName>,
    #[serde(flatten)]
    pub limits: LimitFields,
}

/// Limits as they were written: groups of fields.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct LimitFields(BTreeMap<String, Value>);

impl LimitFields {
    /// What stands at `group.field`; `None` also for a null.
    pub fn get(&self, path: &str) -> Option<&Value> {
        let (group, field) = path.split_once('.')?;
        self.0.get(group)?.get(field).filter(|value| !value.is_null())
    }
}

/// The status of a [`GatewayParameters`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayParametersStatus {
    /// Who uses the object: Gateways and GatewayClasses.
    pub ancestors: Vec<ParametersAncestor>,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParametersAncestor {
    pub ancestor_ref: ParentReference,
    pub controller_name: String,
}

//! ReferenceGrant, and the policies that targets of references have: BackendTLSPolicy and XBackendTrafficPolicy.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::gateway::ObjectReference;
use crate::meta::ObjectMeta;
use crate::open::{nullable, open_enum};
use crate::route::{ParentReference, SessionPersistence};

/// The API group of Gateway API's experiments.
pub const EXPERIMENTAL_GROUP: &str = "gateway.networking.x-k8s.io";
/// The CRD's default `retryConstraint.budget.percent`.
const BUDGET_PERCENT_DEFAULT: i32 = 20;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReferenceGrant {
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "nullable")]
    pub spec: ReferenceGrantSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReferenceGrantSpec {
    #[serde(deserialize_with = "nullable")]
    pub from: Vec<GrantFrom>,
    #[serde(deserialize_with = "nullable")]
    pub to: Vec<GrantTo>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrantFrom {
    #[serde(deserialize_with = "nullable")]
    pub group: String,
    #[serde(deserialize_with = "nullable")]
    pub kind: String,
    #[serde(deserialize_with = "nullable")]
    pub namespace: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrantTo {
    #[serde(deserialize_with = "nullable")]
    pub group: String,
    #[serde(deserialize_with = "nullable")]
    pub kind: String,
    /// Absent: every object of that kind in the grant's namespace.
    pub name: Option<String>,
}

/// Who has written status entries on a policy, so that entries of ours that no longer apply are found after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenPolicyStatus {
    #[serde(deserialize_with = "nullable")]
    pub ancestors: Vec<SeenAncestorStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenAncestorStatus {
    #[serde(deserialize_with = "nullable")]
    pub controller_name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTlsPolicy {
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "nullable")]
    pub spec: BackendTlsPolicySpec,
    #[serde(deserialize_with = "nullable")]
    pub status: SeenPolicyStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTlsPolicySpec {
    #[serde(deserialize_with = "nullable")]
    pub target_refs: Vec<PolicyTarget>,
    #[serde(deserialize_with = "nullable")]
    pub validation: BackendTlsValidation,
    #[serde(deserialize_with = "nullable")]
    pub options: BTreeMap<String, String>,
}

/// An object in the policy's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyTarget {
    #[serde(deserialize_with = "nullable")]
    pub group: String,
    #[serde(deserialize_with = "nullable")]
    pub kind: String,
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Of a Service: the name of a port. XBackendTrafficPolicy has no such field.
    pub section_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTlsValidation {
    /// In the policy's namespace.
    #[serde(deserialize_with = "nullable")]
    pub ca_certificate_refs: Vec<ObjectReference>,
    #[serde(rename = "wellKnownCACertificates")]
    pub well_known_ca_certificates: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub hostname: String,
    #[serde(deserialize_with = "nullable")]
    pub subject_alt_names: Vec<SubjectAltName>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubjectAltName {
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub type_: SubjectAltNameType,
    pub hostname: Option<String>,
    pub uri: Option<String>,
}

open_enum! {
    SubjectAltNameType default Absent {
        /// The field was not there at all.
        Absent = "",
        Hostname = "Hostname",
        Uri = "URI",
    }
}

/// XBackendTrafficPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTrafficPolicy {
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "nullable")]
    pub spec: BackendTrafficPolicySpec,
    #[serde(deserialize_with = "nullable")]
    pub status: SeenPolicyStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTrafficPolicySpec {
    #[serde(deserialize_with = "nullable")]
    pub target_refs: Vec<PolicyTarget>,
    pub retry_constraint: Option<RetryConstraint>,
    pub session_persistence: Option<SessionPersistence>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryConstraint {
    #[serde(deserialize_with = "nullable")]
    pub budget: RetryBudget,
    #[serde(deserialize_with = "nullable")]
    pub min_retry_rate: MinRetryRate,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryBudget {
    #[serde(deserialize_with = "percent_or_default")]
    pub percent: i32,
    /// A GEP-2257 duration; the CRD's default is 10s.
    pub interval: Option<String>,
}

impl Default for RetryBudget {
    fn default() -> RetryBudget {
        RetryBudget { percent: BUDGET_PERCENT_DEFAULT, interval: None }
    }
}

fn percent_or_default<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(BUDGET_PERCENT_DEFAULT))
}

/// The CRD's default is 10 in 1s.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MinRetryRate {
    pub count: Option<i32>,
    /// A GEP-2257 duration.
    pub interval: Option<String>,
}

/// One entry of a policy's `status.ancestors`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAncestorStatus {
    pub ancestor_ref: ParentReference,
    pub controller_name: String,
    pub conditions: Vec<Condition>,
}

//! Of a stored status, who has written to it: so that entries of ours that no longer apply are found after a restart.

use serde::Deserialize;

/// Of the status of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenRouteStatus {
    pub parents: Vec<SeenStatus>,
}

/// Of the status of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenPolicyStatus {
    pub ancestors: Vec<SeenStatus>,
}

/// One entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenStatus {
    pub controller_name: String,
}

//! ListenerSet: listeners that somebody else than the Gateway's owner adds to it.

use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::gateway::{Listener, ListenerStatus};
use crate::meta::ObjectMeta;
use crate::open::nullable;
use crate::route::ParentReference;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerSet {
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "nullable")]
    pub spec: ListenerSetSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerSetSpec {
    /// The Gateway. Section and port do not exist here.
    #[serde(deserialize_with = "nullable")]
    pub parent_ref: ParentReference,
    #[serde(deserialize_with = "nullable")]
    pub listeners: Vec<Listener>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerSetStatus {
    pub conditions: Vec<Condition>,
    /// One entry for each listener of the spec, in its order; none while the Gateway does not take the set.
    pub listeners: Vec<ListenerStatus>,
}

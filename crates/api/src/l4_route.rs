//! TLSRoute, TCPRoute and UDPRoute: one shape, of which only TLSRoute has hostnames.

use serde::Deserialize;

use crate::meta::ObjectMeta;
use crate::open::nullable;
use crate::route::{BackendReference, ParentReference, SeenRouteStatus, WEIGHT_DEFAULT, weight_or_default};

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct L4Route {
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "nullable")]
    pub spec: L4RouteSpec,
    #[serde(deserialize_with = "nullable")]
    pub status: SeenRouteStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct L4RouteSpec {
    #[serde(deserialize_with = "nullable")]
    pub parent_refs: Vec<ParentReference>,
    /// Names that clients ask for in their TLS greeting. TLSRoute only, and never empty there.
    #[serde(deserialize_with = "nullable")]
    pub hostnames: Vec<String>,
    /// Exactly one; older CRDs allow more, of which the first counts.
    #[serde(deserialize_with = "nullable")]
    pub rules: Vec<L4RouteRule>,
    pub use_default_gateways: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct L4RouteRule {
    pub name: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub backend_refs: Vec<L4BackendRef>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct L4BackendRef {
    #[serde(flatten)]
    pub backend: BackendReference,
    #[serde(deserialize_with = "weight_or_default")]
    pub weight: i32,
}

impl Default for L4BackendRef {
    fn default() -> L4BackendRef {
        L4BackendRef { backend: BackendReference::default(), weight: WEIGHT_DEFAULT }
    }
}

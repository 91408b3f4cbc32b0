//! GRPCRoute. Filters and references have the shape of HTTPRoute's; of the filters only some are allowed.

use serde::Deserialize;

use crate::meta::ObjectMeta;
use crate::open::{nullable, open_enum};
use crate::route::{
    HttpBackendRef, HttpRouteFilter, HttpValueMatch, ParentReference, SeenRouteStatus, SessionPersistence,
};

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRoute {
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "nullable")]
    pub spec: GrpcRouteSpec,
    #[serde(deserialize_with = "nullable")]
    pub status: SeenRouteStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRouteSpec {
    #[serde(deserialize_with = "nullable")]
    pub parent_refs: Vec<ParentReference>,
    #[serde(deserialize_with = "nullable")]
    pub hostnames: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub rules: Vec<GrpcRouteRule>,
    pub use_default_gateways: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRouteRule {
    pub name: Option<String>,
    /// Empty: every request.
    #[serde(deserialize_with = "nullable")]
    pub matches: Vec<GrpcRouteMatch>,
    #[serde(deserialize_with = "nullable")]
    pub filters: Vec<HttpRouteFilter>,
    #[serde(deserialize_with = "nullable")]
    pub backend_refs: Vec<HttpBackendRef>,
    pub session_persistence: Option<SessionPersistence>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRouteMatch {
    /// Absent: every method of every service.
    pub method: Option<GrpcMethodMatch>,
    #[serde(deserialize_with = "nullable")]
    pub headers: Vec<HttpValueMatch>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcMethodMatch {
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub type_: GrpcMethodMatchType,
    pub service: Option<String>,
    pub method: Option<String>,
}

open_enum! {
    GrpcMethodMatchType default Exact {
        Exact = "Exact",
        RegularExpression = "RegularExpression",
    }
}

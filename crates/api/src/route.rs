//! HTTPRoute: the whole `v1` spec, both channels, whether or not all of it is translated.

use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::gateway::GROUP;
use crate::meta::ObjectMeta;
use crate::open::{nullable, open_enum};

/// The CRD's default weight of a backendRef.
pub(crate) const WEIGHT_DEFAULT: i32 = 1;
/// The CRD's default status code of a redirect.
const REDIRECT_STATUS_DEFAULT: i32 = 302;
/// The CRD's default denominator of a mirror's fraction.
const FRACTION_DENOMINATOR_DEFAULT: i32 = 100;
/// The CRD's default `maxAge` of a CORS filter, seconds.
const CORS_MAX_AGE_SECONDS_DEFAULT: i32 = 5;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRoute {
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "nullable")]
    pub spec: HttpRouteSpec,
    #[serde(deserialize_with = "nullable")]
    pub status: SeenRouteStatus,
}

/// Who has written status entries on a route, so that entries of ours that no longer apply are found after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenRouteStatus {
    #[serde(deserialize_with = "nullable")]
    pub parents: Vec<SeenParentStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenParentStatus {
    #[serde(deserialize_with = "nullable")]
    pub controller_name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteSpec {
    #[serde(deserialize_with = "nullable")]
    pub parent_refs: Vec<ParentReference>,
    #[serde(deserialize_with = "nullable")]
    pub hostnames: Vec<String>,
    /// Empty means the CRD's default: one rule that matches everything and has no backend.
    #[serde(deserialize_with = "nullable")]
    pub rules: Vec<HttpRouteRule>,
    pub use_default_gateways: Option<String>,
}

/// A reference to a parent; group and kind are always there, as a status needs them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    #[serde(default = "parent_group", deserialize_with = "parent_group_or_default")]
    pub group: String,
    #[serde(default = "parent_kind", deserialize_with = "parent_kind_or_default")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
}

impl Default for ParentReference {
    fn default() -> ParentReference {
        ParentReference {
            group: parent_group(),
            kind: parent_kind(),
            namespace: None,
            name: String::new(),
            section_name: None,
            port: None,
        }
    }
}

fn parent_group() -> String {
    GROUP.to_owned()
}

fn parent_kind() -> String {
    "Gateway".to_owned()
}

fn parent_group_or_default<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(parent_group))
}

fn parent_kind_or_default<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(parent_kind))
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteRule {
    pub name: Option<String>,
    /// Empty means the CRD's default: the prefix `/`.
    #[serde(deserialize_with = "nullable")]
    pub matches: Vec<HttpRouteMatch>,
    #[serde(deserialize_with = "nullable")]
    pub filters: Vec<HttpRouteFilter>,
    #[serde(deserialize_with = "nullable")]
    pub backend_refs: Vec<HttpBackendRef>,
    pub timeouts: Option<HttpRouteTimeouts>,
    pub retry: Option<HttpRouteRetry>,
    pub session_persistence: Option<SessionPersistence>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteMatch {
    pub path: Option<HttpPathMatch>,
    #[serde(deserialize_with = "nullable")]
    pub headers: Vec<HttpValueMatch>,
    #[serde(deserialize_with = "nullable")]
    pub query_params: Vec<HttpValueMatch>,
    pub method: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpPathMatch {
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub type_: PathMatchType,
    pub value: Option<String>,
}

impl Default for HttpPathMatch {
    fn default() -> HttpPathMatch {
        HttpPathMatch { type_: PathMatchType::PathPrefix, value: None }
    }
}

impl HttpPathMatch {
    /// The value, or the CRD's default.
    pub fn value(&self) -> &str {
        self.value.as_deref().unwrap_or("/")
    }
}

open_enum! {
    PathMatchType default PathPrefix {
        Exact = "Exact",
        PathPrefix = "PathPrefix",
        RegularExpression = "RegularExpression",
    }
}

/// A header or query parameter match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpValueMatch {
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub type_: ValueMatchType,
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub value: String,
}

open_enum! {
    ValueMatchType default Exact {
        Exact = "Exact",
        RegularExpression = "RegularExpression",
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteTimeouts {
    /// A GEP-2257 duration.
    pub request: Option<String>,
    /// A GEP-2257 duration.
    pub backend_request: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteRetry {
    #[serde(deserialize_with = "nullable")]
    pub codes: Vec<i32>,
    pub attempts: Option<i32>,
    /// A GEP-2257 duration.
    pub backoff: Option<String>,
}

/// Requests of one client go to one endpoint (GEP-1619).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionPersistence {
    pub session_name: Option<String>,
    /// A GEP-2257 duration.
    pub absolute_timeout: Option<String>,
    /// A GEP-2257 duration. Not in v1.6 any more; older CRDs have it.
    pub idle_timeout: Option<String>,
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub type_: SessionPersistenceType,
    #[serde(deserialize_with = "nullable")]
    pub cookie_config: CookieConfig,
}

open_enum! {
    SessionPersistenceType default Cookie {
        Cookie = "Cookie",
        Header = "Header",
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CookieConfig {
    #[serde(deserialize_with = "nullable")]
    pub lifetime_type: CookieLifetime,
}

open_enum! {
    CookieLifetime default Session {
        Session = "Session",
        Permanent = "Permanent",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpBackendRef {
    #[serde(flatten)]
    pub backend: BackendReference,
    #[serde(deserialize_with = "weight_or_default")]
    pub weight: i32,
    #[serde(deserialize_with = "nullable")]
    pub filters: Vec<HttpRouteFilter>,
}

impl Default for HttpBackendRef {
    fn default() -> HttpBackendRef {
        HttpBackendRef { backend: BackendReference::default(), weight: WEIGHT_DEFAULT, filters: Vec::new() }
    }
}

pub(crate) fn weight_or_default<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(WEIGHT_DEFAULT))
}

/// A reference to a backend object.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendReference {
    #[serde(deserialize_with = "nullable")]
    pub group: String,
    #[serde(deserialize_with = "backend_kind_or_default")]
    pub kind: String,
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    pub namespace: Option<String>,
    pub port: Option<i32>,
}

impl Default for BackendReference {
    fn default() -> BackendReference {
        BackendReference {
            group: String::new(),
            kind: "Service".to_owned(),
            name: String::new(),
            namespace: None,
            port: None,
        }
    }
}

fn backend_kind_or_default<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(|| "Service".to_owned()))
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteFilter {
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub type_: FilterType,
    pub request_header_modifier: Option<HeaderModifier>,
    pub response_header_modifier: Option<HeaderModifier>,
    pub request_mirror: Option<RequestMirror>,
    pub request_redirect: Option<RequestRedirect>,
    pub url_rewrite: Option<UrlRewrite>,
    pub cors: Option<Cors>,
    pub external_auth: Option<ExternalAuth>,
    pub extension_ref: Option<LocalObjectReference>,
}

open_enum! {
    FilterType default Absent {
        /// The field was not there at all.
        Absent = "",
        RequestHeaderModifier = "RequestHeaderModifier",
        ResponseHeaderModifier = "ResponseHeaderModifier",
        RequestMirror = "RequestMirror",
        RequestRedirect = "RequestRedirect",
        UrlRewrite = "URLRewrite",
        Cors = "CORS",
        ExternalAuth = "ExternalAuth",
        ExtensionRef = "ExtensionRef",
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderModifier {
    #[serde(deserialize_with = "nullable")]
    pub set: Vec<HttpHeader>,
    #[serde(deserialize_with = "nullable")]
    pub add: Vec<HttpHeader>,
    #[serde(deserialize_with = "nullable")]
    pub remove: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpHeader {
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub value: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestMirror {
    #[serde(deserialize_with = "nullable")]
    pub backend_ref: BackendReference,
    pub percent: Option<i32>,
    pub fraction: Option<Fraction>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Fraction {
    #[serde(deserialize_with = "nullable")]
    pub numerator: i32,
    #[serde(deserialize_with = "denominator_or_default")]
    pub denominator: i32,
}

impl Default for Fraction {
    fn default() -> Fraction {
        Fraction { numerator: 0, denominator: FRACTION_DENOMINATOR_DEFAULT }
    }
}

fn denominator_or_default<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(FRACTION_DENOMINATOR_DEFAULT))
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestRedirect {
    pub scheme: Option<String>,
    pub hostname: Option<String>,
    pub path: Option<PathModifier>,
    pub port: Option<i32>,
    #[serde(deserialize_with = "redirect_status_or_default")]
    pub status_code: i32,
}

impl Default for RequestRedirect {
    fn default() -> RequestRedirect {
        RequestRedirect {
            scheme: None,
            hostname: None,
            path: None,
            port: None,
            status_code: REDIRECT_STATUS_DEFAULT,
        }
    }
}

fn redirect_status_or_default<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(REDIRECT_STATUS_DEFAULT))
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UrlRewrite {
    pub hostname: Option<String>,
    pub path: Option<PathModifier>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PathModifier {
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub type_: PathModifierType,
    pub replace_full_path: Option<String>,
    pub replace_prefix_match: Option<String>,
}

open_enum! {
    PathModifierType default Absent {
        /// The field was not there at all.
        Absent = "",
        ReplaceFullPath = "ReplaceFullPath",
        ReplacePrefixMatch = "ReplacePrefixMatch",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cors {
    #[serde(deserialize_with = "nullable")]
    pub allow_origins: Vec<String>,
    pub allow_credentials: Option<bool>,
    #[serde(deserialize_with = "nullable")]
    pub allow_methods: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub allow_headers: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub expose_headers: Vec<String>,
    #[serde(deserialize_with = "max_age_or_default")]
    pub max_age: i32,
}

impl Default for Cors {
    fn default() -> Cors {
        Cors {
            allow_origins: Vec::new(),
            allow_credentials: None,
            allow_methods: Vec::new(),
            allow_headers: Vec::new(),
            expose_headers: Vec::new(),
            max_age: CORS_MAX_AGE_SECONDS_DEFAULT,
        }
    }
}

fn max_age_or_default<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(CORS_MAX_AGE_SECONDS_DEFAULT))
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExternalAuth {
    #[serde(deserialize_with = "nullable")]
    pub protocol: String,
    #[serde(deserialize_with = "nullable")]
    pub backend_ref: BackendReference,
    pub grpc: Option<GrpcAuth>,
    pub http: Option<HttpAuth>,
    pub forward_body: Option<ForwardBody>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcAuth {
    #[serde(deserialize_with = "nullable")]
    pub allowed_headers: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpAuth {
    pub path: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub allowed_headers: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub allowed_response_headers: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ForwardBody {
    /// Bytes.
    pub max_size: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalObjectReference {
    #[serde(deserialize_with = "nullable")]
    pub group: String,
    #[serde(deserialize_with = "nullable")]
    pub kind: String,
    #[serde(deserialize_with = "nullable")]
    pub name: String,
}

/// One entry of a route's `status.parents`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteParentStatus {
    pub parent_ref: ParentReference,
    pub controller_name: String,
    pub conditions: Vec<Condition>,
}

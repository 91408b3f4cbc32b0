//! GatewayClass and Gateway, with their statuses.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::meta::{LabelSelector, ObjectMeta};
use crate::open::{nullable, open_enum};

/// The API group of Gateway API.
pub const GROUP: &str = "gateway.networking.k8s.io";

fn group() -> String {
    GROUP.to_owned()
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayClass {
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "nullable")]
    pub spec: GatewayClassSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayClassSpec {
    #[serde(deserialize_with = "nullable")]
    pub controller_name: String,
    pub parameters_ref: Option<ParametersReference>,
}

/// The reference to an object with a class's parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ParametersReference {
    #[serde(deserialize_with = "nullable")]
    pub group: String,
    #[serde(deserialize_with = "nullable")]
    pub kind: String,
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    pub namespace: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayClassStatus {
    pub conditions: Vec<Condition>,
    /// Sorted by name, as the API demands. Empty: not written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub supported_features: Vec<SupportedFeature>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SupportedFeature {
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gateway {
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "nullable")]
    pub spec: GatewaySpec,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    #[serde(deserialize_with = "nullable")]
    pub gateway_class_name: String,
    #[serde(deserialize_with = "nullable")]
    pub listeners: Vec<Listener>,
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<GatewayAddress>,
    pub infrastructure: Option<Infrastructure>,
    pub tls: Option<GatewayTls>,
    #[serde(deserialize_with = "nullable")]
    pub allowed_listeners: AllowedListeners,
    pub default_scope: Option<String>,
}

/// What a Gateway has to do with TLS beside its listeners' certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayTls {
    pub backend: Option<GatewayBackendTls>,
    pub frontend: Option<FrontendTls>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayBackendTls {
    /// The certificate that the Gateway shows to backends.
    pub client_certificate_ref: Option<SecretReference>,
}

/// Client certificates of the Gateway's HTTPS listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FrontendTls {
    #[serde(deserialize_with = "nullable")]
    pub default: FrontendTlsConfig,
    #[serde(deserialize_with = "nullable")]
    pub per_port: Vec<FrontendTlsPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FrontendTlsPort {
    #[serde(deserialize_with = "nullable")]
    pub port: i32,
    #[serde(deserialize_with = "nullable")]
    pub tls: FrontendTlsConfig,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FrontendTlsConfig {
    pub validation: Option<FrontendValidation>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FrontendValidation {
    #[serde(deserialize_with = "nullable")]
    pub ca_certificate_refs: Vec<ObjectReference>,
    #[serde(deserialize_with = "nullable")]
    pub mode: FrontendValidationMode,
}

open_enum! {
    FrontendValidationMode default AllowValidOnly {
        AllowValidOnly = "AllowValidOnly",
        AllowInsecureFallback = "AllowInsecureFallback",
    }
}

/// A reference that names its kind; of another namespace only with a grant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectReference {
    #[serde(deserialize_with = "nullable")]
    pub group: String,
    #[serde(deserialize_with = "nullable")]
    pub kind: String,
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    pub namespace: Option<String>,
}

/// Which namespaces' ListenerSets a Gateway takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AllowedListeners {
    #[serde(deserialize_with = "nullable")]
    pub namespaces: ListenerNamespaces,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerNamespaces {
    /// Absent: none, unlike for routes.
    pub from: Option<FromNamespaces>,
    pub selector: Option<LabelSelector>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listener {
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    pub hostname: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub port: i32,
    #[serde(deserialize_with = "nullable")]
    pub protocol: Protocol,
    pub tls: Option<ListenerTls>,
    #[serde(deserialize_with = "nullable")]
    pub allowed_routes: AllowedRoutes,
}

open_enum! {
    /// A listener's protocol; any domain-prefixed one is `Unknown`.
    Protocol default Http {
        Http = "HTTP",
        Https = "HTTPS",
        Tls = "TLS",
        Tcp = "TCP",
        Udp = "UDP",
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerTls {
    #[serde(deserialize_with = "nullable")]
    pub mode: TlsMode,
    #[serde(deserialize_with = "nullable")]
    pub certificate_refs: Vec<SecretReference>,
    #[serde(deserialize_with = "nullable")]
    pub options: BTreeMap<String, String>,
}

open_enum! {
    TlsMode default Terminate {
        Terminate = "Terminate",
        Passthrough = "Passthrough",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    #[serde(default, deserialize_with = "nullable")]
    pub group: String,
    #[serde(default = "secret_kind", deserialize_with = "secret_kind_or_default")]
    pub kind: String,
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default)]
    pub namespace: Option<String>,
}

fn secret_kind() -> String {
    "Secret".to_owned()
}

fn secret_kind_or_default<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(secret_kind))
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AllowedRoutes {
    #[serde(deserialize_with = "nullable")]
    pub namespaces: RouteNamespaces,
    #[serde(deserialize_with = "nullable")]
    pub kinds: Vec<RouteGroupKind>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteNamespaces {
    #[serde(deserialize_with = "nullable")]
    pub from: FromNamespaces,
    pub selector: Option<LabelSelector>,
}

open_enum! {
    /// Which namespaces' routes a listener takes.
    FromNamespaces default Same {
        All = "All",
        Same = "Same",
        Selector = "Selector",
        None = "None",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteGroupKind {
    #[serde(default = "group")]
    pub group: String,
    #[serde(default)]
    pub kind: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayAddress {
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub type_: AddressType,
    /// Absent or empty: any address of that type.
    pub value: Option<String>,
}

open_enum! {
    /// An address's type; a domain-prefixed one is `Unknown`.
    AddressType default IpAddress {
        IpAddress = "IPAddress",
        Hostname = "Hostname",
        NamedAddress = "NamedAddress",
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Infrastructure {
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    /// Always in the Gateway's namespace.
    pub parameters_ref: Option<ParametersReference>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<GatewayStatusAddress>,
    pub conditions: Vec<Condition>,
    /// One entry for each listener of the spec, in its order.
    pub listeners: Vec<ListenerStatus>,
    /// ListenerSets that are taken and have at least one listener that is accepted. `None`: not written, because the
    /// Gateway has none and older CRDs do not know the field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attached_listener_sets: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatusAddress {
    #[serde(rename = "type")]
    pub type_: AddressType,
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    pub name: String,
    /// Written even when empty: older CRDs require the field.
    pub supported_kinds: Vec<RouteGroupKind>,
    pub attached_routes: i32,
    pub conditions: Vec<Condition>,
}

//! The built-in kinds that routing reads: Service, EndpointSlice, Namespace, Secret, ConfigMap.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::meta::ObjectMeta;
use crate::open::open_enum;

/// The label by which an EndpointSlice names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    pub metadata: ObjectMeta,
    pub spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    #[serde(rename = "type")]
    pub type_: ServiceType,
    pub ports: Vec<ServicePort>,
    pub selector: BTreeMap<String, String>,
    pub external_name: Option<String>,
}

open_enum! {
    ServiceType default ClusterIp {
        ClusterIp = "ClusterIP",
        NodePort = "NodePort",
        LoadBalancer = "LoadBalancer",
        ExternalName = "ExternalName",
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Empty when the Service has one unnamed port.
    pub name: String,
    pub port: i32,
    pub protocol: TransportProtocol,
    pub app_protocol: Option<String>,
}

open_enum! {
    TransportProtocol default Tcp {
        Tcp = "TCP",
        Udp = "UDP",
        Sctp = "SCTP",
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    pub metadata: ObjectMeta,
    pub address_type: AddressType,
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<EndpointPort>,
}

impl EndpointSlice {
    /// The Service that the slice belongs to, in its own namespace.
    pub fn service(&self) -> Option<&str> {
        self.metadata.labels.get(SERVICE_NAME_LABEL).map(String::as_str).filter(|name| !name.is_empty())
    }
}

open_enum! {
    AddressType default Ipv4 {
        Ipv4 = "IPv4",
        Ipv6 = "IPv6",
        Fqdn = "FQDN",
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "EndpointAsWritten")]
pub struct Endpoint {
    pub addresses: Vec<String>,
    pub conditions: EndpointConditions,
    /// `nodeName`, of an endpoint that is neither ready nor on its way out; else empty.
    pub node_in_doubt: String,
    /// Nobody has heard of that Node for a while, or only for a moment again: what is said of the endpoint may be from before. Not the
    /// slice's to say.
    pub is_node_lost: bool,
}

impl Endpoint {
    pub fn is_ready(&self) -> bool {
        self.conditions.ready.unwrap_or(true)
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct EndpointAsWritten {
    addresses: Vec<String>,
    conditions: EndpointConditions,
    node_name: String,
}

impl From<EndpointAsWritten> for Endpoint {
    fn from(written: EndpointAsWritten) -> Endpoint {
        let EndpointAsWritten { addresses, conditions, node_name } = written;
        let EndpointConditions { ready, terminating, .. } = conditions;
        let is_in_doubt = !ready.unwrap_or(true) && !terminating.unwrap_or(false);
        let node_in_doubt = if is_in_doubt { node_name } else { String::new() };
        Endpoint { addresses, conditions, node_in_doubt, is_node_lost: false }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointConditions {
    /// Absent counts as ready.
    pub ready: Option<bool>,
    /// Absent counts like `ready`.
    pub serving: Option<bool>,
    /// Absent counts as not terminating.
    pub terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    /// The Service port's name; empty for an unnamed one.
    pub name: String,
    pub port: Option<i32>,
    pub protocol: TransportProtocol,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Namespace {
    pub metadata: ObjectMeta,
}

/// The type of a Secret with a certificate and its key.
pub const TLS_SECRET_TYPE: &str = "kubernetes.io/tls";
/// The key of a TLS Secret's certificate chain.
pub const TLS_CERTIFICATE_KEY: &str = "tls.crt";
/// The key of a TLS Secret's private key.
pub const TLS_PRIVATE_KEY_KEY: &str = "tls.key";
/// The key of a ConfigMap's certificate authorities.
pub const CA_CERTIFICATES_KEY: &str = "ca.crt";

/// The type of a Secret whose values are session keys.
pub const SESSION_KEY_SECRET_TYPE: &str = "weir.dev/session-key";

/// A Secret's certificate with its key, or its session keys, as its type says; everything else in it is dropped when it is read:
/// nobody needs other people's passwords in memory. `Debug` shows no data.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "SecretAsWritten")]
pub struct Secret {
    pub metadata: ObjectMeta,
    pub type_: String,
    /// Of a Secret of the type [`TLS_SECRET_TYPE`].
    pub data: SecretData,
    /// Of a Secret of the type [`SESSION_KEY_SECRET_TYPE`]: its values by key, in base64.
    pub session_keys: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SecretAsWritten {
    metadata: ObjectMeta,
    #[serde(rename = "type")]
    type_: String,
    data: BTreeMap<String, serde_json::Value>,
}

/// Whether Weir reads the value of a key of a Secret of this type.
pub fn reads_secret_key(type_: &str, key: &str) -> bool {
    match type_ {
        TLS_SECRET_TYPE => matches!(key, TLS_CERTIFICATE_KEY | TLS_PRIVATE_KEY_KEY),
        SESSION_KEY_SECRET_TYPE => true,
        _ => false,
    }
}

impl From<SecretAsWritten> for Secret {
    fn from(written: SecretAsWritten) -> Secret {
        let SecretAsWritten { metadata, type_, data } = written;
        let text = |(key, value): (String, serde_json::Value)| Some((key, value.as_str()?.to_owned()));
        let is_read = |(key, _): &(String, String)| reads_secret_key(&type_, key);
        let mut values: BTreeMap<String, String> =
            data.into_iter().filter_map(text).filter(is_read).collect();
        if type_ == SESSION_KEY_SECRET_TYPE {
            return Secret { metadata, type_, data: SecretData::default(), session_keys: values };
        }
        let data = SecretData {
            certificate: values.remove(TLS_CERTIFICATE_KEY),
            private_key: values.remove(TLS_PRIVATE_KEY_KEY),
        };
        Secret { metadata, type_, data, session_keys: BTreeMap::new() }
    }
}

/// Values as the API has them, in base64.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretData {
    /// Of the key [`TLS_CERTIFICATE_KEY`].
    pub certificate: Option<String>,
    /// Of the key [`TLS_PRIVATE_KEY_KEY`].
    pub private_key: Option<String>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret")
            .field("metadata", &self.metadata)
            .field("type", &self.type_)
            .finish_non_exhaustive()
    }
}

/// Of a ConfigMap, its certificate authorities; everything else in it is dropped when it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigMap {
    pub metadata: ObjectMeta,
    pub data: ConfigMapData,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ConfigMapData {
    /// PEM.
    #[serde(rename = "ca.crt")]
    pub authorities: Option<String>,
}

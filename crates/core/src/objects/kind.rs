//! Kinds and keys.

use std::fmt;

use weir_api::gateway_api::kinds;
use weir_api::kind_facts::KindFacts;
use weir_api::kong::OPERATOR_GROUP;
use weir_api::weir::{GATEWAY_PARAMETERS, WEIR_GROUP};

/// The kinds that translation reads, in the order in which it looks at changed objects: what is read by others first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    GatewayClass,
    Gateway,
    ListenerSet,
    HttpRoute,
    GrpcRoute,
    TlsRoute,
    TcpRoute,
    UdpRoute,
    BackendTlsPolicy,
    BackendTrafficPolicy,
    BackendPolicy,
    ReferenceGrant,
    Service,
    EndpointSlice,
    Namespace,
    Secret,
    ConfigMap,
    GatewayConfiguration,
    GatewayParameters,
    Ingress,
    IngressClass,
}

/// What the API calls a kind: kind, plural, group, and the versions that can be read, best first.
type Facts = (&'static str, &'static str, &'static str, &'static [&'static str]);

const fn facts(of: &KindFacts) -> Facts {
    (of.kind, of.plural, of.group, of.version_names)
}

impl Kind {
    pub const ALL: [Kind; 21] = [
        Kind::GatewayClass,
        Kind::Gateway,
        Kind::ListenerSet,
        Kind::HttpRoute,
        Kind::GrpcRoute,
        Kind::TlsRoute,
        Kind::TcpRoute,
        Kind::UdpRoute,
        Kind::BackendTlsPolicy,
        Kind::BackendTrafficPolicy,
        Kind::BackendPolicy,
        Kind::ReferenceGrant,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::Namespace,
        Kind::Secret,
        Kind::ConfigMap,
        Kind::GatewayConfiguration,
        Kind::GatewayParameters,
        Kind::Ingress,
        Kind::IngressClass,
    ];

    /// Those that say something about the Services that they name.
    pub(crate) const POLICIES: [Kind; 3] =
        [Kind::BackendTlsPolicy, Kind::BackendTrafficPolicy, Kind::BackendPolicy];

    fn facts(self) -> Facts {
        match self {
            Kind::GatewayClass => facts(&kinds::GATEWAY_CLASS),
            Kind::Gateway => facts(&kinds::GATEWAY),
            Kind::ListenerSet => facts(&kinds::LISTENER_SET),
            Kind::HttpRoute => facts(&kinds::HTTP_ROUTE),
            Kind::GrpcRoute => facts(&kinds::GRPC_ROUTE),
            Kind::TlsRoute => facts(&kinds::TLS_ROUTE),
            Kind::TcpRoute => facts(&kinds::TCP_ROUTE),
            Kind::UdpRoute => facts(&kinds::UDP_ROUTE),
            Kind::BackendTlsPolicy => facts(&kinds::BACKEND_TLS_POLICY),
            Kind::BackendTrafficPolicy => facts(&kinds::X_BACKEND_TRAFFIC_POLICY),
            Kind::BackendPolicy => ("BackendPolicy", "backendpolicies", WEIR_GROUP, &["v1alpha1"]),
            Kind::ReferenceGrant => facts(&kinds::REFERENCE_GRANT),
            Kind::Service => ("Service", "services", "", &["v1"]),
            Kind::EndpointSlice => ("EndpointSlice", "endpointslices", "discovery.k8s.io", &["v1"]),
            Kind::Namespace => ("Namespace", "namespaces", "", &["v1"]),
            Kind::Secret => ("Secret", "secrets", "", &["v1"]),
            Kind::ConfigMap => ("ConfigMap", "configmaps", "", &["v1"]),
            Kind::GatewayConfiguration => (
                "GatewayConfiguration",
                "gatewayconfigurations",
                OPERATOR_GROUP,
                &["v2beta1", "v2alpha1", "v1beta1"],
            ),
            Kind::GatewayParameters => (GATEWAY_PARAMETERS, "gatewayparameters", WEIR_GROUP, &["v1alpha1"]),
            Kind::Ingress => ("Ingress", "ingresses", "networking.k8s.io", &["v1"]),
            Kind::IngressClass => ("IngressClass", "ingressclasses", "networking.k8s.io", &["v1"]),
        }
    }

    /// `kind` as in manifests.
    pub fn as_str(self) -> &'static str {
        self.facts().0
    }

    /// The resource name in API paths.
    pub fn plural(self) -> &'static str {
        self.facts().1
    }

    /// The API group; empty for the core group.
    pub fn group(self) -> &'static str {
        self.facts().2
    }

    /// Versions that can be read, best first.
    pub fn versions(self) -> &'static [&'static str] {
        self.facts().3
    }

    /// Whether objects of the kind have no namespace.
    pub fn cluster_scoped(self) -> bool {
        matches!(self, Kind::GatewayClass | Kind::Namespace | Kind::IngressClass)
    }

    /// Whether objects of the kind attach to listeners.
    pub fn is_route(self) -> bool {
        self.route_prefix().is_some()
    }

    /// What the key of a route's resource begins with; `None` for kinds that are no routes.
    pub fn route_prefix(self) -> Option<&'static str> {
        match self {
            Kind::HttpRoute => Some("httproute"),
            Kind::GrpcRoute => Some("grpcroute"),
            Kind::TlsRoute => Some("tlsroute"),
            Kind::TcpRoute => Some("tcproute"),
            Kind::UdpRoute => Some("udproute"),
            _ => None,
        }
    }

    /// Whether objects of the kind say something about the Services that they name.
    pub fn is_policy(self) -> bool {
        Kind::POLICIES.contains(&self)
    }

    /// Whether Weir writes a status to objects of the kind.
    pub fn has_status(self) -> bool {
        self.is_route()
            || self.is_policy()
            || matches!(
                self,
                Kind::GatewayClass
                    | Kind::Gateway
                    | Kind::ListenerSet
                    | Kind::GatewayConfiguration
                    | Kind::GatewayParameters
            )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names one object. Ordered by kind, namespace, name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub kind: Kind,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> ObjectKey {
        let namespace = if kind.cluster_scoped() { String::new() } else { namespace.into() };
        ObjectKey { kind, namespace, name: name.into() }
    }

    /// Stands for all grants of a namespace, where the absence of every one of them matters.
    pub fn grants_of(namespace: impl Into<String>) -> ObjectKey {
        ObjectKey::new(Kind::ReferenceGrant, namespace, "")
    }

    /// Stands for all policies of a kind that name a Service. No object has a slash in its name.
    pub(crate) fn policies_of(kind: Kind, service: &ObjectKey) -> ObjectKey {
        ObjectKey::new(kind, service.namespace.clone(), format!("/{}", service.name))
    }

    /// Stands for all Gateways that are defaults.
    pub(crate) fn default_gateways() -> ObjectKey {
        ObjectKey::new(Kind::Gateway, "", "/default")
    }

    /// The route that a resource key is the form of.
    pub fn of_route_resource(resource: &str) -> Option<ObjectKey> {
        let (prefix, path) = resource.split_once('/')?;
        let (namespace, name) = path.split_once('/')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.route_prefix() == Some(prefix))?;
        Some(ObjectKey::new(kind, namespace, name))
    }

    /// The key of a route's resource; `None` for kinds that are no routes.
    pub fn route_resource(&self) -> Option<String> {
        Some(format!("{}/{}/{}", self.kind.route_prefix()?, self.namespace, self.name))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

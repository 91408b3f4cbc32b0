//! Typed objects of every kind.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use weir_api::core_v1::{ConfigMap, EndpointSlice, Namespace, Secret, Service};
use weir_api::gateway_api::{
    BackendTlsPolicy, Gateway, GatewayClass, GrpcRoute, HttpRoute, ListenerSet, ReferenceGrant, TcpRoute,
    TlsRoute, UdpRoute, XBackendTrafficPolicy,
};
use weir_api::kong::GatewayConfiguration;
use weir_api::meta::ObjectMeta;
use weir_api::networking::{Ingress, IngressClass};
use weir_api::seen::{SeenPolicyStatus, SeenRouteStatus};
use weir_api::weir::{BackendPolicy, GatewayParameters};

use super::kind::{Kind, ObjectKey};

/// Why an object could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub kind: Kind,
    pub message: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be read: {}", self.kind, self.message)
    }
}

impl std::error::Error for Unreadable {}

/// The enum of all kinds' types, one variant for each [`Kind`] of the same name.
macro_rules! objects {
    ($($kind:ident: $type:ty),+ $(,)?) => {
        /// One typed object.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object {
            $($kind(Arc<$type>),)+
        }

        impl Object {
            /// Reads the object of a manifest or watch event. The version does not matter: all that are served share a
            /// shape.
            pub fn read(kind: Kind, json: Value) -> Result<Object, Unreadable> {
                match kind {
                    $(Kind::$kind => weir_api::read(json).map(Arc::new).map(Object::$kind),)+
                }
                .map_err(|error| Unreadable { kind, message: error.to_string() })
            }

            pub fn kind(&self) -> Kind {
                match self {
                    $(Object::$kind(_) => Kind::$kind,)+
                }
            }

            pub fn metadata(&self) -> &ObjectMeta {
                match self {
                    $(Object::$kind(object) => &object.metadata,)+
                }
            }
        }
    };
}

objects! {
    GatewayClass: GatewayClass,
    Gateway: Gateway,
    ListenerSet: ListenerSet,
    HttpRoute: HttpRoute,
    GrpcRoute: GrpcRoute,
    TlsRoute: TlsRoute,
    TcpRoute: TcpRoute,
    UdpRoute: UdpRoute,
    BackendTlsPolicy: BackendTlsPolicy,
    BackendTrafficPolicy: XBackendTrafficPolicy,
    BackendPolicy: BackendPolicy,
    ReferenceGrant: ReferenceGrant,
    Service: Service,
    EndpointSlice: EndpointSlice,
    Namespace: Namespace,
    Secret: Secret,
    ConfigMap: ConfigMap,
    GatewayConfiguration: GatewayConfiguration,
    GatewayParameters: GatewayParameters,
    Ingress: Ingress,
    IngressClass: IngressClass,
}

impl Object {
    pub fn key(&self) -> ObjectKey {
        let metadata = self.metadata();
        ObjectKey::new(self.kind(), metadata.namespace.clone(), metadata.name.clone())
    }

    /// Whether `other` is the same object as its owner wrote it: status writes and bookkeeping aside.
    pub(super) fn same_intent(&self, other: &Object) -> bool {
        let (mine, theirs) = (self.metadata(), other.metadata());
        if mine.uid != theirs.uid
            || mine.generation != theirs.generation
            || mine.labels != theirs.labels
            || mine.annotations != theirs.annotations
        {
            return false;
        }
        match (self, other) {
            (Object::GatewayClass(a), Object::GatewayClass(b)) => a.spec == b.spec,
            (Object::Gateway(a), Object::Gateway(b)) => a.spec == b.spec,
            (Object::ListenerSet(a), Object::ListenerSet(b)) => a.spec == b.spec,
            (Object::HttpRoute(a), Object::HttpRoute(b)) => a.spec == b.spec,
            (Object::GrpcRoute(a), Object::GrpcRoute(b)) => a.spec == b.spec,
            (Object::TlsRoute(a), Object::TlsRoute(b)) => a.spec == b.spec,
            (Object::TcpRoute(a), Object::TcpRoute(b)) => a.spec == b.spec,
            (Object::UdpRoute(a), Object::UdpRoute(b)) => a.spec == b.spec,
            (Object::BackendTlsPolicy(a), Object::BackendTlsPolicy(b)) => a.spec == b.spec,
            (Object::BackendTrafficPolicy(a), Object::BackendTrafficPolicy(b)) => a.spec == b.spec,
            (Object::BackendPolicy(a), Object::BackendPolicy(b)) => a.spec == b.spec,
            (Object::GatewayParameters(a), Object::GatewayParameters(b)) => a.spec == b.spec,
            (Object::Ingress(a), Object::Ingress(b)) => a.spec == b.spec,
            _ => false,
        }
    }

    /// The controllers that have entries in the status of a route or policy.
    pub(crate) fn status_controllers(&self) -> Vec<&str> {
        match self {
            Object::HttpRoute(route) => parents(&route.status),
            Object::GrpcRoute(route) => parents(&route.status),
            Object::TlsRoute(route) => parents(&route.status),
            Object::TcpRoute(route) => parents(&route.status),
            Object::UdpRoute(route) => parents(&route.status),
            Object::BackendTlsPolicy(policy) => ancestors(&policy.status),
            Object::BackendTrafficPolicy(policy) => ancestors(&policy.status),
            Object::BackendPolicy(policy) => ancestors(&policy.status),
            _ => Vec::new(),
        }
    }

    /// The Services that a policy names, each once.
    pub(crate) fn policy_targets(&self) -> Vec<ObjectKey> {
        let namespace = &self.metadata().namespace;
        let service = |group: &str, kind: &str, name: &str| {
            (matches!(group, "" | "core") && kind == "Service")
                .then(|| ObjectKey::new(Kind::Service, namespace.clone(), name))
        };
        let mut services: Vec<ObjectKey> = match self {
            Object::BackendTlsPolicy(policy) => {
                let targets = policy.spec.target_refs.iter();
                targets.filter_map(|to| service(&to.group, &to.kind, &to.name)).collect()
            }
            Object::BackendTrafficPolicy(policy) => {
                let targets = policy.spec.target_refs.iter();
                targets.filter_map(|to| service(&to.group, &to.kind, &to.name)).collect()
            }
            Object::BackendPolicy(policy) => {
                let targets = policy.spec.target_refs.iter();
                targets.filter_map(|to| service(&to.group, &to.kind, &to.name)).collect()
            }
            _ => return Vec::new(),
        };
        services.sort();
        services.dedup();
        services
    }

    /// The Gateway that a ListenerSet wants to be part of.
    pub fn gateway_of_set(&self) -> Option<ObjectKey> {
        let Object::ListenerSet(set) = self else {
            return None;
        };
        let parent = &set.spec.parent_ref;
        let namespace = parent.namespace.as_ref().unwrap_or(&set.metadata.namespace);
        (parent.group == weir_api::kind_facts::GROUP && parent.kind == "Gateway")
            .then(|| ObjectKey::new(Kind::Gateway, namespace.clone(), parent.name.clone()))
    }
}

fn parents(status: &SeenRouteStatus) -> Vec<&str> {
    status.parents.iter().map(|parent| parent.controller_name.as_str()).collect()
}

fn ancestors(status: &SeenPolicyStatus) -> Vec<&str> {
    status.ancestors.iter().map(|ancestor| ancestor.controller_name.as_str()).collect()
}

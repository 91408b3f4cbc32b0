//! What Weir takes over from Kong's controllers: names, annotations and the operator's GatewayConfiguration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::meta::ObjectMeta;

/// Controller name of Weir's own classes.
pub const WEIR_CONTROLLER: &str = "weir.dev/gateway-controller";
/// Controller name in classes written for Kong Ingress Controller.
pub const KIC_CONTROLLER: &str = "konghq.com/kic-gateway-controller";
/// Controller name in classes written for Kong Operator.
pub const OPERATOR_CONTROLLER: &str = "konghq.com/gateway-operator";
/// Every controller name that Weir answers to.
pub const CONTROLLERS: [&str; 3] = [WEIR_CONTROLLER, KIC_CONTROLLER, OPERATOR_CONTROLLER];

/// `spec.controller` of an IngressClass of Kong's.
pub const INGRESS_CONTROLLER: &str = "ingress-controllers.konghq.com/kong";
/// The Ingress class that Kong Ingress Controller serves by default.
pub const INGRESS_CLASS: &str = "kong";
/// The annotation that names an Ingress's class in the old way.
pub const LEGACY_INGRESS_CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// Prefix of Kong's annotations.
pub const ANNOTATION_PREFIX: &str = "konghq.com/";
/// On a GatewayClass, `true`: its Gateways share one data plane.
pub const UNMANAGED_ANNOTATION: &str = "konghq.com/gatewayclass-unmanaged";

/// Whether a class of [`KIC_CONTROLLER`] with these annotations gives its Gateways no data plane of their own.
pub fn is_unmanaged(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(UNMANAGED_ANNOTATION).is_some_and(|value| value == "true")
}
/// On a route, `true`: the matched part of the path is removed.
pub const STRIP_PATH_ANNOTATION: &str = "konghq.com/strip-path";

/// On a Gateway: Kong's controller tells which Service publishes its address.
pub const PUBLISH_SERVICE_ANNOTATION: &str = "konghq.com/publish-service";

/// API group of the operator's GatewayConfiguration.
pub const OPERATOR_GROUP: &str = "gateway-operator.konghq.com";

/// The operator's parameters of a GatewayClass. Its body is kept as it is: Weir only reports on it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayConfiguration {
    pub metadata: ObjectMeta,
    pub spec: serde_json::Value,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayConfigurationStatus {
    pub conditions: Vec<Condition>,
}

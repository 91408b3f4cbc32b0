//! What the schemas do not say: how upstream's Go types are called, and what is read and written in which way.
//!
//! Owns the tables. A field that no table names gets a type called after its parent and itself
//! (`HTTPRoute` and `spec` make `HTTPRouteSpec`), so that a new release generates without a change here; a name of
//! upstream's own is then added for it. The names are those of the Go packages `apis/v1` and `apisx/v1alpha1`.

use super::shape::Extra;

/// A field's object (an item's, for lists) by its parent's type and its name.
const OBJECTS: &[(&str, &str, &str)] = &[
    ("XBackend", "spec", "BackendSpec"),
    ("XBackend", "status", "BackendStatus"),
    ("XBackendTrafficPolicy", "spec", "BackendTrafficPolicySpec"),
    ("XMesh", "spec", "MeshSpec"),
    ("XMesh", "status", "MeshStatus"),
    ("HTTPRoute", "status", "RouteStatus"),
    ("GRPCRoute", "status", "RouteStatus"),
    ("TLSRoute", "status", "RouteStatus"),
    ("TCPRoute", "status", "RouteStatus"),
    ("UDPRoute", "status", "RouteStatus"),
    ("BackendTLSPolicy", "status", "PolicyStatus"),
    ("XBackendTrafficPolicy", "status", "PolicyStatus"),
    ("RouteStatus", "parents", "RouteParentStatus"),
    ("PolicyStatus", "ancestors", "PolicyAncestorStatus"),
    ("BackendStatus", "parents", "BackendAncestorStatus"),
    ("GatewayStatus", "addresses", "GatewayStatusAddress"),
    ("GatewayStatus", "listeners", "ListenerStatus"),
    ("ListenerSetStatus", "listeners", "ListenerEntryStatus"),
    ("", "supportedKinds", "RouteGroupKind"),
    ("", "supportedFeatures", "SupportedFeature"),
    ("GatewayClassSpec", "parametersRef", "ParametersReference"),
    ("MeshSpec", "parametersRef", "ParametersReference"),
    ("GatewayInfrastructure", "parametersRef", "LocalParametersReference"),
    ("GatewaySpec", "addresses", "GatewaySpecAddress"),
    ("GatewaySpec", "allowedListeners", "AllowedListeners"),
    ("GatewaySpec", "infrastructure", "GatewayInfrastructure"),
    ("GatewaySpec", "listeners", "Listener"),
    ("GatewaySpec", "tls", "GatewayTLSConfig"),
    ("AllowedListeners", "namespaces", "ListenerNamespaces"),
    ("ListenerSetSpec", "listeners", "ListenerEntry"),
    ("ListenerSetSpec", "parentRef", "ParentGatewayReference"),
    ("Listener", "allowedRoutes", "AllowedRoutes"),
    ("ListenerEntry", "allowedRoutes", "AllowedRoutes"),
    ("Listener", "tls", "ListenerTLSConfig"),
    ("ListenerEntry", "tls", "ListenerTLSConfig"),
    ("AllowedRoutes", "kinds", "RouteGroupKind"),
    ("AllowedRoutes", "namespaces", "RouteNamespaces"),
    ("", "certificateRefs", "SecretObjectReference"),
    ("", "clientCertificateRef", "SecretObjectReference"),
    ("GatewayTLSConfig", "backend", "GatewayBackendTLS"),
    ("GatewayTLSConfig", "frontend", "FrontendTLSConfig"),
    ("FrontendTLSConfig", "default", "TLSConfig"),
    ("FrontendTLSConfig", "perPort", "TLSPortConfig"),
    ("TLSPortConfig", "tls", "TLSConfig"),
    ("TLSConfig", "validation", "FrontendTLSValidation"),
    ("FrontendTLSValidation", "caCertificateRefs", "ObjectReference"),
    ("", "parentRefs", "ParentReference"),
    ("", "parentRef", "ParentReference"),
    ("", "ancestorRef", "ParentReference"),
    ("HTTPRouteRule", "backendRefs", "HTTPBackendRef"),
    ("GRPCRouteRule", "backendRefs", "GRPCBackendRef"),
    ("", "backendRefs", "BackendRef"),
    ("", "backendRef", "BackendObjectReference"),
    ("HTTPRouteRule", "filters", "HTTPRouteFilter"),
    ("HTTPBackendRef", "filters", "HTTPRouteFilter"),
    ("GRPCRouteRule", "filters", "GRPCRouteFilter"),
    ("GRPCBackendRef", "filters", "GRPCRouteFilter"),
    ("HTTPRouteMatch", "path", "HTTPPathMatch"),
    ("HTTPRouteMatch", "headers", "HTTPHeaderMatch"),
    ("HTTPRouteMatch", "queryParams", "HTTPQueryParamMatch"),
    ("GRPCRouteMatch", "method", "GRPCMethodMatch"),
    ("GRPCRouteMatch", "headers", "GRPCHeaderMatch"),
    ("", "requestHeaderModifier", "HTTPHeaderFilter"),
    ("", "responseHeaderModifier", "HTTPHeaderFilter"),
    ("HTTPHeaderFilter", "set", "HTTPHeader"),
    ("HTTPHeaderFilter", "add", "HTTPHeader"),
    ("", "requestMirror", "HTTPRequestMirrorFilter"),
    ("HTTPRequestMirrorFilter", "fraction", "Fraction"),
    ("", "requestRedirect", "HTTPRequestRedirectFilter"),
    ("", "urlRewrite", "HTTPURLRewriteFilter"),
    ("HTTPRequestRedirectFilter", "path", "HTTPPathModifier"),
    ("HTTPURLRewriteFilter", "path", "HTTPPathModifier"),
    ("", "cors", "HTTPCORSFilter"),
    ("", "externalAuth", "HTTPExternalAuthFilter"),
    ("HTTPExternalAuthFilter", "grpc", "GRPCAuthConfig"),
    ("HTTPExternalAuthFilter", "http", "HTTPAuthConfig"),
    ("HTTPExternalAuthFilter", "forwardBody", "ForwardBodyConfig"),
    ("", "extensionRef", "LocalObjectReference"),
    ("HTTPRouteRule", "timeouts", "HTTPRouteTimeouts"),
    ("HTTPRouteRule", "retry", "HTTPRouteRetry"),
    ("", "sessionPersistence", "SessionPersistence"),
    ("SessionPersistence", "cookieConfig", "CookieConfig"),
    ("BackendTLSPolicySpec", "targetRefs", "LocalPolicyTargetReferenceWithSectionName"),
    ("BackendTrafficPolicySpec", "targetRefs", "LocalPolicyTargetReference"),
    ("BackendTLSPolicySpec", "validation", "BackendTLSPolicyValidation"),
    ("BackendTLS", "validation", "BackendTLSPolicyValidation"),
    ("BackendTLSPolicyValidation", "caCertificateRefs", "LocalObjectReference"),
    ("BackendTLSPolicyValidation", "subjectAltNames", "SubjectAltName"),
    ("BackendSpec", "externalHostname", "ExternalHostnameBackend"),
    ("BackendSpec", "tls", "BackendTLS"),
    ("BackendTrafficPolicySpec", "retryConstraint", "RetryConstraint"),
    ("RetryConstraint", "budget", "BudgetDetails"),
    ("RetryConstraint", "minRetryRate", "RequestRate"),
];

/// A field's enumeration, likewise. Other names than the schema's own `enum` may be listed in [`OPEN`].
const ENUMERATIONS: &[(&str, &str, &str)] = &[
    ("GatewaySpec", "defaultScope", "GatewayDefaultScope"),
    ("", "useDefaultGateways", "GatewayDefaultScope"),
    ("", "from", "FromNamespaces"),
    ("HTTPExternalAuthFilter", "protocol", "HTTPRouteExternalAuthProtocol"),
    ("Listener", "protocol", "ProtocolType"),
    ("ListenerEntry", "protocol", "ProtocolType"),
    ("GatewaySpecAddress", "type", "AddressType"),
    ("GatewayStatusAddress", "type", "AddressType"),
    ("ListenerTLSConfig", "mode", "TLSModeType"),
    ("FrontendTLSValidation", "mode", "FrontendValidationModeType"),
    ("HTTPRouteMatch", "method", "HTTPMethod"),
    ("HTTPPathMatch", "type", "PathMatchType"),
    ("HTTPHeaderMatch", "type", "HeaderMatchType"),
    ("HTTPQueryParamMatch", "type", "QueryParamMatchType"),
    ("HTTPCORSFilter", "allowMethods", "HTTPMethodWithWildcard"),
    ("BackendTLSPolicyValidation", "wellKnownCACertificates", "WellKnownCACertificatesType"),
    ("BackendSpec", "type", "BackendType"),
    ("CookieConfig", "lifetimeType", "CookieLifetimeType"),
    ("BackendSpec", "protocol", "BackendProtocol"),
];

/// Fields with an `enum` in the schema that are plain strings in upstream's Go types.
const PLAIN: &[(&str, &str)] = &[("HTTPRequestRedirectFilter", "scheme")];

/// Go string types with constants whose schema has a pattern instead of an `enum`.
const OPEN: &[(&str, &[&str])] = &[
    ("ProtocolType", &["HTTP", "HTTPS", "TLS", "TCP", "UDP"]),
    ("AddressType", &["IPAddress", "Hostname", "NamedAddress"]),
    ("WellKnownCACertificatesType", &["System"]),
];

/// Types of upstream's with the same fields as another: one type here, with the other's name beside it.
pub(super) const TWINS: &[(&str, &str)] = &[
    ("ListenerEntry", "Listener"),
    ("ListenerEntryStatus", "ListenerStatus"),
    ("HTTPQueryParamMatch", "HTTPHeaderMatch"),
    ("QueryParamMatchType", "HeaderMatchType"),
    ("GRPCHeaderMatch", "HTTPHeaderMatch"),
    ("GRPCHeaderMatchType", "HeaderMatchType"),
];

/// Types that are compared, sorted and used as keys.
pub(super) const ORDERED: &[&str] = &["ParentReference", "RouteGroupKind", "GatewayStatusAddress"];

/// Fields that stand before the others, in this order.
pub(super) const FIRST: &[&str] =
    &["metadata", "spec", "type", "group", "kind", "namespace", "name", "sectionName", "port"];

/// Lists of statuses that are left out where they are empty. All others are written: older CRDs require some of them.
pub(super) const LEFT_OUT_EMPTY: &[(&str, &str)] = &[
    ("GatewayClassStatus", "supportedFeatures"),
    ("GatewayStatus", "addresses"),
    ("MeshStatus", "supportedFeatures"),
];

/// Fields of older releases that are still read.
pub(super) const EXTRA: &[Extra] = &[Extra {
    parent: "SessionPersistence",
    field: "idleTimeout",
    note: "until v1.5; matches `^([0-9]{1,5}(h|m|s|ms)){1,4}$`",
}];

/// Capitals that are one word.
pub(super) const ACRONYMS: &[&str] =
    &["HTTPS", "HTTP", "GRPC", "CORS", "URL", "URI", "TLS", "TCP", "UDP", "IP", "CA"];

fn named<'a>(table: &[(&str, &str, &'a str)], parent: &str, field: &str) -> Option<&'a str> {
    let of =
        |owner: &str| table.iter().find(|(p, f, _)| *p == owner && *f == field).map(|(_, _, name)| *name);
    of(parent).or_else(|| of(""))
}

/// `HTTPRouteRule` and `matches` make `HTTPRouteMatch`, unless a table says otherwise.
pub(super) fn of_object(parent: &str, field: &str) -> String {
    named(OBJECTS, parent, field).map_or_else(|| by_rule(parent, field), str::to_owned)
}

pub(super) fn of_enumeration(parent: &str, field: &str) -> String {
    named(ENUMERATIONS, parent, field).map_or_else(|| by_rule(parent, field), str::to_owned)
}

/// Whether the field is an enumeration although its schema lists no values.
pub(super) fn open_values(parent: &str, field: &str) -> Option<&'static [&'static str]> {
    let name = named(ENUMERATIONS, parent, field)?;
    OPEN.iter().find(|(open, _)| *open == name).map(|(_, values)| *values)
}

pub(super) fn is_plain(parent: &str, field: &str) -> bool {
    PLAIN.contains(&(parent, field))
}

fn by_rule(parent: &str, field: &str) -> String {
    let stem = parent.strip_suffix("Spec").unwrap_or(parent);
    let mut letters = singular(field).to_owned();
    if let Some(first) = letters.get_mut(0..1) {
        first.make_ascii_uppercase();
    }
    // `HTTPRouteRule.matches` is an `HTTPRouteMatch`: a rule's part is called after its route.
    let stem = stem.strip_suffix("Rule").unwrap_or(stem);
    format!("{stem}{letters}")
}

fn singular(field: &str) -> &str {
    for (plural, cut) in [("sses", 2), ("ches", 2), ("ss", 0), ("us", 0), ("s", 1)] {
        if field.ends_with(plural) {
            return &field[..field.len() - cut];
        }
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_table_names_is_called_after_its_parent() {
        assert_eq!(of_object("HTTPRoute", "spec"), "HTTPRouteSpec");
        assert_eq!(of_object("HTTPRouteSpec", "rules"), "HTTPRouteRule");
        assert_eq!(of_object("HTTPRouteRule", "matches"), "HTTPRouteMatch");
        assert_eq!(of_object("HTTPRouteRule", "circuits"), "HTTPRouteCircuit");
        assert_eq!(of_enumeration("HTTPRouteFilter", "type"), "HTTPRouteFilterType");
        assert_eq!(of_object("GatewaySpec", "tls"), "GatewayTLSConfig");
        assert_eq!(of_object("Gateway", "status"), "GatewayStatus");
    }
}

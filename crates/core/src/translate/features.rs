//! The features of Gateway API v1.6 that Weir has, by the names of the official conformance suite.
//!
//! Owns the one table of them: what the status of a GatewayClass claims, and what tests go by.

use self::Channel::{Experimental, Standard};
use crate::objects::Kind;

/// Which CRDs a feature's fields are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Standard,
    Experimental,
}

/// Every feature with the kind and the channel that it needs, sorted by name.
pub const FEATURES: [(&str, Kind, Channel); 48] = [
    ("BackendTLSPolicy", Kind::BackendTlsPolicy, Standard),
    ("BackendTLSPolicySANValidation", Kind::BackendTlsPolicy, Standard),
    ("GRPCRoute", Kind::GrpcRoute, Standard),
    ("GRPCRouteNamedRouteRule", Kind::GrpcRoute, Standard),
    ("Gateway", Kind::Gateway, Standard),
    ("GatewayAddressEmpty", Kind::Gateway, Standard),
    ("GatewayBackendClientCertificate", Kind::Gateway, Standard),
    ("GatewayFrontendClientCertificateValidation", Kind::Gateway, Standard),
    ("GatewayFrontendClientCertificateValidationInsecureFallback", Kind::Gateway, Standard),
    ("GatewayHTTPListenerIsolation", Kind::Gateway, Standard),
    ("GatewayHTTPSListenerDetectMisdirectedRequests", Kind::Gateway, Standard),
    ("GatewayInfrastructurePropagation", Kind::Gateway, Standard),
    ("GatewayPort8080", Kind::Gateway, Standard),
    ("GatewayStaticAddresses", Kind::Gateway, Standard),
    ("HTTPRoute", Kind::HttpRoute, Standard),
    ("HTTPRoute303RedirectStatusCode", Kind::HttpRoute, Standard),
    ("HTTPRoute307RedirectStatusCode", Kind::HttpRoute, Standard),
    ("HTTPRoute308RedirectStatusCode", Kind::HttpRoute, Standard),
    ("HTTPRouteBackendProtocolH2C", Kind::HttpRoute, Standard),
    ("HTTPRouteBackendProtocolWebSocket", Kind::HttpRoute, Standard),
    ("HTTPRouteBackendRequestHeaderModification", Kind::HttpRoute, Standard),
    ("HTTPRouteBackendTimeout", Kind::HttpRoute, Standard),
    ("HTTPRouteCORS", Kind::HttpRoute, Standard),
    ("HTTPRouteDestinationPortMatching", Kind::HttpRoute, Experimental),
    ("HTTPRouteHostRewrite", Kind::HttpRoute, Standard),
    ("HTTPRouteMethodMatching", Kind::HttpRoute, Standard),
    ("HTTPRouteNamedRouteRule", Kind::HttpRoute, Standard),
    ("HTTPRouteParentRefPort", Kind::HttpRoute, Standard),
    ("HTTPRoutePathRedirect", Kind::HttpRoute, Standard),
    ("HTTPRoutePathRewrite", Kind::HttpRoute, Standard),
    ("HTTPRoutePortRedirect", Kind::HttpRoute, Standard),
    ("HTTPRouteQueryParamMatching", Kind::HttpRoute, Standard),
    ("HTTPRouteRequestMirror", Kind::HttpRoute, Standard),
    ("HTTPRouteRequestMultipleMirrors", Kind::HttpRoute, Standard),
    ("HTTPRouteRequestPercentageMirror", Kind::HttpRoute, Standard),
    ("HTTPRouteRequestTimeout", Kind::HttpRoute, Standard),
    ("HTTPRouteResponseHeaderModification", Kind::HttpRoute, Standard),
    ("HTTPRouteRetry", Kind::HttpRoute, Experimental),
    ("HTTPRouteRetryBackendTimeout", Kind::HttpRoute, Experimental),
    ("HTTPRouteRetryConnectionError", Kind::HttpRoute, Experimental),
    ("HTTPRouteSchemeRedirect", Kind::HttpRoute, Standard),
    ("ListenerSet", Kind::ListenerSet, Standard),
    ("ReferenceGrant", Kind::ReferenceGrant, Standard),
    ("TCPRoute", Kind::TcpRoute, Standard),
    ("TLSRoute", Kind::TlsRoute, Standard),
    ("TLSRouteModeMixed", Kind::TlsRoute, Experimental),
    ("TLSRouteModeTerminate", Kind::TlsRoute, Standard),
    ("UDPRoute", Kind::UdpRoute, Standard),
];

/// The features that can be used with the kinds that are served. A server of the experimental channel is known by the kinds
/// that only that channel has; one that is older than ListenerSet, whose status may have no place for features or another
/// shape of them, is told none.
pub fn supported_features(served: impl Fn(Kind) -> bool) -> Vec<String> {
    if !served(Kind::ListenerSet) {
        return Vec::new();
    }
    let experimental = served(Kind::BackendTrafficPolicy);
    FEATURES
        .iter()
        .filter(|(_, kind, channel)| served(*kind) && (*channel == Standard || experimental))
        .map(|(name, ..)| (*name).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_follow_what_is_served() {
        assert!(FEATURES.is_sorted_by(|a, b| a.0 < b.0));
        let all = supported_features(|_| true);
        assert_eq!(all.len(), FEATURES.len());
        let standard = supported_features(|kind| kind != Kind::BackendTrafficPolicy);
        assert_eq!(standard.len(), FEATURES.len() - 5);
        let without_udp = supported_features(|kind| kind != Kind::UdpRoute);
        assert_eq!(without_udp.len(), FEATURES.len() - 1);
        let old = [Kind::GatewayClass, Kind::Gateway, Kind::HttpRoute, Kind::ReferenceGrant];
        assert!(supported_features(|kind| old.contains(&kind)).is_empty());
    }
}

//! Kong's annotations that mean nothing here: named, so that nobody relies on one.
//!
//! Deliberately absent: those that mean something (whoever obeys one passes it over), and objects that nothing of ours uses.

use weir_api::kong::{ANNOTATION_PREFIX, PUBLISH_SERVICE_ANNOTATION};
use weir_api::meta::ObjectMeta;

use super::finding::Finding;

/// What stands here for an annotation of a Service.
const INSTEAD: &[(&str, &str)] = &[
    ("connect-timeout", "a BackendPolicy has timeouts.connect"),
    ("read-timeout", "a BackendPolicy has timeouts.read and timeouts.response"),
    ("write-timeout", "a BackendPolicy has timeouts.write"),
    ("retries", "a BackendPolicy has retries.attempts"),
    ("protocol", "appProtocol of the port and a BackendTLSPolicy say it"),
    ("tls-verify", "a BackendTLSPolicy says it"),
    ("ca-certificates-secrets", "a BackendTLSPolicy says it"),
    ("ca-certificates-configmaps", "a BackendTLSPolicy says it"),
    ("client-cert", "spec.tls.backend of the Gateway says it"),
    ("host-header", "the filter URLRewrite has hostname"),
    ("path", "the filter URLRewrite has path"),
];

/// Those of a Gateway; the one that controllers write themselves is nobody's mistake.
pub(super) fn of_gateway(metadata: &ObjectMeta) -> impl Iterator<Item = Finding> {
    of_route(metadata).filter(|finding| !finding.field.contains(PUBLISH_SERVICE_ANNOTATION))
}

/// Those of a route that has none with a meaning.
pub(super) fn of_route(metadata: &ObjectMeta) -> impl Iterator<Item = Finding> {
    let kongs = metadata.annotations.keys().filter(|name| name.starts_with(ANNOTATION_PREFIX));
    kongs.map(|name| without_effect(name))
}

/// Those of a Service that requests go to, each with what there is in its place.
pub(super) fn of_backend(metadata: &ObjectMeta) -> Vec<Finding> {
    let of = |mut finding: Finding| {
        let instead = INSTEAD.iter().find(|(end, _)| finding.field.ends_with(&format!("/{end}]")));
        if let Some((_, instead)) = instead {
            finding.message = format!("{}; {instead}", finding.message);
        }
        finding
    };
    of_route(metadata).map(of).collect()
}

/// What there is to say about one of them.
pub(super) fn without_effect(name: &str) -> Finding {
    let message = format!("annotation {name} is not supported and has no effect");
    Finding::warning(format!("metadata.annotations[{name}]"), "NotSupported", message)
}

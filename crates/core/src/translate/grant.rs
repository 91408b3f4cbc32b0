//! ReferenceGrants: whether a route may refer to a Service of another namespace.

use weir_api::gateway::GROUP;

use super::reading::{Reading, Unknown};
use crate::objects::{ObjectKey, Presence};

/// Whether HTTPRoutes of `from` may refer to the Service. `Presence::Present` is yes; Unknown: a grant may still come.
pub(super) fn http_route_to_service(from: &str, service: &ObjectKey, reading: &mut Reading<'_>) -> Presence {
    let all = ObjectKey::grants_of(service.namespace.clone());
    reading.note_read(&all);
    let permitted = reading.objects.grants(&service.namespace).any(|grant| {
        let from_matches =
            grant.spec.from.iter().any(|f| f.group == GROUP && f.kind == "HTTPRoute" && f.namespace == from);
        let to_matches = grant.spec.to.iter().any(|t| {
            t.group.is_empty()
                && t.kind == "Service"
                && t.name.as_deref().is_none_or(|name| name.is_empty() || name == service.name)
        });
        from_matches && to_matches
    });
    if permitted { Presence::Present } else { reading.absence(&all, Unknown::Holds) }
}

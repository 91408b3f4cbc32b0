//! Rules of a GRPCRoute: what HTTPRoute has, with methods in the place of paths.

use weir_api::condition::reasons;
use weir_api::gateway_api::{
    GrpcBackendRef, GrpcMethodMatch, GrpcMethodMatchType, GrpcRoute, GrpcRouteFilter, GrpcRouteMatch,
    GrpcRouteRule, HttpBackendRef, HttpRouteFilter, HttpRouteFilterType,
};
use weir_model::resource::{HttpMatch, PathKind};

use super::matching::{self, unsupported};
use super::rule::{self, RuleContext, RuleOutcome, RuleSpec};
use crate::objects::{Kind, ObjectKey};
use crate::translate::finding::Finding;
use crate::translate::reading::Reading;

/// A service's or method's name that a regular expression leaves open.
const ANY_SEGMENT: &str = "[^/]+";

pub(super) fn rules(key: &ObjectKey, route: &GrpcRoute, reading: &mut Reading<'_>) -> Vec<RuleOutcome> {
    let context = RuleContext { kind: Kind::GrpcRoute, namespace: &key.namespace, strip_path: false };
    let default = [GrpcRouteRule::default()];
    let rules = if route.spec.rules.is_empty() { &default } else { route.spec.rules.as_slice() };
    let translate = |(index, rule): (usize, &GrpcRouteRule)| {
        let filters: Vec<HttpRouteFilter> = rule.filters.iter().map(as_http).collect();
        let backend_refs: Vec<HttpBackendRef> = rule.backend_refs.iter().map(backend_as_http).collect();
        let spec = RuleSpec {
            name: rule.name.as_deref(),
            matches: matches(&rule.matches, &format!("spec.rules[{index}].matches")),
            filters: &filters,
            backend_refs: &backend_refs,
            timeouts: None,
            retry: None,
            session_persistence: rule.session_persistence.as_deref(),
        };
        rule::translate(spec, index, &context, reading)
    };
    rules.iter().enumerate().map(translate).collect()
}

/// The filter of an HTTPRoute that says the same; which types a GRPCRoute can have is judged with all others.
fn as_http(filter: &GrpcRouteFilter) -> HttpRouteFilter {
    HttpRouteFilter {
        type_: HttpRouteFilterType::from(filter.type_.as_str()),
        request_header_modifier: filter.request_header_modifier.clone(),
        response_header_modifier: filter.response_header_modifier.clone(),
        request_mirror: filter.request_mirror.clone(),
        extension_ref: filter.extension_ref.clone(),
        ..HttpRouteFilter::default()
    }
}

fn backend_as_http(reference: &GrpcBackendRef) -> HttpBackendRef {
    let GrpcBackendRef { filters, group, kind, name, namespace, port, weight } = reference.clone();
    let filters = filters.iter().map(as_http).collect();
    HttpBackendRef { filters, group, kind, name, namespace, port, weight }
}

fn matches(matches: &[GrpcRouteMatch], field: &str) -> (Vec<HttpMatch>, Vec<Finding>) {
    matching::usable(matches, field, |one, field| {
        let alone = match &one.method {
            None => HttpMatch { path: "/".to_owned(), ..HttpMatch::default() },
            Some(method) => method_match(method, &format!("{field}.method"))?,
        };
        let headers = matching::headers(&one.headers, &format!("{field}.headers"))?;
        Ok(HttpMatch { headers, ..alone })
    })
}

fn method_match(method: &GrpcMethodMatch, field: &str) -> Result<HttpMatch, Finding> {
    let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    let (service, name) = (given(&method.service), given(&method.method));
    let kind = match &method.type_ {
        GrpcMethodMatchType::Exact => {
            for (at, part) in [("service", &service), ("method", &name)] {
                if part.as_ref().is_some_and(|part| !is_name(part)) {
                    let message = format!("{:?} is not a gRPC {at}", part.as_deref().unwrap_or_default());
                    return Err(unsupported(&format!("{field}.{at}"), message));
                }
            }
            match (service, name) {
                (Some(service), Some(name)) => (PathKind::Exact, format!("/{service}/{name}")),
                (Some(service), None) => (PathKind::Prefix, format!("/{service}")),
                (None, Some(name)) => (PathKind::GrpcMethod, name),
                (None, None) => (PathKind::Prefix, "/".to_owned()),
            }
        }
        GrpcMethodMatchType::RegularExpression => {
            let part =
                |part: Option<String>| part.map_or(ANY_SEGMENT.to_owned(), |part| format!("(?:{part})"));
            (PathKind::RegularExpression, format!("/{}/{}", part(service), part(name)))
        }
        GrpcMethodMatchType::Unknown(other) => {
            let message = format!("type {other:?} is not supported");
            return Err(Finding::error(format!("{field}.type"), reasons::UNSUPPORTED_VALUE, message));
        }
    };
    let (path_kind, path) = kind;
    let one = HttpMatch { path_kind: path_kind.into(), path, ..HttpMatch::default() };
    matching::check(&one, field, &one.path)?;
    Ok(one)
}

/// A protobuf name, with dots between its parts.
fn is_name(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

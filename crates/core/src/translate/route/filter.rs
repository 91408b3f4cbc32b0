//! Filters of rules and of backend references.

use std::collections::BTreeSet;

use weir_api::condition::reasons;
use weir_api::gateway_api::{
    HttpCorsFilter as ApiCors, HttpHeader, HttpHeaderFilter, HttpPathModifier as ApiPathModifier,
    HttpPathModifierType as PathModifierType, HttpRequestRedirectFilter as ApiRedirect, HttpRouteFilter,
    HttpRouteFilterType as FilterType, HttpUrlRewriteFilter as ApiRewrite,
};
use weir_model::filter::check_filter;
use weir_model::resource::{
    Cors, Filter, FilterKind, HeaderModifier, HeaderValue, HttpMatch, PathKind, PathModifier,
    RequestRedirect, UrlRewrite,
};

use super::external;
use super::matching::{is_token, unsupported};
use super::rule::RuleContext;
use crate::objects::{Kind, ObjectKey};
use crate::translate::backend::PortUse;
use crate::translate::finding::Finding;
use crate::translate::hostname;
use crate::translate::reading::Reading;

/// Status codes that a redirect may have.
const REDIRECT_STATUSES: [u32; 5] = [301, 302, 303, 307, 308];

/// Where a filter stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Rule,
    Backend,
}

/// The filters of a rule or of a reference.
#[derive(Default)]
pub(super) struct Filters {
    pub(super) filters: Vec<Filter>,
    /// What cannot be had: a filter is never skipped.
    pub(super) faults: Vec<Finding>,
    /// References that lead nowhere.
    pub(super) unresolved: Vec<Finding>,
    /// Service ports that filters use.
    pub(super) used: BTreeSet<(ObjectKey, PortUse)>,
}

pub(super) fn translate(
    filters: &[HttpRouteFilter],
    level: Level,
    matches: &[HttpMatch],
    field: &str,
    context: &RuleContext<'_>,
    reading: &mut Reading<'_>,
) -> Filters {
    let mut out = Filters::default();
    for (index, filter) in filters.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let before = &filters[..index];
        let translated = compatible(filter, before, &field)
            .and_then(|()| translate_one(filter, level, matches, &field, context, reading, &mut out));
        match translated.map(|kind| kind.map(|kind| Filter { kind: Some(kind) })) {
            Ok(None) => {}
            Ok(Some(filter)) => match check_filter(&filter) {
                Ok(()) => out.filters.push(filter),
                Err(why) => out.faults.push(unsupported(&field, why)),
            },
            Err(fault) => out.faults.push(fault),
        }
    }
    out
}

/// No filter twice, and no rewrite beside a redirect.
fn compatible(filter: &HttpRouteFilter, before: &[HttpRouteFilter], field: &str) -> Result<(), Finding> {
    let has = |type_: &FilterType| before.iter().any(|other| other.type_ == *type_);
    let rival = match filter.type_ {
        FilterType::RequestRedirect => FilterType::UrlRewrite,
        FilterType::UrlRewrite => FilterType::RequestRedirect,
        _ => FilterType::default(),
    };
    if rival != FilterType::default() && has(&rival) {
        let message = format!("a {} filter cannot stand beside a {rival} filter", filter.type_);
        return Err(Finding::error(field, reasons::INCOMPATIBLE_FILTERS, message));
    }
    let repeatable =
        matches!(filter.type_, FilterType::RequestMirror | FilterType::ExtensionRef | FilterType::Unknown(_));
    if !repeatable && has(&filter.type_) {
        let message = format!("a {} filter cannot be repeated", filter.type_);
        return Err(Finding::error(field, reasons::INCOMPATIBLE_FILTERS, message));
    }
    Ok(())
}

/// Whether routes of a kind can have a filter of this type.
fn allowed(type_: &FilterType, kind: Kind, field: &str) -> Result<(), Finding> {
    let in_grpc = matches!(
        type_,
        FilterType::RequestHeaderModifier
            | FilterType::ResponseHeaderModifier
            | FilterType::RequestMirror
            | FilterType::ExtensionRef
    );
    if kind == Kind::GrpcRoute && !in_grpc {
        let message = format!("filter {type_} is not supported in a GRPCRoute");
        return Err(unsupported(&format!("{field}.type"), message));
    }
    Ok(())
}

/// `None`: the filter has no effect.
fn translate_one(
    filter: &HttpRouteFilter,
    level: Level,
    matches: &[HttpMatch],
    field: &str,
    context: &RuleContext<'_>,
    reading: &mut Reading<'_>,
    out: &mut Filters,
) -> Result<Option<FilterKind>, Finding> {
    let type_ = &filter.type_;
    let missing = |name: &str| unsupported(field, format!("filter {type_} has no {name}"));
    allowed(type_, context.kind, field)?;
    let kind = match type_ {
        FilterType::RequestHeaderModifier => {
            let modifier =
                filter.request_header_modifier.as_ref().ok_or_else(|| missing("requestHeaderModifier"))?;
            FilterKind::RequestHeaderModifier(headers(modifier, &format!("{field}.requestHeaderModifier"))?)
        }
        FilterType::ResponseHeaderModifier => {
            let modifier =
                filter.response_header_modifier.as_ref().ok_or_else(|| missing("responseHeaderModifier"))?;
            FilterKind::ResponseHeaderModifier(headers(modifier, &format!("{field}.responseHeaderModifier"))?)
        }
        FilterType::RequestRedirect => {
            let redirect = filter.request_redirect.as_ref().ok_or_else(|| missing("requestRedirect"))?;
            let field = format!("{field}.requestRedirect");
            FilterKind::RequestRedirect(self::redirect(redirect, matches, &field)?)
        }
        FilterType::UrlRewrite => {
            let rewrite = filter.url_rewrite.as_ref().ok_or_else(|| missing("urlRewrite"))?;
            FilterKind::UrlRewrite(self::rewrite(rewrite, matches, &format!("{field}.urlRewrite"))?)
        }
        FilterType::RequestMirror => {
            let mirror = filter.request_mirror.as_ref().ok_or_else(|| missing("requestMirror"))?;
            return external::mirror(mirror, &format!("{field}.requestMirror"), context, reading, out);
        }
        FilterType::Cors => {
            let cors = filter.cors.as_ref().ok_or_else(|| missing("cors"))?;
            FilterKind::Cors(self::cors(cors, &format!("{field}.cors"))?)
        }
        FilterType::ExternalAuth => {
            let auth = filter.external_auth.as_ref().ok_or_else(|| missing("externalAuth"))?;
            return external::auth(auth, &format!("{field}.externalAuth"), context, reading, out).map(Some);
        }
        FilterType::ExtensionRef => {
            let named = filter.extension_ref.as_ref().ok_or_else(|| missing("extensionRef"))?;
            let message =
                format!("kind {:?} in group {:?} is no filter that Weir has", named.kind, named.group);
            let at = format!("{field}.extensionRef");
            out.unresolved.push(Finding::error(at, reasons::INVALID_KIND, message));
            FilterKind::Invalid(reasons::INVALID_KIND.to_owned())
        }
        FilterType::Unknown(_) => {
            let place = if level == Level::Backend { " on a backendRef" } else { "" };
            let message = format!("filter {type_} is not supported{place}");
            return Err(unsupported(&format!("{field}.type"), message));
        }
    };
    Ok(Some(kind))
}

fn cors(cors: &ApiCors, field: &str) -> Result<Cors, Finding> {
    for (list, names) in [("allowHeaders", &cors.allow_headers), ("exposeHeaders", &cors.expose_headers)] {
        for (index, name) in names.iter().enumerate() {
            if name != "*" {
                check_name(name, &format!("{field}.{list}[{index}]"))?;
            }
        }
    }
    for (index, method) in cors.allow_methods.iter().enumerate() {
        let name = method.as_str();
        if name != "*" && !is_token(name) {
            let message = format!("{name:?} is not an HTTP method");
            return Err(unsupported(&format!("{field}.allowMethods[{index}]"), message));
        }
    }
    for (index, origin) in cors.allow_origins.iter().enumerate() {
        if origin != "*" && !origin.contains("://") {
            let message = format!("{origin:?} is not an origin such as https://example.com");
            return Err(unsupported(&format!("{field}.allowOrigins[{index}]"), message));
        }
    }
    let max_age_seconds = u32::try_from(cors.max_age)
        .map_err(|_| unsupported(&format!("{field}.maxAge"), "maxAge is negative".to_owned()))?;
    Ok(Cors {
        allow_origins: cors.allow_origins.clone(),
        allow_methods: cors.allow_methods.iter().map(ToString::to_string).collect(),
        allow_headers: cors.allow_headers.clone(),
        expose_headers: cors.expose_headers.clone(),
        allow_credentials: cors.allow_credentials.unwrap_or(false),
        max_age_seconds,
    })
}

fn headers(modifier: &HttpHeaderFilter, field: &str) -> Result<HeaderModifier, Finding> {
    let values = |entries: &[HttpHeader], list: &str| -> Result<Vec<HeaderValue>, Finding> {
        let mut values = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let field = format!("{field}.{list}[{index}]");
            check_name(&entry.name, &format!("{field}.name"))?;
            if entry.value.bytes().any(|b| b < b' ' && b != b'\t' || b == 0x7f) {
                let message = format!("the value of header {} has a control character", entry.name);
                return Err(unsupported(&format!("{field}.value"), message));
            }
            values.push(HeaderValue { name: entry.name.clone(), value: entry.value.clone() });
        }
        Ok(values)
    };
    for (index, name) in modifier.remove.iter().enumerate() {
        check_name(name, &format!("{field}.remove[{index}]"))?;
    }
    Ok(HeaderModifier {
        set: values(&modifier.set, "set")?,
        add: values(&modifier.add, "add")?,
        remove: modifier.remove.clone(),
    })
}

pub(super) fn check_name(name: &str, field: &str) -> Result<(), Finding> {
    if is_token(name) { Ok(()) } else { Err(unsupported(field, format!("{name:?} is not a header name"))) }
}

fn redirect(redirect: &ApiRedirect, matches: &[HttpMatch], field: &str) -> Result<RequestRedirect, Finding> {
    let scheme = redirect.scheme.clone().unwrap_or_default();
    if !matches!(scheme.as_str(), "" | "http" | "https") {
        return Err(unsupported(&format!("{field}.scheme"), format!("scheme {scheme:?} is not supported")));
    }
    let status = u32::try_from(redirect.status_code).ok().filter(|code| REDIRECT_STATUSES.contains(code));
    let Some(status) = status else {
        let message = format!("status code {} is not supported", redirect.status_code);
        return Err(unsupported(&format!("{field}.statusCode"), message));
    };
    let port = match redirect.port {
        None => 0,
        Some(port) => u32::try_from(port)
            .ok()
            .filter(|port| (1..=65_535).contains(port))
            .ok_or_else(|| unsupported(&format!("{field}.port"), format!("{port} is not a port number")))?,
    };
    Ok(RequestRedirect {
        scheme,
        hostname: self::hostname(redirect.hostname.as_deref(), field)?,
        path: path(redirect.path.as_deref(), matches, &format!("{field}.path"))?,
        port,
        status,
    })
}

fn rewrite(rewrite: &ApiRewrite, matches: &[HttpMatch], field: &str) -> Result<UrlRewrite, Finding> {
    Ok(UrlRewrite {
        hostname: hostname(rewrite.hostname.as_deref(), field)?,
        path: path(rewrite.path.as_deref(), matches, &format!("{field}.path"))?,
    })
}

/// A host to send somebody to: a name, not a wildcard.
fn hostname(name: Option<&str>, field: &str) -> Result<String, Finding> {
    let name = name.unwrap_or_default();
    match hostname::normal(name) {
        Ok(normal) if !normal.starts_with('*') => Ok(normal),
        Ok(_) => Err(unsupported(&format!("{field}.hostname"), format!("{name:?} is a wildcard"))),
        Err(why) => Err(unsupported(&format!("{field}.hostname"), format!("{name:?} cannot be used: {why}"))),
    }
}

fn path(
    modifier: Option<&ApiPathModifier>,
    matches: &[HttpMatch],
    field: &str,
) -> Result<Option<PathModifier>, Finding> {
    let Some(modifier) = modifier else {
        return Ok(None);
    };
    let (prefix, value) = match &modifier.type_ {
        PathModifierType::ReplaceFullPath => (false, &modifier.replace_full_path),
        PathModifierType::ReplacePrefixMatch => {
            if matches.iter().any(|one| one.path_kind() != PathKind::Prefix) {
                let message =
                    "ReplacePrefixMatch needs every match of the rule to be a PathPrefix".to_owned();
                return Err(unsupported(field, message));
            }
            (true, &modifier.replace_prefix_match)
        }
        PathModifierType::Unknown(_) => {
            let message = format!("type {:?} is not supported", modifier.type_.as_str());
            return Err(unsupported(&format!("{field}.type"), message));
        }
    };
    let value = value.clone().unwrap_or_default();
    if value.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return Err(unsupported(field, format!("path {value:?} has a blank or a control character")));
    }
    Ok(Some(PathModifier { prefix, value }))
}

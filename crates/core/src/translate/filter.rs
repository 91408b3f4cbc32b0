//! Filters of rules and of backend references.

use weir_api::condition::reasons;
use weir_api::route::{
    FilterType, HttpHeader, HttpRouteFilter, PathModifier as ApiPathModifier, PathModifierType,
    RequestRedirect as ApiRedirect, UrlRewrite as ApiRewrite,
};
use weir_model::filter::check_filter;
use weir_model::resource::{
    Filter, FilterKind, HeaderModifier, HeaderValue, HttpMatch, PathKind, PathModifier, RequestRedirect,
    UrlRewrite,
};

use super::finding::Finding;
use super::hostname;
use super::matching::is_token;

/// Status codes that a redirect may have.
const REDIRECT_STATUSES: [u32; 5] = [301, 302, 303, 307, 308];

/// Where a filter stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Rule,
    Backend,
}

/// All filters of a rule or of a reference, or what is wrong with them: a filter is never skipped.
pub(super) fn translate(
    filters: &[HttpRouteFilter],
    level: Level,
    matches: &[HttpMatch],
    field: &str,
) -> (Vec<Filter>, Vec<Finding>) {
    let mut translated = Vec::with_capacity(filters.len());
    let mut faults = Vec::new();
    for (index, filter) in filters.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let before = &filters[..index];
        match compatible(filter, before, &field).and_then(|()| translate_one(filter, level, matches, &field))
        {
            Ok(kind) => {
                let filter = Filter { kind: Some(kind) };
                match check_filter(&filter) {
                    Ok(()) => translated.push(filter),
                    Err(why) => faults.push(unsupported(&field, why)),
                }
            }
            Err(fault) => faults.push(fault),
        }
    }
    (translated, faults)
}

/// No filter twice, and no rewrite beside a redirect.
fn compatible(filter: &HttpRouteFilter, before: &[HttpRouteFilter], field: &str) -> Result<(), Finding> {
    let has = |type_: &FilterType| before.iter().any(|other| other.type_ == *type_);
    let rival = match filter.type_ {
        FilterType::RequestRedirect => FilterType::UrlRewrite,
        FilterType::UrlRewrite => FilterType::RequestRedirect,
        _ => FilterType::Absent,
    };
    if rival != FilterType::Absent && has(&rival) {
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

fn translate_one(
    filter: &HttpRouteFilter,
    level: Level,
    matches: &[HttpMatch],
    field: &str,
) -> Result<FilterKind, Finding> {
    let missing = |name: &str| unsupported(field, format!("filter {} has no {name}", filter.type_));
    match (&filter.type_, level) {
        (FilterType::RequestHeaderModifier, _) => {
            let modifier =
                filter.request_header_modifier.as_ref().ok_or_else(|| missing("requestHeaderModifier"))?;
            Ok(FilterKind::RequestHeaderModifier(headers(
                modifier,
                &format!("{field}.requestHeaderModifier"),
            )?))
        }
        (FilterType::ResponseHeaderModifier, _) => {
            let modifier =
                filter.response_header_modifier.as_ref().ok_or_else(|| missing("responseHeaderModifier"))?;
            Ok(FilterKind::ResponseHeaderModifier(headers(
                modifier,
                &format!("{field}.responseHeaderModifier"),
            )?))
        }
        (FilterType::RequestRedirect, Level::Rule) => {
            let redirect = filter.request_redirect.as_ref().ok_or_else(|| missing("requestRedirect"))?;
            Ok(FilterKind::RequestRedirect(self::redirect(
                redirect,
                matches,
                &format!("{field}.requestRedirect"),
            )?))
        }
        (FilterType::UrlRewrite, Level::Rule) => {
            let rewrite = filter.url_rewrite.as_ref().ok_or_else(|| missing("urlRewrite"))?;
            Ok(FilterKind::UrlRewrite(self::rewrite(rewrite, matches, &format!("{field}.urlRewrite"))?))
        }
        (type_, Level::Backend) => Err(unsupported(
            &format!("{field}.type"),
            format!("filter {type_} is not supported on a backendRef"),
        )),
        (type_, Level::Rule) => {
            Err(unsupported(&format!("{field}.type"), format!("filter {type_} is not supported")))
        }
    }
}

fn headers(modifier: &weir_api::route::HeaderModifier, field: &str) -> Result<HeaderModifier, Finding> {
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

fn check_name(name: &str, field: &str) -> Result<(), Finding> {
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
        path: path(redirect.path.as_ref(), matches, &format!("{field}.path"))?,
        port,
        status,
    })
}

fn rewrite(rewrite: &ApiRewrite, matches: &[HttpMatch], field: &str) -> Result<UrlRewrite, Finding> {
    Ok(UrlRewrite {
        hostname: hostname(rewrite.hostname.as_deref(), field)?,
        path: path(rewrite.path.as_ref(), matches, &format!("{field}.path"))?,
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
        PathModifierType::Absent | PathModifierType::Unknown(_) => {
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

fn unsupported(field: &str, message: String) -> Finding {
    Finding::error(field, reasons::UNSUPPORTED_VALUE, message)
}

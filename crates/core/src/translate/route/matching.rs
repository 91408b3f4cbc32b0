//! Matches of a rule: those of an HTTPRoute, and what a GRPCRoute's have in common with them.

use weir_api::condition::reasons;
use weir_api::gateway_api::{HeaderMatchType, HttpHeaderMatch, HttpPathMatch, HttpRouteMatch, PathMatchType};
use weir_model::resource::{HttpMatch, PathKind, ValueMatch};
use weir_model::table::compile_match;

use crate::translate::finding::Finding;

/// The usable matches of an HTTPRoute's rule, and what is wrong with the others.
pub(super) fn http(matches: &[HttpRouteMatch], field: &str) -> (Vec<HttpMatch>, Vec<Finding>) {
    usable(matches, field, translate_one)
}

/// Each match by `translate`; what is wrong with those that have no translation. None at all stands for the API's
/// default, which is that of the type.
pub(super) fn usable<T: Default>(
    matches: &[T],
    field: &str,
    translate: impl Fn(&T, &str) -> Result<HttpMatch, Finding>,
) -> (Vec<HttpMatch>, Vec<Finding>) {
    let mut faults = Vec::new();
    let default = [T::default()];
    let matches = if matches.is_empty() { &default } else { matches };
    let usable = matches
        .iter()
        .enumerate()
        .filter_map(|(index, one)| match translate(one, &format!("{field}[{index}]")) {
            Ok(translated) => Some(translated),
            Err(fault) => {
                faults.push(fault);
                None
            }
        })
        .collect();
    (usable, faults)
}

fn translate_one(one: &HttpRouteMatch, field: &str) -> Result<HttpMatch, Finding> {
    let path = &one.path;
    let path_kind = path_kind(path, &format!("{field}.path"))?;
    let alone = HttpMatch { path_kind: path_kind.into(), path: path.value.clone(), ..HttpMatch::default() };
    check(&alone, &format!("{field}.path.value"), &path.value)?;
    let method = one.method.as_ref().map(ToString::to_string).unwrap_or_default();
    if !method.is_empty() && !is_token(&method) {
        return Err(unsupported(&format!("{field}.method"), format!("{method:?} is not an HTTP method")));
    }
    let headers = headers(&one.headers, &format!("{field}.headers"))?;
    let in_query = |value| HttpMatch { query: vec![value], ..HttpMatch::default() };
    let query = values(&one.query_params, &format!("{field}.queryParams"), in_query, |name| {
        (!name.is_empty()).then(|| name.to_owned()).ok_or("is not a parameter name")
    })?;
    Ok(HttpMatch { method, headers, query, ..alone })
}

fn path_kind(path: &HttpPathMatch, field: &str) -> Result<PathKind, Finding> {
    let value = &path.value;
    let kind = match &path.type_ {
        PathMatchType::Exact => PathKind::Exact,
        PathMatchType::PathPrefix => PathKind::Prefix,
        PathMatchType::RegularExpression => return Ok(PathKind::RegularExpression),
        PathMatchType::Unknown(other) => {
            return Err(unsupported(&format!("{field}.type"), format!("type {other:?} is not supported")));
        }
    };
    if value.starts_with('/') {
        Ok(kind)
    } else {
        Err(unsupported(&format!("{field}.value"), format!("path {value:?} does not begin with a slash")))
    }
}

/// Header matches.
pub(super) fn headers(entries: &[HttpHeaderMatch], field: &str) -> Result<Vec<ValueMatch>, Finding> {
    let in_header = |value| HttpMatch { headers: vec![value], ..HttpMatch::default() };
    values(entries, field, in_header, |name| {
        is_token(name).then(|| name.to_ascii_lowercase()).ok_or("is not a header name")
    })
}

/// Of entries with one name only the first counts, as the API says.
fn values(
    entries: &[HttpHeaderMatch],
    field: &str,
    alone: impl Fn(ValueMatch) -> HttpMatch,
    name_of: impl Fn(&str) -> Result<String, &'static str>,
) -> Result<Vec<ValueMatch>, Finding> {
    let mut values: Vec<ValueMatch> = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let name = name_of(&entry.name)
            .map_err(|why| unsupported(&format!("{field}.name"), format!("{:?} {why}", entry.name)))?;
        let regex = match &entry.type_ {
            HeaderMatchType::Exact => false,
            HeaderMatchType::RegularExpression => true,
            HeaderMatchType::Unknown(other) => {
                return Err(unsupported(
                    &format!("{field}.type"),
                    format!("type {other:?} is not supported"),
                ));
            }
        };
        if values.iter().all(|value| value.name != name) {
            let value = ValueMatch { name, value: entry.value.clone(), regex };
            check(&alone(value.clone()), &format!("{field}.value"), &entry.value)?;
            values.push(value);
        }
    }
    Ok(values)
}

/// Whether the data plane can compile `part`, a match that has nothing but `value` in it.
pub(super) fn check(part: &HttpMatch, field: &str, value: &str) -> Result<(), Finding> {
    compile_match(part).map(drop).map_err(|error| {
        // What a regular expression's error says comes last, after a drawing of the place.
        let why = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
        unsupported(field, format!("{value:?} cannot be used: {why}"))
    })
}

/// An HTTP token. RFC 9110, section 5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

pub(super) fn unsupported(field: &str, message: String) -> Finding {
    Finding::error(field, reasons::UNSUPPORTED_VALUE, message)
}

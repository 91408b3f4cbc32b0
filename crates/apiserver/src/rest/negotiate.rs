//! What form a client wants its answer in.
//!
//! Owns: the `Accept` header. Protobuf is never offered, so clients that prefer it fall back to their second
//! choice, JSON.

use http::{HeaderMap, header};

use crate::error::{ApiError, ApiResult};

/// The media types that answers can have, for 406.
const OFFERED: &[&str] = &["application/json", "application/yaml"];

/// How the answer is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
}

/// What the answer shows of the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Whole,
    /// `as=Table`; the version is `v1` or `v1beta1`.
    Table(&'static str),
    /// `as=PartialObjectMetadata` or its list.
    Metadata(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accept {
    pub(crate) encoding: Encoding,
    pub(crate) view: View,
}

/// One media range of the header: its type and its parameters, lower-case keys.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MediaRange<'a> {
    pub(crate) media_type: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> MediaRange<'a> {
    pub(crate) fn parameter(&self, key: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| *value)
    }
}

/// The media ranges of a header in the client's order.
pub(crate) fn media_ranges(headers: &HeaderMap, name: header::HeaderName) -> Vec<MediaRange<'_>> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            let parameters = parts.filter_map(|part| part.split_once('=')).collect();
            MediaRange { media_type, parameters }
        })
        .filter(|range| !range.media_type.is_empty())
        .collect()
}

impl Accept {
    pub(crate) const JSON: Accept = Accept { encoding: Encoding::Json, view: View::Whole };

    pub(crate) fn of(headers: &HeaderMap) -> ApiResult<Accept> {
        let ranges = media_ranges(headers, header::ACCEPT);
        if ranges.is_empty() {
            return Ok(Accept::JSON);
        }
        ranges.iter().find_map(understood).ok_or_else(|| ApiError::not_acceptable(OFFERED))
    }
}

fn understood(range: &MediaRange<'_>) -> Option<Accept> {
    let encoding = match range.media_type {
        "application/json" | "application/*" | "*/*" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        _ => return None,
    };
    let version = match range.parameter("v") {
        Some("v1") => Some("v1"),
        Some("v1beta1") => Some("v1beta1"),
        _ => None,
    };
    let view = match range.parameter("as") {
        None => View::Whole,
        Some(_) if range.parameter("g") != Some("meta.k8s.io") => return None,
        Some("Table") => View::Table(version?),
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") => View::Metadata(version?),
        Some(_) => return None,
    };
    Some(Accept { encoding, view })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &'static str) -> ApiResult<Accept> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, header::HeaderValue::from_static(text));
        Accept::of(&headers)
    }

    #[test]
    fn the_first_form_that_is_understood_is_taken() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl).expect("a table").view, View::Table("v1"));
        assert_eq!(
            accept("application/vnd.kubernetes.protobuf, application/json").expect("json"),
            Accept::JSON
        );
        assert_eq!(accept("application/yaml").expect("yaml").encoding, Encoding::Yaml);
        assert_eq!(accept("application/vnd.kubernetes.protobuf").expect_err("no protobuf").code(), 406);
    }
}

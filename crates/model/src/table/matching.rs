//! Matches compiled: what a request is compared with.

use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

use crate::limits::{MAX_REGEX_BYTES, MAX_REGEX_NEST};
use crate::path::{normalised, prefix_pattern};
use crate::resource::{HttpMatch, PathKind, ValueMatch};

/// One alternative of a rule, with everything about the request but the hostname.
pub struct CompiledMatch {
    pub path: PathPattern,
    /// `None` for any.
    pub method: Option<Box<[u8]>>,
    /// All have to hold.
    pub headers: Box<[ValueCondition]>,
    /// All have to hold.
    pub query: Box<[ValueCondition]>,
}

impl CompiledMatch {
    /// Whether only the path decides.
    pub(crate) fn is_unconditional(&self) -> bool {
        self.method.is_none() && self.headers.is_empty() && self.query.is_empty()
    }
}

#[derive(Clone)]
pub enum PathPattern {
    Exact(Arc<[u8]>),
    /// Without trailing slashes; empty for `/`.
    Prefix(Arc<[u8]>),
    Regex(Box<PathRegex>),
    /// A gRPC method of any service: the second of exactly two segments.
    GrpcMethod(Arc<[u8]>),
}

impl PathPattern {
    /// Whether both are found at the same place of a table.
    pub(crate) fn same_place(&self, other: &PathPattern) -> bool {
        match (self, other) {
            (PathPattern::Exact(a), PathPattern::Exact(b))
            | (PathPattern::Prefix(a), PathPattern::Prefix(b))
            | (PathPattern::GrpcMethod(a), PathPattern::GrpcMethod(b)) => a == b,
            (PathPattern::Regex(_), PathPattern::Regex(_)) => true,
            _ => false,
        }
    }
}

/// The kind and the pattern: `PathPrefix /foo`.
impl std::fmt::Display for PathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PathPattern::Exact(path) => write!(f, "Exact {}", String::from_utf8_lossy(path)),
            PathPattern::Prefix(path) if path.is_empty() => f.write_str("PathPrefix /"),
            PathPattern::Prefix(path) => write!(f, "PathPrefix {}", String::from_utf8_lossy(path)),
            PathPattern::Regex(regex) => write!(f, "RegularExpression {}", regex.pattern),
            PathPattern::GrpcMethod(method) => write!(f, "Method {}", String::from_utf8_lossy(method)),
        }
    }
}

#[derive(Clone)]
pub struct PathRegex {
    /// As configured.
    pub pattern: Arc<str>,
    /// Of the pattern.
    pub characters: usize,
    /// What every matching path begins with: read off the pattern, to pass over most candidates cheaply.
    pub literal_prefix: Box<[u8]>,
    /// Anchored at both ends.
    pub regex: Regex,
}

/// A condition on a header or a query parameter.
pub struct ValueCondition {
    /// Headers: lower case.
    pub name: Box<str>,
    pub value: ValuePattern,
}

pub enum ValuePattern {
    Exact(Box<[u8]>),
    /// Anchored at both ends.
    Regex(Regex),
}

/// A match, ready to be tried. The error says which part cannot be compiled; an update with such a match would be
/// rejected for the same reason.
pub fn compile_match(source: &HttpMatch) -> Result<Arc<CompiledMatch>, String> {
    let kind = PathKind::try_from(source.path_kind)
        .map_err(|_| format!("path match type {} is not known to this release", source.path_kind))?;
    let configured = if source.path.is_empty() { "/" } else { source.path.as_str() };
    let normal = || normalised(configured).map_err(|error| format!("path `{configured}`: {error}"));
    let path = match kind {
        PathKind::Exact => PathPattern::Exact(Arc::from(normal()?)),
        PathKind::GrpcMethod => PathPattern::GrpcMethod(Arc::from(grpc_method(&source.path)?)),
        PathKind::Prefix => PathPattern::Prefix(Arc::from(prefix_pattern(&normal()?))),
        PathKind::RegularExpression => PathPattern::Regex(Box::new(PathRegex {
            pattern: Arc::from(configured),
            characters: configured.chars().count(),
            literal_prefix: literal_prefix(configured).into(),
            regex: anchored(configured).map_err(|error| format!("path `{configured}`: {error}"))?,
        })),
    };
    Ok(Arc::new(CompiledMatch {
        path,
        method: (!source.method.is_empty()).then(|| source.method.as_bytes().into()),
        headers: compile_conditions(&source.headers, str::to_ascii_lowercase)?,
        query: compile_conditions(&source.query, str::to_owned)?,
    }))
}

/// The normal form of a gRPC method's name: one segment, not empty.
fn grpc_method(name: &str) -> Result<Vec<u8>, String> {
    let path = normalised(&format!("/{name}")).map_err(|error| format!("method `{name}`: {error}"))?;
    match path.strip_prefix(b"/") {
        Some(method) if !method.is_empty() && !method.contains(&b'/') => Ok(method.to_vec()),
        _ => Err(format!("`{name}` is not the name of a method")),
    }
}

/// Of conditions on the same name only the first counts (API: `HTTPHeaderMatch.name`, `HTTPQueryParamMatch.name`).
fn compile_conditions(
    sources: &[ValueMatch],
    spell: impl Fn(&str) -> String,
) -> Result<Box<[ValueCondition]>, String> {
    let mut conditions: Vec<ValueCondition> = Vec::with_capacity(sources.len());
    for source in sources {
        let name = spell(&source.name);
        if conditions.iter().any(|condition| *condition.name == *name) {
            continue;
        }
        let value = if source.regex {
            let regex = anchored(&source.value).map_err(|error| format!("`{name}`: {error}"))?;
            ValuePattern::Regex(regex)
        } else {
            ValuePattern::Exact(source.value.as_bytes().into())
        };
        conditions.push(ValueCondition { name: name.into(), value });
    }
    Ok(conditions.into())
}

/// Bytes, not characters, unless the pattern needs characters: a request may carry any bytes, and `.` has to match them.
fn anchored(pattern: &str) -> Result<Regex, String> {
    // The pattern alone first: what is wrong inside it must not be made right by the parentheses around it.
    regex_syntax_check(pattern)?;
    let whole = format!("^(?:{pattern})$");
    let build = |unicode| {
        RegexBuilder::new(&whole)
            .unicode(unicode)
            .size_limit(MAX_REGEX_BYTES)
            .dfa_size_limit(MAX_REGEX_BYTES)
            .nest_limit(MAX_REGEX_NEST)
            .build()
    };
    build(false).or_else(|_| build(true)).map_err(|error| error.to_string())
}

fn regex_syntax_check(pattern: &str) -> Result<(), String> {
    let build = |unicode| {
        RegexBuilder::new(pattern)
            .unicode(unicode)
            .size_limit(MAX_REGEX_BYTES)
            .nest_limit(MAX_REGEX_NEST)
            .build()
            .map(|_| ())
    };
    build(false).or_else(|_| build(true)).map_err(|error| error.to_string())
}

/// The characters that every match begins with, as far as they are plain to see.
fn literal_prefix(pattern: &str) -> &[u8] {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    // An alternation may begin otherwise.
    if pattern.contains('|') {
        return b"";
    }
    let end =
        pattern.find(|c: char| r"\.+*?()[]{}^$#&~".contains(c) || !c.is_ascii()).unwrap_or(pattern.len());
    // The last character may be repeated zero times.
    let optional = pattern[end..].starts_with(['*', '?', '{']);
    &pattern.as_bytes()[..if optional { end.saturating_sub(1) } else { end }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_literal_prefix_is_a_prefix_of_every_match() {
        for (pattern, expected) in [
            ("/api/v[0-9]+/.*", "/api/v"),
            ("^/a/b$", "/a/b"),
            ("/ab?c", "/a"),
            ("/ab*", "/a"),
            ("/ab{0,2}", "/a"),
            ("/ab+", "/ab"),
            ("/a|/b", ""),
            ("(?i)/a", ""),
            (r"/a\d", "/a"),
            ("/.*", "/"),
            ("", ""),
        ] {
            assert_eq!(literal_prefix(pattern), expected.as_bytes(), "{pattern}");
        }
    }

    #[test]
    fn patterns_are_anchored_at_both_ends_and_match_bytes() {
        let regex = anchored("/a|/b").unwrap();
        assert!(regex.is_match(b"/a") && regex.is_match(b"/b"));
        assert!(!regex.is_match(b"/ax") && !regex.is_match(b"x/b") && !regex.is_match(b"/a\n"));
        assert!(anchored("/.*").unwrap().is_match(b"/\xff\xfe"));
        assert!(anchored("/[é]").unwrap().is_match("/é".as_bytes()));
    }

    #[test]
    fn patterns_that_are_wrong_alone_or_too_large_are_refused() {
        for bad in ["(", "a)(b", "[", r"\", "(?:a{1000}){1000}", "a)|(?:b"] {
            assert!(anchored(bad).is_err(), "{bad}");
        }
    }
}

//! What a request's path and query ask for.
//!
//! Owns: the grammar of Kubernetes' resource paths and the query parameters of all verbs.

use percent_encoding::percent_decode_str;

use crate::error::{ApiError, ApiResult};

/// A path below `/api/v1` or `/apis/<group>/<version>` that names a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: String,
    /// Empty for cluster-scoped resources and for lists over all namespaces.
    pub(crate) namespace: String,
    pub(crate) plural: String,
    /// Empty for collections.
    pub(crate) name: String,
    pub(crate) subresource: String,
}

/// Splits a path into its decoded segments; `None` when one does not decode or is empty.
pub(crate) fn segments(path: &str) -> Option<Vec<String>> {
    let trimmed = path.strip_prefix('/')?;
    let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
    trimmed
        .split('/')
        .map(|segment| {
            let decoded = percent_decode_str(segment).decode_utf8().ok()?;
            (!decoded.is_empty()).then(|| decoded.into_owned())
        })
        .collect()
}

impl ResourcePath {
    /// The resource that decoded segments name; `None` when they name none (discovery, health and the like).
    pub(crate) fn parse(segments: &[String]) -> Option<ResourcePath> {
        let (group, version, rest) = match segments {
            [api, version, rest @ ..] if api == "api" => ("", version, rest),
            [apis, group, version, rest @ ..] if apis == "apis" => (group.as_str(), version, rest),
            _ => return None,
        };
        let mut path =
            ResourcePath { group: group.to_owned(), version: version.clone(), ..ResourcePath::default() };
        let place = match rest {
            [first, namespace, rest @ ..]
                if first == "namespaces"
                    && rest.first().is_some_and(|next| !is_namespace_part(group, next)) =>
            {
                path.namespace.clone_from(namespace);
                rest
            }
            rest => rest,
        };
        match place {
            [plural] => path.plural.clone_from(plural),
            [plural, name] => (path.plural, path.name) = (plural.clone(), name.clone()),
            [plural, name, subresource] => {
                (path.plural, path.name, path.subresource) =
                    (plural.clone(), name.clone(), subresource.clone());
            }
            _ => return None,
        }
        Some(path)
    }
}

/// `/api/v1/namespaces/x/status` is a part of the namespace, not a resource called `status` in it.
fn is_namespace_part(group: &str, segment: &str) -> bool {
    group.is_empty() && (segment == "status" || segment == "finalize")
}

/// The query parameters of every verb.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Params {
    pub(crate) label_selector: String,
    pub(crate) field_selector: String,
    pub(crate) limit: usize,
    pub(crate) continue_token: String,
    pub(crate) resource_version: String,
    pub(crate) resource_version_match: String,
    pub(crate) watch: bool,
    pub(crate) allow_watch_bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) dry_run: Vec<String>,
    pub(crate) field_manager: String,
    pub(crate) field_validation: String,
    pub(crate) force: Option<bool>,
    pub(crate) pretty: bool,
    pub(crate) include_object: String,
    pub(crate) propagation_policy: Option<String>,
    pub(crate) orphan_dependents: Option<bool>,
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) log: LogParams,
}

/// The query parameters of `pods/log`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LogParams {
    pub(crate) container: String,
    pub(crate) follow: bool,
    pub(crate) previous: bool,
    pub(crate) timestamps: bool,
    pub(crate) tail_lines: Option<usize>,
    pub(crate) limit_bytes: Option<usize>,
    pub(crate) since_seconds: Option<i64>,
    pub(crate) since_time: String,
}

impl Params {
    pub(crate) fn parse(query: &str) -> ApiResult<Params> {
        let mut params = Params::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decode(key)?, decode(value)?);
            params.set(&key, value)?;
        }
        Ok(params)
    }

    fn set(&mut self, key: &str, value: String) -> ApiResult<()> {
        match key {
            "labelSelector" => self.label_selector = value,
            "fieldSelector" => self.field_selector = value,
            "limit" => self.limit = number(key, &value)?,
            "continue" => self.continue_token = value,
            "resourceVersion" => self.resource_version = value,
            "resourceVersionMatch" => self.resource_version_match = value,
            "watch" => self.watch = flag(&value),
            "allowWatchBookmarks" => self.allow_watch_bookmarks = flag(&value),
            "sendInitialEvents" => self.send_initial_events = Some(flag(&value)),
            "timeoutSeconds" => self.timeout_seconds = Some(number(key, &value)?),
            "dryRun" => self.dry_run.push(value),
            "fieldManager" => self.field_manager = value,
            "fieldValidation" => self.field_validation = value,
            "force" => self.force = Some(flag(&value)),
            "pretty" => self.pretty = flag(&value),
            "includeObject" => self.include_object = value,
            "propagationPolicy" => self.propagation_policy = Some(value),
            "orphanDependents" => self.orphan_dependents = Some(flag(&value)),
            "gracePeriodSeconds" => self.grace_period_seconds = Some(number(key, &value)?),
            "container" => self.log.container = value,
            "follow" => self.log.follow = flag(&value),
            "previous" => self.log.previous = flag(&value),
            "timestamps" => self.log.timestamps = flag(&value),
            "tailLines" => self.log.tail_lines = Some(number(key, &value)?),
            "limitBytes" => self.log.limit_bytes = Some(number(key, &value)?),
            "sinceSeconds" => self.log.since_seconds = Some(number(key, &value)?),
            "sinceTime" => self.log.since_time = value,
            _ => {}
        }
        Ok(())
    }
}

fn decode(text: &str) -> ApiResult<String> {
    let spaced = text.replace('+', " ");
    match percent_decode_str(&spaced).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(ApiError::bad_request(format!("query parameter is not UTF-8: {text}"))),
    }
}

/// Kubernetes' conversion of query strings to booleans: everything is true but these.
fn flag(value: &str) -> bool {
    !(value.is_empty() || value == "0" || value.eq_ignore_ascii_case("false"))
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> ApiResult<T> {
    value
        .parse()
        .map_err(|_| ApiError::bad_request(format!("invalid value for query parameter {key}: {value:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Option<ResourcePath> {
        ResourcePath::parse(&segments(path)?)
    }

    #[test]
    fn paths_name_group_version_namespace_resource_name_and_subresource() {
        let pod = parse("/api/v1/namespaces/kong/pods/echo/log").expect("a pod");
        assert_eq!(
            (pod.namespace.as_str(), pod.plural.as_str(), pod.subresource.as_str()),
            ("kong", "pods", "log")
        );
        let all = parse("/apis/apps/v1/deployments").expect("a list");
        assert_eq!((all.group.as_str(), all.namespace.as_str(), all.name.as_str()), ("apps", "", ""));
        let status = parse("/api/v1/namespaces/kong/status").expect("a namespace");
        assert_eq!(
            (status.plural.as_str(), status.name.as_str(), status.subresource.as_str()),
            ("namespaces", "kong", "status")
        );
        let namespace = parse("/api/v1/namespaces/kong").expect("a namespace");
        assert_eq!((namespace.plural.as_str(), namespace.name.as_str()), ("namespaces", "kong"));
        assert_eq!(parse("/api/v1"), None);
        assert_eq!(parse("/apis/apps/v1/namespaces/a/b/c/d/e"), None);
    }

    #[test]
    fn queries_decode_and_tell_numbers_from_nonsense() {
        let params = Params::parse("labelSelector=app%3Decho%2Ctier+in+%28a%29&watch=1&limit=500&watch=true")
            .expect("well formed");
        assert_eq!(params.label_selector, "app=echo,tier in (a)");
        assert!(params.watch);
        assert_eq!(params.limit, 500);
        assert!(Params::parse("limit=many").is_err());
        assert!(!Params::parse("watch=false").expect("well formed").watch);
    }
}

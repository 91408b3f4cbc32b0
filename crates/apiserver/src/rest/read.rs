//! Get and list.
//!
//! Owns: consistent reads at a version, chunks, the log of a pod.

use std::convert::Infallible;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use futures::StreamExt;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::error::{ApiError, ApiResult};
use crate::logs::LogLine;
use crate::object;
use crate::rest::encode::{List, Reply};
use crate::rest::selector::Selector;
use crate::rest::{Api, Body, Call, respond};
use crate::store::{self, Snapshot, Stored};

pub(crate) fn selector_of(call: &Call) -> ApiResult<Selector> {
    let params = &call.params;
    let selector =
        Selector::parse(&params.label_selector, &params.field_selector, &call.resource, &call.version)?;
    Ok(if call.name.is_empty() { selector } else { selector.and_name(&call.name) })
}

impl Api {
    pub(crate) fn find(&self, call: &Call) -> ApiResult<Arc<Stored>> {
        let key = object::key(&call.namespace, &call.name);
        self.store.get(&call.resource.id, &key).ok_or_else(|| ApiError::not_found(call.subject(&call.name)))
    }

    pub(crate) fn get(&self, call: &Call) -> ApiResult<Reply> {
        let stored = self.find(call)?;
        self.check_not_too_new(call)?;
        if call.subresource == "scale" {
            let scale = super::scale::scale_of(call, &stored.value)?;
            return Ok(Reply::Value(StatusCode::OK, scale));
        }
        Ok(Reply::Object(StatusCode::OK, stored))
    }

    fn check_not_too_new(&self, call: &Call) -> ApiResult<Option<u64>> {
        let text = call.params.resource_version.as_str();
        if text.is_empty() || text == "0" {
            return Ok(None);
        }
        let asked: u64 =
            text.parse().map_err(|_| ApiError::bad_request(format!("invalid resource version {text:?}")))?;
        let current = self.store.revision();
        if asked > current { Err(ApiError::too_new(asked, current)) } else { Ok(Some(asked)) }
    }

    pub(crate) fn list(&self, call: &Call) -> ApiResult<Reply> {
        let selector = selector_of(call)?;
        let (snapshot, start) = self.snapshot_for(call)?;
        let limit = if call.params.limit == 0 { usize::MAX } else { call.params.limit };
        let mut items = Vec::new();
        let mut last_key: Option<Arc<str>> = None;
        let mut more = false;
        let mut rest = 0;
        for (key, stored) in store::in_namespace(&snapshot.objects, &call.namespace, start.as_deref()) {
            if items.len() == limit {
                more = true;
                if !selector.is_empty() {
                    break;
                }
                rest += 1;
            } else if selector.matches(&stored.value) {
                items.push(stored.clone());
                last_key = Some(key.clone());
            }
        }
        let continue_token = match (&last_key, more) {
            (Some(key), true) => token(snapshot.revision, key),
            _ => String::new(),
        };
        let remaining = (more && selector.is_empty()).then_some(rest);
        Ok(Reply::List(List { revision: snapshot.revision, items, continue_token, remaining }))
    }

    fn snapshot_for(&self, call: &Call) -> ApiResult<(Snapshot, Option<String>)> {
        let params = &call.params;
        let id = &call.resource.id;
        if !params.continue_token.is_empty() {
            if !(params.resource_version.is_empty() || params.resource_version == "0") {
                return Err(ApiError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let (revision, start) = read_token(&params.continue_token)
                .ok_or_else(|| ApiError::bad_request("continue key is not valid"))?;
            let snapshot = self.store.snapshot_at(id, revision).map_err(|_| ApiError::list_expired())?;
            return Ok((snapshot, Some(start)));
        }
        let asked = self.check_not_too_new(call)?;
        match (params.resource_version_match.as_str(), asked) {
            ("", Some(asked)) if params.limit > 0 => self.exactly(call, asked),
            ("" | "NotOlderThan", _)
                if !(asked.is_none()
                    && params.resource_version.is_empty()
                    && !params.resource_version_match.is_empty()) =>
            {
                Ok((self.store.snapshot(id), None))
            }
            ("Exact", Some(asked)) => self.exactly(call, asked),
            ("Exact", None) if params.resource_version == "0" => Err(ApiError::bad_request(
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            )),
            ("Exact" | "NotOlderThan", _) => Err(ApiError::bad_request(
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            )),
            (other, _) => Err(ApiError::bad_request(format!(
                "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
            ))),
        }
    }

    fn exactly(&self, call: &Call, asked: u64) -> ApiResult<(Snapshot, Option<String>)> {
        match self.store.snapshot_at(&call.resource.id, asked) {
            Ok(snapshot) => Ok((snapshot, None)),
            Err(compacted) => Err(ApiError::too_old(asked, compacted.oldest)),
        }
    }

    /// `GET .../pods/NAME/log`.
    pub(crate) fn log(&self, call: &Call, shutdown: CancellationToken) -> ApiResult<Response<Body>> {
        let pod = self.find(call)?;
        let container = container_of(call, &pod.value)?;
        let uid = object::uid(&pod.value).to_owned();
        let params = call.params.log.clone();
        let (lines, follower) = self.logs.read_then_follow(&uid, &container);
        let since = since(self.clock.now(), &params)?;
        let mut shown: Vec<&LogLine> =
            lines.iter().filter(|line| since.is_none_or(|since| line.at >= since)).collect();
        if let Some(tail) = params.tail_lines {
            let skip = shown.len().saturating_sub(tail);
            shown.drain(..skip);
        }
        let mut text: String = shown.into_iter().map(|line| log_line(line, params.timestamps)).collect();
        if let Some(limit) = params.limit_bytes {
            let mut end = limit.min(text.len());
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
        }
        if params.previous {
            return Err(ApiError::bad_request(format!(
                "previous terminated container {container:?} in pod {:?} not found",
                call.name
            )));
        }
        if !params.follow {
            return Ok(respond(StatusCode::OK, "text/plain", crate::rest::full(Bytes::from(text))));
        }
        let news =
            futures::stream::unfold((follower, shutdown), move |(mut follower, shutdown)| async move {
                let lines = tokio::select! {
                    lines = follower.next() => lines?,
                    () = shutdown.cancelled() => return None,
                };
                let text: String = lines.iter().map(|line| log_line(line, params.timestamps)).collect();
                Some((Bytes::from(text), (follower, shutdown)))
            });
        let all = futures::stream::once(async move { Bytes::from(text) })
            .chain(news)
            .map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
        Ok(respond(StatusCode::OK, "text/plain", StreamBody::new(all).boxed_unsync()))
    }
}

fn container_of(call: &Call, pod: &Value) -> ApiResult<String> {
    let containers = object::array(pod, "/spec/containers");
    let names: Vec<&str> = containers
        .iter()
        .chain(object::array(pod, "/spec/initContainers"))
        .filter_map(|container| container.get("name").and_then(Value::as_str))
        .collect();
    let wanted = call.params.log.container.as_str();
    match names.as_slice() {
        [only] if wanted.is_empty() => Ok((*only).to_owned()),
        names if wanted.is_empty() => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            call.name,
            names.join(" ")
        ))),
        names if names.contains(&wanted) => Ok(wanted.to_owned()),
        _ => Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {}", call.name))),
    }
}

fn since(now: Timestamp, params: &crate::rest::path::LogParams) -> ApiResult<Option<Timestamp>> {
    if let Some(seconds) = params.since_seconds {
        return Ok(now.checked_sub(SignedDuration::from_secs(seconds)).ok());
    }
    if params.since_time.is_empty() {
        return Ok(None);
    }
    let parsed = params.since_time.parse();
    parsed.map(Some).map_err(|_| ApiError::bad_request(format!("invalid sinceTime {:?}", params.since_time)))
}

fn log_line(line: &LogLine, timestamps: bool) -> String {
    if timestamps { format!("{:.9} {}\n", line.at, line.text) } else { format!("{}\n", line.text) }
}

fn token(revision: u64, key: &str) -> String {
    let plain = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": key}).to_string();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(plain)
}

fn read_token(token: &str) -> Option<(u64, String)> {
    let plain = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).ok()?;
    let value: Value = serde_json::from_slice(&plain).ok()?;
    Some((value.get("rv")?.as_u64()?, value.get("start")?.as_str()?.to_owned()))
}

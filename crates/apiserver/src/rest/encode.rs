//! Objects, lists and events in the form that was negotiated.
//!
//! Owns: whole objects under the version that was asked for, tables, metadata alone; JSON or YAML.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::error::{ApiError, ApiResult};
use crate::object;
use crate::registry::Resource;
use crate::rest::negotiate::{Accept, Encoding, View};
use crate::rest::{Api, Call};
use crate::store::Stored;
use crate::table;

/// What a successful request answers with.
pub(crate) enum Reply {
    Object(StatusCode, Arc<Stored>),
    /// A value that is no stored object under a resource: reviews, scales, statuses.
    Value(StatusCode, Value),
    List(List),
}

/// Part of a collection.
pub(crate) struct List {
    pub(crate) revision: u64,
    pub(crate) items: Vec<Arc<Stored>>,
    pub(crate) continue_token: String,
    pub(crate) remaining: Option<usize>,
}

/// A body with its media type.
pub(crate) struct Encoded {
    pub(crate) code: StatusCode,
    pub(crate) media_type: &'static str,
    pub(crate) body: Bytes,
}

/// The object under the version that the call asked for.
pub(crate) fn versioned(call: &Call, stored: &Value) -> Value {
    let mut out = Map::new();
    out.insert("kind".to_owned(), Value::from(call.resource.kind.as_str()));
    out.insert("apiVersion".to_owned(), Value::from(call.api_version()));
    if let Value::Object(map) = stored {
        for (key, value) in map {
            if key != "kind" && key != "apiVersion" {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    let mut out = Value::Object(out);
    if is_new_event(&call.resource) {
        crate::events::to_events_v1(&mut out);
    }
    out
}

fn is_new_event(resource: &Resource) -> bool {
    resource.is("events.k8s.io", "events")
}

fn write_whole(call: &Call, stored: &Stored, out: &mut BytesMut) {
    if is_new_event(&call.resource) {
        out.extend_from_slice(versioned(call, &stored.value).to_string().as_bytes());
    } else {
        stored.write_json(&call.api_version(), &call.resource.kind, out);
    }
}

/// The object's metadata alone.
fn partial(stored: &Value, version: &str) -> Value {
    let metadata = stored.get("metadata").cloned().unwrap_or_default();
    json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata})
}

/// Encodes a reply as the call's `Accept` wants it.
pub(crate) fn encode(api: &Api, call: &Call, reply: &Reply) -> ApiResult<Encoded> {
    let accept = call.accept;
    let (code, json) = match (reply, accept.view) {
        (Reply::Object(code, stored), View::Whole) => {
            let mut out = BytesMut::with_capacity(1024);
            write_whole(call, stored, &mut out);
            (*code, out.freeze())
        }
        (Reply::Object(code, stored), View::Metadata(version)) => {
            (*code, text(&partial(&stored.value, version)))
        }
        (Reply::Object(code, stored), View::Table(version)) => {
            let rows = [stored.clone()];
            let meta = json!({"resourceVersion": object::meta_str(&stored.value, "resourceVersion")});
            (*code, text(&table::table(api, call, &rows, meta, version, &call.params.include_object, true)))
        }
        (Reply::Value(code, value), _) => (*code, text(value)),
        (Reply::List(list), view) => (StatusCode::OK, encode_list(api, call, list, view)),
    };
    finish(code, json, accept.encoding)
}

fn text(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

/// JSON as it is, or made YAML.
pub(crate) fn finish(code: StatusCode, json: Bytes, encoding: Encoding) -> ApiResult<Encoded> {
    match encoding {
        Encoding::Json => Ok(Encoded { code, media_type: "application/json", body: json }),
        Encoding::Yaml => {
            let value: Value =
                serde_json::from_slice(&json).map_err(|error| ApiError::internal(error.to_string()))?;
            let yaml =
                serde_saphyr::to_string(&value).map_err(|error| ApiError::internal(error.to_string()))?;
            Ok(Encoded { code, media_type: "application/yaml", body: Bytes::from(yaml) })
        }
    }
}

fn list_meta(list: &List) -> Value {
    let mut meta = json!({"resourceVersion": list.revision.to_string()});
    if !list.continue_token.is_empty() {
        meta["continue"] = Value::from(list.continue_token.as_str());
        if let Some(remaining) = list.remaining {
            meta["remainingItemCount"] = Value::from(remaining);
        }
    }
    meta
}

fn encode_list(api: &Api, call: &Call, list: &List, view: View) -> Bytes {
    let meta = list_meta(list);
    match view {
        View::Table(version) => {
            text(&table::table(api, call, &list.items, meta, version, &call.params.include_object, true))
        }
        View::Metadata(version) => {
            let items: Vec<Value> = list.items.iter().map(|stored| partial(&stored.value, version)).collect();
            text(&json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": meta,
                "items": items,
            }))
        }
        View::Whole => {
            let mut out = BytesMut::with_capacity(256 + list.items.len() * 1024);
            let kind = Value::from(call.resource.list_kind.as_str());
            let api_version = Value::from(call.api_version());
            let head =
                format!("{{\"kind\":{kind},\"apiVersion\":{api_version},\"metadata\":{meta},\"items\":[");
            out.extend_from_slice(head.as_bytes());
            for (index, stored) in list.items.iter().enumerate() {
                if index > 0 {
                    out.extend_from_slice(b",");
                }
                write_whole(call, stored, &mut out);
            }
            out.extend_from_slice(b"]}\n");
            out.freeze()
        }
    }
}

/// How the objects of a watch's events are shown.
pub(crate) struct Shape {
    view: View,
    /// Tables name their columns in the first event only.
    columns_sent: AtomicBool,
}

impl Shape {
    pub(crate) fn new(accept: Accept) -> Shape {
        Shape { view: accept.view, columns_sent: AtomicBool::new(false) }
    }

    pub(crate) fn write_event_object(
        &self,
        api: &Api,
        call: &Call,
        stored: &Arc<Stored>,
        out: &mut BytesMut,
    ) {
        match self.view {
            View::Whole => write_whole(call, stored, out),
            View::Metadata(version) => {
                out.extend_from_slice(partial(&stored.value, version).to_string().as_bytes())
            }
            View::Table(version) => {
                let first = !self.columns_sent.swap(true, Ordering::Relaxed);
                let rows = [stored.clone()];
                let meta = json!({"resourceVersion": object::meta_str(&stored.value, "resourceVersion")});
                let table = table::table(api, call, &rows, meta, version, &call.params.include_object, first);
                out.extend_from_slice(table.to_string().as_bytes());
            }
        }
    }

    /// The object of a bookmark with this metadata.
    pub(crate) fn bookmark(&self, call: &Call, metadata: Value) -> Value {
        match self.view {
            View::Whole => {
                json!({"kind": call.resource.kind, "apiVersion": call.api_version(), "metadata": metadata})
            }
            View::Metadata(version) => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata})
            }
            View::Table(version) => json!({
                "kind": "Table",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": {"resourceVersion": object::meta_str(&json!({"metadata": metadata}), "resourceVersion")},
                "columnDefinitions": null,
                "rows": [],
            }),
        }
    }
}

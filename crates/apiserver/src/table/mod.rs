//! Tables: what `kubectl get` prints.
use std::sync::Arc;

use serde_json::{Value, json};

use crate::object;
use crate::rest::{Api, Call};
use crate::store::Stored;

/// The table of some objects.
pub(crate) fn table(
    _api: &Api,
    call: &Call,
    rows: &[Arc<Stored>],
    meta: Value,
    version: &str,
    _include: &str,
    _columns: bool,
) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|stored| {
            let metadata = stored.value.get("metadata").cloned().unwrap_or_default();
            json!({
                "cells": [object::name(&stored.value), object::meta_str(&stored.value, "creationTimestamp")],
                "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata},
            })
        })
        .collect();
    let _ = call;
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": meta,
        "columnDefinitions": [
            {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0},
            {"name": "Created At", "type": "date", "format": "", "description": "", "priority": 0},
        ],
        "rows": rows,
    })
}

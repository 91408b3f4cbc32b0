//! Tables: what `kubectl get` prints.
//!
//! Owns: the columns of every kind and their cells; for custom kinds the columns that their definition names.
//! Invariant: cells are as Kubernetes prints them (ages included, which the server computes), wide columns carry
//! priority 1 and are always sent.

mod builtin;
mod json_path;
mod network;
mod pod;
mod text;
mod workload;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

pub(crate) use json_path::JsonPath;

use crate::object;
use crate::registry::Column;
use crate::rest::encode::versioned;
use crate::rest::{Api, Call};
use crate::store::Stored;

/// A column of a built-in kind.
#[derive(Debug, Clone, Copy)]
struct Head {
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    priority: u8,
}

const fn text_column(name: &'static str) -> Head {
    Head { name, kind: "string", format: "", priority: 0 }
}

const fn number_column(name: &'static str) -> Head {
    Head { name, kind: "integer", format: "", priority: 0 }
}

const fn wide_column(name: &'static str) -> Head {
    Head { name, kind: "string", format: "", priority: 1 }
}

const NAME: Head = Head { name: "Name", kind: "string", format: "name", priority: 0 };
const AGE: Head = text_column("Age");

/// The table of some objects. `include` is `None`, `Metadata` or `Object`: what comes along with each row.
pub(crate) fn table(
    api: &Api,
    call: &Call,
    objects: &[Arc<Stored>],
    meta: Value,
    version: &str,
    include: &str,
    with_columns: bool,
) -> Value {
    let now = api.clock.now();
    let columns = Columns::of(call);
    let rows: Vec<Value> = objects
        .iter()
        .map(|stored| {
            let mut row = json!({"cells": columns.cells(&stored.value, now)});
            if let Some(conditions) = columns.row_conditions(&stored.value) {
                row["conditions"] = conditions;
            }
            row["object"] = match include {
                "None" => Value::Null,
                "Object" => versioned(call, &stored.value),
                _ => json!({
                    "kind": "PartialObjectMetadata",
                    "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": stored.value.get("metadata"),
                }),
            };
            row
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": meta,
        "columnDefinitions": if with_columns { columns.definitions() } else { Value::Null },
        "rows": rows,
    })
}

/// The columns of a call's kind.
enum Columns<'a> {
    Builtin(builtin::Printer),
    Custom(Vec<(&'a Column, Option<JsonPath>)>),
}

impl<'a> Columns<'a> {
    fn of(call: &'a Call) -> Columns<'a> {
        if call.resource.custom {
            let columns =
                call.version.columns.iter().map(|column| (column, JsonPath::parse(&column.json_path)));
            return Columns::Custom(columns.collect());
        }
        Columns::Builtin(builtin::printer(&call.resource))
    }

    fn definitions(&self) -> Value {
        let definition = |name: &str, kind: &str, format: &str, description: &str, priority: i64| json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority});
        match self {
            Columns::Builtin(printer) => printer
                .heads
                .iter()
                .map(|head| definition(head.name, head.kind, head.format, "", i64::from(head.priority)))
                .collect(),
            Columns::Custom(columns) => std::iter::once(definition("Name", "string", "name", "", 0))
                .chain(columns.iter().map(|(column, _)| {
                    definition(
                        &column.name,
                        &column.kind,
                        &column.format,
                        &column.description,
                        column.priority,
                    )
                }))
                .collect(),
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        match self {
            Columns::Builtin(printer) => (printer.cells)(object, now),
            Columns::Custom(columns) => std::iter::once(Value::from(object::name(object)))
                .chain(columns.iter().map(|(column, path)| {
                    let found = path.as_ref().and_then(|path| path.first(object));
                    found.map_or(Value::Null, |value| custom_cell(&column.kind, value, now))
                }))
                .collect(),
        }
    }

    /// What `kubectl get pods` leaves out of watches by a row's condition.
    fn row_conditions(&self, object: &Value) -> Option<Value> {
        if !matches!(self, Columns::Builtin(printer) if printer.is_pod) {
            return None;
        }
        let phase = object::text(object, "/status/phase");
        matches!(phase, "Succeeded" | "Failed").then(
            || json!([{"type": "Completed", "status": "True", "reason": phase, "message": pod::END_MESSAGE}]),
        )
    }
}

/// A cell of a custom kind. Source: apiextensions' table convertor.
fn custom_cell(kind: &str, value: &Value, now: Timestamp) -> Value {
    match (kind, value) {
        ("integer", Value::Number(number)) => number
            .as_i64()
            .or_else(|| number.as_f64().map(|float| float as i64))
            .map_or(Value::Null, Value::from),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("string", Value::String(_)) => value.clone(),
        ("string", Value::Null) => Value::Null,
        ("string", other) => Value::from(other.to_string()),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(at) => Value::from(text::since(at, now)),
            Err(_) => Value::from("<invalid>"),
        },
        _ => Value::Null,
    }
}

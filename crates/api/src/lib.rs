//! Typed Kubernetes and Gateway API objects that Weir reads or serves.
//!
//! Owns the shapes. Those of Gateway API are made from the embedded CRDs (`gateway_api`), one type for all versions and both
//! channels of a kind; the built-in kinds, Kong's and what has no schema of its own are written by hand, trimmed to
//! what Weir uses. Invariants: an unknown field is ignored; an absent or null optional field reads as the CRD's default,
//! because an object may come from an older CRD that did not default it; an unknown enum value is kept as text, never
//! an error. Statuses serialise exactly as the API wants them (camelCase, nothing null).
//!
//! Deliberately absent: `Serialize` for whole objects. They are trimmed, so writing one back would lose fields; status
//! types can be written, objects cannot. Also absent: any client, any validation beyond shape.

mod open;

pub mod condition;
pub mod core_v1;
pub mod duration;
pub mod gateway_api;
pub mod kind_facts;
pub mod kong;
pub mod meta;
pub mod networking;
pub mod reference;
pub mod seen;
pub mod weir;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads an object of a manifest or a watch event. A field that is null is not there, as Kubernetes has it.
pub fn read<T: DeserializeOwned>(mut json: Value) -> Result<T, serde_json::Error> {
    drop_nulls(&mut json);
    serde_json::from_value(json)
}

fn drop_nulls(json: &mut Value) {
    match json {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

//! Typed Kubernetes and Gateway API objects that Weir reads or serves.
//!
//! Owns the shapes: trimmed to what Weir uses, named as in the API, `v1` and `v1beta1` of a Gateway API kind being one
//! type. Invariants: an unknown field is ignored; an absent or null optional field reads as the CRD's default, because
//! an object may come from an older CRD that did not default it; an unknown enum value is kept as text, never an error.
//! Statuses serialise exactly as the API wants them (camelCase, nothing null).
//!
//! Deliberately absent: `Serialize` for whole objects. They are trimmed, so writing one back would lose fields; status
//! types can be written, objects cannot. Also absent: any client, any validation beyond shape.

mod open;

pub mod condition;
pub mod core_v1;
pub mod duration;
pub mod gateway;
pub mod grpc_route;
pub mod kong;
pub mod l4_route;
pub mod listener_set;
pub mod meta;
pub mod networking;
pub mod policy;
pub mod route;

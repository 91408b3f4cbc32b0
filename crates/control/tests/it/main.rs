//! The control plane against a scripted API and a data plane that only answers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod api;
mod distributing;
mod events;
mod lost_nodes;
mod plane;
mod provisioning;
mod reconciling;
mod recovering;
mod statuses;

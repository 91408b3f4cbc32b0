//! The control plane against a scripted API and a data plane that only answers.

mod api;
mod plane;
mod provisioning;
mod reconciling;
mod recovering;
mod statuses;

//! The data plane on real sockets, against origins that answer byte for byte what a test says.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

mod authorisation;
mod authorisation_grpc;
mod changes;
mod cors;
mod curl;
mod filters;
mod filters_http2;
mod filters_tls;
mod guards;
mod harness;
mod http2;
mod http2_ends;
mod http2_grpc;
mod http2_harness;
mod http2_hostile;
mod http2_tls;
mod http2_upstream;
mod listener_ends;
mod messages;
mod mirrors;
mod refusals;
mod retries;
mod rewriting;
mod robustness;
mod secure;
mod sessions;
mod splits;
mod stream_records;
mod tcp_routes;
mod tls_backends;
mod tls_certificates;
mod tls_clients;
mod tls_hostile;
mod tls_http2;
mod tls_listeners;
mod tls_misdirected;
mod tls_real_clients;
mod tls_routes;
mod udp_routes;
mod upgrades;
mod upstreams;
mod websockets;

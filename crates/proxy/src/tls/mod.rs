//! TLS towards clients and endpoints.
//!
//! | module | owns |
//! |---|---|
//! | [`hello`] | the server name in a ClientHello, without using it up |
//! | [`accept`] | a connection to a TLS listener, up to where it is served |
//! | [`session`] | records between a socket and our buffers |
//! | [`store`] | certificates, authorities, tickets and rustls' configurations, shared by workers |
//! | [`trust`] | who is believed |
//! | [`validity`] | from when until when |
//!
//! rustls with aws-lc-rs, passed explicitly; TLS 1.2 and 1.3, no renegotiation, no early data, no session cache (tickets).

pub(crate) mod accept;
pub(crate) mod hello;
pub(crate) mod session;
pub(crate) mod store;
mod trust;
mod validity;

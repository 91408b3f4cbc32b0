//! Towards the endpoints: choice, connections, and their reuse.

pub(crate) mod acquire;
pub(crate) mod balance;
pub(crate) mod connect;
pub(crate) mod pool;

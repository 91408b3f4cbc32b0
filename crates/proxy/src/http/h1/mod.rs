//! HTTP/1.x on both sides.
//!
//! | module | owns |
//! |---|---|
//! | `connection` | a client's connection: heads in, answers out, keep-alive, its end |
//! | `route` | one head: selection, filters, ticket, the head for the next hop |
//! | `exchange` | one request at one endpoint, both directions at once |
//! | `pipe` | one direction's bytes |
//! | `answer` | the proxy's own responses |

mod answer;
mod connection;
mod exchange;
mod pipe;
mod route;

pub(crate) use self::connection::serve;

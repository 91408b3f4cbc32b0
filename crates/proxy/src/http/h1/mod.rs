//! HTTP/1.x on both sides.
//!
//! | module | owns |
//! |---|---|
//! | `connection` | a client's connection: heads in, answers out, keep-alive, its end |
//! | `route` | one head: selection, filters, ticket, the head for the next hop |
//! | `tries` | a request's tries, one after another |
//! | `exchange` | one request at one endpoint, both directions at once |
//! | `pipe` | one direction's bytes |
//! | `answer` | the proxy's own responses |
//! | `walk` | filters that do more than change heads, sessions, in their order |
//! | `auth` | questions to authorisation servers |
//! | `call` | requests of the proxy's own |

mod answer;
mod auth;
mod call;
mod connection;
mod exchange;
mod pipe;
mod route;
mod tries;
mod walk;

pub(crate) use self::call::Call;
pub(crate) use self::connection::{Downstream, serve, serve_stream};
pub(crate) use self::pipe::{Pipe, PipeError, Waiting};

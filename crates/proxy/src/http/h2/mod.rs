//! HTTP/2 on either side, as connections that carry one HTTP/1.1 exchange each.
//!
//! | module | owns |
//! |---|---|
//! | `connection` | a client's connection: its streams, its end, signs of life, floods |
//! | `upstream` | connections to endpoints, shared by many requests |
//! | `stream` | one stream, read and written as HTTP/1.1 |
//! | `head` | heads and trailers between the two versions |
//! | `meter` | what a peer's frames are for |
//! | `io` | a socket under the HTTP/2 machine |
//!
//! The machine is the `h2` crate; every limit of it is set from the limits table. What it does not bound (work spent on frames
//! that carry nothing, time) is bounded here.
//!
//! Deliberately absent: server push, priorities, upgrades from HTTP/1.1 by `Upgrade: h2c` (RFC 9113 section 3.1 has done
//! away with it).

mod connection;
mod head;
mod io;
mod meter;
mod stream;
mod upstream;

pub(crate) use self::connection::serve;
pub(crate) use self::head::is_grpc;
pub(crate) use self::stream::Stream;
pub(crate) use self::upstream::{Given, Links};

//! What distribution counts: [`DistributeStatus`], read by the admin port.

use std::fmt::Write as _;

use crate::metrics::Number;

macro_rules! distribute_status {
    ($(#[doc = $help:literal] $kind:ident $name:literal $field:ident;)+) => {
        /// Counters and gauges of one distribution.
        #[derive(Debug, Default)]
        pub struct DistributeStatus {
            $(#[doc = $help] pub $field: Number,)+
        }

        impl DistributeStatus {
            /// The Prometheus text form of everything here.
            pub fn render(&self) -> String {
                let mut out = String::with_capacity(2_048);
                $(
                    // Writing to a String cannot fail.
                    let _ = write!(
                        out,
                        "# HELP {name}{help}\n# TYPE {name} {kind}\n{name} {value}\n",
                        name = $name,
                        help = $help,
                        kind = stringify!($kind),
                        value = self.$field.get(),
                    );
                )+
                out
            }
        }
    };
}

distribute_status! {
    /// Instances of data planes that are connected.
    gauge "weir_distribute_instances" instances;
    /// Whether this process led last and serves on, since it cannot have the Lease or learn who has it.
    gauge "weir_distribute_caretaker" caretaker;
    /// Connections that were accepted.
    counter "weir_distribute_connections_total" connections;
    /// Connections that ended before TLS was there.
    counter "weir_distribute_handshake_failures_total" handshake_failures;
    /// Streams that were begun.
    counter "weir_distribute_streams_total" streams;
    /// Calls that were refused: no or another data plane's certificate, a bad token, not the leader.
    counter "weir_distribute_refused_total" refused;
    /// Streams that were ended because nothing was acknowledged in time.
    counter "weir_distribute_slow_total" slow;
    /// Controllers' states that a data plane refused because it has a newer one.
    counter "weir_distribute_stale_total" stale;
    /// Certificates that were issued.
    counter "weir_distribute_certificates_total" certificates;
    /// Parts of messages that were sent.
    counter "weir_distribute_parts_total" parts;
    /// Bytes of those parts.
    counter "weir_distribute_sent_bytes_total" sent_bytes;
}

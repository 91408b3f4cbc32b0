//! What the control plane counts: [`ControlStatus`], shared by its tasks and read by the admin port.
//!
//! Invariants: every number is an atomic, so a reader never waits; names follow `weir_control_<thing>_<unit>` and
//! carry no label, so there are as many series as fields. Deliberately absent: any HTTP.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::rights::{Right, Rights};

/// An API that has not answered for this long is told of: longer than a leader may lead without it.
const API_QUIET: Duration = Duration::from_secs(15);

fn unix_seconds() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default()
}

/// A number that only its owner's events change.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! control_status {
    ($($(#[doc = $help:literal])+ $kind:ident $name:literal $field:ident;)+) => {
        /// Counters and gauges of one running control plane.
        #[derive(Debug, Default)]
        pub struct ControlStatus {
            $($(#[doc = $help])+ pub $field: Number,)+
            ready: AtomicBool,
            pub(crate) rights: Rights,
            missing: Mutex<Vec<&'static str>>,
            absent: Mutex<Vec<&'static str>>,
            left_alone: Mutex<BTreeMap<String, String>>,
        }

        impl ControlStatus {
            /// The Prometheus text form of everything here.
            pub fn render(&self) -> String {
                let mut out = String::with_capacity(4_096);
                $(
                    let help = concat!($($help,)+);
                    // Writing to a String cannot fail.
                    let _ = write!(
                        out,
                        "# HELP {name}{help}\n# TYPE {name} {kind}\n{name} {value}\n",
                        name = $name,
                        kind = stringify!($kind),
                        value = self.$field.get(),
                    );
                )+
                let _ = write!(
                    out,
                    "# HELP weir_control_ready Whether every kind's first list is complete.\n\
                     # TYPE weir_control_ready gauge\nweir_control_ready {}\n",
                    u8::from(self.ready()),
                );
                self.render_denied(&mut out);
                out
            }
        }
    };
}

control_status! {
    /// Watch events that were taken in, lists counted by object.
    counter "weir_control_watch_events_total" watch_events;
    /// Lists that were read whole, the first of each kind included.
    counter "weir_control_lists_total" lists;
    /// Watches that ended in an error and were started again.
    counter "weir_control_watch_failures_total" watch_failures;
    /// Kinds that the API does not serve now.
    gauge "weir_control_kinds_unserved" kinds_unserved;
    /// Objects that could not be decoded; each hurts only itself.
    counter "weir_control_undecodable_objects_total" undecodable_objects;
    /// Runs of the translator.
    counter "weir_control_translations_total" translations;
    /// Time that the last run of the translator took, in microseconds.
    gauge "weir_control_translation_last_microseconds" translation_last_micros;
    /// Updates sent to the data plane.
    counter "weir_control_updates_total" updates;
    /// Updates that the data plane has reported as applied, as the last sequence number.
    gauge "weir_control_applied_sequence" applied_sequence;
    /// Time from the oldest event of the last applied update to its report, in microseconds.
    gauge "weir_control_event_to_applied_last_microseconds" event_to_applied_last_micros;
    /// Resources that the data plane could not compile, by its last report.
    gauge "weir_control_rejected_resources" rejected_resources;
    /// References that wait for a read of the API now.
    gauge "weir_control_wanted_references" wanted_references;
    /// References that are not known and Services without EndpointSlices that some result waits for, a second at most.
    gauge "weir_control_awaited_references" awaited_references;
    /// Objects of which it is remembered that they are not there, or that nothing of theirs is waited for.
    gauge "weir_control_remembered_absent_objects" remembered_absent;
    /// References that were put off because the table of wanted references was full.
    counter "weir_control_wanted_dropped_total" wanted_dropped;
    /// Statuses written.
    counter "weir_control_status_writes_total" status_writes;
    /// Status writes that met a newer object and were done again.
    counter "weir_control_status_conflicts_total" status_conflicts;
    /// Status writes that failed, to be retried or given up.
    counter "weir_control_status_errors_total" status_errors;
    /// Statuses that wait to be written.
    gauge "weir_control_status_queue_length" status_queue;
    /// Statuses that were not taken because the queue was full.
    counter "weir_control_status_dropped_total" status_dropped;
    /// Statuses that wait for the data plane.
    gauge "weir_control_status_held" status_held;
    /// Kubernetes Events written.
    counter "weir_control_events_total" events;
    /// Kubernetes Events that were not written: the queue was full, or their object had too many.
    counter "weir_control_events_dropped_total" events_dropped;
    /// Writes of provisioned objects.
    counter "weir_control_provision_writes_total" provision_writes;
    /// Provisioned objects that are not as they should be now.
    gauge "weir_control_provision_pending" provision_pending;
    /// Whether this process leads: writes, provisions and serves data planes.
    gauge "weir_control_leader" leader;
    /// Controller names of ours whose classes are left to another controller.
    gauge "weir_control_names_left_alone" names_left_alone;
    /// Calls to the API that failed, except NotFound and Conflict.
    counter "weir_control_call_errors_total" call_errors;
    /// When the API answered last, in seconds since the Unix epoch; an answer that says that it failed is none.
    gauge "weir_control_api_answered_timestamp_seconds" api_answered;
}

impl ControlStatus {
    /// Whether every kind's first list is complete and the first update was sent.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub(crate) fn answered(&self) {
        self.api_answered.set(unix_seconds());
    }

    /// For how long the API has not answered, if that is longer than usual: every process asks for its Lease every two seconds.
    pub fn unanswered(&self) -> Option<Duration> {
        let last = self.api_answered.get();
        let since = Duration::from_secs(unix_seconds().saturating_sub(last));
        (last > 0 && since >= API_QUIET).then_some(since)
    }

    /// What the API refuses us for want of rights, now.
    pub fn denied(&self) -> Vec<Right> {
        self.rights.denied()
    }

    /// The one series with labels: there is none of it where all rights are there.
    fn render_denied(&self, out: &mut String) {
        out.push_str(
            "# HELP weir_control_denied Rights that the API refuses now.\n# TYPE weir_control_denied gauge\n",
        );
        for right in self.denied() {
            let Right { verb, resource, namespace } = right;
            let _ = writeln!(
                out,
                "weir_control_denied{{verb=\"{verb}\",resource=\"{resource}\",namespace=\"{namespace}\"}} 1"
            );
        }
    }

    /// Controller names of ours whose classes are left to another controller, each with why.
    pub fn left_alone(&self) -> BTreeMap<String, String> {
        self.left_alone.lock().clone()
    }

    pub(crate) fn set_left_alone(&self, names: BTreeMap<String, String>) {
        self.names_left_alone.set(names.len() as u64);
        *self.left_alone.lock() = names;
    }

    /// Kinds whose first list has not come.
    pub fn missing(&self) -> Vec<&'static str> {
        self.missing.lock().clone()
    }

    pub(crate) fn set_missing(&self, kinds: Vec<&'static str>) {
        *self.missing.lock() = kinds;
    }

    /// Kinds without which nothing is served and that the API does not serve.
    pub fn absent(&self) -> Vec<&'static str> {
        self.absent.lock().clone()
    }

    pub(crate) fn set_absent(&self, kinds: Vec<&'static str>) {
        *self.absent.lock() = kinds;
    }

    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }
}

/// Whole microseconds, saturating.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::ControlStatus;

    #[test]
    fn an_api_that_has_not_answered_for_a_while_is_told_of() {
        let status = ControlStatus::default();
        assert_eq!(status.unanswered(), None, "it has not been asked");
        status.answered();
        assert_eq!(status.unanswered(), None);
        status.api_answered.set(super::unix_seconds() - 60);
        assert!(status.unanswered().unwrap().as_secs() >= 60);
    }

    #[test]
    fn every_series_has_help_type_and_value() {
        let status = ControlStatus::default();
        status.status_writes.add(3);
        let text = status.render();
        assert!(text.contains(
            "# TYPE weir_control_status_writes_total counter\nweir_control_status_writes_total 3\n"
        ));
        assert!(text.contains("# HELP weir_control_status_writes_total Statuses written.\n"), "{text}");
        assert!(text.contains("weir_control_ready 0\n"));
        status.set_ready();
        assert!(status.render().contains("weir_control_ready 1\n"));
        assert!(text.lines().all(|line| line.starts_with("# ") || line.starts_with("weir_control_")));
    }
}

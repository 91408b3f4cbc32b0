//! Counters of the data plane and their Prometheus text.
//!
//! Each worker writes its own [`WorkerMetrics`] and nobody else writes them, so counting is a load and a store
//! without a bus lock; a scrape sums over the workers. The number of series does not depend on traffic or on the
//! number of routes beyond [`SERIES_RULES`].

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use weir_model::split::SplitReport;

use crate::error::Reason;
use crate::io::SocketCalls;

/// Rules that have per-backend series. Unit: rules. Source: ours (they would grow with the number of routes).
pub(crate) const SERIES_RULES: usize = 200;

/// Upper bounds of the latency histogram. Unit: microseconds.
const BUCKETS: [u64; 14] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// A number that one thread counts up and others read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Only the owning worker may call this.
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [Counter; BUCKETS.len() + 1],
    sum_micros: Counter,
}

impl Histogram {
    pub(crate) fn observe(&self, micros: u64) {
        let at = BUCKETS.partition_point(|bound| *bound < micros);
        self.buckets[at].add(1);
        self.sum_micros.add(micros);
    }
}

/// A counter for each reason of failure.
#[derive(Debug)]
pub(crate) struct ByReason([Counter; Reason::ALL.len()]);

impl Default for ByReason {
    fn default() -> Self {
        ByReason(std::array::from_fn(|_| Counter::default()))
    }
}

impl ByReason {
    pub(crate) fn of(&self, reason: Reason) -> &Counter {
        &self.0[reason as usize]
    }
}

/// What one worker counts.
#[derive(Debug, Default)]
pub(crate) struct WorkerMetrics {
    pub(crate) socket_calls: SocketCalls,
    pub(crate) connections: Counter,
    /// By the first digit of the status; 0 for requests that ended without a response.
    pub(crate) requests: [Counter; 6],
    pub(crate) failures: ByReason,
    pub(crate) durations: Histogram,
    pub(crate) upstream_connects: Counter,
    pub(crate) upstream_connect_failures: Counter,
    pub(crate) upstream_reuses: Counter,
    pub(crate) retries: Counter,
    pub(crate) tunnels: Counter,
    pub(crate) held: Counter,
    pub(crate) session_requests: Counter,
    pub(crate) mirrors: Counter,
    pub(crate) mirror_drops: Counter,
    pub(crate) retries_refused: Counter,
    pub(crate) idle_closed: Counter,
    /// Connections of clients that speak HTTP/2, and requests on them.
    pub(crate) http2_connections: Counter,
    pub(crate) http2_streams: Counter,
    /// Those that were closed because of resets or of frames that carry nothing.
    pub(crate) http2_floods: Counter,
    pub(crate) panics: Counter,
    /// TLS with clients that came about.
    pub(crate) handshakes: Counter,
    /// Connections to TLS listeners that came to nothing.
    pub(crate) handshake_failures: Counter,
    pub(crate) upstream_handshakes: Counter,
    pub(crate) upstream_handshake_failures: Counter,
    /// Connections whose bytes go to a backend as they are.
    pub(crate) streams: Lives,
    /// Of UDP.
    pub(crate) flows: Lives,
    pub(crate) datagrams_dropped: Counter,
}

/// What begins and ends.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    pub(crate) opened: Counter,
    pub(crate) closed: Counter,
}

impl Lives {
    fn open(&self) -> u64 {
        // The later first, so that the difference cannot be negative.
        let closed = self.closed.get();
        self.opened.get().saturating_sub(closed)
    }
}

/// What is counted outside the workers.
#[derive(Debug, Default)]
pub(crate) struct FrontMetrics {
    /// Times that accepting waited because there were too many connections.
    pub(crate) accept_pauses: AtomicU64,
    /// Times that accepting failed for want of file descriptors or memory.
    pub(crate) accept_failures: AtomicU64,
    pub(crate) updates: AtomicU64,
    pub(crate) rejected_resources: AtomicU64,
    pub(crate) bind_failures: AtomicU64,
}

/// Numbers that are read at the moment of a scrape.
pub(crate) struct Gauges {
    pub(crate) open_connections: Vec<usize>,
    pub(crate) binds: usize,
    pub(crate) log_drops: u64,
}

pub(crate) fn render(
    workers: &[Arc<WorkerMetrics>],
    front: &FrontMetrics,
    gauges: &Gauges,
    splits: &[SplitReport],
) -> String {
    let mut text = Text(String::with_capacity(8 * 1024));
    let sum = |pick: &dyn Fn(&WorkerMetrics) -> u64| workers.iter().map(|worker| pick(worker)).sum::<u64>();

    text.counter("connections_total", "Connections accepted.", sum(&|w| w.connections.get()));
    text.head("connections_open", "gauge", "Client connections open now, by worker.");
    for (index, open) in gauges.open_connections.iter().enumerate() {
        text.line("connections_open", &[("worker", &index.to_string())], *open as u64);
    }
    text.counter(
        "accept_pauses_total",
        "Times that accepting waited because there were too many connections.",
        front.accept_pauses.load(Relaxed),
    );
    text.counter("accept_failures_total", "Failed accepts.", front.accept_failures.load(Relaxed));
    text.head(
        "requests_total",
        "counter",
        "Requests by class of the response's status; none: the client had gone.",
    );
    for (index, class) in ["none", "1xx", "2xx", "3xx", "4xx", "5xx"].iter().enumerate() {
        text.line("requests_total", &[("code", class)], sum(&|w| w.requests[index].get()));
    }
    text.head("failures_total", "counter", "Requests that the proxy answered or ended itself, by reason.");
    for reason in Reason::ALL {
        text.line("failures_total", &[("reason", reason.as_str())], sum(&|w| w.failures.of(*reason).get()));
    }
    text.histogram(workers);
    text.totals(workers, front, gauges);
    text.head("socket_calls_total", "counter", "Reads and writes that entered the kernel.");
    text.line("socket_calls_total", &[("call", "read")], sum(&|w| w.socket_calls.reads.get()));
    text.line("socket_calls_total", &[("call", "write")], sum(&|w| w.socket_calls.writes.get()));
    text.gauge("streams_open", "TCP and TLS streams open now.", sum(&|w| w.streams.open()));
    text.head("udp_flows_open", "gauge", "UDP flows open now, by worker.");
    for (index, worker) in workers.iter().enumerate() {
        text.line("udp_flows_open", &[("worker", &index.to_string())], worker.flows.open());
    }
    text.gauge("binds_open", "Listening sockets.", gauges.binds as u64);
    text.splits(splits);
    text.0
}

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "# HELP weir_proxy_{name} {help}\n# TYPE weir_proxy_{name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.0.push_str("weir_proxy_");
        self.0.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"{}\"", Escaped(value));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.line(name, &[], value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "gauge", help);
        self.line(name, &[], value);
    }

    fn histogram(&mut self, workers: &[Arc<WorkerMetrics>]) {
        let name = "request_duration_seconds";
        self.head(name, "histogram", "From a request's head to the end of its response.");
        let mut total = 0;
        for index in 0..=BUCKETS.len() {
            total += workers.iter().map(|worker| worker.durations.buckets[index].get()).sum::<u64>();
            let bound = match BUCKETS.get(index) {
                Some(micros) => format!("{}", *micros as f64 / 1e6),
                None => "+Inf".to_owned(),
            };
            self.line("request_duration_seconds_bucket", &[("le", &bound)], total);
        }
        let micros: u64 = workers.iter().map(|worker| worker.durations.sum_micros.get()).sum();
        let _ = writeln!(self.0, "weir_proxy_{name}_sum {}", micros as f64 / 1e6);
        self.line("request_duration_seconds_count", &[], total);
    }

    fn totals(&mut self, workers: &[Arc<WorkerMetrics>], front: &FrontMetrics, gauges: &Gauges) {
        let sum =
            |pick: &dyn Fn(&WorkerMetrics) -> u64| workers.iter().map(|worker| pick(worker)).sum::<u64>();
        for (name, help, value) in [
            (
                "upstream_connects_total",
                "Connections opened to endpoints.",
                sum(&|w| w.upstream_connects.get()),
            ),
            (
                "upstream_connect_failures_total",
                "Connections to endpoints that failed.",
                sum(&|w| w.upstream_connect_failures.get()),
            ),
            (
                "upstream_reuses_total",
                "Requests sent on a pooled connection.",
                sum(&|w| w.upstream_reuses.get()),
            ),
            ("retries_total", "Requests sent again.", sum(&|w| w.retries.get())),
            ("tunnels_total", "Upgraded connections.", sum(&|w| w.tunnels.get())),
            ("held_total", "Requests that waited for endpoints.", sum(&|w| w.held.get())),
            (
                "session_requests_total",
                "Requests that a session kept with their backend: they took no ticket.",
                sum(&|w| w.session_requests.get()),
            ),
            ("mirrors_total", "Requests copied to a mirror.", sum(&|w| w.mirrors.get())),
            (
                "mirror_drops_total",
                "Copies given up: too many at once, too slow, or out of reach.",
                sum(&|w| w.mirror_drops.get()),
            ),
            (
                "retries_refused_total",
                "Tries that a backend's retry budget did not allow.",
                sum(&|w| w.retries_refused.get()),
            ),
            ("idle_closed_total", "Idle connections closed to make room.", sum(&|w| w.idle_closed.get())),
            (
                "http2_connections_total",
                "Connections of clients that speak HTTP/2.",
                sum(&|w| w.http2_connections.get()),
            ),
            ("http2_streams_total", "Requests on them.", sum(&|w| w.http2_streams.get())),
            (
                "http2_floods_total",
                "Those that were closed because of resets or of frames that carry nothing.",
                sum(&|w| w.http2_floods.get()),
            ),
            ("panics_total", "Connections lost to a panic.", sum(&|w| w.panics.get())),
            ("tls_handshakes_total", "TLS handshakes with clients.", sum(&|w| w.handshakes.get())),
            (
                "tls_handshake_failures_total",
                "Connections to TLS listeners that were refused or broke off before they were secured.",
                sum(&|w| w.handshake_failures.get()),
            ),
            (
                "upstream_tls_handshakes_total",
                "TLS handshakes with endpoints.",
                sum(&|w| w.upstream_handshakes.get()),
            ),
            (
                "upstream_tls_handshake_failures_total",
                "Failed TLS handshakes with endpoints.",
                sum(&|w| w.upstream_handshake_failures.get()),
            ),
            ("streams_total", "TCP and TLS streams for backends.", sum(&|w| w.streams.opened.get())),
            ("udp_flows_total", "UDP flows.", sum(&|w| w.flows.opened.get())),
            (
                "udp_datagrams_dropped_total",
                "Datagrams of clients that went nowhere.",
                sum(&|w| w.datagrams_dropped.get()),
            ),
            ("updates_total", "Updates applied.", front.updates.load(Relaxed)),
            (
                "rejected_resources_total",
                "Resources that could not be compiled.",
                front.rejected_resources.load(Relaxed),
            ),
            ("bind_failures_total", "Failed tries to bind a socket.", front.bind_failures.load(Relaxed)),
            (
                "access_log_drops_total",
                "Access log lines lost because the writer was behind.",
                gauges.log_drops,
            ),
        ] {
            self.counter(name, help, value);
        }
    }

    fn splits(&mut self, splits: &[SplitReport]) {
        let eligible = || splits.iter().filter(|split| split.backends.len() >= 2);
        self.head(
            "backend_requests_total",
            "counter",
            "Requests that the split of a rule gave to a backend.",
        );
        for split in eligible().take(SERIES_RULES) {
            let place = split.rule_index.to_string();
            let route = split.route_label();
            let rule = if split.rule.is_empty() { place.as_str() } else { &split.rule };
            for (index, share) in split.backends.iter().enumerate() {
                // The total of a backend that occurs twice is one total.
                if split.backends[..index].iter().all(|before| before.backend != share.backend) {
                    let labels = [("route", &*route), ("rule", rule), ("backend", &share.backend)];
                    self.line("backend_requests_total", &labels, share.served_total);
                }
            }
        }
        let left_out = eligible().count().saturating_sub(SERIES_RULES);
        self.gauge(
            "backend_requests_left_out_rules",
            "Rules with two or more backends that have no series of their own.",
            left_out as u64,
        );
    }
}

struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for character in self.0.chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

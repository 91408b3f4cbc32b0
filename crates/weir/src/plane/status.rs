//! How this data plane is: for the admin port, for controllers, and in words.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

use weir_model::resource::BindReport;
use weir_model::wire::Report;
use weir_proxy::Proxy;

use super::identity::unix_seconds;

/// A clock that differs by more is told of. Unit: seconds. Source: ours; certificates bear two hours.
const SKEW_TOLD_SECONDS: i64 = 300;

pub(crate) struct PlaneStatus {
    proxy: Proxy,
    /// What listeners' address on the wire became here.
    address: Option<String>,
    /// A state runs.
    applied: AtomicBool,
    /// It is that of the last run, and no controller has confirmed it.
    last_known_good: AtomicBool,
    /// When that was written; seconds since the Unix epoch.
    kept_seconds: AtomicI64,
    connected: AtomicBool,
    /// By a controller that leads no more.
    caretaken: AtomicBool,
    draining: AtomicBool,
    skew_seconds: AtomicI64,
    /// Of the certificate; seconds since the Unix epoch, 0 without one.
    certificate_ends: AtomicI64,
    pub(crate) counters: Counters,
    /// What the last attempt to reach a controller came to.
    problem: Mutex<String>,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) connections: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) messages: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) certificates: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) write_failures: AtomicU64,
}

impl PlaneStatus {
    pub(crate) fn new(proxy: Proxy, address: Option<String>) -> PlaneStatus {
        PlaneStatus {
            proxy,
            address,
            applied: AtomicBool::default(),
            last_known_good: AtomicBool::default(),
            kept_seconds: AtomicI64::default(),
            connected: AtomicBool::default(),
            caretaken: AtomicBool::default(),
            draining: AtomicBool::default(),
            skew_seconds: AtomicI64::default(),
            certificate_ends: AtomicI64::default(),
            counters: Counters::default(),
            problem: Mutex::default(),
        }
    }

    pub(crate) fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// A state that a controller gave runs.
    pub(crate) fn runs(&self) {
        self.applied.store(true, Relaxed);
        self.last_known_good.store(false, Relaxed);
    }

    /// The state of the last run runs.
    pub(crate) fn runs_last_known_good(&self, kept_seconds: i64) {
        self.kept_seconds.store(kept_seconds, Relaxed);
        self.last_known_good.store(true, Relaxed);
        self.applied.store(true, Relaxed);
    }

    pub(crate) fn is_applied(&self) -> bool {
        self.applied.load(Relaxed)
    }

    pub(crate) fn connected(&self, is: bool) {
        self.connected.store(is, Relaxed);
        if is {
            self.tell_problem(String::new());
        }
    }

    /// Whether who serves leads no more; true where it was otherwise until now.
    pub(crate) fn caretaken(&self, is: bool) -> bool {
        self.caretaken.swap(is, Relaxed) != is
    }

    pub(crate) fn is_caretaken(&self) -> bool {
        self.caretaken.load(Relaxed)
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Whether it is news.
    pub(crate) fn tell_problem(&self, problem: String) -> bool {
        let mut known = self.problem.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_news = *known != problem;
        *known = problem;
        is_news
    }

    fn problem(&self) -> String {
        self.problem.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub(crate) fn certificate_ends(&self, at_seconds: i64) {
        self.certificate_ends.store(at_seconds, Relaxed);
    }

    /// The controller's clock as it was a moment ago.
    pub(crate) fn compare_clocks(&self, theirs_seconds: i64) {
        let skew = unix_seconds().saturating_sub(theirs_seconds);
        self.skew_seconds.store(skew, Relaxed);
        if skew.abs() > SKEW_TOLD_SECONDS {
            tracing::warn!(
                skew_seconds = skew,
                "this node's clock and the controller's differ; certificates bear two hours of it"
            );
        }
    }

    /// For controllers: addresses as they came.
    pub(crate) fn report(&self) -> Report {
        let binds = self.proxy.binds().borrow().iter().map(|bind| self.as_it_came(bind)).collect();
        Report { ready: self.ready().is_ok(), binds, draining: self.draining.load(Relaxed) }
    }

    fn as_it_came(&self, bind: &BindReport) -> BindReport {
        match &self.address {
            Some(address) if *address == bind.address => {
                BindReport { address: super::WILDCARD.to_owned(), ..bind.clone() }
            }
            _ => bind.clone(),
        }
    }

    /// `Err` says what is still missing.
    pub(crate) fn ready(&self) -> Result<(), String> {
        if self.draining.load(Relaxed) {
            return Err("the data plane is ending".to_owned());
        }
        if !self.is_applied() {
            let problem = self.problem();
            let why = if problem.is_empty() { "a controller is being asked" } else { &problem };
            return Err(format!("there is no snapshot yet, and none of an earlier run: {why}"));
        }
        let binds = self.proxy.binds();
        let binds = binds.borrow();
        match binds.iter().find(|bind| !bind.error.is_empty()) {
            // One port that cannot be had must not take the others away.
            Some(bind) if binds.iter().all(|bind| !bind.error.is_empty()) => {
                Err(format!("no socket could be bound: {}", bind.error))
            }
            _ => Ok(()),
        }
    }

    /// What is to be known of one that is ready.
    pub(crate) fn remark(&self) -> Option<String> {
        if self.connected.load(Relaxed) {
            let remark = "no controller leads now; the one that led last serves this data plane";
            return self.is_caretaken().then(|| remark.to_owned());
        }
        let problem = self.problem();
        let why = if problem.is_empty() { "no controller has been reached yet" } else { &problem };
        if self.last_known_good.load(Relaxed) {
            let age = unix_seconds().saturating_sub(self.kept_seconds.load(Relaxed));
            return Some(format!("serving the last known good state, written {age} s ago: {why}"));
        }
        Some(format!("serving what the last controller said: {why}"))
    }

    pub(crate) fn metrics(&self) -> String {
        let mut out = self.proxy.metrics();
        let mut one = |name: &str, kind: &str, help: &str, value: i64| {
            // Writing to a String cannot fail.
            let _ = write!(
                out,
                "# HELP weir_plane_{name} {help}\n# TYPE weir_plane_{name} {kind}\nweir_plane_{name} {value}\n"
            );
        };
        let flag = |flag: &AtomicBool| i64::from(flag.load(Relaxed));
        one("connected", "gauge", "Whether a controller is connected.", flag(&self.connected));
        let help = "Whether the state of the last run is served, which no controller has confirmed.";
        one("last_known_good", "gauge", help, flag(&self.last_known_good));
        let ends = self.certificate_ends.load(Relaxed);
        one(
            "certificate_end_seconds",
            "gauge",
            "When the certificate ends, in Unix time; 0 without one.",
            ends,
        );
        let skew = self.skew_seconds.load(Relaxed);
        one("clock_skew_seconds", "gauge", "This clock less the controller's, at the last connection.", skew);
        let count = |counter: &AtomicU64| i64::try_from(counter.load(Relaxed)).unwrap_or(i64::MAX);
        let all = &self.counters;
        one("connections_total", "counter", "Streams from controllers.", count(&all.connections));
        one("connection_failures_total", "counter", "Attempts without a stream.", count(&all.failures));
        one("messages_total", "counter", "Messages of controllers that were applied.", count(&all.messages));
        one("refused_states_total", "counter", "Older states that were refused.", count(&all.refused));
        one("certificates_total", "counter", "Certificates that were obtained.", count(&all.certificates));
        one("state_writes_total", "counter", "Writes of the last known good state.", count(&all.writes));
        let failed = count(&all.write_failures);
        one("state_write_failures_total", "counter", "Writes of it that failed.", failed);
        out
    }
}

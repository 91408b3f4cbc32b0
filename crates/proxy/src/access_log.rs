//! The access log: one line a request, where it is asked for.
//!
//! Workers hand entries to one writer thread over a bounded queue; when the writer is behind, entries are dropped
//! and counted, requests never wait. Lines are JSON; they hold no header values but the user agent, no query and no bodies.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::config::AccessLog;
use crate::record::RequestRecord;

/// Entries that may wait for the writer. Unit: entries. Source: ours.
const QUEUE: usize = 8 * 1024;

/// One request.
#[derive(Clone, Debug, Serialize)]
pub struct AccessEntry {
    /// When it ended: seconds since the Unix epoch.
    pub time: f64,
    pub client: String,
    pub method: String,
    pub host: String,
    /// Without the query.
    pub path: String,
    pub request_id: String,
    pub user_agent: String,
    /// The response's status; 0 when there was none.
    pub status: u16,
    /// Empty, or why the proxy answered itself or cut the response short.
    pub reason: &'static str,
    /// Empty, or whose fault that was.
    pub blame: &'static str,
    pub duration_ms: f64,
    pub upstream_latency_ms: Option<f64>,
    pub retries: u32,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// Empty where the request came to none.
    pub listener: String,
    /// Empty where the request came to none.
    pub route: String,
    /// Empty where the request came to none.
    pub rule: String,
    pub rule_index: usize,
    /// Empty where the request came to none.
    pub backend: String,
    pub endpoint: String,
}

/// Takes entries.
pub trait AccessSink: Send + Sync {
    fn entry(&self, entry: AccessEntry);
}

/// Where the log is once somebody wants one: without a word about where, on standard output.
pub(crate) struct LogSlot {
    to: AccessLog,
    opened: OnceLock<Option<Log>>,
}

impl LogSlot {
    pub(crate) fn new(to: AccessLog) -> LogSlot {
        LogSlot { to, opened: OnceLock::new() }
    }

    /// Opens the log, unless that has been tried.
    pub(crate) fn open(&self) -> io::Result<()> {
        if self.opened.get().is_none() {
            let to = if matches!(self.to, AccessLog::Off) { &AccessLog::Stdout } else { &self.to };
            let log = Log::open(to)?;
            // Another was as quick, and its log is as good.
            let _ = self.opened.set(log);
        }
        Ok(())
    }

    /// Opens the log if there is none yet. Whether there is one.
    pub(crate) fn is_open(&self) -> bool {
        if let Err(error) = self.open() {
            tracing::error!(%error, "the access log cannot be opened");
        }
        self.get().is_some()
    }

    /// `None` while nobody has wanted one.
    pub(crate) fn get(&self) -> Option<&Log> {
        self.opened.get()?.as_ref()
    }
}

#[derive(Clone)]
pub(crate) struct Log {
    to: Destination,
    drops: Arc<AtomicU64>,
}

#[derive(Clone)]
enum Destination {
    Queue(SyncSender<AccessEntry>),
    Sink(Arc<dyn AccessSink>),
}

impl Log {
    /// Opens the log; its writer thread ends when the last clone is dropped.
    pub(crate) fn open(log: &AccessLog) -> io::Result<Option<Log>> {
        let writer: Box<dyn Write + Send> = match log {
            AccessLog::Off => return Ok(None),
            AccessLog::Sink(sink) => {
                return Ok(Some(Log { to: Destination::Sink(sink.clone()), drops: Arc::default() }));
            }
            AccessLog::Stdout => Box::new(io::stdout()),
            AccessLog::File(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        };
        let (sender, receiver) = sync_channel(QUEUE);
        std::thread::Builder::new().name("weir-access-log".into()).spawn(move || write(&receiver, writer))?;
        Ok(Some(Log { to: Destination::Queue(sender), drops: Arc::default() }))
    }

    pub(crate) fn drops(&self) -> u64 {
        self.drops.load(Relaxed)
    }

    pub(crate) fn write(&self, record: RequestRecord, duration: Duration) {
        let entry = entry(record, duration);
        match &self.to {
            Destination::Sink(sink) => sink.entry(entry),
            Destination::Queue(queue) => {
                if queue.try_send(entry).is_err() {
                    self.drops.fetch_add(1, Relaxed);
                }
            }
        }
    }
}

fn entry(record: RequestRecord, duration: Duration) -> AccessEntry {
    let text = record.text.map(|text| *text).unwrap_or_default();
    let verdict = record.failure.map(|failure| failure.verdict());
    AccessEntry {
        time: SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64()),
        client: text.client,
        method: text.method,
        host: text.host,
        path: text.path,
        request_id: text.request_id,
        user_agent: text.user_agent,
        status: record.status,
        reason: verdict.map_or("", |verdict| verdict.reason.as_str()),
        blame: verdict.map_or("", |verdict| verdict.blame.as_str()),
        duration_ms: duration.as_secs_f64() * 1e3,
        upstream_latency_ms: record.upstream_latency.map(|latency| latency.as_secs_f64() * 1e3),
        retries: record.retries,
        request_bytes: record.request_bytes,
        response_bytes: record.response_bytes,
        listener: text.listener.as_deref().unwrap_or_default().to_owned(),
        route: text.route.as_deref().unwrap_or_default().to_owned(),
        rule: text.rule.as_deref().unwrap_or_default().to_owned(),
        rule_index: text.rule_index,
        backend: text.backend.as_deref().unwrap_or_default().to_owned(),
        endpoint: text.endpoint,
    }
}

/// Writes entries until every sender is gone; what is buffered goes out whenever the queue is empty.
fn write(entries: &Receiver<AccessEntry>, writer: Box<dyn Write + Send>) {
    let mut writer = BufWriter::new(writer);
    while let Ok(first) = entries.recv() {
        let mut next = Ok(first);
        while let Ok(entry) = &next {
            // A log that cannot be written must not stop the traffic; a full disk heals.
            let _ = serde_json::to_writer(&mut writer, entry).map(|()| writer.write_all(b"\n"));
            next = entries.try_recv();
        }
        let _ = writer.flush();
        if matches!(next, Err(TryRecvError::Disconnected)) {
            break;
        }
    }
}

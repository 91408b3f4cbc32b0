//! What `kubectl logs` reads: lines that running pods wrote.
//!
//! Owns: a bounded log per container, keyed by the pod's uid so that a pod of the same name starts anew. The pods
//! write, the `log` subresource reads and follows. Invariant: memory is bounded per container; the oldest lines go
//! first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Lines kept per container. Source: a terminal's worth for a sandbox; the kubelet keeps 10 MiB.
const LINES_PER_CONTAINER: usize = 2_000;
/// Bytes of one line; the rest of a longer one is cut. Source: the CRI's line limit, 16 KiB.
const LINE_BYTES: usize = 16 * 1024;

/// One line of a container's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written.
    pub at: Timestamp,
    /// Without its end of line.
    pub text: String,
}

#[derive(Debug)]
struct ContainerLog {
    lines: VecDeque<LogLine>,
    /// Lines ever written, so that a follower knows what it has seen.
    written: u64,
    announce: watch::Sender<u64>,
}

/// All containers' logs; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct LogSource {
    containers: Arc<Mutex<BTreeMap<(String, String), ContainerLog>>>,
}

/// A position in a container's log.
#[derive(Debug)]
pub struct LogReader {
    source: LogSource,
    key: (String, String),
    next: u64,
    news: watch::Receiver<u64>,
}

impl LogSource {
    /// Appends a line (or several, split at line ends) to the log of a pod's container.
    pub fn append(&self, pod_uid: &str, container: &str, text: &str, at: Timestamp) {
        let mut containers = self.containers.lock();
        let log =
            containers.entry((pod_uid.to_owned(), container.to_owned())).or_insert_with(ContainerLog::new);
        for line in text.lines() {
            log.push(LogLine { at, text: cut(line).to_owned() });
        }
        log.announce.send_replace(log.written);
    }

    /// Forgets a pod's logs; those who follow them come to an end.
    pub fn forget(&self, pod_uid: &str) {
        self.containers.lock().retain(|(uid, _), _| uid != pod_uid);
    }

    /// The lines that are there now.
    pub fn read(&self, pod_uid: &str, container: &str) -> Vec<LogLine> {
        let key = (pod_uid.to_owned(), container.to_owned());
        self.containers.lock().get(&key).map(|log| log.lines.iter().cloned().collect()).unwrap_or_default()
    }

    /// The present lines and a reader of those that come after them: none is missed, none is twice.
    pub fn read_then_follow(&self, pod_uid: &str, container: &str) -> (Vec<LogLine>, LogReader) {
        let key = (pod_uid.to_owned(), container.to_owned());
        let mut containers = self.containers.lock();
        let log = containers.entry(key.clone()).or_insert_with(ContainerLog::new);
        let lines = log.lines.iter().cloned().collect();
        (lines, LogReader { source: self.clone(), next: log.written, news: log.announce.subscribe(), key })
    }

    /// A reader of what is written after the present lines.
    pub fn follow(&self, pod_uid: &str, container: &str) -> LogReader {
        self.read_then_follow(pod_uid, container).1
    }
}

impl ContainerLog {
    fn new() -> ContainerLog {
        ContainerLog { lines: VecDeque::new(), written: 0, announce: watch::channel(0).0 }
    }

    fn push(&mut self, line: LogLine) {
        if self.lines.len() == LINES_PER_CONTAINER {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
        self.written += 1;
    }
}

impl LogReader {
    /// Waits for more lines; `None` when the pod's log was forgotten.
    pub async fn next(&mut self) -> Option<Vec<LogLine>> {
        loop {
            self.news.borrow_and_update();
            {
                let containers = self.source.containers.lock();
                let log = containers.get(&self.key)?;
                let unseen = usize::try_from(log.written.saturating_sub(self.next)).unwrap_or(usize::MAX);
                if unseen > 0 {
                    self.next = log.written;
                    let skip = log.lines.len().saturating_sub(unseen);
                    return Some(log.lines.iter().skip(skip).cloned().collect());
                }
            }
            self.news.changed().await.ok()?;
        }
    }
}

/// At most [`LINE_BYTES`] of a line, cut between characters.
fn cut(line: &str) -> &str {
    let mut end = line.len().min(LINE_BYTES);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    &line[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readers_see_old_lines_then_followers_each_new_one_once() {
        let logs = LogSource::default();
        let at = Timestamp::UNIX_EPOCH;
        logs.append("u", "c", "one\ntwo\n", at);
        assert_eq!(logs.read("u", "c").len(), 2);
        let mut reader = logs.follow("u", "c");
        logs.append("u", "c", "three", at);
        let lines = reader.next().await.expect("a line");
        assert_eq!(lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["three"]);
        logs.forget("u");
        assert_eq!(reader.next().await, None);
    }

    #[test]
    fn memory_is_bounded_per_container() {
        let logs = LogSource::default();
        for n in 0..LINES_PER_CONTAINER + 10 {
            logs.append("u", "c", &n.to_string(), Timestamp::UNIX_EPOCH);
        }
        let lines = logs.read("u", "c");
        assert_eq!(lines.len(), LINES_PER_CONTAINER);
        assert_eq!(lines[0].text, "10");
        assert_eq!(cut(&"ä".repeat(LINE_BYTES)).len(), LINE_BYTES);
    }
}

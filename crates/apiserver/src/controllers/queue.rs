//! The work of one controller: keys that wait for their turn.
//!
//! Owns: which keys are due, being worked on, or due later.
//!
//! Invariants: a key is worked on by one task at a time; a key that is added while it is worked on is worked on once
//! more; a failed key comes back after a back-off that doubles and is forgotten at the first success.
//!
//! Deliberately absent: rate limits for healthy keys, and timers for anything but failures and what a controller
//! itself asks to look at later (a readiness time, a progress deadline).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// First wait after a failure. Source: client-go's workqueue.
const FIRST_RETRY: Duration = Duration::from_millis(5);
/// Longest wait after failures. Source: ours; client-go's 1000 s is too long for somebody who watches.
const LONGEST_RETRY: Duration = Duration::from_secs(15);

/// See the module's head.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

struct State<T> {
    due: VecDeque<T>,
    queued: HashSet<T>,
    working: HashSet<T>,
    /// Added while worked on.
    again: HashSet<T>,
    later: BinaryHeap<Reverse<(Instant, T)>>,
    failures: HashMap<T, u32>,
}

/// When a key wants to be looked at again though nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    OnChange,
    After(Duration),
}

impl<T: Clone + Eq + Hash + Ord + Send + 'static> Queue<T> {
    pub(crate) fn new() -> Arc<Self> {
        let state = State {
            due: VecDeque::new(),
            queued: HashSet::new(),
            working: HashSet::new(),
            again: HashSet::new(),
            later: BinaryHeap::new(),
            failures: HashMap::new(),
        };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new() })
    }

    /// Makes the key due now.
    pub(crate) fn add(&self, key: T) {
        if self.state.lock().add(key) {
            self.changed.notify_one();
        }
    }

    /// Works on keys, at most `parallel` at a time, until `shutdown`; then waits for what is being worked on.
    pub(crate) async fn work<F, W, E>(self: Arc<Self>, parallel: usize, shutdown: CancellationToken, work: F)
    where
        F: Fn(T) -> W + Send + Sync + 'static,
        W: Future<Output = Result<Next, E>> + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let work = Arc::new(work);
        let mut running = JoinSet::new();
        loop {
            while running.len() < parallel {
                let Some(key) = self.take() else { break };
                let (queue, work) = (self.clone(), work.clone());
                running.spawn(async move {
                    let guard = Finish { queue: &queue, key: Some(key.clone()) };
                    let outcome = work(key).await;
                    guard.with(outcome);
                });
            }
            let due = self.state.lock().later.peek().map(|Reverse((at, _))| *at);
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.changed.notified() => {}
                Some(_) = running.join_next() => {}
                () = sleep_until(due), if due.is_some() => {}
            }
        }
        while running.join_next().await.is_some() {}
    }

    fn take(&self) -> Option<T> {
        let mut state = self.state.lock();
        let now = Instant::now();
        while state.later.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            if let Some(Reverse((_, key))) = state.later.pop() {
                state.add(key);
            }
        }
        let key = state.due.pop_front()?;
        state.queued.remove(&key);
        state.working.insert(key.clone());
        Some(key)
    }

    fn finish<E: std::fmt::Display>(&self, key: &T, outcome: Option<Result<Next, E>>) {
        let mut state = self.state.lock();
        state.working.remove(key);
        if state.again.remove(key) {
            state.add(key.clone());
        }
        match outcome {
            Some(Ok(Next::OnChange)) => {
                state.failures.remove(key);
            }
            Some(Ok(Next::After(delay))) => {
                state.failures.remove(key);
                state.later.push(Reverse((Instant::now() + delay, key.clone())));
            }
            Some(Err(_)) | None => {
                let failures = state.failures.entry(key.clone()).or_insert(0);
                let delay = retry_delay(*failures);
                *failures += 1;
                state.later.push(Reverse((Instant::now() + delay, key.clone())));
            }
        }
        drop(state);
        self.changed.notify_one();
    }
}

impl<T: Clone + Eq + Hash + Ord> State<T> {
    /// Returns whether there is new work.
    fn add(&mut self, key: T) -> bool {
        if self.working.contains(&key) {
            self.again.insert(key);
            return false;
        }
        if self.queued.insert(key.clone()) {
            self.due.push_back(key);
            return true;
        }
        false
    }
}

/// Gives the key back even when the work panicked.
struct Finish<'a, T: Clone + Eq + Hash + Ord + Send + 'static> {
    queue: &'a Queue<T>,
    key: Option<T>,
}

impl<T: Clone + Eq + Hash + Ord + Send + 'static> Finish<'_, T> {
    fn with<E: std::fmt::Display>(mut self, outcome: Result<Next, E>) {
        if let Err(error) = &outcome {
            tracing::debug!(error = %error, "work failed; it is tried again");
        }
        if let Some(key) = self.key.take() {
            self.queue.finish(&key, Some(outcome));
        }
    }
}

impl<T: Clone + Eq + Hash + Ord + Send + 'static> Drop for Finish<'_, T> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.queue.finish::<std::convert::Infallible>(&key, None);
        }
    }
}

fn retry_delay(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.min(16)).min(LONGEST_RETRY)
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_worked_on_is_worked_on_once_more_and_never_twice_at_once() {
        let queue = Queue::new();
        let (runs, inside) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let shutdown = CancellationToken::new();
        let (count, busy, again, stop) = (runs.clone(), inside.clone(), queue.clone(), shutdown.clone());
        queue.add("a");
        let work = queue.clone().work(4, shutdown, move |key| {
            let (count, busy, again, stop) = (count.clone(), busy.clone(), again.clone(), stop.clone());
            async move {
                assert_eq!(busy.fetch_add(1, Ordering::SeqCst), 0);
                if count.fetch_add(1, Ordering::SeqCst) == 0 {
                    again.add(key);
                    again.add(key);
                    tokio::task::yield_now().await;
                } else {
                    stop.cancel();
                }
                busy.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, std::convert::Infallible>(Next::OnChange)
            }
        });
        tokio::time::timeout(Duration::from_secs(5), work).await.expect("ends");
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_and_a_panic_come_back_and_a_success_does_not() {
        let queue = Queue::new();
        let runs = Arc::new(AtomicUsize::new(0));
        let shutdown = CancellationToken::new();
        let (count, stop) = (runs.clone(), shutdown.clone());
        queue.add(1);
        let work = queue.clone().work(1, shutdown, move |_| {
            let (count, stop) = (count.clone(), stop.clone());
            async move {
                match count.fetch_add(1, Ordering::SeqCst) {
                    0 => Err("refused"),
                    1 => panic!("a defect in a controller"),
                    _ => {
                        stop.cancel();
                        Ok(Next::OnChange)
                    }
                }
            }
        });
        tokio::time::timeout(Duration::from_secs(5), work).await.expect("ends");
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        assert_eq!(retry_delay(0), Duration::from_millis(5));
        assert_eq!(retry_delay(3), Duration::from_millis(40));
        assert_eq!(retry_delay(60), LONGEST_RETRY);
    }
}

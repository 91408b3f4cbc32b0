//! The orderly end: nobody who is being served notices, nobody who comes late is turned away before the door is shut.
//!
//! 1. For a while connections are accepted as before, so that load balancers may look away, and each answer is the last of
//!    its connection.
//! 2. What waits in the listening sockets is accepted, and they are closed.
//! 3. Idle connections are closed, requests under way are answered, up to a deadline. Updates are applied meanwhile: what is under way
//!    may need them.

use std::future::pending;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Sleep;

use crate::apply::Applier;
use crate::worker::Order;

/// An end that is under way.
pub(crate) struct Drain {
    /// Of the current stage.
    timer: Pin<Box<Sleep>>,
    /// How long the last stage may take.
    deadline: Duration,
    /// `None` while connections are accepted; then those workers that have connections still.
    busy: Option<Vec<oneshot::Receiver<()>>>,
    /// Who waits for the end.
    done: Vec<oneshot::Sender<()>>,
}

impl Drain {
    /// Someone else waits for the same end.
    pub(crate) fn join(&mut self, done: oneshot::Sender<()>) {
        self.done.push(done);
    }

    /// Until the stage is over; for ever where there is none. May be dropped and begun again.
    pub(crate) async fn turn(drain: &mut Option<Drain>) {
        let Some(Drain { timer, busy, .. }) = drain else { return pending().await };
        let Some(busy) = busy else { return timer.await };
        let all = async {
            while let Some(worker) = busy.last_mut() {
                // A worker that ended has no connections.
                let _ = worker.await;
                busy.pop();
            }
        };
        tokio::select! {
            () = all => {}
            () = timer => {}
        }
    }
}

impl Applier {
    /// Goes on accepting for `delay`; then the sockets are to be closed, and what is under way has until `deadline`.
    pub(crate) async fn begin_drain(
        &mut self,
        delay: Duration,
        deadline: Duration,
        done: oneshot::Sender<()>,
    ) -> Drain {
        self.draining = true;
        for worker in &self.workers {
            // A worker that ended has no connections.
            let _ = worker.orders.send(Order::Retire).await;
        }
        Drain { timer: Box::pin(tokio::time::sleep(delay)), deadline, busy: None, done: vec![done] }
    }

    /// The next stage; `None` after the last.
    pub(crate) async fn go_on_draining(&mut self, drain: Option<Drain>) -> Option<Drain> {
        let mut drain = drain?;
        if let Some(busy) = drain.busy {
            if !busy.is_empty() {
                let open: usize = self.workers.iter().map(|worker| worker.load.open.load(Relaxed)).sum();
                tracing::warn!(open, "connections were still busy at the end of the drain time");
            }
            for done in drain.done {
                // Nobody waits any more.
                let _ = done.send(());
            }
            return None;
        }
        self.close_all().await;
        self.report();
        let mut busy = Vec::with_capacity(self.workers.len());
        for worker in &self.workers {
            let (done, drained) = oneshot::channel();
            if worker.orders.send(Order::Drain(done)).await.is_ok() {
                busy.push(drained);
            }
        }
        drain.busy = Some(busy);
        drain.timer = Box::pin(tokio::time::sleep(drain.deadline));
        Some(drain)
    }
}

//! The orderly end: nobody who is being served notices, nobody who comes late is turned away before the door is shut.
//!
//! 1. For a while connections are accepted as before, so that load balancers may look away, and each answer is the last of
//!    its connection.
//! 2. What waits in the listening sockets is accepted, and they are closed.
//! 3. Idle connections are closed, requests under way are answered, up to a deadline.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::apply::Applier;
use crate::worker::Order;

impl Applier {
    /// Goes on accepting for `delay`, then closes the sockets and gives what is under way until `deadline`.
    pub(crate) async fn drain(&mut self, delay: Duration, deadline: Duration) {
        self.draining = true;
        for worker in &self.workers {
            // A worker that ended has no connections.
            let _ = worker.orders.send(Order::Retire).await;
        }
        tokio::time::sleep(delay).await;
        self.close_all().await;
        self.report();
        let mut pending = Vec::with_capacity(self.workers.len());
        for worker in &self.workers {
            let (done, drained) = oneshot::channel();
            if worker.orders.send(Order::Drain(done)).await.is_ok() {
                pending.push(drained);
            }
        }
        let all = async {
            for drained in pending {
                let _ = drained.await;
            }
        };
        if tokio::time::timeout(deadline, all).await.is_err() {
            let open: usize = self.workers.iter().map(|worker| worker.load.open.load(Relaxed)).sum();
            tracing::warn!(open, "connections were still busy at the end of the drain time");
        }
    }
}

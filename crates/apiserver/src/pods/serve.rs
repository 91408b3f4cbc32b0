//! Connections to the stand-ins.
//!
//! Owns: accepting and serving on a pod's sockets, on the pods' own runtime. Invariants: the number of connections of
//! all pods is bounded, and more wait, one per socket here and the rest in the kernel's queues; a closed pod accepts what is waiting no more,
//! finishes the requests it has, and closes idle connections at once.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{Arrival, Stand};
use super::behaviour::Speaks;
use super::listen::Bound;

/// Open connections of all pods. Source: ours; two sockets a request at the most usual limit of open files, 20,000.
pub(super) const CONNECTIONS: usize = 8192;
/// From a connection, or an answer, to the end of the next head. Source: ours; clients keep idle connections longer
/// than this only to find them closed, so it is long.
const HEAD: Duration = Duration::from_secs(300);
/// After an accept error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// HTTP/2 streams of one connection. Source: RFC 9113 6.5.2 advises no less than 100.
const STREAMS: u32 = 256;

/// The sockets of one pod, served until closed.
pub(super) struct Serving {
    close: CancellationToken,
    abort: CancellationToken,
    tasks: TaskTracker,
}

impl Serving {
    pub(super) fn new() -> Self {
        Self { close: CancellationToken::new(), abort: CancellationToken::new(), tasks: TaskTracker::new() }
    }

    /// Starts to serve a socket on `runtime`.
    pub(super) fn add(
        &self,
        runtime: &Handle,
        places: &Arc<Semaphore>,
        stand: &Arc<Stand>,
        bound: Bound,
        speaks: Speaks,
    ) -> io::Result<()> {
        let listener = {
            let _in_runtime = runtime.enter();
            TcpListener::from_std(bound.listener)?
        };
        let accepting = Accepting {
            listener,
            port: bound.wanted,
            speaks,
            stand: stand.clone(),
            places: places.clone(),
            close: self.close.clone(),
            abort: self.abort.clone(),
            tasks: self.tasks.clone(),
        };
        self.tasks.spawn_on(accepting.run(), runtime);
        Ok(())
    }

    /// Stops accepting, lets requests end within `grace`, and resolves when every socket is closed.
    pub(super) async fn close(&self, grace: Duration) {
        self.close.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            self.abort.cancel();
            self.tasks.wait().await;
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.close.cancel();
        self.abort.cancel();
    }
}

struct Accepting {
    listener: TcpListener,
    port: u16,
    speaks: Speaks,
    stand: Arc<Stand>,
    places: Arc<Semaphore>,
    close: CancellationToken,
    abort: CancellationToken,
    tasks: TaskTracker,
}

impl Accepting {
    async fn run(self) {
        loop {
            let accepted = tokio::select! {
                () = self.close.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let place = tokio::select! {
                        () = self.close.cancelled() => return,
                        place = self.places.clone().acquire_owned() => place,
                    };
                    // The semaphore is never closed.
                    let Ok(place) = place else { return };
                    let arrival =
                        Arrival { port: self.port, expects_http2: self.speaks == Speaks::Http2OrHttp1, peer };
                    let connection = Connection {
                        stand: self.stand.clone(),
                        arrival,
                        close: self.close.clone(),
                        abort: self.abort.clone(),
                    };
                    self.tasks.spawn(async move {
                        connection.serve(stream).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(error = %error, "a pod's socket cannot accept; it goes on after a pause");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

struct Connection {
    stand: Arc<Stand>,
    arrival: Arrival,
    close: CancellationToken,
    abort: CancellationToken,
}

/// The contract of the image is to close the connection here.
#[derive(Debug, thiserror::Error)]
#[error("closed without an answer")]
struct Unanswered;

impl Connection {
    async fn serve(self, stream: TcpStream) {
        // Answers are written whole, so waiting to fill a segment only delays them.
        let _ = stream.set_nodelay(true);
        let (stand, arrival) = (self.stand.clone(), self.arrival);
        let service = service_fn(move |request| {
            let stand = stand.clone();
            async move { stand.answer(arrival, request).await.ok_or(Unanswered) }
        });
        let io = TokioIo::new(stream);
        if arrival.expects_http2 {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
            builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS);
            let mut connection = pin!(builder.serve_connection(io, service));
            tokio::select! {
                _ = connection.as_mut() => return,
                () = self.close.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            self.finish(connection).await;
        } else {
            let mut builder = http1::Builder::new();
            // As the Go servers that most of these images are write them.
            builder.title_case_headers(true);
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
            let mut connection = pin!(builder.serve_connection(io, service));
            tokio::select! {
                _ = connection.as_mut() => return,
                () = self.close.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            self.finish(connection).await;
        }
    }

    /// Errors of a connection are the peer's affair; a stand-in has nobody to tell.
    async fn finish<E>(&self, connection: impl Future<Output = Result<(), E>>) {
        tokio::select! {
            _ = connection => {}
            () = self.abort.cancelled() => {}
        }
    }
}

/// The runtime of all stand-ins: threads of its own, so that load on them starves nothing else.
pub(super) struct PodsRuntime {
    handle: Handle,
    runtime: Option<tokio::runtime::Runtime>,
}

impl PodsRuntime {
    pub(super) fn start(threads: usize) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("weir-pods")
            .enable_all()
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for PodsRuntime {
    fn drop(&mut self) {
        // It may be dropped inside another runtime, where waiting for threads is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

//! Connections to the stand-ins.
//!
//! Owns: accepting and serving on a pod's sockets, on the pods' own runtime. Invariants: the number of connections of
//! all pods is bounded, and more wait, one per socket here and the rest in the kernel's queues; a closed pod accepts what is waiting no more,
//! finishes the requests it has, and closes idle connections and streams without requests at once.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{Arrival, Outcome, Stand, datagrams, lines, websocket};
use super::behaviour::Speaks;
use super::listen::{Bound, BoundSocket};
use super::stream::Stream;
use super::tls::TlsFacts;

/// Open connections of all pods. Source: ours; two sockets a request at the most usual limit of open files, 20,000.
pub(super) const CONNECTIONS: usize = 8192;
/// From a connection, or an answer, to the end of the next head. Source: ours; clients keep idle connections longer
/// than this only to find them closed, so it is long.
const HEAD: Duration = Duration::from_secs(300);
/// A TLS handshake. Source: ours.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// After an accept error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// HTTP/2 streams of one connection. Source: RFC 9113 6.5.2 advises no less than 100.
const STREAMS: u32 = 256;

/// The sockets of one pod, served until closed.
pub(super) struct Serving {
    ending: Ending,
}

/// How a pod's tasks learn of its end, and it of theirs.
#[derive(Clone)]
struct Ending {
    close: CancellationToken,
    abort: CancellationToken,
    tasks: TaskTracker,
}

/// What is spoken on a socket.
#[derive(Clone)]
pub(super) struct Spoken {
    pub(super) speaks: Speaks,
    /// Of ports over TLS.
    pub(super) tls: Option<Arc<ServerConfig>>,
}

impl Serving {
    pub(super) fn new() -> Self {
        let ending = Ending {
            close: CancellationToken::new(),
            abort: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Self { ending }
    }

    /// Starts to serve a socket on `runtime`.
    pub(super) fn add(
        &self,
        runtime: &Handle,
        places: &Arc<Semaphore>,
        stand: &Arc<Stand>,
        bound: Bound,
        spoken: Spoken,
    ) -> io::Result<()> {
        let _in_runtime = runtime.enter();
        match bound.socket {
            BoundSocket::Tcp(listener) => {
                let accepting = Accepting {
                    listener: TcpListener::from_std(listener)?,
                    port: bound.wanted,
                    spoken,
                    stand: stand.clone(),
                    places: places.clone(),
                    ending: self.ending.clone(),
                };
                self.ending.tasks.spawn_on(accepting.run(), runtime);
            }
            BoundSocket::Udp(socket) => {
                let (socket, stand) = (UdpSocket::from_std(socket)?, stand.clone());
                let close = self.ending.close.clone();
                let serve = async move {
                    close.run_until_cancelled(datagrams::serve(&stand, spoken.speaks, &socket)).await;
                };
                self.ending.tasks.spawn_on(serve, runtime);
            }
        }
        Ok(())
    }

    /// Stops accepting, lets requests end within `grace`, and resolves when every socket is closed.
    pub(super) async fn close(&self, grace: Duration) {
        self.ending.close.cancel();
        self.ending.tasks.close();
        if tokio::time::timeout(grace, self.ending.tasks.wait()).await.is_err() {
            self.ending.abort.cancel();
            self.ending.tasks.wait().await;
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.ending.close.cancel();
        self.ending.abort.cancel();
    }
}

struct Accepting {
    listener: TcpListener,
    port: u16,
    spoken: Spoken,
    stand: Arc<Stand>,
    places: Arc<Semaphore>,
    ending: Ending,
}

impl Accepting {
    async fn run(self) {
        loop {
            let accepted = tokio::select! {
                () = self.ending.close.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let place = tokio::select! {
                        () = self.ending.close.cancelled() => return,
                        place = self.places.clone().acquire_owned() => place,
                    };
                    // The semaphore is never closed.
                    let Ok(place) = place else { return };
                    let connection = Connection {
                        stand: self.stand.clone(),
                        port: self.port,
                        spoken: self.spoken.clone(),
                        peer,
                        ending: self.ending.clone(),
                        place: Arc::new(place),
                    };
                    self.ending.tasks.spawn(connection.serve(stream));
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
    port: u16,
    spoken: Spoken,
    peer: SocketAddr,
    ending: Ending,
    /// Held until the connection, or what it was upgraded to, is closed.
    place: Arc<OwnedSemaphorePermit>,
}

/// The contract of the image is to close the connection here.
#[derive(Debug, thiserror::Error)]
#[error("closed without an answer")]
struct Unanswered;

impl Connection {
    async fn serve(self, stream: TcpStream) {
        // Answers are written whole, so waiting to fill a segment only delays them.
        let _ = stream.set_nodelay(true);
        let reset = Arc::new(AtomicBool::new(false));
        let stream = Stream::new(stream, reset.clone());
        let Some(config) = self.spoken.tls.clone() else {
            return self.speak(stream, None, reset).await;
        };
        let handshake = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream));
        // Errors of a connection are the peer's affair; a stand-in has nobody to tell.
        if let Some(Ok(Ok(stream))) = self.ending.close.run_until_cancelled(handshake).await {
            let facts = TlsFacts::of(stream.get_ref().1);
            self.speak(stream, Some(Arc::new(facts)), reset).await;
        }
    }

    async fn speak<S>(self, stream: S, tls: Option<Arc<TlsFacts>>, reset: Arc<AtomicBool>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let arrival = Arrival { port: self.port, speaks: self.spoken.speaks, peer: self.peer, tls };
        match arrival.speaks {
            Speaks::Lines | Speaks::LinesOverTls => {
                let close = self.ending.close.clone();
                close.run_until_cancelled(lines::serve(&self.stand, &arrival, stream)).await;
            }
            _ => self.speak_http(stream, arrival, reset).await,
        }
    }

    async fn speak_http<S>(self, stream: S, arrival: Arrival, reset: Arc<AtomicBool>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let builder = builder(&arrival);
        let this = Arc::new(self);
        let answering = this.clone();
        let service = service_fn(move |request| {
            let (this, arrival, reset) = (answering.clone(), arrival.clone(), reset.clone());
            async move { this.answer(&arrival, request, &reset).await }
        });
        let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
        tokio::select! {
            _ = connection.as_mut() => return,
            () = this.ending.close.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        this.ending.finish(connection).await;
    }

    async fn answer(
        &self,
        arrival: &Arrival,
        mut request: http::Request<hyper::body::Incoming>,
        reset: &AtomicBool,
    ) -> Result<super::answer::Answer, Unanswered> {
        let upgrade = hyper::upgrade::on(&mut request);
        match self.stand.clone().answer(arrival, request).await {
            Outcome::Answer(answer) => Ok(answer),
            Outcome::WebSocket(answer) => {
                let (close, place) = (self.ending.close.clone(), self.place.clone());
                self.ending.tasks.spawn(async move {
                    let echoing = async {
                        if let Ok(stream) = upgrade.await {
                            // An error is the peer's affair, as above.
                            let _ = websocket::echo(TokioIo::new(stream)).await;
                        }
                    };
                    close.run_until_cancelled(echoing).await;
                    drop(place);
                });
                Ok(answer)
            }
            Outcome::Close => Err(Unanswered),
            Outcome::Reset => {
                reset.store(true, Ordering::Relaxed);
                Err(Unanswered)
            }
        }
    }
}

impl Ending {
    async fn finish<E>(&self, connection: impl Future<Output = Result<(), E>>) {
        tokio::select! {
            _ = connection => {}
            () = self.abort.cancelled() => {}
        }
    }
}

/// The protocols of HTTP that are spoken.
fn builder(arrival: &Arrival) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // As the Go servers that most of these images are write them.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).title_case_headers(true);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS);
    let negotiated = arrival.tls.as_ref().map(|tls| tls.negotiated_protocol.as_str());
    match (arrival.speaks, negotiated) {
        (Speaks::Http2OrHttp1, _) => builder,
        (Speaks::Grpc | Speaks::GrpcOverTls, _) | (_, Some("h2")) => builder.http2_only(),
        _ => builder.http1_only(),
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

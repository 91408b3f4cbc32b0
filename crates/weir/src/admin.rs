//! The admin port: `/livez`, `/readyz`, `/metrics` (Prometheus text), `/splits` and `/snapshot` (JSON).
//!
//! Owns a runtime thread of its own, so that a busy data plane cannot starve a health check. Read-only.
//! Invariants: a connection is for one request and has an end, whatever its peer does; somebody who comes is served at once, and where
//! there is no place left the oldest of those who hold most of them goes. So whoever holds connections open keeps no probe out.
//! Deliberately absent: TLS and authentication; it listens on loopback unless told otherwise.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use crate::process;

/// What connections may take.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Served at a time. Unit: connections.
    connections: usize,
    /// And of one address. Unit: connections.
    of_address: usize,
    /// A connection that sends no complete head for so long is closed.
    head: Duration,
    /// The longest that a connection is there.
    life: Duration,
}

impl Default for Bounds {
    /// Source: ours; a probe takes milliseconds, and a snapshot of some MiB goes through a tunnel in that time.
    fn default() -> Bounds {
        Bounds {
            connections: 64,
            of_address: 16,
            head: Duration::from_secs(10),
            life: Duration::from_secs(30),
        }
    }
}

/// What the admin port tells, read anew for each request.
pub(crate) trait AdminSource: Send + Sync + 'static {
    /// `Err` says what is still missing.
    fn ready(&self) -> Result<(), String>;
    /// What is to be known of a process that is ready.
    fn remark(&self) -> Option<String> {
        None
    }
    /// Prometheus text format.
    fn metrics(&self) -> String;
    fn splits(&self) -> BoxFuture<'_, serde_json::Value>;
    /// What data planes have, by name.
    fn snapshot(&self) -> serde_json::Value;
}

/// Binds now, serves on a thread of its own until `shutdown`. Returns the bound address.
pub(crate) fn start(
    address: Option<SocketAddr>,
    source: Arc<dyn AdminSource>,
    shutdown: CancellationToken,
) -> Result<SocketAddr> {
    let address = address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    let address = process::listen_address(address);
    let listener =
        std::net::TcpListener::bind(address).with_context(|| format!("--admin: binding {address}"))?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("weir-admin".to_owned());
    thread.spawn(move || runtime.block_on(serve(listener, source, Bounds::default(), shutdown)))?;
    Ok(bound)
}

async fn serve(
    listener: std::net::TcpListener,
    source: Arc<dyn AdminSource>,
    bounds: Bounds,
    shutdown: CancellationToken,
) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let places = Arc::new(Places::new(bounds));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, from)) = accepted else {
            // Out of descriptors, or a peer that is gone already: neither may spin this loop.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let place = places.enter(from.ip().to_canonical(), shutdown.child_token());
        tokio::spawn(connection(stream, source.clone(), bounds, place));
        // Who had to go goes before the next one comes.
        tokio::task::yield_now().await;
    }
}

/// One request, until its place is taken or its time is over.
async fn connection(
    stream: tokio::net::TcpStream,
    source: Arc<dyn AdminSource>,
    bounds: Bounds,
    place: Place,
) {
    let service = hyper::service::service_fn(move |request| {
        let source = source.clone();
        async move { Ok::<_, Infallible>(answer(&request, source.as_ref()).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    let http = http.timer(TokioTimer::new()).header_read_timeout(bounds.head).keep_alive(false);
    tokio::select! {
        () = place.ended.cancelled() => {}
        () = tokio::time::sleep(bounds.life) => {}
        _ = http.serve_connection(TokioIo::new(stream), service) => {}
    }
}

/// Who is served.
#[derive(Debug)]
struct Places {
    bounds: Bounds,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Of the last that came.
    number: u64,
    /// The oldest first: from where it came, and how it is told to go.
    all: BTreeMap<u64, (IpAddr, CancellationToken)>,
}

/// A place that is taken; given back when it is dropped.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    number: u64,
    /// It is another's now, or all is over.
    ended: CancellationToken,
}

impl Places {
    fn new(bounds: Bounds) -> Places {
        Places { bounds, taken: Mutex::default() }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place in any case: an address that has its share gives up its oldest, and if there are no more places at all, the address
    /// that has most of them does.
    fn enter(self: &Arc<Places>, from: IpAddr, ended: CancellationToken) -> Place {
        let mut taken = self.taken();
        let counts = taken.counts();
        let leaving = if counts.get(&from).is_some_and(|count| *count >= self.bounds.of_address) {
            Some(from)
        } else if taken.all.len() >= self.bounds.connections {
            let most = counts.values().max().copied();
            // Of those with equally many, whoever has the oldest.
            taken
                .all
                .values()
                .map(|(address, _)| *address)
                .find(|address| counts.get(address).copied() == most)
        } else {
            None
        };
        if let Some(address) = leaving {
            taken.end_oldest(address);
        }
        taken.number += 1;
        let number = taken.number;
        taken.all.insert(number, (from, ended.clone()));
        drop(taken);
        Place { places: self.clone(), number, ended }
    }
}

impl Taken {
    fn counts(&self) -> HashMap<IpAddr, usize> {
        let mut counts = HashMap::new();
        for (address, _) in self.all.values() {
            *counts.entry(*address).or_default() += 1;
        }
        counts
    }

    fn end_oldest(&mut self, of: IpAddr) {
        let oldest = self.all.iter().find(|(_, (address, _))| *address == of).map(|(number, _)| *number);
        if let Some((_, ended)) = oldest.and_then(|number| self.all.remove(&number)) {
            ended.cancel();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().all.remove(&self.number);
    }
}

async fn answer(request: &Request<Incoming>, source: &dyn AdminSource) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
    }
    match request.uri().path() {
        "/livez" | "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => match source.ready() {
            Ok(()) => {
                let remark = source.remark().map(|remark| format!(": {remark}")).unwrap_or_default();
                text(StatusCode::OK, format!("ok{remark}\n"))
            }
            Err(missing) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing}\n")),
        },
        "/metrics" => with_type(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            source.metrics() + &process::usage(),
        ),
        "/splits" => with_type(StatusCode::OK, "application/json", format!("{:#}\n", source.splits().await)),
        "/snapshot" => with_type(StatusCode::OK, "application/json", format!("{}\n", source.snapshot())),
        _ => text(StatusCode::NOT_FOUND, "try /livez, /readyz, /metrics, /splits or /snapshot\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpSocket, TcpStream};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);
    /// More than sockets' buffers take.
    const LARGE: usize = 16 * 1024 * 1024;

    struct Told;

    impl AdminSource for Told {
        fn ready(&self) -> Result<(), String> {
            Ok(())
        }
        fn metrics(&self) -> String {
            String::new()
        }
        fn splits(&self) -> BoxFuture<'_, serde_json::Value> {
            async { serde_json::Value::Null }.boxed()
        }
        fn snapshot(&self) -> serde_json::Value {
            "x".repeat(LARGE).into()
        }
    }

    fn begin(bounds: Bounds) -> (SocketAddr, tokio_util::sync::DropGuard) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn(serve(listener, Arc::new(Told), bounds, shutdown.clone()));
        (address, shutdown.drop_guard())
    }

    async fn connect(to: SocketAddr, last: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
        socket.connect(to).await.unwrap()
    }

    async fn ask(stream: &mut TcpStream, path: &str) {
        let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
    }

    /// Everything that comes until the end, however it ends.
    async fn rest(stream: &mut TcpStream) -> Vec<u8> {
        let mut all = Vec::new();
        let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut all)).await.expect("it has no end");
        all
    }

    async fn lives(to: SocketAddr, last: u8) {
        let started = std::time::Instant::now();
        let mut stream = connect(to, last).await;
        ask(&mut stream, "/livez").await;
        let answer = String::from_utf8(rest(&mut stream).await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok\n"), "{answer}");
        // It did not wait for any of those that hold connections open.
        assert!(started.elapsed() < Bounds::default().head / 2, "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn one_address_keeps_no_other_out() {
        let (to, _guard) = begin(Bounds::default());
        let mut held = Vec::new();
        for index in 0..100 {
            let mut stream = connect(to, 2).await;
            if index % 10 == 0 {
                ask(&mut stream, "/snapshot").await;
            }
            held.push(stream);
        }
        lives(to, 3).await;
        lives(to, 2).await;
        // Those beyond its share went.
        assert!(rest(&mut held[0]).await.len() < LARGE);
        assert!(rest(&mut held[1]).await.is_empty());
        assert!(held[99].read(&mut [0]).now_or_never().is_none(), "the newest stays");
    }

    #[tokio::test]
    async fn many_addresses_keep_no_other_out() {
        let (to, _guard) = begin(Bounds { of_address: 2, connections: 8, ..Bounds::default() });
        let mut held = Vec::new();
        for last in 10..40 {
            held.push(connect(to, last).await);
        }
        for last in [3, 10, 39] {
            lives(to, last).await;
        }
    }

    #[tokio::test]
    async fn a_connection_has_an_end_whatever_its_peer_does() {
        let (to, _guard) = begin(Bounds { life: Duration::from_millis(300), ..Bounds::default() });
        let mut silent = connect(to, 2).await;
        let mut deaf = connect(to, 2).await;
        ask(&mut deaf, "/snapshot").await;
        assert!(rest(&mut silent).await.is_empty());
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(rest(&mut deaf).await.len() < LARGE, "the rest of it was not waited for");
        // One that asks slowly, byte by byte.
        let mut slow = connect(to, 2).await;
        let asking = async {
            while slow.write_all(b"G").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LONG, asking).await.expect("it has no end");
    }

    #[tokio::test]
    async fn a_connection_is_for_one_request() {
        let (to, _guard) = begin(Bounds::default());
        let mut stream = connect(to, 2).await;
        ask(&mut stream, "/readyz").await;
        let answer = String::from_utf8(rest(&mut stream).await).unwrap();
        assert!(answer.contains("connection: close") && answer.ends_with("ok\n"), "{answer}");
    }

    #[test]
    fn who_holds_most_gives_up_the_oldest() {
        let places = Arc::new(Places::new(Bounds { connections: 4, of_address: 3, ..Bounds::default() }));
        let enter = |last: u8| places.enter(IpAddr::from([10, 0, 0, last]), CancellationToken::new());
        let first = enter(1);
        let crowd: Vec<Place> = [2, 2, 2].into_iter().map(enter).collect();
        let fourth = enter(2);
        assert!(crowd[0].ended.is_cancelled(), "its share is full");
        let newcomer = enter(3);
        assert!(crowd[1].ended.is_cancelled(), "no place is left, and it has most");
        assert!([&first, &crowd[2], &fourth, &newcomer].iter().all(|place| !place.ended.is_cancelled()));
        drop(crowd);
        assert_eq!(places.taken().all.len(), 3);
        drop((first, fourth, newcomer));
        assert!(places.taken().all.is_empty(), "nobody is remembered");
    }
}

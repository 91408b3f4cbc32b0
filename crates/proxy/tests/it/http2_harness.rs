//! Clients and origins that speak HTTP/2.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use weir_model::resource::{Backend, BackendProtocol, Body, HttpRule, Resource};

use crate::harness::*;

/// Runs an asynchronous test, which must end in time.
pub(crate) fn in_time<T>(future: impl Future<Output = T>) -> T {
    block_on(async { tokio::time::timeout(3 * PATIENCE, future).await.expect("the test ends in time") })
}

type Answering = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A server that speaks HTTP/2 only. Each connection is a task, and so is each request.
pub(crate) struct Http2Origin {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<Request<()>>>>,
}

impl Http2Origin {
    pub(crate) fn start<F>(
        answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Http2Origin::with(h2::server::Builder::new(), answer)
    }

    pub(crate) fn with<F>(
        builder: h2::server::Builder,
        answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let answer = Arc::new(move |request, respond| Box::pin(answer(request, respond)) as Answering);
        Http2Origin::serve(move |stream, _, requests| {
            let (builder, answer) = (builder.clone(), answer.clone());
            async move {
                let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    note(&requests, &request);
                    tokio::spawn(answer(request, respond));
                }
            }
        })
    }

    /// `script` gets each connection with its number, from 0.
    pub(crate) fn serve<F>(
        script: impl Fn(TcpStream, usize, Arc<Mutex<Vec<Request<()>>>>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let listener = std::net::TcpListener::bind(SocketAddr::new(own_address().into(), 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let origin =
            Http2Origin { address, connections: connections.clone(), requests: Arc::clone(&requests) };
        thread::spawn(move || {
            block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let index = connections.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(script(stream, index, requests.clone()));
                }
            });
        });
        origin
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The heads of all requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    pub(crate) fn last(&self) -> Request<()> {
        self.requests.lock().unwrap().last().expect("the origin has seen a request").clone()
    }
}

pub(crate) fn note(requests: &Mutex<Vec<Request<()>>>, request: &Request<RecvStream>) {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    requests.lock().unwrap().push(copy);
}

/// Answers with a text.
pub(crate) fn say(respond: &mut SendResponse<Bytes>, status: u16, text: &'static str) {
    let response = Response::builder().status(status).body(()).unwrap();
    // The other side may have gone.
    if let Ok(mut stream) = respond.send_response(response, text.is_empty())
        && !text.is_empty()
    {
        let _ = stream.send_data(Bytes::from_static(text.as_bytes()), true);
    }
}

/// A backend that speaks HTTP/2.
pub(crate) fn http2_backend(name: &str, addresses: &[SocketAddr]) -> [Resource; 2] {
    let [mut backend, endpoints] = backend(name, addresses);
    if let Some(Body::Backend(Backend { protocol, .. })) = &mut backend.body {
        *protocol = BackendProtocol::Http2.into();
    }
    [backend, endpoints]
}

impl World {
    /// One route for every path to an origin of HTTP/2.
    pub(crate) fn to_http2(origin: &Http2Origin) -> World {
        World::to_http2_with(origin, one_worker())
    }

    pub(crate) fn to_http2_with(origin: &Http2Origin, config: weir_proxy::ProxyConfig) -> World {
        let world = World::start(config);
        world.serve_http2(&[origin.address]);
        world
    }

    pub(crate) fn serve_http2(&self, addresses: &[SocketAddr]) {
        let mut resources = Vec::from(http2_backend("b", addresses));
        resources.push(self.route("r", HttpRule { backends: vec![to("b", 1)], ..rule("/") }));
        assert_eq!(self.apply(resources).rejected, []);
    }
}

pub(crate) fn one_worker() -> weir_proxy::ProxyConfig {
    weir_proxy::ProxyConfig { workers: Some(1), ..weir_proxy::ProxyConfig::default() }
}

pub(crate) fn with_limits(limits: weir_model::limits::Limits) -> weir_proxy::ProxyConfig {
    weir_proxy::ProxyConfig { limits, ..one_worker() }
}

/// A client of HTTP/2.
pub(crate) struct Http2Client {
    pub(crate) send: SendRequest<Bytes>,
    pub(crate) connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.as_ref()?.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Http2Client {
    pub(crate) async fn connect(address: SocketAddr) -> Http2Client {
        Http2Client::with(address, &h2::client::Builder::new()).await
    }

    pub(crate) async fn with(address: SocketAddr, builder: &h2::client::Builder) -> Http2Client {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Http2Client::over(stream, builder).await
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        builder: &h2::client::Builder,
    ) -> Http2Client {
        let (send, connection) = builder.handshake(stream).await.unwrap();
        Http2Client { send, connection: tokio::spawn(connection) }
    }

    /// Over TLS, where the server must choose HTTP/2.
    pub(crate) async fn secure(
        address: SocketAddr,
        name: &str,
        config: &rustls::ClientConfig,
    ) -> Http2Client {
        let mut config = config.clone();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Http2Client::over(stream, &h2::client::Builder::new()).await
    }

    /// Begins a request, and gives what its answer and its body go through.
    pub(crate) async fn begin(
        &mut self,
        request: Request<()>,
        ends: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        self.send = self.send.clone().ready().await.unwrap();
        self.send.send_request(request, ends).unwrap()
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        let (response, _) = self.begin(request(Method::GET, path), true).await;
        whole(response.await.unwrap()).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &[u8]) -> Answer {
        let (response, mut stream) = self.begin(request(Method::POST, path), false).await;
        stream.send_data(Bytes::copy_from_slice(body), true).unwrap();
        whole(response.await.unwrap()).await
    }
}

pub(crate) fn request(method: Method, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://example.com{path}")).body(()).unwrap()
}

/// A call of gRPC.
pub(crate) fn call(path: &str) -> Request<()> {
    let mut request = request(Method::POST, path);
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    request
}

/// Reads an answer to its end.
pub(crate) async fn whole(response: Response<RecvStream>) -> Answer {
    let (parts, mut stream) = response.into_parts();
    let body = all(&mut stream).await.unwrap();
    let trailers = stream.trailers().await.unwrap();
    Answer { status: parts.status, fields: parts.headers, body, trailers }
}

/// Reads a body to its end.
pub(crate) async fn all(stream: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        body.extend_from_slice(&data);
        stream.flow_control().release_capacity(data.len())?;
    }
    Ok(body)
}

/// Sends a body to its end, as the other side makes room for it.
pub(crate) async fn pour(stream: &mut SendStream<Bytes>, body: Bytes) -> Result<(), h2::Error> {
    pour_with(stream, body, true).await
}

/// Sends a part of a body, as the other side makes room for it.
pub(crate) async fn pour_on(stream: &mut SendStream<Bytes>, body: Bytes) -> Result<(), h2::Error> {
    pour_with(stream, body, false).await
}

async fn pour_with(stream: &mut SendStream<Bytes>, mut body: Bytes, ends: bool) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(room) => room?,
            None => return Err(h2::Reason::CANCEL.into()),
        };
        let piece = body.split_to(room.min(body.len()));
        stream.send_data(piece, ends && body.is_empty())?;
    }
    Ok(())
}

/// Waits until a count has not changed for a while, and gives it.
pub(crate) async fn settled(count: &AtomicUsize) -> usize {
    let (mut last, mut same) = (0, 0);
    while last == 0 || same < 100 {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        let now = count.load(Ordering::SeqCst);
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

/// Frames byte for byte, for peers that do not behave.
pub(crate) mod frames {
    pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;

    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;

    /// `GET http://a/`, of the static table but for the authority.
    pub(crate) const GET: &[u8] = b"\x82\x86\x84\x01\x01a";

    pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// A preface with these settings.
    pub(crate) fn hello(settings: &[(u16, u32)]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &payload)].concat()
    }
}

use frames::frame;

impl Peer {
    /// The next frame: kind, flags, stream, payload. `None` at the end of the connection.
    pub(crate) fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let whole = |buffer: &[u8]| {
            let length = usize::from(*buffer.first()?) << 16
                | usize::from(*buffer.get(1)?) << 8
                | usize::from(*buffer.get(2)?);
            (buffer.len() >= 9 + length).then_some(length)
        };
        let length = loop {
            match whole(&self.buffer) {
                Some(length) => break length,
                None if self.fill() => {}
                None => return None,
            }
        };
        let bytes = self.exactly(9 + length);
        let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
        Some((bytes[3], bytes[4], stream, bytes[9..].to_vec()))
    }

    /// Reads until the connection ends, and gives the reason that a GOAWAY gave, if one came. Settings are acknowledged if
    /// wanted.
    pub(crate) fn reason_of_end(&mut self) -> Option<u32> {
        let mut reason = None;
        while let Some((kind, _, _, payload)) = self.frame() {
            if kind == frames::GOAWAY {
                reason = Some(u32::from_be_bytes([payload[4], payload[5], payload[6], payload[7]]));
            }
        }
        reason
    }

    /// Sends so many of the same bytes, or fewer if the other side closes.
    pub(crate) fn flood(&mut self, piece: &[u8], times: usize) -> bool {
        let many = piece.repeat(64 * 1024 / piece.len() + 1);
        let mut left = times;
        while left > 0 {
            let count = left.min(many.len() / piece.len());
            if std::io::Write::write_all(&mut self.stream, &many[..count * piece.len()]).is_err() {
                return false;
            }
            left -= count;
        }
        true
    }

    /// A request for `/` on this stream.
    pub(crate) fn ask(&mut self, stream: u32) {
        self.send(frame(frames::HEADERS, frames::END_HEADERS | frames::END_STREAM, stream, frames::GET));
    }
}

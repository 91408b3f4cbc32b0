//! Origins, clients and a proxy between them.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use weir_model::resource::{
    Applied, Attachment, Backend, Body, Endpoint, Endpoints, Filter, HttpMatch, HttpRoute, HttpRule,
    Listener, Resource, Update, WeightedBackend,
};
use weir_proxy::{Proxy, ProxyConfig};

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const PORT: u16 = 18080;

/// An address that no other test of this process, and most likely none of another, has.
pub(crate) fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    let low = u8::try_from(count % 250 + 1).unwrap();
    let middle = u8::try_from(count / 250).unwrap();
    Ipv4Addr::new(
        127,
        20 + (std::process::id() % 200) as u8,
        middle.wrapping_add((std::process::id() / 200) as u8),
        low,
    )
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Waits for `condition`, which must come true in time.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Says that this machine cannot run a part. Written past the test harness's capture, so that it is always seen;
/// `cargo xtask test` collects these lines, and fails on them where it is strict.
pub(crate) fn left_out(what: &str, why: &str) {
    let line = format!("left out: {what}: {why}\n");
    std::io::stderr().lock().write_all(line.as_bytes()).unwrap();
}

/// A signal, and what waits for it: once, and not for ever.
pub(crate) fn signal() -> (std::sync::mpsc::Sender<()>, impl Fn() + Send + Sync + 'static) {
    let (send, receive) = std::sync::mpsc::channel();
    let receive = Mutex::new(receive);
    (send, move || receive.lock().unwrap().recv_timeout(PATIENCE).expect("the signal comes"))
}

/// Runs an ignored test of this binary in a process of its own: memory and limits are a process's.
pub(crate) fn in_its_own_process(test: &str) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

pub(crate) fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// A server whose every connection runs `script` in a thread of its own.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicU64>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Origin {
    pub(crate) fn start(script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Origin {
        Origin::on(SocketAddr::new(own_address().into(), 0), script)
    }

    pub(crate) fn on(address: SocketAddr, script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Origin {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests, heads) = (Arc::default(), Arc::default(), Arc::default());
        let origin = Origin {
            address,
            connections: Arc::clone(&connections),
            requests: Arc::clone(&requests),
            heads: Arc::clone(&heads),
        };
        let script = Arc::new(script);
        thread::spawn(move || {
            for (index, stream) in listener.incoming().enumerate() {
                let Ok(stream) = stream else { return };
                connections.fetch_add(1, Ordering::Relaxed);
                let (script, requests, heads) = (script.clone(), requests.clone(), heads.clone());
                thread::spawn(move || {
                    let mut peer = Peer::new(stream);
                    peer.index = index;
                    peer.requests = requests;
                    peer.heads = heads;
                    script(&mut peer);
                });
            }
        });
        origin
    }

    /// Answers every request with these bytes, on connections that stay.
    pub(crate) fn always(answer: &'static str) -> Origin {
        Origin::start(move |peer| {
            while peer.request().is_some() {
                peer.send(answer);
            }
        })
    }

    /// Answers every request with a body of this text.
    pub(crate) fn named(name: &str) -> Origin {
        let answer = ok(name);
        Origin::start(move |peer| {
            while peer.request().is_some() {
                peer.send(&answer);
            }
        })
    }

    /// An address where nobody listens.
    pub(crate) fn nobody() -> SocketAddr {
        SocketAddr::new(own_address().into(), 9)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Every head that came so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    pub(crate) fn last_head(&self) -> String {
        self.heads().pop().expect("the origin has seen a request")
    }
}

pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// One end of a connection, with blocking reads that give up in time.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    /// `None`: in the clear.
    pub(crate) tls: Option<Box<rustls::Connection>>,
    pub(crate) buffer: Vec<u8>,
    /// Which connection of its origin it is, from 0.
    pub(crate) index: usize,
    requests: Arc<AtomicU64>,
    heads: Arc<Mutex<Vec<String>>>,
}

/// A message as it was received.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) head: String,
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    /// The values of every field with this name, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        fields(&self.head, name)
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} occurs {} times in {}", all.len(), self.head);
        all.first().copied()
    }
}

pub(crate) fn fields<'h>(head: &'h str, name: &str) -> Vec<&'h str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

impl Peer {
    pub(crate) fn new(stream: TcpStream) -> Peer {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let (requests, heads) = (Arc::default(), Arc::default());
        Peer { stream, tls: None, buffer: Vec::new(), index: 0, requests, heads }
    }

    pub(crate) fn connect(address: SocketAddr) -> Peer {
        Peer::new(TcpStream::connect_timeout(&address, PATIENCE).unwrap())
    }

    /// A peer may be gone already; what it answered tells.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.try_send(bytes.as_ref());
    }

    fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let Some(tls) = &mut self.tls else { return self.stream.write_all(bytes) };
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = tls.writer().write(rest)?;
            rest = &rest[taken..];
            while tls.wants_write() {
                tls.write_tls(&mut self.stream)?;
            }
        }
        Ok(())
    }

    fn receive(&mut self, chunk: &mut [u8]) -> std::io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.stream.read(chunk) };
        loop {
            match tls.reader().read(chunk) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            tls.read_tls(&mut self.stream)?;
            let processed = tls.process_new_packets();
            while tls.wants_write() {
                tls.write_tls(&mut self.stream)?;
            }
            processed.map_err(std::io::Error::other)?;
        }
    }

    /// Reads more; false at the end of input or after a reset.
    pub(crate) fn fill(&mut self) -> bool {
        let mut chunk = [0; 64 * 1024];
        match self.receive(&mut chunk) {
            Ok(0) => false,
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing came in {PATIENCE:?}; so far: {:?}", String::from_utf8_lossy(&self.buffer))
            }
            Err(_) => false,
        }
    }

    /// The next head, with its empty line; `None` when the connection ends first.
    pub(crate) fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = self.buffer.split_off(end + 4);
                let head = std::mem::replace(&mut self.buffer, rest);
                return Some(String::from_utf8(head).expect("the head is text"));
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// The next request with its body; `None` when the connection ends first.
    pub(crate) fn request(&mut self) -> Option<(String, Vec<u8>)> {
        let head = self.request_head()?;
        let body = self.body(&head, false);
        Some((head, body))
    }

    /// The next request's head alone.
    pub(crate) fn request_head(&mut self) -> Option<String> {
        let head = self.head()?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.heads.lock().unwrap().push(head.clone());
        Some(head)
    }

    /// Counts a request that was not read as text.
    pub(crate) fn request_noted(&mut self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests of its origin so far.
    pub(crate) fn counted(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.fill(), "the connection ended after {} of {count} bytes", self.buffer.len());
        }
        let rest = self.buffer.split_off(count);
        std::mem::replace(&mut self.buffer, rest)
    }

    /// The body that follows `head`, with chunks taken apart (trailers are dropped).
    fn body(&mut self, head: &str, until_close: bool) -> Vec<u8> {
        if let Some(length) = fields(head, "content-length").first() {
            return self.exactly(length.parse().unwrap());
        }
        if !fields(head, "transfer-encoding").is_empty() {
            return self.chunks();
        }
        if until_close { self.rest() } else { Vec::new() }
    }

    fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            let size = usize::from_str_radix(line.split(';').next().unwrap(), 16).expect("a chunk size");
            if size == 0 {
                while !self.line().is_empty() {}
                return body;
            }
            body.extend(self.exactly(size));
            assert_eq!(self.line(), "");
        }
    }

    /// The next line without its end.
    pub(crate) fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let mut line = self.exactly(end + 2);
                line.truncate(end);
                return String::from_utf8(line).unwrap();
            }
            assert!(
                self.fill(),
                "the connection ended in a line: {:?}",
                String::from_utf8_lossy(&self.buffer)
            );
        }
    }

    /// Everything up to the end of the connection.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.buffer)
    }

    /// The next final response to a request of this method.
    pub(crate) fn response_to(&mut self, method: &str) -> Response {
        let head = self.head().expect("a response comes");
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            Vec::new()
        } else {
            self.body(&head, true)
        };
        Response { head, status, body }
    }

    pub(crate) fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    /// Sends a request and reads its response.
    pub(crate) fn exchange(&mut self, request: &str) -> Response {
        self.send(request);
        let method = request.split(' ').next().unwrap().to_owned();
        self.response_to(&method)
    }

    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: example.com\r\n\r\n"))
    }

    /// Whether the other side ends the connection (and sends nothing before).
    pub(crate) fn ends(&mut self) -> bool {
        !self.fill()
    }

    pub(crate) fn finish_sending(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            while tls.wants_write() {
                tls.write_tls(&mut self.stream).unwrap();
            }
        }
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}

/// A proxy with one listener.
pub(crate) struct World {
    pub(crate) proxy: Proxy,
    pub(crate) address: SocketAddr,
    sequence: AtomicU64,
}

impl World {
    pub(crate) fn start(config: ProxyConfig) -> World {
        World::at(SocketAddr::new(own_address().into(), PORT), config)
    }

    /// Without a listener.
    pub(crate) fn bare(config: ProxyConfig) -> World {
        World {
            proxy: Proxy::start(config).unwrap(),
            address: SocketAddr::new(own_address().into(), PORT),
            sequence: AtomicU64::new(1),
        }
    }

    pub(crate) fn at(address: SocketAddr, config: ProxyConfig) -> World {
        let world = World { address, ..World::bare(config) };
        let applied = world.apply(vec![listener(address.ip(), address.port())]);
        assert_eq!(applied.binds[0].error, "", "{applied:?}");
        assert_eq!(applied.rejected, []);
        world
    }

    /// One route for every path to this origin.
    pub(crate) fn to(origin: &Origin) -> World {
        World::with(origin, ProxyConfig { workers: Some(1), ..ProxyConfig::default() })
    }

    pub(crate) fn with(origin: &Origin, config: ProxyConfig) -> World {
        let world = World::start(config);
        world.serve(&[(origin.address, 1)]);
        world
    }

    /// One route for every path with one backend for each address.
    pub(crate) fn serve(&self, backends: &[(SocketAddr, u32)]) {
        let mut resources = Vec::new();
        let mut weighted = Vec::new();
        for (index, (address, weight)) in backends.iter().enumerate() {
            let name = format!("b{index}");
            resources.extend(backend(&name, &[*address]));
            weighted.push(to(&name, *weight));
        }
        resources.push(self.route("r", HttpRule { backends: weighted, ..rule("/") }));
        assert_eq!(self.apply(resources).rejected, []);
    }

    pub(crate) fn route(&self, name: &str, rule: HttpRule) -> Resource {
        route(name, &[(self.address.ip(), self.address.port())], vec![rule])
    }

    pub(crate) fn apply(&self, upserts: Vec<Resource>) -> Applied {
        self.update(Update { upserts, ..Update::default() })
    }

    pub(crate) fn update(&self, update: Update) -> Applied {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let applied = block_on(self.proxy.apply(Update { sequence, ..update }));
        assert_eq!(applied.sequence, sequence);
        applied
    }

    pub(crate) fn client(&self) -> Peer {
        Peer::connect(self.address)
    }

    /// The value of a metric's line, labels included in `series`.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        metric(&self.proxy, series)
    }

    /// A request is counted when it is over, which may be a moment after its client has the answer.
    pub(crate) fn expect_failures(&self, reason: &str, count: u64) {
        eventually(&format!("{count} failures by {reason}"), || self.failures(reason) >= count);
        assert_eq!(self.failures(reason), count);
    }

    /// Requests of this reason.
    pub(crate) fn failures(&self, reason: &str) -> u64 {
        self.metric(&format!("weir_proxy_failures_total{{reason=\"{reason}\"}}"))
    }
}

pub(crate) fn metric(proxy: &Proxy, series: &str) -> u64 {
    let text = proxy.metrics();
    let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no series {series} in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

pub(crate) fn listener(ip: IpAddr, port: u16) -> Resource {
    let listener = Listener {
        key: listener_key(ip, port),
        gateway: "default/gw".into(),
        section: "http".into(),
        address: ip.to_string(),
        port: port.into(),
        ..Listener::default()
    };
    Resource { body: Some(Body::Listener(listener)) }
}

pub(crate) fn listener_key(ip: IpAddr, port: u16) -> String {
    format!("listener/default/gw/{ip}-{port}")
}

/// A rule for a path prefix.
pub(crate) fn rule(prefix: &str) -> HttpRule {
    let matched = HttpMatch { path: prefix.into(), ..HttpMatch::default() };
    HttpRule { split_identity: prefix.into(), matches: vec![matched], ..HttpRule::default() }
}

pub(crate) fn to(backend: &str, weight: u32) -> WeightedBackend {
    WeightedBackend {
        weight,
        backend_key: format!("backend/default/{backend}/80"),
        ..WeightedBackend::default()
    }
}

pub(crate) fn route(name: &str, listeners: &[(IpAddr, u16)], rules: Vec<HttpRule>) -> Resource {
    let attachments = listeners
        .iter()
        .map(|(ip, port)| Attachment {
            listener_key: listener_key(*ip, *port),
            hostnames: vec![String::new()],
        })
        .collect();
    let route = HttpRoute {
        key: format!("httproute/default/{name}"),
        namespace: "default".into(),
        name: name.into(),
        uid: name.into(),
        attachments,
        rules,
        ..HttpRoute::default()
    };
    Resource { body: Some(Body::HttpRoute(route)) }
}

/// A backend and its endpoints.
pub(crate) fn backend(name: &str, addresses: &[SocketAddr]) -> [Resource; 2] {
    let backend = Backend {
        key: format!("backend/default/{name}/80"),
        namespace: "default".into(),
        service: name.into(),
        port: 80,
        ..Backend::default()
    };
    [Resource { body: Some(Body::Backend(backend)) }, endpoints(name, addresses)]
}

pub(crate) fn endpoints(name: &str, addresses: &[SocketAddr]) -> Resource {
    let mut endpoints: Vec<Endpoint> = addresses
        .iter()
        .map(|address| Endpoint { address: address.ip().to_string(), port: address.port().into() })
        .collect();
    endpoints.sort();
    endpoints.dedup();
    let endpoints = Endpoints {
        key: format!("endpoints/default/{name}/80"),
        backend_key: format!("backend/default/{name}/80"),
        endpoints,
    };
    Resource { body: Some(Body::Endpoints(endpoints)) }
}

pub(crate) fn filter(kind: weir_model::resource::FilterKind) -> Filter {
    Filter { kind: Some(kind) }
}

//! A distribution over real sockets, and a bare client of it: who gets in, what they get, and what a slow one costs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use weir_control::distribute::{
    Authority, AuthorityPolicy, Clock, DEFAULT_AUDIENCE, DistributeConfig, DistributeStatus, Distribution,
    Leadership,
};
use weir_model::resource::{
    Applied, Attachment, BindReport, Body as Of, Certificate, DataPlaneName, HttpRoute, Listener,
    ListenerTls, Resource, Update,
};
use weir_model::wire::{
    self, Acknowledged, BootstrapRequest, CertificateReply, FromPlane, Held, Hello, MESSAGE_MAX, Part,
    RenewRequest, Report, Said, ToPlane, Told,
};

use crate::api::Api;

const DEADLINE: Duration = Duration::from_secs(30);

struct Site {
    distribution: Distribution,
    updates: mpsc::Sender<Update>,
    applied: mpsc::Receiver<Applied>,
    leads: watch::Sender<Leadership>,
    status: Arc<DistributeStatus>,
    address: SocketAddr,
    trusted: Arc<str>,
    shutdown: CancellationToken,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn site() -> Site {
    let api = Api::new();
    // What the API server knows: a token of each service account, and one for somebody else.
    for name in ["a", "b"] {
        api.know_token(
            &format!("token-{name}"),
            &format!("system:serviceaccount:default:{name}"),
            DEFAULT_AUDIENCE,
        );
    }
    api.know_token("elsewhere", "system:serviceaccount:default:a", "https://kubernetes.default.svc");
    let status = Arc::<DistributeStatus>::default();
    let config = DistributeConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        namespace: "default".to_owned(),
        secret: "weir-authority".to_owned(),
        audience: DEFAULT_AUDIENCE.to_owned(),
        policy: AuthorityPolicy::default(),
        clock: Clock::default(),
        status: status.clone(),
        calls: Arc::default(),
    };
    let distribution = Distribution::new(api.client(), config);
    let (updates, taken) = mpsc::channel(4);
    let (told, applied) = mpsc::channel(64);
    let (leads, leadership) = watch::channel(Leadership::Leader { epoch: 1 });
    let shutdown = CancellationToken::new();
    let (running, stop) = (distribution.clone(), shutdown.clone());
    tokio::spawn(async move { running.run(leadership, taken, told, stop).await.unwrap() });
    let address = distribution.listening().wait_for(Option::is_some).await.unwrap().unwrap();
    let mut trust = distribution.trust();
    let trusted = within(trust.wait_for(|trusted| !trusted.is_empty())).await.unwrap().clone();
    Site { distribution, updates, applied, leads, status, address, trusted, shutdown }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.unwrap()
}

/// A certificate with its key.
struct Identity {
    key: KeyPair,
    certificate: Bytes,
}

#[derive(Clone)]
struct Caller(SendRequest<Body>);

impl tower::Service<http::Request<Body>> for Caller {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

impl Site {
    async fn connect(&self, identity: Option<&Identity>) -> Grpc<Caller> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        self.connect_over(stream, identity).await.unwrap()
    }

    async fn connect_over(
        &self,
        stream: TcpStream,
        identity: Option<&Identity>,
    ) -> std::io::Result<Grpc<Caller>> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(self.trusted.as_bytes()) {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Arc::new(AnyName { roots, provider: provider.clone() });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match identity {
            Some(identity) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.serialize_der()));
                builder.with_client_auth_cert(vec![identity.certificate.to_vec().into()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from("controller").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let http = http2::Builder::new(TokioExecutor::new());
        let (send, connection) = http.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let grpc = Grpc::with_origin(Caller(send), http::Uri::from_static("https://weir"));
        Ok(grpc.max_decoding_message_size(MESSAGE_MAX))
    }

    async fn certificate<M: Message + Send + Sync + 'static>(
        grpc: &mut Grpc<Caller>,
        path: &'static str,
        request: M,
    ) -> Result<CertificateReply, Status> {
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<M, CertificateReply>::default();
        let reply = within(grpc.unary(Request::new(request), PathAndQuery::from_static(path), codec)).await;
        Ok(reply?.into_inner())
    }

    async fn bootstrap(&self, data_plane: &str, token: &str) -> Result<Identity, Status> {
        let key = KeyPair::generate().unwrap();
        let request = BootstrapRequest {
            data_plane: data_plane.to_owned(),
            token: token.to_owned(),
            public_key: key.subject_public_key_info().into(),
        };
        let reply = Site::certificate(&mut self.connect(None).await, wire::BOOTSTRAP, request).await?;
        Ok(Identity { key, certificate: reply.certificate })
    }

    async fn follow(&self, identity: Option<&Identity>, hello: Hello) -> Result<Stream, Status> {
        Site::follow_over(self.connect(identity).await, hello).await
    }

    async fn follow_over(grpc: Grpc<Caller>, hello: Hello) -> Result<Stream, Status> {
        Site::follow_asking(grpc, hello, false).await
    }

    /// `accepts`: also from a controller that leads no more.
    async fn follow_asking(mut grpc: Grpc<Caller>, hello: Hello, accepts: bool) -> Result<Stream, Status> {
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let (said, saying) = mpsc::channel(16);
        said.send(FromPlane { said: Some(Said::Hello(hello)) }).await.unwrap();
        let saying = futures::stream::unfold(saying, async |mut saying| Some((saying.recv().await?, saying)));
        let mut request = Request::new(saying);
        if accepts {
            request.metadata_mut().insert(wire::CARETAKER_METADATA, "true".parse().unwrap());
        }
        let codec = ProstCodec::<FromPlane, ToPlane>::default();
        let calling = grpc.streaming(request, PathAndQuery::from_static(wire::FOLLOW), codec);
        let told = within(calling).await?.into_inner();
        Ok(Stream { said, told, _grpc: grpc })
    }

    async fn send(&self, update: Update) {
        self.updates.send(Update { settled: true, ..update }).await.unwrap();
    }
}

struct Stream {
    said: mpsc::Sender<FromPlane>,
    told: Streaming<ToPlane>,
    _grpc: Grpc<Caller>,
}

impl Stream {
    async fn next(&mut self) -> Result<Told, Status> {
        let message = within(self.told.message()).await?;
        Ok(message.and_then(|message| message.told).unwrap())
    }

    async fn part(&mut self) -> Part {
        loop {
            match self.next().await.unwrap() {
                Told::Part(part) => return part,
                Told::Welcome(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn acknowledge(&self, part: &Part) {
        let report = Some(Report { ready: true, ..Report::default() });
        let one = Acknowledged { lane: part.lane, number: part.number, rejected: Vec::new(), report };
        self.said.send(FromPlane { said: Some(Said::Acknowledged(one)) }).await.unwrap();
    }

    /// Keys of a whole message, which is acknowledged.
    async fn message(&mut self) -> Vec<String> {
        let mut keys = Vec::new();
        loop {
            let part = self.part().await;
            keys.extend(part.upserts.iter().map(|entry| entry.key.clone()));
            if part.last {
                self.acknowledge(&part).await;
                return keys;
            }
        }
    }
}

/// Judges everything but the name.
#[derive(Debug)]
struct AnyName {
    roots: RootCertStore,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl rustls::client::danger::ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        let parsed = rustls::server::ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn hello() -> Hello {
    Hello { protocol: wire::PROTOCOL, oldest_protocol: wire::OLDEST_PROTOCOL, ..Hello::default() }
}

/// A TLS listener of a data plane, with its private key.
fn listener(plane: &str) -> Vec<Resource> {
    let certificate = Certificate {
        key: format!("certificate/{plane}"),
        chain: b"chain".to_vec(),
        private_key: format!("key of {plane}").into_bytes(),
    };
    let listener = Listener {
        key: format!("listener/default/{plane}/https"),
        address: DataPlaneName::new("default", plane).place(),
        port: 443,
        tls: Some(ListenerTls { certificates: vec![certificate.key.clone()], ..ListenerTls::default() }),
        ..Listener::default()
    };
    [Of::Certificate(certificate), Of::Listener(listener)].map(|body| Resource { body: Some(body) }).to_vec()
}

fn route(index: usize, plane: &str, size: usize) -> Resource {
    let attachment = Attachment {
        listener_key: format!("listener/default/{plane}/https"),
        hostnames: vec!["x".repeat(size)],
    };
    let key = format!("httproute/default/r{index}");
    Resource {
        body: Some(Of::HttpRoute(HttpRoute { key, attachments: vec![attachment], ..HttpRoute::default() })),
    }
}

fn both() -> Update {
    Update { sequence: 1, full: true, upserts: [listener("a"), listener("b")].concat(), ..Update::default() }
}

#[tokio::test]
async fn a_token_gives_a_certificate_and_that_the_next_one_and_only_its_own_snapshot() {
    let mut site = site().await;
    site.send(both()).await;
    let a = site.bootstrap("default/a", "token-a").await.unwrap();
    let key = KeyPair::generate().unwrap();
    let request = RenewRequest { public_key: key.subject_public_key_info().into() };
    let reply = Site::certificate(&mut site.connect(Some(&a)).await, wire::RENEW, request).await.unwrap();
    let renewed = Identity { key, certificate: reply.certificate };
    let mut stream = site.follow(Some(&renewed), hello()).await.unwrap();
    assert_eq!(stream.message().await, ["certificate/a", "listener/default/a/https"]);
    let seen = within(async {
        loop {
            let applied = site.applied.recv().await.unwrap();
            if applied.planes.iter().any(|plane| plane.place == "plane:default/a" && plane.sequence == 1) {
                return applied;
            }
        }
    });
    assert_eq!(seen.await.planes.len(), 2);
    assert_eq!(site.distribution.planes()[0].instances.len(), 1);
}

#[tokio::test]
async fn whoever_is_not_the_data_plane_gets_nothing() {
    let site = site().await;
    site.send(both()).await;
    let refused = async |name: &str, token: &str, words: &str| {
        let status = site.bootstrap(name, token).await.err().unwrap();
        assert!(status.message().contains(words), "{name} {token}: {status}");
    };
    refused("default/b", "token-a", "the token is that of system:serviceaccount:default:a").await;
    refused("other/a", "token-a", "the token is that of system:serviceaccount:default:a").await;
    refused("default/a", "elsewhere", "audience").await;
    refused("default/a", "forged", "the token is not good").await;
    refused("default/a", "", "a token has between").await;
    refused("default/a", &"x".repeat(20_000), "a token has between").await;
    refused("default/a/../b", "token-a", "not NAMESPACE/NAME").await;
    // Without a certificate there is neither a stream nor the next certificate.
    let status = site.follow(None, hello()).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated);
    let request = RenewRequest { public_key: KeyPair::generate().unwrap().subject_public_key_info().into() };
    let status = Site::certificate(&mut site.connect(None).await, wire::RENEW, request).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated);
    // A certificate of the right name by somebody else.
    let stranger = Authority::make(&AuthorityPolicy::default(), 1_790_000_000).unwrap();
    let key = KeyPair::generate().unwrap();
    let name = DataPlaneName::new("default", "a");
    let public = key.subject_public_key_info();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let issued =
        stranger.issue_plane(&name, &public, &AuthorityPolicy::default(), now.try_into().unwrap()).unwrap();
    let forged = Identity { key, certificate: issued.certificate.to_vec().into() };
    assert!(site.follow(Some(&forged), hello()).await.is_err());
    // With a's certificate there is no way to b's: the stream takes no name.
    let a = site.bootstrap("default/a", "token-a").await.unwrap();
    let mut stream =
        site.follow(Some(&a), Hello { instance: "default/b".to_owned(), ..hello() }).await.unwrap();
    assert!(stream.message().await.iter().all(|key| !key.contains("/b")));
}

#[tokio::test]
async fn a_release_that_cannot_be_talked_to_is_told_and_the_next_one_is_served() {
    let site = site().await;
    site.send(both()).await;
    let a = site.bootstrap("default/a", "token-a").await.unwrap();
    let next = Hello { protocol: wire::PROTOCOL + 1, ..hello() };
    let mut stream = site.follow(Some(&a), next).await.unwrap();
    let Told::Welcome(welcome) = stream.next().await.unwrap() else { panic!("no welcome") };
    assert_eq!(welcome.protocol, wire::PROTOCOL);
    let far = Hello { protocol: wire::PROTOCOL + 2, oldest_protocol: wire::PROTOCOL + 1, ..hello() };
    let status = site.follow(Some(&a), far).await.err().unwrap();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("more than one release apart"), "{status}");
}

#[tokio::test]
async fn a_standby_says_where_to_go_and_a_leader_that_ends_sends_its_streams_there() {
    let site = site().await;
    site.send(both()).await;
    let a = site.bootstrap("default/a", "token-a").await.unwrap();
    let mut stream = site.follow(Some(&a), hello()).await.unwrap();
    stream.message().await;
    site.leads.send_replace(Leadership::Standby { leader: Some("10.0.0.9:9902".to_owned()) });
    let ended = loop {
        if let Err(status) = stream.next().await {
            break status;
        }
    };
    let refused = site.follow(Some(&a), hello()).await.err().unwrap();
    for status in [ended, refused] {
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.metadata().get(wire::LEADER_METADATA).unwrap(), "10.0.0.9:9902");
    }
}

/// Whether a controller that led last asks to look for a leader first.
fn is_of_a_caretaker(status: &Status) -> bool {
    status.code() == Code::Unavailable && status.metadata().contains_key(wire::CARETAKER_METADATA)
}

#[tokio::test]
async fn who_led_last_serves_on_whoever_finds_no_leader() {
    let site = site().await;
    site.send(both()).await;
    let a = site.bootstrap("default/a", "token-a").await.unwrap();
    let mut stream = site.follow(Some(&a), hello()).await.unwrap();
    assert!(matches!(stream.next().await.unwrap(), Told::Welcome(welcome) if !welcome.caretaker));
    stream.message().await;
    site.leads.send_replace(Leadership::Caretaker { epoch: 1 });
    // What is there goes on for a while, with what is new.
    let edited = Update { sequence: 2, upserts: vec![route(7, "a", 100)], ..Update::default() };
    site.send(edited).await;
    assert_eq!(stream.message().await, ["httproute/default/r7"]);
    // Nobody gets in who has not looked elsewhere, and no token can be judged.
    let refused = site.follow(Some(&a), hello()).await.err().unwrap();
    assert!(is_of_a_caretaker(&refused), "{refused}");
    let refused = site.bootstrap("default/b", "token-b").await.err().unwrap();
    assert!(is_of_a_caretaker(&refused), "{refused}");
    let mut asking = Site::follow_asking(site.connect(Some(&a)).await, hello(), true).await.unwrap();
    let Told::Welcome(welcome) = asking.next().await.unwrap() else { panic!("no welcome") };
    assert!(welcome.caretaker && welcome.position.is_some_and(|position| position.epoch == 1));
    assert!(asking.message().await.contains(&"httproute/default/r7".to_owned()));
    let key = KeyPair::generate().unwrap();
    let request = RenewRequest { public_key: key.subject_public_key_info().into() };
    Site::certificate(&mut site.connect(Some(&a)).await, wire::RENEW, request).await.unwrap();
    // Each stream ends by itself, so that a leader is looked for.
    for stream in [&mut stream, &mut asking] {
        let ended = loop {
            if let Err(status) = stream.next().await {
                break status;
            }
        };
        assert!(is_of_a_caretaker(&ended), "{ended}");
    }
    // And goes on where leadership is back before that.
    let mut asking = Site::follow_asking(site.connect(Some(&a)).await, hello(), true).await.unwrap();
    asking.message().await;
    site.leads.send_replace(Leadership::Leader { epoch: 1 });
    assert!(matches!(asking.next().await.unwrap(), Told::Welcome(welcome) if !welcome.caretaker));
    let quiet = tokio::time::timeout(Duration::from_secs(16), asking.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    // Another leadership of the same process is another state.
    site.leads.send_replace(Leadership::Caretaker { epoch: 2 });
    assert!(!is_of_a_caretaker(&asking.next().await.err().unwrap()));
}

#[tokio::test]
async fn a_reader_that_stops_reading_costs_no_more_than_its_buffers() {
    let site = site().await;
    let mut all = both();
    all.upserts.extend((0..10_000).map(|index| route(index, "a", 800)));
    site.send(all).await;
    let a = site.bootstrap("default/a", "token-a").await.unwrap();
    let slow = site.follow(Some(&a), hello()).await.unwrap();
    let mut quick = site.follow(Some(&a), hello()).await.unwrap();
    assert_eq!(quick.message().await.len(), 10_002);
    let whole = site.status.sent_bytes.get();
    for sequence in 2..50 {
        site.send(Update {
            sequence,
            upserts: vec![route(7, "a", 100 + sequence as usize)],
            ..Update::default()
        })
        .await;
        assert_eq!(quick.message().await, ["httproute/default/r7"]);
    }
    // The one that reads nothing was sent what fits into windows and buffers, once.
    let sent_later = site.status.sent_bytes.get() - whole;
    assert!(sent_later < 48 * 1_000 + 3 * 1024 * 1024, "{sent_later}");
    drop(slow);
}

#[tokio::test]
async fn whoever_holds_connections_open_keeps_nobody_else_out() {
    let site = site().await;
    site.send(both()).await;
    let a = site.bootstrap("default/a", "token-a").await.unwrap();
    // Streams with a certificate count for their data plane, not for their address.
    let mut streams = Vec::new();
    for _ in 0..40 {
        let mut stream = site.follow(Some(&a), hello()).await.unwrap();
        stream.message().await;
        streams.push(stream);
    }
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(site.address).await.unwrap());
    }
    let stream = TcpStream::connect(site.address).await.unwrap();
    assert!(site.connect_over(stream, None).await.is_err(), "this address has too many");
    let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = within(elsewhere.connect(site.address)).await.unwrap();
    assert!(site.connect_over(stream, Some(&a)).await.is_ok());
    drop(silent);
    within(async {
        loop {
            let stream = TcpStream::connect(site.address).await.unwrap();
            if site.connect_over(stream, None).await.is_ok() {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Everything up to the end of a stream, whatever it is.
async fn ended(stream: &mut Stream) {
    within(async { while let Ok(Some(_)) = stream.told.message().await {} }).await;
}

#[tokio::test]
async fn what_no_data_plane_has_to_say_is_refused_and_the_others_are_served_on() {
    let site = site().await;
    site.send(both()).await;
    let a = site.bootstrap("default/a", "token-a").await.unwrap();
    let b = site.bootstrap("default/b", "token-b").await.unwrap();
    let mut other = site.follow(Some(&b), hello()).await.unwrap();
    other.message().await;
    let large = Hello { release: "x".repeat(20 * 1024 * 1024), ..hello() };
    let status = site.follow(Some(&a), large).await.err().unwrap();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    // A large one that is legitimate, and one that names more than there can be: it is sent everything.
    for count in [100_000, 1_000_000] {
        let held = (0..count).map(|index| Held { key: format!("{index}"), ..Held::default() }).collect();
        let mut stream = site.follow(Some(&a), Hello { held, ..hello() }).await.unwrap();
        let part = stream.part().await;
        assert_eq!((part.full, part.removals.is_empty()), (count == 1_000_000, count == 1_000_000));
    }
    // Sockets without number, and bytes without end, on streams that were begun.
    let binds = vec![BindReport { port: 80, ..BindReport::default() }; 1_000_000];
    let error = "x".repeat(20 * 1024 * 1024);
    for binds in [binds, vec![BindReport { port: 80, error, ..BindReport::default() }]] {
        let mut stream = site.follow(Some(&a), hello()).await.unwrap();
        stream.message().await;
        let report = Report { ready: true, binds, draining: false };
        stream.said.send(FromPlane { said: Some(Said::Report(report)) }).await.unwrap();
        ended(&mut stream).await;
    }
    // More streams than an instance needs.
    let grpc = site.connect(Some(&a)).await;
    let first = Site::follow_over(grpc.clone(), hello()).await.unwrap();
    let _second = Site::follow_over(grpc.clone(), hello()).await.unwrap();
    let status = Site::follow_over(grpc.clone(), hello()).await.err().unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    drop(first);
    within(async {
        while Site::follow_over(grpc.clone(), hello()).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    site.send(Update { sequence: 2, upserts: vec![route(1, "b", 10)], ..Update::default() }).await;
    assert_eq!(other.message().await, ["httproute/default/r1"]);
}

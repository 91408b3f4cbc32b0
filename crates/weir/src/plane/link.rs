//! The connection to a controller, and coming back to one.
//!
//! Invariants: every address that the controllers' name has is tried, the leader's first where somebody said which it is; every wait is
//! bounded, and those between attempts grow and are drawn; a token is shown only without a certificate that is believed; the
//! certificate is renewed on the open connection, long before it ends; a controller that leads no more is taken where no other is found,
//! and never with an older state.

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream};
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use weir_control::Backoff;
use weir_model::wire::{
    self, Acknowledged, BootstrapRequest, CARETAKER_METADATA, CertificateReply, FromPlane, Hello,
    LEADER_METADATA, Lane, MESSAGE_MAX, OLDEST_PROTOCOL, PROTOCOL, Part, Refused, RenewRequest, Said, Splits,
    ToPlane, Told, Welcome,
};

use super::identity::{NewKey, client_config, server_name, unix_seconds};
use super::keep::KeptIdentity;
use super::state::TakeError;
use super::{Plane, instance};

/// Waits between two rounds of attempts. Unit: time. Source: ours; the longest is half of what controllers believe in a data plane's return.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// While nothing is served: an installation begins with its controllers, whose name is known in a moment.
const LONGEST_FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest for TCP and TLS to one address. Unit: time. Source: ours.
const CONNECT: Duration = Duration::from_secs(4);

/// The longest that a call, or the first word of a stream, may take. Unit: time. Source: ours; a token is asked about meanwhile.
const CALL: Duration = Duration::from_secs(35);

/// How often a silent controller is asked whether it is there, and how long it has to answer. Unit: time. Source: ours.
const PING: Duration = Duration::from_secs(5);
const PONG: Duration = Duration::from_secs(10);

/// Bytes under way on a stream, and on the connection. Unit: bytes. Source: ours.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// After so many failures in a row the certificate is doubted, and every second attempt begins with the token. Unit: attempts. Source: ours.
const DOUBTS: u32 = 3;

/// For so long an older state is refused. Unit: time. Source: ours: what every controller says for so long is how it is, be it that the
/// cluster was put back to an earlier day.
const INSIST: Duration = Duration::from_secs(300);

/// Between two attempts to renew a certificate at most. Unit: time. Source: ours.
const RENEW_AGAIN: Duration = Duration::from_secs(60);
/// And at least.
const RENEW_SOONEST: Duration = Duration::from_secs(1);

/// What is said and not sent yet. Unit: messages. Source: ours.
const SAID: usize = 16;

pub(super) struct Link {
    plane: Arc<Plane>,
    identity: Option<KeptIdentity>,
    /// Not before that it is renewed, whatever clocks say.
    renew_from: Instant,
    /// Names this process.
    run: Bytes,
    /// Where the leader is, as a standby said.
    leader: Option<String>,
    doubts: u32,
    /// Who led last, and served so until a leader was to be looked for.
    caretaker: Option<SocketAddr>,
    /// The highest epoch of a controller that led.
    led: u64,
    /// Since when every leader's state was refused, and whether one was in this round.
    refused_since: Option<Instant>,
    refused: bool,
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    /// Nobody is at the address: that says nothing about the certificate.
    #[error("connecting to {0}: {1}")]
    Away(SocketAddr, std::io::Error),
    #[error("{0:#}")]
    Connect(#[from] anyhow::Error),
    #[error("{}", words(.0))]
    Status(#[from] Box<Status>),
    #[error("{0}")]
    Refused(#[from] TakeError),
}

/// How a stream ended.
enum End {
    /// It is to be begun anew at once: there is a new certificate.
    Renewed,
    /// A leader is to be looked for at once: who served leads no more, though it would serve on.
    Search,
    Over(LinkError),
}

/// A connection of HTTP/2; it ends when this is dropped.
struct Channel {
    send: SendRequest<Body>,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// What calls are made over.
#[derive(Clone)]
struct Caller(SendRequest<Body>);

impl tower::Service<http::Request<Body>> for Caller {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.send_request(request).boxed()
    }
}

impl Channel {
    fn grpc(&self) -> Grpc<Caller> {
        let grpc = Grpc::with_origin(Caller(self.send.clone()), http::Uri::from_static("https://weir"));
        grpc.max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX)
    }

    async fn certificate<M>(&self, path: &'static str, request: M) -> Result<CertificateReply, LinkError>
    where
        M: prost::Message + Send + Sync + 'static,
    {
        let mut grpc = self.grpc();
        let calling = async {
            grpc.ready().await.map_err(|error| Box::new(Status::unknown(error.to_string())))?;
            let codec = ProstCodec::<M, CertificateReply>::default();
            let reply = grpc.unary(Request::new(request), PathAndQuery::from_static(path), codec).await;
            Ok(reply.map_err(Box::new)?.into_inner())
        };
        match tokio::time::timeout(CALL, calling).await {
            Ok(reply) => reply,
            Err(_elapsed) => Err(anyhow!("no answer within {CALL:?}").into()),
        }
    }
}

impl Link {
    pub(super) fn new(plane: Arc<Plane>) -> Link {
        let mut identity = plane.store.identity().unwrap_or_else(|error| {
            let error = format!("{error:#}");
            tracing::warn!(error, "the certificate that was kept cannot be used");
            None
        });
        // An older release did not say.
        if let Some(identity) = identity.as_mut().filter(|identity| identity.renew_seconds == 0) {
            identity.renew_at_last(identity.not_after_seconds.saturating_sub(unix_seconds()));
        }
        let draw = RandomState::new();
        let run: Vec<u8> = [0, 1].iter().flat_map(|half: &u8| draw.hash_one(half).to_be_bytes()).collect();
        Link {
            plane,
            identity,
            renew_from: Instant::now(),
            run: run.into(),
            leader: None,
            doubts: 0,
            caretaker: None,
            led: 0,
            refused_since: None,
            refused: false,
        }
    }

    /// For as long as it is polled.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let started = Instant::now();
            self.refused = false;
            let error = match self.round().await {
                End::Renewed => continue,
                End::Search => {
                    backoff.reset();
                    tokio::time::sleep(FIRST_WAIT).await;
                    continue;
                }
                End::Over(error) => error,
            };
            if !self.refused {
                // Nobody who leads was there, or one was followed: that says nothing of what all leaders have.
                self.refused_since = None;
            }
            self.plane.status.caretaken(false);
            self.plane.status.connected(false);
            self.plane.tried.notify_one();
            self.plane.status.counters.failures.fetch_add(1, Relaxed);
            let text = error.to_string();
            if self.plane.status.tell_problem(text.clone()) {
                tracing::warn!(error = text, "no controller serves this data plane now; it is tried again");
            }
            if started.elapsed() > LONGEST_WAIT {
                backoff.reset();
            }
            let longest = if self.plane.status.is_applied() { LONGEST_WAIT } else { LONGEST_FIRST_WAIT };
            tokio::time::sleep(backoff.next_wait().min(longest)).await;
        }
    }

    /// Every address once, until one of them has served; then those of controllers that led last, which confirm what this data plane has:
    /// without any state there is nothing that an older one could be told by.
    async fn round(&mut self) -> End {
        let mut last =
            LinkError::Connect(anyhow!("--controller {}: no address", self.plane.options.controller));
        let controller = self.plane.options.controller.clone();
        let mut addresses = match resolve(&controller).await {
            Ok(addresses) => addresses,
            Err(error) => {
                last = error.into();
                Vec::new()
            }
        };
        // The last is tried first.
        let draw = RandomState::new();
        addresses.sort_by_key(|address| draw.hash_one(address));
        let mut pointers = 0;
        let has_state = self.plane.state().position().epoch > 0;
        let mut caretakers: Vec<SocketAddr> =
            self.caretaker.take().filter(|_| has_state).into_iter().collect();
        addresses.retain(|address| !caretakers.contains(address));
        loop {
            if let Some(leader) = self.leader.take()
                && let Ok(mut found) = resolve(&leader).await
            {
                found.retain(|address| !caretakers.contains(address));
                addresses.retain(|address| !found.contains(address));
                addresses.extend(found);
            }
            let (address, accepts) = match addresses.pop() {
                Some(address) => (address, false),
                None => match caretakers.pop() {
                    Some(address) => (address, true),
                    None => return End::Over(last),
                },
            };
            match self.attempt(address, accepts).await {
                end @ (End::Renewed | End::Search) => {
                    self.caretaker = Some(address).filter(|_| self.plane.status.is_caretaken());
                    return end;
                }
                End::Over(error) => {
                    if is_caretakers(&error) && has_state && !accepts {
                        caretakers.push(address);
                    }
                    if accepts && !matches!(error, LinkError::Refused(_)) {
                        // Its name may not be found as long as the API server is away.
                        self.caretaker = Some(address);
                    }
                    if let LinkError::Status(status) = &error
                        && let Some(leader) = status.metadata().get(LEADER_METADATA)
                        && pointers < 3
                    {
                        pointers += 1;
                        self.leader = leader.to_str().ok().map(str::to_owned);
                    }
                    tracing::debug!(%address, %error, "this controller does not serve");
                    last = error;
                }
            }
        }
    }

    async fn attempt(&mut self, address: SocketAddr, accepts: bool) -> End {
        match self.serve_from(address, accepts).await {
            Ok(end) => end,
            Err(error) => {
                let is_elsewhere = match &error {
                    LinkError::Status(status) => status.code() == Code::Unavailable,
                    LinkError::Away(..) => true,
                    LinkError::Connect(_) | LinkError::Refused(_) => false,
                };
                if !is_elsewhere {
                    self.doubts = self.doubts.saturating_add(1);
                }
                End::Over(error)
            }
        }
    }

    /// `accepts`: also a controller that leads no more.
    async fn serve_from(&mut self, address: SocketAddr, accepts: bool) -> Result<End, LinkError> {
        let doubted = self.doubts >= DOUBTS && self.doubts % 2 == 1;
        let usable = self.identity.as_ref().is_some_and(|identity| identity.left().is_some());
        if !usable || doubted {
            match self.bootstrap(address).await {
                // What there is may do after all: the API server may be away.
                Err(error) if usable => tracing::debug!(%error, "the token gave no new certificate"),
                outcome => outcome?,
            }
        }
        let channel = self.connect(address, true).await?;
        self.follow(&channel, accepts).await
    }

    /// The token for a certificate.
    async fn bootstrap(&mut self, address: SocketAddr) -> Result<(), LinkError> {
        let options = &self.plane.options;
        let what = || format!("--token-file: {}", options.token_file.display());
        let token = std::fs::read_to_string(&options.token_file).with_context(what)?.trim().to_owned();
        let key = NewKey::draw()?;
        let data_plane = options.data_plane.to_string();
        let request =
            BootstrapRequest { data_plane: data_plane.clone(), token, public_key: key.public().into() };
        let channel = self.connect(address, false).await?;
        let reply = channel.certificate(wire::BOOTSTRAP, request).await?;
        self.identify(key.with(data_plane, reply));
        Ok(())
    }

    /// From now on this is the certificate.
    fn identify(&mut self, identity: KeptIdentity) {
        let status = &self.plane.status;
        status.counters.certificates.fetch_add(1, Relaxed);
        if let Err(error) = self.plane.store.save_identity(&identity) {
            status.counters.write_failures.fetch_add(1, Relaxed);
            tracing::warn!(%error, "the certificate could not be kept; a restart will need the token");
        }
        self.identity = Some(identity);
        self.pause_renewal();
    }

    /// Between two attempts there is some time.
    fn pause_renewal(&mut self) {
        let left = self.identity.as_ref().and_then(KeptIdentity::left).unwrap_or_default();
        self.renew_from = Instant::now() + RENEW_AGAIN.min(left / 10).max(RENEW_SOONEST);
    }

    async fn connect(&self, address: SocketAddr, with_identity: bool) -> Result<Channel, LinkError> {
        let identity = self.identity.as_ref().filter(|_| with_identity);
        let config = Arc::new(client_config(&self.plane.options.ca_file, identity)?);
        let late = |_elapsed| Err(std::io::ErrorKind::TimedOut.into());
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await.unwrap_or_else(late);
        let stream = stream.map_err(|error| LinkError::Away(address, error))?;
        let connecting = async {
            stream.set_nodelay(true)?;
            TlsConnector::from(config).connect(server_name(), stream).await
        };
        let stream = match tokio::time::timeout(CONNECT, connecting).await {
            Ok(stream) => stream.map_err(hinted).with_context(|| format!("connecting to {address}"))?,
            Err(_elapsed) => return Err(anyhow!("connecting to {address}: not within {CONNECT:?}").into()),
        };
        let mut http = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PONG);
        http.keep_alive_while_idle(true);
        http.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        let (send, connection) = http.handshake(TokioIo::new(stream)).await.context("HTTP/2")?;
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the controller broke");
            }
        });
        Ok(Channel { send, connection })
    }

    /// One stream, to its end.
    async fn follow(&mut self, channel: &Channel, accepts: bool) -> Result<End, LinkError> {
        let plane = self.plane.clone();
        let (said, saying) = mpsc::channel(SAID);
        let hello = self.hello()?;
        // There is room: nothing was said yet.
        let _ = said.try_send(say(Said::Hello(hello)));
        let mut told = begin(channel, saying, accepts).await?;
        let welcome = match tokio::time::timeout(CALL, told.message()).await {
            Ok(message) => message.map_err(Box::new)?.and_then(|message| message.told),
            Err(_elapsed) => return Err(anyhow!("the controller says nothing").into()),
        };
        let Some(Told::Welcome(Welcome { position, release, now_seconds, caretaker, .. })) = welcome else {
            return Err(anyhow!("the controller did not begin with Welcome").into());
        };
        let position = position.unwrap_or_default();
        let outdated = if caretaker && position.epoch < self.led {
            Some(format!("it led last with epoch {}, and {} leads", position.epoch, self.led))
        } else {
            position.older_than(plane.state().position())
        };
        let refused = outdated.filter(|_| caretaker || !self.insists());
        if !caretaker {
            // One that is followed counts also where the cluster was put back to an earlier day.
            let least = if refused.is_some() { self.led } else { 0 };
            self.led = position.epoch.max(least);
        }
        if let Some(why) = refused {
            return Err(self.refuse(TakeError::Older(why), !caretaker, &said).await);
        }
        plane.status.compare_clocks(now_seconds);
        plane.status.counters.connections.fetch_add(1, Relaxed);
        plane.status.connected(true);
        self.doubts = 0;
        if !caretaker {
            tracing::info!(release, "a controller serves this data plane");
        }
        plane.caretaken(caretaker);
        self.take_all(channel, &mut told, &said).await
    }

    async fn take_all(
        &mut self,
        channel: &Channel,
        told: &mut Streaming<ToPlane>,
        said: &mpsc::Sender<FromPlane>,
    ) -> Result<End, LinkError> {
        let plane = self.plane.clone();
        let mut binds = plane.status.proxy().binds();
        let mut stirred = plane.stirred.subscribe();
        let mut renewing = self.renewal(channel);
        loop {
            tokio::select! {
                message = told.message() => {
                    let message = match message.map_err(|status| LinkError::from(Box::new(status))) {
                        Err(error) if is_caretakers(&error) => return Ok(End::Search),
                        message => message?,
                    };
                    let message = message.ok_or_else(|| anyhow!("the controller ended the stream"))?;
                    match message.told {
                        Some(Told::Part(part)) => self.take(part, said).await?,
                        Some(Told::SplitsWanted(wanted)) => {
                            let json = plane.status_splits().into();
                            send(said, Said::Splits(Splits { request: wanted.request, json })).await?;
                        }
                        Some(Told::Welcome(welcome)) => plane.caretaken(welcome.caretaker),
                        // What a newer release says.
                        None => {}
                    }
                },
                changed = binds.changed() => {
                    changed.map_err(|error| anyhow!("the data plane has ended: {error}"))?;
                    binds.mark_unchanged();
                    send(said, Said::Report(plane.status.report())).await?;
                }
                _ = stirred.changed() => send(said, Said::Report(plane.status.report())).await?,
                renewed = &mut renewing => match renewed {
                    Ok(identity) => {
                        self.identify(identity);
                        return Ok(End::Renewed);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the certificate could not be renewed; it is tried again");
                        self.pause_renewal();
                        renewing = self.renewal(channel);
                    }
                },
            }
        }
    }

    /// A new certificate, when it is time for one.
    fn renewal(&self, channel: &Channel) -> BoxFuture<'static, Result<KeptIdentity, LinkError>> {
        let Some(identity) = &self.identity else { return Box::pin(std::future::pending()) };
        self.plane.status.certificate_ends(identity.not_after_seconds);
        let (from, at_seconds) = (self.renew_from, identity.renew_seconds);
        let data_plane = identity.data_plane.clone();
        let channel = Channel { send: channel.send.clone(), connection: tokio::spawn(async {}) };
        Box::pin(async move {
            tokio::time::sleep_until(from.into()).await;
            // By the clock that the certificate ends by, which may be set meanwhile.
            while let wait = at_seconds.saturating_sub(unix_seconds())
                && wait > 0
            {
                tokio::time::sleep(RENEW_AGAIN.min(Duration::from_secs(wait.unsigned_abs()))).await;
            }
            let key = NewKey::draw()?;
            let request = RenewRequest { public_key: key.public().into() };
            let reply = channel.certificate(wire::RENEW, request).await?;
            Ok(key.with(data_plane, reply))
        })
    }

    fn hello(&self) -> Result<Hello> {
        let mut state = self.plane.state();
        state.begin();
        let hello = Hello {
            protocol: PROTOCOL,
            oldest_protocol: OLDEST_PROTOCOL,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            instance: instance(&self.plane.options)?,
            run: self.run.clone(),
            held: state.held(),
            position: Some(state.position().clone()),
        };
        Ok(hello.bounded())
    }

    /// A part, and what follows from it if it is the last of its message.
    async fn take(&mut self, part: Part, said: &mpsc::Sender<FromPlane>) -> Result<(), LinkError> {
        let plane = self.plane.clone();
        let insists = self.insists() && !plane.status.is_caretaken();
        let (message, is_first) = {
            let mut state = plane.state();
            let taken = state.take(part, insists);
            let is_first = !plane.status.is_applied();
            let taken = taken.map(|message| {
                message.map(|mut message| {
                    // The proxy has nothing of what was kept.
                    if is_first && message.lane == Lane::Configuration {
                        message.update = state.whole();
                    }
                    message
                })
            });
            (taken, is_first)
        };
        let mut message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(()),
            Err(error) => return Err(self.refuse(error, !plane.status.is_caretaken(), said).await),
        };
        if !(is_first && message.lane == Lane::Endpoints) {
            plane.readdress(&mut message.update);
            let applied = plane.status.proxy().apply(message.update).await;
            plane.state().applied(&applied);
        }
        if message.lane == Lane::Configuration {
            if !plane.status.is_caretaken() {
                self.refused_since = None;
            }
            plane.status.runs();
        }
        plane.status.counters.messages.fetch_add(1, Relaxed);
        plane.changed.notify_one();
        let rejected = plane.state().rejected();
        let report = Some(plane.status.report());
        let acknowledged =
            Acknowledged { lane: message.lane.into(), number: message.number, rejected, report };
        Ok(send(said, Said::Acknowledged(acknowledged)).await?)
    }

    /// Whether an older state is taken, because nobody had a newer one for long.
    fn insists(&self) -> bool {
        self.refused_since.is_some_and(|since| since.elapsed() >= INSIST)
    }

    /// `of_leader`: it is the state of a controller that leads.
    async fn refuse(
        &mut self,
        error: TakeError,
        of_leader: bool,
        said: &mpsc::Sender<FromPlane>,
    ) -> LinkError {
        if of_leader {
            self.refused = true;
            self.refused_since.get_or_insert_with(Instant::now);
        }
        self.plane.status.counters.refused.fetch_add(1, Relaxed);
        let refused = Refused { reason: error.to_string() };
        if send(said, Said::Refused(refused)).await.is_ok() {
            // The connection gets a moment to carry it; nothing depends on it.
            tokio::time::sleep(FIRST_WAIT).await;
        }
        error.into()
    }
}

impl Plane {
    /// Tells whether who serves leads no more, each time that it is otherwise.
    fn caretaken(&self, is: bool) {
        if self.status.caretaken(is) {
            if is {
                tracing::warn!("no controller leads now; the one that led last serves this data plane");
            } else {
                tracing::info!("a controller leads again");
            }
        }
    }

    fn status_splits(&self) -> Vec<u8> {
        crate::wire::splits(self.status.proxy()).to_string().into_bytes()
    }
}

/// Whether it comes from a controller that led last.
fn is_caretakers(error: &LinkError) -> bool {
    matches!(error, LinkError::Status(status) if status.metadata().contains_key(CARETAKER_METADATA))
}

/// Opens the stream; what it sends is what comes out of `saying`. `accepts`: also with a controller that leads no more.
async fn begin(
    channel: &Channel,
    saying: mpsc::Receiver<FromPlane>,
    accepts: bool,
) -> Result<Streaming<ToPlane>, LinkError> {
    let mut grpc = channel.grpc();
    let calling = async {
        grpc.ready().await.map_err(|error| Box::new(Status::unknown(error.to_string())))?;
        let codec = ProstCodec::<FromPlane, ToPlane>::default();
        let mut request = Request::new(stream_of(saying));
        if accepts {
            request.metadata_mut().insert(CARETAKER_METADATA, MetadataValue::from_static("true"));
        }
        let reply = grpc.streaming(request, PathAndQuery::from_static(wire::FOLLOW), codec).await;
        Ok(reply.map_err(Box::new)?.into_inner())
    };
    match tokio::time::timeout(CALL, calling).await {
        Ok(stream) => stream,
        Err(_elapsed) => Err(anyhow!("no answer within {CALL:?}").into()),
    }
}

/// A certificate that is out of its time is more often a clock's fault than anybody else's.
fn hinted(error: std::io::Error) -> anyhow::Error {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let is_of_time = matches!(
        inner,
        Some(rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }
        ))
    );
    let error = anyhow::Error::from(error);
    if is_of_time {
        return error.context(
            "the controller's certificate is out of its time by this node's clock: do their clocks agree?",
        );
    }
    error
}

fn stream_of(saying: mpsc::Receiver<FromPlane>) -> impl Stream<Item = FromPlane> + Send {
    futures::stream::unfold(saying, async |mut saying| Some((saying.recv().await?, saying)))
}

fn say(said: Said) -> FromPlane {
    FromPlane { said: Some(said) }
}

async fn send(to: &mpsc::Sender<FromPlane>, said: Said) -> Result<()> {
    to.send(say(said)).await.map_err(|_| anyhow!("the stream to the controller has ended"))
}

async fn resolve(controller: &str) -> Result<Vec<SocketAddr>> {
    let looking = tokio::net::lookup_host(controller);
    let found = tokio::time::timeout(CONNECT, looking).await.context("looking up took too long");
    let found = found.and_then(|found| Ok(found?)).with_context(|| format!("controller {controller}"))?;
    Ok(found.collect())
}

/// A status for people.
fn words(status: &Status) -> String {
    format!("the controller says: {} ({:?})", status.message(), status.code())
}

//! Connections and calls: TLS, who is there, which call it is.
//!
//! Invariants: who a peer is comes from its certificate alone; a peer without one gets no further than asking for it; connections,
//! handshakes and messages are bounded in number, time and size.

pub(super) mod hearing;

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use weir_model::resource::DataPlaneName;
use weir_model::wire::{
    self, BootstrapRequest, CARETAKER_METADATA, CertificateReply, FromPlane, LEADER_METADATA, MESSAGE_MAX,
    RenewRequest, ToPlane,
};

use self::hearing::{Hearing, Turns};
use super::authority::Issued;
use super::crowd::Crowd;
use super::follow;
use super::token::{self, TokenError};
use super::{Leadership, Shared};

/// Connections at a time. Unit: connections. Source: ours; a data plane's instance has one.
const CONNECTIONS_MAX: usize = 4_096;

/// Of these without a certificate, or not known to have one yet, from one address. Unit: connections. Source: ours; a pod has one.
const UNKNOWN_MAX: usize = 32;

/// And of one data plane. Unit: connections. Source: ours; more than a Deployment is likely to have pods.
const PLANE_MAX: usize = 1_024;

/// Tokens that the API server is asked about at a time. Unit: calls. Source: ours.
const REVIEWS_MAX: usize = 8;

/// The longest that TLS may take to begin. Unit: time. Source: ours.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long somebody without a certificate may stay. Unit: time. Source: ours; longer than a call to the API server.
const UNKNOWN_STAY: Duration = Duration::from_secs(40);

/// The largest call for a certificate. Unit: bytes. Source: ours.
const CALL_MAX: usize = 64 * 1024;

/// Handshakes that fail are told once in this time, with how many there were. Unit: time. Source: ours.
const TOLD: Duration = Duration::from_secs(30);

/// How often a silent peer is asked whether it is there, and how long it has to answer. Unit: time. Source: ours.
const PING: Duration = Duration::from_secs(5);
const PONG: Duration = Duration::from_secs(10);

/// Streams and calls of one connection at a time. Unit: streams. Source: ours.
const STREAMS_MAX: u32 = 8;

/// Streams of these that follow. Unit: streams. Source: ours; an instance has one, and its next may come before that has ended.
const FOLLOWS_MAX: usize = 2;

/// What a connection may send that is not read yet. Unit: bytes. Source: ours; 16 MiB in 7 s where a round trip takes 0.1 s.
const WINDOW: u32 = 256 * 1024;

/// What may wait in one stream's buffers. Unit: bytes. Source: ours.
const SEND_BUFFER: usize = 1024 * 1024;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) name: DataPlaneName,
    /// Of its certificate, seconds since the Unix epoch.
    pub(super) not_after: i64,
}

/// In whose name this process serves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Serving {
    pub(super) epoch: u64,
    /// Since when it is only the one that led last.
    pub(super) caretaker: Option<Instant>,
}

/// A data plane's instance that may follow.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) peer: Peer,
    pub(super) serving: Serving,
    /// Among its connection's streams.
    pub(super) place: OwnedSemaphorePermit,
}

/// What all connections have in common.
struct Door {
    shared: Arc<Shared>,
    reviews: Semaphore,
    unknown: Crowd<IpAddr>,
    known: Crowd<DataPlaneName>,
    turns: Turns,
    /// When a handshake that failed was told last, and how many there were by then.
    told: Mutex<Option<(Instant, u64)>>,
    shutdown: CancellationToken,
}

pub(super) async fn run(shared: &Arc<Shared>, listener: TcpListener, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let door = Arc::new(Door {
        shared: shared.clone(),
        reviews: Semaphore::new(REVIEWS_MAX),
        unknown: Crowd::new(UNKNOWN_MAX),
        known: Crowd::new(PLANE_MAX),
        turns: Turns::default(),
        told: Mutex::default(),
        shutdown: shutdown.clone(),
    });
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, from)) = accepted else {
            // Out of descriptors, or a peer that is gone already: neither may spin this loop.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let door = door.clone();
        tokio::spawn(async move {
            let ended = door.shutdown.clone();
            tokio::select! {
                () = ended.cancelled() => {}
                () = door.connection(stream, from.ip()) => {}
            }
            drop(slot);
        });
    }
}

impl Door {
    /// After an authority was lost each data plane comes again every few seconds.
    fn tell_failure(&self, error: &std::io::Error, from: IpAddr) {
        let failures = self.shared.config.status.handshake_failures.get();
        let mut told = self.told.lock();
        let before = match *told {
            Some((at, _)) if at.elapsed() < TOLD => return,
            Some((_, before)) => before,
            None => 0,
        };
        *told = Some((Instant::now(), failures));
        drop(told);
        let count = failures.saturating_sub(before);
        tracing::info!(%error, %from, count, "connections of data planes ended before TLS was there");
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, from: IpAddr) {
        let status = &self.shared.config.status;
        status.connections.add(1);
        // Whoever holds many connections open keeps nobody else out.
        let Some(waiting) = self.unknown.enter(&from) else { return status.refused.add(1) };
        let live = self.shared.live.borrow().clone();
        // Nobody can be told anything before there is an authority; they come again.
        let Some(live) = live else { return };
        let _ = stream.set_nodelay(true);
        let accepting = TlsAcceptor::from(live.server.clone()).accept(stream);
        let stream = match tokio::time::timeout(HANDSHAKE, accepting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                status.handshake_failures.add(1);
                return self.tell_failure(&error, from);
            }
            Err(_elapsed) => return status.handshake_failures.add(1),
        };
        let peer = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(peer_of);
        let peer = match peer {
            None => None,
            Some(Some(peer)) => Some(peer),
            // Of our own authority, and for nobody that we know.
            Some(None) => return status.handshake_failures.add(1),
        };
        let _place = match &peer {
            None => Err(waiting),
            Some(peer) => {
                drop(waiting);
                match self.known.enter(&peer.name) {
                    Some(place) => Ok(place),
                    None => return status.refused.add(1),
                }
            }
        };
        let is_known = peer.is_some();
        let door = self.clone();
        let follows = Arc::new(Semaphore::new(FOLLOWS_MAX));
        let service = hyper::service::service_fn(move |request| {
            let answer = door.clone().answer(request, peer.clone(), follows.clone());
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PONG);
        http.max_concurrent_streams(STREAMS_MAX).max_send_buf_size(SEND_BUFFER);
        http.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let serving = http.serve_connection(TokioIo::new(stream), service);
        let outcome = if is_known {
            serving.await
        } else {
            tokio::time::timeout(UNKNOWN_STAY, serving).await.unwrap_or(Ok(()))
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "a data plane's connection broke");
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: http::Request<Incoming>,
        peer: Option<Peer>,
        follows: Arc<Semaphore>,
    ) -> http::Response<Body> {
        match request.uri().path() {
            wire::BOOTSTRAP => {
                let codec = ProstCodec::<CertificateReply, BootstrapRequest>::default();
                let door = self.clone();
                let call = tower::service_fn(move |request: Request<BootstrapRequest>| {
                    boxed(door.clone().bootstrap(request.into_inner()))
                });
                Grpc::new(codec).max_decoding_message_size(CALL_MAX).unary(call, request).await
            }
            wire::RENEW => {
                let codec = ProstCodec::<CertificateReply, RenewRequest>::default();
                let door = self.clone();
                let call = tower::service_fn(move |request: Request<RenewRequest>| {
                    let (door, peer) = (door.clone(), peer.clone());
                    boxed(async move { door.renew(peer, &request.into_inner()) })
                });
                Grpc::new(codec).max_decoding_message_size(CALL_MAX).unary(call, request).await
            }
            wire::FOLLOW => match self.admitted(&request, peer, follows) {
                Ok(admitted) => self.follow(request, admitted).await,
                Err(status) => status.into_http(),
            },
            path => Status::unimplemented(format!("{path} is not served")).into_http(),
        }
    }

    /// Who may follow now.
    fn admitted(
        &self,
        request: &http::Request<Incoming>,
        peer: Option<Peer>,
        follows: Arc<Semaphore>,
    ) -> Result<Admitted, Status> {
        let (peer, serving) = (self.known(peer)?, self.serve()?);
        if serving.caretaker.is_some() && !request.headers().contains_key(CARETAKER_METADATA) {
            return Err(self.refuse(caretaker()));
        }
        let place = follows.try_acquire_owned();
        let place = place.map_err(|_full| {
            self.refuse(Status::resource_exhausted("this connection has too many streams; one is enough"))
        })?;
        Ok(Admitted { peer, serving, place })
    }

    async fn follow(&self, request: http::Request<Incoming>, admitted: Admitted) -> http::Response<Body> {
        let (head, body) = request.into_parts();
        let hearing = Hearing::new(body, self.turns.of(&admitted.peer.name));
        // For the one call that there is.
        let mut admitted = Some((admitted, hearing));
        let shared = self.shared.clone();
        let call = tower::service_fn(move |_: Request<tonic::Streaming<FromPlane>>| {
            let (shared, admitted) = (shared.clone(), admitted.take());
            boxed(async move {
                let (admitted, hearing) = admitted.ok_or_else(|| Status::internal("it was called twice"))?;
                follow::begin(shared, admitted, hearing).await
            })
        });
        let grpc = Grpc::new(ProstCodec::<ToPlane, FromPlane>::default());
        // What comes is read by `Hearing`, within its bounds.
        let request = http::Request::from_parts(head, Body::empty());
        grpc.max_encoding_message_size(MESSAGE_MAX).streaming(call, request).await
    }

    /// A token for a certificate.
    async fn bootstrap(
        self: Arc<Self>,
        request: BootstrapRequest,
    ) -> Result<Response<CertificateReply>, Status> {
        if self.serve()?.caretaker.is_some() {
            // The API server would have to be asked.
            return Err(self.refuse(caretaker()));
        }
        let name: DataPlaneName = request
            .data_plane
            .parse()
            .map_err(|error| self.refuse(Status::invalid_argument(format!("data_plane: {error}"))))?;
        let Ok(_turn) = self.reviews.try_acquire() else {
            return Err(self.refuse(Status::resource_exhausted("too many tokens are looked at; come again")));
        };
        let audience = &self.shared.config.audience;
        match token::check(&self.shared.caller, audience, &name, &request.token).await {
            Ok(()) => {}
            Err(error @ TokenError::Call(_)) => {
                tracing::warn!(data_plane = %name, %error, "a data plane's token could not be looked at");
                return Err(Status::unavailable(error.to_string()));
            }
            Err(error @ TokenError::Refused(_)) => {
                tracing::warn!(data_plane = %name, %error, "a data plane's token was refused");
                return Err(self.refuse(Status::unauthenticated(error.to_string())));
            }
        }
        self.issue(&name, &request.public_key)
    }

    /// A certificate for the next one of the same name.
    fn renew(
        &self,
        peer: Option<Peer>,
        request: &RenewRequest,
    ) -> Result<Response<CertificateReply>, Status> {
        let peer = self.known(peer)?;
        self.serve()?;
        self.issue(&peer.name, &request.public_key)
    }

    fn issue(&self, name: &DataPlaneName, public_key: &[u8]) -> Result<Response<CertificateReply>, Status> {
        let live = self.shared.live.borrow().clone();
        let live = live.ok_or_else(|| Status::unavailable("there is no authority now"))?;
        let now_seconds = self.shared.config.clock.now();
        let issued = live.authority.issue_plane(name, public_key, &self.shared.config.policy, now_seconds);
        let Issued { certificate, not_before, not_after } =
            issued.map_err(|error| self.refuse(Status::invalid_argument(error.to_string())))?;
        self.shared.config.status.certificates.add(1);
        tracing::info!(data_plane = %name, "a certificate was issued");
        Ok(Response::new(CertificateReply {
            certificate: certificate.to_vec().into(),
            not_before_seconds: not_before,
            not_after_seconds: not_after,
            now_seconds,
        }))
    }

    fn known(&self, peer: Option<Peer>) -> Result<Peer, Status> {
        peer.filter(|peer| peer.not_after > self.shared.config.clock.now()).ok_or_else(|| {
            self.refuse(Status::unauthenticated(
                "a data plane's certificate is needed; a token gives the first",
            ))
        })
    }

    fn serve(&self) -> Result<Serving, Status> {
        self.shared.serving().map_err(|status| self.refuse(status))
    }

    fn refuse(&self, status: Status) -> Status {
        self.shared.config.status.refused.add(1);
        status
    }
}

impl Shared {
    /// In whose name, where this process leads or led last; else where to go.
    pub(super) fn serving(&self) -> Result<Serving, Status> {
        let (leadership, since) = &*self.leadership.borrow();
        match leadership {
            Leadership::Leader { epoch } => Ok(Serving { epoch: *epoch, caretaker: None }),
            Leadership::Caretaker { epoch } => Ok(Serving { epoch: *epoch, caretaker: Some(*since) }),
            Leadership::Standby { leader } => {
                let mut status = Status::unavailable("another controller leads");
                if let Some(leader) = leader.as_ref().and_then(|leader| leader.parse().ok()) {
                    status.metadata_mut().insert(LEADER_METADATA, leader);
                }
                Err(status)
            }
        }
    }
}

/// Look for a leader first, and come back if there is none.
pub(super) fn caretaker() -> Status {
    let mut status = Status::unavailable("this controller led last, and nobody is known to lead now");
    status.metadata_mut().insert(CARETAKER_METADATA, tonic::metadata::MetadataValue::from_static("true"));
    status
}

/// The form in which services have their answers.
fn boxed<T>(answer: impl Future<Output = T> + Send + 'static) -> BoxFuture<'static, T> {
    Box::pin(answer)
}

/// The data plane that a certificate names; TLS has judged the rest of it.
fn peer_of(certificate: &CertificateDer<'_>) -> Option<Peer> {
    let leaf = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut names = leaf.valid_uri_names();
    let name = DataPlaneName::from_uri(names.next()?)?;
    if names.next().is_some() {
        return None;
    }
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(Peer { name, not_after: parsed.validity().not_after.timestamp() })
}

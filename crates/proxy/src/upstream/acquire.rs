//! A usable connection for a request: endpoint choice, reuse, connecting, and what happens when neither can be had.
//!
//! A request never leaves its backend here, and never takes another ticket: endpoints are tried one after another, and a
//! backend that lost its last one a moment ago is waited for.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;
use weir_model::resource::BackendProtocol;
use weir_model::table::{BackendState, CompiledListener};

use super::balance::{InFlight, Tried, choose, failed, has_fresh};
use super::connect::connect;
use super::pool::{Busy, Place, Taken};
use crate::clock::Moment;
use crate::error::Failure;
use crate::http::h2::Given;
use crate::io::Socket;
use crate::retry::may_try_another;
use crate::tls::store::{Inside, UpstreamTls};
use crate::worker::Worker;

/// A connection in hand.
pub(crate) struct Acquired {
    pub(crate) socket: Socket,
    pub(crate) in_flight: InFlight,
    /// The connection's place in the pool; none for a stream, whose connection has others.
    pub(crate) busy: Option<Busy>,
    /// It has carried a request before.
    pub(crate) reused: bool,
    /// Endpoints that were tried in vain.
    pub(crate) failed_tries: u32,
}

/// What a connection is wanted for.
#[derive(Clone, Copy)]
pub(crate) struct Want<'a> {
    pub(crate) backend: &'a Arc<BackendState>,
    /// When the request's time is up.
    pub(crate) deadline: Option<Moment>,
    /// The endpoint that a session is kept at: taken for as long as it is there and takes connections.
    pub(crate) preferred: Option<SocketAddr>,
    /// Further endpoints that may be tried when one takes no connection.
    pub(crate) attempts: usize,
    /// Not a kept connection: one turned out to be closed.
    pub(crate) fresh: bool,
    /// What is spoken to the backend.
    pub(crate) speaks: Speaks<'a>,
}

/// What a connection is to carry. Whether it is encrypted is for the backend's policy to say, not for who wants it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Speaks<'a> {
    /// Requests, in the version that the backend speaks. The Gateway of the listener that they came through may have a
    /// certificate for backends that ask for one.
    Http(Option<&'a CompiledListener>),
    /// Requests in HTTP/2, whatever the backend says of itself; the same.
    Http2(Option<&'a CompiledListener>),
    /// Bytes; the same.
    Bytes(Option<&'a CompiledListener>),
    /// A client's TLS, as it is.
    ClientsTls,
}

/// Finds a connection. `tried` are endpoints to pass over, and grows.
pub(crate) async fn acquire(
    worker: &Rc<Worker>,
    want: &Want<'_>,
    tried: &mut Tried,
) -> Result<Acquired, Failure> {
    match begin(worker, want, tried)? {
        Begun::Kept(acquired) => Ok(acquired),
        Begun::Search(first) => Box::pin(search(worker, want, tried, first)).await,
    }
}

/// What a search comes to without a wait.
pub(crate) enum Begun {
    /// A kept connection: what nearly every request gets.
    Kept(Acquired),
    Search(First),
}

/// A first choice that needs more than a look, to go on from.
pub(crate) struct First {
    way: Way,
    choice: Option<Choice>,
}

/// Begins to find a connection. Apart, so that a request which finds a kept one does not carry all the rest with it.
pub(crate) fn begin(worker: &Rc<Worker>, want: &Want<'_>, tried: &Tried) -> Result<Begun, Failure> {
    let way = want.way(worker)?;
    Ok(match want.choose(worker, &way, tried) {
        Some(Choice { in_flight, taken: Some(Taken::Kept(socket, busy)) }) => {
            worker.metrics.upstream_reuses.add(1);
            Begun::Kept(Acquired { socket, in_flight, busy: Some(busy), reused: true, failed_tries: 0 })
        }
        choice => Begun::Search(First { way, choice }),
    })
}

/// How a backend is spoken to.
struct Way {
    inside: Inside,
    tls: Option<Arc<UpstreamTls>>,
}

/// An endpoint, and what the pool has for it.
struct Choice {
    in_flight: InFlight,
    /// None where requests are streams that share connections.
    taken: Option<Taken>,
}

impl Want<'_> {
    /// What is spoken, and inside what. Both from one look at the backend, which may change meanwhile.
    #[inline]
    fn way(&self, worker: &Worker) -> Result<Way, Failure> {
        match self.backend.in_the_clear() {
            Some(protocol) => Ok(Way { inside: self.inside(protocol), tls: None }),
            None => self.secure_way(worker),
        }
    }

    #[cold]
    fn secure_way(&self, worker: &Worker) -> Result<Way, Failure> {
        let settings = self.backend.settings();
        let inside = self.inside(settings.protocol);
        let tls = match (&settings.tls, self.speaks) {
            (None, _) | (_, Speaks::ClientsTls) => None,
            (Some(policy), Speaks::Http(listener) | Speaks::Http2(listener) | Speaks::Bytes(listener)) => {
                // The certificate of now: while the request waited it may have been replaced, and the old one is gone then.
                let snapshot = worker.snapshot();
                let listener = listener.map(|then| snapshot.listener(&then.key).map_or(then, Arc::as_ref));
                let ours = listener.and_then(CompiledListener::backend_client_certificate);
                Some(worker.upstream_tls(policy, inside, ours)?)
            }
        };
        Ok(Way { inside, tls })
    }

    fn inside(&self, protocol: BackendProtocol) -> Inside {
        match self.speaks {
            Speaks::Http(_) if protocol == BackendProtocol::Http1 => Inside::Http1,
            Speaks::Http(_) | Speaks::Http2(_) => Inside::Http2,
            Speaks::Bytes(_) | Speaks::ClientsTls => Inside::Bytes,
        }
    }

    fn choose(&self, worker: &Worker, way: &Way, tried: &Tried) -> Option<Choice> {
        let (random, now) = (worker.random(), worker.clock.now().millis());
        let in_flight = choose(&self.backend.endpoints(), self.preferred, tried, random, now)?;
        let place = Place { address: in_flight.endpoint().address, tls: way.tls.clone() };
        let streams = way.inside == Inside::Http2;
        let taken = (!streams).then(|| worker.pool.take(place, self.fresh, worker.pool_limits(self.backend)));
        Some(Choice { in_flight, taken })
    }
}

/// Goes on from a first choice until there is a connection, or an end to it.
pub(crate) async fn search(
    worker: &Rc<Worker>,
    want: &Want<'_>,
    tried: &mut Tried,
    First { way, choice: mut first }: First,
) -> Result<Acquired, Failure> {
    let tls = &way.tls;
    let Want { backend, deadline, attempts, .. } = *want;
    let mut failed_tries = 0;
    let mut last = None;
    let began = worker.clock.now();
    let mut patience = Patience::default();
    loop {
        let chosen = first.take().or_else(|| want.choose(worker, &way, tried));
        let Some(Choice { in_flight, taken }) = chosen else {
            if let Some(failure) = last {
                return Err(failure);
            }
            wait_for_endpoints(worker, backend, deadline).await?;
            continue;
        };
        let address = in_flight.endpoint().address;
        let opened = match taken {
            None => {
                match stream(worker, backend, Place { address, tls: tls.clone() }, deadline, &mut patience)
                    .await?
                {
                    Ok((socket, reused)) => {
                        worker.metrics.upstream_reuses.add(u64::from(reused));
                        return Ok(Acquired { socket, in_flight, busy: None, reused, failed_tries });
                    }
                    Err(failure) => Err(failure),
                }
            }
            Some(Taken::Kept(socket, busy)) => {
                worker.metrics.upstream_reuses.add(1);
                return Ok(Acquired { socket, in_flight, busy: Some(busy), reused: true, failed_tries });
            }
            Some(Taken::Room(busy)) => open(worker, backend, address, tls.as_ref(), deadline)
                .await
                .map(|socket| (socket, Some(busy))),
            Some(Taken::Full(freed)) => {
                wait_for_room(worker, backend, &freed, deadline, &mut patience).await?;
                continue;
            }
        };
        match opened {
            Ok((socket, busy)) => {
                return Ok(Acquired { socket, in_flight, busy, reused: false, failed_tries });
            }
            Err(failure) => {
                let limits = worker.limits(backend);
                failed(in_flight.endpoint(), worker.clock.now().millis(), limits.endpoint_retry_delay);
                tried.push(in_flight.endpoint().clone());
                failed_tries += 1;
                let was_refused = matches!(failure, Failure::Connect) && attempts > 0;
                let goes_on = may_try_another(failure, tried.len(), attempts)
                    || was_refused && may_go_on(worker, backend, tried, began);
                if !goes_on {
                    return Err(failure);
                }
                last = Some(failure);
            }
        }
    }
}

/// Pods that have just begun refuse connections, all at once where many are new: a refusal costs nobody anything, so those that
/// have not failed a moment ago are tried too, each once in that time whatever the number of requests.
fn may_go_on(worker: &Worker, backend: &BackendState, tried: &Tried, began: Moment) -> bool {
    let now = worker.clock.now();
    let limits = worker.limits(backend);
    let is_quick = now.since(began) < limits.upstream_connect_timeout;
    is_quick && !limits.endpoint_retry_delay.is_zero() && has_fresh(&backend.endpoints(), tried, now.millis())
}

/// Connects, within the time for that and the request's own.
async fn open(
    worker: &Worker,
    backend: &BackendState,
    endpoint: SocketAddr,
    tls: Option<&Arc<UpstreamTls>>,
    deadline: Option<Moment>,
) -> Result<Socket, Failure> {
    let mut limit = worker.limits(backend).upstream_connect_timeout;
    if let Some(deadline) = deadline {
        limit = limit.min(deadline.since(worker.clock.now()));
    }
    connect(worker, endpoint, tls, limit).await.map_err(|failure| late(worker, deadline).unwrap_or(failure))
}

/// A stream to an endpoint, and whether its connection has carried others. The inner failure is the endpoint's.
async fn stream(
    worker: &Rc<Worker>,
    backend: &Arc<BackendState>,
    place: Place,
    deadline: Option<Moment>,
    patience: &mut Patience,
) -> Result<Result<(Socket, bool), Failure>, Failure> {
    loop {
        let dial = match worker.links.take(worker, backend, &place) {
            Given::Stream(socket, reused) => return Ok(Ok((socket, reused))),
            Given::Full(freed) => {
                wait_for_room(worker, backend, &freed, deadline, patience).await?;
                continue;
            }
            Given::Dialing(dial) => dial,
        };
        let _held = Held::new(worker, backend)?;
        let opened = match deadline {
            None => dial.wait().await,
            Some(deadline) => tokio::time::timeout_at(worker.clock.instant(deadline), dial.wait())
                .await
                .map_err(|_| Failure::RequestTimeout)?,
        };
        worker.clock.tick();
        if let Err(failure) = opened {
            return Ok(Err(failure));
        }
    }
}

/// The failure of a request whose time is up.
fn late(worker: &Worker, deadline: Option<Moment>) -> Option<Failure> {
    deadline.filter(|deadline| *deadline <= worker.clock.now()).map(|_| Failure::RequestTimeout)
}

/// Until when one request waits for room: from the first wait, however often others were quicker.
#[derive(Default)]
struct Patience(Option<Moment>);

/// Waits, bounded in time and number, for one of as many connections as there may be.
async fn wait_for_room(
    worker: &Worker,
    backend: &Arc<BackendState>,
    freed: &Notify,
    deadline: Option<Moment>,
    patience: &mut Patience,
) -> Result<(), Failure> {
    let _held = Held::new(worker, backend)?;
    let most = worker.limits(backend).upstream_connect_timeout;
    let until = *patience.0.get_or_insert_with(|| worker.clock.now() + most);
    let until = deadline.map_or(until, |deadline| deadline.min(until));
    let waited = tokio::time::timeout_at(worker.clock.instant(until), freed.notified()).await;
    worker.clock.tick();
    waited.map_err(|_| late(worker, deadline).unwrap_or(Failure::EndpointsBusy))
}

/// Waits, bounded in time and number, for a backend that had endpoints a moment ago.
async fn wait_for_endpoints(
    worker: &Worker,
    backend: &Arc<BackendState>,
    deadline: Option<Moment>,
) -> Result<(), Failure> {
    let hold = worker.limits(backend).endpoint_hold;
    let lost_at = backend.endpoints().lost_at_millis;
    let hold_millis = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
    let recently = lost_at.is_some_and(|at| worker.clock.now().millis() < at.saturating_add(hold_millis));
    if !recently {
        return Err(Failure::NoEndpoints);
    }
    let _held = Held::new(worker, backend)?;
    let until = worker.clock.now() + hold;
    let until = deadline.map_or(until, |deadline| deadline.min(until));
    loop {
        let changed = worker.endpoints_changed.notified();
        if !backend.endpoints().endpoints.is_empty() {
            return Ok(());
        }
        let waited = tokio::time::timeout_at(worker.clock.instant(until), changed).await;
        worker.clock.tick();
        if waited.is_err() {
            return Err(late(worker, deadline).unwrap_or(Failure::NoEndpoints));
        }
    }
}

/// A request that waits for an endpoint or for a connection to one, counted.
struct Held<'w> {
    worker: &'w Worker,
    backend: Arc<str>,
}

impl<'w> Held<'w> {
    fn new(worker: &'w Worker, backend: &BackendState) -> Result<Held<'w>, Failure> {
        let mut held = worker.held.borrow_mut();
        let count = held.entry(backend.key.clone()).or_insert(0);
        if *count >= worker.limits(backend).waiting_requests_per_backend {
            return Err(Failure::TooManyHeld);
        }
        *count += 1;
        worker.metrics.held.add(1);
        Ok(Held { worker, backend: backend.key.clone() })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut held = self.worker.held.borrow_mut();
        if let Some(count) = held.get_mut(&self.backend) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.backend);
            }
        }
    }
}

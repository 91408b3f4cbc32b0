//! One stream: what the fleet has for an instance goes out as the instance takes it, what the instance says goes in.
//!
//! Invariants: a part is made when the connection asks for it, so there is no queue between the fleet and the socket; a stream
//! ends with its certificate, when another leads, or when a later one of the same process is there; where nobody is known to lead it ends
//! every few seconds, so that the instance looks for a leader.

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::stream::BoxStream;
use prost::Message as _;
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};
use weir_model::wire::{
    self, FromPlane, OLDEST_PROTOCOL, PROTOCOL, Said, Splits, SplitsWanted, ToPlane, Told, Welcome,
};

use super::fleet::{Next, Parting, SessionId, WORDS_MAX, shortened};
use super::server::hearing::Hearing;
use super::server::{Admitted, caretaker};
use super::{InstanceSplits, Leadership, Shared};
use crate::backoff::Backoff;

/// How long an instance gets for its first message. Unit: time. Source: ours.
const HELLO: Duration = Duration::from_secs(10);

/// For how long a stream goes on while nobody is known to lead; drawn from the upper half. Unit: time. Source: ours.
const CARETAKING: Duration = Duration::from_secs(15);

/// And so long in the first [`CARETAKING`], in which another leads if any can: its data planes have to be with it before it misses them.
/// Unit: time. Source: ours; with [`CARETAKING_MORE`] less than `reconcile::gate`'s `RETURN_WAIT`.
const CARETAKING_FIRST: Duration = Duration::from_secs(5);

/// For so much longer it goes on while a message is under way. Unit: time. Source: ours.
const CARETAKING_MORE: Duration = Duration::from_secs(4);

/// A stream that was begun; the fleet forgets the instance when it is dropped.
struct Following {
    shared: Arc<Shared>,
    id: SessionId,
    epoch: u64,
    wake: Arc<Notify>,
    leadership: watch::Receiver<(Leadership, Instant)>,
    /// When the certificate ends.
    expires: Instant,
    /// Until when it goes on while nobody is known to lead.
    search: Option<Instant>,
    /// What the instance says has an end.
    ended: CancellationToken,
    welcome: Welcome,
    /// What the instance was told last of whether this process leads no more.
    told_caretaker: Option<bool>,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

pub(super) type Sent = BoxStream<'static, Result<ToPlane, Status>>;

pub(super) async fn begin(
    shared: Arc<Shared>,
    admitted: Admitted,
    mut said: Hearing,
) -> Result<Response<Sent>, Status> {
    let Admitted { peer, serving, place } = admitted;
    let epoch = serving.epoch;
    let hello = match tokio::time::timeout(HELLO, said.message()).await {
        Ok(Ok(Some(FromPlane { said: Some(Said::Hello(hello)) }))) => hello,
        Ok(Err(status)) => return Err(status),
        Ok(Ok(_)) => return Err(Status::invalid_argument("a stream begins with Hello")),
        Err(_elapsed) => return Err(Status::deadline_exceeded("there was no Hello")),
    };
    let theirs = (hello.oldest_protocol, hello.protocol);
    let Some(protocol) = wire::agree((OLDEST_PROTOCOL, PROTOCOL), theirs) else {
        let release = shortened(hello.release, WORDS_MAX);
        let message = format!(
            "release {release} speaks protocols {} to {}, this controller {OLDEST_PROTOCOL} to {PROTOCOL}: they are \
             more than one release apart",
            theirs.0, theirs.1
        );
        tracing::warn!(data_plane = %peer.name, message, "a data plane cannot be talked to");
        return Err(Status::failed_precondition(message));
    };
    let wake = Arc::<Notify>::default();
    let (id, position) = {
        let mut fleet = shared.fleet.lock();
        (fleet.connect(&peer.name, hello, wake.clone()), fleet.position(epoch))
    };
    let status = &shared.config.status;
    status.streams.add(1);
    status.instances.set(shared.fleet.lock().connected() as u64);
    shared.moved.notify_one();
    let now_seconds = shared.config.clock.now();
    let left = u64::try_from(peer.not_after.saturating_sub(now_seconds)).unwrap_or_default();
    let following = Following {
        id,
        epoch,
        wake,
        leadership: shared.leadership.subscribe(),
        expires: Instant::now() + Duration::from_secs(left),
        search: None,
        ended: CancellationToken::new(),
        welcome: Welcome {
            protocol,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            position: Some(position),
            now_seconds,
            caretaker: false,
        },
        told_caretaker: None,
        is_over: false,
        _place: place,
        shared,
    };
    tokio::spawn(listen(following.shared.clone(), id, said, following.ended.clone()));
    Ok(Response::new(Box::pin(following.into_stream())))
}

/// How long a stream lasts that a controller serves which leads no more since then.
fn stay(since: Instant, now: Instant) -> Duration {
    let longest = if now < since + CARETAKING { CARETAKING_FIRST } else { CARETAKING };
    Backoff::new(longest, longest).next_wait()
}

/// Takes in what an instance says.
async fn listen(shared: Arc<Shared>, id: SessionId, mut said: Hearing, ended: CancellationToken) {
    let taking = async {
        loop {
            let message = match said.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(status) => {
                    tracing::debug!(%status, "what a data plane says has an end");
                    return;
                }
            };
            match message.said {
                Some(Said::Acknowledged(one)) => {
                    if shared.fleet.lock().acknowledged(id, one) {
                        shared.moved.notify_one();
                    } else {
                        tracing::debug!("a data plane acknowledged what it was not sent");
                    }
                }
                Some(Said::Report(report)) => {
                    if shared.fleet.lock().reported(id, report) {
                        shared.moved.notify_one();
                    }
                }
                Some(Said::Splits(splits)) => shared.collect(id, splits),
                Some(Said::Refused(refused)) => {
                    shared.config.status.stale.add(1);
                    let whose = shared.fleet.lock().whose(id);
                    let name = whose.map(|(name, _)| name.to_string()).unwrap_or_default();
                    tracing::warn!(
                        data_plane = name,
                        reason = shortened(refused.reason, WORDS_MAX),
                        "a data plane has a newer state"
                    );
                    return;
                }
                // A second Hello says nothing, nor does what a newer release says.
                Some(Said::Hello(_)) | None => {}
            }
        }
    };
    tokio::select! {
        () = taking => {}
        () = ended.cancelled() => {}
    }
    ended.cancel();
}

impl Following {
    fn into_stream(self) -> impl Stream<Item = Result<ToPlane, Status>> + Send {
        futures::stream::unfold(self, async |mut following| {
            if following.is_over {
                return None;
            }
            let next = following.next().await;
            following.is_over = !matches!(next, Some(Ok(_)));
            Some((next?, following))
        })
    }

    /// The next message, when there is one; the end with or without a reason.
    async fn next(&mut self) -> Option<Result<ToPlane, Status>> {
        loop {
            let serving = match self.shared.serving() {
                Ok(serving) if serving.epoch == self.epoch => serving,
                Ok(_) => {
                    return Some(Err(Status::unavailable("the leader changed and is this process again")));
                }
                Err(status) => return Some(Err(status)),
            };
            let now = Instant::now();
            let is_caretaker = serving.caretaker.is_some();
            if self.told_caretaker.replace(is_caretaker) != Some(is_caretaker) {
                let welcome = Welcome { caretaker: is_caretaker, ..self.welcome.clone() };
                return Some(Ok(told(Told::Welcome(welcome))));
            }
            self.search =
                serving.caretaker.map(|since| self.search.unwrap_or_else(|| now + stay(since, now)));
            let (due, latest) = (self.search, self.search.map(|search| search + CARETAKING_MORE));
            let is_due = due.is_some_and(|due| now >= due);
            // What is on its way arrives first, else a large message would begin anew each time.
            let waits = is_due && self.shared.fleet.lock().is_under_way(self.id);
            if is_due && !waits || latest.is_some_and(|latest| now >= latest) {
                return Some(Err(caretaker()));
            }
            if now >= self.expires {
                return Some(Err(Status::unauthenticated("the certificate has expired")));
            }
            let (next, deadline) = {
                let mut fleet = self.shared.fleet.lock();
                (fleet.next(self.id, self.epoch, now), fleet.deadline(self.id, now))
            };
            match next {
                Next::Part(part) => {
                    let status = &self.shared.config.status;
                    status.parts.add(1);
                    status.sent_bytes.add(part.encoded_len() as u64);
                    return Some(Ok(told(Told::Part(part))));
                }
                Next::SplitsWanted(request) => {
                    return Some(Ok(told(Told::SplitsWanted(SplitsWanted { request }))));
                }
                Next::End(Parting::Replaced) => {
                    return Some(Err(Status::aborted("a later stream of this process is there")));
                }
                Next::End(Parting::Slow) => {
                    self.shared.config.status.slow.add(1);
                    return Some(Err(Status::deadline_exceeded("nothing was acknowledged for too long")));
                }
                Next::Nothing => {}
            }
            let search = if waits { latest } else { due };
            let until = [deadline, search].into_iter().flatten().fold(self.expires, Instant::min);
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(until) => {}
                () = self.ended.cancelled() => return None,
                // The sender lives in `shared`.
                _ = self.leadership.changed() => {}
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.ended.cancel();
        let mut fleet = self.shared.fleet.lock();
        fleet.disconnect(self.id, Instant::now());
        self.shared.config.status.instances.set(fleet.connected() as u64);
        drop(fleet);
        self.shared.moved.notify_one();
    }
}

impl Shared {
    fn collect(&self, id: SessionId, splits: Splits) {
        let Some((data_plane, instance)) = self.fleet.lock().answered_splits(id, splits.request) else {
            return;
        };
        if let Some((_, collector)) = self.collector.lock().as_ref().filter(|(of, _)| *of == splits.request) {
            // There is room for one answer of each that was asked.
            let _ = collector.try_send(InstanceSplits { data_plane, instance, json: splits.json });
        }
    }
}

fn told(told: Told) -> ToPlane {
    ToPlane { told: Some(told) }
}

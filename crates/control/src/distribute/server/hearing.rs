//! What data planes say, taken in within bounds: whoever says it may be anybody by now.
//!
//! Invariants: of a data plane only a few messages that are not small are in memory at a time, whole or in part, each for a bounded
//! time; a message's elements are counted before there is room made for them; what was decoded holds on to no buffer.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use hyper::body::{Body, Incoming};
use parking_lot::Mutex;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message as _};
use tokio::sync::Semaphore;
use tonic::Status;
use weir_model::resource::DataPlaneName;
use weir_model::wire::{FromPlane, HELD_MAX, Hello, SAID_MAX, Said};

/// A message up to this size waits for no turn. Unit: bytes. Source: ours; a `Hello` of 700 keys, a `Report` of 1,000 sockets.
const SMALL: usize = 64 * 1024;

/// Larger messages of one data plane that are read at a time; others wait, and with them their sender. Unit: messages. Source: ours.
const TURNS: usize = 4;

/// The longest that a message with a turn may take to be there. Unit: time. Source: ours; 16 MiB at 1 MiB/s.
const TURN: Duration = Duration::from_secs(16);

/// All other elements of a message. Unit: fields. Source: ours; twice the sockets that count, and some dozens of kinds.
const OTHERS_MAX: usize = 2 * super::super::fleet::BINDS_MAX;

/// gRPC: whether it is compressed, and its length. Unit: bytes. Source: the protocol.
const HEAD: usize = 5;

/// Field numbers (`weir_model::wire`) of what repeats, and of what that is in.
const SAID: std::ops::RangeInclusive<u32> = 1..=5;
const HELLO: u32 = 1;
const HELLO_HELD: u32 = 6;
const HELLO_POSITION: u32 = 7;
const ACKNOWLEDGED: u32 = 2;
const ACKNOWLEDGED_REJECTED: u32 = 3;
const ACKNOWLEDGED_REPORT: u32 = 4;

/// Whose turn it is, for each data plane.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<DataPlaneName, Weak<Semaphore>>>);

impl Turns {
    /// Those of a data plane, for as long as one of its streams is there.
    pub(super) fn of(&self, name: &DataPlaneName) -> Arc<Semaphore> {
        let mut all = self.0.lock();
        if let Some(turns) = all.get(name).and_then(Weak::upgrade) {
            return turns;
        }
        all.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(Semaphore::new(TURNS));
        all.insert(name.clone(), Arc::downgrade(&turns));
        turns
    }
}

/// What comes in on a stream.
#[derive(Debug)]
pub(in super::super) struct Hearing<B = Incoming> {
    body: B,
    /// What has come and was not looked at.
    data: Bytes,
    turns: Arc<Semaphore>,
}

impl<B> Hearing<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Display,
{
    pub(super) fn new(body: B, turns: Arc<Semaphore>) -> Hearing<B> {
        Hearing { body, data: Bytes::new(), turns }
    }

    /// The next message; `None` at the end. What is left of a message after an error, or when this was not polled to its end, is not
    /// found again.
    pub(in super::super) async fn message(&mut self) -> Result<Option<FromPlane>, Status> {
        let mut head = Vec::with_capacity(HEAD);
        self.read(&mut head, HEAD).await?;
        let length = match head[..] {
            [] => return Ok(None),
            [0, a, b, c, d] => usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX),
            [_, _, _, _, _] => return Err(Status::unimplemented("compressed messages are not understood")),
            _ => return Err(cut()),
        };
        if length > SAID_MAX {
            return Err(Status::out_of_range(format!(
                "a message of {length} bytes is larger than any of a data plane, {SAID_MAX} at most"
            )));
        }
        if length <= SMALL {
            return heard(&self.whole(length).await?).map(Some);
        }
        let turns = self.turns.clone();
        // Never closed.
        let _turn = turns.acquire().await.map_err(|closed| Status::internal(closed.to_string()))?;
        match tokio::time::timeout(TURN, self.whole(length)).await {
            Ok(message) => heard(&message?).map(Some),
            Err(_elapsed) => Err(Status::deadline_exceeded("a message took too long to be there")),
        }
    }

    async fn whole(&mut self, length: usize) -> Result<Vec<u8>, Status> {
        // What is announced and does not come costs nothing.
        let mut message = Vec::with_capacity(length.min(SMALL));
        self.read(&mut message, length).await?;
        if message.len() == length { Ok(message) } else { Err(cut()) }
    }

    /// Reads on until there are `length` bytes, or no more come.
    async fn read(&mut self, into: &mut Vec<u8>, length: usize) -> Result<(), Status> {
        while into.len() < length {
            if self.data.is_empty() {
                let frame = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
                let Some(frame) = frame else { return Ok(()) };
                let frame = frame.map_err(|error| Status::unavailable(error.to_string()))?;
                self.data = frame.into_data().unwrap_or_default();
            }
            let taken = self.data.len().min(length - into.len());
            into.extend_from_slice(&self.data[..taken]);
            self.data.advance(taken);
        }
        Ok(())
    }
}

fn cut() -> Status {
    Status::internal("the stream ended within a message")
}

/// A message, if it has no more elements than one can have.
fn heard(message: &[u8]) -> Result<FromPlane, Status> {
    let malformed = |error: DecodeError| Status::internal(error.to_string());
    let counted = count(message).map_err(malformed)?;
    if counted.rejected > HELD_MAX || counted.others > OTHERS_MAX {
        return Err(Status::resource_exhausted("a message has more elements than a data plane has to tell"));
    }
    if counted.held > HELD_MAX {
        let hello = without_held(message).map_err(malformed)?;
        return Ok(FromPlane { said: Some(Said::Hello(hello)) });
    }
    FromPlane::decode(message).map_err(malformed)
}

/// How many elements there are of what.
#[derive(Debug, Default, PartialEq)]
struct Counted {
    held: usize,
    rejected: usize,
    others: usize,
}

/// Counts what decoding would make room for. A message inside may come in several pieces, which decoding makes one.
fn count(message: &[u8]) -> Result<Counted, DecodeError> {
    let mut counted = Counted::default();
    each_field(message, |said| {
        counted.others += 1;
        // Nothing is decoded of what a newer release says, and it may be no message.
        if !SAID.contains(&said.tag) {
            return Ok(());
        }
        each_field(said.inside, |field| {
            match (said.tag, field.tag) {
                (HELLO, HELLO_HELD) => counted.held += 1,
                (ACKNOWLEDGED, ACKNOWLEDGED_REJECTED) => counted.rejected += 1,
                _ => counted.others += 1,
            }
            if matches!((said.tag, field.tag), (HELLO, HELLO_POSITION) | (ACKNOWLEDGED, ACKNOWLEDGED_REPORT))
            {
                each_field(field.inside, |_| {
                    counted.others += 1;
                    Ok(())
                })?;
            }
            Ok(())
        })
    })?;
    Ok(counted)
}

/// `Hello` as if nothing were held.
fn without_held(message: &[u8]) -> Result<Hello, DecodeError> {
    let mut rest = Vec::new();
    each_field(message, |said| {
        if said.tag != HELLO {
            return Ok(());
        }
        each_field(said.inside, |field| {
            if field.tag != HELLO_HELD {
                rest.extend_from_slice(field.whole);
            }
            Ok(())
        })
    })?;
    Hello::decode(&rest[..])
}

/// A field as it is encoded.
struct Field<'a> {
    tag: u32,
    /// With its tag.
    whole: &'a [u8],
    /// Of one with a length; else empty.
    inside: &'a [u8],
}

fn each_field<'a>(
    mut bytes: &'a [u8],
    mut each: impl FnMut(Field<'a>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    while !bytes.is_empty() {
        let start = bytes;
        let (tag, wire_type) = decode_key(&mut bytes)?;
        let mut value = bytes;
        skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?;
        let mut inside: &[u8] = &[];
        if wire_type == WireType::LengthDelimited {
            decode_varint(&mut value)?;
            inside = &value[..value.len() - bytes.len()];
        }
        each(Field { tag, whole: &start[..start.len() - bytes.len()], inside })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{FutureExt as _, StreamExt as _};
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use tonic::Code;
    use weir_model::resource::{BindReport, KindVersion, Rejected};
    use weir_model::wire::{Acknowledged, HASH_BYTES, Held, Position, Report, Splits};

    use super::*;

    fn encoded(said: Said) -> Vec<u8> {
        FromPlane { said: Some(said) }.encode_to_vec()
    }

    fn acknowledged(rejected: usize, binds: usize) -> Said {
        Said::Acknowledged(Acknowledged {
            rejected: vec![Rejected::default(); rejected],
            report: Some(Report { binds: vec![BindReport::default(); binds], ..Report::default() }),
            ..Acknowledged::default()
        })
    }

    fn hello(held: Vec<Held>) -> Hello {
        let versions = vec![KindVersion { kind: "Secret".to_owned(), ..KindVersion::default() }];
        let position = Some(Position { epoch: 3, versions });
        Hello { protocol: 1, instance: "a-1".to_owned(), held, position, ..Hello::default() }
    }

    #[test]
    fn what_a_data_plane_has_to_tell_is_heard() {
        let held = vec![Held { key: "httproute/a/b".to_owned(), hash: vec![7; HASH_BYTES].into() }; 3];
        let splits = Splits { request: 1, json: vec![b'x'; 1024 * 1024].into() };
        for said in [Said::Hello(hello(held)), acknowledged(7, 9), Said::Splits(splits)] {
            assert_eq!(heard(&encoded(said.clone())).unwrap().said, Some(said));
        }
        assert_eq!(heard(&[]).unwrap().said, None);
        assert_eq!(heard(&[0xa2, 0x06, 0x01, 0x00]).unwrap().said, None, "of a release to come");
    }

    #[test]
    fn the_largest_hello_of_twenty_thousand_routes_is_heard_whole() {
        let held = |kind: &str, length: usize, index: usize| Held {
            key: format!("{kind}/{index:0>length$}"),
            hash: vec![7; HASH_BYTES].into(),
        };
        let each = |index| {
            [held("httproute", 317, index), held("backend", 140, index), held("endpoints", 140, index)]
        };
        let message = encoded(Said::Hello(hello((0..20_000).flat_map(each).collect())));
        assert!(message.len() < SAID_MAX, "{}", message.len());
        let Some(Said::Hello(hello)) = heard(&message).unwrap().said else { panic!("no Hello") };
        assert_eq!(hello.held.len(), 60_000);
    }

    #[test]
    fn elements_are_counted_before_they_are_decoded() {
        let refused =
            |message: &[u8]| assert_eq!(heard(message).unwrap_err().code(), Code::ResourceExhausted);
        assert!(heard(&encoded(acknowledged(HELD_MAX, 4_000))).is_ok());
        refused(&encoded(acknowledged(HELD_MAX + 1, 0)));
        refused(&encoded(acknowledged(0, OTHERS_MAX)));
        let report = Report { binds: vec![BindReport::default(); OTHERS_MAX], ..Report::default() };
        refused(&encoded(Said::Report(report)));
        let position = Position { epoch: 1, versions: vec![KindVersion::default(); OTHERS_MAX] };
        refused(&encoded(Said::Hello(Hello { position: Some(position), ..Hello::default() })));
        // In pieces, which decoding would put together.
        let piece = Report { binds: vec![BindReport::default(); OTHERS_MAX / 2], ..Report::default() };
        refused(&encoded(Said::Report(piece)).repeat(3));
        // 16 MiB of nothing.
        refused(&[0x1a, 0x02, 0x12, 0x00].repeat(SAID_MAX / 4));
        refused(&[&[0x1a, 0x80, 0x80, 0x40], &[0x12, 0x00].repeat(512 * 1024)[..]].concat());
    }

    #[test]
    fn who_holds_more_than_there_can_be_holds_nothing() {
        let message = encoded(Said::Hello(hello(vec![Held::default(); HELD_MAX + 1])));
        assert_eq!(heard(&message).unwrap().said, Some(Said::Hello(hello(Vec::new()))));
        let message = encoded(Said::Hello(hello(vec![Held::default(); HELD_MAX])));
        let Some(Said::Hello(hello)) = heard(&message).unwrap().said else { panic!("no Hello") };
        assert_eq!(hello.held.len(), HELD_MAX);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let whole = encoded(acknowledged(2, 2));
        for bytes in
            [&whole[..whole.len() - 1], &[0x0a, 0xff], &[0x0a, 0x02, 0x32, 0x05], &[0x07], &[0xff; 11]]
        {
            assert_eq!(heard(bytes).unwrap_err().code(), Code::Internal, "{bytes:?}");
        }
    }

    type Frames = futures::channel::mpsc::UnboundedSender<Bytes>;

    /// What is sent, and what is heard of it.
    fn stream(
        turns: &Arc<Semaphore>,
    ) -> (Frames, Hearing<impl Body<Data = Bytes, Error = Infallible> + Unpin + use<>>) {
        let (frames, sent) = futures::channel::mpsc::unbounded();
        let body = StreamBody::new(sent.map(|data| Ok(Frame::data(data))));
        (frames, Hearing::new(body, turns.clone()))
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0], &length[..], message].concat()
    }

    #[tokio::test]
    async fn messages_are_found_however_they_come() {
        let turns = Arc::new(Semaphore::new(1));
        let large = Said::Splits(Splits { request: 1, json: vec![b'x'; 3 * SMALL].into() });
        let all = [Said::Hello(hello(Vec::new())), large, acknowledged(1, 1)];
        let bytes: Vec<u8> = all.iter().flat_map(|said| framed(&encoded(said.clone()))).collect();
        for size in [1, 7, 16 * 1024, bytes.len()] {
            let (frames, mut hearing) = stream(&turns);
            bytes.chunks(size).for_each(|chunk| frames.unbounded_send(chunk.to_vec().into()).unwrap());
            drop(frames);
            for said in &all {
                assert_eq!(hearing.message().await.unwrap().unwrap().said.as_ref(), Some(said));
            }
            assert_eq!(hearing.message().await.unwrap(), None);
        }
        for (bytes, code) in [
            (&bytes[..3], Code::Internal),
            (&bytes[..9], Code::Internal),
            (&[1, 0, 0, 0, 0], Code::Unimplemented),
            (&[0, 1, 0, 0, 1], Code::OutOfRange),
        ] {
            let (frames, mut hearing) = stream(&turns);
            frames.unbounded_send(bytes.to_vec().into()).unwrap();
            drop(frames);
            assert_eq!(hearing.message().await.unwrap_err().code(), code);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn large_messages_wait_for_a_turn_and_a_turn_has_an_end() {
        let turns = Arc::new(Semaphore::new(2));
        let large = framed(&encoded(Said::Splits(Splits { request: 1, json: vec![b'x'; SMALL].into() })));
        let mut open = Vec::new();
        let mut stalled = Vec::new();
        for _ in 0..2 {
            let (frames, mut hearing) = stream(&turns);
            frames.unbounded_send(large[..100].to_vec().into()).unwrap();
            open.push(frames);
            stalled.push(tokio::spawn(async move { hearing.message().await }));
        }
        tokio::task::yield_now().await;
        let (frames, mut hearing) = stream(&turns);
        frames.unbounded_send([framed(&[]), large.clone()].concat().into()).unwrap();
        assert!(hearing.message().now_or_never().unwrap().unwrap().is_some(), "a small one waits for nobody");
        let started = tokio::time::Instant::now();
        assert!(hearing.message().await.unwrap().is_some());
        assert_eq!(started.elapsed(), TURN, "it waited for those that stalled, and no longer");
        for one in stalled {
            assert_eq!(one.await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
        }
        assert_eq!(turns.available_permits(), 2);
    }

    #[test]
    fn each_data_plane_has_turns_of_its_own_while_it_is_there() {
        let turns = Turns::default();
        let [a, b] = ["a", "b"].map(|name| DataPlaneName::new("default", name));
        let (first, second) = (turns.of(&a), turns.of(&a));
        assert!(Arc::ptr_eq(&first, &second));
        let all = first.clone().try_acquire_many_owned(TURNS as u32).unwrap();
        assert!(second.try_acquire().is_err() && turns.of(&b).try_acquire().is_ok());
        drop((all, first, second));
        turns.of(&b);
        assert!(turns.0.lock().get(&a).is_none(), "it is forgotten");
    }
}

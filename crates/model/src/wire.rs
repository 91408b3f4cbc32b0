//! What controllers and data planes say to each other: the messages of the service `weir.dataplane.v1.Distribution`.
//!
//! Invariants: as for [`crate::resource`], a field number is never reused (`tests/it/fields.txt` has all that there are) and what a
//! newer release adds is ignored; a resource travels as the bytes that its key and hash name ([`Entry`]), so that a data plane
//! keeps also what it does not understand yet; tokens and private keys never appear in `Debug` output.
//!
//! A stream goes like this: the data plane says [`Hello`] with the keys and hashes of what it runs, the controller [`Welcome`]; then come
//! [`Part`]s on two lanes, each message acknowledged before the next one of its lane is sent. Endpoints that change travel on a lane of
//! their own; where one key comes on both, what came last holds.
//!
//! Deliberately absent: connections, times, and who may have what.

use prost::bytes::Bytes;
use prost::{Enumeration, Message, Oneof};
use sha2::{Digest, Sha256};

use crate::resource::{BindReport, KindVersion, Rejected, Resource};

/// A token for a certificate; needs no certificate.
pub const BOOTSTRAP: &str = "/weir.dataplane.v1.Distribution/Bootstrap";
/// A certificate for the next one.
pub const RENEW: &str = "/weir.dataplane.v1.Distribution/Renew";
/// The stream.
pub const FOLLOW: &str = "/weir.dataplane.v1.Distribution/Follow";

/// What this release speaks, at most and at least. A release speaks what the one before it did.
pub const PROTOCOL: u32 = 1;
pub const OLDEST_PROTOCOL: u32 = 1;

/// Metadata of a refusal: `HOST:PORT` of the controller to ask instead.
pub const LEADER_METADATA: &str = "weir-leader";

/// Of a refusal: this controller led last, and knows of nobody who leads now. Of a request for a stream: such a controller will do, since
/// none that leads was found.
pub const CARETAKER_METADATA: &str = "weir-caretaker";

/// The largest message to a data plane. Unit: bytes. Source: ours; parts are made smaller than 1 MiB unless one resource is larger.
pub const MESSAGE_MAX: usize = 32 * 1024 * 1024;

/// The largest message of a data plane. Unit: bytes. Source: ours, above the `Hello` of 20,000 routes with the longest names there are,
/// each with a Service and endpoints of its own: a key of a route has 326 bytes at most, of a Service or its endpoints under 150, and
/// with each go 16 bytes of hash and 8 of framing, together 14 MB. With names as people give them it is under 6 MB.
pub const SAID_MAX: usize = 16 * 1024 * 1024;

/// Keys that a data plane may say it holds when it comes; one that has more, or more than fit into [`SAID_MAX`], names none, and is sent
/// everything. Also the most resources that it may say it cannot use. Unit: elements. Source: ours, twice the resources of 20,000 routes.
pub const HELD_MAX: usize = 131_072;

/// The name of some bytes. Unit: bytes. Source: half of SHA-256, which is enough against chance and against who would have to find
/// two resources of one name.
pub const HASH_BYTES: usize = 16;

/// The protocol that two sides speak, if there is one: the newest of both.
pub fn agree(ours: (u32, u32), theirs: (u32, u32)) -> Option<u32> {
    let [(our_oldest, our_newest), (their_oldest, their_newest)] = [ours, theirs];
    let newest = our_newest.min(their_newest);
    (newest >= our_oldest.max(their_oldest)).then_some(newest)
}

/// The hash by which an [`Entry`] names its bytes.
pub fn hash_of(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&Sha256::digest(bytes)[..HASH_BYTES])
}

/// A hash as people read it: hex digits, lower case.
pub fn hash_text(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub struct BootstrapRequest {
    /// `namespace/name`.
    #[prost(string, tag = "1")]
    pub data_plane: String,
    /// Of the pod's service account, for the controller's audience.
    #[prost(string, tag = "2")]
    pub token: String,
    /// SubjectPublicKeyInfo, DER.
    #[prost(bytes = "bytes", tag = "3")]
    pub public_key: Bytes,
}

impl std::fmt::Debug for BootstrapRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BootstrapRequest").field("data_plane", &self.data_plane).finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct RenewRequest {
    /// SubjectPublicKeyInfo, DER. The name is that of the certificate with which it is asked.
    #[prost(bytes = "bytes", tag = "1")]
    pub public_key: Bytes,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct CertificateReply {
    /// DER.
    #[prost(bytes = "bytes", tag = "1")]
    pub certificate: Bytes,
    /// Seconds since the Unix epoch.
    #[prost(int64, tag = "2")]
    pub not_before_seconds: i64,
    #[prost(int64, tag = "3")]
    pub not_after_seconds: i64,
    /// The controller's clock.
    #[prost(int64, tag = "4")]
    pub now_seconds: i64,
}

/// What a data plane says on its stream.
#[derive(Clone, PartialEq, Message)]
pub struct FromPlane {
    #[prost(oneof = "Said", tags = "1, 2, 3, 4, 5")]
    pub said: Option<Said>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Said {
    #[prost(message, tag = "1")]
    Hello(Hello),
    #[prost(message, tag = "2")]
    Acknowledged(Acknowledged),
    #[prost(message, tag = "3")]
    Report(Report),
    #[prost(message, tag = "4")]
    Splits(Splits),
    #[prost(message, tag = "5")]
    Refused(Refused),
}

/// The first message.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Hello {
    /// The newest and the oldest protocol that it speaks.
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    #[prost(uint32, tag = "2")]
    pub oldest_protocol: u32,
    /// Version of the program, for people.
    #[prost(string, tag = "3")]
    pub release: String,
    /// The pod's name, for people.
    #[prost(string, tag = "4")]
    pub instance: String,
    /// Drawn by the process: a stream of the same process replaces the one before.
    #[prost(bytes = "bytes", tag = "5")]
    pub run: Bytes,
    /// Everything that it runs.
    #[prost(message, repeated, tag = "6")]
    pub held: Vec<Held>,
    #[prost(message, optional, tag = "7")]
    pub position: Option<Position>,
}

impl Hello {
    /// As if nothing were held, where what is held is more than a controller listens to.
    pub fn bounded(mut self) -> Hello {
        // Around it go the tag and the length of the only field of [`FromPlane`].
        let frame = prost::encoding::key_len(1) + prost::length_delimiter_len(SAID_MAX);
        if self.held.len() > HELD_MAX || self.encoded_len() + frame > SAID_MAX {
            self.held = Vec::new();
        }
        self
    }
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Held {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub hash: Bytes,
}

/// How new a set of resources is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Position {
    /// Of the leader that gave it; grows with each change of leader.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// What the leader had read of each kind.
    #[prost(message, repeated, tag = "2")]
    pub versions: Vec<KindVersion>,
}

impl Position {
    /// Why what comes from here is older than what comes from `known`, if it is. A kind that only one of them names says nothing,
    /// nor does a version that is no number.
    pub fn older_than(&self, known: &Position) -> Option<String> {
        if self.epoch < known.epoch {
            return Some(format!("it is of leader epoch {}, and {} is known", self.epoch, known.epoch));
        }
        for KindVersion { kind, resource_version, .. } in &self.versions {
            let other = known.versions.iter().find(|other| other.kind == *kind);
            let Some(other) = other.map(|other| other.changed.as_str()) else { continue };
            if number(resource_version).zip(number(other)).is_some_and(|(this, other)| this < other) {
                return Some(format!("its {kind}s are of version {resource_version}, and {other} is known"));
            }
        }
        None
    }
}

/// Decimal numbers in their order, however long.
fn number(text: &str) -> Option<(usize, &str)> {
    let digits = text.trim_start_matches('0');
    (!text.is_empty() && text.bytes().all(|c| c.is_ascii_digit())).then_some((digits.len(), digits))
}

/// A message has been applied as a whole.
#[derive(Clone, PartialEq, Message)]
pub struct Acknowledged {
    #[prost(enumeration = "Lane", tag = "1")]
    pub lane: i32,
    #[prost(uint64, tag = "2")]
    pub number: u64,
    /// All resources that could not be compiled, of this message and before.
    #[prost(message, repeated, tag = "3")]
    pub rejected: Vec<Rejected>,
    /// How things are with it.
    #[prost(message, optional, tag = "4")]
    pub report: Option<Report>,
}

/// How an instance is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Report {
    /// It may receive traffic.
    #[prost(bool, tag = "1")]
    pub ready: bool,
    /// Every wanted bind; the wildcard address stands for the data plane's own.
    #[prost(message, repeated, tag = "2")]
    pub binds: Vec<BindReport>,
    /// It is ending.
    #[prost(bool, tag = "3")]
    pub draining: bool,
}

/// Served counts, as the admin port's `/splits` tells them.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Splits {
    #[prost(uint64, tag = "1")]
    pub request: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub json: Bytes,
}

/// Nothing is taken from this controller; the stream ends.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Refused {
    #[prost(string, tag = "1")]
    pub reason: String,
}

/// What a controller says on a stream.
#[derive(Clone, PartialEq, Message)]
pub struct ToPlane {
    #[prost(oneof = "Told", tags = "1, 2, 3")]
    pub told: Option<Told>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Told {
    #[prost(message, tag = "1")]
    Welcome(Welcome),
    #[prost(message, tag = "2")]
    Part(Part),
    #[prost(message, tag = "3")]
    SplitsWanted(SplitsWanted),
}

/// The first message; comes again when `caretaker` is another.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Welcome {
    /// What is spoken from here on.
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    #[prost(string, tag = "2")]
    pub release: String,
    #[prost(message, optional, tag = "3")]
    pub position: Option<Position>,
    /// The controller's clock, seconds since the Unix epoch.
    #[prost(int64, tag = "4")]
    pub now_seconds: i64,
    /// Nobody leads that the controller knows of, and it led last.
    #[prost(bool, tag = "5")]
    pub caretaker: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Lane {
    Configuration = 0,
    /// Endpoints that changed, and nothing else.
    Endpoints = 1,
}

/// A part of a message: a change to the set of resources, applied as a whole when the last part is there.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Part {
    #[prost(enumeration = "Lane", tag = "1")]
    pub lane: i32,
    /// Of the message: one more than that of the lane's one before.
    #[prost(uint64, tag = "2")]
    pub number: u64,
    /// Of the first part: what the message does not name is removed.
    #[prost(bool, tag = "3")]
    pub full: bool,
    #[prost(message, repeated, tag = "4")]
    pub upserts: Vec<Entry>,
    #[prost(string, repeated, tag = "5")]
    pub removals: Vec<String>,
    #[prost(bool, tag = "6")]
    pub last: bool,
    /// Of the last part: how new the set is with it.
    #[prost(message, optional, tag = "7")]
    pub position: Option<Position>,
}

/// A resource by name: the bytes of a [`Resource`], with their hash.
#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub struct Entry {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub hash: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub body: Bytes,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("key", &self.key).field("hash", &self.hash).finish_non_exhaustive()
    }
}

/// Why an entry is not what it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("{0}: the bytes are not those that the hash names")]
    Hash(String),
    #[error("{0}: {1}")]
    Form(String, String),
    #[error("{0}: the resource inside is {1:?}")]
    Key(String, String),
}

impl Entry {
    pub fn of(resource: &Resource) -> Entry {
        let body = Bytes::from(resource.encode_to_vec());
        Entry { key: resource.key().to_owned(), hash: hash_of(&body), body }
    }

    /// The resource. One of a kind that a newer release writes comes out without a body and is left alone by those who apply it.
    pub fn resource(&self) -> Result<Resource, EntryError> {
        if hash_of(&self.body) != self.hash {
            return Err(EntryError::Hash(self.key.clone()));
        }
        let resource = Resource::decode(self.body.clone())
            .map_err(|error| EntryError::Form(self.key.clone(), error.to_string()))?;
        if resource.body.is_some() && resource.key() != self.key {
            return Err(EntryError::Key(self.key.clone(), resource.key().to_owned()));
        }
        Ok(resource)
    }
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct SplitsWanted {
    #[prost(uint64, tag = "1")]
    pub request: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Body, Endpoints};

    fn entry() -> Entry {
        let endpoints = Endpoints { key: "endpoints/a/s/1".to_owned(), ..Endpoints::default() };
        Entry::of(&Resource { body: Some(Body::Endpoints(endpoints)) })
    }

    #[test]
    fn an_entry_is_what_its_hash_and_key_say() {
        assert_eq!(entry().resource().unwrap().key(), "endpoints/a/s/1");
        let changed = Entry { body: Bytes::from_static(b"other"), ..entry() };
        assert!(matches!(changed.resource(), Err(EntryError::Hash(_))));
        let body = Bytes::from_static(&[0xff]);
        let broken = Entry { hash: hash_of(&body), body, ..entry() };
        assert!(matches!(broken.resource(), Err(EntryError::Form(..))));
        let renamed = Entry { key: "endpoints/b/s/1".to_owned(), ..entry() };
        assert!(matches!(renamed.resource(), Err(EntryError::Key(..))));
    }

    #[test]
    fn a_hello_names_what_is_held_as_far_as_it_is_listened_to() {
        let named = |count: usize, length: usize| {
            let one = Held { key: "k".repeat(length), hash: Bytes::from_static(&[7; HASH_BYTES]) };
            let hello = Hello { held: vec![one; count], ..Hello::default() }.bounded();
            let message = FromPlane { said: Some(Said::Hello(hello.clone())) };
            assert!(message.encoded_len() <= SAID_MAX);
            hello.held.len()
        };
        assert_eq!(named(HELD_MAX, 1), HELD_MAX);
        assert_eq!(named(HELD_MAX + 1, 1), 0);
        // With its key's, its own and its hash's frames one takes so many bytes besides its key.
        let frames = 4 + 4 + 2 + HASH_BYTES;
        let longest = (SAID_MAX - 5) / 16 - frames;
        assert_eq!([named(16, longest), named(16, longest + 2)], [16, 0]);
    }

    #[test]
    fn what_a_next_release_says_is_understood_as_far_as_it_is_known() {
        #[derive(Clone, PartialEq, Message)]
        struct NextPart {
            #[prost(int32, tag = "1")]
            lane: i32,
            #[prost(uint64, tag = "2")]
            number: u64,
            #[prost(message, repeated, tag = "4")]
            upserts: Vec<Entry>,
            #[prost(bool, tag = "6")]
            last: bool,
            #[prost(string, tag = "99")]
            news: String,
        }
        #[derive(Clone, PartialEq, Message)]
        struct NextToPlane {
            #[prost(message, optional, tag = "2")]
            part: Option<NextPart>,
            #[prost(string, tag = "77")]
            beside: String,
        }
        // A resource of a kind that is not known yet: field 50 of `Resource`.
        let body = Bytes::from_static(&[0x92, 0x03, 0x01, 0x00]);
        let unknown = Entry { key: "quota/a/b".to_owned(), hash: hash_of(&body), body };
        let part = NextPart {
            lane: 0,
            number: 7,
            upserts: vec![entry(), unknown],
            last: true,
            news: "x".to_owned(),
        };
        let bytes = NextToPlane { part: Some(part), beside: "y".to_owned() }.encode_to_vec();
        let Some(Told::Part(part)) = ToPlane::decode(&*bytes).unwrap().told else { panic!("no part") };
        assert_eq!((part.number, part.last, part.upserts.len()), (7, true, 2));
        assert_eq!(part.upserts[1].resource().unwrap().body, None);
        // A message of a kind that is not known yet.
        let bytes = [0xa2, 0x06, 0x01, 0x00];
        assert_eq!(ToPlane::decode(&bytes[..]).unwrap().told, None);
        assert_eq!(FromPlane::decode(&bytes[..]).unwrap().said, None);
    }

    #[test]
    fn releases_that_share_a_protocol_agree_on_the_newest() {
        assert_eq!(agree((1, 1), (1, 1)), Some(1));
        assert_eq!(agree((1, 2), (1, 1)), Some(1));
        assert_eq!(agree((1, 2), (2, 3)), Some(2));
        assert_eq!(agree((1, 1), (2, 3)), None);
        assert_eq!(agree((2, 3), (1, 1)), None);
    }

    #[test]
    fn an_older_position_is_told_from_a_newer_one() {
        let position = |epoch, versions: &[(&str, &str)]| Position {
            epoch,
            versions: versions
                .iter()
                .map(|(kind, version)| KindVersion {
                    kind: (*kind).to_owned(),
                    resource_version: (*version).to_owned(),
                    changed: (*version).to_owned(),
                })
                .collect(),
        };
        let known = position(2, &[("HTTPRoute", "99"), ("Secret", "7")]);
        let older = |epoch, versions: &[_]| position(epoch, versions).older_than(&known);
        assert_eq!(older(2, &[("HTTPRoute", "99")]), None);
        assert_eq!(older(2, &[("HTTPRoute", "100")]), None);
        assert_eq!(older(3, &[]), None);
        assert!(older(1, &[("HTTPRoute", "100")]).unwrap().contains("epoch"));
        assert!(older(2, &[("HTTPRoute", "98")]).unwrap().contains("HTTPRoute"));
        assert!(older(3, &[("Secret", "6")]).unwrap().contains("Secret"));
        assert_eq!(older(2, &[("Service", "1"), ("Secret", "x")]), None);
        // Who has heard of nothing since the last change has all of it.
        let mut quiet = known.clone();
        quiet.versions[0].resource_version = "5000".to_owned();
        assert_eq!(position(3, &[("HTTPRoute", "99")]).older_than(&quiet), None);
        assert!(position(3, &[("HTTPRoute", "98")]).older_than(&quiet).is_some());
        quiet.versions[0].changed.clear();
        assert_eq!(position(3, &[("HTTPRoute", "1")]).older_than(&quiet), None, "no change is known");
    }

    #[test]
    fn secrets_are_not_printed() {
        let request = BootstrapRequest { token: "hidden".to_owned(), ..BootstrapRequest::default() };
        assert!(!format!("{request:?}").contains("hidden"));
        let entry = Entry { body: Bytes::from_static(b"hidden"), ..entry() };
        assert!(!format!("{entry:?}").contains("hidden"));
    }
}

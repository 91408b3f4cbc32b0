//! Resources: the keyed, hashable output of translation, and the only thing a data plane is ever given.
//!
//! One form in memory, on the wire and on disk: protobuf messages. A resource is named by a stable key
//! (see [`Resource::key`]), so a change is a small set of upserts and removals ([`Update`]).
//!
//! Invariants: a field number is never reused; unknown fields from a newer release are ignored; nothing here
//! refers to another resource except by key; private keys never appear in `Debug` output.
//!
//! Deliberately absent: anything compiled (regular expressions, tables) and anything about sockets.

use prost::{Enumeration, Message, Oneof};

/// One keyed resource.
#[derive(Clone, PartialEq, Message)]
pub struct Resource {
    #[prost(oneof = "Body", tags = "1, 2, 3, 4")]
    pub body: Option<Body>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Body {
    #[prost(message, tag = "1")]
    Listener(Listener),
    #[prost(message, tag = "2")]
    HttpRoute(HttpRoute),
    #[prost(message, tag = "3")]
    Backend(Backend),
    #[prost(message, tag = "4")]
    Endpoints(Endpoints),
}

impl Resource {
    /// `listener/<ns>/<gateway>/<section>`, `httproute/<ns>/<name>`, `backend/<ns>/<service>/<port>`,
    /// `endpoints/<ns>/<service>/<port>`; empty for a resource of a kind this release does not know.
    pub fn key(&self) -> &str {
        match &self.body {
            Some(Body::Listener(r)) => &r.key,
            Some(Body::HttpRoute(r)) => &r.key,
            Some(Body::Backend(r)) => &r.key,
            Some(Body::Endpoints(r)) => &r.key,
            None => "",
        }
    }
}

/// A change to the set of resources that a data plane runs. Applied as a whole, in order of `sequence`.
#[derive(Clone, PartialEq, Message)]
pub struct Update {
    /// Increases by one with each update of one source; a data plane answers with it in [`Applied`].
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// True when `upserts` is everything: what is not named in it is removed.
    #[prost(bool, tag = "2")]
    pub full: bool,
    #[prost(message, repeated, tag = "3")]
    pub upserts: Vec<Resource>,
    /// Keys. Removing a key that is not there is not an error.
    #[prost(string, repeated, tag = "4")]
    pub removals: Vec<String>,
    /// The source's `resourceVersion` for each kind that it has read; an older set is refused.
    #[prost(message, repeated, tag = "5")]
    pub versions: Vec<KindVersion>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct KindVersion {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(string, tag = "2")]
    pub resource_version: String,
}

/// What a data plane says after every worker runs an [`Update`].
#[derive(Clone, PartialEq, Message)]
pub struct Applied {
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// The state of every bind that the data plane wants after this update, not only the changed ones.
    #[prost(message, repeated, tag = "2")]
    pub binds: Vec<BindReport>,
    /// Resources that could not be compiled; everything else runs.
    #[prost(message, repeated, tag = "3")]
    pub rejected: Vec<Rejected>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct BindReport {
    /// IP literal as in [`Listener::address`].
    #[prost(string, tag = "1")]
    pub address: String,
    /// The listener's port.
    #[prost(uint32, tag = "2")]
    pub port: u32,
    /// The port that the socket is really bound to (differs only where low ports may not be bound); 0 if none.
    #[prost(uint32, tag = "3")]
    pub bound_port: u32,
    /// Why there is no socket: the operating system's words, with address and port. Empty when bound.
    #[prost(string, tag = "4")]
    pub error: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Rejected {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// One listener of one Gateway. Listeners with equal `address` and `port` share a bind; those that also share
/// `hostname` are one group (they serve each other's routes: unmanaged Gateways share a data plane).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Listener {
    #[prost(string, tag = "1")]
    pub key: String,
    /// `<namespace>/<name>` of the Gateway.
    #[prost(string, tag = "2")]
    pub gateway: String,
    /// The listener's name.
    #[prost(string, tag = "3")]
    pub section: String,
    /// IP literal (IPv4, or IPv6 without brackets).
    #[prost(string, tag = "4")]
    pub address: String,
    #[prost(uint32, tag = "5")]
    pub port: u32,
    #[prost(enumeration = "ListenerProtocol", tag = "6")]
    pub protocol: i32,
    /// Lower case; `*.example.com` for a wildcard; empty for any host.
    #[prost(string, tag = "7")]
    pub hostname: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum ListenerProtocol {
    Http = 0,
}

/// One HTTPRoute, with the listeners that accepted it.
#[derive(Clone, PartialEq, Message)]
pub struct HttpRoute {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub uid: String,
    /// Seconds since the Unix epoch; older routes win ties.
    #[prost(int64, tag = "5")]
    pub created_seconds: i64,
    #[prost(message, repeated, tag = "6")]
    pub attachments: Vec<Attachment>,
    #[prost(message, repeated, tag = "7")]
    pub rules: Vec<HttpRule>,
}

/// A listener that accepted the route, with the hostnames on which it serves it there.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Attachment {
    #[prost(string, tag = "1")]
    pub listener_key: String,
    /// The intersection of the route's and the listener's hostnames, most specific form of each pair, lower case;
    /// an empty string means any host. Never an empty list.
    #[prost(string, repeated, tag = "2")]
    pub hostnames: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct HttpRule {
    /// The rule's name, or empty.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Identity of the rule's split state across snapshots: route UID + rule name, else a hash of the matches with
    /// an ordinal among equals.
    #[prost(string, tag = "2")]
    pub split_identity: String,
    /// Alternatives. Never empty (the API defaults it to the prefix `/`).
    #[prost(message, repeated, tag = "3")]
    pub matches: Vec<HttpMatch>,
    /// In the order in which they apply.
    #[prost(message, repeated, tag = "4")]
    pub filters: Vec<Filter>,
    #[prost(message, repeated, tag = "5")]
    pub backends: Vec<WeightedBackend>,
    /// `timeouts.request`, milliseconds; 0 for none.
    #[prost(uint64, tag = "6")]
    pub request_timeout_ms: u64,
    /// `timeouts.backendRequest`, milliseconds; 0 for none.
    #[prost(uint64, tag = "7")]
    pub backend_request_timeout_ms: u64,
    /// `konghq.com/strip-path`: the matched prefix (or exact path) is removed before the request is forwarded.
    #[prost(bool, tag = "8")]
    pub strip_path: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct HttpMatch {
    #[prost(enumeration = "PathKind", tag = "1")]
    pub path_kind: i32,
    #[prost(string, tag = "2")]
    pub path: String,
    /// Empty for any method.
    #[prost(string, tag = "3")]
    pub method: String,
    #[prost(message, repeated, tag = "4")]
    pub headers: Vec<ValueMatch>,
    #[prost(message, repeated, tag = "5")]
    pub query: Vec<ValueMatch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum PathKind {
    /// Whole path segments; `/` matches everything.
    Prefix = 0,
    Exact = 1,
    /// Anchored at both ends.
    RegularExpression = 2,
}

/// A header or query parameter condition.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ValueMatch {
    /// Headers: lower case. Query parameters: as written (they are case-sensitive).
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
    /// A regular expression (anchored at both ends) instead of an exact value.
    #[prost(bool, tag = "3")]
    pub regex: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Filter {
    #[prost(oneof = "FilterKind", tags = "1, 2, 3, 4")]
    pub kind: Option<FilterKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum FilterKind {
    #[prost(message, tag = "1")]
    RequestHeaderModifier(HeaderModifier),
    #[prost(message, tag = "2")]
    ResponseHeaderModifier(HeaderModifier),
    #[prost(message, tag = "3")]
    RequestRedirect(RequestRedirect),
    #[prost(message, tag = "4")]
    UrlRewrite(UrlRewrite),
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct HeaderModifier {
    #[prost(message, repeated, tag = "1")]
    pub set: Vec<HeaderValue>,
    #[prost(message, repeated, tag = "2")]
    pub add: Vec<HeaderValue>,
    #[prost(string, repeated, tag = "3")]
    pub remove: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct HeaderValue {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct RequestRedirect {
    /// Empty: the request's.
    #[prost(string, tag = "1")]
    pub scheme: String,
    /// Empty: the request's.
    #[prost(string, tag = "2")]
    pub hostname: String,
    #[prost(message, optional, tag = "3")]
    pub path: Option<PathModifier>,
    /// 0: by the API's port rules.
    #[prost(uint32, tag = "4")]
    pub port: u32,
    #[prost(uint32, tag = "5")]
    pub status: u32,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct UrlRewrite {
    /// Empty: unchanged.
    #[prost(string, tag = "1")]
    pub hostname: String,
    #[prost(message, optional, tag = "2")]
    pub path: Option<PathModifier>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct PathModifier {
    /// True: replace the matched prefix. False: replace the whole path.
    #[prost(bool, tag = "1")]
    pub prefix: bool,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// One backendRef. An invalid one keeps its share of the tickets and answers it with an error.
#[derive(Clone, PartialEq, Message)]
pub struct WeightedBackend {
    /// 0 to 1,000,000.
    #[prost(uint32, tag = "1")]
    pub weight: u32,
    /// Key of a [`Backend`]; for an invalid ref the key that it would have had, so that split state and metrics
    /// keep a stable name (`backend/<ns>/<name>/<port>`).
    #[prost(string, tag = "2")]
    pub backend_key: String,
    /// Not empty: this ref cannot be used, and why (`BackendNotFound`, `RefNotPermitted`, `InvalidKind`, ...).
    #[prost(string, tag = "3")]
    pub invalid_reason: String,
    #[prost(message, repeated, tag = "4")]
    pub filters: Vec<Filter>,
}

/// A Service port as a destination.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Backend {
    /// `backend/<namespace>/<service>/<port>`
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(string, tag = "3")]
    pub service: String,
    #[prost(uint32, tag = "4")]
    pub port: u32,
    #[prost(enumeration = "BackendProtocol", tag = "5")]
    pub protocol: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum BackendProtocol {
    Http1 = 0,
}

/// The ready endpoints of a backend: not configuration, changed by its own swap.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Endpoints {
    /// `endpoints/<namespace>/<service>/<port>`
    #[prost(string, tag = "1")]
    pub key: String,
    /// Key of the [`Backend`].
    #[prost(string, tag = "2")]
    pub backend_key: String,
    /// Sorted and without duplicates.
    #[prost(message, repeated, tag = "3")]
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Message)]
pub struct Endpoint {
    /// IP literal, IPv6 without brackets.
    #[prost(string, tag = "1")]
    pub address: String,
    /// 1 to 65535.
    #[prost(uint32, tag = "2")]
    pub port: u32,
}

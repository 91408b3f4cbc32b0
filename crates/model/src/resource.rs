//! Resources: the keyed, hashable output of translation, and the only thing a data plane is ever given.
//!
//! One form in memory, on the wire and on disk: protobuf messages. A resource is named by a stable key
//! (see [`Resource::key`]), so a change is a small set of upserts and removals ([`Update`]).
//!
//! Invariants: a field number is never reused; unknown fields from a newer release are ignored; nothing here
//! refers to another resource except by key; private keys never appear in `Debug` output.
//!
//! Deliberately absent: anything compiled (regular expressions, tables) and anything about sockets.

mod plane;

use prost::{Enumeration, Message, Oneof};

pub use self::plane::{CONTROLLER_URI, DataPlaneName, DataPlaneNameError};

/// One keyed resource.
#[derive(Clone, PartialEq, Message)]
pub struct Resource {
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
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
    #[prost(message, tag = "5")]
    L4Route(L4Route),
    #[prost(message, tag = "6")]
    Certificate(Certificate),
    #[prost(message, tag = "7")]
    CaBundle(CaBundle),
    #[prost(message, tag = "8")]
    SessionKey(SessionKey),
}

impl Resource {
    /// `listener/<ns>/<gateway>/<section>` (of a ListenerSet: `listener/<ns>/<gateway>/<set ns>/<set>/<section>`),
    /// `httproute/<ns>/<name>`, `grpcroute/<ns>/<name>`, `tlsroute/<ns>/<name>`, `tcproute/<ns>/<name>`,
    /// `udproute/<ns>/<name>`, `backend/<ns>/<service>/<port>` and `endpoints/<ns>/<service>/<port>` (both with `/udp` behind
    /// them for a UDP port, and with `/h2` for HTTP/2 to a port that does not say so, as gRPC has it),
    /// `certificate/<hash>`, `cabundle/<hash>`, `sessionkey/<hash>`; empty for a resource of a kind this release does not know.
    pub fn key(&self) -> &str {
        match &self.body {
            Some(Body::Listener(r)) => &r.key,
            Some(Body::HttpRoute(r)) => &r.key,
            Some(Body::Backend(r)) => &r.key,
            Some(Body::Endpoints(r)) => &r.key,
            Some(Body::L4Route(r)) => &r.key,
            Some(Body::Certificate(r)) => &r.key,
            Some(Body::CaBundle(r)) => &r.key,
            Some(Body::SessionKey(r)) => &r.key,
            None => "",
        }
    }
}

/// A change to the set of resources that a data plane runs. Applied as a whole, in order of `sequence`.
#[derive(Clone, PartialEq, Message)]
pub struct Update {
    /// Increases by one with each update of one source; a data plane answers with it in [`Applied`]. One with the number of the one before
    /// has nothing in it but newer `versions`, and is not answered: whoever shares updates out among data planes gets it, and nobody else.
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
    /// Nothing that the set depends on is waited for: what is not in it is not meant to be.
    #[prost(bool, tag = "6")]
    pub settled: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct KindVersion {
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Everything up to this version is in.
    #[prost(string, tag = "2")]
    pub resource_version: String,
    /// The version of the newest change that is in; empty where none was seen. What is complete up to it is not older,
    /// though it may have heard less since: a watch on which nothing happens hardly says how far it is.
    #[prost(string, tag = "3")]
    pub changed: String,
}

/// What a data plane says after every worker runs an [`Update`].
#[derive(Clone, PartialEq, Message)]
pub struct Applied {
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// The state of every bind that the data plane wants after this update, not only the changed ones.
    #[prost(message, repeated, tag = "2")]
    pub binds: Vec<BindReport>,
    /// Resources that could not be compiled; everything else runs. Of this update; with `planes`, all that there are.
    #[prost(message, repeated, tag = "3")]
    pub rejected: Vec<Rejected>,
    /// Where there are several data planes: how far each is. Empty: there is one, and `sequence` says it.
    #[prost(message, repeated, tag = "4")]
    pub planes: Vec<PlaneApplied>,
}

/// How far one data plane is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PlaneApplied {
    /// As in [`Listener::address`].
    #[prost(string, tag = "1")]
    pub place: String,
    /// Whatever up to this update is for the data plane runs there: on one instance at least that is ready, and on all that are
    /// connected or were given the time for it.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// Instances that are connected, and those of them that are ready.
    #[prost(uint32, tag = "3")]
    pub connected: u32,
    #[prost(uint32, tag = "4")]
    pub ready: u32,
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
    /// A UDP socket instead of a TCP one.
    #[prost(bool, tag = "5")]
    pub udp: bool,
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
    /// IP literal (IPv4, or IPv6 without brackets); between translation and distribution also the place of a data plane
    /// ([`DataPlaneName::place`]).
    #[prost(string, tag = "4")]
    pub address: String,
    #[prost(uint32, tag = "5")]
    pub port: u32,
    #[prost(enumeration = "ListenerProtocol", tag = "6")]
    pub protocol: i32,
    /// Lower case; `*.example.com` for a wildcard; empty for any host.
    #[prost(string, tag = "7")]
    pub hostname: String,
    /// Of HTTPS and TLS listeners.
    #[prost(message, optional, tag = "8")]
    pub tls: Option<ListenerTls>,
    /// Key of the [`Certificate`] that this Gateway shows to backends which ask for one
    /// (`spec.tls.backend.clientCertificateRef`); empty for none.
    #[prost(string, tag = "9")]
    pub backend_client_certificate: String,
    /// What the Gateway's parameters come to; without them, what the data plane was started with. Of several Gateways on one bind the
    /// first by key that has any decides for all connections of the bind, which do not say whose they are.
    #[prost(message, optional, tag = "10")]
    pub parameters: Option<Parameters>,
}

/// `GatewayParameters`, those of the class and of the Gateway made one.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Parameters {
    /// Limits of the clients' side that are set, by name.
    #[prost(message, repeated, tag = "1")]
    pub limits: Vec<LimitSetting>,
    /// Peers that may say on whose behalf they speak; absent for those that the data plane was started with.
    #[prost(message, optional, tag = "2")]
    pub trusted_proxies: Option<Networks>,
    #[prost(enumeration = "AccessLogMode", tag = "3")]
    pub access_log: i32,
    /// Keys of [`SessionKey`]s: the first seals, all open. None: the data plane's own.
    #[prost(string, repeated, tag = "4")]
    pub session_keys: Vec<String>,
}

/// A value for a limit of the table (`limits`), in its unit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct LimitSetting {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint64, tag = "2")]
    pub value: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Networks {
    /// `10.0.0.0/8`, `fd00::/8`, or a single address.
    #[prost(string, repeated, tag = "1")]
    pub networks: Vec<String>,
}

/// Which requests get a line in the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum AccessLogMode {
    /// As the data plane was started.
    Inherited = 0,
    Off = 1,
    /// Those that were answered 5xx, or failed without an answer.
    Errors = 2,
    All = 3,
}

/// What session tokens are sealed with. Named by its content.
#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub struct SessionKey {
    /// `sessionkey/<sha256 of the bytes, hex>`
    #[prost(string, tag = "1")]
    pub key: String,
    /// 32 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionKey").field("key", &self.key).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum ListenerProtocol {
    /// HTTP/1 and HTTP/2 with prior knowledge, in the clear.
    Http = 0,
    /// HTTP/1 and HTTP/2 over TLS that ends here.
    Https = 1,
    /// TLS by SNI: passed on as it is, or ended here and the bytes inside passed on.
    Tls = 2,
    Tcp = 3,
    Udp = 4,
}

/// How a listener ends TLS, or that it does not.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ListenerTls {
    /// The TLS stream goes to the backend as it is.
    #[prost(bool, tag = "1")]
    pub passthrough: bool,
    /// Keys of [`Certificate`]s, in the order of `certificateRefs`; the first that fits the client's SNI and signature
    /// schemes is shown, else the first. Those that could not be resolved are left out; with none left every handshake is refused.
    #[prost(string, repeated, tag = "2")]
    pub certificates: Vec<String>,
    /// Clients are asked for a certificate. Equal for all listeners of a bind.
    #[prost(message, optional, tag = "3")]
    pub client_validation: Option<ClientValidation>,
}

/// `spec.tls.frontend`, as it applies to a listener's port.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ClientValidation {
    /// Keys of [`CaBundle`]s. None: nothing can be valid, and every handshake is refused unless `insecure_fallback`.
    #[prost(string, repeated, tag = "1")]
    pub ca_bundles: Vec<String>,
    /// `AllowInsecureFallback`: a missing or wrong certificate is let through.
    #[prost(bool, tag = "2")]
    pub insecure_fallback: bool,
}

/// A certificate chain with its key. Named by its content, so that it is read and parsed once however many listeners use it.
#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub struct Certificate {
    /// `certificate/<sha256 of chain and key, hex>`
    #[prost(string, tag = "1")]
    pub key: String,
    /// PEM, the leaf first.
    #[prost(bytes = "vec", tag = "2")]
    pub chain: Vec<u8>,
    /// PEM: PKCS#1, PKCS#8 or SEC1.
    #[prost(bytes = "vec", tag = "3")]
    pub private_key: Vec<u8>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Certificate authorities. Named by its content.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CaBundle {
    /// `cabundle/<sha256, hex>`
    #[prost(string, tag = "1")]
    pub key: String,
    /// PEM.
    #[prost(bytes = "vec", tag = "2")]
    pub certificates: Vec<u8>,
}

/// One TLSRoute, TCPRoute or UDPRoute (its key says which), with the listeners that accepted it.
#[derive(Clone, PartialEq, Message)]
pub struct L4Route {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub uid: String,
    /// Seconds since the Unix epoch. Of several routes for one listener and hostname the oldest gets everything, then the
    /// first by `<namespace>/<name>`.
    #[prost(int64, tag = "5")]
    pub created_seconds: i64,
    /// Hostnames are SNI names for a TLSRoute and the empty string for the others.
    #[prost(message, repeated, tag = "6")]
    pub attachments: Vec<Attachment>,
    /// The rule's name, or empty.
    #[prost(string, tag = "7")]
    pub rule_name: String,
    /// As [`HttpRule::split_identity`].
    #[prost(string, tag = "8")]
    pub split_identity: String,
    /// A connection, or a UDP flow, takes one ticket. An invalid backend's share is dropped. No filters.
    #[prost(message, repeated, tag = "9")]
    pub backends: Vec<WeightedBackend>,
}

/// One HTTPRoute or GRPCRoute (its key says which), with the listeners that accepted it. A GRPCRoute's errors are gRPC's.
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
    /// `timeouts.request`, milliseconds; 0 where nothing is said, the largest number for none whatever the general ones are.
    #[prost(uint64, tag = "6")]
    pub request_timeout_ms: u64,
    /// `timeouts.backendRequest`, milliseconds; the same.
    #[prost(uint64, tag = "7")]
    pub backend_request_timeout_ms: u64,
    /// `konghq.com/strip-path`: the matched prefix (or exact path) is removed before the request is forwarded.
    #[prost(bool, tag = "8")]
    pub strip_path: bool,
    #[prost(message, optional, tag = "9")]
    pub retry: Option<Retry>,
    /// The rule's own; else a backend's ([`Backend::session_persistence`]) holds.
    #[prost(message, optional, tag = "10")]
    pub session_persistence: Option<SessionPersistence>,
}

/// `rules[].retry`. Where it is there, connection errors are retried too.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Retry {
    /// Statuses of a response that make it worth another try; a try that took too long counts where 504 is named.
    #[prost(uint32, repeated, tag = "1")]
    pub codes: Vec<u32>,
    /// Tries after the first.
    #[prost(uint32, tag = "2")]
    pub attempts: u32,
    /// The least time between two tries, milliseconds.
    #[prost(uint64, tag = "3")]
    pub backoff_ms: u64,
}

/// `sessionPersistence` (GEP-1619).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SessionPersistence {
    /// Name of the cookie or header; never empty.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The token goes in a header instead of a cookie.
    #[prost(bool, tag = "2")]
    pub header: bool,
    /// Milliseconds after which a session ends however busy; 0 for never.
    #[prost(uint64, tag = "3")]
    pub absolute_timeout_ms: u64,
    /// Milliseconds without a request after which a session ends; 0 for never.
    #[prost(uint64, tag = "4")]
    pub idle_timeout_ms: u64,
    /// The cookie outlives the browser (`lifetimeType: Permanent`).
    #[prost(bool, tag = "5")]
    pub permanent: bool,
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
    /// A gRPC method of any service: `path` is the method's name, the second of exactly two segments. After prefixes that
    /// name a service, before the prefix `/`.
    GrpcMethod = 3,
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
    #[prost(oneof = "FilterKind", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
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
    #[prost(message, tag = "5")]
    RequestMirror(RequestMirror),
    #[prost(message, tag = "6")]
    Cors(Cors),
    #[prost(message, tag = "7")]
    ExternalAuth(ExternalAuth),
    /// A filter that cannot be used (of a kind that nobody knows, ...): requests that would pass it are answered 500
    /// (the API: a filter is never skipped). Holds the reason.
    #[prost(string, tag = "8")]
    Invalid(String),
}

/// A copy of the request to another backend, whose answer is dropped.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RequestMirror {
    /// Key of a [`Backend`]; of one that cannot be used there is no filter at all.
    #[prost(string, tag = "1")]
    pub backend_key: String,
    /// Of `denominator` requests so many are copied. 1 of 1: all.
    #[prost(uint32, tag = "2")]
    pub numerator: u32,
    #[prost(uint32, tag = "3")]
    pub denominator: u32,
    /// Identity of the fraction's own sequence of tickets.
    #[prost(string, tag = "4")]
    pub split_identity: String,
}

/// Cross-origin resource sharing, answered and decorated by the gateway (Fetch standard, section 3.2).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Cors {
    /// As written: `*`, `https://a.example`, `https://*.example:8443`.
    #[prost(string, repeated, tag = "1")]
    pub allow_origins: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub allow_methods: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub allow_headers: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub expose_headers: Vec<String>,
    #[prost(bool, tag = "5")]
    pub allow_credentials: bool,
    #[prost(uint32, tag = "6")]
    pub max_age_seconds: u32,
}

/// Another server that is asked whether a request may pass (GEP-1494).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ExternalAuth {
    /// Key of a [`Backend`].
    #[prost(string, tag = "1")]
    pub backend_key: String,
    /// Not empty: the server cannot be used, and every request is refused.
    #[prost(string, tag = "2")]
    pub invalid_reason: String,
    /// Envoy's `ext_authz` over gRPC instead of HTTP.
    #[prost(bool, tag = "3")]
    pub grpc: bool,
    /// Put before the request's path (HTTP).
    #[prost(string, tag = "4")]
    pub path: String,
    /// Lower case. HTTP: sent beside those that always are; gRPC: empty means all.
    #[prost(string, repeated, tag = "5")]
    pub allowed_request_headers: Vec<String>,
    /// Lower case: headers of the answer that are put into the request (HTTP). Empty: all but hop-by-hop ones.
    #[prost(string, repeated, tag = "6")]
    pub allowed_response_headers: Vec<String>,
    /// Bytes of the body that are sent along; 0 for none. A larger body is refused.
    #[prost(uint64, tag = "7")]
    pub max_body_bytes: u64,
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
    /// `backend/<namespace>/<service>/<port>`; of a UDP port `backend/<namespace>/<service>/<port>/udp`; of
    /// HTTP/2 to a port that does not say what it speaks `backend/<namespace>/<service>/<port>/h2`.
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
    /// Connections are encrypted (BackendTLSPolicy).
    #[prost(message, optional, tag = "6")]
    pub tls: Option<BackendTls>,
    #[prost(message, optional, tag = "7")]
    pub session_persistence: Option<SessionPersistence>,
    #[prost(message, optional, tag = "8")]
    pub retry_budget: Option<RetryBudget>,
    /// Limits of the endpoints' side that a `BackendPolicy` sets, by name.
    #[prost(message, repeated, tag = "9")]
    pub limits: Vec<LimitSetting>,
}

/// What is spoken to a backend's endpoints (a Service port's `appProtocol`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum BackendProtocol {
    /// HTTP/1.1, upgrades to WebSocket included (`http`, `https`, `kubernetes.io/ws`, `kubernetes.io/wss`, or nothing said).
    Http1 = 0,
    /// HTTP/2 with prior knowledge (`kubernetes.io/h2c`; every backend of a GRPCRoute that does not say otherwise).
    Http2 = 1,
}

/// How a backend is spoken to over TLS.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BackendTls {
    /// SNI; without `subject_alt_names` also the name that the certificate must be for.
    #[prost(string, tag = "1")]
    pub hostname: String,
    /// Keys of [`CaBundle`]s.
    #[prost(string, repeated, tag = "2")]
    pub ca_bundles: Vec<String>,
    /// The operating system's authorities (`wellKnownCACertificates: System`).
    #[prost(bool, tag = "3")]
    pub system_authorities: bool,
    /// Any one of them must be in the certificate.
    #[prost(message, repeated, tag = "4")]
    pub subject_alt_names: Vec<SubjectAltName>,
    /// Not empty: the policy cannot be met, so nothing may be sent, and requests are answered 500.
    #[prost(string, tag = "5")]
    pub invalid_reason: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SubjectAltName {
    /// A URI instead of a DNS name.
    #[prost(bool, tag = "1")]
    pub uri: bool,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// `XBackendTrafficPolicy.spec.retryConstraint` (GEP-3388).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RetryBudget {
    /// Retries as a share of the requests of the last `interval_ms`.
    #[prost(uint32, tag = "1")]
    pub percent: u32,
    #[prost(uint64, tag = "2")]
    pub interval_ms: u64,
    /// So many retries in `min_retry_interval_ms` are always allowed.
    #[prost(uint32, tag = "3")]
    pub min_retry_count: u32,
    #[prost(uint64, tag = "4")]
    pub min_retry_interval_ms: u64,
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

//! Sessions: which endpoint a client was given before, told by the client itself in a sealed token.
//!
//! Nothing is kept here. A token names the backend, the endpoint, and when the session began and was last used; it is sealed
//! (AES-256-GCM-SIV, random nonces) under the Gateway's newest key, else the process's, and bound to the rule and the session's name, so that it can be neither read,
//! changed, nor used elsewhere. Data planes with the same key honour each other's tokens.
//!
//! Older keys of the Gateway still open tokens; the answer then brings one under the newest, so that a key can be replaced without
//! ending a session. A token that does not open, is too old, or names what is no longer there is as good as none: the request takes a
//! ticket, and its answer a new token.
//!
//! Deliberately absent: which backend a new session is given (that is the split's), and cookies' paths (always `/`).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use weir_codec::field::Fields;
use weir_model::resource;
use weir_model::session::{Session, SessionCarrier};
use weir_model::table::CompiledRule;

/// Bytes of a [`SessionKey`].
const KEY_BYTES: usize = 32;

/// The form of a token's contents; another release may have another.
const FORM: u8 = 1;

/// Bytes of a token's contents: form, backend, address, port, two times.
const CONTENT_BYTES: usize = 1 + 8 + 16 + 2 + 8 + 8;

/// Bytes of a token before it is written as text: nonce, contents, tag.
const TOKEN_BYTES: usize = NONCE_LEN + CONTENT_BYTES + 16;

/// Tokens of one request that are tried: a client may hold an older one of another path. Unit: tokens. Source: ours (each costs
/// about a microsecond).
const MOST_TRIED: usize = 4;

/// What session tokens are sealed with. Data planes that serve the same clients should have the same one.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKey([u8; KEY_BYTES]);

impl SessionKey {
    pub const fn new(bytes: [u8; KEY_BYTES]) -> SessionKey {
        SessionKey(bytes)
    }
}

/// The key is a secret.
impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey")
    }
}

/// What a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// [`fingerprint`] of the backend's key.
    pub(crate) backend: u64,
    pub(crate) endpoint: SocketAddr,
    /// Milliseconds since the Unix epoch: tokens outlive processes.
    pub(crate) began_millis: u64,
    pub(crate) used_millis: u64,
}

/// Whether a session still lives.
fn lives(session: &Session, token: &Token, now_millis: u64) -> bool {
    let within = |since: u64, limit: Option<Duration>| {
        limit.is_none_or(|limit| u128::from(now_millis.saturating_sub(since)) < limit.as_millis())
    };
    within(token.began_millis, session.absolute_timeout) && within(token.used_millis, session.idle_timeout)
}

/// Where a token belongs.
#[derive(Clone)]
pub(crate) struct Place<'a> {
    /// Identity of the rule; of a session that is the backend's own, the backend's key.
    owner: &'a str,
    session: Arc<Session>,
}

impl<'a> Place<'a> {
    /// For requests of this rule to this backend. A backend's own session goes through all rules that lead to it.
    fn of(rule: &'a CompiledRule, backend: usize) -> Option<Place<'a>> {
        let session = rule.session(backend)?;
        let owner = match &rule.own_session {
            Some(_) => &*rule.identity,
            None => &rule.backends.get(backend)?.key,
        };
        Some(Place { owner, session })
    }

    fn is_header(&self) -> bool {
        self.session.carrier == SessionCarrier::Header
    }

    /// What a token is bound to, besides its contents.
    fn binding(&self) -> Vec<u8> {
        let carrier: &[u8] = if self.is_header() { b"header" } else { b"cookie" };
        [carrier, b"\0", self.session.name.as_bytes(), b"\0", self.owner.as_bytes()].concat()
    }
}

/// How a request is kept with its backend.
#[derive(Debug)]
pub(crate) struct Kept {
    /// What the client brought; `None` for a new session.
    token: Option<Token>,
    /// The client is to have the token under another key.
    outdated: bool,
    /// Where the request went, once it has.
    at: Option<SocketAddr>,
    /// The client came over TLS.
    secure: bool,
}

impl Kept {
    /// A session that begins.
    pub(crate) fn new(secure: bool) -> Kept {
        Kept { token: None, outdated: false, at: None, secure }
    }

    /// The live session of a request, with the index of its backend. The backend's weight does not matter.
    pub(crate) fn find(
        rule: &CompiledRule,
        sealer: &Sealer,
        fields: &Fields<'_, '_>,
        secure: bool,
    ) -> Option<(usize, Kept)> {
        let now_millis = unix_millis();
        let is_there = |index: usize, token: &Token| {
            let Some(backend) = rule.backends.get(index) else { return false };
            let state = backend.state().filter(|_| fingerprint(&backend.key) == token.backend);
            state.is_some_and(|state| state.endpoints().find(token.endpoint).is_some())
        };
        let found = |(key, token)| Kept { token: Some(token), outdated: key > 0, at: None, secure };
        if rule.own_session.is_some() {
            let token = sealer.find(&Place::of(rule, 0)?, now_millis, fields)?;
            let backend = (0..rule.backends.len()).find(|index| is_there(*index, &token.1))?;
            return Some((backend, found(token)));
        }
        (0..rule.backends.len()).find_map(|index| {
            let token = sealer.find(&Place::of(rule, index)?, now_millis, fields)?;
            is_there(index, &token.1).then(|| (index, found(token)))
        })
    }

    /// The endpoint that the session is kept at.
    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        self.token.map(|token| token.endpoint)
    }

    /// The request goes to this endpoint.
    pub(crate) fn goes_to(&mut self, endpoint: SocketAddr) {
        self.at = Some(endpoint);
    }

    /// The header that tells the client where its session is now, if it has to be told: it is new, the endpoint is another one,
    /// its idle time begins anew, or its token is under an older key.
    pub(crate) fn header(
        &self,
        rule: &CompiledRule,
        backend: usize,
        sealer: &Sealer,
    ) -> Option<(String, String)> {
        let endpoint = self.at?;
        let place = Place::of(rule, backend)?;
        let same = self.token.filter(|token| token.endpoint == endpoint);
        if same.is_some() && place.session.idle_timeout.is_none() && !self.outdated {
            return None;
        }
        let now_millis = unix_millis();
        let token = Token {
            backend: fingerprint(&rule.backends.get(backend)?.key),
            endpoint,
            began_millis: self.token.map_or(now_millis, |token| token.began_millis),
            used_millis: now_millis,
        };
        let text = sealer.seal(&place, &token)?;
        if place.is_header() {
            return Some((place.session.name.to_string(), text));
        }
        let mut cookie = format!("{}={text}; Path=/; HttpOnly", place.session.name);
        if self.secure {
            cookie.push_str("; Secure");
        }
        if let (SessionCarrier::PermanentCookie, Some(limit)) =
            (place.session.carrier, place.session.absolute_timeout)
        {
            let age = Duration::from_millis(now_millis.saturating_sub(token.began_millis));
            let left = limit.saturating_sub(age).as_millis().div_ceil(1000);
            cookie.push_str(&format!("; Max-Age={left}"));
        }
        Some(("Set-Cookie".to_owned(), cookie))
    }
}

/// Tokens outlive processes, so their times are the world's.
fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Seals and opens tokens. Shared by all workers.
pub(crate) struct Sealer {
    /// The first seals, all open. Never empty.
    keys: Vec<RandomizedNonceKey>,
}

impl Sealer {
    /// With a random key where none is given.
    pub(crate) fn new(key: Option<&SessionKey>) -> std::io::Result<Sealer> {
        let unusable = |_| std::io::Error::other("the session key cannot be used");
        let mut bytes = [0; KEY_BYTES];
        match key {
            Some(key) => bytes = key.0,
            None => aws_lc_rs::rand::fill(&mut bytes).map_err(unusable)?,
        }
        let key = RandomizedNonceKey::new(&AES_256_GCM_SIV, &bytes).map_err(unusable)?;
        Ok(Sealer { keys: vec![key] })
    }

    /// With a Gateway's keys, of which there is at least one.
    pub(crate) fn of(keys: &[Arc<resource::SessionKey>]) -> std::io::Result<Sealer> {
        let key = |key: &Arc<resource::SessionKey>| {
            RandomizedNonceKey::new(&AES_256_GCM_SIV, &key.bytes)
                .map_err(|_| std::io::Error::other(format!("{} cannot be used", key.key)))
        };
        let keys: Vec<_> = keys.iter().map(key).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(std::io::Error::other("there is no session key"));
        }
        Ok(Sealer { keys })
    }

    /// The token as it is sent. `None` when the system has no random numbers; then there is no session.
    pub(crate) fn seal(&self, place: &Place<'_>, token: &Token) -> Option<String> {
        let mut contents = Vec::with_capacity(TOKEN_BYTES);
        contents.push(FORM);
        contents.extend_from_slice(&token.backend.to_be_bytes());
        let ip = match token.endpoint.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        contents.extend_from_slice(&ip.octets());
        contents.extend_from_slice(&token.endpoint.port().to_be_bytes());
        contents.extend_from_slice(&token.began_millis.to_be_bytes());
        contents.extend_from_slice(&token.used_millis.to_be_bytes());
        let nonce =
            self.keys.first()?.seal_in_place_append_tag(Aad::from(place.binding()), &mut contents).ok()?;
        contents.splice(..0, nonce.as_ref().iter().copied());
        Some(URL_SAFE_NO_PAD.encode(contents))
    }

    /// What a token says, if it is one of ours for this place, and the place of its key among ours.
    pub(crate) fn open(&self, place: &Place<'_>, text: &[u8]) -> Option<(usize, Token)> {
        let mut sealed = [0; TOKEN_BYTES];
        // One byte more tells a text that is too long without decoding all of it.
        if text.len() != TOKEN_BYTES.div_ceil(3) * 4 - (3 - TOKEN_BYTES % 3) % 3 {
            return None;
        }
        URL_SAFE_NO_PAD.decode_slice(text, &mut sealed).ok().filter(|&length| length == TOKEN_BYTES)?;
        let binding = place.binding();
        self.keys.iter().enumerate().find_map(|(index, key)| {
            // What does not open is not left as it was.
            let mut attempt = sealed;
            let (nonce, contents) = attempt.split_at_mut(NONCE_LEN);
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let contents = key.open_in_place(nonce, Aad::from(&binding), contents).ok()?;
            Some((index, decoded(contents)?))
        })
    }

    /// The token of a live session among a request's fields.
    fn find(&self, place: &Place<'_>, now_millis: u64, fields: &Fields<'_, '_>) -> Option<(usize, Token)> {
        let live = |text: &[u8]| {
            self.open(place, text).filter(|(_, token)| lives(&place.session, token, now_millis))
        };
        let name = place.session.name.as_bytes();
        if place.is_header() {
            return fields.named(name).take(MOST_TRIED).find_map(live);
        }
        let cookies = fields.named(b"cookie").flat_map(|value| value.split(|byte| *byte == b';'));
        let ours = |pair: &'_ [u8]| cookie_value(pair, name).and_then(live);
        cookies.filter(|pair| cookie_value(pair, name).is_some()).take(MOST_TRIED).find_map(ours)
    }
}

/// The value of a cookie of this name (RFC 6265 section 4.2.1). Some clients put it in quotes.
fn cookie_value<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = pair.trim_ascii().strip_prefix(name)?.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
    Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

fn decoded(contents: &[u8]) -> Option<Token> {
    let (form, rest) = contents.split_first()?;
    let (backend, rest) = rest.split_first_chunk::<8>()?;
    let (ip, rest) = rest.split_first_chunk::<16>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (began, rest) = rest.split_first_chunk::<8>()?;
    let (used, rest) = rest.split_first_chunk::<8>()?;
    let endpoint = SocketAddr::new(Ipv6Addr::from(*ip).to_canonical(), u16::from_be_bytes(*port));
    (*form == FORM && rest.is_empty()).then_some(Token {
        backend: u64::from_be_bytes(*backend),
        endpoint,
        began_millis: u64::from_be_bytes(*began),
        used_millis: u64::from_be_bytes(*used),
    })
}

/// A backend's key in eight bytes (FNV-1a): tokens are authentic, so that nobody chooses what collides.
pub(crate) fn fingerprint(key: &str) -> u64 {
    key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(carrier: SessionCarrier) -> Session {
        Session { name: "weir".into(), carrier, absolute_timeout: None, idle_timeout: None }
    }

    const OWNER: &str = "default/r\0rule";

    fn token() -> Token {
        Token {
            backend: fingerprint("backend/default/a/80"),
            endpoint: "10.0.0.1:8080".parse().unwrap(),
            began_millis: 1_000,
            used_millis: 2_000,
        }
    }

    #[test]
    fn a_token_opens_with_its_key_in_its_place_only() {
        let session = session(SessionCarrier::SessionCookie);
        let place = Place { owner: OWNER, session: Arc::new(session.clone()) };
        let sealer = Sealer::new(Some(&SessionKey::new([7; 32]))).unwrap();
        let text = sealer.seal(&place, &token()).unwrap();
        assert_eq!(sealer.open(&place, text.as_bytes()), Some((0, token())));
        let again = Sealer::new(Some(&SessionKey::new([7; 32]))).unwrap();
        assert_eq!(again.open(&place, text.as_bytes()), Some((0, token())), "a replica with the same key");
        let other = Sealer::new(None).unwrap();
        assert_eq!(other.open(&place, text.as_bytes()), None);
        let renamed = Session { name: "other".into(), ..session.clone() };
        let header = Session { carrier: SessionCarrier::Header, ..session.clone() };
        for elsewhere in [
            Place { owner: "default/r\0other", ..place.clone() },
            Place { session: Arc::new(renamed), ..place.clone() },
            Place { session: Arc::new(header), ..place.clone() },
        ] {
            assert_eq!(sealer.open(&elsewhere, text.as_bytes()), None);
        }
        let six = Token { endpoint: "[fd00::1]:80".parse().unwrap(), ..token() };
        let text = sealer.seal(&place, &six).unwrap();
        assert_eq!(sealer.open(&place, text.as_bytes()), Some((0, six)));
    }

    #[test]
    fn the_first_key_seals_and_every_key_opens() {
        let key = |byte: u8| {
            Arc::new(resource::SessionKey { key: format!("sessionkey/{byte}"), bytes: vec![byte; KEY_BYTES] })
        };
        let place = Place { owner: OWNER, session: Arc::new(session(SessionCarrier::SessionCookie)) };
        let old = Sealer::of(&[key(1)]).unwrap();
        let both = Sealer::of(&[key(2), key(1)]).unwrap();
        let new = Sealer::of(&[key(2)]).unwrap();
        let before = old.seal(&place, &token()).unwrap();
        assert_eq!(both.open(&place, before.as_bytes()), Some((1, token())), "sessions outlive a new key");
        assert_eq!(new.open(&place, before.as_bytes()), None, "a key that is not listed opens nothing");
        let after = both.seal(&place, &token()).unwrap();
        assert_eq!(new.open(&place, after.as_bytes()), Some((0, token())));
        assert!(Sealer::of(&[]).is_err());
        let short = resource::SessionKey { key: "sessionkey/short".into(), bytes: vec![1; 31] };
        assert!(Sealer::of(&[Arc::new(short)]).is_err());
    }

    #[test]
    fn no_byte_of_a_token_can_be_changed() {
        let session = session(SessionCarrier::Header);
        let place = Place { owner: OWNER, session: Arc::new(session.clone()) };
        let sealer = Sealer::new(None).unwrap();
        let text = sealer.seal(&place, &token()).unwrap().into_bytes();
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(sealer.open(&place, &changed), None, "byte {at}");
        }
        for wrong in [&text[1..], &text[..text.len() - 1], b"", b"AAAA", &[b'A'; 4096]] {
            assert_eq!(sealer.open(&place, wrong), None);
        }
        let twice = sealer.seal(&place, &token()).unwrap().into_bytes();
        assert_ne!(text, twice, "equal sessions have different tokens");
    }

    #[test]
    fn a_session_ends_by_either_of_its_times() {
        let never = session(SessionCarrier::SessionCookie);
        let absolute = Session { absolute_timeout: Some(Duration::from_millis(5_000)), ..never.clone() };
        let both = Session { idle_timeout: Some(Duration::from_millis(1_000)), ..absolute.clone() };
        for (session, now, live) in [
            (&never, u64::MAX, true),
            (&both, 2_999, true),
            (&both, 3_000, false),
            (&absolute, 5_999, true),
            (&absolute, 6_000, false),
            // Another replica's clock may be ahead.
            (&both, 0, true),
        ] {
            assert_eq!(lives(session, &token(), now), live, "{session:?} at {now}");
        }
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        for (pair, value) in [
            (&b"weir=abc"[..], Some(&b"abc"[..])),
            (b" weir=abc ", Some(b"abc")),
            (b"weir=\"abc\"", Some(b"abc")),
            (b"weir=", Some(b"")),
            (b"weir", None),
            (b"weirder=abc", None),
            (b"Weir=abc", None),
            (b"", None),
        ] {
            assert_eq!(cookie_value(pair, b"weir"), value);
        }
    }
}

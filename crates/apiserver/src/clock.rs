//! The only place of this crate that reads the clock or draws randomness.
//!
//! Owns: timestamps in Kubernetes' forms, uids, name suffixes, tokens. Tests and file mode pass a fixed clock.

use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

/// Where times and random numbers come from; cheap to clone.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Clock {
        Clock { now: Arc::new(Timestamp::now) }
    }

    /// A clock of the caller's, for tests.
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Clock {
        Clock { now: Arc::new(now) }
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.now)()
    }

    /// RFC 3339 in whole seconds, as `metav1.Time` is written.
    pub(crate) fn seconds(&self) -> String {
        seconds_text(self.now())
    }
}

/// RFC 3339 in whole seconds, UTC.
pub(crate) fn seconds_text(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// When every object of file mode was made, so that ties between objects go by name.
pub(crate) const STABLE_CREATION: &str = "2020-01-01T00:00:00Z";

/// A new random uid.
pub(crate) fn random_uid() -> String {
    Uuid::new_v4().to_string()
}

/// The uid of an object in file mode: the same for the same group, kind, namespace and name, for ever.
pub(crate) fn stable_uid(group: &str, kind: &str, namespace: &str, name: &str) -> String {
    /// Namespace of the project's name-based uids: UUIDv5 of `weir.dev` in the DNS namespace.
    fn project() -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"weir.dev")
    }
    Uuid::new_v5(&project(), format!("{group}/{kind}/{namespace}/{name}").as_bytes()).to_string()
}

/// Letters that Kubernetes uses for generated name suffixes: no vowels, nothing easily mistaken.
const SUFFIX_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A five-letter suffix for `generateName`.
pub(crate) fn name_suffix() -> String {
    Uuid::new_v4().as_bytes()[..5]
        .iter()
        .map(|byte| char::from(SUFFIX_LETTERS[usize::from(*byte) % SUFFIX_LETTERS.len()]))
        .collect()
}

/// A number below `bound`, near enough to uniform for spreading addresses and ports.
pub(crate) fn random_below(bound: u32) -> u32 {
    let (high, _) = Uuid::new_v4().as_u64_pair();
    // The top 16 bits hold no version bits.
    let wide = (u128::from(high) * u128::from(bound)) >> 64;
    u32::try_from(wide).unwrap_or(0)
}

/// A bearer token of 244 random bits in hexadecimal.
pub(crate) fn random_token() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

//! Which data plane something is for.
//!
//! Invariant: the name of a data plane is that of its workload. Its Deployment, its ServiceAccount and its Service are all
//! called so, which is what a token of a pod proves.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::wire::hash_text;

/// What the text form has before it where an address stands.
const PLACE_PREFIX: &str = "plane:";

/// What the names of a managed Gateway's objects begin with: a Gateway may be called `default`, as the ServiceAccount that any pod of a
/// namespace has is.
const WORKLOAD_PREFIX: &str = "weir-";

/// The longest name of a Service. Unit: bytes. Source: RFC 1123 label.
const LABEL_MAX: usize = 63;

/// Hex digits of the hash in a name that had to be made another one.
const HASH_DIGITS: usize = 10;

/// The URI name of the controller's certificate.
pub const CONTROLLER_URI: &str = "spiffe://weir.dev/controller";

/// Namespace and name of a data plane's workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataPlaneName {
    pub namespace: String,
    pub name: String,
}

impl DataPlaneName {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> DataPlaneName {
        DataPlaneName { namespace: namespace.into(), name: name.into() }
    }

    /// That of a managed Gateway. A name that no Service could have is shortened, and told apart by a hash; so is one that looks like
    /// what another is shortened to, lest it be taken for that.
    pub fn of_gateway(namespace: &str, gateway: &str) -> DataPlaneName {
        let plain = format!("{WORKLOAD_PREFIX}{gateway}");
        if is_label(&plain) && !looks_hashed(&plain) {
            return DataPlaneName::new(namespace, plain);
        }
        let mut hash = hash_text(&Sha256::digest(gateway.as_bytes()));
        hash.truncate(HASH_DIGITS);
        let room = LABEL_MAX - WORKLOAD_PREFIX.len() - 1 - HASH_DIGITS;
        let readable: String = gateway
            .chars()
            .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
            .take(room)
            .collect();
        DataPlaneName::new(namespace, format!("{WORKLOAD_PREFIX}{readable}-{hash}"))
    }

    /// As it stands where listeners and bind reports have an address.
    pub fn place(&self) -> String {
        format!("{PLACE_PREFIX}{self}")
    }

    pub fn from_place(place: &str) -> Option<DataPlaneName> {
        place.strip_prefix(PLACE_PREFIX)?.parse().ok()
    }

    /// The user that the API server takes the holder of the data plane's token for.
    pub fn service_account_user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }

    /// The URI name of its certificates.
    pub fn uri(&self) -> String {
        format!("spiffe://weir.dev/plane/{self}")
    }

    pub fn from_uri(uri: &str) -> Option<DataPlaneName> {
        uri.strip_prefix("spiffe://weir.dev/plane/")?.parse().ok()
    }
}

/// Whether it ends as the names that have a hash do.
fn looks_hashed(text: &str) -> bool {
    let end = text.rsplit_once('-').map_or("", |(_, end)| end);
    end.len() == HASH_DIGITS && end.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

fn is_label(text: &str) -> bool {
    text.len() <= LABEL_MAX
        && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && !text.ends_with('-')
}

impl fmt::Display for DataPlaneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Why a text names no data plane.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not NAMESPACE/NAME of a data plane (lower-case letters, digits, `-` and `.`)")]
pub struct DataPlaneNameError(String);

impl FromStr for DataPlaneName {
    type Err = DataPlaneNameError;

    fn from_str(text: &str) -> Result<DataPlaneName, DataPlaneNameError> {
        let is_name = |part: &str| {
            !part.is_empty()
                && part.len() <= 253
                && part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-.".contains(&c))
        };
        match text.split_once('/') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => {
                Ok(DataPlaneName::new(namespace, name))
            }
            _ => Err(DataPlaneNameError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::DataPlaneName;

    #[test]
    fn every_form_leads_back_to_the_name() {
        let name = DataPlaneName::of_gateway("default", "kong");
        assert_eq!(name.to_string(), "default/weir-kong");
        assert_eq!(name.to_string().parse(), Ok(name.clone()));
        assert_eq!(DataPlaneName::from_place(&name.place()), Some(name.clone()));
        assert_eq!(DataPlaneName::from_uri(&name.uri()), Some(name.clone()));
        assert_eq!(name.service_account_user(), "system:serviceaccount:default:weir-kong");
    }

    #[test]
    fn other_texts_are_no_names() {
        for text in ["", "a", "a/", "/a", "a/b/c", "A/b", "a/../b", "a/b c", "127.0.0.1", "::1"] {
            assert!(text.parse::<DataPlaneName>().is_err(), "{text}");
            assert_eq!(DataPlaneName::from_place(text), None, "{text}");
        }
        assert_eq!(DataPlaneName::from_place("a/b"), None, "not a place");
        assert_eq!(DataPlaneName::from_uri("spiffe://weir.dev/controller"), None);
        assert_eq!(DataPlaneName::from_uri("spiffe://weir.dev/plane/a/b/c"), None);
    }

    #[test]
    fn any_name_of_a_gateway_gives_a_name_that_a_service_can_have() {
        let long = "g".repeat(253);
        let mut seen = std::collections::BTreeSet::new();
        for gateway in ["g", "default", "a.b", "a-b", long.as_str(), &long[..60], &long[..58], &long[..59]] {
            let name = DataPlaneName::of_gateway("default", gateway).name;
            assert!(super::is_label(&name), "{name}");
            assert!(seen.insert(name.clone()), "{name} twice");
            assert_ne!(name, "default");
        }
        // One that somebody calls by what another was shortened to.
        let taken = DataPlaneName::of_gateway("default", "a.b").name;
        let imitation = taken.strip_prefix(super::WORKLOAD_PREFIX).unwrap();
        let own = DataPlaneName::of_gateway("default", imitation).name;
        assert!(super::is_label(&own) && seen.insert(own.clone()), "{own}");
    }
}

//! Where the kinds that translation reads are found in the API.
//!
//! Invariant: a kind's objects mean the same in every version that [`Kind::versions`] lists, so which one is read is a
//! matter of what the server has. Deliberately absent: what an object means (that is `weir-core`).

use std::collections::BTreeMap;

use weir_core::{Kind, ObjectKey};

use crate::call::Collection;

/// The version in which each kind is read now; a kind that is not served is not in it.
pub(crate) type Versions = BTreeMap<Kind, &'static str>;

/// The collection of a kind's objects in one of its versions.
pub(crate) fn collection(kind: Kind, version: &'static str) -> Collection {
    Collection { group: kind.group(), version, plural: kind.plural(), namespaced: !kind.cluster_scoped() }
}

/// The path of an object, if its kind is served.
pub(crate) fn path(versions: &Versions, key: &ObjectKey) -> Option<String> {
    let version = versions.get(&key.kind)?;
    Some(collection(key.kind, version).path(&key.namespace, &key.name))
}

/// `apiVersion` as the kind's objects have it, in the best version where the kind is not served.
pub(crate) fn api_version(versions: &Versions, kind: Kind) -> String {
    let best = kind.versions().first().copied().unwrap_or("v1");
    collection(kind, versions.get(&kind).copied().unwrap_or(best)).api_version()
}

//! Which kinds the server has, in which versions.
//!
//! Invariant: an error is an error, never an empty answer, so an API that is away for a moment takes no kind away.
//! Deliberately absent: what a version means, and when to ask.

use std::collections::{BTreeMap, BTreeSet};

use weir_core::Kind;

use crate::call::{CallError, Caller};

/// The plural names that each group and version serves.
pub(crate) struct Served(BTreeMap<(&'static str, &'static str), BTreeSet<String>>);

impl Served {
    pub(crate) fn has(&self, kind: Kind, version: &'static str) -> bool {
        self.0.get(&(kind.group(), version)).is_some_and(|plurals| plurals.contains(kind.plural()))
    }
}

/// Ask for each group and version that any kind could be read in. A version that the server does not know has none.
pub(crate) async fn served(caller: &Caller) -> Result<Served, CallError> {
    let wanted: BTreeSet<(&'static str, &'static str)> = Kind::ALL
        .iter()
        .flat_map(|kind| kind.versions().iter().map(|version| (kind.group(), *version)))
        .collect();
    let mut served = BTreeMap::new();
    for (group, version) in wanted {
        let path = match group {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        };
        let plurals = match caller.get(&path).await {
            Ok(list) => plurals(&list),
            Err(error) if error.is_not_found() => BTreeSet::new(),
            Err(error) => return Err(error),
        };
        served.insert((group, version), plurals);
    }
    Ok(Served(served))
}

/// Names in an APIResourceList, subresources (`gateways/status`) among them, which no plural equals.
fn plurals(list: &serde_json::Value) -> BTreeSet<String> {
    list["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|resource| resource["name"].as_str().map(str::to_owned))
        .collect()
}

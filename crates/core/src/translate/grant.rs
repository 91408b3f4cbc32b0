//! ReferenceGrants: whether one object may refer to another of another namespace.

use weir_api::kind_facts::GROUP;

use super::reading::{Reading, Unknown};
use crate::objects::{Kind, ObjectKey, Presence};

/// Who refers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Referrer<'a> {
    /// A kind of Gateway API's own group.
    pub(super) kind: Kind,
    pub(super) namespace: &'a str,
}

/// Whether `from` may refer to an object of another namespace. `Presence::Present` is yes; Unknown: a grant may still
/// come.
pub(super) fn permits(from: &Referrer<'_>, target: &ObjectKey, reading: &mut Reading<'_>) -> Presence {
    let all = ObjectKey::grants_of(target.namespace.clone());
    reading.note_read(&all);
    let permitted = reading.objects.grants(&target.namespace).any(|grant| {
        let from_matches = grant.spec.from.iter().any(|entry| {
            entry.group == GROUP && entry.kind == from.kind.as_str() && entry.namespace == from.namespace
        });
        let to_matches = grant.spec.to.iter().any(|entry| {
            entry.group == target.kind.group()
                && entry.kind == target.kind.as_str()
                && entry.name.as_deref().is_none_or(|name| name.is_empty() || name == target.name)
        });
        from_matches && to_matches
    });
    if permitted { Presence::Present } else { reading.absence(&all, Unknown::Holds) }
}

/// What there is to say where the answer is no.
pub(super) fn refusal(from: &Referrer<'_>, target: &ObjectKey) -> String {
    format!(
        "no ReferenceGrant in namespace {} lets {}s of namespace {} refer to {} {}",
        target.namespace, from.kind, from.namespace, target.kind, target.name
    )
}

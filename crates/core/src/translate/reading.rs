//! What one node of translation reads, so that it is computed again exactly when something that it read changes.

use std::collections::BTreeSet;

use crate::objects::{Mark, ObjectKey, Objects, Presence};

/// A view of the objects that remembers what was asked of it.
pub(super) struct Reading<'a> {
    pub(super) objects: &'a Objects,
    /// When the references that are being followed were made.
    since: Mark,
    pub(super) seen: Seen,
}

/// What was read, in full: the answer may differ once any of it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Objects (and [`ObjectKey::grants_of`]), present or not.
    pub(super) reads: BTreeSet<ObjectKey>,
    /// Of these, the ones whose presence is Unknown.
    pub(super) wants: BTreeSet<ObjectKey>,
    /// What the node's result has to wait for.
    pub(super) waits: BTreeSet<ObjectKey>,
}

/// Whether an Unknown target holds the node's result back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    Holds,
    Passes,
}

impl<'a> Reading<'a> {
    pub(super) fn new(objects: &'a Objects, node: &ObjectKey) -> Reading<'a> {
        Reading { objects, since: objects.seen(node), seen: Seen::default() }
    }

    /// What is followed from now on was made by `object`. Returns what to give to [`Reading::refer_as`] afterwards.
    pub(super) fn refer_from(&mut self, object: &ObjectKey) -> Mark {
        std::mem::replace(&mut self.since, self.objects.seen(object))
    }

    pub(super) fn refer_as(&mut self, since: Mark) {
        self.since = since;
    }

    /// Follows a reference to `target`.
    pub(super) fn presence(&mut self, target: &ObjectKey, unknown: Unknown) -> Presence {
        let presence = self.objects.presence(target, self.since);
        self.note(target, presence, unknown)
    }

    /// Whether it is known that nothing more in the place of `target` (grants of a namespace) is to come.
    pub(super) fn absence(&mut self, target: &ObjectKey, unknown: Unknown) -> Presence {
        let presence = self.objects.absence(target, self.since);
        self.note(target, presence, unknown)
    }

    /// Remembers that `target` was read, whatever it is.
    pub(super) fn note_read(&mut self, target: &ObjectKey) {
        if !self.seen.reads.contains(target) {
            self.seen.reads.insert(target.clone());
        }
    }

    /// Holds the result back until `target` changes or is waived.
    pub(super) fn wait_for(&mut self, target: &ObjectKey) {
        self.seen.waits.insert(target.clone());
    }

    fn note(&mut self, target: &ObjectKey, presence: Presence, unknown: Unknown) -> Presence {
        self.note_read(target);
        if presence == Presence::Unknown {
            self.seen.wants.insert(target.clone());
            if unknown == Unknown::Holds {
                self.wait_for(target);
            }
        }
        presence
    }
}

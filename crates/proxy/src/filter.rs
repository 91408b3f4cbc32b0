//! Header modifiers on a head that is being rewritten.
//!
//! An [`Edited`] collects what the filters of a rule and of its backend say, in order: which received fields are
//! not copied, and which lines are added. Framing and connection fields are not theirs to change; `Host` and the
//! forwarding fields are, and then nothing of ours is written for them.

use smallvec::SmallVec;
use weir_codec::field::{Dropped, FORWARDING, Fields, HOP_BY_HOP, Known, KnownSet, classify};
use weir_codec::rewrite::field;
use weir_model::filter::CompiledFilter;
use weir_model::rewrite::HeaderEdits;

/// Fields that decide where a message ends or what its connection does.
const UNTOUCHABLE: KnownSet = HOP_BY_HOP.with(Known::ContentLength).with(Known::Trailer).with(Known::Expect);

/// The edits of one head.
pub(crate) struct Edited<'e> {
    pub(crate) dropped: Dropped,
    /// Forwarding fields that a filter set or removed.
    pub(crate) overridden: KnownSet,
    /// What a filter set `Host` to.
    pub(crate) host: Option<&'e str>,
    added: SmallVec<[(&'e str, &'e str); 8]>,
}

impl<'e> Edited<'e> {
    pub(crate) fn new(dropped: Dropped) -> Self {
        Edited { dropped, overridden: KnownSet::EMPTY, host: None, added: SmallVec::new() }
    }

    /// Applies the request header modifiers among `filters`.
    pub(crate) fn request(&mut self, filters: &'e [CompiledFilter], fields: &Fields<'_, '_>) {
        for filter in filters {
            if let CompiledFilter::RequestHeaders(edits) = filter {
                self.apply(edits, fields);
            }
        }
    }

    /// Applies the response header modifiers among `filters`.
    pub(crate) fn response(&mut self, filters: &'e [CompiledFilter], fields: &Fields<'_, '_>) {
        for filter in filters {
            if let CompiledFilter::ResponseHeaders(edits) = filter {
                self.apply(edits, fields);
            }
        }
    }

    /// In the API's order of fields: set, add, remove.
    fn apply(&mut self, edits: &'e HeaderEdits, fields: &Fields<'_, '_>) {
        for line in &edits.set {
            if self.take_out(&line.name, fields) {
                self.put_in(&line.name, &line.value);
            }
        }
        for line in &edits.add {
            if !UNTOUCHABLE.contains(classify(line.name.as_bytes())) {
                self.put_in(&line.name, &line.value);
            }
        }
        for name in &edits.remove {
            // A request without Host is not a request.
            if classify(name.as_bytes()) != Known::Host {
                self.take_out(name, fields);
            }
        }
    }

    /// Drops every field of this name; false for names that are not for filters to change.
    fn take_out(&mut self, name: &str, fields: &Fields<'_, '_>) -> bool {
        let known = classify(name.as_bytes());
        if UNTOUCHABLE.contains(known) {
            return false;
        }
        if FORWARDING.contains(known) {
            self.overridden = self.overridden.with(known);
        }
        fields.drop_name(&mut self.dropped, name.as_bytes());
        self.added.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        true
    }

    fn put_in(&mut self, name: &'e str, value: &'e str) {
        if classify(name.as_bytes()) == Known::Host {
            self.host = Some(value);
        } else {
            self.added.push((name, value));
        }
    }

    /// Writes the added lines.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for (name, value) in &self.added {
            field(name.as_bytes(), value.as_bytes(), out);
        }
    }
}

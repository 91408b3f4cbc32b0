//! Header modifiers on a head that is being rewritten.
//!
//! An [`Edited`] collects what the filters of a rule and of its backend say, in order: which received fields are
//! not copied, and which lines are added. Framing and connection fields are not theirs to change; `Host` and the
//! forwarding fields are, and then nothing of ours is written for them.
//!
//! What authorisation servers put into a request ([`Grant`]) and what a response says about sharing between origins take their
//! place in the same order.

use smallvec::SmallVec;
use weir_codec::field::{Dropped, FORWARDING, Fields, HOP_BY_HOP, Known, KnownSet, classify};
use weir_codec::rewrite::field;
use weir_model::cors;
use weir_model::filter::CompiledFilter;
use weir_model::rewrite::HeaderEdits;

use crate::query::QueryEdits;

/// Fields that decide where a message ends or what its connection does.
const UNTOUCHABLE: KnownSet = HOP_BY_HOP.with(Known::ContentLength).with(Known::Trailer).with(Known::Expect);

/// Fields that an authorisation server has no say in.
const NOT_GRANTED: KnownSet = UNTOUCHABLE.with(Known::Host);

/// The filters that a request has passed.
#[derive(Clone, Copy)]
pub(crate) struct Passed<'a> {
    /// The rule's, then the backend's.
    pub(crate) lists: [&'a [CompiledFilter]; 2],
    pub(crate) grants: &'a [Grant],
    /// The body has been read already: nobody is to be asked whether to send it.
    pub(crate) body_is_here: bool,
}

impl<'a> Passed<'a> {
    /// Filters that ask nobody.
    pub(crate) fn all(lists: [&'a [CompiledFilter]; 2]) -> Passed<'a> {
        Passed { lists, grants: &[], body_is_here: false }
    }

    /// The query as authorisation servers want it; `None` where they leave it alone.
    #[inline]
    pub(crate) fn query(&self, query: Option<&[u8]>) -> Option<Option<Vec<u8>>> {
        let mut edited = None;
        for grant in self.grants.iter().filter(|grant| !grant.query.is_empty()) {
            let before = edited.as_ref().map_or(query, |edited: &Option<Vec<u8>>| edited.as_deref());
            edited = Some(grant.query.apply(before));
        }
        edited
    }
}

/// What an authorisation server puts into a request, and into the response to it.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    /// Which list, and which filter of it.
    pub(crate) place: [usize; 2],
    pub(crate) lines: Vec<GrantLine>,
    /// Names of fields that go, lower case.
    pub(crate) remove: Box<[Box<str>]>,
    /// For the client.
    pub(crate) response: Vec<GrantLine>,
    pub(crate) query: QueryEdits,
}

#[derive(Clone, Debug)]
pub(crate) struct GrantLine {
    pub(crate) name: Box<str>,
    pub(crate) value: Box<[u8]>,
    pub(crate) put: Put,
}

/// What a line does to those of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It stands beside them.
    Beside,
    /// It takes their place.
    InPlace,
    /// The same, if there are any; else it is left out.
    WhereSome,
    /// It is left out if there are any.
    WhereNone,
}

/// What the edits of a response depend on beside the filters.
#[derive(Clone, Copy, Default)]
pub(crate) struct Answered<'a> {
    /// What the request said of its origin.
    pub(crate) origin: Option<&'a [u8]>,
    pub(crate) grants: &'a [Grant],
}

/// The edits of one head.
pub(crate) struct Edited<'e> {
    pub(crate) dropped: Dropped,
    /// Forwarding fields that a filter set or removed.
    pub(crate) overridden: KnownSet,
    /// What a filter set `Host` to.
    pub(crate) host: Option<&'e [u8]>,
    added: SmallVec<[(&'e str, &'e [u8]); 8]>,
}

impl<'e> Edited<'e> {
    pub(crate) fn new(dropped: Dropped) -> Self {
        Edited { dropped, overridden: KnownSet::EMPTY, host: None, added: SmallVec::new() }
    }

    /// Applies what changes a request's fields among the filters that were passed.
    pub(crate) fn request(&mut self, passed: &Passed<'e>, fields: &Fields<'_, '_>) {
        for (list, filters) in passed.lists.into_iter().enumerate() {
            for (index, filter) in filters.iter().enumerate() {
                match filter {
                    CompiledFilter::RequestHeaders(edits) => self.apply(edits, fields),
                    CompiledFilter::ExternalAuth(_) => {
                        let here = |grant: &&Grant| grant.place == [list, index];
                        for grant in passed.grants.iter().filter(here) {
                            self.grant(grant, fields);
                        }
                    }
                    _ => {}
                }
            }
        }
        if passed.body_is_here {
            fields.drop_name(&mut self.dropped, b"expect");
        }
    }

    fn grant(&mut self, grant: &'e Grant, fields: &Fields<'_, '_>) {
        self.grant_lines(&grant.lines, fields);
        for name in grant.remove.iter().filter(|name| !NOT_GRANTED.contains(classify(name.as_bytes()))) {
            self.take_out(name, fields);
        }
    }

    fn grant_lines(&mut self, lines: &'e [GrantLine], fields: &Fields<'_, '_>) {
        for GrantLine { name, value, put } in lines {
            if NOT_GRANTED.contains(classify(name.as_bytes())) {
                continue;
            }
            let wanted = match put {
                Put::Beside => true,
                Put::InPlace => self.take_out(name, fields),
                Put::WhereSome => self.has(name, fields) && self.take_out(name, fields),
                Put::WhereNone => !self.has(name, fields),
            };
            if wanted {
                self.put_in(name, value);
            }
        }
    }

    /// Whether a field of this name is there.
    fn has(&self, name: &str, fields: &Fields<'_, '_>) -> bool {
        fields.keeps_name(self.dropped, name.as_bytes())
            || self.added.iter().any(|(other, _)| other.eq_ignore_ascii_case(name))
    }

    /// Applies what changes a response's fields.
    pub(crate) fn response(
        &mut self,
        lists: [&'e [CompiledFilter]; 2],
        answered: Answered<'e>,
        fields: &Fields<'_, '_>,
    ) {
        for (list, filters) in lists.into_iter().enumerate() {
            for (index, filter) in filters.iter().enumerate() {
                match filter {
                    CompiledFilter::ResponseHeaders(edits) => self.apply(edits, fields),
                    CompiledFilter::Cors(cors) => self.share(cors, answered.origin, fields),
                    CompiledFilter::ExternalAuth(_) => {
                        let here = |grant: &&Grant| grant.place == [list, index];
                        for grant in answered.grants.iter().filter(here) {
                            self.grant_lines(&grant.response, fields);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// What the backend says about sharing goes, what the gateway says comes.
    fn share(&mut self, cors: &'e cors::Cors, origin: Option<&'e [u8]>, fields: &Fields<'_, '_>) {
        for name in cors::RESPONSE_HEADERS {
            self.take_out(name, fields);
        }
        for (name, value) in cors.response(origin) {
            let line = (name, value.as_bytes());
            // Once is enough, also where two filters want it.
            if name != "vary" || !self.added.contains(&line) {
                self.put_in(line.0, line.1);
            }
        }
    }

    /// In the API's order of fields: set, add, remove.
    fn apply(&mut self, edits: &'e HeaderEdits, fields: &Fields<'_, '_>) {
        for line in &edits.set {
            if self.take_out(&line.name, fields) {
                self.put_in(&line.name, line.value.as_bytes());
            }
        }
        for line in &edits.add {
            if !UNTOUCHABLE.contains(classify(line.name.as_bytes())) {
                self.put_in(&line.name, line.value.as_bytes());
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

    fn put_in(&mut self, name: &'e str, value: &'e [u8]) {
        if classify(name.as_bytes()) == Known::Host {
            self.host = Some(value);
        } else {
            self.added.push((name, value));
        }
    }

    /// Writes the added lines.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for (name, value) in &self.added {
            field(name.as_bytes(), value, out);
        }
    }
}

//! The tables of one hostname: path, then candidates in order of precedence.
//!
//! Persistent throughout: a changed route replaces the few nodes on the way to its own entries, whatever else there is.
//! Canonical: what has no entries is not there, so tables that came about by edits equal tables built at once.

use std::cmp::Reverse;
use std::sync::Arc;

use imbl::OrdSet;
use smallvec::SmallVec;

use super::listener::CompiledListener;
use super::matching::{CompiledMatch, PathPattern};
use super::rule::CompiledRule;
use crate::bytemap::ByteMap;
use crate::hostname::Hostname;
use crate::path::segments;

/// The routes of one hostname.
#[derive(Clone, Default)]
pub(crate) struct HostTable {
    pub(crate) exact: ByteMap<Candidates>,
    pub(crate) regex: Candidates,
    pub(crate) prefix: ByteMap<Candidates>,
    /// How many different prefixes there are of each number of segments, most segments first.
    pub(crate) prefix_depths: SmallVec<[Depth; 2]>,
    /// gRPC methods of any service, by name; never empty. (In a box: nearly no hostname has any.)
    pub(crate) methods: Option<Box<ByteMap<Candidates>>>,
}

#[derive(Clone, Copy)]
pub(crate) struct Depth {
    pub(crate) segments: u32,
    pub(crate) prefixes: u32,
}

/// An alternative of a rule where a listener serves it.
pub struct MatchEntry {
    pub(crate) created_seconds: i64,
    /// True when only the path decides.
    pub(crate) unconditional: bool,
    pub(crate) matched: Arc<CompiledMatch>,
    pub(crate) alternative: usize,
    pub(crate) rule: Arc<CompiledRule>,
    pub(crate) listener: Arc<CompiledListener>,
}

/// An entry and the hostname that it stands under.
pub(crate) struct Placement {
    pub(crate) hostname: Hostname,
    pub(crate) entry: Arc<MatchEntry>,
}

impl Placement {
    /// Whether the other stands at the very place of this one, so that adding it replaces this.
    pub(crate) fn replaces(&self, old: &Placement) -> bool {
        let (a, b) = (&*self.entry, &*old.entry);
        a.precedence() == b.precedence()
            && self.hostname == old.hostname
            && a.listener.bind == b.listener.bind
            && a.listener.protocol == b.listener.protocol
            && a.listener.hostname == b.listener.hostname
            && a.rule.kind == b.rule.kind
            && a.matched.path.same_place(&b.matched.path)
    }

    /// Whether nothing about it changed.
    pub(crate) fn is(&self, old: &Placement) -> bool {
        self.replaces(old)
            && Arc::ptr_eq(&self.entry.rule, &old.entry.rule)
            && Arc::ptr_eq(&self.entry.matched, &old.entry.matched)
            && Arc::ptr_eq(&self.entry.listener, &old.entry.listener)
    }
}

/// Entries in order of precedence. A list while it is short; a tree when an edit in a list would be felt.
#[derive(Clone)]
pub(crate) enum Candidates {
    Few(SmallVec<[Arc<MatchEntry>; 1]>),
    Many(OrdSet<ByPrecedence>),
}

#[derive(Clone)]
pub(crate) struct ByPrecedence(Arc<MatchEntry>);

const FEW_CANDIDATES: usize = 16;

impl MatchEntry {
    /// What decides between alternatives at one path: the lesser wins. No two entries at one place are equal.
    ///
    /// The API's order (HTTPRouteRule `matches`): a method match, then the most headers, then the most query parameters;
    /// then the oldest route, then `<namespace>/<name>` in alphabetical order, then the first rule. For gRPC the same without
    /// method and parameters (GRPCRouteRule `matches`). Ours where the API is silent: among regular expressions the longest pattern
    /// before all this; the kind of routes with one name; the first match of a rule; the listener's key.
    pub(crate) fn precedence(&self) -> impl Ord + '_ {
        let pattern = match &self.matched.path {
            PathPattern::Regex(regex) => regex.characters,
            PathPattern::Exact(_) | PathPattern::Prefix(_) | PathPattern::GrpcMethod(_) => 0,
        };
        (
            Reverse(pattern),
            self.matched.method.is_none(),
            Reverse(self.matched.headers.len()),
            Reverse(self.matched.query.len()),
            self.created_seconds,
            &*self.rule.route,
            self.rule.kind,
            self.rule.index,
            self.alternative,
            &*self.listener.key,
        )
    }

    pub fn rule(&self) -> &Arc<CompiledRule> {
        &self.rule
    }

    pub fn listener(&self) -> &Arc<CompiledListener> {
        &self.listener
    }

    pub fn matched(&self) -> &CompiledMatch {
        &self.matched
    }

    /// Place among the rule's matches.
    pub fn alternative(&self) -> usize {
        self.alternative
    }
}

impl HostTable {
    pub(crate) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.regex.is_empty() && self.prefix.is_empty() && self.methods.is_none()
    }

    pub(crate) fn add(&mut self, entry: Arc<MatchEntry>) {
        match &entry.matched.path {
            PathPattern::Regex(_) => self.regex.insert(entry),
            PathPattern::Exact(path) => {
                let path = path.clone();
                add_at(&mut self.exact, path, entry);
            }
            PathPattern::GrpcMethod(method) => {
                let method = method.clone();
                add_at(self.methods.get_or_insert_default(), method, entry);
            }
            PathPattern::Prefix(path) => {
                let path = path.clone();
                if add_at(&mut self.prefix, path.clone(), entry) {
                    self.count_depth(&path);
                }
            }
        }
    }

    pub(crate) fn remove(&mut self, entry: &Arc<MatchEntry>) {
        match &entry.matched.path {
            PathPattern::Regex(_) => self.regex.remove(entry),
            PathPattern::Exact(path) => {
                remove_at(&mut self.exact, path, entry);
            }
            PathPattern::GrpcMethod(method) => {
                let Some(methods) = &mut self.methods else { return };
                remove_at(methods, method, entry);
                if methods.is_empty() {
                    self.methods = None;
                }
            }
            PathPattern::Prefix(path) => {
                if remove_at(&mut self.prefix, path, entry) {
                    self.uncount_depth(path);
                }
            }
        }
    }

    fn count_depth(&mut self, path: &[u8]) {
        let segments = depth(path);
        match self.prefix_depths.binary_search_by(|depth| segments.cmp(&depth.segments)) {
            Ok(at) => self.prefix_depths[at].prefixes += 1,
            Err(at) => self.prefix_depths.insert(at, Depth { segments, prefixes: 1 }),
        }
    }

    fn uncount_depth(&mut self, path: &[u8]) {
        let segments = depth(path);
        if let Ok(at) = self.prefix_depths.binary_search_by(|depth| segments.cmp(&depth.segments)) {
            self.prefix_depths[at].prefixes -= 1;
            if self.prefix_depths[at].prefixes == 0 {
                self.prefix_depths.remove(at);
            }
        }
    }
}

fn depth(path: &[u8]) -> u32 {
    u32::try_from(segments(path)).unwrap_or(u32::MAX)
}

/// Whether the path is new.
fn add_at(paths: &mut ByteMap<Candidates>, path: Arc<[u8]>, entry: Arc<MatchEntry>) -> bool {
    match paths.get_mut(&path) {
        Some(candidates) => {
            candidates.insert(entry);
            false
        }
        None => {
            let mut candidates = Candidates::default();
            candidates.insert(entry);
            paths.insert(path, candidates);
            true
        }
    }
}

/// Whether the path is gone.
fn remove_at(paths: &mut ByteMap<Candidates>, path: &[u8], entry: &Arc<MatchEntry>) -> bool {
    let Some(candidates) = paths.get_mut(path) else { return false };
    candidates.remove(entry);
    let gone = candidates.is_empty();
    if gone {
        paths.remove(path);
    }
    gone
}

impl Default for Candidates {
    fn default() -> Self {
        Candidates::Few(SmallVec::new())
    }
}

impl Candidates {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Candidates::Few(list) => list.is_empty(),
            Candidates::Many(tree) => tree.is_empty(),
        }
    }

    /// The first entry, in order of precedence, for which `visit` answers.
    pub(crate) fn find<'a, R>(&'a self, mut visit: impl FnMut(&'a MatchEntry) -> Option<R>) -> Option<R> {
        match self {
            Candidates::Few(list) => list.iter().find_map(|entry| visit(entry)),
            Candidates::Many(tree) => tree.iter().find_map(|entry| visit(&entry.0)),
        }
    }

    pub(crate) fn insert(&mut self, entry: Arc<MatchEntry>) {
        match self {
            Candidates::Few(list) => {
                let at = list.partition_point(|other| other.precedence() < entry.precedence());
                match list.get_mut(at) {
                    Some(same) if same.precedence() == entry.precedence() => *same = entry,
                    _ => list.insert(at, entry),
                }
                if list.len() > FEW_CANDIDATES {
                    *self = Candidates::Many(std::mem::take(list).into_iter().map(ByPrecedence).collect());
                }
            }
            Candidates::Many(tree) => {
                tree.insert(ByPrecedence(entry));
            }
        }
    }

    pub(crate) fn remove(&mut self, entry: &Arc<MatchEntry>) {
        match self {
            Candidates::Few(list) => list.retain(|other| other.precedence() != entry.precedence()),
            Candidates::Many(tree) => {
                tree.remove(&ByPrecedence(entry.clone()));
                if tree.len() <= FEW_CANDIDATES / 2 {
                    *self = Candidates::Few(tree.iter().map(|entry| entry.0.clone()).collect());
                }
            }
        }
    }
}

impl PartialEq for ByPrecedence {
    fn eq(&self, other: &Self) -> bool {
        self.0.precedence() == other.0.precedence()
    }
}

impl Eq for ByPrecedence {}

impl PartialOrd for ByPrecedence {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByPrecedence {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.precedence().cmp(&other.0.precedence())
    }
}

//! Why a request goes where it goes: the very selection that requests take ([`crate::select::select`]), watched.
//!
//! Entries under other hostnames or paths are not told: the tables never lead to them. Told are the listener group, each entry that the
//! request's host and path led to and why it was passed over, and the one that was chosen.
//!
//! Deliberately absent: tickets. Explaining takes none; which backend comes next is nobody's to ask without taking it.

use std::fmt;

use crate::select::{PassedOver, Probe, RequestView, Selected, select};
use crate::table::{BindTable, ListenerGroup, MatchEntry};

/// Entries that are told; more are counted. Source: ours; nobody reads more.
pub const MAX_STEPS: usize = 256;

/// What selection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The hostname of the listener group that the request belongs to; `None` when no listener serves its host.
    pub hostname: Option<String>,
    /// Keys of the group's listeners.
    pub listeners: Vec<String>,
    /// Entries that were looked at and not taken, in the order in which they were.
    pub passed_over: Vec<Step>,
    /// Entries passed over beyond [`MAX_STEPS`].
    pub untold: usize,
    pub chosen: Option<Candidate>,
}

/// An entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// `<namespace>/<name>`
    pub route: String,
    /// The rule's name, or empty.
    pub rule: String,
    pub rule_index: usize,
    pub match_index: usize,
    /// Kind and pattern: `PathPrefix /foo`.
    pub path: String,
    /// Key.
    pub listener: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub candidate: Candidate,
    pub reason: String,
}

/// Selects and tells.
pub fn explain<'t>(bind: &'t BindTable, request: &RequestView<'_>) -> (Option<Selected<'t>>, Explanation) {
    let mut explanation = Explanation::default();
    let selected = select(bind, request, &mut explanation);
    (selected, explanation)
}

impl Probe for Explanation {
    fn group(&mut self, group: &ListenerGroup) {
        self.hostname = Some(group.hostname.to_string());
        self.listeners = group.listeners.keys().map(|key| key.to_string()).collect();
    }

    fn passed_over(&mut self, entry: &MatchEntry, reason: PassedOver<'_>) {
        if self.passed_over.len() >= MAX_STEPS {
            self.untold += 1;
            return;
        }
        self.passed_over.push(Step { candidate: Candidate::of(entry), reason: reason.to_string() });
    }

    fn chosen(&mut self, entry: &MatchEntry) {
        self.chosen = Some(Candidate::of(entry));
    }
}

impl Candidate {
    fn of(entry: &MatchEntry) -> Candidate {
        let rule = entry.rule();
        Candidate {
            route: rule.route.to_string(),
            rule: rule.name.to_string(),
            rule_index: rule.index,
            match_index: entry.alternative(),
            path: entry.matched().path.to_string(),
            listener: entry.listener().key.to_string(),
        }
    }
}

impl fmt::Display for PassedOver<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PassedOver::Path => f.write_str("the path does not match the expression"),
            PassedOver::Method => f.write_str("another method"),
            PassedOver::Header(name) => write!(f, "header `{name}` is missing or has another value"),
            PassedOver::Query(name) => write!(f, "query parameter `{name}` is missing or has another value"),
        }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {} rule {}", self.route, self.rule_index)?;
        if !self.rule.is_empty() {
            write!(f, " ({})", self.rule)?;
        }
        write!(f, " match {}: {}", self.match_index, self.path)
    }
}

/// One line a step.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hostname {
            None => return writeln!(f, "no listener serves this host"),
            Some(name) if name.is_empty() => {
                writeln!(f, "listeners for any host: {}", self.listeners.join(", "))?
            }
            Some(name) => writeln!(f, "listeners for `{name}`: {}", self.listeners.join(", "))?,
        }
        for step in &self.passed_over {
            writeln!(f, "passed over {}: {}", step.candidate, step.reason)?;
        }
        if self.untold > 0 {
            writeln!(f, "and {} more", self.untold)?;
        }
        match &self.chosen {
            Some(candidate) => writeln!(f, "chosen {candidate}, attached to {}", candidate.listener),
            None => writeln!(f, "no rule of these listeners takes it"),
        }
    }
}

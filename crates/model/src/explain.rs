//! Why a request or connection goes where it goes: the very selection that they take ([`crate::select`]), watched.
//!
//! Entries under other hostnames or paths are not told: the tables never lead to them. Told are the listener group, each entry that the
//! request's host and path led to and why it was passed over, and the one that was chosen.
//!
//! Deliberately absent: tickets. Explaining takes none; which backend comes next is nobody's to ask without taking it.

use std::fmt;

use crate::select::{
    PassedOver, Probe, RequestView, Selected, SelectedHttps, SelectedL4, l4_group, select, select_https,
    select_l4,
};
use crate::table::{BindTable, ListenerGroup, MatchEntry, RouteKind, TlsMode};

/// Entries that are told; more are counted. Source: ours; nobody reads more.
pub const MAX_STEPS: usize = 256;

/// What selection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The hostname of the listener group that the request belongs to; `None` when no listener serves its host.
    pub hostname: Option<String>,
    /// Keys of the group's listeners.
    pub listeners: Vec<String>,
    /// What these listeners do with TLS.
    pub tls: Option<TlsMode>,
    /// The host belongs to other listeners than the connection, which has to be made anew: 421.
    pub misdirected: bool,
    /// Entries that were looked at and not taken, in the order in which they were.
    pub passed_over: Vec<Step>,
    /// Entries passed over beyond [`MAX_STEPS`].
    pub untold: usize,
    pub chosen: Option<Candidate>,
}

/// An entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub kind: RouteKind,
    /// `<namespace>/<name>`
    pub route: String,
    /// The rule's name, or empty.
    pub rule: String,
    pub rule_index: usize,
    pub match_index: usize,
    /// Kind and pattern: `PathPrefix /foo`. Empty for a TLS, TCP or UDP route.
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

/// As [`explain`], for a request on a TLS connection that was made for `server_name`.
pub fn explain_https<'t>(
    bind: &'t BindTable,
    server_name: Option<&[u8]>,
    request: &RequestView<'_>,
) -> (SelectedHttps<'t>, Explanation) {
    let mut explanation = Explanation::default();
    let selected = select_https(bind, server_name, request, &mut explanation);
    (selected, explanation)
}

/// As [`explain`], for a connection or flow. Routes of the same hostname that get nothing are told as passed over.
pub fn explain_connection<'t>(
    bind: &'t BindTable,
    server_name: Option<&[u8]>,
) -> (Option<SelectedL4<'t>>, Explanation) {
    let mut explanation = Explanation::default();
    let selected = select_l4(bind, server_name, &mut explanation);
    if let (Some(chosen), Some((group, name))) = (selected, l4_group(bind, server_name)) {
        let _all: Option<()> = group.l4.most_specific_first(&name, |candidates| {
            candidates.find(|entry| {
                if !std::ptr::eq(entry.rule(), chosen.rule) {
                    explanation.passed_over(entry, PassedOver::Precedence);
                }
                None::<()>
            })
        });
    }
    (selected, explanation)
}

impl Probe for Explanation {
    fn misdirected(&mut self) {
        self.misdirected = true;
    }

    fn group(&mut self, group: &ListenerGroup) {
        self.hostname = Some(group.hostname.to_string());
        self.tls = group.tls_mode();
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
            kind: rule.kind,
            route: rule.route.to_string(),
            rule: rule.name.to_string(),
            rule_index: rule.index,
            match_index: entry.alternative(),
            path: if rule.kind.is_l4() { String::new() } else { entry.matched().path.to_string() },
            listener: entry.listener().key.to_string(),
        }
    }
}

impl fmt::Display for PassedOver<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PassedOver::Precedence => f.write_str("another route is older, first by name, or more specific"),
            PassedOver::Path => f.write_str("the path does not match the expression"),
            PassedOver::Method => f.write_str("another method"),
            PassedOver::Header(name) => write!(f, "header `{name}` is missing or has another value"),
            PassedOver::Query(name) => write!(f, "query parameter `{name}` is missing or has another value"),
        }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind.is_l4() {
            return write!(f, "{} {}", self.kind.api_name(), self.route);
        }
        write!(f, "{} {} rule {}", self.kind.api_name(), self.route, self.rule_index)?;
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
            None if self.misdirected => {
                return writeln!(f, "this host belongs to other listeners than the connection does (421)");
            }
            None => return writeln!(f, "no listener serves this host"),
            Some(name) if name.is_empty() => {
                writeln!(f, "listeners for any host: {}", self.listeners.join(", "))?
            }
            Some(name) => writeln!(f, "listeners for `{name}`: {}", self.listeners.join(", "))?,
        }
        match self.tls {
            Some(TlsMode::Http) => writeln!(f, "TLS ends here, with HTTP inside")?,
            Some(TlsMode::Bytes) => writeln!(f, "TLS ends here, the bytes inside are passed on")?,
            Some(TlsMode::Passthrough) => writeln!(f, "TLS is passed on as it is")?,
            None => {}
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

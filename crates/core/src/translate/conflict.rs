//! Listeners in each other's way, over a Gateway and its ListenerSets.
//!
//! Invariants: of listeners of one owner that a connection could not be told apart for, no one wins (the API forbids to
//! pick one); between owners the one that comes first wins (the Gateway, then its sets by age, then by name), and one
//! that lost to it is in nobody's way. The cost is that of the listeners, not of their pairs.

use std::collections::{BTreeMap, BTreeSet};

use weir_api::condition::reasons;
use weir_api::gateway_api::ProtocolType;

use super::finding::{Finding, list};
use super::listener::{Conflict, ListenerPlan};

/// Other listeners that a conflict's message names.
const RIVALS_MAX: usize = 4;

/// The listeners of a Gateway or of one of its sets.
pub(super) struct Owner<'a> {
    /// In a message of an owner that comes later; it says nothing that is not in everybody's sight.
    pub(super) name: String,
    pub(super) listeners: &'a mut [ListenerPlan],
    pub(super) findings: &'a mut Vec<Finding>,
}

/// What the wire needs to be told apart on one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    Plain,
    /// TLS, told apart by the server name.
    Tls,
    /// TLS that ends here with no HTTP inside, where such listeners do not share a port with the next.
    Terminated,
    /// TLS that is passed on.
    PassedOn,
    Raw,
}

impl Family {
    /// Whether listeners of the two cannot be on one port.
    fn excludes(self, other: Family) -> bool {
        let by_server_name = |family| matches!(family, Family::Tls | Family::Terminated | Family::PassedOn);
        self.differs_in_mode(other) || (self != other && !(by_server_name(self) && by_server_name(other)))
    }

    /// Whether one ends the TLS that the other passes on.
    fn differs_in_mode(self, other: Family) -> bool {
        matches!(
            (self, other),
            (Family::Terminated, Family::PassedOn) | (Family::PassedOn, Family::Terminated)
        )
    }

    /// Families whose hostnames must differ have one.
    fn hosts(self) -> Family {
        match self {
            Family::Terminated | Family::PassedOn => Family::Tls,
            other => other,
        }
    }
}

/// What shares port numbers: TCP, UDP, or a protocol that nobody knows.
type Transport = String;

/// `mixed`: TLS that ends here and TLS that is passed on may share a port (feature `TLSRouteModeMixed`).
fn family(plan: &ListenerPlan, mixed: bool) -> (Transport, Family) {
    match &plan.protocol {
        ProtocolType::Http => ("tcp".to_owned(), Family::Plain),
        ProtocolType::Tls if !mixed => {
            let passed_on = plan.tls.as_ref().is_some_and(|tls| tls.passthrough);
            ("tcp".to_owned(), if passed_on { Family::PassedOn } else { Family::Terminated })
        }
        ProtocolType::Https | ProtocolType::Tls => ("tcp".to_owned(), Family::Tls),
        ProtocolType::Tcp => ("tcp".to_owned(), Family::Raw),
        ProtocolType::Udp => ("udp".to_owned(), Family::Raw),
        ProtocolType::Unknown(other) => (other.clone(), Family::Raw),
    }
}

/// Who wants a port, and what of it.
#[derive(Default)]
struct Claims {
    families: BTreeMap<Family, Vec<String>>,
    hosts: BTreeMap<(Family, String), Vec<String>>,
    listeners: BTreeSet<(Family, String)>,
}

type Ports = BTreeMap<(i32, Transport), Claims>;

impl Claims {
    fn add(&mut self, family: Family, hostname: &str, who: &str) {
        self.listeners.insert((family, hostname.to_owned()));
        for names in [
            self.families.entry(family).or_default(),
            self.hosts.entry((family.hosts(), hostname.to_owned())).or_default(),
        ] {
            if names.iter().all(|name| name != who) {
                names.push(who.to_owned());
            }
        }
    }

    fn have_other_mode(&self, family: Family) -> bool {
        self.families.keys().any(|other| family.differs_in_mode(*other))
    }

    /// What is in the way of a listener that is itself called `who` here.
    fn rivals(&self, plan: &ListenerPlan, family: Family, who: &str) -> Option<Conflict> {
        let others = |names: &Vec<String>| -> Vec<String> {
            names.iter().filter(|name| *name != who).cloned().collect()
        };
        let port = plan.port;
        let other_families: Vec<String> = self
            .families
            .iter()
            .filter(|(other, _)| family.excludes(**other))
            .flat_map(|(_, n)| others(n))
            .collect();
        if !other_families.is_empty() {
            let named = list(&other_families, RIVALS_MAX);
            let message = format!("port {port} is also wanted with another protocol by {named}");
            return Some(Conflict { reason: reasons::PROTOCOL_CONFLICT, message });
        }
        let same = match family {
            Family::Raw => self.families.get(&family),
            _ => self.hosts.get(&(family.hosts(), plan.hostname.clone())),
        };
        let same = same.map(others).filter(|names| !names.is_empty())?;
        let named = list(&same, RIVALS_MAX);
        if family == Family::Raw {
            let message = format!("port {port} is also wanted by {named}");
            return Some(Conflict { reason: reasons::PROTOCOL_CONFLICT, message });
        }
        let host = if plan.hostname.is_empty() { "any hostname" } else { &plan.hostname };
        let message = format!("port {port} with {host} is also wanted by {named}");
        Some(Conflict { reason: reasons::HOSTNAME_CONFLICT, message })
    }
}

/// Judges the listeners of all owners, which come in the order of their precedence.
/// `mixed` as for [`family`].
pub(super) fn settle(owners: &mut [Owner<'_>], mixed: bool) {
    let mut taken = Ports::new();
    for owner in owners.iter_mut() {
        let mut own = Ports::new();
        for plan in owner.listeners.iter_mut().filter(|plan| takes_part(plan)) {
            let (transport, family) = family(plan, mixed);
            let place = (plan.port, transport);
            plan.conflict = taken.get(&place).and_then(|claims| claims.rivals(plan, family, ""));
            if plan.conflict.is_none() {
                own.entry(place).or_default().add(family, &plan.hostname, &called(plan));
            }
        }
        for plan in owner.listeners.iter_mut().filter(|plan| takes_part(plan) && plan.conflict.is_none()) {
            let (transport, family) = family(plan, mixed);
            let claims = own.get(&(plan.port, transport));
            plan.conflict = claims.and_then(|claims| claims.rivals(plan, family, &called(plan)));
        }
        // To end TLS and to pass it on at once is what this API does not have: such a listener supports nothing.
        let excluded = |plan: &&mut ListenerPlan| {
            let (transport, family) = family(plan, mixed);
            let place = (plan.port, transport);
            let mut there = [&taken, &own].into_iter().filter_map(|ports| ports.get(&place));
            plan.conflict.is_some() && there.any(|claims| claims.have_other_mode(family))
        };
        for plan in owner.listeners.iter_mut().filter(excluded) {
            plan.kinds.clear();
        }
        for (place, claims) in own {
            let into = taken.entry(place).or_default();
            for (family, hostname) in claims.listeners {
                into.add(family, &hostname, &owner.name);
            }
        }
        for plan in owner.listeners.iter() {
            if let Some(conflict) = &plan.conflict {
                let field = format!("spec.listeners[{}]", plan.index);
                owner.findings.push(Finding::error(field, conflict.reason, conflict.message.clone()));
            }
        }
    }
    overlaps(owners);
}

/// A listener whose own values cannot be used is in nobody's way.
fn takes_part(plan: &ListenerPlan) -> bool {
    plan.refused.as_ref().is_none_or(|(reason, _)| {
        matches!(*reason, reasons::UNSUPPORTED_PROTOCOL | reasons::NO_VALID_CA_CERTIFICATE)
    })
}

fn called(plan: &ListenerPlan) -> String {
    format!("listener {} ({})", plan.name, plan.protocol)
}

/// Tells the listeners of one port whose hostnames or certificates overlap: a client may come to one on a connection
/// that it opened for the other.
fn overlaps(owners: &mut [Owner<'_>]) {
    let mut plans: Vec<&mut ListenerPlan> = owners
        .iter_mut()
        .flat_map(|owner| owner.listeners.iter_mut())
        .filter(|plan| ends_tls(plan))
        .collect();
    let hosts: Vec<(i32, Vec<String>)> =
        plans.iter().map(|plan| (plan.port, vec![plan.hostname.clone()])).collect();
    let names: Vec<(i32, Vec<String>)> = plans
        .iter()
        .map(|plan| (plan.port, plan.tls.as_ref().map(|tls| tls.names.clone()).unwrap_or_default()))
        .collect();
    let by_host = overlapping(&hosts, wider_hosts);
    let by_name = overlapping(&names, wider_names);
    for (plan, (by_host, by_name)) in plans.iter_mut().zip(by_host.into_iter().zip(by_name)) {
        let port = plan.port;
        if by_host {
            let message = format!("another listener of port {port} is for some of the same hostnames");
            plan.overlap = Some(Conflict { reason: reasons::OVERLAPPING_HOSTNAMES, message });
        } else if by_name {
            let message =
                format!("a certificate of another listener of port {port} is for some of the same names");
            plan.overlap = Some(Conflict { reason: reasons::OVERLAPPING_CERTIFICATES, message });
        }
    }
}

fn ends_tls(plan: &ListenerPlan) -> bool {
    plan.rejection().is_none() && plan.tls.as_ref().is_some_and(|tls| !tls.passthrough)
}

/// Which of the entries have a name that another one of the same port has, or covers, or is covered by.
fn overlapping(entries: &[(i32, Vec<String>)], wider: fn(&str) -> Vec<String>) -> Vec<bool> {
    let mut having: BTreeMap<(i32, String), Vec<usize>> = BTreeMap::new();
    for (index, (port, names)) in entries.iter().enumerate() {
        for name in names {
            having.entry((*port, name.clone())).or_default().push(index);
        }
    }
    let mut marked = vec![false; entries.len()];
    let mut told: BTreeSet<(i32, String)> = BTreeSet::new();
    for (index, (port, names)) in entries.iter().enumerate() {
        let mut candidates: Vec<String> = names.clone();
        candidates.extend(names.iter().flat_map(|name| wider(name)));
        for candidate in &candidates {
            let Some(others) = having.get(&(*port, candidate.clone())) else {
                continue;
            };
            if others.iter().all(|other| *other == index) {
                continue;
            }
            marked[index] = true;
            if told.insert((*port, candidate.clone())) {
                others.iter().for_each(|other| marked[*other] = true);
            }
        }
    }
    marked
}

/// Hostnames of listeners that cover this one: a wildcard stands for any number of labels, the empty one for all.
fn wider_hosts(name: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut rest = name.strip_prefix("*.").unwrap_or(name);
    while let Some((_, parent)) = rest.split_once('.') {
        all.push(format!("*.{parent}"));
        rest = parent;
    }
    if !name.is_empty() {
        all.push(String::new());
    }
    all
}

/// Names of certificates that cover this one: a wildcard stands for one label.
fn wider_names(name: &str) -> Vec<String> {
    let plain = !name.starts_with("*.");
    name.split_once('.').filter(|_| plain).map(|(_, parent)| format!("*.{parent}")).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_overlap_that_one_client_could_mean_both_of() {
        let entries = |names: &[&[&str]]| -> Vec<(i32, Vec<String>)> {
            names.iter().map(|n| (443, n.iter().map(|n| (*n).to_owned()).collect())).collect()
        };
        let hosts = entries(&[&["*.a.com"], &["x.y.a.com"], &["b.com"], &["*.c.com"]]);
        assert_eq!(overlapping(&hosts, wider_hosts), [true, true, false, false]);
        let with_any = entries(&[&[""], &["b.com"], &["*.c.com"]]);
        assert_eq!(overlapping(&with_any, wider_hosts), [true, true, true]);
        let names = entries(&[&["*.a.com", "x.a.com"], &["x.y.a.com"], &["b.com"], &["b.com", "c.com"]]);
        assert_eq!(overlapping(&names, wider_names), [false, false, true, true]);
        let apart = vec![(443, vec!["b.com".to_owned()]), (444, vec!["b.com".to_owned()])];
        assert_eq!(overlapping(&apart, wider_hosts), [false, false]);
    }
}

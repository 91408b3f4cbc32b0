//! Rights that the API refused: which verb on which resource, and where.
//!
//! Invariants: a right is named as a rule of a Role names it; it is forgotten when the same call is let through, or the API says
//! that it is granted; the table is bounded. Deliberately absent: which rights there should be ([`review`]).

pub(crate) mod review;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Refused rights that are remembered.
const MAX_DENIED: usize = 1_024;

/// A verb on a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    pub verb: String,
    /// Plural, then the group where there is one, then the subresource: `gateways.gateway.networking.k8s.io/status`.
    pub resource: String,
    /// Empty: in all of them, or the resource has none.
    pub namespace: String,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if self.namespace.is_empty() { Ok(()) } else { write!(f, " in namespace {}", self.namespace) }
    }
}

impl Right {
    /// `resource` is the plural, with a subresource behind a slash.
    fn named(verb: &str, group: &str, resource: &str, namespace: &str) -> Right {
        let (plural, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let mut named = plural.to_owned();
        for (mark, part) in [('.', group), ('/', subresource)] {
            if !part.is_empty() {
                named.push(mark);
                named.push_str(part);
            }
        }
        Right { verb: verb.to_owned(), resource: named, namespace: namespace.to_owned() }
    }

    /// What a call needs.
    pub(crate) fn of(method: &http::Method, uri: &http::Uri) -> Right {
        let mut segments = uri.path().split('/').filter(|segment| !segment.is_empty());
        let group = match segments.next() {
            Some("apis") => segments.next().unwrap_or_default(),
            _ => "",
        };
        let rest: Vec<&str> = segments.skip(1).collect();
        let (namespace, rest) = match rest.as_slice() {
            ["namespaces", namespace, plural, rest @ ..] if !matches!(*plural, "status" | "finalize") => {
                (*namespace, [&[*plural], rest].concat())
            }
            rest => ("", rest.to_vec()),
        };
        let query = uri.query().unwrap_or_default();
        let verb = match (method.as_str(), rest.len()) {
            ("GET", 0 | 1) if query.contains("watch=true") => "watch",
            ("GET", 0 | 1) => "list",
            ("GET", _) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", 0 | 1) => "deletecollection",
            _ => "delete",
        };
        let plural = rest.first().copied().unwrap_or_default();
        let resource = rest.get(2).map_or_else(|| plural.to_owned(), |part| format!("{plural}/{part}"));
        Right::named(verb, group, &resource, namespace)
    }

    /// Whether whoever has this has the other too.
    fn is_more_than(&self, other: &Right) -> bool {
        let is_there = self.namespace.is_empty() || self.namespace == other.namespace;
        is_there && self.verb == other.verb && self.resource == other.resource
    }

    fn tell_refused(&self) {
        let Right { verb, resource, namespace } = self;
        tracing::error!(verb, resource, namespace, "the API refuses a right that is needed");
    }

    fn tell_granted(&self) {
        let Right { verb, resource, namespace } = self;
        tracing::info!(verb, resource, namespace, "a right that was refused is granted now");
    }

    /// What the API says is missing: applying an object that is not there, for one, needs more than a call shows. The
    /// words have been the same since RBAC came: `… cannot VERB resource "PLURAL" in API group "GROUP" …`.
    fn of_refusal(message: &str) -> Option<(&str, String)> {
        let (_, rest) = message.split_once(" cannot ")?;
        let (verb, rest) = rest.split_once(" resource \"")?;
        let (resource, rest) = rest.split_once('"')?;
        let group = rest.split_once(" in API group \"").and_then(|(_, rest)| rest.split_once('"'))?.0;
        let named = Right::named(verb, group, resource, "").resource;
        verb.bytes().all(|c| c.is_ascii_lowercase()).then_some((verb, named))
    }
}

/// The rights that are refused now.
#[derive(Debug, Default)]
pub(crate) struct Rights {
    /// By what the call shows, what the API said.
    denied: Mutex<BTreeMap<Right, Right>>,
    /// Those that the API says are not there, whether there was a call or not.
    missing: Mutex<BTreeSet<Right>>,
    /// Spares the lock while nothing is refused.
    any: AtomicBool,
    /// Rights that were refused and are granted now, so far.
    granted: watch::Sender<u64>,
}

impl Rights {
    /// A call that shows `right` was refused with this message.
    pub(crate) fn deny(&self, right: Right, message: &str) {
        let mut denied = self.denied.lock();
        let mut missing = right.clone();
        if let Some((verb, resource)) = Right::of_refusal(message) {
            (missing.verb, missing.resource) = (verb.to_owned(), resource);
        }
        if denied.len() < MAX_DENIED && denied.get(&right) != Some(&missing) {
            if !self.missing.lock().iter().any(|known| known.is_more_than(&missing)) {
                missing.tell_refused();
            }
            denied.insert(right, missing);
            self.any.store(true, Ordering::Release);
        }
    }

    pub(crate) fn grant(&self, right: &Right) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut denied = self.denied.lock();
        if let Some(right) = denied.remove(right)
            && !self.missing.lock().iter().any(|known| known.is_more_than(&right))
        {
            right.tell_granted();
            self.granted.send_modify(|count| *count += 1);
        }
        self.any.store(!denied.is_empty(), Ordering::Release);
    }

    /// Changes whenever a right is granted that was refused: what failed for want of it can be tried again.
    pub(crate) fn granted(&self) -> watch::Receiver<u64> {
        self.granted.subscribe()
    }

    /// The API was asked: these are missing, and those are there.
    pub(crate) fn reviewed(&self, missing: &BTreeSet<Right>, granted: &BTreeSet<Right>) {
        let mut denied = self.denied.lock();
        let mut before = self.missing.lock();
        for right in missing.difference(&before) {
            // A call may have been refused already.
            if !denied.values().any(|known| right.is_more_than(known)) {
                right.tell_refused();
            }
        }
        let mut count = 0;
        for right in before.difference(missing) {
            right.tell_granted();
            count += 1;
        }
        denied.retain(|_, refused| {
            let is_granted = granted.iter().any(|right| right.is_more_than(refused));
            if is_granted && !before.iter().any(|right| right.is_more_than(refused)) {
                refused.tell_granted();
                count += 1;
            }
            !is_granted
        });
        if count > 0 {
            self.granted.send_modify(|granted| *granted += count);
        }
        before.clone_from(missing);
        self.any.store(!denied.is_empty(), Ordering::Release);
    }

    pub(crate) fn denied(&self) -> Vec<Right> {
        let denied = self.denied.lock();
        let missing = self.missing.lock();
        let by_call = denied.values().filter(|right| !missing.iter().any(|more| more.is_more_than(right)));
        let all: BTreeSet<Right> = missing.iter().chain(by_call).cloned().collect();
        all.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Right, Rights};

    fn right(method: &str, uri: &str) -> String {
        Right::of(&method.parse().unwrap(), &uri.parse().unwrap()).to_string()
    }

    #[test]
    fn a_right_is_named_as_a_role_names_it() {
        for (method, uri, named) in [
            ("GET", "/api/v1/services?limit=500", "list services"),
            ("GET", "/api/v1/namespaces?watch=true&limit=1", "watch namespaces"),
            ("GET", "/api/v1/namespaces/kong", "get namespaces"),
            (
                "PATCH",
                "/api/v1/namespaces/kong/services/proxy/status",
                "patch services/status in namespace kong",
            ),
            (
                "POST",
                "/apis/apps/v1/namespaces/a/deployments?fieldManager=weir",
                "create deployments.apps in namespace a",
            ),
            (
                "DELETE",
                "/apis/policy/v1/namespaces/a/poddisruptionbudgets/x",
                "delete poddisruptionbudgets.policy in namespace a",
            ),
            (
                "PATCH",
                "/apis/gateway.networking.k8s.io/v1/gatewayclasses/kong/status",
                "patch gatewayclasses.gateway.networking.k8s.io/status",
            ),
        ] {
            assert_eq!(right(method, uri), named);
        }
    }

    #[test]
    fn a_refusal_is_forgotten_when_the_call_is_let_through() {
        let rights = Rights::default();
        let list = Right::of(&http::Method::GET, &"/api/v1/secrets".parse().unwrap());
        let watch = Right::of(&http::Method::GET, &"/api/v1/secrets?watch=true".parse().unwrap());
        rights.deny(list.clone(), "");
        rights.deny(list.clone(), "");
        rights.grant(&watch);
        assert_eq!(rights.denied(), std::slice::from_ref(&list));
        rights.grant(&list);
        assert_eq!(rights.denied(), []);
    }

    #[test]
    fn a_review_says_what_is_missing_and_what_was_refused_before_it_was_granted() {
        let of = |verb: &str, namespace: &str| Right::named(verb, "", "secrets", namespace);
        let all = |rights: &[Right]| rights.iter().cloned().collect::<std::collections::BTreeSet<_>>();
        let rights = Rights::default();
        let granted = rights.granted();
        // A call for one namespace, and the right for all of them, are told once.
        rights.deny(of("get", "kong"), "");
        rights.reviewed(&all(&[of("get", "")]), &all(&[of("list", "")]));
        assert_eq!(rights.denied(), [of("get", "")]);
        rights.reviewed(&all(&[]), &all(&[of("get", ""), of("list", "")]));
        assert_eq!(rights.denied(), [], "nobody calls again, and it is granted all the same");
        assert!(granted.has_changed().unwrap(), "whoever failed is told");
        rights.deny(of("patch", "kong"), "");
        rights.reviewed(&all(&[]), &all(&[of("get", "")]));
        assert_eq!(rights.denied(), [of("patch", "kong")], "nothing was asked about this one");
    }

    #[test]
    fn what_is_missing_is_what_the_api_says() {
        let rights = Rights::default();
        let apply =
            Right::of(&http::Method::PATCH, &"/apis/apps/v1/namespaces/a/deployments/x".parse().unwrap());
        let said = |verb: &str| {
            format!(
                "deployments.apps \"x\" is forbidden: User \"u\" cannot {verb} resource \"deployments\" in API group \"apps\" \
                 in the namespace \"a\""
            )
        };
        rights.deny(apply.clone(), &said("create"));
        assert_eq!(rights.denied()[0].to_string(), "create deployments.apps in namespace a");
        rights.deny(apply.clone(), &said("patch"));
        assert_eq!(rights.denied()[0].to_string(), "patch deployments.apps in namespace a");
        rights.grant(&apply);
        let status = "gateways.g \"x\" is forbidden: User \"u\" cannot patch resource \"gateways/status\" in API group \"g\" at";
        rights.deny(apply, status);
        assert_eq!(rights.denied()[0].resource, "gateways.g/status");
    }
}

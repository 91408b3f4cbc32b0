//! HTTPRoutes and GRPCRoutes that want the same hostnames on one listener.
//!
//! The API: where hostnames of routes of both kinds overlap on a listener, the older route is accepted and the other is
//! not, then the first by name. A route that lost there stands in nobody's way. Owns who wants what on which listener.
//! Invariant: what a change costs is the routes of the other kind that overlap with it, and theirs in turn; on a
//! listener with routes of one kind it is nothing.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use super::route::ListenerId;
use crate::objects::{Kind, ObjectKey};

/// What a route wants of one listener.
#[derive(Clone, Debug, PartialEq)]
struct Claim {
    /// Older ones come first, then by namespace and name.
    created_seconds: i64,
    hostnames: Vec<String>,
}

#[derive(Debug, Default)]
struct Side {
    claims: BTreeMap<ObjectKey, Claim>,
    /// Hostnames with their labels turned round, so that those under a name are neighbours.
    names: BTreeSet<(String, ObjectKey)>,
}

/// The routes of both kinds on one listener.
#[derive(Debug, Default)]
struct Arena {
    http: Side,
    grpc: Side,
}

#[derive(Debug, Default)]
pub(super) struct Contests {
    arenas: FxHashMap<ListenerId, Arena>,
    /// Who has precedence over a route, by listener.
    lost: FxHashMap<ObjectKey, BTreeMap<ListenerId, ObjectKey>>,
    /// Routes whose verdict may differ now.
    stirred: BTreeSet<(ListenerId, ObjectKey)>,
}

impl Contests {
    /// The route that is before this one on a listener.
    pub(super) fn rival(&self, route: &ObjectKey, listener: &ListenerId) -> Option<&ObjectKey> {
        self.lost.get(route)?.get(listener)
    }

    /// Replaces what a route wants of a listener; `None`: nothing any more.
    pub(super) fn claim(
        &mut self,
        route: &ObjectKey,
        listener: &ListenerId,
        wanted: Option<(i64, &[String])>,
    ) {
        let claim = wanted
            .map(|(created_seconds, hostnames)| Claim { created_seconds, hostnames: hostnames.to_vec() });
        let arena = self.arenas.entry(listener.clone()).or_default();
        let before = arena.side(route.kind).claims.get(route).cloned();
        if before == claim {
            return;
        }
        if let Some(before) = &before {
            let touched = arena.rivals(route.kind, &before.hostnames);
            self.stirred.extend(touched.into_iter().map(|rival| (listener.clone(), rival)));
            arena.side_mut(route.kind).remove(route, before);
        }
        match claim {
            Some(claim) => {
                arena.side_mut(route.kind).insert(route, claim);
                self.stirred.insert((listener.clone(), route.clone()));
            }
            None => {
                if let Some(lost) = self.lost.get_mut(route) {
                    lost.remove(listener);
                    if lost.is_empty() {
                        self.lost.remove(route);
                    }
                }
            }
        }
        if arena.http.claims.is_empty() && arena.grpc.claims.is_empty() {
            self.arenas.remove(listener);
        }
    }

    /// Judges what was stirred; the routes whose verdict is another one now.
    pub(super) fn settle(&mut self) -> BTreeSet<ObjectKey> {
        let mut changed = BTreeSet::new();
        let mut judged: BTreeSet<(ListenerId, ObjectKey)> = BTreeSet::new();
        for (listener, seed) in std::mem::take(&mut self.stirred) {
            let Some(arena) = self.arenas.get(&listener) else {
                continue;
            };
            if judged.contains(&(listener.clone(), seed.clone())) {
                continue;
            }
            for (route, rival) in arena.verdicts(seed) {
                let lost = self.lost.entry(route.clone()).or_default();
                let before = lost.get(&listener);
                if before != rival.as_ref() {
                    changed.insert(route.clone());
                    match rival {
                        Some(rival) => lost.insert(listener.clone(), rival),
                        None => lost.remove(&listener),
                    };
                }
                if self.lost.get(&route).is_some_and(BTreeMap::is_empty) {
                    self.lost.remove(&route);
                }
                judged.insert((listener.clone(), route));
            }
        }
        changed
    }
}

impl Arena {
    fn side(&self, kind: Kind) -> &Side {
        if kind == Kind::GrpcRoute { &self.grpc } else { &self.http }
    }

    fn side_mut(&mut self, kind: Kind) -> &mut Side {
        if kind == Kind::GrpcRoute { &mut self.grpc } else { &mut self.http }
    }

    /// Routes of the other kind than `kind` that want a host which one of the names stands for.
    fn rivals(&self, kind: Kind, hostnames: &[String]) -> BTreeSet<ObjectKey> {
        let other = if kind == Kind::GrpcRoute { &self.http } else { &self.grpc };
        let mut rivals = BTreeSet::new();
        if !other.claims.is_empty() {
            hostnames.iter().for_each(|hostname| other.overlapping(hostname, &mut rivals));
        }
        rivals
    }

    /// Everybody whom `seed`'s verdict depends on, or who depends on it, each with who is before it.
    fn verdicts(&self, seed: ObjectKey) -> Vec<(ObjectKey, Option<ObjectKey>)> {
        let mut rivals_of: BTreeMap<ObjectKey, BTreeSet<ObjectKey>> = BTreeMap::new();
        let mut waiting = vec![seed];
        while let Some(route) = waiting.pop() {
            let Some(claim) = self.side(route.kind).claims.get(&route) else {
                continue;
            };
            if rivals_of.contains_key(&route) {
                continue;
            }
            let rivals = self.rivals(route.kind, &claim.hostnames);
            waiting.extend(rivals.iter().filter(|rival| !rivals_of.contains_key(*rival)).cloned());
            rivals_of.insert(route, rivals);
        }
        let mut in_order: Vec<&ObjectKey> = rivals_of.keys().collect();
        in_order.sort_by_cached_key(|route| self.precedence(route));
        let mut accepted: BTreeSet<&ObjectKey> = BTreeSet::new();
        let mut verdicts = Vec::with_capacity(in_order.len());
        for route in in_order {
            let before = rivals_of
                .get(route)
                .into_iter()
                .flatten()
                .filter(|rival| accepted.contains(rival))
                .min_by_key(|rival| self.precedence(rival));
            if before.is_none() {
                accepted.insert(route);
            }
            verdicts.push((route.clone(), before.cloned()));
        }
        verdicts
    }

    /// Age, then `{namespace}/{name}` as one text, as the API says.
    fn precedence(&self, route: &ObjectKey) -> (i64, String, Kind) {
        let created = self.side(route.kind).claims.get(route).map_or(0, |claim| claim.created_seconds);
        (created, format!("{}/{}", route.namespace, route.name), route.kind)
    }
}

impl Side {
    fn insert(&mut self, route: &ObjectKey, claim: Claim) {
        self.names.extend(claim.hostnames.iter().map(|name| (turned(name), route.clone())));
        self.claims.insert(route.clone(), claim);
    }

    fn remove(&mut self, route: &ObjectKey, claim: &Claim) {
        for name in &claim.hostnames {
            self.names.remove(&(turned(name), route.clone()));
        }
        self.claims.remove(route);
    }

    /// Routes with a hostname that stands for a host which `hostname` stands for too.
    fn overlapping(&self, hostname: &str, out: &mut BTreeSet<ObjectKey>) {
        if hostname.is_empty() {
            out.extend(self.claims.keys().cloned());
            return;
        }
        out.extend(self.exactly(String::new()).cloned());
        let whole = turned(hostname);
        if let Some(under) = whole.strip_suffix('*') {
            let covered = self.from(under).take_while(|(name, _)| name.starts_with(under));
            out.extend(covered.map(|(_, route)| route.clone()));
        } else {
            out.extend(self.exactly(whole).cloned());
        }
        let mut rest = hostname.strip_prefix("*.").unwrap_or(hostname);
        while let Some((_, parent)) = rest.split_once('.') {
            out.extend(self.exactly(turned(&format!("*.{parent}"))).cloned());
            rest = parent;
        }
    }

    fn from(&self, name: &str) -> impl Iterator<Item = &(String, ObjectKey)> + use<'_> {
        let first = ObjectKey { kind: Kind::GatewayClass, namespace: String::new(), name: String::new() };
        self.names.range((name.to_owned(), first)..)
    }

    fn exactly(&self, name: String) -> impl Iterator<Item = &ObjectKey> {
        let first = self.from(&name);
        first.take_while(move |(other, _)| *other == name).map(|(_, route)| route)
    }
}

/// The labels in the other order: `a.example.com` is `com.example.a`.
fn turned(hostname: &str) -> String {
    hostname.rsplit('.').collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::hostname::intersection;

    fn route(kind: Kind, name: &str) -> ObjectKey {
        ObjectKey::new(kind, "a", name)
    }

    fn listener() -> ListenerId {
        (ObjectKey::new(Kind::Gateway, "a", "g"), "l".to_owned())
    }

    fn claim(contests: &mut Contests, route: &ObjectKey, created: i64, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        contests.claim(route, &listener(), Some((created, &names)));
    }

    #[test]
    fn the_older_route_wins_and_a_loser_stands_in_nobodys_way() {
        let (first, second) = (route(Kind::HttpRoute, "first"), route(Kind::GrpcRoute, "second"));
        let third = route(Kind::HttpRoute, "third");
        let mut contests = Contests::default();
        claim(&mut contests, &third, 3, &["b.example.com"]);
        claim(&mut contests, &second, 2, &["*.example.com"]);
        assert_eq!(contests.settle(), BTreeSet::from([third.clone()]));
        assert_eq!(contests.rival(&third, &listener()), Some(&second));
        claim(&mut contests, &first, 1, &["a.example.com"]);
        assert_eq!(contests.settle(), BTreeSet::from([second.clone(), third.clone()]));
        assert_eq!(contests.rival(&second, &listener()), Some(&first));
        assert_eq!(contests.rival(&third, &listener()), None);
        contests.claim(&first, &listener(), None);
        assert_eq!(contests.settle(), BTreeSet::from([second.clone(), third.clone()]));
        assert_eq!(contests.rival(&third, &listener()), Some(&second));
    }

    #[test]
    fn overlap_is_that_of_hostnames() {
        let names =
            ["", "a.com", "b.a.com", "c.b.a.com", "*.a.com", "*.b.a.com", "*.com", "xa.com", "*.xa.com"];
        for one in names {
            for other in names {
                let mut side = Side::default();
                let key = route(Kind::HttpRoute, "r");
                side.insert(&key, Claim { created_seconds: 0, hostnames: vec![other.to_owned()] });
                let mut found = BTreeSet::new();
                side.overlapping(one, &mut found);
                assert_eq!(!found.is_empty(), intersection(one, other).is_some(), "{one:?} and {other:?}");
            }
        }
    }
}

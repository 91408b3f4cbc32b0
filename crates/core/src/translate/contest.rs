//! HTTPRoutes and GRPCRoutes that want the same hostnames on one listener.
//!
//! The API: where hostnames of routes of both kinds overlap on a listener, the older route is accepted and the other is
//! not, then the first by name. A route that lost there stands in nobody's way. Owns who wants what on which listener.
//! Invariants: routes are judged in the order of their precedence, so each once for a change; whoever is not touched by the
//! change of a verdict is not judged again, however many there are; on a listener with routes of one kind nobody is.

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
    lost: Lost,
    /// Routes whose verdict may differ now.
    stirred: BTreeMap<ListenerId, BTreeSet<ObjectKey>>,
    /// Rivals that were looked at since the last [`Contests::settle`].
    looked_at: usize,
}

type Lost = FxHashMap<ObjectKey, BTreeMap<ListenerId, ObjectKey>>;

/// Before whom a route comes: age, then `{namespace}/{name}` as one text, as the API says.
type Precedence = (i64, String, Kind);

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
        let known = self.arenas.get(listener).and_then(|arena| arena.side(route.kind).claims.get(route));
        let before = known.cloned();
        if before == claim {
            return;
        }
        let arena = self.arenas.entry(listener.clone()).or_default();
        if let Some(before) = &before {
            // A route that nobody lost to is in nobody's way.
            let rivals = arena.rivals(route.kind, &before.hostnames);
            self.looked_at += rivals.len();
            let lost = &self.lost;
            let freed = rivals.into_iter().filter(|rival| loser_to(lost, rival, listener) == Some(route));
            self.stirred.entry(listener.clone()).or_default().extend(freed);
            arena.side_mut(route.kind).remove(route, before);
        }
        match claim {
            Some(claim) => {
                arena.side_mut(route.kind).insert(route, claim);
                self.stirred.entry(listener.clone()).or_default().insert(route.clone());
            }
            None => forget(&mut self.lost, route, listener),
        }
        if arena.http.claims.is_empty() && arena.grpc.claims.is_empty() {
            self.arenas.remove(listener);
        }
    }

    /// Judges what was stirred; the routes whose verdict is another one now, and how many rivals were looked at for it.
    pub(super) fn settle(&mut self) -> (BTreeSet<ObjectKey>, usize) {
        let mut changed = BTreeSet::new();
        for (listener, seeds) in std::mem::take(&mut self.stirred) {
            let Some(arena) = self.arenas.get(&listener) else {
                continue;
            };
            let place = |route: ObjectKey| Some((arena.precedence(&route)?, route));
            let mut waiting: BTreeMap<Precedence, ObjectKey> =
                seeds.iter().cloned().filter_map(place).collect();
            while let Some((own, route)) = waiting.pop_first() {
                let Some(claim) = arena.side(route.kind).claims.get(&route) else {
                    continue;
                };
                let rivals = arena.rivals(route.kind, &claim.hostnames);
                self.looked_at += rivals.len();
                let rivals: BTreeMap<Precedence, ObjectKey> = rivals.into_iter().filter_map(place).collect();
                let stands = |rival: &ObjectKey| loser_to(&self.lost, rival, &listener).is_none();
                let now = rivals.range(..&own).map(|(_, rival)| rival).find(|rival| stands(rival)).cloned();
                let before = loser_to(&self.lost, &route, &listener).cloned();
                if before != now {
                    changed.insert(route.clone());
                    match &now {
                        Some(rival) => {
                            self.lost
                                .entry(route.clone())
                                .or_default()
                                .insert(listener.clone(), rival.clone());
                        }
                        None => forget(&mut self.lost, &route, &listener),
                    }
                }
                if !seeds.contains(&route) && before.is_some() == now.is_some() {
                    continue;
                }
                // Those behind it: who lost to it, if it lost; who did not lose to an earlier one, if it stands.
                for (later, rival) in rivals.range(&own..) {
                    let to = loser_to(&self.lost, rival, &listener);
                    let cares = match &now {
                        Some(_) => to == Some(&route),
                        None => to.and_then(|to| arena.precedence(to)).is_none_or(|to| to > own),
                    };
                    if cares {
                        waiting.insert(later.clone(), rival.clone());
                    }
                }
            }
        }
        (changed, std::mem::take(&mut self.looked_at))
    }
}

/// The route to which another lost on a listener.
fn loser_to<'a>(lost: &'a Lost, route: &ObjectKey, listener: &ListenerId) -> Option<&'a ObjectKey> {
    lost.get(route)?.get(listener)
}

fn forget(lost: &mut Lost, route: &ObjectKey, listener: &ListenerId) {
    if let Some(of_route) = lost.get_mut(route) {
        of_route.remove(listener);
        if of_route.is_empty() {
            lost.remove(route);
        }
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

    /// `None` of a route that wants nothing here.
    fn precedence(&self, route: &ObjectKey) -> Option<Precedence> {
        let claim = self.side(route.kind).claims.get(route)?;
        Some((claim.created_seconds, format!("{}/{}", route.namespace, route.name), route.kind))
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
        assert_eq!(contests.settle().0, BTreeSet::from([third.clone()]));
        assert_eq!(contests.rival(&third, &listener()), Some(&second));
        claim(&mut contests, &first, 1, &["a.example.com"]);
        assert_eq!(contests.settle().0, BTreeSet::from([second.clone(), third.clone()]));
        assert_eq!(contests.rival(&second, &listener()), Some(&first));
        assert_eq!(contests.rival(&third, &listener()), None);
        contests.claim(&first, &listener(), None);
        assert_eq!(contests.settle().0, BTreeSet::from([second.clone(), third.clone()]));
        assert_eq!(contests.rival(&third, &listener()), Some(&second));
    }

    /// What holds, judged from scratch.
    fn verdicts(arena: &Arena) -> BTreeMap<ObjectKey, Option<ObjectKey>> {
        let all = arena.http.claims.keys().chain(arena.grpc.claims.keys());
        let order: BTreeMap<Precedence, &ObjectKey> =
            all.map(|route| (arena.precedence(route).unwrap(), route)).collect();
        let mut verdicts: BTreeMap<ObjectKey, Option<ObjectKey>> = BTreeMap::new();
        for route in order.values() {
            let rivals = arena.rivals(route.kind, &arena.side(route.kind).claims[*route].hostnames);
            let stands = |other: &&&ObjectKey| {
                rivals.contains(**other) && verdicts.get(**other).is_some_and(Option::is_none)
            };
            let before = order.values().find(stands).map(|rival| (**rival).clone());
            verdicts.insert((*route).clone(), before);
        }
        verdicts
    }

    #[test]
    fn a_change_at_a_time_comes_to_what_holds_from_scratch() {
        let names = ["", "a.com", "b.a.com", "c.b.a.com", "*.a.com", "*.b.a.com", "d.com"];
        let mut state = 1_u64;
        let mut roll = |sides: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from((state >> 33) % sides).unwrap()
        };
        let mut contests = Contests::default();
        for step in 0..20_000 {
            let kind = [Kind::HttpRoute, Kind::GrpcRoute][roll(2)];
            let key = route(kind, ["p", "q", "r", "s", "t", "u"][roll(6)]);
            if roll(4) == 0 {
                contests.claim(&key, &listener(), None);
            } else {
                let wanted: Vec<&str> = (0..=roll(2)).map(|_| names[roll(7)]).collect();
                claim(&mut contests, &key, i64::try_from(roll(3)).unwrap(), &wanted);
            }
            if roll(3) > 0 {
                continue;
            }
            contests.settle();
            let Some(arena) = contests.arenas.get(&listener()) else { continue };
            for (route, rival) in verdicts(arena) {
                assert_eq!(contests.rival(&route, &listener()), rival.as_ref(), "{route} in step {step}");
            }
        }
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

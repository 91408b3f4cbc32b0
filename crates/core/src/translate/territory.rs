//! Listeners of different Gateways at one address: a port is used in one way, and a server name is.
//!
//! A Gateway's own listeners are settled before (`conflict`). Between Gateways the oldest wins, then the first by namespace
//! and name, and one that lost stands in nobody's way; listeners that are equal serve each other's routes. Owns who wants
//! which place. Invariant: what a Gateway claims does not depend on who wins; where all claims of a place agree, one more
//! costs the same however many there are.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use weir_api::condition::reasons;
use weir_model::resource::{Listener, ListenerProtocol};

use super::listener::Conflict;
use crate::objects::{ObjectKey, Place};

/// Age, then `{namespace}/{name}` as one text: the order in which the API decides between equals.
type Precedence = (i64, String);

/// How a place is used: what a connection there is taken for before anything is read of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Http,
    Tls,
    Raw,
}

/// What becomes of TLS for one server name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Inside {
    Http,
    Bytes,
    PassedOn,
}

/// What one listener wants of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    takes: Use,
    /// Of TLS: the hostname, and what becomes of it.
    name: Option<(String, Inside)>,
}

/// The claims of a place: a Gateway's are those of its listeners, by key.
#[derive(Debug, Default)]
struct Ground {
    claims: BTreeMap<Precedence, (ObjectKey, BTreeMap<String, Claim>)>,
    uses: BTreeMap<Use, usize>,
    /// How many claims there are on each server name, by what becomes of it.
    names: FxHashMap<String, BTreeMap<Inside, usize>>,
    /// Server names with claims that differ.
    disputed: usize,
    /// Whether somebody lost when the place was last judged.
    has_losers: bool,
}

/// What a Gateway wants, by place and by the listener's key.
type Claimed = (Precedence, BTreeMap<Place, BTreeMap<String, Claim>>);

#[derive(Debug, Default)]
pub(super) struct Territories {
    grounds: FxHashMap<Place, Ground>,
    claimed: FxHashMap<ObjectKey, Claimed>,
    /// The conflicts of each Gateway's listeners, by place and key.
    lost: FxHashMap<ObjectKey, BTreeMap<(Place, String), Conflict>>,
}

impl Territories {
    /// Replaces what a Gateway's listeners want. Returns the other Gateways of which one is judged otherwise now.
    pub(super) fn claim<'a>(
        &mut self,
        gateway: &ObjectKey,
        created_seconds: i64,
        listeners: impl Iterator<Item = &'a Listener>,
    ) -> Vec<ObjectKey> {
        let mut now: BTreeMap<Place, BTreeMap<String, Claim>> = BTreeMap::new();
        for listener in listeners {
            now.entry(super::memory::place(listener))
                .or_default()
                .insert(listener.key.clone(), claim(listener));
        }
        let precedence = (created_seconds, format!("{}/{}", gateway.namespace, gateway.name));
        let (old_precedence, before) =
            self.claimed.remove(gateway).unwrap_or_else(|| (precedence.clone(), BTreeMap::new()));
        let same_age = old_precedence == precedence;
        let mut moved = Vec::new();
        for place in before.keys().chain(now.keys().filter(|place| !before.contains_key(*place))) {
            if same_age && before.get(place) == now.get(place) {
                continue;
            }
            let ground = self.grounds.entry(place.clone()).or_default();
            ground.leave(&old_precedence);
            match now.get(place) {
                Some(claims) => ground.enter(&precedence, gateway, claims),
                None => _ = self.replace(place, gateway, None),
            }
            moved.extend(self.judge(place));
        }
        if !now.is_empty() {
            self.claimed.insert(gateway.clone(), (precedence, now));
        }
        moved.retain(|other| other != gateway);
        moved.sort();
        moved.dedup();
        moved
    }

    /// Why the listener of these keys cannot be served, if so.
    pub(super) fn conflict(&self, gateway: &ObjectKey, keys: &[String]) -> Option<&Conflict> {
        let lost = self.lost.get(gateway)?;
        lost.iter().find(|((_, key), _)| keys.contains(key)).map(|(_, conflict)| conflict)
    }

    /// Judges a place anew; the Gateways whose verdict there is another one now.
    fn judge(&mut self, place: &Place) -> Vec<ObjectKey> {
        let Some(ground) = self.grounds.get_mut(place) else {
            return Vec::new();
        };
        let gateways: Vec<ObjectKey> = if ground.claims.is_empty() {
            Vec::new()
        } else if ground.uses.len() <= 1 && ground.disputed == 0 && !ground.has_losers {
            return Vec::new();
        } else {
            ground.claims.values().map(|(gateway, _)| gateway.clone()).collect()
        };
        let losers = ground.losers(place);
        ground.has_losers = !losers.is_empty();
        if gateways.is_empty() {
            self.grounds.remove(place);
        }
        gateways.into_iter().filter(|gateway| self.replace(place, gateway, losers.get(gateway))).collect()
    }

    /// Puts in what a Gateway lost at a place; whether that is something else than before.
    fn replace(
        &mut self,
        place: &Place,
        gateway: &ObjectKey,
        losers: Option<&BTreeMap<String, Conflict>>,
    ) -> bool {
        let lost = self.lost.entry(gateway.clone()).or_default();
        let before: Vec<_> = lost.keys().filter(|(at, _)| at == place).cloned().collect();
        let same = before.len() == losers.map_or(0, BTreeMap::len)
            && before.iter().all(|at| losers.and_then(|losers| losers.get(&at.1)) == lost.get(at));
        if !same {
            before.iter().for_each(|at| _ = lost.remove(at));
            let losers = losers.into_iter().flatten();
            lost.extend(losers.map(|(key, why)| ((place.clone(), key.clone()), why.clone())));
        }
        if lost.is_empty() {
            self.lost.remove(gateway);
        }
        !same
    }
}

impl Ground {
    fn enter(&mut self, precedence: &Precedence, gateway: &ObjectKey, claims: &BTreeMap<String, Claim>) {
        for Claim { takes, name } in claims.values() {
            *self.uses.entry(*takes).or_default() += 1;
            let Some((name, inside)) = name else { continue };
            let ways = self.names.entry(name.clone()).or_default();
            let was_disputed = ways.len() > 1;
            *ways.entry(*inside).or_default() += 1;
            self.disputed += usize::from(!was_disputed && ways.len() > 1);
        }
        self.claims.insert(precedence.clone(), (gateway.clone(), claims.clone()));
    }

    fn leave(&mut self, precedence: &Precedence) {
        let Some((_, claims)) = self.claims.remove(precedence) else { return };
        for Claim { takes, name } in claims.values() {
            decrease(&mut self.uses, takes);
            let Some((name, inside)) = name else { continue };
            let Some(ways) = self.names.get_mut(name) else { continue };
            let was_disputed = ways.len() > 1;
            decrease(ways, inside);
            self.disputed -= usize::from(was_disputed && ways.len() <= 1);
            if ways.is_empty() {
                self.names.remove(name);
            }
        }
    }

    /// Whose claims cannot be met, and why.
    fn losers(&self, place: &Place) -> FxHashMap<ObjectKey, BTreeMap<String, Conflict>> {
        let mut used: Option<Use> = None;
        let mut names: FxHashMap<&str, Inside> = FxHashMap::default();
        let mut losers: FxHashMap<ObjectKey, BTreeMap<String, Conflict>> = FxHashMap::default();
        for (gateway, claims) in self.claims.values() {
            for (key, claim) in claims {
                let conflict = if used.is_some_and(|used| used != claim.takes) {
                    Some(protocol_conflict(place))
                } else if let Some((name, inside)) = &claim.name
                    && names.get(name.as_str()).is_some_and(|taken| taken != inside)
                {
                    Some(hostname_conflict(place, name))
                } else {
                    None
                };
                if let Some(conflict) = conflict {
                    losers.entry(gateway.clone()).or_default().insert(key.clone(), conflict);
                    continue;
                }
                used = Some(claim.takes);
                if let Some((name, inside)) = &claim.name {
                    names.insert(name, *inside);
                }
            }
        }
        losers
    }
}

fn decrease<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

fn claim(listener: &Listener) -> Claim {
    let passed_on = listener.tls.as_ref().is_some_and(|tls| tls.passthrough);
    let (takes, inside) = match listener.protocol() {
        ListenerProtocol::Http => (Use::Http, None),
        ListenerProtocol::Https => (Use::Tls, Some(Inside::Http)),
        ListenerProtocol::Tls if passed_on => (Use::Tls, Some(Inside::PassedOn)),
        ListenerProtocol::Tls => (Use::Tls, Some(Inside::Bytes)),
        ListenerProtocol::Tcp | ListenerProtocol::Udp => (Use::Raw, None),
    };
    Claim { takes, name: inside.map(|inside| (listener.hostname.clone(), inside)) }
}

/// Names nobody: a Gateway's owner need not see the others.
fn protocol_conflict((_, port, _): &Place) -> Conflict {
    let message = format!(
        "port {port} of this address is wanted with another protocol by a Gateway that comes first; \
         Gateways that share an address share its ports"
    );
    Conflict { reason: reasons::PROTOCOL_CONFLICT, message }
}

fn hostname_conflict((_, port, _): &Place, name: &str) -> Conflict {
    let host = if name.is_empty() { "any hostname" } else { name };
    let message = format!(
        "TLS for {host} on port {port} of this address is ended or passed on otherwise by a Gateway that comes first"
    );
    Conflict { reason: reasons::HOSTNAME_CONFLICT, message }
}

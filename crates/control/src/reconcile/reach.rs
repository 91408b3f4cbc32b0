//! Whether clients get through to the data planes of Gateways: a Service leads nowhere before an endpoint of it is ready. Pure: time
//! is passed in.
//!
//! Invariants: a Gateway is not programmed before clients get through for the first time, which is [`ROUTED`] after an endpoint is
//! ready; one that they got through to is not judged by pods that come and go, but by [`LINGER`] without any that is ready; what
//! nobody may read is not judged.
//! Deliberately absent: what a data plane says of itself (the gate waits for that).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use weir_core::{AddressProblem, Kind, ObjectKey, Objects};

use crate::distribute::LINGER;
use crate::provision::cluster::objects::Id;

/// For so long nodes may not route to a Service's first endpoint. Unit: time. Source: kube-proxy writes its rules once a second
/// (`minSyncPeriod`), and takes a while to; until then connections are refused.
const ROUTED: Duration = Duration::from_millis(1_500);

/// How it stands with a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    Never,
    /// It is in a moment.
    Soon(Instant),
    Now,
    /// It was, and is believed to be again until then.
    Before(Instant),
    Lost,
}

impl Reached {
    fn next(self, is_ready: bool, now: Instant) -> Reached {
        match self {
            Reached::Never if is_ready => Reached::Soon(now + ROUTED),
            Reached::Soon(_) if !is_ready => Reached::Never,
            Reached::Soon(at) if at > now => Reached::Soon(at),
            _ if is_ready => Reached::Now,
            Reached::Now => Reached::Before(now + LINGER),
            Reached::Before(until) if until <= now => Reached::Lost,
            other => other,
        }
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// The only namespaces whose EndpointSlices are read; none: all.
    namespaces: Vec<String>,
    services: BTreeMap<ObjectKey, Reached>,
}

impl Reach {
    pub(super) fn new(namespaces: Vec<String>) -> Reach {
        Reach { namespaces, services: BTreeMap::new() }
    }

    /// These Services are asked about from now on, each with whether a Gateway is known to have been programmed at it.
    pub(super) fn follow(&mut self, services: Vec<(Id, bool)>, objects: &Objects, now: Instant) {
        let mut before = std::mem::take(&mut self.services);
        for (service, was_programmed) in services {
            if !self.namespaces.is_empty() && !self.namespaces.contains(&service.namespace) {
                continue;
            }
            let key = key_of(&service);
            let known = before.remove(&key).or_else(|| self.services.get(&key).copied());
            let first = if was_programmed { Reached::Before(now + LINGER) } else { Reached::Never };
            let known = match known {
                // Another Gateway of the same data plane was programmed.
                Some(Reached::Never) | None => first,
                Some(known) => known,
            };
            let reached = known.next(is_ready(&key, objects), now);
            self.services.insert(key, reached);
        }
    }

    /// Whether [`Reach::problem`] says something else now.
    pub(super) fn look(&mut self, objects: &Objects, now: Instant) -> bool {
        let mut turned = false;
        for (service, reached) in &mut self.services {
            let next = reached.next(is_ready(service, objects), now);
            turned |= gets_through(next) != gets_through(*reached);
            *reached = next;
        }
        turned
    }

    /// When [`Reach::look`] may find something though no EndpointSlice changed.
    pub(super) fn next_turn(&self) -> Option<Instant> {
        let turns = self.services.values().filter_map(|reached| match reached {
            Reached::Soon(at) | Reached::Before(at) => Some(*at),
            Reached::Never | Reached::Now | Reached::Lost => None,
        });
        turns.min()
    }

    /// Why clients do not get through to what is behind a Service.
    pub(super) fn problem(&self, service: &Id) -> Option<AddressProblem> {
        match self.services.get(&key_of(service))? {
            Reached::Never => {
                Some(AddressProblem::NotReady(format!("no endpoint of {service} is ready yet")))
            }
            Reached::Soon(_) => {
                let why = format!("an endpoint of {service} is ready, and nodes do not route to it yet");
                Some(AddressProblem::NotReady(why))
            }
            Reached::Lost => {
                let seconds = LINGER.as_secs();
                let why = format!("no endpoint of {service} has been ready for {seconds} s or more");
                Some(AddressProblem::NoResources(why))
            }
            Reached::Now | Reached::Before(_) => None,
        }
    }
}

fn key_of(service: &Id) -> ObjectKey {
    ObjectKey::new(Kind::Service, service.namespace.as_str(), service.name.as_str())
}

fn gets_through(reached: Reached) -> bool {
    matches!(reached, Reached::Now | Reached::Before(_))
}

fn is_ready(service: &ObjectKey, objects: &Objects) -> bool {
    let mut endpoints = objects.slices(service).flat_map(|slice| &slice.endpoints);
    endpoints.any(|endpoint| endpoint.conditions.ready.unwrap_or(true) && !endpoint.addresses.is_empty())
}

#[cfg(test)]
mod tests {
    use super::{LINGER, ROUTED, Reach};
    use crate::provision::cluster::objects::{Id, Piece};
    use serde_json::json;
    use std::time::Duration;
    use tokio::time::Instant;
    use weir_core::{AddressProblem, Kind, Object, ObjectKey, Objects};

    fn service() -> Id {
        Id::new(Piece::Service, "default", "weir-g")
    }

    /// One slice of the Service, with pods that are ready or not.
    fn slice(objects: &mut Objects, ready: &[bool]) {
        let endpoints: Vec<_> = ready
            .iter()
            .map(|ready| json!({"addresses": ["192.0.2.1"], "conditions": {"ready": ready}}))
            .collect();
        let slice = json!({
            "metadata": {"name": "weir-g-x", "namespace": "default", "labels": {"kubernetes.io/service-name": "weir-g"}},
            "addressType": "IPv4",
            "endpoints": endpoints,
        });
        objects.upsert(Object::read(Kind::EndpointSlice, slice).unwrap());
    }

    fn following(was_programmed: bool, objects: &Objects, now: Instant) -> Reach {
        let mut reach = Reach::new(Vec::new());
        reach.follow(vec![(service(), was_programmed)], objects, now);
        reach
    }

    fn waits(reach: &Reach) -> bool {
        matches!(reach.problem(&service()), Some(AddressProblem::NotReady(why)) if why.contains("default/weir-g"))
    }

    #[test]
    fn a_new_gateway_waits_for_an_endpoint_that_is_ready() {
        let (now, mut objects) = (Instant::now(), Objects::new());
        let mut reach = following(false, &objects, now);
        assert!(waits(&reach), "there is no slice");
        slice(&mut objects, &[false]);
        assert!(!reach.look(&objects, now));
        assert!(waits(&reach), "the pod is not ready");
        slice(&mut objects, &[false, true]);
        assert!(!reach.look(&objects, now), "nodes do not know it yet");
        assert!(waits(&reach));
        assert_eq!(reach.next_turn(), Some(now + ROUTED));
        slice(&mut objects, &[false, false]);
        assert!(!reach.look(&objects, now + ROUTED));
        assert!(waits(&reach), "it was gone before they did");
        slice(&mut objects, &[true, false]);
        assert!(!reach.look(&objects, now + ROUTED));
        assert!(reach.look(&objects, now + 2 * ROUTED), "that is news");
        assert_eq!((reach.problem(&service()), reach.next_turn()), (None, None));
        assert!(!reach.look(&objects, now + 2 * ROUTED));
    }

    #[test]
    fn pods_that_restart_are_not_told_and_pods_that_stay_away_are() {
        let (now, mut objects) = (Instant::now(), Objects::new());
        slice(&mut objects, &[true, true]);
        // Programmed before, or else it would not be so at once.
        let mut reach = following(true, &objects, now);
        slice(&mut objects, &[false, true]);
        assert!(!reach.look(&objects, now), "one of two");
        slice(&mut objects, &[false, false]);
        assert!(!reach.look(&objects, now), "both, for a moment");
        assert_eq!(reach.next_turn(), Some(now + LINGER));
        slice(&mut objects, &[true, false]);
        assert!(!reach.look(&objects, now + Duration::from_secs(2)));
        assert_eq!(reach.next_turn(), None);
        objects.remove(&ObjectKey::new(Kind::EndpointSlice, "default", "weir-g-x"));
        let away = now + Duration::from_secs(3);
        assert!(!reach.look(&objects, away));
        // Another look in between does not begin the wait anew.
        assert!(!reach.look(&objects, away + LINGER / 2));
        assert!(reach.look(&objects, away + LINGER));
        assert!(matches!(reach.problem(&service()), Some(AddressProblem::NoResources(_))));
        assert_eq!(reach.next_turn(), None);
        slice(&mut objects, &[true]);
        assert!(reach.look(&objects, away + LINGER));
        assert_eq!(reach.problem(&service()), None);
    }

    #[test]
    fn what_was_programmed_before_this_process_began_is_believed_as_long() {
        let (now, objects) = (Instant::now(), Objects::new());
        let mut reach = following(true, &objects, now);
        assert_eq!(reach.problem(&service()), None);
        reach.follow(vec![(service(), true)], &objects, now + LINGER / 2);
        assert!(reach.look(&objects, now + LINGER), "being followed again does not begin the wait anew");
        assert!(matches!(reach.problem(&service()), Some(AddressProblem::NoResources(_))));
    }

    #[test]
    fn what_may_not_be_read_is_not_judged() {
        let (now, objects) = (Instant::now(), Objects::new());
        let mut reach = Reach::new(vec!["elsewhere".to_owned()]);
        reach.follow(vec![(service(), false)], &objects, now);
        assert_eq!(reach.problem(&service()), None);
    }
}

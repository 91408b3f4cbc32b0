//! What should be there, what is there, and what is to be done about the difference. Pure but for the clock that is passed in.
//!
//! Invariants: nothing is to be done before everything that is ours has been listed; an object that is as it was when
//! we last wrote it is left alone, whatever defaults the server put in; one that others change again and again is
//! repaired more and more slowly.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;
use weir_api::gateway_api::{AddressType, GatewayStatusAddress};
use weir_core::{AddressProblem, ObjectKey};

use super::objects::{self, Id, Piece};
use crate::backoff::Backoff;
use crate::provision::GatewayView;
use crate::provision::objects::PROVISIONED_LABEL;
use crate::provision::sandbox::hash;
use crate::source::{RETRY_CAP, RETRY_FIRST};

/// What we last wrote to an object, as a hash.
const APPLIED_ANNOTATION: &str = "weir.dev/applied";

/// Somebody else's change is repaired after this long, doubled each time.
const REPAIR_FIRST: Duration = Duration::from_millis(20);

/// Without a fight for this long, the next repair is a first one again.
const REPAIR_FORGET: Duration = Duration::from_secs(300);

/// Failures in a row that are nobody's business yet: an API server that restarts, a conflict.
const QUIET_FAILURES: u32 = 3;

/// As many addresses a status has; of a load balancer with more the rest is not shown. Source: `maxItems` of `Gateway.status.addresses`.
const MAX_ADDRESSES: usize = 16;

/// The least wait after a refusal; many in a row wait longer, as after other failures.
const REFUSED_WAIT: Duration = Duration::from_secs(1);

/// One object that should be there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wish {
    object: Value,
    hash: String,
    gateway: Option<ObjectKey>,
    /// It is another's, who makes it or not.
    only_if_there: bool,
    /// It is kept where it is there, and not made before something else is wished.
    held_back: bool,
}

impl Wish {
    pub(super) fn new(mut object: Value, gateway: Option<ObjectKey>, only_if_there: bool) -> Wish {
        let hash = format!("{:016x}", hash(&object.to_string()));
        if !only_if_there {
            object["metadata"]["annotations"][APPLIED_ANNOTATION] = Value::from(hash.as_str());
        }
        Wish { object, hash, gateway, only_if_there, held_back: false }
    }

    pub(super) fn held_back(self) -> Wish {
        Wish { held_back: true, ..self }
    }
}

/// One object as it was seen.
#[derive(Clone, Debug)]
struct There {
    object: Value,
    /// What it looks like, as a hash.
    look: u64,
    /// The wish that it fulfilled last, with what it looked like then.
    settled: Option<(String, u64)>,
}

/// What happened to the last writes of an object.
#[derive(Debug)]
struct Trouble {
    attempts: u32,
    message: String,
    backoff: Backoff,
    repairs: Backoff,
    last_repair: Option<Instant>,
    /// Nothing is to be tried before.
    until: Option<Instant>,
}

impl Default for Trouble {
    fn default() -> Trouble {
        Trouble {
            attempts: 0,
            message: String::new(),
            backoff: Backoff::new(RETRY_FIRST, RETRY_CAP),
            repairs: Backoff::new(REPAIR_FIRST, RETRY_CAP),
            last_repair: None,
            until: None,
        }
    }
}

impl Trouble {
    /// It is as it should be. Whether there was something to tell.
    fn end(&mut self) -> bool {
        let was_told = self.attempts > QUIET_FAILURES;
        (self.attempts, self.until) = (0, None);
        self.backoff.reset();
        was_told
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Look whether it is there after all, and make it if not.
    Make {
        object: Value,
        hash: String,
    },
    /// `keeps_replicas`: how many pods there are, which are not ours to say any more.
    Change {
        object: Value,
        hash: String,
        keeps_replicas: Option<u64>,
    },
    Delete {
        uid: String,
        version: String,
    },
}

#[derive(Debug, Default)]
pub(super) struct Table {
    wishes: BTreeMap<Id, Arc<Wish>>,
    there: BTreeMap<Id, There>,
    unlisted: BTreeSet<(Piece, String)>,
    troubles: BTreeMap<Id, Trouble>,
    /// Uids of Gateways of which it is known what belongs to them.
    judged: BTreeSet<String>,
    /// Whether wishes have been made by what is certain.
    known: bool,
    trusts: bool,
    busy: BTreeSet<Id>,
    /// What may not be as it should be.
    suspect: BTreeSet<Id>,
    /// Wishes that were looked for by their name, or seen: what is not there of these is certainly not there.
    looked_for: BTreeSet<Id>,
}

impl Table {
    pub(super) fn new(namespaces: &[String]) -> Table {
        let everywhere = [String::new()];
        let places = if namespaces.is_empty() { &everywhere[..] } else { namespaces };
        let unlisted = Piece::ALL
            .into_iter()
            .flat_map(|piece| places.iter().map(move |place| (piece, place.clone())))
            .collect();
        Table { unlisted, ..Table::default() }
    }

    /// `judged`: uids of Gateways whose objects are all in `wishes`, or who have none.
    pub(super) fn wish(
        &mut self,
        wishes: BTreeMap<Id, Arc<Wish>>,
        judged: BTreeSet<String>,
        known: bool,
        trusts: bool,
    ) {
        self.troubles.retain(|id, _| wishes.contains_key(id));
        self.looked_for.retain(|id| wishes.contains_key(id));
        for (id, wish) in &wishes {
            let is_before =
                |before: &Arc<Wish>| before.hash == wish.hash && before.held_back == wish.held_back;
            if self.wishes.get(id).is_some_and(is_before) {
                continue;
            }
            if let Some(trouble) = self.troubles.get_mut(id) {
                trouble.until = None;
            }
            self.suspect.insert(id.clone());
        }
        if known && !self.known {
            self.suspect.extend(wishes.keys().cloned());
        }
        self.suspect.extend(self.there.keys().filter(|id| !wishes.contains_key(*id)).cloned());
        (self.wishes, self.judged, self.known, self.trusts) = (wishes, judged, known, trusts);
    }

    /// The wishes that were made for a Gateway.
    pub(super) fn wishes_of(&self, gateway: &ObjectKey) -> Vec<(Id, Arc<Wish>)> {
        let of_gateway = self.wishes.iter().filter(|(_, wish)| wish.gateway.as_ref() == Some(gateway));
        of_gateway.map(|(id, wish)| (id.clone(), Arc::clone(wish))).collect()
    }

    /// Whether it is known which Services and Deployments there are, and so which data planes and addresses.
    pub(super) fn knows_planes(&self) -> bool {
        !self.unlisted.iter().any(|(piece, _)| matches!(piece, Piece::Service | Piece::Deployment))
    }

    /// Whether an object is there, and is that of the Gateway with this uid.
    pub(super) fn is_made_for(&self, id: &Id, uid: &str) -> bool {
        self.there.get(id).is_some_and(|there| owner_uid(&there.object) == uid)
    }

    /// The Service of a Gateway's data plane that is wished for, else that is there.
    pub(super) fn service_of(&self, gateway: &ObjectKey, uid: &str) -> Option<Id> {
        let is_service = |id: &&Id| id.piece == Piece::Service;
        let wished = self.wishes.iter().filter(|(_, wish)| wish.gateway.as_ref() == Some(gateway));
        let there = self.there.iter().filter(|(_, there)| owner_uid(&there.object) == uid);
        let all = wished.map(|(id, _)| id).chain(there.map(|(id, _)| id));
        all.filter(is_service).find(|id| id.namespace == gateway.namespace).cloned()
    }

    /// Whether pods of this Gateway's are there.
    pub(super) fn has_plane(&self, uid: &str) -> bool {
        self.there.iter().any(|(id, there)| id.piece == Piece::Deployment && owner_uid(&there.object) == uid)
    }

    /// After how many seconds pods of a Deployment are ended that have not ended, if it is there.
    pub(super) fn grace_of(&self, deployment: &Id) -> Option<u64> {
        objects::grace(&self.there.get(deployment)?.object)
    }

    /// A reference by which something goes with this object, if it is there.
    pub(super) fn owner_by(&self, id: &Id) -> Option<Value> {
        let object = &self.there.get(id)?.object;
        Some(json!({
            "apiVersion": id.piece.collection().api_version(),
            "kind": id.piece.kind(),
            "name": id.name,
            "uid": object["metadata"]["uid"],
        }))
    }

    /// Every object of the kind, in one namespace or in all. Whether addresses or health may be others now. `put_back`: the API was, so
    /// no version that was seen is newer than these.
    pub(super) fn listed(
        &mut self,
        piece: Piece,
        namespace: &str,
        objects: Vec<Value>,
        put_back: bool,
    ) -> bool {
        let ids: BTreeSet<Id> = objects.iter().map(|object| id_of(piece, object)).collect();
        for id in ids.iter().filter(|_| put_back) {
            if let Some(there) = self.there.get_mut(id) {
                there.object["metadata"]["resourceVersion"] = Value::Null;
            }
        }
        let in_scope = |id: &Id| id.piece == piece && (namespace.is_empty() || id.namespace == namespace);
        let gone: Vec<Id> =
            self.there.keys().filter(|id| in_scope(id) && !ids.contains(*id)).cloned().collect();
        for id in gone {
            self.lost(id);
        }
        for object in objects {
            self.seen(piece, object);
        }
        self.unlisted.remove(&(piece, namespace.to_owned()));
        true
    }

    /// Whether addresses or health are others now.
    pub(super) fn seen(&mut self, piece: Piece, mut object: Value) -> bool {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.shift_remove("managedFields");
        }
        let id = id_of(piece, &object);
        let before = self.there.get(&id);
        if before.is_some_and(|before| is_newer(&before.object, &object)) {
            return false;
        }
        let moved = before.is_none_or(|before| outlook(piece, &before.object) != outlook(piece, &object));
        let settled = before.and_then(|before| before.settled.clone());
        let look = looks(&object);
        if piece == Piece::ServiceAccount {
            self.suspect.insert(Id { piece: Piece::Deployment, ..id.clone() });
        }
        self.suspect.insert(id.clone());
        self.looked_for.insert(id.clone());
        self.there.insert(id, There { object, look, settled });
        moved
    }

    pub(super) fn gone(&mut self, piece: Piece, object: &Value) -> bool {
        self.lost(id_of(piece, object))
    }

    /// Out of sight: it was deleted, or it lost our label. Whether that is news.
    fn lost(&mut self, id: Id) -> bool {
        let was_there = self.there.remove(&id).is_some();
        self.looked_for.remove(&id);
        self.suspect.insert(id);
        was_there
    }

    /// What is to be done now, or when there is something again.
    pub(super) fn next(&mut self, now: Instant) -> (Option<(Id, Action)>, Option<Instant>) {
        if !self.unlisted.is_empty() {
            return (None, None);
        }
        let mut later: Option<Instant> = None;
        let mut after = Bound::Unbounded;
        while let Some(id) =
            self.suspect.range((after, Bound::Unbounded)).find(|id| !self.busy.contains(*id)).cloned()
        {
            after = Bound::Excluded(id.clone());
            let action = if self.wishes.contains_key(&id) { self.repair(&id) } else { self.removal(&id) };
            // What is there may belong to Gateways that cannot be seen now; what is missing is missing all the same.
            let is_certain = |action: &Action| self.known || matches!(action, Action::Make { .. });
            let Some(action) = action.filter(is_certain) else {
                self.suspect.remove(&id);
                continue;
            };
            let at = self.due(&id, now);
            if at > now {
                later = Some(later.map_or(at, |later| later.min(at)));
                continue;
            }
            self.busy.insert(id.clone());
            return (Some((id, action)), None);
        }
        (None, later)
    }

    /// How many objects may not be as they should be.
    pub(super) fn pending(&self) -> usize {
        self.suspect.len()
    }

    /// Pods of a Deployment cannot be made before their account, and their controller waits long before it tries again.
    fn has_account(&self, deployment: &Id) -> bool {
        let account = Id { piece: Piece::ServiceAccount, ..deployment.clone() };
        self.there.contains_key(&account)
    }

    fn removal(&self, id: &Id) -> Option<Action> {
        let there = self.there.get(id).filter(|there| self.may_go(id, &there.object))?;
        let text = |field: &str| there.object["metadata"][field].as_str().unwrap_or_default().to_owned();
        Some(Action::Delete { uid: text("uid"), version: text("resourceVersion") })
    }

    /// The write that makes an object as it should be, if it is not.
    fn repair(&mut self, id: &Id) -> Option<Action> {
        if id.piece == Piece::Deployment && !self.has_account(id) {
            return None;
        }
        let wish = self.wishes.get(id)?;
        let Some(there) = self.there.get_mut(id) else {
            let (object, hash) = (wish.object.clone(), wish.hash.clone());
            return (!wish.only_if_there && !wish.held_back).then_some(Action::Make { object, hash });
        };
        let look = there.look;
        if there.settled.as_ref().is_some_and(|(hash, seen)| *hash == wish.hash && *seen == look) {
            return None;
        }
        let was_applied = there.object["metadata"]["annotations"][APPLIED_ANNOTATION] == wish.hash.as_str();
        let mut wanted = wish.object.clone();
        let is_as_wanted = if wish.only_if_there {
            has_exactly(&there.object["spec"]["ports"], &wanted["spec"]["ports"])
        } else {
            was_applied && covers(&there.object, &wanted)
        };
        if is_as_wanted {
            there.settled = Some((wish.hash.clone(), look));
            // It came to be so without us.
            self.troubles.get_mut(id).map(Trouble::end);
            return None;
        }
        wanted["metadata"]["resourceVersion"] = there.object["metadata"]["resourceVersion"].clone();
        // Whoever gives a field up leaves it to its default, so the number of pods would fall to one.
        let gives_up = id.piece == Piece::Deployment && !was_applied && wanted["spec"]["replicas"].is_null();
        let keeps_replicas = there.object["spec"]["replicas"].as_u64().filter(|now| gives_up && *now != 1);
        Some(Action::Change { object: wanted, hash: wish.hash.clone(), keeps_replicas })
    }

    /// When the next write of this object may be.
    fn due(&mut self, id: &Id, now: Instant) -> Instant {
        let settled = self.there.get(id).and_then(|there| there.settled.as_ref());
        let is_fight =
            settled.is_some_and(|(hash, _)| self.wishes.get(id).is_some_and(|wish| wish.hash == *hash));
        if let Some(trouble) = self.troubles.get_mut(id)
            && let Some(until) = trouble.until
        {
            // What is due is done now, and what comes of it sets the next time.
            trouble.until = Some(until).filter(|until| *until > now);
            return until;
        }
        if !is_fight {
            return now;
        }
        let trouble = self.troubles.entry(id.clone()).or_default();
        if trouble.last_repair.is_none_or(|last| now.duration_since(last) > REPAIR_FORGET) {
            trouble.repairs.reset();
        }
        trouble.last_repair = Some(now);
        let at = now + trouble.repairs.next_wait();
        trouble.until = Some(at);
        at
    }

    /// Whether what is there and not wanted is certainly ours and certainly not wanted.
    fn may_go(&self, id: &Id, object: &Value) -> bool {
        let is_made = object["metadata"]["labels"][PROVISIONED_LABEL] == "gateway"
            && object["metadata"]["deletionTimestamp"].is_null();
        let is_judged = self.judged.contains(owner_uid(object));
        is_made && is_judged && (id.piece != Piece::ConfigMap || self.trusts)
    }

    /// The wish of this hash was written; `object` is what the server made of it. Whether addresses or health are others.
    pub(super) fn wrote(&mut self, id: &Id, hash: String, object: Value) -> bool {
        self.busy.remove(id);
        let recovered = self.troubles.get_mut(id).is_some_and(Trouble::end);
        let version = object["metadata"]["resourceVersion"].clone();
        let moved = self.seen(id.piece, object);
        if let Some(there) = self.there.get_mut(id)
            && there.object["metadata"]["resourceVersion"] == version
        {
            there.settled = Some((hash, there.look));
        }
        moved || recovered
    }

    /// Whether an object was seen that is newer than this state of it.
    pub(super) fn knows_newer(&self, id: &Id, object: &Value) -> bool {
        self.there.get(id).is_some_and(|known| is_newer(&known.object, object))
    }

    /// It was there, or is not there any more, which was not known. Whether addresses or health are others now.
    pub(super) fn found(&mut self, id: &Id, object: Option<Value>) -> bool {
        self.busy.remove(id);
        self.suspect.insert(id.clone());
        let Some(object) = object else { return self.there.remove(id).is_some() };
        let moved = self.seen(id.piece, object);
        // One that was out of sight is what we wrote last and somebody changed: to repair that again and again is a fight too.
        if let Some(there) = self.there.get_mut(id)
            && there.settled.is_none()
            && let Some(hash) = there.object["metadata"]["annotations"][APPLIED_ANNOTATION].as_str()
        {
            there.settled = Some((hash.to_owned(), !there.look));
        }
        moved
    }

    /// A write failed. `is_final`: the server will say the same again. Whether that is a new thing to tell.
    pub(super) fn failed(&mut self, id: &Id, message: String, is_final: bool, now: Instant) -> bool {
        self.busy.remove(id);
        self.suspect.insert(id.clone());
        if is_final {
            self.looked_for.insert(id.clone());
        }
        let trouble = self.troubles.entry(id.clone()).or_default();
        trouble.attempts =
            if is_final { trouble.attempts.max(QUIET_FAILURES) + 1 } else { trouble.attempts + 1 };
        // What the server refuses today may be free in a moment, as a node port is whose Service is still going.
        let soonest = if is_final { REFUSED_WAIT } else { Duration::ZERO };
        let wait = trouble.backoff.next_wait().max(soonest);
        trouble.until = Some(now + wait);
        let is_news = trouble.attempts > QUIET_FAILURES && trouble.message != message;
        trouble.message = message;
        is_news || trouble.attempts == QUIET_FAILURES + 1
    }

    /// What was refused may not be any more: it is tried again now.
    pub(super) fn try_again(&mut self) {
        for trouble in self.troubles.values_mut() {
            trouble.until = None;
        }
    }

    /// Nothing was tried.
    pub(super) fn put_off(&mut self, id: &Id) {
        self.busy.remove(id);
        self.suspect.insert(id.clone());
    }

    /// Why a Gateway's data plane cannot be had. `deployment` is that of its pods.
    pub(super) fn trouble(&self, gateway: &ObjectKey, deployment: &Id) -> Option<String> {
        let of_gateway =
            |id: &Id| self.wishes.get(id).is_some_and(|wish| wish.gateway.as_ref() == Some(gateway));
        let mut lasting = self.troubles.iter().filter(|(_, trouble)| trouble.attempts > QUIET_FAILURES);
        if let Some((id, trouble)) = lasting.find(|(id, _)| of_gateway(id)) {
            return Some(format!("{id} cannot be written: {}", trouble.message));
        }
        let there = self.there.get(deployment)?;
        Some(format!("{deployment}: {}", standstill(&there.object)?))
    }

    /// Where somebody looks who asks why no pod of a Deployment is ready.
    pub(super) fn whereabouts(&self, deployment: &Id) -> String {
        let image = self.there.get(deployment).and_then(|there| {
            there.object.pointer("/spec/template/spec/containers/0/image")?.as_str().map(str::to_owned)
        });
        let image = image.map(|image| format!(" (image {image})")).unwrap_or_default();
        format!("the pods are those of {deployment}{image}; `weir check` says what keeps them")
    }

    /// Whether an object that should be there for a Gateway may be, made by somebody whose objects are not watched here: nobody has
    /// looked yet.
    pub(super) fn is_open(&self, id: &Id, gateway: &ObjectKey) -> bool {
        let is_sought = |wish: &Arc<Wish>| wish.gateway.as_ref() == Some(gateway) && !wish.held_back;
        self.wishes.get(id).is_some_and(is_sought) && !self.looked_for.contains(id)
    }

    /// The addresses that a Service turned out to have, in the operator's order, and what is wrong with them.
    pub(super) fn addresses(
        &self,
        service: &Id,
        view: &GatewayView,
    ) -> (Vec<GatewayStatusAddress>, Option<AddressProblem>) {
        let wish = self.wishes.get(service).filter(|_| !view.is_unmanaged());
        if let Some(wish) = wish.filter(|wish| wish.gateway.as_ref() != Some(&view.key)) {
            let whose =
                wish.gateway.as_ref().map_or_else(|| "the shared data plane".to_owned(), ToString::to_string);
            let why = format!("{service} is that of {whose}: give this Gateway's another name");
            return (Vec::new(), Some(AddressProblem::NoResources(why)));
        }
        if let Some(why) = vain(view) {
            let mut published =
                self.there.get(service).map(|there| published(&there.object)).unwrap_or_default();
            published.truncate(MAX_ADDRESSES);
            return (published, Some(AddressProblem::NotUsable(why)));
        }
        let Some(there) = self.there.get(service) else {
            let why = if view.is_unmanaged() {
                format!(
                    "there is no {service}: unmanaged Gateways are served by the data plane that the installation makes"
                )
            } else {
                format!("{service} has not been made yet")
            };
            return (Vec::new(), Some(AddressProblem::NotAssigned(why)));
        };
        let mut published = published(&there.object);
        let problem = request_problem(service, view, &there.object, &published);
        published.truncate(MAX_ADDRESSES);
        (published, problem)
    }
}

/// The addresses that a Gateway asks for by their values.
fn asked(view: &GatewayView) -> BTreeSet<&str> {
    view.requested.iter().filter_map(|request| request.value.as_deref()).collect()
}

/// Why what a Gateway asks for cannot be had from any Service. One that is made while that is so would be given some other address,
/// and few load balancers ever give another to a Service that has one.
pub(super) fn vain(view: &GatewayView) -> Option<String> {
    let asked = asked(view);
    if let Some(wrong) = asked.iter().find(|value| value.parse::<std::net::IpAddr>().is_err()) {
        return Some(format!("{wrong:?} is not an IP address"));
    }
    if asked.len() > 1 && !view.is_unmanaged() {
        let all: Vec<&str> = asked.into_iter().collect();
        let all = all.join(", ");
        return Some(format!("a Service has one address of its own; not all of {all} can be had"));
    }
    None
}

fn request_problem(
    service: &Id,
    view: &GatewayView,
    object: &Value,
    published: &[GatewayStatusAddress],
) -> Option<AddressProblem> {
    let unusable = |why| Some(AddressProblem::NotUsable(why));
    let asked = asked(view);
    if !asked.is_empty() && object["spec"]["type"] != "LoadBalancer" {
        return unusable(format!("{service} is not of type LoadBalancer, so no address can be asked for"));
    }
    if published.is_empty() {
        return Some(AddressProblem::NotAssigned(format!("{service} has no address yet")));
    }
    let missing = asked.into_iter().find(|value| !published.iter().any(|given| given.value == **value))?;
    let given: Vec<&str> = published.iter().map(|address| address.value.as_str()).collect();
    let given = given.join(", ");
    let hint = if view.is_unmanaged() {
        ""
    } else {
        "; where its load balancer gives no other address to a Service that has one, delete the Service: it is made anew"
    };
    unusable(format!("{missing} cannot be had: {service} has {given}{hint}"))
}

/// Hostnames first, then addresses, each sorted; of a Service without a load balancer those inside the cluster.
fn published(service: &Value) -> Vec<GatewayStatusAddress> {
    let address = |type_: AddressType, value: &str| GatewayStatusAddress { type_, value: value.to_owned() };
    let entries = |field: &str| {
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
        let values: BTreeSet<&str> = ingress.filter_map(|entry| entry[field].as_str()).collect();
        values.into_iter().filter(|value| !value.is_empty()).collect::<Vec<_>>()
    };
    if service["spec"]["type"] == "LoadBalancer" {
        let hostnames = entries("hostname").into_iter().map(|value| address(AddressType::Hostname, value));
        return hostnames
            .chain(entries("ip").into_iter().map(|value| address(AddressType::IpAddress, value)))
            .collect();
    }
    let inside = service["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    inside.filter(|value| *value != "None").map(|value| address(AddressType::IpAddress, value)).collect()
}

/// Why a Deployment has no pods that run, if it has given up.
fn standstill(deployment: &Value) -> Option<String> {
    if deployment["status"]["availableReplicas"].as_u64().unwrap_or_default() > 0 {
        return None;
    }
    let conditions = deployment["status"]["conditions"].as_array()?;
    let said = |type_: &str, status: &str| {
        conditions.iter().find(|condition| condition["type"] == type_ && condition["status"] == status)
    };
    let found = said("ReplicaFailure", "True").or_else(|| said("Progressing", "False"))?;
    let message = found["message"].as_str().unwrap_or_default();
    Some(format!("no pod is available: {message}"))
}

/// What statuses depend on.
fn outlook(piece: Piece, object: &Value) -> (Vec<GatewayStatusAddress>, Option<String>, Option<String>) {
    let uid = object["metadata"]["uid"].as_str().map(str::to_owned);
    match piece {
        Piece::Service => (published(object), object["spec"]["type"].as_str().map(str::to_owned), uid),
        Piece::Deployment => (Vec::new(), standstill(object), uid),
        _ => (Vec::new(), None, None),
    }
}

fn id_of(piece: Piece, object: &Value) -> Id {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    Id::new(piece, text("namespace"), text("name"))
}

/// The first Gateway that an object goes with.
fn owner_uid(object: &Value) -> &str {
    let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let gateway = owners.into_iter().find(|owner| owner["kind"] == "Gateway");
    gateway.and_then(|owner| owner["uid"].as_str()).unwrap_or_default()
}

/// Everything of an object that is not the server's own bookkeeping, as a hash.
fn looks(object: &Value) -> u64 {
    let metadata = &object["metadata"];
    let mut annotations = metadata["annotations"].as_object().cloned().unwrap_or_else(Map::new);
    annotations.shift_remove("deployment.kubernetes.io/revision");
    let parts = [
        &metadata["labels"],
        &Value::Object(annotations),
        &metadata["ownerReferences"],
        &object["spec"],
        &object["data"],
        &object["automountServiceAccountToken"],
    ];
    hash(&parts.map(Value::to_string).join("\n"))
}

/// Whether an object says everything that is wanted of it, whatever else it says.
fn covers(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => {
            wanted.iter().all(|(name, wanted)| there.get(name).is_some_and(|there| covers(there, wanted)))
        }
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len()
                && there.iter().zip(wanted).all(|(there, wanted)| covers(there, wanted))
        }
        _ => there == wanted,
    }
}

/// Whether two lists of ports say the same, in any order.
fn has_exactly(there: &Value, wanted: &Value) -> bool {
    let (Some(there), Some(wanted)) = (there.as_array(), wanted.as_array()) else { return false };
    there.len() == wanted.len() && wanted.iter().all(|wanted| there.iter().any(|there| covers(there, wanted)))
}

/// Whether `a` is a newer state than `b` of one object, where versions are numbers.
fn is_newer(a: &Value, b: &Value) -> bool {
    let version = |object: &Value| -> Option<u64> {
        object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok())
    };
    a["metadata"]["uid"] == b["metadata"]["uid"] && version(a) > version(b)
}

#[cfg(test)]
mod tests;

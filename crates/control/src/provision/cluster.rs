//! Data planes in a cluster: one for each managed Gateway, and the shared one that the installation made.
//!
//! Owns what should be there ([`Planes`]), the addresses that Services turned out to have, and the task that keeps one
//! like the other ([`keeper`]). Invariants: an object that another made is never changed nor deleted, but for the ports of
//! the shared data plane's Service; nothing is deleted because something is not known; what is ours is written with
//! server-side apply under our own name, against the version that was seen. Deliberately absent: pods (Deployments are
//! Kubernetes' to run), and deleting what goes with its Gateway (owner references do that).

pub(crate) mod configuration;
mod keeper;
pub(crate) mod objects;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use weir_core::{AddressProblem, ObjectKey};
use weir_model::resource::DataPlaneName;

pub use self::configuration::CONFIGURATION_FIELDS;
use self::configuration::Notice;
pub(crate) use self::objects::RESERVED_PORTS;
use self::objects::{Id, Piece};
use self::table::{Table, Wish};
use super::objects::{LABEL_BYTES, short};
use super::{Assigned, Assignment, GatewayView, PlanePlace};
use crate::call::Caller;
use crate::lease::LEASE_END;
use crate::metrics::ControlStatus;
use crate::rivals::Installations;

/// Settings of provisioning in a cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Where Weir is installed.
    pub namespace: String,
    /// The name of the installation; the shared data plane is called `<release>-gateway-proxy`.
    pub release: String,
    /// The image of data planes.
    pub image: String,
    /// When it is pulled; none: as Kubernetes has it for the image's tag.
    pub pull_policy: Option<String>,
    /// Secrets of a Gateway's namespace with which it is pulled; one that is not there does no harm.
    pub pull_secrets: Vec<String>,
    /// What data planes log; none: what they do of themselves.
    pub log: Option<String>,
    /// Where data planes find a controller, `HOST:PORT`.
    pub controller: String,
    /// Audience of the projected tokens.
    pub audience: String,
    /// The certificates of the authority that data planes trust, as PEM; empty until there is one.
    pub trust: watch::Receiver<Arc<str>>,
    /// Answer for Kong's names even where a controller of Kong's lives.
    pub take_over: bool,
}

impl Cluster {
    /// The shared data plane: the name of its Service, Deployment and ServiceAccount.
    pub fn shared_plane(&self) -> DataPlaneName {
        DataPlaneName::new(self.namespace.as_str(), format!("{}-gateway-proxy", self.release))
    }

    /// The value of the label `weir.dev/instance` on everything of this installation: `NAMESPACE.RELEASE`.
    pub fn instance(&self) -> String {
        instance(&self.namespace, &self.release)
    }

    /// The name of the ConfigMap with the authority's certificates, in each namespace with a data plane.
    pub fn trust_name(&self) -> String {
        short(&Cluster::authority_name(&self.release))
    }

    /// The name of the Secret with the authority of an installation.
    pub fn authority_name(release: &str) -> String {
        format!("{release}-weir-authority")
    }

    /// The Lease of the installation's controllers.
    pub fn lease_name(&self) -> String {
        format!("{}{LEASE_END}", self.release)
    }

    fn shared_service(&self) -> Id {
        let plane = self.shared_plane();
        Id::new(Piece::Service, &plane.namespace, &plane.name)
    }
}

/// The value of the label `weir.dev/instance` on everything of an installation.
pub(crate) fn instance(namespace: &str, release: &str) -> String {
    let plain = format!("{namespace}.{release}");
    // A label's value may have dots where a name may not.
    if plain.len() <= LABEL_BYTES { plain } else { short(&plain) }
}

/// A handle; cheap to clone.
#[derive(Clone)]
pub(crate) struct Planes {
    shared: Arc<Shared>,
}

struct Shared {
    cluster: Cluster,
    caller: Caller,
    status: Arc<ControlStatus>,
    /// The only namespaces in which anything is done; none: all.
    namespaces: Vec<String>,
    /// The installations that are there, as their objects' labels name them; `None` until that is known.
    installations: watch::Receiver<Option<Installations>>,
    table: Mutex<Table>,
    /// What was made of each Gateway last.
    made: Mutex<BTreeMap<ObjectKey, Made>>,
    /// Something is to be done.
    changed: Notify,
    /// Addresses or problems of Gateways may be others now.
    moved: Arc<Notify>,
}

/// What a Gateway comes to; it costs too much to be worked out again for each change of another.
struct Made {
    view: GatewayView,
    api_version: String,
    wishes: Vec<(Id, Arc<Wish>)>,
    notices: Vec<Notice>,
}

impl Made {
    fn of(view: &GatewayView, cluster: &Cluster, api_version: &str) -> Made {
        let (objects, notices) = objects::of_gateway(view, cluster, api_version);
        let asks_in_vain = table::vain(view).is_some();
        let wish = |(id, object): (Id, Value)| {
            let mut wish = Wish::new(object, Some(view.key.clone()), false);
            if id.piece == Piece::Service && asks_in_vain {
                wish = wish.held_back();
            }
            (id, Arc::new(wish))
        };
        let wishes = objects.into_iter().map(wish).collect();
        Made { view: view.clone(), api_version: api_version.to_owned(), wishes, notices }
    }
}

impl Planes {
    pub(crate) fn new(
        cluster: Cluster,
        caller: Caller,
        status: Arc<ControlStatus>,
        mut namespaces: Vec<String>,
        installations: watch::Receiver<Option<Installations>>,
    ) -> Planes {
        if !namespaces.is_empty() && !namespaces.contains(&cluster.namespace) {
            // The shared data plane lives there.
            namespaces.push(cluster.namespace.clone());
        }
        let table = Mutex::new(Table::new(&namespaces));
        let (made, changed, moved) = (Mutex::default(), Notify::new(), Arc::new(Notify::new()));
        let shared =
            Shared { cluster, caller, status, namespaces, installations, table, made, changed, moved };
        Planes { shared: Arc::new(shared) }
    }

    /// Whether it is known which Services and data planes there are: before that, none would be missing that is not.
    pub(crate) fn is_ready(&self) -> bool {
        self.shared.table.lock().knows_planes()
    }

    /// Rung when [`Planes::assign`] may say something else.
    pub(crate) fn moved(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.moved)
    }

    /// Where these Gateways are served, and at which addresses clients find them.
    pub(crate) fn assign(&self, gateways: &[GatewayView]) -> Assignment {
        let table = self.shared.table.lock();
        let assign = |view: &GatewayView| (view.key.clone(), self.assign_one(view, &table));
        Assignment { gateways: gateways.iter().map(assign).collect(), shared: None }
    }

    /// Whether pods of the Gateway with this uid are there.
    pub(crate) fn has(&self, uid: &str) -> bool {
        self.shared.table.lock().has_plane(uid)
    }

    /// The Service by which clients reach a Gateway.
    pub(crate) fn service(&self, view: &GatewayView) -> Id {
        self.service_in(view, &self.shared.table.lock())
    }

    fn service_in(&self, view: &GatewayView, table: &Table) -> Id {
        if view.is_unmanaged() {
            return self.shared_service();
        }
        // What it was called by is not there now: it is called as it was.
        let before = view.frozen.then(|| table.service_of(&view.key, &view.uid)).flatten();
        before.unwrap_or_else(|| objects::service_id(view))
    }

    /// That of the shared data plane.
    pub(crate) fn shared_service(&self) -> Id {
        self.shared.cluster.shared_service()
    }

    /// Whether a managed Gateway may have a Service that nobody has looked for yet.
    pub(crate) fn is_open(&self, view: &GatewayView) -> bool {
        let table = self.shared.table.lock();
        table.is_open(&self.service_in(view, &table), &view.key)
    }

    /// Why nobody gets through to a Gateway, with where to look for more.
    pub(crate) fn explain(&self, view: &GatewayView, problem: AddressProblem) -> AddressProblem {
        let plane =
            if view.is_unmanaged() { self.shared.cluster.shared_plane() } else { objects::plane(view) };
        let deployment = Id::new(Piece::Deployment, &plane.namespace, &plane.name);
        let whereabouts = self.shared.table.lock().whereabouts(&deployment);
        match problem {
            AddressProblem::NotReady(why) => AddressProblem::NotReady(format!("{why}; {whereabouts}")),
            AddressProblem::NoResources(why) => AddressProblem::NoResources(format!("{why}; {whereabouts}")),
            other => other,
        }
    }

    fn assign_one(&self, view: &GatewayView, table: &Table) -> Assigned {
        let shared = self.shared.cluster.shared_plane();
        if view.is_unmanaged() {
            let (published, problem) = table.addresses(&self.shared_service(), view);
            let place = PlanePlace { name: shared.place(), published };
            return Assigned { addresses: Vec::new(), plane: Some(place), problem };
        }
        let plane = objects::plane(view);
        if plane == shared {
            let why = format!("{shared} is the name of the shared data plane; give the Gateway another name");
            let problem = Some(AddressProblem::NoResources(why));
            return Assigned { addresses: Vec::new(), plane: None, problem };
        }
        let service = self.service_in(view, table);
        let (published, mut problem) = table.addresses(&service, view);
        let deployment = Id::new(Piece::Deployment, &plane.namespace, &plane.name);
        if let Some(why) = table.trouble(&view.key, &deployment) {
            problem = Some(AddressProblem::NoResources(format!("{why}; {}", table.whereabouts(&deployment))));
        }
        Assigned {
            addresses: Vec::new(),
            plane: Some(PlanePlace { name: plane.place(), published }),
            problem,
        }
    }

    /// What should be there from now on; what is to be told of it. `foreign`: uids of Gateways that are certainly not
    /// ours; `known`: whether Gateways and classes are served, so that one that is not here is not there.
    pub(crate) fn wish(
        &self,
        gateways: &[GatewayView],
        foreign: Vec<String>,
        known: bool,
        api_version: &str,
    ) -> Vec<(ObjectKey, Notice)> {
        let cluster = &self.shared.cluster;
        let authority = cluster.trust.borrow().clone();
        let mut notices = Vec::new();
        let mut table = self.shared.table.lock();
        let mut before = std::mem::take(&mut *self.shared.made.lock());
        let mut kept = BTreeMap::new();
        let unmanaged: Vec<&GatewayView> = gateways.iter().filter(|view| view.is_unmanaged()).collect();
        let shared = cluster.shared_service();
        let ports = objects::shared_service(&shared, &unmanaged);
        // Whoever is first has a name.
        let mut wishes = BTreeMap::from([(shared.clone(), Arc::new(Wish::new(ports, None, true)))]);
        let mut owners: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        let mut managed: Vec<&GatewayView> = gateways.iter().filter(|view| !view.is_unmanaged()).collect();
        // Of several that give one name to their Services the one has it that it was made for, else the oldest.
        managed.sort_by_cached_key(|view| {
            let has_it = table.is_made_for(&self.service_in(view, &table), &view.uid);
            (!has_it, view.created_seconds, view.key.clone())
        });
        for view in managed {
            if objects::plane(view) == cluster.shared_plane() {
                continue;
            }
            let owner = objects::owner(view, api_version, false);
            owners.entry(view.key.namespace.clone()).or_default().push(owner);
            let mut add = |own: &[(Id, Arc<Wish>)]| {
                for (id, wish) in own {
                    wishes.entry(id.clone()).or_insert_with(|| Arc::clone(wish));
                }
            };
            if view.frozen && table.has_plane(&view.uid) {
                // What it was made by is not there now: it goes on as it was.
                add(&table.wishes_of(&view.key));
                continue;
            }
            let made = before
                .remove(&view.key)
                .filter(|made| made.view == *view && made.api_version == api_version)
                .unwrap_or_else(|| Made::of(view, cluster, api_version));
            notices.extend(made.notices.iter().map(|notice| (view.key.clone(), notice.clone())));
            add(&made.wishes);
            kept.insert(view.key.clone(), made);
        }
        *self.shared.made.lock() = kept;
        let pods = Id { piece: Piece::Deployment, ..shared.clone() };
        if let Some(grace) = table.grace_of(&pods) {
            let told =
                |view: &&GatewayView| Some((view.key.clone(), objects::cut_short(view, &pods, grace)?));
            notices.extend(unmanaged.iter().filter_map(told));
        }
        if let Some(owner) = table.owner_by(&shared) {
            owners.entry(cluster.namespace.clone()).or_default().push(owner);
        }
        for (namespace, owners) in owners.iter().filter(|_| !authority.is_empty()) {
            let (id, object) = objects::trust(namespace, cluster, &authority, owners);
            wishes.insert(id, Arc::new(Wish::new(object, None, false)));
        }
        let ours = gateways.iter().filter(|view| !view.frozen).map(|view| view.uid.clone());
        table.wish(wishes, ours.chain(foreign).collect(), known, !authority.is_empty());
        drop(table);
        self.shared.changed.notify_one();
        notices
    }
}

//! The objects that show a sandbox's addresses: Services of type LoadBalancer, Kong's namespace and annotation.
//!
//! Holds what should be there ([`Wishes`]) and what was last seen, and makes the one like the other. Invariants: an
//! object that we did not make is never deleted, and of a Service named like ours only what we need is changed; what
//! somebody changes back is repaired; a write that fails is tried again with backoff, and nothing waits for it.
//! Deliberately absent: statuses (given to the status writer), and deleting a namespace (others may live in it).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use weir_api::gateway_api::ProtocolType;
use weir_api::kong::{
    INGRESS_CLASS, INGRESS_CONTROLLER, KIC_CONTROLLER, OPERATOR_CONTROLLER, PUBLISH_SERVICE_ANNOTATION,
};
use weir_core::{Kind, ObjectKey};

use super::sandbox::hash;
use super::{Assignment, GatewayView};
use crate::backoff::Backoff;
use crate::call::{CallError, Caller, PatchKind};
use crate::metrics::ControlStatus;
use crate::source::{RETRY_CAP, RETRY_FIRST};
use crate::status_writer::{Desired, StatusWriter};

/// Namespace and name of the Service that Kong's charts make for the proxy.
pub(crate) const KONG_NAMESPACE: &str = "kong";
const KONG_PROXY_SERVICE: &str = "kong-gateway-proxy";

const PUBLISHED_BY: &str = "kong/kong-gateway-proxy";

/// Marks Services that we made: `shared`, or `gateway`.
pub(crate) const PROVISIONED_LABEL: &str = "weir.dev/provisioned";
/// The label of the Gateway API for objects made for a Gateway.
pub(crate) const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";
/// Where the real ports are told if they are not the listeners': `80=8080,443=8443,53/udp=8053`.
const BOUND_PORTS_ANNOTATION: &str = "weir.dev/bound-ports";

/// The longest name of a Service and of a label's value, bytes (RFC 1123).
pub(crate) const LABEL_BYTES: usize = 63;

/// Real ports by address, listener port and whether it is one for UDP, where they differ.
pub(crate) type BoundPorts = BTreeMap<(IpAddr, u16, bool), u16>;

/// What should be there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Wishes {
    /// By namespace and name.
    services: BTreeMap<(String, String), ServiceWish>,
    /// Namespaces that are made if they are not there.
    namespaces: BTreeSet<String>,
    /// Whether the IngressClass that Kong's chart brings is made, once: whoever deletes it means it.
    ingress_class: bool,
    /// Uids of all Gateways.
    gateways: BTreeSet<String>,
    /// Gateways, by key and uid, and the value that their publish-service annotation should get.
    annotations: BTreeMap<(ObjectKey, String), Option<&'static str>>,
}

#[derive(Clone, Debug, PartialEq)]
struct ServiceWish {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    ports: Vec<PortWish>,
    addresses: Vec<IpAddr>,
    /// Name, uid and apiVersion of the Gateway that it goes with.
    owner: Option<(String, String, String)>,
}

#[derive(Clone, Debug, PartialEq)]
struct PortWish {
    name: String,
    port: u16,
    udp: bool,
}

impl Wishes {
    /// For these Gateways with these addresses. `api_version`: of Gateways.
    pub(crate) fn of(
        gateways: &[GatewayView],
        assignment: &Assignment,
        bound: &BoundPorts,
        api_version: &str,
    ) -> Wishes {
        let mut wishes = Wishes::default();
        if let Some(shared) = assignment.shared {
            let key = (KONG_NAMESPACE.to_owned(), KONG_PROXY_SERVICE.to_owned());
            wishes.services.insert(key, shared_service(gateways, shared, bound));
            wishes.namespaces.insert(KONG_NAMESPACE.to_owned());
            wishes.ingress_class = true;
        }
        for view in gateways {
            wishes.gateways.insert(view.uid.clone());
            let named = view.publish_service.as_deref();
            if view.is_unmanaged() {
                if named.is_none() {
                    wishes.annotations.insert((view.key.clone(), view.uid.clone()), Some(PUBLISHED_BY));
                }
                continue;
            }
            if named == Some(PUBLISHED_BY) {
                wishes.annotations.insert((view.key.clone(), view.uid.clone()), None);
            }
            let addresses = assignment.gateways.get(&view.key).map_or(&[][..], |given| &given.addresses);
            if !addresses.is_empty() {
                let key = (view.key.namespace.clone(), service_name(view));
                wishes.services.insert(key, own_service(view, addresses, bound, api_version));
            }
        }
        wishes
    }
}

fn shared_service(gateways: &[GatewayView], address: IpAddr, bound: &BoundPorts) -> ServiceWish {
    let wanted: BTreeSet<(u16, bool)> = gateways
        .iter()
        .filter(|view| view.is_unmanaged())
        .flat_map(|view| &view.ports)
        .map(|(port, protocol)| (*port, is_udp(protocol)))
        .chain([(80, false), (443, false)])
        .collect();
    let ports = wanted.into_iter().map(|(port, udp)| {
        // The names that Kong's chart gives.
        let name = match (port, udp) {
            (80, false) => "kong-proxy".to_owned(),
            (443, false) => "kong-proxy-tls".to_owned(),
            (port, false) => format!("port-{port}"),
            (port, true) => format!("port-{port}-udp"),
        };
        PortWish { name, port, udp }
    });
    let ports: Vec<PortWish> = ports.collect();
    ServiceWish {
        labels: BTreeMap::from([
            ("app.kubernetes.io/managed-by".to_owned(), "weir".to_owned()),
            ("app.kubernetes.io/name".to_owned(), "kong-gateway".to_owned()),
            (PROVISIONED_LABEL.to_owned(), "shared".to_owned()),
        ]),
        annotations: bound_ports(&[address], &ports, bound),
        ports,
        addresses: vec![address],
        owner: None,
    }
}

fn own_service(
    view: &GatewayView,
    addresses: &[IpAddr],
    bound: &BoundPorts,
    api_version: &str,
) -> ServiceWish {
    let wanted: BTreeSet<(u16, bool)> =
        view.ports.iter().map(|(port, protocol)| (*port, is_udp(protocol))).collect();
    let mut ports: Vec<PortWish> = wanted
        .into_iter()
        .map(|(port, udp)| {
            let name = if udp { format!("port-{port}-udp") } else { format!("port-{port}") };
            PortWish { name, port, udp }
        })
        .collect();
    if ports.is_empty() {
        // A Service needs a port; a Gateway none of whose listeners is served has none of its own.
        ports.push(PortWish { name: "port-80".to_owned(), port: 80, udp: false });
    }
    let mut labels = view.labels.clone();
    labels.insert("app.kubernetes.io/managed-by".to_owned(), "weir".to_owned());
    labels.insert(GATEWAY_NAME_LABEL.to_owned(), gateway_label(&view.key.name));
    labels.insert(PROVISIONED_LABEL.to_owned(), "gateway".to_owned());
    let mut annotations = view.annotations.clone();
    annotations.extend(bound_ports(addresses, &ports, bound));
    ServiceWish {
        labels,
        annotations,
        ports,
        addresses: addresses.to_vec(),
        owner: Some((view.key.name.clone(), view.uid.clone(), api_version.to_owned())),
    }
}

/// Named like the operator's for the operator's classes, so that what looks for that finds it.
fn service_name(view: &GatewayView) -> String {
    let prefix = match view.controller.as_str() {
        OPERATOR_CONTROLLER | KIC_CONTROLLER => "dataplane-ingress",
        _ => "weir-gateway",
    };
    short(&format!("{prefix}-{}", view.key.name))
}

/// The value of the label `gateway.networking.k8s.io/gateway-name` on what is made for a Gateway: its name (GEP-1762), and where that is
/// longer than a label's value may be, its beginning with a hash. No two Gateways of a namespace have the same.
pub fn gateway_label(name: &str) -> String {
    if name.len() <= LABEL_BYTES { name.to_owned() } else { short(name) }
}

/// A name within the limit: its end is replaced by a hash if it is too long; dots become dashes.
pub(crate) fn short(name: &str) -> String {
    if name.len() <= LABEL_BYTES {
        return name.replace('.', "-");
    }
    let stem: String = name.chars().take(LABEL_BYTES - 9).collect();
    format!("{}-{:08x}", stem.replace('.', "-"), hash(name) >> 32)
}

pub(crate) fn is_udp(protocol: &ProtocolType) -> bool {
    *protocol == ProtocolType::Udp
}

fn bound_ports(addresses: &[IpAddr], ports: &[PortWish], bound: &BoundPorts) -> BTreeMap<String, String> {
    let told: Vec<String> = ports
        .iter()
        .filter_map(|wish| {
            let real = addresses.iter().find_map(|address| bound.get(&(*address, wish.port, wish.udp)))?;
            Some(format!("{}{}={real}", wish.port, if wish.udp { "/udp" } else { "" }))
        })
        .collect();
    if told.is_empty() {
        return BTreeMap::new();
    }
    BTreeMap::from([(BOUND_PORTS_ANNOTATION.to_owned(), told.join(","))])
}

/// A handle; cheap to clone.
#[derive(Clone)]
pub(crate) struct Publisher {
    shared: Arc<Shared>,
}

struct Shared {
    caller: Caller,
    status: Arc<ControlStatus>,
    statuses: StatusWriter,
    table: Mutex<Table>,
    changed: Notify,
}

#[derive(Default)]
struct Table {
    wishes: Wishes,
    /// Services that we made or that are named like ours, by namespace and name.
    services: BTreeMap<(String, String), Value>,
    /// Namespaces of [`Wishes::namespaces`] that are there.
    namespaces: BTreeSet<String>,
    ingress_class_made: bool,
    /// The path of the collection of Gateways.
    gateways: Option<crate::call::Collection>,
    /// Gateways, by uid, whose annotation has been written (true) or taken away: once is enough.
    annotated: BTreeMap<String, bool>,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
enum Action {
    CreateNamespace(String),
    CreateIngressClass,
    CreateService { path: String, object: Value },
    PatchService { path: String, patch: Value },
    DeleteService { key: (String, String), path: String, uid: String },
    Annotate { uid: String, path: String, value: Option<&'static str> },
}

impl Publisher {
    pub(crate) fn new(caller: Caller, status: Arc<ControlStatus>, statuses: StatusWriter) -> Publisher {
        let shared = Shared { caller, status, statuses, table: Mutex::default(), changed: Notify::new() };
        Publisher { shared: Arc::new(shared) }
    }

    /// What should be there from now on. `gateways` is where Gateways are written.
    pub(crate) fn wish(&self, wishes: Wishes, gateways: Option<crate::call::Collection>) {
        let mut table = self.shared.table.lock();
        table.gateways = gateways;
        if table.wishes != wishes {
            table.annotated.retain(|uid, _| wishes.gateways.contains(uid));
            table.wishes = wishes;
            self.shared.changed.notify_one();
        }
    }

    /// A Service as a watch or list showed it.
    pub(crate) fn observe_service(&self, object: &Value) {
        let metadata = &object["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = (text(&metadata["namespace"]), text(&metadata["name"]));
        let is_kong_proxy = key.0 == KONG_NAMESPACE && key.1 == KONG_PROXY_SERVICE;
        if !is_kong_proxy && metadata["labels"].get(PROVISIONED_LABEL).is_none() {
            return self.forget_service(&key.0, &key.1);
        }
        let mut table = self.shared.table.lock();
        if table.services.get(&key).is_none_or(|before| !is_newer(before, object)) {
            table.services.insert(key, object.clone());
            self.shared.changed.notify_one();
        }
    }

    pub(crate) fn forget_service(&self, namespace: &str, name: &str) {
        let mut table = self.shared.table.lock();
        if table.services.remove(&(namespace.to_owned(), name.to_owned())).is_some() {
            self.shared.changed.notify_one();
        }
    }

    /// Whether the namespace is there.
    pub(crate) fn observe_namespace(&self, name: &str, there: bool) {
        let mut table = self.shared.table.lock();
        let changed =
            if there { table.namespaces.insert(name.to_owned()) } else { table.namespaces.remove(name) };
        if changed {
            self.shared.changed.notify_one();
        }
    }

    /// Keep things as they should be until shutdown.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
        loop {
            let failed = tokio::select! {
                () = shutdown.cancelled() => return,
                failed = self.round() => failed,
            };
            let wait = if failed { backoff.next_wait() } else { Duration::MAX };
            if !failed {
                backoff.reset();
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.shared.changed.notified() => {}
                () = tokio::time::sleep(wait), if failed => {}
            }
        }
    }

    /// Do everything that is to do now; whether something failed.
    async fn round(&self) -> bool {
        let mut failed = false;
        // Each pass may show more to do (the Service after its namespace); two are enough, and a watch event brings
        // another round.
        for _pass in 0..2 {
            let actions = self.shared.table.lock().actions();
            for action in actions {
                if let Err(error) = self.act(&action).await {
                    tracing::warn!(%error, action = action.name(), "provisioned object not written");
                    failed = true;
                }
            }
        }
        self.publish();
        failed
    }

    async fn act(&self, action: &Action) -> Result<(), CallError> {
        let caller = &self.shared.caller;
        let answer = match action {
            Action::CreateNamespace(name) => {
                let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
                match caller.create("/api/v1/namespaces", &object).await {
                    Err(error) if error.is_already_exists() => Ok(Value::Null),
                    other => other,
                }
            }
            Action::CreateIngressClass => {
                let object = json!({
                    "apiVersion": "networking.k8s.io/v1",
                    "kind": "IngressClass",
                    "metadata": {"name": INGRESS_CLASS},
                    "spec": {"controller": INGRESS_CONTROLLER},
                });
                match caller.create("/apis/networking.k8s.io/v1/ingressclasses", &object).await {
                    Err(error) if error.is_already_exists() => Ok(Value::Null),
                    other => other,
                }
            }
            Action::CreateService { path, object } => match caller.create(path, object).await {
                Err(error) if error.is_already_exists() => {
                    let name = object["metadata"]["name"].as_str().unwrap_or_default();
                    caller.get(&format!("{path}/{name}")).await
                }
                other => other,
            },
            Action::PatchService { path, patch } => caller.patch(path, PatchKind::Merge, patch).await,
            Action::DeleteService { path, uid, .. } => {
                let options =
                    json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}});
                caller.delete(path, &options).await
            }
            Action::Annotate { path, value, .. } => {
                let patch = json!({"metadata": {"annotations": {PUBLISH_SERVICE_ANNOTATION: value}}});
                caller.patch(path, PatchKind::Merge, &patch).await
            }
        };
        let object = match answer {
            // Gone meanwhile, and so is the reason to write it.
            Err(error) if error.is_not_found() && !matches!(action, Action::CreateService { .. }) => {
                Value::Null
            }
            Err(error) => return Err(error),
            Ok(object) => object,
        };
        self.shared.status.provision_writes.add(1);
        self.done(action, &object);
        Ok(())
    }

    /// Take the answer of a write for seen, so that it is not done twice before the watch shows it.
    fn done(&self, action: &Action, object: &Value) {
        let mut table = self.shared.table.lock();
        match action {
            Action::CreateNamespace(name) => {
                table.namespaces.insert(name.clone());
            }
            Action::CreateIngressClass => table.ingress_class_made = true,
            Action::CreateService { .. } | Action::PatchService { .. } => {
                drop(table);
                if object.is_object() {
                    self.observe_service(object);
                }
            }
            Action::DeleteService { key, .. } => {
                table.services.remove(key);
            }
            Action::Annotate { uid, value, .. } => {
                table.annotated.insert(uid.clone(), value.is_some());
            }
        }
    }

    /// Give the load balancer statuses to the status writer.
    fn publish(&self) {
        let table = self.shared.table.lock();
        for (key, wish) in &table.wishes.services {
            let Some(object) = table.services.get(key) else { continue };
            let status_key = ObjectKey::new(Kind::Service, key.0.clone(), key.1.clone());
            let ingress: Vec<Value> = wish.addresses.iter().map(|address| json!({"ip": address})).collect();
            let mut fields = Map::new();
            fields.insert("loadBalancer".to_owned(), json!({"ingress": ingress}));
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
            self.shared.statuses.observe(&status_key, object);
            self.shared.statuses.want(&status_key, uid, 0, Desired::Own(fields));
        }
    }
}

impl Table {
    /// The writes that make what is there like what should be.
    fn actions(&self) -> Vec<Action> {
        let mut actions: Vec<Action> = self
            .wishes
            .namespaces
            .difference(&self.namespaces)
            .map(|name| Action::CreateNamespace(name.clone()))
            .collect();
        if self.wishes.ingress_class && !self.ingress_class_made {
            actions.push(Action::CreateIngressClass);
        }
        for (key, wish) in &self.wishes.services {
            let collection = format!("/api/v1/namespaces/{}/services", key.0);
            match self.services.get(key) {
                None => actions
                    .push(Action::CreateService { path: collection, object: wish.object(&key.0, &key.1) }),
                Some(there) => {
                    if let Some(patch) = wish.difference(there) {
                        actions.push(Action::PatchService { path: format!("{collection}/{}", key.1), patch });
                    }
                }
            }
        }
        for (key, there) in &self.services {
            let ours = there["metadata"]["labels"].get(PROVISIONED_LABEL).is_some();
            if ours && !self.wishes.services.contains_key(key) {
                actions.push(Action::DeleteService {
                    key: key.clone(),
                    path: format!("/api/v1/namespaces/{}/services/{}", key.0, key.1),
                    uid: there["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
                });
            }
        }
        if let Some(gateways) = &self.gateways {
            for ((key, uid), value) in &self.wishes.annotations {
                if self.annotated.get(uid) != Some(&value.is_some()) {
                    let path = gateways.path(&key.namespace, &key.name);
                    actions.push(Action::Annotate { uid: uid.clone(), path, value: *value });
                }
            }
        }
        actions
    }
}

impl Action {
    fn name(&self) -> &'static str {
        match self {
            Action::CreateNamespace(_) => "create namespace",
            Action::CreateIngressClass => "create ingress class",
            Action::CreateService { .. } => "create service",
            Action::PatchService { .. } => "patch service",
            Action::DeleteService { .. } => "delete service",
            Action::Annotate { .. } => "annotate gateway",
        }
    }
}

impl ServiceWish {
    fn object(&self, namespace: &str, name: &str) -> Value {
        let mut metadata = json!({
            "namespace": namespace,
            "name": name,
            "labels": self.labels,
            "annotations": self.annotations,
        });
        if let Some(owners) = self.owners() {
            metadata["ownerReferences"] = owners;
        }
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"type": "LoadBalancer", "ports": self.ports(&Value::Null)},
        })
    }

    fn owners(&self) -> Option<Value> {
        let (name, uid, api_version) = self.owner.as_ref()?;
        Some(json!([{
            "apiVersion": api_version, "kind": "Gateway", "name": name, "uid": uid,
            "controller": true, "blockOwnerDeletion": true,
        }]))
    }

    /// The ports, with the node ports that the Service has already.
    fn ports(&self, there: &Value) -> Vec<Value> {
        let existing = there["spec"]["ports"].as_array().map_or(&[][..], Vec::as_slice);
        let port = |wish: &PortWish| {
            let protocol = if wish.udp { "UDP" } else { "TCP" };
            let mut port = json!({
                "name": wish.name, "protocol": protocol, "port": wish.port, "targetPort": wish.port,
            });
            let same = existing.iter().find(|old| old["port"] == wish.port && old["protocol"] == protocol);
            if let Some(node_port) = same.and_then(|old| old.get("nodePort")) {
                port["nodePort"] = node_port.clone();
            }
            port
        };
        self.ports.iter().map(port).collect()
    }

    /// A merge patch that makes the Service what it should be, or `None` if it is.
    fn difference(&self, there: &Value) -> Option<Value> {
        let mut metadata = Map::new();
        for (field, wanted) in [("labels", &self.labels), ("annotations", &self.annotations)] {
            let mut changes: Map<String, Value> = wanted
                .iter()
                .filter(|(key, value)| there["metadata"][field][key.as_str()] != value.as_str())
                .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
                .collect();
            let stale = field == "annotations"
                && !wanted.contains_key(BOUND_PORTS_ANNOTATION)
                && there["metadata"][field].get(BOUND_PORTS_ANNOTATION).is_some();
            if stale {
                changes.insert(BOUND_PORTS_ANNOTATION.to_owned(), Value::Null);
            }
            if !changes.is_empty() {
                metadata.insert(field.to_owned(), Value::Object(changes));
            }
        }
        if let Some(owners) = self.owners()
            && there["metadata"]["ownerReferences"][0]["uid"] != owners[0]["uid"]
        {
            metadata.insert("ownerReferences".to_owned(), owners);
        }
        let mut spec = Map::new();
        if there["spec"]["type"] != "LoadBalancer" {
            spec.insert("type".to_owned(), Value::from("LoadBalancer"));
        }
        let ports = self.ports(there);
        let same = |old: &Value, new: &Value| {
            ["name", "protocol", "port", "targetPort"].iter().all(|field| old[*field] == new[*field])
        };
        let existing = there["spec"]["ports"].as_array().map_or(&[][..], Vec::as_slice);
        if existing.len() != ports.len() || !existing.iter().zip(&ports).all(|(old, new)| same(old, new)) {
            spec.insert("ports".to_owned(), Value::Array(ports));
        }
        let mut patch = Map::new();
        for (field, changes) in [("metadata", metadata), ("spec", spec)] {
            if !changes.is_empty() {
                patch.insert(field.to_owned(), Value::Object(changes));
            }
        }
        (!patch.is_empty()).then_some(Value::Object(patch))
    }
}

/// Whether `a` is a newer state than `b` of one object, where versions are numbers.
fn is_newer(a: &Value, b: &Value) -> bool {
    let version = |object: &Value| -> Option<u64> {
        object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok())
    };
    a["metadata"]["uid"] == b["metadata"]["uid"] && version(a) > version(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provision::sandbox::tests::{unmanaged, view};
    use crate::provision::{Provision, Sandbox};

    fn assigned(views: &[GatewayView], shared: bool) -> Assignment {
        Provision::Sandbox(Sandbox::new("127.64.0.0/16".parse().unwrap())).assign(views, shared)
    }

    fn table(views: &[GatewayView], shared: bool, bound: &BoundPorts) -> Table {
        let wishes = Wishes::of(views, &assigned(views, shared), bound, "gateway.networking.k8s.io/v1");
        let gateways = crate::call::Collection {
            group: "gateway.networking.k8s.io",
            version: "v1",
            plural: "gateways",
            namespaced: true,
        };
        Table { wishes, gateways: Some(gateways), ..Table::default() }
    }

    fn created(table: &Table) -> Vec<Value> {
        let actions = table.actions();
        actions
            .into_iter()
            .filter_map(|action| match action {
                Action::CreateService { object, .. } => Some(object),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn nothing_is_made_before_a_class_of_kongs_exists() {
        assert_eq!(table(&[], false, &BoundPorts::new()).actions(), []);
    }

    #[test]
    fn the_first_class_brings_namespace_and_proxy_service() {
        let table = table(&[], true, &BoundPorts::new());
        let actions = table.actions();
        assert_eq!(actions[0], Action::CreateNamespace("kong".to_owned()));
        let service = &created(&table)[0];
        assert_eq!(service["metadata"]["name"], "kong-gateway-proxy");
        assert_eq!(service["spec"]["type"], "LoadBalancer");
        assert_eq!(service["spec"]["ports"][0]["name"], "kong-proxy");
        assert_eq!(service["spec"]["ports"][0]["port"], 80);
        assert_eq!(service["spec"]["ports"][1]["name"], "kong-proxy-tls");
        assert!(actions.contains(&Action::CreateIngressClass));
        assert_eq!(actions.len(), 3);
    }

    #[test]
    fn the_proxy_service_has_every_port_of_the_unmanaged_gateways() {
        let mut gateway = unmanaged("kong");
        gateway.ports = vec![(8080, ProtocolType::Http), (80, ProtocolType::Http), (53, ProtocolType::Udp)];
        let service = &created(&table(&[gateway], true, &BoundPorts::new()))[0];
        let ports: Vec<(u64, &str)> = service["spec"]["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| (port["port"].as_u64().unwrap(), port["protocol"].as_str().unwrap()))
            .collect();
        assert_eq!(ports, [(53, "UDP"), (80, "TCP"), (443, "TCP"), (8080, "TCP")]);
    }

    #[test]
    fn a_service_that_is_as_it_should_be_is_left_alone_and_a_changed_one_is_repaired() {
        let mut table = table(&[], true, &BoundPorts::new());
        table.namespaces.insert("kong".to_owned());
        table.ingress_class_made = true;
        let mut there = created(&table).remove(0);
        there["spec"]["ports"][0]["nodePort"] = json!(31_000);
        there["spec"]["clusterIP"] = json!("10.96.0.9");
        there["metadata"]["labels"]["somebody"] = json!("else");
        let key = ("kong".to_owned(), "kong-gateway-proxy".to_owned());
        table.services.insert(key.clone(), there.clone());
        assert_eq!(table.actions(), []);
        there["spec"]["type"] = json!("ClusterIP");
        there["spec"]["ports"].as_array_mut().unwrap().pop();
        table.services.insert(key, there);
        let [Action::PatchService { patch, .. }] = &table.actions()[..] else { panic!("one repair") };
        assert_eq!(patch["spec"]["type"], "LoadBalancer");
        assert_eq!(patch["spec"]["ports"][0]["nodePort"], 31_000, "node ports stay");
        assert_eq!(patch["spec"]["ports"][1]["port"], 443);
        assert!(patch.get("metadata").is_none());
    }

    #[test]
    fn a_managed_gateway_has_a_service_beside_it_that_goes_with_it() {
        let mut gateway = view("kong");
        gateway.controller = OPERATOR_CONTROLLER.to_owned();
        gateway.ports = vec![(80, ProtocolType::Http)];
        let mut table = table(std::slice::from_ref(&gateway), false, &BoundPorts::new());
        let service = created(&table).remove(0);
        assert_eq!(service["metadata"]["name"], "dataplane-ingress-kong");
        assert_eq!(service["metadata"]["namespace"], "default");
        assert_eq!(service["metadata"]["labels"][GATEWAY_NAME_LABEL], "kong");
        assert_eq!(service["metadata"]["ownerReferences"][0]["uid"], "kong");
        table.services.insert(("default".to_owned(), "dataplane-ingress-kong".to_owned()), service);
        assert_eq!(table.actions(), []);
        table.wishes = Wishes::default();
        assert!(matches!(&table.actions()[..], [Action::DeleteService { .. }]));
    }

    #[test]
    fn a_service_that_somebody_else_made_is_never_deleted() {
        let mut table = Table::default();
        let key = ("kong".to_owned(), "kong-gateway-proxy".to_owned());
        table.services.insert(key, json!({"metadata": {"uid": "1", "labels": {"app": "kong"}}}));
        assert_eq!(table.actions(), []);
    }

    #[test]
    fn unmanaged_gateways_are_annotated_once_and_lose_it_when_they_move() {
        let gateway = unmanaged("kong");
        let mut first = table(std::slice::from_ref(&gateway), true, &BoundPorts::new());
        let annotations = |table: &Table| {
            let actions = table.actions().into_iter();
            actions.filter(|action| matches!(action, Action::Annotate { .. })).collect::<Vec<_>>()
        };
        let [Action::Annotate { path, value, .. }] = &annotations(&first)[..] else {
            panic!("one annotation")
        };
        assert_eq!(path, "/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways/kong");
        assert_eq!(*value, Some("kong/kong-gateway-proxy"));
        first.annotated.insert("kong".to_owned(), true);
        assert_eq!(annotations(&first), []);
        let moved = GatewayView { publish_service: Some(PUBLISHED_BY.to_owned()), ..view("kong") };
        let moved = table(&[moved], true, &BoundPorts::new());
        assert!(matches!(&annotations(&moved)[..], [Action::Annotate { value: None, .. }]));
        let theirs = GatewayView { publish_service: Some("a/b".to_owned()), ..unmanaged("kong") };
        assert_eq!(annotations(&table(&[theirs], true, &BoundPorts::new())), []);
    }

    #[test]
    fn real_ports_are_told_where_they_differ() {
        let address = assigned(&[], true).shared.unwrap();
        let bound = BoundPorts::from([((address, 80, false), 8080), ((address, 443, false), 8443)]);
        let with = table(&[], true, &bound);
        let service = created(&with).remove(0);
        assert_eq!(service["metadata"]["annotations"][BOUND_PORTS_ANNOTATION], "80=8080,443=8443");
        let mut without = table(&[], true, &BoundPorts::new());
        without.namespaces.insert("kong".to_owned());
        without.ingress_class_made = true;
        without.services.insert(("kong".to_owned(), "kong-gateway-proxy".to_owned()), service);
        let [Action::PatchService { patch, .. }] = &without.actions()[..] else { panic!("one repair") };
        assert_eq!(*patch, json!({"metadata": {"annotations": {BOUND_PORTS_ANNOTATION: null}}}));
    }

    #[test]
    fn the_real_port_of_one_transport_is_never_told_as_that_of_the_other() {
        let both = GatewayView {
            ports: [(53, ProtocolType::Tcp), (53, ProtocolType::Udp)].into_iter().collect(),
            ..unmanaged("kong")
        };
        let address = assigned(std::slice::from_ref(&both), true).shared.unwrap();
        for (udp, told) in [(false, "53=8053"), (true, "53/udp=8053")] {
            let bound = BoundPorts::from([((address, 53, udp), 8053)]);
            let service = created(&table(std::slice::from_ref(&both), true, &bound)).remove(0);
            assert_eq!(service["metadata"]["annotations"][BOUND_PORTS_ANNOTATION], told);
        }
    }

    #[test]
    fn long_names_are_cut_to_what_a_label_takes() {
        let long = "a".repeat(70);
        let cut = short(&long);
        assert_eq!(cut.len(), 63);
        assert_ne!(cut, short(&format!("{long}b")));
        assert_eq!(short("a.b"), "a-b");
    }
}

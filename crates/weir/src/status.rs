//! `weir status`: every Gateway, ListenerSet, route and policy, and whatever is not as it should be.

use std::process::ExitCode;

use anyhow::{Context, Result};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client};
use serde_json::Value;
use weir_control::Kind;

use crate::cli::ClientOptions;
use crate::{client, sandbox};

pub(crate) fn run(options: &ClientOptions) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let client = client::connect(options).await?;
        let mut report = Report::new();
        // A class says nothing that its Gateways do not say, and a configuration has no status of its own to speak of.
        for kind in stated_kinds().filter(|kind| *kind != Kind::GatewayClass) {
            let objects = list(&client, kind).await?;
            objects.iter().for_each(|object| report.add(kind, object));
        }
        anyhow::Ok(report)
    })?;
    print!("{}", client::table(&report.rows));
    if !report.notes.is_empty() {
        println!();
    }
    for note in &report.notes {
        println!("{note}");
    }
    if report.ports_moved {
        print!("{}", sandbox::low_port_remedies());
    }
    Ok(if report.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The kinds of the Gateway API to whose objects Weir writes statuses.
pub(crate) fn stated_kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| kind.has_status() && *kind != Kind::GatewayConfiguration)
}

/// All objects of a kind, of every namespace; none where the API does not serve the kind.
pub(crate) async fn list(client: &Client, kind: Kind) -> Result<Vec<DynamicObject>> {
    list_in(client, kind, None).await
}

/// The same of one namespace, or of all.
pub(crate) async fn list_in(
    client: &Client,
    kind: Kind,
    namespace: Option<&str>,
) -> Result<Vec<DynamicObject>> {
    Ok(served(client, kind, namespace).await?.map(|(_, objects)| objects).unwrap_or_default())
}

/// The best version in which the API serves a kind, with all its objects, or with those of a namespace.
pub(crate) async fn served(
    client: &Client,
    kind: Kind,
    namespace: Option<&str>,
) -> Result<Option<(ApiResource, Vec<DynamicObject>)>> {
    for version in kind.versions() {
        let resource = ApiResource {
            group: kind.group().to_owned(),
            version: (*version).to_owned(),
            api_version: format!("{}/{version}", kind.group()),
            kind: kind.as_str().to_owned(),
            plural: kind.plural().to_owned(),
        };
        let api = match namespace {
            Some(namespace) => Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        match api.list(&ListParams::default()).await {
            Ok(objects) => return Ok(Some((resource, objects.items))),
            Err(kube::Error::Api(status)) if client::is_absent(&status) => {}
            Err(error) => {
                return Err(client::told(error)).with_context(|| format!("listing {}", kind.plural()));
            }
        }
    }
    Ok(None)
}

/// A kind of the Gateway API at v1.
pub(crate) fn gateway_api(kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: "gateway.networking.k8s.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "gateway.networking.k8s.io/v1".to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

struct Report {
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
    /// A socket is not on its listener's port, for want of a right.
    ports_moved: bool,
    healthy: bool,
}

impl Report {
    fn new() -> Report {
        let head = ["KIND", "NAME", "ADDRESS", "STATUS"].map(str::to_owned).to_vec();
        Report { rows: vec![head], notes: Vec::new(), ports_moved: false, healthy: true }
    }

    fn add(&mut self, kind: Kind, object: &DynamicObject) {
        match kind {
            Kind::Gateway => self.add_gateway(object),
            Kind::ListenerSet => {
                self.note_ports(&name(object), &object.data["status"]);
                self.add_row(kind.as_str(), object, String::new(), "Programmed");
            }
            _ if kind.is_policy() && array(&object.data["status"]["ancestors"]).is_empty() => {
                self.add_row(kind.as_str(), object, String::new(), "in no use");
            }
            _ => self.add_row(kind.as_str(), object, String::new(), "Accepted"),
        }
    }

    fn add_gateway(&mut self, gateway: &DynamicObject) {
        let status = &gateway.data["status"];
        let addresses: Vec<&str> =
            array(&status["addresses"]).iter().filter_map(|a| a["value"].as_str()).collect();
        self.note_ports(&name(gateway), status);
        let unclaimed = array(&status["conditions"]).iter().all(|c| c["status"] == "Unknown");
        let good = if unclaimed { "waiting for a controller" } else { "Programmed" };
        self.add_row("Gateway", gateway, addresses.join(","), good);
    }

    /// Sockets that are not on the listener's port (no right to bind low ports), as the condition says them.
    fn note_ports(&mut self, gateway: &str, status: &Value) {
        for listener in array(&status["listeners"]) {
            for condition in array(&listener["conditions"]) {
                let message = condition["message"].as_str().unwrap_or_default();
                if condition["type"] == "Programmed"
                    && condition["status"] == "True"
                    && message.contains("instead of")
                {
                    self.notes.push(format!("{gateway}: {message}"));
                    self.ports_moved = true;
                }
            }
        }
    }

    fn add_row(&mut self, kind: &str, object: &DynamicObject, address: String, good: &str) {
        let mut lines = all_problems(object).into_iter();
        let first = lines.next();
        self.healthy &= first.is_none();
        let status = first.unwrap_or_else(|| good.to_owned());
        self.rows.push(vec![kind.to_owned(), name(object), address, status]);
        self.rows.extend(lines.map(|line| vec![String::new(), String::new(), String::new(), line]));
    }
}

/// Whatever in an object's status is not as it should be, one line each.
pub(crate) fn all_problems(object: &DynamicObject) -> Vec<String> {
    let status = &object.data["status"];
    let mut found = problems(&status["conditions"]);
    for listener in array(&status["listeners"]) {
        let name = listener["name"].as_str().unwrap_or_default();
        found.extend(problems(&listener["conditions"]).into_iter().map(|p| format!("listener {name}: {p}")));
    }
    let parents = array(&status["parents"]);
    for parent in parents {
        let gateway = parent["parentRef"]["name"].as_str().unwrap_or_default();
        found.extend(problems(&parent["conditions"]).into_iter().map(|p| format!("{gateway}: {p}")));
    }
    for ancestor in array(&status["ancestors"]) {
        let gateway = ancestor["ancestorRef"]["name"].as_str().unwrap_or_default();
        found.extend(problems(&ancestor["conditions"]).into_iter().map(|p| format!("{gateway}: {p}")));
    }
    let wanted: Vec<&str> =
        array(&object.data["spec"]["parentRefs"]).iter().filter_map(|p| p["name"].as_str()).collect();
    if parents.is_empty() && !wanted.is_empty() {
        found.push(format!("no Gateway of Weir's has taken it (spec.parentRefs: {})", wanted.join(", ")));
    }
    found
}

/// Conditions that should be True and are not, or should not be True and are.
fn problems(conditions: &Value) -> Vec<String> {
    let bad = |condition: &&Value| match condition["type"].as_str() {
        Some("Conflicted" | "PartiallyInvalid" | "OverlappingTLSConfig") => condition["status"] == "True",
        _ => condition["status"] == "False",
    };
    let words = |condition: &Value| {
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        format!("{}={} {}: {}", text("type"), text("status"), text("reason"), text("message"))
    };
    array(conditions).iter().filter(bad).map(words).collect()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// `namespace/name`, or the name alone.
pub(crate) fn name(object: &DynamicObject) -> String {
    let parts = [&object.metadata.namespace, &object.metadata.name];
    parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join("/")
}

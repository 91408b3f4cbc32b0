//! `weir status`: every Gateway and route with its address and whatever is not as it should be.

use std::process::ExitCode;

use anyhow::{Context, Result};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client};
use serde_json::Value;

use crate::cli::ClientOptions;
use crate::{client, sandbox};

pub(crate) fn run(options: &ClientOptions) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let client = client::connect(options).await?;
        let gateways = list(&client, "Gateway", "gateways").await?;
        let routes = list(&client, "HTTPRoute", "httproutes").await?;
        anyhow::Ok(Report::new(&gateways, &routes))
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

/// All objects of a kind of the Gateway API, of every namespace.
pub(crate) async fn list(client: &Client, kind: &str, plural: &str) -> Result<Vec<DynamicObject>> {
    let api = Api::<DynamicObject>::all_with(client.clone(), &gateway_api(kind, plural));
    let objects = api.list(&ListParams::default()).await.with_context(|| format!("listing {plural}"))?;
    Ok(objects.items)
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
    fn new(gateways: &[DynamicObject], routes: &[DynamicObject]) -> Report {
        let head = ["KIND", "NAME", "ADDRESS", "STATUS"].map(str::to_owned).to_vec();
        let mut report = Report { rows: vec![head], notes: Vec::new(), ports_moved: false, healthy: true };
        gateways.iter().for_each(|gateway| report.add_gateway(gateway));
        routes.iter().for_each(|route| report.add_route(route));
        report
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

    fn add_route(&mut self, route: &DynamicObject) {
        self.add_row("HTTPRoute", route, String::new(), "Accepted");
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

/// Whatever in a Gateway's, a class's or a route's status is not as it should be, one line each.
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

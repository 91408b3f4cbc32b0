//! `weir check`: whether a cluster is fit for Weir, and why a Gateway is not programmed.
//!
//! Owns what a person would look up one after the other: the API and its kinds; of each installation who leads, what that replica says
//! of itself, and what keeps pods of the controllers and of the shared data plane; for each Gateway that is not as it should be its
//! conditions, its pods and its Service. Invariants: it only reads, and what it may not read is a finding like any other.
//! Deliberately absent: mending anything; how pods and Services are asked (`workload`).

mod workload;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DynamicObject;
use kube::{Client, ResourceExt};
use weir_api::kong::{KIC_CONTROLLER, is_unmanaged};
use weir_control::{Kind, LEASE_END, LEASE_LABEL, NEEDED_KINDS};

use self::workload::Workload;
use crate::cli::CheckOptions;
use crate::{client, status};

/// With these words a controller begins to say which rights it has not.
pub(crate) const REFUSED: &str = "the API refuses";

/// How long is waited before another look.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A Lease that was renewed longer ago is nobody's. Unit: seconds.
const STALE_SECONDS: i64 = 30;

pub(crate) fn run(options: &CheckOptions) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let until = Instant::now() + Duration::from_secs(options.wait.into());
    let findings = runtime.block_on(async {
        loop {
            let findings = look(options).await;
            let is_well = findings.as_ref().is_ok_and(|findings| findings.bad == 0);
            if is_well || Instant::now() >= until {
                return findings;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    })?;
    for line in &findings.lines {
        println!("{line}");
    }
    Ok(if findings.bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn look(options: &CheckOptions) -> Result<Findings> {
    let client = client::connect(&options.client).await?;
    let mut findings = Findings::default();
    let version =
        client.apiserver_version().await.map_err(client::told).context("asking the Kubernetes API")?;
    findings.good(format!("Kubernetes {}.{}", version.major, version.minor));
    kinds(&client, &mut findings).await;
    let place = controllers(&client, options.namespace.as_deref(), &mut findings).await;
    gateways(&client, options, &place, &mut findings).await;
    Ok(findings)
}

#[derive(Default)]
struct Findings {
    lines: Vec<String>,
    bad: usize,
}

impl Findings {
    fn good(&mut self, text: impl std::fmt::Display) {
        self.lines.push(format!("  ok   {text}"));
    }

    /// Once: what may not be read may be asked for more than once.
    fn note(&mut self, text: impl std::fmt::Display) {
        let line = format!("  note {text}");
        if !self.lines.contains(&line) {
            self.lines.push(line);
        }
    }

    fn bad(&mut self, text: impl std::fmt::Display) {
        self.bad += 1;
        self.lines.push(format!("  BAD  {text}"));
    }
}

/// Which kinds the API serves.
async fn kinds(client: &Client, findings: &mut Findings) {
    let mut absent = Vec::new();
    for kind in Kind::ALL {
        match client::serves(client, kind).await {
            Ok(Some(_)) => {}
            Ok(None) if NEEDED_KINDS.contains(&kind) => {
                let plural = kind.plural();
                findings.bad(format!(
                    "the API does not serve {plural}.{}: install the CRDs of the Gateway API",
                    kind.group()
                ));
            }
            Ok(None) => absent.push(kind.as_str()),
            Err(error) => findings.bad(format!("{}: {error:#}", kind.plural())),
        }
    }
    if absent.is_empty() {
        findings.good("every kind that Weir reads is served");
    } else {
        findings.note(format!("not served, and so without effect: {}", absent.join(", ")));
    }
}

/// Where Gateways are served.
enum Place {
    /// In this one process: no pods and no Services of theirs.
    Sandbox,
    /// By these installations, as far as they can be seen: namespace and release.
    Cluster(Vec<(String, String)>),
}

/// Who leads, what it says of itself, and what keeps the pods of each installation.
async fn controllers(client: &Client, namespace: Option<&str>, findings: &mut Findings) -> Place {
    let leases = match client::leases(client, namespace).await {
        Ok(leases) => leases,
        Err(error) => {
            findings.bad(format!("the Leases of Weir's controllers cannot be read: {error:#}"));
            return Place::Cluster(Vec::new());
        }
    };
    if leases.is_empty() && namespace.is_none() && sandbox(client, findings).await {
        return Place::Sandbox;
    }
    if leases.is_empty() {
        findings.bad(format!("no controller of Weir has ever led here (no Lease with label {LEASE_LABEL})"));
    }
    let mut installations = Vec::new();
    for lease in &leases {
        leader(client, lease, findings).await;
        let (namespace, name) = (lease.namespace().unwrap_or_default(), lease.name_any());
        let Some(release) = name.strip_suffix(LEASE_END) else { continue };
        let controllers = Workload::controllers(&namespace, release);
        if !controllers.tell_pods(client, findings).await {
            findings.note(format!("there is no Deployment {namespace}/{}", controllers.name));
        }
        // An installation may be without one.
        Workload::of_unmanaged(&namespace, release).tell_pods(client, findings).await;
        installations.push((namespace, release.to_owned()));
    }
    Place::Cluster(installations)
}

/// Who holds a Lease, and what that controller says of itself.
async fn leader(client: &Client, lease: &Lease, findings: &mut Findings) {
    let name = format!("{}/{}", lease.namespace().unwrap_or_default(), lease.name_any());
    let Some(holder) = holder(lease) else {
        return findings.bad(format!("Lease {name}: nobody leads"));
    };
    let spec = lease.spec.clone().unwrap_or_default();
    let age = spec.renew_time.map(|at| (now_seconds() - at.0.as_second()).max(0));
    match age {
        Some(age) if age <= STALE_SECONDS => {
            findings.good(format!("{holder} leads (Lease {name}, renewed {age} s ago)"))
        }
        _ => findings.bad(format!(
            "{holder} held Lease {name} last, and has not renewed it for {} s by this machine's clock",
            age.unwrap_or_default()
        )),
    }
    match client::ask_leader(client, lease, "readyz").await {
        Ok(answer) => readiness(&holder, answer.trim(), findings),
        Err(error) => {
            let told = format!("{holder} cannot be asked: {error:#}");
            let is_forbidden =
                error.downcast_ref::<client::Refused>().is_some_and(|refused| refused.code == 403);
            // Who asks has not the right; of the controller that says nothing.
            if is_forbidden { findings.note(told) } else { findings.bad(told) }
        }
    }
}

/// What a controller says of itself that is ready.
fn readiness(holder: &str, answer: &str, findings: &mut Findings) {
    match answer.strip_prefix("ok: ") {
        None => findings.good(format!("{holder} is ready")),
        Some(more) if more.contains(REFUSED) => findings.bad(format!("{holder}: {more}")),
        // Kong's classes, which it leaves to Kong.
        Some(more) => findings.note(format!("{holder} is ready: {more}")),
    }
}

/// Whether this is a sandbox, and what that says of itself.
async fn sandbox(client: &Client, findings: &mut Findings) -> bool {
    // Who may not look finds no sandbox: nothing hides there in one.
    let Ok(Some(url)) = client::sandbox_url(client).await else { return false };
    match client::get(&format!("{}/readyz", url.trim_end_matches('/'))).await {
        Ok(_) => findings.good("the sandbox is ready"),
        Err(error) => findings.bad(format!("the sandbox cannot be asked: {error:#}")),
    }
    true
}

fn holder(lease: &Lease) -> Option<String> {
    lease.spec.as_ref()?.holder_identity.clone().filter(|holder| !holder.is_empty())
}

fn now_seconds() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Gateways that are not as they should be.
async fn gateways(client: &Client, options: &CheckOptions, place: &Place, findings: &mut Findings) {
    let all = match status::list_in(client, Kind::Gateway, options.namespace.as_deref()).await {
        Ok(all) => all,
        Err(error) => return findings.bad(format!("Gateways cannot be read: {error:#}")),
    };
    let only = options.gateway.as_deref();
    let named = |gateway: &&DynamicObject| only.is_none_or(|only| status::name(gateway) == only);
    let chosen: Vec<&DynamicObject> = all.iter().filter(named).collect();
    if let (Some(only), true) = (only, chosen.is_empty()) {
        findings.bad(format!("there is no Gateway {only}"));
    }
    let mut unmanaged = None;
    for gateway in chosen {
        let title = format!("Gateway {}", status::name(gateway));
        let problems = status::all_problems(gateway);
        if problems.is_empty() && !is_unclaimed(gateway) {
            findings.good(format!("{title} is programmed"));
            continue;
        }
        if is_unclaimed(gateway) {
            findings.bad(format!("{title}: no controller has said anything about it; whose is its class?"));
        }
        for problem in problems {
            findings.bad(format!("{title}: {problem}"));
        }
        if let Place::Cluster(installations) = place {
            if unmanaged.is_none() {
                unmanaged = Some(unmanaged_classes(client, findings).await);
            }
            let class = gateway.data["spec"]["gatewayClassName"].as_str().unwrap_or_default();
            let is_shared = unmanaged.as_ref().is_some_and(|classes| classes.contains(class));
            data_plane(client, gateway, is_shared, installations, findings).await;
        }
    }
}

fn is_unclaimed(gateway: &DynamicObject) -> bool {
    let conditions = gateway.data["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().all(|condition| condition["status"] == "Unknown")
}

/// The pods and the Service by which a Gateway is served.
async fn data_plane(
    client: &Client,
    gateway: &DynamicObject,
    is_shared: bool,
    installations: &[(String, String)],
    findings: &mut Findings,
) {
    let namespace = gateway.namespace().unwrap_or_default();
    if is_shared {
        for (namespace, release) in installations {
            let plane = Workload::of_unmanaged(namespace, release);
            // What keeps its pods is told with the installation.
            findings.note(format!("it is served by the shared data plane {namespace}/{}", plane.name));
            plane.tell_service(client, findings).await;
        }
        return;
    }
    let plane = Workload::of_gateway(&namespace, &gateway.name_any());
    if plane.tell_pods(client, findings).await {
        plane.tell_service(client, findings).await;
    } else {
        findings.note(format!("it has no data plane of its own in {namespace}"));
    }
}

/// Names of the classes whose Gateways have no data plane of their own; none of those that cannot be read.
async fn unmanaged_classes(client: &Client, findings: &mut Findings) -> BTreeSet<String> {
    let classes = match status::list(client, Kind::GatewayClass).await {
        Ok(classes) => classes,
        Err(error) => {
            findings.note(format!("which classes are unmanaged cannot be read: {error:#}"));
            return BTreeSet::new();
        }
    };
    let is_shared = |class: &&DynamicObject| {
        class.data["spec"]["controllerName"] == KIC_CONTROLLER && is_unmanaged(class.annotations())
    };
    classes.iter().filter(is_shared).map(ResourceExt::name_any).collect()
}

#[cfg(test)]
mod tests {
    use super::{Findings, readiness};

    #[test]
    fn a_controller_that_leaves_classes_alone_is_ready_and_one_without_its_rights_is_bad() {
        for (answer, line, bad) in [
            ("ok", "  ok   c is ready", 0),
            (
                "ok: classes of k are left alone: it lives",
                "  note c is ready: classes of k are left alone: it lives",
                0,
            ),
            ("ok: the API refuses: list secrets", "  BAD  c: the API refuses: list secrets", 1),
        ] {
            let mut findings = Findings::default();
            readiness("c", answer, &mut findings);
            assert_eq!((findings.lines, findings.bad), (vec![line.to_owned()], bad));
        }
    }
}

//! Many routes, endpoints that change, and many data planes: what that costs, and how soon an edit is in effect.
//!
//! Owns the order of it and what is told. Invariants: statuses are written once for each route that is made or edited, and never
//! without a change; figures are told, and none is judged: a machine's are its own.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::Run;

const MANIFESTS: &str = include_str!("crowd.yaml");

/// How many.
struct Measure {
    routes: u64,
    endpoints: u32,
    edits: u64,
    planes: usize,
    churn: Duration,
    /// Whether pods are weighed: a node takes its time to say.
    costs: bool,
}

/// EndpointSlices that change in a second.
const CHURN: u32 = 20;

impl Measure {
    fn of(long: bool) -> Measure {
        if long {
            let churn = Duration::from_secs(60);
            return Measure { routes: 10_000, endpoints: 2_000, edits: 300, planes: 20, churn, costs: true };
        }
        Measure {
            routes: 300,
            endpoints: 200,
            edits: 20,
            planes: 3,
            churn: Duration::from_secs(5),
            costs: false,
        }
    }
}

/// When an edit was in effect; milliseconds from when the patch was sent.
#[derive(Deserialize)]
struct Edits {
    acknowledged: Spread,
    first: Spread,
    all: Spread,
}

#[derive(Deserialize)]
struct Spread {
    p50: f64,
    p99: f64,
    max: f64,
}

/// What a node says of its containers.
#[derive(Deserialize)]
struct Summary {
    pods: Vec<PodStats>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStats {
    pod_ref: PodRef,
    #[serde(default)]
    containers: Vec<ContainerStats>,
}

#[derive(Deserialize)]
struct PodRef {
    name: String,
    namespace: String,
}

#[derive(Deserialize)]
struct ContainerStats {
    cpu: Option<CpuStats>,
    memory: Option<MemoryStats>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CpuStats {
    time: String,
    usage_core_nano_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MemoryStats {
    working_set_bytes: Option<u64>,
}

/// Statuses that the API server was given.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Writes {
    /// Of HTTPRoutes.
    routes: u64,
    /// Of Gateways and GatewayClasses.
    others: u64,
}

impl Writes {
    fn since(self, before: Writes) -> Writes {
        Writes { routes: self.routes - before.routes, others: self.others - before.others }
    }
}

/// Of a pod: seconds of CPU since it began, and MiB.
#[derive(Clone, Copy)]
struct Cost {
    cpu: f64,
    memory: f64,
}

struct Crowd<'a> {
    run: &'a Run<'a>,
    namespace: &'a str,
    release: &'a str,
    measure: Measure,
}

/// Of the installation `release` in `namespace`, where its Gateway `kong` is.
pub(super) fn gathers(run: &Run<'_>, namespace: &str, release: &str) -> Result<()> {
    let crowd = Crowd { run, namespace, release, measure: Measure::of(run.options.long) };
    crowd.begin()?;
    crowd.gather()?;
    crowd.time("one data plane")?;
    crowd.endpoints_change()?;
    crowd.scale(crowd.measure.planes)?;
    crowd.time(&format!("{} data planes", crowd.measure.planes))?;
    crowd.another_leads()?;
    crowd.end()
}

impl Crowd<'_> {
    fn kubectl(&self, line: &str) -> String {
        format!("kubectl -n {} {line}", self.namespace)
    }

    fn steady(&self, arguments: &str) -> Result<String> {
        self.run.cluster.does(&format!("{} {arguments}", self.run.steady.display()))
    }

    fn begin(&self) -> Result<()> {
        let manifests = self.manifests();
        std::fs::write(&manifests, MANIFESTS).context("writing the manifests")?;
        self.run.cluster.does(&self.kubectl(&format!("apply -f {}", manifests.display())))?;
        for track in ["a", "b"] {
            let line = format!("rollout status deployment/timed-{track} --timeout=120s");
            self.run.cluster.does(&self.kubectl(&line))?;
        }
        self.run.wait_accepted("httproute/timed", self.namespace)
    }

    fn manifests(&self) -> std::path::PathBuf {
        self.run.folder.join("crowd.yaml")
    }

    /// All routes are made at once, each accepted with one write.
    fn gather(&self) -> Result<()> {
        let Measure { routes, endpoints, .. } = self.measure;
        let before = self.writes()?;
        let began = std::time::Instant::now();
        self.steady(&format!("gather {} kong {routes} {endpoints}", self.namespace))?;
        println!("    {routes} HTTPRoutes are made after {:.1} s", began.elapsed().as_secs_f64());
        self.accepted()?;
        println!("    and accepted after {:.1} s", began.elapsed().as_secs_f64());
        let Writes { routes: written, others } = self.settled_writes()?.since(before);
        println!("    statuses written: {written} of routes, {others} of the Gateway, which counts them");
        ensure!(written == routes, "{written} statuses were written for {routes} routes");
        self.tell_costs("with all of them")
    }

    /// Every route is, at its generation.
    fn accepted(&self) -> Result<()> {
        let each = "{.metadata.generation}{range .status.parents[*].conditions[?(@.type==\"Accepted\")]}{.observedGeneration}{.status}{end}";
        let line = self.kubectl(&format!(
            "get httproutes -l weir.dev/crowd -o jsonpath='{{range .items[*]}}{each} {{end}}' | tr ' ' '\\n' | sort | uniq -c"
        ));
        let wanted = format!("{} 11True", self.measure.routes);
        let patience = Duration::from_secs(300);
        self.run.cluster.until_within(&line, patience, |counts| counts.trim() == wanted).map(drop)
    }

    /// Weights are edited, one edit after another.
    fn time(&self, with: &str) -> Result<()> {
        let Measure { edits, .. } = self.measure;
        let before = self.writes()?;
        let line = self.kubectl(&format!("get pods -l {SHARED} -o jsonpath='{{.items[*].status.podIP}}'"));
        let addresses = self.run.cluster.shell(&line)?;
        let addresses: Vec<String> = addresses.split_whitespace().map(|ip| format!("{ip}:{PORT}")).collect();
        let told = self.steady(&format!("edit {} {edits} {}", self.namespace, addresses.join(" ")))?;
        let told: Edits = serde_json::from_str(&told).with_context(|| told.clone())?;
        for (what, Spread { p50, p99, max }) in [
            ("acknowledged by the API", told.acknowledged),
            ("in effect at the first data plane", told.first),
            ("in effect at all of them", told.all),
        ] {
            println!(
                "    {with}, {edits} edits, {what}: p50 {p50:.1} ms, p99 {p99:.1} ms, at most {max:.1} ms"
            );
        }
        let Writes { routes: written, others } = self.settled_writes()?.since(before);
        ensure!(
            others == 0,
            "{others} statuses of other objects were written though only weights were edited"
        );
        // A route that was edited again before its status was written is written once.
        ensure!(written <= edits, "{written} statuses were written for {edits} edits");
        ensure!(written > 0, "no status was written");
        println!("    statuses written: {written}");
        Ok(())
    }

    /// Endpoints change without end, and no status with them; edits are as they were.
    fn endpoints_change(&self) -> Result<()> {
        let Measure { endpoints, churn, .. } = self.measure;
        let (before, costs) = (self.writes()?, self.costs()?);
        let began = std::time::Instant::now();
        let line = format!("{} churn {} {endpoints} {CHURN}", self.run.steady.display(), self.namespace);
        let mut child = self.run.cluster.start(&line)?;
        std::thread::sleep(churn);
        let (now, seconds) = (self.costs()?, began.elapsed().as_secs_f64());
        let Writes { routes: written, others } = self.writes()?.since(before);
        let timed = self.time("while endpoints change");
        drop(child.stdin.take());
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "the churn ended with {}", output.status);
        timed?;
        println!("    EndpointSlices changed: {}", String::from_utf8_lossy(&output.stdout).trim());
        for (pod, Cost { cpu, .. }) in &now {
            if let Some(before) = costs.get(pod) {
                let share = (cpu - before.cpu) / seconds * 100.0;
                println!("    {pod} with {CHURN} EndpointSlices a second: {share:.1} % of a core");
            }
        }
        ensure!(
            written + others == 0,
            "{written} + {others} statuses were written though only endpoints changed"
        );
        Ok(())
    }

    fn scale(&self, planes: usize) -> Result<()> {
        let chart = super::guides::CHART;
        // A small node has no room for as many as there are at what the chart asks for.
        let line = format!(
            "helm upgrade {} {chart} -n {} --set gatewayProxy.replicas={planes},gatewayProxy.resources.requests.cpu=10m",
            self.release, self.namespace
        );
        self.run.cluster.does(&line)?;
        let status = format!("rollout status deployment/{}-gateway-proxy --timeout=300s", self.release);
        self.run.cluster.does(&self.kubectl(&status))?;
        // Those that were there before have gone.
        let pods = self.kubectl(&format!("get pods -l {SHARED} -o name"));
        self.run.cluster.until(&pods, |names| names.lines().count() == planes)?;
        self.tell_costs(&format!("with {planes} data planes"))
    }

    /// Whoever leads next finds everything as it has to be.
    fn another_leads(&self) -> Result<()> {
        let cluster = self.run.cluster;
        let line = format!("get lease {}-weir-leader -o jsonpath='{{.spec.holderIdentity}}'", self.release);
        let leader = self.kubectl(&line);
        let before = (cluster.shell(&leader)?, self.writes()?);
        let pod = before.0.rsplit_once('_').context("no leader")?.0;
        cluster.does(&self.kubectl(&format!("delete pod {pod}")))?;
        cluster.until(&leader, |now| !now.is_empty() && now != before.0)?;
        let Writes { routes, others } = self.settled_writes()?.since(before.1);
        ensure!(
            routes + others == 0,
            "a new leader wrote {routes} + {others} statuses, though nothing had changed"
        );
        println!("    a new leader writes no status");
        let patch = r#"{"spec":{"hostnames":["timed.example","more.example"]}}"#;
        cluster.does(&self.kubectl(&format!("patch httproute timed --type=merge -p '{patch}'")))?;
        self.run.wait_accepted("httproute/timed", self.namespace)
    }

    fn end(&self) -> Result<()> {
        self.scale(1)?;
        let Measure { routes, endpoints, .. } = self.measure;
        self.steady(&format!("disperse {} {routes} {endpoints}", self.namespace))?;
        self.run.cluster.does(&self.kubectl(&format!("delete -f {}", self.manifests().display())))?;
        self.run
            .cluster
            .until(&self.kubectl("get httproutes,endpointslices -l weir.dev/crowd -o name"), str::is_empty)
            .map(drop)
    }

    /// Statuses of this API's kinds that the API server was given so far.
    fn writes(&self) -> Result<Writes> {
        let metrics =
            self.run.cluster.shell("kubectl get --raw /metrics | grep '^apiserver_request_total'")?;
        let mut writes = Writes { routes: 0, others: 0 };
        for line in metrics.lines() {
            let has = |name: &str, value: &str| line.contains(&format!("{name}=\"{value}\""));
            if !has("group", "gateway.networking.k8s.io")
                || !has("subresource", "status")
                || has("verb", "GET")
            {
                continue;
            }
            let count = line.rsplit_once(' ').and_then(|(_, count)| count.parse::<u64>().ok());
            let count = count.with_context(|| line.to_owned())?;
            *(if has("resource", "httproutes") { &mut writes.routes } else { &mut writes.others }) += count;
        }
        Ok(writes)
    }

    /// The same once there are no more for some seconds.
    fn settled_writes(&self) -> Result<Writes> {
        let mut last = self.writes()?;
        loop {
            std::thread::sleep(Duration::from_secs(4));
            let now = self.writes()?;
            if now == last {
                return Ok(now);
            }
            last = now;
        }
    }

    fn tell_costs(&self, when: &str) -> Result<()> {
        for (pod, Cost { cpu, memory }) in self.costs()? {
            println!("    {pod} {when}: {memory:.0} MiB, {cpu:.1} s of CPU so far");
        }
        Ok(())
    }

    /// Of each pod of the installation, as of now: nodes look every ten seconds or so.
    fn costs(&self) -> Result<BTreeMap<String, Cost>> {
        if !self.measure.costs {
            return Ok(BTreeMap::new());
        }
        let since = self.run.cluster.shell("date -u +%Y-%m-%dT%H:%M:%SZ")?;
        let end = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let all = self.stats()?;
            let fresh = |stats: &PodStats| {
                let times = stats.containers.iter().filter_map(|container| container.cpu.as_ref());
                times.map(|cpu| cpu.time.as_str()).all(|time| time >= since.trim())
            };
            if all.iter().all(fresh) {
                let all =
                    all.into_iter().filter_map(|stats| Some((stats.pod_ref.name.clone(), cost(&stats)?)));
                return Ok(all.collect());
            }
            ensure!(std::time::Instant::now() < end, "nodes say nothing new of their containers");
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    fn stats(&self) -> Result<Vec<PodStats>> {
        let line = "for n in $(kubectl get nodes -o jsonpath='{.items[*].metadata.name}'); do \
                    kubectl get --raw /api/v1/nodes/$n/proxy/stats/summary; done";
        let printed = self.run.cluster.shell(line)?;
        let mut all = Vec::new();
        for summary in serde_json::Deserializer::from_str(&printed).into_iter::<Summary>() {
            all.extend(summary.context("a node's statistics")?.pods);
        }
        all.retain(|stats| {
            stats.pod_ref.namespace == self.namespace && stats.pod_ref.name.starts_with(self.release)
        });
        Ok(all)
    }
}

fn cost(stats: &PodStats) -> Option<Cost> {
    let container = stats.containers.first()?;
    let cpu = container.cpu.as_ref()?.usage_core_nano_seconds? as f64 / 1e9;
    let memory = container.memory.as_ref()?.working_set_bytes? as f64 / (1 << 20) as f64;
    Some(Cost { cpu, memory })
}

/// The pods of the shared data plane, and the port of its Gateway's listener.
const SHARED: &str = "weir.dev/provisioned=shared";
const PORT: u16 = 80;

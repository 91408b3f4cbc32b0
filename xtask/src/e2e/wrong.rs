//! What is wrong in a cluster: each thing is said where somebody looks, harms nothing else, and is over when it is made right.
//!
//! Owns the order of what is made wrong, and what has to hold meanwhile: no pod of Weir starts again, controllers take little time of the
//! processor and say little, and the Gateway `calm` is served.
//!
//! | module | owns |
//! |---|---|
//! | [`kinds`] | definitions of kinds that are not there, change, lose a version, go, or are newer than Weir |
//! | [`rights`] | rights that are taken from the controllers, one verb after another |
//! | [`refused`] | objects of data planes that cannot be made, and pods that are refused |
//! | [`planes`] | images that cannot start, Services without an address, parameters and classes that are not there, a node that is lost, annotations without effect |
//! | [`clocks`] | processes whose clock is another than that of the rest |
//! | [`installs`] | beside Kong, two installations in one cluster, and one that reads some namespaces alone |

mod clocks;
mod installs;
mod kinds;
mod planes;
mod refused;
mod rights;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Run;
use super::guides::{CHART, Crds};
use crate::cluster::leftovers::Inventory;

/// A Gateway of a class that belongs to no release, and what it leads to.
const MANIFESTS: &str = include_str!("wrong.yaml");

/// How long the processor is looked at, and the share of one that all controllers may take then.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_LONG: Duration = Duration::from_secs(5);
const BUSY: f64 = 0.2;

/// Lines that all controllers may log for one thing that is wrong, and for each second that it takes.
const LINES: u64 = 80;
const LINES_A_SECOND: u64 = 2;

/// What a status or a controller may take until it says what is wrong.
const PATIENCE: Duration = Duration::from_secs(120);

/// Everything that is wrong, from a cluster without the Gateway API on.
pub(super) fn all(run: &Run<'_>) -> Result<()> {
    let wrong = Wrong { run, long: run.options.long };
    let before = wrong.without_kinds()?;
    wrong.case("no definitions of kinds", || kinds::absent(&wrong))?;
    wrong.case("rights", || rights::taken(&wrong))?;
    if wrong.long {
        wrong.case("a kind loses a version", || kinds::loses_a_version(&wrong))?;
        wrong.case("a Service without an address", || planes::no_address(&wrong))?;
        wrong.case("a kind goes and comes", || kinds::goes(&wrong))?;
    }
    wrong.case("definitions of a newer release", || kinds::newer(&wrong))?;
    wrong.case("parameters that are not there", || planes::no_parameters(&wrong))?;
    wrong.case("a class goes", || planes::no_class(&wrong))?;
    if wrong.long {
        wrong.case("a node of which nobody has heard", || planes::lost_node(&wrong))?;
    }
    wrong.case("a pod template of an odd shape", || planes::odd_template(&wrong))?;
    wrong.case("an image that cannot start", || planes::no_image(&wrong))?;
    wrong.case("objects that cannot be made", || refused::objects(&wrong))?;
    wrong.case("annotations without effect", || planes::annotations(&wrong))?;
    if wrong.long {
        wrong.case("clocks that differ", || clocks::differ(&wrong))?;
    }
    if wrong.long {
        wrong.case("Kong left its Lease behind", || installs::lease_of_kongs(&wrong))?;
    }
    wrong.case("a controller of Kong's lives", || installs::kong_lives(&wrong))?;
    let last = installs::second(&wrong)?;
    if wrong.long {
        installs::some_namespaces(&wrong, last)?;
    } else {
        installs::leave(&wrong, last)?;
    }
    wrong.end(&before)
}

struct Wrong<'a> {
    run: &'a Run<'a>,
    long: bool,
}

impl Wrong<'_> {
    /// A cluster in which nothing of the Gateway API is known; what was there but for that.
    fn without_kinds(&self) -> Result<Inventory> {
        self.run.install_kinds(Crds::Current)?;
        let before = Inventory::take(self.run.cluster)?;
        for folder in ["standard", "experimental"] {
            let crds = self.run.crds.join(folder);
            self.does(&format!("kubectl delete --ignore-not-found --timeout=60s -f {}", crds.display()))?;
        }
        Ok(before)
    }

    fn end(&self, before: &Inventory) -> Result<()> {
        self.does("kubectl delete namespace calm --timeout=120s")?;
        self.does("kubectl delete gatewayclass calm")?;
        self.run.install_kinds(Crds::Current)?;
        before.is_restored(self.run.cluster)
    }

    /// Makes something wrong and right again; at no time has a pod of Weir started anew, and nobody has said much.
    fn case(&self, name: &str, play: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("  -- {name}");
        let clock = self.shell("date -u +%Y-%m-%dT%H:%M:%SZ")?;
        let started = Instant::now();
        play().with_context(|| name.to_owned())?;
        self.none_has_restarted().with_context(|| name.to_owned())?;
        let seconds = started.elapsed().as_secs();
        let said = self.lines_since(clock.trim())?;
        ensure!(said <= LINES + LINES_A_SECOND * seconds, "{name}: {said} lines were logged in {seconds} s");
        println!("  -- {name} ok, {seconds} s, {said} lines logged");
        Ok(())
    }

    /// No container of a pod of Weir has started again, in pods from before as in those that were made meanwhile.
    fn none_has_restarted(&self) -> Result<()> {
        let restarted: Vec<_> = self.restarts()?.into_iter().filter(|(_, count)| *count > 0).collect();
        ensure!(restarted.is_empty(), "pods have started again: {restarted:?}");
        Ok(())
    }

    /// How often the container of each pod of Weir has started again.
    fn restarts(&self) -> Result<BTreeMap<String, u64>> {
        let line = "kubectl get pods -A -l app.kubernetes.io/name=weir -o jsonpath='{range .items[*]}{.metadata.namespace}/{.metadata.name} \
                    {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}'";
        let of = |row: &str| {
            let (pod, count) = row.split_once(' ')?;
            Some((pod.to_owned(), count.trim().parse().ok()?))
        };
        Ok(self.shell(line)?.lines().filter_map(of).collect())
    }

    fn lines_since(&self, time: &str) -> Result<u64> {
        let logs = format!("logs -l {CONTROLLERS} --since-time={time} --tail=-1");
        let line = format!(
            "for n in $(kubectl get pods -A -l {CONTROLLERS} -o jsonpath='{{.items[*].metadata.namespace}}' | tr ' ' '\\n' | sort -u); \
             do kubectl -n $n {logs}; done | wc -l"
        );
        Ok(self.shell(&line)?.trim().parse()?)
    }

    /// While it is wrong: what was served is served, and nobody is busy with it.
    fn is_calm(&self) -> Result<()> {
        // Before what the case has made is gone.
        self.none_has_restarted()?;
        self.is_served()?;
        let before = self.processor_seconds()?;
        let started = Instant::now();
        std::thread::sleep(if self.long { LOOK_LONG } else { LOOK });
        let share = (self.processor_seconds()? - before) / started.elapsed().as_secs_f64();
        println!("    controllers take {:.1} % of a processor", share * 100.0);
        ensure!(share < BUSY, "controllers take {:.0} % of a processor while nothing happens", share * 100.0);
        self.is_served()
    }

    /// Processor time of all controllers.
    fn processor_seconds(&self) -> Result<f64> {
        let line = self.of_controllers("metrics", " | grep '^process_cpu_seconds_total '");
        let seconds = |row: &str| row.rsplit(' ').next()?.parse::<f64>().ok();
        let all: Vec<f64> = self.shell(&line)?.lines().filter_map(seconds).collect();
        ensure!(!all.is_empty(), "no controller says what it takes");
        Ok(all.iter().sum())
    }

    /// A line that asks every controller at its admin port.
    fn of_controllers(&self, path: &str, then: &str) -> String {
        self.of_controllers_in("", path, then)
    }

    /// The same of one namespace.
    fn of_controllers_in(&self, namespace: &str, path: &str, then: &str) -> String {
        let place = if namespace.is_empty() { "-A".to_owned() } else { format!("-n {namespace}") };
        let addresses =
            format!("kubectl get pods {place} -l {CONTROLLERS} -o jsonpath='{{.items[*].status.podIP}}'");
        format!("for ip in $({addresses}); do curl -s -m 5 http://$ip:9901/{path}{then}; done")
    }

    /// Waits until all controllers of a namespace say, or do not say, a word when they are asked whether they are ready.
    fn controllers_say(&self, namespace: &str, word: &str, says: bool) -> Result<String> {
        let line = self.of_controllers_in(namespace, "readyz", "");
        let all = |said: &str| {
            said.contains("ready: ") | said.contains("ok")
                && said.lines().all(|row| row.contains(word) == says)
        };
        self.run.cluster.until(&line, all).with_context(|| format!("controllers say {word:?}: {says}"))
    }

    fn is_served(&self) -> Result<()> {
        let served = self.shell(&at_calm("curl -s -m 5 http://$ADDRESS/ready"))?;
        ensure!(served == "ok", "the Gateway calm is not served: {served}");
        Ok(())
    }

    /// Waits until a line prints what `is` takes. It prints `failed` for each request that did, and none may.
    fn until_served(&self, line: &str, is: impl Fn(&str) -> bool) -> Result<String> {
        let failed = |said: &str| said.lines().any(|row| row == "failed");
        let said = self.run.cluster.until(line, |said| failed(said) || is(said))?;
        ensure!(!failed(&said), "requests failed: {said}");
        Ok(said)
    }

    /// Puts the manifests of the Gateway `calm` in, and waits until it is served.
    fn make_calm(&self) -> Result<()> {
        self.apply("calm", MANIFESTS)?;
        self.does("kubectl rollout status -n calm deployment/steady --timeout=120s")?;
        self.does("kubectl wait -n calm --for=condition=Programmed gateway/calm --timeout=120s")?;
        self.run.wait_accepted("httproute/calm", "calm")?;
        self.is_served()
    }

    fn install(&self, release: &str, options: &str) -> Result<()> {
        let line = format!("helm install {release} {CHART} -n {release} --create-namespace {options}");
        self.run.install(&line, release, release)
    }

    /// The manifests of one case.
    fn apply(&self, name: &str, manifests: &str) -> Result<()> {
        let path = self.run.folder.join(format!("wrong-{name}.yaml"));
        std::fs::write(&path, manifests).context("writing manifests")?;
        self.does(&format!("kubectl apply -f {}", path.display())).map(drop)
    }

    /// Waits until a condition of an object is of this status, and its message says all of this.
    fn condition(&self, object: &str, type_: &str, status: &str, words: &[&str]) -> Result<String> {
        self.condition_within(PATIENCE, object, type_, status, words)
    }

    fn condition_within(
        &self,
        patience: Duration,
        object: &str,
        type_: &str,
        status: &str,
        words: &[&str],
    ) -> Result<String> {
        let path = format!("{{.status.conditions[?(@.type==\"{type_}\")]}}");
        let line = format!("kubectl get {object} -o jsonpath='{path}'");
        let is = |printed: &str| {
            printed.contains(&format!("\"status\":\"{status}\""))
                && words.iter().all(|word| printed.contains(word))
        };
        let said = self.run.cluster.until_within(&line, patience, is);
        let said = said.with_context(|| format!("{type_} of {object} is {status} and says {words:?}"))?;
        println!("    {}", said.trim());
        Ok(said)
    }

    /// Waits until there is an event with this reason about this object, whose message says this.
    fn event(&self, object: &str, namespace: &str, reason: &str, word: &str) -> Result<()> {
        let (kind, name) = object.split_once('/').context("KIND/NAME")?;
        let line = format!(
            "kubectl get events -n {namespace} --field-selector involvedObject.kind={kind},involvedObject.name={name},reason={reason} \
             -o jsonpath='{{.items[*].message}}'"
        );
        let said = self.run.cluster.until(&line, |said| said.contains(word));
        said.with_context(|| format!("{reason} about {object}")).map(drop)
    }

    /// What an object is at, for nobody should write to it.
    fn version_of(&self, objects: &str) -> Result<String> {
        self.shell(&format!(
            "kubectl get {objects} -o jsonpath='{{range .items[*]}}{{.metadata.name}}={{.metadata.resourceVersion}} {{end}}'"
        ))
    }

    fn does(&self, line: &str) -> Result<String> {
        self.run.cluster.does(line)
    }

    fn shell(&self, line: &str) -> Result<String> {
        self.run.cluster.shell(line)
    }
}

/// A Gateway in the namespace `calm` whose data plane's pods are of a template, as YAML in one line.
fn with_pod_template(name: &str, template: &str) -> String {
    with_options(name, &format!("{{deployment: {{podTemplateSpec: {template}}}}}"))
}

/// The same with all that is said of the data plane.
fn with_options(name: &str, options: &str) -> String {
    format!(
        "
---
apiVersion: gateway-operator.konghq.com/v2beta1
kind: GatewayConfiguration
metadata: {{name: {name}, namespace: calm}}
spec: {{dataPlaneOptions: {options}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: calm}}
spec:
  gatewayClassName: calm
  infrastructure: {{parametersRef: {{group: gateway-operator.konghq.com, kind: GatewayConfiguration, name: {name}}}}}
  listeners: [{{name: http, port: 80, protocol: HTTP}}]
"
    )
}

/// A line that has the address of a Gateway in the namespace `calm`.
fn at(gateway: &str, line: &str) -> String {
    format!(
        "ADDRESS=$(kubectl get gateway {gateway} -n calm -o jsonpath='{{.status.addresses[0].value}}'); {line}"
    )
}

/// The same of the Gateway `calm`.
fn at_calm(line: &str) -> String {
    at("calm", line)
}

/// Asks there ten times, and prints `failed` for each request that did.
fn ten_times(path: &str) -> String {
    format!(
        "for i in {{1..10}}; do [ \"$(curl -s -m 5 http://$ADDRESS/{path})\" = ok ] || echo failed; sleep 0.05; done"
    )
}

const CONTROLLERS: &str = "app.kubernetes.io/name=weir,app.kubernetes.io/component=controller";

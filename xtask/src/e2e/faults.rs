//! Parts that end while requests go on: none may fail.
//!
//! Owns what is ended, in which order, and what has to be so before the next: controllers, the API, data planes, the authority of
//! their certificates, backends. What traffic may meet meanwhile is [`load`](super::load)'s to say.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::Run;
use super::load::{Harm, Load};
use crate::step::LEFT_OUT;

const MANIFESTS: &str = include_str!("steady.yaml");

/// Another controller leads within this time when the one that leads falls silent.
const SUCCESSION: Duration = Duration::from_secs(20);

/// Times of certificates, so short that an authority is replaced within the run. Source: the least that the chart takes.
const OVERLAP: Duration = Duration::from_secs(120);
const LIFETIME: Duration = Duration::from_secs(300);

/// How often, and for how long.
struct Measure {
    kills: u32,
    frozen: Duration,
    api_away_seconds: u32,
    backend_rolls: u32,
    /// Until the next authority signs, and every data plane's certificate is of it.
    whole_rotation: bool,
}

impl Measure {
    fn of(long: bool) -> Measure {
        if long {
            let frozen = Duration::from_secs(60);
            return Measure {
                kills: 20,
                frozen,
                api_away_seconds: 600,
                backend_rolls: 50,
                whole_rotation: true,
            };
        }
        Measure {
            kills: 1,
            frozen: Duration::ZERO,
            // Longer than leadership lasts.
            api_away_seconds: 20,
            backend_rolls: 1,
            whole_rotation: false,
        }
    }
}

struct Faults<'a> {
    run: &'a Run<'a>,
    namespace: &'a str,
    release: &'a str,
    measure: Measure,
}

/// Ends one part after another of the installation `release` in `namespace`, under load of `address`, where the Gateway `kong` of that
/// namespace is.
pub(super) fn under_load(run: &Run<'_>, namespace: &str, release: &str, address: &str) -> Result<()> {
    if !run.cluster.can_be_hurt() {
        println!(
            "{LEFT_OUT}faults under load: nothing says how a container is sent a signal, and a component restarted"
        );
        ensure!(!run.options.strict, "left out, a failure with --strict");
        return Ok(());
    }
    let faults = Faults { run, namespace, release, measure: Measure::of(run.options.long) };
    faults.begin()?;
    let program = run.steady.display();
    let mut load = Load::under_way(run.cluster.start_client(&format!("{program} load {address}:80"))?);
    let ended = faults.all(&mut load);
    if let Err(error) = &ended {
        println!("    {error:#}");
    }
    // What traffic met says more than which fault came to no end.
    load.end()?;
    ended?;
    faults.end()
}

impl Faults<'_> {
    fn all(&self, load: &mut Load) -> Result<()> {
        self.ask_for_an_authority()?;
        for round in 1..=self.measure.kills {
            load.fault(&format!("the controller that leads is killed, {round}"), Harm::None, || {
                self.kill_the_leader()
            })?;
        }
        load.fault("the controller that leads is stopped, and goes on", Harm::None, || {
            self.freeze_the_leader()
        })?;
        for component in ["apiserver", "etcd"] {
            load.fault(&format!("{component} is away"), Harm::None, || self.take_away(component))?;
        }
        load.fault("controllers are replaced one by one", Harm::None, || {
            self.roll("controller", CONTROLLERS, 2)
        })?;
        load.fault("data planes are replaced one by one", Harm::Streams, || {
            self.roll("gateway-proxy", SHARED, 2)
        })?;
        load.fault("no controller is there", Harm::None, || self.scale_controllers(0))?;
        load.fault("a data plane is killed while no controller is there", Harm::Requests, || {
            self.kill_a_plane()
        })?;
        load.fault("a data plane's pod is deleted while no controller is there", Harm::Streams, || {
            self.delete_a_plane()
        })?;
        load.fault("controllers are back", Harm::None, || {
            self.scale_controllers(2)?;
            self.wait_ready(SHARED, 2)
        })?;
        load.fault("a Service chooses other pods", Harm::None, || self.flip("b"))?;
        load.fault("and those from before again", Harm::None, || self.flip("a"))?;
        for round in 1..=self.measure.backend_rolls {
            load.fault(&format!("backends are replaced one by one, {round}"), Harm::Streams, || {
                self.roll_backends()
            })?;
        }
        load.fault("a new authority is trusted", Harm::None, || self.see_the_authority())?;
        if !self.measure.whole_rotation {
            return Ok(());
        }
        load.fault("the next authority signs for everybody", Harm::None, || self.replace_the_authority())?;
        load.fault("a controller is new to data planes with certificates of it", Harm::None, || {
            self.kill_the_leader()
        })?;
        load.fault("data planes that have only ever known it", Harm::Streams, || {
            self.roll("gateway-proxy", SHARED, 2)
        })
    }

    /// Two data planes, two backends, and routes to them.
    fn begin(&self) -> Result<()> {
        let (cluster, namespace) = (self.run.cluster, self.namespace);
        let manifests = self.run.folder.join("steady.yaml");
        std::fs::write(&manifests, MANIFESTS).context("writing the manifests")?;
        cluster.does(&format!("kubectl apply -n {namespace} -f {}", manifests.display()))?;
        let parameters = r#"{"spec":{"infrastructure":{"parametersRef":{"group":"weir.dev","kind":"GatewayParameters","name":"steady"}}}}"#;
        cluster.does(&format!("kubectl patch -n {namespace} gateway kong --type=merge -p '{parameters}'"))?;
        let chart = super::guides::CHART;
        let mut upgrade =
            format!("helm upgrade {} {chart} -n {namespace} --set gatewayProxy.replicas=2", self.release);
        if self.measure.whole_rotation {
            let (overlap, lifetime) = (OVERLAP.as_secs(), LIFETIME.as_secs());
            _ = write!(
                upgrade,
                ",certificates.authorityOverlapSeconds={overlap},certificates.lifetimeSeconds={lifetime}"
            );
        }
        cluster.does(&upgrade)?;
        cluster.does(&self.kubectl(&format!("rollout status deployment/{}-controller", self.release)))?;
        if self.measure.whole_rotation {
            // With certificates of those times: each is renewed several times, also while the API is away.
            self.roll("gateway-proxy", SHARED, 2)?;
        }
        self.wait_ready(SHARED, 2)?;
        self.wait_ready("app=steady", 4)?;
        for route in ["httproute/steady", "grpcroute/calls"] {
            self.run.wait_accepted(route, namespace)?;
        }
        Ok(())
    }

    fn end(&self) -> Result<()> {
        let (cluster, namespace) = (self.run.cluster, self.namespace);
        let manifests = self.run.folder.join("steady.yaml");
        let parameters = r#"[{"op":"remove","path":"/spec/infrastructure"}]"#;
        cluster.does(&format!("kubectl patch -n {namespace} gateway kong --type=json -p '{parameters}'"))?;
        cluster.does(&format!("kubectl delete -n {namespace} -f {}", manifests.display())).map(drop)
    }

    fn kubectl(&self, line: &str) -> String {
        format!("kubectl -n {} {line}", self.namespace)
    }

    /// So many pods are there, all ready, and none is about to end.
    fn wait_ready(&self, selector: &str, pods: usize) -> Result<()> {
        let each = "{.status.conditions[?(@.type==\"Ready\")].status}{.metadata.deletionTimestamp}";
        let line =
            self.kubectl(&format!("get pods -l {selector} -o jsonpath='{{range .items[*]}}{each} {{end}}'"));
        let wanted = "True ".repeat(pods);
        self.run.cluster.until(&line, |printed| printed == wanted).map(drop)
    }

    fn leader(&self) -> String {
        self.kubectl(&format!(
            "get lease {}-weir-leader -o jsonpath='{{.spec.holderIdentity}}'",
            self.release
        ))
    }

    /// Who leads, and the container that it is.
    fn find_the_leader(&self) -> Result<(String, String)> {
        let holder = self.run.cluster.until(&self.leader(), |holder| !holder.is_empty())?;
        let container = self.container(pod_of(&holder))?;
        Ok((holder, container))
    }

    fn container(&self, pod: &str) -> Result<String> {
        let line = format!("get pod {pod} -o jsonpath='{{.status.containerStatuses[0].containerID}}'");
        let id = self.run.cluster.shell(&self.kubectl(&line))?;
        ensure!(!id.is_empty(), "pod {pod} has no container");
        Ok(id)
    }

    fn wait_for_another_leader(&self, before: &str) -> Result<()> {
        let fell_silent = Instant::now();
        let is = |holder: &str| !holder.is_empty() && holder != before;
        self.run.cluster.until(&self.leader(), is).context("another one leads")?;
        let took = fell_silent.elapsed();
        println!("    another one leads after {:.1} s", took.as_secs_f64());
        ensure!(took <= SUCCESSION, "{took:?} are more than {SUCCESSION:?}");
        Ok(())
    }

    fn kill_the_leader(&self) -> Result<()> {
        let (holder, container) = self.find_the_leader()?;
        self.run.cluster.signal("SIGKILL", &container)?;
        self.wait_for_another_leader(&holder)?;
        // A container that ends again and again waits longer and longer; a pod begins anew.
        let line = format!("delete pod {} --wait=false", pod_of(&holder));
        self.run.cluster.does(&self.kubectl(&line))?;
        self.wait_ready(CONTROLLERS, 2)?;
        self.change_something()
    }

    /// Whoever was stopped writes nothing when it goes on.
    fn freeze_the_leader(&self) -> Result<()> {
        let cluster = self.run.cluster;
        let (holder, container) = self.find_the_leader()?;
        let stopped = Instant::now();
        cluster.signal("SIGSTOP", &container)?;
        let succeeded = self.wait_for_another_leader(&holder).and_then(|()| self.change_something());
        std::thread::sleep(self.measure.frozen.saturating_sub(stopped.elapsed()));
        let versions = self.versions();
        let before = cluster.shell(&versions);
        cluster.signal("SIGCONT", &container)?;
        succeeded?;
        // It has written once it is going to: what it does first is to look whether it still leads.
        std::thread::sleep(Duration::from_secs(3));
        let (before, after) = (before?, cluster.shell(&versions)?);
        let is_in = |all: &str, row: &str| all.lines().any(|one| one == row);
        let (old, new) = (before.lines(), after.lines());
        let unlike = old.filter(|row| !is_in(&after, row)).chain(new.filter(|row| !is_in(&before, row)));
        let unlike: Vec<&str> = unlike.collect();
        ensure!(unlike.is_empty(), "a controller that was stopped wrote when it went on: {unlike:?}");
        ensure!(before.lines().count() > 20, "these are not all objects: {before}");
        println!("    {} objects are as they were", before.lines().count());
        let renewed = cluster.shell(&self.leader())?;
        ensure!(renewed != holder, "{holder} leads again at once");
        self.wait_ready(CONTROLLERS, 2)
    }

    /// A line that prints of what version each object is that controllers write, or make. Not Deployment and budget of their own pods, of
    /// which others write that one is not ready while it is stopped; not Leases and events, which are written all the time.
    fn versions(&self) -> String {
        let each = "{range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}";
        let own = format!("{}/{}-controller", self.namespace, self.release);
        format!(
            "KINDS=$(for group in gateway.networking.k8s.io weir.dev gateway-operator.konghq.com; \
             do kubectl api-resources --verbs=list --api-group=$group -o name; done | paste -sd,); \
             kubectl get $KINDS,{WRITTEN} -A -o jsonpath='{each}' | grep -v -F ' {own} '"
        )
    }

    /// A change goes all the way: it is accepted at its generation.
    fn change_something(&self) -> Result<()> {
        let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
        let patch = format!(r#"{{"spec":{{"hostnames":["steady.example","at-{stamp}.example"]}}}}"#);
        self.run.cluster.does(&self.kubectl(&format!("patch httproute steady --type=merge -p '{patch}'")))?;
        self.run.wait_accepted("httproute/steady", self.namespace)
    }

    fn take_away(&self, component: &str) -> Result<()> {
        let seconds = self.measure.api_away_seconds;
        let addresses = self.kubectl(&format!(
            "get pods -l {SHARED} -o jsonpath='{{range .items[*]}}{{.status.podIP}} {{end}}'"
        ));
        let addresses = self.run.cluster.shell(&addresses)?;
        // Near the end of it, so that what lasts for less shows.
        let soon = Duration::from_secs(seconds.into()).mul_f64(0.9);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                std::thread::sleep(soon);
                addresses.split_whitespace().try_for_each(|address| self.see_a_controller(address))
            });
            let restarted = self.run.cluster.restart(component, seconds);
            let asked = asking.join().map_err(|_panic| anyhow!("asking data planes came to no end"))?;
            restarted.and(asked.with_context(|| format!("while {component} is away")))
        })?;
        self.run.cluster.until("kubectl get --raw /readyz", |answer| answer == "ok")?;
        self.wait_ready(CONTROLLERS, 2)?;
        // Whether the cluster has taken its node for lost meanwhile, and with it all pods for not ready: that is to be known.
        let ready = "{range .items[*]}{.metadata.name}{range .status.conditions[?(@.type==\"Ready\")]} ready={.status} since {.lastTransitionTime}{end} {end}";
        let nodes = self.run.cluster.shell(&format!("kubectl get nodes -o jsonpath='{ready}'"))?;
        println!("    nodes: {nodes}");
        self.run.cluster.until(&self.leader(), |holder| !holder.is_empty())?;
        self.change_something()
    }

    /// The data plane at this address has a controller, and a certificate that has not ended.
    fn see_a_controller(&self, address: &str) -> Result<()> {
        let metrics = self.run.cluster.shell(&format!("curl -s -m 5 http://{address}:19901/metrics"))?;
        let value = |name: &str| -> Option<i64> {
            metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        };
        ensure!(value("weir_plane_connected ") == Some(1), "data plane {address} has no controller");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let end = value("weir_plane_certificate_end_seconds ").unwrap_or_default();
        let left = end.saturating_sub(i64::try_from(now)?);
        println!("    data plane {address}: a controller serves it, and its certificate stands for {left} s");
        ensure!(left > 0, "the certificate of data plane {address} has ended");
        Ok(())
    }

    fn roll(&self, part: &str, selector: &str, pods: usize) -> Result<()> {
        let restart = format!("rollout restart deployment/{}-{part}", self.release);
        self.run.cluster.does(&self.kubectl(&restart))?;
        let status = format!("rollout status deployment/{}-{part} --timeout=120s", self.release);
        self.run.cluster.does(&self.kubectl(&status))?;
        self.wait_ready(selector, pods)
    }

    fn scale_controllers(&self, replicas: usize) -> Result<()> {
        let line = format!("scale deployment/{}-controller --replicas={replicas}", self.release);
        self.run.cluster.does(&self.kubectl(&line))?;
        self.wait_ready(CONTROLLERS, replicas)
    }

    fn planes(&self) -> Result<Vec<String>> {
        let line = self.kubectl(&format!("get pods -l {SHARED} -o jsonpath='{{.items[*].metadata.name}}'"));
        Ok(self.run.cluster.shell(&line)?.split_whitespace().map(str::to_owned).collect())
    }

    /// What a data plane says of itself when it is asked whether it is ready.
    fn word_of(&self, pod: &str) -> String {
        let address = self.kubectl(&format!("get pod {pod} -o jsonpath='{{.status.podIP}}'"));
        format!("curl -s -m 5 http://$({address}):19901/readyz")
    }

    fn kill_a_plane(&self) -> Result<()> {
        let cluster = self.run.cluster;
        let pod = self.planes()?.into_iter().next().context("no data plane")?;
        cluster.signal("SIGKILL", &self.container(&pod)?)?;
        let restarts = format!("get pod {pod} -o jsonpath='{{.status.containerStatuses[0].restartCount}}'");
        cluster.until(&self.kubectl(&restarts), |count| count == "1")?;
        self.wait_ready(SHARED, 2)?;
        let word = cluster.shell(&self.word_of(&pod))?;
        ensure!(word.contains("last known good"), "{pod} says {word}");
        println!("    {pod}: {}", word.trim());
        Ok(())
    }

    fn delete_a_plane(&self) -> Result<()> {
        let cluster = self.run.cluster;
        let before = self.planes()?;
        let pod = before.last().context("no data plane")?;
        cluster.does(&self.kubectl(&format!("delete pod {pod}")))?;
        let new = self.planes()?.into_iter().find(|pod| !before.contains(pod)).context("no replacement")?;
        let word = cluster.until(&self.word_of(&new), |word| word.contains("no snapshot"))?;
        println!("    {new}: {}", word.trim());
        let ready =
            format!("get pod {new} -o jsonpath='{{.status.phase}} {{.status.containerStatuses[0].ready}}'");
        cluster.says(&self.kubectl(&ready), "Running false")
    }

    fn roll_backends(&self) -> Result<()> {
        for line in
            ["rollout restart deployment/steady-a", "rollout status deployment/steady-a --timeout=120s"]
        {
            self.run.cluster.does(&self.kubectl(line))?;
        }
        self.wait_ready("app=steady", 4)
    }

    fn flip(&self, track: &str) -> Result<()> {
        for service in ["steady", "calls"] {
            let patch = format!(r#"{{"spec":{{"selector":{{"track":"{track}"}}}}}}"#);
            let line = format!("patch service {service} --type=merge -p '{patch}'");
            self.run.cluster.does(&self.kubectl(&line))?;
            let slices = format!(
                "get endpointslices -l kubernetes.io/service-name={service} \
                 -o jsonpath='{{.items[*].endpoints[*].targetRef.name}}'"
            );
            let of_track = format!("steady-{track}-");
            self.run.cluster.until(&self.kubectl(&slices), |pods| {
                pods.split_whitespace().count() == 2
                    && pods.split_whitespace().all(|pod| pod.starts_with(&of_track))
            })?;
        }
        Ok(())
    }

    fn ask_for_an_authority(&self) -> Result<()> {
        let secret = format!("{}-weir-authority", self.release);
        let line = format!("annotate secret {secret} weir.dev/rotate-authority=now");
        self.run.cluster.does(&self.kubectl(&line)).map(drop)
    }

    /// The authorities that are trusted, the one that signs first.
    fn authorities(&self) -> String {
        let bundle = "{.data.ca\\.crt}";
        self.kubectl(&format!("get configmap {}-weir-authority -o jsonpath='{bundle}'", self.release))
    }

    /// The next authority is in the file of every data plane before it signs anything.
    fn see_the_authority(&self) -> Result<()> {
        let several = |pem: &str| pem.matches(BEGIN).count() >= 2;
        self.run.cluster.until(&self.authorities(), several).map(drop)
    }

    fn replace_the_authority(&self) -> Result<()> {
        let cluster = self.run.cluster;
        let first = |pem: &str| pem.split(BEGIN).nth(1).map(str::to_owned);
        let signs = first(&cluster.shell(&self.authorities())?).context("no authority")?;
        self.ask_for_an_authority()?;
        let soon = Duration::from_secs(60);
        cluster.until_within(&self.authorities(), OVERLAP + soon, |pem| {
            first(pem).is_some_and(|now| now != signs)
        })?;
        // Whoever renews from now on has a certificate of the new one.
        for pod in self.planes()? {
            let count = self.certificates_of(&pod);
            let before = cluster.shell(&count)?;
            cluster.until_within(&count, LIFETIME, |now| !now.is_empty() && *now != *before)?;
        }
        self.change_something()
    }

    /// How many certificates a data plane has had.
    fn certificates_of(&self, pod: &str) -> String {
        let address = self.kubectl(&format!("get pod {pod} -o jsonpath='{{.status.podIP}}'"));
        format!("curl -s -m 5 http://$({address}):19901/metrics | grep '^weir_plane_certificates_total '")
    }
}

/// What controllers make beside the kinds of the Gateway API and Weir's own.
const WRITTEN: &str = "deployments,services,serviceaccounts,configmaps,secrets,poddisruptionbudgets,\
                       horizontalpodautoscalers,networkpolicies,ingresses,ingressclasses";

/// The pod of a Lease's holder.
fn pod_of(holder: &str) -> &str {
    holder.rsplit_once('_').map_or(holder, |(pod, _)| pod)
}

/// Of each certificate in PEM.
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

const CONTROLLERS: &str = "app.kubernetes.io/component=controller";

/// The pods of the shared data plane.
const SHARED: &str = "weir.dev/provisioned=shared";

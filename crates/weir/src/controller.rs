//! `weir controller`: the control plane of a cluster.
//!
//! Owns the wiring of control, leadership and distribution over one cluster's API. Invariants: every replica watches and
//! translates, and only the one that leads writes, provisions and serves, but that who led last serves on while nobody can; the admin
//! port says what is missing, and names each right that the API refuses.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use weir_control::distribute::{
    self, AuthorityPolicy, Clock, DEFAULT_AUDIENCE, DistributeConfig, Distribution, InstanceSplits,
};
use weir_control::{Cluster, ControlStatus, Leader, LeaseConfig, LeaseTimes, Provision};

use crate::admin::{self, AdminSource};
use crate::check::REFUSED;
use crate::cli::ControllerOptions;
use crate::wire::{self, Room};
use crate::{client, process, snapshot};

/// Updates and answers under way between control and distribution.
const CHANNEL: usize = 4;

/// How long a connection to the API may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// Where service accounts find what they need in a pod.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

pub(crate) fn run(options: &ControllerOptions) -> Result<ExitCode> {
    let policy = policy(options)?;
    let config = wire::block_on(api_config(options))?;
    let names = Names::of(options, &config)?;
    process::raise_file_limit();
    let shutdown = CancellationToken::new();
    let control = Arc::new(ControlStatus::default());
    let distributed = Arc::new(distribute::DistributeStatus::default());
    let (running, runs) = watch::channel(None);
    let report =
        Arc::new(Report { control: Arc::clone(&control), distributed: Arc::clone(&distributed), runs });
    let bound = admin::start(options.admin, report, shutdown.clone())?;
    tracing::info!(admin = %bound, api = %config.cluster_url, identity = names.identity, "weir controller starts");
    let (ended, end) = tokio::sync::oneshot::channel();
    let room = {
        let work = Work {
            options: options.clone(),
            names,
            config,
            control,
            distributed,
            running,
            admin_port: bound.port(),
            policy,
        };
        let stop = shutdown.clone();
        Room::start("weir-control", 2, async move || {
            // Nobody listens any more where a signal ended the process first.
            let _ = ended.send(work.run(stop).await);
        })?
    };
    let outcome = wire::block_on(async {
        tokio::select! {
            signal = process::stop_signal() => {
                tracing::info!(signal = signal?, "weir controller ends");
                Ok(ExitCode::SUCCESS)
            }
            outcome = end => match outcome {
                Ok(Ok(())) | Err(_) => bail!("the control plane ended by itself"),
                Ok(Err(error)) => Err(error),
            },
        }
    });
    shutdown.cancel();
    room.join();
    outcome
}

/// How certificates follow each other.
fn policy(options: &ControllerOptions) -> Result<AuthorityPolicy> {
    let policy = AuthorityPolicy {
        authority_lifetime: Duration::from_secs(options.authority_lifetime),
        certificate_lifetime: Duration::from_secs(options.certificate_lifetime),
        overlap: Duration::from_secs(options.authority_overlap),
    };
    let checked = policy.check().map_err(anyhow::Error::msg);
    checked.context("--authority-lifetime, --certificate-lifetime, --authority-overlap")?;
    Ok(policy)
}

/// The cluster that is named, or in which this runs, or that `kubectl` would use.
async fn api_config(options: &ControllerOptions) -> Result<Config> {
    let mut config = if let Some(path) = &options.kubeconfig {
        let file = Kubeconfig::read_from(path)
            .with_context(|| format!("--kubeconfig: reading {}", path.display()))?;
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
    } else if std::env::var_os(IN_CLUSTER).is_some() {
        Config::incluster().context("the pod's service account")?
    } else {
        Config::from_kubeconfig(&KubeConfigOptions::default())
            .await
            .context("not in a pod, and no kubeconfig: name one with --kubeconfig")?
    };
    config.connect_timeout = Some(CONNECT);
    Ok(config)
}

/// What this process and its installation are called.
#[derive(Clone)]
struct Names {
    namespace: String,
    release: String,
    /// Different for each process there ever was.
    identity: String,
    /// Where data planes find this process, and where any of its kind.
    own_address: String,
    address: String,
}

impl Names {
    fn of(options: &ControllerOptions, config: &Config) -> Result<Names> {
        let namespace = options.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let instance = options.instance.clone().unwrap_or(host);
        let release = options.release.clone();
        let port = options.listen.port();
        let address = match &options.controller_address {
            Some(address) => address.clone(),
            None => format!("{release}-controller.{namespace}.svc:{port}"),
        };
        if !address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        {
            bail!("--controller-address: {address:?} is not HOST:PORT");
        }
        let own_address = match options.pod_ip {
            Some(ip) => SocketAddr::new(ip, port).to_string(),
            None => String::new(),
        };
        // The part before is the pod's name, by which the leader is found.
        let identity = format!("{instance}_{:08x}", wire::random_seed() >> 32);
        Ok(Names { namespace, release, identity, own_address, address })
    }
}

/// Everything that the control plane's threads need.
struct Work {
    options: ControllerOptions,
    names: Names,
    config: Config,
    control: Arc<ControlStatus>,
    distributed: Arc<distribute::DistributeStatus>,
    running: watch::Sender<Option<Distribution>>,
    admin_port: u16,
    policy: AuthorityPolicy,
}

impl Work {
    async fn run(self, shutdown: CancellationToken) -> Result<()> {
        let Work { options, names, config, control, distributed, running, admin_port, policy } = self;
        let client = client::client(config)?;
        let distribution = Distribution::new(
            client.clone(),
            DistributeConfig {
                listen: process::listen_address(options.listen),
                namespace: names.namespace.clone(),
                secret: Cluster::authority_name(&names.release),
                audience: DEFAULT_AUDIENCE.to_owned(),
                policy,
                clock: Clock::default(),
                status: distributed,
                calls: Arc::clone(&control),
            },
        );
        running.send_replace(Some(distribution.clone()));
        let cluster = Cluster {
            namespace: names.namespace.clone(),
            release: names.release.clone(),
            image: options.image,
            pull_policy: options.image_pull_policy,
            pull_secrets: options.image_pull_secrets,
            log: options.data_plane_log,
            controller: names.address.clone(),
            audience: DEFAULT_AUDIENCE.to_owned(),
            trust: distribution.trust(),
            take_over: options.take_over,
        };
        let (leadership, election) = if options.leader_election {
            let lease = LeaseConfig {
                namespace: names.namespace.clone(),
                name: cluster.lease_name(),
                identity: names.identity.clone(),
                address: names.own_address.clone(),
                admin_port,
                namespaces: options.watch_namespaces.clone(),
                times: LeaseTimes::default(),
            };
            let elector = weir_control::elector(client.clone(), Arc::clone(&control), lease);
            (elector.leadership(), elector.run(shutdown.clone()).left_future())
        } else {
            (weir_control::Leadership::always(), futures::future::ready(()).right_future())
        };
        let mut settings = wire::control_config(Provision::Cluster(cluster), control);
        settings.instance = names.identity;
        settings.namespaces = options.watch_namespaces;
        settings.leadership = leadership.clone();
        settings.translate.configuration_fields = weir_control::CONFIGURATION_FIELDS;
        let (updates, wanted) = mpsc::channel(CHANNEL);
        let (answers, applied) = mpsc::channel(CHANNEL);
        let (told, leader) = watch::channel(distribute::Leadership::Standby { leader: None });
        let stop = shutdown.child_token();
        let control = async {
            weir_control::run(client, updates, applied, settings, stop.clone()).await;
            stop.cancel();
        };
        let serving = async {
            let outcome = distribution.run(leader, wanted, answers, stop.clone()).await;
            stop.cancel();
            outcome
        };
        let telling = tell(leadership.watch(), told, stop.clone());
        let ((), (), served, ()) = tokio::join!(control, telling, serving, election);
        served.context("serving data planes")
    }
}

/// Passes on who leads, in the words of distribution.
async fn tell(
    mut leader: watch::Receiver<Leader>,
    told: watch::Sender<distribute::Leadership>,
    shutdown: CancellationToken,
) {
    loop {
        let now = match &*leader.borrow_and_update() {
            Leader::Own { epoch } => distribute::Leadership::Leader { epoch: *epoch },
            Leader::Other { address, .. } => distribute::Leadership::Standby {
                leader: Some(address.clone()).filter(|address| !address.is_empty()),
            },
            Leader::Lapsed { epoch } => distribute::Leadership::Caretaker { epoch: *epoch },
            Leader::Unknown => distribute::Leadership::Standby { leader: None },
        };
        told.send_replace(now);
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = leader.changed() => if changed.is_err() { return },
        }
    }
}

/// What the admin port tells of a controller.
struct Report {
    control: Arc<ControlStatus>,
    distributed: Arc<distribute::DistributeStatus>,
    runs: watch::Receiver<Option<Distribution>>,
}

impl Report {
    fn refused(&self) -> Option<String> {
        let denied: Vec<String> = self.control.denied().iter().map(ToString::to_string).collect();
        (!denied.is_empty()).then(|| format!("{REFUSED}: {}", denied.join(", ")))
    }
}

impl AdminSource for Report {
    fn ready(&self) -> Result<(), String> {
        if !self.control.ready() {
            let missing = self.control.missing();
            let left = self.control.left_alone();
            let open: Vec<&str> = left.values().map(String::as_str).collect();
            let waiting = if missing.is_empty() && !open.is_empty() {
                format!("nothing has been translated yet: {}", open.join("; "))
            } else if missing.is_empty() {
                "nothing has been translated yet".to_owned()
            } else {
                format!("the first lists are not complete: {}", missing.join(", "))
            };
            return Err(self.refused().map_or(waiting.clone(), |refused| format!("{waiting}; {refused}")));
        }
        match &*self.runs.borrow() {
            Some(distribution) => distribution.ready(),
            None => Err("data planes are not served yet".to_owned()),
        }
    }

    fn remark(&self) -> Option<String> {
        let left = self.control.left_alone();
        let left = left.iter().map(|(name, why)| format!("classes of {name} are left alone: {why}"));
        let absent = self.control.absent();
        let absent = (!absent.is_empty()).then(|| {
            let kinds = absent.join(", ");
            format!("the API does not serve {kinds}: install the CRDs of the Gateway API")
        });
        let quiet = self.control.unanswered().map(|since| {
            let seconds = since.as_secs();
            format!("the API has not answered for {seconds} s: what it was last seen to say goes on")
        });
        let all: Vec<String> = quiet.into_iter().chain(self.refused()).chain(absent).chain(left).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    fn metrics(&self) -> String {
        self.control.render() + &self.distributed.render()
    }

    fn snapshot(&self) -> Value {
        let contents = self.runs.borrow().as_ref().map(Distribution::contents);
        snapshot::of_controller(contents.unwrap_or_default())
    }

    fn splits(&self) -> BoxFuture<'_, Value> {
        let distribution = self.runs.borrow().clone();
        async move {
            let Some(distribution) = distribution else { return json!({ "rules": [] }) };
            let mut rules = Vec::new();
            let splits = distribution.splits().await;
            for instance in &splits.answered {
                rules.extend(split_rules(instance));
            }
            json!({ "rules": rules, "asked": splits.asked, "answered": splits.answered.len() })
        }
        .boxed()
    }
}

/// The rules that an instance tells of, with whose they are. What has another form than that is left out: an instance may say anything.
fn split_rules(instance: &InstanceSplits) -> Vec<Value> {
    let Ok(Value::Object(mut told)) = serde_json::from_slice(&instance.json) else { return Vec::new() };
    let Some(Value::Array(rules)) = told.remove("rules") else { return Vec::new() };
    let rule = |rule| {
        let Value::Object(mut rule) = rule else { return None };
        rule.insert("dataPlane".to_owned(), instance.data_plane.to_string().into());
        rule.insert("instance".to_owned(), instance.instance.as_str().into());
        Some(Value::Object(rule))
    };
    rules.into_iter().filter_map(rule).collect()
}

#[cfg(test)]
mod tests {
    use weir_model::resource::DataPlaneName;

    use super::*;

    #[test]
    fn served_counts_of_another_form_are_left_out() {
        let rules = |json: &'static str| {
            let data_plane = DataPlaneName::new("default", "a");
            let instance = InstanceSplits { data_plane, instance: "a-1".to_owned(), json: json.into() };
            Value::Array(split_rules(&instance))
        };
        for odd in ["", "[]", "7", "null", "{}", r#"{"rules":{}}"#, r#"{"rules":["x",[],null,7]}"#] {
            assert_eq!(rules(odd), json!([]), "{odd}");
        }
        let told = r#"{"rules":["x",{"route":"default/r","dataPlane":"default/b"}]}"#;
        let expected = json!([{ "route": "default/r", "dataPlane": "default/a", "instance": "a-1" }]);
        assert_eq!(rules(told), expected, "whose they are is not theirs to say");
    }
}

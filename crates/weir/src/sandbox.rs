//! `weir sandbox`: the embedded API, echo pods, control and data plane in one process.
//!
//! Invariants: two sandboxes on one machine never share an address, an API port or a default file; the kubeconfig can be
//! read by its owner only; whatever was started is ended by `stop`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use weir_apiserver::pods::PodsConfig;
use weir_apiserver::{ApiServer, ApiServerConfig, ServingTls, controllers, pods};
use weir_control::{ControlStatus, Provision};
use weir_model::limits::Limits;

use crate::address::{AddressRange, Claim};
use crate::cli::{Channel, SandboxOptions};
use crate::wire::{self, GatewayReport, Room, SHORT_DRAIN};
use crate::{admin, client, process};

/// Start-up takes milliseconds; this only ends what hangs.
const START_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) fn run(options: &SandboxOptions) -> Result<ExitCode> {
    let sandbox = Sandbox::start(options)?;
    println!("{}", sandbox.greeting());
    let signal = wire::block_on(async { Ok(process::stop_signal().await?) });
    sandbox.stop();
    signal.map(|_| ExitCode::SUCCESS)
}

/// A running sandbox; ended by [`Sandbox::stop`].
pub(crate) struct Sandbox {
    pub(crate) kubeconfig: KubeconfigFile,
    api_url: String,
    admin: SocketAddr,
    low_ports: LowPorts,
    claim: Claim,
    proxy: weir_proxy::Proxy,
    shutdown: CancellationToken,
    rooms: Vec<Room>,
}

impl Sandbox {
    /// Returns when the API answers, the kubeconfig is written and the data plane runs its first snapshot.
    pub(crate) fn start(options: &SandboxOptions) -> Result<Sandbox> {
        let claim = Claim::take(options.address_range)?;
        let kubeconfig = match &options.kubeconfig {
            Some(path) => std::path::absolute(path)?,
            None => client::state_folder()?.join(format!("kubeconfig{}", claim.suffix)),
        };
        let (gateway_range, pod_range) = claim.range.halves();
        let low_ports = LowPorts::find_out(gateway_range);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.api_port))
            .with_context(|| format!("--api-port: binding 127.0.0.1:{}", options.api_port))?;
        let api_url = format!("https://{}", listener.local_addr()?);
        let api = ApiServer::new(ApiServerConfig {
            channel: options.channel.into(),
            ..ApiServerConfig::default()
        })?;
        let tls = ServingTls::generate(&[Ipv4Addr::LOCALHOST.into()])?;
        let kubeconfig = KubeconfigFile::new(kubeconfig, &api.kubeconfig(&api_url, &tls))?;
        let proxy = wire::start_proxy(
            &options.process,
            true,
            Limits { drain_delay: Duration::ZERO, drain_timeout: SHORT_DRAIN, ..Limits::default() },
        )?;
        let shutdown = CancellationToken::new();
        let control = Arc::new(ControlStatus::default());
        let report = Arc::new(GatewayReport {
            proxy: proxy.clone(),
            control: control.clone(),
            contents: Arc::default(),
        });
        let admin = admin::start(options.process.admin, report.clone(), shutdown.clone())?;
        let pods = PodsConfig { addresses: pod_range.to_string().parse()?, ..PodsConfig::default() };
        let provision = Provision::Sandbox(weir_control::Sandbox::new(gateway_range.to_string().parse()?));

        let rooms = vec![
            {
                let (api, stop) = (api.clone(), shutdown.clone());
                Room::start("weir-api", 2, async move || api.serve(listener, tls, stop).await)?
            },
            {
                let (api, stop) = (api.clone(), shutdown.clone());
                Room::start("weir-objects", 1, async move || {
                    tokio::join!(
                        controllers::run(api.client(), stop.clone()),
                        pods::run(api.client(), pods, api.logs(), stop),
                    );
                })?
            },
            {
                let (api, proxy, stop) = (api.clone(), proxy.clone(), shutdown.clone());
                let (status, contents) = (control.clone(), report.contents.clone());
                Room::start("weir-control", 1, async move || {
                    wire::run_control(api.client(), proxy, provision, status, contents, stop).await;
                })?
            },
        ];
        let sandbox = Sandbox { kubeconfig, api_url, admin, low_ports, claim, proxy, shutdown, rooms };
        if let Err(error) = sandbox.settle(&api, report.as_ref()) {
            sandbox.stop();
            return Err(error);
        }
        Ok(sandbox)
    }

    /// Publishes where the admin port is, then waits until everything runs.
    fn settle(&self, api: &ApiServer, report: &GatewayReport) -> Result<()> {
        use crate::admin::AdminSource;
        wire::block_on(async {
            let (namespace, name) = client::SANDBOX_CONFIG_MAP;
            let map: ConfigMap = serde_json::from_value(json!({
                "metadata": { "name": name },
                "data": { "admin": format!("http://{}", self.admin), "addressRange": self.claim.range.to_string() },
            }))?;
            let maps = Api::<ConfigMap>::namespaced(api.client(), namespace);
            maps.create(&PostParams::default(), &map).await.context("writing the sandbox's ConfigMap")?;
            let deadline = Instant::now() + START_TIMEOUT;
            while let Err(missing) = report.ready() {
                if Instant::now() > deadline {
                    bail!("not ready after {START_TIMEOUT:?}: {missing}");
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.kubeconfig.write()
        })
    }

    /// What a user needs to go on.
    fn greeting(&self) -> String {
        let mut text = format!(
            "Weir sandbox: Kubernetes API at {}, Gateways and pods in {}, admin port at http://{}\n",
            self.api_url, self.claim.range, self.admin
        );
        text += &self.low_ports.explanation();
        text += &format!("export KUBECONFIG={}", self.kubeconfig.path.display());
        text
    }

    /// Ends the rooms, lets requests finish, and removes the kubeconfig.
    pub(crate) fn stop(self) {
        let _ = wire::block_on(async {
            self.proxy.end().await;
            Ok(())
        });
        self.shutdown.cancel();
        self.rooms.into_iter().for_each(Room::join);
        self.kubeconfig.remove();
    }
}

impl From<Channel> for weir_apiserver::Channel {
    fn from(channel: Channel) -> Self {
        match channel {
            Channel::Standard => Self::Standard,
            Channel::Experimental => Self::Experimental,
        }
    }
}

/// Whether this process may bind ports under 1024.
enum LowPorts {
    Allowed,
    Refused,
}

impl LowPorts {
    /// By trying: capabilities, sysctl and user namespaces all play a part. A port that is taken was allowed.
    fn find_out(range: AddressRange) -> LowPorts {
        match TcpListener::bind((range.usable().0, 80)) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => LowPorts::Refused,
            _ => LowPorts::Allowed,
        }
    }

    fn explanation(&self) -> String {
        if matches!(self, LowPorts::Allowed) {
            return String::new();
        }
        format!(
            r#"This process may not bind ports under 1024: a port p is served at the first free of p+8000, p+18000, …
The guide's lines are then:
  curl -i $PROXY_IP:8080
  curl -s "$PROXY_IP:8080/echo/hostname?iteration="{{1..200}} -w "\n" | sort | uniq -c
{}"#,
            low_port_remedies()
        )
    }
}

/// What gives a process the right to bind ports under 1024.
pub(crate) fn low_port_remedies() -> String {
    let program =
        std::env::current_exe().map_or_else(|_| "weir".to_owned(), |path| path.display().to_string());
    format!(
        "Either of these, and a new start, makes a guide's lines work as they are written:
  sudo setcap cap_net_bind_service=+ep {program}
  sudo sysctl net.ipv4.ip_unprivileged_port_start=0
"
    )
}

/// The sandbox's own kubeconfig: readable by its owner only, never in the place of a file of somebody else's.
pub(crate) struct KubeconfigFile {
    pub(crate) path: PathBuf,
    text: String,
}

impl KubeconfigFile {
    /// First line of each file that a sandbox wrote, and the only ones that it replaces or removes.
    const MARK: &str = "# Written by weir sandbox; removed when it ends.\n";

    fn new(path: PathBuf, kubeconfig: &str) -> Result<KubeconfigFile> {
        let file = KubeconfigFile { path, text: format!("{}{kubeconfig}", Self::MARK) };
        match std::fs::read(&file.path) {
            Ok(there) if !there.is_empty() && !there.starts_with(Self::MARK.as_bytes()) => {
                bail!(
                    "--kubeconfig: {} is there and no sandbox wrote it; choose another path",
                    file.path.display()
                )
            }
            Ok(_) => Ok(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(file),
            Err(error) => {
                Err(error).with_context(|| format!("--kubeconfig: reading {}", file.path.display()))
            }
        }
    }

    /// Whole or not at all.
    fn write(&self) -> Result<()> {
        use std::io::Write;
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        let why = || format!("writing the kubeconfig {}", self.path.display());
        let folder = self.path.parent().with_context(why)?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(why)?;
        let temporary = self.path.with_extension(format!("{}.new", std::process::id()));
        let written = (|| {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(self.text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, &self.path)
        })();
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        written.with_context(why)
    }

    /// Leaves it where another sandbox has put its own there since.
    fn remove(&self) {
        if std::fs::read(&self.path).is_ok_and(|there| there == self.text.as_bytes()) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

//! The command line: names, defaults and their help texts.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use weir_model::resource::DataPlaneName;

use crate::address::AddressRange;

#[derive(Debug, Parser)]
#[command(
    name = "weir",
    version,
    about = "A Kubernetes Gateway API gateway: exact traffic splitting, with or without a cluster"
)]
pub(crate) struct CommandLine {
    /// What to log to standard error, e.g. `info` or `warn,weir_proxy=debug` (default: `warn`; of a controller `info`).
    #[arg(long, global = true, env = "WEIR_LOG", value_name = "DIRECTIVES")]
    pub(crate) log: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Watch the multi-backend guide happen: two Services behind one HTTPRoute, counted request by request.
    Demo(DemoOptions),
    /// A Kubernetes API, echo pods and the gateway in one process: use it with kubectl and curl.
    Sandbox(SandboxOptions),
    /// Serve the objects of a directory of YAML files, without an API.
    Serve(ServeOptions),
    /// Run the control plane of a cluster: statuses, data planes for Gateways, and what those serve.
    Controller(ControllerOptions),
    /// Run the data plane of one Gateway in a cluster: what it serves comes from a controller.
    Proxy(ProxyOptions),
    /// Say what is wrong with a directory of YAML files, without serving it.
    Validate(ValidateOptions),
    /// Show Gateways and routes: addresses, ports, and every condition that is not as it should be.
    Status(ClientOptions),
    /// Show each rule's weights, what was served, and the largest deviation so far.
    Split(SplitOptions),
    /// Show what each data plane is to have and has: resources by kind, name and hash, never their bytes.
    Snapshot(SnapshotOptions),
    /// Say whether a cluster is fit for Weir, and why a Gateway is not programmed.
    Check(CheckOptions),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ProcessOptions {
    /// Worker threads of the data plane (default: one for each core that the process may use).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) workers: Option<u16>,
    /// Address of the admin port: /readyz, /livez, /metrics, /splits, /snapshot (default: a free port on 127.0.0.1).
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) admin: Option<SocketAddr>,
    /// Seed of the split's phases, for reproducible runs (default: random).
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoOptions {
    /// End after the counts, also on a terminal.
    #[arg(long)]
    pub(crate) exit: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SandboxOptions {
    /// Where to write the kubeconfig (default: in $XDG_STATE_HOME/weir or ~/.local/state/weir).
    #[arg(long, value_name = "PATH")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Loopback addresses for Gateways and pods, as a CIDR inside 127.0.0.0/8 (default: the first free /16 from 127.77.0.0/16 on).
    #[arg(long, value_name = "CIDR")]
    pub(crate) address_range: Option<AddressRange>,
    /// Port of the Kubernetes API on 127.0.0.1 (default: any free one).
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub(crate) api_port: u16,
    /// Which Gateway API channel the built-in CRDs are of.
    #[arg(long, value_enum, default_value_t = Channel::Experimental)]
    pub(crate) channel: Channel,
    #[command(flatten)]
    pub(crate) process: ProcessOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Channel {
    Standard,
    Experimental,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ServeOptions {
    /// Directory of *.yaml, *.yml and *.json files; watched.
    #[arg(short = 'f', long = "files", value_name = "DIR")]
    pub(crate) files: PathBuf,
    /// Address of Gateways that ask for none in spec.addresses.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub(crate) address: IpAddr,
    /// Seconds for which connections are still accepted after a signal to end, so that load balancers can notice.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) drain_delay: u16,
    /// Which Gateway API channel the objects are checked against.
    #[arg(long, value_enum, default_value_t = Channel::Experimental)]
    pub(crate) channel: Channel,
    #[command(flatten)]
    pub(crate) process: ProcessOptions,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ControllerOptions {
    /// Kubeconfig of the cluster (default: the pod's service account, else as kubectl).
    #[arg(long, value_name = "PATH")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Namespace in which Weir is installed (default: the pod's, else the kubeconfig's).
    #[arg(long, env = "WEIR_NAMESPACE", value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Name of the installation: its shared data plane is the Service NAME-gateway-proxy.
    #[arg(long, env = "WEIR_RELEASE", value_name = "NAME", default_value = "weir")]
    pub(crate) release: String,
    /// Image of the data planes that are made for Gateways.
    #[arg(long, env = "WEIR_IMAGE", value_name = "IMAGE", default_value = concat!("weir:", env!("CARGO_PKG_VERSION")))]
    pub(crate) image: String,
    /// When that is pulled: Always, IfNotPresent or Never (default: as Kubernetes has it for the tag).
    #[arg(long, env = "WEIR_PULL_POLICY", value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub(crate) image_pull_policy: Option<String>,
    /// Secrets of each Gateway's namespace with which that is pulled.
    #[arg(long, env = "WEIR_PULL_SECRETS", value_name = "NAME,NAME", value_delimiter = ',')]
    pub(crate) image_pull_secrets: Vec<String>,
    /// What those data planes log (default: as `weir proxy` without --log).
    #[arg(long, env = "WEIR_DATA_PLANE_LOG", value_name = "DIRECTIVES")]
    pub(crate) data_plane_log: Option<String>,
    /// Namespaces whose objects are read (default: all).
    #[arg(long, env = "WEIR_WATCH_NAMESPACES", value_name = "NAME,NAME", value_delimiter = ',')]
    pub(crate) watch_namespaces: Vec<String>,
    /// Whether one of several replicas is chosen to write; without it there must be one, and no other installation, which would
    /// not see this one.
    #[arg(long, env = "WEIR_LEADER_ELECTION", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) leader_election: bool,
    /// Answer for classes of Kong's even where a controller of Kong's lives.
    #[arg(long, env = "WEIR_TAKE_OVER")]
    pub(crate) take_over: bool,
    /// Where data planes are listened for (gRPC over TLS).
    #[arg(long, value_name = "IP:PORT", default_value = "[::]:9902")]
    pub(crate) listen: SocketAddr,
    /// Where data planes find a controller (default: RELEASE-controller.NAMESPACE.svc and the port of --listen).
    #[arg(long, env = "WEIR_CONTROLLER_ADDRESS", value_name = "HOST:PORT")]
    pub(crate) controller_address: Option<String>,
    /// Address of this pod, by which others point to it while it leads.
    #[arg(long, env = "POD_IP", value_name = "IP")]
    pub(crate) pod_ip: Option<IpAddr>,
    /// Name of this replica, for people (default: the host's name).
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub(crate) instance: Option<String>,
    /// Address of the admin port: /readyz, /livez, /metrics, /splits, /snapshot (default: a free port on 127.0.0.1).
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) admin: Option<SocketAddr>,
    /// Seconds for which the authority of controllers and data planes is valid; after two thirds of it the next one is made.
    #[arg(long, env = "WEIR_AUTHORITY_LIFETIME", value_name = "SECONDS", default_value_t = 365 * 24 * 3600, value_parser = clap::value_parser!(u64).range(3600..=20 * 365 * 24 * 3600))]
    pub(crate) authority_lifetime: u64,
    /// Seconds for which a new authority is trusted before it signs; a kubelet may take two minutes to bring it to a pod.
    #[arg(long, env = "WEIR_AUTHORITY_OVERLAP", value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(120..))]
    pub(crate) authority_overlap: u64,
    /// Seconds for which a data plane's certificate is valid; it is renewed after about two thirds of it.
    #[arg(long, env = "WEIR_CERTIFICATE_LIFETIME", value_name = "SECONDS", default_value_t = 24 * 3600, value_parser = clap::value_parser!(u64).range(300..))]
    pub(crate) certificate_lifetime: u64,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ProxyOptions {
    /// Where controllers are; each address that the name has is tried.
    #[arg(long, env = "WEIR_CONTROLLER", value_name = "HOST:PORT")]
    pub(crate) controller: String,
    /// Which data plane this is.
    #[arg(long, env = "WEIR_DATA_PLANE", value_name = "NAMESPACE/NAME")]
    pub(crate) data_plane: DataPlaneName,
    /// The pod's token for the controller's audience; shown once, for a certificate.
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/weir/token")]
    pub(crate) token_file: PathBuf,
    /// Authorities of controllers' certificates, PEM; read anew for each connection.
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/weir-ca/ca.crt")]
    pub(crate) ca_file: PathBuf,
    /// Where the certificate and the last state are kept, for a restart while no controller can be reached.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weir")]
    pub(crate) state_dir: PathBuf,
    /// Name of this instance, for people (default: the host's name).
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub(crate) instance: Option<String>,
    /// Address on which listeners are served (default: all, of IPv4 and IPv6).
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<IpAddr>,
    /// Seconds for which connections are still accepted after a signal to end, so that load balancers can notice.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub(crate) drain_delay: u16,
    #[command(flatten)]
    pub(crate) process: ProcessOptions,
}

#[derive(Debug, Args)]
pub(crate) struct ValidateOptions {
    /// Directory of *.yaml, *.yml and *.json files.
    #[arg(short = 'f', long = "files", value_name = "DIR")]
    pub(crate) files: PathBuf,
    /// Which Gateway API channel the objects are checked against.
    #[arg(long, value_enum, default_value_t = Channel::Experimental)]
    pub(crate) channel: Channel,
}

#[derive(Debug, Args)]
pub(crate) struct CheckOptions {
    /// The Gateway to look at (default: all).
    #[arg(value_name = "NAMESPACE/NAME")]
    pub(crate) gateway: Option<String>,
    /// Look only at the controllers and Gateways of this namespace, for those who may read no other (default: all).
    #[arg(short = 'n', long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Look again and again for so long until nothing is wrong, as right after an installation.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) wait: u16,
    #[command(flatten)]
    pub(crate) client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct SplitOptions {
    /// Ask only the controllers of this namespace, for those who may read no other (default: all).
    #[arg(short = 'n', long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotOptions {
    /// The data plane, or its Gateway (default: all).
    #[arg(value_name = "NAMESPACE/NAME")]
    pub(crate) data_plane: Option<String>,
    /// Ask only the controllers of this namespace, for those who may read no other (default: all).
    #[arg(short = 'n', long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct ClientOptions {
    /// Kubeconfig (default: $KUBECONFIG, else the sandbox's own file, else kubectl's, else the pod's service account; as `kubectl weir`
    /// without the sandbox's).
    #[arg(long, value_name = "PATH")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig (default: its current one).
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Admin port to ask, e.g. http://127.0.0.1:9901 (default: as the API says).
    #[arg(long, value_name = "URL")]
    pub(crate) admin: Option<String>,
}

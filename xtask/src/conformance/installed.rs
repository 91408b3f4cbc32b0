//! A real cluster with the chart in it, for one run of the suite: brought up, filled, and left as it was found.
//!
//! Owns the images that the suite's own manifests name, made of the suite's own programs; the class, whose Gateways get data planes of
//! their own, as users have them; and which addresses can be had there.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::place::StaticAddresses;
use super::{Channel, Options, go};
use crate::cluster::leftovers::Inventory;
use crate::cluster::{Cluster, Where};
use crate::{image, upstream};

/// The release, its namespace, and the class.
const NAMESPACE: &str = "weir-system";
const CLASS: &str = include_str!("gateways.yaml");

/// How far from the first address that a load balancer gives another is looked for that the suite's Gateways, of which each
/// takes the next, do not come to. Several, because nobody says how long the load balancer's range is.
const DISTANCES: [u8; 4] = [90, 60, 45, 120];

/// Asks a load balancer for an address.
const PROBE: &str = "address-probe";

/// See the module's head.
pub(super) struct Installed {
    pub(super) cluster: Cluster,
    before: Inventory,
    /// Who runs the suite knows of one.
    usable: Option<IpAddr>,
}

impl Installed {
    pub(super) fn start(root: &Path, folder: &Path, place: Where, options: &Options) -> Result<Installed> {
        let image = match &options.image {
            Some(path) => path.canonicalize().with_context(|| path.display().to_string())?,
            None => image::make_linked(root, &options.build, &[])?,
        };
        let echo = go::build_echo(root, folder)?;
        let names = go::images(root)?;
        let cluster = Cluster::up(root, place, options.keep)?;
        cluster.load(&image)?;
        if cluster.takes_images() {
            for archive in images(folder, &cluster, &echo, &names)? {
                cluster.load(&archive)?;
            }
        }
        let prepared = install(root, folder, &cluster, options.channel);
        if prepared.is_err() {
            cluster.tell();
        }
        Ok(Installed { before: prepared?, cluster, usable: options.usable_address })
    }

    /// The address of the shared data plane is another's for every Gateway; one that a load balancer gives when it is asked is free.
    pub(super) fn addresses(&self) -> Result<StaticAddresses> {
        let line = format!(
            "kubectl get service weir-gateway-proxy -n {NAMESPACE} -o jsonpath='{{.status.loadBalancer.ingress[0].ip}}'"
        );
        let taken = self.cluster.until(&line, |printed| !printed.is_empty())?;
        let unusable: IpAddr = taken.parse().with_context(|| taken.clone())?;
        let usable = match (self.usable, unusable) {
            (Some(usable), _) => usable,
            (None, IpAddr::V4(taken)) => self.free_beside(taken)?.into(),
            (None, IpAddr::V6(taken)) => {
                bail!("the load balancer gives {taken}: name another that it has, with --usable-address")
            }
        };
        Ok(StaticAddresses { usable, unusable })
    }

    /// One that the load balancer gives when it is asked, and that the suite's Gateways do not come to meanwhile.
    fn free_beside(&self, taken: Ipv4Addr) -> Result<Ipv4Addr> {
        let [a, b, c, last] = taken.octets();
        for distance in DISTANCES {
            let Some(last) = last.checked_add(distance).filter(|last| *last < u8::MAX) else { continue };
            let address = Ipv4Addr::new(a, b, c, last);
            if self.can_be_had(address)? {
                return Ok(address);
            }
        }
        bail!(
            "the load balancer gives {taken}, and none of those beside it that were asked for: name one with --usable-address"
        )
    }

    fn can_be_had(&self, address: Ipv4Addr) -> Result<bool> {
        let probe = format!("service/{PROBE} -n {NAMESPACE}");
        let made = format!(
            "kubectl create service loadbalancer {PROBE} -n {NAMESPACE} --tcp=80:80 --dry-run=client -o json \
             | kubectl patch --local -f - --type=merge -p '{{\"spec\":{{\"loadBalancerIP\":\"{address}\"}}}}' -o json \
             | kubectl apply -f -"
        );
        self.cluster.does(&made)?;
        let wait = format!(
            "kubectl wait {probe} --for=jsonpath='{{.status.loadBalancer.ingress[0].ip}}' --timeout=10s >/dev/null || true; \
             kubectl get {probe} -o jsonpath='{{.status.loadBalancer.ingress[*].ip}}'; kubectl delete {probe} >/dev/null"
        );
        Ok(self.cluster.does(&wait)? == address.to_string())
    }

    /// Takes everything away; an error names what is left.
    pub(super) fn end(self) -> Result<()> {
        self.cluster.does("kubectl delete gatewayclass gateway-conformance")?;
        self.cluster.does(&format!("kubectl delete gatewayconfiguration conformance -n {NAMESPACE}"))?;
        self.cluster.does(&format!("helm uninstall weir -n {NAMESPACE}"))?;
        self.cluster.does(&format!("kubectl delete namespace {NAMESPACE} --timeout=120s"))?;
        self.before.is_restored(&self.cluster)
    }
}

/// The channel's kinds, the chart, and the class; what was there before the last two.
fn install(root: &Path, folder: &Path, cluster: &Cluster, channel: Channel) -> Result<Inventory> {
    let crds = upstream::crds(root)?.join(channel.name());
    cluster.does(&format!("kubectl apply --server-side --force-conflicts -f {}", crds.display()))?;
    cluster.does("kubectl wait --for=condition=Established crd --all --timeout=60s")?;
    let before = Inventory::take(cluster)?;
    cluster.does(&format!("helm install weir deploy/helm/weir -n {NAMESPACE} --create-namespace"))?;
    for part in ["controller", "gateway-proxy"] {
        let line = format!("kubectl rollout status deployment/weir-{part} -n {NAMESPACE} --timeout=120s");
        cluster.does(&line)?;
    }
    let class = folder.join("gateways.yaml");
    fs::write(&class, CLASS).context("writing the class")?;
    cluster.does(&format!("kubectl apply -f {}", class.display()))?;
    Ok(before)
}

/// The suite's echo program under each name that its manifests have for it, and CoreDNS where the cluster brings it.
fn images(folder: &Path, cluster: &Cluster, echo: &Path, names: &[String]) -> Result<Vec<PathBuf>> {
    let mut archives = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let file = if name.contains("/echo-basic:") { "echo-basic" } else { "coredns" };
        let program = match file {
            "echo-basic" => Some(echo.to_owned()),
            _ => cluster.program("coredns").filter(|_| name.contains("/coredns:")),
        };
        let Some(program) = program else {
            println!("    {name} is not made here: the nodes have to have it");
            continue;
        };
        let path = folder.join(format!("image-{at}.tar"));
        fs::write(&path, image::of_program(name, file, &fs::read(&program)?)?)?;
        archives.push(path);
    }
    ensure!(!archives.is_empty(), "the suite's manifests name no image that is known: {names:?}");
    Ok(archives)
}

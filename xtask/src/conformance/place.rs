//! Where a run of the suite takes place: which API server it asks, and which addresses its Gateways may ask for.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::installed::Installed;
use super::sandbox::Sandbox;

/// An address on no interface. Source: RFC 5737.
const UNUSABLE_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// See the module's head.
pub(super) enum Place {
    Sandbox(Sandbox),
    /// Whatever a kubeconfig leads to.
    There(PathBuf),
    /// A cluster in which the chart was installed.
    Cluster(Box<Installed>),
}

/// What the test of static addresses asks for: one that can be had, and one that cannot.
#[derive(Clone, Copy, Debug)]
pub(super) struct StaticAddresses {
    pub(super) usable: IpAddr,
    pub(super) unusable: IpAddr,
}

impl Place {
    /// The suite's program, so that it reaches the API server and the Gateways' addresses.
    pub(super) fn suite(&self, program: &Path) -> Command {
        let kubeconfig = match self {
            Place::Sandbox(sandbox) => &sandbox.kubeconfig,
            Place::There(path) => path,
            Place::Cluster(installed) => return installed.cluster.inside(program),
        };
        let mut command = Command::new(program);
        command.env("KUBECONFIG", kubeconfig);
        command
    }

    pub(super) fn addresses(&self) -> Result<Option<StaticAddresses>> {
        match self {
            Place::Sandbox(sandbox) => {
                let usable = sandbox.spare_address()?.into();
                Ok(Some(StaticAddresses { usable, unusable: UNUSABLE_ADDRESS }))
            }
            Place::There(_) => Ok(None),
            Place::Cluster(installed) => installed.addresses().map(Some),
        }
    }

    /// The suite deletes its namespaces and does not wait: what it makes next in one that is ending is refused.
    pub(super) fn wait_for_the_namespaces_end(&self) -> Result<()> {
        let ending = |all: &str| -> Vec<String> {
            let names = all.lines().filter(|name| name.starts_with("namespace/gateway-conformance-"));
            names.map(str::to_owned).collect()
        };
        let ending = ending(&self.kubectl(&["get", "namespaces", "--output=name"])?);
        if !ending.is_empty() {
            let wait = ["wait", "--for=delete", "--timeout=120s"].into_iter();
            let arguments: Vec<&str> = wait.chain(ending.iter().map(String::as_str)).collect();
            self.kubectl(&arguments)?;
        }
        Ok(())
    }

    /// A cluster is left as it was found, and an error names what is left in it, unless it is to be looked at.
    pub(super) fn end(self, keep: bool) -> Result<()> {
        if matches!(self, Place::Cluster(_)) && !keep {
            self.wait_for_the_namespaces_end()?;
        }
        match self {
            Place::Cluster(installed) if !keep => installed.end(),
            _ => Ok(()),
        }
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.suite(Path::new("kubectl"));
        let output = command.args(arguments).output().context("running kubectl")?;
        ensure!(output.status.success(), "kubectl: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

//! A sandbox for one task: its own kubeconfig and addresses, ended with the task.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A sandbox that was asked to end gets this long.
const END: Duration = Duration::from_secs(20);
/// How often its end is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// See the module's head.
pub(super) struct Sandbox {
    child: Child,
    pub(super) kubeconfig: PathBuf,
    /// First address of its range, a /16.
    range: String,
    /// Held so that the sandbox can go on writing.
    _output: BufReader<ChildStdout>,
}

impl Sandbox {
    /// Returns when the sandbox says that it is ready.
    pub(super) fn start(weir: &Path, folder: &Path, channel: &str, workers: Option<u16>) -> Result<Self> {
        let kubeconfig = folder.join(format!("kubeconfig-{}", std::process::id()));
        let log = File::create(folder.join("sandbox.log"))?;
        let mut child = Command::new(weir)
            .args(["sandbox", "--channel", channel, "--kubeconfig"])
            .arg(&kubeconfig)
            .args(workers.map(|workers| format!("--workers={workers}")))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} did not start", weir.display()))?;
        let output = child.stdout.take().context("no output of the sandbox")?;
        let mut sandbox = Self { child, kubeconfig, range: String::new(), _output: BufReader::new(output) };
        loop {
            let mut line = String::new();
            if sandbox._output.read_line(&mut line)? == 0 {
                bail!("the sandbox ended at its start; {} says why", folder.join("sandbox.log").display());
            }
            if let Some(range) = range(&line) {
                sandbox.range = range.to_owned();
            }
            if line.starts_with("export KUBECONFIG=") {
                println!("    sandbox: {channel} channel, addresses {}", sandbox.range);
                return Ok(sandbox);
            }
        }
    }

    /// An address that the machine has and that the sandbox gives to nobody unless asked by name: far from where it begins.
    pub(super) fn spare_address(&self) -> Result<Ipv4Addr> {
        let first = self.range.split('/').next().unwrap_or_default();
        let first: Ipv4Addr =
            first.parse().with_context(|| format!("the sandbox's range {:?}", self.range))?;
        let [a, b, ..] = first.octets();
        Ok(Ipv4Addr::new(a, b, 127, 253))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + END;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The range in the sandbox's greeting.
fn range(line: &str) -> Option<&str> {
    let (_, after) = line.split_once("Gateways and pods in ")?;
    after.split([',', ' ', '\n']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_names_the_range() {
        let line = "Weir sandbox: Kubernetes API at https://127.0.0.1:1, Gateways and pods in 127.77.0.0/16, admin port";
        assert_eq!(range(line), Some("127.77.0.0/16"));
        assert_eq!(range("export KUBECONFIG=x"), None);
    }
}

//! A real cluster: where it comes from, how commands reach it, how images get into it.
//!
//! Owns the variables by which a machine says so. `WEIR_E2E_UP` is a command that brings a cluster up and prints
//! `export KUBECONFIG=...` (and `PATH=...` where programs come with it). Beside its program may be `down`, and `enter`, under
//! which addresses of pods and Services are reachable (with `--client` from outside the cluster), and `restart` (COMPONENT SECONDS).
//! `WEIR_E2E_DOWN`, `WEIR_E2E_ENTER` (needed wherever this machine does not reach pods' addresses itself), `WEIR_E2E_CLIENT`,
//! `WEIR_E2E_RESTART`, `WEIR_E2E_LOAD` (a command that takes the path of an OCI archive) and `WEIR_E2E_SIGNAL` (a command that takes a
//! signal's name and a container's id) stand before those. Invariant: what was brought up is brought down, and nothing else is.

pub(crate) mod leftovers;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::step;

/// What a status may take until it is as it should be. Images are there, so this is a machine under load.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How a cluster is had.
#[derive(Clone)]
pub(crate) enum Where {
    There(PathBuf),
    Up(String),
}

impl Where {
    /// The named kubeconfig's, or what the variable or the folder beside the repository brings up.
    pub(crate) fn find(root: &Path, kubeconfig: Option<&Path>) -> Result<Where> {
        if let Some(path) = kubeconfig {
            return Ok(Where::There(path.canonicalize().with_context(|| path.display().to_string())?));
        }
        if let Ok(command) = std::env::var("WEIR_E2E_UP") {
            return Ok(Where::Up(command));
        }
        let beside = root.parent().map(|parent| parent.join("shared/cluster/up")).filter(|up| up.is_file());
        match beside {
            Some(up) => Ok(Where::Up(up.display().to_string())),
            None => bail!("neither --kubeconfig nor WEIR_E2E_UP says which"),
        }
    }
}

/// See the module's head.
pub(crate) struct Cluster {
    root: PathBuf,
    /// Set for every command: `KUBECONFIG`, `PATH`, and where the cluster's state is.
    environment: Vec<(String, String)>,
    /// Put before a command that talks to the cluster's addresses.
    enter: Option<String>,
    /// The same, for a command that is to be a client from outside.
    client: Option<String>,
    load: Option<String>,
    /// Sends a signal to the first process of a container.
    signal: Option<String>,
    /// Takes a component of the cluster away for a while.
    restart: Option<String>,
    down: Option<String>,
    ours: bool,
}

impl Cluster {
    pub(crate) fn up(root: &Path, place: Where, keep: bool) -> Result<Cluster> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut cluster = Cluster {
            root: root.to_owned(),
            environment: Vec::new(),
            enter: variable("WEIR_E2E_ENTER"),
            client: variable("WEIR_E2E_CLIENT"),
            load: variable("WEIR_E2E_LOAD"),
            signal: variable("WEIR_E2E_SIGNAL"),
            restart: variable("WEIR_E2E_RESTART"),
            down: variable("WEIR_E2E_DOWN"),
            ours: false,
        };
        let command = match place {
            Where::There(path) => {
                cluster.down = None;
                cluster.environment.push(("KUBECONFIG".to_owned(), path.display().to_string()));
                return Ok(cluster);
            }
            Where::Up(command) => command,
        };
        let state = variable("CLUSTER_DIR")
            .unwrap_or_else(|| step::target_folder(root).join("e2e/cluster").display().to_string());
        cluster.environment.push(("CLUSTER_DIR".to_owned(), state));
        let program = command.split_whitespace().next().unwrap_or_default();
        let beside = |name: &str| {
            let path = root.join(program).parent()?.join(name);
            path.is_file().then(|| path.display().to_string())
        };
        if let (None, Some(enter)) = (&cluster.enter, beside("enter")) {
            cluster.client.get_or_insert_with(|| format!("{enter} --client"));
            cluster.signal.get_or_insert_with(|| format!("{enter} ctr -n k8s.io tasks kill --signal"));
            cluster.enter = Some(enter);
        }
        cluster.restart = cluster.restart.take().or_else(|| beside("restart"));
        let down = cluster.down.take().or_else(|| beside("down"));
        cluster.ours = true;
        let mut exports = String::new();
        let mut up = Command::new("bash");
        up.args(["-c", &command]).current_dir(root).envs(cluster.variables());
        // From here on whatever was brought up is brought down, also where not all of it came.
        cluster.down = down.filter(|_| !keep);
        step::watch("bring a cluster up", &mut up, |line| {
            if let Some((_, after)) = line.split_once("export KUBECONFIG=") {
                exports = after.to_owned();
            }
        })?;
        ensure!(!exports.is_empty(), "{command} prints no line with `export KUBECONFIG=`");
        cluster.take_exports(&exports);
        Ok(cluster)
    }

    /// `PATH_TO_FILE PATH=FOLDER:$PATH  # remark`
    fn take_exports(&mut self, exports: &str) {
        let mut words = exports.split('#').next().unwrap_or_default().split_whitespace();
        let file = words.next().unwrap_or_default();
        self.environment.push(("KUBECONFIG".to_owned(), file.to_owned()));
        let known = std::env::var("PATH").unwrap_or_default();
        if let Some(path) = words.find_map(|word| word.strip_prefix("PATH=")) {
            self.environment.push(("PATH".to_owned(), path.replace("$PATH", &known)));
        }
    }

    fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether images can be loaded, so that nothing has to be pulled.
    pub(crate) fn takes_images(&self) -> bool {
        self.load.is_some() || (self.ours && self.enter.is_some())
    }

    /// A program that came with the cluster.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        let path = self.environment.iter().find(|(variable, _)| variable == "PATH")?;
        path.1.split(':').map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
    }

    /// Makes an image known to the cluster's nodes.
    pub(crate) fn load(&self, archive: &Path) -> Result<()> {
        let path = archive.display();
        let line = match (&self.load, &self.enter) {
            (Some(load), _) => format!("{load} '{path}'"),
            (None, Some(enter)) if self.ours => {
                format!("{enter} ctr -n k8s.io images import --local '{path}'")
            }
            _ => {
                println!(
                    "    {path} is not loaded: WEIR_E2E_LOAD names no command; the nodes have to have it"
                );
                return Ok(());
            }
        };
        let mut command = Command::new("bash");
        command.args(["-c", &line]).current_dir(&self.root).envs(self.variables());
        step::run("load an image", &mut command)?;
        Ok(())
    }

    /// A line for bash, where the cluster's addresses are reachable.
    fn command(&self, line: &str) -> Command {
        let mut command = match &self.enter {
            Some(enter) => {
                let mut command = Command::new("bash");
                // The prefix may be several words; the line stays one.
                command.args(["-c", &format!("exec {enter} bash -c \"$0\""), line]);
                command
            }
            None => {
                let mut command = Command::new("bash");
                command.args(["-c", line]);
                command
            }
        };
        command.current_dir(&self.root).envs(self.variables()).stdin(Stdio::null());
        command
    }

    /// A program, where the cluster's addresses are reachable; it is given what arguments the command is.
    pub(crate) fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("bash");
        let enter = self.enter.as_deref().unwrap_or_default();
        command.args(["-c", &format!("exec {enter} \"$0\" \"$@\"")]).arg(program);
        command.current_dir(&self.root).envs(self.variables());
        command
    }

    /// What a line prints; an error has what it said.
    pub(crate) fn shell(&self, line: &str) -> Result<String> {
        let output = self.command(line).output().with_context(|| format!("{line} did not start"))?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "$ {line}\n{printed}{said}({})", output.status);
        Ok(printed)
    }

    /// A line whose output has to be this.
    pub(crate) fn says(&self, line: &str, expected: &str) -> Result<()> {
        println!("    $ {line}");
        let printed = self.shell(line)?;
        ensure!(printed == expected, "$ {line}\nprinted\n{printed}instead of\n{expected}");
        Ok(())
    }

    /// A line that has to succeed, and is shown.
    pub(crate) fn does(&self, line: &str) -> Result<String> {
        println!("    $ {line}");
        self.shell(line)
    }

    /// A line that goes on beside others until its input ends; its output is read then.
    pub(crate) fn start(&self, line: &str) -> Result<Child> {
        self.start_behind(self.enter.as_deref(), line)
    }

    /// The same from outside the cluster.
    pub(crate) fn start_client(&self, line: &str) -> Result<Child> {
        self.start_behind(self.client.as_deref().or(self.enter.as_deref()), line)
    }

    fn start_behind(&self, prefix: Option<&str>, line: &str) -> Result<Child> {
        println!("    $ {line} &");
        let mut command = Command::new("bash");
        command.args(["-c", &format!("exec {} {line}", prefix.unwrap_or_default())]);
        command.current_dir(&self.root).envs(self.variables());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().with_context(|| format!("{line} did not start"))
    }

    /// Whether containers can be sent signals and components of the cluster be taken away.
    pub(crate) fn can_be_hurt(&self) -> bool {
        self.signal.is_some() && self.restart.is_some()
    }

    /// A signal to the first process of a container, as the pod's status names it.
    pub(crate) fn signal(&self, name: &str, container: &str) -> Result<()> {
        let signal = self.signal.as_ref().context("WEIR_E2E_SIGNAL names no command")?;
        let id = container.rsplit("//").next().unwrap_or(container);
        self.beside(&format!("{signal} {name} {id}"))
    }

    /// Takes a component of the cluster away for so many seconds.
    pub(crate) fn restart(&self, component: &str, seconds: u32) -> Result<()> {
        let restart = self.restart.as_ref().context("WEIR_E2E_RESTART names no command")?;
        self.beside(&format!("{restart} {component} {seconds}"))
    }

    /// A line that brings its own way into the cluster.
    fn beside(&self, line: &str) -> Result<()> {
        println!("    $ {line}");
        let mut command = Command::new("bash");
        command.args(["-c", line]).current_dir(&self.root).envs(self.variables()).stdin(Stdio::null());
        let output = command.output().with_context(|| format!("{line} did not start"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "$ {line}\n{said}({})", output.status);
        Ok(())
    }

    /// Waits until a line succeeds and prints what `is` takes.
    pub(crate) fn until(&self, line: &str, is: impl Fn(&str) -> bool) -> Result<String> {
        self.until_within(line, PATIENCE, is)
    }

    /// The same where it is known how long it may take.
    pub(crate) fn until_within(
        &self,
        line: &str,
        patience: Duration,
        is: impl Fn(&str) -> bool,
    ) -> Result<String> {
        println!("    $ {line}    # until it is so");
        let began = Instant::now();
        let end = began + patience;
        loop {
            let last = self.shell(line);
            match &last {
                Ok(printed) if is(printed) => {
                    println!("    {:.1} s", began.elapsed().as_secs_f64());
                    return last;
                }
                _ if Instant::now() < end => std::thread::sleep(LOOK),
                Ok(printed) => bail!("not within {} s: $ {line}\n{printed}", patience.as_secs()),
                Err(error) => bail!("not within {} s: {error:#}", patience.as_secs()),
            }
        }
    }

    /// Shows what a person would look at after a failure.
    pub(crate) fn tell(&self) {
        for line in [
            "kubectl get pods,services -A -o wide",
            "kubectl get gatewayclasses,gateways,httproutes -A -o yaml | tail -n 150",
            "kubectl get events -A --sort-by=.lastTimestamp | tail -n 30",
            "for n in kong kong-system weir-system; do kubectl -n $n logs -l app.kubernetes.io/name=weir --prefix --tail=40; done",
        ] {
            println!("$ {line}");
            match self.shell(line) {
                Ok(printed) => println!("{printed}"),
                Err(error) => println!("{error:#}"),
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(down) = &self.down {
            let mut command = Command::new("bash");
            command.args(["-c", down]).current_dir(&self.root).envs(self.variables());
            if let Err(error) = step::run("bring the cluster down", &mut command) {
                println!("    {error:#}");
            }
        }
    }
}

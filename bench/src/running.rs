//! A child that runs until its owner is dropped, and where it may run.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The core of whatever is measured.
pub(crate) const PROXY_CORE: usize = 0;
/// The core of the load and of the backends.
pub(crate) const LOAD_CORE: usize = 1;
/// Above what any of the programs needs to start on a loaded machine.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(60);
/// Lines of a child's output that are kept for an error message.
const KEPT_LINES: usize = 40;

/// A command that may only run on one core.
pub(crate) fn pinned(core: usize, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string(), program]);
    command
}

/// Times of all threads of a process, user and system together.
#[derive(Clone, Copy, Default)]
pub(crate) struct Scheduled {
    /// On a core.
    pub(crate) ran: Duration,
    /// Ready to run while somebody else had the core.
    pub(crate) waited: Duration,
}

pub(crate) struct Running {
    name: String,
    child: Child,
    lines: Receiver<String>,
    kept: Arc<Mutex<VecDeque<String>>>,
}

impl Running {
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Running> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{name} did not start"))?;
        let (sender, lines) = channel();
        let kept = Arc::default();
        if let Some(stdout) = child.stdout.take() {
            forward(stdout, sender.clone(), Arc::clone(&kept));
        }
        if let Some(stderr) = child.stderr.take() {
            forward(stderr, sender, Arc::clone(&kept));
        }
        Ok(Running { name: name.to_owned(), child, lines, kept })
    }

    /// The next line of either stream that contains `part`.
    pub(crate) fn line_with(&mut self, part: &str) -> Result<String> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(part) => return Ok(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{}: no `{part}` in {START_LIMIT:?}{}", self.name, self.said())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("{} ended before `{part}`{}", self.name, self.said())
                }
            }
        }
    }

    /// Fails when the child has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status}{}", self.name, self.said());
        }
        Ok(())
    }

    /// What the scheduler gave all threads so far. `taskset` has become the program by then: it replaces itself.
    pub(crate) fn scheduled(&self) -> Result<Scheduled> {
        let mut sum = Scheduled::default();
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // A thread that ended between the listing and the reading has nothing to add.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            let mut numbers = text.split_whitespace().map_while(|number| number.parse().ok());
            sum.ran += Duration::from_nanos(numbers.next().context("schedstat begins with a number")?);
            sum.waited += Duration::from_nanos(numbers.next().context("schedstat has a second number")?);
        }
        Ok(sum)
    }

    /// Resident memory in MiB.
    pub(crate) fn resident_mib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.split_whitespace().nth(1).context("VmRSS without a number")?.parse()?;
        Ok(kib / 1024.0)
    }

    fn said(&self) -> String {
        let Ok(kept) = self.kept.lock() else { return String::new() };
        kept.iter().map(|line| format!("\n    {line}")).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward(stream: impl Read + Send + 'static, to: Sender<String>, kept: Arc<Mutex<VecDeque<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if let Ok(mut kept) = kept.lock() {
                if kept.len() == KEPT_LINES {
                    kept.pop_front();
                }
                kept.push_back(line.clone());
            }
            // Nobody waits for lines any more: they are still read, so that the child never blocks.
            let _ = to.send(line);
        }
    });
}

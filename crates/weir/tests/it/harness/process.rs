//! Child processes: ones that end by themselves, with a deadline, and ones that run until their owner is dropped.

use std::ffi::OsStr;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{PATIENCE, eventually, within};

/// A process that ended, with all that it printed.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) line: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// The standard output of a process that succeeded.
    #[track_caller]
    pub(crate) fn ok(&self) -> &str {
        assert!(
            self.status.success(),
            "{} ended with {}\n{}{}",
            self.line,
            self.status,
            self.stdout,
            self.stderr
        );
        &self.stdout
    }

    /// Like [`Done::ok`], for a process that must not have anything to complain about either.
    #[track_caller]
    pub(crate) fn ok_and_quiet(&self) -> &str {
        let stdout = self.ok();
        assert_eq!(self.stderr, "", "{}", self.line);
        stdout
    }

    /// Both outputs of a process that failed.
    #[track_caller]
    pub(crate) fn refused(&self) -> String {
        assert!(!self.status.success(), "{} should have failed:\n{}", self.line, self.stdout);
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A command without this environment's variables: only `PATH`, and a home that is the test's own.
pub(crate) fn clean_command(program: impl AsRef<OsStr>, home: &std::path::Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("HOME", home).env("LC_ALL", "C").stdin(Stdio::null());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn finish(command: &mut Command) -> Done {
    finish_within(PATIENCE, command)
}

#[track_caller]
pub(crate) fn finish_within(limit: Duration, command: &mut Command) -> Done {
    let mut process = Process::start(command);
    let status = within(limit, &format!("{} has ended", process.line), || process.exited());
    process.join_readers();
    Done { line: process.line.clone(), status, stdout: process.stdout(), stderr: process.stderr() }
}

type Text = Arc<Mutex<Vec<u8>>>;

/// A running child; killed (by its id) and reaped when dropped.
pub(crate) struct Process {
    pub(crate) line: String,
    child: Child,
    stdout: Text,
    stderr: Text,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Process {
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Process {
        let line = shown(command);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
        let (stdout, stderr) = (Text::default(), Text::default());
        let readers = vec![
            collect(child.stdout.take().expect("the child's output is piped"), stdout.clone()),
            collect(child.stderr.take().expect("the child's errors are piped"), stderr.clone()),
        ];
        Process { line, child, stdout, stderr, readers }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdout(&self) -> String {
        text(&self.stdout)
    }

    pub(crate) fn stderr(&self) -> String {
        text(&self.stderr)
    }

    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child can be asked")
    }

    /// The first line of the standard output that contains `part`, as soon as it is complete.
    #[track_caller]
    pub(crate) fn line_with(&mut self, part: &str) -> String {
        eventually(&format!("{} printed `{part}`", self.line), || {
            let stdout = self.stdout();
            let complete = stdout.rsplit_once('\n').map_or("", |(complete, _)| complete);
            if let Some(line) = complete.lines().find(|line| line.contains(part)) {
                return Some(line.to_owned());
            }
            if let Some(status) = self.exited() {
                panic!("{} ended with {status} before `{part}`:\n{stdout}{}", self.line, self.stderr());
            }
            None
        })
    }

    /// SIGKILL, and wait until it is gone.
    pub(crate) fn kill(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.join_readers();
    }

    /// SIGTERM, then wait until it ended by itself.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let id = self.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().expect("kill(1) starts");
        assert!(sent.success(), "kill -TERM {id}");
        let status = eventually(&format!("{} ended after SIGTERM", self.line), || self.exited());
        self.join_readers();
        status
    }

    /// Resident memory in KiB, as the kernel says.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("the child is there");
        let line =
            status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has resident memory");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number of KiB")
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            // Captured by the test harness and shown with the failure.
            println!("---- {}\n{}{}", self.line, tail(&self.stdout()), tail(&self.stderr()));
        }
    }
}

fn collect(mut from: impl Read + Send + 'static, into: Text) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            into.lock().expect("no reader panics").extend_from_slice(&buffer[..count]);
        }
    })
}

fn text(bytes: &Text) -> String {
    String::from_utf8_lossy(&bytes.lock().expect("no reader panics")).into_owned()
}

fn tail(text: &str) -> &str {
    let from = text.len().saturating_sub(8 * 1024);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    &text[from..]
}

fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

//! One run of the suite's binary: bounded in time, its output read as the events of `go test`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

/// The suite's tests are this one's.
const GROUP: &str = "TestConformance/suite/";
/// The suite ends itself at its limit and says where it was; this much later it is ended.
const GRACE: Duration = Duration::from_secs(60);
/// Lines of output kept for each test.
const LINES: usize = 60;

pub(super) struct Run {
    /// The suite's program, as it reaches what it tests.
    pub(super) suite: Command,
    pub(super) arguments: Vec<String>,
    /// GOMAXPROCS; None for what the machine has.
    pub(super) procs: Option<u16>,
    pub(super) limit: Duration,
    /// Where the events are kept.
    pub(super) events: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Passed,
    Failed,
    Skipped,
}

/// What came of a run.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// By the suite's name of the test.
    pub(super) ends: BTreeMap<String, (End, Duration)>,
    /// The last lines of each test and of its parts; of the suite itself under the empty name.
    pub(super) lines: BTreeMap<String, Vec<String>>,
    /// Whether the process ended well.
    pub(super) exited_well: bool,
}

impl Run {
    pub(super) fn finish(self) -> Result<Outcome> {
        let mut command = self.suite;
        command
            .args(["-test.v=test2json", "-test.paniconexit0"])
            .arg(format!("-test.timeout={}s", self.limit.as_secs()))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(procs) = self.procs {
            command.env("GOMAXPROCS", procs.to_string());
        }
        let mut suite = command.spawn().context("the suite did not start")?;
        let output = suite.stdout.take().context("no output of the suite")?;
        let mut converter = Command::new("go")
            .args(["tool", "test2json", "-t"])
            .stdin(output)
            .stdout(Stdio::piped())
            .spawn()
            .context("go tool test2json did not start")?;
        let events = converter.stdout.take().context("no output of test2json")?;
        let (done, ended) = mpsc::channel::<()>();
        let limit = self.limit + GRACE;
        let watch = std::thread::spawn(move || watch(suite, &ended, limit));
        let mut kept = File::create(&self.events)?;
        let mut outcome = Outcome::default();
        for line in BufReader::new(events).lines() {
            let line = line?;
            writeln!(kept, "{line}")?;
            outcome.see(&line);
        }
        converter.wait()?;
        drop(done);
        outcome.exited_well = watch.join().is_ok_and(|well| well);
        Ok(outcome)
    }
}

/// Waits for the suite, and ends it when it has not ended by itself.
fn watch(mut suite: Child, ended: &mpsc::Receiver<()>, limit: Duration) -> bool {
    if ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
        eprintln!("the suite does not end; it is ended");
        let _ = suite.kill();
    }
    suite.wait().is_ok_and(|status| status.success())
}

impl Outcome {
    /// Looks at one event.
    fn see(&mut self, line: &str) {
        let Ok(event) = serde_json::from_str::<Value>(line) else { return };
        let name = event["Test"].as_str().unwrap_or_default();
        let name = name.strip_prefix(GROUP).unwrap_or_default();
        let test = name.split('/').next().unwrap_or_default();
        let end = match event["Action"].as_str() {
            Some("output") => {
                let text = event["Output"].as_str().unwrap_or_default().trim_end();
                let lines = self.lines.entry(test.to_owned()).or_default();
                if lines.len() == LINES {
                    lines.remove(0);
                }
                lines.push(text.to_owned());
                return;
            }
            Some("pass") => End::Passed,
            Some("fail") => End::Failed,
            Some("skip") => End::Skipped,
            _ => return,
        };
        // Parts of a test are counted by the test, and the group by its tests.
        if name.is_empty() || name != test {
            return;
        }
        let took = Duration::from_secs_f64(event["Elapsed"].as_f64().unwrap_or(0.0).max(0.0));
        match end {
            End::Passed => println!("    passed  {name} ({:.1} s)", took.as_secs_f64()),
            End::Failed => println!("    FAILED  {name} ({:.1} s)", took.as_secs_f64()),
            End::Skipped => {}
        }
        self.ends.insert(name.to_owned(), (end, took));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_tests_are_read_from_events() {
        let mut outcome = Outcome::default();
        for line in [
            r#"{"Action":"start"}"#,
            "not an event",
            r#"{"Action":"output","Test":"TestConformance/suite/A/part","Output":"why\n"}"#,
            r#"{"Action":"fail","Test":"TestConformance/suite/A/part","Elapsed":0.1}"#,
            r#"{"Action":"fail","Test":"TestConformance/suite/A","Elapsed":0.2}"#,
            r#"{"Action":"pass","Test":"TestConformance/suite/B","Elapsed":1.5}"#,
            r#"{"Action":"skip","Test":"TestConformance/suite/C","Elapsed":0}"#,
            r#"{"Action":"fail","Test":"TestConformance/suite","Elapsed":2}"#,
        ] {
            outcome.see(line);
        }
        let ends: Vec<_> = outcome.ends.iter().map(|(name, (end, _))| (name.as_str(), *end)).collect();
        assert_eq!(ends, [("A", End::Failed), ("B", End::Passed), ("C", End::Skipped)]);
        assert_eq!(outcome.lines["A"], ["why"]);
    }
}

//! README's first command: the demo counts what came through its sockets, says how to go on, and leaves nothing behind.

use std::time::{Duration, Instant};

use crate::harness::process::{Process, clean_command, finish};
use crate::harness::sandbox::{Sandbox, WEIR};

#[test]
fn the_demo_prints_both_tables_and_ends_well_without_a_terminal() {
    for arguments in [&["demo", "--exit"][..], &["demo"]] {
        let home = tempfile::tempdir().expect("a temporary directory");
        let temporary = home.path().join("tmp");
        std::fs::create_dir(&temporary).expect("a directory");
        let started = Instant::now();
        let done = finish(clean_command(WEIR, home.path()).env("TMPDIR", &temporary).args(arguments));
        let output = done.ok();
        assert!(started.elapsed() < Duration::from_secs(30), "the demo took {:?}", started.elapsed());
        let rows = rows(output);
        let counts: Vec<u64> = rows.iter().map(|row| row.count).collect();
        assert_eq!(rows.len(), 4, "{output}");
        assert_eq!(counts[..2], [100, 100], "{output}");
        assert!([[133, 67], [134, 66]].contains(&[counts[2], counts[3]]), "{output}");
        for row in &rows {
            assert!(row.pod.starts_with(&format!("{}-", row.service)), "{output}");
        }
        for part in
            ["kubectl patch --type json httproute echo", "curl -s", "kubectl delete", "export KUBECONFIG="]
        {
            assert!(output.contains(part), "{part} in\n{output}");
        }
        let left: Vec<_> = std::fs::read_dir(&temporary).expect("the directory is there").flatten().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        let home_left = std::fs::read_dir(home.path()).expect("the home is there").count();
        assert_eq!(home_left, 1, "nothing but the temporary directory is in the home");
    }
}

pub(crate) struct Row {
    pub(crate) service: String,
    pub(crate) pod: String,
    pub(crate) count: u64,
}

/// The lines of the tables: Service, weight, pod, count, expected.
pub(crate) fn rows(output: &str) -> Vec<Row> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [service @ ("echo" | "echo2"), _, pod, count, ..] = words[..] else { return None };
        Some(Row { service: service.to_owned(), pod: pod.to_owned(), count: count.parse().ok()? })
    };
    output.lines().filter_map(row).collect()
}

#[test]
fn the_demo_ends_well_when_it_is_told_to() {
    // A terminal is what keeps it up; script(1) lends it one.
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut command = clean_command("script", home.path());
    command.env("TERM", "dumb").args(["--quiet", "--return", "--flush", "--command"]);
    command.arg(format!("exec {WEIR} demo")).arg("/dev/null");
    let mut process = Process::start(&mut command);
    process.line_with("Ctrl-C ends it");
    assert!(process.exited().is_none(), "it stays up on a terminal");
    process.terminate();
}

#[test]
fn the_lines_that_the_demo_prints_work_beside_another_sandbox() {
    let sandbox = Sandbox::start();
    let done = sandbox.weir(&["demo", "--exit"]);
    assert_eq!(rows(done.ok()).len(), 4, "{}", done.stdout);
    assert!(sandbox.get("httproute/echo", "default").is_none(), "the demo is a sandbox of its own");
}

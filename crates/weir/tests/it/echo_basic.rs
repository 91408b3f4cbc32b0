//! The echo pods beside the program that they stand in for, the official `echo-basic`, request by request.

use std::path::Path;
use std::process::Command;

use super::harness::left_out;

/// The comparison itself is a Go program, because the program's own clients and messages are Go's.
#[test]
fn an_echo_pod_answers_every_request_as_the_official_program() {
    if !Command::new("go").arg("version").output().is_ok_and(|output| output.status.success()) {
        left_out(
            "echo pods beside the official program",
            "Go is missing (https://go.dev/dl/, 1.26 or later)",
        );
        return;
    }
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (program, comparison) = (folder.path().join("echo-basic"), folder.path().join("equal.test"));
    go(&module, &["build", "-o", text(&program), "sigs.k8s.io/gateway-api/conformance/echo-basic"]);
    go(&module, &["test", "-c", "-o", text(&comparison), "./echobasic"]);
    let output = Command::new(&comparison)
        .args(["-echo-basic", text(&program), "-weir", env!("CARGO_BIN_EXE_weir"), "-test.timeout=120s"])
        .output()
        .expect("the comparison runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
}

fn go(module: &Path, arguments: &[&str]) {
    let output = Command::new("go").current_dir(module).args(arguments).output().expect("go runs");
    assert!(output.status.success(), "go {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is text")
}

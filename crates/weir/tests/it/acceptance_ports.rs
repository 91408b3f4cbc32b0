//! Without the right to bind low ports: everything is served at the next port of its row, and a user is told where.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::acceptance_demo;
use crate::harness::http::{Manner, count};
use crate::harness::process::{Process, clean_command, finish};
use crate::harness::sandbox::{Sandbox, WEIR, free_address};
use crate::harness::{assert_counts, eventually, example, left_out};

const NOBODY: u32 = 65_534;

/// Who the binary can run as without the right to bind port 80.
enum Ordinary {
    /// The test itself is an ordinary user.
    Myself,
    /// The test is root and hands its rights down to nobody.
    Nobody,
}

fn ordinary() -> Option<Ordinary> {
    let first_free = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if first_free.is_ok_and(|port| port.trim().parse::<u16>().is_ok_and(|port| port <= 80)) {
        left_out(
            "ports without rights",
            "net.ipv4.ip_unprivileged_port_start lets everybody bind port 80 here",
        );
        return None;
    }
    if std::net::TcpListener::bind("127.240.0.1:80").is_err() {
        return Some(Ordinary::Myself);
    }
    if Command::new("setpriv").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return Some(Ordinary::Nobody);
    }
    left_out("ports without rights", "this user may bind port 80, and setpriv (util-linux) is missing");
    None
}

/// A copy of the binary where everybody may read it, and the command that runs it without rights.
fn unprivileged(who: &Ordinary, home: &Path) -> Command {
    match who {
        Ordinary::Myself => clean_command(WEIR, home),
        Ordinary::Nobody => {
            let binary = home.join("weir");
            std::fs::copy(WEIR, &binary).expect("the binary is copied");
            std::fs::set_permissions(home, std::fs::Permissions::from_mode(0o755)).expect("a mode");
            chown(home, Some(NOBODY), Some(NOBODY)).expect("root may give away");
            let mut command = clean_command("setpriv", home);
            let id = NOBODY.to_string();
            command.args([
                "--reuid",
                &id,
                "--regid",
                &id,
                "--clear-groups",
                "--bounding-set",
                "-all",
                "--inh-caps",
                "-all",
            ]);
            command.arg("--").arg(binary);
            command
        }
    }
}

#[test]
fn an_ordinary_user_gets_the_guide_at_port_8080_and_is_told_why() {
    let Some(who) = ordinary() else { return };
    let home = TempDir::new().expect("a temporary directory");
    let mut command = unprivileged(&who, home.path());
    let (admin, kubeconfig) = (free_address(), home.path().join("kubeconfig"));
    command.arg("sandbox").arg("--kubeconfig").arg(&kubeconfig).arg("--admin").arg(admin.to_string());
    let mut process = Process::start(&mut command);
    process.line_with("export KUBECONFIG=");
    for part in [":8080/", "setcap cap_net_bind_service=+ep", "net.ipv4.ip_unprivileged_port_start"] {
        process.line_with(part);
    }
    let sandbox = Sandbox::around(process, kubeconfig, admin, home);
    for file in [
        "kic/gateway.yaml",
        "kic/echo-services.yaml",
        "simple-apps/app-v1-deployment.yml",
        "simple-apps/app-v1-service.yml",
        "simple-apps/app-v2-deployment.yml",
        "simple-apps/app-v2-service.yml",
    ] {
        sandbox.kubectl(&["apply", "-f", &example(file)]).ok();
    }
    sandbox.wait_backends(&["echo", "echo2", "app-v1", "app-v2"], "default");
    for (file, name) in
        [("kic/httproute.yaml", "echo"), ("simple-apps/simple-apps-http-route.yml", "simple-apps")]
    {
        sandbox.kubectl(&["apply", "-f", &example(file)]).ok();
        sandbox.wait_route(name, "default");
    }
    let socket = sandbox.socket("kong", "default");
    assert_eq!(socket.port(), 8080);
    assert_counts(
        &count(Manner::OneConnection, socket, "/echo/hostname", 200),
        &[("echo", 100), ("echo2", 100)],
    );
    // The pods of this guide have container port 80, which they may not bind either.
    let pages = sandbox.bash(&format!("curl -s -f -H 'Host: simple-apps.isc' 'http://{socket}/?n=[1-4]'"));
    assert_eq!(pages.ok().matches("<link rel=\"icon\"").count(), 4, "{}", pages.stdout);
    told_where(&sandbox);
}

/// Where a user looks: the listener's condition, an event on the Gateway, `weir status`.
fn told_where(sandbox: &Sandbox) {
    eventually("an event on the Gateway names the port", || {
        let events = sandbox.kubectl(&["get", "events", "--field-selector", "involvedObject.kind=Gateway"]);
        events.ok().lines().any(|line| line.contains("kong") && line.contains("8080")).then_some(())
    });
    let status = sandbox.weir(&["status"]);
    for part in ["8080", "setcap", "net.ipv4.ip_unprivileged_port_start"] {
        assert!(status.ok().contains(part), "{part} in\n{}", status.stdout);
    }
}

#[test]
fn the_demo_needs_no_right_at_all() {
    let Some(who) = ordinary() else { return };
    let home = TempDir::new().expect("a temporary directory");
    let mut command = unprivileged(&who, home.path());
    let done = finish(command.env("TMPDIR", home.path()).args(["demo", "--exit"]));
    let output = done.ok();
    let counts: Vec<u64> = acceptance_demo::rows(output).iter().map(|row| row.count).collect();
    assert_eq!(counts[..2], [100, 100], "{output}");
    assert!(output.contains(":8080"), "the lines to go on with name the port: {output}");
}

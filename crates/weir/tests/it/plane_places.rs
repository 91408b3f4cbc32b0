//! `weir proxy` where something is missing: IPv6, or room on the disk. Each in namespaces of its own, which the kernel has to give.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use weir_control::distribute::{AuthorityPolicy, DEFAULT_AUDIENCE};
use weir_model::resource::Update;

use crate::harness::http::Connection;
use crate::harness::process::{clean_command, finish};
use crate::harness::sandbox::{WEIR, free_address};
use crate::harness::{eventually, left_out};
use crate::plane::{Cluster, Controller, DataPlane, endpoints, full, origin, site};

/// Says to the process that it runs where there is no IPv6.
const INSIDE: &str = "WEIR_TEST_WITHOUT_IPV6";

/// Whether namespaces can be had; `kind` is an option of unshare(1).
fn can_unshare(kind: &str, what: &str) -> bool {
    let tried = Command::new("unshare").args([kind, "true"]).output();
    let can = tried.as_ref().is_ok_and(|output| output.status.success());
    if !can {
        left_out(what, &format!("unshare {kind}: {tried:?}"));
    }
    can
}

#[test]
fn a_data_plane_without_ipv6_serves_ipv4_at_all_addresses() {
    if std::env::var_os(INSIDE).is_some() {
        return without_ipv6();
    }
    if !can_unshare("--net", "a data plane without IPv6") {
        return;
    }
    let program = std::env::current_exe().expect("this program has a path");
    let script = "ip link set lo up && for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 > $f; done && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", script, "sh"]).arg(program);
    command.args([
        "--exact",
        "plane_places::a_data_plane_without_ipv6_serves_ipv4_at_all_addresses",
        "--nocapture",
    ]);
    let done = finish(command.env(INSIDE, "1"));
    assert!(done.ok().contains("1 passed"), "{}", done.stdout);
}

fn without_ipv6() {
    assert!(std::net::TcpListener::bind("[::1]:0").is_err(), "there is no IPv6 here");
    let cluster = Cluster::new();
    let port = free_address().port();
    let mut controller = cluster.start(free_address(), AuthorityPolicy::default());
    controller.send(&cluster, full(site("weir-g", port, origin("one"))));
    let token = cluster.token("weir-g", DEFAULT_AUDIENCE);
    let command = clean_command(WEIR, &cluster.path(""));
    let plane = cluster.data_plane_by(command, None, "weir-g", controller.address, &token, "one");
    plane.wait_ready();
    let applied = controller.runs("weir-g");
    assert!(applied.binds.iter().all(|bind| bind.error.is_empty()), "{applied:?}");
    for host in [1, 9] {
        let at = SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), port));
        let mut connection = Connection::open(at).expect("it listens");
        assert_eq!(connection.get("example.com", "/").expect("it answers").text(), "one");
    }
    // Nor do a controller's own sockets need it.
    let kubeconfig = cluster.serve();
    let mut command = clean_command(WEIR, &cluster.path(""));
    command
        .arg("controller")
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(["--namespace=default", "--release=x"]);
    let admin = free_address();
    command.arg(format!("--admin=[::]:{}", admin.port())).arg("--listen=[::]:0");
    let _second = crate::harness::process::Process::start(&mut command);
    eventually("the controller's admin port answers", || {
        let mut connection = Connection::open(admin).ok()?;
        (connection.get("admin", "/livez").ok()?.status == 200).then_some(())
    });
    controller.end(&cluster);
}

/// A data plane, which is ready and serves "one", with a state directory of 64 KiB and 8 files, after `before`.
struct Small {
    cluster: Cluster,
    controller: Controller,
    plane: DataPlane,
    port: u16,
    state: PathBuf,
}

fn on_a_small_disk(before: &str) -> Small {
    let cluster = Cluster::new();
    let state = cluster.path("small");
    std::fs::create_dir_all(&state).expect("a directory");
    let script =
        format!("mount -t tmpfs -o size=64k,nr_inodes=8,mode=700 none \"$0\" && {before} exec \"$@\"");
    let mut command = clean_command("unshare", &cluster.path(""));
    command.args(["--mount", "sh", "-c", &script]).arg(&state).arg(WEIR);
    let port = free_address().port();
    let mut controller = cluster.start(free_address(), AuthorityPolicy::default());
    controller.send(&cluster, full(site("weir-g", port, origin("one"))));
    let token = cluster.token("weir-g", DEFAULT_AUDIENCE);
    let address = Some(Ipv4Addr::LOCALHOST.into());
    let plane = cluster.data_plane_by(command, address, "weir-g", controller.address, &token, "small");
    plane.wait_ready();
    assert_eq!(plane.get(port).expect("it serves"), "one");
    Small { cluster, controller, plane, port, state }
}

#[test]
fn a_disk_that_is_full_costs_the_last_known_good_state_and_nothing_else() {
    if !can_unshare("--mount", "a data plane on a full disk") {
        return;
    }
    let Small { cluster, mut controller, plane, port, state } = on_a_small_disk("");
    eventually("the state is kept", || (plane.metric("weir_plane_state_writes_total") > 0).then_some(()));
    // The program is in its own mount namespace, and so is its disk.
    let inside = PathBuf::from(format!("/proc/{}/root{}", plane.process.id(), state.display()));
    let snapshot = std::fs::read(inside.join("snapshot")).expect("it is there");
    let filler = inside.join("filler");
    let _ = std::fs::write(&filler, vec![0; 65_536]);

    controller
        .send(&cluster, Update { upserts: vec![endpoints("weir-g", origin("two"))], ..Update::default() });
    controller.runs("weir-g");
    assert_eq!(plane.get(port).expect("it serves"), "two");
    let failures = || plane.metric("weir_plane_state_write_failures_total");
    eventually("the write failed", || (failures() > 0).then_some(()));
    assert_eq!(
        std::fs::read(inside.join("snapshot")).expect("it is there"),
        snapshot,
        "the older one is whole"
    );
    assert!(!inside.join("snapshot.new").exists(), "no part of the newer one takes room");
    assert_eq!(plane.wait_ready(), "ok\n");
    // Room again: it is kept without another change.
    std::fs::remove_file(&filler).expect("it was there");
    eventually("the newer one is kept", || {
        (std::fs::read(inside.join("snapshot")).ok()? != snapshot).then_some(())
    });
    eventually("it says so", || plane.process.stderr().contains("the state is written again").then_some(()));
    controller.end(&cluster);
}

#[test]
fn a_disk_that_is_full_keeps_no_data_plane_from_starting() {
    if !can_unshare("--mount", "a data plane that starts on a full disk") {
        return;
    }
    let fill = "for i in 1 2 3 4 5 6 7 8 9; do touch \"$0/$i\" || break; done 2>/dev/null;";
    let Small { cluster, controller, plane, .. } = on_a_small_disk(fill);
    eventually("the write failed", || {
        (plane.metric("weir_plane_state_write_failures_total") > 0).then_some(())
    });
    assert!(plane.process.stderr().contains("the state directory is full"), "{}", plane.process.stderr());
    controller.end(&cluster);
}

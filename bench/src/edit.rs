//! From an edit to its effect, through the sandbox's own API: a route's response header is patched, and the data plane
//! is asked until the new value shows; then edits under load, during which no request may fail.
//!
//! The API is reached through `kubectl proxy`, whose hop (a few tenths of a millisecond) is part of the figures.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::client::Connection;
use crate::peers::Workspace;
use crate::report::{Report, percentile};
use crate::running::{Running, START_LIMIT};
use crate::{Options, load, programs};

/// Between two looks at the data plane.
const LOOK_EVERY: Duration = Duration::from_micros(200);
/// An edit without an effect for so long is lost.
const LOST_AFTER: Duration = Duration::from_secs(10);
/// Edits while the load runs have no pause; the load has so many connections.
const LOAD_CONNECTIONS: usize = 8;
/// What "a few milliseconds" is taken to mean, hop of `kubectl proxy` included.
const P50_TARGET: Duration = Duration::from_millis(5);
const P99_TARGET: Duration = Duration::from_millis(20);

const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes";

pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let workspace = Workspace::new()?;
    let sandbox = Sandbox::start(&workspace.path, options.routes)?;
    let mut delays = timed_edits(&sandbox, options.edits)?;
    delays.sort_by(f64::total_cmp);
    let (p50, p99) = (percentile(&delays, 50), percentile(&delays, 99));
    let most = delays.last().copied().unwrap_or(f64::NAN);
    let what = format!(
        "edit to effect, {} edits among {} routes: p50 {p50:.2} ms, p99 {p99:.2} ms, most {most:.2} ms (target {} and {})",
        delays.len(),
        options.routes,
        P50_TARGET.as_millis(),
        P99_TARGET.as_millis(),
    );
    let good = p50 <= P50_TARGET.as_secs_f64() * 1e3 && p99 <= P99_TARGET.as_secs_f64() * 1e3;
    report.judge(good, what);
    edits_under_load(&sandbox, options.edits, report)
}

struct Sandbox {
    api: SocketAddr,
    socket: SocketAddr,
    _children: Vec<Running>,
}

impl Sandbox {
    fn start(directory: &Path, routes: u32) -> Result<Sandbox> {
        let kubeconfig = directory.join("kubeconfig");
        let weir = programs::weir()?;
        let mut weir = Running::start(
            "weir sandbox",
            Command::new(weir).arg("sandbox").arg("--kubeconfig").arg(&kubeconfig),
        )?;
        weir.line_with("export KUBECONFIG=")?;
        let mut kubectl = Command::new("kubectl");
        let mut proxy = Running::start(
            "kubectl proxy",
            kubectl.args(["proxy", "--port=0"]).env("KUBECONFIG", &kubeconfig),
        )?;
        let line = proxy.line_with("Starting to serve on ")?;
        let api = line.rsplit(' ').next().unwrap_or_default().parse().with_context(|| line.clone())?;
        let (backend, ports) = load::start_backend()?;
        kubectl_apply(&kubeconfig, directory, &objects(ports, routes))?;
        let socket = wait_for_route(api)?;
        Ok(Sandbox { api, socket, _children: vec![proxy, weir, backend] })
    }
}

fn kubectl_apply(kubeconfig: &PathBuf, directory: &Path, objects: &Value) -> Result<()> {
    let file = directory.join("objects.json");
    fs::write(&file, objects.to_string())?;
    let output = Command::new("kubectl")
        .args(["create", "-f"])
        .arg(file)
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null())
        .output()
        .context("kubectl did not start")?;
    ensure!(output.status.success(), "kubectl create: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn objects(ports: [u16; 2], routes: u32) -> Value {
    let metadata = |name: &str| json!({"name": name, "namespace": "default"});
    let gateway_api = "gateway.networking.k8s.io/v1";
    let mut items = vec![
        json!({"apiVersion": gateway_api, "kind": "GatewayClass", "metadata": {"name": "bench"},
            "spec": {"controllerName": "weir.dev/gateway-controller"}}),
        json!({"apiVersion": gateway_api, "kind": "Gateway", "metadata": metadata("bench"),
            "spec": {"gatewayClassName": "bench", "listeners": [{"name": "http", "port": 18080, "protocol": "HTTP"}]}}),
    ];
    for (name, port) in ["a", "b"].iter().zip(ports) {
        items.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata(name),
            "spec": {"ports": [{"port": 80}]}}));
        items.push(
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{name}-1"), "namespace": "default",
                "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]}),
        );
    }
    items.push(json!({"apiVersion": gateway_api, "kind": "HTTPRoute", "metadata": metadata("edited"),
        "spec": {"parentRefs": [{"name": "bench"}], "rules": [rule("none")]}}));
    for number in 0..routes {
        items.push(json!({"apiVersion": gateway_api, "kind": "HTTPRoute", "metadata": metadata(&format!("other-{number}")),
            "spec": {"parentRefs": [{"name": "bench"}], "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": format!("/other/{number}")}}],
                "backendRefs": [{"name": "a", "port": 80}]}]}}));
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// The edited rule, which stamps its answers.
fn rule(stamp: &str) -> Value {
    json!({
        "matches": [{"path": {"type": "PathPrefix", "value": "/echo"}}],
        "filters": [{"type": "ResponseHeaderModifier",
            "responseHeaderModifier": {"set": [{"name": "x-stamp", "value": stamp}]}}],
        "backendRefs": [{"name": "a", "port": 80, "weight": 2}, {"name": "b", "port": 80, "weight": 1}],
    })
}

/// Until the route answers; returns where.
fn wait_for_route(api: SocketAddr) -> Result<SocketAddr> {
    let started = Instant::now();
    let mut api = Connection::open(api)?;
    let mut said = String::new();
    while started.elapsed() < START_LIMIT {
        let answer = api.get("/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways/bench")?;
        let gateway: Value = serde_json::from_slice(&answer.body)?;
        if let Some(ip) = gateway["status"]["addresses"][0]["value"].as_str() {
            let socket = SocketAddr::new(ip.parse()?, 18080);
            match Connection::open(socket).and_then(|mut connection| connection.get("/echo")) {
                Ok(answer) if answer.status == 200 => return Ok(socket),
                Ok(answer) => said = format!("{} {}", answer.status, answer.text()),
                Err(error) => said = error.to_string(),
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("the route of the edits does not answer: {said}")
}

fn patch(api: &mut Connection, stamp: u64) -> Result<()> {
    let body = json!({"spec": {"rules": [rule(&stamp.to_string())]}}).to_string();
    let answer = api.request("PATCH", &format!("{ROUTES}/edited"), "application/merge-patch+json", &body)?;
    ensure!(answer.status == 200, "the patch was answered {}: {}", answer.status, answer.text());
    Ok(())
}

/// Milliseconds from sending each patch to the first answer with its stamp.
fn timed_edits(sandbox: &Sandbox, edits: u32) -> Result<Vec<f64>> {
    let seen = Mutex::new((0_u64, Instant::now()));
    let done = AtomicBool::new(false);
    let socket = sandbox.socket;
    std::thread::scope(|scope| {
        let looker = scope.spawn(|| look(socket, &done, &seen));
        let timed = || {
            let mut api = Connection::open(sandbox.api)?;
            let mut delays = Vec::new();
            for stamp in 1..=u64::from(edits) {
                let sent = Instant::now();
                patch(&mut api, stamp)?;
                delays.push(wait_until_seen(&seen, stamp, sent)?.as_secs_f64() * 1e3);
            }
            anyhow::Ok(delays)
        };
        let delays = timed();
        done.store(true, Ordering::Relaxed);
        match looker.join() {
            Ok(looked) => looked?,
            Err(_) => bail!("the thread that looks at the data plane panicked"),
        }
        delays
    })
}

/// Asks the data plane again and again; notes when each stamp was first seen.
fn look(socket: SocketAddr, done: &AtomicBool, seen: &Mutex<(u64, Instant)>) -> Result<()> {
    let mut connection = Connection::open(socket)?;
    while !done.load(Ordering::Relaxed) {
        let answer = connection.get("/echo")?;
        ensure!(answer.status == 200, "a look was answered {}", answer.status);
        let stamp = answer.header("x-stamp").and_then(|stamp| stamp.parse().ok()).unwrap_or(0);
        if let Ok(mut seen) = seen.lock()
            && seen.0 != stamp
        {
            *seen = (stamp, Instant::now());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

fn wait_until_seen(seen: &Mutex<(u64, Instant)>, stamp: u64, sent: Instant) -> Result<Duration> {
    while sent.elapsed() < LOST_AFTER {
        if let Ok(seen) = seen.lock()
            && seen.0 == stamp
        {
            return Ok(seen.1.duration_since(sent));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    bail!("edit {stamp} had no effect in {LOST_AFTER:?}")
}

fn edits_under_load(sandbox: &Sandbox, edits: u32, report: &mut Report) -> Result<()> {
    let done = AtomicBool::new(false);
    let (good, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let started = Instant::now();
    let socket = sandbox.socket;
    let edited = std::thread::scope(|scope| {
        for _ in 0..LOAD_CONNECTIONS {
            scope.spawn(|| request_until(socket, &done, &good, &failed));
        }
        let edit = || {
            let mut api = Connection::open(sandbox.api)?;
            (1..=u64::from(edits)).try_for_each(|stamp| patch(&mut api, stamp))
        };
        let edited = edit();
        done.store(true, Ordering::Relaxed);
        edited
    });
    edited?;
    let (good, failed) = (good.into_inner(), failed.into_inner());
    let seconds = started.elapsed().as_secs_f64();
    let what = format!(
        "{edits} edits in {seconds:.1} s under load: {failed} of {} requests failed (target none)",
        good + failed
    );
    report.judge(failed == 0 && good > 0, what);
    Ok(())
}

fn request_until(socket: SocketAddr, done: &AtomicBool, good: &AtomicU64, failed: &AtomicU64) {
    let mut connection = None;
    while !done.load(Ordering::Relaxed) {
        let answer = match connection.take().map_or_else(|| Connection::open(socket), Ok) {
            Ok(mut open) => open.get("/echo").inspect(|_| connection = Some(open)),
            Err(error) => Err(error),
        };
        let counter = if answer.is_ok_and(|answer| answer.status == 200) { good } else { failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

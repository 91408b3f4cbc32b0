//! Processes of Weir whose clock is an hour ahead of the rest, an hour behind, or hopelessly wrong.
//!
//! All pods here have the clock of one machine, so the program is told another time by a library between it and the C library
//! (libfaketime): what the kernel does for it, and time that only passes, stay as they are.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::{Wrong, at, at_calm, kinds, with_pod_template};
use crate::image;
use crate::step::LEFT_OUT;

/// The image in which the library is beside the program.
const IMAGE: &str = "weir.dev/weir:clocks";
const LIBRARY: &str = "faketime/libfaketime.so.1";

const HOUR: i64 = 3_600;

pub(super) fn differ(wrong: &Wrong<'_>) -> Result<()> {
    let cluster = wrong.run.cluster;
    let library = find_library().filter(|_| cluster.takes_images());
    let Some(library) = library else {
        println!(
            "{LEFT_OUT}clocks that differ: they need libfaketime (Debian: apt-get install faketime) and a cluster that takes images"
        );
        ensure!(!wrong.run.options.strict, "left out, a failure with --strict");
        return Ok(());
    };
    let archive = image::make_preloadable(wrong.run.root, IMAGE, "weir-image-clocks.tar", &library)?;
    cluster.load(&archive)?;
    let library = library.to_str().context("the library's path is not text")?;
    data_planes(wrong, library)?;
    controllers(wrong, library)
}

/// Where distributions put it.
fn find_library() -> Option<PathBuf> {
    let folders = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let with_those_in = folders.into_iter().flat_map(|folder| {
        let inside = std::fs::read_dir(&folder).into_iter().flatten();
        let inside: Vec<PathBuf> = inside.filter_map(|entry| Some(entry.ok()?.path())).collect();
        std::iter::once(folder).chain(inside)
    });
    with_those_in.map(|folder| folder.join(LIBRARY)).find(|path| path.is_file())
}

/// An hour either way does no harm and is told; with three a data plane cannot make a connection, and says what it is about.
fn data_planes(wrong: &Wrong<'_>, library: &str) -> Result<()> {
    let all = [("ahead", HOUR), ("behind", -HOUR), ("lost", -3 * HOUR)];
    let manifests: Vec<String> = all.iter().map(|(name, off)| gateway(name, *off, library)).collect();
    wrong.apply("clocks", &format!("{ROUTE}{}", manifests.concat()))?;
    for (name, off) in &all[..2] {
        wrong.condition(&format!("-n calm gateway/{name}"), "Programmed", "True", &[])?;
        let served = at(name, "curl -s -m 5 http://$ADDRESS/ready");
        wrong.run.cluster.says(&served, "ok")?;
        says_by_how_much(wrong, name, *off)?;
        logs(wrong, name, "clock and the controller")?;
    }
    wrong.condition(
        "-n calm gateway/lost",
        "Programmed",
        "False",
        &["no endpoint of Service calm/weir-lost"],
    )?;
    logs(wrong, "lost", "out of its time by this node")?;
    wrong.is_calm()?;
    // Its clock is set.
    wrong.apply("clock-set", &gateway("lost", 0, library))?;
    wrong.condition("-n calm gateway/lost", "Programmed", "True", &[])?;
    wrong.run.cluster.says(&at("lost", "curl -s -m 5 http://$ADDRESS/ready"), "ok")?;
    let all = "gateway/ahead gateway/behind gateway/lost \
               gatewayconfiguration/ahead gatewayconfiguration/behind gatewayconfiguration/lost httproute/clocks";
    wrong.does(&format!("kubectl delete -n calm {all}")).map(drop)
}

/// A leader an hour ahead follows one whose clock is right, and is followed by such a one.
fn controllers(wrong: &Wrong<'_>, library: &str) -> Result<()> {
    let environment = environment(HOUR, library);
    let patch = format!(
        "spec: {{template: {{spec: {{containers: [{{name: controller, image: '{IMAGE}', env: {environment}}}]}}}}}}"
    );
    let path = wrong.run.folder.join("wrong-clock.yaml");
    std::fs::write(&path, patch)?;
    let line = format!("kubectl patch deployment kong-controller -n kong --patch-file {}", path.display());
    wrong.does(&line)?;
    leads(wrong, HOUR)?;
    kinds::change(wrong)?;
    wrong.is_calm()?;
    // A new data plane shows a token, and gets a certificate of that hour.
    wrong.apply("clocks-late", &format!("{ROUTE}{}", gateway("ahead", 0, library)))?;
    wrong.condition("-n calm gateway/ahead", "Programmed", "True", &[])?;
    says_by_how_much(wrong, "ahead", -HOUR)?;
    wrong.does("kubectl rollout undo deployment/kong-controller -n kong")?;
    leads(wrong, 0)?;
    kinds::change(wrong)?;
    wrong.condition("-n calm gateway/calm", "Programmed", "True", &[])?;
    wrong.is_calm()?;
    wrong.does("kubectl delete -n calm gateway/ahead gatewayconfiguration/ahead httproute/clocks").map(drop)
}

/// Waits until a controller whose clock is so many seconds ahead leads and serves the data plane of `calm`, which is asked all the while.
fn leads(wrong: &Wrong<'_>, ahead: i64) -> Result<()> {
    wrong.does("kubectl rollout status deployment/kong-controller -n kong --timeout=120s")?;
    let renewed = "lease=$(kubectl get lease kong-weir-leader -n kong -o jsonpath='{.spec.renewTime}'); \
                   echo $(($(date -u -d \"$lease\" +%s) - $(date -u +%s)))";
    let line =
        at_calm(&format!("[ \"$(curl -s -m 5 http://$ADDRESS/ready)\" = ok ] || echo failed; {renewed}"));
    let is = |said: &str| said.trim().parse().is_ok_and(|off: i64| (off - ahead).abs() < 60);
    wrong.until_served(&line, is)?;
    // It is connected to that one.
    says_by_how_much(wrong, "calm", -ahead)
}

/// The data plane of a Gateway says what its clock is ahead of the controllers'.
fn says_by_how_much(wrong: &Wrong<'_>, name: &str, off: i64) -> Result<()> {
    let address = format!(
        "kubectl get pods -n calm -l gateway.networking.k8s.io/gateway-name={name} -o jsonpath='{{.items[0].status.podIP}}'"
    );
    let line = format!(
        "curl -s -m 5 http://$({address}):19901/metrics | sed -n 's/^weir_plane_clock_skew_seconds //p'"
    );
    let is = |said: &str| said.trim().parse().is_ok_and(|said: i64| (said - off).abs() < 60);
    wrong
        .run
        .cluster
        .until(&line, is)
        .with_context(|| format!("{name} says that it is off by {off} s"))
        .map(drop)
}

fn logs(wrong: &Wrong<'_>, name: &str, word: &str) -> Result<()> {
    let line = format!(
        "kubectl logs -n calm -l gateway.networking.k8s.io/gateway-name={name} --tail=-1 | grep -c \"{word}\" || true"
    );
    let is_said = |count: &str| count.trim() != "0";
    wrong.run.cluster.until(&line, is_said).with_context(|| format!("{name} says {word:?}")).map(drop)
}

/// What a container's environment is to be, for a clock that is so many seconds ahead.
fn environment(ahead: i64, library: &str) -> String {
    let variable = |(name, value): (&str, &str)| format!("{{name: {name}, value: '{value}'}}");
    let ahead = format!("{ahead:+}s");
    let all = [
        ("LD_PRELOAD", library),
        ("FAKETIME", ahead.as_str()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ];
    format!("[{}]", all.map(variable).join(", "))
}

/// A Gateway whose data plane has a clock that is so many seconds ahead.
fn gateway(name: &str, ahead: i64, library: &str) -> String {
    let environment = environment(ahead, library);
    let container = format!("{{name: proxy, image: '{IMAGE}', env: {environment}}}");
    with_pod_template(name, &format!("{{spec: {{containers: [{container}]}}}}"))
}

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: clocks, namespace: calm}
spec:
  parentRefs: [{name: ahead}, {name: behind}, {name: lost}]
  rules: [{backendRefs: [{name: steady, port: 80}]}]
";

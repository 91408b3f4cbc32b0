//! The CRD bundles that guides tell people to apply: accepted over the built-in ones, whatever their age.

use std::path::{Path, PathBuf};

use crate::harness::http::{Manner, count};
use crate::harness::sandbox::Sandbox;
use crate::harness::{assert_counts, example, left_out};

/// The upstream bundles: `WEIR_UPSTREAM_CRDS`, which `cargo xtask test` sets, else beside the repository.
fn upstream() -> Option<PathBuf> {
    let named = std::env::var_os("WEIR_UPSTREAM_CRDS").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/crds");
    let found =
        named.or_else(|| beside.canonicalize().ok()).filter(|directory| directory.join("standard").is_dir());
    if found.is_none() {
        left_out(
            "CRD bundles of other releases",
            "no upstream CRDs (cargo xtask test fetches them where Go is)",
        );
    }
    found
}

fn apply(sandbox: &Sandbox, directory: &Path) -> String {
    sandbox.kubectl(&["apply", "-f", directory.to_str().expect("UTF-8")]).ok().to_owned()
}

/// The guide still counts 100 and 100 with whatever is installed now.
fn guide_holds(sandbox: &Sandbox) {
    for file in ["kic/gateway.yaml", "kic/echo-services.yaml"] {
        sandbox.kubectl(&["apply", "-f", &example(file)]).ok();
    }
    sandbox.wait_backends(&["echo", "echo2"], "default");
    sandbox.kubectl(&["apply", "-f", &example("kic/httproute.yaml")]).ok();
    sandbox.wait_route("echo", "default");
    let socket = sandbox.socket("kong", "default");
    assert_counts(
        &count(Manner::OneConnection, socket, "/echo/hostname", 200),
        &[("echo", 100), ("echo2", 100)],
    );
}

#[test]
fn the_newest_bundle_is_accepted_over_the_built_in_one_and_its_policy_is_obeyed() {
    let Some(upstream) = upstream() else { return };
    let sandbox = Sandbox::start();
    let none = sandbox.kubectl(&["get", "validatingadmissionpolicies", "-o", "name"]);
    assert!(!none.ok().contains("safe-upgrades"), "the built-in set does not bring the policy");
    let applied = apply(&sandbox, &upstream.join("standard"));
    let crd =
        "customresourcedefinition.apiextensions.k8s.io/httproutes.gateway.networking.k8s.io configured\n";
    assert!(applied.contains(crd), "{applied}");
    assert!(applied.contains("validatingadmissionpolicy.admissionregistration.k8s.io/safe-upgrades.gateway.networking.k8s.io created\n"), "{applied}");
    guide_holds(&sandbox);
    // From now on the policy refuses older bundles, as in Kubernetes.
    let older = upstream.join("older/v1.0.0");
    let refused = sandbox.kubectl(&["apply", "-f", older.to_str().expect("UTF-8")]).refused();
    assert!(refused.contains("safe-upgrades.gateway.networking.k8s.io"), "{refused}");
    let experimental = upstream.join("experimental");
    let large = sandbox.kubectl(&[
        "apply",
        "--server-side",
        "--force-conflicts",
        "-f",
        experimental.to_str().expect("UTF-8"),
    ]);
    println!("{}{}", large.stdout, large.stderr);
}

#[test]
fn the_bundles_that_older_guides_use_are_accepted_and_the_guide_holds() {
    let Some(upstream) = upstream() else { return };
    for release in ["older/v1.0.0", "older/v1.5.1"] {
        let sandbox = Sandbox::start();
        let directory = upstream.join(release);
        let applied = apply(&sandbox, &directory);
        assert!(
            applied.contains("/httproutes.gateway.networking.k8s.io configured\n"),
            "{release}: {applied}"
        );
        let served =
            sandbox.get("crd/httproutes.gateway.networking.k8s.io", "default").expect("the CRD is there");
        let version = &served["metadata"]["annotations"]["gateway.networking.k8s.io/bundle-version"];
        assert_eq!(version.as_str(), release.strip_prefix("older/"), "what was applied is what is served");
        guide_holds(&sandbox);
    }
}

#[test]
fn both_channels_can_be_asked_for() {
    for (channel, has) in [("standard", false), ("experimental", true)] {
        let sandbox = Sandbox::start_with(&["--channel", channel]);
        let listed = sandbox.kubectl(&["get", "crd", "-o", "name"]).ok().to_owned();
        assert!(listed.contains("httproutes.gateway.networking.k8s.io"), "{listed}");
        assert_eq!(
            listed.contains("xbackendtrafficpolicies.gateway.networking.x-k8s.io"),
            has,
            "{channel}: {listed}"
        );
    }
}

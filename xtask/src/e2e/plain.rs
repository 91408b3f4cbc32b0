//! The installation without Helm: the plain YAML, the kustomize base, and the overlay that the documents print.
//!
//! Owns that each comes up, serves a Gateway with a data plane of its own, and goes with the line that the documents have for it.

use anyhow::{Context as _, Result, ensure};

use super::Run;
use super::guides::Crds;
use super::leftovers::Inventory;

/// The documents' ways to install; one line takes either away.
const WAYS: [&[&str]; 2] = [
    &[
        "kubectl apply --server-side -f deploy/helm/weir/crds",
        "kubectl apply --server-side -f deploy/weir.yaml",
    ],
    &["kubectl apply --server-side -k deploy"],
];
const AWAY: &str = "kubectl delete -f deploy/weir.yaml --timeout=120s";

/// The document that prints the overlay, how that begins, and the image that it asks for.
const DOCUMENT: &str = "docs/install.md";
const OVERLAY: &str = "```yaml\nresources: [../deploy]\n";
const IMAGE: &str = "registry.example/weir:1.2";

pub(super) fn without_helm(run: &Run<'_>) -> Result<()> {
    overlay(run)?;
    run.install_kinds(Crds::Current)?;
    let before = Inventory::take(run.cluster)?;
    for way in WAYS {
        for line in way {
            run.cluster.does(line)?;
        }
        serves(run)?;
        run.cluster.does(AWAY)?;
        before.is_restored(run.cluster)?;
    }
    Ok(())
}

/// With the documents' overlay the image is another in every place.
fn overlay(run: &Run<'_>) -> Result<()> {
    let document = std::fs::read_to_string(run.root.join(DOCUMENT)).context(DOCUMENT)?;
    let (_, rest) = document.split_once(OVERLAY).with_context(|| format!("{DOCUMENT} prints no overlay"))?;
    let (rest, _) = rest.split_once("```").context("the overlay has no end")?;
    let folder = run.folder.join("plain");
    let shown = folder.display();
    run.cluster
        .shell(&format!("rm -rf {shown} && mkdir -p {shown}/overlay && cp -r deploy {shown}/deploy"))?;
    std::fs::write(folder.join("overlay/kustomization.yaml"), format!("resources: [../deploy]\n{rest}"))?;
    let rendered = run.cluster.does(&format!("kubectl kustomize {shown}/overlay"))?;
    // Controllers, the shared data plane, and the data planes that are made.
    let places = rendered.matches(IMAGE).count();
    ensure!(places == 3 && !rendered.contains("weir:dev"), "{IMAGE} is in {places} places:\n{rendered}");
    let made = rendered.split("name: WEIR_IMAGE").nth(1).context("no variable for the data planes' image")?;
    ensure!(made.trim_start().starts_with(&format!("value: {IMAGE}")), "data planes have another image");
    Ok(())
}

fn serves(run: &Run<'_>) -> Result<()> {
    let cluster = run.cluster;
    for part in ["controller", "gateway-proxy"] {
        let line = format!("kubectl rollout status deployment/weir-{part} -n weir-system --timeout=120s");
        cluster.does(&line)?;
    }
    let gateway = run.folder.join("plain.yaml");
    std::fs::write(&gateway, GATEWAY).context("writing the Gateway")?;
    cluster.does(&format!("kubectl apply -f {}", gateway.display()))?;
    cluster.does("kubectl apply -f examples/kic/echo-services.yaml -f examples/kic/httproute.yaml")?;
    run.wait_deployments(&["echo", "echo2"], "default")?;
    run.wait_gateway("default")?;
    run.wait_route("echo", "default")?;
    let line = r#"ADDRESS=$(kubectl get gateway kong -o jsonpath='{.status.addresses[0].value}'); curl -s -f "http://$ADDRESS/echo/hostname?iteration=[1-20]" -w "\n""#;
    run.assert_split(line, ["echo", "echo2"], 10, 20, 0)?;
    cluster.does("kubectl delete -f examples/kic/httproute.yaml -f examples/kic/echo-services.yaml")?;
    cluster.does(&format!("kubectl delete -f {}", gateway.display()))?;
    let left = "kubectl get deployments,services -n default -l weir.dev/provisioned=gateway -o name";
    cluster.until(left, str::is_empty).context("what was made for the Gateway goes with it").map(drop)
}

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: kong, namespace: default}
spec:
  gatewayClassName: weir
  listeners: [{name: http, port: 80, protocol: HTTP}]
";

//! Parts that end while requests go on: none may fail.
//!
//! Owns the load (real `curl`, one connection after another as the data plane closes them) and what is ended under it:
//! the controller that leads, every controller, every data plane pod by a rolling update, and rules that change.

use anyhow::{Context as _, Result, ensure};

use super::Run;

/// Requests a second: little work, but something is always under way or about to be.
const RATE: u32 = 50;

/// Ends one part after another of the installation `release` in `namespace`, under load of `url`.
pub(super) fn under_load(run: &Run<'_>, namespace: &str, release: &str, url: &str) -> Result<()> {
    let cluster = run.cluster;
    let number = run.options.seconds * RATE;
    let load = cluster.start(&format!(
        "curl -s --rate {RATE}/s --max-time 10 -o /dev/null -w '%{{http_code}} %{{errormsg}}\\n' \"{url}?iteration=[1-{number}]\""
    ))?;
    let lease = format!(
        "kubectl -n {namespace} get lease {release}-weir-leader -o jsonpath='{{.spec.holderIdentity}}'"
    );
    let leader = cluster.shell(&lease)?;
    let pod = leader.rsplit_once('_').map_or(leader.as_str(), |(pod, _)| pod);
    ensure!(!pod.is_empty(), "nobody leads");
    cluster.does(&format!("kubectl -n {namespace} delete pod {pod} --wait=false"))?;
    cluster.until(&lease, |holder| !holder.is_empty() && holder != leader).context("another one leads")?;
    for part in ["controller", "gateway-proxy"] {
        cluster.does(&format!("kubectl -n {namespace} rollout restart deployment/{release}-{part}"))?;
        cluster.does(&format!(
            "kubectl -n {namespace} rollout status deployment/{release}-{part} --timeout=120s"
        ))?;
    }
    let output = load.wait_with_output().context("waiting for curl")?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let failed: Vec<&str> = printed.lines().filter(|line| line.trim() != "200").collect();
    ensure!(
        failed.is_empty(),
        "{} of {number} requests failed: {:?}",
        failed.len(),
        &failed[..failed.len().min(5)]
    );
    let answered = printed.lines().count();
    ensure!(answered == number as usize, "{answered} of {number} requests were answered");
    println!("    {number} requests in {} s, none failed", run.options.seconds);
    Ok(())
}

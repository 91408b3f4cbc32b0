//! Steady traffic while parts end, and the judgement of what it met.
//!
//! Owns the program that sends it (`clients/steady`), the times at which parts ended, and what may happen then. Invariants: a request that
//! fails is a failure unless the part that held it was killed without a word; a stream breaks only while pods end.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::Child;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// What a fault may do to traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Harm {
    None,
    /// Pods end as they should: what they hold for long is cut when their time is over.
    Streams,
    /// A data plane is killed without a word, and takes along what it holds.
    Requests,
}

/// When a part was ended, and until when it was not there. Unix time, milliseconds.
#[derive(Clone, Debug)]
struct Window {
    what: String,
    harm: Harm,
    began: u64,
    ended: u64,
}

/// What a data plane that was killed held goes at once, and for so long it is still sent more. Unit: milliseconds. Source: kube-proxy
/// writes its rules once a second; the rest is the kubelet's to notice.
const GONE_MS: u64 = 5_000;

impl Window {
    /// Whether a request may have gone with what was killed.
    fn excuses(&self, failure: &Failure) -> bool {
        self.harm == Harm::Requests && self.touches(failure) && failure.began <= self.began + GONE_MS
    }

    fn touches(&self, failure: &Failure) -> bool {
        self.began <= failure.at && failure.began <= self.ended
    }
}

/// As the program prints it.
#[derive(Debug, Deserialize)]
struct Results {
    counts: BTreeMap<String, Count>,
    failures: Vec<Failure>,
    breaks: Vec<Failure>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Count {
    sent: u64,
    failed: u64,
    slowest_ms: u64,
}

#[derive(Debug, Deserialize)]
struct Failure {
    began: u64,
    at: u64,
    kind: String,
    what: String,
}

/// Traffic that is under way.
pub(super) struct Load {
    child: Option<Child>,
    began: u64,
    windows: Vec<Window>,
}

impl Load {
    pub(super) fn under_way(child: Child) -> Load {
        Load { child: Some(child), began: now_ms(), windows: Vec::new() }
    }

    /// Ends a part, by `act`, which returns when all is as it should be again.
    pub(super) fn fault(&mut self, what: &str, harm: Harm, act: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("==> fault: {what}");
        let began = now_ms();
        let acted = act().with_context(|| what.to_owned());
        let ended = now_ms();
        println!("    {what}: {:.1} s", (ended - began) as f64 / 1e3);
        // What it did to traffic it did, also where it came to no end.
        self.windows.push(Window { what: what.to_owned(), harm, began, ended });
        acted
    }

    /// Ends the traffic and judges it.
    pub(super) fn end(mut self) -> Result<()> {
        let mut child = self.child.take().context("the load has ended")?;
        drop(child.stdin.take());
        let mut printed = String::new();
        child.stdout.take().context("the load has no output")?.read_to_string(&mut printed)?;
        let status = child.wait()?;
        ensure!(status.success(), "the load ended with {status}: {printed}");
        let results: Results = serde_json::from_str(&printed).context(printed)?;
        judge(&results, &self.windows, now_ms().saturating_sub(self.began))
    }
}

impl Drop for Load {
    /// What it is sent to may be gone after an error: its results say nothing then.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            _ = child.wait();
        }
    }
}

fn judge(results: &Results, windows: &[Window], milliseconds: u64) -> Result<()> {
    for (kind, Count { sent, failed, slowest_ms }) in &results.counts {
        println!(
            "    {kind}: {sent} in {} s, {failed} failed, the slowest {slowest_ms} ms",
            milliseconds / 1_000
        );
    }
    let excused = |failure: &&Failure| windows.iter().any(|window| window.excuses(failure));
    let (allowed, failed): (Vec<_>, Vec<_>) = results.failures.iter().partition(excused);
    if !allowed.is_empty() {
        println!("    {} went with a data plane that was killed", allowed.len());
    }
    ensure!(failed.is_empty(), "{}", told("requests failed", &failed, windows));
    let cut_with = |failure: &&Failure| {
        let ends = |window: &&Window| window.harm != Harm::None;
        windows.iter().filter(ends).any(|window| (window.began..=window.ended).contains(&failure.at))
    };
    let (cut, broken): (Vec<_>, Vec<_>) = results.breaks.iter().partition(cut_with);
    println!("    the WebSocket was cut {} times, each time with the pod that held it", cut.len());
    ensure!(broken.is_empty(), "{}", told("streams broke", &broken, windows));
    let total: u64 = results.counts.values().map(|count| count.failed).sum();
    ensure!(total == results.failures.len() as u64, "{total} requests failed, too many to be told");
    for kind in ["h1", "h1-new", "h2", "grpc", "ws"] {
        let sent = results.counts.get(kind).map_or(0, |count| count.sent);
        // 20 a second at least is what each kind sends.
        ensure!(
            sent > milliseconds / 1_000 * 10,
            "{sent} of {kind} in {milliseconds} ms: that is no steady load"
        );
    }
    Ok(())
}

fn told(what: &str, failures: &[&Failure], windows: &[Window]) -> String {
    let mut lines = vec![format!("{} {what}", failures.len())];
    for failure in failures.iter().take(8) {
        let during = windows.iter().find(|window| window.touches(failure));
        let during = during.map_or("between faults".to_owned(), |window| {
            let after = failure.began as f64 - window.began as f64;
            format!("{:.1} s after the beginning of: {}", after / 1e3, window.what)
        });
        let took = failure.at.saturating_sub(failure.began);
        lines.push(format!("    {}, {during}, after {took} ms: {}", failure.kind, failure.what));
    }
    lines.join("\n")
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Harm, Results, Window, judge};
    use serde_json::json;

    fn results(failures: serde_json::Value, breaks: serde_json::Value) -> Results {
        let count = json!({"sent": 1_000, "failed": 0, "slowestMs": 3});
        let mut counts = json!({"h1-new": count, "h2": count, "grpc": count, "ws": count});
        counts["h1"] = json!({"sent": 1_000, "failed": failures.as_array().unwrap().len(), "slowestMs": 3});
        serde_json::from_value(json!({"counts": counts, "failures": failures, "breaks": breaks})).unwrap()
    }

    fn window(harm: Harm) -> Vec<Window> {
        vec![Window { what: "it ends".to_owned(), harm, began: 1_000, ended: 2_000 }]
    }

    #[test]
    fn a_request_may_fail_only_with_the_data_plane_that_was_killed() {
        let during = || json!([{"began": 1_500, "at": 1_600, "kind": "h1", "what": "reset"}]);
        let judged = |failures, harm| judge(&results(failures, json!([])), &window(harm), 10_000);
        assert!(judged(during(), Harm::Requests).is_ok());
        assert!(judged(during(), Harm::None).is_err());
        let error = judged(during(), Harm::Streams).unwrap_err().to_string();
        assert!(error.contains("h1, 0.5 s after the beginning of: it ends, after 100 ms: reset"), "{error}");
        let after = json!([{"began": 2_500, "at": 2_600, "kind": "h1", "what": "reset"}]);
        assert!(judged(after, Harm::Requests).is_err());
        let long = [Window { ended: 20_000, ..window(Harm::Requests).remove(0) }];
        let late = json!([{"began": 6_001, "at": 6_100, "kind": "h1", "what": "reset"}]);
        assert!(judge(&results(late, json!([])), &long, 10_000).is_err());
    }

    #[test]
    fn a_stream_may_break_only_while_pods_end() {
        let broken = |at: u64| json!([{"began": 100, "at": at, "kind": "ws", "what": "reset"}]);
        let judged = |breaks, harm| judge(&results(json!([]), breaks), &window(harm), 10_000);
        assert!(judged(broken(1_500), Harm::Streams).is_ok());
        assert!(judged(broken(1_500), Harm::None).is_err());
        assert!(judged(broken(2_500), Harm::Streams).is_err());
    }

    #[test]
    fn a_load_that_stood_still_is_told() {
        let judged = judge(&results(json!([]), json!([])), &[], 300_000);
        assert!(judged.unwrap_err().to_string().contains("no steady load"));
    }
}

//! The cells of pods, which sum up their containers.

use jiff::Timestamp;
use serde_json::Value;

use super::text;
use crate::object;

/// Message of the condition that marks rows of pods which have ended.
pub(super) const END_MESSAGE: &str = "The pod has ended.";

#[derive(Default)]
struct Summary {
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
    reason: String,
}

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let restartable: Vec<&Value> = object::array(pod, "/spec/initContainers")
        .iter()
        .filter(|container| object::text(container, "/restartPolicy") == "Always")
        .collect();
    let total = object::array(pod, "/spec/containers").len() + restartable.len();
    let summary = summarize(pod, &restartable);
    let restarts = match summary.last_restart {
        Some(at) if summary.restarts != 0 => format!("{} ({} ago)", summary.restarts, text::since(at, now)),
        _ => summary.restarts.to_string(),
    };
    let ip = match object::text(pod, "/status/podIPs/0/ip") {
        "" => object::text(pod, "/status/podIP"),
        ip => ip,
    };
    vec![
        Value::from(object::name(pod)),
        Value::from(format!("{}/{total}", summary.ready)),
        Value::from(summary.reason),
        Value::from(restarts),
        text::age(pod, now),
        text::or_none(ip),
        text::or_none(object::text(pod, "/spec/nodeName")),
        text::or_none(object::text(pod, "/status/nominatedNodeName")),
        readiness_gates(pod),
    ]
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    object::array(pod, "/status/conditions").iter().find(|condition| object::text(condition, "/type") == kind)
}

fn is_true(pod: &Value, kind: &str) -> bool {
    condition(pod, kind).is_some_and(|condition| object::text(condition, "/status") == "True")
}

fn readiness_gates(pod: &Value) -> Value {
    let gates = object::array(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return Value::from("<none>");
    }
    let passed = gates.iter().filter(|gate| is_true(pod, object::text(gate, "/conditionType"))).count();
    Value::from(format!("{passed}/{}", gates.len()))
}

fn summarize(pod: &Value, restartable: &[&Value]) -> Summary {
    let phase = object::text(pod, "/status/phase");
    let mut summary = Summary { reason: phase.to_owned(), ..Summary::default() };
    let stated = object::text(pod, "/status/reason");
    if !stated.is_empty() {
        summary.reason = stated.to_owned();
    }
    if condition(pod, "PodScheduled").is_some_and(|found| object::text(found, "/reason") == "SchedulingGated")
    {
        summary.reason = "SchedulingGated".to_owned();
    }
    let initializing = init_containers(pod, restartable, &mut summary);
    if !initializing || is_true(pod, "Initialized") {
        containers(pod, &mut summary);
    }
    if object::is_terminating(pod) {
        if stated == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

fn add_restarts(status: &Value, summary: &mut Summary) {
    summary.restarts += text::number(status, "/restartCount");
    let ended = object::text(status, "/lastState/terminated/finishedAt").parse().ok();
    summary.last_restart = summary.last_restart.max(ended);
}

/// Whether an init container is still at work (or failed), which is then what the pod shows.
fn init_containers(pod: &Value, restartable: &[&Value], summary: &mut Summary) -> bool {
    let declared = object::array(pod, "/spec/initContainers").len();
    let mut lasting = Summary::default();
    for (index, status) in object::array(pod, "/status/initContainerStatuses").iter().enumerate() {
        add_restarts(status, summary);
        let name = object::text(status, "/name");
        let stays = restartable.iter().any(|container| object::text(container, "/name") == name);
        if stays {
            add_restarts(status, &mut lasting);
        }
        let terminated = status.pointer("/state/terminated");
        if terminated.is_some() && text::number(status, "/state/terminated/exitCode") == 0 {
            continue;
        }
        if stays && status.get("started") == Some(&Value::Bool(true)) {
            if status.get("ready") == Some(&Value::Bool(true)) {
                summary.ready += 1;
            }
            continue;
        }
        let waiting = object::text(status, "/state/waiting/reason");
        summary.reason = match terminated {
            Some(terminated) => format!("Init:{}", ending(terminated)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{index}/{declared}"),
        };
        return true;
    }
    summary.restarts = lasting.restarts;
    summary.last_restart = lasting.last_restart;
    false
}

/// Why a container ended.
fn ending(terminated: &Value) -> String {
    let reason = object::text(terminated, "/reason");
    let signal = text::number(terminated, "/signal");
    if !reason.is_empty() {
        reason.to_owned()
    } else if signal != 0 {
        format!("Signal:{signal}")
    } else {
        format!("ExitCode:{}", text::number(terminated, "/exitCode"))
    }
}

fn containers(pod: &Value, summary: &mut Summary) {
    let (mut running, mut failure) = (false, String::new());
    for status in object::array(pod, "/status/containerStatuses").iter().rev() {
        add_restarts(status, summary);
        let waiting = object::text(status, "/state/waiting/reason");
        if !waiting.is_empty() {
            summary.reason = waiting.to_owned();
        } else if let Some(terminated) = status.pointer("/state/terminated") {
            summary.reason = ending(terminated);
            if text::number(terminated, "/exitCode") != 0 {
                failure.clone_from(&summary.reason);
            }
        } else if status.get("ready") == Some(&Value::Bool(true))
            && status.pointer("/state/running").is_some()
        {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" {
        if running && is_true(pod, "Ready") {
            summary.reason = "Running".to_owned();
        } else if !failure.is_empty() {
            summary.reason = failure;
        } else if running {
            summary.reason = "NotReady".to_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(pod: &Value) -> Vec<String> {
        cells(pod, Timestamp::UNIX_EPOCH)
            .iter()
            .map(|cell| cell.as_str().unwrap_or_default().to_owned())
            .collect()
    }

    #[test]
    fn a_pod_shows_what_its_containers_do() {
        let mut pod = json!({
            "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "x"}], "nodeName": "n"},
            "status": {"phase": "Running", "podIP": "127.0.0.2", "containerStatuses": [{"ready": true, "restartCount": 0, "state": {"running": {}}}]},
        });
        assert_eq!(shown(&pod)[1..4], ["1/1", "Running", "0"]);
        assert_eq!(shown(&pod)[5..7], ["127.0.0.2", "n"]);
        pod["status"]["containerStatuses"][0] = json!({"ready": false, "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"finishedAt": "1970-01-01T00:00:00Z"}}});
        assert_eq!(shown(&pod)[1..4], ["0/1", "CrashLoopBackOff", "2 (0s ago)"]);
        pod["metadata"]["deletionTimestamp"] = json!("x");
        assert_eq!(shown(&pod)[2], "Terminating");
    }

    #[test]
    fn a_pod_that_waits_for_its_init_containers_says_for_which() {
        let pod = json!({
            "spec": {"containers": [{"name": "x"}], "initContainers": [{"name": "i"}, {"name": "j"}]},
            "status": {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]},
        });
        assert_eq!(shown(&pod)[2], "Init:1/2");
    }
}

//! The cells of workloads: what runs, how much of it, and who decides that. Source: kube-apiserver's printers.

use jiff::Timestamp;
use serde_json::Value;

use super::text::{self, age, joined, labels, name, number, or_none, selector, shown, size, some_of};
use crate::object;

fn ratio(object: &Value) -> Value {
    Value::from(format!("{}/{}", number(object, "/status/readyReplicas"), number(object, "/spec/replicas")))
}

/// Names and images of a template's containers.
fn containers(object: &Value, pointer: &str) -> [Value; 2] {
    ["/name", "/image"].map(|field| Value::from(joined(object, pointer, field)))
}

const TEMPLATE: &str = "/spec/template/spec/containers";

pub(super) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, TEMPLATE);
    let updated = number(object, "/status/updatedReplicas");
    let available = number(object, "/status/availableReplicas");
    let selected = object.pointer("/spec/selector").map(crate::schema::selector_text).unwrap_or_default();
    vec![
        name(object),
        ratio(object),
        updated.into(),
        available.into(),
        age(object, now),
        names,
        images,
        selected.into(),
    ]
}

pub(super) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, TEMPLATE);
    vec![
        name(object),
        number(object, "/spec/replicas").into(),
        number(object, "/status/replicas").into(),
        number(object, "/status/readyReplicas").into(),
        age(object, now),
        names,
        images,
        selector(object, "/spec/selector"),
    ]
}

pub(super) fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, TEMPLATE);
    vec![
        name(object),
        number(object, "/status/desiredNumberScheduled").into(),
        number(object, "/status/currentNumberScheduled").into(),
        number(object, "/status/numberReady").into(),
        number(object, "/status/updatedNumberScheduled").into(),
        number(object, "/status/numberAvailable").into(),
        labels(object, "/spec/template/spec/nodeSelector"),
        age(object, now),
        names,
        images,
        selector(object, "/spec/selector"),
    ]
}

pub(super) fn stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, TEMPLATE);
    vec![name(object), ratio(object), age(object, now), names, images]
}

pub(super) fn template(object: &Value, _: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, "/template/spec/containers");
    vec![name(object), names, images, labels(object, "/template/metadata/labels")]
}

pub(super) fn revision(object: &Value, now: Timestamp) -> Vec<Value> {
    let owner = object::array(object, "/metadata/ownerReferences")
        .iter()
        .find(|owner| owner.get("controller") == Some(&Value::Bool(true)));
    let controller = owner.map_or_else(
        || "<none>".to_owned(),
        |owner| {
            let (group, _) = crate::registry::split_api_version(object::text(owner, "/apiVersion"));
            let kind = object::text(owner, "/kind").to_lowercase();
            let qualified = if group.is_empty() { kind } else { format!("{kind}.{group}") };
            format!("{qualified}/{}", object::text(owner, "/name"))
        },
    );
    vec![name(object), controller.into(), number(object, "/revision").into(), age(object, now)]
}

fn is_true(object: &Value, kind: &str) -> bool {
    object::array(object, "/status/conditions").iter().any(|condition| {
        object::text(condition, "/type") == kind && object::text(condition, "/status") == "True"
    })
}

pub(super) fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    let succeeded = number(object, "/status/succeeded");
    let completions = match object.pointer("/spec/completions").and_then(Value::as_i64) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if number(object, "/spec/parallelism") > 1 => {
            format!("{succeeded}/1 of {}", number(object, "/spec/parallelism"))
        }
        None => format!("{succeeded}/1"),
    };
    let time = |pointer: &str| object::text(object, pointer).parse::<Timestamp>().ok();
    let duration = match (time("/status/startTime"), time("/status/completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => text::since(start, end.unwrap_or(now)),
    };
    let status = if is_true(object, "Complete") {
        "Complete"
    } else if is_true(object, "Failed") {
        "Failed"
    } else if object::is_terminating(object) {
        "Terminating"
    } else if is_true(object, "Suspended") {
        "Suspended"
    } else {
        "Running"
    };
    let [names, images] = containers(object, TEMPLATE);
    let selected = selector(object, "/spec/selector");
    vec![
        name(object),
        status.into(),
        completions.into(),
        duration.into(),
        age(object, now),
        names,
        images,
        selected,
    ]
}

pub(super) fn cron_job(object: &Value, now: Timestamp) -> Vec<Value> {
    let suspend = match object.pointer("/spec/suspend").and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = match object::text(object, "/status/lastScheduleTime") {
        "" => "<none>".to_owned(),
        _ => text::age_at(object, "/status/lastScheduleTime", now),
    };
    let [names, images] = containers(object, "/spec/jobTemplate/spec/template/spec/containers");
    vec![
        name(object),
        object::text(object, "/spec/schedule").into(),
        or_none(object::text(object, "/spec/timeZone")),
        suspend.into(),
        size(object, "/status/active").into(),
        last.into(),
        age(object, now),
        names,
        images,
        selector(object, "/spec/jobTemplate/spec/selector"),
    ]
}

pub(super) fn autoscaler(object: &Value, now: Timestamp) -> Vec<Value> {
    let target = |field: &str| object::text(object, &format!("/spec/scaleTargetRef/{field}")).to_owned();
    let metrics = object::array(object, "/spec/metrics");
    let targets: Vec<String> =
        metrics.iter().enumerate().map(|(index, metric)| metric_text(object, index, metric)).collect();
    let shown_targets =
        if targets.is_empty() { "<none>".to_owned() } else { some_of(&targets, 2).replace(',', ", ") };
    vec![
        name(object),
        format!("{}/{}", target("kind"), target("name")).into(),
        shown_targets.into(),
        shown(object, "/spec/minReplicas", "<unset>").into(),
        number(object, "/spec/maxReplicas").into(),
        number(object, "/status/currentReplicas").into(),
        age(object, now),
    ]
}

/// `cpu: 3%/80%` and the like: what a metric is and should be.
fn metric_text(object: &Value, index: usize, metric: &Value) -> String {
    let (field, prefix) = match object::text(metric, "/type") {
        "Resource" => ("resource", format!("{}: ", object::text(metric, "/resource/name"))),
        "ContainerResource" => {
            ("containerResource", format!("{}: ", object::text(metric, "/containerResource/name")))
        }
        "Pods" => ("pods", String::new()),
        "Object" => ("object", String::new()),
        "External" => ("external", String::new()),
        _ => return "<unknown type>".to_owned(),
    };
    let wanted = |key: &str| metric.pointer(&format!("/{field}/target/{key}"));
    let (key, suffix) = match (wanted("averageValue"), wanted("averageUtilization")) {
        (Some(_), _) => ("averageValue", if matches!(field, "object" | "external") { " (avg)" } else { "" }),
        (None, Some(_)) => ("averageUtilization", ""),
        (None, None) => ("value", ""),
    };
    let percent = if key == "averageUtilization" { "%" } else { "" };
    let goal = wanted(key).map_or_else(
        || "<auto>".to_owned(),
        |_| shown(metric, &format!("/{field}/target/{key}"), "") + percent,
    );
    let at = format!("/status/currentMetrics/{index}/{field}/current/{key}");
    let current =
        object.pointer(&at).map_or_else(|| "<unknown>".to_owned(), |_| shown(object, &at, "") + percent);
    format!("{prefix}{current}/{goal}{suffix}")
}

pub(super) fn budget(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        shown(object, "/spec/minAvailable", "N/A").into(),
        shown(object, "/spec/maxUnavailable", "N/A").into(),
        number(object, "/status/disruptionsAllowed").into(),
        age(object, now),
    ]
}

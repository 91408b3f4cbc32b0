//! Large objects of others are not kept in memory.
//!
//! A test binary of its own, because it looks at the memory of the whole process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Full, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use weir_control::{ControlConfig, Provision, Sandbox};
use weir_model::resource::{Applied, Update};

/// Of each kind.
const OBJECTS: usize = 1_000;
/// Of a value, and again of what `kubectl apply` keeps.
const BYTES: usize = 50_000;

/// 200 MB are read. What is not code and stacks of the process is to stay under this.
const MOST_KIB: u64 = 48 * 1_024;

/// How much memory the process has had at most, KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

type AnswerBody = UnsyncBoxBody<bytes::Bytes, Infallible>;

/// An API with many large Secrets and ConfigMaps, and nothing else.
fn answer(uri: &http::Uri) -> http::Response<AnswerBody> {
    let query = uri.query().unwrap_or_default();
    if query.contains("watch=true") {
        return http::Response::new(UnsyncBoxBody::new(StreamBody::new(futures::stream::pending())));
    }
    let resource = |name: &str, kind: &str| json!({"name": name, "kind": kind, "namespaced": true});
    let value = match uri.path() {
        "/api/v1" => json!({"kind": "APIResourceList", "resources": [
            resource("configmaps", "ConfigMap"), resource("secrets", "Secret"),
        ]}),
        "/api/v1/configmaps" | "/api/v1/secrets" => page(query),
        _ => json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}),
    };
    let body = Full::new(bytes::Bytes::from(value.to_string()));
    let code = if value["code"] == 404 { 404 } else { 200 };
    http::Response::builder().status(code).body(UnsyncBoxBody::new(body)).unwrap()
}

/// As many objects as are asked for from where the page before ended.
fn page(query: &str) -> Value {
    let asked = |name: &str| -> Option<usize> {
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    };
    let first = asked("continue").unwrap_or_default();
    let end = OBJECTS.min(first + asked("limit").unwrap_or(OBJECTS));
    let text = "x".repeat(BYTES);
    let object = |at: usize| {
        json!({
            "metadata": {
                "name": format!("n{at}"), "namespace": "default", "uid": format!("u{at}"), "resourceVersion": "5",
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": text},
            },
            "type": "Opaque", "data": {"settings": text},
        })
    };
    let proceed = if end < OBJECTS { end.to_string() } else { String::new() };
    json!({
        "metadata": {"resourceVersion": "9", "continue": proceed},
        "items": (first..end).map(object).collect::<Vec<Value>>(),
    })
}

#[tokio::test]
async fn large_objects_of_others_cost_a_page_of_memory_and_not_themselves() {
    let api = tower::service_fn(|request: http::Request<kube::client::Body>| {
        let answered = answer(request.uri());
        async { Ok::<_, Infallible>(answered) }
    });
    let (updates, mut coming) = mpsc::channel::<Update>(1);
    let (answers, applied) = mpsc::channel(1);
    let shutdown = CancellationToken::new();
    let config = ControlConfig::new(Provision::Sandbox(Sandbox::new("127.64.0.0/16".parse().unwrap())));
    let status = std::sync::Arc::clone(&config.status);
    let before = peak();
    let client = kube::Client::new(api, "default");
    let control = tokio::spawn(weir_control::run(client, updates, applied, config, shutdown.clone()));
    tokio::spawn(async move {
        while let Some(update) = coming.recv().await {
            let _ = answers.send(Applied { sequence: update.sequence, ..Applied::default() }).await;
        }
    });
    tokio::time::timeout(Duration::from_secs(240), async {
        while !status.ready() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    let grown = peak() - before;
    shutdown.cancel();
    control.await.unwrap();
    assert_eq!(status.lists.get(), 2);
    println!("{} kB of Secrets and ConfigMaps: {grown} KiB", 4 * OBJECTS * BYTES / 1_000);
    assert!(grown < MOST_KIB, "{grown} KiB");
}

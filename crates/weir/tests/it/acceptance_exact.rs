//! The split is exact: whatever the weights, the connections, the pods behind a Service, and the edits elsewhere.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::http::{Connection, MANNERS, Manner, count};
use crate::harness::sandbox::Sandbox;
use crate::harness::{Counts, assert_between, assert_counts};

/// A sandbox with one Gateway and Services `b0`, `b1`, ... of one pod each.
struct Fixture {
    sandbox: Sandbox,
    socket: SocketAddr,
}

const GATEWAY: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: weir}
spec: {controllerName: weir.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front}
spec:
  gatewayClassName: weir
  listeners: [{name: http, port: 80, protocol: HTTP}]
";

fn backend(name: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: 8080}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - name: echo
        image: registry.k8s.io/e2e-test-images/agnhost:2.40
        command: [/agnhost, netexec, --http-port=8080]
        ports: [{{containerPort: 8080}}]
"
    )
}

fn route(name: &str, path: &str, backends: &[(&str, u64)]) -> String {
    let mut text = format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}}}
spec:
  parentRefs: [{{name: front}}]
  rules:
  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
    backendRefs:
"
    );
    for (service, weight) in backends {
        writeln!(text, "    - {{name: {service}, port: 80, weight: {weight}}}").expect("a String takes text");
    }
    text
}

impl Fixture {
    fn new(backends: usize) -> Fixture {
        let sandbox = Sandbox::start();
        let names: Vec<String> = (0..backends).map(|n| format!("b{n}")).collect();
        let mut objects = GATEWAY.to_owned();
        objects.extend(names.iter().map(|name| backend(name)));
        sandbox.apply(&objects).ok();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        sandbox.wait_backends(&names, "default");
        let socket = sandbox.socket("front", "default");
        Fixture { sandbox, socket }
    }

    /// Makes the route, or changes its weights, and waits on its status, never by requests.
    fn route(&self, backends: &[(&str, u64)]) {
        self.sandbox.apply(&route("split", "/", backends)).ok();
        self.sandbox.wait_route("split", "default");
    }

    fn count(&self, manner: Manner, number: u64) -> Counts {
        count(manner, self.socket, "/hostname", number)
    }
}

fn total(backends: &[(&str, u64)]) -> u64 {
    backends.iter().map(|(_, weight)| weight).sum()
}

/// Each backend `times` its weight; a weight of 0 never shows.
fn expected<'a>(backends: &[(&'a str, u64)], times: u64) -> Vec<(&'a str, u64)> {
    backends.iter().filter(|(_, weight)| *weight > 0).map(|(name, weight)| (*name, weight * times)).collect()
}

#[test]
fn counts_are_exact_from_the_first_request_after_each_change_in_every_manner() {
    let fixture = Fixture::new(3);
    let sets: [&[(&str, u64)]; 4] = [
        &[("b0", 5), ("b1", 3), ("b2", 2)],
        &[("b0", 1), ("b1", 1)],
        &[("b0", 7), ("b1", 0), ("b2", 3)],
        &[("b1", 2), ("b2", 1)],
    ];
    for backends in sets {
        for manner in MANNERS {
            // Another first: each manner begins with the first request after a change of weights.
            fixture.route(&[("b0", 1), ("b1", 2)]);
            fixture.route(backends);
            let times = 60 / total(backends);
            let counts = fixture.count(manner, total(backends) * times);
            println!("{backends:?} {manner:?} {counts:?}");
            assert_counts(&counts, &expected(backends, times));
        }
    }
}

#[test]
fn sixteen_backends_and_extreme_weights_are_exact() {
    let fixture = Fixture::new(16);
    let names: Vec<String> = (0..16).map(|n| format!("b{n}")).collect();
    let sixteen: Vec<(&str, u64)> = names.iter().map(String::as_str).zip(1..).collect();
    fixture.route(&sixteen);
    for manner in MANNERS {
        // 136 tickets a period, one period after another.
        assert_counts(&fixture.count(manner, 136), &expected(&sixteen, 1));
    }
    // At every prefix of the sequence two backends are off by less than one: of 2,000 the rare one gets at most one.
    fixture.route(&[("b0", 999_999), ("b1", 1)]);
    let counts = fixture.count(Manner::EightAtOnce, 2_000);
    assert_between(&counts, "b1", 0, 1);
    assert_eq!(counts.values().sum::<u64>(), 2_000, "{counts:?}");
    assert!(counts.keys().all(|name| name == "b0" || name == "b1"), "{counts:?}");
    let report = fixture.sandbox.split("default/split");
    assert_eq!(report["tickets"], 2_000, "{report:#}");
}

#[test]
fn a_count_is_exact_while_a_deployment_scales_from_1_to_20_and_back() {
    let fixture = Fixture::new(2);
    let backends = [("b0", 2), ("b1", 1)];
    fixture.route(&backends);
    let done = AtomicBool::new(false);
    let counts = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut counts = Counts::new();
            let mut connection = Connection::open(fixture.socket).expect("the gateway listens");
            let mut sent = 0;
            // To the end of the scaling, then on to the end of a period.
            while !done.load(Ordering::Relaxed) || sent % 3 != 0 {
                let answer = connection.get("any.example", "/hostname").expect("no request fails");
                *counts.entry(answer.counted()).or_default() += 1;
                sent += 1;
            }
            counts
        });
        for replicas in [20, 1] {
            let argument = format!("--replicas={replicas}");
            fixture.sandbox.kubectl(&["scale", "deployment", "b1", &argument]).ok();
            fixture.sandbox.wait_endpoints("b1", "default", replicas);
        }
        done.store(true, Ordering::Relaxed);
        client.join().expect("the client ends well")
    });
    let periods = counts.values().sum::<u64>() / 3;
    assert!(periods > 10, "the client was busy all the time: {counts:?}");
    assert_counts(&counts, &expected(&backends, periods));
}

#[test]
fn a_count_is_exact_while_another_route_is_edited_50_times_a_second() {
    let fixture = Fixture::new(3);
    let backends = [("b0", 5), ("b1", 3), ("b2", 2)];
    fixture.sandbox.apply(&route("other", "/other", &[("b0", 1)])).ok();
    fixture.sandbox.wait_route("other", "default");
    fixture.route(&backends);
    let (_proxy, api) = fixture.sandbox.api_proxy();
    let done = AtomicBool::new(false);
    let (counts, edits) = std::thread::scope(|scope| {
        let editor = scope.spawn(|| {
            let mut connection = Connection::open(api).expect("the API answers");
            let path = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes/other";
            let started = Instant::now();
            let mut edits = 0_u32;
            while !done.load(Ordering::Relaxed) {
                let patch = format!(r#"{{"spec":{{"rules":[{{"matches":[{{"path":{{"value":"/other/{edits}"}}}}],"backendRefs":[{{"name":"b1","port":80}}]}}]}}}}"#);
                let answer = connection.request("PATCH", path, "application/merge-patch+json", &patch);
                let answer = answer.expect("the API answers");
                assert_eq!(answer.status, 200, "{}", answer.text());
                edits += 1;
                // A pace, not a wait: the next edit is due 20 ms after the last one was.
                let due = Duration::from_millis(20) * edits;
                std::thread::sleep(due.saturating_sub(started.elapsed()));
            }
            (edits, started.elapsed())
        });
        let counts: Vec<Counts> = MANNERS.iter().map(|manner| fixture.count(*manner, 2_000)).collect();
        done.store(true, Ordering::Relaxed);
        (counts, editor.join().expect("the editor ends well"))
    });
    println!("{} edits in {:?}", edits.0, edits.1);
    assert!(edits.0 >= 10, "there were edits all the time: {edits:?}");
    for counts in counts {
        assert_counts(&counts, &expected(&backends, 200));
    }
}

#[test]
fn a_patch_that_leaves_the_weights_alone_keeps_the_sequence() {
    let fixture = Fixture::new(3);
    let backends = [("b0", 5), ("b1", 3), ("b2", 2)];
    fixture.route(&backends);
    let mut counts = fixture.count(Manner::OneConnection, 13);
    let patches = [
        r#"[{"op":"add","path":"/metadata/annotations","value":{"note":"hello"}}]"#,
        r#"[{"op":"add","path":"/spec/rules/0/filters","value":[{"type":"ResponseHeaderModifier","responseHeaderModifier":{"set":[{"name":"x-edited","value":"yes"}]}}]}]"#,
        // The same shares in other numbers.
        r#"[{"op":"replace","path":"/spec/rules/0/backendRefs/0/weight","value":50},{"op":"replace","path":"/spec/rules/0/backendRefs/1/weight","value":30},{"op":"replace","path":"/spec/rules/0/backendRefs/2/weight","value":20}]"#,
    ];
    for (patch, number) in patches.iter().zip([4, 11, 12]) {
        fixture.sandbox.kubectl(&["patch", "httproute", "split", "--type=json", "-p", patch]).ok();
        fixture.sandbox.wait_route("split", "default");
        for (name, count) in fixture.count(Manner::OneConnection, number) {
            *counts.entry(name).or_default() += count;
        }
    }
    // 13 + 4 + 11 + 12 = 40 tickets of one sequence: four whole periods.
    assert_counts(&counts, &expected(&backends, 4));
    let mut connection = Connection::open(fixture.socket).expect("the gateway listens");
    let answer = connection.get("any.example", "/hostname").expect("the gateway answers");
    assert_eq!(answer.header("x-edited"), Some("yes"), "the patch is live");
}

#[test]
fn a_service_that_does_not_exist_keeps_exactly_its_share_as_500() {
    let fixture = Fixture::new(1);
    fixture.sandbox.apply(&route("split", "/", &[("b0", 3), ("missing", 1)])).ok();
    let wanted = [("Accepted", "True"), ("ResolvedRefs", "False")];
    let object = fixture.sandbox.wait_route_conditions("split", "default", &wanted);
    let conditions = &object["status"]["parents"][0]["conditions"];
    let resolved = crate::harness::sandbox::condition(conditions, "ResolvedRefs");
    assert_eq!(resolved["reason"], "BackendNotFound", "{resolved}");
    let message = resolved["message"].as_str().unwrap_or_default();
    assert!(message.contains("missing"), "the message names the Service: {message}");
    for period in 0..10 {
        let counts = fixture.count(Manner::OneConnection, 4);
        println!("period {period}: {counts:?}");
        assert_counts(&counts, &[("b0", 3), ("500", 1)]);
    }
}

#[test]
fn weight_zero_never_gets_a_request_and_all_zero_is_500() {
    let fixture = Fixture::new(2);
    fixture.route(&[("b0", 0), ("b1", 4)]);
    assert_counts(&fixture.count(Manner::EightAtOnce, 300), &[("b1", 300)]);
    fixture.route(&[("b0", 0), ("b1", 0)]);
    assert_counts(&fixture.count(Manner::OneConnection, 5), &[("500", 5)]);
}

#[test]
fn a_service_without_a_ready_endpoint_answers_503_for_its_share_alone() {
    let fixture = Fixture::new(2);
    fixture.route(&[("b0", 1), ("b1", 1)]);
    fixture.sandbox.kubectl(&["scale", "deployment", "b1", "--replicas=0"]).ok();
    fixture.sandbox.wait_endpoints("b1", "default", 0);
    // The API's slice and the data plane's table are milliseconds apart. A backend that had endpoints a moment ago may
    // hold its requests for a while before the 503.
    crate::harness::eventually("the Service's share is 503", || {
        fixture.count(Manner::OneConnection, 2).contains_key("503").then_some(())
    });
    assert_counts(&fixture.count(Manner::EightAtOnce, 20), &[("b0", 10), ("503", 10)]);
    fixture.sandbox.kubectl(&["scale", "deployment", "b1", "--replicas=1"]).ok();
    fixture.sandbox.wait_backends(&["b1"], "default");
    let counts = crate::harness::eventually("the Service answers again", || {
        let counts = fixture.count(Manner::OneConnection, 2);
        counts.contains_key("b1").then_some(counts)
    });
    assert_counts(&counts, &[("b0", 1), ("b1", 1)]);
}

//! Tries after the first: the sentences of `HTTPRouteRetry` and of `retryConstraint`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use weir_model::limits::Limits;
use weir_model::resource::{Backend, Body, HttpRule, Resource, Retry, RetryBudget};
use weir_proxy::ProxyConfig;

use crate::harness::{Origin, World, backend, ok, rule, to};

fn retry(codes: &[u32], attempts: u32, backoff_ms: u64) -> HttpRule {
    HttpRule { retry: Some(Retry { codes: codes.to_vec(), attempts, backoff_ms }), ..rule("/") }
}

fn world_of(origins: &[std::net::SocketAddr], rule: HttpRule, limits: Limits) -> World {
    let world = World::start(ProxyConfig { workers: Some(1), limits, ..ProxyConfig::default() });
    let mut resources = backend("a", origins).to_vec();
    resources.push(world.route("r", HttpRule { backends: vec![to("a", 1)], ..rule }));
    assert_eq!(world.apply(resources).rejected, []);
    world
}

fn world(origin: &Origin, rule: HttpRule) -> World {
    world_of(&[origin.address], rule, Limits::default())
}

const UNAVAILABLE: &str = "HTTP/1.1 503 Not now\r\nContent-Length: 5\r\nX-From: backend\r\n\r\nlater";

/// Answers this to the first `failures` requests and 200, with the request's body, to all others.
fn fails_first(failures: usize, answer: &'static str) -> Origin {
    let seen = AtomicUsize::new(0);
    Origin::start(move |peer| {
        while let Some((_, body)) = peer.request() {
            if seen.fetch_add(1, Ordering::Relaxed) < failures {
                peer.send(answer);
            } else {
                peer.send(ok(std::str::from_utf8(&body).unwrap()));
            }
        }
    })
}

#[test]
fn attempts_are_the_tries_after_the_first_and_the_last_status_surfaces_when_they_are_used_up() {
    for attempts in [1, 2, 5] {
        let origin = Origin::always(UNAVAILABLE);
        let world = world(&origin, retry(&[500, 503], attempts, 1));
        let response = world.client().get("/");
        assert_eq!((response.status, response.text()), (503, "later"));
        assert_eq!(response.field("x-from"), Some("backend"));
        assert_eq!(origin.requests(), u64::from(attempts) + 1);
        assert_eq!(origin.connections(), 1, "a connection whose answer was read whole is used again");
        assert_eq!(world.proxy.splits()[0].tickets, 1, "tries take no ticket");
    }
}

#[test]
fn a_listed_status_is_tried_again_until_it_succeeds() {
    let origin = fails_first(2, UNAVAILABLE);
    let world = world(&origin, retry(&[503], 3, 1));
    let mut client = world.client();
    assert_eq!(client.get("/").status, 200);
    assert_eq!(origin.requests(), 3);
    assert_eq!(client.get("/").status, 200);
    assert_eq!(origin.requests(), 4);
}

#[test]
fn a_status_that_is_not_listed_is_not_tried_again() {
    let origin = Origin::always("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n");
    let world = world(&origin, retry(&[502, 503, 504], 3, 1));
    assert_eq!(world.client().get("/").status, 500);
    assert_eq!(origin.requests(), 1);
}

#[test]
fn without_a_stanza_nothing_is_tried_again() {
    let origin = Origin::always(UNAVAILABLE);
    let world = world(&origin, rule("/"));
    assert_eq!(world.client().get("/").status, 503);
    assert_eq!(origin.requests(), 1);
}

#[test]
fn a_body_is_sent_again_whole_whatever_the_method() {
    let origin = fails_first(2, UNAVAILABLE);
    let world = world(&origin, retry(&[503], 2, 1));
    let body = "0123456789".repeat(3_000);
    let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 30000\r\n\r\n";
    let response = world.client().exchange(&format!("{head}{body}"));
    assert_eq!((response.status, response.text()), (200, body.as_str()));
    assert_eq!(origin.requests(), 3);
}

#[test]
fn a_body_that_is_still_coming_goes_on_where_it_was_in_the_next_try() {
    // Answers before it has the body, then closes.
    let seen = AtomicUsize::new(0);
    let origin = Origin::start(move |peer| {
        if seen.fetch_add(1, Ordering::Relaxed) == 0 {
            peer.request_head();
            peer.send("HTTP/1.1 503 Early\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        } else if let Some((_, body)) = peer.request() {
            peer.send(ok(std::str::from_utf8(&body).unwrap()));
        }
    });
    let world = world(&origin, retry(&[503], 1, 1));
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n01234");
    crate::harness::eventually("the second try has begun", || origin.requests() == 2);
    client.send("56789");
    assert_eq!(client.response().text(), "0123456789");
}

#[test]
fn a_body_that_is_too_large_to_be_kept_is_sent_once() {
    let origin = Origin::always(UNAVAILABLE);
    let world = world(&origin, retry(&[503], 3, 1));
    let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 300000\r\n\r\n";
    let response = world.client().exchange(&format!("{head}{}", "x".repeat(300_000)));
    assert_eq!((response.status, response.text()), (503, "later"));
    assert_eq!(origin.requests(), 1);
}

#[test]
fn connection_errors_are_tried_again_at_another_endpoint_of_the_same_backend() {
    let (good, other) = (Origin::named("good"), Origin::named("other"));
    let world = World::start(ProxyConfig {
        workers: Some(1),
        // So that the dead endpoint is chosen in every turn.
        limits: Limits { endpoint_retry_delay: Duration::ZERO, ..Limits::default() },
        ..ProxyConfig::default()
    });
    let mut resources = backend("a", &[Origin::nobody(), good.address]).to_vec();
    resources.extend(backend("b", &[other.address]));
    resources.push(world.route("r", HttpRule { backends: vec![to("a", 1), to("b", 1)], ..retry(&[], 1, 1) }));
    assert_eq!(world.apply(resources).rejected, []);
    let mut client = world.client();
    for _ in 0..20 {
        assert_eq!(client.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").status, 200);
    }
    assert_eq!((good.requests(), other.requests()), (10, 10));
    assert!(world.metric("weir_proxy_retries_total") >= 3);
}

#[test]
fn a_backend_that_takes_no_connection_is_tried_as_often_as_the_rule_says() {
    let world = world_of(&[Origin::nobody()], retry(&[], 4, 1), Limits::default());
    assert_eq!(world.client().get("/").status, 502);
    assert_eq!(world.metric("weir_proxy_upstream_connect_failures_total"), 5);
}

#[test]
fn an_endpoint_that_closes_without_an_answer_is_tried_again() {
    let seen = AtomicUsize::new(0);
    let origin = Origin::start(move |peer| {
        while peer.request().is_some() {
            if seen.fetch_add(1, Ordering::Relaxed) == 0 {
                return;
            }
            peer.send(ok("second"));
        }
    });
    let world = world(&origin, retry(&[], 1, 1));
    let response = world.client().exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!((response.status, response.text()), (200, "second"));
}

#[test]
fn a_head_that_breaks_off_is_a_connection_error() {
    let seen = AtomicUsize::new(0);
    let origin = Origin::start(move |peer| {
        while peer.request().is_some() {
            if seen.fetch_add(1, Ordering::Relaxed) == 0 {
                peer.send("HTTP/1.1 200 OK\r\nContent-Le");
                return;
            }
            peer.send(ok("second"));
        }
    });
    let world = world(&origin, retry(&[], 1, 1));
    assert_eq!(world.client().get("/").text(), "second");
}

#[test]
fn many_tries_keep_no_more_of_a_body_than_one() {
    let origin = Origin::start(|peer| {
        peer.request_head();
        peer.send("HTTP/1.1 503 Early\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        while peer.fill() {}
    });
    let world = world(&origin, retry(&[503], 50, 1));
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n");
    // Less than is kept arrives between two tries, so that only the sum is too much.
    let mut sent = 0;
    let sender = std::thread::spawn({
        let mut client = crate::harness::Peer::new(client.stream.try_clone().unwrap());
        move || {
            while sent < 1_000_000 {
                client.send("x".repeat(10_000));
                sent += 10_000;
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    assert_eq!(client.response().status, 503);
    sender.join().unwrap();
    assert!(origin.requests() < 51, "{}", origin.requests());
}

#[test]
fn another_endpoint_is_preferred_for_another_try() {
    let (bad, good) = (Origin::always(UNAVAILABLE), Origin::named("good"));
    let world = world_of(&[bad.address, good.address], retry(&[503], 1, 1), Limits::default());
    let mut client = world.client();
    for n in 0..30 {
        assert_eq!(client.get("/").status, 200, "request {n}");
    }
    assert_eq!(good.requests(), 30);
    assert!(bad.requests() >= 10);
}

#[test]
fn a_try_that_takes_too_long_counts_where_504_is_named() {
    for (codes, status, tries) in [(&[504][..], 200, 3), (&[503], 504, 1)] {
        let seen = AtomicUsize::new(0);
        let origin = Origin::start(move |peer| {
            while peer.request().is_some() {
                if seen.fetch_add(1, Ordering::Relaxed) >= 2 {
                    peer.send(ok("third"));
                }
            }
        });
        let timed = HttpRule { backend_request_timeout_ms: 150, ..retry(codes, 2, 1) };
        let world = world(&origin, timed);
        assert_eq!(world.client().get("/").status, status);
        assert_eq!(origin.requests(), tries, "each try has the time of its own");
    }
}

#[test]
fn the_requests_own_time_covers_all_tries_and_ends_them_at_once() {
    let origin = Origin::always(UNAVAILABLE);
    // The next try would begin after the time is up.
    let timed = HttpRule { request_timeout_ms: 300, ..retry(&[503], 5, 5_000) };
    let world = world(&origin, timed);
    let began = Instant::now();
    let response = world.client().get("/");
    assert_eq!(response.status, 504);
    assert!((300..2_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(origin.requests(), 1);
    world.expect_failures("request_timeout", 1);
}

#[test]
fn no_try_begins_before_the_backoff_is_over() {
    let origin = Origin::always(UNAVAILABLE);
    let world = world(&origin, retry(&[503], 3, 100));
    let began = Instant::now();
    assert_eq!(world.client().get("/").status, 503);
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    assert_eq!(origin.requests(), 4);
}

#[test]
fn a_client_that_resets_its_connection_ends_the_wait_for_the_next_try() {
    let origin = Origin::always(UNAVAILABLE);
    let world = world(&origin, retry(&[503], 3, 3_600_000));
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    crate::harness::eventually("the first try has failed", || origin.requests() == 1);
    socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    world.expect_failures("client_gone", 1);
    assert_eq!(origin.requests(), 1);
}

#[test]
fn a_client_that_has_said_all_it_will_still_gets_the_answer_of_the_next_try() {
    let origin = fails_first(1, UNAVAILABLE);
    let world = world(&origin, retry(&[503], 1, 100));
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    client.finish_sending();
    assert_eq!(client.response().status, 200);
}

#[test]
fn a_request_that_comes_during_the_wait_is_answered_next() {
    let origin = fails_first(1, UNAVAILABLE);
    let world = world(&origin, retry(&[503], 1, 100));
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\none");
    crate::harness::eventually("the first try has failed", || origin.requests() == 1);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\ntwo");
    assert_eq!((client.response().text(), client.response().text()), ("one", "two"));
}

#[test]
fn nothing_is_tried_again_once_the_client_has_seen_anything() {
    let origin =
        Origin::always("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
    let world = world(&origin, retry(&[503], 3, 1));
    let mut client = world.client();
    assert_eq!(client.get("/").status, 103);
    assert_eq!(client.response().status, 503);
    assert_eq!(origin.requests(), 1);
}

fn budgeted(address: std::net::SocketAddr, budget: RetryBudget) -> Vec<Resource> {
    let [_, endpoints] = backend("a", &[address]);
    let backend = Backend {
        key: "backend/default/a/80".into(),
        namespace: "default".into(),
        service: "a".into(),
        port: 80,
        retry_budget: Some(budget),
        ..Backend::default()
    };
    vec![Resource { body: Some(Body::Backend(backend)) }, endpoints]
}

#[test]
fn beyond_the_retry_budget_of_a_backend_the_client_gets_a_503() {
    let origin = Origin::always("HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\noops");
    let world = World::start(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
    let budget = RetryBudget {
        percent: 0,
        interval_ms: 3_600_000,
        min_retry_count: 3,
        min_retry_interval_ms: 3_600_000,
    };
    let mut resources = budgeted(origin.address, budget);
    // One budget, whatever the route.
    for name in ["r", "s"] {
        let rule = HttpRule {
            retry: retry(&[500], 2, 1).retry,
            backends: vec![to("a", 1)],
            ..rule(&format!("/{name}"))
        };
        resources.push(world.route(name, rule));
    }
    assert_eq!(world.apply(resources).rejected, []);
    let mut client = world.client();
    // Two retries of three.
    let first = client.get("/r");
    assert_eq!((first.status, first.text(), origin.requests()), (500, "oops", 3));
    // The third, and one too many.
    let second = client.get("/s");
    assert_eq!((second.status, origin.requests()), (503, 5));
    let third = client.get("/r");
    assert_eq!((third.status, origin.requests()), (503, 6));
    assert_eq!(world.metric("weir_proxy_retries_refused_total"), 2);
    world.expect_failures("retry_budget", 2);
}

#[test]
fn a_share_of_the_traffic_may_be_retries() {
    let failing = AtomicUsize::new(0);
    let origin = Origin::start(move |peer| {
        while let Some((head, _)) = peer.request() {
            if head.starts_with("GET /bad") {
                failing.fetch_add(1, Ordering::Relaxed);
                peer.send(UNAVAILABLE);
            } else {
                peer.send(ok("a"));
            }
        }
    });
    let world = World::start(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
    let budget =
        RetryBudget { percent: 20, interval_ms: 3_600_000, min_retry_count: 0, min_retry_interval_ms: 1_000 };
    let mut resources = budgeted(origin.address, budget);
    resources.push(world.route("r", HttpRule { backends: vec![to("a", 1)], ..retry(&[503], 100, 1) }));
    assert_eq!(world.apply(resources).rejected, []);
    let mut client = world.client();
    for _ in 0..79 {
        assert_eq!(client.get("/good").status, 200);
    }
    // 80 requests and 20 retries: a fifth of 100.
    assert_eq!(client.get("/bad").status, 503);
    assert_eq!(origin.requests(), 100);
}

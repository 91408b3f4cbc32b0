//! The split as clients see it: exact counts, however they come.

use std::net::SocketAddr;

use weir_model::resource::{HttpRule, WeightedBackend};
use weir_proxy::ProxyConfig;

use crate::harness::*;

fn config(workers: usize) -> ProxyConfig {
    ProxyConfig { workers: Some(workers), seed: 42, ..ProxyConfig::default() }
}

struct Split {
    world: World,
    origins: Vec<Origin>,
}

impl Split {
    fn start(weights: &[u32]) -> Split {
        let origins: Vec<_> = (0..weights.len()).map(|n| Origin::named(&n.to_string())).collect();
        let world = World::start(config(2));
        let backends: Vec<_> =
            origins.iter().zip(weights).map(|(origin, weight)| (origin.address, *weight)).collect();
        world.serve(&backends);
        Split { world, origins }
    }

    fn served(&self) -> Vec<u64> {
        self.origins.iter().map(Origin::requests).collect()
    }
}

const WEIGHTS: [&[u32]; 4] = [&[1, 1], &[5, 3, 2], &[7, 0, 3], &[2, 1]];

fn expected(weights: &[u32], periods: u64) -> Vec<u64> {
    weights.iter().map(|weight| u64::from(*weight) * periods).collect()
}

fn total(weights: &[u32]) -> u64 {
    weights.iter().map(|weight| u64::from(*weight)).sum()
}

#[test]
fn counts_are_exact_over_one_connection() {
    for weights in WEIGHTS {
        let split = Split::start(weights);
        let mut client = split.world.client();
        for _ in 0..10 * total(weights) {
            assert_eq!(client.get("/").status, 200);
        }
        assert_eq!(split.served(), expected(weights, 10));
    }
}

#[test]
fn counts_are_exact_over_separate_connections() {
    for weights in WEIGHTS {
        let split = Split::start(weights);
        for _ in 0..10 * total(weights) {
            assert_eq!(split.world.client().get("/").status, 200);
        }
        assert_eq!(split.served(), expected(weights, 10));
    }
}

#[test]
fn counts_are_exact_over_parallel_connections_to_all_workers() {
    for weights in WEIGHTS {
        let split = Split::start(weights);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut client = split.world.client();
                    for _ in 0..5 * total(weights) {
                        assert_eq!(client.get("/").status, 200);
                    }
                });
            }
        });
        assert_eq!(split.served(), expected(weights, 40));
    }
}

#[test]
fn counts_are_exact_for_sixteen_backends() {
    let weights: Vec<u32> = (1..=16).collect();
    let split = Split::start(&weights);
    let mut client = split.world.client();
    for _ in 0..2 * total(&weights) {
        client.get("/");
    }
    assert_eq!(split.served(), expected(&weights, 2));
}

#[test]
fn a_new_weighting_is_exact_from_its_first_request() {
    let split = Split::start(&[1, 1]);
    let addresses: Vec<SocketAddr> = split.origins.iter().map(|origin| origin.address).collect();
    let mut client = split.world.client();
    for _ in 0..200 {
        client.get("/");
    }
    assert_eq!(split.served(), [100, 100]);
    split.world.serve(&[(addresses[0], 200), (addresses[1], 100)]);
    for _ in 0..200 {
        client.get("/");
    }
    let served = split.served();
    assert!([133, 134].contains(&(served[0] - 100)), "{served:?}");
    let report = &split.world.proxy.splits()[0];
    assert_eq!((report.tickets, report.period), (200, 3));
    assert_eq!(report.backends.iter().map(|b| b.served_total).collect::<Vec<_>>(), served);
}

#[test]
fn pods_that_come_and_go_do_not_bend_the_split() {
    let split = Split::start(&[1, 1]);
    let more: Vec<_> = (0..20).map(|_| Origin::named("1")).collect();
    let mut client = split.world.client();
    for round in 0..20 {
        let addresses: Vec<SocketAddr> = more[..=round].iter().map(|origin| origin.address).collect();
        split.world.apply(vec![endpoints("b1", &addresses)]);
        for _ in 0..10 {
            assert_eq!(client.get("/").status, 200);
        }
    }
    assert_eq!(split.origins[0].requests(), 100);
    assert_eq!(split.served()[1] + more.iter().map(Origin::requests).sum::<u64>(), 100);
}

#[test]
fn an_invalid_backend_keeps_its_share_and_answers_500() {
    let origin = Origin::named("ok");
    let world = World::start(config(1));
    let mut resources = backend("good", &[origin.address]).to_vec();
    let invalid = WeightedBackend { invalid_reason: "BackendNotFound".into(), ..to("missing", 1) };
    let rule = HttpRule { backends: vec![to("good", 3), invalid], ..rule("/") };
    resources.push(world.route("r", rule));
    world.apply(resources);
    let mut client = world.client();
    for _ in 0..10 {
        let statuses: Vec<u16> = (0..4).map(|_| client.get("/").status).collect();
        assert_eq!(statuses.iter().filter(|status| **status == 500).count(), 1, "{statuses:?}");
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 3, "{statuses:?}");
    }
    world.expect_failures("invalid_backend", 10);
    let response = loop {
        let response = client.get("/");
        if response.status == 500 {
            break response;
        }
    };
    assert_eq!(response.text(), r#"{"message":"An unexpected error occurred"}"#);
    assert_eq!(response.field("connection"), Some("keep-alive"));
}

#[test]
fn a_rule_that_leads_nowhere_answers_500() {
    let origin = Origin::named("never");
    let world = World::start(config(1));
    let mut resources = backend("zero", &[origin.address]).to_vec();
    let nothing = HttpRule { backends: vec![], ..rule("/none") };
    let zero = HttpRule { backends: vec![to("zero", 0)], ..rule("/zero") };
    resources.push(route("r", &[(world.address.ip(), world.address.port())], vec![nothing, zero]));
    world.apply(resources);
    let mut client = world.client();
    assert_eq!([client.get("/none").status, client.get("/zero").status], [500, 500]);
    assert_eq!(origin.requests(), 0);
    world.expect_failures("no_backends", 2);
}

#[test]
fn served_counts_are_there_to_compare() {
    let split = Split::start(&[3, 1]);
    let mut client = split.world.client();
    for _ in 0..8 {
        client.get("/");
    }
    let series = |backend: &str| {
        format!(
            "weir_proxy_backend_requests_total{{route=\"default/r\",rule=\"0\",backend=\"backend/default/{backend}/80\"}}"
        )
    };
    assert_eq!((split.world.metric(&series("b0")), split.world.metric(&series("b1"))), (6, 2));
    let report = &split.world.proxy.splits()[0];
    assert_eq!(report.backends.iter().map(|b| (b.weight, b.served)).collect::<Vec<_>>(), [(3, 6), (1, 2)]);
    assert!(report.max_deviation < 1.0);
}

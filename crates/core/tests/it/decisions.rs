//! Random objects through translation and compilation, and random requests to what comes out, against a naive reading
//! of the API's text ([`crate::oracle`]).
//!
//! `WEIR_DECISIONS` says how many requests (100,000 by default), `WEIR_DECISIONS_SEED` with which seed to begin. A difference names the
//! seed of its world.

use serde_json::{Value, json};
use weir_model::resource::{Body, Update};
use weir_model::select::{NoProbe, RequestView, Selected, SelectedHttps, select, select_https};
use weir_model::table::{BindAddress, BindKind, Snapshot};

use crate::oracle::{
    Answer, Backend, Cluster, From, Gateway, Grant, Listener, Match, Parent, Request, Route, Rule, Set,
};
use crate::world::{World, certificate, read};

const REQUESTS_DEFAULT: u64 = 100_000;
/// Requests to each world.
const REQUESTS_A_WORLD: u64 = 500;

/// One begins with another and goes on with a character before the slash, which tells an order of names from one of paths.
const NAMESPACES: [&str; 3] = ["a", "a-b", "b"];
const SERVICES: [&str; 3] = ["s0", "s1", "s2"];
/// Of HTTPRoutes.
const HOSTNAMES: [&str; 7] =
    ["*.example.com", "a.example.com", "*.a.example.com", "b.a.example.com", "*.com", "x.org", "*.org"];
/// Of GRPCRoutes, where there are HTTPRoutes too.
const CALLED: [&str; 4] = ["*.rpc.test", "a.rpc.test", "*.a.rpc.test", "b.a.rpc.test"];
const HOSTS: [&str; 12] = [
    "a.example.com",
    "b.a.example.com",
    "c.b.a.example.com",
    "example.com",
    "z.example.com",
    "x.org",
    "y.x.org",
    "other.test",
    "a.rpc.test",
    "b.a.rpc.test",
    "z.rpc.test",
    "rpc.test",
];
const SEGMENTS: [&str; 3] = ["p", "q", "pq"];
const PORTS: [u16; 3] = [80, 8080, 443];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        usize::try_from(z % u64::try_from(bound).unwrap()).unwrap()
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// So many, each by its index.
    fn some<T>(
        &mut self,
        least: usize,
        most: usize,
        mut make: impl FnMut(&mut Random, usize) -> T,
    ) -> Vec<T> {
        let count = least + self.below(most - least + 1);
        (0..count).map(|index| make(self, index)).collect()
    }
}

fn cluster(random: &mut Random) -> Cluster {
    let namespaces = NAMESPACES.map(|name| (name, random.pick(&["x", "y"]))).to_vec();
    let gateways = random.some(1, 2, |random, index| Gateway {
        namespace: random.pick(&NAMESPACES),
        name: format!("g{index}"),
        listeners: listeners(random, 4),
        allowed_sets: random.pick(&[From::All, From::All, From::Same, From::Team("x"), From::None]),
    });
    let sets = random.some(0, 3, |random, index| {
        let of = random.below(gateways.len());
        Set {
            namespace: random.pick(&NAMESPACES),
            // Equal names in several namespaces.
            name: format!("s{}", index / 2),
            created: u32::try_from(random.below(2)).unwrap(),
            parent: (gateways[of].namespace, gateways[of].name.clone()),
            listeners: listeners(random, 3),
        }
    });
    let mut sets: Vec<Set> = sets;
    sets.dedup_by(|a, b| (a.namespace, &a.name) == (b.namespace, &b.name));
    let both_kinds = random.one_in(2);
    let all_grpc = !both_kinds && random.one_in(3);
    let routes = random.some(4, 12, |random, index| {
        let is_grpc = all_grpc || (both_kinds && random.one_in(3));
        route(random, index, is_grpc, both_kinds, &gateways, &sets)
    });
    Cluster {
        namespaces,
        routes,
        grants: random.some(0, 3, |random, _| Grant {
            namespace: random.pick(&NAMESPACES),
            from: (random.pick(&["HTTPRoute", "HTTPRoute", "GRPCRoute"]), random.pick(&NAMESPACES)),
            to: random.pick(&[None, Some("s0"), Some("s1")]),
        }),
        services: NAMESPACES
            .iter()
            .flat_map(|namespace| SERVICES.map(|name| (*namespace, name)))
            .filter(|_| !random.one_in(4))
            .collect(),
        gateways,
        sets,
    }
}

/// Distinct ones, as the API demands of those of one owner.
fn listeners(random: &mut Random, most: usize) -> Vec<Listener> {
    let hostnames = [&HOSTNAMES[..], &CALLED[..], &["", "", ""]].concat();
    let mut all: Vec<Listener> = random.some(1, most, |random, index| Listener {
        name: format!("l{index}"),
        port: random.pick(&PORTS),
        hostname: random.pick(&hostnames),
        from: match random.below(8) {
            0 => From::Same,
            1 => From::Team("x"),
            2 => From::Team("y"),
            _ => From::All,
        },
        kinds: match random.below(8) {
            0 => vec!["HTTPRoute"],
            1 => vec!["GRPCRoute"],
            2 => vec!["GRPCRoute", "HTTPRoute"],
            _ => Vec::new(),
        },
    });
    let mut seen = Vec::new();
    all.retain(|one| {
        let is_new = !seen.contains(&(one.port, one.hostname));
        seen.push((one.port, one.hostname));
        is_new
    });
    all
}

fn route(
    random: &mut Random,
    index: usize,
    is_grpc: bool,
    both_kinds: bool,
    gateways: &[Gateway],
    sets: &[Set],
) -> Route {
    // Kinds that share a listener keep to hostnames of their own here.
    let hostnames: &[&str] = if is_grpc && both_kinds { &CALLED } else { &HOSTNAMES };
    Route {
        kind: if is_grpc { "GRPCRoute" } else { "HTTPRoute" },
        namespace: random.pick(&NAMESPACES),
        name: format!("r{index}"),
        created: u32::try_from(random.below(3)).unwrap(),
        parents: random.some(1, 3, |random, _| parent(random, gateways, sets)),
        hostnames: random.some(usize::from(both_kinds), 3, |random, _| random.pick(hostnames)),
        rules: random.some(1, 3, |random, _| Rule {
            matches: random.some(0, 3, |random, _| if is_grpc { call(random) } else { one_match(random) }),
            backends: random.some(0, 3, |random, _| Backend {
                kind: if random.one_in(12) { "Other" } else { "Service" },
                namespace: random.one_in(2).then(|| random.pick(&NAMESPACES)),
                name: random.pick(&SERVICES),
                port: random.pick(&[Some(80), Some(80), Some(80), Some(80), Some(81), None]),
                weight: u32::try_from(random.below(4)).unwrap(),
            }),
        }),
    }
}

fn parent(random: &mut Random, gateways: &[Gateway], sets: &[Set]) -> Parent {
    let set = (!sets.is_empty() && random.one_in(3)).then(|| &sets[random.below(sets.len())]);
    let gateway = &gateways[random.below(gateways.len())];
    let (kind, namespace, name) = match set {
        Some(set) => ("ListenerSet", set.namespace, set.name.clone()),
        None => ("Gateway", gateway.namespace, gateway.name.clone()),
    };
    Parent {
        kind,
        // Without one the route's own is meant, which may or may not have such an object.
        namespace: (!random.one_in(12)).then_some(namespace),
        name,
        section: random.one_in(8).then(|| format!("l{}", random.below(3))),
        port: random.one_in(10).then(|| random.pick(&PORTS)),
    }
}

fn path(random: &mut Random) -> String {
    let mut path = String::new();
    for _ in 0..1 + random.below(2) + random.below(2) {
        path.push('/');
        path.push_str(random.pick(&SEGMENTS));
    }
    path
}

fn values(random: &mut Random, names: &[&'static str]) -> Vec<(&'static str, &'static str)> {
    let mut values: Vec<(&'static str, &'static str)> = Vec::new();
    while random.one_in(4) && values.len() < 3 {
        let name = random.pick(names);
        if values.iter().all(|(other, _)| *other != name) {
            values.push((name, random.pick(&["1", "2"])));
        }
    }
    values
}

fn one_match(random: &mut Random) -> Match {
    Match {
        path: match random.below(8) {
            0 | 1 => None,
            2 => Some((false, "/".to_owned())),
            3 | 4 => Some((true, path(random))),
            _ => Some((false, path(random))),
        },
        method: random.one_in(4).then(|| random.pick(&["GET", "POST"])),
        // Equal names in another case: only the first counts.
        headers: values(random, &["x", "y", "X"]),
        query: values(random, &["u", "v"]),
        ..Match::default()
    }
}

fn call(random: &mut Random) -> Match {
    let call = match random.below(4) {
        0 => (None, None),
        1 => (Some(random.pick(&SEGMENTS)), None),
        2 => (None, Some(random.pick(&SEGMENTS))),
        _ => (Some(random.pick(&SEGMENTS)), Some(random.pick(&SEGMENTS))),
    };
    Match { call, headers: values(random, &["x", "y", "X"]), ..Match::default() }
}

fn request(random: &mut Random, cluster: &Cluster) -> Request {
    let gateway = random.below(cluster.gateways.len());
    let port = random.pick(&PORTS);
    // Mostly to where somebody listens, and for what is served there.
    let mut aims: Vec<(u16, &str)> =
        cluster.gateways[gateway].listeners.iter().map(|one| (one.port, one.hostname)).collect();
    let sets = cluster.sets.iter().flat_map(|set| &set.listeners);
    aims.extend(sets.map(|one| (one.port, one.hostname)));
    let (port, aim) = if random.one_in(10) { (port, "") } else { random.pick(&aims) };
    let fitting: Vec<&'static str> =
        HOSTS.into_iter().filter(|host| host.ends_with(aim.trim_start_matches('*'))).collect();
    let host = if random.one_in(8) { random.pick(&HOSTS) } else { random.pick(&fitting) };
    let server_name = if random.one_in(4) { random.pick(&HOSTS) } else { host };
    let mut headers = values(random, &["x", "y"]);
    // A field once: what several lines of it mean is not what is asked here.
    headers.dedup_by_key(|(name, _)| *name);
    Request {
        gateway,
        port,
        server_name: (port == 443).then_some(server_name),
        host,
        path: if host.ends_with("rpc.test") || cluster.routes.iter().all(|route| route.kind == "GRPCRoute") {
            format!("/{}/{}", random.pick(&SEGMENTS), random.pick(&SEGMENTS))
        } else {
            path(random)
        },
        method: random.pick(&["GET", "POST", "DELETE"]),
        query: values(random, &["u", "v"]),
        headers,
    }
}

/// What the API would hand out.
fn objects(cluster: &Cluster, pair: &(String, String)) -> Vec<Value> {
    use base64::Engine as _;
    let coded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let group = "gateway.networking.k8s.io";
    let mut all = vec![json!({"kind": "GatewayClass", "metadata": {"name": "weir"},
        "spec": {"controllerName": "weir.dev/gateway-controller"}})];
    for (name, team) in &cluster.namespaces {
        all.push(json!({"kind": "Namespace", "metadata": {"name": name, "labels": {"team": team}}}));
        all.push(json!({"kind": "Secret", "metadata": {"namespace": name, "name": "pair"}, "type": "kubernetes.io/tls",
            "data": {"tls.crt": coded(&pair.0), "tls.key": coded(&pair.1)}}));
    }
    for gateway in &cluster.gateways {
        all.push(
            json!({"kind": "Gateway", "metadata": {"namespace": gateway.namespace, "name": gateway.name},
            "spec": {"gatewayClassName": "weir", "listeners": written(&gateway.listeners),
                "allowedListeners": {"namespaces": selection(gateway.allowed_sets)}}}),
        );
    }
    for set in &cluster.sets {
        all.push(json!({"kind": "ListenerSet", "metadata": {"namespace": set.namespace, "name": set.name,
                "creationTimestamp": at(set.created)},
            "spec": {"parentRef": {"namespace": set.parent.0, "name": set.parent.1}, "listeners": written(&set.listeners)}}));
    }
    for route in &cluster.routes {
        let parents: Vec<Value> = route
            .parents
            .iter()
            .map(|parent| {
                json!({"kind": parent.kind, "namespace": parent.namespace, "name": parent.name,
                    "sectionName": parent.section, "port": parent.port})
            })
            .collect();
        let rules: Vec<Value> = route.rules.iter().map(|rule| written_rule(route.kind, rule)).collect();
        all.push(json!({"kind": route.kind, "metadata": {"namespace": route.namespace, "name": route.name,
                "uid": format!("{}-{}", route.namespace, route.name), "creationTimestamp": at(route.created)},
            "spec": {"parentRefs": parents, "hostnames": route.hostnames, "rules": rules}}));
    }
    for (index, grant) in cluster.grants.iter().enumerate() {
        all.push(json!({"kind": "ReferenceGrant", "metadata": {"namespace": grant.namespace, "name": format!("g{index}")},
            "spec": {"from": [{"group": group, "kind": grant.from.0, "namespace": grant.from.1}],
                "to": [{"group": "", "kind": "Service", "name": grant.to}]}}));
    }
    for (namespace, name) in &cluster.services {
        all.push(json!({"kind": "Service", "metadata": {"namespace": namespace, "name": name},
            "spec": {"ports": [{"port": 80}]}}));
    }
    all
}

fn at(created: u32) -> String {
    format!("2024-01-01T00:00:{created:02}Z")
}

fn selection(from: From) -> Value {
    match from {
        From::All => json!({"from": "All"}),
        From::Same => json!({"from": "Same"}),
        From::Team(team) => json!({"from": "Selector", "selector": {"matchLabels": {"team": team}}}),
        From::None => json!({"from": "None"}),
    }
}

fn written(listeners: &[Listener]) -> Vec<Value> {
    let one = |listener: &Listener| {
        let kinds: Vec<Value> = listener.kinds.iter().map(|kind| json!({"kind": kind})).collect();
        let is_tls = listener.port == 443;
        json!({"name": listener.name, "port": listener.port,
            "protocol": if is_tls { "HTTPS" } else { "HTTP" },
            "hostname": if listener.hostname.is_empty() { Value::Null } else { json!(listener.hostname) },
            "tls": if is_tls { json!({"certificateRefs": [{"name": "pair"}]}) } else { Value::Null },
            "allowedRoutes": {"namespaces": selection(listener.from), "kinds": kinds}})
    };
    listeners.iter().map(one).collect()
}

fn written_rule(kind: &str, rule: &Rule) -> Value {
    let named = |values: &[(&str, &str)]| -> Vec<Value> {
        values.iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
    };
    let matches: Vec<Value> = rule
        .matches
        .iter()
        .map(|one| {
            let (service, method) = one.call;
            if kind == "GRPCRoute" {
                let method = (one.call != (None, None)).then(|| json!({"service": service, "method": method}));
                return json!({"method": method, "headers": named(&one.headers)});
            }
            let path = one.path.as_ref().map(|(is_exact, path)| {
                json!({"type": if *is_exact { "Exact" } else { "PathPrefix" }, "value": path})
            });
            json!({"path": path, "method": one.method, "headers": named(&one.headers), "queryParams": named(&one.query)})
        })
        .collect();
    let backends: Vec<Value> = rule
        .backends
        .iter()
        .map(|backend| {
            json!({"kind": backend.kind, "namespace": backend.namespace, "name": backend.name,
                "port": backend.port, "weight": backend.weight})
        })
        .collect();
    json!({"matches": matches, "backendRefs": backends})
}

/// A cluster as it is served, with the addresses of its Gateways.
struct Served {
    snapshot: Snapshot,
    addresses: Vec<Option<std::net::IpAddr>>,
}

fn serve(cluster: &Cluster, pair: &(String, String)) -> Served {
    let mut world = World::new();
    for json in objects(cluster, pair) {
        world.objects.upsert(read(json));
    }
    world.settle();
    let upserts: Vec<_> = world.translator.resources().cloned().collect();
    let address = |gateway: &Gateway| {
        let path = format!("{}/{}", gateway.namespace, gateway.name);
        upserts.iter().find_map(|resource| match &resource.body {
            Some(Body::Listener(listener)) if listener.gateway == path => listener.address.parse().ok(),
            _ => None,
        })
    };
    let addresses = cluster.gateways.iter().map(address).collect();
    let (snapshot, rejected) = Snapshot::empty(0).apply(&Update { full: true, upserts, ..Update::default() });
    assert_eq!(rejected, []);
    Served { snapshot, addresses }
}

impl Served {
    fn answer(&self, cluster: &Cluster, request: &Request) -> Answer {
        let bind = self.addresses[request.gateway]
            .and_then(|ip| self.snapshot.bind(&BindAddress::tcp(ip, request.port)));
        let Some(bind) = bind else { return Answer::NotFound };
        let query: Vec<String> =
            request.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let query = (!query.is_empty()).then(|| query.join("&"));
        let view = RequestView {
            method: request.method.as_bytes(),
            host: request.host.as_bytes(),
            path: request.path.as_bytes(),
            query: query.as_ref().map(String::as_bytes),
            headers: &request.headers,
        };
        let gateway = &cluster.gateways[request.gateway];
        let of =
            |selected: Option<Selected<'_>>| selected.map_or(Answer::NotFound, |one| said(&one, gateway));
        if bind.kind() != BindKind::Tls {
            return of(select(bind, &view, &mut NoProbe));
        }
        match select_https(bind, request.server_name.map(str::as_bytes), &view, &mut NoProbe) {
            SelectedHttps::Rule(selected) => of(Some(selected)),
            SelectedHttps::Misdirected => Answer::Misdirected,
            SelectedHttps::NotFound => Answer::NotFound,
        }
    }
}

fn said(selected: &Selected<'_>, gateway: &Gateway) -> Answer {
    let rule = selected.rule;
    let prefix = format!("listener/{}/{}/", gateway.namespace, gateway.name);
    let backends = rule.backends.iter();
    Answer::Rule {
        route: format!("{}/{}", rule.kind.name(), rule.route),
        rule: rule.index,
        alternative: selected.alternative,
        listener: selected.listener.key.strip_prefix(&prefix).unwrap().to_owned(),
        backends: backends.map(|one| (one.weight, one.invalid_reason().is_empty())).collect(),
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn requests_are_answered_as_a_naive_reading_of_the_api_says() {
    let requests = number("WEIR_DECISIONS").unwrap_or(REQUESTS_DEFAULT);
    let first = number("WEIR_DECISIONS_SEED").unwrap_or(1);
    let pair = certificate(&["example.com"]);
    let worlds = requests.div_ceil(REQUESTS_A_WORLD);
    println!("{requests} requests, seeds {first} to {}", first + worlds - 1);
    let mut counts = [0_u64; 3];
    let mut asked = 0;
    for seed in first..first + worlds {
        let mut random = Random(seed);
        let cluster = cluster(&mut random);
        let served = serve(&cluster, &pair);
        let mut left = REQUESTS_A_WORLD.min(requests - asked);
        while left > 0 {
            let request = request(&mut random, &cluster);
            // A greeting that leads to no listener ends before there is a request.
            if !cluster.greets(&request) {
                left -= 1;
                asked += 1;
                continue;
            }
            let (wanted, got) = (cluster.answer(&request), served.answer(&cluster, &request));
            assert_eq!(got, wanted, "seed {seed}: {request:?}\n{}", shown(&cluster));
            counts[match got {
                Answer::Rule { .. } => 0,
                Answer::NotFound => 1,
                Answer::Misdirected => 2,
            }] += 1;
            left -= 1;
            asked += 1;
        }
    }
    println!("rules {}, none {}, misdirected {}", counts[0], counts[1], counts[2]);
    // A comparison of nothing with nothing would hold too.
    assert!(
        counts[0] * 5 > requests && counts[1] * 20 > requests && counts[2] * 100 > requests,
        "{counts:?}"
    );
}

fn shown(cluster: &Cluster) -> String {
    let pair = (String::new(), String::new());
    let all: Vec<String> = objects(cluster, &pair).iter().map(ToString::to_string).collect();
    all.join("\n")
}

//! What a Gateway's parameters and a backend's policy set, on sockets, and that their changes are live.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use weir_model::resource::{
    AccessLogMode, Body, HttpRule, LimitSetting, Networks, Parameters, Resource, SessionKey,
    SessionPersistence, Update,
};
use weir_proxy::{AccessEntry, AccessLog, AccessSink, ProxyConfig};

use crate::harness::{Origin, PATIENCE, Response, World, backend, eventually, listener, ok, rule, to};

fn set(name: &str, value: u64) -> LimitSetting {
    LimitSetting { name: name.to_owned(), value }
}

fn limits(limits: &[(&str, u64)]) -> Parameters {
    let limits = limits.iter().map(|(name, value)| set(name, *value)).collect();
    Parameters { limits, ..Parameters::default() }
}

/// The world's listener with these parameters.
fn parameters(world: &World, parameters: Parameters) {
    let mut resource = listener(world.address.ip(), world.address.port());
    if let Some(Body::Listener(listener)) = &mut resource.body {
        listener.parameters = Some(parameters);
    }
    assert_eq!(world.apply(vec![resource]).rejected, []);
}

/// The backend of [`World::serve`] with these limits.
fn policy(world: &World, origin: &Origin, limits: &[(&str, u64)]) {
    let [mut resource, _] = backend("b0", &[origin.address]);
    if let Some(Body::Backend(backend)) = &mut resource.body {
        backend.limits = limits.iter().map(|(name, value)| set(name, *value)).collect();
    }
    assert_eq!(world.apply(vec![resource]).rejected, []);
}

/// Sends a head, and then nothing, for as long as the connection is there.
fn mute() -> Origin {
    Origin::start(|peer| while peer.request().is_some() {})
}

#[test]
fn a_policys_time_for_the_head_and_for_the_whole_request_hold_and_change_live() {
    let origin = mute();
    let world = World::to(&origin);
    let mut client = world.client();
    for (name, reason) in
        [("upstream_response_timeout", "upstream_timeout"), ("upstream_request_timeout", "request_timeout")]
    {
        policy(&world, &origin, &[(name, 60)]);
        let began = Instant::now();
        let response = client.get("/");
        assert_eq!(response.status, 504, "{name}");
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(60) && took < PATIENCE / 2, "{name}: {took:?}");
        world.expect_failures(reason, 1);
    }
}

#[test]
fn of_a_policys_two_times_the_earlier_ends_a_request_and_a_rules_own_time_takes_their_place() {
    let origin = mute();
    let world = World::to(&origin);
    policy(&world, &origin, &[("upstream_response_timeout", 60), ("upstream_request_timeout", 60_000)]);
    assert_eq!(world.client().get("/").status, 504);
    world.expect_failures("upstream_timeout", 1);
    let own = HttpRule { backends: vec![to("b0", 1)], request_timeout_ms: 200, ..rule("/") };
    world.apply(vec![world.route("r", own)]);
    let began = Instant::now();
    assert_eq!(world.client().get("/").status, 504);
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    world.expect_failures("request_timeout", 1);
}

#[test]
fn a_policy_bounds_connections_retries_and_the_heads_of_answers() {
    let long = format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(3_000));
    let origin = Origin::start(move |peer| {
        while peer.request().is_some() {
            peer.send(&long);
        }
    });
    let world = World::to(&origin);
    let mut client = world.client();
    assert_eq!(client.get("/").status, 200);
    policy(&world, &origin, &[("head_bytes", 2_048), ("upstream_idle_per_endpoint", 0)]);
    assert_eq!(client.get("/").status, 502, "the endpoint's head is too large now");
    policy(&world, &origin, &[("upstream_idle_per_endpoint", 0)]);
    let before = origin.connections();
    for _ in 0..3 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(origin.connections(), before + 3, "no connection is kept");
}

#[test]
fn a_policy_without_a_hold_answers_at_once() {
    let origin = Origin::named("a");
    let world = World::to(&origin);
    assert_eq!(world.client().get("/").text(), "a");
    policy(&world, &origin, &[("endpoint_hold", 0)]);
    world.apply(vec![crate::harness::endpoints("b0", &[])]);
    let began = Instant::now();
    assert_eq!(world.client().get("/").status, 503);
    assert!(began.elapsed() < Duration::from_millis(800), "{:?}", began.elapsed());
    policy(&world, &origin, &[("endpoint_hold", 60_000)]);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("the request is held", || world.metric("weir_proxy_held_total") >= 1);
    world.apply(vec![crate::harness::endpoints("b0", &[origin.address])]);
    assert_eq!(client.response().text(), "a");
}

#[test]
fn the_size_of_heads_changes_on_an_open_connection_and_back() {
    let origin = Origin::named("a");
    let world = World::to(&origin);
    let mut client = world.client();
    let request = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(2_000));
    assert_eq!(client.exchange(&request).status, 200);
    parameters(&world, limits(&[("head_bytes", 1_024)]));
    assert_eq!(client.get("/").status, 200, "the connection is not closed for it");
    assert_eq!(client.exchange(&request).status, 431);
    parameters(&world, limits(&[("head_bytes", 4_096)]));
    assert_eq!(world.client().exchange(&request).status, 200);
    parameters(&world, limits(&[("request_body_bytes", 3)]));
    let body = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n1234";
    assert_eq!(world.client().exchange(body).status, 413);
}

#[test]
fn a_stream_outlives_every_change_of_parameters() {
    let origin = Origin::start(|peer| {
        while peer.request_head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            for piece in 0..3 {
                // Goes on when the client says so.
                let line = format!("1\r\n{piece}\r\n");
                peer.send(line);
                let byte = peer.exactly(1);
                assert_eq!(byte, b"+");
            }
            peer.send("0\r\n\r\n");
        }
    });
    let world = World::to(&origin);
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n");
    let head = client.head().expect("the answer begins");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    for (piece, change) in [
        limits(&[("head_bytes", 1_024), ("requests_per_connection", 1)]),
        Parameters { access_log: AccessLogMode::Off as i32, ..limits(&[("idle_timeout", 100)]) },
        Parameters {
            trusted_proxies: Some(Networks { networks: vec!["10.0.0.0/8".into()] }),
            ..Parameters::default()
        },
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(client.line(), "1");
        assert_eq!(client.line(), piece.to_string());
        parameters(&world, change);
        policy(&world, &origin, &[("upstream_response_timeout", 10 + piece as u64)]);
        client.send("+");
    }
    assert_eq!(client.line(), "0");
    assert_eq!(client.line(), "");
    assert_eq!(world.failures("upstream_timeout") + world.failures("listener_gone"), 0);
}

#[test]
fn whom_to_believe_changes_on_an_open_connection() {
    let origin = Origin::named("a");
    let world = World::to(&origin);
    let mut client = world.client();
    let request = "GET / HTTP/1.1\r\nHost: h\r\nX-Real-IP: 192.0.2.7\r\n\r\n";
    let seen = |client: &mut crate::harness::Peer| {
        assert_eq!(client.exchange(request).status, 200);
        crate::harness::fields(&origin.last_head(), "x-real-ip").join("; ")
    };
    let believed = |seen: &str| seen == "192.0.2.7";
    let first = seen(&mut client);
    assert!(!believed(&first) && first.starts_with("127."), "nobody is believed: {first}");
    let trust = |networks: &[&str]| Parameters {
        trusted_proxies: Some(Networks { networks: networks.iter().map(|n| (*n).to_owned()).collect() }),
        ..Parameters::default()
    };
    parameters(&world, trust(&["127.0.0.0/8"]));
    let second = seen(&mut client);
    assert!(believed(&second), "{second}");
    parameters(&world, trust(&[]));
    assert_eq!(seen(&mut client), first, "an empty list believes nobody");
}

#[derive(Default)]
struct Lines(Mutex<Vec<AccessEntry>>);

impl AccessSink for Lines {
    fn entry(&self, entry: AccessEntry) {
        self.0.lock().unwrap().push(entry);
    }
}

#[test]
fn the_access_log_is_switched_on_an_open_connection() {
    let origin = Origin::start(|peer| {
        while let Some((head, _)) = peer.request() {
            let answer = if head.starts_with("GET /bad") {
                "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned()
            } else {
                ok("a")
            };
            peer.send(answer);
        }
    });
    let lines = Arc::new(Lines::default());
    let config = ProxyConfig {
        workers: Some(1),
        access_log: AccessLog::Sink(lines.clone()),
        ..ProxyConfig::default()
    };
    let world = World::with(&origin, config);
    let mut client = world.client();
    let mode = |mode: AccessLogMode| Parameters { access_log: mode as i32, ..Parameters::default() };
    let mut logged = |path: &str| {
        client.get(path);
        // The next request of the connection is read when the one before is over, log line and all.
        client.get("/end");
        let mut lines = lines.0.lock().unwrap();
        let paths: Vec<String> =
            lines.drain(..).map(|line| line.path).filter(|path| path != "/end").collect();
        paths
    };
    assert_eq!(logged("/a"), ["/a"], "as it was started");
    parameters(&world, mode(AccessLogMode::Off));
    assert!(logged("/b").is_empty());
    parameters(&world, mode(AccessLogMode::Errors));
    assert!(logged("/c").is_empty());
    assert_eq!(logged("/bad"), ["/bad"]);
    parameters(&world, mode(AccessLogMode::All));
    assert_eq!(logged("/d"), ["/d"]);
}

fn session_key(byte: u8) -> Resource {
    let key = SessionKey { key: format!("sessionkey/{byte}"), bytes: vec![byte; 32] };
    Resource { body: Some(Body::SessionKey(key)) }
}

fn by_keys(keys: &[u8]) -> Parameters {
    let session_keys = keys.iter().map(|byte| format!("sessionkey/{byte}")).collect();
    Parameters { session_keys, ..Parameters::default() }
}

fn token(response: &Response) -> Option<String> {
    let line = response.field("set-cookie")?;
    Some(line.strip_prefix("weir=").expect("the session's cookie").split(';').next().unwrap().to_owned())
}

#[test]
fn sessions_outlive_a_restart_and_a_change_of_keys_while_the_old_one_is_listed() {
    let origins = [Origin::named("a"), Origin::named("b")];
    let start = |keys: &[u8]| {
        let world = World::start(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
        world.apply(vec![session_key(1), session_key(2)]);
        parameters(&world, by_keys(keys));
        let mut resources: Vec<Resource> = Vec::new();
        for (name, origin) in ["a", "b"].iter().zip(&origins) {
            resources.extend(backend(name, &[origin.address]));
        }
        let session = SessionPersistence { name: "weir".into(), ..SessionPersistence::default() };
        let kept = HttpRule {
            backends: vec![to("a", 1), to("b", 1)],
            session_persistence: Some(session),
            ..rule("/")
        };
        resources.push(world.route("r", kept));
        assert_eq!(world.apply(resources).rejected, []);
        world
    };
    let with = |world: &World, token: &str| {
        world.client().exchange(&format!("GET / HTTP/1.1\r\nHost: h\r\nCookie: weir={token}\r\n\r\n"))
    };
    let first = start(&[1]);
    let answer = first.client().get("/");
    let (name, old) = (answer.text().to_owned(), token(&answer).expect("a new session is told"));
    drop(first);

    let second = start(&[1]);
    for _ in 0..4 {
        let answer = with(&second, &old);
        assert_eq!((answer.text(), token(&answer)), (&*name, None), "the restart is not noticed");
    }
    parameters(&second, by_keys(&[2, 1]));
    let answer = with(&second, &old);
    let new = token(&answer).expect("a token under the new key");
    assert_eq!(answer.text(), name);
    parameters(&second, by_keys(&[2]));
    assert_eq!(
        second.update(Update { removals: vec!["sessionkey/1".into()], ..Update::default() }).rejected,
        []
    );
    for _ in 0..4 {
        let answer = with(&second, &new);
        assert_eq!((answer.text(), token(&answer)), (&*name, None));
    }
    assert!(token(&with(&second, &old)).is_some(), "a key that is not listed opens nothing: a new session");
}

#[test]
fn the_number_of_connections_is_the_only_gateways_own() {
    let origin = Origin::named("a");
    let world = World::to(&origin);
    parameters(&world, limits(&[("client_connections", 1)]));
    let mut first = world.client();
    assert_eq!(first.get("/").text(), "a");
    let mut second = world.client();
    second.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    // The idle one gives way.
    assert_eq!(second.response().text(), "a");
    assert!(first.ends());
    parameters(&world, limits(&[("client_connections", 5)]));
    let (mut third, mut fourth) = (world.client(), world.client());
    for _ in 0..3 {
        assert_eq!((third.get("/").text(), fourth.get("/").text()), ("a", "a"), "there is room for both");
    }
}

#[test]
fn the_times_of_the_end_are_the_gateways() {
    let world = World::start(ProxyConfig::default());
    assert_eq!(world.proxy.drain_times(), [Duration::from_secs(5), Duration::from_secs(30)]);
    parameters(&world, limits(&[("drain_delay", 0), ("drain_timeout", 1_000)]));
    assert_eq!(world.proxy.drain_times(), [Duration::ZERO, Duration::from_secs(1)]);
    let began = Instant::now();
    crate::harness::block_on(world.proxy.end());
    assert!(began.elapsed() < Duration::from_secs(1), "nothing was under way");
}

//! Sessions: the sentences of GEP-1619.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weir_model::resource::{Backend, Body, HttpRule, Resource, SessionPersistence};
use weir_proxy::{ProxyConfig, SessionKey};

use crate::harness::{Origin, PATIENCE, Peer, Response, World, backend, endpoints, eventually, rule, to};

fn cookie() -> SessionPersistence {
    SessionPersistence { name: "weir".into(), ..SessionPersistence::default() }
}

fn config() -> ProxyConfig {
    ProxyConfig { workers: Some(2), ..ProxyConfig::default() }
}

fn kept(backends: &[(&str, u32)], session: SessionPersistence) -> HttpRule {
    HttpRule {
        backends: backends.iter().map(|(name, weight)| to(name, *weight)).collect(),
        session_persistence: Some(session),
        ..rule("/")
    }
}

/// Backends `a`, `b`, ... with these endpoints, and one rule.
fn world(of: &[&[&Origin]], config: ProxyConfig, rule: HttpRule) -> World {
    let world = World::start(config);
    let mut resources = Vec::new();
    for (name, origins) in ["a", "b", "c"].iter().zip(of) {
        let addresses: Vec<SocketAddr> = origins.iter().map(|origin| origin.address).collect();
        resources.extend(backend(name, &addresses));
    }
    resources.push(world.route("r", rule));
    assert_eq!(world.apply(resources).rejected, []);
    world
}

fn token(response: &Response) -> Option<String> {
    let line = response.field("set-cookie")?;
    let value = line.strip_prefix("weir=").expect("the session's cookie");
    Some(value.split(';').next().unwrap().to_owned())
}

fn with(client: &mut Peer, token: &str) -> Response {
    client.exchange(&format!("GET / HTTP/1.1\r\nHost: h\r\nCookie: other=1; weir={token}\r\n\r\n"))
}

fn tickets(world: &World) -> u64 {
    world.proxy.splits().iter().map(|split| split.tickets).sum()
}

#[test]
fn a_session_stays_with_its_endpoint_and_takes_no_ticket() {
    let origins = [Origin::named("a1"), Origin::named("a2"), Origin::named("b1"), Origin::named("b2")];
    let [a1, a2, b1, b2] = &origins;
    let world = world(&[&[a1, a2], &[b1, b2]], config(), kept(&[("a", 1), ("b", 1)], cookie()));
    for _ in 0..6 {
        let mut client = world.client();
        let first = client.get("/");
        let line = first.field("set-cookie").unwrap();
        assert!(line.ends_with("; Path=/; HttpOnly"), "{line}");
        let token = token(&first).expect("a new session is told to the client");
        for _ in 0..10 {
            let mut other = world.client();
            for client in [&mut client, &mut other] {
                let response = with(client, &token);
                assert_eq!(response.text(), first.text());
                assert_eq!(response.field("set-cookie"), None, "a session is told once");
            }
        }
    }
    assert_eq!(tickets(&world), 6);
    eventually("they are counted apart", || world.metric("weir_proxy_session_requests_total") == 120);
}

#[test]
fn new_sessions_follow_the_exact_split() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let world = world(&[&[&a], &[&b]], config(), kept(&[("a", 3), ("b", 1)], cookie()));
    let mut client = world.client();
    for _ in 0..100 {
        let first = client.get("/");
        let token = token(&first).unwrap();
        assert_eq!(with(&mut client, &token).text(), first.text());
    }
    assert_eq!((a.requests(), b.requests()), (150, 50));
}

#[test]
fn a_live_session_wins_even_at_weight_0() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let world = world(&[&[&a], &[&b]], config(), kept(&[("a", 1), ("b", 0)], cookie()));
    let mut client = world.client();
    let token = token(&client.get("/")).unwrap();
    world.apply(vec![world.route("r", kept(&[("a", 0), ("b", 1)], cookie()))]);
    for _ in 0..5 {
        assert_eq!(with(&mut client, &token).text(), "a");
        assert_eq!(client.get("/").text(), "b");
    }
}

#[test]
fn a_header_carries_a_session_where_the_route_says_so() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let session =
        SessionPersistence { name: "X-Session".into(), header: true, ..SessionPersistence::default() };
    let world = world(&[&[&a], &[&b]], config(), kept(&[("a", 1), ("b", 1)], session));
    let mut client = world.client();
    for _ in 0..4 {
        let first = client.get("/");
        assert_eq!(first.field("set-cookie"), None);
        let token = first.field("x-session").unwrap().to_owned();
        for _ in 0..4 {
            let request = format!("GET / HTTP/1.1\r\nHost: h\r\nX-Session: {token}\r\n\r\n");
            assert_eq!(client.exchange(&request).text(), first.text());
        }
    }
    assert_eq!(tickets(&world), 4);
}

#[test]
fn when_the_endpoint_is_gone_a_new_one_is_chosen_by_weight_and_told() {
    let (a1, a2, b) = (Origin::named("a1"), Origin::named("a2"), Origin::named("b"));
    let world = world(&[&[&a1], &[&b]], config(), kept(&[("a", 1), ("b", 0)], cookie()));
    let mut client = world.client();
    let first = token(&client.get("/")).unwrap();
    world.apply(vec![endpoints("a", &[a2.address])]);
    let moved = with(&mut client, &first);
    assert_eq!(moved.text(), "a2");
    let second = token(&moved).expect("the new endpoint is told");
    assert_eq!(with(&mut client, &second).text(), "a2");
    // The backend goes altogether.
    world.apply(vec![world.route("r", kept(&[("b", 1)], cookie()))]);
    let moved = with(&mut client, &second);
    assert_eq!(moved.text(), "b");
    let third = token(&moved).unwrap();
    assert_eq!(with(&mut client, &third).text(), "b");
    assert_eq!(tickets(&world), 1, "of the new epoch: one new session");
}

#[test]
fn a_session_whose_endpoint_takes_no_connection_moves_inside_its_backend() {
    let (a2, b) = (Origin::named("a2"), Origin::named("b"));
    let world = World::start(config());
    // Listens once, then never again.
    let listener =
        std::net::TcpListener::bind(SocketAddr::new(crate::harness::own_address().into(), 0)).unwrap();
    let dying = listener.local_addr().unwrap();
    let mut resources = backend("a", &[dying]).to_vec();
    resources.extend(backend("b", &[b.address]));
    resources.push(world.route("r", kept(&[("a", 1), ("b", 0)], cookie())));
    world.apply(resources);
    let mut client = world.client();
    let server = std::thread::spawn(move || {
        let mut peer = Peer::new(listener.accept().unwrap().0);
        peer.request();
        peer.send(crate::harness::ok("a1"));
    });
    let first = client.get("/");
    assert_eq!(first.text(), "a1");
    server.join().unwrap();
    world.apply(vec![endpoints("a", &[dying, a2.address])]);
    let moved = with(&mut client, &token(&first).unwrap());
    assert_eq!(moved.text(), "a2");
    let told = token(&moved).expect("the new endpoint is told");
    assert_eq!(with(&mut client, &told).text(), "a2");
    assert_eq!(tickets(&world), 1);
}

#[test]
fn sessions_outlive_the_process_with_its_key_and_no_other() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let of: [&[&Origin]; 2] = [&[&a], &[&b]];
    let keyed = |byte: u8| ProxyConfig { session_key: Some(SessionKey::new([byte; 32])), ..config() };
    let split = [("a", 1), ("b", 1)];
    let first = world(&of, keyed(1), kept(&split, cookie()));
    let response = first.client().get("/");
    let token = token(&response).unwrap();
    drop(first);
    let again = world(&of, keyed(1), kept(&split, cookie()));
    for _ in 0..4 {
        assert_eq!(with(&mut again.client(), &token).text(), response.text());
    }
    assert_eq!(tickets(&again), 0);
    for config in [keyed(2), config()] {
        let other = world(&of, config, kept(&split, cookie()));
        let response = with(&mut other.client(), &token);
        assert!(response.field("set-cookie").is_some(), "a token that does not open is none");
        assert_eq!(tickets(&other), 1);
    }
}

#[test]
fn a_token_is_good_for_its_rule_alone() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let world = world(&[&[&a], &[&b]], config(), kept(&[("a", 1), ("b", 1)], cookie()));
    let other = HttpRule {
        matches: rule("/other").matches,
        split_identity: "/other".into(),
        ..kept(&[("a", 1)], cookie())
    };
    world.apply(vec![world.route("s", other)]);
    let mut client = world.client();
    let foreign = token(&client.get("/other")).unwrap();
    assert!(token(&with(&mut client, &foreign)).is_some());
    for forged in ["", "abc", &"A".repeat(95), &"x".repeat(5_000)] {
        assert!(token(&with(&mut client, forged)).is_some(), "{forged}");
    }
}

/// Asks again and again until the answer brings a new token; how long that took.
fn until_told(client: &mut Peer, session: &str) -> (Duration, Response) {
    let began = Instant::now();
    loop {
        let response = with(client, session);
        if token(&response).is_some() {
            return (began.elapsed(), response);
        }
        assert!(began.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_session_ends_with_its_absolute_time_however_busy_it_is() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let session = SessionPersistence { absolute_timeout_ms: 400, ..cookie() };
    let world = world(&[&[&a], &[&b]], config(), kept(&[("a", 1), ("b", 1)], session));
    let mut client = world.client();
    let first = token(&client.get("/")).unwrap();
    let (lived, response) = until_told(&mut client, &first);
    assert!(lived >= Duration::from_millis(350), "{lived:?}");
    assert_ne!(token(&response).unwrap(), first);
    assert_eq!(tickets(&world), 2, "what follows is a new session");
}

#[test]
fn a_session_ends_when_it_is_not_used_for_its_idle_time_and_each_use_begins_it_anew() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let session = SessionPersistence { idle_timeout_ms: 1_500, ..cookie() };
    let world = world(&[&[&a], &[&b]], config(), kept(&[("a", 1), ("b", 1)], session));
    let mut client = world.client();
    let mut latest = token(&client.get("/")).unwrap();
    let began = Instant::now();
    // Used for longer than it may be idle.
    while began.elapsed() < Duration::from_millis(2_000) {
        let response = with(&mut client, &latest);
        latest = token(&response).expect("each answer begins the idle time anew");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(tickets(&world), 1);
    // A token that is not the latest is not renewed by being shown.
    let shown = Instant::now();
    eventually("the last token is too old", || {
        with(&mut client, &latest);
        tickets(&world) == 2
    });
    assert!(shown.elapsed() >= Duration::from_millis(1_300), "{:?}", shown.elapsed());
}

#[test]
fn a_permanent_cookie_says_how_long_it_lives() {
    let a = Origin::named("a");
    let session = SessionPersistence { absolute_timeout_ms: 3_600_000, permanent: true, ..cookie() };
    let world = world(&[&[&a]], config(), kept(&[("a", 1)], session));
    let response = world.client().get("/");
    let line = response.field("set-cookie").unwrap();
    assert!(line.ends_with("; Max-Age=3600"), "{line}");
    let of_session = SessionPersistence { absolute_timeout_ms: 3_600_000, ..cookie() };
    world.apply(vec![world.route("r", kept(&[("a", 1)], of_session))]);
    assert!(!world.client().get("/").field("set-cookie").unwrap().contains("Max-Age"));
}

#[test]
fn the_backends_own_cookies_are_left_alone() {
    let origin = Origin::always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: theirs=1\r\n\r\n");
    let world = world(&[&[&origin]], config(), kept(&[("a", 1)], cookie()));
    let response = world.client().get("/");
    let cookies = response.all("set-cookie");
    assert_eq!(cookies.len(), 2);
    assert!(cookies[0] == "theirs=1" && cookies[1].starts_with("weir="));
}

fn keeping(name: &str) -> Resource {
    let backend = Backend {
        key: format!("backend/default/{name}/80"),
        namespace: "default".into(),
        service: name.into(),
        port: 80,
        session_persistence: Some(cookie()),
        ..Backend::default()
    };
    Resource { body: Some(Body::Backend(backend)) }
}

#[test]
fn a_backends_own_session_holds_on_every_route_to_it_and_on_no_other_backend() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let world = World::start(config());
    let mut resources = vec![keeping("a"), endpoints("a", &[a.address])];
    resources.extend(backend("b", &[b.address]));
    let split = || vec![to("a", 1), to("b", 1)];
    resources.push(world.route("r", HttpRule { backends: split(), ..rule("/") }));
    resources.push(world.route("s", HttpRule { backends: split(), ..rule("/other") }));
    assert_eq!(world.apply(resources).rejected, []);
    let mut client = world.client();
    let answers: Vec<Response> = (0..10).map(|_| client.get("/")).collect();
    for answer in &answers {
        assert_eq!(answer.field("set-cookie").is_some(), answer.text() == "a");
    }
    let session = answers.iter().find_map(token).unwrap();
    for _ in 0..6 {
        let request = format!("GET /other HTTP/1.1\r\nHost: h\r\nCookie: weir={session}\r\n\r\n");
        assert_eq!(client.exchange(&request).text(), "a");
    }
    assert_eq!(tickets(&world), 10);
}

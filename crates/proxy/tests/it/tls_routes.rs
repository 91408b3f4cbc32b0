//! TLS listeners: streams that are passed on, streams that end here, and both on one port.

use std::collections::BTreeMap;

use weir_model::resource::Update;
use weir_proxy::ProxyConfig;

use crate::harness::*;
use crate::secure::*;

fn config() -> ProxyConfig {
    ProxyConfig { workers: Some(2), ..ProxyConfig::default() }
}

/// An origin that greets before anybody has said anything, then gives back what it gets.
fn greeter(greeting: &'static str) -> impl Fn(&mut Peer) + Send + Sync + 'static {
    move |peer| {
        peer.send(format!("{greeting}\r\n"));
        while peer.fill() {
            let bytes = std::mem::take(&mut peer.buffer);
            peer.send(bytes);
        }
        peer.finish_sending();
    }
}

struct Site {
    world: World,
    /// Of the gateway's certificates.
    authority: Authority,
    /// Of the backends' own.
    behind: Authority,
}

impl Site {
    fn start() -> Site {
        let site = Site {
            world: World::bare(config()),
            authority: Authority::new("gateway"),
            behind: Authority::new("backends"),
        };
        site.world.apply(vec![site.authority.sign(&["ended.example", "web.example"]).resource("c")]);
        site
    }

    fn listener(&self, name: &str, hostname: &str, certificates: &[&str]) {
        let listener = ListenerOf::tls(self.world.address, name, hostname, certificates).resource();
        let applied = self.world.apply(vec![listener]);
        assert_eq!((applied.rejected.len(), applied.binds[0].error.as_str()), (0, ""));
    }

    fn route(&self, name: &str, listeners: &[&str], hostname: &str, origin: &Origin) {
        let mut resources = backend(name, &[origin.address]).to_vec();
        resources.push(l4_route("tlsroute", name, listeners, &[hostname], vec![to(name, 1)]));
        assert_eq!(self.world.apply(resources).rejected, []);
    }

    fn secure_origin(&self, name: &str, greeting: &'static str) -> Origin {
        secure_origin(self.behind.sign(&[name]).server(None), greeter(greeting))
    }
}

#[test]
fn a_passed_stream_is_the_backends_own_and_the_backend_may_speak_first() {
    let site = Site::start();
    let origin = site.secure_origin("passed.example", "hello from behind");
    site.listener("l", "passed.example", &[]);
    site.route("r", &["l"], "passed.example", &origin);
    let mut client = Peer::secure(site.world.address, "passed.example", &site.behind.client());
    assert_eq!(client.line(), "hello from behind");
    client.send("ping");
    assert_eq!(client.exactly(4), b"ping");
    client.finish_sending();
    assert!(client.ends(), "an end goes there and back");
    eventually("the stream is counted as closed", || site.world.metric("weir_proxy_streams_open") == 0);
    assert_eq!(site.world.metric("weir_proxy_streams_total"), 1);
    assert_eq!(site.world.metric("weir_proxy_tls_handshakes_total"), 0);
}

#[test]
fn a_stream_that_ends_here_is_plain_behind_and_the_backend_may_speak_first() {
    let site = Site::start();
    let origin = Origin::start(greeter("hello in the clear"));
    site.listener("l", "ended.example", &["c"]);
    site.route("r", &["l"], "ended.example", &origin);
    let mut client = Peer::secure(site.world.address, "ended.example", &site.authority.client());
    assert_eq!(client.line(), "hello in the clear");
    let sent: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
    let mut received = Vec::new();
    for part in sent.chunks(100_000) {
        client.send(part);
        received.extend(client.exactly(part.len()));
    }
    assert!(received == sent);
    client.finish_sending();
    assert!(client.ends());
}

#[test]
fn both_kinds_share_a_port_by_server_name() {
    let site = Site::start();
    let passed = site.secure_origin("passed.example", "passed");
    let ended = Origin::start(greeter("ended"));
    site.listener("passing", "passed.example", &[]);
    site.listener("ending", "ended.example", &["c"]);
    site.route("passed", &["passing"], "passed.example", &passed);
    site.route("ended", &["ending"], "ended.example", &ended);
    for _ in 0..4 {
        let mut client = Peer::secure(site.world.address, "passed.example", &site.behind.client());
        assert_eq!(client.line(), "passed");
        let mut client = Peer::secure(site.world.address, "ended.example", &site.authority.client());
        assert_eq!(client.line(), "ended");
    }
}

#[test]
fn https_and_passed_streams_share_a_port() {
    let site = Site::start();
    let passed = site.secure_origin("passed.example", "passed");
    let web = Origin::named("web");
    site.listener("passing", "passed.example", &[]);
    site.route("passed", &["passing"], "passed.example", &passed);
    let mut resources = backend("web", &[web.address]).to_vec();
    resources.push(ListenerOf::https(site.world.address, "web", "", &["c"]).resource());
    resources.push(http_route("web", &["web"], "", "web"));
    assert_eq!(site.world.apply(resources).rejected, []);
    let mut client = Peer::secure(site.world.address, "passed.example", &site.behind.client());
    assert_eq!(client.line(), "passed");
    let mut client = Peer::secure(site.world.address, "web.example", &site.authority.client());
    assert_eq!(client.get("/").text(), "web");
}

#[test]
fn the_most_specific_hostname_of_a_route_wins_and_an_unknown_name_is_closed_without_a_word() {
    let site = Site::start();
    let (exact, wide) =
        (site.secure_origin("a.b.example", "exact"), site.secure_origin("*.b.example", "wide"));
    site.listener("l", "*.example", &[]);
    site.route("exact", &["l"], "a.b.example", &exact);
    site.route("wide", &["l"], "*.b.example", &wide);
    let config = site.behind.client();
    assert_eq!(Peer::secure(site.world.address, "a.b.example", &config).line(), "exact");
    assert_eq!(Peer::secure(site.world.address, "c.b.example", &config).line(), "wide");
    // No route; no listener; no name.
    for name in ["other.example", "elsewhere.test", "127.0.0.1"] {
        let refused = Peer::try_secure(site.world.address, name, &config);
        assert_eq!(refused.err(), Some(Refused::Silence), "{name}");
    }
    site.world.expect_failures("no_route", 1);
    site.world.expect_failures("tls_unknown_name", 2);
}

#[test]
fn invalid_backends_drop_exactly_their_share_without_an_alert() {
    let site = Site::start();
    let origin = site.secure_origin("passed.example", "passed");
    site.listener("l", "passed.example", &[]);
    let mut resources = backend("good", &[origin.address]).to_vec();
    let backends = vec![to("good", 3), invalid(1)];
    resources.push(l4_route("tlsroute", "r", &["l"], &["passed.example"], backends));
    site.world.apply(resources);
    let mut seen = BTreeMap::new();
    for _ in 0..40 {
        let client = Peer::try_secure(site.world.address, "passed.example", &site.behind.client());
        let what = match client {
            Ok(mut client) => client.line(),
            Err(refused) => format!("{refused:?}"),
        };
        *seen.entry(what).or_insert(0) += 1;
    }
    assert_eq!(seen, BTreeMap::from([("passed".to_owned(), 30), ("Silence".to_owned(), 10)]));
    site.world.expect_failures("invalid_backend", 10);
}

#[test]
fn streams_survive_every_change_but_the_end_of_their_listener() {
    let limits = weir_model::limits::Limits {
        listener_drain_timeout: std::time::Duration::from_millis(300),
        ..Default::default()
    };
    let site = Site { world: World::bare(ProxyConfig { limits, ..config() }), ..Site::start() };
    site.world.apply(vec![site.authority.sign(&["ended.example"]).resource("c")]);
    let (passed, ended) = (site.secure_origin("passed.example", "passed"), Origin::start(greeter("ended")));
    site.listener("passing", "passed.example", &[]);
    site.listener("ending", "ended.example", &["c"]);
    site.route("passed", &["passing"], "passed.example", &passed);
    site.route("ended", &["ending"], "ended.example", &ended);
    let mut first = Peer::secure(site.world.address, "passed.example", &site.behind.client());
    let mut second = Peer::secure(site.world.address, "ended.example", &site.authority.client());
    first.line();
    second.line();
    let mut both_live = || {
        for client in [&mut first, &mut second] {
            client.send("ping");
            assert_eq!(client.exactly(4), b"ping");
        }
    };
    site.world.apply(vec![site.authority.sign(&["ended.example"]).resource("d")]);
    site.listener("ending", "ended.example", &["d"]);
    both_live();
    let removals = ["certificate/c", "tlsroute/default/passed", "backend/default/ended/80"];
    site.world.update(Update { removals: removals.map(str::to_owned).into(), ..Update::default() });
    both_live();
    // The other listener of the port stays, and its stream with it.
    let removals = vec![named_listener("passing")];
    site.world.update(Update { removals, ..Update::default() });
    both_live();
    let started = std::time::Instant::now();
    first.rest();
    assert!(started.elapsed() < std::time::Duration::from_secs(3));
    site.world.expect_failures("listener_gone", 1);
    second.send("ping");
    assert_eq!(second.exactly(4), b"ping");
}

//! Certificates of clients: both modes of `spec.tls.frontend`, and what a broken authority does.

use weir_model::resource::{ClientValidation, Update};
use weir_proxy::ProxyConfig;

use crate::harness::*;
use crate::secure::*;

struct Site {
    world: World,
    servers: Authority,
    clients: Authority,
    _origin: Origin,
}

fn valid_only(bundles: &[&str]) -> ClientValidation {
    let ca_bundles = bundles.iter().map(|name| format!("cabundle/{name}")).collect();
    ClientValidation { ca_bundles, insecure_fallback: false }
}

impl Site {
    fn start() -> Site {
        let origin = Origin::named("ok");
        let world = World::bare(ProxyConfig { workers: Some(2), ..ProxyConfig::default() });
        let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
        let mut resources = vec![
            servers.sign(&["a.example"]).resource("c"),
            clients.bundle("clients"),
            http_route("r", &["l"], "", "b"),
        ];
        resources.extend(backend("b", &[origin.address]));
        assert_eq!(world.apply(resources).rejected, []);
        Site { world, servers, clients, _origin: origin }
    }

    fn ask_for(&self, validation: ClientValidation) {
        let listener = ListenerOf {
            validation: Some(validation),
            ..ListenerOf::https(self.world.address, "l", "", &["c"])
        };
        self.world.apply(vec![listener.resource()]);
    }

    fn with(&self, pair: &Pair) -> bool {
        let config = self.servers.client_as(pair);
        Peer::try_secure(self.world.address, "a.example", &config).is_ok_and(|mut peer| peer.is_let_in())
    }

    fn without(&self) -> bool {
        let config = self.servers.client();
        Peer::try_secure(self.world.address, "a.example", &config).is_ok_and(|mut peer| peer.is_let_in())
    }
}

#[test]
fn only_valid_certificates_are_let_in() {
    let site = Site::start();
    site.ask_for(valid_only(&["clients"]));
    let expired = rcgen::KeyPair::generate().unwrap();
    assert!(site.with(&site.clients.sign(&["client.example"])));
    assert!(!site.with(&Authority::new("others").sign(&["client.example"])));
    assert!(!site.with(&site.clients.sign_with(&["client.example"], expired, 2020)));
    assert!(!site.without());
    site.world.expect_failures("tls_handshake", 3);
}

#[test]
fn with_the_fallback_everybody_is_asked_and_let_in() {
    let site = Site::start();
    site.ask_for(ClientValidation { insecure_fallback: true, ..valid_only(&["clients"]) });
    assert!(site.with(&site.clients.sign(&["client.example"])));
    assert!(site.with(&Authority::new("others").sign(&["client.example"])));
    assert!(site.with(&Pair::self_signed("client.example")));
    assert!(site.without());
}

#[test]
fn a_certificate_that_is_its_own_authority_is_let_in() {
    let site = Site::start();
    let pair = Pair::self_signed("client.example");
    site.world.apply(vec![bundle("own", &pair.pem)]);
    site.ask_for(valid_only(&["own"]));
    assert!(site.with(&pair));
    assert!(!site.with(&Pair::self_signed("client.example")));
}

#[test]
fn without_an_authority_that_can_be_used_every_handshake_is_refused() {
    let site = Site::start();
    let applied = site
        .world
        .apply(vec![bundle("broken", "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n")]);
    assert_eq!(applied.rejected.len(), 1);
    let client = site.clients.sign(&["client.example"]);
    for validation in [valid_only(&[]), valid_only(&["broken"]), valid_only(&["missing"])] {
        site.ask_for(validation);
        let config = site.servers.client_as(&client);
        let refused = Peer::try_secure(site.world.address, "a.example", &config);
        assert_eq!(refused.err(), Some(Refused::Alert(40)), "handshake_failure");
    }
    site.ask_for(ClientValidation { insecure_fallback: true, ..valid_only(&[]) });
    assert!(site.with(&client));
}

#[test]
fn an_authority_that_has_expired_vouches_for_nobody() {
    let site = Site::start();
    let expired = Authority::until("expired", 2020);
    assert_eq!(site.world.apply(vec![expired.bundle("expired")]).rejected, []);
    site.ask_for(valid_only(&["expired"]));
    assert!(!site.with(&expired.sign(&["client.example"])));
    site.ask_for(valid_only(&["expired", "clients"]));
    assert!(!site.with(&expired.sign(&["client.example"])));
    assert!(site.with(&site.clients.sign(&["client.example"])), "the other authority is not harmed");
}

#[test]
fn a_ticket_does_not_outlive_what_was_asked_for_it() {
    let site = Site::start();
    site.ask_for(valid_only(&["clients"]));
    let config = site.servers.client_as(&site.clients.sign(&["client.example"]));
    let visit = || {
        let mut peer = Peer::secure(site.world.address, "a.example", &config);
        (peer.is_let_in(), peer.handshake_kind())
    };
    assert_eq!(visit(), (true, rustls::HandshakeKind::Full));
    assert_eq!(visit(), (true, rustls::HandshakeKind::Resumed));
    let others = Authority::new("others");
    site.world.apply(vec![others.bundle("others")]);
    site.ask_for(valid_only(&["others"]));
    let config = &config;
    let let_in =
        Peer::try_secure(site.world.address, "a.example", config).is_ok_and(|mut peer| peer.is_let_in());
    assert!(!let_in, "the ticket says that another authority vouched");
}

#[test]
fn a_broken_authority_leaves_other_ports_alone() {
    let site = Site::start();
    site.ask_for(valid_only(&[]));
    let other = std::net::SocketAddr::new(site.world.address.ip(), PORT + 1);
    site.world.update(Update {
        upserts: vec![
            ListenerOf::https(other, "other", "", &["c"]).resource(),
            http_route("other", &["other"], "", "b"),
        ],
        ..Update::default()
    });
    assert!(!site.without());
    assert_eq!(Peer::secure(other, "a.example", &site.servers.client()).get("/").text(), "ok");
}

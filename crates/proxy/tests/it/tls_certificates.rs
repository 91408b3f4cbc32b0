//! Certificates: which one is shown, and that replacing one harms nobody.

use std::sync::atomic::{AtomicBool, Ordering};

use rcgen::KeyPair;
use rustls::ClientConfig;
use weir_model::resource::{Body, Update};
use weir_proxy::ProxyConfig;

use crate::harness::*;
use crate::secure::*;

fn config(workers: usize) -> ProxyConfig {
    ProxyConfig { workers: Some(workers), ..ProxyConfig::default() }
}

struct Site {
    world: World,
    authority: Authority,
    origin: Origin,
}

impl Site {
    fn start(workers: usize) -> Site {
        let origin = Origin::named("ok");
        let world = World::bare(config(workers));
        world.apply(backend("b", &[origin.address]).to_vec());
        world.apply(vec![http_route("r", &["l"], "", "b")]);
        Site { world, authority: Authority::new("authority"), origin }
    }

    fn show(&self, certificates: &[&str]) {
        self.world.apply(vec![ListenerOf::https(self.world.address, "l", "", certificates).resource()]);
    }

    fn client(&self, name: &str) -> Result<Peer, Refused> {
        Peer::try_secure(self.world.address, name, &self.authority.client())
    }
}

#[test]
fn no_request_fails_while_certificates_are_replaced_under_load() {
    let site = Site::start(2);
    let pairs: Vec<Pair> = (0..8).map(|_| site.authority.sign(&["a.example"])).collect();
    site.world.apply(vec![pairs[0].resource("c0")]);
    site.show(&["c0"]);
    let done = AtomicBool::new(false);
    let requests = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|n| {
                let (site, done) = (&site, &done);
                scope.spawn(move || {
                    let config = site.authority.client();
                    let connect = || Peer::secure(site.world.address, "a.example", &config);
                    let mut client = connect();
                    let mut count = 0;
                    while !done.load(Ordering::Relaxed) {
                        if n % 2 == 1 {
                            client = connect();
                        }
                        assert_eq!(client.get("/").status, 200);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for n in 1..200_usize {
            let (new, old) = (format!("c{n}"), format!("certificate/c{}", n - 1));
            let listener = ListenerOf::https(site.world.address, "l", "", &[new.as_str()]).resource();
            site.world.update(Update {
                upserts: vec![pairs[n % 8].resource(&new), listener],
                removals: vec![old],
                ..Update::default()
            });
        }
        done.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).sum::<u64>()
    });
    assert_eq!(site.origin.requests(), requests);
    assert!(requests > 50, "{requests}");
    let shown = site.client("a.example").unwrap().peer_certificate();
    assert_eq!(shown, pairs[199 % 8].chain[0], "the last one is shown");
}

#[test]
fn an_applied_certificate_is_what_the_next_handshake_shows() {
    let site = Site::start(2);
    for n in 0..6 {
        let pair = site.authority.sign(&["a.example"]);
        let name = format!("c{n}");
        let listener = ListenerOf::https(site.world.address, "l", "", &[name.as_str()]).resource();
        site.world.apply(vec![pair.resource(&name), listener]);
        for _ in 0..4 {
            assert_eq!(site.client("a.example").unwrap().peer_certificate(), pair.chain[0]);
        }
    }
}

#[test]
fn of_several_certificates_the_one_for_the_name_is_shown() {
    let site = Site::start(1);
    let (a, b) = (site.authority.sign(&["a.example"]), site.authority.sign(&["*.b.example"]));
    site.world.apply(vec![a.resource("a"), b.resource("b")]);
    site.show(&["a", "b"]);
    assert_eq!(site.client("a.example").unwrap().peer_certificate(), a.chain[0]);
    assert_eq!(site.client("x.b.example").unwrap().peer_certificate(), b.chain[0]);
    let other = site.client("other.example").err().unwrap();
    assert!(matches!(&other, Refused::Other(error) if error.contains("not valid for name")), "{other:?}");
}

#[test]
fn of_several_certificates_the_one_that_the_client_can_verify_is_shown() {
    let site = Site::start(1);
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let (strong, usual) =
        (site.authority.sign_with(&["a.example"], p384, 2100), site.authority.sign(&["a.example"]));
    site.world.apply(vec![strong.resource("strong"), usual.resource("usual")]);
    site.show(&["strong", "usual"]);
    assert_eq!(site.client("a.example").unwrap().peer_certificate(), strong.chain[0]);
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.signature_verification_algorithms.mapping = P256;
    let weak = ClientConfig::builder_with_provider(std::sync::Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(site.authority.roots())
        .with_no_client_auth();
    let client = Peer::secure(site.world.address, "a.example", &weak);
    assert_eq!(client.peer_certificate(), usual.chain[0]);
}

/// What a client offers that knows one curve only.
const P256: &[(rustls::SignatureScheme, &[&dyn rustls::pki_types::SignatureVerificationAlgorithm])] =
    &[(rustls::SignatureScheme::ECDSA_NISTP256_SHA256, &[webpki_p256()])];

const fn webpki_p256() -> &'static dyn rustls::pki_types::SignatureVerificationAlgorithm {
    webpki::aws_lc_rs::ECDSA_P256_SHA256
}

#[test]
fn a_certificate_that_cannot_be_read_hurts_only_itself() {
    let site = Site::start(1);
    let good = site.authority.sign(&["a.example"]);
    let mut broken = good.resource("broken");
    let mut mixed = good.resource("mixed");
    let Some(Body::Certificate(body)) = &mut broken.body else { unreachable!() };
    let kind = "PRIVATE KEY";
    body.private_key = format!("-----BEGIN {kind}-----\nbm90aGluZw==\n-----END {kind}-----\n").into();
    let Some(Body::Certificate(body)) = &mut mixed.body else { unreachable!() };
    body.private_key = site.authority.sign(&["a.example"]).key.into();
    let applied = site.world.apply(vec![broken, mixed, good.resource("good")]);
    let rejected: Vec<_> = applied.rejected.iter().map(|rejected| rejected.key.as_str()).collect();
    assert_eq!(rejected, ["certificate/broken", "certificate/mixed"]);
    assert!(!format!("{applied:?}").contains("bm90aGluZw"), "nothing of a key is repeated");
    site.show(&["broken", "mixed", "good"]);
    assert_eq!(site.client("a.example").unwrap().get("/").text(), "ok");
}

#[test]
fn without_a_certificate_every_handshake_is_refused_until_there_is_one() {
    let site = Site::start(1);
    site.show(&["late"]);
    assert_eq!(site.client("a.example").err(), Some(Refused::Alert(40)), "handshake_failure");
    site.world.expect_failures("tls_refused", 1);
    site.world.apply(vec![site.authority.sign(&["a.example"]).resource("late")]);
    assert_eq!(site.client("a.example").unwrap().get("/").text(), "ok");
    let removals = vec!["certificate/late".to_owned()];
    site.world.update(Update { removals, ..Update::default() });
    assert_eq!(site.client("a.example").err(), Some(Refused::Alert(40)));
}

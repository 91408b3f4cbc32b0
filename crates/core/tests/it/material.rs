//! What Secrets and ConfigMaps hold is used, or refused without a word of what is in them.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use weir_api::condition::{Condition, ConditionStatus};
use weir_core::{Kind, MaterialCheck, Status, TranslateConfig, Translator};

use crate::world::{self, World, key};

fn secret(certificate: &str, private_key: &str) -> Value {
    json!({"kind": "Secret", "metadata": {"namespace": "default", "name": "c"}, "type": "kubernetes.io/tls",
        "data": {"tls.crt": BASE64_STANDARD.encode(certificate), "tls.key": BASE64_STANDARD.encode(private_key)}})
}

/// A world whose only Gateway shows the Secret to clients and to backends.
fn showing(certificate: &str, private_key: &str) -> World {
    showing_in(World::new(), certificate, private_key)
}

fn showing_in(mut world: World, certificate: &str, private_key: &str) -> World {
    world.put(json!({"kind": "GatewayClass", "metadata": {"name": "weir"},
        "spec": {"controllerName": "weir.dev/gateway-controller"}}));
    world.put(secret(certificate, private_key));
    world.put(json!({"kind": "Gateway", "metadata": {"namespace": "default", "name": "gw", "generation": 1},
        "spec": {"gatewayClassName": "weir", "listeners": [
            {"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "c"}]}}],
            "tls": {"backend": {"clientCertificateRef": {"name": "c"}}}}}));
    world.settle();
    world
}

/// The listener's and the Gateway's ResolvedRefs.
fn resolved_refs(world: &World) -> [Condition; 2] {
    let Some(Status::Gateway(status)) = world.status(&key(Kind::Gateway, "default", "gw")) else {
        panic!("no status");
    };
    let of = |conditions: &[Condition]| {
        conditions.iter().find(|c| c.type_ == "ResolvedRefs").expect("the condition").clone()
    };
    [of(&status.listeners[0].conditions), of(&status.conditions)]
}

/// Their reasons.
fn resolved(world: &World) -> (String, String) {
    let [listener, gateway] = resolved_refs(world);
    (listener.reason, gateway.reason)
}

/// Everything that is said about objects.
fn said(world: &World) -> String {
    format!("{:?} {:?}", world.statuses, world.told)
}

/// Some bytes of `secret` that occur in `said`, as text or as the decimals in which Rust prints bytes.
fn leaked(said: &str, secret: &str) -> Option<String> {
    let secret: Vec<char> = secret.chars().filter(|c| !c.is_whitespace()).collect();
    secret.windows(8).find_map(|part| {
        let text: String = part.iter().collect();
        let decimals: Vec<String> = part.iter().map(|c| u32::from(*c).to_string()).collect();
        let is_said = said.contains(&text) || said.contains(&decimals.join(", "));
        (is_said && !text.contains("---") && !text.contains("PRIVATE")).then_some(text)
    })
}

#[test]
fn a_private_key_that_cannot_be_read_is_told_to_nobody() {
    let (certificate, private) = world::certificate(&["a.example.com"]);
    let body: String = private.lines().filter(|line| !line.starts_with("-----")).collect();
    let lines: Vec<&str> = private.lines().collect();
    let ways = [
        private.replace('\n', ""),
        private.replace('\n', " "),
        private.replace("-----END", "----END"),
        lines[..lines.len() - 1].join("\n"),
        private.replace("PRIVATE KEY-----\n", "PRIVATE KEY-----\n-----BEGIN "),
        private.replace(&body[10..12], "!!"),
    ];
    for broken in &ways {
        for (shown, key) in [(&certificate, broken), (broken, broken), (broken, &private)] {
            let world = showing(shown, key);
            let reasons = resolved(&world);
            assert_eq!(reasons.0, "InvalidCertificateRef", "{broken}");
            assert_eq!(reasons.1, "InvalidClientCertificateRef", "{broken}");
            assert_eq!(leaked(&said(&world), &body), None, "{}", said(&world));
        }
    }
    // The check itself sees a key that is said either way.
    assert!(leaked(&body, &body).is_some() && leaked(&format!("{:?}", body.as_bytes()), &body).is_some());
}

#[test]
fn a_private_key_in_the_place_of_authorities_is_told_to_nobody() {
    let (_, private) = world::certificate(&["a.example.com"]);
    let body: String = private.lines().filter(|line| !line.starts_with("-----")).collect();
    let mut world = showing(&private, &private);
    world.put(json!({"kind": "ConfigMap", "metadata": {"namespace": "default", "name": "ca"},
        "data": {"ca.crt": private.replace('\n', "")}}));
    world.put(json!({"kind": "BackendTLSPolicy", "metadata": {"namespace": "default", "name": "p"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "s"}], "validation": {
            "hostname": "a", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]}}}));
    world.settle();
    assert!(!world.told.is_empty());
    assert_eq!(leaked(&said(&world), &body), None, "{}", said(&world));
}

#[test]
fn what_the_data_plane_cannot_use_is_not_resolved() {
    let (certificate, private) = world::certificate(&["a.example.com"]);
    let mut world = World::new();
    let material_check = Some(MaterialCheck {
        certificate: |_| Err("of an odd sort".to_owned()),
        authorities: |_| Err("of an odd sort".to_owned()),
    });
    world.translator = Translator::new(TranslateConfig { material_check, ..TranslateConfig::default() });
    let mut world = showing_in(world, &certificate, &private);
    assert_eq!(resolved(&world).0, "InvalidCertificateRef");
    assert_eq!(resolved(&world).1, "InvalidClientCertificateRef");
    assert!(said(&world).contains("Secret default/c cannot be used: of an odd sort"), "{}", said(&world));
    assert_eq!(world.translator.resources().filter(|one| one.key().starts_with("certificate/")).count(), 0);
    world.told.clear();
    world.put(json!({"kind": "ConfigMap", "metadata": {"namespace": "default", "name": "ca"},
        "data": {"ca.crt": certificate}}));
    world.put(json!({"kind": "BackendTLSPolicy", "metadata": {"namespace": "default", "name": "p"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "s"}], "validation": {
            "hostname": "a", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]}}}));
    world.settle();
    assert!(world.told.iter().any(|found| found.message.contains("of an odd sort")), "{:?}", world.told);
}

/// Seconds since the epoch at the beginning of these years.
const Y2030: i64 = 1_893_456_000;
const Y2040: i64 = 2_208_988_800;

/// A certificate for 2030 to 2040, and its key.
fn for_the_thirties() -> (String, String) {
    let mut parameters = rcgen::CertificateParams::new(vec!["a.example.com".to_owned()]).expect("names");
    parameters.not_before = rcgen::date_time_ymd(2030, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2040, 1, 1);
    let key = rcgen::KeyPair::generate().expect("a key");
    (parameters.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

fn policy_world(authorities: &str) -> World {
    let mut world = World::new();
    world.put(json!({"kind": "GatewayClass", "metadata": {"name": "weir"},
        "spec": {"controllerName": "weir.dev/gateway-controller"}}));
    world.put(json!({"kind": "Gateway", "metadata": {"namespace": "default", "name": "gw", "generation": 1},
        "spec": {"gatewayClassName": "weir", "listeners": [{"name": "h", "port": 80, "protocol": "HTTP"}]}}));
    world.put(json!({"kind": "Service", "metadata": {"namespace": "default", "name": "s"},
        "spec": {"ports": [{"port": 80}]}}));
    world
        .put(json!({"kind": "HTTPRoute", "metadata": {"namespace": "default", "name": "r", "generation": 1},
        "spec": {"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": [{"name": "s", "port": 80}]}]}}));
    world.put(json!({"kind": "ConfigMap", "metadata": {"namespace": "default", "name": "ca"},
        "data": {"ca.crt": authorities}}));
    world.put(
        json!({"kind": "BackendTLSPolicy", "metadata": {"namespace": "default", "name": "p", "generation": 1},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "s"}], "validation": {
            "hostname": "a", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]}}}),
    );
    world
}

/// Reasons and messages of the policy's Accepted and ResolvedRefs, at a time.
fn policy_at(world: &mut World, now: i64) -> Vec<(String, String)> {
    world.translator.set_time(now);
    world.settle();
    let Some(Status::Policy(ancestors)) = world.status(&key(Kind::BackendTlsPolicy, "default", "p")) else {
        panic!("no status");
    };
    ancestors[0].conditions.iter().map(|c| (c.reason.clone(), c.message.clone())).collect()
}

#[test]
fn an_authority_is_one_in_its_time_only_and_that_is_told_when_the_time_passes() {
    let mut world = policy_world(&for_the_thirties().0);
    let reasons = |found: &[(String, String)]| [found[0].0.clone(), found[1].0.clone()];
    let refused = ["NoValidCACertificate", "InvalidCACertificateRef"];
    let early = policy_at(&mut world, Y2030 - 1);
    assert_eq!(reasons(&early), refused);
    assert!(early[1].1.contains("every certificate of ca.crt is not valid yet"), "{early:?}");
    assert_eq!(world.translator.next_turn(), Some(Y2030));
    for now in [Y2030, Y2040] {
        assert_eq!(reasons(&policy_at(&mut world, now)), ["Accepted", "ResolvedRefs"]);
        assert_eq!(world.translator.next_turn(), Some(Y2040 + 1));
    }
    let late = policy_at(&mut world, Y2040 + 1);
    assert_eq!(reasons(&late), refused);
    assert!(late[1].1.contains("every certificate of ca.crt has expired"), "{late:?}");
    assert_eq!(world.translator.next_turn(), None);
    // A clock that was wrong and is set right.
    assert_eq!(reasons(&policy_at(&mut world, Y2030)), ["Accepted", "ResolvedRefs"]);
}

#[test]
fn one_authority_in_its_time_among_others_is_enough() {
    let (always, _) = world::certificate(&["b.example.com"]);
    let mut world = policy_world(&format!("{}{always}", for_the_thirties().0));
    assert_eq!(policy_at(&mut world, Y2040 + 1)[0].0, "Accepted");
}

#[test]
fn a_certificate_out_of_its_time_is_shown_and_told_of() {
    let (certificate, private) = for_the_thirties();
    let mut world = World::new();
    world.translator.set_time(Y2030);
    let mut world = showing_in(world, &certificate, &private);
    let told = |world: &World| world.told.iter().filter(|one| one.reason == "CertificateOutOfTime").count();
    let said_of = |world: &World| resolved_refs(world).map(|c| (c.status, c.reason, c.message));
    let holds = |message: &str| (ConditionStatus::True, "ResolvedRefs".to_owned(), message.to_owned());
    let [of_listener, of_gateway] =
        ["All references are resolved", "No listener has a reference that is not resolved"];
    assert_eq!(said_of(&world), [of_listener, of_gateway].map(|all| holds(&format!("{all}."))));
    assert_eq!(told(&world), 0);
    for (told_by_then, now, fault) in [(2, Y2040 + 1, "has expired"), (4, Y2030 - 1, "is not valid yet")] {
        world.translator.set_time(now);
        world.settle();
        let but = format!(", but the certificate of Secret default/c {fault}.");
        assert_eq!(said_of(&world), [of_listener, of_gateway].map(|all| holds(&format!("{all}{but}"))));
        // The listener's and the one for backends.
        assert_eq!(told(&world), told_by_then, "{:?}", world.told);
    }
    // A certificate that takes its place.
    let (always, private) = world::certificate(&["b.example.com"]);
    world.put(secret(&always, &private));
    world.settle();
    assert_eq!(said_of(&world)[0], holds(&format!("{of_listener}.")));
    assert_ne!(world.translator.next_turn(), Some(Y2030), "nobody shows the old one");
}

//! What Secrets and ConfigMaps hold is used, or refused without a word of what is in them.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
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

/// Reasons of the listener's and the Gateway's ResolvedRefs.
fn resolved(world: &World) -> (String, String) {
    let Some(Status::Gateway(status)) = world.status(&key(Kind::Gateway, "default", "gw")) else {
        panic!("no status");
    };
    let reason = |conditions: &[weir_api::condition::Condition]| {
        conditions.iter().find(|c| c.type_ == "ResolvedRefs").expect("the condition").reason.clone()
    };
    (reason(&status.listeners[0].conditions), reason(&status.conditions))
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

//! After any sequence of edits: what came a change at a time equals what comes from scratch, in any order, and nothing
//! makes translation panic.

use std::collections::{BTreeMap, BTreeSet};

use std::sync::OnceLock;

use base64::Engine as _;
use proptest::prelude::*;
use serde_json::{Value, json};
use weir_core::{Kind, Object, ObjectKey, Objects, Status, TranslateConfig, Translator};
use weir_model::resource::BindReport;

use crate::world::{self, World};

/// Everything that a translator says, with equal meanings made equal.
#[derive(Debug, PartialEq)]
struct Saying {
    resources: Vec<(String, Vec<u8>)>,
    statuses: BTreeMap<ObjectKey, Status>,
    diagnostics: Vec<weir_core::Diagnostic>,
    needs: Vec<weir_core::GatewayNeed>,
}

fn saying(translator: &Translator, objects: &Objects) -> Saying {
    use prost::Message as _;
    let keys: BTreeSet<ObjectKey> =
        Kind::ALL.iter().flat_map(|kind| objects.of_kind(*kind)).map(|(key, _)| key.clone()).collect();
    let mut statuses: BTreeMap<ObjectKey, Status> =
        keys.iter().filter_map(|key| Some((key.clone(), translator.status(key)?.clone()))).collect();
    // No entry of ours is the same as never having had one.
    statuses
        .retain(|_, status| *status != Status::Route(Vec::new()) && *status != Status::Policy(Vec::new()));
    // That a set was ours and is nobody's now is known only to who was there.
    statuses.retain(|_, status| match status {
        Status::ListenerSet(status) => !status.conditions[0].message.starts_with("there is no "),
        _ => true,
    });
    Saying {
        resources: translator.resources().map(|r| (r.key().to_owned(), r.encode_to_vec())).collect(),
        statuses,
        diagnostics: translator.diagnostics().cloned().collect(),
        needs: translator.needs().cloned().collect(),
    }
}

#[derive(Clone, Debug)]
enum Edit {
    Upsert(usize, u64),
    Remove(usize),
    ConfirmAll,
    WaiveAll,
    Bind(u64),
    Translate,
    Settle,
    Forget,
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        12 => (0..SLOTS, any::<u64>()).prop_map(|(slot, seed)| Edit::Upsert(slot, seed)),
        3 => (0..SLOTS).prop_map(Edit::Remove),
        1 => Just(Edit::ConfirmAll),
        1 => Just(Edit::WaiveAll),
        1 => any::<u64>().prop_map(Edit::Bind),
        6 => Just(Edit::Translate),
        1 => Just(Edit::Settle),
        1 => Just(Edit::Forget),
    ];
    prop::collection::vec(edit, 1..60)
}

/// A world in which most things fit together, so that edits have something to bend.
fn ordered() -> World {
    let mut world = World::new();
    for slot in 0..SLOTS {
        world.objects.upsert(object(slot, TAME).expect("a readable object"));
    }
    world.settle();
    world
}

fn apply(edits: &[Edit]) -> World {
    let mut world = ordered();
    let mut changed = Vec::new();
    for edit in edits {
        match edit {
            Edit::Upsert(slot, seed) => {
                if let Some(object) = object(*slot, *seed) {
                    let before = world.objects.get(&object.key()).map(|o| o.metadata().uid.clone());
                    if before.is_some_and(|uid| uid != object.metadata().uid) {
                        world.statuses.remove(&object.key());
                    }
                    changed.push(world.objects.upsert(object));
                }
            }
            Edit::Remove(slot) => {
                let key = slot_key(*slot);
                world.objects.remove(&key);
                // What was written is gone with the object.
                world.statuses.remove(&key);
                changed.push(key);
            }
            Edit::ConfirmAll => {
                for key in world.translator.wants().cloned().collect::<Vec<_>>() {
                    world.objects.confirm_absent(key.clone());
                    changed.push(key);
                }
            }
            Edit::WaiveAll => {
                for key in world.translator.waits().cloned().collect::<Vec<_>>() {
                    world.objects.waive(key.clone());
                    changed.push(key);
                }
            }
            Edit::Bind(seed) => {
                let mut dice = Dice(*seed);
                let mut binds = Vec::new();
                for (host, port) in [(1, 80), (1, 81), (2, 80), (2, 81), (3, 80)] {
                    if dice.roll(3) > 0 {
                        let error = dice.pick(&["", "", "in use"]).to_owned();
                        let address = format!("127.0.1.{host}");
                        let udp = dice.roll(4) == 0;
                        binds.push(BindReport { address, port, bound_port: port + 8000, error, udp });
                    }
                }
                world.objects.set_binds(&binds);
            }
            Edit::Translate => {
                world.step(&std::mem::take(&mut changed));
            }
            Edit::Forget => {
                world.step(&std::mem::take(&mut changed));
                let translator = &world.translator;
                world.objects.forget(|key| translator.is_read(key));
            }
            Edit::Settle => {
                world.step(&std::mem::take(&mut changed));
                world.settle();
            }
        }
    }
    world.step(&changed);
    world.settle();
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_change_at_a_time_says_what_a_fresh_start_says(edits in edits()) {
        let world = apply(&edits);
        let mut fresh = Translator::new(TranslateConfig::default());
        let output = fresh.translate(&world.objects, &[]);
        prop_assert!(output.update.full);
        prop_assert_eq!(fresh.waits().count(), 0);
        prop_assert_eq!(saying(&world.translator, &world.objects), saying(&fresh, &world.objects));
    }

    #[test]
    fn every_status_that_holds_was_told_since_the_object_was_made(edits in edits()) {
        let world = apply(&edits);
        for key in (0..SLOTS).map(slot_key) {
            if let Some(status) = world.status(&key) {
                prop_assert_eq!(world.statuses.get(&key), Some(status), "{}", key);
            }
        }
    }

    #[test]
    fn naming_everything_again_says_nothing_new(edits in edits()) {
        let mut world = apply(&edits);
        let keys: Vec<ObjectKey> = (0..SLOTS).map(slot_key).collect();
        let output = world.step(&keys);
        prop_assert!(output.update_is_empty());
        prop_assert!(output.statuses.is_empty() && output.diagnostics.is_empty(), "{:?} {:?}", output.statuses, output.diagnostics);
        prop_assert!(output.gateways.is_empty() && output.released.is_empty());
    }

    #[test]
    fn the_order_of_objects_does_not_matter(
        seeds in prop::collection::vec((0..SLOTS, any::<u64>()), 1..30),
        order in any::<u64>(),
    ) {
        let objects: BTreeMap<ObjectKey, Object> = seeds
            .iter()
            .filter_map(|(slot, seed)| object(*slot, *seed))
            .map(|object| (object.key(), object))
            .collect();
        let mut shuffled: Vec<Object> = objects.values().cloned().collect();
        let mut dice = Dice(order);
        for index in (1..shuffled.len()).rev() {
            shuffled.swap(index, dice.roll(index + 1));
        }
        let mut together = World::new();
        for object in objects.values() {
            together.objects.upsert(object.clone());
        }
        together.settle();
        let mut apart = World::new();
        for object in shuffled {
            let key = apart.objects.upsert(object);
            apart.step(&[key]);
            if dice.roll(4) == 0 {
                apart.settle();
            }
        }
        apart.settle();
        prop_assert_eq!(saying(&together.translator, &together.objects), saying(&apart.translator, &apart.objects));
    }

    #[test]
    fn an_update_leads_from_each_set_of_resources_to_the_next(edits in edits()) {
        let mut world = ordered();
        let mut held: BTreeMap<String, weir_model::resource::Resource> =
            world.translator.resources().map(|r| (r.key().to_owned(), r.clone())).collect();
        for edit in &edits {
            let key = match edit {
                Edit::Upsert(slot, seed) => match object(*slot, *seed) {
                    Some(object) => world.objects.upsert(object),
                    None => continue,
                },
                Edit::Remove(slot) => {
                    world.objects.remove(&slot_key(*slot));
                    slot_key(*slot)
                }
                _ => continue,
            };
            let update = world.step(&[key]).update;
            for resource in update.upserts {
                held.insert(resource.key().to_owned(), resource);
            }
            for key in update.removals {
                prop_assert!(held.remove(&key).is_some(), "{} was not there", key);
            }
            prop_assert!(held.values().eq(world.translator.resources()));
        }
    }

    #[test]
    fn no_object_makes_translation_panic_or_the_data_plane_refuse(
        seeds in prop::collection::vec((0..SLOTS, prop_oneof![Just(TAME), any::<u64>()], any::<u64>()), 1..20),
    ) {
        let mut world = ordered();
        for (slot, seed, damage) in seeds {
            let mut json = json_of(slot, seed);
            spoil(&mut json, &mut Dice(damage));
            if let Ok(object) = Object::read(slot_key(slot).kind, json) {
                let key = world.objects.upsert(object);
                world.step(&[key]);
            }
        }
        world.settle();
        prop_assert_eq!(world.rejected(), []);
    }
}

/// Replaces one value somewhere in an object.
fn spoil(json: &mut Value, dice: &mut Dice) {
    let odd = |dice: &mut Dice| match dice.roll(10) {
        0 => Value::Null,
        1 => json!(-1),
        2 => json!(70_000),
        3 => json!(""),
        4 => json!("((("),
        5 => json!("x".repeat(5_000)),
        6 => json!([]),
        7 => json!({}),
        8 => json!("\r\nX: y"),
        _ => json!("ümlaut/*?%zz"),
    };
    let children = match json {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    };
    if children == 0 || dice.roll(6) == 0 {
        *json = odd(dice);
        return;
    }
    let index = dice.roll(children);
    match json {
        Value::Array(items) => spoil(&mut items[index], dice),
        Value::Object(fields) => spoil(fields.values_mut().nth(index).expect("in range"), dice),
        _ => {}
    }
}

/// A small generator, so that one number is one object.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        usize::try_from(z % u64::try_from(sides).expect("small")).expect("small")
    }

    /// The first is the one that fits together with the first of every other list, and comes most often.
    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        let index = if self.0 == TAME || self.roll(4) > 0 { 0 } else { self.roll(of.len()) };
        of[index].clone()
    }

    /// From 1 on most often.
    fn some(&mut self, most: usize) -> usize {
        if self.0 == TAME {
            most
        } else if self.roll(8) == 0 {
            0
        } else {
            1 + self.roll(most)
        }
    }
}

/// The seed whose objects fit together: nothing is rolled for it.
const TAME: u64 = 0;

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const KINDS: [(Kind, usize); 21] = [
    (Kind::GatewayClass, 3),
    (Kind::Gateway, 4),
    (Kind::ListenerSet, 3),
    (Kind::HttpRoute, 6),
    (Kind::GrpcRoute, 3),
    (Kind::TlsRoute, 2),
    (Kind::TcpRoute, 2),
    (Kind::UdpRoute, 2),
    (Kind::BackendTlsPolicy, 4),
    (Kind::BackendTrafficPolicy, 2),
    (Kind::BackendPolicy, 4),
    (Kind::ReferenceGrant, 3),
    (Kind::Service, 4),
    (Kind::EndpointSlice, 5),
    (Kind::Namespace, 3),
    (Kind::Secret, 3),
    (Kind::ConfigMap, 3),
    (Kind::GatewayConfiguration, 2),
    (Kind::GatewayParameters, 3),
    (Kind::Ingress, 2),
    (Kind::IngressClass, 2),
];
const SLOTS: usize = 65;

fn slot_key(slot: usize) -> ObjectKey {
    let mut index = slot;
    for (kind, count) in KINDS {
        if index < count {
            return match kind {
                Kind::Namespace => ObjectKey::new(kind, "", NAMESPACES[index]),
                Kind::IngressClass => ObjectKey::new(kind, "", ["kong", "n0"][index]),
                Kind::GatewayClass => ObjectKey::new(kind, "", format!("n{index}")),
                _ => ObjectKey::new(kind, NAMESPACES[index % 2], format!("n{}", index / 2)),
            };
        }
        index -= count;
    }
    unreachable!("{slot} is not a slot")
}

fn object(slot: usize, seed: u64) -> Option<Object> {
    Object::read(slot_key(slot).kind, json_of(slot, seed)).ok()
}

fn json_of(slot: usize, seed: u64) -> Value {
    let key = slot_key(slot);
    let mut dice = Dice(seed);
    let mut object = body(key.kind, &mut dice);
    let metadata = &mut object["metadata"];
    metadata["name"] = json!(key.name);
    if !key.namespace.is_empty() {
        metadata["namespace"] = json!(key.namespace);
    }
    metadata["uid"] = json!(format!("uid-{slot}-{}", seed % 2));
    metadata["generation"] = json!(seed % 1_000);
    let second = if seed == TAME { slot } else { usize::try_from(seed % 4).expect("small") };
    metadata["creationTimestamp"] = json!(format!("2024-01-01T00:00:{second:02}Z"));
    object
}

fn body(kind: Kind, dice: &mut Dice) -> Value {
    match kind {
        Kind::GatewayClass => class(dice),
        Kind::Gateway => gateway(dice),
        Kind::ListenerSet => listener_set(dice),
        Kind::HttpRoute => route(dice),
        Kind::GrpcRoute => grpc_route(dice),
        Kind::TlsRoute => l4_route(dice, "s"),
        Kind::TcpRoute => l4_route(dice, "t"),
        Kind::UdpRoute => l4_route(dice, "u"),
        Kind::BackendTlsPolicy => json!({"metadata": {}, "spec": {
            "targetRefs": [
                {"group": "", "kind": dice.pick(&["Service", "Other"]), "name": dice.pick(&["n0", "n1"]),
                 "sectionName": dice.pick(&[json!(null), json!("http"), json!("tls")])},
                {"group": "", "kind": "Service", "name": dice.pick(&["n9", "n0"])}],
            "validation": {"hostname": dice.pick(&["b.example.com", "*.x"]),
                "wellKnownCACertificates": dice.pick(&[json!(null), json!("System"), json!("Odd")]),
                "caCertificateRefs": dice.pick(&[
                    json!([{"group": "", "kind": "ConfigMap", "name": "n0"}]),
                    json!([{"group": "", "kind": "ConfigMap", "name": "n7"}, {"group": "", "kind": "Odd", "name": "n0"}]),
                    json!([])])}}}),
        Kind::BackendTrafficPolicy => json!({"metadata": {}, "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": dice.pick(&["n0", "n1"])}],
            "retryConstraint": dice.pick(&[json!({"budget": {"percent": 30}}), json!({"budget": {"percent": 300}})]),
            "sessionPersistence": dice.pick(&[json!(null), json!({"type": "Header"})])}}),
        Kind::BackendPolicy => json!({"metadata": {}, "spec": {
            "targetRefs": [
                {"group": "", "kind": dice.pick(&["Service", "Service", "Other"]), "name": dice.pick(&["n0", "n1"]),
                 "sectionName": dice.pick(&[json!(null), json!("http"), json!("none"), json!("udp")])},
                {"group": "", "kind": "Service", "name": dice.pick(&["n9", "n0"])}],
            "timeouts": {"connect": dice.pick(&["1s", "2s", "soon"])},
            "retries": {"attempts": dice.pick(&[1, 2, 99])}}}),
        Kind::GatewayParameters => json!({"metadata": {}, "spec": {
            "requests": {"headBytes": dice.pick(&[json!(2048), json!(4096), json!(1), json!("x"), json!(null)])},
            "trustedProxies": dice.pick(&[json!(null), json!([]), json!(["10.0.0.0/8"]), json!(["x", "::1"])]),
            "accessLog": dice.pick(&[json!(null), json!({"mode": "All"}), json!({"mode": "Odd"})]),
            "sessionKeySecretRefs": dice.pick(&[
                json!(null), json!([{"name": "n0", "key": "k"}]),
                json!([{"name": "n1", "key": "k"}, {"name": "n7", "key": "k"}])])}}),
        Kind::Secret => secret(dice),
        Kind::ConfigMap => json!({"metadata": {}, "data": dice.pick(&[
            json!({"ca.crt": pair(0).0}), json!({"ca.crt": pair(1).0}), json!({"ca.crt": "x"}), json!({})])}),
        Kind::ReferenceGrant => json!({"metadata": {}, "spec": {
            "from": [
                {"group": "gateway.networking.k8s.io", "kind": dice.pick(&["HTTPRoute", "GRPCRoute", "TCPRoute"]),
                 "namespace": dice.pick(&["a", "b"])},
                {"group": "gateway.networking.k8s.io", "kind": dice.pick(&["Gateway", "ListenerSet"]),
                 "namespace": dice.pick(&["a", "b"])}],
            "to": [
                {"group": "", "kind": "Service", "name": dice.pick(&[json!("n0"), json!(null), json!("n9")])},
                {"group": "", "kind": dice.pick(&["Secret", "ConfigMap"]), "name": dice.pick(&[json!(null), json!("n0")])}]}}),
        Kind::Service => json!({"metadata": {}, "spec": {
            "type": dice.pick(&["ClusterIP", "ExternalName"]),
            "ports": [{"name": "http", "port": dice.pick(&[80, 81]),
                       "appProtocol": dice.pick(&[json!(null), json!("kubernetes.io/h2c"), json!("https")])},
                      {"name": "udp", "port": dice.pick(&[80, 53]), "protocol": "UDP"}]}}),
        Kind::EndpointSlice => json!({
            "metadata": {"labels": {"kubernetes.io/service-name": dice.pick(&["n0", "n1", "n7"])}},
            "addressType": dice.pick(&["IPv4", "IPv6", "FQDN"]),
            "ports": [{"name": dice.pick(&["http", "other"]), "port": dice.pick(&[8080, 0])},
                      {"name": "udp", "port": 5353, "protocol": "UDP"}],
            "endpoints": [
                {"addresses": [dice.pick(&["10.0.0.1", "10.0.0.2", "::1", "x"])],
                 "conditions": {"ready": dice.pick(&[json!(null), json!(true), json!(false)])}},
                {"addresses": ["10.0.0.3", "10.0.0.1"],
                 "conditions": {"ready": false, "serving": true, "terminating": dice.pick(&[true, false])}}]}),
        Kind::Namespace => json!({"metadata": {"labels": {"team": dice.pick(&["x", "y", "y", "y", "y"])}}}),
        Kind::GatewayConfiguration => json!({"metadata": {}, "spec": dice.pick(&[
            json!({}), json!({"dataPlaneOptions": {"deployment": {"replicas": 2}}})])}),
        Kind::Ingress => json!({"metadata": {}, "spec": {
            "ingressClassName": dice.pick(&[json!(null), json!("kong"), json!("n0"), json!("else")])}}),
        Kind::IngressClass => json!({"metadata": {}, "spec": {
            "controller": dice.pick(&["ingress-controllers.konghq.com/kong", "other/controller"])}}),
    }
}

fn class(dice: &mut Dice) -> Value {
    let controller = dice.pick(&[
        "konghq.com/kic-gateway-controller",
        "weir.dev/gateway-controller",
        "konghq.com/gateway-operator",
        "example.com/other",
    ]);
    let annotations = json!({"konghq.com/gatewayclass-unmanaged": dice.pick(&["true", "true", "false"])});
    let namespace = dice.pick(&["a", "b"]);
    let parameters = dice.pick(&[
        json!(null),
        json!({"group": "gateway-operator.konghq.com", "kind": "GatewayConfiguration", "name": "n0", "namespace": "a"}),
        json!({"group": "weir.dev", "kind": "GatewayParameters", "name": "n0", "namespace": namespace}),
        json!({"group": "x", "kind": "Y", "name": "z"}),
    ]);
    json!({"metadata": {"annotations": annotations},
           "spec": {"controllerName": controller, "parametersRef": parameters}})
}

/// A few certificates, each with its key, made once.
fn pair(index: usize) -> &'static (String, String) {
    static PAIRS: OnceLock<Vec<(String, String)>> = OnceLock::new();
    &PAIRS.get_or_init(|| {
        [["a.example.com"], ["*.example.com"]].iter().map(|n| world::certificate(n)).collect()
    })[index]
}

fn secret(dice: &mut Dice) -> Value {
    let encode = |text: &str| base64::prelude::BASE64_STANDARD.encode(text);
    json!({"metadata": {}, "type": dice.pick(&["kubernetes.io/tls", "Opaque", "weir.dev/session-key"]), "data": {
        "k": dice.pick(&[encode(&"7".repeat(32)), encode(&"8".repeat(32)), encode("short")]),
        "tls.crt": dice.pick(&[encode(&pair(0).0), encode(&pair(1).0), encode("no PEM"), "no base64".to_owned()]),
        "tls.key": dice.pick(&[encode(&pair(0).1), encode(&pair(1).1), encode("no PEM")])}})
}

fn listeners(dice: &mut Dice, most: usize) -> Vec<Value> {
    (0..dice.some(most))
        .map(|index| {
            let protocols = [["HTTP", "TCP"], ["HTTP", "HTTPS"], ["HTTPS", "TLS"], ["TLS", "UDP"], ["TCP", "HTTP"], ["UDP", "x.com/odd"]];
            let protocol = dice.pick(&protocols[index]);
            let certificate = json!({"name": dice.pick(&["n0", "n1", "n7"]),
                "namespace": dice.pick(&[json!("a"), json!(null), json!("b")]),
                "kind": dice.pick(&["Secret", "Secret", "Odd"])});
            let tls = json!({"mode": dice.pick(&[["Terminate", "Passthrough"][usize::from(index == 3)], "Terminate", "Passthrough", "Odd"]),
                "certificateRefs": [certificate]});
            json!({"name": dice.pick(&[&format!("l{index}"), "l0", "m"]),
                "port": dice.pick(&[80 + index, 80, 81]),
                "protocol": protocol,
                "tls": if matches!(protocol, "HTTPS" | "TLS") { tls } else { json!(null) },
                "hostname": dice.pick(&[json!(null), json!("*.example.com"), json!("a.example.com")]),
                "allowedRoutes": {
                    "namespaces": {
                        "from": dice.pick(&[["All", "Same", "Selector"][index % 3], "Selector", "All", "None", "Odd"]),
                        "selector": {"matchLabels": {"team": "x"}}},
                    "kinds": dice.pick(&[
                        json!([]), json!([]), json!([{"kind": "HTTPRoute"}, {"kind": "Odd"}]), json!([{"kind": "Odd"}])])}})
        })
        .collect()
}

fn gateway(dice: &mut Dice) -> Value {
    let listeners = listeners(dice, 6);
    let name = dice.pick(&["n0", "n1"]);
    let infrastructure = dice.pick(&[
        json!(null),
        json!({"labels": {"a": "b"}}),
        json!({"parametersRef": {"group": "gateway-operator.konghq.com", "kind": "GatewayConfiguration", "name": "n0"}}),
        json!({"parametersRef": {"group": "weir.dev", "kind": "GatewayParameters", "name": name}}),
    ]);
    let addresses = dice.pick(&[json!([]), json!([{"value": "127.0.0.77"}]), json!([{"type": "x.y/z"}])]);
    let bundle = json!({"group": "", "kind": dice.pick(&["ConfigMap", "Odd"]), "name": dice.pick(&["n0", "n1"]),
        "namespace": dice.pick(&[json!(null), json!("b")])});
    let validation = json!({"validation": {"caCertificateRefs": [bundle],
        "mode": dice.pick(&["AllowValidOnly", "AllowInsecureFallback"])}});
    let tls = json!({
        "backend": {"clientCertificateRef": {"name": dice.pick(&["n0", "n6"]),
            "namespace": dice.pick(&[json!(null), json!("a"), json!("b")])}},
        "frontend": dice.pick(&[
            json!(null), json!({"default": {}, "perPort": [{"port": 81, "tls": validation}]}),
            json!({"default": validation})])});
    json!({"metadata": {}, "spec": {
        "gatewayClassName": dice.pick(&["n0", "n1", "n2", "n5"]), "tls": dice.pick(&[json!(null), tls]),
        "allowedListeners": {"namespaces": {"from": dice.pick(&["All", "Same", "None", "Selector"]),
                                            "selector": {"matchLabels": {"team": "x"}}}},
        "defaultScope": dice.pick(&[json!(null), json!("All")]),
        "listeners": listeners, "addresses": addresses, "infrastructure": infrastructure}})
}

fn listener_set(dice: &mut Dice) -> Value {
    let mut listeners = listeners(dice, 2);
    let first = dice.pick(&[90, 80]);
    for (index, listener) in listeners.iter_mut().enumerate() {
        listener["port"] = json!(first + index);
    }
    json!({"metadata": {}, "spec": {
        "parentRef": {"name": dice.pick(&["n0", "n1", "n8"]), "namespace": dice.pick(&[json!("a"), json!(null), json!("b")])},
        "listeners": listeners}})
}

fn parents(dice: &mut Dice, section: &str) -> Vec<Value> {
    (0..dice.some(2))
        .map(|_| {
            json!({"kind": dice.pick(&["Gateway", "ListenerSet", "Service"]),
                "namespace": dice.pick(&[json!("a"), json!(null), json!("b")]),
                "name": dice.pick(&["n0", "n1", "n8"]),
                "sectionName": dice.pick(&[json!(null), json!(section), json!("l9")]),
                "port": dice.pick(&[json!(null), json!(80), json!(99)])})
        })
        .collect()
}

fn backends(dice: &mut Dice, port: u32) -> Vec<Value> {
    (0..dice.some(2))
        .map(|_| {
            json!({"name": dice.pick(&["n0", "n1", "n6"]), "kind": dice.pick(&["Service", "Other"]),
                "namespace": dice.pick(&[json!(null), json!("a"), json!("b"), json!("b")]),
                "port": dice.pick(&[json!(port), json!(80), json!(81), json!(null)]),
                "weight": dice.pick(&[json!(null), json!(0), json!(5), json!(-3)])})
        })
        .collect()
}

fn grpc_route(dice: &mut Dice) -> Value {
    let hosts = dice.pick(&[json!(["g.example.com"]), json!(["*.example.com"]), json!([])]);
    json!({"metadata": {}, "spec": {"parentRefs": parents(dice, "l0"), "hostnames": hosts,
        "useDefaultGateways": dice.pick(&[json!(null), json!("All")]),
        "rules": [{
            "matches": dice.pick(&[
                json!([]), json!([{"method": {"service": "a.B", "method": "C"}}]),
                json!([{"method": {"type": "RegularExpression", "service": "("}}, {"headers": [{"name": "x", "value": "y"}]}])]),
            "filters": dice.pick(&[
                json!([]), json!([{"type": "URLRewrite", "urlRewrite": {}}]),
                json!([{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "n0", "port": 80}}}])]),
            "backendRefs": backends(dice, 80)}]}})
}

fn l4_route(dice: &mut Dice, name: &str) -> Value {
    let port = if name == "u" { dice.pick(&[80, 53]) } else { 80 };
    json!({"metadata": {}, "spec": {"parentRefs": parents(dice, "l3"),
        "hostnames": dice.pick(&[json!(["a.example.com"]), json!(["*.b.org"])]),
        "useDefaultGateways": dice.pick(&[json!(null), json!("All")]),
        "rules": [{"name": name, "backendRefs": backends(dice, port)}]}})
}

fn route(dice: &mut Dice) -> Value {
    let parents = parents(dice, "l0");
    let rules: Vec<Value> = (0..dice.some(2)).map(|_| rule(dice)).collect();
    json!({"metadata": {"annotations": dice.pick(&[
                json!({}), json!({"konghq.com/strip-path": "true"}), json!({"konghq.com/plugins": "p"})])},
        "spec": {"parentRefs": parents,
            "useDefaultGateways": dice.pick(&[json!(null), json!("All")]),
            "hostnames": dice.pick(&[json!([]), json!(["a.example.com"]), json!(["b.org", "*.example.com"])]),
            "rules": rules}})
}

fn rule(dice: &mut Dice) -> Value {
    let backends = backends(dice, 80);
    json!({"name": dice.pick(&[json!(null), json!("r")]),
        "matches": dice.pick(&[
            json!([]),
            json!([{"path": {"value": "/x"}}]),
            json!([{"path": {"type": "RegularExpression", "value": "/("}}, {"method": "GET"}])]),
        "filters": dice.pick(&[
            json!([]),
            json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x"]}}]),
            json!([{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "n0", "port": 80}, "percent": 20}}]),
            json!([{"type": "CORS", "cors": {"allowOrigins": ["https://a.com"]}}, {"type": "Odd"}]),
            json!([{"type": "ExternalAuth", "externalAuth": {"protocol": "GRPC", "backendRef": {"name": "n1", "port": 80}}},
                   {"type": "ExtensionRef", "extensionRef": {"group": "x", "kind": "Y", "name": "z"}}])]),
        "retry": dice.pick(&[json!(null), json!({"codes": [500]}), json!({"attempts": -1})]),
        "sessionPersistence": dice.pick(&[json!(null), json!({}), json!({"absoluteTimeout": "later"})]),
        "timeouts": dice.pick(&[json!(null), json!({"request": "10s"}), json!({"request": "soon"})]),
        "backendRefs": backends})
}

#[test]
fn the_ordered_world_has_something_of_everything() {
    let world = ordered();
    let keys = |kind: &str| world.translator.resources().filter(|r| r.key().starts_with(kind)).count();
    let shared =
        world.statuses.values().filter(|status| format!("{status:?}").contains("Shared with")).count();
    let sayings = [keys("listener/"), keys("httproute/"), keys("backend/"), shared];
    assert!(
        sayings.iter().all(|count| *count >= 2),
        "listeners, routes, backends, shared Gateways: {sayings:?}"
    );
}

#[test]
fn the_slots_are_all_kinds() {
    let keys: BTreeSet<ObjectKey> = (0..SLOTS).map(slot_key).collect();
    assert_eq!(keys.len(), SLOTS);
    assert_eq!(keys.iter().map(|key| key.kind).collect::<BTreeSet<_>>().len(), Kind::ALL.len());
    for slot in 0..SLOTS {
        assert!((0..20).all(|seed| object(slot, seed).is_some()), "{} is not readable", slot_key(slot));
    }
}

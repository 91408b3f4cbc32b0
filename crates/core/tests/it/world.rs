//! A cluster and a data plane in miniature: objects, somebody who answers what translation asks, and sockets that bind.

use std::collections::BTreeMap;

use serde_json::Value;
use weir_api::gateway_api::{AddressType, GatewayStatusAddress};
use weir_core::{
    AddressProblem, Addresses, ClassKind, Diagnostic, Kind, Object, ObjectKey, Objects, Output, ReservedPort,
    Status, TranslateConfig, Translator,
};
use weir_model::resource::{BindReport, Body, ListenerProtocol, Rejected, Resource, Update};
use weir_model::table::Snapshot;

pub(crate) fn read(json: Value) -> Object {
    let kind = kind_of(json["kind"].as_str().expect("a kind"));
    Object::read(kind.expect("a kind that is translated"), json).expect("a readable object")
}

pub(crate) fn kind_of(name: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.as_str() == name)
}

/// What the test says about the world beside the objects.
#[derive(Default)]
pub(crate) struct Circumstances {
    /// `namespace/name` of Gateways that get something else than an address of their own.
    pub(crate) addresses: BTreeMap<String, Addresses>,
    /// Binds that do not simply succeed.
    pub(crate) binds: Vec<BindReport>,
    /// Nothing that is asked for is answered.
    pub(crate) silent: bool,
    /// What the API that is served has.
    pub(crate) features: Vec<String>,
    /// Ports that the data plane has for itself.
    pub(crate) reserved_ports: &'static [ReservedPort],
}

pub(crate) struct World {
    pub(crate) objects: Objects,
    pub(crate) translator: Translator,
    pub(crate) circumstances: Circumstances,
    pub(crate) statuses: BTreeMap<ObjectKey, Status>,
    pub(crate) told: Vec<Diagnostic>,
}

impl World {
    pub(crate) fn new() -> World {
        World::with(Circumstances::default())
    }

    pub(crate) fn with(circumstances: Circumstances) -> World {
        World {
            objects: Objects::new(),
            translator: Translator::new(TranslateConfig {
                supported_features: circumstances.features.clone(),
                reserved_ports: circumstances.reserved_ports,
                ..TranslateConfig::default()
            }),
            circumstances,
            statuses: BTreeMap::new(),
            told: Vec::new(),
        }
    }

    pub(crate) fn step(&mut self, changed: &[ObjectKey]) -> Output {
        let output = self.translator.translate(&self.objects, changed);
        self.statuses.extend(output.statuses.iter().cloned());
        self.told.extend(output.diagnostics.iter().cloned());
        output
    }

    /// Puts an object in and translates, without answering anything.
    pub(crate) fn put(&mut self, json: Value) -> Output {
        let key = self.objects.upsert(read(json));
        self.step(&[key])
    }

    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Output {
        self.objects.remove(key);
        self.step(std::slice::from_ref(key))
    }

    /// Answers everything that is open until nothing is: what is not there is absent, waits are over, Gateways have
    /// addresses and listeners are bound.
    pub(crate) fn settle(&mut self) {
        self.step(&[]);
        for _ in 0..100 {
            let mut changed = Vec::new();
            if !self.circumstances.silent {
                for key in self.translator.wants().cloned().collect::<Vec<_>>() {
                    self.objects.confirm_absent(key.clone());
                    changed.push(key);
                }
                for key in self.translator.waits().cloned().collect::<Vec<_>>() {
                    self.objects.waive(key.clone());
                    changed.push(key);
                }
            }
            changed.extend(self.provision());
            let bound = self.bind();
            if changed.is_empty() && !bound {
                return;
            }
            self.step(&changed);
        }
        let wants: Vec<String> = self.translator.wants().map(ToString::to_string).collect();
        let waits: Vec<String> = self.translator.waits().map(ToString::to_string).collect();
        panic!("translation does not come to rest: wants {wants:?}, waits {waits:?}");
    }

    fn provision(&mut self) -> Vec<ObjectKey> {
        let needs: Vec<_> = self.translator.needs().cloned().collect();
        let mut changed = Vec::new();
        for (index, need) in needs.iter().enumerate() {
            let path = format!("{}/{}", need.gateway.namespace, need.gateway.name);
            let shared = need.kind == ClassKind::Unmanaged;
            let address = if shared { "127.0.0.9".to_owned() } else { format!("127.0.1.{}", index + 1) };
            let plain = || Addresses {
                bind: vec![address.clone()],
                published: vec![GatewayStatusAddress {
                    type_: AddressType::IpAddress,
                    value: address.clone(),
                }],
                shared,
                problem: None,
            };
            let addresses = self.circumstances.addresses.get(&path).cloned().unwrap_or_else(plain);
            if self.objects.addresses(&need.gateway).is_none_or(|known| **known != addresses) {
                self.objects.set_addresses(&need.gateway, addresses);
                changed.push(need.gateway.clone());
            }
        }
        changed
    }

    /// Whether any bind changed.
    fn bind(&mut self) -> bool {
        let mut places: BTreeMap<(String, u32, bool), BindReport> = BTreeMap::new();
        for resource in self.translator.resources() {
            if let Some(Body::Listener(listener)) = &resource.body {
                let (address, port) = (listener.address.clone(), listener.port);
                let udp = listener.protocol() == ListenerProtocol::Udp;
                let error = String::new();
                let report = BindReport { address: address.clone(), port, bound_port: port, error, udp };
                places.insert((address, port, udp), report);
            }
        }
        for bind in &self.circumstances.binds {
            places.insert((bind.address.clone(), bind.port, bind.udp), bind.clone());
        }
        let binds: Vec<BindReport> = places.into_values().collect();
        let before = self.objects.clone();
        self.objects.set_binds(&binds);
        before.bind_reports().ne(self.objects.bind_reports())
    }

    /// What the data plane would not take: nothing ever, or translation said nothing about a part that it should have
    /// judged.
    pub(crate) fn rejected(&self) -> Vec<Rejected> {
        let upserts = self.translator.resources().cloned().collect();
        let update = Update { full: true, upserts, ..Update::default() };
        Snapshot::empty(0).apply(&update).1
    }

    pub(crate) fn resource(&self, key: &str) -> Option<&Resource> {
        self.translator.resources().find(|resource| resource.key() == key)
    }

    pub(crate) fn status(&self, key: &ObjectKey) -> Option<&Status> {
        self.translator.status(key)
    }
}

pub(crate) fn key(kind: Kind, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(kind, namespace, name)
}

/// Reads what a `World` document of a golden says.
pub(crate) fn circumstances(json: &Value) -> Circumstances {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let number = |value: &Value| u32::try_from(value.as_u64().unwrap_or_default()).expect("a port");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut all =
        Circumstances { silent: json["silent"].as_bool().unwrap_or(false), ..Circumstances::default() };
    all.features = texts(&json["features"]);
    if json["inPods"] == true {
        all.reserved_ports = &[ReservedPort { port: 19_901, why: "the data plane answers probes there" }];
    }
    for (path, given) in json["addresses"].as_object().into_iter().flatten() {
        let bind = texts(&given["bind"]);
        let problem = &given["problem"];
        let message = |kind: &str| problem[kind].as_str().map(str::to_owned);
        let published = bind
            .iter()
            .map(|value| GatewayStatusAddress { type_: AddressType::IpAddress, value: value.clone() })
            .collect();
        let problem = message("notUsable")
            .map(AddressProblem::NotUsable)
            .or_else(|| message("notAssigned").map(AddressProblem::NotAssigned))
            .or_else(|| message("notReady").map(AddressProblem::NotReady))
            .or_else(|| message("noResources").map(AddressProblem::NoResources));
        let shared = given["shared"].as_bool().unwrap_or(false);
        all.addresses.insert(path.clone(), Addresses { bind, published, shared, problem });
    }
    for bind in json["binds"].as_array().into_iter().flatten() {
        all.binds.push(BindReport {
            address: text(&bind["address"]),
            port: number(&bind["port"]),
            bound_port: number(&bind["boundPort"]),
            error: text(&bind["error"]),
            udp: bind["udp"].as_bool().unwrap_or(false),
        });
    }
    all
}

/// A certificate for these names and its key, PEM.
pub(crate) fn certificate(names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

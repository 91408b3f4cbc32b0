//! Who gets what: by hand, and against a set that is made anew.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use weir_model::resource::{
    Attachment, Backend, Body, CaBundle, Certificate, DataPlaneName, Endpoint, Endpoints, HttpRoute,
    HttpRule, L4Route, Listener, ListenerTls, Resource, Update, WeightedBackend,
};

use super::{Changed, Graph, PlaneId};

pub(crate) fn plane(name: &str) -> DataPlaneName {
    DataPlaneName::new("default", name)
}

pub(crate) fn listener(name: &str, place: &str, certificate: Option<&str>) -> Resource {
    let tls = certificate.map(|key| ListenerTls {
        certificates: vec![format!("certificate/{key}")],
        ..ListenerTls::default()
    });
    body(Body::Listener(Listener {
        key: format!("listener/default/{name}"),
        address: place.to_owned(),
        port: 80,
        tls,
        ..Listener::default()
    }))
}

pub(crate) fn route(name: &str, listeners: &[&str], services: &[&str]) -> Resource {
    let attached = |name: &&str| Attachment {
        listener_key: format!("listener/default/{name}"),
        hostnames: vec![String::new()],
    };
    let rule =
        HttpRule { backends: services.iter().map(|name| weighted(name)).collect(), ..HttpRule::default() };
    body(Body::HttpRoute(HttpRoute {
        key: format!("httproute/default/{name}"),
        attachments: listeners.iter().map(attached).collect(),
        rules: vec![rule],
        ..HttpRoute::default()
    }))
}

fn weighted(service: &str) -> WeightedBackend {
    WeightedBackend {
        weight: 1,
        backend_key: format!("backend/default/{service}/80"),
        ..WeightedBackend::default()
    }
}

pub(crate) fn backend(service: &str, authority: Option<&str>) -> Resource {
    let tls = authority.map(|key| weir_model::resource::BackendTls {
        ca_bundles: vec![format!("cabundle/{key}")],
        ..weir_model::resource::BackendTls::default()
    });
    body(Body::Backend(Backend { key: format!("backend/default/{service}/80"), tls, ..Backend::default() }))
}

pub(crate) fn endpoints(service: &str, port: u32) -> Resource {
    body(Body::Endpoints(Endpoints {
        key: format!("endpoints/default/{service}/80"),
        backend_key: format!("backend/default/{service}/80"),
        endpoints: vec![Endpoint { address: "127.0.0.1".to_owned(), port }],
    }))
}

pub(crate) fn certificate(key: &str, content: u8) -> Resource {
    body(Body::Certificate(Certificate {
        key: format!("certificate/{key}"),
        chain: vec![content],
        private_key: vec![content],
    }))
}

fn authority(key: &str) -> Resource {
    body(Body::CaBundle(CaBundle { key: format!("cabundle/{key}"), certificates: vec![1] }))
}

fn body(body: Body) -> Resource {
    Resource { body: Some(body) }
}

pub(crate) fn upserts(upserts: Vec<Resource>) -> Update {
    Update { upserts, ..Update::default() }
}

fn removals(keys: &[&str]) -> Update {
    Update { removals: keys.iter().map(|key| (*key).to_owned()).collect(), ..Update::default() }
}

fn keys(graph: &mut Graph, name: &str) -> Vec<String> {
    let id = graph.plane(&plane(name));
    graph.entries(id).keys().map(|key| key.to_string()).collect()
}

fn two_planes() -> Graph {
    let mut graph = Graph::default();
    graph.apply(&upserts(vec![
        listener("a", "plane:default/a", Some("a")),
        listener("b", "plane:default/b", Some("b")),
        certificate("a", 1),
        certificate("b", 2),
        certificate("unused", 3),
        route("only-a", &["a"], &["one"]),
        route("both", &["a", "b"], &["two", "absent"]),
        backend("one", None),
        backend("two", Some("x")),
        backend("unused", None),
        authority("x"),
        endpoints("one", 1),
        endpoints("two", 2),
        endpoints("unused", 3),
    ]));
    graph
}

#[test]
fn a_data_plane_gets_what_its_listeners_lead_to_and_nothing_else() {
    let mut graph = two_planes();
    assert_eq!(
        keys(&mut graph, "a"),
        [
            "backend/default/one/80",
            "backend/default/two/80",
            "cabundle/x",
            "certificate/a",
            "endpoints/default/one/80",
            "endpoints/default/two/80",
            "httproute/default/both",
            "httproute/default/only-a",
            "listener/default/a",
        ]
    );
    assert_eq!(
        keys(&mut graph, "b"),
        [
            "backend/default/two/80",
            "cabundle/x",
            "certificate/b",
            "endpoints/default/two/80",
            "httproute/default/both",
            "listener/default/b",
        ]
    );
    assert_eq!(keys(&mut graph, "c"), [] as [&str; 0]);
}

#[test]
fn of_a_route_that_others_share_each_sees_its_own_attachments() {
    let mut graph = two_planes();
    for name in ["a", "b"] {
        let id = graph.plane(&plane(name));
        let entry = &graph.entries(id)["httproute/default/both"];
        let Some(Body::HttpRoute(route)) = entry.resource().unwrap().body else { panic!("no route") };
        let listeners: Vec<&str> = route.attachments.iter().map(|one| one.listener_key.as_str()).collect();
        assert_eq!(listeners, [format!("listener/default/{name}")]);
        let entry = &graph.entries(id)[format!("listener/default/{name}").as_str()];
        let Some(Body::Listener(listener)) = entry.resource().unwrap().body else { panic!("no listener") };
        assert_eq!(listener.address, "::", "the place stays here");
    }
}

#[test]
fn what_is_led_to_no_more_goes_with_what_it_led_to() {
    let mut graph = two_planes();
    let (a, b) = (graph.plane(&plane("a")), graph.plane(&plane("b")));
    let changed = graph.apply(&upserts(vec![route("both", &["b"], &["two"])]));
    assert!(!keys(&mut graph, "a").iter().any(|key| key.contains("two") || key.contains("cabundle")));
    assert_eq!(changed[&a].configuration.len(), 4, "route, backend, endpoints, authority: {changed:?}");
    assert_eq!(changed[&b].configuration.len(), 1, "the route: {changed:?}");
    graph.apply(&removals(&["listener/default/a"]));
    assert_eq!(keys(&mut graph, "a"), [] as [&str; 0]);
    let changed = graph.apply(&upserts(vec![listener("b", "plane:default/a", Some("b"))]));
    assert_eq!(keys(&mut graph, "b"), [] as [&str; 0]);
    assert_eq!(keys(&mut graph, "a").len(), 6);
    assert_eq!(changed.len(), 2);
}

#[test]
fn endpoints_that_change_travel_apart_and_those_that_come_do_not() {
    let mut graph = two_planes();
    let (a, b) = (graph.plane(&plane("a")), graph.plane(&plane("b")));
    let changed = graph.apply(&upserts(vec![endpoints("two", 9)]));
    for id in [a, b] {
        assert_eq!(changed[&id].endpoints.len(), 1);
        assert!(changed[&id].configuration.is_empty());
    }
    let changed = graph.apply(&upserts(vec![route("new", &["b"], &["one"])]));
    assert!(changed[&b].configuration.contains("endpoints/default/one/80"), "with its route");
    assert!(!changed.contains_key(&a));
    assert!(graph.apply(&upserts(vec![endpoints("two", 9)])).is_empty(), "nothing new");
    assert!(graph.apply(&upserts(vec![endpoints("unused", 4)])).is_empty(), "nobody's");
}

#[test]
fn an_address_is_no_data_plane() {
    let mut graph = Graph::default();
    let changed = graph.apply(&upserts(vec![
        listener("a", "127.0.0.1", None),
        route("r", &["a"], &["one"]),
        backend("one", None),
    ]));
    assert_eq!(changed, BTreeMap::<PlaneId, Changed>::new());
}

#[test]
fn an_edit_costs_the_same_among_a_hundred_routes_and_among_ten_thousand() {
    let cost = |count: usize| {
        let mut graph = Graph::default();
        let mut all = vec![listener("a", "plane:default/a", None)];
        for index in 0..count {
            all.push(route(&format!("r{index}"), &["a"], &[&format!("s{}", index % 50)]));
        }
        all.extend((0..50).map(|index| backend(&format!("s{index}"), None)));
        graph.apply(&upserts(all));
        let before = graph.work;
        graph.apply(&upserts(vec![route("r7", &["a"], &["s9", "s8"])]));
        graph.apply(&removals(&["httproute/default/r8"]));
        graph.work - before
    };
    let (few, many) = (cost(100), cost(10_000));
    assert_eq!(few, many);
    assert!(few < 40, "{few}");
}

/// One random edit.
#[derive(Clone, Debug)]
enum Edit {
    Put(Box<Resource>),
    Remove(String),
    /// Everything that there is, as after a restart of the source.
    Full,
}

fn edits() -> impl Strategy<Value = Vec<Vec<Edit>>> {
    let name = || (0..4_usize).prop_map(|index| ["a", "b", "c", "d"][index]);
    let names = || proptest::collection::vec(name(), 0..3);
    let place =
        prop_oneof![name().prop_map(|name| format!("plane:default/{name}")), Just("127.0.0.1".to_owned()),];
    let put = prop_oneof![
        (name(), place, proptest::option::of(name())).prop_map(|(n, p, c)| listener(n, &p, c)),
        (name(), names(), names()).prop_map(|(n, listeners, services)| route(n, &listeners, &services)),
        (name(), names(), name()).prop_map(|(n, listeners, service)| l4(n, &listeners, service)),
        (name(), proptest::option::of(name())).prop_map(|(n, authority)| backend(n, authority)),
        (name(), 1..4_u32).prop_map(|(n, port)| endpoints(n, port)),
        (name(), 0..3_u8).prop_map(|(n, content)| certificate(n, content)),
        name().prop_map(authority),
    ];
    let edit = prop_oneof![
        8 => put.clone().prop_map(|resource| Edit::Put(Box::new(resource))),
        4 => put.prop_map(|resource| Edit::Remove(resource.key().to_owned())),
        1 => Just(Edit::Full),
    ];
    proptest::collection::vec(proptest::collection::vec(edit, 1..6), 1..30)
}

fn l4(name: &str, listeners: &[&str], service: &str) -> Resource {
    let attached = |name: &&str| Attachment {
        listener_key: format!("listener/default/{name}"),
        hostnames: vec![String::new()],
    };
    body(Body::L4Route(L4Route {
        key: format!("tcproute/default/{name}"),
        attachments: listeners.iter().map(attached).collect(),
        backends: vec![weighted(service)],
        ..L4Route::default()
    }))
}

/// What a data plane is to have, the plain way: over and over until nothing more comes in.
fn plain(all: &BTreeMap<String, Resource>, name: &str) -> BTreeSet<String> {
    let place = plane(name).place();
    let mut set: BTreeSet<String> = all
        .values()
        .filter(|one| matches!(&one.body, Some(Body::Listener(listener)) if listener.address == place))
        .map(|one| one.key().to_owned())
        .collect();
    let listeners = set.clone();
    for (key, one) in all {
        if weir_model::references::attachments(one).iter().any(|listener| listeners.contains(listener)) {
            set.insert(key.clone());
        }
    }
    loop {
        let more: BTreeSet<String> = set
            .iter()
            .flat_map(|key| weir_model::references::references(&all[key]))
            .filter(|key| all.contains_key(key) && !set.contains(key))
            .collect();
        if more.is_empty() {
            return set;
        }
        set.extend(more);
    }
}

fn all_hashes(graph: &mut Graph) -> BTreeMap<(&'static str, String), Vec<u8>> {
    let mut hashes = BTreeMap::new();
    for name in ["a", "b", "c", "d"] {
        let id = graph.plane(&plane(name));
        for (key, entry) in graph.entries(id) {
            hashes.insert((name, key.to_string()), entry.hash.to_vec());
        }
    }
    hashes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn what_edits_lead_to_is_what_the_whole_would_be(steps in edits()) {
        let mut graph = Graph::default();
        let mut all: BTreeMap<String, Resource> = BTreeMap::new();
        for step in steps {
            let before = all_hashes(&mut graph);
            let mut update = Update::default();
            for edit in step {
                match edit {
                    Edit::Put(resource) => {
                        all.insert(resource.key().to_owned(), (*resource).clone());
                        update.removals.retain(|key| key != resource.key());
                        update.upserts.retain(|other| other.key() != resource.key());
                        update.upserts.push(*resource);
                    }
                    Edit::Remove(key) => {
                        all.remove(&key);
                        update.upserts.retain(|other| other.key() != key);
                        update.removals.push(key);
                    }
                    Edit::Full => update.full = true,
                }
            }
            if update.full {
                update.upserts = all.values().cloned().collect();
            }
            let changed = graph.apply(&update);
            let mut anew = Graph::default();
            anew.apply(&Update { full: true, ..upserts(all.values().cloned().collect()) });
            let after = all_hashes(&mut graph);
            prop_assert_eq!(&after, &all_hashes(&mut anew));
            for name in ["a", "b", "c", "d"] {
                prop_assert_eq!(keys(&mut graph, name).into_iter().collect::<BTreeSet<_>>(), plain(&all, name));
                // What is told to have changed is what did.
                let id = graph.plane(&plane(name));
                let of = |hashes: &BTreeMap<(&'static str, String), Vec<u8>>, key: &str| {
                    hashes.get(&(name, key.to_owned())).cloned()
                };
                let both = before.keys().chain(after.keys()).filter(|(of, _)| *of == name);
                let differs: BTreeSet<&str> = both
                    .map(|(_, key)| key.as_str())
                    .filter(|key| of(&before, key) != of(&after, key))
                    .collect();
                let told: BTreeSet<&str> = changed
                    .get(&id)
                    .into_iter()
                    .flat_map(|changed| changed.configuration.iter().chain(&changed.endpoints))
                    .map(|key| &**key)
                    .collect();
                prop_assert_eq!(told, differs);
                // One without listeners has left nothing behind, and may be forgotten.
                let place = plane(name).place();
                let is_its = |one: &Resource| matches!(&one.body, Some(Body::Listener(of)) if of.address == place);
                let has_listeners = all.values().any(is_its);
                prop_assert_eq!(graph.has_listeners(id), has_listeners);
                graph.forget(id);
                prop_assert_eq!(graph.name(id).is_some(), has_listeners);
                let leads_to = |slot: &super::Slot| slot.counts.iter().any(|(of, _)| *of == id);
                prop_assert!(has_listeners || !graph.slots.values().any(leads_to));
            }
        }
    }
}

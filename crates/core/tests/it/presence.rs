//! Watches of different kinds are not ordered: what is not there yet is not called missing.

use serde_json::{Value, json};
use weir_api::condition::Condition;
use weir_core::{Addresses, Kind, ObjectKey, Status};
use weir_model::resource::{BindReport, Body, HttpRoute};

use crate::world::{World, key};

fn service(name: &str) -> Value {
    json!({"kind": "Service", "metadata": {"namespace": "default", "name": name},
           "spec": {"ports": [{"name": "http", "port": 80}]}})
}

fn slice(service: &str) -> Value {
    json!({"kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": format!("{service}-1"),
                     "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.1"]}]})
}

fn route(generation: i64, backends: &[&str]) -> Value {
    let backends: Vec<Value> = backends.iter().map(|name| json!({"name": name, "port": 80})).collect();
    json!({"kind": "HTTPRoute", "metadata": {"namespace": "default", "name": "r", "generation": generation},
           "spec": {"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": backends}]}})
}

/// A Gateway that is bound, a Service `old` with an endpoint, and a route to it.
fn serving() -> World {
    let mut world = World::new();
    world.put(json!({"kind": "GatewayClass", "metadata": {"name": "weir"},
        "spec": {"controllerName": "weir.dev/gateway-controller"}}));
    world.put(json!({"kind": "Gateway", "metadata": {"namespace": "default", "name": "gw", "generation": 1},
        "spec": {"gatewayClassName": "weir", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}));
    world.put(service("old"));
    world.put(slice("old"));
    world.put(route(1, &["old"]));
    world.settle();
    world
}

fn programmed(world: &World) -> Option<HttpRoute> {
    match world.resource("httproute/default/r")?.body.clone() {
        Some(Body::HttpRoute(route)) => Some(route),
        _ => None,
    }
}

fn backends(world: &World) -> Vec<(String, String)> {
    let route = programmed(world).expect("the route");
    route.rules[0].backends.iter().map(|b| (b.backend_key.clone(), b.invalid_reason.clone())).collect()
}

fn route_key() -> ObjectKey {
    key(Kind::HttpRoute, "default", "r")
}

#[test]
fn an_edited_route_keeps_its_last_good_form_while_a_service_is_unknown() {
    let mut world = serving();
    let before = programmed(&world);
    let output = world.put(route(2, &["old", "new"]));
    assert!(output.update_is_empty() && output.statuses.is_empty());
    assert_eq!(output.wants, [key(Kind::Service, "default", "new")]);
    assert_eq!(output.waits, output.wants);
    assert_eq!(programmed(&world), before);

    let output = world.put(service("new"));
    assert!(output.update_is_empty() && output.statuses.is_empty(), "it has no EndpointSlice yet");
    let output = world.put(slice("new"));
    let keys: Vec<&str> = output.update.upserts.iter().map(|r| r.key()).collect();
    assert_eq!(keys, ["backend/default/new/80", "endpoints/default/new/80", "httproute/default/r"]);
    assert!(matches!(&output.statuses[..], [(_, Status::Route(_))]));
    assert_eq!(world.translator.waits().count(), 0);
}

#[test]
fn a_new_route_waits_with_its_status() {
    let mut world = serving();
    world.remove(&route_key());
    let output = world.put(route(1, &["new"]));
    assert!(output.update_is_empty() && output.statuses.is_empty() && output.diagnostics.is_empty());
    assert_eq!(programmed(&world), None);
    let new = key(Kind::Service, "default", "new");
    world.objects.confirm_absent(new.clone());
    let output = world.step(&[new]);
    assert_eq!(output.statuses.len(), 2, "the route and the Gateway that counts it: {:?}", output.statuses);
    assert_eq!(backends(&world), [("backend/default/new/80".to_owned(), "BackendNotFound".to_owned())]);
}

#[test]
fn a_service_without_slices_is_waited_for_until_waived() {
    let mut world = serving();
    world.put(service("new"));
    let output = world.put(route(2, &["new"]));
    let new = key(Kind::Service, "default", "new");
    assert!(output.update_is_empty() && output.wants.is_empty());
    assert_eq!(output.waits, std::slice::from_ref(&new));
    world.objects.waive(new.clone());
    let output = world.step(&[new]);
    assert!(!output.update_is_empty());
    assert_eq!(backends(&world), [("backend/default/new/80".to_owned(), String::new())]);
    // From now on the Service is known: an edit does not wait again.
    assert!(!world.put(route(3, &["old", "new"])).update_is_empty());
}

#[test]
fn a_wait_ends_with_a_slice_that_came_and_went_between_two_translations() {
    let mut world = serving();
    world.put(service("new"));
    let output = world.put(route(2, &["new"]));
    assert_eq!(output.waits, [key(Kind::Service, "default", "new")]);
    // The slice is first of this Service, then of another; only its last form is seen.
    let mut moved = slice("new");
    world.objects.upsert(crate::world::read(moved.clone()));
    moved["metadata"]["labels"]["kubernetes.io/service-name"] = json!("elsewhere");
    let output = world.put(moved);
    assert!(!output.update_is_empty());
    assert_eq!(world.translator.waits().count(), 0);
    assert_eq!(backends(&world), [("backend/default/new/80".to_owned(), String::new())]);
}

#[test]
fn an_absence_answers_only_references_that_are_older() {
    let mut world = serving();
    let new = key(Kind::Service, "default", "new");
    world.put(route(2, &["new"]));
    let mark = world.objects.mark();
    // The read begins; meanwhile the route is edited, in a world where the Service may exist by now.
    world.put(route(3, &["new", "old"]));
    world.objects.confirm_absent_since(new.clone(), mark);
    let output = world.step(std::slice::from_ref(&new));
    assert!(output.update_is_empty() && output.statuses.is_empty());
    assert_eq!(output.wants, std::slice::from_ref(&new), "asked for again");
    world.objects.confirm_absent_since(new.clone(), world.objects.mark());
    assert!(!world.step(&[new]).update_is_empty());
}

#[test]
fn a_status_written_by_somebody_does_not_open_the_question_again() {
    let mut world = serving();
    world.put(route(2, &["new"]));
    world.settle();
    assert_eq!(world.translator.waits().count(), 0);
    let mut echo = route(2, &["new"]);
    echo["metadata"]["resourceVersion"] = json!("77");
    echo["status"] = json!({"parents": [{"controllerName": "weir.dev/gateway-controller"}]});
    let output = world.put(echo);
    assert!(output.update_is_empty() && output.statuses.is_empty() && output.wants.is_empty());
}

#[test]
fn a_service_that_was_deleted_is_missing_at_once() {
    let mut world = serving();
    let output = world.remove(&key(Kind::Service, "default", "old"));
    assert!(output.wants.is_empty() && output.waits.is_empty());
    assert_eq!(output.update.removals, ["backend/default/old/80", "endpoints/default/old/80"]);
    assert_eq!(backends(&world), [("backend/default/old/80".to_owned(), "BackendNotFound".to_owned())]);
}

#[test]
fn a_grant_may_come_after_the_route_that_needs_it() {
    let mut world = serving();
    let mut cross = route(2, &[]);
    cross["spec"]["rules"] = json!([{"backendRefs": [{"namespace": "other", "name": "s", "port": 80}]}]);
    let output = world.put(cross);
    assert_eq!(output.wants, [ObjectKey::grants_of("other")]);
    assert!(output.update_is_empty() && output.statuses.is_empty());
    let output = world.put(json!({"kind": "ReferenceGrant", "metadata": {"namespace": "other", "name": "g"},
        "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "default"}],
                 "to": [{"group": "", "kind": "Service"}]}}));
    assert_eq!(output.wants, [key(Kind::Service, "other", "s")], "permitted; now the Service matters");
    world.settle();
    assert_eq!(backends(&world), [("backend/other/s/80".to_owned(), "BackendNotFound".to_owned())]);
    // A permission that is taken back counts at once, without a question.
    let output = world.remove(&key(Kind::ReferenceGrant, "other", "g"));
    assert!(output.wants.is_empty());
    assert_eq!(backends(&world), [("backend/other/s/80".to_owned(), "RefNotPermitted".to_owned())]);
}

#[test]
fn a_gateway_that_is_unknown_is_asked_for_and_named_once_it_is_known_not_to_be_there() {
    let mut world = World::new();
    let output = world.put(route(1, &["s"]));
    assert_eq!(output.wants, [key(Kind::Gateway, "default", "gw")]);
    assert!(output.diagnostics.is_empty());
    let gateway = key(Kind::Gateway, "default", "gw");
    world.objects.confirm_absent(gateway.clone());
    let output = world.step(&[gateway]);
    assert_eq!(output.diagnostics.len(), 1);
    assert_eq!(output.diagnostics[0].reason, "GatewayNotFound");
    assert!(output.statuses.is_empty(), "a parent that is not ours gets no status from us");
}

#[test]
fn a_gateway_waits_for_its_class_and_a_class_for_its_parameters() {
    let mut world = World::new();
    let output = world.put(json!({"kind": "Gateway", "metadata": {"namespace": "kong", "name": "kong"},
        "spec": {"gatewayClassName": "c", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}));
    assert_eq!(output.wants, [key(Kind::GatewayClass, "", "c")]);
    let output = world.put(json!({"kind": "GatewayClass", "metadata": {"name": "c"},
        "spec": {"controllerName": "konghq.com/gateway-operator", "parametersRef": {
            "group": "gateway-operator.konghq.com", "kind": "GatewayConfiguration", "namespace": "kong", "name": "p"}}}));
    assert_eq!(output.wants, [key(Kind::GatewayConfiguration, "kong", "p")]);
    assert!(output.statuses.is_empty() && output.gateways.is_empty());
    let output = world
        .put(json!({"kind": "GatewayConfiguration", "metadata": {"namespace": "kong", "name": "p"},
        "spec": {}}));
    assert_eq!(output.gateways.len(), 1);
    let stated: Vec<String> = output.statuses.iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!(stated, ["GatewayClass c", "Gateway kong/kong", "GatewayConfiguration kong/p"]);
}

#[test]
fn stale_entries_of_ours_are_taken_away_from_a_route_that_left() {
    let mut world = World::new();
    let mut left = route(1, &[]);
    left["spec"]["parentRefs"] = json!([]);
    left["status"] =
        json!({"parents": [{"controllerName": "weir.dev/gateway-controller"}, {"controllerName": "x/y"}]});
    let output = world.put(left);
    assert_eq!(output.statuses, [(route_key(), Status::Route(Vec::new()))]);
    let mut foreign = route(1, &[]);
    foreign["metadata"]["name"] = json!("foreign");
    foreign["spec"]["parentRefs"] = json!([]);
    foreign["status"] = json!({"parents": [{"controllerName": "x/y"}]});
    assert!(world.put(foreign).statuses.is_empty());
}

#[test]
fn a_gateway_is_programmed_only_when_its_bind_was_reported() {
    let gateway = key(Kind::Gateway, "default", "gw");
    let mut world = World::new();
    world.put(json!({"kind": "GatewayClass", "metadata": {"name": "weir"},
        "spec": {"controllerName": "weir.dev/gateway-controller"}}));
    let object = |generation: i64, port: u16| {
        json!({"kind": "Gateway", "metadata": {"namespace": "default", "name": "gw", "generation": generation},
            "spec": {"gatewayClassName": "weir", "listeners": [{"name": "http", "port": port, "protocol": "HTTP"}]}})
    };
    let programmed = |world: &World| match world.status(&gateway) {
        Some(Status::Gateway(status)) => {
            let of = |conditions: &[Condition]| {
                let condition = conditions.iter().find(|c| c.type_ == "Programmed").expect("the condition");
                (condition.is_true(), condition.reason.clone(), condition.observed_generation)
            };
            (of(&status.conditions), of(&status.listeners[0].conditions))
        }
        other => panic!("{other:?}"),
    };
    let said = |holds: bool, reason: &str, generation: i64| (holds, reason.to_owned(), generation);

    assert_eq!(world.put(object(1, 80)).gateways.len(), 1);
    assert_eq!(programmed(&world), (said(false, "AddressNotAssigned", 1), said(false, "Pending", 1)));

    let addresses = Addresses { bind: vec!["127.0.0.5".to_owned()], ..Addresses::default() };
    world.objects.set_addresses(&gateway, addresses);
    let output = world.step(std::slice::from_ref(&gateway));
    assert_eq!(output.update.upserts.len(), 1);
    assert_eq!(programmed(&world), (said(false, "Pending", 1), said(false, "Pending", 1)));

    let bound = |port: u32| BindReport {
        address: "127.0.0.5".to_owned(),
        port,
        bound_port: port,
        error: String::new(),
        udp: false,
    };
    world.objects.set_binds(&[bound(80)]);
    let output = world.step(&[]);
    assert!(output.update_is_empty() && output.statuses.len() == 1, "a report needs nothing named");
    assert_eq!(programmed(&world), (said(true, "Programmed", 1), said(true, "Programmed", 1)));

    // Another port: not bound yet, whatever the old one was.
    world.put(object(2, 81));
    assert_eq!(programmed(&world), (said(false, "Pending", 2), said(false, "Pending", 2)));
    world.objects.set_binds(&[bound(81)]);
    world.step(&[]);
    assert_eq!(programmed(&world), (said(true, "Programmed", 2), said(true, "Programmed", 2)));

    let output = world.remove(&gateway);
    assert_eq!(output.released, [gateway]);
    assert_eq!(output.update.removals, ["listener/default/gw/http"]);
}

#[test]
fn a_gateway_that_runs_goes_on_when_its_class_loses_its_parameters() {
    let configuration = key(Kind::GatewayConfiguration, "kong", "p");
    let mut world = World::new();
    world.put(
        json!({"kind": "GatewayConfiguration", "metadata": {"namespace": "kong", "name": "p"}, "spec": {}}),
    );
    world.put(json!({"kind": "GatewayClass", "metadata": {"name": "c"},
        "spec": {"controllerName": "konghq.com/gateway-operator", "parametersRef": {
            "group": "gateway-operator.konghq.com", "kind": "GatewayConfiguration", "namespace": "kong", "name": "p"}}}));
    let gateway = |name: &str| {
        json!({"kind": "Gateway", "metadata": {"namespace": "kong", "name": name},
            "spec": {"gatewayClassName": "c", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}})
    };
    world.put(gateway("runs"));
    world.settle();
    let output = world.remove(&configuration);
    assert!(output.update_is_empty() && output.released.is_empty());
    let stated: Vec<String> = output.statuses.iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!(stated, ["GatewayClass c"], "the class says what is wrong; the Gateway has nothing wrong");
    let output = world.put(gateway("new"));
    assert!(
        output.update_is_empty() && output.gateways.is_empty(),
        "nothing new is provided for such a class"
    );
}

#[test]
fn a_gateway_that_runs_goes_on_when_its_class_goes() {
    let class = key(Kind::GatewayClass, "", "c");
    let there = json!({"kind": "GatewayClass", "metadata": {"name": "c"},
        "spec": {"controllerName": "weir.dev/gateway-controller"}});
    let gateway = |name: &str, port: u32| {
        json!({"kind": "Gateway", "metadata": {"namespace": "kong", "name": name},
            "spec": {"gatewayClassName": "c", "listeners": [{"name": "http", "port": port, "protocol": "HTTP"}]}})
    };
    let port =
        |world: &World| match world.resource("listener/kong/runs/http").and_then(|one| one.body.as_ref()) {
            Some(Body::Listener(listener)) => listener.port,
            other => panic!("{other:?}"),
        };
    let mut world = World::new();
    world.put(there.clone());
    world.put(gateway("runs", 80));
    world.settle();
    let output = world.remove(&class);
    assert!(output.update_is_empty() && output.released.is_empty() && output.gateways.is_empty());
    let [said] = &*output.diagnostics else { panic!("{:?}", output.diagnostics) };
    assert_eq!((said.reason, said.object.name.as_str()), ("GatewayClassNotFound", "runs"));
    // It is still a Gateway of ours: what is changed is served.
    world.put(gateway("runs", 81));
    world.settle();
    assert_eq!(port(&world), 81);
    let output = world.put(gateway("new", 80));
    assert!(
        output.update_is_empty() && output.gateways.is_empty(),
        "nothing new is provided for such a class"
    );
    world.objects.forget(|_| true);
    world.put(gateway("runs", 82));
    world.settle();
    assert_eq!(port(&world), 82, "as long as a Gateway names it");
    // Another's class of that name is another's.
    let mut theirs = there;
    theirs["spec"]["controllerName"] = json!("example.com/another");
    let output = world.put(theirs);
    assert_eq!(output.update.removals, ["listener/kong/runs/http"]);
    assert_eq!(output.released, [key(Kind::Gateway, "kong", "runs")]);
}

#[test]
fn a_class_that_went_is_forgotten_with_the_last_gateway_that_names_it() {
    let mut world = World::new();
    world.put(json!({"kind": "GatewayClass", "metadata": {"name": "c"},
        "spec": {"controllerName": "weir.dev/gateway-controller"}}));
    world.put(json!({"kind": "Gateway", "metadata": {"namespace": "kong", "name": "g"},
        "spec": {"gatewayClassName": "c", "listeners": []}}));
    world.remove(&key(Kind::GatewayClass, "", "c"));
    assert!(world.objects.template("c").is_some());
    world.remove(&key(Kind::Gateway, "kong", "g"));
    world.objects.forget(|_| true);
    assert!(world.objects.template("c").is_none());
}

#[test]
fn a_gateway_waits_for_a_certificate_that_nobody_has_looked_for() {
    let mut world = serving();
    let before = world.status(&key(Kind::Gateway, "default", "gw")).cloned();
    let output = world.put(json!({"kind": "Gateway", "metadata": {"namespace": "default", "name": "gw", "generation": 2},
        "spec": {"gatewayClassName": "weir", "listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP"},
            {"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "c"}]}}]}}));
    let secret = key(Kind::Secret, "default", "c");
    assert_eq!((&output.wants, &output.waits), (&vec![secret.clone()], &vec![secret.clone()]));
    assert!(output.update_is_empty() && output.statuses.is_empty(), "the last good form goes on");
    assert_eq!(world.status(&key(Kind::Gateway, "default", "gw")), before.as_ref());
    world.objects.confirm_absent(secret.clone());
    let output = world.step(&[secret]);
    let Some((_, Status::Gateway(status))) = output.statuses.first() else { panic!("a status") };
    let resolved = &status.listeners[1].conditions[2];
    assert_eq!((resolved.reason.as_str(), resolved.observed_generation), ("InvalidCertificateRef", 2));
}

/// What a route says that an earlier life of ours accepted.
fn accepted_before(name: &str) -> Value {
    let mut route = route(1, &["old"]);
    route["metadata"]["name"] = json!(name);
    route["status"] = json!({"parents": [{"parentRef": {"name": "gw"},
        "controllerName": "weir.dev/gateway-controller", "conditions": []}]});
    route
}

#[test]
fn after_a_restart_entries_of_living_routes_stay_until_their_gateway_is_judged() {
    let mut world = World::new();
    let mut policy = json!({"kind": "BackendTLSPolicy", "metadata": {"namespace": "default", "name": "p"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "old"}],
            "validation": {"hostname": "a.example.com", "wellKnownCACertificates": "System"}}});
    policy["status"] = json!({"ancestors": [{"ancestorRef": {"name": "gw"},
        "controllerName": "weir.dev/gateway-controller", "conditions": []}]});
    for object in [
        json!({"kind": "GatewayClass", "metadata": {"name": "weir"},
            "spec": {"controllerName": "weir.dev/gateway-controller"}}),
        json!({"kind": "Gateway", "metadata": {"namespace": "default", "name": "gw", "generation": 1},
            "spec": {"gatewayClassName": "weir", "listeners": [
                {"name": "http", "port": 80, "protocol": "HTTP"},
                {"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "c"}]}}]}}),
        service("old"),
        slice("old"),
        accepted_before("r"),
        policy,
    ] {
        world.objects.upsert(crate::world::read(object));
    }
    let output = world.step(&[]);
    let of = |kind: Kind| move |(key, _): &&(ObjectKey, Status)| key.kind == kind;
    assert!(world.translator.waits().any(|key| key.kind == Kind::Secret), "the Gateway is held");
    assert_eq!(output.statuses.iter().find(of(Kind::HttpRoute)), None);
    assert_eq!(output.statuses.iter().find(of(Kind::BackendTlsPolicy)), None);
    // Meanwhile a route that is really nobody's loses nothing by waiting too, and gets its answer then.
    let mut gone = accepted_before("gone");
    gone["spec"]["parentRefs"] = json!([]);
    assert_eq!(world.put(gone).statuses, []);

    let secret = key(Kind::Secret, "default", "c");
    world.objects.confirm_absent(secret.clone());
    let output = world.step(&[secret]);
    let Some((_, Status::Route(parents))) = output.statuses.iter().find(|(key, _)| *key == route_key())
    else {
        panic!("{output:?}");
    };
    assert_eq!(parents.len(), 1);
    let Some((_, Status::Policy(ancestors))) = output.statuses.iter().find(of(Kind::BackendTlsPolicy)) else {
        panic!("{output:?}");
    };
    assert_eq!(ancestors.len(), 1);
    let gone = key(Kind::HttpRoute, "default", "gone");
    assert!(output.statuses.contains(&(gone, Status::Route(Vec::new()))));
}

/// A Gateway of ours with a set, and a class that is somebody else's.
fn with_set() -> World {
    let mut world = World::new();
    world.put(json!({"kind": "GatewayClass", "metadata": {"name": "weir"},
        "spec": {"controllerName": "weir.dev/gateway-controller"}}));
    world.put(json!({"kind": "GatewayClass", "metadata": {"name": "theirs"},
        "spec": {"controllerName": "example.com/other"}}));
    for (name, class) in [("gw", "weir"), ("other", "theirs")] {
        world.put(
            json!({"kind": "Gateway", "metadata": {"namespace": "default", "name": name, "generation": 1},
            "spec": {"gatewayClassName": class, "allowedListeners": {"namespaces": {"from": "All"}},
                "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}),
        );
    }
    world.put(set(1, "gw"));
    world.settle();
    world
}

fn set(generation: i64, parent: &str) -> Value {
    json!({"kind": "ListenerSet", "metadata": {"namespace": "default", "name": "set", "generation": generation},
        "spec": {"parentRef": {"name": parent}, "listeners": [{"name": "l", "port": 81, "protocol": "HTTP"}]}})
}

/// Accepted and Programmed of the set, as they were last told.
fn of_set(world: &World) -> Vec<(bool, String, i64)> {
    match world.statuses.get(&key(Kind::ListenerSet, "default", "set")) {
        Some(Status::ListenerSet(status)) => {
            let said = |c: &Condition| (c.is_true(), c.reason.clone(), c.observed_generation);
            status.conditions.iter().map(said).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_listener_set_that_left_our_gateway_is_accepted_no_more() {
    let refused = |generation| vec![(false, "ParentNotAccepted".to_owned(), generation); 2];
    let mut world = with_set();
    assert_eq!(of_set(&world)[0], (true, "Accepted".to_owned(), 1));
    world.put(set(2, "nowhere"));
    world.settle();
    assert_eq!(of_set(&world), refused(2));
    world.put(set(3, "gw"));
    world.settle();
    assert_eq!(of_set(&world)[0], (true, "Accepted".to_owned(), 3));
    world.remove(&key(Kind::Gateway, "default", "gw"));
    world.settle();
    assert_eq!(of_set(&world), refused(3));
    world.put(set(4, "nowhere"));
    world.settle();
    assert_eq!(of_set(&world), refused(4), "as long as nobody has it");
}

#[test]
fn a_listener_set_that_went_to_another_controller_is_left_to_it() {
    let mut world = with_set();
    world.put(set(2, "other"));
    world.settle();
    assert_eq!(of_set(&world)[0], (true, "Accepted".to_owned(), 1), "not a word of ours");
    assert_eq!(world.status(&key(Kind::ListenerSet, "default", "set")), None);
}

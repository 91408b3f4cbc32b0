//! What a data plane is made of, with goldens in `tests/golden/plane`.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use weir_api::gateway_api::{AddressType, ProtocolType};
use weir_api::kong::GatewayConfiguration;
use weir_core::RequestedAddress;

use super::*;
use crate::provision::sandbox::tests::view;

fn cluster() -> Cluster {
    Cluster {
        namespace: "weir-system".to_owned(),
        release: "weir".to_owned(),
        image: "weir:1".to_owned(),
        pull_policy: None,
        pull_secrets: Vec::new(),
        log: None,
        controller: "weir-controller.weir-system.svc:9902".to_owned(),
        audience: "weir.dev/controller".to_owned(),
        trust: watch::channel(Arc::from("")).1,
        take_over: false,
    }
}

fn made(view: &GatewayView) -> (Vec<(Id, Value)>, Vec<Notice>) {
    of_gateway(view, &cluster(), "gateway.networking.k8s.io/v1")
}

fn piece(made: &[(Id, Value)], piece: Piece) -> &Value {
    made.iter().find(|(id, _)| id.piece == piece).map(|(_, object)| object).unwrap()
}

fn with(configuration: Value) -> GatewayView {
    let mut configuration = GatewayConfiguration { spec: configuration, ..GatewayConfiguration::default() };
    configuration.metadata.namespace = "default".to_owned();
    configuration.metadata.name = "shape".to_owned();
    GatewayView {
        configuration: Some(Arc::new(configuration)),
        listeners: vec![("http".to_owned(), 80, ProtocolType::Http)],
        ports: vec![(80, ProtocolType::Http)],
        ..view("kong")
    }
}

/// `WEIR_GOLDEN=write` writes what comes out.
fn assert_golden(name: &str, view: &GatewayView) {
    let (objects, notices) = made(view);
    let objects: Vec<&Value> = objects.iter().map(|(_, object)| object).collect();
    let notices: Vec<String> =
        notices.iter().map(|notice| format!("{}: {}", notice.reason, notice.message)).collect();
    let actual = format!("{:#}\n", json!({"objects": objects, "notices": notices}));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plane").join(format!("{name}.json"));
    if std::env::var("WEIR_GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(&path, &actual).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(actual, golden, "{name} differs; WEIR_GOLDEN=write writes it anew");
}

#[test]
fn a_plain_gateway_gets_what_a_data_plane_needs() {
    let ports = vec![(80, ProtocolType::Http), (53, ProtocolType::Udp), (443, ProtocolType::Https)];
    let labels = BTreeMap::from([
        ("team".to_owned(), "a".to_owned()),
        ("weir.dev/component".to_owned(), "not theirs to say".to_owned()),
    ]);
    let annotations = BTreeMap::from([("note".to_owned(), "b".to_owned())]);
    let drain = Duration::from_millis(12_500);
    assert_golden("plain", &GatewayView { ports, labels, annotations, drain, ..view("edge") });
}

#[test]
fn a_configuration_of_the_operators_is_obeyed() {
    let view = with(json!({
        "listenersOptions": [{"name": "http", "nodePort": 30_080}, {"name": "absent", "nodePort": 30_081}],
        "dataPlaneOptions": {
            "deployment": {
                "labels": {"team": "x"},
                "annotations": {"note": "y"},
                "scaling": {"horizontal": {"minReplicas": 2, "maxReplicas": 5}},
                "rollout": {"strategy": {"blueGreen": {}}},
                "podTemplateSpec": {
                    "metadata": {"creationTimestamp": null, "labels": {"who": "me", "weir.dev/component": "x"}},
                    "spec": {
                        "serviceAccountName": "theirs",
                        "nodeSelector": {"disk": "fast"},
                        "containers": [
                            {
                                "name": "proxy",
                                "image": "kong/kong-gateway:3.11",
                                "command": ["/docker-entrypoint.sh"],
                                "env": [{"name": "KONG_LOG_LEVEL", "value": "debug"}],
                                "readinessProbe": {
                                    "initialDelaySeconds": 1,
                                    "httpGet": {"path": "/status/ready", "port": 8100},
                                },
                                "resources": {"limits": {"memory": "512Mi"}},
                            },
                            {"name": "sidecar", "image": "example/sidecar:1"},
                        ],
                    },
                },
            },
            "network": {"services": {"ingress": {
                "name": "front",
                "type": "NodePort",
                "labels": {"a": "b"},
                "annotations": {"c": "d"},
                "externalTrafficPolicy": "Local",
                "internalTrafficPolicy": "Local",
                "trafficDistribution": "PreferClose",
            }}},
            "resources": {"podDisruptionBudget": {"spec": {"minAvailable": 1}}},
        },
    }));
    assert_golden("configured", &view);
    assert_eq!(service_id(&view), Id::new(Piece::Service, "default", "front"));
}

/// Node ports of the Service by port and transport, and what is told, for listeners on port 443 (a and b) and 53 (TCP and UDP).
fn node_ports(options: Value, service: &str) -> (BTreeMap<String, u64>, Vec<String>) {
    let spec = json!({
        "listenersOptions": options,
        "dataPlaneOptions": {"network": {"services": {"ingress": {"type": service}}}},
    });
    let listeners = [
        ("a", 443, ProtocolType::Https),
        ("b", 443, ProtocolType::Tls),
        ("tcp", 53, ProtocolType::Tcp),
        ("udp", 53, ProtocolType::Udp),
    ];
    let ports = listeners.iter().map(|(_, port, protocol)| (*port, protocol.clone())).collect();
    let listeners = listeners.map(|(name, port, protocol)| (name.to_owned(), port, protocol)).to_vec();
    let (objects, notices) = made(&GatewayView { listeners, ports, ..with(spec) });
    let ports = piece(&objects, Piece::Service)["spec"]["ports"].as_array().unwrap().iter();
    let given = ports.filter_map(|port| {
        let name = format!("{}/{}", port["port"], port["protocol"].as_str()?);
        Some((name, port["nodePort"].as_u64()?))
    });
    (given.collect(), notices.into_iter().map(|notice| notice.message).collect())
}

#[test]
fn a_node_port_may_be_given_by_any_listener_of_the_port_and_transport() {
    let given = |pairs: &[(&str, u64)]| -> BTreeMap<String, u64> {
        pairs.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect()
    };
    let option = |name: &str, port: u64| json!({"name": name, "nodePort": port});
    let of_second = json!([option("b", 30_443), option("udp", 30_053)]);
    let expected = given(&[("443/TCP", 30_443), ("53/UDP", 30_053)]);
    assert_eq!(node_ports(of_second, "NodePort"), (expected, Vec::new()));
    // Of both listeners of a port the same, of both transports each its own.
    let of_all =
        json!([option("a", 30_443), option("b", 30_443), option("udp", 30_053), option("tcp", 30_053)]);
    let expected = given(&[("443/TCP", 30_443), ("53/TCP", 30_053), ("53/UDP", 30_053)]);
    assert_eq!(node_ports(of_all, "LoadBalancer"), (expected, Vec::new()));

    let wrong = json!([
        option("a", 30_443), option("b", 30_444), option("tcp", 30_443), option("none", 1), {"name": "udp"},
    ]);
    let (given_now, told) = node_ports(wrong, "NodePort");
    assert_eq!(given_now, given(&[("443/TCP", 30_443)]));
    let field = |index: usize, rest: &str| {
        format!("GatewayConfiguration default/shape: spec.listenersOptions[{index}].{rest}")
    };
    assert_eq!(
        told,
        [
            field(1, "nodePort has no effect: TCP port 443 has node port 30443 already"),
            field(2, "nodePort has no effect: 30443 is the node port of TCP port 443 already"),
            field(3, "name has no effect: Gateway default/kong has no listener \"none\" of its own"),
        ]
    );
    let (given_now, told) = node_ports(json!([option("a", 30_443)]), "ClusterIP");
    assert!(given_now.is_empty() && told[0].contains("type ClusterIP has no node ports"), "{told:?}");
}

#[test]
fn pods_that_are_ended_before_they_may_end_are_told() {
    let grace = |seconds: u64| {
        let template = json!({"spec": {"terminationGracePeriodSeconds": seconds}});
        let view = with(json!({"dataPlaneOptions": {"deployment": {"podTemplateSpec": template}}}));
        made(&GatewayView { drain: Duration::from_secs(35), ..view }).1
    };
    assert_eq!(grace(35), []);
    let told = grace(34);
    assert_eq!(told[0].reason, "GracePeriodTooShort");
    assert!(
        told[0]
            .message
            .contains("come to 35 s, and pods of Deployment default/weir-kong are ended after 34 s"),
        "{told:?}"
    );
}

#[test]
fn replicas_are_said_by_one_alone() {
    let deployment = |configuration| {
        let (objects, _) = made(&with(configuration));
        piece(&objects, Piece::Deployment)["spec"].get("replicas").cloned()
    };
    let options = |deployment: Value| json!({"dataPlaneOptions": {"deployment": deployment}});
    assert_eq!(deployment(json!({})), None, "nobody said it: whoever scales it may");
    assert_eq!(deployment(options(json!({"replicas": 3}))), Some(json!(3)));
    let scaled = json!({"replicas": 3, "scaling": {"horizontal": {"maxReplicas": 5}}});
    assert_eq!(deployment(options(scaled)), None, "an autoscaler says it");
}

#[test]
fn a_pod_template_that_cannot_be_merged_is_left_out_and_told() {
    let template = json!({"spec": {"containers": [{"$patch": "sideways", "name": "proxy"}]}});
    let view = with(json!({"dataPlaneOptions": {"deployment": {"podTemplateSpec": template}}}));
    let (objects, notices) = made(&view);
    assert_eq!(notices[0].reason, "InvalidPodTemplate", "{notices:?}");
    let pod = &piece(&objects, Piece::Deployment)["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["image"], "weir:1");
}

#[test]
fn a_pod_template_of_any_shape_harms_nobody() {
    let odd = [json!("x"), json!(["a"]), json!(7), json!(true)];
    for field in ["/metadata", "/metadata/labels", "/spec"] {
        for value in &odd {
            let mut template = json!({"metadata": {"labels": {}}, "spec": {}});
            *template.pointer_mut(field).unwrap() = value.clone();
            let view = with(json!({"dataPlaneOptions": {"deployment": {"podTemplateSpec": template}}}));
            let (objects, notices) = made(&view);
            assert_eq!(notices[0].reason, "InvalidPodTemplate", "{template}: {notices:?}");
            let pod = &piece(&objects, Piece::Deployment)["spec"]["template"];
            assert_eq!(pod["spec"]["serviceAccountName"], "weir-kong", "{template}");
        }
    }
    // What is odd further inside is for the API to refuse.
    for template in [
        json!({"spec": {"containers": ["x", 7, null]}}),
        json!({"spec": {"containers": "x", "initContainers": {"name": "proxy"}}}),
        json!({"spec": {"containers": [{"name": "proxy", "image": 7, "readinessProbe": []}]}}),
        json!({"metadata": null, "spec": null}),
        json!({"$patch": "replace"}),
        json!({"$patch": "delete"}),
    ] {
        made(&with(json!({"dataPlaneOptions": {"deployment": {"podTemplateSpec": template}}})));
    }
    made(&with(json!({"dataPlaneOptions": ["x"], "listenersOptions": [7, {"name": []}]})));
    made(&with(json!({"dataPlaneOptions": {"deployment": {"scaling": {"horizontal": {"metrics": 7}}}}})));
}

#[test]
fn no_two_gateways_select_the_same_pods() {
    let long = ["a", "b"].map(|end| format!("{}{end}", "g.".repeat(60)));
    let names = ["shop.example", "shop-example", &long[0], &long[1]];
    let selectors: BTreeSet<String> = names
        .iter()
        .map(|name| {
            let (objects, _) = made(&view(name));
            let selector = piece(&objects, Piece::Service)["spec"]["selector"].clone();
            assert_eq!(piece(&objects, Piece::Deployment)["spec"]["selector"]["matchLabels"], selector);
            selector.to_string()
        })
        .collect();
    assert_eq!(selectors.len(), names.len(), "{selectors:?}");
    assert!(selectors.iter().any(|selector| selector.contains("\"shop.example\"")), "as it is called");
}

#[test]
fn a_pod_template_does_not_make_its_pods_those_of_the_shared_data_plane() {
    let labels = json!({"weir.dev/provisioned": "shared", "weir.dev/instance": "other", "mine": "x"});
    let template = json!({"metadata": {"labels": labels}});
    let (objects, _) =
        made(&with(json!({"dataPlaneOptions": {"deployment": {"podTemplateSpec": template}}})));
    let labels = &piece(&objects, Piece::Deployment)["spec"]["template"]["metadata"]["labels"];
    assert_eq!(
        (&labels["weir.dev/provisioned"], &labels["weir.dev/instance"], &labels["mine"]),
        (&json!("gateway"), &json!("weir-system.weir"), &json!("x"))
    );
}

#[test]
fn the_pod_template_does_not_depend_on_listeners() {
    let template = |ports: Vec<(u16, ProtocolType)>| {
        let (objects, _) = made(&GatewayView { ports, ..view("g") });
        piece(&objects, Piece::Deployment).clone()
    };
    let more = vec![(80, ProtocolType::Http), (9_000, ProtocolType::Tcp), (53, ProtocolType::Udp)];
    assert_eq!(template(Vec::new()), template(more));
}

#[test]
fn an_address_that_is_asked_for_is_asked_of_the_load_balancer() {
    let request = RequestedAddress { type_: AddressType::IpAddress, value: Some("192.0.2.7".to_owned()) };
    let (objects, _) = made(&GatewayView { requested: vec![request], ..view("g") });
    assert_eq!(piece(&objects, Piece::Service)["spec"]["loadBalancerIP"], "192.0.2.7");
}

#[test]
fn objects_of_gateways_with_long_names_have_names_that_the_api_takes() {
    let long = "g".repeat(120);
    let (objects, _) = made(&view(&long));
    for (id, object) in objects {
        assert!(id.name.len() <= 63, "{id}");
        let labels = object["metadata"]["labels"].as_object().unwrap();
        assert!(labels.values().all(|value| value.as_str().unwrap().len() <= 63), "{labels:?}");
    }
}

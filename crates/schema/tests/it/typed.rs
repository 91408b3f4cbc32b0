//! The types of `weir-api` against the schemas that they are made from: what an object leaves out is read as the API
//! would have filled it in, at every place of every version of every kind.

use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use weir_api::gateway_api as api;
use weir_api::read;
use weir_schema::Structural;
use weir_schema::crds::{Channel, builtin};

/// An object as its type has it, as text; `None` for a kind without a type.
fn typed(kind: &str, object: Value) -> Option<String> {
    fn of<T: DeserializeOwned + Debug>(object: Value) -> String {
        format!("{:#?}", read::<T>(object).unwrap())
    }
    Some(match kind {
        "GatewayClass" => of::<api::GatewayClass>(object),
        "Gateway" => of::<api::Gateway>(object),
        "ListenerSet" => of::<api::ListenerSet>(object),
        "HTTPRoute" => of::<api::HttpRoute>(object),
        "GRPCRoute" => of::<api::GrpcRoute>(object),
        "TLSRoute" => of::<api::TlsRoute>(object),
        "TCPRoute" => of::<api::TcpRoute>(object),
        "UDPRoute" => of::<api::UdpRoute>(object),
        "ReferenceGrant" => of::<api::ReferenceGrant>(object),
        "BackendTLSPolicy" => of::<api::BackendTlsPolicy>(object),
        "XBackend" => of::<api::XBackend>(object),
        "XBackendTrafficPolicy" => of::<api::XBackendTrafficPolicy>(object),
        "XMesh" => of::<api::XMesh>(object),
        _ => return None,
    })
}

/// Objects that go down to one place each and have nothing beside it.
fn skeletons(schema: &Value) -> Vec<Value> {
    match schema["type"].as_str() {
        Some("object") => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            let below = fields.flat_map(|(name, inner)| {
                skeletons(inner).into_iter().map(move |inner| json!({name.as_str(): inner}))
            });
            std::iter::once(json!({})).chain(below).collect()
        }
        Some("array") => {
            let items = skeletons(&schema["items"]).into_iter().map(|item| json!([item]));
            std::iter::once(json!([])).chain(items).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn what_is_left_out_reads_as_the_schema_fills_it_in() {
    let mut places = 0;
    for channel in [Channel::Standard, Channel::Experimental] {
        for (file, crd) in builtin(channel).filter(|(file, _)| file.starts_with("gateway.networking")) {
            let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
            for version in crd["spec"]["versions"].as_array().unwrap() {
                let schema = &version["schema"]["openAPIV3Schema"];
                let structural = Structural::compile(schema).unwrap();
                for spec in skeletons(&schema["properties"]["spec"]) {
                    let sparse = json!({"metadata": {"name": "x"}, "spec": spec});
                    let mut full = sparse.clone();
                    structural.default(&mut full);
                    let read = typed(kind, sparse.clone()).unwrap_or_else(|| panic!("{file} has no type"));
                    assert_eq!(Some(read), typed(kind, full), "{kind}/{}: {sparse}", version["name"]);
                    places += 1;
                }
            }
        }
    }
    assert!(places > 700, "{places}");
}
